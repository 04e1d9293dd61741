//! Rows of a benchmark: printed, and as JSON for docs/benchmarks.md.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;

/// One measured figure beside those of the peers.
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) tendon: f64,
    pub(crate) peers: Vec<(String, f64)>,
    pub(crate) goal: &'static str,
    /// What the setting is worth: fidelity, or what was done.
    pub(crate) note: String,
}

pub(crate) fn finish(rows: &[Row], json: Option<&Path>) -> Result<()> {
    println!("\n| case | metric | tendon | peers (ratio) | goal | note |\n|---|---|---|---|---|---|");
    for row in rows {
        let peers = row
            .peers
            .iter()
            .map(|(name, value)| format!("{name} {} ({:.2}x)", short(*value), row.tendon / value));
        let peers = peers.collect::<Vec<_>>().join(", ");
        let (case, metric, unit) = (&row.case, row.metric, row.unit);
        println!(
            "| {case} | {metric} | {} {unit} | {peers} | {} | {} |",
            short(row.tendon),
            row.goal,
            row.note
        );
    }
    println!("\nMeasured on {}.", machine());
    let Some(json) = json else { return Ok(()) };
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let peers: Map<String, Value> =
                row.peers.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
            json!({"case": row.case, "metric": row.metric, "unit": row.unit, "tendon": row.tendon,
                   "peers": peers, "goal": row.goal})
        })
        .collect();
    Ok(std::fs::write(json, serde_json::to_string_pretty(&rows)?)?)
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name);
    format!("{name}, {} cores", threads())
}
