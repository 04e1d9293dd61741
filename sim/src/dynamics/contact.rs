//! Where links touch: closed forms for balls, capsules and boxes on a half-space, triangles of a height field near
//! them, parry for everything else.

use rapier3d::dynamics::CoefficientCombineRule;
use rapier3d::geometry::{Collider, ColliderHandle, ContactManifold, HeightField, SharedShape, TypedShape};
use rapier3d::math::Pose;
use rapier3d::parry::glamx::{DPose3, DVec3};
use rapier3d::parry::query::{DefaultQueryDispatcher, PersistentQueryDispatcher};

use super::details::{Details, GeomDetails, Touch};
use super::heights;
use super::inertia::Motion;
use super::narrow;
use super::softness::{Cone, Softness};
use super::tree::{Tree, wide};
use crate::state::PhysicsState;

/// One point of contact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    /// Link that is pushed along `normal`.
    pub(super) link: usize,
    /// Link that is pushed the other way; `None` where it is fixed to the world.
    pub(super) other: Option<usize>,
    /// In the middle between the surfaces, in the world.
    pub(super) point: DVec3,
    /// Unit length, away from `other`.
    pub(super) normal: DVec3,
    /// Overlap beyond the margin, m, above zero.
    pub(super) depth: f64,
    /// Of shapes: finds the [`Surface`].
    pub(super) pair: u32,
}

/// How a pair of shapes touches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surface {
    /// Largest force of each row over the normal's, in the order of [`super::constraint::Point`]; of turning in m.
    pub(super) friction: [f64; 6],
    /// Rubs against turning, too.
    pub(super) turns: bool,
    /// Distance at which contacts begin, m.
    pub(super) margin: f64,
    pub(super) cone: Cone,
    pub(super) impratio: f64,
    pub(super) softness: Softness,
    /// [`Softness::gains`] at the world's time step.
    pub(super) gains: [f64; 2],
}

#[derive(Clone)]
struct Geom {
    collider: ColliderHandle,
    link: Option<usize>,
    shape: SharedShape,
    /// In its link, or in the world where it has none.
    local: DPose3,
    friction: f32,
    rule: CoefficientCombineRule,
    /// Radius of a ball about its origin that holds it; infinite for half-spaces.
    bound: f64,
    details: Option<GeomDetails>,
}

/// Shapes that may touch, and those that do.
#[derive(Clone, Default)]
pub(super) struct Contacts {
    geoms: Vec<Geom>,
    pairs: Vec<(u32, u32)>,
    /// What a `<pair>` says of each of them.
    own: Vec<Option<Touch>>,
    pub(super) surfaces: Vec<Surface>,
    cone: Cone,
    impratio: f64,
    poses: Vec<DPose3>,
    manifolds: Vec<ContactManifold>,
    pub(super) found: Vec<Contact>,
}

impl Contacts {
    pub(super) fn read(state: &PhysicsState, tree: &Tree, details: &Details) -> Self {
        let mut this = Self { cone: details.cone, impratio: details.impratio, ..Self::default() };
        let mut groups = Vec::new();
        for (handle, collider) in state.colliders.iter() {
            if collider.is_sensor() || !collider.is_enabled() {
                continue;
            }
            let link = collider.parent().and_then(|body| tree.links.iter().position(|l| l.handle == body));
            // What hangs on nothing that moves is part of the world.
            let link = link.filter(|&l| tree.links[l].tip.is_some());
            groups.push(collider.collision_groups());
            this.geoms.push(Geom {
                collider: handle,
                link,
                shape: collider.shared_shape().clone(),
                local: DPose3::IDENTITY,
                friction: 0.0,
                rule: collider.friction_combine_rule(),
                bound: f64::from(bound(collider)),
                details: details.geoms.get(&handle).copied(),
            });
        }
        let root = |g: &Geom| g.link.map(|l| tree.links[l].root);
        for (a, first) in this.geoms.iter().enumerate() {
            for (b, second) in this.geoms.iter().enumerate() {
                // The moving one first; of two moving ones each pair once.
                let is_ordered = first.link.is_some() && (second.link.is_none() || a < b);
                let pair = details.pair(first.collider, second.collider);
                let may_touch = match (&first.details, &second.details) {
                    _ if pair.is_some() => true,
                    (Some(one), Some(other)) => one.may_touch(other, details),
                    _ => root(first) != root(second) && groups[a].test(groups[b]),
                };
                if is_ordered && may_touch {
                    this.pairs.push((a as u32, b as u32));
                    this.own.push(pair);
                }
            }
        }
        this.refresh(state);
        this
    }

