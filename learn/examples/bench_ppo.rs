//! Wall clock and samples until PPO reaches a return, beside Stable-Baselines3 on Gymnasium with the same network and settings:
//! `cargo xtask bench ppo [--case NAME] [--seeds N] [--peer-rows FILE] [--json FILE]`.
//!
//! "Reached" is the same for both: after a rollout, the mean return of the last 50 training episodes is at least the goal. Both count
//! the steps up to there.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tendon_learn::{Hopper, MakeEnvironment, Pendulum, PpoConfig, bootstrap, train};
use tendon_sim::Environment;

/// One task, its settings and its goal.
struct Case {
    name: &'static str,
    gymnasium: &'static str,
    settings: &'static str,
    goal: f64,
    speed_up: f64,
}

const CASES: [Case; 2] = [
    Case {
        name: "pendulum -200",
        gymnasium: "Pendulum-v1",
        settings: "pendulum.toml",
        goal: -200.0,
        speed_up: 20.0,
    },
    Case {
        name: "hopper 2500",
        gymnasium: "Hopper-v5",
        settings: "hopper.toml",
        goal: 2500.0,
        speed_up: 5.0,
    },
];
/// Training episodes whose mean return is compared with the goal.
const EPISODES: usize = 50;

/// One training.
struct Run {
    who: String,
    seed: u64,
    reached: bool,
    steps: f64,
    wall_s: f64,
    cpu_s: f64,
}

