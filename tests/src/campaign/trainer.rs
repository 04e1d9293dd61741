//! A trainer that is killed: resumed again and again it ends with the bits of one that never was.

use super::{Campaign, Run, process};
use fastrand::Rng;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tendon_learn::preference::{PreferenceConfig, RewardConfig, train_from_preferences};
use tendon_learn::run_folder::RunFolder;
use tendon_learn::{
    Alone, ConstrainedConfig, DiffusionConfig, ImitationConfig, LearnError, NetworkConfig, NetworkKind,
    Pendulum, Policy, PpoConfig, Progress, SacConfig, WithPrivileged, imitate, train, train_constrained,
    train_diffusion, train_sac,
};
use tendon_sim::Environment;
use tendon_wire::mutation::Check;

pub(super) const TRAINER: Campaign =
    Campaign { name: "trainer", gates: &[23], guards: &[Check::CheckpointWhole], run: trainer };

/// The word under which this program trains.
pub(super) const CHILD: &str = "a-trainer";

/// Learners that are killed, each with small settings, a checkpoint per iteration or two, and the pendulum.
const LEARNERS: [&str; 7] = ["ppo", "gru", "constrained", "sac", "distill", "diffusion", "preferences"];
/// Longest time that a training may take without being killed: it hangs.
const LONGEST: Duration = Duration::from_secs(120);

fn trainer(run: &mut Run) -> Result<(), String> {
    let total = run.amount(500, 21);
    let mut rng = Rng::with_seed(run.seed);
    let folder = std::env::temp_dir().join(format!("tendon-trainer-{}", std::process::id()));
    let (mut kills, mut rounds, mut halves) = (0u64, 0u64, 0u64);
    let (mut other, mut failed, mut example) = (0u64, 0u64, None);
    let mut references = Vec::new();
    for learner in LEARNERS {
        let path = folder.join(format!("{learner}-whole"));
        let started = Instant::now();
        let error = finish(process::child(&[CHILD, learner, &path.to_string_lossy()])?)?;
        if let Some(error) = error {
            return Err(format!("{learner} without a kill: {error}"));
        }
        references.push((learner, last_state(&path)?, started.elapsed()));
    }
    'rounds: while kills < total {
        let (learner, reference, whole) = &references[rounds as usize % LEARNERS.len()];
        let path = folder.join(format!("{learner}-{rounds}"));
        rounds += 1;
        let mut of_round = 0;
        // Each round is killed a few times, then left to end.
        while of_round < 5 && kills < total {
            let left = half_written(&path);
            let mut child = process::child(&[CHILD, learner, &path.to_string_lossy()])?;
            std::thread::sleep(whole.mul_f64(rng.f64()));
            // Every other kill falls into the writing of a file, which chance alone may miss on a fast disk.
            let deadline = Instant::now() + *whole;
            while kills % 2 == 1 && half_written(&path).is_subset(&left) && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            process::kill(&mut child);
            match ended {
                None => (kills, of_round) = (kills + 1, of_round + 1),
                Some(status) if status.success() => break,
                Some(status) => {
                    failed += 1;
                    example.get_or_insert_with(|| format!("{learner}, round {rounds}: {status}"));
                    continue 'rounds;
                }
            }
            halves += u64::from(!half_written(&path).is_empty());
            run.progress(kills, total);
        }
        let error = finish(process::child(&[CHILD, learner, &path.to_string_lossy()])?)?;
        if let Some(error) = error {
            failed += 1;
            example.get_or_insert_with(|| format!("{learner}, round {rounds}: {error}"));
        } else if last_state(&path)? != *reference {
            other += 1;
            example.get_or_insert_with(|| {
                format!("{learner}, round {rounds}: other bits in the last checkpoint")
            });
        }
        let _ = std::fs::remove_dir_all(&path);
    }
    let _ = std::fs::remove_dir_all(&folder);
    run.count("trainings", "trainings", rounds as f64);
    run.count("trainers killed", "kills", kills as f64);
    run.count("of them while a file was being written", "kills", halves as f64);
    run.none("trainings that could not go on", "trainings", failed, example.clone());
    run.none("trainings with other bits than one that was not killed", "trainings", other, example);
    Ok(())
}

