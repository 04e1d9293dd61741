//! What the envelope promises, checked from outside: in `f64`, written from docs/envelope.md and not from the code under
//! test, with a memory of outputs alone. For tests and campaigns.

use crate::{Contract, JointCommand, Profile};
use std::string::String;
use std::vec::Vec;
use std::{format, vec};
use tendon_wire::image::{JointRecord, limit};

/// What `f32` rounding may leave beyond a torque bound, as a share of the joint's torque limit.
pub const TORQUE_ROUNDING: f64 = 1e-3;
/// The same for setpoints, as a share of the numbers that go into the bound.
pub const SETPOINT_ROUNDING: f64 = 2e-6;
/// What it may leave in the speed of the braking curve, as a share of the speeds.
const BRAKING_ROUNDING: f64 = 1e-5;
/// The same where numbers are so small that `f32` has few bits left.
pub const SMALLEST: f64 = 1e-38;

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Joint in the policy's order; `None`: of all together.
    pub joint: Option<usize>,
    /// Which promise.
    pub promise: &'static str,
    /// Numbers, for people.
    pub detail: String,
}

/// Watches one envelope.
#[derive(Clone, Debug)]
pub struct Oracle {
    joints: Vec<Past>,
}

/// Differences of the last outputs of one joint.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    position: [f64; 3],
    velocity: [f64; 3],
    torque: f64,
}

/// Limits under a profile: velocity, acceleration, jerk, torque, torque rate.
fn limits(joint: &JointRecord, profile: &Profile) -> [f64; 5] {
    let own = [
        joint.velocity_limit,
        joint.acceleration_limit,
        joint.jerk_limit,
        joint.torque_limit,
        joint.torque_rate_limit,
    ];
    let mut result = [0.0; 5];
    for (kind, own) in own.into_iter().enumerate() {
        result[kind] = tightened(own, profile, kind);
    }
    result
}

fn tightened(own: f32, profile: &Profile, kind: usize) -> f64 {
    let record = profile.record();
    (f64::from(own) * f64::from(record.scale[kind])).min(f64::from(record.cap[kind]))
}

/// Values that differences allow: `[last, step, change of the step]` and the largest first, second and third one.
/// Where they contradict each other the range goes first, then the first difference, then the second.
fn allowed([last, step, second]: [f64; 3], most: [f64; 3], (low, high): (f64, f64)) -> (f64, f64, f64) {
    let end = |third: f64| {
        let step = (step + second + third).max(step - most[1]).min(step + most[1]);
        (last + step.max(-most[0]).min(most[0])).max(low).min(high)
    };
    let size = last.abs() + step.abs() + second.abs() + most[0].min(most[1]).min(most[2]);
    (end(-most[2]), end(most[2]), size * SETPOINT_ROUNDING + SMALLEST)
}

fn advance(past: &mut [f64; 3], value: f64) {
    let step = value - past[0];
    let second = step - past[1];
    // Beyond `f32` there is no past.
    *past = if second.abs() <= f64::from(f32::MAX) { [value, step, second] } else { [value, 0.0, 0.0] };
}

/// Speed from which a joint stops within `distance` after a tick of reaction.
fn stopping_speed(distance: f64, deceleration: f64, dt: f64) -> f64 {
    if distance <= 0.0 {
        0.0
    } else {
        2.0 * distance / (dt + (dt * dt + 2.0 * distance / deceleration).sqrt())
    }
}

impl Oracle {
    /// Of an envelope that was never used.
    #[must_use]
    pub fn new(contract: &Contract<'_>) -> Self {
        Self { joints: vec![Past::default(); contract.joints.len()] }
    }

    /// The envelope was reset at these measured positions.
    pub fn reset(&mut self, position: &[f32]) {
        for (index, past) in self.joints.iter_mut().enumerate() {
            *past = Past::default();
            past.position[0] = position.get(index).filter(|q| q.is_finite()).map_or(0.0, |&q| q.into());
        }
    }

