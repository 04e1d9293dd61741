//! Profiles and monitors of the contract as people write them.

use crate::spec::{ContractSpec, SpecError};
use serde::{Deserialize, Serialize};
use std::format;
use std::string::String;
use std::vec::Vec;
use tendon_wire::image::{MonitorRecord, ProfileRecord, SensorRecord, limit, monitor, monitor_action};

/// Stands for "no limit" of a rate per second.
pub const UNLIMITED: f32 = 1e6;
/// Stands for "no limit" of a jerk.
pub(crate) const UNLIMITED_JERK: f32 = 1e12;

/// A way of operating. Of each limit `min(limit * scale, cap)` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileSpec {
    /// Name, at most 16 bytes of UTF-8: `bench`, `near-people`, `full`.
    pub name: String,
    /// Shares of the contract's limits, above 0 and at most 1.
    pub scale: LimitShares,
    /// Absolute limits, each in the joint's unit.
    pub cap: LimitShares,
}

/// One number for each kind of limit; what is left out changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitShares {
    /// Of velocities, and of the rate of position setpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub velocity: Option<f32>,
    /// Of accelerations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<f32>,
    /// Of jerks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jerk: Option<f32>,
    /// Of torques and forces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torque: Option<f32>,
    /// Of torque rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torque_rate: Option<f32>,
    /// Of the power budget, W.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f32>,
}

impl LimitShares {
    fn or(&self, absent: f32) -> [f32; limit::COUNT] {
        [self.velocity, self.acceleration, self.jerk, self.torque, self.torque_rate, self.power]
            .map(|value| value.unwrap_or(absent))
    }
}

impl ContractSpec {
    pub(crate) fn profile_records(&self) -> Result<Vec<ProfileRecord>, SpecError> {
        let record = |(index, profile): (usize, &ProfileSpec)| {
            let fail =
                |problem: String| Err(SpecError::Field { field: format!("profiles[{index}].name"), problem });
            if profile.name.is_empty() || profile.name.len() > 16 {
                return fail(format!("`{}` is not 1 to 16 bytes long", profile.name));
            }
            if self.profiles.iter().take(index).any(|other| other.name == profile.name) {
                return fail(format!("`{}` occurs twice", profile.name));
            }
            let mut name = [0; 16];
            name.iter_mut().zip(profile.name.bytes()).for_each(|(place, byte)| *place = byte);
            Ok(ProfileRecord { name, scale: profile.scale.or(1.0), cap: profile.cap.or(f32::MAX) })
        };
        self.profiles.iter().enumerate().map(record).collect()
    }

    pub(crate) fn default_profile_index(&self) -> Result<u16, SpecError> {
        let Some(name) = &self.default_profile else { return Ok(0) };
        let place = self.profiles.iter().position(|profile| profile.name == *name);
        place.map(|place| place as u16).ok_or_else(|| SpecError::Field {
            field: "default_profile".into(),
            problem: format!("`{name}` is no profile: name one of `profiles`"),
        })
    }
}

/// What a monitor does with an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum MonitorAction {
    /// Nothing is watched.
    Off = monitor_action::OFF,
    /// Counts it.
    Count = monitor_action::COUNT,
    /// Falls back: damping, then Fault.
    FallBack = monitor_action::FALL_BACK,
}

/// One monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorSpec {
    /// What it does.
    pub action: MonitorAction,
    /// Ticks with an alarm among the last 16 until it does, 1 to 16.
    #[serde(default = "one_tick")]
    pub needed: u8,
}

fn one_tick() -> u8 {
    1
}

const fn monitor(action: MonitorAction, needed: u8) -> MonitorSpec {
    MonitorSpec { action, needed }
}

/// The monitors: actions, then thresholds. docs/envelope.md gives the equations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorsSpec {
    /// The sensors' clock stands still.
    pub age: MonitorSpec,
    /// A channel gives only zeros.
    pub off: MonitorSpec,
    /// A channel stands still while the robot moves.
    pub stuck: MonitorSpec,
    /// Sensors of one motion disagree.
    pub noise: MonitorSpec,
    /// A channel changes further than the robot can move.
    pub jump: MonitorSpec,
    /// A joint does not follow its commands.
    pub response: MonitorSpec,
    /// The observation is unlike the recorded ones. `needed` comes from the compiler's calibration.
    pub abstention: MonitorAction,
    /// Raw states with an unchanged sensor clock until the age alarm.
    pub age_ticks: u16,
    /// Raw states with an unchanged linear velocity, while joints move, until it is stuck.
    pub stuck_ticks: u16,
    /// Largest step of a position, as a share of velocity limit times time.
    pub position_jump: f32,
    /// Largest step of a velocity, as a share of the velocity limit.
    pub velocity_jump: f32,
    /// Mean difference between steps of the position and the integral of the velocity, as a share of velocity limit
    /// times time.
    pub joint_noise: f32,
    /// Way by one sensor while the other stands still, rad or m.
    pub stuck_path: f32,
    /// Fastest turn of the base, rad/s.
    pub turn_limit: f32,
    /// Largest step of the angular velocity, rad/s.
    pub gyro_jump: f32,
    /// Largest step of the linear velocity, m/s.
    pub linear_jump: f32,
    /// Mean difference between turn of the orientation and integral of the angular velocity, rad.
    pub turn_noise: f32,
    /// Mean second difference of the linear velocity, m/s.
    pub linear_noise: f32,
    /// Turn by one of gyro and orientation while the other stands still, rad.
    pub stuck_turn: f32,
    /// Swing of the commanded torque, in shares of the torque limit, ...
    pub response_swing: f32,
    /// ... during which the joint moves at least so far, rad or m.
    pub response_path: f32,
    /// Share of the velocity limit beyond which a joint runs away.
    pub overspeed: f32,
    /// The task's own sensors, by name; those not listed are not watched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sensors: Vec<SensorMonitorSpec>,
}

