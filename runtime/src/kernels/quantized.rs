//! Dense layers with 8-bit weights and 16-bit activations, sums of 32 bits. How activations and weights lie in
//! words is said at [`activation_words`] and [`block_words`].
//!
//! No sum leaves `i32` where [`sums_fit`] holds; with weights of up to 127 it always does for at most 516
//! inputs (127 * 32768 * 516 < 2^31) and a bias in what is left. Elsewhere sums wrap, on host and controller alike.

use tendon_wire::image::GEMM_ROWS;
use tendon_wire::image::{QUANTIZED_STEP as INPUT_STEP, quantized_block_words as block_words};

#[cfg(arm_fpu_dsp)]
use super::arm::{quantize as fours, quantized_to_f32 as to_f32, quantized_to_i16 as to_i16};
#[cfg(neon)]
use super::neon::{quantize as fours, quantized_to_f32 as to_f32, quantized_to_i16 as to_i16};
#[cfg(vectors)]
use super::x86::{quantize as fours, quantized_to_f32 as to_f32, quantized_to_i16 as to_i16};
#[cfg(not(any(arm_fpu_dsp, neon, vectors)))]
use portable::{fours, to_f32, to_i16};

/// `y[i] = round(x[i] * inverse_scale)`, halves to even, saturated; NaN becomes 0. `y`: at least [`activation_words`] of
/// `x.len()`; writes nothing into fewer.
pub(crate) fn quantize(x: &[f32], inverse_scale: f32, y: &mut [u32]) {
    let (whole, last) = x.as_chunks::<4>();
    let (pairs, _) = y.as_chunks_mut::<2>();
    let Some((done, rest)) = pairs.split_at_mut_checked(whole.len()) else { return };
    fours(whole, inverse_scale, done);
    if let ([_, ..], Some(rest)) = (last, rest.first_mut()) {
        let mut four = [[0.0; 4]];
        super::copy(last, four.as_flattened_mut());
        fours(&four, inverse_scale, core::slice::from_mut(rest));
    }
}

/// `y = W x + b` as activations, `max(W x + b, 0)` with `RELU`: `(sum * multiplier + 2^31) >> 32`, saturated to
/// `i16`. `x`: [`activation_words`] of the inputs; `y`: two words per block of `w`, what lies beyond stays as it is.
pub(crate) fn gemm_to_i16<const RELU: bool>(w: &[u32], x: &[u32], y: &mut [u32]) {
    let x: &[[u32; INPUT_STEP / 2]] = x.as_chunks().0;
    let blocks = w.len().checked_div(block_words(x.len().wrapping_mul(INPUT_STEP))).unwrap_or(0);
    let (y, _) = y.as_chunks_mut();
    let blocks = blocks.min(y.len());
    to_i16::<RELU>(w, x, y.get_mut(..blocks).unwrap_or(&mut []));
}

/// `y = W x + b` as numbers: `sum as f32 * scale`. `y`: one element per row.
pub(crate) fn gemm_to_f32(w: &[u32], x: &[u32], y: &mut [f32]) {
    let x: &[[u32; INPUT_STEP / 2]] = x.as_chunks().0;
    let (whole, last) = y.as_chunks_mut::<GEMM_ROWS>();
    to_f32(w, x, whole);
    if !last.is_empty() {
        let start = whole.len().wrapping_mul(block_words(x.len().wrapping_mul(INPUT_STEP)));
        let Some(w) = w.get(start..) else { return };
        let mut block = [[0.0; GEMM_ROWS]];
        to_f32(w, x, &mut block);
        super::copy(block.as_flattened(), last);
    }
}