#[derive(Default)]
struct Arguments {
    case: String,
    seeds: u64,
    json: Option<PathBuf>,
    peer_rows: Option<PathBuf>,
    python: Option<PathBuf>,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        seeds: 5,
        python: std::env::var_os("TENDON_SB3").map(PathBuf::from),
        ..Default::default()
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word}: give a value"));
        match word.as_str() {
            "--case" => arguments.case = value()?,
            "--seeds" => arguments.seeds = value()?.parse()?,
            "--json" => arguments.json = Some(value()?.into()),
            "--peer-rows" => arguments.peer_rows = Some(value()?.into()),
            _ => return Err(format!("{word}: --case, --seeds, --peer-rows and --json are known").into()),
        }
    }
    Ok(arguments)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| case.name.contains(&arguments.case)) {
        let config: PpoConfig = toml::from_str(&fs::read_to_string(folder.join(case.settings))?)?;
        let ours: Vec<Run> = (1..=arguments.seeds)
            .map(|seed| ours(case, &config, seed, arguments.python.as_deref()))
            .collect::<Result<_, _>>()?;
        let peer = peer(case, &arguments, &folder)?;
        println!("{}: mean return of the last {EPISODES} episodes at least {}", case.name, case.goal);
        println!(
            "{:34} {:>4}  {:>7}  {:>9}  {:>8}  {:>8}",
            "who", "seed", "reached", "steps", "wall s", "cpu s"
        );
        for run in ours.iter().chain(&peer) {
            println!(
                "{:34} {:>4}  {:>7}  {:>9.0}  {:>8.2}  {:>8.2}",
                run.who, run.seed, run.reached, run.steps, run.wall_s, run.cpu_s
            );
        }
        // A run that does not arrive counts with all that it took: its true figure is larger.
        let arrived = |runs: &[Run]| runs.iter().filter(|run| run.reached).count();
        println!(
            "reached by {} of {} seeds; peer {} of {}",
            arrived(&ours),
            ours.len(),
            arrived(&peer),
            peer.len()
        );
        rows.push(json!({
            "case": case.name, "metric": "seeds that reach it", "unit": "seeds", "tendon": arrived(&ours),
            "peers": peers(&peer, arrived(&peer) as f64), "goal": ours.len(),
        }));
        for (metric, unit, of, goal) in [
            ("wall s", "s", (|run| run.wall_s) as fn(&Run) -> f64, format!("peer / {}", case.speed_up)),
            ("samples", "steps", |run| run.steps, "no more than the peer's".into()),
        ] {
            let mean = |runs: &[Run]| bootstrap(&runs.iter().map(of).collect::<Vec<_>>(), 1);
            let (here, there) = (mean(&ours), mean(&peer));
            println!(
                "{metric}: {:.4} ({:.4} to {:.4}); peer {:.4} ({:.4} to {:.4}): {:.2} times as much",
                here.mean,
                here.low,
                here.high,
                there.mean,
                there.low,
                there.high,
                there.mean / here.mean
            );
            rows.push(json!({
                "case": case.name, "metric": metric, "unit": unit, "tendon": here.mean,
                "peers": peers(&peer, there.mean), "goal": goal,
            }));
        }
    }
    if let Some(file) = arguments.json {
        fs::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

fn peers(runs: &[Run], mean: f64) -> Value {
    runs.first().map_or_else(|| json!({}), |run| json!({ run.who.as_str(): mean }))
}

fn ours(case: &Case, config: &PpoConfig, seed: u64, python: Option<&Path>) -> Result<Run, Box<dyn Error>> {
    let hopper;
    let make: MakeEnvironment = if case.gymnasium == "Pendulum-v1" {
        &|| Box::new(Pendulum::default()) as Box<dyn Environment>
    } else {
        let python =
            python.ok_or("hopper: the peer's hopper.xml is missing; run through `cargo xtask bench ppo`")?;
        let library = python.parent().and_then(Path::parent).ok_or("TENDON_SB3 is no python")?.join("lib");
        let version = fs::read_dir(&library)?.next().ok_or("no library beside TENDON_SB3")??.path();
        let file = version.join("site-packages/gymnasium/envs/mujoco/assets/hopper.xml");
        let robot = Hopper::load(&file)?;
        hopper = move || Box::new(Hopper::new(robot.clone())) as Box<dyn Environment>;
        &hopper
    };
    let mut returns: Vec<f64> = Vec::new();
    let (mut reached, mut steps, mut wall_s) = (false, 0, 0.0);
    let started = (Instant::now(), cpu_s());
    train(config, make, seed, None, &mut |progress| {
        returns.extend(progress.finished.iter().map(|episode| episode.episode_return));
        let last = &returns[returns.len().saturating_sub(EPISODES)..];
        let mean = last.iter().sum::<f64>() / last.len().max(1) as f64;
        reached = last.len() == EPISODES && mean >= case.goal;
        steps = progress.row.as_ref().map_or(0, |row| row.steps);
        wall_s = started.0.elapsed().as_secs_f64();
        if std::env::var_os("TENDON_BENCH_VERBOSE").is_some() && progress.done.is_multiple_of(20) {
            eprintln!("{} seed {seed}: {steps} steps, return {mean:.1}, {wall_s:.1} s", case.name);
        }
        if reached { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(Run { who: "tendon".into(), seed, reached, steps: steps as f64, wall_s, cpu_s: cpu_s() - started.1 })
}

/// The peer's runs: from a file of an earlier measurement, or run now.
fn peer(case: &Case, arguments: &Arguments, folder: &Path) -> Result<Vec<Run>, Box<dyn Error>> {
    let mut lines = Vec::new();
    if let Some(file) = &arguments.peer_rows {
        lines = fs::read_to_string(file)?.lines().map(str::to_owned).collect();
    } else if let Some(python) = &arguments.python {
        for seed in 1..=arguments.seeds {
            let output = Command::new(python)
                .arg(folder.join("sb3.py"))
                .args([case.gymnasium])
                .arg(folder.join(case.settings))
                .args([case.goal.to_string(), EPISODES.to_string(), seed.to_string()])
                .output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
            lines.extend(String::from_utf8(output.stdout)?.lines().map(str::to_owned));
        }
    } else {
        eprintln!("SKIPPED: the peer (TENDON_SB3 names no python with stable-baselines3 and gymnasium)");
    }
    let mut runs = Vec::new();
    for line in lines.iter().filter(|line| line.starts_with('{')) {
        let row: Value = serde_json::from_str(line)?;
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        if row["environment"] == case.gymnasium {
            runs.push(Run {
                who: row["peer"].as_str().unwrap_or("peer").into(),
                seed: number("seed") as u64,
                reached: row["reached"] == true,
                steps: number("steps"),
                wall_s: number("wall_s"),
                cpu_s: number("cpu_s"),
            });
        }
    }
    Ok(runs)
}

/// Processor time of this process so far, from /proc (clock ticks of 10 ms).
fn cpu_s() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    // Fields 14 and 15 of proc(5): utime and stime; two come before the parenthesis.
    after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>()
        / 100.0
}
