//! Light, textures and their randomisation.

use rapier3d::math::Vector;
use serde::Deserialize;

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
    /// Factor on all light.
    pub brightness: f32,
    /// Textures of the shapes in order; shapes beyond the end have their defaults.
    pub textures: Vec<Texture>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { sun: [0.4, -0.5, 1.0], ambient: 0.45, brightness: 1.0, textures: Vec::new() }
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

/// What of a picture differs from episode to episode, after Tobin et al. 2017 (domain randomisation): ranges of even
/// draws. A task's table `[randomisation.camera]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Randomisation {
    /// Added to the direction towards the sun along x and y, as a slope.
    pub light_direction: Option<[f32; 2]>,
    /// Factor on the light.
    pub light_brightness: Option<[f32; 2]>,
    /// Added to the share of the light that reaches surfaces the sun does not.
    pub ambient_light: Option<[f32; 2]>,
    /// Added to each channel of each shape's colour, but the ground's.
    pub object_color: Option<[f32; 2]>,
    /// Added to each channel of the colour of planes and terrain.
    pub ground_color: Option<[f32; 2]>,
    /// Share of shapes that get a random texture: checkers, stripes or grains.
    pub texture_share: f32,
    /// Added to the camera's position along each axis, m.
    pub camera_position: Option<[f32; 2]>,
    /// Added to the point looked at along each axis, m.
    pub camera_target: Option<[f32; 2]>,
    /// Added to the vertical field of view, rad.
    pub field_of_view: Option<[f32; 2]>,
}

/// The looks and the camera of one episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    sun: [f32; 2],
    brightness: f32,
    ambient: f32,
    colors: Vec<[f32; 3]>,
    textures: Vec<Option<Texture>>,
    position: [f32; 3],
    target: [f32; 3],
    field_of_view: f32,
}

impl Randomisation {
    /// Ranges by the name of their key.
    pub(crate) fn ranges(&self) -> [(&'static str, Option<[f32; 2]>); 8] {
        [
            ("light_direction", self.light_direction),
            ("light_brightness", self.light_brightness),
            ("ambient_light", self.ambient_light),
            ("object_color", self.object_color),
            ("ground_color", self.ground_color),
            ("camera_position", self.camera_position),
            ("camera_target", self.camera_target),
            ("field_of_view", self.field_of_view),
        ]
    }

    /// Draws for the shapes of which `is_ground` tells, in the scene's order; the same seed draws the same. `record`
    /// gets the key, an index and the value of every draw: axis, or three times the shape's index and the channel.
    pub fn draw(
        &self,
        is_ground: impl IntoIterator<Item = bool>,
        seed: u64,
        mut record: impl FnMut(&'static str, usize, f32),
    ) -> Drawn {
        let mut rng = Rng::new(seed, LOOKS_STREAM);
        let mut draw = |key, range: Option<[f32; 2]>, index, unchanged| match range {
            Some([low, high]) => {
                let value = rng.uniform(low, high);
                record(key, index, value);
                value
            }
            None => unchanged,
        };
        let sun = [0, 1].map(|axis| draw("light_direction", self.light_direction, axis, 0.0));
        let brightness = draw("light_brightness", self.light_brightness, 0, 1.0);
        let ambient = draw("ambient_light", self.ambient_light, 0, 0.0);
        let position = [0, 1, 2].map(|axis| draw("camera_position", self.camera_position, axis, 0.0));
        let target = [0, 1, 2].map(|axis| draw("camera_target", self.camera_target, axis, 0.0));
        let field_of_view = draw("field_of_view", self.field_of_view, 0, 0.0);
        let (mut colors, mut textures) = (Vec::new(), Vec::new());
        let textured = (self.texture_share > 0.0).then_some([0.0, 1.0]);
        for (shape, is_ground) in is_ground.into_iter().enumerate() {
            let (key, range) = match is_ground {
                true => ("ground_color", self.ground_color),
                false => ("object_color", self.object_color),
            };
            colors.push([0, 1, 2].map(|channel| draw(key, range, 3 * shape + channel, 0.0)));
            // Below the share: which of them, evenly.
            let kind = draw("texture_share", textured, shape, 1.0);
            textures.push((kind < self.texture_share).then(|| {
                let side = draw("texture_side", Some([0.02, 0.6]), shape, 0.0);
                let contrast = draw("texture_contrast", Some([0.1, 0.7]), shape, 0.0);
                match 3.0 * kind / self.texture_share {
                    k if k < 1.0 => Texture::Checker { side, contrast },
                    k if k < 2.0 => Texture::Stripes { width: side, contrast },
                    _ => {
                        let seed = draw("texture_grains", Some([0.0, 65_536.0]), shape, 0.0);
                        Texture::Grain { side: 0.3 * side, contrast, seed: seed as u32 }
                    }
                }
            }));
        }
        Drawn { sun, brightness, ambient, colors, textures, position, target, field_of_view }
    }
}

impl Drawn {
    /// Lights and paints the scene.
    pub fn paint(&self, scene: &mut Scene) {
        let looks = &mut scene.looks;
        // The sun stays above the horizon: only x and y of its direction change.
        looks.sun = [looks.sun[0] + self.sun[0], looks.sun[1] + self.sun[1], looks.sun[2]];
        looks.brightness *= self.brightness;
        looks.ambient = (looks.ambient + self.ambient).clamp(0.0, 1.0);
        for (placed, added) in scene.shapes.iter_mut().zip(&self.colors) {
            placed.color = std::array::from_fn(|i| (placed.color[i] + added[i]).clamp(0.0, 1.0));
        }
        let shapes = scene.shapes.iter().zip(&self.textures).enumerate();
        let textures =
            shapes.map(|(index, (placed, own))| own.unwrap_or(looks.texture(index, &placed.shape)));
        looks.textures = textures.collect();
    }

    /// Moves the camera from where it is meant to be.
    pub fn aim(&self, camera: &mut Camera) {
        for axis in 0..3 {
            camera.position[axis] += self.position[axis];
            camera.target[axis] += self.target[axis];
        }
        camera.field_of_view += self.field_of_view;
    }
}
