//! Vector kernels of this computer against the portable functions, bit for bit.
extern crate std;

use super::gemm::portable;
#[cfg(neon)]
use super::neon as vector;
use super::quantized;
#[cfg(vectors)]
use super::x86 as vector;
use std::vec::Vec;
use tendon_wire::image::quantized_block_words;

/// Ordinary numbers, zeros of both signs, subnormal, huge, infinite and NaN.
pub(super) fn numbers(random: &mut fastrand::Rng, n: usize, wild: bool) -> Vec<f32> {
    const WILD: [f32; 8] = [0.0, -0.0, 1e-40, -3e38, 3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let mut one = || {
        let wild = wild && random.u8(..) < 8;
        if wild { WILD[random.usize(..8)] } else { random.f32() * 4.0 - 2.0 }
    };
    (0..n).map(|_| one()).collect()
}

pub(super) fn same(a: &[f32], b: &[f32], what: &str) {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{what}, {i}: {a:e} against {b:e}");
    }
}

#[test]
fn dense_layers_give_the_bits_of_the_portable_function() {
    let random = &mut fastrand::Rng::with_seed(1);
    for (n_in, n_blocks) in (0..14).flat_map(|k| (0..20).map(move |b| (k, b))).chain([(48, 128), (515, 33)]) {
        for wild in [false, true] {
            let w = numbers(random, 4 * n_in * n_blocks, wild);
            let (x, b) = (numbers(random, n_in, wild), numbers(random, 4 * n_blocks, wild));
            let b = b.as_chunks().0;
            let fill = || std::vec![[7.0; 4]; n_blocks];
            let (mut plain, mut fast) = (fill(), fill());
            portable::<false>(&w, b, &x, &mut plain);
            vector::gemm::<false>(&w, b, &x, &mut fast);
            same(plain.as_flattened(), fast.as_flattened(), "linear");
            portable::<true>(&w, b, &x, &mut plain);
            vector::gemm::<true>(&w, b, &x, &mut fast);
            same(plain.as_flattened(), fast.as_flattened(), "relu");
            // Weights and biases that end too early stop both at the same block.
            let (mut plain, mut fast) = (fill(), fill());
            let (w, b) = (&w[..w.len() * 2 / 3], &b[..b.len() * 3 / 4]);
            portable::<false>(w, b, &x, &mut plain);
            vector::gemm::<false>(w, b, &x, &mut fast);
            same(plain.as_flattened(), fast.as_flattened(), "short");
        }
    }
}

#[test]
fn quantizing_gives_the_bits_of_the_portable_function() {
    let random = &mut fastrand::Rng::with_seed(3);
    for n in [0, 1, 2, 3, 16, 1001] {
        let mut x = numbers(random, 4 * n, true);
        for (i, x) in x.iter_mut().enumerate() {
            *x *= [1.0, 1e4, 1e5][i % 3];
            *x = if i % 5 == 0 { x.trunc() + 0.5 } else { *x };
        }
        let x = x.as_chunks().0;
        let (mut plain, mut fast) = (std::vec![[9; 2]; n], std::vec![[9; 2]; n]);
        quantized::portable::fours(x, 0.5, &mut plain);
        vector::quantize(x, 0.5, &mut fast);
        assert_eq!(plain, fast);
    }
}

#[test]
fn quantized_layers_give_the_bits_of_the_portable_function() {
    let random = &mut fastrand::Rng::with_seed(4);
    for (steps, n_blocks) in (0..6).flat_map(|k| (0..20).map(move |b| (k, b))).chain([(64, 64)]) {
        let len = quantized_block_words(steps * 8);
        for words in [len * n_blocks, len * n_blocks * 2 / 3] {
            // Any bits, so that sums wrap as well.
            let w: Vec<u32> = (0..words).map(|_| random.u32(..)).collect();
            let x: Vec<[u32; 4]> = (0..steps).map(|_| core::array::from_fn(|_| random.u32(..))).collect();
            let (mut plain, mut fast) = (std::vec![[7; 2]; n_blocks], std::vec![[7; 2]; n_blocks]);
            quantized::portable::blocks(&w, &x, &mut plain, quantized::finish_i16::<false>);
            vector::quantized_to_i16::<false>(&w, &x, &mut fast);
            assert_eq!(plain, fast, "{steps} steps, {n_blocks} blocks");
            quantized::portable::blocks(&w, &x, &mut plain, quantized::finish_i16::<true>);
            vector::quantized_to_i16::<true>(&w, &x, &mut fast);
            assert_eq!(plain, fast, "{steps} steps, {n_blocks} blocks, relu");
            let (mut plain, mut fast) = (std::vec![[7.0; 4]; n_blocks], std::vec![[7.0; 4]; n_blocks]);
            quantized::portable::blocks(&w, &x, &mut plain, quantized::finish_f32);
            vector::quantized_to_f32(&w, &x, &mut fast);
            same(plain.as_flattened(), fast.as_flattened(), "as numbers");
        }
    }
}
