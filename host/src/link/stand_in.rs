//! The controller as a process of its own over a pseudo-terminal: the same node and the same bytes as the
//! firmware, for machines without QEMU. It paces itself with the system's clock and promises no real time: a
//! tick counts as released when its thread gets to it, so that a busy machine is no missed deadline.

use super::DeadlineThread;
use super::flash::HostFlash;
use super::in_process::{ARENA, HISTORY, HostClock, OBSERVATION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tendon_boot::{Boot, Layout};
use tendon_runtime::Memory;
use tendon_runtime::deadline::Outlet;
use tendon_runtime::node::{self, BoardInfo, Control, Loader};
use tendon_runtime::store::{Store, places};
use tendon_runtime::timing::ResetCause;
use tendon_wire::frame::{Decoder, MAX_FRAME};

const INFO: BoardInfo = BoardInfo { name: "stand-in", firmware: env!("CARGO_PKG_VERSION") };
/// As the emulated boards, without firmware slots: this program is its own firmware.
const SLOT_LEN: u32 = 4 << 20;
const IDLE_PERIOD_US: u32 = 20_000;
/// Bytes of the black box.
const BLACK_BOX: usize = 256 << 10;

/// The way to the host. Frames of two threads do not mix.
#[derive(Clone)]
struct Line(Arc<(OwnedFd, Mutex<()>)>);

impl Line {
    fn write(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        let _whole = self.0.1.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            match rustix::io::write(&self.0.0, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Outlet for Line {
    fn send(&mut self, frame: &[u8]) {
        // A line that broke ends the process at the next answer.
        let _ = self.write(frame);
    }
}

/// Serves one controller for ever, whose flash is in a file or, without one, forgotten at the end. The first line of
/// standard output is the path of its port.
///
/// # Errors
/// When no pseudo-terminal is to be had, it breaks, or the file is no flash.
pub fn serve(flash: Option<&Path>) -> std::io::Result<()> {
    let layout = Layout::policies(SLOT_LEN, 4096);
    let mut flash = match flash {
        Some(path) => HostFlash::file(path, layout.capacity())?,
        None => HostFlash::memory(layout.capacity()),
    };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    // Held open so that the line stays up between two hosts, and raw before the first byte.
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open(&name)?;
    let mut settings = tcgetattr(&terminal)?;
    settings.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &settings)?;
    println!("{name}");
    std::io::stdout().flush()?;

    let line = Line(Arc::new((master, Mutex::new(()))));
    // What a restart leaves alone.
    let mut black_box = vec![0; BLACK_BOX];
    let mut boots = 0;
    loop {
        boots += 1;
        flash = run(&line, flash, layout, &mut black_box, boots)?;
    }
}

/// From a boot to the next, the `boots`th since the start of the process; gives the flash back.
fn run(
    line: &Line,
    flash: HostFlash,
    layout: Layout,
    black_box: &mut [u8],
    boots: u32,
) -> std::io::Result<HostFlash> {
    let master = &line.0.0;
    let mut store = Boot::start(flash, layout, INFO.name);
    let words = SLOT_LEN as usize / 16;
    let (mut one, mut other) = (vec![0u128; words], vec![0u128; words]);
    let views = [bytemuck::cast_slice_mut(&mut one), bytemuck::cast_slice_mut(&mut other)];
    let [active, inactive] = places(&store.slots(), views);
    let (mut arena, mut self_test) = (vec![0.0; ARENA], vec![0.0; ARENA]);
    let (mut history, mut observation) = (vec![0.0; HISTORY], vec![0.0; OBSERVATION]);
    let memory = Memory { arena: &mut arena, history: &mut history, observation: &mut observation };
    let cause = if boots == 1 { ResetCause::PowerOn } else { ResetCause::Software };
    let mut control = Control::new(active, memory).with_black_box(black_box).with_reset(cause, boots);
    let mut loader = Loader::new(inactive, &mut self_test, store, &control);
    // Refused: there is no policy then, and `Slots` and `Identity` say so.
    let _ = loader.boot(&mut control);
    let clock = HostClock(Instant::now());
    let mut decoder = Decoder::new();
    let mut out = [0; MAX_FRAME];
    let mut bytes = [0; 4096];
    let mut next = Instant::now();
    let mut deadline = DeadlineThread::start(line.clone(), clock)?;
    let mut period_us = IDLE_PERIOD_US;
    loop {
        let wait = next.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) if ready > 0 => {
                let read = rustix::io::read(master, &mut bytes)?;
                for &byte in &bytes[..read] {
                    let answer =
                        node::receive(byte, &mut decoder, &mut loader, &mut control, &INFO, &clock, &mut out);
                    if let Some(frame) = answer {
                        line.write(frame)?;
                    }
                    if loader.wants_restart() {
                        return Ok(loader.into_store().into_flash());
                    }
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let released = Instant::now();
        if released >= next {
            next = (next + Duration::from_micros(period_us.into())).max(released);
            deadline.released(released, period_us);
            let release = node::release(&mut control, &mut deadline, &clock, 0, period_us, &mut out);
            period_us = release.period_us.unwrap_or(IDLE_PERIOD_US);
        }
    }
}
