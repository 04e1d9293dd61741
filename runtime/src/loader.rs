//! Updates: bytes into the inactive slot, verification, exchange of slots, and what follows from it.

use crate::node::{Control, Exclusive};
use crate::response::BoardTiming;
use crate::store::{Part, Refused, STALLS, Store};
use crate::{Image, Refusal};
use tendon_wire::flash::{ED25519PH, KeySet, PublicKey, Signature};
use tendon_wire::image::MAX_IMAGE;
use tendon_wire::message::{Message, NO_SLOT, RotateKeys, Slots};
use tendon_wire::mutation::{Check, removed};

/// Receives images into the inactive slot.
#[derive(Debug)]
pub struct Loader<'m, S> {
    /// View of the inactive policy slot.
    slot: &'m mut [u8],
    arena: &'m mut [f32],
    store: S,
    update: Option<Update>,
    limits: Limits,
    is_on_trial: bool,
    wants_restart: bool,
}

/// An image that is being received.
#[derive(Clone, Copy, Debug)]
struct Update {
    part: Part,
    total: u32,
    received: u32,
}

/// What the control loop's memory holds, `f32`.
#[derive(Clone, Copy, Debug)]
struct Limits {
    arena: usize,
    history: usize,
    observation: usize,
    /// Of the board, for the time of a tick.
    timing: BoardTiming,
}

impl<'m, S: Store> Loader<'m, S> {
    /// `slot`: 16-byte aligned view of one policy slot, chosen with [`crate::store::places`]; `arena`: activations of
    /// the self-test, as long as the control loop's.
    #[must_use]
    pub fn new(slot: &'m mut [u8], arena: &'m mut [f32], store: S, control: &Control<'_>) -> Self {
        let [activations, history, observation] = control.capacity();
        let limits =
            Limits { arena: activations.min(arena.len()), history, observation, timing: BoardTiming::QEMU };
        Self { slot, arena, store, update: None, limits, is_on_trial: false, wants_restart: false }
    }

    /// The board by which ticks are timed; without it [`BoardTiming::QEMU`].
    #[must_use]
    pub fn with_timing(mut self, timing: BoardTiming) -> Self {
        self.limits.timing = timing;
        self
    }

    /// Makes the policy that boots active, if there is one and it passes its golden vectors. Called once, before
    /// the first message.
    ///
    /// # Errors
    /// Why the policy of the slot does not run; the controller then has none.
    pub fn boot(&mut self, control: &mut impl Exclusive<Control<'m>>) -> Result<(), Refused> {
        let slots = self.store.slots();
        self.is_on_trial = slots.policy_trial == 1;
        if slots.policy_slot == NO_SLOT {
            return Ok(());
        }
        self.store.load(self.slot);
        let (image, response_us) = self.check(self.slot.len())?;
        control.with(|control| control.activate(&mut self.slot, image, response_us))
    }

    /// A `Restart` was taken: the board should reset once its answer is out.
    #[must_use]
    pub fn wants_restart(&self) -> bool {
        self.wants_restart
    }

    /// The store, given back.
    pub fn into_store(self) -> S {
        self.store
    }

    pub(crate) fn slots(&mut self) -> Slots {
        self.store.slots()
    }

    pub(crate) fn is_development(&mut self) -> bool {
        self.store.slots().generation == 0
    }

    /// The active policy has run long enough.
    pub(crate) fn prove(&mut self) {
        if self.is_on_trial {
            // A record that cannot be written leaves the trial as it is.
            self.is_on_trial = false;
            let _ = self.store.confirm(Part::Policy);
        }
    }

