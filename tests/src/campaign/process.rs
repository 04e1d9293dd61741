//! Processes that campaigns kill: this program under another word, and the bytes that pass between them.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tendon::link::{LinkError, Transport};
use tendon_wire::frame::Decoder;
use tendon_wire::message::Message;

/// This program as a child, given these words.
pub(super) fn child(words: &[&str]) -> Result<Child, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().map_err(|error| format!("cannot start a child of this program: {error}"))
}

/// Ends a child as a crash would, and waits for it.
pub(super) fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Sends a signal to a child.
pub(super) fn signal(child: &Child, signal: rustix::process::Signal) -> Result<(), String> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).map_err(|error| error.to_string())
}

/// Whether there is something to read within `timeout`, for each.
pub(super) fn ready<const N: usize>(
    files: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> Result<[bool; N], String> {
    let mut polled = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
    let wait = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    match poll(&mut polled, Some(&wait)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(polled.map(|polled| polled.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)))
}

/// A serial port as bytes.
pub(super) fn open_port(path: &Path) -> Result<File, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::options().read(true).write(true).open(path).map_err(fail)?;
    let mut settings = tcgetattr(&file).map_err(|error| fail(error.into()))?;
    settings.make_raw();
    tcsetattr(&file, OptionalActions::Now, &settings).map_err(|error| fail(error.into()))?;
    Ok(file)
}

/// What is there to read, without waiting for more.
pub(super) fn read_some(mut file: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; 4096];
    let read = file.read(&mut bytes).map_err(|error| error.to_string())?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The link of a host whose parent carries the bytes: standard input and output.
#[derive(Default)]
pub(super) struct Pipe {
    decoder: Decoder,
    bytes: VecDeque<u8>,
}

impl Transport for Pipe {
    fn send(&mut self, sequence: u16, message: &Message) -> Result<(), LinkError> {
        let mut out = std::io::stdout().lock();
        let sent = out.write_all(&super::world::framed(message, sequence)).and_then(|()| out.flush());
        sent.map_err(|error| LinkError::Launch { program: "parent".into(), problem: error.to_string() })
    }

    fn receive(&mut self, timeout: Duration) -> Result<Option<(u16, Message)>, LinkError> {
        let fail = |problem: String| LinkError::Launch { program: "parent".into(), problem };
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(byte) = self.bytes.pop_front() {
                if let Some(Ok(frame)) = self.decoder.push(byte)
                    && let Ok(message) = Message::decode(frame.kind, frame.payload)
                {
                    return Ok(Some((frame.sequence, message)));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let input = std::io::stdin();
            if !ready([input.as_fd()], left).map_err(fail)?[0] {
                return Ok(None);
            }
            let bytes = read_some(input.lock()).map_err(fail)?;
            if bytes.is_empty() {
                return Err(fail("it is gone".into()));
            }
            self.bytes.extend(bytes);
        }
    }
}
