//! The contract as people read and write it: JSON in the ONNX metadata key `tendon.contract`, TOML
//! beside a foreign file. [`ContractSpec::compile`] turns it into the records of an image.

use crate::contract::MAX_PROFILES;
use crate::spec_safety::UNLIMITED_JERK;
pub use crate::spec_safety::{
    LimitShares, MonitorAction, MonitorSpec, MonitorsSpec, ProfileSpec, SensorMonitorSpec, UNLIMITED,
};
use crate::{Contract, ContractError};
use serde::{Deserialize, Serialize};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};
use tendon_wire::image::{
    ActionRecord, ContractHeader, JointRecord, ProfileRecord, SensorRecord, TERM_VALUES, TermRecord, mode,
    signal,
};
use tendon_wire::message::{MAX_COMMANDS, MAX_JOINTS, MAX_OBSERVATION, MAX_PREFERENCES, MAX_SENSORS};

/// ONNX metadata key that holds the JSON.
pub const METADATA_KEY: &str = "tendon.contract";
/// Version of this schema.
pub const VERSION: u32 = 1;
/// Stands for "no clip": beyond every signal, still finite.
pub const NO_CLIP: f32 = 1e9;

/// The whole contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractSpec {
    /// [`VERSION`].
    pub version: u32,
    /// Robot id, at most 32 bytes of UTF-8.
    pub robot: String,
    /// Control period, s.
    pub control_period_s: f64,
    /// Order of quaternions in observation terms: only `wxyz`.
    #[serde(default)]
    pub quaternion_order: QuaternionOrder,
    /// Names of the command inputs with range and default.
    #[serde(default)]
    pub commands: Vec<InputSpec>,
    /// Names of the preference inputs with range and default.
    #[serde(default)]
    pub preferences: Vec<InputSpec>,
    /// Names of the task's own sensors.
    #[serde(default)]
    pub sensors: Vec<String>,
    /// Joints in the policy's order.
    pub joints: Vec<JointSpec>,
    /// Observation terms in order.
    pub observations: Vec<TermSpec>,
    /// Elements of the raw action in order.
    pub actions: Vec<ActionSpec>,
    /// Staged start and fallback.
    #[serde(default)]
    pub fallback: FallbackSpec,
    /// Most motoring power of all joints together, W; without it no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_budget: Option<f32>,
    /// Ways of operating, each with tighter limits; without any the joints' limits hold alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<ProfileSpec>,
    /// Profile after boot; without it the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_profile: Option<String>,
    /// Plausibility of the sensors and response of the joints.
    #[serde(default, skip_serializing_if = "MonitorsSpec::is_default")]
    pub monitors: MonitorsSpec,
    /// Largest error that quantization may bring into the raw actions, root mean square over that of the
    /// actions; for the compiler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_budget: Option<f32>,
}

/// Order of the elements of a quaternion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuaternionOrder {
    /// Scalar first.
    #[default]
    Wxyz,
}

/// A command or preference input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Name.
    pub name: String,
    /// Unit, for people.
    #[serde(default)]
    pub unit: String,
    /// Lowest and highest value the policy was trained with.
    pub range: [f32; 2],
    /// Value when nobody says one.
    #[serde(default)]
    pub default: f32,
}

/// One joint. Angles in rad, lengths in m, torques in N m, forces in N.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointSpec {
    /// Name in the robot's description.
    pub name: String,
    /// Place in the robot's raw state; without it the joint's own place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot_index: Option<u32>,
    /// Default pose.
    pub default_position: f32,
    /// Lower and upper position limit.
    pub position_limits: [f32; 2],
    /// Velocity limit.
    pub velocity_limit: f32,
    /// Acceleration limit of position and velocity setpoints.
    #[serde(default = "unlimited")]
    pub acceleration_limit: f32,
    /// Largest change of the setpoints' acceleration per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jerk_limit: Option<f32>,
    /// Deceleration that the joint can be sure of before its position limits; without it `acceleration_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub braking_deceleration: Option<f32>,
    /// Torque or force limit; 0 for a passive joint.
    pub torque_limit: f32,
    /// Largest change of a position setpoint per second.
    #[serde(default = "unlimited")]
    pub position_rate_limit: f32,
    /// Largest change of the torque per second.
    #[serde(default = "unlimited")]
    pub torque_rate_limit: f32,
    /// Gain that holds the default pose.
    #[serde(default)]
    pub kp: f32,
    /// Damping beside it.
    #[serde(default)]
    pub kd: f32,
    /// Damping gain of the fallback; without it `kd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping_kd: Option<f32>,
}

fn unlimited() -> f32 {
    UNLIMITED
}

