//! `sim`, `hil`.

use super::flash::started_or;
use super::mishaps::mishaps;
use super::{Controller, print_table, read_image, write_file};
use crate::faults::{Plant, TaskPlant, WalkPlant};
use crate::hil::{TickStats, run_task};
use crate::link::{Address, Serial, Session, with_in_process};
use crate::recording::Recorder;
use crate::report::{frames_gif, frames_png};
#[cfg(feature = "viewer")]
use crate::viewer::{Curves, Viewer};
use crate::walk::walk;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use std::path::PathBuf;
use tendon_compiler::Manifest;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{AlignedBytes, Image};
use tendon_sim::tasks::{self, TaskDefinition};
use tendon_sim::{Environment, LocomotionTask, Rng, Robot, RobotOptions, TrajectoryHash, render};

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Agent {
    /// Action 0
    Zero,
    /// Uniform in -1..1
    Random,
    /// The image given with --image
    Policy,
}

#[derive(Debug, Args)]
pub(super) struct Sim {
    /// Task to run: a name, or a task file (.toml)
    #[arg(long, required_unless_present = "robot")]
    task: Option<String>,
    /// Robot file (MJCF or URDF): in place of the task's; alone it is listed, and driven about its pose
    #[arg(long)]
    robot: Option<PathBuf>,
    /// Who acts
    #[arg(long, value_enum, default_value = "zero")]
    agent: Agent,
    /// Image for `--agent policy`
    #[arg(long, required_if_eq("agent", "policy"))]
    image: Option<PathBuf>,
    /// Seed of the episode
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated time, s
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Animation of the run, a .gif or .png
    #[arg(long, alias = "png")]
    video: Option<PathBuf>,
    /// Rerun recording (.rrd) of the run
    #[cfg(feature = "viewer")]
    #[arg(long)]
    rrd: Option<PathBuf>,
}

/// Frames per second of animations.
const FRAMES_PER_S: f64 = 10.0;
pub(super) const FRAME_SIZE: [usize; 2] = [320, 240];

impl Sim {
    pub(super) fn run(self) -> Result<()> {
        let task = match (&self.task, &self.robot) {
            (Some(name), robot) => tasks::open(name, robot.as_deref())?,
            (None, Some(path)) => {
                let robot = Robot::from_file(path, RobotOptions::default())?;
                list(&robot);
                TaskDefinition::of_robot(robot)?
            }
            (None, None) => bail!("give --task or --robot"),
        };
        self.run_task(&task)
    }

    fn run_task(&self, task: &TaskDefinition) -> Result<()> {
        // Before the run, not after it.
        self.video.as_deref().map(video_kind).transpose()?;
        if self.agent == Agent::Policy {
            let path = self.image.as_ref().context("--image is missing")?;
            let image = read_image(path)?;
            return with_in_process(image.len(), |transport| {
                let (mut session, _) = Session::open(transport)?;
                let outputs = Outputs {
                    video: self.video.as_ref(),
                    #[cfg(feature = "viewer")]
                    rrd: self.rrd.as_deref(),
                    ..Outputs::default()
                };
                hil_task(&mut session, &image, task, self.seed, self.seconds, outputs)
            });
        }
        let mut environment = task.make()?;
        let mut observation = vec![0.0; environment.observation_len()];
        let mut action = vec![0.0; environment.action_len()];
        environment.reset(self.seed, &mut observation);
        let period = environment.contract().control_period_s;
        let ticks = (self.seconds / period).round() as u64;
        let every = ((1.0 / FRAMES_PER_S / period).round() as u64).max(1);
        let (mut rng, mut hash, mut total, mut frames) =
            (Rng::new(self.seed, 9), TrajectoryHash::default(), 0.0, Vec::new());
        #[cfg(feature = "viewer")]
        let mut viewer = self.rrd.as_deref().map(|path| Viewer::create(path, &environment)).transpose()?;
        #[cfg(feature = "viewer")]
        let mut curves = Curves::default();
        let mut steps = 0;
        for tick in 0..ticks {
            if self.agent == Agent::Random {
                action.iter_mut().for_each(|a| *a = rng.uniform(-1.0, 1.0));
            }
            #[cfg(feature = "viewer")]
            if viewer.is_some() {
                curves.joint_positions.push(environment.raw_state().joint_position.to_vec());
                curves.observations.push(observation.clone());
                curves.actions.push(action.clone());
            }
            let step = environment.step(&action, &mut observation);
            hash.update(&observation);
            total += f64::from(step.reward);
            steps = tick + 1;
            #[cfg(feature = "viewer")]
            if let Some(viewer) = &mut viewer {
                curves.rewards.push(step.reward);
                viewer.scene(steps, &environment);
            }
            if self.video.is_some() && tick % every == 0 {
                frames.push(render(&environment.scene(), &environment.camera(FRAME_SIZE)));
            }
            if step.terminated || step.truncated {
                break;
            }
        }
        #[cfg(feature = "viewer")]
        if let (Some(viewer), Some(path)) = (viewer, &self.rrd) {
            viewer.finish(&curves)?;
            println!("{}", path.display());
        }
        println!(
            "{}: {steps} steps, return {total:.2}, success {}, hash {:016x}",
            task.name(),
            environment.success(),
            hash.value()
        );
        if let Some(end) = environment.last_episode() {
            let by = end.ended_by.as_deref().unwrap_or(if end.diverged { "divergence" } else { "time" });
            println!("  ended by {by}");
        }
        for (name, value) in environment.metric_names().iter().zip(environment.physical()) {
            println!("  {name}: {value:.3}");
        }
        for draw in environment.draws() {
            println!("  drawn: {} {}: {:.3}", draw.name, draw.index, draw.value);
        }
        save_frames(self.video.as_ref(), &frames)
    }
}

