//! The controller as a process of its own over a pseudo-terminal: the same node and the same bytes as the
//! firmware, for machines without QEMU. It paces itself with the system's clock and promises no real time.

use super::flash::HostFlash;
use super::in_process::{ARENA, HISTORY, HostClock, OBSERVATION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tendon_boot::{Boot, Layout};
use tendon_runtime::Memory;
use tendon_runtime::node::{self, BoardInfo, Clock, Control, Loader};
use tendon_runtime::store::{Store, places};
use tendon_wire::frame::{Decoder, MAX_FRAME};

const INFO: BoardInfo = BoardInfo { name: "stand-in", firmware: env!("CARGO_PKG_VERSION") };
/// As the emulated boards, without firmware slots: this program is its own firmware.
const SLOT_LEN: u32 = 4 << 20;
const IDLE_PERIOD_US: u32 = 20_000;

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
    let line = std::fs::OpenOptions::new().read(true).write(true).open(&name)?;
    let mut settings = tcgetattr(&line)?;
    settings.make_raw();
    tcsetattr(&line, OptionalActions::Now, &settings)?;
    println!("{name}");
    std::io::stdout().flush()?;

    loop {
        flash = run(&master, flash, layout)?;
    }
}

/// From a boot to the next; gives the flash back.
fn run(master: &impl AsFd, flash: HostFlash, layout: Layout) -> std::io::Result<HostFlash> {
    let mut store = Boot::start(flash, layout, INFO.name);
    let words = SLOT_LEN as usize / 16;
    let (mut one, mut other) = (vec![0u128; words], vec![0u128; words]);
    let views = [bytemuck::cast_slice_mut(&mut one), bytemuck::cast_slice_mut(&mut other)];
    let [active, inactive] = places(&store.slots(), views);
    let (mut arena, mut self_test) = (vec![0.0; ARENA], vec![0.0; ARENA]);
    let (mut history, mut observation) = (vec![0.0; HISTORY], vec![0.0; OBSERVATION]);
    let memory = Memory { arena: &mut arena, history: &mut history, observation: &mut observation };
    let mut control = Control::new(active, memory);
    let mut loader = Loader::new(inactive, &mut self_test, store, &control);
    // Refused: there is no policy then, and `Slots` and `Identity` say so.
    let _ = loader.boot(&mut control);
    let clock = HostClock(Instant::now());
    let mut decoder = Decoder::new();
    let mut out = [0; MAX_FRAME];
    let mut bytes = [0; 4096];
    let mut next = Instant::now();
    let mut sequence = 0u16;
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
                        write_all(master, frame)?;
                    }
                    if loader.wants_restart() {
                        return Ok(loader.into_store().into_flash());
                    }
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= next {
            let period = Duration::from_micros(control.period_us().unwrap_or(IDLE_PERIOD_US).into());
            next = (next + period).max(Instant::now());
            let before = clock.now_us();
            if let Some(mut action) = control.timer(before) {
                let after = clock.now_us();
                action.tick_us = (after - before) as u32;
                control.tick_took(action.tick_us, after);
                sequence = sequence.wrapping_add(1);
                if let Some(frame) = node::write(&action, sequence, &mut out) {
                    write_all(master, frame)?;
                }
            }
        }
    }
}

fn write_all(master: &impl AsFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(master, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
