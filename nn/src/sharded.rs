//! Gradients of a batch on several threads, with bits that do not depend on how many.

use crate::raw::{self, Aligned, Pool};
use std::ops::Range;

/// Rows that go through a network together: 128 rows of the widest networks here, forward and backward, and their weights
/// fit the second cache.
pub const BLOCK: usize = 128;

/// Most shards of a batch. The number of shards depends on the batch alone, never on the machine, so that the order of
/// summation is the same everywhere; it bounds the threads that a gradient can use.
const SHARDS: usize = 8;

/// A pool of threads, and for each shard of a batch a gradient and the caller's state `S` (workspaces, sums to report).
#[derive(Debug)]
pub struct Sharded<S> {
    pool: Pool,
    shards: Vec<Shard<S>>,
    sum: Aligned,
    block: usize,
}

#[derive(Debug)]
struct Shard<S> {
    gradient: Aligned,
    state: S,
}

impl<S: Send> Sharded<S> {
    /// For gradients of `parameters` numbers on `threads` threads, the caller's among them.
    pub fn new(threads: usize, parameters: usize, mut state: impl FnMut() -> S) -> Self {
        let shards =
            (0..SHARDS).map(|_| Shard { gradient: Aligned::new(parameters), state: state() }).collect();
        Self { pool: Pool::new(threads.min(SHARDS)), shards, sum: Aligned::new(parameters), block: BLOCK }
    }

    /// With blocks of `rows` in place of [`BLOCK`], where one is a whole sequence or an image.
    ///
    /// # Panics
    /// When `rows` is 0.
    #[must_use]
    pub fn with_block(self, rows: usize) -> Self {
        assert!(rows > 0, "a block has rows");
        Self { block: rows, ..self }
    }

    /// The gradient of a batch of `rows`: the sum of what `work(rows, state, gradient)` **adds to** its `gradient`.
    ///
    /// `work` gets ranges of at most a block of rows, each row once. A shard's ranges come in order, with the same state.
    pub fn gradient(
        &mut self,
        rows: usize,
        work: impl Fn(Range<usize>, &mut S, &mut [f32]) + Sync,
    ) -> &mut [f32] {
        // Whole blocks, so that shards are as even as blocks allow.
        let block_rows = self.block;
        let blocks = rows.div_ceil(block_rows);
        let count = blocks.clamp(1, SHARDS);
        let shards = &mut self.shards[..count];
        self.pool.for_each_mut(shards, |index, shard| {
            shard.gradient.fill(0.0);
            for block in blocks * index / count..blocks * (index + 1) / count {
                let rows = block * block_rows..((block + 1) * block_rows).min(rows);
                work(rows, &mut shard.state, &mut shard.gradient);
            }
        });
        self.reduce(count);
        &mut self.sum
    }

    /// The states of all shards, to read and clear what they summed.
    pub fn states(&mut self) -> impl Iterator<Item = &mut S> {
        self.shards.iter_mut().map(|shard| &mut shard.state)
    }

    /// The threads, and the gradient that [`Sharded::gradient`] left, for [`Adam::step_on`](crate::Adam::step_on).
    pub fn pool(&mut self) -> (&mut Pool, &mut [f32]) {
        (&mut self.pool, &mut self.sum)
    }

    fn reduce(&mut self, count: usize) {
        /// Numbers that a thread adds up at once: small enough for the first cache.
        const PIECE: usize = 4096;
        let parts: [&[f32]; SHARDS] =
            std::array::from_fn(|i| self.shards.get(i).map_or(&[][..], |shard| &shard.gradient));
        let parts = &parts[..count];
        let add = |index: usize, sum: &mut [f32]| {
            let range = index * PIECE..index * PIECE + sum.len();
            sum.copy_from_slice(&parts[0][range.clone()]);
            for part in &parts[1..] {
                raw::add(sum, &part[range.clone()]);
            }
        };
        let mut pieces: Vec<&mut [f32]> = self.sum.chunks_mut(PIECE).collect();
        self.pool.for_each_mut(&mut pieces, |index, sum| add(index, sum));
    }
}
