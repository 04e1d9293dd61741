//! The controller's states, and one control tick.
//!
//! ```text
//! Boot -> SelfTest -> Idle --arm--> Ready --run--> Running
//!                      ^  <-stop-,    | stop, fault   | stop, fault
//!                      |         '- Damping <---------'
//!                      '--arm-- Fault <-'  (latched; arming again needs a healthy dwell)
//! ```

use crate::abstention::Window;
use crate::monitor::Monitors;
use crate::start::Start;
use crate::{
    Cause, Contract, Envelope, JointCommand, ObservationBuilder, Policy, Profile, Refusal, State,
    check_state, envelope, map_action,
};
use tendon_wire::image::monitor_action;
use tendon_wire::message::{Floats, MAX_JOINTS, RawState};
use tendon_wire::mutation::{Check, removed};

/// Memory of one controller, sized by the caller.
#[derive(Debug)]
pub struct Memory<'m> {
    /// Activations, at least `plan.arena_len`.
    pub arena: &'m mut [f32],
    /// Observation history, at least `plan.history_len`.
    pub history: &'m mut [f32],
    /// The observation, at least `plan.n_inputs`.
    pub observation: &'m mut [f32],
}

/// Result of one tick: what the actuators are told, joints in the robot's order.
#[derive(Clone, Debug)]
pub struct Applied {
    /// State after the tick.
    pub state: State,
    /// Why the controller fell back.
    pub cause: Cause,
    /// Joints (robot's order, bits) whose command the envelope changed.
    pub limited: u32,
    /// `[n_joints]` of it count.
    pub commands: [JointCommand; MAX_JOINTS],
    /// Joints.
    pub n_joints: usize,
    /// Raw action that the network proposed; empty when it did not run.
    pub proposed: Floats<MAX_JOINTS>,
}

/// The state machine. Pure: time and measurements are arguments.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    state: State,
    cause: Cause,
    last_fault: Cause,
    fallbacks: u32,
    host_losses: u32,
    rejected_states: u32,
    start: Start,
    monitors: Monitors,
    window: Window,
    /// Windowed abstention score over its threshold.
    abstention: f32,
    builder: ObservationBuilder,
    envelope: Envelope,
    last_action: Floats<MAX_JOINTS>,
    held: [JointCommand; MAX_JOINTS],
    /// What goes out, and what the envelope remembers of it, should this tick not end in time.
    fallback: (Envelope, [JointCommand; MAX_JOINTS]),
    /// Measured, policy order.
    position: Floats<MAX_JOINTS>,
    velocity: Floats<MAX_JOINTS>,
    state_at_us: Option<u64>,
    healthy_since_us: Option<u64>,
    host_at_us: u64,
    entered_us: u64,
    rejected_this_tick: bool,
    /// The network's recurrent state is reset before the next inference.
    forget: bool,
}

impl Controller {
    /// Current state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it last fell back.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Times it fell back since boot.
    #[must_use]
    pub fn fallbacks(&self) -> u32 {
        self.fallbacks
    }

    /// Raw states refused since boot.
    #[must_use]
    pub fn rejected_states(&self) -> u32 {
        self.rejected_states
    }

    /// Cause of the last fault since boot; arming does not clear it.
    #[must_use]
    pub fn last_fault(&self) -> Cause {
        self.last_fault
    }

    /// Times the host fell silent since boot.
    #[must_use]
    pub fn host_losses(&self) -> u32 {
        self.host_losses
    }

    /// Alarms and their counters.
    #[must_use]
    pub fn monitors(&self) -> &Monitors {
        &self.monitors
    }

    /// Windowed abstention score of the last observation over its threshold; 0 without an abstention section.
    #[must_use]
    pub fn abstention(&self) -> f32 {
        self.abstention
    }

    /// Motoring power of the last commands at the measured velocities, W.
    #[must_use]
    pub fn power(&self) -> f32 {
        if self.state.has_torque() { self.envelope.power() } else { 0.0 }
    }

