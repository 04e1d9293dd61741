//! Starts a controller on this machine: the firmware in QEMU, or the stand-in process.

use super::flash::{HostFlash, install};
use super::{LinkError, Package};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tendon_boot::Layout;
use tendon_runtime::store::Part;

const QEMU: &str = "qemu-system-arm";
const STAND_IN: &str = "tendon controller";

/// Which controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// The firmware on an emulated Cortex-M4F.
    Qemu,
    /// The firmware for tests (feature `inject`) on the emulated Cortex-M4F, on a clock that counts its instructions:
    /// [`Line`](super::Line) starts it, it has no serial port.
    QemuInject,
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
            Self::QemuInject => Some(("qemu-an386", "mps2-an386", &["-icount", "shift=0"])),
            Self::QemuAn500 => Some(("qemu-an500", "mps2-an500", &[])),
            Self::QemuAn505 => Some(("qemu-an505", "mps2-an505", &[])),
            Self::StandIn => None,
        }
    }

    /// Where flash lies in an emulated board, which is its PSRAM.
    fn layout(self) -> Layout {
        let mapped_at = match self {
            Self::QemuAn500 => 0x6000_0000,
            Self::QemuAn505 => 0x8000_0000,
            _ => Layout::QEMU.mapped_at,
        };
        Layout { mapped_at, ..Layout::QEMU }
    }

    /// For tables.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::QemuInject => "QEMU mps2-an386 (Cortex-M4F firmware with feature inject)",
            Self::Qemu => "QEMU mps2-an386 (Cortex-M4F firmware)",
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
    let folder = if kind == ControllerKind::QemuInject { "inject/" } else { "" };
    let name = format!("{folder}{board}.elf");
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

/// The boot stage that belongs to the firmware of [`firmware_path`].
#[must_use]
pub fn boot_stage_path(kind: ControllerKind) -> Option<PathBuf> {
    let (board, ..) = kind.qemu()?;
    Some(firmware_path(kind)?.with_file_name(format!("{board}-boot.elf"))).filter(|path| path.is_file())
}

/// Where a controller is: a serial port, or one that this program starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A serial port by its path.
    Port(String),
    /// A controller to start, and the file with its flash; `None`: fresh, and forgotten at its end.
    Launch(ControllerKind, Option<PathBuf>),
}

impl std::str::FromStr for Address {
    type Err = String;

    /// `qemu[:FLASH]`, `qemu-an500[:FLASH]`, `stand-in[:FLASH]`, or a path.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, flash) = match text.split_once(':') {
            Some((name, flash)) => (name, Some(PathBuf::from(flash))),
            None => (text, None),
        };
        let kind = match name {
            "qemu" | "qemu-an386" => ControllerKind::Qemu,
            "qemu-an500" => ControllerKind::QemuAn500,
            "qemu-an505" => ControllerKind::QemuAn505,
            "stand-in" => ControllerKind::StandIn,
            _ if text.is_empty() => return Err("give a serial port, qemu[:FLASH] or stand-in[:FLASH]".into()),
            _ => return Ok(Self::Port(text.into())),
        };
        match flash {
            Some(path) if path.as_os_str().is_empty() => Err(format!("`{text}` names no flash file")),
            flash => Ok(Self::Launch(kind, flash)),
        }
    }
}

/// A running controller; it ends when this is dropped.
#[derive(Debug)]
pub struct Launched {
    child: Child,
    port: String,
    /// Flash that is forgotten with it.
    temporary: Option<Temporary>,
}

