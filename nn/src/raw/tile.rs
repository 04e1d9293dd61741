//! The one inner loop of every matrix product here.

use super::vector::Vector;

/// Columns of a panel of [`super::Panels`].
pub(super) const PANEL: usize = 32;

/// What a product starts from.
#[derive(Clone, Copy)]
pub(super) enum From {
    Zero,
    /// One row, added to all.
    Row(*const f32),
    /// The result itself.
    Result,
}

/// A product `C[i, j] = from + sum over p of A[i, p] B[p, j]`, summed in the order of `p`: the bits of an element depend
/// neither on its place in a tile nor on the width of vectors.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    /// `A[i, p]` is at `i * a_row + p * a_step`; one of them is 1.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    /// `B[p, j]` is at `j / PANEL * b_panel + p * b_step + j % PANEL`.
    pub(super) b: *const f32,
    pub(super) b_panel: usize,
    pub(super) b_step: usize,
    pub(super) from: From,
    /// `C[i, j]` is at `i * c_row + j`.
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
}

/// Tiles of `MR x NV` vectors, then smaller ones over what remains; `strip(first, rows)` after each band of rows.
///
/// # Safety
/// The processor has the instructions of `V`; everything that [`Product`] describes lies in memory that may be read, and
/// `c` written.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const MR: usize, const NV: usize>(
    product: &Product,
    mut strip: impl FnMut(usize, usize),
) {
    let mut row = 0;
    while row < product.rows {
        let rows = product.rows - row;
        // SAFETY: the caller's; `row + height <= rows` in every arm.
        let height = unsafe {
            match rows {
                rows if rows >= MR => band::<V, MR, NV>(product, row),
                8.. if MR > 8 => band::<V, 8, NV>(product, row),
                4.. => band::<V, 4, NV>(product, row),
                2.. => band::<V, 2, NV>(product, row),
                _ => band::<V, 1, NV>(product, row),
            }
        };
        strip(row, height);
        row += height;
    }
}

/// `MR` rows from `row` on; returns `MR`.
#[inline(always)]
unsafe fn band<V: Vector, const MR: usize, const NV: usize>(product: &Product, row: usize) -> usize {
    let mut column = 0;
    // SAFETY: `column` stays below `columns`, and a tile that is not full is masked.
    unsafe {
        while column + NV * V::LANES <= product.columns {
            tile::<V, MR, NV, false>(product, row, column, V::LANES);
            column += NV * V::LANES;
        }
        while column < product.columns {
            let left = product.columns - column;
            if left >= V::LANES {
                tile::<V, MR, 1, false>(product, row, column, V::LANES);
            } else {
                tile::<V, MR, 1, true>(product, row, column, left);
            }
            column += V::LANES;
        }
    }
    MR
}

/// One tile whose sums stay in registers. `MASKED`: of its last vector only `lanes` columns are there.
#[inline(always)]
unsafe fn tile<V: Vector, const MR: usize, const NV: usize, const MASKED: bool>(
    product: &Product,
    row: usize,
    column: usize,
    lanes: usize,
) {
    // SAFETY: the caller's; `row + MR <= rows`, and columns from `column` on are there up to the mask.
    unsafe {
        let mask = V::mask(lanes);
        let load = |from: *const f32, vector: usize| {
            if MASKED && vector + 1 == NV { V::load_part(from, mask) } else { V::load(from) }
        };
        let c = product.c.add(row * product.c_row + column);
        let mut sums = [[V::zero(); NV]; MR];
        match product.from {
            From::Zero => {}
            From::Row(from) => {
                let start: [V; NV] = std::array::from_fn(|v| load(from.add(column + v * V::LANES), v));
                sums = [start; MR];
            }
            From::Result => {
                for (i, sums) in sums.iter_mut().enumerate() {
                    *sums = std::array::from_fn(|v| load(c.add(i * product.c_row + v * V::LANES), v));
                }
            }
        }
        let mut b: [*const f32; NV] = std::array::from_fn(|v| {
            let column = column + v * V::LANES;
            product.b.add(column / PANEL * product.b_panel + column % PANEL)
        });
        let mut a = product.a.add(row * product.a_row);
        for _ in 0..product.depth {
            let right: [V; NV] = std::array::from_fn(|v| load(b[v], v));
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = V::splat(a.add(i * product.a_row));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = sum.add_product(left, right);
                }
            }
            a = a.wrapping_add(product.a_step);
            b = b.map(|b| b.wrapping_add(product.b_step));
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let to = c.add(i * product.c_row + v * V::LANES);
                if MASKED && v + 1 == NV { sum.store_part(to, mask) } else { sum.store(to) }
            }
        }
    }
}
