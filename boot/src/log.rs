//! Records in flash, through `sequential-storage`: appended, each with a checksum, the newest counts.
//!
//! The crate survives a cut between two operations and a torn write. What it does not expect is a page whose erase
//! was torn so that its two markers look fine; [`mend`] finds those before it is asked.

use core::hint::black_box;
use core::ops::Range;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use embedded_storage::nor_flash::NorFlash;
use embedded_storage_async::nor_flash as asynchronous;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::map::{MapConfig, MapStorage};

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Commit = 1,
    Keys = 2,
}

/// Flash did not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// Longest record with its kind, rounded up to the largest word.
const BUFFER: usize = 160;
/// Attempts to write a record that reads back as it was written.
const WRITES: u32 = 3;
/// Largest word the log crate knows.
const MAX_WORD: usize = 32;
/// Bits of a marker that have to be 0, as in `sequential-storage`.
const MARKED: u32 = 4;

/// The blocking flash as the crate wants it; its futures are ready at once.
struct Ready<'f, F>(&'f mut F);

impl<F: NorFlash> asynchronous::ErrorType for Ready<'_, F> {
    type Error = F::Error;
}

impl<F: NorFlash> asynchronous::ReadNorFlash for Ready<'_, F> {
    const READ_SIZE: usize = F::READ_SIZE;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), F::Error> {
        self.0.read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<F: NorFlash> asynchronous::NorFlash for Ready<'_, F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), F::Error> {
        self.0.erase(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), F::Error> {
        self.0.write(offset, bytes)
    }
}

/// Polls once: nothing here ever waits.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

type Map<'f, F> = MapStorage<u8, Ready<'f, F>, Cache<Uncached, Uncached, Uncached, u8>>;

fn map<F: NorFlash>(flash: &mut F, range: Range<u32>) -> Result<Map<'_, F>, Failed> {
    let config = MapConfig::try_new(range).map_err(|_| Failed)?;
    Ok(MapStorage::new(Ready(flash), config, Cache::new_uncached()))
}

/// The newest record of a kind.
pub(crate) fn read<F: NorFlash, const N: usize>(
    flash: &mut F,
    range: Range<u32>,
    kind: Kind,
) -> Result<Option<[u8; N]>, Failed> {
    let mut buffer = [0; BUFFER];
    let mut map = map(flash, range)?;
    now(map.fetch_item::<[u8; N]>(&mut buffer, &(kind as u8))).ok_or(Failed)?.map_err(|_| Failed)
}

/// Appends a record and reads it back.
pub(crate) fn append<F: NorFlash, const N: usize>(
    flash: &mut F,
    range: Range<u32>,
    kind: Kind,
    record: &[u8; N],
) -> Result<(), Failed> {
    for _ in 0..WRITES {
        let mut buffer = [0; BUFFER];
        let mut map = map(flash, range.clone())?;
        let stored = now(map.store_item_generic::<[u8; N]>(&mut buffer, &(kind as u8), record));
        if stored.ok_or(Failed)?.is_ok() && read(flash, range.clone(), kind)? == Some(*record) {
            return Ok(());
        }
    }
    Err(Failed)
}

/// What the markers of a page say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Open,
    Partial,
    Closed,
    /// An end without a start: a torn erase.
    Torn,
}

/// Erases again what a torn erase left: pages that look open and are not blank, and of two pages that look partly
/// filled the later one (it was being erased when the earlier one had begun to be filled).
pub(crate) fn mend<F: NorFlash>(flash: &mut F, range: Range<u32>) -> Result<(), Failed> {
    let unit = F::ERASE_SIZE as u32;
    for index in 0..range.end.saturating_sub(range.start) / unit {
        // Asked twice, each time from the range alone: a glitch in one answer must not erase what is whole.
        if is_torn(flash, black_box(&range), index)? && is_torn(flash, black_box(&range), index)? {
            let start = range.start.saturating_add(index.saturating_mul(unit));
            flash.erase(start, start.saturating_add(unit)).map_err(|_| Failed)?;
        }
    }
    Ok(())
}

/// Not inlined: two calls share nothing but their arguments.
#[inline(never)]
fn is_torn<F: NorFlash>(flash: &mut F, range: &Range<u32>, index: u32) -> Result<bool, Failed> {
    let unit = F::ERASE_SIZE as u32;
    let count = range.end.saturating_sub(range.start) / unit;
    let start = |index: u32| range.start.saturating_add(index.saturating_mul(unit));
    Ok(match page(flash, start(index))? {
        Page::Torn => true,
        Page::Open => !is_blank(flash, start(index), unit)?,
        // A log of one page has no page before: it would be its own.
        Page::Partial if count < 2 => false,
        Page::Partial => page(flash, start((index + count - 1) % count))? == Page::Partial,
        Page::Closed => false,
    })
}

fn page<F: NorFlash>(flash: &mut F, start: u32) -> Result<Page, Failed> {
    let mut is_marked = |at: u32| -> Result<bool, Failed> {
        let mut word = [0xff; MAX_WORD];
        let word = word.get_mut(..F::READ_SIZE).ok_or(Failed)?;
        flash.read(at, word).map_err(|_| Failed)?;
        Ok(word.iter().map(|byte| byte.count_zeros()).sum::<u32>() >= MARKED)
    };
    let end = start.saturating_add((F::ERASE_SIZE - F::READ_SIZE) as u32);
    Ok(match (is_marked(start)?, is_marked(end)?) {
        (true, true) => Page::Closed,
        (true, false) => Page::Partial,
        (false, true) => Page::Torn,
        (false, false) => Page::Open,
    })
}

fn is_blank<F: NorFlash>(flash: &mut F, start: u32, len: u32) -> Result<bool, Failed> {
    let mut block = [0; 64];
    for at in (0..len).step_by(block.len()) {
        flash.read(start.saturating_add(at), &mut block).map_err(|_| Failed)?;
        if block.iter().any(|byte| *byte != 0xff) {
            return Ok(false);
        }
    }
    Ok(true)
}
