//! The functions of one and two numbers that operators apply beside [`crate::math`], under the same rules:
//! `f32` in a fixed order, selections instead of branches, no library call.

use crate::math::{clip, exp, exp_m1, relu, sin_cos, tanh};
use core::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, FRAC_PI_2, FRAC_PI_4, LN_2};
use core::hint::select_unpredictable as select;

/// From here on every `f32` is an integer.
const ALL_INTEGERS: f32 = 8_388_608.0;

/// Towards 0.
#[inline(always)]
pub(crate) fn trunc(x: f32) -> f32 {
    select(x.abs() < ALL_INTEGERS, x as i32 as f32, x)
}

/// Towards minus infinity.
#[inline(always)]
pub(crate) fn floor(x: f32) -> f32 {
    let t = trunc(x);
    select(t > x, t - 1.0, t)
}

/// Towards plus infinity.
#[inline(always)]
pub(crate) fn ceil(x: f32) -> f32 {
    let t = trunc(x);
    select(t < x, t + 1.0, t)
}

/// To the nearest integer, halves to even.
#[inline(always)]
pub(crate) fn round(x: f32) -> f32 {
    let near = (x.abs() + ALL_INTEGERS) - ALL_INTEGERS;
    let near = select(x < 0.0, -near, near);
    select(x.abs() < ALL_INTEGERS, near, x)
}

/// -1, 0 or 1.
#[inline(always)]
pub(crate) fn sign(x: f32) -> f32 {
    let s = select(x > 0.0, 1.0, x);
    select(x < 0.0, -1.0, s)
}

/// Square root, relative error below 2e-7: three Newton steps on the reciprocal root, one on the root.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    // Subnormal numbers are scaled by 2^24 and back.
    let small = x < f32::MIN_POSITIVE;
    let m = select(small, x * 16_777_216.0, x);
    let h = 0.5 * m;
    let r = f32::from_bits(0x5f37_59df_u32.wrapping_sub(m.to_bits() >> 1));
    let r = r * (1.5 - h * r * r);
    let r = r * (1.5 - h * r * r);
    let r = r * (1.5 - h * r * r);
    let s = m * r;
    let s = s + 0.5 * r * (m - s * s);
    let s = select(small, s * (1.0 / 4096.0), s);
    let s = select((x == 0.0) | (x == f32::INFINITY), x, s);
    select(x < 0.0, f32::NAN, s)
}

/// Natural logarithm, absolute error below 2e-7 plus 1e-7 of the result (polynomial of Cephes `logf`).
#[inline(always)]
pub(crate) fn log(x: f32) -> f32 {
    let small = x < f32::MIN_POSITIVE;
    let m = select(small, x * 16_777_216.0, x);
    // m = 2^e * f with f in [sqrt(1/2), sqrt(2)).
    let bits = m.to_bits().wrapping_sub(0x3f35_04f3);
    let e = (bits as i32) >> 23;
    let f = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let e = select(small, e as f32 - 24.0, e as f32);
    let r = f - 1.0;
    let z = r * r;
    let p = 7.037_683_6e-2;
    let p = p * r + -1.151_461e-1;
    let p = p * r + 1.167_699_9e-1;
    let p = p * r + -1.242_014_1e-1;
    let p = p * r + 1.424_932_3e-1;
    let p = p * r + -1.666_805_8e-1;
    let p = p * r + 2.000_071_5e-1;
    let p = p * r + -2.499_999_4e-1;
    let p = p * r + 3.333_333e-1;
    let y = p * r * z + e * -2.121_944_4e-4 - 0.5 * z;
    let y = (r + y) + e * 0.693_359_4;
    let y = select(x == f32::INFINITY, x, y);
    let y = select(x == 0.0, f32::NEG_INFINITY, y);
    let y = select(x < 0.0, f32::NAN, y);
    select(x.is_nan(), x, y)
}

/// `a^b`, relative error below 1e-7 times `2 + |b log a|`.
#[inline(always)]
pub(crate) fn pow(a: f32, b: f32) -> f32 {
    let size = b * log(a.abs());
    let y = exp(size);
    let y = select(size > 88.8, f32::INFINITY, y);
    let y = select(size < -87.4, 0.0, y);
    let whole = trunc(b) == b;
    let odd = whole & (trunc(b * 0.5) * 2.0 != b);
    let y = select((a < 0.0) & odd, -y, y);
    let y = select((a < 0.0) & !whole, f32::NAN, y);
    let y = select(a.is_nan() | b.is_nan(), f32::NAN, y);
    select((b == 0.0) | (a == 1.0), 1.0, y)
}

