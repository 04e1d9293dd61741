//! `demo`: the whole way once.

use super::learn::{Bars, export, make};
use super::run::{FRAME_SIZE, contract_of, percentile, upload};
use super::{Controller, print_table, write_file};
use crate::hil::{TaskRun, run_task};
use crate::link::{ControllerKind, Serial, Session, launch};
use crate::recording::Recorder;
use crate::report::{Line, Page, frames_png, line_plot};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tendon_compiler::parity::{
    ImageRunner, OnnxRunner, Report, TOLERANCE, compare, output_labels, random_inputs,
};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_learn::CurveRow;
use tendon_learn::demo::{DemoOutcome, Evaluation, demo_learning};
use tendon_learn::preference::PreferenceConfig;
use tendon_learn::run_folder::RunFolder;
use tendon_sim::tasks::{self, TaskInfo};
use tendon_sim::{Image, render};

/// Episodes behind each return in the table.
const EPISODES: u64 = 50;
/// Rows of the parity check.
const PARITY_ROWS: usize = 200;
/// Frames per second of the report's animation.
const FRAMES_PER_S: f64 = 10.0;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Same seed, same policies
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Task
    #[arg(long, default_value = "cart-pole")]
    task: String,
    /// Simulated time on the controller, s
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Which controller
    #[arg(long, value_enum, default_value = "auto")]
    controller: Controller,
    /// Run folder; an interrupted demo in it is continued
    #[arg(long)]
    run: Option<PathBuf>,
}

/// `config.toml` of the run folder: everything that decides the result.
#[derive(Serialize)]
struct DemoConfig<'a> {
    program: &'a str,
    task: &'a str,
    seed: u64,
    seconds: f64,
    episodes: u64,
    learning: &'a PreferenceConfig,
}

