//! Gated recurrent units over sequences, with truncated backpropagation through time.

use crate::mlp::orthogonal;
use crate::raw::{self, Aligned, Panels, Start};
use std::ops::Range;

/// A layer of gated recurrent units (Cho et al. 2014) in the form of PyTorch's `GRU`, which is ONNX's with
/// `linear_before_reset = 1`:
///
/// `r = sigmoid(x W_r + b_r + h U_r + c_r)`, `z` likewise, `n = tanh(x W_n + b_n + r (h U_n + c_n))`,
/// `h' = (1 - z) n + z h`.
///
/// Parameters: `W` `[inputs, 3 hidden]`, `b`, `U` `[hidden, 3 hidden]`, `c`; the columns of `r`, `z` and `n` in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gru {
    inputs: usize,
    hidden: usize,
}

impl Gru {
    /// `hidden` units that see `inputs` numbers per step.
    ///
    /// # Panics
    /// When one of them is 0.
    pub fn new(inputs: usize, hidden: usize) -> Self {
        assert!(inputs > 0 && hidden > 0, "a GRU of {inputs} inputs and {hidden} units");
        Self { inputs, hidden }
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the state, which is the output.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        self.state_biases().end
    }

    /// Where `W` lies.
    pub fn input_weights(&self) -> Range<usize> {
        0..self.inputs * 3 * self.hidden
    }

    /// Where `b` lies.
    pub fn input_biases(&self) -> Range<usize> {
        let start = self.input_weights().end;
        start..start + 3 * self.hidden
    }

    /// Where `U` lies.
    pub fn state_weights(&self) -> Range<usize> {
        let start = self.input_biases().end;
        start..start + self.hidden * 3 * self.hidden
    }

    /// Where `c` lies.
    pub fn state_biases(&self) -> Range<usize> {
        let start = self.state_weights().end;
        start..start + 3 * self.hidden
    }

    /// Fresh parameters: every gate's matrices orthogonal, zero biases. `normal` draws from a standard normal distribution.
    pub fn initialise(&self, normal: &mut impl FnMut() -> f64) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        let mut gate = vec![0.0; self.inputs.max(self.hidden) * self.hidden];
        for (range, rows) in [(self.input_weights(), self.inputs), (self.state_weights(), self.hidden)] {
            for column in 0..3 {
                let gate = &mut gate[..rows * self.hidden];
                orthogonal(rows, self.hidden, 1.0, normal, gate);
                let places = parameters[range.clone()].chunks_exact_mut(3 * self.hidden);
                for (to, from) in places.zip(gate.chunks_exact(self.hidden)) {
                    to[column * self.hidden..][..self.hidden].copy_from_slice(from);
                }
            }
        }
        parameters
    }

    /// `parameters` in the layout of the kernels.
    pub fn weights(&self, parameters: &[f32]) -> GruWeights {
        let (inputs, hidden) = (self.inputs, self.hidden);
        let mut weights = GruWeights {
            gru: *self,
            input: Panels::new(inputs, 3 * hidden),
            input_transposed: Panels::new(3 * hidden, inputs),
            input_bias: Aligned::new(3 * hidden),
            state: Panels::new(hidden, 3 * hidden),
            state_transposed: Panels::new(3 * hidden, hidden),
            state_bias: Aligned::new(3 * hidden),
        };
        weights.set(parameters);
        weights
    }

    /// Memory for `sequences` of `steps` each; each thread has its own.
    pub fn workspace(&self, sequences: usize, steps: usize) -> GruWorkspace {
        let rows = sequences * steps;
        GruWorkspace {
            rows,
            gates: Aligned::new(rows * 3 * self.hidden),
            products: Aligned::new(rows * 3 * self.hidden),
            previous: Aligned::new(rows * self.hidden),
            states: Aligned::new(rows * self.hidden),
            carry: Aligned::new(sequences * self.hidden),
        }
    }
}

/// Parameters of a [`Gru`] in the layout of the kernels. [`GruWeights::set`] again after each step of the optimiser.
#[derive(Clone, Debug)]
pub struct GruWeights {
    gru: Gru,
    input: Panels,
    input_transposed: Panels,
    input_bias: Aligned,
    state: Panels,
    state_transposed: Panels,
    state_bias: Aligned,
}

/// Memory of one thread: what [`GruWeights::forward`] leaves for [`GruWeights::backward`].
#[derive(Clone, Debug)]
pub struct GruWorkspace {
    rows: usize,
    /// `x W + b`, then `r, z, n`, then their derivatives.
    gates: Aligned,
    /// `h U + c`, then its derivative.
    products: Aligned,
    /// The state before each step, zero where it was reset.
    previous: Aligned,
    states: Aligned,
    carry: Aligned,
}

/// Sequences side by side: row `t * sequences + s` of every matrix is step `t` of sequence `s`.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    /// `[steps * sequences, inputs]`.
    pub input: &'a [f32],
    /// State before the first step, `[sequences, hidden]`; the gradient ends there.
    pub start: &'a [f32],
    /// Whether an episode begins with the step, `[steps * sequences]`: then the state is zero before it, and no gradient
    /// passes.
    pub resets: &'a [bool],
}

impl GruWeights {
    /// The shape.
    pub fn gru(&self) -> &Gru {
        &self.gru
    }

