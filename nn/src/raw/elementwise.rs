//! Loops over single elements. They are plain lines that the compiler vectorises, compiled for every set of vectors;
//! no product is fused with a sum, so the bits are those of any other processor.

use crate::Activation;
use tendon_runtime::math::{elu, relu, sigmoid, swish, tanh};

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
