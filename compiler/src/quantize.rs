//! Dense layers with 8-bit weights and 16-bit activations: ranges of the activations from recorded
//! observations, one weight scale per row, rounding with feedback of the error; everything else stays `f32`.
//!
//! `real = integer * scale`, symmetric: no zero points (Jacob et al. 2018, eq. 1, with Z = 0; per-row weight
//! scales as Krishnamoorthi 2018, 3.1). Activations of 16 bits leave 15 bits for twice the range seen, so that
//! clipping is rare and its price known.

use crate::error::CompileError;
use crate::program::{Function, Gemm, Op, Program, Value, ValueId, straight};
use crate::{emit, plan};
use tendon_runtime::Network;
use tendon_wire::image::{GEMM_ROWS, QUANTIZED_STEP, activation_words, binary, unary};

/// Activations up to this multiple of the largest one recorded are held without clipping.
const HEADROOM: f32 = 2.0;
/// Largest weight and activation.
const MAX_WEIGHT: f32 = 127.0;
const MAX_ACTIVATION: f32 = 32_767.0;
/// Sums stay below 2^31 in size, with room for the bias' rounding.
const MAX_SUM: f64 = 2_147_000_000.0;

/// What became of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerError {
    /// ONNX node.
    pub name: String,
    /// Inputs.
    pub n_in: usize,
    /// Rows.
    pub n_out: usize,
    /// Root mean square of the weights' rounding error over that of the weights.
    pub weights: f64,
    /// Root mean square of the layer's output error over that of the output, on the recorded observations, all
    /// layers before it quantized too.
    pub output: f64,
    /// Share of the layer's inputs that were clipped.
    pub clipped: f64,
}

/// Result of a quantization.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// Layers in order.
    pub layers: Vec<LayerError>,
    /// The same as a layer's `output`, for the raw actions.
    pub output: f64,
    /// Largest difference of a raw action.
    pub largest: f64,
    /// Observations it was calibrated and judged with.
    pub rows: usize,
}

/// Scale of activations that were up to `largest`.
fn scale_of(largest: f32) -> f32 {
    (largest * HEADROOM).max(1e-6) / MAX_ACTIVATION
}

/// A layer of the quantized program.
struct Layer {
    /// In the program before.
    from: ValueId,
    /// In the program after: `f32`, or activations with this scale.
    to: ValueId,
    scale: Option<f32>,
    weights: f64,
    n_in: usize,
    n_out: usize,
    /// Scale of its input, and what every element is multiplied with before; empty: 1.
    input_scale: f32,
    factors: Vec<f32>,
}

