//! ONNX operators to steps of a [`Program`]: one line of a registry per operator name, small
//! functions behind it.
//!
//! A tensor is either known (integers, as shapes and axes are computed with) or a value of the program (a
//! flat vector and its shape). A step whose operands are all constant is run here, by the runtime
//! itself, and becomes a constant.

mod algebra;
mod attention;
mod control;
mod conv;
mod dense;
mod elementwise;
mod index;
mod loss;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod sampling;
mod shape;
mod signal;

use crate::error::CompileError;
use crate::import::{Attribute, Constant, Data, Graph, Kind, Model, Node, Port, elements};
use crate::program::{Op, Program, State, Value, ValueId, straight};
use crate::{emit, plan};
use std::collections::BTreeMap;
use std::rc::Rc;
use tendon_runtime::Network;
use tendon_wire::image::MAX_IMAGE;

/// Appends the steps of a node; the error says what about it has no lowering.
type Lowering = fn(&mut Context, &Node) -> Result<(), String>;

/// Operators with a lowering, in one part per file.
const REGISTRIES: &[&[(&str, Lowering)]] = &[
    algebra::REGISTRY,
    attention::REGISTRY,
    control::REGISTRY,
    conv::REGISTRY,
    dense::REGISTRY,
    elementwise::REGISTRY,
    index::REGISTRY,
    loss::REGISTRY,
    quantize::REGISTRY,
    recurrent::REGISTRY,
    reduce::REGISTRY,
    resize::REGISTRY,
    sampling::REGISTRY,
    shape::REGISTRY,
    signal::REGISTRY,
];

/// Most constant elements a graph may unfold to while it is lowered: four images full.
const MAX_CONSTANT_ELEMENTS: usize = MAX_IMAGE;
/// Most elements of a computed tensor, as the runtime's arena.
const MAX_COMPUTED_ELEMENTS: usize = 1 << 20;
/// Most steps of a program: bounds the passes whose cost grows with the square.
const MAX_STEPS: usize = 4096;
/// Most values of a program, constants included: bounds what loops unfold to.
const MAX_VALUES: usize = 1 << 16;
/// Integers up to here are exact in `f32`.
const MAX_EXACT: i64 = 1 << 24;

/// Names of every operator with a lowering, sorted.
#[must_use]
pub fn supported_operators() -> Vec<&'static str> {
    let mut names: Vec<_> = REGISTRIES.iter().flat_map(|part| part.iter()).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

/// Lowers a whole graph. The program's input is the inputs that are no state, one after the other; its output
/// likewise, and its parts come beside it. `states`: names of inputs, and of the outputs that become them.
pub(crate) fn lower(
    model: &Model,
    states: &[(String, String)],
) -> Result<(Program, Vec<Port>), CompileError> {
    let is_state = |name: &str| states.iter().any(|(input, _)| input == name);
    let mut context = Context {
        program: Program::new(),
        tensors: BTreeMap::new(),
        opset: model.opset,
        spent: 0,
        steps: 0,
        node: "inputs".into(),
    };
    let observed: Vec<_> = model.inputs.iter().filter(|port| !is_state(&port.name)).collect();
    let len = observed.iter().fold(0usize, |sum, port| sum.saturating_add(port.len()));
    if len > MAX_COMPUTED_ELEMENTS {
        return Err(CompileError::TooLarge { what: "the input", value: len, limit: MAX_COMPUTED_ELEMENTS });
    }
    if len == 0 {
        return Err(CompileError::Mismatch(
            "the graph has no inputs: export the policy, not a constant".into(),
        ));
    }
    context.push(Op::Input, len);
    let mut start = 0;
    for port in observed {
        let value = context.push(Op::Slice { x: 0, start }, port.len());
        start += port.len();
        let tensor = Tensor::Value { value, shape: port.shape.clone(), kind: port.kind };
        context.tensors.insert(port.name.clone(), tensor);
    }
    for port in model.inputs.iter().filter(|port| is_state(&port.name)) {
        let value = context.push(Op::State, port.len());
        let tensor = Tensor::Value { value, shape: port.shape.clone(), kind: port.kind };
        context.tensors.insert(port.name.clone(), tensor);
    }
    context.graph(&model.graph)?;
    let outputs = context.results(model, states)?;
    Ok((context.program, outputs))
}

/// What a name stands for while a graph is lowered.
#[derive(Clone, Debug)]
pub(crate) enum Tensor {
    /// Integers that are known now.
    Known { values: Rc<[i64]>, shape: Vec<usize>, kind: Kind },
    /// A value of the program; may be constant.
    Value { value: ValueId, shape: Vec<usize>, kind: Kind },
}

