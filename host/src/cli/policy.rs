//! `compile`, `inspect`, `parity`.

use super::run::{contract_of, walking_task};
use super::{print_table, read_file, read_image, read_text, write_file};
use crate::hil::run_task;
use crate::link::{ControllerKind, Serial, Session, firmware_path, launch, with_in_process};
use crate::recording::Recording;
use crate::walk::walk;
use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tendon_compiler::parity::{
    ImageRunner, OnnxRunner, Report, TOLERANCE, compare, compare_recorded, output_labels, random_inputs,
};
use tendon_compiler::trace::Trace;
use tendon_compiler::{
    Abstain, AbstentionReport, ContractChoice, MAX_CONTRACT, MAX_FILE, Manifest, Options, Quantization,
    compile, inspect, range,
};
use tendon_learn::bootstrap;
use tendon_runtime::{AlignedBytes, Image};
use tendon_sim::{Robot, RobotOptions, tasks};

#[derive(Debug, Args)]
pub(super) struct Compile {
    /// The ONNX file
    onnx: PathBuf,
    /// Contract as TOML, instead of the file's metadata
    #[arg(long)]
    contract: Option<PathBuf>,
    /// Leave the contract out: raw inputs to raw outputs, never armed
    #[arg(long, conflicts_with = "contract")]
    bare: bool,
    /// Where the image goes
    #[arg(short, long)]
    output: PathBuf,
    /// The controller refuses images with a smaller counter than it has stored
    #[arg(long, default_value_t = 0)]
    rollback_counter: u32,
    /// An input that is state and the output it becomes; may be repeated. Given once, no pair is found by its name
    #[arg(long = "state", value_name = "INPUT=OUTPUT", value_parser = state_pair)]
    states: Vec<(String, String)>,
    /// Smaller numbers for dense layers
    #[arg(long, value_enum, requires = "calibrate")]
    quantize: Option<Quantize>,
    /// Recorded observations for --quantize: a recording of `tendon hil --record`, or CSV with columns obs0.. act0..;
    /// may be repeated, so that all commands are covered
    #[arg(long, value_name = "RUN", requires = "quantize")]
    calibrate: Vec<PathBuf>,
    /// Largest error of the quantized actions that is accepted, root mean square over that of the actions; the
    /// contract's `error_budget`, or 0.02, when absent
    #[arg(long, requires = "quantize")]
    error_budget: Option<f64>,
    /// Compare the quantized policy in closed loop on this task
    #[arg(long, requires = "quantize")]
    task: Option<String>,
    /// Seeds of that comparison
    #[arg(long, requires = "task", default_value_t = CLOSED_LOOP_SEEDS)]
    seeds: u64,
    /// Compare it in closed loop on this walking robot (MJCF), one command each
    #[arg(long, requires = "quantize", conflicts_with = "task")]
    robot: Option<PathBuf>,
    /// Recorded observations, as for --calibrate, one run each: the controller abstains from observations unlike them;
    /// may be repeated, so that all commands are covered
    #[arg(long, value_name = "RUN")]
    abstain: Vec<PathBuf>,
    /// Share of ticks at which it may abstain from observations like the recorded ones
    #[arg(long, default_value_t = 1e-3, requires = "abstain")]
    false_alarm: f64,
    /// Ticks that it looks at, 1 to 16
    #[arg(long, default_value_t = 5, requires = "abstain")]
    abstain_window: u16,
    /// Unlikely observations among them before it abstains
    #[arg(long, default_value_t = 3, requires = "abstain")]
    abstain_needed: u16,
}

/// How dense layers are stored and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Quantize {
    /// 8-bit weights, 16-bit activations, 32-bit sums
    #[value(name = "8w16a")]
    W8A16,
}

fn state_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(input, output)| !input.is_empty() && !output.is_empty());
    pair.map(|(input, output)| (input.into(), output.into())).ok_or_else(|| {
        format!("`{text}` is not INPUT=OUTPUT: name an input of the graph and the output it becomes")
    })
}

/// Accepted when neither the command line nor the contract says more.
const ERROR_BUDGET: f64 = 0.02;
/// Seeds of the comparison in closed loop.
const CLOSED_LOOP_SEEDS: u64 = 10;

