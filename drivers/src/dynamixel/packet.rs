//! Packets of Dynamixel Protocol 2.0: header, id, length, instruction, stuffed parameters, CRC-16.
//!
//! Source: <https://emanual.robotis.com/docs/en/dxl/protocol2/>. Robotis' CRC has polynomial 0x8005, start 0, nothing reflected: the
//! catalogue's CRC-16/UMTS.

use crate::frame::{Look, MAX_PACKET, after_header};
use crate::line::MAX_REQUEST;
use crc::{CRC_16_UMTS, Crc};

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_UMTS);
const HEADER: [u8; 4] = [0xFF, 0xFF, 0xFD, 0x00];
/// Bytes before those that the length counts.
const BEFORE: usize = 7;
/// Instruction, error, CRC.
const SHORTEST: usize = 4;

/// Every servo.
pub(crate) const BROADCAST: u8 = 0xFE;

/// Instructions.
pub(crate) mod instruction {
    pub(crate) const PING: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE: u8 = 0x03;
    pub(crate) const STATUS: u8 = 0x55;
    pub(crate) const SYNC_READ: u8 = 0x82;
    pub(crate) const SYNC_WRITE: u8 = 0x83;
}

/// A request.
pub(crate) type Request = heapless::Vec<u8, MAX_REQUEST>;
/// Parameters of an answer, as they were before stuffing.
pub(crate) type Parameters = heapless::Vec<u8, MAX_PACKET>;

/// Builds a request; longer ones than fit are empty, which no servo answers.
pub(crate) fn request(id: u8, instruction: u8, parameters: impl IntoIterator<Item = u8>) -> Request {
    build(id, instruction, parameters).unwrap_or_default()
}

fn build(id: u8, instruction: u8, parameters: impl IntoIterator<Item = u8>) -> Option<Request> {
    let mut out = Request::new();
    out.extend_from_slice(&HEADER).ok()?;
    out.extend_from_slice(&[id, 0, 0, instruction]).ok()?;
    for byte in parameters {
        out.push(byte).ok()?;
        // Three bytes of the header in the data: a fourth keeps them from being one.
        if ends_like_header(out.get(BEFORE..)?) {
            out.push(0xFD).ok()?;
        }
    }
    let [low, high] = u16::try_from(out.len() + 2 - BEFORE).ok()?.to_le_bytes();
    *out.get_mut(5)? = low;
    *out.get_mut(6)? = high;
    let crc = CRC.checksum(&out).to_le_bytes();
    out.extend_from_slice(&crc).ok()?;
    Some(out)
}

fn ends_like_header(bytes: &[u8]) -> bool {
    bytes.ends_with(&[0xFF, 0xFF, 0xFD])
}

/// For the scanner.
pub(crate) fn look(bytes: &[u8]) -> Look {
    after_header(bytes, &HEADER, |bytes| {
        let Some(&[low, high]) = bytes.get(5..BEFORE) else { return Look::More };
        let length = usize::from(u16::from_le_bytes([low, high]));
        let total = length + BEFORE;
        if length < SHORTEST || total > MAX_PACKET {
            return Look::Bad;
        }
        let Some(packet) = bytes.get(..total) else { return Look::More };
        let Some((body, crc)) = packet.split_last_chunk::<2>() else { return Look::Bad };
        if CRC.checksum(body).to_le_bytes() == *crc { Look::Packet(total) } else { Look::Bad }
    })
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) id: u8,
    /// Bit 7: the servo has a hardware error. Below: why it refused.
    pub(crate) error: u8,
    pub(crate) parameters: Parameters,
}

