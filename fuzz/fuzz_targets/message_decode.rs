//! First byte: kind; the rest: payload. What decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tendon_wire::frame::MAX_PAYLOAD;
use tendon_wire::message::Message;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, payload)) = bytes.split_first() else { return };
    if let Ok(message) = Message::decode(*kind, payload) {
        let mut out = [0; MAX_PAYLOAD];
        assert_eq!(message.encode(&mut out).expect("a decoded message fits a payload"), payload);
    }
});
