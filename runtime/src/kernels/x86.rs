//! Inner loops for x86-64 with AVX2 or AVX-512 (VNNI), chosen when they are called: the processor is asked once, later
//! calls read an atomic. Other processors take the portable functions.
//!
//! Each gives the bits of the portable function beside its caller: vectors go across rows, so that every row keeps its
//! order of operations, a rounded product and a rounded sum per input (no fused multiply-add; that AVX2 processors have
//! it is never told to LLVM). Integer sums wrap, so their order is free. Control flow depends on lengths only.
#![allow(
    unsafe_code,
    reason = "vector loads and calls behind feature detection; every length is checked first"
)]

use super::gemm::portable;
use super::quantized;
use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;
use tendon_wire::image::{GEMM_ROWS, QUANTIZED_STEP as INPUT_STEP, quantized_block_words as block_words};

fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni")
}

/// As `functions::apply`, in the widest vectors: LLVM makes them of the same lines.
pub(crate) fn map(kind: u8, alpha: f32, beta: f32, y: &mut [f32]) {
    if has_vnni() {
        // SAFETY: the processor has AVX-512 F and BW.
        unsafe { map_avx512(kind, alpha, beta, y) }
    } else if has_avx2() {
        // SAFETY: the processor has AVX2.
        unsafe { map_avx2(kind, alpha, beta, y) }
    } else {
        crate::functions::apply(kind, alpha, beta, y);
    }
}

#[target_feature(enable = "avx2")]
fn map_avx2(kind: u8, alpha: f32, beta: f32, y: &mut [f32]) {
    crate::functions::apply(kind, alpha, beta, y);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn map_avx512(kind: u8, alpha: f32, beta: f32, y: &mut [f32]) {
    crate::functions::apply(kind, alpha, beta, y);
}

/// As `gemm::portable`.
pub(super) fn gemm<const RELU: bool>(
    w: &[f32],
    b: &[[f32; GEMM_ROWS]],
    x: &[f32],
    y: &mut [[f32; GEMM_ROWS]],
) {
    if has_avx2() {
        // SAFETY: the processor has AVX2.
        unsafe { gemm_avx2::<RELU>(w, b, x, y) }
    } else {
        portable::<RELU>(w, b, x, y);
    }
}

#[target_feature(enable = "avx2")]
fn gemm_avx2<const RELU: bool>(
    mut w: &[f32],
    mut b: &[[f32; GEMM_ROWS]],
    x: &[f32],
    mut y: &mut [[f32; GEMM_ROWS]],
) {
    let len = x.len().wrapping_mul(GEMM_ROWS);
    loop {
        let pairs = (y.len().min(b.len()) / 2).min(PAIRS);
        let blocks = pairs.wrapping_mul(2);
        let parts = w.split_at_checked(len.wrapping_mul(blocks)).zip(b.split_at_checked(blocks));
        let Some(((now, after), (bias, biases))) = parts.filter(|_| pairs > 0) else { break };
        let Some((out, rest)) = core::mem::take(&mut y).split_at_mut_checked(blocks) else { return };
        match pairs {
            PAIRS => gemm_pairs::<PAIRS, RELU>(now, bias, x, out),
            3 => gemm_pairs::<3, RELU>(now, bias, x, out),
            2 => gemm_pairs::<2, RELU>(now, bias, x, out),
            _ => gemm_pairs::<1, RELU>(now, bias, x, out),
        }
        (w, b, y) = (after, biases, rest);
    }
    // A last block by itself, and what lies before the end of weights that are too short.
    portable::<RELU>(w, b, x, y);
}

/// Pairs of blocks at once: as many sums under way as hide the time an addition takes.
const PAIRS: usize = 4;

/// `2 * N` blocks. `w`: `8 * N * x.len()`; `b`, `y`: `2 * N`; other lengths write nothing.
#[target_feature(enable = "avx2")]
fn gemm_pairs<const N: usize, const RELU: bool>(
    w: &[f32],
    b: &[[f32; GEMM_ROWS]],
    x: &[f32],
    y: &mut [[f32; GEMM_ROWS]],
) {
    let block = x.len().wrapping_mul(GEMM_ROWS);
    if w.len() != block.wrapping_mul(2 * N) || b.len() != 2 * N || y.len() != 2 * N {
        return;
    }
    // SAFETY: the lengths were compared above. Block `i` of `2 N` starts at `i * block` of `w`, and `k < x.len()`
    // takes its elements from `4 k` on: 16 for four inputs, 4 for one. `b` and `y` hold `8 * N` `f32`.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); N];
        for (pair, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_loadu_ps(b.as_ptr().cast::<f32>().add(8 * pair));
        }
        let mut k = 0;
        while k + 4 <= x.len() {
            let inputs: [__m256; 4] = core::array::from_fn(|i| _mm256_broadcast_ss(&*x.as_ptr().add(k + i)));
            let mut from = w.as_ptr().add(GEMM_ROWS * k);
            for sum in &mut sums {
                let odd = from.add(block);
                for (i, &input) in inputs.iter().enumerate() {
                    let w = _mm256_loadu2_m128(odd.add(GEMM_ROWS * i), from.add(GEMM_ROWS * i));
                    *sum = _mm256_add_ps(*sum, _mm256_mul_ps(w, input));
                }
                from = odd.wrapping_add(block);
            }
            k += 4;
        }
        while k < x.len() {
            let input = _mm256_broadcast_ss(&*x.as_ptr().add(k));
            let mut from = w.as_ptr().add(GEMM_ROWS * k);
            for sum in &mut sums {
                let odd = from.add(block);
                *sum = _mm256_add_ps(*sum, _mm256_mul_ps(_mm256_loadu2_m128(odd, from), input));
                from = odd.wrapping_add(block);
            }
            k += 1;
        }
        for (pair, mut sum) in sums.into_iter().enumerate() {
            if RELU {
                // As `math::relu`: 0 where the sum is at most 0, NaN stays.
                let low = _mm256_cmp_ps::<_CMP_LE_OQ>(sum, _mm256_setzero_ps());
                sum = _mm256_andnot_ps(low, sum);
            }
            _mm256_storeu_ps(y.as_mut_ptr().cast::<f32>().add(8 * pair), sum);
        }
    }
}

