//! The actor-critic and its gradient of PPO's loss.

use tendon_nn::{Adam, AdamSettings, BLOCK, Network, NetworkWeights, NetworkWorkspace, Sharded};

use crate::checkpoint::Checkpoint;
use crate::communicator::Communicator;
use crate::random::Rng;
use crate::run_folder::FileError;
use crate::sequences::{Rows, Steps};

/// A Gaussian policy `N(mean(o), exp(log_std)^2)` with a state-independent `log_std`, a value network of its own, and their
/// optimiser. The critic may see more than the actor (asymmetric actor-critic, Pinto et al. 2018): its input begins with the
/// actor's.
#[derive(Debug)]
pub struct ActorCritic {
    actor: Network,
    critic: Network,
    /// Actor, then `log_std`, then critic.
    parameters: Vec<f32>,
    actor_weights: NetworkWeights,
    critic_weights: NetworkWeights,
    adam: Adam,
    sharded: Sharded<Scratch>,
}

/// Samples to learn from, one row each; rows of a sequence follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Steps of a sequence; 1 where the networks remember nothing.
    pub sequence: usize,
    /// What actor and critic remember before the first step of each sequence, `[rows / sequence, memory_len]` each.
    pub memories: [&'a [f32]; 2],
    /// Whether an episode begins with the row, `[rows]`.
    pub begins: &'a [bool],
    /// Normalised observations, then what only the critic sees, `[rows, n_obs + n_privileged]`.
    pub states: &'a [f32],
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

impl Batch<'_> {
    /// For the actor (0) or the critic (1).
    fn rows(&self, network: usize) -> Rows<'_> {
        let memory = self.memories[network];
        Rows { sequence: self.sequence, states: self.states, begins: self.begins, memory }
    }

    /// Of the rows of these sequences.
    fn advantages_of(&self, units: &[usize]) -> impl Iterator<Item = f64> {
        let rows = units.iter().flat_map(|u| u * self.sequence..(u + 1) * self.sequence);
        rows.map(|row| f64::from(self.advantages[row]))
    }
}

/// The part of a [`Batch`] for one gradient step.
#[derive(Clone, Debug, PartialEq)]
pub struct Minibatch {
    /// This rank's sequences (rows, where these are one step long).
    pub units: Vec<usize>,
    /// Rows of all ranks.
    pub rows: usize,
    /// Mean and standard deviation of the advantages of all ranks.
    pub advantage: (f32, f32),
}

impl Minibatch {
    /// One minibatch for each list of this rank's sequences of `batch`.
    pub fn of(batch: &Batch, lists: Vec<Vec<usize>>, ranks: &dyn Communicator) -> Vec<Self> {
        let steps = batch.sequence;
        // Two sums over the ranks for all minibatches together, not two for each.
        let mut sums: Vec<f64> = lists.iter().map(|units| batch.advantages_of(units).sum()).collect();
        sums.extend(lists.iter().map(|units| (units.len() * steps) as f64));
        ranks.sum_f64(&mut sums);
        let (sums, rows) = sums.split_at(lists.len());
        let means: Vec<f64> = sums.iter().zip(rows).map(|(sum, rows)| sum / rows).collect();
        let squares = |(units, mean): (&Vec<usize>, &f64)| -> f64 {
            batch.advantages_of(units).map(|advantage| (advantage - mean).powi(2)).sum()
        };
        let mut squares: Vec<f64> = lists.iter().zip(&means).map(squares).collect();
        ranks.sum_f64(&mut squares);
        (lists.into_iter().enumerate())
            .map(|(i, units)| Self {
                units,
                rows: rows[i] as usize,
                // The deviation is kept away from zero.
                advantage: (means[i] as f32, ((squares[i] / rows[i]).sqrt() + 1e-8) as f32),
            })
            .collect()
    }
}

