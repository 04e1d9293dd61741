//! Contracts that cross crates: what they share. The contracts themselves stand in `tests/`.

pub mod campaign;
#[path = "../../runtime/tests/examples/numbers.rs"]
mod numbers;

use std::path::{Path, PathBuf};

/// Set to 1, it makes tests write the committed files that they otherwise compare with.
pub const UPDATE: &str = "TENDON_UPDATE";

/// Root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("")).to_path_buf()
}

/// Compares `text` with the committed file `path` (from the root), or writes it where [`UPDATE`] says so.
///
/// # Panics
/// When they differ; the message names the first line that does and how to write the file.
pub fn assert_committed(path: &str, text: &str) {
    let file = root().join(path);
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    if committed != text {
        let line = committed.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
        panic!(
            "{path}, line {}: `{}` is committed, `{}` follows from the code. \
             Write it with `{UPDATE}=1 cargo test -p tendon-tests`, read the difference and commit it",
            line + 1,
            committed.lines().nth(line).unwrap_or(""),
            text.lines().nth(line).unwrap_or(""),
        );
    }
}
