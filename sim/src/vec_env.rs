//! Many environments stepped together on all cores, with the same bits whatever the number of threads.

use rayon::prelude::*;

use crate::environment::{Environment, Step};
use crate::seed::derive_seed;

/// Result of one step of all `n` environments. Rows belong to environments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBatch {
    /// Observation to act on next, `[n, n_obs]`: the first of the next episode where one ended.
    pub observations: Vec<f32>,
    /// Reward of the step, `[n]`.
    pub rewards: Vec<f32>,
    /// The episode ended by the task's own rule: the value after it is zero, `[n]`.
    pub terminated: Vec<bool>,
    /// The episode was cut from outside: bootstrap from `final_observations`, `[n]`.
    pub truncated: Vec<bool>,
    /// Last observation of the episode that ended, `[n, n_obs]`; otherwise a copy of `observations`.
    pub final_observations: Vec<f32>,
    /// What only the simulation knows, beside `observations`, `[n, n_privileged]`; empty where there is none.
    pub privileged: Vec<f32>,
    /// The same beside `final_observations`.
    pub final_privileged: Vec<f32>,
    /// Sum of rewards of the episode that ended, `[n]`; meaningful only where one did.
    pub episode_returns: Vec<f32>,
    /// Steps of the episode that ended, `[n]`; meaningful only where one did.
    pub episode_lengths: Vec<u32>,
}

impl StepBatch {
    /// Whether the episode of environment `index` ended in this step.
    #[must_use]
    pub fn done(&self, index: usize) -> bool {
        self.terminated[index] || self.truncated[index]
    }
}

/// A fault of the thread pool.
#[derive(Debug, thiserror::Error)]
pub enum VecEnvError {
    /// There must be something to step.
    #[error("no environments were given; make at least one")]
    Empty,
    /// The system refused the threads.
    #[error("cannot start {threads} threads: {reason}; ask for fewer")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}

/// Environments of one kind with automatic reset. Environment `i` in its `k`-th episode is seeded by
/// `derive_seed(derive_seed(seed, i), k)` alone.
pub struct VecEnv<E> {
    slots: Vec<Slot<E>>,
    batch: StepBatch,
    observation_len: usize,
    action_len: usize,
    pool: rayon::ThreadPool,
}

struct Slot<E> {
    env: E,
    seed: u64,
    episode: u64,
    episode_return: f32,
    episode_length: u32,
    privileged: Vec<f32>,
    final_privileged: Vec<f32>,
}

impl<E: Environment> VecEnv<E> {
    /// Resets all environments; the first observations stand in [`VecEnv::batch`].
    ///
    /// # Errors
    /// No environments, or threads that cannot be started.
    pub fn new(environments: Vec<E>, threads: usize, seed: u64) -> Result<Self, VecEnvError> {
        let first = environments.first().ok_or(VecEnvError::Empty)?;
        let (observation_len, action_len) = (first.observation_len(), first.action_len());
        let privileged_len = first.privileged_len();
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| VecEnvError::Threads { threads, reason: e.to_string() })?;
        let n = environments.len();
        let slots = environments
            .into_iter()
            .zip(0u64..)
            .map(|(env, i)| Slot {
                env,
                seed: derive_seed(seed, i),
                episode: 0,
                episode_return: 0.0,
                episode_length: 0,
                privileged: vec![0.0; privileged_len],
                final_privileged: vec![0.0; privileged_len],
            })
            .collect();
        let batch = StepBatch {
            observations: vec![0.0; n * observation_len],
            rewards: vec![0.0; n],
            terminated: vec![false; n],
            truncated: vec![false; n],
            final_observations: vec![0.0; n * observation_len],
            privileged: vec![0.0; n * privileged_len],
            final_privileged: vec![0.0; n * privileged_len],
            episode_returns: vec![0.0; n],
            episode_lengths: vec![0; n],
        };
        let mut this = Self { slots, batch, observation_len, action_len, pool };
        this.reset();
        Ok(this)
    }

    /// Starts a new episode everywhere and returns the first observations.
    pub fn reset(&mut self) -> &StepBatch {
        let Self { slots, batch, observation_len, pool, .. } = self;
        pool.install(|| {
            slots
                .par_iter_mut()
                .zip(batch.observations.par_chunks_mut(*observation_len))
                .for_each(|(slot, observation)| slot.start_episode(observation));
        });
        batch.gather_privileged(slots);
        batch.final_privileged.copy_from_slice(&batch.privileged);
        batch.final_observations.copy_from_slice(&batch.observations);
        batch.terminated.fill(false);
        batch.truncated.fill(false);
        batch.rewards.fill(0.0);
        batch
    }

