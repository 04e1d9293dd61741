//! The `tendon` program. Everything is in the library; here is the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tendon::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tendon: {error:#}");
            ExitCode::FAILURE
        }
    }
}
