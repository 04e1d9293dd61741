//! The command line: adds context to errors, prints, picks the exit code. What commands do is in the library.

mod alike;
mod bench;
mod bench_cost;
mod bench_host;
mod bench_mcu;
mod bench_realtime;
mod card;
mod demo;
mod doctor;
mod eval;
mod flash;
mod learn;
mod mishaps;
mod monitor;
mod policy;
#[cfg(feature = "probe")]
mod probe;
mod ranks;
mod robot;
mod run;
mod runs;

use crate::link::{Address, ControllerKind, launch_from, stand_in};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tendon_runtime::AlignedBytes;

/// From people's preferences to the motor: learn a policy, compile it, run it on the controller.
#[derive(Debug, Parser)]
#[command(name = "tendon", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole way once: preferences, reward, policy, ONNX, image, controller, report
    Demo(demo::Demo),
    /// Train a policy in simulation, on the task's reward or on one learned from preferences
    Train(learn::Train),
    /// Evaluate policies of training runs: return, success, physical metrics, with intervals
    Eval(eval::Eval),
    /// List and compare training runs
    Runs(runs::Runs),
    /// Write policy.onnx from a training run's last checkpoint
    Export(learn::Export),
    /// Compile ONNX to a policy image
    Compile(policy::Compile),
    /// Print what is in a policy image
    Inspect(policy::Inspect),
    /// Compare an image with its ONNX file, on the host or on the controller
    Parity(policy::Parity),
    /// Run a task in simulation and draw it
    Sim(run::Sim),
    /// Run an image on a controller, with the physics on this side (hardware in the loop)
    Hil(run::Hil),
    /// Look at a controller: state, counters, times, joints; or its black box
    Monitor(monitor::Monitor),
    /// Keys whose signatures controllers take: new, show, provision, rotate
    Keys(flash::Keys),
    /// Sign a policy image, or pack and sign firmware
    Sign(flash::Sign),
    /// Send a policy or firmware to a controller; confirm it, or go back
    Flash(flash::Flash),
    /// Run an image on this computer, on the servos of a serial bus, in real time
    Run(robot::Run),
    /// Look at ports, versions, joint order, signs, offsets and calibration before any torque
    Doctor(doctor::Doctor),
    /// Measurements: host, mcu, sim2sim, learning
    Bench(bench::Bench),
    /// A controller on this machine, until it is interrupted; prints its port
    #[command(hide = true)]
    Controller {
        /// stand-in (a process of its own over a pseudo-terminal), qemu-an386 or qemu-an500
        #[arg(default_value = "stand-in")]
        name: String,
        /// File with its flash; made where it is not there. Without it: fresh, and forgotten at the end
        #[arg(long, env = "TENDON_FLASH")]
        flash: Option<PathBuf>,
    },
    /// A simulated robot in a process of its own: a servo bus behind a pseudo-terminal
    #[command(hide = true)]
    Bus(robot::SimulatedBus),
}

/// Which controller a command talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Controller {
    /// QEMU where it and the firmware are there, else the stand-in
    Auto,
    /// The firmware in QEMU (Cortex-M4F)
    Qemu,
    /// The firmware in QEMU (Cortex-M7)
    QemuAn500,
    /// The firmware in QEMU (Cortex-M33)
    QemuAn505,
    /// The same runtime in a process of its own over a pseudo-terminal
    StandIn,
}

impl Controller {
    fn kind(self) -> ControllerKind {
        match self {
            Self::Auto => ControllerKind::best(),
            Self::Qemu => ControllerKind::Qemu,
            Self::QemuAn500 => ControllerKind::QemuAn500,
            Self::QemuAn505 => ControllerKind::QemuAn505,
            Self::StandIn => ControllerKind::StandIn,
        }
    }
}

/// Runs the program.
///
/// # Errors
/// With everything a person needs to go on.
pub fn main() -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match Arguments::parse().command {
        Command::Demo(demo) => done(demo.run()),
        Command::Train(train) => done(train.run()),
        Command::Eval(eval) => done(eval.run()),
        Command::Runs(runs) => done(runs.run()),
        Command::Export(export) => done(export.run()),
        Command::Compile(compile) => done(compile.run()),
        Command::Inspect(inspect) => done(inspect.run()),
        Command::Parity(parity) => parity.run(),
        Command::Sim(sim) => done(sim.run()),
        Command::Hil(hil) => done(hil.run()),
        Command::Monitor(monitor) => done(monitor.run()),
        Command::Keys(keys) => done(keys.run()),
        Command::Sign(sign) => done(sign.run()),
        Command::Flash(flash) => done(flash.run()),
        Command::Run(run) => run.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Bus(bus) => done(bus.run()),
        Command::Bench(bench) => done(bench.run()),
        Command::Controller { name, flash } => done(controller(&name, flash)),
    }
}

fn controller(name: &str, flash: Option<PathBuf>) -> Result<()> {
    match name.parse::<Address>().map_err(anyhow::Error::msg)? {
        Address::Launch(ControllerKind::StandIn, _) => {
            stand_in::serve(flash.as_deref()).context("stand-in controller")
        }
        Address::Launch(kind, _) => {
            let mut launched = launch_from(kind, flash.as_deref())?;
            println!("{}", launched.port());
            launched.wait().context("controller")
        }
        Address::Port(name) => anyhow::bail!("`{name}`: give stand-in, qemu-an386 or qemu-an500"),
    }
}

/// Reads a file of at most `limit` bytes.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let length =
        std::fs::metadata(path).with_context(|| format!("{}: cannot be read", path.display()))?.len();
    anyhow::ensure!(length <= limit, "{}: {length} bytes, at most {limit} are read", path.display());
    std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
}

fn read_text(path: &Path, limit: u64) -> Result<String> {
    let bytes = read_file(path, limit)?;
    String::from_utf8(bytes).with_context(|| format!("{}: is no UTF-8 text", path.display()))
}

fn read_image(path: &Path) -> Result<AlignedBytes> {
    let file = std::fs::File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    AlignedBytes::read(file).with_context(|| path.display().to_string())
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    tendon_learn::run_folder::write_atomically(path, bytes)?;
    Ok(())
}

/// A table with aligned columns; the first row is its head.
fn print_table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
        if index == 0 {
            println!("{}", widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  "));
        }
    }
}

/// One row of a bench or campaign, as `--json` writes it.
#[derive(Debug, serde::Serialize)]
struct Measured {
    case: String,
    metric: String,
    unit: String,
    tendon: f64,
    peers: serde_json::Map<String, serde_json::Value>,
    /// A number where the goal is one, else words.
    goal: Option<serde_json::Value>,
}

/// Writes the rows where the user asked for them.
fn write_json(file: Option<&PathBuf>, rows: &[Measured]) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    write_file(file, &serde_json::to_vec_pretty(rows)?)
}
