//! The `tendon` program.
fn main() {}
