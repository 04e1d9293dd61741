//! The learned reward: an ensemble fitted to preferences.

use burn::tensor::{Tensor, activation::softplus};
use serde::{Deserialize, Serialize};

use super::record::Segment;
use super::store::PreferenceStore;
use crate::gradient::{forward, matrix, parallel_map, shapes, sharded_gradient};
use crate::run_folder::FileError;
use crate::{Adam, Checkpoint, Mlp, Normaliser, Rng, stream, tanh};

/// Settings of the [`RewardModel`]. B-Pref: 3 members of 3x128, learning rate 3e-4; these are smaller and faster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// Networks in the ensemble.
    pub members: usize,
    /// Hidden layers of each, tanh.
    pub hidden: Vec<usize>,
    /// Adam's step size.
    pub learning_rate: f32,
    /// Pairs per gradient step.
    pub batch: usize,
    /// Most passes over all labels per training.
    pub epochs: usize,
    /// Training ends early when every member agrees with this fraction of the labels (B-Pref).
    pub enough_accuracy: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            members: 3,
            hidden: vec![64, 64],
            learning_rate: 1e-3,
            batch: 32,
            epochs: 20,
            enough_accuracy: 0.97,
        }
    }
}

/// An ensemble of rewards `tanh(mlp(observation, action))` in -1..1, fitted with Bradley and Terry's model (Christiano et al. 2017,
/// equation 1): `P(left better) = sigmoid(sum r(left) - sum r(right))`.
#[derive(Clone, Debug)]
pub struct RewardModel {
    config: RewardConfig,
    mlp: Mlp,
    members: Vec<Member>,
    /// Of the network's input: the observation, then the action.
    normaliser: Normaliser,
    /// Subtracted from the ensemble's mean, then multiplied by `scale`.
    offset: f32,
    scale: f32,
}

#[derive(Clone, Debug)]
struct Member {
    parameters: Vec<f32>,
    adam: Adam,
}

const MAX_GRADIENT_NORM: f32 = 1.0;

impl RewardModel {
    /// An untrained ensemble; every member has a seed of its own.
    pub fn new(config: &RewardConfig, observations: usize, actions: usize, seed: u64) -> Self {
        let mlp = Mlp::new(observations + actions, &config.hidden, 1);
        let members = (0..config.members as u64)
            .map(|m| Member {
                parameters: mlp
                    .initialise(1.0, &mut Rng::at(seed, &[stream::REWARD_MODEL, stream::WEIGHTS, m])),
                adam: Adam::new(mlp.parameter_count()),
            })
            .collect();
        Self {
            config: config.clone(),
            normaliser: Normaliser::new(mlp.inputs()),
            mlp,
            members,
            offset: 0.0,
            scale: 1.0,
        }
    }

    /// Fits the ensemble to all labels of `store`, from where it stands. Returns the mean accuracy of its members on the pairs.
    /// `place` names this training among those of one run.
    pub fn train(&mut self, store: &PreferenceStore, seed: u64, place: u64, threads: usize) -> f64 {
        let labels: Vec<(usize, usize, f32)> = store
            .preferences()
            .iter()
            .filter_map(|p| Some((p.left as usize, p.right as usize, p.left_probability()?)))
            .collect();
        if labels.is_empty() {
            return 0.0;
        }
        let segments = store.segments();
        self.normaliser = Normaliser::new(self.mlp.inputs());
        let raw: Vec<Vec<f32>> =
            segments.iter().map(|s| inputs(&s.observations, &s.actions, s.steps())).collect();
        raw.iter().for_each(|rows| self.normaliser.update(rows));
        let normalised: Vec<Vec<f32>> = raw.iter().map(|rows| self.normalise(rows)).collect();

        let mut accuracy = 0.0;
        for (m, member) in self.members.iter_mut().enumerate() {
            let mut rng = Rng::at(seed, &[stream::REWARD_MODEL, stream::SHUFFLE, place, m as u64]);
            let mut order: Vec<usize> = (0..labels.len()).collect();
            let mut correct = 0.0;
            for _ in 0..self.config.epochs {
                rng.shuffle(&mut order);
                correct = 0.0;
                for batch in order.chunks(self.config.batch) {
                    let gradient = sharded_gradient(
                        &shapes(&self.mlp),
                        &member.parameters,
                        batch,
                        threads,
                        |tensors, shard| {
                            let pairs: Vec<_> = shard.iter().map(|&i| labels[i]).collect();
                            bradley_terry(tensors, &pairs, &normalised, batch.len())
                        },
                    );
                    correct += gradient.report[0];
                    member.adam.step(
                        &mut member.parameters,
                        &gradient.values,
                        self.config.learning_rate,
                        MAX_GRADIENT_NORM,
                    );
                }
                if correct / labels.len() as f64 >= self.config.enough_accuracy {
                    break;
                }
            }
            accuracy += correct / labels.len() as f64;
        }
        accuracy / self.members.len() as f64
    }

