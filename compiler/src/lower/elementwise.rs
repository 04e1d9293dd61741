//! Functions of one, two and three tensors, element by element.

use super::{Computed, Context, Lowering, Tensor, broadcast, strides};
use crate::import::{Kind, Node, elements};
use crate::program::{Function, Op, ValueId, view};
use tendon_wire::image::{binary, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Abs",         |c, n| plain(c, n, unary::ABS)),
    ("Acos",        |c, n| plain(c, n, unary::ACOS)),
    ("Acosh",       |c, n| plain(c, n, unary::ACOSH)),
    ("Add",         |c, n| arithmetic(c, n, binary::ADD)),
    ("And",         |c, n| truth(c, n, binary::AND)),
    ("Asin",        |c, n| plain(c, n, unary::ASIN)),
    ("Asinh",       |c, n| plain(c, n, unary::ASINH)),
    ("Atan",        |c, n| plain(c, n, unary::ATAN)),
    ("Atanh",       |c, n| plain(c, n, unary::ATANH)),
    ("BitShift",    shift),
    ("BitwiseAnd",  |c, n| arithmetic(c, n, binary::BIT_AND)),
    ("BitwiseNot",  |c, n| plain(c, n, unary::BIT_NOT)),
    ("BitwiseOr",   |c, n| arithmetic(c, n, binary::BIT_OR)),
    ("BitwiseXor",  |c, n| arithmetic(c, n, binary::BIT_XOR)),
    ("Cast",        cast),
    ("CastLike",    cast_like),
    ("Ceil",        |c, n| plain(c, n, unary::CEIL)),
    ("Celu",        celu),
    ("Clip",        clip),
    ("Cos",         |c, n| plain(c, n, unary::COS)),
    ("Cosh",        |c, n| plain(c, n, unary::COSH)),
    ("Div",         |c, n| arithmetic(c, n, binary::DIV)),
    ("Elu",         |c, n| function(c, n, Function::with(unary::ELU, n.float("alpha", 1.0)?, 0.0))),
    ("Equal",       |c, n| truth(c, n, binary::EQUAL)),
    ("Erf",         |c, n| plain(c, n, unary::ERF)),
    ("Exp",         |c, n| plain(c, n, unary::EXP)),
    ("Floor",       |c, n| plain(c, n, unary::FLOOR)),
    ("Gelu",        gelu),
    ("Greater",     |c, n| truth(c, n, binary::GREATER)),
    ("GreaterOrEqual", |c, n| truth(c, n, binary::GREATER_EQUAL)),
    ("HardSigmoid", hard_sigmoid),
    ("HardSwish",   hard_swish),
    ("IsInf",       is_inf),
    ("IsNaN",       |c, n| test(c, n, Function::new(unary::IS_NAN))),
    ("LeakyRelu",   |c, n| function(c, n, Function::with(unary::LEAKY_RELU, n.float("alpha", 0.01)?, 0.0))),
    ("Less",        |c, n| truth(c, n, binary::LESS)),
    ("LessOrEqual", |c, n| truth(c, n, binary::LESS_EQUAL)),
    ("Log",         |c, n| plain(c, n, unary::LOG)),
    ("Max",         |c, n| variadic(c, n, binary::MAX)),
    ("Mean",        mean),
    ("Min",         |c, n| variadic(c, n, binary::MIN)),
    ("Mish",        |c, n| plain(c, n, unary::MISH)),
    ("Mod",         modulo),
    ("Mul",         |c, n| arithmetic(c, n, binary::MUL)),
    ("Neg",         neg),
    ("Not",         |c, n| test(c, n, Function::new(unary::NOT))),
    ("Or",          |c, n| truth(c, n, binary::OR)),
    ("PRelu",       |c, n| arithmetic(c, n, binary::PRELU)),
    ("Pow",         pow),
    ("Reciprocal",  |c, n| plain(c, n, unary::RECIPROCAL)),
    ("Relu",        |c, n| plain(c, n, unary::RELU)),
    ("Round",       |c, n| plain(c, n, unary::ROUND)),
    ("Selu",        selu),
    ("Shrink",      |c, n| function(c, n, Function::with(unary::SHRINK, n.float("lambd", 0.5)?, n.float("bias", 0.0)?))),
    ("Sigmoid",     |c, n| plain(c, n, unary::SIGMOID)),
    ("Sign",        |c, n| plain(c, n, unary::SIGN)),
    ("Sin",         |c, n| plain(c, n, unary::SIN)),
    ("Sinh",        |c, n| plain(c, n, unary::SINH)),
    ("Softplus",    |c, n| plain(c, n, unary::SOFTPLUS)),
    ("Softsign",    |c, n| plain(c, n, unary::SOFTSIGN)),
    ("Sqrt",        |c, n| plain(c, n, unary::SQRT)),
    ("Sub",         |c, n| arithmetic(c, n, binary::SUB)),
    ("Sum",         |c, n| variadic(c, n, binary::ADD)),
    ("SwiGLU",      swish_gated),
    ("Swish",       swish),
    ("Tan",         |c, n| plain(c, n, unary::TAN)),
    ("Tanh",        |c, n| plain(c, n, unary::TANH)),
    ("ThresholdedRelu", |c, n| function(c, n, Function::with(unary::THRESHOLDED_RELU, n.float("alpha", 1.0)?, 0.0))),
    ("Where",       select),
    ("Xor",         |c, n| truth(c, n, binary::XOR)),
];

