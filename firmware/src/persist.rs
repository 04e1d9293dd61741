//! Memory that a reset leaves alone: why the last start ended, and the black box. No stage of the boot and no
//! startup code writes it; after power on it holds anything, and is believed only where magic and CRC hold.
#![allow(unsafe_code, reason = "memory at an address that the linker script gives")]

use core::ptr::{read_volatile, write_volatile};
use tendon_runtime::timing::ResetCause;

const MAGIC: u32 = u32::from_le_bytes(*b"TNDP");
/// Magic, starts, cause of the next one, and their sum inverted; then the black box, 16-byte aligned.
const WORDS: usize = 4;

unsafe extern "C" {
    /// From `stack.x`.
    static mut _persist_start: u32;
    static _persist_len: u32;
}

fn word(index: usize) -> *mut u32 {
    (&raw mut _persist_start).wrapping_add(index)
}

fn read(index: usize) -> u32 {
    // SAFETY: the region holds more than `WORDS` words (asserted in `take`), and is no Rust object.
    unsafe { read_volatile(word(index)) }
}

fn write(starts: u32, cause: ResetCause) {
    let values = [MAGIC, starts, cause as u32];
    let check = !values.iter().fold(0u32, |sum, value| sum.wrapping_add(*value));
    for (index, value) in values.into_iter().chain([check]).enumerate() {
        // SAFETY: as in `read`. Called at boot, and when nothing comes after.
        unsafe { write_volatile(word(index), value) };
    }
}

/// Starts and cause that were left, if they hold.
fn left() -> Option<(u32, ResetCause)> {
    let [magic, starts, cause, check] = core::array::from_fn(read);
    let sum = magic.wrapping_add(starts).wrapping_add(cause);
    (magic == MAGIC && check == !sum)
        .then(|| (starts, ResetCause::from_code(cause as u8).unwrap_or_default()))
}

/// The next start is for this cause. Called right before a reset.
pub fn mark(cause: ResetCause) {
    write(left().map_or(0, |(starts, _)| starts), cause);
}

/// Cause of this start, starts since power on, and memory of the black box. Called once, at boot.
/// `hardware`: what the board's registers say.
pub fn take(hardware: Option<ResetCause>) -> (ResetCause, u32, &'static mut [u8]) {
    let (starts, cause) = left().unwrap_or((0, ResetCause::PowerOn));
    let starts = starts.wrapping_add(1);
    // Whoever resets without a mark comes from outside.
    write(starts, ResetCause::External);
    let length = (&raw const _persist_len).addr();
    // SAFETY: the region is in no other section (stack.x), lies behind the words above, and this is called
    // once: RTIC calls `init` once.
    let memory = unsafe {
        core::slice::from_raw_parts_mut(word(WORDS).cast::<u8>(), length.saturating_sub(4 * WORDS))
    };
    (hardware.unwrap_or(cause), starts, memory)
}
