//! What differs between the FPGA images: places, interrupt numbers, clock.

/// An FPGA image as QEMU has it.
#[cfg_attr(feature = "inject", allow(dead_code, reason = "line.rs takes the UART's place"))]
pub(super) struct Fpga {
    /// Name of the board.
    pub(super) name: &'static str,
    pub(super) uart0: usize,
    pub(super) timer0: usize,
    pub(super) timer1: usize,
    pub(super) watchdog: usize,
    /// The boot stage, in ZBT SSRAM1.
    pub(super) boot: usize,
    /// 16 MiB that QEMU can back with a file: the flash.
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
    watchdog: 0x4000_8000,
    boot: 0,
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

/// Cortex-M33 (Arm DAI 0505; timers of the IoT Kit, Arm ECM 0601256). All secure: the secure aliases, interrupts of the FPGA
/// behind the IoT Kit's 32.
const AN505: Fpga = Fpga {
    name: "qemu-an505",
    uart0: 0x5020_0000,
    timer0: 0x5000_0000,
    timer1: 0x5000_1000,
    watchdog: 0x5008_1000,
    boot: 0x1000_0000,
    psram: 0x8000_0000,
    ticks_per_us: 20,
    uart0_rx_irq: 32,
    uart0_tx_irq: 33,
    timer0_irq: 3,
    timer1_irq: 4,
    irqs: 124,
};

/// The one that is built.
pub(super) const FPGA: Fpga = if cfg!(feature = "qemu-an505") {
    AN505
} else if cfg!(feature = "qemu-an500") {
    AN500
} else {
    AN386
};
