//! Rays against primitives, in the primitive's own frame.

use rapier3d::math::{Pose, Vector};

use super::pose;
use crate::scene::{Placed, Shape};

/// Where a ray meets a surface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    /// Distance along the ray, m.
    pub(super) distance: f32,
    /// Outward unit normal in the world.
    pub(super) normal: Vector,
}

/// A placed shape, prepared for many rays.
pub(super) struct Primitive {
    shape: Shape,
    world_from_shape: Pose,
    shape_from_world: Pose,
    /// Radius of a sphere about the origin that holds the shape: most rays miss it at once.
    bound: f32,
    color: [f32; 3],
}

impl Primitive {
    pub(super) fn new(placed: &Placed) -> Self {
        let world_from_shape = pose(placed.position, placed.rotation);
        let bound = match placed.shape {
            Shape::Plane => f32::INFINITY,
            Shape::Sphere { radius } => radius,
            Shape::Box { half_extents } => Vector::from(half_extents).length(),
            Shape::Capsule { radius, half_length } => radius + half_length,
            Shape::Cylinder { radius, half_length } => radius.hypot(half_length),
        };
        let shape_from_world = world_from_shape.inverse();
        Self { shape: placed.shape, world_from_shape, shape_from_world, bound, color: placed.color }
    }

    /// First hit in front of `origin` and nearer than `limit`; `direction` has unit length.
    pub(super) fn cast(&self, origin: Vector, direction: Vector, limit: f32) -> Option<Hit> {
        if self.bound.is_finite() {
            let to_center = self.world_from_shape.translation - origin;
            let along = to_center.dot(direction);
            let miss = to_center.length_squared() - along * along;
            if along < -self.bound || miss > self.bound * self.bound {
                return None;
            }
        }
        let o = self.shape_from_world * origin;
        let d = self.shape_from_world.rotation * direction;
        let (distance, normal) = match self.shape {
            Shape::Plane => plane(o, d),
            Shape::Sphere { radius } => sphere(o, d, Vector::ZERO, radius),
            Shape::Box { half_extents } => cuboid(o, d, half_extents.into()),
            Shape::Capsule { radius, half_length } => capsule(o, d, radius, half_length),
            Shape::Cylinder { radius, half_length } => cylinder(o, d, radius, half_length),
        }?;
        (distance < limit).then(|| Hit { distance, normal: self.world_from_shape.rotation * normal })
    }

    /// Colour of the surface at a point of the world: planes are checker boards with squares of side `checker`.
    pub(super) fn color_at(&self, point: Vector, checker: f32) -> [f32; 3] {
        if self.shape != Shape::Plane {
            return self.color;
        }
        let local = self.shape_from_world * point;
        let odd = ((local.x / checker).floor() + (local.y / checker).floor()).rem_euclid(2.0) >= 1.0;
        self.color.map(|c| if odd { c * 0.8 } else { c })
    }
}

/// Hits nearer than this lie on the surface the ray starts from.
const NEAR: f32 = 1e-4;

type LocalHit = Option<(f32, Vector)>;

fn plane(o: Vector, d: Vector) -> LocalHit {
    let t = -o.z / d.z;
    (o.z > 0.0 && t > NEAR && t.is_finite()).then_some((t, Vector::Z))
}

fn sphere(o: Vector, d: Vector, center: Vector, radius: f32) -> LocalHit {
    let m = o - center;
    let b = m.dot(d);
    let discriminant = b * b - (m.length_squared() - radius * radius);
    if discriminant < 0.0 {
        return None;
    }
    let t = -b - discriminant.sqrt();
    (t > NEAR).then(|| (t, (m + d * t) / radius))
}

fn cuboid(o: Vector, d: Vector, half: Vector) -> LocalHit {
    // Slabs: the last entry of the three pairs of planes, if it comes before the first exit.
    let inverse = d.recip();
    let (a, b) = ((-half - o) * inverse, (half - o) * inverse);
    let (entries, exits) = (a.min(b), a.max(b));
    let t = entries.max_element();
    if !(t > NEAR && t <= exits.min_element()) {
        return None;
    }
    let axis = if entries.x == t {
        Vector::X
    } else if entries.y == t {
        Vector::Y
    } else {
        Vector::Z
    };
    Some((t, -axis * d.dot(axis).signum()))
}

/// The mantle of an endless cylinder about z: nearest entry.
fn mantle(o: Vector, d: Vector, radius: f32) -> Option<f32> {
    let a = d.x * d.x + d.y * d.y;
    let b = o.x * d.x + o.y * d.y;
    let discriminant = b * b - a * (o.x * o.x + o.y * o.y - radius * radius);
    if a < 1e-12 || discriminant < 0.0 {
        return None;
    }
    let t = (-b - discriminant.sqrt()) / a;
    (t > NEAR).then_some(t)
}

fn mantle_between_ends(o: Vector, d: Vector, radius: f32, half_length: f32) -> LocalHit {
    let t = mantle(o, d, radius)?;
    let p = o + d * t;
    (p.z.abs() <= half_length).then(|| (t, Vector::new(p.x, p.y, 0.0) / radius))
}

fn capsule(o: Vector, d: Vector, radius: f32, half_length: f32) -> LocalHit {
    let end = Vector::Z * half_length;
    nearest([
        mantle_between_ends(o, d, radius, half_length),
        sphere(o, d, end, radius),
        sphere(o, d, -end, radius),
    ])
}

fn cylinder(o: Vector, d: Vector, radius: f32, half_length: f32) -> LocalHit {
    let side = -d.z.signum();
    let t = (side * half_length - o.z) / d.z;
    let p = o + d * t;
    let cap = (t > NEAR && p.x * p.x + p.y * p.y <= radius * radius).then_some((t, Vector::Z * side));
    nearest([mantle_between_ends(o, d, radius, half_length), cap, None])
}

fn nearest(hits: [LocalHit; 3]) -> LocalHit {
    hits.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))
}
