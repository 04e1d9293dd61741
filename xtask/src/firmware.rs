//! Builds and runs the firmware of each board, with rustup's target or, where that cannot be added, with Debian's
//! toolchain and the libraries built from source.

use crate::{cargo, root, run, target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A board the firmware is built for.
#[derive(Debug)]
pub(crate) struct Board {
    /// Name: the feature of `firmware/Cargo.toml`.
    pub(crate) name: &'static str,
    /// Target triple.
    pub(crate) target: &'static str,
    /// QEMU's name of the machine; `None`: real hardware.
    machine: Option<&'static str>,
    /// For people.
    about: &'static str,
}

/// Cortex-M4F and M7.
const V7EM: &str = "thumbv7em-none-eabihf";

/// Cortex-M33 with FPU.
const V8M: &str = "thumbv8m.main-none-eabihf";

/// All boards. The first is the one that commands take where none is named.
pub(crate) const BOARDS: &[Board] = &[
    Board {
        name: "qemu-an386",
        target: V7EM,
        machine: Some("mps2-an386"),
        about: "Arm MPS2 with AN386, Cortex-M4F, in QEMU",
    },
    Board {
        name: "qemu-an500",
        target: V7EM,
        machine: Some("mps2-an500"),
        about: "Arm MPS2 with AN500, Cortex-M7, in QEMU",
    },
    Board {
        name: "qemu-an505",
        target: V8M,
        machine: Some("mps2-an505"),
        about: "Arm MPS2 with AN505, Cortex-M33, in QEMU",
    },
    Board {
        name: "nucleo-h743zi",
        target: V7EM,
        machine: None,
        about: "ST Nucleo-H743ZI and H743ZI2, Cortex-M7; never run",
    },
    Board {
        name: "pico2",
        target: V8M,
        machine: None,
        about: "Raspberry Pi Pico 2 (RP2350), Cortex-M33; never run",
    },
];

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// What a build makes, and how it is called behind the board's name: the application for each firmware slot, and the
/// boot stage.
const PROGRAMS: [(&str, &str); 3] =
    [("tendon-firmware", ""), ("tendon-firmware-b", "-b"), ("tendon-boot-stage", "-boot")];

/// The board of this name.
pub(crate) fn board(name: &str) -> Result<&'static Board, String> {
    BOARDS.iter().find(|board| board.name == name).ok_or_else(|| {
        format!("unknown board `{name}`; `cargo xtask firmware build --list` prints those there are")
    })
}

/// Prints the boards.
pub(crate) fn list() {
    for board in BOARDS {
        println!("{:<16}{:<28}{}", board.name, board.target, board.about);
    }
}

/// Targets of the boards, each once.
pub(crate) fn targets() -> Vec<&'static str> {
    let mut targets: Vec<&str> = BOARDS.iter().map(|board| board.target).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// Whether the active toolchain has the target's libraries.
pub(crate) fn rustup_has(target: &str) -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        !path.is_empty() && Path::new(&path).is_dir()
    })
}

/// `cargo VERB --release --locked` for a target: rustup's, or Debian's compiler, which makes these libraries from source.
pub(crate) fn cargo_for(target: &str, verb: &str, libraries: &str) -> Command {
    if rustup_has(target) {
        let mut command = cargo();
        command.args([verb, "--release", "--locked"]);
        return command;
    }
    let mut command = Command::new(DEBIAN_CARGO);
    command.args([verb, "--release", "--locked", &format!("-Zbuild-std={libraries}")]);
    // Debian's compiler is a stable one; building the libraries is an unstable feature.
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// Whether Debian's compiler, cargo, sources and linker are installed.
pub(crate) fn debian_toolchain_is_there() -> bool {
    let sysroot_source = Path::new("/usr/lib/rustlib/src/rust/library/core/Cargo.toml");
    [Path::new(DEBIAN_RUSTC), Path::new(DEBIAN_CARGO), Path::new("/usr/bin/ld.lld"), sysroot_source]
        .iter()
        .all(|path| path.exists())
}

/// Where the firmwares lie, `BOARD.elf` each. What the boards of one target share is compiled once.
pub(crate) fn folder() -> PathBuf {
    target().join("firmware")
}

/// The folder of a firmware whose safety checks can be taken away, built for the board that campaigns emulate. In
/// no folder that any other command looks into.
pub(crate) fn mutants() -> Result<PathBuf, String> {
    let folder = target().join("firmware-mutants");
    crate::packages::setup()?;
    BOARDS[0].build_with(&["mutate"], &folder, &folder)?;
    BOARDS[0].build_with(&["mutate", "inject"], &folder, &folder.join("inject"))?;
    Ok(folder)
}

impl Board {
    /// Builds boot stage and firmware and returns the ELF of the firmware for the first slot.
    pub(crate) fn build(&self) -> Result<PathBuf, String> {
        self.build_with(&[], &folder(), &folder())
    }

    /// Builds it with feature `inject`, for tests alone: late and hanging ticks on demand. `stack` and whatever
    /// flashes refuse it, by its section `.tendon`.
    pub(crate) fn build_to_inject(&self) -> Result<PathBuf, String> {
        self.build_with(&["inject"], &folder(), &folder().join("inject"))
    }

    fn build_with(&self, features: &[&str], folder: &Path, out: &Path) -> Result<PathBuf, String> {
        std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
        // One after the other: features of dependencies that both need would add up otherwise.
        for package in ["tendon-boot-stage", "tendon-firmware"] {
            self.build_package(package, features, folder)?;
        }
        // The next board's build overwrites the one and leaves the other.
        for (built, suffix) in PROGRAMS {
            let built = folder.join(self.target).join("release").join(built);
            let elf = out.join(format!("{}{suffix}.elf", self.name));
            std::fs::copy(&built, &elf).map_err(|error| format!("{}: {error}", elf.display()))?;
            println!("{}", elf.display());
        }
        if self.name == BOARDS[0].name {
            let count = folder.join("tendon-count.elf");
            std::fs::copy(folder.join(self.target).join("release/tendon-count"), &count)
                .map_err(|error| format!("{}: {error}", count.display()))?;
        }
        Ok(out.join(format!("{}.elf", self.name)))
    }

    fn build_package(&self, package: &str, features: &[&str], folder: &Path) -> Result<(), String> {
        let target = self.target;
        let mut command = cargo_for(target, "build", "core,alloc");
        if !rustup_has(target) {
            command.args(["--config", &format!("target.{target}.linker=\"ld.lld\"")]);
            command
                .args(["--config", &format!("target.{target}.rustflags=[\"-C\",\"linker-flavor=ld.lld\"]")]);
        }
        // No tick runs in the boot stage.
        let known = |feature: &&&str| package == "tendon-firmware" || **feature != "inject";
        let features: Vec<&str> = [self.name].iter().chain(features).filter(known).copied().collect();
        let features = features.join(",");
        command.args(["-p", package, "--target", target, "--no-default-features", "--features", &features]);
        if features.contains("mutate") {
            command.env("TENDON_CAMPAIGN", "1");
        }
        run(command.current_dir(root().join("firmware")).env("CARGO_TARGET_DIR", folder))
    }

    /// Whether QEMU has the board.
    pub(crate) fn is_emulated(&self) -> bool {
        self.machine.is_some()
    }
}
