//! What a network can put out: interval bounds over ranges of its inputs, and how far a search gets.
//!
//! The bounds hold for the arithmetic of the runtime: every step widens its result by its rounding error
//! (Higham, Accuracy and Stability of Numerical Algorithms, 3.5: a sum of n products in `f32` is off by at
//! most `(n + 2) 2^-24` of the sum of their sizes) and by the documented error of its function. They are
//! loose, since intervals forget how inputs belong together; the search shows from the other side what is
//! reached.

use crate::parity::ImageRunner;
use crate::program::each_index;
use crate::random::Random;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{Contract, Network, Policy};
use tendon_wire::image::{Operator, View, Window, binary, opcode, operand, pool, reduce, signal, unary};

/// Lowest and highest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Lowest.
    pub low: f64,
    /// Highest.
    pub high: f64,
}

/// Anything.
const ALL: Range = Range { low: f64::NEG_INFINITY, high: f64::INFINITY };
/// Half a unit in the last place of `f32`, relative.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;
/// Largest error of a function of the runtime, relative above 1 and absolute below.
const FUNCTION_ERROR: f64 = 1e-6;
/// Rounds of a recurrent network until its state counts as unbounded where it still grows.
const ROUNDS: usize = 64;

impl Range {
    fn new(low: f64, high: f64) -> Self {
        // NaN comes from infinity minus infinity: then nothing is known.
        if low.is_nan() || high.is_nan() { ALL } else { Self { low, high } }
    }

    fn point(value: f64) -> Self {
        Self::new(value, value)
    }

    fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    fn size(self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    fn widened(self, by: f64) -> Self {
        if by.is_finite() { Self { low: self.low - by, high: self.high + by } } else { ALL }
    }

    /// As the result of a function or of one rounded operation.
    fn rounded(self) -> Self {
        let error = |value: f64| if value.is_finite() { FUNCTION_ERROR * value.abs().max(1.0) } else { 0.0 };
        Self { low: self.low - error(self.low), high: self.high + error(self.high) }
    }

    fn times(self, other: Self) -> Self {
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        let all = [
            product(self.low, other.low),
            product(self.low, other.high),
            product(self.high, other.low),
            product(self.high, other.high),
        ];
        let low = all.iter().copied().fold(f64::INFINITY, f64::min);
        Self::new(low, all.into_iter().fold(f64::NEG_INFINITY, f64::max))
    }

    fn plus(self, other: Self) -> Self {
        Self::new(self.low + other.low, self.high + other.high)
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(f(self.low), f(self.high))
    }
}

/// Range of every input of a policy: clips of the observation terms, limits of joints, actions and commands.
/// Elements that nothing bounds get `+-assumed`; their number comes second.
#[must_use]
pub fn input_ranges(policy: &Policy<'_>, spec: Option<&ContractSpec>, assumed: f64) -> (Vec<Range>, usize) {
    let mut ranges = Vec::new();
    let mut open = 0;
    let Some(contract) = policy.contract else {
        let n = policy.network.plan().n_inputs as usize;
        return (vec![Range::new(-assumed, assumed); n], n);
    };
    for term in contract.terms {
        let (width, frames) = (usize::from(term.width), usize::from(term.history));
        let values = contract.values.get(term.values as usize..).unwrap_or(&[]);
        let at = |block: usize, element: usize| {
            values.get(block * width + element).copied().map_or(0.0, f64::from)
        };
        let frame: Vec<Range> = (0..width)
            .map(|element| {
                let raw = signal_range(&contract, spec, term.signal, usize::from(term.first) + element);
                let scale = Range::point(at(0, element));
                let scaled = raw.map_or(ALL, |raw| raw.times(scale).plus(Range::point(at(1, element))));
                let (low, high) = (at(2, element), at(3, element));
                let range = Range::new(scaled.low.clamp(low, high), scaled.high.clamp(low, high));
                // Bounds as wide as `f32` are none.
                if range.size() < 1e30 {
                    return range;
                }
                open += frames;
                Range::new(-assumed, assumed)
            })
            .collect();
        (0..frames).for_each(|_| ranges.extend(&frame));
    }
    (ranges, open)
}

fn signal_range(
    contract: &Contract<'_>,
    spec: Option<&ContractSpec>,
    kind: u8,
    index: usize,
) -> Option<Range> {
    let joint = contract.joints.get(index);
    let position = joint.map(|joint| Range::new(joint.position_min.into(), joint.position_max.into()));
    let input = |inputs: &[tendon_runtime::spec::InputSpec]| {
        let [low, high] = inputs.get(index)?.range;
        Some(Range::new(low.into(), high.into()))
    };
    match kind {
        signal::PROJECTED_GRAVITY | signal::BASE_ORIENTATION => Some(Range::new(-1.1, 1.1)),
        signal::JOINT_SIN | signal::JOINT_COS => Some(Range::new(-1.0, 1.0).rounded()),
        signal::JOINT_POSITION => position,
        signal::JOINT_POSITION_RELATIVE => {
            Some(position?.plus(Range::point(-f64::from(joint?.default_position))).rounded())
        }
        signal::JOINT_VELOCITY => {
            joint.map(|joint| Range::new((-joint.velocity_limit).into(), joint.velocity_limit.into()))
        }
        // The raw action comes before its clip: the network's own output.
        signal::COMMAND => input(&spec?.commands),
        signal::PREFERENCE => input(&spec?.preferences),
        _ => None,
    }
}

/// Bounds of every output when each input lies in its range, after any number of inferences.
#[must_use]
pub fn output_bounds(network: &Network<'_>, inputs: &[Range]) -> Vec<Range> {
    let plan = network.plan();
    let mut arena = vec![Range::point(0.0); plan.arena_len as usize];
    let state_len = plan.state_len as usize;
    let mut state = vec![Range::point(0.0); state_len];
    for round in 0.. {
        arena[..state_len].copy_from_slice(&state);
        if let Some(place) = arena.get_mut(plan.input as usize..(plan.input + plan.n_inputs) as usize) {
            place.copy_from_slice(inputs);
        }
        for operator in network.operators() {
            step(network.weights(), operator, &mut arena);
        }
        let next: Vec<Range> = state.iter().zip(&arena).map(|(old, &new)| old.hull(new)).collect();
        if next == state || round > ROUNDS {
            break;
        }
        // What still grows near the end may grow for ever.
        let grows = |(old, new): (&Range, Range)| {
            let low = if new.low < old.low { f64::NEG_INFINITY } else { new.low };
            let high = if new.high > old.high { f64::INFINITY } else { new.high };
            Range { low, high }
        };
        state = if round + 8 < ROUNDS { next } else { state.iter().zip(next).map(grows).collect() };
    }
    let start = plan.output as usize;
    arena.get(start..start + plan.n_outputs as usize).unwrap_or(&[]).to_vec()
}

/// The record at a place of the weights.
fn record<T: bytemuck::Pod>(weights: &[f32], start: u32) -> Option<T> {
    let words = size_of::<T>() / size_of::<f32>();
    let words = weights.get(start as usize..start as usize + words)?;
    Some(bytemuck::pod_read_unaligned(bytemuck::cast_slice(words)))
}

/// One operator over intervals. Its ranges were checked when the image was parsed.
fn step(weights: &[f32], op: &Operator, arena: &mut [Range]) {
    let get = |constant: u16, start: u32, len: usize| -> Vec<Range> {
        let start = start as usize;
        if op.constant & constant != 0 {
            let values = weights.get(start..start + len).unwrap_or(&[]);
            return values.iter().map(|&value| Range::point(value.into())).collect();
        }
        arena.get(start..start + len).unwrap_or(&[]).to_vec()
    };
    let (n_in, n_out) = (op.n_in as usize, op.n_out as usize);
    let [d0, d1, d2, d3, _] = op.dims.map(|dim| dim as usize);
    let x = get(operand::INPUT, op.input, n_in);
    let numbers = |start: u32, len: usize| weights.get(start as usize..start as usize + len).unwrap_or(&[]);
    // The index of element `j` along the axis in line `line` of `[d0, n, d2]`.
    let lines = |n: usize| (0..d0 * d2).map(move |line| (line / d2 * n * d2 + line % d2, n));
    let along = |values: &[Range], (first, n): (usize, usize)| -> Vec<Range> {
        (0..n).map(|j| values[first + j * d2]).collect()
    };
    let result: Vec<Range> = match op.opcode {
        opcode::GEMM => {
            let rows = d2.next_multiple_of(4);
            let (w, b) = (numbers(op.weights, rows * d1), numbers(op.bias, rows));
            let row = |x: &[Range], r: usize| {
                let row = (0..d1).map(|k| f64::from(w[r / 4 * 4 * d1 + k * 4 + r % 4]));
                activated(op, affine(row, x, b[r].into()))
            };
            x.chunks(d1.max(1)).flat_map(|x| (0..d2).map(move |r| row(x, r)).collect::<Vec<_>>()).collect()
        }
        opcode::UNARY => x.iter().map(|&x| function(op.kind, op.alpha.into(), op.beta.into(), x)).collect(),
        opcode::AFFINE => {
            let (scale, shift) = (numbers(op.weights, d0), numbers(op.bias, d0));
            let place = |i: usize| i / d1.max(1) % d0.max(1);
            let one = |(i, x): (usize, &Range)| {
                let scaled = x.times(Range::point(scale[place(i)].into())).rounded();
                scaled.plus(Range::point(shift[place(i)].into())).rounded()
            };
            x.iter().enumerate().map(one).collect()
        }
        opcode::BINARY => {
            let b = get(operand::B, op.input_b, d0);
            let pair = |(i, &x): (usize, &Range)| pair(op.kind, x, b[i / d1.max(1) % d0.max(1)]);
            x.iter().enumerate().map(pair).collect()
        }
        opcode::SELECT => {
            let (b, c) = (get(operand::B, op.input_b, n_out), get(operand::C, op.input_c, n_out));
            b.into_iter().zip(c).map(|(b, c)| b.hull(c)).collect()
        }
        opcode::MOVE => {
            let mut y = get(0, op.output, 0);
            y.extend(&arena[op.output as usize..op.output as usize + n_out]);
            if let Some(view) = record::<View>(weights, op.weights) {
                each_index(&view, |from, to| y[to] = x[from]);
            }
            y
        }
        opcode::FILL => vec![Range::point(op.alpha.into()); n_out],
        opcode::GATHER => {
            let table = numbers(op.weights, n_out);
            table.iter().map(|index| x[index.to_bits() as usize]).collect()
        }
        // Which element it is depends on data: any of the line.
        opcode::TAKE => {
            let hulls: Vec<Range> = lines(d1).map(|line| hull(&along(&x, line))).collect();
            (0..n_out).map(|i| hulls[i / (d3 * d2).max(1) * d2 + i % d2.max(1)]).collect()
        }
        opcode::SCATTER => vec![ALL; n_out],
        opcode::REDUCE => lines(d1)
            .map(|line| {
                let values = along(&x, line);
                let ones = std::iter::repeat_n(1.0, values.len());
                match op.kind {
                    reduce::SUM => affine(ones, &values, 0.0),
                    reduce::MEAN => {
                        affine(ones, &values, 0.0).times(Range::point(1.0 / d1.max(1) as f64)).rounded()
                    }
                    reduce::MAX => extreme(&values, f64::max),
                    reduce::MIN => extreme(&values, f64::min),
                    reduce::PROD => values.iter().fold(Range::point(1.0), |p, &v| p.times(v).rounded()),
                    reduce::L1 => {
                        let sizes: Vec<Range> =
                            values.iter().map(|&v| function(unary::ABS, 0.0, 0.0, v)).collect();
                        affine(ones, &sizes, 0.0)
                    }
                    _ => {
                        let squares: Vec<Range> = values.iter().map(|&v| square(v).rounded()).collect();
                        affine(ones, &squares, 0.0)
                    }
                }
            })
            .collect(),
        opcode::ARG | opcode::TOP => vec![Range::new(0.0, d1.saturating_sub(1) as f64); n_out],
        opcode::CUMULATE => {
            let mut y = vec![ALL; n_out];
            if op.kind & 4 == 0 {
                for line in lines(d1) {
                    let values = along(&x, line);
                    for j in 0..d1 {
                        let part = if op.kind & 2 != 0 { &values[j..] } else { &values[..=j] };
                        let sum = affine(std::iter::repeat_n(1.0, part.len()), part, 0.0);
                        y[line.0 + j * d2] = if op.kind & 1 != 0 {
                            sum.hull(Range::point(0.0)).widened(values[j].size())
                        } else {
                            sum
                        };
                    }
                }
            }
            y
        }
        opcode::SOFTMAX => {
            let range = if op.kind == 0 { Range::new(0.0, 1.0) } else { Range::new(f64::NEG_INFINITY, 0.0) };
            vec![range.rounded(); n_out]
        }
        opcode::MATMUL => {
            let shared = |bit: u8| op.kind & bit != 0;
            let b = get(operand::B, op.input_b, d2 * d3 * if shared(4) { 1 } else { d0 });
            (0..n_out)
                .map(|i| {
                    let (group, row, column) = (i / (d1 * d3), i / d3 % d1, i % d3);
                    let a = &x[(if shared(2) { 0 } else { group * d1 * d2 }) + row * d2..][..d2];
                    let b = &b[if shared(4) { 0 } else { group * d2 * d3 }..];
                    let at = |k: usize| if shared(1) { b[column * d2 + k] } else { b[k * d3 + column] };
                    let products: Vec<Range> = a.iter().enumerate().map(|(k, &a)| a.times(at(k))).collect();
                    affine(std::iter::repeat_n(1.0, d2), &products, 0.0)
                })
                .collect()
        }
        // A word stands for two activations: the range of both.
        opcode::QUANTIZE => pairs(
            x.chunks(2).map(|pair| {
                let scaled = hull(pair).times(Range::point(op.alpha.into())).rounded();
                scaled.map(|x| x.round_ties_even().clamp(-32_768.0, 32_767.0)).widened(1.0)
            }),
            n_out,
        ),
        opcode::GEMM_8W16A => {
            let block = tendon_wire::image::quantized_block_words(d0);
            let words = numbers(op.weights, d1.div_ceil(4) * block);
            let word = |row: usize, place: usize| words[row / 4 * block + place * 4 + row % 4].to_bits();
            let row = |row: usize| {
                let bias = f64::from(word(row, 0) as i32);
                let sum = (0..d0).fold(Range::point(bias), |sum, k| {
                    let byte = word(row, 1 + k / 4).to_le_bytes()[[0, 2, 1, 3][k % 4]] as i8;
                    sum.plus(x[k / 2].times(Range::point(byte.into())))
                });
                let last = word(row, block / 4 - 1);
                if op.kind == 2 {
                    return sum.times(Range::point(f32::from_bits(last).into())).rounded();
                }
                let floor = if op.kind == 1 { 0.0 } else { -32_768.0 };
                let scale = f64::from(last as i32) / 4_294_967_296.0;
                sum.times(Range::point(scale)).widened(1.0).map(|v| v.round().clamp(floor, 32_767.0))
            };
            let rows: Vec<Range> = (0..d1).map(row).collect();
            if op.kind == 2 { rows } else { pairs(rows.chunks(2).map(hull), n_out) }
        }
        opcode::LSTM => {
            let b = get(operand::B, op.input_b, 4 * n_in);
            let of = |kind: u8, x: Range| function(kind, 0.0, 0.0, x);
            let cells: Vec<Range> = (0..n_in)
                .map(|u| {
                    let new = of(unary::SIGMOID, b[u]).times(of(unary::TANH, b[3 * n_in + u])).rounded();
                    let kept = of(unary::SIGMOID, b[2 * n_in + u]).times(x[u]).rounded();
                    new.plus(kept).rounded()
                })
                .collect();
            let shown = |(u, &c): (usize, &Range)| {
                of(unary::SIGMOID, b[n_in + u]).times(of(unary::TANH, c)).rounded()
            };
            let hidden: Vec<Range> = cells.iter().enumerate().map(shown).collect();
            [cells, hidden].concat()
        }
        opcode::CONV | opcode::POOL => match record::<Window>(weights, op.input_b) {
            Some(window) => windows(weights, op, &window, &x),
            None => vec![ALL; n_out],
        },
        _ => vec![ALL; n_out],
    };
    for (place, value) in arena.iter_mut().skip(op.output as usize).zip(result) {
        *place = value;
    }
}

/// Words of activations; what pads them has no weight.
fn pairs(words: impl Iterator<Item = Range>, n: usize) -> Vec<Range> {
    words.chain(std::iter::repeat(Range::point(0.0))).take(n).collect()
}

fn hull(values: &[Range]) -> Range {
    values.iter().copied().reduce(Range::hull).unwrap_or(ALL)
}

fn extreme(values: &[Range], f: fn(f64, f64) -> f64) -> Range {
    let both = values.iter().copied().reduce(|a, b| Range { low: f(a.low, b.low), high: f(a.high, b.high) });
    both.unwrap_or(ALL)
}

fn square(x: Range) -> Range {
    let all = x.times(x);
    if x.low <= 0.0 && x.high >= 0.0 { Range { low: 0.0, ..all } } else { all }
}

/// `sum w x + bias` with the rounding error of the runtime's sum.
fn affine(w: impl Iterator<Item = f64>, x: &[Range], bias: f64) -> Range {
    let (mut sum, mut sizes) = (Range::point(bias), bias.abs());
    for (w, &x) in w.zip(x) {
        let part = x.times(Range::point(w));
        sum = sum.plus(part);
        sizes += part.size();
    }
    sum.widened((x.len() + 2) as f64 * ROUNDING * 1.01 * sizes)
}

fn activated(op: &Operator, x: Range) -> Range {
    function(op.kind, op.alpha.into(), op.beta.into(), x)
}

/// Conv and Pool.
fn windows(weights: &[f32], op: &Operator, w: &Window, x: &[Range]) -> Vec<Range> {
    let n = |value: u32| value as usize;
    let groups = if op.opcode == opcode::POOL { n(w.channels) } else { n(w.groups) };
    let (c_in, c_out) = (n(w.channels) / groups, n(w.channels_out) / groups);
    let (kernel, plane) = (n(w.kernel_h) * n(w.kernel_w), n(w.height) * n(w.width));
    let mut y = Vec::new();
    for image in x.chunks((n(w.channels) * plane).max(1)) {
        for channel in 0..n(w.channels_out) {
            let group = channel / c_out;
            for pixel in 0..n(w.height_out) * n(w.width_out) {
                let (oy, ox) = (pixel / n(w.width_out), pixel % n(w.width_out));
                // Taps inside the image, with their number in the kernel.
                let mut taps = Vec::new();
                for tap in 0..c_in * kernel {
                    let (c, ky, kx) = (tap / kernel, tap % kernel / n(w.kernel_w), tap % n(w.kernel_w));
                    let row = (oy * n(w.stride_h) + ky * n(w.dilation_h)).checked_sub(n(w.pad_top));
                    let column = (ox * n(w.stride_w) + kx * n(w.dilation_w)).checked_sub(n(w.pad_left));
                    if let (Some(row), Some(column)) = (row, column)
                        && row < n(w.height)
                        && column < n(w.width)
                    {
                        taps.push((tap, image[(group * c_in + c) * plane + row * n(w.width) + column]));
                    }
                }
                let values: Vec<Range> = taps.iter().map(|(_, value)| *value).collect();
                let ones = std::iter::repeat_n(1.0, values.len());
                y.push(match (op.opcode, op.kind) {
                    (opcode::POOL, pool::MAX) => extreme(&values, f64::max),
                    (opcode::POOL, pool::SUM) => affine(ones, &values, 0.0),
                    (opcode::POOL, _) => affine(ones, &values, 0.0)
                        .times(Range::point(1.0 / values.len().max(1) as f64))
                        .rounded(),
                    _ => {
                        let (rows, inside) = (c_out.next_multiple_of(4), channel % c_out);
                        let matrix = n(op.weights) + group * rows * c_in * kernel;
                        let block = matrix + inside / 4 * 4 * c_in * kernel;
                        let at = |tap: usize| f64::from(weights[block + tap * 4 + inside % 4]);
                        let bias = weights[n(op.bias) + group * rows + inside];
                        activated(op, affine(taps.iter().map(|(tap, _)| at(*tap)), &values, bias.into()))
                    }
                });
            }
        }
    }
    y
}

/// Largest value below which a function that dips goes down: where its minimum lies, and its value.
fn dip(x: Range, at: f64, lowest: f64, f: impl Fn(f64) -> f64) -> Range {
    let ends = x.map(&f);
    let (low, high) = (ends.low.min(ends.high), ends.low.max(ends.high));
    let low = if (x.low..=x.high).contains(&at) { lowest } else { low };
    // Left of the dip the function comes back to 0 from below.
    Range::new(low, high.max(if x.low < at { f(x.low) } else { low }))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One function of one number.
fn function(kind: u8, alpha: f64, beta: f64, x: Range) -> Range {
    let swish = |x: f64| if x == f64::NEG_INFINITY { 0.0 } else { x * sigmoid(x) };
    let exact = match kind {
        unary::NONE => return x,
        unary::RELU => return x.map(|x| x.max(0.0)),
        unary::CLIP => return x.map(|x| x.clamp(alpha.min(beta), beta)),
        unary::ABS => {
            let (low, high) = (x.low.abs().min(x.high.abs()), x.size());
            return Range::new(if x.low <= 0.0 && x.high >= 0.0 { 0.0 } else { low }, high);
        }
        unary::FLOOR => return x.map(f64::floor),
        unary::CEIL => return x.map(f64::ceil),
        unary::ROUND => return x.map(f64::round_ties_even),
        unary::TRUNC => return x.map(f64::trunc),
        unary::SIGN => return Range::new(-1.0, 1.0),
        unary::NOT | unary::IS_NAN | unary::IS_INF => return Range::new(0.0, 1.0),
        unary::WRAP => return Range::new(beta, beta + alpha),
        unary::TANH => x.map(f64::tanh),
        unary::SIGMOID => x.map(sigmoid),
        unary::SWISH => dip(x, -1.278_464_54, -0.278_464_55, swish),
        unary::ELU if alpha >= 0.0 => x.map(|x| if x > 0.0 { x } else { alpha * x.exp_m1() }),
        unary::LEAKY_RELU if alpha >= 0.0 => x.map(|x| if x < 0.0 { alpha * x } else { x }),
        unary::EXP => x.map(|x| x.clamp(-87.0, 88.0).exp()),
        unary::LOG => x.map(|x| x.max(0.0).ln()),
        unary::SQRT => x.map(|x| x.max(0.0).sqrt()),
        unary::RECIPROCAL if x.low > 0.0 || x.high < 0.0 => Range::new(1.0 / x.high, 1.0 / x.low),
        unary::ERF | unary::SOFTSIGN => Range::new(-1.0, 1.0),
        unary::SIN | unary::COS => Range::new(-1.0, 1.0),
        // x times a factor between 0 and 1 that falls below 0.31 of dip.
        unary::GELU | unary::GELU_TANH => {
            Range::new(x.low.clamp(-0.1701, 0.0).min(x.low.max(-0.1701)), x.high.max(0.0))
        }
        unary::MISH => Range::new(x.low.max(-0.3089), x.high.max(0.0)),
        unary::SOFTPLUS => x.map(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        unary::ATAN => x.map(f64::atan),
        unary::ASINH => x.map(f64::asinh),
        unary::SINH => x.map(f64::sinh),
        unary::ATANH if x.low > -1.0 && x.high < 1.0 => x.map(f64::atanh),
        unary::THRESHOLDED_RELU => x.hull(Range::point(0.0)),
        unary::SHRINK => x.widened(beta.abs()).hull(Range::point(0.0)),
        _ => ALL,
    };
    exact.rounded()
}

/// One function of two numbers.
fn pair(kind: u8, a: Range, b: Range) -> Range {
    let negated = |x: Range| Range::new(-x.high, -x.low);
    let quotient = |a: Range, b: Range| match function(unary::RECIPROCAL, 0.0, 0.0, b) {
        ALL => ALL,
        inverse => a.times(inverse),
    };
    match kind {
        binary::ADD => a.plus(b).rounded(),
        binary::SUB => a.plus(negated(b)).rounded(),
        binary::SUB_FROM => b.plus(negated(a)).rounded(),
        binary::MUL => a.times(b).rounded(),
        binary::DIV => quotient(a, b).rounded(),
        binary::DIV_INTO => quotient(b, a).rounded(),
        binary::MIN => Range::new(a.low.min(b.low), a.high.min(b.high)),
        binary::MAX => Range::new(a.low.max(b.low), a.high.max(b.high)),
        binary::EQUAL..=binary::XOR => Range::new(0.0, 1.0),
        binary::PRELU => a.hull(a.times(b)).rounded(),
        _ => ALL,
    }
}

/// Lowest and highest value of every output that a search finds: random corners of the input ranges, then
/// steps along the sign of the gradient (projected gradient, by finite differences, as the network's own
/// arithmetic has it) from the best of them.
///
/// # Errors
/// What the runner reports.
pub fn search(runner: &mut ImageRunner<'_>, inputs: &[Range], seed: u64) -> Result<Vec<Range>, String> {
    const CORNERS: usize = 256;
    const STEPS: usize = 4;
    let mut random = Random::new(seed);
    let n_outputs = runner.policy().network.plan().n_outputs as usize;
    let ends = |x: &[f32]| x.iter().all(|x| x.is_finite());
    let mut found = vec![(ALL.high, ALL.low); n_outputs];
    let mut best: Vec<[Vec<f32>; 2]> = vec![[Vec::new(), Vec::new()]; n_outputs];
    let mut visit = |runner: &mut ImageRunner<'_>,
                     x: &[f32],
                     best: &mut Vec<[Vec<f32>; 2]>|
     -> Result<Vec<f32>, String> {
        runner.reset();
        let y = runner.run(x)?;
        for ((value, (low, high)), best) in
            y.iter().map(|&y| f64::from(y)).zip(&mut found).zip(best.iter_mut())
        {
            if value < *low {
                *low = value;
                best[0] = x.to_vec();
            }
            if value > *high {
                *high = value;
                best[1] = x.to_vec();
            }
        }
        Ok(y)
    };
    for _ in 0..CORNERS {
        let x: Vec<f32> = inputs
            .iter()
            .map(|range| if random.symmetric() < 0.0 { range.low as f32 } else { range.high as f32 })
            .collect();
        if ends(&x) {
            visit(runner, &x, &mut best)?;
        }
    }
    // The gradient costs one run per input and serves every output.
    for output in 0..n_outputs.min(16) {
        for (side, sign) in [(0usize, -1.0f32), (1, 1.0)] {
            for _ in 0..STEPS {
                let x = best[output][side].clone();
                if x.is_empty() || x.len() > 1024 {
                    break;
                }
                let y = visit(runner, &x, &mut best)?;
                let mut next = x.clone();
                for (index, range) in inputs.iter().enumerate() {
                    let mut moved = x.clone();
                    let width = (range.high - range.low) as f32;
                    let away =
                        if f64::from(x[index]) > (range.low + range.high) / 2.0 { -1e-3 } else { 1e-3 };
                    moved[index] += away * width;
                    let slope = sign * (visit(runner, &moved, &mut best)?[output] - y[output]) * away;
                    if slope != 0.0 {
                        next[index] = if slope > 0.0 { range.high as f32 } else { range.low as f32 };
                    }
                }
                visit(runner, &next, &mut best)?;
            }
        }
    }
    Ok(found.into_iter().map(|(low, high)| Range { low, high }).collect())
}
