//! Every task: deterministic, finite, bounded in time, with rewards that add up.

use tendon_sim::tasks::{TASKS, TaskEnvironment, TaskInfo, find};
use tendon_sim::{Environment, Rng, TrajectoryHash, VecEnv};

/// FNV-1a of the observations of 1000 steps (and rewards) of 4 environments under random actions, seed 1. They change when
/// physics, robot, task or observation change: say why in CHANGELOG.md when you update them.
const GOLDEN: &[(&str, u64)] = &[
    ("cart-pole", 0x0ef72aef7cbfc7b0),
    ("cart-pole-balance", 0xc9007103f7ea2f29),
    ("reacher", 0x6058f5b1d0eb0d98),
    ("hopper", 0xa3d66b841282788c),
    ("walker", 0x5be0ad04da186307),
    ("half-cheetah", 0xa576cf2adc6aa959),
    ("quadruped", 0x674c360b7a16897e),
    ("quadruped-rough", 0x1fd88a91d721282b),
    ("quadruped-stairs", 0x4d720e0a44c79b20),
    ("humanoid-stand", 0xbe8258cf1cd92f73),
    ("humanoid-walk", 0x082bb5e9c95cad96),
    ("humanoid", 0x29012176f8c6a1f8),
    ("arm-reach", 0xe2bc14430cee44d9),
    ("arm-push", 0x33aac97980410f3a),
    ("arm-drawer", 0x14edacb6ad49dd8e),
    ("planar-sweep", 0x3bfcc2442173ac23),
    ("planar-group", 0xa9a0e99201e5619a),
    ("planar-avoid", 0xa05f36969ea0d686),
    ("social-navigation", 0x76989de9f6018caf),
    ("carry-together", 0x7c783cea83a4a7fd),
];

fn environments(task: &TaskInfo, n: usize) -> Vec<TaskEnvironment> {
    (0..n).map(|_| task.make().unwrap_or_else(|e| panic!("{}: {e}", task.name))).collect()
}

fn trajectory_hash(task: &TaskInfo, n: usize, threads: usize, seed: u64) -> u64 {
    let mut envs = VecEnv::new(environments(task, n), threads, seed).unwrap();
    let mut rng = Rng::new(seed, 2);
    let mut hash = TrajectoryHash::default();
    let mut actions = vec![0.0; n * envs.action_len()];
    hash.update(&envs.batch().observations);
    for _ in 0..1000 {
        actions.fill_with(|| rng.uniform(-1.0, 1.0));
        let batch = envs.step(&actions);
        hash.update(&batch.observations);
        hash.update(&batch.rewards);
    }
    hash.value()
}

#[test]
fn same_seed_gives_the_golden_hash_whatever_the_threads() {
    let mut found = Vec::new();
    for task in TASKS {
        let one = trajectory_hash(task, 4, 1, 1);
        assert_eq!(one, trajectory_hash(task, 4, 3, 1), "{}: threads change the trajectory", task.name);
        assert_ne!(one, trajectory_hash(task, 4, 1, 2), "{}: the seed changes nothing", task.name);
        found.push((task.name, one));
    }
    assert_eq!(GOLDEN, found, "hashes now: {found:#018x?}");
}

#[test]
fn an_environment_does_not_depend_on_its_neighbours() {
    for task in TASKS {
        let first_row = |n: usize| {
            let mut envs = VecEnv::new(environments(task, n), 2, 5).unwrap();
            let (n_act, n_obs) = (envs.action_len(), envs.observation_len());
            let mut seen = Vec::new();
            for step in 0..100 {
                let action = 0.5 * (step as f32 * 0.3).sin();
                let batch = envs.step(&vec![action; n * n_act]);
                seen.extend(batch.observations[..n_obs].iter().map(|v| v.to_bits()));
            }
            seen
        };
        assert_eq!(first_row(1), first_row(3), "{}", task.name);
    }
}

