//! Contact, joint limits and dry friction as soft constraints on acceleration, solved by projected Gauss-Seidel.
//!
//! The model is MuJoCo's (Todorov 2014; "Computation" in its documentation): a row `J` wants the acceleration
//! `a* = -b J v - k d r` and yields by `R f`, with `R = (1 - d)/d J M^-1 J^T` and an impedance `d(r)` of overlap `r`.
//! Rows are kept as `w = D^-1/2 L^-T J^T`, which is not zero only on the row's chain: then `J M^-1 J^T = w.w`, and the
//! solver never touches the mass matrix.

use rapier3d::parry::glamx::DVec3;

use super::contact::Contact;
use super::inertia::{Motion, Spatial};
use super::tree::Tree;

/// Time constant and damping ratio of a constraint: MuJoCo's default `solref`.
const TIME_CONSTANT_S: f64 = 0.02;
const DAMPING_RATIO: f64 = 1.0;
/// Impedance at no overlap, at `WIDTH_M` and beyond: MuJoCo's default `solimp`.
const IMPEDANCE: [f64; 2] = [0.9, 0.95];
const WIDTH_M: f64 = 0.001;
/// Impedance of dry friction. MuJoCo's is that of an overlap of zero, which lets a joint creep: 5e-3 rad/s at 0.9 of
/// its bound in tests/closed_form.rs.
const DRY_IMPEDANCE: f64 = 0.999;
/// Sweeps at most.
const MAX_SWEEPS: usize = 30;
/// A sweep that changes no constraint's acceleration by more than this, relative to gravity, is the last.
const TOLERANCE: f64 = 1e-3 * 9.81;

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Pushes only: limits and normals.
    Push,
    /// At most so much either way: dry friction of a joint.
    Within(f64),
    /// The two rows after a normal: together at most the coefficient times its force.
    Cone(f64),
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// Where its entries lie in `index` and `w`.
    start: usize,
    end: usize,
    /// `w.w`.
    response: f64,
    /// `R`.
    softness: f64,
    target: f64,
    force: f64,
    bound: Bound,
    key: u32,
}

/// A limit on a joint coordinate or a bound of its dry friction.
#[derive(Clone, Copy, Debug)]
pub(super) struct JointRow {
    pub(super) dof: usize,
    pub(super) range: Option<[f64; 2]>,
    pub(super) friction_loss: f64,
}

/// Rows of the current step, and the forces of the one before to start from.
#[derive(Clone, Default)]
pub(super) struct Constraints {
    rows: Vec<Row>,
    index: Vec<u16>,
    w: Vec<f64>,
    scratch: Vec<f64>,
    previous: Vec<(u32, f64)>,
}

/// Keys of joints lie above those of contacts.
const JOINT_KEYS: u32 = 1 << 31;

impl Constraints {
    /// Forgets the forces of the step before.
    pub(super) fn forget(&mut self) {
        self.rows.clear();
    }

