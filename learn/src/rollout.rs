//! Rollouts: environments driven by the current policy, and generalised advantage estimation.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tendon_sim::{Environment, Step};

use crate::checkpoint::Checkpoint;
use crate::network::ActorCritic;
use crate::normaliser::FrozenNormaliser;
use crate::random::{Rng, derive_seed};
use crate::run_folder::FileError;

/// Makes one environment of the task; learners call it once per environment that they run side by side.
pub type MakeEnvironment<'a> = &'a (dyn Fn() -> Box<dyn Environment> + Sync);

/// Raw actions are clipped to this range before they reach the environment, in training and in the exported graph.
pub const ACTION_LIMIT: f32 = 1.0;

/// Streams of random numbers, first element of every place.
pub(crate) mod stream {
    pub(crate) const WEIGHTS: u64 = 1;
    pub(crate) const EPISODE: u64 = 2;
    pub(crate) const EXPLORATION: u64 = 3;
    pub(crate) const SHUFFLE: u64 = 4;
    pub(crate) const EVALUATION: u64 = 5;
    pub(crate) const REWARD_MODEL: u64 = 6;
    pub(crate) const QUERY: u64 = 7;
    pub(crate) const TEACHER: u64 = 8;
    pub(crate) const BOOTSTRAP: u64 = 9;
    pub(crate) const COST_CRITIC: u64 = 10;
    pub(crate) const NOISE: u64 = 11;
}

/// What a set of environments did in one iteration. Row `e * steps + t` is step `t` of environment `e`.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    /// Steps per environment.
    pub steps: usize,
    /// What actor and critic remembered before every `sequence`-th step of each environment, `[rows / sequence, memory_len]` each.
    pub memories: [Vec<f32>; 2],
    /// An episode begins with the row, `[rows]`.
    pub begins: Vec<bool>,
    /// Observations before each step, as the environment gave them, `[rows, n_obs]`.
    pub observations: Vec<f32>,
    /// What only the critic sees, as the environment gave it, `[rows, n_privileged]`.
    pub privileged: Vec<f32>,
    /// Both, normalised, `[rows, n_obs + n_privileged]`.
    pub states: Vec<f32>,
    /// Actions as drawn, `[rows, n_act]`.
    pub actions: Vec<f32>,
    /// Actions as applied: drawn, then clipped, `[rows, n_act]`.
    pub applied: Vec<f32>,
    /// Log-probabilities of the drawn actions, `[rows]`.
    pub log_probs: Vec<f32>,
    /// The task's own rewards, `[rows]`.
    pub rewards: Vec<f32>,
    /// Absolute values of the metric that is constrained, `[rows]`; empty where none is.
    pub costs: Vec<f32>,
    /// Normalised states after the rows that are the last of their environment or of an episode that was cut; empty where nothing is
    /// constrained.
    pub last_states: Vec<(usize, Vec<f32>)>,
    /// Values before each step, `[rows]`.
    pub values: Vec<f32>,
    /// Values after each step, in the same episode, `[rows]`; meaningless where `terminated`.
    pub next_values: Vec<f32>,
    /// The task ended the episode, `[rows]`.
    pub terminated: Vec<bool>,
    /// The episode was cut, `[rows]`.
    pub truncated: Vec<bool>,
    /// Environment and episode that a row belongs to, `[rows]`: equal neighbours are one episode.
    pub episode_seeds: Vec<u64>,
    /// The episodes that ended, in the order of their ends.
    pub finished: Vec<Finished>,
    /// Wall time in the environments, s, mean over threads.
    pub simulation_s: f64,
}

/// An episode that ended in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Step of the rollout in which it ended.
    pub step: usize,
    /// Sum of the task's rewards.
    pub episode_return: f64,
    /// Control steps.
    pub length: u64,
    /// The task's success condition held at its end.
    pub success: bool,
}

