//! What lies in a controller's flash beside policy images: firmware images, signatures, and the records
//! that say what boots. All little-endian, without padding.
//!
//! A firmware image begins with the [`Header`] of a policy image, whose fields then mean:
//!
//! | field | firmware |
//! |---|---|
//! | `magic` | [`FIRMWARE_MAGIC`] |
//! | `robot_id` | the board it was built for |
//! | `schema_hash` | the address at which its vector table runs |
//! | `sections[0]` | the program, from [`CODE_OFFSET`] on, vector table first |
//! | `sections[5]` | the version, UTF-8 |
//! | `sections[7]` | the signature |

use crate::CRC32C;
use crate::image::{CRC_FROM, Header, Section, Span};
use bytemuck::{Pod, Zeroable};

/// First bytes of a firmware image.
pub const FIRMWARE_MAGIC: [u8; 4] = *b"TNDF";
/// Version of the firmware image.
pub const FIRMWARE_VERSION: u16 = 1;
/// Where the program begins in a firmware image: the alignment that a vector table needs.
pub const CODE_OFFSET: u32 = 1024;

/// Ed25519ph (RFC 8032, 5.1): Ed25519 over the SHA-512 of the covered bytes, with a context, so that flash is read
/// in pieces and a signature of one kind is none of another.
pub const ED25519PH: u32 = 1;
/// Context of the signature of a policy image.
pub const POLICY_CONTEXT: &[u8] = b"tendon policy 1";
/// Context of the signature of a firmware image.
pub const FIRMWARE_CONTEXT: &[u8] = b"tendon firmware 1";
/// Context of the signature of a [`KeySet`].
pub const KEYS_CONTEXT: &[u8] = b"tendon keys 1";

/// Public key, compressed as in RFC 8032. Zeros: no key.
pub type PublicKey = [u8; 32];

/// First bytes of a public key: which of two keys it is, for people and for signatures.
#[must_use]
pub const fn key_id(key: &PublicKey) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *key;
    [a, b, c, d, e, f, g, h]
}

/// The signature section. It covers the image from byte [`CRC_FROM`] to where this record begins, so also the
/// spans and the length in the header, but not the checksum, which covers the signature.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Signature {
    /// [`key_id`] of the key that signed.
    pub key_id: [u8; 8],
    /// [`ED25519PH`].
    pub scheme: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// R, then S.
    pub signature: [u8; 64],
}

/// Place of the signature of an image: `None` without one, `Err` when the record is not the last of the image.
///
/// # Errors
/// The span that does not hold.
pub fn signature_span(header: &Header) -> Result<Option<Span>, Span> {
    let span = header.sections[Section::Signature as usize];
    if span.len == 0 {
        return Ok(None);
    }
    let is_last = span.offset as usize >= size_of::<Header>()
        && span.len as usize == size_of::<Signature>()
        && span.offset.checked_add(span.len) == Some(header.total_len);
    if is_last { Ok(Some(span)) } else { Err(span) }
}

/// Writes the checksum of an image whose other bytes are complete.
pub fn seal(image: &mut [u8]) {
    let crc = CRC32C.checksum(image.get(CRC_FROM..).unwrap_or(&[]));
    if let Some(place) = image.get_mut(4..CRC_FROM) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The keys whose signatures a controller takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct KeySet {
    /// Times the keys were replaced, plus 1; 0: no keys.
    pub generation: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// Two keys; the second may be zeros.
    pub keys: [PublicKey; 2],
    /// Robot that the controller belongs to, UTF-8, zero-padded; zeros: any.
    pub robot_id: [u8; 32],
}

/// Version of [`KeyRecord`] and [`CommitRecord`].
pub const RECORD_VERSION: u32 = 1;

/// A [`KeySet`] in flash.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct KeyRecord {
    /// CRC-32C of the rest.
    pub crc32c: u32,
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The keys.
    pub keys: KeySet,
}

