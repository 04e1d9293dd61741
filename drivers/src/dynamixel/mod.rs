//! Robotis Dynamixel X series over Protocol 2.0.
//!
//! One tick: one Sync Read of current, velocity and position of all joints, a Read of each that was not heard,
//! then Sync Writes of torque limits and goals. [`DynamixelBus::open`] checks models, sets the operating mode and the
//! bus watchdog, and leaves torque off.
//!
//! Crates looked at: `dynamixel2` 0.9 and `rustypot` 1.13 have the protocol, but need std, a serial port type of their
//! own and a heap, and wait on the system's clock.

mod packet;
mod table;

pub use table::{Limit, MODELS, Model};

use crate::line::Line;
use crate::servo::{goal, servo_torque};
use crate::track::{Reading, Track};
use crate::{
    BusError, Calibration, Clock, Counters, Faults, JointBus, JointCommand, JointState, MAX_JOINTS, Timing,
};
use core::f32::consts::TAU;
use embedded_io::{Read, ReadReady, Write};
use packet::{BROADCAST, Parameters, Request, Status, instruction, look, request};
use table::*;

/// Status error: the servo has a hardware error.
const ALERT: u8 = 0x80;
/// Bytes of one answer to the Sync Read, and of the request before its ids.
const ANSWER: u32 = 21;
const REQUEST: u32 = 14;
/// How much faster than unloaded a joint may seem to move.
const FASTER: f32 = 1.5;

/// How a servo follows commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// The servo's own position control, bounded by the command's torque limit ([`crate::goal`]). Current-based
    /// position mode (5) where the model has it, else position mode (3) with bounded PWM.
    #[default]
    Position,
    /// The command's law here at every write, its torque as goal current (mode 0): exact gains, at the rate of
    /// the bus.
    Current,
}

/// One joint of the robot.
#[derive(Clone, Copy, Debug)]
pub struct Joint {
    /// Id on the bus.
    pub id: u8,
    /// Mounting.
    pub calibration: Calibration,
    /// How it follows.
    pub follow: Follow,
}

#[derive(Clone, Copy, Debug)]
struct Servo {
    joint: Joint,
    model: &'static Model,
    /// Of the register that bounds the goal current or PWM: beyond it the servo refuses.
    most: f32,
    /// Encoder counts that it takes as goals.
    counts: [f32; 2],
    track: Track,
    fresh: bool,
    alert: bool,
}

/// What [`DynamixelBus::scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Id.
    pub id: u8,
    /// Model number.
    pub model: u16,
    /// Firmware version.
    pub firmware: u8,
}

/// Health of one servo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// Supply, V.
    pub voltage: f32,
    /// degrees C.
    pub temperature: f32,
}

/// Dynamixels on one line, joints in the robot's order.
#[derive(Debug)]
pub struct DynamixelBus<P: Read + ReadReady + Write> {
    /// `None` after [`Self::close`].
    line: Option<Line<P>>,
    servos: heapless::Vec<Servo, MAX_JOINTS>,
    states: heapless::Vec<JointState, MAX_JOINTS>,
}

/// Time for one answer while setting up: servos write EEPROM then.
const SETUP_US: u64 = 50_000;
const ATTEMPTS: u32 = 4;

impl<P: Read + ReadReady + Write> DynamixelBus<P> {
    /// Servos that answer a ping, ascending. `ids`: those to try.
    ///
    /// # Errors
    /// The port.
    pub fn scan(
        port: P,
        timing: Timing,
        ids: impl IntoIterator<Item = u8>,
        clock: Clock<'_>,
        mut found: impl FnMut(Found),
    ) -> Result<P, BusError> {
        let mut line = Line::new(port, timing, look);
        for id in ids {
            if let Some(status) = exchange(&mut line, id, instruction::PING, &[], 2, clock)?
                && let &[low, high, firmware] = status.parameters.as_slice()
            {
                found(Found { id, model: u16::from_le_bytes([low, high]), firmware });
            }
        }
        Ok(line.into_port())
    }

