//! The compiler's own form of a network: flat vectors in single assignment, one value per step.

use std::rc::Rc;
use tendon_wire::image::{GEMM_ROWS, View, Window, operand, unary};

/// Number of a value: its place in [`Program::values`].
pub(crate) type ValueId = usize;

/// Values in order of computation; each is written once, operands come before their users. Value 0
/// is the input.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) values: Vec<Value>,
    pub(crate) output: ValueId,
    /// What survives from inference to inference, in the order of its place in the arena.
    pub(crate) states: Vec<State>,
}

/// A [`Op::State`] value, and what it becomes after the inference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    pub(crate) value: ValueId,
    pub(crate) next: ValueId,
}

/// One vector `[len]` and how it comes about.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// Name of the ONNX node, for people.
    pub(crate) name: String,
    pub(crate) len: usize,
    pub(crate) op: Op,
}

/// Sizes of a tensor around one of its axes: `[outer, n, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) outer: usize,
    pub(crate) n: usize,
    pub(crate) inner: usize,
}

impl Axis {
    /// Around axis `along` of a shape.
    pub(crate) fn of(shape: &[usize], along: usize) -> Self {
        let size = |dims: &[usize]| dims.iter().product();
        let (outer, inner) = (shape.get(..along).unwrap_or(&[]), shape.get(along + 1..).unwrap_or(&[]));
        Self { outer: size(outer), n: shape.get(along).copied().unwrap_or(1), inner: size(inner) }
    }

    pub(crate) fn dims(self) -> [u32; 3] {
        [self.outer as u32, self.n as u32, self.inner as u32]
    }
}

/// How a value comes about. The operators of [`tendon_wire::image::opcode`], and views.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The network's inputs, one after the other.
    Input,
    /// What the inference before left; 0 after a reset.
    State,
    /// Known at compile time.
    Const(Rc<[f32]>),
    /// `x[start..start + len]`, a view.
    Slice { x: ValueId, start: usize },
    /// `f(W x + b)` for each of `rows` rows.
    Gemm { x: ValueId, rows: usize, gemm: Gemm },
    /// `f(x)`.
    Unary { x: ValueId, f: Function },
    /// `x[i] * scale[j] + shift[j]`, `j = i / inner % scale.len()`.
    Affine { x: ValueId, scale: Vec<f32>, shift: Vec<f32>, inner: usize },
    /// `f(a[i], b[j])`, `j = i / inner % b.len()`; `kind` as in [`tendon_wire::image::binary`].
    Binary { a: ValueId, b: ValueId, kind: u8, inner: usize },
    /// `a` where `x` is not 0, else `b`.
    Select { x: ValueId, a: ValueId, b: ValueId },
    /// Parts moved into place over `fill`; without `fill` they cover the value.
    Assemble { fill: Option<f32>, parts: Vec<(ValueId, View)> },
    /// `x[table[i]]`.
    Gather { x: ValueId, table: Vec<u32> },
    /// Elements at computed indices: `[m]`, or one per element with `each`.
    Take { x: ValueId, indices: ValueId, axis: Axis, m: usize, each: bool },
    /// `x` with elements replaced at computed indices; `kind` as in the image, without its lowest bit.
    Scatter { x: ValueId, indices: ValueId, updates: ValueId, axis: Axis, m: usize, each: bool, kind: u8 },
    /// By [`tendon_wire::image::reduce`].
    Reduce { x: ValueId, axis: Axis, kind: u8 },
    /// Index of the largest or smallest.
    Arg { x: ValueId, axis: Axis, kind: u8 },
    /// Indices of the `k` largest or smallest.
    Top { x: ValueId, axis: Axis, k: usize, kind: u8 },
    /// Running sum or product.
    Cumulate { x: ValueId, axis: Axis, kind: u8 },
    /// Softmax or its logarithm.
    Softmax { x: ValueId, axis: Axis, logarithm: bool },
    /// Products of computed matrices.
    MatMul { a: ValueId, b: ValueId, batch: usize, m: usize, k: usize, n: usize, kind: u8 },
    /// Convolution of `images` images; weights `[channels_out][patch]`.
    Conv { x: ValueId, images: usize, window: Window, gemm: Gemm },
    /// `f32` to activations of 16 bits.
    Quantize { x: ValueId, inverse: f32 },
    /// Dense layer with 8-bit weights, packed; `kind` as in the image.
    QuantizedGemm { x: ValueId, n_in: usize, n_out: usize, words: Vec<u32>, kind: u8 },
    /// Units of an LSTM: the new cell, then the output.
    Lstm { cell: ValueId, gates: ValueId },
    /// By [`tendon_wire::image::pool`].
    Pool { x: ValueId, images: usize, window: Window, kind: u8 },
}

/// Weights of a dense layer.
#[derive(Clone, Debug)]
pub(crate) struct Gemm {
    /// `[n_out][n_in]`.
    pub(crate) weights: Vec<f32>,
    /// `[n_out]`.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Function,
}

