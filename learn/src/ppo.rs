//! Proximal policy optimisation (Schulman et al. 2017) in the form of CleanRL's `ppo_continuous_action.py`, with Spinning Up's
//! advantages and PPO-max's stabilisers as options.

use std::ops::ControlFlow;
use std::time::Instant;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::config::{PpoConfig, Schedule};
use crate::network::{ActorCritic, Batch, Losses, StepSettings};
use crate::normaliser::Normaliser;
use crate::policy::Policy;
use crate::progress::{CurveRow, OnProgress, Progress, Stage};
use crate::random::Rng;
use crate::rollout::{MakeEnvironment, Rollout, Slot, advantages, collect, stream};
use crate::run_folder::{FileError, RunFolder};

/// Why learning stopped.
#[derive(Debug, Error)]
pub enum LearnError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A setting.
    #[error("configuration: {field}: {problem}; change it in the TOML file or on the command line")]
    Config {
        /// Key of the setting.
        field: &'static str,
        /// Why it cannot be.
        problem: String,
    },
    /// The environment or the weights left the finite numbers.
    #[error(
        "iteration {iteration}: {what} is not finite; check the task's observation and reward terms, or lower learning_rate"
    )]
    NotFinite {
        /// Where.
        iteration: u64,
        /// What.
        what: &'static str,
    },
}

/// What training returns.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The deterministic policy.
    pub policy: Policy,
    /// One row per iteration.
    pub curves: Vec<CurveRow>,
    /// The progress callback asked to stop.
    pub interrupted: bool,
}

/// Trains on the task's own reward. With a run folder it leaves checkpoints, and continues from the last one when there is one;
/// the result has the same bits as that of a run that was never stopped.
///
/// # Errors
/// For an impossible configuration, a disk that refuses, or numbers that are no longer finite.
pub fn train(
    config: &PpoConfig,
    make: MakeEnvironment,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    let mut ppo = Ppo::new(config, make, seed)?;
    let kind = "ppo";
    let value = serde_json::to_value(config).unwrap_or_default();
    let mut curves = Vec::new();
    if let Some(checkpoint) = run.map(|run| Checkpoint::load_last(&run.checkpoints())).transpose()?.flatten()
    {
        same_config(&checkpoint, kind, &value)?;
        ppo.restore(&checkpoint)?;
        curves = ppo.earlier_curves(run)?;
    }
    let mut interrupted = false;
    while ppo.iteration < config.iterations() && !interrupted {
        let started = Instant::now();
        let rollout = ppo.collect()?;
        let losses = ppo.update(&rollout, &rollout.rewards)?;
        let row = ppo.row(&rollout, &rollout.rewards, losses, started);
        let report = Progress {
            stage: Stage::TrueReward,
            done: ppo.iteration,
            total: config.iterations(),
            row: Some(row.clone()),
        };
        interrupted = on_progress(&report) == ControlFlow::Break(());
        curves.push(row);
        if let Some(run) = run.filter(|_| ppo.at_checkpoint()) {
            let mut checkpoint = Checkpoint::new(kind, value.clone());
            ppo.save(&mut checkpoint);
            // Before the checkpoint, which promises that they are there.
            run.write_curves(&curves)?;
            checkpoint.save(&run.checkpoints(), ppo.steps())?;
        }
    }
    Ok(Trained { policy: ppo.policy(), curves, interrupted })
}

/// The policy of the last checkpoint of a run, trained on whichever reward; `None` before the first one.
///
/// # Errors
/// A damaged checkpoint, or one of other settings.
pub fn restore_policy(
    config: &PpoConfig,
    make: MakeEnvironment,
    seed: u64,
    run: &RunFolder,
) -> Result<Option<Policy>, LearnError> {
    let Some(checkpoint) = Checkpoint::load_last(&run.checkpoints())? else { return Ok(None) };
    let mut ppo = Ppo::new(config, make, seed)?;
    ppo.restore(&checkpoint)?;
    Ok(Some(ppo.policy()))
}

/// The learner between two iterations.
pub(crate) struct Ppo {
    config: PpoConfig,
    seed: u64,
    network: ActorCritic,
    normaliser: Normaliser,
    /// Of the discounted return.
    reward_scale: Normaliser,
    /// Discounted return of each environment so far.
    discounted: Vec<f32>,
    learning_rate: f32,
    /// Finished iterations.
    pub(crate) iteration: u64,
    slots: Vec<Slot>,
}

