//! The firmware in QEMU: late ticks, ticks that hang, garbage on the line, and a process that is killed while it is
//! flashed.

use super::world::{cart_pole_with, start};
use super::{Campaign, Run, process};
use fastrand::Rng;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tendon::link::{ControllerKind, Launched, LinkError, Serial, Session, launch_from};
use tendon_boot::sign::{SigningKey, sign};
use tendon_runtime::deadline::LATCH_MISSES;
use tendon_runtime::store::Part;
use tendon_runtime::timing::ResetCause;
use tendon_runtime::{AlignedBytes, Cause, RawState, Refusal, State};
use tendon_sim::Environment;
use tendon_wire::flash::KeySet;
use tendon_wire::message::{Action, Message};
use tendon_wire::mutation::Check;

pub(super) const OVERRUN: Campaign =
    Campaign { name: "overrun", gates: &[11], guards: &[Check::Deadline], run: overrun };

pub(super) const HANG: Campaign =
    Campaign { name: "hang", gates: &[12], guards: &[Check::WatchdogFeed], run: hang };

pub(super) const GARBAGE: Campaign =
    Campaign { name: "garbage", gates: &[10], guards: &[Check::FrameCrc], run: garbage };

pub(super) const KILL: Campaign =
    Campaign { name: "kill", gates: &[3], guards: &[Check::TrialReturn], run: kill };

const PERIOD_US: u32 = 2000;
/// A raw state that no action has answered for so long did not arrive.
const LOST: Duration = Duration::from_millis(100);
/// Of a tick, from its release: `docs/timing.md`.
const DEADLINE_US: u32 = 1750;
/// For what takes moments on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cart-pole with a short period and a quick way to Running.
fn quick() -> Result<(AlignedBytes, u64, RawState), String> {
    let (image, schema_hash, mut environment) = cart_pole_with(3, |contract| {
        contract.control_period_s = f64::from(PERIOD_US) * 1e-6;
        let fallback = &mut contract.fallback;
        (fallback.dwell_s, fallback.hold_s, fallback.damp_s) = (0.01, 0.0, 0.012);
        (fallback.state_timeout_s, fallback.heartbeat_timeout_s) = (1.0, 2.0);
    })?;
    let mut observation = vec![0.0; environment.observation_len()];
    environment.reset(1, &mut observation);
    let state = environment.raw_state().clone();
    Ok((image, schema_hash, state))
}

fn open(controller: &Launched) -> Result<Session<Serial>, String> {
    let serial = Serial::open(controller.port()).map_err(|error| error.to_string())?;
    Session::open(serial).map(|(session, _)| session).map_err(|error| error.to_string())
}

/// A controller by its timer, fed with raw states.
struct Bench {
    session: Session<Serial>,
    image: AlignedBytes,
    schema_hash: u64,
    state: RawState,
    actions: Vec<Action>,
    /// Raw states sent, and the number of the newest that an action answered: a line that is slower than the ticks
    /// takes one at a time.
    sent: u32,
    answered: u32,
}

impl Bench {
    fn new(controller: &Launched) -> Result<Self, String> {
        let (image, schema_hash, state) = quick()?;
        let (session, actions) = (open(controller)?, Vec::new());
        let mut bench = Self { session, image, schema_hash, state, actions, sent: 0, answered: 0 };
        bench.load()?;
        Ok(bench)
    }

    fn load(&mut self) -> Result<(), String> {
        let session = &mut self.session;
        session
            .upload(&self.image, |_| ())
            .and_then(|()| session.pace(false))
            .map_err(|error| error.to_string())
    }

