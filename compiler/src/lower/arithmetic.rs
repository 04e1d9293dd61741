//! Add, Sub, Mul, Div: folded when both sides are constant, an Affine step when one is, a Binary
//! step when none is.

use super::{Context, Tensor, broadcast, expand};
use crate::import::{Constant, Data, Node, elements};
use crate::program::{Op, ValueId};
use tendon_wire::image::binary;

pub(super) fn lower(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    let a = context.input(node, 0)?;
    let b = context.input(node, 1)?;
    let shape = broadcast(a.shape(), b.shape())?;
    match (a, b) {
        (Tensor::Constant(a), Tensor::Constant(b)) => {
            context.charge(elements(&shape)?.saturating_mul(2))?;
            let data = fold(&a, &b, &shape, kind)?;
            context.set(node, 0, Tensor::Constant(Constant { shape, data }))
        }
        (Tensor::Computed { value, shape: own }, Tensor::Constant(constant)) => {
            same_size(&own, &shape)?;
            let constant = context.vector(&constant, &shape)?;
            let (scale, shift) = match kind {
                binary::ADD => (vec![1.0; constant.len()], constant),
                binary::SUB => (vec![1.0; constant.len()], constant.iter().map(|c| -c).collect()),
                binary::MUL => (constant.clone(), vec![0.0; constant.len()]),
                _ => (constant.iter().map(|c| 1.0 / c).collect(), vec![0.0; constant.len()]),
            };
            context.emit(node, Op::Affine { x: value, scale, shift }, shape)
        }
        (Tensor::Constant(constant), Tensor::Computed { value, shape: own }) => {
            same_size(&own, &shape)?;
            let constant = context.vector(&constant, &shape)?;
            let (scale, shift) = match kind {
                binary::ADD => (vec![1.0; constant.len()], constant),
                binary::SUB => (vec![-1.0; constant.len()], constant),
                binary::MUL => (constant.clone(), vec![0.0; constant.len()]),
                _ => {
                    let a = context.constant_vector(value, constant)?;
                    return context.emit(node, Op::Binary { a, b: value, kind }, shape);
                }
            };
            context.emit(node, Op::Affine { x: value, scale, shift }, shape)
        }
        (Tensor::Computed { value: a, shape: own_a }, Tensor::Computed { value: b, shape: own_b }) => {
            same_size(&own_a, &shape)?;
            same_size(&own_b, &shape)?;
            context.emit(node, Op::Binary { a, b, kind }, shape)
        }
    }
}

fn same_size(own: &[usize], result: &[usize]) -> Result<(), String> {
    if elements(own)? == elements(result)? {
        return Ok(());
    }
    Err(format!(
        "a computed operand of shape {own:?} would be repeated to {result:?}: only constants are; expand it in the model"
    ))
}

fn fold(a: &Constant, b: &Constant, shape: &[usize], kind: u8) -> Result<Data, String> {
    match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) => {
            let (x, y) = (expand(x, &a.shape, shape)?, expand(y, &b.shape, shape)?);
            let op = match kind {
                binary::ADD => |x: f32, y: f32| x + y,
                binary::SUB => |x: f32, y: f32| x - y,
                binary::MUL => |x: f32, y: f32| x * y,
                _ => |x: f32, y: f32| x / y,
            };
            Ok(Data::F32(x.into_iter().zip(y).map(|(x, y)| op(x, y)).collect()))
        }
        (Data::I64(x), Data::I64(y)) => {
            let (x, y) = (expand(x, &a.shape, shape)?, expand(y, &b.shape, shape)?);
            let op = match kind {
                binary::ADD => i64::checked_add,
                binary::SUB => i64::checked_sub,
                binary::MUL => i64::checked_mul,
                _ => i64::checked_div,
            };
            let folded: Option<Vec<i64>> = x.into_iter().zip(y).map(|(x, y)| op(x, y)).collect();
            folded.map(Data::I64).ok_or_else(|| "integer overflow or division by zero".to_string())
        }
        _ => Err("one operand is float and the other integer: export the file again".to_string()),
    }
}

impl Context<'_> {
    /// A constant as floats of this shape.
    pub(super) fn vector(&mut self, constant: &Constant, shape: &[usize]) -> Result<Vec<f32>, String> {
        self.charge(elements(shape)?)?;
        match &constant.data {
            Data::F32(values) => expand(values, &constant.shape, shape),
            Data::I64(_) => {
                Err("a constant operand is integer, expected float: export the file again".into())
            }
        }
    }

    /// A constant as a computed vector: `x * 0 + constant` with elements of some computed `x`.
    pub(super) fn constant_vector(&mut self, x: ValueId, constant: Vec<f32>) -> Result<ValueId, String> {
        let len = constant.len();
        let source = self.program.values[x].len;
        let x = match len.cmp(&source) {
            std::cmp::Ordering::Equal => x,
            std::cmp::Ordering::Less => self.step(Op::Slice { x, start: 0 }, &[len])?,
            std::cmp::Ordering::Greater => {
                return Err(format!(
                    "a constant of {len} elements stands beside a tensor of {source}: append it in the model's input"
                ));
            }
        };
        self.step(Op::Affine { x, scale: vec![0.0; len], shift: constant }, &[len])
    }
}
