//! Adam on packed weights.

/// Adam (Kingma and Ba 2015, algorithm 1) with the gradient's norm clipped over all weights together, as PPO implementations do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Adam {
    pub(crate) first_moment: Vec<f32>,
    pub(crate) second_moment: Vec<f32>,
    /// Steps taken.
    pub(crate) time: u64,
}

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
/// Larger than Adam's 1e-8, as in CleanRL's and Stable-Baselines3's PPO.
const EPSILON: f32 = 1e-5;

impl Adam {
    pub(crate) fn new(parameters: usize) -> Self {
        Self { first_moment: vec![0.0; parameters], second_moment: vec![0.0; parameters], time: 0 }
    }

    /// Moves `parameters` against `gradient`, whose norm is clipped to `max_norm`.
    pub(crate) fn step(
        &mut self,
        parameters: &mut [f32],
        gradient: &[f32],
        learning_rate: f32,
        max_norm: f32,
    ) {
        self.time += 1;
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
        let scale = if norm > max_norm { max_norm / norm } else { 1.0 };
        let time = i32::try_from(self.time).unwrap_or(i32::MAX);
        let correction_1 = 1.0 - BETA_1.powi(time);
        let correction_2 = 1.0 - BETA_2.powi(time);
        let moments = self.first_moment.iter_mut().zip(&mut self.second_moment);
        for ((parameter, gradient), (first, second)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * scale;
            *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
            *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
            *parameter -=
                learning_rate * (*first / correction_1) / ((*second / correction_2).sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_a_parabola() {
        let mut adam = Adam::new(2);
        let mut x = [3.0, -2.0];
        for _ in 0..2000 {
            let gradient = [2.0 * (x[0] - 1.0), 20.0 * (x[1] - 0.5)];
            adam.step(&mut x, &gradient, 0.01, 100.0);
        }
        assert!((x[0] - 1.0).abs() < 1e-2 && (x[1] - 0.5).abs() < 1e-2, "{x:?}");
    }
}