/// Error function, absolute error below 3e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let y = 1.0 - p * t * exp(-a * a);
    // Near 0 the formula's error is as large as the result: 2/sqrt(pi) (x - x^3/3 + x^5/10).
    let s = x * x;
    let series = a * (FRAC_2_SQRT_PI - s * (0.376_126_4 - s * 0.112_837_92));
    let y = select(a < 0.1, series, y);
    select(x < 0.0, -y, y)
}

/// `x * (1 + erf(x / sqrt 2)) / 2`
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x)))
}

/// `log(1 + exp(x))`
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    relu(x) + log(1.0 + exp(-x.abs()))
}

/// Arc tangent, absolute error below 2e-7 (Cephes `atanf`).
#[inline(always)]
pub(crate) fn atan(x: f32) -> f32 {
    let a = x.abs();
    let (far, middle) = (a > 2.414_213_6, a > 0.414_213_57);
    let r = select(middle, (a - 1.0) / (a + 1.0), a);
    let r = select(far, -1.0 / a, r);
    let base = select(middle, FRAC_PI_4, 0.0);
    let base = select(far, FRAC_PI_2, base);
    let z = r * r;
    let p = ((8.053_744_6e-2 * z - 0.138_776_86) * z + 0.199_777_1) * z - 0.333_329_5;
    let y = base + (p * z * r + r);
    select(x < 0.0, -y, y)
}

/// Arc sine, absolute error below 3e-7 (Cephes `asinf`).
#[inline(always)]
pub(crate) fn asin(x: f32) -> f32 {
    let a = x.abs();
    let far = a > 0.5;
    let z = select(far, 0.5 * (1.0 - a), a * a);
    let r = select(far, sqrt(z), a);
    let p = 4.216_32e-2;
    let p = p * z + 2.418_131e-2;
    let p = p * z + 4.547_002_6e-2;
    let p = p * z + 7.495_3e-2;
    let p = p * z + 0.166_667_52;
    let y = p * z * r + r;
    let y = select(far, FRAC_PI_2 - (y + y), y);
    select(x < 0.0, -y, y)
}

/// Arc cosine, relative error below 1e-6.
#[inline(always)]
pub(crate) fn acos(x: f32) -> f32 {
    let half = asin(sqrt(0.5 * (1.0 - x)));
    select(x > 0.5, half + half, FRAC_PI_2 - asin(x))
}

/// Hyperbolic sine.
#[inline(always)]
pub(crate) fn sinh(x: f32) -> f32 {
    let e = exp_m1(x.abs());
    // (e^x - e^-x) / 2 with e = e^x - 1.
    let y = 0.5 * (e + e / (e + 1.0));
    select(x < 0.0, -y, y)
}

/// Hyperbolic cosine.
#[inline(always)]
pub(crate) fn cosh(x: f32) -> f32 {
    let e = exp(x.abs());
    0.5 * (e + 1.0 / e)
}

/// Inverse hyperbolic sine.
#[inline(always)]
pub(crate) fn asinh(x: f32) -> f32 {
    let (a, s) = (x.abs(), x * x);
    let near = a * (1.0 - s * (1.0 / 6.0 - s * (0.075 - s * 0.044_642_86)));
    let y = log(a + sqrt(s + 1.0));
    let y = select(a > 1e9, log(a) + LN_2, y);
    let y = select(a < 0.25, near, y);
    select(x < 0.0, -y, y)
}

/// Inverse hyperbolic cosine.
#[inline(always)]
pub(crate) fn acosh(x: f32) -> f32 {
    let y = log(x + sqrt((x - 1.0) * (x + 1.0)));
    select(x > 1e9, log(x) + LN_2, y)
}

/// Inverse hyperbolic tangent.
#[inline(always)]
pub(crate) fn atanh(x: f32) -> f32 {
    let s = x * x;
    let near = x * (1.0 + s * (1.0 / 3.0 + s * (0.2 + s * (1.0 / 7.0))));
    select(x.abs() < 0.2, near, 0.5 * log((1.0 + x) / (1.0 - x)))
}

/// Tangent.
#[inline(always)]
pub(crate) fn tan(x: f32) -> f32 {
    let (sin, cos) = sin_cos(x);
    sin / cos
}

/// `x * tanh(softplus(x))`
#[inline(always)]
pub(crate) fn mish(x: f32) -> f32 {
    x * tanh(softplus(x))
}

/// Remainder with the sign of `b`.
#[inline(always)]
pub(crate) fn modulo(a: f32, b: f32) -> f32 {
    let q = floor(a / b);
    // Not 0 times infinity.
    let whole = select(q == 0.0, 0.0, b * q);
    let r = a - whole;
    // The quotient may have been rounded to the next integer.
    let over = ((r >= b) & (b > 0.0)) | ((r <= b) & (b < 0.0));
    let under = ((r < 0.0) & (b > 0.0)) | ((r > 0.0) & (b < 0.0));
    let r = select(over, r - b, r);
    select(under, r + b, r)
}