    /// Sends a state per action and keeps the actions until `done` says so; whether it did in time.
    fn until(&mut self, mut done: impl FnMut(&Action) -> bool) -> Result<bool, String> {
        let start = Instant::now();
        let mut newest = start;
        while start.elapsed() < PATIENCE {
            if self.sent == self.answered || newest.elapsed() > LOST {
                self.state.time_us += u64::from(PERIOD_US);
                self.session.send_state(&self.state).map_err(|error| error.to_string())?;
                self.sent += 1;
                newest = Instant::now();
            }
            let message =
                self.session.receive(Duration::from_millis(50)).map_err(|error| error.to_string())?;
            if let Some(Message::Action(action)) = message {
                let is_done = done(&action);
                self.answered = action.sequence;
                self.actions.push(action);
                if is_done {
                    return Ok(true);
                }
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
                Err(error) => return Err(error.to_string()),
            }
        }
        let (telemetry, last) = (self.session.observe(), self.actions.last());
        Err(format!("the controller does not start: {telemetry:?}, last {last:?}"))
    }
}

fn is_safe(action: &Action) -> bool {
    action.kp.iter().chain(&action.torque).all(|v| *v == 0.0)
}

/// Ticks made late; each is replaced by the fallback in its own period, and counted.
fn overrun(run: &mut Run) -> Result<(), String> {
    let cycles = run.amount(10_000 / u64::from(LATCH_MISSES), 6);
    let controller = start(ControllerKind::QemuInject)?;
    let mut bench = Bench::new(&controller)?;
    let (mut replaced, mut leaked, mut counted, mut example) = (0, 0, 0, None);
    for cycle in 0..cycles {
        bench.run()?;
        let before = bench.session.observe().map_err(|error| error.to_string())?.misses;
        bench.session.inject(3, LATCH_MISSES, DEADLINE_US + 100).map_err(|error| error.to_string())?;
        let ended = bench.until(|action| action.state == State::Fault as u8)?;
        bench.ticks(3)?;
        let actions = std::mem::take(&mut bench.actions);
        // The fallback is what went out at the deadline, in the period of the tick that was late.
        let late =
            actions.iter().filter(|action| action.tick_us.abs_diff(DEADLINE_US) < 40 && is_safe(action));
        replaced += late.filter(|action| action.cause == Cause::Overrun as u8).count() as u64;
        let first = actions.iter().position(|action| action.state != State::Running as u8).unwrap_or(0);
        let after = actions[first..].iter().filter(|action| !is_safe(action)).count() as u64;
        leaked += after;
        let misses = bench.session.observe().map_err(|error| error.to_string())?.misses;
        counted += u64::from(misses.wrapping_sub(before));
        if !ended || after > 0 {
            example.get_or_insert_with(|| {
                format!("cycle {cycle}: latched {ended}, {after} commands with torque")
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
    run.none("commands with torque after the first miss", "commands", leaked, example);
    Ok(())
}

/// Ticks that never end: the watchdog resets the controller, which then gives no torque and says why.
fn hang(run: &mut Run) -> Result<(), String> {
    let total = run.amount(100, 2);
    let controller = start(ControllerKind::QemuInject)?;
    let mut bench = Bench::new(&controller)?;
    let (mut reset, mut limp, mut unsafe_before, mut boots) = (0, 0, 0, 1);
    for round in 0..total {
        bench.run()?;
        bench.ticks(10)?;
        bench.session.inject(5, 1, u32::MAX).map_err(|error| error.to_string())?;
        bench.actions.clear();
        bench.until(|action| action.state == State::Fault as u8)?;
        let actions = std::mem::take(&mut bench.actions);
        let first = actions.iter().position(|action| action.state != State::Running as u8).unwrap_or(0);
        unsafe_before += actions[first..].iter().filter(|action| !is_safe(action)).count() as u64;
        // No answer comes until the reset.
        if !(0..8).any(|_| bench.session.identity().is_ok()) {
            break;
        }
        let timing = bench.session.timing().map_err(|error| error.to_string())?;
        boots += 1;
        reset += u64::from((timing.reset_cause, timing.boots) == (ResetCause::Watchdog as u8, boots));
        let state = bench.session.observe().map_err(|error| error.to_string())?.state;
        limp += u64::from(state == State::Idle as u8);
        bench.load()?;
        run.progress(round + 1, total);
    }
    run.count("ticks that hang", "ticks", total as f64);
    run.exactly("resets by the watchdog", "resets", reset, total);
    run.exactly("without torque after it", "resets", limp, total);
    run.none("commands with torque while it hung", "commands", unsafe_before, None);
    Ok(())
}

/// Garbage as fast as the line takes it, while the policy runs: no tick is late and no garbage acts.
fn garbage(run: &mut Run) -> Result<(), String> {
    let total = run.amount(1_000_000, 3000);
    let controller = start(ControllerKind::QemuCounting)?;
    let mut bench = Bench::new(&controller)?;
    bench.run()?;
    bench.ticks(200)?;
    let fail = |error: LinkError| error.to_string();
    let calm = bench.session.timing().map_err(fail)?;
    let before = bench.session.observe().map_err(fail)?;
    drop(bench.session);
    let mut port = process::open_port(Path::new(controller.port()))?;
    let mut rng = Rng::with_seed(run.seed);
    let mut decoder = tendon_wire::frame::Decoder::new();
    let (mut sent, mut ticks, mut stopped, mut sequence) = (0u64, 0u64, 0u64, bench.state.sequence + 100_000);
    let mut frame = 0u16;
    let started = Instant::now();
    let mut newest = Instant::now();
    while ticks < total && newest.elapsed() < PATIENCE {
        // One true raw state for every few hundred bytes of noise, so that the policy goes on.
        let mut bytes: Vec<u8> = (0..rng.usize(50..400)).map(|_| rng.u8(..)).collect();
        if rng.bool() {
            let every = rng.usize(4..40);
            bytes.iter_mut().step_by(every).for_each(|byte| *byte = 0);
        }
        sent += bytes.len() as u64;
        (sequence, frame) = (sequence + 1, frame.wrapping_add(1));
        bytes.push(0);
        if frame == 1 {
            bytes.extend(super::world::framed(&tendon_wire::message::Hello {}.into(), frame));
            frame += 1;
        }
        let state = RawState { sequence, ..bench.state.clone() };
        bytes.extend(super::world::framed(&state.into(), frame));
        port.write_all(&bytes).map_err(|error| error.to_string())?;
        // A line that is slower than the ticks takes one burst at a time.
        let mut is_answered = false;
        while !is_answered && newest.elapsed() < PATIENCE {
            if !process::ready([std::os::fd::AsFd::as_fd(&port)], Duration::from_millis(50))?[0] {
                continue;
            }
            for byte in process::read_some(&port)? {
                if let Some(Ok(frame)) = decoder.push(byte)
                    && let Ok(Message::Action(action)) = Message::decode(frame.kind, frame.payload)
                {
                    ticks += 1;
                    newest = Instant::now();
                    stopped += u64::from(action.state != State::Running as u8);
                    is_answered |= action.sequence == sequence;
                }
            }
        }
        run.progress(ticks, total);
    }
    let took = started.elapsed().as_secs_f64();
    drop(port);
    let mut session = open(&controller)?;
    let (after, timing) = (session.observe().map_err(fail)?, session.timing().map_err(fail)?);
    run.count("ticks under garbage", "ticks", ticks as f64);
    run.count("bytes of garbage", "bytes", sent as f64);
    run.count("rate of the garbage on this machine's clock", "bytes/s", sent as f64 / took);
    run.count(
        "frames refused",
        "frames",
        f64::from(after.rejected_frames.wrapping_sub(before.rejected_frames)),
    );
    run.none("deadlines missed", "ticks", u64::from(after.misses - before.misses), None);
    run.none("ticks outside Running", "ticks", stopped, Some("garbage stopped the policy".into()));
    run.none("ticks that did not come", "ticks", total.saturating_sub(ticks), Some("ticks stopped".into()));
    run.count("longest tick without garbage", "ns", f64::from(calm.execution_max_ns));
    run.count("longest tick with garbage, interrupts included", "ns", f64::from(timing.execution_max_ns));
    run.count("latest release with garbage", "ns", f64::from(timing.release_max_ns));
    Ok(())
}

/// A flash file that goes at the end.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// QEMU is killed at random instants of flashing; what boots afterwards is what was confirmed, verified.
fn kill(run: &mut Run) -> Result<(), String> {
    let total = run.amount(2000, 5);
    let fail = |error: LinkError| error.to_string();
    let mut rng = Rng::with_seed(run.seed);
    let file = File(std::env::temp_dir().join(format!("tendon-kill-{}.img", std::process::id())));
    let key = SigningKey::from_bytes(&[7; 32]);
    let signed = |seed| -> Result<Vec<u8>, String> {
        sign(&cart_pole_with(seed, |_| ())?.0, &key).map_err(|error| format!("{error:?}"))
    };
    let crc =
        |image: &[u8]| image.get(4..8).map_or(0, |crc| u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]));
    let policies = [signed(1)?, signed(2)?];
    let boot = || -> Result<(Launched, Session<Serial>), String> {
        let controller = launch_from(ControllerKind::Qemu, Some(&file.0)).map_err(fail)?;
        let session = open(&controller)?;
        Ok((controller, session))
    };
    let mut confirmed = 0;
    {
        let (_controller, mut session) = boot()?;
        let keys = [*key.verifying_key().as_bytes(), [0; 32]];
        session.upload(&policies[0], |_| ()).map_err(fail)?;
        session.confirm(Part::Policy).map_err(fail)?;
        // The firmware that boots has to be signed with one of the keys as well.
        let firmware =
            tendon::link::firmware_path(ControllerKind::Qemu).ok_or("the firmware is not built")?;
        let package = tendon::link::Package::read(&firmware).map_err(|error| error.to_string())?;
        let other = package.images.get(1).ok_or("no firmware for the second slot")?;
        let other = sign(other, &key).map_err(|error| format!("{error:?}"))?;
        session.update(Part::Firmware, &other, |_| ()).map_err(fail)?;
        session.restart().map_err(fail)?;
        session.confirm(Part::Firmware).map_err(fail)?;
        session.provision(&KeySet { generation: 1, reserved: 0, keys, robot_id: [0; 32] }).map_err(fail)?;
    }
    let (mut wrong, mut whole, mut example) = (0, 0u64, None);
    for round in 0..total {
        let (mut controller, mut session) = boot()?;
        let next = 1 - confirmed;
        let confirms = rng.bool();
        let image = policies[next].clone();
        let confirm_began = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let began = std::sync::Arc::clone(&confirm_began);
        let worker = std::thread::spawn(move || {
            let sent = session.upload(&image, |_| ()).is_ok();
            if sent && confirms {
                began.store(true, std::sync::atomic::Ordering::SeqCst);
                return (sent, session.confirm(Part::Policy).is_ok());
            }
            std::thread::sleep(Duration::from_millis(200));
            (sent, false)
        });
        std::thread::sleep(Duration::from_micros(rng.u64(1_000..900_000)));
        controller.kill();
        let (sent, is_confirmed) = worker.join().unwrap_or((false, false));
        whole += u64::from(sent);
        let (_controller, mut session) = boot()?;
        let found = session.identity().map_err(fail)?.image_crc32c;
        let may = confirm_began.load(std::sync::atomic::Ordering::SeqCst);
        let (old, new) = (crc(&policies[confirmed]), crc(&policies[next]));
        let is_right = if is_confirmed { found == new } else { found == old || (may && found == new) };
        if !is_right {
            wrong += 1;
            example.get_or_insert_with(|| {
                format!("kill {round}: {found:08x} boots; confirmed {old:08x}, sent {new:08x}, confirmed: {is_confirmed}")
            });
        }
        if found == new {
            confirmed = next;
        }
        run.progress(round + 1, total);
    }
    run.count("kills of QEMU while it is flashed", "kills", total as f64);
    run.count("of them after the whole image was sent", "kills", whole as f64);
    run.none("boots of another policy than the confirmed one", "boots", wrong, example);
    Ok(())
}
