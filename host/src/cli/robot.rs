//! `run` and `bus`: the controller on this computer, and a simulated robot for it.

use super::run::contract_of;
use super::{Measured, print_table, read_image, write_json};
use crate::robot::{
    BusKind, CalibrationFile, Ended, Live, MonotonicClock, Priority, Settings, Simulated, Summary,
    calibration_for, launch_simulated, open_bus, serve_simulated,
};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tendon_runtime::State;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::timing::Histogram;

/// What hangs on the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bus {
    /// Robotis Dynamixel X series, Protocol 2.0
    Dynamixel,
    /// Feetech STS3215 and relatives
    Feetech,
    /// A simulated robot with Dynamixels, in a process of its own behind a pseudo-terminal
    Sim,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The image
    image: PathBuf,
    /// Serial port of the servos, for example /dev/ttyUSB0
    #[arg(long)]
    port: Option<String>,
    /// What hangs on the port; the calibration file says it too
    #[arg(long, value_enum)]
    bus: Option<Bus>,
    /// Mounting of the servos (TOML), from `tendon doctor --write-calibration`
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Ask for SCHED_FIFO and locked memory, and refuse to run without
    #[arg(long)]
    realtime: bool,
    /// With --realtime: run, late or not, where the kernel gives no real-time priority
    #[arg(long, requires = "realtime")]
    allow_no_realtime: bool,
    /// SCHED_FIFO priority, 1 to 99
    #[arg(long, default_value_t = Priority::default().0, value_parser = clap::value_parser!(u8).range(1..=99))]
    priority: u8,
    /// Rate of the bus, Hz: a multiple of the policy's, at most 1000
    #[arg(long)]
    rate: Option<u32>,
    /// Command inputs, for example 0.2,0.1
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    command: Vec<f32>,
    /// Profile of the contract, for example bench or near-people: tighter limits
    #[arg(long)]
    profile: Option<String>,
    /// Time in Running, s; without it until Ctrl-C
    #[arg(long)]
    seconds: Option<f64>,
    /// With `--bus sim`: probability that the line loses or changes a byte
    #[arg(long, default_value_t = 0.0)]
    noise: f64,
    /// Figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How often the supervising thread looks and gives its proof of life.
const SUPERVISE: Duration = Duration::from_millis(50);

impl Run {
    pub(super) fn run(mut self) -> Result<ExitCode> {
        let image = read_image(&self.image)?;
        let (contract, schema_hash) = contract_of(&image)?;
        let simulated = self.bus == Some(Bus::Sim);
        let launched = if simulated {
            anyhow::ensure!(self.port.is_none(), "--bus sim brings its own port; leave --port out");
            let how =
                Simulated { noise: self.noise, seed: 1, real_time: self.realtime, ..Simulated::default() };
            let program = std::env::current_exe().context("this program's own path")?;
            let robot = launch_simulated(&program, &self.image, BusKind::Dynamixel, &how)?;
            self.port = Some(robot.port().to_owned());
            Some(robot)
        } else {
            None
        };
        let port = self.port.clone().context("give --port, or --bus sim for a simulated robot")?;
        let file = match (&self.calibration, simulated) {
            (Some(path), _) => CalibrationFile::read(path)?,
            (None, true) => calibration_for(&contract, BusKind::Dynamixel),
            (None, false) => bail!(
                "--calibration is missing: without the mounting of every servo no torque is given; write one with `tendon doctor --port {port} --policy {} --write-calibration FILE`",
                self.image.display()
            ),
        };
        let kind = match self.bus {
            Some(Bus::Feetech) => Some(BusKind::Feetech),
            Some(Bus::Dynamixel | Bus::Sim) => Some(BusKind::Dynamixel),
            None => None,
        };
        anyhow::ensure!(
            kind.is_none_or(|kind| kind == file.bus),
            "--bus does not match the calibration file, which is for {:?}",
            file.bus
        );
        let names: Vec<&str> =
            crate::robot::robot_order(&contract).into_iter().map(|joint| joint.name.as_str()).collect();
        file.check_robot(&contract.robot, &names)?;

        let settings = Settings {
            rate_hz: self.rate,
            seconds: self.seconds,
            command: self.command.clone(),
            profile: self.profile.as_deref().map(|name| profile_of(&contract, name)).transpose()?,
            priority: self.realtime.then_some(Priority(self.priority)),
            without_priority: self.allow_no_realtime,
        };
        let summary = drive(&port, &file, &image, &contract, schema_hash, &settings)?;
        drop(launched);
        report(&summary, &names);
        write_json(self.json.as_ref(), &rows("run", &summary))?;
        Ok(if summary.ended.is_good() && summary.torque_off.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn profile_of(contract: &ContractSpec, name: &str) -> Result<u8> {
    let place = contract.profiles.iter().position(|profile| profile.name == name);
    place.map(|place| place as u8).with_context(|| {
        let known: Vec<&str> = contract.profiles.iter().map(|profile| profile.name.as_str()).collect();
        format!(
            "--profile {name}: the contract has {}",
            if known.is_empty() { "none".into() } else { known.join(", ") }
        )
    })
}

/// Runs an image on the servos of a port, supervised by this thread.
pub(super) fn drive(
    port: &str,
    file: &CalibrationFile,
    image: &[u8],
    contract: &ContractSpec,
    schema_hash: u64,
    settings: &Settings,
) -> Result<Summary> {
    // Before the bus has torque, so that no signal ends the process while it has.
    let signal = signals()?;
    let mut bus = open_bus(port, file, MonotonicClock)?;
    println!("{port}: {} joints; when this program is killed: {}", file.joints.len(), bus.when_silent());
    let live = Live::default();
    live.alive_ns.store(MonotonicClock.now_ns(), Relaxed);
    // Scoped: should this thread unwind, it waits until the loop has taken torque away.
    std::thread::scope(|scope| {
        let control = std::thread::Builder::new()
            .name("control".into())
            .stack_size(4 << 20)
            .spawn_scoped(scope, || {
                crate::robot::run(image, contract, schema_hash, &mut *bus, settings, &live)
            })
            .context("control thread")?;
        supervise(&live, &signal, || control.is_finished());
        match control.join() {
            Ok(summary) => Ok(summary?),
            Err(_) => bail!("the control thread panicked; torque was taken away as it unwound"),
        }
    })
}

/// A flag that SIGINT, SIGTERM and SIGHUP raise.
fn signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, flag.clone()).context("signal handler")?;
    }
    Ok(flag)
}

