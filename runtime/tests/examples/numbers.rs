//! Random numbers of the tests. Both the runtime's tests and the campaigns include this file, as `crate::numbers`.

use fastrand::Rng;

/// Any float: ordinary ones, and each kind that breaks careless arithmetic.
pub(crate) fn any_f32(rng: &mut Rng) -> f32 {
    match rng.u8(0..16) {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => f32::NEG_INFINITY,
        3 => f32::MAX,
        4 => f32::MIN,
        5 => f32::from_bits(rng.u32(1..0x0080_0000)), // subnormal
        6 => 0.0,
        7 => -0.0,
        8 => f32::from_bits(rng.u32(..)),
        9 => within(rng, -1e6, 1e6),
        _ => within(rng, -3.0, 3.0),
    }
}

pub(crate) fn within(rng: &mut Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.f32()
}
