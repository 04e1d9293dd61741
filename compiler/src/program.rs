//! The compiler's own form of a network: flat vectors in single assignment, one value per step.

use tendon_wire::image::{GEMM_ROWS, activation};

/// Number of a value: its place in [`Program::values`].
pub(crate) type ValueId = usize;

/// Values in order of computation; each is written once, operands come before their users. Value 0
/// is the input.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) values: Vec<Value>,
    pub(crate) output: ValueId,
}

/// One vector `[len]` and how it comes about.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// Name of the ONNX node, for people.
    pub(crate) name: String,
    pub(crate) len: usize,
    pub(crate) op: Op,
}

/// How a value comes about.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The network's input.
    Input,
    /// `activation(W x + b)`.
    Gemm { x: ValueId, gemm: Gemm },
    /// `activation(x)`.
    Activation { x: ValueId, kind: Activation },
    /// `x * scale + shift`, elementwise.
    Affine { x: ValueId, scale: Vec<f32>, shift: Vec<f32> },
    /// `a op b`; `kind` as in [`tendon_wire::image::binary`].
    Binary { a: ValueId, b: ValueId, kind: u8 },
    /// Between two bounds.
    Clip { x: ValueId, low: f32, high: f32 },
    /// `x[start..start + len]`, a view.
    Slice { x: ValueId, start: usize },
    /// One after the other.
    Concat { parts: Vec<ValueId> },
}

/// Weights of a dense layer.
#[derive(Clone, Debug)]
pub(crate) struct Gemm {
    /// `[n_out][n_in]`.
    pub(crate) weights: Vec<f32>,
    /// `[n_out]`.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
}

impl Gemm {
    /// Weights in the order the kernel reads them: blocks of [`GEMM_ROWS`] interleaved rows.
    pub(crate) fn packed_weights(&self) -> Vec<f32> {
        let n_out = self.bias.len();
        let n_in = self.weights.len() / n_out.max(1);
        let mut packed = vec![0.0; n_out.next_multiple_of(GEMM_ROWS) * n_in];
        for (row, weights) in self.weights.chunks(n_in.max(1)).enumerate() {
            let block = row / GEMM_ROWS * GEMM_ROWS * n_in;
            for (k, &weight) in weights.iter().enumerate() {
                packed[block + k * GEMM_ROWS + row % GEMM_ROWS] = weight;
            }
        }
        packed
    }

    /// Bias with a zero for every padded row.
    pub(crate) fn padded_bias(&self) -> Vec<f32> {
        let mut bias = self.bias.clone();
        bias.resize(bias.len().next_multiple_of(GEMM_ROWS), 0.0);
        bias
    }
}

/// Activation as the image encodes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Activation {
    /// [`tendon_wire::image::activation`].
    pub(crate) kind: u8,
    /// Of Elu; else 0.
    pub(crate) alpha: f32,
}

impl Activation {
    pub(crate) const NONE: Self = Self { kind: activation::NONE, alpha: 0.0 };

    pub(crate) fn new(kind: u8) -> Self {
        Self { kind, alpha: 0.0 }
    }
}

impl Op {
    /// Values that the step reads.
    pub(crate) fn operands(&self) -> Vec<ValueId> {
        match self {
            Self::Input => Vec::new(),
            Self::Gemm { x, .. }
            | Self::Activation { x, .. }
            | Self::Affine { x, .. }
            | Self::Clip { x, .. }
            | Self::Slice { x, .. } => vec![*x],
            Self::Binary { a, b, .. } => vec![*a, *b],
            Self::Concat { parts } => parts.clone(),
        }
    }

    /// Replaces every operand by `f(operand)`.
    pub(crate) fn map_operands(&mut self, f: impl Fn(ValueId) -> ValueId) {
        match self {
            Self::Input => {}
            Self::Gemm { x, .. }
            | Self::Activation { x, .. }
            | Self::Affine { x, .. }
            | Self::Clip { x, .. }
            | Self::Slice { x, .. } => *x = f(*x),
            Self::Binary { a, b, .. } => {
                *a = f(*a);
                *b = f(*b);
            }
            Self::Concat { parts } => parts.iter_mut().for_each(|part| *part = f(*part)),
        }
    }
}

impl Program {
    /// How often each value is read; the output counts as read once more.
    pub(crate) fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.values.len()];
        for operand in self.values.iter().flat_map(|value| value.op.operands()) {
            uses[operand] += 1;
        }
        uses[self.output] += 1;
        uses
    }

    /// The same program without the values that nothing needs; the input stays.
    pub(crate) fn without_dead_values(self) -> Self {
        let mut live = vec![false; self.values.len()];
        live[self.output] = true;
        for id in (0..self.values.len()).rev() {
            if live[id] {
                self.values[id].op.operands().into_iter().for_each(|operand| live[operand] = true);
            }
        }
        let mut place = vec![0; self.values.len()];
        let mut values = Vec::new();
        for (id, mut value) in self.values.into_iter().enumerate() {
            if live[id] || id == 0 {
                value.op.map_operands(|operand| place[operand]);
                place[id] = values.len();
                values.push(value);
            }
        }
        Self { output: place[self.output], values }
    }
}
