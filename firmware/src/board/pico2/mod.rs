//! Raspberry Pi Pico 2: RP2350A, core 0 as a Cortex-M33 at 150 MHz.
//!
//! UART0 on GPIO 0 and 1 (pins 1 and 2, as the Debug Probe is wired to). The boot stage has set the clocks. rp235x-hal
//! sets pins, UART and watchdog up, and none of it can panic with these arguments; what runs in a tick or for a byte are
//! registers (RP2350 datasheet). Core 1 stays in the boot ROM.
#![allow(
    unsafe_code,
    reason = "the image slots lie at fixed addresses; peripherals are taken without a check"
)]

use super::interrupts::device;
use super::{Acknowledge, Board, ControlTimer, Parts, Watchdog};
use core::convert::Infallible;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use rp235x_hal::fugit::{MicrosDurationU32, RateExtU32};
use rp235x_hal::uart::{DataBits, StopBits, UartConfig, UartPeripheral};
use rp235x_hal::{Sio, gpio, pac, watchdog};
use tendon_boot::Layout;
use tendon_runtime::cost::Profile;
use tendon_runtime::node::{BoardInfo, Clock};
use tendon_runtime::response::BoardTiming;
use tendon_runtime::store::Part;
use tendon_runtime::timing::ResetCause;

/// `clk_sys`, which the boot stage sets; TIMER0 and UART0 run from it.
const CLOCK_HZ: u32 = 150_000_000;
const TICKS_PER_US: u32 = CLOCK_HZ / 1_000_000;
const BAUD: u32 = 1_000_000;

device! {
    LINK_RX = 33, // UART0
    LINK_TX = 46, // a spare one: only software raises it
    CONTROL_TIMER = 0, // alarm 0 of TIMER0
    CLOCK_WRAP = 47; // a spare one: the clock has 64 bits
    priority_bits = 4
}

/// The board.
pub struct Pico2;

/// Receiving half of UART0.
pub struct Rx(());

/// Sending half of UART0.
pub struct Tx(());

/// Alarm 0 of TIMER0, at 150 MHz.
pub struct Timer {
    fired: u32,
    period: u32,
}

/// TIMER0, 64 bits at 150 MHz.
#[derive(Clone, Copy)]
pub struct BoardClock(());

fn uart() -> &'static pac::uart0::RegisterBlock {
    // SAFETY: the registers of UART0; the two halves touch different ones, but for the interrupt mask, which `take`
    // alone writes.
    unsafe { &*pac::UART0::ptr() }
}

fn timer() -> &'static pac::timer0::RegisterBlock {
    // SAFETY: the registers of TIMER0; `Timer` is the only one that writes after `take`.
    unsafe { &*pac::TIMER0::ptr() }
}

impl Board for Pico2 {
    const INFO: BoardInfo = BoardInfo { name: "pico2", firmware: env!("CARGO_PKG_VERSION") };
    const BOOT_STAGE: usize = Layout::PICO2.mapped_at as usize;
    const TIMING: BoardTiming = BoardTiming {
        // Weights come over QSPI, four bits at a time at half the core's clock, where the 16 KiB cache has them not:
        // 16 cycles for 4 bytes and the address of each line of 8. An estimate.
        profile: Profile { name: "rp2350", centicycles: 200, flash_wait: 24, mhz: 150 },
        byte_ns: 10_000_000 / (BAUD / 1000),
        // The queue of 32 raises its interrupt when it is half full.
        receiver_bytes: 16,
        wrap_ns: u64::MAX >> 1,
    };
    const SYSTICK_HZ: u32 = CLOCK_HZ;
    type Rx = Rx;
    type Tx = Tx;
    type Timer = Timer;
    type Clock = BoardClock;
    type Watchdog = BoardWatchdog;

    fn reset_cause() -> Option<ResetCause> {
        // SAFETY: reads two registers, at boot.
        let (reason, chip) =
            unsafe { ((*pac::WATCHDOG::ptr()).reason().read(), (*pac::POWMAN::ptr()).chip_reset().read()) };
        if reason.timer().bit_is_set() {
            Some(ResetCause::Watchdog)
        } else if chip.had_por().bit_is_set() || chip.had_bor().bit_is_set() {
            // Stays set until the next reset of the chip: what the firmware left in memory knows better.
            None
        } else if chip.had_run_low().bit_is_set() {
            Some(ResetCause::External)
        } else {
            None
        }
    }

