//! The controller on this computer: the same node as on a board, in one thread that reads the bus, ticks, and writes
//! the bus, at absolute times. It prints nothing and allocates nothing between two ticks.
//!
//! Whoever calls [`run`] supervises it from another thread through [`Live`]. Torque is off when `run` returns and when
//! it unwinds: the bus takes it away when it is dropped.

use super::port::MonotonicClock;
use super::priority::{Granted, Priority, kernel, lock_memory, prefault_stack, real_time_priority};
use crate::link::{InProcess, LinkError, Session, commands_of, with_in_process};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use tendon_drivers::{BusError, Counters, Faults, JointBus, JointState};
use tendon_runtime::deadline::LATCH_MISSES;
use tendon_runtime::spec::{ContractSpec, Signal};
use tendon_runtime::timing::Histogram;
use tendon_runtime::{Cause, JointCommand, MAX_JOINTS, RawState, Refusal, State};
use tendon_wire::message::{Floats, Telemetry};

/// Silence of the supervising thread that ends the run, ns.
const SUPERVISOR_NS: u64 = 500_000_000;
/// Time to be armed and to reach the default pose, s.
const READY_S: u64 = 30;
/// Share of a period for reading the bus; the rest is for the tick and for writing.
const READ_SHARE: f64 = 0.7;
/// Share of a period that one read and one write may take on the wire.
const WIRE_SHARE: f64 = 0.8;

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rate of the bus, Hz; a multiple of the policy's. `None`: the policy's.
    pub rate_hz: Option<u32>,
    /// Time in Running, s. `None`: until stopped.
    pub seconds: Option<f64>,
    /// Command inputs; those missing have the contract's defaults.
    pub command: Vec<f32>,
    /// Profile of the contract, by its place; `None`: the contract's own.
    pub profile: Option<u8>,
    /// Real-time priority to ask for.
    pub priority: Option<Priority>,
    /// Go on where it is not granted.
    pub without_priority: bool,
}

/// What supervisor and loop tell each other.
#[derive(Debug, Default)]
pub struct Live {
    /// Stop the policy: hold, damp, torque off.
    pub stop: AtomicBool,
    /// Torque off at once.
    pub at_once: AtomicBool,
    /// The supervisor's proof of life, ns of [`MonotonicClock`].
    pub alive_ns: AtomicU64,
    /// State of the controller.
    pub state: AtomicU8,
    /// Ticks in Running.
    pub ticks: AtomicU64,
    /// Late ticks.
    pub misses: AtomicU64,
    /// Cycles in which a joint was not heard.
    pub incomplete: AtomicU64,
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Its time was over.
    Time,
    /// It was told to.
    Stopped,
    /// The supervising thread was silent.
    Unsupervised,
    /// The bus broke.
    Bus(BusError),
    /// The controller fell back by itself.
    FellBack(Cause),
    /// A servo complained.
    Fault {
        /// Joint, in the robot's order.
        joint: usize,
        /// Its complaint.
        faults: Faults,
    },
    /// The controller did not take a command.
    Refused(String),
}

impl Ended {
    /// It ended as it was meant to.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Time | Self::Stopped)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time => f.write_str("time over"),
            Self::Stopped => f.write_str("stopped"),
            Self::Unsupervised => f.write_str("the supervising thread was silent"),
            Self::Bus(error) => write!(f, "bus: {error}"),
            Self::FellBack(cause) => write!(f, "the controller fell back because of {cause:?}"),
            Self::Fault { joint, faults } => write!(f, "servo of joint {joint} reports {faults}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The policy observes what this computer does not measure.
    #[error(
        "the policy observes {signals}; only joints are measured here, no IMU or other sensor is read (CAVEATS.md)"
    )]
    Signals {
        /// The signals.
        signals: String,
    },
    /// The rate is no multiple of the policy's.
    #[error("--rate {rate_hz}: expected a multiple of the policy's {policy_hz} Hz, at most 1000")]
    Rate {
        /// Asked for.
        rate_hz: u32,
        /// The policy's.
        policy_hz: f64,
    },
    /// The bus is too slow.
    #[error(
        "one cycle of {joints} joints takes {wire_us} us on the wire, more than {share:.0}% of the period of {period_us} us; raise the baud rate or lower --rate to {highest} Hz"
    )]
    Wire {
        /// Joints.
        joints: usize,
        /// Time on the wire.
        wire_us: u32,
        /// Share allowed, percent.
        share: f64,
        /// Period.
        period_us: u64,
        /// Highest rate.
        highest: u64,
    },
    /// The bus measures nothing.
    #[error("these joints report nothing; a policy cannot run on them")]
    NoFeedback,
    /// The number of joints differs.
    #[error("the bus has {found} joints, the policy {expected}")]
    Joints {
        /// On the bus.
        found: usize,
        /// In the contract.
        expected: usize,
    },
    /// The kernel does not give what was asked for.
    #[error(
        "{granted}; without it the loop is late whenever something else runs. --allow-no-realtime goes on all the same"
    )]
    NoRealTime {
        /// What it gave.
        granted: Box<Granted>,
    },
    /// The image.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What a run was like.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Why it ended.
    pub ended: Ended,
    /// What the kernel gave.
    pub granted: Granted,
    /// Rates of bus and policy, Hz.
    pub rate_hz: [f64; 2],
    /// Cycles of the bus.
    pub cycles: u64,
    /// Ticks in Running.
    pub ticks: u64,
    /// Ticks whose command was not on the bus before the next was due.
    pub misses: u64,
    /// Cycles left out because the one before ended too late.
    pub skipped: u64,
    /// Cycles in which a joint was not heard, retries included.
    pub incomplete: u64,
    /// Time from the release of a cycle to its begin.
    pub jitter: Histogram,
    /// Time from its begin to its end.
    pub execution: Histogram,
    /// The bus's part of it.
    pub bus: Histogram,
    /// What happened on the bus.
    pub counters: Counters,
    /// The controller's own counters.
    pub telemetry: Telemetry,
    /// Last measurements, robot's order.
    pub states: Vec<JointState>,
    /// Whether every servo confirmed that its torque is off.
    pub torque_off: Result<(), BusError>,
}

