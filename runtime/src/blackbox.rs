//! The last ticks before a fault, in memory that a reset leaves alone.
//!
//! A ring of records, each with its number and a CRC-32C, so that a reset in the middle of one loses that one.
//! Nothing but the records is believed after a reset: the place of the newest follows from the numbers. A fault
//! freezes the ring until the controller is armed again; what an earlier start left is frozen too.

use crate::State;
use tendon_wire::CRC32C;
use tendon_wire::codec::{Encode, Payload, Sink};
use tendon_wire::message::BlackBoxRecord;

/// Time that the ring is to cover, us. Where it is too small for every tick, every second or third is kept.
const SPAN_US: u64 = 4_000_000;
const MAGIC: u32 = u32::from_le_bytes(*b"TBX1");
/// Magic, bytes per record, CRC of both.
const HEADER: usize = 12;
/// CRC, number, length of what follows.
const RECORD: usize = 12;
/// Bytes of a record's payload without joints, and of each joint.
const PAYLOAD: usize = 77;
const JOINT: usize = 6 * 4;

/// The ring. Without memory it keeps nothing.
#[derive(Debug, Default)]
pub struct BlackBox<'m> {
    memory: &'m mut [u8],
    /// Bytes per record; 0: nothing is kept.
    stride: usize,
    /// Number of the next record.
    next: u32,
    /// Records that can be read.
    count: u32,
    is_frozen: bool,
    /// Ticks per record.
    every: u32,
    /// State and cause of the last tick.
    last: (u8, u8),
}

impl<'m> BlackBox<'m> {
    /// What a former start left in `memory`, frozen; else empty.
    #[must_use]
    pub fn open(memory: &'m mut [u8]) -> Self {
        let mut this = Self { memory, every: 1, ..Self::default() };
        let Some(stride) = stride_of(this.memory) else { return this };
        this.stride = stride;
        let newest = (0..this.slots()).filter_map(|slot| this.number_at(slot)).max();
        if let Some(newest) = newest {
            this.next = newest.wrapping_add(1);
            let valid = |back: u32| {
                let number = newest.checked_sub(back)?;
                (this.number_at(this.slot_of(number)) == Some(number)).then_some(())
            };
            this.count = (0..this.slots()).take_while(|back| valid(*back).is_some()).count() as u32;
            this.is_frozen = true;
        }
        this
    }

    /// Records that can be read.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Recording goes on, for a robot with `n_joints` joints. What is there stays until it is overwritten, or
    /// is forgotten when the records of this robot have another length.
    pub fn release(&mut self, n_joints: usize, period_us: u32) {
        let stride = (RECORD + PAYLOAD + JOINT * n_joints).next_multiple_of(4);
        if stride != self.stride {
            // Numbers go on, so that what lies there never counts as newer.
            (self.stride, self.count) = (0, 0);
            let (magic, length) = (MAGIC.to_le_bytes(), (stride as u32).to_le_bytes());
            let crc = CRC32C.checksum(&length).to_le_bytes();
            let header = self.memory.iter_mut().zip(magic.into_iter().chain(length).chain(crc));
            header.for_each(|(place, byte)| *place = byte);
            if stride_of(self.memory).is_some() {
                self.stride = stride;
            }
        }
        let ticks = SPAN_US.checked_div(period_us.into()).unwrap_or(0);
        self.every = ticks.div_ceil(u64::from(self.slots()).max(1)).clamp(1, u32::MAX.into()) as u32;
        self.is_frozen = false;
    }

    /// A tick's record. Kept while torque is on, and at every change of the state.
    pub fn tick(&mut self, record: &BlackBoxRecord) {
        let now = (record.state, record.cause);
        let changed = core::mem::replace(&mut self.last, now) != now || record.late;
        let torque = State::from_code(record.state).is_some_and(State::has_torque);
        let due = record.tick.checked_rem(self.every) == Some(0);
        if self.is_frozen || !(changed || torque && due) {
            return;
        }
        self.write(record);
        self.is_frozen = record.state == State::Fault as u8;
    }

