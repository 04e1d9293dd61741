//! What differs between the FPGA images: places, interrupt numbers, clock.

/// An FPGA image as QEMU has it.
pub(super) struct Fpga {
    /// Name of the board.
    pub(super) name: &'static str,
    pub(super) uart0: usize,
    pub(super) timer0: usize,
    pub(super) timer1: usize,
    /// 16 MiB that memory.x does not name.
    pub(super) psram: usize,
    pub(super) ticks_per_us: u32,
    pub(super) uart0_rx_irq: u16,
    pub(super) uart0_tx_irq: u16,
    pub(super) timer0_irq: u16,
    pub(super) timer1_irq: u16,
    /// Interrupts of the NVIC.
    pub(super) irqs: usize,
}

/// Cortex-M4F (Arm DAI 0386).
const AN386: Fpga = Fpga {
    name: "qemu-an386",
    uart0: 0x4000_4000,
    timer0: 0x4000_0000,
    timer1: 0x4000_1000,
    psram: 0x2100_0000,
    ticks_per_us: 25,
    uart0_rx_irq: 0,
    uart0_tx_irq: 1,
    timer0_irq: 8,
    timer1_irq: 9,
    irqs: 32,
};

/// Cortex-M7 (Arm DAI 0500).
const AN500: Fpga = Fpga { name: "qemu-an500", psram: 0x6000_0000, ..AN386 };

/// The one that is built.
pub(super) const FPGA: Fpga = if cfg!(feature = "qemu-an500") { AN500 } else { AN386 };
