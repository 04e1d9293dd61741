//! Convolution and pooling: windows over images `[channels, height, width]`.

use super::gemm_linear;
use core::hint::select_unpredictable as select;
use core::ops::Range;
use tendon_wire::image::{GEMM_ROWS, Window, pool as by};

/// Places of the kernel whose pixel lies inside an image axis of `size`, and the first pixel.
#[inline(always)]
fn inside(start: i32, kernel: u32, dilation: u32, size: u32) -> Range<u32> {
    let first = if start < 0 { start.unsigned_abs().div_ceil(dilation.max(1)) } else { 0 };
    let room = (size as i32).saturating_sub(start).max(0) as u32;
    first.min(kernel)..room.div_ceil(dilation.max(1)).min(kernel).max(first.min(kernel))
}

/// Pixels of the image under the kernel at one output, row by row: index of a row's first pixel,
/// its place in the kernel, and how many pixels follow at steps of `dilation_w`.
#[inline(always)]
fn rows(w: &Window, oy: u32, ox: u32) -> (Range<u32>, Range<u32>, i32, i32) {
    let y = oy.wrapping_mul(w.stride_h).wrapping_sub(w.pad_top) as i32;
    let x = ox.wrapping_mul(w.stride_w).wrapping_sub(w.pad_left) as i32;
    (inside(y, w.kernel_h, w.dilation_h, w.height), inside(x, w.kernel_w, w.dilation_w, w.width), y, x)
}

/// One pixel row of a channel below the kernel row `ky`: the pixels from the kernel column `kx` on.
#[inline(always)]
fn pixels<'x>(
    w: &Window,
    plane: &'x [f32],
    y: i32,
    x: i32,
    ky: u32,
    kx: &Range<u32>,
) -> impl Iterator<Item = &'x f32> {
    let row = y.wrapping_add(ky.wrapping_mul(w.dilation_h) as i32) as u32;
    let column = x.wrapping_add(kx.start.wrapping_mul(w.dilation_w) as i32) as u32;
    let first = row.wrapping_mul(w.width).wrapping_add(column) as usize;
    let count = kx.end.saturating_sub(kx.start) as usize;
    plane.get(first..).unwrap_or(&[]).iter().step_by(w.dilation_w.max(1) as usize).take(count)
}

/// `y[o] = W[o] * patch + b[o]` for every pixel out. `weights`: for each group packed rows as [`gemm_linear`] takes
/// them; `room`: `[channels / groups * kernel + channels_out / groups]`, overwritten.
#[inline(always)]
pub(crate) fn conv(w: &Window, [weights, bias]: [&[f32]; 2], x: &[f32], y: &mut [f32], room: &mut [f32]) {
    let groups = w.groups.max(1);
    let (c_in, c_out) = ((w.channels / groups) as usize, (w.channels_out / groups) as usize);
    let kernel = w.kernel_h.wrapping_mul(w.kernel_w) as usize;
    let plane_in = (w.height.wrapping_mul(w.width) as usize).max(1);
    let plane_out = (w.height_out.wrapping_mul(w.width_out) as usize).max(1);
    let Some((patch, column)) = room.split_at_mut_checked(c_in.wrapping_mul(kernel)) else { return };
    let rows_packed = c_out.next_multiple_of(GEMM_ROWS);
    let (input, matrix_len) = (c_in.wrapping_mul(plane_in), rows_packed.wrapping_mul(patch.len()));
    // Images and groups alternate: group 0 of image 0, group 1 of image 0, ...
    let mut group = 0;
    for (index, y) in y.chunks_mut(c_out.saturating_mul(plane_out).max(1)).enumerate() {
        let x = part(x, index, input);
        let (matrix, bias) = (part(weights, group, matrix_len), part(bias, group, rows_packed));
        group = if group.wrapping_add(1) == groups as usize { 0 } else { group.wrapping_add(1) };
        let mut pixel = 0usize;
        for oy in 0..w.height_out {
            for ox in 0..w.width_out {
                let (ky, kx, top, left) = rows(w, oy, ox);
                let whole = ky.end.wrapping_sub(ky.start) == w.kernel_h
                    && kx.end.wrapping_sub(kx.start) == w.kernel_w;
                if whole && w.dilation_w == 1 {
                    // Nearly every pixel: rows of the kernel lie in one piece.
                    let first = (top as u32).wrapping_mul(w.width).wrapping_add(left as u32) as usize;
                    for (plane, taps) in x.chunks(plane_in).zip(patch.chunks_mut(kernel.max(1))) {
                        let mut rest = plane.get(first..).unwrap_or(&[]);
                        for taps in taps.chunks_mut((w.kernel_w as usize).max(1)) {
                            copy_row(rest, taps);
                            rest = rest.get(w.dilation_h.wrapping_mul(w.width) as usize..).unwrap_or(&[]);
                        }
                    }
                } else {
                    edge(w, x, patch, (ky, kx, top, left));
                }
                gemm_linear(matrix, bias, patch, column);
                for (plane, &value) in y.chunks_mut(plane_out).zip(column.iter()) {
                    if let Some(place) = plane.get_mut(pixel) {
                        *place = value;
                    }
                }
                pixel = pixel.wrapping_add(1);
            }
        }
    }
}