    /// Takes the line: every joint has to answer, of a known model. Torque off, operating mode and return delay
    /// set, the bus watchdog armed for `watchdog_us` (20 ms steps; 0: none).
    ///
    /// # Errors
    /// The first servo that does not answer or refuses.
    pub fn open(
        port: P,
        timing: Timing,
        joints: &[Joint],
        watchdog_us: u32,
        clock: Clock<'_>,
    ) -> Result<Self, BusError> {
        check_ids(joints.iter().map(|joint| joint.id))?;
        let mut this = Self {
            line: Some(Line::new(port, timing, look)),
            servos: heapless::Vec::new(),
            states: heapless::Vec::new(),
        };
        for joint in joints {
            let servo = this.prepare(*joint, watchdog_us, clock)?;
            let _ = this.servos.push(servo);
            let _ = this.states.push(JointState::default());
        }
        Ok(this)
    }

    fn prepare(&mut self, joint: Joint, watchdog_us: u32, clock: Clock<'_>) -> Result<Servo, BusError> {
        let id = joint.id;
        let number = self.get(id, MODEL_NUMBER, clock)? as u16;
        let model = Model::find(number).ok_or(BusError::Model { id, found: number })?;
        // The EEPROM area and the mode are locked while torque is on.
        self.put(id, TORQUE_ENABLE, 0, clock)?;
        // A watchdog that ran out holds its goals locked until it is cleared.
        self.put(id, BUS_WATCHDOG, 0, clock)?;
        let wanted = match (joint.follow, model.limit) {
            (Follow::Current, Limit::Current { .. }) => mode::CURRENT,
            (Follow::Position, Limit::Current { .. }) => mode::CURRENT_BASED_POSITION,
            (_, Limit::Pwm { .. }) => mode::POSITION,
        };
        // EEPROM wears: written only when it differs.
        for (register, value) in [(OPERATING_MODE, u32::from(wanted)), (RETURN_DELAY, 0)] {
            if self.get(id, register, clock)? != value {
                self.put(id, register, value, clock)?;
            }
        }
        let steps = watchdog_us.div_ceil(WATCHDOG_UNIT_US).min(127);
        self.put(id, BUS_WATCHDOG, steps, clock)?;
        let most = self.get(id, model.bound(), clock)? as f32;
        let low = self.get(id, MIN_POSITION_LIMIT, clock)? as i32 as f32;
        let high = self.get(id, MAX_POSITION_LIMIT, clock)? as i32 as f32;
        let follow = if wanted == mode::CURRENT { Follow::Current } else { Follow::Position };
        Ok(Servo {
            joint: Joint { follow, ..joint },
            model,
            most,
            counts: [low, high],
            track: Track::default(),
            fresh: false,
            alert: false,
        })
    }

    /// Supply voltage and temperature of joint `index`; `None` when it was not heard.
    ///
    /// # Errors
    /// The port.
    pub fn health(&mut self, index: usize, clock: Clock<'_>) -> Result<Option<Health>, BusError> {
        let Some(id) = self.servos.get(index).map(|servo| servo.joint.id) else { return Ok(None) };
        let line = self.line.as_mut().ok_or(CLOSED)?;
        let parameters = range(VOLTAGE_TEMPERATURE);
        let status = exchange(line, id, instruction::READ, &parameters, ATTEMPTS, clock)?;
        Ok(status.and_then(|status| {
            let &[low, high, temperature] = status.parameters.as_slice() else { return None };
            let voltage = f32::from(u16::from_le_bytes([low, high])) * 0.1;
            Some(Health { voltage, temperature: temperature.into() })
        }))
    }

    /// Model of each joint.
    pub fn models(&self) -> impl Iterator<Item = &'static Model> + '_ {
        self.servos.iter().map(|servo| servo.model)
    }

    /// Firmware version of joint `index`.
    ///
    /// # Errors
    /// The port, or a servo that does not answer.
    pub fn firmware(&mut self, index: usize, clock: Clock<'_>) -> Result<u8, BusError> {
        let id = self.servos.get(index).map_or(0, |servo| servo.joint.id);
        Ok(self.get(id, FIRMWARE, clock)? as u8)
    }

    /// Torque off, and the port back.
    pub fn close(mut self) -> Option<P> {
        self.release();
        self.line.take().map(Line::into_port)
    }

    /// Torque off without waiting for answers; twice, because the line may be noisy.
    fn release(&mut self) {
        let Self { line, servos, .. } = self;
        if let Some(line) = line {
            let off = sync_write(TORQUE_ENABLE, servos.iter().map(|servo| (servo.joint.id, [0])));
            for _ in 0..2 {
                let _ = line.send(&off);
            }
        }
    }

