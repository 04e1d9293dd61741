//! Quantised tensors: small integers carried as `f32`, which adds and multiplies them exactly below 2^24.

use super::{Computed, Context, Lowering, MAX_EXACT, axis, conv};
use crate::import::{Kind, Node};
use crate::program::Function;
use tendon_wire::image::{binary, reduce as by, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("ConvInteger",           conv_integer),
    ("DequantizeLinear",      dequantize),
    ("DynamicQuantizeLinear", dynamic_quantize),
    ("MatMulInteger",         matmul_integer),
    ("QLinearConv",           qlinear_conv),
    ("QLinearMatMul",         qlinear_matmul),
    ("QuantizeLinear",        quantize),
];

/// Smallest and largest number of an integer type of at most 16 bits.
fn range(kind: Kind) -> Result<(f32, f32), String> {
    let (bits, signed) = kind.small_integer().ok_or_else(|| {
        format!("type {kind:?} is no integer of 8 or 16 bits: export with int8, uint8, int16 or uint16")
    })?;
    let size = 2f32.powi(bits as i32);
    Ok(if signed { (-size / 2.0, size / 2.0 - 1.0) } else { (0.0, size - 1.0) })
}

/// A shape of this rank with all elements along its first axis.
fn per_first(count: usize, rank: usize) -> Vec<usize> {
    let mut shape = vec![1; rank.max(1)];
    shape[0] = count;
    shape
}

impl Context {
    /// A scale or zero point in the shape that broadcasts to `x`: one number, one per element of the axis, or one
    /// per block of the axis.
    fn along(&mut self, own: Computed, x: &Computed, along: i64, block: i64) -> Result<Computed, String> {
        if own.len() == 1 && block == 0 {
            return Ok(Computed { shape: vec![], ..own });
        }
        let rank = x.shape.len();
        let along = axis(along, rank)?;
        if block == 0 {
            if own.len() != x.shape[along] {
                return Err(format!("{} scales do not fit axis {along} of {:?}", own.len(), x.shape));
            }
            let mut shape = vec![1; rank - along];
            shape[0] = own.len();
            return Ok(Computed { shape, ..own });
        }
        let block = usize::try_from(block).unwrap_or(0);
        if own.shape.len() != rank || block == 0 || own.shape[along].saturating_mul(block) < x.shape[along] {
            return Err(format!(
                "scales of shape {:?} do not fit blocks of {block} in {:?}",
                own.shape, x.shape
            ));
        }
        let mut split = own.shape.clone();
        split.insert(along + 1, 1);
        let mut wide = split.clone();
        wide[along + 1] = block;
        let mut shape = own.shape.clone();
        shape[along] *= block;
        let y = self.expand(&Computed { shape: split, ..own }, &wide)?;
        self.part(&Computed { shape, ..y }, along, 0, x.shape[along])
    }

    /// `clip(round(x / scale) + zero)` as an integer of this type.
    fn quantized(
        &mut self,
        x: &Computed,
        scale: &Computed,
        zero: Option<&Computed>,
        kind: Kind,
    ) -> Result<Computed, String> {
        let y = self.combine(x, scale, binary::DIV)?;
        if kind.small_float().is_some() {
            let y = match zero {
                Some(zero) => self.combine(&y, zero, binary::ADD)?,
                None => y,
            };
            let y = self.narrowed(&y, kind, true)?;
            return Ok(Computed { kind, ..y });
        }
        let (low, high) = range(kind)?;
        let mut y = self.apply(&y, Function::new(unary::ROUND))?;
        if let Some(zero) = zero {
            y = self.combine(&y, zero, binary::ADD)?;
        }
        let y = self.apply(&y, Function::with(unary::CLIP, low, high))?;
        Ok(Computed { kind, ..y })
    }