/// `taps = x` for as many; the usual kernels without a call to `memcpy`, which costs more than such a row.
#[inline(always)]
fn copy_row(x: &[f32], taps: &mut [f32]) {
    fn whole<const N: usize>(x: &[f32], taps: &mut [f32]) {
        if let (Some(from), Some(to)) = (x.first_chunk::<N>(), taps.first_chunk_mut::<N>()) {
            *to = *from;
        }
    }
    match taps.len() {
        3 => whole::<3>(x, taps),
        5 => whole::<5>(x, taps),
        _ => super::copy(x, taps),
    }
}

/// The patch below one output where part of it lies outside the image, or where it has gaps.
#[inline(never)]
fn edge(w: &Window, x: &[f32], patch: &mut [f32], (ky, kx, top, left): (Range<u32>, Range<u32>, i32, i32)) {
    let plane_in = (w.height.wrapping_mul(w.width) as usize).max(1);
    let kernel = (w.kernel_h.wrapping_mul(w.kernel_w) as usize).max(1);
    for (plane, taps) in x.chunks(plane_in).zip(patch.chunks_mut(kernel)) {
        taps.iter_mut().for_each(|tap| *tap = 0.0);
        for (k, taps) in taps.chunks_mut((w.kernel_w as usize).max(1)).enumerate() {
            let k = k as u32;
            if ky.contains(&k) {
                let taps = taps.get_mut(kx.start as usize..).unwrap_or(&mut []);
                for (tap, &value) in taps.iter_mut().zip(pixels(w, plane, top, left, k, &kx)) {
                    *tap = value;
                }
            }
        }
    }
}

/// The part with this number among parts of `len`.
fn part(values: &[f32], number: usize, len: usize) -> &[f32] {
    let start = number.wrapping_mul(len);
    values.get(start..start.wrapping_add(len)).unwrap_or(&[])
}

/// Largest, mean or sum of the pixels inside the image, for every channel and pixel out.
pub(crate) fn pool(kind: u8, w: &Window, x: &[f32], y: &mut [f32]) {
    let plane_in = (w.height.wrapping_mul(w.width) as usize).max(1);
    let plane_out = (w.height_out.wrapping_mul(w.width_out) as usize).max(1);
    for (plane, out) in x.chunks(plane_in).zip(y.chunks_mut(plane_out)) {
        let places = (0..w.height_out).flat_map(|oy| (0..w.width_out).map(move |ox| (oy, ox)));
        for ((oy, ox), place) in places.zip(out) {
            let (ky, kx, top, left) = rows(w, oy, ox);
            let start = if kind == by::MAX { f32::NEG_INFINITY } else { 0.0 };
            let mut sum = start;
            for k in ky.clone() {
                for &value in pixels(w, plane, top, left, k, &kx) {
                    let larger = select((value > sum) | value.is_nan(), value, sum);
                    sum = if kind == by::MAX { larger } else { sum + value };
                }
            }
            let count = ky.end.wrapping_sub(ky.start).wrapping_mul(kx.end.wrapping_sub(kx.start));
            *place = if kind == by::MEAN { sum / count as f32 } else { sum };
        }
    }
}
