//! A software camera: draws a [`Scene`] as colour, depth and segmentation, without a GPU, a window or a driver.
//!
//! Every shape is cast against the pixels its bounding ball covers, nearest hits win, and one ray towards the sun
//! decides on shadow. A pixel depends on the scene alone, so the picture is the same on any number of threads.

mod image;
mod looks;
mod ray;

use std::ops::Range;

use rapier3d::math::{Pose, Rotation, Vector};
use rayon::prelude::*;

pub use image::Image;
pub use looks::{Drawn, Looks, Randomisation, Texture};

use crate::scene::Scene;
use ray::{Footprint, Hit, Outline, Primitive};

/// A pinhole camera looking at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Position of the eye in the world, m.
    pub position: [f32; 3],
    /// Point in the middle of the picture, m.
    pub target: [f32; 3],
    /// Direction that is up in the picture, as far as it can be; of any length. Along the view, the picture's right is x.
    pub up: [f32; 3],
    /// Vertical field of view, rad.
    pub field_of_view: f32,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Camera {
    /// Vertical field of view of [`Camera::orbit`], rad.
    pub const FIELD_OF_VIEW: f32 = 0.7;
    /// Up of most cameras.
    pub const UP: [f32; 3] = [0.0, 0.0, 1.0];

    /// Looks at `target` from `distance` metres away: `azimuth` about z from +x, `elevation` above the horizon, rad.
    #[must_use]
    pub fn orbit(target: [f32; 3], distance: f32, azimuth: f32, elevation: f32, size: [usize; 2]) -> Self {
        let (sin_a, cos_a) = azimuth.sin_cos();
        let (sin_e, cos_e) = elevation.sin_cos();
        let direction = [cos_e * cos_a, cos_e * sin_a, sin_e];
        let position = std::array::from_fn(|i| target[i] + distance * direction[i]);
        let [width, height] = size;
        Self { position, target, up: Self::UP, field_of_view: Self::FIELD_OF_VIEW, width, height }
    }

    /// Unit vectors of the picture in the world: to the right, down, and forward.
    #[must_use]
    pub fn axes(&self) -> [[f32; 3]; 3] {
        let view = View::new(self);
        [view.right, -view.up, view.forward].map(Into::into)
    }
}

/// Distance beyond which nothing is seen, m.
const FAR: f32 = 200.0;
/// Rows that one thread draws at a time.
const BAND: usize = 16;
/// Pixels from which on a picture is worth more than one thread.
const PARALLEL: usize = 64 * 64;

/// Renders one picture: red, green, blue, depth along the viewing axis, and which shape is seen.
#[must_use]
pub fn render(scene: &Scene, camera: &Camera) -> Image {
    let view = View::new(camera);
    let sun = Vector::from(scene.looks.sun).try_normalize().unwrap_or(Vector::Z);
    let primitives: Vec<_> =
        scene.shapes.iter().map(|placed| Primitive::new(placed, view.eye, sun)).collect();
    let footprints = (0..).zip(&primitives).filter_map(|(i, p)| Some((p.footprint()?, i)));
    let stage = Stage { footprints: footprints.collect(), primitives, scene, view, sun };
    let mut image = Image::new(camera.width, camera.height);
    if camera.width == 0 || camera.height == 0 {
        return image;
    }
    let pixels = camera.width * BAND;
    let Image { rgb, depth, segmentation, .. } = &mut image;
    let draw = |(band, ((rgb, depth), segmentation)): (usize, ((&mut [u8], &mut [f32]), &mut [u16]))| {
        stage.draw(band * BAND, rgb, depth, segmentation);
    };
    if camera.width * camera.height < PARALLEL {
        let bands = rgb.chunks_mut(pixels * 3).zip(depth.chunks_mut(pixels));
        bands.zip(segmentation.chunks_mut(pixels)).enumerate().for_each(draw);
    } else {
        let bands = rgb.par_chunks_mut(pixels * 3).zip(depth.par_chunks_mut(pixels));
        bands.zip(segmentation.par_chunks_mut(pixels)).enumerate().for_each(draw);
    }
    image
}

/// A camera's axes and how far the edges of its picture are.
struct View {
    eye: Vector,
    forward: Vector,
    right: Vector,
    up: Vector,
    /// Slopes at the right and upper edge.
    slope: [f32; 2],
    size: [usize; 2],
}

impl View {
    fn new(camera: &Camera) -> Self {
        let eye = Vector::from(camera.position);
        let forward = (Vector::from(camera.target) - eye).try_normalize().unwrap_or(Vector::X);
        // Straight up or down leaves the heading open: take x.
        let right = forward.cross(Vector::from(camera.up)).try_normalize().unwrap_or(Vector::X);
        let up = right.cross(forward);
        let scale = (camera.field_of_view * 0.5).tan();
        let aspect = camera.width as f32 / camera.height.max(1) as f32;
        let size = [camera.width, camera.height];
        Self { eye, forward, right, up, slope: [scale * aspect, scale], size }
    }

    /// Along the ray through a pixel, of unit length along the viewing axis.
    fn through(&self, column: usize, row: usize) -> Vector {
        let x = (2.0 * (column as f32 + 0.5) / self.size[0] as f32 - 1.0) * self.slope[0];
        let y = (1.0 - 2.0 * (row as f32 + 0.5) / self.size[1] as f32) * self.slope[1];
        self.forward + self.right * x + self.up * y
    }

