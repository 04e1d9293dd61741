//! Along axes: reductions, searches, running sums, softmax, normalisation.

use super::{Computed, Context, Lowering, axis};
use crate::import::{Kind, Node, elements};
use crate::program::{Axis, Function, Op};
use tendon_wire::image::{binary, reduce as by, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("ArgMax",             |c, n| arg(c, n, 0)),
    ("ArgMin",             |c, n| arg(c, n, 1)),
    ("BatchNormalization", batch_normalization),
    ("CumProd",            |c, n| cumulate(c, n, 4)),
    ("CumSum",             |c, n| cumulate(c, n, 0)),
    ("GroupNormalization", group_normalization),
    ("Hardmax",            hardmax),
    ("InstanceNormalization", instance_normalization),
    ("LayerNormalization", layer_normalization),
    ("LogSoftmax",         |c, n| softmax(c, n, true)),
    ("LpNormalization",    lp_normalization),
    ("MeanVarianceNormalization", mean_variance_normalization),
    ("RMSNormalization",   rms_normalization),
    ("ReduceL1",           |c, n| reduce(c, n, by::L1, None, false)),
    ("ReduceL2",           |c, n| reduce(c, n, by::SUM_SQUARE, Some(unary::SQRT), false)),
    ("ReduceLogSum",       |c, n| reduce(c, n, by::SUM, Some(unary::LOG), false)),
    ("ReduceLogSumExp",    |c, n| reduce(c, n, by::SUM, Some(unary::LOG), true)),
    ("ReduceMax",          |c, n| reduce(c, n, by::MAX, None, false)),
    ("ReduceMean",         |c, n| reduce(c, n, by::MEAN, None, false)),
    ("ReduceMin",          |c, n| reduce(c, n, by::MIN, None, false)),
    ("ReduceProd",         |c, n| reduce(c, n, by::PROD, None, false)),
    ("ReduceSum",          |c, n| reduce(c, n, by::SUM, None, false)),
    ("ReduceSumSquare",    |c, n| reduce(c, n, by::SUM_SQUARE, None, false)),
    ("Softmax",            |c, n| softmax(c, n, false)),
    ("TopK",               top_k),
];

impl Context {
    /// Reduces axes, which stay with size 1.
    pub(super) fn reduced(&mut self, x: &Computed, axes: &[usize], kind: u8) -> Result<Computed, String> {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        axes.dedup();
        let Some(&first) = axes.first() else { return Ok(x.clone()) };
        let mut shape = x.shape.clone();
        axes.iter().for_each(|&along| shape[along] = 1);
        let run = axes.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let (x, around) = if run {
            let last = first + axes.len();
            let flat = [elements(&x.shape[..first])?, elements(&x.shape[first..last])?, elements(&x.shape[last..])?];
            (x.clone(), Axis { outer: flat[0], n: flat[1], inner: flat[2] })
        } else {
            // The axes to be reduced go to the end.
            let kept = (0..x.shape.len()).filter(|along| !axes.contains(along));
            let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
            let moved = self.permuted(x, &order)?;
            let split = order.len() - axes.len();
            let (outer, n) = (elements(&moved.shape[..split])?, elements(&moved.shape[split..])?);
            (moved, Axis { outer, n, inner: 1 })
        };
        let id = self.step(Op::Reduce { x: x.id, axis: around, kind }, around.outer * around.inner)?;
        Ok(Computed { id, shape, kind: x.kind })
    }

    /// `(x - mean) / sqrt(variance + epsilon)` over axes.
    pub(super) fn normalized(&mut self, x: &Computed, axes: &[usize], epsilon: f32) -> Result<[Computed; 3], String> {
        let mean = self.reduced(x, axes, by::MEAN)?;
        let centred = self.combine(x, &mean, binary::SUB)?;
        let (y, scale) = self.scaled(&centred, axes, epsilon)?;
        Ok([y, mean, scale])
    }

    /// `x / sqrt(mean square + epsilon)` over axes, and the factor.
    fn scaled(&mut self, x: &Computed, axes: &[usize], epsilon: f32) -> Result<(Computed, Computed), String> {
        let square = self.reduced(x, axes, by::SUM_SQUARE)?;
        let count: usize = axes.iter().map(|&along| x.shape[along]).product();
        let variance = self.with_number(&square, binary::MUL, 1.0 / count as f32)?;
        let variance = self.with_number(&variance, binary::ADD, epsilon)?;
        let deviation = self.apply(&variance, Function::new(unary::SQRT))?;
        let factor = self.apply(&deviation, Function::new(unary::RECIPROCAL))?;
        Ok((self.combine(x, &factor, binary::MUL)?, factor))
    }

    /// A vector `[channels]` in the shape that broadcasts along axis 1 of a tensor of this rank.
    fn per_channel(&self, x: Computed, rank: usize) -> Computed {
        let mut shape = vec![1; rank.saturating_sub(1).max(1)];
        shape[0] = x.len();
        Computed { shape, ..x }
    }
}