impl Status {
    /// Reads a packet that [`look`] found good; `None` when it is no answer (an echo, another master).
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let &[_, _, _, _, id, _, _, instruction::STATUS, error, ref rest @ ..] = packet else { return None };
        let (stuffed, _) = rest.split_last_chunk::<2>()?;
        let mut parameters = Parameters::new();
        let mut skip = false;
        for &byte in stuffed {
            if core::mem::take(&mut skip) && byte == 0xFD {
                continue;
            }
            parameters.push(byte).ok()?;
            skip = ends_like_header(&parameters);
        }
        Some(Self { id, error, parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Scanner;

    // The worked examples of the e-manual.
    const PING: [u8; 10] = [0xFF, 0xFF, 0xFD, 0, 1, 3, 0, 1, 0x19, 0x4E];
    const PONG: [u8; 14] = [0xFF, 0xFF, 0xFD, 0, 1, 7, 0, 0x55, 0, 6, 4, 0x26, 0x65, 0x5D];

    #[test]
    fn requests_are_the_bytes_of_the_manual() {
        assert_eq!(request(1, instruction::PING, []), PING);
        assert_eq!(
            request(1, instruction::READ, [0x84, 0, 4, 0]),
            [0xFF, 0xFF, 0xFD, 0, 1, 7, 0, 2, 0x84, 0, 4, 0, 0x1D, 0x15]
        );
        assert_eq!(
            request(BROADCAST, instruction::SYNC_READ, [0x84, 0, 4, 0, 1, 2]),
            [0xFF, 0xFF, 0xFD, 0, 0xFE, 9, 0, 0x82, 0x84, 0, 4, 0, 1, 2, 0xCE, 0xFA]
        );
        assert_eq!(
            request(BROADCAST, instruction::SYNC_WRITE, [0x74, 0, 4, 0, 1, 0x96, 0, 0, 0, 2, 0xAA, 0, 0, 0]),
            [
                0xFF, 0xFF, 0xFD, 0, 0xFE, 0x11, 0, 0x83, 0x74, 0, 4, 0, 1, 0x96, 0, 0, 0, 2, 0xAA, 0, 0, 0,
                0x82, 0x87
            ]
        );
    }

    #[test]
    fn reads_the_answer_of_the_manual() {
        assert_eq!(look(&PONG), Look::Packet(PONG.len()));
        let status = Status::read(&PONG).unwrap();
        assert_eq!((status.id, status.error, status.parameters.as_slice()), (1, 0, &[6, 4, 0x26][..]));
        assert_eq!(Status::read(&PING), None, "a request is no answer");
    }

    #[test]
    fn a_header_inside_the_data_is_stuffed_and_comes_back() {
        let data = [0xFF, 0xFF, 0xFD, 0xFF, 0xFF, 0xFD, 0xFD, 1];
        let packet = request(3, instruction::STATUS, [0].into_iter().chain(data));
        assert_eq!(packet.len(), 11 + data.len() + 2);
        assert_eq!(look(&packet), Look::Packet(packet.len()));
        assert_eq!(Status::read(&packet).unwrap().parameters, data);
    }

    #[test]
    fn every_flip_of_one_two_or_three_bits_is_refused() {
        let bits = PONG.len() * 8;
        let flip = |packet: &mut [u8; 14], bit: usize| packet[bit / 8] ^= 1 << (bit % 8);
        for a in 0..bits {
            for b in a..bits {
                for c in b..bits {
                    let mut packet = PONG;
                    for bit in [a, b, c] {
                        flip(&mut packet, bit);
                    }
                    // Twice the same bit is no flip: (a, a, c) is one flip.
                    assert!(packet == PONG || look(&packet) != Look::Packet(PONG.len()), "{a} {b} {c}");
                }
            }
        }
    }

    #[test]
    fn a_good_packet_behind_a_damaged_length_is_found() {
        let mut stream = [0; 28];
        stream[..14].copy_from_slice(&PONG);
        stream[14..].copy_from_slice(&PONG);
        stream[5] = 40;
        let mut scanner = Scanner::new(look);
        let (mut corrupt, mut found) = (0, 0);
        for byte in stream {
            scanner.push(byte);
            found += usize::from(scanner.next(&mut corrupt).is_some());
        }
        assert_eq!(found, 0, "it waits for the 47 bytes that the length promises");
        while scanner.give_up() {
            found += usize::from(scanner.next(&mut corrupt).is_some());
        }
        assert_eq!(found, 1);
    }
}
