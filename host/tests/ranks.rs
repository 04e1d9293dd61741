//! Training over the ranks of a real `mpirun` (feature `mpi`).

#![cfg(feature = "mpi")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tendon_learn::Checkpoint;

/// Eight environments, one rollout of 1024 steps per iteration.
fn settings(folder: &Path, iterations: u64, more: &str) -> PathBuf {
    let file = folder.join("settings.toml");
    let text = format!(
        "total_steps = {}\nenvironments = 8\nrollout_steps = 128\nhidden = [32, 32]\ncheckpoint_interval = 2\nthreads = 1\n{more}",
        1024 * iterations
    );
    fs::write(&file, text).unwrap();
    file
}

fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ranks-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// `tendon train` on this many ranks; 1 is without `mpirun`.
fn train(ranks: usize, run: &Path, settings: &Path, more: &[&str]) -> Command {
    let mut command = if ranks == 1 {
        Command::new(env!("CARGO_BIN_EXE_tendon"))
    } else {
        let mut mpirun = mpirun();
        mpirun.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_tendon")]);
        mpirun
    };
    command.args(["train", "--task", "cart-pole", "--run"]).arg(run);
    command.arg("--config").arg(settings).args(more);
    command.stdin(Stdio::null());
    command
}

fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]);
    command.stdin(Stdio::null());
    command
}

fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn last(run: &Path) -> Checkpoint {
    Checkpoint::load_last(&run.join("checkpoints")).unwrap().unwrap()
}

fn parameters(run: &Path) -> Vec<f64> {
    last(run).any_array("network.parameters").unwrap().to_vec()
}

/// Largest difference of a parameter, as a share of the largest parameter.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).fold(0.0, f64::max);
    largest(&mut a.iter().zip(b).map(|(a, b)| a - b)) / largest(&mut a.iter().copied())
}

#[test]
fn two_and_four_ranks_learn_what_one_learns_but_for_rounding() {
    let folder = scratch("agree");
    for (learner, more, iterations, bound) in [
        ("ppo", "", 1, 1e-5),
        ("ppo", "", 3, 1e-3),
        ("ppo", "network = { kind = \"gru\", units = 16 }", 1, 1e-5),
    ] {
        let file = settings(&folder, iterations, more);
        let run = |ranks| {
            let run = folder.join(format!("{learner}-{ranks}"));
            let _ = fs::remove_dir_all(&run);
            done(train(ranks, &run, &file, &["--learner", learner]));
            run
        };
        let one = run(1);
        for ranks in [2, 4] {
            let many = run(ranks);
            let difference = difference(&parameters(&one), &parameters(&many));
            println!("{learner} {more} {iterations} iterations, {ranks} ranks: {difference:.1e}");
            assert!(difference < bound, "{difference}");
        }
    }
}
