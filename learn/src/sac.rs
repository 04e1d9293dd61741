//! Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) in the form of CleanRL's `sac_continuous_action.py`.

use std::ops::Range;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tendon_nn::{Activation, Adam, AdamSettings, Mlp, Network, Sharded, Weights, Workspace};

use crate::checkpoint::Checkpoint;
use crate::communicator::{Communicator, each_has_one, joined, share};
use crate::driver::{Learner, Place, drive};
use crate::network::{restore_adam, save_adam};
use crate::normaliser::FrozenNormaliser;
use crate::policy::{Head, Hidden, Policy, mlp};
use crate::ppo::{LearnError, Trained};
use crate::progress::{CurveRow, OnProgress};
use crate::random::Rng;
use crate::regression::Regression;
use crate::rollout::{Finished, MakeEnvironment, Slot, in_order, stream};
use crate::run_folder::{FileError, RunFolder};

/// All hyper-parameters of SAC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SacConfig {
    /// Environment steps in all.
    pub total_steps: u64,
    /// Environments side by side; each keeps its share of the buffer.
    pub environments: usize,
    /// Steps at the start with uniform random actions and no learning.
    pub first_steps: u64,
    /// Transitions kept; the oldest go first.
    pub buffer: usize,
    /// Transitions per gradient step.
    pub batch: usize,
    /// Gradient steps per environment step.
    pub updates: usize,
    /// Hidden layers of actor and critics.
    pub hidden: Vec<usize>,
    /// What follows each of them.
    pub activation: Hidden,
    /// Adam's step size of the actor and of the temperature.
    pub actor_rate: f32,
    /// Adam's step size of the critics.
    pub critic_rate: f32,
    /// Discount per control step.
    pub discount: f32,
    /// Share of the critics that their targets take over per step (`tau`).
    pub target_rate: f32,
    /// Entropy per action component that the temperature aims at, nats.
    pub target_entropy: f32,
    /// Temperature at the start (`alpha`).
    pub temperature: f32,
    /// Environment steps per iteration: one row of the curves, one chance to stop. A multiple of `environments`.
    pub steps_per_iteration: u64,
    /// Iterations between checkpoints; a checkpoint holds the whole buffer.
    pub checkpoint_interval: u64,
    /// Threads for gradients; changes no bit of the result.
    pub threads: usize,
}

impl Default for SacConfig {
    fn default() -> Self {
        Self {
            total_steps: 100_000,
            environments: 1,
            first_steps: 1000,
            buffer: 100_000,
            batch: 256,
            updates: 1,
            hidden: vec![64, 64],
            activation: Hidden::Relu,
            actor_rate: 3e-4,
            critic_rate: 1e-3,
            discount: 0.99,
            target_rate: 0.005,
            target_entropy: -1.0,
            temperature: 0.2,
            steps_per_iteration: 1000,
            checkpoint_interval: 10,
            threads: 2,
        }
    }
}

impl SacConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn check(&self) -> Result<(), LearnError> {
        let positive = [
            ("total_steps", self.total_steps as f64),
            ("environments", self.environments as f64),
            ("buffer", self.buffer as f64),
            ("batch", self.batch as f64),
            ("actor_rate", f64::from(self.actor_rate)),
            ("critic_rate", f64::from(self.critic_rate)),
            ("target_rate", f64::from(self.target_rate)),
            ("temperature", f64::from(self.temperature)),
            ("steps_per_iteration", self.steps_per_iteration as f64),
            ("checkpoint_interval", self.checkpoint_interval as f64),
            ("threads", self.threads as f64),
        ];
        for (field, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(LearnError::Config { field, problem: format!("{value} is not above 0") });
            }
        }
        if !self.steps_per_iteration.is_multiple_of(self.environments as u64) {
            let problem =
                format!("{} is no multiple of {} environments", self.steps_per_iteration, self.environments);
            return Err(LearnError::Config { field: "steps_per_iteration", problem });
        }
        if self.buffer < self.environments {
            let problem = format!("{} for {} environments; each needs one", self.buffer, self.environments);
            return Err(LearnError::Config { field: "buffer", problem });
        }
        if !(0.0..=1.0).contains(&self.discount) {
            let problem = format!("{} is not in 0..1", self.discount);
            return Err(LearnError::Config { field: "discount", problem });
        }
        Ok(())
    }
}