/// Runs an image on a bus in the calling thread, from no torque to no torque.
///
/// # Errors
/// Before any torque: what does not fit. Everything later is in [`Summary::ended`].
pub fn run(
    image: &[u8],
    contract: &ContractSpec,
    schema_hash: u64,
    bus: &mut dyn JointBus,
    settings: &Settings,
    live: &Live,
) -> Result<Summary, RunError> {
    let (period_ns, every) = rates(contract, bus, settings)?;
    check_signals(contract)?;
    with_in_process(image.len(), |transport| {
        let (mut session, _) = Session::open(transport)?;
        session.upload(image, |_| ())?;
        session.pace(false)?;
        if let Some(profile) = settings.profile {
            session.set_profile(profile)?;
        }
        let granted = settings.priority.map_or_else(Granted::nothing, |priority| {
            let locked = lock_memory();
            prefault_stack();
            let (preempt_rt, kernel) = kernel();
            Granted { fifo: real_time_priority(priority), locked, preempt_rt, kernel }
        });
        if settings.priority.is_some() && !granted.is_real_time() && !settings.without_priority {
            return Err(RunError::NoRealTime { granted: Box::new(granted) });
        }
        let mut cycle = Cycle::new(contract, schema_hash, session, bus, settings, live, period_ns, every);
        let ended = cycle.run();
        Ok(cycle.finish(ended, granted))
    })
}

/// Period of the bus, ns, and cycles per tick of the policy.
fn rates(contract: &ContractSpec, bus: &dyn JointBus, settings: &Settings) -> Result<(u64, u64), RunError> {
    let policy_hz = 1.0 / contract.control_period_s;
    let rate = settings.rate_hz.map_or(policy_hz, f64::from);
    let every = (rate / policy_hz).round();
    if rate > 1000.5 || every < 1.0 || (every * policy_hz - rate).abs() > 1e-6 * rate {
        return Err(RunError::Rate { rate_hz: rate.round() as u32, policy_hz });
    }
    let (found, expected) = (bus.states().len(), contract.joints.len());
    if found != expected {
        return Err(RunError::Joints { found, expected });
    }
    if !bus.has_feedback() {
        return Err(RunError::NoFeedback);
    }
    let (period_us, wire_us) = (1e6 / rate, bus.wire_us());
    if f64::from(wire_us) > WIRE_SHARE * period_us {
        let highest = (WIRE_SHARE * 1e6 / f64::from(wire_us)) as u64;
        let (share, period_us) = (100.0 * WIRE_SHARE, period_us as u64);
        return Err(RunError::Wire { joints: found, wire_us, share, period_us, highest });
    }
    Ok(((1e9 / rate).round() as u64, every as u64))
}

fn check_signals(contract: &ContractSpec) -> Result<(), RunError> {
    let measured = |signal| {
        matches!(
            signal,
            Signal::JointPosition
                | Signal::JointPositionRelative
                | Signal::JointVelocity
                | Signal::JointSin
                | Signal::JointCos
                | Signal::LastAction
                | Signal::Command
                | Signal::Preference
        )
    };
    let missing: Vec<String> = contract
        .observations
        .iter()
        .filter(|term| !measured(term.signal))
        .map(|term| term.name.clone())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(RunError::Signals { signals: missing.join(", ") }) }
}