#[test]
fn reward_is_the_weighted_sum_of_its_terms_and_observations_are_finite() {
    for task in TASKS {
        let mut env = task.make().unwrap();
        let mut observation = vec![0.0; env.observation_len()];
        let mut rng = Rng::new(3, 2);
        env.reset(3, &mut observation);
        for _ in 0..500 {
            let action: Vec<f32> = (0..env.action_len()).map(|_| rng.uniform(-1.0, 1.0)).collect();
            let step = env.step(&action, &mut observation);
            let of = |ending: bool| -> f32 {
                let terms = env.reward_terms().zip(env.reward_values());
                terms.filter(|(t, _)| (t.name == "termination") == ending).map(|(t, v)| t.weight * v).sum()
            };
            // As in legged_gym: what is clipped at zero is the sum without the price of falling.
            let (sum, ending) = (of(false), of(true));
            let only_positive = task.definition().unwrap().spec().only_positive_rewards;
            let expected = if only_positive { sum.max(0.0) } else { sum } + ending;
            assert!(
                (step.reward - expected).abs() < 1e-4,
                "{}: {} is not {expected}",
                task.name,
                step.reward
            );
            assert!(
                observation.iter().all(|v| v.is_finite() && v.abs() < 50.0),
                "{}: {observation:?}",
                task.name
            );
            assert!(!(step.terminated && step.truncated), "{}: an end is one of the two", task.name);
            if step.terminated || step.truncated {
                env.reset(rng.next_u64(), &mut observation);
            }
        }
    }
}

#[test]
fn episodes_are_cut_at_their_time_limit() {
    let mut env = find("cart-pole").unwrap().make().unwrap();
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(0, &mut observation);
    for step in 1..=env.max_steps() {
        let result = env.step(&[0.0], &mut observation);
        assert_eq!(result.truncated, step == env.max_steps());
        assert!(!result.terminated);
    }
    assert_eq!(env.last_episode().unwrap().steps, 500);
}

#[test]
fn a_falling_pole_ends_balancing_by_rule() {
    let mut env = find("cart-pole-balance").unwrap().make().unwrap();
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(0, &mut observation);
    let end =
        (0..500).map(|_| env.step(&[0.0], &mut observation)).find(|s| s.terminated || s.truncated).unwrap();
    assert!(end.terminated && !end.truncated);
}

#[test]
fn nan_actions_end_no_world() {
    for task in TASKS {
        let mut env = task.make().unwrap();
        let mut observation = vec![0.0; env.observation_len()];
        env.reset(0, &mut observation);
        let action = vec![f32::NAN; env.action_len()];
        for _ in 0..20 {
            let step = env.step(&action, &mut observation);
            assert!(step.reward.is_finite() && observation.iter().all(|v| v.is_finite()), "{}", task.name);
        }
    }
}

/// Energy shaping below, linear feedback near the top (Astrom and Furuta 2000): the task can be solved within its
/// force, rail and time.
#[test]
fn cart_pole_is_solved_by_energy_shaping() {
    let mut solved = 0;
    for seed in 0..10 {
        let mut env = find("cart-pole").unwrap().make().unwrap();
        let mut observation = vec![0.0; env.observation_len()];
        env.reset(seed, &mut observation);
        for _ in 0..500 {
            let world = env.world();
            let (x, dx, theta, w) = (
                world.joint_position(0),
                world.joint_velocity(0),
                world.joint_position(1),
                world.joint_velocity(1),
            );
            let action = energy_shaping(x, dx, theta, w);
            env.step(&[action], &mut observation);
        }
        solved += u32::from(env.last_episode().unwrap().success);
    }
    assert!(solved >= 9, "solved {solved} of 10");
}

fn energy_shaping(x: f32, dx: f32, theta: f32, w: f32) -> f32 {
    use std::f32::consts::PI;
    let from_up = (theta - PI + PI).rem_euclid(2.0 * PI) - PI;
    let force = if from_up.abs() < 0.35 {
        -40.0 * from_up - 9.0 * w + 3.0 * x + 5.0 * dx
    } else {
        // Energy of the pole about its pivot; zero upright at rest. Length and inertia of the model's pole.
        let (length, gravity) = (0.53f32, 9.81f32);
        let energy = 0.5 * w * w - gravity / length * (1.0 + theta.cos());
        8.0 * energy.clamp(-1.0, 1.0) * (w * theta.cos()).signum() - 3.0 * x - 1.5 * dx
    };
    (force / 10.0).clamp(-1.0, 1.0)
}

/// A robot jointed to the world must not fall through the world's floor.
#[test]
fn hopper_lands_on_its_foot_and_stays_above_the_floor() {
    let mut env = find("hopper").unwrap().make().unwrap();
    let mut observation = vec![0.0; env.observation_len()];
    env.reset(0, &mut observation);
    let foot = env.world().robot().site("foot").unwrap().clone();
    for step in 0..200 {
        env.step(&[0.0; 3], &mut observation);
        let height = env.world().site_position(&foot)[2];
        assert!(height > 0.02, "step {step}: the middle of the foot (radius 0.04 m) is at {height} m");
    }
}

#[test]
fn unknown_task_names_the_known_ones() {
    let Err(error) = find("moonwalk") else { panic!("found") };
    assert!(error.to_string().contains("cart-pole, cart-pole-balance, reacher, hopper"), "{error}");
}
