//! Arm MPS2 FPGA boards as QEMU has them: AN386 (Cortex-M4F), AN500 (Cortex-M7) and AN505 (Cortex-M33).
//!
//! CMSDK UART0 and timers (Arm DDI 0479). The image slots lie in PSRAM, which QEMU can back with a
//! file. What differs between them is in `fpga.rs`. A firmware for tests has another line: `line.rs`.
#![allow(unsafe_code, reason = "registers and the memory of the slots lie at fixed addresses")]

use super::interrupts::{device, vectors};
use super::wraps::Wraps;
use super::{Acknowledge, Board, ControlTimer, Parts, Watchdog};
use core::ptr::{read_volatile, write_volatile};
use tendon_boot::Layout;
use tendon_runtime::node::{BoardInfo, Clock};
use tendon_runtime::response::BoardTiming;
use tendon_runtime::store::Part;

mod fpga;
#[cfg(feature = "inject")]
mod line;
#[cfg(not(feature = "inject"))]
mod uart;

use fpga::FPGA;

const TIMER0: usize = FPGA.timer0;
const TIMER1: usize = FPGA.timer1;
const WATCHDOG: usize = FPGA.watchdog;
const TICKS_PER_US: u32 = FPGA.ticks_per_us;

#[cfg(feature = "inject")]
use line as link;
#[cfg(not(feature = "inject"))]
use uart as link;

/// Registers of a CMSDK timer, from its base.
mod timer {
    pub(super) const CTRL: usize = 0x0;
    pub(super) const VALUE: usize = 0x4;
    pub(super) const RELOAD: usize = 0x8;
    pub(super) const INT: usize = 0xc;
    pub(super) const CTRL_ENABLE_AND_INTERRUPT: u32 = 0b1001;
}

/// Registers of the CMSDK watchdog, from its base.
mod watchdog {
    pub(super) const LOAD: usize = 0x0;
    pub(super) const CTRL: usize = 0x8;
    pub(super) const CLEAR: usize = 0xc;
    pub(super) const LOCK: usize = 0xc00;
    pub(super) const CTRL_INTERRUPT_AND_RESET: u32 = 0b11;
    pub(super) const UNLOCK: u32 = 0x1acc_e551;
}

fn read(address: usize) -> u32 {
    // SAFETY: only called with the register addresses above, which the board has, word-aligned.
    unsafe { read_volatile(address as *const u32) }
}

fn write(address: usize, value: u32) {
    // SAFETY: as in `read`.
    unsafe { write_volatile(address as *mut u32, value) }
}

device! {
    LINK_RX = link::RX_IRQ,
    LINK_TX = FPGA.uart0_tx_irq,
    CONTROL_TIMER = FPGA.timer0_irq,
    CLOCK_WRAP = FPGA.timer1_irq;
    priority_bits = 3
}
vectors!(FPGA.irqs);

/// The board.
pub struct Mps2;

/// Timer 0.
pub struct Timer(());

/// Timer 1, counting down from `u32::MAX` at `TICKS_PER_US`; its wraps are counted by the `CLOCK_WRAP` task.
#[derive(Clone, Copy)]
pub struct BoardClock(());

static WRAPS: Wraps = Wraps::new();

impl Board for Mps2 {
    const INFO: BoardInfo = BoardInfo { name: FPGA.name, firmware: env!("CARGO_PKG_VERSION") };
    const TIMING: BoardTiming = BoardTiming::QEMU;
    const SYSTICK_HZ: u32 = TICKS_PER_US * 1_000_000;
    const BOOT_STAGE: usize = FPGA.boot;
    type Rx = link::Rx;
    type Tx = link::Tx;
    type Timer = Timer;
    type Clock = BoardClock;
    type Watchdog = BoardWatchdog;

    /// Asleep, QEMU's clock would follow the host's, or jump beyond a timer: awake it counts instructions alone. Many
    /// at once, which QEMU translates once.
    #[cfg(feature = "inject")]
    fn sleep() {
        // SAFETY: does nothing.
        unsafe { core::arch::asm!(".rept 250", "nop", ".endr", options(nomem, nostack, preserves_flags)) };
    }