impl Context {
    /// `f(x)`.
    pub(super) fn apply(&mut self, x: &Computed, f: Function) -> Result<Computed, String> {
        let id = self.step(Op::Unary { x: x.id, f }, x.len())?;
        Ok(Computed { id, ..x.clone() })
    }

    /// `f(x, c)` with one number.
    pub(super) fn with_number(&mut self, x: &Computed, kind: u8, number: f32) -> Result<Computed, String> {
        let b = self.floats(vec![number])?;
        let id = self.step(Op::Binary { a: x.id, b, kind, inner: x.len() }, x.len())?;
        Ok(Computed { id, ..x.clone() })
    }

    /// `f(a, b)`, broadcast.
    pub(super) fn combine(&mut self, a: &Computed, b: &Computed, kind: u8) -> Result<Computed, String> {
        self.sound(a)?;
        self.sound(b)?;
        let shape = broadcast(&a.shape, &b.shape)?;
        let n = elements(&shape)?;
        let result = |id, kind| Computed { id, shape: shape.clone(), kind };
        // The operand that has all elements comes first; a constant one second.
        let swap = |kind| match kind {
            binary::SUB => Some(binary::SUB_FROM),
            binary::DIV => Some(binary::DIV_INTO),
            binary::POW => Some(binary::POW_OF),
            binary::LESS => Some(binary::GREATER),
            binary::GREATER => Some(binary::LESS),
            binary::LESS_EQUAL => Some(binary::GREATER_EQUAL),
            binary::GREATER_EQUAL => Some(binary::LESS_EQUAL),
            binary::SUB_FROM | binary::DIV_INTO | binary::POW_OF => None,
            binary::MOD | binary::FMOD | binary::PRELU | binary::SHIFT_LEFT | binary::SHIFT_RIGHT => None,
            symmetric => Some(symmetric),
        };
        let prefers_swap = a.len() < n || (self.data(a.id).is_some() && self.data(b.id).is_none());
        if let (true, Some(swapped), Some(inner)) =
            (prefers_swap && b.len() == n, swap(kind), pattern(&a.shape, &shape))
        {
            let id = self.step(Op::Binary { a: b.id, b: a.id, kind: swapped, inner }, n)?;
            return Ok(result(id, a.kind));
        }
        let first = self.expand(a, &shape)?;
        let (second, inner) = match pattern(&b.shape, &shape) {
            Some(inner) => (b.id, inner),
            None => (self.expand(b, &shape)?.id, 1),
        };
        let id = self.step(Op::Binary { a: first.id, b: second, kind, inner }, n)?;
        Ok(result(id, a.kind))
    }

