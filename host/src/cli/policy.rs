//! `compile`, `inspect`, `parity`.

use super::{print_table, read_file, read_image, read_text, write_file};
use crate::link::{ControllerKind, Serial, Session, firmware_path, launch};
use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tendon_compiler::parity::{
    ImageRunner, OnnxRunner, Report, TOLERANCE, compare, compare_recorded, output_labels, random_inputs,
};
use tendon_compiler::trace::Trace;
use tendon_compiler::{ContractChoice, MAX_CONTRACT, MAX_FILE, Manifest, Options, compile};

/// Longest firmware file that is read, debug information included.
const MAX_FIRMWARE: u64 = 64 << 20;

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
        let options = Options { contract, rollback_counter: self.rollback_counter, ..Options::default() };
        let compiled = compile(&onnx, &options).with_context(|| self.onnx.display().to_string())?;
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

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The image
    image: PathBuf,
    /// ELF file of the firmware whose worst stack is printed, instead of TENDON_FIRMWARE or the one built here
    #[arg(long)]
    firmware: Option<PathBuf>,
}

impl Inspect {
    pub(super) fn run(self) -> Result<()> {
        let image = read_image(&self.image)?;
        let text = tendon_compiler::inspect::inspect(&image, None)
            .with_context(|| self.image.display().to_string())?;
        let stack = match (self.firmware, firmware_path()) {
            (Some(path), _) => worst_stack(&path)?,
            // Nobody asked for this one: the image is shown all the same.
            (None, Some(path)) => worst_stack(&path).unwrap_or_else(|error| format!("not known: {error}")),
            (None, None) => {
                "not known: no firmware; build it with `cargo xtask firmware build`, or name it with --firmware"
                    .to_owned()
            }
        };
        for line in text.lines() {
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

/// Worst stack of a firmware, derived from its ELF file: the same for every image that it admits.
fn worst_stack(path: &Path) -> Result<String> {
    let elf = read_file(path, MAX_FIRMWARE)?;
    let report = tendon_bounds::check(&elf).map_err(|failures| {
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
