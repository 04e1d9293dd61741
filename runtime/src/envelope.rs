//! The safety envelope: last in every state, nothing reaches an actuator around it.

use crate::{Contract, JointCommand, math};
use tendon_wire::image::JointRecord;
use tendon_wire::message::MAX_JOINTS;

/// Share of the velocity limit over which the torque that would raise the speed fades to zero.
const VELOCITY_TAPER: f32 = 0.1;

/// Limits commands per joint; remembers the last setpoints for the rate limits.
///
/// For finite measurements every output is finite, its position setpoint lies within the position
/// limits and moves at most `position_rate_limit` per second (as far as the position limits allow), its
/// velocity setpoint stays within the velocity limit and its rate within the acceleration limit, and the
/// torque that the servo law gives for the measured state lies within `+-torque_limit`, is zero in the
/// direction of a velocity beyond its limit, and does not push further out of the position limits.
/// A command with a non-finite member becomes damping.
#[derive(Clone, Debug)]
pub struct Envelope {
    last: [JointCommand; MAX_JOINTS],
}

impl Default for Envelope {
    fn default() -> Self {
        Self { last: [JointCommand::default(); MAX_JOINTS] }
    }
}

impl Envelope {
    /// Rate limits start from the measured positions at rest. `position`: `[n_joints]`, policy order.
    pub fn reset(&mut self, position: &[f32]) {
        self.last = [JointCommand::default(); MAX_JOINTS];
        for (last, &q) in self.last.iter_mut().zip(position) {
            last.position = q;
        }
    }

    /// Limits `commands` in place and returns the joints changed, as bits. `position`, `velocity`:
    /// `[n_joints]` measured, policy order.
    pub fn apply(
        &mut self,
        contract: &Contract<'_>,
        position: &[f32],
        velocity: &[f32],
        commands: &mut [JointCommand; MAX_JOINTS],
    ) -> u32 {
        let dt = contract.period_s();
        let mut limited = 0;
        let measured = position.iter().zip(velocity);
        let state = commands.iter_mut().zip(&mut self.last);
        for (index, ((joint, (&q, &dq)), (command, last))) in
            contract.joints.iter().zip(measured).zip(state).enumerate()
        {
            let safe = limit_joint(joint, dt, q, dq, last, *command);
            if safe != *command {
                limited |= 1u32.wrapping_shl(index as u32);
            }
            *command = safe;
            *last = safe;
        }
        limited
    }
}

/// Damping alone: no position gain, no feed-forward.
pub(crate) fn damping(joint: &JointRecord, q: f32) -> JointCommand {
    JointCommand {
        position: math::clip(q, joint.position_min, joint.position_max),
        kd: joint.damping_kd,
        torque_limit: joint.torque_limit,
        ..JointCommand::default()
    }
}

fn is_finite(c: &JointCommand) -> bool {
    [c.position, c.velocity, c.torque, c.kp, c.kd, c.torque_limit].iter().all(|v| v.is_finite())
}

fn limit_joint(
    joint: &JointRecord,
    dt: f32,
    q: f32,
    dq: f32,
    last: &JointCommand,
    command: JointCommand,
) -> JointCommand {
    let mut c = command;
    if !is_finite(&c) || c.kp < 0.0 || c.kd < 0.0 {
        c = damping(joint, q);
    }
    c.torque_limit = math::clip(c.torque_limit, 0.0, joint.torque_limit);

    let step = joint.position_rate_limit * dt;
    c.position = math::clip(c.position, last.position - step, last.position + step);
    c.position = math::clip(c.position, joint.position_min, joint.position_max);
    let step = joint.acceleration_limit * dt;
    c.velocity = math::clip(c.velocity, last.velocity - step, last.velocity + step);
    c.velocity = math::clip(c.velocity, -joint.velocity_limit, joint.velocity_limit);
    let step = joint.torque_rate_limit * dt;
    c.torque = math::clip(c.torque, last.torque - step, last.torque + step);
    c.torque = math::clip(c.torque, -c.torque_limit, c.torque_limit);

    let (low, high) = torque_bounds(joint, c.torque_limit, q, dq);
    let spring = c.kp * (c.position - q);
    let rest = c.kd * (c.velocity - dq) + c.torque;
    let torque = spring + rest;
    let bounded = math::clip(torque, low, high);
    if bounded != torque {
        // The servo would leave the bounds: take position, velocity and feed-forward out of it and leave
        // exactly the bounded torque at the measured state. The gains still damp what follows.
        if c.kp > 0.0 {
            c.position = math::clip(q + (bounded - rest) / c.kp, joint.position_min, joint.position_max);
        }
        let spring = c.kp * (c.position - q);
        let rest = c.kd * (c.velocity - dq) + c.torque;
        let left = spring + rest;
        if left < low || left > high {
            c.torque += math::clip(left, low, high) - left;
        }
    }
    if is_finite(&c) { c } else { JointCommand { torque_limit: 0.0, ..JointCommand::default() } }
}

/// Torques allowed at the measured state.
fn torque_bounds(joint: &JointRecord, limit: f32, q: f32, dq: f32) -> (f32, f32) {
    let taper = joint.velocity_limit * VELOCITY_TAPER;
    let mut high = limit * math::clip((joint.velocity_limit - dq) / taper, 0.0, 1.0);
    let mut low = -limit * math::clip((joint.velocity_limit + dq) / taper, 0.0, 1.0);
    if q >= joint.position_max {
        high = 0.0;
    }
    if q <= joint.position_min {
        low = 0.0;
    }
    (low, high)
}
