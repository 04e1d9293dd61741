//! What messages say in numbers: each list once, with the number on the link beside the name.

use tendon_wire::image::monitor;

/// Enumerations whose variants have a number on the link, and the way back from it.
macro_rules! codes {
    ($($(#[$meta:meta])* pub enum $Name:ident: $code:ident { $($(#[$of:meta])* $Variant:ident = $number:literal,)+ })+) => {$(
        $(#[$meta])*
        #[repr(u8)]
        pub enum $Name {
            $($(#[$of])* $Variant = $number,)+
        }

        impl $Name {
            /// What has this number.
            #[must_use]
            pub fn from_code(code: $code) -> Option<Self> {
                match code {
                    $($number => Some(Self::$Variant),)+
                    _ => None,
                }
            }
        }
    )+};
}

codes! {
    /// Controller states; the number is the `state` of messages.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum State: u8 {
        /// Before anything was checked.
        #[default]
        Boot = 0,
        /// Golden vectors run.
        SelfTest = 1,
        /// No torque.
        Idle = 2,
        /// Torque on, on the way to the default pose or there.
        Ready = 3,
        /// The policy acts.
        Running = 4,
        /// Fallback: the last setpoint is held for a moment, then joints are damped.
        Damping = 5,
        /// No torque, latched.
        Fault = 6,
    }

    /// Why the controller left Running or Ready; the number is the `cause` of messages.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Cause: u8 {
        /// It did not.
        #[default]
        None = 0,
        /// `Stop` was commanded.
        Stop = 1,
        /// No raw state young enough.
        StaleState = 2,
        /// The host is silent.
        HostSilent = 3,
        /// A raw state was not finite or had wrong counts.
        InvalidState = 4,
        /// The network's output was not finite.
        InvalidAction = 5,
        /// The tick ended after its deadline.
        Overrun = 6,
        /// The image and the memory do not fit together.
        Internal = 7,
        /// The sensors' clock stands still.
        SensorAge = 16,
        /// A sensor channel is off.
        SensorOff = 17,
        /// A sensor channel is stuck.
        SensorStuck = 18,
        /// Sensors of one motion disagree.
        SensorNoise = 19,
        /// A sensor channel jumped.
        SensorJump = 20,
        /// A joint does not follow its commands.
        Response = 21,
        /// The observation is unlike the recorded ones.
        Abstention = 22,
    }

    /// Why a command was refused; the number is the `code` of `Reply`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Refusal: u8 {
        /// Not in this state; detail: the state.
        State = 1,
        /// No image, or one without contract.
        NoContract = 2,
        /// The schema hash differs; detail: low half of the controller's.
        Schema = 3,
        /// No healthy dwell yet; detail: missing us.
        Dwell = 4,
        /// Too far from the default pose; detail: joint.
        Pose = 5,
        /// The image is larger than the slot; detail: the slot's length.
        TooLarge = 6,
        /// A chunk is not the next one; detail: the offset expected.
        Order = 7,
        /// The image does not hold; detail: class of the error.
        Image = 8,
        /// A golden vector differs; detail: its number.
        SelfTest = 9,
        /// The image does not fit the controller's memory; detail: `f32` needed.
        Memory = 10,
        /// The input has not the network's length; detail: that length.
        Input = 11,
        /// The image's rollback counter is below the stored one; detail: the stored one.
        Rollback = 12,
        /// By the response-time analysis a tick might miss its deadline; detail: the response time reached, us.
        Slow = 13,
        /// The session is not the one of the last `Hello`: a replay, or another host took over.
        Session = 14,
        /// Not signed as this controller wants it; detail: 0 unsigned, 1 by an unknown key, 2 wrong.
        Signature = 15,
        /// Made for another robot (policy) or board (firmware).
        Robot = 16,
        /// The key set cannot be taken; detail: [`KeysRefused`].
        Keys = 17,
        /// Flash could not be written; detail: where in the slot, if that is known.
        Flash = 18,
        /// What runs is on trial (to be confirmed or reverted first), or nothing is (to be confirmed or reverted).
        Trial = 19,
        /// This firmware does not do that.
        Unsupported = 20,
        /// The contract has no such profile; detail: how many it has.
        Profile = 30,
        /// Torque is on, and the profile would loosen a limit; detail: the profile in force.
        Looser = 31,
    }

    /// Why a key set was refused; the detail of [`Refusal::Keys`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum KeysRefused: u32 {
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

    /// What is updated; the number is the `part` of messages.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Part: u8 {
        /// The policy image.
        Policy = 0,
        /// The firmware itself.
        Firmware = 1,
    }

    /// Why the controller started; the number is the `reset_cause` of messages.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum ResetCause: u8 {
        /// The board cannot tell.
        #[default]
        Unknown = 0,
        /// Power came on.
        PowerOn = 1,
        /// The watchdog was not fed.
        Watchdog = 2,
        /// The firmware asked for it.
        Software = 3,
        /// From outside: the reset pin, a debugger, the emulator's monitor.
        External = 4,
    }
}

impl State {
    /// The actuators are told something.
    #[must_use]
    pub fn has_torque(self) -> bool {
        matches!(self, Self::Ready | Self::Running | Self::Damping)
    }
}

impl Cause {
    /// For alarms of a monitor ([`monitor`]).
    pub(crate) fn of_monitor(place: usize) -> Self {
        match place {
            monitor::AGE => Self::SensorAge,
            monitor::OFF => Self::SensorOff,
            monitor::STUCK => Self::SensorStuck,
            monitor::NOISE => Self::SensorNoise,
            monitor::JUMP => Self::SensorJump,
            monitor::RESPONSE => Self::Response,
            _ => Self::Abstention,
        }
    }
}
