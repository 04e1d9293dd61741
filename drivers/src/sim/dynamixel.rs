//! An X-series servo: control table, access rules, watchdog, answers.

use super::{Parsed, Request, Servo};
use crate::JointCommand;
use crate::dynamixel::{Limit, Model};
use core::f32::consts::TAU;
use std::vec;
use std::vec::Vec;

pub(super) const TORQUE_ENABLE: usize = 64;
const MODEL_NUMBER: usize = 0;
const FIRMWARE: usize = 6;
const ID: usize = 7;
const RETURN_DELAY: usize = 9;
const OPERATING_MODE: usize = 11;
const PWM_LIMIT: usize = 36;
const CURRENT_LIMIT: usize = 38;
const MAX_POSITION: usize = 48;
const MIN_POSITION: usize = 52;
const HARDWARE_ERROR: usize = 70;
const WATCHDOG: usize = 98;
const GOAL_PWM: usize = 100;
const GOAL_CURRENT: usize = 102;
const GOAL_VELOCITY: usize = 104;
const GOAL_POSITION: usize = 116;
const PRESENT_CURRENT: usize = 126;
const PRESENT_VELOCITY: usize = 128;
const PRESENT_POSITION: usize = 132;
const VOLTAGE: usize = 144;
const TEMPERATURE: usize = 146;

/// Error numbers of the protocol.
const INSTRUCTION: u8 = 2;
const RANGE: u8 = 4;
const LIMIT: u8 = 6;
const ACCESS: u8 = 7;
const ALERT: u8 = 0x80;

const COUNT: f32 = TAU / 4096.0;
const TRIPPED: u8 = 0xFF;

fn model(servo: &Servo) -> Option<&'static Model> {
    Model::find(servo.mount.model)
}

pub(super) fn factory(servo: &mut Servo) {
    servo.set(MODEL_NUMBER, 2, servo.mount.model.into());
    servo.registers[FIRMWARE] = 52;
    servo.registers[ID] = servo.mount.id;
    servo.registers[RETURN_DELAY] = 250;
    servo.registers[OPERATING_MODE] = 3;
    servo.set(PWM_LIMIT, 2, 885);
    servo.set(CURRENT_LIMIT, 2, 1193);
    servo.set(MAX_POSITION, 4, 4095);
    servo.set(GOAL_PWM, 2, 885);
    servo.set(GOAL_CURRENT, 2, 1193);
    servo.set(VOLTAGE, 2, 120);
    servo.registers[TEMPERATURE] = 31;
}

/// Measurements into the table.
pub(super) fn present(servo: &mut Servo, [position, velocity, torque]: [f32; 3]) {
    let calibration = servo.mount.calibration;
    // Encoders read beyond the range that commands are clipped to.
    let angle = calibration.zero() + calibration.sign() * position;
    servo.set(PRESENT_POSITION, 4, (angle / COUNT).round() as i64);
    let rpm = calibration.sign() * velocity * 60.0 / TAU;
    servo.set(PRESENT_VELOCITY, 4, (rpm / 0.229).round() as i64);
    let torque = calibration.sign() * torque;
    let effort = match model(servo).map(|model| model.limit) {
        Some(Limit::Current { unit_a, torque_per_a }) => torque / torque_per_a / unit_a,
        Some(Limit::Pwm { stall_torque }) => torque / stall_torque * 1000.0,
        None => 0.0,
    };
    servo.set(PRESENT_CURRENT, 2, effort.round() as i64);
    servo.registers[HARDWARE_ERROR] = u8::from(servo.behaviour.overload) << 5;
}

/// The bus watchdog: silence while torque is on stops the servo where it is.
pub(super) fn watch(servo: &mut Servo, now_us: u64) {
    let steps = servo.registers[WATCHDOG];
    let silent_us = now_us.saturating_sub(servo.heard_us);
    if servo.registers[TORQUE_ENABLE] != 0
        && (1..=127).contains(&steps)
        && silent_us > u64::from(steps) * 20_000
    {
        servo.registers[WATCHDOG] = TRIPPED;
        servo.stopped_at = Some(servo.number(PRESENT_POSITION, 4) as i32 as f32 * COUNT);
    }
}