impl Gemm {
    pub(crate) fn n_in(&self) -> usize {
        self.weights.len() / self.bias.len().max(1)
    }

    /// Weights in the order the kernel reads them: blocks of [`GEMM_ROWS`] interleaved rows, for each of
    /// `groups` groups of rows.
    pub(crate) fn packed_weights(&self, groups: usize) -> Vec<f32> {
        let n_in = self.n_in().max(1);
        let per_group = self.bias.len() / groups.max(1);
        let mut packed = Vec::new();
        for group in self.weights.chunks((per_group * n_in).max(1)) {
            let start = packed.len();
            packed.resize(start + per_group.next_multiple_of(GEMM_ROWS) * n_in, 0.0);
            for (row, weights) in group.chunks(n_in).enumerate() {
                let block = start + row / GEMM_ROWS * GEMM_ROWS * n_in;
                for (k, &weight) in weights.iter().enumerate() {
                    packed[block + k * GEMM_ROWS + row % GEMM_ROWS] = weight;
                }
            }
        }
        packed
    }

    /// Bias with a zero for every padded row.
    pub(crate) fn padded_bias(&self, groups: usize) -> Vec<f32> {
        let per_group = (self.bias.len() / groups.max(1)).max(1);
        let padded = per_group.next_multiple_of(GEMM_ROWS);
        self.bias
            .chunks(per_group)
            .flat_map(|bias| bias.iter().copied().chain(std::iter::repeat_n(0.0, padded - bias.len())))
            .collect()
    }
}

/// A function of one number, as the image encodes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Function {
    /// [`tendon_wire::image::unary`].
    pub(crate) kind: u8,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
}

impl Function {
    pub(crate) const NONE: Self = Self { kind: unary::NONE, alpha: 0.0, beta: 0.0 };

    pub(crate) fn new(kind: u8) -> Self {
        Self { kind, ..Self::NONE }
    }

    pub(crate) fn with(kind: u8, alpha: f32, beta: f32) -> Self {
        Self { kind, alpha, beta }
    }
}

impl Op {
    /// Values that the step reads, and the bit of [`operand`] by which each may lie in the weights.
    pub(crate) fn operands_mut(&mut self) -> Vec<(&mut ValueId, u16)> {
        match self {
            Self::Input | Self::State | Self::Const(_) => Vec::new(),
            Self::Gemm { x, .. }
            | Self::Unary { x, .. }
            | Self::Affine { x, .. }
            | Self::Slice { x, .. }
            | Self::Gather { x, .. }
            | Self::Reduce { x, .. }
            | Self::Arg { x, .. }
            | Self::Top { x, .. }
            | Self::Cumulate { x, .. }
            | Self::Softmax { x, .. }
            | Self::Conv { x, .. }
            | Self::Quantize { x, .. }
            | Self::QuantizedGemm { x, .. }
            | Self::Pool { x, .. } => vec![(x, operand::INPUT)],
            Self::Binary { a, b, .. } | Self::MatMul { a, b, .. } => {
                vec![(a, operand::INPUT), (b, operand::B)]
            }
            Self::Lstm { cell, gates } => vec![(cell, operand::INPUT), (gates, operand::B)],
            Self::Take { x, indices, .. } => vec![(x, operand::INPUT), (indices, operand::B)],
            Self::Select { x, a, b } => vec![(x, operand::INPUT), (a, operand::B), (b, operand::C)],
            Self::Scatter { x, indices, updates, .. } => {
                vec![(x, operand::INPUT), (indices, operand::B), (updates, operand::C)]
            }
            Self::Assemble { parts, .. } => {
                parts.iter_mut().map(|(part, _)| (part, operand::INPUT)).collect()
            }
        }
    }

    /// Values that the step reads.
    pub(crate) fn operands(&self) -> Vec<ValueId> {
        match self {
            Self::Input | Self::State | Self::Const(_) => Vec::new(),
            Self::Gemm { x, .. }
            | Self::Unary { x, .. }
            | Self::Affine { x, .. }
            | Self::Slice { x, .. }
            | Self::Gather { x, .. }
            | Self::Reduce { x, .. }
            | Self::Arg { x, .. }
            | Self::Top { x, .. }
            | Self::Cumulate { x, .. }
            | Self::Softmax { x, .. }
            | Self::Conv { x, .. }
            | Self::Quantize { x, .. }
            | Self::QuantizedGemm { x, .. }
            | Self::Pool { x, .. } => vec![*x],
            Self::Binary { a, b, .. } | Self::MatMul { a, b, .. } => vec![*a, *b],
            Self::Lstm { cell, gates } => vec![*cell, *gates],
            Self::Take { x, indices, .. } => vec![*x, *indices],
            Self::Select { x, a, b } => vec![*x, *a, *b],
            Self::Scatter { x, indices, updates, .. } => vec![*x, *indices, *updates],
            Self::Assemble { parts, .. } => parts.iter().map(|(part, _)| *part).collect(),
        }
    }

