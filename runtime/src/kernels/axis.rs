//! Operators along the axis `n` of a tensor `[outer, n, inner]`, and products of two computed matrices.

use crate::functions::number;
use crate::math::exp;
use core::hint::select_unpredictable as select;
use tendon_wire::image::reduce as by;

/// Elements of one line along the axis: `block[i + j * inner]`.
#[inline(always)]
fn line(block: &[f32], i: usize, inner: usize) -> impl Iterator<Item = &f32> {
    block.get(i..).unwrap_or(&[]).iter().step_by(inner.max(1))
}

/// `f` of every line: `y` `[outer, inner]`.
#[inline(always)]
fn lines<'x, I: Iterator<Item = &'x f32>>(
    x: &'x [f32],
    y: &mut [f32],
    [n, inner]: [usize; 2],
    walk: impl Fn(&'x [f32], usize, usize) -> I,
    f: impl Fn(I) -> f32,
) {
    for (block, out) in x.chunks(n.saturating_mul(inner).max(1)).zip(y.chunks_mut(inner.max(1))) {
        for (i, place) in out.iter_mut().enumerate() {
            *place = f(walk(block, i, inner));
        }
    }
}

/// Reduces the axis by `kind` of [`tendon_wire::image::reduce`].
pub(crate) fn reduce(kind: u8, x: &[f32], y: &mut [f32], sizes: [usize; 2]) {
    let count = sizes[0] as f32;
    let sum = |x: &[f32], y: &mut [f32], f: fn(f32) -> f32| {
        lines(x, y, sizes, line, |values| values.fold(0.0, |sum, &v| sum + f(v)));
    };
    match kind {
        by::SUM => sum(x, y, |v| v),
        by::MEAN => {
            sum(x, y, |v| v);
            y.iter_mut().for_each(|place| *place /= count);
        }
        by::MAX => lines(x, y, sizes, line, |values| {
            values.fold(f32::NEG_INFINITY, |best, &v| select((v > best) | v.is_nan(), v, best))
        }),
        by::MIN => lines(x, y, sizes, line, |values| {
            values.fold(f32::INFINITY, |best, &v| select((v < best) | v.is_nan(), v, best))
        }),
        by::PROD => lines(x, y, sizes, line, |values| values.fold(1.0, |product, &v| product * v)),
        by::L1 => sum(x, y, f32::abs),
        _ => sum(x, y, |v| v * v),
    }
}

/// Index of the largest or smallest element of every line.
pub(crate) fn arg(kind: u8, x: &[f32], y: &mut [f32], sizes: [usize; 2]) {
    let (smallest, last) = (kind & 1 != 0, kind & 2 != 0);
    lines(x, y, sizes, line, |values| {
        let mut best = (f32::NEG_INFINITY, 0.0, 0.0);
        for &v in values {
            let v = select(smallest, -v, v);
            let better = (v > best.0) | ((v == best.0) & last);
            best = (select(better, v, best.0), select(better, best.2, best.1), best.2 + 1.0);
        }
        best.1
    });
}

/// Indices of the `k` largest or smallest elements of every line, in order; equal ones by index.
/// `y` `[outer, k, inner]`.
pub(crate) fn top(kind: u8, x: &[f32], y: &mut [f32], [n, inner]: [usize; 2], k: usize) {
    let blocks = x.chunks(n.saturating_mul(inner).max(1));
    for (block, out) in blocks.zip(y.chunks_mut(k.saturating_mul(inner).max(1))) {
        for i in 0..inner {
            // The one before: what follows is smaller, or equal with a larger index.
            let mut before = (f32::INFINITY, -1.0);
            for place in out.get_mut(i..).unwrap_or(&mut []).iter_mut().step_by(inner.max(1)) {
                let (mut best, mut index) = ((f32::NEG_INFINITY, -1.0), 0.0);
                for &v in line(block, i, inner) {
                    let v = select(kind & 1 != 0, -v, v);
                    let follows = (v < before.0) | ((v == before.0) & (index > before.1));
                    let better = follows & ((v > best.0) | (best.1 < 0.0));
                    best = (select(better, v, best.0), select(better, index, best.1));
                    index += 1.0;
                }
                *place = best.1;
                before = best;
            }
        }
    }
}

/// Running sums or products along the axis, into `y`, which holds `x`.
pub(crate) fn cumulate(kind: u8, y: &mut [f32], [n, inner]: [usize; 2]) {
    let (exclusive, reverse, product) = (kind & 1 != 0, kind & 2 != 0, kind & 4 != 0);
    for block in y.chunks_mut(n.saturating_mul(inner).max(1)) {
        for i in 0..inner {
            let mut sum = if product { 1.0 } else { 0.0 };
            let mut step = |place: &mut f32| {
                let next = if product { sum * *place } else { sum + *place };
                *place = if exclusive { sum } else { next };
                sum = next;
            };
            let places = block.get_mut(i..).unwrap_or(&mut []).iter_mut().step_by(inner.max(1));
            if reverse {
                places.rev().for_each(&mut step);
            } else {
                places.for_each(&mut step);
            }
        }
    }
}

/// Softmax along the axis, or its logarithm, into `y`, which holds `x`.
pub(crate) fn softmax(logarithm: bool, y: &mut [f32], [n, inner]: [usize; 2]) {
    for block in y.chunks_mut(n.saturating_mul(inner).max(1)) {
        for i in 0..inner {
            let largest = line(block, i, inner).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
            let mut sum = 0.0;
            for place in block.get_mut(i..).unwrap_or(&mut []).iter_mut().step_by(inner.max(1)) {
                let shifted = *place - largest;
                let e = exp(shifted);
                // `exp` is clipped; what is that small counts as 0, as a mask of -inf must.
                let e = e * number(shifted > -87.0);
                sum += e;
                *place = if logarithm { shifted } else { e };
            }
            let log_sum = if logarithm { crate::functions::log(sum) } else { 0.0 };
            let scale = 1.0 / sum;
            for place in block.get_mut(i..).unwrap_or(&mut []).iter_mut().step_by(inner.max(1)) {
                *place = if logarithm { *place - log_sum } else { *place * scale };
            }
        }
    }
}

/// `y = a b` for one pair: `a` `[m, k]`, `b` `[k, n]` or, transposed, `[n, k]`, `y` `[m, n]`.
pub(crate) fn matmul(a: &[f32], b: &[f32], y: &mut [f32], [k, n]: [usize; 2], transposed: bool) {
    for (row, out) in a.chunks(k.max(1)).zip(y.chunks_mut(n.max(1))) {
        if transposed {
            for (place, column) in out.iter_mut().zip(b.chunks(k.max(1))) {
                *place = row.iter().zip(column).fold(0.0, |sum, (&a, &b)| sum + a * b);
            }
        } else {
            out.iter_mut().for_each(|place| *place = 0.0);
            for (&a, values) in row.iter().zip(b.chunks(n.max(1))) {
                for (place, &b) in out.iter_mut().zip(values) {
                    *place += a * b;
                }
            }
        }
    }
}
