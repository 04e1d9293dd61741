//! Damaged and random bytes: rejected, never believed, never a panic.

mod examples;

use examples::{frame, one_of_each};
use fastrand::Rng;
use tendon_wire::frame::{Decoder, Frame, FrameError, MAX_FRAME, MAX_PAYLOAD, encode};
use tendon_wire::message::Message;

const fn in_release(release: usize, debug: usize) -> usize {
    if cfg!(debug_assertions) { debug } else { release }
}

/// Whether a delimiter follows these bytes and no frame came out of them.
fn is_rejected(bytes: &[u8], decoder: &mut Decoder) -> bool {
    bytes.iter().chain(&[0]).all(|byte| !matches!(decoder.push(*byte), Some(Ok(_))))
}

#[test]
fn rejects_every_one_and_two_bit_flip_of_every_message() {
    let mut decoder = Decoder::new();
    let mut flips = 0;
    for message in one_of_each() {
        let mut bytes = frame(&message, 0x0102);
        let bits = bytes.len() * 8;
        // A flip anywhere with one anywhere after it; debug builds take every 7th second bit.
        for first in 0..bits {
            bytes[first / 8] ^= 1 << (first % 8);
            assert!(is_rejected(&bytes, &mut decoder), "{message:?}: bit {first}");
            for second in (first + 1..bits).step_by(in_release(1, 7)) {
                bytes[second / 8] ^= 1 << (second % 8);
                assert!(is_rejected(&bytes, &mut decoder), "{message:?}: bits {first} and {second}");
                bytes[second / 8] ^= 1 << (second % 8);
                flips += 1;
            }
            bytes[first / 8] ^= 1 << (first % 8);
        }
        let mut whole = Decoder::new();
        assert!(!is_rejected(&bytes, &mut whole), "and the frame itself is good");
    }
    assert!(flips > in_release(900_000, 100_000), "{flips}");
}

#[test]
fn random_bytes_are_no_frames() {
    let mut rng = Rng::with_seed(1);
    let mut decoder = Decoder::new();
    let mut block = [0; 4096];
    let (mut taken, mut errors) = (0, 0);
    for _ in 0..in_release(10_000_000, 500_000) / block.len() + 1 {
        rng.fill(&mut block);
        // Delimiters as often as short frames have them, or almost never.
        if rng.bool() {
            let every = rng.usize(4..40);
            block.iter_mut().step_by(every).for_each(|byte| *byte = 0);
        }
        for byte in block {
            match decoder.push(byte) {
                Some(Ok(frame)) => taken += usize::from(Message::decode(frame.kind, frame.payload).is_ok()),
                Some(Err(_)) => errors += 1,
                None => {}
            }
        }
    }
    assert_eq!(taken, 0, "a CRC-32C holds once in 4e9 random frames");
    assert!(errors > 10_000);
}

#[test]
fn after_corruption_the_second_good_frame_decodes() {
    let mut rng = Rng::with_seed(2);
    let messages = one_of_each();
    for _ in 0..in_release(200_000, 5_000) {
        let mut pick = |sequence| frame(&messages[rng.usize(..messages.len())], sequence);
        let (mut bad, first, second) = (pick(1), pick(2), pick(3));
        match rng.u8(0..4) {
            0 => bad.truncate(rng.usize(..bad.len())),
            1 => drop(bad.drain(..rng.usize(..bad.len()))),
            2 => {
                for _ in 0..rng.usize(1..8) {
                    let at = rng.usize(..bad.len());
                    bad[at] = rng.u8(..);
                }
            }
            _ => {
                let noise: Vec<u8> = (0..rng.usize(..4000)).map(|_| rng.u8(..)).collect();
                let at = rng.usize(..bad.len());
                bad.splice(at..at, noise);
            }
        }
        let mut decoder = Decoder::new();
        let mut last = None;
        for byte in bad.iter().chain(&first).chain(&second) {
            if let Some(Ok(frame)) = decoder.push(*byte) {
                assert!(Message::decode(frame.kind, frame.payload).is_ok());
                last = Some(frame.sequence);
            }
        }
        assert_eq!(last, Some(3));
    }
}

#[test]
fn payloads_that_decode_encode_to_the_same_bytes() {
    let mut rng = Rng::with_seed(3);
    let mut payload = [0; MAX_PAYLOAD];
    let mut out = [0; MAX_PAYLOAD];
    let examples = one_of_each();
    let mut accepted = 0;
    for _ in 0..in_release(1_000_000, 20_000) {
        let example = &examples[rng.usize(..examples.len())];
        // Random from scratch, or a real payload with a few bytes changed.
        let length = if rng.bool() {
            let length = rng.usize(..120);
            rng.fill(&mut payload[..length]);
            length
        } else {
            let length = example.encode(&mut payload).unwrap().len();
            for _ in 0..rng.usize(..3) {
                payload[rng.usize(..length.max(1))] = rng.u8(..);
            }
            (length + rng.usize(..3)).saturating_sub(1)
        };
        let payload = &payload[..length];
        if let Ok(message) = Message::decode(example.kind(), payload) {
            accepted += 1;
            assert_eq!(message.encode(&mut out).unwrap(), payload, "{message:?}");
        }
    }
    assert!(accepted > in_release(50_000, 1_000), "{accepted}");
}

#[test]
fn a_payload_of_any_length_up_to_the_longest_makes_the_way() {
    let mut out = [0; MAX_FRAME];
    let mut rng = Rng::with_seed(4);
    let mut payload = [0; MAX_PAYLOAD + 1];
    rng.fill(&mut payload);
    let mut decoder = Decoder::new();
    for length in 0..=MAX_PAYLOAD {
        let sent = Frame { kind: 1, sequence: length as u16, payload: &payload[..length] };
        let bytes = encode(&sent, &mut out).unwrap();
        let mut frames = 0;
        for byte in bytes {
            if let Some(frame) = decoder.push(*byte) {
                assert_eq!(frame, Ok(sent));
                frames += 1;
            }
        }
        assert_eq!(frames, 1, "{length}");
    }
    let too_long = Frame { kind: 1, sequence: 0, payload: &payload };
    assert_eq!(encode(&too_long, &mut [0; 2 * MAX_FRAME]), Err(FrameError::TooLong));
}
