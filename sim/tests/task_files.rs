//! Task files: what is refused and how, what is drawn for an episode, what happens to a simulation that diverges.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{rewritten, start};
use tendon_sim::tasks::{TASKS, TaskDefinition, TaskEnvironment, cards, find};
use tendon_sim::{Environment, Rng, VecEnv};

fn changed(task: &str, from: &str, to: &str) -> Result<Arc<TaskDefinition>, String> {
    rewritten(task, |text| {
        assert!(text.contains(from), "{task} has no {from}");
        text.replacen(from, to, 1)
    })
}

#[test]
fn a_wrong_name_is_refused_with_the_nearest_one() {
    for (task, from, to, expected) in [
        ("hopper", "term = \"torques\"", "term = \"torqes\"", "did you mean \"torques\"?"),
        ("hopper", "base = \"torso\"", "base = \"torsoo\"", "did you mean \"torso\"?"),
        ("hopper", "names = [\"leg_joint\"]", "names = [\"leg_jiont\"]", "did you mean \"leg_joint\"?"),
        ("reacher", "site = \"fingertip\"", "site = \"fingertop\"", "did you mean \"fingertip\"?"),
        ("quadruped", "keyframe = \"home\"", "keyframe = \"hom\"", "did you mean \"home\"?"),
        ("quadruped", "action_delay_s", "action_dely_s", "did you mean `action_delay_s`?"),
        (
            "quadruped",
            "signal = \"projected_gravity\"",
            "signal = \"projected_gravitty\"",
            "did you mean `projected_gravity`?",
        ),
        ("hopper", "mode = \"position\"", "mode = \"positon\"", "did you mean `position`?"),
    ] {
        let Err(error) = changed(task, from, to) else { panic!("{to} was accepted") };
        assert!(error.contains("my.toml") && error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn numbers_without_meaning_are_refused() {
    for (task, from, to, expected) in [
        (
            "hopper",
            "base = \"torso\"",
            "base = \"torso\"\ncontrol_period_s = 0.0113",
            "no multiple of the physics step",
        ),
        ("hopper", "base = \"torso\"", "base = \"torso\"\ntime_limit_s = -1.0", "time_limit_s is -1"),
        ("hopper", "base = \"torso\"", "base = \"torso\"\ntime_limit_s = nan", "time_limit_s is NaN"),
        ("hopper", "{ term = \"alive\", weight = 0.5 }", "{ term = \"alive\" }", "has no weight"),
        ("hopper", "below = 0.75", "for_s = 1.0", "has no condition"),
        ("hopper", "target = 1.5", "target = inf", "give finite numbers"),
        ("quadruped", "friction = [0.6, 1.25]", "friction = [1.25, 0.6]", "the lower first"),
        ("quadruped", "action_delay_s = [0.0, 0.01]", "action_delay_s = [0.0, 9.0]", "shorten it"),
        ("quadruped", "push_interval_s = 8.0", "push_interval_s = 8.0\naction_loss = 1.5", "give a share"),
        ("planar-sweep", "size = [8, 8]", "size = [9223372036854775807, 8]", "pixels: give 1 to 512 a side"),
        ("planar-sweep", "field_of_view = 0.5829", "field_of_view = nan", "camera.field_of_view is NaN"),
        ("carry-together", "mass = 70.0", "mass = 0.0", "partner.mass is 0"),
        ("reacher", "axis = 0", "axis = 7", "give 0, 1 or 2"),
        (
            "hopper",
            "feet = [\"foot\"]",
            "feet = [\"foot\"]\nsensors = [{ term = \"target_distance\" }]",
            "needs two or three commands",
        ),
    ] {
        let Err(error) = changed(task, from, to) else { panic!("{to} was accepted") };
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn faults_behind_the_syntax_have_their_line() {
    for (task, from, to) in [
        ("hopper", "term = \"torques\"", "term = \"torqes\""),
        ("hopper", "base = \"torso\"", "base = \"torsoo\""),
        ("hopper", "names = [\"leg_joint\"]", "names = [\"leg_jiont\"]"),
        ("hopper", "{ term = \"alive\", weight = 0.5 }", "{ term = \"alive\" }"),
        ("hopper", "below = 0.75", "for_s = 1.0"),
        ("hopper", "target = 1.5", "target = inf"),
        ("reacher", "site = \"fingertip\"", "site = \"fingertop\""),
        ("reacher", "axis = 0", "axis = 7"),
        ("quadruped", "keyframe = \"home\"", "keyframe = \"hom\""),
        ("quadruped", "friction = [0.6, 1.25]", "friction = [1.25, 0.6]"),
        ("quadruped", "push_interval_s = 8.0", "action_loss = 1.5"),
        ("planar-sweep", "field_of_view = 0.5829", "field_of_view = nan"),
        ("carry-together", "mass = 70.0", "mass = 0.0"),
    ] {
        let Err(error) = changed(task, from, to) else { panic!("{to} was accepted") };
        let line = error.strip_prefix("my.toml:").and_then(|rest| rest.split_once(':')?.0.parse().ok());
        let line: usize = line.unwrap_or_else(|| panic!("{to}: no line: {error}"));
        let text = find(task).unwrap().text.replacen(from, to, 1);
        assert!(text.lines().nth(line - 1).unwrap_or_default().contains(to), "{to}: {error}");
    }
}

/// A field that an observation term is copied into the contract with is found in the file again.
#[test]
fn a_fault_of_the_contract_has_its_line_in_the_task_file() {
    let Err(error) = changed("hopper", "elements = [1, 5]", "elements = [1, 99]") else { panic!("accepted") };
    assert!(error.starts_with("my.toml:23: observations[0].elements"), "{error}");
}

#[test]
fn the_draws_of_an_episode_come_from_its_seed_and_are_recorded() {
    let mut env = find("quadruped").unwrap().make().unwrap();
    start(&mut env, 5);
    let first = env.draws().to_vec();
    start(&mut env, 6);
    assert_ne!(env.draws(), first);
    start(&mut env, 5);
    assert_eq!(env.draws(), first);
    for name in
        ["friction", "added_mass", "base_com", "kp_factor", "kd_factor", "motor_strength", "action_delay_s"]
    {
        assert!(first.iter().any(|d| d.name == name), "{name} was not recorded");
    }
    let mut observation = vec![0.0; env.observation_len()];
    let action = vec![3.0; env.action_len()];
    while env.last_episode().is_none() {
        env.step(&action, &mut observation);
    }
    assert_eq!(env.last_episode().unwrap().draws[..first.len()], first);
}

#[test]
fn draws_fill_their_ranges_evenly() {
    let mut env = find("quadruped").unwrap().make().unwrap();
    let mut values = Vec::new();
    for seed in 0..400 {
        start(&mut env, seed);
        values.push(env.draws().iter().find(|d| d.name == "friction").unwrap().value);
    }
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
    assert!(values.iter().all(|v| (0.6..1.25).contains(v)));
    // Of an even density: standard deviation 0.188, of the mean of 400 draws 0.0094.
    assert!((mean - 0.925).abs() < 0.03, "mean {mean}");
    assert!((variance.sqrt() - 0.65 / 12f32.sqrt()).abs() < 0.02, "deviation {}", variance.sqrt());
}

#[test]
fn a_push_sets_the_velocity_of_the_base() {
    let task = changed("quadruped", "push_interval_s = 8.0", "push_interval_s = 0.2").unwrap();
    let mut env = task.make().unwrap();
    let mut observation = start(&mut env, 3);
    let action = vec![0.0; env.action_len()];
    for _ in 0..10 {
        env.step(&action, &mut observation);
    }
    let push: Vec<f32> = env.draws().iter().filter(|d| d.name == "push_vel_xy").map(|d| d.value).collect();
    // Set at the base's origin, read at its centre of mass: a turning base differs a little.
    let velocity = env.world().base_velocity();
    assert_eq!(push.len(), 2);
    assert!(
        (velocity[0] - push[0]).abs() < 0.02 && (velocity[1] - push[1]).abs() < 0.02,
        "{velocity:?} {push:?}"
    );
}

#[test]
fn added_mass_weighs_what_was_drawn() {
    let task = changed("quadruped", "added_mass = [-1.0, 1.0]", "added_mass = [1.0, 1.0]").unwrap();
    let mut env = task.make().unwrap();
    let trunk = env.world().robot().body("trunk").unwrap().clone();
    start(&mut env, 1);
    assert!((env.world().body_mass(&trunk) - 7.4).abs() < 1e-3, "{} kg", env.world().body_mass(&trunk));
}

#[test]
fn a_delayed_command_arrives_later() {
    let angle = |delay: &str| {
        let task = changed(
            "quadruped",
            "action_delay_s = [0.0, 0.01]",
            &format!("action_delay_s = [{delay}, {delay}]"),
        )
        .unwrap();
        let mut env = task.make().unwrap();
        let mut observation = start(&mut env, 1);
        env.step(&vec![0.0; env.action_len()], &mut observation);
        env.step(&vec![2.0; env.action_len()], &mut observation);
        env.world().joint_position(2)
    };
    let (now, later) = (angle("0.0"), angle("0.02"));
    assert!((now - later).abs() > 0.02, "{now} rad at once, {later} rad with a period's delay");
}

/// A servo a thousand times too stiff for the physics step.
#[test]
fn a_diverging_simulation_is_cut_counted_and_never_seen() {
    let info = find("hopper").unwrap();
    let text = info.text.replace("kp = 90.0, kd = 2.7", "kp = 1e9, kd = 1e7, torque_limit = 1e9");
    let task =
        TaskDefinition::from_text(Path::new("stiff.toml"), &text, info.robot_file, info.robot).unwrap();
    let mut envs = VecEnv::new(vec![task.make().unwrap(), task.make().unwrap()], 1, 3).unwrap();
    let mut cut = 0;
    for step in 0..400 {
        let actions = [if step % 2 == 0 { 1.0 } else { -1.0 }; 6];
        let batch = envs.step(&actions);
        assert!(
            batch
                .observations
                .iter()
                .chain(&batch.final_observations)
                .chain(&batch.rewards)
                .all(|v| v.is_finite())
        );
        cut += batch.truncated.iter().filter(|t| **t).count();
    }
    let counted: u64 = envs.environments().map(TaskEnvironment::divergences).sum();
    assert!(counted > 0 && counted <= cut as u64, "{counted} divergences of {cut} cuts");
}

#[test]
fn privileged_observations_are_given_beside_the_others() {
    let task = find("quadruped").unwrap().definition().unwrap();
    let mut envs = VecEnv::new(vec![task.make().unwrap(), task.make().unwrap()], 2, 3).unwrap();
    let n = envs.environments().next().unwrap().privileged_len();
    let batch = envs.step(&[0.0; 2 * 12]);
    assert_eq!(batch.privileged.len(), 2 * n);
    assert!(
        batch.privileged.iter().all(|v| v.is_finite()) && batch.privileged[9] > 0.1,
        "height of the base"
    );
}

#[test]
fn standing_robots_stand() {
    for (name, height) in [("quadruped", 0.22), ("humanoid-stand", 0.7)] {
        let info = find(name).unwrap();
        // The file's robot without pushes, noise and draws.
        let text = info.text.split("[randomisation]").next().unwrap();
        let task =
            TaskDefinition::from_text(Path::new("still.toml"), text, info.robot_file, info.robot).unwrap();
        let mut env = task.make().unwrap();
        let mut observation = start(&mut env, 1);
        let action = vec![0.0; env.action_len()];
        for step in 0..100 {
            assert!(!env.step(&action, &mut observation).terminated, "{name} falls within {step} steps");
        }
        let z = env.world().base_pose().0[2];
        assert!(z > height, "{name}: base at {z} m");
    }
}

#[test]
fn docs_tasks_md_is_what_the_tasks_say() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tasks.md");
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(written, cards().unwrap(), "run: cargo run --release -p tendon-sim --example cards -- docs");
    for task in TASKS {
        let picture = format!("{}/../docs/tasks/{}.png", env!("CARGO_MANIFEST_DIR"), task.name);
        assert!(Path::new(&picture).exists(), "{picture} is missing");
    }
}

#[test]
fn an_easy_level_draws_commands_from_a_part_of_their_ranges() {
    let mut env = find("quadruped").unwrap().make().unwrap();
    let fastest = |env: &mut TaskEnvironment| {
        let draw = |seed| {
            start(env, seed);
            env.command()[0].abs()
        };
        (0..200).map(draw).fold(0.0, f32::max)
    };
    assert!(fastest(&mut env) > 0.9);
    env.set_level(0.0);
    assert!(fastest(&mut env) <= 0.5);
}

/// Bytes of a task file destroyed at random: an error or a task, never a panic.
#[test]
fn damaged_task_files_never_panic() {
    let info = find("quadruped").unwrap();
    let mut accepted = 0;
    for seed in 0..2000 {
        let mut rng = Rng::new(seed, 1);
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        let mut bytes = info.text.as_bytes().to_vec();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            match below(3) {
                0 => bytes[at] = b"0123456789-.e\"[]{}=\n"[below(20)],
                1 => drop(bytes.drain(at..(at + 1 + below(20)).min(bytes.len()))),
                _ => drop(bytes.splice(at..at, b"1e30".iter().copied())),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        accepted += u32::from(
            TaskDefinition::from_text(Path::new("mutant.toml"), &text, info.robot_file, info.robot).is_ok(),
        );
    }
    println!("{accepted} of 2000 damaged task files are tasks");
}
