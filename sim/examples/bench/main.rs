//! `cargo xtask bench sim | fidelity | scale | render`: speed and fidelity of the simulation beside MuJoCo and
//! Gymnasium. The peers run from the interpreter in `TENDON_MUJOCO`, which `xtask` installs.

mod fidelity;
mod gym;
mod peers;
mod pictures;
mod plot;
mod scale;
mod speed;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    let record = words.contains(&"--record");
    words.retain(|word| *word != "--record");
    let (what, json) = match words.as_slice() {
        ["steps", case] => return finish("steps", speed::steps(case)),
        ["environments", case, count] => return finish("environments", scale::environments(case, count)),
        ["frames", case] => return finish("frames", pictures::frames(case)),
        [what] => (*what, None),
        [what, "--json", file] => (*what, Some(PathBuf::from(file))),
        _ => ("", None),
    };
    let result = match what {
        "sim" => speed::run(),
        "fidelity" => fidelity::run(),
        "scale" => scale::run(),
        "render" => pictures::run(),
        _ => {
            Err("usage: bench sim|fidelity|scale|render [--json FILE] [--record], or bench steps|frames CASE"
                .into())
        }
    };
    finish(what, result.and_then(|rows| table::finish(what, &rows, json.as_deref(), record)))
}

fn finish(what: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench {what}: {error}");
            ExitCode::FAILURE
        }
    }
}
