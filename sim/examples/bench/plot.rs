//! Line charts as SVG: no dependency, and they diff.

use std::fmt::Write;

/// One line: its name and `(x, y)`.
pub(crate) type Line = (&'static str, Vec<(f64, f64)>);

const COLORS: [&str; 4] = ["#1f5f9f", "#c04010", "#3a7d34", "#7a4fa0"];
const SIZE: (f64, f64) = (560.0, 260.0);
const MARGIN: (f64, f64) = (62.0, 34.0);

/// A chart with axes from zero.
pub(crate) fn chart(title: &str, x_label: &str, y_label: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let most = |of: fn((f64, f64)) -> f64| points().map(of).fold(1e-9, f64::max);
    let (x_most, y_most) = (most(|p| p.0), most(|p| p.1));
    let ((width, height), (left, bottom)) = (SIZE, MARGIN);
    let place = |(x, y): (f64, f64)| {
        let x = left + x / x_most * (width - left - 12.0);
        (x, height - bottom - y / y_most * (height - bottom - 30.0))
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"16\" font-size=\"13\">{title}</text>\n"
    );
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        let (x, y) = place((share * x_most, share * y_most));
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.3}</text>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{:.2}</text>",
            width - 12.0,
            left - 5.0,
            y + 4.0,
            share * y_most,
            height - bottom + 14.0,
            share * x_most
        );
    }
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let path: Vec<String> =
            points.iter().map(|&p| place(p)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{color}\">{name}</text>",
            path.join(" "),
            left + 10.0,
            40 + 14 * index
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x_label}</text>\
         <text x=\"12\" y=\"{}\" transform=\"rotate(-90 12 {})\" text-anchor=\"middle\">{y_label}</text></svg>",
        width / 2.0,
        height - 6.0,
        height / 2.0,
        height / 2.0
    );
    svg
}
