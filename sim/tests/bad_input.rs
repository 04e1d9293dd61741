//! Robot files with faults: an error with file, field, value and next step; never a panic, never a hang.

use std::fs;
use std::path::PathBuf;

use tendon_sim::{LoadError, Rng, Robot, RobotOptions};

const GOOD: &str = include_str!("../../models/robots/hopper.xml");
const URDF: &str = r#"<?xml version="1.0"?><robot name="arm">
  <link name="base"><inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial></link>
  <link name="tip"><inertial><origin xyz="0 0 -0.5"/><mass value="1"/><inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial>
    <collision><origin xyz="0 0 -0.25"/><geometry><box size="0.1 0.1 0.5"/></geometry></collision></link>
  <joint name="pin" type="revolute"><parent link="base"/><child link="tip"/><axis xyz="0 1 0"/>
    <limit lower="-1" upper="1" effort="7" velocity="3"/><dynamics damping="0.4" friction="0.2"/></joint></robot>"#;

fn refused(text: &str) -> LoadError {
    match Robot::from_mjcf("bad.xml", text, RobotOptions::default()) {
        Err(error) => error,
        Ok(_) => panic!("was accepted: {text}"),
    }
}

fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the test's robot has no {from}");
    GOOD.replacen(from, to, 1)
}