    fn take() -> Parts<Self> {
        // SAFETY: RTIC calls `init` once, and nothing else takes peripherals.
        let mut p = unsafe { pac::Peripherals::steal() };
        p.RESETS.reset().modify(|_, w| w.timer0().clear_bit());
        while p.RESETS.reset_done().read().timer0().bit_is_clear() {}
        p.TIMER0.source().write(|w| w.clk_sys().clk_sys());
        p.TIMER0.inte().write(|w| w.alarm_0().set_bit());

        let sio = Sio::new(p.SIO);
        let pins = gpio::Pins::new(p.IO_BANK0, p.PADS_BANK0, sio.gpio_bank0, &mut p.RESETS);
        let lines: (gpio::Pin<_, gpio::FunctionUart, _>, gpio::Pin<_, gpio::FunctionUart, _>) =
            (pins.gpio0.reconfigure::<_, gpio::PullNone>(), pins.gpio1.reconfigure::<_, gpio::PullUp>());
        let config = UartConfig::new(BAUD.Hz(), DataBits::Eight, None, StopBits::One);
        let uart = UartPeripheral::new(p.UART0, lines, &mut p.RESETS).enable(config, CLOCK_HZ.Hz());
        let Ok(uart) = uart else {
            // Only for rates that cannot be divided.
            cortex_m::peripheral::SCB::sys_reset()
        };
        let (mut rx, mut tx) = uart.split();
        rx.enable_rx_interrupt();
        tx.enable_tx_interrupt();

        let slot = |index: u8| {
            let start = Layout::PICO2.address(Part::Policy, index) as *mut u8;
            let len = Layout::PICO2.slot(Part::Policy, index).len as usize;
            // SAFETY: flash, mapped, that memory.x does not name; the two do not overlap; `take` runs once. Nothing
            // writes through the reference: flash takes no writes where it is mapped.
            unsafe { core::slice::from_raw_parts_mut(start, len) }
        };
        Parts {
            rx: Rx(()),
            tx: Tx(()),
            timer: Timer { fired: 0, period: TICKS_PER_US },
            clock: BoardClock(()),
            watchdog: BoardWatchdog(watchdog::Watchdog::new(p.WATCHDOG)),
            slots: [slot(0), slot(1)],
        }
    }
}

impl ErrorType for Rx {
    type Error = Infallible;
}

impl ReadReady for Rx {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(uart().uartfr().read().rxfe().bit_is_clear())
    }
}

impl Read for Rx {
    /// Waits for one byte. Reading the last one clears the interrupt. Errors of the line show in a frame's CRC.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(place) = buffer.first_mut() else { return Ok(0) };
        while !self.read_ready()? {}
        *place = uart().uartdr().read().data().bits();
        Ok(1)
    }
}

impl Acknowledge for Rx {
    /// The interrupt is the sender's too: passes it on.
    fn acknowledge(&mut self) {
        if uart().uartmis().read().txmis().bit_is_set() {
            uart().uarticr().write(|w| w.txic().clear_bit_by_one());
            rtic::pend(device::Interrupt::LINK_TX);
        }
    }
}

impl ErrorType for Tx {
    type Error = Infallible;
}

impl WriteReady for Tx {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(uart().uartfr().read().txff().bit_is_clear())
    }
}

impl Write for Tx {
    /// Waits until one byte is taken.
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        let Some(byte) = buffer.first() else { return Ok(0) };
        while !self.write_ready()? {}
        // SAFETY: any byte may be sent.
        uart().uartdr().write(|w| unsafe { w.data().bits(*byte) });
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while !self.write_ready()? {}
        Ok(())
    }
}

impl Acknowledge for Tx {
    /// `Rx` did: the hardware's interrupt is the receiver's.
    fn acknowledge(&mut self) {}
}

impl Timer {
    fn now() -> u32 {
        timer().timerawl().read().bits()
    }

    /// Fires one period after it last fired, or at once where that has passed.
    fn next(&mut self) {
        let next = self.fired.wrapping_add(self.period);
        // SAFETY: any time may be waited for.
        timer().alarm0().write(|w| unsafe { w.bits(next) });
        // The alarm fires on equality alone: the time may have passed before it was set.
        if (next.wrapping_sub(Self::now()) as i32) <= 0 {
            rtic::pend(device::Interrupt::CONTROL_TIMER);
        }
    }
}

impl ControlTimer for Timer {
    fn set_period_us(&mut self, period_us: u32) {
        // Half the counter's range: 14 s.
        self.period = period_us.saturating_mul(TICKS_PER_US).clamp(TICKS_PER_US, u32::MAX / 2);
        self.fired = Self::now();
        self.next();
    }

    fn elapsed_ns(&self) -> u32 {
        ticks_ns(Self::now().wrapping_sub(self.fired).into()).min(u32::MAX.into()) as u32
    }
}

impl Acknowledge for Timer {
    fn acknowledge(&mut self) {
        timer().intr().write(|w| w.alarm_0().clear_bit_by_one());
        let late = Self::now().wrapping_sub(self.fired);
        // Whole periods that passed: one, or more where interrupts were off for long.
        let periods = late.checked_div(self.period).unwrap_or(1).max(1);
        self.fired = self.fired.wrapping_add(periods.wrapping_mul(self.period));
        self.next();
    }
}

fn ticks_ns(ticks: u64) -> u64 {
    ticks.wrapping_mul(20) / 3
}

impl BoardClock {
    /// Never called: the clock does not wrap.
    pub fn wrapped(self) {}

    fn total(self) -> u64 {
        loop {
            let high = timer().timerawh().read().bits();
            let low = timer().timerawl().read().bits();
            if timer().timerawh().read().bits() == high {
                return (u64::from(high) << 32) | u64::from(low);
            }
        }
    }
}

impl Clock for BoardClock {
    fn now_us(&self) -> u64 {
        self.total() / u64::from(TICKS_PER_US)
    }

    fn counts(&self) -> u32 {
        timer().timerawl().read().bits()
    }

    fn now_ns(&self) -> u64 {
        ticks_ns(self.total())
    }
}

/// The chip's watchdog, at most 8.3 s.
pub struct BoardWatchdog(watchdog::Watchdog);

impl Watchdog for BoardWatchdog {
    fn start(&mut self, timeout_us: u32) {
        // The most that rp235x-hal takes.
        self.0.start(MicrosDurationU32::from_ticks(timeout_us.min(0xff_ffff / 2)));
    }

    fn feed(&mut self) {
        self.0.feed();
    }
}
