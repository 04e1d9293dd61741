//! Contact, joint limits and dry friction as soft constraints on acceleration.
//!
//! The model is MuJoCo's: a row `J` wants the acceleration `a* = -b J v + k d r` at overlap `r` and gives the force
//! `(a* - J a) / R` as far as its bound allows, with `R = (1 - d)/d A` and `A` the inverse mass that the row meets in the
//! file's rest pose. The accelerations of all degrees of freedom minimise `1/2 (a - a0)' M (a - a0)` plus the costs of
//! the rows: `newton` finds them.

use rapier3d::parry::glamx::DVec3;

use super::contact::{Contact, Surface};
use super::inertia::{Motion, Spatial};
use super::softness::{Cone, Law, Softness};
use super::tree::Tree;

/// A limit on a joint coordinate or a bound of its dry friction.
#[derive(Clone, Copy, Debug)]
pub(super) struct JointRow {
    pub(super) dof: usize,
    pub(super) range: Option<[f64; 2]>,
    pub(super) friction_loss: f64,
    pub(super) limit: Softness,
    pub(super) dry: Softness,
}

/// A row with one entry: limit or dry friction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Single {
    pub(super) dof: usize,
    pub(super) sign: f64,
    pub(super) target: f64,
    pub(super) hardness: f64,
    /// Largest force of dry friction; `None`: pushes only.
    pub(super) within: Option<f64>,
    pub(super) x: f64,
}

impl Single {
    /// Force at a residual, and how it falls with it.
    pub(super) fn answer(&self, x: f64) -> [f64; 2] {
        let force = -self.hardness * x;
        match self.within {
            None if force > 0.0 => [force, self.hardness],
            None => [0.0; 2],
            Some(most) if force.abs() <= most => [force, self.hardness],
            Some(most) => [most.copysign(force), 0.0],
        }
    }
}

/// The rows of a contact: normal, two tangents and, of six, the turning about each of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point<const D: usize> {
    /// Where its degrees of freedom lie in `support`, and `D` times as many entries in `jacobian`.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) target: [f64; D],
    pub(super) law: Law<D>,
    pub(super) x: [f64; D],
    pub(super) force: [f64; D],
}

/// The contacts of one number of rows, in their order.
#[derive(Clone, Default)]
pub(super) struct Block<const D: usize> {
    pub(super) points: Vec<Point<D>>,
    pub(super) support: Vec<u16>,
    /// Per contact the row of the normal, then those of the tangents, then those of turning.
    pub(super) jacobian: Vec<f64>,
    /// How the forces fall with the residuals.
    pub(super) slopes: Vec<[[f64; D]; D]>,
}

/// Rows of the current step.
#[derive(Clone, Default)]
pub(super) struct Rows {
    pub(super) singles: Vec<Single>,
    pub(super) sliding: Block<3>,
    /// Those with torsional or rolling friction.
    pub(super) turning: Block<6>,
    /// A contact holds two branches together: the sparse factors do not fit.
    pub(super) is_coupled: bool,
}

/// What the rows meet at rest: MuJoCo's `dof_invweight0` and `body_invweight0`.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    pub(super) dofs: Vec<f64>,
    /// Of translation at the centre of mass.
    pub(super) links: Vec<f64>,
}

/// Smallest `R`, as MuJoCo's `mjMINVAL`.
const SMALLEST: f64 = 1e-15;

impl Rows {
    /// Sets up the rows of this instant. `dt` bounds how stiff they can be.
    pub(super) fn assemble(
        &mut self,
        tree: &Tree,
        motion: &Motion,
        weights: &Weights,
        (contacts, surfaces): (&[Contact], &[Surface]),
        joints: &[JointRow],
        dt: f64,
    ) {
        self.singles.clear();
        self.sliding.clear();
        self.turning.clear();
        self.is_coupled = false;
        for joint in joints {
            let JointRow { dof, .. } = *joint;
            let (q, dq) = (motion.q[dof], motion.dq[dof]);
            let hardness =
                |softness: &Softness, overlap| hardness(softness.impedance(overlap), weights.dofs[dof]);
            if joint.friction_loss > 0.0 {
                let [damping, _] = joint.dry.gains(dt);
                self.singles.push(Single {
                    dof,
                    sign: 1.0,
                    target: -damping * dq,
                    hardness: hardness(&joint.dry, 0.0),
                    within: Some(joint.friction_loss),
                    x: 0.0,
                });
            }
            let Some([low, high]) = joint.range else { continue };
            for (sign, overlap) in [(1.0, low - q), (-1.0, q - high)] {
                if overlap > 0.0 {
                    let [damping, stiffness] = joint.limit.gains(dt);
                    let pull = stiffness * joint.limit.impedance(overlap) * overlap;
                    self.singles.push(Single {
                        dof,
                        sign,
                        target: pull - damping * sign * dq,
                        hardness: hardness(&joint.limit, overlap),
                        within: None,
                        x: 0.0,
                    });
                }
            }
        }
        for contact in contacts {
            let surface = &surfaces[contact.pair as usize];
            self.is_coupled |= match surface.turns {
                false => self.sliding.push(tree, motion, weights, contact, surface),
                true => self.turning.push(tree, motion, weights, contact, surface),
            };
        }
    }

