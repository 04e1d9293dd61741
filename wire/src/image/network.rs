//! Records of the network: operators, their codes, views and windows, and the plan of memory and cost.

use bytemuck::{Pod, Zeroable};

/// One step of the network. Ranges of the arena and of the weights count words of 4 bytes (`f32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Operator {
    /// [`opcode`].
    pub opcode: u8,
    /// [`unary`], [`binary`], [`reduce`] or [`pool`], by opcode.
    pub kind: u8,
    /// [`operand`]: which operands lie in the weights instead of the arena.
    pub constant: u16,
    /// Start of the first operand.
    pub input: u32,
    /// Start of the second operand.
    pub input_b: u32,
    /// Start of the third operand.
    pub input_c: u32,
    /// Start of the output in the arena.
    pub output: u32,
    /// Elements of the first operand.
    pub n_in: u32,
    /// Elements of the output.
    pub n_out: u32,
    /// Start of the weights (Gemm, Conv: packed matrix; Affine: scale; Move: [`View`]; Conv, Pool: see
    /// `bias`; Gather: table).
    pub weights: u32,
    /// Start of the bias (Gemm, Conv), of the shift (Affine).
    pub bias: u32,
    /// Parameter of the function, or the value of a Fill.
    pub alpha: f32,
    /// Second parameter of the function.
    pub beta: f32,
    /// Sizes, by opcode.
    pub dims: [u32; 5],
}

/// Bits of [`Operator::constant`].
pub mod operand {
    /// `input` counts from the start of the weights.
    pub const INPUT: u16 = 1;
    /// `input_b` does.
    pub const B: u16 = 2;
    /// `input_c` does.
    pub const C: u16 = 4;
}

/// Values of [`Operator::opcode`]. `[outer, n, inner]` names the sizes of a tensor around its axis `n`.
pub mod opcode {
    /// `y[r] = f(W x[r] + b)` for `dims[0]` rows; `f` is a [`super::unary`] up to ELU; W packed in blocks of
    /// [`super::GEMM_ROWS`] rows.
    pub const GEMM: u8 = 1;
    /// `y = f(x)`.
    pub const UNARY: u8 = 2;
    /// `y[i] = x[i] * scale[j] + shift[j]`, `j = i / dims[1] % dims[0]`.
    pub const AFFINE: u8 = 3;
    /// `y[i] = f(a[i], b[j])`, `j = i / dims[1] % dims[0]`; `b` has `dims[0]` elements.
    pub const BINARY: u8 = 4;
    /// `y = b` where `x` is not 0, else `c`.
    pub const SELECT: u8 = 5;
    /// `y[to] = x[from]` along a [`super::View`].
    pub const MOVE: u8 = 6;
    /// `y = alpha`.
    pub const FILL: u8 = 7;
    /// `y[i] = x[table[i]]`.
    pub const GATHER: u8 = 8;
    /// `y[o, j, i] = x[o, index, i]` with `x` `[dims[0], dims[1], dims[2]]`; `index` is `b[j]`, or `b[o, j, i]`
    /// with kind 1; `dims[3]` indices along the axis, negative ones count from its end, others are clipped.
    pub const TAKE: u8 = 9;
    /// Over the axis of `[dims[0], dims[1], dims[2]]`, by [`super::reduce`].
    pub const REDUCE: u8 = 10;
    /// Index of the largest (kind bit 0 clear) or smallest element along the axis, the first or (bit 1) last.
    pub const ARG: u8 = 11;
    /// Indices of the `dims[3]` largest (kind 0) or smallest (kind 1) elements along the axis, in order.
    pub const TOP: u8 = 12;
    /// Running sum (kind bit 2 clear) or product along the axis; bit 0: exclusive, bit 1: from the end.
    pub const CUMULATE: u8 = 13;
    /// Softmax along the axis; kind 1: its logarithm.
    pub const SOFTMAX: u8 = 14;
    /// `y[g] = a[g] b[g]` for `dims[0]` products, `a` `[dims[1], dims[2]]`, `b` `[dims[2], dims[3]]`; kind bit 0: `b`
    /// is transposed; bit 1: one `a` for all; bit 2: one `b` for all.
    pub const MATMUL: u8 = 15;
    /// Convolution of `dims[0]` images along a [`super::Window`] at `input_b` of the weights. Behind the outputs
    /// lies room for one patch and one column.
    pub const CONV: u8 = 16;
    /// Pooling of `dims[0]` images along a [`super::Window`] at `input_b` of the weights, by [`super::pool`].
    pub const POOL: u8 = 17;
    /// `y = x`, then `y[o, index, i] = f(y[o, index, i], c[o, j, i])` in order of `j`, with the indices at `b` as for
    /// TAKE and `f` by kind >> 1: 0 set, 1 add, 2 multiply, 3 max, 4 min.
    pub const SCATTER: u8 = 18;
    /// `y = round(x * alpha)`, saturated to `i16`, two in a word: `dims[0]` elements in
    /// [`super::activation_words`]`(dims[0])` words.
    pub const QUANTIZE: u8 = 19;
    /// Dense layer with 8-bit weights and 16-bit activations: `dims[0]` inputs as Quantize gives them, `dims[1]`
    /// rows. Kind 0: activations out; 1: the same behind max(y, 0); 2: `f32` out. Blocks at `weights` as
    /// [`super::quantized_block_words`] counts them.
    pub const GEMM_8W16A: u8 = 20;
    /// Units of an LSTM: `x` `[n]` the cell, `b` `[4, n]` the sums of the input, output, forget and cell gates; `y` `[2, n]`
    /// the new cell and the output. May write over the cell.
    pub const LSTM: u8 = 21;

