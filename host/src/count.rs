//! Instructions and cycles of programs on an emulated Cortex-M: the firmware's `tendon-count` for networks of ours, any
//! ELF with the functions `measured` and `measured_end` for a trace.

use crate::link::{ControllerKind, firmware_path};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tendon_bounds::cycles::{CortexM4, CortexM7, Operation, operation};
use tendon_bounds::thumb::is_wide;
use tendon_bounds::{Elf, ElfError};
use tendon_runtime::Network;

/// Instructions per count of the board's timer under `-icount shift=0`: 25 MHz against 1 ns.
pub const INSTRUCTIONS_PER_COUNT: u64 = 40;
const QEMU: &str = "qemu-system-arm";
/// Where jobs are loaded, and how much fits (`firmware/src/bin/count.rs`).
const JOBS: &str = "0x21000000";
const ROOM: usize = 15 << 20;
/// Words of a job.
const WORDS: usize = 12;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// The program for QEMU is not there.
    #[error("tendon-count is not built; run `cargo xtask firmware build`")]
    NotBuilt,
    /// A program did not start or a file was not read.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// What came back is not what was asked for.
    #[error("{0}")]
    Answer(String),
    /// The program is no ELF with the functions asked for.
    #[error("{0}: {1}")]
    Elf(PathBuf, ElfError),
}

/// A network and how often it runs: on the first `inputs` vectors of the pool, each `repeats` times in a row.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The network.
    pub network: Network<'a>,
    /// Vectors.
    pub inputs: usize,
    /// Inferences per vector.
    pub repeats: u32,
    /// Delays each inference by three instructions times this, so that the timer meets it at other phases: with one of
    /// the pads 0 to 3 the sum over 40 repeats is exact.
    pub pad: u32,
}

/// What a job counted. In counts of [`INSTRUCTIONS_PER_COUNT`], summed over the repeats of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Of the cheapest input.
    pub least: u32,
    /// Of the dearest.
    pub most: u32,
    /// Of all.
    pub total: u32,
    /// FNV-1a over the bits of the outputs, NaN as `0x7fc0_0000`.
    pub hash: u64,
}

/// The program for QEMU, beside the firmware.
///
/// # Errors
/// It is not built.
pub fn count_elf() -> Result<PathBuf, CountError> {
    let path = firmware_path(ControllerKind::Qemu).map(|path| path.with_file_name("tendon-count.elf"));
    path.filter(|path| path.is_file()).ok_or(CountError::NotBuilt)
}

