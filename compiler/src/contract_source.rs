//! Where a contract comes from: the metadata key `tendon.contract`, a TOML beside the file, or the
//! CSV keys of other tools completed by a TOML.

use crate::error::{CompileError, ContractSourceError};
use crate::import::Model;
use crate::metadata::{self, ForeignMetadata};
use serde::Deserialize;
use tendon_runtime::Contract;
use tendon_runtime::spec::{
    ActionSpec, ContractSpec, FallbackSpec, InputSpec, JointSpec, METADATA_KEY, Mode, MonitorsSpec,
    ProfileSpec, QuaternionOrder, TermSpec, UNLIMITED,
};

/// Largest contract, as TOML or JSON.
pub const MAX_CONTRACT: usize = 1 << 20;

/// Which contract an image gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContractChoice<'a> {
    /// The one in the file's metadata; none there: a bare network.
    #[default]
    FromMetadata,
    /// This TOML, whatever the file says.
    Toml {
        /// Name for messages.
        file: &'a str,
        /// Content.
        text: &'a str,
    },
    /// None: raw inputs to raw outputs; no controller arms it.
    Bare,
}

/// The contract of a model, or `None` for a bare network.
///
/// # Errors
/// When a source does not parse, is incomplete or does not hold.
pub fn contract_of(
    model: &Model,
    choice: ContractChoice<'_>,
) -> Result<Option<ContractSpec>, ContractSourceError> {
    match choice {
        ContractChoice::Bare => Ok(None),
        ContractChoice::Toml { file, text } => from_toml(file, text, model).map(Some),
        ContractChoice::FromMetadata => match model.metadata.get(METADATA_KEY) {
            Some(json) => {
                check_length(METADATA_KEY, json)?;
                ContractSpec::from_json(json).map(Some).map_err(|error| ContractSourceError::Metadata {
                    key: METADATA_KEY.into(),
                    problem: error.to_string(),
                })
            }
            None => {
                let foreign = ForeignMetadata::read(&model.metadata)?;
                if foreign.found.is_empty() {
                    return Ok(None);
                }
                PartialContract::default().complete(&foreign).map(Some)
            }
        },
    }
}

/// Checks that contract and graph have the same counts.
///
/// # Errors
/// With the sum of the terms' widths, one by one.
pub(crate) fn check_counts(
    spec: &ContractSpec,
    compiled: &Contract<'_>,
    model: &Model,
    n_inputs: usize,
    n_outputs: usize,
) -> Result<(), CompileError> {
    let n_observation = compiled.header.n_observation as usize;
    if n_observation != n_inputs {
        let terms: Vec<String> = spec
            .observations
            .iter()
            .zip(compiled.terms)
            .map(|(term, record)| format!("{} {} x {}", term.name, record.width, record.history))
            .collect();
        return Err(CompileError::Mismatch(format!(
            "the graph's input `{}` has {n_inputs} elements, the contract's terms make {n_observation} (width x history: {}): correct `observations` in the contract",
            model.inputs.iter().map(|port| &*port.name).collect::<Vec<_>>().join(", "),
            terms.join(" + ")
        )));
    }
    if spec.actions.len() != n_outputs {
        return Err(CompileError::Mismatch(format!(
            "the graph's output `{}` has {n_outputs} elements, the contract has {} actions: correct `actions` in the contract",
            model.outputs.join(", "),
            spec.actions.len()
        )));
    }
    Ok(())
}

