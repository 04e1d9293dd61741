//! A small camera whose pixels are sensors: what a policy sees of objects that nothing else measures.

use serde::Deserialize;

use super::TaskError;
use super::plan::Resolver;
use crate::render::{Camera, render};
use crate::scene::Scene;

/// Depths beyond this count as this, m.
const FAR_M: f32 = 10.0;
/// Least and largest vertical field of view, rad.
pub(super) const FIELD_OF_VIEW: [f32; 2] = [0.01, 3.1];
/// Longest side in pixels before the mean is taken.
const MAX_SIDE: usize = 512;

/// A fixed camera; `camera` among the sensors gives its pixels row by row from the top left.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraSpec {
    /// Where the eye is, m.
    pub position: [f32; 3],
    /// The point in the middle of the picture, m.
    pub target: [f32; 3],
    /// Vertical field of view, rad.
    pub field_of_view: f32,
    /// Pixels along and down.
    pub size: [usize; 2],
    /// What a pixel says.
    #[serde(default)]
    pub channel: Channel,
    /// Each pixel is the mean of so many by so many.
    #[serde(default = "oversampling")]
    pub oversampling: usize,
}

fn oversampling() -> usize {
    4
}

/// What a pixel says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Mean of red, green and blue, 0 to 1.
    #[default]
    Grey,
    /// 0 to 1.
    Red,
    /// 0 to 1.
    Green,
    /// 0 to 1.
    Blue,
    /// Distance along the viewing axis, at most 10 m.
    Depth,
}

pub(super) fn check(resolver: &Resolver<'_>, spec: &CameraSpec) -> Result<(), TaskError> {
    let CameraSpec { position, target, field_of_view, size, oversampling, .. } = spec;
    if !position.iter().chain(target).all(|v| v.abs() < 1e3) || position == target {
        return Err(resolver.fault(
            "camera",
            format!("looks from {position:?} to {target:?}: give both within 1000 m, and not the same"),
        ));
    }
    if !(FIELD_OF_VIEW[0]..FIELD_OF_VIEW[1]).contains(field_of_view) {
        return Err(
            resolver.fault("camera.field_of_view", format!("is {field_of_view}: give 0.01 to 3.1 rad"))
        );
    }
    let sides = size.map(|side| side.saturating_mul(*oversampling));
    if sides.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
        return Err(resolver.fault(
            "camera.size",
            format!(
                "{size:?} with oversampling {oversampling} is {sides:?} pixels: give 1 to {MAX_SIDE} a side"
            ),
        ));
    }
    Ok(())
}

/// The camera of one environment.
#[derive(Clone, Debug)]
pub(super) struct Eye {
    spec: CameraSpec,
    /// `[height * width]`
    pub(super) pixels: Vec<f32>,
}

impl Eye {
    pub(super) fn new(spec: CameraSpec) -> Self {
        Self { pixels: vec![0.0; spec.size[0] * spec.size[1]], spec }
    }

    /// The camera where it is meant to be.
    pub(super) fn camera(&self) -> Camera {
        let CameraSpec { position, target, field_of_view, size: [columns, rows], oversampling: n, .. } =
            self.spec;
        // A camera that looks straight down is turned by no draw of its place.
        let is_upright = position[..2] != target[..2];
        let up = if is_upright { Camera::UP } else { [0.0, (position[2] - target[2]).signum(), 0.0] };
        Camera { position, target, up, field_of_view, width: columns * n, height: rows * n }
    }

    /// Sees the scene through the camera where it really is.
    pub(super) fn look(&mut self, scene: &Scene, camera: &Camera) {
        let CameraSpec { size: [columns, _], channel, oversampling: n, .. } = self.spec;
        let image = render(scene, camera);
        let byte = |pixel: usize, channel: usize| f32::from(image.rgb[3 * pixel + channel]) / 255.0;
        let value = |pixel: usize| match channel {
            Channel::Grey => (byte(pixel, 0) + byte(pixel, 1) + byte(pixel, 2)) / 3.0,
            Channel::Red => byte(pixel, 0),
            Channel::Green => byte(pixel, 1),
            Channel::Blue => byte(pixel, 2),
            Channel::Depth => image.depth[pixel].min(FAR_M),
        };
        for (index, mean) in self.pixels.iter_mut().enumerate() {
            let (row, column) = (index / columns * n, index % columns * n);
            let cells = (0..n * n).map(|i| (row + i / n) * camera.width + column + i % n);
            *mean = cells.map(value).sum::<f32>() / (n * n) as f32;
        }
    }
}