    /// Checks one output, `[n_joints]` in the policy's order, for the measured `position` and `velocity`.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn check(
        &mut self,
        contract: &Contract<'_>,
        profile: &Profile,
        position: &[f32],
        velocity: &[f32],
        output: &[JointCommand],
    ) -> Result<(), Violation> {
        let budget = tightened(contract.header.power_budget, profile, limit::POWER);
        let (mut power, mut unsure) = (0.0, 0.0);
        let mut torques = Vec::new();
        for (index, joint) in contract.joints.iter().enumerate() {
            let fail = |promise, detail: String| Err(Violation { joint: Some(index), promise, detail });
            let Some(c) = output.get(index) else { return fail("a command for every joint", String::new()) };
            let past = &mut self.joints[index];
            let measured = (position.get(index).copied(), velocity.get(index).copied());
            let (q, dq) = (measured.0.unwrap_or(f32::NAN), measured.1.unwrap_or(f32::NAN));
            let about =
                |past: &Past| format!("{c:?} q {q} dq {dq} after {past:?} of {joint:?} under {profile:?}");
            if [c.position, c.velocity, c.torque, c.kp, c.kd, c.torque_limit].iter().any(|v| !v.is_finite()) {
                return fail("finite", about(past));
            }
            if !(joint.position_min..=joint.position_max).contains(&c.position) {
                return fail("position limits", about(past));
            }
            let [v_max, a_max, j_max, t_max, rate] = limits(joint, profile);
            let bound = f64::from(c.torque_limit);
            if c.kp < 0.0 || c.kd < 0.0 || bound < 0.0 || bound > t_max * (1.0 + 1e-6) {
                return fail("gains and torque limit", about(past));
            }
            if !(q.is_finite() && dq.is_finite()) {
                if [c.kp, c.kd, c.torque, c.torque_limit, c.velocity] != [0.0; 5] {
                    return fail("no torque without a measurement", about(past));
                }
                *past = Past { position: [c.position.into(), 0.0, 0.0], ..Past::default() };
                torques.push(None);
                continue;
            }
            let dt = f64::from(contract.header.period_us as f32 * 1e-6);
            let position_rate = tightened(joint.position_rate_limit, profile, limit::VELOCITY);
            let range = (f64::from(joint.position_min), f64::from(joint.position_max));
            let most = [position_rate * dt, a_max * dt * dt, j_max * dt * dt * dt];
            let (low, high, slack) = allowed(past.position, most, range);
            let p = f64::from(c.position);
            if p < low - slack || p > high + slack {
                return fail(
                    "position rate, acceleration and jerk",
                    format!("{low}..{high} {}", about(past)),
                );
            }
            let (q, dq) = (f64::from(q), f64::from(dq));
            let braking = f64::from(joint.braking_deceleration);
            let up = stopping_speed(range.1 - q, braking, dt).min(v_max);
            let down = stopping_speed(q - range.0, braking, dt).min(v_max);
            let (low, high, slack) =
                allowed(past.velocity, [a_max * dt, j_max * dt * dt, f64::INFINITY], (-down, up));
            let v = f64::from(c.velocity);
            let slack = slack + 1e-5 * up.max(down);
            if v < low - slack || v > high + slack || v.abs() > v_max * (1.0 + 1e-6) + SMALLEST {
                return fail("velocity, acceleration and jerk", format!("{low}..{high} {}", about(past)));
            }

            let torque = f64::from(c.kp) * (p - q) + f64::from(c.kd) * (v - dq) + f64::from(c.torque);
            let slack = f64::from(joint.torque_limit) * TORQUE_ROUNDING + SMALLEST;
            let (low, high) = torque_bounds(joint, bound, v_max, (down, up), (q, dq), BRAKING_ROUNDING);
            if torque < low - slack || torque > high + slack {
                return fail("torque", format!("{torque} of {low}..{high} {}", about(past)));
            }
            let step = rate * dt * (1.0 + 1e-6) + SMALLEST;
            // What rounding lets in goes both ways: a bound that the torque has to keep up with may be the nearer one.
            let (least, most) = torque_bounds(joint, bound, v_max, (down, up), (q, dq), -BRAKING_ROUNDING);
            let slowly = ((past.torque - step).max(low).min(most), (past.torque + step).max(least).min(high));
            power += (torque * dq).max(0.0);
            unsure += slack * dq.abs();
            torques.push(Some((torque, dq, slowly, slack, about(past))));
            advance(&mut past.position, p);
            advance(&mut past.velocity, v);
            past.torque = torque;
        }
        let is_at_budget = power >= budget * (1.0 - 1e-5) - unsure;
        if power > budget * (1.0 + 1e-5) + unsure {
            return Err(Violation {
                joint: None,
                promise: "power",
                detail: format!("{power} W of {budget} W"),
            });
        }
        for (index, found) in torques.into_iter().enumerate() {
            let Some((torque, dq, (low, high), slack, about)) = found else { continue };
            // Power is taken away at once.
            let cut = is_at_budget && torque * dq >= -slack * dq.abs();
            let (low, high) = if cut { (low.min(0.0), high.max(0.0)) } else { (low, high) };
            if torque < low - slack || torque > high + slack {
                let detail = format!("{torque} of {low}..{high} {about}");
                return Err(Violation { joint: Some(index), promise: "torque rate", detail });
            }
        }
        Ok(())
    }
}

/// Torques allowed at the measured state, with this share of the speeds let in for the rounding of the braking curve.
fn torque_bounds(
    joint: &JointRecord,
    bound: f64,
    v_max: f64,
    (down, up): (f64, f64),
    (q, dq): (f64, f64),
    rounding: f64,
) -> (f64, f64) {
    let kd = f64::from(joint.damping_kd);
    let towards = |speed: f64, allowed: f64, is_out: bool| {
        let taper = (0.1 * allowed).max(f64::from(f32::MIN_POSITIVE));
        let faded = if is_out { 0.0 } else { bound * ((allowed - speed) / taper).clamp(0.0, 1.0) };
        let off = rounding * (allowed + speed.abs());
        // In `f32` the smallest limits are none, or the same.
        let brakes = allowed < v_max * (1.0 - rounding) - SMALLEST * rounding.signum();
        let brake = if brakes { (kd * (speed - allowed - off)).clamp(0.0, bound) } else { 0.0 };
        faded - brake
    };
    let high = towards(dq, up, q >= f64::from(joint.position_max));
    let low = -towards(-dq, down, q <= f64::from(joint.position_min));
    if low <= high { (low, high) } else { (low.min(0.0), high.max(0.0)) }
}
