//! Line plots as SVG, small enough to stand in a page.

use std::fmt::Write;

/// One curve.
#[derive(Clone, Debug)]
pub struct Line {
    /// For the legend.
    pub name: String,
    /// `(x, y)`; non-finite points are left out.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [64.0, 28.0, 12.0, 40.0];
/// Okabe and Ito's colours, which most people can tell apart.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Draws curves over a common x axis. Labels are escaped.
#[must_use]
pub fn line_plot(title: &str, x_label: &str, lines: &[Line]) -> String {
    let points =
        || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (x_low, x_high) = span(points().map(|p| p.0));
    let (y_low, y_high) = span(points().map(|p| p.1));
    let [left, top, right, bottom] = MARGIN;
    let x_at = |x: f64| left + (x - x_low) / (x_high - x_low) * (WIDTH - left - right);
    let y_at = |y: f64| HEIGHT - bottom - (y - y_low) / (y_high - y_low) * (HEIGHT - top - bottom);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><text x=\"{left}\" y=\"16\" class=\"t\">{}</text>",
        super::html::escape(title)
    );
    for tick in ticks(y_low, y_high) {
        let y = y_at(tick);
        let _ = write!(
            svg,
            "<line class=\"g\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            WIDTH - right,
            left - 6.0,
            y + 4.0,
            short(tick)
        );
    }
    for tick in ticks(x_low, x_high) {
        let _ = write!(
            svg,
            "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x_at(tick),
            HEIGHT - bottom + 16.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        (left + WIDTH - right) / 2.0,
        HEIGHT - 6.0,
        super::html::escape(x_label)
    );
    let mut legend = left;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = line
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|&(x, y)| format!("{:.1},{:.1}", x_at(x), y_at(y)))
            .collect();
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>",
            path.join(" ")
        );
        if lines.len() > 1 {
            let _ = write!(
                svg,
                "<text x=\"{legend:.0}\" y=\"{:.0}\" class=\"l\" fill=\"{colour}\">{}</text>",
                top + 2.0,
                super::html::escape(&line.name)
            );
            legend += 16.0 + 7.0 * line.name.chars().count() as f64;
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Bounds that are never equal.
pub(super) fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if !low.is_finite() {
        return (0.0, 1.0);
    }
    let pad = if high > low { 0.04 * (high - low) } else { low.abs().max(1.0) * 0.5 };
    (low - pad, high + pad)
}

/// Four to ten round numbers between the bounds.
pub(super) fn ticks(low: f64, high: f64) -> Vec<f64> {
    let raw = (high - low) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    (first..first + 12).map(|i| i as f64 * step).take_while(|tick| *tick <= high).collect()
}

pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{:.1}M", value / 1e6)
    } else if size >= 1e4 {
        format!("{:.0}k", value / 1e3)
    } else {
        // Two digits of what is small, such as learning rates.
        let decimals = if size > 0.0 { (1.0 - size.log10().floor()).clamp(3.0, 9.0) as usize } else { 3 };
        let text = format!("{value:.decimals$}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        if text == "-0" { "0".into() } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_every_finite_point_and_survives_the_rest() {
        let line = |points: Vec<(f64, f64)>| Line { name: "a<b".into(), points };
        let svg = line_plot("t", "x", &[line(vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]), line(vec![])]);
        let drawn = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(drawn.split(' ').count(), 2);
        assert!(svg.contains("a&lt;b"));
        for points in [vec![], vec![(0.0, 0.0)], vec![(f64::INFINITY, 1.0)]] {
            assert!(!line_plot("t", "x", &[line(points)]).contains("NaN"));
        }
    }

    #[test]
    fn numbers_are_short_and_small_ones_keep_their_digits() {
        let numbers = [2_500_000.0, 12_000.0, 3.25, 0.0005, -0.000_02, -0.0, 0.0];
        assert_eq!(numbers.map(short), ["2.5M", "12k", "3.25", "0.0005", "-0.00002", "0", "0"]);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(ticks(-0.013, 0.02).iter().all(|t| (-0.013..=0.02).contains(t)));
    }
}