/// Settings of one gradient step; see `PpoConfig` for their meaning.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Clip of the probability ratio.
    pub clip: f32,
    /// Clip of the change of the value, when given.
    pub value_clip: Option<f32>,
    /// Weight of the policy's loss; 0 while the critic warms up.
    pub policy_weight: f32,
    /// Weight of the value's loss.
    pub value_weight: f32,
    /// Weight of the entropy.
    pub entropy_weight: f32,
    /// Adam's step size.
    pub learning_rate: f32,
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

impl Losses {
    /// Adds `weight` times `part`.
    pub fn add(&mut self, weight: f64, part: &Losses) {
        self.policy += weight * part.policy;
        self.value += weight * part.value;
        self.entropy += weight * part.entropy;
        self.kl += weight * part.kl;
        self.clip_fraction += weight * part.clip_fraction;
    }

    /// Of all ranks, each of which has its share of the sums.
    pub(crate) fn sum_over(&mut self, ranks: &dyn Communicator) {
        let mut sums = [self.policy, self.value, self.kl, self.clip_fraction];
        ranks.sum_f64(&mut sums);
        [self.policy, self.value, self.kl, self.clip_fraction] = sums;
    }
}

/// What one shard needs, and what it sums up.
#[derive(Debug)]
struct Scratch {
    actor: NetworkWorkspace,
    critic: NetworkWorkspace,
    steps: Steps,
    derivative: Vec<f32>,
    losses: Losses,
}

/// Networks for rollouts: each thread has its own workspaces.
#[derive(Debug)]
pub struct Inference<'a> {
    network: &'a ActorCritic,
    actor: NetworkWorkspace,
    critic: NetworkWorkspace,
    std: Vec<f32>,
}

/// The last layer of the policy starts small, so that first actions come from the exploration noise alone (Andrychowicz et al. 2021).
const ACTOR_GAIN: f32 = 0.01;
/// Larger than Adam's 1e-8, as in CleanRL's and Stable-Baselines3's PPO.
const ADAM_EPSILON: f32 = 1e-5;

impl ActorCritic {
    /// Fresh weights for both networks.
    pub fn new(
        actor: Network,
        critic: Network,
        initial_std: f32,
        max_gradient_norm: f32,
        threads: usize,
        rng: &mut Rng,
    ) -> Self {
        let n_act = actor.outputs();
        let mut normal = || rng.normal();
        let mut parameters = actor.initialise(ACTOR_GAIN, &mut normal);
        let actor_weights = actor.weights(&parameters);
        parameters.extend(std::iter::repeat_n(initial_std.ln(), n_act));
        let fresh = critic.initialise(1.0, &mut normal);
        let critic_weights = critic.weights(&fresh);
        parameters.extend(fresh);
        let settings =
            AdamSettings { epsilon: ADAM_EPSILON, max_norm: max_gradient_norm, ..AdamSettings::default() };
        let scratch = || Scratch {
            actor: actor.workspace(),
            critic: critic.workspace(),
            steps: Steps::default(),
            derivative: Vec::new(),
            losses: Losses::default(),
        };
        let sharded = Sharded::new(threads, parameters.len(), scratch);
        let adam = Adam::new(parameters.len(), settings);
        Self { actor, critic, parameters, actor_weights, critic_weights, adam, sharded }
    }

    /// The mean network and its packed weights.
    pub fn actor(&self) -> (&Network, &[f32]) {
        (&self.actor, &self.parameters[..self.actor.parameter_count()])
    }

    /// The value network and its packed weights.
    pub fn critic(&self) -> (&Network, &[f32]) {
        (&self.critic, &self.parameters[self.critic_start()..])
    }

    /// All weights: actor, `log_std`, critic.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Replaces all weights.
    ///
    /// # Panics
    /// With another number of them.
    pub fn set_parameters(&mut self, parameters: &[f32]) {
        self.parameters.copy_from_slice(parameters);
        self.prepare();
    }

