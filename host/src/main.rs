//! The `tendon` program. Everything is in the library; here is the exit code.

use std::any::Any;
use std::panic;
use std::process::ExitCode;

/// Exit code of a program that SIGPIPE ended, as shells give it. Rust ignores that signal.
const CLOSED_PIPE: u8 = 128 + 13;

fn main() -> ExitCode {
    // `tendon ... | head` closes our standard output, and the next `println!` panics. Unwinding is right, it ends what was
    // started (QEMU, torque); the report of a bug is not.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_closed_pipe(info.payload()) {
            report(info);
        }
    }));
    match panic::catch_unwind(tendon::cli::main) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            eprintln!("tendon: {error:#}");
            ExitCode::FAILURE
        }
        Err(payload) if is_closed_pipe(&*payload) => CLOSED_PIPE.into(),
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Whether this is what `println!` panics with where nobody reads any more (EPIPE).
fn is_closed_pipe(payload: &(dyn Any + Send)) -> bool {
    payload
        .downcast_ref::<String>()
        .is_some_and(|text| text.starts_with("failed printing to") && text.ends_with("(os error 32)"))
}
