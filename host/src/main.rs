//! The `tendon` program.

fn main() {
    if std::env::args().nth(1).as_deref() == Some("controller") {
        tendon::link::stand_in::serve().unwrap();
    }
}