/// Quantizes the dense layers of a program. `rows`: recorded observations, in order.
pub(crate) fn quantize(
    program: &Program,
    rows: &[Vec<f32>],
) -> Result<(Program, Quantization), CompileError> {
    let n_inputs = program.values[0].len;
    let fail = |problem: String| CompileError::Mismatch(format!("quantization: {problem}"));
    if rows.is_empty() || rows.iter().any(|row| row.len() != n_inputs) {
        let found = rows.first().map_or(0, Vec::len);
        return Err(fail(format!(
            "{} recorded observations of {found} elements, the network takes {n_inputs}: record a run of this policy",
            rows.len()
        )));
    }
    let layers: Vec<ValueId> = (0..program.values.len())
        .filter(|&id| matches!(program.values[id].op, Op::Gemm { rows: 1, .. }))
        .collect();
    if layers.is_empty() {
        return Err(fail("the network has no dense layers".into()));
    }
    // What goes into every layer and comes out of it.
    let mut probes = Vec::new();
    for &id in &layers {
        probes.extend(program.values[id].op.operands());
        probes.push(id);
    }
    let seen = run(program, &probes, rows).map_err(fail)?;
    let largest = |index: usize| {
        seen.iter().flat_map(|row| &row.probes[index]).fold(0.0f32, |most, value| most.max(value.abs()))
    };
    let mut builder = Builder::new(program, &layers);
    for id in 0..program.values.len() {
        match (layers.iter().position(|&layer| layer == id), &program.values[id].op) {
            (Some(place), Op::Gemm { x, gemm, .. }) => {
                let inputs: Vec<&[f32]> = seen.iter().map(|row| &*row.probes[2 * place]).collect();
                builder.layer(id, *x, gemm, &inputs, scale_of(largest(2 * place + 1)));
            }
            _ => builder.copy(id),
        }
    }
    let (quantized, changed) = builder.finish();
    let after: Vec<ValueId> = changed.iter().map(|layer| layer.to).collect();
    let judged = run(&quantized, &after, rows).map_err(fail)?;
    let reports = changed.iter().enumerate().map(|(place, layer)| {
        let inputs = || seen.iter().flat_map(|row| row.probes[2 * place].iter().enumerate());
        let beyond = |place: usize, value: f32| {
            let factor = layer.factors.get(place).copied().unwrap_or(1.0);
            (value * factor).abs() > layer.input_scale * 32_768.0
        };
        let clipped = inputs().filter(|(place, value)| beyond(*place, **value)).count();
        let pairs = seen.iter().zip(&judged).flat_map(|(before, after)| {
            let expected = &before.probes[2 * place + 1];
            let found = real(&after.probes[place], layer.scale, expected.len());
            expected.iter().copied().zip(found).collect::<Vec<_>>()
        });
        LayerError {
            name: program.values[layer.from].name.clone(),
            n_in: layer.n_in,
            n_out: layer.n_out,
            weights: layer.weights,
            output: relative(pairs),
            clipped: clipped as f64 / inputs().count().max(1) as f64,
        }
    });
    let layers = reports.collect();
    let pairs = || {
        seen.iter()
            .zip(&judged)
            .flat_map(|(before, after)| before.output.iter().copied().zip(after.output.iter().copied()))
    };
    let result = Quantization {
        layers,
        output: relative(pairs()),
        largest: pairs().map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max),
        rows: rows.len(),
    };
    Ok((quantized.without_dead_values(), result))
}

/// Root mean square of the difference over that of the first.
fn relative(pairs: impl Iterator<Item = (f32, f32)>) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (a, b) in pairs {
        difference += f64::from(a - b).powi(2);
        size += f64::from(a).powi(2);
    }
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}

/// Activations as numbers.
fn real(values: &[f32], scale: Option<f32>, n: usize) -> Vec<f32> {
    match scale {
        None => values.to_vec(),
        Some(scale) => values
            .iter()
            .flat_map(|word| [word.to_bits() as i16, (word.to_bits() >> 16) as i16])
            .map(|element| f32::from(element) * scale)
            .take(n)
            .collect(),
    }
}

/// One inference: what the probes held, and the output.
struct Seen {
    probes: Vec<Vec<f32>>,
    output: Vec<f32>,
}

/// Runs a program on the runtime and looks at values inside it.
fn run(program: &Program, probes: &[ValueId], rows: &[Vec<f32>]) -> Result<Vec<Seen>, String> {
    let mut probed = program.clone();
    let (mut parts, mut len) = (Vec::new(), 0);
    for &id in probes.iter().chain([&program.output]) {
        parts.push((id, straight(program.values[id].len, 0, len)));
        len += program.values[id].len;
    }
    let lens: Vec<usize> = parts.iter().map(|(id, _)| program.values[*id].len).collect();
    probed.values.push(Value { name: String::new(), len, op: Op::Assemble { fill: None, parts } });
    probed.output = probed.values.len() - 1;
    let memory = plan::plan(&probed);
    let emitted = emit::emit(&probed, &memory).map_err(|error| error.to_string())?;
    let network = Network::new(&emitted.operators, &emitted.weights, &emitted.plan);
    let network = network.map_err(|error| error.to_string())?;
    let mut arena = vec![0.0; memory.arena_len];
    rows.iter()
        .map(|row| {
            let mut rest = network.run(row, &mut arena).ok_or("the network does not run")?;
            let mut all = Vec::new();
            for &len in &lens {
                let (own, after) = rest.split_at(len);
                all.push(own.to_vec());
                rest = after;
            }
            let output = all.pop().unwrap_or_default();
            Ok(Seen { probes: all, output })
        })
        .collect()
}

