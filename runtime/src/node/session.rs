//! Who the host is, and which of its frames are new.

use crate::{Refusal, store::Refused};
use tendon_wire::mutation::{Check, removed};

/// What the link has seen of the host since its last `Hello`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    /// In `Identity`, `Arm` and `Run`; 0: no `Hello` since boot.
    pub(super) nonce: u32,
    hellos: u32,
    /// Number of the newest frame.
    newest: Option<u16>,
}

impl Session {
    /// A `Hello` came; `noise`: a counter of the board, which differs from boot to boot.
    pub(super) fn begin(&mut self, noise: u32) {
        self.hellos = self.hellos.wrapping_add(1);
        // Odd multiplier (Knuth's): different counts give different numbers. Never 0.
        self.nonce = (self.hellos.wrapping_mul(2_654_435_761) ^ noise).max(1);
    }

    /// Whether a frame was not seen before, late ones included. A `Hello` always is new.
    pub(super) fn is_new(&mut self, sequence: u16, is_hello: bool) -> bool {
        let newer = |newest: u16| (sequence.wrapping_sub(newest) as i16) > 0;
        let new = is_hello || self.newest.is_none_or(newer) || removed(Check::FrameSequence);
        if new {
            self.newest = Some(sequence);
        }
        new
    }

    pub(super) fn check(&self, nonce: u32) -> Result<(), Refused> {
        if (nonce == self.nonce && nonce != 0) || removed(Check::Session) {
            Ok(())
        } else {
            Err((Refusal::Session, 0))
        }
    }
}
