//! Packets of Feetech's STS series: two header bytes, id, length, instruction or error, parameters, checksum.
//!
//! Source: Feetech, "Communication protocol user manual" of the SMS/STS series (the frame is that of Dynamixel Protocol 1.0). Nothing is
//! stuffed, and the checksum is the complement of a sum: it finds every single wrong bit, but one in about 256
//! damaged packets passes. What it lets through has to pass `track` as well.

use crate::frame::{Look, MAX_PACKET, after_header};
use crate::line::MAX_REQUEST;

const HEADER: [u8; 2] = [0xFF, 0xFF];
/// Bytes before those that the length counts.
const BEFORE: usize = 4;
/// Error and checksum.
const SHORTEST: usize = 2;

/// Every servo.
pub(crate) const BROADCAST: u8 = 0xFE;
/// Most parameters of one packet: the length is a byte.
pub(crate) const MOST: usize = 253;

/// Instructions.
pub(crate) mod instruction {
    pub(crate) const PING: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE: u8 = 0x03;
    pub(crate) const SYNC_READ: u8 = 0x82;
    pub(crate) const SYNC_WRITE: u8 = 0x83;
}

/// A request.
pub(crate) type Request = heapless::Vec<u8, MAX_REQUEST>;

/// Builds a request; longer ones than fit are empty, which no servo answers.
pub(crate) fn request(id: u8, instruction: u8, parameters: impl IntoIterator<Item = u8>) -> Request {
    build(id, instruction, parameters).unwrap_or_default()
}

fn build(id: u8, instruction: u8, parameters: impl IntoIterator<Item = u8>) -> Option<Request> {
    let mut out = Request::new();
    out.extend_from_slice(&HEADER).ok()?;
    out.extend_from_slice(&[id, 0, instruction]).ok()?;
    for byte in parameters {
        out.push(byte).ok()?;
    }
    *out.get_mut(3)? = u8::try_from(out.len() + 1 - BEFORE).ok()?;
    let sum = checksum(out.get(2..)?);
    out.push(sum).ok()?;
    Some(out)
}

fn checksum(bytes: &[u8]) -> u8 {
    !bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte))
}

/// For the scanner.
pub(crate) fn look(bytes: &[u8]) -> Look {
    after_header(bytes, &HEADER, |bytes| {
        // Three in a row: the header begins one later.
        if bytes.get(2) == Some(&0xFF) {
            return Look::No;
        }
        let Some(&length) = bytes.get(3) else { return Look::More };
        let total = usize::from(length) + BEFORE;
        if usize::from(length) < SHORTEST || total > MAX_PACKET {
            return Look::Bad;
        }
        let Some(packet) = bytes.get(..total) else { return Look::More };
        let Some((sum, body)) = packet.split_last() else { return Look::Bad };
        if checksum(body.get(2..).unwrap_or(&[])) == *sum { Look::Packet(total) } else { Look::Bad }
    })
}

/// An answer: id, error, parameters.
pub(crate) fn status(packet: &[u8]) -> Option<(u8, u8, &[u8])> {
    let [_, _, id, _, error, rest @ ..] = packet else { return None };
    let (_, parameters) = rest.split_last()?;
    Some((*id, *error, parameters))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The worked examples of Feetech's protocol manual.
    const PONG: [u8; 6] = [0xFF, 0xFF, 1, 2, 0, 0xFC];
    const POSITION: [u8; 8] = [0xFF, 0xFF, 1, 4, 0, 0x18, 5, 0xDD];

    #[test]
    fn requests_are_the_bytes_of_the_manual() {
        assert_eq!(request(1, instruction::PING, []), [0xFF, 0xFF, 1, 2, 1, 0xFB]);
        assert_eq!(request(1, instruction::READ, [0x38, 2]), [0xFF, 0xFF, 1, 4, 2, 0x38, 2, 0xBE]);
    }

    #[test]
    fn reads_the_answers_of_the_manual() {
        assert_eq!(look(&PONG), Look::Packet(6));
        assert_eq!(look(&POSITION), Look::Packet(8));
        assert_eq!(status(&POSITION), Some((1, 0, &[0x18, 5][..])));
    }

    #[test]
    fn every_flip_of_one_bit_is_refused() {
        for bit in 0..POSITION.len() * 8 {
            let mut packet = POSITION;
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(look(&packet), Look::Packet(8), "bit {bit}");
        }
    }
}
