//! The policy image `policy.tnd`: header, then sections, each at a multiple of [`ALIGN`].
//!
//! The records below are the layout: `#[repr(C)]`, little-endian, without padding, read in place
//! from flash. [`Layout::parse`] checks everything that can be said about bytes (magic, version,
//! CRC-32C, bounds, alignment); what the records mean is checked by `runtime`. Whose image it is, is
//! checked by the boot stage (`boot`): [`Section::Signature`].

use crate::CRC32C;
use crate::mutation::{Check, removed};
use bytemuck::{Pod, Zeroable};

/// First bytes of every image.
pub const MAGIC: [u8; 4] = *b"TNDP";
/// Version of this layout. A reader refuses any other.
pub const FORMAT_VERSION: u16 = 3;
/// Header and section starts lie at multiples of this; the image itself must as well.
pub const ALIGN: usize = 16;
/// Largest image: bounds every length before it is trusted.
pub const MAX_IMAGE: usize = 8 << 20;
/// The CRC covers the image from here to its end.
pub const CRC_FROM: usize = 8;

/// First 128 bytes of an image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// CRC-32C of `[CRC_FROM..total_len]`.
    pub crc32c: u32,
    /// Length of the image in bytes, header included.
    pub total_len: u32,
    /// [`FORMAT_VERSION`].
    pub format_version: u16,
    /// Reserved, 0.
    pub flags: u16,
    /// The controller refuses an image with a smaller counter than it has stored.
    pub rollback_counter: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// FNV-1a of the contract section: same value, same observations and actions. 0: no contract.
    pub schema_hash: u64,
    /// Robot the policy was made for, UTF-8, zero-padded.
    pub robot_id: [u8; 32],
    /// Where each [`Section`] lies, by its number.
    pub sections: [Span; 8],
}

/// A run of bytes of the image. Length 0: absent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Span {
    /// From the start of the image, a multiple of [`ALIGN`].
    pub offset: u32,
    /// In bytes.
    pub len: u32,
}

/// Sections of an image; the number is the place in [`Header::sections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// [`ContractHeader`], then joints, terms and actions, then values.
    Contract = 0,
    /// [`Operator`] records in order of execution.
    Operators = 1,
    /// Packed weights, tables and constant operands: words of 4 bytes.
    Weights = 2,
    /// One [`Plan`].
    Plan = 3,
    /// Golden vectors, `f32`: `n_inputs` then `n_outputs`, again and again.
    Golden = 4,
    /// JSON for people and host tools: the contract, where the network came from, operator names. The
    /// controller does not read it.
    Manifest = 5,
    /// [`AbstentionHeader`], then `f32` values: which observations are like the recorded ones.
    Abstention = 6,
    /// One [`crate::flash::Signature`] over everything before it; the last section, and the last bytes of the image.
    Signature = 7,
}

/// What is wrong with the bytes of an image: the field, and the value found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutError {
    /// Field of the header or section.
    pub field: &'static str,
    /// The value found there.
    pub value: u32,
    /// What the field has to be.
    pub expected: &'static str,
}

impl core::fmt::Display for LayoutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} is {} ({:#x}): expected {}", self.field, self.value, self.value, self.expected)
    }
}

impl core::error::Error for LayoutError {}

/// A view of an image whose bytes hold together.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    bytes: &'a [u8],
    header: &'a Header,
}

impl<'a> Layout<'a> {
    /// Checks magic, version, length, CRC, and that every section lies aligned inside the image
    /// and none overlaps the next. `bytes` may be longer than the image (a flash slot is).
    ///
    /// # Errors
    /// The first field that does not hold.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let error = |field, value, expected| Err(LayoutError { field, value, expected });
        let header = header(bytes)?;
        if header.magic != MAGIC {
            return error("magic", u32::from_le_bytes(header.magic), "TNDP: this is no policy image");
        }
        let total = header.total_len as usize;
        if total < size_of::<Header>() || total > MAX_IMAGE || total > bytes.len() {
            return error("total_len", header.total_len, "at least the header, at most the bytes there are");
        }
        let covered = bytes.get(CRC_FROM..total).unwrap_or(&[]);
        if CRC32C.checksum(covered) != header.crc32c && !removed(Check::ImageCrc) {
            return error("crc32c", header.crc32c, "the CRC-32C of the image: send it again");
        }
        if header.format_version != FORMAT_VERSION {
            return error("format_version", header.format_version.into(), "3: compile the policy again");
        }
        if header.flags != 0 || header.reserved != 0 {
            return error("flags", u32::from(header.flags) | header.reserved, "0: this version defines none");
        }
        let mut end = size_of::<Header>();
        for span in header.sections {
            if span.len == 0 {
                continue;
            }
            let offset = span.offset as usize;
            if !offset.is_multiple_of(ALIGN) || offset < end {
                return error("section offset", span.offset, "a multiple of 16 after the section before");
            }
            end = match offset.checked_add(span.len as usize) {
                Some(end) if end <= total => end,
                _ => return error("section length", span.len, "to end inside the image"),
            };
        }
        Ok(Self { bytes, header })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// Exactly the image, without what follows it in the slot.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes.get(..self.header.total_len as usize).unwrap_or(&[])
    }

    /// The bytes of a section; empty when absent.
    #[must_use]
    pub fn section(&self, section: Section) -> &'a [u8] {
        section_bytes(self.bytes, self.header, section)
    }
}