    /// Rewards of steps, `[rows]`: the ensemble's mean, shifted and scaled as [`RewardModel::standardise`] set.
    pub fn rewards(&self, observations: &[f32], actions: &[f32], rows: usize, threads: usize) -> Vec<f32> {
        let members = self.member_rewards(observations, actions, rows, threads);
        let share = 1.0 / members.len() as f32;
        (0..rows)
            .map(|i| (members.iter().map(|m| m[i]).sum::<f32>() * share - self.offset) * self.scale)
            .collect()
    }

    /// Sets shift and scale so that rewards of these steps have unit deviation and nearly all are positive.
    ///
    /// Comparing segments of equal length says nothing about a constant added to the reward, but tasks that can terminate need one: the
    /// 5% quantile becomes 0, so that ending an episode is never worth it.
    pub fn standardise(&mut self, observations: &[f32], actions: &[f32], rows: usize, threads: usize) {
        (self.offset, self.scale) = (0.0, 1.0);
        let mut rewards = self.rewards(observations, actions, rows, threads);
        rewards.sort_by(f32::total_cmp);
        let mut spread = Normaliser::new(1);
        spread.update(&rewards);
        self.offset = rewards[rewards.len() / 20];
        self.scale = spread.scale()[0].min(MAX_SCALE);
    }

    /// Mean and variance over members of the sum of rewards, in the members' own scale.
    pub fn segment_score(&self, segment: &Segment) -> (f64, f64) {
        mean_and_variance(&self.member_scores(segment))
    }

    /// Each member's sum of rewards, `[members]`.
    pub fn member_scores(&self, segment: &Segment) -> Vec<f64> {
        let members = self.member_rewards(&segment.observations, &segment.actions, segment.steps(), 1);
        members.iter().map(|rewards| rewards.iter().map(|&r| f64::from(r)).sum()).collect()
    }

    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) {
        for (m, member) in self.members.iter().enumerate() {
            checkpoint.put(&format!("reward.{m}.parameters"), &member.parameters);
            checkpoint.put(&format!("reward.{m}.adam.first_moment"), &member.adam.first_moment);
            checkpoint.put(&format!("reward.{m}.adam.second_moment"), &member.adam.second_moment);
            checkpoint.put_counter(&format!("reward.{m}.adam.time"), member.adam.time);
        }
        checkpoint.put("reward.count", &[self.normaliser.count]);
        checkpoint.put("reward.mean", &self.normaliser.mean);
        checkpoint.put("reward.deviation", &self.normaliser.deviation);
        checkpoint.put("reward.standard", &[self.offset, self.scale]);
    }

    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        let length = self.mlp.parameter_count();
        for (m, member) in self.members.iter_mut().enumerate() {
            member.parameters = checkpoint.array_f32(&format!("reward.{m}.parameters"), length)?;
            member.adam.first_moment =
                checkpoint.array_f32(&format!("reward.{m}.adam.first_moment"), length)?;
            member.adam.second_moment =
                checkpoint.array_f32(&format!("reward.{m}.adam.second_moment"), length)?;
            member.adam.time = checkpoint.counter(&format!("reward.{m}.adam.time"))?;
        }
        let width = self.mlp.inputs();
        self.normaliser.count = checkpoint.array("reward.count", 1)?[0];
        self.normaliser.mean = checkpoint.array("reward.mean", width)?.to_vec();
        self.normaliser.deviation = checkpoint.array("reward.deviation", width)?.to_vec();
        let standard = checkpoint.array_f32("reward.standard", 2)?;
        (self.offset, self.scale) = (standard[0], standard[1]);
        Ok(())
    }

    fn member_rewards(
        &self,
        observations: &[f32],
        actions: &[f32],
        rows: usize,
        threads: usize,
    ) -> Vec<Vec<f32>> {
        let input = self.normalise(&inputs(observations, actions, rows));
        parallel_map(&self.members, threads, |_, member| {
            let mut rewards = Vec::new();
            self.mlp.infer(&member.parameters, &input, &mut rewards);
            rewards.iter_mut().for_each(|r| *r = tanh(*r));
            rewards
        })
    }

    fn normalise(&self, rows: &[f32]) -> Vec<f32> {
        let mut normalised = vec![0.0; rows.len()];
        self.normaliser.freeze().apply(rows, &mut normalised);
        normalised
    }
}

pub(crate) fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count)
}

/// An ensemble that has seen nothing gives nearly constant rewards: they are not blown up further than this.
const MAX_SCALE: f32 = 100.0;

/// Rows of `[observation, action]`.
fn inputs(observations: &[f32], actions: &[f32], rows: usize) -> Vec<f32> {
    let (n_obs, n_act) = (observations.len() / rows, actions.len() / rows);
    (0..rows)
        .flat_map(|i| {
            observations[i * n_obs..(i + 1) * n_obs].iter().chain(&actions[i * n_act..(i + 1) * n_act])
        })
        .copied()
        .collect()
}

