//! Elementwise operators of one computed operand.

use super::{Context, Tensor, broadcast};
use crate::import::{Constant, Data, Node, elements};
use crate::program::{Activation, Op, ValueId};
use tendon_runtime::math;
use tendon_wire::image::{activation, binary};

/// An activation without parameters.
pub(super) fn activation(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    let f: fn(f32) -> f32 = match kind {
        activation::RELU => math::relu,
        activation::TANH => math::tanh,
        _ => math::sigmoid,
    };
    unary(context, node, f, |context, x, shape| {
        context.step(Op::Activation { x, kind: Activation::new(kind) }, shape)
    })
}

/// `x` where positive, else `alpha * (exp(x) - 1)`.
pub(super) fn elu(context: &mut Context, node: &Node) -> Result<(), String> {
    let alpha = node.float("alpha", 1.0)?;
    unary(
        context,
        node,
        |x| math::elu(x, alpha),
        |context, x, shape| {
            context.step(Op::Activation { x, kind: Activation { kind: activation::ELU, alpha } }, shape)
        },
    )
}

/// `gamma * elu(x, alpha)`.
pub(super) fn selu(context: &mut Context, node: &Node) -> Result<(), String> {
    let alpha = node.float("alpha", 1.673_263_2)?;
    let gamma = node.float("gamma", 1.050_701)?;
    unary(
        context,
        node,
        |x| gamma * math::elu(x, alpha),
        |context, x, shape| {
            let kind = Activation { kind: activation::ELU, alpha };
            let x = context.step(Op::Activation { x, kind }, shape)?;
            affine(context, x, gamma, 0.0, shape)
        },
    )
}

/// `x` where positive, else `alpha * x`: `alpha * x + (1 - alpha) * relu(x)`.
pub(super) fn leaky_relu(context: &mut Context, node: &Node) -> Result<(), String> {
    let alpha = node.float("alpha", 0.01)?;
    unary(
        context,
        node,
        |x| if x < 0.0 { alpha * x } else { x },
        |context, x, shape| {
            let positive =
                context.step(Op::Activation { x, kind: Activation::new(activation::RELU) }, shape)?;
            let positive = affine(context, positive, 1.0 - alpha, 0.0, shape)?;
            let all = affine(context, x, alpha, 0.0, shape)?;
            context.step(Op::Binary { a: all, b: positive, kind: binary::ADD }, shape)
        },
    )
}

/// `relu(x) + relu(-x)`.
pub(super) fn abs(context: &mut Context, node: &Node) -> Result<(), String> {
    unary(context, node, f32::abs, |context, x, shape| {
        let relu = Activation::new(activation::RELU);
        let positive = context.step(Op::Activation { x, kind: relu }, shape)?;
        let negative = affine(context, x, -1.0, 0.0, shape)?;
        let negative = context.step(Op::Activation { x: negative, kind: relu }, shape)?;
        context.step(Op::Binary { a: positive, b: negative, kind: binary::ADD }, shape)
    })
}

/// `-x`.
pub(super) fn neg(context: &mut Context, node: &Node) -> Result<(), String> {
    unary(context, node, |x| -x, |context, x, shape| affine(context, x, -1.0, 0.0, shape))
}

/// `clip(alpha * x + beta, 0, 1)`.
pub(super) fn hard_sigmoid(context: &mut Context, node: &Node) -> Result<(), String> {
    let (alpha, beta) = (node.float("alpha", 0.2)?, node.float("beta", 0.5)?);
    unary(
        context,
        node,
        |x| math::clip(alpha * x + beta, 0.0, 1.0),
        |context, x, shape| {
            let x = affine(context, x, alpha, beta, shape)?;
            context.step(Op::Clip { x, low: 0.0, high: 1.0 }, shape)
        },
    )
}

/// `x * clip(x / 6 + 1 / 2, 0, 1)`.
pub(super) fn hard_swish(context: &mut Context, node: &Node) -> Result<(), String> {
    unary(
        context,
        node,
        |x| x * math::clip(x / 6.0 + 0.5, 0.0, 1.0),
        |context, x, shape| {
            let gate = affine(context, x, 1.0 / 6.0, 0.5, shape)?;
            let gate = context.step(Op::Clip { x: gate, low: 0.0, high: 1.0 }, shape)?;
            context.step(Op::Binary { a: gate, b: x, kind: binary::MUL }, shape)
        },
    )
}

/// Bounds as attributes (opset 6) or as constant inputs (opset 11 and later).
pub(super) fn clip(context: &mut Context, node: &Node) -> Result<(), String> {
    let low = context.scalar(node, 1)?.map_or_else(|| node.float("min", f32::NEG_INFINITY), Ok)?;
    let high = context.scalar(node, 2)?.map_or_else(|| node.float("max", f32::INFINITY), Ok)?;
    bounded(context, node, low, high)
}

/// With one constant scalar.
pub(super) fn max(context: &mut Context, node: &Node) -> Result<(), String> {
    let low = bound(context, node)?;
    bounded(context, node, low, f32::INFINITY)
}

/// With one constant scalar.
pub(super) fn min(context: &mut Context, node: &Node) -> Result<(), String> {
    let high = bound(context, node)?;
    bounded(context, node, f32::NEG_INFINITY, high)
}

fn bound(context: &mut Context, node: &Node) -> Result<f32, String> {
    if node.inputs.len() != 2 {
        return Err(format!(
            "has {} inputs: only a tensor and a constant scalar have a lowering",
            node.inputs.len()
        ));
    }
    let x = context.input(node, 0)?;
    let bound = context.scalar(node, 1)?.unwrap_or(0.0);
    if let Some(Tensor::Constant(constant)) = context.optional(node, 1)? {
        // A bound of higher rank would give the result more dimensions.
        if broadcast(x.shape(), &constant.shape)?.len() != x.shape().len() {
            return Err(format!("input 1 has shape {:?}: give a scalar", constant.shape));
        }
    }
    Ok(bound)
}

fn bounded(context: &mut Context, node: &Node, low: f32, high: f32) -> Result<(), String> {
    if low.is_nan() || high.is_nan() || low > high {
        return Err(format!("lower bound {low} and upper bound {high} are not ordered"));
    }
    unary(
        context,
        node,
        |x| math::clip(x, low, high),
        |context, x, shape| context.step(Op::Clip { x, low, high }, shape),
    )
}

fn affine(
    context: &mut Context,
    x: ValueId,
    scale: f32,
    shift: f32,
    shape: &[usize],
) -> Result<ValueId, String> {
    let len = elements(shape)?;
    context.charge(2 * len)?;
    context.step(Op::Affine { x, scale: vec![scale; len], shift: vec![shift; len] }, shape)
}

/// Folds a constant with `f`, or appends the steps of a computed operand.
fn unary(
    context: &mut Context,
    node: &Node,
    f: impl Fn(f32) -> f32,
    steps: impl FnOnce(&mut Context, ValueId, &[usize]) -> Result<ValueId, String>,
) -> Result<(), String> {
    let tensor = match context.input(node, 0)? {
        Tensor::Constant(Constant { shape, data: Data::F32(values) }) => {
            let data = Data::F32(values.into_iter().map(f).collect());
            Tensor::Constant(Constant { shape, data })
        }
        Tensor::Constant(_) => return Err("its input is integer: export it as float32".into()),
        Tensor::Computed { value, shape } => {
            let value = steps(context, value, &shape)?;
            Tensor::Computed { value, shape }
        }
    };
    context.set(node, 0, tensor)
}
