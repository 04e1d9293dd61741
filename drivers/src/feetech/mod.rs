//! Feetech STS3215 and relatives.
//!
//! One tick: one Sync Read of position, velocity and load of all joints, a Read of each that was not heard, one
//! Sync Write of goal and torque limit. The servo's own position control acts ([`crate::goal`]); it measures no torque,
//! so efforts are load times stall torque. It has **no bus watchdog**: a servo whose program was killed keeps
//! its last goal with torque on.

mod packet;
mod table;

pub use table::{MODELS, Model};

use crate::dynamixel::check_ids;
use crate::line::Line;
use crate::servo::goal;
use crate::track::{Reading, Track};
use crate::{
    BusError, Calibration, Clock, Counters, Faults, JointBus, JointCommand, JointState, MAX_JOINTS, Timing,
};
use embedded_io::{Read, ReadReady, Write};
use packet::{BROADCAST, MOST, instruction, look, request, status};
use table::*;

/// Bytes of one answer to the Sync Read, and of a request with address and length but without ids.
const ANSWER: u32 = 12;
const REQUEST: u32 = 8;
const FASTER: f32 = 1.5;
/// Joints of one Sync Write: its length is a byte.
const PER_WRITE: usize = (MOST - 4) / (GOAL.1 as usize + 1);
/// Time for one answer while setting up: servos write EEPROM then.
const SETUP_US: u64 = 50_000;
const ATTEMPTS: u32 = 4;

/// One joint of the robot.
#[derive(Clone, Copy, Debug)]
pub struct Joint {
    /// Id on the bus.
    pub id: u8,
    /// Mounting.
    pub calibration: Calibration,
    /// Model: the servo cannot tell its voltage version.
    pub model: &'static Model,
}

#[derive(Clone, Copy, Debug)]
struct Servo {
    joint: Joint,
    counts: [f32; 2],
    track: Track,
    fresh: bool,
}

pub use crate::dynamixel::{Found, Health};

/// STS servos on one line, joints in the robot's order.
#[derive(Debug)]
pub struct FeetechBus<P: Read + ReadReady + Write> {
    /// `None` after [`Self::close`].
    line: Option<Line<P>>,
    servos: heapless::Vec<Servo, MAX_JOINTS>,
    states: heapless::Vec<JointState, MAX_JOINTS>,
}

/// Parameters of an answer, and its error bits.
type Answer = (heapless::Vec<u8, 16>, u8);

impl<P: Read + ReadReady + Write> FeetechBus<P> {
    /// Servos that answer, ascending. `ids`: those to try.
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
            if exchange(&mut line, id, instruction::PING, &[], 0, 2, clock)?.is_none() {
                continue;
            }
            let mut number = |(address, length): (u8, u8)| -> Result<u16, BusError> {
                let read = exchange(
                    &mut line,
                    id,
                    instruction::READ,
                    &[address, length],
                    length.into(),
                    ATTEMPTS,
                    clock,
                )?;
                Ok(read.map_or(0, |(bytes, _)| little(&bytes) as u16))
            };
            let (model, firmware) = (number(MODEL_NUMBER)?, number(FIRMWARE)? as u8);
            found(Found { id, model, firmware });
        }
        Ok(line.into_port())
    }

    /// Takes the line: every joint has to answer with its model. Torque off, position mode and return delay set.
    ///
    /// # Errors
    /// The first servo that does not answer or refuses.
    pub fn open(port: P, timing: Timing, joints: &[Joint], clock: Clock<'_>) -> Result<Self, BusError> {
        check_ids(joints.iter().map(|joint| joint.id))?;
        let mut this = Self {
            line: Some(Line::new(port, timing, look)),
            servos: heapless::Vec::new(),
            states: heapless::Vec::new(),
        };
        for joint in joints {
            let servo = this.prepare(*joint, clock)?;
            let _ = this.servos.push(servo);
            let _ = this.states.push(JointState::default());
        }
        Ok(this)
    }

    fn prepare(&mut self, joint: Joint, clock: Clock<'_>) -> Result<Servo, BusError> {
        let id = joint.id;
        let found = self.get(id, MODEL_NUMBER, clock)? as u16;
        if found != joint.model.number {
            return Err(BusError::Model { id, found });
        }
        self.put(id, TORQUE_ENABLE, 0, clock)?;
        for (register, value) in [(OPERATING_MODE, 0u16), (RETURN_DELAY, 0)] {
            // EEPROM wears: written only when it differs, and unlocked only for that.
            if self.get(id, register, clock)? != u32::from(value) {
                self.put(id, LOCK, 0, clock)?;
                self.put(id, register, value, clock)?;
                self.put(id, LOCK, 1, clock)?;
            }
        }
        let low = self.get(id, MIN_POSITION_LIMIT, clock)? as f32;
        let high = self.get(id, MAX_POSITION_LIMIT, clock)? as f32;
        Ok(Servo { joint, counts: [low, high], track: Track::default(), fresh: false })
    }

    /// Supply voltage and temperature of joint `index`; `None` when it was not heard.
    ///
    /// # Errors
    /// The port.
    pub fn health(&mut self, index: usize, clock: Clock<'_>) -> Result<Option<Health>, BusError> {
        let Some(id) = self.servos.get(index).map(|servo| servo.joint.id) else { return Ok(None) };
        match self.get(id, VOLTAGE_TEMPERATURE, clock) {
            Ok(both) => {
                let [volt, temperature, ..] = both.to_le_bytes();
                Ok(Some(Health { voltage: f32::from(volt) * 0.1, temperature: temperature.into() }))
            }
            Err(BusError::Port(kind)) => Err(BusError::Port(kind)),
            Err(_) => Ok(None),
        }
    }

    /// Major version of the firmware of joint `index`.
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
        let ids = self.servos.iter().flat_map(|servo| [servo.joint.id, 0]);
        let (address, length) = TORQUE_ENABLE;
        let off = request(BROADCAST, instruction::SYNC_WRITE, [address, length].into_iter().chain(ids));
        if let Some(line) = &mut self.line {
            for _ in 0..2 {
                let _ = line.send(&off);
            }
        }
    }

    fn get(&mut self, id: u8, (address, length): (u8, u8), clock: Clock<'_>) -> Result<u32, BusError> {
        let line = self.line.as_mut().ok_or(CLOSED)?;
        let parameters = [address, length];
        exchange(line, id, instruction::READ, &parameters, length.into(), ATTEMPTS, clock)?
            .map(|(bytes, _)| little(&bytes))
            .ok_or(BusError::Silent { id })
    }

    fn put(
        &mut self,
        id: u8,
        (address, length): (u8, u8),
        value: u16,
        clock: Clock<'_>,
    ) -> Result<(), BusError> {
        let line = self.line.as_mut().ok_or(CLOSED)?;
        let [low, high] = value.to_le_bytes();
        let bytes = [address, low, high];
        let parameters = bytes.get(..1 + usize::from(length)).unwrap_or(&bytes);
        exchange(line, id, instruction::WRITE, parameters, 0, ATTEMPTS, clock)?
            .map(|_| ())
            .ok_or(BusError::Silent { id })
    }
}