impl Demo {
    pub(super) fn run(self) -> Result<()> {
        let started = Instant::now();
        let task = tasks::find(&self.task)?;
        let definition = task.definition()?;
        let path = self
            .run
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("runs/demo-{}-{}", self.task, self.seed)));
        let folder = RunFolder::create(&path)?;
        let learning = PreferenceConfig::default();
        let program = concat!("tendon ", env!("CARGO_PKG_VERSION"));
        let config = DemoConfig {
            program,
            task: task.name,
            seed: self.seed,
            seconds: self.seconds,
            episodes: EPISODES,
            learning: &learning,
        };
        folder.write_config(&config)?;
        println!("1/4 learning: {}", definition.spec().doc);
        let mut bars = Bars::default();
        let outcome =
            demo_learning(&learning, &|| make(&definition), EPISODES, self.seed, Some(&folder), &mut |p| {
                bars.show(p)
            })?;
        bars.finish();
        ensure!(!outcome.interrupted, "interrupted; the same command continues in {}", path.display());
        folder.write_curves(&outcome.learned_curves)?;

        println!("2/4 exporting, compiling, parity");
        let onnx_file = path.join("policy.onnx");
        export(&outcome.learned_policy, &definition, &onnx_file)?;
        let onnx = std::fs::read(&onnx_file).with_context(|| onnx_file.display().to_string())?;
        let options = Options { contract: ContractChoice::FromMetadata, ..Options::default() };
        let compiled = compile(&onnx, &options).with_context(|| onnx_file.display().to_string())?;
        let image_file = path.join("policy.tnd");
        write_file(&image_file, &compiled.image)?;
        let tract = OnnxRunner::new(&onnx)?;
        let mut host = ImageRunner::new(&compiled.image)?;
        let labels = output_labels(tract.n_outputs(), compiled.contract.as_ref());
        let inputs = random_inputs(tract.n_inputs(), PARITY_ROWS, self.seed);
        let parity = compare(&inputs, &labels, TOLERANCE, |i| tract.run(i), |i| host.run(i))?;
        ensure!(parity.passed(), "{}: image and ONNX differ: {parity}", image_file.display());

        let kind = self.controller.kind();
        println!("3/4 running {} s on the controller: {}", self.seconds, kind.describe());
        let recording = path.join("recording.tnr");
        let (run, frames) = self.on_controller(kind, task, &compiled.image, &recording)?;

        println!("4/4 report");
        let table = summary(&outcome, &parity, &run, kind);
        let page = report(&config, task, &outcome, &run, &frames, &table)?;
        let report_file = path.join("report.html");
        write_file(&report_file, page.as_bytes())?;
        println!();
        print_table(&table);
        println!("\n{} s; {}", started.elapsed().as_secs(), path.display());
        println!(
            "  config.toml, true-reward/ and learned-reward/ with curves and checkpoints, policy.onnx, policy.tnd, recording.tnr"
        );
        println!("  {}", report_file.display());
        if kind == ControllerKind::StandIn {
            println!(
                "the controller was the stand-in process; for the Cortex-M4F firmware in QEMU: cargo xtask firmware build"
            );
        }
        Ok(())
    }

    fn on_controller(
        &self,
        kind: ControllerKind,
        task: &'static TaskInfo,
        image: &tendon_runtime::AlignedBytes,
        recording: &Path,
    ) -> Result<(TaskRun, Vec<Image>)> {
        let (_, schema_hash) = contract_of(image)?;
        let controller = launch(kind)?;
        let (mut session, _) = Session::open(Serial::open(controller.port())?)?;
        upload(&mut session, image)?;
        let mut environment = task.make()?;
        let period = environment.contract().control_period_s;
        let ticks = (self.seconds / period).round() as u64;
        let every = ((1.0 / FRAMES_PER_S / period).round() as u64).max(1);
        let bar = indicatif::ProgressBar::new(ticks);
        let mut frames = Vec::new();
        let mut recorder = Recorder::create(recording).with_context(|| recording.display().to_string())?;
        let run = run_task(
            &mut session,
            &mut environment,
            schema_hash,
            self.seed,
            ticks,
            Some(&mut recorder),
            |tick, environment| {
                bar.set_position(tick + 1);
                if tick % every == 0 {
                    frames.push(render(&environment.scene(), &environment.camera(FRAME_SIZE)));
                }
            },
        )?;
        recorder.finish().with_context(|| recording.display().to_string())?;
        bar.finish_and_clear();
        Ok((run, frames))
    }
}

fn summary(outcome: &DemoOutcome, parity: &Report, run: &TaskRun, kind: ControllerKind) -> Vec<Vec<String>> {
    let show = |evaluation: &Evaluation| match evaluation.interval {
        Some(i) => format!(
            "{:.1} ({:.1} to {:.1}), success {:.0}%",
            i.mean,
            i.low,
            i.high,
            100.0 * evaluation.success_rate
        ),
        None => "-".into(),
    };
    let timing =
        |values: &[f64]| format!("p50 {:.0}, max {:.0}", percentile(values, 0.5), percentile(values, 1.0));
    let rows = [
        ("return, random (mean, 95% interval)", show(&outcome.random)),
        ("return, policy under the learned reward", show(&outcome.learned_reward)),
        ("return, policy under the true reward", show(&outcome.true_reward)),
        (
            "learned reward's share of the improvement",
            format!("{:.0}%", 100.0 * outcome.normalised_improvement),
        ),
        (
            "parity error, image against ONNX",
            format!("{:.1e} over {} rows (limit 1e-5)", parity.max_error, parity.rows),
        ),
        ("controller", kind.describe().into()),
        ("return on the controller", format!("{:.1}, success {}", run.total_reward, run.success)),
        ("ticks, misses", format!("{}, {}", run.stats.ticks, run.misses)),
        ("time per tick on the controller, us", timing(&run.stats.on_controller_us)),
        ("round trip per tick, us", timing(&run.stats.round_trip_us)),
        ("trajectory hash", format!("{:016x}", run.hash)),
    ];
    let head = vec!["measure".to_string(), "value".to_string()];
    std::iter::once(head).chain(rows.map(|(name, value)| vec![name.to_string(), value])).collect()
}

