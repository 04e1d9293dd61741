//! What all learners have in common: iterations, checkpoints, resumption.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::communicator::{Alone, Communicator, that_differ};
use crate::policy::Policy;
use crate::ppo::{LearnError, Trained, same_config};
use crate::progress::{CurveRow, OnProgress, Progress, Stage};
use crate::rollout::Finished;
use crate::run_folder::{FileError, RunFolder};

/// A learner between two iterations. Everything that the next iteration depends on is in its checkpoint, so that a resumed run has the
/// bits of an uninterrupted one.
pub(crate) trait Learner {
    /// Name in checkpoints.
    const KIND: &'static str;
    /// What its progress reports say.
    const STAGE: Stage = Stage::TrueReward;
    /// Those that it learns with.
    fn ranks(&self) -> &dyn Communicator {
        &Alone
    }
    /// Where it stands.
    fn place(&self) -> Place;
    /// Does one iteration; the driver fills in the row's place and speed.
    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError>;
    /// Adds everything that the next iteration depends on.
    fn save(&self, checkpoint: &mut Checkpoint);
    /// Takes the place of the learner that wrote `checkpoint`.
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError>;
    /// The deterministic policy as it stands.
    fn policy(&self) -> Policy;
}

/// Where a learner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Finished iterations.
    pub(crate) iteration: u64,
    /// Iterations in all.
    pub(crate) iterations: u64,
    /// Iterations from one checkpoint to the next.
    pub(crate) checkpoint_interval: u64,
    /// Environment steps (or updates) so far.
    pub(crate) steps: u64,
}

/// Runs `learner` to its end, from the last checkpoint of `run` when there is one.
pub(crate) fn drive<L: Learner>(
    mut learner: L,
    config: &impl Serialize,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    let config = serde_json::to_value(config).unwrap_or_default();
    let mut curves = Vec::new();
    if let Some(checkpoint) = run.map(|run| Checkpoint::load_last(&run.checkpoints())).transpose()?.flatten()
    {
        same_config(&checkpoint, L::KIND, &config)?;
        learner.restore(&checkpoint)?;
        curves = earlier_curves(learner.place().iteration, run)?;
    }
    if learner.ranks().size() > 1 {
        agree(&learner, &config)?;
    }
    let mut interrupted = false;
    while learner.place().iteration < learner.place().iterations && !interrupted {
        let (started, before) = (Instant::now(), learner.place());
        let (row, finished) = learner.iterate()?;
        let place = learner.place();
        let row = CurveRow {
            iteration: place.iteration - 1,
            steps: place.steps,
            steps_per_s: (place.steps - before.steps) as f64 / started.elapsed().as_secs_f64(),
            ..row
        };
        let report = Progress {
            stage: L::STAGE,
            done: place.iteration,
            total: place.iterations,
            row: Some(row.clone()),
            finished,
        };
        let stop = on_progress(&report) == ControlFlow::Break(());
        let mut stops = [f64::from(u8::from(stop))];
        learner.ranks().sum_f64(&mut stops);
        interrupted = stops[0] > 0.0;
        curves.push(row);
        let last = place.iteration == place.iterations;
        let due = last || place.iteration.is_multiple_of(place.checkpoint_interval);
        if let Some(run) = run.filter(|_| due) {
            let checkpoint = agree(&learner, &config)?;
            if let Some(checkpoint) = checkpoint.gathered(learner.ranks())? {
                // Before the checkpoint, which promises that they are there.
                run.write_curves(&curves)?;
                checkpoint.save(&run.checkpoints(), place.steps)?;
            }
        }
    }
    Ok(Trained { policy: learner.policy(), curves, interrupted })
}

/// The learner's checkpoint, with the environments of this rank alone; an error where ranks differ in the rest.
fn agree<L: Learner>(learner: &L, config: &serde_json::Value) -> Result<Checkpoint, LearnError> {
    let mut checkpoint = Checkpoint::new(L::KIND, config.clone());
    learner.save(&mut checkpoint);
    learner.policy().save(&mut checkpoint);
    if learner.ranks().size() > 1 {
        let ranks = that_differ(learner.ranks(), checkpoint.hash_of_shared()?);
        if !ranks.is_empty() {
            return Err(LearnError::RanksDiffer { iteration: learner.place().iteration, ranks });
        }
    }
    Ok(checkpoint)
}

/// The rows of a run's curves before `iteration`.
pub(crate) fn earlier_curves(iteration: u64, run: Option<&RunFolder>) -> Result<Vec<CurveRow>, FileError> {
    let rows = run.map_or_else(|| Ok(Vec::new()), RunFolder::read_curves::<CurveRow>)?;
    Ok(rows.into_iter().filter(|row| row.iteration < iteration).collect())
}
