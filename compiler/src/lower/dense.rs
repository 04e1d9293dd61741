//! Gemm and MatMul with constant weights.

use super::{Context, Tensor, expand};
use crate::import::{Constant, Data, Node, elements};
use crate::program::{Activation, Gemm, Op};

/// `alpha * A * B + beta * C` with one row A, constant B and C.
pub(super) fn gemm(context: &mut Context, node: &Node) -> Result<(), String> {
    let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
    let (trans_a, trans_b) = (node.int("transA", 0)? != 0, node.int("transB", 0)? != 0);
    let (x, shape) = computed(context, node)?;
    let [rows, n_in] = match *shape {
        [rows, columns] if !trans_a => [rows, columns],
        [rows, columns] => [columns, rows],
        _ => return Err(format!("input A has shape {shape:?}, expected [1, n]")),
    };
    if rows != 1 {
        return Err(format!("input A has {rows} rows: only one observation at a time is computed"));
    }
    let (weights, [b_rows, b_cols]) = matrix(context, node)?;
    let (n_out, inner) = if trans_b { (b_rows, b_cols) } else { (b_cols, b_rows) };
    if inner != n_in {
        return Err(format!("input A has {n_in} columns, B has {inner}: the shapes do not fit"));
    }
    let weights = if trans_b { weights } else { transpose(&weights, n_in, n_out) };
    let bias = match context.optional(node, 2)? {
        None => vec![0.0; n_out],
        Some(Tensor::Constant(Constant { shape, data: Data::F32(values) })) => {
            if elements(&super::broadcast(&shape, &[1, n_out])?)? != n_out {
                return Err(format!("input C has shape {shape:?}, expected [{n_out}]"));
            }
            expand(&values, &shape, &[1, n_out])?
        }
        Some(_) => return Err("input C must be a constant float bias: use Add for a computed one".into()),
    };
    let gemm = Gemm {
        weights: weights.into_iter().map(|w| w * alpha).collect(),
        bias: bias.into_iter().map(|b| b * beta).collect(),
        activation: Activation::NONE,
    };
    context.emit(node, Op::Gemm { x, gemm }, vec![1, n_out])
}

/// One row times a constant matrix.
pub(super) fn matmul(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, mut shape) = computed(context, node)?;
    let n_in = shape.last().copied().unwrap_or(1);
    if elements(&shape)? != n_in {
        return Err(format!("input A has shape {shape:?}: only one row [1, n] at a time is computed"));
    }
    let (weights, [inner, n_out]) = matrix(context, node)?;
    if inner != n_in {
        return Err(format!("input A has {n_in} columns, B has {inner} rows: the shapes do not fit"));
    }
    let weights = transpose(&weights, n_in, n_out);
    let gemm = Gemm { weights, bias: vec![0.0; n_out], activation: Activation::NONE };
    shape.pop();
    shape.push(n_out);
    context.emit(node, Op::Gemm { x, gemm }, shape)
}

fn computed(context: &mut Context, node: &Node) -> Result<(usize, Vec<usize>), String> {
    match context.input(node, 0)? {
        Tensor::Computed { value, shape } => Ok((value, shape)),
        Tensor::Constant(_) => {
            Err("input A is constant: only weights on the right side have a lowering; transpose the product"
                .into())
        }
    }
}

/// The right side `[rows, columns]`, constant.
fn matrix(context: &mut Context, node: &Node) -> Result<(Vec<f32>, [usize; 2]), String> {
    match context.input(node, 1)? {
        Tensor::Constant(Constant { shape, data: Data::F32(values) }) => match *shape {
            [rows, columns] if rows > 0 && columns > 0 => Ok((values, [rows, columns])),
            _ => Err(format!("input B has shape {shape:?}, expected a matrix")),
        },
        Tensor::Constant(_) => Err("input B is integer: export it as float32".into()),
        Tensor::Computed { .. } => {
            Err("input B is computed: products of two computed tensors have no lowering yet".into())
        }
    }
}

/// `[rows][columns]` to `[columns][rows]`.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
