//! Light, textures and their randomisation.

use rapier3d::math::Vector;

use super::Camera;
use crate::scene::{Scene, Shape};
use crate::seed::Rng;

/// Purpose of the random stream that draws looks.
const LOOKS_STREAM: u64 = 21;

/// Light and textures of a scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Looks {
    /// Direction towards the sun, of any length.
    pub sun: [f32; 3],
    /// Share of the light that reaches surfaces the sun does not.
    pub ambient: f32,
    /// Textures of the shapes in order; shapes beyond the end have their defaults.
    pub textures: Vec<Texture>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { sun: [0.4, -0.5, 1.0], ambient: 0.45, textures: Vec::new() }
    }
}

impl Looks {
    /// Planes are checker boards unless something else is said.
    pub(super) fn texture(&self, index: usize, shape: &Shape) -> Texture {
        let default = if matches!(shape, Shape::Plane) {
            Texture::Checker { side: 0.5, contrast: 0.2 }
        } else {
            Texture::Plain
        };
        self.textures.get(index).copied().unwrap_or(default)
    }
}

/// How a shape's colour varies over it, in its own frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Texture {
    /// One colour.
    #[default]
    Plain,
    /// Cubes of two shades.
    Checker {
        /// Side of a cube, m.
        side: f32,
        /// By how much the darker shade is darker, 0..1.
        contrast: f32,
    },
    /// Stripes along x and y.
    Stripes {
        /// Width of a stripe, m.
        width: f32,
        /// By how much the darker stripes are darker, 0..1.
        contrast: f32,
    },
    /// Grains, each of its own shade.
    Grain {
        /// Side of a grain, m.
        side: f32,
        /// By how much the darkest grain is darker, 0..1.
        contrast: f32,
        /// Which grains.
        seed: u32,
    },
}

impl Texture {
    /// `base` shaded at a point of the shape's frame.
    pub(super) fn color(self, base: [f32; 3], point: Vector) -> [f32; 3] {
        // Half a cell off the origin: faces of boxes and the plane z = 0 lie inside cells, not on their edges.
        // A float beyond the range of an integer is cut off at its end.
        let cell = |side: f32| {
            (point / side.max(1e-4) + Vector::splat(0.251)).to_array().map(|x| {
                let whole = x as i32;
                whole.wrapping_sub(i32::from(x < whole as f32))
            })
        };
        let odd = |sum: i32| (sum & 1) as f32;
        let dark = match self {
            Self::Plain => return base,
            Self::Checker { side, contrast } => {
                let [x, y, z] = cell(side);
                contrast * odd(x ^ y ^ z)
            }
            Self::Stripes { width, contrast } => {
                let [x, y, _] = cell(width);
                contrast * odd(x ^ y)
            }
            Self::Grain { side, contrast, seed } => {
                let mut hash = seed;
                for axis in cell(side) {
                    hash = (hash ^ axis as u32).wrapping_mul(0x9E37_79B1);
                    hash ^= hash >> 15;
                }
                contrast * (hash >> 16) as f32 / 65_535.0
            }
        };
        base.map(|c| c * (1.0 - dark))
    }
}

/// What [`Randomisation::apply`] changes: half widths of even draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Randomisation {
    /// Of every colour channel.
    pub color: f32,
    /// Share of shapes that get a random texture.
    pub textured: f32,
    /// Of the sun's direction, as a slope.
    pub sun: f32,
    /// Of the ambient share.
    pub ambient: f32,
    /// Of the camera's position along each axis, m.
    pub camera_position: f32,
    /// Of the point looked at along each axis, m.
    pub camera_target: f32,
    /// Of the vertical field of view, rad.
    pub field_of_view: f32,
}

impl Default for Randomisation {
    fn default() -> Self {
        Self {
            color: 0.25,
            textured: 0.7,
            sun: 0.8,
            ambient: 0.15,
            camera_position: 0.05,
            camera_target: 0.03,
            field_of_view: 0.03,
        }
    }
}

impl Randomisation {
    /// Draws new looks and a new camera pose; the same seed draws the same.
    pub fn apply(&self, scene: &mut Scene, camera: &mut Camera, seed: u64) {
        let mut rng = Rng::new(seed, LOOKS_STREAM);
        let mut around = |value: f32, half: f32| value + rng.uniform(-half, half);
        for axis in 0..3 {
            camera.position[axis] = around(camera.position[axis], self.camera_position);
            camera.target[axis] = around(camera.target[axis], self.camera_target);
        }
        camera.field_of_view = around(camera.field_of_view, self.field_of_view).clamp(0.05, 3.0);
        scene.looks.sun = [
            around(scene.looks.sun[0], self.sun),
            around(scene.looks.sun[1], self.sun),
            scene.looks.sun[2].max(0.2),
        ];
        scene.looks.ambient = around(scene.looks.ambient, self.ambient).clamp(0.1, 0.9);
        for placed in &mut scene.shapes {
            placed.color = placed.color.map(|c| around(c, self.color).clamp(0.02, 1.0));
        }
        scene.looks.textures = scene
            .shapes
            .iter()
            .map(|_| {
                if rng.uniform(0.0, 1.0) >= self.textured {
                    return Texture::Plain;
                }
                let (side, contrast) = (rng.uniform(0.02, 0.6), rng.uniform(0.1, 0.7));
                match rng.next_u64() % 3 {
                    0 => Texture::Checker { side, contrast },
                    1 => Texture::Stripes { width: side, contrast },
                    _ => Texture::Grain { side: 0.3 * side, contrast, seed: (rng.next_u64() >> 32) as u32 },
                }
            })
            .collect();
    }
}