    /// Replaces every operand by `f(operand)`.
    pub(crate) fn map_operands(&mut self, f: impl Fn(ValueId) -> ValueId) {
        for (operand, _) in self.operands_mut() {
            *operand = f(*operand);
        }
    }

    /// Elements behind the output that the step overwrites.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Conv { window, gemm, .. } => {
                gemm.n_in() + (window.channels_out / window.groups.max(1)) as usize
            }
            _ => 0,
        }
    }

    /// The operand that the step may write over, which has its length.
    pub(crate) fn overwritten(&self) -> Option<ValueId> {
        match self {
            Self::Unary { x, .. }
            | Self::Affine { x, .. }
            | Self::Cumulate { x, .. }
            | Self::Softmax { x, .. } => Some(*x),
            Self::Binary { a, b, .. } if a != b => Some(*a),
            Self::Scatter { x, indices, updates, .. } if x != indices && x != updates => Some(*x),
            _ => None,
        }
    }
}

impl Program {
    pub(crate) fn new() -> Self {
        Self { values: Vec::new(), output: 0, states: Vec::new() }
    }

    pub(crate) fn is_const(&self, id: ValueId) -> bool {
        matches!(self.values[id].op, Op::Const(_))
    }

    /// Values that are needed after the last step.
    pub(crate) fn results(&self) -> impl Iterator<Item = ValueId> {
        std::iter::once(self.output).chain(self.states.iter().map(|state| state.next))
    }

    /// How often each value is read; a result counts as read once more.
    pub(crate) fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.values.len()];
        for operand in self.values.iter().flat_map(|value| value.op.operands()) {
            uses[operand] += 1;
        }
        self.results().for_each(|id| uses[id] += 1);
        uses
    }

    /// The same program without the values that nothing needs; inputs and states stay.
    pub(crate) fn without_dead_values(mut self) -> Self {
        let mut live = vec![false; self.values.len()];
        self.results().for_each(|id| live[id] = true);
        self.states.iter().for_each(|state| live[state.value] = true);
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
        for state in &mut self.states {
            *state = State { value: place[state.value], next: place[state.next] };
        }
        Self { output: place[self.output], values, states: self.states }
    }
}

/// A view that moves `len` elements in order.
pub(crate) fn straight(len: usize, from: usize, to: usize) -> View {
    let mut view = blank();
    view.dims[tendon_wire::image::VIEW_RANK - 1] = len as u32;
    view.from[tendon_wire::image::VIEW_RANK - 1] = 1;
    view.to[tendon_wire::image::VIEW_RANK - 1] = 1;
    View { from_offset: from as u32, to_offset: to as u32, ..view }
}

fn blank() -> View {
    View { dims: [1; 6], from: [0; 6], to: [0; 6], from_offset: 0, to_offset: 0 }
}

/// A view over `dims` with strides in operand and output; dimensions of size 1 fall away and neighbours
/// that step alike become one. `None`: more dimensions remain than a view has.
pub(crate) fn view(dims: &[usize], from: &[i64], to: &[i64], offsets: [usize; 2]) -> Option<View> {
    let mut axes: Vec<(usize, i64, i64)> = Vec::new();
    for ((&dim, &from), &to) in dims.iter().zip(from).zip(to) {
        match axes.last_mut() {
            _ if dim == 1 => {}
            Some((size, f, t)) if *f == from * dim as i64 && *t == to * dim as i64 => {
                (*size, *f, *t) = (*size * dim, from, to);
            }
            _ => axes.push((dim, from, to)),
        }
    }
    let rank = tendon_wire::image::VIEW_RANK;
    let skip = rank.checked_sub(axes.len())?;
    let mut view = View { from_offset: offsets[0] as u32, to_offset: offsets[1] as u32, ..blank() };
    for (place, (dim, from, to)) in axes.into_iter().enumerate() {
        view.dims[skip + place] = u32::try_from(dim).ok()?;
        view.from[skip + place] = i32::try_from(from).ok()?;
        view.to[skip + place] = i32::try_from(to).ok()?;
    }
    Some(view)
}

/// Every pair of indices that a view moves.
pub(crate) fn each_index(view: &View, mut f: impl FnMut(usize, usize)) {
    let total: u32 = view.dims.iter().product();
    for mut index in 0..total {
        let (mut from, mut to) = (i64::from(view.from_offset), i64::from(view.to_offset));
        for axis in (0..view.dims.len()).rev() {
            let along = i64::from(index % view.dims[axis]);
            index /= view.dims[axis];
            from += along * i64::from(view.from[axis]);
            to += along * i64::from(view.to[axis]);
        }
        f(from as usize, to as usize);
    }
}