/// Remainder with the sign of `a`.
#[inline(always)]
pub(crate) fn remainder(a: f32, b: f32) -> f32 {
    let r = modulo(a.abs(), b.abs());
    select(a < 0.0, -r, r)
}

/// `x + beta` below `-alpha`, `x - beta` above `alpha`, else 0.
#[inline(always)]
pub(crate) fn shrink(x: f32, alpha: f32, beta: f32) -> f32 {
    let y = select(x > alpha, x - beta, 0.0);
    select(x < -alpha, x + beta, y)
}

/// 1 for true, 0 for false.
#[inline(always)]
pub(crate) fn number(truth: bool) -> f32 {
    select(truth, 1.0, 0.0)
}

#[cfg(vectors)]
pub(crate) use crate::kernels::x86::map;
#[cfg(not(vectors))]
pub(crate) use apply as map;

/// The function of a Unary operator with this kind, applied to every element; other kinds change nothing.
#[cfg_attr(vectors, inline(always))]
pub(crate) fn apply(kind: u8, alpha: f32, beta: f32, y: &mut [f32]) {
    use crate::kernels::map;
    use tendon_wire::image::unary as u;
    match kind {
        u::RELU => map(y, relu),
        u::TANH => crate::kernels::tanh(y),
        u::SIGMOID => crate::kernels::sigmoid(y),
        u::SWISH => crate::kernels::swish(y),
        u::ELU => crate::kernels::elu(y, alpha),
        u::CLIP => map(y, |x| clip(x, alpha, beta)),
        u::ABS => map(y, f32::abs),
        u::EXP => map(y, exp),
        u::LOG => map(y, log),
        u::SQRT => map(y, sqrt),
        u::RECIPROCAL => map(y, |x| 1.0 / x),
        u::ERF => map(y, erf),
        u::SIN => map(y, |x| sin_cos(x).0),
        u::COS => map(y, |x| sin_cos(x).1),
        u::FLOOR => map(y, floor),
        u::CEIL => map(y, ceil),
        u::ROUND => map(y, round),
        u::TRUNC => map(y, trunc),
        u::SIGN => map(y, sign),
        u::NOT => map(y, |x| number(x == 0.0)),
        u::LEAKY_RELU => map(y, |x| select(x < 0.0, alpha * x, x)),
        u::GELU => map(y, gelu),
        u::GELU_TANH => map(y, gelu_tanh),
        u::SOFTPLUS => map(y, softplus),
        u::SOFTSIGN => map(y, |x| x / (1.0 + x.abs())),
        u::MISH => map(y, mish),
        u::TAN => map(y, tan),
        u::ASIN => map(y, asin),
        u::ACOS => map(y, acos),
        u::ATAN => map(y, atan),
        u::SINH => map(y, sinh),
        u::COSH => map(y, cosh),
        u::ASINH => map(y, asinh),
        u::ACOSH => map(y, acosh),
        u::ATANH => map(y, atanh),
        u::IS_NAN => map(y, |x| number(x.is_nan())),
        u::IS_INF => map(y, |x| {
            number(((x == f32::INFINITY) & (alpha != 0.0)) | ((x == f32::NEG_INFINITY) & (beta != 0.0)))
        }),
        u::THRESHOLDED_RELU => map(y, |x| select(x > alpha, x, 0.0)),
        u::SHRINK => map(y, |x| shrink(x, alpha, beta)),
        u::WRAP => map(y, |x| x - alpha * floor((x - beta) / alpha)),
        u::BIT_NOT => map(y, |x| !(x as i32) as f32),
        _ => {}
    }
}

