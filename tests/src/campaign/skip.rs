//! Single instructions of the boot stage that are not executed, once, while it refuses a firmware: what a glitch of the
//! supply or the clock does. QEMU runs the boot stage as it was linked, its debug port skips the instruction.

use super::{Campaign, Run};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tendon::link::{ControllerKind, HostFlash, boot_stage_path};
use tendon_boot::sign::{SigningKey, sign};
use tendon_boot::{Boot, Layout};
use tendon_bounds::Elf;
use tendon_runtime::store::{Part, Store};
use tendon_wire::flash::{CODE_OFFSET, FIRMWARE_MAGIC, FIRMWARE_VERSION, KeySet, seal};
use tendon_wire::image::{Header, Span};
use tendon_wire::mutation::Check;

pub(super) const SKIP: Campaign =
    Campaign { name: "skip", gates: &[21], guards: &[Check::Signature, Check::Rollback], run: skip };

const BOARD: &str = "qemu-an386";
const PSRAM: u32 = 16 << 20;
/// Rollback counter of the firmware that was confirmed.
const FLOOR: u32 = 5;
/// A boot ends within it, however it ends.
const PATIENCE: Duration = Duration::from_secs(4);
/// QEMU has its debug port within it.
const START: Duration = Duration::from_secs(120);
/// Attempts to start it.
const STARTS: u32 = 4;
/// `movs r0, #0; b .`: never reached by an honest boot stage.
const CODE: [u8; 4] = [0x00, 0x20, 0xfe, 0xe7];

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// It waits, nothing runs.
    Refused,
    /// The firmware runs.
    Ran,
    /// A fault, from which only a reset leads out.
    Fault,
    /// It reset itself.
    Reset,
    /// Neither, in time.
    Hung,
}

/// A flash whose confirmed firmware must not boot.
struct Case {
    what: &'static str,
    flash: PathBuf,
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.flash);
    }
}