impl Ppo {
    pub(crate) fn new(config: &PpoConfig, make: MakeEnvironment, seed: u64) -> Result<Self, LearnError> {
        config.check()?;
        let slots: Vec<Slot> = (0..config.environments)
            .map(|index| {
                Slot::start(make, seed, index, (index + 1) * config.stagger_steps / config.environments)
            })
            .collect();
        let probe = make();
        let (n_obs, n_act) = (probe.observation_len(), probe.action_len());
        let mut rng = Rng::at(seed, &[stream::WEIGHTS]);
        Ok(Self {
            network: ActorCritic::new(n_obs, n_act, &config.hidden, config.initial_std, &mut rng),
            normaliser: Normaliser::new(n_obs),
            reward_scale: Normaliser::new(1),
            discounted: vec![0.0; config.environments],
            learning_rate: config.learning_rate,
            iteration: 0,
            config: config.clone(),
            seed,
            slots,
        })
    }

    /// Runs the policy for one iteration.
    pub(crate) fn collect(&mut self) -> Result<Rollout, LearnError> {
        let place = (self.seed, self.iteration);
        let normaliser = self.normaliser.freeze();
        let rollout = collect(
            &mut self.slots,
            &self.network,
            &normaliser,
            self.config.rollout_steps,
            place,
            self.config.threads,
        );
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        for (what, values) in [
            ("an observation", &rollout.observations),
            ("a reward", &rollout.rewards),
            ("an action", &rollout.actions),
        ] {
            if !finite(values) {
                return Err(LearnError::NotFinite { iteration: self.iteration, what });
            }
        }
        Ok(rollout)
    }

    /// Learns from one rollout under `rewards` (the task's or a model's) and ends the iteration.
    pub(crate) fn update(&mut self, rollout: &Rollout, rewards: &[f32]) -> Result<Losses, LearnError> {
        let config = self.config.clone();
        let rewards = self.scaled(rollout, rewards);
        let advantages = advantages(rollout, &rewards, config.discount, config.gae_lambda);
        let returns: Vec<f32> = advantages.iter().zip(&rollout.values).map(|(a, v)| a + v).collect();
        let batch = Batch {
            observations: &rollout.normalised,
            actions: &rollout.actions,
            log_probs: &rollout.log_probs,
            advantages: &advantages,
            returns: &returns,
            values: &rollout.values,
        };
        if config.schedule == Schedule::Linear {
            self.learning_rate =
                config.learning_rate * (1.0 - self.iteration as f32 / config.iterations() as f32);
        }
        let mut rng = Rng::at(self.seed, &[stream::SHUFFLE, self.iteration]);
        let mut rows: Vec<usize> = (0..rewards.len()).collect();
        let mut losses = Losses::default();
        for _ in 0..config.epochs {
            losses = Losses::default();
            rng.shuffle(&mut rows);
            for minibatch in rows.chunks(rows.len().div_ceil(config.minibatches)) {
                let settings = StepSettings {
                    clip: config.clip,
                    value_clip: config.clip_values.then_some(config.clip),
                    value_weight: config.value_weight,
                    entropy_weight: config.entropy_weight,
                    learning_rate: self.learning_rate,
                    max_gradient_norm: config.max_gradient_norm,
                    threads: config.threads,
                };
                let part = self.network.step(&batch, minibatch, &settings);
                let weight = minibatch.len() as f64 / rewards.len() as f64;
                losses.policy += weight * part.policy;
                losses.value += weight * part.value;
                losses.entropy += weight * part.entropy;
                losses.kl += weight * part.kl;
                losses.clip_fraction += weight * part.clip_fraction;
            }
            if config.schedule == Schedule::AdaptiveKl {
                self.adapt(losses.kl);
            }
        }
        self.normaliser.update(&rollout.observations);
        if !self.network.parameters().iter().all(|p| p.is_finite()) {
            return Err(LearnError::NotFinite { iteration: self.iteration, what: "a weight" });
        }
        self.iteration += 1;
        Ok(losses)
    }

    /// The deterministic policy as it stands.
    pub(crate) fn policy(&self) -> Policy {
        let (mlp, parameters) = self.network.actor();
        Policy { normaliser: self.normaliser.freeze(), mlp: mlp.clone(), parameters: parameters.to_vec() }
    }

    /// Widths of observation and action.
    pub(crate) fn widths(&self) -> (usize, usize) {
        let (mlp, _) = self.network.actor();
        (mlp.inputs(), mlp.outputs())
    }

    /// The rows of the run's curves up to the restored iteration.
    pub(crate) fn earlier_curves(&self, run: Option<&RunFolder>) -> Result<Vec<CurveRow>, FileError> {
        let rows = run.map_or_else(|| Ok(Vec::new()), RunFolder::read_curves::<CurveRow>)?;
        Ok(rows.into_iter().filter(|row| row.iteration < self.iteration).collect())
    }