    /// Replaces the critic's weights; its optimiser starts anew.
    ///
    /// # Panics
    /// With another number of them.
    pub(crate) fn restart_critic(&mut self, parameters: &[f32]) {
        let critic = self.critic_start()..self.parameters.len();
        self.parameters[critic.clone()].copy_from_slice(parameters);
        self.adam.first_moment[critic.clone()].fill(0.0);
        self.adam.second_moment[critic].fill(0.0);
        self.prepare();
    }

    /// Logarithm of the standard deviation, `[n_act]`.
    pub fn log_std(&self) -> &[f32] {
        let start = self.actor.parameter_count();
        &self.parameters[start..start + self.actor.outputs()]
    }

    /// For one thread's rollouts.
    pub fn inference(&self) -> Inference<'_> {
        Inference {
            network: self,
            actor: self.actor.workspace(),
            critic: self.critic.workspace(),
            std: self.log_std().iter().map(|s| s.exp()).collect(),
        }
    }

    /// Log-density of `action` under `N(mean, exp(log_std)^2)`.
    pub fn log_prob(&self, mean: &[f32], action: &[f32]) -> f32 {
        log_prob(mean, action, self.log_std())
    }

    /// One step of Adam on the PPO loss (Schulman et al. 2017, equations 7 and 9) of a minibatch of `batch` over all ranks; the losses
    /// are this rank's share of the sum: `-min(ratio A, clip(ratio) A) + value_weight (V - R)^2 / 2 - entropy_weight H`.
    pub fn step(
        &mut self,
        batch: &Batch,
        minibatch: &Minibatch,
        settings: &StepSettings,
        ranks: &dyn Communicator,
    ) -> Losses {
        let steps = batch.sequence;
        let Minibatch { units, rows: total, advantage: normalisation } = minibatch;
        let (total, normalisation) = (*total, *normalisation);
        let in_block = BLOCK / steps;
        let (actor_end, critic_start) = (self.actor.parameter_count(), self.critic_start());
        let Self { actor_weights, critic_weights, parameters, sharded, adam, .. } = &mut *self;
        let log_std = &parameters[actor_end..critic_start];
        sharded.states().for_each(|scratch| scratch.losses = Losses::default());
        // Both networks' blocks are shared out together: two threads have work even where a minibatch is one block.
        let blocks = units.len().div_ceil(in_block);
        let gradient = sharded.gradient(2 * blocks * BLOCK, |range, scratch, gradient| {
            let block = range.start / BLOCK;
            let here = |block: usize| &units[block * in_block..((block + 1) * in_block).min(units.len())];
            if block < blocks {
                let (gradient, d_log_std) = gradient[..critic_start].split_at_mut(actor_end);
                policy_gradient(
                    batch,
                    (here(block), total),
                    actor_weights,
                    log_std,
                    normalisation,
                    settings,
                    scratch,
                    (gradient, d_log_std),
                );
            } else {
                let units = here(block - blocks);
                let gradient = &mut gradient[critic_start..];
                value_gradient(batch, (units, total), critic_weights, settings, scratch, gradient);
            }
        });
        ranks.sum_f32(gradient);
        adam.step(parameters, gradient, settings.learning_rate);
        let mut losses = Losses::default();
        sharded.states().for_each(|scratch| losses.add(1.0, &scratch.losses));
        losses.entropy = log_std_entropy(&self.parameters[actor_end..critic_start]);
        self.prepare();
        losses
    }

    fn critic_start(&self) -> usize {
        self.actor.parameter_count() + self.actor.outputs()
    }

    fn prepare(&mut self) {
        let start = self.critic_start();
        self.actor_weights.set(&self.parameters[..self.actor.parameter_count()]);
        self.critic_weights.set(&self.parameters[start..]);
    }

    /// Adds weights and moments to a checkpoint.
    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put("network.parameters", &self.parameters);
        save_adam(&self.adam, checkpoint, "network.adam");
    }

    /// Takes weights and moments from a checkpoint of the same shapes.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        self.parameters = checkpoint.array_f32("network.parameters", self.parameters.len())?;
        restore_adam(&mut self.adam, checkpoint, "network.adam")?;
        self.prepare();
        Ok(())
    }
}

