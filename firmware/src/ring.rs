//! A queue of bytes between two priorities, without locks and without `unsafe`.
//!
//! heapless' `spsc` divides by a length known only at run time, and the check for zero is a reachable
//! panic; here the length is a power of two and a constant.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// One producer, one consumer. `N`: a power of two.
pub struct Ring<const N: usize> {
    bytes: [AtomicU8; N],
    /// Bytes ever written and read, wrapping.
    written: AtomicUsize,
    read: AtomicUsize,
}

impl<const N: usize> Ring<N> {
    const MASK: usize = {
        assert!(N.is_power_of_two());
        N - 1
    };

    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            bytes: [const { AtomicU8::new(0) }; N],
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
        }
    }

    /// The two ends. `&mut`: there is one of each.
    pub fn split(&'static mut self) -> (Writer<N>, Reader<N>) {
        (Writer(self), Reader(self))
    }
}

/// The producer's end.
pub struct Writer<const N: usize>(&'static Ring<N>);

impl<const N: usize> Writer<N> {
    /// Writes all of `bytes`, or nothing when there is no room for all.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let written = self.0.written.load(Ordering::Relaxed);
        let used = written.wrapping_sub(self.0.read.load(Ordering::Acquire));
        if bytes.len() > N.saturating_sub(used) {
            return false;
        }
        for (index, &byte) in bytes.iter().enumerate() {
            if let Some(place) = self.0.bytes.get(written.wrapping_add(index) & Ring::<N>::MASK) {
                place.store(byte, Ordering::Relaxed);
            }
        }
        self.0.written.store(written.wrapping_add(bytes.len()), Ordering::Release);
        true
    }
}

/// The consumer's end.
pub struct Reader<const N: usize>(&'static Ring<N>);

impl<const N: usize> Reader<N> {
    /// Nothing is to be read.
    pub fn is_empty(&self) -> bool {
        self.0.read.load(Ordering::Relaxed) == self.0.written.load(Ordering::Acquire)
    }

    /// The oldest byte.
    pub fn read(&mut self) -> Option<u8> {
        let read = self.0.read.load(Ordering::Relaxed);
        if read == self.0.written.load(Ordering::Acquire) {
            return None;
        }
        let byte = self.0.bytes.get(read & Ring::<N>::MASK)?.load(Ordering::Relaxed);
        self.0.read.store(read.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}
