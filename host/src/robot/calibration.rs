//! The calibration file: which servo is which joint, and how it is mounted. TOML, written by `tendon doctor
//! --write-calibration`, read before any torque.

use serde::{Deserialize, Serialize};
use std::path::Path;
use tendon_drivers::{Calibration, CalibrationError, MAX_JOINTS};

/// Protocol of the servos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// Robotis Dynamixel X series, Protocol 2.0
    Dynamixel,
    /// Feetech STS3215 and relatives
    Feetech,
}

/// How a robot's servos are mounted, joints in the robot's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationFile {
    /// Robot id of the contract that it was made for.
    pub robot: String,
    /// Protocol.
    pub bus: BusKind,
    /// Bits per second.
    pub baud: u32,
    /// The adapter gives back what it sends.
    #[serde(default)]
    pub echo: bool,
    /// Silence after which no answer is expected, us.
    #[serde(default = "silence_us")]
    pub silence_us: u32,
    /// Joints.
    #[serde(rename = "joint")]
    pub joints: Vec<JointCalibration>,
}

fn silence_us() -> u32 {
    1_000
}

/// Mounting of one servo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointCalibration {
    /// Name, as in the contract.
    pub name: String,
    /// Id on the bus.
    pub id: u8,
    /// Model, where the servo cannot tell (`sts3215-7v4`, `sts3215-12v`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Servo angle at joint angle 0, rad from the encoder's 0.
    pub zero_offset_rad: f32,
    /// 1, or -1 where the servo turns against the joint.
    pub sign: i8,
    /// Joint angles that commands are clipped to, rad.
    pub range_rad: [f32; 2],
}

/// What is wrong with a calibration file.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationFileError {
    /// It cannot be read or written.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no calibration.
    #[error(
        "{file}: {problem}; see docs/drivers.md for the format, or write a new one with `tendon doctor --write-calibration`"
    )]
    Toml {
        /// The file.
        file: String,
        /// What the parser said.
        problem: String,
    },
    /// A number does not hold.
    #[error("calibration of joint {joint}: {problem}")]
    Joint {
        /// Its name.
        joint: String,
        /// What is wrong.
        problem: String,
    },
    /// Another robot's, or other joints.
    #[error(
        "the calibration is for {found}, the policy for {expected}; write one for this robot with `tendon doctor --write-calibration`"
    )]
    Robot {
        /// Robot and joints of the file.
        found: String,
        /// Robot and joints of the policy.
        expected: String,
    },
}

/// Largest file that is read, bytes.
const MOST: u64 = 64 << 10;

impl CalibrationFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong, with the joint.
    pub fn read(path: &Path) -> Result<Self, CalibrationFileError> {
        let io = |source| CalibrationFileError::Io { file: path.display().to_string(), source };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > MOST {
            return Err(io(std::io::Error::other(format!("{length} bytes, at most {MOST} are read"))));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let file: Self = toml::from_str(&text).map_err(|error| CalibrationFileError::Toml {
            file: path.display().to_string(),
            problem: error.to_string().trim().replace('\n', " "),
        })?;
        file.joints()?;
        Ok(file)
    }

    /// As TOML, with a line that says what it is.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!("# Mounting of the servos; joint = sign * (servo - zero_offset_rad). docs/drivers.md\n{body}")
    }

    /// Id, mounting and model of each joint.
    ///
    /// # Errors
    /// The first joint that does not hold.
    pub fn joints<'a>(&'a self) -> Result<Vec<(u8, Calibration, Option<&'a str>)>, CalibrationFileError> {
        let fail =
            |joint: &str, problem: String| CalibrationFileError::Joint { joint: joint.into(), problem };
        if !(1..=MAX_JOINTS).contains(&self.joints.len()) {
            return Err(fail("(all)", format!("{} joints: expected 1 to {MAX_JOINTS}", self.joints.len())));
        }
        if !(9_600..=10_500_000).contains(&self.baud) {
            return Err(fail("(all)", format!("baud is {}: expected 9600 to 10500000", self.baud)));
        }
        if !(100..=100_000).contains(&self.silence_us) {
            return Err(fail("(all)", format!("silence_us is {}: expected 100 to 100000", self.silence_us)));
        }
        let one = |index: usize, joint: &'a JointCalibration| {
            let twice =
                self.joints.iter().take(index).any(|other| other.id == joint.id || other.name == joint.name);
            if !(1..=252).contains(&joint.id) || twice {
                return Err(fail(
                    &joint.name,
                    format!("id is {}: expected 1 to 252, names and ids once each", joint.id),
                ));
            }
            if let (BusKind::Feetech, Some(model)) = (self.bus, &joint.model)
                && tendon_drivers::feetech::Model::named(model).is_none()
            {
                let known: Vec<_> = tendon_drivers::feetech::MODELS.iter().map(|model| model.name).collect();
                return Err(fail(&joint.name, format!("model is {model}: expected {}", known.join(" or "))));
            }
            let calibration = Calibration::new(joint.zero_offset_rad, joint.sign, joint.range_rad)
                .map_err(|error: CalibrationError| fail(&joint.name, error.to_string()))?;
            Ok((joint.id, calibration, joint.model.as_deref()))
        };
        self.joints.iter().enumerate().map(|(index, joint)| one(index, joint)).collect()
    }

    /// Checks that the file is for a robot with these joints, in the robot's order.
    ///
    /// # Errors
    /// [`CalibrationFileError::Robot`] with both.
    pub fn check_robot(&self, robot: &str, joints: &[&str]) -> Result<(), CalibrationFileError> {
        let names: Vec<&str> = self.joints.iter().map(|joint| joint.name.as_str()).collect();
        if self.robot == robot && names == joints {
            return Ok(());
        }
        let describe = |robot: &str, joints: &[&str]| format!("{robot} with joints {}", joints.join(", "));
        Err(CalibrationFileError::Robot {
            found: describe(&self.robot, &names),
            expected: describe(robot, joints),
        })
    }
}
