//! `train`, `export`.

use super::ranks::Ranks;
use super::{read_text, write_file};
use crate::export::{contract_keys, export_onnx};
use crate::report::{Curves, curves_page, curves_png};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tendon_learn::preference::{PreferenceConfig, train_from_preferences};
use tendon_learn::run_folder::RunFolder;
use tendon_learn::settings::from_toml;
use tendon_learn::{
    ACTION_LIMIT, ConstrainedConfig, CurveRow, DiffusionConfig, FlowConfig, ImitationConfig, MakeEnvironment,
    Policy, PpoConfig, Progress, SacConfig, Stage, Trained, WithPrivileged, imitate, train_constrained,
    train_diffusion, train_flow, train_from, train_sac,
};
use tendon_sim::Environment;
use tendon_sim::tasks::{self, TaskDefinition};

/// Largest configuration file.
pub(super) const MAX_CONFIG: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Train {
    /// Task, or a file of one that ends in .toml; `tendon sim --help` names them
    #[arg(long)]
    task: String,
    /// How to learn
    #[arg(long, value_enum, default_value_t = LearnerKind::Ppo)]
    learner: LearnerKind,
    /// Learn the reward from a scripted teacher's preferences instead of using the task's (PPO)
    #[arg(long)]
    preferences: bool,
    /// Run folder of the teacher (clone, dagger, distill, flow, diffusion), or of the policy to start from (ppo)
    #[arg(long)]
    from: Option<PathBuf>,
    /// Settings as TOML; what it leaves out has its default. The run folder repeats them all
    #[arg(long)]
    config: Option<PathBuf>,
    /// Same seed, same bits
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run folder; an interrupted run in it is continued
    #[arg(long)]
    run: Option<PathBuf>,
    /// Only go on with a run that has a checkpoint
    #[arg(long)]
    resume: bool,
    /// Print where the time of training went
    #[arg(long)]
    profile: bool,
}

/// A learner, as `--learner` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LearnerKind {
    /// Proximal policy optimisation
    #[default]
    Ppo,
    /// PPO whose policy, too, sees what only the critic does: a teacher for `distill`
    Teacher,
    /// PPO under a constraint on one of the task's metrics
    Constrained,
    /// Soft actor-critic
    Sac,
    /// Behaviour cloning of a teacher
    Clone,
    /// DAgger: the teacher corrects the student
    Dagger,
    /// DAgger with a teacher that sees more than the student
    Distill,
    /// Flow matching, distilled into few steps
    Flow,
    /// Diffusion, distilled into few steps
    Diffusion,
}

/// What a run folder is about: `run.toml`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunInfo {
    pub(super) task: String,
    #[serde(default)]
    pub(super) learner: LearnerKind,
    pub(super) seed: u64,
    pub(super) preferences: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<PathBuf>,
}

impl Train {
    pub(super) fn run(self) -> Result<()> {
        let ranks = Ranks::start()?;
        let (rank, size) = (ranks.communicator().rank(), ranks.communicator().size());
        let trained = self.train(&ranks);
        if size > 1 {
            trained.with_context(|| format!("rank {rank} of {size}"))?;
        } else {
            trained?;
        }
        ranks.finish();
        Ok(())
    }

