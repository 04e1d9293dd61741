//! `tendon doctor` against simulated servos, the stand-in and QEMU: what is wrong is found before any torque.

mod common;

use common::servo::*;
use common::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use tendon::hil::run_task;
use tendon::link::ControllerKind;
use tendon::robot::{BusKind, CalibrationFile, Simulated};
use tendon_drivers::sim::Noise;

const BOTH: [BusKind; 2] = [BusKind::Dynamixel, BusKind::Feetech];

/// Exit status, and outcome and text by check.
struct Seen {
    good: bool,
    findings: Vec<(String, String, String)>,
    text: String,
}

impl Seen {
    fn of(&self, check: &str) -> (&str, &str) {
        let found = self.findings.iter().find(|(name, ..)| name == check);
        let (_, outcome, text) = found.unwrap_or_else(|| panic!("no check {check:?} in {}", self.text));
        (outcome, text)
    }

    fn failed(&self) -> Vec<&str> {
        self.findings
            .iter()
            .filter(|(_, outcome, _)| outcome == "FAIL")
            .map(|(check, ..)| check.as_str())
            .collect()
    }
}

fn doctor(folder: &std::path::Path, arguments: &[&str], typed: &str) -> Seen {
    let json = folder.join("findings.json");
    let _ = std::fs::remove_file(&json);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tendon"));
    command.arg("doctor").args(arguments).arg("--json").arg(&json);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&json).unwrap_or(b"[]".to_vec())).unwrap();
    let field = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let findings = rows
        .iter()
        .map(|row| {
            (
                field(row, "check"),
                field(row, "outcome"),
                format!("{}; {}", field(row, "found"), field(row, "next")),
            )
        })
        .collect();
    Seen { good: out.status.success(), findings, text }
}

fn examine(robot: &Robot, file: &CalibrationFile, more: &[&str]) -> Seen {
    let path = robot.folder().join("calibration.toml");
    std::fs::write(&path, file.to_toml()).unwrap();
    let (image, path) = (robot.image().display().to_string(), path.display().to_string());
    let mut arguments = vec!["--port", robot.port(), "--policy", &image, "--calibration", &path];
    arguments.extend(more);
    let seen = doctor(robot.folder(), &arguments, "");
    assert!(!robot.had_torque(), "the doctor gives no torque");
    seen
}

#[test]
fn a_good_robot_passes_every_check_without_torque() {
    for kind in BOTH {
        let robot = Robot::start(kind);
        let seen = examine(&robot, robot.calibration(), &["--at-default"]);
        assert!(seen.good && seen.failed().is_empty(), "{kind:?}: {}", seen.text);
        for check in
            ["servos on the bus", "joint order", "positions within limits", "calibration drift", "readings"]
        {
            assert_eq!(seen.of(check).0, "OK", "{kind:?} {check}: {}", seen.text);
        }
    }
}

#[test]
fn a_slipped_horn_is_drift_in_the_default_pose_and_out_of_range_when_it_is_large() {
    let robot =
        Robot::start_with(BusKind::Dynamixel, &Simulated { slipped: Some((2, 0.3)), ..Simulated::default() });
    let seen = examine(&robot, robot.calibration(), &["--at-default"]);
    assert!(!seen.good && seen.failed() == ["calibration drift"], "{}", seen.text);
    assert!(seen.of("calibration drift").1.contains("elbow_flex"), "{}", seen.text);
    // Nobody said that it stands in its default pose: then it may just stand elsewhere.
    let seen = examine(&robot, robot.calibration(), &[]);
    assert!(seen.good && seen.of("near the default pose").0 == "WARN", "{}", seen.text);
    drop(robot);
    let robot =
        Robot::start_with(BusKind::Feetech, &Simulated { slipped: Some((2, -1.8)), ..Simulated::default() });
    let seen = examine(&robot, robot.calibration(), &[]);
    assert!(seen.failed() == ["positions within limits"], "{}", seen.text);
}

#[test]
fn a_missing_servo_an_overload_and_a_bad_line_are_named() {
    for kind in BOTH {
        let robot = Robot::start_with(kind, &Simulated { missing: Some(3), ..Simulated::default() });
        let seen = examine(&robot, robot.calibration(), &[]);
        assert!(
            !seen.good && seen.of("servos on the bus").1.contains("missing wrist_flex (id 4)"),
            "{}",
            seen.text
        );

        drop(robot);
        let robot = Robot::start_with(kind, &Simulated { overload: Some(1), ..Simulated::default() });
        let seen = examine(&robot, robot.calibration(), &[]);
        assert!(seen.of("servo errors").1.contains("shoulder_lift: overload"), "{}", seen.text);

        drop(robot);
        let robot = Robot::start(kind);
        robot.change(|bus| bus.noise = Noise { drop: 1e-3, flip: 1e-3, insert: 0.0 });
        let seen = examine(&robot, robot.calibration(), &[]);
        assert_ne!(seen.of("readings").0, "OK", "{}", seen.text);
    }
}

#[test]
fn a_calibration_of_another_robot_or_another_order_fails() {
    let robot = Robot::start(BusKind::Dynamixel);
    let mut file = robot.calibration().clone();
    file.joints.swap(1, 2);
    assert_eq!(examine(&robot, &file, &[]).failed(), ["joint order"]);
    let mut file = robot.calibration().clone();
    file.robot = "other".into();
    assert_eq!(examine(&robot, &file, &[]).failed(), ["joint order"]);
}

