//! Link frames: `COBS(kind u8 | sequence u16 | payload | CRC-32C) 00`.
//!
//! The CRC covers kind, sequence and payload. A receiver that starts in the middle, or loses
//! bytes, is in step again at the next `00`.

use crate::CRC32C;
use crate::codec::Sink;
use crate::mutation::{Check, removed};

/// Longest frame content before COBS: kind, sequence, payload, CRC.
pub const MAX_CONTENT: usize = 2304;
/// Longest payload of a message.
pub const MAX_PAYLOAD: usize = MAX_CONTENT - HEADER - TRAILER;
/// Longest frame on the link, delimiter included.
pub const MAX_FRAME: usize = MAX_CONTENT + MAX_CONTENT / 254 + 2;

const HEADER: usize = 3;
const TRAILER: usize = 4;
const DELIMITER: u8 = 0;

/// A received frame whose CRC held. The payload is not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Row of the message table.
    pub kind: u8,
    /// Counts frames per direction and wraps; a reply repeats the request's number.
    pub sequence: u16,
    /// Fields of the message.
    pub payload: &'a [u8],
}

/// Why bytes did not become a frame, or a message not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// More bytes without delimiter, or in a payload, than any frame has.
    TooLong,
    /// Fewer bytes than kind, sequence and CRC take.
    TooShort,
    /// A COBS code points past the end.
    Cobs,
    /// The CRC-32C does not match.
    Crc,
    /// The output buffer cannot hold the frame.
    BufferFull,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "longer than the longest frame",
            Self::TooShort => "shorter than kind, sequence and CRC",
            Self::Cobs => "COBS code points past the end",
            Self::Crc => "CRC-32C does not match",
            Self::BufferFull => "output buffer too small for the frame",
        })
    }
}

impl core::error::Error for FrameError {}

/// Writes one frame, delimiter included, and returns its bytes.
///
/// # Errors
/// [`FrameError::TooLong`] for a payload beyond [`MAX_PAYLOAD`], which no decoder takes;
/// [`FrameError::BufferFull`] when `out` is shorter than the encoded frame.
pub fn encode<'o>(frame: &Frame<'_>, out: &'o mut [u8]) -> Result<&'o [u8], FrameError> {
    if frame.payload.len() > MAX_PAYLOAD {
        return Err(FrameError::TooLong);
    }
    encode_with(frame.kind, frame.sequence, out, |payload| payload.put(frame.payload))
}

/// As [`encode`], of a payload that `write` hands over piece by piece; it returns whether all was taken.
///
/// # Errors
/// As [`encode`].
pub fn encode_with(
    kind: u8,
    sequence: u16,
    out: &mut [u8],
    write: impl FnOnce(&mut PayloadWriter<'_>) -> bool,
) -> Result<&[u8], FrameError> {
    let writer = CobsWriter { out: &mut *out, code_at: 0, next: 1, code: 1 };
    let mut payload = PayloadWriter { writer, digest: CRC32C.digest(), left: MAX_CONTENT - TRAILER };
    let [low, high] = sequence.to_le_bytes();
    if !payload.put(&[kind, low, high]) {
        return Err(FrameError::BufferFull);
    }
    let whole = write(&mut payload);
    let PayloadWriter { mut writer, digest, left } = payload;
    if !whole {
        return Err(if left == 0 { FrameError::TooLong } else { FrameError::BufferFull });
    }
    for byte in digest.finalize().to_le_bytes() {
        writer.push(byte)?;
    }
    let length = writer.finish()?;
    out.get(..length).ok_or(FrameError::BufferFull)
}

/// Takes the payload of one frame.
pub struct PayloadWriter<'o> {
    writer: CobsWriter<'o>,
    digest: crc::Digest<'static, u32>,
    /// Bytes of content that may still come.
    left: usize,
}

impl Sink for PayloadWriter<'_> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            self.left = 0;
            return false;
        };
        self.left = left;
        self.digest.update(bytes);
        bytes.iter().all(|byte| self.writer.push(*byte).is_ok())
    }
}

struct CobsWriter<'o> {
    out: &'o mut [u8],
    code_at: usize,
    next: usize,
    code: u8,
}

impl CobsWriter<'_> {
    fn put(&mut self, at: usize, byte: u8) -> Result<(), FrameError> {
        *self.out.get_mut(at).ok_or(FrameError::BufferFull)? = byte;
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), FrameError> {
        self.put(self.code_at, self.code)?;
        self.code_at = self.next;
        self.next += 1;
        self.code = 1;
        Ok(())
    }

    fn push(&mut self, byte: u8) -> Result<(), FrameError> {
        if byte != 0 {
            self.put(self.next, byte)?;
            self.next += 1;
            self.code += 1;
        }
        if byte == 0 || self.code == 0xff {
            self.close_block()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<usize, FrameError> {
        self.put(self.code_at, self.code)?;
        self.put(self.next, DELIMITER)?;
        Ok(self.next + 1)
    }
}

/// Collects bytes of the link into frames. State: one buffer; work per byte: constant, plus one
/// pass over the frame at its delimiter.
#[derive(Debug)]
pub struct Decoder {
    buffer: [u8; MAX_FRAME],
    length: usize,
    too_long: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; MAX_FRAME], length: 0, too_long: false }
    }

    /// Takes one byte; at a delimiter returns the frame, or why the bytes before it were none.
    /// Repeated delimiters are silence.
    pub fn push(&mut self, byte: u8) -> Option<Result<Frame<'_>, FrameError>> {
        if byte != DELIMITER {
            match self.buffer.get_mut(self.length) {
                Some(place) => {
                    *place = byte;
                    self.length += 1;
                }
                None => self.too_long = true,
            }
            return None;
        }
        let length = self.length;
        if !removed(Check::Resync) {
            self.length = 0;
        }
        if core::mem::take(&mut self.too_long) {
            return Some(Err(FrameError::TooLong));
        }
        if length == 0 {
            return None;
        }
        Some(self.buffer.get_mut(..length).ok_or(FrameError::TooLong).and_then(open))
    }
}

