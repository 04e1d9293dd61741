//! What data-parallel PPO exchanges, how long that takes here, and what it makes of 1000 cores: `cargo xtask bench ranks [--json FILE]`.
//!
//! Started alone it starts itself again under `mpirun` with 1, 2 and 4 ranks, and prints what rank 0 found.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tendon_learn::{Alone, Communicator, Mpi, PpoConfig, Rng, train_from};
use tendon_sim::Environment;
use tendon_sim::tasks::{TaskDefinition, open};

/// A task with the networks and rollouts that it is trained with.
struct Case {
    name: &'static str,
    task: &'static str,
    hidden: &'static [usize],
}

const CASES: [Case; 2] = [
    Case { name: "hopper 64-64", task: "hopper", hidden: &[64, 64] },
    Case { name: "quadruped 256-256", task: "quadruped", hidden: &[256, 256] },
];
/// Environments and steps per rank and iteration, epochs, minibatches.
const ENVIRONMENTS: usize = 32;
const STEPS: usize = 128;
const EPOCHS: usize = 8;
const MINIBATCHES: usize = 4;
/// Iterations that are measured, after one that is not.
const ITERATIONS: u64 = 6;
const RANKS: [usize; 3] = [1, 2, 4];
/// `f32` numbers of the sums that are timed.
const SIZES: [usize; 5] = [16, 1024, 16_384, 131_072, 1_048_576];

/// What one start under `mpirun` found.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    trainings: Vec<Training>,
    /// Median time of a sum of each of [`SIZES`], s.
    sums_s: Vec<f64>,
}

/// Per iteration.
#[derive(Debug, Serialize, Deserialize)]
struct Training {
    steps_per_s: f64,
    simulation_s: f64,
    inference_s: f64,
    update_s: f64,
    exchange_s: f64,
    sums: f64,
    summed_bytes: f64,
    /// Bytes of the gradient.
    gradient_bytes: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var("OMPI_COMM_WORLD_SIZE").as_deref() {
        Ok("1") => println!("{}", serde_json::to_string(&measured(&Alone)?)?),
        Ok(_) => {
            let ranks = Mpi::start().ok_or("MPI was started before")?;
            let found = measured(&ranks)?;
            if ranks.rank() == 0 {
                println!("{}", serde_json::to_string(&found)?);
            }
            ranks.finish();
        }
        Err(_) => report()?,
    }
    Ok(())
}

fn measured(ranks: &dyn Communicator) -> Result<Found, Box<dyn Error>> {
    let sums_s = SIZES.iter().map(|&size| time_of_sum(ranks, size)).collect();
    let trainings = CASES.iter().map(|case| training(case, ranks)).collect::<Result<_, _>>()?;
    Ok(Found { trainings, sums_s })
}

