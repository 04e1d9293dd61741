//! The line of a firmware for tests (feature `inject`): bytes come and go through QEMU's semihosting, at times of the
//! emulated clock.
//!
//! A received byte raises `LINK_RX` by the dual timer (Arm DDI 0479), a byte time of 1 Mbaud after the one before it was taken;
//! where the UART would have it in its register, it is in memory here. When there is no byte left the host says what
//! comes next, and while it thinks the emulated processor, and with it its clock, stands still. So ticks, deadlines
//! and bytes meet at the same instants in every run, however busy the host is.
//!
//! From the host: [wait us u32][length u32][bytes]. To the host: frames as they are on a line, and for each question
//! a delimiter where no frame is, followed by the clock, [us u64].

use super::{BoardClock, write};
use crate::board::Acknowledge;
use core::convert::Infallible;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use tendon_runtime::node::Clock;
use tendon_wire::frame::MAX_FRAME;

const DUAL_TIMER: usize = 0x4000_2000;
/// Its interrupt.
pub(super) const RX_IRQ: u16 = 10;
const LOAD: usize = DUAL_TIMER;
const CTRL: usize = DUAL_TIMER + 0x8;
const CLEAR: usize = DUAL_TIMER + 0xc;
/// Enabled, with its interrupt, 32 bits.
const CTRL_ON: u32 = 0b1110_0010;
const COUNTS_PER_US: u32 = 25;
/// Ten bits at 1 Mbaud, us.
const BYTE_US: u32 = 10;
/// From the start to the first question, us.
const FIRST_US: u32 = 1000;
/// Bytes that the host sends at once.
const ROOM: usize = 2048;

/// Semihosting operations (Arm IHI 0095).
const SYS_OPEN: usize = 0x1;
const SYS_WRITE: usize = 0x5;
const SYS_READ: usize = 0x6;
/// Modes of `fopen`.
const MODE_READ: usize = 1;
const MODE_WRITE: usize = 5;

fn call(operation: usize, parameters: &[usize; 3]) -> usize {
    let result;
    // SAFETY: QEMU takes the call, reads the parameters, and writes at most where SYS_READ's say.
    unsafe {
        core::arch::asm!("bkpt 0xab", inlateout("r0") operation => result, in("r1") parameters.as_ptr());
    }
    result
}

fn open(path: &[u8], mode: usize) -> usize {
    // Without the zero at its end.
    call(SYS_OPEN, &[path.as_ptr() as usize, mode, path.len().saturating_sub(1)])
}

/// Receiving half.
pub struct Rx {
    input: usize,
    output: usize,
    clock: BoardClock,
    bytes: [u8; ROOM],
    at: usize,
    len: usize,
    /// A byte has arrived.
    is_ready: bool,
}

/// Sending half. A frame leaves at its end.
pub struct Tx {
    output: usize,
    frame: [u8; MAX_FRAME],
    len: usize,
}

/// Both halves, through QEMU's standard input and output.
pub(super) fn take(clock: BoardClock) -> (Rx, Tx) {
    let input = open(b"/dev/stdin\0", MODE_READ);
    let output = open(b"/dev/stdout\0", MODE_WRITE);
    let rx = Rx { input, output, clock, bytes: [0; ROOM], at: 0, len: 0, is_ready: false };
    Rx::next_in(FIRST_US);
    write(CTRL, CTRL_ON);
    (rx, Tx { output, frame: [0; MAX_FRAME], len: 0 })
}

impl Rx {
    /// Starts the timer anew: QEMU's does not go on by itself.
    fn next_in(us: u32) {
        write(LOAD, us.saturating_mul(COUNTS_PER_US));
    }

    /// Asks the host for what comes next.
    fn ask(&mut self) {
        let mut question = [0; 9];
        if let Some(time) = question.last_chunk_mut::<8>() {
            *time = self.clock.now_us().to_le_bytes();
        }
        call(SYS_WRITE, &[self.output, question.as_ptr() as usize, question.len()]);
        let mut header = [0; 8];
        read_all(self.input, &mut header);
        let [wait, len] =
            [[header[0], header[1], header[2], header[3]], [header[4], header[5], header[6], header[7]]]
                .map(u32::from_le_bytes);
        self.at = 0;
        self.len = (len as usize).min(ROOM);
        if let Some(bytes) = self.bytes.get_mut(..self.len) {
            read_all(self.input, bytes);
        }
        let byte = if self.len > 0 { BYTE_US } else { 0 };
        Self::next_in(wait.saturating_add(byte).max(1));
    }
}

fn read_all(file: usize, mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let left = call(SYS_READ, &[file, bytes.as_mut_ptr() as usize, bytes.len()]);
        // Nothing came: the host is gone, and QEMU ends with it.
        let from = bytes.len().saturating_sub(left);
        bytes = bytes.get_mut(from..).unwrap_or_default();
    }
}

impl Acknowledge for Rx {
    fn acknowledge(&mut self) {
        write(CLEAR, 1);
        self.is_ready = self.at < self.len;
        if self.is_ready {
            Self::next_in(BYTE_US);
        } else {
            self.ask();
        }
    }
}

impl ErrorType for Rx {
    type Error = Infallible;
}

impl ReadReady for Rx {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.is_ready)
    }
}

impl Read for Rx {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let (Some(place), Some(byte)) = (buffer.first_mut(), self.bytes.get(self.at)) else { return Ok(0) };
        *place = *byte;
        self.at += 1;
        self.is_ready = false;
        if self.at == self.len {
            self.ask();
        }
        Ok(1)
    }
}

impl Acknowledge for Tx {
    fn acknowledge(&mut self) {}
}

impl ErrorType for Tx {
    type Error = Infallible;
}

impl WriteReady for Tx {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(true)
    }
}

impl Write for Tx {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        let Some(&byte) = buffer.first() else { return Ok(0) };
        if let Some(place) = self.frame.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
        if byte == 0 {
            call(SYS_WRITE, &[self.output, self.frame.as_ptr() as usize, self.len]);
            self.len = 0;
        }
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
