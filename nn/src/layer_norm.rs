//! Layer normalisation.

/// Rows with mean 0 and variance 1, times a gain, plus a bias (Ba, Kiros and Hinton 2016); ONNX's `LayerNormalization`.
///
/// Parameters: gain, `[width]`, then bias, `[width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerNorm {
    /// Numbers of a row.
    pub width: usize,
}

/// Added to the variance: PyTorch's and ONNX's default.
const EPSILON: f32 = 1e-5;

impl LayerNorm {
    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        2 * self.width
    }

    /// Fresh parameters: gain 1, bias 0.
    pub fn initialise(&self) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        parameters[..self.width].fill(1.0);
        parameters
    }

    /// Writes the normalised rows of `x` to `y`, both `[rows, width]`.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn forward(&self, parameters: &[f32], x: &[f32], y: &mut [f32]) {
        let (gain, bias) = self.split(parameters);
        assert_eq!(x.len(), y.len(), "as many results as inputs");
        assert_eq!(x.len() % self.width, 0, "whole rows of {}", self.width);
        for (x, y) in x.chunks_exact(self.width).zip(y.chunks_exact_mut(self.width)) {
            let (mean, scale) = moments(x);
            for ((y, x), (gain, bias)) in y.iter_mut().zip(x).zip(gain.iter().zip(bias)) {
                *y = (x - mean) * scale * gain + bias;
            }
        }
    }

    /// Adds the gradient of the parameters to `gradient` and writes d loss / d `x` to `d_x`, given `d_y`.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn backward(
        &self,
        parameters: &[f32],
        x: &[f32],
        d_y: &[f32],
        gradient: &mut [f32],
        d_x: &mut [f32],
    ) {
        let width = self.width;
        let (gain, _) = self.split(parameters);
        assert_eq!(gradient.len(), self.parameter_count(), "gradient");
        assert!(x.len() == d_y.len() && x.len() == d_x.len(), "as many derivatives as inputs");
        assert_eq!(x.len() % width, 0, "whole rows of {width}");
        let (d_gain, d_bias) = gradient.split_at_mut(width);
        let rows = x.chunks_exact(width).zip(d_y.chunks_exact(width)).zip(d_x.chunks_exact_mut(width));
        for ((x, d_y), d_x) in rows {
            let (mean, scale) = moments(x);
            let (mut sum, mut along) = (0.0, 0.0);
            for i in 0..width {
                let normalised = (x[i] - mean) * scale;
                d_gain[i] += d_y[i] * normalised;
                d_bias[i] += d_y[i];
                d_x[i] = d_y[i] * gain[i];
                sum += d_x[i];
                along += d_x[i] * normalised;
            }
            let (sum, along) = (sum / width as f32, along / width as f32);
            for (d, x) in d_x.iter_mut().zip(x) {
                *d = scale * (*d - sum - (x - mean) * scale * along);
            }
        }
    }

    fn split<'a>(&self, parameters: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        assert_eq!(parameters.len(), self.parameter_count(), "parameters");
        parameters.split_at(self.width)
    }
}

/// Mean, and one over the standard deviation.
fn moments(x: &[f32]) -> (f32, f32) {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / x.len() as f32;
    (mean, 1.0 / (variance + EPSILON).sqrt())
}
