//! ONNX operators to steps of a [`Program`]: one line of [`REGISTRY`] per operator name, small
//! functions behind it.
//!
//! A tensor is either constant (known now, folded) or computed (a flat vector and its shape, batch 1).

mod arithmetic;
mod dense;
mod shape;
mod unary;

use crate::error::CompileError;
use crate::import::{Attribute, Constant, Data, Model, Node, elements};
use crate::program::{Op, Program, Value, ValueId};
use std::collections::BTreeMap;
use tendon_wire::image::{MAX_IMAGE, activation, binary};

/// Appends the steps of a node; the error says what about it has no lowering.
type Lowering = fn(&mut Context, &Node) -> Result<(), String>;

/// Every ONNX operator with a lowering.
#[rustfmt::skip]
const REGISTRY: &[(&str, Lowering)] = &[
    ("Abs",         unary::abs),
    ("Add",         |context, node| arithmetic::lower(context, node, binary::ADD)),
    ("Cast",        shape::cast),
    ("Clip",        unary::clip),
    ("Concat",      shape::concat),
    ("Constant",    shape::constant),
    ("Div",         |context, node| arithmetic::lower(context, node, binary::DIV)),
    ("Dropout",     shape::identity),
    ("Elu",         unary::elu),
    ("Flatten",     shape::flatten),
    ("Gather",      shape::gather),
    ("Gemm",        dense::gemm),
    ("HardSigmoid", unary::hard_sigmoid),
    ("HardSwish",   unary::hard_swish),
    ("Identity",    shape::identity),
    ("LeakyRelu",   unary::leaky_relu),
    ("MatMul",      dense::matmul),
    ("Max",         unary::max),
    ("Min",         unary::min),
    ("Mul",         |context, node| arithmetic::lower(context, node, binary::MUL)),
    ("Neg",         unary::neg),
    ("Relu",        |context, node| unary::activation(context, node, activation::RELU)),
    ("Reshape",     shape::reshape),
    ("Selu",        unary::selu),
    ("Shape",       shape::shape),
    ("Sigmoid",     |context, node| unary::activation(context, node, activation::SIGMOID)),
    ("Slice",       shape::slice),
    ("Split",       shape::split),
    ("Squeeze",     shape::squeeze),
    ("Sub",         |context, node| arithmetic::lower(context, node, binary::SUB)),
    ("Tanh",        |context, node| unary::activation(context, node, activation::TANH)),
    ("Transpose",   shape::transpose),
    ("Unsqueeze",   shape::unsqueeze),
];

/// Most constant elements a graph may unfold to while it is lowered: four images full.
const MAX_CONSTANT_ELEMENTS: usize = MAX_IMAGE;
/// Most elements of a computed tensor, as the runtime's arena.
const MAX_COMPUTED_ELEMENTS: usize = 1 << 20;

/// Most steps of a program: bounds the passes whose cost grows with the square.
const MAX_STEPS: usize = 4096;

/// Names of every operator with a lowering.
#[must_use]
pub fn supported_operators() -> Vec<&'static str> {
    REGISTRY.iter().map(|(name, _)| *name).collect()
}

/// Lowers a whole graph.
pub(crate) fn lower(model: &Model) -> Result<Program, CompileError> {
    let mut context = Context {
        program: Program { values: Vec::new(), output: 0 },
        tensors: BTreeMap::new(),
        constants: &model.constants,
        spent: 0,
        node: model.input.name.clone(),
    };
    let len = elements(&model.input.shape).unwrap_or(usize::MAX);
    if !(1..=MAX_COMPUTED_ELEMENTS).contains(&len) {
        return Err(CompileError::TooLarge { what: "the input", value: len, limit: MAX_COMPUTED_ELEMENTS });
    }
    let input = context.push(Op::Input, len);
    let input = Tensor::Computed { value: input, shape: model.input.shape.clone() };
    context.tensors.insert(model.input.name.clone(), input);
    for node in &model.nodes {
        let Some((_, lowering)) = REGISTRY.iter().find(|(name, _)| *name == node.op_type) else {
            return Err(CompileError::UnsupportedOperator {
                op: node.op_type.clone(),
                node: node.name.clone(),
                supported: supported_operators().join(", "),
            });
        };
        context.node.clone_from(&node.name);
        lowering(&mut context, node).map_err(|problem| CompileError::Node {
            op: node.op_type.clone(),
            node: node.name.clone(),
            problem,
        })?;
    }
    match context.tensors.get(&model.output) {
        Some(&Tensor::Computed { value, .. }) => {
            context.program.output = value;
            Ok(context.program)
        }
        _ => Err(CompileError::Mismatch(format!(
            "the output `{}` does not depend on the input `{}`: export the policy, not a constant",
            model.output, model.input.name
        ))),
    }
}

