//! The operators of a policy image, run over an arena that the caller provides.

use crate::{functions, kernels};
use core::ops::Range;
use tendon_wire::image::{
    GEMM_ROWS, Operator, Plan, View, Window, activation_words, binary, opcode, operand, pool,
    quantized_block_words, reduce, unary,
};

/// Largest arena, `f32`: bounds every range before it is trusted.
pub(crate) const MAX_ARENA: u32 = 1 << 20;
/// Most elementary steps of one inference, beyond any tick: bounds the self-test of a foreign image.
const MAX_WORK: u64 = 1 << 27;

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
        check(plan.state_len <= plan.arena_len, "state_len", plan.state_len)?;
        let mut work = 0u64;
        for (row, operator) in operators.iter().enumerate() {
            let shape = check_operator(operator, weights, plan.arena_len);
            let shape = shape.map_err(|(field, value)| NetworkError { row: row as u32, field, value })?;
            work = work.saturating_add(shape.work);
        }
        check(work <= MAX_WORK, "work", work.min(u32::MAX.into()) as u32)?;
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

    /// Forgets the state that survives inferences.
    pub fn reset(&self, arena: &mut [f32]) {
        let state = arena.get_mut(..self.plan.state_len as usize);
        state.unwrap_or(&mut []).iter_mut().for_each(|place| *place = 0.0);
    }

    /// Runs the network. `arena`: at least `plan.arena_len`; its first `plan.state_len` elements are the
    /// state ([`Network::reset`] before the first run), what else it holds does not matter.
    /// `input`: `[n_inputs]`. Returns the output `[n_outputs]` inside the arena, or `None` when a
    /// length does not fit.
    pub fn run<'m>(&self, input: &[f32], arena: &'m mut [f32]) -> Option<&'m [f32]> {
        let place = arena.get_mut(range(self.plan.input, self.plan.n_inputs))?;
        if input.len() != place.len() {
            return None;
        }
        kernels::copy(input, place);
        for operator in self.operators {
            match operator.opcode {
                opcode::GEMM => self.gemm(operator, arena)?,
                opcode::GEMM_8W16A => self.quantized_gemm(operator, arena)?,
                _ => self.step(operator, arena)?,
            }
        }
        arena.get(range(self.plan.output, self.plan.n_outputs))
    }

    fn gemm(&self, op: &Operator, arena: &mut [f32]) -> Option<()> {
        let [_, n_in, n_out, ..] = op.dims;
        let (operands, y) = self.split(op, 0, arena)?;
        let x = operands.first(op)?;
        let rows = padded_rows(n_out);
        let w = self.weights.get(range(op.weights, rows.wrapping_mul(n_in)))?;
        let b = self.weights.get(range(op.bias, rows))?;
        match (op.kind == unary::RELU, op.dims[0] == 1) {
            (true, true) => kernels::gemm_relu(w, b, x, y),
            (false, true) => kernels::gemm_linear(w, b, x, y),
            (relu, false) => kernels::gemm_batch(relu, [w, b], x, y, [n_in as usize, n_out as usize]),
        }
        if op.kind > unary::RELU {
            functions::map(op.kind, op.alpha, op.beta, y);
        }
        Some(())
    }

    fn quantized_gemm(&self, op: &Operator, arena: &mut [f32]) -> Option<()> {
        let [n_in, rows, ..] = op.dims;
        let (operands, y) = self.split(op, 0, arena)?;
        let w = words(self.weights.get(range(op.weights, quantized_words(n_in, rows)?))?)?;
        let x = words(operands.first(op)?)?;
        match op.kind {
            0 => kernels::quantized::gemm_to_i16::<false>(w, x, words_mut(y)?),
            1 => kernels::quantized::gemm_to_i16::<true>(w, x, words_mut(y)?),
            _ => kernels::quantized::gemm_to_f32(w, x, y),
        }
        Some(())
    }

    #[inline(never)]
    fn step(&self, op: &Operator, arena: &mut [f32]) -> Option<()> {
        let [_, d1, d2, d3, _] = op.dims.map(|dim| dim as usize);
        let axis = [d1, d2];
        if in_place(op.opcode) {
            let constant = op.constant & operand::INPUT != 0;
            if constant || op.input != op.output {
                let (x, y) = self.split(op, 0, arena)?;
                kernels::copy(x.first(op)?, y);
            }
            match op.opcode {
                opcode::AFFINE => {
                    let y = arena.get_mut(range(op.output, op.n_out))?;
                    kernels::zip(y, self.weights.get(range(op.weights, op.dims[0]))?, d1, |y, s| y * s);
                    kernels::zip(y, self.weights.get(range(op.bias, op.dims[0]))?, d1, |y, s| y + s);
                }
                opcode::BINARY => {
                    let (operands, y) = self.split(op, 0, arena)?;
                    functions::zip(op.kind, y, operands.second(op, op.dims[0])?, d1);
                }
                opcode::LSTM => {
                    let (operands, y) = self.split(op, 0, arena)?;
                    kernels::lstm(operands.second(op, op.n_in.wrapping_mul(4))?, y);
                }
                opcode::SCATTER => {
                    let (operands, y) = self.split(op, 0, arena)?;
                    let each = op.kind & 1 != 0;
                    let updates = op.dims[0].wrapping_mul(op.dims[3]).wrapping_mul(op.dims[2]);
                    let indices = operands.second(op, if each { updates } else { op.dims[3] })?;
                    kernels::scatter(
                        op.kind >> 1,
                        y,
                        indices,
                        operands.third(op, updates)?,
                        [d1, d2, d3],
                        each,
                    );
                }
                _ => {
                    let y = arena.get_mut(range(op.output, op.n_out))?;
                    match op.opcode {
                        opcode::UNARY => functions::map(op.kind, op.alpha, op.beta, y),
                        opcode::CUMULATE => kernels::cumulate(op.kind, y, axis),
                        _ => kernels::softmax(op.kind != 0, y, axis),
                    }
                }
            }
            return Some(());
        }
        if op.opcode == opcode::CONV {
            return self.conv(op, arena);
        }
        let (operands, y) = self.split(op, 0, arena)?;
        if op.opcode == opcode::FILL {
            y.iter_mut().for_each(|place| *place = op.alpha);
            return Some(());
        }
        let x = operands.first(op)?;
        match op.opcode {
            opcode::SELECT => {
                let (b, c) = (operands.second(op, op.n_out)?, operands.third(op, op.n_out)?);
                for ((place, &x), (&b, &c)) in y.iter_mut().zip(x).zip(b.iter().zip(c)) {
                    *place = if x != 0.0 { b } else { c };
                }
            }
            opcode::MOVE => kernels::move_view(self.record(op.weights)?, x, y),
            opcode::GATHER => kernels::gather(x, self.weights.get(range(op.weights, op.n_out))?, y),
            opcode::TAKE => {
                let each = op.kind != 0;
                let indices = operands.second(op, if each { op.n_out } else { op.dims[3] })?;
                kernels::take(x, indices, y, [d1, d2, d3], each);
            }
            opcode::REDUCE => kernels::reduce(op.kind, x, y, axis),
            opcode::ARG => kernels::arg(op.kind, x, y, axis),
            opcode::TOP => kernels::top(op.kind, x, y, axis, d3),
            opcode::MATMUL => {
                let (m, n) = (d1.wrapping_mul(d2), d2.wrapping_mul(d3));
                let right = if op.kind & 4 != 0 { op.dims[2] } else { op.dims[0].wrapping_mul(op.dims[2]) };
                let b = operands.second(op, right.wrapping_mul(op.dims[3]))?;
                for (index, y) in y.chunks_mut(d1.wrapping_mul(d3).max(1)).enumerate() {
                    let a = if op.kind & 2 != 0 { 0 } else { index.wrapping_mul(m) };
                    let a = x.get(a..a.saturating_add(m))?;
                    let from = if op.kind & 4 != 0 { 0 } else { index.wrapping_mul(n) };
                    let b = b.get(from..from.saturating_add(n))?;
                    kernels::matmul(a, b, y, [d2, d3], op.kind & 1 != 0);
                }
            }
            opcode::POOL => kernels::pool(op.kind, self.record(op.input_b)?, x, y),
            opcode::QUANTIZE => kernels::quantized::quantize(x, op.alpha, words_mut(y)?),
            _ => {}
        }
        Some(())
    }

    fn conv(&self, op: &Operator, arena: &mut [f32]) -> Option<()> {
        let w: &Window = self.record(op.input_b)?;
        let shape = conv_sizes(w)?;
        let (operands, out) = self.split(op, shape.room, arena)?;
        let x = operands.first(op)?;
        let (y, room) = out.split_at_mut_checked(op.n_out as usize)?;
        let parameters = [
            self.weights.get(range(op.weights, shape.weights))?,
            self.weights.get(range(op.bias, shape.bias))?,
        ];
        kernels::conv(w, parameters, x, y, room);
        functions::map(op.kind, op.alpha, op.beta, y);
        Some(())
    }

    /// The output with `room` behind it, and everything around it to take operands from.
    #[inline(always)]
    fn split<'m>(
        &self,
        op: &Operator,
        room: u32,
        arena: &'m mut [f32],
    ) -> Option<(Operands<'m>, &'m mut [f32])>
    where
        'a: 'm,
    {
        let (before, rest) = arena.split_at_mut_checked(op.output as usize)?;
        let (y, after) = rest.split_at_mut_checked(op.n_out.wrapping_add(room) as usize)?;
        Some((Operands { before, after, from: before_len(op, room), weights: self.weights }, y))
    }

    /// A record that lies in the weights.
    pub(crate) fn record<T: bytemuck::Pod>(&self, start: u32) -> Option<&'a T> {
        record(self.weights, start)
    }
}