/// Cross-entropy of soft labels `(left, right, P(left better))`, which are part of a batch of `total`; reports how many are right.
fn bradley_terry(
    tensors: &[Tensor<2>],
    labels: &[(usize, usize, f32)],
    segments: &[Vec<f32>],
    total: usize,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let count = labels.len();
    let width = tensors[0].dims()[0];
    let steps = segments[labels[0].0].len() / width;
    let rows: Vec<f32> = labels
        .iter()
        .map(|l| l.0)
        .chain(labels.iter().map(|l| l.1))
        .flat_map(|s| segments[s].iter().copied())
        .collect();
    let sums = forward(tensors, matrix(rows, width)).tanh().reshape([2 * count, steps]).sum_dim(1);
    let logit = sums.clone().slice([0..count, 0..1]) - sums.slice([count..2 * count, 0..1]);
    let target = matrix(labels.iter().map(|l| l.2).collect(), 1);
    // -p ln sigmoid(x) - (1-p) ln sigmoid(-x) = softplus(x) - p x.
    let loss = (softplus(logit.clone(), 1.0) - target.clone() * logit.clone()).sum() * (1.0 / total as f32);
    // A tie is right whatever the sign.
    let right = ((logit.without_autodiff() * (target.without_autodiff() - 0.5)).greater_equal_elem(0.0))
        .float()
        .sum();
    (loss, vec![right])
}

#[cfg(test)]
mod tests {
    use super::super::record::{Annotator, Label, Preference, Role, SCHEMA_VERSION};
    use super::*;

    /// Segments whose true reward is `observation[0] - 0.5 action^2`.
    fn store(pairs: u64) -> PreferenceStore {
        let mut rng = Rng::at(9, &[]);
        let mut segment = |id| {
            let bias = rng.normal() as f32;
            let observations: Vec<f32> = (0..20).map(|_| bias + rng.normal() as f32).collect();
            let actions: Vec<f32> = (0..10).map(|_| rng.normal() as f32).collect();
            let rewards = (0..10).map(|t| observations[2 * t] - 0.5 * actions[t] * actions[t]).collect();
            Segment {
                schema: SCHEMA_VERSION,
                id,
                episode_seed: 0,
                iteration: 0,
                observation_len: 2,
                action_len: 1,
                observations,
                actions,
                true_rewards: Some(rewards),
            }
        };
        let segments: Vec<Segment> = (0..2 * pairs).map(&mut segment).collect();
        let sum = |s: &Segment| s.true_rewards.as_ref().unwrap().iter().sum::<f32>();
        let preferences = (0..pairs).map(|i| {
            let (left, right) = (&segments[2 * i as usize], &segments[2 * i as usize + 1]);
            let preferred = if sum(left) > sum(right) { Role::Left } else { Role::Right };
            let label = if i % 10 == 9 { Label::Skip } else { Label::Pair { preferred, probability: 1.0 } };
            Preference {
                schema: SCHEMA_VERSION,
                left: left.id,
                right: right.id,
                label,
                annotator: Annotator::Person { user: "test".into() },
            }
        });
        let preferences = preferences.collect();
        let mut store = PreferenceStore::in_memory();
        store.append(segments, preferences).unwrap();
        store
    }

    #[test]
    fn ranks_unseen_segments_as_the_true_reward_does() {
        let all = store(300);
        let mut training = PreferenceStore::in_memory();
        training.append(all.segments()[..400].to_vec(), all.preferences()[..200].to_vec()).unwrap();
        let mut model = RewardModel::new(
            &RewardConfig { hidden: vec![32, 32], epochs: 60, ..RewardConfig::default() },
            2,
            1,
            0,
        );
        let accuracy = model.train(&training, 0, 0, 2);
        assert!(accuracy > 0.93, "{accuracy}");
        let sum = |s: &Segment| f64::from(s.true_rewards.as_ref().unwrap().iter().sum::<f32>());
        let unseen: Vec<_> = all.segments()[400..].as_chunks::<2>().0.to_vec();
        let right = unseen
            .iter()
            .filter(|[a, b]| (sum(a) > sum(b)) == (model.segment_score(a).0 > model.segment_score(b).0))
            .count();
        assert!(right >= 85, "{right} of 100");
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
        let train = |threads| {
            let mut model = RewardModel::new(
                &RewardConfig { hidden: vec![8], epochs: 3, ..RewardConfig::default() },
                2,
                1,
                5,
            );
            model.train(&store(20), 5, 0, threads);
            model.members.into_iter().flat_map(|m| m.parameters).collect::<Vec<f32>>()
        };
        assert_eq!(train(1), train(2));
    }
}
