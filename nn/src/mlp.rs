//! Dense networks: shape, initial weights, forward and backward.

use crate::raw::{self, Aligned, Panels, Pool, Start};
use crate::sharded::BLOCK;
use std::ops::Range;

/// What follows a layer's `x W + b`, element by element: the controller's own functions, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    None,
    /// Hyperbolic tangent.
    #[default]
    Tanh,
    /// `max(z, 0)`.
    Relu,
    /// `z` where positive, else `exp(z) - 1`.
    Elu,
    /// `z sigmoid(z)`, also called SiLU.
    Swish,
    /// `1 / (1 + exp(-z))`.
    Sigmoid,
}

impl Activation {
    /// Whether the derivative is computed from `z`; from the result otherwise.
    pub(crate) fn keeps_input(self) -> bool {
        self == Activation::Swish
    }
}

/// A multi-layer perceptron: its shape, and where its weights lie in a flat slice of parameters.
///
/// Order: for each layer `W`, `[inputs, outputs]` row-major, then `b`, `[outputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    layers: Vec<Layer>,
}

/// One layer of an [`Mlp`].
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
    /// What follows.
    pub activation: Activation,
}

impl Layer {
    /// Where `W` lies.
    pub fn weights(&self) -> Range<usize> {
        self.weight..self.bias
    }

    /// Where `b` lies.
    pub fn biases(&self) -> Range<usize> {
        self.bias..self.bias + self.outputs
    }
}

impl Mlp {
    /// Layers of `sizes[0] -> sizes[1] -> ..`, each followed by `hidden`, the last one by `last`.
    ///
    /// # Panics
    /// With fewer than two sizes, or a size of 0.
    pub fn new(sizes: &[usize], hidden: Activation, last: Activation) -> Self {
        assert!(sizes.len() >= 2 && !sizes.contains(&0), "sizes {sizes:?}: two or more, none of them 0");
        let mut offset = 0;
        let layers = sizes.windows(2).enumerate().map(|(i, pair)| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let activation = if i + 2 == sizes.len() { last } else { hidden };
            let layer =
                Layer { inputs, outputs, weight: offset, bias: offset + inputs * outputs, activation };
            offset = layer.bias + outputs;
            layer
        });
        Self { layers: layers.collect() }
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.layers[0].inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.last().outputs
    }

    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        self.last().biases().end
    }

    /// The layers from input to output.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn last(&self) -> &Layer {
        self.layers.last().expect("an Mlp has layers")
    }

    /// Fresh parameters: orthogonal with gain sqrt(2), the last layer with `output_gain`, zero biases (Andrychowicz et al.
    /// 2021; CleanRL's `layer_init`). `normal` draws from a standard normal distribution.
    pub fn initialise(&self, output_gain: f32, normal: &mut impl FnMut() -> f64) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        for (i, layer) in self.layers.iter().enumerate() {
            let gain = if i + 1 == self.layers.len() { output_gain } else { std::f32::consts::SQRT_2 };
            orthogonal(layer.inputs, layer.outputs, gain, normal, &mut parameters[layer.weights()]);
        }
        parameters
    }

    /// Fresh parameters, weights and biases uniform in `+-1 / sqrt(inputs)` (PyTorch's `Linear`). `uniform` draws from
    /// `[0, 1)`.
    pub fn initialise_uniform(&self, uniform: &mut impl FnMut() -> f64) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        for layer in &self.layers {
            let bound = 1.0 / (layer.inputs as f64).sqrt();
            for value in &mut parameters[layer.weight..layer.biases().end] {
                *value = ((2.0 * uniform() - 1.0) * bound) as f32;
            }
        }
        parameters
    }

    /// `parameters` in the layout of the kernels.
    pub fn weights(&self, parameters: &[f32]) -> Weights {
        let layers = self.layers.iter().map(|layer| Prepared {
            weight: Panels::new(layer.inputs, layer.outputs),
            transposed: Panels::new(layer.outputs, layer.inputs),
            bias: Aligned::new(layer.outputs),
        });
        let mut weights = Weights { layers: layers.collect(), mlp: self.clone() };
        weights.set(parameters);
        weights
    }

    /// Memory for [`Weights`] of this network; each thread has its own.
    pub fn workspace(&self) -> Workspace {
        let rows = |width: usize| Aligned::new(BLOCK * width);
        let widest = self.layers.iter().map(|layer| layer.outputs).max().unwrap_or(0);
        let kept = |layer: &Layer| {
            if layer.activation.keeps_input() { rows(layer.outputs) } else { Aligned::new(0) }
        };
        Workspace {
            values: self.layers.iter().map(|layer| rows(layer.outputs)).collect(),
            inputs: self.layers.iter().map(kept).collect(),
            deltas: [rows(widest), rows(widest)],
        }
    }
}

