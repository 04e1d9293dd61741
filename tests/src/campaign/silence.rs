//! Hosts that are killed or stopped, and sensors that fall silent, while the policy runs.

use super::process::{self, Pipe};
use super::world::{cart_pole_with, start};
use super::{Campaign, Run};
use fastrand::Rng;
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};
use tendon::link::{ControllerKind, LinkError, Session};
use tendon_runtime::{Cause, State};
use tendon_sim::Environment;
use tendon_wire::frame::Decoder;
use tendon_wire::message::{Action, Message};
use tendon_wire::mutation::Check;

pub(super) const SILENCE: Campaign =
    Campaign { name: "silence", gates: &[5], guards: &[Check::HostSilence, Check::StateAge], run: silence };

/// The word under which this program is a host.
pub(super) const HOST: &str = "a-host";

/// Silence of the host that ends Running, s: well below the age of a state, so that it is what counts.
const HOST_TIMEOUT_S: f64 = 0.2;
/// Age of a state that ends Running, s.
const STATE_TIMEOUT_S: f64 = 0.6;
/// Longest that a host takes to get a controller to Running.
const START: Duration = Duration::from_secs(30);
/// Running beyond this has no end.
const WHOLE: Duration = Duration::from_secs(3);
/// Hosts that may be silent for a reason of their own, one after the other.
const TRIES: u32 = 5;

/// How the host ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Killed,
    Stopped,
    /// It lives and says so, but has no more states.
    WithoutStates,
}

/// What the controller's own clock says of one end.
struct Seen {
    /// Ticks after the limit in which the policy still acted.
    late: u64,
    /// From the tick that took the last sign of life to the fall-back, us.
    latency_us: u64,
    cause: u8,
}

fn silence(run: &mut Run) -> Result<(), String> {
    let ends = [End::Killed, End::Stopped, End::WithoutStates];
    let total = run.amount(210, 6);
    let mut rng = Rng::with_seed(run.seed);
    let mut longest = [0u64; 3];
    let (mut late, mut wrong, mut example) = (0, 0, None);
    let mut done = 0;
    for (kind, share) in [(ControllerKind::StandIn, total / 2), (ControllerKind::Qemu, total - total / 2)] {
        let controller = start(kind)?;
        let mut port = process::open_port(Path::new(controller.port()))?;
        for _ in 0..share {
            let end = ends[done as usize % ends.len()];
            let after = Duration::from_millis(rng.u64(20..300));
            let expected = if end == End::WithoutStates { Cause::StaleState } else { Cause::HostSilent };
            let mut seen = one(&mut port, end, after);
            for _ in 0..TRIES {
                // A machine that is busy enough makes any host silent: then that is what ended it, or kept it from
                // Running, and not what we did.
                if seen.as_ref().is_ok_and(|seen| seen.late > 0 || seen.cause == expected as u8) {
                    break;
                }
                seen = one(&mut port, end, after);
            }
            let seen = seen?;
            late += seen.late;
            let slot = &mut longest[done as usize % ends.len()];
            *slot = (*slot).max(seen.latency_us);
            wrong += u64::from(seen.cause != expected as u8);
            if seen.late > 0 || seen.cause != expected as u8 {
                let Seen { late, latency_us, cause } = seen;
                example.get_or_insert_with(|| {
                    format!("{kind:?}, host {end:?}: {late} late ticks, {latency_us} us, cause {cause}")
                });
            }
            done += 1;
            run.progress(done, total);
        }
    }
    run.count("hosts killed, stopped or without states", "hosts", total as f64);
    run.none("ticks after timeout + 1 tick in which the policy acted", "ticks", late, example.clone());
    run.none("another cause than the one that ended it", "hosts", wrong, example);
    for (end, longest) in ends.into_iter().zip(longest) {
        let limit = if end == End::WithoutStates { STATE_TIMEOUT_S } else { HOST_TIMEOUT_S };
        let metric = format!("longest way to the fall-back, {end:?} (limit {limit} s)");
        run.count(metric, "ms", longest as f64 / 1e3);
    }
    Ok(())
}

/// One host, from its start to the controller's fault.
fn one(port: &mut File, end: End, after: Duration) -> Result<Seen, String> {
    let word = if end == End::WithoutStates { "without-states" } else { "with-states" };
    let mut host = process::child(&[HOST, word])?;
    let result = watch(port, &mut host, end, after);
    process::kill(&mut host);
    result
}