struct Cycle<'a, 'm> {
    session: Session<InProcess<'m>>,
    bus: &'a mut dyn JointBus,
    live: &'a Live,
    schema_hash: u64,
    clock: MonotonicClock,
    period_ns: u64,
    every: u64,
    /// Ticks in Running after which it ends.
    ticks_wanted: Option<u64>,
    raw: RawState,
    commands: [JointCommand; MAX_JOINTS],
    next_ns: u64,
    powered: bool,
    ended: Option<Ended>,
    recent: u64,
    tick_at_us: u64,
    cycles: u64,
    ticks: u64,
    misses: u64,
    skipped: u64,
    incomplete: u64,
    jitter: Histogram,
    execution: Histogram,
    bus_time: Histogram,
}

impl<'a, 'm> Cycle<'a, 'm> {
    #[allow(clippy::too_many_arguments, reason = "one call, from run")]
    fn new(
        contract: &ContractSpec,
        schema_hash: u64,
        session: Session<InProcess<'m>>,
        bus: &'a mut dyn JointBus,
        settings: &Settings,
        live: &'a Live,
        period_ns: u64,
        every: u64,
    ) -> Self {
        let inputs = contract.commands.iter().enumerate();
        let command =
            inputs.map(|(index, input)| settings.command.get(index).copied().unwrap_or(input.default));
        let raw = RawState {
            // Nobody measures it, and no term that is admitted observes it.
            base_orientation: [1.0, 0.0, 0.0, 0.0],
            command: command.collect(),
            preference: contract.preferences.iter().map(|input| input.default).collect(),
            ..RawState::default()
        };
        let policy_hz = 1.0 / contract.control_period_s;
        Self {
            session,
            bus,
            live,
            schema_hash,
            clock: MonotonicClock,
            period_ns,
            every,
            ticks_wanted: settings.seconds.map(|seconds| (seconds * policy_hz).round() as u64),
            raw,
            commands: [JointCommand::default(); MAX_JOINTS],
            next_ns: 0,
            powered: false,
            ended: None,
            recent: 0,
            tick_at_us: 0,
            cycles: 0,
            ticks: 0,
            misses: 0,
            skipped: 0,
            incomplete: 0,
            jitter: Histogram::default(),
            execution: Histogram::default(),
            bus_time: Histogram::default(),
        }
    }

    /// Until torque may go off.
    fn run(&mut self) -> Ended {
        self.restart();
        let give_up_ns = self.clock.now_ns() + READY_S * 1_000_000_000;
        loop {
            self.clock.sleep_until_ns(self.next_ns);
            let begin_ns = self.clock.now_ns();
            self.jitter.add(short(begin_ns - self.next_ns));
            if let Err(error) = self.one(begin_ns) {
                return Ended::Bus(error);
            }
            let end_ns = self.clock.now_ns();
            self.execution.add(short(end_ns - begin_ns));
            self.cycles += 1;
            self.judge(end_ns);

            let state = self.session.transport().state();
            self.live.state.store(state as u8, Relaxed);
            if self.live.at_once.load(Relaxed) {
                return self.ended.take().unwrap_or(Ended::Stopped);
            }
            // Damped, or latched.
            if let (Some(ended), State::Idle | State::Fault) = (&self.ended, state) {
                return ended.clone();
            }
            if self.ticks == 0 && self.ended.is_none() && end_ns > give_up_ns {
                self.stop(Ended::Refused(format!(
                    "not ready within {READY_S} s; is a joint blocked or not heard?"
                )));
            }
        }
    }

    /// Cycles begin anew, one period from now.
    fn restart(&mut self) {
        self.next_ns = self.clock.now_ns() + self.period_ns;
    }

    /// Was the cycle in time? When is the next?
    fn judge(&mut self, end_ns: u64) {
        let due_ns = self.next_ns + self.period_ns;
        let late = end_ns > due_ns;
        self.misses += u64::from(late);
        self.live.misses.store(self.misses, Relaxed);
        self.recent = self.recent << 1 | u64::from(late);
        if self.recent.count_ones() >= LATCH_MISSES {
            self.recent = 0;
            self.session.transport().overran();
        }
        self.next_ns = due_ns;
        while self.next_ns + self.period_ns <= end_ns {
            self.next_ns += self.period_ns;
            self.skipped += 1;
        }
    }

    fn one(&mut self, begin_ns: u64) -> Result<(), BusError> {
        let clock = self.clock;
        let now = || clock.now_us();
        let until_us = (self.next_ns + (self.period_ns as f64 * READ_SHARE) as u64) / 1000;
        let heard = self.bus.read(until_us, &now)?;
        self.incomplete += u64::from(!heard);
        self.live.incomplete.store(self.incomplete, Relaxed);
        let read_ns = clock.now_ns();

        if self.cycles.is_multiple_of(self.every) {
            self.tick(begin_ns / 1000)?;
        }
        let tick_ns = clock.now_ns();
        if self.powered {
            self.bus.write(&self.commands)?;
        }
        self.bus_time.add(short((read_ns - begin_ns) + (clock.now_ns() - tick_ns)));
        Ok(())
    }

