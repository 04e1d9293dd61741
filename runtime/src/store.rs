//! What the controller needs of its flash: slots, signatures, and records of what boots. Implemented by the boot
//! stage's services (firmware) and by the same code in process (`boot`).

use crate::Refusal;
use tendon_wire::flash::{KeySet, Signature};
use tendon_wire::message::Slots;

/// Why something was refused, and the number that belongs to it.
pub type Refused = (Refusal, u32);

/// What is updated; the number is the `part` of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// The policy image.
    Policy = 0,
    /// The firmware itself.
    Firmware = 1,
}

impl Part {
    /// The part with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Policy, Self::Firmware].into_iter().find(|part| *part as u8 == code)
    }
}

/// Why a key set was refused; the detail of [`Refusal::Keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeysRefused {
    /// A key is no point of the curve, not in its canonical form, of small order, or there twice.
    Weak = 1,
    /// There are keys already: rotate them.
    Provisioned = 2,
    /// There are no keys yet: provision them.
    NotProvisioned = 3,
    /// Not the next generation.
    Generation = 4,
    /// Not signed by a key that counts now.
    Signature = 5,
    /// What boots is not signed by one of the new keys: it would not boot again.
    Locked = 6,
    /// The robot is another one.
    Robot = 7,
    /// The keys in flash are damaged. Nothing is taken any more.
    Damaged = 8,
}

impl KeysRefused {
    /// The reason with this number.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        const ALL: [KeysRefused; 8] = [
            KeysRefused::Weak,
            KeysRefused::Provisioned,
            KeysRefused::NotProvisioned,
            KeysRefused::Generation,
            KeysRefused::Signature,
            KeysRefused::Locked,
            KeysRefused::Robot,
            KeysRefused::Damaged,
        ];
        ALL.into_iter().find(|reason| *reason as u32 == code)
    }
}

/// Set in [`Slots::flags`]: writing flash stalls the core.
pub const STALLS: u8 = 1;

/// Flash slots of one controller. All of it may take long and is called below the control priority.
pub trait Store {
    /// What is where.
    fn slots(&mut self) -> Slots;

    /// Gets ready to write an image of `total_len` bytes from `offset` on.
    ///
    /// # Errors
    /// Too large; on trial; or the slot does not hold bytes with this CRC-32C up to `offset`.
    fn begin(&mut self, part: Part, total_len: u32, offset: u32, crc32c: u32) -> Result<(), Refused>;

    /// Writes into the inactive slot, in order: what lies behind may be erased.
    ///
    /// # Errors
    /// [`Refusal::Flash`].
    fn write(&mut self, part: Part, offset: u32, data: &[u8]) -> Result<(), Refused>;

    /// Checks the image in the inactive slot, of at most `total_len` bytes: checksum, signature, robot or board,
    /// rollback counter.
    ///
    /// # Errors
    /// The first that does not hold.
    fn verify(&mut self, part: Part, total_len: u32) -> Result<(), Refused>;

    /// Makes `view` show the policy slot that `verify` checked, or that boots. Nothing to do where flash is mapped
    /// into memory.
    fn load(&mut self, view: &mut [u8]);

    /// Puts what was verified on trial. A policy counts as running from now on.
    ///
    /// # Errors
    /// Not verified, or the record could not be written: then nothing has changed.
    fn commit(&mut self, part: Part) -> Result<(), Refused>;

    /// Ends the trial of what runs.
    ///
    /// # Errors
    /// [`Refusal::Trial`]: nothing that runs is on trial.
    fn confirm(&mut self, part: Part) -> Result<(), Refused>;

    /// Gives the trial up; [`Store::slots`] says what runs now, if anything.
    ///
    /// # Errors
    /// [`Refusal::Trial`].
    fn revert(&mut self, part: Part) -> Result<(), Refused>;

    /// Takes the first keys; `generation` of them does not matter.
    ///
    /// # Errors
    /// [`Refusal::Keys`].
    fn provision(&mut self, keys: &KeySet) -> Result<(), Refused>;

    /// Takes other keys.
    ///
    /// # Errors
    /// [`Refusal::Keys`].
    fn rotate(&mut self, keys: &KeySet, signature: &Signature) -> Result<(), Refused>;
}

/// Which of two policy views control starts with, and which the loader: the loader's is the slot that boots
/// ([`crate::node::Loader::boot`] exchanges them), or the one that the next policy goes to.
#[must_use]
pub fn places<T>(slots: &Slots, views: [T; 2]) -> [T; 2] {
    let loaders = if slots.policy_slot <= 1 { slots.policy_slot } else { slots.policy_target };
    let [first, second] = views;
    if loaders == 0 { [second, first] } else { [first, second] }
}