    /// Sets up the rows of this instant. `dt` bounds how stiff they can be.
    pub(super) fn assemble(
        &mut self,
        tree: &Tree,
        motion: &Motion,
        contacts: &[Contact],
        joints: &[JointRow],
        dt: f64,
    ) {
        self.previous.clear();
        self.previous.extend(self.rows.iter().map(|row| (row.key, row.force)));
        self.rows.clear();
        self.index.clear();
        self.w.clear();
        self.scratch.resize(tree.n, 0.0);
        // As MuJoCo's `refsafe`: a constraint faster than two steps would not be stable.
        let time_constant = TIME_CONSTANT_S.max(2.0 * dt);
        let damping = 2.0 / (IMPEDANCE[1] * time_constant);
        let stiffness = 1.0 / (IMPEDANCE[1] * time_constant * DAMPING_RATIO).powi(2);

        for (place, joint) in joints.iter().enumerate() {
            let (q, dq) = (motion.q[joint.dof], motion.dq[joint.dof]);
            let key = JOINT_KEYS + 2 * place as u32;
            if joint.friction_loss > 0.0 {
                let row = self.joint_row(tree, motion, joint.dof, 1.0);
                let softness = (1.0 - DRY_IMPEDANCE) / DRY_IMPEDANCE * row.response;
                let (target, bound) = (-damping * dq, Bound::Within(joint.friction_loss));
                self.push(Row { softness, target, bound, key, ..row });
            }
            let Some([low, high]) = joint.range else { continue };
            for (sign, overlap) in [(1.0, low - q), (-1.0, q - high)] {
                if overlap > 0.0 {
                    let row = self.joint_row(tree, motion, joint.dof, sign);
                    let d = impedance(overlap);
                    let target = -damping * sign * dq + stiffness * d * overlap;
                    let softness = (1.0 - d) / d * row.response;
                    self.push(Row { softness, target, bound: Bound::Push, key: key + 1, ..row });
                }
            }
        }
        for contact in contacts {
            let offset = contact.point - motion.reference;
            let start = self.index.len();
            merge(tree, contact, &mut self.index);
            let end = self.index.len();
            let d = impedance(contact.depth);
            let mut relative = motion.velocities[contact.link].at(offset);
            if let Some(other) = contact.other {
                relative -= motion.velocities[other].at(offset);
            }
            let (first, second) = tangents(contact.normal);
            let mut softness = 0.0;
            for (axis, direction) in [contact.normal, first, second].into_iter().enumerate() {
                if axis > 0 && contact.friction <= 0.0 {
                    break;
                }
                let row = self.contact_row(tree, motion, contact, offset, direction, (start, end));
                let (bound, position) = match axis {
                    0 => (Bound::Push, stiffness * d * contact.depth),
                    _ => (Bound::Cone(contact.friction), 0.0),
                };
                // Friction yields as the normal does.
                if axis == 0 {
                    softness = (1.0 - d) / d * row.response;
                }
                let target = -damping * relative.dot(direction) + position;
                let key = contact.key * 3 + axis as u32;
                self.push(Row { softness, target, bound, key, ..row });
            }
        }
    }

    fn push(&mut self, mut row: Row) {
        let before = self.previous.iter().find(|(key, _)| *key == row.key);
        row.force = before.map_or(0.0, |(_, force)| *force);
        self.rows.push(row);
    }

    fn joint_row(&mut self, tree: &Tree, motion: &Motion, dof: usize, sign: f64) -> Row {
        let start = self.index.len();
        self.index.extend_from_slice(tree.chain(dof));
        self.scratch[dof] = sign;
        self.finish_row(tree, motion, (start, self.index.len()))
    }

    fn contact_row(
        &mut self,
        tree: &Tree,
        motion: &Motion,
        contact: &Contact,
        offset: DVec3,
        direction: DVec3,
        range: (usize, usize),
    ) -> Row {
        let pull = Spatial { angular: offset.cross(direction), linear: direction };
        if let Some(tip) = tree.links[contact.link].tip {
            for &k in tree.chain(tip) {
                self.scratch[usize::from(k)] += motion.axes[usize::from(k)].dot(pull);
            }
        }
        if let Some(tip) = contact.other.and_then(|other| tree.links[other].tip) {
            for &k in tree.chain(tip) {
                self.scratch[usize::from(k)] -= motion.axes[usize::from(k)].dot(pull);
            }
        }
        self.finish_row(tree, motion, range)
    }

    /// Turns the row of `J` in the scratch memory into `w`, and clears the scratch memory.
    fn finish_row(&mut self, tree: &Tree, motion: &Motion, (start, end): (usize, usize)) -> Row {
        let support = self.index[start..end].iter().map(|&k| usize::from(k));
        motion.half_solve(tree, support.clone(), &mut self.scratch);
        let at = self.w.len();
        let mut response = 0.0;
        for k in support {
            let value = std::mem::take(&mut self.scratch[k]);
            response += value * value;
            self.w.push(value);
        }
        // Rows of one contact share their indices but not their values.
        if at != start {
            self.index.extend_from_within(start..end);
        }
        let (start, end) = (at, self.w.len());
        Row { start, end, response, softness: 0.0, target: 0.0, force: 0.0, bound: Bound::Push, key: 0 }
    }

