//! Rewrites that make a program smaller without changing what it computes beyond rounding.

use crate::program::{Function, Gemm, Op, Program, ValueId};
use tendon_wire::image::{binary, unary};

/// Sweeps over the program; each shortens chains, so few are needed.
const MAX_SWEEPS: usize = 64;
/// Largest shift that is folded through a matrix. `(x - mean) / std` becomes `W x + b` with the
/// rounding of `mean / std`; beyond this the separate, exact steps stay.
const MAX_FOLDED_SHIFT: f32 = 64.0;

/// Who reads what.
struct Readers {
    /// How often each value is read.
    uses: Vec<u32>,
    /// Last step that reads it.
    user: Vec<Option<ValueId>>,
}

impl Readers {
    fn of(program: &Program) -> Self {
        let mut user = vec![None; program.values.len()];
        for (id, value) in program.values.iter().enumerate() {
            value.op.operands().into_iter().for_each(|operand| user[operand] = Some(id));
        }
        Self { uses: program.uses(), user }
    }

    /// The only step that reads `id`, when there is one.
    fn only(&self, id: ValueId) -> Option<ValueId> {
        self.user[id].filter(|_| self.uses[id] == 1)
    }
}

/// Rewrites the value; whether it changed anything.
type Rule = fn(&mut Program, &Readers, ValueId) -> bool;

