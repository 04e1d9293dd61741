//! Gymnasium's `Pendulum-v1`, the analytic environment of the learners' tests and of `bench ppo`.

use std::sync::LazyLock;

use tendon_sim::{Environment, Step};

use crate::random::Rng;

/// Swing up and balance a torque-limited pendulum: observation `(cos, sin, speed)`, action in -1..1 for +-2 Nm, 200 steps of 50 ms,
/// reward `-(angle^2 + 0.1 speed^2 + 0.001 torque^2)`.
#[derive(Clone, Debug, Default)]
pub struct Pendulum {
    angle: f64,
    speed: f64,
    time: u32,
    metrics: [f32; 2],
    hides_speed: bool,
}

impl Pendulum {
    /// Observes `(cos, sin)` alone: the speed has to be remembered from angles. The speed is privileged.
    pub fn without_speed() -> Self {
        Self { hides_speed: true, ..Self::default() }
    }

    fn observe(&self, observation: &mut [f32]) {
        let all = [self.angle.cos() as f32, self.angle.sin() as f32, self.speed as f32];
        observation.copy_from_slice(&all[..observation.len()]);
    }
}

impl Environment for Pendulum {
    fn observation_len(&self) -> usize {
        if self.hides_speed { 2 } else { 3 }
    }

    fn privileged_len(&self) -> usize {
        usize::from(self.hides_speed)
    }

    fn privileged(&self, privileged: &mut [f32]) {
        privileged.fill(self.speed as f32);
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
        self.metrics = [torque as f32, self.speed as f32];
        self.observe(observation);
        Step { reward: -cost as f32, terminated: false, truncated: self.time == 200 }
    }

    fn metric_names(&self) -> &[String] {
        static NAMES: LazyLock<[String; 2]> =
            LazyLock::new(|| ["torque_nm", "speed_rad_s"].map(String::from));
        &*NAMES
    }

    fn metrics(&self) -> &[f32] {
        &self.metrics
    }
}

/// Side of the pictures of [`pictures`].
#[cfg(test)]
pub(crate) const SIDE: usize = 12;

/// The pendulum seen by a camera: the pictures of now and of a step ago as two channels, `[SIDE, SIDE, 2]`. Privileged: what
/// [`Pendulum`] observes.
#[cfg(test)]
#[derive(Default)]
struct Pictures {
    inner: Pendulum,
    state: [f32; 3],
    /// Of a step ago.
    angle: f32,
}

#[cfg(test)]
impl Pictures {
    /// A rod as long as the picture allows, white on black, soft at its edge.
    fn draw(&self, observation: &mut [f32]) {
        let now = self.state[1].atan2(self.state[0]);
        for (channel, angle) in [now, self.angle].into_iter().enumerate() {
            let (x, y) = (angle.sin(), angle.cos());
            for (i, pixel) in observation.chunks_exact_mut(2).enumerate() {
                let middle = (SIDE as f32 - 1.0) / 2.0;
                let (px, py) = ((i % SIDE) as f32 - middle, middle - (i / SIDE) as f32);
                let along = (px * x + py * y).clamp(0.0, middle);
                let distance = ((px - along * x).powi(2) + (py - along * y).powi(2)).sqrt();
                pixel[channel] = (1.5 - distance).clamp(0.0, 1.0);
            }
        }
    }
}

#[cfg(test)]
impl Environment for Pictures {
    fn observation_len(&self) -> usize {
        SIDE * SIDE * 2
    }
    fn action_len(&self) -> usize {
        1
    }
    fn reset(&mut self, seed: u64, observation: &mut [f32]) {
        self.inner.reset(seed, &mut self.state);
        self.angle = self.state[1].atan2(self.state[0]);
        self.draw(observation);
    }
    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> Step {
        self.angle = self.state[1].atan2(self.state[0]);
        let step = self.inner.step(action, &mut self.state);
        self.draw(observation);
        step
    }
    fn privileged_len(&self) -> usize {
        3
    }
    fn privileged(&self, privileged: &mut [f32]) {
        privileged.copy_from_slice(&self.state);
    }
    fn metric_names(&self) -> &[String] {
        self.inner.metric_names()
    }
    fn metrics(&self) -> &[f32] {
        self.inner.metrics()
    }
}

/// Pictures alone are seen.
#[cfg(test)]
pub(crate) fn pictures() -> Box<dyn Environment> {
    Box::new(Pictures::default())
}

/// The speed is not seen, but privileged.
#[cfg(test)]
pub(crate) fn without_speed() -> Box<dyn Environment> {
    Box::new(Pendulum::without_speed())
}

/// A maker for learners.
#[cfg(test)]
pub(crate) fn pendulum() -> Box<dyn Environment> {
    Box::new(Pendulum::default())
}