    /// Environment steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.iteration * (self.config.environments * self.config.rollout_steps) as u64
    }

    /// A checkpoint is due.
    pub(crate) fn at_checkpoint(&self) -> bool {
        self.iteration.is_multiple_of(self.config.checkpoint_interval)
            || self.iteration == self.config.iterations()
    }

    /// The curve's row for the iteration that has just ended.
    pub(crate) fn row(
        &self,
        rollout: &Rollout,
        rewards: &[f32],
        losses: Losses,
        started: Instant,
    ) -> CurveRow {
        let count = rollout.finished.len() as f64;
        let mean = |sum: f64| (count > 0.0).then(|| sum / count);
        CurveRow {
            iteration: self.iteration - 1,
            steps: self.steps(),
            episode_return: mean(rollout.finished.iter().map(|(total, _)| total).sum()),
            episode_length: mean(rollout.finished.iter().map(|&(_, length)| length as f64).sum()),
            reward_mean: rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / rewards.len() as f64,
            policy_loss: losses.policy,
            value_loss: losses.value,
            entropy: losses.entropy,
            kl: losses.kl,
            clip_fraction: losses.clip_fraction,
            learning_rate: f64::from(self.learning_rate),
            labels: 0,
            label_accuracy: None,
            steps_per_s: rewards.len() as f64 / started.elapsed().as_secs_f64(),
        }
    }

    /// Adds everything that the next iteration depends on.
    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put_counter("seed", self.seed);
        checkpoint.put_counter("iteration", self.iteration);
        self.network.save(checkpoint);
        for (name, normaliser) in [("observations", &self.normaliser), ("returns", &self.reward_scale)] {
            checkpoint.put(&format!("{name}.count"), &[normaliser.count]);
            checkpoint.put(&format!("{name}.mean"), &normaliser.mean);
            checkpoint.put(&format!("{name}.deviation"), &normaliser.deviation);
        }
        checkpoint.put("discounted", &self.discounted);
        checkpoint.put("learning_rate", &[self.learning_rate]);
        for (index, slot) in self.slots.iter().enumerate() {
            slot.save(checkpoint, index);
        }
    }

    /// Takes the place of the learner that wrote `checkpoint`.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        if checkpoint.counter("seed")? != self.seed {
            return Err(checkpoint.error(
                "seed",
                format!("{}, the run now asked for has {}", checkpoint.counter("seed")?, self.seed),
            ));
        }
        self.iteration = checkpoint.counter("iteration")?;
        self.network.restore(checkpoint)?;
        for (name, normaliser) in
            [("observations", &mut self.normaliser), ("returns", &mut self.reward_scale)]
        {
            let width = normaliser.mean.len();
            normaliser.count = checkpoint.array(&format!("{name}.count"), 1)?[0];
            normaliser.mean = checkpoint.array(&format!("{name}.mean"), width)?.to_vec();
            normaliser.deviation = checkpoint.array(&format!("{name}.deviation"), width)?.to_vec();
        }
        self.discounted = checkpoint.array_f32("discounted", self.discounted.len())?;
        self.learning_rate = checkpoint.array_f32("learning_rate", 1)?[0];
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.restore(checkpoint, self.seed, index)?;
        }
        Ok(())
    }

    /// Rewards divided by the running standard deviation of the discounted return (Gym's `NormalizeReward`, PPO-max).
    fn scaled(&mut self, rollout: &Rollout, rewards: &[f32]) -> Vec<f32> {
        if !self.config.scale_rewards {
            return rewards.to_vec();
        }
        let mut returns = Vec::with_capacity(rewards.len());
        for (e, rewards) in rewards.chunks(rollout.steps).enumerate() {
            for (t, reward) in rewards.iter().enumerate() {
                let row = e * rollout.steps + t;
                self.discounted[e] = self.discounted[e] * self.config.discount + reward;
                returns.push(self.discounted[e]);
                if rollout.terminated[row] || rollout.truncated[row] {
                    self.discounted[e] = 0.0;
                }
            }
        }
        self.reward_scale.update(&returns);
        let scale = self.reward_scale.scale()[0];
        rewards.iter().map(|r| (r * scale).clamp(-SCALED_REWARD_LIMIT, SCALED_REWARD_LIMIT)).collect()
    }

    fn adapt(&mut self, kl: f64) {
        let target = f64::from(self.config.target_kl);
        if kl > 2.0 * target {
            self.learning_rate = (self.learning_rate / 1.5).max(LEARNING_RATE_RANGE.0);
        } else if kl < 0.5 * target {
            self.learning_rate = (self.learning_rate * 1.5).min(LEARNING_RATE_RANGE.1);
        }
    }
}