    /// `x` repeated to a shape that it broadcasts to.
    pub(super) fn expand(&mut self, x: &Computed, shape: &[usize]) -> Result<Computed, String> {
        self.sound(x)?;
        let target = broadcast(&x.shape, shape)?;
        if target != shape {
            return Err(format!("shape {:?} does not expand to {shape:?}", x.shape));
        }
        if x.len() == elements(shape)? {
            return Ok(Computed { shape: shape.to_vec(), ..x.clone() });
        }
        let mut own = vec![1; shape.len() - x.shape.len()];
        own.extend(&x.shape);
        let from: Vec<i64> =
            strides(&own).iter().zip(&own).map(|(&stride, &dim)| if dim == 1 { 0 } else { stride }).collect();
        self.moved(x, shape, &from, 0)
    }

    /// A new tensor whose elements lie at `offset + index . from` in `x`.
    pub(super) fn moved(
        &mut self,
        x: &Computed,
        shape: &[usize],
        from: &[i64],
        offset: usize,
    ) -> Result<Computed, String> {
        self.sound(x)?;
        let len = elements(shape)?;
        let op = match view(shape, from, &strides(shape), [offset, 0]) {
            Some(view) => Op::Assemble { fill: None, parts: vec![(x.id, view)] },
            // More dimensions than a view has: one table entry per element.
            None => {
                self.charge(len)?;
                let mut table = vec![offset as i64];
                for (&size, &stride) in shape.iter().zip(from) {
                    table = table
                        .iter()
                        .flat_map(|&base| (0..size as i64).map(move |i| base + i * stride))
                        .collect();
                }
                Op::Gather { x: x.id, table: table.into_iter().map(|place| place as u32).collect() }
            }
        };
        let id = self.step(op, len)?;
        Ok(Computed { id, shape: shape.to_vec(), kind: x.kind })
    }
}

/// How often each element of `b` repeats before the next one comes, when `b` broadcasts to `shape` in that
/// way: its dimensions are a run of the shape's, and 1 elsewhere.
fn pattern(b: &[usize], shape: &[usize]) -> Option<usize> {
    let skip = shape.len() - b.len().min(shape.len());
    let own = |axis: usize| if axis < skip { 1 } else { b[axis - skip] };
    let Some(first) = (0..shape.len()).find(|&axis| own(axis) != 1) else {
        return Some(shape.iter().product());
    };
    let last = (0..shape.len()).rfind(|&axis| own(axis) != 1)?;
    let run = (first..=last).all(|axis| own(axis) == shape[axis]);
    run.then(|| shape[last + 1..].iter().product())
}

fn function(context: &mut Context, node: &Node, f: Function) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = context.apply(&x, f)?;
    context.finish(node, y)
}

fn plain(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    function(context, node, Function::new(kind))
}

/// A function whose result is true or false.
fn test(context: &mut Context, node: &Node, f: Function) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = context.apply(&x, f)?;
    context.finish(node, Computed { kind: Kind::Bool, ..y })
}

impl Context {
    /// Output 0; integers of few bits overflow as they do.
    pub(super) fn finish(&mut self, node: &Node, y: Computed) -> Result<(), String> {
        let y = self.wrapped(y)?;
        self.result(node, 0, y.id, y.shape, y.kind)
    }

    fn wrapped(&mut self, y: Computed) -> Result<Computed, String> {
        let Some((bits, signed)) = y.kind.small_integer() else { return Ok(y) };
        let modulus = 2f32.powi(bits as i32);
        self.apply(&y, Function::with(unary::WRAP, modulus, if signed { -modulus / 2.0 } else { 0.0 }))
    }
}