/// One environment and where it stands.
pub(crate) struct Slot {
    environment: Box<dyn Environment>,
    observation: Vec<f32>,
    /// Of the running episode.
    seed: u64,
    episode_return: f64,
    /// Episodes begun, the running one included.
    episodes: u64,
    /// Applied actions of the running episode: replaying them is how a resumed run gets back to the same state.
    history: Vec<f32>,
    /// Difficulty of the running episode.
    level: f32,
    /// Length at which the very first episode is cut; 0 is never.
    first_cut: usize,
    /// What actor and critic remember of the running episode.
    memory: [Vec<f32>; 2],
}

impl Slot {
    /// Starts the first episode of environment `index`, which is cut after `first_cut` steps (0: never). `memory`: how many numbers
    /// actor and critic remember.
    pub(crate) fn start(
        make: MakeEnvironment,
        seed: u64,
        index: usize,
        first_cut: usize,
        memory: [usize; 2],
    ) -> Self {
        let mut environment = make();
        environment.start_curriculum();
        let observation = vec![0.0; environment.observation_len()];
        let mut slot = Self {
            environment,
            observation,
            seed: 0,
            episode_return: 0.0,
            episodes: 0,
            history: Vec::new(),
            level: 1.0,
            first_cut,
            memory: memory.map(|len| vec![0.0; len]),
        };
        slot.next_episode(seed, index);
        slot
    }

    /// Begins the next episode of environment `index`.
    pub(crate) fn next_episode(&mut self, seed: u64, index: usize) {
        self.seed = derive_seed(seed, &[stream::EPISODE, index as u64, self.episodes]);
        self.episodes += 1;
        self.episode_return = 0.0;
        self.history.clear();
        self.memory.iter_mut().for_each(|memory| memory.fill(0.0));
        self.level = self.environment.level();
        self.environment.reset(self.seed, &mut self.observation);
    }

    /// What the policy sees.
    pub(crate) fn observation(&self) -> &[f32] {
        &self.observation
    }

    /// One step of the running episode, which may have ended then.
    pub(crate) fn step(&mut self, action: &[f32]) -> Step {
        self.history.extend_from_slice(action);
        let step = self.environment.step(action, &mut self.observation);
        self.episode_return += f64::from(step.reward);
        step
    }

    /// The running episode as one that ends in `step` of the rollout.
    pub(crate) fn finished(&self, step: usize) -> Finished {
        Finished {
            step,
            episode_return: self.episode_return,
            length: (self.history.len() / self.environment.action_len()) as u64,
            success: self.environment.success(),
        }
    }

    /// Adds the running episode to a checkpoint: the actions since its start, not the physics.
    pub(crate) fn save(&self, checkpoint: &mut Checkpoint, index: usize) {
        checkpoint.put_counter(&format!("environment.{index}.episodes"), self.episodes);
        checkpoint.put(&format!("environment.{index}.level"), &[self.level]);
        checkpoint.put(&format!("environment.{index}.history"), &self.history);
        checkpoint.put(&format!("environment.{index}.observation"), &self.observation);
        for (name, memory) in MEMORIES.iter().zip(&self.memory).filter(|(_, memory)| !memory.is_empty()) {
            checkpoint.put(&format!("environment.{index}.{name}"), memory);
        }
    }

    /// Replays the running episode of a checkpoint.
    pub(crate) fn restore(
        &mut self,
        checkpoint: &Checkpoint,
        seed: u64,
        index: usize,
    ) -> Result<(), FileError> {
        let field = format!("environment.{index}.episodes");
        self.episodes = checkpoint
            .counter(&field)?
            .checked_sub(1)
            .ok_or_else(|| checkpoint.error(&field, "0, but an episode runs from the start"))?;
        self.environment.set_level(checkpoint.array_f32(&format!("environment.{index}.level"), 1)?[0]);
        self.next_episode(seed, index);
        let field = format!("environment.{index}.history");
        let history: Vec<f32> = checkpoint.any_array(&field)?.iter().map(|&v| v as f32).collect();
        for action in history.chunks(self.environment.action_len()) {
            if action.len() != self.environment.action_len() {
                return Err(checkpoint
                    .error(&field, format!("{} values, no multiple of the action's length", history.len())));
            }
            self.episode_return += f64::from(self.environment.step(action, &mut self.observation).reward);
        }
        self.history = history;
        let field = format!("environment.{index}.observation");
        if checkpoint.array_f32(&field, self.observation.len())? != self.observation {
            return Err(checkpoint
                .error(&field, "replaying the episode led elsewhere: the simulation has changed since"));
        }
        for (name, memory) in MEMORIES.iter().zip(&mut self.memory).filter(|(_, memory)| !memory.is_empty()) {
            *memory = checkpoint.array_f32(&format!("environment.{index}.{name}"), memory.len())?;
        }
        Ok(())
    }
}