fn time_of_sum(ranks: &dyn Communicator, size: usize) -> f64 {
    let mut values = vec![1e-3f32; size];
    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            values.fill(1e-3);
            ranks.sum_f64(&mut [0.0]);
            let started = Instant::now();
            ranks.sum_f32(black_box(&mut values));
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// As much work for each rank, whatever their number.
fn training(case: &Case, ranks: &dyn Communicator) -> Result<Training, Box<dyn Error>> {
    let task = open(case.task, None)?;
    let make = || environment(&task);
    let environments = ENVIRONMENTS * ranks.size();
    let config = PpoConfig {
        environments,
        rollout_steps: STEPS,
        epochs: EPOCHS,
        minibatches: MINIBATCHES,
        hidden: case.hidden.to_vec(),
        threads: 1,
        total_steps: (1 + ITERATIONS) * (environments * STEPS) as u64,
        ..PpoConfig::default()
    };
    let mut before = None;
    let trained = train_from(&config, &make, None, ranks, 1, None, &mut |_| {
        before.get_or_insert((Instant::now(), ranks.traffic()));
        ControlFlow::Continue(())
    })?;
    let (started, before) = before.ok_or("no iteration")?;
    let wall_s = started.elapsed().as_secs_f64();
    let after = ranks.traffic();
    let each = 1.0 / ITERATIONS as f64;
    let mean =
        |value: fn(&tendon_learn::CurveRow) -> f64| trained.curves[1..].iter().map(value).sum::<f64>() * each;
    let actor = trained.policy.parameters.len();
    let privileged = if config.privileged_critic { make().privileged_len() } else { 0 };
    let first = case.hidden[0];
    // The critic has the actor's layers, but for what it sees more and its one output.
    let (n_act, last) = (trained.policy.action_len(), case.hidden[case.hidden.len() - 1]);
    let parameters = actor + n_act + actor + privileged * first - (n_act - 1) * (last + 1);
    Ok(Training {
        steps_per_s: (ITERATIONS as usize * environments * STEPS) as f64 / wall_s,
        simulation_s: mean(|row| row.simulation_s),
        inference_s: mean(|row| row.inference_s),
        update_s: mean(|row| row.update_s),
        exchange_s: (after.seconds - before.seconds) * each,
        sums: (after.sums - before.sums) as f64 * each,
        summed_bytes: (after.summed_bytes - before.summed_bytes) as f64 * each,
        gradient_bytes: (4 * parameters) as f64,
    })
}

fn environment(task: &Arc<TaskDefinition>) -> Box<dyn Environment> {
    Box::new(task.make().expect("the definition was checked when it was read"))
}

/// Starts the ranks, and prints tables.
fn report() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let json = match (words.next().as_deref(), words.next()) {
        (None, _) => None,
        (Some("--json"), Some(file)) => Some(file),
        _ => return Err("--json FILE is known".into()),
    };
    let found = RANKS.map(under_mpirun).into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    let mut row = |case: String, metric: &str, unit: &str, value: f64| {
        rows.push(json!({ "case": case, "metric": metric, "unit": unit, "tendon": value, "peers": {}, "goal": Value::Null }));
    };
    println!("time of a sum over ranks of this machine (shared memory, {} cores), median of 200", cores());
    println!("{:>12}  {:>12}  {:>12}", "bytes", "2 ranks, us", "4 ranks, us");
    for (i, size) in SIZES.iter().enumerate() {
        println!("{:>12}  {:>12.1}  {:>12.1}", 4 * size, found[1].sums_s[i] * 1e6, found[2].sums_s[i] * 1e6);
        for (found, ranks) in found.iter().zip(RANKS).skip(1) {
            row(format!("sum of {} bytes, {ranks} ranks", 4 * size), "time", "us", found.sums_s[i] * 1e6);
        }
    }
    println!(
        "\nPPO, {ENVIRONMENTS} environments x {STEPS} steps per rank, {EPOCHS} epochs of {MINIBATCHES} minibatches, one thread per rank"
    );
    println!(
        "{:18} {:>5}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>8}  {:>10}  {:>10}",
        "case",
        "ranks",
        "steps/s",
        "sim ms",
        "infer ms",
        "update ms",
        "exch. ms",
        "sums",
        "kB summed",
        "gradient kB"
    );
    for (c, case) in CASES.iter().enumerate() {
        for (found, ranks) in found.iter().zip(RANKS) {
            let t = &found.trainings[c];
            println!(
                "{:18} {ranks:>5}  {:>9.0}  {:>9.1}  {:>9.1}  {:>9.1}  {:>9.1}  {:>8.0}  {:>10.1}  {:>10.1}",
                case.name,
                t.steps_per_s,
                t.simulation_s * 1e3,
                t.inference_s * 1e3,
                t.update_s * 1e3,
                t.exchange_s * 1e3,
                t.sums,
                t.summed_bytes / 1e3,
                t.gradient_bytes / 1e3
            );
            let name = format!("{}, {ranks} ranks", case.name);
            row(name.clone(), "steps", "steps/s", t.steps_per_s);
            row(name.clone(), "sums per iteration", "1", t.sums);
            row(name.clone(), "summed per iteration", "bytes", t.summed_bytes);
            let whole = t.simulation_s + t.inference_s + t.update_s;
            row(name, "share of time in exchange", "1", t.exchange_s / whole);
        }
    }
    let shuffle_s = time_to_shuffle();
    println!("\nshuffling: {:.2} ns per row of all ranks", shuffle_s * 1e9);
    for (c, case) in CASES.iter().enumerate() {
        for network in &NETWORKS {
            println!(
                "\n{}: planned for {} (efficiency: speed per core beside one core's)",
                case.name, network.name
            );
            println!(
                "{:>6}  {:>10}  {:>12}  {:>12}  {:>12}  {:>10}",
                "ranks", "work ms", "exchange ms", "shuffle ms", "uneven ms", "efficiency"
            );
            for ranks in [2, 4, 8, 16, 32, 64, 128, 256, 512, 1000] {
                let plan = plan(&found[0].trainings[c], &found[2].trainings[c], network, shuffle_s, ranks);
                println!(
                    "{ranks:>6}  {:>10.1}  {:>12.2}  {:>12.2}  {:>12.2}  {:>10.2}",
                    plan.work_s * 1e3,
                    plan.exchange_s * 1e3,
                    plan.shuffle_s * 1e3,
                    plan.uneven_s * 1e3,
                    plan.efficiency()
                );
                row(
                    format!("{}, {} cores, {}", case.name, ranks, network.name),
                    "planned efficiency",
                    "1",
                    plan.efficiency(),
                );
            }
            let half = (1..20_000).find(|&n| {
                plan(&found[0].trainings[c], &found[2].trainings[c], network, shuffle_s, n).efficiency() < 0.5
            });
            println!(
                "below one half from {} cores on",
                half.map_or_else(|| "more than 20000".into(), |n| n.to_string())
            );
            row(
                format!("{}, {}", case.name, network.name),
                "cores where planned efficiency is one half",
                "1",
                half.unwrap_or(20_000) as f64,
            );
        }
    }
    if let Some(file) = json {
        fs::write(&file, serde_json::to_vec_pretty(&rows)?).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn under_mpirun(ranks: usize) -> Result<Found, Box<dyn Error>> {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", &ranks.to_string()]);
    let output = command.arg(std::env::current_exe()?).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("mpirun -n {ranks} ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Seconds per row and epoch that every rank spends on the order of all rows.
fn time_to_shuffle() -> f64 {
    let mut rows: Vec<usize> = (0..1_000_000).collect();
    let started = Instant::now();
    Rng::at(1, &[]).shuffle(&mut rows);
    let kept = rows.iter().filter(|row| (1000..5000).contains(*row)).count();
    black_box(kept);
    started.elapsed().as_secs_f64() / rows.len() as f64
}

/// A network between nodes.
struct Network {
    name: &'static str,
    latency_s: f64,
    /// Of a node, which its cores share.
    bytes_per_s: f64,
    cores_per_node: usize,
}

/// Assumed, see docs/scale.md.
const NETWORKS: [Network; 2] = [
    Network { name: "InfiniBand HDR, 2 us, 25 GB/s", latency_s: 2e-6, bytes_per_s: 25e9, cores_per_node: 64 },
    Network {
        name: "Ethernet TCP, 30 us, 3.1 GB/s",
        latency_s: 30e-6,
        bytes_per_s: 3.1e9,
        cores_per_node: 64,
    },
];

/// Seconds of an iteration on many ranks.
struct Plan {
    work_s: f64,
    exchange_s: f64,
    shuffle_s: f64,
    uneven_s: f64,
}

impl Plan {
    fn efficiency(&self) -> f64 {
        self.work_s / (self.work_s + self.exchange_s + self.shuffle_s + self.uneven_s)
    }
}

/// docs/scale.md has the formula.
fn plan(alone: &Training, together: &Training, network: &Network, shuffle_s: f64, ranks: usize) -> Plan {
    let n = ranks as f64;
    let work_s = alone.simulation_s + alone.inference_s + alone.update_s;
    let on_node = ranks.min(network.cores_per_node) as f64;
    let exchange_s = 2.0 * n.log2().ceil() * network.latency_s * together.sums
        + 2.0 * (n - 1.0) / n * together.summed_bytes * on_node / network.bytes_per_s;
    let rows = (ENVIRONMENTS * STEPS) as f64;
    let of_minibatch = rows / MINIBATCHES as f64;
    let uneven = if ranks > 1 { (2.0 * n.ln() / of_minibatch * (1.0 - 1.0 / n)).sqrt() } else { 0.0 };
    Plan {
        work_s,
        exchange_s,
        shuffle_s: (n - 1.0) * rows * EPOCHS as f64 * shuffle_s,
        uneven_s: alone.update_s * uneven,
    }
}