/// What an operator may read: the arena on both sides of its output, and the weights.
struct Operands<'m> {
    before: &'m [f32],
    after: &'m [f32],
    /// Where `after` starts in the arena.
    from: u32,
    weights: &'m [f32],
}

impl<'m> Operands<'m> {
    fn get(&self, constant: bool, start: u32, len: u32) -> Option<&'m [f32]> {
        if constant {
            return self.weights.get(range(start, len));
        }
        match start.checked_sub(self.from) {
            Some(start) => self.after.get(range(start, len)),
            None => self.before.get(range(start, len)),
        }
    }

    fn first(&self, op: &Operator) -> Option<&'m [f32]> {
        self.get(op.constant & operand::INPUT != 0, op.input, op.n_in)
    }

    fn second(&self, op: &Operator, len: u32) -> Option<&'m [f32]> {
        self.get(op.constant & operand::B != 0, op.input_b, len)
    }

    fn third(&self, op: &Operator, len: u32) -> Option<&'m [f32]> {
        self.get(op.constant & operand::C != 0, op.input_c, len)
    }
}

fn before_len(op: &Operator, room: u32) -> u32 {
    op.output.saturating_add(op.n_out).saturating_add(room)
}

/// Operators that write over a copy of their first operand, or over the operand itself.
fn in_place(opcode: u8) -> bool {
    matches!(
        opcode,
        opcode::UNARY
            | opcode::AFFINE
            | opcode::BINARY
            | opcode::CUMULATE
            | opcode::SOFTMAX
            | opcode::SCATTER
            | opcode::LSTM
    )
}