/// The boot stage and where in it things happen.
struct Stage {
    elf: PathBuf,
    wait: u32,
    fault: u32,
    firmware: u32,
    /// First byte and byte behind the end, and name.
    functions: Vec<(u32, u32, String)>,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn firmware(counter: u32, fill: u8) -> Vec<u8> {
    let address = Layout::QEMU.address(Part::Firmware, 0) + CODE_OFFSET;
    let mut header: Header = bytemuck::Zeroable::zeroed();
    (header.magic, header.format_version, header.rollback_counter) =
        (FIRMWARE_MAGIC, FIRMWARE_VERSION, counter);
    header.robot_id[..BOARD.len()].copy_from_slice(BOARD.as_bytes());
    header.schema_hash = address.into();
    let code = [0x2004_0000u32.to_le_bytes(), (address + 9).to_le_bytes(), CODE, [fill; 4]].concat();
    header.sections[0] = Span { offset: CODE_OFFSET, len: code.len() as u32 };
    header.total_len = CODE_OFFSET + code.len() as u32;
    let mut image = bytemuck::bytes_of(&header).to_vec();
    image.resize(CODE_OFFSET as usize, 0);
    image.extend(code);
    seal(&mut image);
    image
}

/// Keys, a firmware that was confirmed, and another one in its place.
fn case(what: &'static str, other: &[u8]) -> Result<Case, String> {
    let fail = |refused: &dyn std::fmt::Debug| format!("{what}: {refused:?}");
    let mut boot = Boot::start(HostFlash::memory(PSRAM), Layout::QEMU, BOARD);
    let keys = [&key(1), &key(2)].map(|key| *key.verifying_key().as_bytes());
    boot.provision(&KeySet { generation: 0, reserved: 0, keys, robot_id: [0; 32] })
        .map_err(|refused| fail(&refused))?;
    let good = sign(&firmware(FLOOR, 0), &key(1)).map_err(|error| fail(&error))?;
    let total = good.len() as u32;
    // A controller without firmware takes it into the slot that does not run; twice, so that it is in both.
    for _ in 0..2 {
        let mut image = good.clone();
        let mut result = Err((tendon_runtime::Refusal::Image, 0));
        for slot in 0..2 {
            let address = u64::from(Layout::QEMU.address(Part::Firmware, slot) + CODE_OFFSET);
            let mut moved = firmware(FLOOR, 0);
            moved[24..32].copy_from_slice(&address.to_le_bytes());
            seal(&mut moved);
            image = sign(&moved, &key(1)).map_err(|error| fail(&error))?;
            result = boot
                .begin(Part::Firmware, total, 0, 0)
                .and_then(|()| boot.write(Part::Firmware, 0, &image))
                .and_then(|()| boot.verify(Part::Firmware, total))
                .and_then(|()| boot.commit(Part::Firmware));
            if result.is_ok() {
                break;
            }
        }
        result.map_err(|refused| fail(&refused))?;
        drop(image);
        boot = Boot::start(boot.into_flash(), Layout::QEMU, BOARD);
        boot.confirm(Part::Firmware).map_err(|refused| fail(&refused))?;
        if boot.running(Part::Firmware) == Some(0) {
            break;
        }
    }
    if boot.running(Part::Firmware) != Some(0) {
        return Err(format!("{what}: the firmware does not run from the first slot"));
    }
    let mut bytes = boot.into_flash().bytes().to_vec();
    for slot in 0..2 {
        let region = Layout::QEMU.slot(Part::Firmware, slot);
        bytes[region.start as usize..][..region.len as usize].fill(0xff);
    }
    let start = Layout::QEMU.slot(Part::Firmware, 0).start as usize;
    bytes[start..start + other.len()].copy_from_slice(other);
    let name = format!("tendon-skip-{}-{}.img", std::process::id(), what.replace(' ', "-"));
    let flash = std::env::temp_dir().join(name);
    std::fs::write(&flash, bytes).map_err(|error| format!("{}: {error}", flash.display()))?;
    Ok(Case { what, flash })
}

/// A debug port of a QEMU that stands before its first instruction.
struct Debugger {
    child: Child,
    stream: UnixStream,
    received: Vec<u8>,
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Debugger {
    /// Starts it; again where the computer was too busy for it.
    fn start(elf: &Path, flash: &Path, extra: &[&str]) -> Result<Self, String> {
        (1..STARTS)
            .find_map(|_| Self::try_start(elf, flash, extra).ok())
            .map_or_else(|| Self::try_start(elf, flash, extra), Ok)
    }

    fn try_start(elf: &Path, flash: &Path, extra: &[&str]) -> Result<Self, String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("tendon-skip-{}-{number}.sock", std::process::id()));
        let mut command = Command::new("qemu-system-arm");
        command.args(["-M", "mps2-an386,memory-backend=flash", "-display", "none", "-monitor", "none"]);
        // Written to in this process alone.
        let object = format!("memory-backend-file,id=flash,size=16M,mem-path={},share=off", flash.display());
        command.args(["-object", &object, "-serial", "none", "-no-reboot", "-S"]);
        // The check that is taken away, as where the controller is started.
        #[cfg(feature = "mutate")]
        command.args(["-device", &tendon::link::removed_check_device()]);
        let chardev = format!("socket,id=gdb,path={},server=on,wait=off", socket.display());
        command.args(["-chardev", &chardev, "-gdb", "chardev:gdb"]).args(extra).arg("-kernel").arg(elf);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("qemu-system-arm: {error}"))?;
        let until = Instant::now() + START;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("QEMU's debug port: {error}"));
                }
            }
        };
        let _ = std::fs::remove_file(&socket);
        stream.set_read_timeout(Some(START)).map_err(|error| error.to_string())?;
        let mut this = Self { child, stream, received: Vec::new() };
        // Asked for its registers' names, it lets single ones be read and written.
        this.ask("qXfer:features:read:target.xml:0,ffb").ok_or("QEMU's debug port does not answer")?;
        Ok(this)
    }

    fn send(&mut self, text: &str) -> Option<()> {
        let sum = text.bytes().fold(0u8, u8::wrapping_add);
        self.stream.write_all(format!("${text}#{sum:02x}").as_bytes()).ok()
    }

    /// The next packet; `None`: it is gone, or nothing came in time.
    fn packet(&mut self) -> Option<String> {
        loop {
            if let Some(start) = self.received.iter().position(|byte| *byte == b'$')
                && let Some(end) = self.received[start..].iter().position(|byte| *byte == b'#')
                && self.received.len() >= start + end + 3
            {
                let text = String::from_utf8_lossy(&self.received[start + 1..start + end]).into_owned();
                self.received.drain(..start + end + 3);
                self.stream.write_all(b"+").ok()?;
                return Some(text);
            }
            let mut bytes = [0; 4096];
            let read = self.stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
            self.received.extend_from_slice(&bytes[..read]);
        }
    }

    fn ask(&mut self, text: &str) -> Option<String> {
        self.send(text)?;
        self.packet()
    }

    /// Goes on to one of the breakpoints; where it stands then.
    fn go(&mut self) -> Option<u32> {
        let stop = self.ask("c")?;
        if !stop.starts_with('T') && !stop.starts_with('S') {
            return None;
        }
        let hex = self.ask("pf")?;
        u32::from_str_radix(&hex, 16).ok().map(u32::swap_bytes)
    }

    /// One boot, in which the instruction at `at` is not executed the first time; and whether it was met at all.
    fn boot(&mut self, stage: &Stage, at: Option<(u32, u32)>) -> (End, bool) {
        for place in [stage.wait, stage.fault, stage.firmware].into_iter().chain(at.map(|(at, _)| at)) {
            self.ask(&format!("Z0,{place:x},2"));
        }
        // With nothing skipped it ends, however busy this computer is.
        let _ = self.stream.set_read_timeout(Some(if at.is_some() { PATIENCE } else { START }));
        let mut met = false;
        loop {
            let before = Instant::now();
            let Some(pc) = self.go() else {
                let hung = before.elapsed() >= PATIENCE;
                return (if hung { End::Hung } else { End::Reset }, met);
            };
            match at {
                Some((skipped, length)) if pc == skipped && !met => {
                    met = true;
                    // Where it is also one of the ends the breakpoint stays.
                    if ![stage.wait, stage.fault, stage.firmware].contains(&skipped) {
                        self.ask(&format!("z0,{skipped:x},2"));
                    }
                    self.ask(&format!("Pf={:08x}", (skipped + length).swap_bytes()));
                }
                _ if pc == stage.wait => return (End::Refused, met),
                _ if pc == stage.firmware => return (End::Ran, met),
                _ => return (End::Fault, met),
            }
        }
    }
}