fn reduce(
    context: &mut Context,
    node: &Node,
    kind: u8,
    after: Option<u8>,
    exponential: bool,
) -> Result<(), String> {
    let mut x = context.value(node, 0)?;
    let rank = x.shape.len();
    let given = context.integers_or(node, 1, "axes")?.filter(|axes| !axes.is_empty());
    let axes = match given {
        Some(axes) => axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None if node.int("noop_with_empty_axes", 0)? != 0 => Vec::new(),
        None => (0..rank).collect(),
    };
    let mut largest = None;
    if exponential {
        let max = context.reduced(&x, &axes, by::MAX)?;
        x = context.combine(&x, &max, binary::SUB)?;
        x = context.apply(&x, Function::new(unary::EXP))?;
        largest = Some(max);
    }
    // Without axes the function still applies to every element.
    let mut y = if axes.is_empty() {
        let axis = Axis { outer: x.len(), n: 1, inner: 1 };
        Computed { id: context.step(Op::Reduce { x: x.id, axis, kind }, x.len())?, ..x.clone() }
    } else {
        context.reduced(&x, &axes, kind)?
    };
    if let Some(f) = after {
        y = context.apply(&y, Function::new(f))?;
    }
    if let Some(max) = largest {
        y = context.combine(&y, &max, binary::ADD)?;
    }
    if !y.kind.is_float() && kind == by::MEAN {
        y = context.apply(&y, Function::new(unary::TRUNC))?;
    }
    if node.int("keepdims", 1)? == 0 {
        let kept = (0..rank).filter(|along| !axes.contains(along));
        y.shape = kept.map(|along| x.shape[along]).collect();
    }
    context.finish(node, y)
}

fn arg(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let along = axis(node.int("axis", 0)?, x.shape.len())?;
    let last = u8::from(node.int("select_last_index", 0)? != 0) << 1;
    let around = Axis::of(&x.shape, along);
    let id = context.step(Op::Arg { x: x.id, axis: around, kind: kind | last }, around.outer * around.inner)?;
    let mut shape = x.shape;
    shape[along] = 1;
    if node.int("keepdims", 1)? == 0 {
        shape.remove(along);
    }
    context.result(node, 0, id, shape, Kind::I64)
}

fn top_k(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let k = match context.integers(node, 1)? {
        Some(values) => values.first().copied().unwrap_or(0),
        None => node.int("k", 0)?,
    };
    let along = axis(node.int("axis", -1)?, x.shape.len())?;
    let around = Axis::of(&x.shape, along);
    let k = usize::try_from(k).ok().filter(|k| (1..=around.n).contains(k));
    let k = k.ok_or_else(|| format!("k lies outside 1..={} (axis {along})", around.n))?;
    let kind = u8::from(node.int("largest", 1)? == 0);
    let op = Op::Top { x: x.id, axis: around, k, kind };
    let mut shape = x.shape.clone();
    shape[along] = k;
    let id = context.step(op, elements(&shape)?)?;
    let indices = Computed { id, shape, kind: Kind::I64 };
    let op = Op::Take { x: x.id, indices: id, axis: around, m: k, each: true };
    let values = context.step(op, indices.len())?;
    context.result(node, 0, values, indices.shape.clone(), x.kind)?;
    context.result(node, 1, id, indices.shape, Kind::I64)
}

fn cumulate(context: &mut Context, node: &Node, product: u8) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let along = context.integers(node, 1)?.and_then(|values| values.first().copied()).ok_or("has no axis")?;
    let along = axis(along, x.shape.len())?;
    let exclusive = u8::from(node.int("exclusive", 0)? != 0);
    let reverse = u8::from(node.int("reverse", 0)? != 0) << 1;
    let op = Op::Cumulate { x: x.id, axis: Axis::of(&x.shape, along), kind: product | exclusive | reverse };
    let id = context.step(op, x.len())?;
    context.finish(node, Computed { id, ..x })
}

/// The axis of a softmax; before opset 13 all axes from it on are one.
fn softmax_axis(context: &Context, node: &Node, shape: &[usize]) -> Result<Axis, String> {
    let old = context.opset < 13;
    let along = axis(node.int("axis", if old { 1 } else { -1 })?, shape.len().max(1))?;
    if old {
        return Ok(Axis { outer: elements(&shape[..along])?, n: elements(&shape[along..])?, inner: 1 });
    }
    Ok(Axis::of(shape, along))
}

fn softmax(context: &mut Context, node: &Node, logarithm: bool) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let axis = softmax_axis(context, node, &x.shape)?;
    let id = context.step(Op::Softmax { x: x.id, axis, logarithm }, x.len())?;
    context.finish(node, Computed { id, ..x })
}

/// 1 at the first largest element, 0 elsewhere.
fn hardmax(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let axis = softmax_axis(context, node, &x.shape)?;
    let Axis { outer, n, inner } = axis;
    let arg = context.step(Op::Arg { x: x.id, axis, kind: 0 }, outer * inner)?;
    let arg = Computed { id: arg, shape: vec![outer, 1, inner], kind: Kind::I64 };
    let places = context.floats((0..n).map(|place| place as f32).collect())?;
    let places = Computed { id: places, shape: vec![n, 1], kind: Kind::I64 };
    let hot = context.combine(&arg, &places, binary::EQUAL)?;
    context.finish(node, Computed { shape: x.shape, kind: x.kind, ..hot })
}

