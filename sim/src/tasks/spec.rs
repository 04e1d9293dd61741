//! A task as people write it: one TOML file. docs/tasks.md shows every table with its default.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tendon_runtime::spec::{FallbackSpec, InputSpec, Mode, TermSpec};

use super::camera::CameraSpec;
use super::fault::{Source, SpecFault, line_of};
use super::nearest::nearest;
use super::partner::PartnerSpec;
use super::people::PeopleSpec;
use super::randomise::RandomisationSpec;
use super::terrain::TerrainSpec;

/// Largest task file.
pub const MAX_TASK_BYTES: usize = 1 << 20;

/// One task. Lengths in m, angles in rad, times in s.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Name on the command line; also the robot id of the contract, so at most 32 bytes.
    pub name: String,
    /// What it is about, in one sentence.
    pub doc: String,
    /// Robot file, relative to this file; `--robot` replaces it.
    #[serde(default)]
    pub robot: Option<PathBuf>,
    /// Physics step; without it the robot file's.
    #[serde(default)]
    pub timestep_s: Option<f32>,
    /// Friction of a floor at z = 0 for a robot file that has none.
    #[serde(default)]
    pub floor_friction: Option<f32>,
    /// One action per period.
    #[serde(default = "control_period")]
    pub control_period_s: f64,
    /// Episodes are cut here.
    #[serde(default = "time_limit")]
    pub time_limit_s: f32,
    /// Body whose motion counts as the base's; without it the free base.
    #[serde(default)]
    pub base: Option<String>,
    /// Site of the inertial sensor; without it the base is measured.
    #[serde(default)]
    pub imu: Option<String>,
    /// Bodies that stand on the ground.
    #[serde(default)]
    pub feet: Vec<String>,
    /// Keyframe that gives the default pose; without it the first one, or zero.
    #[serde(default)]
    pub keyframe: Option<String>,
    /// What the robot file does not say of its joints.
    #[serde(default)]
    pub joints: Vec<JointsSpec>,
    /// Elements of the raw action in order; without any, every joint with a motor takes a position about its default.
    #[serde(default)]
    pub actions: Vec<ActionsSpec>,
    /// Observation terms in order, as in a contract.
    pub observations: Vec<TermSpec>,
    /// The task's own sensors in order, each a quantity.
    #[serde(default)]
    pub sensors: Vec<Term>,
    /// What is asked of the robot.
    #[serde(default)]
    pub commands: CommandsSpec,
    /// How an episode begins.
    #[serde(default)]
    pub start: StartSpec,
    /// People around the robot.
    #[serde(default)]
    pub people: Option<PeopleSpec>,
    /// Someone who holds the other end of a load.
    #[serde(default)]
    pub partner: Option<PartnerSpec>,
    /// A camera whose pixels are sensors.
    #[serde(default)]
    pub camera: Option<CameraSpec>,
    /// Ground in place of the robot file's floor.
    #[serde(default)]
    pub terrain: Option<TerrainSpec>,
    /// How the level follows from how episodes end.
    #[serde(default)]
    pub curriculum: Option<CurriculumSpec>,
    /// What critics and teachers see beside the state, each a quantity; the policy does not.
    #[serde(default)]
    pub privileged: Vec<Term>,
    /// Terms of the reward.
    pub rewards: Vec<Term>,
    /// Weights are per second, as in legged_gym: the reward of a step is multiplied by the control period.
    #[serde(default)]
    pub rewards_per_second: bool,
    /// A negative sum (without `termination`) counts as zero, as in legged_gym.
    #[serde(default)]
    pub only_positive_rewards: bool,
    /// Conditions that end an episode by rule.
    #[serde(default)]
    pub terminations: Vec<Term>,
    /// Physical figures to report.
    #[serde(default)]
    pub metrics: Vec<Term>,
    /// What counts as success.
    pub success: SuccessSpec,
    /// What differs from episode to episode.
    #[serde(default)]
    pub randomisation: RandomisationSpec,
    /// Camera that shows it.
    #[serde(default)]
    pub view: ViewSpec,
    /// Staged start and fallback on a controller.
    #[serde(default)]
    pub fallback: FallbackSpec,
    /// What it was read from, for the lines of faults.
    #[serde(skip)]
    pub(super) source: Source,
}

fn control_period() -> f64 {
    0.02
}

fn time_limit() -> f32 {
    10.0
}

