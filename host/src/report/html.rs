//! The page.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fmt::Write;
use tendon_sim::Image;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}\
td{font-variant-numeric:tabular-nums}svg{width:100%;max-width:44rem;display:block;margin:.8rem 0}img{max-width:100%;border:1px solid #ddd}\
pre{background:#f6f6f6;padding:.8rem;overflow:auto;font-size:12px}.g{stroke:#e5e5e5}.t{font-size:13px;font-weight:600}.x,.y,.l{font-size:11px}.x{text-anchor:middle}.y{text-anchor:end}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e4e4e4}td,th{border-color:#333}pre{background:#202329}.g{stroke:#333}svg text{fill:#ccc}}";

/// A page that needs nothing beside itself: style, plots and pictures are inside.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: title.into(), body: String::new() }
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        let _ = write!(self.body, "<h2>{}</h2>", escape(text));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = write!(self.body, "<p>{}</p>", escape(text));
    }

    /// Preformatted text.
    pub fn preformatted(&mut self, text: &str) {
        let _ = write!(self.body, "<pre>{}</pre>", escape(text));
    }

    /// A table; the first row is its head.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        self.body.push_str("<table>");
        for (index, row) in rows.iter().enumerate() {
            let tag = if index == 0 { "th" } else { "td" };
            self.body.push_str("<tr>");
            for cell in row {
                let _ = write!(self.body, "<{tag}>{}</{tag}>", escape(cell));
            }
            self.body.push_str("</tr>");
        }
        self.body.push_str("</table>");
    }

    /// A plot made by [`super::line_plot`].
    pub fn plot(&mut self, svg: &str) {
        self.body.push_str(svg);
    }

    /// A PNG, animated or not.
    pub fn picture(&mut self, png: &[u8], caption: &str) {
        let data = BASE64_STANDARD.encode(png);
        let caption = escape(caption);
        let _ = write!(
            self.body,
            "<figure><img alt=\"{caption}\" src=\"data:image/png;base64,{data}\"><figcaption>{caption}</figcaption></figure>"
        );
    }

    /// The whole page.
    #[must_use]
    pub fn finish(&self) -> String {
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>{1}</body></html>\n",
            escape(&self.title),
            self.body
        )
    }
}

/// Frames of one size as an animated PNG, each shown for `frame_ms`.
///
/// # Errors
/// When there is no frame, or sizes differ.
pub fn frames_png(frames: &[Image], frame_ms: u16) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let (width, height) = frames.first().map_or((0, 0), |f| (f.width as u32, f.height as u32));
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_animated(frames.len() as u32, 0)?;
    encoder.set_frame_delay(frame_ms, 1000)?;
    let mut writer = encoder.write_header()?;
    for frame in frames {
        writer.write_image_data(&frame.rgb)?;
    }
    writer.finish()?;
    Ok(bytes)
}

/// Frames of one size as an animated GIF that goes on and on, each shown for `frame_ms` (in steps of 10 ms).
///
/// # Errors
/// When there is no frame, or one has another size than the first or more than 65,535 pixels a side.
pub fn frames_gif(frames: &[Image], frame_ms: u16) -> Result<Vec<u8>, gif::EncodingError> {
    let wrong = |what: &str| gif::EncodingError::from(std::io::Error::other(what.to_owned()));
    let first = frames.first().ok_or_else(|| wrong("no frame: give the run at least one step"))?;
    let side = |side: usize| u16::try_from(side).map_err(|_| wrong("more than 65,535 pixels a side"));
    let (width, height) = (side(first.width)?, side(first.height)?);
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &[])?;
    encoder.set_repeat(gif::Repeat::Infinite)?;
    for image in frames {
        if (image.width, image.height) != (first.width, first.height) {
            return Err(wrong("frames of different sizes"));
        }
        // 10 of 30: a tenth of the time of the best, and no difference that is seen.
        let mut frame = gif::Frame::from_rgb_speed(width, height, &image.rgb, 10);
        frame.delay = frame_ms / 10;
        encoder.write_frame(&frame)?;
    }
    drop(encoder);
    Ok(bytes)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
