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

/// Prints the rows, writes them as JSON, and with `record` puts the table into docs/benchmarks.md.
pub(crate) fn finish(name: &str, rows: &[Row], json: Option<&Path>, record: bool) -> Result<()> {
    let mut text =
        String::from("| case | tendon / peer | tendon | peers | goal | note |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let each = |show: &dyn Fn(&str, f64) -> String| {
            row.peers.iter().map(|(name, value)| show(name, *value)).collect::<Vec<_>>().join(", ")
        };
        let ratios = each(&|name, value| format!("{:.2}x {name}", row.tendon / value));
        let values = each(&|name, value| format!("{name} {}", short(value)));
        let (case, metric, unit, goal, note) = (&row.case, row.metric, row.unit, row.goal, &row.note);
        let figure = if metric == unit { metric.to_owned() } else { format!("{unit} {metric}") };
        text +=
            &format!("| {case} | {ratios} | {} {figure} | {values} | {goal} | {note} |\n", short(row.tendon));
    }
    text += &format!("\nMeasured on {} by `cargo xtask bench {name}`.\n", machine());
    println!("\n{text}");
    if record {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md"));
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let document = std::fs::read_to_string(file)?;
        let parts =
            document.split_once(&start).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let (before, after) =
            parts.ok_or("docs/benchmarks.md: no place for this table; restore its comment lines")?;
        std::fs::write(file, format!("{before}{start}{text}{end}{after}"))?;
    }
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