    /// `x - zero`, with the largest size that its elements can have. `shape`: of the zero point.
    fn centred(
        &mut self,
        node: &Node,
        x: &Computed,
        zero: usize,
        shape: impl Fn(usize) -> Vec<usize>,
    ) -> Result<(Computed, f32), String> {
        let (low, high) = range(x.kind)?;
        let Some(zero) = self.optional(node, zero)? else { return Ok((x.clone(), high.max(-low))) };
        let zero = self.computed(zero)?;
        let zero = Computed { shape: if zero.len() == 1 { vec![] } else { shape(zero.len()) }, ..zero };
        let (first, last) = match self.data(zero.id) {
            Some(values) => {
                values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)))
            }
            None => (low, high),
        };
        let y = self.combine(x, &zero, binary::SUB)?;
        // A difference has more bits than its type.
        Ok((Computed { kind: Kind::I32, ..y }, (high - first).max(last - low)))
    }

    /// Whether sums of `terms` products stay exact; `b` may be known better than by its type.
    fn exact(&self, terms: usize, a: f32, b: &Computed, most: f32) -> Result<(), String> {
        let most =
            self.data(b.id).map_or(most, |values| values.iter().fold(0.0, |most: f32, v| most.max(v.abs())));
        let sum = terms as f64 * f64::from(a) * f64::from(most);
        if sum > MAX_EXACT as f64 {
            return Err(format!(
                "a sum of {terms} products may reach {sum}, beyond {MAX_EXACT}, which `f32` holds exactly: use the floating-point network with `--quantize`"
            ));
        }
        Ok(())
    }

    /// The product of integers less their zero points, exactly. `places`: of A, B and their zero points.
    fn integer_product(
        &mut self,
        node: &Node,
        [a, b, a_zero, b_zero]: [usize; 4],
    ) -> Result<Computed, String> {
        let (a, b) = (self.value(node, a)?, self.value(node, b)?);
        // One zero point per row of A, per column of B.
        let (a, a_most) = self.centred(node, &a, a_zero, |count| vec![count, 1])?;
        let (b, b_most) = self.centred(node, &b, b_zero, |count| vec![count])?;
        self.exact(a.shape.last().copied().unwrap_or(1), a_most, &b, b_most)?;
        let y = self.product(&a, &b)?;
        Ok(Computed { kind: Kind::I32, ..y })
    }

    /// The convolution of integers less their zero points, exactly.
    fn integer_conv(
        &mut self,
        node: &Node,
        [x, w, x_zero, w_zero]: [usize; 4],
        bias: Option<usize>,
    ) -> Result<Computed, String> {
        let (x, w) = (self.value(node, x)?, self.value(node, w)?);
        let (x, x_most) = self.centred(node, &x, x_zero, |count| vec![count])?;
        let rank = w.shape.len();
        let (w, w_most) = self.centred(node, &w, w_zero, |count| per_first(count, rank))?;
        self.exact(w.shape.iter().skip(1).product(), x_most, &w, w_most)?;
        let bias = match bias {
            Some(index) => self.known(node, index)?.map(|(values, _)| values.to_vec()),
            None => None,
        };
        let y = conv::convolution(self, node, &x, &w, bias)?;
        Ok(Computed { kind: Kind::I32, ..y })
    }

    /// An accumulator to the quantised result: `clip(round(x * a_scale * b_scale / y_scale) + zero)`.
    fn requantized(
        &mut self,
        node: &Node,
        x: &Computed,
        scales: [&Computed; 2],
        [y_scale, y_zero]: [usize; 2],
    ) -> Result<(), String> {
        let scale = self.combine(scales[0], scales[1], binary::MUL)?;
        let own = self.scale(node, y_scale, |count| vec![count])?;
        let factor = self.combine(&scale, &own, binary::DIV)?;
        let y = self.combine(&Computed { kind: Kind::F32, ..x.clone() }, &factor, binary::MUL)?;
        let zero = self.value(node, y_zero)?;
        let zero = Computed { shape: if zero.len() == 1 { vec![] } else { zero.shape.clone() }, ..zero };
        let one = self.fixed(vec![1.0], vec![], Kind::F32)?;
        let y = self.quantized(&y, &one, Some(&zero), zero.kind)?;
        self.finish(node, y)
    }

    /// A scale: one number, or many in this shape.
    fn scale(
        &mut self,
        node: &Node,
        index: usize,
        shape: impl Fn(usize) -> Vec<usize>,
    ) -> Result<Computed, String> {
        let own = self.value(node, index)?;
        Ok(Computed { shape: if own.len() == 1 { vec![] } else { shape(own.len()) }, ..own })
    }
}