impl Default for MonitorsSpec {
    fn default() -> Self {
        use MonitorAction::{Count, FallBack};
        Self {
            age: monitor(FallBack, 1),
            off: monitor(FallBack, 1),
            stuck: monitor(FallBack, 1),
            noise: monitor(Count, 4),
            jump: monitor(FallBack, 1),
            response: monitor(Count, 4),
            abstention: FallBack,
            age_ticks: 5,
            stuck_ticks: 10,
            position_jump: 3.0,
            velocity_jump: 2.5,
            joint_noise: 0.5,
            stuck_path: 0.2,
            turn_limit: 35.0,
            gyro_jump: 35.0,
            linear_jump: 3.0,
            turn_noise: 0.1,
            linear_noise: 1.0,
            stuck_turn: 0.2,
            response_swing: 2.0,
            response_path: 0.002,
            overspeed: 1.5,
            sensors: Vec::new(),
        }
    }
}

/// Plausibility of one of the task's own sensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorMonitorSpec {
    /// Name, one of `sensors`.
    pub name: String,
    /// Plausible values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f32; 2]>,
    /// Largest step between two raw states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump: Option<f32>,
    /// Mean second difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<f32>,
    /// Time without any change, while joints move, until it is stuck, s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_s: Option<f32>,
}

impl MonitorsSpec {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn record(&self) -> MonitorRecord {
        let (mut actions, mut needed) = ([monitor_action::OFF; 8], [1; 8]);
        let by_place = [
            (monitor::AGE, self.age),
            (monitor::OFF, self.off),
            (monitor::STUCK, self.stuck),
            (monitor::NOISE, self.noise),
            (monitor::JUMP, self.jump),
            (monitor::RESPONSE, self.response),
            (monitor::ABSTENTION, monitor(self.abstention, 1)),
        ];
        for (place, spec) in by_place {
            (actions[place], needed[place]) = (spec.action as u8, spec.needed);
        }
        MonitorRecord {
            actions,
            needed,
            age_ticks: self.age_ticks,
            stuck_ticks: self.stuck_ticks,
            position_jump: self.position_jump,
            velocity_jump: self.velocity_jump,
            joint_noise: self.joint_noise,
            stuck_path: self.stuck_path,
            turn_limit: self.turn_limit,
            gyro_jump: self.gyro_jump,
            linear_jump: self.linear_jump,
            turn_noise: self.turn_noise,
            linear_noise: self.linear_noise,
            stuck_turn: self.stuck_turn,
            response_swing: self.response_swing,
            response_path: self.response_path,
            overspeed: self.overspeed,
        }
    }

    /// One for each of `names`.
    pub(crate) fn sensor_records(
        &self,
        names: &[String],
        period_s: f64,
    ) -> Result<Vec<SensorRecord>, SpecError> {
        for (index, sensor) in self.sensors.iter().enumerate() {
            if !names.contains(&sensor.name) {
                return Err(SpecError::Field {
                    field: format!("monitors.sensors[{index}].name"),
                    problem: format!("`{}` is no sensor: name one of `sensors`", sensor.name),
                });
            }
        }
        let record = |name: &String| {
            let found = self.sensors.iter().find(|sensor| sensor.name == *name);
            let [low, high] = found.and_then(|s| s.range).unwrap_or([-f32::MAX, f32::MAX]);
            let stuck = found.and_then(|s| s.stuck_s).map_or(0.0, |s| (f64::from(s) / period_s).ceil());
            SensorRecord {
                low,
                high,
                jump: found.and_then(|s| s.jump).unwrap_or(f32::MAX),
                noise: found.and_then(|s| s.noise).unwrap_or(f32::MAX),
                stuck_ticks: stuck as u32,
            }
        };
        Ok(names.iter().map(record).collect())
    }
}
