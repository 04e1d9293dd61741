//! The settings of PPO.

use serde::{Deserialize, Serialize};

use crate::architecture::NetworkConfig;
use crate::policy::Hidden;
use crate::ppo::LearnError;

/// All hyper-parameters of PPO. Defaults suit small control tasks (cart-pole swing-up, pendulum).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// Environment steps in all; rounded up to whole iterations.
    pub total_steps: u64,
    /// Environments side by side.
    pub environments: usize,
    /// Steps of each environment per iteration.
    pub rollout_steps: usize,
    /// Spread the environments over the phases of an episode: the first episode of environment `i` of `n` is cut after
    /// `(i + 1) / n` of this many steps (rsl_rl's random initial episode length). 0 starts all in step.
    pub stagger_steps: usize,
    /// Passes over a rollout.
    pub epochs: usize,
    /// Minibatches per pass.
    pub minibatches: usize,
    /// Hidden layers of policy and value network.
    pub hidden: Vec<usize>,
    /// What follows each of them, and each convolution.
    pub activation: Hidden,
    /// Standard deviation of the first policy's actions; the action range is -1..1.
    pub initial_std: f32,
    /// Adam's step size at the start.
    pub learning_rate: f32,
    /// How the step size changes.
    pub schedule: Schedule,
    /// KL per update that `adaptive_kl` aims at, nats.
    pub target_kl: f32,
    /// Discount per control step.
    pub discount: f32,
    /// Lambda of generalised advantage estimation.
    pub gae_lambda: f32,
    /// Clip of the probability ratio.
    pub clip: f32,
    /// Also clip the change of the value by `clip` (PPO-max).
    pub clip_values: bool,
    /// Weight of the value's loss.
    pub value_weight: f32,
    /// Weight of the entropy bonus.
    pub entropy_weight: f32,
    /// Limit of the gradient's norm over all weights.
    pub max_gradient_norm: f32,
    /// Divide rewards by the running standard deviation of the discounted return, without a mean (PPO-max).
    pub scale_rewards: bool,
    /// Normalise observations by their running mean and deviation; otherwise they are only clipped to +-10.
    pub normalise_observations: bool,
    /// The critic also sees what the task calls privileged (asymmetric actor-critic).
    pub privileged_critic: bool,
    /// Iterations over which the learning rate rises from 0 (PPO-max); 0: none.
    pub warmup_iterations: u64,
    /// Iterations at the start in which only the value learns (PPO-max, for a policy that was trained before); 0: none.
    pub critic_warmup_iterations: u64,
    /// Weight of the KL penalty to the policy that the run started from, per step, before rewards are scaled (PPO-max); 0: none.
    pub reference_kl: f32,
    /// Iterations between checkpoints.
    pub checkpoint_interval: u64,
    /// Threads for rollouts and gradients; changes no bit of the result.
    pub threads: usize,
    /// What comes before the hidden layers, in both networks.
    pub network: NetworkConfig,
}

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Not at all.
    Constant,
    /// To zero at `total_steps`.
    Linear,
    /// Divided by 1.5 after an epoch whose KL is above twice the target, times 1.5 below half of it (rsl_rl).
    AdaptiveKl,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            total_steps: 800_000,
            environments: 32,
            rollout_steps: 128,
            stagger_steps: 500,
            epochs: 8,
            minibatches: 4,
            hidden: vec![64, 64],
            activation: Hidden::Tanh,
            initial_std: 1.0,
            learning_rate: 1e-3,
            schedule: Schedule::AdaptiveKl,
            target_kl: 0.015,
            discount: 0.99,
            gae_lambda: 0.95,
            clip: 0.2,
            clip_values: false,
            value_weight: 0.5,
            entropy_weight: 0.002,
            max_gradient_norm: 0.5,
            scale_rewards: true,
            normalise_observations: true,
            privileged_critic: true,
            warmup_iterations: 0,
            critic_warmup_iterations: 0,
            reference_kl: 0.0,
            checkpoint_interval: 20,
            threads: 2,
            network: NetworkConfig::default(),
        }
    }
}

impl PpoConfig {
    /// Iterations that make up `total_steps`.
    pub fn iterations(&self) -> u64 {
        self.total_steps.div_ceil((self.environments * self.rollout_steps) as u64)
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn check(&self) -> Result<(), LearnError> {
        let positive = [
            ("total_steps", self.total_steps as f64),
            ("environments", self.environments as f64),
            ("rollout_steps", self.rollout_steps as f64),
            ("epochs", self.epochs as f64),
            ("minibatches", self.minibatches as f64),
            ("initial_std", f64::from(self.initial_std)),
            ("learning_rate", f64::from(self.learning_rate)),
            ("target_kl", f64::from(self.target_kl)),
            ("clip", f64::from(self.clip)),
            ("max_gradient_norm", f64::from(self.max_gradient_norm)),
            ("checkpoint_interval", self.checkpoint_interval as f64),
            ("threads", self.threads as f64),
        ];
        for (field, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(LearnError::Config { field, problem: format!("{value} is not above 0") });
            }
        }
        for (field, value) in [("discount", self.discount), ("gae_lambda", self.gae_lambda)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(LearnError::Config { field, problem: format!("{value} is not in 0..1") });
            }
        }
        for (field, value) in [
            ("entropy_weight", self.entropy_weight),
            ("value_weight", self.value_weight),
            ("reference_kl", self.reference_kl),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(LearnError::Config { field, problem: format!("{value} is below 0") });
            }
        }
        self.network.check_sequence()?;
        let sequence = self.network.sequence();
        if !self.rollout_steps.is_multiple_of(sequence) {
            return Err(LearnError::Config {
                field: "rollout_steps",
                problem: format!("{} are no whole sequences of {sequence} steps", self.rollout_steps),
            });
        }
        let units = self.environments * self.rollout_steps / sequence;
        if self.minibatches > units {
            return Err(LearnError::Config {
                field: "minibatches",
                problem: format!("{} for {units} sequences", self.minibatches),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_checked_by_field_and_a_typo_is_refused() {
        let message = PpoConfig { discount: 1.5, ..PpoConfig::default() }.check().unwrap_err().to_string();
        assert!(message.contains("discount: 1.5"), "{message}");
        assert!(
            toml::from_str::<PpoConfig>("learning_rat = 1.0")
                .unwrap_err()
                .to_string()
                .contains("learning_rate")
        );
        let text = toml::to_string(&PpoConfig::default()).unwrap();
        assert_eq!(toml::from_str::<PpoConfig>(&text).unwrap(), PpoConfig::default());
    }
}
