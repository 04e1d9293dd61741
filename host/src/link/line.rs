//! The firmware for tests in QEMU, on the clock of the emulated board (`firmware/src/board/mps2/line.rs`).

use super::launch::{Temporary, launch_line};
use super::{LinkError, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};
use tendon_runtime::node;
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::Message;

/// Bytes sent at once; the firmware has room for more.
const PIECE: usize = 1024;
/// Longest that the board goes on alone, us of its clock.
const SLICE_US: u64 = 250;
/// Time of this computer in which the board has to ask: it does so every [`SLICE_US`] of its own, unless it waits for
/// its watchdog with interrupts off.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// A controller whose time stands still while the host is at work: what it does depends on what it is sent and when
/// on its own clock, never on how busy this computer is. Timeouts are of that clock.
#[derive(Debug)]
pub struct Line {
    child: Child,
    to_board: ChildStdin,
    from_board: ChildStdout,
    _flash: Option<Temporary>,
    /// The board's clock 0.
    start: Instant,
    /// Of the board, and of all that it had before its resets.
    now_us: u64,
    earlier_us: u64,
    /// The board waits for what comes next.
    is_asking: bool,
    outgoing: VecDeque<u8>,
    received: Vec<u8>,
    at: usize,
    decoder: Decoder,
    messages: VecDeque<(u16, Message)>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Line {
    /// Starts one with fresh flash, or with that of a file.
    ///
    /// # Errors
    /// [`LinkError::Launch`] with what is missing.
    pub fn launch(flash: Option<&Path>) -> Result<Self, LinkError> {
        let (mut child, flash) = launch_line(flash)?;
        let (Some(to_board), Some(from_board)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(gone("it has no standard input and output"));
        };
        Ok(Self {
            child,
            to_board,
            from_board,
            _flash: flash,
            start: Instant::now(),
            now_us: 0,
            earlier_us: 0,
            is_asking: false,
            outgoing: VecDeque::new(),
            received: Vec::new(),
            at: 0,
            decoder: Decoder::new(),
            messages: VecDeque::new(),
        })
    }

    /// Time of the board since its start, resets included.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.earlier_us + self.now_us
    }

    /// Puts bytes on the line, one after the other without a pause.
    pub fn put(&mut self, bytes: &[u8]) {
        self.outgoing.extend(bytes);
    }

    /// Bytes that are still to go out.
    #[must_use]
    pub fn outgoing(&self) -> usize {
        self.outgoing.len()
    }

    /// Lets the board go on for `wait_us`, or for as long as the next bytes take.
    fn answer(&mut self, wait_us: u64) -> Result<(), LinkError> {
        let len = self.outgoing.len().min(PIECE);
        let wait = if len > 0 { 0 } else { wait_us.max(1) as u32 };
        let mut bytes = Vec::with_capacity(8 + len);
        bytes.extend(wait.to_le_bytes());
        bytes.extend((len as u32).to_le_bytes());
        bytes.extend(self.outgoing.drain(..len));
        self.is_asking = false;
        self.to_board.write_all(&bytes).map_err(|error| gone(&error.to_string()))
    }

    /// Takes frames until the board asks.
    fn until_asked(&mut self) -> Result<(), LinkError> {
        while !self.is_asking {
            match self.received.get(self.at) {
                // A delimiter where no frame is: a question, with the time.
                Some(0) if self.received.len() >= self.at + 9 => {
                    let time: [u8; 8] = core::array::from_fn(|byte| self.received[self.at + 1 + byte]);
                    let time = u64::from_le_bytes(time);
                    if time < self.now_us {
                        self.earlier_us += self.now_us;
                    }
                    self.now_us = time;
                    self.at += 9;
                    self.is_asking = true;
                }
                Some(&first) if first != 0 && self.received[self.at..].contains(&0) => {
                    while let Some(&byte) = self.received.get(self.at) {
                        self.at += 1;
                        if let Some(Ok(frame)) = self.decoder.push(byte)
                            && let Ok(message) = Message::decode(frame.kind, frame.payload)
                        {
                            self.messages.push_back((frame.sequence, message));
                        }
                        if byte == 0 {
                            break;
                        }
                    }
                }
                _ => self.read_more()?,
            }
        }
        Ok(())
    }

    fn read_more(&mut self) -> Result<(), LinkError> {
        self.received.drain(..self.at);
        self.at = 0;
        let mut polled = [PollFd::from_borrowed_fd(self.from_board.as_fd(), PollFlags::IN)];
        loop {
            match poll(&mut polled, Some(&PATIENCE)) {
                Ok(0) => return Err(gone("the emulated board stands still")),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(gone(&error.to_string())),
            }
        }
        let mut bytes = [0; 4096];
        match self.from_board.read(&mut bytes) {
            Ok(0) => Err(gone("it ended; run it by hand to see why")),
            Ok(read) => {
                self.received.extend_from_slice(&bytes[..read]);
                Ok(())
            }
            Err(error) => Err(gone(&error.to_string())),
        }
    }
}

fn gone(problem: &str) -> LinkError {
    LinkError::Launch { program: "qemu-system-arm".into(), problem: problem.into() }
}

impl Transport for Line {
    fn send(&mut self, sequence: u16, message: &Message) -> Result<(), LinkError> {
        let mut out = [0; MAX_FRAME];
        let frame = node::write(message, sequence, &mut out).ok_or_else(|| LinkError::Encode {
            message: node::kind_name(message.kind()),
            reason: "longer than a frame".into(),
        })?;
        self.outgoing.extend(frame);
        Ok(())
    }

    fn receive(&mut self, timeout: Duration) -> Result<Option<(u16, Message)>, LinkError> {
        let end_us = self.now_us() + timeout.as_micros().min(u128::from(u32::MAX)) as u64;
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            let left_us = end_us.saturating_sub(self.now_us());
            if left_us == 0 && self.is_asking {
                return Ok(None);
            }
            if self.is_asking {
                self.answer(left_us.min(SLICE_US))?;
            }
            self.until_asked()?;
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us())
    }
}