impl Stage {
    fn find() -> Result<Self, String> {
        let elf = boot_stage_path(ControllerKind::Qemu)
            .ok_or("the boot stage is not built; run `cargo xtask firmware build --board qemu-an386`")?;
        let bytes = std::fs::read(&elf).map_err(|error| format!("{}: {error}", elf.display()))?;
        let parsed = Elf::parse(&bytes).map_err(|error| format!("{}: {error}", elf.display()))?;
        let place = |name: &str| parsed.value(name).map(|value| value & !1);
        let text = parsed.section(".text").ok_or("the boot stage has no code")?;
        // The only `wfi`: nothing may run.
        let mut halves = text.bytes.chunks_exact(2).enumerate().filter(|(_, half)| *half == [0x30, 0xbf]);
        let (Some((wfi, _)), None) = (halves.next(), halves.next()) else {
            return Err("the boot stage has not one place where it waits".into());
        };
        let fault = place("HardFault");
        let functions = parsed.symbols.iter().filter(|symbol| symbol.is_function && !symbol.is_undefined);
        let functions = functions.map(|symbol| {
            let start = symbol.value & !1;
            (start, start.saturating_add(symbol.size), symbol.name.to_owned())
        });
        Ok(Self {
            functions: functions.collect(),
            elf,
            wait: text.address + 2 * wfi as u32,
            fault: fault.ok_or("the boot stage has no fault handler")?,
            firmware: Layout::QEMU.address(Part::Firmware, 0) + CODE_OFFSET + 8,
        })
    }

    fn function(&self, at: u32) -> Option<&(u32, u32, String)> {
        self.functions.iter().find(|(start, end, _)| (*start..*end).contains(&at))
    }

    /// Whether it is in a function of `boot/` or of the boot stage, or in one that was made for them.
    fn is_own(&self, at: u32) -> bool {
        self.function(at).is_some_and(|(.., name)| name.contains("tendon_boot"))
    }

    /// An address and the function that it is in.
    fn named(&self, at: u32) -> String {
        self.function(at)
            .map_or(format!("{at:#x}"), |(start, _, name)| format!("{at:#x} ({name}+{:#x})", at - start))
    }

    /// How a boot of this flash ends with nothing skipped, and every instruction that it executes in the boot stage, with its
    /// length.
    fn executed(&self, case: &Case) -> Result<(End, BTreeMap<u32, u32>), String> {
        let log = case.flash.with_extension("log");
        let path = log.display().to_string();
        let mut debugger = Debugger::start(&self.elf, &case.flash, &["-d", "in_asm", "-D", &path])?;
        let (end, _) = debugger.boot(self, None);
        drop(debugger);
        let text = std::fs::read_to_string(&log).map_err(|error| format!("{path}: {error}"))?;
        let _ = std::fs::remove_file(&log);
        // `0x00000402:  f7ff fffe  bl #0x...`
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let Some((address, rest)) = line.trim().split_once(':') else { continue };
            let address = address.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let halves = rest.split_whitespace();
            let halves = halves.take_while(|word| word.len() == 4 && u16::from_str_radix(word, 16).is_ok());
            if let Some(address) = address
                && let length @ 1..=2 = halves.take(2).count() as u32
            {
                found.insert(address, 2 * length);
            }
        }
        Ok((end, found))
    }
}

