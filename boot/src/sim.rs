//! NOR flash whose power can be cut at any operation, anywhere in it.
//!
//! An operation is one `write` or one `erase` of at most one erase unit; longer erases count once per unit. Reads
//! do not count. [`Flash::cut_at`] arms a cut: the operation with that number does only a part of its work and it
//! and everything after it fail, reads too, until [`Flash::power_on`]. What the part is, [`Tear`] says.
//!
//! Like real flash it can only clear bits by writing, and only a word that was erased may be written
//! ([`Flash::violations`] counts the others: a driver or a log that relies on more is not portable).

use crate::layout::Layout;
use crate::log::{self, Kind};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use std::vec;
use std::vec::Vec;

/// How much of the operation that is cut was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Nothing.
    Nothing,
    /// So many of its bytes, from the first; of the byte behind them, as many bits as the seed says.
    Bytes(u32, u64),
    /// Each byte whole, in part or not at all, by the seed.
    Random(u64),
    /// All of it, and then the power went.
    All,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no power.
    Cut,
    /// Wrong arguments.
    Arguments(NorFlashErrorKind),
}

impl NorFlashError for Failure {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Cut => NorFlashErrorKind::Other,
            Self::Arguments(kind) => *kind,
        }
    }
}

/// Stores the newest commit record again with one of its bits turned, as a fault of the memory that it came from would:
/// the log's own checksum holds, the record's does not. False: it has no such bit, or cannot be stored.
pub fn turn_record_bit<F: NorFlash>(flash: &mut F, layout: &Layout, bit: usize) -> bool {
    let range = layout.log.start..layout.log.end();
    let Ok(Some(mut record)) = log::read::<F, 48>(flash, range.clone(), Kind::Commit) else { return false };
    let Some(byte) = record.get_mut(bit / 8) else { return false };
    *byte ^= 1 << (bit % 8);
    log::append(flash, range, Kind::Commit, &record).is_ok()
}

/// The model. `WRITE`: bytes written at once; `ERASE`: bytes erased at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flash<const WRITE: usize = 4, const ERASE: usize = 4096> {
    bytes: Vec<u8>,
    operations: u64,
    cut: Option<(u64, Tear)>,
    is_off: bool,
    violations: u64,
}

impl<const WRITE: usize, const ERASE: usize> Flash<WRITE, ERASE> {
    /// Erased flash.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let bytes = vec![0xff; (capacity as usize).next_multiple_of(ERASE)];
        Self { bytes, operations: 0, cut: None, is_off: false, violations: 0 }
    }

    /// Operations since it was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Cuts the power in the operation that [`Flash::operations`] will have counted as `operation` (from 0).
    pub fn cut_at(&mut self, operation: u64, tear: Tear) {
        self.cut = Some((operation, tear));
    }

    /// Whether the cut has happened.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_off
    }

    /// Power is back, and no cut is armed.
    pub fn power_on(&mut self) {
        self.is_off = false;
        self.cut = None;
    }

    /// Writes to words that were not erased, other than over a word torn by a cut.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.violations
    }

    /// What is in it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Changes what is in it: bit rot, or an attacker with a probe.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Counts an operation on `range` that would leave `after(index, before)` in each byte.
    fn operate(&mut self, start: usize, len: usize, after: impl Fn(usize, u8) -> u8) -> Result<(), Failure> {
        if self.is_off {
            return Err(Failure::Cut);
        }
        let tear = self.cut.filter(|(at, _)| *at == self.operations).map(|(_, tear)| tear);
        self.operations += 1;
        let mut random = match tear {
            Some(Tear::Bytes(_, seed) | Tear::Random(seed)) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        for (index, byte) in self.bytes.iter_mut().skip(start).take(len).enumerate() {
            let whole = after(index, *byte);
            // Some of the bits that change have changed.
            let mut in_part = || *byte ^ ((*byte ^ whole) & random.u8(..));
            *byte = match tear {
                None | Some(Tear::All) => whole,
                Some(Tear::Nothing) => *byte,
                Some(Tear::Bytes(done, _)) if index < done as usize => whole,
                Some(Tear::Bytes(done, _)) if index == done as usize => in_part(),
                Some(Tear::Bytes(..)) => *byte,
                Some(Tear::Random(_)) => match random.u8(..3) {
                    0 => *byte,
                    1 => whole,
                    _ => {
                        let bits = random.u8(..);
                        *byte ^ ((*byte ^ whole) & bits)
                    }
                },
            };
        }
        self.is_off = tear.is_some();
        if self.is_off { Err(Failure::Cut) } else { Ok(()) }
    }
}

impl<const WRITE: usize, const ERASE: usize> ErrorType for Flash<WRITE, ERASE> {
    type Error = Failure;
}

impl<const WRITE: usize, const ERASE: usize> ReadNorFlash for Flash<WRITE, ERASE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Failure> {
        if self.is_off {
            return Err(Failure::Cut);
        }
        check_read(self, offset, bytes.len()).map_err(Failure::Arguments)?;
        bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const WRITE: usize, const ERASE: usize> NorFlash for Flash<WRITE, ERASE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Failure> {
        check_erase(self, from, to).map_err(Failure::Arguments)?;
        for start in (from as usize..to as usize).step_by(ERASE) {
            self.operate(start, ERASE, |_, _| 0xff)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Failure> {
        check_write(self, offset, bytes.len()).map_err(Failure::Arguments)?;
        if !self.is_off {
            let place = &self.bytes[offset as usize..][..bytes.len()];
            self.violations += u64::from(place.iter().any(|byte| *byte != 0xff));
        }
        self.operate(offset as usize, bytes.len(), |index, before| before & bytes[index])
    }
}
