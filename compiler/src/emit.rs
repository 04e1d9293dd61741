//! A planned program as the records and weights of an image.

use crate::error::CompileError;
use crate::plan::Memory;
use crate::program::{Op, Program};
use bytemuck::Zeroable;
use tendon_wire::image::{MAX_IMAGE, Operator, Plan, opcode};

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
    let mut emitted = Emitted {
        operators: Vec::new(),
        names: Vec::new(),
        weights: Vec::new(),
        plan: Plan {
            n_inputs: program.values[0].len as u32,
            n_outputs: program.values[program.output].len as u32,
            input: memory.starts[0] as u32,
            output: memory.starts[program.output] as u32,
            arena_len: memory.arena_len as u32,
            ..Plan::zeroed()
        },
    };
    for (id, value) in program.values.iter().enumerate() {
        let start = |id: usize| memory.starts[id] as u32;
        let base = Operator {
            output: start(id),
            n_in: value.len as u32,
            n_out: value.len as u32,
            ..Operator::zeroed()
        };
        match &value.op {
            Op::Input | Op::Slice { .. } => {}
            Op::Gemm { x, gemm } => {
                let n_in = program.values[*x].len;
                let weights = emitted.append(&gemm.packed_weights())?;
                let bias = emitted.append(&gemm.padded_bias())?;
                emitted.plan.macs = emitted.plan.macs.saturating_add((n_in * value.len) as u32);
                let (kind, alpha) = (gemm.activation.kind, gemm.activation.alpha);
                let input = start(*x);
                let n_in = n_in as u32;
                emitted.push(
                    value.name.clone(),
                    Operator { opcode: opcode::GEMM, kind, input, n_in, weights, bias, alpha, ..base },
                );
            }
            Op::Activation { x, kind } => {
                let (kind, alpha) = (kind.kind, kind.alpha);
                emitted.push(
                    value.name.clone(),
                    Operator { opcode: opcode::ACTIVATION, kind, input: start(*x), alpha, ..base },
                );
            }
            Op::Affine { x, scale, shift } => {
                let weights = emitted.append(scale)?;
                let bias = emitted.append(shift)?;
                emitted.push(
                    value.name.clone(),
                    Operator { opcode: opcode::AFFINE, input: start(*x), weights, bias, ..base },
                );
            }
            Op::Binary { a, b, kind } => {
                let (input, input_b) = (start(*a), start(*b));
                emitted.push(
                    value.name.clone(),
                    Operator { opcode: opcode::BINARY, kind: *kind, input, input_b, ..base },
                );
            }
            Op::Clip { x, low, high } => emitted.push(
                value.name.clone(),
                Operator { opcode: opcode::CLIP, input: start(*x), alpha: *low, beta: *high, ..base },
            ),
            Op::Concat { parts } => {
                let mut output = start(id);
                for &part in parts {
                    let len = program.values[part].len as u32;
                    // A part that was computed in its place needs no copy.
                    if start(part) != output {
                        emitted.push(
                            value.name.clone(),
                            Operator {
                                opcode: opcode::COPY,
                                input: start(part),
                                output,
                                n_in: len,
                                n_out: len,
                                ..base
                            },
                        );
                    }
                    output += len;
                }
            }
        }
    }
    Ok(emitted)
}

impl Emitted {
    fn push(&mut self, name: String, operator: Operator) {
        self.operators.push(operator);
        self.names.push(name);
    }

    /// Appends weights and returns where they start.
    fn append(&mut self, values: &[f32]) -> Result<u32, CompileError> {
        self.weights.resize(self.weights.len().next_multiple_of(WEIGHT_ALIGN), 0.0);
        let start = self.weights.len();
        self.weights.extend_from_slice(values);
        let bytes = self.weights.len() * size_of::<f32>();
        if bytes > MAX_IMAGE {
            return Err(CompileError::TooLarge { what: "weights (bytes)", value: bytes, limit: MAX_IMAGE });
        }
        Ok(start as u32)
    }
}
