//! `cargo xtask campaign` runs this.

use std::process::ExitCode;
use tendon_tests::campaign::program;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match program(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("campaign: {problem}");
            ExitCode::from(2)
        }
    }
}