    /// Columns and rows that the hull of balls may be seen in.
    fn bounds(&self, outline: &Outline) -> [Range<usize>; 2] {
        let [width, height] = self.size;
        let radius = outline.radius;
        let depths = || outline.points().iter().map(|point| (*point - self.eye).dot(self.forward));
        if !radius.is_finite() || depths().any(|z| z <= radius + 1e-3) {
            let is_behind = depths().all(|z| z < -radius);
            return if is_behind { [0..0, 0..0] } else { [0..width, 0..height] };
        }
        let mut seen: Option<[Range<usize>; 2]> = None;
        for &point in outline.points() {
            let [columns, rows] = self.ball(point, radius);
            seen = Some(match seen {
                None => [columns, rows],
                Some([c, r]) => [join(c, columns), join(r, rows)],
            });
        }
        seen.unwrap_or([0..0, 0..0])
    }

    /// Columns and rows that a ball before the eye may be seen in.
    fn ball(&self, center: Vector, radius: f32) -> [Range<usize>; 2] {
        let [width, height] = self.size;
        let to = center - self.eye;
        let z = to.dot(self.forward);
        // Slopes of the tangents from the eye, in the plane of the viewing axis and one picture axis.
        let slopes = |x: f32| {
            let root = radius * (x * x + z * z - radius * radius).max(0.0).sqrt();
            let below = z * z - radius * radius;
            [(x * z - root) / below, (x * z + root) / below]
        };
        let pixel = |slope: f32, edge: f32, size: usize| (slope / edge + 1.0) * 0.5 * size as f32;
        let range = |low: f32, high: f32, size: usize| {
            // A float beyond the range of an integer is cut off at its end.
            let (low, high) = ((low - 1.0).floor().max(0.0) as usize, (high + 1.0).ceil().max(0.0) as usize);
            low.min(size)..high.min(size)
        };
        let [left, right] = slopes(to.dot(self.right)).map(|s| pixel(s, self.slope[0], width));
        let [bottom, top] = slopes(to.dot(self.up)).map(|s| pixel(s, self.slope[1], height));
        [range(left, right, width), range(height as f32 - top, height as f32 - bottom, height)]
    }
}

fn join(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    a.start.min(b.start)..a.end.max(b.end)
}

struct Stage<'a> {
    scene: &'a Scene,
    primitives: Vec<Primitive>,
    /// Beside the shapes: most shapes shade nothing, and what shades nothing should not be loaded.
    footprints: Vec<(Footprint, usize)>,
    view: View,
    sun: Vector,
}

impl Stage<'_> {
    /// Draws the rows from `first` on that fit into the buffers.
    fn draw(&self, first: usize, rgb: &mut [u8], depth: &mut [f32], segmentation: &mut [u16]) {
        let width = self.view.size[0];
        let rows = depth.len() / width;
        let mut rays = Vec::with_capacity(depth.len());
        for row in first..first + rows {
            rays.extend((0..width).map(|column| self.view.through(column, row).normalize()));
        }
        let mut hits = vec![Hit { distance: FAR, normal: Vector::ZERO }; depth.len()];
        for (index, primitive) in self.primitives.iter().enumerate() {
            let [columns, seen] = self.view.bounds(primitive.outline());
            for row in seen.start.max(first)..seen.end.min(first + rows) {
                let start = (row - first) * width;
                for at in start + columns.start..start + columns.end {
                    if let Some(hit) = primitive.see(rays[at], hits[at].distance) {
                        hits[at] = hit;
                        segmentation[at] = (index + 1) as u16;
                    }
                }
            }
        }
        for (at, ray) in rays.into_iter().enumerate() {
            let color = match segmentation[at] {
                0 => sky(ray),
                seen => {
                    depth[at] = hits[at].distance * ray.dot(self.view.forward);
                    self.color(usize::from(seen) - 1, ray, &hits[at])
                }
            };
            for (byte, channel) in rgb[at * 3..at * 3 + 3].iter_mut().zip(color) {
                *byte = (channel.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
            }
        }
    }

    fn color(&self, index: usize, ray: Vector, hit: &Hit) -> [f32; 3] {
        let point = self.view.eye + ray * hit.distance;
        let lit = self.light(point, hit.normal) * self.scene.looks.brightness;
        let placed = &self.scene.shapes[index];
        let texture = self.scene.looks.texture(index, &placed.shape);
        let surface = texture.color(placed.color, self.primitives[index].local(point));
        // Distance fades the floor into the sky, so that the horizon is not a hard edge.
        let fade = (hit.distance / FAR * 6.0).min(1.0);
        if fade < 0.05 {
            return surface.map(|c| c * lit);
        }
        let (fade, sky) = (fade * fade, sky(ray));
        std::array::from_fn(|i| surface[i] * lit * (1.0 - fade) + sky[i] * fade)
    }

    fn light(&self, point: Vector, normal: Vector) -> f32 {
        let facing = normal.dot(self.sun);
        let ambient = self.scene.looks.ambient;
        // Away from the surface, or its own rounding would shade it.
        let origin = point + normal * 1e-3;
        let along = ray::along_sun(origin, self.sun);
        let is_shaded = |(footprint, index): &(Footprint, usize)| {
            footprint.holds(along) && self.primitives[*index].shades(origin, self.sun, FAR)
        };
        if facing <= 0.0 || self.footprints.iter().any(is_shaded) {
            ambient + 0.1 * normal.z.max(0.0)
        } else {
            ambient + (1.0 - ambient) * facing
        }
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
mod tests;