    /// Forces along normal and tangents of all contacts, whose surfaces say in turn whether they rub against turning.
    pub(super) fn forces<'a>(
        &'a self,
        turns: impl Iterator<Item = bool> + 'a,
    ) -> impl Iterator<Item = [f64; 3]> + 'a {
        let (mut sliding, mut turning) = (self.sliding.points.iter(), self.turning.points.iter());
        turns.filter_map(move |turns| match turns {
            false => sliding.next().map(|point| point.force),
            true => turning.next().map(|point| [0, 1, 2].map(|k| point.force[k])),
        })
    }
}

impl<const D: usize> Block<D> {
    fn clear(&mut self) {
        self.points.clear();
        self.support.clear();
        self.jacobian.clear();
    }

    /// Whether the contact holds two branches together.
    fn push(
        &mut self,
        tree: &Tree,
        motion: &Motion,
        weights: &Weights,
        contact: &Contact,
        surface: &Surface,
    ) -> bool {
        let offset = contact.point - motion.reference;
        let start = self.support.len();
        let (chain, others) =
            (tree.moving(contact.link), contact.other.map_or(&[][..], |link| tree.moving(link)));
        merge(chain, others, &mut self.support);
        let end = self.support.len();
        // A chain is its first degree of freedom's: anything longer holds branches together.
        let is_coupled =
            self.support.get(start).is_some_and(|&tip| tree.chain(usize::from(tip)).len() != end - start);

        let (first, second) = tangents(contact.normal);
        let axes = [contact.normal, first, second];
        let (at, length) = (self.jacobian.len(), end - start);
        self.jacobian.resize(at + D * length, 0.0);
        let jacobian = &mut self.jacobian[at..];
        let mut place = [0, 0];
        for (column, &k) in self.support[start..end].iter().enumerate() {
            // Velocity of the point on the one body less that of the point on the other, at unit speed of `k`.
            let mut sign = 0.0;
            for ((chain, place), part) in [chain, others].into_iter().zip(&mut place).zip([1.0, -1.0]) {
                if chain.get(*place) == Some(&k) {
                    *place += 1;
                    sign += part;
                }
            }
            if sign != 0.0 {
                let speed = motion.axes[usize::from(k)].at(offset) * sign;
                for (row, axis) in axes.iter().enumerate() {
                    jacobian[row * length + column] = axis.dot(speed);
                }
                if D > 3 {
                    let turning = motion.axes[usize::from(k)].angular * sign;
                    for (row, axis) in axes.iter().enumerate() {
                        jacobian[(3 + row) * length + column] = axis.dot(turning);
                    }
                }
            }
        }

        let impedance = surface.softness.impedance(contact.depth);
        let weight = weights.links[contact.link] + contact.other.map_or(0.0, |link| weights.links[link]);
        let mu = surface.friction[1];
        let (normal, tangential) = match surface.cone {
            Cone::Elliptic => {
                let hardness = hardness(impedance, weight);
                (hardness, hardness * surface.impratio)
            }
            // MuJoCo gives every edge the same softness, that of an elliptic contact of the same friction.
            Cone::Pyramidal if mu > 0.0 => {
                let edge = hardness(impedance, weight * (1.0 + mu * mu));
                (edge * surface.impratio / (2.0 * mu * mu), 0.0)
            }
            Cone::Pyramidal => (hardness(impedance, weight), 0.0),
        };
        let relative = |link: usize| -> Spatial { motion.velocities[link] };
        let other = contact.other.map(relative);
        let velocity =
            relative(contact.link).at(offset) - other.map_or(DVec3::ZERO, |motion| motion.at(offset));
        let [damping, stiffness] = surface.gains;
        let mut target = [0.0; D];
        for (target, axis) in target.iter_mut().zip(axes) {
            *target = -damping * axis.dot(velocity);
        }
        if D > 3 {
            let turning = relative(contact.link).angular - other.map_or(DVec3::ZERO, |motion| motion.angular);
            for (target, axis) in target[3..].iter_mut().zip(axes) {
                *target = -damping * axis.dot(turning);
            }
        }
        target[0] += stiffness * impedance * contact.depth;
        let friction = std::array::from_fn(|row| surface.friction[row]);
        let law = Law::new(surface.cone, friction, normal, tangential);
        self.points.push(Point { start, end, target, law, x: [0.0; D], force: [0.0; D] });
        is_coupled
    }
}

/// `1 / R`.
fn hardness(impedance: f64, weight: f64) -> f64 {
    1.0 / ((1.0 - impedance) / impedance * weight).max(SMALLEST)
}

/// Both chains in one, tips first.
fn merge(mut a: &[u16], mut b: &[u16], support: &mut Vec<u16>) {
    while let Some(&next) = a.first().max(b.first()) {
        support.push(next);
        a = if a.first() == Some(&next) { &a[1..] } else { a };
        b = if b.first() == Some(&next) { &b[1..] } else { b };
    }
}

/// As MuJoCo's frames: the first tangent is y as far as it can be, else z.
fn tangents(normal: DVec3) -> (DVec3, DVec3) {
    let side = if normal.y.abs() < 0.5 { DVec3::Y } else { DVec3::Z };
    let first = (side - normal * side.dot(normal)).normalize();
    (first, normal.cross(first))
}
