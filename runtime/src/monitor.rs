//! Monitors: whether the sensors are plausible and the joints follow their commands.
//!
//! Each monitor has a code ([`monitor`]), a counter, thresholds and an action in the contract. docs/envelope.md gives the
//! equations. All of it takes bounded time: one pass over the channels, no branch on their values but comparisons.

use crate::Contract;
use tendon_wire::image::{MonitorRecord, SensorRecord, monitor, monitor_action};
use tendon_wire::message::{MAX_JOINTS, MAX_SENSORS, RawState};
use tendon_wire::mutation::{Check, removed};

/// Number of an alarm's channel in telemetry.
pub mod channel {
    /// Position of robot joint `i` is `POSITION + i`.
    pub const POSITION: u16 = 0;
    /// Velocity of robot joint `i`.
    pub const VELOCITY: u16 = 32;
    /// Orientation of the base.
    pub const ORIENTATION: u16 = 64;
    /// Angular velocity of the base.
    pub const GYRO: u16 = 65;
    /// Linear velocity of the base.
    pub const LINEAR: u16 = 66;
    /// Clock of the sensors.
    pub const CLOCK: u16 = 67;
    /// The observation as a whole.
    pub const OBSERVATION: u16 = 68;
    /// The task's own sensor `i`.
    pub const SENSOR: u16 = 128;
    /// Response of robot joint `i`.
    pub const RESPONSE: u16 = 256;
}

/// Weight of the newest value in a mean.
const NEWEST: f32 = 1.0 / 8.0;
/// What is left after a tick of the ways that response compares: a window of some 16 ticks.
const KEPT: f32 = 15.0 / 16.0;
/// Share of the torque limit from which a joint that does not move is stalled.
const STALL: f32 = 0.9;
/// Way of all joints in a tick that counts as motion, rad or m.
const MOTION: f32 = 0.005;
/// Time between two raw states, in control periods, that thresholds are scaled to at most.
const LONGEST: f32 = 4.0;

/// A channel of one value.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    /// It changed since it was first seen.
    is_alive: bool,
    /// Mean of what noise there is.
    noise: f32,
    /// Way, or ticks, for which it stood still although the robot moved.
    still: f32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Joint {
    position: Channel,
    velocity: Channel,
    /// Ways of commanded torque (in shares of its limit) and of the joint.
    swing: f32,
    path: f32,
    torque: f32,
}

/// What was measured last.
#[derive(Clone, Copy, Debug)]
struct Previous {
    time_us: u64,
    position: [f32; MAX_JOINTS],
    velocity: [f32; MAX_JOINTS],
    orientation: [f32; 4],
    gyro: [f32; 3],
    linear: [f32; 3],
    linear_step: [f32; 3],
    sensors: [f32; MAX_SENSORS],
    sensor_steps: [f32; MAX_SENSORS],
}

/// The monitors of one controller.
#[derive(Clone, Debug)]
pub struct Monitors {
    previous: Option<Previous>,
    joints: [Joint; MAX_JOINTS],
    orientation: Channel,
    gyro: Channel,
    linear: Channel,
    sensors: [Channel; MAX_SENSORS],
    same_clock: u16,
    tally: Tally,
}

/// Alarms: of this tick, of the last 16, of all time.
#[derive(Clone, Copy, Debug)]
struct Tally {
    alarms: u16,
    history: [u16; monitor::COUNT],
    counts: [u32; monitor::COUNT],
    last: (u8, u16),
}

impl Default for Monitors {
    fn default() -> Self {
        Self {
            previous: None,
            joints: [Joint::default(); MAX_JOINTS],
            orientation: Channel::default(),
            gyro: Channel::default(),
            linear: Channel::default(),
            sensors: [Channel::default(); MAX_SENSORS],
            same_clock: 0,
            tally: Tally {
                alarms: 0,
                history: [0; monitor::COUNT],
                counts: [0; monitor::COUNT],
                last: (u8::MAX, 0),
            },
        }
    }
}

impl Tally {
    fn raise(&mut self, record: &MonitorRecord, monitor: usize, channel: u16) {
        let action = record.actions.get(monitor).copied().unwrap_or(monitor_action::OFF);
        let bit = 1u16.wrapping_shl(monitor as u32);
        if action == monitor_action::OFF {
            return;
        }
        if self.alarms & bit == 0 {
            if let Some(count) = self.counts.get_mut(monitor) {
                *count = count.wrapping_add(1);
            }
            if let Some(history) = self.history.get_mut(monitor) {
                *history |= 1;
            }
        }
        // The first one of a tick is the nearest to its cause.
        if self.alarms == 0 {
            self.last = (monitor as u8, channel);
        }
        self.alarms |= bit;
    }
}