/// What a term observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Signal {
    /// IMU frame, m/s, `[3]`.
    BaseLinearVelocity = signal::BASE_LINEAR_VELOCITY,
    /// IMU frame, rad/s, `[3]`.
    BaseAngularVelocity = signal::BASE_ANGULAR_VELOCITY,
    /// Unit vector in the IMU frame, `[3]`.
    ProjectedGravity = signal::PROJECTED_GRAVITY,
    /// world_from_imu, `[4]`.
    BaseOrientation = signal::BASE_ORIENTATION,
    /// `[n_joints]`
    JointPosition = signal::JOINT_POSITION,
    /// Minus the default pose, `[n_joints]`.
    JointPositionRelative = signal::JOINT_POSITION_RELATIVE,
    /// `[n_joints]`
    JointVelocity = signal::JOINT_VELOCITY,
    /// Raw, `[n_actions]`.
    LastAction = signal::LAST_ACTION,
    /// `[n_commands]`
    Command = signal::COMMAND,
    /// `[n_preferences]`
    Preference = signal::PREFERENCE,
    /// `[n_sensors]`
    Sensor = signal::SENSOR,
    /// `[n_joints]`
    JointSin = signal::JOINT_SIN,
    /// `[n_joints]`
    JointCos = signal::JOINT_COS,
}

/// One number for every element, or one each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerElement {
    /// The same for every element.
    One(f32),
    /// One for each.
    Each(Vec<f32>),
}

impl PerElement {
    fn expand(&self, width: usize) -> Option<Vec<f32>> {
        match self {
            Self::One(value) => Some(vec![*value; width]),
            Self::Each(values) => (values.len() == width).then(|| values.clone()),
        }
    }
}

/// One observation term: `clip(signal * scale + offset)` with frames of history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermSpec {
    /// Name, for people.
    pub name: String,
    /// What it observes.
    pub signal: Signal,
    /// First element of the signal and their number; without it the whole signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<[u16; 2]>,
    /// Factor.
    #[serde(default = "one")]
    pub scale: PerElement,
    /// Added after the factor.
    #[serde(default = "zero")]
    pub offset: PerElement,
    /// Lower and upper bound of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f32; 2]>,
    /// Frames, this one included.
    #[serde(default = "one_frame")]
    pub history: u16,
    /// Order of the frames.
    #[serde(default)]
    pub order: HistoryOrder,
}

fn one() -> PerElement {
    PerElement::One(1.0)
}
fn zero() -> PerElement {
    PerElement::One(0.0)
}
fn one_frame() -> u16 {
    1
}

impl TermSpec {
    /// The whole signal, unscaled, without history.
    #[must_use]
    pub fn plain(name: &str, signal: Signal) -> Self {
        Self {
            name: name.to_string(),
            signal,
            elements: None,
            scale: one(),
            offset: zero(),
            clip: None,
            history: 1,
            order: HistoryOrder::OldestFirst,
        }
    }
}

/// Order of the frames of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryOrder {
    /// As Isaac Lab keeps it.
    #[default]
    OldestFirst,
    /// Newest frame first.
    NewestFirst,
}

/// What an action sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Mode {
    /// rad or m.
    Position = mode::POSITION,
    /// rad/s or m/s.
    Velocity = mode::VELOCITY,
    /// N m or N.
    Torque = mode::TORQUE,
}

/// One element of the raw action: `setpoint = clip(action) * scale + offset`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSpec {
    /// Joint by name.
    pub joint: String,
    /// What it sets.
    pub mode: Mode,
    /// Setpoint units per unit of action.
    pub scale: f32,
    /// Setpoint at action 0.
    #[serde(default)]
    pub offset: f32,
    /// Clip of the raw action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f32; 2]>,
    /// Position gain.
    #[serde(default)]
    pub kp: f32,
    /// Velocity gain.
    #[serde(default)]
    pub kd: f32,
}

/// Staged start and fallback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FallbackSpec {
    /// Age beyond which a raw state is stale, s.
    pub state_timeout_s: f64,
    /// Silence of the host that ends Running, s.
    pub heartbeat_timeout_s: f64,
    /// The last setpoint is held so long, s.
    pub hold_s: f64,
    /// Then joints are damped so long, s.
    pub damp_s: f64,
    /// Healthy time before arming and before running, s.
    pub dwell_s: f64,
    /// Largest distance to the default pose at which the policy may start, rad or m.
    pub ready_tolerance: f32,
    /// Speed of the way there, rad/s or m/s.
    pub ready_velocity: f32,
}

impl Default for FallbackSpec {
    fn default() -> Self {
        Self {
            state_timeout_s: 0.1,
            heartbeat_timeout_s: 0.25,
            hold_s: 0.1,
            damp_s: 1.0,
            dwell_s: 0.2,
            ready_tolerance: 0.2,
            ready_velocity: 0.5,
        }
    }
}

