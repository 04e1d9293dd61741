//! ST Nucleo-H743ZI and H743ZI2: STM32H743ZI, a Cortex-M7 at 400 MHz.
//!
//! USART3 on PD8 and PD9 goes to the ST-LINK's virtual port (UM1974 and UM2407, virtual COM port). The boot stage has
//! set the clocks through embassy-stm32, whose initialisation may panic; here are registers alone (RM0433), through the
//! peripheral crate that it is built on.
#![allow(unsafe_code, reason = "the image slots lie at fixed addresses")]

use super::interrupts::{device, vectors};
use super::wraps::Wraps;
use super::{Acknowledge, Board, ControlTimer, Parts, Watchdog};
use core::convert::Infallible;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use stm32_metapac as pac;
use tendon_boot::Layout;
use tendon_runtime::cost::Profile;
use tendon_runtime::node::{BoardInfo, Clock};
use tendon_runtime::response::BoardTiming;
use tendon_runtime::store::Part;
use tendon_runtime::timing::ResetCause;

/// Clock of the timers: twice APB1 (RM0433, table 56), which the boot stage sets to 100 MHz.
const TICKS_PER_US: u32 = 200;
/// Kernel clock of USART3: APB1.
const USART_HZ: u32 = 100_000_000;
const BAUD: u32 = 1_000_000;
/// Low-speed oscillator of the watchdog, kHz: 32 nominally.
const LSI_KHZ: u32 = 32;

device! {
    LINK_RX = 39, // USART3
    LINK_TX = 94, // HDMI-CEC, which is not used: only software raises it
    CONTROL_TIMER = 50, // TIM5
    CLOCK_WRAP = 28; // TIM2
    priority_bits = 4
}
vectors!(150);

/// The board.
pub struct NucleoH743zi;

/// Receiving half of USART3.
pub struct Rx(());

/// Sending half of USART3.
pub struct Tx(());

/// TIM5.
pub struct Timer(());

/// TIM2, 32 bits at 200 MHz.
#[derive(Clone, Copy)]
pub struct BoardClock(());

static WRAPS: Wraps = Wraps::new();

impl Board for NucleoH743zi {
    const INFO: BoardInfo = BoardInfo { name: "nucleo-h743zi", firmware: env!("CARGO_PKG_VERSION") };
    const BOOT_STAGE: usize = Layout::NUCLEO_H743ZI.mapped_at as usize;
    const TIMING: BoardTiming = BoardTiming {
        // No data cache: weights come from flash over AXI at half the core's clock with two wait states, 32 bytes at
        // a time, activations from AXI SRAM. An estimate.
        profile: Profile { name: "stm32h743", centicycles: 240, flash_wait: 4, mhz: 400 },
        byte_ns: 10_000_000 / (BAUD / 1000),
        receiver_bytes: 16,
        wrap_ns: (1 << 32) * 1000 / TICKS_PER_US as u64,
    };
    const SYSTICK_HZ: u32 = 400_000_000;
    type Rx = Rx;
    type Tx = Tx;
    type Timer = Timer;
    type Clock = BoardClock;
    type Watchdog = BoardWatchdog;

    fn reset_cause() -> Option<ResetCause> {
        let flags = pac::RCC.rsr().read();
        // Power on raises the pin's flag too.
        let cause = if flags.iwdg1rstf() {
            ResetCause::Watchdog
        } else if flags.sftrstf() {
            ResetCause::Software
        } else if flags.porrstf() || flags.borrstf() {
            ResetCause::PowerOn
        } else if flags.pinrstf() {
            ResetCause::External
        } else {
            return None;
        };
        pac::RCC.rsr().modify(|w| w.set_rmvf(true));
        Some(cause)
    }

    fn take() -> Parts<Self> {
        pac::RCC.ahb4enr().modify(|w| w.set_gpioden(true));
        pac::RCC.apb1lenr().modify(|w| {
            w.set_usart3en(true);
            w.set_tim2en(true);
            w.set_tim5en(true);
        });
        // A clock is there two cycles after its enabling (RM0433, 8.5.11).
        cortex_m::asm::delay(16);
        link::start();
        clock::start();
        let slot = |index: u8| {
            let start = Layout::NUCLEO_H743ZI.address(Part::Policy, index) as *mut u8;
            let len = Layout::NUCLEO_H743ZI.slot(Part::Policy, index).len as usize;
            // SAFETY: flash, mapped, that memory.x does not name; the two do not overlap; `take` runs once: RTIC
            // calls `init` once. Nothing writes through the reference: flash takes no writes without its keys.
            unsafe { core::slice::from_raw_parts_mut(start, len) }
        };
        Parts {
            rx: Rx(()),
            tx: Tx(()),
            timer: Timer(()),
            clock: BoardClock(()),
            watchdog: BoardWatchdog(()),
            slots: [slot(0), slot(1)],
        }
    }
}

mod link {
    use super::{BAUD, USART_HZ, pac};

    pub(super) fn start() {
        for pin in [8, 9] {
            pac::GPIOD.afr(pin / 8).modify(|w| w.set_afr(pin % 8, 7));
            pac::GPIOD.moder().modify(|w| w.set_moder(pin, pac::gpio::vals::Moder::ALTERNATE));
        }
        let usart = pac::USART3;
        usart.brr().write(|w| w.set_brr((USART_HZ / BAUD) as u16));
        // The transmitter's interrupt: half of its queue is empty.
        usart.cr3().write(|w| w.set_txftcfg(0b010));
        // The queues can only be turned on before the rest.
        usart.cr1().write(|w| w.set_fifoen(true));
        usart.cr1().modify(|w| {
            w.set_re(true);
            w.set_te(true);
            w.set_rxneie(true);
            w.set_ue(true);
        });
    }
}