impl Monitors {
    /// Forgets what was measured; counters stay.
    pub fn reset(&mut self) {
        let Tally { counts, last, .. } = self.tally;
        *self = Self::default();
        (self.tally.counts, self.tally.last) = (counts, last);
    }

    /// Monitors (bits by [`monitor`]) that raised an alarm in this tick.
    #[must_use]
    pub fn alarms(&self) -> u16 {
        self.tally.alarms
    }

    /// Ticks with an alarm of this monitor since boot.
    #[must_use]
    pub fn count(&self, monitor: usize) -> u32 {
        self.tally.counts.get(monitor).copied().unwrap_or(0)
    }

    /// Monitor and channel of the first alarm in the last tick that had one; monitor 255: none since boot.
    #[must_use]
    pub fn last(&self) -> (u8, u16) {
        self.tally.last
    }

    /// A tick begins.
    pub fn begin(&mut self) {
        self.tally.alarms = 0;
        for history in &mut self.tally.history {
            *history = history.wrapping_shl(1);
        }
    }

    /// The observation was unlike the recorded ones.
    pub fn abstained(&mut self, contract: &Contract<'_>) {
        self.tally.raise(&contract.header.monitors, monitor::ABSTENTION, channel::OBSERVATION);
    }

    /// The first monitor whose alarms ask for the fallback.
    #[must_use]
    pub fn verdict(&self, contract: &Contract<'_>) -> Option<usize> {
        let record = &contract.header.monitors;
        let asks = |&(place, history): &(usize, &u16)| {
            let action = record.actions.get(place).copied().unwrap_or(monitor_action::OFF);
            let needed = record.needed.get(place).copied().unwrap_or(1);
            action == monitor_action::FALL_BACK && history & 1 == 1 && history.count_ones() >= needed.into()
        };
        self.tally.history.iter().enumerate().find(asks).map(|(place, _)| place)
    }

    /// Looks at a raw state that passed `check_state`. `torques`: what the servos were last told to give, policy order.
    pub fn observe(&mut self, contract: &Contract<'_>, state: &RawState, torques: impl Iterator<Item = f32>) {
        let Some(previous) = self.previous else {
            self.previous = Some(Previous::of(state));
            return;
        };
        let record = &contract.header.monitors;
        self.clock(record, previous.time_us, state.time_us);
        let period = contract.period_s();
        let passed = state.time_us.saturating_sub(previous.time_us) as f32 * 1e-6;
        let dt = passed.max(period).min(LONGEST * period);
        let motion = self.look_at_joints(contract, &previous, state, dt, torques);
        self.look_at_base(record, &previous, state, dt, motion > MOTION);
        self.look_at_sensors(contract, &previous, state, motion > MOTION);
        let mut next = Previous::of(state);
        for (step, (new, old)) in next.linear_step.iter_mut().zip(next.linear.iter().zip(&previous.linear)) {
            *step = new - old;
        }
        for (step, (new, old)) in next.sensor_steps.iter_mut().zip(next.sensors.iter().zip(&previous.sensors))
        {
            *step = new - old;
        }
        self.previous = Some(next);
    }

    /// A robot without a clock sends 0.
    fn clock(&mut self, record: &MonitorRecord, before_us: u64, now_us: u64) {
        let stands = now_us != 0 && now_us <= before_us;
        self.same_clock = if stands { self.same_clock.saturating_add(1) } else { 0 };
        if self.same_clock >= record.age_ticks && stands && !removed(Check::SensorMonitor) {
            self.tally.raise(record, monitor::AGE, channel::CLOCK);
        }
    }

