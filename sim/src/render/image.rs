//! Pictures: RGB8 with depth, and PNG files of them.

use std::io;
use std::path::Path;

/// A picture, row by row from the top left.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green, blue, `[height * width * 3]`.
    pub rgb: Vec<u8>,
    /// Distance along the viewing axis in metres, `[height * width]`; infinite where nothing is.
    pub depth: Vec<f32>,
    /// Which shape of the scene is seen, counted from 1, `[height * width]`; 0 where nothing is.
    pub segmentation: Vec<u16>,
}

impl Image {
    pub(super) fn new(width: usize, height: usize) -> Self {
        let pixels = width * height;
        Self {
            width,
            height,
            rgb: vec![0; pixels * 3],
            depth: vec![f32::INFINITY; pixels],
            segmentation: vec![0; pixels],
        }
    }

    /// The picture as a PNG file's bytes.
    ///
    /// # Errors
    /// A width or height of zero.
    pub fn to_png(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(bytes)
    }

    /// Writes the picture as a PNG file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_png(&self, path: impl AsRef<Path>) -> io::Result<()> {
        std::fs::write(path, self.to_png()?)
    }
}