    /// Takes `parameters`.
    ///
    /// # Panics
    /// When they are not [`Gru::parameter_count`].
    pub fn set(&mut self, parameters: &[f32]) {
        let gru = &self.gru;
        assert_eq!(parameters.len(), gru.parameter_count(), "parameters");
        self.input.set(&parameters[gru.input_weights()]);
        self.input_transposed.set_transposed(&parameters[gru.input_weights()]);
        self.input_bias.copy_from_slice(&parameters[gru.input_biases()]);
        self.state.set(&parameters[gru.state_weights()]);
        self.state_transposed.set_transposed(&parameters[gru.state_weights()]);
        self.state_bias.copy_from_slice(&parameters[gru.state_biases()]);
    }

    /// States after every step, `[steps * sequences, hidden]`. One step is what a rollout calls.
    ///
    /// # Panics
    /// When lengths do not fit together, or the workspace is too small.
    pub fn forward<'a>(&self, sequences: Sequences<'_>, workspace: &'a mut GruWorkspace) -> &'a [f32] {
        let (hidden, rows, width) = self.check(&sequences, workspace);
        let GruWorkspace { gates, products, previous, states, .. } = workspace;
        let gates = &mut gates[..rows * 3 * hidden];
        raw::multiply(sequences.input, &self.input, Start::Bias(&self.input_bias), gates, |_, _| ());
        for first in (0..rows).step_by(width) {
            let (before, after) = states.split_at_mut(first * hidden);
            let last = if first == 0 { sequences.start } else { &before[(first - width) * hidden..] };
            let previous = &mut previous[first * hidden..(first + width) * hidden];
            previous.copy_from_slice(last);
            clear(&sequences.resets[first..first + width], previous);
            let of_step = first * 3 * hidden..(first + width) * 3 * hidden;
            let products = &mut products[of_step.clone()];
            raw::multiply(previous, &self.state, Start::Bias(&self.state_bias), products, |_, _| ());
            raw::gru_gates(hidden, previous, &mut gates[of_step], products, &mut after[..width * hidden]);
        }
        &states[..rows * hidden]
    }

    /// Adds the gradient of the parameters to `gradient`, given `d_states`, d loss / d states of the last
    /// [`GruWeights::forward`] with these `sequences` and `workspace` (which is used up); writes d loss / d input where it is asked for.
    ///
    /// # Panics
    /// When lengths do not fit together.
    pub fn backward(
        &self,
        sequences: Sequences<'_>,
        d_states: &[f32],
        workspace: &mut GruWorkspace,
        gradient: &mut [f32],
        d_input: Option<&mut [f32]>,
    ) {
        let (hidden, rows, width) = self.check(&sequences, workspace);
        assert_eq!(d_states.len(), rows * hidden, "one derivative per state");
        assert_eq!(gradient.len(), self.gru.parameter_count(), "gradient");
        let GruWorkspace { gates, products, previous, carry, .. } = workspace;
        let carry = &mut carry[..width * hidden];
        carry.fill(0.0);
        for first in (0..rows).step_by(width).rev() {
            let of_step = first * hidden..(first + width) * hidden;
            let of_gates = 3 * of_step.start..3 * of_step.end;
            raw::add(carry, &d_states[of_step.clone()]);
            let products = &mut products[of_gates.clone()];
            raw::gru_derive(hidden, &previous[of_step], &mut gates[of_gates], products, carry);
            raw::multiply(products, &self.state_transposed, Start::Result, carry, |_, _| ());
            clear(&sequences.resets[first..first + width], carry);
        }
        let (gates, products) = (&gates[..rows * 3 * hidden], &products[..rows * 3 * hidden]);
        let gru = &self.gru;
        let mut outer = |x: &[f32], inputs, d: &[f32], weights: Range<usize>, biases: Range<usize>| {
            raw::accumulate_outer(x, inputs, d, 3 * hidden, &mut gradient[weights]);
            raw::accumulate_rows(d, &mut gradient[biases]);
        };
        outer(sequences.input, gru.inputs, gates, gru.input_weights(), gru.input_biases());
        outer(&previous[..rows * hidden], hidden, products, gru.state_weights(), gru.state_biases());
        if let Some(d_input) = d_input {
            raw::multiply(gates, &self.input_transposed, Start::Zero, d_input, |_, _| ());
        }
    }

    /// Width of the state, rows, sequences.
    fn check(&self, sequences: &Sequences<'_>, workspace: &GruWorkspace) -> (usize, usize, usize) {
        let Gru { inputs, hidden } = self.gru;
        let (rows, width) = (sequences.resets.len(), sequences.start.len() / hidden);
        assert!(
            width > 0 && sequences.start.len() == width * hidden,
            "states of {hidden} before the first step"
        );
        assert_eq!(rows % width, 0, "{rows} steps of {width} sequences");
        assert_eq!(sequences.input.len(), rows * inputs, "inputs of {rows} steps");
        assert!(
            rows <= workspace.rows && width * hidden <= workspace.carry.len(),
            "{rows} steps of {width} sequences: more than the workspace has room for"
        );
        (hidden, rows, width)
    }
}

/// Zeros where `resets`.
fn clear(resets: &[bool], rows: &mut [f32]) {
    let width = rows.len() / resets.len();
    for (row, _) in rows.chunks_exact_mut(width).zip(resets).filter(|(_, reset)| **reset) {
        row.fill(0.0);
    }
}
