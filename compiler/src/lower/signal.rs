//! Spectra and windows: constant matrices and constants.

use super::{Computed, Context, Lowering, Tensor, axis, strides};
use crate::import::{Kind, Node, elements};
use std::f64::consts::PI;
use tendon_wire::image::binary;

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("BlackmanWindow",  |c, n| window(c, n, [0.42, 0.5, 0.08])),
    ("DFT",             dft),
    ("HammingWindow",   |c, n| window(c, n, [25.0 / 46.0, 21.0 / 46.0, 0.0])),
    ("HannWindow",      |c, n| window(c, n, [0.5, 0.5, 0.0])),
    ("MelWeightMatrix", mel_weight_matrix),
    ("STFT",            stft),
];

/// Longest transform and window.
const MOST: i64 = 1 << 14;

fn bounded(value: i64, what: &str) -> Result<usize, String> {
    if !(1..=MOST).contains(&value) {
        return Err(format!("{what} is {value}, expected a number from 1 to {MOST}"));
    }
    Ok(value as usize)
}

/// The only element of an integer input.
fn integer(context: &mut Context, node: &Node, index: usize) -> Result<Option<i64>, String> {
    Ok(context.integers(node, index)?.and_then(|values| values.first().copied()))
}

/// What a transform reads and writes along its axis; each element is a number or a complex pair.
struct Transform {
    /// Elements of the input that count, elements of the result, length of the period.
    sizes: [usize; 3],
    /// Numbers per element, before and after.
    numbers: [usize; 2],
    inverse: bool,
    onesided: bool,
}

impl Transform {
    /// `[out, 2 or 1][in, 2 or 1]`
    fn matrix(&self, n_in: usize) -> Vec<f32> {
        let ([used, n_out, period], [per_in, per_out]) = (self.sizes, self.numbers);
        let mut matrix = vec![0.0f32; n_out * per_out * n_in * per_in];
        for place in 0..n_out * used {
            let (k, n) = (place / used, place % used);
            let angle = 2.0 * PI * ((k * n) % period) as f64 / period as f64;
            let (mut real, mut imaginary) =
                (angle.cos(), if self.inverse { angle.sin() } else { -angle.sin() });
            if self.inverse {
                // A one-sided spectrum counts twice, but for what has no mirror image.
                let mirrored = self.onesided && n != 0 && 2 * n != period;
                let weight = if mirrored { 2.0 } else { 1.0 } / period as f64;
                (real, imaginary) = (real * weight, imaginary * weight);
            }
            for (row, column, value) in
                [(0, 0, real), (0, 1, -imaginary), (1, 0, imaginary), (1, 1, real)].into_iter()
            {
                if row < per_out && column < per_in {
                    matrix[(k * per_out + row) * n_in * per_in + n * per_in + column] = value as f32;
                }
            }
        }
        matrix
    }

    /// Applies it to `x` `[.., n, numbers]`.
    fn apply(&self, context: &mut Context, x: &Computed) -> Result<Computed, String> {
        let rank = x.shape.len();
        let [_, n_out, _] = self.sizes;
        let [per_in, per_out] = self.numbers;
        let n_in = x.shape[rank - 2];
        let count = elements(&[n_out, per_out, n_in, per_in])?;
        context.charge(count)?;
        let mut rows = x.shape[..rank - 2].to_vec();
        rows.push(n_in * per_in);
        let y = context.dense(
            &Computed { shape: rows, ..x.clone() },
            self.matrix(n_in),
            vec![0.0; n_out * per_out],
        )?;
        let mut shape = x.shape[..rank - 2].to_vec();
        shape.extend([n_out, per_out]);
        Ok(Computed { shape, ..y })
    }
}

fn transform(
    n_in: usize,
    per_in: usize,
    length: Option<usize>,
    inverse: bool,
    onesided: bool,
) -> Result<Transform, String> {
    if !(1..=2).contains(&per_in) {
        return Err(format!("its last dimension is {per_in}, expected 1 (real) or 2 (complex)"));
    }
    let spectrum = inverse && onesided;
    let period = length.unwrap_or(if spectrum { (2 * n_in).saturating_sub(2).max(1) } else { n_in });
    let half = period / 2 + 1;
    let used = n_in.min(if spectrum { half } else { period });
    let n_out = if onesided && !inverse { half } else { period };
    Ok(Transform {
        sizes: [used, n_out, period],
        numbers: [per_in, if spectrum { 1 } else { 2 }],
        inverse,
        onesided,
    })
}

fn dft(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let rank = x.shape.len();
    if rank < 2 {
        return Err(format!("input has shape {:?}, expected [.., n, 1 or 2]", x.shape));
    }
    let along =
        if context.opset < 20 { node.int("axis", 1)? } else { integer(context, node, 2)?.unwrap_or(-2) };
    let along = axis(along, rank)?;
    if along == rank - 1 {
        return Err("its axis is the one of real and imaginary parts".into());
    }
    let length = integer(context, node, 1)?.map(|length| bounded(length, "dft_length")).transpose()?;
    let (inverse, onesided) = (node.int("inverse", 0)? != 0, node.int("onesided", 0)? != 0);
    let transform = transform(x.shape[along], x.shape[rank - 1], length, inverse, onesided)?;
    // The axis next to the last, and back.
    let mut order: Vec<usize> = (0..rank - 1).filter(|&place| place != along).collect();
    order.extend([along, rank - 1]);
    let moved = context.permuted(&x, &order)?;
    let y = transform.apply(context, &moved)?;
    let mut back: Vec<usize> = (0..rank - 2).collect();
    back.insert(along, rank - 2);
    back.push(rank - 1);
    let y = context.permuted(&y, &back)?;
    context.finish(node, y)
}