fn quantize(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let (along, block) = (node.int("axis", 1)?, node.int("block_size", 0)?);
    let scale = context.value(node, 1)?;
    let scale = context.along(scale, &x, along, block)?;
    let zero = match context.optional(node, 2)? {
        Some(zero) => {
            let zero = context.computed(zero)?;
            Some(context.along(zero, &x, along, block)?)
        }
        None => None,
    };
    let kind = match (&zero, node.int("output_dtype", 0)?) {
        (Some(zero), _) => zero.kind,
        (None, 0) => Kind::U8,
        (None, number) => {
            Kind::from_onnx(number as i32).map_err(|problem| format!("attribute `output_dtype` {problem}"))?
        }
    };
    let y = context.quantized(&x, &scale, zero.as_ref(), kind)?;
    context.finish(node, y)
}

fn dequantize(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let (along, block) = (node.int("axis", 1)?, node.int("block_size", 0)?);
    let scale = context.value(node, 1)?;
    let kind = scale.kind;
    let scale = context.along(scale, &x, along, block)?;
    let mut y = x.clone();
    if let Some(zero) = context.optional(node, 2)? {
        let zero = context.computed(zero)?;
        let zero = context.along(zero, &x, along, block)?;
        y = context.combine(&y, &zero, binary::SUB)?;
    }
    let y = context.combine(&y, &scale, binary::MUL)?;
    context.finish(node, Computed { kind, ..y })
}

/// Scale and zero point by the smallest and largest element, 0 among them.
fn dynamic_quantize(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let axes: Vec<usize> = (0..x.shape.len()).collect();
    let high = context.reduced(&x, &axes, by::MAX)?;
    let low = context.reduced(&x, &axes, by::MIN)?;
    let scalar = |y: Computed| Computed { shape: vec![], ..y };
    let high = context.with_number(&scalar(high), binary::MAX, 0.0)?;
    let low = context.with_number(&scalar(low), binary::MIN, 0.0)?;
    let span = context.combine(&high, &low, binary::SUB)?;
    // All zeros: a scale of 1, as onnxruntime has it.
    let flat = context.with_number(&span, binary::EQUAL, 0.0)?;
    let flat = context.with_number(&flat, binary::MUL, 255.0)?;
    let span = context.combine(&span, &flat, binary::ADD)?;
    let scale = context.with_number(&span, binary::DIV, 255.0)?;
    let zero = context.combine(&low, &scale, binary::DIV)?;
    let zero = context.with_number(&zero, binary::MUL, -1.0)?;
    let one = context.fixed(vec![1.0], vec![], Kind::F32)?;
    let zero = context.quantized(&zero, &one, None, Kind::U8)?;
    let y = context.quantized(&x, &scale, Some(&zero), Kind::U8)?;
    context.result(node, 1, scale.id, scale.shape, Kind::F32)?;
    context.result(node, 2, zero.id, zero.shape, Kind::U8)?;
    context.finish(node, y)
}

fn matmul_integer(context: &mut Context, node: &Node) -> Result<(), String> {
    let y = context.integer_product(node, [0, 1, 2, 3])?;
    context.finish(node, y)
}

fn qlinear_matmul(context: &mut Context, node: &Node) -> Result<(), String> {
    let y = context.integer_product(node, [0, 3, 2, 5])?;
    let scales =
        [context.scale(node, 1, |count| vec![count, 1])?, context.scale(node, 4, |count| vec![count])?];
    context.requantized(node, &y, [&scales[0], &scales[1]], [6, 7])
}

fn conv_integer(context: &mut Context, node: &Node) -> Result<(), String> {
    let y = context.integer_conv(node, [0, 1, 2, 3], None)?;
    context.finish(node, y)
}

fn qlinear_conv(context: &mut Context, node: &Node) -> Result<(), String> {
    let y = context.integer_conv(node, [0, 3, 2, 5], Some(8))?;
    let rank = y.shape.len();
    let scales = [
        context.scale(node, 1, |count| vec![count])?,
        context.scale(node, 4, |count| per_first(count, rank - 1))?,
    ];
    context.requantized(node, &y, [&scales[0], &scales[1]], [6, 7])
}