    fn train(&self, ranks: &Ranks) -> Result<()> {
        let task = &tasks::open(&self.task, None)?;
        ensure!(
            !self.preferences || ranks.communicator().size() == 1,
            "--preferences: learns on one rank; over several does every --learner"
        );
        ensure!(
            !self.preferences || self.learner == LearnerKind::Ppo,
            "--preferences: learns with PPO; leave --learner out"
        );
        let info = RunInfo {
            task: self.task.clone(),
            learner: self.learner,
            seed: self.seed,
            preferences: self.preferences,
            from: self.from.clone(),
        };
        let path = self.run.clone().unwrap_or_else(|| default_run(&info));
        ensure!(
            !self.resume || RunFolder::opened(&path).is_some_and(|run| run.has_checkpoint()),
            "{}: has no checkpoint to go on from; leave --resume out",
            path.display()
        );
        for actions in &task.spec().actions {
            let [low, high] = actions.clip;
            if low < -ACTION_LIMIT || high > ACTION_LIMIT {
                println!(
                    "{}: actions of {} are clipped to {low}..{high}, but learners give -{ACTION_LIMIT}..{ACTION_LIMIT}: \
                     the setpoints reach {} at most; raise `scale` for more",
                    self.task,
                    actions.joints.join(", "),
                    actions.scale * ACTION_LIMIT
                );
            }
        }
        let folder = RunFolder::create(&path)?;
        if ranks.is_first() {
            keep_info(&path, &info)?;
        }
        ranks.explain_end(&path)?;
        let stop = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop)).context("SIGINT")?;
        let mut bars = Bars::default();
        let trained = self.learn(task, &folder, ranks, &mut |progress| {
            if ranks.is_first() {
                let _: ControlFlow<()> = bars.show(progress);
            }
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if !ranks.is_first() {
            return Ok(());
        }
        bars.finish();
        report(&folder, &info, &trained.curves)?;
        if self.profile {
            profile(&trained.curves, ranks);
        }
        if trained.interrupted {
            println!("{}: stopped; the same command goes on from the last checkpoint", path.display());
            return Ok(());
        }
        let onnx = path.join("policy.onnx");
        // A teacher sees what no robot measures: it has no contract.
        if self.learner == LearnerKind::Teacher {
            println!("{}: report.html, curves.png, checkpoints/last", path.display());
            println!("next: tendon train --task {} --learner distill --from {}", self.task, path.display());
            return Ok(());
        }
        export(&trained.policy, task, &onnx)?;
        println!("{}: report.html, curves.png, curves.csv, checkpoints/last, policy.onnx", path.display());
        println!("next: tendon eval {}", path.display());
        println!("      tendon compile {} -o {}", onnx.display(), path.join("policy.tnd").display());
        Ok(())
    }

    fn learn(
        &self,
        task: &Arc<TaskDefinition>,
        folder: &RunFolder,
        ranks: &Ranks,
        on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Trained> {
        let plain = || make(task);
        let seeing = || Box::new(WithPrivileged::new(make(task))) as Box<dyn Environment>;
        let make: MakeEnvironment = if self.learner == LearnerKind::Teacher { &seeing } else { &plain };
        let (seed, run) = (self.seed, Some(folder));
        if self.preferences {
            let config = self.settings(PreferenceConfig::default(), folder, ranks)?;
            return Ok(train_from_preferences(&config, make, seed, run, on_progress)?.trained);
        }
        let teacher = || {
            let from = self.from.as_deref().with_context(|| {
                format!("--learner {}: give the teacher's run folder with --from", name(self.learner))
            })?;
            policy_of(from)
        };
        let all = ranks.communicator();
        let trained = match self.learner {
            LearnerKind::Ppo | LearnerKind::Teacher => {
                let config = self.settings(PpoConfig::default(), folder, ranks)?;
                let start = self.from.as_deref().map(policy_of).transpose()?;
                train_from(&config, make, start.as_ref(), all, seed, run, on_progress)
            }
            LearnerKind::Constrained => {
                let config = self.settings(ConstrainedConfig::default(), folder, ranks)?;
                train_constrained(&config, make, all, seed, run, on_progress)
            }
            LearnerKind::Sac => {
                let config = self.settings(SacConfig::default(), folder, ranks)?;
                train_sac(&config, make, all, seed, run, on_progress)
            }
            LearnerKind::Clone | LearnerKind::Dagger | LearnerKind::Distill => {
                let default = match self.learner {
                    LearnerKind::Clone => ImitationConfig::cloning(),
                    LearnerKind::Distill => {
                        ImitationConfig { privileged_teacher: true, ..ImitationConfig::default() }
                    }
                    _ => ImitationConfig::default(),
                };
                let config = self.settings(default, folder, ranks)?;
                imitate(&config, make, &teacher()?, all, seed, run, on_progress)
            }
            LearnerKind::Flow => {
                let config = self.settings(FlowConfig::default(), folder, ranks)?;
                train_flow(&config, make, &teacher()?, all, seed, run, on_progress)
            }
            LearnerKind::Diffusion => {
                let config = self.settings(DiffusionConfig::default(), folder, ranks)?;
                train_diffusion(&config, make, &[teacher()?], all, seed, run, on_progress)
            }
        };
        Ok(trained?)
    }

    /// The settings of `--config`, or `default`; the run folder gets them all.
    fn settings<C: Serialize + DeserializeOwned>(
        &self,
        default: C,
        folder: &RunFolder,
        ranks: &Ranks,
    ) -> Result<C> {
        let settings = match &self.config {
            Some(file) => from_toml(file, &read_text(file, MAX_CONFIG)?, &default)?,
            None => default,
        };
        if ranks.is_first() {
            folder.write_config(&settings)?;
        }
        Ok(settings)
    }
}

pub(super) fn name(learner: LearnerKind) -> String {
    learner.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Run folder of `train`
    run: PathBuf,
    /// Where the file goes; without it policy.onnx in the run folder
    #[arg(short, long)]
    output: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(self) -> Result<()> {
        let info = info_of(&self.run)?;
        ensure!(
            info.learner != LearnerKind::Teacher,
            "{}: a teacher sees what no robot measures; distil it first",
            self.run.display()
        );
        let policy = policy_of(&self.run)?;
        let output = self.output.unwrap_or_else(|| self.run.join("policy.onnx"));
        export(&policy, &tasks::open(&info.task, None)?, &output)?;
        println!("{}", output.display());
        Ok(())
    }
}

/// What the run in `path` is about.
pub(super) fn info_of(path: &Path) -> Result<RunInfo> {
    let file = path.join("run.toml");
    toml::from_str(&read_text(&file, MAX_CONFIG)?)
        .with_context(|| format!("{}: name a run folder that `tendon train` made", file.display()))
}

/// Where `train` without `--run` leaves such a run.
pub(super) fn default_run(info: &RunInfo) -> PathBuf {
    let name = if info.preferences { "preferences".into() } else { name(info.learner) };
    let task = Path::new(&info.task).file_stem().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("runs/{task}-{name}-{}", info.seed))
}