/// Waits for a child; what it complained of.
fn finish(mut child: std::process::Child) -> Result<Option<String>, String> {
    let deadline = Instant::now() + LONGEST;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok((!status.success()).then(|| status.to_string()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    process::kill(&mut child);
    Ok(Some(format!("it hangs: not at its end after {} s", LONGEST.as_secs())))
}

/// All bytes of the last checkpoint: weights, moments, normalisers, environments, counters.
fn last_state(run: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for name in ["state.json", "arrays.bin"] {
        let file = run.join("checkpoints/last").join(name);
        bytes.extend(std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    Ok(bytes)
}

/// What is half written beside what is whole, with the time of its last change.
fn half_written(run: &Path) -> HashSet<(PathBuf, SystemTime)> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries(run)
        .chain(entries(&run.join("checkpoints")))
        .filter(|entry| entry.file_name().to_string_lossy().contains("tmp"))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.modified().ok()?)))
        .collect()
}

/// Trains into a folder, from its last checkpoint on.
pub(super) fn train_in(words: &[String]) -> Result<(), String> {
    let [learner, folder] = words else { return Err("a learner and a folder".into()) };
    let run = RunFolder::create(folder).map_err(|error| error.to_string())?;
    learn(learner, &run).map_err(|error| error.to_string())
}

fn pendulum() -> Box<dyn Environment> {
    Box::new(Pendulum::default())
}

fn without_speed() -> Box<dyn Environment> {
    Box::new(Pendulum::without_speed())
}

fn learn(learner: &str, run: &RunFolder) -> Result<(), LearnError> {
    const SEED: u64 = 3;
    let run = Some(run);
    let keep_on = &mut |_: &Progress| ControlFlow::Continue(());
    let ppo = PpoConfig {
        total_steps: 20 * 512,
        environments: 8,
        rollout_steps: 64,
        hidden: vec![16],
        checkpoint_interval: 2,
        threads: 1,
        ..PpoConfig::default()
    };
    match learner {
        "gru" => {
            let network = NetworkConfig { units: 16, ..NetworkConfig::of(NetworkKind::Gru) };
            train(&PpoConfig { network, ..ppo }, &without_speed, SEED, run, keep_on)?;
        }
        "constrained" => {
            let config = ConstrainedConfig {
                cost: "torque_nm".into(),
                limit: 0.3,
                ppo,
                ..ConstrainedConfig::default()
            };
            train_constrained(&config, &pendulum, &Alone, SEED, run, keep_on)?;
        }
        "sac" => {
            let config = SacConfig {
                total_steps: 1500,
                first_steps: 300,
                steps_per_iteration: 100,
                checkpoint_interval: 1,
                hidden: vec![16],
                batch: 32,
                threads: 1,
                ..SacConfig::default()
            };
            train_sac(&config, &pendulum, &Alone, SEED, run, keep_on)?;
        }
        "distill" | "diffusion" => {
            let teacher = teacher()?;
            if learner == "distill" {
                let config = ImitationConfig {
                    privileged_teacher: true,
                    rounds: 8,
                    episodes: 4,
                    updates: 60,
                    batch: 64,
                    hidden: vec![16],
                    network: NetworkConfig { units: 16, ..NetworkConfig::of(NetworkKind::Gru) },
                    threads: 1,
                    ..ImitationConfig::default()
                };
                imitate(&config, &without_speed, &teacher, &Alone, SEED, run, keep_on)?;
            } else {
                let config = DiffusionConfig {
                    episodes: 4,
                    updates: 40,
                    iterations: 6,
                    distillation_iterations: 3,
                    batch: 64,
                    hidden: vec![16],
                    threads: 1,
                    ..DiffusionConfig::default()
                };
                train_diffusion(&config, &pendulum, &[teacher], &Alone, SEED, run, keep_on)?;
            }
        }
        "preferences" => {
            let reward = RewardConfig { hidden: vec![16], epochs: 5, ..RewardConfig::default() };
            let config = PreferenceConfig {
                labels: 30,
                first_queries: 10,
                queries: 10,
                query_interval: 3,
                segment_steps: 16,
                reward,
                ppo,
                ..PreferenceConfig::default()
            };
            train_from_preferences(&config, &pendulum, SEED, run, keep_on)?;
        }
        _ => {
            train(&ppo, &pendulum, SEED, run, keep_on)?;
        }
    }
    Ok(())
}

/// Sees angle and speed; hardly trained.
fn teacher() -> Result<Policy, LearnError> {
    let seeing = || Box::new(WithPrivileged::new(without_speed())) as Box<dyn Environment>;
    let config = PpoConfig {
        total_steps: 1024,
        environments: 8,
        rollout_steps: 64,
        hidden: vec![16],
        threads: 1,
        ..PpoConfig::default()
    };
    Ok(train(&config, &seeing, 1, None, &mut |_| ControlFlow::Continue(()))?.policy)
}
