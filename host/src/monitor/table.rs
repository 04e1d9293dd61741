//! The table that a terminal shows, and its one line for everything else.

use super::{JointLabel, Snapshot, fields};
use std::fmt::Write;
use tendon_runtime::timing::bin_start_ns;
use tendon_runtime::{Cause, State, timing::ResetCause};
use tendon_wire::message::{Counts, Timing};

/// The whole table, in lines of at most `columns` characters where they can be broken. `labels`: of an image, in the
/// robot's order.
#[must_use]
pub fn table(snapshot: &Snapshot, labels: &[JointLabel], columns: usize) -> String {
    let Snapshot { identity, telemetry, timing, last } = snapshot;
    let mut text = String::new();
    let parts = [
        format!("{} firmware {}", identity.board, identity.firmware),
        format!("robot {}", if identity.robot.is_empty() { "-" } else { &identity.robot }),
        format!("image {:08x}", identity.image_crc32c),
        format!("schema {:016x}", identity.schema_hash),
    ];
    flow(&mut text, &parts, columns);
    let parts = [
        format!("state {:<10}", name(State::from_code(telemetry.state))),
        format!("cause {:<14}", name(Cause::from_code(telemetry.cause))),
        format!(
            "started {} times, last by {}",
            timing.boots,
            name(ResetCause::from_code(timing.reset_cause))
        ),
    ];
    flow(&mut text, &parts, columns);
    text.push('\n');
    let message = telemetry.clone().into();
    let counters: Vec<_> =
        fields(&message).into_iter().filter(|(name, _)| !["state", "cause"].contains(name)).collect();
    for row in counters.chunks((columns / COUNTER).clamp(1, 4)) {
        for (name, value) in row {
            let _ = write!(text, "{name:<18}{value:>10}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&times(timing, columns));
    if !last.joint_position.is_empty() {
        text.push('\n');
        joints(&mut text, snapshot, labels, columns);
    }
    text
}

/// Characters of a counter: name, value and what keeps it from the next.
const COUNTER: usize = 30;

/// Writes `parts` one after the other, with a new line where one would not fit.
fn flow(text: &mut String, parts: &[String], columns: usize) {
    let mut used = 0;
    for part in parts {
        let width = part.chars().count();
        if used > 0 && used + 3 + width > columns {
            text.push('\n');
            used = 0;
        } else if used > 0 {
            text.push_str("   ");
            used += 3;
        }
        text.push_str(part);
        used += width;
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
}

/// Periods, misses and histograms.
#[must_use]
pub fn times(timing: &Timing, columns: usize) -> String {
    let mut text = String::new();
    let parts = [
        format!("period {} us", timing.period_us),
        format!("deadline {} us", timing.deadline_us),
        format!("worst response by analysis {} us", timing.response_us),
        format!("{} misses", timing.misses),
        format!("{} latched", timing.latches),
        format!("{} early feeds", timing.early_feeds),
        format!("kept waiting at most {:.1} us", us(timing.blocked_max_ns)),
        format!("fallback out in {:.1} us", us(timing.fallback_max_ns)),
    ];
    flow(&mut text, &parts, columns);
    let rows = [
        ("release", timing.release_from, &timing.release, timing.release_max_ns),
        ("execution", timing.execution_from, &timing.execution, timing.execution_max_ns),
    ];
    for (name, from, counts, max_ns) in rows {
        let total: u64 = counts.0.iter().map(|count| u64::from(*count)).sum();
        let _ = writeln!(
            text,
            "{name:<10}{total:>9} ticks  p50 {:>8.1}  p99 {:>8.1}  max {:>8.1} us  {}",
            us(quantile_ns(from, counts, 0.5)),
            us(quantile_ns(from, counts, 0.99)),
            us(max_ns),
            bars(counts),
        );
    }
    text
}

/// One line.
#[must_use]
pub fn line(snapshot: &Snapshot) -> String {
    let Snapshot { telemetry, timing, .. } = snapshot;
    format!(
        "{} {} ticks {} misses {} fallbacks {} rejected {} execution p50 {:.1} max {:.1} us release max {:.1} us boots {}",
        name(State::from_code(telemetry.state)),
        name(Cause::from_code(telemetry.cause)),
        telemetry.ticks,
        telemetry.misses,
        telemetry.fallbacks,
        telemetry.rejected_states,
        us(quantile_ns(timing.execution_from, &timing.execution, 0.5)),
        us(timing.execution_max_ns),
        us(timing.release_max_ns),
        timing.boots,
    )
}

fn joints(text: &mut String, snapshot: &Snapshot, labels: &[JointLabel], columns: usize) {
    let last = &snapshot.last;
    let at = |values: &[f32], joint: usize| values.get(joint).copied().unwrap_or(f32::NAN);
    // The limits stand where there is room for them.
    let is_wide = columns >= 118;
    let w = if columns < 84 { 18 } else { 22 };
    let head = format!(
        "{:<w$}{:>9}{:>9}{:>10}{:>9}{:>8}{:>8}         {}",
        "joint",
        "position",
        "velocity",
        "setpoint",
        "torque",
        "kp",
        "kd",
        if is_wide { "  limits" } else { "" }
    );
    let _ = writeln!(text, "{}", head.trim_end());
    for joint in 0..last.joint_position.len() {
        let label = labels.get(joint);
        let name = label.map_or_else(|| joint.to_string(), |label| label.name.clone());
        let limits = label.filter(|_| is_wide).map_or_else(String::new, |label| {
            let [low, high] = label.position_limits;
            format!("{low:.2} to {high:.2}, {:.1}/s, {:.1} N(m)", label.velocity_limit, label.torque_limit)
        });
        let row = format!(
            "{name:<w$.w$}{:>9.3}{:>9.3}{:>10.3}{:>9.3}{:>8.1}{:>8.2}  {:<7}  {limits}",
            at(&last.joint_position, joint),
            at(&last.joint_velocity, joint),
            at(&last.position, joint),
            at(&last.torque, joint),
            at(&last.kp, joint),
            at(&last.kd, joint),
            if last.limited >> joint & 1 != 0 { "limited" } else { "" },
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
}

/// Least time that this share of the counts lies below or in the bin of, ns.
fn quantile_ns(from: u8, counts: &Counts, share: f64) -> u32 {
    let total: u64 = counts.0.iter().map(|count| u64::from(*count)).sum();
    let mut left = (total as f64 * share).ceil() as u64;
    for (bin, count) in (usize::from(from)..).zip(&counts.0) {
        left = left.saturating_sub((*count).into());
        if left == 0 {
            return bin_start_ns(bin);
        }
    }
    0
}

/// A bar per bin, its height by the logarithm of the count.
fn bars(counts: &Counts) -> String {
    const BARS: [char; 9] =
        [' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
    let height = |count: u32| f64::from(count).ln_1p();
    let most = counts.0.iter().map(|count| height(*count)).fold(1.0, f64::max);
    let bar = |count: &u32| BARS.get((height(*count) / most * 8.0).ceil() as usize).copied().unwrap_or('?');
    counts.0.iter().map(bar).collect()
}

fn us(ns: u32) -> f64 {
    f64::from(ns) / 1000.0
}

fn name<T: std::fmt::Debug>(code: Option<T>) -> String {
    code.map_or_else(|| "unknown".into(), |code| format!("{code:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tendon_wire::message::{BlackBoxRecord, Identity, Telemetry};

    fn snapshot() -> Snapshot {
        let values = |x: f32| [x, x + 1.0].into_iter().collect();
        Snapshot {
            identity: Identity { board: "qemu".try_into().unwrap(), ..Identity::default() },
            telemetry: Telemetry { state: 5, cause: 6, misses: 3, ..Telemetry::default() },
            timing: Timing {
                reset_cause: 2,
                boots: 4,
                release_from: 3,
                release: Counts([1, 0, 99].into_iter().collect()),
                release_max_ns: 700,
                ..Timing::default()
            },
            last: BlackBoxRecord {
                joint_position: values(0.25),
                joint_velocity: values(0.5),
                limited: 2,
                ..BlackBoxRecord::default()
            },
        }
    }

    #[test]
    fn the_table_names_state_cause_reset_joints_and_every_counter() {
        let label =
            JointLabel { name: "slide".into(), position_limits: [-1.0, 1.0], ..JointLabel::default() };
        let text = table(&snapshot(), std::slice::from_ref(&label), 120);
        for part in ["Damping", "Overrun", "last by Watchdog", "misses", "slide", "-1.00 to 1.00", "limited"]
        {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        for (name, _) in fields(&Telemetry::default().into()) {
            assert!(["state", "cause"].contains(&name) || text.contains(name), "{name}:\n{text}");
        }
        assert!(!line(&snapshot()).contains('\n'));
        let narrow = table(&snapshot(), &[label], 80);
        assert!(narrow.contains("limited") && !narrow.contains("-1.00 to 1.00"), "{narrow}");
        // Bars of a histogram are cut by the terminal; everything else fits.
        let is_histogram = |line: &str| line.starts_with("release") || line.starts_with("execution");
        let longest =
            narrow.lines().filter(|line| !is_histogram(line)).map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{narrow}");
    }

    #[test]
    fn quantiles_are_the_begins_of_bins() {
        let counts = Counts([1, 0, 99].into_iter().collect());
        assert_eq!(quantile_ns(3, &counts, 0.01), bin_start_ns(3));
        assert_eq!(quantile_ns(3, &counts, 0.5), bin_start_ns(5));
        assert_eq!(quantile_ns(3, &Counts::default(), 0.5), 0);
        assert_eq!(bars(&counts).chars().count(), 3);
    }
}