/// A run's curves up to its last checkpoint; none before the first.
pub(super) fn curves_of(path: &Path) -> Result<Vec<CurveRow>> {
    match RunFolder::opened(path) {
        Some(folder) if path.join("curves.json").exists() => Ok(folder.read_curves()?),
        _ => Ok(Vec::new()),
    }
}

/// The policy of a run's last checkpoint.
pub(super) fn policy_of(path: &Path) -> Result<Policy> {
    info_of(path)?;
    let folder = RunFolder::create(path)?;
    Policy::of_run(&folder)?
        .with_context(|| format!("{}: no checkpoint yet; train longer", folder.checkpoints().display()))
}

/// `curves.png` and `report.html`.
fn report(folder: &RunFolder, info: &RunInfo, curves: &[CurveRow]) -> Result<()> {
    let title = format!("{}, {}, seed {}", info.task, name(info.learner), info.seed);
    let settings = read_text(&folder.path().join("config.toml"), MAX_CONFIG)?;
    let last = |value: fn(&CurveRow) -> Option<f64>| {
        // Of the last tenth, so that one iteration's luck does not show.
        let tail = &curves[curves.len() - curves.len().div_ceil(10)..];
        let values: Vec<f64> = tail.iter().filter_map(value).collect();
        if values.is_empty() {
            "-".to_string()
        } else {
            format!("{:.2}", values.iter().sum::<f64>() / values.len() as f64)
        }
    };
    let fact = |name: &str, value: String| vec![name.to_string(), value];
    let mut facts = vec![
        fact("", "last tenth of training".into()),
        fact("return", last(|row| row.episode_return)),
        fact("success", last(|row| row.success)),
        fact("episode length, steps", last(|row| row.episode_length)),
        fact("environment steps", curves.last().map_or(0, |row| row.steps).to_string()),
        fact("steps/s", last(|row| Some(row.steps_per_s.round()))),
    ];
    if curves.iter().any(|row| row.cost.is_some()) {
        facts.insert(3, fact("cost per step", last(|row| row.cost)));
    }
    write_file(
        &folder.path().join("report.html"),
        curves_page(&title, curves, &facts, &settings).as_bytes(),
    )?;
    write_file(
        &folder.path().join("curves.png"),
        &curves_png(&[Curves { name: title, runs: vec![curves.to_vec()] }])?,
    )
}