pub(super) fn drive(servo: &Servo) -> JointCommand {
    let Some(model) = model(servo) else { return JointCommand::default() };
    let sign = servo.mount.calibration.sign();
    let (limit, signed) = match model.limit {
        Limit::Current { unit_a, torque_per_a } => {
            let torque = servo.number(GOAL_CURRENT, 2) as i16 as f32 * unit_a * torque_per_a;
            (torque.abs(), torque)
        }
        Limit::Pwm { stall_torque } => {
            let torque = servo.number(GOAL_PWM, 2) as i16 as f32 / 885.0 * stall_torque;
            (torque.abs(), torque)
        }
    };
    if servo.registers[OPERATING_MODE] == 0 {
        let torque = if servo.stopped_at.is_some() { 0.0 } else { sign * signed };
        return JointCommand { torque, torque_limit: limit, ..JointCommand::default() };
    }
    let goal = servo.stopped_at.unwrap_or(servo.number(GOAL_POSITION, 4) as i32 as f32 * COUNT);
    let [kp, kd] = servo.mount.gains;
    JointCommand {
        position: servo.mount.calibration.joint(goal),
        kp,
        kd,
        torque_limit: limit,
        ..JointCommand::default()
    }
}

/// Access rules of the control table. 0: done.
fn write(servo: &mut Servo, address: usize, data: &[u8]) -> u8 {
    let end = address + data.len();
    let value = data.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b)) as i64;
    let touches = |register: usize| (address..end).contains(&register);
    let read_only = end > 120 || address < ID || [HARDWARE_ERROR].into_iter().any(touches);
    let torque = servo.registers[TORQUE_ENABLE] != 0;
    let no_current = !matches!(model(servo).map(|m| m.limit), Some(Limit::Current { .. }));
    if read_only || (address < TORQUE_ENABLE && torque) || (touches(GOAL_CURRENT) && no_current) {
        return ACCESS;
    }
    let goals = [GOAL_PWM, GOAL_CURRENT, GOAL_VELOCITY, GOAL_POSITION];
    if goals.into_iter().any(touches) && servo.registers[WATCHDOG] == TRIPPED {
        return RANGE;
    }
    let bounds = match (address, data.len()) {
        (TORQUE_ENABLE, 1) => 0..=1,
        (WATCHDOG, 1) => 0..=127,
        (GOAL_PWM, 2) => -servo.number(PWM_LIMIT, 2)..=servo.number(PWM_LIMIT, 2),
        (GOAL_CURRENT, 2) => -servo.number(CURRENT_LIMIT, 2)..=servo.number(CURRENT_LIMIT, 2),
        (GOAL_POSITION, 4) => servo.number(MIN_POSITION, 4)..=servo.number(MAX_POSITION, 4),
        _ => i64::MIN..=i64::MAX,
    };
    let signed = match data.len() {
        2 => i64::from(value as i16),
        4 => i64::from(value as i32),
        _ => value,
    };
    if !bounds.contains(&signed) {
        return LIMIT;
    }
    if address == WATCHDOG {
        servo.stopped_at = None;
    }
    if address == TORQUE_ENABLE && value == 1 && !torque {
        let here = servo.number(PRESENT_POSITION, 4);
        servo.set(GOAL_POSITION, 4, here);
    }
    servo.registers[address..end].copy_from_slice(data);
    0
}

