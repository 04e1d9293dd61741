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
    /// Length of the privileged observation, `[n_privileged]`; 0 where there is none.
    fn privileged_len(&self) -> usize {
        0
    }
    /// What only a simulation knows of the state after the last step or reset, without noise or delay: for critics
    /// and teachers, never for the policy that goes onto a robot.
    fn privileged(&self, _out: &mut [f32]) {}
    /// Difficulty of the next episode, where the task has a curriculum: 0 is the easiest, 1 (the default) the whole task.
    fn level(&self) -> f32 {
        1.0
    }
    /// Sets it; takes effect at the next reset.
    fn set_level(&mut self, _level: f32) {}
    /// Lets the task choose the levels: the easiest first, then by how episodes end. For training; without it, and for a
    /// task without such rules, the level stays what it was set to.
    fn start_curriculum(&mut self) {}
    /// Names of the task's physical metrics.
    fn metric_names(&self) -> &[String] {
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