/// Settings of the joints whose names match. Later entries go over earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointsSpec {
    /// Names; `*` stands for any characters.
    pub names: Vec<String>,
    /// Position gain; without it the robot file's.
    #[serde(default)]
    pub kp: Option<f32>,
    /// Velocity gain; without it the robot file's.
    #[serde(default)]
    pub kd: Option<f32>,
    /// Default position; without it the keyframe's.
    #[serde(default)]
    pub default_position: Option<f32>,
    /// Position limits of the setpoints; without it the joint's range.
    #[serde(default)]
    pub position_limits: Option<[f32; 2]>,
    /// Velocity limit.
    #[serde(default)]
    pub velocity_limit: Option<f32>,
    /// Torque limit; without it the robot file's, and 0 for a joint without a motor.
    #[serde(default)]
    pub torque_limit: Option<f32>,
    /// Damping gain of the fallback.
    #[serde(default)]
    pub damping_kd: Option<f32>,
}

/// Elements of the raw action: one for each joint whose name matches, in the robot's order.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionsSpec {
    /// Names; `*` stands for any characters.
    pub joints: Vec<String>,
    /// What it sets.
    pub mode: Mode,
    /// Setpoint units per unit of action.
    pub scale: f32,
    /// Clip of the raw action.
    #[serde(default = "unit_clip")]
    pub clip: [f32; 2],
    /// Velocity gain of `velocity`; without it the joint's.
    #[serde(default)]
    pub kd: Option<f32>,
}

fn unit_clip() -> [f32; 2] {
    [-1.0, 1.0]
}

/// Commands and how they are drawn.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandsSpec {
    /// Names, units and ranges; drawn evenly from the ranges.
    #[serde(default)]
    pub inputs: Vec<InputSpec>,
    /// The first two are drawn from a ring about the origin with these radii instead.
    #[serde(default)]
    pub ring: Option<[f32; 2]>,
    /// New commands are drawn so often within an episode.
    #[serde(default)]
    pub resampling_time_s: Option<f32>,
    /// Share of the draws in which all commands are zero: standing.
    #[serde(default)]
    pub zero_share: f32,
    /// Share of the ranges that the easiest episodes draw from; grows with the curriculum to the whole.
    #[serde(default)]
    pub curriculum: Option<f32>,
    /// Sphere drawn where the first two or three commands say, of this radius.
    #[serde(default)]
    pub marker_radius: Option<f32>,
    /// Height of the sphere where there are only two.
    #[serde(default)]
    pub marker_height: f32,
}

/// How an episode begins: the keyframe, and what is drawn about it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartSpec {
    /// Joints in the order in which they are drawn.
    #[serde(default)]
    pub joints: Vec<StartJoints>,
    /// Height added to the free base, m.
    #[serde(default)]
    pub height: [f32; 2],
    /// Turn of the free base about z, rad.
    #[serde(default)]
    pub yaw: [f32; 2],
    /// Linear velocity of the free base, each axis, m/s.
    #[serde(default)]
    pub linear_velocity: [f32; 2],
    /// Free bodies put somewhere on their plane.
    #[serde(default)]
    pub bodies: Vec<StartBody>,
}

/// The level of an episode rises and falls with how the one before ended, as in legged_gym; a level above 1 becomes an
/// even draw from 0 to 1. It begins at 0 where a learner trains, and stays what it is set to elsewhere.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurriculumSpec {
    /// Change of the level per episode.
    #[serde(default = "level_step")]
    pub step: f32,
    /// Raises it where all hold at the last step; without any: success.
    #[serde(default)]
    pub promote: Vec<Term>,
    /// Lowers it where all hold at the last step and it was not raised; without any: no success.
    #[serde(default)]
    pub demote: Vec<Term>,
}

fn level_step() -> f32 {
    0.1
}

/// What is added to the default pose of the joints that match.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartJoints {
    /// Names; `*` stands for any characters.
    pub names: Vec<String>,
    /// Range added to the position.
    #[serde(default)]
    pub position: Option<[f32; 2]>,
    /// Range of the velocity.
    #[serde(default)]
    pub velocity: Option<[f32; 2]>,
}

/// Where a free body begins: x and y in the world are drawn, its height stays.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    /// Body.
    pub name: String,
    /// Range of x.
    pub x: [f32; 2],
    /// Range of y.
    pub y: [f32; 2],
}

