//! Gymnasium's `Pendulum-v1`, the analytic environment of the learners' tests and of `bench ppo`.

use tendon_sim::{Environment, Step};

use crate::random::Rng;

/// Swing up and balance a torque-limited pendulum: observation `(cos, sin, speed)`, action in -1..1 for +-2 Nm, 200 steps of 50 ms,
/// reward `-(angle^2 + 0.1 speed^2 + 0.001 torque^2)`.
#[derive(Clone, Debug, Default)]
pub struct Pendulum {
    angle: f64,
    speed: f64,
    time: u32,
}

impl Pendulum {
    fn observe(&self, observation: &mut [f32]) {
        observation.copy_from_slice(&[self.angle.cos() as f32, self.angle.sin() as f32, self.speed as f32]);
    }
}

impl Environment for Pendulum {
    fn observation_len(&self) -> usize {
        3
    }

    fn action_len(&self) -> usize {
        1
    }

    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        let mut rng = Rng::at(seed, &[]);
        self.angle = std::f64::consts::PI * (2.0 * rng.uniform() - 1.0);
        self.speed = 2.0 * rng.uniform() - 1.0;
        self.time = 0;
        self.observe(observation);
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        let torque = 2.0 * f64::from(action[0]).clamp(-1.0, 1.0);
        let pi = std::f64::consts::PI;
        let angle = (self.angle + pi).rem_euclid(2.0 * pi) - pi;
        let cost = angle * angle + 0.1 * self.speed * self.speed + 0.001 * torque * torque;
        // g = 10, m = 1, l = 1, dt = 0.05.
        self.speed = (self.speed + (15.0 * self.angle.sin() + 3.0 * torque) * 0.05).clamp(-8.0, 8.0);
        self.angle += self.speed * 0.05;
        self.time += 1;
        self.observe(observation);
        Step { reward: -cost as f32, terminated: false, truncated: self.time == 200 }
    }
}

/// A maker for learners.
#[cfg(test)]
pub(crate) fn pendulum() -> Box<dyn Environment> {
    Box::new(Pendulum::default())
}
