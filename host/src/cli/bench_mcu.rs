//! `bench mcu`: instructions per inference on the controller, ours and of emx-onnx-cgen's C on the same ONNX files
//! and inputs.

use super::{Measured, print_table, write_json};
use crate::cost::compare;
use crate::count::{INSTRUCTIONS_PER_COUNT, Job, Traced, count, trace_elf, trace_network};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tendon_compiler::parity::{ImageRunner, random_inputs};
use tendon_compiler::sample::{Cell, Hidden, conv_encoder, mlp, recurrent};
use tendon_compiler::{ContractChoice, Model, Options, compile};
use tendon_wire::message::MAX_OBSERVATION;

/// Inferences averaged; each count is only good to 40 instructions.
const INFERENCES: usize = 50;
/// Inferences that a trace follows, of ours and of the peer.
const TRACED: usize = 3;
/// Rows that the ranges of an 8w16a case come from.
const CALIBRATION: usize = 256;
/// How the peer's C is compiled; the optimisation level comes first.
const GCC: [&str; 8] = [
    "-std=c11",
    "-mcpu=cortex-m4",
    "-mthumb",
    "-mfpu=fpv4-sp-d16",
    "-mfloat-abi=hard",
    "-ffunction-sections",
    "-nostartfiles",
    "-Wl,--gc-sections",
];

/// A network to measure.
struct Case {
    name: &'static str,
    onnx: Vec<u8>,
    /// Weights of 8 bits, activations of 16.
    quantized: bool,
    goal: Goal,
}

enum Goal {
    /// Fewer instructions than this.
    Below(u32),
    /// Less than half of the peer's better build.
    HalfOfPeer,
    Report,
}

fn cases() -> Vec<Case> {
    use Goal::{Below, HalfOfPeer, Report};
    use Hidden::{Relu, Swish, Tanh};
    let dense = |name, sizes: &[usize], hidden, quantized, goal| Case {
        name,
        onnx: mlp(sizes, hidden, 1),
        quantized,
        goal,
    };
    let (small, large, go1) = ([13, 64, 64, 4], [48, 128, 128, 12], [48, 512, 256, 128, 12]);
    let plain = |name, onnx| Case { name, onnx, quantized: false, goal: HalfOfPeer };
    vec![
        dense("13-64-64-4 ReLU f32", &small, Relu, false, Below(12_500)),
        dense("13-64-64-4 tanh f32", &small, Tanh, false, Report),
        dense("48-128-128-12 ReLU f32", &large, Relu, false, Report),
        dense("48-128-128-12 tanh f32", &large, Tanh, false, Below(60_000)),
        dense("13-64-64-4 ReLU 8w16a", &small, Relu, true, Below(9_500)),
        dense("48-128-128-12 ReLU 8w16a", &large, Relu, true, Below(39_000)),
        dense("48-512-256-128-12 swish (Go1) f32", &go1, Swish, false, Report),
        dense("48-512-256-128-12 swish (Go1) 8w16a", &go1, Swish, true, Report),
        plain("LSTM 47-64 + 32", recurrent(Cell::Lstm, 47, 64, 32, 12, 1)),
        plain("GRU 48-64", recurrent(Cell::Gru, 48, 64, 0, 12, 1)),
        plain("Conv encoder 1x64x64", conv_encoder(64, &[8, 16, 32], 32, 1)),
    ]
}

/// Instructions of one inference, and what it computed for every row.
struct Run {
    instructions: f64,
    /// Largest distance of a row from the mean, where rows were counted apart.
    spread: f64,
    outputs: Vec<Vec<f32>>,
    traced: Traced,
}

