//! `bench cost`: the runtime's closed-form bound of an inference beside what QEMU counts.

use super::{Measured, print_table, write_json};
use crate::link::{ControllerKind, Serial, Session, launch};
use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use std::path::PathBuf;
use tendon_compiler::parity::{ImageRunner, random_inputs};
use tendon_compiler::sample::{Hidden, Sample, mlp, operators};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_runtime::cost::instructions;

/// Instructions per count of the board's timer.
const PER_COUNT: u64 = 40;
/// Counts that the measurement itself adds: reading the timer before and after, the interrupt of the link.
const ROUNDING: u64 = 2;

/// Dense networks with seeded sizes, then every operator's sample.
fn networks(nets: u64) -> Result<Vec<(String, bool, tendon_runtime::AlignedBytes)>> {
    let mut all = Vec::new();
    for seed in 1..=nets {
        // Sizes from the bits of a multiplicative hash: 1 to 48 inputs, one to three layers of 1 to 64.
        let hash = |place: u64| ((seed * 31 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize;
        let layers = 1 + hash(0) % 3;
        let mut sizes = vec![1 + hash(1) % 48];
        (0..layers).for_each(|layer| sizes.push(1 + hash(2 + layer as u64) % 64));
        let hidden = if hash(9) % 2 == 0 { Hidden::Relu } else { Hidden::Tanh };
        let options = Options { contract: ContractChoice::Bare, golden_vectors: 1, ..Options::default() };
        let names: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let name = format!("{} {hidden:?}", names.join("-"));
        all.push((name, true, compile(&mlp(&sizes, hidden, seed), &options)?.image));
    }
    for sample in operators() {
        let image = sample.compile()?.image;
        all.push((sample.name, false, image));
    }
    Ok(all)
}

/// Runs every network on the controller and compares.
pub(super) fn cost(nets: u64, inputs: usize, json: Option<&PathBuf>) -> Result<()> {
    let controller = launch(ControllerKind::QemuCounting)?;
    let (mut session, _) = Session::open(Serial::open(controller.port())?)?;
    let networks = networks(nets)?;
    let bar = ProgressBar::new(networks.len() as u64);
    let (mut table, mut rows) =
        (vec![["network", "counted", "bound", "bound / counted"].map(String::from).to_vec()], Vec::new());
    let mut beyond = Vec::new();
    let (mut worst_dense, mut spread): (f64, u64) = (0.0, 0);
    for (name, dense, image) in &networks {
        session.upload(image, |_| ())?;
        let runner = ImageRunner::new(image)?;
        let network = runner.policy().network;
        let n_inputs = if *dense { network.plan().n_inputs as usize } else { Sample::N_INPUTS };
        let mut counts = Vec::new();
        for input in random_inputs(n_inputs, inputs.max(1), 2) {
            counts.push(u64::from(session.infer(&input)?.1));
        }
        // An interrupt of the link may fall into an inference: the least is the network's own.
        let least = counts.iter().copied().min().unwrap_or(0);
        let most = counts.iter().copied().max().unwrap_or(0);
        spread = spread.max(most - least);
        let counted = least.saturating_sub(ROUNDING) * PER_COUNT;
        let bound = instructions(&network);
        let ratio = bound as f64 / (least.max(1) * PER_COUNT) as f64;
        if *dense && least > 25 {
            worst_dense = worst_dense.max(ratio);
        }
        if counted > bound {
            beyond.push(format!("{name}: {counted} counted, bound {bound}"));
        }
        if networks.len() < 300 || !dense {
            table.push(vec![
                name.clone(),
                (least * PER_COUNT).to_string(),
                bound.to_string(),
                format!("{ratio:.2}"),
            ]);
        }
        rows.push(Measured {
            case: name.clone(),
            metric: "bound over counted instructions".into(),
            unit: "1".into(),
            tendon: ratio,
            peers: serde_json::Map::new(),
            goal: Some(if *dense { "1 to 1.3" } else { ">= 1" }.into()),
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    print_table(&table);
    println!(
        "{} networks, {inputs} inputs each; largest bound / counted of dense networks above 1000 instructions: {worst_dense:.3}; largest spread over inputs: {} instructions (counts are good to {PER_COUNT})",
        networks.len(),
        spread * PER_COUNT
    );
    write_json(json, &rows)?;
    ensure!(beyond.is_empty(), "beyond the bound:\n  {}", beyond.join("\n  "));
    Ok(())
}
