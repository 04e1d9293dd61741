//! Rewrites that make a program smaller without changing what it computes beyond rounding.

use crate::program::{Activation, Op, Program, ValueId};
use tendon_wire::image::{activation, binary};

/// Sweeps over the program; each shortens chains, so few are needed.
const MAX_SWEEPS: usize = 64;
/// Largest shift that is folded through a matrix. `(x - mean) / std` becomes `W x + b` with the
/// rounding of `mean / std`; beyond this the separate, exact steps stay.
const MAX_FOLDED_SHIFT: f32 = 64.0;

/// Rewrites the value, given how often each is read; whether it changed anything.
type Rule = fn(&mut Program, &[u32], ValueId) -> bool;

/// Applies every rule until nothing changes and drops what is dead.
pub(crate) fn fuse(mut program: Program) -> Program {
    const RULES: &[Rule] = &[swish, activation_into_gemm, affine_into_gemm, affine_before_gemm, trim_gemm];
    for _ in 0..MAX_SWEEPS {
        let mut changed = skip_views(&mut program);
        for rule in RULES {
            let uses = program.uses();
            for id in 0..program.values.len() {
                changed |= rule(&mut program, &uses, id);
            }
        }
        program = program.without_dead_values();
        if !changed {
            break;
        }
    }
    program
}

/// Readers of a whole Slice, of a Slice of a Slice, or of an Affine without effect read its source.
fn skip_views(program: &mut Program) -> bool {
    let mut changed = false;
    let mut target: Vec<ValueId> = (0..program.values.len()).collect();
    for id in 0..program.values.len() {
        let (before, rest) = program.values.split_at_mut(id);
        let Some(value) = rest.first_mut() else { continue };
        changed |= value.op.operands().into_iter().any(|operand| target[operand] != operand);
        value.op.map_operands(|operand| target[operand]);
        if let Op::Slice { x, start } = &mut value.op
            && let Op::Slice { x: source, start: offset } = before[*x].op
        {
            (*x, *start) = (source, *start + offset);
            changed = true;
        }
        target[id] = match &value.op {
            Op::Slice { x, start: 0 } if before[*x].len == value.len => *x,
            Op::Affine { x, scale, shift }
                if scale.iter().all(|&s| s == 1.0) && shift.iter().all(|&s| s == 0.0) =>
            {
                *x
            }
            _ => id,
        };
    }
    program.output = target[program.output];
    changed
}

/// `x * sigmoid(x)`.
fn swish(program: &mut Program, uses: &[u32], id: ValueId) -> bool {
    let Op::Binary { a, b, kind: binary::MUL } = program.values[id].op else { return false };
    for (x, gate) in [(a, b), (b, a)] {
        let is_gate = matches!(program.values[gate].op,
            Op::Activation { x: inner, kind } if inner == x && kind.kind == activation::SIGMOID);
        if is_gate && uses[gate] == 1 {
            program.values[id].op = Op::Activation { x, kind: Activation::new(activation::SWISH) };
            return true;
        }
    }
    false
}

/// An activation whose Gemm nobody else reads.
fn activation_into_gemm(program: &mut Program, uses: &[u32], id: ValueId) -> bool {
    let Op::Activation { x, kind } = program.values[id].op else { return false };
    let Some((input, mut gemm)) = take_gemm(program, uses, x) else { return false };
    gemm.activation = kind;
    program.values[id].op = Op::Gemm { x: input, gemm };
    true
}

/// Scale and shift behind a Gemm without activation.
fn affine_into_gemm(program: &mut Program, uses: &[u32], id: ValueId) -> bool {
    let Op::Affine { x, .. } = program.values[id].op else { return false };
    let Some((input, mut gemm)) = take_gemm(program, uses, x) else { return false };
    let Op::Affine { scale, shift, .. } = std::mem::replace(&mut program.values[id].op, Op::Input) else {
        return false;
    };
    let n_in = gemm.weights.len() / gemm.bias.len().max(1);
    for (row, &scale) in gemm.weights.chunks_mut(n_in.max(1)).zip(&scale) {
        row.iter_mut().for_each(|weight| *weight *= scale);
    }
    for ((bias, scale), shift) in gemm.bias.iter_mut().zip(scale).zip(shift) {
        *bias = (f64::from(*bias) * f64::from(scale) + f64::from(shift)) as f32;
    }
    program.values[id].op = Op::Gemm { x: input, gemm };
    true
}