/// A [`ContractSpec`] in which everything may be left out that metadata or defaults can give.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PartialContract {
    /// Take over what the ONNX file's CSV keys say.
    use_metadata: bool,
    version: Option<u32>,
    robot: Option<String>,
    control_period_s: Option<f64>,
    quaternion_order: QuaternionOrder,
    commands: Vec<InputSpec>,
    preferences: Vec<InputSpec>,
    sensors: Vec<String>,
    /// What holds for every joint that does not say otherwise.
    joint_defaults: PartialJoint,
    joints: Vec<PartialJoint>,
    observations: Vec<TermSpec>,
    /// What holds for every action that does not say otherwise.
    action_defaults: PartialAction,
    actions: Vec<PartialAction>,
    fallback: FallbackSpec,
    power_budget: Option<f32>,
    profiles: Vec<ProfileSpec>,
    default_profile: Option<String>,
    monitors: MonitorsSpec,
    error_budget: Option<f32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PartialJoint {
    name: Option<String>,
    robot_index: Option<u32>,
    default_position: Option<f32>,
    position_limits: Option<[f32; 2]>,
    velocity_limit: Option<f32>,
    acceleration_limit: Option<f32>,
    jerk_limit: Option<f32>,
    braking_deceleration: Option<f32>,
    torque_limit: Option<f32>,
    position_rate_limit: Option<f32>,
    torque_rate_limit: Option<f32>,
    kp: Option<f32>,
    kd: Option<f32>,
    damping_kd: Option<f32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PartialAction {
    joint: Option<String>,
    mode: Option<Mode>,
    scale: Option<f32>,
    offset: Option<f32>,
    clip: Option<[f32; 2]>,
    kp: Option<f32>,
    kd: Option<f32>,
}

fn from_toml(file: &str, text: &str, model: &Model) -> Result<ContractSpec, ContractSourceError> {
    check_length(file, text)?;
    let partial: PartialContract = toml::from_str(text).map_err(|error| toml_error(file, text, &error))?;
    let foreign = if partial.use_metadata {
        ForeignMetadata::read(&model.metadata)?
    } else {
        ForeignMetadata::default()
    };
    let spec = partial.complete(&foreign).map_err(|error| match error {
        ContractSourceError::Incomplete { missing, found } => ContractSourceError::Toml {
            file: file.into(),
            line: 1,
            column: 1,
            problem: format!(
                "missing: {missing}{}",
                if found.is_empty() { String::new() } else { format!(" (taken from metadata: {found})") }
            ),
        },
        other => other,
    })?;
    spec.compile().map_err(|error| ContractSourceError::Spec { origin: file.to_string(), error })?;
    Ok(spec)
}

fn check_length(file: &str, text: &str) -> Result<(), ContractSourceError> {
    if text.len() > MAX_CONTRACT {
        return Err(ContractSourceError::TooLarge {
            file: file.into(),
            length: text.len(),
            limit: MAX_CONTRACT,
        });
    }
    Ok(())
}

impl PartialContract {
    /// Fills in what is left out and names everything that still lacks.
    fn complete(self, foreign: &ForeignMetadata) -> Result<ContractSpec, ContractSourceError> {
        let mut missing = Vec::new();
        let mut need = |key: &str, present: bool| {
            if !present {
                missing.push(key.to_string());
            }
        };
        need("version = 1", self.version.is_some() || !self.use_metadata && !foreign.found.is_empty());
        need("robot", self.robot.is_some());
        need("control_period_s", self.control_period_s.is_some());
        let joints = self.joints(foreign, &mut missing);
        let actions = self.actions(foreign, &joints, &mut missing);
        let observations = if self.observations.is_empty() {
            metadata::terms(foreign, &mut missing)
        } else {
            self.observations
        };
        if !missing.is_empty() {
            return Err(ContractSourceError::Incomplete {
                found: foreign.found.join(", "),
                missing: missing.join(", "),
            });
        }
        Ok(ContractSpec {
            version: self.version.unwrap_or(tendon_runtime::spec::VERSION),
            robot: self.robot.unwrap_or_default(),
            control_period_s: self.control_period_s.unwrap_or_default(),
            quaternion_order: self.quaternion_order,
            commands: self.commands,
            preferences: self.preferences,
            sensors: self.sensors,
            joints,
            observations,
            actions,
            fallback: self.fallback,
            power_budget: self.power_budget,
            profiles: self.profiles,
            default_profile: self.default_profile,
            monitors: self.monitors,
            error_budget: self.error_budget,
        })
    }

    fn joints(&self, foreign: &ForeignMetadata, missing: &mut Vec<String>) -> Vec<JointSpec> {
        let listed: Vec<PartialJoint> = if self.joints.is_empty() {
            let named = |name: &String| PartialJoint { name: Some(name.clone()), ..PartialJoint::default() };
            foreign.joint_names.iter().map(named).collect()
        } else {
            self.joints.clone()
        };
        if listed.is_empty() {
            missing.push("joints".into());
        }
        let defaults = &self.joint_defaults;
        let mut joints = Vec::new();
        for (index, joint) in listed.iter().enumerate() {
            let name = joint.name.clone().unwrap_or_default();
            let place = foreign.joint_names.iter().position(|other| *other == name);
            let at = |values: &[f32]| place.and_then(|place| values.get(place).copied());
            let mut need = |key: &str, value: Option<f32>| {
                value.unwrap_or_else(|| {
                    missing.push(format!("joints[{index}].{key} (`{name}`)"));
                    0.0
                })
            };
            let default_position = need(
                "default_position",
                joint.default_position.or(at(&foreign.default_joint_pos)).or(defaults.default_position),
            );
            let velocity_limit = need("velocity_limit", joint.velocity_limit.or(defaults.velocity_limit));
            let torque_limit = need("torque_limit", joint.torque_limit.or(defaults.torque_limit));
            let limits = joint.position_limits.or(defaults.position_limits);
            need("position_limits", limits.map(|limits| limits[0]));
            need("name", joint.name.as_ref().map(|_| 0.0));
            joints.push(JointSpec {
                robot_index: joint.robot_index,
                default_position,
                position_limits: limits.unwrap_or_default(),
                velocity_limit,
                acceleration_limit: joint
                    .acceleration_limit
                    .or(defaults.acceleration_limit)
                    .unwrap_or(UNLIMITED),
                jerk_limit: joint.jerk_limit.or(defaults.jerk_limit),
                braking_deceleration: joint.braking_deceleration.or(defaults.braking_deceleration),
                torque_limit,
                position_rate_limit: joint
                    .position_rate_limit
                    .or(defaults.position_rate_limit)
                    .unwrap_or(UNLIMITED),
                torque_rate_limit: joint
                    .torque_rate_limit
                    .or(defaults.torque_rate_limit)
                    .unwrap_or(UNLIMITED),
                kp: joint.kp.or(at(&foreign.joint_stiffness)).or(defaults.kp).unwrap_or(0.0),
                kd: joint.kd.or(at(&foreign.joint_damping)).or(defaults.kd).unwrap_or(0.0),
                damping_kd: joint.damping_kd.or(defaults.damping_kd),
                name,
            });
        }
        joints
    }

    fn actions(
        &self,
        foreign: &ForeignMetadata,
        joints: &[JointSpec],
        missing: &mut Vec<String>,
    ) -> Vec<ActionSpec> {
        let foreign_scales = !foreign.action_scale.is_empty();
        let listed: Vec<PartialAction> = if self.actions.is_empty() && foreign_scales {
            // What mjlab and BeyondMimic mean: position targets around the default pose.
            let target = |joint: &JointSpec| PartialAction {
                joint: Some(joint.name.clone()),
                mode: Some(Mode::Position),
                offset: Some(joint.default_position),
                kp: Some(joint.kp),
                kd: Some(joint.kd),
                ..PartialAction::default()
            };
            joints.iter().map(target).collect()
        } else {
            self.actions.clone()
        };
        if listed.is_empty() {
            missing.push("actions".into());
        }
        let defaults = &self.action_defaults;
        let mut actions = Vec::new();
        for (index, action) in listed.into_iter().enumerate() {
            let name = action.joint.unwrap_or_default();
            let place = foreign.joint_names.iter().position(|other| *other == name);
            let foreign_scale = place.and_then(|place| foreign.scale(place));
            let scale = action.scale.or(foreign_scale).or(defaults.scale);
            let mode = action.mode.or(defaults.mode);
            for (key, present) in
                [("joint", !name.is_empty()), ("scale", scale.is_some()), ("mode", mode.is_some())]
            {
                if !present {
                    missing.push(format!("actions[{index}].{key}"));
                }
            }
            actions.push(ActionSpec {
                joint: name,
                mode: mode.unwrap_or(Mode::Position),
                scale: scale.unwrap_or(0.0),
                offset: action.offset.or(defaults.offset).unwrap_or(0.0),
                clip: action.clip.or(defaults.clip),
                kp: action.kp.or(defaults.kp).unwrap_or(0.0),
                kd: action.kd.or(defaults.kd).unwrap_or(0.0),
            });
        }
        actions
    }
}

/// Line, column, and for a typo the key that was probably meant.
fn toml_error(file: &str, text: &str, error: &toml::de::Error) -> ContractSourceError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..start).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
    let message = error.message().trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let nearest = match (message.starts_with("unknown field"), quoted.next()) {
        (true, Some(found)) => quoted.min_by_key(|key| distance(found, key)),
        _ => None,
    };
    let problem = match (nearest, message.split('`').nth(1)) {
        (Some(key), Some(found)) => format!("unknown key `{found}`: did you mean `{key}`?"),
        _ => message.to_string(),
    };
    ContractSourceError::Toml { file: file.into(), line, column, problem }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