/// What a name stands for while a graph is lowered.
#[derive(Clone, Debug)]
pub(crate) enum Tensor {
    Constant(Constant),
    Computed { value: ValueId, shape: Vec<usize> },
}

impl Tensor {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Constant(constant) => &constant.shape,
            Self::Computed { shape, .. } => shape,
        }
    }
}

/// State of a lowering.
pub(crate) struct Context<'m> {
    program: Program,
    tensors: BTreeMap<String, Tensor>,
    constants: &'m BTreeMap<String, Constant>,
    /// Constant elements made so far.
    spent: usize,
    /// Name of the node being lowered.
    node: String,
}

impl Context<'_> {
    /// Appends a step.
    fn push(&mut self, op: Op, len: usize) -> ValueId {
        self.program.values.push(Value { name: self.node.clone(), len, op });
        self.program.values.len() - 1
    }

    /// Accounts for `elements` new constant elements.
    fn charge(&mut self, elements: usize) -> Result<(), String> {
        self.spent = self.spent.saturating_add(elements);
        if self.spent > MAX_CONSTANT_ELEMENTS {
            return Err(format!(
                "the graph's constants unfold to more than {MAX_CONSTANT_ELEMENTS} elements: make the network smaller"
            ));
        }
        Ok(())
    }

    /// Input `index`; `None` when it is absent.
    fn optional(&mut self, node: &Node, index: usize) -> Result<Option<Tensor>, String> {
        let Some(name) = node.inputs.get(index).filter(|name| !name.is_empty()) else { return Ok(None) };
        if let Some(tensor) = self.tensors.get(name) {
            let tensor = tensor.clone();
            if let Tensor::Constant(constant) = &tensor {
                self.charge(constant.len())?;
            }
            return Ok(Some(tensor));
        }
        match self.constants.get(name) {
            Some(constant) => {
                self.charge(constant.len())?;
                Ok(Some(Tensor::Constant(constant.clone())))
            }
            None => Err(format!("input `{name}` has no value")),
        }
    }

    /// Input `index`, which the operator cannot do without.
    fn input(&mut self, node: &Node, index: usize) -> Result<Tensor, String> {
        self.optional(node, index)?
            .ok_or_else(|| format!("input {index} is absent: the node is malformed, export the file again"))
    }

    /// Numbers of a constant input, as shapes and axes are given.
    fn integers(&mut self, node: &Node, index: usize) -> Result<Option<Vec<i64>>, String> {
        match self.optional(node, index)? {
            None => Ok(None),
            Some(Tensor::Constant(Constant { data: Data::I64(values), .. })) => Ok(Some(values)),
            Some(_) => Err(format!(
                "input {index} (`{}`) must be constant integers: export with fixed shapes",
                node.inputs[index]
            )),
        }
    }

    /// A constant scalar input.
    fn scalar(&mut self, node: &Node, index: usize) -> Result<Option<f32>, String> {
        match self.optional(node, index)? {
            None => Ok(None),
            Some(Tensor::Constant(Constant { data: Data::F32(values), .. })) if values.len() == 1 => {
                Ok(Some(values[0]))
            }
            Some(_) => Err(format!("input {index} (`{}`) must be one constant float", node.inputs[index])),
        }
    }

    /// Gives output `index` its tensor.
    fn set(&mut self, node: &Node, index: usize, tensor: Tensor) -> Result<(), String> {
        let count = elements(tensor.shape())?;
        if count == 0 {
            return Err(format!("output {index} is empty (shape {:?})", tensor.shape()));
        }
        if let Tensor::Constant(constant) = &tensor {
            self.charge(constant.len())?;
        }
        if let Some(name) = node.outputs.get(index).filter(|name| !name.is_empty()) {
            self.tensors.insert(name.clone(), tensor);
        }
        Ok(())
    }

    /// Appends a step and names it as output 0.
    fn emit(&mut self, node: &Node, op: Op, shape: Vec<usize>) -> Result<(), String> {
        let value = self.step(op, &shape)?;
        self.set(node, 0, Tensor::Computed { value, shape })
    }

    /// Appends a step of this shape.
    fn step(&mut self, op: Op, shape: &[usize]) -> Result<ValueId, String> {
        let len = elements(shape)?;
        if len == 0 || len > MAX_COMPUTED_ELEMENTS {
            return Err(format!("its output has {len} elements, between 1 and {MAX_COMPUTED_ELEMENTS} fit"));
        }
        if self.program.values.len() >= MAX_STEPS {
            return Err(format!("the network has more than {MAX_STEPS} steps: make it smaller"));
        }
        let weights: &[&[f32]] = match &op {
            Op::Gemm { gemm, .. } => &[&gemm.weights, &gemm.bias],
            Op::Affine { scale, shift, .. } => &[scale, shift],
            _ => &[],
        };
        self.charge(weights.iter().map(|part| part.len()).sum())?;
        if let Some(value) = weights.iter().flat_map(|part| part.iter()).find(|value| !value.is_finite()) {
            return Err(format!("a weight is {value}: weights must be finite"));
        }
        Ok(self.push(op, len))
    }
}

