//! Tasks: a robot, what the policy sees and does, what is rewarded, when an episode ends. Each is a TOML file
//! (`models/tasks`) beside a robot file (`models/robots`); a user's own is read the same way.
//!
//! A new built-in task is the two files and one line in [`TASKS`].

mod camera;
mod cards;
mod definition;
mod environment;
mod fault;
mod nearest;
mod partner;
mod people;
mod plan;
mod quantity;
mod randomise;
mod spec;
mod terrain;
mod track;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub use camera::{CameraSpec, Channel};
pub use cards::{RANDOMISED_CAMERA, cards};
pub use definition::TaskDefinition;
pub use environment::{Episode, RewardTerm, TaskEnvironment};
pub use fault::SpecFault;
pub use partner::PartnerSpec;
pub use people::PeopleSpec;
pub use randomise::{Draw, NoiseSpec, RandomisationSpec};
pub use spec::{
    ActionsSpec, CommandsSpec, CurriculumSpec, JointsSpec, MAX_TASK_BYTES, Over, StartBody, StartJoints,
    StartSpec, SuccessSpec, TaskSpec, Term, ViewSpec,
};

pub use terrain::{TerrainProportions, TerrainSpec};

use crate::interface::InterfaceError;
use crate::load::LoadError;

macro_rules! task {
    ($name:literal, $task:literal, $robot:literal) => {
        TaskInfo {
            name: $name,
            file: concat!("models/tasks/", $task, ".toml"),
            text: include_str!(concat!("../../../models/tasks/", $task, ".toml")),
            robot_file: concat!("models/robots/", $robot, ".xml"),
            robot: include_str!(concat!("../../../models/robots/", $robot, ".xml")),
        }
    };
}
/// Every built-in task, for `tendon sim --task NAME` and the docs.
pub const TASKS: &[TaskInfo] = &[
    task!("cart-pole", "cart_pole", "cart_pole"),
    task!("cart-pole-balance", "cart_pole_balance", "cart_pole"),
    task!("reacher", "reacher", "reacher"),
    task!("hopper", "hopper", "hopper"),
    task!("walker", "walker", "walker"),
    task!("half-cheetah", "half_cheetah", "half_cheetah"),
    task!("quadruped", "quadruped", "quadruped"),
    task!("quadruped-rough", "quadruped_rough", "quadruped"),
    task!("quadruped-stairs", "quadruped_stairs", "quadruped"),
    task!("humanoid-stand", "humanoid_stand", "humanoid"),
    task!("humanoid-walk", "humanoid_walk", "humanoid"),
    task!("humanoid", "humanoid", "humanoid"),
    task!("arm-reach", "arm_reach", "arm"),
    task!("arm-push", "arm_push", "arm_push"),
    task!("arm-drawer", "arm_drawer", "arm_drawer"),
    task!("planar-sweep", "planar_sweep", "planar_table"),
    task!("planar-group", "planar_group", "planar_table"),
    task!("planar-avoid", "planar_avoid", "planar_table"),
    task!("social-navigation", "social_navigation", "mobile_base"),
    task!("carry-together", "carry_together", "carrier"),
];

/// One row of the table of built-in tasks: its two files, as they lie in the repository.
#[derive(Clone, Copy, Debug)]
pub struct TaskInfo {
    /// Name on the command line.
    pub name: &'static str,
    /// Path of the task file in the repository.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Path of the robot file in the repository.
    pub robot_file: &'static str,
    /// Its text.
    pub robot: &'static str,
}

impl TaskInfo {
    /// The task with its robot loaded; loaded once, then shared.
    ///
    /// # Errors
    /// The embedded files do not hold: a fault of this program.
    pub fn definition(&self) -> Result<Arc<TaskDefinition>, TaskError> {
        static LOADED: Mutex<Option<HashMap<&'static str, Arc<TaskDefinition>>>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        if let Some(known) = loaded.get(self.name) {
            return Ok(Arc::clone(known));
        }
        let new = TaskDefinition::from_text(Path::new(self.file), self.text, self.robot_file, self.robot)?;
        loaded.insert(self.name, Arc::clone(&new));
        Ok(new)
    }

    /// Builds one environment; call [`Environment::reset`](crate::Environment::reset) before stepping.
    ///
    /// # Errors
    /// As [`TaskInfo::definition`].
    pub fn make(&self) -> Result<TaskEnvironment, TaskError> {
        self.definition()?.make()
    }
}

/// The built-in task called `name`.
///
/// # Errors
/// [`TaskError::Unknown`] with the names there are.
pub fn find(name: &str) -> Result<&'static TaskInfo, TaskError> {
    TASKS
        .iter()
        .find(|task| task.name == name)
        .ok_or_else(|| TaskError::Unknown(nearest::unknown("task", name, TASKS.iter().map(|t| t.name))))
}

/// The task called `name_or_file`: a built-in one, or a TOML file (anything that ends in `.toml`), with `robot` in
/// place of the robot it names.
///
/// # Errors
/// As [`find`] and [`TaskDefinition::from_file`].
pub fn open(name_or_file: &str, robot: Option<&Path>) -> Result<Arc<TaskDefinition>, TaskError> {
    let path = Path::new(name_or_file);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) {
        return TaskDefinition::from_file(path, robot);
    }
    let info = find(name_or_file)?;
    match robot {
        None => info.definition(),
        Some(robot) => {
            let spec = TaskSpec::from_toml(Path::new(info.file), info.text)?;
            let robot = crate::robot::Robot::from_file(robot, definition::options(&spec))?;
            TaskDefinition::new(Path::new(info.file), spec, robot)
        }
    }
}

/// Why a task cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No such name.
    #[error("{0}")]
    Unknown(String),
    /// The task file.
    #[error(transparent)]
    Spec(#[from] SpecFault),
    /// The robot file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The contract that follows from both does not hold.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}
