//! `bench host`: latency of one inference on this computer, against tract and onnxruntime in the same run.
//!
//! Rounds take turns, so that what else the machine does hits all alike. Each round starts with inferences that
//! are not counted: the one before had the caches. tract runs in this process, onnxruntime in a Python process
//! that waits on its pipe meanwhile.

use super::{Measured, print_table, read_file, write_json};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;
use tendon_compiler::parity::random_inputs;
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::trace::Trace;
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_runtime::{AlignedBytes, Image, Policy};
use tract_onnx::prelude::*;

/// Interleaved rounds.
const ROUNDS: usize = 50;
/// Inferences of a round that count, and those before them that do not.
const COUNTED: usize = 1000;
const WARM_UP: usize = 200;
/// Multiplications of a loop that takes about as long as an inference and touches no memory: its tail is the
/// machine's (timer ticks, other programs, the hypervisor).
const SPIN: usize = 3000;
/// Path of a Python interpreter that has onnxruntime; `cargo xtask bench host` makes one.
const PYTHON: &str = "TENDON_ORT";
const SCRIPT: &str = include_str!("bench_host.py");
const GO1: (usize, usize) = (48, 12);

pub(super) fn host(real: &Path, json: Option<&PathBuf>) -> Result<()> {
    let file = real.join("go1_joystick.onnx");
    let (onnx, inputs) = if file.is_file() {
        let trace = real.join("go1_trace_forward.csv");
        let csv = std::fs::File::open(&trace).with_context(|| trace.display().to_string())?;
        let trace = Trace::read(csv, GO1.0, GO1.1).with_context(|| trace.display().to_string())?;
        (read_file(&file, tendon_compiler::MAX_FILE as u64)?, trace.observations)
    } else {
        println!("{} is not there: a network of the same shape with random weights", file.display());
        (mlp(&[GO1.0, 512, 256, 128, 2 * GO1.1], Hidden::Swish, 1), random_inputs(GO1.0, 500, 1))
    };
    let bare = Options { contract: ContractChoice::Bare, ..Options::default() };
    let plain = compile(&onnx, &bare)?.image;
    let quantized = compile(&onnx, &Options { quantize: Some(&inputs), ..bare })?.image;
    let (mut plain, mut quantized) = (Ours::new(&plain)?, Ours::new(&quantized)?);
    let mut tract = Tract::new(&onnx)?;
    let mut onnxruntime = OnnxRuntime::start(&onnx, &inputs)?;
    check(&inputs, &mut plain, &mut tract, onnxruntime.as_ref())?;

    let mut times = [const { Vec::new() }; 5];
    let names = ["tendon f32", "tendon 8w16a", "tract", "onnxruntime", "arithmetic alone"];
    for _ in 0..ROUNDS {
        times[0].extend(round(&inputs, |x| plain.run(x))?);
        times[1].extend(round(&inputs, |x| quantized.run(x))?);
        times[2].extend(round(&inputs, |x| tract.run(x).map(drop))?);
        if let Some(peer) = &mut onnxruntime {
            times[3].extend(peer.round()?);
        }
        times[4].extend(round(&inputs, |_| {
            std::hint::black_box((0..SPIN).fold(1.0f32, |x, _| std::hint::black_box(x) * 0.999));
            Ok(())
        })?);
    }
    let figures = times.map(Figures::of);
    let mut table =
        vec![["who", "p50 us", "p99.9 us", "fastest us", "inferences"].map(String::from).to_vec()];
    for (name, figures) in names.iter().zip(&figures) {
        let Some(f) = figures else { continue };
        let mut row = vec![(*name).to_string()];
        row.extend([f.p50, f.p999, f.least].map(|us| format!("{us:.2}")));
        row.push(f.count.to_string());
        table.push(row);
    }
    print_table(&table);
    let mut rows = Vec::new();
    let [Some(f32), Some(eight), Some(tract), onnxruntime_figures, Some(spin)] = figures else {
        bail!("nothing measured")
    };
    for (what, own, goal) in [("f32", f32, 1.5), ("8w16a", eight, 3.0)] {
        let case = format!("Go1 48-512-256-128-12 swish {what}");
        let peers = [("tract", Some(tract)), ("onnxruntime", onnxruntime_figures)];
        for (metric, pick) in [("p50 us", (|f| f.p50) as fn(Figures) -> f64), ("p99.9 us", |f| f.p999)] {
            let all = peers.iter().filter_map(|(name, f)| Some(((*name).to_string(), pick((*f)?).into())));
            rows.push(Measured {
                case: case.clone(),
                metric: metric.into(),
                unit: "us".into(),
                tendon: pick(own),
                peers: all.collect(),
                goal: Some(match metric {
                    "p50 us" => format!(">= {goal}x faster than the better peer").into(),
                    _ => "below 2x its own p50".into(),
                }),
            });
        }
        let best = peers.iter().filter_map(|(_, f)| f.map(|f| f.p50)).fold(f64::INFINITY, f64::min);
        println!(
            "{what}: {:.2}x faster than the better peer at p50 (goal {goal}); p99.9 is {:.2}x its p50 (goal below 2)",
            best / own.p50,
            own.p999 / own.p50
        );
    }
    println!(
        "a loop without memory as long as an inference: p99.9 {:.2}x its p50, which is what the machine adds",
        spin.p999 / spin.p50
    );
    if let Some(peer) = &onnxruntime {
        println!(
            "onnxruntime {} by {}, of which a call from Python with a network of one product takes {:.2} us",
            peer.version, peer.way, peer.call_us
        );
    }
    println!(
        "{ROUNDS} interleaved rounds of {COUNTED} inferences after {WARM_UP}; one thread; {}",
        processor()
    );
    write_json(json, &rows)
}