/// Why a specification is no contract: field, value, next step in one sentence.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// A field of the specification.
    #[error("contract field `{field}`: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// Value found and what it has to be.
        problem: String,
    },
    /// The compiled records do not hold.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The JSON does not parse.
    #[error("contract JSON: {0}")]
    Json(String),
}

/// Records of a contract, owned.
#[derive(Clone, Debug)]
pub struct CompiledContract {
    header: ContractHeader,
    joints: Vec<JointRecord>,
    terms: Vec<TermRecord>,
    actions: Vec<ActionRecord>,
    profiles: Vec<ProfileRecord>,
    sensors: Vec<SensorRecord>,
    values: Vec<f32>,
}

impl CompiledContract {
    /// The view that the runtime works with.
    #[must_use]
    pub fn view(&self) -> Contract<'_> {
        Contract {
            header: &self.header,
            joints: &self.joints,
            terms: &self.terms,
            actions: &self.actions,
            profiles: &self.profiles,
            sensors: &self.sensors,
            values: &self.values,
        }
    }

    /// Bytes of the contract section.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = bytemuck::bytes_of(&self.header).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(&self.joints));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.terms));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.actions));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.profiles));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.sensors));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.values));
        bytes
    }

    /// Hash of the contract section, as in the image's header.
    #[must_use]
    pub fn schema_hash(&self) -> u64 {
        tendon_wire::fnv1a(tendon_wire::FNV1A_START, &self.bytes())
    }
}

impl ContractSpec {
    /// Reads the JSON of the metadata key.
    ///
    /// # Errors
    /// [`SpecError::Json`] with line and column.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        serde_json::from_str(text).map_err(|error| SpecError::Json(error.to_string()))
    }

    /// The JSON of the metadata key, numbers at full precision.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Compiles to records and checks them.
    ///
    /// # Errors
    /// The first field that does not hold.
    pub fn compile(&self) -> Result<CompiledContract, SpecError> {
        let fail = |field: String, problem: String| Err(SpecError::Field { field, problem });
        if self.version != VERSION {
            return fail("version".into(), format!("is {}, this program reads {VERSION}", self.version));
        }
        if self.robot.is_empty() || self.robot.len() > 32 {
            return fail("robot".into(), format!("`{}` is not 1 to 32 bytes long", self.robot));
        }
        // Before anything is narrowed to the records' 16 bits, allocated, or compared pair by pair.
        let counts = [
            ("joints", self.joints.len(), MAX_JOINTS),
            ("observations", self.observations.len(), MAX_OBSERVATION),
            ("actions", self.actions.len(), MAX_JOINTS),
            ("commands", self.commands.len(), MAX_COMMANDS),
            ("preferences", self.preferences.len(), MAX_PREFERENCES),
            ("sensors", self.sensors.len(), MAX_SENSORS),
            ("profiles", self.profiles.len(), MAX_PROFILES),
        ];
        for (field, count, most) in counts {
            if count > most {
                return fail(field.into(), format!("has {count} entries, a controller takes at most {most}"));
            }
        }
        for (index, joint) in self.joints.iter().enumerate() {
            if self.joints[..index].iter().any(|other| other.name == joint.name) {
                return fail(format!("joints[{index}].name"), format!("`{}` occurs twice", joint.name));
            }
        }
        let joints: Vec<JointRecord> =
            self.joints.iter().enumerate().map(|(i, joint)| joint.record(i)).collect();
        let actions = self.compile_actions()?;
        let mut compiled = CompiledContract {
            header: self.header(&joints, &actions)?,
            joints,
            terms: Vec::new(),
            actions,
            profiles: self.profile_records()?,
            sensors: self.monitors.sensor_records(&self.sensors, self.control_period_s)?,
            values: Vec::new(),
        };
        for (index, term) in self.observations.iter().enumerate() {
            let length = compiled.view().signal_len(term.signal as u8).unwrap_or(0);
            term.append(index, length, &mut compiled)?;
        }
        compiled.header.n_values = compiled.values.len() as u32;
        compiled.view().check()?;
        Ok(compiled)
    }

    fn header(&self, joints: &[JointRecord], actions: &[ActionRecord]) -> Result<ContractHeader, SpecError> {
        let f = &self.fallback;
        Ok(ContractHeader {
            period_us: micros("control_period_s", self.control_period_s)?,
            n_joints: joints.len() as u16,
            n_terms: self.observations.len() as u16,
            n_actions: actions.len() as u16,
            n_commands: self.commands.len() as u16,
            n_preferences: self.preferences.len() as u16,
            n_sensors: self.sensors.len() as u16,
            n_observation: 0,
            history_len: 0,
            n_values: 0,
            state_timeout_us: micros("fallback.state_timeout_s", f.state_timeout_s)?,
            heartbeat_timeout_us: micros("fallback.heartbeat_timeout_s", f.heartbeat_timeout_s)?,
            hold_us: micros("fallback.hold_s", f.hold_s)?,
            damp_us: micros("fallback.damp_s", f.damp_s)?,
            dwell_us: micros("fallback.dwell_s", f.dwell_s)?,
            ready_tolerance: f.ready_tolerance,
            ready_velocity: f.ready_velocity,
            power_budget: self.power_budget.unwrap_or(f32::MAX),
            n_profiles: self.profiles.len() as u16,
            default_profile: self.default_profile_index()?,
            monitors: self.monitors.record(),
        })
    }

    fn compile_actions(&self) -> Result<Vec<ActionRecord>, SpecError> {
        self.actions
            .iter()
            .enumerate()
            .map(|(index, action)| {
                let joint =
                    self.joints.iter().position(|joint| joint.name == action.joint).ok_or_else(|| {
                        SpecError::Field {
                            field: format!("actions[{index}].joint"),
                            problem: format!("`{}` is no joint: name one of `joints`", action.joint),
                        }
                    })?;
                let [low, high] = action.clip.unwrap_or([-NO_CLIP, NO_CLIP]);
                Ok(ActionRecord {
                    joint: joint as u16,
                    mode: action.mode as u8,
                    reserved: 0,
                    scale: action.scale,
                    offset: action.offset,
                    low,
                    high,
                    kp: action.kp,
                    kd: action.kd,
                })
            })
            .collect()
    }
}

