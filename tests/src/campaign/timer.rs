//! The firmware in QEMU by its timer, on a clock that counts instructions: late ticks, ticks that hang, garbage on the
//! line.

use super::world::{cart_pole_with, framed};
use super::{Campaign, Run};
use fastrand::Rng;
use std::time::Duration;
use tendon::link::{Line, LinkError, Session, Transport};
use tendon_runtime::deadline::{LATCH_MISSES, deadline_us};
use tendon_runtime::timing::ResetCause;
use tendon_runtime::{AlignedBytes, Cause, RawState, Refusal, State};
use tendon_sim::Environment;
use tendon_wire::message::{Action, Hello, Message, Stop};
use tendon_wire::mutation::Check;

pub(super) const OVERRUN: Campaign =
    Campaign { name: "overrun", gates: &[11], guards: &[Check::Deadline, Check::Admission], run: overrun };

pub(super) const HANG: Campaign =
    Campaign { name: "hang", gates: &[12], guards: &[Check::WatchdogFeed], run: hang };

pub(super) const GARBAGE: Campaign =
    Campaign { name: "garbage", gates: &[10], guards: &[Check::FrameCrc], run: garbage };

const PERIOD_US: u32 = 2000;
/// Of the ticks under garbage: near the shortest that the analysis admits, with the line at its full rate.
const SHORT_PERIOD_US: u32 = 500;
/// For what takes moments, on the board's clock.
const PATIENCE_US: u64 = 10_000_000;
/// A hanging tick is reset within it: twice the shortest timeout of the watchdog, and the boot.
const RESET: Duration = Duration::from_millis(1500);

/// A controller by its timer, fed with a raw state for each of its actions.
struct Bench {
    session: Session<Line>,
    period_us: u32,
    image: AlignedBytes,
    schema_hash: u64,
    state: RawState,
    actions: Vec<Action>,
}

fn text(error: LinkError) -> String {
    error.to_string()
}

impl Bench {
    /// The cart-pole with a short period and a quick way to Running.
    fn new(period_us: u32) -> Result<Self, String> {
        let (image, schema_hash, mut environment) = cart_pole_with(3, |contract| {
            contract.control_period_s = f64::from(period_us) * 1e-6;
            let fallback = &mut contract.fallback;
            (fallback.dwell_s, fallback.hold_s, fallback.damp_s) = (0.01, 0.0, 0.012);
            (fallback.state_timeout_s, fallback.heartbeat_timeout_s) = (1.0, 2.0);
        })?;
        let mut observation = vec![0.0; environment.observation_len()];
        environment.reset(1, &mut observation);
        // A robot that stands: one that said it moved and stayed where it is would be a stuck sensor.
        let mut state = environment.raw_state().clone();
        state.joint_velocity.fill(0.0);
        let session = Session::open(Line::launch(None).map_err(text)?).map_err(text)?.0;
        let mut bench = Self { session, period_us, image, schema_hash, state, actions: Vec::new() };
        bench.load()?;
        Ok(bench)
    }

    fn load(&mut self) -> Result<(), String> {
        self.session.upload(&self.image, |_| ()).map_err(text)?;
        self.session.pace(false).map_err(text)?;
        self.send()
    }

    fn send(&mut self) -> Result<(), String> {
        self.state.time_us += u64::from(self.period_us);
        self.session.send_state(&self.state).map_err(text)
    }

    /// Keeps the actions until `done` says so; whether it did in time.
    fn until(&mut self, mut done: impl FnMut(&Action) -> bool) -> Result<bool, String> {
        let end_us = self.session.transport().now_us() + PATIENCE_US;
        while self.session.transport().now_us() < end_us {
            match self.session.receive(Duration::from_millis(50)).map_err(text)? {
                Some(Message::Action(action)) => {
                    self.send()?;
                    let is_done = done(&action);
                    self.actions.push(action);
                    if is_done {
                        return Ok(true);
                    }
                }
                Some(_) => {}
                // Without torque a tick answers a state.
                None => self.send()?,
            }
        }
        Ok(false)
    }

    fn ticks(&mut self, mut count: u64) -> Result<bool, String> {
        self.until(|_| {
            count = count.saturating_sub(1);
            count == 0
        })
    }

    /// From Idle or Fault to Running.
    fn run(&mut self) -> Result<(), String> {
        self.persist(|bench| bench.session.arm(bench.schema_hash))?;
        self.persist(|bench| bench.session.run())?;
        self.until(|action| action.state == State::Running as u8)?;
        self.actions.clear();
        Ok(())
    }