/// Scale and shift in front of a Gemm, as observation normalisation has it.
fn affine_before_gemm(program: &mut Program, uses: &[u32], id: ValueId) -> bool {
    let Op::Gemm { x, .. } = program.values[id].op else { return false };
    let Op::Affine { x: input, scale, shift } = &program.values[x].op else { return false };
    // A chain of Affine steps acts together: the shift that counts is scaled by all behind it.
    if uses[x] != 1 || !shift.iter().all(|shift| shift.abs() <= MAX_FOLDED_SHIFT) {
        return false;
    }
    let (input, scale, shift) = (*input, scale.clone(), shift.clone());
    let amplified = amplified_shift(program, uses, input, &scale);
    if amplified > MAX_FOLDED_SHIFT {
        return false;
    }
    let Op::Gemm { gemm, x } = &mut program.values[id].op else { return false };
    for (row, bias) in gemm.weights.chunks_mut(scale.len().max(1)).zip(&mut gemm.bias) {
        let dot: f64 = row.iter().zip(&shift).map(|(&w, &s)| f64::from(w) * f64::from(s)).sum();
        *bias = (f64::from(*bias) + dot) as f32;
        row.iter_mut().zip(&scale).for_each(|(weight, scale)| *weight *= scale);
    }
    *x = input;
    true
}

/// Largest shift of the Affine step at `id`, seen behind a further scale; 0 when it is none.
fn amplified_shift(program: &Program, uses: &[u32], id: ValueId, scale: &[f32]) -> f32 {
    match &program.values[id].op {
        Op::Affine { shift, .. } if uses[id] == 1 => {
            shift.iter().zip(scale).map(|(shift, scale)| (shift * scale).abs()).fold(0.0, f32::max)
        }
        _ => 0.0,
    }
}

/// Rows of a Gemm that no Slice reads.
fn trim_gemm(program: &mut Program, uses: &[u32], id: ValueId) -> bool {
    let Op::Gemm { gemm, .. } = &program.values[id].op else { return false };
    let (mut first, mut end, mut slices) = (gemm.bias.len(), 0, Vec::new());
    for (user, value) in program.values.iter().enumerate().skip(id) {
        if let Op::Slice { x, start } = value.op
            && x == id
        {
            first = first.min(start);
            end = end.max(start + value.len);
            slices.push(user);
        }
    }
    let covered = (first, end) == (0, gemm.bias.len());
    if slices.len() != uses[id] as usize || slices.is_empty() || covered {
        return false;
    }
    for user in slices {
        if let Op::Slice { start, .. } = &mut program.values[user].op {
            *start -= first;
        }
    }
    let value = &mut program.values[id];
    if let Op::Gemm { gemm, .. } = &mut value.op {
        let n_in = gemm.weights.len() / gemm.bias.len().max(1);
        gemm.weights = gemm.weights[first * n_in..end * n_in].to_vec();
        gemm.bias = gemm.bias[first..end].to_vec();
        value.len = end - first;
    }
    true
}

/// Takes the Gemm at `id` out, when it has no activation and one reader.
fn take_gemm(program: &mut Program, uses: &[u32], id: ValueId) -> Option<(ValueId, crate::program::Gemm)> {
    match &program.values[id].op {
        Op::Gemm { gemm, .. } if gemm.activation == Activation::NONE && uses[id] == 1 => {}
        _ => return None,
    }
    match std::mem::replace(&mut program.values[id].op, Op::Input) {
        Op::Gemm { x, gemm } => Some((x, gemm)),
        _ => None,
    }
}
