//! The command's servo law, and what a position servo is told instead.

use crate::{JointCommand, JointState};

/// How far ahead of the joint the goal lies when a position servo has to give a torque, rad. Far enough for the
/// servo to run into its limit, near enough that a lost bus leaves a small step.
const LEAD: f32 = 0.2;

/// What a position servo is told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// Joint angle, rad.
    pub position: f32,
    /// Bound of the torque, N m, not negative.
    pub limit: f32,
}

/// Torque that the command's law gives at the measured state, N m; 0 where a number is not finite.
#[must_use]
pub fn servo_torque(command: &JointCommand, state: &JointState) -> f32 {
    let c = command;
    let torque = c.kp * (c.position - state.position) + (c.kd * (c.velocity - state.velocity) + c.torque);
    let limit = c.torque_limit.max(0.0);
    if torque.is_finite() { tendon_runtime::math::clip(torque, -limit, limit) } else { 0.0 }
}

/// What a position servo is told for `command`; `None`: the joint was never heard or a number is not finite,
/// and it gets no torque.
///
/// With a position gain: the setpoint, and the command's torque limit. The servo's own gains act, so the
/// contract's `kp` and `kd` have to describe them. Without (damping, velocity, torque): the torque of the law at
/// the measured state as limit, and as goal a place a little ahead in its direction, or the place measured where
/// the torque brakes.
#[must_use]
pub fn goal(command: &JointCommand, state: &JointState) -> Option<Goal> {
    state.at_us?;
    let limit = command.torque_limit.max(0.0);
    let goal = if command.kp > 0.0 {
        Goal { position: command.position, limit }
    } else {
        let torque = servo_torque(command, state);
        let ahead = match torque {
            // Braking: towards where the joint was, or the servo would drive it backwards until the next tick.
            _ if torque * state.velocity <= 0.0 && state.velocity != 0.0 => 0.0,
            _ if torque > 0.0 => LEAD,
            _ if torque < 0.0 => -LEAD,
            _ => 0.0,
        };
        Goal { position: state.position + ahead, limit: torque.abs() }
    };
    (goal.position.is_finite() && goal.limit.is_finite()).then_some(goal)
}
