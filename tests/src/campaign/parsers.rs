//! Contracts and recordings that somebody damaged, or wrote in bad faith. ONNX has `cargo xtask campaign onnx`, images
//! have `images`.

use super::images::peak_mib;
use super::world::framed;
use super::{Campaign, Run};
use fastrand::Rng;
use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tendon::recording::Recording;
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::{ContractChoice, Model, contract_of};
use tendon_runtime::spec::{CompiledContract, ContractSpec};
use tendon_runtime::{RawState, State};
use tendon_wire::message::{Action, Message};
use tendon_wire::mutation::Check;

pub(super) const PARSERS: Campaign =
    Campaign { name: "parsers", gates: &[24], guards: &[Check::FrameCrc], run: parsers };

/// Mutants of one batch, which one thread takes.
const BATCH: u64 = 500;
const CONTRACTS: [(&str, &str); 3] = [
    ("g1_velocity.toml", include_str!("../../../models/contracts/g1_velocity.toml")),
    ("go1_joystick.toml", include_str!("../../../models/contracts/go1_joystick.toml")),
    ("servo_arm.toml", include_str!("../../../models/contracts/servo_arm.toml")),
];
/// What stands in place of a value, or between two lines.
const WORDS: [&str; 24] = [
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-0.0",
    "1e-45",
    "3.5e38",
    "4294967296",
    "-1",
    "0",
    "9223372036854775807",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "true",
    "\"\u{fffd}\"",
    "\"\\u0000\"",
    "1979-05-27",
    "[joints]",
    "[[joints]]",
    "[joint_defaults]",
    "= =",
    "\"\"\"",
];

/// What a batch of mutants came to.
#[derive(Default)]
pub(super) struct Tally {
    read: AtomicU64,
    panics: AtomicU64,
    longest_us: AtomicU64,
}

impl Tally {
    /// One mutant; whether it was read as something that holds.
    pub(super) fn one(&self, f: impl FnOnce() -> bool) {
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(read) => _ = self.read.fetch_add(u64::from(read), Ordering::Relaxed),
            Err(_) => _ = self.panics.fetch_add(1, Ordering::Relaxed),
        }
        self.longest_us.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }
}

/// Runs `mutant` so often, in the same batches on any number of threads.
pub(super) fn many(run: &Run, total: u64, salt: u64, mutant: impl Fn(&mut Rng, &Tally) + Sync) -> Tally {
    let tally = Tally::default();
    let batches: Vec<u64> = (0..total.div_ceil(BATCH)).collect();
    let step = batches.len().div_ceil(50).max(1);
    for (done, part) in batches.chunks(step).enumerate() {
        part.par_iter().for_each(|&batch| {
            let mut rng = Rng::with_seed(run.seed << 40 | salt << 32 | batch);
            (0..BATCH).for_each(|_| mutant(&mut rng, &tally));
        });
        run.progress((done + 1) as u64, batches.len().div_ceil(step) as u64);
    }
    tally
}

fn parsers(run: &mut Run) -> Result<(), String> {
    let total = run.amount(1_000_000, 20_000);
    let models = CONTRACTS.map(|(file, text)| {
        // The graph does not matter to a TOML that says everything.
        let model =
            Model::from_bytes(&mlp(&[8, 4, 2], Hidden::Tanh, 1)).map_err(|error| error.to_string())?;
        let choice = ContractChoice::Toml { file, text };
        let spec = contract_of(&model, choice).map_err(|error| format!("{file}: {error}"))?;
        Ok::<_, String>((model, spec.ok_or(file)?.to_json()))
    });
    let models = models.into_iter().collect::<Result<Vec<_>, _>>()?;
    let tally = many(run, total, 1, |rng, tally| {
        let index = rng.usize(..CONTRACTS.len());
        let (file, text) = CONTRACTS[index];
        let (model, json) = &models[index];
        if rng.u8(..4) == 0 {
            let text = change(json, rng);
            tally.one(|| ContractSpec::from_json(&text).is_ok_and(|spec| spec.compile().is_ok()));
        } else {
            let text = change(text, rng);
            let choice = ContractChoice::Toml { file, text: &text };
            tally.one(|| matches!(contract_of(model, choice), Ok(Some(spec)) if spec.compile().is_ok()));
        }
    });
    report(run, "contracts, TOML and JSON", total, &tally);

    let (_, json) = &models[1];
    let spec = ContractSpec::from_json(json).map_err(|error| error.to_string())?;
    let compiled = spec.compile().map_err(|error| error.to_string())?;
    let wrong = AtomicU64::new(0);
    let tally = many(run, total, 2, |rng, tally| {
        let (bytes, written) = recording(&spec, &compiled, rng);
        tally.one(|| {
            let recording = Recording::parse(&bytes);
            // By their bytes: NaN is not equal to itself.
            let unknown = recording.messages.iter().filter(|message| !written.contains(&framed(message, 0)));
            let believed = unknown.count();
            wrong.fetch_add(believed as u64, Ordering::Relaxed);
            let rows = recording.observations(&compiled.view());
            let n = compiled.view().header.n_observation as usize;
            assert!(rows.iter().all(|row| row.len() == n && row.iter().all(|v| v.is_finite())));
            !rows.is_empty()
        });
    });
    report(run, "recordings", total, &tally);
    let wrong = wrong.into_inner();
    run.none(
        "recordings: messages read that were never written",
        "messages",
        wrong,
        Some("see --seed".into()),
    );
    run.at_most("most memory of the whole campaign", "MiB", peak_mib(), 512.0);
    Ok(())
}