impl Constant {
    fn len(&self) -> usize {
        match &self.data {
            Data::F32(values) => values.len(),
            Data::I64(values) => values.len(),
        }
    }
}

impl Node {
    fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(other) => Err(format!("attribute `{name}` is {}, expected an integer", other.kind())),
        }
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) if value.is_finite() => Ok(*value),
            Some(other) => Err(format!("attribute `{name}` is {}, expected a finite float", other.kind())),
        }
    }

    fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, String> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(other) => Err(format!("attribute `{name}` is {}, expected integers", other.kind())),
        }
    }
}

/// Shape that two operands broadcast to, as numpy does it.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(index) => shape[index],
        None => 1,
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// Elements of a constant of shape `from`, repeated to shape `to` (a result of [`broadcast`]).
fn expand<T: Copy>(values: &[T], from: &[usize], to: &[usize]) -> Result<Vec<T>, String> {
    let count = elements(to)?;
    if values.len() == 1 {
        return Ok(vec![values[0]; count]);
    }
    (0..count)
        .map(|mut index| {
            let (mut place, mut stride) = (0, 1);
            for (axis, &size) in to.iter().enumerate().rev() {
                let along = index % size;
                index /= size;
                if let Some(own) = (axis + from.len()).checked_sub(to.len()) {
                    place += if from[own] == 1 { 0 } else { along * stride };
                    stride *= from[own];
                }
            }
            values.get(place).copied().ok_or_else(|| format!("shape {from:?} does not expand to {to:?}"))
        })
        .collect()
}

/// An axis counted from either end.
fn axis(value: i64, rank: usize) -> Result<usize, String> {
    let rank_signed = rank as i64;
    let from_start = if value < 0 { value.checked_add(rank_signed) } else { Some(value) };
    from_start
        .filter(|axis| (0..rank_signed).contains(axis))
        .map(|axis| axis as usize)
        .ok_or_else(|| format!("axis {value} lies outside rank {rank}"))
}
