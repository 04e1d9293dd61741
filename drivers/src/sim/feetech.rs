//! An STS3215: memory table, answers. It has no watchdog.

use super::{Parsed, Request, Servo};
use crate::JointCommand;
use crate::feetech::MODELS;
use core::f32::consts::TAU;
use std::vec;
use std::vec::Vec;

pub(super) const TORQUE_ENABLE: usize = 40;
const MODEL_NUMBER: usize = 3;
const ID: usize = 5;
const RETURN_DELAY: usize = 7;
const MAX_POSITION: usize = 11;
const GOAL_POSITION: usize = 42;
const TORQUE_LIMIT: usize = 48;
const LOCK: usize = 55;
const PRESENT_POSITION: usize = 56;
const PRESENT_VELOCITY: usize = 58;
const PRESENT_LOAD: usize = 60;
const VOLTAGE: usize = 62;
const TEMPERATURE: usize = 63;

const COUNT: f32 = TAU / 4096.0;

pub(super) fn factory(servo: &mut Servo) {
    (servo.registers[0], servo.registers[1]) = (3, 10);
    servo.set(MODEL_NUMBER, 2, servo.mount.model.into());
    servo.registers[ID] = servo.mount.id;
    servo.registers[RETURN_DELAY] = 250;
    servo.set(MAX_POSITION, 2, 4095);
    servo.set(TORQUE_LIMIT, 2, 1000);
    servo.registers[LOCK] = 1;
    (servo.registers[VOLTAGE], servo.registers[TEMPERATURE]) = (74, 30);
}

fn stall_torque() -> f32 {
    MODELS.first().map_or(0.0, |model| model.stall_torque)
}

fn signed(value: f32, bit: u32) -> i64 {
    let magnitude = (value.abs().round() as i64).min((1 << bit) - 1);
    magnitude | if value < 0.0 { 1 << bit } else { 0 }
}

pub(super) fn present(servo: &mut Servo, [position, velocity, torque]: [f32; 3]) {
    let calibration = servo.mount.calibration;
    servo.set(PRESENT_POSITION, 2, signed((calibration.zero() + calibration.sign() * position) / COUNT, 15));
    servo.set(PRESENT_VELOCITY, 2, signed(calibration.sign() * velocity / COUNT, 15));
    servo.set(PRESENT_LOAD, 2, signed(calibration.sign() * torque / stall_torque() * 1000.0, 10));
}

pub(super) fn drive(servo: &Servo) -> JointCommand {
    let goal = servo.number(GOAL_POSITION, 2) as f32 * COUNT;
    let [kp, kd] = servo.mount.gains;
    JointCommand {
        position: servo.mount.calibration.joint(goal),
        kp,
        kd,
        torque_limit: servo.number(TORQUE_LIMIT, 2) as f32 / 1000.0 * stall_torque(),
        ..JointCommand::default()
    }
}

fn write(servo: &mut Servo, address: usize, data: &[u8]) {
    let eeprom_locked = address < TORQUE_ENABLE && servo.registers[LOCK] != 0;
    if address + data.len() <= PRESENT_POSITION && !eeprom_locked {
        servo.registers[address..address + data.len()].copy_from_slice(data);
    }
}

pub(super) fn serve(servos: &mut [Servo], request: &Request) -> Vec<(u32, Vec<u8>)> {
    let alive = |servo: &&mut Servo| !servo.behaviour.dead;
    let p = &request.parameters;
    if let (0x82 | 0x83, [address, length, rest @ ..]) = (request.instruction, p.as_slice()) {
        let (address, length) = (usize::from(*address), usize::from(*length));
        let mut answers = Vec::new();
        if request.instruction == 0x82 {
            for &id in rest {
                let Some(servo) = servos.iter_mut().filter(alive).find(|s| s.mount.id == id) else { break };
                answers.push(read(servo, address, length));
            }
        } else {
            for entry in rest.chunks_exact(length + 1) {
                if let Some(servo) = servos.iter_mut().filter(alive).find(|s| s.mount.id == entry[0]) {
                    write(servo, address, &entry[1..]);
                }
            }
        }
        return answers;
    }
    let Some(servo) = servos.iter_mut().filter(alive).find(|s| s.mount.id == request.id) else {
        return Vec::new();
    };
    let answer = match (request.instruction, p.as_slice()) {
        (2, [address, length]) => read(servo, (*address).into(), (*length).into()),
        (3, [address, data @ ..]) => {
            write(servo, (*address).into(), data);
            answer(servo, &[])
        }
        _ => answer(servo, &[]),
    };
    vec![answer]
}

fn read(servo: &Servo, address: usize, length: usize) -> (u32, Vec<u8>) {
    answer(servo, servo.registers.get(address..address + length).unwrap_or(&[]))
}

fn answer(servo: &Servo, data: &[u8]) -> (u32, Vec<u8>) {
    let id = servo.behaviour.answers_as.unwrap_or(servo.mount.id);
    let error = u8::from(servo.behaviour.overload) << 5;
    let mut packet = vec![0xFF, 0xFF, id, data.len() as u8 + 2, error];
    packet.extend_from_slice(data);
    let sum: u32 = packet[2..].iter().map(|&byte| u32::from(byte)).sum();
    packet.push(!(sum as u8));
    (u32::from(servo.registers[RETURN_DELAY]) * 2 + servo.behaviour.delay_us, packet)
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    match bytes {
        [] | [0xFF] => Parsed::More,
        [0xFF, 0xFF, 0xFF, ..] => Parsed::Skip,
        [0xFF, 0xFF] | [0xFF, 0xFF, _] => Parsed::More,
        [0xFF, 0xFF, id, length, ..] => {
            let total = 4 + usize::from(*length);
            let Some(packet) = bytes.get(..total) else { return Parsed::More };
            let sum: u32 = packet[2..].iter().map(|&byte| u32::from(byte)).sum();
            // Everything with its complement sums to 255.
            if *length < 2 || sum as u8 != 0xFF {
                return Parsed::Skip;
            }
            let parameters = packet[5..total - 1].to_vec();
            Parsed::Request(Request { id: *id, instruction: packet[4], parameters, length: total })
        }
        _ => Parsed::Skip,
    }
}