#[test]
fn names_file_line_field_value_and_next_step() {
    let error = refused(&with(r#"mass="3.6""#, r#"mass="nan""#));
    let message = error.to_string();
    for part in ["bad.xml", "<geom> mass", "nan", "not a finite number", "write a finite value"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(error.line.is_some_and(|line| line > 1));
}

#[test]
fn refuses_numbers_without_physical_meaning() {
    for (from, to, field) in [
        (r#"mass="0.02" diaginertia"#, r#"mass="0" diaginertia"#, "mass"),
        (r#"mass="0.02" diaginertia"#, r#"mass="-1" diaginertia"#, "mass"),
        (r#"mass="3.6""#, r#"mass="1e300""#, "mass"),
        (r#"axis="0 0 1""#, r#"axis="0 0 0""#, "axis"),
        (r#"size="0.06""#, r#"size="-0.06""#, "size"),
        (r#"size="0.06""#, r#"size="1e-30""#, "size"),
        (r#"timestep="0.004""#, r#"timestep="0""#, "timestep"),
        (r#"range="-1.6 0.6""#, r#"range="0.6 -1.6""#, "range"),
        (r#"name="leg_joint""#, r#"name="thigh_joint""#, "<joint thigh_joint>"),
        (r#"damping="0.6""#, r#"damping="-0.6""#, "<joint"),
    ] {
        let text = with(from, to);
        let error = refused(&text);
        assert!(error.field.contains(field), "{to}: {error}");
        let line = text.lines().nth(error.line.unwrap_or(0).wrapping_sub(1) as usize).unwrap_or_default();
        // A mass is the body's, and the damping stands in a default class: the joint that has it is named.
        let place = match to {
            r#"mass="0" diaginertia"# | r#"mass="-1" diaginertia"# => "<body",
            r#"damping="-0.6""# => "<joint",
            _ => to,
        };
        assert!(line.contains(place), "{to}: {error}: {line}");
    }
}

#[test]
fn faults_of_urdf_links_and_joints_have_their_line() {
    for (from, to, line) in [
        (r#"<child link="tip"/>"#, r#"<child link="tpi"/>"#, 5),
        (r#"type="revolute""#, r#"type="floating""#, 5),
        (r#"lower="-1" upper="1""#, r#"lower="-1" upper="-1.5""#, 0),
        (r#"size="0.1 0.1 0.5""#, r#"size="0.1 0 0.5""#, 3),
        (r#"<origin xyz="0 0 -0.5"/><mass value="1"/>"#, r#"<mass value="-1"/>"#, 3),
    ] {
        assert!(URDF.contains(from), "the test's robot has no {from}");
        let result = Robot::from_urdf("arm.urdf", &URDF.replacen(from, to, 1), RobotOptions::default());
        let Err(error) = result else {
            assert_eq!(line, 0, "{to} was accepted");
            continue;
        };
        assert_eq!(error.line, Some(line), "{to}: {error}");
    }
}

#[test]
fn a_motor_of_a_joint_that_is_not_there_is_refused_on_its_line() {
    let text = with("joint=\"leg_joint\"", "joint=\"leg_jiont\"");
    let error = refused(&text);
    let line = text.lines().nth(error.line.unwrap() as usize - 1).unwrap();
    assert!(line.contains("leg_jiont") && error.to_string().contains("leg_jiont"), "{error}");
}

#[test]
fn refuses_a_robot_that_moves_no_mass() {
    let error =
        refused(r#"<mujoco><worldbody><body><joint name="j" axis="0 0 1"/></body></worldbody></mujoco>"#);
    assert!(error.problem.contains("moves no mass"), "{error}");
}

#[test]
fn refuses_entity_bombs_and_deep_nesting() {
    let bomb = r#"<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><mujoco>&b;</mujoco>"#;
    assert!(refused(bomb).field.contains("DOCTYPE"));
    let deep = format!("<mujoco>{}", "<body>".repeat(200_000));
    assert!(refused(&deep).problem.contains("nest deeper"));
}

#[test]
fn refuses_oversized_text_and_other_formats() {
    let big = format!("<mujoco>{}</mujoco>", " ".repeat(17 << 20));
    assert_eq!(refused(&big).field, "file size");
    for text in ["", "not xml", "<robot/>", "\u{0}\u{1}\u{2}", "<mujoco"] {
        refused(text);
    }
}

fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tendon-sim-{}-{name}", std::process::id()));
    for (file, text) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn includes_stay_inside_their_folder_and_cannot_loop() {
    let wrap = |file: &str| format!(r#"<mujoco><include file="{file}"/></mujoco>"#);
    let folder = folder(
        "include",
        &[
            ("robot/good.xml", &wrap("part.xml")),
            ("robot/part.xml", GOOD),
            ("robot/outside.xml", &wrap("../secret.xml")),
            ("robot/missing.xml", &wrap("nowhere.xml")),
            ("robot/loop.xml", &wrap("loop2.xml")),
            ("robot/loop2.xml", &wrap("loop.xml")),
            ("secret.xml", GOOD),
        ],
    );
    let load = |file: &str| Robot::from_file(folder.join("robot").join(file), RobotOptions::default());
    assert!(load("good.xml").is_ok());
    for (file, problem) in
        [("outside.xml", "lies outside"), ("missing.xml", "No such file"), ("loop.xml", "includes itself")]
    {
        let Err(error) = load(file) else { panic!("{file} was accepted") };
        assert!(error.problem.contains(problem), "{error}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn loads_urdf_with_the_limits_its_loader_ignores() {
    let robot = Robot::from_urdf("arm.urdf", URDF, RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let joint = &robot.joints[0];
    assert_eq!((joint.name.as_str(), joint.range), ("pin", Some([-1.0, 1.0])));
    assert_eq!((joint.damping, joint.friction_loss), (0.4, 0.2));
    assert_eq!(joint.actuator.unwrap().torque_limit, 7.0);
    assert!(robot.has_free_base());
}

#[test]
fn lists_what_it_leaves_out_by_line() {
    let text = with("<worldbody>", "<worldbody>\n<geom name=\"hull\" type=\"ellipsoid\" size=\"1 1 1\"/>");
    let robot =
        Robot::from_mjcf("hopper.xml", &text, RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(robot.unsupported.len(), 1);
    assert!(robot.unsupported[0].effect.contains("convex hull"));
    let line = robot.unsupported[0].line as usize;
    assert!(text.lines().nth(line - 1).unwrap().contains("hull"));
}

/// Every mutant either loads and steps, or gives an error. The seed of a failing one stands in the panic message.
#[test]
fn mutants_never_panic() {
    let count: u64 = std::env::var("TENDON_MUTANTS").ok().and_then(|v| v.parse().ok()).unwrap_or(600);
    let mut accepted = 0;
    for (name, source, is_urdf) in [("hopper", GOOD, false), ("arm", URDF, true)] {
        for seed in 0..count {
            let bytes = mutate(source.as_bytes(), seed);
            let text = String::from_utf8_lossy(&bytes);
            let result = std::panic::catch_unwind(|| {
                let robot = match is_urdf {
                    true => Robot::from_urdf("mutant", &text, RobotOptions::default()),
                    false => Robot::from_mjcf("mutant", &text, RobotOptions::default()),
                };
                robot.is_ok_and(|robot| {
                    let mut world = tendon_sim::World::new(robot);
                    world.step(&[], 3);
                    true
                })
            });
            accepted += u64::from(result.unwrap_or_else(|_| panic!("{name}: mutant {seed} panics")));
        }
    }
    println!("{accepted} of {} mutants load and step", 2 * count);
    assert!(accepted > count / 50, "only {accepted} mutants load: the mutator destroys too much");
}

fn mutate(source: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed, 0x6d75_7461);
    let mut bytes = source.to_vec();
    let mut below = |n: usize| (rng.next_u64() % n.max(1) as u64) as usize;
    for _ in 0..=below(3) {
        let at = below(bytes.len());
        match below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            2 if at < bytes.len() => bytes[at] = b"0123456789-.e\"<>/ "[below(18)],
            3 => {
                let end = (at + below(60)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = below(bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => {
                let end = (at + below(30)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                // A number becomes an extreme one: this reaches the physics behind the parser.
                let digits: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
                if let Some(&at) = digits.get(below(digits.len())) {
                    let extreme: &[u8] = [&b"0"[..], b"-1", b"1e9", b"1e-30", b"nan", b"99999"][below(6)];
                    bytes.splice(at..=at, extreme.iter().copied());
                }
            }
        }
    }
    bytes
}
