//! Tasks: a robot, what the policy sees and does, what is rewarded, when an episode ends.
//!
//! A new task is one file beside this one and one line in [`TASKS`].

mod cart_pole;
mod environment;
mod hopper;
mod reacher;

use std::sync::Arc;

use tendon_runtime::spec::ContractSpec;

pub use environment::{Episode, TaskEnvironment};

use crate::interface::InterfaceError;
use crate::load::LoadError;
use crate::robot::Robot;
use crate::scene::Placed;
use crate::seed::Rng;
use crate::world::World;

/// Every task, for `tendon sim --task NAME` and the docs.
pub const TASKS: &[TaskInfo] = &[cart_pole::SWING_UP, cart_pole::BALANCE, reacher::REACH, hopper::HOP];

/// One row of the table of tasks.
#[derive(Clone, Copy, Debug)]
pub struct TaskInfo {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is about, in one sentence.
    pub doc: &'static str,
    /// What counts as success.
    pub success: &'static str,
    /// Target, distance, azimuth and elevation of the camera that shows it, m and rad.
    pub view: ([f32; 3], f32, f32, f32),
    make: fn() -> Result<TaskEnvironment, TaskError>,
}

impl TaskInfo {
    /// Builds one environment; call [`Environment::reset`](crate::Environment::reset) before stepping.
    ///
    /// # Errors
    /// The embedded robot or contract does not hold: a fault of this program.
    pub fn make(&self) -> Result<TaskEnvironment, TaskError> {
        (self.make)()
    }
}

/// The task called `name`.
///
/// # Errors
/// [`TaskError::Unknown`] with the names there are.
pub fn find(name: &str) -> Result<&'static TaskInfo, TaskError> {
    TASKS.iter().find(|task| task.name == name).ok_or_else(|| TaskError::Unknown {
        name: name.to_owned(),
        known: TASKS.iter().map(|t| t.name).collect::<Vec<_>>().join(", "),
    })
}

/// Why a task cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No such name.
    #[error("no task called \"{name}\"; there are {known}")]
    Unknown {
        /// Name asked for.
        name: String,
        /// Names there are.
        known: String,
    },
    /// The robot file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The contract does not fit the robot.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}

/// One reward term: the reward is the sum of `weight * value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RewardTerm {
    /// The field's name for it.
    pub name: &'static str,
    /// Default weight.
    pub weight: f32,
}

/// What a task is made of besides its rules.
pub(crate) struct Setup {
    robot: Arc<Robot>,
    contract: ContractSpec,
    imu: Option<&'static str>,
    time_limit_s: f32,
}

/// A step as the task sees it, after the physics.
pub(crate) struct Seen<'a> {
    world: &'a World,
    /// Raw action clipped to +-1, `[n_act]`.
    action: &'a [f32],
    /// The one before.
    previous_action: &'a [f32],
    command: &'a [f32],
}

impl Seen<'_> {
    /// Squared change of the action, summed over its elements.
    fn action_rate(&self) -> f32 {
        self.action.iter().zip(self.previous_action).map(|(a, b)| (a - b) * (a - b)).sum()
    }
}

/// The rules of a task. Values are those of the step just taken.
pub(crate) trait Task: Send {
    /// Reward terms in the order of `terms`.
    fn reward_terms(&self) -> &'static [RewardTerm];
    /// Names of the physical metrics, in the order of `metrics`.
    fn metric_names(&self) -> &'static [&'static str];
    /// Places the robot for a new episode and draws its command.
    fn start(&mut self, world: &mut World, rng: &mut Rng, command: &mut [f32]);
    /// Measures the step: unweighted reward terms, physical metrics, and how the episode stands.
    fn judge(&mut self, seen: &Seen<'_>, terms: &mut [f32], metrics: &mut [f32]) -> Verdict;
    /// Reads the task's own sensors, in the contract's order.
    fn sense(&self, _world: &World, _command: &[f32], _sensors: &mut [f32]) {}
    /// Marks to draw that are not part of the world, like a target.
    fn markers(&self, _command: &[f32]) -> Vec<Placed> {
        Vec::new()
    }
}

/// How an episode stands after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The task's own end (a fall): the value after it is zero.
    terminated: bool,
    /// The success condition holds now.
    success: bool,
}
