//! Policy images that were changed by somebody who knows their layout.

use super::world::cart_pole;
use super::{Campaign, Run};
use fastrand::Rng;
use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_wire::mutation::Check;

#[allow(unreachable_pub, dead_code, reason = "the tests of the runtime use the same file")]
#[path = "../../../runtime/tests/examples/image_mutants.rs"]
mod mutants;

use mutants::{Room, one_mutant};

pub(super) const IMAGES: Campaign =
    Campaign { name: "images", gates: &[16, 24], guards: &[Check::ImageCrc], run: images };

/// Mutants of one batch, which one thread takes.
const BATCH: u64 = 2000;

/// What is admitted runs and keeps to what an admitted image may do; the rest is refused; nothing panics.
fn images(run: &mut Run) -> Result<(), String> {
    let total = run.amount(1_000_000, 60_000);
    let bare = compile(
        &mlp(&[6, 16, 3], Hidden::Relu, 1),
        &Options { contract: ContractChoice::Bare, ..Options::default() },
    );
    let bare = bare.map_err(|error| error.to_string())?.image;
    let seeds = [cart_pole(1)?.0, bare];
    let (admitted, unsealed, panics) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let longest_us = AtomicU64::new(0);
    let batches: Vec<u64> = (0..total.div_ceil(BATCH)).collect();
    let step = batches.len().div_ceil(50).max(1);
    let seed = run.seed;
    for (done, part) in batches.chunks(step).enumerate() {
        part.par_iter().for_each_init(Room::new, |room, &batch| {
            let mut rng = Rng::with_seed(seed << 32 | batch);
            for mutant in 0..BATCH {
                let image = &seeds[usize::from(mutant % 8 == 0)];
                let start = Instant::now();
                let judged = catch_unwind(AssertUnwindSafe(|| one_mutant(image, room, &mut rng)));
                longest_us.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
                match judged {
                    Ok(None) => {}
                    Ok(Some(is_wrong)) => {
                        admitted.fetch_add(1, Ordering::Relaxed);
                        unsealed.fetch_add(u64::from(is_wrong), Ordering::Relaxed);
                    }
                    Err(_) => {
                        panics.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        run.progress((done + 1) as u64, batches.len().div_ceil(step) as u64);
    }
    run.count("mutants of two policy images", "images", (batches.len() as u64 * BATCH) as f64);
    let admitted = admitted.into_inner();
    run.at_least("of them admitted, and run", "images", admitted as f64, total as f64 / 100.0);
    let what = || Some("see the panic above".into());
    run.none("panics, or admitted images that break a promise", "images", panics.into_inner(), what());
    let what = Some("a changed image with its old checksum was admitted".into());
    run.none("admitted with a wrong checksum", "images", unsealed.into_inner(), what);
    run.at_most("longest", "s", longest_us.into_inner() as f64 / 1e6, 2.0);
    run.at_most("most memory of the whole campaign", "MiB", peak_mib(), 512.0);
    Ok(())
}

/// The most memory that this process ever had, MiB; NaN where the system does not say.
pub(super) fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