/// The header in place, with nothing checked but length and alignment.
///
/// # Errors
/// When the bytes are too few or not aligned.
pub fn header(bytes: &[u8]) -> Result<&Header, LayoutError> {
    let found = bytes.len().min(u32::MAX as usize) as u32;
    let head = bytes.get(..size_of::<Header>()).ok_or(LayoutError {
        field: "length",
        value: found,
        expected: "at least the 128 bytes of a header: the file is truncated",
    })?;
    bytemuck::try_from_bytes(head).map_err(|_| LayoutError {
        field: "address",
        value: head.as_ptr().addr() as u32,
        expected: "a multiple of 16: load the image into an aligned buffer",
    })
}

/// The bytes of `section`; empty when the header points outside.
#[must_use]
pub fn section_bytes<'a>(bytes: &'a [u8], header: &Header, section: Section) -> &'a [u8] {
    let [a, b, c, d, e, f, g, h] = header.sections;
    let span = match section {
        Section::Contract => a,
        Section::Operators => b,
        Section::Weights => c,
        Section::Plan => d,
        Section::Golden => e,
        Section::Manifest => f,
        Section::Abstention => g,
        Section::Signature => h,
    };
    let start = span.offset as usize;
    bytes.get(start..start.saturating_add(span.len as usize)).unwrap_or(&[])
}

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

/// Start of the contract section. The counts say how many records of each kind follow, in the
/// order joints, terms, actions, profiles, sensors, values (`f32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct ContractHeader {
    /// Control period.
    pub period_us: u32,
    /// [`JointRecord`]s, in the policy's order.
    pub n_joints: u16,
    /// [`TermRecord`]s.
    pub n_terms: u16,
    /// [`ActionRecord`]s: one per element of the raw action.
    pub n_actions: u16,
    /// Length of the command in the raw state.
    pub n_commands: u16,
    /// Length of the preference inputs in the raw state.
    pub n_preferences: u16,
    /// Length of the task's own sensors in the raw state.
    pub n_sensors: u16,
    /// Length of the observation, history included.
    pub n_observation: u32,
    /// `f32` of history.
    pub history_len: u32,
    /// `f32` values behind the records.
    pub n_values: u32,
    /// Age of a raw state beyond which it counts as stale.
    pub state_timeout_us: u32,
    /// Silence of the host after which the controller falls back.
    pub heartbeat_timeout_us: u32,
    /// How long the last setpoint is held before damping starts.
    pub hold_us: u32,
    /// How long damping lasts before the state is left.
    pub damp_us: u32,
    /// Healthy raw states required before arming and before running.
    pub dwell_us: u32,
    /// Largest distance to the default pose at which `Run` is taken, rad or m.
    pub ready_tolerance: f32,
    /// Speed of the way to the default pose, rad/s or m/s.
    pub ready_velocity: f32,
    /// Most motoring power of all joints together, W.
    pub power_budget: f32,
    /// [`ProfileRecord`]s; 0: one that leaves the limits as they are.
    pub n_profiles: u16,
    /// Profile after boot and with a new contract.
    pub default_profile: u16,
    /// Thresholds and actions of the monitors.
    pub monitors: MonitorRecord,
}

/// Limits for a way of operating: of each kind `min(limit * scale, cap)`, in the order of [`limit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct ProfileRecord {
    /// Name, UTF-8, zero-padded.
    pub name: [u8; 16],
    /// Share of the joint's limit, above 0 and at most 1.
    pub scale: [f32; limit::COUNT],
    /// Absolute limit, in the joint's own unit; [`f32::MAX`]: none.
    pub cap: [f32; limit::COUNT],
}

