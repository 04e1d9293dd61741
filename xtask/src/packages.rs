//! What the tests need beyond Rust, and how it comes onto a Debian-like machine.

use crate::{firmware, is_there, run};
use std::path::Path;
use std::process::Command;

/// Installs what is missing. As another user than root, says what to run instead.
pub(crate) fn setup() -> Result<(), String> {
    let mut missing = Vec::new();
    if !is_there("qemu-system-arm", "--version") {
        missing.push(("qemu-system-arm", "runs the firmware on emulated boards"));
    }
    let targets: Vec<&str> =
        firmware::targets().into_iter().filter(|target| !firmware::rustup_has(target)).collect();
    missing.extend(compiler_for(&targets));
    install(&missing)
}

/// What builds programs for targets that rustup has not, after asking rustup to add them.
fn compiler_for(targets: &[&str]) -> Vec<(&'static str, &'static str)> {
    // Where rustup can add the targets, nothing else is needed.
    let added = || {
        is_there("rustup", "--version")
            && run(Command::new("rustup").args(["target", "add"]).args(targets)).is_ok()
    };
    if targets.is_empty() || firmware::debian_toolchain_is_there() || added() {
        return Vec::new();
    }
    let why = "builds the target's libraries from source, because rustup cannot add it";
    ["rustc-web", "cargo-web", "rust-web-src", "lld"].map(|package| (package, why)).to_vec()
}

/// What builds and runs programs for AArch64 Linux.
pub(crate) fn aarch64(target: &str) -> Result<(), String> {
    let mut missing = Vec::new();
    if !firmware::rustup_has(target) {
        missing.extend(compiler_for(&[target]));
    }
    if !is_there("aarch64-linux-gnu-gcc", "--version") {
        missing.push(("gcc-aarch64-linux-gnu", "links for AArch64"));
        missing.push(("libc6-dev-arm64-cross", "the C library it needs"));
    }
    if !is_there("qemu-aarch64", "--version") {
        missing.push(("qemu-user", "runs programs for AArch64"));
    }
    install(&missing)
}

/// What compiles the C of a peer for the controller.
pub(crate) fn cross_compiler() -> Result<(), String> {
    let mut missing = Vec::new();
    if !is_there("arm-none-eabi-gcc", "--version") {
        missing.push(("gcc-arm-none-eabi", "compiles the peer's C for Cortex-M4F"));
    }
    let newlib = ["/usr/lib/arm-none-eabi/newlib/libc.a", "/usr/arm-none-eabi/lib/libc.a"];
    if !newlib.iter().any(|path| Path::new(path).exists()) {
        missing.push(("libnewlib-arm-none-eabi", "the C library it needs"));
    }
    install(&missing)
}

/// What MuJoCo's renderer draws with where there is no GPU.
pub(crate) fn off_screen() -> Result<(), String> {
    let libraries =
        ["/usr/lib/x86_64-linux-gnu/libEGL_mesa.so.0", "/usr/lib/aarch64-linux-gnu/libEGL_mesa.so.0"];
    if libraries.iter().any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    install(&[("libegl1", "MuJoCo's off-screen renderer"), ("libegl-mesa0", "its driver for processors")])
}

/// What the feature `mpi` is built with and run by.
pub(crate) fn mpi() -> Result<(), String> {
    let mut missing = Vec::new();
    if !is_there("mpicc", "--version") {
        missing.push(("libopenmpi-dev", "MPI, for training over many processes"));
    }
    if !is_there("mpirun", "--version") {
        missing.push(("openmpi-bin", "starts them"));
    }
    if !has_libclang() {
        missing.push(("libclang-dev", "reads MPI's headers while its crate is built"));
    }
    install(&missing)
}

/// Where clang-sys looks on Debian.
fn has_libclang() -> bool {
    let of_llvm = |name: &str| Path::new("/usr/lib").join(name).join("lib/libclang.so").exists();
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    std::env::var_os("LIBCLANG_PATH").is_some()
        || folders.map(|folder| folder.file_name()).any(|name| of_llvm(&name.to_string_lossy()))
}

fn install(missing: &[(&str, &str)]) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    for (package, why) in missing {
        eprintln!("missing: {package} ({why})");
    }
    let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !is_root() {
        return Err(format!("packages are missing; run this, then try again:\n  sudo {install}"));
    }
    eprintln!("installing: {}", packages.join(" "));
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