/// Recorded observations of a run, for a policy that was compiled as `image`.
fn recorded(path: &Path, image: &AlignedBytes) -> Result<Vec<Vec<f32>>> {
    let name = || path.display().to_string();
    let parsed = Image::parse(image)?;
    let policy = parsed.policy(image).context("the image has no content")?;
    let plan = policy.network.plan();
    if path.extension().is_some_and(|extension| extension == "csv") {
        let file = std::fs::File::open(path).with_context(|| format!("{}: cannot be read", name()))?;
        let trace = Trace::read(file, plan.n_inputs as usize, plan.n_outputs as usize).with_context(name)?;
        return Ok(trace.observations);
    }
    let contract = policy.contract.with_context(|| {
        format!(
            "{}: a recording holds raw states; without a contract they are no observations: give a CSV",
            name()
        )
    })?;
    let recording = Recording::read(path).with_context(|| format!("{}: cannot be read", name()))?;
    let rows = recording.observations(&contract);
    ensure!(
        !rows.is_empty(),
        "{}: no tick in it at which the policy ran ({} messages, {} damaged): record one with `tendon hil --record`",
        name(),
        recording.messages.len(),
        recording.damaged
    );
    Ok(rows)
}

/// Per-layer table of a quantization.
fn print_quantization(report: &Quantization) {
    let mut table = vec![["layer", "shape", "weights", "output", "clipped"].map(String::from).to_vec()];
    for layer in &report.layers {
        table.push(vec![
            layer.name.clone(),
            format!("{} -> {}", layer.n_in, layer.n_out),
            format!("{:.2e}", layer.weights),
            format!("{:.2e}", layer.output),
            format!("{:.3}%", 100.0 * layer.clipped),
        ]);
    }
    print_table(&table);
    println!(
        "actions: {:.2e} of their size (root mean square), {:.2e} at most, over {} recorded observations",
        report.output, report.largest, report.rows
    );
}

fn print_abstention(report: &AbstentionReport) {
    println!(
        "abstention: statistics of {} observations, rank {}; threshold {:.3} from {} windows held out, the largest of them {:.3}",
        report.fitted, report.rank, report.threshold, report.calibrated, report.largest
    );
    if !report.still.is_empty() {
        let elements: Vec<String> = report.still.iter().map(ToString::to_string).collect();
        println!(
            "  observations {} did not vary in the recordings: of them only the range is watched",
            elements.join(", ")
        );
    }
}

impl Compile {
    pub(super) fn run(self) -> Result<()> {
        let onnx = read_file(&self.onnx, MAX_FILE as u64)?;
        let text = self.contract.as_ref().map(|path| read_text(path, MAX_CONTRACT as u64)).transpose()?;
        let file = self.contract.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let contract = match &text {
            Some(text) => ContractChoice::Toml { file: &file, text },
            None if self.bare => ContractChoice::Bare,
            None => ContractChoice::FromMetadata,
        };
        let states = (!self.states.is_empty()).then_some(&*self.states);
        let options =
            Options { contract, rollback_counter: self.rollback_counter, states, ..Options::default() };
        let mut compiled = compile(&onnx, &options).with_context(|| self.onnx.display().to_string())?;
        let plain = compiled.image.clone();
        let read =
            |paths: &[PathBuf]| paths.iter().map(|run| recorded(run, &plain)).collect::<Result<Vec<_>>>();
        let (rows, runs) = (read(&self.calibrate)?.concat(), read(&self.abstain)?);
        let abstain = Abstain {
            runs: &runs,
            false_alarm: self.false_alarm,
            window: self.abstain_window,
            needed: self.abstain_needed,
        };
        if self.quantize.is_some() || !runs.is_empty() {
            let quantize = self.quantize.map(|_| &*rows);
            let abstain = (!runs.is_empty()).then_some(abstain);
            compiled = compile(&onnx, &Options { quantize, abstain, ..options })
                .with_context(|| self.onnx.display().to_string())?;
            if let Some(report) = &compiled.abstention {
                print_abstention(report);
            }
            if let Some(report) = &compiled.quantization {
                print_quantization(report);
                let of_contract = compiled.contract.as_ref().and_then(|contract| contract.error_budget);
                let budget = self.error_budget.or(of_contract.map(f64::from)).unwrap_or(ERROR_BUDGET);
                ensure!(
                    report.output <= budget,
                    "the quantized actions differ by {:.2e}, the error budget is {budget:.2e}: calibrate with a longer run, compile without --quantize, or raise `error_budget` in the contract",
                    report.output
                );
            }
            if let Some(task) = &self.task {
                closed_loop_task(task, &plain, &compiled.image, self.seeds)?;
            }
            if let Some(robot) = &self.robot {
                closed_loop_walk(robot, &plain, &compiled.image)?;
            }
        }
        write_file(&self.output, &compiled.image)?;
        println!("{}: {} bytes", self.output.display(), compiled.image.len());
        if compiled.contract.is_none() {
            println!(
                "no contract: a bare network, which parity and benches take and no controller arms; give one with --contract"
            );
        }
        Ok(())
    }
}

