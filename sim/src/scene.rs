//! What a world looks like: shapes with poses and colours, for the renderer and viewers.

use std::sync::Arc;

use rapier3d::dynamics::RigidBodyHandle;
use rapier3d::geometry::{TriMesh, TypedShape};
use rapier3d::math::{Pose, Rotation, Vector};
use rapier3d::parry::query::{Ray, RayCast};

use crate::render::Looks;

/// A shape in its own frame; lengths in metres.
#[derive(Clone, Debug, PartialEq)]
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
    /// An ellipsoid about the origin.
    Ellipsoid {
        /// Half of the extent along x, y and z.
        radii: [f32; 3],
    },
    /// Triangles: meshes, hulls and height fields.
    Mesh(Arc<Mesh>),
}

/// Triangles in their own frame, ready for rays.
#[derive(Clone, Debug)]
pub struct Mesh {
    triangles: TriMesh,
    bound: f32,
}

impl PartialEq for Mesh {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.triangles, &other.triangles);
        a.vertices() == b.vertices() && a.indices() == b.indices()
    }
}

impl Mesh {
    /// Vertices in metres, and three of their indices per triangle. `None`: no triangles, an index out of range or a
    /// vertex that is not finite.
    #[must_use]
    pub fn new(vertices: Vec<[f32; 3]>, triangles: Vec<[u32; 3]>) -> Option<Self> {
        let is_in_range = triangles.iter().flatten().all(|&v| (v as usize) < vertices.len());
        if !is_in_range || !vertices.iter().flatten().all(|v| v.is_finite()) {
            return None;
        }
        let vertices: Vec<Vector> = vertices.into_iter().map(Vector::from).collect();
        let bound = vertices.iter().map(|v| v.length()).fold(0.0, f32::max);
        Some(Self { triangles: TriMesh::new(vertices, triangles).ok()?, bound })
    }

    /// Vertices in metres.
    pub fn vertices(&self) -> impl Iterator<Item = [f32; 3]> {
        self.triangles.vertices().iter().map(|&v| v.into())
    }

    /// Indices of the vertices of each triangle.
    #[must_use]
    pub fn indices(&self) -> &[[u32; 3]] {
        self.triangles.indices()
    }

    /// First hit of a ray, and the normal towards its origin.
    pub(crate) fn cast(&self, origin: Vector, direction: Vector, limit: f32) -> Option<(f32, Vector)> {
        let hit = self.triangles.cast_local_ray_and_get_normal(&Ray::new(origin, direction), limit, false)?;
        let facing = if hit.normal.dot(direction) > 0.0 { -hit.normal } else { hit.normal };
        (hit.time_of_impact > 1e-4).then_some((hit.time_of_impact, facing))
    }
}

impl Shape {
    /// Radius of a ball about the origin that holds the shape, m; infinite for planes.
    #[must_use]
    pub fn bound(&self) -> f32 {
        match self {
            Self::Plane => f32::INFINITY,
            Self::Sphere { radius } => *radius,
            Self::Box { half_extents } => Vector::from(*half_extents).length(),
            Self::Capsule { radius, half_length } => radius + half_length,
            Self::Cylinder { radius, half_length } => radius.hypot(*half_length),
            Self::Ellipsoid { radii } => Vector::from(*radii).max_element(),
            Self::Mesh(mesh) => mesh.bound,
        }
    }

    /// Least and largest corner of a box about the shape in its frame, m; `None` for planes.
    pub(crate) fn bounds(&self) -> Option<[Vector; 2]> {
        let half = match self {
            Self::Plane => return None,
            Self::Sphere { radius } => Vector::splat(*radius),
            Self::Box { half_extents } => Vector::from(*half_extents),
            Self::Capsule { radius, half_length } => Vector::new(*radius, *radius, half_length + radius),
            Self::Cylinder { radius, half_length } => Vector::new(*radius, *radius, *half_length),
            Self::Ellipsoid { radii } => Vector::from(*radii),
            Self::Mesh(mesh) => {
                let points = mesh.triangles.vertices();
                let first = [*points.first()?; 2];
                return Some(points.iter().fold(first, |[low, high], &p| [low.min(p), high.max(p)]));
            }
        };
        Some([-half, half])
    }

    /// The primitive of a collider's shape and its pose in the collider's frame; `None` for shapes that have
    /// no picture (compounds, voxels).
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
            TypedShape::TriMesh(mesh) => {
                (Self::mesh(mesh.vertices(), mesh.indices().to_vec())?, Pose::IDENTITY)
            }
            TypedShape::ConvexPolyhedron(hull) => {
                let (vertices, indices) = hull.to_trimesh();
                (Self::mesh(&vertices, indices)?, Pose::IDENTITY)
            }
            TypedShape::HeightField(field) => {
                let (vertices, indices) = field.to_trimesh();
                (Self::mesh(&vertices, indices)?, Pose::IDENTITY)
            }
            _ => return None,
        })
    }

    fn mesh(vertices: &[Vector], indices: Vec<[u32; 3]>) -> Option<Self> {
        Some(Self::Mesh(Arc::new(Mesh::new(vertices.iter().map(|&v| v.into()).collect(), indices)?)))
    }
}

/// A shape fixed to a body, or to the world where `body` is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Visual {
    pub(crate) body: Option<RigidBodyHandle>,
    pub(crate) body_from_shape: Pose,
    pub(crate) shape: Shape,
    pub(crate) color: [f32; 3],
}

/// One shape placed in the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The shape.
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
    /// Light and textures.
    pub looks: Looks,
}
