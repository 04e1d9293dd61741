//! Line plots as one PNG, for places that show no page.

use super::plot::{Line, short, span, ticks};

/// One plot of a [`panels_png`].
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above the plot.
    pub title: String,
    /// Its curves, over a common x axis.
    pub lines: Vec<Line>,
    /// `(x, low, high)` of a band around each of them, of finite numbers; empty where there is none.
    pub bands: Vec<Vec<(f64, f64, f64)>>,
}

const WIDTH: usize = 480;
const HEIGHT: usize = 250;
const COLUMNS: usize = 2;
/// Left, top, right, bottom of the curves inside a panel.
const MARGIN: [usize; 4] = [58, 34, 14, 34];
/// Okabe and Ito's colours, as in the page.
const COLOURS: [[u8; 3]; 6] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];
const INK: [u8; 3] = [40, 40, 40];
const GRID: [u8; 3] = [225, 225, 225];
/// Pixels per dot of the font.
const DOT: usize = 2;

/// Draws panels side by side, two in a row; `x_label` stands under each.
///
/// # Errors
/// When the encoder refuses.
pub fn panels_png(panels: &[Panel], x_label: &str) -> Result<Vec<u8>, png::EncodingError> {
    let (columns, rows) = (COLUMNS.min(panels.len().max(1)), panels.len().div_ceil(COLUMNS).max(1));
    let mut canvas = Canvas::new(columns * WIDTH, rows * HEIGHT);
    for (index, panel) in panels.iter().enumerate() {
        draw(&mut canvas, panel, x_label, index % COLUMNS * WIDTH, index / COLUMNS * HEIGHT);
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, canvas.width as u32, canvas.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

fn draw(canvas: &mut Canvas, panel: &Panel, x_label: &str, x0: usize, y0: usize) {
    let finite = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
    let of_bands = || panel.bands.iter().flatten().flat_map(|&(x, low, high)| [(x, low), (x, high)]);
    let of_lines = || panel.lines.iter().flat_map(|line| &line.points).filter(finite).copied();
    let points = || of_lines().chain(of_bands());
    let (x_low, x_high) = span(points().map(|p| p.0));
    let (y_low, y_high) = span(points().map(|p| p.1));
    let [left, top, right, bottom] = MARGIN;
    let (w, h) = ((WIDTH - left - right) as f64, (HEIGHT - top - bottom) as f64);
    let x_at = |x: f64| (x0 + left) as f64 + (x - x_low) / (x_high - x_low) * w;
    let y_at = |y: f64| (y0 + top) as f64 + (1.0 - (y - y_low) / (y_high - y_low)) * h;
    for tick in ticks(y_low, y_high) {
        let y = y_at(tick);
        canvas.line((x_at(x_low), y), (x_at(x_high), y), GRID);
        let text = short(tick);
        canvas.text(x0 + left - 6 - text_width(&text), y as usize - 5, &text, INK);
    }
    for tick in ticks(x_low, x_high) {
        let text = short(tick);
        canvas.text(x_at(tick) as usize - text_width(&text) / 2, y0 + HEIGHT - bottom + 6, &text, INK);
    }
    canvas.text(x0 + left, y0 + 6, &panel.title, INK);
    canvas.text(x0 + (WIDTH - text_width(x_label)) / 2, y0 + HEIGHT - 14, x_label, INK);
    for (band, colour) in panel.bands.iter().zip(COLOURS.iter().cycle()) {
        for pair in band.windows(2) {
            let [from, to] = [pair[0], pair[1]].map(|(x, low, high)| (x_at(x), y_at(high), y_at(low)));
            canvas.band(from, to, *colour);
        }
    }
    let mut legend = x0 + left;
    for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<_> = line.points.iter().filter(finite).map(|&(x, y)| (x_at(x), y_at(y))).collect();
        for pair in points.windows(2) {
            canvas.line(pair[0], pair[1], *colour);
            canvas.line((pair[0].0, pair[0].1 + 1.0), (pair[1].0, pair[1].1 + 1.0), *colour);
        }
        if panel.lines.len() > 1 {
            canvas.text(legend, y0 + 20, &line.name, *colour);
            legend += text_width(&line.name) + 12;
        }
    }
}

struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![255; width * height * 3] }
    }

    fn dot(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            self.rgb[3 * (y * self.width + x)..][..3].copy_from_slice(&colour);
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: [u8; 3]) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().clamp(1.0, 4096.0);
        for i in 0..=steps as usize {
            let t = i as f64 / steps;
            let (x, y) = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
            self.dot(x.round() as usize, y.round() as usize, colour);
        }
    }

    /// Tints what lies between two upright spans `(x, top, bottom)`; the right one's column is the next band's.
    fn band(&mut self, from: (f64, f64, f64), to: (f64, f64, f64), colour: [u8; 3]) {
        /// Share of the colour.
        const TINT: f64 = 0.2;
        let (left, right) = (from.0.round() as usize, to.0.round() as usize);
        for x in left..right.min(self.width) {
            let t = (x - left) as f64 / (right - left) as f64;
            let (top, bottom) = (from.1 + t * (to.1 - from.1), from.2 + t * (to.2 - from.2));
            for y in top.round() as usize..(bottom.round() as usize).min(self.height) {
                let dot = &mut self.rgb[3 * (y * self.width + x)..][..3];
                for (own, tint) in dot.iter_mut().zip(colour) {
                    *own = (f64::from(*own) * (1.0 - TINT) + f64::from(tint) * TINT) as u8;
                }
            }
        }
    }

    fn text(&mut self, x: usize, y: usize, text: &str, colour: [u8; 3]) {
        for (i, character) in text.chars().enumerate() {
            let glyph = glyph(character);
            for bit in 0..15 {
                if glyph >> (14 - bit) & 1 == 1 {
                    let (column, row) = (bit % 3, bit / 3);
                    for k in 0..DOT * DOT {
                        let at = (x + (4 * i + column) * DOT + k % DOT, y + row * DOT + k / DOT);
                        self.dot(at.0, at.1, colour);
                    }
                }
            }
        }
    }
}

