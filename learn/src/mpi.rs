//! Ranks of `mpirun` (feature `mpi`).

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::time::Instant;

use mpi::Threading;
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::datatype::{Equivalence, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};

use crate::communicator::{Communicator, Traffic};

/// All processes that one `mpirun` started.
///
/// MPI ends well only with [`Mpi::finish`]. A rank that ends otherwise (an error, a panic, a signal) is one that `mpirun` misses: it ends
/// the others and says which one it was. Were MPI left in good order there, too, the others would wait for the lost rank forever.
pub struct Mpi {
    universe: ManuallyDrop<Universe>,
    world: SimpleCommunicator,
    received: RefCell<(Vec<f32>, Vec<f64>)>,
    traffic: Cell<Traffic>,
}

impl Mpi {
    /// Joins the other processes. `None` when MPI was started before in this process.
    pub fn start() -> Option<Self> {
        // Threads of rollouts and gradients never call MPI.
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)?;
        let world = universe.world();
        Some(Self {
            universe: ManuallyDrop::new(universe),
            world,
            received: RefCell::default(),
            traffic: Cell::default(),
        })
    }

    /// Waits until every rank is done, and leaves.
    pub fn finish(self) {
        drop(ManuallyDrop::into_inner(self.universe));
    }

    fn sum<T: Equivalence + Copy + Default>(&self, values: &mut [T], received: &mut Vec<T>) {
        let started = Instant::now();
        // Every rank has as many numbers, and so as many pieces.
        for piece in values.chunks_mut(SUMMED) {
            received.clear();
            received.resize(piece.len(), T::default());
            self.world.all_reduce_into(&*piece, &mut received[..], SystemOperation::sum());
            piece.copy_from_slice(received);
        }
        let mut traffic = self.traffic.get();
        traffic.sums += 1;
        traffic.summed_bytes += size_of_val(values) as u64;
        traffic.seconds += started.elapsed().as_secs_f64();
        self.traffic.set(traffic);
    }
}

/// Numbers of one call of MPI, which counts them in 31 bits.
const SUMMED: usize = 1 << 24;
/// Bytes that a rank gives in one call: 4,095 ranks stay below 31 bits together.
const GATHERED: usize = 1 << 19;

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mpi {{ rank {} of {} }}", self.rank(), self.size())
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn sum_f32(&self, values: &mut [f32]) {
        self.sum(values, &mut self.received.borrow_mut().0);
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.sum(values, &mut self.received.borrow_mut().1);
    }

    fn gather(&self, own: Vec<u8>) -> Vec<Vec<u8>> {
        let started = Instant::now();
        let root = self.world.process_at_rank(0);
        let mut lengths = vec![0u64; self.size()];
        self.world.all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut parts: Vec<Vec<u8>> = Vec::new();
        if self.rank() == 0 {
            parts = lengths.iter().map(|&length| Vec::with_capacity(length as usize)).collect();
        }
        for start in (0..longest).step_by(GATHERED) {
            let here = |length: usize| start.min(length)..(start + GATHERED).min(length);
            let piece = &own[here(own.len())];
            if self.rank() != 0 {
                root.gather_varcount_into(piece);
                continue;
            }
            let counts: Vec<i32> = lengths.iter().map(|&length| here(length as usize).len() as i32).collect();
            let starts: Vec<i32> = counts
                .iter()
                .scan(0, |next, count| {
                    *next += count;
                    Some(*next - count)
                })
                .collect();
            let mut bytes = vec![0u8; counts.iter().map(|&count| count as usize).sum()];
            let mut partition = PartitionMut::new(&mut bytes[..], &counts[..], &starts[..]);
            root.gather_varcount_into_root(piece, &mut partition);
            for ((part, &start), &count) in parts.iter_mut().zip(&starts).zip(&counts) {
                part.extend_from_slice(&bytes[start as usize..][..count as usize]);
            }
        }
        let mut traffic = self.traffic.get();
        traffic.gathered_bytes += own.len() as u64;
        traffic.seconds += started.elapsed().as_secs_f64();
        self.traffic.set(traffic);
        parts
    }

    fn traffic(&self) -> Traffic {
        self.traffic.get()
    }
}
