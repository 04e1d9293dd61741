//! Cart-pole: swing the pole up and hold it there, or hold it from the start.

use std::f32::consts::PI;

use tendon_runtime::math;
use tendon_runtime::spec::{
    ActionSpec, ContractSpec, FallbackSpec, JointSpec, Mode, PerElement, Signal, TermSpec, VERSION,
};

use super::{RewardTerm, Seen, Setup, Task, TaskEnvironment, TaskError, TaskInfo, Verdict};
use crate::robot::{Robot, RobotOptions};
use crate::seed::Rng;
use crate::world::World;

/// Start hanging.
pub(super) const SWING_UP: TaskInfo = TaskInfo {
    name: "cart-pole",
    doc: "Swing a hanging pole up by moving its cart, and hold it upright in the middle of the rail.",
    success: "upright within 0.2 rad for the last second",
    view: ([0.0, 0.0, 0.9], 4.4, 0.35, 0.15),
    make: || make(true),
};

/// Start upright; falling ends the episode.
pub(super) const BALANCE: TaskInfo = TaskInfo {
    name: "cart-pole-balance",
    doc: "Hold a pole upright by moving its cart; the episode ends when it falls.",
    success: "upright within 0.2 rad for the last second",
    view: ([0.0, 0.0, 0.9], 4.4, 0.35, 0.15),
    make: || make(false),
};

const MODEL: &str = include_str!("../../../models/robots/cart_pole.xml");
const CONTROL_PERIOD_S: f64 = 0.02;
/// Force at action 1: half as much again as it takes to swing up in three strokes.
const FORCE_N: f32 = 10.0;
/// Half the length of the rail.
const RAIL_M: f32 = 1.8;
/// Angle from upright beyond which balancing has failed.
const FALLEN_RAD: f32 = 0.6;
const HOLD_STEPS: u32 = 50;

struct CartPole {
    swing_up: bool,
    upright_steps: u32,
    total_upright_steps: u32,
}

fn make(swing_up: bool) -> Result<TaskEnvironment, TaskError> {
    let robot = Robot::from_mjcf("models/robots/cart_pole.xml", MODEL, RobotOptions::default())?;
    let contract = contract();
    let task = CartPole { swing_up, upright_steps: 0, total_upright_steps: 0 };
    TaskEnvironment::new(Setup { robot, contract, imu: None, time_limit_s: 10.0 }, Box::new(task))
}

fn contract() -> ContractSpec {
    let joint = |name: &str, limit: f32, velocity_limit: f32, torque_limit: f32, damping_kd: f32| JointSpec {
        name: name.into(),
        robot_index: None,
        default_position: 0.0,
        position_limits: [-limit, limit],
        velocity_limit,
        acceleration_limit: 1e6,
        jerk_limit: None,
        braking_deceleration: None,
        torque_limit,
        position_rate_limit: 1e6,
        torque_rate_limit: 1e6,
        kp: 0.0,
        kd: 0.0,
        damping_kd: Some(damping_kd),
    };
    let one = |name: &str, signal, joint: u16, scale: f32| TermSpec {
        elements: Some([joint, 1]),
        scale: PerElement::One(scale),
        ..TermSpec::plain(name, signal)
    };
    ContractSpec {
        version: VERSION,
        robot: "cart-pole".into(),
        control_period_s: CONTROL_PERIOD_S,
        quaternion_order: Default::default(),
        commands: Vec::new(),
        preferences: Vec::new(),
        sensors: Vec::new(),
        // The pole turns without limits and without a motor.
        joints: vec![joint("slide", RAIL_M, 20.0, 15.0, 5.0), joint("hinge", 1e6, 100.0, 0.0, 0.0)],
        observations: vec![
            one("cart_position", Signal::JointPosition, 0, 1.0 / RAIL_M),
            one("pole_sin", Signal::JointSin, 1, 1.0),
            one("pole_cos", Signal::JointCos, 1, 1.0),
            one("cart_velocity", Signal::JointVelocity, 0, 0.3),
            one("pole_velocity", Signal::JointVelocity, 1, 0.15),
        ],
        actions: vec![ActionSpec {
            joint: "slide".into(),
            mode: Mode::Torque,
            scale: FORCE_N,
            offset: 0.0,
            clip: Some([-1.0, 1.0]),
            kp: 0.0,
            kd: 0.0,
        }],
        // The pole hangs anywhere when the policy starts.
        fallback: FallbackSpec { ready_tolerance: 1e3, ..FallbackSpec::default() },
        power_budget: None,
        profiles: Vec::new(),
        default_profile: None,
        monitors: Default::default(),
        error_budget: None,
    }
}

impl Task for CartPole {
    fn reward_terms(&self) -> &'static [RewardTerm] {
        &[
            RewardTerm { name: "upright", weight: 1.0 },
            RewardTerm { name: "position_error", weight: -0.3 },
            RewardTerm { name: "joint_velocity", weight: -0.1 },
            RewardTerm { name: "action_rate", weight: -0.02 },
        ]
    }

    fn metric_names(&self) -> &'static [&'static str] {
        &["angle_from_upright_rad", "cart_position_m", "upright_share"]
    }

    fn start(&mut self, world: &mut World, rng: &mut Rng, _command: &mut [f32]) {
        (self.upright_steps, self.total_upright_steps) = (0, 0);
        let center = if self.swing_up { 0.0 } else { PI };
        let spread = if self.swing_up { 0.2 } else { 0.1 };
        let position = [rng.uniform(-0.2, 0.2), center + rng.uniform(-spread, spread)];
        let velocity = [rng.uniform(-0.05, 0.05), rng.uniform(-0.1, 0.1)];
        world.set_joint_state(&position, &velocity);
    }

    fn judge(&mut self, seen: &Seen<'_>, terms: &mut [f32], metrics: &mut [f32]) -> Verdict {
        let (cart, pole) = (seen.world.joint_position(0), seen.world.joint_position(1));
        let speed = seen.world.joint_velocity(1);
        let from_upright = (pole - PI + PI).rem_euclid(2.0 * PI) - PI;
        let upright = 0.5 * (1.0 + math::sin_cos(from_upright).1);
        let position_error = (cart / RAIL_M).powi(2);
        // Speed matters only near the top: below, it is how the pole gets there.
        let joint_velocity = upright.powi(4) * (speed / 4.0).powi(2).min(2.0);
        terms.copy_from_slice(&[upright, position_error, joint_velocity, seen.action_rate()]);

        let holds = from_upright.abs() < 0.2;
        self.upright_steps = if holds { self.upright_steps + 1 } else { 0 };
        self.total_upright_steps += u32::from(holds);
        let steps = (seen.world.time_us() as f64 * 1e-6 / CONTROL_PERIOD_S).max(1.0) as f32;
        metrics.copy_from_slice(&[from_upright, cart, self.total_upright_steps as f32 / steps]);
        Verdict {
            terminated: !self.swing_up && (from_upright.abs() > FALLEN_RAD || cart.abs() > RAIL_M - 0.05),
            success: self.upright_steps >= HOLD_STEPS,
        }
    }
}