/// Parameters of an [`Mlp`] in the layout of the kernels. [`Weights::set`] again after each step of the optimiser.
#[derive(Clone, Debug)]
pub struct Weights {
    mlp: Mlp,
    layers: Vec<Prepared>,
}

#[derive(Clone, Debug)]
struct Prepared {
    weight: Panels,
    transposed: Panels,
    bias: Aligned,
}

/// Memory of one thread: what [`Weights::forward`] leaves for [`Weights::backward`], of one block of rows.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Each layer's result.
    values: Vec<Aligned>,
    /// What went into its activation, where the derivative needs it.
    inputs: Vec<Aligned>,
    deltas: [Aligned; 2],
}

impl Weights {
    /// The shape.
    pub fn mlp(&self) -> &Mlp {
        &self.mlp
    }

    /// Takes `parameters`. Cost: about 0.2 ns each.
    ///
    /// # Panics
    /// When they are not [`Mlp::parameter_count`].
    pub fn set(&mut self, parameters: &[f32]) {
        assert_eq!(parameters.len(), self.mlp.parameter_count(), "parameters");
        self.set_on(&mut Pool::new(1), parameters);
    }

    /// [`Weights::set`] on the threads of a pool.
    ///
    /// # Panics
    /// As [`Weights::set`].
    pub fn set_on(&mut self, pool: &mut Pool, parameters: &[f32]) {
        assert_eq!(parameters.len(), self.mlp.parameter_count(), "parameters");
        let mut tasks = Vec::with_capacity(2 * self.layers.len());
        for (layer, prepared) in self.mlp.layers.iter().zip(&mut self.layers) {
            let weights = &parameters[layer.weights()];
            prepared.bias.copy_from_slice(&parameters[layer.biases()]);
            tasks.push((weights, &mut prepared.weight, false));
            tasks.push((weights, &mut prepared.transposed, true));
        }
        pool.for_each_mut(&mut tasks, |_, (weights, panels, transposed)| {
            if *transposed { panels.set_transposed(weights) } else { panels.set(weights) }
        });
    }

