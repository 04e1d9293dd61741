//! `runs card`: what a bundle's README says, all of it measured by the command.

use super::learn::{LearnerKind, info_of, name, policy_of};
use super::runs::Eval;
use super::write_file;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fmt::Write;
use std::path::PathBuf;
use tendon_compiler::{Options, compile, inspect};
use tendon_sim::tasks::{self, NoiseSpec, RandomisationSpec};

#[derive(Debug, Args)]
pub(super) struct Card {
    #[command(flatten)]
    eval: Eval,
    /// Where it goes; without it README.md in the run folder
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Lines of `tendon inspect` that a card repeats.
const COSTS: [&str; 5] = ["network", "operations", "instructions", inspect::TIMES, "RAM"];

impl Card {
    pub(super) fn run(self) -> Result<()> {
        ensure!(self.eval.episodes > 0, "--episodes: 0 is nothing to evaluate");
        let run = &self.eval.run;
        let (info, policy) = (info_of(run)?, policy_of(run)?);
        let task = tasks::open(&info.task, None)?;
        let (_, rows) = self.eval.measure(&info, &policy, &task)?;
        let mut text = String::new();
        let from = info.from.as_ref().map_or_else(String::new, |from| format!(" --from {}", from.display()));
        let learner = if info.preferences {
            "--preferences".into()
        } else {
            format!("--learner {}", name(info.learner))
        };
        let title =
            run.file_name().map_or_else(|| info.task.clone(), |name| name.to_string_lossy().into_owned());
        writeln!(text, "# {title}\n\n{}\n", task.spec().doc)?;
        writeln!(
            text,
            "```sh\ntendon train --task {} {learner} --seed {}{from} --config config.toml --run {title}\ntendon runs card {title} --episodes {} --seed {}\n```\n",
            info.task, info.seed, self.eval.episodes, self.eval.seed
        )?;
        writeln!(
            text,
            "| {} episodes, seed {} | mean (95% bootstrap interval) |\n|---|---|",
            self.eval.episodes, self.eval.seed
        )?;
        for row in &rows[1..] {
            writeln!(text, "| {} | {} |", row[0], row[1])?;
        }
        text.push_str(
            "\nOne training: the intervals are over episodes, not over trainings.\n\n## Robustness\n\n",
        );
        text.push_str("The same policy where the robot differs from the one that it was trained on.\n\n");
        text.push_str("| what differs | return | success |\n|---|---|---|\n");
        for (what, randomisation) in variations(task.spec().control_period_s as f32, task.randomisation()) {
            match task.randomised(randomisation) {
                Ok(task) => {
                    let (evaluation, rows) = self.eval.measure(&info, &policy, &task)?;
                    writeln!(text, "| {what} | {} | {:.0}% |", rows[1][1], 100.0 * evaluation.success_rate)?;
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
        let file = self.output.unwrap_or_else(|| run.join("README.md"));
        write_file(&file, text.as_bytes())?;
        println!("{}", file.display());
        Ok(())
    }
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
