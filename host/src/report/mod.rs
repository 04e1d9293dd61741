//! Reports: one self-contained HTML page with tables, plots and rendered frames; plots as PNG.

mod curves;
mod html;
mod plot;
mod raster;

pub use curves::{Curves, curves_page, curves_png};
pub use html::{Page, frames_gif, frames_png};
pub use plot::{Line, line_plot};
pub use raster::{Panel, panels_png};