    /// Names, from 1.
    pub const NAMES: [&str; LSTM as usize] = [
        "Gemm",
        "Unary",
        "Affine",
        "Binary",
        "Select",
        "Move",
        "Fill",
        "Gather",
        "Take",
        "Reduce",
        "Arg",
        "Top",
        "Cumulate",
        "Softmax",
        "MatMul",
        "Conv",
        "Pool",
        "Scatter",
        "Quantize",
        "Gemm8w16a",
        "Lstm",
    ];
}

/// Functions of one number: [`Operator::kind`] of Unary and, up to ELU, of Gemm and Conv.
pub mod unary {
    /// `x`
    pub const NONE: u8 = 0;
    /// `max(x, 0)`
    pub const RELU: u8 = 1;
    /// Hyperbolic tangent.
    pub const TANH: u8 = 2;
    /// `1 / (1 + exp(-x))`
    pub const SIGMOID: u8 = 3;
    /// `x * sigmoid(x)`; also called SiLU.
    pub const SWISH: u8 = 4;
    /// `x` where positive, else `alpha * (exp(x) - 1)`.
    pub const ELU: u8 = 5;
    /// `min(max(x, alpha), beta)`
    pub const CLIP: u8 = 6;
    /// `|x|`
    pub const ABS: u8 = 7;
    /// `e^x`
    pub const EXP: u8 = 8;
    /// Natural logarithm.
    pub const LOG: u8 = 9;
    /// Square root.
    pub const SQRT: u8 = 10;
    /// `1 / x`
    pub const RECIPROCAL: u8 = 11;
    /// Error function.
    pub const ERF: u8 = 12;
    /// Sine.
    pub const SIN: u8 = 13;
    /// Cosine.
    pub const COS: u8 = 14;
    /// Towards minus infinity.
    pub const FLOOR: u8 = 15;
    /// Towards plus infinity.
    pub const CEIL: u8 = 16;
    /// To the nearest integer, halves to even.
    pub const ROUND: u8 = 17;
    /// Towards 0.
    pub const TRUNC: u8 = 18;
    /// -1, 0 or 1.
    pub const SIGN: u8 = 19;
    /// 1 where `x` is 0, else 0.
    pub const NOT: u8 = 20;
    /// `x` where not negative, else `alpha * x`.
    pub const LEAKY_RELU: u8 = 21;
    /// `x * (1 + erf(x / sqrt 2)) / 2`
    pub const GELU: u8 = 22;
    /// The same with tanh in place of erf.
    pub const GELU_TANH: u8 = 23;
    /// `log(1 + exp(x))`
    pub const SOFTPLUS: u8 = 24;
    /// `x / (1 + |x|)`
    pub const SOFTSIGN: u8 = 25;
    /// `x * tanh(softplus(x))`
    pub const MISH: u8 = 26;
    /// Tangent.
    pub const TAN: u8 = 27;
    /// Arc sine.
    pub const ASIN: u8 = 28;
    /// Arc cosine.
    pub const ACOS: u8 = 29;
    /// Arc tangent.
    pub const ATAN: u8 = 30;
    /// Hyperbolic sine.
    pub const SINH: u8 = 31;
    /// Hyperbolic cosine.
    pub const COSH: u8 = 32;
    /// Inverse hyperbolic sine.
    pub const ASINH: u8 = 33;
    /// Inverse hyperbolic cosine.
    pub const ACOSH: u8 = 34;
    /// Inverse hyperbolic tangent.
    pub const ATANH: u8 = 35;
    /// 1 where `x` is NaN, else 0.
    pub const IS_NAN: u8 = 36;
    /// 1 where `x` is +inf and `alpha` is not 0, or -inf and `beta` is not 0; else 0.
    pub const IS_INF: u8 = 37;
    /// `x` where above `alpha`, else 0.
    pub const THRESHOLDED_RELU: u8 = 38;
    /// `x + beta` below `-alpha`, `x - beta` above `alpha`, else 0.
    pub const SHRINK: u8 = 39;
    /// `x` modulo `alpha` into `[beta, beta + alpha)`, as integers overflow.
    pub const WRAP: u8 = 40;
    /// Bits of a 32-bit integer, inverted.
    pub const BIT_NOT: u8 = 41;
    /// The last one.
    pub const LAST: u8 = BIT_NOT;

