//! Puts the linker scripts of the chosen board where the linker finds them.

use std::{env, fs, path::PathBuf};

/// Boards, as features of Cargo.toml name them, and their memory maps.
const BOARDS: [(&str, &str); 5] = [
    ("qemu-an386", "mps2"),
    ("qemu-an500", "mps2"),
    ("qemu-an505", "mps2-an505"),
    ("nucleo-h743zi", "nucleo-h743zi"),
    ("pico2", "pico2"),
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let is_on = |name: &str| {
        env::var_os(format!("CARGO_FEATURE_{}", name.replace('-', "_").to_uppercase())).is_some()
    };
    let mut chosen = BOARDS.into_iter().filter(|(name, _)| is_on(name));
    let (Some((name, board)), None) = (chosen.next(), chosen.next()) else {
        panic!("choose one board: `cargo xtask firmware build --board NAME`, `--list` names them");
    };
    println!("cargo:rustc-env=TENDON_BOARD={name}");
    for (script, place) in [(format!("src/board/{board}.x"), "memory.x"), ("src/entry.x".into(), "entry.x")] {
        println!("cargo:rerun-if-changed={script}");
        fs::copy(&script, out.join(place)).expect("copy a linker script");
    }
    // No interrupt is enabled here. rp235x-hal brings vectors all the same.
    if name != "pico2" {
        fs::write(out.join("device.x"), "").expect("write device.x");
    }
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg=-Tentry.x");
}