    /// Answers one update message.
    #[inline(never)]
    pub(crate) fn handle(
        &mut self,
        message: &Message,
        control: &mut impl Exclusive<Control<'m>>,
    ) -> Result<(), Refused> {
        match message {
            Message::ImageBegin(m) => self.begin(Part::Policy as u8, m.total_len, 0, 0, control),
            Message::UpdateBegin(m) => self.begin(m.part, m.total_len, m.offset, m.crc32c, control),
            Message::ImageChunk(m) => self.chunk(m.offset, &m.data, control),
            Message::ImageCommit(_) => self.commit(control),
            Message::ImageAbort(_) => {
                self.update = None;
                Ok(())
            }
            Message::Confirm(m) => {
                let part = known(m.part)?;
                self.store.confirm(part)?;
                self.is_on_trial &= part != Part::Policy;
                Ok(())
            }
            Message::Revert(m) => match known(m.part)? {
                Part::Policy => self.revert(control),
                Part::Firmware => self.store.revert(Part::Firmware),
            },
            Message::Restart(_) => {
                control.with(|control| control.quiet())?;
                self.wants_restart = true;
                Ok(())
            }
            Message::ProvisionKeys(m) => {
                control.with(|control| control.quiet())?;
                self.store.provision(&key_set(1, m.key_a, m.key_b, &m.robot))
            }
            Message::RotateKeys(m) => {
                control.with(|control| control.quiet())?;
                self.rotate(m)
            }
            _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        part: u8,
        total: u32,
        offset: u32,
        crc32c: u32,
        control: &mut impl Exclusive<Control<'m>>,
    ) -> Result<(), Refused> {
        let part = known(part)?;
        self.may_write(control)?;
        if total as usize > MAX_IMAGE || (part == Part::Policy && total as usize > self.slot.len()) {
            return Err((Refusal::TooLarge, self.slot.len() as u32));
        }
        if offset > total {
            return Err((Refusal::Order, total));
        }
        self.store.begin(part, total, offset, crc32c)?;
        self.update = Some(Update { part, total, received: offset });
        Ok(())
    }

    /// Where writing flash stalls the core no tick may be due.
    fn may_write(&mut self, control: &mut impl Exclusive<Control<'m>>) -> Result<(), Refused> {
        if self.store.slots().flags & STALLS != 0 { control.with(|control| control.quiet()) } else { Ok(()) }
    }

    fn chunk(
        &mut self,
        offset: u32,
        data: &[u8],
        control: &mut impl Exclusive<Control<'m>>,
    ) -> Result<(), Refused> {
        self.may_write(control)?;
        let update = self.update.as_mut().ok_or((Refusal::Order, 0))?;
        let end = u64::from(offset).saturating_add(data.len() as u64);
        if offset != update.received || end > u64::from(update.total) {
            return Err((Refusal::Order, update.received));
        }
        self.store.write(update.part, offset, data)?;
        update.received = end as u32;
        Ok(())
    }

    fn commit(&mut self, control: &mut impl Exclusive<Control<'m>>) -> Result<(), Refused> {
        let update = self.update.ok_or((Refusal::Order, 0))?;
        if update.total == 0 || update.received != update.total {
            return Err((Refusal::Order, update.received));
        }
        self.store.verify(update.part, update.total)?;
        match update.part {
            Part::Firmware => self.store.commit(Part::Firmware)?,
            Part::Policy => {
                self.store.load(self.slot);
                let (image, response_us) = self.check(update.total as usize)?;
                control.with(|control| control.admits(&image))?;
                self.store.commit(Part::Policy)?;
                self.is_on_trial = true;
                // Admitted above; only a message could have changed that, and this answers one.
                control.with(|control| control.activate(&mut self.slot, image, response_us))?;
            }
        }
        self.update = None;
        Ok(())
    }

    /// Back to the policy before the one on trial; without one, to none.
    fn revert(&mut self, control: &mut impl Exclusive<Control<'m>>) -> Result<(), Refused> {
        let slots = self.store.slots();
        if slots.policy_trial != 1 {
            return Err((Refusal::Trial, 0));
        }
        self.update = None;
        // The inactive slot is that of the policy before, if there was one.
        self.store.load(self.slot);
        let before = if slots.policy_target == NO_SLOT { self.check(self.slot.len()).ok() } else { None };
        match before {
            Some((image, response_us)) => {
                control.with(|control| control.admits(&image))?;
                self.store.revert(Part::Policy)?;
                control.with(|control| control.activate(&mut self.slot, image, response_us))?;
            }
            None => {
                control.with(|control| control.quiet())?;
                self.store.revert(Part::Policy)?;
                control.with(|control| control.deactivate())?;
            }
        }
        self.is_on_trial = false;
        Ok(())
    }

    fn rotate(&mut self, m: &RotateKeys) -> Result<(), Refused> {
        let robot = self.store.slots().robot;
        let mut signature = [0; 64];
        let (r, s) = signature.split_at_mut(32);
        for (to, from) in r.iter_mut().zip(&m.signature_r).chain(s.iter_mut().zip(&m.signature_s)) {
            *to = *from;
        }
        let signature = Signature { key_id: m.key_id, scheme: ED25519PH, reserved: 0, signature };
        self.store.rotate(&key_set(m.generation, m.key_a, m.key_b, &robot), &signature)
    }

    /// Everything that can be said about the policy in the inactive slot before it acts, beside whose it is.
    fn check(&mut self, total: usize) -> Result<(Image, u32), Refused> {
        let bytes = self.slot.get(..total).unwrap_or(&[]);
        let image = Image::parse(bytes).map_err(|_| (Refusal::Image, 0))?;
        let policy = image.policy(bytes).ok_or((Refusal::Image, 1))?;
        let plan = policy.network.plan();
        let sizes = [
            (plan.arena_len, self.limits.arena),
            (plan.history_len, self.limits.history),
            (plan.n_inputs, self.limits.observation),
        ];
        for (needed, there) in sizes {
            if needed as usize > there {
                return Err((Refusal::Memory, needed));
            }
        }
        let mut response_us = 0;
        if let Some(contract) = policy.contract {
            let us = |ns: u64| (ns / 1000).saturating_add(1).min(u32::MAX.into()) as u32;
            match self.limits.timing.admit(&contract, &policy) {
                Ok(ns) => response_us = us(ns),
                Err((_, ns)) if !removed(Check::Admission) => return Err((Refusal::Slow, us(ns))),
                Err(_) => {}
            }
        }
        policy.self_test(self.arena).map_err(|vector| (Refusal::SelfTest, vector))?;
        Ok((image, response_us))
    }
}

fn known(part: u8) -> Result<Part, Refused> {
    Part::from_code(part).ok_or((Refusal::Input, part.into()))
}

fn key_set(generation: u32, key_a: PublicKey, key_b: PublicKey, robot: &str) -> KeySet {
    let mut robot_id = [0; 32];
    for (to, from) in robot_id.iter_mut().zip(robot.bytes()) {
        *to = from;
    }
    KeySet { generation, reserved: 0, keys: [key_a, key_b], robot_id }
}