fn skip(run: &mut Run) -> Result<(), String> {
    let stage = Stage::find()?;
    let good = sign(&firmware(FLOOR, 0), &key(1)).map_err(|error| format!("{error:?}"))?;
    let mut changed = good.clone();
    changed[CODE_OFFSET as usize + 12] ^= 1;
    seal(&mut changed);
    let signed =
        |counter, seed| sign(&firmware(counter, 1), &key(seed)).map_err(|error| format!("{error:?}"));
    let cases = [
        case("changed after it was signed", &changed)?,
        case("signed with an unknown key", &signed(FLOOR, 9)?)?,
        case("not signed", &firmware(FLOOR, 1))?,
        case("older than what was confirmed", &signed(FLOOR - 1, 1)?)?,
    ];
    // The same flash with the firmware that belongs there boots: what is refused above is so for its firmware.
    let honest = case("as it was confirmed", &good)?;
    let (end, _) = Debugger::start(&stage.elf, &honest.flash, &[])?.boot(&stage, None);
    run.exactly("the confirmed firmware boots", "boots", u64::from(end == End::Ran), 1);
    // In the long form every instruction of the boot stage's own functions, and a sample of those of its libraries.
    let (stride, own) = (run.amount(21, 211) as usize, !run.is_short());
    let mut all: Vec<(usize, u32, u32)> = Vec::new();
    let mut accepted = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let (end, executed) = stage.executed(case)?;
        if end != End::Refused {
            accepted.push(format!("{}: {end:?} with nothing skipped", case.what));
            continue;
        }
        run.count(format!("{}: instructions executed", case.what), "instructions", executed.len() as f64);
        let first = run.seed as usize % stride;
        let chosen = executed.into_iter().enumerate();
        let chosen = chosen.filter(|(place, (at, _))| place % stride == first || (own && stage.is_own(*at)));
        all.extend(chosen.map(|(_, (at, length))| (index, at, length)));
    }
    let example = Some(accepted.join("; "));
    run.none(
        "of the firmwares not refused with nothing skipped",
        "firmwares",
        accepted.len() as u64,
        example,
    );
    if !accepted.is_empty() {
        return Ok(());
    }
    let done = AtomicU64::new(0);
    let (mut ends, mut ran, mut missed) = (BTreeMap::new(), Vec::new(), 0u64);
    for part in all.chunks(64) {
        let results: Vec<Result<(usize, u32, End, bool), String>> = part
            .par_iter()
            .map(|&(index, at, length)| {
                let boot = || {
                    let mut debugger = Debugger::start(&stage.elf, &cases[index].flash, &[])?;
                    Ok::<_, String>(debugger.boot(&stage, Some((at, length))))
                };
                let (mut end, mut met) = boot()?;
                // Not in time on a busy computer is no end of the boot stage's.
                if end == End::Hung {
                    (end, met) = boot()?;
                }
                Ok((index, at, end, met))
            })
            .collect();
        for result in results {
            let (index, at, end, met) = result?;
            missed += u64::from(!met);
            *ends.entry(end).or_insert(0u64) += 1;
            if end == End::Ran {
                ran.push(format!("{}, {}", stage.named(at), cases[index].what));
            }
        }
        run.progress(done.fetch_add(part.len() as u64, Ordering::Relaxed), all.len() as u64);
    }
    run.count("instructions skipped, each once in a boot of its own", "skips", all.len() as f64);
    run.count("of them not met", "skips", missed as f64);
    for (end, metric) in [
        (End::Refused, "of them refused as without the skip"),
        (End::Fault, "of them a fault, no firmware"),
        (End::Reset, "of them a reset"),
        (End::Hung, "of them neither in time, no firmware"),
    ] {
        run.count(metric, "skips", ends.get(&end).copied().unwrap_or(0) as f64);
    }
    run.none("of them ran the firmware", "skips", ran.len() as u64, Some(ran.join("; ")));
    Ok(())
}
