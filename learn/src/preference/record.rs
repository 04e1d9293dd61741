//! What is compared and what was answered.

use serde::{Deserialize, Serialize};

use super::teacher::TeacherConfig;

/// Version of the records below; a reader refuses others.
pub const SCHEMA_VERSION: u32 = 1;

/// A stretch of one episode. Row `t` of the tables belongs together: the observation before the action, the action, its reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// Unique in its store, counted from 0.
    pub id: u64,
    /// Seed that started the episode.
    pub episode_seed: u64,
    /// Iteration of the learner that recorded it.
    pub iteration: u64,
    /// Width of an observation.
    pub observation_len: usize,
    /// Width of an action.
    pub action_len: usize,
    /// `[steps, observation_len]`.
    pub observations: Vec<f32>,
    /// As applied, `[steps, action_len]`.
    pub actions: Vec<f32>,
    /// The task's rewards, `[steps]`: for scripted teachers and for evaluation. Reward models never read them.
    pub true_rewards: Option<Vec<f32>>,
}

impl Segment {
    /// Control steps.
    pub fn steps(&self) -> usize {
        self.actions.len() / self.action_len.max(1)
    }

    /// Names the first field that cannot be right, and why.
    ///
    /// # Errors
    /// `(field, problem)`.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.schema != SCHEMA_VERSION {
            return Err(("schema", format!("{} instead of {SCHEMA_VERSION}", self.schema)));
        }
        if self.action_len == 0
            || self.actions.is_empty()
            || !self.actions.len().is_multiple_of(self.action_len)
        {
            return Err((
                "actions",
                format!("{} values, no positive multiple of {}", self.actions.len(), self.action_len),
            ));
        }
        if Some(self.observations.len()) != self.steps().checked_mul(self.observation_len) {
            return Err((
                "observations",
                format!(
                    "{} values for {} steps of {}",
                    self.observations.len(),
                    self.steps(),
                    self.observation_len
                ),
            ));
        }
        let rewards = self.true_rewards.as_deref().unwrap_or_default();
        if self.true_rewards.is_some() && rewards.len() != self.steps() {
            return Err(("true_rewards", format!("{} values for {} steps", rewards.len(), self.steps())));
        }
        for (field, values) in
            [("observations", &*self.observations), ("actions", &*self.actions), ("true_rewards", rewards)]
        {
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err((field, format!("value {i} is {}", values[i])));
            }
        }
        Ok(())
    }
}

/// One answer about two segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// Segment in the role `left`.
    pub left: u64,
    /// Segment in the role `right`.
    pub right: u64,
    /// The answer.
    pub label: Label,
    /// Who gave it.
    pub annotator: Annotator,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Label {
    /// One of the two is better.
    Pair {
        /// Which.
        preferred: Role,
        /// How likely the annotator holds that to be, 0.5..=1.
        probability: f32,
    },
    /// Both are equally good.
    Tie,
    /// No answer is possible; not learned from.
    Skip,
}

/// Roles in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// [`Preference::left`].
    Left,
    /// [`Preference::right`].
    Right,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Annotator {
    /// A scripted teacher.
    Scripted {
        /// Its knobs.
        teacher: TeacherConfig,
        /// Its seed.
        seed: u64,
    },
    /// A person.
    Person {
        /// Any stable name.
        user: String,
    },
}

impl Preference {
    /// Target probability that `left` is better: 1, 0, soft, or 0.5 for a tie; `None` for a skip.
    pub fn left_probability(&self) -> Option<f32> {
        match self.label {
            Label::Pair { preferred: Role::Left, probability } => Some(probability),
            Label::Pair { preferred: Role::Right, probability } => Some(1.0 - probability),
            Label::Tie => Some(0.5),
            Label::Skip => None,
        }
    }

    /// Names the first field that cannot be right, and why. `segments` finds a segment by id.
    ///
    /// # Errors
    /// `(field, problem)`.
    pub fn check<'a>(
        &self,
        segments: impl Fn(u64) -> Option<&'a Segment>,
    ) -> Result<(), (&'static str, String)> {
        if self.schema != SCHEMA_VERSION {
            return Err(("schema", format!("{} instead of {SCHEMA_VERSION}", self.schema)));
        }
        let left = segments(self.left)
            .ok_or_else(|| ("left", format!("no segment {} before this line", self.left)))?;
        let right = segments(self.right)
            .ok_or_else(|| ("right", format!("no segment {} before this line", self.right)))?;
        let shape = |s: &Segment| (s.steps(), s.observation_len, s.action_len);
        if self.left == self.right || shape(left) != shape(right) {
            return Err(("right", format!("segments {} and {} cannot be compared", self.left, self.right)));
        }
        match self.label {
            Label::Pair { probability, .. } if !(0.5..=1.0).contains(&probability) => {
                Err(("label.probability", format!("{probability} is not in 0.5..1")))
            }
            _ => Ok(()),
        }
    }
}
