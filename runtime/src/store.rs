//! What the controller needs of its flash: slots, signatures, and records of what boots. Implemented by the boot
//! stage's services (firmware) and by the same code in process (`boot`).

use crate::Refusal;
pub use crate::codes::{KeysRefused, Part};
use tendon_wire::flash::{KeySet, Signature};
use tendon_wire::message::Slots;

/// Why something was refused, and the number that belongs to it.
pub type Refused = (Refusal, u32);

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