/// Integers that are known stay known.
fn known_arithmetic(context: &mut Context, node: &Node, kind: u8) -> Result<bool, String> {
    let (a, b) = (context.input(node, 0)?, context.input(node, 1)?);
    let (
        Tensor::Known { values: x, shape: own_a, kind: dtype },
        Tensor::Known { values: y, shape: own_b, .. },
    ) = (a, b)
    else {
        return Ok(false);
    };
    let f: fn(i64, i64) -> Option<i64> = match kind {
        binary::ADD => i64::checked_add,
        binary::SUB => i64::checked_sub,
        binary::MUL => i64::checked_mul,
        binary::DIV => i64::checked_div,
        binary::MOD => i64::checked_rem_euclid,
        binary::MIN => |a, b| Some(a.min(b)),
        binary::MAX => |a, b| Some(a.max(b)),
        binary::EQUAL => |a, b| Some(i64::from(a == b)),
        binary::LESS => |a, b| Some(i64::from(a < b)),
        binary::GREATER => |a, b| Some(i64::from(a > b)),
        binary::AND => |a, b| Some(i64::from(a != 0 && b != 0)),
        binary::OR => |a, b| Some(i64::from(a != 0 || b != 0)),
        _ => return Ok(false),
    };
    let shape = broadcast(&own_a, &own_b)?;
    let count = elements(&shape)?;
    context.charge(count)?;
    let places = |own: &[usize]| repeated(own, &shape);
    let values = places(&own_a).into_iter().zip(places(&own_b)).map(|(i, j)| f(x[i], y[j]));
    let values: Option<Vec<i64>> = values.take(count).collect();
    let values = values.ok_or("integer overflow or division by zero")?;
    let compares = (binary::EQUAL..=binary::XOR).contains(&kind);
    context.set(node, 0, Tensor::integers(values, shape, if compares { Kind::Bool } else { dtype }))?;
    Ok(true)
}

/// For each element of `shape` its place in a tensor of shape `own` that broadcasts to it.
pub(super) fn repeated(own: &[usize], shape: &[usize]) -> Vec<usize> {
    let steps = strides(own);
    (0..shape.iter().product())
        .map(|mut index: usize| {
            let mut place = 0;
            for axis in (0..shape.len()).rev() {
                let along = index % shape[axis];
                index /= shape[axis];
                if let Some(axis) = (axis + own.len()).checked_sub(shape.len())
                    && own[axis] != 1
                {
                    place += along * steps[axis] as usize;
                }
            }
            place
        })
        .collect()
}

fn arithmetic(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    if known_arithmetic(context, node, kind)? {
        return Ok(());
    }
    let (a, b) = (context.value(node, 0)?, context.value(node, 1)?);
    let mut y = context.combine(&a, &b, kind)?;
    if kind == binary::DIV && !y.kind.is_float() {
        y = context.apply(&y, Function::new(unary::TRUNC))?;
    }
    context.finish(node, y)
}

fn truth(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    if known_arithmetic(context, node, kind)? {
        return Ok(());
    }
    let (a, b) = (context.value(node, 0)?, context.value(node, 1)?);
    let y = context.combine(&a, &b, kind)?;
    context.finish(node, Computed { kind: Kind::Bool, ..y })
}

fn modulo(context: &mut Context, node: &Node) -> Result<(), String> {
    let fmod = node.int("fmod", 0)? != 0;
    arithmetic(context, node, if fmod { binary::FMOD } else { binary::MOD })
}

/// Beyond the bits of the type nothing is left of a number but its sign; a negative amount counts as that.
fn shift(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, amount) = (context.value(node, 0)?, context.value(node, 1)?);
    let all = context.fixed(vec![64.0], vec![], amount.kind)?;
    let negative = context.with_number(&amount, binary::LESS, 0.0)?;
    let amount = context.choose(&negative, &all, &amount)?;
    let y = match node.text("direction", "")? {
        "LEFT" => {
            let bits = x.kind.bits();
            let beyond = context.with_number(&amount, binary::GREATER_EQUAL, bits as f32)?;
            let amount = context.with_number(&amount, binary::MIN, bits as f32)?;
            let y = context.combine(&x, &amount, binary::SHIFT_LEFT)?;
            let zero = context.fixed(vec![0.0], vec![], x.kind)?;
            context.choose(&beyond, &zero, &y)?
        }
        "RIGHT" => context.combine(&x, &amount, binary::SHIFT_RIGHT)?,
        other => return Err(format!("attribute `direction` is `{other}`, expected LEFT or RIGHT")),
    };
    context.finish(node, Computed { kind: x.kind, ..y })
}

fn variadic(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    if node.inputs.len() == 2 && known_arithmetic(context, node, kind)? {
        return Ok(());
    }
    let y = fold_inputs(context, node, kind)?;
    context.finish(node, y)
}

