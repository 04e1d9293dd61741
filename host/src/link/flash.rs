//! Flash of a controller that runs on this machine: memory, and a file behind it where its content is to outlive
//! the process.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tendon_boot::{Boot, Layout};
use tendon_runtime::store::{Part, Refused, Store};

/// NOR flash with the geometry of the emulated boards: written in words of 4 bytes, erased in units of 4096.
///
/// A file is written before an operation returns, so a killed process leaves what a cut controller would. It is not
/// synced: a crash of this machine may lose more.
#[derive(Debug)]
pub struct HostFlash {
    bytes: Vec<u8>,
    file: Option<File>,
}

impl HostFlash {
    /// Erased flash in memory.
    #[must_use]
    pub fn memory(capacity: u32) -> Self {
        Self { bytes: vec![0xff; (capacity as usize).next_multiple_of(Self::ERASE_SIZE)], file: None }
    }

    /// Flash in a file; one that is not there yet is made, erased. A file of another length is refused.
    ///
    /// # Errors
    /// As the system says, or `InvalidData`.
    pub fn file(path: &Path, capacity: u32) -> io::Result<Self> {
        let capacity = (capacity as usize).next_multiple_of(Self::ERASE_SIZE);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            file.write_all_at(&vec![0xff; capacity], 0)?;
        } else if length != capacity as u64 {
            let text = format!("a flash file of this controller has {capacity} bytes, this one has {length}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = vec![0; capacity];
        file.read_exact(&mut bytes)?;
        Ok(Self { bytes, file: Some(file) })
    }

    /// What is in it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn change(
        &mut self,
        from: u32,
        len: usize,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), NorFlashErrorKind> {
        let bytes = self.bytes.get_mut(from as usize..).and_then(|bytes| bytes.get_mut(..len));
        let bytes = bytes.ok_or(NorFlashErrorKind::OutOfBounds)?;
        change(bytes);
        match &self.file {
            Some(file) => file.write_all_at(bytes, from.into()).map_err(|_| NorFlashErrorKind::Other),
            None => Ok(()),
        }
    }
}

impl ErrorType for HostFlash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for HostFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        let found = self.bytes.get(offset as usize..).and_then(|found| found.get(..bytes.len()));
        bytes.copy_from_slice(found.ok_or(NorFlashErrorKind::OutOfBounds)?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for HostFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        self.change(from, (to - from) as usize, |bytes| bytes.fill(0xff))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        self.change(offset, bytes.len(), |place| {
            for (to, from) in place.iter_mut().zip(bytes) {
                *to &= from;
            }
        })
    }
}

/// Writes an image into a flash without a controller, as a debug probe would, and confirms it.
///
/// # Errors
/// As the controller would refuse it.
pub fn install(
    flash: HostFlash,
    layout: Layout,
    board: &str,
    part: Part,
    image: &[u8],
) -> Result<HostFlash, Refused> {
    let mut boot = Boot::start(flash, layout, board);
    let total = image.len().min(u32::MAX as usize) as u32;
    boot.begin(part, total, 0, 0)?;
    boot.write(part, 0, image)?;
    boot.verify(part, total)?;
    boot.commit(part)?;
    // It is what boots, so there is nothing to try it against.
    let mut boot = match part {
        Part::Policy => boot,
        Part::Firmware => Boot::start(boot.into_flash(), layout, board),
    };
    boot.confirm(part)?;
    Ok(boot.into_flash())
}