/// What the file holds, and what of it is not represented.
fn list(robot: &Robot) {
    let mut rows = vec![["joint", "kind", "range", "actuator kp, kd, limit"].map(String::from).to_vec()];
    for joint in &robot.joints {
        rows.push(vec![
            joint.name.clone(),
            format!("{:?}", joint.kind),
            joint.range.map_or_else(|| "-".into(), |[low, high]| format!("{low:.3} .. {high:.3}")),
            joint
                .actuator
                .map_or_else(|| "passive".into(), |a| format!("{}, {}, {}", a.kp, a.kd, a.torque_limit)),
        ]);
    }
    println!(
        "{}: {} bodies, {} joints, keyframes: {}",
        robot.name,
        robot.bodies.len(),
        robot.joints.len(),
        robot.keyframes.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ")
    );
    print_table(&rows);
    for item in &robot.unsupported {
        println!("not represented: {}:{} {}: {}", item.file.display(), item.line, item.element, item.effect);
    }
}

/// Writes the frames as the file's ending says.
fn save_frames(file: Option<&PathBuf>, frames: &[tendon_sim::Image]) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let frame_ms = (1000.0 / FRAMES_PER_S) as u16;
    let bytes = match video_kind(file)? {
        Video::Gif => frames_gif(frames, frame_ms)?,
        Video::Png => frames_png(frames, frame_ms)?,
    };
    write_file(file, &bytes)?;
    println!("{}: {} frames", file.display(), frames.len());
    Ok(())
}

enum Video {
    Gif,
    Png,
}

fn video_kind(file: &std::path::Path) -> Result<Video> {
    match file.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("gif") => Ok(Video::Gif),
        Some("png" | "apng") => Ok(Video::Png),
        _ => bail!("--video {}: give a file that ends in .gif or .png", file.display()),
    }
}

#[derive(Debug, Args)]
pub(super) struct Hil {
    /// The image
    image: PathBuf,
    /// Task to run
    #[arg(long, required_unless_present = "robot")]
    task: Option<String>,
    /// Robot file (MJCF) to walk
    #[arg(long, conflicts_with = "task")]
    robot: Option<PathBuf>,
    /// Keyframe of the robot file to start from
    #[arg(long, default_value = "home")]
    keyframe: String,
    /// Site of the robot file where the IMU is
    #[arg(long, default_value = "imu")]
    site: String,
    /// Command, for example 1,0,0
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    command: Vec<f32>,
    /// Controller to launch
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "port")]
    controller: Controller,
    /// Serial port of a controller that already runs, or qemu[:FLASH], stand-in[:FLASH]
    #[arg(long)]
    port: Option<Address>,
    /// Profile of the contract to run under, by name
    #[arg(long)]
    profile: Option<String>,
    /// Seed of the episode
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated time, s
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Pull the link, send a corrupt image, feed it NaN, freeze a sensor, and see what happens: with keys in a
    /// terminal, else each once
    #[arg(long)]
    faults: bool,
    /// Report of `--faults`
    #[arg(long, default_value = "faults.html")]
    report: PathBuf,
    /// Recording of every tick
    #[arg(long, conflicts_with = "faults")]
    record: Option<PathBuf>,
    /// Animation of the run, a .gif or .png
    #[arg(long, alias = "png")]
    video: Option<PathBuf>,
    /// Rerun recording (.rrd) of the run of a task
    #[cfg(feature = "viewer")]
    #[arg(long, conflicts_with = "robot")]
    rrd: Option<PathBuf>,
}

