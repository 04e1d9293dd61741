//! The learned reward: an ensemble fitted to preferences.

use serde::{Deserialize, Serialize};
use tendon_nn::{Activation, Adam, AdamSettings, Mlp, Sharded, Weights, Workspace};

use super::record::Segment;
use super::store::PreferenceStore;
use crate::network::{restore_adam, save_adam};
use crate::parallel::parallel_map;
use crate::run_folder::FileError;
use crate::{Checkpoint, FrozenNormaliser, Normaliser, Rng, stream};

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
        let sizes = [&[observations + actions], config.hidden.as_slice(), &[1]].concat();
        let mlp = Mlp::new(&sizes, Activation::Tanh, Activation::Tanh);
        let settings = AdamSettings { max_norm: MAX_GRADIENT_NORM, ..AdamSettings::default() };
        let members = (0..config.members as u64)
            .map(|m| {
                let mut rng = Rng::at(seed, &[stream::REWARD_MODEL, stream::WEIGHTS, m]);
                Member {
                    parameters: mlp.initialise(1.0, &mut || rng.normal()),
                    adam: Adam::new(mlp.parameter_count(), settings),
                }
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
        let mut sharded = Sharded::new(threads, self.mlp.parameter_count(), || self.mlp.workspace());
        for (m, member) in self.members.iter_mut().enumerate() {
            let mut rng = Rng::at(seed, &[stream::REWARD_MODEL, stream::SHUFFLE, place, m as u64]);
            let mut order: Vec<usize> = (0..labels.len()).collect();
            let mut weights = self.mlp.weights(&member.parameters);
            let mut correct = 0.0;
            for _ in 0..self.config.epochs {
                rng.shuffle(&mut order);
                correct = 0.0;
                for batch in order.chunks(self.config.batch) {
                    let pairs: Vec<_> = batch.iter().map(|&i| labels[i]).collect();
                    let (gradient, right) = bradley_terry(&weights, &pairs, &normalised, &mut sharded);
                    correct += right;
                    member.adam.step(&mut member.parameters, gradient, self.config.learning_rate);
                    weights.set(&member.parameters);
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

    /// Parameters of a critic of the same hidden layers that starts as the first member does, before its last tanh, at the mean action
    /// (PPO-max, Zheng et al. 2023). `normaliser`: of the critic's observations, in place of this model's; what else the critic sees
    /// starts without weight.
    pub(crate) fn as_critic(&self, critic: &Mlp, normaliser: &FrozenNormaliser) -> Vec<f32> {
        let (own, from) = (self.normaliser.freeze(), &self.members[0].parameters);
        let (first, width) = (self.mlp.layers()[0], critic.layers()[0].outputs);
        let n_obs = normaliser.offset.len();
        let mut weights = vec![0.0; critic.inputs() * width];
        let mut biases = from[first.biases()].to_vec();
        for i in 0..n_obs {
            // own(o) = stretch critic's(o) + shift.
            let stretch = own.scale[i] / normaliser.scale[i];
            let shift = (normaliser.offset[i] - own.offset[i]) * own.scale[i];
            for j in 0..width {
                let weight = from[first.weight + i * width + j];
                weights[i * width + j] = weight * stretch;
                biases[j] += weight * shift;
            }
        }
        weights.extend(biases);
        weights.extend_from_slice(&from[first.biases().end..]);
        weights
    }

    /// Where the first action lies in the normaliser's middle.
    #[cfg(test)]
    pub(crate) fn mean_action(&self) -> f32 {
        self.normaliser.freeze().offset[self.mlp.inputs() - 1]
    }

    /// Rewards of the first member.
    #[cfg(test)]
    pub(crate) fn member_scores_of(&self, observations: &[f32], actions: &[f32]) -> Vec<f32> {
        self.member_rewards(observations, actions, actions.len(), 1).swap_remove(0)
    }

    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) {
        for (m, member) in self.members.iter().enumerate() {
            checkpoint.put(&format!("reward.{m}.parameters"), &member.parameters);
            save_adam(&member.adam, checkpoint, &format!("reward.{m}.adam"));
        }
        self.normaliser.save(checkpoint, "reward");
        checkpoint.put("reward.standard", &[self.offset, self.scale]);
    }

    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        let length = self.mlp.parameter_count();
        for (m, member) in self.members.iter_mut().enumerate() {
            member.parameters = checkpoint.array_f32(&format!("reward.{m}.parameters"), length)?;
            restore_adam(&mut member.adam, checkpoint, &format!("reward.{m}.adam"))?;
        }
        self.normaliser.restore(checkpoint, "reward")?;
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
            let mut rewards = vec![0.0; rows];
            self.mlp.weights(&member.parameters).infer(&input, &mut rewards, &mut self.mlp.workspace());
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

/// Gradient of the mean cross-entropy of soft labels `(left, right, P(left better))`, and how many are right.
fn bradley_terry<'a>(
    weights: &Weights,
    labels: &[(usize, usize, f32)],
    segments: &[Vec<f32>],
    sharded: &'a mut Sharded<Workspace>,
) -> (&'a [f32], f64) {
    let width = weights.mlp().inputs();
    let steps = segments[labels[0].0].len() / width;
    let both = || labels.iter().flat_map(|label| [label.0, label.1]);
    let rows: Vec<f32> = both().flat_map(|s| segments[s].iter().copied()).collect();
    let mut rewards = vec![0.0; 2 * labels.len() * steps];
    weights.infer(&rows, &mut rewards, &mut weights.mlp().workspace());
    let mut right = 0.0;
    let mut derivatives = Vec::with_capacity(rewards.len());
    for (pair, label) in rewards.chunks_exact(2 * steps).zip(labels) {
        let (left, other) = pair.split_at(steps);
        let logit = left.iter().sum::<f32>() - other.iter().sum::<f32>();
        // -p ln sigmoid(x) - (1-p) ln sigmoid(-x) has the derivative sigmoid(x) - p.
        let slope = (1.0 / (1.0 + (-logit).exp()) - label.2) / labels.len() as f32;
        derivatives.extend(std::iter::repeat_n(slope, steps));
        derivatives.extend(std::iter::repeat_n(-slope, steps));
        // A tie is right whatever the sign.
        right += f64::from(u8::from(logit * (label.2 - 0.5) >= 0.0));
    }
    let gradient = sharded.gradient(rewards.len(), |range, workspace, gradient| {
        let input = &rows[range.start * width..range.end * width];
        weights.forward(input, workspace);
        weights.backward(input, &derivatives[range], workspace, gradient, None);
    });
    (gradient, right)
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