impl Inference<'_> {
    /// Means of the policy, `[rows, n_act]`, for normalised observations; moves what the actor remembers, `[rows, memory_len]`, on.
    pub fn means(&mut self, observations: &[f32], memory: &mut [f32], means: &mut [f32]) {
        self.network.actor_weights.step(observations, memory, means, &mut self.actor);
    }

    /// Values, `[rows]`, for normalised states; moves what the critic remembers, `[rows, memory_len]`, on.
    pub fn values(&mut self, states: &[f32], memory: &mut [f32], values: &mut [f32]) {
        self.network.critic_weights.step(states, memory, values, &mut self.critic);
    }

    /// Standard deviations, `[n_act]`.
    pub fn std(&self) -> &[f32] {
        &self.std
    }
}

/// Adds the gradient of the clipped surrogate and the entropy of the sequences `units`, part of a minibatch of `total` rows.
#[expect(clippy::too_many_arguments, reason = "one call, where all of them are at hand")]
fn policy_gradient(
    batch: &Batch,
    (units, total): (&[usize], usize),
    weights: &NetworkWeights,
    log_std: &[f32],
    (advantage_mean, advantage_std): (f32, f32),
    settings: &StepSettings,
    scratch: &mut Scratch,
    (gradient, d_log_std): (&mut [f32], &mut [f32]),
) {
    let (n_obs, n_act) = (weights.network().inputs(), weights.network().outputs());
    let Scratch { actor, steps, derivative, losses, .. } = scratch;
    steps.gather(&batch.rows(0), units, n_obs);
    let means = weights.forward(steps.sequences(), actor);
    derivative.clear();
    let share = 1.0 / total as f32;
    for (&r, mean) in steps.rows.iter().zip(means.chunks_exact(n_act)) {
        let action = &batch.actions[r * n_act..(r + 1) * n_act];
        let log_ratio = log_prob(mean, action, log_std) - batch.log_probs[r];
        let ratio = log_ratio.exp();
        let advantage = (batch.advantages[r] - advantage_mean) / advantage_std;
        let clipped = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip) * advantage;
        let surrogate = (ratio * advantage).min(clipped);
        // d surrogate / d log_prob: nothing where the clip is the smaller of both.
        let slope = if ratio * advantage <= clipped { ratio * advantage } else { 0.0 };
        let slope = -slope * share * settings.policy_weight;
        for j in 0..n_act {
            let distance = (action[j] - mean[j]) * (-log_std[j]).exp();
            derivative.push(slope * distance * (-log_std[j]).exp());
            d_log_std[j] += slope * (distance * distance - 1.0) - settings.entropy_weight * share;
        }
        losses.policy -= f64::from(surrogate * share);
        losses.kl += f64::from((ratio - 1.0 - log_ratio) * share);
        losses.clip_fraction += f64::from(u8::from((ratio - 1.0).abs() > settings.clip)) / total as f64;
    }
    weights.backward(steps.sequences(), derivative, actor, gradient);
}

/// Adds the gradient of half the squared error of the value; with a clip, of the larger error of the value and of the value kept
/// near the old one.
fn value_gradient(
    batch: &Batch,
    (units, total): (&[usize], usize),
    weights: &NetworkWeights,
    settings: &StepSettings,
    scratch: &mut Scratch,
    gradient: &mut [f32],
) {
    let width = weights.network().inputs();
    let Scratch { critic, steps, derivative, losses, .. } = scratch;
    steps.gather(&batch.rows(1), units, width);
    let values = weights.forward(steps.sequences(), critic);
    derivative.clear();
    let share = 1.0 / total as f32;
    for (&r, &value) in steps.rows.iter().zip(values) {
        let (old, target) = (batch.values[r], batch.returns[r]);
        let error = value - target;
        let mut worst = error;
        if let Some(clip) = settings.value_clip {
            let near = old + (value - old).clamp(-clip, clip) - target;
            // Rounding alone must not make it the worse one.
            if (value - old).abs() > clip && near.abs() > error.abs() {
                worst = near;
            }
        }
        // Where the clipped value is the worse one, nothing moves it.
        let slope = if worst.abs() > error.abs() { 0.0 } else { error };
        derivative.push(slope * share * settings.value_weight);
        losses.value += f64::from(0.5 * worst * worst * share);
    }
    weights.backward(steps.sequences(), derivative, critic, gradient);
}

