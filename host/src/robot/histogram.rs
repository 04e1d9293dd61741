//! Times counted in bins of a quarter octave.

/// Bins per factor of two, and octaves of an `u64` of nanoseconds.
const PER_OCTAVE: usize = 4;
const BINS: usize = 64 * PER_OCTAVE;

/// Counts of times, ns. Adding one neither allocates nor takes longer for many.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u32; BINS],
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BINS], count: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn add(&mut self, ns: u64) {
        self.counts[bin(ns)] = self.counts[bin(ns)].saturating_add(1);
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Times counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, ns.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Least time that `share` of all do not exceed, rounded up to the end of its bin, ns.
    #[must_use]
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut below = 0;
        for (bin, &count) in self.counts.iter().enumerate() {
            below += u64::from(count);
            if below >= rank && below > 0 {
                return start_ns(bin + 1).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// Used bins: least time, ns, and count.
    pub fn bins(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bin, &count)| (start_ns(bin), count))
    }
}

fn bin(ns: u64) -> usize {
    let ns = ns.max(PER_OCTAVE as u64);
    let octave = ns.ilog2() as usize;
    octave * PER_OCTAVE + (ns >> (octave - 2) & 3) as usize
}

fn start_ns(bin: usize) -> u64 {
    // Below the second octave there is one bin, which begins at 0.
    if bin <= 2 * PER_OCTAVE {
        return 0;
    }
    let (octave, quarter) = (bin / PER_OCTAVE, bin % PER_OCTAVE);
    (PER_OCTAVE + quarter).checked_shl(octave as u32 - 2).unwrap_or(usize::MAX) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_quarter_octave_and_never_beyond_the_longest() {
        let mut histogram = Histogram::default();
        (1..=10_000u64).for_each(|us| histogram.add(us * 1000));
        for (share, exact) in [(0.5, 5e6), (0.99, 9.9e6), (0.999, 9.99e6)] {
            let found = histogram.quantile_ns(share) as f64;
            assert!(found >= exact && found <= exact * 1.25, "{share}: {found}");
        }
        assert_eq!(
            (histogram.max_ns(), histogram.quantile_ns(1.0), histogram.count()),
            (10_000_000, 10_000_000, 10_000)
        );
        assert_eq!(histogram.bins().map(|(_, count)| u64::from(count)).sum::<u64>(), 10_000);
    }

    #[test]
    fn every_time_lies_in_its_bin() {
        for ns in (0..5000).chain([1 << 20, (1 << 20) - 1, u64::from(u32::MAX), 1 << 40]) {
            assert!(start_ns(bin(ns)) <= ns && ns < start_ns(bin(ns) + 1).max(4), "{ns}");
        }
    }
}
