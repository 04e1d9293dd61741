//! Inner loops over slices. The order of additions is part of the contract: it makes host and
//! controller agree bit for bit. Control flow depends on lengths only.

use core::cell::Cell;

mod gemm;

pub(crate) use gemm::gemm;

/// `y = f(y)`.
#[inline(always)]
pub(crate) fn map(y: &mut [f32], f: impl Fn(f32) -> f32) {
    for place in y {
        *place = f(*place);
    }
}

/// `y = f(y, b)`.
#[inline(always)]
pub(crate) fn zip(y: &mut [f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for (place, &b) in y.iter_mut().zip(b) {
        *place = f(*place, b);
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