/// Trains on the task's own reward. Checkpoints and resumption as for [`crate::train`]. Over `ranks` each steps its share of the
/// environments and keeps what happened there; all draw the same rows of the whole buffer, and each learns from those that it has.
///
/// # Errors
/// As [`crate::train`].
pub fn train_sac(
    config: &SacConfig,
    make: MakeEnvironment,
    ranks: &dyn Communicator,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<Trained, LearnError> {
    drive(Sac::new(config, make, ranks, seed)?, config, run, on_progress)
}

/// Range of the logarithm of the standard deviation (CleanRL).
const LOG_STD: (f32, f32) = (-5.0, 2.0);
/// Kept away from the ends of tanh.
const EPSILON: f32 = 1e-6;

struct Sac<'a> {
    config: SacConfig,
    ranks: &'a dyn Communicator,
    seed: u64,
    /// Environments of this rank.
    own: Range<usize>,
    slots: Vec<Slot>,
    /// What happened in each of them.
    buffers: Vec<Buffer>,
    steps: u64,
    /// Mean and log_std, `[2 n_act]`.
    actor: Mlp,
    actor_parameters: Vec<f32>,
    actor_weights: Weights,
    actor_adam: Adam,
    actor_sharded: Sharded<(Workspace, [Workspace; 2], [f64; 2])>,
    critics: [Regression; 2],
    targets: [(Vec<f32>, Weights); 2],
    log_temperature: f32,
    temperature_adam: Adam,
    workspace: Workspace,
}

/// Transitions `(o, a, r, o', terminated)`, the oldest overwritten.
#[derive(Default)]
struct Buffer {
    observations: Vec<f32>,
    actions: Vec<f32>,
    rewards: Vec<f32>,
    next: Vec<f32>,
    terminated: Vec<f32>,
    written: u64,
}

impl Buffer {
    /// The `size` newest stay.
    fn push(&mut self, size: usize, o: &[f32], a: &[f32], reward: f32, next: &[f32], terminated: bool) {
        let at = (self.written % size as u64) as usize;
        let put = |all: &mut Vec<f32>, row: &[f32]| {
            if all.len() < (at + 1) * row.len() {
                all.extend_from_slice(row);
            } else {
                all[at * row.len()..(at + 1) * row.len()].copy_from_slice(row);
            }
        };
        put(&mut self.observations, o);
        put(&mut self.actions, a);
        put(&mut self.rewards, &[reward]);
        put(&mut self.next, next);
        put(&mut self.terminated, &[f32::from(u8::from(terminated))]);
        self.written += 1;
    }

    /// Adds the transitions of environment `index` to a checkpoint.
    fn save(&self, checkpoint: &mut Checkpoint, index: usize) {
        checkpoint.put_counter(&format!("environment.{index}.written"), self.written);
        for (name, values) in [
            ("observations", &self.observations),
            ("actions", &self.actions),
            ("rewards", &self.rewards),
            ("next", &self.next),
            ("terminated", &self.terminated),
        ] {
            checkpoint.put(&format!("environment.{index}.buffer.{name}"), values);
        }
    }

    fn restored(
        checkpoint: &Checkpoint,
        index: usize,
        size: usize,
        (n_obs, n_act): (usize, usize),
    ) -> Result<Self, FileError> {
        let written = checkpoint.counter(&format!("environment.{index}.written"))?;
        let filled = written.min(size as u64) as usize;
        let read = |name: &str, width: usize| {
            checkpoint.array_f32(&format!("environment.{index}.buffer.{name}"), filled * width)
        };
        Ok(Self {
            observations: read("observations", n_obs)?,
            actions: read("actions", n_act)?,
            rewards: read("rewards", 1)?,
            next: read("next", n_obs)?,
            terminated: read("terminated", 1)?,
            written,
        })
    }
}

