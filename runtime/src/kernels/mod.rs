//! Inner loops over slices. The order of additions is part of the contract: it makes host and
//! controller agree bit for bit. Control flow depends on lengths only.

use core::cell::Cell;

mod axis;
mod gemm;
mod moves;
mod window;

pub(crate) use axis::{arg, cumulate, matmul, reduce, softmax, top};
pub(crate) use gemm::gemm;
pub(crate) use moves::{gather, move_view, scatter, take};
pub(crate) use window::{conv, pool};

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