    /// Returns the way that all joints went together.
    fn look_at_joints(
        &mut self,
        contract: &Contract<'_>,
        previous: &Previous,
        state: &RawState,
        dt: f32,
        torques: impl Iterator<Item = f32>,
    ) -> f32 {
        let record = &contract.header.monitors;
        let mut motion = 0.0;
        for ((joint, track), torque) in contract.joints.iter().zip(&mut self.joints).zip(torques) {
            let place = joint.robot_index as usize;
            let at = |values: &[f32]| values.get(place).copied().unwrap_or(0.0);
            let (q, q0) = (at(&state.joint_position), at(&previous.position));
            let (dq, dq0) = (at(&state.joint_velocity), at(&previous.velocity));
            let robot = place as u16;
            let moved = q - q0;
            motion += moved.abs();
            if !removed(Check::SensorMonitor) {
                // Trapezoidal rule: what the velocities say of the step.
                let residual = (moved - dt * (0.5 * dq + 0.5 * dq0)).abs();
                let unit = joint.velocity_limit * dt;
                let tally = &mut self.tally;
                let mut raise = |monitor, channel| tally.raise(record, monitor, channel + robot);
                if is_beyond(residual, record.position_jump * unit) {
                    raise(monitor::JUMP, channel::POSITION);
                }
                if is_beyond((dq - dq0).abs(), record.velocity_jump * joint.velocity_limit) {
                    raise(monitor::JUMP, channel::VELOCITY);
                }
                if track.position.is_noisy(residual, record.joint_noise * unit) {
                    raise(monitor::NOISE, channel::POSITION);
                }
                if track.position.stands(q == q0, residual) > record.stuck_path {
                    raise(off_or_stuck(q == 0.0), channel::POSITION);
                }
                if track.velocity.stands(dq == dq0, residual) > record.stuck_path {
                    raise(off_or_stuck(dq == 0.0), channel::VELOCITY);
                }
            }
            if !removed(Check::ResponseMonitor) {
                let runs_away = is_beyond(dq.abs(), record.overspeed * joint.velocity_limit);
                if runs_away || track.does_not_respond(record, joint.torque_limit, torque, moved.abs()) {
                    self.tally.raise(record, monitor::RESPONSE, channel::RESPONSE + robot);
                }
            }
        }
        motion
    }

    fn look_at_base(
        &mut self,
        record: &MonitorRecord,
        previous: &Previous,
        state: &RawState,
        dt: f32,
        joints_move: bool,
    ) {
        if removed(Check::SensorMonitor) {
            return;
        }
        let turn = turn(previous.orientation, state.base_orientation);
        let (gyro, gyro0) = (state.base_angular_velocity, previous.gyro);
        let (mut residual, mut gyro_step, mut turned) = (0.0, 0.0, 0.0);
        for (turn, (new, old)) in turn.iter().zip(gyro.iter().zip(&gyro0)) {
            turned = larger(turned, turn.abs());
            residual = larger(residual, (turn - dt * (0.5 * new + 0.5 * old)).abs());
            gyro_step = larger(gyro_step, (new - old).abs());
        }
        let (linear, linear0) = (state.base_linear_velocity, previous.linear);
        let (mut linear_step, mut second) = (0.0, 0.0);
        for ((new, old), step) in linear.iter().zip(&linear0).zip(&previous.linear_step) {
            linear_step = larger(linear_step, (new - old).abs());
            second = larger(second, (new - old - step).abs());
        }
        let tally = &mut self.tally;
        let mut raise = |monitor, channel| tally.raise(record, monitor, channel);
        if is_beyond(turned, record.turn_limit * dt) {
            raise(monitor::JUMP, channel::ORIENTATION);
        }
        if is_beyond(gyro_step, record.gyro_jump) {
            raise(monitor::JUMP, channel::GYRO);
        }
        if is_beyond(linear_step, record.linear_jump) {
            raise(monitor::JUMP, channel::LINEAR);
        }
        if self.orientation.is_noisy(residual, record.turn_noise) {
            raise(monitor::NOISE, channel::ORIENTATION);
        }
        if self.linear.is_noisy(second, record.linear_noise) {
            raise(monitor::NOISE, channel::LINEAR);
        }
        let same = state.base_orientation == previous.orientation;
        if self.orientation.stands(same, residual) > record.stuck_turn {
            raise(monitor::STUCK, channel::ORIENTATION);
        }
        if self.gyro.stands(gyro == gyro0, residual) > record.stuck_turn {
            raise(off_or_stuck(gyro == [0.0; 3]), channel::GYRO);
        }
        if self.linear.rests(linear == linear0, joints_move) > record.stuck_ticks.into() {
            raise(off_or_stuck(linear == [0.0; 3]), channel::LINEAR);
        }
    }

