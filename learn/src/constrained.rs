//! PPO under a constraint: Lagrangian relaxation with a cost critic (Ray, Achiam and Amodei 2019; Safe RLHF, Dai et al. 2024), whose
//! multiplier is a controller's output (Stooke, Achiam and Abbeel 2020, arXiv:2007.03964).

use serde::{Deserialize, Serialize};
use tendon_nn::Network;

use crate::checkpoint::Checkpoint;
use crate::communicator::{Communicator, mean};
use crate::config::PpoConfig;
use crate::driver::{Learner, Place, drive};
use crate::policy::{Policy, mlp};
use crate::ppo::{LearnError, Ppo, Trained};
use crate::progress::{CurveRow, OnProgress};
use crate::random::Rng;
use crate::regression::Regression;
use crate::rollout::{Finished, MakeEnvironment, Rollout, gae, stream};
use crate::run_folder::{FileError, RunFolder};

/// Hyper-parameters of PPO under a constraint.
///
/// The policy follows `A = (A_r - lambda A_c) / (1 + lambda)` (Safe RLHF), both advantages in units of their own deviation. With the excess
/// `e = cost / limit - 1` of the mean cost of an iteration's steps, `lambda = max(0, P e + I)` and `I <- max(0, I + K e)` (Stooke et al.,
/// algorithm 2, without a derivative). Gradient ascent on the multiplier is the integral alone: it swings about the limit for ever,
/// because the policy follows the multiplier late; `P` damps that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConstrainedConfig {
    /// The task's physical metric whose absolute value is the cost of a step.
    pub cost: String,
    /// What the mean cost per step shall not exceed, in the metric's unit.
    pub limit: f64,
    /// Part of the Lagrange multiplier per excess of the iteration (`P`).
    pub proportional: f64,
    /// Change of the other part (`I`, 0 at the start) per iteration and excess (`K`).
    pub integral: f64,
    /// Adam's step size of the cost critic.
    pub critic_rate: f32,
    /// The policy's learner.
    pub ppo: PpoConfig,
}

impl Default for ConstrainedConfig {
    fn default() -> Self {
        Self {
            cost: String::new(),
            limit: 1.0,
            proportional: 5.0,
            integral: 0.2,
            critic_rate: 1e-3,
            ppo: PpoConfig::default(),
        }
    }
}

/// Trains on the task's own reward under a constraint. Checkpoints and resumption as for [`crate::train`].
///
/// # Errors
/// As [`crate::train`]; also when the task has no such metric.
pub fn train_constrained(
    config: &ConstrainedConfig,
    make: MakeEnvironment,
    ranks: &dyn Communicator,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    drive(Constrained::new(config, make, ranks, seed)?, config, run, on_progress)
}

struct Constrained<'a> {
    config: ConstrainedConfig,
    ranks: &'a dyn Communicator,
    seed: u64,
    ppo: Ppo<'a>,
    critic: Regression,
    /// What excesses summed up to (`I`).
    integral: f64,
}

impl<'a> Constrained<'a> {
    fn new(
        config: &ConstrainedConfig,
        make: MakeEnvironment,
        ranks: &'a dyn Communicator,
        seed: u64,
    ) -> Result<Self, LearnError> {
        let probe = make();
        let names = probe.metric_names();
        let metric = names.iter().position(|name| *name == config.cost).ok_or_else(|| {
            let problem = format!("{:?} is no metric of this task; it has {}", config.cost, names.join(", "));
            LearnError::Config { field: "cost", problem }
        })?;
        for (field, value) in [("limit", config.limit), ("integral", config.integral)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(LearnError::Config { field, problem: format!("{value} is not above 0") });
            }
        }
        if !(config.proportional >= 0.0 && config.proportional.is_finite()) {
            let problem = format!("{} is not 0 or above", config.proportional);
            return Err(LearnError::Config { field: "proportional", problem });
        }
        let mut ppo = Ppo::new(&config.ppo, make, ranks, seed)?;
        ppo.cost_metric = Some(metric);
        let shape = mlp(ppo.state_len(), &config.ppo.hidden, 1, config.ppo.activation);
        let rng = &mut Rng::at(seed, &[stream::COST_CRITIC, stream::WEIGHTS]);
        Ok(Self {
            critic: Regression::new(Network::dense(shape), 1.0, config.ppo.threads, rng),
            integral: 0.0,
            config: config.clone(),
            ranks,
            seed,
            ppo,
        })
    }

    /// Advantages of the cost under the cost critic, and the critic's targets.
    fn cost_advantages(&mut self, rollout: &Rollout) -> (Vec<f32>, Vec<f32>) {
        let values = self.critic.infer(&rollout.states);
        let mut next_values: Vec<f32> = values.iter().skip(1).copied().collect();
        next_values.resize(values.len(), 0.0);
        let lasts: Vec<f32> = rollout.last_states.iter().flat_map(|(_, state)| state.clone()).collect();
        if !lasts.is_empty() {
            for ((row, _), value) in rollout.last_states.iter().zip(self.critic.infer(&lasts)) {
                next_values[*row] = value;
            }
        }
        let PpoConfig { discount, gae_lambda, .. } = self.config.ppo;
        let advantages = gae(rollout, &rollout.costs, &values, &next_values, discount, gae_lambda);
        let targets = advantages.iter().zip(&values).map(|(a, v)| a + v).collect();
        (advantages, targets)
    }

    fn fit_critic(&mut self, rollout: &Rollout, targets: &[f32]) {
        let width = self.ppo.state_len();
        let own = self.ppo.own_rows(rollout);
        let mut rows: Vec<usize> = (0..self.config.ppo.environments * rollout.steps).collect();
        let mut rng = Rng::at(self.seed, &[stream::COST_CRITIC, stream::SHUFFLE, self.ppo.place().iteration]);
        for _ in 0..self.config.ppo.epochs {
            rng.shuffle(&mut rows);
            for part in rows.chunks(rows.len().div_ceil(self.config.ppo.minibatches)) {
                let here = part.iter().filter(|r| own.contains(r)).map(|r| r - own.start);
                let x: Vec<f32> =
                    here.clone().flat_map(|r| &rollout.states[r * width..(r + 1) * width]).copied().collect();
                let y: Vec<f32> = here.map(|r| targets[r]).collect();
                self.critic.step(&x, &y, (self.ranks, part.len()), self.config.critic_rate);
            }
        }
    }
}

