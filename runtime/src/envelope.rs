//! The safety envelope: last in every state, nothing reaches an actuator around it.

use crate::{Contract, JointCommand, Limits, Profile, functions, math};
use tendon_wire::image::JointRecord;
use tendon_wire::message::MAX_JOINTS;
use tendon_wire::mutation::{Check, removed};

/// Share of the velocity allowed over which the torque that would raise the speed fades to zero.
const VELOCITY_TAPER: f32 = 0.1;
/// What `f32` rounding may leave beyond the torque bounds, as a share of the torque limit. A spring or damper so
/// large that it would leave more is taken away.
const ROUNDING: f32 = 1e-4;

/// Limits commands per joint and in sum; remembers the last ones for the limits on rates.
///
/// docs/envelope.md states what holds of every output, in equations and to which rounding; `oracle` (feature `spec`) checks
/// it. In short, for the limits of the profile in force and finite measurements:
/// - everything is finite; a command with a non-finite member or a negative gain becomes damping; a joint whose
///   measurement is missing or not finite gets no torque at all;
/// - position setpoints stay within the position limits, their first, second and third differences within rate,
///   acceleration and jerk; velocity setpoints within the velocity limit and the braking curve, their differences
///   within acceleration and jerk. Where two cannot hold together, the one named first does;
/// - the torque that the servo law gives at the measured state is within the torque limit, zero in the
///   direction of a velocity beyond its limit, directed inwards beyond the braking curve and the position limits; it
///   changes at most at the torque rate, as far as these allow; the motoring power of all joints together is within
///   the budget, whatever the torque rate says.
#[derive(Clone, Debug)]
pub struct Envelope {
    profile: Profile,
    joints: [Memory; MAX_JOINTS],
    power: f32,
}

/// One joint: what went out last, and what is planned within a tick.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    position: Setpoint,
    velocity: Setpoint,
    /// Of the servo at the measured state.
    torque: f32,
    /// Position setpoints that may go out now.
    reach: (f32, f32),
}

/// A setpoint with its differences per tick.
#[derive(Clone, Copy, Debug, Default)]
struct Setpoint {
    last: f32,
    step: f32,
    second: f32,
}

impl Default for Envelope {
    fn default() -> Self {
        Self { profile: Profile::default(), joints: [Memory::default(); MAX_JOINTS], power: 0.0 }
    }
}

impl Envelope {
    /// Rate limits start from the measured positions at rest. `position`: `[n_joints]`, policy order.
    pub fn reset(&mut self, position: &[f32]) {
        self.joints = [Memory::default(); MAX_JOINTS];
        for (joint, &q) in self.joints.iter_mut().zip(position) {
            if q.is_finite() {
                joint.position.last = q;
            }
        }
    }

