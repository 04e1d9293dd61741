//! A serial port: a board's, QEMU's, or the pseudo-terminal of the stand-in.

use super::{LinkError, Transport};
use serialport::{SerialPort, TTYPort};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};
use tendon_runtime::node;
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::Message;

/// Bits per second, where a port has such a thing: what the boards use (docs/boards.md).
const BAUD: u32 = 1_000_000;

/// Longest wait for a controller that takes no bytes.
const SEND: Duration = Duration::from_secs(5);

/// An open port.
pub struct Serial {
    name: String,
    port: TTYPort,
    decoder: Decoder,
    buffer: Vec<u8>,
    at: usize,
}

impl Serial {
    /// Opens a port by its path.
    ///
    /// # Errors
    /// [`LinkError::Open`].
    pub fn open(name: &str) -> Result<Self, LinkError> {
        let open = |source| LinkError::Open { port: name.into(), source };
        let baud = if name.starts_with("/dev/pts/") { 115_200 } else { BAUD };
        let port =
            serialport::new(name, baud).timeout(Duration::from_millis(1)).open_native().map_err(open)?;
        port.clear(serialport::ClearBuffer::Input).map_err(open)?;
        Ok(Self { name: name.into(), port, decoder: Decoder::new(), buffer: Vec::new(), at: 0 })
    }

    /// Appends what arrives within `wait` to the bytes not yet looked at.
    fn read_more(&mut self, wait: Duration) -> Result<(), LinkError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut bytes = [0; 4096];
        let _ = self.port.set_timeout(wait);
        match self.port.read(&mut bytes) {
            Ok(read) => self.buffer.extend_from_slice(&bytes[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(self.io(error)),
        }
        Ok(())
    }

    fn io(&self, source: std::io::Error) -> LinkError {
        LinkError::Io { port: self.name.clone(), source }
    }
}

impl Transport for Serial {
    fn send(&mut self, sequence: u16, message: &Message) -> Result<(), LinkError> {
        let mut out = [0; MAX_FRAME];
        let frame = node::write(message, sequence, &mut out).ok_or_else(|| LinkError::Encode {
            message: node::kind_name(message.kind()),
            reason: "longer than a frame".into(),
        })?;
        let mut rest = frame;
        let deadline = Instant::now() + SEND;
        while !rest.is_empty() {
            let _ = self.port.set_timeout(Duration::from_millis(20));
            match self.port.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    if Instant::now() > deadline {
                        let waiting_for = node::kind_name(message.kind());
                        return Err(LinkError::Timeout { waiting_for, timeout: SEND });
                    }
                    // The controller may be waiting for us to take what it sent.
                    self.read_more(Duration::from_millis(1))?;
                }
                Err(error) => return Err(self.io(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, timeout: Duration) -> Result<Option<(u16, Message)>, LinkError> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(&byte) = self.buffer.get(self.at) {
                self.at += 1;
                if let Some(Ok(frame)) = self.decoder.push(byte)
                    && let Ok(message) = Message::decode(frame.kind, frame.payload)
                {
                    return Ok(Some((frame.sequence, message)));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.read_more(left.clamp(Duration::from_millis(1), Duration::from_millis(200)))?;
        }
    }
}
