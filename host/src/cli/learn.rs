//! `train`, `export`.

use super::{read_text, write_file};
use crate::export::{contract_keys, export_onnx};
use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tendon_learn::preference::{PreferenceConfig, train_from_preferences};
use tendon_learn::run_folder::RunFolder;
use tendon_learn::{Policy, PpoConfig, Progress, Stage, restore_policy, train};
use tendon_sim::Environment;
use tendon_sim::tasks::{self, TaskInfo};

/// Largest configuration file.
const MAX_CONFIG: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Train {
    /// Task: cart-pole, cart-pole-balance, reacher, hopper
    #[arg(long)]
    task: String,
    /// Learn the reward from a scripted teacher's preferences instead of using the task's
    #[arg(long)]
    preferences: bool,
    /// Settings as TOML; what it leaves out has its default. The run folder repeats them all
    #[arg(long)]
    config: Option<PathBuf>,
    /// Same seed, same bits
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run folder; an interrupted run in it is continued
    #[arg(long)]
    run: Option<PathBuf>,
}

/// What a run folder is about: `run.toml`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunInfo {
    task: String,
    seed: u64,
    preferences: bool,
}

impl Train {
    pub(super) fn run(self) -> Result<()> {
        let task = tasks::find(&self.task)?;
        task.make()?;
        let name = if self.preferences { "preferences" } else { "ppo" };
        let path =
            self.run.unwrap_or_else(|| PathBuf::from(format!("runs/{}-{name}-{}", self.task, self.seed)));
        let folder = RunFolder::create(&path)?;
        let info = RunInfo { task: self.task.clone(), seed: self.seed, preferences: self.preferences };
        keep_info(&path, &info)?;
        let make = || make(task);
        let mut bars = Bars::default();
        let policy = if self.preferences {
            let config: PreferenceConfig = config(self.config.as_deref())?;
            folder.write_config(&config)?;
            train_from_preferences(&config, &make, self.seed, Some(&folder), &mut |p| bars.show(p))?
                .trained
                .policy
        } else {
            let config: PpoConfig = config(self.config.as_deref())?;
            folder.write_config(&config)?;
            train(&config, &make, self.seed, Some(&folder), &mut |p| bars.show(p))?.policy
        };
        bars.finish();
        let onnx = path.join("policy.onnx");
        export(&policy, task, &onnx)?;
        println!("{}: curves.csv, checkpoints/last, policy.onnx", path.display());
        println!("next: tendon compile {} -o {}", onnx.display(), path.join("policy.tnd").display());
        Ok(())
    }
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
        let file = self.run.join("run.toml");
        let info: RunInfo = toml::from_str(&read_text(&file, MAX_CONFIG)?)
            .with_context(|| format!("{}: name a run folder that `tendon train` made", file.display()))?;
        let task = tasks::find(&info.task)?;
        let make = || make(task);
        let folder = RunFolder::create(&self.run)?;
        let settings = self.run.join("config.toml");
        let ppo = if info.preferences {
            config::<PreferenceConfig>(Some(&settings))?.ppo
        } else {
            config(Some(&settings))?
        };
        let policy = restore_policy(&ppo, &make, info.seed, &folder)?.with_context(|| {
            format!("{}: no checkpoint yet; train longer", folder.checkpoints().display())
        })?;
        let output = self.output.unwrap_or_else(|| self.run.join("policy.onnx"));
        export(&policy, task, &output)?;
        println!("{}", output.display());
        Ok(())
    }
}

/// Notes what the folder is about, and refuses to mix two runs in one.
fn keep_info(path: &Path, info: &RunInfo) -> Result<()> {
    let file = path.join("run.toml");
    if file.exists() {
        let before: RunInfo =
            toml::from_str(&read_text(&file, MAX_CONFIG)?).with_context(|| file.display().to_string())?;
        anyhow::ensure!(
            before == *info,
            "{}: holds task {}, seed {}, preferences {}; choose another --run or remove the folder",
            path.display(),
            before.task,
            before.seed,
            before.preferences
        );
    }
    write_file(&file, toml::to_string(info)?.as_bytes())
}

/// Settings from a file, or the defaults.
fn config<C: Default + for<'de> Deserialize<'de>>(file: Option<&Path>) -> Result<C> {
    let Some(file) = file else { return Ok(C::default()) };
    toml::from_str(&read_text(file, MAX_CONFIG)?).with_context(|| file.display().to_string())
}

/// An environment of a task that was made once before.
pub(super) fn make(task: &'static TaskInfo) -> Box<dyn Environment> {
    Box::new(task.make().expect("the same call has succeeded before, and reads nothing"))
}

/// Writes a policy with its task's contract.
pub(super) fn export(policy: &Policy, task: &TaskInfo, file: &Path) -> Result<()> {
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
                Stage::TrueReward => "PPO, true reward",
                Stage::LearnedReward => "PPO, learned reward",
                Stage::Evaluation => "evaluation",
            };
            let style = ProgressStyle::with_template(
                "{prefix:20} {bar:24} {pos:>4}/{len:<4} {elapsed:>4} left {eta:>4}  {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(progress.total).with_style(style).with_prefix(name);
            self.bar = Some((progress.stage, bar));
        }
        let Some((_, bar)) = &self.bar else { return ControlFlow::Continue(()) };
        bar.set_position(progress.done);
        // Without a terminal there is no bar: a line for every tenth.
        let tenth = progress.total.div_ceil(10).max(1);
        if bar.is_hidden() && (progress.done.is_multiple_of(tenth) || progress.done == progress.total) {
            let mean = progress.row.as_ref().and_then(|row| row.episode_return);
            let mean = mean.map_or_else(String::new, |mean| format!(", return {mean:.1}"));
            eprintln!(
                "{} {}/{}{mean}, {} s",
                bar.prefix(),
                progress.done,
                progress.total,
                bar.elapsed().as_secs()
            );
        }
        if let Some(row) = &progress.row {
            let mean = row.episode_return.map_or_else(|| "-".into(), |r| format!("{r:.1}"));
            let labels = if row.labels > 0 { format!("  labels {}", row.labels) } else { String::new() };
            bar.set_message(format!(
                "return {mean}  loss {:+.3}/{:.3}  kl {:.4}  entropy {:+.2}  {:.0} steps/s{labels}",
                row.policy_loss, row.value_loss, row.kl, row.entropy, row.steps_per_s
            ));
        }
        ControlFlow::Continue(())
    }

    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }
}
