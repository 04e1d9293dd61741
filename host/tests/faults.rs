//! Broken sensors and actuators in closed loop: limits hold, and what is noticed when.

mod common;

use common::{cart_pole, in_process, real};
use tendon::faults::{Channel, Fault, Kind, Outcome, Plant, TaskPlant, WalkPlant, run};
use tendon::mishaps::{Mishap, play};
use tendon::recording::{Recorder, Recording};
use tendon::walk::walk;
use tendon_compiler::{Abstain, ContractChoice, Manifest, Options, compile};
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{AlignedBytes, Cause, Image, State};
use tendon_sim::{LocomotionTask, Robot, RobotOptions};

const FROM: u64 = 60;
const TICKS: u64 = 200;

fn cart_pole_run(fault: Option<Fault>) -> Outcome {
    let (image, hash, environment) = cart_pole(3);
    let contract = environment.contract().clone();
    in_process(|session| {
        session.upload(&image, |_| ()).unwrap();
        run(session, &mut TaskPlant::new(environment, 1), &contract, hash, fault, TICKS).unwrap()
    })
}

/// One fault after another, worst first in the table.
fn table(name: &str, results: &[(Fault, Outcome)]) {
    println!(
        "{name}: channel, fault, detected after, fell back after (ticks), cause, state, fastest, furthest out"
    );
    for (fault, o) in results {
        println!(
            "{:?} {:?}: {:?} {:?} {:?} {:?} {:.2} {:.3}",
            fault.channel,
            fault.kind,
            o.detected_after,
            o.fell_back_after,
            o.cause,
            o.state,
            o.fastest,
            o.furthest_out
        );
    }
    let detected = results.iter().filter(|(_, o)| o.detected_after.is_some()).count();
    println!("{detected} of {} detected", results.len());
}

#[test]
fn a_healthy_cart_pole_raises_no_alarm_and_the_same_run_twice_is_the_same() {
    let healthy = cart_pole_run(None);
    assert_eq!(
        (healthy.ticks, healthy.false_alarms, healthy.state),
        (TICKS, 0, State::Running),
        "{healthy:?}"
    );
    assert!(healthy.limits_held(), "{:?}", healthy.violations);
    let fault = Fault::new(Channel::JointVelocity(0), Kind::Noise, FROM, 7);
    let runs = [cart_pole_run(Some(fault)), cart_pole_run(Some(fault))];
    assert_eq!(format!("{:?}", runs[0]), format!("{:?}", runs[1]));
}

#[test]
fn limits_hold_for_every_fault_on_every_channel_of_the_cart_pole() {
    let contract = cart_pole(3).2.contract().clone();
    let results: Vec<(Fault, Outcome)> = Fault::every(&contract, FROM, 1)
        .into_iter()
        .map(|fault| (fault, cart_pole_run(Some(fault))))
        .collect();
    table("cart-pole", &results);
    for (fault, outcome) in &results {
        assert!(outcome.limits_held(), "{fault:?}: {:?}", outcome.violations);
        assert_eq!(outcome.false_alarms, 0, "{fault:?}");
        if outcome.fell_back_after.is_some() {
            assert!(matches!(outcome.state, State::Damping | State::Fault), "{fault:?}: {outcome:?}");
        }
    }
    let of = |channel, kind| {
        let found = results.iter().find(|(fault, _)| fault.channel == channel && fault.kind == kind);
        found.map(|(_, outcome)| outcome.clone()).unwrap()
    };
    assert_eq!(of(Channel::Orientation, Kind::Off).cause, Cause::InvalidState, "zeros are no quaternion");
    assert_eq!(of(Channel::Clock, Kind::Stuck).cause, Cause::SensorAge);
    assert!(of(Channel::Clock, Kind::Stuck).fell_back_after.unwrap() <= 5);
    assert_eq!(of(Channel::JointPosition(1), Kind::Stuck).cause, Cause::SensorStuck);
}

