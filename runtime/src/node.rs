//! The controller's end of the link: messages in, messages out, two image slots, one control loop.
//!
//! Pure like the rest of the runtime. Firmware and the host's stand-in process call the same functions;
//! they add the clock, the bytes and the priorities. [`Loader`] works below the control priority (it may
//! take long), [`Control`] at it; the two share nothing, and an update ends by exchanging slots.
//! What is in flash, and whether it may run, is said by the [`Store`] behind the loader.

mod answer;
mod session;
mod tick;

use crate::deadline::Guard;
use crate::{Applied, Controller, Image, Memory, Refusal, State};
pub use answer::{handle, kind_name, receive, write};
use session::Session;
use tendon_wire::image::monitor;
use tendon_wire::message::{
    Action, DEVELOPMENT, Floats, Identity, Inferred, PROTOCOL_VERSION, RawState, TABLE_HASH, Telemetry, Text,
};
use tendon_wire::mutation::{Check, removed};
pub use tick::{Release, release};

pub use crate::loader::Loader;
pub use crate::store::Refused;

/// Healthy Running of a policy on trial after which it is confirmed without being told, us of the board's clock.
/// Not in lockstep: simulated time is no evidence.
pub const CONFIRM_AFTER_US: u64 = 10_000_000;

/// In lockstep the host's clock stands still with the host, so silence is measured on the board's.
pub const LOCKSTEP_SILENCE_US: u64 = 3_000_000;

/// Clocks of a board.
pub trait Clock {
    /// Time since boot, us.
    fn now_us(&self) -> u64;
    /// A free-running counter for measuring short work; 0 for ever where there is none.
    fn counts(&self) -> u32;
    /// Time since boot, ns, as fine as the clock is.
    fn now_ns(&self) -> u64 {
        self.now_us().saturating_mul(1000)
    }
}

/// What a board says of itself.
#[derive(Clone, Copy, Debug)]
pub struct BoardInfo {
    /// Name, as in `firmware/src/board`.
    pub name: &'static str,
    /// Firmware version.
    pub firmware: &'static str,
}

/// Access to what tasks share, with everything of their priorities kept out.
pub trait Exclusive<T> {
    /// Runs `f` on it.
    fn with<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R;
}

impl<'m> Exclusive<Control<'m>> for Control<'m> {
    fn with<R>(&mut self, f: impl FnOnce(&mut Control<'m>) -> R) -> R {
        f(self)
    }
}

impl<O> Exclusive<Guard<O>> for Guard<O> {
    fn with<R>(&mut self, f: impl FnOnce(&mut Guard<O>) -> R) -> R {
        f(self)
    }
}

/// The control loop: active slot, state machine, memory, counters.
#[derive(Debug)]
pub struct Control<'m> {
    slot: &'m mut [u8],
    image: Option<Image>,
    controller: Controller,
    memory: Memory<'m>,
    fresh: Option<RawState>,
    answered: u32,
    last_sequence: Option<u32>,
    lockstep: bool,
    lockstep_us: u64,
    heard_us: u64,
    /// Since when the policy that is active has been Running without a break, by the board's clock.
    running_since_us: Option<u64>,
    session: Session,
    counters: Counters,
    times: tick::Times<'m>,
}

/// Counters that only the board can fill; they go out with telemetry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Frames refused.
    pub rejected_frames: u32,
    /// Bytes or messages dropped because a queue was full.
    pub dropped: u32,
    /// Deepest stack seen, bytes.
    pub stack_bytes: u32,
    ticks: u32,
    tick_max_us: u32,
    old_states: u32,
    repeated_frames: u32,
}

impl<'m> Control<'m> {
    /// No image yet; boot is over.
    #[must_use]
    pub fn new(slot: &'m mut [u8], memory: Memory<'m>) -> Self {
        let mut controller = Controller::default();
        controller.begin_self_test();
        controller.image_changed(false, None);
        Self {
            slot,
            image: None,
            controller,
            memory,
            fresh: None,
            answered: 0,
            last_sequence: None,
            lockstep: false,
            lockstep_us: 0,
            heard_us: 0,
            running_since_us: None,
            session: Session::default(),
            counters: Counters::default(),
            times: tick::Times::default(),
        }
    }

    /// Controller state.
    #[must_use]
    pub fn state(&self) -> State {
        self.controller.state()
    }

    /// Control period of the active contract, us.
    #[must_use]
    pub fn period_us(&self) -> Option<u32> {
        let policy = self.image.as_ref()?.policy(self.slot)?;
        Some(policy.contract?.header.period_us)
    }

    /// Counters that the board fills.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Takes a raw state. In lockstep it is a tick, and the action comes back at once.
    pub fn raw_state(&mut self, state: &RawState) -> Option<Action> {
        let newer = |last: u32| (state.sequence.wrapping_sub(last) as i32) > 0;
        if !self.last_sequence.is_none_or(newer) && !removed(Check::StateSequence) {
            self.counters.old_states = self.counters.old_states.wrapping_add(1);
            return None;
        }
        self.last_sequence = Some(state.sequence);
        self.answered = state.sequence;
        self.remember(state);
        if !self.lockstep {
            self.fresh = Some(state.clone());
            return None;
        }
        self.lockstep_us = state.time_us;
        self.controller.host_alive(state.time_us);
        self.step(Some(state), state.time_us)
    }