/// Rows of a packed Gemm matrix with `n_out` rows.
pub(crate) fn padded_rows(n_out: u32) -> u32 {
    n_out.next_multiple_of(GEMM_ROWS as u32)
}

fn range(start: u32, len: u32) -> Range<usize> {
    let start = start as usize;
    start..start.saturating_add(len as usize)
}

fn record<T: bytemuck::Pod>(weights: &[f32], start: u32) -> Option<&T> {
    let words = (size_of::<T>() / size_of::<f32>()) as u32;
    let bytes = bytemuck::try_cast_slice(weights.get(range(start, words))?).ok()?;
    bytemuck::try_from_bytes::<T>(bytes).ok()
}

/// Words that hold integers.
fn words(values: &[f32]) -> Option<&[u32]> {
    bytemuck::try_cast_slice(values).ok()
}

fn words_mut(values: &mut [f32]) -> Option<&mut [u32]> {
    bytemuck::try_cast_slice_mut(values).ok()
}

/// Words of a matrix with 8-bit weights.
fn quantized_words(n_in: u32, rows: u32) -> Option<u32> {
    let blocks = rows.div_ceil(GEMM_ROWS as u32);
    blocks.checked_mul(u32::try_from(quantized_block_words(n_in as usize)).ok()?)
}

fn inside(start: u32, len: u32, total: u32) -> bool {
    start.checked_add(len).is_some_and(|end| end <= total)
}

