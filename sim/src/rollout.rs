//! Velocity-tracking rollouts of a legged robot: the same figures whoever computes the joint commands, whether a
//! policy in this process or a controller on the other end of a wire.

use std::sync::Arc;

use tendon_runtime::JointCommand;

use crate::robot::Robot;
use crate::seed::TrajectoryHash;
use crate::world::World;

/// What to run.
#[derive(Clone, Debug)]
pub struct LocomotionTask {
    /// Name of the file's keyframe to start from.
    pub keyframe: String,
    /// Site whose motion is measured (the IMU).
    pub site: String,
    /// Control period in seconds; rounded to whole physics steps.
    pub control_period_s: f32,
    /// Length of the run in seconds.
    pub duration_s: f32,
    /// Length at the end over which velocities are averaged, in seconds.
    pub window_s: f32,
}

/// Figures of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocomotionMetrics {
    /// Mean velocity of the site in its own frame, x and y, over the window, m/s.
    pub mean_velocity: [f32; 2],
    /// Mean angular velocity about the site's z over the window, rad/s.
    pub mean_yaw_rate: f32,
    /// Lowest height of the base's origin over the whole run, m.
    pub lowest_height: f32,
    /// Position of the base at the end, m.
    pub final_position: [f32; 3],
    /// FNV-1a of base pose and joint positions of every control step: equal only if the runs are equal bit for bit.
    pub hash: u64,
    /// Control steps run; fewer than asked for if the simulation diverged.
    pub steps: usize,
}

/// Why a rollout could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError<E: std::error::Error + 'static> {
    /// The robot file has no such keyframe or site.
    #[error("{robot}: no {kind} called \"{name}\"; the file has {known}")]
    Missing {
        /// Model name of the robot.
        robot: String,
        /// `keyframe` or `site`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The controller failed.
    #[error("control step {step}: {source}")]
    Controller {
        /// Control step, from 0.
        step: usize,
        /// Its error.
        source: E,
    },
}

/// Runs `controller` once per control period: it reads the world and writes one command per joint.
///
/// # Errors
/// A missing keyframe or site, or the controller's own error with the step at which it came.
pub fn run_locomotion<E: std::error::Error + 'static>(
    robot: &Arc<Robot>,
    task: &LocomotionTask,
    mut controller: impl FnMut(&World, &mut [JointCommand]) -> Result<(), E>,
) -> Result<LocomotionMetrics, RolloutError<E>> {
    let missing = |kind, name: &str, known: Vec<&str>| RolloutError::Missing {
        robot: robot.name.clone(),
        kind,
        name: name.to_owned(),
        known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
    };
    let keyframe = robot.keyframe(&task.keyframe).ok_or_else(|| {
        missing("keyframe", &task.keyframe, robot.keyframes.iter().map(|k| k.name.as_str()).collect())
    })?;
    let site = robot
        .site(&task.site)
        .ok_or_else(|| missing("site", &task.site, robot.sites.iter().map(|s| s.name.as_str()).collect()))?;

    let substeps = whole(task.control_period_s / robot.timestep_s).max(1);
    let steps = whole(task.duration_s / task.control_period_s);
    let window_start = steps.saturating_sub(whole(task.window_s / task.control_period_s));
    let mut world = World::new(Arc::clone(robot));
    world.apply_keyframe(keyframe);
    let mut commands = vec![JointCommand::default(); robot.joints.len()];
    let mut joints = vec![0.0; robot.joints.len()];
    let mut hash = TrajectoryHash::default();
    let mut sum = [0.0f64; 3];
    let mut lowest_height = f32::INFINITY;
    let mut run = 0;
    for step in 0..steps {
        controller(&world, &mut commands).map_err(|source| RolloutError::Controller { step, source })?;
        world.step(&commands, substeps);
        run = step + 1;
        let (position, quaternion) = world.base_pose();
        for (index, joint) in joints.iter_mut().enumerate() {
            *joint = world.joint_position(index);
        }
        hash.update(&position);
        hash.update(&quaternion);
        hash.update(&joints);
        lowest_height = lowest_height.min(position[2]);
        if !world.is_finite() {
            break;
        }
        if step >= window_start {
            let motion = world.site_motion(site);
            sum[0] += f64::from(motion.linear_velocity[0]);
            sum[1] += f64::from(motion.linear_velocity[1]);
            sum[2] += f64::from(motion.angular_velocity[2]);
        }
    }
    let mean = sum.map(|s| (s / (run.saturating_sub(window_start).max(1)) as f64) as f32);
    Ok(LocomotionMetrics {
        mean_velocity: [mean[0], mean[1]],
        mean_yaw_rate: mean[2],
        lowest_height,
        final_position: world.base_pose().0,
        hash: hash.value(),
        steps: run,
    })
}

fn whole(ratio: f32) -> usize {
    ratio.round().max(0.0) as usize
}