/// Whether no sum of these blocks can leave `i32`, whatever the activations: in each row
/// `|bias| + 32768 * (sum of |weights|) < 2^31`.
pub(crate) fn sums_fit(w: &[u32], n_in: usize) -> bool {
    w.chunks_exact(block_words(n_in)).all(|block| {
        let (words, _) = block.as_chunks::<GEMM_ROWS>();
        let [bias, weights @ .., _] = words else { return false };
        let mut sums = bias.map(|bias| u64::from((bias as i32).unsigned_abs()));
        for words in weights {
            for (sum, word) in sums.iter_mut().zip(words) {
                let bytes = word.to_le_bytes().map(|byte| u64::from((byte as i8).unsigned_abs()));
                *sum = sum.wrapping_add(bytes.iter().sum::<u64>().wrapping_mul(1 << 15));
            }
        }
        sums.iter().all(|&sum| sum < 1 << 31)
    })
}

#[inline(always)]
fn halves(word: u32) -> [i32; 2] {
    [i32::from(word as i16), i32::from((word >> 16) as i16)]
}

#[cfg_attr(arm_fpu_dsp, allow(dead_code, reason = "the assembly stands in for it"))]
#[inline(always)]
fn pair(low: u32, high: u32) -> u32 {
    (low & 0xffff) | (high << 16)
}

/// Sums and multipliers of a block to activations.
#[cfg_attr(arm_fpu_dsp, allow(dead_code, reason = "the assembly stands in for it"))]
#[inline(always)]
pub(super) fn finish_i16<const RELU: bool>(
    sums: [i32; GEMM_ROWS],
    multipliers: [u32; GEMM_ROWS],
) -> [u32; 2] {
    let mut out = [0; GEMM_ROWS];
    for ((place, sum), multiplier) in out.iter_mut().zip(sums).zip(multipliers) {
        let product = i64::from(sum).wrapping_mul(i64::from(multiplier as i32));
        let rounded = (product.wrapping_add(1 << 31) >> 32) as i32;
        *place = rounded.clamp(if RELU { 0 } else { -32768 }, 32767) as u32;
    }
    let [a, b, c, d] = out;
    [pair(a, b), pair(c, d)]
}