fn fold_inputs(context: &mut Context, node: &Node, kind: u8) -> Result<Computed, String> {
    let mut y = context.value(node, 0)?;
    for index in 1..node.inputs.len() {
        let x = context.value(node, index)?;
        y = context.combine(&y, &x, kind)?;
    }
    Ok(y)
}

fn mean(context: &mut Context, node: &Node) -> Result<(), String> {
    let sum = fold_inputs(context, node, binary::ADD)?;
    let y = context.with_number(&sum, binary::DIV, node.inputs.len() as f32)?;
    context.finish(node, y)
}

fn neg(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = context.with_number(&x, binary::MUL, -1.0)?;
    context.finish(node, y)
}

/// Constant exponents that policies use become products and roots.
fn pow(context: &mut Context, node: &Node) -> Result<(), String> {
    let (a, b) = (context.value(node, 0)?, context.value(node, 1)?);
    let exponent = match context.data(b.id) {
        Some(values) if values.len() == 1 && b.shape.len() <= a.shape.len() => Some(values[0]),
        _ => None,
    };
    let y = match exponent {
        Some(2.0) => context.combine(&a, &a, binary::MUL)?,
        Some(3.0) => {
            let square = context.combine(&a, &a, binary::MUL)?;
            context.combine(&square, &a, binary::MUL)?
        }
        Some(0.5) => context.apply(&a, Function::new(unary::SQRT))?,
        Some(-1.0) => context.apply(&a, Function::new(unary::RECIPROCAL))?,
        _ => context.combine(&a, &b, binary::POW)?,
    };
    let y = if y.kind.is_float() { y } else { context.apply(&y, Function::new(unary::ROUND))? };
    context.finish(node, y)
}

/// `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`
fn celu(context: &mut Context, node: &Node) -> Result<(), String> {
    let alpha = node.float("alpha", 1.0)?;
    let x = context.value(node, 0)?;
    let x = context.with_number(&x, binary::MUL, 1.0 / alpha)?;
    let y = context.apply(&x, Function::with(unary::ELU, 1.0, 0.0))?;
    let y = context.with_number(&y, binary::MUL, alpha)?;
    context.finish(node, y)
}

/// `gamma * elu(x, alpha)`
fn selu(context: &mut Context, node: &Node) -> Result<(), String> {
    let (alpha, gamma) = (node.float("alpha", 1.673_263_2)?, node.float("gamma", 1.050_701)?);
    let x = context.value(node, 0)?;
    let y = context.apply(&x, Function::with(unary::ELU, alpha, 0.0))?;
    let y = context.with_number(&y, binary::MUL, gamma)?;
    context.finish(node, y)
}

fn gelu(context: &mut Context, node: &Node) -> Result<(), String> {
    match node.text("approximate", "none")? {
        "none" => plain(context, node, unary::GELU),
        "tanh" => plain(context, node, unary::GELU_TANH),
        other => Err(format!("attribute `approximate` is `{other}`, expected none or tanh")),
    }
}

fn swish(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = context.swished(&x, node.float("alpha", 1.0)?)?;
    context.finish(node, y)
}

/// `swish(a) * b`
fn swish_gated(context: &mut Context, node: &Node) -> Result<(), String> {
    let (a, b) = (context.value(node, 0)?, context.value(node, 1)?);
    let gate = context.swished(&a, node.float("alpha", 1.0)?)?;
    let y = context.combine(&gate, &b, binary::MUL)?;
    context.finish(node, y)
}

impl Context {
    /// `x * sigmoid(alpha * x)`
    pub(super) fn swished(&mut self, x: &Computed, alpha: f32) -> Result<Computed, String> {
        if alpha == 1.0 {
            return self.apply(x, Function::new(unary::SWISH));
        }
        let gate = self.with_number(x, binary::MUL, alpha)?;
        let gate = self.apply(&gate, Function::new(unary::SIGMOID))?;
        self.combine(x, &gate, binary::MUL)
    }
}