/// Names of what actor and critic remember, in checkpoints.
const MEMORIES: [&str; 2] = ["actor_memory", "critic_memory"];

/// Runs every slot, environment `first` and those behind it, for `steps` steps, cut into sequences, on up to `threads` threads. No bit of the result depends on `threads`: each environment draws
/// from its own stream and each row of the networks is computed alone.
pub(crate) fn collect(
    (slots, first): (&mut [Slot], usize),
    network: &ActorCritic,
    normalisers: &[FrozenNormaliser; 2],
    (steps, sequence): (usize, usize),
    place: (u64, u64),
    threads: usize,
    cost_metric: Option<usize>,
) -> Rollout {
    let share = slots.len().div_ceil(threads.max(1)).max(1);
    let parts: Vec<Rollout> = std::thread::scope(|scope| {
        let handles: Vec<_> = slots
            .chunks_mut(share)
            .enumerate()
            .map(|(c, chunk)| {
                scope.spawn(move || {
                    collect_chunk(
                        chunk,
                        first + c * share,
                        network,
                        normalisers,
                        (steps, sequence),
                        place,
                        cost_metric,
                    )
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut whole = Rollout { steps, ..Rollout::default() };
    let count = parts.len() as f64;
    for part in parts {
        whole.simulation_s += part.simulation_s / count;
        for (whole, part) in whole.memories.iter_mut().zip(part.memories) {
            whole.extend(part);
        }
        whole.begins.extend(part.begins);
        whole.observations.extend(part.observations);
        whole.privileged.extend(part.privileged);
        whole.states.extend(part.states);
        whole.actions.extend(part.actions);
        whole.applied.extend(part.applied);
        whole.log_probs.extend(part.log_probs);
        let before = whole.rewards.len();
        whole.last_states.extend(part.last_states.into_iter().map(|(row, state)| (before + row, state)));
        whole.costs.extend(part.costs);
        whole.rewards.extend(part.rewards);
        whole.values.extend(part.values);
        whole.next_values.extend(part.next_values);
        whole.terminated.extend(part.terminated);
        whole.truncated.extend(part.truncated);
        whole.episode_seeds.extend(part.episode_seeds);
        whole.finished.extend(part.finished);
    }
    in_order(&mut whole.finished);
    whole
}

/// Brings episodes that are sorted by environment into the order of their ends.
pub(crate) fn in_order(finished: &mut [Finished]) {
    // Stable: environments in order where episodes end in the same step.
    finished.sort_by_key(|episode| episode.step);
}

/// Advantages by GAE(lambda) (Schulman et al. 2016, equation 16): `delta = r + discount V(next) - V`, where `V(next)` is 0 after a
/// termination and the final observation's value after a truncation; the sum stops at both.
pub fn advantages(rollout: &Rollout, rewards: &[f32], discount: f32, lambda: f32) -> Vec<f32> {
    gae(rollout, rewards, &rollout.values, &rollout.next_values, discount, lambda)
}

/// [`advantages`] under other values than the rollout's.
pub(crate) fn gae(
    rollout: &Rollout,
    rewards: &[f32],
    values: &[f32],
    next_values: &[f32],
    discount: f32,
    lambda: f32,
) -> Vec<f32> {
    let mut advantages = vec![0.0; rewards.len()];
    for start in (0..rewards.len()).step_by(rollout.steps) {
        let mut next = 0.0;
        for i in (start..start + rollout.steps).rev() {
            let next_value = if rollout.terminated[i] { 0.0 } else { next_values[i] };
            let delta = rewards[i] + discount * next_value - values[i];
            let goes_on = !rollout.terminated[i] && !rollout.truncated[i];
            next = delta + if goes_on { discount * lambda * next } else { 0.0 };
            advantages[i] = next;
        }
    }
    advantages
}

fn collect_chunk(
    slots: &mut [Slot],
    first_index: usize,
    network: &ActorCritic,
    [of_observation, of_privileged]: &[FrozenNormaliser; 2],
    (steps, sequence): (usize, usize),
    (seed, iteration): (u64, u64),
    cost_metric: Option<usize>,
) -> Rollout {
    let (n_obs, n_act) = (slots[0].environment.observation_len(), slots[0].environment.action_len());
    let n_privileged = of_privileged.offset.len();
    let width = n_obs + n_privileged;
    let rows = slots.len() * steps;
    let remembered = [network.actor().0.memory_len(), network.critic().0.memory_len()];
    let mut out = Rollout {
        steps,
        memories: remembered.map(|len| vec![0.0; rows / sequence * len]),
        begins: vec![false; rows],
        observations: vec![0.0; rows * n_obs],
        privileged: vec![0.0; rows * n_privileged],
        states: vec![0.0; rows * width],
        actions: vec![0.0; rows * n_act],
        applied: vec![0.0; rows * n_act],
        log_probs: vec![0.0; rows],
        rewards: vec![0.0; rows],
        costs: vec![0.0; if cost_metric.is_some() { rows } else { 0 }],
        last_states: Vec::new(),
        values: vec![0.0; rows],
        next_values: vec![0.0; rows],
        terminated: vec![false; rows],
        truncated: vec![false; rows],
        episode_seeds: vec![0; rows],
        finished: Vec::new(),
        simulation_s: 0.0,
    };
    let mut noise: Vec<Rng> = (0..slots.len())
        .map(|e| Rng::at(seed, &[stream::EXPLORATION, iteration, (first_index + e) as u64]))
        .collect();
    let mut inference = network.inference();
    let std = inference.std().to_vec();
    let state_of = |slot: &Slot, privileged: &mut [f32], state: &mut [f32]| {
        of_observation.apply(&slot.observation, &mut state[..n_obs]);
        if n_privileged > 0 {
            slot.environment.privileged(privileged);
            of_privileged.apply(privileged, &mut state[n_obs..]);
        }
    };
    let mut states = vec![0.0; slots.len() * width];
    let mut observations = vec![0.0; slots.len() * n_obs];
    let mut privileged = vec![0.0; slots.len() * n_privileged];
    let (mut means, mut values) = (vec![0.0; slots.len() * n_act], vec![0.0; slots.len()]);
    let mut memories = remembered.map(|len| vec![0.0; slots.len() * len]);
    let (mut last_privileged, mut last_state, mut last_value) =
        (vec![0.0; n_privileged], vec![0.0; width], [0.0]);
    for t in 0..steps {
        for (e, slot) in slots.iter().enumerate() {
            let state = &mut states[e * width..(e + 1) * width];
            state_of(slot, &mut privileged[e * n_privileged..(e + 1) * n_privileged], state);
            observations[e * n_obs..(e + 1) * n_obs].copy_from_slice(&state[..n_obs]);
            for ((all, own), len) in memories.iter_mut().zip(&slot.memory).zip(remembered) {
                all[e * len..(e + 1) * len].copy_from_slice(own);
            }
            out.begins[e * steps + t] = slot.history.is_empty();
            if t.is_multiple_of(sequence) {
                let unit = (e * steps + t) / sequence;
                for ((kept, own), len) in out.memories.iter_mut().zip(&slot.memory).zip(remembered) {
                    kept[unit * len..(unit + 1) * len].copy_from_slice(own);
                }
            }
        }
        inference.means(&observations, &mut memories[0], &mut means);
        inference.values(&states, &mut memories[1], &mut values);
        for (e, slot) in slots.iter_mut().enumerate() {
            let row = e * steps + t;
            for ((own, all), len) in slot.memory.iter_mut().zip(&memories).zip(remembered) {
                own.copy_from_slice(&all[e * len..(e + 1) * len]);
            }
            let mean = &means[e * n_act..(e + 1) * n_act];
            out.observations[row * n_obs..(row + 1) * n_obs].copy_from_slice(&slot.observation);
            out.privileged[row * n_privileged..(row + 1) * n_privileged]
                .copy_from_slice(&privileged[e * n_privileged..(e + 1) * n_privileged]);
            out.states[row * width..(row + 1) * width].copy_from_slice(&states[e * width..(e + 1) * width]);
            let action = &mut out.actions[row * n_act..(row + 1) * n_act];
            for ((a, m), s) in action.iter_mut().zip(mean).zip(&std) {
                *a = m + s * noise[e].normal() as f32;
            }
            out.log_probs[row] = network.log_prob(mean, action);
            let applied = &mut out.applied[row * n_act..(row + 1) * n_act];
            for (clipped, a) in applied.iter_mut().zip(action.iter()) {
                *clipped = a.clamp(-ACTION_LIMIT, ACTION_LIMIT);
            }
            out.values[row] = values[e];
            if t > 0 && !out.truncated[row - 1] {
                out.next_values[row - 1] = values[e];
            }
            out.episode_seeds[row] = slot.seed;
            let before = Instant::now();
            let mut step = slot.step(applied);
            out.simulation_s += before.elapsed().as_secs_f64();
            let staggered = slot.episodes == 1 && slot.history.len() == slot.first_cut * n_act;
            step.truncated |= staggered;
            out.rewards[row] = step.reward;
            if let Some(metric) = cost_metric {
                out.costs[row] = slot.environment.metrics()[metric].abs();
            }
            out.terminated[row] = step.terminated;
            // Both at once is the task's own end.
            out.truncated[row] = step.truncated && !step.terminated;
            if t + 1 == steps || out.truncated[row] {
                state_of(slot, &mut last_privileged, &mut last_state);
                inference.values(&last_state, &mut slot.memory[1].clone(), &mut last_value);
                out.next_values[row] = last_value[0];
                if cost_metric.is_some() {
                    out.last_states.push((row, last_state.clone()));
                }
            }
            if step.terminated || step.truncated {
                if !staggered {
                    out.finished.push(slot.finished(t));
                }
                slot.next_episode(seed, first_index + e);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(terminated: [bool; 3], truncated: [bool; 3]) -> Rollout {
        Rollout {
            steps: 3,
            values: vec![1.0, 2.0, 3.0],
            next_values: vec![2.0, 7.0, 5.0],
            terminated: terminated.to_vec(),
            truncated: truncated.to_vec(),
            ..Rollout::default()
        }
    }

    #[test]
    fn termination_has_no_value_after_it_and_truncation_has_the_final_observations() {
        let rewards = [1.0, 1.0, 1.0];
        let ended = advantages(&rollout([false, true, false], [false; 3]), &rewards, 0.9, 0.5);
        assert!((ended[1] - (1.0 - 2.0)).abs() < 1e-6, "{ended:?}");
        let cut = advantages(&rollout([false; 3], [false, true, false]), &rewards, 0.9, 0.5);
        assert!((cut[1] - (1.0 + 0.9 * 7.0 - 2.0)).abs() < 1e-6, "{cut:?}");
        assert!((cut[0] - (1.0 + 0.9 * 2.0 - 1.0 + 0.45 * cut[1])).abs() < 1e-6, "{cut:?}");
        assert!((cut[2] - (1.0 + 0.9 * 5.0 - 3.0)).abs() < 1e-6, "{cut:?}");
    }
}
