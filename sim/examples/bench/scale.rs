//! Cost per environment from 1 to 4096 environments, and memory.

use std::time::Duration;

use tendon_sim::Engine;

use crate::Result;
use crate::gym::{cases, load};
use crate::speed::steps_per_s;
use crate::table::{Row, threads};

pub(crate) fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in cases()? {
        let robot = load(&case.file, Engine::Auto)?;
        let mut first = None;
        for count in [1, 4, 16, 64, 256, 1024, 4096] {
            // One thread per environment at most: otherwise the row of one environment would time idle threads.
            let threads = threads().min(count);
            let before = resident_kib();
            let speed = steps_per_s(&robot, case.substeps, count, threads, Duration::from_secs(1))?;
            let per_step_us = 1e6 * threads as f64 / speed;
            let first = *first.get_or_insert(per_step_us);
            rows.push(Row {
                case: format!("{} x {count}", case.name),
                metric: "steps/s",
                unit: "steps/s",
                tendon: speed,
                peers: Vec::new(),
                goal: "cost per environment flat",
                note: format!(
                    "{per_step_us:.1} us of a core per step ({:.2} of one environment's); peak memory {} MiB, {} MiB before",
                    per_step_us / first,
                    peak_kib() / 1024,
                    before / 1024,
                ),
            });
        }
    }
    Ok(rows)
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn resident_kib() -> u64 {
    status("VmRSS:")
}

fn peak_kib() -> u64 {
    status("VmHWM:")
}
