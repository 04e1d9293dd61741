//! The operators of a policy image, run over an arena that the caller provides.

use crate::{kernels, math};
use core::ops::Range;
use tendon_wire::image::{GEMM_ROWS, Operator, Plan, activation, binary, opcode};

/// Largest arena, `f32`: bounds every range before it is trusted.
pub(crate) const MAX_ARENA: u32 = 1 << 20;

/// A checked operator table with its weights.
///
/// Cost: `plan.macs` multiply-accumulates plus the elementwise operators; the same for every input.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    operators: &'a [Operator],
    weights: &'a [f32],
    plan: &'a Plan,
}

/// What is wrong with an operator table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError {
    /// Row of the operator table; its length for the plan itself.
    pub row: u32,
    /// Field of the row.
    pub field: &'static str,
    /// The value found there.
    pub value: u32,
}

impl core::fmt::Display for NetworkError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "operator {}: {} {} is out of range: compile the policy again",
            self.row, self.field, self.value
        )
    }
}

impl core::error::Error for NetworkError {}

impl<'a> Network<'a> {
    /// Checks every row: known opcode and kind, ranges inside arena and weights, operands that do
    /// not overlap their output (elementwise operators may write in place).
    ///
    /// # Errors
    /// The first row and field that does not hold.
    pub fn new(operators: &'a [Operator], weights: &'a [f32], plan: &'a Plan) -> Result<Self, NetworkError> {
        let row = operators.len() as u32;
        let check = |ok, field, value| if ok { Ok(()) } else { Err(NetworkError { row, field, value }) };
        check(plan.arena_len <= MAX_ARENA, "arena_len", plan.arena_len)?;
        check(plan.n_inputs > 0 && inside(plan.input, plan.n_inputs, plan.arena_len), "input", plan.input)?;
        check(
            plan.n_outputs > 0 && inside(plan.output, plan.n_outputs, plan.arena_len),
            "output",
            plan.output,
        )?;
        for (row, operator) in operators.iter().enumerate() {
            check_operator(operator, weights, plan.arena_len).map_err(|(field, value)| NetworkError {
                row: row as u32,
                field,
                value,
            })?;
        }
        Ok(Self { operators, weights, plan })
    }

    /// The same view without the checks, for bytes that passed them and did not change since.
    pub(crate) fn assume_checked(operators: &'a [Operator], weights: &'a [f32], plan: &'a Plan) -> Self {
        Self { operators, weights, plan }
    }

