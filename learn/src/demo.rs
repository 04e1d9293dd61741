//! The learning part of `tendon demo`: does a reward learned from preferences do as well as the true one?

use std::ops::ControlFlow;

use serde::Serialize;

use crate::preference::{PreferenceConfig, PreferenceStore, RewardModel, train_from_preferences};
use crate::run_folder::RunFolder;
use crate::{
    CurveRow, Episode, Interval, LearnError, MakeEnvironment, OnProgress, Policy, Progress, Stage, bootstrap,
    evaluate, train,
};

/// Both policies, how they were learned and how they do.
#[derive(Clone, Debug)]
pub struct DemoOutcome {
    /// Uniform random actions.
    pub random: Evaluation,
    /// The policy trained on the task's reward.
    pub true_reward: Evaluation,
    /// The policy trained on the learned reward, judged by the task's.
    pub learned_reward: Evaluation,
    /// `(learned - random) / (true - random)` of the mean returns.
    pub normalised_improvement: f64,
    /// The policy trained on the task's reward.
    pub true_policy: Policy,
    /// The policy trained on the learned reward: the one to export.
    pub learned_policy: Policy,
    /// The learned reward.
    pub model: RewardModel,
    /// Segments and answers.
    pub store: PreferenceStore,
    /// One row per iteration.
    pub true_curves: Vec<CurveRow>,
    /// One row per iteration.
    pub learned_curves: Vec<CurveRow>,
    /// The progress callback asked to stop: policies are as far as they got and nothing was evaluated after that.
    pub interrupted: bool,
}

/// A policy over seeded episodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Return of each episode under the task's reward.
    pub returns: Vec<f64>,
    /// Their mean with its 95% bootstrap interval.
    pub interval: Option<Interval>,
    /// Fraction of episodes that ended in success.
    pub success_rate: f64,
    /// Physical metrics at the end of an episode: name and mean absolute value.
    pub metrics: Vec<(String, f64)>,
}

/// Runs the baseline, PPO on the true reward, PPO on a learned reward with the same hyper-parameters, and evaluates all three on
/// `episodes` episodes that neither has seen. With a run folder, the trainings live in its folders `true-reward` and
/// `learned-reward` and resume.
///
/// # Errors
/// As [`train`].
pub fn demo_learning(
    config: &PreferenceConfig,
    make: MakeEnvironment,
    episodes: u64,
    seed: u64,
    run: Option<&RunFolder>,
    on_progress: OnProgress,
) -> Result<DemoOutcome, LearnError> {
    config.check()?;
    let folder = |name: &str| run.map(|run| RunFolder::create(run.path().join(name))).transpose();
    let (true_run, learned_run) = (folder("true-reward")?, folder("learned-reward")?);
    if let (Some(true_run), Some(learned_run)) = (&true_run, &learned_run) {
        true_run.write_config(&config.ppo)?;
        learned_run.write_config(config)?;
    }
    let judge = |policy: Option<&Policy>| {
        let results = evaluate(policy, make, episodes, seed, config.ppo.threads);
        Evaluation::of(&results, make().metric_names(), seed)
    };
    let random = judge(None);
    let baseline = Progress { stage: Stage::RandomBaseline, done: episodes, total: episodes, row: None };
    let mut interrupted = on_progress(&baseline) == ControlFlow::Break(());

    let trained = train(&config.ppo, make, seed, true_run.as_ref(), on_progress)?;
    interrupted |= trained.interrupted;
    let mut stop_if_interrupted =
        |progress: &Progress| if interrupted { ControlFlow::Break(()) } else { on_progress(progress) };
    let learned = train_from_preferences(config, make, seed, learned_run.as_ref(), &mut stop_if_interrupted)?;
    interrupted |= learned.trained.interrupted;

    let (mut true_reward, mut learned_reward) = (Evaluation::default(), Evaluation::default());
    if !interrupted {
        true_reward = judge(Some(&trained.policy));
        learned_reward = judge(Some(&learned.trained.policy));
        let done = Progress { stage: Stage::Evaluation, done: 2 * episodes, total: 2 * episodes, row: None };
        interrupted = on_progress(&done) == ControlFlow::Break(());
    }
    let mean = |evaluation: &Evaluation| evaluation.interval.map_or(f64::NAN, |interval| interval.mean);
    Ok(DemoOutcome {
        normalised_improvement: (mean(&learned_reward) - mean(&random))
            / (mean(&true_reward) - mean(&random)),
        random,
        true_reward,
        learned_reward,
        true_policy: trained.policy,
        learned_policy: learned.trained.policy,
        model: learned.model,
        store: learned.store,
        true_curves: trained.curves,
        learned_curves: learned.trained.curves,
        interrupted,
    })
}

impl Evaluation {
    /// Sums up finished episodes; `seed` draws the bootstrap.
    pub fn of(episodes: &[Episode], metric_names: &[String], seed: u64) -> Self {
        let returns: Vec<f64> = episodes.iter().map(|e| e.episode_return).collect();
        let count = episodes.len().max(1) as f64;
        let metric = |(i, name): (usize, &String)| {
            let sum: f64 =
                episodes.iter().filter_map(|e| e.metrics.get(i)).map(|&v| f64::from(v).abs()).sum();
            (name.to_string(), sum / count)
        };
        Self {
            interval: (!returns.is_empty()).then(|| bootstrap(&returns, seed)),
            success_rate: episodes.iter().filter(|e| e.success).count() as f64 / count,
            metrics: metric_names.iter().enumerate().map(metric).collect(),
            returns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PpoConfig;
    use crate::pendulum::pendulum;
    use crate::run_folder::tests::scratch;

    fn short() -> PreferenceConfig {
        let ppo =
            PpoConfig { total_steps: 8 * 4096, environments: 8, discount: 0.95, ..PpoConfig::default() };
        PreferenceConfig { labels: 60, first_queries: 30, ppo, ..PreferenceConfig::default() }
    }

    #[test]
    fn passes_all_stages_in_order_and_leaves_both_run_folders() {
        let run = RunFolder::create(scratch("demo")).unwrap();
        let mut stages = Vec::new();
        let mut on_progress = |progress: &Progress| {
            stages.push(progress.stage);
            ControlFlow::Continue(())
        };
        let outcome = demo_learning(&short(), &pendulum, 10, 1, Some(&run), &mut on_progress).unwrap();
        stages.dedup();
        assert_eq!(
            stages,
            [Stage::RandomBaseline, Stage::TrueReward, Stage::LearnedReward, Stage::Evaluation]
        );
        assert!(outcome.normalised_improvement.is_finite() && !outcome.interrupted);
        assert_eq!(outcome.learned_reward.returns.len(), 10);
        for file in ["config.toml", "curves.csv", "checkpoints/last/state.json"] {
            assert!(run.path().join("true-reward").join(file).exists(), "{file}");
            assert!(run.path().join("learned-reward").join(file).exists(), "{file}");
        }
        assert!(run.path().join("learned-reward/preferences.jsonl").exists());
    }

    #[test]
    fn an_interruption_ends_all_stages() {
        let mut reports = 0;
        let mut on_progress = |_: &Progress| {
            reports += 1;
            if reports < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let outcome = demo_learning(&short(), &pendulum, 2, 1, None, &mut on_progress).unwrap();
        assert!(outcome.interrupted && outcome.learned_reward.interval.is_none());
        assert_eq!(outcome.true_curves.len(), 2);
    }
}
