//! What boots, what is on trial, and how one becomes the other.

use crate::image::{self, Checked, Rules};
use crate::keys;
use crate::layout::Layout;
use crate::log::{self, Kind};
use crate::records::{Keys, follows, fresh, stored};
use crate::vouch::{REFUSED, padded, vouch};
use core::ops::Range;
use embedded_storage::nor_flash::NorFlash;
use tendon_runtime::Refusal;
use tendon_runtime::store::{KeysRefused, Part, Refused, STALLS, Store};
use tendon_wire::flash::{CommitRecord, KeyRecord, KeySet, Line, Signature, key_id};
use tendon_wire::message::{NO_SLOT, Slots, Text};
use tendon_wire::mutation::{Check, removed};

/// Boots that a firmware on trial gets before the one before it returns: a brown-out or two while the host
/// reconnects is no reason to give it up. A policy gets none: it ran since its commit.
pub const FIRMWARE_BOOTS: u8 = 3;

const PARTS: [Part; 2] = [Part::Policy, Part::Firmware];
/// Largest unit that flash is written in.
const MAX_WRITE: usize = 32;

/// Flash of one controller and what is known of it since it booted.
#[derive(Debug)]
pub struct Boot<F> {
    flash: F,
    layout: Layout,
    board: [u8; 32],
    stalls: bool,
    keys: Keys,
    record: CommitRecord,
    /// Slot that runs since the boot or the last commit, by part.
    running: [u8; 2],
    /// Slot for the next image where neither runs nor boots, by part.
    free: [u8; 2],
    /// What `verify` found, until something is written.
    verified: Option<(Part, u8, Checked)>,
}

impl<F: NorFlash> Boot<F> {
    /// Boots: mends the records, counts the trial, verifies what is selected, and returns to what ran before where
    /// the trial is over. Afterwards [`Boot::running`] says what may run.
    ///
    /// A layout that does not fit the flash gives a controller in which nothing runs and nothing is taken.
    pub fn start(flash: F, layout: Layout, board: &str) -> Self {
        let mut boot = Self {
            flash,
            layout,
            board: padded(board),
            stalls: false,
            keys: Keys::Damaged,
            record: fresh(),
            running: [NO_SLOT; 2],
            free: [1, 0],
            verified: None,
        };
        let fits = layout.check(&boot.flash).is_ok();
        if fits && boot.read_records().is_ok() {
            for part in PARTS {
                boot.select(part);
            }
            // The firmware is vouched for by the program that starts it.
            let policy = boot.running[Part::Policy as usize];
            if policy != NO_SLOT && !boot.is_vouched_for(Part::Policy, policy) {
                boot.running[Part::Policy as usize] = NO_SLOT;
            }
        }
        boot
    }

    /// Says that writing this flash stalls the core.
    #[must_use]
    pub fn with_stalls(mut self, stalls: bool) -> Self {
        self.stalls = stalls;
        self
    }

    /// The slot that runs, verified; `None`: nothing may. Who starts a firmware asks [`vouch`] as well.
    #[must_use]
    pub fn running(&self, part: Part) -> Option<u8> {
        Some(self.running[part as usize]).filter(|slot| *slot != NO_SLOT)
    }

    /// The flash, and where things lie in it.
    pub fn flash(&mut self) -> (&mut F, &Layout) {
        (&mut self.flash, &self.layout)
    }