pub(super) fn mcu(peer: Option<&Path>, only: &str, json: Option<&PathBuf>) -> Result<()> {
    let head =
        ["net", "who", "instructions", "per MAC", "spread", "cycles M4F", "cycles M7", "difference", "goal"];
    let mut table = vec![head.map(String::from).to_vec()];
    let mut rows = Vec::new();
    // The peer runs in a folder of its own.
    let peer =
        peer.map(|path| path.canonicalize().with_context(|| path.display().to_string())).transpose()?;
    for case in cases().into_iter().filter(|case| case.name.contains(only)) {
        let (ours, inputs, macs) = measure(&case).with_context(|| case.name)?;
        let mut theirs = Vec::new();
        for level in ["-O2", "-O3"].into_iter().filter(|_| peer.is_some()) {
            let run = measure_peer(peer.as_deref().unwrap_or(Path::new("")), &case, level, &inputs)
                .with_context(|| case.name)?;
            ensure!(
                run.outputs.len() == ours.outputs.len(),
                "{} rows instead of {}",
                run.outputs.len(),
                ours.outputs.len()
            );
            theirs.push((format!("emx-onnx-cgen {level}"), run));
        }
        let best = theirs.iter().map(|(_, run)| run.instructions).reduce(f64::min);
        let goal = match case.goal {
            Goal::Below(bound) => Some((format!("< {}", thousands(bound.into())), f64::from(bound))),
            Goal::HalfOfPeer => best.map(|best| ("< half of emx-onnx-cgen".to_string(), best / 2.0)),
            Goal::Report => None,
        };
        let verdict = goal.as_ref().map_or(String::new(), |(goal, bound)| {
            format!("{goal}: {}", if ours.instructions < *bound { "met" } else { "missed" })
        });
        let row = |name: &str, who: &str, run: &Run, difference: String, verdict: String| {
            let per_mac = format!("{:.2}", run.instructions / f64::from(macs));
            let spread = if run.spread > 0.0 { format!("+-{:.0}", run.spread) } else { String::new() };
            let cycles = [run.traced.cycles_m4, run.traced.cycles_m7].map(thousands);
            let [m4, m7] = cycles;
            let count = thousands(run.instructions);
            vec![name.into(), who.into(), count, per_mac, spread, m4, m7, difference, verdict]
        };
        table.push(row(case.name, "tendon", &ours, String::new(), verdict));
        for (who, run) in &theirs {
            let pairs = ours.outputs.iter().flatten().zip(run.outputs.iter().flatten());
            let difference = pairs.fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
            table.push(row("", who, run, format!("{difference:.1e}"), String::new()));
        }
        let figures: [(&str, &str, fn(&Run) -> f64); 3] = [
            ("instructions", "instructions", |run| run.instructions),
            ("cycles M4F (estimate)", "cycles", |run| run.traced.cycles_m4),
            ("cycles M7 (estimate)", "cycles", |run| run.traced.cycles_m7),
        ];
        for (metric, unit, figure) in figures {
            let peers = theirs.iter().map(|(who, run)| (who.clone(), figure(run).round().into())).collect();
            rows.push(Measured {
                case: case.name.into(),
                metric: metric.into(),
                unit: unit.into(),
                tendon: figure(&ours).round(),
                peers,
                goal: goal.as_ref().filter(|_| metric == "instructions").map(|(_, bound)| (*bound).into()),
            });
        }
    }
    print_table(&table);
    println!(
        "QEMU mps2-an386, -icount shift=0; mean of {INFERENCES} inputs. Cycles: estimates over the executed instructions of up to \
         {TRACED} inferences (docs/bounds.md). Difference: largest of an output of ours from emx-onnx-cgen's, which computes \
         8w16a cases in f32."
    );
    write_json(json, &rows)
}

