//! The policy image `policy.tnd`: header, then sections, each at a multiple of [`ALIGN`].
//!
//! The records below are the layout: `#[repr(C)]`, little-endian, without padding, read in place
//! from flash. [`Layout::parse`] checks everything that can be said about bytes (magic, version,
//! CRC-32C, bounds, alignment); what the records mean is checked by `runtime`. Whose image it is, is
//! checked by the boot stage (`boot`): [`Section::Signature`].

mod contract;
mod network;

use crate::CRC32C;
use crate::mutation::{Check, removed};
use bytemuck::{Pod, Zeroable};
pub use contract::*;
pub use network::*;

/// First bytes of every image.
pub const MAGIC: [u8; 4] = *b"TNDP";
/// Version of this layout. A reader refuses any other.
pub const FORMAT_VERSION: u16 = 3;
/// Header and section starts lie at multiples of this; the image itself must as well.
pub const ALIGN: usize = 16;
/// Largest image: bounds every length before it is trusted.
pub const MAX_IMAGE: usize = 8 << 20;
/// The CRC covers the image from here to its end.
pub const CRC_FROM: usize = 8;

/// First 128 bytes of an image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// CRC-32C of `[CRC_FROM..total_len]`.
    pub crc32c: u32,
    /// Length of the image in bytes, header included.
    pub total_len: u32,
    /// [`FORMAT_VERSION`].
    pub format_version: u16,
    /// Reserved, 0.
    pub flags: u16,
    /// The controller refuses an image with a smaller counter than it has stored.
    pub rollback_counter: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// FNV-1a of the contract section: same value, same observations and actions. 0: no contract.
    pub schema_hash: u64,
    /// Robot the policy was made for, UTF-8, zero-padded.
    pub robot_id: [u8; 32],
    /// Where each [`Section`] lies, by its number.
    pub sections: [Span; 8],
}

/// A run of bytes of the image. Length 0: absent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Span {
    /// From the start of the image, a multiple of [`ALIGN`].
    pub offset: u32,
    /// In bytes.
    pub len: u32,
}

/// Sections of an image; the number is the place in [`Header::sections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// [`ContractHeader`], then joints, terms and actions, then values.
    Contract = 0,
    /// [`Operator`] records in order of execution.
    Operators = 1,
    /// Packed weights, tables and constant operands: words of 4 bytes.
    Weights = 2,
    /// One [`Plan`].
    Plan = 3,
    /// Golden vectors, `f32`: `n_inputs` then `n_outputs`, again and again.
    Golden = 4,
    /// JSON for people and host tools: the contract, where the network came from, operator names. The
    /// controller does not read it.
    Manifest = 5,
    /// [`AbstentionHeader`], then `f32` values: which observations are like the recorded ones.
    Abstention = 6,
    /// One [`crate::flash::Signature`] over everything before it; the last section, and the last bytes of the image.
    Signature = 7,
}

/// What is wrong with the bytes of an image: the field, and the value found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutError {
    /// Field of the header or section.
    pub field: &'static str,
    /// The value found there.
    pub value: u32,
    /// What the field has to be.
    pub expected: &'static str,
}

impl core::fmt::Display for LayoutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} is {} ({:#x}): expected {}", self.field, self.value, self.value, self.expected)
    }
}

impl core::error::Error for LayoutError {}

/// A view of an image whose bytes hold together.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    bytes: &'a [u8],
    header: &'a Header,
}

impl<'a> Layout<'a> {
    /// Checks magic, version, length, CRC, and that every section lies aligned inside the image
    /// and none overlaps the next. `bytes` may be longer than the image (a flash slot is).
    ///
    /// # Errors
    /// The first field that does not hold.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let error = |field, value, expected| Err(LayoutError { field, value, expected });
        let header = header(bytes)?;
        if header.magic != MAGIC {
            return error("magic", u32::from_le_bytes(header.magic), "TNDP: this is no policy image");
        }
        let total = header.total_len as usize;
        if total < size_of::<Header>() || total > MAX_IMAGE || total > bytes.len() {
            return error("total_len", header.total_len, "at least the header, at most the bytes there are");
        }
        let covered = bytes.get(CRC_FROM..total).unwrap_or(&[]);
        if CRC32C.checksum(covered) != header.crc32c && !removed(Check::ImageCrc) {
            return error("crc32c", header.crc32c, "the CRC-32C of the image: send it again");
        }
        if header.format_version != FORMAT_VERSION {
            return error("format_version", header.format_version.into(), "3: compile the policy again");
        }
        if header.flags != 0 || header.reserved != 0 {
            return error("flags", u32::from(header.flags) | header.reserved, "0: this version defines none");
        }
        let mut end = size_of::<Header>();
        for span in header.sections {
            if span.len == 0 {
                continue;
            }
            let offset = span.offset as usize;
            if !offset.is_multiple_of(ALIGN) || offset < end {
                return error("section offset", span.offset, "a multiple of 16 after the section before");
            }
            end = match offset.checked_add(span.len as usize) {
                Some(end) if end <= total => end,
                _ => return error("section length", span.len, "to end inside the image"),
            };
        }
        Ok(Self { bytes, header })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// Exactly the image, without what follows it in the slot.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes.get(..self.header.total_len as usize).unwrap_or(&[])
    }

    /// The bytes of a section; empty when absent.
    #[must_use]
    pub fn section(&self, section: Section) -> &'a [u8] {
        section_bytes(self.bytes, self.header, section)
    }
}