impl<'a> Sac<'a> {
    fn new(
        config: &SacConfig,
        make: MakeEnvironment,
        ranks: &'a dyn Communicator,
        seed: u64,
    ) -> Result<Self, LearnError> {
        config.check()?;
        each_has_one(ranks, "environments", config.environments)?;
        let probe = make();
        let (n_obs, n_act) = (probe.observation_len(), probe.action_len());
        let mut rng = Rng::at(seed, &[stream::WEIGHTS]);
        let actor = mlp(n_obs, &config.hidden, 2 * n_act, config.activation);
        let actor_parameters = actor.initialise_uniform(&mut || rng.uniform());
        let shape = mlp(n_obs + n_act, &config.hidden, 1, config.activation);
        let critics = [(); 2].map(|()| Regression::uniform(shape.clone(), config.threads, &mut rng));
        let targets = [0, 1].map(|i: usize| {
            (critics[i].parameters.clone(), critics[i].network.head().weights(&critics[i].parameters))
        });
        let adam = |n| Adam::new(n, AdamSettings::default());
        let own = share(ranks, config.environments);
        Ok(Self {
            actor_weights: actor.weights(&actor_parameters),
            actor_adam: adam(actor_parameters.len()),
            actor_sharded: Sharded::new(config.threads, actor_parameters.len(), || {
                (actor.workspace(), [shape.workspace(), shape.workspace()], [0.0; 2])
            }),
            workspace: actor.workspace(),
            actor_parameters,
            actor,
            critics,
            targets,
            log_temperature: config.temperature.ln(),
            temperature_adam: adam(1),
            slots: own.clone().map(|index| Slot::start(make, seed, index, 0, [0; 2])).collect(),
            buffers: own.clone().map(|_| Buffer::default()).collect(),
            own,
            steps: 0,
            config: config.clone(),
            ranks,
            seed,
        })
    }

    fn n_act(&self) -> usize {
        self.actor.outputs() / 2
    }

    /// Transitions of each environment that are kept.
    fn size(&self) -> usize {
        self.config.buffer / self.config.environments
    }

    /// Acts once in each environment, in step `step` of the iteration, and stores the transitions; returns the wall time in the
    /// environments, s.
    fn act(&mut self, step: usize, noise: &mut [Rng], finished: &mut Vec<Finished>) -> f64 {
        let mut simulation_s = 0.0;
        let (n_act, size) = (self.n_act(), self.size());
        let (mut action, mut out) = (vec![0.0; n_act], vec![0.0; 2 * n_act]);
        for (e, rng) in noise.iter_mut().enumerate() {
            let (slot, buffer) = (&mut self.slots[e], &mut self.buffers[e]);
            if self.steps < self.config.first_steps {
                action.iter_mut().for_each(|a| *a = (2.0 * rng.uniform() - 1.0) as f32);
            } else {
                self.actor_weights.infer(slot.observation(), &mut out, &mut self.workspace);
                let noise: Vec<f32> = (0..n_act).map(|_| rng.normal() as f32).collect();
                squash(&out, &noise, &mut action);
            }
            let before = slot.observation().to_vec();
            let started = Instant::now();
            let after = slot.step(&action);
            simulation_s += started.elapsed().as_secs_f64();
            buffer.push(size, &before, &action, after.reward, slot.observation(), after.terminated);
            if after.terminated || after.truncated {
                finished.push(slot.finished(step));
                slot.next_episode(self.seed, self.own.start + e);
            }
        }
        self.steps += self.config.environments as u64;
        simulation_s
    }

