//! Which readings are taken: the last defence behind a checksum of 8 bits.

use crate::{Calibration, Counters, JointState};

/// Room beyond the fastest motion, for noise of the encoder and of the clock, rad.
const SLACK: f32 = 0.1;

/// One reading, servo side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// rad from the encoder's 0.
    pub(crate) angle: f32,
    /// rad/s.
    pub(crate) velocity: f32,
    /// N m.
    pub(crate) effort: f32,
}

/// The last state of a joint and a reading that is not believed yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Track {
    suspect: Option<(f32, u64)>,
}

impl Track {
    /// Takes a reading into `state` unless the joint would have had to move faster than `fastest` (rad/s) since
    /// the last; then only if the one before said the same. True: taken.
    pub(crate) fn take(
        &mut self,
        state: &mut JointState,
        calibration: &Calibration,
        reading: Reading,
        fastest: f32,
        now_us: u64,
        counters: &mut Counters,
    ) -> bool {
        let position = calibration.joint(reading.angle);
        let near = |(from, at_us): (f32, u64)| {
            let dt = now_us.saturating_sub(at_us) as f32 * 1e-6;
            (position - from).abs() <= fastest * dt + SLACK
        };
        // A speed that it cannot have is damage as well, whatever it was before.
        let possible = reading.velocity.abs() <= fastest;
        let plausible = state.at_us.is_none_or(|at_us| near((state.position, at_us)));
        if !(possible && (plausible || self.suspect.is_some_and(near))) {
            self.suspect = possible.then_some((position, now_us));
            counters.implausible = counters.implausible.wrapping_add(1);
            return false;
        }
        self.suspect = None;
        state.position = position;
        state.velocity = calibration.sign() * reading.velocity;
        state.effort = calibration.sign() * reading.effort;
        state.at_us = Some(now_us);
        true
    }
}
