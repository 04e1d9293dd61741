//! Any bytes as a policy image, magic, CRC and schema hash put right so that the checks behind them are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tendon_runtime::Image;
use tendon_wire::image::{CRC_FROM, Header, MAGIC};
use tendon_wire::{CRC32C, FNV1A_START, fnv1a};

fuzz_target!(|bytes: &[u8]| {
    let mut slot = vec![0u128; bytes.len().div_ceil(16)];
    let slot: &mut [u8] = aligned(&mut slot, bytes);
    if slot.len() >= size_of::<Header>() {
        slot[..4].copy_from_slice(&MAGIC);
        let total = slot.len() as u32;
        slot[8..12].copy_from_slice(&total.to_le_bytes());
        let word =
            |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]) as usize;
        let (start, len) = (word(64), word(68));
        let hash = match slot.get(start..start.saturating_add(len)) {
            Some(contract) if len > 0 => fnv1a(FNV1A_START, contract),
            _ => 0,
        };
        slot[24..32].copy_from_slice(&hash.to_le_bytes());
        let crc = CRC32C.checksum(&slot[CRC_FROM..]);
        slot[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let Ok(image) = Image::parse(slot) else { return };
    let policy = image.policy(slot).expect("an admitted image has its content");
    let plan = policy.network.plan();
    let mut arena = vec![0.0; plan.arena_len as usize];
    let input = vec![0.5; plan.n_inputs as usize];
    let output = policy.network.run(&input, &mut arena).expect("an admitted image runs");
    assert_eq!(output.len(), plan.n_outputs as usize);
});

/// `bytes` in aligned memory.
fn aligned<'a>(slot: &'a mut [u128], bytes: &[u8]) -> &'a mut [u8] {
    let slot = bytemuck::cast_slice_mut(slot);
    let slot: &mut [u8] = &mut slot[..bytes.len()];
    slot.copy_from_slice(bytes);
    slot
}
