//! Control table and units of the X series.
//!
//! Source: the e-manual's page of each model, <https://emanual.robotis.com/docs/en/dxl/x/>. The addresses below are the same in all of
//! them. Torque per ampere is stall torque over stall current as listed there: a figure for estimates, not a
//! measured constant.

use core::f32::consts::TAU;

/// Address and length of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) address: u16,
    pub(crate) length: u16,
}

const fn register(address: u16, length: u16) -> Register {
    Register { address, length }
}

pub(crate) const MODEL_NUMBER: Register = register(0, 2);
pub(crate) const FIRMWARE: Register = register(6, 1);
pub(crate) const RETURN_DELAY: Register = register(9, 1);
pub(crate) const OPERATING_MODE: Register = register(11, 1);
pub(crate) const PWM_LIMIT: Register = register(36, 2);
pub(crate) const CURRENT_LIMIT: Register = register(38, 2);
pub(crate) const MAX_POSITION_LIMIT: Register = register(48, 4);
pub(crate) const MIN_POSITION_LIMIT: Register = register(52, 4);
pub(crate) const TORQUE_ENABLE: Register = register(64, 1);
pub(crate) const HARDWARE_ERROR: Register = register(70, 1);
pub(crate) const BUS_WATCHDOG: Register = register(98, 1);
pub(crate) const GOAL_PWM: Register = register(100, 2);
pub(crate) const GOAL_CURRENT: Register = register(102, 2);
pub(crate) const GOAL_POSITION: Register = register(116, 4);
/// Present current (or load), velocity and position, which lie together.
pub(crate) const PRESENT: Register = register(126, 10);
pub(crate) const VOLTAGE_TEMPERATURE: Register = register(144, 3);

/// Encoder counts of one turn.
pub(crate) const COUNTS: f32 = 4096.0;
/// rad/s of one count of velocity: 0.229 rev/min.
pub(crate) const VELOCITY_UNIT: f32 = 0.229 * TAU / 60.0;
/// A bus watchdog count, us.
pub(crate) const WATCHDOG_UNIT_US: u32 = 20_000;

/// Operating modes.
pub(crate) mod mode {
    pub(crate) const CURRENT: u8 = 0;
    pub(crate) const POSITION: u8 = 3;
    pub(crate) const CURRENT_BASED_POSITION: u8 = 5;
}

/// What bounds a servo's torque.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Goal current.
    Current {
        /// Ampere of one count.
        unit_a: f32,
        /// N m of one ampere.
        torque_per_a: f32,
    },
    /// Goal PWM: no current is measured. 885 counts are the full voltage and the stall torque.
    Pwm {
        /// N m.
        stall_torque: f32,
    },
}

/// A model of the X series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// What it reports.
    pub number: u16,
    /// Name.
    pub name: &'static str,
    /// What bounds its torque.
    pub limit: Limit,
    /// No-load speed at the highest voltage listed, rad/s.
    pub no_load_speed: f32,
}

const fn current(number: u16, name: &'static str, unit_a: f32, torque: f32, stall_a: f32, rpm: f32) -> Model {
    let limit = Limit::Current { unit_a, torque_per_a: torque / stall_a };
    Model { number, name, limit, no_load_speed: rpm * TAU / 60.0 }
}

/// Models that the driver knows.
pub const MODELS: &[Model] = &[
    // Number, name, A per count, stall torque N m, stall current A, no-load speed rev/min.
    current(1190, "xl330-m077", 0.001, 0.228, 1.74, 456.0),
    current(1200, "xl330-m288", 0.001, 0.60, 1.74, 123.0),
    Model {
        number: 1060,
        name: "xl430-w250",
        limit: Limit::Pwm { stall_torque: 1.5 },
        no_load_speed: 61.0 * TAU / 60.0,
    },
    current(1030, "xm430-w210", 0.00269, 3.7, 2.7, 95.0),
    current(1020, "xm430-w350", 0.00269, 4.8, 2.7, 57.0),
    current(1130, "xm540-w150", 0.00269, 8.8, 5.1, 85.0),
    current(1120, "xm540-w270", 0.00269, 12.9, 5.5, 37.0),
];

impl Model {
    /// The model with this number.
    #[must_use]
    pub fn find(number: u16) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.number == number)
    }

    /// The model of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.name == name)
    }

    /// Counts of the limit register for a torque, N m.
    pub(crate) fn counts(&self, torque: f32) -> f32 {
        match self.limit {
            Limit::Current { unit_a, torque_per_a } => torque / (torque_per_a * unit_a),
            Limit::Pwm { stall_torque } => torque / stall_torque * 885.0,
        }
    }

    /// Torque of a reading of the present current, or of the load where no current is measured, N m.
    pub(crate) fn torque(&self, counts: i16) -> f32 {
        let counts = f32::from(counts);
        match self.limit {
            Limit::Current { unit_a, torque_per_a } => counts * (torque_per_a * unit_a),
            // Load: 0.1% of the maximum.
            Limit::Pwm { stall_torque } => counts * 0.001 * stall_torque,
        }
    }

    /// Goal current or goal PWM.
    pub(crate) fn goal(&self) -> Register {
        match self.limit {
            Limit::Current { .. } => GOAL_CURRENT,
            Limit::Pwm { .. } => GOAL_PWM,
        }
    }

    /// The register that bounds it.
    pub(crate) fn bound(&self) -> Register {
        match self.limit {
            Limit::Current { .. } => CURRENT_LIMIT,
            Limit::Pwm { .. } => PWM_LIMIT,
        }
    }
}
