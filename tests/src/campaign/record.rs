//! `--record`: a campaign's figures into docs/campaigns.md, between the marks of its name.

use super::{Campaign, Row, grouped};
use std::fmt::Write;
use std::time::Duration;

/// Puts the figures of a run into the document's text, in place of those of the run before.
pub(super) fn put(
    document: &str,
    campaign: &Campaign,
    promise: &str,
    rows: &[Row],
    took: Duration,
) -> String {
    let (begin, end) =
        (format!("<!-- begin {} -->", campaign.name), format!("<!-- end {} -->", campaign.name));
    let section = format!("{begin}\n{}{end}", section(campaign, promise, rows, took));
    if let Some((before, rest)) = document.split_once(&begin)
        && let Some((_, after)) = rest.split_once(&end)
    {
        return format!("{before}{section}{after}");
    }
    format!("{}\n\n{section}\n", document.trim_end())
}

fn section(campaign: &Campaign, promise: &str, rows: &[Row], took: Duration) -> String {
    let gates: Vec<String> = campaign.gates.iter().map(u8::to_string).collect();
    let guards: Vec<String> = campaign.guards.iter().map(|guard| format!("`{}`", guard.name())).collect();
    let mut text = format!("## {}\n\nPromise: {promise}.\n", campaign.name);
    let _ = writeln!(
        text,
        "Gates: {}. Checks that are taken away by `--mutate`: {}.\n",
        gates.join(", "),
        guards.join(", ")
    );
    let _ = writeln!(
        text,
        "`cargo xtask campaign {} --record`, {:.0} s on {}:\n",
        campaign.name,
        took.as_secs_f64(),
        machine()
    );
    text.push_str("| figure | value | unit | goal |\n|---|---:|---|---|\n");
    for row in rows {
        let goal = row.goal.as_deref().unwrap_or("");
        let _ = writeln!(text, "| {} | {} | {} | {goal} |", row.metric, grouped(row.tendon), row.unit);
    }
    text.push('\n');
    text
}

/// Processor and cores, as the kernel names them.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": an unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores", model.trim_start_matches(['\t', ' ', ':']).trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::CAMPAIGNS;

    #[test]
    fn a_second_run_takes_the_place_of_the_first_and_leaves_the_rest() {
        let took = Duration::from_secs(3);
        let once = put("# Title\n", &CAMPAIGNS[0], "old", &[], took);
        let both = put(&once, &CAMPAIGNS[1], "other", &[], took);
        let again = put(&both, &CAMPAIGNS[0], "new", &[], took);
        assert!(again.starts_with("# Title\n"));
        assert!(again.contains("Promise: new.") && !again.contains("Promise: old."));
        assert!(again.contains("Promise: other."));
    }
}
