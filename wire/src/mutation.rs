//! Takes one safety check away, so that a campaign can show that it finds the hole that the check closes.
//!
//! Without feature `mutate` [`removed`] is `false` at compile time and nothing of this is in the program. The
//! feature compiles only where `TENDON_CAMPAIGN` is set, which `cargo xtask campaign NAME --mutate` does and
//! no release does; a firmware built so says it in its section `.tendon`.

macro_rules! checks {
    ($( $(#[doc = $doc:literal])* $check:ident $name:literal, )*) => {
        /// A safety check that can be taken away.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Check { $( $(#[doc = $doc])* $check, )* }

        impl Check {
            /// Every check.
            pub const ALL: &'static [Self] = &[ $( Self::$check, )* ];

            /// For command lines and tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$check => $name, )* }
            }
        }
    };
}

checks! {
    /// CRC-32C of a link frame.
    FrameCrc "frame-crc",
    /// A message has exactly the length that its counts give.
    MessageLength "message-length",
    /// What was received before a delimiter is no part of the next frame.
    Resync "resync",
    /// A frame whose number was seen in this session is dropped.
    FrameSequence "frame-sequence",
    /// Arm and Run name the session.
    Session "session",
    /// A raw state whose sequence number was seen is ignored.
    StateSequence "state-sequence",
    /// CRC-32C of an image.
    ImageCrc "image-crc",
    /// Ed25519 signature of an image.
    Signature "signature",
    /// An image is for this robot.
    RobotId "robot-id",
    /// An image's rollback counter is not below the stored one.
    Rollback "rollback",
    /// CRC of a record in the flash log.
    RecordCrc "record-crc",
    /// An image on trial that was not confirmed is left at the next boot.
    TrialReturn "trial-return",
    /// An image is verified at every boot.
    BootVerify "boot-verify",
    /// An image that does not fit the control period is refused.
    Admission "admission",
    /// The envelope as a whole.
    Envelope "envelope",
    /// A raw state older than its limit ends Running.
    StateAge "state-age",
    /// A silent host ends Running.
    HostSilence "host-silence",
    /// The fallback goes out at the deadline of a tick that is late.
    Deadline "deadline",
    /// The watchdog is fed by completed ticks alone.
    WatchdogFeed "watchdog-feed",
    /// Plausibility of the sensors.
    SensorMonitor "sensor-monitor",
    /// Response of the joints to their commands.
    ResponseMonitor "response-monitor",
    /// Abstention on observations unlike the calibration data.
    Abstention "abstention",
    /// A recorder hands every tick to the system before it says that it is written.
    RecorderFlush "recorder-flush",
    /// Every number of a robot file is finite.
    FiniteNumbers "finite-numbers",
    /// A checkpoint is complete before `last` points at it.
    CheckpointWhole "checkpoint-whole",
}

/// Whether `check` was taken away.
#[cfg(not(feature = "mutate"))]
#[inline(always)]
#[must_use]
pub const fn removed(_: Check) -> bool {
    false
}

#[cfg(feature = "mutate")]
pub use switch::{number, remove, remove_number, removed};

#[cfg(feature = "mutate")]
mod switch {
    use super::Check;
    use core::sync::atomic::{AtomicU8, Ordering};

    const _: () = assert!(
        option_env!("TENDON_CAMPAIGN").is_some(),
        "feature `mutate` removes safety checks: build it through `cargo xtask campaign NAME --mutate` only"
    );

    /// Number of the check, from 1; 0: none.
    static REMOVED: AtomicU8 = AtomicU8::new(0);

    /// Takes `check` away from now on, and puts back what was taken away before.
    pub fn remove(check: Option<Check>) {
        REMOVED.store(check.map_or(0, |check| check as u8 + 1), Ordering::Relaxed);
    }

    /// The number by which another program takes the same check away; 0: none is.
    #[must_use]
    pub fn number() -> u8 {
        REMOVED.load(Ordering::Relaxed)
    }

    /// As [`remove`], by the number.
    pub fn remove_number(number: u8) {
        REMOVED.store(number, Ordering::Relaxed);
    }

    /// Whether `check` was taken away.
    #[must_use]
    pub fn removed(check: Check) -> bool {
        REMOVED.load(Ordering::Relaxed) == check as u8 + 1
    }
}
