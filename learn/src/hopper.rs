//! Gymnasium's `Hopper-v5` on this simulation: its own MJCF, observation, reward, end and frame skip. For `bench ppo`.

use std::path::Path;
use std::sync::Arc;

use tendon_sim::{Environment, JointCommand, LoadError, Robot, RobotOptions, Step, World};

use crate::random::Rng;

/// Hop forward without falling. Observation: height and angles, then velocities clipped to +-10, `[11]`; action: torques of thigh, leg
/// and foot in -1..1 for +-200 Nm, `[3]`; reward: speed + 1 - 0.001 (clipped action)^2; 1000 steps of four physics steps.
pub struct Hopper {
    world: World,
    steps: u32,
}

const FRAME_SKIP: usize = 4;
const TIME_LIMIT: u32 = 1000;
const GEAR: f32 = 200.0;
const JOINTS: usize = 6;
/// Standing: root x, root z (MJCF `ref`), pitch, thigh, leg, foot.
const START: [f32; JOINTS] = [0.0, 1.25, 0.0, 0.0, 0.0, 0.0];
const RESET_NOISE: f64 = 5e-3;

impl Hopper {
    /// Loads Gymnasium's `hopper.xml`.
    ///
    /// # Errors
    /// As [`Robot::from_file`].
    pub fn load(file: &Path) -> Result<Arc<Robot>, LoadError> {
        Robot::from_file(file, RobotOptions::default())
    }

    /// An environment of a loaded robot.
    pub fn new(robot: Arc<Robot>) -> Self {
        Self { world: World::new(robot), steps: 0 }
    }

    fn observe(&self, observation: &mut [f32]) {
        for i in 1..JOINTS {
            observation[i - 1] = self.world.joint_position(i);
        }
        for i in 0..JOINTS {
            observation[JOINTS - 1 + i] = self.world.joint_velocity(i).clamp(-10.0, 10.0);
        }
    }
}

impl Environment for Hopper {
    fn observation_len(&self) -> usize {
        2 * JOINTS - 1
    }

    fn action_len(&self) -> usize {
        3
    }

    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        let mut rng = Rng::at(seed, &[]);
        let mut noise = || (RESET_NOISE * (2.0 * rng.uniform() - 1.0)) as f32;
        let position = START.map(|q| q + noise());
        let velocity = [0.0; JOINTS].map(|dq: f32| dq + noise());
        self.world.reset();
        self.world.set_joint_state(&position, &velocity);
        self.steps = 0;
        self.observe(observation);
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        let mut commands = [JointCommand::default(); JOINTS];
        for (command, a) in commands[3..].iter_mut().zip(action) {
            command.torque = GEAR * a.clamp(-1.0, 1.0);
            command.torque_limit = GEAR;
        }
        let before = self.world.joint_position(0);
        self.world.step(&commands, FRAME_SKIP);
        self.steps += 1;
        if !self.world.is_finite() {
            return Step { reward: 0.0, terminated: false, truncated: true };
        }
        let period = FRAME_SKIP as f32 * self.world.robot().timestep_s;
        let speed = (self.world.joint_position(0) - before) / period;
        self.observe(observation);
        let (height, angle) = (observation[0], observation[1]);
        let bounded = observation[1..].iter().all(|x| x.abs() < 100.0);
        let healthy = height > 0.7 && angle.abs() < 0.2 && bounded;
        let cost: f32 = 1e-3 * action.iter().map(|a| a.clamp(-1.0, 1.0).powi(2)).sum::<f32>();
        Step {
            reward: speed + f32::from(u8::from(healthy)) - cost,
            terminated: !healthy,
            truncated: healthy && self.steps >= TIME_LIMIT,
        }
    }
}