/// As `quantized::portable::fours`.
pub(super) fn quantize(x: &[[f32; 4]], inverse_scale: f32, y: &mut [[u32; 2]]) {
    let x = x.get(..y.len()).unwrap_or(x);
    let y = y.get_mut(..x.len()).unwrap_or(&mut []);
    if has_avx2() {
        let ((pairs, last), (out, rest)) = (x.as_chunks::<2>(), y.as_chunks_mut::<2>());
        // SAFETY: the processor has AVX2.
        unsafe { quantize_eights(pairs, inverse_scale, out) }
        quantized::portable::fours(last, inverse_scale, rest);
    } else {
        quantized::portable::fours(x, inverse_scale, y);
    }
}

#[target_feature(enable = "avx2")]
fn quantize_eights(x: &[[[f32; 4]; 2]], inverse_scale: f32, y: &mut [[[u32; 2]; 2]]) {
    let (low, high) = (_mm256_set1_ps(-32768.0), _mm256_set1_ps(32767.0));
    let scale = _mm256_set1_ps(inverse_scale);
    for (place, x) in y.iter_mut().zip(x) {
        // SAFETY: `x` holds eight `f32`.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr().cast()) };
        let x = _mm256_mul_ps(x, scale);
        // With NaN these two give their second operand.
        let x = _mm256_min_ps(high, _mm256_max_ps(low, x));
        // NaN becomes 0; to nearest, halves to even, which Rust programs never change.
        let x = _mm256_cvtps_epi32(_mm256_and_ps(x, _mm256_cmp_ps::<_CMP_ORD_Q>(x, x)));
        let x = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        // SAFETY: `place` holds 16 bytes.
        unsafe { _mm_storeu_si128(core::ptr::from_mut(place).cast(), x) }
    }
}

/// As `quantized::portable::to_i16`.
pub(super) fn quantized_to_i16<const RELU: bool>(w: &[u32], x: &[[u32; 4]], y: &mut [[u32; 2]]) {
    blocks(w, x, y, quantized::finish_i16::<RELU>);
}

/// As `quantized::portable::to_f32`.
pub(super) fn quantized_to_f32(w: &[u32], x: &[[u32; 4]], y: &mut [[f32; GEMM_ROWS]]) {
    blocks(w, x, y, quantized::finish_f32);
}

