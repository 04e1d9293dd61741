//! Bytes of the link: flipped, random, cut.

use super::{Campaign, Run};
use fastrand::Rng;
use rayon::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tendon_wire::frame::{Decoder, Frame, MAX_FRAME, MAX_PAYLOAD, encode};
use tendon_wire::message::Message;
use tendon_wire::mutation::Check;

#[path = "../../../wire/tests/examples/mod.rs"]
mod examples;

use examples::{frame, one_of_each};

pub(super) const FLIPS: Campaign =
    Campaign { name: "flips", gates: &[14], guards: &[Check::FrameCrc, Check::MessageLength], run: flips };

pub(super) const DECODER: Campaign =
    Campaign { name: "decoder", gates: &[13], guards: &[Check::FrameCrc], run: decoder };

pub(super) const RESYNC: Campaign =
    Campaign { name: "resync", gates: &[15], guards: &[Check::Resync], run: resync };

/// Whether a message came out of these bytes and the delimiter behind them.
fn is_believed(bytes: &[u8], decoder: &mut Decoder) -> bool {
    let mut believed = false;
    for byte in bytes.iter().chain(&[0]) {
        if let Some(Ok(frame)) = decoder.push(*byte) {
            believed |= Message::decode(frame.kind, frame.payload).is_ok();
        }
    }
    believed
}

/// Every flip of one bit and of two; random flips of three to thirty-two; every length of a payload that its
/// counts do not give.
fn flips(run: &mut Run) -> Result<(), String> {
    let messages = one_of_each();
    let total: u64 = messages.iter().map(|message| frame(message, 1).len() as u64 * 8).sum();
    let more = run.amount(100_000_000, 1_000_000) / total;
    let (done, tried, many, believed) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let example = Mutex::new(None);
    for message in &messages {
        let good = frame(message, 0x0102);
        let bits = good.len() * 8;
        let seed = run.seed << 8 | u64::from(message.kind());
        (0..bits).into_par_iter().for_each_init(
            || (Decoder::new(), good.clone()),
            |(decoder, bytes), first| {
                let flip = |bytes: &mut Vec<u8>, bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
                let mut judge = |bytes: &[u8], count: &AtomicU64| {
                    count.fetch_add(1, Ordering::Relaxed);
                    if is_believed(bytes, decoder) {
                        believed.fetch_add(1, Ordering::Relaxed);
                        let text = || format!("{message:?} as {bytes:02x?}");
                        example.lock().expect("no one panics here").get_or_insert_with(text);
                    }
                };
                flip(bytes, first);
                judge(bytes, &tried);
                for second in first + 1..bits {
                    flip(bytes, second);
                    judge(bytes, &tried);
                    flip(bytes, second);
                }
                let mut rng = Rng::with_seed(seed << 16 | first as u64);
                for _ in 0..more {
                    let mut bytes = good.clone();
                    for _ in 0..rng.usize(3..=32) {
                        flip(&mut bytes, rng.usize(..bits));
                    }
                    if bytes != good {
                        judge(&bytes, &many);
                    }
                }
                flip(bytes, first);
                done.fetch_add(1, Ordering::Relaxed);
            },
        );
        run.progress(done.load(Ordering::Relaxed), total);
    }
    run.count("message types", "types", messages.len() as f64);
    run.count("flips of one or two bits: all there are", "frames", tried.into_inner() as f64);
    run.count("random flips of three to 32 bits", "frames", many.into_inner() as f64);
    run.none("corrupt frames believed", "frames", believed.into_inner(), example.into_inner().ok().flatten());

    let (mut tried, mut believed, mut example) = (0, 0, None);
    let (mut payload, mut out, mut decoder) = ([0; MAX_PAYLOAD], [0; MAX_FRAME], Decoder::new());
    for message in &messages {
        let exact = message.encode(&mut payload).map_err(|error| error.to_string())?.len();
        for length in 0..(exact + 64).min(MAX_PAYLOAD) {
            if length == exact {
                continue;
            }
            let sent = Frame { kind: message.kind(), sequence: 1, payload: &payload[..length] };
            let bytes = encode(&sent, &mut out).map_err(|error| error.to_string())?;
            tried += 1;
            if is_believed(&bytes[..bytes.len() - 1], &mut decoder) {
                believed += 1;
                example.get_or_insert_with(|| format!("{message:?} in {length} bytes instead of {exact}"));
            }
        }
    }
    run.count("payloads of a wrong length, good CRC", "frames", f64::from(tried));
    run.none("of them believed", "frames", believed, example);
    Ok(())
}

