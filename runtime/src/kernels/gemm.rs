//! Dense layers: packed weights times vectors.

use super::side_by_side;
use crate::math;
use tendon_wire::image::GEMM_ROWS;

#[cfg(arm_fpu_dsp)]
use super::arm::gemm as blocks;
#[cfg(neon)]
use super::neon::gemm as blocks;
#[cfg(vectors)]
use super::x86::gemm as blocks;
#[cfg(not(any(arm_fpu_dsp, neon, vectors)))]
use portable as blocks;

/// `y = W x + b`. `w`: blocks of [`GEMM_ROWS`] rows, interleaved; `b`: one value per padded row.
/// Writes nothing where `w` or `b` is too short.
pub(crate) fn gemm_linear(w: &[f32], b: &[f32], x: &[f32], y: &mut [f32]) {
    padded::<false>(w, b, x, y);
}

/// `y = max(W x + b, 0)`, as [`gemm_linear`].
pub(crate) fn gemm_relu(w: &[f32], b: &[f32], x: &[f32], y: &mut [f32]) {
    padded::<true>(w, b, x, y);
}

/// One of the two above for each run of `n_in` elements of `x` and of `n_out` of `y`.
#[inline(never)]
pub(crate) fn gemm_batch(
    relu: bool,
    [w, b]: [&[f32]; 2],
    x: &[f32],
    y: &mut [f32],
    [n_in, n_out]: [usize; 2],
) {
    side_by_side(
        x,
        n_in,
        y,
        n_out,
        |x, y| {
            if relu { gemm_relu(w, b, x, y) } else { gemm_linear(w, b, x, y) }
        },
    );
}

/// Whole blocks in place, the last rows through a block of their own.
#[inline(always)]
fn padded<const RELU: bool>(w: &[f32], b: &[f32], x: &[f32], y: &mut [f32]) {
    let (biases, _) = b.as_chunks::<GEMM_ROWS>();
    let (whole, last) = y.as_chunks_mut::<GEMM_ROWS>();
    blocks::<RELU>(w, biases, x, whole);
    if !last.is_empty() {
        last_rows::<RELU>(w, biases, x, whole.len(), last);
    }
}

#[cold]
#[inline(never)]
fn last_rows<const RELU: bool>(w: &[f32], b: &[[f32; GEMM_ROWS]], x: &[f32], done: usize, y: &mut [f32]) {
    let start = done.wrapping_mul(GEMM_ROWS).wrapping_mul(x.len());
    let (Some(w), Some(b)) = (w.get(start..), b.get(done..)) else { return };
    let mut block = [[0.0; GEMM_ROWS]];
    blocks::<RELU>(w, b, x, &mut block);
    super::copy(block.as_flattened(), y);
}

/// The order of operations that every other version keeps: per row from the bias on, one input after the other,
/// a rounded product and a rounded sum each.
#[cfg_attr(arm_fpu_dsp, allow(dead_code, reason = "the assembly stands in for it"))]
pub(super) fn portable<const RELU: bool>(
    w: &[f32],
    b: &[[f32; GEMM_ROWS]],
    x: &[f32],
    y: &mut [[f32; GEMM_ROWS]],
) {
    let mut rest = w;
    for (out, bias) in y.iter_mut().zip(b) {
        let Some((block, after)) = rest.split_at_checked(x.len().wrapping_mul(GEMM_ROWS)) else { return };
        rest = after;
        let [mut s0, mut s1, mut s2, mut s3] = *bias;
        for (&v, &[w0, w1, w2, w3]) in x.iter().zip(block.as_chunks::<GEMM_ROWS>().0) {
            s0 += w0 * v;
            s1 += w1 * v;
            s2 += w2 * v;
            s3 += w3 * v;
        }
        *out = [s0, s1, s2, s3];
        if RELU {
            super::map(out, math::relu);
        }
    }
}