    /// Adds the constraints' part to `u = D^1/2 L a`, the acceleration without them on entry.
    pub(super) fn solve(&mut self, u: &mut [f64]) {
        let Self { rows, index, w, .. } = self;
        for row in rows.iter().filter(|row| row.force != 0.0) {
            add(&index[row.start..row.end], &w[row.start..row.end], row.force, u);
        }
        for _ in 0..MAX_SWEEPS {
            let mut change = 0.0f64;
            let mut normal = 0.0;
            let mut k = 0;
            while k < rows.len() {
                let row = rows[k];
                let free = |row: &Row, u: &[f64]| {
                    let a = dot(&index[row.start..row.end], &w[row.start..row.end], u);
                    row.force - (a + row.softness * row.force - row.target) / (row.response + row.softness)
                };
                let mut set = |row: &mut Row, force: f64, u: &mut [f64]| {
                    let step = force - row.force;
                    if step != 0.0 {
                        add(&index[row.start..row.end], &w[row.start..row.end], step, u);
                        change = change.max((step * row.response).abs());
                    }
                    row.force = force;
                };
                match row.bound {
                    Bound::Push => {
                        normal = free(&row, u).max(0.0);
                        set(&mut rows[k], normal, u);
                        k += 1;
                    }
                    Bound::Within(most) => {
                        let force = free(&row, u).clamp(-most, most);
                        set(&mut rows[k], force, u);
                        k += 1;
                    }
                    Bound::Cone(friction) => {
                        // The second direction sees the first as if nothing bounded them; then both are bounded together.
                        let other = rows[k + 1];
                        let first = free(&row, u);
                        let entries = (&index[row.start..row.end], &w[row.start..row.end]);
                        add(entries.0, entries.1, first - row.force, u);
                        let second = free(&other, u);
                        add(entries.0, entries.1, row.force - first, u);
                        let (most, length) = (friction * normal, first.hypot(second));
                        let factor = if length > most { most / length } else { 1.0 };
                        set(&mut rows[k], first * factor, u);
                        set(&mut rows[k + 1], second * factor, u);
                        k += 2;
                    }
                }
            }
            if change < TOLERANCE {
                break;
            }
        }
    }

    /// Magnitude of the force at a contact, N.
    pub(super) fn contact_force(&self, key: u32) -> f64 {
        let of = |axis| self.rows.iter().find(|row| row.key == key * 3 + axis).map_or(0.0, |row| row.force);
        of(0).hypot(of(1)).hypot(of(2))
    }
}

fn dot(index: &[u16], w: &[f64], u: &[f64]) -> f64 {
    index.iter().zip(w).map(|(&k, w)| w * u[usize::from(k)]).sum()
}

fn add(index: &[u16], w: &[f64], factor: f64, u: &mut [f64]) {
    for (&k, w) in index.iter().zip(w) {
        u[usize::from(k)] += w * factor;
    }
}

/// Degrees of freedom that move either side, tips first.
fn merge(tree: &Tree, contact: &Contact, index: &mut Vec<u16>) {
    let chain = |link: usize| tree.links[link].tip.map_or(&[][..], |tip| tree.chain(tip));
    let (mut a, mut b) = (chain(contact.link), contact.other.map_or(&[][..], chain));
    while let Some(&next) = a.first().max(b.first()) {
        index.push(next);
        a = if a.first() == Some(&next) { &a[1..] } else { a };
        b = if b.first() == Some(&next) { &b[1..] } else { b };
    }
}

fn tangents(normal: DVec3) -> (DVec3, DVec3) {
    let side = if normal.x.abs() < 0.9 { DVec3::X } else { DVec3::Y };
    let first = (side - normal * side.dot(normal)).normalize();
    (first, normal.cross(first))
}

/// MuJoCo's impedance at an overlap, with midpoint 0.5 and power 2.
fn impedance(overlap: f64) -> f64 {
    let x = (overlap / WIDTH_M).min(1.0);
    let y = if x <= 0.5 { 2.0 * x * x } else { 1.0 - 2.0 * (1.0 - x) * (1.0 - x) };
    IMPEDANCE[0] + y * (IMPEDANCE[1] - IMPEDANCE[0])
}