    /// The flash, given back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    fn log(&self) -> Range<u32> {
        self.layout.log.start..self.layout.log.end()
    }

    fn key_pages(&self) -> Range<u32> {
        self.layout.keys.start..self.layout.keys.end()
    }

    /// Reads keys and the newest commit record. Unreadable flash leaves the keys damaged: nothing runs.
    fn read_records(&mut self) -> Result<(), log::Failed> {
        let (records, keys) = (self.log(), self.key_pages());
        log::mend(&mut self.flash, records.clone())?;
        if keys != records {
            log::mend(&mut self.flash, keys.clone())?;
        }
        (self.record, self.keys) = self.stored()?;
        if matches!(self.keys, Keys::Set(_)) && self.record.provisioned == 0 {
            // What is written now hides what there was: only if it is not there at a second look either.
            if self.stored()? != (self.record, self.keys) {
                return Err(log::Failed);
            }
            self.append(CommitRecord { provisioned: 1, ..self.record }).map_err(|_| log::Failed)?;
        }
        Ok(())
    }

    /// What the newest records say.
    fn stored(&mut self) -> Result<(CommitRecord, Keys), log::Failed> {
        stored(&mut self.flash, &self.layout)
    }

    /// The second decision, see [`vouch`].
    fn is_vouched_for(&mut self, part: Part, slot: u8) -> bool {
        vouch(&mut self.flash, &self.layout, &self.board, part, slot) != REFUSED
    }

    fn append(&mut self, record: CommitRecord) -> Result<(), Refused> {
        let failed = (Refusal::Flash, 0);
        let record = CommitRecord { sequence: self.record.sequence.wrapping_add(1), ..record }.sealed();
        // It hides what there was, so it may not come from a memory that a glitch has spoiled.
        let (before, _) = self.stored().map_err(|_| failed)?;
        if !follows(&record, &before) {
            return Err(failed);
        }
        let bytes: &[u8; 48] = bytemuck::cast_ref(&record);
        let log = self.log();
        log::append(&mut self.flash, log, Kind::Commit, bytes).map_err(|_| failed)?;
        self.record = record;
        Ok(())
    }

    fn line(&self, part: Part) -> Line {
        self.record.lines[part as usize]
    }

    fn set_line(&mut self, part: Part, line: Line) -> Result<(), Refused> {
        let mut record = self.record;
        record.lines[part as usize] = line;
        self.append(record)
    }

    /// Decides what boots of one part.
    fn select(&mut self, part: Part) {
        let boots = match part {
            Part::Policy => 0,
            Part::Firmware => FIRMWARE_BOOTS,
        };
        let line = self.line(part);
        if line.trial != NO_SLOT {
            let is_over = line.attempts >= boots && !removed(Check::TrialReturn);
            // It is counted before it runs; what cannot be counted does not run.
            let counted = Line { attempts: line.attempts.saturating_add(1), ..line };
            if !is_over && self.set_line(part, counted).is_ok() && self.boots(part, line.trial) {
                self.running[part as usize] = line.trial;
                return;
            }
            // A record that cannot be written is tried again at the next boot.
            let _ = self.set_line(part, Line { trial: NO_SLOT, attempts: 0, ..line });
            self.free[part as usize] = 1 - (line.trial & 1);
        }
        let others: [u8; 2] = match part {
            // A controller without firmware is of no use: whatever verifies is better than none.
            Part::Firmware => [0, 1],
            // What ran before is of no use where it was given up: better none.
            Part::Policy => [NO_SLOT; 2],
        };
        let mut slots = [line.confirmed].into_iter().chain(others);
        let found = slots.find(|slot| *slot != NO_SLOT && self.boots(part, *slot));
        self.running[part as usize] = found.unwrap_or(NO_SLOT);
    }

    fn boots(&mut self, part: Part, slot: u8) -> bool {
        removed(Check::BootVerify) || self.check(part, slot).is_ok()
    }

    fn check(&mut self, part: Part, slot: u8) -> Result<Checked, Refused> {
        let keys = match &self.keys {
            Keys::None => None,
            Keys::Set(keys) => Some(keys),
            Keys::Damaged => return Err(refused(KeysRefused::Damaged)),
        };
        let rules = Rules {
            keys,
            board: &self.board,
            floor: self.record.lines[part as usize].floor,
            address: self.layout.address(part, slot),
        };
        image::check(&mut self.flash, part, self.layout.slot(part, slot), &rules)
    }

    /// Slot that an update is written to: never one that runs or that boots after a reset.
    fn target(&self, part: Part) -> u8 {
        let (line, running) = (self.line(part), self.running[part as usize]);
        let is_on_trial = line.trial != NO_SLOT && line.trial == running;
        match (running, line.confirmed) {
            (_, confirmed) if is_on_trial && confirmed != NO_SLOT => NO_SLOT,
            (NO_SLOT, NO_SLOT) => self.free[part as usize],
            (NO_SLOT, slot) | (slot, _) => 1 - (slot & 1),
        }
    }

    /// The slot of an update, or why there cannot be one now.
    fn open_target(&self, part: Part) -> Result<u8, Refused> {
        let target = self.target(part);
        if target == NO_SLOT { Err((Refusal::Trial, 0)) } else { Ok(target) }
    }

    /// Refuses keys with which what runs would not boot again.
    fn keeps_booting(&mut self, keys: &KeySet) -> Result<(), Refused> {
        for part in PARTS {
            if self.line(part).trial != NO_SLOT {
                return Err((Refusal::Trial, 0));
            }
            let slot = self.running[part as usize];
            if slot == NO_SLOT {
                continue;
            }
            let rules = Rules {
                keys: Some(keys),
                board: &self.board,
                floor: 0,
                address: self.layout.address(part, slot),
            };
            image::check(&mut self.flash, part, self.layout.slot(part, slot), &rules)
                .map_err(|_| refused(KeysRefused::Locked))?;
        }
        Ok(())
    }

    fn write_keys(&mut self, keys: KeySet) -> Result<(), Refused> {
        let record = KeyRecord { crc32c: 0, version: 0, keys }.sealed();
        let failed = (Refusal::Flash, 0);
        let bytes = bytemuck::bytes_of(&record).first_chunk::<112>().ok_or(failed)?;
        let pages = self.key_pages();
        log::append(&mut self.flash, pages, Kind::Keys, bytes).map_err(|_| failed)?;
        self.keys = Keys::Set(keys);
        Ok(())
    }
}