/// Removes COBS in place and checks the CRC. `bytes` holds no delimiter.
fn open(bytes: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    let mut from = 0;
    let mut to = 0;
    while let Some(&code) = bytes.get(from) {
        let copied = usize::from(code).checked_sub(1).ok_or(FrameError::Cobs)?;
        from += 1;
        let end = from + copied;
        if end > bytes.len() {
            return Err(FrameError::Cobs);
        }
        while from < end {
            if let Some(&byte) = bytes.get(from)
                && let Some(place) = bytes.get_mut(to)
            {
                *place = byte;
            }
            from += 1;
            to += 1;
        }
        if code != 0xff && from < bytes.len() {
            if let Some(place) = bytes.get_mut(to) {
                *place = 0;
            }
            to += 1;
        }
    }
    let content = bytes.get(..to).ok_or(FrameError::Cobs)?;
    let (body, crc) = content.split_last_chunk::<TRAILER>().ok_or(FrameError::TooShort)?;
    let (&[kind, low, high], payload) = body.split_first_chunk::<HEADER>().ok_or(FrameError::TooShort)?;
    if CRC32C.checksum(body) != u32::from_le_bytes(*crc) && !removed(Check::FrameCrc) {
        return Err(FrameError::Crc);
    }
    Ok(Frame { kind, sequence: u16::from_le_bytes([low, high]), payload })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn content(frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = std::vec![frame.kind];
        bytes.extend(frame.sequence.to_le_bytes());
        bytes.extend(frame.payload);
        let crc = CRC32C.checksum(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    type Received = Result<(u8, u16, Vec<u8>), FrameError>;

    fn decode(bytes: &[u8]) -> Vec<Received> {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for &byte in bytes {
            if let Some(result) = decoder.push(byte) {
                frames.push(result.map(|f| (f.kind, f.sequence, f.payload.to_vec())));
            }
        }
        frames
    }

    #[test]
    fn agrees_with_the_cobs_crate_at_every_length_and_zero_pattern() {
        let mut out = [0; MAX_FRAME];
        for length in [0, 1, 2, 245, 246, 247, 248, 253, 254, 255, 500, 510, 1000, MAX_PAYLOAD] {
            for stride in [0, 1, 2, 7, 254, 255] {
                let payload: Vec<u8> = (0..length)
                    .map(|i| if stride != 0 && i % stride == 0 { 0 } else { (i % 255) as u8 + 1 })
                    .collect();
                let frame = Frame { kind: 7, sequence: 0x1234, payload: &payload };
                let bytes = encode(&frame, &mut out).unwrap();
                let (last, body) = bytes.split_last().unwrap();
                assert_eq!(*last, 0);
                assert!(!body.contains(&0));
                assert_eq!(cobs::decode_vec(body).unwrap(), content(&frame));
                assert_eq!(decode(bytes), [Ok((7, 0x1234, payload))]);
            }
        }
    }

    #[test]
    fn golden_bytes_of_an_empty_hello() {
        // 02 01: kind 1, then a zero; 01: the second zero of the sequence; 05: four bytes of CRC.
        let mut out = [0; 16];
        let bytes = encode(&Frame { kind: 1, sequence: 0, payload: &[] }, &mut out).unwrap();
        let crc = CRC32C.checksum(&[1, 0, 0]).to_le_bytes();
        let mut expected = std::vec![0x02, 0x01, 0x01, 0x05];
        expected.extend(crc);
        expected.push(0);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn rejects_every_one_and_two_bit_flip() {
        let mut out = [0; 64];
        let frame = Frame { kind: 3, sequence: 9, payload: &[0, 1, 2, 0, 0xff, 0, 5] };
        let good = encode(&frame, &mut out).unwrap().to_vec();
        let bits = good.len() * 8;
        for first in 0..bits {
            for second in first..bits {
                let mut bad = good.clone();
                bad[first / 8] ^= 1 << (first % 8);
                if second != first {
                    bad[second / 8] ^= 1 << (second % 8);
                }
                bad.push(0);
                assert!(decode(&bad).iter().all(|f| f.is_err()), "bits {first} and {second}");
            }
        }
    }

    #[test]
    fn is_in_step_again_after_the_next_delimiter() {
        let mut out = [0; 64];
        let good = encode(&Frame { kind: 3, sequence: 9, payload: &[1, 0, 2] }, &mut out).unwrap().to_vec();
        for cut in 0..good.len() {
            let mut bytes = good[..cut].to_vec();
            bytes.extend(&good);
            bytes.extend(&good);
            let frames = decode(&bytes);
            assert_eq!(frames.last().unwrap().as_ref().unwrap().0, 3, "cut at {cut}");
            assert!(frames.len() >= 2, "cut at {cut}");
        }
    }

    #[test]
    fn discards_a_flood_without_delimiter() {
        let mut bytes = std::vec![1; 3 * MAX_FRAME];
        bytes.push(0);
        assert_eq!(decode(&bytes), [Err(FrameError::TooLong)]);
    }

    #[test]
    fn says_when_the_buffer_is_too_small() {
        let mut out = [0; 8];
        let frame = Frame { kind: 3, sequence: 9, payload: &[1, 2, 3] };
        assert_eq!(encode(&frame, &mut out), Err(FrameError::BufferFull));
    }
}