/// Returns of both images on a task, seed by seed.
fn closed_loop_task(name: &str, plain: &AlignedBytes, quantized: &AlignedBytes, seeds: u64) -> Result<()> {
    let task = tasks::find(name)?;
    let returns = |image: &AlignedBytes| -> Result<Vec<f64>> {
        let (_, hash) = contract_of(image)?;
        with_in_process(image.len(), |transport| {
            let (mut session, _) = Session::open(transport)?;
            session.upload(image, |_| ())?;
            (1..=seeds)
                .map(|seed| {
                    let mut environment = task.make()?;
                    Ok(run_task(&mut session, &mut environment, hash, seed, 500, None, |_, _| ())?
                        .total_reward)
                })
                .collect()
        })
    };
    let (before, after) = (returns(plain)?, returns(quantized)?);
    let mut table = vec![["seed", "f32", "8w16a", "difference"].map(String::from).to_vec()];
    for (seed, (a, b)) in (1..).zip(before.iter().zip(&after)) {
        table.push(vec![
            format!("{seed}"),
            format!("{a:.2}"),
            format!("{b:.2}"),
            format!("{:+.2}%", 100.0 * (b - a) / a.abs().max(1e-9)),
        ]);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (a, b) = (mean(&before), mean(&after));
    table.push(vec![
        "mean".into(),
        format!("{a:.2}"),
        format!("{b:.2}"),
        format!("{:+.2}%", 100.0 * (b - a) / a.abs().max(1e-9)),
    ]);
    print_table(&table);
    let differences: Vec<f64> = before.iter().zip(&after).map(|(a, b)| b - a).collect();
    let interval = bootstrap(&differences, 1);
    let share = |value: f64| 100.0 * value / a.abs().max(1e-9);
    println!(
        "difference over {seeds} seeds: {:+.2}% (95% bootstrap {:+.2}% to {:+.2}%)",
        share(interval.mean),
        share(interval.low),
        share(interval.high)
    );
    Ok(())
}

/// Mean velocities of both images under each command of the contract alone, at both ends of its range.
fn closed_loop_walk(robot: &Path, plain: &AlignedBytes, quantized: &AlignedBytes) -> Result<()> {
    let robot = Robot::from_file(robot, RobotOptions::default())?;
    let (contract, hash) = contract_of(plain)?;
    let header = ["command", "image", "vx", "vy", "wz", "lowest z", "tracking reward"];
    let mut table = vec![header.map(String::from).to_vec()];
    let mut rewards = [Vec::new(), Vec::new()];
    let names = contract.commands.iter().map(|input| &*input.name);
    let places = ["vx", "vy", "wz"].map(|name| names.clone().position(|other| other == name));
    for (place, input) in contract.commands.iter().enumerate() {
        for value in [input.range[1].min(1.0), input.range[0].max(-1.0)] {
            let mut command = vec![0.0; contract.commands.len()];
            command[place] = value;
            for (rewards, (who, image)) in rewards.iter_mut().zip([("f32", plain), ("8w16a", quantized)]) {
                let task = walking_task(&contract, "home", "imu", 10.0);
                let metrics = with_in_process(image.len(), |transport| -> Result<_> {
                    let (mut session, _) = Session::open(transport)?;
                    session.upload(image, |_| ())?;
                    Ok(walk(&mut session, &robot, &contract, hash, &task, &command, None)?.0)
                })?;
                let moved = [metrics.mean_velocity[0], metrics.mean_velocity[1], metrics.mean_yaw_rate];
                let asked = places.map(|place| place.map_or(0.0, |place| command[place]));
                let reward = tracking_reward(asked.map(f64::from), moved.map(f64::from));
                rewards.push(reward);
                let mut row = vec![format!("{} {value}", input.name), who.into()];
                row.extend(moved.map(|velocity| format!("{velocity:.3}")));
                row.extend([format!("{:.3}", metrics.lowest_height), format!("{reward:.3}")]);
                table.push(row);
            }
        }
    }
    print_table(&table);
    let [before, after] = rewards.map(|all| all.iter().sum::<f64>() / all.len().max(1) as f64);
    println!(
        "mean tracking reward: {before:.4} in f32, {after:.4} in 8w16a, {:+.2}%",
        100.0 * (after / before - 1.0)
    );
    Ok(())
}

/// `tracking_lin_vel + tracking_ang_vel / 2` of legged_gym (Rudin et al. 2022, table 1; sigma 0.25) for mean
/// velocities `vx vy wz` (m/s, m/s, rad/s): at most 1.5.
fn tracking_reward(asked: [f64; 3], moved: [f64; 3]) -> f64 {
    let [x, y, yaw] = core::array::from_fn(|i| (asked[i] - moved[i]).powi(2));
    (-(x + y) / 0.25).exp() + 0.5 * (-yaw / 0.25).exp()
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The image
    image: PathBuf,
    /// Interval bounds of the outputs over the contract's input ranges, and what a search reaches
    #[arg(long)]
    bounds: bool,
    /// Range of inputs that the contract does not bound, plus and minus
    #[arg(long, default_value_t = 10.0, requires = "bounds")]
    assume: f64,
    /// Cycles that each word of weights waits for the flash, in the estimated times; the profile's when absent
    #[arg(long)]
    wait_states: Option<u32>,
    /// ELF file of the firmware whose worst stack is printed, instead of TENDON_FIRMWARE or the one built here
    #[arg(long)]
    firmware: Option<PathBuf>,
}

impl Inspect {
    pub(super) fn run(self) -> Result<()> {
        let image = read_image(&self.image)?;
        if self.bounds {
            return print_bounds(&image, self.assume).with_context(|| self.image.display().to_string());
        }
        let text = inspect::inspect(&image, None).with_context(|| self.image.display().to_string())?;
        let stack = match (self.firmware, firmware_path(ControllerKind::Qemu)) {
            (Some(path), _) => worst_stack(&path)?,
            // Nobody asked for this one: the image is shown all the same.
            (None, Some(path)) => worst_stack(&path).unwrap_or_else(|error| format!("not known: {error}")),
            (None, None) => {
                "not known: no firmware; build it with `cargo xtask firmware build`, or name it with --firmware"
                    .to_owned()
            }
        };
        let times = self.wait_states.map(|wait| -> Result<String> {
            let runner = ImageRunner::new(&image)?;
            Ok(inspect::times(&runner.policy().network, Some(wait)))
        });
        let times = times.transpose()?;
        for line in text.lines() {
            if let (true, Some(times)) = (line.starts_with(inspect::TIMES), &times) {
                println!("{:<18}{times}", inspect::TIMES);
                continue;
            }
            // The stack belongs to the firmware, which the compiler does not know.
            match line.strip_prefix("stack") {
                Some(rest) => {
                    let gap = rest.len() - rest.trim_start().len();
                    println!("stack{}{stack}", &rest[..gap]);
                }
                None => println!("{line}"),
            }
        }
        Ok(())
    }
}

/// Bounds of every output, with what a search reaches beside them.
fn print_bounds(image: &AlignedBytes, assumed: f64) -> Result<()> {
    let contract = Manifest::of_image(image)?.contract;
    let mut runner = ImageRunner::new(image)?;
    let (inputs, open) = range::input_ranges(runner.policy(), contract.as_ref(), assumed);
    if open > 0 {
        println!(
            "{open} of {} inputs have no range in the contract: +-{assumed} is assumed (--assume)",
            inputs.len()
        );
    }
    let bounds = range::output_bounds(&runner.policy().network, &inputs);
    let reached = range::search(&mut runner, &inputs, 1).map_err(|error| anyhow!(error))?;
    let labels = output_labels(bounds.len(), contract.as_ref());
    let mut table = vec![["output", "bound", "reached by search", "share"].map(String::from).to_vec()];
    for ((label, bound), reached) in labels.into_iter().zip(&bounds).zip(&reached) {
        let share = (reached.high - reached.low) / (bound.high - bound.low);
        table.push(vec![
            label,
            format!("{:.3} to {:.3}", bound.low, bound.high),
            format!("{:.3} to {:.3}", reached.low, reached.high),
            format!("{:.1}%", 100.0 * share),
        ]);
    }
    print_table(&table);
    println!(
        "bound: intervals with the runtime's rounding, for all inputs in range; search: corners and projected gradient"
    );
    Ok(())
}

/// Worst stack of a firmware, derived from its ELF file: the same for every image that it admits.
fn worst_stack(path: &Path) -> Result<String> {
    let report = tendon_bounds::check_file(path).map_err(|failures| {
        let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
        anyhow!("{}: no bound of its stack:\n  {}", path.display(), failures.join("\n  "))
    })?;
    ensure!(report.fits(), "{}: its stack does not hold the worst:\n{report}", path.display());
    Ok(format!(
        "{} bytes at worst, {} reserved (firmware {} for {}: {})",
        report.worst,
        report.reserved,
        report.version,
        report.board,
        path.display()
    ))
}

/// Where the image runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    Host,
    Qemu,
}