const CLOSED: BusError = BusError::Port(embedded_io::ErrorKind::NotConnected);

impl<P: Read + ReadReady + Write> JointBus for FeetechBus<P> {
    fn states(&self) -> &[JointState] {
        &self.states
    }

    fn has_feedback(&self) -> bool {
        true
    }

    fn read(&mut self, until_us: u64, clock: Clock<'_>) -> Result<bool, BusError> {
        let Self { line, servos, states } = self;
        let line = line.as_mut().ok_or(CLOSED)?;
        servos.iter_mut().for_each(|servo| servo.fresh = false);
        let what = [PRESENT.0, PRESENT.1];
        let ids = servos.iter().map(|servo| servo.joint.id);
        let sync = request(BROADCAST, instruction::SYNC_READ, what.into_iter().chain(ids));
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
        for index in 0..servos.len() {
            let Some(servo) = servos.get(index) else { break };
            if servo.fresh || retries == 0 || clock() >= until_us {
                continue;
            }
            retries -= 1;
            line.counters.retries = line.counters.retries.wrapping_add(1);
            let alone = request(servo.joint.id, instruction::READ, what);
            line.ask(&alone, until_us, clock, |packet, counters| {
                take_present(packet, servos, states, clock(), counters, &mut left);
                servos.get(index).is_some_and(|servo| servo.fresh)
            })?;
        }
        Ok(left == 0)
    }

    fn write(&mut self, commands: &[JointCommand]) -> Result<(), BusError> {
        let Self { line, servos, states } = self;
        let line = line.as_mut().ok_or(CLOSED)?;
        let commands = commands.iter().copied().chain(core::iter::repeat(JointCommand::default()));
        let mut goals = servos
            .iter()
            .zip(states.iter())
            .zip(commands)
            .filter_map(|((servo, state), command)| {
                let bytes = servo_goal(servo, state, &command)?;
                Some(core::iter::once(servo.joint.id).chain(bytes))
            })
            .peekable();
        while goals.peek().is_some() {
            let values = goals.by_ref().take(PER_WRITE).flatten();
            let what = [GOAL.0, GOAL.1];
            line.send(&request(BROADCAST, instruction::SYNC_WRITE, what.into_iter().chain(values)))?;
        }
        Ok(())
    }

