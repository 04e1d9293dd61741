//! Google's Go1 policy on every controller.

mod common;

use common::*;
use tendon::link::{ControllerKind, Session, Transport};
use tendon::walk::walk;
use tendon_compiler::parity::{ImageRunner, TOLERANCE, compare, compare_recorded, output_labels};
use tendon_compiler::trace::Trace;
use tendon_compiler::{ContractChoice, Manifest, Options, compile};
use tendon_runtime::{AlignedBytes, Image};
use tendon_sim::{LocomotionMetrics, LocomotionTask, Robot, RobotOptions};

const CONTRACT: &str = include_str!("../../models/contracts/go1_joystick.toml");

fn go1() -> Option<(AlignedBytes, std::path::PathBuf)> {
    let folder = real()?;
    let onnx = std::fs::read(folder.join("go1_joystick.onnx")).unwrap();
    let contract = ContractChoice::Toml { file: "go1_joystick.toml", text: CONTRACT };
    Some((compile(&onnx, &Options { contract, ..Options::default() }).unwrap().image, folder))
}

fn walks<T: Transport>(
    session: &mut Session<T>,
    image: &AlignedBytes,
    folder: &std::path::Path,
    seconds: f32,
    commands: &[[f32; 3]],
) -> Vec<LocomotionMetrics> {
    let robot = Robot::from_file(folder.join("go1_scene_flat.xml"), RobotOptions::default()).unwrap();
    let contract = Manifest::of_image(image).unwrap().contract.unwrap();
    let hash = Image::parse(image).unwrap().header().schema_hash;
    let task = LocomotionTask {
        keyframe: "home".into(),
        site: "imu".into(),
        control_period_s: 0.02,
        duration_s: seconds,
        window_s: seconds / 2.0,
    };
    let mut one =
        |command: &[f32; 3]| walk(session, &robot, &contract, hash, &task, command, None).unwrap().0;
    commands.iter().map(&mut one).collect()
}

#[test]
fn the_go1_tracks_every_command_in_rapier_under_the_runtime() {
    // Command, and what MuJoCo 4.0.0 does with it: ../shared/real/README.md.
    const MUJOCO: [([f32; 3], [f32; 3]); 5] = [
        ([1.0, 0.0, 0.0], [1.023, 0.014, 0.000]),
        ([0.5, 0.0, 0.0], [0.509, 0.015, 0.011]),
        ([0.0, 0.4, 0.0], [0.016, 0.366, 0.036]),
        ([0.0, 0.0, 1.0], [0.027, 0.037, 0.842]),
        ([0.0, 0.0, 0.0], [0.000, 0.000, 0.000]),
    ];
    let Some((image, folder)) = go1() else { return };
    let runs = in_process(|session| {
        session.upload(&image, |_| ()).unwrap();
        walks(session, &image, &folder, 10.0, &MUJOCO.map(|(command, _)| command))
    });
    assert!((0.9..=1.1).contains(&runs[0].mean_velocity[0]), "{:?}", runs[0]);
    for ((command, mujoco), run) in MUJOCO.iter().zip(&runs) {
        let measured = [run.mean_velocity[0], run.mean_velocity[1], run.mean_yaw_rate];
        assert_eq!(run.steps, 500, "fell or diverged at {command:?}");
        assert!(run.lowest_height > 0.26, "{command:?}: lowest height {}", run.lowest_height);
        for axis in 0..3 {
            let off = (measured[axis] - mujoco[axis]).abs();
            // 15% of MuJoCo's figure on the axis that is commanded; the others are near zero in both.
            let allowed = if command[axis] == 0.0 { 0.05 } else { 0.15 * mujoco[axis].abs() };
            assert!(off <= allowed, "{command:?} axis {axis}: {} against {}", measured[axis], mujoco[axis]);
        }
    }
}

#[test]
fn the_firmware_runs_the_go1_bit_for_bit_like_the_host() {
    let Some((image, folder)) = go1() else { return };
    let Some(controller) = start(ControllerKind::Qemu) else { return };
    let mut session = open(&controller);
    session.upload(&image, |_| ()).unwrap();

    let trace = std::fs::File::open(folder.join("go1_trace_forward.csv")).unwrap();
    let trace = Trace::read(trace, 48, 12).unwrap();
    assert_eq!(trace.observations.len(), 500);
    let labels = output_labels(12, None);
    let mut host = ImageRunner::new(&image).unwrap();
    let mut qemu = |input: &[f32]| session.infer(input).map(|(output, _)| output);
    let inputs = &trace.observations;
    let recorded = compare_recorded(inputs, &trace.actions, &labels, TOLERANCE, &mut qemu).unwrap();
    assert!(recorded.passed(), "{recorded}");
    let same = compare(inputs, &labels, 0.0, |input| host.run(input), &mut qemu).unwrap();
    assert!(same.passed(), "{same}");

    let command = [[1.0, 0.0, 0.0]];
    let here = in_process(|session| {
        session.upload(&image, |_| ()).unwrap();
        walks(session, &image, &folder, 10.0, &command)
    });
    let there = walks(&mut session, &image, &folder, 10.0, &command);
    assert_eq!(here, there);
    println!("hash {:016x}, {:?}", here[0].hash, here[0].mean_velocity);
}