#[derive(Debug, Args)]
pub(super) struct Parity {
    /// The image
    image: PathBuf,
    /// The ONNX file it was compiled from
    #[arg(long)]
    onnx: PathBuf,
    /// Recorded rows: CSV with columns obs0.. act0..
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Where the image runs
    #[arg(long, value_enum, default_value = "host")]
    target: Target,
    /// Random inputs beside the trace
    #[arg(long, default_value_t = 100)]
    rows: usize,
    /// Their seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Parity {
    pub(super) fn run(self) -> Result<ExitCode> {
        let onnx = read_file(&self.onnx, MAX_FILE as u64)?;
        let image = read_image(&self.image)?;
        let name = || self.image.display().to_string();
        let contract = Manifest::of_image(&image).with_context(name)?.contract;
        let tract = OnnxRunner::new(&onnx).with_context(|| self.onnx.display().to_string())?;
        let mut host = ImageRunner::new(&image).with_context(name)?;
        let plan = *host.policy().network.plan();
        ensure!(
            (tract.n_inputs(), tract.n_outputs()) == (plan.n_inputs as usize, plan.n_outputs as usize),
            "{}: {} inputs and {} outputs, but {} has {} and {}: the image was compiled from another file",
            self.onnx.display(),
            tract.n_inputs(),
            tract.n_outputs(),
            name(),
            plan.n_inputs,
            plan.n_outputs,
        );
        let labels = output_labels(tract.n_outputs(), contract.as_ref());
        let random = random_inputs(tract.n_inputs(), self.rows, self.seed);
        let trace = self.trace.as_ref().map(|path| {
            let file =
                std::fs::File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
            Trace::read(file, tract.n_inputs(), tract.n_outputs()).with_context(|| path.display().to_string())
        });
        let trace = trace.transpose()?.unwrap_or_default();

        let mut results: Vec<(&str, &str, Report)> = Vec::new();
        let onnx_run = |input: &[f32]| tract.run(input);
        results.push((
            "tract",
            "host, random",
            compare(&random, &labels, TOLERANCE, onnx_run, |i| host.run(i))?,
        ));
        if !trace.observations.is_empty() {
            let (inputs, recorded) = (&trace.observations, &trace.actions);
            results.push((
                "trace",
                "tract",
                compare_recorded(inputs, recorded, &labels, TOLERANCE, onnx_run)?,
            ));
            results.push((
                "trace",
                "host",
                compare_recorded(inputs, recorded, &labels, TOLERANCE, |i| host.run(i))?,
            ));
            results.push((
                "tract",
                "host, trace",
                compare(inputs, &labels, TOLERANCE, onnx_run, |i| host.run(i))?,
            ));
        }
        if self.target == Target::Qemu {
            let controller = launch(ControllerKind::Qemu)?;
            let (mut session, identity) = Session::open(Serial::open(controller.port())?)?;
            eprintln!("{}: sending {} bytes to {}", controller.port(), image.len(), identity.board);
            session.upload(&image, |_| ())?;
            let mut qemu = |input: &[f32]| session.infer(input).map(|(output, _)| output);
            if !trace.observations.is_empty() {
                let (inputs, recorded) = (&trace.observations, &trace.actions);
                results.push((
                    "trace",
                    "qemu",
                    compare_recorded(inputs, recorded, &labels, TOLERANCE, &mut qemu)?,
                ));
                results.push((
                    "host",
                    "qemu, trace, bit for bit",
                    compare(inputs, &labels, 0.0, |i| host.run(i), &mut qemu)?,
                ));
            }
            results.push((
                "host",
                "qemu, random, bit for bit",
                compare(&random, &labels, 0.0, |i| host.run(i), &mut qemu)?,
            ));
            eprintln!("deepest stack on the controller: {} bytes", session.observe()?.stack_bytes);
        }
        let mut table =
            vec![["reference", "candidate", "rows", "largest error", "result"].map(String::from).to_vec()];
        for (reference, candidate, report) in &results {
            table.push(vec![
                (*reference).into(),
                (*candidate).into(),
                report.rows.to_string(),
                format!("{:.2e}", report.max_error),
                if report.passed() { "ok".into() } else { report.to_string() },
            ]);
        }
        print_table(&table);
        let passed = results.iter().all(|(_, _, report)| report.passed());
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