    /// Takes the limits from this profile from now on.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
    }

    /// The profile in force.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Motoring power of the last commands at the measured velocities, W.
    #[must_use]
    pub fn power(&self) -> f32 {
        self.power
    }

    /// Torques of the servos at the measured state after the last [`Envelope::apply`], policy order.
    pub fn torques(&self) -> impl Iterator<Item = f32> {
        self.joints.iter().map(|joint| joint.torque)
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
        if removed(Check::Envelope) {
            return 0;
        }
        let dt = contract.period_s();
        let profile = self.profile;
        let measured = || {
            let known = position.iter().copied().zip(velocity.iter().copied());
            known.chain(core::iter::repeat((f32::NAN, f32::NAN)))
        };
        let mut limited = 0;
        let mut power = 0.0;
        let joints = contract.joints.iter().zip(measured()).zip(commands.iter_mut().zip(&mut self.joints));
        for (index, ((joint, (q, dq)), (command, memory))) in joints.enumerate() {
            let before = *command;
            let limits = profile.limits(joint);
            *command = memory.plan(joint, &limits, dt, q, dq, before);
            power += (memory.torque * dq).max(0.0);
            if *command != before {
                limited |= 1u32.wrapping_shl(index as u32);
            }
        }
        let budget = profile.power(contract);
        let share = if power > budget { budget / power } else { 1.0 };
        self.power = power.min(budget);
        let joints = contract.joints.iter().zip(measured()).zip(commands.iter_mut().zip(&mut self.joints));
        for (index, ((joint, (q, dq)), (command, memory))) in joints.enumerate() {
            if memory.torque * dq > 0.0 {
                memory.torque *= share;
            }
            let before = *command;
            *command = memory.realise(joint, q, dq, before);
            if *command != before {
                limited |= 1u32.wrapping_shl(index as u32);
            }
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

impl Setpoint {
    /// Setpoints that the limits on differences allow, `low..=high` first of all. `first`, `second`, `third`: largest
    /// differences per tick.
    fn reach(&self, first: f32, second: f32, third: f32, (low, high): (f32, f32)) -> (f32, f32) {
        let end = |third: f32| {
            let step = math::clip(self.step + (self.second + third), self.step - second, self.step + second);
            math::clip(self.last + math::clip(step, -first, first), low, high)
        };
        (end(-third), end(third))
    }

    /// Goes to `target`. No faster than it can stop at the end of `range`, and, where the limits make it late, no
    /// faster than it can stop at the target.
    fn towards(&self, target: f32, second: f32, third: f32, reach: (f32, f32), range: (f32, f32)) -> f32 {
        let stoppable = |left: f32| {
            if left <= second && left <= third && self.step.abs() <= second {
                return left;
            }
            // Stopping from a step s takes s^2 / (2 second) and the time in which the jerk builds up.
            let time = 1.0 + 2.0 * second / third;
            let most = 2.0 * left / (time + functions::sqrt(time * time + 2.0 * left / second));
            if most.is_nan() { left } else { most }
        };
        let wanted = target - self.last;
        let mut step = wanted;
        if !(reach.0..=reach.1).contains(&target) {
            let most = stoppable(wanted.abs());
            step = math::clip(step, -most, most);
        }
        let (down, up) = ((self.last - range.0).max(0.0), (range.1 - self.last).max(0.0));
        step = math::clip(step, -stoppable(down), stoppable(up));
        let next = if step == wanted { target } else { self.last + step };
        math::clip(next, reach.0, reach.1)
    }

    /// `value` went out.
    fn take(&mut self, value: f32) {
        let step = value - self.last;
        let second = step - self.step;
        if second.is_finite() {
            (self.second, self.step, self.last) = (second, step, value);
        } else {
            self.start(value);
        }
    }

    /// `value` went out without a past.
    fn start(&mut self, value: f32) {
        *self = Self { last: value, ..Self::default() };
    }
}

impl Memory {
    /// Shapes the setpoints and finds the torque allowed, alone among the joints.
    fn plan(
        &mut self,
        joint: &JointRecord,
        limits: &Limits,
        dt: f32,
        q: f32,
        dq: f32,
        command: JointCommand,
    ) -> JointCommand {
        if !(q.is_finite() && dq.is_finite()) {
            self.torque = 0.0;
            let position = math::clip(self.position.last, joint.position_min, joint.position_max);
            return JointCommand { position, ..JointCommand::default() };
        }
        let mut c = command;
        if !is_finite(&c) || c.kp < 0.0 || c.kd < 0.0 {
            c = damping(joint, q);
        }
        c.torque_limit = math::clip(c.torque_limit, 0.0, limits.torque);

        let (first, second, third) =
            (limits.position_rate * dt, limits.acceleration * dt * dt, limits.jerk * dt * dt * dt);
        let range = (joint.position_min, joint.position_max);
        self.reach = self.position.reach(first, second, third, range);
        let target = math::clip(c.position, range.0, range.1);
        c.position = self.position.towards(target, second, third, self.reach, range);

        // Speeds from which the joint still stops before its position limits.
        let up = braking(joint.position_max - q, joint.braking_deceleration, dt).min(limits.velocity);
        let down = braking(q - joint.position_min, joint.braking_deceleration, dt).min(limits.velocity);
        let (first, second) = (limits.acceleration * dt, limits.jerk * dt * dt);
        let reach = self.velocity.reach(first, second, f32::INFINITY, (-down, up));
        let target = math::clip(c.velocity, -down, up);
        c.velocity = self.velocity.towards(target, second, f32::INFINITY, reach, (-down, up));
        c.torque = math::clip(c.torque, -c.torque_limit, c.torque_limit);

        let (low, high) = torque_bounds(joint, limits.velocity, c.torque_limit, (down, up), q, dq);
        let step = limits.torque_rate * dt;
        let low_now = math::clip(self.torque - step, low, high);
        let high_now = math::clip(self.torque + step, low, high);
        let wanted = servo(&c, q, dq);
        self.torque = math::clip(if wanted.is_nan() { 0.0 } else { wanted }, low_now, high_now);
        c
    }

    /// Makes the servo's torque at the measured state the planned one, and remembers what goes out.
    fn realise(&mut self, joint: &JointRecord, q: f32, dq: f32, planned: JointCommand) -> JointCommand {
        let mut c = planned;
        if !(q.is_finite() && dq.is_finite()) {
            self.position.start(c.position);
            self.velocity.start(0.0);
            return c;
        }
        let target = self.torque;
        if servo(&c, q, dq) != target {
            // Position, velocity and feed-forward give way and leave exactly the torque planned. The gains still damp
            // what follows.
            if c.kp > 0.0 {
                let rest = c.kd * (c.velocity - dq) + c.torque;
                c.position = math::clip(q + (target - rest) / c.kp, self.reach.0, self.reach.1);
            }
            c.torque += target - servo(&c, q, dq);
        }
        let slack = joint.torque_limit * ROUNDING;
        let rounding = (c.kp * (c.position - q)).abs() + (c.kd * (c.velocity - dq)).abs() + c.torque.abs();
        let off = (servo(&c, q, dq) - target).abs();
        // Written so that NaN does not hold.
        if !(off <= slack && rounding * f32::EPSILON <= slack && c.position.is_finite()) {
            // Numbers too large for `f32` to cancel: the torque alone.
            c = JointCommand { kp: 0.0, kd: 0.0, torque: target, ..planned };
        }
        self.torque = target;
        self.position.take(c.position);
        self.velocity.take(c.velocity);
        c
    }
}

/// Largest speed from which a joint `distance` before its limit stops there, after one more tick at that speed:
/// `v dt + v^2 / (2 deceleration) = distance`.
fn braking(distance: f32, deceleration: f32, dt: f32) -> f32 {
    if distance <= 0.0 {
        return 0.0;
    }
    // Far away is far enough, and its square root finite.
    let distance = distance.min(1e15);
    let speed = 2.0 * distance / (dt + functions::sqrt(dt * dt + 2.0 * distance / deceleration));
    if speed.is_nan() { 0.0 } else { speed }
}

/// Torques allowed at the measured state. `down`, `up`: speeds allowed towards the two position limits, at most
/// `velocity`.
fn torque_bounds(
    joint: &JointRecord,
    velocity: f32,
    limit: f32,
    (down, up): (f32, f32),
    q: f32,
    dq: f32,
) -> (f32, f32) {
    // The most torque towards a limit, with `speed` counted towards it.
    let towards = |speed: f32, allowed: f32, is_beyond: bool| {
        // Above zero, or a speed exactly at a tiny limit would give 0 / 0 and with it no bound.
        let taper = (allowed * VELOCITY_TAPER).max(f32::MIN_POSITIVE);
        let most = limit * math::clip((allowed - speed) / taper, 0.0, 1.0);
        let most = if is_beyond { most.min(0.0) } else { most };
        // Beyond the braking curve the joint is braked, as hard as the fallback damps.
        let brake = if allowed < velocity { joint.damping_kd * (speed - allowed) } else { 0.0 };
        most - brake.max(0.0).min(limit)
    };
    let high = towards(dq, up, q >= joint.position_max);
    let low = -towards(-dq, down, q <= joint.position_min);
    // A range so short that both ends are too near: rest.
    if low <= high { (low, high) } else { (0.0, 0.0) }
}
