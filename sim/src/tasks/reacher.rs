//! Two-link reacher: bring the fingertip to a commanded point and rest there.

use tendon_runtime::math;
use tendon_runtime::spec::{
    ActionSpec, ContractSpec, FallbackSpec, InputSpec, JointSpec, Mode, PerElement, Signal, TermSpec, VERSION,
};

use super::{RewardTerm, Seen, Setup, Task, TaskEnvironment, TaskError, TaskInfo, Verdict};
use crate::robot::{Robot, RobotOptions, Site};
use crate::scene::{Placed, Shape};
use crate::seed::Rng;
use crate::world::World;

/// The task's row.
pub(super) const REACH: TaskInfo = TaskInfo {
    name: "reacher",
    doc: "Bring the fingertip of a two-link arm to a commanded point of the plane and rest there.",
    success: "fingertip within 2 cm of the target for the last 0.4 s",
    view: ([0.0, 0.0, 0.05], 1.5, -1.2, 0.9),
    make,
};

const MODEL: &str = include_str!("../../../models/robots/reacher.xml");
const CONTROL_PERIOD_S: f64 = 0.02;
/// Joint speed at action 1.
const SPEED_RAD_S: f32 = 4.0;
/// Targets lie in this ring about the shoulder: reachable, and not folded up.
const TARGET_RING_M: [f32; 2] = [0.12, 0.37];
const REACHED_M: f32 = 0.02;
/// Height at which the arm moves.
const ARM_HEIGHT_M: f32 = 0.10;
const HOLD_STEPS: u32 = 20;

struct Reacher {
    fingertip: Site,
    reached_steps: u32,
}

fn make() -> Result<TaskEnvironment, TaskError> {
    let robot = Robot::from_mjcf("models/robots/reacher.xml", MODEL, RobotOptions::default())?;
    let fingertip = robot.sites.first().cloned().ok_or(TaskError::Unknown {
        name: "fingertip".into(),
        known: "no sites in models/robots/reacher.xml".into(),
    })?;
    let task = Reacher { fingertip, reached_steps: 0 };
    TaskEnvironment::new(Setup { robot, contract: contract(), imu: None, time_limit_s: 3.0 }, Box::new(task))
}

fn contract() -> ContractSpec {
    let joint = |name: &str, limit: f32, torque_limit: f32| JointSpec {
        name: name.into(),
        robot_index: None,
        default_position: 0.0,
        position_limits: [-limit, limit],
        velocity_limit: 8.0,
        acceleration_limit: 1e6,
        jerk_limit: None,
        braking_deceleration: None,
        torque_limit,
        position_rate_limit: 1e6,
        torque_rate_limit: 1e6,
        kp: 2.0,
        kd: 0.2,
        damping_kd: Some(0.2),
    };
    let action = |joint: &str, kd: f32| ActionSpec {
        joint: joint.into(),
        mode: Mode::Velocity,
        scale: SPEED_RAD_S,
        offset: 0.0,
        clip: Some([-1.0, 1.0]),
        kp: 0.0,
        kd,
    };
    let target =
        |name: &str| InputSpec { name: name.into(), unit: "m".into(), range: [-0.37, 0.37], default: 0.2 };
    let scaled = |name: &str, signal, scale| TermSpec {
        scale: PerElement::One(scale),
        ..TermSpec::plain(name, signal)
    };
    ContractSpec {
        version: VERSION,
        robot: "reacher".into(),
        control_period_s: CONTROL_PERIOD_S,
        quaternion_order: Default::default(),
        commands: vec![target("target_x"), target("target_y")],
        preferences: Vec::new(),
        // The arm's forward kinematics or a camera gives these on a robot.
        sensors: vec!["target_from_fingertip_x".into(), "target_from_fingertip_y".into()],
        joints: vec![joint("shoulder", 1e3, 1.0), joint("elbow", 2.7, 0.6)],
        observations: vec![
            TermSpec::plain("joint_sin", Signal::JointSin),
            TermSpec::plain("joint_cos", Signal::JointCos),
            scaled("joint_velocity", Signal::JointVelocity, 0.2),
            scaled("target", Signal::Command, 3.0),
            scaled("target_from_fingertip", Signal::Sensor, 5.0),
        ],
        actions: vec![action("shoulder", 0.6), action("elbow", 0.25)],
        fallback: FallbackSpec { ready_tolerance: 10.0, ..FallbackSpec::default() },
        power_budget: None,
        profiles: Vec::new(),
        default_profile: None,
        monitors: Default::default(),
        error_budget: None,
    }
}

impl Reacher {
    fn target_from_fingertip(&self, world: &World, command: &[f32]) -> [f32; 2] {
        let tip = world.site_position(&self.fingertip);
        [command[0] - tip[0], command[1] - tip[1]]
    }
}

impl Task for Reacher {
    fn reward_terms(&self) -> &'static [RewardTerm] {
        &[
            RewardTerm { name: "position_error", weight: -2.0 },
            RewardTerm { name: "reached", weight: 1.0 },
            RewardTerm { name: "joint_velocity", weight: -0.005 },
            RewardTerm { name: "action_rate", weight: -0.02 },
        ]
    }

    fn metric_names(&self) -> &'static [&'static str] {
        &["distance_m", "fingertip_speed_rad_s"]
    }

    fn start(&mut self, world: &mut World, rng: &mut Rng, command: &mut [f32]) {
        self.reached_steps = 0;
        let position = [rng.uniform(-3.1, 3.1), rng.uniform(-2.4, 2.4)];
        world.set_joint_state(&position, &[0.0, 0.0]);
        let [near, far] = TARGET_RING_M;
        // Rejection gives an even density over the ring.
        let target = loop {
            let point = [rng.uniform(-far, far), rng.uniform(-far, far)];
            if (near * near..far * far).contains(&(point[0] * point[0] + point[1] * point[1])) {
                break point;
            }
        };
        command.copy_from_slice(&target);
    }

    fn judge(&mut self, seen: &Seen<'_>, terms: &mut [f32], metrics: &mut [f32]) -> Verdict {
        let [x, y] = self.target_from_fingertip(seen.world, seen.command);
        let distance = (x * x + y * y).sqrt();
        let speed = seen.world.joint_velocity(0).powi(2) + seen.world.joint_velocity(1).powi(2);
        let reached = math::exp(-(distance / 0.05).powi(2));
        terms.copy_from_slice(&[distance, reached, speed, seen.action_rate()]);
        metrics.copy_from_slice(&[distance, speed.sqrt()]);
        self.reached_steps = if distance < REACHED_M { self.reached_steps + 1 } else { 0 };
        Verdict { terminated: false, success: self.reached_steps >= HOLD_STEPS }
    }

    fn sense(&self, world: &World, command: &[f32], sensors: &mut [f32]) {
        sensors.copy_from_slice(&self.target_from_fingertip(world, command));
    }

    fn markers(&self, command: &[f32]) -> Vec<Placed> {
        vec![Placed {
            shape: Shape::Sphere { radius: REACHED_M },
            position: [command[0], command[1], ARM_HEIGHT_M],
            rotation: [1.0, 0.0, 0.0, 0.0],
            color: [0.15, 0.65, 0.30],
        }]
    }
}
