//! Dense tanh networks: their shape, their packed weights, and fast inference for rollouts.

use crate::random::Rng;

/// A multi-layer perceptron: `tanh(x W + b)` layers and a linear last one.
///
/// The weights live outside, packed in one slice per network: for each layer `W`, `[inputs, outputs]` row-major, then `b`, `[outputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    sizes: Vec<usize>,
}

/// One layer of an [`Mlp`]: where its weights lie in the packed slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Offset of `W`, `[inputs, outputs]`.
    pub weight: usize,
    /// Offset of `b`, `[outputs]`.
    pub bias: usize,
    /// Linear instead of tanh.
    pub last: bool,
}

impl Mlp {
    /// A network `inputs -> hidden.. -> outputs`.
    pub fn new(inputs: usize, hidden: &[usize], outputs: usize) -> Self {
        let mut sizes = vec![inputs];
        sizes.extend_from_slice(hidden);
        sizes.push(outputs);
        Self { sizes }
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.sizes[0]
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.sizes[self.sizes.len() - 1]
    }

    /// Length of the packed weights.
    pub fn parameter_count(&self) -> usize {
        self.sizes.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum()
    }

    /// The layers from input to output.
    pub fn layers(&self) -> impl Iterator<Item = Layer> + '_ {
        let mut offset = 0;
        let last = self.sizes.len() - 2;
        self.sizes.windows(2).enumerate().map(move |(i, pair)| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let layer =
                Layer { inputs, outputs, weight: offset, bias: offset + inputs * outputs, last: i == last };
            offset = layer.bias + outputs;
            layer
        })
    }

    /// Fresh weights: orthogonal with gain sqrt(2), the last layer with `output_gain`, zero biases (Andrychowicz et al. 2021;
    /// CleanRL's `layer_init`).
    pub fn initialise(&self, output_gain: f32, rng: &mut Rng) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        for layer in self.layers() {
            let gain = if layer.last { output_gain } else { std::f32::consts::SQRT_2 };
            orthogonal(layer.inputs, layer.outputs, gain, rng, &mut parameters[layer.weight..layer.bias]);
        }
        parameters
    }

    /// Computes `output`, `[rows, outputs]`, from `input`, `[rows, inputs]`, without burn. Every row is computed alone and in the
    /// same order, so its bits do not depend on its neighbours. Cost: about 0.25 ns per weight and row (SSE2).
    ///
    /// # Panics
    /// When `input` is no whole number of rows or `parameters` is not [`Mlp::parameter_count`] long.
    pub fn infer(&self, parameters: &[f32], input: &[f32], output: &mut Vec<f32>) {
        assert_eq!(parameters.len(), self.parameter_count());
        assert_eq!(input.len() % self.inputs(), 0);
        let rows = input.len() / self.inputs();
        let mut current: Vec<f32> = Vec::new();
        for (i, layer) in self.layers().enumerate() {
            let weight = &parameters[layer.weight..layer.bias];
            let bias = &parameters[layer.bias..layer.bias + layer.outputs];
            let source = if i == 0 { input } else { &current };
            output.resize(rows * layer.outputs, 0.0);
            for (x, y) in source.chunks_exact(layer.inputs).zip(output.chunks_exact_mut(layer.outputs)) {
                dense_row(weight, bias, x, y);
                if !layer.last {
                    y.iter_mut().for_each(|v| *v = tanh(*v));
                }
            }
            if !layer.last {
                std::mem::swap(&mut current, output);
            }
        }
    }
}

/// tanh as a ratio of polynomials (Eigen's `ptanh_float`), absolute error below 1e-6; the compiler vectorises it.
#[inline]
pub(crate) fn tanh(x: f32) -> f32 {
    // Beyond this the ratio would pass 1.
    let x = x.clamp(-7.905_311, 7.905_311);
    let x2 = x * x;
    let mut p = -2.760_768_5e-16;
    for a in [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619e-4, 4.893_524_6e-3] {
        p = p * x2 + a;
    }
    let mut q = 1.198_258_4e-6;
    for b in [1.185_347e-4, 2.268_434_6e-3, 4.893_525e-3] {
        q = q * x2 + b;
    }
    x * p / q
}

/// Outputs per register tile: four SSE registers of four.
const TILE: usize = 16;

/// `y = x W + b` for one row.
#[inline]
fn dense_row(weight: &[f32], bias: &[f32], x: &[f32], y: &mut [f32]) {
    let outputs = y.len();
    let tiled = outputs - outputs % TILE;
    for start in (0..tiled).step_by(TILE) {
        let mut sum = [0.0f32; TILE];
        sum.copy_from_slice(&bias[start..start + TILE]);
        for (k, &value) in x.iter().enumerate() {
            let row = &weight[k * outputs + start..k * outputs + start + TILE];
            for (s, w) in sum.iter_mut().zip(row) {
                *s += value * w;
            }
        }
        y[start..start + TILE].copy_from_slice(&sum);
    }
    for j in tiled..outputs {
        y[j] = x.iter().enumerate().fold(bias[j], |sum, (k, value)| sum + value * weight[k * outputs + j]);
    }
}

/// Fills `weight`, `[rows, columns]`, with a (semi-)orthogonal matrix times `gain`: modified Gram-Schmidt on normal draws along the
/// longer side's vectors (Saxe et al. 2014).
fn orthogonal(rows: usize, columns: usize, gain: f32, rng: &mut Rng, weight: &mut [f32]) {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    while basis.len() < count {
        let mut v: Vec<f64> = (0..length).map(|_| rng.normal()).collect();
        for u in &basis {
            let dot: f64 = u.iter().zip(&v).map(|(a, b)| a * b).sum();
            v.iter_mut().zip(u).for_each(|(a, b)| *a -= dot * b);
        }
        let norm = v.iter().map(|a| a * a).sum::<f64>().sqrt();
        // A draw inside the span of the others (probability zero, but division by it is not) is drawn again.
        if norm > 1e-6 {
            v.iter_mut().for_each(|a| *a /= norm);
            basis.push(v);
        }
    }
    for i in 0..rows {
        for j in 0..columns {
            let value = if rows <= columns { basis[i][j] } else { basis[j][i] };
            weight[i * columns + j] = gain * value as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_within_one_millionth_of_the_truth() {
        let worst = (-200_000..=200_000)
            .map(|i| i as f32 * 1e-4)
            .map(|x| (f64::from(tanh(x)) - f64::from(x).tanh()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-6, "{worst}");
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        let mlp = Mlp::new(5, &[33, 20], 3);
        let mut rng = Rng::at(0, &[]);
        let parameters = mlp.initialise(1.0, &mut rng);
        let input: Vec<f32> = (0..50).map(|_| rng.normal() as f32).collect();
        let (mut batch, mut alone) = (Vec::new(), Vec::new());
        mlp.infer(&parameters, &input, &mut batch);
        for (row, expected) in input.chunks(5).zip(batch.chunks(3)) {
            mlp.infer(&parameters, row, &mut alone);
            assert_eq!(alone, expected);
        }
    }

    #[test]
    fn initial_weights_are_orthogonal() {
        let mut weight = vec![0.0; 64 * 5];
        orthogonal(64, 5, 2.0, &mut Rng::at(3, &[]), &mut weight);
        for a in 0..5 {
            for b in 0..5 {
                let dot: f32 = (0..64).map(|i| weight[i * 5 + a] * weight[i * 5 + b]).sum();
                let expected = if a == b { 4.0 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-4, "{a} {b} {dot}");
            }
        }
    }
}