/// Carries bytes, ends the host some time into Running, and judges the actions by their own times.
fn watch(port: &mut File, host: &mut Child, end: End, after: Duration) -> Result<Seen, String> {
    let (mut to_host, mut from_host) =
        (host.stdin.take().ok_or("no standard input")?, host.stdout.take().ok_or("no standard output")?);
    let mut decoder = Decoder::new();
    let mut actions: Vec<Action> = Vec::new();
    let started = Instant::now();
    let (mut running_since, mut is_over) = (None, false);
    loop {
        let ran_for = running_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
        if started.elapsed() > START && ran_for.is_zero() {
            let state = actions.last().map(|action| action.state);
            return Err(format!(
                "a host did not get its controller to Running in {START:?}; state {state:?}"
            ));
        }
        let [controller_says, host_says] =
            process::ready([port.as_fd(), from_host.as_fd()], Duration::from_millis(2))?;
        if host_says && !is_over {
            let bytes = process::read_some(&mut from_host)?;
            if bytes.is_empty() {
                return Err("the host ended by itself".into());
            }
            port.write_all(&bytes).map_err(|error| error.to_string())?;
        }
        if controller_says {
            let bytes = process::read_some(&*port)?;
            if !is_over || end == End::WithoutStates {
                let _ = to_host.write_all(&bytes);
            }
            for byte in bytes {
                if let Some(Ok(frame)) = decoder.push(byte)
                    && let Ok(Message::Action(action)) = Message::decode(frame.kind, frame.payload)
                {
                    actions.push(action);
                }
            }
        }
        let state = actions.last().and_then(|action| State::from_code(action.state));
        if state == Some(State::Running) {
            running_since.get_or_insert_with(Instant::now);
        }
        if !is_over && running_since.is_some_and(|since| since.elapsed() > after) && end != End::WithoutStates
        {
            match end {
                End::Killed => process::kill(host),
                _ => process::signal(host, Signal::STOP)?,
            }
            is_over = true;
        }
        if ran_for > WHOLE || running_since.is_some() && state == Some(State::Fault) {
            return judge(&actions, end);
        }
    }
}

/// `timeout + 1 tick`, on the controller's clock.
fn judge(actions: &[Action], end: End) -> Result<Seen, String> {
    let limit = if end == End::WithoutStates { STATE_TIMEOUT_S } else { HOST_TIMEOUT_S };
    let limit_us = (limit * 1e6) as u64;
    let first = actions.iter().position(|action| action.state == State::Running as u8).ok_or("never ran")?;
    let ran = &actions[first..];
    let fell =
        ran.iter().find(|action| action.state != State::Running as u8).or(ran.last()).ok_or("never ran")?;
    // The tick that answered the newest raw state took the last sign of life, or one before it did.
    let newest = ran.windows(2).rev().find(|pair| pair[0].sequence != pair[1].sequence);
    let last_us = newest.map_or(ran[0].time_us, |pair| pair[1].time_us);
    let late = ran.iter().filter(|action| {
        action.state == State::Running as u8 && action.time_us > last_us.saturating_add(limit_us)
    });
    let latency_us = fell.time_us.saturating_sub(last_us);
    Ok(Seen { late: late.count() as u64, latency_us, cause: fell.cause })
}

/// A host that arms, runs, and goes on until it is ended.
pub(super) fn host(words: &[String]) -> Result<(), String> {
    let falls_silent = words.first().is_some_and(|word| word == "without-states");
    let fail = |error: LinkError| error.to_string();
    let (image, schema_hash, mut environment) = cart_pole_with(3, |contract| {
        contract.fallback.heartbeat_timeout_s = HOST_TIMEOUT_S;
        contract.fallback.state_timeout_s = STATE_TIMEOUT_S;
        contract.fallback.damp_s = 0.05;
        contract.fallback.dwell_s = 0.05;
    })?;
    let period = Duration::from_secs_f64(environment.contract().control_period_s);
    let mut observation = vec![0.0; environment.observation_len()];
    environment.reset(1, &mut observation);
    let state = environment.raw_state().clone();
    let (mut session, identity) = Session::open(Pipe::default()).map_err(fail)?;
    if identity.schema_hash != schema_hash {
        session.upload(&image, |_| ()).map_err(fail)?;
    }
    session.pace(false).map_err(fail)?;
    let (mut armed, mut ran) = (false, None);
    for _ in 0.. {
        match ran {
            Some(since) if falls_silent && Instant::elapsed(&since) > Duration::from_millis(100) => {
                session.heartbeat().map_err(fail)?;
            }
            _ => session.send_state(&state).map_err(fail)?,
        }
        if !armed {
            armed = session.arm(schema_hash).is_ok();
        } else if ran.is_none() && session.run().is_ok() {
            ran = Some(Instant::now());
        }
        let next = Instant::now() + period;
        while let left = next.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            session.receive(left).map_err(fail)?;
        }
    }
    Ok(())
}
