//! The actor-critic: the one type behind which the learning engine hides.

use burn::tensor::Tensor;

use crate::adam::Adam;
use crate::checkpoint::Checkpoint;
use crate::gradient::{forward, matrix, shapes, sharded_gradient};
use crate::mlp::Mlp;
use crate::random::Rng;
use crate::run_folder::FileError;

/// A Gaussian policy `N(mean(o), exp(log_std)^2)` with a state-independent `log_std`, a separate value network, and their optimiser.
///
/// Rollouts use plain Rust ([`Mlp::infer`]), updates use burn; no burn type appears outside this file and `gradient.rs`.
#[derive(Clone, Debug)]
pub struct ActorCritic {
    actor: Mlp,
    critic: Mlp,
    /// Actor, then `log_std`, then critic.
    parameters: Vec<f32>,
    adam: Adam,
}

/// Samples to learn from, one row each.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Normalised observations, `[rows, n_obs]`.
    pub observations: &'a [f32],
    /// Actions as drawn, before the clip to the action range, `[rows, n_act]`.
    pub actions: &'a [f32],
    /// Their log-probabilities when drawn, `[rows]`.
    pub log_probs: &'a [f32],
    /// Advantages, not yet normalised, `[rows]`.
    pub advantages: &'a [f32],
    /// Targets of the value, `[rows]`.
    pub returns: &'a [f32],
    /// Values when drawn, `[rows]`.
    pub values: &'a [f32],
}

/// Settings of one gradient step; see `PpoConfig` for their meaning.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Clip of the probability ratio.
    pub clip: f32,
    /// Clip of the change of the value, when given.
    pub value_clip: Option<f32>,
    /// Weight of the value's loss.
    pub value_weight: f32,
    /// Weight of the entropy.
    pub entropy_weight: f32,
    /// Adam's step size.
    pub learning_rate: f32,
    /// Limit of the gradient's norm.
    pub max_gradient_norm: f32,
    /// Threads used; no bit of the result depends on it.
    pub threads: usize,
}

/// Means over the samples of a step (or of several, summed and divided by the caller).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Clipped surrogate.
    pub policy: f64,
    /// Half the mean squared error.
    pub value: f64,
    /// Nats.
    pub entropy: f64,
    /// Nats.
    pub kl: f64,
    /// Of samples.
    pub clip_fraction: f64,
}

/// The last layer of the policy starts small, so that first actions come from the exploration noise alone (Andrychowicz et al. 2021).
const ACTOR_GAIN: f32 = 0.01;

impl ActorCritic {
    /// Fresh networks with the same hidden layers for both.
    pub fn new(
        observations: usize,
        actions: usize,
        hidden: &[usize],
        initial_std: f32,
        rng: &mut Rng,
    ) -> Self {
        let (actor, critic) = (Mlp::new(observations, hidden, actions), Mlp::new(observations, hidden, 1));
        let mut parameters = actor.initialise(ACTOR_GAIN, rng);
        parameters.extend(std::iter::repeat_n(initial_std.ln(), actions));
        parameters.extend(critic.initialise(1.0, rng));
        let adam = Adam::new(parameters.len());
        Self { actor, critic, parameters, adam }
    }

    /// The mean network and its packed weights.
    pub fn actor(&self) -> (&Mlp, &[f32]) {
        (&self.actor, &self.parameters[..self.actor.parameter_count()])
    }

    /// All weights: actor, `log_std`, critic.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Logarithm of the standard deviation, `[n_act]`.
    pub fn log_std(&self) -> &[f32] {
        let start = self.actor.parameter_count();
        &self.parameters[start..start + self.actor.outputs()]
    }

    /// Means of the policy, `[rows, n_act]`, for normalised observations.
    pub fn means(&self, observations: &[f32], means: &mut Vec<f32>) {
        let (actor, parameters) = self.actor();
        actor.infer(parameters, observations, means);
    }

    /// Values, `[rows]`, for normalised observations.
    pub fn values(&self, observations: &[f32], values: &mut Vec<f32>) {
        let start = self.actor.parameter_count() + self.actor.outputs();
        self.critic.infer(&self.parameters[start..], observations, values);
    }

    /// Log-density of `action` under `N(mean, exp(log_std)^2)`.
    pub fn log_prob(&self, mean: &[f32], action: &[f32]) -> f32 {
        let terms = mean.iter().zip(action).zip(self.log_std());
        terms.map(|((m, a), s)| -0.5 * ((a - m) / s.exp()).powi(2) - s - HALF_LOG_TAU).sum()
    }

    /// One step of Adam on the PPO loss (Schulman et al. 2017, equations 7 and 9) of `rows` of `batch`.
    pub fn step(&mut self, batch: &Batch, rows: &[usize], settings: &StepSettings) -> Losses {
        let matrices = [shapes(&self.actor), vec![[1, self.actor.outputs()]], shapes(&self.critic)].concat();
        let normalisation = moments(rows.iter().map(|&r| batch.advantages[r]));
        let gradient =
            sharded_gradient(&matrices, &self.parameters, rows, settings.threads, |tensors, shard| {
                self.loss(tensors, batch, shard, rows.len(), normalisation, settings)
            });
        self.adam.step(
            &mut self.parameters,
            &gradient.values,
            settings.learning_rate,
            settings.max_gradient_norm,
        );
        let report = gradient.report;
        Losses {
            policy: report[0],
            value: report[1],
            entropy: report[2],
            kl: report[3],
            clip_fraction: report[4],
        }
    }