/// Where the time of training went.
fn profile(curves: &[CurveRow], ranks: &Ranks) {
    let sum = |value: fn(&CurveRow) -> f64| curves.iter().map(value).sum::<f64>();
    let parts = [
        ("simulation", sum(|row| row.simulation_s)),
        ("inference and bookkeeping of rollouts", sum(|row| row.inference_s)),
        ("update", sum(|row| row.update_s)),
    ];
    let whole: f64 = parts.iter().map(|part| part.1).sum();
    if whole == 0.0 {
        println!("profile: this learner does not measure its parts");
        return;
    }
    println!("of a training second:");
    for (name, seconds) in parts {
        println!("  {:5.1}%  {name} ({seconds:.1} s)", 100.0 * seconds / whole);
    }
    let (size, traffic) = (ranks.communicator().size(), ranks.communicator().traffic());
    if size > 1 {
        println!(
            "of it with the other {} ranks, waiting included: {:.1}% ({:.1} s), {} sums of {:.1} kB, {:.1} kB gathered",
            size - 1,
            100.0 * traffic.seconds / whole,
            traffic.seconds,
            traffic.sums,
            traffic.summed_bytes as f64 / traffic.sums.max(1) as f64 / 1e3,
            traffic.gathered_bytes as f64 / 1e3
        );
    }
}

/// Notes what the folder is about, and refuses to mix two runs in one.
fn keep_info(path: &Path, info: &RunInfo) -> Result<()> {
    let file = path.join("run.toml");
    if file.exists() {
        let before: RunInfo =
            toml::from_str(&read_text(&file, MAX_CONFIG)?).with_context(|| file.display().to_string())?;
        ensure!(
            before == *info,
            "{}: holds task {}, learner {}, seed {}, preferences {}; choose another --run or remove the folder",
            path.display(),
            before.task,
            name(before.learner),
            before.seed,
            before.preferences
        );
    }
    write_file(&file, toml::to_string(info)?.as_bytes())
}

/// An environment of a task.
pub(super) fn make(task: &Arc<TaskDefinition>) -> Box<dyn Environment> {
    Box::new(task.make().expect("the definition was checked when it was read"))
}

/// Writes a policy with its task's contract.
pub(super) fn export(policy: &Policy, task: &Arc<TaskDefinition>, file: &Path) -> Result<()> {
    let environment = task.make()?;
    let contract = environment.contract();
    export_onnx(policy, &contract.to_json(), &contract_keys(contract), file)?;
    Ok(())
}

/// One progress bar per stage of learning.
#[derive(Default)]
pub(super) struct Bars {
    bar: Option<(Stage, ProgressBar)>,
}

impl Bars {
    pub(super) fn show(&mut self, progress: &Progress) -> ControlFlow<()> {
        if self.bar.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            self.finish();
            let name = match progress.stage {
                Stage::RandomBaseline => "random baseline",
                Stage::TrueReward => "true reward",
                Stage::LearnedReward => "learned reward",
                Stage::Evaluation => "evaluation",
            };
            let style = ProgressStyle::with_template(
                "{prefix:15} {bar:20} {pos:>4}/{len:<4} {elapsed:>4} left {eta:>4}  {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(progress.total).with_style(style).with_prefix(name);
            self.bar = Some((progress.stage, bar));
        }
        let Some((_, bar)) = &self.bar else { return ControlFlow::Continue(()) };
        bar.set_position(progress.done);
        let said = progress.row.as_ref().map_or_else(String::new, line);
        // Without a terminal there is no bar: a line for every tenth.
        let tenth = progress.total.div_ceil(10).max(1);
        if bar.is_hidden() && (progress.done.is_multiple_of(tenth) || progress.done == progress.total) {
            let elapsed = bar.elapsed().as_secs();
            eprintln!("{} {}/{} {elapsed} s  {said}", bar.prefix(), progress.done, progress.total);
        }
        bar.set_message(said);
        ControlFlow::Continue(())
    }

    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }
}

/// What the live line says of an iteration.
fn line(row: &CurveRow) -> String {
    let mean = row.episode_return.map_or_else(|| "-".into(), |mean| format!("{mean:.1}"));
    let success = row.success.map_or_else(String::new, |s| format!("  success {:.0}%", 100.0 * s));
    let cost = row.cost.map_or_else(String::new, |cost| format!("  cost {cost:.3}"));
    let labels = if row.labels > 0 { format!("  labels {}", row.labels) } else { String::new() };
    format!(
        "return {mean}{success}{cost}  loss {:+.3}/{:.3}  kl {:.4}  entropy {:+.2}  {:.0} steps/s{labels}",
        row.policy_loss, row.value_loss, row.kl, row.entropy, row.steps_per_s
    )
}
