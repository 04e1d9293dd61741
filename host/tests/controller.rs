//! The same conversations with every controller: in this process, the stand-in process, the firmware in QEMU.

mod common;

use common::*;
use std::io::Write;
use std::time::{Duration, Instant};
use tendon::hil::run_task;
use tendon::link::{ControllerKind, LinkError, Session, Transport};
use tendon_compiler::parity::{ImageRunner, random_inputs};
use tendon_compiler::sample::{Sample, operators};
use tendon_runtime::{Cause, Refusal, State};
use tendon_sim::Environment;
use tendon_wire::message::{Action, Message};

/// Boards that QEMU emulates, one of each processor.
const BOARDS: [ControllerKind; 3] =
    [ControllerKind::Qemu, ControllerKind::QemuAn500, ControllerKind::QemuAn505];

/// Runs `check` on the stand-in and on the firmware of every emulated board.
fn on_each(check: impl Fn(&mut Session<tendon::link::Serial>, ControllerKind)) {
    for kind in [ControllerKind::StandIn].into_iter().chain(BOARDS) {
        if let Some(controller) = start(kind) {
            check(&mut open(&controller), kind);
        }
    }
}

fn hash_of<T: Transport>(session: &mut Session<T>) -> (u64, u64) {
    let (image, schema, mut environment) = cart_pole(3);
    session.upload(&image, |_| ()).unwrap();
    let run = run_task(session, &mut environment, schema, 7, 200, None, |_, _| ()).unwrap();
    assert_eq!((run.stats.ticks, run.misses), (200, 0));
    (run.hash, run.stats.ticks)
}

#[test]
fn a_run_has_the_same_hash_on_every_controller() {
    #[allow(clippy::redundant_closure, reason = "the function alone is not general over the lifetime")]
    let here = in_process(|session| hash_of(session));
    on_each(|session, kind| assert_eq!(hash_of(session), here, "{kind:?}"));
    // And again on one that has already run.
    in_process(|session| {
        assert_eq!(hash_of(session), here);
        assert_eq!(hash_of(session), here);
    });
}

#[test]
fn a_bare_network_infers_the_same_bits_and_is_never_armed() {
    let image = bare(1);
    let input = [0.1, -2.0, 3.0, 0.0, 1e-3];
    let expected = in_process(|session| {
        session.upload(&image, |_| ()).unwrap();
        session.infer(&input).unwrap().0
    });
    on_each(|session, kind| {
        session.upload(&image, |_| ()).unwrap();
        let (output, _) = session.infer(&input).unwrap();
        assert_eq!(output, expected, "{kind:?}");
        assert_eq!(refusal(session.arm(0)), Some(Refusal::NoContract));
        assert!(matches!(
            session.infer(&[1.0]),
            Err(LinkError::Refused { refusal: Some(Refusal::Input), detail: 5, .. })
        ));
    });
}

/// Every operator of the runtime and every kind of it: the golden vectors at the commit, then other inputs.
fn every_operator_gives_the_same_bits_on(kind: ControllerKind) {
    let Some(controller) = start(kind) else { return };
    let mut session = open(&controller);
    let inputs = random_inputs(Sample::N_INPUTS, 3, 5);
    for sample in operators() {
        let image = sample.compile().unwrap().image;
        let mut host = ImageRunner::new(&image).unwrap();
        session.upload(&image, |_| ()).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        for input in &inputs {
            let (found, _) = session.infer(input).unwrap();
            let bits = |values: &[f32]| -> Vec<u32> {
                // The bits of a NaN are the hardware's choice.
                values.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
            };
            assert_eq!(bits(&found), bits(&host.run(input).unwrap()), "{}", sample.name);
        }
    }
}

#[test]
fn every_operator_gives_the_same_bits_on_a_cortex_m4f() {
    every_operator_gives_the_same_bits_on(ControllerKind::Qemu);
}

#[test]
fn every_operator_gives_the_same_bits_on_a_cortex_m7() {
    every_operator_gives_the_same_bits_on(ControllerKind::QemuAn500);
}

#[test]
fn every_operator_gives_the_same_bits_on_a_cortex_m33() {
    every_operator_gives_the_same_bits_on(ControllerKind::QemuAn505);
}

#[test]
fn damaged_and_partial_updates_leave_the_active_image_alone() {
    let (good, other) = (bare(1), bare(2));
    let input = [0.5; 5];
    on_each(|session, kind| {
        session.upload(&good, |_| ()).unwrap();
        let before = session.infer(&input).unwrap().0;
        let crc = session.identity().unwrap().image_crc32c;
        for at in [20, 200, other.len() / 2, other.len() - 1] {
            let mut damaged = other.to_vec();
            damaged[at] ^= 4;
            assert_eq!(refusal(session.upload(&damaged, |_| ())), Some(Refusal::Image), "{kind:?} byte {at}");
            assert_eq!(
                refusal(session.upload(&other[..at], |_| ())),
                Some(Refusal::Image),
                "{kind:?} cut {at}"
            );
            assert_eq!(session.infer(&input).unwrap().0, before);
        }
        assert_eq!(session.identity().unwrap().image_crc32c, crc);
        assert_eq!(refusal(session.upload(&vec![0; 5 << 20], |_| ())), Some(Refusal::TooLarge));
        session.upload(&other, |_| ()).unwrap();
        assert_ne!(session.infer(&input).unwrap().0, before);
    });
}

