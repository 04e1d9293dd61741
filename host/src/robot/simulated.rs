//! A simulated robot in a process of its own: servos as bytes behind a pseudo-terminal, in real time. It stands where
//! the cable would, so everything of `tendon run` is exercised but the copper.

use super::calibration::{BusKind, CalibrationFile, JointCalibration};
use super::port::MonotonicClock;
use super::priority::{Priority, real_time_priority};
use crate::link::{Launched, LinkError, launch_program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::f32::consts::PI;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tendon_drivers::sim::{Bench, Bus, Mount, Noise, Protocol};
use tendon_runtime::spec::ContractSpec;

/// How the simulated robot is.
#[derive(Clone, Debug, Default)]
pub struct Simulated {
    /// Bytes that the line damages: probability per byte of loss, and of a wrong bit.
    pub noise: f64,
    /// Seed of the damage.
    pub seed: u64,
    /// The line gives back what it is sent.
    pub echo: bool,
    /// SCHED_FIFO, one below a control thread: servos do not wait for the host's processor.
    pub real_time: bool,
    /// Joint whose horn slipped, and by how much, rad: what the calibration file does not know.
    pub slipped: Option<(usize, f32)>,
    /// Joint mounted the other way than the calibration file says.
    pub reversed: Option<usize>,
    /// Joint whose servo reports an overload.
    pub overload: Option<usize>,
    /// Joint whose servo is not there.
    pub missing: Option<usize>,
}

/// Baud rate of the simulated line: two to six joints at 1 kHz.
const BAUD: u32 = 4_000_000;
/// A hand's breadth beyond the contract's limits, where the stops are, rad.
const STOPS: f32 = 0.1;

/// The calibration of the simulated robot of a contract: ids from 1, zero in the middle of the encoder, every
/// second joint turned round.
#[must_use]
pub fn calibration_for(contract: &ContractSpec, bus: BusKind) -> CalibrationFile {
    let joints = robot_order(contract)
        .into_iter()
        .enumerate()
        .map(|(index, joint)| JointCalibration {
            name: joint.name.clone(),
            id: index as u8 + 1,
            model: (bus == BusKind::Feetech).then(|| "sts3215-7v4".into()),
            zero_offset_rad: PI,
            sign: if index % 2 == 0 { 1 } else { -1 },
            range_rad: joint.position_limits.map(|limit| limit.clamp(-3.1, 3.1)),
        })
        .collect();
    CalibrationFile { robot: contract.robot.clone(), bus, baud: BAUD, echo: false, silence_us: 1_000, joints }
}

/// Joints of a contract in the robot's order.
pub(crate) fn robot_order(contract: &ContractSpec) -> Vec<&tendon_runtime::spec::JointSpec> {
    let mut joints: Vec<_> = contract.joints.iter().enumerate().collect();
    joints.sort_by_key(|(index, joint)| joint.robot_index.unwrap_or(*index as u32));
    joints.into_iter().map(|(_, joint)| joint).collect()
}

/// The bus of the simulated robot, a little away from its default pose.
#[must_use]
pub fn simulated_bus(contract: &ContractSpec, bus: BusKind, how: &Simulated) -> Bus {
    let file = calibration_for(contract, bus);
    let order = robot_order(contract);
    let (protocol, model) = match bus {
        BusKind::Dynamixel => (Protocol::Dynamixel, 1020),
        BusKind::Feetech => (Protocol::Feetech, 777),
    };
    let mounts: Vec<Mount> = file
        .joints
        .iter()
        .zip(&order)
        .enumerate()
        .filter_map(|(index, (joint, spec))| {
            let slip = how.slipped.filter(|(slipped, _)| *slipped == index).map_or(0.0, |(_, by)| by);
            let sign = if how.reversed == Some(index) { -joint.sign } else { joint.sign };
            let calibration =
                tendon_drivers::Calibration::new(joint.zero_offset_rad + slip, sign, joint.range_rad).ok()?;
            let action = contract.actions.iter().find(|action| action.joint == spec.name);
            let gains = action.map_or([spec.kp, spec.kd], |action| [action.kp, action.kd]);
            Some(Mount { id: joint.id, model, calibration, gains })
        })
        .collect();
    let start: Vec<f32> = order.iter().map(|joint| joint.default_position + 0.05).collect();
    let stops: Vec<[f32; 2]> = order
        .iter()
        .map(|joint| [joint.position_limits[0] - STOPS, joint.position_limits[1] + STOPS])
        .collect();
    let mut bus = Bus::new(protocol, &mounts, Box::new(Bench::new(&start, &stops)), BAUD, how.seed);
    bus.noise = Noise { drop: how.noise, flip: how.noise, insert: 0.0 };
    bus.echo = how.echo;
    for (index, servo) in bus.servos.iter_mut().enumerate() {
        servo.behaviour.overload = how.overload == Some(index);
        servo.behaviour.dead = how.missing == Some(index);
    }
    bus
}

/// A simulated bus behind a pseudo-terminal, served by whoever calls [`Self::serve`].
#[derive(Debug)]
pub struct SimulatedRobot {
    master: std::os::fd::OwnedFd,
    _line: std::os::fd::OwnedFd,
    port: String,
    bus: Bus,
}

impl SimulatedRobot {
    /// Opens the pseudo-terminal.
    ///
    /// # Errors
    /// When none is to be had.
    pub fn new(bus: Bus) -> std::io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let port = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
        // Held open so that the line stays up between two programs, and raw before the first byte.
        let line = std::fs::OpenOptions::new().read(true).write(true).open(&port)?;
        let mut settings = tcgetattr(&line)?;
        settings.make_raw();
        tcsetattr(&line, OptionalActions::Now, &settings)?;
        Ok(Self { master, _line: line.into(), port, bus })
    }

    /// Path of the port.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Plays the robot until `each_round` says false. It may look at the bus and change it.
    ///
    /// # Errors
    /// When the pseudo-terminal breaks.
    pub fn serve(&mut self, mut each_round: impl FnMut(&mut Bus) -> bool) -> std::io::Result<()> {
        let clock = MonotonicClock;
        let mut bytes = [0; 1024];
        while each_round(&mut self.bus) {
            let now = clock.now_us();
            let wait = self.bus.next_byte_us().map_or(500, |due| due.saturating_sub(now).min(500));
            let timeout = Timespec { tv_sec: 0, tv_nsec: wait as i64 * 1000 };
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(ready) if ready > 0 => {
                    let read = rustix::io::read(&self.master, &mut bytes)?;
                    self.bus.receive(clock.now_us(), &bytes[..read]);
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let out = self.bus.transmit(clock.now_us());
            let mut rest = out.as_slice();
            while !rest.is_empty() {
                match rustix::io::write(&self.master, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Serves one simulated robot for ever. The first line of standard output is the path of its port.
///
/// # Errors
/// When no pseudo-terminal is to be had, or it breaks.
pub fn serve_simulated(contract: &ContractSpec, bus: BusKind, how: &Simulated) -> std::io::Result<()> {
    if how.real_time {
        // Without the privilege it goes on: it is a simulation.
        let _ = real_time_priority(Priority(Priority::default().0 - 1));
    }
    let mut robot = SimulatedRobot::new(simulated_bus(contract, bus, how))?;
    println!("{}", robot.port());
    std::io::stdout().flush()?;
    robot.serve(|_| true)
}

/// Starts a simulated robot in a process of its own and waits for the name of its port.
///
/// # Errors
/// [`LinkError::Launch`].
pub fn launch_simulated(
    program: &Path,
    image: &Path,
    bus: BusKind,
    how: &Simulated,
) -> Result<Launched, LinkError> {
    let mut command = Command::new(program);
    let bus = match bus {
        BusKind::Dynamixel => "dynamixel",
        BusKind::Feetech => "feetech",
    };
    command.arg("bus").arg(image).args(["--bus", bus]).args(["--noise", &how.noise.to_string()]);
    command.args(["--seed", &how.seed.to_string()]);
    if how.real_time {
        command.arg("--realtime");
    }
    // Ctrl-C in the terminal is for the controller; servos do not hear it.
    command.process_group(0);
    launch_program(command, "tendon bus")
}
