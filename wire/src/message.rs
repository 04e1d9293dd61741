//! The message table: every message of the link, once. `docs/protocol.md` is written from it.
//!
//! A payload is the postcard encoding of the row's struct (`codec`). Integers wider than a byte have fixed
//! width, so the length of a message follows from its counts alone, and [`Message::decode`]
//! refuses any other length.

use crate::codec::{Buffer, Encode, Field, Payload, Reader, Sink};
use crate::mutation::{Check, removed};
use crate::{FNV1A_START, fnv1a};
#[cfg(test)]
use {postcard::fixint::le, serde::Serialize};

/// Joints, actions.
pub const MAX_JOINTS: usize = 32;
/// Elements of the command.
pub const MAX_COMMANDS: usize = 16;
/// Preference inputs.
pub const MAX_PREFERENCES: usize = 8;
/// The task's own sensors.
pub const MAX_SENSORS: usize = 64;
/// Elements of an observation or of a bare network's input or output.
pub const MAX_OBSERVATION: usize = 512;
/// Image bytes in one chunk.
pub const MAX_CHUNK: usize = 1024;
/// Version of the protocol as a whole. [`TABLE_HASH`] changes with every field.
pub const PROTOCOL_VERSION: u8 = 1;

/// Set in [`Identity::flags`]: no keys are provisioned, so unsigned images are taken (development mode).
pub const DEVELOPMENT: u8 = 1;
/// A slot number that names none.
pub const NO_SLOT: u8 = 0xff;

/// `f32` values of a message, at most `N`.
pub type Floats<const N: usize> = heapless::Vec<f32, N>;
/// UTF-8 text of a message.
pub type Text = heapless::String<32>;
/// Bytes of an image.
pub type Bytes = heapless::Vec<u8, MAX_CHUNK>;

/// Bins of a histogram of times.
pub const BINS: usize = 80;

/// Counts of a histogram of times from its first used bin to its last. Four bins per octave: bin 0 ends at
/// 256 ns, bin `4 e + m + 1` (`m` below 4) begins at `(4 + m) 2^(e + 6)` ns, the last has no end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub heapless::Vec<u32, BINS>);

#[cfg(test)]
impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut sequence = serializer.serialize_seq(Some(self.0.len()))?;
        self.0.iter().try_for_each(|count| sequence.serialize_element(&count.to_le_bytes()))?;
        sequence.end()
    }
}

/// Set in the kinds of messages that the controller sends.
pub const TO_HOST: u8 = 0x80;

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Host to controller.
    ToController,
    /// Controller to host.
    ToHost,
}

/// One row of the message table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Kind byte of the frame.
    pub kind: u8,
    /// Name.
    pub name: &'static str,
    /// Sender.
    pub direction: Direction,
    /// What it is for.
    pub doc: &'static str,
    /// Name, type and meaning of each field, in order.
    pub fields: &'static [(&'static str, &'static str, &'static str)],
}

/// Why a payload is not the message that its kind names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// No row has this kind.
    UnknownKind(u8),
    /// The payload of this kind does not decode.
    Malformed(u8),
    /// The payload of this kind is longer or shorter than its counts say.
    Length(u8),
    /// The output buffer cannot hold the message.
    BufferFull,
}

impl core::fmt::Display for MessageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(
                f,
                "message kind {kind:#04x} is in no row of the table: host and controller differ in version"
            ),
            Self::Malformed(kind) => write!(f, "payload of message kind {kind:#04x} does not decode"),
            Self::Length(kind) => {
                write!(f, "payload of message kind {kind:#04x} has not the length its counts say")
            }
            Self::BufferFull => f.write_str("output buffer too small for the message"),
        }
    }
}

impl core::error::Error for MessageError {}

