//! The way from the measured pose to the default pose: one minimum-jerk profile for all joints, so slow that none
//! leaves its limits.
//!
//! `q(t) = a + (b - a) s(t / T)` with `s(x) = 10 x^3 - 15 x^4 + 6 x^5` (Flash and Hogan 1985). Its largest velocity,
//! acceleration and jerk are 15/8, 10/sqrt(3) and 60 times `|b - a|` over `T`, `T^2` and `T^3`.

use crate::{Contract, JointCommand, Profile, functions, math};
use tendon_wire::message::MAX_JOINTS;

/// A profile under way. It advances by whole control periods: a late tick delays it and makes no step larger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    from: [f32; MAX_JOINTS],
    duration_s: f32,
    passed_s: f32,
}

impl Start {
    /// From the measured `position` `[n_joints]`, policy order. Joints without `kp` take no part.
    pub(crate) fn plan(contract: &Contract<'_>, profile: &Profile, position: &[f32]) -> Self {
        let mut start = Self::default();
        for ((joint, &q), from) in contract.joints.iter().zip(position).zip(&mut start.from) {
            *from = math::clip(q, joint.position_min, joint.position_max);
            let limits = profile.limits(joint);
            let way = if joint.kp > 0.0 { (joint.default_position - *from).abs() } else { 0.0 };
            let velocity = contract.header.ready_velocity.min(limits.velocity).min(limits.position_rate);
            let times = [
                1.875 * way / velocity,
                functions::sqrt(5.7736 * way / limits.acceleration),
                functions::pow(60.0 * way / limits.jerk, 1.0 / 3.0),
            ];
            // For the rounding of the roots.
            start.duration_s = times.into_iter().fold(start.duration_s, |most, t| most.max(t * 1.001));
        }
        start
    }

    /// The next period's setpoints.
    pub(crate) fn step(&mut self, contract: &Contract<'_>, commands: &mut [JointCommand; MAX_JOINTS]) {
        self.passed_s = (self.passed_s + contract.period_s()).min(self.duration_s);
        let share = if self.duration_s > 0.0 { self.passed_s / self.duration_s } else { 1.0 };
        let s = share * share * share * (10.0 + share * (6.0 * share - 15.0));
        for ((command, joint), &from) in commands.iter_mut().zip(contract.joints).zip(&self.from) {
            // The end is the default pose to the bit.
            let way = joint.default_position - from;
            let position = if share < 1.0 { from + way * s } else { joint.default_position };
            *command = JointCommand {
                position: if joint.kp > 0.0 { position } else { joint.default_position },
                kp: joint.kp,
                kd: joint.kd,
                torque_limit: joint.torque_limit,
                ..JointCommand::default()
            };
        }
    }

    /// Time until the pose is reached, us.
    pub(crate) fn left_us(&self) -> u32 {
        (1e6 * (self.duration_s - self.passed_s)) as u32
    }
}