impl<F: NorFlash> Store for Boot<F> {
    fn slots(&mut self) -> Slots {
        let (generation, keys, robot) = match &self.keys {
            Keys::Set(set) => (set.generation, set.keys, set.robot_id),
            Keys::None => (0, [[0; 32]; 2], [0; 32]),
            // Not development: there were keys.
            Keys::Damaged => (u32::MAX, [[0; 32]; 2], [0; 32]),
        };
        let [key_a, key_b] = keys;
        let (policy, firmware) = (self.line(Part::Policy), self.line(Part::Firmware));
        let [policy_slot, firmware_slot] = self.running;
        let trial = |line: Line, running: u8| match line.trial {
            NO_SLOT => 0,
            slot if slot == running => 1,
            _ => 2,
        };
        Slots {
            generation,
            key_a: key_id(&key_a),
            key_b: key_id(&key_b),
            robot: text(&robot),
            erase_size: F::ERASE_SIZE as u32,
            flags: if self.stalls { STALLS } else { 0 },
            policy_slot,
            policy_trial: trial(policy, policy_slot),
            policy_target: self.target(Part::Policy),
            policy_crc_0: policy.crc32c[0],
            policy_crc_1: policy.crc32c[1],
            policy_floor: policy.floor,
            firmware_slot,
            firmware_trial: trial(firmware, firmware_slot),
            firmware_crc_0: firmware.crc32c[0],
            firmware_crc_1: firmware.crc32c[1],
            firmware_floor: firmware.floor,
            firmware_slot_len: self.layout.slot(Part::Firmware, 0).len,
        }
    }

    fn begin(&mut self, part: Part, total_len: u32, offset: u32, crc32c: u32) -> Result<(), Refused> {
        self.verified = None;
        let target = self.open_target(part)?;
        let slot = self.layout.slot(part, target);
        if total_len > slot.len {
            return Err((Refusal::TooLarge, slot.len));
        }
        if offset > total_len || !offset.is_multiple_of(F::ERASE_SIZE as u32) {
            return Err((Refusal::Order, F::ERASE_SIZE as u32));
        }
        if image::checksum(&mut self.flash, slot, offset)? != crc32c && offset > 0 {
            return Err((Refusal::Order, 0));
        }
        let line = self.line(part);
        if line.trial == target {
            // Not yet started, and about to be overwritten.
            self.set_line(part, Line { trial: NO_SLOT, attempts: 0, ..line })?;
        }
        Ok(())
    }

    fn write(&mut self, part: Part, offset: u32, data: &[u8]) -> Result<(), Refused> {
        self.verified = None;
        let failed = (Refusal::Flash, offset);
        let slot = self.layout.slot(part, self.open_target(part)?);
        let end = u64::from(offset).saturating_add(data.len() as u64);
        if end > u64::from(slot.len) || !offset.is_multiple_of(F::WRITE_SIZE as u32) {
            return Err((Refusal::Order, F::WRITE_SIZE as u32));
        }
        let (start, end, unit) = (offset, end as u32, F::ERASE_SIZE as u32);
        // Erase units that begin in this piece.
        for at in (start.next_multiple_of(unit)..end).step_by(F::ERASE_SIZE) {
            let at = slot.start.saturating_add(at);
            self.flash.erase(at, at.saturating_add(unit)).map_err(|_| failed)?;
        }
        let whole = data.len() / F::WRITE_SIZE * F::WRITE_SIZE;
        let (front, rest) = data.split_at(whole);
        let at = slot.start.saturating_add(start);
        if !front.is_empty() {
            self.flash.write(at, front).map_err(|_| failed)?;
        }
        if !rest.is_empty() {
            let mut word = [0xff; MAX_WRITE];
            let word = word.get_mut(..F::WRITE_SIZE).ok_or(failed)?;
            word[..rest.len()].copy_from_slice(rest);
            self.flash.write(at.saturating_add(whole as u32), word).map_err(|_| failed)?;
        }
        Ok(())
    }