/// Places in [`ProfileRecord::scale`] and [`ProfileRecord::cap`].
pub mod limit {
    /// rad/s or m/s; also of position setpoints.
    pub const VELOCITY: usize = 0;
    /// rad/s2 or m/s2.
    pub const ACCELERATION: usize = 1;
    /// rad/s3 or m/s3.
    pub const JERK: usize = 2;
    /// N m or N.
    pub const TORQUE: usize = 3;
    /// N m/s or N/s.
    pub const TORQUE_RATE: usize = 4;
    /// W, of all joints together.
    pub const POWER: usize = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
    /// Names, in order.
    pub const NAMES: [&str; COUNT] = ["velocity", "acceleration", "jerk", "torque", "torque_rate", "power"];
}

/// Monitors: what each does when it raises an alarm, and when it does. A threshold of [`f32::MAX`] is never reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct MonitorRecord {
    /// [`monitor_action`], by [`monitor`].
    pub actions: [u8; 8],
    /// Ticks with an alarm among the last 16 until the action is taken, 1 to 16, by [`monitor`].
    pub needed: [u8; 8],
    /// Raw states with an unchanged sensor clock until the age alarm.
    pub age_ticks: u16,
    /// Raw states with an unchanged, formerly changing linear velocity, while joints move, until it counts as stuck.
    pub stuck_ticks: u16,
    /// A position moves at most this share of `velocity_limit` times the time between two raw states.
    pub position_jump: f32,
    /// A velocity changes between two raw states by at most this share of `velocity_limit`.
    pub velocity_jump: f32,
    /// Mean difference between a step of the position and the integral of the velocity, as a share of `velocity_limit`
    /// times the time between two raw states.
    pub joint_noise: f32,
    /// Way that a joint goes by one of its two sensors while the other stands still, until that one counts as stuck
    /// or off, rad or m.
    pub stuck_path: f32,
    /// Fastest turn of the base, rad/s.
    pub turn_limit: f32,
    /// Largest change of the angular velocity between two raw states, rad/s.
    pub gyro_jump: f32,
    /// Largest change of the linear velocity between two raw states, m/s.
    pub linear_jump: f32,
    /// Mean difference between turn of the orientation and integral of the angular velocity, rad.
    pub turn_noise: f32,
    /// Mean size of the second difference of the linear velocity, m/s.
    pub linear_noise: f32,
    /// Way that the base turns by one of its two sensors while the other stands still, rad.
    pub stuck_turn: f32,
    /// Swing of the commanded torque, in shares of `torque_limit`, ...
    pub response_swing: f32,
    /// ... during which a healthy joint moves at least so far, rad or m.
    pub response_path: f32,
    /// Share of `velocity_limit` beyond which a joint runs away.
    pub overspeed: f32,
}

/// Values of [`MonitorRecord::actions`].
pub mod monitor_action {
    /// Not watched.
    pub const OFF: u8 = 0;
    /// Alarms are counted.
    pub const COUNT: u8 = 1;
    /// The controller falls back.
    pub const FALL_BACK: u8 = 2;
}

/// Monitors: places in [`MonitorRecord::actions`], bits of `alarms` in messages.
pub mod monitor {
    /// The sensors' clock stands still.
    pub const AGE: usize = 0;
    /// A channel that had values gives only zeros while the robot moves.
    pub const OFF: usize = 1;
    /// A channel gives the same value again and again while the robot moves.
    pub const STUCK: usize = 2;
    /// Two sensors of one motion do not agree, or one flickers.
    pub const NOISE: usize = 3;
    /// A channel changed further than the robot can move.
    pub const JUMP: usize = 4;
    /// A joint does not follow its commands, or runs away.
    pub const RESPONSE: usize = 5;
    /// The observation is unlike the recorded ones.
    pub const ABSTENTION: usize = 6;
    /// How many there are.
    pub const COUNT: usize = 7;
    /// Names, in order.
    pub const NAMES: [&str; COUNT] = ["age", "off", "stuck", "noise", "jump", "response", "abstention"];
}

/// Plausibility of one of the task's own sensors.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct SensorRecord {
    /// Lowest plausible value.
    pub low: f32,
    /// Highest plausible value.
    pub high: f32,
    /// Largest change between two raw states.
    pub jump: f32,
    /// Mean size of the second difference.
    pub noise: f32,
    /// Raw states with an unchanged, formerly changing value, while joints move, until it counts as stuck; 0: never.
    pub stuck_ticks: u32,
}

