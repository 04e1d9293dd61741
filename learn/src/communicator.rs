//! Ranks: processes that train one policy together, each with a share of the environments (data-parallel training).

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Range;

use crate::ppo::LearnError;

/// What one rank needs of the others. Every rank calls the same functions in the same order.
///
/// Sums are the same bits on every rank, and from run to run with as many ranks: their order depends on the number of ranks, not on
/// who comes first. With another number of ranks they differ by rounding.
///
/// Nothing here fails: where a rank is lost the others are ended, too, as `mpirun` does it.
pub trait Communicator {
    /// This process, `0..size`. Rank 0 writes files and talks to people.
    fn rank(&self) -> usize;
    /// Processes.
    fn size(&self) -> usize;
    /// Replaces each number by its sum over the ranks.
    fn sum_f32(&self, values: &mut [f32]);
    /// Replaces each number by its sum over the ranks.
    fn sum_f64(&self, values: &mut [f64]);
    /// What each rank gives, in their order, on rank 0; nothing on the others.
    fn gather(&self, own: Vec<u8>) -> Vec<Vec<u8>>;
    /// What was exchanged so far.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// What a rank exchanged with the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Sums over the ranks.
    pub sums: u64,
    /// Bytes that this rank put into sums.
    pub summed_bytes: u64,
    /// Bytes that this rank gave to rank 0.
    pub gathered_bytes: u64,
    /// Wall time in both, waiting for other ranks included, s.
    pub seconds: f64,
}

/// One process: nothing is exchanged, and no bit changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn sum_f32(&self, _: &mut [f32]) {}
    fn sum_f64(&self, _: &mut [f64]) {}
    fn gather(&self, own: Vec<u8>) -> Vec<Vec<u8>> {
        vec![own]
    }
}

/// Those of `count` environments that belong to this rank: neighbours, as even as they can be.
pub(crate) fn share(ranks: &dyn Communicator, count: usize) -> Range<usize> {
    let (rank, size) = (ranks.rank(), ranks.size());
    count * rank / size..count * (rank + 1) / size
}

/// Refuses less than one of something for each rank.
pub(crate) fn each_has_one(
    ranks: &dyn Communicator,
    field: &'static str,
    count: usize,
) -> Result<(), LearnError> {
    if count >= ranks.size() {
        return Ok(());
    }
    let problem = format!("{count} for {} ranks; each needs one", ranks.size());
    Err(LearnError::Config { field, problem })
}

/// The mean of values of all ranks.
pub(crate) fn mean(ranks: &dyn Communicator, values: impl Iterator<Item = f64> + Clone) -> f64 {
    let mut sums = [values.clone().sum::<f64>(), values.count() as f64];
    ranks.sum_f64(&mut sums);
    sums[0] / sums[1]
}

/// The lists of all ranks behind each other, on rank 0; nothing on the others.
pub(crate) fn joined<T: Serialize + DeserializeOwned>(ranks: &dyn Communicator, own: Vec<T>) -> Vec<T> {
    if ranks.size() == 1 {
        return own;
    }
    let bytes = serde_json::to_vec(&own).expect("plain numbers have a JSON form");
    let parts = ranks.gather(bytes);
    parts
        .iter()
        .flat_map(|part| serde_json::from_slice::<Vec<T>>(part).expect("a rank of this program wrote it"))
        .collect()
}

/// The `own` rows of all ranks behind each other, on every rank.
///
/// A sum over the ranks, in which each has zeros in the others' places: what comes out is exact.
pub(crate) fn joined_rows(ranks: &dyn Communicator, own: Vec<f32>) -> Vec<f32> {
    if ranks.size() == 1 {
        return own;
    }
    let mut lengths = vec![0.0; ranks.size()];
    lengths[ranks.rank()] = own.len() as f64;
    ranks.sum_f64(&mut lengths);
    let start = lengths[..ranks.rank()].iter().sum::<f64>() as usize;
    let mut all = vec![0.0; lengths.iter().sum::<f64>() as usize];
    all[start..start + own.len()].copy_from_slice(&own);
    ranks.sum_f32(&mut all);
    all
}

/// The sum of a number over the ranks.
pub(crate) fn sum(ranks: &dyn Communicator, value: f64) -> f64 {
    let mut sums = [value];
    ranks.sum_f64(&mut sums);
    sums[0]
}

/// The ranks whose `hash` is not rank 0's.
pub(crate) fn that_differ(ranks: &dyn Communicator, hash: u32) -> Vec<usize> {
    let mut hashes = vec![0.0; ranks.size()];
    hashes[ranks.rank()] = f64::from(hash);
    ranks.sum_f64(&mut hashes);
    (0..hashes.len()).filter(|&rank| hashes[rank] != hashes[0]).collect()
}