    /// Names, from 0.
    pub const NAMES: [&str; LAST as usize + 1] = [
        "-",
        "Relu",
        "Tanh",
        "Sigmoid",
        "Swish",
        "Elu",
        "Clip",
        "Abs",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Erf",
        "Sin",
        "Cos",
        "Floor",
        "Ceil",
        "Round",
        "Trunc",
        "Sign",
        "Not",
        "LeakyRelu",
        "Gelu",
        "GeluTanh",
        "Softplus",
        "Softsign",
        "Mish",
        "Tan",
        "Asin",
        "Acos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "IsNaN",
        "IsInf",
        "ThresholdedRelu",
        "Shrink",
        "Wrap",
        "BitNot",
    ];
}

/// Functions of two numbers: [`Operator::kind`] of Binary. Comparisons give 1 or 0.
pub mod binary {
    /// `a + b`
    pub const ADD: u8 = 0;
    /// `a - b`
    pub const SUB: u8 = 1;
    /// `a * b`
    pub const MUL: u8 = 2;
    /// `a / b`
    pub const DIV: u8 = 3;
    /// `b - a`
    pub const SUB_FROM: u8 = 4;
    /// `b / a`
    pub const DIV_INTO: u8 = 5;
    /// The smaller one.
    pub const MIN: u8 = 6;
    /// The larger one.
    pub const MAX: u8 = 7;
    /// `a^b`
    pub const POW: u8 = 8;
    /// `b^a`
    pub const POW_OF: u8 = 9;
    /// Remainder with the sign of `b`.
    pub const MOD: u8 = 10;
    /// Remainder with the sign of `a`.
    pub const FMOD: u8 = 11;
    /// `a == b`
    pub const EQUAL: u8 = 12;
    /// `a < b`
    pub const LESS: u8 = 13;
    /// `a > b`
    pub const GREATER: u8 = 14;
    /// `a <= b`
    pub const LESS_EQUAL: u8 = 15;
    /// `a >= b`
    pub const GREATER_EQUAL: u8 = 16;
    /// Both are not 0.
    pub const AND: u8 = 17;
    /// One is not 0.
    pub const OR: u8 = 18;
    /// Exactly one is not 0.
    pub const XOR: u8 = 19;
    /// `a` where not negative, else `a * b`.
    pub const PRELU: u8 = 20;
    /// Bits of both 32-bit integers.
    pub const BIT_AND: u8 = 21;
    /// Bits of either.
    pub const BIT_OR: u8 = 22;
    /// Bits of exactly one.
    pub const BIT_XOR: u8 = 23;
    /// `a * 2^b`, `b` an integer.
    pub const SHIFT_LEFT: u8 = 24;
    /// `a / 2^b` towards minus infinity, `b` an integer.
    pub const SHIFT_RIGHT: u8 = 25;
    /// The last one.
    pub const LAST: u8 = SHIFT_RIGHT;

    /// Names, from 0.
    pub const NAMES: [&str; LAST as usize + 1] = [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "SubFrom",
        "DivInto",
        "Min",
        "Max",
        "Pow",
        "PowOf",
        "Mod",
        "Fmod",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "And",
        "Or",
        "Xor",
        "PRelu",
        "BitAnd",
        "BitOr",
        "BitXor",
        "ShiftLeft",
        "ShiftRight",
    ];
}

/// Values of [`Operator::kind`] for Reduce.
pub mod reduce {
    /// Sum.
    pub const SUM: u8 = 0;
    /// Sum over the number of elements.
    pub const MEAN: u8 = 1;
    /// Largest.
    pub const MAX: u8 = 2;
    /// Smallest.
    pub const MIN: u8 = 3;
    /// Product.
    pub const PROD: u8 = 4;
    /// Sum of absolute values.
    pub const L1: u8 = 5;
    /// Sum of squares.
    pub const SUM_SQUARE: u8 = 6;
    /// The last one.
    pub const LAST: u8 = SUM_SQUARE;

    /// Names, from 0.
    pub const NAMES: [&str; LAST as usize + 1] = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "SumSquare"];
}