/// Observations of a healthy walk, as the network saw them.
fn recorded(
    (image, contract, robot): &(AlignedBytes, ContractSpec, std::sync::Arc<Robot>),
    command: [f32; 3],
    ticks: u64,
) -> Vec<Vec<f32>> {
    let hash = Image::parse(image).unwrap().header().schema_hash;
    let task = LocomotionTask {
        keyframe: "home".into(),
        site: "imu".into(),
        control_period_s: 0.02,
        duration_s: ticks as f32 * 0.02,
        window_s: 1.0,
    };
    let folder = std::env::temp_dir().join(format!("tendon-faults-{}-{command:?}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("walk.tnr");
    in_process(|session| {
        session.upload(image, |_| ()).unwrap();
        let mut recorder = Recorder::create(&path).unwrap();
        walk(session, robot, contract, hash, &task, &command, Some(&mut recorder)).unwrap();
        recorder.finish().unwrap();
    });
    let rows = Recording::read(&path).unwrap().observations(&contract.compile().unwrap().view());
    std::fs::remove_dir_all(&folder).unwrap();
    rows
}

#[test]
fn with_abstention_the_go1_notices_more_and_still_walks() {
    let Some(plain) = go1() else { return };
    let commands =
        [[1.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0], [-0.5, 0.2, -0.5], [0.0; 3]];
    // Every command twice, so that both the statistics and the threshold see how a walk begins.
    let twice = commands.iter().flat_map(|&command| [(command, 1000), (command, 950)]);
    let runs: Vec<Vec<Vec<f32>>> = twice.map(|(command, ticks)| recorded(&plain, command, ticks)).collect();
    let abstain = Abstain { runs: &runs, false_alarm: 2e-4, window: 5, needed: 3 };
    let onnx = std::fs::read(real().unwrap().join("go1_joystick.onnx")).unwrap();
    let text = go1_contract();
    let contract = ContractChoice::Toml { file: "go1_joystick.toml", text: &text };
    let compiled =
        compile(&onnx, &Options { contract, abstain: Some(abstain), ..Options::default() }).unwrap();
    println!("{:?}", compiled.abstention);
    let careful = (compiled.image, plain.1.clone(), plain.2.clone());

    // Commands that were not recorded.
    let (mut ticks, mut false_alarms) = (0, 0);
    for command in [[0.8, 0.0, 0.0], [0.7, 0.2, 0.0], [0.3, 0.0, 0.5], [0.0, -0.3, 0.0]] {
        let outcome = go1_run(&careful, None, command, 400);
        println!("healthy at {command:?}: {} ticks with alarms, {:?}", outcome.false_alarms, outcome.state);
        ticks += outcome.ticks;
        false_alarms += outcome.false_alarms;
    }
    println!("{false_alarms} of {ticks} healthy ticks with other commands");
    // And the recorded ones.
    for command in commands {
        let outcome = go1_run(&careful, None, command, 400);
        assert_eq!((outcome.false_alarms, outcome.state), (0, State::Running), "{command:?}: {outcome:?}");
    }
    let leg = |fault: &Fault| match fault.channel {
        Channel::JointPosition(joint) | Channel::JointVelocity(joint) | Channel::Actuator(joint) => joint < 3,
        _ => true,
    };
    let faults: Vec<Fault> = Fault::every(&plain.1, FROM, 1).into_iter().filter(leg).collect();
    let all = |go1: &(AlignedBytes, ContractSpec, std::sync::Arc<Robot>)| -> Vec<(Fault, Outcome)> {
        faults.iter().map(|&fault| (fault, go1_run(go1, Some(fault), [1.0, 0.0, 0.0], 150))).collect()
    };
    let (before, after) = (all(&plain), all(&careful));
    table("Go1 with abstention", &after);
    let noticed =
        |results: &[(Fault, Outcome)]| results.iter().filter(|(_, o)| o.fell_back_after.is_some()).count();
    let (before, after_count) = (noticed(&before), noticed(&after));
    println!("fell back: {before} without, {after_count} with abstention, of {}", faults.len());
    assert!(after_count > before);
    assert!(after.iter().all(|(_, outcome)| outcome.limits_held()));
}

fn go1_contract() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/contracts/go1_joystick.toml");
    std::fs::read_to_string(path).unwrap()
}

fn go1() -> Option<(AlignedBytes, ContractSpec, std::sync::Arc<Robot>)> {
    let folder = real()?;
    let onnx = std::fs::read(folder.join("go1_joystick.onnx")).unwrap();
    let text = go1_contract();
    let contract = ContractChoice::Toml { file: "go1_joystick.toml", text: &text };
    let image = compile(&onnx, &Options { contract, ..Options::default() }).unwrap().image;
    let contract = Manifest::of_image(&image).unwrap().contract.unwrap();
    let robot = Robot::from_file(folder.join("go1_scene_flat.xml"), RobotOptions::default()).unwrap();
    Some((image, contract, robot))
}

fn go1_run(
    (image, contract, robot): &(AlignedBytes, ContractSpec, std::sync::Arc<Robot>),
    fault: Option<Fault>,
    command: [f32; 3],
    ticks: u64,
) -> Outcome {
    let hash = Image::parse(image).unwrap().header().schema_hash;
    in_process(|session| {
        session.upload(image, |_| ()).unwrap();
        let mut plant = WalkPlant::new(robot, contract, "home", "imu", &command).unwrap();
        run(session, &mut plant as &mut dyn Plant, contract, hash, fault, ticks).unwrap()
    })
}

#[test]
fn the_walking_go1_raises_no_alarm_at_any_command() {
    let Some(go1) = go1() else { return };
    for command in [[1.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0], [0.0; 3]] {
        let outcome = go1_run(&go1, None, command, 500);
        assert_eq!((outcome.false_alarms, outcome.state), (0, State::Running), "{command:?}: {outcome:?}");
        assert!(outcome.limits_held(), "{command:?}: {:?}", outcome.violations);
    }
}

#[test]
fn limits_hold_for_faults_of_the_walking_go1() {
    let Some(go1) = go1() else { return };
    // One leg and the base; the campaign `faults` takes every channel.
    let leg = |fault: &Fault| match fault.channel {
        Channel::JointPosition(joint) | Channel::JointVelocity(joint) | Channel::Actuator(joint) => joint < 3,
        _ => true,
    };
    let faults = Fault::every(&go1.1, FROM, 1).into_iter().filter(leg);
    let results: Vec<(Fault, Outcome)> =
        faults.map(|fault| (fault, go1_run(&go1, Some(fault), [1.0, 0.0, 0.0], 150))).collect();
    table("Go1", &results);
    for (fault, outcome) in &results {
        assert!(outcome.limits_held(), "{fault:?}: {:?}", outcome.violations);
        assert_eq!(outcome.false_alarms, 0, "{fault:?}");
        let must = match (fault.channel, fault.kind) {
            (Channel::Actuator(_), _) => false,
            (_, Kind::Off | Kind::Stuck) => true,
            _ => false,
        };
        assert!(!must || outcome.fell_back_after.is_some(), "{fault:?}: {outcome:?}");
    }
}

#[test]
fn what_a_person_does_to_the_walking_go1_ends_as_promised() {
    let Some((image, contract, robot)) = go1() else { return };
    let hash = Image::parse(&image).unwrap().header().schema_hash;
    // A pulled link takes real seconds: `tendon hil --faults` shows it.
    for mishap in [Mishap::CorruptImage, Mishap::NotANumber, Mishap::FreezeSensor] {
        let scene = in_process(|session| {
            session.upload(&image, |_| ()).unwrap();
            let mut plant = WalkPlant::new(&robot, &contract, "home", "imu", &[0.5, 0.0, 0.0]).unwrap();
            let choose = |tick| (tick == 100).then_some(mishap);
            play(session, &mut plant as &mut dyn Plant, &contract, hash, &image, 120, choose, || ()).unwrap()
        });
        let scene = scene.expect("the robot walked until then");
        assert!(scene.is_as_promised(), "{mishap:?}: {:?}, {:?}", scene.moments.last(), scene.refusal);
    }
}