impl Hil {
    pub(super) fn run(self) -> Result<()> {
        self.video.as_deref().map(video_kind).transpose()?;
        let image = read_image(&self.image)?;
        let (_launched, port) = started_or(self.port.as_ref(), self.controller.kind())?;
        let (mut session, identity) = Session::open(Serial::open(&port)?)?;
        println!("{port}: {} with firmware {}", identity.board, identity.firmware);
        let mut recorder = self
            .record
            .as_ref()
            .map(|path| Recorder::create(path).with_context(|| path.display().to_string()))
            .transpose()?;
        if self.faults {
            return self.show_faults(&mut session, &image);
        }
        match (&self.task, &self.robot) {
            (Some(name), _) => {
                let task = tasks::open(name, None)?;
                let outputs = Outputs {
                    profile: self.profile.as_deref(),
                    recorder: recorder.as_mut(),
                    video: self.video.as_ref(),
                    #[cfg(feature = "viewer")]
                    rrd: self.rrd.as_deref(),
                };
                hil_task(&mut session, &image, &task, self.seed, self.seconds, outputs)?;
            }
            (None, Some(path)) => {
                let robot = Robot::from_file(path, RobotOptions::default())?;
                let (contract, schema_hash) = contract_of(&image)?;
                upload(&mut session, &image)?;
                choose_profile(&mut session, &contract, self.profile.as_deref())?;
                let task = walking_task(&contract, &self.keyframe, &self.site, self.seconds);
                let (metrics, stats) = walk(
                    &mut session,
                    &robot,
                    &contract,
                    schema_hash,
                    &task,
                    &self.command,
                    recorder.as_mut(),
                )?;
                println!(
                    "velocity x {:.3} y {:.3} m/s, yaw rate {:.3} rad/s (mean of the last half)",
                    metrics.mean_velocity[0], metrics.mean_velocity[1], metrics.mean_yaw_rate
                );
                println!(
                    "lowest height {:.3} m, final position {:.3?} m, hash {:016x}",
                    metrics.lowest_height, metrics.final_position, metrics.hash
                );
                print_stats(&stats);
                print!("{}", crate::monitor::times(&session.timing()?, 120));
            }
            (None, None) => bail!("give --task or --robot"),
        }
        if let (Some(recorder), Some(path)) = (recorder, &self.record) {
            recorder.finish().with_context(|| path.display().to_string())?;
            println!("{}", path.display());
        }
        Ok(())
    }
}

impl Hil {
    fn show_faults<T: crate::link::Transport>(
        &self,
        session: &mut Session<T>,
        image: &AlignedBytes,
    ) -> Result<()> {
        let (contract, schema_hash) = contract_of(image)?;
        upload(session, image)?;
        choose_profile(session, &contract, self.profile.as_deref())?;
        let robot =
            self.robot.as_ref().map(|path| Robot::from_file(path, RobotOptions::default())).transpose()?;
        let task = self.task.as_deref().map(tasks::find).transpose()?;
        let plant = || -> Result<Box<dyn Plant>> {
            if let Some(task) = task {
                return Ok(Box::new(TaskPlant::new(task.make()?, self.seed)));
            }
            let robot = robot.as_ref().context("give --task or --robot")?;
            let (keyframe, site) = (&self.keyframe, &self.site);
            Ok(Box::new(WalkPlant::new(robot, &contract, keyframe, site, &self.command)?))
        };
        mishaps(session, plant, &contract, schema_hash, image, &self.report)
    }
}

/// Contract and schema hash of an image; a bare network is refused here, before any controller does.
pub(super) fn contract_of(image: &AlignedBytes) -> Result<(ContractSpec, u64)> {
    let header = *Image::parse(image)?.header();
    let contract = Manifest::of_image(image)?.contract;
    let contract = contract
        .context("the image has no contract: compile it with --contract; a bare network is never armed")?;
    Ok((contract, header.schema_hash))
}