/// Answers in the order of the wire, each with its delay, us.
pub(super) fn serve(servos: &mut [Servo], request: &Request) -> Vec<(u32, Vec<u8>)> {
    let word = |at: usize| {
        let p = &request.parameters;
        Some(usize::from(u16::from_le_bytes([*p.get(at)?, *p.get(at + 1)?])))
    };
    let alive = |servo: &&mut Servo| !servo.behaviour.dead;
    if let (0x82 | 0x83, Some(address), Some(length)) = (request.instruction, word(0), word(2)) {
        let rest = &request.parameters[4..];
        let mut answers = Vec::new();
        if request.instruction == 0x82 {
            for &id in rest {
                // Each waits for the one before it; a missing one keeps the others silent.
                let Some(servo) = servos.iter_mut().filter(alive).find(|s| s.mount.id == id) else { break };
                answers.push(read(servo, address, length));
            }
        } else {
            for entry in rest.chunks_exact(length + 1) {
                let servo = servos.iter_mut().filter(alive).find(|s| s.mount.id == entry[0]);
                if let Some(servo) = servo.filter(|_| address + length <= 256) {
                    let _ = write(servo, address, &entry[1..]);
                }
            }
        }
        return answers;
    }
    let Some(servo) = servos.iter_mut().filter(alive).find(|s| s.mount.id == request.id) else {
        return Vec::new();
    };
    let answer = match (request.instruction, word(0), word(2)) {
        (1, _, _) => {
            let r = servo.registers;
            answer(servo, 0, &[r[MODEL_NUMBER], r[MODEL_NUMBER + 1], r[FIRMWARE]])
        }
        (2, Some(address), Some(length)) => read(servo, address, length),
        (3, Some(address), _) if address + request.parameters.len() - 2 <= 256 => {
            let error = write(servo, address, &request.parameters[2..]);
            answer(servo, error, &[])
        }
        _ => answer(servo, INSTRUCTION, &[]),
    };
    vec![answer]
}

fn read(servo: &Servo, address: usize, length: usize) -> (u32, Vec<u8>) {
    match servo.registers.get(address..address + length) {
        Some(data) => answer(servo, 0, data),
        None => answer(servo, ACCESS, &[]),
    }
}

fn answer(servo: &Servo, error: u8, data: &[u8]) -> (u32, Vec<u8>) {
    let alert = if servo.registers[HARDWARE_ERROR] != 0 { ALERT } else { 0 };
    let id = servo.behaviour.answers_as.unwrap_or(servo.mount.id);
    let mut body = vec![0x55, error | alert];
    body.extend_from_slice(data);
    let mut stuffed = Vec::new();
    for byte in body {
        stuffed.push(byte);
        if stuffed.ends_with(&[0xFF, 0xFF, 0xFD]) {
            stuffed.push(0xFD);
        }
    }
    let mut packet = vec![0xFF, 0xFF, 0xFD, 0, id];
    packet.extend_from_slice(&(stuffed.len() as u16 + 2).to_le_bytes());
    packet.extend_from_slice(&stuffed);
    packet.extend_from_slice(&crc(&packet).to_le_bytes());
    (u32::from(servo.registers[RETURN_DELAY]) * 2 + servo.behaviour.delay_us, packet)
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    const HEADER: [u8; 4] = [0xFF, 0xFF, 0xFD, 0];
    let begin = bytes.len().min(4);
    if begin == 0 {
        return Parsed::More;
    }
    if bytes[..begin] != HEADER[..begin] {
        return Parsed::Skip;
    }
    if bytes.len() < 10 {
        return Parsed::More;
    }
    let total = 7 + usize::from(u16::from_le_bytes([bytes[5], bytes[6]]));
    if !(10..=1024).contains(&total) {
        return Parsed::Skip;
    }
    let Some(packet) = bytes.get(..total) else { return Parsed::More };
    if crc(&packet[..total - 2]).to_le_bytes() != packet[total - 2..] {
        return Parsed::Skip;
    }
    let mut parameters: Vec<u8> = Vec::new();
    let mut at = 8;
    while at < total - 2 {
        parameters.push(packet[at]);
        let stuffed = parameters.ends_with(&[0xFF, 0xFF, 0xFD]) && packet[at + 1] == 0xFD;
        at += 1 + usize::from(stuffed);
    }
    Parsed::Request(Request { id: bytes[4], instruction: bytes[7], parameters, length: total })
}

fn crc(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    for &byte in bytes {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x8005 };
        }
    }
    crc
}