/// Start of the abstention section. `f32` values follow: `low[n]`, `high[n]`, `mean[n]`, `inverse_scale[n]`, `gain[rank]`,
/// `basis[rank, n]`.
///
/// With `z = (x - mean) * inverse_scale` and `c = basis z`, the density score of an observation `x` is
/// `residual |z|^2 + sum gain c^2`, the range score the largest `|x - middle| / half` over its elements; the score is the
/// larger of `density_scale * density` and `range_scale * range`. An observation counts as unlike the recorded ones
/// when at least `needed` of the last `window` scores are above `threshold`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct AbstentionHeader {
    /// Elements of an observation.
    pub n: u32,
    /// Rows of the basis.
    pub rank: u32,
    /// Ticks looked at, 1 to 16.
    pub window: u16,
    /// Scores above the threshold among them.
    pub needed: u16,
    /// The conformal quantile.
    pub threshold: f32,
    /// Weight of what the basis does not span.
    pub residual: f32,
    /// Unit of the density score.
    pub density_scale: f32,
    /// Unit of the range score.
    pub range_scale: f32,
    /// False-alarm rate per tick that the threshold was chosen for.
    pub false_alarm: f32,
    /// Windows that the threshold was calibrated on.
    pub calibrated: u32,
    /// Observations that the statistics come from.
    pub fitted: u32,
}

/// One joint. Angles in rad, lengths in m.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct JointRecord {
    /// Place of the joint in the robot's raw state.
    pub robot_index: u32,
    /// Default pose.
    pub default_position: f32,
    /// Lower position limit.
    pub position_min: f32,
    /// Upper position limit.
    pub position_max: f32,
    /// Velocity limit.
    pub velocity_limit: f32,
    /// Acceleration limit of position and velocity setpoints.
    pub acceleration_limit: f32,
    /// Torque (or force) limit.
    pub torque_limit: f32,
    /// Largest change of a position setpoint per second.
    pub position_rate_limit: f32,
    /// Largest change of a torque setpoint per second.
    pub torque_rate_limit: f32,
    /// Gain that holds the default pose; 0: the joint is passive.
    pub kp: f32,
    /// Damping beside `kp`.
    pub kd: f32,
    /// Damping gain of the fallback.
    pub damping_kd: f32,
    /// Largest change of the setpoints' acceleration per second.
    pub jerk_limit: f32,
    /// Deceleration that the joint can be sure of before its position limits.
    pub braking_deceleration: f32,
}

/// One observation term: `clip(signal * scale + offset)`, per element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TermRecord {
    /// [`signal`].
    pub signal: u8,
    /// 0: oldest frame first; 1: newest first.
    pub newest_first: u8,
    /// Frames of history, at least 1.
    pub history: u16,
    /// First element of the signal.
    pub first: u16,
    /// Elements of one frame.
    pub width: u16,
    /// Where `scale[width]`, `offset[width]`, `low[width]`, `high[width]` start in the values.
    pub values: u32,
}

/// Values of [`TermRecord::signal`].
pub mod signal {
    /// Linear velocity in the IMU frame, m/s, `[3]`.
    pub const BASE_LINEAR_VELOCITY: u8 = 0;
    /// Angular velocity in the IMU frame, rad/s, `[3]`.
    pub const BASE_ANGULAR_VELOCITY: u8 = 1;
    /// Direction of gravity in the IMU frame, unit length, `[3]`.
    pub const PROJECTED_GRAVITY: u8 = 2;
    /// Orientation world_from_imu, w x y z, `[4]`.
    pub const BASE_ORIENTATION: u8 = 3;
    /// Joint positions in the policy's order, `[n_joints]`.
    pub const JOINT_POSITION: u8 = 4;
    /// The same minus the default pose.
    pub const JOINT_POSITION_RELATIVE: u8 = 5;
    /// Joint velocities, `[n_joints]`.
    pub const JOINT_VELOCITY: u8 = 6;
    /// The last raw action, `[n_actions]`.
    pub const LAST_ACTION: u8 = 7;
    /// The command, `[n_commands]`.
    pub const COMMAND: u8 = 8;
    /// The preference inputs, `[n_preferences]`.
    pub const PREFERENCE: u8 = 9;
    /// The task's own sensors, `[n_sensors]`.
    pub const SENSOR: u8 = 10;
    /// Sine of the joint positions, `[n_joints]`.
    pub const JOINT_SIN: u8 = 11;
    /// Cosine of the joint positions, `[n_joints]`.
    pub const JOINT_COS: u8 = 12;
}

/// One element of the raw action: `setpoint = clip(action, low, high) * scale + offset`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct ActionRecord {
    /// Joint in the policy's order.
    pub joint: u16,
    /// [`mode`].
    pub mode: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// Setpoint units per unit of action.
    pub scale: f32,
    /// Setpoint at action 0.
    pub offset: f32,
    /// Lower clip of the raw action.
    pub low: f32,
    /// Upper clip of the raw action.
    pub high: f32,
    /// Position gain, N m/rad or N/m.
    pub kp: f32,
    /// Velocity gain, N m s/rad or N s/m.
    pub kd: f32,
}

