//! `bench cost`: the runtime's closed-form bound of an inference beside what QEMU counts.

use super::{Measured, print_table, write_json};
use crate::cost::{Family, Row, Size, campaign};
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// Rows of a table; the JSON has all.
const SHOWN: usize = 12;

/// Runs every network on the controller and compares.
pub(super) fn cost(short: bool, json: Option<&PathBuf>) -> Result<()> {
    let size = if short { Size::SHORT } else { Size::LONG };
    let mut rows = campaign(&size)?;
    let measured: Vec<Measured> = rows.iter().flat_map(measured).collect();
    rows.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    for (family, what) in [(Family::Dense, "dense networks"), (Family::Mixed, "networks over all operators")]
    {
        let own: Vec<&Row> = rows.iter().filter(|row| row.family == family).collect();
        let head = ["instructions", "bound", "bound / counted", "spread", "inputs", "network"];
        let mut table = vec![head.map(String::from).to_vec()];
        let (first, last) =
            (own.iter().take(SHOWN), own.iter().skip(SHOWN.max(own.len().saturating_sub(SHOWN))));
        table.extend(first.chain(last).map(|row| {
            let spread = format!("{:.0}", row.spread);
            let figures =
                [format!("{:.0}", row.counted), row.bound.to_string(), format!("{:.3}", row.ratio()), spread];
            [figures.to_vec(), vec![row.inputs.to_string(), row.name.clone()]].concat()
        }));
        println!("{} {what}, the loosest and the tightest bounds:", own.len());
        print_table(&table);
    }
    let most = |pick: &dyn Fn(&Row) -> f64| rows.iter().map(pick).fold(0.0, f64::max);
    let dense = |row: &Row| if row.family == Family::Dense { row.ratio() } else { 0.0 };
    let inputs: usize = rows.iter().map(|row| row.inputs).sum();
    println!(
        "{} networks, {inputs} inferences: bit for bit this computer's outputs; largest bound / counted of dense networks {:.3}; \
         largest spread over inputs {:.0} instructions to one, {:.0} to 40",
        rows.len(),
        most(&dense),
        most(&|row| row.spread),
        most(&|row| row.coarse_spread as f64)
    );
    write_json(json, &measured)?;
    let faults: Vec<String> = rows.iter().filter_map(Row::fault).collect();
    ensure!(faults.is_empty(), "{} networks beyond:\n  {}", faults.len(), faults.join("\n  "));
    Ok(())
}

fn measured(row: &Row) -> [Measured; 3] {
    let dense = row.family == Family::Dense;
    let make = |metric: &str, unit: &str, value: f64, goal: serde_json::Value| Measured {
        case: row.name.clone(),
        metric: metric.into(),
        unit: unit.into(),
        tendon: value,
        peers: serde_json::Map::new(),
        goal: Some(goal),
    };
    [
        make(
            "bound over counted instructions",
            "1",
            row.ratio(),
            if dense { "1 to 1.3" } else { ">= 1" }.into(),
        ),
        make("instructions", "instructions", row.counted, row.bound.into()),
        make("spread over inputs", "instructions", row.spread, 0.into()),
    ]
}