/// Applies every rule until nothing changes and drops what is dead.
pub(crate) fn fuse(mut program: Program) -> Program {
    const RULES: &[Rule] = &[
        swish,
        arithmetic_to_affine,
        activation_into_layer,
        affine_into_layer,
        affine_before_gemm,
        trim_gemm,
    ];
    for _ in 0..MAX_SWEEPS {
        let mut changed = skip_views(&mut program);
        for rule in RULES {
            let readers = Readers::of(&program);
            for id in 0..program.values.len() {
                changed |= rule(&mut program, &readers, id);
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
            Op::Affine { x, scale, shift, .. }
                if scale.iter().all(|&s| s == 1.0) && shift.iter().all(|&s| s == 0.0) =>
            {
                *x
            }
            Op::Unary { x, f: Function { kind: unary::NONE, .. } } => *x,
            _ => id,
        };
    }
    program.output = target[program.output];
    for state in &mut program.states {
        state.next = target[state.next];
    }
    changed
}

/// `x * sigmoid(x)`.
fn swish(program: &mut Program, readers: &Readers, id: ValueId) -> bool {
    let Op::Binary { a, b, kind: binary::MUL, .. } = program.values[id].op else { return false };
    for (x, gate) in [(a, b), (b, a)] {
        let is_gate = matches!(program.values[gate].op,
            Op::Unary { x: inner, f } if inner == x && f.kind == unary::SIGMOID);
        if is_gate && readers.uses[gate] == 1 {
            program.values[id].op = Op::Unary { x, f: Function::new(unary::SWISH) };
            return true;
        }
    }
    false
}

/// Arithmetic with a constant beside a layer that can take it up.
fn arithmetic_to_affine(program: &mut Program, readers: &Readers, id: ValueId) -> bool {
    let Op::Binary { a, b, kind, inner } = program.values[id].op else { return false };
    let Op::Const(values) = &program.values[b].op else { return false };
    let is_layer = |id: ValueId| {
        matches!(&program.values[id].op, Op::Gemm { gemm, .. } | Op::Conv { gemm, .. }
            if gemm.activation == Function::NONE && readers.uses[id] == 1)
    };
    let feeds = readers.only(id).is_some_and(|user| {
        matches!(program.values[user].op, Op::Gemm { .. } | Op::Affine { .. })
            || matches!(program.values[user].op, Op::Binary { a, b, .. } if a == id && program.is_const(b))
    });
    let follows = is_layer(a) || matches!(program.values[a].op, Op::Affine { .. });
    if !(feeds || follows) {
        return false;
    }
    let (ones, zeros) = (vec![1.0; values.len()], vec![0.0; values.len()]);
    let (scale, shift) = match kind {
        binary::ADD => (ones, values.to_vec()),
        binary::SUB => (ones, values.iter().map(|c| -c).collect()),
        binary::SUB_FROM => (ones.iter().map(|c: &f32| -c).collect(), values.to_vec()),
        binary::MUL => (values.to_vec(), zeros),
        binary::DIV => (values.iter().map(|c| 1.0 / c).collect(), zeros),
        _ => return false,
    };
    if !scale.iter().chain(&shift).all(|value: &f32| value.is_finite()) {
        return false;
    }
    program.values[id].op = Op::Affine { x: a, scale, shift, inner };
    true
}

/// An activation whose layer nobody else reads.
fn activation_into_layer(program: &mut Program, readers: &Readers, id: ValueId) -> bool {
    let Op::Unary { x, f } = program.values[id].op else { return false };
    if f.kind > unary::ELU || !take_layer(program, readers, x, id) {
        return false;
    }
    if let Some(gemm) = layer_mut(program, id) {
        gemm.activation = f;
    }
    true
}

/// Scale and shift behind a layer without activation.
fn affine_into_layer(program: &mut Program, readers: &Readers, id: ValueId) -> bool {
    let Op::Affine { x, scale, shift, inner } = &program.values[id].op else { return false };
    let (x, scale, shift, inner) = (*x, scale.clone(), shift.clone(), *inner);
    let per_row = match &program.values[x].op {
        Op::Gemm { gemm, .. } => per_element(scale.len(), inner, gemm.bias.len()),
        Op::Conv { window, gemm, .. } => {
            let pixels = (window.height_out * window.width_out) as usize;
            match scale.len() {
                1 => Some(vec![0; gemm.bias.len()]),
                n if n == gemm.bias.len() && inner == pixels => Some((0..n).collect()),
                _ => None,
            }
        }
        _ => None,
    };
    let Some(per_row) = per_row else { return false };
    if !take_layer(program, readers, x, id) {
        return false;
    }
    let Some(gemm) = layer_mut(program, id) else { return true };
    let n_in = gemm.n_in();
    for (row, &place) in gemm.weights.chunks_mut(n_in.max(1)).zip(&per_row) {
        row.iter_mut().for_each(|weight| *weight *= scale[place]);
    }
    for (bias, &place) in gemm.bias.iter_mut().zip(&per_row) {
        *bias = (f64::from(*bias) * f64::from(scale[place]) + f64::from(shift[place])) as f32;
    }
    true
}

/// For each of `n` elements its place among `len` values that repeat `inner` times each, when every row of `n`
/// sees the same ones.
fn per_element(len: usize, inner: usize, n: usize) -> Option<Vec<usize>> {
    if len == 1 {
        return Some(vec![0; n]);
    }
    n.is_multiple_of(len * inner).then(|| (0..n).map(|j| j / inner % len).collect())
}

/// Scale and shift in front of a Gemm, as observation normalisation has it.
fn affine_before_gemm(program: &mut Program, readers: &Readers, id: ValueId) -> bool {
    let Op::Gemm { x, gemm, .. } = &program.values[id].op else { return false };
    let (x, n_in) = (*x, gemm.n_in());
    let Op::Affine { x: input, scale, shift, inner } = &program.values[x].op else { return false };
    // A chain of Affine steps acts together: the shift that counts is scaled by all behind it.
    if readers.uses[x] != 1 || !shift.iter().all(|shift| shift.abs() <= MAX_FOLDED_SHIFT) {
        return false;
    }
    let Some(places) = per_element(scale.len(), *inner, n_in) else { return false };
    let input = *input;
    let scale: Vec<f32> = places.iter().map(|&place| scale[place]).collect();
    let shift: Vec<f32> = places.iter().map(|&place| shift[place]).collect();
    if amplified_shift(program, readers, input, &scale) > MAX_FOLDED_SHIFT {
        return false;
    }
    let Op::Gemm { gemm, x, .. } = &mut program.values[id].op else { return false };
    for (row, bias) in gemm.weights.chunks_mut(scale.len().max(1)).zip(&mut gemm.bias) {
        let dot: f64 = row.iter().zip(&shift).map(|(&w, &s)| f64::from(w) * f64::from(s)).sum();
        *bias = (f64::from(*bias) + dot) as f32;
        row.iter_mut().zip(&scale).for_each(|(weight, scale)| *weight *= scale);
    }
    *x = input;
    true
}

/// Largest shift of the Affine step at `id`, seen behind a further scale; 0 when it is none.
fn amplified_shift(program: &Program, readers: &Readers, id: ValueId, scale: &[f32]) -> f32 {
    match &program.values[id].op {
        Op::Affine { shift, .. } if readers.uses[id] == 1 => {
            let largest = scale.iter().fold(0.0f32, |largest, scale| largest.max(scale.abs()));
            if shift.len() == scale.len() {
                shift.iter().zip(scale).map(|(shift, scale)| (shift * scale).abs()).fold(0.0, f32::max)
            } else {
                shift.iter().map(|shift| (shift * largest).abs()).fold(0.0, f32::max)
            }
        }
        _ => 0.0,
    }
}

/// Rows of a Gemm that no Slice reads.
fn trim_gemm(program: &mut Program, readers: &Readers, id: ValueId) -> bool {
    let Op::Gemm { rows: 1, gemm, .. } = &program.values[id].op else { return false };
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
    if slices.len() != readers.uses[id] as usize || slices.is_empty() || covered {
        return false;
    }
    for user in slices {
        if let Op::Slice { start, .. } = &mut program.values[user].op {
            *start -= first;
        }
    }
    let value = &mut program.values[id];
    if let Op::Gemm { gemm, .. } = &mut value.op {
        let n_in = gemm.n_in();
        gemm.weights = gemm.weights[first * n_in..end * n_in].to_vec();
        gemm.bias = gemm.bias[first..end].to_vec();
        value.len = end - first;
    }
    true
}

fn layer_mut(program: &mut Program, id: ValueId) -> Option<&mut Gemm> {
    match &mut program.values[id].op {
        Op::Gemm { gemm, .. } | Op::Conv { gemm, .. } => Some(gemm),
        _ => None,
    }
}

/// Moves the Gemm or Conv at `from` to `to`, when it has no activation and one reader.
fn take_layer(program: &mut Program, readers: &Readers, from: ValueId, to: ValueId) -> bool {
    match &program.values[from].op {
        Op::Gemm { gemm, .. } | Op::Conv { gemm, .. }
            if gemm.activation == Function::NONE && readers.uses[from] == 1 => {}
        _ => return false,
    }
    program.values[to].op = std::mem::replace(&mut program.values[from].op, Op::Input);
    true
}
