//! Running mean and variance.

/// Running mean and variance of vectors, merged batch by batch (Chan, Golub and LeVeque 1983).
#[derive(Clone, Debug, PartialEq)]
pub struct Normaliser {
    pub(crate) count: f64,
    pub(crate) mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    pub(crate) deviation: Vec<f64>,
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
        let width = self.mean.len();
        let n = (rows.len() / width) as f64;
        if n == 0.0 {
            return;
        }
        let column = |j: usize| rows[j..].iter().step_by(width).map(|&x| f64::from(x));
        let total = self.count + n;
        for j in 0..width {
            let mean = column(j).sum::<f64>() / n;
            let deviation: f64 = column(j).map(|x| (x - mean).powi(2)).sum();
            let delta = mean - self.mean[j];
            self.mean[j] += delta * n / total;
            self.deviation[j] += deviation + delta * delta * self.count * n / total;
        }
        self.count = total;
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
        let width = self.offset.len();
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
