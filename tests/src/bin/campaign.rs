//! `cargo xtask campaign` runs this.

use std::process::ExitCode;
use tendon_tests::campaign::{Options, main as run};

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("campaign: {problem}");
            ExitCode::from(2)
        }
    }
}
