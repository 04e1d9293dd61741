//! `campaign NAME`: attempts to break what is promised. Most are of `tests/src/campaign`; the others have a program of
//! their own.

use crate::firmware::{self, BOARDS};
use crate::{aarch64, cargo, conformance, on_board, root, run, target, tendon};
use std::path::PathBuf;
use std::process::Command;

include!("../../tests/src/campaign/names.rs");

/// Campaigns that are not in `tests/`.
const OTHERS: &[(&str, &str)] = &[
    ("conformance", "ONNX's node tests pass, emx-onnx-cgen's (PyPI) share beside; takes no --mutate"),
    ("cost", "executed instructions stay below the bound and do not depend on the input; takes no --mutate"),
    ("onnx", "a million damaged ONNX files: no panic, <= 2 s and <= 512 MiB each; takes no --mutate"),
    ("aarch64", "images made here have the same bits on AArch64, emulated; NEON kernels; takes no --mutate"),
    ("learning", "a learned reward reaches what the true one reaches, seeds 1-5; takes no --mutate"),
];

/// `campaign --list`, or the campaign that the words name.
pub(crate) fn campaign(words: &[&str]) -> Result<(), String> {
    match words {
        ["--list"] => {
            for (name, promise) in NAMES.iter().chain(OTHERS) {
                println!("{name:<14} {promise}");
            }
            Ok(())
        }
        ["mutants"] => mutants(&[]),
        ["onnx", rest @ ..] => conformance::damaged(rest),
        ["aarch64", rest @ ..] => aarch64::campaign(rest),
        ["conformance", rest @ ..] => conformance::campaign(rest),
        ["cost", rest @ ..] => {
            let folder =
                on_board(BOARDS[0].name, |board| board.build().map(|_| ())).map(|()| firmware::folder())?;
            run(tendon(&[&["bench", "cost"], rest].concat()).env("TENDON_FIRMWARE", folder))
        }
        ["learning", rest @ ..] => run(&mut tendon(&[&["bench", "learning"], rest].concat())),
        ["all", rest @ ..] => tests(rest),
        [name, ..] if NAMES.iter().any(|(known, _)| known == name) => tests(words),
        [name, ..] => Err(format!("there is no campaign `{name}`; `cargo xtask campaign --list` names them")),
        [] => Err("campaign NAME [--short] [--mutate] [--json FILE] [--seed N], or campaign --list".into()),
    }
}

/// Campaigns of `tests/`, with the program that has every check or with the one whose checks can be removed.
fn tests(words: &[&str]) -> Result<(), String> {
    let words: Vec<&str> = words.iter().copied().filter(|word| *word != "all").collect();
    let mutate = words.contains(&"--mutate");
    let mut command = Command::new(if mutate { mutant(&[])? } else { program(&[], "campaign")? });
    let firmware = if mutate {
        firmware::mutants()?
    } else {
        let build = |board: &firmware::Board| board.build_to_inject().and_then(|_| board.build()).map(|_| ());
        on_board(BOARDS[0].name, build).map(|()| firmware::folder())?
    };
    // Relative names are the caller's.
    command.current_dir(std::env::current_dir().map_err(|error| error.to_string())?);
    run(command.args(words).env("TENDON_FIRMWARE", firmware))
}

/// Every campaign in its short form with each of its checks taken away. Prints `N passed, N failed`. `features` are those of what was
/// built before, so that its dependencies are not built again.
pub(crate) fn mutants(features: &[&str]) -> Result<(), String> {
    let (program, firmware) = (mutant(features)?, firmware::mutants()?);
    let mut missed = Vec::new();
    for (name, _) in NAMES {
        let mut command = Command::new(&program);
        command.args([name, "--short", "--mutate"]).current_dir(root()).env("TENDON_FIRMWARE", &firmware);
        let status = command.status().map_err(|error| format!("{}: {error}", program.display()))?;
        // 1: every hole found. 0: one was missed. Else: it could not run.
        if status.code() != Some(1) {
            missed.push(*name);
        }
    }
    println!("mutants: {} passed, {} failed", NAMES.len() - missed.len(), missed.len());
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "with a safety check taken away these campaigns did not find the hole: {}",
            missed.join(", ")
        ))
    }
}

fn mutant(features: &[&str]) -> Result<PathBuf, String> {
    program(&[&["--features", "tendon-tests/mutate"], features].concat(), "campaign-mutant")
}

/// Builds the program of the campaigns and keeps it under this name: both forms have the same one in cargo's eyes.
fn program(arguments: &[&str], name: &str) -> Result<PathBuf, String> {
    let mut command = cargo();
    // With a test among the targets cargo unites the features of all dependencies as for `cargo test`, and builds none of them twice.
    command.args([
        "build",
        "--release",
        "--workspace",
        "--locked",
        "--bin",
        "campaign",
        "--test",
        "campaigns",
    ]);
    command.args(arguments);
    if !arguments.is_empty() {
        command.env("TENDON_CAMPAIGN", "1");
    }
    run(&mut command)?;
    let kept = target().join(name);
    std::fs::copy(target().join("release/campaign"), &kept)
        .map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(kept)
}