/// Proof of life, signals and a line for people, until `done`. The first signal damps, the second takes torque
/// away at once.
fn supervise(live: &Live, signal: &AtomicBool, done: impl Fn() -> bool) {
    let mut out = std::io::stderr();
    let on_terminal = out.is_terminal();
    let mut shown = Instant::now();
    while !done() {
        live.alive_ns.store(MonotonicClock.now_ns(), Relaxed);
        if signal.swap(false, Relaxed) && live.stop.swap(true, Relaxed) {
            live.at_once.store(true, Relaxed);
        }
        if on_terminal && shown.elapsed() > Duration::from_millis(500) {
            shown = Instant::now();
            let state = State::from_code(live.state.load(Relaxed)).unwrap_or_default();
            let (ticks, misses) = (live.ticks.load(Relaxed), live.misses.load(Relaxed));
            let incomplete = live.incomplete.load(Relaxed);
            // A terminal that is gone must not end the supervision.
            let _ = write!(
                out,
                "\r{state:?}: {ticks} ticks, {misses} late, {incomplete} with a joint not heard  "
            );
            let _ = out.flush();
        }
        std::thread::sleep(SUPERVISE);
    }
    if on_terminal {
        let _ = writeln!(out);
    }
}

fn us(ns: u32) -> f64 {
    f64::from(ns) / 1000.0
}

