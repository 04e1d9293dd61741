//! What a learner sees of a task.

/// Result of one control step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// Sum of the task's weighted reward terms.
    pub reward: f32,
    /// The task ended by its own rule (a fall): the value after it is zero.
    pub terminated: bool,
    /// The episode was cut from outside (time limit): the value after it is bootstrapped.
    pub truncated: bool,
}

/// One simulated robot with one task. Seeds are arguments: the same seed and actions give the same bits.
pub trait Environment: Send {
    /// Length of the observation, `[n_obs]`, as the runtime's observation builder makes it.
    fn observation_len(&self) -> usize;
    /// Length of the raw action, `[n_act]`, as the network emits it.
    fn action_len(&self) -> usize;
    /// Starts an episode and writes the first observation.
    fn reset(&mut self, seed: u64, observation: &mut [f32]);
    /// Applies one raw action for one control period and writes the next observation.
    /// After `terminated` or `truncated` the caller resets.
    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step;
    /// Length of what only training sees, `[n_privileged]`.
    fn privileged_len(&self) -> usize {
        0
    }
    /// Writes what only training sees (for a critic, or a teacher), of the state that the last observation is of.
    fn privileged(&self, _privileged: &mut [f32]) {}
    /// Names of the task's physical metrics.
    fn metric_names(&self) -> &'static [&'static str] {
        &[]
    }
    /// Physical metrics of the last step, in the order of the names; kept over a reset.
    fn metrics(&self) -> &[f32] {
        &[]
    }
    /// Whether the task's success condition held in the last step.
    fn success(&self) -> bool {
        false
    }
}
