//! Services of the boot stage to the application: one function at a fixed address, one structure.
//!
//! The application cannot check signatures or write the log itself, because that code may panic and the
//! application's must not. So it calls the boot stage, below the control priority; a panic there is a reset.
//! Both are linked apart from each other, so what they agree on is this file: [`MAGIC`] and [`VERSION`] lie
//! behind the entry, and an application that finds others calls nothing.

use tendon_runtime::Refusal;
use tendon_runtime::store::{Part, Store};
use tendon_wire::codec::{Encode, Sink};
use tendon_wire::flash::{KeySet, Signature};

/// From the start of the boot stage to its entry: behind the vectors.
pub const ENTRY_OFFSET: u32 = 0x400;
/// From the start of the boot stage to [`MAGIC`] and [`VERSION`], two words.
pub const MARK_OFFSET: u32 = 0x410;
/// First word of the mark: "TNDB".
pub const MAGIC: u32 = u32::from_le_bytes(*b"TNDB");
/// Version of this interface.
pub const VERSION: u32 = 1;
/// Bytes of the longest answer: the message `Slots`.
pub const ANSWER: usize = 128;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Service {
    /// [`Store::slots`], as the payload of the message.
    Slots = 1,
    /// [`Store::begin`] with offset, total length and checksum.
    Begin = 2,
    /// [`Store::write`] of the data.
    Write = 3,
    /// [`Store::verify`] with the total length.
    Verify = 4,
    /// [`Store::commit`].
    Commit = 5,
    /// [`Store::confirm`].
    Confirm = 6,
    /// [`Store::revert`].
    Revert = 7,
    /// [`Store::provision`]; data: [`KeySet`].
    Provision = 8,
    /// [`Store::rotate`]; data: [`KeySet`], then [`Signature`].
    Rotate = 9,
    /// Tells the compiler that a slot may look different now; does nothing.
    Load = 10,
}

impl Service {
    const ALL: [Self; 10] = [
        Self::Slots,
        Self::Begin,
        Self::Write,
        Self::Verify,
        Self::Commit,
        Self::Confirm,
        Self::Revert,
        Self::Provision,
        Self::Rotate,
        Self::Load,
    ];
}

/// One call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// [`Service`].
    pub service: u32,
    /// [`Part`].
    pub part: u32,
    /// Place in the slot.
    pub offset: u32,
    /// Total length.
    pub total: u32,
    /// Checksum of what is there.
    pub crc32c: u32,
    /// Data for the service.
    pub data: *const u8,
    /// Bytes of data.
    pub data_len: usize,
    /// Room for the answer.
    pub answer: *mut u8,
    /// Bytes of room; then of answer.
    pub answer_len: usize,
    /// Out: [`Refusal`], 0: done.
    pub code: u32,
    /// Out: number that belongs to it.
    pub detail: u32,
}

impl Call {
    /// Of a service, without data.
    #[must_use]
    pub const fn new(service: Service, part: Part) -> Self {
        Self {
            service: service as u32,
            part: part as u32,
            offset: 0,
            total: 0,
            crc32c: 0,
            data: core::ptr::null(),
            data_len: 0,
            answer: core::ptr::null_mut(),
            answer_len: 0,
            code: 0,
            detail: 0,
        }
    }
}

/// Does what a call asks for; `data` and `answer` are what its pointers point to.
pub fn serve(store: &mut impl Store, call: &mut Call, data: &[u8], answer: &mut [u8]) {
    let service = Service::ALL.into_iter().find(|service| *service as u32 == call.service);
    let part = u8::try_from(call.part).ok().and_then(Part::from_code);
    let result = match (service, part) {
        (Some(service), Some(part)) => done(store, service, part, call, data, answer),
        _ => Err((Refusal::Input, call.service)),
    };
    (call.code, call.detail) = match result {
        Ok(length) => {
            call.answer_len = length;
            (0, 0)
        }
        Err((refusal, detail)) => (refusal as u32, detail),
    };
}

fn done(
    store: &mut impl Store,
    service: Service,
    part: Part,
    call: &Call,
    data: &[u8],
    answer: &mut [u8],
) -> Result<usize, (Refusal, u32)> {
    let short = (Refusal::Input, data.len() as u32);
    match service {
        Service::Slots => {
            let mut room = Room { bytes: answer, length: 0 };
            return if store.slots().put(&mut room) { Ok(room.length) } else { Err(short) };
        }
        Service::Begin => store.begin(part, call.total, call.offset, call.crc32c),
        Service::Write => store.write(part, call.offset, data),
        Service::Verify => store.verify(part, call.total),
        Service::Commit => store.commit(part),
        Service::Confirm => store.confirm(part),
        Service::Revert => store.revert(part),
        Service::Provision => {
            let keys: KeySet = bytemuck::try_pod_read_unaligned(data).map_err(|_| short)?;
            store.provision(&keys)
        }
        Service::Rotate => {
            let (keys, signature) = data.split_at_checked(size_of::<KeySet>()).ok_or(short)?;
            let keys: KeySet = bytemuck::try_pod_read_unaligned(keys).map_err(|_| short)?;
            let signature: Signature = bytemuck::try_pod_read_unaligned(signature).map_err(|_| short)?;
            store.rotate(&keys, &signature)
        }
        Service::Load => Ok(()),
    }
    .map(|()| 0)
}

/// A buffer that a message is put into.
struct Room<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl Sink for Room<'_> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        let end = self.length.saturating_add(bytes.len());
        let Some(place) = self.bytes.get_mut(self.length..end) else { return false };
        place.copy_from_slice(bytes);
        self.length = end;
        true
    }
}