/// Frames of a signal, each weighted and transformed.
fn stft(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let shape = x.shape.clone();
    let (batch, length, per) = match *shape {
        [batch, length] => (batch, length, 1),
        [batch, length, per] => (batch, length, per),
        _ => return Err(format!("signal has shape {shape:?}, expected [batch, length, 1 or 2]")),
    };
    let step = bounded(integer(context, node, 1)?.ok_or("has no frame_step")?, "frame_step")?;
    let weights = match context.optional(node, 2)? {
        Some(tensor) => Some(context.computed(tensor)?),
        None => None,
    };
    let size = match (integer(context, node, 3)?, &weights) {
        (Some(size), _) => bounded(size, "frame_length")?,
        (None, Some(weights)) => weights.len(),
        (None, None) => length,
    };
    let count = length
        .checked_sub(size)
        .ok_or_else(|| format!("a frame of {size} is longer than the signal of {length}"))?;
    let frames = count / step + 1;
    let own = strides(&[batch, length, per]);
    let from = [own[0], own[1] * step as i64, own[1], own[2]];
    let mut y = context.moved(&x, &[batch, frames, size, per], &from, 0)?;
    if let Some(weights) = weights {
        let weights = Computed { shape: vec![size, 1], ..weights };
        if weights.len() != size {
            return Err(format!("a window of {} does not fit frames of {size}", weights.len()));
        }
        y = context.combine(&y, &weights, binary::MUL)?;
    }
    let transform = transform(size, per, None, false, node.int("onesided", 1)? != 0)?;
    let y = transform.apply(context, &y)?;
    context.finish(node, y)
}

fn output_kind(node: &Node) -> Result<Kind, String> {
    Kind::from_onnx(node.int("output_datatype", 1)? as i32)
        .map_err(|problem| format!("attribute `output_datatype` {problem}"))
}

/// `a - b cos(2 pi n / N) + c cos(4 pi n / N)`
fn window(context: &mut Context, node: &Node, [a, b, c]: [f64; 3]) -> Result<(), String> {
    let size = bounded(integer(context, node, 0)?.ok_or("has no size")?, "the size")?;
    let period = if node.int("periodic", 1)? != 0 { size } else { (size - 1).max(1) } as f64;
    let angle = |n: usize| 2.0 * PI * n as f64 / period;
    let values = (0..size).map(|n| (a - b * angle(n).cos() + c * (2.0 * angle(n)).cos()) as f32).collect();
    let y = context.fixed(values, vec![size], output_kind(node)?)?;
    context.set(node, 0, Tensor::Value { value: y.id, shape: y.shape, kind: y.kind })
}

/// Triangles over the frequencies of a spectrum, equally wide on the mel scale.
fn mel_weight_matrix(context: &mut Context, node: &Node) -> Result<(), String> {
    let count = |context: &mut Context, index: usize, what: &str| -> Result<usize, String> {
        bounded(integer(context, node, index)?.ok_or_else(|| format!("has no {what}"))?, what)
    };
    let bins = count(context, 0, "num_mel_bins")?;
    let length = count(context, 1, "dft_length")?;
    let rate = integer(context, node, 2)?.ok_or("has no sample_rate")? as f64;
    let mut edges = [0.0f64; 2];
    for (index, edge) in edges.iter_mut().enumerate() {
        let hertz: f64 = context.scalar(node, index + 3)?.ok_or("has no edges")?.into();
        *edge = 2595.0 * (hertz / 700.0).ln_1p() / 10f64.ln();
    }
    let rows = length / 2 + 1;
    let step = (edges[1] - edges[0]) / (bins + 2) as f64;
    let places: Vec<i64> = (0..bins + 2)
        .map(|bin| 700.0 * ((bin as f64 * step + edges[0]) / 2595.0 * 10f64.ln()).exp_m1())
        .map(|hertz| ((length + 1) as f64 * hertz / rate).floor() as i64)
        .collect();
    let mut values = vec![0.0f32; elements(&[rows, bins])?];
    let mut put = |row: i64, bin: usize, value: f64| {
        if let Some(place) = usize::try_from(row).ok().filter(|&row| row < rows) {
            values[place * bins + bin] = value as f32;
        }
    };
    for bin in 0..bins {
        let [left, centre, right] = [places[bin], places[bin + 1], places[bin + 2]];
        if left == centre {
            put(centre, bin, 1.0);
        }
        for row in left.max(0)..=centre.min(rows as i64) {
            if left != centre {
                put(row, bin, (row - left) as f64 / (centre - left) as f64);
            }
        }
        for row in centre.max(0)..right.min(rows as i64) {
            put(row, bin, (right - row) as f64 / (right - centre) as f64);
        }
    }
    let y = context.fixed(values, vec![rows, bins], output_kind(node)?)?;
    context.set(node, 0, Tensor::Value { value: y.id, shape: y.shape, kind: y.kind })
}
