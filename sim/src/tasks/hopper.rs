//! Planar hopper: hop forward on one leg without falling.

use tendon_runtime::spec::{
    ActionSpec, ContractSpec, FallbackSpec, JointSpec, Mode, PerElement, Signal, TermSpec, VERSION,
};

use super::{RewardTerm, Seen, Setup, Task, TaskEnvironment, TaskError, TaskInfo, Verdict};
use crate::robot::{Robot, RobotOptions};
use crate::seed::Rng;
use crate::world::World;

/// The task's row.
pub(super) const HOP: TaskInfo = TaskInfo {
    name: "hopper",
    doc: "Hop forward on one leg, held in a vertical plane, without falling.",
    success: "still up at the end with a mean speed above 0.5 m/s",
    view: ([0.3, 0.0, 0.7], 3.4, -1.2, 0.12),
    make,
};

const MODEL: &str = include_str!("../../../models/robots/hopper.xml");
const CONTROL_PERIOD_S: f64 = 0.02;
/// Crouch from which it can push off: root x, z, pitch, thigh, leg, foot.
const CROUCH: [f32; 6] = [0.0, -0.12, 0.0, -0.5, 1.0, -0.5];
/// Joint travel at action 1, rad.
const ACTION_SCALE: [f32; 3] = [0.5, 0.8, 0.5];
/// Speed beyond which going faster earns nothing more.
const TARGET_SPEED_M_S: f32 = 1.5;
/// Height of the torso's middle in the model's zero pose.
const STANDING_HEIGHT_M: f32 = 1.2;
/// Below this height of the torso's middle, or beyond this pitch, it has fallen.
const FALLEN_HEIGHT_M: f32 = 0.75;
const FALLEN_PITCH_RAD: f32 = 0.7;

struct Hopper;

fn make() -> Result<TaskEnvironment, TaskError> {
    let robot = Robot::from_mjcf("models/robots/hopper.xml", MODEL, RobotOptions::default())?;
    TaskEnvironment::new(
        Setup { robot, contract: contract(), imu: None, time_limit_s: 10.0 },
        Box::new(Hopper),
    )
}

fn contract() -> ContractSpec {
    let passive = |name: &str, limit: f32, default_position: f32| JointSpec {
        name: name.into(),
        robot_index: None,
        default_position,
        position_limits: [-limit, limit],
        velocity_limit: 100.0,
        acceleration_limit: 1e6,
        jerk_limit: None,
        braking_deceleration: None,
        torque_limit: 0.0,
        position_rate_limit: 1e6,
        torque_rate_limit: 1e6,
        kp: 0.0,
        kd: 0.0,
        damping_kd: Some(0.0),
    };
    let driven =
        |name: &str, limits: [f32; 2], default_position: f32, torque_limit: f32, kp: f32| JointSpec {
            position_limits: limits,
            velocity_limit: 25.0,
            torque_limit,
            kp,
            kd: kp * 0.03,
            damping_kd: Some(kp * 0.03),
            ..passive(name, 1.0, default_position)
        };
    let [x, z, pitch, thigh, leg, foot] = CROUCH;
    let joints = vec![
        passive("root_x", 1e6, x),
        passive("root_z", 1e6, z),
        passive("root_pitch", 1e6, pitch),
        driven("thigh_joint", [-1.6, 0.6], thigh, 80.0, 90.0),
        driven("leg_joint", [-0.1, 2.0], leg, 80.0, 90.0),
        driven("foot_joint", [-0.8, 0.8], foot, 40.0, 40.0),
    ];
    let actions = joints[3..]
        .iter()
        .zip(ACTION_SCALE)
        .map(|(joint, scale)| ActionSpec {
            joint: joint.name.clone(),
            mode: Mode::Position,
            scale,
            offset: joint.default_position,
            clip: Some([-1.0, 1.0]),
            kp: joint.kp,
            kd: joint.kd,
        })
        .collect();
    ContractSpec {
        version: VERSION,
        robot: "hopper".into(),
        control_period_s: CONTROL_PERIOD_S,
        quaternion_order: Default::default(),
        commands: Vec::new(),
        preferences: Vec::new(),
        sensors: Vec::new(),
        joints,
        observations: vec![
            // Not root_x: how far it has come must not matter.
            TermSpec {
                elements: Some([1, 5]),
                ..TermSpec::plain("joint_position", Signal::JointPositionRelative)
            },
            TermSpec {
                scale: PerElement::One(0.15),
                ..TermSpec::plain("joint_velocity", Signal::JointVelocity)
            },
            TermSpec { clip: Some([-1.0, 1.0]), ..TermSpec::plain("last_action", Signal::LastAction) },
        ],
        actions,
        fallback: FallbackSpec { ready_tolerance: 1e6, ..FallbackSpec::default() },
        power_budget: None,
        profiles: Vec::new(),
        default_profile: None,
        monitors: Default::default(),
        error_budget: None,
    }
}

impl Task for Hopper {
    fn reward_terms(&self) -> &'static [RewardTerm] {
        &[
            RewardTerm { name: "forward_velocity", weight: 1.0 },
            RewardTerm { name: "alive", weight: 0.5 },
            RewardTerm { name: "upright", weight: -0.5 },
            RewardTerm { name: "torque", weight: -1e-5 },
            RewardTerm { name: "action_rate", weight: -0.02 },
        ]
    }

    fn metric_names(&self) -> &'static [&'static str] {
        &["speed_m_s", "distance_m", "height_m", "pitch_rad"]
    }

    fn start(&mut self, world: &mut World, rng: &mut Rng, _command: &mut [f32]) {
        let mut position = CROUCH;
        for q in &mut position[2..] {
            *q += rng.uniform(-0.05, 0.05);
        }
        let mut velocity = [0.0; 6];
        velocity[0] = rng.uniform(-0.1, 0.1);
        world.set_joint_state(&position, &velocity);
    }

    fn judge(&mut self, seen: &Seen<'_>, terms: &mut [f32], metrics: &mut [f32]) -> Verdict {
        let world = seen.world;
        let (distance, pitch) = (world.joint_position(0), world.joint_position(2));
        let height = STANDING_HEIGHT_M + world.joint_position(1);
        let velocity = world.joint_velocity(0);
        let torque: f32 = (3..6).map(|i| world.joint_torque(i).powi(2)).sum();
        let forward = velocity.clamp(-TARGET_SPEED_M_S, TARGET_SPEED_M_S);
        terms.copy_from_slice(&[forward, 1.0, pitch * pitch, torque, seen.action_rate()]);
        let mean_speed = distance / (world.time_us() as f32 * 1e-6).max(1e-3);
        metrics.copy_from_slice(&[velocity, distance, height, pitch]);
        let fallen = height < FALLEN_HEIGHT_M || pitch.abs() > FALLEN_PITCH_RAD;
        Verdict { terminated: fallen, success: !fallen && mean_speed > 0.5 }
    }
}