/// A checkpoint may only be continued under the configuration that wrote it; threads change no bit and may differ.
pub(crate) fn same_config(
    checkpoint: &Checkpoint,
    kind: &str,
    config: &serde_json::Value,
) -> Result<(), FileError> {
    if checkpoint.kind != kind {
        return Err(checkpoint.error("kind", format!("{:?}, this learner is {kind:?}", checkpoint.kind)));
    }
    match first_difference(&checkpoint.config, config, "config") {
        Some((field, was, is)) => {
            Err(checkpoint.error(&field, format!("{was}, the run now asked for has {is}")))
        }
        None => Ok(()),
    }
}

/// rsl_rl's range.
const LEARNING_RATE_RANGE: (f32, f32) = (1e-5, 1e-2);

/// As in CleanRL's `TransformReward(clip)`.
const SCALED_REWARD_LIMIT: f32 = 10.0;

fn first_difference(
    was: &serde_json::Value,
    is: &serde_json::Value,
    path: &str,
) -> Option<(String, String, String)> {
    match (was, is) {
        (serde_json::Value::Object(was), serde_json::Value::Object(is)) => {
            let null = serde_json::Value::Null;
            let keys: std::collections::BTreeSet<&String> =
                was.keys().chain(is.keys()).filter(|k| *k != "threads").collect();
            keys.into_iter().find_map(|key| {
                first_difference(
                    was.get(key).unwrap_or(&null),
                    is.get(key).unwrap_or(&null),
                    &format!("{path}.{key}"),
                )
            })
        }
        _ => (was != is).then(|| (path.into(), was.to_string(), is.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pendulum::pendulum;
    use crate::policy::evaluate;
    use crate::run_folder::tests::scratch;

    /// Small and fast; too short to learn much.
    fn short() -> PpoConfig {
        PpoConfig {
            total_steps: 8 * 1024,
            environments: 8,
            rollout_steps: 128,
            hidden: vec![16],
            checkpoint_interval: 2,
            ..PpoConfig::default()
        }
    }

    fn keep_on(_: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn pendulum_config() -> PpoConfig {
        PpoConfig {
            total_steps: 150_000,
            environments: 16,
            rollout_steps: 128,
            discount: 0.95,
            ..PpoConfig::default()
        }
    }

    #[test]
    fn swings_up_the_pendulum() {
        let config = pendulum_config();
        let trained = train(&config, &pendulum, 1, None, &mut keep_on).unwrap();
        let episodes = evaluate(Some(&trained.policy), &pendulum, 50, 7, 2);
        let mean = episodes.iter().map(|e| e.episode_return).sum::<f64>() / 50.0;
        assert!(mean > -250.0, "{mean}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
        let train_on = |threads, seed| {
            train(&PpoConfig { threads, ..short() }, &pendulum, seed, None, &mut keep_on).unwrap()
        };
        let one = train_on(1, 3);
        assert_eq!(one.policy, train_on(2, 3).policy);
        assert_eq!(one.policy, train_on(5, 3).policy);
        assert_ne!(one.policy, train_on(1, 4).policy);
    }

    #[test]
    fn a_killed_run_resumes_with_the_same_bits() {
        let uninterrupted = train(&short(), &pendulum, 3, None, &mut keep_on).unwrap();
        for killed_after in [1, 3, 4, 7] {
            let run = RunFolder::create(scratch(&format!("resume-{killed_after}"))).unwrap();
            let mut until = |progress: &Progress| {
                if progress.done < killed_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            assert!(train(&short(), &pendulum, 3, Some(&run), &mut until).unwrap().interrupted);
            let resumed = train(&short(), &pendulum, 3, Some(&run), &mut keep_on).unwrap();
            assert_eq!(resumed.policy, uninterrupted.policy, "killed after {killed_after}");
            assert_eq!(resumed.curves.len(), 8);
        }
    }

    #[test]
    fn refuses_to_resume_under_another_configuration() {
        let run = RunFolder::create(scratch("other-config")).unwrap();
        train(&short(), &pendulum, 3, Some(&run), &mut keep_on).unwrap();
        let other = PpoConfig { clip: 0.3, ..short() };
        let message = train(&other, &pendulum, 3, Some(&run), &mut keep_on).unwrap_err().to_string();
        assert!(message.contains("config.clip"), "{message}");
        let message = train(&short(), &pendulum, 4, Some(&run), &mut keep_on).unwrap_err().to_string();
        assert!(message.contains("seed"), "{message}");
    }
}
