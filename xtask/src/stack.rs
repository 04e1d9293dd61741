//! Worst stack of each firmware, and no panic and no heap in it: `tendon-bounds` on the ELF files that were built.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tendon_bounds::Report;

/// Prints the bound of each firmware; an error where one has none, or where its stack does not hold it.
pub(crate) fn check(elves: &[PathBuf], json: Option<&Path>) -> Result<(), String> {
    let mut lines = Vec::new();
    for elf in elves {
        let report = report(elf)?;
        println!("{report}\n");
        lines.extend(rows(&report));
        if !report.fits() {
            return Err(format!(
                "{}: the worst stack does not fit; make _stack_size in the board's memory.x larger",
                elf.display()
            ));
        }
    }
    let Some(path) = json else { return Ok(()) };
    std::fs::write(path, format!("[\n{}\n]\n", lines.join(",\n")))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// An error where a firmware that only tests may run would pass for a release.
pub(crate) fn refuses(elf: &Path) -> Result<(), String> {
    match report(elf) {
        Err(text) if text.contains("feature") => Ok(()),
        _ => Err(format!("{}: built for tests, and not refused", elf.display())),
    }
}

fn report(elf: &Path) -> Result<Report, String> {
    tendon_bounds::check_file(elf).map_err(|failures| {
        let mut text = format!("{}: no bound of the stack", elf.display());
        for failure in failures {
            let _ = write!(text, "\n  {failure}");
        }
        text
    })
}

/// Names come from the ELF and are identifiers: no character needs an escape.
fn rows(report: &Report) -> Vec<String> {
    let case = format!("stack of firmware {} for {}", report.version, report.board);
    let row = |metric: &str, bytes: u32, goal: &str| {
        format!(
            r#"{{"case":"{case}","metric":"{metric}","unit":"bytes","tendon":{bytes},"peers":{{}},"goal":{goal}}}"#
        )
    };
    let goal = format!(r#""<= {} reserved""#, report.reserved);
    let mut rows = vec![row("worst", report.worst, &goal)];
    rows.extend(report.tasks.iter().map(|task| row(&task.name, task.stack + task.frames, "null")));
    rows
}
