//! The preference loop: PPO on a reward that is learned on the way.

use serde::{Deserialize, Serialize};

use super::query::{Sampling, choose, cut_segments};
use super::record::{Annotator, Preference, SCHEMA_VERSION, Segment};
use super::reward_model::{RewardConfig, RewardModel};
use super::store::PreferenceStore;
use super::teacher::TeacherConfig;
use crate::driver::{Learner, Place, drive};
use crate::run_folder::{FileError, RunFolder};
use crate::{
    Alone, Checkpoint, CurveRow, Finished, Hidden, LearnError, MakeEnvironment, NetworkKind, OnProgress,
    Policy, Ppo, PpoConfig, Rng, Rollout, Stage, Trained, stream,
};

/// All settings of learning from preferences (PrefPPO of B-Pref; PEBBLE without its unsupervised exploration).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceConfig {
    /// Answers in all; skipped queries do not count.
    pub labels: u64,
    /// Queries of the first session, about the untrained policy, chosen uniformly.
    pub first_queries: usize,
    /// Queries of each later session.
    pub queries: usize,
    /// Iterations from one session to the next.
    pub query_interval: u64,
    /// Candidate pairs per query.
    pub candidates: usize,
    /// How pairs are chosen in later sessions.
    pub sampling: Sampling,
    /// Control steps per segment.
    pub segment_steps: usize,
    /// Who answers.
    pub teacher: TeacherConfig,
    /// The learned reward.
    pub reward: RewardConfig,
    /// After the first session the critic starts from the reward model (PPO-max); `ppo.hidden` are then `reward.hidden`, with tanh.
    pub critic_from_reward: bool,
    /// The policy's learner.
    pub ppo: PpoConfig,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            labels: 600,
            first_queries: 60,
            queries: 30,
            query_interval: 10,
            candidates: 8,
            sampling: Sampling::Disagreement,
            segment_steps: 24,
            teacher: TeacherConfig::default(),
            reward: RewardConfig::default(),
            critic_from_reward: false,
            ppo: PpoConfig::default(),
        }
    }
}

/// What learning from preferences returns.
#[derive(Clone, Debug)]
pub struct PreferenceTrained {
    /// Policy and curves.
    pub trained: Trained,
    /// The learned reward at the end.
    pub model: RewardModel,
    /// Every segment and answer.
    pub store: PreferenceStore,
}

impl PreferenceConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn check(&self) -> Result<(), LearnError> {
        self.ppo.check()?;
        let counts = [
            ("labels", self.labels as usize),
            ("first_queries", self.first_queries),
            ("queries", self.queries),
            ("query_interval", self.query_interval as usize),
            ("candidates", self.candidates),
            ("segment_steps", self.segment_steps),
            ("reward.members", self.reward.members),
            ("reward.batch", self.reward.batch),
            ("reward.epochs", self.reward.epochs),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Err(LearnError::Config { field, problem: "0 is not above 0".into() });
        }
        let PpoConfig { hidden, activation, network, .. } = &self.ppo;
        let alike = *hidden == self.reward.hidden && *activation == Hidden::Tanh;
        if self.critic_from_reward && !(alike && network.kind == NetworkKind::Mlp) {
            return Err(LearnError::Config {
                field: "critic_from_reward",
                problem: format!(
                    "needs ppo.network.kind mlp, tanh, and ppo.hidden {:?} as reward.hidden",
                    self.reward.hidden
                ),
            });
        }
        if self.segment_steps > self.ppo.rollout_steps {
            let problem = format!(
                "{} is longer than ppo.rollout_steps, {}",
                self.segment_steps, self.ppo.rollout_steps
            );
            return Err(LearnError::Config { field: "segment_steps", problem });
        }
        Ok(())
    }
}

