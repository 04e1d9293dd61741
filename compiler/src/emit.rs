//! A planned program as the records and weights of an image.

use crate::error::CompileError;
use crate::plan::Memory;
use crate::program::{Op, Program, ValueId};
use bytemuck::Zeroable;
use std::collections::BTreeMap;
use tendon_wire::image::{MAX_IMAGE, Operator, Plan, opcode, operand};

/// Largest arena the runtime accepts, `f32`.
const MAX_ARENA: usize = 1 << 20;
/// Weights start at multiples of this, `f32`.
const WEIGHT_ALIGN: usize = 4;

/// Sections of an image that hold the network.
#[derive(Clone, Debug)]
pub(crate) struct Emitted {
    pub(crate) operators: Vec<Operator>,
    /// ONNX node behind each operator.
    pub(crate) names: Vec<String>,
    pub(crate) weights: Vec<f32>,
    pub(crate) plan: Plan,
}

/// Turns every step that computes something into operators.
pub(crate) fn emit(program: &Program, memory: &Memory) -> Result<Emitted, CompileError> {
    if memory.arena_len > MAX_ARENA {
        return Err(CompileError::TooLarge {
            what: "the arena (f32)",
            value: memory.arena_len,
            limit: MAX_ARENA,
        });
    }
    let plan = Plan {
        n_inputs: program.values[0].len as u32,
        n_outputs: program.values[program.output].len as u32,
        input: memory.starts[0] as u32,
        output: memory.starts[program.output] as u32,
        arena_len: memory.arena_len as u32,
        state_len: memory.state_len as u32,
        ..Plan::zeroed()
    };
    let emitted = Emitted { operators: Vec::new(), names: Vec::new(), weights: Vec::new(), plan };
    let mut emitter = Emitter { program, memory, emitted, constants: BTreeMap::new() };
    for id in 0..program.values.len() {
        emitter.step(id)?;
    }
    for state in &program.states {
        let (from, to) = (memory.starts[state.next] as u32, memory.starts[state.value] as u32);
        let n = program.values[state.value].len as u32;
        if from != to {
            let copy =
                Operator { opcode: opcode::UNARY, n_in: n, n_out: n, output: to, ..Operator::zeroed() };
            let (input, constant) = emitter.operand(state.next, operand::INPUT)?;
            emitter.push(state.value, Operator { input, constant, ..copy });
        }
    }
    Ok(emitter.emitted)
}

struct Emitter<'p> {
    program: &'p Program,
    memory: &'p Memory,
    emitted: Emitted,
    /// Where constants lie in the weights.
    constants: BTreeMap<ValueId, u32>,
}

