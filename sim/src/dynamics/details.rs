//! What a robot file says of contacts and joints beyond what rapier's sets hold.

use std::cmp::Ordering;
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
    /// Shapes that touch in a way of their own, in either order.
    pub(crate) pairs: HashMap<(ColliderHandle, ColliderHandle), Touch>,
}

impl Details {
    pub(super) fn pair(&self, a: ColliderHandle, b: ColliderHandle) -> Option<Touch> {
        self.pairs.get(&(a, b)).or_else(|| self.pairs.get(&(b, a))).copied()
    }
}

/// How two shapes touch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Touch {
    /// 1: nothing rubs; 3: sliding does; 4: turning about the normal, too; 6: rolling, too.
    pub(crate) condim: u32,
    /// Along both tangents, then about the normal and about both tangents (m).
    pub(crate) friction: [f64; 5],
    /// Contacts begin at this distance, m.
    pub(crate) margin: f64,
    pub(crate) softness: Softness,
}

impl Default for Touch {
    /// MuJoCo's `<pair>` that says nothing.
    fn default() -> Self {
        let friction = [1.0, 1.0, 0.005, 1e-4, 1e-4];
        Self { condim: 3, friction, margin: 0.0, softness: Softness::default() }
    }
}

impl Touch {
    pub(super) fn sliding(friction: f64, softness: Softness) -> Self {
        let friction = [friction, friction, 0.0, 0.0, 0.0];
        Self { condim: 3, friction, margin: 0.0, softness }
    }

    /// Bounds of the rows of a contact; that of the normal means nothing.
    pub(super) fn rows(&self) -> [f64; 6] {
        let Self { condim, friction, .. } = *self;
        let mut rows = [0.0; 6];
        for (row, mu) in rows.iter_mut().zip([0.0].into_iter().chain(friction)).take(condim as usize) {
            // With several coefficients all are above zero, as MuJoCo's.
            *row = if condim > 3 { mu.max(SMALLEST_FRICTION) } else { mu };
        }
        rows
    }
}

/// MuJoCo's `mjMINMU`.
const SMALLEST_FRICTION: f64 = 1e-5;

impl Default for Details {
    fn default() -> Self {
        Self {
            cone: Cone::Elliptic,
            impratio: 1.0,
            explicit_damping: false,
            geoms: HashMap::new(),
            joints: Vec::new(),
            excluded: HashSet::new(),
            pairs: HashMap::new(),
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
    /// Of sliding, and of turning about the normal and rolling (m), as the file says.
    pub(crate) friction: [f64; 3],
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

    /// By how much the friction of the shape differs from the file's.
    pub(super) fn factor(&self, friction: f64) -> f64 {
        if self.friction[0] > 0.0 { friction / self.friction[0] } else { 1.0 }
    }

    /// How it touches another: as the geom of higher priority says, else the larger frictions and the mean softness.
    /// `friction` and `others` are those of sliding as they are now.
    pub(super) fn mixed(&self, friction: f64, other: &Self, others: f64) -> Touch {
        let all = |geom: &Self, friction: f64| {
            let factor = geom.factor(friction);
            [friction, factor * geom.friction[1], factor * geom.friction[2]]
        };
        let (mine, theirs) = (all(self, friction), all(other, others));
        let (condim, [slide, spin, roll], softness) = match self.priority.cmp(&other.priority) {
            Ordering::Greater => (self.condim, mine, self.softness),
            Ordering::Less => (other.condim, theirs, other.softness),
            Ordering::Equal => {
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
                let larger = std::array::from_fn(|i| mine[i].max(theirs[i]));
                (self.condim.max(other.condim), larger, softness)
            }
        };
        Touch {
            condim,
            friction: [slide, slide, spin, roll, roll],
            margin: self.margin + other.margin,
            softness,
        }
    }
}