/// `clip(alpha * x + beta, 0, 1)`
fn gate(context: &mut Context, x: &Computed, alpha: f32, beta: f32) -> Result<Computed, String> {
    let y = context.with_number(x, binary::MUL, alpha)?;
    let y = context.with_number(&y, binary::ADD, beta)?;
    context.apply(&y, Function::with(unary::CLIP, 0.0, 1.0))
}

fn hard_sigmoid(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = gate(context, &x, node.float("alpha", 0.2)?, node.float("beta", 0.5)?)?;
    context.finish(node, y)
}

fn hard_swish(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let factor = gate(context, &x, 1.0 / 6.0, 0.5)?;
    let y = context.combine(&x, &factor, binary::MUL)?;
    context.finish(node, y)
}

/// Between two scalars, which older files give as attributes.
fn clip(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let mut bounds = [(f32::NEG_INFINITY, "min", binary::MAX), (f32::INFINITY, "max", binary::MIN)];
    let mut y = x;
    let mut constant = true;
    for (index, (bound, name, kind)) in bounds.iter_mut().enumerate() {
        if let Some(given) = context.optional(node, index + 1)? {
            let given = match given {
                // Bounds of integers may be as large as their type.
                Tensor::Known { values, .. } if values.len() == 1 => {
                    *bound = values[0] as f32;
                    continue;
                }
                other => context.computed(other)?,
            };
            match context.data(given.id) {
                Some(values) if values.len() == 1 => *bound = values[0],
                _ => {
                    constant = false;
                    y = context.combine(&y, &given, *kind)?;
                }
            }
        } else if let Some(value) = node.attributes.contains_key(*name).then(|| node.float(name, 0.0)) {
            *bound = value?;
        }
    }
    let [(low, ..), (high, ..)] = bounds;
    if low.is_nan() || high.is_nan() {
        return Err("a bound is NaN: the file is damaged".into());
    }
    if low > high && constant {
        // As ONNX has it: min, then max.
        let low_first = context.with_number(&y, binary::MAX, low)?;
        let y = context.with_number(&low_first, binary::MIN, high)?;
        return context.finish(node, y);
    }
    if low > f32::NEG_INFINITY || high < f32::INFINITY {
        y = context.apply(&y, Function::with(unary::CLIP, low, high))?;
    }
    context.finish(node, y)
}

fn is_inf(context: &mut Context, node: &Node) -> Result<(), String> {
    let (positive, negative) = (node.int("detect_positive", 1)?, node.int("detect_negative", 1)?);
    test(context, node, Function::with(unary::IS_INF, positive as f32, negative as f32))
}

fn cast(context: &mut Context, node: &Node) -> Result<(), String> {
    let to =
        Kind::from_onnx(node.int("to", 0)? as i32).map_err(|problem| format!("attribute `to` {problem}"))?;
    cast_to(context, node, to)
}

fn cast_like(context: &mut Context, node: &Node) -> Result<(), String> {
    let to = context.input(node, 1)?.kind();
    cast_to(context, node, to)
}

fn cast_to(context: &mut Context, node: &Node, to: Kind) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    if let Tensor::Known { values, shape, .. } = &tensor
        && !to.is_float()
    {
        let values: Vec<i64> = match to {
            Kind::Bool => values.iter().map(|&value| i64::from(value != 0)).collect(),
            _ => values.to_vec(),
        };
        return context.set(node, 0, Tensor::integers(values, shape.clone(), to));
    }
    let x = context.computed(tensor)?;
    let from = x.kind;
    let y = match to {
        Kind::Bool if from != Kind::Bool => {
            let not = context.apply(&x, Function::new(unary::NOT))?;
            context.apply(&not, Function::new(unary::NOT))?
        }
        to if !to.is_float() && from.is_float() => context.apply(&x, Function::new(unary::TRUNC))?,
        to if to.small_float().is_some() && from != to => {
            let saturates = node.int("saturate", 1)? != 0;
            context.narrowed(&x, to, saturates)?
        }
        _ => x,
    };
    let y = Computed { kind: to, ..y };
    // Constants of integers are known again.
    if !to.is_float()
        && let Some(values) = context.data(y.id)
        && values.iter().all(|value| value.abs() <= super::MAX_EXACT as f32)
    {
        let values = values.iter().map(|&value| value as i64).collect();
        return context.set(node, 0, Tensor::integers(values, y.shape, to));
    }
    context.finish(node, y)
}