    fn torque(&mut self, on: bool, clock: Clock<'_>) -> Result<(), BusError> {
        if on {
            if let Some((servo, _)) =
                self.servos.iter().zip(&self.states).find(|(_, state)| state.at_us.is_none())
            {
                return Err(BusError::Unknown { id: servo.joint.id });
            }
            // No step at the first moment: the goal is where the joint is, its torque nothing.
            self.write(&[])?;
        } else {
            self.release();
        }
        let mut failed = Ok(());
        for index in 0..self.servos.len() {
            let Some(id) = self.servos.get(index).map(|servo| servo.joint.id) else { break };
            if on {
                self.put(id, TORQUE_ENABLE, 1, clock)?;
            }
            match self.get(id, TORQUE_ENABLE, clock) {
                Ok(found) if found == u32::from(on) => {}
                Err(BusError::Port(kind)) => return Err(BusError::Port(kind)),
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
        let bytes = (REQUEST + n) + ANSWER * n + REQUEST + (u32::from(GOAL.1) + 1) * n;
        self.line.as_ref().map_or(0, |line| line.timing.wire_us(bytes))
    }

    fn when_silent(&self) -> &'static str {
        "nothing stops these servos: they keep their last goal with torque on until power goes away"
    }
}

impl<P: Read + ReadReady + Write> Drop for FeetechBus<P> {
    fn drop(&mut self) {
        self.release();
    }
}

/// One request and the answer of `id` with `length` parameters, tried `attempts` times.
fn exchange<P: Read + ReadReady + Write>(
    line: &mut Line<P>,
    id: u8,
    instruction: u8,
    parameters: &[u8],
    length: usize,
    attempts: u32,
    clock: Clock<'_>,
) -> Result<Option<Answer>, BusError> {
    let bytes = request(id, instruction, parameters.iter().copied());
    let mut answer = None;
    for attempt in 0..attempts {
        line.counters.retries = line.counters.retries.wrapping_add(u32::from(attempt > 0));
        let until_us = clock().saturating_add(SETUP_US);
        line.ask(&bytes, until_us, clock, |packet, counters| {
            answer = status(packet)
                .filter(|(from, _, found)| *from == id && found.len() == length)
                .and_then(|(_, error, found)| Some((heapless::Vec::from_slice(found).ok()?, error)));
            counters.strays = counters.strays.wrapping_add(u32::from(answer.is_none()));
            answer.is_some()
        })?;
        if answer.is_some() {
            break;
        }
    }
    Ok(answer)
}

fn little(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

/// Goal position, time 0, velocity 0 (the fastest), torque limit. `None`: the joint was never heard.
fn servo_goal(servo: &Servo, state: &JointState, command: &JointCommand) -> Option<[u8; 8]> {
    state.at_us?;
    let here = crate::Goal { position: state.position, limit: 0.0 };
    let told = goal(command, state).unwrap_or(here);
    let angle = servo.joint.calibration.servo(told.position)?;
    let [low, high] = servo.counts;
    let [p0, p1] = (tendon_runtime::math::clip(angle / UNIT, low, high) as u16).to_le_bytes();
    let limit = told.limit / servo.joint.model.stall_torque * WHOLE;
    let [t0, t1] = (tendon_runtime::math::clip(limit, 0.0, WHOLE) as u16).to_le_bytes();
    Some([p0, p1, 0, 0, 0, 0, t0, t1])
}

fn take_present(
    packet: &[u8],
    servos: &mut [Servo],
    states: &mut [JointState],
    now_us: u64,
    counters: &mut Counters,
    left: &mut usize,
) {
    let found = status(packet).and_then(|(id, error, parameters)| {
        let &[p0, p1, v0, v1, l0, l1] = parameters else { return None };
        let raw = [[p0, p1], [v0, v1], [l0, l1]].map(u16::from_le_bytes);
        let (servo, state) =
            servos.iter_mut().zip(states).find(|(servo, _)| servo.joint.id == id && !servo.fresh)?;
        Some((servo, state, error, raw))
    });
    let Some((servo, state, error, [position, velocity, load])) = found else {
        counters.strays = counters.strays.wrapping_add(1);
        return;
    };
    let reading = Reading {
        angle: signed(position, 15) * UNIT,
        velocity: signed(velocity, 15) * UNIT,
        effort: signed(load, 10) / WHOLE * servo.joint.model.stall_torque,
    };
    let fastest = servo.joint.model.no_load_speed * FASTER;
    if servo.track.take(state, &servo.joint.calibration, reading, fastest, now_us, counters) {
        state.faults = faults(error);
        servo.fresh = true;
        *left = left.saturating_sub(1);
    }
}

/// Bits of the error byte: the servo's state, not a refusal.
fn faults(bits: u8) -> Faults {
    const MEANING: [(u8, u8); 5] = [
        (1, Faults::VOLTAGE),
        (1 << 1, Faults::SENSOR),
        (1 << 2, Faults::OVERHEAT),
        (1 << 3, Faults::CURRENT),
        (1 << 5, Faults::OVERLOAD),
    ];
    Faults(MEANING.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |all, (_, fault)| all | fault))
}
