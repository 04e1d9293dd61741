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