    /// Sizes and costs.
    #[must_use]
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// The operator table.
    #[must_use]
    pub fn operators(&self) -> &'a [Operator] {
        self.operators
    }

    /// The packed weights.
    #[must_use]
    pub fn weights(&self) -> &'a [f32] {
        self.weights
    }

    /// Runs the network. `arena`: at least `plan.arena_len`; its content before does not matter.
    /// `input`: `[n_inputs]`. Returns the output `[n_outputs]` inside the arena, or `None` when a
    /// length does not fit.
    pub fn run<'m>(&self, input: &[f32], arena: &'m mut [f32]) -> Option<&'m [f32]> {
        let place = arena.get_mut(range(self.plan.input, self.plan.n_inputs))?;
        if input.len() != place.len() {
            return None;
        }
        kernels::copy(input, place);
        for operator in self.operators {
            self.step(operator, arena)?;
        }
        arena.get(range(self.plan.output, self.plan.n_outputs))
    }

    fn step(&self, op: &Operator, arena: &mut [f32]) -> Option<()> {
        let input = range(op.input, op.n_in);
        let output = range(op.output, op.n_out);
        if op.opcode == opcode::GEMM {
            let [x, y] = arena.get_disjoint_mut([input, output]).ok()?;
            let rows = padded_rows(op.n_out);
            let w = self.weights.get(range(op.weights, rows.wrapping_mul(op.n_in)))?;
            let b = self.weights.get(range(op.bias, rows))?;
            match op.kind {
                activation::RELU => kernels::gemm(w, b, x, y, math::relu),
                activation::TANH => kernels::gemm(w, b, x, y, math::tanh),
                activation::SIGMOID => kernels::gemm(w, b, x, y, math::sigmoid),
                activation::SWISH => kernels::gemm(w, b, x, y, math::swish),
                activation::ELU => kernels::gemm(w, b, x, y, |v| math::elu(v, op.alpha)),
                _ => kernels::gemm(w, b, x, y, |v| v),
            }
            return Some(());
        }
        if op.input != op.output {
            let [x, y] = arena.get_disjoint_mut([input, output.clone()]).ok()?;
            kernels::copy(x, y);
        }
        if op.opcode == opcode::BINARY {
            let [b, y] = arena.get_disjoint_mut([range(op.input_b, op.n_in), output]).ok()?;
            match op.kind {
                binary::ADD => kernels::zip(y, b, |y, b| y + b),
                binary::SUB => kernels::zip(y, b, |y, b| y - b),
                binary::MUL => kernels::zip(y, b, |y, b| y * b),
                _ => kernels::zip(y, b, |y, b| y / b),
            }
            return Some(());
        }
        let y = arena.get_mut(output)?;
        match op.opcode {
            opcode::ACTIVATION => match op.kind {
                activation::RELU => kernels::map(y, math::relu),
                activation::TANH => kernels::map(y, math::tanh),
                activation::SIGMOID => kernels::map(y, math::sigmoid),
                activation::SWISH => kernels::map(y, math::swish),
                activation::ELU => kernels::map(y, |v| math::elu(v, op.alpha)),
                _ => {}
            },
            opcode::AFFINE => {
                let scale = self.weights.get(range(op.weights, op.n_out))?;
                let shift = self.weights.get(range(op.bias, op.n_out))?;
                kernels::zip(y, scale, |y, s| y * s);
                kernels::zip(y, shift, |y, s| y + s);
            }
            opcode::CLIP => kernels::map(y, |v| math::clip(v, op.alpha, op.beta)),
            _ => {}
        }
        Some(())
    }
}

/// Rows of a packed Gemm matrix with `n_out` rows.
pub(crate) fn padded_rows(n_out: u32) -> u32 {
    n_out.next_multiple_of(GEMM_ROWS as u32)
}

fn range(start: u32, len: u32) -> Range<usize> {
    let start = start as usize;
    start..start.saturating_add(len as usize)
}

fn inside(start: u32, len: u32, total: u32) -> bool {
    start.checked_add(len).is_some_and(|end| end <= total)
}

fn disjoint(a: u32, a_len: u32, b: u32, b_len: u32) -> bool {
    a.saturating_add(a_len) <= b || b.saturating_add(b_len) <= a
}