    /// One gradient step of critics (equations 5 and 6), actor (equation 9) and temperature (equation 18).
    /// Returns both losses and the entropy. Rows are drawn from the buffers of all ranks, `[step, environment]`.
    fn update(&mut self, rng: &mut Rng) -> [f64; 3] {
        let (n_act, n_obs, batch) = (self.n_act(), self.actor.inputs(), self.config.batch);
        let temperature = self.log_temperature.exp();
        let environments = self.config.environments;
        let filled = self.buffers[0].rewards.len() * environments;
        // Place in the batch, environment of this rank, row of its buffer.
        let rows: Vec<(usize, usize, usize)> = (0..batch)
            .map(|i| (i, rng.below(filled)))
            .filter(|(_, r)| self.own.contains(&(r % environments)))
            .map(|(i, r)| (i, r % environments - self.own.start, r / environments))
            .collect();
        let n_own = rows.len();
        let take = |of: fn(&Buffer) -> &[f32], width: usize| -> Vec<f32> {
            let row = |&(_, e, r): &(usize, usize, usize)| &of(&self.buffers[e])[r * width..(r + 1) * width];
            rows.iter().flat_map(row).copied().collect()
        };
        let mut noise = || -> Vec<f32> {
            let all: Vec<f32> = (0..batch * n_act).map(|_| rng.normal() as f32).collect();
            rows.iter().flat_map(|(i, ..)| &all[i * n_act..(i + 1) * n_act]).copied().collect()
        };
        let observations = take(|buffer| &buffer.observations, n_obs);
        let next = take(|buffer| &buffer.next, n_obs);
        let (rewards, terminated) = (take(|buffer| &buffer.rewards, 1), take(|buffer| &buffer.terminated, 1));
        let acted = take(|buffer| &buffer.actions, n_act);

        // y = r + discount (1 - terminated) (min Q'(o', a') - temperature ln pi(a'|o')).
        let mut out = vec![0.0; n_own * 2 * n_act];
        self.actor_weights.infer(&next, &mut out, &mut self.workspace);
        let mut actions = vec![0.0; n_own * n_act];
        let mut log_probs = Vec::with_capacity(n_own);
        for ((out, noise), action) in
            out.chunks(2 * n_act).zip(noise().chunks(n_act)).zip(actions.chunks_mut(n_act))
        {
            log_probs.push(squash(out, noise, action));
        }
        let joined = join(&next, &actions, n_obs, n_act);
        let mut values = [vec![0.0; n_own], vec![0.0; n_own]];
        for ((_, weights), values) in self.targets.iter().zip(&mut values) {
            weights.infer(&joined, values, &mut weights.mlp().workspace());
        }
        let targets: Vec<f32> = (0..n_own)
            .map(|i| {
                let value = values[0][i].min(values[1][i]) - temperature * log_probs[i];
                rewards[i] + self.config.discount * (1.0 - terminated[i]) * value
            })
            .collect();
        // Actor: temperature ln pi(a|o) - min Q(o, a), a = tanh(mean + std noise).
        let noise = noise();
        let joined = join(&observations, &acted, n_obs, n_act);
        let (ranks, critic_rate) = (self.ranks, self.config.critic_rate);
        let step = |critic: &mut Regression| critic.step(&joined, &targets, (ranks, batch), critic_rate);
        let critic_loss: f64 = self.critics.iter_mut().map(step).sum();
        let Self { actor_sharded, actor_weights, critics, .. } = self;
        actor_sharded.states().for_each(|state| state.2 = [0.0; 2]);
        let critic_weights = [critics[0].weights().head(), critics[1].weights().head()];
        let scratch_len = critics[0].parameters.len();
        let gradient = actor_sharded.gradient(n_own, |range, (of_actor, of_critics, sums), gradient| {
            let n = range.len();
            let o = &observations[range.start * n_obs..range.end * n_obs];
            let noise = &noise[range.start * n_act..range.end * n_act];
            let out = actor_weights.forward(o, of_actor).to_vec();
            let mut actions = vec![0.0; n * n_act];
            let mut log_probs = Vec::with_capacity(n);
            for ((out, noise), action) in
                out.chunks(2 * n_act).zip(noise.chunks(n_act)).zip(actions.chunks_mut(n_act))
            {
                log_probs.push(squash(out, noise, action));
            }
            let joined = join(o, &actions, n_obs, n_act);
            let values: Vec<Vec<f32>> = critic_weights
                .iter()
                .zip(of_critics.iter_mut())
                .map(|(weights, workspace)| weights.forward(&joined, workspace).to_vec())
                .collect();
            // d(-min Q) / d(o, a): each row through the smaller critic alone.
            let mut d_joined = vec![0.0; joined.len()];
            let (mut unused, mut part) = (vec![0.0; scratch_len], vec![0.0; joined.len()]);
            for (k, (weights, workspace)) in critic_weights.iter().zip(of_critics).enumerate() {
                let smaller = |i: usize| (values[1][i] < values[0][i]) == (k == 1);
                let slopes: Vec<f32> =
                    (0..n).map(|i| if smaller(i) { -1.0 / batch as f32 } else { 0.0 }).collect();
                weights.backward(&joined, &slopes, workspace, &mut unused, Some(&mut part));
                d_joined.iter_mut().zip(&part).for_each(|(d, p)| *d += p);
            }
            let mut slopes = vec![0.0; out.len()];
            for i in 0..n {
                for j in 0..n_act {
                    let (a, e) = (actions[i * n_act + j], noise[i * n_act + j]);
                    let log_std = out[i * 2 * n_act + n_act + j];
                    let (std, d_std) = deviation(log_std);
                    let bend = 1.0 - a * a;
                    // ln pi = -ln std - ln(1 - a^2) + const, with a = tanh(mean + std e).
                    let d_a = d_joined[i * (n_obs + n_act) + n_obs + j];
                    let d_u = d_a * bend + temperature / batch as f32 * (2.0 * a * bend / (bend + EPSILON));
                    slopes[i * 2 * n_act + j] = d_u;
                    slopes[i * 2 * n_act + n_act + j] = (d_u * std * e - temperature / batch as f32) * d_std;
                }
                let value = values[0][i].min(values[1][i]);
                sums[0] += f64::from(temperature * log_probs[i] - value) / batch as f64;
                sums[1] -= f64::from(log_probs[i]) / batch as f64;
            }
            actor_weights.backward(o, &slopes, of_actor, gradient, None);
        });
        ranks.sum_f32(gradient);
        self.actor_adam.step(&mut self.actor_parameters, gradient, self.config.actor_rate);
        self.actor_weights.set(&self.actor_parameters);
        let sums =
            self.actor_sharded.states().fold([0.0; 2], |s, state| [s[0] + state.2[0], s[1] + state.2[1]]);
        let mut sums = [sums[0], critic_loss, sums[1]];
        ranks.sum_f64(&mut sums);
        let [actor_loss, critic_loss, entropy] = sums;

        // Temperature: alpha (entropy - target).
        let target = self.config.target_entropy * n_act as f32;
        let slope = temperature * (entropy as f32 - target);
        let mut log_temperature = [self.log_temperature];
        self.temperature_adam.step(&mut log_temperature, &[slope], self.config.actor_rate);
        self.log_temperature = log_temperature[0];

        for (critic, (parameters, weights)) in self.critics.iter().zip(&mut self.targets) {
            for (target, now) in parameters.iter_mut().zip(&critic.parameters) {
                *target += self.config.target_rate * (now - *target);
            }
            weights.set(parameters);
        }
        [actor_loss, critic_loss, entropy]
    }
}

