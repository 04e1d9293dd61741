//! Robots on terrain: they start on the ground and stay above it, and the level follows how episodes end.

use std::path::Path;
use std::sync::Arc;

use tendon_sim::tasks::{TaskDefinition, TaskEnvironment, find};
use tendon_sim::{Engine, Environment, JointCommand, Robot, RobotOptions, Terrain, World};

fn only(task: &str, proportions: &str) -> Arc<TaskDefinition> {
    let info = find(task).unwrap();
    // Without pushes, noise and draws.
    let text = info.text.split("[randomisation]").next().unwrap();
    let line = text.lines().find(|l| l.starts_with("terrain_proportions")).unwrap();
    let text = text.replace(line, &format!("terrain_proportions = {{ {proportions} }}"));
    TaskDefinition::from_text(Path::new("my.toml"), &text, info.robot_file, info.robot).unwrap()
}

fn start(env: &mut TaskEnvironment, seed: u64) {
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(seed, &mut observation);
}

/// A ball that falls from 0.3 m above the ground, with each engine; where it is after 2 s.
fn drop_ball(ground: &Terrain, x: f32, y: f32) -> [[f32; 3]; 2] {
    let text = r#"<mujoco><option timestep="0.002"/><worldbody><geom type="plane" size="1 1 1"/>
      <body name="ball" pos="0 0 1"><freejoint/><geom type="sphere" size="0.05" mass="1" friction="1"/></body></worldbody></mujoco>"#;
    [Engine::Reduced, Engine::Rapier].map(|engine| {
        let options = RobotOptions { terrain_friction: Some(1.0), engine, ..RobotOptions::default() };
        let mut world = World::new(Robot::from_mjcf("ball.xml", text, options).unwrap());
        world.set_terrain(ground);
        world.set_base_pose([x, y, ground.height(x, y) + 0.35], [1.0, 0.0, 0.0, 0.0]);
        world.step(&[] as &[JointCommand], 1000);
        world.base_pose().0
    })
}

#[test]
fn a_ball_comes_to_rest_on_level_ground_at_its_height_with_both_engines() {
    let line: Vec<f32> = (0..81).map(|i| if i <= 40 { 0.0 } else { 0.2 }).collect();
    let step = Terrain::new(&line.repeat(81), 81, [4.0, 4.0]).unwrap();
    for (x, height) in [(-1.0, 0.0), (1.0, 0.2)] {
        for (engine, [at, _, z]) in ["reduced", "rapier"].iter().zip(drop_ball(&step, x, 0.3)) {
            assert!((at - x).abs() < 0.02, "{engine}: it rolled to {at}");
            assert!((z - height - 0.05).abs() < 0.004, "{engine}: its middle is at {z} over {height}");
        }
    }
}

#[test]
fn a_ball_rolls_down_a_slope_as_fast_as_on_a_tilted_plane() {
    let slope = 0.2f32;
    let line: Vec<f32> = (0..401).map(|i| -slope * (0.1 * i as f32 - 20.0)).collect();
    let hill = Terrain::new(&line.repeat(401), 401, [40.0, 40.0]).unwrap();
    let angle = slope.atan();
    for (engine, [x, _, z]) in ["reduced", "rapier"].iter().zip(drop_ball(&hill, 0.0, 0.03)) {
        // It falls for 0.25 s and lands without a bounce; what is left along the slope goes on rolling, where 5/7 of
        // each push moves and the rest turns.
        let fall = (2.0f32 * 0.3 / 9.81).sqrt();
        let (landing, time) = (9.81 * fall * angle.sin(), 2.0 - fall);
        let expected = 5.0 / 7.0 * (landing * time + 0.5 * 9.81 * angle.sin() * time * time) * angle.cos();
        assert!((x - expected).abs() < 0.05 * expected, "{engine}: {x} m for {expected} m");
        assert!((z - hill.height(x, 0.0)) * angle.cos() > 0.045, "{engine}: it sank in: {z}");
    }
}

