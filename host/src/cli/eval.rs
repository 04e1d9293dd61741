//! `eval`: what a policy does over seeded episodes; what several trainings of one kind have in common.

use super::alike::infos_of;
use super::learn::{LearnerKind, MAX_CONFIG, RunInfo, make, policy_of};
use super::{print_table, read_text, write_file};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tendon_learn::demo::Evaluation;
use tendon_learn::{Interval, Policy, WithPrivileged, bootstrap, evaluate, student};
use tendon_sim::Environment;
use tendon_sim::tasks::{self, TaskDefinition};

#[derive(Debug, Args)]
pub(super) struct Eval {
    /// Run folders of `train`; several are trainings that differ in their seeds alone
    #[arg(required = true, num_args = 1..)]
    pub(super) runs: Vec<PathBuf>,
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

/// A training to evaluate.
pub(super) struct Run {
    pub(super) path: PathBuf,
    pub(super) info: RunInfo,
    policy: Policy,
}

/// What each episode came to.
pub(super) struct Quantity {
    name: String,
    /// A share of episodes, not a mean over them.
    is_share: bool,
    /// One per episode.
    values: Vec<f64>,
}

impl Eval {
    pub(super) fn run(self) -> Result<()> {
        let runs = self.open()?;
        let task = tasks::open(&runs[0].info.task, None)?;
        let mut measured = Vec::new();
        for run in &runs {
            let (evaluation, quantities) = self.measure(run, &task)?;
            write_file(&run.path.join("eval.json"), &serde_json::to_vec_pretty(&evaluation)?)?;
            measured.push(quantities);
        }
        let episodes = format!("{} episodes of {}, seed {}", self.episodes, runs[0].info.task, self.seed);
        if let [run] = &runs[..] {
            println!("{}: {episodes}", run.path.display());
            print_table(&table_of(&measured[0], self.seed));
            println!("{}", run.path.join("eval.json").display());
        } else {
            println!("{} trainings: {episodes} of each", runs.len());
            print_table(&table_over(&runs, &measured));
            println!("eval.json in each run folder");
        }
        Ok(())
    }

    /// The runs' policies; an error where they are no trainings of one kind.
    pub(super) fn open(&self) -> Result<Vec<Run>> {
        ensure!(self.episodes > 0, "--episodes: 0 is nothing to evaluate");
        let infos = infos_of(&self.runs)?;
        let opened = infos.into_iter().zip(&self.runs);
        opened.map(|(info, path)| Ok(Run { info, policy: policy_of(path)?, path: path.clone() })).collect()
    }

    /// Runs the episodes on `task`, which may be the run's own under another randomisation.
    pub(super) fn measure(
        &self,
        run: &Run,
        task: &Arc<TaskDefinition>,
    ) -> Result<(Evaluation, Vec<Quantity>)> {
        let Run { path, info, policy } = run;
        let make = || match info.learner {
            LearnerKind::Teacher => Box::new(WithPrivileged::new(make(task))) as Box<dyn Environment>,
            _ => make(task),
        };
        let probe = make();
        ensure!(
            policy.observation_len() == probe.observation_len() && policy.action_len() == probe.action_len(),
            "{}: the policy has {} observations, the task {} has {} now; train anew",
            path.display(),
            policy.observation_len(),
            info.task,
            probe.observation_len()
        );
        let names = probe.metric_names();
        let episodes = evaluate(Some(policy), &make, self.episodes, self.seed, self.threads);
        let quantity = |name: &str, is_share, value: &dyn Fn(&tendon_learn::Episode) -> f64| Quantity {
            name: name.into(),
            is_share,
            values: episodes.iter().map(value).collect(),
        };
        let share = |is: bool| f64::from(u8::from(is));
        let mut quantities = vec![
            quantity("return", false, &|e| e.episode_return),
            quantity("success", true, &|e| share(e.success)),
            quantity("ended by the task", true, &|e| share(e.terminated)),
            quantity("length, steps", false, &|e| e.length as f64),
        ];
        for (i, name) in names.iter().enumerate() {
            quantities.push(quantity(&format!("{name}, at the end"), false, &|e| f64::from(e.metrics[i])));
        }
        if let Some((cost, limit)) = constraint(run)?
            && let Some(i) = names.iter().position(|name| *name == cost)
        {
            let name = format!("|{cost}|, mean over steps (limit {limit})");
            quantities.push(quantity(&name, false, &|e| e.metric_means[i]));
        }
        Ok((Evaluation::of(&episodes, names, self.seed), quantities))
    }
}

/// The metric that a run's training constrained, and its limit.
fn constraint(run: &Run) -> Result<Option<(String, f64)>> {
    if run.info.learner != LearnerKind::Constrained {
        return Ok(None);
    }
    let file = run.path.join("config.toml");
    let settings: toml::Table =
        read_text(&file, MAX_CONFIG)?.parse().with_context(|| file.display().to_string())?;
    let cost = settings.get("cost").and_then(toml::Value::as_str);
    Ok(cost.map(String::from).zip(settings.get("limit").and_then(toml::Value::as_float)))
}

/// Rows for people: one policy, intervals over episodes.
pub(super) fn table_of(quantities: &[Quantity], seed: u64) -> Vec<Vec<String>> {
    let cell = |quantity: &Quantity| {
        let interval = bootstrap(&quantity.values, seed);
        if quantity.is_share { said(quantity, interval.mean) } else { with_ends(quantity, interval) }
    };
    let head = ["", "mean (95% bootstrap interval over episodes)"].map(String::from).to_vec();
    std::iter::once(head).chain(quantities.iter().map(|q| vec![q.name.clone(), cell(q)])).collect()
}

/// Rows for people: the mean of each training, and their mean with its interval over trainings.
pub(super) fn table_over(runs: &[Run], measured: &[Vec<Quantity>]) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    head.extend(runs.iter().map(|run| format!("seed {}", run.info.seed)));
    head.push(format!("mean (95% t-interval over {} trainings)", runs.len()));
    let row = |(index, quantity): (usize, &Quantity)| {
        let mean = |of: &Vec<Quantity>| of[index].values.iter().sum::<f64>() / of[index].values.len() as f64;
        let means: Vec<f64> = measured.iter().map(mean).collect();
        let mut row = vec![quantity.name.clone()];
        row.extend(means.iter().map(|mean| said(quantity, *mean)));
        row.push(with_ends(quantity, student(&means)));
        row
    };
    std::iter::once(head).chain(measured[0].iter().enumerate().map(row)).collect()
}

fn with_ends(quantity: &Quantity, interval: Interval) -> String {
    let Interval { mean, mut low, mut high } = interval;
    if quantity.is_share {
        (low, high) = (low.max(0.0), high.min(1.0));
    }
    format!("{} ({} to {})", said(quantity, mean), said(quantity, low), said(quantity, high))
}

fn said(quantity: &Quantity, value: f64) -> String {
    if quantity.is_share {
        return format!("{:.0}%", 100.0 * value);
    }
    let text = format!("{value:.2}");
    if text == "-0.00" { "0.00".into() } else { text }
}
