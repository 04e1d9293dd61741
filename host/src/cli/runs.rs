//! `eval`, `runs list`, `runs compare`, `runs card`.

use super::card::Card;
use super::learn::{LearnerKind, RunInfo, info_of, make, policy_of};
use super::{print_table, write_file};
use crate::report::curves_png;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tendon_learn::demo::Evaluation;
use tendon_learn::run_folder::RunFolder;
use tendon_learn::{CurveRow, Policy, WithPrivileged, bootstrap, evaluate};
use tendon_sim::Environment;
use tendon_sim::tasks::{self, TaskDefinition};

#[derive(Debug, Args)]
pub(super) struct Eval {
    /// Run folder of `train`
    pub(super) run: PathBuf,
    /// Episodes, each with a seed of its own
    #[arg(long, default_value_t = 100)]
    pub(super) episodes: u64,
    /// Seed of all of them
    #[arg(long, default_value_t = 1000)]
    pub(super) seed: u64,
    /// Threads; changes no bit of the result
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

impl Eval {
    pub(super) fn run(self) -> Result<()> {
        ensure!(self.episodes > 0, "--episodes: 0 is nothing to evaluate");
        let info = info_of(&self.run)?;
        let policy = policy_of(&self.run)?;
        let task = tasks::open(&info.task, None)?;
        let (evaluation, rows) = self.measure(&info, &policy, &task)?;
        println!("{}: {} episodes of {}, seed {}", self.run.display(), self.episodes, info.task, self.seed);
        print_table(&rows);
        let file = self.run.join("eval.json");
        write_file(&file, &serde_json::to_vec_pretty(&evaluation)?)?;
        println!("{}", file.display());
        Ok(())
    }
}

impl Eval {
    /// Runs the episodes on `task`, which may be the run's own under another randomisation; the rows are for people.
    pub(super) fn measure(
        &self,
        info: &RunInfo,
        policy: &Policy,
        task: &Arc<TaskDefinition>,
    ) -> Result<(Evaluation, Vec<Vec<String>>)> {
        let make = || match info.learner {
            LearnerKind::Teacher => Box::new(WithPrivileged::new(make(task))) as Box<dyn Environment>,
            _ => make(task),
        };
        ensure!(
            policy.observation_len() == make().observation_len()
                && policy.action_len() == make().action_len(),
            "{}: the policy has {} observations, the task {} has {} now; train anew",
            self.run.display(),
            policy.observation_len(),
            info.task,
            make().observation_len()
        );
        let episodes = evaluate(Some(policy), &make, self.episodes, self.seed, self.threads);
        let evaluation = Evaluation::of(&episodes, make().metric_names(), self.seed);
        let lengths: Vec<f64> = episodes.iter().map(|episode| episode.length as f64).collect();
        let falls = episodes.iter().filter(|episode| episode.terminated).count() as f64;
        let interval = |values: &[f64]| {
            let interval = bootstrap(values, self.seed);
            format!("{:.2} ({:.2} to {:.2})", interval.mean, interval.low, interval.high)
        };
        let mut rows = vec![
            ["", "mean (95% bootstrap interval)"].map(String::from).to_vec(),
            vec!["return".into(), interval(&evaluation.returns)],
            vec!["success".into(), format!("{:.0}%", 100.0 * evaluation.success_rate)],
            vec!["ended by the task".into(), format!("{:.0}%", 100.0 * falls / self.episodes as f64)],
            vec!["length, steps".into(), interval(&lengths)],
        ];
        for (i, (name, _)) in evaluation.metrics.iter().enumerate() {
            let values: Vec<f64> =
                episodes.iter().filter_map(|e| e.metrics.get(i)).map(|&v| f64::from(v)).collect();
            rows.push(vec![format!("{name}, at the end"), interval(&values)]);
        }
        Ok((evaluation, rows))
    }
}

#[derive(Debug, Args)]
pub(super) struct Runs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The runs in a folder: task, learner, seed, steps, return
    List {
        /// Folder of run folders
        #[arg(default_value = "runs")]
        folder: PathBuf,
    },
    /// Curves of several runs in one plot
    Compare {
        /// Run folders
        #[arg(required = true, num_args = 1..)]
        runs: Vec<PathBuf>,
        /// The plot
        #[arg(short, long, default_value = "compare.png")]
        output: PathBuf,
    },
    /// A run's card in Markdown: command, seed, return, physical metrics, robustness, cost on the controller
    Card(Card),
}

impl Runs {
    pub(super) fn run(self) -> Result<()> {
        match self.what {
            What::List { folder } => list(&folder),
            What::Compare { runs, output } => compare(&runs, &output),
            What::Card(card) => card.run(),
        }
    }
}

fn list(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{}: no folder of runs; `tendon train` makes one", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let runs: Vec<PathBuf> = paths.into_iter().filter(|path| path.join("run.toml").is_file()).collect();
    table(&runs)
}

fn compare(runs: &[PathBuf], output: &Path) -> Result<()> {
    table(runs)?;
    let curves: Vec<(String, Vec<CurveRow>)> = runs
        .iter()
        .map(|path| {
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            Ok((name, curves(path)?))
        })
        .collect::<Result<_>>()?;
    write_file(output, &curves_png(&curves)?)?;
    println!("{}", output.display());
    Ok(())
}

fn table(runs: &[PathBuf]) -> Result<()> {
    let mut rows = vec![
        ["run", "task", "learner", "seed", "steps", "return, last tenth", "best"].map(String::from).to_vec(),
    ];
    for path in runs {
        let info = info_of(path)?;
        let curves = curves(path)?;
        let returns: Vec<f64> = curves.iter().filter_map(|row| row.episode_return).collect();
        let tail = &returns[returns.len() - returns.len().div_ceil(10)..];
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.1}"));
        let mean = (!tail.is_empty()).then(|| tail.iter().sum::<f64>() / tail.len() as f64);
        let learner = info.learner.to_possible_value();
        rows.push(vec![
            path.display().to_string(),
            info.task,
            if info.preferences {
                "preferences".into()
            } else {
                learner.map(|value| value.get_name().to_owned()).unwrap_or_default()
            },
            info.seed.to_string(),
            curves.last().map_or(0, |row| row.steps).to_string(),
            number(mean),
            number(returns.iter().copied().reduce(f64::max)),
        ]);
    }
    print_table(&rows);
    Ok(())
}

/// A run's curves up to its last checkpoint; none before the first.
fn curves(path: &Path) -> Result<Vec<CurveRow>> {
    let folder = RunFolder::create(path)?;
    if !folder.path().join("curves.json").exists() {
        return Ok(Vec::new());
    }
    Ok(folder.read_curves()?)
}
