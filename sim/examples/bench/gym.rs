//! A robot file as an environment, as Gymnasium has them: observation of joints and base, forward reward, falls.
//! Observation and action go through the runtime, as in the tasks.

use std::path::Path;
use std::sync::Arc;

use tendon_runtime::spec::{
    ActionSpec, ContractSpec, FallbackSpec, JointSpec, Mode, Signal, TermSpec, VERSION,
};
use tendon_sim::{Engine, Environment, PolicyInterface, Rng, Robot, RobotOptions, Step, World};

use crate::Result;

/// What is measured: names of the issue, files, steps of physics per control period.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) file: std::path::PathBuf,
    pub(crate) substeps: usize,
}

/// The four cases of `bench sim`; without the Go1 the quadruped is left out.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let files = crate::peers::gymnasium_files()?;
    let gym = |name, file: &str, substeps| Case { name, file: files.join(file), substeps };
    let mut cases = vec![gym("hopper", "hopper.xml", 4), gym("walker", "walker2d_v5.xml", 4)];
    match crate::peers::go1() {
        Some(file) => cases.push(Case { name: "quadruped", file, substeps: 5 }),
        None => eprintln!("SKIPPED: quadruped (../shared/real is not there)"),
    }
    // Ours, in Gymnasium as well: it has a keyframe to stand in.
    let humanoid = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/robots/humanoid.xml");
    cases.push(Case { name: "humanoid", file: humanoid.into(), substeps: 5 });
    Ok(cases)
}

pub(crate) fn load(file: &Path, engine: Engine) -> Result<Arc<Robot>> {
    Ok(Robot::from_file(file, RobotOptions { engine, ..RobotOptions::default() })?)
}

/// Joints with a motor, by index.
pub(crate) fn driven(robot: &Robot) -> Vec<usize> {
    (0..robot.joints.len()).filter(|&i| robot.joints[i].actuator.is_some()).collect()
}

pub(crate) fn contract(robot: &Robot, period_s: f64) -> ContractSpec {
    let home = robot.keyframes.first().map(|k| k.joint_position.clone());
    let joints: Vec<JointSpec> = robot
        .joints
        .iter()
        .enumerate()
        .map(|(index, joint)| JointSpec {
            name: joint.name.clone(),
            robot_index: None,
            default_position: home.as_ref().map_or(0.0, |home| home[index]),
            position_limits: [-1e6, 1e6],
            velocity_limit: 1e6,
            acceleration_limit: 1e6,
            jerk_limit: None,
            braking_deceleration: None,
            torque_limit: joint.actuator.map_or(0.0, |a| a.torque_limit),
            position_rate_limit: 1e6,
            torque_rate_limit: 1e6,
            kp: joint.actuator.map_or(0.0, |a| a.kp),
            kd: joint.actuator.map_or(0.0, |a| a.kd),
            damping_kd: Some(0.0),
        })
        .collect();
    let actions = driven(robot)
        .into_iter()
        .map(|index| {
            let joint = &joints[index];
            let is_servo = joint.kp > 0.0;
            ActionSpec {
                joint: joint.name.clone(),
                mode: if is_servo { Mode::Position } else { Mode::Torque },
                scale: if is_servo { 0.2 } else { joint.torque_limit },
                offset: if is_servo { joint.default_position } else { 0.0 },
                clip: Some([-1.0, 1.0]),
                kp: joint.kp,
                kd: joint.kd,
            }
        })
        .collect();
    let mut observations = vec![
        TermSpec::plain("joint_position", Signal::JointPositionRelative),
        TermSpec::plain("joint_velocity", Signal::JointVelocity),
        TermSpec::plain("last_action", Signal::LastAction),
    ];
    if robot.has_free_base() {
        observations.push(TermSpec::plain("base_linear_velocity", Signal::BaseLinearVelocity));
        observations.push(TermSpec::plain("base_angular_velocity", Signal::BaseAngularVelocity));
        observations.push(TermSpec::plain("projected_gravity", Signal::ProjectedGravity));
    }
    ContractSpec {
        version: VERSION,
        robot: robot.name.clone(),
        control_period_s: period_s,
        quaternion_order: Default::default(),
        commands: Vec::new(),
        preferences: Vec::new(),
        sensors: Vec::new(),
        joints,
        observations,
        actions,
        fallback: FallbackSpec { ready_tolerance: 1e6, ..FallbackSpec::default() },
        power_budget: None,
        profiles: Vec::new(),
        default_profile: None,
        monitors: Default::default(),
        error_budget: None,
    }
}

/// One environment.
pub(crate) struct Gym {
    world: World,
    interface: PolicyInterface,
    substeps: usize,
    start_height: f32,
    steps: u32,
}

/// Steps after which an episode is cut, as in Gymnasium.
const TIME_LIMIT: u32 = 1000;

impl Gym {
    pub(crate) fn new(robot: &Arc<Robot>, substeps: usize) -> Result<Self> {
        let period = f64::from(robot.timestep_s) * substeps as f64;
        let interface = PolicyInterface::new(&contract(robot, period), robot, None)?;
        let mut this =
            Self { world: World::new(Arc::clone(robot)), interface, substeps, start_height: 0.0, steps: 0 };
        this.start(0);
        this.start_height = this.height();
        Ok(this)
    }

    /// Of the base, or of the second root joint of planar robots.
    fn height(&self) -> f32 {
        if self.world.robot().has_free_base() {
            self.world.base_pose().0[2]
        } else {
            self.world.joint_position(1)
        }
    }

    fn forward_velocity(&self) -> f32 {
        if self.world.robot().has_free_base() {
            self.world.base_motion().linear_velocity[0]
        } else {
            self.world.joint_velocity(0)
        }
    }

    fn start(&mut self, seed: u64) {
        self.world.reset();
        let robot = Arc::clone(self.world.robot());
        let mut rng = Rng::new(seed, 1);
        if let Some(keyframe) = robot.keyframes.first() {
            self.world.apply_keyframe(keyframe);
        }
        let position: Vec<f32> = (0..robot.joints.len())
            .map(|i| self.world.joint_position(i) + rng.uniform(-5e-3, 5e-3))
            .collect();
        self.world.set_joint_state(&position, &vec![0.0; position.len()]);
        self.steps = 0;
    }
}

impl Environment for Gym {
    fn observation_len(&self) -> usize {
        self.interface.observation_len()
    }

    fn action_len(&self) -> usize {
        self.interface.action_len()
    }

    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        self.start(seed);
        self.interface.reset(&self.world);
        self.interface.measure(&self.world, &[], &[], &[]);
        if self.interface.observe(observation).is_err() {
            observation.fill(0.0);
        }
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        let commands = self.interface.act(&self.world, action);
        self.world.step(commands, self.substeps);
        self.steps += 1;
        self.interface.measure(&self.world, &[], &[], &[]);
        let has_diverged = !self.world.is_finite() || self.interface.observe(observation).is_err();
        let effort: f32 = action.iter().map(|a| a * a).sum();
        let fallen = !has_diverged && self.height() < 0.6 * self.start_height;
        Step {
            reward: if has_diverged { 0.0 } else { 1.0 + self.forward_velocity() - 1e-3 * effort },
            terminated: fallen,
            truncated: !fallen && (has_diverged || self.steps >= TIME_LIMIT),
        }
    }
}