/// Sums and scales of a block to numbers.
#[cfg_attr(arm_fpu_dsp, allow(dead_code, reason = "the assembly stands in for it"))]
#[inline(always)]
pub(super) fn finish_f32(sums: [i32; GEMM_ROWS], scales: [u32; GEMM_ROWS]) -> [f32; GEMM_ROWS] {
    let mut out = [0.0; GEMM_ROWS];
    for ((place, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
        *place = sum as f32 * f32::from_bits(scale);
    }
    out
}

/// What `arm.rs` does, for every other processor.
#[cfg_attr(arm_fpu_dsp, allow(dead_code, reason = "the assembly stands in for it"))]
pub(super) mod portable {
    use super::{GEMM_ROWS, INPUT_STEP, block_words, finish_f32, finish_i16, halves, pair};
    use crate::math;

    type Vector = [[u32; INPUT_STEP / 2]];

    pub(in super::super) fn fours(x: &[[f32; 4]], inverse_scale: f32, y: &mut [[u32; 2]]) {
        let round = |v: f32| {
            let v = math::clip(v * inverse_scale, -32768.0, 32767.0);
            ((v + math::ROUNDER) - math::ROUNDER) as i32 as u32
        };
        for (place, &[a, b, c, d]) in y.iter_mut().zip(x) {
            *place = [pair(round(a), round(b)), pair(round(c), round(d))];
        }
    }

    #[cfg_attr(any(neon, vectors), allow(dead_code, reason = "vectors stand in for it"))]
    pub(super) fn to_i16<const RELU: bool>(w: &[u32], x: &Vector, y: &mut [[u32; 2]]) {
        blocks(w, x, y, finish_i16::<RELU>);
    }

    #[cfg_attr(any(neon, vectors), allow(dead_code, reason = "vectors stand in for it"))]
    pub(super) fn to_f32(w: &[u32], x: &Vector, y: &mut [[f32; GEMM_ROWS]]) {
        blocks(w, x, y, finish_f32);
    }

    #[inline(always)]
    pub(in super::super) fn blocks<T>(
        w: &[u32],
        x: &Vector,
        y: &mut [T],
        finish: impl Fn([i32; GEMM_ROWS], [u32; GEMM_ROWS]) -> T,
    ) {
        each_block(w, x, y, finish, products);
    }

    /// Adds what `products` makes of each block's weights to its biases, and finishes it. Stops where `w` ends.
    #[inline(always)]
    pub(in super::super) fn each_block<T>(
        w: &[u32],
        x: &Vector,
        y: &mut [T],
        finish: impl Fn([i32; GEMM_ROWS], [u32; GEMM_ROWS]) -> T,
        products: impl Fn(&[[u32; GEMM_ROWS]], &Vector) -> [i32; GEMM_ROWS],
    ) {
        let mut rest = w;
        for place in y {
            let len = block_words(x.len().wrapping_mul(INPUT_STEP));
            let Some((block, after)) = rest.split_at_checked(len) else { return };
            rest = after;
            let ([bias, weights @ .., last], _) = block.as_chunks::<GEMM_ROWS>() else { return };
            let mut sums = products(weights, x);
            for (sum, &bias) in sums.iter_mut().zip(bias) {
                *sum = sum.wrapping_add(bias as i32);
            }
            *place = finish(sums, *last);
        }
    }

    #[inline(always)]
    fn products(weights: &[[u32; GEMM_ROWS]], x: &Vector) -> [i32; GEMM_ROWS] {
        let mut sums = [0i32; GEMM_ROWS];
        for (words, &[x01, x23]) in weights.iter().zip(x.as_flattened().as_chunks::<2>().0) {
            let [[x0, x1], [x2, x3]] = [halves(x01), halves(x23)];
            for (sum, word) in sums.iter_mut().zip(words) {
                let [w0, w2, w1, w3] = word.to_le_bytes().map(|byte| i32::from(byte as i8));
                // Each product is below 2^22: only the sums can wrap.
                *sum = sum.wrapping_add(w0 * x0).wrapping_add(w1 * x1);
                *sum = sum.wrapping_add(w2 * x2).wrapping_add(w3 * x3);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;
    use tendon_wire::image::activation_words;

    /// A matrix `[n_out, n_in]` in blocks, as the table of this file says. `finish`: the last words.
    fn pack(weights: &[i8], bias: &[i32], finish: &[u32], n_in: usize) -> Vec<u32> {
        let mut words = Vec::new();
        for first in (0..bias.len()).step_by(GEMM_ROWS) {
            let rows: Vec<usize> = (first..first + GEMM_ROWS).collect();
            words.extend(rows.iter().map(|&row| bias.get(row).map_or(0, |&bias| bias as u32)));
            for k in (0..n_in.next_multiple_of(INPUT_STEP)).step_by(4) {
                words.extend(rows.iter().map(|&row| {
                    let weight = |k| {
                        let there = row < bias.len() && k < n_in;
                        if there { weights[row * n_in + k] as u8 } else { 0 }
                    };
                    u32::from_le_bytes([weight(k), weight(k + 2), weight(k + 1), weight(k + 3)])
                }));
            }
            words.extend(rows.iter().map(|&row| finish.get(row).copied().unwrap_or(0)));
        }
        words
    }

    fn vector(values: &[i16], padding: u16) -> Vec<u32> {
        let mut padded: Vec<u16> = values.iter().map(|&v| v as u16).collect();
        padded.resize(2 * activation_words(values.len()), padding);
        padded.chunks(2).map(|pair| u32::from(pair[0]) | (u32::from(pair[1]) << 16)).collect()
    }

    fn element(words: &[u32], i: usize) -> i16 {
        (words[i / 2] >> (16 * (i % 2))) as i16
    }

    #[test]
    fn sums_requantized_and_scaled_agree_with_i64_at_odd_shapes() {
        let mut random = fastrand::Rng::with_seed(1);
        for (n_in, n_out) in [(1, 1), (3, 5), (8, 4), (13, 64), (17, 7), (64, 4), (515, 9)] {
            let weights: Vec<i8> = (0..n_in * n_out).map(|_| random.i8(-127..=127)).collect();
            let bias: Vec<i32> = (0..n_out).map(|_| random.i32(-1_000_000..1_000_000)).collect();
            let multipliers: Vec<u32> = (0..n_out).map(|_| random.u32(1000..1 << 24)).collect();
            let scales: Vec<u32> = (0..n_out).map(|_| (random.f32() * 1e-5).to_bits()).collect();
            let x: Vec<i16> = (0..n_in).map(|_| random.i16(..)).collect();
            let (packed, scaled) =
                (pack(&weights, &bias, &multipliers, n_in), pack(&weights, &bias, &scales, n_in));
            assert_eq!(packed.len(), n_out.div_ceil(4) * block_words(n_in));
            assert!(sums_fit(&packed, n_in));
            let words = vector(&x, 0xdead);
            let mut plain = std::vec![0; 2 * n_out.div_ceil(4)];
            let mut relu = plain.clone();
            let mut numbers = std::vec![f32::NAN; n_out];
            gemm_to_i16::<false>(&packed, &words, &mut plain);
            gemm_to_i16::<true>(&packed, &words, &mut relu);
            gemm_to_f32(&scaled, &words, &mut numbers);
            for row in 0..n_out {
                let products = (0..n_in).map(|k| i64::from(weights[row * n_in + k]) * i64::from(x[k]));
                let sum = i64::from(bias[row]) + products.sum::<i64>();
                let expected = ((sum * i64::from(multipliers[row]) + (1 << 31)) >> 32).clamp(-32768, 32767);
                assert_eq!(i64::from(element(&plain, row)), expected, "{n_in}x{n_out} row {row}");
                assert_eq!(i64::from(element(&relu, row)), expected.max(0), "{n_in}x{n_out} row {row}");
                assert_eq!(numbers[row], sum as f32 * f32::from_bits(scales[row]));
            }
        }
    }

    #[test]
    fn the_largest_weights_and_inputs_fit_up_to_516_inputs_and_no_more() {
        for (n_in, fits) in [(516, true), (517, false)] {
            let packed = pack(&std::vec![-127; n_in], &[0], &[1 << 20], n_in);
            assert_eq!(sums_fit(&packed, n_in), fits, "{n_in}");
        }
        let biased = pack(&[0; 8], &[i32::MIN], &[1 << 20], 8);
        assert!(!sums_fit(&biased, 8));
    }

    #[test]
    fn quantizes_halves_to_even_and_saturates() {
        let x = [0.5, 1.5, -0.5, -2.5, 1e9, -1e9, f32::NAN, f32::INFINITY, 32766.5, 32767.4, -32768.6];
        let expected = [0, 2, 0, -2, 32767, -32768, 0, 32767, 32766, 32767, -32768];
        let mut words = std::vec![0; activation_words(x.len())];
        quantize(&x, 1.0, &mut words);
        for (i, expected) in expected.into_iter().enumerate() {
            assert_eq!(element(&words, i), expected, "{}", x[i]);
        }
    }

    #[test]
    fn writes_nothing_where_a_slice_is_too_short() {
        let packed = pack(&[1; 8], &[5], &[1 << 30], 8);
        let mut y = [7; 4];
        gemm_to_i16::<false>(&packed[..15], &[0; 4], &mut y);
        quantize(&[1.0; 17], 1.0, &mut y);
        assert_eq!(y, [7; 4]);
        gemm_to_i16::<false>(&packed, &[0; 4], &mut y);
        assert_eq!(y[1..], [0, 7, 7]);
    }
}
