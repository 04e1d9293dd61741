//! Updates over the link: policies and firmware, trials, keys. Every message here is frozen, so this works with
//! controllers of any version.

use super::session::{ANSWER, unexpected};
use super::{LinkError, Session, Transport};
use std::time::Duration;
use tendon_runtime::Refusal;
use tendon_runtime::store::Part;
use tendon_wire::CRC32C;
use tendon_wire::flash::{KeySet, Signature};
use tendon_wire::message::{
    Bytes, Confirm, Identity, ImageAbort, ImageChunk, ImageCommit, MAX_CHUNK, Message, ProvisionKeys,
    QuerySlots, Restart, Revert, RotateKeys, Slots, Text, UpdateBegin,
};

/// Time for verification and self-test of an image.
const COMMIT: Duration = Duration::from_secs(60);
/// Time to compare what a slot holds.
const COMPARE: Duration = Duration::from_secs(20);
/// Times an upload goes on after the link lost a frame.
const RETRIES: u32 = 8;
/// From `Restart` to the first hello: longer than the controller waits before it resets.
const RESTART: Duration = Duration::from_millis(200);

impl<T: Transport> Session<T> {
    /// Runs a policy: sends it to the inactive slot, where it is verified and becomes active, on trial. A policy
    /// that is on trial already is given up for it. `progress`: bytes sent.
    ///
    /// # Errors
    /// The controller's refusal, or the link's failure. The active image stays as it was.
    pub fn upload(&mut self, image: &[u8], progress: impl FnMut(usize)) -> Result<(), LinkError> {
        if let Err(error) = self.begin(Part::Policy, image, 0) {
            if !is_refused(&error, Refusal::Trial) {
                return Err(error);
            }
            self.revert(Part::Policy)?;
            self.begin(Part::Policy, image, 0)?;
        }
        self.send_from(image, 0, progress)?;
        self.command(&ImageCommit {}.into(), COMMIT)
    }

    /// As [`Session::upload`] for either part, without giving up a trial, and going on where the inactive slot
    /// already holds the beginning of `image`. Returns how much it held.
    ///
    /// # Errors
    /// As there.
    pub fn update(
        &mut self,
        part: Part,
        image: &[u8],
        mut progress: impl FnMut(usize),
    ) -> Result<usize, LinkError> {
        let held = self.resume(part, image)?;
        let mut from = held;
        for retry in 0.. {
            match self.send_from(image, from, &mut progress) {
                Ok(()) => break,
                // A frame was lost: what the slot holds is the truth.
                Err(LinkError::Timeout { .. }) if retry < RETRIES => from = self.resume(part, image)?,
                Err(LinkError::Refused { refusal: Some(Refusal::Order), .. }) if retry < RETRIES => {
                    from = self.resume(part, image)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.command(&ImageCommit {}.into(), COMMIT)?;
        Ok(held)
    }

    /// Begins at the furthest place up to which the inactive slot holds `image`.
    fn resume(&mut self, part: Part, image: &[u8]) -> Result<usize, LinkError> {
        let step = self.slots()?.erase_size.max(1) as usize;
        // It holds it up to `low` steps and not up to `high`.
        let (mut low, mut high) = (0, image.len() / step + 1);
        let mut begun = None;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.begin(part, image, middle * step) {
                Ok(()) => (low, begun) = (middle, Some(middle)),
                Err(error) if is_refused(&error, Refusal::Order) => high = middle,
                Err(error) => return Err(error),
            }
        }
        if begun != Some(low) {
            self.begin(part, image, low * step)?;
        }
        Ok(low * step)
    }

    fn begin(&mut self, part: Part, image: &[u8], offset: usize) -> Result<(), LinkError> {
        let (total_len, at) = (image.len().min(u32::MAX as usize) as u32, offset.min(image.len()));
        let crc32c = if at == 0 { 0 } else { CRC32C.checksum(&image[..at]) };
        let begin = UpdateBegin { part: part as u8, total_len, offset: at as u32, crc32c };
        self.command(&begin.into(), COMPARE)
    }

    fn send_from(
        &mut self,
        image: &[u8],
        from: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<(), LinkError> {
        let mut at = from;
        progress(at);
        for chunk in image[from..].chunks(MAX_CHUNK) {
            let data = Bytes::from_slice(chunk).unwrap_or_default();
            if let Err(error) = self.command(&ImageChunk { offset: at as u32, data }.into(), ANSWER) {
                if matches!(error, LinkError::Refused { .. }) {
                    let _ = self.command(&ImageAbort {}.into(), ANSWER);
                }
                return Err(error);
            }
            at += chunk.len();
            progress(at);
        }
        Ok(())
    }

    /// What is in the slots.
    ///
    /// # Errors
    /// No answer.
    pub fn slots(&mut self) -> Result<Slots, LinkError> {
        match self.request(&QuerySlots {}.into(), ANSWER)? {
            Message::Slots(slots) => Ok(slots),
            _ => Err(unexpected("QuerySlots")),
        }
    }

    /// Ends the trial of what runs: it boots from now on.
    ///
    /// # Errors
    /// The refusal.
    pub fn confirm(&mut self, part: Part) -> Result<(), LinkError> {
        self.command(&Confirm { part: part as u8 }.into(), ANSWER)
    }

    /// Gives a trial up.
    ///
    /// # Errors
    /// The refusal.
    pub fn revert(&mut self, part: Part) -> Result<(), LinkError> {
        self.command(&Revert { part: part as u8 }.into(), COMMIT)
    }

    /// Boots the controller and waits until it answers again.
    ///
    /// # Errors
    /// The refusal, or no answer.
    pub fn restart(&mut self) -> Result<Identity, LinkError> {
        self.command(&Restart {}.into(), ANSWER)?;
        let until = self.transport().now() + RESTART;
        // An answer to a hello sent too early would be the old program's.
        while let Some(left) =
            until.checked_duration_since(self.transport().now()).filter(|left| !left.is_zero())
        {
            self.transport().receive(left)?;
        }
        self.first_hello()
    }

    /// Gives a controller without keys its keys.
    ///
    /// # Errors
    /// The refusal.
    pub fn provision(&mut self, keys: &KeySet) -> Result<(), LinkError> {
        let [key_a, key_b] = keys.keys;
        self.command(&ProvisionKeys { key_a, key_b, robot: robot(keys) }.into(), COMMIT)
    }

    /// Replaces the keys.
    ///
    /// # Errors
    /// The refusal.
    pub fn rotate(&mut self, keys: &KeySet, signature: &Signature) -> Result<(), LinkError> {
        let [key_a, key_b] = keys.keys;
        let (mut signature_r, mut signature_s) = ([0; 32], [0; 32]);
        signature_r.copy_from_slice(&signature.signature[..32]);
        signature_s.copy_from_slice(&signature.signature[32..]);
        let rotate = RotateKeys {
            generation: keys.generation,
            key_a,
            key_b,
            key_id: signature.key_id,
            signature_r,
            signature_s,
        };
        self.command(&rotate.into(), COMMIT)
    }
}

fn robot(keys: &KeySet) -> Text {
    let bytes = keys.robot_id.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Text::try_from(std::str::from_utf8(bytes).unwrap_or("")).unwrap_or_default()
}

fn is_refused(error: &LinkError, why: Refusal) -> bool {
    matches!(error, LinkError::Refused { refusal: Some(refusal), .. } if *refusal == why)
}
