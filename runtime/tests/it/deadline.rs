//! Ticks that do not end in time, through the same call that the firmware makes.

use crate::node::Node;
use crate::world::{PERIOD_US, Parts, spec};
use std::cell::RefCell;
use std::rc::Rc;
use tendon_runtime::deadline::{Guard, LATCH_MISSES, Outlet, deadline_us};
use tendon_runtime::node::{Clock, Exclusive, Release, release};
use tendon_runtime::timing::QUIET_US;
use tendon_runtime::{Cause, Refusal, State};
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::{Action, Inject, Message, Pace, ReadTiming, Timing};

/// What went to the actuators.
#[derive(Clone, Default)]
struct Sent(Rc<RefCell<Vec<Action>>>);

impl Outlet for Sent {
    fn send(&mut self, frame: &[u8]) {
        let mut decoder = Decoder::new();
        for byte in frame {
            if let Some(frame) = decoder.push(*byte) {
                let frame = frame.unwrap();
                match Message::decode(frame.kind, frame.payload).unwrap() {
                    Message::Action(action) => self.0.borrow_mut().push(action),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// The guard, with a deadline that passes `late` times while the tick is at work.
struct Gate {
    guard: Guard<Sent>,
    late: u32,
    now_us: u64,
    taken: u32,
}

impl Exclusive<Guard<Sent>> for Gate {
    fn with<R>(&mut self, f: impl FnOnce(&mut Guard<Sent>) -> R) -> R {
        // Begin, fallback left, tick, number of its frame.
        self.taken += 1;
        if self.taken == 3 {
            for _ in 0..self.late {
                self.guard.deadline(&At(self.now_us), &mut [0; MAX_FRAME]);
            }
        }
        f(&mut self.guard)
    }
}

/// A clock that stands.
struct At(u64);

impl Clock for At {
    fn now_us(&self) -> u64 {
        self.0
    }

    fn counts(&self) -> u32 {
        0
    }
}

/// A controller by its timer.
struct Bench {
    node: Node,
    gate: Gate,
    sent: Sent,
}

impl Bench {
    /// In Running.
    fn running() -> Self {
        let sent = Sent::default();
        let gate = Gate { guard: Guard::new(sent.clone()), late: 0, now_us: 0, taken: 0 };
        let mut bench = Self { node: Node::with(&Parts::of(&spec(), 1)), gate, sent };
        bench.arm();
        bench
    }

    fn arm(&mut self) {
        (0..40).for_each(|_| _ = self.tick(0));
        self.node.arm().unwrap();
        (0..12).for_each(|_| _ = self.tick(0));
        self.node.run().unwrap();
        self.sent.0.borrow_mut().clear();
    }

    /// One period: a raw state, the timer, and deadlines that pass during the tick.
    fn tick(&mut self, late: u32) -> Release {
        let state = self.node.raw_state();
        self.node.send(state);
        self.release(late, 0)
    }

    /// The timer `release_ns` ago; the deadline passes after a tick in time.
    fn release(&mut self, late: u32, release_ns: u32) -> Release {
        let now_us = self.node.clock.0.get() + PERIOD_US;
        self.node.clock.0.set(now_us);
        (self.gate.late, self.gate.now_us, self.gate.taken) = (late, now_us + 17_500, 0);
        let mut out = [0; MAX_FRAME];
        let release = release(
            &mut self.node.control,
            &mut self.gate,
            &self.node.clock,
            release_ns,
            PERIOD_US as u32,
            &mut out,
        );
        if late == 0 {
            self.gate.guard.deadline(&At(now_us + 17_500), &mut out);
        }
        self.node.follow(self.sent.0.borrow().last());
        release
    }

    fn sent(&self) -> Vec<Action> {
        core::mem::take(&mut *self.sent.0.borrow_mut())
    }

    fn timing(&mut self) -> Timing {
        match self.node.send(ReadTiming {}) {
            Some(Message::Timing(timing)) => timing,
            other => panic!("{other:?}"),
        }
    }
}

fn is_damping(action: &Action) -> bool {
    action.state == State::Damping as u8
        && action.kp.iter().chain(&action.torque).all(|v| *v == 0.0)
        && action.kd == [1.0; 3]
}

fn is_torque_free(action: &Action) -> bool {
    let values = [&action.kp, &action.kd, &action.torque, &action.torque_limit];
    action.state == State::Fault as u8 && values.into_iter().flatten().all(|v| *v == 0.0)
}

#[test]
fn a_tick_in_time_sends_its_own_action_and_feeds_the_watchdog() {
    let mut bench = Bench::running();
    let release = bench.tick(0);
    assert_eq!(release, Release { period_us: Some(20_000), feed: true, watchdog_us: 500_000 });
    let sent = bench.sent();
    assert_eq!((sent.len(), sent[0].state), (1, State::Running as u8));
    assert_eq!(bench.node.telemetry().misses, 0);
}

#[test]
fn the_fallback_goes_out_in_the_tick_that_is_late_and_what_the_tick_makes_is_thrown_away() {
    let mut bench = Bench::running();
    let release = bench.tick(1);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1, "one action per tick");
    assert!(is_damping(&sent[0]), "{sent:?}");
    assert_eq!((sent[0].cause, sent[0].tick_us), (Cause::Overrun as u8, 17_500));
    assert_eq!(sent[0].time_us, bench.node.clock.0.get(), "the action of this tick");
    assert_eq!(bench.node.control.state(), State::Damping);
    assert!(!release.feed, "a late tick feeds nothing");
    let telemetry = bench.node.telemetry();
    assert_eq!((telemetry.misses, telemetry.fallbacks), (1, 1));
    assert!(bench.tick(0).feed);
    let sent = bench.sent();
    assert!(sent.len() == 1 && is_damping(&sent[0]), "{sent:?}");
    assert_eq!(bench.node.telemetry().misses, 1);
}

#[test]
fn a_tick_that_is_kept_out_past_its_deadline_is_replaced_too() {
    let mut bench = Bench::running();
    bench.tick(0);
    bench.sent();
    // A period without a release: the deadline fires again.
    bench.gate.guard.deadline(&At(0), &mut [0; MAX_FRAME]);
    let sent = bench.sent();
    assert!(sent.len() == 1 && is_damping(&sent[0]), "{sent:?}");
    // It begins after all, too late: nothing more in this period.
    let release = bench.release(1, deadline_us(PERIOD_US as u32) * 1000);
    assert!(!release.feed);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.node.control.state(), State::Damping);
    assert_eq!(bench.node.telemetry().misses, 1);
}

#[test]
fn misses_close_together_latch_the_fault() {
    let mut bench = Bench::running();
    for miss in 1..=LATCH_MISSES {
        bench.tick(1);
        let sent = bench.sent();
        assert_eq!(sent.len(), 1);
        assert!(if miss < LATCH_MISSES { is_damping(&sent[0]) } else { is_torque_free(&sent[0]) }, "{miss}");
        bench.tick(0);
        bench.sent();
    }
    assert_eq!(bench.node.control.state(), State::Fault);
    let timing = bench.timing();
    assert_eq!((timing.misses, timing.latches), (LATCH_MISSES, 1));
    assert_eq!(bench.node.telemetry().cause, Cause::Overrun as u8);
    // Armed again it starts with a clean record.
    bench.arm();
    bench.tick(1);
    assert_eq!(bench.node.control.state(), State::Damping);
}

#[test]
fn a_tick_that_never_ends_gives_the_fallback_in_every_period_and_then_no_torque() {
    let mut bench = Bench::running();
    bench.tick(7);
    let sent = bench.sent();
    assert_eq!(sent.len(), 7);
    assert!(sent[..3].iter().all(is_damping) && sent[3..].iter().all(is_torque_free), "{sent:?}");
    assert_eq!(bench.node.control.state(), State::Fault);
    assert_eq!(bench.node.telemetry().misses, 7);
}

#[test]
fn without_torque_and_in_lockstep_no_deadline_is_missed() {
    let mut bench = Bench::running();
    bench.node.command(tendon_wire::message::Stop {}).unwrap();
    while bench.node.control.state() != State::Idle {
        bench.tick(0);
    }
    bench.sent();
    let release = bench.tick(3);
    assert_eq!(bench.sent().len(), 1, "its own action");
    assert!(release.feed && release.watchdog_us == QUIET_US);
    bench.node.command(Pace { lockstep: true }).unwrap();
    let release = bench.release(3, 0);
    assert!(release.feed && release.watchdog_us == QUIET_US, "the host may think as long as it likes");
    assert_eq!((bench.sent().len(), bench.node.telemetry().misses), (0, 0));
}

#[test]
fn the_histograms_count_every_tick() {
    let mut bench = Bench::running();
    (0..10).for_each(|_| _ = bench.tick(0));
    bench.tick(1);
    let timing = bench.timing();
    let total = |counts: &[u32]| counts.iter().sum::<u32>();
    let ticks = bench.node.telemetry().ticks;
    assert_eq!((total(&timing.release.0), total(&timing.execution.0)), (ticks, ticks));
    assert_eq!((timing.period_us, timing.deadline_us), (20_000, 17_500));
    assert!((1..17_500).contains(&timing.response_us), "{}", timing.response_us);
}

#[test]
fn a_timer_that_runs_wild_does_not_feed() {
    let mut bench = Bench::running();
    assert!(bench.tick(0).feed);
    bench.node.clock.0.set(bench.node.clock.0.get() - PERIOD_US + 100);
    assert!(!bench.tick(0).feed);
    assert_eq!(bench.timing().early_feeds, 1);
}

#[test]
fn lateness_is_injected_only_where_the_firmware_is_built_for_it() {
    let mut bench = Bench::running();
    let refused = bench.node.command(Inject { after: 0, ticks: 1, delay_us: 1 });
    assert_eq!(refused, Err((Refusal::Unsupported, 0)));
}

#[test]
fn commands_go_on_from_the_fallback_and_not_from_what_was_thrown_away() {
    let mut bench = Bench::running();
    bench.tick(0);
    let before = bench.sent().pop().unwrap();
    bench.tick(1);
    let fallback = bench.sent().pop().unwrap();
    bench.tick(0);
    let after = bench.sent().pop().unwrap();
    // 20 rad/s for 20 ms, from what went out last.
    for ((a, b), c) in before.position.iter().zip(&fallback.position).zip(&after.position) {
        assert!((a - b).abs() <= 0.4001 && (b - c).abs() <= 0.4001, "{a} {b} {c}");
    }
}
