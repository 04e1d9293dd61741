//! Reports: one self-contained HTML page with tables, plots and rendered frames.

mod html;
mod plot;

pub use html::{Page, frames_png};
pub use plot::{Line, line_plot};
