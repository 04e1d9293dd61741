//! Starts a controller on this machine: the firmware in QEMU, or the stand-in process.

use super::LinkError;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const QEMU: &str = "qemu-system-arm";
const STAND_IN: &str = "tendon controller";

/// Which controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// The firmware on an emulated Cortex-M4F.
    Qemu,
    /// The same, with instructions counted (`-icount shift=0`): slower, repeatable.
    QemuCounting,
    /// The firmware on an emulated Cortex-M7.
    QemuAn500,
    /// The firmware on an emulated Cortex-M33.
    QemuAn505,
    /// The stand-in process.
    StandIn,
}

impl ControllerKind {
    /// QEMU where it and the firmware are there, else the stand-in.
    #[must_use]
    pub fn best() -> Self {
        if qemu_is_there() && firmware_path(Self::Qemu).is_some() { Self::Qemu } else { Self::StandIn }
    }

    /// Name of the emulated board, the machine that QEMU calls so, and further arguments.
    fn qemu(self) -> Option<(&'static str, &'static str, &'static [&'static str])> {
        match self {
            Self::Qemu => Some(("qemu-an386", "mps2-an386", &[])),
            Self::QemuCounting => Some(("qemu-an386", "mps2-an386", &["-icount", "shift=0"])),
            Self::QemuAn500 => Some(("qemu-an500", "mps2-an500", &[])),
            Self::QemuAn505 => Some(("qemu-an505", "mps2-an505", &[])),
            Self::StandIn => None,
        }
    }

    /// For tables.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Qemu | Self::QemuCounting => "QEMU mps2-an386 (Cortex-M4F firmware)",
            Self::QemuAn500 => "QEMU mps2-an500 (Cortex-M7 firmware)",
            Self::QemuAn505 => "QEMU mps2-an505 (Cortex-M33 firmware)",
            Self::StandIn => "stand-in process (same runtime and bytes, this CPU)",
        }
    }
}

/// Whether QEMU for Arm is installed.
#[must_use]
pub fn qemu_is_there() -> bool {
    Command::new(QEMU)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// The ELF of an emulated board's firmware: in the folder `TENDON_FIRMWARE` (or that file itself), or where
/// `cargo xtask firmware build` puts it, seen from the current folder or from the program.
#[must_use]
pub fn firmware_path(kind: ControllerKind) -> Option<PathBuf> {
    let (board, ..) = kind.qemu()?;
    let name = format!("{board}.elf");
    if let Some(path) = std::env::var_os("TENDON_FIRMWARE").map(PathBuf::from) {
        let elf = if path.is_dir() { path.join(name) } else { path };
        return elf.is_file().then_some(elf);
    }
    let program = std::env::current_exe().ok();
    let roots = std::env::current_dir().ok().into_iter().chain(program);
    roots
        .flat_map(|root| root.ancestors().map(Path::to_path_buf).collect::<Vec<_>>())
        .map(|root| root.join("target/firmware").join(&name))
        .find(|path| path.is_file())
}

/// A running controller; it ends when this is dropped.
#[derive(Debug)]
pub struct Launched {
    child: Child,
    port: String,
}

impl Launched {
    /// Path of its serial port.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a controller and waits for the name of its port.
///
/// # Errors
/// [`LinkError::Launch`] with what is missing.
pub fn launch(kind: ControllerKind) -> Result<Launched, LinkError> {
    let Some((board, machine, extra)) = kind.qemu() else {
        let program = std::env::current_exe()
            .map_err(|error| LinkError::Launch { program: STAND_IN.into(), problem: error.to_string() })?;
        return launch_stand_in(&program);
    };
    let fail = |problem: String| LinkError::Launch { program: QEMU.into(), problem };
    let firmware = firmware_path(kind).ok_or_else(|| {
        fail(format!("the firmware is not built; run `cargo xtask firmware build --board {board}`"))
    })?;
    let mut command = Command::new(QEMU);
    command.args(["-M", machine, "-display", "none", "-monitor", "none", "-serial", "pty"]);
    command.args(extra).arg("-kernel").arg(&firmware);
    let port_of = |line: &str| {
        let path = line.split("redirected to ").nth(1)?;
        Some(path.split_whitespace().next()?.to_owned())
    };
    start(command, QEMU, "install it with `cargo xtask setup`", port_of)
}

/// Starts the stand-in from another program than this one.
///
/// # Errors
/// As [`launch`].
pub fn launch_stand_in(program: &Path) -> Result<Launched, LinkError> {
    let mut command = Command::new(program);
    command.arg("controller");
    launch_program(command, STAND_IN)
}

/// Starts a program whose first line of output is the path of its port. `name`: for messages.
///
/// # Errors
/// As [`launch`].
pub fn launch_program(command: Command, name: &str) -> Result<Launched, LinkError> {
    let port_of = |line: &str| line.starts_with("/dev/").then(|| line.trim().to_owned());
    start(command, name, "run it by hand to see why", port_of)
}

fn start(
    mut command: Command,
    program: &str,
    advice: &str,
    port_of: impl Fn(&str) -> Option<String>,
) -> Result<Launched, LinkError> {
    let fail = |problem: String| LinkError::Launch { program: program.into(), problem };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(format!("{error}; {advice}")))?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let mut launched = Launched { child, port: String::new() };
    let mut lines = BufReader::new(stdout.ok_or_else(|| fail("no standard output".into()))?);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
        if let Some(port) = port_of(&line) {
            launched.port = port;
            // Keep reading, so that a chatty child never blocks on a full pipe.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            if let Some(mut stderr) = stderr {
                std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
            }
            return Ok(launched);
        }
        line.clear();
    }
    let mut message = String::new();
    if let Some(stderr) = stderr {
        let _ = stderr.take(4096).read_to_string(&mut message);
    }
    Err(fail(format!("it ended without naming a port ({}); {advice}", message.trim())))
}
