//! The upper half of a clock whose counter has 32 bits and raises an interrupt when it wraps.

use core::sync::atomic::{AtomicU32, Ordering};

/// Wraps counted so far.
pub struct Wraps(AtomicU32);

impl Wraps {
    /// None yet.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The counter wrapped.
    pub fn count(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// All 64 bits. `counter` reads the lower half; `is_pending`: the interrupt of a wrap is up.
    pub fn total(&self, counter: impl FnOnce() -> u32, is_pending: impl FnOnce() -> bool) -> u64 {
        let wraps = self.0.load(Ordering::Relaxed);
        let low = counter();
        // A wrap that nobody counted yet: the task is pending, or ran between the two reads.
        let pending = is_pending() && low < u32::MAX / 2;
        let now = self.0.load(Ordering::Relaxed);
        let high = if pending {
            wraps.wrapping_add(1)
        } else if low < u32::MAX / 2 {
            now
        } else {
            wraps
        };
        (u64::from(high) << 32) | u64::from(low)
    }
}
