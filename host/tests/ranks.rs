//! Training over the ranks of a real `mpirun` (feature `mpi`).

#![cfg(feature = "mpi")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tendon_learn::Checkpoint;

/// Eight environments, one rollout of 1024 steps per iteration.
fn settings(folder: &Path, before: &str, iterations: u64, after: &str) -> PathBuf {
    let file = folder.join("settings.toml");
    let text = format!(
        "{before}total_steps = {}\nenvironments = 8\nrollout_steps = 128\nhidden = [32, 32]\ncheckpoint_interval = 2\nthreads = 1\n{after}",
        1024 * iterations
    );
    fs::write(&file, text).unwrap();
    file
}

fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ranks-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// `tendon train` on this many ranks; 1 is without `mpirun`.
fn train(ranks: usize, run: &Path, settings: &Path, more: &[&str]) -> Command {
    let mut command = if ranks == 1 {
        Command::new(env!("CARGO_BIN_EXE_tendon"))
    } else {
        let mut mpirun = mpirun();
        mpirun.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_tendon")]);
        mpirun
    };
    command.args(["train", "--task", "cart-pole", "--run"]).arg(run);
    command.arg("--config").arg(settings).args(more);
    command.stdin(Stdio::null());
    command
}

fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]);
    command.stdin(Stdio::null());
    command
}

fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn last(run: &Path) -> Checkpoint {
    Checkpoint::load_last(&run.join("checkpoints")).unwrap().unwrap()
}

fn parameters(run: &Path) -> Vec<f64> {
    last(run).any_array("network.parameters").unwrap().to_vec()
}

/// Largest difference of a parameter, as a share of the largest parameter.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).fold(0.0, f64::max);
    largest(&mut a.iter().zip(b).map(|(a, b)| a - b)) / largest(&mut a.iter().copied())
}

/// After one iteration of 32 gradient steps parameters differ by a unit in the last place of `f32` (6e-8 relative) or two: sums over
/// ranks add up in another order than sums over rows. From there a difference grows about tenfold per iteration, because actions, and
/// with them states, differ by it; where a sample then lies on the other side of a clip, the gradient jumps. So two iterations are
/// compared, and no more.
const AFTER_ONE: f64 = 2e-6;
const AFTER_TWO: f64 = 2e-5;
/// In DAgger's second round the student drives whole episodes of 500 steps, in which a difference of rounding grows.
const AFTER_STUDENTS_EPISODES: f64 = 1e-3;

#[test]
fn two_and_four_ranks_learn_what_one_learns_but_for_rounding() {
    let folder = scratch("agree");
    let constrained = "cost = \"cart_position_m\"\n[ppo]\n";
    for (learner, before, after, iterations, bound) in [
        ("ppo", "", "", 1, AFTER_ONE),
        ("ppo", "", "", 2, AFTER_TWO),
        ("ppo", "", "[network]\nkind = \"gru\"\nunits = 16\n", 1, AFTER_ONE),
        ("constrained", constrained, "", 1, AFTER_ONE),
    ] {
        let file = settings(&folder, before, iterations, after);
        let run = |ranks| {
            let run = folder.join(format!("{learner}-{ranks}"));
            let _ = fs::remove_dir_all(&run);
            done(train(ranks, &run, &file, &["--learner", learner]));
            run
        };
        let one = last(&run(1));
        // The last one does not divide the environments.
        for ranks in [2, 4, 3] {
            let many = last(&run(ranks));
            for name in
                ["network.parameters", "observations.mean", "observations.deviation", "returns.deviation"]
            {
                let values = |checkpoint: &Checkpoint| checkpoint.any_array(name).unwrap().to_vec();
                let difference = difference(&values(&one), &values(&many));
                println!(
                    "{learner} {after:?} {iterations} iterations, {ranks} ranks, {name}: {difference:.1e}"
                );
                assert!(difference < bound, "{difference}");
            }
        }
    }
}

/// A teacher of cart-pole, hardly trained: `ppo`, or `teacher`, which sees more.
fn teacher(folder: &Path, learner: &str) -> PathBuf {
    let run = folder.join(learner);
    done(train(1, &run, &settings(folder, "", 2, ""), &["--learner", learner]));
    run
}

/// Short settings of those that learn from a buffer or from a teacher, whose run they need; and their weights' name in checkpoints.
const OTHERS: [(&str, &str, &str, &str); 6] = [
    (
        "sac",
        "",
        "total_steps = 160\nenvironments = 4\nfirst_steps = 120\nsteps_per_iteration = 40\nbuffer = 100\nbatch = 64\ncheckpoint_interval = 1",
        "actor.parameters",
    ),
    ("clone", "ppo", "episodes = 7\nupdates = 20\nbatch = 64", "student.parameters"),
    ("dagger", "ppo", "rounds = 2\nepisodes = 7\nupdates = 10\nbatch = 64", "student.parameters"),
    (
        "distill",
        "teacher",
        "rounds = 1\nepisodes = 7\nupdates = 20\nbatch = 160\n[network]\nkind = \"gru\"\nunits = 16",
        "student.parameters",
    ),
    (
        "flow",
        "ppo",
        "episodes = 7\niterations = 1\ndistillation_iterations = 1\nupdates = 10\nbatch = 64",
        "field.parameters",
    ),
    (
        "diffusion",
        "ppo",
        "episodes = 7\nsteps = 4\niterations = 1\ndistillation_iterations = 1\nupdates = 10\nbatch = 64",
        "field.parameters",
    ),
];