    fn persist(&mut self, mut command: impl FnMut(&mut Self) -> Result<(), LinkError>) -> Result<(), String> {
        for _ in 0..500 {
            self.ticks(2)?;
            match command(self) {
                Ok(()) => return Ok(()),
                Err(LinkError::Refused { refusal: Some(Refusal::Dwell | Refusal::Pose), .. }) => {}
                Err(error) => return Err(format!("{error}; last {:?}", self.actions.last())),
            }
        }
        let (telemetry, last) = (self.session.observe(), self.actions.last());
        Err(format!("the controller does not start: {telemetry:?}, last {last:?}"))
    }

    /// Whether the controller answers a Hello within `time`.
    fn answers(&mut self, time: Duration) -> Result<bool, String> {
        let end = self.session.transport().now() + time;
        while self.session.transport().now() < end {
            let line = self.session.transport();
            line.send(1, &Hello {}.into()).map_err(text)?;
            let next = (line.now() + Duration::from_millis(100)).min(end);
            while let Some((_, message)) = {
                let left = next.saturating_duration_since(line.now());
                line.receive(left).map_err(text)?
            } {
                if let Message::Identity(_) = message {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn is_safe(action: &Action) -> bool {
    action.kp.iter().chain(&action.torque).all(|v| *v == 0.0)
}

/// Actions of two periods one after the other that are not a period apart.
fn gaps(actions: &[Action]) -> u64 {
    let apart =
        |pair: &&[Action]| pair[1].time_us.saturating_sub(pair[0].time_us).abs_diff(PERIOD_US.into()) > 50;
    actions.windows(2).filter(apart).count() as u64
}

/// Ticks made late; each is replaced by the fallback in its own period, and counted.
fn overrun(run: &mut Run) -> Result<(), String> {
    let cycles = run.amount(10_000 / u64::from(LATCH_MISSES), 50);
    let mut bench = Bench::new(PERIOD_US)?;
    let deadline = deadline_us(PERIOD_US);
    // The shortest period that a contract may have is too short for this board.
    let hasty = cart_pole_with(3, |contract| contract.control_period_s = 100e-6)?.0;
    let taken = bench.session.upload(&hasty, |_| ()).is_ok();
    let example = Some("a policy with a period of 100 us was taken".into());
    run.none("policies taken whose tick does not fit its period", "policies", u64::from(taken), example);
    if taken {
        return Ok(());
    }
    let (mut replaced, mut leaked, mut uneven, mut counted, mut example) = (0, 0, 0, 0, None);
    for cycle in 0..cycles {
        bench.run()?;
        let before = bench.session.observe().map_err(text)?.misses;
        // Late by less than what is left of the period.
        let late_us = [1, 50, 100, 150][cycle as usize % 4];
        bench.session.inject(3, LATCH_MISSES, deadline + late_us).map_err(text)?;
        let ended = bench.until(|action| action.state == State::Fault as u8)?;
        bench.ticks(3)?;
        let actions = std::mem::take(&mut bench.actions);
        // The fallback is what went out at the deadline, in the period of the tick that was late.
        let late = actions.iter().filter(|action| action.tick_us.abs_diff(deadline) < 40 && is_safe(action));
        let late = late.filter(|action| action.cause == Cause::Overrun as u8).count() as u64;
        replaced += late.min(LATCH_MISSES.into());
        let first = actions.iter().position(|action| action.state != State::Running as u8).unwrap_or(0);
        let after = actions[first..].iter().filter(|action| !is_safe(action)).count() as u64;
        let gaps = gaps(&actions[..=first.min(actions.len().saturating_sub(1))]);
        (leaked, uneven) = (leaked + after, uneven + gaps);
        let misses = bench.session.observe().map_err(text)?.misses;
        counted += u64::from(misses.wrapping_sub(before));
        if !ended || after > 0 || gaps > 0 {
            example.get_or_insert_with(|| {
                format!("cycle {cycle}: latched {ended}, {after} commands with torque, {gaps} gaps")
            });
        }
        if !ended {
            leaked += 1;
            break;
        }
        run.progress(cycle + 1, cycles);
    }
    let expected = cycles * u64::from(LATCH_MISSES);
    run.count("ticks made late", "ticks", expected as f64);
    run.exactly("replaced by the fallback in the same tick", "ticks", replaced, expected);
    run.exactly("counted as missed", "ticks", counted, expected);
    run.none("commands with torque after the first miss", "commands", leaked, example.clone());
    run.none("periods without their action before the fault", "periods", uneven, example);
    Ok(())
}

/// Ticks that never end: the watchdog resets the controller, which then gives no torque and says why.
fn hang(run: &mut Run) -> Result<(), String> {
    let total = run.amount(100, 3);
    let mut bench = Bench::new(PERIOD_US)?;
    let (mut reset, mut limp, mut unsafe_before, mut latest_us) = (0, 0, 0, 0);
    for round in 0..total {
        bench.run()?;
        bench.ticks(10)?;
        bench.session.inject(5, 1, u32::MAX).map_err(text)?;
        bench.actions.clear();
        bench.until(|action| action.state == State::Fault as u8)?;
        let actions = std::mem::take(&mut bench.actions);
        let first = actions.iter().position(|action| action.state != State::Running as u8).unwrap_or(0);
        unsafe_before += actions[first..].iter().filter(|action| !is_safe(action)).count() as u64;
        let hung_us = bench.session.transport().now_us();
        if !bench.answers(RESET)? {
            break;
        }
        latest_us = latest_us.max(bench.session.transport().now_us() - hung_us);
        bench.session.identity().map_err(text)?;
        let timing = bench.session.timing().map_err(text)?;
        let boots = round as u32 + 2;
        reset += u64::from((timing.reset_cause, timing.boots) == (ResetCause::Watchdog as u8, boots));
        let state = bench.session.observe().map_err(text)?.state;
        limp += u64::from(state == State::Idle as u8);
        bench.load()?;
        run.progress(round + 1, total);
    }
    run.count("ticks that hang", "ticks", total as f64);
    run.exactly("resets by the watchdog", "resets", reset, total);
    run.exactly("without torque after it", "resets", limp, total);
    run.none("commands with torque while it hung", "commands", unsafe_before, None);
    run.count("longest from the fault to an answer after the reset", "ms", latest_us as f64 / 1e3);
    Ok(())
}

/// Garbage as fast as the line takes it, while the policy runs: no tick is late and no garbage acts.
fn garbage(run: &mut Run) -> Result<(), String> {
    let total = run.amount(1_000_000, 4000);
    let mut bench = Bench::new(SHORT_PERIOD_US)?;
    bench.run()?;
    bench.ticks(200)?;
    let calm = bench.session.timing().map_err(text)?;
    let before = bench.session.observe().map_err(text)?;
    let mut rng = Rng::with_seed(run.seed);
    let (mut sent, mut ticks, mut stopped) = (0u64, 0u64, 0u64);
    let (mut newest_us, began_us) = (bench.session.transport().now_us(), bench.session.transport().now_us());
    while ticks < total && bench.session.transport().now_us() < newest_us + PATIENCE_US {
        // The line never rests. One true raw state for every few hundred bytes of noise, so that the policy goes on.
        while bench.session.transport().outgoing() < 2048 {
            let mut bytes: Vec<u8> = (0..rng.usize(50..400)).map(|_| rng.u8(..)).collect();
            if rng.bool() {
                let every = rng.usize(4..40);
                bytes.iter_mut().step_by(every).for_each(|byte| *byte = 0);
            }
            bytes.push(0);
            // And a command with one bit turned, which would end Running.
            if rng.u8(..8) == 0 {
                let mut stop = framed(&Message::Stop(Stop {}), rng.u16(..));
                let at = rng.usize(..stop.len() - 1);
                stop[at] ^= 1 << rng.u8(..8);
                bytes.extend(stop);
            }
            sent += bytes.len() as u64;
            bench.session.transport().put(&bytes);
            bench.send()?;
        }
        if let Some(Message::Action(action)) =
            bench.session.receive(Duration::from_millis(50)).map_err(text)?
        {
            ticks += 1;
            newest_us = bench.session.transport().now_us();
            stopped += u64::from(action.state != State::Running as u8);
            if ticks % 64 == 0 {
                run.progress(ticks, total);
            }
        }
    }
    let took_us = bench.session.transport().now_us() - began_us;
    run.count("ticks under garbage", "ticks", ticks as f64);
    run.count("bytes of garbage, without a pause at 1 Mbaud", "bytes", sent as f64);
    run.count("of the board's time", "s", took_us as f64 / 1e6);
    run.none("ticks outside Running", "ticks", stopped, Some("garbage stopped the policy".into()));
    run.none("ticks that did not come", "ticks", total.saturating_sub(ticks), Some("ticks stopped".into()));
    // Silence is what an accepted frame can lead to: a restart, another pace, an update.
    let answers = (bench.session.observe(), bench.session.timing());
    run.exactly("answers after it", "answers", u64::from(answers.0.is_ok() && answers.1.is_ok()), 1);
    let (Ok(after), Ok(timing)) = answers else { return Ok(()) };
    run.count(
        "frames refused",
        "frames",
        f64::from(after.rejected_frames.wrapping_sub(before.rejected_frames)),
    );
    run.none("deadlines missed", "ticks", u64::from(after.misses.wrapping_sub(before.misses)), None);
    run.count("longest tick without garbage", "ns", f64::from(calm.execution_max_ns));
    run.count("longest tick with garbage, interrupts included", "ns", f64::from(timing.execution_max_ns));
    run.count("latest release with garbage", "ns", f64::from(timing.release_max_ns));
    Ok(())
}