#[test]
fn robots_start_on_the_ground_and_stand_there_on_every_kind() {
    for (task, kind) in [
        ("quadruped-rough", "flat"),
        ("quadruped-rough", "slope"),
        ("quadruped-rough", "rough_slope"),
        ("quadruped-rough", "rough"),
        ("quadruped-rough", "discrete"),
        ("quadruped-stairs", "stairs_up"),
        ("quadruped-stairs", "stairs_down"),
    ] {
        let mut env = only(task, &format!("{kind} = 1.0")).make().unwrap();
        let mut observation = vec![0.0; env.observation_len()];
        let action = vec![0.0; env.action_len()];
        for seed in 0..6 {
            env.reset(seed, &mut observation);
            assert!(env.draws().iter().any(|d| d.name == kind), "{:?}", env.draws());
            for step in 0..100 {
                let end = env.step(&action, &mut observation);
                assert!(!end.terminated, "{kind}, seed {seed}: falls within {step} steps");
            }
            let [x, y, z] = env.world().base_pose().0;
            let height = z - env.world().ground(x, y);
            assert!((0.2..0.40).contains(&height), "{kind}, seed {seed}: base {height} m above the ground");
        }
    }
}

#[test]
fn terrain_is_drawn_from_the_seed() {
    let mut env = find("quadruped-rough").unwrap().make().unwrap();
    let mut heights = |seed| {
        start(&mut env, seed);
        (0..50).map(|i| env.world().ground(0.1 * i as f32 - 2.5, 1.7)).collect::<Vec<_>>()
    };
    let first = heights(1);
    assert_ne!(heights(2), first);
    assert_eq!(heights(1), first);
}

#[test]
fn a_base_that_leaves_its_tile_is_cut_and_not_ended_by_rule() {
    let info = find("quadruped-rough").unwrap();
    let text =
        info.text.replace("[terrain]", "[terrain]\nterrain_length = 1.0\nplatform_size = 0.5\nstart = 0.49");
    let text = text.replace("linear_velocity = [-0.2, 0.2]", "linear_velocity = [2.0, 2.0]");
    let task = TaskDefinition::from_text(Path::new("my.toml"), &text, info.robot_file, info.robot).unwrap();
    let mut env = task.make().unwrap();
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(1, &mut observation);
    let action = vec![0.0; env.action_len()];
    let end =
        (0..200).map(|_| env.step(&action, &mut observation)).find(|s| s.terminated || s.truncated).unwrap();
    assert!(end.truncated && !end.terminated, "{:?}", env.last_episode());
    assert_eq!(env.last_episode().unwrap().ended_by.as_deref(), Some("terrain_out_of_bounds"));
}

#[test]
fn the_height_scan_sees_the_stairs_ahead_in_the_heading_of_the_base() {
    let mut env = only("quadruped-stairs", "stairs_up = 1.0").make().unwrap();
    let mut observation = vec![0.0; env.observation_len()];
    let first = env.observation_len() - 63;
    let mut seen = 0;
    for seed in 0..40 {
        env.set_level(1.0);
        env.reset(seed, &mut observation);
        let ([x, y, z], [w, i, j, k]) = env.world().base_pose();
        let yaw = (2.0 * (w * k + i * j)).atan2(1.0 - 2.0 * (j * j + k * k));
        for (index, &value) in observation[first..].iter().enumerate() {
            let (along, left) = (-0.45 + 0.15 * (index / 7) as f32, -0.6 + 0.2 * (index % 7) as f32);
            let at = [x + yaw.cos() * along - yaw.sin() * left, y + yaw.sin() * along + yaw.cos() * left];
            let expected = 2.5 * (z - env.world().ground(at[0], at[1]) - 0.3).clamp(-1.0, 1.0);
            // A point beside a riser may fall on either of its sides.
            seen += u32::from((value - expected).abs() < 1e-3);
        }
    }
    assert!(seen > 40 * 63 * 99 / 100, "{seen} of {} points are where they should be", 40 * 63);
}

