//! Puts the linker scripts of the chosen board where the linker finds them, and writes the section that says
//! what this firmware is: board, version, and the priorities that `src/main.rs` gives its tasks.

use std::{env, fs, path::PathBuf};

/// Name (the feature of Cargo.toml), folder, memory map in it, the two firmware slots in memory and their length
/// (`tendon_boot::Layout`).
type Board = (&'static str, &'static str, &'static str, [u32; 2], u32);
const BOARDS: [Board; 5] = [
    ("qemu-an386", "mps2", "memory.x", [0x2180_0000, 0x2190_0000], 1 << 20),
    ("qemu-an500", "mps2", "memory.x", [0x6080_0000, 0x6090_0000], 1 << 20),
    ("qemu-an505", "mps2", "memory-an505.x", [0x8080_0000, 0x8090_0000], 1 << 20),
    ("nucleo-h743zi", "nucleo_h743zi", "memory.x", [0x0808_0000, 0x080c_0000], 256 << 10),
    ("pico2", "pico2", "memory.x", [0x1004_0000, 0x1008_0000], 256 << 10),
];
/// From the start of a slot to the program (`tendon_wire::flash::CODE_OFFSET`); the boot stage refuses a firmware that
/// was linked elsewhere.
const CODE_OFFSET: u32 = 0x400;
/// Room in a slot for header and signature.
const AROUND: u32 = 0x800;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (name, folder, memory, slots, slot_len) = board();
    let board = PathBuf::from("src/board").join(folder);
    let mut scripts = vec![(board.join(memory), "memory.x"), ("src/stack.x".into(), "stack.x")];
    // Where it is missing, the peripheral crate brings it with its vectors.
    scripts.extend(Some((board.join("device.x"), "device.x")).filter(|(script, _)| script.exists()));
    for (script, name) in scripts {
        println!("cargo:rerun-if-changed={}", script.display());
        fs::copy(&script, out.join(name)).expect("copy a linker script");
    }
    // memory.x includes slot.x, of which there is one for each binary.
    for (slot, binary) in slots.into_iter().zip(["tendon-firmware", "tendon-firmware-b"]) {
        let place = out.join(binary);
        fs::create_dir_all(&place).expect("make a folder");
        let (origin, room) = (slot + CODE_OFFSET, slot_len - AROUND);
        let script = format!("MEMORY {{ FLASH : ORIGIN = {origin:#x}, LENGTH = {room:#x} }}\n");
        fs::write(place.join("slot.x"), script).expect("write slot.x");
        println!("cargo:rustc-link-arg-bin={binary}=-L{}", place.display());
    }
    // A program of its own, without boot stage: where QEMU starts.
    let place = out.join("tendon-count");
    fs::create_dir_all(&place).expect("make a folder");
    fs::write(place.join("slot.x"), "MEMORY { FLASH : ORIGIN = 0, LENGTH = 4M }\n").expect("write slot.x");
    println!("cargo:rustc-link-arg-bin=tendon-count=-L{}", place.display());
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg=-Tstack.x");

    println!("cargo:rerun-if-changed=src/main.rs");
    let source = fs::read_to_string("src/main.rs").expect("read src/main.rs");
    let mut info = format!("board {name}\nversion {}\n", env!("CARGO_PKG_VERSION"));
    for (interrupt, priority) in tasks(&source) {
        info.push_str(&format!("task {interrupt} {priority}\n"));
    }
    for feature in features() {
        info.push_str(&format!("feature {feature}\n"));
    }
    fs::write(out.join("info.txt"), info).expect("write info.txt");
}

/// The board whose feature is on.
fn board() -> Board {
    let is_on = |name: &str| {
        env::var_os(format!("CARGO_FEATURE_{}", name.replace('-', "_").to_uppercase())).is_some()
    };
    let mut chosen = BOARDS.into_iter().filter(|(name, ..)| is_on(name));
    match (chosen.next(), chosen.next()) {
        (Some(board), None) => board,
        _ => panic!("choose one board: `cargo xtask firmware build --board NAME`, `--list` names them"),
    }
}

/// Cargo features beside boards. No release has any: the tools that read the section refuse it.
fn features() -> Vec<String> {
    let names =
        env::vars().filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase));
    names
        .filter(|name| name != "default" && BOARDS.iter().all(|(board, ..)| *name != board.replace('-', "_")))
        .collect()
}

/// Interrupt and priority of each `#[task(binds = ..., priority = ...)]`. RTIC takes literals only, so the
/// attributes are the one place where priorities are.
fn tasks(source: &str) -> Vec<(String, u8)> {
    let attributes = source.split("#[task(").skip(1).map(|rest| rest.split(")]").next().unwrap_or(rest));
    attributes
        .map(|attribute| {
            let value = |key: &str| {
                let rest = attribute.split(&format!("{key} = ")).nth(1)?;
                rest.split(',').next().map(|value| value.trim().to_owned())
            };
            let interrupt = value("binds").expect("a #[task] without `binds = `");
            let priority = value("priority").and_then(|value| value.parse().ok());
            (interrupt, priority.expect("a #[task] without `priority = ` and a number"))
        })
        .collect()
}