/// Writes the quantized program.
struct Builder<'p> {
    old: &'p Program,
    new: Program,
    /// Place of each old value as `f32`.
    place: Vec<ValueId>,
    /// Its activations with their scale, where there are some.
    activations: Vec<Option<(ValueId, f32)>>,
    /// Values that only quantized layers read.
    inner: Vec<bool>,
    layers: Vec<Layer>,
}

impl<'p> Builder<'p> {
    fn new(old: &'p Program, layers: &[ValueId]) -> Self {
        let n = old.values.len();
        let mut inner = vec![true; n];
        for (id, value) in old.values.iter().enumerate() {
            if !layers.contains(&id) {
                value.op.operands().into_iter().for_each(|operand| inner[operand] = false);
            }
        }
        old.results().for_each(|id| inner[id] = false);
        let (place, activations) = (vec![0; n], vec![None; n]);
        Self { old, new: Program::new(), place, activations, inner, layers: Vec::new() }
    }

    fn push(&mut self, from: ValueId, op: Op, len: usize) -> ValueId {
        self.new.values.push(Value { name: self.old.values[from].name.clone(), len, op });
        self.new.values.len() - 1
    }

    fn copy(&mut self, id: ValueId) {
        let value = &self.old.values[id];
        let mut op = value.op.clone();
        op.map_operands(|operand| self.place[operand]);
        self.place[id] = self.push(id, op, value.len);
    }

    /// `inputs`: of the layer, as recorded; `output_scale`: of what comes out of it.
    fn layer(&mut self, id: ValueId, x: ValueId, gemm: &Gemm, inputs: &[&[f32]], output_scale: f32) {
        let (n_in, n_out) = (gemm.n_in(), gemm.bias.len());
        let mut gemm = gemm.clone();
        let (input, input_scale, factors) = match self.activations[x] {
            Some((words, scale)) => (words, scale, Vec::new()),
            None => {
                let factors = equalized(&mut gemm, inputs);
                let mut source = self.place[x];
                if !factors.is_empty() {
                    let b = self.push(id, Op::Const(factors.as_slice().into()), n_in);
                    source = self.push(id, Op::Binary { a: source, b, kind: binary::MUL, inner: 1 }, n_in);
                }
                let factor = |place: usize| factors.get(place).copied().unwrap_or(1.0);
                let sizes = inputs.iter().flat_map(|row| row.iter().enumerate());
                let largest = sizes.fold(0.0f32, |most, (place, x)| most.max((x * factor(place)).abs()));
                let scale = scale_of(largest);
                let op = Op::Quantize { x: source, inverse: 1.0 / scale };
                let words = self.push(id, op, activation_words(n_in));
                (words, scale, factors)
            }
        };
        let gemm = &gemm;
        let scaled = |row: &&[f32]| -> Vec<f64> {
            let factor = |k: usize| factors.get(k).copied().unwrap_or(1.0);
            row.iter().enumerate().map(|(k, x)| f64::from(x * factor(k))).collect()
        };
        let seen: Vec<Vec<f64>> = inputs.iter().map(scaled).collect();
        let (weights, row_scales, bias) = rows(gemm, input_scale, &seen);
        let error = relative(
            gemm.weights
                .iter()
                .enumerate()
                .map(|(place, &w)| (w, f32::from(weights[place]) * row_scales[place / n_in.max(1)])),
        );
        let plain = [unary::NONE, unary::RELU].contains(&gemm.activation.kind);
        let multipliers =
            row_scales.iter().map(|&w| f64::from(w) * f64::from(input_scale) / f64::from(output_scale));
        let fits = multipliers.clone().all(|multiplier| multiplier < 0.499);
        let to_i16 = self.inner[id] && plain && fits;
        let finish: Vec<u32> = if to_i16 {
            multipliers.map(|multiplier| (multiplier * 4_294_967_296.0).round() as i32 as u32).collect()
        } else {
            row_scales.iter().map(|&w| (w * input_scale).to_bits()).collect()
        };
        let words = pack(&weights, &biases(&bias, &row_scales, input_scale), &finish, n_in);
        let kind = match (to_i16, gemm.activation.kind) {
            (true, unary::RELU) => 1,
            (true, _) => 0,
            (false, _) => 2,
        };
        let op = Op::QuantizedGemm { x: input, n_in, n_out, words, kind };
        let mut value = self.push(id, op, if to_i16 { activation_words(n_out) } else { n_out });
        let scale = to_i16.then_some(output_scale);
        if let Some(scale) = scale {
            self.activations[id] = Some((value, scale));
        } else if gemm.activation != Function::NONE {
            value = self.push(id, Op::Unary { x: value, f: gemm.activation }, n_out);
        }
        self.place[id] = value;
        self.layers.push(Layer {
            from: id,
            to: value,
            scale,
            weights: error,
            n_in,
            n_out,
            input_scale,
            factors,
        });
    }

