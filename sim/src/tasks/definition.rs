//! A task ready to be made into environments: file, robot, contract, plan.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tendon_runtime::spec::{
    ActionSpec, ContractSpec, JointSpec, Mode, SpecError, TermSpec, UNLIMITED, VERSION,
};

use super::fault::{Source, SpecFault};
use super::nearest::matches;
use super::plan::{Plan, Resolver};
use super::spec::{ActionsSpec, JointsSpec, MAX_TASK_BYTES, TaskSpec, ViewSpec};
use super::{TaskEnvironment, TaskError};
use crate::environment::Environment;
use crate::interface::InterfaceError;
use crate::robot::{Keyframe, Robot, RobotOptions};

/// Stands for a joint without position limits, rad or m.
const WIDE: f32 = 1e6;
/// Velocity gain over position gain where nobody gives one: a damping ratio near one for limbs of this size.
const KD_OVER_KP: f32 = 0.03;

/// One task of one robot. Cheap to share: all environments of a task use the same robot.
pub struct TaskDefinition {
    pub(super) spec: TaskSpec,
    pub(super) robot: Arc<Robot>,
    pub(super) contract: ContractSpec,
    pub(super) plan: Arc<Plan>,
    pub(super) keyframe: Option<Keyframe>,
}

impl TaskDefinition {
    /// Reads a task file and its robot, or `robot` in its place.
    ///
    /// # Errors
    /// File, line or field, value and next step.
    pub fn from_file(path: &Path, robot: Option<&Path>) -> Result<Arc<Self>, TaskError> {
        let io = |e: std::io::Error| TaskError::Spec(SpecFault::new(path, format!("{e}; check the path")));
        let meta = std::fs::metadata(path).map_err(io)?;
        if meta.len() > MAX_TASK_BYTES as u64 {
            let problem = format!("{} bytes, a task file has at most {MAX_TASK_BYTES}", meta.len());
            return Err(SpecFault::new(path, problem).into());
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let spec = TaskSpec::from_toml(path, &text)?;
        let robot_path: PathBuf = match (robot, &spec.robot) {
            (Some(path), _) => path.to_path_buf(),
            (None, Some(own)) => path.parent().unwrap_or(Path::new(".")).join(own),
            (None, None) => {
                return Err(SpecFault::new(path, "no robot: write robot = \"FILE\" or give --robot").into());
            }
        };
        let robot = Robot::from_file(robot_path, options(&spec))?;
        Self::new(path, spec, robot)
    }

    /// A task from the text of a task file and of an MJCF file, called `file` and `robot_file` in errors.
    ///
    /// # Errors
    /// As [`TaskDefinition::from_file`].
    pub fn from_text(file: &Path, text: &str, robot_file: &str, robot: &str) -> Result<Arc<Self>, TaskError> {
        let spec = TaskSpec::from_toml(file, text)?;
        let robot = Robot::from_mjcf(robot_file, robot, options(&spec))?;
        Self::new(file, spec, robot)
    }

    /// The same task under another randomisation.
    ///
    /// # Errors
    /// Ranges that do not fit the robot.
    pub fn randomised(&self, randomisation: super::RandomisationSpec) -> Result<Arc<Self>, TaskError> {
        let spec = TaskSpec { randomisation, source: Source::default(), ..self.spec.clone() };
        Self::new(Path::new("randomisation"), spec, Arc::clone(&self.robot))
    }

    /// What differs from episode to episode.
    #[must_use]
    pub fn randomisation(&self) -> &super::RandomisationSpec {
        &self.spec.randomisation
    }

    /// Fits `spec`, called `file` in errors, to `robot`.
    ///
    /// # Errors
    /// A name the robot has not, a number without meaning, or a contract that does not hold.
    pub fn new(file: &Path, spec: TaskSpec, robot: Arc<Robot>) -> Result<Arc<Self>, TaskError> {
        let resolver = Resolver { file, spec: &spec, robot: &robot };
        let keyframe = match &spec.keyframe {
            None => robot.keyframes.first().cloned(),
            Some(name) => Some(robot.keyframe(name).cloned().ok_or_else(|| {
                let known = robot.keyframes.iter().map(|k| k.name.as_str());
                resolver.unknown("keyframe", "keyframe", name, known)
            })?),
        };
        for (nth, entry) in spec.joints.iter().enumerate() {
            resolver.joints(&format!("joints[{nth}].names"), &entry.names)?;
        }
        let joints: Vec<JointSpec> =
            (0..robot.joints.len()).map(|i| joint(&resolver, keyframe.as_ref(), i)).collect();
        let mut actions = Vec::new();
        let mut driven = Vec::new();
        let every_motor = [default_actions()];
        let entries = if spec.actions.is_empty() { &every_motor[..] } else { &spec.actions };
        for (nth, entry) in entries.iter().enumerate() {
            let field = format!("actions[{nth}].joints");
            for index in resolver.joints(&field, &entry.joints)? {
                if joints[index].torque_limit > 0.0 {
                    actions.push(action(entry, &joints[index]));
                    driven.push(index);
                } else if !spec.actions.is_empty() && !entry.joints.iter().any(|p| p.contains('*')) {
                    let name = &joints[index].name;
                    return Err(resolver.fault(&field, format!(
                        "has {name}, a joint without a motor: give it one in the robot file, or a torque_limit in [[joints]]"
                    )));
                }
            }
        }
        if actions.is_empty() {
            let problem = "are none: give the robot file motors, or [[joints]] a torque_limit";
            return Err(resolver.fault("actions", problem));
        }
        let plan = resolver.plan(joints.iter().map(|j| j.default_position).collect(), driven)?;
        let contract = ContractSpec {
            version: VERSION,
            robot: spec.name.clone(),
            control_period_s: spec.control_period_s,
            quaternion_order: Default::default(),
            commands: spec.commands.inputs.clone(),
            preferences: Vec::new(),
            sensors: plan.sensors.iter().map(|s| s.name.clone()).collect(),
            joints,
            observations: spec.observations.clone(),
            actions,
            fallback: spec.fallback.clone(),
            power_budget: None,
            profiles: Vec::new(),
            default_profile: None,
            monitors: Default::default(),
            error_budget: None,
        };
        let mut this =
            Self { contract, plan: Arc::new(plan), keyframe, robot: Arc::clone(&robot), spec: spec.clone() };
        // Compiles the contract once, so that later environments cannot fail.
        let mut environment = this.make().map_err(|error| of_the_file(&resolver, error))?;
        if this.spec.view.target.is_none() || this.spec.view.distance.is_none() {
            environment.reset(0, &mut vec![0.0; environment.observation_len()]);
            this.spec.view = environment.fit_view();
        }
        Ok(Arc::new(this))
    }

    /// A task that only lets the robot be driven: positions about its pose, everything measured is observed, no goal.
    ///
    /// # Errors
    /// The robot has no motor, or more joints than the link carries.
    pub fn of_robot(robot: Arc<Robot>) -> Result<Arc<Self>, TaskError> {
        use tendon_runtime::spec::Signal;
        let file = PathBuf::from(format!("{} without a task file", robot.name));
        let text = "name = \"robot\"\ndoc = \"The robot alone.\"\nobservations = []\nrewards = [{ term = \"alive\", weight = 1.0 }]\n[success]\ndoc = \"none\"";
        let mut spec = TaskSpec::from_toml(&file, text)?;
        spec.name = robot.name.chars().take(20).collect();
        let ratio = (0.02 / robot.timestep_s).round().max(1.0);
        spec.control_period_s = f64::from(ratio) * f64::from(robot.timestep_s);
        spec.observations = vec![
            TermSpec::plain("projected_gravity", Signal::ProjectedGravity),
            TermSpec::plain("base_angular_velocity", Signal::BaseAngularVelocity),
            TermSpec::plain("joint_position", Signal::JointPositionRelative),
            TermSpec::plain("joint_velocity", Signal::JointVelocity),
            TermSpec::plain("last_action", Signal::LastAction),
        ];
        Self::new(&file, spec, robot)
    }

    /// Builds one environment; call [`Environment::reset`](crate::Environment::reset) before stepping.
    ///
    /// # Errors
    /// None after the definition itself was made.
    pub fn make(&self) -> Result<TaskEnvironment, TaskError> {
        TaskEnvironment::new(self)
    }

    /// Name on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The file it was written as.
    #[must_use]
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    /// The robot it is for.
    #[must_use]
    pub fn robot(&self) -> &Arc<Robot> {
        &self.robot
    }

    /// The contract a policy for it is exported with.
    #[must_use]
    pub fn contract(&self) -> &ContractSpec {
        &self.contract
    }

    /// Where the camera that shows it stands.
    #[must_use]
    pub fn view(&self) -> ViewSpec {
        self.spec.view
    }
}

/// A fault of the contract as one of the task file, with its line where the field is copied from there.
fn of_the_file(resolver: &Resolver<'_>, error: TaskError) -> TaskError {
    match error {
        TaskError::Interface(InterfaceError::Spec(SpecError::Field { field, problem })) => {
            let field = match field.strip_prefix("commands[") {
                Some(rest) => format!("commands.inputs[{rest}"),
                None => field,
            };
            // Joints and actions of the contract are counted by the robot, not by the entries of the file.
            let is_copied =
                ["observations", "commands", "fallback"].iter().any(|name| field.starts_with(name));
            match is_copied {
                true => resolver.fault(&field, format_args!(": {problem}")),
                false => SpecFault::new(resolver.file, format!("contract field `{field}`: {problem}")).into(),
            }
        }
        TaskError::Interface(error) => SpecFault::new(resolver.file, error.to_string()).into(),
        other => other,
    }
}

pub(super) fn options(spec: &TaskSpec) -> RobotOptions {
    RobotOptions {
        timestep_s: spec.timestep_s,
        terrain_friction: spec.terrain.as_ref().map(|terrain| terrain.static_friction),
        floor_friction: spec.floor_friction,
        ..RobotOptions::default()
    }
}

fn default_actions() -> ActionsSpec {
    ActionsSpec { joints: vec!["*".into()], mode: Mode::Position, scale: 0.5, clip: [-1.0, 1.0], kd: None }
}

/// What the contract says of joint `index`: the robot file, then the task file's entries in order.
fn joint(resolver: &Resolver<'_>, keyframe: Option<&Keyframe>, index: usize) -> JointSpec {
    let joint = &resolver.robot.joints[index];
    let mut set = JointsSpec::default();
    for entry in &resolver.spec.joints {
        if entry.names.iter().any(|pattern| matches(pattern, &joint.name)) {
            let JointsSpec {
                names: _,
                kp,
                kd,
                default_position,
                position_limits,
                velocity_limit,
                torque_limit,
                damping_kd,
            } = entry.clone();
            set = JointsSpec {
                names: Vec::new(),
                kp: kp.or(set.kp),
                kd: kd.or(set.kd),
                default_position: default_position.or(set.default_position),
                position_limits: position_limits.or(set.position_limits),
                velocity_limit: velocity_limit.or(set.velocity_limit),
                torque_limit: torque_limit.or(set.torque_limit),
                damping_kd: damping_kd.or(set.damping_kd),
            };
        }
    }
    let motor = joint.actuator;
    let torque_limit = set.torque_limit.unwrap_or(motor.map_or(0.0, |m| m.torque_limit)).min(UNLIMITED);
    let passive = torque_limit <= 0.0;
    let kp = if passive { 0.0 } else { set.kp.unwrap_or(motor.map_or(0.0, |m| m.kp)) };
    let own_kd = motor.map_or(0.0, |m| m.kd);
    let kd =
        if passive { 0.0 } else { set.kd.unwrap_or(if own_kd > 0.0 { own_kd } else { KD_OVER_KP * kp }) };
    let of_keyframe = keyframe.and_then(|k| k.joint_position.get(index)).copied().unwrap_or(0.0);
    JointSpec {
        name: joint.name.clone(),
        robot_index: None,
        default_position: set.default_position.unwrap_or(of_keyframe),
        position_limits: set.position_limits.or(joint.range).unwrap_or([-WIDE, WIDE]),
        velocity_limit: resolver.velocity_limit(index),
        acceleration_limit: UNLIMITED,
        jerk_limit: None,
        braking_deceleration: None,
        torque_limit,
        position_rate_limit: UNLIMITED,
        torque_rate_limit: UNLIMITED,
        kp,
        kd,
        damping_kd: Some(set.damping_kd.unwrap_or(kd)),
    }
}

fn action(entry: &ActionsSpec, joint: &JointSpec) -> ActionSpec {
    let position = entry.mode == Mode::Position;
    ActionSpec {
        joint: joint.name.clone(),
        mode: entry.mode,
        scale: entry.scale,
        offset: if position { joint.default_position } else { 0.0 },
        clip: Some(entry.clip),
        kp: if position { joint.kp } else { 0.0 },
        kd: if entry.mode == Mode::Torque { 0.0 } else { entry.kd.unwrap_or(joint.kd) },
    }
}