    /// Profile that the limits come from.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        self.envelope.profile()
    }

    /// Boot ended and the active image (if any) passed its golden vectors. Also called when another
    /// image takes over. With the same contract the state goes on; with another it starts anew in Idle, except
    /// that a latched fault stays.
    pub fn image_changed(&mut self, same_contract: bool, contract: Option<&Contract<'_>>) {
        if !same_contract || matches!(self.state, State::Boot | State::SelfTest) {
            self.start_anew();
            let index = contract.map_or(0, |contract| contract.header.default_profile);
            let profile = contract.and_then(|contract| Profile::of(contract, index as u8));
            self.envelope.set_profile(profile.unwrap_or_default());
        }
    }

    /// Another clock drives the ticks from now on: what was measured on the old one is forgotten. A latched fault and
    /// the profile stay.
    pub fn clock_changed(&mut self) {
        let profile = *self.profile();
        self.start_anew();
        self.envelope.set_profile(profile);
    }

    fn start_anew(&mut self) {
        // The time of a fault means nothing on another clock; health has to begin after this anyway.
        let (state, cause) = match self.state {
            State::Fault => (State::Fault, self.cause),
            _ => (State::Idle, Cause::None),
        };
        self.monitors.reset();
        *self = Self {
            state,
            cause,
            last_fault: self.last_fault,
            fallbacks: self.fallbacks,
            host_losses: self.host_losses,
            rejected_states: self.rejected_states,
            monitors: self.monitors.clone(),
            ..Self::default()
        };
    }

    /// Chooses profile `index`. With torque on it is taken only when it loosens no limit.
    ///
    /// # Errors
    /// No contract, no such profile, or a looser one with torque on; with the detail for `Reply`.
    pub fn set_profile(&mut self, contract: Option<&Contract<'_>>, index: u8) -> Result<(), (Refusal, u32)> {
        let contract = contract.ok_or((Refusal::NoContract, 0))?;
        let count = contract.profiles.len().max(1) as u32;
        let profile = Profile::of(contract, index).ok_or((Refusal::Profile, count))?;
        if self.state.has_torque() && profile.loosens(self.profile(), contract) {
            return Err((Refusal::Looser, self.profile().index().into()));
        }
        self.envelope.set_profile(profile);
        Ok(())
    }

    /// Golden vectors are about to run.
    pub fn begin_self_test(&mut self) {
        if self.state == State::Boot {
            self.state = State::SelfTest;
        }
    }

    /// The host lives.
    pub fn host_alive(&mut self, now_us: u64) {
        self.host_at_us = now_us;
    }

    /// Idle or Fault -> Ready.
    ///
    /// # Errors
    /// Wrong state, no contract, another schema, or no healthy dwell; with the detail for `Reply`.
    pub fn arm(
        &mut self,
        contract: Option<&Contract<'_>>,
        own_hash: u64,
        schema_hash: u64,
        now_us: u64,
    ) -> Result<(), (Refusal, u32)> {
        if !matches!(self.state, State::Idle | State::Fault) {
            return Err((Refusal::State, self.state as u32));
        }
        let contract = contract.ok_or((Refusal::NoContract, 0))?;
        if own_hash != schema_hash {
            return Err((Refusal::Schema, own_hash as u32));
        }
        // A fault stays latched until health has lasted since it: what came before says nothing of after.
        let latched_us = if self.state == State::Fault { self.entered_us } else { 0 };
        self.dwell(contract, self.healthy_since_us.map(|since| since.max(latched_us)), now_us)?;
        self.enter(State::Ready, Cause::None, now_us);
        self.envelope.reset(&self.position);
        self.start = Start::plan(contract, self.envelope.profile(), &self.position);
        for (held, &q) in self.held.iter_mut().zip(&self.position) {
            *held = JointCommand { position: q, ..JointCommand::default() };
        }
        Ok(())
    }

    /// Ready -> Running.
    ///
    /// # Errors
    /// Wrong state, dwell not over, or a joint too far from the default pose.
    pub fn run(&mut self, contract: Option<&Contract<'_>>, now_us: u64) -> Result<(), (Refusal, u32)> {
        if self.state != State::Ready {
            return Err((Refusal::State, self.state as u32));
        }
        let contract = contract.ok_or((Refusal::NoContract, 0))?;
        self.dwell(contract, Some(self.entered_us), now_us)?;
        if self.start.left_us() > 0 {
            return Err((Refusal::Dwell, self.start.left_us()));
        }
        for (index, (joint, q)) in contract.joints.iter().zip(&self.position).enumerate() {
            let off = q - joint.default_position;
            let active = joint.kp > 0.0;
            if active && !(-contract.header.ready_tolerance..=contract.header.ready_tolerance).contains(&off)
            {
                return Err((Refusal::Pose, index as u32));
            }
        }
        self.enter(State::Running, Cause::None, now_us);
        self.builder.reset();
        self.window.reset();
        self.forget = true;
        self.last_action.clear();
        let _ = self.last_action.resize(contract.actions.len(), 0.0);
        Ok(())
    }

    /// Ready or Running -> Damping.
    ///
    /// # Errors
    /// Wrong state.
    pub fn stop(&mut self, now_us: u64) -> Result<(), (Refusal, u32)> {
        if !matches!(self.state, State::Ready | State::Running) {
            return Err((Refusal::State, self.state as u32));
        }
        self.fall_back(Cause::Stop, now_us);
        Ok(())
    }

    /// One tick. `fresh`: the newest raw state since the last tick, if any.
    pub fn tick(
        &mut self,
        policy: &Policy<'_>,
        fresh: Option<&RawState>,
        now_us: u64,
        memory: &mut Memory<'_>,
    ) -> Applied {
        let Some(contract) = policy.contract.as_ref() else { return self.silent(0) };
        self.monitors.begin();
        if let Some(state) = fresh {
            self.take(contract, state, now_us);
        }
        self.watch(contract, now_us);
        let mut proposed = Floats::new();
        let mut commands = self.held;
        match self.state {
            State::Ready => self.start.step(contract, &mut commands),
            // Between raw states the last setpoint stands, up to the age limit.
            State::Running => {
                if let Some(state) = fresh {
                    match self.infer(policy, contract, state, memory) {
                        Ok(action) => {
                            commands = map_action(contract, &action);
                            self.last_action.clone_from(&action);
                            proposed = action;
                        }
                        Err(cause) => self.fall_back(cause, now_us),
                    }
                }
            }
            _ => {}
        }
        if self.state == State::Damping {
            self.damp(contract, now_us, &mut commands);
        }
        if matches!(self.state, State::Boot | State::SelfTest | State::Idle | State::Fault) {
            return self.silent(contract.joints.len());
        }
        let limited = self.envelope.apply(contract, &self.position, &self.velocity, &mut commands);
        self.held = commands;
        self.in_robot_order(contract, &commands, limited, proposed)
    }

    /// What the actuators are told should the tick that begins not end in time: damping from the measurements
    /// at hand, through the envelope as it stands. Cheap, and of a time that the joints alone decide.
    #[must_use]
    pub fn prepare_fallback(&mut self, contract: &Contract<'_>) -> Applied {
        if !self.state.has_torque() {
            return self.silent(contract.joints.len());
        }
        let (envelope, commands) = &mut self.fallback;
        envelope.clone_from(&self.envelope);
        for ((command, joint), &q) in commands.iter_mut().zip(contract.joints).zip(&self.position) {
            *command = envelope::damping(joint, q);
        }
        let limited = envelope.apply(contract, &self.position, &self.velocity, commands);
        let applied = self.in_robot_order(contract, &self.fallback.1, limited, Floats::new());
        Applied { state: State::Damping, cause: Cause::Overrun, ..applied }
    }

    /// A deadline passed and the fallback went out: what the late tick did to torque is forgotten. `latched`: it
    /// happened too often, and no torque went out.
    pub fn overrun(&mut self, now_us: u64, latched: bool) {
        if !self.state.has_torque() {
            return;
        }
        // A profile chosen since stays.
        let profile = *self.profile();
        self.envelope.clone_from(&self.fallback.0);
        self.envelope.set_profile(profile);
        self.held = self.fallback.1;
        if self.state != State::Damping {
            self.fall_back(Cause::Overrun, now_us);
        }
        if latched {
            self.enter(State::Fault, Cause::Overrun, now_us);
        }
    }

    /// The link is dead beyond doubt (also in lockstep, where the host's clock stands still): no torque.
    pub fn link_lost(&mut self, now_us: u64) {
        self.healthy_since_us = None;
        if matches!(self.state, State::Ready | State::Running | State::Damping) {
            self.fallbacks = self.fallbacks.wrapping_add(1);
            self.host_losses = self.host_losses.wrapping_add(1);
            self.enter(State::Fault, Cause::HostSilent, now_us);
        }
    }

    fn enter(&mut self, state: State, cause: Cause, now_us: u64) {
        (self.state, self.cause, self.entered_us) = (state, cause, now_us);
        if state == State::Fault {
            self.last_fault = cause;
        }
    }

    fn fall_back(&mut self, cause: Cause, now_us: u64) {
        self.fallbacks = self.fallbacks.wrapping_add(1);
        self.enter(State::Damping, cause, now_us);
    }

    fn dwell(&self, contract: &Contract<'_>, since: Option<u64>, now_us: u64) -> Result<(), (Refusal, u32)> {
        let needed = u64::from(contract.header.dwell_us);
        let passed = since.map_or(0, |since| now_us.saturating_sub(since));
        if self.healthy_since_us.is_some() && passed >= needed {
            Ok(())
        } else {
            Err((Refusal::Dwell, needed.saturating_sub(passed) as u32))
        }
    }

    fn take(&mut self, contract: &Contract<'_>, state: &RawState, now_us: u64) {
        self.rejected_this_tick = check_state(contract, state).is_err();
        if self.rejected_this_tick {
            self.rejected_states = self.rejected_states.wrapping_add(1);
            self.healthy_since_us = None;
            return;
        }
        let torque = if self.state.has_torque() { 1.0 } else { 0.0 };
        self.monitors.observe(contract, state, self.envelope.torques().map(|t| t * torque));
        self.state_at_us = Some(now_us);
        self.healthy_since_us.get_or_insert(now_us);
        self.position.clear();
        self.velocity.clear();
        for joint in contract.joints {
            let at = |values: &[f32]| values.get(joint.robot_index as usize).copied().unwrap_or(0.0);
            let _ = self.position.push(at(&state.joint_position));
            let _ = self.velocity.push(at(&state.joint_velocity));
        }
    }

    /// Ages. A state or host too old ends health, and ends Ready and Running.
    fn watch(&mut self, contract: &Contract<'_>, now_us: u64) {
        let rejected = core::mem::take(&mut self.rejected_this_tick);
        let state_age = self.state_at_us.map_or(u64::MAX, |at| now_us.saturating_sub(at));
        let host_age = now_us.saturating_sub(self.host_at_us);
        let cause = if rejected {
            Cause::InvalidState
        } else if host_age > u64::from(contract.header.heartbeat_timeout_us) && !removed(Check::HostSilence) {
            Cause::HostSilent
        } else if state_age > u64::from(contract.header.state_timeout_us) && !removed(Check::StateAge) {
            Cause::StaleState
        } else if let Some(place) = self.monitors.verdict(contract) {
            Cause::of_monitor(place)
        } else {
            return;
        };
        self.healthy_since_us = None;
        if matches!(self.state, State::Ready | State::Running) {
            self.host_losses = self.host_losses.wrapping_add(u32::from(cause == Cause::HostSilent));
            self.fall_back(cause, now_us);
        }
    }

    fn infer(
        &mut self,
        policy: &Policy<'_>,
        contract: &Contract<'_>,
        state: &RawState,
        memory: &mut Memory<'_>,
    ) -> Result<Floats<MAX_JOINTS>, Cause> {
        let inputs = policy.network.plan().n_inputs as usize;
        let observation = memory.observation.get_mut(..inputs).ok_or(Cause::Internal)?;
        self.builder
            .build(contract, state, &self.last_action, memory.history, observation)
            .map_err(|_| Cause::Internal)?;
        if self.abstains(policy, contract, observation) {
            return Err(Cause::Abstention);
        }
        if core::mem::take(&mut self.forget) {
            policy.network.reset(memory.arena);
        }
        let output = policy.network.run(observation, memory.arena).ok_or(Cause::Internal)?;
        if !output.iter().all(|v| v.is_finite()) {
            return Err(Cause::InvalidAction);
        }
        Floats::from_slice(output).map_err(|_| Cause::Internal)
    }

    /// Whether the observation is so unlike the recorded ones that the policy must not act on it.
    fn abstains(&mut self, policy: &Policy<'_>, contract: &Contract<'_>, observation: &[f32]) -> bool {
        let [.., action, _] = contract.header.monitors.actions;
        let Some(abstention) = policy.abstention.filter(|_| action != monitor_action::OFF) else {
            return false;
        };
        if removed(Check::Abstention) {
            return false;
        }
        let statistic = self.window.push(abstention.header, abstention.score(observation));
        self.abstention = statistic / abstention.header.threshold;
        if statistic > abstention.header.threshold {
            self.monitors.abstained(contract);
            return action == monitor_action::FALL_BACK;
        }
        false
    }

    /// Holds the last setpoint for `hold_us` where the measurements still carry it, then damps, then
    /// leaves: to Idle after a `Stop`, else to Fault.
    fn damp(&mut self, contract: &Contract<'_>, now_us: u64, commands: &mut [JointCommand; MAX_JOINTS]) {
        let passed = now_us.saturating_sub(self.entered_us);
        let hold = u64::from(contract.header.hold_us);
        let may_hold = matches!(self.cause, Cause::StaleState | Cause::HostSilent);
        if may_hold && passed < hold {
            *commands = self.held;
            return;
        }
        if passed >= hold.saturating_add(contract.header.damp_us.into()) {
            let next = if self.cause == Cause::Stop { State::Idle } else { State::Fault };
            self.enter(next, self.cause, now_us);
        }
        for ((command, joint), &q) in commands.iter_mut().zip(contract.joints).zip(&self.position) {
            *command = envelope::damping(joint, q);
        }
    }

    fn silent(&self, n_joints: usize) -> Applied {
        Applied {
            state: self.state,
            cause: self.cause,
            limited: 0,
            commands: [JointCommand::default(); MAX_JOINTS],
            n_joints,
            proposed: Floats::new(),
        }
    }

    fn in_robot_order(
        &self,
        contract: &Contract<'_>,
        commands: &[JointCommand; MAX_JOINTS],
        limited: u32,
        proposed: Floats<MAX_JOINTS>,
    ) -> Applied {
        let mut applied = Applied { proposed, ..self.silent(contract.joints.len()) };
        for (index, (joint, command)) in contract.joints.iter().zip(commands).enumerate() {
            if let Some(place) = applied.commands.get_mut(joint.robot_index as usize) {
                *place = *command;
            }
            let changed = limited.wrapping_shr(index as u32) & 1;
            applied.limited |= changed.wrapping_shl(joint.robot_index);
        }
        applied
    }
}