fn settings_of(folder: &Path, learner: &str, text: &str) -> PathBuf {
    let file = folder.join(format!("{learner}.toml"));
    fs::write(&file, format!("threads = 1\nhidden = [32, 32]\n{text}\n")).unwrap();
    file
}

/// `--learner`, and `--from` where there is a teacher.
fn arguments<'a>(learner: &'a str, teacher: Option<&'a Path>) -> Vec<&'a str> {
    let from = teacher.map(|teacher| ["--from", teacher.to_str().unwrap()]);
    ["--learner", learner].into_iter().chain(from.into_iter().flatten()).collect()
}

#[test]
fn two_and_four_ranks_learn_what_one_learns_from_a_buffer_or_a_teacher() {
    let folder = scratch("others");
    let _ = (teacher(&folder, "ppo"), teacher(&folder, "teacher"));
    for (learner, teacher, text, name) in OTHERS {
        let file = settings_of(&folder, learner, text);
        let teacher = (!teacher.is_empty()).then(|| folder.join(teacher));
        let run = |ranks: usize| {
            let run = folder.join(format!("{learner}-{ranks}"));
            done(train(ranks, &run, &file, &arguments(learner, teacher.as_deref())));
            assert!(run.join("policy.onnx").is_file());
            (last(&run), fs::read_to_string(run.join("curves.csv")).unwrap())
        };
        let (one, curves) = run(1);
        for ranks in [2, 4, 3] {
            let (many, others) = run(ranks);
            let difference = difference(one.any_array(name).unwrap(), many.any_array(name).unwrap());
            println!("{learner}, {ranks} ranks: {difference:.1e}");
            let bound = if learner == "dagger" { AFTER_STUDENTS_EPISODES } else { AFTER_TWO };
            assert!(difference < bound, "{learner}: {difference}");
            // Returns, lengths and losses are those of all ranks.
            for (one, many) in numbers(&curves).iter().zip(&numbers(&others)) {
                assert!(
                    (one - many).abs() <= 50.0 * bound * one.abs().max(1e-2),
                    "{learner}: {one} and {many}"
                );
            }
        }
    }
}

/// Returns, lengths, successes and losses of all rows of a `curves.csv`.
fn numbers(curves: &str) -> Vec<f64> {
    let mut lines = curves.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let wanted = ["episode_return", "episode_length", "success", "policy_loss", "value_loss"];
    let columns = wanted.map(|wanted| names.iter().position(|name| *name == wanted).unwrap());
    let cells = lines.flat_map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        columns.map(|column| cells[column].parse().unwrap_or(f64::NAN))
    });
    cells.filter(|number| number.is_finite()).collect()
}

#[test]
fn environments_see_the_same_episodes_on_any_number_of_ranks() {
    let folder = scratch("episodes");
    let file = settings(&folder, "", 1, "");
    let checkpoint = |ranks: usize| {
        let run = folder.join(ranks.to_string());
        done(train(ranks, &run, &file, &[]));
        last(&run)
    };
    // In the first iteration the policy is the same, to the bit.
    let one = checkpoint(1);
    for ranks in [2, 4] {
        let many = checkpoint(ranks);
        for environment in 0..8 {
            for what in ["history", "observation", "level"] {
                let name = format!("environment.{environment}.{what}");
                assert_eq!(
                    one.any_array(&name).unwrap(),
                    many.any_array(&name).unwrap(),
                    "{ranks} ranks, {name}"
                );
            }
        }
    }
}

/// Process of a rank of this `mpirun`.
fn process_of(mpirun: u32, rank: usize) -> Option<u32> {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let is_it = environment.split(|&byte| byte == 0).any(|line| line == wanted.as_bytes());
        (parent == mpirun.to_string() && is_it).then_some(process)
    })
}