mod clock {
    use super::pac;

    pub(super) fn start() {
        let timer = pac::TIM2;
        timer.arr().write_value(u32::MAX);
        timer.dier().write(|w| w.set_uie(true));
        timer.cr1().write(|w| w.set_cen(true));
    }
}

impl ErrorType for Rx {
    type Error = Infallible;
}

impl ReadReady for Rx {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(pac::USART3.isr().read().rxne())
    }
}

impl Read for Rx {
    /// Waits for one byte. Reading the last one clears the interrupt.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(place) = buffer.first_mut() else { return Ok(0) };
        while !self.read_ready()? {}
        *place = pac::USART3.rdr().read().dr() as u8;
        Ok(1)
    }
}

impl Acknowledge for Rx {
    /// The interrupt is the sender's too: passes it on. Errors of the line are cleared, a frame's CRC tells.
    fn acknowledge(&mut self) {
        let usart = pac::USART3;
        usart.icr().write(|w| {
            w.set_ore(true);
            w.set_fe(true);
            w.set_ne(true);
            w.set_pe(true);
        });
        if usart.cr3().read().txftie() && usart.isr().read().txft() {
            usart.cr3().modify(|w| w.set_txftie(false));
            rtic::pend(device::Interrupt::LINK_TX);
        }
    }
}

impl ErrorType for Tx {
    type Error = Infallible;
}

impl WriteReady for Tx {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        // With the queue on, `txe` is "not full".
        Ok(pac::USART3.isr().read().txe())
    }
}

impl Write for Tx {
    /// Waits until one byte is taken, and asks for the interrupt.
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        let Some(byte) = buffer.first() else { return Ok(0) };
        while !self.write_ready()? {}
        pac::USART3.tdr().write(|w| w.set_dr((*byte).into()));
        pac::USART3.cr3().modify(|w| w.set_txftie(true));
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while !self.write_ready()? {}
        Ok(())
    }
}

impl Acknowledge for Tx {
    fn acknowledge(&mut self) {
        pac::USART3.cr3().modify(|w| w.set_txftie(false));
    }
}

impl ControlTimer for Timer {
    fn set_period_us(&mut self, period_us: u32) {
        let ticks = period_us.saturating_mul(TICKS_PER_US).max(TICKS_PER_US);
        let timer = pac::TIM5;
        timer.arr().write_value(ticks - 1);
        // Counts from 0 again, without an interrupt.
        timer.cr1().write(|w| w.set_urs(pac::timer::vals::Urs::COUNTER_ONLY));
        timer.egr().write(|w| w.set_ug(true));
        timer.dier().write(|w| w.set_uie(true));
        timer.cr1().modify(|w| w.set_cen(true));
    }

    fn elapsed_ns(&self) -> u32 {
        pac::TIM5.cnt().read().saturating_mul(1000 / TICKS_PER_US)
    }
}

impl Acknowledge for Timer {
    fn acknowledge(&mut self) {
        // Flags are cleared by writing 0; 1 leaves them.
        pac::TIM5.sr().write_value(pac::timer::regs::SrGp16(!1));
    }
}

impl BoardClock {
    /// The `CLOCK_WRAP` interrupt.
    pub fn wrapped(self) {
        pac::TIM2.sr().write_value(pac::timer::regs::SrGp16(!1));
        WRAPS.count();
    }

    fn total(self) -> u64 {
        WRAPS.total(|| self.counts(), || pac::TIM2.sr().read().uif())
    }
}

impl Clock for BoardClock {
    fn now_us(&self) -> u64 {
        self.total() / u64::from(TICKS_PER_US)
    }

    fn counts(&self) -> u32 {
        pac::TIM2.cnt().read()
    }

    fn now_ns(&self) -> u64 {
        self.total() * u64::from(1000 / TICKS_PER_US)
    }
}

/// IWDG1, which nothing but a reset stops.
pub struct BoardWatchdog(());

impl Watchdog for BoardWatchdog {
    fn start(&mut self, timeout_us: u32) {
        let watchdog = pac::IWDG1;
        watchdog.kr().write_value(pac::iwdg::regs::Kr(0xcccc)); // start
        watchdog.kr().write_value(pac::iwdg::regs::Kr(0x5555)); // open
        // 1/256 of 32 kHz: steps of 8 ms, up to 32 s.
        let steps = timeout_us / (256_000 / LSI_KHZ);
        watchdog.pr().write(|w| w.set_pr(pac::iwdg::vals::Pr::DIVIDE_BY256));
        watchdog.rlr().write(|w| w.set_rl(steps.clamp(1, 0xfff) as u16));
        // Taken over within five cycles of the oscillator (RM0433, 45.4.4); the first feed then uses it.
        watchdog.kr().write_value(pac::iwdg::regs::Kr(0xaaaa));
    }

    fn feed(&mut self) {
        pac::IWDG1.kr().write_value(pac::iwdg::regs::Kr(0xaaaa));
    }
}