/// Blocks at once: as many sums under way as hide the time a multiplication takes.
const BLOCKS: usize = 8;

/// As `quantized::portable::blocks`.
#[inline(always)]
fn blocks<T>(
    w: &[u32],
    x: &[[u32; 4]],
    y: &mut [T],
    finish: impl Fn([i32; GEMM_ROWS], [u32; GEMM_ROWS]) -> T + Copy,
) {
    if has_vnni() {
        each(w, x, y, finish, |w, sums| {
            // SAFETY: the processor has AVX-512 BW and VNNI.
            unsafe { sums_vnni(w, x, sums) }
        });
    } else if has_avx2() {
        each(w, x, y, finish, |w, sums| {
            // SAFETY: the processor has AVX2.
            unsafe { sums_avx2(w, x, sums) }
        });
    } else {
        quantized::portable::blocks(w, x, y, finish);
    }
}

/// Groups of [`BLOCKS`] through `sum`, which adds to their biases; the rest by `portable`.
#[inline(always)]
fn each<T>(
    mut w: &[u32],
    x: &[[u32; 4]],
    y: &mut [T],
    finish: impl Fn([i32; GEMM_ROWS], [u32; GEMM_ROWS]) -> T + Copy,
    sum: impl Fn(&[u32], &mut [[i32; GEMM_ROWS]; BLOCKS]),
) {
    let len = block_words(x.len().wrapping_mul(INPUT_STEP));
    let (mut groups, mut rest) = y.as_chunks_mut::<BLOCKS>();
    let mut short = &mut [][..];
    while let Some((group, others)) = core::mem::take(&mut groups).split_first_mut() {
        let Some((now, after)) = w.split_at_checked(len.wrapping_mul(BLOCKS)) else {
            // Weights too short for the group: as many blocks as there are.
            (short, rest) = (group, &mut []);
            break;
        };
        let mut sums = [[0; GEMM_ROWS]; BLOCKS];
        sum(now, &mut sums);
        for ((place, sums), block) in group.iter_mut().zip(sums).zip(now.chunks_exact(len)) {
            let (Some(bias), Some(last)) = (block.first_chunk::<4>(), block.last_chunk::<4>()) else {
                return;
            };
            let mut sums = sums;
            for (sum, &bias) in sums.iter_mut().zip(bias) {
                *sum = sum.wrapping_add(bias as i32);
            }
            *place = finish(sums, *last);
        }
        (w, groups) = (after, others);
    }
    quantized::portable::blocks(w, x, short, finish);
    quantized::portable::blocks(w, x, rest, finish);
}

/// Products of [`BLOCKS`] blocks, summed. `w`: whole blocks; else nothing is written.
#[target_feature(enable = "avx2")]
fn sums_avx2(w: &[u32], x: &[[u32; 4]], sums: &mut [[i32; GEMM_ROWS]; BLOCKS]) {
    let len = block_words(x.len().wrapping_mul(INPUT_STEP));
    if w.len() != len.wrapping_mul(BLOCKS) {
        return;
    }
    let mut wide = [_mm256_setzero_si256(); BLOCKS];
    for (step, x) in x.iter().enumerate() {
        // SAFETY: `x` holds 16 bytes.
        let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        // Inputs 0, 2, 1, 3 of each four, as the bytes lie.
        let x = _mm_shufflehi_epi16::<0xd8>(_mm_shufflelo_epi16::<0xd8>(x));
        let inputs = [_mm256_broadcastq_epi64(x), _mm256_broadcastq_epi64(_mm_unpackhi_epi64(x, x))];
        for (block, sum) in wide.iter_mut().enumerate() {
            for (half, x) in inputs.into_iter().enumerate() {
                // SAFETY: block `block` starts at `block * len`; behind its four biases come eight words per step.
                let w =
                    unsafe { _mm_loadu_si128(w.as_ptr().add(block * len + 4 + 8 * step + 4 * half).cast()) };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(w), x));
            }
        }
    }
    for (place, sum) in sums.iter_mut().zip(wide) {
        *place = paired(sum);
    }
}

