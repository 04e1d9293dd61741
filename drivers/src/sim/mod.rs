//! Servos as bytes: registers, answers, delays and faults of a serial bus, in front of a simulated robot.
//!
//! Written against the manuals and apart from the drivers (its own parser and CRC), so that a mistake in one does not
//! hide in the other. Time is an argument. Serves tests through [`SimPort`] (simulated time) and `tendon run --bus sim`
//! through a pseudo-terminal.

mod dynamixel;
mod feetech;
mod port;
mod robot;

pub use port::{SimPort, World};
pub use robot::{Bench, Robot};

use crate::{Calibration, JointCommand};
use std::boxed::Box;
use std::collections::VecDeque;
use std::vec::Vec;

/// Which servos hang on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Dynamixel X series, Protocol 2.0.
    Dynamixel,
    /// Feetech STS.
    Feetech,
}

/// What the line does to bytes, each a probability per byte, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// A byte is lost.
    pub drop: f64,
    /// One bit of it changes.
    pub flip: f64,
    /// A random byte comes before it.
    pub insert: f64,
}

/// What is wrong with a servo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Never answers and gives no torque.
    pub dead: bool,
    /// Answers under another id than it listens to.
    pub answers_as: Option<u8>,
    /// Hardware error: overload. It takes its own torque away.
    pub overload: bool,
    /// Delay of its answers beyond what its registers say, us.
    pub delay_us: u32,
}

/// How a simulated servo is built and mounted.
#[derive(Clone, Copy, Debug)]
pub struct Mount {
    /// Id on the bus.
    pub id: u8,
    /// Model number that it reports.
    pub model: u16,
    /// Where its zero is and which way it turns: the truth, which a calibration file may miss.
    pub calibration: Calibration,
    /// Gains of its own position control, N m/rad and N m s/rad.
    pub gains: [f32; 2],
}

/// One servo.
#[derive(Clone, Debug)]
pub struct Servo {
    /// How it is mounted.
    pub mount: Mount,
    /// What is wrong with it.
    pub behaviour: Behaviour,
    registers: [u8; 256],
    heard_us: u64,
    /// Where it stands since its watchdog ran out, rad at the servo.
    stopped_at: Option<f32>,
}

impl Servo {
    /// Whether its torque is on.
    #[must_use]
    pub fn torque_on(&self, protocol: Protocol) -> bool {
        let address = match protocol {
            Protocol::Dynamixel => dynamixel::TORQUE_ENABLE,
            Protocol::Feetech => feetech::TORQUE_ENABLE,
        };
        self.registers[address] != 0
    }

    /// Whether its bus watchdog ran out and it holds its place.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped_at.is_some()
    }

    fn number(&self, address: usize, length: usize) -> i64 {
        let raw =
            self.registers[address..address + length].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        raw as i64
    }

    fn set(&mut self, address: usize, length: usize, value: i64) {
        self.registers[address..address + length].copy_from_slice(&value.to_le_bytes()[..length]);
    }
}

/// Longest time between two bytes of one request, us.
const GAP_US: u64 = 10_000;
/// Step of the robot, us.
const STEP_US: u64 = 500;

/// A bus with its servos and the robot that they move.
pub struct Bus {
    protocol: Protocol,
    /// Servos, in the robot's order of joints.
    pub servos: Vec<Servo>,
    /// What the servos move.
    pub robot: Box<dyn Robot>,
    /// What the line does to bytes.
    pub noise: Noise,
    /// Whether the adapter gives back what it is sent.
    pub echo: bool,
    /// Requests understood so far.
    pub understood: u64,
    rng: fastrand::Rng,
    baud: u32,
    incoming: Vec<u8>,
    incoming_us: u64,
    outgoing: VecDeque<(u64, u8)>,
    stepped_us: Option<u64>,
    /// Measured at the last step: position, velocity, effort, joint side.
    joints: Vec<[f32; 3]>,
}

/// A request that the servos understood.
struct Request {
    id: u8,
    instruction: u8,
    parameters: Vec<u8>,
    length: usize,
}

/// What the front of the received bytes is.
enum Parsed {
    More,
    Skip,
    Request(Request),
}

impl Bus {
    /// A quiet bus at `baud` bits per second.
    #[must_use]
    pub fn new(protocol: Protocol, mounts: &[Mount], robot: Box<dyn Robot>, baud: u32, seed: u64) -> Self {
        let fresh = |mount: &Mount| {
            let mut servo = Servo {
                mount: *mount,
                behaviour: Behaviour::default(),
                registers: [0; 256],
                heard_us: 0,
                stopped_at: None,
            };
            match protocol {
                Protocol::Dynamixel => dynamixel::factory(&mut servo),
                Protocol::Feetech => feetech::factory(&mut servo),
            }
            servo
        };
        let mut bus = Self {
            protocol,
            servos: mounts.iter().map(fresh).collect(),
            joints: (0..mounts.len()).map(|index| robot.joint(index)).collect(),
            robot,
            noise: Noise::default(),
            echo: false,
            understood: 0,
            rng: fastrand::Rng::with_seed(seed),
            baud,
            incoming: Vec::new(),
            incoming_us: 0,
            outgoing: VecDeque::new(),
            stepped_us: None,
        };
        bus.measure();
        bus
    }