/// All ways give the same actions.
fn check(
    inputs: &[Vec<f32>],
    ours: &mut Ours<'_>,
    tract: &mut Tract,
    peer: Option<&OnnxRuntime>,
) -> Result<()> {
    let mut worst = [0.0f32; 2];
    for (row, input) in inputs.iter().enumerate() {
        let own = ours.output(input)?.to_vec();
        let theirs = tract.run(input)?;
        let theirs = theirs[0].to_plain_array_view::<f32>()?;
        let python = peer.map(|peer| peer.outputs.chunks(own.len()).nth(row).unwrap_or(&[]));
        for (i, own) in own.iter().enumerate() {
            let other = [theirs.iter().nth(i).copied(), python.map_or(Some(*own), |o| o.get(i).copied())];
            for (worst, other) in worst.iter_mut().zip(other) {
                *worst = worst.max((own - other.unwrap_or(f32::INFINITY)).abs());
            }
        }
    }
    println!(
        "largest difference of an action over {} inputs: tract {:.1e}, onnxruntime {:.1e}",
        inputs.len(),
        worst[0],
        worst[1]
    );
    ensure!(worst.iter().all(|&worst| worst < 1e-3), "the ways do not compute the same network");
    Ok(())
}

/// Times in ns of [`COUNTED`] inferences.
fn round(inputs: &[Vec<f32>], mut run: impl FnMut(&[f32]) -> Result<()>) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(WARM_UP + COUNTED);
    for input in inputs.iter().cycle().take(WARM_UP + COUNTED) {
        let before = Instant::now();
        run(input)?;
        times.push(before.elapsed().as_nanos() as u64);
    }
    Ok(times.split_off(WARM_UP))
}

#[derive(Clone, Copy, Debug)]
struct Figures {
    p50: f64,
    p999: f64,
    least: f64,
    count: usize,
}

impl Figures {
    fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: f64| Some(*times.get((times.len() as f64 * share) as usize)? as f64 / 1e3);
        Some(Self { p50: at(0.5)?, p999: at(0.999)?, least: at(0.0)?, count: times.len() })
    }
}

/// An image on this computer.
struct Ours<'a> {
    policy: Policy<'a>,
    arena: AlignedBytes,
}

impl<'a> Ours<'a> {
    fn new(image: &'a AlignedBytes) -> Result<Self> {
        let policy = Image::parse(image)?.policy(image).context("no network in the image")?;
        let arena = vec![0; 4 * policy.network.plan().arena_len as usize];
        Ok(Self { policy, arena: AlignedBytes::new(&arena) })
    }

    fn output(&mut self, input: &[f32]) -> Result<&[f32]> {
        let arena = bytemuck::cast_slice_mut(self.arena.as_mut_slice());
        self.policy.network.run(input, arena).context("the input does not fit the network")
    }

    fn run(&mut self, input: &[f32]) -> Result<()> {
        std::hint::black_box(self.output(input)?);
        Ok(())
    }
}

/// tract as its users run it: optimized, its state kept between calls.
struct Tract {
    state: TypedSimpleState,
}

impl Tract {
    fn new(onnx: &[u8]) -> Result<Self> {
        let model = tract_onnx::onnx()
            .model_for_read(&mut &*onnx)?
            .with_input_fact(0, f32::fact([1, GO1.0]).into())?;
        Ok(Self { state: model.into_optimized()?.into_runnable()?.spawn()? })
    }

    fn run(&mut self, input: &[f32]) -> Result<TVec<TValue>> {
        self.state.run(tvec!(Tensor::from_shape(&[1, input.len()], input)?.into()))
    }
}

/// onnxruntime in a process of its own; see `bench_host.py` for what goes over the pipes.
struct OnnxRuntime {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    version: String,
    way: String,
    call_us: f64,
    outputs: Vec<f32>,
}

impl OnnxRuntime {
    /// `None`: there is no interpreter to start.
    fn start(onnx: &[u8], inputs: &[Vec<f32>]) -> Result<Option<Self>> {
        let Some(python) = std::env::var_os(PYTHON) else {
            println!("without onnxruntime: `cargo xtask bench host` installs it and sets {PYTHON}");
            return Ok(None);
        };
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (mut to, mut from) = pipes.context("no pipes to onnxruntime")?;
        for model in [onnx, &mlp(&[1, 1], Hidden::Relu, 1)] {
            to.write_all(&(model.len() as u32).to_le_bytes())?;
            to.write_all(model)?;
        }
        to.write_all(&(inputs.len() as u32).to_le_bytes())?;
        to.write_all(bytemuck::cast_slice(&inputs.concat()))?;
        to.flush()?;
        let hello = block(&mut from).context("onnxruntime did not start")?;
        let hello: serde_json::Value = serde_json::from_slice(&hello)?;
        let text = |key: &str| hello[key].as_str().unwrap_or_default().to_string();
        let outputs = bytemuck::pod_collect_to_vec(&block(&mut from)?);
        let (version, way) = (text("version"), text("way"));
        let call_us = hello["call_us"].as_f64().unwrap_or(f64::NAN);
        Ok(Some(Self { child, to, from, version, way, call_us, outputs }))
    }

    fn round(&mut self) -> Result<Vec<u64>> {
        for count in [WARM_UP, COUNTED] {
            self.to.write_all(&(count as u32).to_le_bytes())?;
        }
        self.to.flush()?;
        Ok(bytemuck::pod_collect_to_vec(&block(&mut self.from)?))
    }
}

impl Drop for OnnxRuntime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Length, then so many bytes.
fn block(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let flags = field("flags").unwrap_or_default();
    let sets = ["avx2", "avx512_vnni"].into_iter().filter(|set| flags.split(' ').any(|flag| flag == *set));
    format!("{name} {}", sets.collect::<Vec<_>>().join(" "))
}
