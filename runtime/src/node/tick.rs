//! One release of the control timer: tick, deadline, watchdog, black box, in the same order on every controller.

use super::{Clock, Control, Exclusive};
use crate::BlackBox;
use crate::deadline::{Guard, Missed, Outlet, deadline_us};
use crate::timing::{Histogram, ResetCause, Window, watchdog_us};
use tendon_wire::message::{Action, BlackBoxRecord, RawState, Timing};

/// What a release of the control timer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Control period from now on, us; `None`: no image says one.
    pub period_us: Option<u32>,
    /// The tick completed in time: feed the watchdog.
    pub feed: bool,
    /// Timeout of the watchdog from now on, us.
    pub watchdog_us: u32,
}

/// What the control loop remembers of its times.
#[derive(Debug, Default)]
pub(super) struct Times<'m> {
    release: Histogram,
    execution: Histogram,
    blocked_max_ns: u32,
    window: Window,
    /// `Guard::counts`.
    guard: [u32; 3],
    reset_cause: ResetCause,
    boots: u32,
    /// Of the admitted image, us.
    pub(super) response_us: u32,
    pub(super) black_box: BlackBox<'m>,
    /// Of the last tick.
    pub(super) record: BlackBoxRecord,
    /// Goes out should the tick not end in time.
    fallback: Action,
    #[cfg(feature = "inject")]
    injection: inject::Injection,
}

/// The hardware timer fired `release_ns` ago. Action and fallback leave through `guard`; `timer_us`: the timer's
/// period. The timer of the deadline was set for this release before.
pub fn release<'m, O: Outlet>(
    control: &mut Control<'m>,
    guard: &mut impl Exclusive<Guard<O>>,
    clock: &impl Clock,
    release_ns: u32,
    timer_us: u32,
    out: &mut [u8],
) -> Release {
    let begin_ns = clock.now_ns();
    let now_us = begin_ns / 1000;
    // What was missed before this tick began: it was kept out, or the one before it ended late.
    if let Some(missed) = guard.with(Guard::begin) {
        control.missed(missed, now_us);
    }
    let completed = control.tick_by_timer(guard, clock, begin_ns, release_ns, out);
    control.times.guard = guard.with(|guard| guard.counts());
    let released_us = now_us.saturating_sub(u64::from(release_ns / 1000));
    let by_timer = !control.lockstep && control.controller.state().has_torque();
    let period_us = control.period_us();
    Release {
        period_us,
        feed: completed && control.times.window.completed(released_us, timer_us),
        watchdog_us: watchdog_us(by_timer, period_us.unwrap_or(timer_us)),
    }
}

impl<'m> Control<'m> {
    /// Keeps the last ticks before a fault in `memory`, which a reset leaves alone.
    #[must_use]
    pub fn with_black_box(mut self, memory: &'m mut [u8]) -> Self {
        self.times.black_box = BlackBox::open(memory);
        self
    }

    /// Why the controller started, and how often since power on.
    #[must_use]
    pub fn with_reset(mut self, cause: ResetCause, boots: u32) -> Self {
        (self.times.reset_cause, self.times.boots) = (cause, boots);
        self
    }

    /// For a loop without [`Guard`]: too many ticks were late, no torque from now on.
    pub fn overran(&mut self, now_us: u64) {
        self.controller.overrun(now_us, true);
        self.note_state();
    }

    /// A message kept the control tick waiting.
    pub fn kept_waiting(&mut self, ns: u64) {
        if !self.lockstep && self.controller.state().has_torque() {
            self.times.blocked_max_ns = self.times.blocked_max_ns.max(saturated(ns));
        }
    }

    /// True: what the release was for was done in time.
    fn tick_by_timer<O: Outlet>(
        &mut self,
        guard: &mut impl Exclusive<Guard<O>>,
        clock: &impl Clock,
        begin_ns: u64,
        release_ns: u32,
        out: &mut [u8],
    ) -> bool {
        let now_us = begin_ns / 1000;
        let period_us = self.period_us().filter(|_| !self.lockstep);
        let torque = self.controller.state().has_torque();
        if let Some(period_us) = period_us.filter(|_| torque) {
            if u64::from(release_ns) >= u64::from(deadline_us(period_us)) * 1000 {
                // The fallback of this period is out already.
                return false;
            }
            self.prepare_fallback(now_us);
            let fallback = &self.times.fallback;
            guard.with(|guard| guard.arm(fallback));
        } else {
            guard.with(Guard::disarm);
        }
        let made = self.timer(now_us);
        let Some(mut action) = made else { return true };
        #[cfg(feature = "inject")]
        self.inject(clock);
        let took_ns = clock.now_ns().saturating_sub(begin_ns);
        action.tick_us = saturated(took_ns / 1000);
        let sequence = guard.with(Guard::next_sequence);
        let frame = super::write(&action, sequence, out).unwrap_or(&[]);
        let missed = guard.with(|guard| guard.finish(frame));
        if let Some(missed) = missed {
            self.missed(missed, now_us);
        } else if !self.controller.state().has_torque() {
            guard.with(Guard::disarm);
        }
        let took_ns = clock.now_ns().saturating_sub(begin_ns);
        self.times.release.add(release_ns);
        self.took(took_ns);
        let times = &mut self.times;
        (times.record.release_ns, times.record.late) = (release_ns, missed.is_some());
        times.note(missed.is_none().then_some(&action));
        missed.is_none()
    }