    fn finish(mut self) -> (Program, Vec<Layer>) {
        self.new.output = self.place[self.old.output];
        self.new.states = self
            .old
            .states
            .iter()
            .map(|state| crate::program::State {
                value: self.place[state.value],
                next: self.place[state.next],
            })
            .collect();
        (self.new, self.layers)
    }
}

/// Moves what inputs weigh from the weights into the inputs: columns get the same largest weight, since 8 bits
/// hold less than 16 (the idea of SmoothQuant, Xiao et al. 2023, with all of the difficulty on the activations).
/// Returns the factors of the inputs; empty where the expected error does not fall by a fifth.
fn equalized(gemm: &mut Gemm, inputs: &[&[f32]]) -> Vec<f32> {
    let n_in = gemm.n_in().max(1);
    let mut largest = vec![0.0f32; n_in];
    for row in gemm.weights.chunks(n_in) {
        largest.iter_mut().zip(row).for_each(|(most, w)| *most = most.max(w.abs()));
    }
    let most = largest.iter().fold(0.0f32, |most, &w| most.max(w));
    let factors: Vec<f32> = largest.iter().map(|&w| (w / most).max(1e-4)).collect();
    // The rounding of weights brings (largest weight of the row)^2 * sum of x^2, up to a constant.
    let squares: Vec<f64> =
        (0..n_in).map(|k| inputs.iter().map(|row| f64::from(row[k]).powi(2)).sum::<f64>()).collect();
    let error = |factor: &dyn Fn(usize) -> f64| -> f64 {
        let x: f64 = squares.iter().enumerate().map(|(k, square)| square * factor(k).powi(2)).sum();
        let rows = gemm.weights.chunks(n_in).map(|row| {
            let weights = row.iter().enumerate().map(|(k, &w)| f64::from(w.abs()) / factor(k));
            weights.fold(0.0, f64::max).powi(2)
        });
        rows.sum::<f64>() * x
    };
    if error(&|k| f64::from(factors[k])) > 0.8 * error(&|_| 1.0) || !most.is_normal() {
        return Vec::new();
    }
    for row in gemm.weights.chunks_mut(n_in) {
        row.iter_mut().zip(&factors).for_each(|(w, factor)| *w /= factor);
    }
    factors
}

