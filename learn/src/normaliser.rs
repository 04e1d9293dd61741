//! Running mean and variance.

use crate::checkpoint::Checkpoint;
use crate::communicator::{Alone, Communicator};
use crate::run_folder::FileError;

/// Running mean and variance of vectors, merged batch by batch (Chan, Golub and LeVeque 1983).
#[derive(Clone, Debug, PartialEq)]
pub struct Normaliser {
    count: f64,
    mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    deviation: Vec<f64>,
}

/// Normalised observations are clipped to this many standard deviations (Gym's `NormalizeObservation` users and rsl_rl use 10).
pub const NORMALISED_LIMIT: f32 = 10.0;

/// Added to the variance, so that a constant component divides by something.
const EPSILON: f64 = 1e-8;

impl Normaliser {
    /// Knows nothing yet: normalising changes nothing but the clip.
    pub fn new(width: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; width], deviation: vec![0.0; width] }
    }

    /// Adds `rows`, `[n, width]`.
    pub fn update(&mut self, rows: &[f32]) {
        self.update_over(&Alone, rows);
    }

    /// Adds the `rows` of all ranks; each has some.
    pub fn update_over(&mut self, ranks: &dyn Communicator, rows: &[f32]) {
        let width = self.mean.len();
        if width == 0 || rows.is_empty() {
            return;
        }
        let column = |j: usize| rows[j..].iter().step_by(width).map(|&x| f64::from(x));
        let mut sums: Vec<f64> = (0..width).map(|j| column(j).sum()).collect();
        sums.push((rows.len() / width) as f64);
        ranks.sum_f64(&mut sums);
        let n = sums[width];
        let means: Vec<f64> = sums[..width].iter().map(|sum| sum / n).collect();
        let mut deviations: Vec<f64> =
            (0..width).map(|j| column(j).map(|x| (x - means[j]).powi(2)).sum()).collect();
        ranks.sum_f64(&mut deviations);
        let total = self.count + n;
        for j in 0..width {
            let delta = means[j] - self.mean[j];
            self.mean[j] += delta * n / total;
            self.deviation[j] += deviations[j] + delta * delta * self.count * n / total;
        }
        self.count = total;
    }

    pub(crate) fn save(&self, checkpoint: &mut Checkpoint, name: &str) {
        checkpoint.put(&format!("{name}.count"), &[self.count]);
        checkpoint.put(&format!("{name}.mean"), &self.mean);
        checkpoint.put(&format!("{name}.deviation"), &self.deviation);
    }

    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<(), FileError> {
        let width = self.mean.len();
        self.count = checkpoint.array(&format!("{name}.count"), 1)?[0];
        self.mean = checkpoint.array(&format!("{name}.mean"), width)?.to_vec();
        self.deviation = checkpoint.array(&format!("{name}.deviation"), width)?.to_vec();
        Ok(())
    }

    /// Takes the place of the normaliser behind `frozen`, as if it had seen many rows.
    pub(crate) fn pretend(&mut self, frozen: &FrozenNormaliser) {
        /// As many rows as some iterations of learning bring.
        const ROWS: f64 = 1e6;
        self.count = ROWS;
        self.mean = frozen.offset.iter().map(|&x| f64::from(x)).collect();
        self.deviation =
            frozen.scale.iter().map(|&s| ROWS * (f64::from(s).powi(-2) - EPSILON).max(0.0)).collect();
    }

    /// What is subtracted, `[width]`.
    pub fn offset(&self) -> Vec<f32> {
        self.mean.iter().map(|&m| m as f32).collect()
    }

    /// What the difference is multiplied by, `[width]`: one over the standard deviation.
    pub fn scale(&self) -> Vec<f32> {
        let count = self.count;
        self.deviation
            .iter()
            .map(|&d| if count > 1.0 { (1.0 / (d / count + EPSILON).sqrt()) as f32 } else { 1.0 })
            .collect()
    }

    /// The map `clip((x - offset) scale)` as it stands now.
    pub fn freeze(&self) -> FrozenNormaliser {
        FrozenNormaliser { offset: self.offset(), scale: self.scale() }
    }
}

/// A [`Normaliser`]'s map at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct FrozenNormaliser {
    /// Subtracted first, `[width]`.
    pub offset: Vec<f32>,
    /// Multiplied then, `[width]`.
    pub scale: Vec<f32>,
}

impl FrozenNormaliser {
    /// Writes the normalised `rows`, `[n, width]`.
    pub fn apply(&self, rows: &[f32], normalised: &mut [f32]) {
        let width = self.offset.len().max(1);
        for (source, target) in rows.chunks_exact(width).zip(normalised.chunks_exact_mut(width)) {
            for j in 0..width {
                target[j] =
                    ((source[j] - self.offset[j]) * self.scale[j]).clamp(-NORMALISED_LIMIT, NORMALISED_LIMIT);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    #[test]
    fn batches_give_the_mean_and_variance_of_the_whole() {
        let mut rng = Rng::at(0, &[]);
        let rows: Vec<f32> = (0..3000)
            .map(|i| if i % 2 == 0 { 100.0 + rng.normal() as f32 } else { 0.01 * rng.normal() as f32 })
            .collect();
        let mut batches = Normaliser::new(2);
        rows.chunks(300).for_each(|batch| batches.update(batch));
        let mut whole = Normaliser::new(2);
        whole.update(&rows);
        for j in 0..2 {
            assert!((batches.mean[j] - whole.mean[j]).abs() < 1e-9);
            assert!((batches.deviation[j] / whole.deviation[j] - 1.0).abs() < 1e-9);
        }
        let mut normalised = vec![0.0; rows.len()];
        whole.freeze().apply(&rows, &mut normalised);
        let variance = normalised.iter().step_by(2).map(|x| f64::from(x * x)).sum::<f64>() / 1500.0;
        assert!((variance - 1.0).abs() < 1e-3, "{variance}");
    }
}
