//! Builds and runs the firmware, with rustup's target or, where that cannot be added, with Debian's
//! toolchain and the libraries built from source.

use crate::{cargo, root, run, target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Target triple of Cortex-M4F and M7.
pub(crate) const TARGET: &str = "thumbv7em-none-eabihf";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// Whether the active toolchain has the target's libraries.
pub(crate) fn rustup_has_target() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        !path.is_empty() && Path::new(&path).is_dir()
    })
}

/// Whether Debian's compiler, cargo, sources and linker are installed.
pub(crate) fn debian_toolchain_is_there() -> bool {
    let sysroot_source = Path::new("/usr/lib/rustlib/src/rust/library/core/Cargo.toml");
    [Path::new(DEBIAN_RUSTC), Path::new(DEBIAN_CARGO), Path::new("/usr/bin/ld.lld"), sysroot_source]
        .iter()
        .all(|path| path.exists())
}

/// Builds the firmware and returns its ELF.
pub(crate) fn build() -> Result<PathBuf, String> {
    let folder = target().join("firmware");
    let mut command = if rustup_has_target() {
        let mut command = cargo();
        command.args(["build", "--release", "--locked"]);
        command
    } else {
        let mut command = Command::new(DEBIAN_CARGO);
        command.args(["build", "--release", "--locked", "-Zbuild-std=core,alloc"]);
        command.args(["--config", &format!("target.{TARGET}.linker=\"ld.lld\"")]);
        command.args(["--config", &format!("target.{TARGET}.rustflags=[\"-C\",\"linker-flavor=ld.lld\"]")]);
        // Debian's compiler is a stable one; building the libraries is an unstable feature.
        command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    run(command.current_dir(root().join("firmware")).env("CARGO_TARGET_DIR", &folder))?;
    Ok(folder.join(TARGET).join("release/tendon-firmware"))
}

/// Runs the firmware in QEMU until it is interrupted.
pub(crate) fn run_in_qemu(elf: &Path) -> Result<(), String> {
    let mut command = Command::new("qemu-system-arm");
    command.args(["-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "pty", "-kernel"]);
    run(command.arg(elf))
}

/// Builds, then runs.
pub(crate) fn run_built() -> Result<(), String> {
    build().and_then(|elf| run_in_qemu(&elf))
}