    /// Steps every environment with its row of `actions`, `[n, n_act]`.
    ///
    /// # Panics
    /// `actions` has another length.
    pub fn step(&mut self, actions: &[f32]) -> &StepBatch {
        assert_eq!(actions.len(), self.slots.len() * self.action_len, "actions must be [n, n_act]");
        let Self { slots, batch, observation_len, action_len, pool } = self;
        let StepBatch {
            observations,
            rewards,
            terminated,
            truncated,
            final_observations,
            episode_returns,
            episode_lengths,
            ..
        } = batch;
        pool.install(|| {
            slots
                .par_iter_mut()
                .zip(actions.par_chunks(*action_len))
                .zip(observations.par_chunks_mut(*observation_len))
                .zip(final_observations.par_chunks_mut(*observation_len))
                .zip(rewards.par_iter_mut().zip(terminated.par_iter_mut()).zip(truncated.par_iter_mut()))
                .zip(episode_returns.par_iter_mut().zip(episode_lengths.par_iter_mut()))
                .for_each(
                    |(((((slot, action), observation), last), ((reward, end), cut)), (total, length))| {
                        let step = slot.step(action, observation, last);
                        (*reward, *end, *cut) = (step.reward, step.terminated, step.truncated);
                        (*total, *length) = (slot.episode_return, slot.episode_length);
                        if step.terminated || step.truncated {
                            slot.start_episode(observation);
                        }
                    },
                );
        });
        batch.gather_privileged(slots);
        batch
    }

    /// The result of the last step or reset.
    #[must_use]
    pub fn batch(&self) -> &StepBatch {
        &self.batch
    }

    /// Number of environments, `n`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no environments: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Length of one observation, `n_obs`.
    #[must_use]
    pub fn observation_len(&self) -> usize {
        self.observation_len
    }

    /// Length of one action, `n_act`.
    #[must_use]
    pub fn action_len(&self) -> usize {
        self.action_len
    }

    /// The environments in order, to read rewards by term or to draw them.
    pub fn environments(&self) -> impl Iterator<Item = &E> {
        self.slots.iter().map(|s| &s.env)
    }
}

impl StepBatch {
    fn gather_privileged<E>(&mut self, slots: &[Slot<E>]) {
        let Some(length) = slots.first().map(|slot| slot.privileged.len()).filter(|&n| n > 0) else { return };
        let rows = self.privileged.chunks_mut(length).zip(self.final_privileged.chunks_mut(length));
        for (slot, (row, last)) in slots.iter().zip(rows) {
            row.copy_from_slice(&slot.privileged);
            last.copy_from_slice(&slot.final_privileged);
        }
    }
}

impl<E: Environment> Slot<E> {
    fn start_episode(&mut self, observation: &mut [f32]) {
        self.env.reset(derive_seed(self.seed, self.episode), observation);
        self.env.privileged(&mut self.privileged);
        self.episode += 1;
        (self.episode_return, self.episode_length) = (0.0, 0);
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32], last: &mut [f32]) -> Step {
        let step = self.env.step(action, observation);
        last.copy_from_slice(observation);
        self.env.privileged(&mut self.final_privileged);
        self.privileged.copy_from_slice(&self.final_privileged);
        self.episode_return += step.reward;
        self.episode_length += 1;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts its steps, terminates at the action's whim and is cut after four steps.
    struct Counter {
        start: f32,
        count: f32,
    }

    impl Environment for Counter {
        fn observation_len(&self) -> usize {
            1
        }
        fn action_len(&self) -> usize {
            1
        }
        fn reset(&mut self, seed: u64, observation: &mut [f32]) {
            self.start = (seed % 1000) as f32;
            self.count = 0.0;
            observation[0] = self.start;
        }
        fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
            self.count += 1.0;
            observation[0] = self.start + self.count;
            Step { reward: 1.0, terminated: action[0] > 0.0, truncated: self.count >= 4.0 }
        }
    }

    fn counters(n: usize, threads: usize) -> VecEnv<Counter> {
        let environments = (0..n).map(|_| Counter { start: 0.0, count: 0.0 }).collect();
        VecEnv::new(environments, threads, 7).unwrap()
    }

    #[test]
    fn keeps_the_final_observation_and_starts_the_next_episode() {
        let mut envs = counters(1, 1);
        let start = envs.batch().observations[0];
        for step in 1..=3u8 {
            assert_eq!(envs.step(&[0.0]).observations[0], start + f32::from(step));
        }
        let batch = envs.step(&[0.0]);
        assert!(batch.truncated[0] && !batch.terminated[0]);
        assert_eq!(batch.final_observations[0], start + 4.0);
        assert_eq!(batch.observations[0], (derive_seed(derive_seed(7, 0), 1) % 1000) as f32);
        assert_eq!((batch.episode_returns[0], batch.episode_lengths[0]), (4.0, 4));
    }

    #[test]
    fn an_end_by_rule_is_not_a_cut() {
        let mut envs = counters(2, 1);
        let batch = envs.step(&[1.0, 0.0]);
        assert_eq!(batch.terminated, [true, false]);
        assert_eq!(batch.truncated, [false, false]);
        assert!(batch.done(0) && !batch.done(1));
    }

    #[test]
    fn threads_do_not_change_anything() {
        let run = |threads| {
            let mut envs = counters(13, threads);
            (0..9).map(|i| envs.step(&[f32::from(u8::from(i == 5)); 13]).clone()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(4));
    }

    #[test]
    fn refuses_to_step_nothing() {
        assert!(matches!(VecEnv::<Counter>::new(Vec::new(), 1, 0), Err(VecEnvError::Empty)));
    }
}
