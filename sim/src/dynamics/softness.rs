//! What forces a constraint gives: MuJoCo's softness and its two friction cones.
//!
//! A row wants the acceleration `a*` and answers the residual `x = J a - a*` with a force that minimises a convex cost
//! `s(x)`: `f = -ds/dx`. Sources: Todorov, "Convex and analytically-invertible dynamics with contacts and constraints",
//! ICRA 2014; "Computation" in MuJoCo's documentation.

/// How a constraint yields: MuJoCo's `solref` and `solimp`, with its defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Softness {
    /// Time constant (s) and damping ratio, both above zero; or minus stiffness and minus damping, both at most zero.
    pub(crate) reference: [f64; 2],
    /// Impedance at no overlap, impedance at `width`, width (m or rad), midpoint, power.
    pub(crate) impedance: [f64; 5],
}

/// MuJoCo's `mjMINIMP` and `mjMAXIMP`.
const IMPEDANCE_RANGE: [f64; 2] = [1e-4, 0.9999];
const TINY: f64 = 1e-15;

impl Default for Softness {
    fn default() -> Self {
        Self { reference: [0.02, 1.0], impedance: [0.9, 0.95, 0.001, 0.5, 2.0] }
    }
}

impl Softness {
    /// Damping `b` (1/s) and stiffness `k` (1/s^2) of `a* = -b J v + k d r`, stable at steps of `dt`.
    pub(super) fn gains(&self, dt: f64) -> [f64; 2] {
        let widest = self.impedance[1].clamp(IMPEDANCE_RANGE[0], IMPEDANCE_RANGE[1]);
        let [first, second] = self.reference;
        if first > 0.0 && second > 0.0 {
            // As MuJoCo's `refsafe`: a constraint faster than two steps would not be stable.
            let time_constant = first.max(2.0 * dt);
            let stiffness = 1.0 / (widest * time_constant * second).powi(2).max(TINY);
            [2.0 / (widest * time_constant), stiffness]
        } else if first <= 0.0 && second <= 0.0 {
            [-second / widest, -first / (widest * widest)]
        } else {
            Self { reference: Self::default().reference, ..*self }.gains(dt)
        }
    }

    /// Impedance `d` at an overlap.
    pub(super) fn impedance(&self, overlap: f64) -> f64 {
        let [start, end, width, midpoint, power] = self.impedance;
        let [start, end] = [start, end].map(|d| d.clamp(IMPEDANCE_RANGE[0], IMPEDANCE_RANGE[1]));
        if width <= TINY {
            return 0.5 * (start + end);
        }
        let x = (overlap.abs() / width).min(1.0);
        let midpoint = midpoint.clamp(IMPEDANCE_RANGE[0], IMPEDANCE_RANGE[1]);
        let rise = |x: f64, span: f64| match power {
            p if p <= 1.0 => x,
            2.0 => x * x / span,
            p => libm::pow(x, p) / libm::pow(span, p - 1.0),
        };
        let y = if x <= midpoint { rise(x, midpoint) } else { 1.0 - rise(1.0 - x, 1.0 - midpoint) };
        start + y * (end - start)
    }
}

/// The shape of the set of contact forces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cone {
    /// `|f_1| + |f_2| <= mu f_n`: MuJoCo's default.
    Pyramidal,
    /// `|f_t| <= mu f_n`: Coulomb's law.
    #[default]
    Elliptic,
}

/// The law of one contact with `D` rows: residuals of the normal, two tangents and, of six, the turning about each of
/// these axes, to forces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Law<const D: usize> {
    cone: Cone,
    /// Largest force of a row over that of the normal, whose own entry means nothing; of turning in m.
    friction: [f64; D],
    /// Force per residual along an edge (pyramidal), or along the normal where nothing rubs.
    hardness: f64,
    /// Square roots of forces per residual (elliptic).
    scale: [f64; D],
}

/// Force and how it falls with the residual: `-df/dx`, symmetric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<const D: usize> {
    pub(super) force: [f64; D],
    pub(super) slope: [[f64; D]; D],
}

impl<const D: usize> Default for Answer<D> {
    fn default() -> Self {
        Self { force: [0.0; D], slope: [[0.0; D]; D] }
    }
}

impl<const D: usize> Law<D> {
    /// `hardness` is the force per residual along the normal (elliptic) or an edge (pyramidal), `tangential` that along
    /// the first tangent (elliptic). Where that of other rows follows: `R friction^2` is the same for all.
    pub(super) fn new(cone: Cone, friction: [f64; D], hardness: f64, tangential: f64) -> Self {
        let along = tangential.sqrt();
        let mut scale = friction.map(|own| along * (own / friction[1]));
        scale[0] = hardness.sqrt();
        Self { cone, friction, hardness, scale }
    }

    pub(super) fn answer(&self, x: [f64; D]) -> Answer<D> {
        if self.friction[1] <= 0.0 {
            let mut answer = Answer::default();
            if x[0] < 0.0 {
                answer.force[0] = -self.hardness * x[0];
                answer.slope[0][0] = self.hardness;
            }
            return answer;
        }
        match self.cone {
            Cone::Pyramidal => self.pyramid(x),
            Cone::Elliptic => self.round(x),
        }
    }