/// As [`sums_avx2`], both halves of a step at once.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
fn sums_vnni(w: &[u32], x: &[[u32; 4]], sums: &mut [[i32; GEMM_ROWS]; BLOCKS]) {
    let len = block_words(x.len().wrapping_mul(INPUT_STEP));
    if w.len() != len.wrapping_mul(BLOCKS) {
        return;
    }
    let halves = _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1);
    let mut wide = [_mm512_setzero_si512(); BLOCKS];
    for (step, x) in x.iter().enumerate() {
        // SAFETY: `x` holds 16 bytes.
        let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        let x = _mm_shufflehi_epi16::<0xd8>(_mm_shufflelo_epi16::<0xd8>(x));
        let x = _mm512_permutexvar_epi64(halves, _mm512_castsi128_si512(x));
        for (block, sum) in wide.iter_mut().enumerate() {
            // SAFETY: as in `sums_avx2`.
            let w = unsafe { _mm256_loadu_si256(w.as_ptr().add(block * len + 4 + 8 * step).cast()) };
            *sum = _mm512_dpwssd_epi32(*sum, _mm512_cvtepi8_epi16(w), x);
        }
    }
    for (place, sum) in sums.iter_mut().zip(wide) {
        let high = _mm512_extracti64x4_epi64::<1>(sum);
        *place = paired(_mm256_add_epi32(_mm512_castsi512_si256(sum), high));
    }
}

/// Neighbours added: the two halves of each row's sum.
#[target_feature(enable = "avx2")]
fn paired(sum: __m256i) -> [i32; GEMM_ROWS] {
    let sum = _mm_hadd_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let mut row = [0; GEMM_ROWS];
    // SAFETY: `row` holds 16 bytes.
    unsafe { _mm_storeu_si128(row.as_mut_ptr().cast(), sum) };
    row
}

#[cfg(test)]
mod tests {
    use super::super::bits::{numbers, same};
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_function_gives_the_bits_of_its_portable_copy() {
        let random = &mut fastrand::Rng::with_seed(2);
        for kind in 0..=u8::MAX {
            for n in [1, 7, 8, 33, 4096] {
                let x = if n == 4096 {
                    (0..n).map(|_| f32::from_bits(random.u32(..))).collect()
                } else {
                    numbers(random, n, true)
                };
                let (mut plain, mut fast) = (x.clone(), x.clone());
                crate::functions::apply(kind, 0.7, 1.3, &mut plain);
                map(kind, 0.7, 1.3, &mut fast);
                same(&plain, &fast, &std::format!("function {kind}, chosen"));
                if has_avx2() {
                    let mut fast = x;
                    // SAFETY: the processor has AVX2.
                    unsafe { map_avx2(kind, 0.7, 1.3, &mut fast) }
                    same(&plain, &fast, &std::format!("function {kind}, AVX2"));
                }
            }
        }
    }

    #[test]
    fn quantized_layers_give_the_bits_of_the_portable_function_on_every_instruction_set() {
        let random = &mut fastrand::Rng::with_seed(4);
        for (steps, n_blocks) in (0..6).flat_map(|k| (0..20).map(move |b| (k, b))).chain([(64, 64)]) {
            let len = block_words(steps * INPUT_STEP);
            for words in [len * n_blocks, len * n_blocks * 2 / 3] {
                // Any bits, so that sums wrap as well.
                let w: Vec<u32> = (0..words).map(|_| random.u32(..)).collect();
                let x: Vec<[u32; 4]> = (0..steps).map(|_| core::array::from_fn(|_| random.u32(..))).collect();
                let finish = |sums: [i32; 4], last: [u32; 4]| (sums, last);
                let fill = || std::vec![([7; 4], [7; 4]); n_blocks];
                let (mut plain, mut fast) = (fill(), fill());
                quantized::portable::blocks(&w, &x, &mut plain, finish);
                blocks(&w, &x, &mut fast, finish);
                assert_eq!(plain, fast, "chosen, {steps} steps, {n_blocks} blocks");
                if has_avx2() {
                    let mut fast = fill();
                    // SAFETY: the processor has AVX2.
                    each(&w, &x, &mut fast, finish, |w, sums| unsafe { sums_avx2(w, &x, sums) });
                    assert_eq!(plain, fast, "AVX2, {steps} steps, {n_blocks} blocks");
                }
            }
        }
    }
}