/// What boots. Records are appended; the newest that holds counts. Each says everything, so none is ever changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CommitRecord {
    /// CRC-32C of the rest.
    pub crc32c: u32,
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Counts records.
    pub sequence: u32,
    /// 1: keys were provisioned. A controller that finds this and no keys takes nothing.
    pub provisioned: u32,
    /// Policy, firmware.
    pub lines: [Line; 2],
}

/// The two slots of one kind of image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Line {
    /// Slot that boots; [`crate::message::NO_SLOT`]: none.
    pub confirmed: u8,
    /// Slot on trial; [`crate::message::NO_SLOT`]: none.
    pub trial: u8,
    /// Times the trial has been started.
    pub attempts: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// Smallest rollback counter that is taken.
    pub floor: u32,
    /// Checksum field of the image last committed to each slot; 0: none.
    pub crc32c: [u32; 2],
}

macro_rules! sealed_record {
    ($($name:ident)*) => { $(
        impl $name {
            /// With version and checksum.
            #[must_use]
            pub fn sealed(mut self) -> Self {
                self.version = RECORD_VERSION;
                self.crc32c = self.checksum();
                self
            }

            /// Whether version and checksum hold.
            #[must_use]
            pub fn holds(&self) -> bool {
                self.version == RECORD_VERSION && self.crc32c == self.checksum()
            }

            fn checksum(&self) -> u32 {
                CRC32C.checksum(bytemuck::bytes_of(self).get(size_of::<u32>()..).unwrap_or(&[]))
            }
        }
    )* };
}

sealed_record!(KeyRecord CommitRecord);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::message::NO_SLOT;

    #[test]
    fn golden_bytes_of_the_records() {
        assert_eq!(size_of::<Signature>(), 80);
        let signature = Signature {
            key_id: [1, 2, 3, 4, 5, 6, 7, 8],
            scheme: ED25519PH,
            reserved: 0,
            signature: [9; 64],
        };
        let bytes = bytemuck::bytes_of(&signature);
        assert_eq!(bytes[..16], [1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..], [9; 64]);

        let line = Line { confirmed: 0, trial: NO_SLOT, attempts: 2, reserved: 0, floor: 7, crc32c: [1, 2] };
        let record = CommitRecord { crc32c: 0, version: 0, sequence: 3, provisioned: 1, lines: [line; 2] };
        let record = record.sealed();
        let bytes = bytemuck::bytes_of(&record);
        assert_eq!(bytes.len(), 48);
        assert_eq!(bytes[4..16], [1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[16..32], [0, 0xff, 2, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);

        assert_eq!(size_of::<KeySet>(), 104);
        assert_eq!(size_of::<KeyRecord>(), 112);
    }

    #[test]
    fn a_record_with_a_flipped_bit_does_not_hold() {
        let record = CommitRecord { sequence: 9, ..CommitRecord::zeroed() }.sealed();
        assert!(record.holds());
        for bit in 0..8 * size_of::<CommitRecord>() {
            let mut flipped = record;
            bytemuck::bytes_of_mut(&mut flipped)[bit / 8] ^= 1 << (bit % 8);
            assert!(!flipped.holds(), "bit {bit}");
        }
        assert!(!CommitRecord::zeroed().holds());
        assert!(!bytemuck::pod_read_unaligned::<CommitRecord>(&[0xff; 48]).holds());
    }

    #[test]
    fn a_signature_is_the_last_thing_in_its_image() {
        let mut header = Header::zeroed();
        header.total_len = 256;
        assert_eq!(signature_span(&header), Ok(None));
        let good = Span { offset: 176, len: 80 };
        header.sections[Section::Signature as usize] = good;
        assert_eq!(signature_span(&header), Ok(Some(good)));
        for bad in [
            Span { offset: 160, len: 80 },
            Span { offset: 176, len: 79 },
            Span { offset: 64, len: 80 },
            Span { offset: u32::MAX, len: 80 },
        ] {
            header.sections[Section::Signature as usize] = bad;
            assert_eq!(signature_span(&header), Err(bad));
        }
    }
}
