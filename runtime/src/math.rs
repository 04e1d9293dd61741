//! Transcendentals of the runtime's own, so that host and controller agree bit for bit.
//!
//! Only `f32` additions, multiplications, divisions and selections in a fixed order; no data-dependent
//! branch, no fused multiply-add (Rust never contracts), no library call. NaN in, NaN out.
//! Errors are the largest found by the tests of this file against `f64`.

use core::f32::consts::LOG2_E;

/// `low` below, `high` above, NaN stays NaN (unlike `f32::max` and `min`).
#[inline(always)]
#[must_use]
pub fn clip(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `max(x, 0)`; 0 for -0.
#[inline(always)]
#[must_use]
pub fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// Coefficients of [`tanh`]: `p` from its highest power, `q` without its highest (1), lowest and highest input.
/// Minimax fit of this project on `[-7.9, 7.9]`.
pub(crate) const TANH: [f32; 10] = [
    46.453_24,
    11_999.282,
    525_902.5,
    4_069_604.8,
    970.175_4,
    96_870.94,
    1_882_429.5,
    4_069_607.0,
    -7.9,
    7.9,
];

/// Hyperbolic tangent, absolute error below 5e-7, never beyond 1: `x p(x^2) / q(x^2)` of degrees 3 and 4,
/// inputs clipped where the fit ends at `1 - 6e-8`.
#[inline(always)]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    let [p3, p2, p1, p0, q3, q2, q1, q0, low, high] = TANH;
    let x = clip(x, low, high);
    let s = x * x;
    let p = ((s * p3 + p2) * s + p1) * s + p0;
    let q = (((s + q3) * s + q2) * s + q1) * s + q0;
    x * p / q
}

/// Adding and subtracting it rounds to the nearest integer: 1.5 * 2^23.
pub(crate) const ROUNDER: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `(2^n, exp(r) - 1)` with `x = n ln 2 + r`, `|r| <= ln 2 / 2`; polynomial of Cephes `expf`.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, f32) {
    let x = clip(x, -87.0, 88.0);
    let shifted = x * LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    // The low bits of `shifted` are those of n: no conversion, which LLVM would take lane by lane to saturate.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (power, p * (r * r) + r)
}

/// Exponential, relative error below 2e-7 on `[-87, 88]`, clipped outside.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let (power, p) = exp_parts(x);
    power * p + power
}

/// `exp(x) - 1` without cancellation near 0, relative error below 4e-7.
#[inline(always)]
#[must_use]
pub fn exp_m1(x: f32) -> f32 {
    let (power, p) = exp_parts(x);
    power * p + (power - 1.0)
}

/// Of [`power`], after them `-log2(e)` and `-2 log2(e)`: `15 + 6 k^2 r^2` and `k r (15 + k^2 r^2)` with
/// `k = ln(2) / 2`, both over `k^3`; the diagonal Pade approximant of `tanh(k r)`, exact to 6e-9 for `|r| <= 1/2`.
pub(crate) const POWER: [f32; 5] = [17.312_34, 360.333_68, 124.882_14, -LOG2_E, -2.0 * LOG2_E];

/// `(p, a, b)` with `2^z = p (a + b) / (a - b)`, relative error below 4e-8 for `|z| < limit`; beyond it a fraction below
/// `2^-limit` or above `2^limit` in size, of either sign. NaN where a part overflows.
#[inline(always)]
fn power(z: f32, limit: f32) -> (f32, f32, f32) {
    let [a2, a0, b1, ..] = POWER;
    let n = clip((z + ROUNDER) - ROUNDER, -limit, limit - 1.0);
    let r = z - n;
    // The low bits of the sum are those of n.
    let p = f32::from_bits((n + ROUNDER).to_bits().wrapping_add(127) << 23);
    let s = r * r;
    (p, s * a2 + a0, (s + b1) * r)
}

/// `(n, m)` with `sigmoid(x) = n / (n + m)`, and `tanh(x) = (n - m) / (n + m)` with the last of the constants as factor.
#[inline(always)]
fn gate(x: f32, factor: f32, limit: f32) -> (f32, f32) {
    let (p, a, b) = power(x * factor, limit);
    (a - b, (a + b) * p)
}

/// `1 / (1 + exp(-x))`, absolute error below 1.5e-7, relative below 5e-6 for `x >= -43`; NaN where `|x|` is above 1e12.
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    let (less, more) = gate(x, POWER[3], 64.0);
    less / (less + more)
}

