//! `runs card`: what a bundle's README says, all of it measured by the command.

use super::eval::{Eval, Run, table_of, table_over};
use super::learn::{LearnerKind, RunInfo, default_run, info_of, name};
use super::write_file;
use anyhow::{Context, Result};
use clap::Args;
use std::fmt::Write;
use std::path::PathBuf;
use tendon_compiler::{Options, compile, inspect};
use tendon_sim::tasks::{self, NoiseSpec, RandomisationSpec};

#[derive(Debug, Args)]
pub(super) struct Card {
    #[command(flatten)]
    eval: Eval,
    /// Where it goes; without it README.md in the folder of the first run. Its folder gives the card its name
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// What the card says behind its figures in your own words, as Markdown
    #[arg(long)]
    note: Option<String>,
}

/// Lines of `tendon inspect` that a card repeats.
const COSTS: [&str; 5] = ["network", "operations", "instructions", inspect::TIMES, "RAM"];

impl Card {
    pub(super) fn run(self) -> Result<()> {
        let runs = self.eval.open()?;
        let Run { path: run, info, .. } = &runs[0];
        let task = tasks::open(&info.task, None)?;
        let file = self.output.clone().unwrap_or_else(|| run.join("README.md"));
        let folder = std::path::absolute(&file).with_context(|| file.display().to_string())?;
        let folder = folder.parent().unwrap_or(&folder);
        // Before the work of measuring.
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let title =
            folder.file_name().map_or_else(|| info.task.clone().into(), |name| name.to_string_lossy());
        let mut text = format!("# {title}\n\n{}\n\n```sh\n", task.spec().doc);
        if let Some(teacher) = info.from.as_deref().and_then(|from| info_of(from).ok()) {
            writeln!(text, "{}", training(&teacher, &format!("{}.toml", name(teacher.learner))))?;
        }
        for run in &runs {
            writeln!(text, "{}", training(&run.info, "config.toml"))?;
        }
        let folders: Vec<String> =
            runs.iter().map(|run| default_run(&run.info).display().to_string()).collect();
        let Eval { episodes, seed, .. } = self.eval;
        writeln!(text, "tendon runs card {} --episodes {episodes} --seed {seed}\n```\n", folders.join(" "))?;
        let mut measured = Vec::new();
        for run in &runs {
            measured.push(self.eval.measure(run, &task)?.1);
        }
        let mut rows = table_of(&measured[0], seed);
        rows[0][0] = format!("{episodes} episodes, seed {seed}");
        text.push_str(&markdown(&rows));
        if runs.len() > 1 {
            writeln!(
                text,
                "\nThis is the training with seed {}; its intervals are over episodes. All trainings, {episodes} episodes each:\n",
                info.seed
            )?;
            text.push_str(&markdown(&table_over(&runs, &measured)));
        } else {
            text.push_str("\nOne training: the intervals are over episodes, not over trainings.\n");
        }
        if let Some(note) = &self.note {
            writeln!(text, "\n{}", note.trim())?;
        }
        text.push_str("\n## Robustness\n\nThe same policy where the robot differs from the one that it was trained on.\n\n");
        text.push_str("| what differs | return | success |\n|---|---|---|\n");
        for (what, randomisation) in variations(task.spec().control_period_s as f32, task.randomisation()) {
            match task.randomised(randomisation) {
                Ok(task) => {
                    let rows = table_of(&self.eval.measure(&runs[0], &task)?.1, seed);
                    writeln!(text, "| {what} | {} | {} |", rows[1][1], rows[2][1])?;
                }
                Err(error) => writeln!(text, "| {what} | not for this task: {error} | |")?,
            }
        }
        text.push_str("\n## On the controller\n\n");
        let onnx = run.join("policy.onnx");
        if info.learner == LearnerKind::Teacher || !onnx.is_file() {
            text.push_str("Not exported.\n");
        } else {
            let bytes = std::fs::read(&onnx).with_context(|| onnx.display().to_string())?;
            let image =
                compile(&bytes, &Options::default()).with_context(|| onnx.display().to_string())?.image;
            writeln!(
                text,
                "Image: {} bytes. `tendon compile`, then `tendon inspect`:\n\n```text",
                image.len()
            )?;
            let said = inspect::inspect(&image, None)?;
            for line in said.lines().filter(|line| COSTS.iter().any(|cost| line.starts_with(cost))) {
                writeln!(text, "{line}")?;
            }
            text.push_str("```\n");
        }
        text.push_str("\nNo real robot was tried.\n");
        if run.join("curves.png").is_file() {
            text.push_str("\n![curves](curves.png)\n");
        }
        write_file(&file, text.as_bytes())?;
        println!("{}", file.display());
        Ok(())
    }
}

/// The command of a training, its run folder by its default name.
fn training(info: &RunInfo, config: &str) -> String {
    let learner =
        if info.preferences { "--preferences".into() } else { format!("--learner {}", name(info.learner)) };
    let from = info.from.as_ref().map_or_else(String::new, |from| {
        let from = info_of(from).map_or_else(|_| from.clone(), |teacher| default_run(&teacher));
        format!(" --from {}", from.display())
    });
    format!("tendon train --task {} {learner} --seed {}{from} --config {config}", info.task, info.seed)
}

/// A table; the first row is its head.
fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if index == 0 {
            text += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    text
}

/// What a robot may differ in, one after the other and together; pushes come on top of the task's own randomisation.
fn variations(period_s: f32, own: &RandomisationSpec) -> Vec<(&'static str, RandomisationSpec)> {
    let around = |part: f32| Some([1.0 - part, 1.0 + part]);
    let noise = NoiseSpec {
        dof_pos: 0.01,
        dof_vel: 0.5,
        lin_vel: 0.1,
        ang_vel: 0.2,
        gravity: 0.05,
        ..NoiseSpec::default()
    };
    let body =
        RandomisationSpec { friction: around(0.4), mass_factor: around(0.2), ..RandomisationSpec::default() };
    let motors = RandomisationSpec {
        kp_factor: around(0.1),
        kd_factor: around(0.1),
        motor_strength: around(0.1),
        action_delay_s: Some([0.0, period_s]),
        ..RandomisationSpec::default()
    };
    let sensors = RandomisationSpec { noise, ..RandomisationSpec::default() };
    let all =
        RandomisationSpec { noise, friction: body.friction, mass_factor: body.mass_factor, ..motors.clone() };
    let pushes = RandomisationSpec { push_interval_s: Some(2.0), max_push_vel_xy: 0.5, ..own.clone() };
    vec![
        ("friction +-40%, masses of the links +-20%", body),
        ("gains and strength of the motors +-10%, commands up to a period late", motors),
        ("noise: joints 0.01 rad and 0.5 rad/s, base 0.1 m/s, 0.2 rad/s and 0.05 rad", sensors),
        ("all of it", all),
        ("pushes to 0.5 m/s every 2 s", pushes),
    ]
}