macro_rules! messages {
    ($(
        $(#[doc = $doc:literal])*
        $kind:literal $direction:ident $name:ident {
            $( $(#[doc = $field_doc:literal])* $(#[serde($serde:meta)])? $field:ident : $ty:ty, )*
        }
    )*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Debug, Default, PartialEq)]
            #[cfg_attr(test, derive(Serialize))]
            pub struct $name {
                $( $(#[doc = $field_doc])* $(#[cfg_attr(test, serde($serde))])? pub $field: $ty, )*
            }

            impl Encode for $name {
                fn kind(&self) -> u8 {
                    $kind
                }

                // Not inlined: the frames of other messages are no part of the caller's.
                #[inline(never)]
                fn put(&self, sink: &mut impl Sink) -> bool {
                    let _ = &sink;
                    true $( && self.$field.put(sink) )*
                }
            }

            impl Payload for $name {
                #[inline(never)]
                fn take(&mut self, payload: &[u8]) -> Result<(), MessageError> {
                    #[allow(unused_mut, reason = "a message without fields")]
                    let mut reader = Reader::new(payload);
                    $( self.$field.take(&mut reader).ok_or(MessageError::Malformed($kind))?; )*
                    if reader.is_exact() || removed(Check::MessageLength) { Ok(()) } else { Err(MessageError::Length($kind)) }
                }
            }

            impl From<$name> for Message {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )*

        /// Any message of the table.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "no heap: the receiver's buffer is the largest message")]
        pub enum Message {
            $( $(#[doc = $doc])* $name($name), )*
        }

        /// The message table, in the order of its kinds.
        pub const TABLE: &[Row] = &[
            $( Row {
                kind: $kind,
                name: stringify!($name),
                direction: Direction::$direction,
                doc: concat!($($doc),*),
                fields: &[ $( (stringify!($field), stringify!($ty), concat!($($field_doc),*)), )* ],
            }, )*
        ];

        impl Encode for Message {
            fn kind(&self) -> u8 {
                match self { $( Self::$name(_) => $kind, )* }
            }

            fn put(&self, sink: &mut impl Sink) -> bool {
                match self { $( Self::$name(message) => message.put(sink), )* }
            }
        }

        impl Message {
            /// Kind byte of the frame.
            #[must_use]
            pub fn kind(&self) -> u8 {
                Encode::kind(self)
            }

            /// Encodes the payload.
            ///
            /// # Errors
            /// [`MessageError::BufferFull`].
            pub fn encode<'o>(&self, out: &'o mut [u8]) -> Result<&'o [u8], MessageError> {
                let mut buffer = Buffer { out: &mut *out, length: 0 };
                let whole = self.put(&mut buffer);
                let length = buffer.length;
                out.get(..length).filter(|_| whole).ok_or(MessageError::BufferFull)
            }

            /// Decodes the payload of a frame of this kind.
            ///
            /// # Errors
            /// Unknown kind, malformed payload, or a length that its counts do not give.
            pub fn decode(kind: u8, payload: &[u8]) -> Result<Self, MessageError> {
                let mut message = Self::empty();
                message.take(kind, payload)?;
                Ok(message)
            }

            /// As [`Message::decode`], in place; what is here after an error is of no use.
            ///
            /// # Errors
            /// As there.
            pub fn take(&mut self, kind: u8, payload: &[u8]) -> Result<(), MessageError> {
                match kind {
                    $( $kind => {
                        *self = Self::$name($name::default());
                        match self {
                            Self::$name(message) => message.take(payload),
                            _ => Err(MessageError::UnknownKind(kind)),
                        }
                    } )*
                    _ => Err(MessageError::UnknownKind(kind)),
                }
            }
        }
    };
}

impl Message {
    /// A place to decode into.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Hello(Hello {})
    }
}

messages! {
    /// Asks who is there and begins a session: its frame number is the first of the session, every later frame of
    /// the host counts up from it, and a frame with a number already seen is dropped. Frozen. Answer: `Identity`.
    0x01 ToController Hello {}

    /// Starts an update of the policy from its first byte, as `UpdateBegin` with part 0 and offset 0. Frozen. Answer: `Reply`.
    0x10 ToController ImageBegin {
        /// Bytes of the image.
        #[serde(with = "le")]
        total_len: u32,
    }

    /// Writes into the inactive slot of the update, in order. Frozen. Answer: `Reply`.
    0x11 ToController ImageChunk {
        /// Place of the first byte; the next one expected, or the chunk is refused.
        #[serde(with = "le")]
        offset: u32,
        /// The bytes.
        data: Bytes,
    }

    /// Verifies the slot (signature, robot, rollback counter) and puts it on trial. A policy also runs its golden vectors and becomes active between two ticks; firmware starts at the next `Restart`. Frozen. Answer: `Reply`.
    0x12 ToController ImageCommit {}

    /// Gives the update up; the active image is untouched. Frozen. Answer: `Reply`.
    0x13 ToController ImageAbort {}

    /// Starts an update, or goes on with one that was broken off. Frozen. Answer: `Reply`.
    0x14 ToController UpdateBegin {
        /// 0: policy; 1: firmware.
        part: u8,
        /// Bytes of the image.
        #[serde(with = "le")]
        total_len: u32,
        /// Bytes that the inactive slot has to hold already, a multiple of `erase_size` of `Slots`. 0: from the start.
        #[serde(with = "le")]
        offset: u32,
        /// CRC-32C of those bytes; another one is refused and nothing has changed.
        #[serde(with = "le")]
        crc32c: u32,
    }

    /// Ends the trial of what runs: it is what boots from now on, and its rollback counter the least that is taken. Frozen. Answer: `Reply`.
    0x15 ToController Confirm {
        /// 0: policy; 1: firmware.
        part: u8,
    }

    /// Gives a trial up. A policy goes back between two ticks, firmware at the next `Restart`. Frozen. Answer: `Reply`.
    0x16 ToController Revert {
        /// 0: policy; 1: firmware.
        part: u8,
    }

    /// Boots again. Taken in Idle and Fault only. Frozen. Answer: `Reply`, before it does.
    0x17 ToController Restart {}

    /// Asks for `Slots`. Frozen.
    0x18 ToController QuerySlots {}

    /// Gives a controller without keys its keys, once and for all: from now on it takes signed images only. Taken in Idle and Fault, if what boots is signed with one of them. Frozen. Answer: `Reply`.
    0x19 ToController ProvisionKeys {
        /// Ed25519 public key.
        key_a: [u8; 32],
        /// Second key; zeros: none.
        key_b: [u8; 32],
        /// Robot that the controller belongs to; empty: any.
        robot: Text,
    }

    /// Replaces the keys. Taken in Idle and Fault, if what boots is signed with one of the new ones. Frozen. Answer: `Reply`.
    0x1a ToController RotateKeys {
        /// One more than `generation` of `Slots`.
        #[serde(with = "le")]
        generation: u32,
        /// Ed25519 public key.
        key_a: [u8; 32],
        /// Second key; zeros: none.
        key_b: [u8; 32],
        /// First bytes of the key that signed.
        key_id: [u8; 8],
        /// First half of the signature over the new key set.
        signature_r: [u8; 32],
        /// Second half.
        signature_s: [u8; 32],
    }

    /// Leaves Idle or Fault for Ready: torque on, way to the default pose. Answer: `Reply`.
    0x20 ToController Arm {
        /// Schema hash of the contract that the host works with.
        #[serde(with = "le")]
        schema_hash: u64,
        /// The `session` of the last `Identity`: an `Arm` that was recorded earlier is refused.
        #[serde(with = "le")]
        session: u32,
    }

    /// Leaves Ready for Running. Answer: `Reply`.
    0x21 ToController Run {
        /// As in `Arm`.
        #[serde(with = "le")]
        session: u32,
    }

    /// Leaves Ready or Running for Damping. Answer: `Reply`.
    0x22 ToController Stop {}

    /// Chooses what drives the control tick. Taken in Idle and Fault only. Answer: `Reply`.
    0x23 ToController Pace {
        /// True: each `RawState` is one tick, timed by its own clock (simulation). False: the hardware timer.
        lockstep: bool,
    }

    /// Chooses a profile of the contract. With torque on only one that loosens no limit is taken. Answer: `Reply`.
    0x24 ToController SetProfile {
        /// Which one, from 0.
        profile: u8,
    }

    /// Proof of life of the host. No answer.
    0x30 ToController Heartbeat {
        /// Counts.
        #[serde(with = "le")]
        count: u32,
    }

    /// What the robot measured, joints in the robot's order. Answer: `Action` at the next tick.
    0x31 ToController RawState {
        /// Counts raw states; a number already seen is ignored.
        #[serde(with = "le")]
        sequence: u32,
        /// Clock of the sensors, us.
        #[serde(with = "le")]
        time_us: u64,
        /// Orientation world_from_imu, w x y z.
        base_orientation: [f32; 4],
        /// Angular velocity in the IMU frame, rad/s.
        base_angular_velocity: [f32; 3],
        /// Linear velocity in the IMU frame, m/s.
        base_linear_velocity: [f32; 3],
        /// rad or m.
        joint_position: Floats<MAX_JOINTS>,
        /// rad/s or m/s.
        joint_velocity: Floats<MAX_JOINTS>,
        /// What the user commands (velocities, a target).
        command: Floats<MAX_COMMANDS>,
        /// User weights, attribute strengths, rule vector.
        preference: Floats<MAX_PREFERENCES>,
        /// The task's own sensors.
        sensors: Floats<MAX_SENSORS>,
    }

    /// One inference of the active network, raw input to raw output, no actuator involved. Taken in Idle and Fault only. Answer: `Inferred`.
    0x32 ToController Infer {
        /// 1: the network forgets its recurrent state first. 0: the state goes on from the inference before.
        reset: u8,
        /// Input of the network.
        input: Floats<MAX_OBSERVATION>,
    }

    /// Asks for `Telemetry`.
    0x33 ToController Observe {}

    /// `Infer` on the input of a golden vector of the image, after a reset: for inputs longer than a message.
    0x34 ToController InferGolden {
        /// Which vector, from 0.
        vector: u16,
    }

    /// Asks for `Timing`.
    0x40 ToController ReadTiming {}

    /// Asks for a record of the black box. Answer: `BlackBoxRecord`.
    0x41 ToController ReadBlackBox {
        /// Which, from 0, the oldest.
        #[serde(with = "le")]
        index: u32,
    }

    /// Makes coming control ticks late, to test what catches that. Taken by firmware with feature `inject` only, which is no release. Answer: `Reply`.
    0x42 ToController Inject {
        /// Ticks to come before the first.
        #[serde(with = "le")]
        after: u32,
        /// How many ticks.
        #[serde(with = "le")]
        ticks: u32,
        /// How much longer each takes, us; the largest number: it never ends.
        #[serde(with = "le")]
        delay_us: u32,
    }

    /// Who the controller is. Answers `Hello`. Frozen.
    0x81 ToHost Identity {
        /// `PROTOCOL_VERSION`.
        protocol: u8,
        /// Hash of this message table.
        #[serde(with = "le")]
        table_hash: u64,
        /// Board name.
        board: Text,
        /// Firmware version.
        firmware: Text,
        /// Robot of the active image; empty without one.
        robot: Text,
        /// Schema hash of the active image; 0 without contract.
        #[serde(with = "le")]
        schema_hash: u64,
        /// CRC-32C of the active image; 0 without one.
        #[serde(with = "le")]
        image_crc32c: u32,
        /// Bytes one slot holds.
        #[serde(with = "le")]
        slot_len: u32,
        /// Controller state.
        state: u8,
        /// Profile that the limits come from.
        profile: u8,
        /// Profiles that there are, at least 1.
        profiles: u8,
        /// Name of the profile.
        profile_name: Text,
        /// Names this session in `Arm` and `Run`; another one with every `Hello`.
        #[serde(with = "le")]
        session: u32,
        /// Bit 0: no keys, unsigned images are taken (development mode).
        flags: u8,
    }

    /// Answer to a command. Frozen.
    0x82 ToHost Reply {
        /// Kind of the message answered.
        to: u8,
        /// 0: done. Otherwise a `Refusal` of the runtime.
        code: u8,
        /// Number that belongs to the code.
        #[serde(with = "le")]
        detail: u32,
    }

    /// What the actuators are told, joints in the robot's order. One per tick.
    0x83 ToHost Action {
        /// Sequence of the raw state that it answers.
        #[serde(with = "le")]
        sequence: u32,
        /// Clock of the controller at the tick, us.
        #[serde(with = "le")]
        time_us: u64,
        /// Controller state.
        state: u8,
        /// Why the controller fell back; 0: it did not.
        cause: u8,
        /// Profile that the limits come from.
        profile: u8,
        /// Monitors (bits) that raised an alarm in this tick.
        #[serde(with = "le")]
        alarms: u16,
        /// Joints (bits) whose setpoint the envelope changed.
        #[serde(with = "le")]
        limited: u32,
        /// Time the tick took, us; 0 when the board has no finer clock.
        #[serde(with = "le")]
        tick_us: u32,
        /// Raw action proposed by the network.
        proposed: Floats<MAX_JOINTS>,
        /// Position setpoints, rad or m.
        position: Floats<MAX_JOINTS>,
        /// Velocity setpoints, rad/s or m/s.
        velocity: Floats<MAX_JOINTS>,
        /// Feed-forward torques or forces, N m or N.
        torque: Floats<MAX_JOINTS>,
        /// Position gains.
        kp: Floats<MAX_JOINTS>,
        /// Velocity gains.
        kd: Floats<MAX_JOINTS>,
        /// Bounds of the whole torque or force.
        torque_limit: Floats<MAX_JOINTS>,
    }

    /// Answers `Infer`.
    0x84 ToHost Inferred {
        /// Board timer counts of the inference, 0 without such a timer.
        #[serde(with = "le")]
        counts: u32,
        /// Output of the network.
        output: Floats<MAX_OBSERVATION>,
    }

    /// Counters and the last observation. Answers `Observe`.
    0x85 ToHost Telemetry {
        /// Controller state.
        state: u8,
        /// Why the controller last fell back; 0 since it was armed again.
        cause: u8,
        /// Cause of the last fault since boot; arming does not clear it.
        last_fault: u8,
        /// Profile that the limits come from.
        profile: u8,
        /// Monitors (bits) that raised an alarm in the last tick.
        #[serde(with = "le")]
        alarms: u16,
        /// Monitor of the first alarm in the last tick that had one; 255: none since boot.
        last_alarm: u8,
        /// Its channel: see docs/envelope.md.
        #[serde(with = "le")]
        last_channel: u16,
        /// Age alarms since boot.
        #[serde(with = "le")]
        alarms_age: u32,
        /// Alarms of channels that are off.
        #[serde(with = "le")]
        alarms_off: u32,
        /// Alarms of channels that are stuck.
        #[serde(with = "le")]
        alarms_stuck: u32,
        /// Noise alarms.
        #[serde(with = "le")]
        alarms_noise: u32,
        /// Jump alarms.
        #[serde(with = "le")]
        alarms_jump: u32,
        /// Joints that did not follow their commands.
        #[serde(with = "le")]
        alarms_response: u32,
        /// Observations unlike the recorded ones.
        #[serde(with = "le")]
        alarms_abstention: u32,
        /// Times the host fell silent.
        #[serde(with = "le")]
        host_losses: u32,
        /// Windowed abstention score over its threshold; 0 without an abstention section.
        abstention: f32,
        /// Motoring power of the last command at the measured velocities, W.
        power_w: f32,
        /// Ticks since boot.
        #[serde(with = "le")]
        ticks: u32,
        /// Ticks that ended after their deadline.
        #[serde(with = "le")]
        misses: u32,
        /// Falls back since boot.
        #[serde(with = "le")]
        fallbacks: u32,
        /// Raw states refused (non-finite, wrong counts, old sequence).
        #[serde(with = "le")]
        rejected_states: u32,
        /// Frames refused (CRC, COBS, kind, length).
        #[serde(with = "le")]
        rejected_frames: u32,
        /// Frames dropped because their number was seen before (duplicates, replays, late ones).
        #[serde(with = "le")]
        repeated_frames: u32,
        /// Bytes or messages dropped because a queue was full.
        #[serde(with = "le")]
        dropped: u32,
        /// Longest tick, us.
        #[serde(with = "le")]
        tick_max_us: u32,
        /// Deepest stack seen, bytes; 0 when the board does not measure it.
        #[serde(with = "le")]
        stack_bytes: u32,
        /// The last observation, as the network saw it.
        observation: Floats<MAX_OBSERVATION>,
    }

    /// What is in the flash slots. Answers `QuerySlots`. Frozen.
    0x86 ToHost Slots {
        /// Times the keys were replaced, plus 1; 0: no keys (development mode).
        #[serde(with = "le")]
        generation: u32,
        /// First bytes of the keys.
        key_a: [u8; 8],
        /// Zeros: there is no second key.
        key_b: [u8; 8],
        /// Robot that the controller belongs to; empty: any.
        robot: Text,
        /// Bytes that are erased at once: the step of `UpdateBegin.offset`.
        #[serde(with = "le")]
        erase_size: u32,
        /// Bit 0: writing flash stalls the core, so updates are taken in Idle and Fault only.
        flags: u8,
        /// Slot of the policy that runs; 255: none.
        policy_slot: u8,
        /// 1: that policy is on trial.
        policy_trial: u8,
        /// Slot that the next policy goes to.
        policy_target: u8,
        /// CRC-32C of the policies last committed to slots 0 and 1.
        #[serde(with = "le")]
        policy_crc_0: u32,
        /// See above.
        #[serde(with = "le")]
        policy_crc_1: u32,
        /// Smallest rollback counter of a policy that is taken.
        #[serde(with = "le")]
        policy_floor: u32,
        /// Slot of the firmware that runs; 255: unknown.
        firmware_slot: u8,
        /// 1: that firmware is on trial. 2: the other slot is, from the next `Restart` on.
        firmware_trial: u8,
        /// CRC-32C of the firmware last committed to slots 0 and 1.
        #[serde(with = "le")]
        firmware_crc_0: u32,
        /// See above.
        #[serde(with = "le")]
        firmware_crc_1: u32,
        /// Smallest rollback counter of firmware that is taken.
        #[serde(with = "le")]
        firmware_floor: u32,
        /// Bytes of a firmware slot; 0: firmware cannot be updated over the link.
        #[serde(with = "le")]
        firmware_slot_len: u32,
    }

    /// When ticks began, how long they took, and what was late. Answers `ReadTiming`.
    0x90 ToHost Timing {
        /// Why the controller started: a `ResetCause` of the runtime.
        reset_cause: u8,
        /// Starts since power on.
        #[serde(with = "le")]
        boots: u32,
        /// Control period, us; 0 without a contract.
        #[serde(with = "le")]
        period_us: u32,
        /// Deadline of a tick after its release, us; 0 without a contract.
        #[serde(with = "le")]
        deadline_us: u32,
        /// Response time of the worst tick by analysis, us; 0 without a contract.
        #[serde(with = "le")]
        response_us: u32,
        /// Deadlines that passed without a completed tick. The fallback went out at each.
        #[serde(with = "le")]
        misses: u32,
        /// Faults latched because misses came too close to each other.
        #[serde(with = "le")]
        latches: u32,
        /// Completed ticks that came too soon after the one before; the watchdog was not fed.
        #[serde(with = "le")]
        early_feeds: u32,
        /// Latest release, ns.
        #[serde(with = "le")]
        release_max_ns: u32,
        /// Longest tick, ns.
        #[serde(with = "le")]
        execution_max_ns: u32,
        /// Longest that messages kept a tick waiting while torque was on, ns.
        #[serde(with = "le")]
        blocked_max_ns: u32,
        /// Longest that a fallback took from its deadline's interrupt until it was queued, ns.
        #[serde(with = "le")]
        fallback_max_ns: u32,
        /// First bin of `release`.
        release_from: u8,
        /// Time from the hardware timer to the begin of the tick; one count per tick of the timer.
        release: Counts,
        /// First bin of `execution`.
        execution_from: u8,
        /// Time from the begin of the tick until its action was queued, interrupts included; one count per tick.
        execution: Counts,
    }

    /// What the controller measured and commanded in one tick, joints in the robot's order. Answers `ReadBlackBox`.
    0x91 ToHost BlackBoxRecord {
        /// Records that there are.
        #[serde(with = "le")]
        count: u32,
        /// Which one this is, from 0, the oldest. With `index` = `count` nothing else is of meaning.
        #[serde(with = "le")]
        index: u32,
        /// Start of the controller since power on, from 1.
        #[serde(with = "le")]
        boot: u32,
        /// Tick since that start.
        #[serde(with = "le")]
        tick: u32,
        /// Clock of the controller at the tick, us.
        #[serde(with = "le")]
        time_us: u64,
        /// Sequence of the newest raw state.
        #[serde(with = "le")]
        sequence: u32,
        /// Controller state after the tick.
        state: u8,
        /// Why the controller fell back; 0: it did not.
        cause: u8,
        /// The tick ended after its deadline; the commands are those of the fallback.
        late: bool,
        /// Joints (bits) whose setpoint the envelope changed.
        #[serde(with = "le")]
        limited: u32,
        /// Time from the hardware timer to the begin of the tick, ns; 0 in lockstep.
        #[serde(with = "le")]
        release_ns: u32,
        /// Time the tick took, ns.
        #[serde(with = "le")]
        execution_ns: u32,
        /// Orientation world_from_imu of the newest raw state, w x y z.
        base_orientation: [f32; 4],
        /// Angular velocity in the IMU frame, rad/s.
        base_angular_velocity: [f32; 3],
        /// Measured, rad or m.
        joint_position: Floats<MAX_JOINTS>,
        /// Measured, rad/s or m/s.
        joint_velocity: Floats<MAX_JOINTS>,
        /// Position setpoints, rad or m.
        position: Floats<MAX_JOINTS>,
        /// Feed-forward torques or forces, N m or N.
        torque: Floats<MAX_JOINTS>,
        /// Position gains.
        kp: Floats<MAX_JOINTS>,
        /// Velocity gains.
        kd: Floats<MAX_JOINTS>,
    }
}

/// FNV-1a over kinds, names and fields of the table: two builds with the same value understand
/// each other.
pub const TABLE_HASH: u64 = table_hash();

const fn table_hash() -> u64 {
    let mut hash = FNV1A_START;
    let mut row = 0;
    while row < TABLE.len() {
        hash = fnv1a(hash, &[TABLE[row].kind]);
        hash = fnv1a(hash, TABLE[row].name.as_bytes());
        let mut field = 0;
        while field < TABLE[row].fields.len() {
            hash = fnv1a(hash, TABLE[row].fields[field].0.as_bytes());
            hash = fnv1a(hash, TABLE[row].fields[field].1.as_bytes());
            field += 1;
        }
        row += 1;
    }
    hash
}

/// Kinds of the frozen messages: what it takes to say who one is and to update. Their rows never change, so that
/// any later host can update any controller.
pub const FROZEN: [u8; 15] =
    [0x01, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x81, 0x82, 0x86];

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::frame::MAX_PAYLOAD;

    fn floats<const N: usize>(n: usize) -> Floats<N> {
        (0..n).map(|i| i as f32 * 0.5).collect()
    }

    #[test]
    fn the_longest_messages_fit_a_frame() {
        let mut out = [0; MAX_PAYLOAD];
        let longest: [Message; 7] = [
            Infer { reset: 0, input: floats(MAX_OBSERVATION) }.into(),
            InferGolden { vector: u16::MAX }.into(),
            Telemetry { observation: floats(MAX_OBSERVATION), ..Default::default() }.into(),
            ImageChunk { offset: 0, data: Bytes::from_slice(&[0; MAX_CHUNK]).unwrap() }.into(),
            Timing {
                release: Counts([1; BINS].into()),
                execution: Counts([2; BINS].into()),
                ..Default::default()
            }
            .into(),
            BlackBoxRecord {
                joint_position: floats(MAX_JOINTS),
                joint_velocity: floats(MAX_JOINTS),
                position: floats(MAX_JOINTS),
                torque: floats(MAX_JOINTS),
                kp: floats(MAX_JOINTS),
                kd: floats(MAX_JOINTS),
                ..Default::default()
            }
            .into(),
            Action {
                proposed: floats(MAX_JOINTS),
                position: floats(MAX_JOINTS),
                velocity: floats(MAX_JOINTS),
                torque: floats(MAX_JOINTS),
                kp: floats(MAX_JOINTS),
                kd: floats(MAX_JOINTS),
                torque_limit: floats(MAX_JOINTS),
                ..Default::default()
            }
            .into(),
        ];
        for message in longest {
            let bytes = message.encode(&mut out).unwrap();
            assert_eq!(Message::decode(message.kind(), bytes), Ok(message.clone()));
        }
    }

    #[test]
    fn golden_bytes_of_a_raw_state() {
        let state = RawState {
            sequence: 0x0403_0201,
            time_us: 5,
            base_orientation: [1.0, 0.0, 0.0, 0.0],
            joint_position: floats(2),
            ..Default::default()
        };
        let mut out = [0; MAX_PAYLOAD];
        let message = Message::from(state);
        let bytes = message.encode(&mut out).unwrap();
        assert_eq!(bytes[..4], [1, 2, 3, 4], "sequence");
        assert_eq!(bytes[4..12], [5, 0, 0, 0, 0, 0, 0, 0], "time_us");
        assert_eq!(bytes[12..16], [0, 0, 0x80, 0x3f], "w of the orientation");
        assert_eq!(bytes[52..53], [2], "count of joint positions");
        assert_eq!(bytes[53..61], [0, 0, 0, 0, 0, 0, 0, 0x3f], "0.0 and 0.5");
        assert_eq!(bytes[61..], [0, 0, 0, 0], "the other counts");
    }

    #[test]
    fn the_bytes_are_those_of_postcard() {
        fn check<T: Payload + Serialize>(message: T) {
            let (mut ours, mut theirs) = ([0; MAX_PAYLOAD], [0; MAX_PAYLOAD]);
            let theirs = postcard::to_slice(&message, &mut theirs).unwrap();
            assert_eq!(message.into().encode(&mut ours).unwrap(), theirs);
        }
        let text = |text: &str| Text::try_from(text).unwrap();
        check(Hello {});
        check(Pace { lockstep: true });
        check(Arm { schema_hash: 0x0123_4567_89ab_cdef, session: 7 });
        for n in [0, 1, 127, 128, 300, 512] {
            check(Infer { reset: 1, input: floats(n) });
            check(Telemetry { ticks: 70_000, cause: 3, observation: floats(n), ..Default::default() });
            let execution = Counts((0..BINS.min(n)).map(|i| i as u32 * 70_000).collect());
            check(Timing { execution_from: 3, execution, ..Default::default() });
            check(ImageChunk { offset: 9, data: (0..n).map(|i| i as u8).collect() });
        }
        check(Identity { board: text("qemu"), robot: text("h\u{e9}"), ..Default::default() });
        check(RawState {
            time_us: 1 << 40,
            joint_position: floats(32),
            sensors: floats(64),
            ..Default::default()
        });
    }

    #[test]
    fn refuses_unknown_kinds_and_other_lengths() {
        assert_eq!(Message::decode(0x7f, &[]), Err(MessageError::UnknownKind(0x7f)));
        assert_eq!(Message::decode(0x01, &[0]), Err(MessageError::Length(0x01)));
        assert_eq!(Message::decode(0x10, &[0, 0, 0]), Err(MessageError::Malformed(0x10)));
        // Count 1 written as 81 00: postcard reads it, the table does not allow it.
        assert_eq!(Message::decode(0x32, &[0, 0x81, 0, 0, 0, 0, 0]), Err(MessageError::Length(0x32)));
        // More elements than the row has room for.
        let mut long = std::vec![0; 3 + 4 * 513];
        long[1..3].copy_from_slice(&[0x81, 0x04]);
        assert_eq!(Message::decode(0x32, &long), Err(MessageError::Malformed(0x32)));
    }

    #[test]
    fn the_frozen_messages_are_what_they_always_were() {
        let mut hash = FNV1A_START;
        for kind in FROZEN {
            let row = TABLE.iter().find(|row| row.kind == kind).unwrap();
            assert!(row.doc.contains("Frozen"), "{}: say so", row.name);
            hash = fnv1a(fnv1a(hash, &[kind]), row.name.as_bytes());
            for (field, ty, _) in row.fields {
                let ty: std::string::String = ty.chars().filter(|c| !c.is_whitespace()).collect();
                hash = fnv1a(fnv1a(hash, field.as_bytes()), ty.as_bytes());
            }
        }
        assert_eq!(
            hash, 0xca35_e3c2_d755_faaa,
            "a frozen message has changed: hosts could no longer update the controllers there are"
        );
        let marked = TABLE.iter().filter(|row| row.doc.contains("Frozen")).count();
        assert_eq!(marked, FROZEN.len());
    }

    #[test]
    fn kinds_are_unique_and_their_top_bit_is_the_direction() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.kind & TO_HOST != 0, row.direction == Direction::ToHost, "{}", row.name);
            assert!(TABLE[..i].iter().all(|other| other.kind < row.kind), "{}", row.name);
        }
    }
}