    /// Reads record `index`, 0 the oldest; false: there is none, or it is damaged.
    pub fn read(&self, index: u32, record: &mut BlackBoxRecord) -> bool {
        if index >= self.count {
            return false;
        }
        let number = self.next.wrapping_sub(self.count).wrapping_add(index);
        let found = self
            .payload(self.slot_of(number))
            .is_some_and(|(found, payload)| found == number && record.take(payload).is_ok());
        (record.count, record.index) = (self.count, index);
        found
    }

    fn write(&mut self, record: &BlackBoxRecord) {
        let (slot, number) = (self.slot_of(self.next), self.next);
        let Some(place) = self.place(slot) else { return };
        let Some(place) = self.memory.get_mut(place) else { return };
        let Some((crc, rest)) = place.split_first_chunk_mut::<4>() else { return };
        // Invalid until it is whole.
        *crc = [0; 4];
        let Some((head, payload)) = rest.split_first_chunk_mut::<8>() else { return };
        let mut sink = Bytes { out: payload, length: 0 };
        if !record.put(&mut sink) {
            return;
        }
        let length = sink.length;
        let [n, l] = [number, length as u32].map(u32::to_le_bytes);
        for (place, byte) in head.iter_mut().zip(n.into_iter().chain(l)) {
            *place = byte;
        }
        let covered = rest.get(..8 + length).unwrap_or(&[]);
        *crc = CRC32C.checksum(covered).to_le_bytes();
        self.next = number.wrapping_add(1);
        self.count = self.count.saturating_add(1).min(self.slots());
    }

    fn slots(&self) -> u32 {
        self.memory.len().saturating_sub(HEADER).checked_div(self.stride).unwrap_or(0) as u32
    }

    fn slot_of(&self, number: u32) -> u32 {
        number.checked_rem(self.slots()).unwrap_or(0)
    }

    fn place(&self, slot: u32) -> Option<core::ops::Range<usize>> {
        let start = HEADER.checked_add(self.stride.checked_mul(slot as usize)?)?;
        (self.stride > 0).then_some(start..start.checked_add(self.stride)?)
    }

    fn payload(&self, slot: u32) -> Option<(u32, &[u8])> {
        let place = self.memory.get(self.place(slot)?)?;
        let (crc, rest) = place.split_first_chunk::<4>()?;
        let (number, after) = rest.split_first_chunk::<4>()?;
        let (length, payload) = after.split_first_chunk::<4>()?;
        let payload = payload.get(..u32::from_le_bytes(*length) as usize)?;
        let covered = rest.get(..payload.len().checked_add(8)?)?;
        (CRC32C.checksum(covered) == u32::from_le_bytes(*crc))
            .then_some((u32::from_le_bytes(*number), payload))
    }

    fn number_at(&self, slot: u32) -> Option<u32> {
        self.payload(slot).map(|(number, _)| number)
    }
}

/// Bytes per record, of a header that holds.
fn stride_of(memory: &[u8]) -> Option<usize> {
    let (magic, rest) = memory.split_first_chunk::<4>()?;
    let (stride, rest) = rest.split_first_chunk::<4>()?;
    let (crc, records) = rest.split_first_chunk::<4>()?;
    let holds = u32::from_le_bytes(*magic) == MAGIC && u32::from_le_bytes(*crc) == CRC32C.checksum(stride);
    let stride = u32::from_le_bytes(*stride) as usize;
    (holds && (RECORD..=records.len()).contains(&stride)).then_some(stride)
}

/// The front of a record.
struct Bytes<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl Sink for Bytes<'_> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(place) = self.out.get_mut(self.length..).and_then(|rest| rest.get_mut(..bytes.len())) else {
            return false;
        };
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.length = self.length.saturating_add(bytes.len());
        true
    }
}
