//! Worst stack of the firmware, and no panic and no heap in it: `tendon-bounds` on the ELF that was built.

use std::fmt::Write as _;
use std::path::Path;
use tendon_bounds::Report;

/// Prints the bound of a firmware; an error where there is none, or where the stack does not hold it.
pub(crate) fn check(elf: &Path, json: Option<&Path>) -> Result<(), String> {
    let bytes = std::fs::read(elf).map_err(|error| format!("{}: {error}", elf.display()))?;
    let report = tendon_bounds::check(&bytes).map_err(|failures| {
        let mut text = format!("{}: no bound of the stack", elf.display());
        for failure in failures {
            let _ = write!(text, "\n  {failure}");
        }
        text
    })?;
    println!("{report}");
    if let Some(path) = json {
        std::fs::write(path, rows(&report)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if report.fits() {
        Ok(())
    } else {
        Err(format!(
            "{}: the worst stack does not fit; make _stack_size in the board's memory.x larger",
            elf.display()
        ))
    }
}

/// Names come from the ELF and are identifiers: no character needs an escape.
fn rows(report: &Report) -> String {
    let case = format!("stack of firmware {} for {}", report.version, report.board);
    let row = |metric: &str, bytes: u32, goal: &str| {
        format!(
            r#"{{"case":"{case}","metric":"{metric}","unit":"bytes","tendon":{bytes},"peers":{{}},"goal":{goal}}}"#
        )
    };
    let goal = format!(r#""<= {} reserved""#, report.reserved);
    let mut rows = vec![row("worst", report.worst, &goal)];
    rows.extend(report.tasks.iter().map(|task| row(&task.name, task.stack + task.frames, "null")));
    format!("[\n{}\n]\n", rows.join(",\n"))
}
