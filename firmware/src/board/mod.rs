//! What the firmware needs of a board. One module per board, chosen by a cargo feature.

use embedded_io::{Read, ReadReady, Write, WriteReady};
use tendon_runtime::node::{BoardInfo, Clock};
use tendon_runtime::response::BoardTiming;
use tendon_runtime::timing::ResetCause;

#[cfg_attr(
    feature = "pico2",
    allow(unused_imports, unused_macros, reason = "its vectors come from the peripheral crate")
)]
mod interrupts;
#[cfg(not(feature = "pico2"))]
mod wraps;

#[cfg(feature = "nucleo-h743zi")]
mod nucleo_h743zi;
#[cfg(feature = "nucleo-h743zi")]
pub use nucleo_h743zi::{NucleoH743zi as Selected, device};

#[cfg(feature = "pico2")]
mod pico2;
#[cfg(feature = "pico2")]
pub use pico2::{Pico2 as Selected, device};

#[cfg(any(feature = "qemu-an386", feature = "qemu-an500", feature = "qemu-an505"))]
mod mps2;
#[cfg(feature = "mutate")]
pub use mps2::{feed_though_nothing_completed, removed_check};
#[cfg(any(feature = "qemu-an386", feature = "qemu-an500", feature = "qemu-an505"))]
pub use mps2::{Mps2 as Selected, device};

/// A board: built once in `init`, then taken apart among the tasks.
///
/// Its `device` module names the interrupts `LINK_RX`, `LINK_TX`, `CONTROL_TIMER`, `CLOCK_WRAP` and
/// the dispatchers.
pub trait Board: Sized {
    /// Name and firmware version.
    const INFO: BoardInfo;
    /// What the response-time analysis needs to know.
    const TIMING: BoardTiming;
    /// Clock of SysTick (`CLKSOURCE` 1: the core's), Hz. It times the deadline.
    const SYSTICK_HZ: u32;
    /// Address of the boot stage, which begins the flash.
    const BOOT_STAGE: usize;
    /// Receiving half of the link; its interrupt is `LINK_RX`. Where the hardware has one interrupt for both halves,
    /// this half acknowledges the other's and pends `LINK_TX`.
    type Rx: Read + ReadReady + Acknowledge;
    /// Sending half; `LINK_TX` fires when it can take more.
    type Tx: Write + WriteReady + Acknowledge;
    /// Drives the control tick through `CONTROL_TIMER`.
    type Timer: ControlTimer + Acknowledge;
    /// Time since boot.
    type Clock: Clock + Copy + Send;
    /// Resets the core when ticks stop.
    type Watchdog: Watchdog;

    /// Sets up clocks and peripherals. Called once.
    fn take() -> Parts<Self>;

    /// Waits for an interrupt. Called with interrupts off, when there is nothing to do.
    fn sleep() {
        cortex_m::asm::wfi();
    }

    /// Why the core started, where hardware says it; else what the firmware left in memory decides. Called
    /// once, before `take`.
    fn reset_cause() -> Option<ResetCause> {
        None
    }
}

/// A board taken apart.
pub struct Parts<B: Board> {
    /// Receiving half of the link.
    pub rx: B::Rx,
    /// Sending half of the link.
    pub tx: B::Tx,
    /// Timer of the control tick.
    pub timer: B::Timer,
    /// Time since boot.
    pub clock: B::Clock,
    /// Not started yet.
    pub watchdog: B::Watchdog,
    /// The two policy slots as flash is seen in memory, 16-byte aligned. Written by the boot stage alone.
    pub slots: [&'static mut [u8]; 2],
}

/// A periodic hardware timer.
pub trait ControlTimer {
    /// Fires every `period_us` from now on.
    fn set_period_us(&mut self, period_us: u32);
    /// Time since it last fired, ns.
    fn elapsed_ns(&self) -> u32;
}

/// A watchdog that cannot be stopped by accident. Where it has no window, `tendon_runtime::timing::Window` keeps
/// one in front of it.
pub trait Watchdog {
    /// Resets the core unless it is fed within `timeout_us` from now on. Called again for another timeout.
    fn start(&mut self, timeout_us: u32);
    /// A control tick completed in time.
    fn feed(&mut self);
}

/// What raised an interrupt.
pub trait Acknowledge {
    /// Clears the interrupt, without waiting for anything.
    fn acknowledge(&mut self);
}
