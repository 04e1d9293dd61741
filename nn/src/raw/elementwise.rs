//! Loops over single elements. They are plain lines that the compiler vectorises, compiled for every set of vectors;
//! no product is fused with a sum, so the bits are those of any other processor.

use crate::Activation;
use crate::transformer::HeadScratch;
use tendon_runtime::math::{elu, exp, relu, sigmoid, swish, tanh};

/// Defines a function that runs its lines in the widest vectors of this processor.
macro_rules! vectorised {
    ($($(#[$note:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $lines:block)*) => {$(
        $(#[$note])*
        pub(crate) fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn lines($($argument: $type),*) $(-> $result)? $lines
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn wide($($argument: $type),*) $(-> $result)? { lines($($argument),*) }
                #[target_feature(enable = "avx2")]
                fn middle($($argument: $type),*) $(-> $result)? { lines($($argument),*) }
                if super::instructions::has_avx512() {
                    // SAFETY: the processor has AVX-512 F.
                    return unsafe { wide($($argument),*) };
                }
                if super::instructions::has_avx2() {
                    // SAFETY: the processor has AVX2.
                    return unsafe { middle($($argument),*) };
                }
            }
            lines($($argument),*)
        }
    )*};
}

vectorised! {
    /// `y = f(y)`, with the controller's own functions.
    fn activate(kind: Activation, y: &mut [f32]) {
        match kind {
            Activation::None => {}
            Activation::Tanh => y.iter_mut().for_each(|v| *v = tanh(*v)),
            Activation::Relu => y.iter_mut().for_each(|v| *v = relu(*v)),
            Activation::Elu => y.iter_mut().for_each(|v| *v = elu(*v, 1.0)),
            Activation::Swish => y.iter_mut().for_each(|v| *v = swish(*v)),
            Activation::Sigmoid => y.iter_mut().for_each(|v| *v = sigmoid(*v)),
        }
    }

    /// `d = d f'`, from what [`Activation::kept`] says: the result `f(z)`, or `z` itself.
    fn derive(kind: Activation, kept: &[f32], d: &mut [f32]) {
        let both = d.iter_mut().zip(kept);
        match kind {
            Activation::None => {}
            Activation::Tanh => both.for_each(|(d, y)| *d *= 1.0 - y * y),
            Activation::Relu => both.for_each(|(d, y)| *d = if *y > 0.0 { *d } else { 0.0 }),
            Activation::Elu => both.for_each(|(d, y)| *d *= if *y > 0.0 { 1.0 } else { y + 1.0 }),
            Activation::Sigmoid => both.for_each(|(d, y)| *d *= y * (1.0 - y)),
            Activation::Swish => both.for_each(|(d, z)| {
                let s = sigmoid(*z);
                *d *= s + z * s * (1.0 - s);
            }),
        }
    }

    /// `sum += rows of d`, in their order.
    fn accumulate_rows(d: &[f32], sum: &mut [f32]) {
        for row in d.chunks_exact(sum.len()) {
            sum.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
        }
    }

    /// `sum += part`.
    fn add(sum: &mut [f32], part: &[f32]) {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }

    /// Sum of squares, in eight running sums.
    fn squares(values: &[f32]) -> f64 {
        let mut sums = [0.0f64; 8];
        let (whole, rest) = values.as_chunks::<8>();
        for values in whole {
            for (sum, value) in sums.iter_mut().zip(values) {
                let value = f64::from(*value);
                *sum += value * value;
            }
        }
        sums.iter().chain(&[rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()]).sum()
    }

    /// Gates of one step of a GRU, in place: `x` holds `x W + b`, `h` holds `h W + b`, rows of three gates each; afterwards
    /// `x` holds `r, z, n`. Equations of PyTorch's `GRUCell`, which resets after the product with `h`.
    fn gru_gates(hidden: usize, previous: &[f32], x: &mut [f32], h: &[f32], next: &mut [f32]) {
        let rows = x.chunks_exact_mut(3 * hidden).zip(h.chunks_exact(3 * hidden));
        let states = previous.chunks_exact(hidden).zip(next.chunks_exact_mut(hidden));
        for ((x, h), (previous, next)) in rows.zip(states) {
            let (r, rest) = x.split_at_mut(hidden);
            let (z, n) = rest.split_at_mut(hidden);
            let (hr, rest) = h.split_at(hidden);
            let (hz, hn) = rest.split_at(hidden);
            for i in 0..hidden {
                r[i] = sigmoid(r[i] + hr[i]);
                z[i] = sigmoid(z[i] + hz[i]);
                n[i] = tanh(n[i] + r[i] * hn[i]);
                next[i] = n[i] + z[i] * (previous[i] - n[i]);
            }
        }
    }

    /// Backward step of [`gru_gates`]: `gates` holds `r, z, n` and gets d loss / d (x W + b), `h` its counterpart; `d` is
    /// d loss / d next state and gets the part of d loss / d previous state that goes around the products.
    fn gru_derive(hidden: usize, previous: &[f32], gates: &mut [f32], h: &mut [f32], d: &mut [f32]) {
        let rows = gates.chunks_exact_mut(3 * hidden).zip(h.chunks_exact_mut(3 * hidden));
        let states = previous.chunks_exact(hidden).zip(d.chunks_exact_mut(hidden));
        for ((gates, h), (previous, d)) in rows.zip(states) {
            let (r, rest) = gates.split_at_mut(hidden);
            let (z, n) = rest.split_at_mut(hidden);
            let (hr, rest) = h.split_at_mut(hidden);
            let (hz, hn) = rest.split_at_mut(hidden);
            for i in 0..hidden {
                let (reset, keep, new) = (r[i], z[i], n[i]);
                let d_new = d[i] * (1.0 - keep) * (1.0 - new * new);
                let d_keep = d[i] * (previous[i] - new) * keep * (1.0 - keep);
                let d_reset = d_new * hn[i] * reset * (1.0 - reset);
                (r[i], z[i], n[i]) = (d_reset, d_keep, d_new);
                (hr[i], hz[i], hn[i]) = (d_reset, d_keep, d_new * reset);
                d[i] *= keep;
            }
        }
    }

    /// Attention of one window, head by head: `qkv`, `[window, 3 width]`, to the softmax `attention`, `[heads, window, window]`, and
    /// `gathered`, `[window, width]`.
    fn attend(heads: usize, scratch: &mut HeadScratch, qkv: &[f32], attention: &mut [f32], gathered: &mut [f32]) {
        let window = scratch.row.len();
        let width = gathered.len() / window;
        let part = width / heads;
        let scale = 1.0 / (part as f32).sqrt();
        for (head, attention) in attention.chunks_exact_mut(window * window).enumerate() {
            let (q, k, v) = (head * part, width + head * part, 2 * width + head * part);
            turn(qkv, 3 * width, k, part, &mut scratch.turned);
            for i in 0..window {
                let row = &mut attention[i * window..(i + 1) * window];
                row.fill(0.0);
                let queries = &qkv[i * 3 * width + q..][..part];
                for (query, keys) in queries.iter().zip(scratch.turned.chunks_exact(window)) {
                    row.iter_mut().zip(keys).for_each(|(sum, key)| *sum += query * key);
                }
                let highest = row.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
                row.iter_mut().for_each(|s| *s = exp(scale * (*s - highest)));
                let whole = 1.0 / row.iter().sum::<f32>();
                row.iter_mut().for_each(|s| *s *= whole);
                let to = &mut gathered[i * width + q..][..part];
                to.fill(0.0);
                for (j, share) in row.iter().enumerate() {
                    let values = &qkv[j * 3 * width + v..][..part];
                    to.iter_mut().zip(values).for_each(|(to, value)| *to += share * value);
                }
            }
        }
    }

    /// Backward step of [`attend`]: writes `d_qkv`.
    fn attend_derive(
        heads: usize,
        scratch: &mut HeadScratch,
        qkv: &[f32],
        attention: &[f32],
        d_gathered: &[f32],
        d_qkv: &mut [f32],
    ) {
        let window = scratch.row.len();
        let width = d_gathered.len() / window;
        let part = width / heads;
        let scale = 1.0 / (part as f32).sqrt();
        d_qkv.fill(0.0);
        for (head, attention) in attention.chunks_exact(window * window).enumerate() {
            let (q, k, v) = (head * part, width + head * part, 2 * width + head * part);
            turn(qkv, 3 * width, v, part, &mut scratch.turned);
            for (i, shares) in attention.chunks_exact(window).enumerate() {
                let d_to = &d_gathered[i * width + q..][..part];
                let d_row = &mut scratch.row;
                d_row.fill(0.0);
                for (d, values) in d_to.iter().zip(scratch.turned.chunks_exact(window)) {
                    d_row.iter_mut().zip(values).for_each(|(sum, value)| *sum += d * value);
                }
                let along = d_row.iter().zip(shares).map(|(d, share)| d * share).sum::<f32>();
                for j in 0..window {
                    let share = shares[j];
                    let slope = scale * share * (d_row[j] - along);
                    for c in 0..part {
                        d_qkv[j * 3 * width + v + c] += share * d_to[c];
                    }
                    for c in 0..part {
                        d_qkv[j * 3 * width + k + c] += slope * qkv[i * 3 * width + q + c];
                    }
                    for c in 0..part {
                        d_qkv[i * 3 * width + q + c] += slope * qkv[j * 3 * width + k + c];
                    }
                }
            }
        }
    }

    /// One step of Adam on a piece of the parameters; `gradient` is multiplied by `scale` first.
    fn adam(step: &AdamStep, gradient: &[f32], parameters: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        let AdamStep { scale, beta_1, beta_2, rate, root_correction, epsilon, keep } = *step;
        let moments = first.iter_mut().zip(second);
        for ((parameter, gradient), (first, second)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * scale;
            *first = beta_1 * *first + (1.0 - beta_1) * gradient;
            *second = beta_2 * *second + (1.0 - beta_2) * gradient * gradient;
            *parameter = *parameter * keep - rate * *first / (second.sqrt() * root_correction + epsilon);
        }
    }
}

/// Numbers of one step of Adam, the corrections of its moments worked in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    pub(crate) scale: f32,
    pub(crate) beta_1: f32,
    pub(crate) beta_2: f32,
    /// Learning rate over the first moment's correction.
    pub(crate) rate: f32,
    /// One over the root of the second moment's correction.
    pub(crate) root_correction: f32,
    pub(crate) epsilon: f32,
    /// What decoupled weight decay leaves of a parameter.
    pub(crate) keep: f32,
}

/// `columns` columns of `rows`, which are `width` long, from `first` on, as rows.
#[inline(always)]
fn turn(rows: &[f32], width: usize, first: usize, columns: usize, turned: &mut [f32]) {
    let count = rows.len() / width;
    for (j, row) in rows.chunks_exact(width).enumerate() {
        for (c, value) in row[first..first + columns].iter().enumerate() {
            turned[c * count + j] = *value;
        }
    }
}