    /// Takes over friction, shapes and the poses of fixed shapes, which an episode may have changed.
    pub(super) fn refresh(&mut self, state: &PhysicsState) {
        for geom in &mut self.geoms {
            let Some(collider) = state.colliders.get(geom.collider) else { continue };
            geom.friction = collider.friction();
            geom.shape = collider.shared_shape().clone();
            geom.bound = f64::from(bound(collider));
            let in_parent = collider.position_wrt_parent().copied().unwrap_or(*collider.position());
            geom.local = match (geom.link, collider.parent().and_then(|b| state.bodies.get(b))) {
                (None, Some(body)) => wide(&(*body.position() * in_parent)),
                _ => wide(&in_parent),
            };
        }
        self.poses = self.geoms.iter().map(|g| g.local).collect();
        let dt = f64::from(state.parameters.dt);
        let surface = |(&(a, b), own): (&(u32, u32), &Option<Touch>)| {
            let (first, second) = (&self.geoms[a as usize], &self.geoms[b as usize]);
            let touch = match (&first.details, &second.details) {
                (Some(one), _) if own.is_some_and(|own| own.condim > 1) => {
                    // What changes the friction of a geom changes that of its pairs.
                    let factor = one.factor(f64::from(first.friction));
                    own.map(|own| Touch { friction: own.friction.map(|mu| factor * mu), ..own })
                }
                _ if own.is_some() => *own,
                (Some(one), Some(other)) => {
                    Some(one.mixed(f64::from(first.friction), other, f64::from(second.friction)))
                }
                _ => None,
            };
            // Else: ground that a task puts under a robot, or a format without softness.
            let touch = touch.unwrap_or_else(|| {
                let least =
                    CoefficientCombineRule::combine(first.friction, second.friction, first.rule, second.rule);
                let softness = first.details.or(second.details).map_or(Softness::default(), |g| g.softness);
                Touch::sliding(f64::from(least), softness)
            });
            let Touch { margin, softness, .. } = touch;
            let Self { cone, impratio, .. } = *self;
            let (friction, turns) = (touch.rows(), touch.condim > 3);
            Surface { friction, turns, margin, cone, impratio, softness, gains: softness.gains(dt) }
        };
        self.surfaces = self.pairs.iter().zip(&self.own).map(surface).collect();
    }

    /// Fills `found`.
    pub(super) fn find(&mut self, motion: &Motion) {
        self.found.clear();
        for (geom, pose) in self.geoms.iter().zip(&mut self.poses) {
            if let Some(link) = geom.link {
                *pose = motion.poses[link] * geom.local;
            }
        }
        for (index, &(a, b)) in self.pairs.iter().enumerate() {
            let (first, second) = (&self.geoms[a as usize], &self.geoms[b as usize]);
            let (pose, other) = (&self.poses[a as usize], &self.poses[b as usize]);
            let Some(link) = first.link else { continue };
            let margin = self.surfaces[index].margin;
            let mut pair =
                Pair { link, other: second.link, pair: index as u32, margin, found: &mut self.found };
            if let TypedShape::HalfSpace(floor) = second.shape.as_typed_shape() {
                let normal = other.rotation * floor.normal.as_dvec3();
                let height = (pose.translation - other.translation).dot(normal);
                if height > first.bound + margin || pair.on_floor(first, pose, normal, other.translation) {
                    continue;
                }
            } else if let TypedShape::HeightField(field) = second.shape.as_typed_shape() {
                if pair.on_heights(first, pose, field, other) {
                    continue;
                }
            } else if second.bound.is_finite() {
                let reach = first.bound + second.bound + margin;
                if pose.translation.distance_squared(other.translation) > reach * reach {
                    continue;
                }
            }
            pair.by_parry(first, pose, second, other, &mut self.manifolds);
        }
    }
}

