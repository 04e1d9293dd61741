//! Joint drivers: what turns a [`JointCommand`] into motion, and motion into a [`JointState`].
//!
//! - [`dynamixel::DynamixelBus`]: Robotis X series, Protocol 2.0.
//! - [`feetech::FeetechBus`]: STS3215 and relatives.
//! - [`pwm::PwmJoints`]: hobby servos; they report nothing.
//!
//! All of them are a [`JointBus`] over `embedded-hal` or `embedded-io`. No heap, no panic, no clock of their own.
//! A lost or damaged packet is counted and costs at most a bounded number of retries; only a broken port is an
//! error. Motors lose their torque when a bus is dropped.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "sim")]
extern crate std;

mod calibration;
pub mod dynamixel;
pub mod feetech;
mod frame;
mod line;
pub mod pwm;
mod servo;
#[cfg(feature = "sim")]
pub mod sim;
mod track;

pub use calibration::{Calibration, CalibrationError};
pub use line::{Echo, Timing};
pub use servo::{Goal, goal, servo_torque};
pub use tendon_runtime::{JointCommand, MAX_JOINTS};

/// Time since some start, us. Drivers ask it while they wait for bytes.
pub type Clock<'a> = &'a dyn Fn() -> u64;

/// Joints of one robot, in the robot's order.
///
/// The loop calls [`read`](Self::read), then [`write`](Self::write), once a tick. Positions are joint angles
/// (rad, calibration applied), torques N m.
pub trait JointBus {
    /// What each joint last reported.
    fn states(&self) -> &[JointState];

    /// Whether the joints report anything. Without, states repeat what was commanded.
    fn has_feedback(&self) -> bool;

    /// Asks every joint, and those that were not heard once more each while `until_us` is not reached.
    /// True: every joint was heard.
    ///
    /// # Errors
    /// The port is broken. Anything less is counted.
    fn read(&mut self, until_us: u64, clock: Clock<'_>) -> Result<bool, BusError>;

    /// Tells every joint, `commands` in the robot's order. Does not wait for an answer: a command that is lost
    /// is replaced at the next tick.
    ///
    /// # Errors
    /// The port is broken.
    fn write(&mut self, commands: &[JointCommand]) -> Result<(), BusError>;

    /// Torque on, holding where the joints are, or off. Confirmed by reading back.
    ///
    /// # Errors
    /// The port is broken, or a joint did not confirm in time.
    fn torque(&mut self, on: bool, clock: Clock<'_>) -> Result<(), BusError>;

    /// What happened on the bus so far.
    fn counters(&self) -> Counters;

    /// Time that one read and one write take on the wire, us, without servo delays.
    fn wire_us(&self) -> u32;

    /// What the motors do when this program is killed or the cable is pulled, for people.
    fn when_silent(&self) -> &'static str;
}

/// What one joint last reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JointState {
    /// rad.
    pub position: f32,
    /// rad/s.
    pub velocity: f32,
    /// N m, estimated from current or load.
    pub effort: f32,
    /// When it was heard, us; `None`: never.
    pub at_us: Option<u64>,
    /// What the servo complains about.
    pub faults: Faults,
}

/// What a servo complains about, as bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults(pub u8);

impl Faults {
    /// Supply voltage out of range.
    pub const VOLTAGE: u8 = 1;
    /// Position sensor.
    pub const SENSOR: u8 = 1 << 1;
    /// Too hot.
    pub const OVERHEAT: u8 = 1 << 2;
    /// Current too high, or electrical shock.
    pub const CURRENT: u8 = 1 << 3;
    /// Load too high for too long; the servo has taken its torque away.
    pub const OVERLOAD: u8 = 1 << 4;
    /// The servo fell silent-safe: its bus watchdog ran out.
    pub const WATCHDOG: u8 = 1 << 5;

    const NAMES: [(u8, &'static str); 6] = [
        (Self::VOLTAGE, "voltage"),
        (Self::SENSOR, "sensor"),
        (Self::OVERHEAT, "overheat"),
        (Self::CURRENT, "current"),
        (Self::OVERLOAD, "overload"),
        (Self::WATCHDOG, "bus watchdog"),
    ];

    /// No complaint.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl core::fmt::Debug for Faults {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::fmt::Display for Faults {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut names = Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0);
        let Some((_, first)) = names.next() else { return f.write_str("none") };
        f.write_str(first)?;
        names.try_for_each(|(_, name)| write!(f, ", {name}"))
    }
}

/// What happened on a bus; all of it is survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub requests: u32,
    /// Requests sent again.
    pub retries: u32,
    /// Requests that not every joint answered in time.
    pub timeouts: u32,
    /// Packets whose CRC or checksum does not hold, and headers that lead nowhere.
    pub corrupt: u32,
    /// Good packets that nobody waited for: wrong id, length or kind.
    pub strays: u32,
    /// Positions that no motor could have reached since the last one; taken only when the next agrees.
    pub implausible: u32,
    /// Echoes that were not what was sent: a collision, or a line without echo.
    pub bad_echoes: u32,
    /// Answers with an error in them.
    pub refusals: u32,
}

/// What a bus cannot survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// The port is broken.
    Port(embedded_io::ErrorKind),
    /// A servo does not answer.
    Silent {
        /// Its id.
        id: u8,
    },
    /// A servo is of a model that this driver has no table for.
    Model {
        /// Its id.
        id: u8,
        /// The model number that it reports.
        found: u16,
    },
    /// A servo answered with an error.
    Refused {
        /// Its id.
        id: u8,
        /// Register.
        address: u16,
        /// Error field of its answer.
        error: u8,
    },
    /// More joints than [`MAX_JOINTS`], or none, or an id twice.
    Joints,
    /// A servo did not confirm that its torque is off or on.
    Torque {
        /// Its id.
        id: u8,
        /// What was asked.
        on: bool,
    },
    /// Torque was asked before every joint was heard.
    Unknown {
        /// Id of the joint.
        id: u8,
    },
}

impl core::fmt::Display for BusError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Port(kind) => write!(f, "the port broke ({kind:?}); the adapter may have been unplugged"),
            Self::Silent { id } => write!(
                f,
                "servo {id} does not answer; check its power, cable, id and baud rate (and --echo on adapters that echo)"
            ),
            Self::Model { id, found } => {
                write!(f, "servo {id} reports model {found}, which this driver has no table for")
            }
            Self::Refused { id, address, error } => {
                write!(f, "servo {id} refused register {address} with error {error:#04x}")
            }
            Self::Joints => write!(f, "a bus takes 1 to {MAX_JOINTS} joints with different ids of 1 to 252"),
            Self::Torque { id, on } => write!(
                f,
                "servo {id} did not confirm torque {}; take its power away",
                if *on { "on" } else { "off" }
            ),
            Self::Unknown { id } => {
                write!(f, "servo {id} was not heard yet, so torque stays off; read the bus first")
            }
        }
    }
}

impl core::error::Error for BusError {}