    /// The hardware timer fired. Outside lockstep that is a control tick.
    pub fn timer(&mut self, now_us: u64) -> Option<Action> {
        if self.lockstep {
            if now_us.saturating_sub(self.heard_us) > LOCKSTEP_SILENCE_US {
                self.controller.link_lost(self.lockstep_us);
                self.note_state();
            }
            return None;
        }
        let fresh = self.fresh.take();
        let action = self.step(fresh.as_ref(), now_us);
        let is_running = self.controller.state() == State::Running;
        self.running_since_us = self.running_since_us.or(Some(now_us)).filter(|_| is_running);
        action
    }

    /// The active policy has earned its confirmation.
    fn is_proven(&self, now_us: u64) -> bool {
        !self.lockstep
            && self.running_since_us.is_some_and(|since| now_us.saturating_sub(since) >= CONFIRM_AFTER_US)
    }

    fn step(&mut self, state: Option<&RawState>, now_us: u64) -> Option<Action> {
        let policy = self.image.as_ref()?.policy(self.slot)?;
        policy.contract?;
        self.counters.ticks = self.counters.ticks.wrapping_add(1);
        let applied = self.controller.tick(&policy, state, now_us, &mut self.memory);
        // Made where it is returned: see `Answer`.
        let mut made = Some(Action::default());
        let action = made.as_mut()?;
        fill(action, &applied, self.answered, now_us);
        (action.profile, action.alarms) =
            (self.controller.profile().index(), self.controller.monitors().alarms());
        made
    }

    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.controller.state(), State::Idle | State::Fault)
    }

    fn schema_hash(&self) -> u64 {
        self.image.as_ref().map_or(0, |image| image.header().schema_hash)
    }

    fn now(&self, board_us: u64) -> u64 {
        if self.lockstep { self.lockstep_us } else { board_us }
    }

    fn heard(&mut self, now_us: u64) {
        self.heard_us = now_us;
        if !self.lockstep {
            self.controller.host_alive(now_us);
        }
    }

    fn arm(&mut self, schema_hash: u64, session: u32, now_us: u64) -> Result<(), Refused> {
        self.session.check(session)?;
        let own = self.schema_hash();
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        let now = self.now(now_us);
        self.controller.arm(policy.and_then(|p| p.contract).as_ref(), own, schema_hash, now)?;
        self.armed();
        Ok(())
    }

    fn run(&mut self, session: u32, now_us: u64) -> Result<(), Refused> {
        self.session.check(session)?;
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        let now = self.now(now_us);
        self.controller.run(policy.and_then(|p| p.contract).as_ref(), now)
    }

    fn pace(&mut self, lockstep: bool) -> Result<(), Refused> {
        if !self.is_quiet() {
            return Err((Refusal::State, self.controller.state() as u32));
        }
        self.lockstep = lockstep;
        self.last_sequence = None;
        self.fresh = None;
        self.controller.clock_changed();
        Ok(())
    }

    /// Whether `image` may take over now.
    pub(crate) fn admits(&self, image: &Image) -> Result<(), Refused> {
        let same = image.header().schema_hash == self.schema_hash() && self.image.is_some();
        if same { Ok(()) } else { self.quiet() }
    }

    /// Idle or Fault, or refused.
    pub(crate) fn quiet(&self) -> Result<(), Refused> {
        if self.is_quiet() { Ok(()) } else { Err((Refusal::State, self.controller.state() as u32)) }
    }

    /// Exchanges slots with the loader, whose image was verified. Constant time, between two ticks.
    pub(crate) fn activate(
        &mut self,
        slot: &mut &'m mut [u8],
        image: Image,
        response_us: u32,
    ) -> Result<(), Refused> {
        self.admits(&image)?;
        let same = image.header().schema_hash == self.schema_hash() && self.image.is_some();
        core::mem::swap(&mut self.slot, slot);
        self.image = Some(image);
        self.times.response_us = response_us;
        self.running_since_us = None;
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        self.controller.image_changed(same, policy.and_then(|policy| policy.contract).as_ref());
        // What the former network remembered means nothing to this one.
        if let Some(policy) = policy {
            policy.network.reset(self.memory.arena);
        }
        Ok(())
    }

    /// No policy any more.
    pub(crate) fn deactivate(&mut self) -> Result<(), Refused> {
        self.quiet()?;
        self.image = None;
        self.running_since_us = None;
        self.controller.image_changed(false, None);
        Ok(())
    }

    /// Lengths of the memory: activations, history, observation, `f32`.
    pub(crate) fn capacity(&self) -> [usize; 3] {
        [self.memory.arena.len(), self.memory.history.len(), self.memory.observation.len()]
    }

    /// One inference on an input, or on that of a golden vector.
    fn infer(
        &mut self,
        input: Result<&[f32], u16>,
        reset: bool,
        clock: &impl Clock,
        inferred: &mut Inferred,
    ) -> Result<(), Refused> {
        if !self.is_quiet() {
            return Err((Refusal::State, self.controller.state() as u32));
        }
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        let policy = policy.ok_or((Refusal::NoContract, 0))?;
        let network = policy.network;
        let input = match input {
            Ok(input) => input,
            Err(vector) => policy.golden_input(vector.into()).ok_or((Refusal::Input, vector.into()))?,
        };
        if reset {
            network.reset(self.memory.arena);
        }
        let before = clock.counts();
        let output =
            network.run(input, self.memory.arena).ok_or((Refusal::Input, network.plan().n_inputs))?;
        let counts = clock.counts().wrapping_sub(before);
        inferred.counts = counts;
        inferred.output.extend_from_slice(output).map_err(|_| (Refusal::Memory, 0))
    }

    fn identity(&self, board: &BoardInfo, is_development: bool) -> Identity {
        let header = self.image.as_ref().map(Image::header);
        Identity {
            protocol: PROTOCOL_VERSION,
            table_hash: TABLE_HASH,
            board: text(board.name),
            firmware: text(board.firmware),
            robot: text(self.image.as_ref().map_or("", Image::robot_id)),
            schema_hash: self.schema_hash(),
            image_crc32c: header.map_or(0, |header| header.crc32c),
            slot_len: self.slot.len().min(u32::MAX as usize) as u32,
            state: self.controller.state() as u8,
            profile: self.controller.profile().index(),
            profiles: self.profiles(),
            profile_name: text(self.controller.profile().name()),
            session: self.session.nonce,
            flags: if is_development { DEVELOPMENT } else { 0 },
        }
    }

    fn profiles(&self) -> u8 {
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        policy.and_then(|policy| policy.contract).map_or(1, |c| c.profiles.len().max(1) as u8)
    }

    fn set_profile(&mut self, index: u8) -> Result<(), Refused> {
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        self.controller.set_profile(policy.and_then(|p| p.contract).as_ref(), index)
    }

    /// Counters and the last observation.
    #[must_use]
    pub fn telemetry(&self) -> Telemetry {
        let n =
            self.image.as_ref().and_then(|image| image.policy(self.slot)).map_or(0, |policy| {
                policy.contract.map_or(0, |contract| contract.header.n_observation as usize)
            });
        let c = &self.counters;
        let monitors = self.controller.monitors();
        Telemetry {
            state: self.controller.state() as u8,
            cause: self.controller.cause() as u8,
            last_fault: self.controller.last_fault() as u8,
            profile: self.controller.profile().index(),
            alarms: monitors.alarms(),
            last_alarm: monitors.last().0,
            last_channel: monitors.last().1,
            alarms_age: monitors.count(monitor::AGE),
            alarms_off: monitors.count(monitor::OFF),
            alarms_stuck: monitors.count(monitor::STUCK),
            alarms_noise: monitors.count(monitor::NOISE),
            alarms_jump: monitors.count(monitor::JUMP),
            alarms_response: monitors.count(monitor::RESPONSE),
            alarms_abstention: monitors.count(monitor::ABSTENTION),
            host_losses: self.controller.host_losses(),
            abstention: self.controller.abstention(),
            power_w: self.controller.power(),
            ticks: c.ticks,
            misses: self.misses(),
            fallbacks: self.controller.fallbacks(),
            rejected_states: self.controller.rejected_states().wrapping_add(c.old_states),
            rejected_frames: c.rejected_frames,
            repeated_frames: c.repeated_frames,
            dropped: c.dropped,
            tick_max_us: c.tick_max_us,
            stack_bytes: c.stack_bytes,
            observation: Floats::from_slice(self.memory.observation.get(..n).unwrap_or(&[]))
                .unwrap_or_default(),
        }
    }
}

/// Writes what one tick tells the actuators.
fn fill(action: &mut Action, applied: &Applied, sequence: u32, now_us: u64) {
    (action.sequence, action.time_us, action.tick_us) = (sequence, now_us, 0);
    (action.state, action.cause) = (applied.state as u8, applied.cause as u8);
    action.limited = applied.limited;
    action.proposed.clone_from(&applied.proposed);
    let Action { position, velocity, torque, kp, kd, torque_limit, .. } = action;
    [&mut *position, velocity, torque, kp, kd, torque_limit].into_iter().for_each(|values| values.clear());
    for command in applied.commands.iter().take(applied.n_joints) {
        let _ = position.push(command.position);
        let _ = velocity.push(command.velocity);
        let _ = torque.push(command.torque);
        let _ = kp.push(command.kp);
        let _ = kd.push(command.kd);
        let _ = torque_limit.push(command.torque_limit);
    }
}

pub(crate) fn text(text: &str) -> Text {
    let mut out = Text::new();
    for c in text.chars() {
        if out.push(c).is_err() {
            break;
        }
    }
    out
}
