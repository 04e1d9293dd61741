//! What a controller knows of its own times: histograms, and the rule by which its watchdog is fed.

pub use crate::codes::ResetCause;
use tendon_wire::message::{BINS, Counts};

/// Counts times in bins of a quarter octave, from 256 ns to 0.2 s. Counts saturate.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u32; BINS],
    max_ns: u32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BINS], max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn add(&mut self, ns: u32) {
        self.max_ns = self.max_ns.max(ns);
        if let Some(count) = self.counts.get_mut(bin_of(ns)) {
            *count = count.saturating_add(1);
        }
    }

    /// The longest time, ns.
    #[must_use]
    pub fn max_ns(&self) -> u32 {
        self.max_ns
    }

    /// Least time that `share` of all do not exceed, rounded up to the end of its bin, ns.
    #[must_use]
    pub fn quantile_ns(&self, share: f64) -> u32 {
        let total: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        let mut below = 0;
        for (bin, &count) in self.counts.iter().enumerate() {
            below += u64::from(count);
            if count > 0 && below as f64 >= total as f64 * share {
                let is_last = bin + 1 == BINS;
                return if is_last { self.max_ns } else { bin_start_ns(bin + 1).min(self.max_ns) };
            }
        }
        self.max_ns
    }

    /// Used bins: least time, ns, and count.
    pub fn bins(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let used = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(|(bin, &count)| (bin_start_ns(bin), count))
    }

    /// First used bin, and the counts from there to the last used one.
    pub fn write(&self, from: &mut u8, counts: &mut Counts) {
        let used = |count: &u32| *count != 0;
        let first = self.counts.iter().position(used).unwrap_or(0);
        let last = self.counts.iter().rposition(used).map_or(0, |last| last + 1);
        *from = first as u8;
        counts.0.clear();
        let _ = counts.0.extend_from_slice(self.counts.get(first..last).unwrap_or(&[]));
    }
}

/// The bin of a time.
#[must_use]
pub fn bin_of(ns: u32) -> usize {
    match ns.checked_ilog2() {
        Some(octave @ 8..) => {
            let quarter = (ns >> (octave - 2)) & 3;
            ((octave - 8) * 4 + quarter + 1).min(BINS as u32 - 1) as usize
        }
        _ => 0,
    }
}

/// Least time of a bin, ns.
#[must_use]
pub fn bin_start_ns(bin: usize) -> u32 {
    let Some(above) = bin.min(BINS - 1).checked_sub(1) else { return 0 };
    (4 + (above as u32 & 3)) << (above as u32 / 4 + 6)
}

/// Least timeout of the watchdog while torque is on, us. The fallback is out long before: the watchdog ends a
/// tick that never returns.
const TORQUE_US: u32 = 500_000;
/// Timeout of the watchdog without torque, and in lockstep, where a tick of the timer only looks whether the
/// host is silent, us. An inference that a host asks for must end within it.
pub const QUIET_US: u32 = 10_000_000;

/// Timeout of the watchdog, us.
#[must_use]
pub fn watchdog_us(torque_by_timer: bool, period_us: u32) -> u32 {
    if torque_by_timer { period_us.saturating_mul(8).max(TORQUE_US) } else { QUIET_US }
}

/// The window of the watchdog, for hardware that has none: a tick that was released less than half a period
/// after the one before it feeds nothing. A loop that runs wild is no proof of health.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    released_us: Option<u64>,
    early: u32,
}

impl Window {
    /// A tick completed in time; true: feed the watchdog.
    pub fn completed(&mut self, released_us: u64, period_us: u32) -> bool {
        let gap = self.released_us.map(|last| released_us.saturating_sub(last));
        if gap.is_some_and(|gap| gap < u64::from(period_us / 2)) {
            self.early = self.early.wrapping_add(1);
            return false;
        }
        self.released_us = Some(released_us);
        true
    }

    /// Ticks that came too soon since boot.
    #[must_use]
    pub fn early(&self) -> u32 {
        self.early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_the_bin_that_begins_at_or_before_it() {
        for ns in (0..400_000u32).chain((400_000..300_000_000).step_by(9_973)).chain([u32::MAX]) {
            let bin = bin_of(ns);
            assert!(bin_start_ns(bin) <= ns, "{ns} ns, bin {bin}");
            assert!(bin == BINS - 1 || ns < bin_start_ns(bin + 1), "{ns} ns, bin {bin}");
        }
        assert!((0..BINS - 1).all(|bin| bin_start_ns(bin) < bin_start_ns(bin + 1)));
    }

    #[test]
    fn a_histogram_sends_what_is_used_of_it() {
        let mut histogram = Histogram::default();
        let (mut from, mut counts) = (9, Counts::default());
        histogram.write(&mut from, &mut counts);
        assert_eq!((from, counts.0.len()), (0, 0));
        for ns in [1000, 1001, 3000] {
            histogram.add(ns);
        }
        histogram.write(&mut from, &mut counts);
        assert_eq!(usize::from(from), bin_of(1000));
        assert_eq!(counts.0.len(), bin_of(3000) - bin_of(1000) + 1);
        assert_eq!((counts.0[0], counts.0.iter().sum::<u32>(), histogram.max_ns()), (2, 3, 3000));
    }

    #[test]
    fn quantiles_are_right_to_a_quarter_octave_and_never_beyond_the_longest() {
        let mut histogram = Histogram::default();
        (1..=10_000u32).for_each(|us| histogram.add(us * 1000));
        for (share, exact) in [(0.5, 5e6), (0.99, 9.9e6), (0.999, 9.99e6)] {
            let found = f64::from(histogram.quantile_ns(share));
            assert!(found >= exact && found <= exact * 1.25, "{share}: {found}");
        }
        assert_eq!((histogram.max_ns(), histogram.quantile_ns(1.0)), (10_000_000, 10_000_000));
        assert_eq!(histogram.bins().map(|(_, count)| u64::from(count)).sum::<u64>(), 10_000);
        histogram.add(u32::MAX);
        assert_eq!(histogram.quantile_ns(1.0), u32::MAX);
    }

    #[test]
    fn a_loop_that_runs_wild_does_not_feed_the_watchdog() {
        let mut window = Window::default();
        assert!(window.completed(0, 1000));
        assert!(window.completed(1000, 1000));
        assert!((1001..1499).all(|now| !window.completed(now, 1000)));
        assert!(window.completed(1500, 1000));
        assert_eq!(window.early(), 498);
    }

    #[test]
    fn a_tick_late_in_its_period_and_one_early_in_the_next_both_feed() {
        // Releases count, not ends.
        let mut window = Window::default();
        assert!((0..10).all(|tick| window.completed(tick * 1000, 1000)));
    }
}
