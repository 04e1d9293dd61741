//! What the actuators are told when a control tick does not end in time.
//!
//! At its begin a tick leaves a fallback here. When its deadline passes before it is done, a task above it sends
//! that fallback as the tick's action, and what the tick makes later is thrown away. The tick holds the control
//! loop meanwhile, so this is a resource of its own, locked for as long as a copy or a queued frame takes.

use crate::node::Clock;
use tendon_wire::message::Action;
use tendon_wire::mutation::{Check, removed};

/// Misses among the last 64 periods at which the fault latches.
pub const LATCH_MISSES: u32 = 4;

/// Deadline of a tick after its release, us. What is left of the period is for the fallback to go out.
#[must_use]
pub fn deadline_us(period_us: u32) -> u32 {
    period_us - period_us / 8
}

/// Takes the frames of actions, whole or not at all, without waiting.
pub trait Outlet {
    /// Takes one.
    fn send(&mut self, frame: &[u8]);
}

/// A deadline passed without a completed tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    /// Once too often: no torque.
    pub(crate) latched: bool,
}

/// Stands between the control tick and its deadline, with the outlet that both send to.
#[derive(Debug)]
pub struct Guard<O> {
    outlet: O,
    fallback: Action,
    /// An action is due in every period.
    armed: bool,
    /// The tick whose deadline comes next is done.
    completed: bool,
    /// Since a tick last asked.
    missed: Option<Missed>,
    /// One bit per period, newest lowest.
    recent: u64,
    misses: u32,
    latches: u32,
    longest_ns: u32,
    sequence: u16,
}

impl<O: Outlet> Guard<O> {
    /// Nothing is due yet.
    pub fn new(outlet: O) -> Self {
        Self {
            outlet,
            fallback: Action::default(),
            armed: false,
            completed: false,
            missed: None,
            recent: 0,
            misses: 0,
            latches: 0,
            longest_ns: 0,
            sequence: 0,
        }
    }

    /// Misses and latched faults since boot, and the longest that a fallback took to go out, ns.
    #[must_use]
    pub fn counts(&self) -> [u32; 3] {
        [self.misses, self.latches, self.longest_ns]
    }

    /// A tick begins: what was missed since the last one asked.
    pub(crate) fn begin(&mut self) -> Option<Missed> {
        self.missed.take()
    }

    /// From now on the next deadline sends `fallback`.
    pub(crate) fn arm(&mut self, fallback: &Action) {
        self.fallback.clone_from(fallback);
        (self.armed, self.completed) = (true, false);
    }

    /// No action is due.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    /// The tick is done: its frame goes out, unless its deadline passed before.
    pub(crate) fn finish(&mut self, frame: &[u8]) -> Option<Missed> {
        let missed = self.missed.take();
        if missed.is_none() {
            self.completed = true;
            self.outlet.send(frame);
        }
        missed
    }

    /// Number for the next frame.
    pub(crate) fn next_sequence(&mut self) -> u16 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The deadline of the tick under way passed: the action that goes out in its place, if one does.
    fn expire(&mut self, now_us: u64) -> Option<&Action> {
        if !self.armed {
            return None;
        }
        self.recent <<= 1;
        if core::mem::take(&mut self.completed) {
            return None;
        }
        self.misses = self.misses.wrapping_add(1);
        self.recent |= 1;
        let latched = self.missed.is_some_and(|missed| missed.latched);
        let latches = self.recent.count_ones() >= LATCH_MISSES;
        if latches {
            // Counting starts anew for whoever arms again.
            self.recent = 0;
            self.latches = self.latches.wrapping_add(1);
            silence(&mut self.fallback);
        }
        self.missed = Some(Missed { latched: latched || latches });
        self.fallback.tick_us = now_us.saturating_sub(self.fallback.time_us).min(u32::MAX.into()) as u32;
        (!removed(Check::Deadline)).then_some(&self.fallback)
    }

    /// The timer of the deadline fired; true: the tick was late.
    pub fn deadline(&mut self, clock: &impl Clock, out: &mut [u8]) -> bool {
        let (misses, begin_ns) = (self.misses, clock.now_ns());
        let sequence = self.sequence.wrapping_add(1);
        let frame = self.expire(begin_ns / 1000).and_then(|action| crate::node::write(action, sequence, out));
        if let Some(frame) = frame {
            self.sequence = sequence;
            self.outlet.send(frame);
            let took_ns = clock.now_ns().saturating_sub(begin_ns).min(u32::MAX.into()) as u32;
            self.longest_ns = self.longest_ns.max(took_ns);
        }
        self.misses != misses
    }
}

/// No torque, latched.
fn silence(action: &mut Action) {
    action.state = crate::State::Fault as u8;
    action.cause = crate::Cause::Overrun as u8;
    action.limited = 0;
    for values in [
        &mut action.position,
        &mut action.velocity,
        &mut action.torque,
        &mut action.kp,
        &mut action.kd,
        &mut action.torque_limit,
    ] {
        values.iter_mut().for_each(|value| *value = 0.0);
    }
}