    /// Loss of the samples `shard`, which are part of a minibatch of `total`.
    fn loss(
        &self,
        tensors: &[Tensor<2>],
        batch: &Batch,
        shard: &[usize],
        total: usize,
        (advantage_mean, advantage_std): (f32, f32),
        settings: &StepSettings,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        let (n_obs, n_act) = (self.actor.inputs(), self.actor.outputs());
        let column = |values: &[f32]| matrix(shard.iter().map(|&r| values[r]).collect(), 1);
        let table = |values: &[f32], width: usize| {
            matrix(shard.iter().flat_map(|&r| &values[r * width..(r + 1) * width]).copied().collect(), width)
        };
        let share = 1.0 / total as f32;
        let (actor, rest) = tensors.split_at(tensors.len() / 2);
        let (log_std, critic) = (&rest[0], &rest[1..]);

        let observations = table(batch.observations, n_obs);
        let distance =
            (table(batch.actions, n_act) - forward(actor, observations.clone())) / log_std.clone().exp();
        let log_prob = (distance.square() * -0.5 - log_std.clone() - HALF_LOG_TAU).sum_dim(1);
        let log_ratio = log_prob - column(batch.log_probs);
        let ratio = log_ratio.clone().exp();
        let advantage = (column(batch.advantages) - advantage_mean) / advantage_std;
        let clipped = ratio.clone().clamp(1.0 - settings.clip, 1.0 + settings.clip);
        let policy = (ratio.clone() * advantage.clone()).min_pair(clipped * advantage).sum().neg() * share;

        let value = forward(critic, observations);
        let returns = column(batch.returns);
        let mut error = (value.clone() - returns.clone()).square();
        if let Some(clip) = settings.value_clip {
            let old = column(batch.values);
            let near = (value - old.clone()).clamp(-clip, clip) + old;
            error = error.max_pair((near - returns).square());
        }
        let value = error.sum() * (0.5 * share);

        let weight = shard.len() as f32 * share;
        let entropy = (log_std.clone() + (HALF_LOG_TAU + 0.5)).sum() * weight;
        let loss = policy.clone() + value.clone() * settings.value_weight
            - entropy.clone() * settings.entropy_weight;

        let (ratio, log_ratio) = (ratio.without_autodiff(), log_ratio.without_autodiff());
        let kl = (ratio.clone() - 1.0 - log_ratio).sum() * share;
        let clip_fraction = (ratio - 1.0).abs().greater_elem(settings.clip).float().sum() * share;
        (loss, vec![policy, value, entropy, kl, clip_fraction])
    }

    /// Adds weights and moments to a checkpoint.
    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put("network.parameters", &self.parameters);
        checkpoint.put("network.adam.first_moment", &self.adam.first_moment);
        checkpoint.put("network.adam.second_moment", &self.adam.second_moment);
        checkpoint.put_counter("network.adam.time", self.adam.time);
    }

    /// Takes weights and moments from a checkpoint of the same shapes.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        let length = self.parameters.len();
        self.parameters = checkpoint.array_f32("network.parameters", length)?;
        self.adam.first_moment = checkpoint.array_f32("network.adam.first_moment", length)?;
        self.adam.second_moment = checkpoint.array_f32("network.adam.second_moment", length)?;
        self.adam.time = checkpoint.counter("network.adam.time")?;
        Ok(())
    }
}

/// ln(2 pi) / 2.
const HALF_LOG_TAU: f32 = 0.918_938_5;

/// Mean and standard deviation, the latter kept away from zero.
fn moments(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let variance = values.map(|v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, (variance.sqrt() + 1e-8) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_makes_good_actions_likelier_and_values_better() {
        let mut rng = Rng::at(0, &[]);
        let mut network = ActorCritic::new(2, 1, &[16], 1.0, &mut rng);
        let observations: Vec<f32> = (0..200).map(|_| rng.normal() as f32).collect();
        let actions: Vec<f32> = (0..100).map(|_| rng.normal() as f32).collect();
        let (mut means, mut values) = (Vec::new(), Vec::new());
        network.means(&observations, &mut means);
        network.values(&observations, &mut values);
        let log_probs: Vec<f32> =
            (0..100).map(|i| network.log_prob(&means[i..=i], &actions[i..=i])).collect();
        let batch = Batch {
            observations: &observations,
            actions: &actions,
            log_probs: &log_probs,
            advantages: &actions,
            returns: &[3.0; 100],
            values: &values,
        };
        let settings = StepSettings {
            clip: 0.2,
            value_clip: None,
            value_weight: 0.5,
            entropy_weight: 0.0,
            learning_rate: 1e-2,
            max_gradient_norm: 1.0,
            threads: 1,
        };
        let rows: Vec<usize> = (0..100).collect();
        let first = network.step(&batch, &rows, &settings);
        assert!(
            first.kl.abs() < 1e-6 && first.clip_fraction == 0.0,
            "the first step starts at ratio 1: {first:?}"
        );
        let last = (0..20).map(|_| network.step(&batch, &rows, &settings)).last().unwrap();
        assert!(last.value < 0.5 * first.value && last.policy < first.policy - 0.05, "{first:?} {last:?}");
    }
}