/// Random bytes, with delimiters as seldom as in noise or as often as in short frames.
fn decoder(run: &mut Run) -> Result<(), String> {
    const BLOCK: usize = 1 << 16;
    let total = run.amount(1_000_000_000, 20_000_000);
    let blocks = total.div_ceil(BLOCK as u64);
    let (done, frames, believed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let seed = run.seed;
    let shards = rayon::current_num_threads() as u64;
    let batch = |from: u64, to: u64| {
        (0..shards).into_par_iter().for_each(|shard| {
            let mut decoder = Decoder::new();
            let mut bytes = vec![0; BLOCK];
            for block in (from..to).filter(|block| block % shards == shard) {
                let mut rng = Rng::with_seed(seed << 32 | block);
                rng.fill(&mut bytes);
                if rng.bool() {
                    let every = rng.usize(4..40);
                    bytes.iter_mut().step_by(every).for_each(|byte| *byte = 0);
                }
                for &byte in &bytes {
                    let Some(result) = decoder.push(byte) else { continue };
                    frames.fetch_add(1, Ordering::Relaxed);
                    let taken = result.is_ok_and(|frame| Message::decode(frame.kind, frame.payload).is_ok());
                    believed.fetch_add(u64::from(taken), Ordering::Relaxed);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    };
    let step = blocks.div_ceil(100).max(1);
    for from in (0..blocks).step_by(step as usize) {
        batch(from, (from + step).min(blocks));
        run.progress(done.load(Ordering::Relaxed), blocks);
    }
    run.count("random bytes", "bytes", (blocks * BLOCK as u64) as f64);
    run.count("runs of bytes that ended in a delimiter", "frames", frames.into_inner() as f64);
    run.none(
        "of them believed",
        "frames",
        believed.into_inner(),
        Some("a random frame was a message".into()),
    );
    Ok(())
}

/// A corrupt frame, then two good ones: the second decodes.
fn resync(run: &mut Run) -> Result<(), String> {
    let mut rng = Rng::with_seed(run.seed);
    let messages = one_of_each();
    let total = run.amount(1_000_000, 50_000);
    let (mut lost, mut first_lost, mut example) = (0, 0u64, None);
    for index in 0..total {
        let mut pick = |sequence| frame(&messages[rng.usize(..messages.len())], sequence);
        let (mut bad, first, second) = (pick(1), pick(2), pick(3));
        match rng.u8(0..5) {
            0 => bad.truncate(rng.usize(..bad.len())),
            1 => drop(bad.drain(..rng.usize(..bad.len()))),
            2 => {
                for _ in 0..rng.usize(1..8) {
                    let at = rng.usize(..bad.len());
                    bad[at] = rng.u8(..);
                }
            }
            3 => {
                let noise: Vec<u8> = (0..rng.usize(..4000)).map(|_| rng.u8(..)).collect();
                let at = rng.usize(..bad.len());
                bad.splice(at..at, noise);
            }
            _ => bad.retain(|_| rng.u8(0..16) != 0),
        }
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for byte in bad.iter().chain(&first).chain(&second) {
            if let Some(Ok(frame)) = decoder.push(*byte)
                && Message::decode(frame.kind, frame.payload).is_ok()
            {
                seen.push(frame.sequence);
            }
        }
        first_lost += u64::from(!seen.contains(&2));
        if seen.last() != Some(&3) {
            lost += 1;
            example.get_or_insert_with(|| format!("corruption {index}: {} bytes, saw {seen:?}", bad.len()));
        }
        if index % 4096 == 0 {
            run.progress(index, total);
        }
    }
    run.count("corruptions", "frames", total as f64);
    run.count("cost the first good frame as well", "frames", first_lost as f64);
    run.none("second good frame lost", "frames", lost, example);
    Ok(())
}
