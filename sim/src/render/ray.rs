//! Rays against primitives, in the primitive's own frame.

use rapier3d::math::{Matrix, Pose, Vector};

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

/// A placed shape, prepared for the rays of one eye and one sun.
pub(super) struct Primitive {
    shape: Shape,
    center: Vector,
    world_from_shape: Matrix,
    shape_from_world: Matrix,
    eye: Vector,
    sun: Vector,
    /// Radius of a ball about the origin that holds the shape: most rays miss it at once.
    bound: f32,
    /// Axis of a plane in the world.
    up: Vector,
    outline: Outline,
    footprint: Footprint,
}

/// Balls of one radius whose hull holds a shape: what it can be seen in.
#[derive(Clone, Copy)]
pub(super) struct Outline {
    points: [Vector; 8],
    count: usize,
    pub(super) radius: f32,
}

impl Outline {
    fn new(shape: &Shape, pose: &Pose, bound: f32) -> Self {
        let mut this = Self { points: [pose.translation; 8], count: 1, radius: bound };
        match shape {
            Shape::Capsule { radius, half_length } => {
                for (point, end) in this.points.iter_mut().zip([-half_length, *half_length]) {
                    *point = *pose * (Vector::Z * end);
                }
                (this.count, this.radius) = (2, *radius);
            }
            Shape::Box { half_extents } => {
                for (corner, point) in this.points.iter_mut().enumerate() {
                    let sign = |bit: usize| if corner >> bit & 1 == 0 { -1.0 } else { 1.0 };
                    *point = *pose * (Vector::from(*half_extents) * Vector::new(sign(0), sign(1), sign(2)));
                }
                (this.count, this.radius) = (8, 0.0);
            }
            _ => {}
        }
        this
    }

    pub(super) fn points(&self) -> &[Vector] {
        &self.points[..self.count]
    }
}

/// Where a point's shadow falls on z = 0; everything that could shade the point has the same place.
pub(super) fn along_sun(point: Vector, sun: Vector) -> [f32; 2] {
    [point.x - point.z * sun.x / sun.z, point.y - point.z * sun.y / sun.z]
}

/// Least and greatest x and y of a shape's shadow on z = 0, and along the sun everywhere else.
#[derive(Clone, Copy)]
pub(super) struct Footprint([f32; 4]);

impl Footprint {
    pub(super) fn holds(&self, [x, y]: [f32; 2]) -> bool {
        let Self([left, right, front, back]) = self;
        // All four at once: most points are outside of most footprints, on any side.
        (x >= *left) & (x <= *right) & (y >= *front) & (y <= *back)
    }
}

fn footprint(shape: &Shape, pose: &Pose, bound: f32, sun: Vector) -> Footprint {
    let (ends, radius) = match shape {
        Shape::Capsule { radius, half_length } => ([-half_length, *half_length], *radius),
        _ => ([0.0, 0.0], bound),
    };
    // Without a sun above there are no shadows on z = 0, and every shape has to be tried.
    if !(sun.z > 0.05 && radius.is_finite()) {
        return Footprint([f32::NEG_INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY]);
    }
    let [a, b] = ends.map(|end| along_sun(*pose * (Vector::Z * end), sun));
    let wide = [sun.x, sun.y].map(|s| radius * (1.0 + (s / sun.z).powi(2)).sqrt() + 1e-3);
    let [x, y] = [0, 1].map(|i| [a[i].min(b[i]) - wide[i], a[i].max(b[i]) + wide[i]]);
    Footprint([x[0], x[1], y[0], y[1]])
}

impl Primitive {
    pub(super) fn new(placed: &Placed, eye: Vector, sun: Vector) -> Self {
        let pose = pose(placed.position, placed.rotation);
        let world_from_shape = Matrix::from_quat(pose.rotation);
        let shape_from_world = world_from_shape.transpose();
        let bound = placed.shape.bound();
        Self {
            footprint: footprint(&placed.shape, &pose, bound, sun),
            outline: Outline::new(&placed.shape, &pose, bound),
            up: pose.rotation * Vector::Z,
            bound,
            shape: placed.shape.clone(),
            center: pose.translation,
            eye: shape_from_world * (eye - pose.translation),
            sun: shape_from_world * sun,
            world_from_shape,
            shape_from_world,
        }
    }

    pub(super) fn outline(&self) -> &Outline {
        &self.outline
    }

    /// A point of the world in the shape's frame.
    pub(super) fn local(&self, point: Vector) -> Vector {
        self.shape_from_world * (point - self.center)
    }

    /// First hit of a ray from the eye that is nearer than `limit`; `direction` has unit length.
    pub(super) fn see(&self, direction: Vector, limit: f32) -> Option<Hit> {
        if matches!(self.shape, Shape::Plane) {
            let distance = -self.eye.z / self.up.dot(direction);
            let is_hit = self.eye.z > 0.0 && distance > NEAR && distance < limit;
            return is_hit.then_some(Hit { distance, normal: self.up });
        }
        let (distance, normal) = self.cast(self.eye, self.shape_from_world * direction, limit)?;
        (distance < limit).then(|| Hit { distance, normal: self.world_from_shape * normal })
    }

    /// What may be in the shadow of the shape; `None`: nothing.
    pub(super) fn footprint(&self) -> Option<Footprint> {
        // A plane shades only what lies below it.
        (self.bound.is_finite() || self.sun.z < 0.0).then_some(self.footprint)
    }

    /// Whether the shape is between `point` and the sun, in direction `sun`.
    pub(super) fn shades(&self, point: Vector, sun: Vector, limit: f32) -> bool {
        let to_center = self.center - point;
        if self.bound.is_finite() {
            let along = to_center.dot(sun);
            let miss = to_center.length_squared() - along * along;
            if along < -self.bound || miss > self.bound * self.bound {
                return false;
            }
        }
        self.cast(self.shape_from_world * -to_center, self.sun, limit).is_some_and(|(t, _)| t < limit)
    }

    /// In the shape's own frame.
    fn cast(&self, o: Vector, d: Vector, limit: f32) -> LocalHit {
        match &self.shape {
            Shape::Plane => plane(o, d),
            Shape::Sphere { radius } => sphere(o, d, Vector::ZERO, *radius),
            Shape::Box { half_extents } => cuboid(o, d, (*half_extents).into()),
            Shape::Capsule { radius, half_length } => capsule(o, d, *radius, *half_length),
            Shape::Cylinder { radius, half_length } => cylinder(o, d, *radius, *half_length),
            Shape::Ellipsoid { radii } => ellipsoid(o, d, (*radii).into()),
            Shape::Mesh(mesh) => mesh.cast(o, d, limit),
        }
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

/// A ball after scaling: directions are no longer of unit length, distances stay those of the ray.
fn ellipsoid(o: Vector, d: Vector, radii: Vector) -> LocalHit {
    let (m, e) = (o / radii, d / radii);
    let (a, b) = (e.length_squared(), m.dot(e));
    let discriminant = b * b - a * (m.length_squared() - 1.0);
    if discriminant < 0.0 {
        return None;
    }
    let t = (-b - discriminant.sqrt()) / a;
    (t > NEAR).then(|| (t, ((m + e * t) / radii).normalize()))
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
    // A ray that misses the endless cylinder misses all of the capsule: most rays, and they need no root.
    let a = d.x * d.x + d.y * d.y;
    let b = o.x * d.x + o.y * d.y;
    let c = o.x * o.x + o.y * o.y - radius * radius;
    if b * b < a * c || (c > 0.0 && b > 0.0) {
        return None;
    }
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
