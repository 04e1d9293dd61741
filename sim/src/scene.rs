//! What a world looks like: primitive shapes with poses and colours, for the renderer and viewers.

use rapier3d::dynamics::RigidBodyHandle;
use rapier3d::geometry::TypedShape;
use rapier3d::math::{Pose, Rotation, Vector};

/// A primitive in its own frame; lengths in metres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// The plane z = 0, filled below, drawn as a checker board.
    Plane,
    /// A ball about the origin.
    Sphere {
        /// Radius.
        radius: f32,
    },
    /// A box about the origin.
    Box {
        /// Half of the extent along x, y and z.
        half_extents: [f32; 3],
    },
    /// A cylinder along z with half spheres on its ends.
    Capsule {
        /// Radius.
        radius: f32,
        /// Half of the distance between the spheres' centres.
        half_length: f32,
    },
    /// A cylinder along z with flat ends.
    Cylinder {
        /// Radius.
        radius: f32,
        /// Half of the height.
        half_length: f32,
    },
}

impl Shape {
    /// The primitive of a collider's shape and its pose in the collider's frame; `None` for meshes and hulls.
    pub(crate) fn from_collider(shape: &dyn rapier3d::geometry::Shape) -> Option<(Self, Pose)> {
        let along = |a: Vector, b: Vector, from: Vector| {
            let rotation =
                (b - a).try_normalize().map_or(Rotation::IDENTITY, |d| Rotation::from_rotation_arc(from, d));
            Pose::from_parts((a + b) * 0.5, rotation)
        };
        Some(match shape.as_typed_shape() {
            TypedShape::Ball(ball) => (Self::Sphere { radius: ball.radius }, Pose::IDENTITY),
            TypedShape::Cuboid(cuboid) => {
                (Self::Box { half_extents: cuboid.half_extents.into() }, Pose::IDENTITY)
            }
            TypedShape::Capsule(capsule) => {
                let (a, b) = (capsule.segment.a, capsule.segment.b);
                let half_length = (b - a).length() * 0.5;
                (Self::Capsule { radius: capsule.radius, half_length }, along(a, b, Vector::Z))
            }
            TypedShape::Cylinder(cylinder) => (
                Self::Cylinder { radius: cylinder.radius, half_length: cylinder.half_height },
                // parry's cylinders stand along y.
                along(-Vector::Y, Vector::Y, Vector::Z),
            ),
            TypedShape::HalfSpace(_) => (Self::Plane, Pose::IDENTITY),
            _ => return None,
        })
    }
}

/// A shape fixed to a body, or to the world where `body` is `None`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visual {
    pub(crate) body: Option<RigidBodyHandle>,
    pub(crate) body_from_shape: Pose,
    pub(crate) shape: Shape,
    pub(crate) color: [f32; 3],
}

/// One shape placed in the world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// The primitive.
    pub shape: Shape,
    /// Position of its origin in the world, m.
    pub position: [f32; 3],
    /// Rotation `world_from_shape` as a quaternion (w, x, y, z).
    pub rotation: [f32; 4],
    /// Linear red, green and blue in 0..1.
    pub color: [f32; 3],
}

/// All shapes of a world at one instant, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    /// The shapes.
    pub shapes: Vec<Placed>,
}
