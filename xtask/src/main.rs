//! Automation of the repository: `cargo xtask setup | test | lint | docs | firmware build|run | bench NAME |
//! campaign NAME | stack | timing`. Needs nothing but the standard library and `tendon-bounds`, which needs nothing
//! else, so that it starts at once.

mod aarch64;
mod campaign;
mod conformance;
mod firmware;
mod packages;
mod stack;

use firmware::{BOARDS, Board};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND
  setup                     install what is missing (as root), or print the command that does
  test                      setup, build the firmware of every board, run every test
  test --viewer             build the program with the feature `viewer` and read its Rerun recordings back
  lint                      rustfmt and clippy
  docs                      write the generated parts of docs/ again
  firmware build [--board NAME | --list]   build the firmware of every board, or of one
  firmware run [--board NAME]   run it in QEMU; prints the serial port
  stack [--json FILE]       worst stack of each firmware, derived from its ELF; no panic and no heap in it
  timing                    response-time analysis of the firmware's tasks, into docs/timing.md
  bench host [--json FILE]  latency of one inference on this computer, against tract and onnxruntime (PyPI)
  bench ppo [--case NAME] [--seeds N] [--peer-rows FILE] [--json FILE]   PPO to a return, against Stable-Baselines3 (PyPI)
  bench mcu [--json FILE]   instructions per inference in QEMU, and emx-onnx-cgen's (PyPI, gcc-arm-none-eabi)
  bench sim [--json FILE]   environment steps/s, against gymnasium's vector environments and mujoco.rollout (PyPI)
  bench fidelity [--json FILE]   the same files stepped by MuJoCo and by us; plots into docs/fidelity
  bench scale [--json FILE] steps/s and memory from 1 to 4096 environments
  bench render [--json FILE]   frames/s at 64x64, against MuJoCo's off-screen renderer on the processor (EGL)
  bench train [--json FILE] [--flex] [--compile] [--only TEXT]   gradient samples per second, against PyTorch (PyPI,
                            5 GB; TENDON_TORCH names an interpreter that has it) and, with --flex, burn-flex
  bench ranks [--json FILE] what training over MPI exchanges, on 1, 2 and 4 ranks; the plan of docs/scale.md
  bench sim2sim [--json FILE]   the Go1 of ../shared/real: MuJoCo, in process, QEMU controller
  campaign NAME [--short] [--mutate] [--json FILE] [--seed N]   tries to break a promise; --mutate: with the
                            check taken away that it rests on, the campaign has to find the hole (and fail)
  campaign mutants          every campaign with each of its checks taken away, short form
  campaign --list           names of the campaigns and what each promises";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["setup"] => packages::setup(),
        ["test"] => test(),
        ["test", "--viewer"] => test_viewer(),
        ["lint"] => lint(),
        ["docs"] => docs(),
        ["firmware", "build"] => built().map(|_| ()),
        ["firmware", "build", "--list"] => {
            firmware::list();
            Ok(())
        }
        ["firmware", "build", "--board", name] => on_board(name, |board| board.build().map(|_| ())),
        ["firmware", "run"] => run_in_qemu(BOARDS[0].name),
        ["firmware", "run", "--board", name] => run_in_qemu(name),
        ["stack"] => built().and_then(|elves| stack::check(&elves, None)),
        ["stack", "--json", file] => built().and_then(|elves| stack::check(&elves, Some(file.as_ref()))),
        ["timing"] => timing(),
        ["bench", "host", rest @ ..] => bench_host(rest),
        ["bench", "ppo", rest @ ..] => bench_ppo(rest),
        ["bench", name @ ("sim" | "fidelity" | "scale" | "render"), rest @ ..] => bench_sim(name, rest),
        ["bench", "train", rest @ ..] => bench_train(rest),
        ["bench", "ranks", rest @ ..] => bench_ranks(rest),
        ["bench", name @ ("mcu" | "sim2sim"), rest @ ..] => bench(name, rest),
        ["campaign", rest @ ..] => campaign::campaign(rest),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("unknown command `{}`\n{USAGE}", words.join(" "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Target folder that every step shares.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command in the repository and says which one failed.
fn run(command: &mut Command) -> Result<(), String> {
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    eprintln!("+ {}", shown(command));
    let status = command.status().map_err(|error| format!("cannot start `{}`: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` ended with {status}", shown(command))) }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Whether a program can be started.
fn is_there(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The ELF of every board, built with what that needs.
fn built() -> Result<Vec<PathBuf>, String> {
    packages::setup()?;
    BOARDS.iter().map(Board::build).collect()
}

fn on_board(name: &str, what: impl FnOnce(&Board) -> Result<(), String>) -> Result<(), String> {
    let board = firmware::board(name)?;
    packages::setup().and_then(|()| what(board))
}

fn test() -> Result<(), String> {
    stack::check(&built()?, None)?;
    drivers_do_not_panic()?;
    stack::refuses(&BOARDS[0].build_to_inject()?)?;
    if let Err(problem) = conformance::cases() {
        eprintln!(
            "SKIPPED: the ONNX node tests cannot be made (python3 with venv, network to PyPI): {problem}"
        );
    }
    packages::mpi()?;
    let mut command = cargo();
    if is_there("cargo-nextest", "--version") {
        command.args(["nextest", "run"]);
    } else {
        command.arg("test");
    }
    command.args(["--release", "--workspace", "--locked", "--features", "mpi"]);
    run(command.env("TENDON_FIRMWARE", firmware::folder()))?;
    // What the campaigns of the tests found held: now with each safety check taken away.
    campaign::mutants(&["--features", "mpi"])
}

/// Apart from the other tests: rerun changes the features of crates below everything here, which are then compiled once
/// more (about half an hour on two cores, 4 GB).
fn test_viewer() -> Result<(), String> {
    run(cargo().args([
        "test",
        "--release",
        "--locked",
        "-p",
        "tendon",
        "--features",
        "viewer",
        "--test",
        "viewer",
    ]))
}

/// Links the joint drivers so that a reachable panic is an undefined symbol.
fn drivers_do_not_panic() -> Result<(), String> {
    let mut command = cargo();
    command.args(["build", "--release", "--locked"]).env("CARGO_TARGET_DIR", target().join("no-panic"));
    run(command.current_dir(root().join("drivers/no-panic")))
        .map_err(|error| format!("{error}; `a_panic_is_reachable` above means that a driver can panic"))
}

/// Runs a board's firmware in QEMU until it is interrupted; its flash is in the file `TENDON_FLASH`, if that is set.
fn run_in_qemu(name: &str) -> Result<(), String> {
    let board = firmware::board(name)?;
    if !board.is_emulated() {
        return Err(format!("{name}: QEMU does not have this board; docs/boards.md says how to flash it"));
    }
    packages::setup()?;
    board.build()?;
    run(tendon(&["controller", name]).env("TENDON_FIRMWARE", firmware::folder()))
}

fn lint() -> Result<(), String> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

fn docs() -> Result<(), String> {
    run(cargo().args(["test", "--release", "--locked", "-p", "tendon-tests"]).env("TENDON_UPDATE", "1"))
}

/// The response-time analysis into docs/timing.md; an error where it does not hold.
fn timing() -> Result<(), String> {
    built()?;
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--locked",
        "-p",
        "tendon-tests",
        "--test",
        "timing",
        "--",
        "--nocapture",
    ]);
    run(command.env("TENDON_UPDATE", "1").env("TENDON_FIRMWARE", firmware::folder()))
}

/// The `tendon` program with arguments.
fn tendon(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "tendon", "--"]).args(arguments);
    command
}

