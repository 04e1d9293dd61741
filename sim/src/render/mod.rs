//! A software camera: renders a [`Scene`] by casting one ray per pixel at analytic primitives.
//!
//! Deterministic, without a GPU, a window or a mesh: it draws reports now and is the policies' eye later.

mod image;
mod ray;

use rapier3d::math::{Pose, Rotation, Vector};

pub use image::Image;

use crate::scene::Scene;
use ray::{Hit, Primitive};

/// A pinhole camera looking at a point, with the world's z up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Position of the eye in the world, m.
    pub position: [f32; 3],
    /// Point in the middle of the picture, m.
    pub target: [f32; 3],
    /// Vertical field of view, rad.
    pub field_of_view: f32,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Camera {
    /// Looks at `target` from `distance` metres away: `azimuth` about z from +x, `elevation` above the horizon, rad.
    #[must_use]
    pub fn orbit(target: [f32; 3], distance: f32, azimuth: f32, elevation: f32, size: [usize; 2]) -> Self {
        let (sin_a, cos_a) = azimuth.sin_cos();
        let (sin_e, cos_e) = elevation.sin_cos();
        let direction = [cos_e * cos_a, cos_e * sin_a, sin_e];
        let position = std::array::from_fn(|i| target[i] + distance * direction[i]);
        Self { position, target, field_of_view: 0.7, width: size[0], height: size[1] }
    }
}

/// Distance beyond which nothing is seen, m.
const FAR: f32 = 200.0;
/// Direction towards the sun (not yet unit length).
const SUN: Vector = Vector::new(0.4, -0.5, 1.0);
/// Light that reaches surfaces the sun does not.
const AMBIENT: f32 = 0.45;
/// Side of a square of the floor, m.
const CHECKER_M: f32 = 0.5;

/// Renders one picture: red, green, blue, and depth along the viewing axis.
#[must_use]
pub fn render(scene: &Scene, camera: &Camera) -> Image {
    let primitives: Vec<Primitive> = scene.shapes.iter().map(Primitive::new).collect();
    let eye = Vector::from(camera.position);
    let forward = (Vector::from(camera.target) - eye).try_normalize().unwrap_or(Vector::X);
    // Straight up or down leaves the heading open: take x.
    let right = forward.cross(Vector::Z).try_normalize().unwrap_or(Vector::X);
    let up = right.cross(forward);
    let scale = (camera.field_of_view * 0.5).tan();
    let aspect = camera.width as f32 / camera.height.max(1) as f32;
    let sun = SUN.normalize();

    let mut image = Image::new(camera.width, camera.height);
    for row in 0..camera.height {
        let y = (1.0 - 2.0 * (row as f32 + 0.5) / camera.height as f32) * scale;
        for column in 0..camera.width {
            let x = (2.0 * (column as f32 + 0.5) / camera.width as f32 - 1.0) * scale * aspect;
            let direction = (forward + right * x + up * y).normalize();
            let (color, depth) = match closest(&primitives, eye, direction, FAR) {
                Some((primitive, hit)) => {
                    let point = eye + direction * hit.distance;
                    let lit = shade(&primitives, point, hit.normal, sun);
                    let surface = primitive.color_at(point, CHECKER_M);
                    // Distance fades the floor into the sky, so that the horizon is not a hard edge.
                    let fade = (hit.distance / FAR * 6.0).min(1.0).powi(2);
                    let color =
                        std::array::from_fn(|i| surface[i] * lit * (1.0 - fade) + sky(direction)[i] * fade);
                    (color, hit.distance * direction.dot(forward))
                }
                None => (sky(direction), f32::INFINITY),
            };
            image.set(column, row, color, depth);
        }
    }
    image
}

fn closest(
    primitives: &[Primitive],
    origin: Vector,
    direction: Vector,
    far: f32,
) -> Option<(&Primitive, Hit)> {
    let mut best: Option<(&Primitive, Hit)> = None;
    for primitive in primitives {
        let limit = best.map_or(far, |(_, hit)| hit.distance);
        if let Some(hit) = primitive.cast(origin, direction, limit) {
            best = Some((primitive, hit));
        }
    }
    best
}

fn shade(primitives: &[Primitive], point: Vector, normal: Vector, sun: Vector) -> f32 {
    let facing = normal.dot(sun);
    // Away from the surface, or its own rounding would shade it.
    let origin = point + normal * 1e-3;
    let shadowed = facing > 0.0 && primitives.iter().any(|p| p.cast(origin, sun, FAR).is_some());
    if shadowed || facing <= 0.0 {
        AMBIENT + 0.1 * normal.z.max(0.0)
    } else {
        AMBIENT + (1.0 - AMBIENT) * facing
    }
}

fn sky(direction: Vector) -> [f32; 3] {
    let height = direction.z.clamp(0.0, 1.0).sqrt();
    let (low, high) = ([0.93, 0.95, 0.97], [0.55, 0.70, 0.88]);
    std::array::from_fn(|i| low[i] + (high[i] - low[i]) * height)
}

/// The rigid transform of a placed shape.
fn pose(position: [f32; 3], wxyz: [f32; 4]) -> Pose {
    let [w, x, y, z] = wxyz;
    Pose::from_parts(position.into(), Rotation::from_xyzw(x, y, z, w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Placed, Shape};

    fn look_down_x_at(shape: Shape) -> Image {
        let placed = Placed {
            shape,
            position: [5.0, 0.0, 1.0],
            rotation: [1.0, 0.0, 0.0, 0.0],
            color: [1.0, 0.0, 0.0],
        };
        let scene = Scene { shapes: vec![placed] };
        let camera = Camera {
            position: [0.0, 0.0, 1.0],
            target: [5.0, 0.0, 1.0],
            field_of_view: 0.7,
            width: 33,
            height: 33,
        };
        render(&scene, &camera)
    }

    #[test]
    fn depth_in_the_middle_is_the_distance_to_the_surface() {
        for (shape, front) in [
            (Shape::Sphere { radius: 0.5 }, 4.5),
            (Shape::Box { half_extents: [0.3, 0.5, 0.5] }, 4.7),
            (Shape::Cylinder { radius: 0.4, half_length: 0.5 }, 4.6),
            (Shape::Capsule { radius: 0.4, half_length: 0.5 }, 4.6),
        ] {
            let image = look_down_x_at(shape);
            let depth = image.depth[16 * 33 + 16];
            assert!((depth - front).abs() < 1e-3, "{shape:?}: {depth}");
            assert_eq!(image.depth[0], f32::INFINITY, "{shape:?} must not fill the corner");
        }
    }

    #[test]
    fn floor_is_seen_below_the_horizon_only() {
        let floor = Placed {
            shape: Shape::Plane,
            position: [0.0; 3],
            rotation: [1.0, 0.0, 0.0, 0.0],
            color: [0.5; 3],
        };
        let camera = Camera {
            position: [0.0, 0.0, 1.0],
            target: [5.0, 0.0, 1.0],
            field_of_view: 0.7,
            width: 9,
            height: 9,
        };
        let image = render(&Scene { shapes: vec![floor] }, &camera);
        assert!(image.depth[..9].iter().all(|d| d.is_infinite()));
        assert!(image.depth[72..].iter().all(|d| d.is_finite()));
    }

    #[test]
    fn same_scene_gives_the_same_bytes() {
        let picture = || look_down_x_at(Shape::Capsule { radius: 0.4, half_length: 0.5 });
        assert_eq!(picture().rgb, picture().rgb);
    }
}