/// A quantity in one of its roles: reward term, sensor, termination, metric, condition of success.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Which quantity; the table in docs/tasks.md.
    pub term: String,
    /// What it is called here; without it the quantity's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Rewards: factor.
    #[serde(default)]
    pub weight: Option<f32>,
    /// Conditions: holds above this.
    #[serde(default)]
    pub above: Option<f32>,
    /// Conditions: holds below this.
    #[serde(default)]
    pub below: Option<f32>,
    /// Conditions: holds for a magnitude below this.
    #[serde(default)]
    pub within: Option<f32>,
    /// Conditions: holds for a magnitude above this.
    #[serde(default)]
    pub beyond: Option<f32>,
    /// Conditions: must have held so long without a break, s.
    #[serde(default)]
    pub for_s: f32,
    /// Metrics and conditions: over which time the quantity is taken.
    #[serde(default)]
    pub over: Over,
    /// Joints; without it the driven ones.
    #[serde(default)]
    pub joints: Option<Vec<String>>,
    /// Bodies; what for, the quantity says.
    #[serde(default)]
    pub bodies: Option<Vec<String>>,
    /// Site.
    #[serde(default)]
    pub site: Option<String>,
    /// Second site.
    #[serde(default)]
    pub to: Option<String>,
    /// People: which, the nearest being 0.
    #[serde(default)]
    pub nth: usize,
    /// Axis 0, 1 or 2.
    #[serde(default)]
    pub axis: usize,
    /// The value wished for.
    #[serde(default)]
    pub target: Option<f32>,
    /// Width of a kernel, or unit of a square.
    #[serde(default)]
    pub sigma: Option<f32>,
    /// Points of `height_scan` along the base's heading, m.
    #[serde(default)]
    pub measured_points_x: Vec<f32>,
    /// Points of `height_scan` to its left, m; one sensor for each pair of x and y, x outermost.
    #[serde(default)]
    pub measured_points_y: Vec<f32>,
}

/// Time over which a metric is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// The last step.
    #[default]
    Step,
    /// Mean over the episode.
    Mean,
    /// Largest of the episode.
    Max,
    /// Share of the steps in which the condition held.
    Share,
}

/// What counts as success: every condition holds at the last step, and the episode was not ended by rule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuccessSpec {
    /// In words.
    pub doc: String,
    /// Conditions.
    #[serde(default)]
    pub all: Vec<Term>,
    /// Success ends the episode by rule.
    #[serde(default)]
    pub ends: bool,
}

/// Where the camera that shows the task is; by default all of the robot fits into the picture.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewSpec {
    /// Point looked at, m; relative to the base where `follow`; without it the middle of the robot as it starts.
    pub target: Option<[f32; 3]>,
    /// Distance of the eye, m; without it so far that the robot as it starts fits.
    pub distance: Option<f32>,
    /// About z from +x, rad.
    pub azimuth: f32,
    /// Above the horizon, rad.
    pub elevation: f32,
    /// Moves along with the base; without it where the base is free and no target is given.
    pub follow: Option<bool>,
}

impl Default for ViewSpec {
    fn default() -> Self {
        Self { target: None, distance: None, azimuth: -1.0, elevation: 0.3, follow: None }
    }
}

impl TaskSpec {
    /// Reads a task from TOML, called `file` in errors.
    ///
    /// # Errors
    /// File, line, key and the nearest key there is.
    pub fn from_toml(file: &Path, text: &str) -> Result<Self, SpecFault> {
        if text.len() > MAX_TASK_BYTES {
            return Err(SpecFault::new(file, format!("{} bytes, at most {MAX_TASK_BYTES}", text.len())));
        }
        let read: Result<Self, _> = toml::from_str(text);
        read.map(|spec| Self { source: Source::new(text), ..spec }).map_err(|error| {
            let line = error.span().map(|span| line_of(text, span.start));
            SpecFault { file: file.to_path_buf(), line, problem: with_suggestion(error.message()) }
        })
    }
}

/// Adds the nearest of the names that serde lists behind an unknown one.
fn with_suggestion(message: &str) -> String {
    let message = message.trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown ") {
        return message.to_owned();
    }
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    match nearest(unknown, quoted) {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_key() {
        let text = "name = \"x\"\ndoc = \"y\"\nobservations = []\nrewards = []\ntime_limt_s = 3.0\n[success]\ndoc = \"z\"\n";
        let fault = TaskSpec::from_toml(Path::new("my.toml"), text).unwrap_err();
        assert_eq!(fault.line, Some(5), "{fault}");
        assert!(fault.to_string().contains("did you mean `time_limit_s`?"), "{fault}");
    }

    #[test]
    fn a_missing_table_is_named() {
        let fault = TaskSpec::from_toml(Path::new("my.toml"), "name = \"x\"\ndoc = \"y\"").unwrap_err();
        assert!(fault.to_string().contains("observations"), "{fault}");
    }
}