/// Trains a policy on a reward learned from a scripted teacher's preferences. With a run folder it leaves labels and checkpoints and
/// resumes as [`crate::train`] does; labels given after the last checkpoint are asked for again.
///
/// # Errors
/// As [`crate::train`].
pub fn train_from_preferences(
    config: &PreferenceConfig,
    make: MakeEnvironment,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<PreferenceTrained, LearnError> {
    config.check()?;
    let ppo = Ppo::new(&config.ppo, make, &Alone, seed)?;
    let (n_obs, n_act) = ppo.widths();
    let mut learner = PreferencePpo {
        config,
        seed,
        ppo,
        model: RewardModel::new(&config.reward, n_obs, n_act, seed),
        store: run.map_or_else(
            || Ok(PreferenceStore::in_memory()),
            |run| PreferenceStore::open(&run.preferences()),
        )?,
    };
    if run.is_none_or(|run| !run.has_checkpoint()) {
        learner.store.truncate(0, 0)?;
    }
    let trained = drive(&mut learner, config, run, on_progress)?;
    Ok(PreferenceTrained { trained, model: learner.model, store: learner.store })
}

struct PreferencePpo<'a> {
    config: &'a PreferenceConfig,
    seed: u64,
    ppo: Ppo<'a>,
    model: RewardModel,
    store: PreferenceStore,
}

impl Learner for &mut PreferencePpo<'_> {
    const KIND: &'static str = "preference-ppo";
    const STAGE: Stage = Stage::LearnedReward;

    fn place(&self) -> Place {
        self.ppo.place()
    }

    fn iterate(&mut self) -> Result<(CurveRow, Vec<Finished>), LearnError> {
        let (config, seed, iteration) = (self.config, self.seed, self.ppo.place().iteration);
        let threads = config.ppo.threads;
        let rollout = self.ppo.collect()?;
        let rows = rollout.rewards.len();
        let mut label_accuracy = None;
        if iteration.is_multiple_of(config.query_interval) && self.store.labels() < config.labels {
            ask(config, &rollout, &self.model, &mut self.store, seed, iteration)?;
            label_accuracy = Some(self.model.train(&self.store, seed, iteration, threads));
            self.model.standardise(&rollout.observations, &rollout.applied, rows, threads);
        }
        let rewards = self.model.rewards(&rollout.observations, &rollout.applied, rows, threads);
        let losses = self.ppo.update(&rollout, &rewards)?;
        // After the update, when the normaliser of observations has seen some.
        if config.critic_from_reward && iteration == 0 {
            self.ppo.start_critic(|critic, normaliser| self.model.as_critic(critic, normaliser));
        }
        let row = CurveRow {
            labels: self.store.labels(),
            label_accuracy,
            ..self.ppo.row(&rollout, &rewards, losses)
        };
        Ok((row, rollout.finished))
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        self.ppo.save(checkpoint);
        self.model.save(checkpoint);
        checkpoint.put_counter("segments", self.store.segments().len() as u64);
        checkpoint.put_counter("preferences", self.store.preferences().len() as u64);
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        self.ppo.restore(checkpoint)?;
        self.model.restore(checkpoint)?;
        self.store
            .truncate(checkpoint.counter("segments")? as usize, checkpoint.counter("preferences")? as usize)
    }

    fn policy(&self) -> Policy {
        self.ppo.policy()
    }
}

