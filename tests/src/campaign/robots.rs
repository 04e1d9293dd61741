//! Robot files and task files that somebody damaged: an error or a robot that moves, never a panic.

use super::images::peak_mib;
use super::parsers::{change, many, report};
use super::{Campaign, Run};
use fastrand::Rng;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tendon_sim::tasks::{TASKS, TaskDefinition};
use tendon_sim::{Environment, JointCommand, Robot, RobotOptions, World};
use tendon_wire::mutation::Check;

pub(super) const ROBOTS: Campaign =
    Campaign { name: "robots", gates: &[24], guards: &[Check::FiniteNumbers], run: robots };

const URDF: &str = r#"<?xml version="1.0"?>
<robot name="arm">
  <link name="base">
    <inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
    <collision><geometry><cylinder radius="0.1" length="0.2"/></geometry></collision>
  </link>
  <link name="tip">
    <inertial><origin xyz="0 0 -0.5"/><mass value="1"/><inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial>
    <collision><origin xyz="0 0 -0.25"/><geometry><box size="0.1 0.1 0.5"/></geometry></collision>
  </link>
  <joint name="pin" type="revolute">
    <parent link="base"/>
    <child link="tip"/>
    <axis xyz="0 1 0"/>
    <limit lower="-1" upper="1" effort="7" velocity="3"/>
    <dynamics damping="0.4" friction="0.2"/>
  </joint>
</robot>"#;

const URDF_WITH_MESH: &str = r#"<robot name="box"><link name="box">
  <inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
  <collision><geometry><mesh filename="FILE"/></geometry></collision>
  <visual><geometry><mesh filename="FILE" scale="2 2 2"/></geometry></visual></link></robot>"#;

const WITH_MESH: &str = r#"<mujoco><asset><mesh name="a" file="FILE"/></asset><worldbody>
  <geom name="floor" type="plane" size="1 1 1"/>
  <body pos="0 0 1"><freejoint/><geom name="a" type="mesh" mesh="a" condim="6"/></body></worldbody>
  <contact><pair geom1="floor" geom2="a" condim="4"/></contact></mujoco>"#;

const WITH_FIELD: &str = r#"<mujoco><asset><hfield name="a" file="field.hf" size="1 1 1 1"/></asset><worldbody>
  <geom type="hfield" hfield="a"/><body pos="0 0 1"><freejoint/><geom size="0.1" condim="4"/></body></worldbody></mujoco>"#;

/// A tetrahedron in both formats, and a height field of 2 x 2 points.
const ASSETS: [(&str, &[u8]); 3] = [
    ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"),
    (
        "a.stl",
        b"solid a\nfacet normal 0 0 -1\nouter loop\nvertex 0 0 0\nvertex 0 1 0\nvertex 1 0 0\nendloop\nendfacet\n\
          facet normal 0 -1 0\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 0 1\nendloop\nendfacet\n\
          facet normal -1 0 0\nouter loop\nvertex 0 0 0\nvertex 0 0 1\nvertex 0 1 0\nendloop\nendfacet\n\
          facet normal 1 1 1\nouter loop\nvertex 1 0 0\nvertex 0 1 0\nvertex 0 0 1\nendloop\nendfacet\nendsolid a\n",
    ),
    ("field.hf", &[2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64]),
];

/// One to three bytes changed, a part cut out or twice there.
fn damaged(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.u8(1..=3) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        let end = (at + rng.usize(..16)).min(bytes.len());
        match rng.u8(..4) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] = *rng.choice(b"0123456789-.e/ \n").unwrap_or(&b'9'),
            2 => drop(bytes.drain(at..end)),
            _ => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

/// Control periods that an accepted task runs.
const STEPS: usize = 3;