fn report(
    config: &DemoConfig<'_>,
    task: &TaskInfo,
    outcome: &DemoOutcome,
    run: &TaskRun,
    frames: &[Image],
    table: &[Vec<String>],
) -> Result<String> {
    let environment = task.make()?;
    let period = environment.contract().control_period_s;
    let mut page = Page::new(&format!("Tendon demo: {}, seed {}", task.name, config.seed));
    let definition = task.definition()?;
    page.text(&definition.spec().doc);
    page.text(&format!("Success: {}", definition.spec().success.doc));
    page.table(table);
    page.heading("The run on the controller");
    page.picture(
        &frames_png(frames, (1000.0 / FRAMES_PER_S) as u16)?,
        "Closed loop on the controller, real time, rendered from the simulation",
    );
    let series = |name: &str, values: &dyn Fn(usize) -> Option<f32>| Line {
        name: name.into(),
        points: (0..run.rewards.len())
            .filter_map(|i| Some((i as f64 * period, f64::from(values(i)?))))
            .collect(),
    };
    let joints: Vec<Line> = environment
        .contract()
        .joints
        .iter()
        .enumerate()
        .map(|(j, joint)| series(&joint.name, &|i| run.joint_positions.get(i)?.get(j).copied()))
        .collect();
    page.plot(&line_plot("Joint positions, rad or m", "time, s", &joints));
    let actions: Vec<Line> = environment
        .contract()
        .actions
        .iter()
        .enumerate()
        .map(|(a, action)| series(&action.joint, &|i| run.actions.get(i)?.get(a).copied()))
        .collect();
    page.plot(&line_plot("Raw actions", "time, s", &actions));
    page.plot(&line_plot(
        "Reward per step",
        "time, s",
        &[series("reward", &|i| run.rewards.get(i).copied())],
    ));
    let timing = |name: &str, values: &[f64]| Line {
        name: name.into(),
        points: values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect(),
    };
    page.plot(&line_plot(
        "Time per tick, us",
        "tick",
        &[
            timing("on the controller", &run.stats.on_controller_us),
            timing("round trip", &run.stats.round_trip_us),
        ],
    ));
    page.heading("Learning");
    let curve = |name: &str, rows: &[CurveRow], value: &dyn Fn(&CurveRow) -> Option<f64>| Line {
        name: name.into(),
        points: rows.iter().filter_map(|row| Some((row.steps as f64, value(row)?))).collect(),
    };
    let both = |value: &dyn Fn(&CurveRow) -> Option<f64>| {
        [
            curve("true reward", &outcome.true_curves, value),
            curve("learned reward", &outcome.learned_curves, value),
        ]
    };
    page.plot(&line_plot(
        "Return under the task's reward",
        "environment steps",
        &both(&|row| row.episode_return),
    ));
    page.plot(&line_plot(
        "Entropy of the policy, nats",
        "environment steps",
        &both(&|row| Some(row.entropy)),
    ));
    page.plot(&line_plot("KL per update, nats", "environment steps", &both(&|row| Some(row.kl))));
    page.plot(&line_plot(
        "Accuracy of the reward model on its labels",
        "environment steps",
        &[curve("accuracy", &outcome.learned_curves, &|row| row.label_accuracy)],
    ));
    page.heading("Physical metrics at the end of an episode (mean absolute value)");
    let mut rows = vec![["metric", "random", "learned reward", "true reward"].map(String::from).to_vec()];
    for (index, (name, random)) in outcome.random.metrics.iter().enumerate() {
        let of = |e: &Evaluation| e.metrics.get(index).map_or_else(String::new, |(_, v)| format!("{v:.3}"));
        rows.push(vec![
            name.clone(),
            format!("{random:.3}"),
            of(&outcome.learned_reward),
            of(&outcome.true_reward),
        ]);
    }
    page.table(&rows);
    page.heading("Settings");
    page.preformatted(&toml::to_string_pretty(config)?);
    Ok(page.finish())
}
