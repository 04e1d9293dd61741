//! Inner loops over slices. The order of additions is part of the contract: it makes host and
//! controller agree bit for bit. Control flow depends on lengths only.

use crate::math;
use core::cell::Cell;

#[cfg(arm_fpu_dsp)]
mod arm;
mod axis;
#[cfg(all(test, any(neon, vectors)))]
mod bits;
mod gemm;
mod moves;
#[cfg(neon)]
mod neon;
pub(crate) mod quantized;
mod window;
#[cfg(vectors)]
pub(crate) mod x86;

#[cfg(arm_fpu_dsp)]
use arm::{
    elu as elu_fours, lstm as lstm_fours, sigmoid as sigmoid_fours, swish as swish_fours, tanh as tanh_fours,
};
pub(crate) use axis::{arg, cumulate, matmul, reduce, softmax, top};
pub(crate) use gemm::{gemm_batch, gemm_linear, gemm_relu};
pub(crate) use moves::{gather, move_view, scatter, take};
pub(crate) use window::{conv, pool};

#[cfg(not(arm_fpu_dsp))]
use portable::{elu_fours, lstm_fours, sigmoid_fours, swish_fours, tanh_fours};

/// What `arm.rs` does, for every other processor.
#[cfg(not(arm_fpu_dsp))]
mod portable {
    use super::map;
    use crate::math;

    #[inline(always)]
    pub(super) fn tanh_fours(y: &mut [[f32; 4]]) {
        map(y.as_flattened_mut(), math::tanh);
    }

    #[inline(always)]
    pub(super) fn sigmoid_fours(y: &mut [[f32; 4]]) {
        map(y.as_flattened_mut(), math::sigmoid);
    }

    #[inline(always)]
    pub(super) fn swish_fours(y: &mut [[f32; 4]]) {
        map(y.as_flattened_mut(), math::swish);
    }

    #[inline(always)]
    pub(super) fn elu_fours(y: &mut [[f32; 4]], alpha: f32) {
        map(y.as_flattened_mut(), |x| math::elu(x, alpha));
    }

    /// Does nothing: all units are left to the loop behind it.
    #[inline(always)]
    pub(super) fn lstm_fours(_gates: [&[f32]; 4], _cell: &mut [f32], _hidden: &mut [f32]) -> usize {
        0
    }
}

/// `y = tanh(y)`.
#[inline(always)]
pub(crate) fn tanh(y: &mut [f32]) {
    let (fours, rest) = y.as_chunks_mut::<4>();
    tanh_fours(fours);
    map(rest, math::tanh);
}

/// `y = sigmoid(y)`.
#[inline(always)]
pub(crate) fn sigmoid(y: &mut [f32]) {
    let (fours, rest) = y.as_chunks_mut::<4>();
    sigmoid_fours(fours);
    map(rest, math::sigmoid);
}

/// `y = y sigmoid(y)`.
#[inline(always)]
pub(crate) fn swish(y: &mut [f32]) {
    let (fours, rest) = y.as_chunks_mut::<4>();
    swish_fours(fours);
    map(rest, math::swish);
}

/// `y = elu(y)`.
#[inline(always)]
pub(crate) fn elu(y: &mut [f32], alpha: f32) {
    let (fours, rest) = y.as_chunks_mut::<4>();
    elu_fours(fours, alpha);
    map(rest, |x| math::elu(x, alpha));
}

/// Units of an LSTM. `gates`: `[4, n]` sums of the input, output, forget and cell gates; `y`: `[2, n]`, on entry the
/// cell in its first half, afterwards cell and output.
pub(crate) fn lstm(gates: &[f32], y: &mut [f32]) {
    let n = y.len() / 2;
    let (cell, hidden) = y.split_at_mut(n);
    let Some((i, rest)) = gates.split_at_checked(n) else { return };
    let Some((o, rest)) = rest.split_at_checked(n) else { return };
    let Some((f, g)) = rest.split_at_checked(n) else { return };
    let done = lstm_fours([i, o, f, g], cell, hidden);
    let units = i.iter().zip(o).zip(f.iter().zip(g)).zip(cell.iter_mut().zip(hidden)).skip(done);
    for (((i, o), (f, g)), (c, h)) in units {
        (*c, *h) = math::lstm([*i, *o, *f, *g], *c);
    }
}

/// `y = f(y)`.
#[inline(always)]
pub(crate) fn map(y: &mut [f32], f: impl Fn(f32) -> f32) {
    for place in y {
        *place = f(*place);
    }
}

/// `y[i] = f(y[i], b[j])`, `j = i / inner % b.len()`.
#[inline(always)]
pub(crate) fn zip(y: &mut [f32], b: &[f32], inner: usize, f: impl Fn(f32, f32) -> f32) {
    for part in y.chunks_mut(b.len().saturating_mul(inner).max(1)) {
        if inner == 1 {
            for (place, &b) in part.iter_mut().zip(b) {
                *place = f(*place, b);
            }
        } else {
            for (group, &b) in part.chunks_mut(inner.max(1)).zip(b) {
                for place in group {
                    *place = f(*place, b);
                }
            }
        }
    }
}

/// Calls `f` with each run of `n_x` elements of `x` and of `n_y` of `y`. (`zip` of two `chunks` keeps a division by
/// zero that LLVM cannot rule out.)
#[inline(always)]
pub(crate) fn side_by_side(
    mut x: &[f32],
    n_x: usize,
    mut y: &mut [f32],
    n_y: usize,
    mut f: impl FnMut(&[f32], &mut [f32]),
) {
    while n_y > 0
        && let Some((x_now, x_rest)) = x.split_at_checked(n_x)
        && let Some((y_now, y_rest)) = core::mem::take(&mut y).split_at_mut_checked(n_y)
    {
        f(x_now, y_now);
        (x, y) = (x_rest, y_rest);
    }
}

/// `y = x`.
#[inline(always)]
pub(crate) fn copy(x: &[f32], y: &mut [f32]) {
    for (place, &x) in y.iter_mut().zip(x) {
        *place = x;
    }
}

/// Moves everything `by` places towards the start; the last `by` places keep their values.
pub(crate) fn shift_left(values: &mut [f32], by: usize) {
    let cells = Cell::from_mut(values).as_slice_of_cells();
    for (to, from) in cells.iter().zip(cells.get(by..).unwrap_or(&[])) {
        to.set(from.get());
    }
}