fn robots(run: &mut Run) -> Result<(), String> {
    let caught = AtomicU64::new(0);
    let total = run.amount(100_000, 4_000);
    let tally = many(run, total, 3, |rng, tally| {
        let is_urdf = rng.u8(..5) == 0;
        let source = if is_urdf { URDF } else { TASKS[rng.usize(..TASKS.len())].robot };
        let text = if rng.bool() { change(source, rng) } else { renumber(source, rng) };
        tally.one(|| {
            let options = RobotOptions::default();
            let robot = if is_urdf {
                Robot::from_urdf("mutant.urdf", &text, options)
            } else {
                Robot::from_mjcf("mutant.xml", &text, options)
            };
            match robot {
                Ok(robot) => {
                    let commands = vec![JointCommand::default(); robot.joints.len()];
                    let mut world = World::new(robot);
                    assert!(world.is_finite(), "a robot that is nowhere was loaded");
                    world.step(&commands, STEPS);
                    true
                }
                Err(error) => {
                    caught.fetch_add(
                        u64::from(error.field == "model" && error.value.is_empty()),
                        Ordering::Relaxed,
                    );
                    assert!(!error.problem.is_empty() && !error.next_step.is_empty());
                    false
                }
            }
        });
    });
    report(run, "MJCF and URDF", total, &tally);
    let caught = caught.into_inner();
    run.count("MJCF and URDF: refused as a whole by parser or engine", "files", caught as f64);

    let total = run.amount(100_000, 2_000);
    let wrong = AtomicU64::new(0);
    let tally = many(run, total, 4, |rng, tally| {
        let task = TASKS[rng.usize(..TASKS.len())];
        let text = change(task.text, rng);
        let seed = rng.u64(..);
        tally.one(|| {
            let made =
                TaskDefinition::from_text(Path::new("mutant.toml"), &text, task.robot_file, task.robot);
            let Ok(mut environment) = made.and_then(|definition| definition.make()) else { return false };
            let mut observation = vec![0.0; environment.observation_len()];
            let action = vec![0.5; environment.action_len()];
            environment.reset(seed, &mut observation);
            let mut is_finite = observation.iter().all(|v| v.is_finite());
            for _ in 0..STEPS {
                let step = environment.step(&action, &mut observation);
                is_finite &= step.reward.is_finite() && observation.iter().all(|v| v.is_finite());
                if step.terminated || step.truncated {
                    break;
                }
            }
            wrong.fetch_add(u64::from(!is_finite), Ordering::Relaxed);
            true
        });
    });
    report(run, "task files", total, &tally);
    let what = Some("an observation or a reward that is not finite".into());
    run.none("task files: what is not finite reaches a learner", "files", wrong.into_inner(), what);
    let total = run.amount(20_000, 500);
    let folders = AtomicU64::new(0);
    let tally = many(run, total, 5, |rng, tally| {
        let folder = std::env::temp_dir().join(format!(
            "tendon-robots-{}-{}",
            std::process::id(),
            folders.fetch_add(1, Ordering::Relaxed)
        ));
        let (file, bytes) = &ASSETS[rng.usize(..ASSETS.len())];
        let (name, text) = if rng.bool() && *file != "field.hf" {
            ("robot.urdf", URDF_WITH_MESH.replace("FILE", file))
        } else if *file == "field.hf" {
            ("robot.xml", WITH_FIELD.to_owned())
        } else {
            ("robot.xml", WITH_MESH.replace("FILE", file))
        };
        let bytes = damaged(bytes, rng);
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join(file), bytes))
            .and_then(|()| std::fs::write(folder.join(name), text));
        tally.one(|| {
            assert!(written.is_ok(), "the temporary folder cannot be written");
            let Ok(robot) = Robot::from_file(folder.join(name), RobotOptions::default()) else {
                return false;
            };
            let mut world = World::new(robot);
            world.step(&[], STEPS);
            true
        });
        let _ = std::fs::remove_dir_all(&folder);
    });
    report(run, "meshes and height fields", total, &tally);
    run.at_most("most memory of the whole campaign", "MiB", peak_mib(), 1024.0);
    Ok(())
}

/// One to three numbers of a file become extreme ones: what still parses reaches the physics behind the parser.
fn renumber(text: &str, rng: &mut Rng) -> String {
    const EXTREME: [&str; 10] = ["0", "-0.0", "-1", "1e9", "-1e9", "1e-30", "1e-8", "99999", "3.4e38", "nan"];
    let mut text = text.to_owned();
    for _ in 0..rng.u8(1..=3) {
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
        let starts: Vec<usize> = text
            .match_indices(['"', ' '])
            .map(|(at, _)| at + 1)
            .filter(|&at| text[at..].starts_with(is_part))
            .collect();
        if let Some(&at) = starts.get(rng.usize(..starts.len().max(1))) {
            let end = text[at..].find(['"', ' ']).map_or(text.len(), |length| at + length);
            text.replace_range(at..end, EXTREME[rng.usize(..EXTREME.len())]);
        }
    }
    text
}