    /// Two one-sided springs for each row that rubs, along the edges `n +- mu t`.
    fn pyramid(&self, x: [f64; D]) -> Answer<D> {
        let (n, d) = (x[0], self.hardness);
        let mut answer = Answer::default();
        for axis in 1..D {
            let (mu, t) = (self.friction[axis], x[axis]);
            // A contact of four dimensions does not rub against rolling.
            if mu == 0.0 {
                continue;
            }
            let [plus, minus] =
                [n + mu * t, n - mu * t].map(|edge| if edge < 0.0 { (-d * edge, d) } else { (0.0, 0.0) });
            answer.force[0] += plus.0 + minus.0;
            answer.force[axis] = mu * (plus.0 - minus.0);
            answer.slope[0][0] += plus.1 + minus.1;
            answer.slope[0][axis] = mu * (plus.1 - minus.1);
            answer.slope[axis][0] = answer.slope[0][axis];
            answer.slope[axis][axis] = mu * mu * (plus.1 + minus.1);
        }
        answer
    }

    /// Projection of `-x`, in units where the springs are one, onto the cone `|g_t| <= m g_n`.
    fn round(&self, x: [f64; D]) -> Answer<D> {
        let scale = &self.scale;
        let m = self.friction[1] * scale[0] / scale[1];
        let z: [f64; D] = std::array::from_fn(|k| -x[k] * scale[k]);
        let mut squares = z[1] * z[1];
        for z in &z[2..] {
            squares += z * z;
        }
        let along = squares.sqrt();
        let mut answer = Answer::default();
        if along <= m * z[0] {
            for k in 0..D {
                answer.force[k] = z[k] * scale[k];
                answer.slope[k][k] = scale[k] * scale[k];
            }
        } else if m * along > -z[0] {
            // On the cone: cost (z_n + m |z_t|)^2 / (2 (1 + m^2)).
            let part = 1.0 / (1.0 + m * m);
            let height = z[0] + m * along;
            let e: [f64; D] = std::array::from_fn(|k| z[k] / along);
            let rise: [f64; D] = std::array::from_fn(|k| if k == 0 { 1.0 } else { m * e[k] });
            let bend = m * height / along;
            for i in 0..D {
                answer.force[i] = part * height * rise[i] * scale[i];
                for j in 0..D {
                    let mut curve = rise[i] * rise[j];
                    if i > 0 && j > 0 {
                        let same = if i == j { 1.0 } else { 0.0 };
                        curve += bend * (same - e[i] * e[j]);
                    }
                    answer.slope[i][j] = part * curve * scale[i] * scale[j];
                }
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impedance_runs_between_its_ends() {
        let softness = Softness::default();
        assert_eq!(softness.impedance(0.0), 0.9);
        assert!((softness.impedance(0.0005) - 0.925).abs() < 1e-12);
        assert_eq!(softness.impedance(0.1), 0.95);
        let direct = Softness { reference: [-100.0, -5.0], ..softness };
        assert_eq!(direct.gains(0.002), [5.0 / 0.95, 100.0 / (0.95 * 0.95)]);
    }

    fn forces_stay_within<const D: usize>(friction: [f64; D]) {
        for cone in [Cone::Pyramidal, Cone::Elliptic] {
            let law = Law::new(cone, friction, 3.0, 5.0);
            for step in 1..200 {
                let s = f64::from(step);
                let x = std::array::from_fn(|k| (s * (1.1 + 0.37 * k as f64)).sin() * [2.0, 1.0][k.min(1)]);
                let Answer { force, slope } = law.answer(x);
                let shares = (1..D).filter(|&k| friction[k] > 0.0).map(|k| (force[k] / friction[k]).abs());
                let used = match cone {
                    Cone::Pyramidal => shares.sum::<f64>(),
                    Cone::Elliptic => shares.map(|share| share * share).sum::<f64>().sqrt(),
                };
                assert!(force[0] >= 0.0 && used <= force[0] + 1e-9, "{force:?}");
                for k in 0..D {
                    let moved = |by: f64| {
                        law.answer(std::array::from_fn(|i| x[i] + if i == k { by } else { 0.0 })).force
                    };
                    let (ahead, behind) = (moved(1e-6), moved(-1e-6));
                    for i in 0..D {
                        let derivative = (ahead[i] - behind[i]) / 2e-6;
                        assert!(
                            (derivative + slope[i][k]).abs() < 1e-3,
                            "{cone:?} {x:?}: {derivative} {slope:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn forces_stay_in_their_cones_and_slopes_are_their_derivatives() {
        forces_stay_within([0.0, 0.7, 0.7]);
        forces_stay_within([0.0, 0.7, 0.4]);
        forces_stay_within([0.0, 0.7, 0.7, 0.3, 0.0, 0.0]);
        forces_stay_within([0.0, 0.7, 0.7, 0.3, 0.2, 0.1]);
    }
}