#[test]
fn a_port_that_is_not_there_fails_with_a_next_step() {
    let folder = std::env::temp_dir();
    let seen = doctor(&folder, &["--port", "/dev/ttyUSB77"], "");
    assert!(!seen.good && seen.of("port /dev/ttyUSB77").1.contains("check the cable"), "{}", seen.text);
}

#[test]
fn a_written_calibration_is_the_mounting_and_passes() {
    for kind in BOTH {
        let robot = Robot::start_with(kind, &Simulated { slipped: Some((4, 0.4)), ..Simulated::default() });
        let path = robot.folder().join("measured.toml").display().to_string();
        let image = robot.image().display().to_string();
        let bus = if kind == BusKind::Dynamixel { "dynamixel" } else { "feetech" };
        // Signs come from the old file, zero offsets from the pose.
        let old = robot.folder().join("old.toml");
        std::fs::write(&old, robot.calibration().to_toml()).unwrap();
        let old = old.display().to_string();
        let arguments = [
            "--port",
            robot.port(),
            "--bus",
            bus,
            "--policy",
            &image,
            "--calibration",
            &old,
            "--write-calibration",
            &path,
        ];
        let seen = doctor(robot.folder(), &arguments, "");
        assert!(seen.good, "{kind:?}: {}", seen.text);
        let measured = CalibrationFile::read(path.as_ref()).unwrap();
        let truth = robot.calibration();
        for (index, (found, joint)) in measured.joints.iter().zip(&truth.joints).enumerate() {
            let slip = if index == 4 { 0.4 } else { 0.0 };
            // The robot stands 0.05 rad beside its default pose.
            let zero = joint.zero_offset_rad + slip + f32::from(joint.sign) * 0.05;
            assert!((found.zero_offset_rad - zero).abs() < 0.01, "{kind:?} {index}: {found:?}");
        }
        let seen = examine(&robot, &measured, &["--at-default"]);
        assert!(seen.good && seen.of("calibration drift").0 == "OK", "{}", seen.text);
    }
}

#[test]
fn a_controller_is_examined_before_and_after_it_has_seen_a_robot() {
    for kind in [ControllerKind::StandIn, ControllerKind::Qemu] {
        let Some(controller) = start(kind) else { continue };
        let folder = std::env::temp_dir().join(format!("tendon-doctor-{}-{kind:?}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (image, schema, mut environment) = cart_pole(3);
        let policy = folder.join("policy.tnd");
        std::fs::write(&policy, &image[..]).unwrap();
        let policy = policy.display().to_string();
        let arguments = ["--port", controller.port(), "--policy", &policy];
        let seen = doctor(&folder, &arguments, "");
        assert!(seen.good && seen.of("versions").0 == "OK", "{kind:?}: {}", seen.text);
        assert_eq!(seen.of("image").0, "WARN", "none was sent");
        assert_eq!(seen.of("state").0, "OK");
        assert!(seen.of("keys").1.contains("unsigned images are taken"), "{}", seen.text);

        let mut session = open(&controller);
        session.upload(&image, |_| ()).unwrap();
        run_task(&mut session, &mut environment, schema, 7, 20, None, |_, _| ()).unwrap();
        drop(session);
        let seen = doctor(&folder, &arguments, "");
        assert_eq!(seen.of("image").0, "OK", "{kind:?}: {}", seen.text);

        // Another robot's policy.
        let (other, ..) = arm();
        let path = folder.join("arm.tnd");
        std::fs::write(&path, &other[..]).unwrap();
        let seen =
            doctor(&folder, &["--port", controller.port(), "--policy", &path.display().to_string()], "");
        assert!(!seen.good && seen.failed() == ["image"], "{kind:?}: {}", seen.text);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_person_s_hands_find_the_joint_that_is_mounted_the_other_way() {
    let robot =
        Robot::start_with(BusKind::Dynamixel, &Simulated { reversed: Some(2), ..Simulated::default() });
    let path = robot.folder().join("calibration.toml");
    std::fs::write(&path, robot.calibration().to_toml()).unwrap();
    let json = robot.folder().join("findings.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tendon"));
    command.args(["doctor", "--interactive", "--port", robot.port(), "--policy"]).arg(robot.image());
    command.arg("--calibration").arg(path).arg("--json").arg(&json);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for joint in 0..6 {
        let mut shown = Vec::new();
        while !shown.ends_with(b"stop): ") {
            let mut byte = [0];
            screen.read_exact(&mut byte).unwrap();
            shown.push(byte[0]);
        }
        robot.change(move |bus| {
            let [position, ..] = bus.robot.joint(joint);
            bus.robot.place(joint, position + 0.35);
        });
        keys.write_all(b"\n").unwrap();
    }
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert!(!child.wait().unwrap().success(), "{rest}");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let by_hand: Vec<&str> = rows
        .iter()
        .filter(|row| row["check"].as_str().unwrap().ends_with("by hand"))
        .map(|row| row["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(by_hand, ["OK", "OK", "FAIL", "OK", "OK", "OK"], "{rest}");
    assert!(rest.contains("turn this joint's sign"), "{rest}");
    assert!(!robot.had_torque());
}
