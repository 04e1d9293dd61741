//! Operators that move numbers: along strides, by a table, or by computed indices.

use tendon_wire::image::{VIEW_RANK, View};

/// `y[to] = x[from]` for all indices of the view, whose bounds were checked.
pub(crate) fn move_view(view: &View, x: &[f32], y: &mut [f32]) {
    let [outer @ .., last] = view.dims;
    let [from_strides @ .., from_last] = view.from;
    let [to_strides @ .., to_last] = view.to;
    let mut index = [0u32; VIEW_RANK - 1];
    let (mut from, mut to) = (view.from_offset, view.to_offset);
    loop {
        if (from_last, to_last) == (1, 1) {
            let (from, to, len) = (from as usize, to as usize, last as usize);
            let source = x.get(from..from.saturating_add(len)).unwrap_or(&[]);
            let target = y.get_mut(to..to.saturating_add(len)).unwrap_or(&mut []);
            super::copy(source, target);
        } else {
            let (mut from, mut to) = (from, to);
            for _ in 0..last {
                if let (Some(&value), Some(place)) = (x.get(from as usize), y.get_mut(to as usize)) {
                    *place = value;
                }
                from = from.wrapping_add_signed(from_last);
                to = to.wrapping_add_signed(to_last);
            }
        }
        // The next index of the outer dimensions, the last of them first.
        let mut axis = VIEW_RANK - 1;
        loop {
            let Some(next) = axis.checked_sub(1) else { return };
            axis = next;
            let (Some(place), Some(&size), Some(&from_stride), Some(&to_stride)) =
                (index.get_mut(axis), outer.get(axis), from_strides.get(axis), to_strides.get(axis))
            else {
                return;
            };
            *place = place.wrapping_add(1);
            from = from.wrapping_add_signed(from_stride);
            to = to.wrapping_add_signed(to_stride);
            if *place < size {
                break;
            }
            // Back to the start of this dimension.
            from = from.wrapping_add_signed(from_stride.wrapping_mul(size as i32).wrapping_neg());
            to = to.wrapping_add_signed(to_stride.wrapping_mul(size as i32).wrapping_neg());
            *place = 0;
        }
    }
}

/// `y[i] = x[table[i]]`.
pub(crate) fn gather(x: &[f32], table: &[f32], y: &mut [f32]) {
    for (place, index) in y.iter_mut().zip(table) {
        *place = x.get(index.to_bits() as usize).copied().unwrap_or(0.0);
    }
}

/// A computed index into an axis of `n`: negative ones count from its end, others are clipped.
#[inline(always)]
fn index(value: f32, n: usize) -> usize {
    let value = value as i32;
    let value = if value < 0 { value.saturating_add(n as i32) } else { value };
    (value.max(0) as usize).min(n.saturating_sub(1))
}

/// `y[o, j, i] = x[o, index, i]`; `indices` `[m]`, or `[outer, m, inner]` when `each`.
pub(crate) fn take(x: &[f32], indices: &[f32], y: &mut [f32], [n, inner, m]: [usize; 3], each: bool) {
    let blocks = x.chunks(n.saturating_mul(inner).max(1));
    for (o, (block, out)) in blocks.zip(y.chunks_mut(m.saturating_mul(inner).max(1))).enumerate() {
        for (j, row) in out.chunks_mut(inner.max(1)).enumerate() {
            if each {
                let first = o.wrapping_mul(m).wrapping_add(j).wrapping_mul(inner);
                let own = indices.get(first..).unwrap_or(&[]);
                for (i, (place, &value)) in row.iter_mut().zip(own).enumerate() {
                    let from = index(value, n).wrapping_mul(inner).wrapping_add(i);
                    *place = block.get(from).copied().unwrap_or(0.0);
                }
            } else {
                let from = index(indices.get(j).copied().unwrap_or(0.0), n).wrapping_mul(inner);
                super::copy(block.get(from..from.saturating_add(inner)).unwrap_or(&[]), row);
            }
        }
    }
}

/// `y[o, index, i] = f(y[o, index, i], updates[o, j, i])`, with `indices` as for [`take`].
pub(crate) fn scatter(
    kind: u8,
    y: &mut [f32],
    indices: &[f32],
    updates: &[f32],
    [n, inner, m]: [usize; 3],
    each: bool,
) {
    let f = |old: f32, new: f32| match kind {
        1 => old + new,
        2 => old * new,
        3 => {
            if new > old {
                new
            } else {
                old
            }
        }
        4 => {
            if new < old {
                new
            } else {
                old
            }
        }
        _ => new,
    };
    let blocks = y.chunks_mut(n.saturating_mul(inner).max(1));
    for (o, (block, parts)) in blocks.zip(updates.chunks(m.saturating_mul(inner).max(1))).enumerate() {
        for (j, row) in parts.chunks(inner.max(1)).enumerate() {
            for (i, &new) in row.iter().enumerate() {
                let own = o.wrapping_mul(m).wrapping_add(j).wrapping_mul(inner).wrapping_add(i);
                let value = indices.get(if each { own } else { j }).copied().unwrap_or(0.0);
                let to = index(value, n).wrapping_mul(inner).wrapping_add(i);
                if let Some(place) = block.get_mut(to) {
                    *place = f(*place, new);
                }
            }
        }
    }
}