fn text_width(text: &str) -> usize {
    4 * DOT * text.chars().count()
}

/// Three by five dots, one octal digit per row from the top.
fn glyph(character: char) -> u16 {
    const DIGITS: [u16; 10] =
        [0o75557, 0o26227, 0o71747, 0o71717, 0o55711, 0o74717, 0o74757, 0o71111, 0o75757, 0o75717];
    const LETTERS: [u16; 26] = [
        0o25755, 0o65656, 0o34443, 0o65556, 0o74647, 0o74644, 0o34553, 0o55755, 0o72227, 0o11152, 0o55655,
        0o44447, 0o57755, 0o65555, 0o25552, 0o65644, 0o25563, 0o65655, 0o34216, 0o72222, 0o55557, 0o55552,
        0o55775, 0o55255, 0o55222, 0o71247,
    ];
    match character.to_ascii_uppercase() {
        digit @ '0'..='9' => DIGITS[digit as usize - '0' as usize],
        letter @ 'A'..='Z' => LETTERS[letter as usize - 'A' as usize],
        '-' => 0o00700,
        '.' => 0o00002,
        '+' => 0o02720,
        ',' => 0o00024,
        '/' => 0o11244,
        '%' => 0o51245,
        '(' => 0o24442,
        ')' => 0o21112,
        ':' => 0o02020,
        '_' => 0o00007,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_shows_its_curve_and_survives_what_is_not_finite() {
        let line = |points: Vec<(f64, f64)>| Line { name: "a".into(), points };
        let panel = |points| Panel {
            title: "RETURN".into(),
            lines: vec![line(points)],
            bands: vec![vec![(0.0, 1.0, 2.0), (2.0, 2.5, 3.5)]],
        };
        let panels =
            [panel(vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]), panel(vec![]), panel(vec![(1e300, 0.0)])];
        let bytes = panels_png(&panels, "STEPS").unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        let of_colour = |colour: [u8; 3]| rgb.chunks(3).filter(|dot| **dot == colour).count();
        assert!(of_colour(COLOURS[0]) > 400, "{}", of_colour(COLOURS[0]));
        assert!(of_colour(INK) > 400);
        // A fifth of the curve's colour, four fifths of white.
        assert!(of_colour([204, 226, 239]) > 1000, "{}", of_colour([204, 226, 239]));
    }
}