impl Learner for Constrained<'_> {
    const KIND: &'static str = "constrained-ppo";

    fn ranks(&self) -> &dyn Communicator {
        self.ranks
    }

    fn place(&self) -> Place {
        self.ppo.place()
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let rollout = self.ppo.collect()?;
        let cost = mean(self.ranks, rollout.costs.iter().map(|&c| f64::from(c)));
        let excess = cost / self.config.limit - 1.0;
        self.integral = (self.integral + self.config.integral * excess).max(0.0);
        let multiplier = (self.config.proportional * excess + self.integral).max(0.0) as f32;
        let (mut of_cost, cost_targets) = self.cost_advantages(&rollout);
        let (mut of_reward, returns) = self.ppo.advantages(&rollout, &rollout.rewards);
        standardise(&mut of_cost, self.ranks);
        standardise(&mut of_reward, self.ranks);
        let both: Vec<f32> = of_reward
            .iter()
            .zip(&of_cost)
            .map(|(reward, cost)| (reward - multiplier * cost) / (1.0 + multiplier))
            .collect();
        self.fit_critic(&rollout, &cost_targets);
        let losses = self.ppo.learn(&rollout, &both, &returns)?;
        let row = CurveRow {
            cost: Some(cost),
            multiplier: Some(f64::from(multiplier)),
            ..self.ppo.row(&rollout, &rollout.rewards, losses)
        };
        Ok((row, rollout.finished))
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        self.ppo.save(checkpoint);
        self.critic.save(checkpoint, "cost_critic");
        checkpoint.put("integral", &[self.integral]);
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        self.ppo.restore(checkpoint)?;
        self.critic.restore(checkpoint, "cost_critic")?;
        self.integral = checkpoint.array("integral", 1)?[0];
        Ok(())
    }

    fn policy(&self) -> Policy {
        self.ppo.policy()
    }
}

/// Divides by the standard deviation and takes the mean away.
fn standardise(values: &mut [f32], ranks: &dyn Communicator) {
    let centre = mean(ranks, values.iter().map(|&v| f64::from(v)));
    let variance = mean(ranks, values.iter().map(|&v| (f64::from(v) - centre).powi(2)));
    let scale = 1.0 / (variance.sqrt() + 1e-8);
    values.iter_mut().for_each(|v| *v = ((f64::from(*v) - centre) * scale) as f32);
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::communicator::Alone;
    use crate::pendulum::pendulum;
    use crate::progress::Progress;
    use crate::run_folder::tests::scratch;

    fn keep_on(_: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn config(limit: f64) -> ConstrainedConfig {
        let ppo =
            PpoConfig { total_steps: 200_000, environments: 16, discount: 0.95, ..PpoConfig::default() };
        ConstrainedConfig { cost: "torque_nm".into(), limit, ppo, ..Default::default() }
    }

    #[test]
    fn keeps_the_mean_cost_near_its_limit_where_it_would_be_above() {
        let mean_cost = |limit| {
            let trained =
                train_constrained(&config(limit), &pendulum, &Alone, 1, None, &mut keep_on).unwrap();
            let tail = &trained.curves[trained.curves.len() - 10..];
            tail.iter().filter_map(|row| row.cost).sum::<f64>() / 10.0
        };
        let (free, bound) = (mean_cost(100.0), mean_cost(0.3));
        println!("{free} without, {bound} under the limit of 0.3 Nm");
        assert!(
            free > 0.4 && (bound - 0.3).abs() < 0.03,
            "{free} without, {bound} under the limit of 0.3 Nm"
        );
    }

    #[test]
    fn a_killed_run_resumes_with_the_same_bits() {
        let mut short = config(0.3);
        short.ppo = PpoConfig {
            total_steps: 6 * 1024,
            environments: 8,
            hidden: vec![16],
            checkpoint_interval: 2,
            ..PpoConfig::default()
        };
        let whole = train_constrained(&short, &pendulum, &Alone, 3, None, &mut keep_on).unwrap();
        let run = RunFolder::create(scratch("constrained")).unwrap();
        let mut until = |p: &Progress| {
            if p.done < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        train_constrained(&short, &pendulum, &Alone, 3, Some(&run), &mut until).unwrap();
        short.ppo.threads = 1;
        let resumed = train_constrained(&short, &pendulum, &Alone, 3, Some(&run), &mut keep_on).unwrap();
        assert_eq!(resumed.policy, whole.policy);
    }

    #[test]
    fn a_metric_that_the_task_has_not_is_refused_with_those_it_has() {
        let config = ConstrainedConfig { cost: "torqe".into(), ..ConstrainedConfig::default() };
        let message =
            train_constrained(&config, &pendulum, &Alone, 1, None, &mut keep_on).unwrap_err().to_string();
        assert!(message.contains("torque_nm"), "{message}");
    }
}