pub(crate) fn log_prob(mean: &[f32], action: &[f32], log_std: &[f32]) -> f32 {
    let terms = mean.iter().zip(action).zip(log_std);
    terms.map(|((m, a), s)| -0.5 * ((a - m) * (-s).exp()).powi(2) - s - HALF_LOG_TAU).sum()
}

fn log_std_entropy(log_std: &[f32]) -> f64 {
    log_std.iter().map(|s| f64::from(s + HALF_LOG_TAU + 0.5)).sum()
}

pub(crate) fn save_adam(adam: &Adam, checkpoint: &mut Checkpoint, name: &str) {
    checkpoint.put(&format!("{name}.first_moment"), &adam.first_moment);
    checkpoint.put(&format!("{name}.second_moment"), &adam.second_moment);
    checkpoint.put_counter(&format!("{name}.time"), adam.time);
}

pub(crate) fn restore_adam(adam: &mut Adam, checkpoint: &Checkpoint, name: &str) -> Result<(), FileError> {
    let length = adam.first_moment.len();
    adam.first_moment = checkpoint.array_f32(&format!("{name}.first_moment"), length)?;
    adam.second_moment = checkpoint.array_f32(&format!("{name}.second_moment"), length)?;
    adam.time = checkpoint.counter(&format!("{name}.time"))?;
    Ok(())
}

/// ln(2 pi) / 2.
const HALF_LOG_TAU: f32 = 0.918_938_5;

#[cfg(test)]
mod tests {
    use tendon_nn::{Encoder, Gru, Transformer};

    use super::*;
    use crate::communicator::Alone;
    use crate::policy::{Hidden, mlp};

    const SETTINGS: StepSettings = StepSettings {
        clip: 0.2,
        value_clip: None,
        policy_weight: 1.0,
        value_weight: 0.5,
        entropy_weight: 0.0,
        learning_rate: 1e-2,
    };

    fn network(widths: [usize; 3], threads: usize) -> ActorCritic {
        let [n_obs, n_privileged, n_act] = widths;
        let dense = |inputs, outputs| Network::dense(mlp(inputs, &[16], outputs, Hidden::Tanh));
        let (actor, critic) = (dense(n_obs, n_act), dense(n_obs + n_privileged, 1));
        ActorCritic::new(actor, critic, 1.0, 1.0, threads, &mut Rng::at(0, &[]))
    }

    #[test]
    fn a_step_makes_good_actions_likelier_and_values_better() {
        let mut rng = Rng::at(1, &[]);
        let mut network = network([2, 0, 1], 2);
        let states: Vec<f32> = (0..200).map(|_| rng.normal() as f32).collect();
        let actions: Vec<f32> = (0..100).map(|_| rng.normal() as f32).collect();
        let (mut means, mut values) = (vec![0.0; 100], vec![0.0; 100]);
        network.inference().means(&states, &mut [], &mut means);
        network.inference().values(&states, &mut [], &mut values);
        let log_probs: Vec<f32> =
            (0..100).map(|i| network.log_prob(&means[i..=i], &actions[i..=i])).collect();
        let batch = Batch {
            sequence: 1,
            memories: [&[]; 2],
            begins: &[true; 100],
            states: &states,
            actions: &actions,
            log_probs: &log_probs,
            advantages: &actions,
            returns: &[3.0; 100],
            values: &values,
        };
        let rows = &Minibatch::of(&batch, vec![(0..100).collect()], &Alone)[0];
        let first = network.step(&batch, rows, &SETTINGS, &Alone);
        assert!(
            first.kl.abs() < 1e-6 && first.clip_fraction == 0.0,
            "the first step starts at ratio 1: {first:?}"
        );
        let last = (0..20).map(|_| network.step(&batch, rows, &SETTINGS, &Alone)).last().unwrap();
        assert!(last.value < 0.5 * first.value && last.policy < first.policy - 0.05, "{first:?} {last:?}");
    }