pub(super) fn report(run: &mut Run, what: &str, total: u64, tally: &Tally) {
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    run.count(format!("{what}: mutants"), "files", total as f64);
    run.at_least(format!("{what}: read, and hold"), "files", of(&tally.read) as f64, total as f64 / 100.0);
    run.none(format!("{what}: panics"), "files", of(&tally.panics), Some("see the panic above".into()));
    run.at_most(format!("{what}: longest"), "s", of(&tally.longest_us) as f64 / 1e6, 2.0);
}

/// One to four changes of a text: values, lines, bytes, its end.
pub(super) fn change(text: &str, rng: &mut Rng) -> String {
    let mut text = text.to_owned();
    for _ in 0..rng.u8(1..=4) {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.is_empty() {
            break;
        }
        let at = rng.usize(..lines.len());
        match rng.u8(..8) {
            0 => _ = lines.remove(at),
            1 => lines.insert(at, lines[rng.usize(..lines.len())].clone()),
            2 => {
                let other = rng.usize(..lines.len());
                lines.swap(at, other);
            }
            3 => lines.insert(at, WORDS[rng.usize(..WORDS.len())].to_owned()),
            4 => lines.truncate(at),
            // Up to beyond the longest contract that is read.
            5 => lines[at] = lines[at].repeat(rng.usize(..40).min((2 << 20) / lines[at].len().max(1))),
            _ => {
                // A value or a part of one.
                let line = &lines[at];
                let places: Vec<usize> =
                    line.match_indices([' ', ',', '[', ':']).map(|(i, _)| i + 1).collect();
                if !places.is_empty() {
                    let from = places[rng.usize(..places.len())];
                    let rest = line[from..].find([',', ']', '}']).map_or(line.len(), |end| from + end);
                    let word = match rng.u8(..3) {
                        0 => format!("{}", f64::from_bits(rng.u64(..))),
                        1 => rng.i64(..).to_string(),
                        _ => WORDS[rng.usize(..WORDS.len())].to_owned(),
                    };
                    lines[at] = format!("{}{word}{}", &line[..from], &line[rest..]);
                }
            }
        }
        text = lines.join("\n");
        if rng.u8(..8) == 0 {
            let mut bytes = text.into_bytes();
            for _ in 0..rng.u8(1..8) {
                if !bytes.is_empty() {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = rng.u8(..);
                }
            }
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    text
}

fn values<const N: usize>(rng: &mut Rng, usual: usize) -> heapless::Vec<f32, N> {
    let n = if rng.u8(..16) == 0 { rng.usize(..=N) } else { usual.min(N) };
    let value = |rng: &mut Rng| match rng.u8(..64) {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => f32::from_bits(rng.u32(..)),
        _ => rng.f32() - 0.5,
    };
    (0..n).map(|_| value(rng)).collect()
}

/// A few ticks with any numbers and any counts in good frames, then damaged in places; and what was written.
fn recording(spec: &ContractSpec, compiled: &CompiledContract, rng: &mut Rng) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (joints, actions) = (spec.joints.len(), compiled.view().actions.len());
    let (mut bytes, mut written) = (Vec::new(), Vec::new());
    for sequence in 0..rng.u32(1..8) {
        let state = RawState {
            sequence,
            time_us: rng.u64(..),
            base_orientation: [1.0, 0.0, 0.0, 0.0],
            joint_position: values(rng, joints),
            joint_velocity: values(rng, joints),
            command: values(rng, spec.commands.len()),
            preference: values(rng, spec.preferences.len()),
            sensors: values(rng, spec.sensors.len()),
            ..RawState::default()
        };
        let state_code = if rng.bool() { State::Running as u8 } else { rng.u8(..) };
        let action =
            Action { sequence, state: state_code, proposed: values(rng, actions), ..Action::default() };
        for message in [Message::from(state), Message::from(action)] {
            bytes.extend(framed(&message, rng.u16(..)));
            written.push(framed(&message, 0));
        }
    }
    if rng.u8(..4) > 0 {
        for _ in 0..rng.u8(1..4) {
            let at = rng.usize(..bytes.len());
            match rng.u8(..5) {
                0 => bytes[at] ^= 1 << rng.u8(..8),
                1 => bytes[at] = 0,
                2 => bytes.truncate(at.max(1)),
                3 => _ = bytes.remove(at.min(bytes.len() - 1)),
                _ => {
                    let end = (at + rng.usize(..100)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let place = rng.usize(..bytes.len());
                    bytes.splice(place..place, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
    }
    (bytes, written)
}