/// Weights of every row as integers, its scale (the one with the least error for `inputs`, such that no sum leaves 32
/// bits), and its bias with the mean error on `inputs` taken off.
fn rows(gemm: &Gemm, input_scale: f32, inputs: &[Vec<f64>]) -> (Vec<i8>, Vec<f32>, Vec<f32>) {
    let (mut weights, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    let n_in = gemm.n_in();
    let squares: Vec<f64> = (0..n_in).map(|k| inputs.iter().map(|x| x[k] * x[k]).sum()).collect();
    let means: Vec<f64> =
        (0..n_in).map(|k| inputs.iter().map(|x| x[k]).sum::<f64>() / inputs.len().max(1) as f64).collect();
    let feedback = Feedback::of(inputs, &squares);
    for (row, &bias) in gemm.weights.chunks(gemm.n_in().max(1)).zip(&gemm.bias) {
        let largest = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        let total: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
        // |bias| / (w x) + 32768 (total / w + n / 2) stays below 2^31.
        let size = f64::from(bias.abs()) / f64::from(input_scale) + 32_768.0 * total;
        let room = MAX_SUM - 32_768.0 * 0.5 * row.len() as f64 - 1.0;
        let least = ((size / room.max(1.0)) as f32).max(f32::MIN_POSITIVE * 1e6);
        // A few clipped weights may cost less than coarser steps for all.
        let candidates =
            (0..8u8).map(|step| (largest / MAX_WEIGHT * (1.0 - 0.05 * f32::from(step))).max(least));
        let choices = candidates.flat_map(|scale| {
            let plain =
                row.iter().map(|w| (w / scale).round_ties_even().clamp(-MAX_WEIGHT, MAX_WEIGHT) as i8);
            let fits = |integers: &[i8]| {
                let total: f64 = integers.iter().map(|&q| f64::from(q).abs()).sum();
                f64::from(bias.abs()) / (f64::from(input_scale) * f64::from(scale)) + 32_768.0 * (total + 1.0)
                    < MAX_SUM
            };
            let by_feedback = feedback.as_ref().map(|feedback| feedback.round(row, scale));
            [Some(plain.collect::<Vec<i8>>()), by_feedback.filter(|integers| fits(integers))]
                .into_iter()
                .flatten()
                .map(move |integers| (scale, integers))
        });
        let error = |scale: f32, integers: &[i8]| -> f64 {
            let off: Vec<f64> = row
                .iter()
                .zip(integers)
                .map(|(&w, &q)| f64::from(w) - f64::from(q) * f64::from(scale))
                .collect();
            // Beside what the bias takes off.
            match &feedback {
                Some(feedback) => feedback.variance(&off),
                None => off.iter().zip(&squares).map(|(off, square)| off * off * square).sum(),
            }
        };
        let best = choices.map(|(scale, integers)| (error(scale, &integers), scale, integers));
        let best = best.min_by(|a, b| a.0.total_cmp(&b.0));
        let (scale, integers) = best.map_or((least, vec![0; n_in]), |(_, scale, integers)| (scale, integers));
        let mean: f64 = row
            .iter()
            .zip(&integers)
            .zip(&means)
            .map(|((&w, &q), mean)| (f64::from(w) - f64::from(q) * f64::from(scale)) * mean)
            .sum();
        biases.push((f64::from(bias) + mean) as f32);
        scales.push(scale);
        weights.extend(integers);
    }
    (weights, scales, biases)
}

/// Layers with more inputs are rounded to nearest: the inverse would take long.
const MOST_FEEDBACK: usize = 1024;
/// Share of the mean square of an input that is added to every square: for inputs that were always alike.
const DAMPING: f64 = 0.01;

/// Rounds the weights of a row one after the other and lets those still to come make up for the error, as far as the
/// recorded inputs go together (GPTQ, Frantar et al. 2022, without its order and blocks).
struct Feedback {
    /// Upper Cholesky factor of the inverse of the inputs' second moments, row by row `[n, n]`.
    upper: Vec<f64>,
    /// Covariance of the inputs `[n, n]`.
    covariance: Vec<f64>,
    n: usize,
}

impl Feedback {
    /// `None`: too many inputs, or none that differ.
    fn of(inputs: &[Vec<f64>], squares: &[f64]) -> Option<Self> {
        let n = squares.len();
        let damping = DAMPING * squares.iter().sum::<f64>() / n.max(1) as f64;
        if n > MOST_FEEDBACK || !damping.is_normal() {
            return None;
        }
        let count = inputs.len().max(1) as f64;
        let means: Vec<f64> = (0..n).map(|k| inputs.iter().map(|x| x[k]).sum::<f64>() / count).collect();
        let mut covariance = vec![0.0; n * n];
        for x in inputs {
            for (i, row) in covariance.chunks_exact_mut(n).enumerate() {
                let left = x[i] - means[i];
                row.iter_mut()
                    .zip(x.iter().zip(&means))
                    .for_each(|(sum, (x, mean))| *sum += left * (x - mean));
            }
        }
        let mut damped = covariance.clone();
        (0..n).for_each(|k| damped[k * n + k] += damping);
        let inverse = inverse(&damped, n)?;
        // H^-1 = L L^T; its transpose is the upper factor.
        let lower = cholesky(&inverse, n)?;
        let mut upper = vec![0.0; n * n];
        for i in 0..n {
            (0..=i).for_each(|j| upper[j * n + i] = lower[i * n + j]);
        }
        Some(Self { upper, covariance, n })
    }

    fn round(&self, row: &[f32], scale: f32) -> Vec<i8> {
        let mut rest: Vec<f64> = row.iter().map(|&w| w.into()).collect();
        let (scale, most) = (f64::from(scale), f64::from(MAX_WEIGHT));
        (0..self.n)
            .map(|k| {
                let integer = (rest[k] / scale).round_ties_even().clamp(-most, most);
                let factors = &self.upper[k * self.n..(k + 1) * self.n];
                let error = (rest[k] - integer * scale) / factors[k];
                for (w, factor) in rest.iter_mut().zip(factors).skip(k + 1) {
                    *w -= error * factor;
                }
                integer as i8
            })
            .collect()
    }

    /// `off^T C off`: the squares that an error of the weights brings to the output, its mean taken off.
    fn variance(&self, off: &[f64]) -> f64 {
        let product = |row: &[f64]| row.iter().zip(off).map(|(c, off)| c * off).sum::<f64>();
        self.covariance.chunks_exact(self.n).zip(off).map(|(row, off)| off * product(row)).sum()
    }
}

/// Lower factor of a symmetric positive matrix `[n, n]`.
fn cholesky(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut lower = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (left, right) = (&lower[i * n..i * n + j], &lower[j * n..j * n + j]);
            let sum = matrix[i * n + j] - left.iter().zip(right).map(|(a, b)| a * b).sum::<f64>();
            lower[i * n + j] = if i == j { sum.sqrt() } else { sum / lower[j * n + j] };
        }
        if !lower[i * n + i].is_normal() {
            return None;
        }
    }
    Some(lower)
}

