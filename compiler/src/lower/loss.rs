//! Losses, which exporters keep when a policy is exported with its training head.

use super::{Computed, Context, Lowering};
use crate::import::{Kind, Node, elements};
use crate::program::{Axis, Op};
use tendon_wire::image::{binary, reduce as by};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("NegativeLogLikelihoodLoss", negative_log_likelihood),
    ("SoftmaxCrossEntropyLoss",   cross_entropy),
];

fn negative_log_likelihood(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = likelihood(context, node, &x)?;
    context.finish(node, y)
}

fn cross_entropy(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    if x.shape.len() < 2 {
        return Err(format!("scores of shape {:?} have no classes", x.shape));
    }
    let op = Op::Softmax { x: x.id, axis: Axis::of(&x.shape, 1), logarithm: true };
    let logarithms = Computed { id: context.step(op, x.len())?, ..x };
    let y = likelihood(context, node, &logarithms)?;
    context.result(node, 1, logarithms.id, logarithms.shape, logarithms.kind)?;
    context.finish(node, y)
}

/// `-x[target]` of `x` `[n, classes, ..]`, weighted by class, without the targets to be ignored.
fn likelihood(context: &mut Context, node: &Node, x: &Computed) -> Result<Computed, String> {
    let target = context.value(node, 1)?;
    let mut own = x.shape.clone();
    if own.len() < 2 || {
        own.remove(1);
        own != target.shape
    } {
        return Err(format!("targets of shape {:?} do not fit scores of shape {:?}", target.shape, x.shape));
    }
    let mut shape = x.shape.clone();
    shape[1] = 1;
    let picked = context.taken_each(x, &Computed { shape, ..target.clone() }, 1)?;
    let mut loss =
        context.with_number(&Computed { shape: target.shape.clone(), ..picked }, binary::MUL, -1.0)?;
    let mut weight = match context.optional(node, 2)? {
        None => None,
        Some(tensor) => {
            let weights = context.computed(tensor)?;
            Some(context.taken(&weights, &target, 0)?)
        }
    };
    if node.attributes.contains_key("ignore_index") {
        let ignored = context.with_number(&target, binary::EQUAL, node.int("ignore_index", 0)? as f32)?;
        let zero = context.fixed(vec![0.0], vec![], Kind::F32)?;
        let own = match weight {
            Some(weight) => weight,
            None => context.fixed(vec![1.0], vec![], Kind::F32)?,
        };
        loss = context.choose(&ignored, &zero, &loss)?;
        weight = Some(context.choose(&ignored, &zero, &own)?);
    }
    if let Some(weight) = &weight {
        loss = context.combine(&loss, weight, binary::MUL)?;
    }
    let axes: Vec<usize> = (0..loss.shape.len()).collect();
    let sum = |context: &mut Context, x: &Computed, kind: u8| -> Result<Computed, String> {
        let y = context.reduced(x, &axes, kind)?;
        Ok(Computed { shape: vec![], ..y })
    };
    let y = match (node.text("reduction", "mean")?, weight) {
        ("none", _) => loss,
        ("sum", _) => sum(context, &loss, by::SUM)?,
        ("mean", None) => sum(context, &loss, by::MEAN)?,
        ("mean", Some(weight)) => {
            let (loss, weight) = (sum(context, &loss, by::SUM)?, sum(context, &weight, by::SUM)?);
            context.combine(&loss, &weight, binary::DIV)?
        }
        (other, _) => return Err(format!("attribute `reduction` is `{other}`, expected none, sum or mean")),
    };
    elements(&y.shape)?;
    Ok(Computed { kind: x.kind, ..y })
}