    /// One tick of the policy.
    fn tick(&mut self, now_us: u64) -> Result<(), BusError> {
        let clock = self.clock;
        let states = self.bus.states();
        // Every joint heard since the last tick: a raw state. Else none, and the controller watches its age.
        let whole = states.iter().all(|state| state.at_us.is_some_and(|at| at >= self.tick_at_us));
        self.tick_at_us = now_us;
        let faulty = states.iter().enumerate().find(|(_, state)| !state.faults.is_empty());
        let faulty = faulty.map(|(joint, state)| (joint, state.faults));
        if whole {
            self.raw.time_us = now_us;
            self.raw.joint_position =
                states.iter().map(|state| state.position).collect::<Floats<MAX_JOINTS>>();
            self.raw.joint_velocity =
                states.iter().map(|state| state.velocity).collect::<Floats<MAX_JOINTS>>();
            if let Err(error) = self.session.send_state(&self.raw) {
                self.stop(Ended::Refused(error.to_string()));
            }
        }
        self.supervise(faulty);

        let state = self.session.transport().state();
        match state {
            State::Idle if self.ended.is_none() && whole => {
                if !self.powered {
                    // Before arming, because it takes longer than a period: torque on, with a limit of zero.
                    self.commands = [JointCommand::default(); MAX_JOINTS];
                    self.powered = true;
                    self.bus.torque(true, &|| clock.now_us())?;
                    self.tick_at_us = clock.now_us();
                    self.restart();
                    return Ok(());
                }
                let hash = self.schema_hash;
                self.ask(|session| session.arm(hash));
            }
            State::Ready if self.ended.is_none() => self.ask(Session::run),
            State::Running => {
                self.ticks += 1;
                self.live.ticks.store(self.ticks, Relaxed);
                if self.ticks_wanted.is_some_and(|wanted| self.ticks > wanted) {
                    self.stop(Ended::Time);
                }
            }
            _ => {}
        }
        if let Some(action) = self.session.transport().timer() {
            let told = commands_of(&action).chain(std::iter::repeat(JointCommand::default()));
            self.commands.iter_mut().zip(told).for_each(|(place, command)| *place = command);
            let cause = Cause::from_code(action.cause).unwrap_or_default();
            let fell = matches!(State::from_code(action.state), Some(State::Damping | State::Fault));
            if fell && self.ended.is_none() {
                self.ended = Some(Ended::FellBack(cause));
            }
        }
        Ok(())
    }

    /// Waits out dwell and the way to the default pose; any other refusal ends the run.
    fn ask(&mut self, command: impl Fn(&mut Session<InProcess<'m>>) -> Result<(), LinkError>) {
        match command(&mut self.session) {
            Ok(()) | Err(LinkError::Refused { refusal: Some(Refusal::Dwell | Refusal::Pose), .. }) => {}
            Err(error) => self.stop(Ended::Refused(error.to_string())),
        }
    }

    fn supervise(&mut self, faulty: Option<(usize, Faults)>) {
        if self.ended.is_some() {
            return;
        }
        let alive_ns = self.live.alive_ns.load(Relaxed);
        if self.live.stop.load(Relaxed) {
            self.stop(Ended::Stopped);
        } else if self.clock.now_ns().saturating_sub(alive_ns) > SUPERVISOR_NS {
            self.stop(Ended::Unsupervised);
        } else if let Some((joint, faults)) = faulty {
            self.stop(Ended::Fault { joint, faults });
        }
    }

    fn stop(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
        // Refused in Idle and Fault, where there is nothing to stop.
        let _ = self.session.stop();
    }

    fn finish(mut self, ended: Ended, granted: Granted) -> Summary {
        let clock = self.clock;
        let now = || clock.now_us();
        let mut torque_off = Ok(());
        for _ in 0..3 {
            torque_off = self.bus.torque(false, &now);
            if torque_off.is_ok() {
                break;
            }
        }
        let rate = 1e9 / self.period_ns as f64;
        Summary {
            ended,
            granted,
            rate_hz: [rate, rate / self.every as f64],
            cycles: self.cycles,
            ticks: self.ticks,
            misses: self.misses,
            skipped: self.skipped,
            incomplete: self.incomplete,
            jitter: self.jitter,
            execution: self.execution,
            bus: self.bus_time,
            counters: self.bus.counters(),
            telemetry: self.session.observe().unwrap_or_default(),
            states: self.bus.states().to_vec(),
            torque_off,
        }
    }
}

/// A time for a [`Histogram`], which ends at four seconds.
fn short(ns: u64) -> u32 {
    u32::try_from(ns).unwrap_or(u32::MAX)
}
