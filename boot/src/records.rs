//! What the records in flash say of keys, slots and rollback floors.

use crate::layout::Layout;
use crate::log::{self, Kind};
use bytemuck::Zeroable;
use embedded_storage::nor_flash::NorFlash;
use tendon_wire::flash::{CommitRecord, KeyRecord, KeySet, Line};
use tendon_wire::message::NO_SLOT;
use tendon_wire::mutation::{Check, removed};

/// The keys of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Never provisioned: development mode.
    None,
    Set(KeySet),
    /// Provisioned once and unreadable now: nothing may run.
    Damaged,
}

/// The newest record of each kind.
pub(crate) fn stored<F: NorFlash>(
    flash: &mut F,
    layout: &Layout,
) -> Result<(CommitRecord, Keys), log::Failed> {
    let is_believed = |holds: bool| holds || removed(Check::RecordCrc);
    let commit = log::read(flash, layout.log.start..layout.log.end(), Kind::Commit)?;
    let commit = commit.map(|bytes| bytemuck::pod_read_unaligned::<CommitRecord>(&bytes as &[u8; 48]));
    let commit = match commit {
        Some(record) if is_believed(record.holds()) => record,
        // Taken for none, it would be replaced by one without its rollback floors.
        Some(_) => return Err(log::Failed),
        None => fresh(),
    };
    let keys = log::read(flash, layout.keys.start..layout.keys.end(), Kind::Keys)?;
    let keys = keys.map(|bytes| bytemuck::pod_read_unaligned::<KeyRecord>(&bytes as &[u8; 112]));
    let keys = match keys.filter(|record| is_believed(record.holds())) {
        Some(record) => Keys::Set(record.keys),
        // A cut while they were provisioned leaves neither a record of them nor this mark.
        None if commit.provisioned == 0 => Keys::None,
        None => Keys::Damaged,
    };
    Ok((commit, keys))
}

/// Nothing committed yet.
pub(crate) fn fresh() -> CommitRecord {
    let line = Line { confirmed: NO_SLOT, trial: NO_SLOT, ..Line::zeroed() };
    CommitRecord { lines: [line; 2], ..CommitRecord::zeroed() }
}

/// Whether a record may replace the one before it: what makes a controller refuse is never taken back.
pub(crate) fn follows(record: &CommitRecord, before: &CommitRecord) -> bool {
    record.provisioned >= before.provisioned
        && record.lines.iter().zip(&before.lines).all(|(line, before)| line.floor >= before.floor)
}

#[cfg(test)]
mod tests {
    use super::{follows, fresh};

    #[test]
    fn a_record_that_lowers_a_floor_or_forgets_the_keys_follows_none() {
        let mut before = fresh();
        before.provisioned = 1;
        before.lines[1].floor = 5;
        assert!(follows(&before, &before) && follows(&before, &fresh()));
        let mut lower = before;
        lower.lines[1].floor = 4;
        let mut forgetful = before;
        forgetful.provisioned = 0;
        for record in [lower, forgetful, fresh()] {
            assert!(!follows(&record, &before));
        }
    }
}