    /// Which servos these are.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Bytes from the host.
    pub fn receive(&mut self, now_us: u64, bytes: &[u8]) {
        self.advance(now_us);
        if now_us.saturating_sub(self.incoming_us) > GAP_US {
            self.incoming.clear();
        }
        self.incoming_us = now_us;
        if self.echo {
            for (index, &byte) in bytes.iter().enumerate() {
                self.outgoing.push_back((now_us + self.wire_us(index + 1), byte));
            }
        }
        for &byte in bytes {
            let damaged = self.damage(byte);
            self.incoming.extend(damaged);
        }
        let arrived_us = now_us + self.wire_us(bytes.len());
        loop {
            let parsed = match self.protocol {
                Protocol::Dynamixel => dynamixel::parse(&self.incoming),
                Protocol::Feetech => feetech::parse(&self.incoming),
            };
            match parsed {
                Parsed::More => break,
                Parsed::Skip => {
                    self.incoming.remove(0);
                }
                Parsed::Request(request) => {
                    self.incoming.drain(..request.length);
                    self.understood += 1;
                    self.serve(arrived_us, &request);
                }
            }
        }
    }

    /// Bytes that have reached the host by now.
    pub fn transmit(&mut self, now_us: u64) -> Vec<u8> {
        self.advance(now_us);
        let due = self.outgoing.iter().take_while(|(at, _)| *at <= now_us).count();
        self.outgoing.drain(..due).map(|(_, byte)| byte).collect()
    }

    /// When the next byte reaches the host.
    #[must_use]
    pub fn next_byte_us(&self) -> Option<u64> {
        self.outgoing.front().map(|(at, _)| *at)
    }

    /// Moves robot and watchdogs on to `now_us`.
    pub fn advance(&mut self, now_us: u64) {
        let mut at = self.stepped_us.unwrap_or(now_us);
        while at + STEP_US <= now_us {
            at += STEP_US;
            if self.protocol == Protocol::Dynamixel {
                self.servos.iter_mut().for_each(|servo| dynamixel::watch(servo, at));
            }
            let drives: Vec<JointCommand> = self.servos.iter().map(|servo| self.drive(servo)).collect();
            self.robot.step(&drives, STEP_US as f32 * 1e-6);
            self.measure();
        }
        self.stepped_us = Some(at);
    }

    fn measure(&mut self) {
        for (index, (servo, joint)) in self.servos.iter_mut().zip(&mut self.joints).enumerate() {
            *joint = self.robot.joint(index);
            match self.protocol {
                Protocol::Dynamixel => dynamixel::present(servo, *joint),
                Protocol::Feetech => feetech::present(servo, *joint),
            }
        }
    }

    /// What the servo does, as a command in joint space.
    fn drive(&self, servo: &Servo) -> JointCommand {
        if servo.behaviour.dead || servo.behaviour.overload || !servo.torque_on(self.protocol) {
            return JointCommand::default();
        }
        match self.protocol {
            Protocol::Dynamixel => dynamixel::drive(servo),
            Protocol::Feetech => feetech::drive(servo),
        }
    }

    fn serve(&mut self, now_us: u64, request: &Request) {
        self.servos.iter_mut().for_each(|servo| servo.heard_us = now_us);
        let answers = match self.protocol {
            Protocol::Dynamixel => dynamixel::serve(&mut self.servos, request),
            Protocol::Feetech => feetech::serve(&mut self.servos, request),
        };
        // One after the other on one wire.
        let mut at = now_us.max(self.outgoing.back().map_or(0, |(at, _)| *at));
        for (delay_us, packet) in answers {
            at += u64::from(delay_us);
            for (index, &byte) in packet.iter().enumerate() {
                let due = at + self.wire_us(index + 1);
                for byte in self.damage(byte) {
                    self.outgoing.push_back((due, byte));
                }
            }
            at += self.wire_us(packet.len());
        }
    }

    fn damage(&mut self, byte: u8) -> Vec<u8> {
        let Noise { drop, flip, insert } = self.noise;
        let mut out = Vec::with_capacity(1);
        if insert > 0.0 && self.rng.f64() < insert {
            out.push(self.rng.u8(..));
        }
        if !(drop > 0.0 && self.rng.f64() < drop) {
            let wrong = flip > 0.0 && self.rng.f64() < flip;
            out.push(if wrong { byte ^ 1 << self.rng.u32(0..8) } else { byte });
        }
        out
    }

    fn wire_us(&self, bytes: usize) -> u64 {
        bytes as u64 * 10_000_000 / u64::from(self.baud)
    }
}

impl core::fmt::Debug for Bus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Bus")
            .field("protocol", &self.protocol)
            .field("servos", &self.servos.len())
            .finish_non_exhaustive()
    }
}
