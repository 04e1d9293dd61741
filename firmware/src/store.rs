//! Flash and signatures, through the boot stage. What is asked of it may panic; a panic there is a reset, and it is
//! never asked from the control priority.
#![allow(unsafe_code, reason = "calls a program that was linked apart")]

use core::ptr::read_volatile;
use tendon_boot::service::{ANSWER, Call, ENTRY_OFFSET, MAGIC, MARK_OFFSET, Service, VERSION};
use tendon_runtime::Refusal;
use tendon_runtime::store::{Part, Refused, Store};
use tendon_wire::codec::Payload;
use tendon_wire::flash::{KeySet, Signature};
use tendon_wire::message::{NO_SLOT, Slots};

/// The boot stage that started this program.
#[derive(Clone, Copy, Debug)]
pub struct BootStage {
    at: usize,
}

impl BootStage {
    /// The boot stage at an address.
    pub const fn at(at: usize) -> Self {
        Self { at }
    }

    #[inline(never)]
    fn call(self, call: &mut Call) -> Result<(), Refused> {
        let mark = self.at + MARK_OFFSET as usize;
        // SAFETY: the boot stage is at least so long, and flash can always be read.
        let mark = unsafe { [read_volatile(mark as *const u32), read_volatile((mark + 4) as *const u32)] };
        if mark != [MAGIC, VERSION] {
            return Err((Refusal::Flash, 0));
        }
        // A constant, so that `cargo xtask stack` can follow the call.
        let entry = <crate::board::Selected as crate::board::Board>::BOOT_STAGE + ENTRY_OFFSET as usize + 1;
        // SAFETY: behind this mark lies a function of this type (`tendon_boot::service`), in Thumb code. What it
        // is lent by `call` it uses until it returns, and `idle` alone calls it, so never while it runs.
        let entry: extern "C" fn(&mut Call) = unsafe { core::mem::transmute(entry) };
        entry(call);
        match u8::try_from(call.code).ok().and_then(Refusal::from_code) {
            None if call.code == 0 => Ok(()),
            None => Err((Refusal::Flash, call.code)),
            Some(refusal) => Err((refusal, call.detail)),
        }
    }

    fn ask(self, service: Service, part: Part) -> Result<(), Refused> {
        self.call(&mut Call::new(service, part))
    }

    fn send(self, service: Service, part: Part, offset: u32, data: &[u8]) -> Result<(), Refused> {
        let call = Call::new(service, part);
        self.call(&mut Call { offset, data: data.as_ptr(), data_len: data.len(), ..call })
    }
}

impl Store for BootStage {
    fn slots(&mut self) -> Slots {
        let mut answer = [0; ANSWER];
        let mut call = Call::new(Service::Slots, Part::Policy);
        (call.answer, call.answer_len) = (answer.as_mut_ptr(), answer.len());
        let mut slots = Slots::default();
        let done = self.call(&mut call).is_ok()
            && answer.get(..call.answer_len).is_some_and(|bytes| slots.take(bytes).is_ok());
        if !done {
            // No boot stage of this version: nothing boots and nothing is taken.
            slots = Slots {
                generation: u32::MAX,
                policy_slot: NO_SLOT,
                firmware_slot: NO_SLOT,
                ..Slots::default()
            };
        }
        slots
    }

    fn begin(&mut self, part: Part, total: u32, offset: u32, crc32c: u32) -> Result<(), Refused> {
        let call = Call::new(Service::Begin, part);
        self.call(&mut Call { offset, total, crc32c, ..call })
    }

    fn write(&mut self, part: Part, offset: u32, data: &[u8]) -> Result<(), Refused> {
        self.send(Service::Write, part, offset, data)
    }

    fn verify(&mut self, part: Part, total: u32) -> Result<(), Refused> {
        let call = Call::new(Service::Verify, part);
        self.call(&mut Call { total, ..call })
    }

    fn load(&mut self, view: &mut [u8]) {
        // Flash is mapped; but the boot stage wrote it behind the back of this reference, so it is handed over
        // to code that the compiler does not see.
        let mut call = Call::new(Service::Load, Part::Policy);
        (call.answer, call.answer_len) = (view.as_mut_ptr(), view.len());
        let _ = self.call(&mut call);
    }

    fn commit(&mut self, part: Part) -> Result<(), Refused> {
        self.ask(Service::Commit, part)
    }

    fn confirm(&mut self, part: Part) -> Result<(), Refused> {
        self.ask(Service::Confirm, part)
    }

    fn revert(&mut self, part: Part) -> Result<(), Refused> {
        self.ask(Service::Revert, part)
    }

    fn provision(&mut self, keys: &KeySet) -> Result<(), Refused> {
        self.send(Service::Provision, Part::Policy, 0, bytemuck::bytes_of(keys))
    }

    fn rotate(&mut self, keys: &KeySet, signature: &Signature) -> Result<(), Refused> {
        let mut data = [0; size_of::<KeySet>() + size_of::<Signature>()];
        let bytes = bytemuck::bytes_of(keys).iter().chain(bytemuck::bytes_of(signature));
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.send(Service::Rotate, Part::Policy, 0, &data)
    }
}
