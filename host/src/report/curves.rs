//! The curves of trainings: of one run as a page, of one or several as a picture.

use super::{Line, Page, Panel, line_plot, panels_png};
use tendon_learn::CurveRow;

/// A curve of the table: its name and what of a row it shows.
type Curve = (&'static str, fn(&CurveRow) -> Option<f64>);

const CURVES: [Curve; 10] = [
    ("Return", |row| row.episode_return),
    ("Episode length", |row| row.episode_length),
    ("Success", |row| row.success),
    ("Policy loss", |row| Some(row.policy_loss)),
    ("Value loss", |row| Some(row.value_loss)),
    ("Entropy, nats", |row| Some(row.entropy)),
    ("KL per update, nats", |row| Some(row.kl)),
    ("Learning rate", |row| Some(row.learning_rate)),
    ("Cost per episode", |row| row.cost),
    ("Lagrange multiplier", |row| row.multiplier),
];
/// Points drawn per curve: neighbours are averaged beyond that.
const POINTS: usize = 400;

/// Curves of runs, one line each, as a PNG.
///
/// # Errors
/// When the encoder refuses.
pub fn curves_png(runs: &[(String, Vec<CurveRow>)]) -> Result<Vec<u8>, png::EncodingError> {
    let panels: Vec<Panel> =
        drawn(runs).map(|(title, lines)| Panel { title: title.to_string(), lines }).collect();
    panels_png(&panels, "environment steps")
}

/// A self-contained page of one run: what it came to, its curves, its settings.
#[must_use]
pub fn curves_page(title: &str, rows: &[CurveRow], facts: &[Vec<String>], settings: &str) -> String {
    let mut page = Page::new(title);
    page.table(facts);
    page.heading("Curves");
    for (title, lines) in drawn(&[(String::new(), rows.to_vec())]) {
        page.plot(&line_plot(title, "environment steps", &lines));
    }
    page.heading("Settings");
    page.preformatted(settings);
    page.finish()
}

/// The curves that have anything to show.
fn drawn(runs: &[(String, Vec<CurveRow>)]) -> impl Iterator<Item = (&'static str, Vec<Line>)> {
    CURVES.iter().filter_map(|(title, value)| {
        let lines: Vec<Line> = runs
            .iter()
            .map(|(name, rows)| {
                let points: Vec<(f64, f64)> =
                    rows.iter().filter_map(|row| Some((row.steps as f64, value(row)?))).collect();
                Line { name: name.clone(), points: thinned(&points) }
            })
            .collect();
        let says_something = lines.iter().any(|line| line.points.iter().any(|point| point.1 != 0.0));
        says_something.then_some((*title, lines))
    })
}

/// Means of neighbours, so that at most [`POINTS`] are left.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |part: &[(f64, f64)]| {
        let count = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / count, part.iter().map(|p| p.1).sum::<f64>() / count)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}
