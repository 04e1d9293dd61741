//! A servo bus on a serial port of Linux, as `embedded-io`.

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::OwnedFd;

/// How long one look at an empty line sleeps, us. Bytes end the sleep at once.
const LOOK_US: i64 = 50;
/// How long a port may take no bytes before it counts as broken, us.
const WRITE_US: i64 = 20_000;

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The system refused.
    #[error("port {port}: {source}; {}", advice(*.source))]
    Open {
        /// Path of the port.
        port: String,
        /// What the system said.
        source: Errno,
    },
    /// It is no terminal, or does not take the rate.
    #[error("port {port}: {source} at {baud} baud; it has to be a serial port that knows this rate")]
    Rate {
        /// Path of the port.
        port: String,
        /// Rate asked for.
        baud: u32,
        /// What the system said.
        source: Errno,
    },
}

fn advice(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS | Errno::PERM => {
            "add yourself to the group dialout (sudo usermod -aG dialout $USER) and log in again"
        }
        Errno::NOENT => "check the cable; `tendon doctor` lists the ports there are",
        Errno::BUSY => "another program has it open; close that first",
        _ => "`tendon doctor` lists the ports there are",
    }
}

/// The system's monotonic clock, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl MonotonicClock {
    /// Since boot of the system, ns.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    /// Since boot of the system, us.
    #[must_use]
    pub fn now_us(self) -> u64 {
        self.now_ns() / 1000
    }

    /// Sleeps until a time of this clock, ns. Signals do not shorten it.
    pub fn sleep_until_ns(self, at_ns: u64) {
        let at = Timespec { tv_sec: (at_ns / 1_000_000_000) as i64, tv_nsec: (at_ns % 1_000_000_000) as i64 };
        while rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &at) == Err(Errno::INTR) {}
    }
}

/// An open port. It never blocks longer than [`WRITE_US`].
#[derive(Debug)]
pub struct BusPort {
    port: OwnedFd,
    buffer: [u8; 256],
    from: usize,
    to: usize,
}

impl BusPort {
    /// Opens a port raw and for this program alone.
    ///
    /// # Errors
    /// [`PortError`].
    pub fn open(name: &str, baud: u32) -> Result<Self, PortError> {
        let open = |source| PortError::Open { port: name.into(), source };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = rustix::fs::open(name, flags, Mode::empty()).map_err(open)?;
        let rate = |source| PortError::Rate { port: name.into(), baud, source };
        let mut settings = tcgetattr(&port).map_err(rate)?;
        settings.make_raw();
        // A pseudo-terminal has no rate, and keeps the flag for one program alone when that was killed.
        let is_pty = name.starts_with("/dev/pts/");
        if !is_pty {
            settings.set_speed(baud).map_err(rate)?;
        }
        tcsetattr(&port, OptionalActions::Now, &settings).map_err(rate)?;
        if !is_pty {
            rustix::termios::ioctl_tiocexcl(&port).map_err(open)?;
        }
        tcflush(&port, QueueSelector::IOFlush).map_err(open)?;
        Ok(Self { port, buffer: [0; 256], from: 0, to: 0 })
    }

    /// Waits until the port is ready for `what`; false: it was not in time.
    fn wait(&self, what: PollFlags, us: i64) -> Result<bool, ErrorKind> {
        let mut fds = [PollFd::new(&self.port, what)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: us * 1000 })) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(kind(error)),
        }
    }
}

fn kind(error: Errno) -> ErrorKind {
    std::io::Error::from(error).kind().into()
}

impl ErrorType for BusPort {
    type Error = ErrorKind;
}

impl ReadReady for BusPort {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        // Hang-up counts as ready: the read after it tells.
        Ok(self.from < self.to || self.wait(PollFlags::IN, LOOK_US)?)
    }
}

impl Read for BusPort {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            match rustix::io::read(&self.port, &mut self.buffer) {
                Ok(0) => return Err(ErrorKind::BrokenPipe),
                Ok(read) => self.to = read,
                Err(error) => return Err(kind(error)),
            }
        }
        let count = out.len().min(self.to - self.from);
        out[..count].copy_from_slice(&self.buffer[self.from..self.from + count]);
        self.from += count;
        Ok(count)
    }
}

impl Write for BusPort {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        loop {
            match rustix::io::write(&self.port, bytes) {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !self.wait(PollFlags::OUT, WRITE_US)? {
                        return Err(ErrorKind::TimedOut);
                    }
                }
                Err(error) => return Err(kind(error)),
            }
        }
    }

    /// Bytes leave by themselves: waiting for the wire would cost the tick.
    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}
