//! Puts the linker scripts of the chosen board where the linker finds them.

use std::{env, fs, path::PathBuf};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for script in ["memory.x", "device.x"] {
        let source = PathBuf::from("src/board/qemu_an386").join(script);
        println!("cargo:rerun-if-changed={}", source.display());
        fs::copy(&source, out.join(script)).expect("copy the board's linker script");
    }
    println!("cargo:rustc-link-search={}", out.display());
}