    fn take() -> Parts<Self> {
        write(TIMER1 + timer::RELOAD, u32::MAX);
        write(TIMER1 + timer::VALUE, u32::MAX);
        write(TIMER1 + timer::CTRL, timer::CTRL_ENABLE_AND_INTERRUPT);
        let (rx, tx) = link::take(BoardClock(()));
        let slot = |index: u8| {
            let slot = Layout::QEMU.slot(Part::Policy, index);
            let start = (FPGA.psram + slot.start as usize) as *mut u8;
            // SAFETY: PSRAM has 16 MiB and memory.x does not name it; the two slots do not overlap; `take` runs
            // once: RTIC calls `init` once. The boot stage writes a slot only when it is told to, by the loader,
            // which then has the one reference to it.
            unsafe { core::slice::from_raw_parts_mut(start, slot.len as usize) }
        };
        Parts {
            rx,
            tx,
            timer: Timer(()),
            clock: BoardClock(()),
            watchdog: BoardWatchdog(()),
            slots: [slot(0), slot(1)],
        }
    }
}

impl ControlTimer for Timer {
    fn set_period_us(&mut self, period_us: u32) {
        let ticks = period_us.saturating_mul(TICKS_PER_US).max(TICKS_PER_US);
        write(TIMER0 + timer::RELOAD, ticks - 1);
        write(TIMER0 + timer::VALUE, ticks - 1);
        write(TIMER0 + timer::CTRL, timer::CTRL_ENABLE_AND_INTERRUPT);
    }

    fn elapsed_ns(&self) -> u32 {
        // It fires when it reaches 0, and counts from the reload value one count later: QEMU's processor gets here in
        // fewer instructions than that takes.
        let value = read(TIMER0 + timer::VALUE);
        let ticks = if value == 0 { 0 } else { read(TIMER0 + timer::RELOAD).wrapping_sub(value) };
        ticks.saturating_mul(1000 / TICKS_PER_US)
    }
}

/// The CMSDK watchdog: at its first timeout the NMI, at the second the reset.
pub struct BoardWatchdog(());

impl Watchdog for BoardWatchdog {
    fn start(&mut self, timeout_us: u32) {
        write(WATCHDOG + watchdog::LOCK, watchdog::UNLOCK);
        write(WATCHDOG + watchdog::LOAD, (timeout_us / 2).saturating_mul(TICKS_PER_US).max(1));
        write(WATCHDOG + watchdog::CTRL, watchdog::CTRL_INTERRUPT_AND_RESET);
        write(WATCHDOG + watchdog::LOCK, 0);
    }

    fn feed(&mut self) {
        write(WATCHDOG + watchdog::LOCK, watchdog::UNLOCK);
        write(WATCHDOG + watchdog::CLEAR, 1);
        write(WATCHDOG + watchdog::LOCK, 0);
    }
}

impl Acknowledge for Timer {
    fn acknowledge(&mut self) {
        write(TIMER0 + timer::INT, 1);
    }
}

impl BoardClock {
    /// The `CLOCK_WRAP` interrupt.
    pub fn wrapped(self) {
        write(TIMER1 + timer::INT, 1);
        WRAPS.count();
    }
}

impl BoardClock {
    /// Counts since boot.
    fn total(self) -> u64 {
        WRAPS.total(|| self.counts(), || read(TIMER1 + timer::INT) & 1 != 0)
    }
}

impl Clock for BoardClock {
    fn now_us(&self) -> u64 {
        self.total() / u64::from(TICKS_PER_US)
    }

    fn counts(&self) -> u32 {
        !read(TIMER1 + timer::VALUE)
    }

    fn now_ns(&self) -> u64 {
        self.total() * u64::from(1000 / TICKS_PER_US)
    }
}

/// The check that a campaign takes away: QEMU's loader puts its number there.
#[cfg(feature = "mutate")]
pub fn removed_check() -> u8 {
    read(0x003f_fff0) as u8
}

/// What must never be: a timer that feeds the watchdog, whether ticks complete or not. For the campaign that finds it.
#[cfg(feature = "mutate")]
pub fn feed_though_nothing_completed() {
    use tendon_wire::mutation::{Check, removed};
    if removed(Check::WatchdogFeed) {
        BoardWatchdog(()).feed();
    }
}
