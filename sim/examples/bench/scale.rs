//! Cost per environment from 1 to 4096 environments, and memory.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tendon_sim::{Engine, VecEnv};

use crate::Result;
use crate::gym::{Case, Gym, cases, load};
use crate::speed::random_actions;
use crate::table::{Row, threads};

const COUNTS: [usize; 7] = [1, 4, 16, 64, 256, 1024, 4096];
/// Environments that `bench sim` measures with; a step's cost is compared with the one there.
const USUAL: usize = 64;
/// Control steps of every environment from its start on: every row does the same work per environment.
const STEPS: usize = 64;
/// Each row repeats its steps for at least this long.
const TIME: Duration = Duration::from_secs(1);

pub(crate) fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in cases()? {
        let mut measured = Vec::new();
        for count in COUNTS {
            let found = measure(&case, count)?;
            measured.push((count, found));
        }
        let cost = |count: usize, speed: f64| threads().min(count) as f64 / speed;
        let usual = measured.iter().find(|(count, _)| *count == USUAL);
        let usual = usual.map_or(f64::NAN, |(count, (speed, _))| cost(*count, *speed));
        let least = measured[0].1.1;
        for (count, (speed, kib)) in measured {
            rows.push(Row {
                case: format!("{} x {count}", case.name),
                metric: "steps/s",
                unit: "steps/s",
                tendon: speed,
                peers: Vec::new(),
                goal: "cost per environment flat",
                note: format!(
                    "{:.1} us of a core per step, {:.2} of what it is with {USUAL}; {:.1} MiB resident, {:.0} KiB for each environment beyond the first",
                    1e6 * cost(count, speed),
                    cost(count, speed) / usual,
                    kib / 1024.0,
                    (kib - least) / (count - 1).max(1) as f64,
                ),
            });
        }
    }
    Ok(rows)
}

/// Steps per second and resident KiB, in a process of its own: memory that an earlier row freed is not given back.
fn measure(case: &Case, count: usize) -> Result<(f64, f64)> {
    let output = Command::new(std::env::current_exe()?)
        .args(["environments", case.name, &count.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} x {count}: {}", case.name, output.status).into());
    }
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| found[name].as_f64().ok_or("no figure");
    Ok((number("steps/s")?, number("KiB")?))
}

/// One row, printed as JSON.
pub(crate) fn environments(name: &str, count: &str) -> Result<()> {
    let cases = cases()?;
    let case = cases.iter().find(|case| case.name == name).ok_or("no such case")?;
    let count: usize = count.parse()?;
    let robot = load(&case.file, Engine::Auto)?;
    let (mut time, mut steps, mut kib) = (Duration::ZERO, 0, 0);
    while time < TIME {
        let environments = (0..count).map(|_| Gym::new(&robot, case.substeps)).collect::<Result<Vec<_>>>()?;
        // One thread per environment at most: otherwise the row of one environment would time idle threads.
        let mut envs = VecEnv::new(environments, threads().min(count), 1)?;
        let actions = random_actions(&envs, count);
        let start = Instant::now();
        for action in actions.iter().cycle().take(STEPS) {
            envs.step(action);
        }
        time += start.elapsed();
        steps += count * STEPS;
        kib = kib.max(resident_kib());
    }
    println!("{}", json!({"steps/s": steps as f64 / time.as_secs_f64(), "KiB": kib}));
    Ok(())
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
