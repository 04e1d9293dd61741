//! Bytes that both sides see, each defined once: link frames ([`frame`]), the message table
//! ([`message`]), the policy-image layout ([`image`]) and what lies in flash beside it ([`flash`]).
//!
//! `no_std`, no heap, no panic. Everything is little-endian.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("image records are read in place and need a little-endian target");

pub mod codec;
pub mod flash;
pub mod frame;
pub mod image;
pub mod message;
pub mod mutation;

/// CRC-32C (Castagnoli, as in iSCSI). Inside COBS a CRC-16 loses its Hamming distance, so every
/// checksum of the project is this one.
pub const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// FNV-1a, 64 bit: names a schema, guards against mix-ups and not against attackers.
#[must_use]
pub const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Start value of [`fnv1a`].
pub const FNV1A_START: u64 = 0xcbf2_9ce4_8422_2325;