    fn look_at_sensors(
        &mut self,
        contract: &Contract<'_>,
        previous: &Previous,
        state: &RawState,
        joints_move: bool,
    ) {
        if removed(Check::SensorMonitor) {
            return;
        }
        let record = &contract.header.monitors;
        let before = previous.sensors.iter().zip(&previous.sensor_steps);
        let channels = contract.sensors.iter().zip(&state.sensors).zip(before).zip(&mut self.sensors);
        for ((((sensor, &x), (&x0, &step)), track), index) in channels.zip(0..) {
            let SensorRecord { low, high, jump, noise, stuck_ticks } = *sensor;
            let mut raise = |monitor| self.tally.raise(record, monitor, channel::SENSOR + index);
            if !(low..=high).contains(&x) || is_beyond((x - x0).abs(), jump) {
                raise(monitor::JUMP);
            }
            if track.is_noisy((x - x0 - step).abs(), noise) {
                raise(monitor::NOISE);
            }
            if stuck_ticks > 0 && track.rests(x == x0, joints_move) > stuck_ticks as f32 {
                raise(off_or_stuck(x == 0.0));
            }
        }
    }
}

impl Previous {
    fn of(state: &RawState) -> Self {
        let mut previous = Self {
            time_us: state.time_us,
            position: [0.0; MAX_JOINTS],
            velocity: [0.0; MAX_JOINTS],
            orientation: state.base_orientation,
            gyro: state.base_angular_velocity,
            linear: state.base_linear_velocity,
            linear_step: [0.0; 3],
            sensors: [0.0; MAX_SENSORS],
            sensor_steps: [0.0; MAX_SENSORS],
        };
        let copy = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        copy(&mut previous.position, &state.joint_position);
        copy(&mut previous.velocity, &state.joint_velocity);
        copy(&mut previous.sensors, &state.sensors);
        previous
    }
}

impl Channel {
    /// Whether the mean of `noise` is above `limit`. One spike alone is a jump and no noise.
    fn is_noisy(&mut self, noise: f32, limit: f32) -> bool {
        let most = 4.0 * limit;
        let mean = self.noise + NEWEST * (if is_beyond(noise, most) { most } else { noise } - self.noise);
        self.noise = if mean.is_finite() { mean } else { 0.0 };
        mean > limit
    }

    /// Way for which it stood still, of which another sensor says `way` in this tick.
    fn stands(&mut self, same: bool, way: f32) -> f32 {
        self.still = if same { self.still + way } else { 0.0 };
        self.still
    }

    /// Ticks for which it stood still, having moved before, while joints move.
    fn rests(&mut self, same: bool, joints_move: bool) -> f32 {
        self.is_alive |= !same;
        let more = if self.is_alive && joints_move { 1.0 } else { 0.0 };
        self.stands(same, more)
    }
}

impl Joint {
    fn does_not_respond(&mut self, record: &MonitorRecord, limit: f32, torque: f32, moved: f32) -> bool {
        let (change, load) = match limit > 0.0 {
            true => ((torque - self.torque).abs() / limit, torque.abs() / limit),
            false => (0.0, 0.0),
        };
        self.torque = torque;
        // A quarter: a joint that pushes against something with all its torque is given some 12 ticks.
        let stalled = if load >= STALL { 0.25 * load } else { 0.0 };
        self.swing = KEPT * self.swing + change + stalled;
        self.path = KEPT * self.path + moved;
        if !(self.swing.is_finite() && self.path.is_finite()) {
            (self.swing, self.path) = (0.0, 0.0);
        }
        self.swing > record.response_swing && self.path < record.response_path
    }
}

/// Also where it is no number.
fn is_beyond(value: f32, limit: f32) -> bool {
    !(value <= limit)
}

/// The larger one; NaN where one is.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b <= a { a } else { b }
}

fn off_or_stuck(is_zero: bool) -> usize {
    if is_zero { monitor::OFF } else { monitor::STUCK }
}

/// Turn from one orientation to the next in the frame of the IMU: twice the vector part of the quaternion between them.
fn turn(from: [f32; 4], to: [f32; 4]) -> [f32; 3] {
    let ([w0, x0, y0, z0], [w, x, y, z]) = (from, to);
    let real = w0 * w + x0 * x + y0 * y + z0 * z;
    let double = if real < 0.0 { -2.0 } else { 2.0 };
    [
        double * (w0 * x - x0 * w - y0 * z + z0 * y),
        double * (w0 * y - y0 * w - z0 * x + x0 * z),
        double * (w0 * z - z0 * w - x0 * y + y0 * x),
    ]
}
