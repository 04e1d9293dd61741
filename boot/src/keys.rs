//! Keys: which may sign, and statements that replace them.

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha512};
use tendon_wire::flash::{KEYS_CONTEXT, KeySet, PublicKey, Signature};

use crate::image::is_signed_by;

/// A key that is not there.
const NONE: PublicKey = [0; 32];

/// Whether signatures of this key mean something: a point of the curve, in its one canonical form, not of small
/// order (for which a signature over anything can be made).
#[must_use]
pub fn is_usable(key: &PublicKey) -> bool {
    // Below 2^255 - 19, sign bit aside (RFC 8032, 5.1.3).
    let [first, middle @ .., last] = key;
    let is_canonical = *first < 0xed || middle.iter().any(|byte| *byte != 0xff) || *last & 0x7f != 0x7f;
    is_canonical && VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak())
}

/// The keys of a set that are there.
pub(crate) fn present(set: &KeySet) -> impl Iterator<Item = &PublicKey> {
    set.keys.iter().filter(|key| **key != NONE)
}

/// One or two usable, different keys.
pub(crate) fn are_usable(set: &KeySet) -> bool {
    let [first, second] = &set.keys;
    is_usable(first) && first != second && (*second == NONE || is_usable(second))
}

/// What a key signs to hand over to the keys of `set`.
#[must_use]
pub(crate) fn statement(set: &KeySet) -> Sha512 {
    Sha512::new_with_prefix(bytemuck::bytes_of(set))
}

/// Whether one of the keys that count now signed the handing over.
pub(crate) fn hands_over(current: &KeySet, next: &KeySet, signature: &Signature) -> bool {
    is_signed_by(current, statement(next), KEYS_CONTEXT, signature).is_ok()
}