/// A velocity-tracking run whose second half is averaged.
pub(super) fn walking_task(
    contract: &ContractSpec,
    keyframe: &str,
    site: &str,
    seconds: f64,
) -> LocomotionTask {
    LocomotionTask {
        keyframe: keyframe.into(),
        site: site.into(),
        control_period_s: contract.control_period_s as f32,
        duration_s: seconds as f32,
        window_s: (seconds / 2.0) as f32,
    }
}

/// Sends an image with a progress bar.
pub(super) fn upload<T: crate::link::Transport>(
    session: &mut Session<T>,
    image: &AlignedBytes,
) -> Result<()> {
    let bar = ProgressBar::new(image.len() as u64);
    session.upload(image, |sent| bar.set_position(sent as u64))?;
    bar.finish_and_clear();
    Ok(())
}

/// Takes the profile called `name`, and says which one holds.
fn choose_profile<T: crate::link::Transport>(
    session: &mut Session<T>,
    contract: &ContractSpec,
    name: Option<&str>,
) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    let names = || contract.profiles.iter().map(|profile| &*profile.name).collect::<Vec<_>>().join(", ");
    let place = contract.profiles.iter().position(|profile| profile.name == name);
    let place = place.with_context(|| format!("no profile `{name}` in the contract; it has {}", names()))?;
    session.set_profile(place as u8)?;
    println!("profile {}", session.identity()?.profile_name);
    Ok(())
}

/// How a run is made and what it leaves behind, each if asked for.
#[derive(Default)]
struct Outputs<'a> {
    profile: Option<&'a str>,
    recorder: Option<&'a mut Recorder>,
    video: Option<&'a PathBuf>,
    #[cfg(feature = "viewer")]
    rrd: Option<&'a std::path::Path>,
}

fn hil_task<T: crate::link::Transport>(
    session: &mut Session<T>,
    image: &AlignedBytes,
    task: &TaskDefinition,
    seed: u64,
    seconds: f64,
    outputs: Outputs<'_>,
) -> Result<()> {
    let (contract, schema_hash) = contract_of(image)?;
    let mut environment = task.make()?;
    upload(session, image)?;
    choose_profile(session, &contract, outputs.profile)?;
    let period = environment.contract().control_period_s;
    let every = ((1.0 / FRAMES_PER_S / period).round() as u64).max(1);
    let mut frames = Vec::new();
    let ticks = (seconds / period).round() as u64;
    // The recording begins with the robot as the run finds it.
    #[cfg(feature = "viewer")]
    environment.reset(seed, &mut vec![0.0; environment.observation_len()]);
    #[cfg(feature = "viewer")]
    let mut viewer = outputs.rrd.map(|path| Viewer::create(path, &environment)).transpose()?;
    let run = run_task(
        session,
        &mut environment,
        schema_hash,
        seed,
        ticks,
        outputs.recorder,
        |tick, environment| {
            if outputs.video.is_some() && tick % every == 0 {
                frames.push(render(&environment.scene(), &environment.camera(FRAME_SIZE)));
            }
            #[cfg(feature = "viewer")]
            if let Some(viewer) = &mut viewer {
                viewer.scene(tick + 1, environment);
            }
        },
    )?;
    println!(
        "{}: return {:.2}, success {}, hash {:016x}",
        task.name(),
        run.total_reward,
        run.success,
        run.hash
    );
    print_stats(&run.stats);
    println!("misses {}, deepest stack {} bytes", run.misses, run.stack_bytes);
    print!("{}", crate::monitor::times(&session.timing()?, 120));
    #[cfg(feature = "viewer")]
    if let (Some(viewer), Some(path)) = (viewer, outputs.rrd) {
        viewer.finish(&Curves::from(&run))?;
        println!("{}", path.display());
    }
    save_frames(outputs.video, &frames)
}

/// Percentile of a sample; 0 of an empty one.
pub(super) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

fn print_stats(stats: &TickStats) {
    println!(
        "{} ticks; on the controller p50 {:.0} us, max {:.0} us; round trip p50 {:.0} us; envelope acted in {} ticks",
        stats.ticks,
        percentile(&stats.on_controller_us, 0.5),
        percentile(&stats.on_controller_us, 1.0),
        percentile(&stats.round_trip_us, 0.5),
        stats.limited,
    );
}