fn check_operator(op: &Operator, weights: &[f32], arena_len: u32) -> Result<(), (&'static str, u32)> {
    let check = |ok, field, value| if ok { Ok(()) } else { Err((field, value)) };
    let weights_len = weights.len().min(u32::MAX as usize) as u32;
    check(op.reserved == 0, "reserved", op.reserved.into())?;
    check(op.n_in > 0 && inside(op.input, op.n_in, arena_len), "input", op.input)?;
    check(op.n_out > 0 && inside(op.output, op.n_out, arena_len), "output", op.output)?;
    let elementwise = || {
        check(op.n_in == op.n_out, "n_out", op.n_out)?;
        let apart = disjoint(op.input, op.n_in, op.output, op.n_out);
        check(apart || op.input == op.output, "output", op.output)
    };
    match op.opcode {
        opcode::GEMM => {
            check(op.kind <= activation::ELU, "activation", op.kind.into())?;
            check(disjoint(op.input, op.n_in, op.output, op.n_out), "output", op.output)?;
            let rows = padded_rows(op.n_out);
            let elements = rows.checked_mul(op.n_in).ok_or(("n_in", op.n_in))?;
            check(inside(op.weights, elements, weights_len), "weights", op.weights)?;
            check(inside(op.bias, rows, weights_len), "bias", op.bias)?;
            check(op.alpha.is_finite(), "alpha", op.alpha.to_bits())
        }
        opcode::ACTIVATION => {
            check(op.kind <= activation::ELU, "activation", op.kind.into())?;
            check(op.alpha.is_finite(), "alpha", op.alpha.to_bits())?;
            elementwise()
        }
        opcode::AFFINE => {
            check(inside(op.weights, op.n_out, weights_len), "weights", op.weights)?;
            check(inside(op.bias, op.n_out, weights_len), "bias", op.bias)?;
            elementwise()
        }
        opcode::BINARY => {
            check(op.kind <= binary::DIV, "kind", op.kind.into())?;
            check(inside(op.input_b, op.n_in, arena_len), "input_b", op.input_b)?;
            check(disjoint(op.input_b, op.n_in, op.output, op.n_out), "input_b", op.input_b)?;
            elementwise()
        }
        opcode::CLIP => {
            check(op.alpha <= op.beta, "alpha", op.alpha.to_bits())?;
            elementwise()
        }
        opcode::COPY => elementwise(),
        _ => Err(("opcode", op.opcode.into())),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use bytemuck::Zeroable;
    use std::vec::Vec;

    fn plan(n_in: u32, n_out: u32, output: u32, arena_len: u32) -> Plan {
        Plan { n_inputs: n_in, n_outputs: n_out, output, arena_len, ..Plan::zeroed() }
    }

    #[test]
    fn gemm_with_odd_shapes_matches_f64() {
        for (n_in, n_out) in [(1usize, 1usize), (3, 5), (7, 4), (13, 64), (64, 3)] {
            let matrix: Vec<f32> = (0..n_in * n_out).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let rows = n_out.next_multiple_of(GEMM_ROWS);
            let mut weights = std::vec![0.0; rows * n_in + rows];
            for row in 0..n_out {
                for k in 0..n_in {
                    let block = row / GEMM_ROWS * GEMM_ROWS * n_in;
                    weights[block + k * GEMM_ROWS + row % GEMM_ROWS] = matrix[row * n_in + k];
                }
                weights[rows * n_in + row] = row as f32 * 0.1;
            }
            let operator = Operator {
                opcode: opcode::GEMM,
                output: n_in as u32,
                n_in: n_in as u32,
                n_out: n_out as u32,
                bias: (rows * n_in) as u32,
                ..Operator::zeroed()
            };
            let plan = plan(n_in as u32, n_out as u32, n_in as u32, (n_in + n_out) as u32);
            let operators = [operator];
            let network = Network::new(&operators, &weights, &plan).unwrap();
            let input: Vec<f32> = (0..n_in).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut arena = std::vec![f32::NAN; n_in + n_out];
            let output = network.run(&input, &mut arena).unwrap();
            for row in 0..n_out {
                let expected: f64 = f64::from(row as f32 * 0.1)
                    + (0..n_in).map(|k| f64::from(matrix[row * n_in + k]) * f64::from(input[k])).sum::<f64>();
                assert!((f64::from(output[row]) - expected).abs() < 1e-5, "{n_in}x{n_out} row {row}");
            }
        }
    }

    #[test]
    fn rejects_unknown_opcode_range_and_overlap() {
        let good = Operator { opcode: opcode::COPY, n_in: 2, n_out: 2, output: 2, ..Operator::zeroed() };
        let plan = plan(2, 2, 2, 4);
        let reject = |operator: Operator, field| {
            assert_eq!(Network::new(&[operator], &[], &plan).unwrap_err().field, field);
        };
        assert!(Network::new(&[good], &[], &plan).is_ok());
        reject(Operator { opcode: 99, ..good }, "opcode");
        reject(Operator { output: 3, ..good }, "output");
        reject(Operator { output: 1, ..good }, "output");
        reject(Operator { n_in: u32::MAX, ..good }, "input");
        reject(Operator { opcode: opcode::GEMM, ..good }, "weights");
        reject(Operator { opcode: opcode::GEMM, n_in: 2, n_out: u32::MAX - 5, ..good }, "output");
        reject(Operator { opcode: opcode::BINARY, input_b: 2, ..good }, "input_b");
        reject(Operator { opcode: opcode::CLIP, alpha: f32::NAN, ..good }, "alpha");
    }
}