impl Emitter<'_> {
    fn push(&mut self, id: ValueId, operator: Operator) {
        self.emitted.operators.push(operator);
        self.emitted.names.push(self.program.values[id].name.clone());
    }

    /// Appends weights and returns where they start.
    fn append(&mut self, values: &[f32]) -> Result<u32, CompileError> {
        let weights = &mut self.emitted.weights;
        weights.resize(weights.len().next_multiple_of(WEIGHT_ALIGN), 0.0);
        let start = weights.len();
        weights.extend_from_slice(values);
        let bytes = weights.len() * size_of::<f32>();
        if bytes > MAX_IMAGE {
            return Err(CompileError::TooLarge { what: "weights (bytes)", value: bytes, limit: MAX_IMAGE });
        }
        Ok(start as u32)
    }

    /// Appends the words of a record.
    fn record<T: bytemuck::Pod>(&mut self, record: &T) -> Result<u32, CompileError> {
        self.append(bytemuck::cast_slice(std::slice::from_ref(record)))
    }

    /// Where an operand lies, and `bit` when that is in the weights.
    fn operand(&mut self, id: ValueId, bit: u16) -> Result<(u32, u16), CompileError> {
        let Op::Const(values) = &self.program.values[id].op else {
            return Ok((self.memory.starts[id] as u32, 0));
        };
        let start = match self.constants.get(&id) {
            Some(&start) => start,
            None => {
                if values.iter().any(|value| value.is_nan()) {
                    let node = &self.program.values[id].name;
                    return Err(CompileError::Mismatch(format!(
                        "a constant of node `{node}` is NaN: the file is damaged, train or export it again"
                    )));
                }
                let start = self.append(values)?;
                self.constants.insert(id, start);
                start
            }
        };
        Ok((start, bit))
    }

    fn macs(&mut self, factors: &[usize]) {
        let macs = factors.iter().fold(1usize, |product, &factor| product.saturating_mul(factor));
        let macs = u32::try_from(macs).unwrap_or(u32::MAX);
        self.emitted.plan.macs = self.emitted.plan.macs.saturating_add(macs);
    }

    fn step(&mut self, id: ValueId) -> Result<(), CompileError> {
        let value = &self.program.values[id];
        let n = value.len as u32;
        let mut op =
            Operator { output: self.memory.starts[id] as u32, n_in: n, n_out: n, ..Operator::zeroed() };
        if let Op::Assemble { fill, parts } = &value.op {
            return self.assemble(id, op, *fill, parts);
        }
        let operands = value.op.operands();
        for (&operand, (place, bit)) in operands.iter().zip([
            (&mut op.input, operand::INPUT),
            (&mut op.input_b, operand::B),
            (&mut op.input_c, operand::C),
        ]) {
            let (start, constant) = self.operand(operand, bit)?;
            *place = start;
            op.constant |= constant;
        }
        if let Some(&first) = operands.first() {
            op.n_in = self.program.values[first].len as u32;
        }
        let along = |axis: crate::program::Axis, more: usize| {
            let [outer, n, inner] = axis.dims();
            [outer, n, inner, more as u32, 0]
        };
        match &value.op {
            Op::Input | Op::State | Op::Const(_) | Op::Slice { .. } | Op::Assemble { .. } => return Ok(()),
            Op::Gemm { rows, gemm, .. } => {
                let (n_in, n_out) = (gemm.n_in(), gemm.bias.len());
                op.opcode = opcode::GEMM;
                op.weights = self.append(&gemm.packed_weights(1))?;
                op.bias = self.append(&gemm.padded_bias(1))?;
                (op.kind, op.alpha) = (gemm.activation.kind, gemm.activation.alpha);
                op.dims = [*rows as u32, n_in as u32, n_out as u32, 0, 0];
                self.macs(&[*rows, n_in, n_out]);
            }
            Op::Unary { f, .. } => {
                op.opcode = opcode::UNARY;
                (op.kind, op.alpha, op.beta) = (f.kind, f.alpha, f.beta);
            }
            Op::Affine { scale, shift, inner, .. } => {
                op.opcode = opcode::AFFINE;
                op.weights = self.append(scale)?;
                op.bias = self.append(shift)?;
                op.dims = [scale.len() as u32, *inner as u32, 0, 0, 0];
            }
            Op::Binary { b, kind, inner, .. } => {
                op.opcode = opcode::BINARY;
                op.kind = *kind;
                op.dims = [self.program.values[*b].len as u32, *inner as u32, 0, 0, 0];
            }
            Op::Select { .. } => op.opcode = opcode::SELECT,
            Op::Gather { table, .. } => {
                op.opcode = opcode::GATHER;
                op.weights = self.append(bytemuck::cast_slice(table))?;
            }
            Op::Take { axis, m, each, .. } => {
                op.opcode = opcode::TAKE;
                op.kind = u8::from(*each);
                op.dims = along(*axis, *m);
            }
            Op::Scatter { axis, m, each, kind, .. } => {
                op.opcode = opcode::SCATTER;
                op.kind = kind << 1 | u8::from(*each);
                op.dims = along(*axis, *m);
            }
            Op::Reduce { axis, kind, .. } => {
                op.opcode = opcode::REDUCE;
                op.kind = *kind;
                op.dims = along(*axis, 0);
            }
            Op::Arg { axis, kind, .. } => {
                op.opcode = opcode::ARG;
                op.kind = *kind;
                op.dims = along(*axis, 0);
            }
            Op::Top { axis, k, kind, .. } => {
                op.opcode = opcode::TOP;
                op.kind = *kind;
                op.dims = along(*axis, *k);
            }
            Op::Cumulate { axis, kind, .. } => {
                op.opcode = opcode::CUMULATE;
                op.kind = *kind;
                op.dims = along(*axis, 0);
            }
            Op::Softmax { axis, logarithm, .. } => {
                op.opcode = opcode::SOFTMAX;
                op.kind = u8::from(*logarithm);
                op.dims = along(*axis, 0);
            }
            Op::MatMul { batch, m, k, n, kind, .. } => {
                op.opcode = opcode::MATMUL;
                op.kind = *kind;
                op.dims = [*batch as u32, *m as u32, *k as u32, *n as u32, 0];
                self.macs(&[*batch, *m, *k, *n]);
            }
            Op::Conv { images, window, gemm, .. } => {
                let groups = window.groups as usize;
                op.opcode = opcode::CONV;
                op.weights = self.append(&gemm.packed_weights(groups))?;
                op.bias = self.append(&gemm.padded_bias(groups))?;
                op.input_b = self.record(window)?;
                (op.kind, op.alpha) = (gemm.activation.kind, gemm.activation.alpha);
                op.dims = [*images as u32, 0, 0, 0, 0];
                let pixels = window.height_out as usize * window.width_out as usize;
                self.macs(&[*images, pixels, gemm.weights.len()]);
            }
            Op::Quantize { x, inverse } => {
                op.opcode = opcode::QUANTIZE;
                op.alpha = *inverse;
                op.dims = [self.program.values[*x].len as u32, 0, 0, 0, 0];
            }
            Op::QuantizedGemm { n_in, n_out, words, kind, .. } => {
                op.opcode = opcode::GEMM_8W16A;
                op.kind = *kind;
                op.weights = self.append(bytemuck::cast_slice(words))?;
                op.dims = [*n_in as u32, *n_out as u32, 0, 0, 0];
                self.macs(&[*n_in, *n_out]);
            }
            Op::Lstm { .. } => op.opcode = opcode::LSTM,
            Op::Pool { images, window, kind, .. } => {
                op.opcode = opcode::POOL;
                op.kind = *kind;
                op.input_b = self.record(window)?;
                op.dims = [*images as u32, 0, 0, 0, 0];
            }
        }
        self.push(id, op);
        Ok(())
    }

    /// The fill, and a move for every part that was not computed in its place.
    fn assemble(
        &mut self,
        id: ValueId,
        base: Operator,
        fill: Option<f32>,
        parts: &[(ValueId, tendon_wire::image::View)],
    ) -> Result<(), CompileError> {
        if let Some(value) = fill {
            self.push(id, Operator { opcode: opcode::FILL, alpha: value, n_in: 0, ..base });
        }
        for (part, view) in parts {
            let n_in = self.program.values[*part].len as u32;
            let (input, constant) = self.operand(*part, operand::INPUT)?;
            if constant == 0 && input == base.output + view.to_offset {
                continue;
            }
            let weights = self.record(view)?;
            self.push(id, Operator { opcode: opcode::MOVE, input, constant, n_in, weights, ..base });
        }
        Ok(())
    }
}
