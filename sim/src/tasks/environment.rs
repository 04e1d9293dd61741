//! Any task as an [`Environment`].

use super::{RewardTerm, Seen, Setup, Task, TaskError};
use crate::environment::{Environment, Step};
use crate::interface::PolicyInterface;
use crate::scene::Scene;
use crate::seed::Rng;
use crate::world::World;
use tendon_runtime::RawState;
use tendon_runtime::spec::ContractSpec;

/// Purpose of the random stream that starts episodes.
const RESET_STREAM: u64 = 1;
/// Numbers about the base in what only training sees.
const BASE_STATE: usize = 7;

/// A task being run: physics, observation and action through the runtime, reward by term.
pub struct TaskEnvironment {
    world: World,
    interface: PolicyInterface,
    spec: ContractSpec,
    task: Box<dyn Task>,
    substeps: usize,
    max_steps: u32,
    steps: u32,
    command: Vec<f32>,
    preference: Vec<f32>,
    sensors: Vec<f32>,
    action: Vec<f32>,
    previous_action: Vec<f32>,
    terms: Vec<f32>,
    weights: Vec<f32>,
    metrics: Vec<f32>,
    total_reward: f32,
    success: bool,
    diverged: bool,
    last_episode: Option<Episode>,
}

/// Figures of an episode that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Sum of rewards.
    pub total_reward: f32,
    /// Steps.
    pub steps: u32,
    /// The task's success condition held in the last step.
    pub success: bool,
    /// The simulation was cut because it was no longer finite.
    pub diverged: bool,
    /// Physical metrics of the last step, in the order of [`TaskEnvironment::metric_names`].
    pub metrics: Vec<f32>,
}

impl TaskEnvironment {
    pub(super) fn new(setup: Setup, task: Box<dyn Task>) -> Result<Self, TaskError> {
        let interface = PolicyInterface::new(&setup.contract, &setup.robot, setup.imu)?;
        let period = setup.contract.control_period_s as f32;
        let terms = task.reward_terms();
        let n_act = interface.action_len();
        Ok(Self {
            substeps: ((period / setup.robot.timestep_s).round() as usize).max(1),
            max_steps: (setup.time_limit_s / period).round() as u32,
            world: World::new(setup.robot),
            steps: 0,
            command: setup.contract.commands.iter().map(|c| c.default).collect(),
            preference: setup.contract.preferences.iter().map(|p| p.default).collect(),
            sensors: vec![0.0; setup.contract.sensors.len()],
            action: vec![0.0; n_act],
            previous_action: vec![0.0; n_act],
            terms: vec![0.0; terms.len()],
            weights: terms.iter().map(|t| t.weight).collect(),
            metrics: vec![0.0; task.metric_names().len()],
            total_reward: 0.0,
            success: false,
            diverged: false,
            last_episode: None,
            interface,
            spec: setup.contract,
            task,
        })
    }

    /// The contract a policy for this task is exported with.
    #[must_use]
    pub fn contract(&self) -> &ContractSpec {
        &self.spec
    }

