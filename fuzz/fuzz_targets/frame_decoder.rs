//! Any bytes through the decoder; what comes out is encoded and decoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tendon_wire::frame::{Decoder, MAX_FRAME, encode};
use tendon_wire::message::Message;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new();
    for byte in bytes {
        let Some(Ok(frame)) = decoder.push(*byte) else { continue };
        let _ = Message::decode(frame.kind, frame.payload);
        let mut out = [0; MAX_FRAME];
        let encoded = encode(&frame, &mut out).expect("a received frame fits a frame");
        let mut again = Decoder::new();
        let mut last = None;
        for byte in encoded {
            last = again.push(*byte).map(|result| result == Ok(frame));
        }
        assert_eq!(last, Some(true));
    }
});
