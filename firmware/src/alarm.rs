//! The timer of a tick's deadline: SysTick, which every Cortex-M has. The control tick sets it at its begin; when
//! none begins it fires again a period later.

use crate::board::{Board, Selected};
use cortex_m::peripheral::{SCB, SYST, syst::SystClkSource};

/// SysTick counts 24 bits; what is longer comes in equal parts.
const MOST: u64 = 1 << 24;

/// A time in parts that SysTick can count.
#[derive(Clone, Copy)]
struct Parts {
    count: u32,
    /// Counts of each.
    length: u32,
}

impl Parts {
    fn of_ns(ns: u64) -> Self {
        // Below 2^32 us: the period is a u32 in us.
        let counts = (ns / 1000).saturating_mul(Selected::SYSTICK_HZ.into()) / 1_000_000;
        let count = (counts >> 24) as u32 + 1;
        let length = counts.checked_div(count.into()).unwrap_or(0).clamp(2, MOST) as u32;
        Self { count, length }
    }
}

/// SysTick, and what it counts.
pub struct Alarm {
    timer: SYST,
    left: u32,
    /// Between two deadlines.
    period: Parts,
}

impl Alarm {
    /// Quiet until it is set.
    pub fn new(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.enable_interrupt();
        Self { timer, left: 0, period: Parts { count: 1, length: MOST as u32 } }
    }

    /// Fires `deadline_us` after the release, which was `release_ns` ago, and every period from then on. A
    /// deadline that has passed fired already.
    pub fn set(&mut self, deadline_us: u32, release_ns: u32, period_us: u32) {
        let Some(left_ns) = (u64::from(deadline_us) * 1000).checked_sub(release_ns.into()) else { return };
        self.period = Parts::of_ns(u64::from(period_us) * 1000);
        let first = Parts::of_ns(left_ns);
        self.start(first);
        SCB::clear_pendst();
    }

    fn start(&mut self, parts: Parts) {
        self.left = parts.count;
        self.timer.set_reload(parts.length - 1);
        self.timer.clear_current();
        self.timer.enable_counter();
    }

    /// SysTick fired; true: it was the deadline, and not a part of a longer time.
    pub fn passed(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return false;
        }
        self.start(self.period);
        true
    }
}