/// Values of [`Operator::kind`] for Pool.
pub mod pool {
    /// Largest.
    pub const MAX: u8 = 0;
    /// Mean of the elements inside the image.
    pub const MEAN: u8 = 1;
    /// Sum of the elements inside the image.
    pub const SUM: u8 = 2;
    /// The last one.
    pub const LAST: u8 = SUM;

    /// Names, from 0.
    pub const NAMES: [&str; LAST as usize + 1] = ["Max", "Mean", "Sum"];
}

/// A Move: for all indices below `dims`, `y[to_offset + index . to] = x[from_offset + index . from]`.
/// Lies in the weights. Unused dimensions are 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct View {
    /// Sizes.
    pub dims: [u32; VIEW_RANK],
    /// Strides in the operand.
    pub from: [i32; VIEW_RANK],
    /// Strides in the output.
    pub to: [i32; VIEW_RANK],
    /// Start in the operand.
    pub from_offset: u32,
    /// Start in the output.
    pub to_offset: u32,
}

/// Dimensions of a [`View`].
pub const VIEW_RANK: usize = 6;

/// Sizes of a Conv or Pool over images `[channels, height, width]`. Lies in the weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Window {
    /// Channels in.
    pub channels: u32,
    /// Rows in.
    pub height: u32,
    /// Columns in.
    pub width: u32,
    /// Channels out; of a Pool: `channels`.
    pub channels_out: u32,
    /// Rows out.
    pub height_out: u32,
    /// Columns out.
    pub width_out: u32,
    /// Rows of the kernel.
    pub kernel_h: u32,
    /// Columns of the kernel.
    pub kernel_w: u32,
    /// Step between rows out.
    pub stride_h: u32,
    /// Step between columns out.
    pub stride_w: u32,
    /// Step between rows of the kernel.
    pub dilation_h: u32,
    /// Step between columns of the kernel.
    pub dilation_w: u32,
    /// Rows of zeros above.
    pub pad_top: u32,
    /// Columns of zeros on the left.
    pub pad_left: u32,
    /// Groups of channels; of a Pool: 1.
    pub groups: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// Rows of a Gemm that are interleaved: element `(row, k)` of a block lies at `k * GEMM_ROWS + row`.
/// The last block is padded with zero rows.
pub const GEMM_ROWS: usize = 4;

/// Inputs of a [`opcode::GEMM_8W16A`] come in this many: what the inner loop takes at once.
pub const QUANTIZED_STEP: usize = 8;

/// Words of a vector of `n` activations of 16 bits: the earlier one of each pair in the low half, padded to
/// [`QUANTIZED_STEP`] elements; what the padding holds does not matter.
#[must_use]
pub const fn activation_words(n: usize) -> usize {
    n.div_ceil(QUANTIZED_STEP).saturating_mul(QUANTIZED_STEP / 2)
}

/// Words of one block of four rows of a [`opcode::GEMM_8W16A`] with `n_in` inputs:
///
/// | words | content |
/// |---|---|
/// | 4 | bias of each row, `i32`, in units of (weight scale of the row) x (input scale) |
/// | `n_in` rounded up to [`QUANTIZED_STEP`] | per four inputs one word of each row: the weights of inputs 0, 2, 1, 3 from the low byte up |
/// | 4 | per row: to `i16`, a multiplier `i32`; to `f32`, a scale `f32` |
///
/// Padding weights are 0. The order of bytes is that of `SXTB16`: its two halves become the pairs (0, 1) and
/// (2, 3). With `w`, `x` and `y` for the scales of the row's weights, the input and the output, the multiplier is
/// `round(w * x / y * 2^32)`, below 2^31, and the scale is `w * x`.
#[must_use]
pub const fn quantized_block_words(n_in: usize) -> usize {
    n_in.div_ceil(QUANTIZED_STEP).saturating_mul(QUANTIZED_STEP).saturating_add(2 * GEMM_ROWS)
}

/// Sizes the runtime needs before the first tick, and the costs `inspect` prints.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Plan {
    /// Length of the network's input `[n_inputs]`.
    pub n_inputs: u32,
    /// Length of the network's output `[n_outputs]`.
    pub n_outputs: u32,
    /// Where the input lies in the arena.
    pub input: u32,
    /// Where the output lies in the arena.
    pub output: u32,
    /// `f32` the arena holds.
    pub arena_len: u32,
    /// `f32` at the start of the arena that survive from inference to inference; 0 after a reset.
    pub state_len: u32,
    /// Instructions of one inference at most (runtime's `cost`, Cortex-M4F): the controller computes it again.
    pub instructions: u32,
    /// Reserved, 0.
    pub reserved: [u32; 2],
    /// `f32` the observation history holds.
    pub history_len: u32,
    /// Multiply-accumulates of one inference.
    pub macs: u32,
    /// Golden vectors in the image.
    pub golden_count: u32,
}