/// Name and histogram of each time measured.
fn times(summary: &Summary) -> [(&'static str, &Histogram); 3] {
    [("release jitter", &summary.jitter), ("execution", &summary.execution), ("of it the bus", &summary.bus)]
}

pub(super) fn report(summary: &Summary, names: &[&str]) {
    let [bus_hz, policy_hz] = summary.rate_hz;
    println!("{}", summary.granted);
    println!(
        "ended: {}; bus {bus_hz:.0} Hz, policy {policy_hz:.0} Hz, {} ticks in Running; {} late, {} left out, {} with a joint not heard",
        summary.ended, summary.ticks, summary.misses, summary.skipped, summary.incomplete
    );
    let mut rows = vec![["us", "p50", "p99", "p99.9", "max"].map(String::from).to_vec()];
    for (name, histogram) in times(summary) {
        let mut row = vec![name.to_owned()];
        row.extend([0.5, 0.99, 0.999].map(|share| format!("{:.1}", us(histogram.quantile_ns(share)))));
        row.push(format!("{:.1}", us(histogram.max_ns())));
        rows.push(row);
    }
    print_table(&rows);
    for (name, histogram) in times(summary).into_iter().take(2) {
        println!("{name}:");
        print_histogram(histogram);
    }
    let c = summary.counters;
    println!(
        "bus: {} requests, {} retries, {} timeouts, {} corrupt, {} strays, {} implausible, {} bad echoes, {} refusals",
        c.requests, c.retries, c.timeouts, c.corrupt, c.strays, c.implausible, c.bad_echoes, c.refusals
    );
    for (name, state) in names.iter().zip(&summary.states).filter(|(_, state)| !state.faults.is_empty()) {
        println!("servo of {name} reports: {}", state.faults);
    }
    match &summary.torque_off {
        Ok(()) => println!("torque off, confirmed by every servo"),
        Err(error) => println!("TORQUE MAY STILL BE ON: {error}"),
    }
}

/// One line per octave, a bar as long as the logarithm of its count.
fn print_histogram(histogram: &Histogram) {
    let mut octaves: Vec<(u32, u64)> = Vec::new();
    for (start, count) in histogram.bins() {
        let octave = start.checked_ilog2().map_or(0, |octave| 1 << octave);
        match octaves.last_mut() {
            Some((last, all)) if *last == octave => *all += u64::from(count),
            _ => octaves.push((octave, count.into())),
        }
    }
    for (start, count) in octaves {
        let bar = "#".repeat((1.0 + 6.0 * (count as f64).log10()) as usize);
        println!("  {:>9.1} us and more {count:>9}  {bar}", us(start));
    }
}

/// Figures as the benches write them.
pub(super) fn rows(case: &str, summary: &Summary) -> Vec<Measured> {
    let row = |metric: String, unit: &str, value: f64| Measured {
        case: case.into(),
        metric,
        unit: unit.into(),
        tendon: value,
        peers: serde_json::Map::new(),
        goal: None,
    };
    let mut rows = Vec::new();
    for (name, histogram) in times(summary) {
        for (label, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            rows.push(row(format!("{name} {label}"), "us", us(histogram.quantile_ns(share))));
        }
        for (start, count) in histogram.bins() {
            rows.push(row(format!("{name} from {:.3} us", us(start)), "count", count.into()));
        }
    }
    let c = summary.counters;
    let counts = [
        ("cycles", summary.cycles),
        ("ticks", summary.ticks),
        ("late", summary.misses),
        ("left out", summary.skipped),
        ("joint not heard", summary.incomplete),
        ("retries", c.retries.into()),
        ("corrupt", c.corrupt.into()),
        ("ended well", u64::from(summary.ended.is_good())),
        ("torque off", u64::from(summary.torque_off.is_ok())),
        ("SCHED_FIFO", summary.granted.fifo.as_ref().map_or(0, |&priority| priority.into())),
        ("memory locked", u64::from(summary.granted.locked.is_ok())),
        ("PREEMPT_RT", u64::from(summary.granted.preempt_rt)),
        ("fell back", u64::from(matches!(summary.ended, Ended::FellBack(_)))),
    ];
    rows.extend(counts.map(|(name, count)| row(name.into(), "count", count as f64)));
    rows
}

#[derive(Debug, Args)]
pub(super) struct SimulatedBus {
    /// Image whose contract says what joints there are
    image: PathBuf,
    /// Protocol of the servos
    #[arg(long, value_enum, default_value = "dynamixel")]
    bus: BusKind,
    /// Probability that the line loses a byte, and that it changes one
    #[arg(long, default_value_t = 0.0)]
    noise: f64,
    /// Seed of the noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The line gives back what it is sent
    #[arg(long)]
    echo: bool,
    /// SCHED_FIFO, one below a control thread
    #[arg(long)]
    realtime: bool,
    /// Joint whose horn slipped
    #[arg(long)]
    slipped: Option<usize>,
    /// By how much, rad
    #[arg(long, default_value_t = 0.3, allow_negative_numbers = true)]
    slip: f32,
    /// Joint mounted the other way
    #[arg(long)]
    reversed: Option<usize>,
    /// Joint whose servo reports an overload
    #[arg(long)]
    overload: Option<usize>,
    /// Joint whose servo is not there
    #[arg(long)]
    missing: Option<usize>,
    /// Write the calibration of a robot without faults here
    #[arg(long)]
    write_calibration: Option<PathBuf>,
}

impl SimulatedBus {
    pub(super) fn run(self) -> Result<()> {
        let (contract, _) = contract_of(&read_image(&self.image)?)?;
        if let Some(path) = &self.write_calibration {
            let file = CalibrationFile { echo: self.echo, ..calibration_for(&contract, self.bus) };
            super::write_file(path, file.to_toml().as_bytes())?;
        }
        let how = Simulated {
            noise: self.noise,
            seed: self.seed,
            echo: self.echo,
            real_time: self.realtime,
            slipped: self.slipped.map(|joint| (joint, self.slip)),
            reversed: self.reversed,
            overload: self.overload,
            missing: self.missing,
        };
        serve_simulated(&contract, self.bus, &how).context("simulated robot")
    }
}
