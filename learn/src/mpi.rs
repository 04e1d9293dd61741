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
        received.clear();
        received.resize(values.len(), T::default());
        self.world.all_reduce_into(&*values, &mut received[..], SystemOperation::sum());
        values.copy_from_slice(received);
        let mut traffic = self.traffic.get();
        traffic.sums += 1;
        traffic.summed_bytes += size_of_val(values) as u64;
        traffic.seconds += started.elapsed().as_secs_f64();
        self.traffic.set(traffic);
    }
}

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
        let mut parts = Vec::new();
        let count = i32::try_from(own.len()).expect("a rank's share of a checkpoint is below 2 GiB");
        if self.rank() == 0 {
            let mut counts = vec![0; self.size()];
            root.gather_into_root(&count, &mut counts[..]);
            let starts: Vec<i32> = counts
                .iter()
                .scan(0i32, |at, count| {
                    let start = *at;
                    *at = at.checked_add(*count).expect("a checkpoint is below 2 GiB");
                    Some(start)
                })
                .collect();
            let mut bytes = vec![0u8; counts.iter().map(|&count| count as usize).sum()];
            let mut partition = PartitionMut::new(&mut bytes[..], counts.clone(), &starts[..]);
            root.gather_varcount_into_root(&own[..], &mut partition);
            let mut rest = &bytes[..];
            for count in counts {
                let (part, others) = rest.split_at(count as usize);
                parts.push(part.to_vec());
                rest = others;
            }
        } else {
            root.gather_into(&count);
            root.gather_varcount_into(&own[..]);
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
