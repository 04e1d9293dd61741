//! The curves of trainings: of one run as a page, of one or several as a picture.

use super::{Line, Page, Panel, line_plot, panels_png};
use tendon_learn::CurveRow;

/// What one curve of a plot is drawn from.
#[derive(Clone, Debug)]
pub struct Curves {
    /// For the legend.
    pub name: String,
    /// The rows of one training; of several: the curve is their mean, in a band from the lowest to the highest.
    pub runs: Vec<Vec<CurveRow>>,
}

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
    ("Cost per step", |row| row.cost),
    ("Lagrange multiplier", |row| row.multiplier),
];
/// Points drawn per curve: neighbours are averaged beyond that.
const POINTS: usize = 400;

/// Curves as a PNG.
///
/// # Errors
/// When the encoder refuses.
pub fn curves_png(runs: &[Curves]) -> Result<Vec<u8>, png::EncodingError> {
    panels_png(&drawn(runs).collect::<Vec<_>>(), "environment steps")
}

/// A self-contained page of one run: what it came to, its curves, its settings.
#[must_use]
pub fn curves_page(title: &str, rows: &[CurveRow], facts: &[Vec<String>], settings: &str) -> String {
    let mut page = Page::new(title);
    page.table(facts);
    page.heading("Curves");
    for panel in drawn(&[Curves { name: String::new(), runs: vec![rows.to_vec()] }]) {
        page.plot(&line_plot(&panel.title, "environment steps", &panel.lines));
    }
    page.heading("Settings");
    page.preformatted(settings);
    page.finish()
}

/// The curves that have anything to show.
fn drawn(curves: &[Curves]) -> impl Iterator<Item = Panel> {
    CURVES.iter().filter_map(|(title, value)| {
        let (lines, bands): (Vec<Line>, Vec<_>) = curves.iter().map(|curves| line(curves, *value)).unzip();
        let says_something = lines.iter().any(|line| line.points.iter().any(|point| point.1 != 0.0));
        says_something.then(|| Panel { title: title.to_string(), lines, bands })
    })
}

/// The mean over runs, iteration by iteration, of neighbours of which at most [`POINTS`] are left; where there are several runs, with
/// the lowest and the highest of their means.
fn line(curves: &Curves, value: fn(&CurveRow) -> Option<f64>) -> (Line, Vec<(f64, f64, f64)>) {
    let longest = curves.runs.iter().map(Vec::len).max().unwrap_or(0);
    let together = longest.div_ceil(POINTS).max(1);
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for start in (0..longest).step_by(together) {
        let of_run = |rows: &Vec<CurveRow>| {
            let rows = rows.iter().skip(start).take(together);
            mean(rows.filter_map(|row| Some((row.steps as f64, value(row)?))))
        };
        let means: Vec<(f64, f64)> = curves.runs.iter().filter_map(of_run).collect();
        let Some((x, y)) = mean(means.iter().copied()) else { continue };
        points.push((x, y));
        if curves.runs.len() > 1 {
            let ends = means.iter().fold((y, y), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
            band.push((x, ends.0, ends.1));
        }
    }
    (Line { name: curves.name.clone(), points }, band)
}

/// `None` of nothing.
fn mean(points: impl Iterator<Item = (f64, f64)>) -> Option<(f64, f64)> {
    let (x, y, count) = points.fold((0.0, 0.0, 0.0), |(x, y, n), p| (x + p.0, y + p.1, n + 1.0));
    (count > 0.0).then(|| (x / count, y / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_trainings_are_their_mean_between_the_lowest_and_the_highest() {
        let run = |returns: [Option<f64>; 3]| -> Vec<CurveRow> {
            let row = |(i, episode_return): (usize, Option<f64>)| CurveRow {
                steps: 10 * (i as u64 + 1),
                episode_return,
                ..CurveRow::default()
            };
            returns.into_iter().enumerate().map(row).collect()
        };
        let runs = vec![run([Some(1.0), Some(2.0), None]), run([Some(3.0), None, None])];
        let (both, band) = line(&Curves { name: "a".into(), runs }, |row| row.episode_return);
        assert_eq!(both.points, [(10.0, 2.0), (20.0, 2.0)]);
        assert_eq!(band, [(10.0, 1.0, 3.0), (20.0, 2.0, 2.0)]);
    }
}
