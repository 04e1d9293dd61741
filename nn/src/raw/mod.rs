//! Matrix products, activations and the pool of threads: the only module with `unsafe`.
//!
//! Everything that leaves it is safe: lengths are checked at its door.
#![allow(unsafe_code, reason = "vector instructions, and a pool whose threads borrow from their caller")]

mod elementwise;
mod pool;
mod tile;
mod vector;

pub(crate) use elementwise::*;
pub use pool::Pool;

use bytemuck::{Pod, Zeroable};
use std::ops::{Deref, DerefMut};
use tile::{From, PANEL, Product};

/// `f32` that begin on a cache line, so that no vector lies across two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        Self { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A matrix `[rows, columns]` cut into panels of 32 columns, each contiguous: the right side of [`multiply`].
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    rows: usize,
    columns: usize,
    values: Aligned,
}

impl Panels {
    pub(crate) fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: Aligned::new(rows * columns.next_multiple_of(PANEL)) }
    }

    /// Takes `matrix`, `[rows, columns]` row-major.
    pub(crate) fn set(&mut self, matrix: &[f32]) {
        assert_eq!(matrix.len(), self.rows * self.columns, "a matrix of {} x {}", self.rows, self.columns);
        for (i, panel) in self.values.chunks_exact_mut(self.rows * PANEL).enumerate() {
            let first = i * PANEL;
            let width = PANEL.min(self.columns - first);
            for (to, from) in panel.chunks_exact_mut(PANEL).zip(matrix.chunks_exact(self.columns)) {
                to[..width].copy_from_slice(&from[first..first + width]);
            }
        }
    }

    /// Takes the transpose of `matrix`, `[columns, rows]` row-major.
    pub(crate) fn set_transposed(&mut self, matrix: &[f32]) {
        const SQUARE: usize = 16;
        assert_eq!(matrix.len(), self.rows * self.columns, "a matrix of {} x {}", self.columns, self.rows);
        let rows = self.rows;
        for (i, panel) in self.values.chunks_exact_mut(rows * PANEL).enumerate() {
            let first = i * PANEL;
            let from = &matrix[first * rows..(first + PANEL).min(self.columns) * rows];
            // In squares, so that lines that were read are still there when the next row wants them.
            for start in (0..rows).step_by(SQUARE) {
                let end = (start + SQUARE).min(rows);
                for (column, from) in from.chunks_exact(rows).enumerate() {
                    for (row, value) in from[start..end].iter().enumerate() {
                        panel[(start + row) * PANEL + column] = *value;
                    }
                }
            }
        }
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// A row, to every row.
    Bias(&'a [f32]),
    /// The result itself.
    Result,
}

/// `c = start + a b` with `a` `[rows, b.rows]`, `c` `[rows, b.columns]`. `strip(row, values)` gets bands of finished rows
/// while they are in the first cache. A row has the same bits in any batch.
pub(crate) fn multiply(
    a: &[f32],
    b: &Panels,
    start: Start<'_>,
    c: &mut [f32],
    mut strip: impl FnMut(usize, &mut [f32]),
) {
    let rows = c.len() / b.columns;
    assert_eq!(c.len(), rows * b.columns, "whole rows of {}", b.columns);
    assert_eq!(a.len(), rows * b.rows, "{rows} rows of {}", b.rows);
    let product = Product {
        rows,
        columns: b.columns,
        depth: b.rows,
        a: a.as_ptr(),
        a_row: b.rows,
        a_step: 1,
        b: b.values.as_ptr(),
        b_panel: b.rows * PANEL,
        b_step: PANEL,
        from: match start {
            Start::Zero => From::Zero,
            Start::Result => From::Result,
            Start::Bias(bias) => {
                assert_eq!(bias.len(), b.columns, "one bias per column");
                From::Row(bias.as_ptr())
            }
        },
        c: c.as_mut_ptr(),
        c_row: b.columns,
    };
    let columns = b.columns;
    // SAFETY: the lengths were compared above; panels hold `rows * PANEL` numbers for each 32 columns begun.
    unsafe {
        run(&product, |row, height| {
            // The band is finished, and `c` is not touched while the slice lives.
            strip(row, std::slice::from_raw_parts_mut(product.c.add(row * columns), height * columns));
        });
    }
}

/// `g += x^T d` with `x` `[rows, inputs]`, `d` `[rows, outputs]`, `g` `[inputs, outputs]`, in the order of the rows.
pub(crate) fn accumulate_outer(x: &[f32], inputs: usize, d: &[f32], outputs: usize, g: &mut [f32]) {
    let rows = d.len() / outputs;
    assert_eq!(
        (x.len(), d.len()),
        (rows * inputs, rows * outputs),
        "as many rows of {inputs} as of {outputs}"
    );
    assert_eq!(g.len(), inputs * outputs, "a gradient of {inputs} x {outputs}");
    let product = Product {
        rows: inputs,
        columns: outputs,
        depth: rows,
        a: x.as_ptr(),
        a_row: 1,
        a_step: inputs,
        b: d.as_ptr(),
        b_panel: PANEL,
        b_step: outputs,
        from: From::Result,
        c: g.as_mut_ptr(),
        c_row: outputs,
    };
    // SAFETY: the lengths were compared above.
    unsafe { run(&product, |_, _| ()) }
}

/// # Safety
/// As [`tile::product`], but for the instructions: they are asked for here.
unsafe fn run(product: &Product, strip: impl FnMut(usize, usize)) {
    #[cfg(target_arch = "x86_64")]
    {
        if instructions::has_avx512() {
            // SAFETY: the processor has them; the rest is the caller's.
            return unsafe { instructions::product_avx512(product, strip) };
        }
        if instructions::has_avx2() {
            // SAFETY: as above.
            return unsafe { instructions::product_avx2(product, strip) };
        }
    }
    // SAFETY: the caller's.
    unsafe { tile::product::<vector::Four, 4, 2>(product, strip) }
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use super::tile::{Product, product};
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{__m256, __m512};

    pub(super) fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f")
    }

    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }

    /// 24 sums, two vectors of the right side: 26 of 32 registers; enough sums to hide the latency of any core.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn product_avx512(p: &Product, strip: impl FnMut(usize, usize)) {
        unsafe { product::<__m512, 12, 2>(p, strip) }
    }

    /// 12 sums, two vectors of the right side, one of the left: 15 of 16 registers.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn product_avx2(p: &Product, strip: impl FnMut(usize, usize)) {
        unsafe { product::<__m256, 6, 2>(p, strip) }
    }
}