/// Levels over episodes of a task whose rule for going up or down holds at once.
fn levels(promote: &str, demote: &str) -> Vec<f32> {
    let info = find("quadruped-rough").unwrap();
    let text = info
        .text
        .replace("promote = [{ term = \"displacement\", above = 3.3 }]", promote)
        .replace("demote = [{ term = \"progress\", below = 0.5 }]", demote)
        .replace("time_limit_s = 20.0", "time_limit_s = 0.1");
    let task = TaskDefinition::from_text(Path::new("my.toml"), &text, info.robot_file, info.robot).unwrap();
    let mut env = task.make().unwrap();
    env.start_curriculum();
    let mut observation = vec![0.0; env.observation_len()];
    let action = vec![0.0; env.action_len()];
    (0..14)
        .map(|seed| {
            env.reset(seed, &mut observation);
            while !env.step(&action, &mut observation).truncated {}
            env.last_episode().unwrap().level
        })
        .collect()
}

#[test]
fn levels_rise_with_success_up_to_the_hardest_and_then_are_drawn() {
    let up = levels(
        "promote = [{ term = \"alive\", above = 0.5 }]",
        "demote = [{ term = \"alive\", above = 2.0 }]",
    );
    for (episode, level) in up.iter().take(11).enumerate() {
        assert!((level - 0.1 * episode as f32).abs() < 1e-4, "{up:?}");
    }
    assert!(up[11] < 1.0 && (up[11] * 10.0).fract() > 1e-3, "drawn: {up:?}");
    let stays = levels(
        "promote = [{ term = \"alive\", above = 2.0 }]",
        "demote = [{ term = \"alive\", above = 0.5 }]",
    );
    assert!(stays.iter().all(|level| *level == 0.0), "{stays:?}");
}

#[test]
fn without_a_learner_the_level_is_the_whole_task_and_stays() {
    let mut env = find("quadruped-rough").unwrap().make().unwrap();
    let mut observation = vec![0.0; env.observation_len()];
    let action = vec![0.5; env.action_len()];
    for seed in 0..3 {
        env.reset(seed, &mut observation);
        while !matches!(env.step(&action, &mut observation), s if s.terminated || s.truncated) {}
        assert_eq!(env.last_episode().unwrap().level, 1.0);
    }
}

#[test]
fn wrong_terrain_is_refused_with_its_field() {
    let info = find("quadruped-rough").unwrap();
    for (from, to, expected) in [
        ("[terrain]", "[terrain]\nhorizontal_scale = 0.0001", "terrain.horizontal_scale is 0.0001"),
        (
            "[terrain]",
            "[terrain]\nterrain_length = 190.0\nhorizontal_scale = 0.01",
            "terrain.horizontal_scale makes 19201 x 19201 points",
        ),
        ("flat = 0.1", "flatt = 0.1", "did you mean `flat`?"),
        ("roughness = [0.01, 0.05]", "roughness = [-0.01, 0.05]", "terrain.roughness is [-0.01, 0.05]"),
        ("step = 0.1", "step = 7.0", "curriculum.step is 7"),
        ("measured_points_y = [", "measured_points_y = [nan, ", "within 100 m"),
    ] {
        assert!(info.text.contains(from), "the task has no {from}");
        let text = info.text.replacen(from, to, 1);
        let made = TaskDefinition::from_text(Path::new("my.toml"), &text, info.robot_file, info.robot);
        let Err(error) = made else { panic!("{to} was accepted") };
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    let hopper = find("hopper").unwrap();
    let text = format!("{}\n[terrain]\nterrain_proportions = {{ rough = 1.0 }}\n", hopper.text);
    let made = TaskDefinition::from_text(Path::new("my.toml"), &text, hopper.robot_file, hopper.robot);
    assert!(made.is_err_and(|e| e.to_string().contains("needs a robot with a free base")));
}