fn bench(name: &str, rest: &[&str]) -> Result<(), String> {
    on_board(BOARDS[0].name, |board| board.build().map(|_| ()))?;
    let mut command = tendon(&[&["bench", name], rest].concat());
    if name == "mcu" {
        packages::cross_compiler()?;
        command.arg("--peer").arg(conformance::emx()?);
    }
    run(command.env("TENDON_FIRMWARE", firmware::folder()))
}

/// Without onnxruntime where it cannot be installed; the command says so.
fn bench_host(rest: &[&str]) -> Result<(), String> {
    let mut command = tendon(&[&["bench", "host"], rest].concat());
    match conformance::environment("ort", &[format!("onnxruntime=={ONNXRUNTIME}")]) {
        Ok(python) => command.env("TENDON_ORT", python),
        Err(problem) => {
            eprintln!("SKIPPED: onnxruntime (python3 with venv, network to PyPI): {problem}");
            &mut command
        }
    };
    run(&mut command)
}

/// Without the peer where it cannot be installed (then without Hopper, whose MJCF comes with it).
fn bench_ppo(rest: &[&str]) -> Result<(), String> {
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "tendon-learn", "--example", "bench_ppo", "--"]);
    command.args(rest);
    match conformance::environment("sb3", &SB3.map(String::from)) {
        Ok(python) => command.env("TENDON_SB3", python),
        Err(problem) => {
            eprintln!("SKIPPED: Stable-Baselines3 (python3 with venv, network to PyPI): {problem}");
            &mut command
        }
    };
    run(&mut command)
}

/// Releases that `bench ppo` measures.
const SB3: [&str; 2] = ["stable-baselines3==2.9.0", "gymnasium[mujoco]==1.4.0"];
/// Simulation beside MuJoCo and Gymnasium.
fn bench_sim(name: &str, rest: &[&str]) -> Result<(), String> {
    if name == "render" {
        packages::off_screen()?;
    }
    let python = conformance::environment("mujoco", &MUJOCO.map(String::from))?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "--workspace", "--example", "bench", "--", name]);
    run(command.args(rest).env("TENDON_MUJOCO", python))
}

/// Releases that `bench sim`, `fidelity` and `render` measure against.
const MUJOCO: [&str; 5] = ["mujoco==4.0.0", "gymnasium==1.4.0", "imageio", "numpy", "packaging"];

/// Starts `mpirun` itself.
fn bench_ranks(rest: &[&str]) -> Result<(), String> {
    packages::mpi()?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "--workspace", "--features", "mpi"]);
    run(command.args(["--example", "bench_ranks", "--"]).args(rest))
}

/// Without PyTorch where it cannot be installed; the table says so.
fn bench_train(rest: &[&str]) -> Result<(), String> {
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "tendon-nn", "--example", "bench_train", "--"]);
    match std::env::var_os("TENDON_TORCH").map_or_else(
        || conformance::environment("torch", &[format!("torch=={TORCH}"), "numpy".into()]),
        |p| Ok(p.into()),
    ) {
        Ok(python) => {
            command.arg("--torch").arg(python);
        }
        Err(problem) => eprintln!("SKIPPED: PyTorch (python3 with venv, network to PyPI): {problem}"),
    }
    run(command.args(rest))
}

/// Release that `bench train` measures.
const TORCH: &str = "2.15.0";

/// Release that `bench host` measures.
const ONNXRUNTIME: &str = "1.32.0";