/// One session: cuts segments from the rollout, chooses pairs, lets the teacher answer, stores all of it.
fn ask(
    config: &PreferenceConfig,
    rollout: &Rollout,
    model: &RewardModel,
    store: &mut PreferenceStore,
    seed: u64,
    iteration: u64,
) -> Result<(), LearnError> {
    let first = store.preferences().is_empty();
    let (wanted, sampling) =
        if first { (config.first_queries, Sampling::Uniform) } else { (config.queries, config.sampling) };
    let wanted = wanted.min((config.labels - store.labels()) as usize);
    let mut rng = Rng::at(seed, &[stream::QUERY, iteration]);
    let candidates =
        cut_segments(rollout, config.segment_steps, 2 * wanted * config.candidates, 0, iteration, &mut rng);
    let mut candidates = candidates.into_iter();
    let pairs = std::iter::from_fn(|| candidates.next().zip(candidates.next())).collect();
    let mut rng = Rng::at(seed, &[stream::TEACHER, iteration]);
    let annotator = Annotator::Scripted { teacher: config.teacher, seed };
    let (mut segments, mut preferences): (Vec<Segment>, Vec<Preference>) = (Vec::new(), Vec::new());
    for (mut left, mut right) in choose(pairs, sampling, model, wanted) {
        left.id = (store.segments().len() + segments.len()) as u64;
        right.id = left.id + 1;
        let label = config.teacher.label(&left, &right, &mut rng);
        preferences.push(Preference {
            schema: SCHEMA_VERSION,
            left: left.id,
            right: right.id,
            label,
            annotator: annotator.clone(),
        });
        segments.extend([left, right]);
    }
    Ok(store.append(segments, preferences)?)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::Progress;
    use crate::evaluate;
    use crate::pendulum::pendulum;
    use crate::run_folder::tests::scratch;

    fn keep_on(_: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn short() -> PreferenceConfig {
        let ppo = PpoConfig {
            total_steps: 8 * 512,
            environments: 8,
            rollout_steps: 64,
            hidden: vec![16],
            checkpoint_interval: 2,
            ..PpoConfig::default()
        };
        let reward = RewardConfig { hidden: vec![16], epochs: 5, ..RewardConfig::default() };
        PreferenceConfig {
            labels: 30,
            first_queries: 10,
            queries: 10,
            query_interval: 3,
            segment_steps: 16,
            reward,
            ppo,
            ..PreferenceConfig::default()
        }
    }

    #[test]
    fn swings_up_the_pendulum_without_seeing_its_reward() {
        let ppo =
            PpoConfig { total_steps: 150_000, environments: 16, discount: 0.95, ..PpoConfig::default() };
        let config = PreferenceConfig { labels: 200, query_interval: 4, ppo, ..PreferenceConfig::default() };
        let learned = train_from_preferences(&config, &pendulum, 1, None, &mut keep_on).unwrap();
        let mean = |policy| {
            evaluate(policy, &pendulum, 50, 7, 2).iter().map(|e| e.episode_return).sum::<f64>() / 50.0
        };
        let (random, learned) = (mean(None), mean(Some(&learned.trained.policy)));
        // -170 is what PPO on the true reward reaches.
        assert!((learned - random) / (-170.0 - random) > 0.8, "{learned} against {random}");
    }

    #[test]
    fn a_killed_run_resumes_with_the_same_bits_and_labels() {
        let uninterrupted = train_from_preferences(&short(), &pendulum, 3, None, &mut keep_on).unwrap();
        for killed_after in [1, 4, 7] {
            let run = RunFolder::create(scratch(&format!("resume-preference-{killed_after}"))).unwrap();
            let mut until = |p: &Progress| {
                if p.done < killed_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            train_from_preferences(&short(), &pendulum, 3, Some(&run), &mut until).unwrap();
            let resumed = train_from_preferences(&short(), &pendulum, 3, Some(&run), &mut keep_on).unwrap();
            assert_eq!(resumed.trained.policy, uninterrupted.trained.policy, "killed after {killed_after}");
            assert_eq!(resumed.store.preferences(), uninterrupted.store.preferences());
            let read = PreferenceStore::open(&run.preferences()).unwrap();
            assert_eq!(read.segments(), uninterrupted.store.segments());
            assert_eq!(read.preferences(), uninterrupted.store.preferences());
            assert_eq!(resumed.trained.curves.len(), 8);
        }
    }

    #[test]
    fn the_critic_starts_as_the_reward_model_at_the_mean_action() {
        let config = PreferenceConfig { critic_from_reward: true, ..short() };
        let ppo = Ppo::new(&config.ppo, &pendulum, &Alone, 3).unwrap();
        let model = RewardModel::new(&config.reward, 3, 1, 3);
        let mut learner =
            PreferencePpo { config: &config, seed: 3, ppo, model, store: PreferenceStore::in_memory() };
        Learner::iterate(&mut &mut learner).unwrap();
        let observations = [0.6, 0.8, 1.5, -1.0, 0.0, -0.5];
        let mean_action = learner.model.mean_action();
        let rewards = learner.model.member_scores_of(&observations, &[mean_action; 2]);
        for (value, reward) in learner.ppo.values_of(&observations).iter().zip(rewards) {
            assert!((value.tanh() - reward).abs() < 1e-4, "{value} {reward}");
        }
        let other = PreferenceConfig {
            reward: RewardConfig { hidden: vec![8], ..config.reward.clone() },
            ..config.clone()
        };
        assert!(other.check().unwrap_err().to_string().contains("critic_from_reward"));
        let learned = train_from_preferences(&config, &pendulum, 3, None, &mut keep_on).unwrap();
        let plain = train_from_preferences(&short(), &pendulum, 3, None, &mut keep_on).unwrap();
        assert_ne!(learned.trained.policy, plain.trained.policy);
    }

    #[test]
    fn the_budget_of_labels_is_kept() {
        let learned = train_from_preferences(&short(), &pendulum, 3, None, &mut keep_on).unwrap();
        assert_eq!(learned.store.labels(), 30);
    }
}
