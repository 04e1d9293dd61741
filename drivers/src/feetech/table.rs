//! Control table and units of the STS3215.
//!
//! Source: Feetech, "SMS/STS series memory table" (doc.feetech.cn, FT-SMS-STS). Signed numbers are sign and magnitude; bit 15, load bit 10.

use core::f32::consts::TAU;

pub(crate) const FIRMWARE: (u8, u8) = (0, 2);
pub(crate) const MODEL_NUMBER: (u8, u8) = (3, 2);
pub(crate) const RETURN_DELAY: (u8, u8) = (7, 1);
pub(crate) const MIN_POSITION_LIMIT: (u8, u8) = (9, 2);
pub(crate) const MAX_POSITION_LIMIT: (u8, u8) = (11, 2);
pub(crate) const OPERATING_MODE: (u8, u8) = (33, 1);
pub(crate) const TORQUE_ENABLE: (u8, u8) = (40, 1);
/// Goal position, time, velocity and torque limit, which lie together.
pub(crate) const GOAL: (u8, u8) = (42, 8);
pub(crate) const LOCK: (u8, u8) = (55, 1);
/// Present position, velocity and load, which lie together.
pub(crate) const PRESENT: (u8, u8) = (56, 6);
pub(crate) const VOLTAGE_TEMPERATURE: (u8, u8) = (62, 2);

/// Encoder counts of one turn; a velocity count is one of them per second.
pub(crate) const COUNTS: f32 = 4096.0;
/// rad of a count.
pub(crate) const UNIT: f32 = TAU / COUNTS;
/// Counts of the whole torque in load and torque limit.
pub(crate) const WHOLE: f32 = 1000.0;

/// A model of the STS series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// What it reports.
    pub number: u16,
    /// Name. Versions for 7.4 V and 12 V report the same number.
    pub name: &'static str,
    /// Stall torque of the product page, N m.
    pub stall_torque: f32,
    /// No-load speed of the product page, rad/s.
    pub no_load_speed: f32,
}

const KG_CM: f32 = 0.098_066_5;

/// Models that the driver knows.
pub const MODELS: &[Model] = &[
    Model { number: 777, name: "sts3215-7v4", stall_torque: 19.5 * KG_CM, no_load_speed: 52.0 * TAU / 60.0 },
    Model { number: 777, name: "sts3215-12v", stall_torque: 30.0 * KG_CM, no_load_speed: 52.0 * TAU / 60.0 },
];

impl Model {
    /// The model of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.name == name)
    }
}

/// Sign and magnitude to a number.
pub(crate) fn signed(raw: u16, sign_bit: u32) -> f32 {
    let sign = 1u16.wrapping_shl(sign_bit);
    let magnitude = f32::from(raw & sign.wrapping_sub(1));
    if raw & sign == 0 { magnitude } else { -magnitude }
}
