//! Scripted teachers: answers from the task's true reward, with a person's weaknesses.

use serde::{Deserialize, Serialize};

use super::record::{Label, Role, Segment};
use crate::Rng;

/// B-Pref's five knobs (Lee et al. 2021, section 3.2). The default is its oracle: always right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherConfig {
    /// beta: the better segment is chosen with probability `sigmoid(beta difference)`; 0 or below is a perfectly rational choice, as in
    /// B-Pref's code.
    pub rationality: f32,
    /// gamma in 0..1: the reward of a step that lies `k` steps before the end weighs `gamma^k`; 1 remembers all alike.
    pub myopia: f32,
    /// epsilon in 0..1: probability that the answer is turned round.
    pub mistake: f32,
    /// No answer when both segments' weighted sums are below this; `f32::MIN` never skips.
    pub skip_threshold: f32,
    /// A tie when the weighted sums differ by less than this.
    pub equal_threshold: f32,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self { rationality: -1.0, myopia: 1.0, mistake: 0.0, skip_threshold: f32::MIN, equal_threshold: 0.0 }
    }
}

impl TeacherConfig {
    /// Compares two segments by their true rewards; without these it skips.
    pub fn label(&self, left: &Segment, right: &Segment, rng: &mut Rng) -> Label {
        let (Some(left), Some(right)) = (self.weighted_sum(left), self.weighted_sum(right)) else {
            return Label::Skip;
        };
        if left.max(right) < f64::from(self.skip_threshold) {
            return Label::Skip;
        }
        if left == right || (left - right).abs() < f64::from(self.equal_threshold) {
            return Label::Tie;
        }
        let left_better = match f64::from(self.rationality) {
            beta if beta > 0.0 => rng.uniform() < 1.0 / (1.0 + (beta * (right - left)).exp()),
            _ => left > right,
        };
        let mistaken = rng.uniform() < f64::from(self.mistake);
        Label::Pair {
            preferred: if left_better != mistaken { Role::Left } else { Role::Right },
            probability: 1.0,
        }
    }

    fn weighted_sum(&self, segment: &Segment) -> Option<f64> {
        let fold = |sum: f64, reward: &f32| sum * f64::from(self.myopia) + f64::from(*reward);
        segment.true_rewards.as_ref().map(|rewards| rewards.iter().fold(0.0, fold))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::SCHEMA_VERSION;
    use super::*;

    fn segment(rewards: &[f32]) -> Segment {
        Segment {
            schema: SCHEMA_VERSION,
            id: 0,
            episode_seed: 0,
            iteration: 0,
            observation_len: 0,
            action_len: 1,
            observations: vec![],
            actions: vec![0.0; rewards.len()],
            true_rewards: Some(rewards.to_vec()),
        }
    }

    fn left_rate(teacher: TeacherConfig, left: &[f32], right: &[f32]) -> f64 {
        let mut rng = Rng::at(1, &[]);
        let label = |_| teacher.label(&segment(left), &segment(right), &mut rng);
        (0..4000).map(label).filter(|l| matches!(l, Label::Pair { preferred: Role::Left, .. })).count() as f64
            / 4000.0
    }

    #[test]
    fn the_oracle_is_always_right() {
        assert_eq!(left_rate(TeacherConfig::default(), &[1.0, 0.0], &[0.5, 0.4]), 1.0);
        assert_eq!(left_rate(TeacherConfig::default(), &[0.5, 0.4], &[1.0, 0.0]), 0.0);
    }

    #[test]
    fn rationality_makes_the_choice_a_sigmoid_of_the_difference() {
        let rate = left_rate(TeacherConfig { rationality: 2.0, ..TeacherConfig::default() }, &[1.0], &[0.5]);
        assert!((rate - 1.0 / (1.0 + (-1.0f64).exp())).abs() < 0.03, "{rate}");
    }

    #[test]
    fn myopia_prefers_the_segment_that_ends_well() {
        let teacher = TeacherConfig { myopia: 0.5, ..TeacherConfig::default() };
        assert_eq!(left_rate(teacher, &[0.0, 1.0], &[1.5, 0.0]), 1.0);
    }

    #[test]
    fn mistakes_turn_answers_round_at_their_rate() {
        let rate = left_rate(TeacherConfig { mistake: 0.2, ..TeacherConfig::default() }, &[1.0], &[0.0]);
        assert!((rate - 0.8).abs() < 0.03, "{rate}");
    }

    #[test]
    fn thresholds_skip_the_worthless_and_tie_the_similar() {
        let teacher = TeacherConfig { skip_threshold: 0.5, equal_threshold: 0.2, ..TeacherConfig::default() };
        let mut rng = Rng::at(0, &[]);
        assert_eq!(teacher.label(&segment(&[0.4]), &segment(&[0.1]), &mut rng), Label::Skip);
        assert_eq!(teacher.label(&segment(&[0.7]), &segment(&[0.6]), &mut rng), Label::Tie);
        assert_eq!(
            teacher.label(&Segment { true_rewards: None, ..segment(&[1.0]) }, &segment(&[1.0]), &mut rng),
            Label::Skip
        );
    }
}
