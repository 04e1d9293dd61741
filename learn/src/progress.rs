//! What a learner tells while it works.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::rollout::Finished;

/// Called after every iteration; `Break` ends the job at its last checkpoint.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress) -> ControlFlow<()>;

/// The part of a job that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Episodes of random actions, the baseline.
    RandomBaseline,
    /// PPO on the task's own reward.
    TrueReward,
    /// PPO on a reward learned from preferences.
    LearnedReward,
    /// Seeded episodes of finished policies.
    Evaluation,
}

/// One report.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The part of the job.
    pub stage: Stage,
    /// Finished units of this stage: iterations or episodes.
    pub done: u64,
    /// Units of this stage.
    pub total: u64,
    /// The finished iteration, in stages that learn.
    pub row: Option<CurveRow>,
    /// Training episodes that ended in it, in order.
    pub finished: Vec<Finished>,
}

/// One iteration of learning: a row of `curves.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CurveRow {
    /// Counted from 0.
    pub iteration: u64,
    /// Environment steps so far.
    pub steps: u64,
    /// Mean true return of the episodes that ended in this iteration.
    pub episode_return: Option<f64>,
    /// Their mean length in control steps.
    pub episode_length: Option<f64>,
    /// Fraction of them that ended in success.
    pub success: Option<f64>,
    /// Mean reward per step that the policy was trained on.
    pub reward_mean: f64,
    /// Clipped surrogate loss.
    pub policy_loss: f64,
    /// Half the mean squared error of the value.
    pub value_loss: f64,
    /// Entropy of the policy, nats.
    pub entropy: f64,
    /// KL from the rollout's policy, nats (Schulman's k3 estimate).
    pub kl: f64,
    /// Fraction of samples where the clip was active.
    pub clip_fraction: f64,
    /// Of the last update.
    pub learning_rate: f64,
    /// Labels given so far.
    pub labels: u64,
    /// Accuracy of the reward model on its labels, when it was trained in this iteration.
    pub label_accuracy: Option<f64>,
    /// Mean cost per step, where costs are constrained.
    pub cost: Option<f64>,
    /// Lagrange multiplier of the constraint.
    pub multiplier: Option<f64>,
    /// Environment steps per second of wall time, this iteration.
    pub steps_per_s: f64,
    /// Wall time in the simulation, s (mean over threads).
    pub simulation_s: f64,
    /// Wall time of the rest of the rollout: networks, normalisers, noise, s.
    pub inference_s: f64,
    /// Wall time of gradients and optimiser, s.
    pub update_s: f64,
}

impl CurveRow {
    /// What episodes came to; nothing of none.
    pub(crate) fn of_episodes(finished: &[Finished]) -> Self {
        let mean = |of: fn(&Finished) -> f64| {
            let count = finished.len() as f64;
            (count > 0.0).then(|| finished.iter().map(of).sum::<f64>() / count)
        };
        Self {
            episode_return: mean(|e| e.episode_return),
            episode_length: mean(|e| e.length as f64),
            success: mean(|e| f64::from(u8::from(e.success))),
            ..Self::default()
        }
    }
}