fn disjoint(a: u32, a_len: u32, b: u32, b_len: u32) -> bool {
    a.saturating_add(a_len) <= b || b.saturating_add(b_len) <= a
}

fn product(factors: &[u32]) -> Option<u32> {
    factors.iter().try_fold(1u32, |product, &factor| product.checked_mul(factor))
}

/// What an operator reads and writes, in elements; 0: nothing.
#[derive(Clone, Copy, Default)]
struct Shape {
    input: u32,
    b: u32,
    c: u32,
    output: u32,
    /// Behind the output, overwritten.
    room: u32,
    weights: u32,
    bias: u32,
    /// Elementary steps.
    work: u64,
}

fn work(factors: &[u32]) -> u64 {
    factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor.into()))
}

/// Sizes by the fields of a record. Inner `None`: they overflow.
fn shape(op: &Operator, weights: &[f32]) -> Result<Option<Shape>, (&'static str, u32)> {
    let kind = |last: u8| if op.kind <= last { Ok(()) } else { Err(("kind", op.kind.into())) };
    let [d0, d1, d2, d3, _] = op.dims;
    let same = Shape { input: op.n_in, output: op.n_in, work: op.n_in.into(), ..Shape::default() };
    let axis = product(&[d0, d1, d2]);
    Ok(match op.opcode {
        opcode::GEMM => {
            kind(unary::ELU)?;
            let rows = d2.checked_next_multiple_of(GEMM_ROWS as u32).ok_or(("dims", d2))?;
            (|| {
                Some(Shape {
                    input: product(&[d0, d1])?,
                    output: product(&[d0, d2])?,
                    weights: product(&[rows, d1])?,
                    bias: rows,
                    work: work(&[d0, d1, rows]),
                    ..Shape::default()
                })
            })()
        }
        opcode::UNARY => {
            kind(unary::LAST)?;
            if op.kind == unary::CLIP && op.alpha.partial_cmp(&op.beta).is_none_or(|order| order.is_gt()) {
                return Err(("alpha", op.alpha.to_bits()));
            }
            Some(same)
        }
        opcode::AFFINE | opcode::BINARY => {
            kind(if op.opcode == opcode::AFFINE { 0 } else { binary::LAST })?;
            let period = product(&[d0, d1]).filter(|&period| period > 0 && op.n_in.is_multiple_of(period));
            let affine = op.opcode == opcode::AFFINE;
            let (weights, b) = if affine { (d0, 0) } else { (0, d0) };
            period.map(|_| Shape { weights, bias: weights, b, ..same })
        }
        opcode::SELECT => Some(Shape { b: op.n_in, c: op.n_in, ..same }),
        opcode::MOVE => {
            let view: &View = record(weights, op.weights).ok_or(("weights", op.weights))?;
            let moved = product(&view.dims).filter(|&moved| moved > 0 && moved <= MAX_ARENA);
            let inside = reaches(&view.dims, &view.from, view.from_offset, op.n_in)
                && reaches(&view.dims, &view.to, view.to_offset, op.n_out);
            moved.filter(|_| inside).map(|moved| Shape {
                input: op.n_in,
                output: op.n_out,
                weights: (size_of::<View>() / 4) as u32,
                work: moved.into(),
                ..Shape::default()
            })
        }
        opcode::FILL => Some(Shape { output: op.n_out, work: op.n_out.into(), ..Shape::default() }),
        opcode::GATHER => {
            let table = weights.get(range(op.weights, op.n_out)).ok_or(("weights", op.weights))?;
            match table.iter().find(|index| index.to_bits() >= op.n_in) {
                Some(index) => return Err(("table", index.to_bits())),
                None => Some(Shape { output: op.n_out, weights: op.n_out, work: op.n_out.into(), ..same }),
            }
        }
        opcode::TAKE => {
            kind(1)?;
            (|| {
                let output = product(&[d0, d3, d2])?;
                let b = if op.kind == 0 { d3 } else { output };
                Some(Shape { input: axis?, output, b, work: output.into(), ..Shape::default() })
            })()
        }
        opcode::SCATTER => {
            kind(9)?;
            (|| {
                let c = product(&[d0, d3, d2])?;
                let b = if op.kind & 1 == 0 { d3 } else { c };
                let work = u64::from(op.n_in) + u64::from(c);
                Some(Shape { input: axis?, output: axis?, b, c, work, ..Shape::default() })
            })()
        }
        opcode::REDUCE | opcode::ARG => {
            kind(if op.opcode == opcode::ARG { 3 } else { reduce::LAST })?;
            axis.zip(product(&[d0, d2])).map(|(input, output)| Shape { input, output, ..same })
        }
        opcode::TOP => {
            kind(1)?;
            if d3 > d1 {
                return Err(("dims", d3));
            }
            let output = product(&[d0, d3, d2]);
            axis.zip(output).map(|(input, output)| Shape { input, output, work: work(&[output, d1]), ..same })
        }
        opcode::CUMULATE | opcode::SOFTMAX => {
            kind(if op.opcode == opcode::CUMULATE { 7 } else { 1 })?;
            axis.map(|axis| Shape { input: axis, output: axis, ..same })
        }
        opcode::MATMUL => {
            kind(7)?;
            (|| {
                let once = |bit: u8| if op.kind & bit != 0 { 1 } else { d0 };
                Some(Shape {
                    input: product(&[once(2), d1, d2])?,
                    b: product(&[once(4), d2, d3])?,
                    output: product(&[d0, d1, d3])?,
                    work: work(&[d0, d1, d2, d3]),
                    ..Shape::default()
                })
            })()
        }
        opcode::CONV => {
            kind(unary::ELU)?;
            let w: &Window = record(weights, op.input_b).ok_or(("input_b", op.input_b))?;
            conv_sizes(w).and_then(|sizes| {
                Some(Shape {
                    input: product(&[d0, w.channels, w.height, w.width])?,
                    output: product(&[d0, w.channels_out, w.height_out, w.width_out])?,
                    work: work(&[d0, sizes.weights, w.height_out, w.width_out]),
                    ..sizes
                })
            })
        }
        opcode::POOL => {
            kind(pool::LAST)?;
            let w: &Window = record(weights, op.input_b).ok_or(("input_b", op.input_b))?;
            conv_sizes(w).filter(|_| w.groups == 1 && w.channels == w.channels_out).and_then(|_| {
                let output = product(&[d0, w.channels, w.height_out, w.width_out])?;
                Some(Shape {
                    input: product(&[d0, w.channels, w.height, w.width])?,
                    output,
                    work: work(&[output, w.kernel_h, w.kernel_w]),
                    ..Shape::default()
                })
            })
        }
        opcode::QUANTIZE => {
            let output = activation_words(d0 as usize).min(u32::MAX as usize) as u32;
            Some(Shape { input: d0, output, work: d0.into(), ..Shape::default() })
        }
        opcode::GEMM_8W16A => {
            kind(2)?;
            let size = |n: u32| activation_words(n as usize).min(u32::MAX as usize) as u32;
            let output = if op.kind == 2 { d1 } else { size(d1) };
            let len = quantized_words(d0, d1).filter(|_| d0 > 0);
            if let Some(matrix) = len.and_then(|len| words(weights.get(range(op.weights, len))?))
                && !kernels::quantized::sums_fit(matrix, d0 as usize)
            {
                return Err(("weights", op.weights));
            }
            len.map(|weights| Shape {
                input: size(d0),
                output,
                weights,
                work: work(&[d0, d1]),
                ..Shape::default()
            })
        }
        opcode::LSTM => {
            kind(0)?;
            (|| {
                let (b, output) = (op.n_in.checked_mul(4)?, op.n_in.checked_mul(2)?);
                Some(Shape { b, output, work: work(&[b, 8]), ..same })
            })()
        }
        _ => return Err(("opcode", op.opcode.into())),
    })
}