/// Counts jobs; vectors lie in `pool` one after the other. `None`: the controller refused the network, or its arena does
/// not fit.
///
/// # Errors
/// QEMU does not run, or a job does not fit its memory.
pub fn count(jobs: &[Job<'_>], pool: &[f32]) -> Result<Vec<Option<Counted>>, CountError> {
    let elf = count_elf()?;
    let mut all = Vec::new();
    let mut rest = jobs;
    while !rest.is_empty() {
        let (taken, words) = pack(rest, pool)?;
        let file = Loaded::write(&words)?;
        let mut command = qemu(&elf, &file);
        command.args(["-serial", "stdio", "-icount", "shift=0"]);
        let output = command.stderr(Stdio::null()).output().map_err(|e| CountError::Io(QEMU.into(), e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() != taken {
            return Err(CountError::Answer(format!("QEMU answered {} of {taken} jobs", lines.len())));
        }
        all.extend(lines.into_iter().map(counted));
        rest = &rest[taken..];
    }
    Ok(all)
}

fn counted(line: &str) -> Option<Counted> {
    let words: Option<Vec<u32>> =
        line.split_whitespace().map(|word| u32::from_str_radix(word, 16).ok()).collect();
    let [least, most, total, high, low] = words?.try_into().ok()?;
    Some(Counted { least, most, total, hash: u64::from(high) << 32 | u64::from(low) })
}

/// The bytes of as many jobs as fit, and how many that are.
fn pack(jobs: &[Job<'_>], pool: &[f32]) -> Result<(usize, Vec<u32>), CountError> {
    let size =
        |job: &Job<'_>| size_of_val(job.network.operators()) + size_of_val(job.network.weights()) + 256;
    let needed = |job: &Job<'_>| (job.inputs * job.network.plan().n_inputs as usize).min(pool.len());
    let (mut taken, mut bytes, mut shared) = (0, 64, 0);
    for job in jobs {
        let longer = shared.max(needed(job));
        if bytes + size(job) + 4 * longer > ROOM {
            break;
        }
        (taken, bytes, shared) = (taken + 1, bytes + size(job), longer);
    }
    if taken == 0 {
        return Err(CountError::Answer("a network does not fit the memory of tendon-count".into()));
    }
    let mut words = vec![u32::from_le_bytes(*b"TCNT"), taken as u32];
    words.resize(2 + WORDS * taken, 0);
    let append = |words: &mut Vec<u32>, part: &[u32]| {
        words.resize(words.len().next_multiple_of(4), 0);
        words.extend_from_slice(part);
        4 * (words.len() - part.len()) as u32
    };
    let inputs = append(&mut words, bytemuck::cast_slice(&pool[..shared]));
    for (place, job) in jobs[..taken].iter().enumerate() {
        let (plan, operators) = (std::slice::from_ref(job.network.plan()), job.network.operators());
        let n_inputs = job.network.plan().n_inputs.max(1) as usize;
        let header = [
            append(&mut words, bytemuck::cast_slice(plan)),
            append(&mut words, bytemuck::cast_slice(operators)),
            operators.len() as u32,
            append(&mut words, bytemuck::cast_slice(job.network.weights())),
            job.network.weights().len() as u32,
            inputs,
            job.inputs.min(pool.len() / n_inputs) as u32,
            job.repeats,
            job.pad,
        ];
        let start = 2 + WORDS * place;
        words[start..start + header.len()].copy_from_slice(&header);
    }
    Ok((taken, words))
}

/// A file for QEMU's loader that goes away again.
struct Loaded(PathBuf);

impl Loaded {
    fn write(words: &[u32]) -> Result<Self, CountError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tendon-count-{}-{number}", std::process::id()));
        std::fs::write(&path, bytemuck::cast_slice(words))
            .map_err(|error| CountError::Io(path.display().to_string(), error))?;
        Ok(Self(path))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn qemu(elf: &Path, file: &Loaded) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-M", "mps2-an386", "-display", "none", "-monitor", "none", "-semihosting", "-kernel"]);
    command.arg(elf).arg("-device");
    command.arg(format!("loader,file={},addr={JOBS},force-raw=on", file.0.display()));
    command.stdin(Stdio::null());
    command
}

/// What a trace counted: per run of `measured`, the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traced {
    /// Instructions.
    pub instructions: f64,
    /// Cycles of a Cortex-M4F, by [`CortexM4`].
    pub cycles_m4: f64,
    /// Cycles of a Cortex-M7, by [`CortexM7`].
    pub cycles_m7: f64,
    /// Runs.
    pub runs: usize,
}

/// Traces one network: up to `runs` inferences.
///
/// # Errors
/// As [`count`].
pub fn trace_network(network: Network<'_>, pool: &[f32], runs: usize) -> Result<Traced, CountError> {
    let elf = count_elf()?;
    let (_, words) = pack(&[Job { network, inputs: runs, repeats: 1, pad: 0 }], pool)?;
    let file = Loaded::write(&words)?;
    trace(qemu(&elf, &file), &elf, runs)
}

/// Traces another program for the board.
///
/// # Errors
/// As [`count`].
pub fn trace_elf(elf: &Path, runs: usize) -> Result<Traced, CountError> {
    let mut command = Command::new(QEMU);
    command.args(["-M", "mps2-an386", "-display", "none", "-monitor", "none", "-semihosting", "-kernel"]);
    command.arg(elf).stdin(Stdio::null());
    trace(command, elf, runs)
}

/// Instructions that a trace reads at most; what is behind them is cut off at the end of a run.
const ENOUGH: u64 = 4_000_000;

/// Runs QEMU one instruction at a time and feeds what lies between `measured` and `measured_end` to the models.
fn trace(mut command: Command, elf: &Path, runs: usize) -> Result<Traced, CountError> {
    let bytes = std::fs::read(elf).map_err(|error| CountError::Io(elf.display().to_string(), error))?;
    let parsed = Elf::parse(&bytes).map_err(|error| CountError::Elf(elf.to_path_buf(), error))?;
    let place = |name: &str| {
        let missing = || CountError::Answer(format!("{}: no function `{name}`", elf.display()));
        parsed.value(name).map(|value| value & !1).ok_or_else(missing)
    };
    let (start, end) = (place("measured")?, place("measured_end")?);
    let code = Code::of(&parsed);
    command.args(["-serial", "null", "-singlestep", "-d", "exec,nochain"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().map_err(|error| CountError::Io(QEMU.into(), error))?);
    let pipe = child.0.stderr.take().ok_or_else(|| CountError::Answer("no pipe from QEMU".into()))?;
    let mut lines = Addresses { reader: BufReader::with_capacity(1 << 20, pipe), line: Vec::new() };
    let (mut m4, mut m7, mut instructions, mut done) = (CortexM4::default(), CortexM7::default(), 0u64, 0);
    let mut last: Option<(u32, Operation)> = None;
    while done < runs
        && let Some(pc) = lines.next()
    {
        if let Some((from, op)) = last.take() {
            let taken = pc != from + op.size;
            m4.step(&op, taken);
            m7.step(&op, taken);
            instructions += 1;
        } else if pc != start {
            continue;
        }
        if pc == end {
            done += 1;
            if instructions > ENOUGH {
                break;
            }
            continue;
        }
        last = Some((pc, code.at(pc)));
    }
    if done == 0 {
        return Err(CountError::Answer(format!("{}: `measured` was not run to its end", elf.display())));
    }
    let per_run = |sum: u64| sum as f64 / done as f64;
    Ok(Traced {
        instructions: per_run(instructions),
        cycles_m4: per_run(m4.cycles()),
        cycles_m7: per_run(m7.cycles()),
        runs: done,
    })
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses of QEMU's lines `Trace 0: HOST [BASE/ADDRESS/FLAGS/...] NAME`.
struct Addresses<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Addresses<R> {
    fn next(&mut self) -> Option<u32> {
        loop {
            self.line.clear();
            if self.reader.read_until(b'\n', &mut self.line).ok()? == 0 {
                return None;
            }
            let Some(rest) = self.line.strip_prefix(b"Trace ") else { continue };
            let address = rest.split(|&byte| byte == b'/').nth(1)?;
            let text = std::str::from_utf8(address).ok()?;
            return u32::from_str_radix(text, 16).ok();
        }
    }
}

/// Instructions by address, decoded once.
struct Code(Vec<Operation>);

impl Code {
    fn of(elf: &Elf<'_>) -> Self {
        let mut all = Vec::new();
        for section in elf.sections.iter().filter(|section| section.executable) {
            let halves: Vec<u16> =
                section.bytes.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half)).collect();
            for (place, &first) in halves.iter().enumerate() {
                let address = section.address + 2 * place as u32;
                let second = halves.get(place + 1).copied().unwrap_or(0);
                let index = address as usize / 2;
                if index < 1 << 22 {
                    let blank = operation(0, 0xbf00, 0);
                    all.resize(all.len().max(index + 1), blank);
                    all[index] = operation(address, first, if is_wide(first) { second } else { 0 });
                }
            }
        }
        Self(all)
    }

    fn at(&self, address: u32) -> Operation {
        self.0.get(address as usize / 2).copied().unwrap_or_else(|| operation(address, 0xbf00, 0))
    }
}