struct Pair<'a> {
    link: usize,
    other: Option<usize>,
    pair: u32,
    margin: f64,
    found: &'a mut Vec<Contact>,
}

impl Pair<'_> {
    /// `overlap` is below zero between shapes that are apart.
    fn add(&mut self, point: DVec3, normal: DVec3, overlap: f64) {
        let depth = overlap + self.margin;
        if depth > 0.0 && depth.is_finite() {
            let Self { link, other, pair, .. } = *self;
            self.found.push(Contact { link, other, point, normal, depth, pair });
        }
    }

    /// Closed forms on a half-space through `origin`; `false` where there is none.
    fn on_floor(&mut self, geom: &Geom, pose: &DPose3, normal: DVec3, origin: DVec3) -> bool {
        let mut ball = |center: DVec3, radius: f64| {
            let height = (center - origin).dot(normal);
            self.add(center - normal * (0.5 * (height + radius)), normal, radius - height);
        };
        match geom.shape.as_typed_shape() {
            TypedShape::Ball(shape) => ball(pose.translation, f64::from(shape.radius)),
            TypedShape::Capsule(shape) => {
                for end in [shape.segment.a, shape.segment.b] {
                    ball(pose.transform_point(end.as_dvec3()), f64::from(shape.radius));
                }
            }
            TypedShape::Cuboid(shape) => {
                for place in 0..8 {
                    let sign = |bit: usize| if place >> bit & 1 == 0 { -1.0 } else { 1.0 };
                    let corner = shape.half_extents.as_dvec3() * DVec3::new(sign(0), sign(1), sign(2));
                    ball(pose.transform_point(corner), 0.0);
                }
            }
            _ => return false,
        }
        true
    }

    /// Balls and points of the shape against the triangles near them; `false` where there are none for it.
    fn on_heights(&mut self, geom: &Geom, pose: &DPose3, field: &HeightField, other: &DPose3) -> bool {
        heights::samples(&geom.shape.as_typed_shape(), |center, radius| {
            let center = other.inverse_transform_point(pose.transform_point(center));
            for touch in heights::touches(field, center, radius).into_iter().flatten() {
                let (point, normal) = (other.transform_point(touch.point), other.rotation * touch.normal);
                self.add(point, normal, touch.depth);
            }
        })
    }

    fn by_parry(
        &mut self,
        first: &Geom,
        pose: &DPose3,
        second: &Geom,
        other: &DPose3,
        manifolds: &mut Vec<ContactManifold>,
    ) {
        // Nothing is carried over from the step before: a state determines its future.
        manifolds.clear();
        let relative = narrow(&pose.inv_mul(other));
        let (a, b) = (&*first.shape.0, &*second.shape.0);
        let is_known = DefaultQueryDispatcher.contact_manifolds(
            &relative,
            a,
            b,
            self.margin as f32,
            manifolds,
            &mut None,
        );
        if is_known.is_err() {
            return;
        }
        for manifold in manifolds.iter() {
            let inner = manifold.subshape_poses.as_deref().and_then(|p| p.pos1);
            let place_in_shape = inner.unwrap_or(Pose::IDENTITY);
            let normal = pose.rotation * (place_in_shape.rotation * -manifold.local_n1).as_dvec3();
            for contact in &manifold.points {
                let overlap = -f64::from(contact.dist);
                let on_first = pose.transform_point((place_in_shape * contact.local_p1).as_dvec3());
                self.add(on_first + normal * (0.5 * overlap), normal, overlap);
            }
        }
    }
}

fn bound(collider: &Collider) -> f32 {
    match collider.shape().as_typed_shape() {
        TypedShape::HalfSpace(_) => f32::INFINITY,
        _ => {
            let sphere = collider.shape().compute_local_bounding_sphere();
            sphere.center.length() + sphere.radius
        }
    }
}
