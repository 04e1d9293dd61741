//! How a servo is mounted: where its zero is, which way it turns, how far the joint goes.

use core::f32::consts::TAU;

/// Mounting of one servo. `joint = sign (servo - zero)`, both in rad; a servo's angle counts from its encoder's 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    zero: f32,
    sign: f32,
    low: f32,
    high: f32,
}

/// What is wrong with a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalibrationError {
    /// The zero offset is not a finite angle within two turns.
    Zero,
    /// The sign is neither 1 nor -1.
    Sign,
    /// The range is not finite, not ordered, or wider than two turns.
    Range,
}

impl core::fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Zero => "zero offset: expected a finite angle within two turns, rad",
            Self::Sign => "sign: expected 1 or -1",
            Self::Range => "range: expected [low, high] in rad, finite, ordered, within two turns",
        })
    }
}

impl core::error::Error for CalibrationError {}

impl Calibration {
    /// `zero`: servo angle at joint angle 0, rad. `range`: joint angles that commands are clipped to, rad.
    ///
    /// # Errors
    /// The first number that does not hold.
    pub fn new(zero: f32, sign: i8, range: [f32; 2]) -> Result<Self, CalibrationError> {
        let [low, high] = range;
        if !(-2.0 * TAU..=2.0 * TAU).contains(&zero) {
            return Err(CalibrationError::Zero);
        }
        if sign != 1 && sign != -1 {
            return Err(CalibrationError::Sign);
        }
        if !(low >= -2.0 * TAU && low < high && high <= 2.0 * TAU) {
            return Err(CalibrationError::Range);
        }
        Ok(Self { zero, sign: f32::from(sign), low, high })
    }

    /// Joint angle of a servo angle, rad.
    #[must_use]
    pub fn joint(&self, servo: f32) -> f32 {
        self.sign * (servo - self.zero)
    }

    /// Servo angle of a joint angle, clipped to the range, rad. `None` for a number that is not finite.
    #[must_use]
    pub fn servo(&self, joint: f32) -> Option<f32> {
        joint
            .is_finite()
            .then(|| self.zero + self.sign * tendon_runtime::math::clip(joint, self.low, self.high))
    }

    /// Servo angle at joint angle 0, rad.
    #[must_use]
    pub fn zero(&self) -> f32 {
        self.zero
    }

    /// 1 or -1: factor of velocities and torques.
    #[must_use]
    pub fn sign(&self) -> f32 {
        self.sign
    }

    /// Lowest and highest joint angle, rad.
    #[must_use]
    pub fn range(&self) -> [f32; 2] {
        [self.low, self.high]
    }
}
