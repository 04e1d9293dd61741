//! The safety envelope: last in every state, nothing reaches an actuator around it.

use crate::{Contract, JointCommand, math};
use tendon_wire::image::JointRecord;
use tendon_wire::message::MAX_JOINTS;

/// Share of the velocity limit over which the torque that would raise the speed fades to zero.
const VELOCITY_TAPER: f32 = 0.1;
/// What `f32` rounding may leave beyond the torque bounds, as a share of `torque_limit`. A spring or damper so
/// large that it would leave more is taken away.
const ROUNDING: f32 = 1e-4;

/// Limits commands per joint; remembers the last setpoints for the rate limits.
///
/// Every output is finite. For finite measurements its position setpoint lies within the position
/// limits and moves at most `position_rate_limit` per second (as far as the position limits allow), its
/// velocity setpoint stays within the velocity limit and its rate within the acceleration limit, and the
/// torque that the servo law gives for the measured state lies within `+-torque_limit`, is zero in the
/// direction of a velocity beyond its limit, and does not push further out of the position limits (all
/// to `1e-3 torque_limit`, for rounding). The feed-forward moves at most `torque_rate_limit` per second,
/// before the part that brings the whole torque within its bounds is taken out of it.
/// A command with a non-finite member or a negative gain becomes damping. A joint whose measurement is
/// missing or not finite gets no torque at all: gains, feed-forward and `torque_limit` are 0.
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
            if q.is_finite() {
                last.position = q;
            }
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
        let measured = position.iter().copied().zip(velocity.iter().copied());
        let measured = measured.chain(core::iter::repeat((f32::NAN, f32::NAN)));
        let state = commands.iter_mut().zip(&mut self.last);
        for (index, ((joint, (q, dq)), (command, last))) in
            contract.joints.iter().zip(measured).zip(state).enumerate()
        {
            let safe = limit_joint(joint, dt, q, dq, last, *command);
            if safe != *command {
                limited |= 1u32.wrapping_shl(index as u32);
            }
            *command = safe;
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

/// The torque that the servo gives at the measured state, before its own clamp.
fn servo(c: &JointCommand, q: f32, dq: f32) -> f32 {
    c.kp * (c.position - q) + (c.kd * (c.velocity - dq) + c.torque)
}

fn limit_joint(
    joint: &JointRecord,
    dt: f32,
    q: f32,
    dq: f32,
    last: &mut JointCommand,
    command: JointCommand,
) -> JointCommand {
    let no_torque = JointCommand {
        position: math::clip(last.position, joint.position_min, joint.position_max),
        ..JointCommand::default()
    };
    if !(q.is_finite() && dq.is_finite()) {
        *last = no_torque;
        return no_torque;
    }
    let mut c = command;
    if !is_finite(&c) || c.kp < 0.0 || c.kd < 0.0 {
        c = damping(joint, q);
    }
    c.torque_limit = math::clip(c.torque_limit, 0.0, joint.torque_limit);

    let step = joint.position_rate_limit * dt;
    let (from, to) = (last.position - step, last.position + step);
    let reachable = |x| math::clip(math::clip(x, from, to), joint.position_min, joint.position_max);
    c.position = reachable(c.position);
    let step = joint.acceleration_limit * dt;
    c.velocity = math::clip(c.velocity, last.velocity - step, last.velocity + step);
    c.velocity = math::clip(c.velocity, -joint.velocity_limit, joint.velocity_limit);
    let step = joint.torque_rate_limit * dt;
    c.torque = math::clip(c.torque, last.torque - step, last.torque + step);
    c.torque = math::clip(c.torque, -c.torque_limit, c.torque_limit);
    // Remembered before the correction below: the next tick's rate limit must not start from it, or the
    // correction would outlive its cause.
    *last = c;

    let (low, high) = torque_bounds(joint, c.torque_limit, q, dq);
    let torque = servo(&c, q, dq);
    let bounded = math::clip(torque, low, high);
    if bounded != torque {
        // The servo would leave the bounds: take position, velocity and feed-forward out of it and leave
        // exactly the bounded torque at the measured state. The gains still damp what follows.
        if c.kp > 0.0 {
            let rest = c.kd * (c.velocity - dq) + c.torque;
            c.position = reachable(q + (bounded - rest) / c.kp);
        }
        let left = servo(&c, q, dq);
        if left < low || left > high {
            c.torque += math::clip(left, low, high) - left;
        }
    }
    let slack = joint.torque_limit * ROUNDING;
    let rounding = (c.kp * (c.position - q)).abs() + (c.kd * (c.velocity - dq)).abs() + c.torque.abs();
    let holds = (low - slack..=high + slack).contains(&servo(&c, q, dq));
    // Written so that NaN does not hold.
    if !(holds && rounding * f32::EPSILON <= slack && c.position.is_finite()) {
        // Numbers too large for `f32` to cancel: the bounded torque alone.
        let torque = if bounded.is_finite() { bounded } else { 0.0 };
        c = JointCommand { kp: 0.0, kd: 0.0, torque, ..*last };
    }
    last.position = c.position;
    c
}

/// Torques allowed at the measured state.
fn torque_bounds(joint: &JointRecord, limit: f32, q: f32, dq: f32) -> (f32, f32) {
    // Above zero, or a velocity exactly at a tiny limit would give 0 / 0 and with it no bound.
    let taper = (joint.velocity_limit * VELOCITY_TAPER).max(f32::MIN_POSITIVE);
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