/// Trains until there is a new checkpoint, kills the last rank with SIGKILL, and gives what the job said.
fn killed(ranks: usize, run: &Path, file: &Path, more: &[&str]) -> Output {
    let link = || fs::read_link(run.join("checkpoints/last")).ok();
    let before = link();
    let mut command = train(ranks, run, file, more);
    let job = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while link() == before {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    let process = process_of(job.id(), ranks - 1).expect("the last rank runs");
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
    job.wait_with_output().unwrap()
}

#[test]
fn a_lost_rank_ends_the_job_with_its_name_and_the_last_checkpoint_goes_on_with_another_number_of_ranks() {
    for ranks in [2, 4] {
        let folder = scratch(&format!("lost-{ranks}"));
        let run = folder.join("run");
        let output = killed(ranks, &run, &settings(&folder, "", 2000, ""), &[]);
        let message = errors(&output);
        assert!(!output.status.success());
        assert!(message.contains(&format!("process rank {}", ranks - 1)), "{message}");
        assert!(message.contains("signal 9"), "{message}");
        let at = last(&run).counter("iteration").unwrap();
        assert!(at >= 2 && at.is_multiple_of(2), "{at}");
        let resumed = killed(6 - ranks, &run, &settings(&folder, "", 2000, ""), &[]);
        assert!(errors(&resumed).contains("signal 9"), "{}", errors(&resumed));
        assert!(last(&run).counter("iteration").unwrap() > at);
    }
}

#[test]
fn a_killed_run_resumes_with_the_same_bits_on_as_many_ranks() {
    let folder = scratch("resume");
    let file = settings(&folder, "", 60, "");
    let whole = folder.join("whole");
    done(train(2, &whole, &file, &[]));
    let run = folder.join("killed");
    let output = killed(2, &run, &file, &[]);
    assert!(!output.status.success(), "killed before its end");
    done(train(2, &run, &file, &["--resume"]));
    assert_eq!(parameters(&run), parameters(&whole));
    assert!(run.join("policy.onnx").is_file());
    // Every row of the curves once, whoever was killed.
    assert_eq!(fs::read_to_string(run.join("curves.csv")).unwrap().lines().count(), 61);
}

#[test]
fn a_killed_run_that_learns_from_a_buffer_or_a_teacher_resumes_with_the_same_bits() {
    let folder = scratch("resume-others");
    let teacher = teacher(&folder, "ppo");
    // Checkpoints of SAC are larger than what ranks gather in one call.
    let sac = "total_steps = 12_600\nenvironments = 4\nfirst_steps = 12_560\nsteps_per_iteration = 600\nbuffer = 12_000\nbatch = 64\ncheckpoint_interval = 2";
    let dagger = "rounds = 8\nepisodes = 4\nupdates = 8\nbatch = 64";
    for (learner, text, name, from) in [
        ("sac", sac, "actor.parameters", None),
        ("dagger", dagger, "student.parameters", Some(teacher.as_path())),
    ] {
        let file = settings_of(&folder, learner, text);
        let (whole, run) =
            (folder.join(format!("{learner}-whole")), folder.join(format!("{learner}-killed")));
        let arguments = arguments(learner, from);
        done(train(2, &whole, &file, &arguments));
        let output = killed(2, &run, &file, &arguments);
        assert!(!output.status.success() && errors(&output).contains("signal 9"), "{}", errors(&output));
        done(train(2, &run, &file, &[&arguments[..], &["--resume"]].concat()));
        let (whole, resumed) = (last(&whole), last(&run));
        assert_eq!(resumed.any_array(name).unwrap(), whole.any_array(name).unwrap(), "{learner}");
        if learner == "sac" {
            for environment in 0..4 {
                let name = format!("environment.{environment}.buffer.observations");
                assert_eq!(resumed.any_array(&name).unwrap(), whole.any_array(&name).unwrap());
            }
        }
    }
}

#[test]
fn ranks_that_hold_different_things_are_named() {
    let folder = scratch("differ");
    let file = settings(&folder, "", 2, "");
    let mut command = mpirun();
    for (index, seed) in ["1", "1", "2"].iter().enumerate() {
        if index > 0 {
            command.arg(":");
        }
        command.args([
            "-n",
            "1",
            env!("CARGO_BIN_EXE_tendon"),
            "train",
            "--task",
            "cart-pole",
            "--seed",
            seed,
        ]);
        command.arg("--run").arg(folder.join("run")).arg("--config").arg(&file);
    }
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(errors(&output).contains("rank 2 holds not what rank 0 has"), "{}", errors(&output));
}

#[test]
fn what_ranks_cannot_share_is_refused_by_its_key() {
    let folder = scratch("refused");
    let teacher = teacher(&folder, "ppo");
    let says = |more: &[&str], text: &str, words: &str| {
        let file = folder.join("few.toml");
        fs::write(&file, text).unwrap();
        let output = train(4, &folder.join("run"), &file, more).output().unwrap();
        assert!(!output.status.success());
        assert!(errors(&output).contains(words), "{}", errors(&output));
        let _ = fs::remove_dir_all(folder.join("run"));
    };
    says(&[], "environments = 2\n", "environments: 2 for 4 ranks");
    says(&["--preferences"], "", "--preferences: learns on one rank");
    says(&["--learner", "sac"], "", "environments: 1 for 4 ranks");
    let arguments = arguments("clone", Some(&teacher));
    says(&arguments, "batch = 3\n", "batch: 3 for 4 ranks");
}