impl Tensor {
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Known { shape, .. } | Self::Value { shape, .. } => shape,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Known { kind, .. } | Self::Value { kind, .. } => *kind,
        }
    }

    fn integers(values: Vec<i64>, shape: Vec<usize>, kind: Kind) -> Self {
        Self::Known { values: values.into(), shape, kind }
    }
}

/// Numbers that are known now, with their shape.
pub(crate) type Numbers = (Rc<[f32]>, Vec<usize>);

/// A tensor as a value of the program.
#[derive(Clone, Debug)]
pub(crate) struct Computed {
    pub(crate) id: ValueId,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
}

impl Computed {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// State of a lowering.
pub(crate) struct Context {
    program: Program,
    tensors: BTreeMap<String, Tensor>,
    opset: i64,
    /// Constant elements made so far.
    spent: usize,
    /// Values that are no constants.
    steps: usize,
    /// Name of the node being lowered.
    node: String,
}

impl Context {
    /// Lowers the nodes of a graph, whose inputs have their tensors.
    fn graph(&mut self, graph: &Graph) -> Result<(), CompileError> {
        for (name, constant) in &graph.constants {
            let fail = |problem| CompileError::Node { op: "Constant".into(), node: name.clone(), problem };
            let tensor = self.constant(constant).map_err(fail)?;
            self.tensors.insert(name.clone(), tensor);
        }
        for node in &graph.nodes {
            self.node(node)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), CompileError> {
        let all = REGISTRIES.iter().flat_map(|part| part.iter());
        let Some((_, lowering)) = all.into_iter().find(|(name, _)| *name == node.op_type) else {
            return Err(CompileError::UnsupportedOperator {
                op: node.op_type.clone(),
                node: node.name.clone(),
                supported: supported_operators().join(", "),
            });
        };
        let outer = std::mem::replace(&mut self.node, node.name.clone());
        let result = lowering(self, node).map_err(|problem| CompileError::Node {
            op: node.op_type.clone(),
            node: node.name.clone(),
            problem,
        });
        self.node = outer;
        result
    }

    /// Names the outputs and the next states.
    fn results(&mut self, model: &Model, states: &[(String, String)]) -> Result<Vec<Port>, CompileError> {
        self.node = "outputs".into();
        let fail = |problem: String| CompileError::Mismatch(problem);
        let (mut parts, mut ports) = (Vec::new(), Vec::new());
        for name in model.outputs.iter().filter(|name| !states.iter().any(|(_, output)| output == *name)) {
            let tensor = self.tensors.get(name).cloned();
            let tensor = tensor.ok_or_else(|| fail(format!("the output `{name}` has no value")))?;
            let tensor =
                self.computed(tensor).map_err(|problem| fail(format!("output `{name}`: {problem}")))?;
            if tensor.len() == 0 {
                return Err(fail(format!(
                    "output `{name}` of shape {:?} is empty: export the policy without it",
                    tensor.shape
                )));
            }
            parts.push(tensor.id);
            ports.push(Port { name: name.clone(), shape: tensor.shape, kind: tensor.kind });
        }
        if parts.is_empty() {
            return Err(fail(
                "every output is a state: export the policy with its actions as an output".into(),
            ));
        }
        if parts.iter().all(|&part| self.program.is_const(part)) {
            return Err(fail(format!(
                "the output `{}` does not depend on the input `{}`: export the policy, not a constant",
                model.outputs.join(", "),
                model.inputs.iter().map(|port| &*port.name).collect::<Vec<_>>().join(", ")
            )));
        }
        self.program.output = match *parts {
            [only] if !self.is_state(only) => only,
            _ => self.joined(&parts).map_err(fail)?,
        };
        for (input, output) in states {
            let (Some(Tensor::Value { value, .. }), Some(next)) =
                (self.tensors.get(input).cloned(), self.tensors.get(output).cloned())
            else {
                return Err(fail(format!("the state `{input}` or `{output}` is no tensor of the graph")));
            };
            let next = self.computed(next).map_err(fail)?;
            let len = self.program.values[value].len;
            if next.len() != len {
                return Err(fail(format!(
                    "the state `{input}` has {len} elements, `{output}` has {}: name pairs of equal shape with --state INPUT=OUTPUT",
                    next.len()
                )));
            }
            // A state that becomes another one is copied before either changes.
            let next = if self.is_state(next.id) { self.joined(&[next.id]).map_err(fail)? } else { next.id };
            self.program.states.push(State { value, next });
        }
        Ok(ports)
    }

    /// Whether a value lies inside a state, which changes before the output is read.
    fn is_state(&self, id: ValueId) -> bool {
        match self.program.values[id].op {
            Op::State => true,
            Op::Slice { x, .. } => self.is_state(x),
            _ => false,
        }
    }

    /// Values one after the other, copied.
    pub(crate) fn joined(&mut self, parts: &[ValueId]) -> Result<ValueId, String> {
        let mut len = 0;
        let mut moves = Vec::new();
        for &part in parts {
            let own = self.program.values[part].len;
            moves.push((part, straight(own, 0, len)));
            len += own;
        }
        self.checked(len)?;
        // Not folded: a result must lie in the arena.
        Ok(self.push(Op::Assemble { fill: None, parts: moves }, len))
    }

    /// Appends a step.
    fn push(&mut self, op: Op, len: usize) -> ValueId {
        self.steps += usize::from(!matches!(op, Op::Const(_)));
        self.program.values.push(Value { name: self.node.clone(), len, op });
        self.program.values.len() - 1
    }

    /// Accounts for `elements` new constant elements.
    pub(crate) fn charge(&mut self, elements: usize) -> Result<(), String> {
        self.spent = self.spent.saturating_add(elements);
        if self.spent > MAX_CONSTANT_ELEMENTS {
            return Err(format!(
                "the graph's constants unfold to more than {MAX_CONSTANT_ELEMENTS} elements: make the network smaller"
            ));
        }
        Ok(())
    }

    fn constant(&mut self, constant: &Constant) -> Result<Tensor, String> {
        let shape = constant.shape.clone();
        self.charge(constant.data.len())?;
        Ok(match &constant.data {
            Data::I64(values) => Tensor::integers(values.clone(), shape, constant.kind),
            Data::F32(values) => {
                let value = self.push(Op::Const(values.as_slice().into()), values.len());
                Tensor::Value { value, shape, kind: constant.kind }
            }
        })
    }

    /// A constant tensor.
    pub(crate) fn fixed(
        &mut self,
        values: Vec<f32>,
        shape: Vec<usize>,
        kind: Kind,
    ) -> Result<Computed, String> {
        Ok(Computed { id: self.floats(values)?, shape, kind })
    }

    /// Whether a tensor's shape is that of its value; a lowering that names numbers anew may be given a malformed node.
    pub(crate) fn sound(&self, x: &Computed) -> Result<(), String> {
        match self.program.values[x.id].len {
            len if len == x.len() => Ok(()),
            len => Err(format!(
                "a tensor of {len} elements does not have shape {:?}: the node is malformed",
                x.shape
            )),
        }
    }

    /// A value of one number everywhere, made at run time.
    pub(crate) fn filled(&mut self, len: usize, number: f32) -> Result<ValueId, String> {
        self.checked(len)?;
        Ok(self.push(Op::Assemble { fill: Some(number), parts: Vec::new() }, len))
    }

    /// Whole numbers of a tensor that is known now.
    pub(crate) fn whole(&self, tensor: &Tensor) -> Option<Vec<i64>> {
        match tensor {
            Tensor::Known { values, .. } => Some(values.to_vec()),
            Tensor::Value { value, .. } => {
                Some(self.data(*value)?.iter().map(|&value| value as i64).collect())
            }
        }
    }

    /// A constant value of floats.
    pub(crate) fn floats(&mut self, values: Vec<f32>) -> Result<ValueId, String> {
        self.charge(values.len())?;
        let len = values.len();
        Ok(self.push(Op::Const(values.into()), len))
    }

    /// Input `index`; `None` when it is absent.
    pub(crate) fn optional(&mut self, node: &Node, index: usize) -> Result<Option<Tensor>, String> {
        let Some(name) = node.inputs.get(index).filter(|name| !name.is_empty()) else { return Ok(None) };
        self.tensors.get(name).cloned().map(Some).ok_or_else(|| format!("input `{name}` has no value"))
    }

    /// Input `index`, which the operator cannot do without.
    pub(crate) fn input(&mut self, node: &Node, index: usize) -> Result<Tensor, String> {
        self.optional(node, index)?
            .ok_or_else(|| format!("input {index} is absent: the node is malformed, export the file again"))
    }

    /// A tensor as a value of the program.
    pub(crate) fn computed(&mut self, tensor: Tensor) -> Result<Computed, String> {
        match tensor {
            Tensor::Value { value, shape, kind } => Ok(Computed { id: value, shape, kind }),
            Tensor::Known { values, shape, kind } => {
                let exact = |&value: &i64| {
                    let in_range = (-MAX_EXACT..=MAX_EXACT).contains(&value);
                    in_range.then_some(value as f32).ok_or_else(|| {
                        format!(
                            "the integer {value} is beyond {MAX_EXACT}, which `f32` does not hold exactly"
                        )
                    })
                };
                let floats = values.iter().map(exact).collect::<Result<Vec<f32>, _>>()?;
                Ok(Computed { id: self.floats(floats)?, shape, kind })
            }
        }
    }

    /// Input `index` as a value of the program.
    pub(crate) fn value(&mut self, node: &Node, index: usize) -> Result<Computed, String> {
        let tensor = self.input(node, index)?;
        if elements(tensor.shape())? == 0 {
            return Err(format!(
                "input {index} (`{}`) of shape {:?} is empty",
                node.inputs[index],
                tensor.shape()
            ));
        }
        self.computed(tensor)
    }

    /// Numbers of a constant input with their shape; `None` when it is absent.
    pub(crate) fn known(&mut self, node: &Node, index: usize) -> Result<Option<Numbers>, String> {
        let Some(tensor) = self.optional(node, index)? else { return Ok(None) };
        let tensor = self.computed(tensor)?;
        match &self.program.values[tensor.id].op {
            Op::Const(values) => Ok(Some((values.clone(), tensor.shape))),
            _ => Err(format!(
                "input {index} (`{}`) is computed, but has a lowering only as a constant: export it as an initializer",
                node.inputs[index]
            )),
        }
    }

    /// Numbers of a constant value.
    pub(crate) fn data(&self, id: ValueId) -> Option<&Rc<[f32]>> {
        match &self.program.values[id].op {
            Op::Const(values) => Some(values),
            _ => None,
        }
    }

    /// Numbers of a constant input, as shapes and axes are given.
    pub(crate) fn integers(&mut self, node: &Node, index: usize) -> Result<Option<Vec<i64>>, String> {
        match self.optional(node, index)? {
            None => Ok(None),
            Some(tensor) => self.whole(&tensor).map(Some).ok_or_else(|| must_be_constant(node, index)),
        }
    }

    /// Axes or sizes: a constant input, or in older files an attribute.
    pub(crate) fn integers_or(
        &mut self,
        node: &Node,
        index: usize,
        name: &str,
    ) -> Result<Option<Vec<i64>>, String> {
        match self.integers(node, index)? {
            Some(values) => Ok(Some(values)),
            None => node.ints(name),
        }
    }

    /// A constant scalar input.
    pub(crate) fn scalar(&mut self, node: &Node, index: usize) -> Result<Option<f32>, String> {
        match self.known(node, index)? {
            None => Ok(None),
            Some((values, _)) if values.len() == 1 => Ok(Some(values[0])),
            Some((values, _)) => Err(format!(
                "input {index} (`{}`) has {} elements, expected one",
                node.inputs[index],
                values.len()
            )),
        }
    }

    /// Gives output `index` its tensor.
    pub(crate) fn set(&mut self, node: &Node, index: usize, tensor: Tensor) -> Result<(), String> {
        let tensor = match elements(tensor.shape())? {
            // What is empty is known.
            0 => Tensor::integers(Vec::new(), tensor.shape().to_vec(), tensor.kind()),
            _ => tensor,
        };
        if let Tensor::Known { values, .. } = &tensor {
            self.charge(values.len())?;
        }
        if let Some(name) = node.outputs.get(index).filter(|name| !name.is_empty()) {
            self.tensors.insert(name.clone(), tensor);
        }
        Ok(())
    }

    /// Gives output `index` a value of the program.
    pub(crate) fn result(
        &mut self,
        node: &Node,
        index: usize,
        value: ValueId,
        shape: Vec<usize>,
        kind: Kind,
    ) -> Result<(), String> {
        if elements(&shape)? != self.program.values[value].len {
            return Err(format!(
                "output {index} would have shape {shape:?} and {} elements: the node is malformed",
                self.program.values[value].len
            ));
        }
        self.set(node, index, Tensor::Value { value, shape, kind })
    }

    fn checked(&self, len: usize) -> Result<(), String> {
        if len == 0 || len > MAX_COMPUTED_ELEMENTS {
            return Err(format!("its output has {len} elements, between 1 and {MAX_COMPUTED_ELEMENTS} fit"));
        }
        if self.steps >= MAX_STEPS {
            return Err(format!("the network has more than {MAX_STEPS} steps: make it smaller"));
        }
        if self.program.values.len() >= MAX_VALUES {
            return Err(format!("the network unfolds to more than {MAX_VALUES} values: make it smaller"));
        }
        Ok(())
    }

    /// Appends a step of `len` elements. A step over constants becomes a constant.
    pub(crate) fn step(&mut self, op: Op, len: usize) -> Result<ValueId, String> {
        if let Some(values) = self.moved_constant(&op, len)? {
            return self.floats(values);
        }
        self.checked(len)?;
        let weights: &[&[f32]] = match &op {
            Op::Gemm { gemm, .. } | Op::Conv { gemm, .. } => &[&gemm.weights, &gemm.bias],
            Op::Affine { scale, shift, .. } => &[scale, shift],
            _ => &[],
        };
        self.charge(weights.iter().map(|part| part.len()).sum())?;
        if let Some(value) = weights.iter().flat_map(|part| part.iter()).find(|value| !value.is_finite()) {
            return Err(format!("a weight is {value}: weights must be finite"));
        }
        if op.operands().into_iter().all(|operand| self.program.is_const(operand)) {
            let values = self.run(op, len)?;
            return self.floats(values);
        }
        Ok(self.push(op, len))
    }

    /// What a step gives that only moves constants; these may be larger than the arena.
    fn moved_constant(&mut self, op: &Op, len: usize) -> Result<Option<Vec<f32>>, String> {
        match op {
            Op::Slice { x, start } => match self.data(*x) {
                Some(values) => {
                    let part = values.get(*start..*start + len).ok_or("a part lies outside its tensor")?;
                    Ok(Some(part.to_vec()))
                }
                None => Ok(None),
            },
            Op::Assemble { fill, parts } if parts.iter().all(|(part, _)| self.program.is_const(*part)) => {
                self.charge(len)?;
                let mut values = vec![fill.unwrap_or(0.0); len];
                for (part, view) in parts {
                    let source = self.data(*part).ok_or("a part is no constant")?;
                    crate::program::each_index(view, |from, to| values[to] = source[from]);
                }
                Ok(Some(values))
            }
            _ => Ok(None),
        }
    }

    /// Runs one step over constants on the runtime.
    fn run(&self, mut op: Op, len: usize) -> Result<Vec<f32>, String> {
        let mut program = Program::new();
        let value = |op, len| Value { name: String::new(), len, op };
        program.values.push(value(Op::Input, 1));
        for (operand, _) in op.operands_mut() {
            let source = &self.program.values[*operand];
            program.values.push(value(source.op.clone(), source.len));
            *operand = program.values.len() - 1;
        }
        program.values.push(value(op, len));
        program.output = program.values.len() - 1;
        let memory = plan::plan(&program);
        let emitted = emit::emit(&program, &memory).map_err(|error| error.to_string())?;
        let network = Network::new(&emitted.operators, &emitted.weights, &emitted.plan);
        let network = network.map_err(|error| error.to_string())?;
        let mut arena = vec![0.0; memory.arena_len];
        let output = network.run(&[0.0], &mut arena).ok_or("a constant step has no output")?;
        Ok(output.to_vec())
    }
}

fn must_be_constant(node: &Node, index: usize) -> String {
    format!("input {index} (`{}`) must be constant integers: export with fixed shapes", node.inputs[index])
}

impl Node {
    pub(crate) fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(other) => Err(format!("attribute `{name}` is {}, expected an integer", other.kind())),
        }
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) if value.is_finite() => Ok(*value),
            Some(other) => Err(format!("attribute `{name}` is {}, expected a finite float", other.kind())),
        }
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, String> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(other) => Err(format!("attribute `{name}` is {}, expected integers", other.kind())),
        }
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => Ok(Some(values.clone())),
            Some(other) => Err(format!("attribute `{name}` is {}, expected floats", other.kind())),
        }
    }

    pub(crate) fn text<'n>(&'n self, name: &str, default: &'n str) -> Result<&'n str, String> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Text(text)) => Ok(text),
            Some(other) => Err(format!("attribute `{name}` is {}, expected text", other.kind())),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, String> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Texts(texts)) => Ok(Some(texts.clone())),
            Some(other) => Err(format!("attribute `{name}` is {}, expected texts", other.kind())),
        }
    }
}

/// Shape that operands broadcast to, as numpy does it.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
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

/// Row-major strides.
pub(crate) fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis] as i64);
    }
    strides
}

/// An axis counted from either end.
pub(crate) fn axis(value: i64, rank: usize) -> Result<usize, String> {
    let rank_signed = rank as i64;
    let from_start = if value < 0 { value.checked_add(rank_signed) } else { Some(value) };
    from_start
        .filter(|axis| (0..rank_signed).contains(axis))
        .map(|axis| axis as usize)
        .ok_or_else(|| format!("axis {value} lies outside rank {rank}"))
}