    fn get(&mut self, id: u8, register: Register, clock: Clock<'_>) -> Result<u32, BusError> {
        let line = self.line.as_mut().ok_or(CLOSED)?;
        let status = exchange(line, id, instruction::READ, &range(register), ATTEMPTS, clock)?
            .ok_or(BusError::Silent { id })?;
        let error = status.error & !ALERT;
        if error != 0 || status.parameters.len() != usize::from(register.length) {
            return Err(BusError::Refused { id, address: register.address, error });
        }
        Ok(status.parameters.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    fn put(&mut self, id: u8, register: Register, value: u32, clock: Clock<'_>) -> Result<(), BusError> {
        let line = self.line.as_mut().ok_or(CLOSED)?;
        let [low, high] = register.address.to_le_bytes();
        let mut parameters = heapless::Vec::<u8, 6>::new();
        let _ = parameters.extend_from_slice(&[low, high]);
        for byte in value.to_le_bytes().into_iter().take(register.length.into()) {
            let _ = parameters.push(byte);
        }
        let status = exchange(line, id, instruction::WRITE, &parameters, ATTEMPTS, clock)?
            .ok_or(BusError::Silent { id })?;
        match status.error & !ALERT {
            0 => Ok(()),
            error => Err(BusError::Refused { id, address: register.address, error }),
        }
    }

    fn read_all(&mut self, until_us: u64, clock: Clock<'_>) -> Result<bool, BusError> {
        let Self { line, servos, states } = self;
        let line = line.as_mut().ok_or(CLOSED)?;
        servos.iter_mut().for_each(|servo| servo.fresh = false);
        let ids = servos.iter().map(|servo| servo.joint.id);
        let sync = request(BROADCAST, instruction::SYNC_READ, range(PRESENT).into_iter().chain(ids));
        let mut left = servos.len();
        let mut retries = line.timing.retries;
        for again in [true, false] {
            line.ask(&sync, until_us, clock, |packet, counters| {
                take_present(packet, servos, states, clock(), counters, &mut left);
                left == 0
            })?;
            // Nobody at all: the request was damaged, or the first servo is missing. Once more.
            if !again || left < servos.len() || retries == 0 || clock() >= until_us {
                break;
            }
            retries -= 1;
            line.counters.retries = line.counters.retries.wrapping_add(1);
        }
        // A servo that is missing keeps those behind it in the chain silent, so each is asked alone.
        for index in 0..servos.len() {
            let Some(servo) = servos.get(index) else { break };
            if servo.fresh || retries == 0 || clock() >= until_us {
                continue;
            }
            retries -= 1;
            line.counters.retries = line.counters.retries.wrapping_add(1);
            let id = servo.joint.id;
            let alone = request(id, instruction::READ, range(PRESENT));
            line.ask(&alone, until_us, clock, |packet, counters| {
                take_present(packet, servos, states, clock(), counters, &mut left);
                servos.get(index).is_some_and(|servo| servo.fresh)
            })?;
        }
        for (servo, state) in servos.iter_mut().zip(states.iter_mut()) {
            if !servo.alert {
                state.faults = Faults::default();
            } else if clock() < until_us {
                let id = servo.joint.id;
                let why = request(id, instruction::READ, range(HARDWARE_ERROR));
                line.ask(&why, until_us, clock, |packet, _| {
                    let status = Status::read(packet).filter(|status| status.id == id);
                    let Some(&[bits]) = status.as_ref().map(|status| status.parameters.as_slice()) else {
                        return false;
                    };
                    state.faults = faults(bits);
                    true
                })?;
            }
        }
        Ok(left == 0)
    }
}

const CLOSED: BusError = BusError::Port(embedded_io::ErrorKind::NotConnected);

impl<P: Read + ReadReady + Write> JointBus for DynamixelBus<P> {
    fn states(&self) -> &[JointState] {
        &self.states
    }

    fn has_feedback(&self) -> bool {
        true
    }

    fn read(&mut self, until_us: u64, clock: Clock<'_>) -> Result<bool, BusError> {
        self.read_all(until_us, clock)
    }

    fn write(&mut self, commands: &[JointCommand]) -> Result<(), BusError> {
        let Self { line, servos, states } = self;
        let line = line.as_mut().ok_or(CLOSED)?;
        let goals = || {
            let commands = commands.iter().copied().chain(core::iter::repeat(JointCommand::default()));
            servos
                .iter()
                .zip(states.iter())
                .zip(commands)
                .map(|((servo, state), command)| (servo, servo_goal(servo, state, &command)))
        };
        // Limits first: a goal that is lost stands with the new limit, never a limit too high with a new goal.
        for register in [GOAL_CURRENT, GOAL_PWM] {
            let group = || goals().filter(|(servo, _)| servo.model.goal() == register);
            if group().next().is_some() {
                line.send(&sync_write(
                    register,
                    group().map(|(servo, (limit, _))| (servo.joint.id, limit.to_le_bytes())),
                ))?;
            }
        }
        let positions = || goals().filter_map(|(servo, (_, position))| Some((servo.joint.id, position?)));
        if positions().next().is_some() {
            let bytes = positions().map(|(id, position)| (id, position.to_le_bytes()));
            line.send(&sync_write(GOAL_POSITION, bytes))?;
        }
        Ok(())
    }

    fn torque(&mut self, on: bool, clock: Clock<'_>) -> Result<(), BusError> {
        if on {
            // No step at the first moment: the goal is where the joint is, its torque nothing.
            if let Some((servo, _)) =
                self.servos.iter().zip(&self.states).find(|(_, state)| state.at_us.is_none())
            {
                return Err(BusError::Unknown { id: servo.joint.id });
            }
            self.write(&[])?;
        } else {
            self.release();
        }
        let mut failed = Ok(());
        for index in 0..self.servos.len() {
            let Some(id) = self.servos.get(index).map(|servo| servo.joint.id) else { break };
            let wanted = u32::from(on);
            if on {
                self.put(id, TORQUE_ENABLE, wanted, clock)?;
            }
            match self.get(id, TORQUE_ENABLE, clock) {
                Ok(found) if found == wanted => {}
                Err(BusError::Port(kind)) => return Err(BusError::Port(kind)),
                // The others are to be switched off all the same.
                _ if on => return Err(BusError::Torque { id, on }),
                _ => failed = Err(BusError::Torque { id, on }),
            }
        }
        failed
    }

    fn counters(&self) -> Counters {
        self.line.as_ref().map_or_else(Counters::default, |line| line.counters)
    }

    fn wire_us(&self) -> u32 {
        let n = self.servos.len() as u32;
        // Sync Read and its answers, then two Sync Writes of 2 and 4 bytes a joint.
        let bytes = (REQUEST + n) + ANSWER * n + (REQUEST + 3 * n) + (REQUEST + 5 * n);
        self.line.as_ref().map_or(0, |line| line.timing.wire_us(bytes))
    }

    fn when_silent(&self) -> &'static str {
        "each servo's bus watchdog stops it; it then holds its place with torque on (e-manual, Bus Watchdog)"
    }
}

impl<P: Read + ReadReady + Write> Drop for DynamixelBus<P> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Different ids that a single servo can have.
pub(crate) fn check_ids(ids: impl Iterator<Item = u8> + Clone) -> Result<(), BusError> {
    let count = ids.clone().count();
    let twice = |(index, id): (usize, u8)| ids.clone().skip(index + 1).any(|other| other == id);
    let bad = ids.clone().any(|id| !(1..=252).contains(&id)) || ids.clone().enumerate().any(twice);
    if bad || !(1..=MAX_JOINTS).contains(&count) { Err(BusError::Joints) } else { Ok(()) }
}

/// One request and the answer of `id`, tried `attempts` times.
fn exchange<P: Read + ReadReady + Write>(
    line: &mut Line<P>,
    id: u8,
    instruction: u8,
    parameters: &[u8],
    attempts: u32,
    clock: Clock<'_>,
) -> Result<Option<Status>, BusError> {
    let bytes = request(id, instruction, parameters.iter().copied());
    // A late answer to the request before has another length, or is a refusal of that.
    let length = match (instruction, parameters) {
        (instruction::PING, _) => 3,
        (instruction::READ, [_, _, low, high]) => usize::from(u16::from_le_bytes([*low, *high])),
        _ => 0,
    };
    let fits = |status: &Status| status.parameters.len() == length || status.error & !ALERT != 0;
    let mut answer = None;
    for attempt in 0..attempts {
        line.counters.retries = line.counters.retries.wrapping_add(u32::from(attempt > 0));
        let until_us = clock().saturating_add(SETUP_US);
        line.ask(&bytes, until_us, clock, |packet, counters| {
            answer = Status::read(packet).filter(|status| status.id == id && fits(status));
            counters.strays = counters.strays.wrapping_add(u32::from(answer.is_none()));
            answer.is_some()
        })?;
        if answer.is_some() {
            break;
        }
    }
    Ok(answer)
}

fn range(register: Register) -> [u8; 4] {
    let ([a, b], [c, d]) = (register.address.to_le_bytes(), register.length.to_le_bytes());
    [a, b, c, d]
}

fn sync_write<const N: usize>(register: Register, values: impl Iterator<Item = (u8, [u8; N])>) -> Request {
    let values = values.flat_map(|(id, bytes)| core::iter::once(id).chain(bytes));
    request(BROADCAST, instruction::SYNC_WRITE, range(register).into_iter().chain(values))
}

/// Limit register and goal position. `None`: the servo takes no position in this mode.
fn servo_goal(servo: &Servo, state: &JointState, command: &JointCommand) -> (i16, Option<i32>) {
    let bounded = |torque: f32| {
        let counts = servo.model.counts(torque);
        tendon_runtime::math::clip(counts, -servo.most, servo.most) as i16
    };
    if servo.joint.follow == Follow::Current {
        let torque = if state.at_us.is_some() { servo_torque(command, state) } else { 0.0 };
        return (bounded(servo.joint.calibration.sign() * torque), None);
    }
    let here = crate::Goal { position: state.position, limit: 0.0 };
    let told = goal(command, state).unwrap_or(here);
    let position = servo.joint.calibration.servo(told.position).filter(|_| state.at_us.is_some());
    let [low, high] = servo.counts;
    let counts = position.map(|angle| tendon_runtime::math::clip(angle * (COUNTS / TAU), low, high) as i32);
    (bounded(told.limit), counts)
}

fn take_present(
    packet: &[u8],
    servos: &mut [Servo],
    states: &mut [JointState],
    now_us: u64,
    counters: &mut Counters,
    left: &mut usize,
) {
    let stray = |counters: &mut Counters| counters.strays = counters.strays.wrapping_add(1);
    let Some(Status { id, error, parameters }) = Status::read(packet) else { return stray(counters) };
    let found = servos.iter_mut().zip(states).find(|(servo, _)| servo.joint.id == id && !servo.fresh);
    let Some((servo, state)) = found else { return stray(counters) };
    servo.alert = error & ALERT != 0;
    if error & !ALERT != 0 {
        counters.refusals = counters.refusals.wrapping_add(1);
        return;
    }
    let Some(reading) = present(servo.model, &parameters) else { return stray(counters) };
    let fastest = servo.model.no_load_speed * FASTER;
    if servo.track.take(state, &servo.joint.calibration, reading, fastest, now_us, counters) {
        servo.fresh = true;
        *left = left.saturating_sub(1);
    }
}

fn present(model: &Model, parameters: &Parameters) -> Option<Reading> {
    let &[c0, c1, v0, v1, v2, v3, p0, p1, p2, p3] = parameters.as_slice() else { return None };
    Some(Reading {
        angle: i32::from_le_bytes([p0, p1, p2, p3]) as f32 * (TAU / COUNTS),
        velocity: i32::from_le_bytes([v0, v1, v2, v3]) as f32 * VELOCITY_UNIT,
        effort: model.torque(i16::from_le_bytes([c0, c1])),
    })
}

/// Bits of Hardware Error Status.
fn faults(bits: u8) -> Faults {
    const MEANING: [(u8, u8); 5] = [
        (1, Faults::VOLTAGE),
        (1 << 2, Faults::OVERHEAT),
        (1 << 3, Faults::SENSOR),
        (1 << 4, Faults::CURRENT),
        (1 << 5, Faults::OVERLOAD),
    ];
    Faults(MEANING.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |all, (_, fault)| all | fault))
}