/// Values of [`ActionRecord::mode`].
pub mod mode {
    /// Position setpoint, rad or m.
    pub const POSITION: u8 = 0;
    /// Velocity setpoint, rad/s or m/s.
    pub const VELOCITY: u8 = 1;
    /// Torque or force, N m or N.
    pub const TORQUE: u8 = 2;
}

/// Values per element of a term: scale, offset, low, high.
pub const TERM_VALUES: usize = 4;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// 16-byte aligned copy.
    fn aligned(bytes: &[u8]) -> Vec<u128> {
        let mut words = std::vec![0u128; bytes.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        words
    }

    fn small() -> Vec<u8> {
        let mut header = Header::zeroed();
        header.magic = MAGIC;
        header.format_version = FORMAT_VERSION;
        header.total_len = 160;
        header.rollback_counter = 7;
        header.robot_id[..2].copy_from_slice(b"r2");
        header.sections[Section::Weights as usize] = Span { offset: 128, len: 8 };
        header.sections[Section::Manifest as usize] = Span { offset: 144, len: 16 };
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.resize(160, 0x5a);
        let crc = CRC32C.checksum(&bytes[CRC_FROM..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn golden_header_fields_lie_where_they_always_lay() {
        let bytes = small();
        assert_eq!(bytes[..4], *b"TNDP");
        assert_eq!(bytes[8..12], 160u32.to_le_bytes(), "total_len");
        assert_eq!(bytes[12..14], 3u16.to_le_bytes(), "format_version");
        assert_eq!(bytes[16..20], 7u32.to_le_bytes(), "rollback_counter");
        assert_eq!(bytes[24..32], [0; 8], "schema_hash");
        assert_eq!(bytes[32..35], *b"r2\0", "robot_id");
        assert_eq!(bytes[80..88], [128, 0, 0, 0, 8, 0, 0, 0], "weights span");
        assert_eq!(size_of::<Header>(), 128);
        assert_eq!(size_of::<Operator>(), 64);
        assert_eq!(size_of::<View>(), 80);
        assert_eq!(size_of::<Window>(), 64);
        assert_eq!(size_of::<Plan>(), 48);
        assert_eq!(size_of::<MonitorRecord>(), 72);
        assert_eq!(size_of::<ContractHeader>(), 136);
        assert_eq!(size_of::<ProfileRecord>(), 64);
        assert_eq!(size_of::<SensorRecord>(), 20);
        assert_eq!(size_of::<AbstentionHeader>(), 40);
        assert_eq!(size_of::<JointRecord>(), 56);
        assert_eq!(size_of::<TermRecord>(), 12);
        assert_eq!(size_of::<ActionRecord>(), 28);
    }

    #[test]
    fn finds_sections_and_ignores_what_follows_the_image() {
        let mut bytes = small();
        bytes.extend([1; 16]);
        let words = aligned(&bytes);
        let layout = Layout::parse(bytemuck::cast_slice(&words)).unwrap();
        assert_eq!(layout.section(Section::Weights), [0x5a; 8]);
        assert_eq!(layout.section(Section::Golden), []);
        assert_eq!(layout.bytes().len(), 160);
    }

    #[test]
    fn rejects_every_truncation_and_every_bit_flip() {
        let bytes = small();
        let words = aligned(&bytes);
        let whole: &[u8] = &bytemuck::cast_slice(&words)[..160];
        assert!(Layout::parse(whole).is_ok());
        for length in 0..160 {
            assert!(Layout::parse(&whole[..length]).is_err(), "length {length}");
        }
        for bit in 0..160 * 8 {
            let mut flipped = words.clone();
            bytemuck::cast_slice_mut::<_, u8>(&mut flipped)[bit / 8] ^= 1 << (bit % 8);
            assert!(Layout::parse(&bytemuck::cast_slice(&flipped)[..160]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn rejects_sections_outside_overlapping_or_unaligned() {
        for span in [
            Span { offset: 128, len: 33 },
            Span { offset: 112, len: 8 },
            Span { offset: 129, len: 8 },
            Span { offset: 144, len: 17 },
            Span { offset: 0xffff_fff0, len: 0xffff_ffff },
        ] {
            let mut bytes = small();
            bytes[80..88].copy_from_slice(bytemuck::bytes_of(&span));
            let crc = CRC32C.checksum(&bytes[CRC_FROM..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            let words = aligned(&bytes);
            assert!(Layout::parse(bytemuck::cast_slice(&words)).is_err(), "{span:?}");
        }
    }
}
