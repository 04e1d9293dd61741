//! What a robot has to show before it gets torque: findings, each with what to do next.

mod bus;
mod link;
mod person;
mod ports;

pub use bus::{examine_bus, measure_calibration};
pub use link::examine_controller;
pub use person::{Moved, ask_person};
pub use ports::examine_ports;

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Could not be checked here.
    Skip,
    /// Works, but look at it.
    Warn,
    /// No torque before this is mended.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do next; empty where nothing is to be done.
    pub next: String,
}

impl Finding {
    fn new(
        outcome: Outcome,
        check: impl Into<String>,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), outcome, found: found.into(), next: next.into() }
    }

    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, check, found, "")
    }

    fn skip(check: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Outcome::Skip, check, found, next)
    }

    fn warn(check: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Outcome::Warn, check, found, next)
    }

    /// A check that failed.
    #[must_use]
    pub fn fail(check: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Outcome::Fail, check, found, next)
    }
}

/// Whether none failed.
#[must_use]
pub fn is_healthy(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.outcome != Outcome::Fail)
}

/// Positions that a contract's limits and default pose are held against.
///
/// `at_default`: a person says that the robot stands in its default pose, so a distance from it is an error of the
/// calibration. `positions`: rad, `names`, `limits`, `defaults` in the same order.
fn examine_pose(
    names: &[&str],
    limits: &[[f32; 2]],
    defaults: &[f32],
    positions: &[f32],
    tolerance: f32,
    at_default: bool,
) -> Vec<Finding> {
    let joints = || names.iter().zip(limits).zip(defaults).zip(positions);
    let outside: Vec<String> = joints()
        .filter(|(((_, limits), _), q)| !(limits[0] - ROOM..=limits[1] + ROOM).contains(*q))
        .map(|(((name, limits), _), q)| format!("{name} {q:.3} of {:.3}..{:.3}", limits[0], limits[1]))
        .collect();
    let mut findings = vec![if outside.is_empty() {
        Finding::ok("positions within limits", format!("{} joints, to {ROOM} rad", positions.len()))
    } else {
        Finding::fail(
            "positions within limits",
            outside.join("; "),
            "zero offset or sign of these joints is wrong: write a new calibration, or move them by hand into range",
        )
    }];
    let allowed = if at_default { DRIFT } else { tolerance };
    let off: Vec<String> = joints()
        .filter(|((_, default), q)| (*q - **default).abs() > allowed)
        .map(|(((name, _), default), q)| format!("{name} {:+.3} rad", q - default))
        .collect();
    findings.push(match (off.is_empty(), at_default) {
        (true, true) => Finding::ok("calibration drift", format!("default pose met to {DRIFT} rad")),
        (true, false) => Finding::ok("near the default pose", format!("every joint within {tolerance} rad")),
        (false, true) => Finding::fail(
            "calibration drift",
            off.join("; "),
            "a horn slipped or the file is another robot's: write a new calibration in the default pose",
        ),
        (false, false) => Finding::warn(
            "near the default pose",
            off.join("; "),
            "arming moves these joints there; put the robot into its default pose and say --at-default to check for drift",
        ),
    });
    findings
}

/// Room beyond limits that encoders may read, rad.
const ROOM: f32 = 0.05;
/// Distance from the default pose, set by hand, that is no drift, rad.
const DRIFT: f32 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(q: [f32; 2], at_default: bool) -> Vec<Outcome> {
        examine_pose(&["a", "b"], &[[-1.0, 1.0]; 2], &[0.0, 0.5], &q, 0.2, at_default)
            .iter()
            .map(|finding| finding.outcome)
            .collect()
    }

    #[test]
    fn a_pose_is_good_off_drifted_or_out_of_range() {
        assert_eq!(outcomes([0.05, 0.45], true), [Outcome::Ok, Outcome::Ok]);
        assert_eq!(outcomes([0.0, 0.9], false), [Outcome::Ok, Outcome::Warn]);
        assert_eq!(outcomes([0.0, 0.65], true), [Outcome::Ok, Outcome::Fail]);
        assert_eq!(outcomes([-1.2, 0.5], false), [Outcome::Fail, Outcome::Warn]);
        assert_eq!(outcomes([f32::NAN, 0.5], false)[0], Outcome::Fail);
    }
}