/// Paces raw states by the wall clock until the controller runs; returns the actions seen.
fn run_in_real_time(session: &mut Session<tendon::link::Serial>, kind: ControllerKind) -> Vec<Action> {
    let (image, schema, mut environment) = cart_pole(3);
    session.upload(&image, |_| ()).unwrap();
    session.pace(false).unwrap();
    let mut observation = vec![0.0; environment.observation_len()];
    environment.reset(1, &mut observation);
    let state = environment.raw_state().clone();
    let mut actions = Vec::new();
    let start = Instant::now();
    let (mut armed, mut running) = (false, false);
    while start.elapsed() < Duration::from_secs(30) {
        session.send_state(&state).unwrap();
        while let Some(message) = session.receive(Duration::from_millis(5)).unwrap() {
            if let Message::Action(action) = message {
                actions.push(action);
            }
        }
        if actions.last().is_some_and(|action: &Action| action.state == State::Fault as u8) {
            // A busy machine held the states back for longer than the contract allows: once more.
            session.pace(false).unwrap();
            (armed, running) = (false, false);
            actions.clear();
        }
        armed = armed || session.arm(schema).is_ok();
        running = running || (armed && session.run().is_ok());
        if running && actions.iter().filter(|a| a.state == State::Running as u8).count() > 10 {
            return actions;
        }
    }
    panic!("{kind:?} never ran: armed {armed}, running {running}, {} actions", actions.len());
}

#[test]
fn falls_back_when_the_host_goes_silent_and_says_so() {
    on_each(|session, kind| {
        run_in_real_time(session, kind);
        // Longer than timeout, hold and damping together. Nothing is sent meanwhile.
        std::thread::sleep(Duration::from_millis(2500));
        let mut last = Action::default();
        let mut damped = false;
        while let Some(message) = session.receive(Duration::from_millis(20)).unwrap() {
            if let Message::Action(action) = message {
                damped |= action.state == State::Damping as u8;
                last = action;
                if last.state == State::Fault as u8 {
                    break;
                }
            }
        }
        assert!(damped, "{kind:?}: no damping on the way");
        // The contract's age limit of raw states (0.1 s) is shorter than its heartbeat timeout (0.25 s).
        assert_eq!((last.state, last.cause), (State::Fault as u8, Cause::StaleState as u8), "{kind:?}");
        assert!(
            last.kp.iter().chain(&last.kd).chain(&last.torque).all(|v| *v == 0.0),
            "{kind:?}: torque in Fault"
        );
        let telemetry = session.observe().unwrap();
        assert_eq!((telemetry.state, telemetry.fallbacks), (State::Fault as u8, 1), "{kind:?}");
    });
}

#[test]
fn a_lockstep_controller_faults_when_its_host_stands_still() {
    on_each(|session, kind| {
        let (image, schema, mut environment) = cart_pole(3);
        session.upload(&image, |_| ()).unwrap();
        let mut observation = vec![0.0; environment.observation_len()];
        environment.reset(1, &mut observation);
        let state = environment.raw_state().clone();
        let mut control = tendon::hil::Loop::start(session, 20_000, schema, &state, None).unwrap();
        control.tick(&state).unwrap();
        std::thread::sleep(Duration::from_millis(3500));
        let error = control.tick(&state).unwrap_err();
        assert!(error.to_string().contains("HostSilent"), "{kind:?}: {error}");
    });
}

#[test]
fn garbage_on_the_line_is_counted_and_forgotten() {
    for kind in [ControllerKind::StandIn, ControllerKind::Qemu] {
        let Some(controller) = start(kind) else { continue };
        // Another program's bytes, before and between frames.
        drop(open(&controller));
        let mut line = std::fs::OpenOptions::new().write(true).open(controller.port()).unwrap();
        let garbage: Vec<u8> = (0u32..3000).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        line.write_all(&garbage).unwrap();
        line.write_all(&[0]).unwrap();
        drop(line);
        let mut session = open(&controller);
        let telemetry = session.observe().unwrap();
        assert!(telemetry.rejected_frames > 0, "{kind:?}");
        assert_eq!(telemetry.state, State::Idle as u8, "{kind:?}");
    }
}

#[test]
fn a_controller_that_dies_is_an_error_and_no_hang() {
    for kind in [ControllerKind::StandIn, ControllerKind::Qemu] {
        let Some(mut controller) = start(kind) else { continue };
        let mut session = open(&controller);
        controller.kill();
        let start = Instant::now();
        let error = session.identity().unwrap_err();
        assert!(matches!(error, LinkError::Io { .. } | LinkError::Timeout { .. }), "{kind:?}: {error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn the_deepest_stack_seen_is_below_the_bound_derived_from_the_firmware() {
    for kind in BOARDS {
        let Some(controller) = start(kind) else { continue };
        let elf = tendon::link::firmware_path(kind).unwrap();
        let report = tendon_bounds::check_file(&elf).unwrap_or_else(|failures| panic!("{failures:#?}"));
        assert!(report.fits(), "{report}");
        let mut session = open(&controller);
        assert_eq!(session.identity().unwrap().board.as_str(), report.board);
        // Uploads, inferences, refusals, and ticks that the timer and the link interrupt.
        session.upload(&bare(1), |_| ()).unwrap();
        session.infer(&[0.5; 5]).unwrap();
        assert!(session.upload(&bare(1)[..100], |_| ()).is_err());
        hash_of(&mut session);
        run_in_real_time(&mut session, kind);
        let seen = session.observe().unwrap().stack_bytes;
        println!("{}: {seen} bytes seen, bound {}", report.board, report.worst);
        assert!(seen > 1000, "{seen} bytes: the stack was not painted");
        assert!(seen <= report.worst, "{seen} bytes seen, more than the bound:\n{report}");
    }
}
