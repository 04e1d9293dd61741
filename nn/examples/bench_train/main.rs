//! Samples per second of a training step (forward, mean-squared error, backward, Adam), against PyTorch in a process of its own
//! and burn-flex. `cargo xtask bench train` runs it with the peer's interpreter.
//!
//! Both sides are measured by the best of many runs of some 20 ms, one side after the other, so that neither meets the other.

mod flex;
mod ours;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A net: its name, its sizes, what the peer calls its activation.
struct Net {
    name: &'static str,
    sizes: &'static [usize],
    activation: &'static str,
}

const NETS: [Net; 4] = [
    Net { name: "13-64-64-4", sizes: &[13, 64, 64, 4], activation: "tanh" },
    Net { name: "48-256-256-12", sizes: &[48, 256, 256, 12], activation: "tanh" },
    Net { name: "48-512-256-128-12", sizes: &[48, 512, 256, 128, 12], activation: "elu" },
    // Observation, units, action; sequences of GRU_STEPS samples.
    Net { name: "GRU-64", sizes: &[48, 64, 12], activation: "gru" },
];
const BATCHES: [usize; 3] = [256, 4096, 16384];
/// Samples of a sequence of the recurrent net; a batch counts samples.
const GRU_STEPS: usize = 16;

const USAGE: &str = "usage: bench_train [--torch PYTHON] [--compile] [--flex] [--threads N] [--seconds S] [--only TEXT] [--json FILE]";

fn main() -> Result<(), String> {
    let options = Options::from(std::env::args().skip(1))?;
    let mut peer = options.torch.as_deref().map(Torch::start).transpose()?;
    let form = if options.compile { "compile" } else { "eager" };
    println!(
        "{} threads; PyTorch {} ({form})",
        options.threads,
        peer.as_ref().map_or("absent", |p| p.version.trim())
    );
    println!("{:<30} {:>8} {:>14} {:>14} {:>14}  goal", "case", "ratio", "tendon", "torch", "burn-flex");
    let mut rows = Vec::new();
    for net in &NETS {
        for batch in BATCHES {
            let case = format!("{} batch {batch}", net.name);
            if !case.contains(&options.only) {
                continue;
            }
            let seconds = options.seconds;
            let ours = batch as f64 / ours::seconds_per_step(net, batch, options.threads, seconds);
            let torch = match &mut peer {
                Some(peer) => Some(batch as f64 / peer.ask(net, batch, &options, form)?),
                None => None,
            };
            let flex = (options.flex && net.activation == "tanh")
                .then(|| batch as f64 / flex::seconds_per_step(net.sizes, batch, seconds));
            let goal = if batch == 256 { 4.0 } else { 1.5 };
            let shown = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.0}"));
            let ratio = torch.map_or("-".into(), |torch| format!("{:.2}x", ours / torch));
            println!("{case:<30} {ratio:>8} {ours:>14.0} {:>14} {:>14}  {goal}x", shown(torch), shown(flex));
            let peers: Vec<String> = [("torch", torch), ("burn-flex", flex)]
                .iter()
                .filter_map(|(name, value)| value.map(|value| format!("\"{name}\":{value}")))
                .collect();
            rows.push(format!(
                "{{\"case\":\"{case}\",\"metric\":\"samples/s\",\"unit\":\"1/s\",\"tendon\":{ours},\"peers\":{{{}}},\"goal\":\"{goal}x torch\"}}",
                peers.join(",")
            ));
        }
    }
    match options.json {
        Some(file) => std::fs::write(&file, format!("[{}]\n", rows.join(",\n ")))
            .map_err(|error| format!("{file}: {error}; give --json a file that can be written")),
        None => Ok(()),
    }
}

/// Seconds of a call, the best of runs of some 20 ms for about `seconds`.
fn best_of(seconds: f64, mut step: impl FnMut()) -> f64 {
    const SAMPLE: Duration = Duration::from_millis(20);
    (0..5).for_each(|_| step());
    let (mut best, end) = (f64::INFINITY, Instant::now() + Duration::from_secs_f64(seconds));
    while Instant::now() < end {
        let (mut count, start) = (0, Instant::now());
        while start.elapsed() < SAMPLE {
            step();
            count += 1;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(count));
    }
    best
}

struct Options {
    torch: Option<String>,
    compile: bool,
    flex: bool,
    threads: usize,
    seconds: f64,
    only: String,
    json: Option<String>,
}

impl Options {
    fn from(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut options = Self {
            torch: None,
            compile: false,
            flex: false,
            threads,
            seconds: 1.0,
            only: String::new(),
            json: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word}: a value is missing\n{USAGE}"));
            let bad = |value: &str| format!("{word} {value}: not a number above 0\n{USAGE}");
            match word.as_str() {
                "--torch" => options.torch = Some(value()?),
                "--json" => options.json = Some(value()?),
                "--only" => options.only = value()?,
                "--compile" => options.compile = true,
                "--flex" => options.flex = true,
                "--threads" => {
                    let text = value()?;
                    options.threads = text.parse().ok().filter(|n| *n > 0).ok_or_else(|| bad(&text))?;
                }
                "--seconds" => {
                    let text = value()?;
                    options.seconds = text.parse().ok().filter(|s| *s > 0.0).ok_or_else(|| bad(&text))?;
                }
                _ => return Err(format!("unknown option `{word}`\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// The peer's process.
struct Torch {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    version: String,
}

impl Torch {
    fn start(python: &str) -> Result<Self, String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench_train/torch_peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{python}: {error}; --torch wants an interpreter that has torch"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.ok_or("no pipes to PyTorch")?;
        let mut torch = Self { child, to, from: BufReader::new(from), version: String::new() };
        torch.version = torch.line()?;
        Ok(torch)
    }

    fn ask(&mut self, net: &Net, batch: usize, options: &Options, form: &str) -> Result<f64, String> {
        let sizes: Vec<String> = net.sizes.iter().map(usize::to_string).collect();
        let Options { threads, seconds, .. } = options;
        writeln!(self.to, "{} {} {batch} {threads} {seconds} {form}", sizes.join("-"), net.activation)
            .map_err(|error| format!("PyTorch takes no case: {error}"))?;
        let line = self.line()?;
        line.trim()
            .parse()
            .map_err(|_| format!("PyTorch answered `{}`, not a number of seconds", line.trim()))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) => Err("PyTorch ended; its message is above".into()),
            Ok(_) => Ok(line),
            Err(error) => Err(format!("PyTorch: {error}")),
        }
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
