//! Environment steps per second: physics, observation and reward, on all cores.

use std::time::{Duration, Instant};

use serde_json::json;
use tendon_sim::{Engine, Rng, VecEnv};

use crate::Result;
use crate::gym::{Gym, cases, load};
use crate::table::{Row, threads};

const TIME: Duration = Duration::from_secs(4);
const ENVIRONMENTS: usize = 64;

/// Steps per second of `count` environments of a robot with actions drawn beforehand.
pub(crate) fn steps_per_s(
    robot: &std::sync::Arc<tendon_sim::Robot>,
    substeps: usize,
    count: usize,
    threads: usize,
    time: Duration,
) -> Result<f64> {
    let environments = (0..count).map(|_| Gym::new(robot, substeps)).collect::<Result<Vec<_>>>()?;
    let mut envs = VecEnv::new(environments, threads, 1)?;
    let actions = random_actions(&envs, count);
    envs.step(&actions[0]);
    let (start, mut steps) = (Instant::now(), 0);
    while start.elapsed() < time {
        for action in &actions {
            envs.step(action);
            steps += count;
        }
    }
    Ok(steps as f64 / start.elapsed().as_secs_f64())
}

/// Sixteen sets of actions for `count` environments.
pub(crate) fn random_actions(envs: &VecEnv<Gym>, count: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::new(1, 2);
    (0..16).map(|_| (0..count * envs.action_len()).map(|_| rng.uniform(-1.0, 1.0)).collect()).collect()
}

/// One case on one thread without peers: what a profiler is pointed at.
pub(crate) fn steps(name: &str) -> Result<()> {
    let cases = cases()?;
    let case = cases.iter().find(|case| case.name == name).ok_or("no such case")?;
    let robot = load(&case.file, Engine::Reduced)?;
    let speed = steps_per_s(&robot, case.substeps, ENVIRONMENTS, 1, TIME)?;
    println!("{name}: {:.1} us per control step of {} steps, one thread", 1e6 / speed, case.substeps);
    Ok(())
}

pub(crate) fn run() -> Result<Vec<Row>> {
    let cases = cases()?;
    let request: Vec<_> =
        cases.iter().map(|c| json!({"name": c.name, "file": c.file, "substeps": c.substeps})).collect();
    let peers = crate::peers::ask("speed", &json!({"threads": threads(), "cases": request}))?;
    let mut rows = Vec::new();
    for case in &cases {
        let reduced = load(&case.file, Engine::Reduced)?;
        let tendon = steps_per_s(&reduced, case.substeps, ENVIRONMENTS, threads(), TIME)?;
        let rapier = load(&case.file, Engine::Rapier)?;
        let rapier = steps_per_s(&rapier, case.substeps, ENVIRONMENTS, threads(), TIME / 2)?;
        let of = |name: &str| peers[case.name][name].as_f64().unwrap_or(f64::NAN);
        rows.push(Row {
            case: case.name.into(),
            metric: "steps/s",
            unit: "steps/s",
            tendon,
            peers: vec![
                ("gymnasium".into(), of("gymnasium")),
                ("mujoco.rollout".into(), of("mujoco.rollout")),
            ],
            goal: if case.name == "humanoid" {
                ">= 2x gymnasium"
            } else {
                ">= 2x gymnasium, >= 1x mujoco.rollout"
            },
            note: format!(
                "{} x {:.4} s; rapier's multibody {rapier:.0} steps/s; drift beside MuJoCo after 0.5 s: {}",
                case.substeps,
                reduced.timestep_s,
                crate::fidelity::drift(case)?
            ),
        });
    }
    Ok(rows)
}