/// The header in place, with nothing checked but length and alignment.
///
/// # Errors
/// When the bytes are too few or not aligned.
pub fn header(bytes: &[u8]) -> Result<&Header, LayoutError> {
    let found = bytes.len().min(u32::MAX as usize) as u32;
    let head = bytes.get(..size_of::<Header>()).ok_or(LayoutError {
        field: "length",
        value: found,
        expected: "at least the 128 bytes of a header: the file is truncated",
    })?;
    bytemuck::try_from_bytes(head).map_err(|_| LayoutError {
        field: "address",
        value: head.as_ptr().addr() as u32,
        expected: "a multiple of 16: load the image into an aligned buffer",
    })
}

/// The bytes of `section`; empty when the header points outside.
#[must_use]
pub fn section_bytes<'a>(bytes: &'a [u8], header: &Header, section: Section) -> &'a [u8] {
    let [a, b, c, d, e, f, g, h] = header.sections;
    let span = match section {
        Section::Contract => a,
        Section::Operators => b,
        Section::Weights => c,
        Section::Plan => d,
        Section::Golden => e,
        Section::Manifest => f,
        Section::Abstention => g,
        Section::Signature => h,
    };
    let start = span.offset as usize;
    bytes.get(start..start.saturating_add(span.len as usize)).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// 16-byte aligned copy.
    fn aligned(bytes: &[u8]) -> Vec<u128> {
        let mut words = std::vec![0u128; bytes.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        words
    }

    fn small() -> Vec<u8> {
        let mut header = Header::zeroed();
        header.magic = MAGIC;
        header.format_version = FORMAT_VERSION;
        header.total_len = 160;
        header.rollback_counter = 7;
        header.robot_id[..2].copy_from_slice(b"r2");
        header.sections[Section::Weights as usize] = Span { offset: 128, len: 8 };
        header.sections[Section::Manifest as usize] = Span { offset: 144, len: 16 };
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.resize(160, 0x5a);
        let crc = CRC32C.checksum(&bytes[CRC_FROM..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn golden_header_fields_lie_where_they_always_lay() {
        let bytes = small();
        assert_eq!(bytes[..4], *b"TNDP");
        assert_eq!(bytes[8..12], 160u32.to_le_bytes(), "total_len");
        assert_eq!(bytes[12..14], 3u16.to_le_bytes(), "format_version");
        assert_eq!(bytes[16..20], 7u32.to_le_bytes(), "rollback_counter");
        assert_eq!(bytes[24..32], [0; 8], "schema_hash");
        assert_eq!(bytes[32..35], *b"r2\0", "robot_id");
        assert_eq!(bytes[80..88], [128, 0, 0, 0, 8, 0, 0, 0], "weights span");
        assert_eq!(size_of::<Header>(), 128);
        assert_eq!(size_of::<Operator>(), 64);
        assert_eq!(size_of::<View>(), 80);
        assert_eq!(size_of::<Window>(), 64);
        assert_eq!(size_of::<Plan>(), 48);
        assert_eq!(size_of::<MonitorRecord>(), 72);
        assert_eq!(size_of::<ContractHeader>(), 136);
        assert_eq!(size_of::<ProfileRecord>(), 64);
        assert_eq!(size_of::<SensorRecord>(), 20);
        assert_eq!(size_of::<AbstentionHeader>(), 40);
        assert_eq!(size_of::<JointRecord>(), 56);
        assert_eq!(size_of::<TermRecord>(), 12);
        assert_eq!(size_of::<ActionRecord>(), 28);
    }

    #[test]
    fn finds_sections_and_ignores_what_follows_the_image() {
        let mut bytes = small();
        bytes.extend([1; 16]);
        let words = aligned(&bytes);
        let layout = Layout::parse(bytemuck::cast_slice(&words)).unwrap();
        assert_eq!(layout.section(Section::Weights), [0x5a; 8]);
        assert_eq!(layout.section(Section::Golden), []);
        assert_eq!(layout.bytes().len(), 160);
    }

    #[test]
    fn rejects_every_truncation_and_every_bit_flip() {
        let bytes = small();
        let words = aligned(&bytes);
        let whole: &[u8] = &bytemuck::cast_slice(&words)[..160];
        assert!(Layout::parse(whole).is_ok());
        for length in 0..160 {
            assert!(Layout::parse(&whole[..length]).is_err(), "length {length}");
        }
        for bit in 0..160 * 8 {
            let mut flipped = words.clone();
            bytemuck::cast_slice_mut::<_, u8>(&mut flipped)[bit / 8] ^= 1 << (bit % 8);
            assert!(Layout::parse(&bytemuck::cast_slice(&flipped)[..160]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn rejects_sections_outside_overlapping_or_unaligned() {
        for span in [
            Span { offset: 128, len: 33 },
            Span { offset: 112, len: 8 },
            Span { offset: 129, len: 8 },
            Span { offset: 144, len: 17 },
            Span { offset: 0xffff_fff0, len: 0xffff_ffff },
        ] {
            let mut bytes = small();
            bytes[80..88].copy_from_slice(bytemuck::bytes_of(&span));
            let crc = CRC32C.checksum(&bytes[CRC_FROM..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            let words = aligned(&bytes);
            assert!(Layout::parse(bytemuck::cast_slice(&words)).is_err(), "{span:?}");
        }
    }
}