/// Standard deviation and d ln std / d output: the output is squashed into [`LOG_STD`] by tanh.
fn deviation(output: f32) -> (f32, f32) {
    let half = 0.5 * (LOG_STD.1 - LOG_STD.0);
    let squashed = output.tanh();
    ((LOG_STD.0 + half * (squashed + 1.0)).exp(), half * (1.0 - squashed * squashed))
}

/// Writes `tanh(mean + std noise)`; returns its log-probability (equation 21).
fn squash(output: &[f32], noise: &[f32], action: &mut [f32]) -> f32 {
    let n_act = action.len();
    let mut log_prob = 0.0;
    for j in 0..n_act {
        let (std, _) = deviation(output[n_act + j]);
        action[j] = (output[j] + std * noise[j]).tanh();
        log_prob -= 0.5 * noise[j] * noise[j] + std.ln() + HALF_LOG_TAU;
        log_prob -= (1.0 - action[j] * action[j] + EPSILON).ln();
    }
    log_prob
}

/// ln(2 pi) / 2.
const HALF_LOG_TAU: f32 = 0.918_938_5;

/// Rows of `[observation, action]`.
fn join(observations: &[f32], actions: &[f32], n_obs: usize, n_act: usize) -> Vec<f32> {
    let rows = observations.chunks(n_obs).zip(actions.chunks(n_act));
    rows.flat_map(|(o, a)| o.iter().chain(a)).copied().collect()
}