impl JointSpec {
    fn record(&self, index: usize) -> JointRecord {
        JointRecord {
            robot_index: self.robot_index.unwrap_or(index as u32),
            default_position: self.default_position,
            position_min: self.position_limits[0],
            position_max: self.position_limits[1],
            velocity_limit: self.velocity_limit,
            acceleration_limit: self.acceleration_limit,
            torque_limit: self.torque_limit,
            position_rate_limit: self.position_rate_limit,
            torque_rate_limit: self.torque_rate_limit,
            kp: self.kp,
            kd: self.kd,
            damping_kd: self.damping_kd.unwrap_or(self.kd),
            jerk_limit: self.jerk_limit.unwrap_or(UNLIMITED_JERK),
            braking_deceleration: self.braking_deceleration.unwrap_or(self.acceleration_limit),
        }
    }
}

impl TermSpec {
    fn append(&self, index: usize, length: usize, out: &mut CompiledContract) -> Result<(), SpecError> {
        let [first, width] = self.elements.unwrap_or([0, length as u16]);
        if width == 0 || usize::from(first) + usize::from(width) > length {
            return Err(SpecError::Field {
                field: format!("observations[{index}].elements"),
                problem: format!(
                    "`{}` takes {width} from element {first}, its signal has {length}",
                    self.name
                ),
            });
        }
        let each = |field: &str, values: &PerElement| {
            values.expand(width.into()).ok_or_else(|| SpecError::Field {
                field: format!("observations[{index}].{field}"),
                problem: format!("`{}` needs 1 or {width} numbers", self.name),
            })
        };
        let scale = each("scale", &self.scale)?;
        let offset = each("offset", &self.offset)?;
        let [low, high] = self.clip.unwrap_or([-NO_CLIP, NO_CLIP]);
        let values = out.values.len() as u32;
        out.terms.push(TermRecord {
            signal: self.signal as u8,
            newest_first: u8::from(self.order == HistoryOrder::NewestFirst),
            history: self.history,
            first,
            width,
            values,
        });
        out.values.extend(scale);
        out.values.extend(offset);
        out.values.extend(vec![low; width.into()]);
        out.values.extend(vec![high; width.into()]);
        debug_assert_eq!(out.values.len() - values as usize, usize::from(width) * TERM_VALUES);
        let frames = u32::from(width) * u32::from(self.history);
        out.header.n_observation = out.header.n_observation.saturating_add(frames);
        if self.history > 1 {
            out.header.history_len = out.header.history_len.saturating_add(frames);
        }
        Ok(())
    }
}

fn micros(field: &str, seconds: f64) -> Result<u32, SpecError> {
    let us = (seconds * 1e6).round();
    if us.is_finite() && (0.0..=4e9).contains(&us) {
        Ok(us as u32)
    } else {
        Err(SpecError::Field {
            field: field.to_string(),
            problem: format!("is {seconds} s: give a time between 0 and 4000 s"),
        })
    }
}
