//! The official ONNX node tests through compiler and runtime; `docs/conformance.md` is written from them.
//!
//! A test of this package, not a program, so that it needs nothing beyond what the compiler's tests build, and
//! `cargo xtask test` runs it with them. The cases lie in the folder that `TENDON_ONNX_NODES` names, else in
//! `target/peers/onnx-node-*`; `cargo xtask campaign conformance` makes them and sets
//!
//! ```text
//! TENDON_EMX               JSON of tests/conformance/emx.py, for the column beside ours
//! TENDON_CONFORMANCE_JSON  file for the verdict of every case
//! TENDON_CONFORMANCE_DOC   file for the report
//! TENDON_MUTATIONS         damaged files per case, and TENDON_SEED (`cargo xtask campaign onnx`)
//! TENDON_DAMAGED_JSON      file for their figures
//! TENDON_DAMAGED           folder for those that are no error and no network
//! ```

#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/mutate.rs"]
mod mutate;
#[path = "conformance/report.rs"]
mod report;
#[path = "conformance/scope.rs"]
mod scope;

use std::path::PathBuf;

fn target() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// The newest folder of cases, by the version in its name.
fn cases() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("TENDON_ONNX_NODES") {
        return Some(folder.into());
    }
    let entries = std::fs::read_dir(target().join("peers")).ok()?;
    let folders = entries.flatten().map(|entry| entry.path());
    folders
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("onnx-node-")))
        .max()
}

/// Names of the cases in a folder, sorted.
fn names(folder: &std::path::Path) -> Vec<String> {
    let only = std::env::var("TENDON_ONNX_CASE").ok();
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| only.as_ref().is_none_or(|only| name.contains(only)))
        .collect();
    names.sort();
    names
}

/// The folder of cases, or a line that says that there is none.
fn cases_or_skip() -> Option<PathBuf> {
    let folder = cases().filter(|folder| folder.is_dir());
    if folder.is_none() {
        println!(
            "SKIPPED: no ONNX node tests in target/peers (`cargo xtask campaign conformance` makes them)"
        );
    }
    folder
}

#[test]
fn damaged_cases_are_refused_or_run() {
    let Some(folder) = cases_or_skip() else { return };
    let rounds = std::env::var("TENDON_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2);
    let seed = std::env::var("TENDON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut picks = mutate::Picks(seed);
    let (mut failed, mut ran, mut tried, mut worst) = (Vec::new(), 0, 0, mutate::Worst::default());
    for name in names(&folder) {
        let case = case::Case::read(&folder, &name).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        for _ in 0..rounds {
            tried += 1;
            match mutate::damaged(&case, &mut picks, &mut worst) {
                Ok(whole) => ran += usize::from(whole),
                Err(problem) => failed.push(format!("{name}: {problem}")),
            }
        }
    }
    let (seconds, mib) = (worst.seconds, worst.bytes >> 20);
    println!(
        "{tried} damaged files, {ran} still compile and run, {} panicked or worse; at most {seconds:.2} s of the processor and \
         {mib} MiB resident in the process",
        failed.len()
    );
    if let Some(file) = std::env::var_os("TENDON_DAMAGED_JSON") {
        let row = |metric: &str, unit: &str, value: f64, goal: f64| {
            format!(
                r#"{{"case":"damaged ONNX files","metric":"{metric}","unit":"{unit}","tendon":{value},"peers":{{}},"goal":{goal}}}"#
            )
        };
        let rows = [
            row("files", "files", f64::from(tried), 1e6),
            row("panics, wrong results and files over a limit", "files", failed.len() as f64, 0.0),
            row("slowest file", "s", seconds, 2.0),
            row("largest resident memory", "MiB", mib as f64, 512.0),
        ];
        std::fs::write(&file, format!("[\n{}\n]\n", rows.join(",\n")))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    assert!(failed.is_empty(), "{} of {tried} damaged files:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_case_in_scope_passes() {
    let Some(folder) = cases_or_skip() else { return };
    let (mut results, names) = (Vec::new(), names(&folder));
    for name in &names {
        match case::Case::read(&folder, name) {
            Ok(case) => results.push(case::judged(&case, &folder, &names)),
            Err(problem) => panic!("{name}: {problem}: make the cases again"),
        }
    }
    let emx =
        std::env::var_os("TENDON_EMX").map_or_else(|| target().join("peers/emx-1.4.0.json"), PathBuf::from);
    let text = report::report(&results, &folder, &emx);
    if let Some(file) = std::env::var_os("TENDON_CONFORMANCE_DOC") {
        std::fs::write(&file, &text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    if let Some(file) = std::env::var_os("TENDON_CONFORMANCE_JSON") {
        let json = report::json(&results);
        std::fs::write(&file, json).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    println!("{}", report::totals(&results));
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.verdict.is_fine() && scope::known(&result.name).is_none())
        .map(|result| format!("{}: {}", result.name, result.verdict))
        .collect();
    assert!(failed.is_empty(), "{} cases in scope do not pass:\n{}", failed.len(), failed.join("\n"));
    assert!(!results.is_empty(), "{} has no cases", folder.display());
}