/// Inverse of a symmetric positive matrix.
fn inverse(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let lower = cholesky(matrix, n)?;
    // Columns of L^-1, kept as rows of its transpose.
    let mut columns = vec![0.0; n * n];
    for j in 0..n {
        let column = &mut columns[j * n..(j + 1) * n];
        column[j] = 1.0 / lower[j * n + j];
        for i in j + 1..n {
            let sum: f64 = lower[i * n + j..i * n + i].iter().zip(&column[j..i]).map(|(l, c)| l * c).sum();
            column[i] = -sum / lower[i * n + i];
        }
    }
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            // (L^-T L^-1)[i][j]: entries from max(i, j) on.
            let dot: f64 = columns[i * n + i..(i + 1) * n]
                .iter()
                .zip(&columns[j * n + i..(j + 1) * n])
                .map(|(a, b)| a * b)
                .sum();
            (inverse[i * n + j], inverse[j * n + i]) = (dot, dot);
        }
    }
    Some(inverse)
}

fn biases(bias: &[f32], row_scales: &[f32], input_scale: f32) -> Vec<i32> {
    let unit = |scale: &f32| f64::from(*scale) * f64::from(input_scale);
    bias.iter().zip(row_scales).map(|(&b, scale)| (f64::from(b) / unit(scale)).round() as i32).collect()
}

/// The blocks that [`tendon_wire::image::quantized_block_words`] describes. `finish`: the last words of each row.
fn pack(weights: &[i8], bias: &[i32], finish: &[u32], n_in: usize) -> Vec<u32> {
    let mut words = Vec::new();
    for first in (0..bias.len()).step_by(GEMM_ROWS) {
        let rows = first..first + GEMM_ROWS;
        words.extend(rows.clone().map(|row| bias.get(row).map_or(0, |&bias| bias as u32)));
        for k in (0..n_in.next_multiple_of(QUANTIZED_STEP)).step_by(4) {
            for row in rows.clone() {
                let weight = |k: usize| {
                    let there = row < bias.len() && k < n_in;
                    if there { weights[row * n_in + k] as u8 } else { 0 }
                };
                words.push(u32::from_le_bytes([weight(k), weight(k + 2), weight(k + 1), weight(k + 3)]));
            }
        }
        words.extend(rows.map(|row| finish.get(row).copied().unwrap_or(0)));
    }
    words
}