/// The function of a Binary operator with this kind: `y[i] = f(y[i], b[j])`, `j = i / inner % b.len()`.
pub(crate) fn zip(kind: u8, y: &mut [f32], b: &[f32], inner: usize) {
    use crate::kernels::zip;
    use tendon_wire::image::binary as k;
    match kind {
        k::ADD => zip(y, b, inner, |a, b| a + b),
        k::SUB => zip(y, b, inner, |a, b| a - b),
        k::MUL => zip(y, b, inner, |a, b| a * b),
        k::DIV => zip(y, b, inner, |a, b| a / b),
        k::SUB_FROM => zip(y, b, inner, |a, b| b - a),
        k::DIV_INTO => zip(y, b, inner, |a, b| b / a),
        k::MIN => zip(y, b, inner, |a, b| select((b < a) | b.is_nan(), b, a)),
        k::MAX => zip(y, b, inner, |a, b| select((b > a) | b.is_nan(), b, a)),
        k::POW => zip(y, b, inner, pow),
        k::POW_OF => zip(y, b, inner, |a, b| pow(b, a)),
        k::MOD => zip(y, b, inner, modulo),
        k::FMOD => zip(y, b, inner, remainder),
        k::EQUAL => zip(y, b, inner, |a, b| number(a == b)),
        k::LESS => zip(y, b, inner, |a, b| number(a < b)),
        k::GREATER => zip(y, b, inner, |a, b| number(a > b)),
        k::LESS_EQUAL => zip(y, b, inner, |a, b| number(a <= b)),
        k::GREATER_EQUAL => zip(y, b, inner, |a, b| number(a >= b)),
        k::AND => zip(y, b, inner, |a, b| number((a != 0.0) & (b != 0.0))),
        k::OR => zip(y, b, inner, |a, b| number((a != 0.0) | (b != 0.0))),
        k::XOR => zip(y, b, inner, |a, b| number((a != 0.0) ^ (b != 0.0))),
        k::PRELU => zip(y, b, inner, |a, b| select(a < 0.0, a * b, a)),
        k::BIT_AND => zip(y, b, inner, |a, b| ((a as i32) & (b as i32)) as f32),
        k::BIT_OR => zip(y, b, inner, |a, b| ((a as i32) | (b as i32)) as f32),
        k::BIT_XOR => zip(y, b, inner, |a, b| ((a as i32) ^ (b as i32)) as f32),
        k::SHIFT_LEFT => zip(y, b, inner, |a, b| a * power_of_two(b)),
        k::SHIFT_RIGHT => zip(y, b, inner, |a, b| floor(a / power_of_two(b))),
        _ => {}
    }
}

/// `2^n` for whole `n` in `[-126, 127]`.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((clip(n, -126.0, 127.0) as i32).wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// Largest error, relative above 1 and absolute below, over a grid.
    fn worst(low: f64, high: f64, mine: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64) -> f64 {
        (0..=200_000)
            .map(|i| (low + (high - low) * f64::from(i) / 200_000.0) as f32)
            .map(|x| {
                let expected = reference(f64::from(x));
                (f64::from(mine(x)) - expected).abs() / expected.abs().max(1.0)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_stay_within_the_documented_bounds() {
        let bounds = [
            ("sqrt", worst(0.0, 1e6, sqrt, f64::sqrt), 2e-7),
            ("sqrt small", worst(0.0, 1e-3, |x| 1e3 * sqrt(x), |x| 1e3 * x.sqrt()), 2e-6),
            ("log", worst(1e-30, 1e4, log, f64::ln), 3e-7),
            ("log near 1", worst(0.5, 2.0, log, f64::ln), 2e-7),
            ("pow", worst(0.1, 10.0, |x| pow(x, 3.7), |x| x.powf(f64::from(3.7f32))), 1e-6),
            ("erf", worst(-5.0, 5.0, erf, libm_erf), 5e-7),
            ("atan", worst(-50.0, 50.0, atan, f64::atan), 2e-7),
            ("asin", worst(-1.0, 1.0, asin, f64::asin), 3e-7),
            ("acos", worst(-1.0, 1.0, acos, f64::acos), 4e-7),
            ("sinh", worst(-20.0, 20.0, sinh, f64::sinh), 1e-6),
            ("cosh", worst(-20.0, 20.0, cosh, f64::cosh), 1e-6),
            ("asinh", worst(-100.0, 100.0, asinh, f64::asinh), 5e-7),
            ("acosh", worst(1.001, 100.0, acosh, f64::acosh), 5e-7),
            ("atanh", worst(-0.99, 0.99, atanh, f64::atanh), 5e-7),
            ("softplus", worst(-30.0, 30.0, softplus, |x| x.exp().ln_1p()), 5e-7),
        ];
        for (name, error, bound) in bounds {
            std::println!("{name}: {error:.2e}");
            assert!(error <= bound, "{name}: {error:e} > {bound:e}");
        }
    }

    /// By its Maclaurin series in `f64`.
    fn libm_erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn whole_numbers_are_exact() {
        for x in [-3.5f32, -2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 1e7, -1e7, 3e9, 8_388_607.5] {
            assert_eq!(floor(x), x.floor());
            assert_eq!(ceil(x), x.ceil());
            assert_eq!(trunc(x), x.trunc());
            assert_eq!(round(x), x.round_ties_even());
        }
        for (a, b) in [(5.0f32, 3.0f32), (-5.0, 3.0), (5.0, -3.0), (-5.0, -3.0), (6.0, 3.0), (-6.0, 3.0)] {
            assert_eq!(modulo(a, b), a - b * (a / b).floor(), "{a} mod {b}");
            assert_eq!(remainder(a, b), a % b, "{a} rem {b}");
        }
        assert!(sqrt(-1.0).is_nan() && log(-1.0).is_nan() && log(0.0) == f32::NEG_INFINITY);
        assert_eq!((pow(0.0, 2.0), pow(-2.0, 3.0).round(), pow(3.0, 0.0)), (0.0, -8.0, 1.0));
    }
}