/// Weights, bias and room of a Conv, when its window is one: sizes within bounds, and windows no further
/// out than the kernel reaches.
fn conv_sizes(w: &Window) -> Option<Shape> {
    const MOST: u32 = 1 << 15;
    let sizes = [
        w.channels,
        w.height,
        w.width,
        w.channels_out,
        w.height_out,
        w.width_out,
        w.kernel_h,
        w.kernel_w,
        w.stride_h,
        w.stride_w,
        w.dilation_h,
        w.dilation_w,
        w.groups,
    ];
    let plausible =
        sizes.iter().all(|&size| (1..=MOST).contains(&size)) && w.pad_top < MOST && w.pad_left < MOST;
    let divides = plausible && w.channels.is_multiple_of(w.groups) && w.channels_out.is_multiple_of(w.groups);
    if !divides || w.reserved != 0 {
        return None;
    }
    let (c_in, c_out) = (w.channels.checked_div(w.groups)?, w.channels_out.checked_div(w.groups)?);
    let patch = product(&[c_in, w.kernel_h, w.kernel_w])?;
    let bias = product(&[w.groups, padded_rows(c_out)])?;
    Some(Shape {
        weights: bias.checked_mul(patch)?,
        bias,
        room: patch.checked_add(c_out)?,
        ..Shape::default()
    })
}