fn thousands(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Ours, by the firmware's runtime. Also gives the inputs and the multiply-accumulates.
fn measure(case: &Case) -> Result<(Run, Vec<Vec<f32>>, u32)> {
    let model = Model::from_bytes(&case.onnx)?;
    let n_inputs = model.inputs.first().context("no input")?.len();
    let recorded = random_inputs(n_inputs, CALIBRATION, 3);
    let options = Options {
        contract: ContractChoice::Bare,
        quantize: case.quantized.then_some(&*recorded),
        golden_vectors: 3,
        ..Options::default()
    };
    let compiled = compile(&case.onnx, &options)?;
    let runner = ImageRunner::new(&compiled.image)?;
    let network = runner.policy().network;
    let plan = *network.plan();
    // Images take long in the peer's C.
    let rows = if n_inputs <= MAX_OBSERVATION { INFERENCES } else { TRACED };
    let inputs = random_inputs(n_inputs, rows, 2);
    let pool = inputs.concat();
    let counted = count(&[Job { network, inputs: rows, repeats: 1, pad: 0 }], &pool)?;
    let counted = counted.into_iter().next().flatten().context("the controller refused the network")?;
    compare(case.name, &network, &pool, rows, &counted)?;
    let of_counts = |counts: u32| f64::from(counts) * INSTRUCTIONS_PER_COUNT as f64;
    let instructions = of_counts(counted.total) / rows as f64;
    let spread = (of_counts(counted.most) - instructions).max(instructions - of_counts(counted.least));
    let mut arena = vec![0.0; plan.arena_len as usize];
    network.reset(&mut arena);
    let outputs = inputs
        .iter()
        .map(|input| network.run(input, &mut arena).map(<[f32]>::to_vec).context("a length does not fit"))
        .collect::<Result<_>>()?;
    let traced = trace_network(network, &pool, TRACED)?;
    let apart = (traced.instructions - instructions).abs();
    ensure!(apart < 60.0, "{instructions} instructions counted, {} traced", traced.instructions);
    Ok((Run { instructions, spread, outputs, traced }, inputs, plan.macs))
}

/// emx-onnx-cgen's C: generated, compiled, and run on the same emulated core without an operating system.
fn measure_peer(peer: &Path, case: &Case, level: &str, inputs: &[Vec<f32>]) -> Result<Run> {
    let folder = std::env::temp_dir().join(format!("tendon-bench-mcu-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let run = generate(peer, case, inputs, &folder)
        .and_then(|()| build(level, &folder))
        .and_then(|()| emulate(&folder, inputs.len()));
    std::fs::remove_dir_all(&folder)?;
    run
}

fn generate(peer: &Path, case: &Case, inputs: &[Vec<f32>], folder: &Path) -> Result<()> {
    std::fs::write(folder.join("net.onnx"), &case.onnx)?;
    // No heap and no weights in files: as a controller would use it.
    let mut command = Command::new(peer);
    command.args([
        "compile",
        "--model-name",
        "net",
        "--large-temp-threshold",
        "0",
        "--large-weight-threshold",
        "0",
    ]);
    finish(command.args(["net.onnx", "net.c"]).current_dir(folder))?;
    let model = Model::from_bytes(&case.onnx)?;
    let states = model.state_pairs();
    let becomes = |input: &str| states.iter().find(|(from, _)| from == input).map(|(_, to)| to.as_str());
    let (mut variables, mut arguments) = (String::new(), Vec::new());
    let (mut clear, mut advance) = (String::new(), String::new());
    for port in &model.inputs {
        let Some(output) = becomes(&port.name) else {
            arguments.push("row".to_string());
            continue;
        };
        writeln!(variables, "static float {0}[{2}], {1}[{2}];", port.name, output, port.len())?;
        write!(clear, "memset({0}, 0, sizeof {0}); ", port.name)?;
        write!(advance, "memcpy({0}, {1}, sizeof {0}); ", port.name, output)?;
        arguments.push(port.name.clone());
    }
    for output in &model.outputs {
        let state = states.iter().any(|(_, to)| to == output);
        arguments.push(if state { output.clone() } else { "output".into() });
    }
    let runner = compile(&case.onnx, &Options { contract: ContractChoice::Bare, ..Options::default() })?;
    let n_out = ImageRunner::new(&runner.image)?.policy().network.plan().n_outputs;
    let n_in = inputs.first().map_or(0, Vec::len);
    let mut header = format!(
        "#define ROWS {}\n#define N_OUT {n_out}\nvoid net();\n{variables}#define CALL(row, output) net({})\n\
         #define CLEAR() do {{ {clear}}} while (0)\n#define ADVANCE() do {{ {advance}}} while (0)\n\
         static const uint32_t rows[ROWS][{n_in}] = {{\n",
        inputs.len(),
        arguments.join(", "),
    );
    for input in inputs {
        let words: Vec<String> = input.iter().map(|value| format!("{:#x}", value.to_bits())).collect();
        writeln!(header, "{{{}}},", words.join(","))?;
    }
    header.push_str("};\n");
    std::fs::write(folder.join("case.h"), header)?;
    std::fs::write(folder.join("start.c"), include_str!("bench_mcu/start.c"))?;
    std::fs::write(folder.join("link.ld"), include_str!("bench_mcu/link.ld"))?;
    Ok(())
}

fn build(level: &str, folder: &Path) -> Result<()> {
    let mut command = Command::new("arm-none-eabi-gcc");
    command.arg(level).args(GCC).args(["-T", "link.ld", "start.c", "net.c", "-lm", "-o", "net.elf"]);
    finish(command.current_dir(folder))
}

fn emulate(folder: &Path, rows: usize) -> Result<Run> {
    let mut command = Command::new("qemu-system-arm");
    command.args(["-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
    command.args(["-semihosting", "-icount", "shift=0", "-kernel"]).arg(folder.join("net.elf"));
    let output =
        command.stdin(std::process::Stdio::null()).output().context("cannot start qemu-system-arm")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(|line| {
        line.split_whitespace().map(|word| u32::from_str_radix(word, 16)).collect::<Result<Vec<u32>, _>>()
    });
    let mut count = || -> Result<f64> {
        let line = lines.next().context("the program in QEMU ended too soon")??;
        Ok(f64::from(line.first().copied().context("an empty line from QEMU")?))
    };
    let (with, without) = (count()?, count()?);
    let outputs = lines
        .map(|line| Ok(line?.into_iter().map(f32::from_bits).collect()))
        .collect::<Result<Vec<Vec<f32>>>>()?;
    let instructions = (with - without) * INSTRUCTIONS_PER_COUNT as f64 / rows as f64;
    let traced = trace_elf(&folder.join("net.elf"), TRACED)?;
    Ok(Run { instructions, spread: 0.0, outputs, traced })
}

/// Runs a program to its end; its error output is the message.
fn finish(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
