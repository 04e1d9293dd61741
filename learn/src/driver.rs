//! What all learners have in common: iterations, checkpoints, resumption.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::checkpoint::Checkpoint;
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
    /// Finished iterations.
    fn iteration(&self) -> u64;
    /// Iterations in all.
    fn iterations(&self) -> u64;
    /// Iterations from one checkpoint to the next.
    fn checkpoint_interval(&self) -> u64;
    /// Environment steps so far.
    fn steps(&self) -> u64;
    /// Does one iteration; the driver fills in the row's place and speed.
    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError>;
    /// Adds everything that the next iteration depends on.
    fn save(&self, checkpoint: &mut Checkpoint);
    /// Takes the place of the learner that wrote `checkpoint`.
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError>;
    /// The deterministic policy as it stands.
    fn policy(&self) -> Policy;
}

/// Runs `learner` to its end, from the last checkpoint of `run` when there is one.
pub(crate) fn drive<L: Learner>(
    mut learner: L,
    config: serde_json::Value,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    let mut curves = Vec::new();
    if let Some(checkpoint) = run.map(|run| Checkpoint::load_last(&run.checkpoints())).transpose()?.flatten()
    {
        same_config(&checkpoint, L::KIND, &config)?;
        learner.restore(&checkpoint)?;
        curves = earlier_curves(learner.iteration(), run)?;
    }
    let mut interrupted = false;
    while learner.iteration() < learner.iterations() && !interrupted {
        let (started, steps) = (Instant::now(), learner.steps());
        let (row, finished) = learner.iterate()?;
        let row = CurveRow {
            iteration: learner.iteration() - 1,
            steps: learner.steps(),
            steps_per_s: (learner.steps() - steps) as f64 / started.elapsed().as_secs_f64(),
            ..row
        };
        let report = Progress {
            stage: L::STAGE,
            done: learner.iteration(),
            total: learner.iterations(),
            row: Some(row.clone()),
            finished,
        };
        interrupted = on_progress(&report) == ControlFlow::Break(());
        curves.push(row);
        let last = learner.iteration() == learner.iterations();
        let due = last || learner.iteration().is_multiple_of(learner.checkpoint_interval());
        if let Some(run) = run.filter(|_| due) {
            let mut checkpoint = Checkpoint::new(L::KIND, config.clone());
            learner.save(&mut checkpoint);
            learner.policy().save(&mut checkpoint);
            // Before the checkpoint, which promises that they are there.
            run.write_curves(&curves)?;
            checkpoint.save(&run.checkpoints(), learner.steps())?;
        }
    }
    Ok(Trained { policy: learner.policy(), curves, interrupted })
}

/// The rows of a run's curves before `iteration`.
pub(crate) fn earlier_curves(iteration: u64, run: Option<&RunFolder>) -> Result<Vec<CurveRow>, FileError> {
    let rows = run.map_or_else(|| Ok(Vec::new()), RunFolder::read_curves::<CurveRow>)?;
    Ok(rows.into_iter().filter(|row| row.iteration < iteration).collect())
}
