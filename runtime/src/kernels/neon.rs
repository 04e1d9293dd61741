//! Inner loops for AArch64, whose base set has NEON: nothing is asked at run time.
//!
//! Each gives the bits of the portable function beside its caller: vectors go across rows, so that every row keeps its
//! order of operations, a rounded product and a rounded sum per input (no fused multiply-add). Integer sums wrap, so
//! their order is free. Control flow depends on lengths only.
#![allow(unsafe_code, reason = "vector loads and stores; every length is checked first")]

use super::gemm::portable;
use super::quantized;
use core::arch::aarch64::*;
use tendon_wire::image::GEMM_ROWS;

/// Blocks at once: as many sums under way as hide the time an addition takes.
const BLOCKS: usize = 8;

/// As `gemm::portable`.
pub(super) fn gemm<const RELU: bool>(
    mut w: &[f32],
    mut b: &[[f32; GEMM_ROWS]],
    x: &[f32],
    mut y: &mut [[f32; GEMM_ROWS]],
) {
    let len = x.len().wrapping_mul(GEMM_ROWS).wrapping_mul(BLOCKS);
    while let Some((now, after)) = w.split_at_checked(len)
        && let Some((bias, biases)) = b.split_first_chunk::<BLOCKS>()
        && y.len() >= BLOCKS
        && let Some((out, rest)) = core::mem::take(&mut y).split_first_chunk_mut::<BLOCKS>()
    {
        group::<RELU>(now, bias, x, out);
        (w, b, y) = (after, biases, rest);
    }
    portable::<RELU>(w, b, x, y);
}

/// `w`: `4 * BLOCKS * x.len()`; another length writes nothing.
#[inline(always)]
fn group<const RELU: bool>(
    w: &[f32],
    b: &[[f32; GEMM_ROWS]; BLOCKS],
    x: &[f32],
    y: &mut [[f32; GEMM_ROWS]; BLOCKS],
) {
    let block = x.len().wrapping_mul(GEMM_ROWS);
    if w.len() != block.wrapping_mul(BLOCKS) {
        return;
    }
    // SAFETY: block `i` starts at `i * block` of `w` and has four elements for each `k < x.len()`; biases and outputs
    // are arrays of four.
    unsafe {
        let mut sums = b.each_ref().map(|bias| vld1q_f32(bias.as_ptr()));
        for (k, &input) in x.iter().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                let weights = vld1q_f32(w.as_ptr().add(i * block + GEMM_ROWS * k));
                *sum = vaddq_f32(*sum, vmulq_n_f32(weights, input));
            }
        }
        for (place, mut sum) in y.iter_mut().zip(sums) {
            if RELU {
                // As `math::relu`: 0 where the sum is at most 0, NaN stays.
                let low = vcleq_f32(sum, vdupq_n_f32(0.0));
                sum = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(sum), low));
            }
            vst1q_f32(place.as_mut_ptr(), sum);
        }
    }
}

/// As `quantized::portable::fours`.
pub(super) fn quantize(x: &[[f32; 4]], inverse_scale: f32, y: &mut [[u32; 2]]) {
    for (place, x) in y.iter_mut().zip(x) {
        // SAFETY: four `f32` in, 8 bytes out.
        unsafe {
            // To nearest, halves to even; NaN becomes 0; both steps saturate.
            let x = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x.as_ptr()), inverse_scale));
            vst1_u32(place.as_mut_ptr(), vreinterpret_u32_s16(vqmovn_s32(x)));
        }
    }
}

/// As `quantized::portable::to_i16`.
pub(super) fn quantized_to_i16<const RELU: bool>(w: &[u32], x: &[[u32; 4]], y: &mut [[u32; 2]]) {
    quantized::portable::each_block(w, x, y, quantized::finish_i16::<RELU>, products);
}

/// As `quantized::portable::to_f32`.
pub(super) fn quantized_to_f32(w: &[u32], x: &[[u32; 4]], y: &mut [[f32; GEMM_ROWS]]) {
    quantized::portable::each_block(w, x, y, quantized::finish_f32, products);
}

/// Sums of the products of one block, whose words come four for half of the inputs of a step.
#[inline(always)]
fn products(weights: &[[u32; GEMM_ROWS]], x: &[[u32; 4]]) -> [i32; GEMM_ROWS] {
    let mut out = [0; GEMM_ROWS];
    // SAFETY: 16 bytes are read from `weights` and `x` each, and written to `out`.
    unsafe {
        let mut sums = [vdupq_n_s32(0); GEMM_ROWS];
        for (weights, x) in weights.as_chunks::<2>().0.iter().zip(x) {
            let x = vreinterpretq_s16_u32(vld1q_u32(x.as_ptr()));
            // Inputs 0, 2, 1, 3 of each four, as the bytes lie.
            let (even, odd) = (vuzp1q_s16(x, x), vuzp2q_s16(x, x));
            let x = vzip1q_s32(vreinterpretq_s32_s16(even), vreinterpretq_s32_s16(odd));
            let x = vreinterpretq_s16_s32(x);
            for (weights, x) in weights.iter().zip([vget_low_s16(x), vget_high_s16(x)]) {
                let weights = vreinterpretq_s8_u32(vld1q_u32(weights.as_ptr()));
                let first = vmovl_s8(vget_low_s8(weights));
                let second = vmovl_s8(vget_high_s8(weights));
                let rows =
                    [vget_low_s16(first), vget_high_s16(first), vget_low_s16(second), vget_high_s16(second)];
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = vmlal_s16(*sum, row, x);
                }
            }
        }
        let [a, b, c, d] = sums;
        vst1q_s32(out.as_mut_ptr(), vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
    }
    out
}
