//! What a robot file says of contacts and joints beyond what rapier's sets hold.

use std::collections::{HashMap, HashSet};

use rapier3d::geometry::ColliderHandle;

use super::softness::{Cone, Softness};

/// MuJoCo's settings of a model; the default is that of formats without any.
#[derive(Clone, Debug)]
pub(crate) struct Details {
    pub(crate) cone: Cone,
    /// Hardness of friction over that of normals.
    pub(crate) impratio: f64,
    /// Damping acts on the velocity from before the step: MuJoCo's `<flag eulerdamp="disable"/>`.
    pub(crate) explicit_damping: bool,
    /// Shapes that are not in it touch with friction rule Min, and not within their robot.
    pub(crate) geoms: HashMap<ColliderHandle, GeomDetails>,
    /// Of the robot's joints: limit and dry friction.
    pub(crate) joints: Vec<[Softness; 2]>,
    /// Bodies that never touch, by index in the file, smaller first.
    pub(crate) excluded: HashSet<(usize, usize)>,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            cone: Cone::Elliptic,
            impratio: 1.0,
            explicit_damping: false,
            geoms: HashMap::new(),
            joints: Vec::new(),
            excluded: HashSet::new(),
        }
    }
}

/// Contact attributes of an MJCF geom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GeomDetails {
    /// Index of its body in the file.
    pub(crate) body: usize,
    /// The body that moves it, 0 for the world, and the one that this hangs on.
    pub(crate) weld: usize,
    pub(crate) above: usize,
    pub(crate) contype: u32,
    pub(crate) conaffinity: u32,
    pub(crate) condim: u32,
    pub(crate) priority: i32,
    pub(crate) mix: f64,
    /// Contacts begin at a distance of the sum of both, m.
    pub(crate) margin: f64,
    pub(crate) softness: Softness,
}

impl GeomDetails {
    /// MuJoCo's rules: bits, not within a body, not with the body that it hangs on unless that is the world.
    pub(super) fn may_touch(&self, other: &Self, details: &Details) -> bool {
        let bits = self.contype & other.conaffinity | other.contype & self.conaffinity;
        let bodies = (self.body.min(other.body), self.body.max(other.body));
        let is_neighbour =
            self.weld != 0 && other.weld != 0 && (self.above == other.weld || other.above == self.weld);
        bits != 0 && self.weld != other.weld && !is_neighbour && !details.excluded.contains(&bodies)
    }

    /// Friction and softness of a contact: of the geom of higher priority, else the larger and the mean.
    pub(super) fn mixed(&self, friction: f64, other: &Self, others: f64) -> (f64, Softness) {
        let alone = |geom: &Self, friction| (if geom.condim == 1 { 0.0 } else { friction }, geom.softness);
        match self.priority.cmp(&other.priority) {
            std::cmp::Ordering::Greater => alone(self, friction),
            std::cmp::Ordering::Less => alone(other, others),
            std::cmp::Ordering::Equal => {
                let total = self.mix + other.mix;
                let share = if total > 1e-15 { self.mix / total } else { 0.5 };
                let (a, b) = (self.softness, other.softness);
                let mean = |a: f64, b: f64| share * a + (1.0 - share) * b;
                let are_times = a.reference[0] > 0.0 && b.reference[0] > 0.0;
                let softness = Softness {
                    reference: std::array::from_fn(|i| {
                        let (a, b) = (a.reference[i], b.reference[i]);
                        if are_times { mean(a, b) } else { a.min(b) }
                    }),
                    impedance: std::array::from_fn(|i| mean(a.impedance[i], b.impedance[i])),
                };
                let friction = if self.condim.max(other.condim) == 1 { 0.0 } else { friction.max(others) };
                (friction, softness)
            }
        }
    }
}
