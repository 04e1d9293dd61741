//! Limits in force: the contract's, tightened by a profile.

use crate::Contract;
use crate::contract::name_of;
use tendon_wire::image::{JointRecord, ProfileRecord, limit};

/// A profile of a contract, or the one that leaves every limit as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    index: u8,
    record: ProfileRecord,
}

/// What holds for one joint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// rad/s or m/s.
    pub velocity: f32,
    /// Of setpoints, rad/s2 or m/s2.
    pub acceleration: f32,
    /// Of setpoints, rad/s3 or m/s3.
    pub jerk: f32,
    /// N m or N.
    pub torque: f32,
    /// N m/s or N/s.
    pub torque_rate: f32,
    /// Of position setpoints, rad/s or m/s.
    pub position_rate: f32,
}

impl Default for Profile {
    fn default() -> Self {
        let mut name = [0; 16];
        for (place, byte) in name.iter_mut().zip(b"full") {
            *place = *byte;
        }
        let record = ProfileRecord { name, scale: [1.0; limit::COUNT], cap: [f32::MAX; limit::COUNT] };
        Self { index: 0, record }
    }
}

impl Profile {
    /// Profile `index` of `contract`; `None` when it has no such one.
    #[must_use]
    pub fn of(contract: &Contract<'_>, index: u8) -> Option<Self> {
        if contract.profiles.is_empty() && index == 0 {
            return Some(Self::default());
        }
        contract.profiles.get(usize::from(index)).map(|record| Self { index, record: *record })
    }

    /// Its place in the contract.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// As it stands in the contract.
    #[must_use]
    pub fn record(&self) -> &ProfileRecord {
        &self.record
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        name_of(&self.record)
    }

    /// Limits of one joint: never beyond the joint's own.
    #[must_use]
    pub fn limits(&self, joint: &JointRecord) -> Limits {
        let of = |kind: usize, own: f32| {
            let scale = self.record.scale.get(kind).copied().unwrap_or(1.0);
            (own * scale).min(self.record.cap.get(kind).copied().unwrap_or(f32::MAX))
        };
        Limits {
            velocity: of(limit::VELOCITY, joint.velocity_limit),
            acceleration: of(limit::ACCELERATION, joint.acceleration_limit),
            jerk: of(limit::JERK, joint.jerk_limit),
            torque: of(limit::TORQUE, joint.torque_limit),
            torque_rate: of(limit::TORQUE_RATE, joint.torque_rate_limit),
            position_rate: of(limit::VELOCITY, joint.position_rate_limit),
        }
    }

    /// Most motoring power of all joints together, W.
    #[must_use]
    pub fn power(&self, contract: &Contract<'_>) -> f32 {
        let [.., scale] = self.record.scale;
        let [.., cap] = self.record.cap;
        (contract.header.power_budget * scale).min(cap)
    }

    /// Whether some limit would be looser than under `other`.
    #[must_use]
    pub fn loosens(&self, other: &Self, contract: &Contract<'_>) -> bool {
        let looser = |joint: &JointRecord| {
            let (new, old) = (self.limits(joint), other.limits(joint));
            new.velocity > old.velocity
                || new.acceleration > old.acceleration
                || new.jerk > old.jerk
                || new.torque > old.torque
                || new.torque_rate > old.torque_rate
                || new.position_rate > old.position_rate
        };
        self.power(contract) > other.power(contract) || contract.joints.iter().any(looser)
    }
}