    /// Results, `[rows, outputs]`, of `input`, `[rows, inputs]`, at most [`BLOCK`] rows. A row has the same bits in any
    /// batch.
    ///
    /// # Panics
    /// With more rows, or a part of one.
    pub fn forward<'a>(&self, input: &[f32], workspace: &'a mut Workspace) -> &'a [f32] {
        let rows = self.rows(input);
        assert!(rows <= BLOCK, "{rows} rows: at most {BLOCK}");
        for (i, (layer, prepared)) in self.mlp.layers.iter().zip(&self.layers).enumerate() {
            let (before, values) = workspace.values.split_at_mut(i);
            let x = before.last().map_or(input, |x| &x[..rows * layer.inputs]);
            let kept = &mut workspace.inputs[i];
            let y = &mut values[0][..rows * layer.outputs];
            raw::multiply(x, &prepared.weight, Start::Bias(&prepared.bias), y, |row, band| {
                if layer.activation.keeps_input() {
                    kept[row * layer.outputs..][..band.len()].copy_from_slice(band);
                }
                raw::activate(layer.activation, band);
            });
        }
        let last = self.mlp.layers.len() - 1;
        &workspace.values[last][..rows * self.mlp.outputs()]
    }

    /// Adds the gradient of the parameters to `gradient`, given `d_output`, d loss / d results of the last
    /// [`Weights::forward`] with this `input` and `workspace`; writes d loss / d input where it is asked for.
    ///
    /// # Panics
    /// When a length does not fit the network.
    pub fn backward(
        &self,
        input: &[f32],
        d_output: &[f32],
        workspace: &mut Workspace,
        gradient: &mut [f32],
        d_input: Option<&mut [f32]>,
    ) {
        let rows = self.rows(input);
        assert_eq!(d_output.len(), rows * self.mlp.outputs(), "one derivative per result");
        assert_eq!(gradient.len(), self.mlp.parameter_count(), "gradient");
        let Workspace { values, inputs, deltas: [d, d_before] } = workspace;
        let kept = |i: usize| {
            let layer = &self.mlp.layers[i];
            let from = if layer.activation.keeps_input() { &inputs[i] } else { &values[i] };
            &from[..rows * layer.outputs]
        };
        let last = self.mlp.layers.len() - 1;
        d[..d_output.len()].copy_from_slice(d_output);
        raw::derive(self.mlp.last().activation, kept(last), &mut d[..d_output.len()]);
        for (i, layer) in self.mlp.layers.iter().enumerate().rev() {
            let d_now = &d[..rows * layer.outputs];
            raw::accumulate_rows(d_now, &mut gradient[layer.biases()]);
            let x = if i == 0 { input } else { &values[i - 1][..rows * layer.inputs] };
            raw::accumulate_outer(x, layer.inputs, d_now, layer.outputs, &mut gradient[layer.weights()]);
            if i == 0 {
                break;
            }
            let before = &mut d_before[..rows * layer.inputs];
            let (kept, activation) = (kept(i - 1), self.mlp.layers[i - 1].activation);
            raw::multiply(d_now, &self.layers[i].transposed, Start::Zero, before, |row, band| {
                raw::derive(activation, &kept[row * layer.inputs..][..band.len()], band);
            });
            std::mem::swap(d, d_before);
        }
        if let Some(d_input) = d_input {
            let first = &self.mlp.layers[0];
            assert_eq!(d_input.len(), input.len(), "one derivative per input");
            let d_now = &d[..rows * first.outputs];
            raw::multiply(d_now, &self.layers[0].transposed, Start::Zero, d_input, |_, _| ());
        }
    }

    /// Writes the results of `input`, `[rows, inputs]`, any number of rows, to `output`, `[rows, outputs]`: what rollouts
    /// call. The bits are those of [`Weights::forward`].
    ///
    /// # Panics
    /// When `input` has a part of a row, or `output` another number of them.
    pub fn infer(&self, input: &[f32], output: &mut [f32], workspace: &mut Workspace) {
        assert_eq!(output.len(), self.rows(input) * self.mlp.outputs(), "as many results as rows");
        let blocks = input.chunks(BLOCK * self.mlp.inputs());
        for (x, y) in blocks.zip(output.chunks_mut(BLOCK * self.mlp.outputs())) {
            y.copy_from_slice(self.forward(x, workspace));
        }
    }

    fn rows(&self, input: &[f32]) -> usize {
        let inputs = self.mlp.inputs();
        assert_eq!(input.len() % inputs, 0, "{} numbers are no whole rows of {inputs}", input.len());
        input.len() / inputs
    }
}

/// Fills `weight`, `[rows, columns]`, with a (semi-)orthogonal matrix times `gain`: modified Gram-Schmidt on normal draws
/// along the longer side's vectors (Saxe et al. 2014).
pub(crate) fn orthogonal(
    rows: usize,
    columns: usize,
    gain: f32,
    normal: &mut impl FnMut() -> f64,
    weight: &mut [f32],
) {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    while basis.len() < count {
        let mut v: Vec<f64> = (0..length).map(|_| normal()).collect();
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
