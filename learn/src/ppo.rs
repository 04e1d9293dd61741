//! Proximal policy optimisation (Schulman et al. 2017) in the form of CleanRL's `ppo_continuous_action.py`, with Spinning Up's
//! advantages and PPO-max's stabilisers as options.

use std::ops::Range;
use std::time::Instant;

use tendon_nn::Mlp;
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::communicator::{Alone, Communicator, each_has_one, joined, mean, share};
use crate::config::{PpoConfig, Schedule};
use crate::driver::{Learner, Place, drive};
use crate::network::{ActorCritic, Batch, Losses, Minibatch, StepSettings};
use crate::normaliser::{FrozenNormaliser, Normaliser};
use crate::policy::{Head, Policy};
use crate::progress::{CurveRow, OnProgress};
use crate::random::Rng;
use crate::rollout::{Finished, MakeEnvironment, Rollout, Slot, advantages, collect, in_order, stream};
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
    /// Ranks that should hold the same do not.
    #[error(
        "iteration {iteration}: {} not what rank 0 has (settings, seed, weights, moments); start all ranks with the same \
         program, arguments and run folder, on processors of one kind",
        ranks_hold(ranks)
    )]
    RanksDiffer {
        /// Where.
        iteration: u64,
        /// Those that differ from rank 0.
        ranks: Vec<usize>,
    },
}

fn ranks_hold(ranks: &[usize]) -> String {
    let names: Vec<String> = ranks.iter().map(usize::to_string).collect();
    if names.len() == 1 {
        format!("rank {} holds", names[0])
    } else {
        format!("ranks {} hold", names.join(", "))
    }
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
    train_from(config, make, None, &Alone, seed, run, on_progress)
}

/// [`train`] that starts from a policy trained before, which is also the reference of `reference_kl`, over `ranks`: each simulates its
/// share of the environments, with the seeds that they have on one rank, and rank 0 alone writes into the run folder, which every rank
/// can read. Minibatches are those of one rank: all ranks shuffle the same list and learn from what is theirs of each part, so that a
/// run over other numbers of ranks differs from it by the rounding of sums alone. It may be resumed by another number of ranks.
///
/// # Errors
/// As [`train`]; also when the policy has another network.
pub fn train_from(
    config: &PpoConfig,
    make: MakeEnvironment,
    start: Option<&Policy>,
    ranks: &dyn Communicator,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    let mut ppo = Ppo::new(config, make, ranks, seed)?;
    if let Some(policy) = start {
        ppo.start_from(policy)?;
    }
    drive(ppo, config, run, on_progress)
}

/// The learner between two iterations.
pub(crate) struct Ppo<'a> {
    config: PpoConfig,
    ranks: &'a dyn Communicator,
    seed: u64,
    network: ActorCritic,
    /// Of observations, and of what only the critic sees.
    normalisers: [Normaliser; 2],
    /// Of the discounted return.
    reward_scale: Normaliser,
    /// Discounted return of each environment of this rank so far.
    discounted: Vec<f32>,
    learning_rate: f32,
    /// Metric whose absolute value rollouts note as the cost.
    pub(crate) cost_metric: Option<usize>,
    /// The policy that the run started from.
    reference: Option<Policy>,
    /// Finished iterations.
    iteration: u64,
    /// Environments of this rank.
    own: Range<usize>,
    slots: Vec<Slot>,
}

