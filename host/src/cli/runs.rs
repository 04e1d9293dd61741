//! `runs list`, `runs compare`, `runs card`.

use super::alike::difference;
use super::card::Card;
use super::learn::{curves_of, info_of, name};
use super::{print_table, write_file};
use crate::report::{Curves, curves_png};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

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
    /// Curves of several runs in one plot; trainings that differ in their seeds alone are one curve, their mean, in a band from the lowest to the highest
    Compare {
        /// Run folders
        #[arg(required = true, num_args = 1..)]
        runs: Vec<PathBuf>,
        /// The plot
        #[arg(short, long, default_value = "compare.png")]
        output: PathBuf,
        /// Draw each run for itself
        #[arg(long)]
        each: bool,
    },
    /// A card in Markdown: commands, seeds, return, physical metrics, robustness, cost on the controller. It is the first run's; others are trainings of the same kind with other seeds
    Card(Card),
}

impl Runs {
    pub(super) fn run(self) -> Result<()> {
        match self.what {
            What::List { folder } => list(&folder),
            What::Compare { runs, output, each } => compare(&runs, &output, each),
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

fn compare(runs: &[PathBuf], output: &Path, each: bool) -> Result<()> {
    table(runs)?;
    let mut groups: Vec<Vec<&PathBuf>> = Vec::new();
    for run in runs {
        let mut own = None;
        for group in groups.iter_mut().filter(|_| !each) {
            if own.is_none() && difference(group[0], run)?.is_none() {
                own = Some(group);
            }
        }
        match own {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let curves: Vec<Curves> = groups
        .iter()
        .map(|group| {
            let name = group[0].file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let name = if group.len() > 1 { format!("{name} ({} runs)", group.len()) } else { name };
            Ok(Curves { name, runs: group.iter().map(|run| curves_of(run)).collect::<Result<_>>()? })
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
        let curves = curves_of(path)?;
        let returns: Vec<f64> = curves.iter().filter_map(|row| row.episode_return).collect();
        let tail = &returns[returns.len() - returns.len().div_ceil(10)..];
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.1}"));
        let mean = (!tail.is_empty()).then(|| tail.iter().sum::<f64>() / tail.len() as f64);
        rows.push(vec![
            path.display().to_string(),
            info.task,
            if info.preferences { "preferences".into() } else { name(info.learner) },
            info.seed.to_string(),
            curves.last().map_or(0, |row| row.steps).to_string(),
            number(mean),
            number(returns.iter().copied().reduce(f64::max)),
        ]);
    }
    print_table(&rows);
    Ok(())
}
