//! Which segments are shown.

use serde::{Deserialize, Serialize};

use super::record::{SCHEMA_VERSION, Segment};
use super::reward_model::{RewardModel, mean_and_variance};
use crate::{Rng, Rollout};

/// How pairs are chosen from candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// At random.
    Uniform,
    /// Those about which the ensemble's members disagree most: variance of `P(left better)` (Christiano et al. 2017, section 2.2.4).
    Disagreement,
}

/// Cuts `count` random segments of `steps` steps out of a rollout, none across the end of an episode. Fewer come back when such
/// stretches are rare.
pub fn cut_segments(
    rollout: &Rollout,
    steps: usize,
    count: usize,
    first_id: u64,
    iteration: u64,
    rng: &mut Rng,
) -> Vec<Segment> {
    /// Draws per segment before giving up.
    const ATTEMPTS: usize = 20;
    let rows = rollout.rewards.len();
    let (n_obs, n_act) = (rollout.observations.len() / rows, rollout.applied.len() / rows);
    let mut segments = Vec::with_capacity(count);
    if steps > rollout.steps {
        return segments;
    }
    for _ in 0..count * ATTEMPTS {
        if segments.len() == count {
            break;
        }
        let start = rng.below(rows / rollout.steps) * rollout.steps + rng.below(rollout.steps - steps + 1);
        let range = start..start + steps;
        let seeds = &rollout.episode_seeds[range.clone()];
        if seeds.iter().any(|seed| *seed != seeds[0]) {
            continue;
        }
        segments.push(Segment {
            schema: SCHEMA_VERSION,
            id: first_id + segments.len() as u64,
            episode_seed: seeds[0],
            iteration,
            observation_len: n_obs,
            action_len: n_act,
            observations: rollout.observations[range.start * n_obs..range.end * n_obs].to_vec(),
            actions: rollout.applied[range.start * n_act..range.end * n_act].to_vec(),
            true_rewards: Some(rollout.rewards[range].to_vec()),
        });
    }
    segments
}

/// Chooses up to `count` of the candidate pairs `(left, right)`, best first.
pub fn choose(
    mut pairs: Vec<(Segment, Segment)>,
    sampling: Sampling,
    model: &RewardModel,
    count: usize,
) -> Vec<(Segment, Segment)> {
    if sampling == Sampling::Disagreement {
        let disagreement = |(left, right): &(Segment, Segment)| {
            let scores = model.member_scores(left).into_iter().zip(model.member_scores(right));
            let probabilities: Vec<f64> = scores.map(|(l, r)| 1.0 / (1.0 + (r - l).exp())).collect();
            mean_and_variance(&probabilities).1
        };
        let mut scored: Vec<_> = pairs.into_iter().map(|pair| (disagreement(&pair), pair)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        pairs = scored.into_iter().map(|(_, pair)| pair).collect();
    }
    pairs.truncate(count);
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::reward_model::RewardConfig;
    use super::*;

    fn rollout() -> Rollout {
        Rollout {
            steps: 20,
            observations: (0..40).map(|i| i as f32).collect(),
            applied: vec![0.5; 40],
            rewards: (0..40).map(|i| i as f32).collect(),
            // The first environment's episode ends after step 12.
            episode_seeds: (0..40)
                .map(|i| {
                    if i < 12 {
                        1
                    } else if i < 20 {
                        2
                    } else {
                        3
                    }
                })
                .collect(),
            ..Rollout::default()
        }
    }

    #[test]
    fn segments_stay_inside_one_episode_and_keep_rows_together() {
        let segments = cut_segments(&rollout(), 10, 30, 5, 0, &mut Rng::at(0, &[]));
        assert_eq!(segments.len(), 30);
        for (i, segment) in segments.iter().enumerate() {
            segment.check().unwrap();
            assert_eq!(segment.id, 5 + i as u64);
            assert_eq!(Some(&segment.observations), segment.true_rewards.as_ref());
            let start = segment.observations[0] as usize;
            assert!(start <= 2 || (20..=30).contains(&start), "{start}");
        }
        assert!(cut_segments(&rollout(), 21, 3, 0, 0, &mut Rng::at(0, &[])).is_empty());
    }

    #[test]
    fn disagreement_puts_the_pair_with_most_variance_first() {
        let segments = cut_segments(&rollout(), 10, 20, 0, 0, &mut Rng::at(0, &[]));
        let pairs: Vec<_> = segments.chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect();
        let model = RewardModel::new(&RewardConfig::default(), 1, 1, 0);
        let variance = |(l, r): &(Segment, Segment)| {
            let p: Vec<f64> = model
                .member_scores(l)
                .iter()
                .zip(model.member_scores(r))
                .map(|(l, r)| 1.0 / (1.0 + (r - l).exp()))
                .collect();
            mean_and_variance(&p).1
        };
        let chosen = choose(pairs.clone(), Sampling::Disagreement, &model, 3);
        let best = pairs.iter().map(&variance).fold(0.0, f64::max);
        assert_eq!(variance(&chosen[0]), best);
        assert!(variance(&chosen[1]) >= variance(&chosen[2]));
    }
}