/// `x * sigmoid(x)`, also called SiLU.
#[inline(always)]
#[must_use]
pub fn swish(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `x` where positive, else `alpha * (exp(x) - 1)`, relative error below 4e-7; NaN where `x` is below -1e12.
#[inline(always)]
#[must_use]
pub fn elu(x: f32, alpha: f32) -> f32 {
    // A sum, not a selection between the two: for that one LLVM branches around the exponential.
    let low = if x > 0.0 { 0.0 } else { x };
    let (p, a, b) = power(low * LOG2_E, 64.0);
    // (p (a + b) - (a - b)) / (a - b), without the difference of nearly equal numbers.
    let y = ((p - 1.0) * a + (p + 1.0) * b) / (a - b);
    (x - low) + alpha * y
}

/// One unit of an LSTM: `(c', h)` with `c' = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c')`, absolute error
/// below 5e-7 for `|c| <= 1`; may be NaN where a sum is above 1e4. Three divisions instead of five.
#[inline(always)]
pub(crate) fn lstm([i, o, f, g]: [f32; 4], c: f32) -> (f32, f32) {
    let [_, _, _, once, twice] = POWER;
    let gate = |x, factor| gate(x, factor, 32.0);
    let (n, m) = gate(f, once);
    let kept = c * n / (n + m);
    let (n_i, m) = gate(i, once);
    let d_i = n_i + m;
    let (n, m) = gate(g, twice);
    let c = (n - m) * n_i / ((n + m) * d_i) + kept;
    let (n_o, m) = gate(o, once);
    let d_o = n_o + m;
    let (n, m) = gate(c, twice);
    (c, (n - m) * n_o / ((n + m) * d_o))
}

/// Sine and cosine, absolute error below 2e-7 for `|x| <= 100`, growing as `1e-7 |x|` beyond
/// (Cody-Waite reduction by multiples of pi/2, polynomials of Cephes `sinf`, `cosf`).
#[inline(always)]
#[must_use]
pub fn sin_cos(x: f32) -> (f32, f32) {
    let n = (x * core::f32::consts::FRAC_2_PI + ROUNDER) - ROUNDER;
    let r = x - n * 1.570_312_5 - n * 4.837_513e-4 - n * 7.549_79e-8;
    let s = r * r;
    let sin = ((-1.951_529_6e-4 * s + 8.332_161e-3) * s - 0.166_666_55) * s * r + r;
    let cos = ((2.443_315_7e-5 * s - 1.388_731_6e-3) * s + 4.166_664_6e-2) * (s * s) - 0.5 * s + 1.0;
    let quadrant = n as i32;
    let (a, b) = if quadrant & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let a = if quadrant & 2 == 0 { a } else { -a };
    let b = if (quadrant.wrapping_add(1)) & 2 == 0 { b } else { -b };
    (a, b)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// Every 1009th float of both signs up to `limit`, and a fine grid.
    fn points(limit: f32) -> impl Iterator<Item = f32> {
        let grid = (0..=400_000).map(move |i| (i as f32 / 200_000.0 - 1.0) * limit);
        let bits = (0..=limit.to_bits()).step_by(1009).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]);
        grid.chain(bits)
    }

    fn worst(limit: f32, mine: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64, relative: bool) -> f64 {
        points(limit)
            .map(|x| {
                let expected = reference(f64::from(x));
                let error = (f64::from(mine(x)) - expected).abs();
                // A subnormal result has fewer bits: there the error counts against the smallest normal one.
                if relative { error / expected.abs().max(f64::from(f32::MIN_POSITIVE)) } else { error }
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_stay_within_the_documented_bounds() {
        let bounds = [
            ("tanh", worst(12.0, tanh, f64::tanh, false), 5e-7),
            ("tanh far", worst(1e30, tanh, f64::tanh, false), 5e-7),
            ("exp", worst(87.0, exp, f64::exp, true), 2e-7),
            ("exp_m1", worst(20.0, exp_m1, f64::exp_m1, true), 4e-7),
            ("sigmoid", worst(1e12, sigmoid, |x| 1.0 / (1.0 + (-x).exp()), false), 1.5e-7),
            ("sigmoid, relative", worst(43.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()), true), 5e-6),
            ("swish", worst(20.0, swish, |x| x / (1.0 + (-x).exp()), true), 3e-6),
            ("elu", worst(20.0, |x| elu(x, 0.5), |x| if x > 0.0 { x } else { 0.5 * x.exp_m1() }, true), 4e-7),
            ("sin", worst(100.0, |x| sin_cos(x).0, f64::sin, false), 2e-7),
            ("cos", worst(100.0, |x| sin_cos(x).1, f64::cos, false), 2e-7),
        ];
        for (name, error, bound) in bounds {
            std::println!("{name}: {error:.2e}");
            assert!(error <= bound, "{name}: {error:e} > {bound:e}");
        }
    }

    #[test]
    fn a_unit_of_an_lstm_agrees_with_f64() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut random = fastrand::Rng::with_seed(1);
        let (mut cell, mut hidden) = (0.0f64, 0.0f64);
        for _ in 0..1_000_000 {
            let mut uniform = |scale: f32| scale * (2.0 * random.f32() - 1.0);
            let [i, o, f, g, c] = [12.0, 12.0, 12.0, 8.0, 1.0].map(&mut uniform);
            let (new, h) = lstm([i, o, f, g], c);
            let expected = sigmoid(f.into()) * f64::from(c) + sigmoid(i.into()) * f64::from(g).tanh();
            cell = cell.max((f64::from(new) - expected).abs());
            hidden = hidden.max((f64::from(h) - sigmoid(o.into()) * expected.tanh()).abs());
        }
        std::println!("{cell:.2e} {hidden:.2e}");
        assert!(cell < 5e-7 && hidden < 5e-7);
        for far in [-1e4f32, -300.0, 300.0, 1e4] {
            let (c, h) = lstm([far; 4], 1.0);
            assert!(if far < 0.0 { c.abs() < 1e-6 } else { (c - 2.0).abs() < 1e-6 }, "{far}: {c}");
            assert!(h.is_finite());
        }
    }

    #[test]
    fn nan_stays_nan() {
        for f in [
            tanh,
            exp,
            exp_m1,
            sigmoid,
            swish,
            relu,
            |x| elu(x, 1.0),
            |x| sin_cos(x).0,
            |x| clip(x, 0.0, 1.0),
        ] {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