    /// Names and default weights of the reward terms.
    #[must_use]
    pub fn reward_terms(&self) -> &'static [RewardTerm] {
        self.task.reward_terms()
    }

    /// Unweighted reward terms of the last step, `[n_terms]`; kept over a reset.
    #[must_use]
    pub fn reward_values(&self) -> &[f32] {
        &self.terms
    }

    /// Weights in use, `[n_terms]`: a user's taste may differ from the defaults.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// Names of the physical metrics.
    #[must_use]
    pub fn metric_names(&self) -> &'static [&'static str] {
        self.task.metric_names()
    }

    /// Physical metrics of the last step; kept over a reset.
    #[must_use]
    pub fn physical(&self) -> &[f32] {
        &self.metrics
    }

    /// Whether the success condition held in the last step.
    #[must_use]
    pub fn success(&self) -> bool {
        self.success
    }

    /// Figures of the last episode that ended.
    #[must_use]
    pub fn last_episode(&self) -> Option<&Episode> {
        self.last_episode.as_ref()
    }

    /// Steps after which an episode is cut.
    #[must_use]
    pub fn max_steps(&self) -> u32 {
        self.max_steps
    }

    /// The raw state behind the last observation, as it goes over the wire.
    #[must_use]
    pub fn raw_state(&self) -> &RawState {
        self.interface.raw_state()
    }

    /// The command of the episode, `[n_commands]`.
    #[must_use]
    pub fn command(&self) -> &[f32] {
        &self.command
    }

    /// The simulated world, to look at.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The shapes to draw, with the task's marks (a target).
    #[must_use]
    pub fn scene(&self) -> Scene {
        let mut scene = self.world.scene();
        scene.shapes.extend(self.task.markers(&self.command));
        scene
    }

    /// Takes commands from elsewhere (a controller on a wire) instead of an action, and writes the next observation.
    pub fn step_commands(
        &mut self,
        action: &[f32],
        commands: &[tendon_runtime::JointCommand],
        observation: &mut [f32],
    ) -> Step {
        self.world.step(commands, self.substeps);
        self.finish_step(action, observation)
    }

    fn measure(&mut self) {
        self.task.sense(&self.world, &self.command, &mut self.sensors);
        self.interface.measure(&self.world, &self.command, &self.preference, &self.sensors);
    }

    fn finish_step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        self.previous_action.copy_from_slice(&self.action);
        for (to, from) in self.action.iter_mut().zip(action) {
            *to = if from.is_nan() { 0.0 } else { from.clamp(-1.0, 1.0) };
        }
        self.steps += 1;
        self.measure();
        // A diverged simulation ends here; the learner keeps the last finite observation and no reward.
        self.diverged = !self.world.is_finite() || self.interface.observe(observation).is_err();
        let mut step = Step { truncated: self.diverged || self.steps >= self.max_steps, ..Step::default() };
        if !self.diverged {
            let seen = Seen {
                world: &self.world,
                action: &self.action,
                previous_action: &self.previous_action,
                command: &self.command,
            };
            let verdict = self.task.judge(&seen, &mut self.terms, &mut self.metrics);
            self.success = verdict.success;
            step.reward = self.terms.iter().zip(&self.weights).map(|(value, weight)| value * weight).sum();
            step.terminated = verdict.terminated;
            step.truncated &= !verdict.terminated;
        }
        self.total_reward += step.reward;
        if step.terminated || step.truncated {
            self.last_episode = Some(Episode {
                total_reward: self.total_reward,
                steps: self.steps,
                success: self.success && !self.diverged,
                diverged: self.diverged,
                metrics: self.metrics.clone(),
            });
        }
        step
    }
}

impl Environment for TaskEnvironment {
    fn observation_len(&self) -> usize {
        self.interface.observation_len()
    }

    fn action_len(&self) -> usize {
        self.interface.action_len()
    }

    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        let mut rng = Rng::new(seed, RESET_STREAM);
        self.world.reset();
        self.task.start(&mut self.world, &mut rng, &mut self.command);
        self.interface.reset(&self.world);
        self.action.fill(0.0);
        self.previous_action.fill(0.0);
        (self.steps, self.total_reward, self.success, self.diverged) = (0, 0.0, false, false);
        self.measure();
        if self.interface.observe(observation).is_err() {
            observation.fill(0.0);
        }
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        let commands = self.interface.act(&self.world, action);
        self.world.step(commands, self.substeps);
        self.finish_step(action, observation)
    }

    fn privileged_len(&self) -> usize {
        BASE_STATE + 2 * self.world.robot().joints.len()
    }

    /// Velocities of the base in its frame and its height, then position and velocity of every joint: the state, without
    /// noise and delay.
    fn privileged(&self, privileged: &mut [f32]) {
        let motion = self.world.base_motion();
        let (base, joints) = privileged.split_at_mut(BASE_STATE);
        base[..3].copy_from_slice(&motion.linear_velocity);
        base[3..6].copy_from_slice(&motion.angular_velocity);
        base[6] = self.world.base_pose().0[2];
        for (i, state) in joints.chunks_exact_mut(2).enumerate() {
            state.copy_from_slice(&[self.world.joint_position(i), self.world.joint_velocity(i)]);
        }
    }

    fn metric_names(&self) -> &'static [&'static str] {
        self.task.metric_names()
    }

    fn metrics(&self) -> &[f32] {
        &self.metrics
    }

    fn success(&self) -> bool {
        self.success
    }
}
