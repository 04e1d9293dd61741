//! Adam on flat parameters.

use crate::raw::{self, AdamStep, Pool};

/// Hyper-parameters of [`Adam`] that stay the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the second moment. PPO implementations take 1e-5, Adam's paper 1e-8.
    pub epsilon: f32,
    /// The gradient's norm over all parameters is clipped to this; infinite: never.
    pub max_norm: f32,
    /// Decoupled weight decay per unit of learning rate (AdamW, Loshchilov and Hutter 2019); 0: Adam.
    pub weight_decay: f32,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, max_norm: f32::INFINITY, weight_decay: 0.0 }
    }
}

/// Adam (Kingma and Ba 2015, algorithm 1) and its moments; what a checkpoint holds of it is its public fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// What stays the same.
    pub settings: AdamSettings,
    /// Running mean of the gradient, in the order of the parameters.
    pub first_moment: Vec<f32>,
    /// Running mean of its square.
    pub second_moment: Vec<f32>,
    /// Steps taken.
    pub time: u64,
}

impl Adam {
    /// For `parameters` numbers, before the first step.
    pub fn new(parameters: usize, settings: AdamSettings) -> Self {
        Self { settings, first_moment: vec![0.0; parameters], second_moment: vec![0.0; parameters], time: 0 }
    }

    /// Moves `parameters` against `gradient`; returns the gradient's norm before it was clipped.
    ///
    /// # Panics
    /// When a length is not the one of [`Adam::new`].
    pub fn step(&mut self, parameters: &mut [f32], gradient: &[f32], learning_rate: f32) -> f32 {
        self.step_on(&mut Pool::new(1), parameters, gradient, learning_rate)
    }

    /// [`Adam::step`] on the threads of a pool, with the same bits.
    ///
    /// # Panics
    /// As [`Adam::step`].
    pub fn step_on(
        &mut self,
        pool: &mut Pool,
        parameters: &mut [f32],
        gradient: &[f32],
        learning_rate: f32,
    ) -> f32 {
        assert_eq!(parameters.len(), self.first_moment.len(), "parameters");
        assert_eq!(gradient.len(), self.first_moment.len(), "gradient");
        let AdamSettings { beta_1, beta_2, epsilon, max_norm, weight_decay } = self.settings;
        self.time += 1;
        // By pieces also on one thread: the order of summation does not depend on the pool.
        let mut pieces: Vec<Piece<'_>> = gradient
            .chunks(PIECE)
            .zip(parameters.chunks_mut(PIECE))
            .zip(self.first_moment.chunks_mut(PIECE).zip(self.second_moment.chunks_mut(PIECE)))
            .map(|((gradient, parameters), (first, second))| Piece {
                gradient,
                parameters,
                first,
                second,
                squares: 0.0,
            })
            .collect();
        pool.for_each_mut(&mut pieces, |_, piece| piece.squares = raw::squares(piece.gradient));
        let norm = pieces.iter().map(|piece| piece.squares).sum::<f64>().sqrt() as f32;
        let time = i32::try_from(self.time).unwrap_or(i32::MAX);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(time);
        let step = AdamStep {
            scale: if norm > max_norm { max_norm / norm } else { 1.0 },
            beta_1,
            beta_2,
            rate: (f64::from(learning_rate) / correction(beta_1)) as f32,
            root_correction: (1.0 / correction(beta_2).sqrt()) as f32,
            epsilon,
            keep: 1.0 - learning_rate * weight_decay,
        };
        pool.for_each_mut(&mut pieces, |_, piece| {
            raw::adam(&step, piece.gradient, piece.parameters, piece.first, piece.second);
        });
        norm
    }
}

/// Parameters that a thread takes at once: small enough for the first cache.
const PIECE: usize = 4096;

struct Piece<'a> {
    gradient: &'a [f32],
    parameters: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    squares: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_a_parabola() {
        let mut adam = Adam::new(2, AdamSettings { max_norm: 100.0, ..AdamSettings::default() });
        let mut x = [3.0, -2.0];
        for _ in 0..2000 {
            let gradient = [2.0 * (x[0] - 1.0), 20.0 * (x[1] - 0.5)];
            adam.step(&mut x, &gradient, 0.01);
        }
        assert!((x[0] - 1.0).abs() < 1e-2 && (x[1] - 0.5).abs() < 1e-2, "{x:?}");
    }

    #[test]
    fn a_long_gradient_moves_as_far_as_one_of_the_greatest_norm() {
        let settings = AdamSettings { max_norm: 0.5, epsilon: 1.0, ..AdamSettings::default() };
        let (mut a, mut b) = (Adam::new(2, settings), Adam::new(2, settings));
        let (mut x, mut y) = ([0.0; 2], [0.0; 2]);
        assert_eq!(a.step(&mut x, &[300.0, 400.0], 0.1), 500.0);
        b.step(&mut y, &[0.3, 0.4], 0.1);
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-7), "{x:?} {y:?}");
    }

    #[test]
    fn a_step_on_threads_has_the_bits_of_one_thread() {
        let count = 3 * PIECE + 17;
        let gradient: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
        let settings = AdamSettings { max_norm: 0.5, ..AdamSettings::default() };
        let (mut one, mut many) = (Adam::new(count, settings), Adam::new(count, settings));
        let (mut x, mut y) = (vec![1.0; count], vec![1.0; count]);
        let mut pool = Pool::new(3);
        for _ in 0..5 {
            let norms = [one.step(&mut x, &gradient, 0.1), many.step_on(&mut pool, &mut y, &gradient, 0.1)];
            assert!(norms[0] > 0.5 && norms[0] == norms[1], "{norms:?}");
        }
        assert_eq!((x, one), (y, many));
    }

    #[test]
    fn weight_decay_shrinks_what_has_no_gradient() {
        let mut adam = Adam::new(1, AdamSettings { weight_decay: 0.1, ..AdamSettings::default() });
        let mut x = [2.0];
        adam.step(&mut x, &[0.0], 0.5);
        assert_eq!(x, [2.0 * 0.95]);
    }
}