    /// The loss itself, in `f64`, from the networks' own results step by step.
    fn loss(network: &ActorCritic, batch: &Batch, settings: &StepSettings) -> f64 {
        let rows = batch.log_probs.len();
        let (n_obs, n_act) = (network.actor.inputs(), network.actor.outputs());
        let width = network.critic.inputs();
        let (mut means, mut values) = (vec![0.0; rows * n_act], vec![0.0; rows]);
        let mut memories = [Vec::new(), Vec::new()];
        let lens = [network.actor.memory_len(), network.critic.memory_len()];
        let mut inference = network.inference();
        for r in 0..rows {
            for (i, memory) in memories.iter_mut().enumerate() {
                if r.is_multiple_of(batch.sequence) {
                    *memory = batch.memories[i][r / batch.sequence * lens[i]..][..lens[i]].to_vec();
                }
                if batch.begins[r] {
                    memory.fill(0.0);
                }
            }
            let state = &batch.states[r * width..][..width];
            inference.means(&state[..n_obs], &mut memories[0], &mut means[r * n_act..][..n_act]);
            inference.values(state, &mut memories[1], &mut values[r..=r]);
        }
        let (mean, std) =
            Minibatch::of(batch, vec![(0..batch.advantages.len() / batch.sequence).collect()], &Alone)[0]
                .advantage;
        let mut sum = 0.0;
        for r in 0..rows {
            let log_prob =
                network.log_prob(&means[r * n_act..][..n_act], &batch.actions[r * n_act..][..n_act]);
            let ratio = f64::from(log_prob - batch.log_probs[r]).exp();
            let advantage = f64::from((batch.advantages[r] - mean) / std);
            let clip = f64::from(settings.clip);
            sum -= (ratio * advantage).min(ratio.clamp(1.0 - clip, 1.0 + clip) * advantage);
            let (value, old, target) =
                (f64::from(values[r]), f64::from(batch.values[r]), f64::from(batch.returns[r]));
            let mut error = (value - target).powi(2);
            if let Some(clip) = settings.value_clip.map(f64::from) {
                error = error.max((old + (value - old).clamp(-clip, clip) - target).powi(2));
            }
            sum += 0.5 * f64::from(settings.value_weight) * error;
        }
        sum / rows as f64 - f64::from(settings.entropy_weight) * log_std_entropy(network.log_std())
    }

    /// Samples of 3 numbers that both see and 2 that the critic sees, and an action of 2.
    struct Samples {
        states: Vec<f32>,
        actions: Vec<f32>,
        log_probs: Vec<f32>,
        advantages: Vec<f32>,
        returns: Vec<f32>,
        values: Vec<f32>,
        begins: Vec<bool>,
        memories: [Vec<f32>; 2],
    }

    const ROWS: usize = 40;
    /// Short: the loss has kinks where ratios and values reach their clips.
    const STEP: f32 = 3e-4;