impl<'a> Ppo<'a> {
    pub(crate) fn new(
        config: &PpoConfig,
        make: MakeEnvironment,
        ranks: &'a dyn Communicator,
        seed: u64,
    ) -> Result<Self, LearnError> {
        config.check()?;
        let own = share(ranks, config.environments);
        each_has_one(ranks, "environments", config.environments)?;
        let probe = make();
        let (n_obs, n_act) = (probe.observation_len(), probe.action_len());
        let n_privileged = if config.privileged_critic { probe.privileged_len() } else { 0 };
        let build =
            |inputs, outputs| config.network.build(inputs, &config.hidden, outputs, config.activation);
        let (actor, critic) = (build(n_obs, n_act)?, build(n_obs + n_privileged, 1)?);
        let memory = [actor.memory_len(), critic.memory_len()];
        let slots: Vec<Slot> = own
            .clone()
            .map(|index| {
                let first_cut = (index + 1) * config.stagger_steps / config.environments;
                Slot::start(make, seed, index, first_cut, memory)
            })
            .collect();
        let network = ActorCritic::new(
            actor,
            critic,
            config.initial_std,
            config.max_gradient_norm,
            config.threads,
            &mut Rng::at(seed, &[stream::WEIGHTS]),
        );
        Ok(Self {
            network,
            cost_metric: None,
            reference: None,
            normalisers: [Normaliser::new(n_obs), Normaliser::new(n_privileged)],
            reward_scale: Normaliser::new(1),
            discounted: vec![0.0; own.len()],
            ranks,
            own,
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
        let normalisers = [self.normalisers[0].freeze(), self.normalisers[1].freeze()];
        let mut rollout = collect(
            (&mut self.slots, self.own.start),
            &self.network,
            &normalisers,
            (self.config.rollout_steps, self.config.network.sequence()),
            place,
            self.config.threads,
            self.cost_metric,
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
        rollout.finished = joined(self.ranks, rollout.finished);
        in_order(&mut rollout.finished);
        Ok(rollout)
    }

    /// Learns from one rollout under `rewards` (the task's or a model's) and ends the iteration.
    pub(crate) fn update(&mut self, rollout: &Rollout, rewards: &[f32]) -> Result<Losses, LearnError> {
        let (advantages, returns) = self.advantages(rollout, rewards);
        self.learn(rollout, &advantages, &returns)
    }

    /// Advantages and targets of the value under `rewards`, which are brought near the reference and scaled first.
    pub(crate) fn advantages(&mut self, rollout: &Rollout, rewards: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let rewards = self.near_reference(rollout, rewards);
        let rewards = self.scaled(rollout, &rewards);
        let advantages = advantages(rollout, &rewards, self.config.discount, self.config.gae_lambda);
        let returns = advantages.iter().zip(&rollout.values).map(|(a, v)| a + v).collect();
        (advantages, returns)
    }

    /// The epochs of one iteration, and its end.
    pub(crate) fn learn(
        &mut self,
        rollout: &Rollout,
        advantages: &[f32],
        returns: &[f32],
    ) -> Result<Losses, LearnError> {
        let config = self.config.clone();
        let sequence = config.network.sequence();
        let batch = Batch {
            sequence,
            memories: rollout.memories.each_ref().map(Vec::as_slice),
            begins: &rollout.begins,
            states: &rollout.states,
            actions: &rollout.actions,
            log_probs: &rollout.log_probs,
            advantages,
            returns,
            values: &rollout.values,
        };
        if config.schedule == Schedule::Linear {
            self.learning_rate =
                config.learning_rate * (1.0 - self.iteration as f32 / config.iterations() as f32);
        }
        let warmth = (self.iteration + 1) as f32 / (config.warmup_iterations + 1) as f32;
        let critic_alone = self.iteration < config.critic_warmup_iterations;
        let mut rng = Rng::at(self.seed, &[stream::SHUFFLE, self.iteration]);
        let rows = self.own_rows(rollout);
        let own = rows.start / sequence..rows.end / sequence;
        let mut units: Vec<usize> = (0..config.environments * rollout.steps / sequence).collect();
        let mut lists = Vec::new();
        for _ in 0..config.epochs {
            rng.shuffle(&mut units);
            for part in units.chunks(units.len().div_ceil(config.minibatches)) {
                lists.push(part.iter().filter(|u| own.contains(u)).map(|u| u - own.start).collect());
            }
        }
        let in_epoch = lists.len() / config.epochs;
        let minibatches = Minibatch::of(&batch, lists, self.ranks);
        let mut losses = Losses::default();
        for minibatches in minibatches.chunks(in_epoch) {
            losses = Losses::default();
            for minibatch in minibatches {
                let settings = StepSettings {
                    clip: config.clip,
                    value_clip: config.clip_values.then_some(config.clip),
                    policy_weight: if critic_alone { 0.0 } else { 1.0 },
                    value_weight: config.value_weight,
                    entropy_weight: if critic_alone { 0.0 } else { config.entropy_weight },
                    learning_rate: self.learning_rate * warmth.min(1.0),
                };
                let part = self.network.step(&batch, minibatch, &settings, self.ranks);
                losses.add(minibatch.rows as f64 / (units.len() * sequence) as f64, &part);
            }
            losses.sum_over(self.ranks);
            if config.schedule == Schedule::AdaptiveKl && !critic_alone {
                self.adapt(losses.kl);
            }
        }
        if config.normalise_observations {
            self.normalisers[0].update_over(self.ranks, &rollout.observations);
            self.normalisers[1].update_over(self.ranks, &rollout.privileged);
        }
        if !self.network.parameters().iter().all(|p| p.is_finite()) {
            return Err(LearnError::NotFinite { iteration: self.iteration, what: "a weight" });
        }
        self.iteration += 1;
        Ok(losses)
    }

    /// Starts from a policy that was trained before, which is also the reference of `reference_kl`.
    pub(crate) fn start_from(&mut self, policy: &Policy) -> Result<(), LearnError> {
        let (network, _) = self.network.actor();
        if policy.head != Head::Direct || policy.network != *network {
            return Err(LearnError::Config {
                field: "hidden",
                problem: "the policy to start from has another network; give it the same hidden, activation and [network]".into(),
            });
        }
        if self.config.reference_kl > 0.0 && network.memory_len() > 0 {
            return Err(LearnError::Config {
                field: "reference_kl",
                problem: "the reference would have to remember; it needs network.kind mlp or conv".into(),
            });
        }
        let mut parameters = self.network.parameters().to_vec();
        parameters[..policy.parameters.len()].copy_from_slice(&policy.parameters);
        self.network.set_parameters(&parameters);
        self.normalisers[0].pretend(&policy.normaliser);
        self.reference = Some(policy.clone());
        Ok(())
    }

    /// Replaces the critic, of dense layers, by the parameters that `of(shape, normaliser of observations)` gives.
    pub(crate) fn start_critic(&mut self, of: impl FnOnce(&Mlp, &FrozenNormaliser) -> Vec<f32>) {
        let fresh = of(self.network.critic().0.head(), &self.normalisers[0].freeze());
        self.network.restart_critic(&fresh);
    }

    /// Values of observations as the environment gives them; the critic sees nothing else.
    #[cfg(test)]
    pub(crate) fn values_of(&self, observations: &[f32]) -> Vec<f32> {
        let mut states = vec![0.0; observations.len()];
        self.normalisers[0].freeze().apply(observations, &mut states);
        let mut values = vec![0.0; observations.len() / self.state_len()];
        self.network.inference().values(&states, &mut [], &mut values);
        values
    }

    /// Where this rank's rows of a rollout are among those of all ranks.
    pub(crate) fn own_rows(&self, rollout: &Rollout) -> Range<usize> {
        self.own.start * rollout.steps..self.own.end * rollout.steps
    }

    /// Width of what the critic sees.
    pub(crate) fn state_len(&self) -> usize {
        self.network.critic().0.inputs()
    }

    /// Widths of observation and action.
    pub(crate) fn widths(&self) -> (usize, usize) {
        let (network, _) = self.network.actor();
        (network.inputs(), network.outputs())
    }

    /// The curve's row for the iteration that has just ended.
    pub(crate) fn row(&self, rollout: &Rollout, rewards: &[f32], losses: Losses) -> CurveRow {
        CurveRow {
            reward_mean: mean(self.ranks, rewards.iter().map(|&r| f64::from(r))),
            policy_loss: losses.policy,
            value_loss: losses.value,
            entropy: losses.entropy,
            kl: losses.kl,
            clip_fraction: losses.clip_fraction,
            learning_rate: f64::from(self.learning_rate),
            ..CurveRow::of_episodes(&rollout.finished)
        }
    }

    /// Rewards less `reference_kl (ln pi - ln pi_reference)` of the drawn action (PPO-max's penalty per step): in expectation the KL to the
    /// policy that the run started from.
    fn near_reference(&self, rollout: &Rollout, rewards: &[f32]) -> Vec<f32> {
        let (Some(reference), true) = (&self.reference, self.config.reference_kl > 0.0) else {
            return rewards.to_vec();
        };
        let mut means = Vec::new();
        reference.actor().act(&rollout.observations, &mut means);
        let n_act = reference.action_len();
        (0..rewards.len())
            .map(|r| {
                let here = r * n_act..(r + 1) * n_act;
                let then = self.network.log_prob(&means[here.clone()], &rollout.actions[here]);
                rewards[r] - self.config.reference_kl * (rollout.log_probs[r] - then)
            })
            .collect()
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
        self.reward_scale.update_over(self.ranks, &returns);
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

impl Learner for Ppo<'_> {
    const KIND: &'static str = "ppo";

    fn ranks(&self) -> &dyn Communicator {
        self.ranks
    }

    fn place(&self) -> Place {
        Place {
            iteration: self.iteration,
            iterations: self.config.iterations(),
            checkpoint_interval: self.config.checkpoint_interval,
            steps: self.iteration * (self.config.environments * self.config.rollout_steps) as u64,
        }
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let started = Instant::now();
        let rollout = self.collect()?;
        let collected = started.elapsed();
        let losses = self.update(&rollout, &rollout.rewards)?;
        let row = CurveRow {
            simulation_s: rollout.simulation_s,
            inference_s: collected.as_secs_f64() - rollout.simulation_s,
            update_s: (started.elapsed() - collected).as_secs_f64(),
            ..self.row(&rollout, &rollout.rewards, losses)
        };
        Ok((row, rollout.finished))
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put_counter("seed", self.seed);
        checkpoint.put_counter("iteration", self.iteration);
        self.network.save(checkpoint);
        self.normalisers[0].save(checkpoint, "observations");
        self.normalisers[1].save(checkpoint, "privileged");
        self.reward_scale.save(checkpoint, "returns");
        let mut discounted = vec![0.0; self.config.environments];
        discounted[self.own.clone()].copy_from_slice(&self.discounted);
        self.ranks.sum_f32(&mut discounted);
        checkpoint.put("discounted", &discounted);
        checkpoint.put("learning_rate", &[self.learning_rate]);
        for (index, slot) in self.own.clone().zip(&self.slots) {
            slot.save(checkpoint, index);
        }
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        checkpoint.same_seed(self.seed)?;
        self.iteration = checkpoint.counter("iteration")?;
        self.network.restore(checkpoint)?;
        self.normalisers[0].restore(checkpoint, "observations")?;
        self.normalisers[1].restore(checkpoint, "privileged")?;
        self.reward_scale.restore(checkpoint, "returns")?;
        let discounted = checkpoint.array_f32("discounted", self.config.environments)?;
        self.discounted.copy_from_slice(&discounted[self.own.clone()]);
        self.learning_rate = checkpoint.array_f32("learning_rate", 1)?[0];
        for (index, slot) in self.own.clone().zip(&mut self.slots) {
            slot.restore(checkpoint, self.seed, index)?;
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        let (network, parameters) = self.network.actor();
        Policy {
            normaliser: self.normalisers[0].freeze(),
            head: Head::Direct,
            network: network.clone(),
            parameters: parameters.to_vec(),
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
    use std::ops::ControlFlow;

    use super::*;
    use crate::architecture::{NetworkConfig, NetworkKind};
    use crate::pendulum::{SIDE, pendulum, pictures, without_speed};
    use crate::policy::evaluate;
    use crate::progress::Progress;
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

    fn mean_return(config: &PpoConfig, make: MakeEnvironment, seed: u64) -> f64 {
        let trained = train(config, make, seed, None, &mut keep_on).unwrap();
        let episodes = evaluate(Some(&trained.policy), make, 50, 7, 2);
        episodes.iter().map(|e| e.episode_return).sum::<f64>() / 50.0
    }

    #[test]
    fn a_network_that_remembers_swings_up_a_pendulum_whose_speed_is_not_measured_and_dense_layers_do_not() {
        let base = PpoConfig { privileged_critic: false, ..pendulum_config() };
        let of = |kind, hidden: &[usize]| {
            let network = NetworkConfig { units: 32, window: 4, ..NetworkConfig::of(kind) };
            PpoConfig { network, hidden: hidden.to_vec(), ..base.clone() }
        };
        for seed in 1..=3 {
            let dense = mean_return(&of(NetworkKind::Mlp, &[64, 64]), &without_speed, seed);
            let gru = mean_return(&of(NetworkKind::Gru, &[32]), &without_speed, seed);
            println!("seed {seed}: dense {dense:.0}, gru {gru:.0}");
            assert!(gru > dense + 300.0, "seed {seed}: {gru} against {dense}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
        let kinds: [(NetworkKind, MakeEnvironment); 4] = [
            (NetworkKind::Mlp, &pendulum),
            (NetworkKind::Gru, &pendulum),
            (NetworkKind::Transformer, &pendulum),
            (NetworkKind::Conv, &pictures),
        ];
        for (kind, make) in kinds {
            let train_on = |threads, seed| {
                let network = NetworkConfig { image: [SIDE, SIDE, 2], ..NetworkConfig::of(kind) };
                let config = PpoConfig { threads, network, total_steps: 4 * 1024, ..short() };
                train(&config, make, seed, None, &mut keep_on).unwrap()
            };
            let one = train_on(1, 3);
            assert_eq!(one.policy, train_on(2, 3).policy);
            assert_eq!(one.policy, train_on(5, 3).policy);
            assert_ne!(one.policy, train_on(1, 4).policy);
        }
    }

    #[test]
    fn a_killed_run_of_a_network_that_remembers_resumes_with_the_same_bits() {
        for kind in [NetworkKind::Gru, NetworkKind::Transformer] {
            let config = PpoConfig { network: NetworkConfig::of(kind), ..short() };
            let whole = train(&config, &pendulum, 3, None, &mut keep_on).unwrap();
            let run = RunFolder::create(scratch(&format!("resume-{kind:?}"))).unwrap();
            let mut until = |progress: &Progress| {
                if progress.done < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            train(&config, &pendulum, 3, Some(&run), &mut until).unwrap();
            let resumed = train(&config, &pendulum, 3, Some(&run), &mut keep_on).unwrap();
            assert_eq!(resumed.policy, whole.policy);
            assert_eq!(Policy::of_run(&run).unwrap().unwrap(), whole.policy);
        }
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
            assert_eq!(Policy::of_run(&run).unwrap().unwrap(), resumed.policy);
            assert_eq!(resumed.curves.len(), 8);
        }
    }

    /// Short episodes on small tiles, whose robots climb or fall back with every one of them.
    #[test]
    fn a_killed_run_resumes_at_the_levels_of_its_curriculum() {
        use tendon_sim::tasks::{TaskDefinition, find};
        let info = find("quadruped-rough").unwrap();
        let text = info
            .text
            .replace("time_limit_s = 20.0", "time_limit_s = 0.5")
            .replace("[terrain]", "[terrain]\nterrain_length = 4.0\nhorizontal_scale = 0.2")
            .replace("above = 3.3", "above = 0.05")
            .replace("term = \"progress\", below = 0.5", "term = \"displacement\", below = 0.03");
        let file = std::path::Path::new("short.toml");
        let task = TaskDefinition::from_text(file, &text, info.robot_file, info.robot).unwrap();
        let make = || Box::new(task.make().unwrap()) as Box<dyn tendon_sim::Environment>;
        let config = PpoConfig { checkpoint_interval: 1, ..short() };
        let uninterrupted = train(&config, &make, 3, None, &mut keep_on).unwrap();
        let run = RunFolder::create(scratch("resume-levels")).unwrap();
        let mut until = |progress: &Progress| {
            if progress.done < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        assert!(train(&config, &make, 3, Some(&run), &mut until).unwrap().interrupted);
        let checkpoint = Checkpoint::load_last(&run.checkpoints()).unwrap().unwrap();
        let level = |i| checkpoint.array(&format!("environment.{i}.level"), 1).unwrap()[0];
        assert!((1..8).any(|i| level(i) != level(0)), "the rules moved nothing");
        let resumed = train(&config, &make, 3, Some(&run), &mut keep_on).unwrap();
        assert_eq!(resumed.policy, uninterrupted.policy);
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