impl Context {
    /// Rounded to a float of at most 8 bits. Half precision and wider keep what `f32` has.
    pub(super) fn narrowed(&mut self, x: &Computed, to: Kind, saturates: bool) -> Result<Computed, String> {
        let Some(small) = to.small_float() else { return Ok(x.clone()) };
        let bound = 4.0 * small.largest;
        let x = self.apply(x, Function::with(unary::CLIP, -bound, bound))?;
        // All but the leading bits cancel (Dekker 1971, Veltkamp's splitting).
        let product = self.with_number(&x, binary::MUL, (1u32 << (23 - small.fraction)) as f32 + 1.0)?;
        let rest = self.combine(&product, &x, binary::SUB)?;
        let leading = self.combine(&product, &rest, binary::SUB)?;
        // Below the smallest normal number the steps are equal.
        let normal = 2f32.powi(1 - small.bias);
        let step = normal / (1u32 << small.fraction) as f32;
        let steps = self.with_number(&x, binary::MUL, 1.0 / step)?;
        let steps = self.apply(&steps, Function::new(unary::ROUND))?;
        let even = self.with_number(&steps, binary::MUL, step)?;
        let size = self.apply(&x, Function::new(unary::ABS))?;
        let below = self.with_number(&size, binary::LESS, normal)?;
        let y = self.choose(&below, &even, &leading)?;
        if to == Kind::F4E2M1 {
            // Which has no NaN.
            let y = self.apply(&y, Function::with(unary::CLIP, -small.largest, small.largest))?;
            let none = self.apply(&x, Function::new(unary::IS_NAN))?;
            let zero = self.fixed(vec![0.0], vec![], to)?;
            return self.choose(&none, &zero, &y);
        }
        if saturates {
            return self.apply(&y, Function::with(unary::CLIP, -small.largest, small.largest));
        }
        let size = self.apply(&y, Function::new(unary::ABS))?;
        let beyond = self.with_number(&size, binary::GREATER, small.largest)?;
        let mut outside = self.with_number(&y, binary::MUL, f32::INFINITY)?;
        if !small.infinite {
            outside = self.with_number(&outside, binary::MUL, 0.0)?;
        }
        self.choose(&beyond, &outside, &y)
    }
}

/// `a` where the condition holds, else `b`.
fn select(context: &mut Context, node: &Node) -> Result<(), String> {
    if let (
        Tensor::Known { values: x, shape: own, .. },
        Tensor::Known { values: a, shape: own_a, kind },
        Tensor::Known { values: b, shape: own_b, .. },
    ) = (context.input(node, 0)?, context.input(node, 1)?, context.input(node, 2)?)
    {
        let shape = broadcast(&broadcast(&own, &own_a)?, &own_b)?;
        context.charge(elements(&shape)?)?;
        let places =
            repeated(&own, &shape).into_iter().zip(repeated(&own_a, &shape)).zip(repeated(&own_b, &shape));
        let values =
            places.map(|((x_at, a_at), b_at)| if x[x_at] != 0 { a[a_at] } else { b[b_at] }).collect();
        return context.set(node, 0, Tensor::integers(values, shape, kind));
    }
    let (x, a, b) = (context.value(node, 0)?, context.value(node, 1)?, context.value(node, 2)?);
    let y = context.choose(&x, &a, &b)?;
    context.finish(node, y)
}

impl Context {
    /// `a` where `x` is not 0, else `b`, broadcast.
    pub(super) fn choose(&mut self, x: &Computed, a: &Computed, b: &Computed) -> Result<Computed, String> {
        let shape = broadcast(&broadcast(&x.shape, &a.shape)?, &b.shape)?;
        let ids: [ValueId; 3] =
            [self.expand(x, &shape)?.id, self.expand(a, &shape)?.id, self.expand(b, &shape)?.id];
        let id = self.step(Op::Select { x: ids[0], a: ids[1], b: ids[2] }, elements(&shape)?)?;
        Ok(Computed { id, shape, kind: a.kind })
    }
}
