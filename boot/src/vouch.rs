//! The second decision of what may run.

use crate::image::{self, Rules};
use crate::layout::Layout;
use crate::records::{Keys, stored};
use embedded_storage::nor_flash::NorFlash;
use tendon_runtime::store::Part;
use tendon_wire::mutation::{Check, removed};

/// What [`vouch`] answers where it refuses; no slot is there.
pub const REFUSED: u32 = u32::MAX;

/// Decides a second time whether a slot may run: the address at which it is seen in memory, or [`REFUSED`].
///
/// A glitch that makes the processor leave out an instruction spoils one of two decisions, if they share nothing but
/// flash and code. So this one reads keys, record and image again, keeps none of what [`crate::Boot`] remembers, writes nothing,
/// and is compiled apart from what asks for it: a register that the compiler kept for both decisions was a hole that the
/// campaign `skip` found. Give it `layout` and `board` anew.
#[inline(never)]
pub fn vouch<F: NorFlash>(flash: &mut F, layout: &Layout, board: &[u8; 32], part: Part, slot: u8) -> u32 {
    let Ok((record, keys)) = stored(flash, layout) else { return REFUSED };
    let keys = match &keys {
        Keys::None => None,
        Keys::Set(keys) => Some(keys),
        Keys::Damaged => return REFUSED,
    };
    let address = layout.address(part, slot);
    let floor = record.lines[part as usize].floor;
    let rules = Rules { keys, board, floor, address };
    let checked = image::check(flash, part, layout.slot(part, slot), &rules);
    if checked.is_ok() || removed(Check::BootVerify) { address } else { REFUSED }
}

/// The name of a board as images carry it.
#[must_use]
pub fn padded(name: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}
