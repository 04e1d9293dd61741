//! PSRAM of the MPS2 boards, which QEMU backs with a file: it is treated as NOR flash.
#![allow(unsafe_code, reason = "memory at a fixed address")]

use core::ptr::{read_volatile, write_volatile};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use tendon_boot::Layout;

/// Where PSRAM is seen (Arm DAI 0386, 0500, 0505).
const PSRAM: u32 = if cfg!(feature = "qemu-an505") {
    0x8000_0000
} else if cfg!(feature = "qemu-an500") {
    0x6000_0000
} else {
    0x2100_0000
};
const LEN: usize = 16 << 20;

/// Where things lie.
pub const LAYOUT: Layout = Layout { mapped_at: PSRAM, ..Layout::QEMU };
/// Whether writing stalls the core.
pub const STALLS: bool = false;

/// The flash.
#[derive(Debug)]
pub struct Psram(());

impl Psram {
    /// The one flash of the board.
    pub fn take() -> Self {
        Self(())
    }
}

fn address(offset: u32) -> *mut u8 {
    (PSRAM + offset) as *mut u8
}

impl ErrorType for Psram {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Psram {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        // SAFETY: inside PSRAM (checked), which no variable of this program lies in.
        unsafe { core::ptr::copy_nonoverlapping(address(offset), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn capacity(&self) -> usize {
        LEN
    }
}

impl NorFlash for Psram {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        for offset in (from..to).step_by(4) {
            // SAFETY: as in `read`; aligned, because erase units are.
            unsafe { write_volatile(address(offset).cast::<u32>(), u32::MAX) };
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        for (word, offset) in bytes.as_chunks::<4>().0.iter().zip((offset..).step_by(4)) {
            let place = address(offset).cast::<u32>();
            // SAFETY: as in `erase`. Bits are only cleared, as in flash.
            unsafe { write_volatile(place, read_volatile(place) & u32::from_le_bytes(*word)) };
        }
        Ok(())
    }
}
