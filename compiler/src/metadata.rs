//! Metadata that other tools write beside the graph: comma-separated values (BeyondMimic, mjlab) or
//! JSON (holosoma) under the same keys.

use crate::error::ContractSourceError;
use std::collections::BTreeMap;
use tendon_runtime::spec::{Signal, TermSpec};

/// What the known keys say; empty where they are absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForeignMetadata {
    /// Keys found.
    pub(crate) found: Vec<&'static str>,
    pub(crate) joint_names: Vec<String>,
    pub(crate) joint_stiffness: Vec<f32>,
    pub(crate) joint_damping: Vec<f32>,
    pub(crate) default_joint_pos: Vec<f32>,
    pub(crate) observation_names: Vec<String>,
    pub(crate) action_scale: Vec<f32>,
}

/// Names of observation terms in other tools, where they mean exactly one of our signals.
const TERM_NAMES: &[(&str, Signal)] = &[
    ("base_lin_vel", Signal::BaseLinearVelocity),
    ("base_ang_vel", Signal::BaseAngularVelocity),
    ("projected_gravity", Signal::ProjectedGravity),
    ("joint_pos", Signal::JointPositionRelative),
    ("joint_pos_rel", Signal::JointPositionRelative),
    ("joint_vel", Signal::JointVelocity),
    ("joint_vel_rel", Signal::JointVelocity),
    ("actions", Signal::LastAction),
    ("last_action", Signal::LastAction),
    ("command", Signal::Command),
    ("velocity_commands", Signal::Command),
];

impl ForeignMetadata {
    /// Reads the keys that are there.
    pub(crate) fn read(metadata: &BTreeMap<String, String>) -> Result<Self, ContractSourceError> {
        let mut this = Self::default();
        let mut texts = |key: &'static str| match metadata.get(key) {
            Some(value) => {
                this.found.push(key);
                list(key, value)
            }
            None => Ok(Vec::new()),
        };
        let joint_names = texts("joint_names")?;
        let observation_names = texts("observation_names")?;
        let mut numbers = |key: &'static str| {
            texts(key)?
                .iter()
                .map(|text| {
                    text.parse::<f32>().ok().filter(|value| value.is_finite()).ok_or_else(|| {
                        ContractSourceError::Metadata {
                            key: key.into(),
                            problem: format!("`{text}` is no finite number"),
                        }
                    })
                })
                .collect::<Result<Vec<f32>, _>>()
        };
        let joint_stiffness = numbers("joint_stiffness")?;
        let joint_damping = numbers("joint_damping")?;
        let default_joint_pos = numbers("default_joint_pos")?;
        let action_scale = numbers("action_scale")?;
        for (key, length) in [
            ("joint_stiffness", joint_stiffness.len()),
            ("joint_damping", joint_damping.len()),
            ("default_joint_pos", default_joint_pos.len()),
        ] {
            if length != 0 && length != joint_names.len() {
                return Err(ContractSourceError::Metadata {
                    key: key.into(),
                    problem: format!("has {length} numbers for {} joint_names", joint_names.len()),
                });
            }
        }
        Ok(Self {
            found: this.found,
            joint_names,
            joint_stiffness,
            joint_damping,
            default_joint_pos,
            observation_names,
            action_scale,
        })
    }

    /// Action scale of a joint: one for all or one each.
    pub(crate) fn scale(&self, joint: usize) -> Option<f32> {
        match *self.action_scale {
            [scale] => Some(scale),
            _ => self.action_scale.get(joint).copied(),
        }
    }
}

/// Terms by their names; names without a signal go to `missing`.
pub(crate) fn terms(foreign: &ForeignMetadata, missing: &mut Vec<String>) -> Vec<TermSpec> {
    if foreign.observation_names.is_empty() {
        missing.push("observations".into());
    }
    let mut terms = Vec::new();
    for name in &foreign.observation_names {
        match TERM_NAMES.iter().find(|(known, _)| known == name) {
            Some((_, signal)) => terms.push(TermSpec::plain(name, *signal)),
            None => missing.push(format!("observations (`{name}` names no signal of the runtime)")),
        }
    }
    terms
}

/// Values of a key: a JSON array or number, or text between commas.
fn list(key: &str, value: &str) -> Result<Vec<String>, ContractSourceError> {
    let trimmed = value.trim();
    if !trimmed.starts_with('[') {
        return Ok(trimmed.split(',').map(|part| part.trim().to_string()).collect());
    }
    let problem = |text: String| ContractSourceError::Metadata { key: key.into(), problem: text };
    let values: Vec<serde_json::Value> =
        serde_json::from_str(trimmed).map_err(|error| problem(format!("is no JSON array: {error}")))?;
    values
        .into_iter()
        .map(|value| match value {
            serde_json::Value::String(text) => Ok(text),
            serde_json::Value::Number(number) => Ok(number.to_string()),
            other => Err(problem(format!("holds {other}: expected texts or numbers"))),
        })
        .collect()
}
