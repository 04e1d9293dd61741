//! Gemm and MatMul.

use super::{Computed, Context, Lowering, broadcast};
use crate::import::{Node, elements};
use crate::program::{Function, Gemm, Op};
use tendon_wire::image::binary;

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Gemm",   gemm),
    ("MatMul", matmul),
];

/// `alpha * A * B + beta * C`, with A and B possibly transposed.
fn gemm(context: &mut Context, node: &Node) -> Result<(), String> {
    let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
    let (mut a, mut b) = (context.value(node, 0)?, context.value(node, 1)?);
    for (matrix, transposed, name) in [(&mut a, "transA", "A"), (&mut b, "transB", "B")] {
        if matrix.shape.len() != 2 {
            return Err(format!("input {name} has shape {:?}, expected a matrix", matrix.shape));
        }
        if node.int(transposed, 0)? != 0 {
            *matrix = context.transposed(matrix)?;
        }
    }
    let mut y = context.product(&a, &b)?;
    if alpha != 1.0 {
        y = context.with_number(&y, binary::MUL, alpha)?;
    }
    if context.optional(node, 2)?.is_some() && beta != 0.0 {
        let mut c = context.value(node, 2)?;
        if broadcast(&c.shape, &y.shape)? != y.shape {
            return Err(format!("input C has shape {:?}, expected one that fits {:?}", c.shape, y.shape));
        }
        if beta != 1.0 {
            c = context.with_number(&c, binary::MUL, beta)?;
        }
        y = context.combine(&y, &c, binary::ADD)?;
    }
    context.finish(node, y)
}

fn matmul(context: &mut Context, node: &Node) -> Result<(), String> {
    let (a, b) = (context.value(node, 0)?, context.value(node, 1)?);
    let y = context.product(&a, &b)?;
    context.finish(node, y)
}

impl Context {
    /// The last two dimensions exchanged.
    pub(super) fn transposed(&mut self, x: &Computed) -> Result<Computed, String> {
        let rank = x.shape.len();
        if rank < 2 {
            return Err(format!("shape {:?} is no matrix", x.shape));
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 2, rank - 1);
        self.permuted(x, &order)
    }

    /// Rows times a matrix `weights` `[n_out][n_in]`, plus a bias.
    pub(super) fn dense(
        &mut self,
        x: &Computed,
        weights: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<Computed, String> {
        let n_out = bias.len();
        let n_in = weights.len() / n_out.max(1);
        let mut shape = x.shape.clone();
        let rows = x.len() / n_in.max(1);
        if shape.pop() != Some(n_in) {
            return Err(format!("shape {:?} does not end in {n_in} columns", x.shape));
        }
        shape.push(n_out);
        let gemm = Gemm { weights, bias, activation: Function::NONE };
        let id = self.step(Op::Gemm { x: x.id, rows, gemm }, rows * n_out)?;
        Ok(Computed { id, shape, kind: x.kind })
    }

    /// `a b` as numpy's matmul has it.
    pub(super) fn product(&mut self, a: &Computed, b: &Computed) -> Result<Computed, String> {
        // A vector on the left is a row, on the right a column, and its dimension falls away afterwards.
        let (mut left, mut right) = (a.clone(), b.clone());
        if a.shape.is_empty() || b.shape.is_empty() {
            return Err("an operand is a scalar: the node is malformed".into());
        }
        if a.shape.len() == 1 {
            left.shape.insert(0, 1);
        }
        if b.shape.len() == 1 {
            right.shape.push(1);
        }
        let (rank_a, rank_b) = (left.shape.len(), right.shape.len());
        let [m, k] = [left.shape[rank_a - 2], left.shape[rank_a - 1]];
        let [inner, n] = [right.shape[rank_b - 2], right.shape[rank_b - 1]];
        if inner != k {
            return Err(format!(
                "operand A {:?} has {k} columns, B {:?} has {inner} rows: the shapes do not fit",
                a.shape, b.shape
            ));
        }
        let batch = broadcast(&left.shape[..rank_a - 2], &right.shape[..rank_b - 2])?;
        let mut shape = batch.clone();
        if a.shape.len() > 1 {
            shape.push(m);
        }
        if b.shape.len() > 1 {
            shape.push(n);
        }
        let count = elements(&batch)?;
        let rows = elements(&[count, m])?;
        // A constant matrix on the right is a dense layer.
        if right.len() == k * n && self.data(a.id).is_none() && self.data(b.id).is_some() {
            let columns = self.transposed(&Computed { shape: vec![k, n], ..right })?;
            let weights = self.data(columns.id).ok_or("a constant is none")?.to_vec();
            let x = Computed { shape: vec![rows, k], ..left };
            let y = self.dense(&x, weights, vec![0.0; n])?;
            return Ok(Computed { shape, ..y });
        }
        let mut kind = 0;
        for (operand, flag, rank) in [(&mut left, 2u8, rank_a), (&mut right, 4, rank_b)] {
            let matrix = operand.shape[rank - 2] * operand.shape[rank - 1];
            if operand.len() == matrix && count > 1 {
                kind |= flag;
            } else {
                let mut full = batch.clone();
                full.extend_from_slice(&operand.shape[rank - 2..]);
                *operand = self.expand(operand, &full)?;
            }
        }
        let op = Op::MatMul { a: left.id, b: right.id, batch: count, m, k, n, kind };
        let id = self.step(op, elements(&[rows, n])?)?;
        Ok(Computed { id, shape, kind: a.kind })
    }
}
