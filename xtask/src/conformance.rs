//! The official ONNX node tests: their files, the peer's verdicts on them, and our own.

use crate::{cargo, root, run, target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Release of onnx whose node tests are run.
const ONNX: &str = "1.23.2";
/// The peer beside ours.
const EMX: &str = "1.4.0";

fn peers() -> PathBuf {
    target().join("peers")
}

/// The interpreter of a virtual environment that has these packages.
pub(crate) fn environment(name: &str, packages: &[String]) -> Result<PathBuf, String> {
    let folder = peers().join(name);
    let (python, done) = (folder.join("bin/python"), folder.join("installed"));
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    std::fs::write(&done, wanted).map_err(|error| format!("{}: {error}", done.display()))?;
    Ok(python)
}

/// The folder of node tests; made when it is not there (python3 with venv, network to PyPI).
pub(crate) fn cases() -> Result<PathBuf, String> {
    let folder = peers().join(format!("onnx-node-{ONNX}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(peers()).map_err(|error| format!("{}: {error}", peers().display()))?;
    let python = environment("onnx", &[format!("onnx=={ONNX}")])?;
    // Under another name until it is whole.
    let partial = peers().join("onnx-node.partial");
    let _ = std::fs::remove_dir_all(&partial);
    run(Command::new(python).arg(root().join("tests/conformance/data.py")).arg(&partial))?;
    std::fs::rename(&partial, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The peer itself; installed when it is not there (python3 with venv, network to PyPI).
pub(crate) fn emx() -> Result<PathBuf, String> {
    let python = environment("emx", &[format!("emx-onnx-cgen=={EMX}"), format!("onnx=={ONNX}")])?;
    Ok(python.with_file_name("emx-onnx-cgen"))
}

/// What the peer makes of the cases. Goes on where it was interrupted; the whole takes about half an hour.
fn peer(cases: &Path) -> Result<PathBuf, String> {
    let verdicts = peers().join(format!("emx-{EMX}.json"));
    let python = emx()?.with_file_name("python");
    run(Command::new(python).arg(root().join("tests/conformance/emx.py")).arg(cases).arg(&verdicts))?;
    Ok(verdicts)
}

/// Damaged ONNX files, about a million, or fewer in the short form.
pub(crate) fn damaged(rest: &[&str]) -> Result<(), String> {
    let (mut rounds, mut json, mut seed) = ("531", None, "1");
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match (*word, words.as_slice().first()) {
            ("--short", _) => rounds = "5",
            ("--json", Some(file)) => {
                json = Some(std::env::current_dir().unwrap_or_default().join(file));
                words.next();
            }
            ("--seed", Some(number)) => {
                seed = number;
                words.next();
            }
            _ => {
                return Err(format!(
                    "campaign onnx [--short] [--json FILE] [--seed N], not `{}`",
                    rest.join(" ")
                ));
            }
        }
    }
    let cases = cases()?;
    let mut command = test("damaged_cases");
    command.env("TENDON_ONNX_NODES", cases).env("TENDON_MUTATIONS", rounds).env("TENDON_SEED", seed);
    if let Some(json) = json {
        command.env("TENDON_DAMAGED_JSON", json);
    }
    run(&mut command)
}

/// One of the tests of the cases, with the features of all tests, so that nothing is built twice.
fn test(name: &str) -> Command {
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--workspace",
        "--locked",
        "--test",
        "conformance",
        "--",
        "--nocapture",
        name,
    ]);
    command
}

/// All cases through compiler and runtime, the peer's share beside them; writes `docs/conformance.md`.
pub(crate) fn campaign(rest: &[&str]) -> Result<(), String> {
    let (short, rest) = match rest {
        ["--short", rest @ ..] => (true, rest),
        [rest @ .., "--short"] => (true, rest),
        rest => (false, rest),
    };
    let json = match rest {
        [] => None,
        ["--json", file] => Some(std::env::current_dir().unwrap_or_default().join(file)),
        _ => return Err(format!("campaign conformance [--short] [--json FILE], not `{}`", rest.join(" "))),
    };
    let cases = cases()?;
    let mut command = test("every_case");
    command.env("TENDON_ONNX_NODES", &cases);
    // The tests' form: every case, without the peer and without writing the document.
    if !short {
        command.env("TENDON_EMX", peer(&cases)?);
        command.env("TENDON_CONFORMANCE_DOC", root().join("docs/conformance.md"));
    }
    if let Some(json) = json {
        command.env("TENDON_CONFORMANCE_JSON", json);
    }
    run(&mut command)
}