    fn verify(&mut self, part: Part, total_len: u32) -> Result<(), Refused> {
        self.verified = None;
        let target = self.open_target(part)?;
        let header = image::header(&mut self.flash, part, self.layout.slot(part, target))?;
        if header.total_len > total_len {
            return Err((Refusal::Image, 0));
        }
        let checked = self.check(part, target)?;
        // Twice, as at a boot.
        if !self.is_vouched_for(part, target) {
            return Err((Refusal::Image, 0));
        }
        self.verified = Some((part, target, checked));
        Ok(())
    }

    fn load(&mut self, view: &mut [u8]) {
        let running = self.running[Part::Policy as usize];
        // Before the exchange of slots the view is that of the slot that was verified, or that boots.
        let slot = match self.verified {
            Some((Part::Policy, slot, _)) => slot,
            _ if self.target(Part::Policy) == NO_SLOT => self.line(Part::Policy).confirmed,
            _ => running,
        };
        let region = self.layout.slot(Part::Policy, slot);
        let Ok(header) = image::header(&mut self.flash, Part::Policy, region) else { return };
        if let Some(view) = view.get_mut(..header.total_len as usize) {
            // What could not be read does not pass its checksum.
            let _ = image::read_padded(&mut self.flash, region, 0, view);
        }
    }

    fn commit(&mut self, part: Part) -> Result<(), Refused> {
        let (_, slot, checked) =
            self.verified.take().filter(|(verified, ..)| *verified == part).ok_or((Refusal::Order, 0))?;
        let mut line = Line { trial: slot, attempts: 0, ..self.line(part) };
        if let Some(crc) = line.crc32c.get_mut(usize::from(slot)) {
            *crc = checked.crc32c;
        }
        self.set_line(part, line)?;
        if part == Part::Policy {
            self.running[part as usize] = slot;
        }
        Ok(())
    }

    fn confirm(&mut self, part: Part) -> Result<(), Refused> {
        let (line, running) = (self.line(part), self.running[part as usize]);
        if running == NO_SLOT || line.trial != running {
            return Err((Refusal::Trial, 0));
        }
        // The slot was verified when it began to run, and is not written while it does.
        let header = image::header(&mut self.flash, part, self.layout.slot(part, running))?;
        let floor = line.floor.max(header.rollback_counter);
        self.verified = None;
        self.set_line(part, Line { confirmed: running, trial: NO_SLOT, attempts: 0, floor, ..line })
    }

    fn revert(&mut self, part: Part) -> Result<(), Refused> {
        let line = self.line(part);
        if line.trial == NO_SLOT {
            return Err((Refusal::Trial, 0));
        }
        self.verified = None;
        self.set_line(part, Line { trial: NO_SLOT, attempts: 0, ..line })?;
        if part == Part::Policy {
            self.running[part as usize] = line.confirmed;
            self.free[part as usize] = 1 - (line.trial & 1);
        }
        Ok(())
    }

    fn provision(&mut self, keys: &KeySet) -> Result<(), Refused> {
        match self.keys {
            Keys::None => {}
            Keys::Set(_) => return Err(refused(KeysRefused::Provisioned)),
            Keys::Damaged => return Err(refused(KeysRefused::Damaged)),
        }
        if !keys::are_usable(keys) {
            return Err(refused(KeysRefused::Weak));
        }
        let keys = KeySet { generation: 1, reserved: 0, ..*keys };
        self.keeps_booting(&keys)?;
        self.write_keys(keys)?;
        self.append(CommitRecord { provisioned: 1, ..self.record })
    }

    fn rotate(&mut self, keys: &KeySet, signature: &Signature) -> Result<(), Refused> {
        let current = match self.keys {
            Keys::Set(current) => current,
            Keys::None => return Err(refused(KeysRefused::NotProvisioned)),
            Keys::Damaged => return Err(refused(KeysRefused::Damaged)),
        };
        if !keys::are_usable(keys) {
            return Err(refused(KeysRefused::Weak));
        }
        if keys.reserved != 0 || current.generation.checked_add(1) != Some(keys.generation) {
            return Err(refused(KeysRefused::Generation));
        }
        if keys.robot_id != current.robot_id {
            return Err(refused(KeysRefused::Robot));
        }
        if !keys::hands_over(&current, keys, signature) {
            return Err(refused(KeysRefused::Signature));
        }
        self.keeps_booting(keys)?;
        self.write_keys(*keys)
    }
}

fn refused(why: KeysRefused) -> Refused {
    (Refusal::Keys, why as u32)
}

/// Text from zero-padded UTF-8; empty when it is none.
fn text(bytes: &[u8; 32]) -> Text {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Text::try_from(core::str::from_utf8(bytes).unwrap_or("")).unwrap_or_default()
}