/// Axes from `axis` to the last.
fn trailing(node: &Node, rank: usize) -> Result<Vec<usize>, String> {
    Ok((axis(node.int("axis", -1)?, rank)?..rank).collect())
}

fn layer_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let axes = trailing(node, x.shape.len())?;
    let [y, mean, factor] = context.normalized(&x, &axes, node.float("epsilon", 1e-5)?)?;
    let scale = context.value(node, 1)?;
    let mut y = context.combine(&y, &scale, binary::MUL)?;
    if context.optional(node, 2)?.is_some() {
        let shift = context.value(node, 2)?;
        y = context.combine(&y, &shift, binary::ADD)?;
    }
    context.result(node, 1, mean.id, mean.shape, mean.kind)?;
    context.result(node, 2, factor.id, factor.shape, factor.kind)?;
    context.finish(node, y)
}

fn rms_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, scale) = (context.value(node, 0)?, context.value(node, 1)?);
    let axes = trailing(node, x.shape.len())?;
    let (y, _) = context.scaled(&x, &axes, node.float("epsilon", 1e-5)?)?;
    let y = context.combine(&y, &scale, binary::MUL)?;
    context.finish(node, y)
}

/// Scale and shift with statistics that are known: one factor and one summand per channel.
fn batch_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    if node.int("training_mode", 0)? != 0 {
        return Err("training_mode is 1: export the model for inference".into());
    }
    let x = context.value(node, 0)?;
    let rank = x.shape.len();
    let mut parameters = Vec::new();
    for index in 1..5 {
        let own = context.value(node, index)?;
        parameters.push(context.per_channel(own, rank));
    }
    let [scale, shift, mean, variance] = &*parameters else { return Err("has no statistics".into()) };
    let variance = context.with_number(variance, binary::ADD, node.float("epsilon", 1e-5)?)?;
    let deviation = context.apply(&variance, Function::new(unary::SQRT))?;
    let factor = context.combine(scale, &deviation, binary::DIV)?;
    let part = context.combine(mean, &factor, binary::MUL)?;
    let summand = context.combine(shift, &part, binary::SUB)?;
    let y = context.combine(&x, &factor, binary::MUL)?;
    let y = context.combine(&y, &summand, binary::ADD)?;
    context.finish(node, y)
}

fn instance_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let rank = x.shape.len();
    if rank < 3 {
        return Err(format!("shape {:?} has no pixels", x.shape));
    }
    let axes: Vec<usize> = (2..rank).collect();
    let [y, ..] = context.normalized(&x, &axes, node.float("epsilon", 1e-5)?)?;
    let scale = context.value(node, 1)?;
    let shift = context.value(node, 2)?;
    let (scale, shift) = (context.per_channel(scale, rank), context.per_channel(shift, rank));
    let y = context.combine(&y, &scale, binary::MUL)?;
    let y = context.combine(&y, &shift, binary::ADD)?;
    context.finish(node, y)
}

fn group_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let groups = usize::try_from(node.int("num_groups", 1)?).unwrap_or(0);
    let rank = x.shape.len();
    if rank < 2 || groups == 0 || !x.shape[1].is_multiple_of(groups) {
        return Err(format!("{groups} groups do not divide shape {:?}", x.shape));
    }
    let n = x.shape[0];
    let grouped = Computed { shape: vec![n, groups, x.len() / (n * groups)], ..x.clone() };
    let [y, ..] = context.normalized(&grouped, &[2], node.float("epsilon", 1e-5)?)?;
    let mut y = Computed { shape: x.shape.clone(), ..y };
    for (index, kind) in [(1, binary::MUL), (2, binary::ADD)] {
        let mut own = context.value(node, index)?;
        // Up to opset 20 one number per group.
        if own.len() == groups && groups != x.shape[1] {
            let each = x.shape[1] / groups;
            own = context.expand(&Computed { shape: vec![groups, 1], ..own }, &[groups, each])?;
        }
        let own = context.per_channel(own, rank);
        y = context.combine(&y, &own, kind)?;
    }
    context.finish(node, y)
}

fn mean_variance_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let axes = node.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = axes.iter().map(|&a| axis(a, x.shape.len())).collect::<Result<Vec<_>, _>>()?;
    let [y, ..] = context.normalized(&x, &axes, 1e-9)?;
    context.finish(node, y)
}

fn lp_normalization(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let along = axis(node.int("axis", -1)?, x.shape.len())?;
    let norm = match node.int("p", 2)? {
        1 => context.reduced(&x, &[along], by::L1)?,
        2 => {
            let square = context.reduced(&x, &[along], by::SUM_SQUARE)?;
            context.apply(&square, Function::new(unary::SQRT))?
        }
        other => return Err(format!("attribute `p` is {other}, expected 1 or 2")),
    };
    let y = context.combine(&x, &norm, binary::DIV)?;
    context.finish(node, y)
}
