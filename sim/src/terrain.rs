//! Ground as a height field: what the engines touch, what quantities ask for heights, and what cameras see.

use std::f32::consts::FRAC_PI_2;
use std::sync::{Arc, OnceLock};

use rapier3d::geometry::{HeightField, HeightFieldFlags, SharedShape};
use rapier3d::math::{Pose, Rotation, Vector};
use rapier3d::parry::utils::Array2;

use crate::scene::{Placed, Shape};

/// Colour of the ground.
const COLOR: [f32; 3] = [0.66, 0.64, 0.58];
/// Most points of a field: ten times a tile of legged_gym.
pub(crate) const MAX_POINTS: usize = 1 << 20;

/// A height field about the origin, z up. Outside of it the ground goes on at the height of its rim, for what asks for
/// heights; there is nothing to stand on.
#[derive(Clone)]
pub struct Terrain {
    shape: SharedShape,
    /// Made when somebody looks.
    drawn: Arc<OnceLock<Option<Shape>>>,
}

impl Terrain {
    /// `heights` in m, row by row: columns along +x, rows along +y, over `size` m. `None`: fewer than two rows or
    /// columns, more than a million points, a count that is no multiple of `columns`, or a number that is not finite.
    #[must_use]
    pub fn new(heights: &[f32], columns: usize, size: [f32; 2]) -> Option<Self> {
        let rows = heights.len() / columns.max(1);
        let is_grid =
            columns > 1 && rows > 1 && rows * columns == heights.len() && heights.len() <= MAX_POINTS;
        let is_finite = heights.iter().chain(&size).all(|v| v.is_finite()) && size.iter().all(|v| *v > 0.0);
        if !(is_grid && is_finite) {
            return None;
        }
        // parry's fields are y up, their rows run along z: against our y.
        let mut heights_zx = Array2::zeros(rows, columns);
        for (row, line) in heights.chunks_exact(columns).enumerate() {
            for (column, &height) in line.iter().enumerate() {
                heights_zx[(rows - 1 - row, column)] = height;
            }
        }
        let scale = Vector::new(size[0], 1.0, size[1]);
        let field = HeightField::with_flags(heights_zx, scale, HeightFieldFlags::FIX_INTERNAL_EDGES);
        Some(Self { shape: SharedShape::new(field), drawn: Arc::default() })
    }

    /// Height of the ground at a point of the world, m.
    #[must_use]
    pub fn height(&self, x: f32, y: f32) -> f32 {
        self.shape.as_heightfield().map_or(0.0, |field| height(field, x, -y))
    }

    pub(crate) fn shape(&self) -> &SharedShape {
        &self.shape
    }

    /// `world_from_field` of a field with its middle at the origin.
    pub(crate) fn pose() -> Pose {
        Pose::from_parts(Vector::ZERO, Rotation::from_rotation_x(FRAC_PI_2))
    }

    /// The ground as a camera sees it.
    pub(crate) fn placed(&self) -> Option<Placed> {
        let drawn = self.drawn.get_or_init(|| Some(Shape::from_collider(&*self.shape.0)?.0));
        let Rotation { x, y, z, w } = Self::pose().rotation;
        let rotation = [w, x, y, z];
        Some(Placed { shape: drawn.clone()?, position: [0.0; 3], rotation, color: COLOR })
    }
}

/// Height of a field in its own frame (y up) over a point of its plane.
fn height(field: &HeightField, x: f32, z: f32) -> f32 {
    let half = field.scale() * 0.5;
    let (x, z) = (x.clamp(-half.x, half.x), z.clamp(-half.z, half.z));
    let (row, column) = field.closest_cell_at_point(Vector::new(x, 0.0, z));
    let u = ((x - field.x_at(column)) / field.cell_width()).clamp(0.0, 1.0);
    let v = ((z - field.z_at(row)) / field.cell_height()).clamp(0.0, 1.0);
    let y = |i: usize, j: usize| field.heights()[(row + i, column + j)];
    // The cell's two triangles share the diagonal from (1, 0) to (0, 1).
    if u + v <= 1.0 {
        y(0, 0) + u * (y(0, 1) - y(0, 0)) + v * (y(1, 0) - y(0, 0))
    } else {
        y(1, 1) + (1.0 - u) * (y(1, 0) - y(1, 1)) + (1.0 - v) * (y(0, 1) - y(1, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0, 1, 2 m along x in the first row, one more in the second.
    fn field() -> Terrain {
        Terrain::new(&[0.0, 1.0, 2.0, 1.0, 2.0, 3.0], 3, [4.0, 2.0]).unwrap()
    }

    #[test]
    fn heights_follow_the_grid_and_go_on_beyond_its_rim() {
        let ground = field();
        for (x, y, height) in [
            (-2.0, -1.0, 0.0),
            (0.0, -1.0, 1.0),
            (2.0, -1.0, 2.0),
            (-2.0, 1.0, 1.0),
            (0.0, 0.0, 1.5),
            (9.0, 9.0, 3.0),
        ] {
            assert!((ground.height(x, y) - height).abs() < 1e-6, "({x}, {y}): {}", ground.height(x, y));
        }
    }

    /// The picture, the ray through the engine's shape, and the height are one surface.
    #[test]
    fn a_ray_from_above_meets_the_height() {
        use rapier3d::parry::query::Ray;
        let heights: Vec<f32> = (0..40 * 40).map(|i: u32| (i * i % 97) as f32 * 0.01).collect();
        let ground = Terrain::new(&heights, 40, [4.0, 4.0]).unwrap();
        let Some(Shape::Mesh(mesh)) = ground.placed().map(|p| p.shape) else { panic!("no mesh") };
        let to_field = Terrain::pose().inverse();
        for step in 0..300 {
            let (x, y) = (0.012 * (step as f32 - 140.0), 0.011 * (150.0 - step as f32));
            let origin = Vector::new(x, y, 10.0);
            let ray = Ray::new(origin, -Vector::Z);
            let hit = ground.shape().0.cast_ray(&Terrain::pose(), &ray, 100.0, true).unwrap();
            let seen = mesh
                .cast(to_field * origin, to_field.rotation * -Vector::Z, 100.0)
                .map_or(f32::NAN, |(t, _)| t);
            let height = ground.height(x, y);
            assert!((10.0 - hit - height).abs() < 1e-3 && (10.0 - seen - height).abs() < 1e-3, "({x}, {y})");
        }
    }

    #[test]
    fn refuses_what_is_no_grid() {
        assert!(Terrain::new(&[0.0; 4], 4, [1.0, 1.0]).is_none());
        assert!(Terrain::new(&[0.0; 5], 2, [1.0, 1.0]).is_none());
        assert!(Terrain::new(&[0.0, f32::NAN, 0.0, 0.0], 2, [1.0, 1.0]).is_none());
        assert!(Terrain::new(&[0.0; 4], 2, [0.0, 1.0]).is_none());
    }
}