    /// A tick took this long, whoever drove it.
    pub(super) fn took(&mut self, ns: u64) {
        self.counters.tick_max_us = self.counters.tick_max_us.max(saturated(ns / 1000));
        self.times.execution.add(saturated(ns));
        self.times.record.execution_ns = saturated(ns);
    }

    /// A tick in lockstep ended.
    pub(super) fn lockstep_tick(&mut self, action: &Action, ns: u64) {
        self.took(ns);
        (self.times.record.release_ns, self.times.record.late) = (0, false);
        self.times.note(Some(action));
    }

    fn missed(&mut self, missed: Missed, now_us: u64) {
        self.controller.overrun(now_us, missed.latched);
        let state = self.controller.state();
        (self.times.fallback.state, self.times.fallback.cause) = (state as u8, self.controller.cause() as u8);
    }

    /// The state changed between two ticks.
    pub(super) fn note_state(&mut self) {
        let record = &mut self.times.record;
        (record.state, record.cause) = (self.controller.state() as u8, self.controller.cause() as u8);
        self.times.black_box.tick(&self.times.record);
    }

    fn prepare_fallback(&mut self, now_us: u64) {
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        let Some(contract) = policy.and_then(|policy| policy.contract) else { return };
        let applied = self.controller.prepare_fallback(&contract);
        super::fill(&mut self.times.fallback, &applied, self.answered, now_us);
        self.times.fallback.profile = self.controller.profile().index();
    }

    /// A raw state arrived; the robot's own order.
    pub(super) fn remember(&mut self, state: &RawState) {
        let record = &mut self.times.record;
        record.sequence = state.sequence;
        record.base_orientation = state.base_orientation;
        record.base_angular_velocity = state.base_angular_velocity;
        record.joint_position.clone_from(&state.joint_position);
        record.joint_velocity.clone_from(&state.joint_velocity);
    }

    /// Histograms and counters.
    pub(super) fn timing(&self, timing: &mut Timing) {
        let times = &self.times;
        let period_us = self.period_us();
        timing.reset_cause = times.reset_cause as u8;
        timing.boots = times.boots;
        timing.period_us = period_us.unwrap_or(0);
        timing.deadline_us = period_us.map_or(0, deadline_us);
        timing.response_us = period_us.map_or(0, |_| times.response_us);
        [timing.misses, timing.latches, timing.fallback_max_ns] = times.guard;
        timing.early_feeds = times.window.early();
        timing.release_max_ns = times.release.max_ns();
        timing.execution_max_ns = times.execution.max_ns();
        timing.blocked_max_ns = times.blocked_max_ns;
        times.release.write(&mut timing.release_from, &mut timing.release);
        times.execution.write(&mut timing.execution_from, &mut timing.execution);
    }

    /// Record `index` of the black box, or the last tick's where there is none.
    pub(super) fn black_box(&self, index: u32, record: &mut BlackBoxRecord) {
        let count = self.times.black_box.count();
        if !self.times.black_box.read(index, record) {
            record.clone_from(&self.times.record);
            (record.count, record.index) = (count, count);
        }
    }

    pub(super) fn misses(&self) -> u32 {
        let [misses, ..] = self.times.guard;
        misses
    }
}

impl Times<'_> {
    /// The tick's record; `None`: the fallback went out.
    fn note(&mut self, action: Option<&Action>) {
        let action = action.unwrap_or(&self.fallback);
        let record = &mut self.record;
        record.boot = self.boots;
        record.tick = record.tick.wrapping_add(1);
        record.time_us = action.time_us;
        (record.state, record.cause, record.limited) = (action.state, action.cause, action.limited);
        record.position.clone_from(&action.position);
        record.torque.clone_from(&action.torque);
        record.kp.clone_from(&action.kp);
        record.kd.clone_from(&action.kd);
        self.black_box.tick(&self.record);
    }
}

impl Control<'_> {
    /// Torque comes: the black box records again.
    pub(super) fn armed(&mut self) {
        let policy = self.image.as_ref().and_then(|image| image.policy(self.slot));
        if let Some(contract) = policy.and_then(|policy| policy.contract) {
            self.times.black_box.release(contract.joints.len(), contract.header.period_us);
        }
    }
}

fn saturated(ns: u64) -> u32 {
    ns.min(u32::MAX.into()) as u32
}

#[cfg(not(feature = "inject"))]
impl Control<'_> {
    pub(super) fn injected(&mut self, _: u32, _: u32, _: u32) -> Result<(), super::Refused> {
        Err((crate::Refusal::Unsupported, 0))
    }
}

/// Late ticks on demand. No release has this: `.tendon` names the feature, and the tools refuse it.
#[cfg(feature = "inject")]
mod inject {
    use super::{Clock, Control};

    #[derive(Clone, Copy, Debug, Default)]
    pub(super) struct Injection {
        after: u32,
        ticks: u32,
        delay_us: u32,
    }

    impl Control<'_> {
        pub(in crate::node) fn injected(
            &mut self,
            after: u32,
            ticks: u32,
            delay_us: u32,
        ) -> Result<(), crate::node::Refused> {
            self.times.injection = Injection { after, ticks, delay_us };
            Ok(())
        }

        /// Makes a tick late that is to be.
        pub(in crate::node) fn inject(&mut self, clock: &impl Clock) {
            let injection = &mut self.times.injection;
            if injection.after > 0 {
                injection.after -= 1;
            } else if injection.ticks > 0 {
                injection.ticks -= 1;
                let end = clock.now_us().saturating_add(injection.delay_us.into());
                while injection.delay_us == u32::MAX || clock.now_us() < end {
                    core::hint::black_box(());
                }
            }
        }
    }
}
