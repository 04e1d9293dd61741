//! A trained policy without its exploration: what is evaluated and exported.

use crate::gradient::parallel_map;
use crate::mlp::Mlp;
use crate::normaliser::FrozenNormaliser;
use crate::random::{Rng, derive_seed};
use crate::rollout::{ACTION_LIMIT, MakeEnvironment, stream};

/// `clip(mlp(normalise(observation)), -1, 1)`: the deterministic mean action.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The observation normaliser.
    pub normaliser: FrozenNormaliser,
    /// The mean network.
    pub mlp: Mlp,
    /// Its packed weights.
    pub parameters: Vec<f32>,
}

impl Policy {
    /// Actions, `[rows, n_act]`, for observations as the environment gives them, `[rows, n_obs]`.
    pub fn act(&self, observations: &[f32], actions: &mut Vec<f32>) {
        let mut normalised = vec![0.0; observations.len()];
        self.normaliser.apply(observations, &mut normalised);
        self.mlp.infer(&self.parameters, &normalised, actions);
        actions.iter_mut().for_each(|a| *a = a.clamp(-ACTION_LIMIT, ACTION_LIMIT));
    }
}

/// One finished episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Sum of the task's rewards.
    pub episode_return: f64,
    /// Control steps.
    pub length: u64,
    /// The task ended it, not the time limit.
    pub terminated: bool,
    /// The task's success condition held in the last step.
    pub success: bool,
    /// The task's physical metrics in the last step, in the order of its names.
    pub metrics: Vec<f32>,
}

/// Runs `episodes` seeded episodes of `policy` under the task's own reward; `None` acts uniformly at random in the action range.
/// An episode that neither terminates nor is truncated is cut after [`EPISODE_LIMIT`] steps.
pub fn evaluate(
    policy: Option<&Policy>,
    make: MakeEnvironment,
    episodes: u64,
    seed: u64,
    threads: usize,
) -> Vec<Episode> {
    let seeds: Vec<u64> = (0..episodes).map(|i| derive_seed(seed, &[stream::EVALUATION, i])).collect();
    parallel_map(&seeds, threads, |_, &seed| {
        let mut environment = make();
        let mut rng = Rng::at(seed, &[stream::EXPLORATION]);
        let mut observation = vec![0.0; environment.observation_len()];
        let mut action = vec![0.0; environment.action_len()];
        environment.reset(seed, &mut observation);
        let mut episode = Episode {
            episode_return: 0.0,
            length: 0,
            terminated: false,
            success: false,
            metrics: Vec::new(),
        };
        while episode.length < EPISODE_LIMIT {
            match policy {
                Some(policy) => policy.act(&observation, &mut action),
                None => {
                    action.iter_mut().for_each(|a| *a = (2.0 * rng.uniform() - 1.0) as f32 * ACTION_LIMIT)
                }
            }
            let step = environment.step(&action, &mut observation);
            episode.episode_return += f64::from(step.reward);
            episode.length += 1;
            episode.terminated = step.terminated;
            if step.terminated || step.truncated {
                break;
            }
        }
        episode.success = environment.success();
        episode.metrics = environment.metrics().to_vec();
        episode
    })
}

/// Longest evaluated episode in control steps.
pub const EPISODE_LIMIT: u64 = 10_000;

/// A mean with a percentile bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Mean of the sample.
    pub mean: f64,
    /// 2.5% quantile of resampled means.
    pub low: f64,
    /// 97.5% quantile.
    pub high: f64,
}

/// Mean of `values` with its 95% bootstrap interval (Efron 1979; 10 000 resamples). Empty input gives NaN.
pub fn bootstrap(values: &[f64], seed: u64) -> Interval {
    const RESAMPLES: usize = 10_000;
    let count = values.len().max(1) as f64;
    let mean = if values.is_empty() { f64::NAN } else { values.iter().sum::<f64>() / count };
    let mut rng = Rng::at(seed, &[stream::BOOTSTRAP]);
    let mut means: Vec<f64> = (0..if values.is_empty() { 0 } else { RESAMPLES })
        .map(|_| (0..values.len()).map(|_| values[rng.below(values.len())]).sum::<f64>() / count)
        .collect();
    means.sort_by(f64::total_cmp);
    let quantile = |q: f64| means.get((q * means.len() as f64) as usize).copied().unwrap_or(f64::NAN);
    Interval { mean, low: quantile(0.025), high: quantile(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_interval_of_normal_draws_is_about_two_standard_errors() {
        let mut rng = Rng::at(0, &[]);
        let values: Vec<f64> = (0..400).map(|_| 5.0 + rng.normal()).collect();
        let interval = bootstrap(&values, 1);
        assert!((interval.mean - 5.0).abs() < 0.2);
        assert!((interval.high - interval.low - 4.0 * 0.05).abs() < 0.03, "{interval:?}");
        assert_eq!(interval, bootstrap(&values, 1));
    }
}