/// Whether every index of a view lies below `len`.
fn reaches(dims: &[u32], strides: &[i32], offset: u32, len: u32) -> bool {
    let (mut low, mut high) = (i64::from(offset), i64::from(offset));
    for (&dim, &stride) in dims.iter().zip(strides) {
        let reach = i64::from(dim).saturating_sub(1).saturating_mul(stride.into());
        low = low.saturating_add(reach.min(0));
        high = high.saturating_add(reach.max(0));
    }
    low >= 0 && high < i64::from(len)
}

fn check_operator(op: &Operator, weights: &[f32], arena_len: u32) -> Result<Shape, (&'static str, u32)> {
    let check = |ok, field, value| if ok { Ok(()) } else { Err((field, value)) };
    let weights_len = weights.len().min(u32::MAX as usize) as u32;
    check(op.constant < 8, "constant", op.constant.into())?;
    check(
        op.alpha.is_finite() || op.opcode == opcode::UNARY || op.opcode == opcode::FILL,
        "alpha",
        op.alpha.to_bits(),
    )?;
    let shape = shape(op, weights)?.ok_or(("dims", op.dims[0]))?;
    check(op.n_in == shape.input, "n_in", op.n_in)?;
    check(op.n_out > 0 && op.n_out == shape.output, "n_out", op.n_out)?;
    let out_len = op.n_out.checked_add(shape.room).ok_or(("n_out", op.n_out))?;
    check(inside(op.output, out_len, arena_len), "output", op.output)?;
    check(inside(op.weights, shape.weights, weights_len), "weights", op.weights)?;
    check(inside(op.bias, shape.bias, weights_len), "bias", op.bias)?;
    let operands = [
        ("input", operand::INPUT, op.input, shape.input),
        ("input_b", operand::B, op.input_b, shape.b),
        ("input_c", operand::C, op.input_c, shape.c),
    ];
    for (field, bit, start, len) in operands {
        if len == 0 {
            continue;
        }
        if op.constant & bit != 0 {
            check(inside(start, len, weights_len), field, start)?;
            continue;
        }
        check(inside(start, len, arena_len), field, start)?;
        let over = bit == operand::INPUT && in_place(op.opcode) && start == op.output;
        check(over || disjoint(start, len, op.output, out_len), field, start)?;
    }
    Ok(shape)
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
                dims: [1, n_in as u32, n_out as u32, 0, 0],
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
        let good = Operator { opcode: opcode::UNARY, n_in: 2, n_out: 2, output: 2, ..Operator::zeroed() };
        let plan = plan(2, 2, 2, 4);
        let reject = |operator: Operator, field| {
            assert_eq!(Network::new(&[operator], &[], &plan).unwrap_err().field, field);
        };
        assert!(Network::new(&[good], &[], &plan).is_ok());
        reject(Operator { opcode: 99, ..good }, "opcode");
        reject(Operator { kind: 99, ..good }, "kind");
        reject(Operator { output: 3, ..good }, "output");
        reject(Operator { output: 1, ..good }, "input");
        reject(Operator { n_in: u32::MAX, ..good }, "n_out");
        reject(Operator { constant: operand::INPUT, ..good }, "input");
        reject(Operator { opcode: opcode::GEMM, dims: [1, 2, 2, 0, 0], ..good }, "weights");
        reject(Operator { opcode: opcode::GEMM, dims: [1, 2, u32::MAX - 5, 0, 0], ..good }, "dims");
        reject(Operator { opcode: opcode::BINARY, dims: [2, 1, 0, 0, 0], input_b: 2, ..good }, "input_b");
        reject(Operator { opcode: opcode::BINARY, dims: [3, 1, 0, 0, 0], ..good }, "dims");
        reject(Operator { kind: unary::CLIP, alpha: f32::NAN, ..good }, "alpha");
    }
}