impl Learner for Sac<'_> {
    const KIND: &'static str = "sac";

    fn ranks(&self) -> &dyn Communicator {
        self.ranks
    }

    fn place(&self) -> Place {
        Place {
            iteration: self.steps / self.config.steps_per_iteration,
            iterations: self.config.total_steps.div_ceil(self.config.steps_per_iteration),
            checkpoint_interval: self.config.checkpoint_interval,
            steps: self.steps,
        }
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let iteration = self.place().iteration;
        let stream = |environment| Rng::at(self.seed, &[stream::EXPLORATION, iteration, environment as u64]);
        let mut noise: Vec<Rng> = self.own.clone().map(stream).collect();
        let mut rng = Rng::at(self.seed, &[stream::SHUFFLE, iteration]);
        let (mut finished, mut sums, mut updates) = (Vec::new(), [0.0; 3], 0.0f64);
        let (mut simulation_s, mut inference_s, mut update_s) = (0.0, 0.0, 0.0);
        for step in 0..self.config.steps_per_iteration as usize / self.config.environments {
            let started = Instant::now();
            let in_environments = self.act(step, &mut noise, &mut finished);
            simulation_s += in_environments;
            inference_s += started.elapsed().as_secs_f64() - in_environments;
            let started = Instant::now();
            if self.steps > self.config.first_steps {
                for _ in 0..self.config.updates * self.config.environments {
                    let losses = self.update(&mut rng);
                    sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
                    updates += 1.0;
                }
            }
            update_s += started.elapsed().as_secs_f64();
        }
        let mut finished = joined(self.ranks, finished);
        in_order(&mut finished);
        if !self.actor_parameters.iter().all(|p| p.is_finite()) {
            return Err(LearnError::NotFinite { iteration, what: "a weight" });
        }
        let [actor, critic, entropy] = sums.map(|sum| sum / updates.max(1.0));
        let row = CurveRow {
            policy_loss: actor,
            value_loss: critic,
            entropy,
            learning_rate: f64::from(self.config.actor_rate),
            simulation_s,
            inference_s,
            update_s,
            ..CurveRow::of_episodes(&finished)
        };
        Ok((row, finished))
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put_counter("seed", self.seed);
        checkpoint.put_counter("steps", self.steps);
        checkpoint.put("actor.parameters", &self.actor_parameters);
        save_adam(&self.actor_adam, checkpoint, "actor.adam");
        for (k, (critic, target)) in self.critics.iter().zip(&self.targets).enumerate() {
            critic.save(checkpoint, &format!("critic.{k}"));
            checkpoint.put(&format!("target.{k}"), &target.0);
        }
        checkpoint.put("temperature", &[self.log_temperature]);
        save_adam(&self.temperature_adam, checkpoint, "temperature.adam");
        for ((index, slot), buffer) in self.own.clone().zip(&self.slots).zip(&self.buffers) {
            slot.save(checkpoint, index);
            buffer.save(checkpoint, index);
        }
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        checkpoint.same_seed(self.seed)?;
        self.steps = checkpoint.counter("steps")?;
        self.actor_parameters = checkpoint.array_f32("actor.parameters", self.actor_parameters.len())?;
        self.actor_weights.set(&self.actor_parameters);
        restore_adam(&mut self.actor_adam, checkpoint, "actor.adam")?;
        for (k, (critic, target)) in self.critics.iter_mut().zip(&mut self.targets).enumerate() {
            critic.restore(checkpoint, &format!("critic.{k}"))?;
            target.0 = checkpoint.array_f32(&format!("target.{k}"), target.0.len())?;
            target.1.set(&target.0);
        }
        self.log_temperature = checkpoint.array_f32("temperature", 1)?[0];
        restore_adam(&mut self.temperature_adam, checkpoint, "temperature.adam")?;
        let (size, widths) = (self.size(), (self.actor.inputs(), self.n_act()));
        for ((index, slot), buffer) in self.own.clone().zip(&mut self.slots).zip(&mut self.buffers) {
            slot.restore(checkpoint, self.seed, index)?;
            *buffer = Buffer::restored(checkpoint, index, size, widths)?;
        }
        Ok(())
    }

    /// `tanh(mean)`: the columns of the deviation are cut off the last layer.
    fn policy(&self) -> Policy {
        let (n_obs, n_act) = (self.actor.inputs(), self.n_act());
        let sizes = [&[n_obs], self.config.hidden.as_slice(), &[n_act]].concat();
        let last = self.actor.layers()[self.config.hidden.len()];
        let mut parameters = self.actor_parameters[..last.weight].to_vec();
        for row in self.actor_parameters[last.weights()].chunks(2 * n_act) {
            parameters.extend_from_slice(&row[..n_act]);
        }
        parameters.extend_from_slice(&self.actor_parameters[last.biases()][..n_act]);
        Policy {
            normaliser: FrozenNormaliser { offset: vec![0.0; n_obs], scale: vec![1.0; n_obs] },
            head: Head::Direct,
            network: Network::dense(Mlp::new(&sizes, self.config.activation.into(), Activation::Tanh)),
            parameters,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::communicator::Alone;
    use crate::evaluate;
    use crate::pendulum::pendulum;
    use crate::progress::Progress;
    use crate::run_folder::tests::scratch;

    fn keep_on(_: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn swings_up_the_pendulum_in_ten_thousand_steps() {
        let config = SacConfig { total_steps: 10_000, actor_rate: 1e-3, ..SacConfig::default() };
        let trained = train_sac(&config, &pendulum, &Alone, 1, None, &mut keep_on).unwrap();
        let episodes = evaluate(Some(&trained.policy), &pendulum, 50, 7, 2);
        let mean = episodes.iter().map(|e| e.episode_return).sum::<f64>() / 50.0;
        assert!(mean > -250.0, "{mean}");
    }

    #[test]
    fn a_killed_run_resumes_with_the_same_bits_on_any_number_of_threads() {
        let short = SacConfig {
            total_steps: 1000,
            first_steps: 150,
            buffer: 300,
            batch: 150,
            hidden: vec![16],
            steps_per_iteration: 250,
            checkpoint_interval: 1,
            ..SacConfig::default()
        };
        let whole = train_sac(&short, &pendulum, &Alone, 3, None, &mut keep_on).unwrap();
        let one = SacConfig { threads: 1, ..short.clone() };
        assert_eq!(train_sac(&one, &pendulum, &Alone, 3, None, &mut keep_on).unwrap().policy, whole.policy);
        for killed_after in [1, 3] {
            let run = RunFolder::create(scratch(&format!("resume-sac-{killed_after}"))).unwrap();
            let mut until = |progress: &Progress| {
                if progress.done < killed_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            train_sac(&short, &pendulum, &Alone, 3, Some(&run), &mut until).unwrap();
            let resumed = train_sac(&short, &pendulum, &Alone, 3, Some(&run), &mut keep_on).unwrap();
            assert_eq!(resumed.policy, whole.policy, "killed after {killed_after}");
        }
    }
}
