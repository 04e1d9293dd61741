//! A half-duplex line: one request out, its echo away, answers in, all within a time.

use crate::frame::{Look, Scanner};
use crate::{BusError, Clock, Counters};
use embedded_io::{Error, Read, ReadReady, Write};

/// Longest request.
pub(crate) const MAX_REQUEST: usize = 320;

/// Whether the adapter gives back what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    /// It does not (U2D2, Waveshare and most USB adapters).
    #[default]
    None,
    /// Every byte sent comes back first (one wire joined to RX and TX).
    Full,
}

/// How the line is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Bits per second.
    pub baud: u32,
    /// Silence after which no further answer is expected, us. Response delay of the servo plus latency of the
    /// adapter and the system.
    pub silence_us: u32,
    /// Echo.
    pub echo: Echo,
    /// Requests sent again in one tick.
    pub retries: u8,
}

impl Timing {
    /// 1 ms of silence, no echo, three retries a tick.
    #[must_use]
    pub fn new(baud: u32) -> Self {
        Self { baud, silence_us: 1_000, echo: Echo::None, retries: 3 }
    }

    /// Time of so many bytes on the wire, us: 10 bits each.
    #[must_use]
    pub fn wire_us(&self, bytes: u32) -> u32 {
        let us = u64::from(bytes).saturating_mul(10_000_000).checked_div(u64::from(self.baud)).unwrap_or(0);
        us.min(u32::MAX.into()) as u32
    }
}

/// Port, scanner and counters.
#[derive(Debug)]
pub(crate) struct Line<P> {
    port: P,
    scanner: Scanner,
    pub(crate) timing: Timing,
    pub(crate) counters: Counters,
    /// Echoed bytes of requests without answer that are still to come.
    owed: usize,
}

/// Most stale bytes that are thrown away before a request; more means that somebody else talks.
const STALE: usize = 4096;

impl<P: Read + ReadReady + Write> Line<P> {
    pub(crate) fn new(port: P, timing: Timing, look: fn(&[u8]) -> Look) -> Self {
        Self { port, scanner: Scanner::new(look), timing, counters: Counters::default(), owed: 0 }
    }

    pub(crate) fn into_port(self) -> P {
        self.port
    }

    /// Sends a request that nobody answers.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<(), BusError> {
        if self.timing.echo == Echo::Full {
            self.owed = self.owed.saturating_add(request.len());
        }
        self.transmit(request)
    }

    fn transmit(&mut self, request: &[u8]) -> Result<(), BusError> {
        self.counters.requests = self.counters.requests.wrapping_add(1);
        let mut rest = request;
        // Not `write_all`, which panics when a port takes nothing.
        while !rest.is_empty() {
            match self.port.write(rest).map_err(broken)? {
                0 => return Err(BusError::Port(embedded_io::ErrorKind::WriteZero)),
                taken => rest = rest.get(taken..).unwrap_or(&[]),
            }
        }
        self.port.flush().map_err(broken)
    }

    /// Sends a request and gives every good packet to `take` until it says that it has all (true), the line
    /// has been silent too long, or `until_us`. False: not all came.
    pub(crate) fn ask(
        &mut self,
        request: &[u8],
        until_us: u64,
        clock: Clock<'_>,
        mut take: impl FnMut(&[u8], &mut Counters) -> bool,
    ) -> Result<bool, BusError> {
        self.forget()?;
        self.transmit(request)?;
        let mut owed = core::mem::take(&mut self.owed);
        let wire = u64::from(self.timing.wire_us(request.len() as u32));
        let silence = u64::from(self.timing.silence_us);
        let mut heard_us = clock().saturating_add(wire);
        let mut echo = if self.timing.echo == Echo::Full { request } else { &[] };
        loop {
            if self.port.read_ready().map_err(broken)? {
                let Some(byte) = self.byte()? else { continue };
                heard_us = clock().max(heard_us);
                if owed > 0 {
                    owed -= 1;
                    continue;
                }
                if let Some((&sent, rest)) = echo.split_first() {
                    if byte == sent {
                        echo = rest;
                        continue;
                    }
                    self.counters.bad_echoes = self.counters.bad_echoes.wrapping_add(1);
                    echo = &[];
                }
                self.scanner.push(byte);
                if self.deliver(&mut take) {
                    return Ok(true);
                }
            } else {
                let now = clock();
                if now >= until_us || now > heard_us.saturating_add(silence) {
                    break;
                }
            }
        }
        // A damaged length may have swallowed a good packet behind it.
        while self.scanner.give_up() {
            if self.deliver(&mut take) {
                return Ok(true);
            }
        }
        self.counters.timeouts = self.counters.timeouts.wrapping_add(1);
        Ok(false)
    }

    fn deliver(&mut self, take: &mut impl FnMut(&[u8], &mut Counters) -> bool) -> bool {
        loop {
            let mut corrupt = self.counters.corrupt;
            let packet = self.scanner.next(&mut corrupt);
            self.counters.corrupt = corrupt;
            let Some(packet) = packet else { return false };
            if take(packet, &mut self.counters) {
                return true;
            }
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, BusError> {
        let mut byte = [0];
        let read = self.port.read(&mut byte).map_err(broken)?;
        if read == 0 {
            // End of file where bytes were promised: a terminal whose other end is gone.
            return Err(BusError::Port(embedded_io::ErrorKind::BrokenPipe));
        }
        Ok(byte.first().copied())
    }

    /// Late answers to the request before are no answers to this one.
    fn forget(&mut self) -> Result<(), BusError> {
        self.scanner.clear();
        for _ in 0..STALE {
            if !self.port.read_ready().map_err(broken)? {
                break;
            }
            self.byte()?;
            self.owed = self.owed.saturating_sub(1);
        }
        Ok(())
    }
}

fn broken(error: impl Error) -> BusError {
    BusError::Port(error.kind())
}