impl Launched {
    /// Path of its serial port.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// As the system says.
    pub fn wait(&mut self) -> std::io::Result<()> {
        self.child.wait().map(|_| ())
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

/// Starts a controller with fresh flash, or with the file that `TENDON_FLASH` names, and waits for the name of its
/// port.
///
/// # Errors
/// [`LinkError::Launch`] with what is missing.
pub fn launch(kind: ControllerKind) -> Result<Launched, LinkError> {
    let flash = std::env::var_os("TENDON_FLASH").map(PathBuf::from);
    launch_from(kind, flash.as_deref())
}

/// Starts a controller whose flash is in a file. An emulated board finds in it the firmware that was last flashed; a
/// file that is not there yet is made, with the firmware that was built here and no keys.
///
/// # Errors
/// [`LinkError::Launch`] with what is missing.
pub fn launch_from(kind: ControllerKind, flash: Option<&Path>) -> Result<Launched, LinkError> {
    let Some((board, machine, extra)) = kind.qemu() else {
        let program = std::env::current_exe()
            .map_err(|error| LinkError::Launch { program: STAND_IN.into(), problem: error.to_string() })?;
        return launch_stand_in(&program, flash);
    };
    let (mut command, temporary) = emulated(kind, board, machine, extra, flash)?;
    command.args(["-serial", "pty"]);
    let port_of = |line: &str| {
        let path = line.split("redirected to ").nth(1)?;
        Some(path.split_whitespace().next()?.to_owned())
    };
    let mut launched = start(command, QEMU, "install it with `cargo xtask setup`", port_of)?;
    launched.temporary = temporary;
    Ok(launched)
}

/// A flash file that is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The firmware for tests, its line on standard input and output ([`Line`](super::Line)).
pub(super) fn launch_line(flash: Option<&Path>) -> Result<(Child, Option<Temporary>), LinkError> {
    let kind = ControllerKind::QemuInject;
    let fail = |problem: String| LinkError::Launch { program: QEMU.into(), problem };
    let (board, machine, extra) = kind.qemu().ok_or_else(|| fail("it does not emulate this".into()))?;
    let (mut command, temporary) = emulated(kind, board, machine, extra, flash)?;
    command.args(["-serial", "none", "-semihosting-config", "enable=on,target=native"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child =
        command.spawn().map_err(|error| fail(format!("{error}; install it with `cargo xtask setup`")))?;
    Ok((child, temporary))
}

/// QEMU with a board's boot stage and flash, without a line.
fn emulated(
    kind: ControllerKind,
    board: &str,
    machine: &str,
    extra: &[&str],
    flash: Option<&Path>,
) -> Result<(Command, Option<Temporary>), LinkError> {
    let fail = |problem: String| LinkError::Launch { program: QEMU.into(), problem };
    let not_built =
        || fail(format!("the firmware is not built; run `cargo xtask firmware build --board {board}`"));
    let boot = boot_stage_path(kind).ok_or_else(not_built)?;
    let (flash, temporary) = match flash {
        Some(path) => (path.to_owned(), None),
        None => {
            let path = temporary_file();
            (path.clone(), Some(Temporary(path)))
        }
    };
    if !flash.is_file() {
        let firmware = firmware_path(kind).ok_or_else(not_built)?;
        prepare(&flash, kind, board, &firmware).map_err(fail)?;
    }
    let mut command = Command::new(QEMU);
    command.args(["-M", &format!("{machine},memory-backend=flash"), "-display", "none", "-monitor", "none"]);
    let path = flash.display().to_string().replace(',', ",,");
    command.args(["-object", &format!("memory-backend-file,id=flash,size=16M,mem-path={path},share=on")]);
    command.args(extra).arg("-kernel").arg(&boot);
    // A firmware for campaigns looks there for the check that is taken away.
    #[cfg(feature = "mutate")]
    command.args(["-device", &removed_check_device()]);
    Ok((command, temporary))
}

/// QEMU's `-device` by which a firmware for campaigns learns which check is taken away.
#[cfg(feature = "mutate")]
#[must_use]
pub fn removed_check_device() -> String {
    format!("loader,addr=0x3ffff0,data={},data-len=4", tendon_wire::mutation::number())
}

/// A name that no other controller of this machine has.
fn temporary_file() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tendon-flash-{}-{count}.img", std::process::id()))
}

/// Bytes of the emulated flash, which is all of the board's PSRAM.
const PSRAM: u32 = 16 << 20;

/// Makes the flash of a board: firmware in its first slot, nothing else.
fn prepare(flash: &Path, kind: ControllerKind, board: &str, firmware: &Path) -> Result<(), String> {
    let layout = kind.layout();
    let package = Package::read(firmware).map_err(|error| error.to_string())?;
    let image = package.images.first().ok_or_else(|| format!("{}: no image in it", firmware.display()))?;
    let installed = install(HostFlash::memory(PSRAM), layout, board, Part::Firmware, image)
        .map_err(|refused| format!("{}: {refused:?}; build it again", firmware.display()))?;
    tendon_learn::run_folder::write_atomically(flash, installed.bytes()).map_err(|error| error.to_string())
}

/// Starts the stand-in from another program than this one, its flash in a file or forgotten at its end.
///
/// # Errors
/// As [`launch`].
pub fn launch_stand_in(program: &Path, flash: Option<&Path>) -> Result<Launched, LinkError> {
    let mut command = Command::new(program);
    command.arg("controller");
    if let Some(path) = flash {
        command.arg("--flash").arg(path);
    }
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
    let mut launched = Launched { child, port: String::new(), temporary: None };
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
