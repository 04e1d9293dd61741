//! Dense layers: packed weights times vectors.

use tendon_wire::image::GEMM_ROWS;

/// `y = f(W x + b)`. `w`: blocks of [`GEMM_ROWS`] rows, interleaved; `b`: one value per padded row.
#[inline(always)]
pub(crate) fn gemm(w: &[f32], b: &[f32], x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    let mut rest = w;
    let (biases, _) = b.as_chunks::<GEMM_ROWS>();
    for (out, bias) in y.chunks_mut(GEMM_ROWS).zip(biases) {
        let Some((block, after)) = rest.split_at_checked(x.len().wrapping_mul(GEMM_ROWS)) else { return };
        rest = after;
        let [mut s0, mut s1, mut s2, mut s3] = *bias;
        for (&v, &[w0, w1, w2, w3]) in x.iter().zip(block.as_chunks::<GEMM_ROWS>().0) {
            s0 += w0 * v;
            s1 += w1 * v;
            s2 += w2 * v;
            s3 += w3 * v;
        }
        for (place, sum) in out.iter_mut().zip([s0, s1, s2, s3]) {
            *place = f(sum);
        }
    }
}