    impl Samples {
        fn new(network: &ActorCritic, sequence: usize) -> Self {
            let mut rng = Rng::at(5, &[]);
            let mut draw =
                |n: usize, scale: f64| (0..n).map(|_| (scale * rng.normal()) as f32).collect::<Vec<f32>>();
            let (states, actions) = (draw(ROWS * 5, 1.0), draw(ROWS * 2, 1.0));
            let (advantages, returns, values) = (draw(ROWS, 1.0), draw(ROWS, 1.0), draw(ROWS, 0.1));
            let log_probs: Vec<f32> = draw(ROWS, 0.3).iter().map(|x| x - 3.0).collect();
            let lens = [network.actor.memory_len(), network.critic.memory_len()];
            Self {
                states,
                actions,
                log_probs,
                advantages,
                returns,
                values,
                begins: (0..ROWS).map(|r| r % 7 == 4).collect(),
                memories: lens.map(|len| draw(ROWS / sequence * len, 0.5)),
            }
        }

        fn batch(&self, sequence: usize) -> Batch<'_> {
            Batch {
                sequence,
                memories: self.memories.each_ref().map(Vec::as_slice),
                begins: &self.begins,
                states: &self.states,
                actions: &self.actions,
                log_probs: &self.log_probs,
                advantages: &self.advantages,
                returns: &self.returns,
                values: &self.values,
            }
        }
    }

    fn recurrent() -> [ActorCritic; 2] {
        let head = |inputs, outputs| mlp(inputs, &[6], outputs, Hidden::Tanh);
        let gru = |inputs, outputs| Network::new(inputs, Encoder::Gru(Gru::new(inputs, 5)), head(5, outputs));
        let transformer = |inputs, outputs| {
            let encoder = Encoder::Transformer(Transformer::new(inputs, 3, 8, 2, 1));
            Network::new(inputs, encoder, head(8, outputs))
        };
        [(gru(3, 2), gru(5, 1)), (transformer(3, 2), transformer(5, 1))]
            .map(|(actor, critic)| ActorCritic::new(actor, critic, 1.0, 1.0, 1, &mut Rng::at(0, &[])))
    }

    /// The gradient of one step, which leaves the weights where they are.
    fn gradient(network: &mut ActorCritic, batch: &Batch, settings: &StepSettings) -> Vec<f64> {
        let units: Vec<usize> = (0..ROWS / batch.sequence).collect();
        network.adam = Adam::new(network.parameters.len(), AdamSettings::default());
        let minibatch = &Minibatch::of(batch, vec![units], &Alone)[0];
        network.step(batch, minibatch, &StepSettings { learning_rate: 0.0, ..*settings }, &Alone);
        // After the first step Adam's first moment is a tenth of the gradient.
        network.adam.first_moment.iter().map(|m| 10.0 * f64::from(*m)).collect()
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences_of_the_loss_also_through_time() {
        let [gru, transformer] = recurrent();
        for (mut network, sequence) in [(network([3, 2, 2], 1), 1), (gru, 10), (transformer, 10)] {
            let samples = Samples::new(&network, sequence);
            let batch = samples.batch(sequence);
            let settings = StepSettings { value_clip: Some(0.2), entropy_weight: 0.1, ..SETTINGS };
            let gradient = gradient(&mut network, &batch, &settings);
            let parameters = network.parameters().to_vec();
            let mut worst: f64 = 0.0;
            for i in 0..parameters.len() {
                let mut at = |delta: f32| {
                    let mut moved = parameters.clone();
                    moved[i] += delta;
                    network.set_parameters(&moved);
                    loss(&network, &batch, &settings)
                };
                let numeric = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
                worst = worst.max((numeric - gradient[i]).abs());
            }
            let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            assert!(worst < 2e-3 * largest, "{worst} against {largest}, {:?}", network.actor.encoder());
        }
    }

    #[test]
    fn episodes_of_one_step_have_the_gradient_of_rows_on_their_own() {
        for mut network in recurrent() {
            let [alone, in_sequences] = [1, 10].map(|sequence| {
                let mut samples = Samples::new(&network, sequence);
                samples.begins.fill(true);
                gradient(&mut network, &samples.batch(sequence), &SETTINGS)
            });
            let largest = alone.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            let worst = alone.iter().zip(&in_sequences).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-5 * largest, "{worst} against {largest}");
        }
    }
}
