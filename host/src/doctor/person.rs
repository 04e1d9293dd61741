//! A person moves one joint at a time; the encoders say which servo that was and which way it turned.

use super::Finding;
use std::io::{BufRead, Write};

/// Motion that counts, rad: more than backlash, less than anybody does on purpose.
const MOVED: f32 = 0.1;

/// What a person's moving one joint did to the readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// Joint that the person was asked to move.
    pub asked: usize,
    /// Joint that moved most.
    pub index: usize,
    /// By how much, rad.
    pub by: f32,
}

/// Asks a person to move each joint in its positive direction. `read`: positions of all joints, torque off.
/// Returns the findings, and the motions that were clear.
///
/// # Errors
/// Of `read`, or of the terminal.
pub fn ask_person<E: From<std::io::Error>>(
    names: &[&str],
    mut read: impl FnMut() -> Result<Vec<f32>, E>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(Vec<Finding>, Vec<Moved>), E> {
    let (mut findings, mut motions) = (Vec::new(), Vec::new());
    for (asked, name) in names.iter().enumerate() {
        let check = format!("moving {name} by hand");
        let before = read()?;
        write!(
            output,
            "Torque is off. Move {name} by about 20 degrees in its positive direction, hold it there and press Enter (s: skip, q: stop): "
        )?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || line.trim() == "q" {
            findings.push(Finding::skip(check, "stopped here", "run it again for the joints that are left"));
            break;
        }
        if line.trim() == "s" {
            findings.push(Finding::skip(check, "skipped", ""));
            continue;
        }
        let after = read()?;
        let by = |index: usize| after.get(index).zip(before.get(index)).map_or(0.0, |(to, from)| to - from);
        let most = (0..names.len()).max_by(|&a, &b| by(a).abs().total_cmp(&by(b).abs()));
        let Some(index) = most.filter(|&index| by(index).abs() >= MOVED) else {
            findings.push(Finding::fail(
                check,
                format!("no joint moved by {MOVED} rad"),
                "is this joint's servo on this bus, and its horn tight? Try again with a larger motion",
            ));
            continue;
        };
        let also: Vec<&str> = (0..names.len())
            .filter(|&other| other != index && by(other).abs() >= MOVED)
            .filter_map(|other| names.get(other).copied())
            .collect();
        let moved = Moved { asked, index, by: by(index) };
        let found = format!("{} by {:+.2} rad", names.get(index).unwrap_or(&"?"), moved.by);
        findings.push(match (index == asked, moved.by > 0.0, also.is_empty()) {
            (false, ..) => {
                Finding::fail(check, found, "order of the joints: exchange the ids in the calibration")
            }
            (true, false, _) => {
                Finding::fail(check, found, "sign: turn this joint's sign in the calibration")
            }
            (true, true, false) => Finding::warn(
                check,
                format!("{found}, and also {}", also.join(", ")),
                "hold the other joints still, or look for a coupling",
            ),
            (true, true, true) => Finding::ok(check, found),
        });
        if also.is_empty() {
            motions.push(moved);
        }
    }
    Ok((findings, motions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    /// A person who moves what `really` says at each Enter; every question costs two readings.
    fn ask(really: &[&[(usize, f32)]], typed: &str) -> (Vec<Finding>, Vec<Moved>) {
        let mut positions = vec![0.0; 3];
        let mut reading = 0;
        let read = || {
            if reading % 2 == 1 {
                for &(joint, by) in really[reading / 2] {
                    positions[joint] += by;
                }
            }
            reading += 1;
            Ok::<_, std::io::Error>(positions.clone())
        };
        let mut out = Vec::new();
        ask_person(&["hip", "knee", "foot"], read, &mut typed.as_bytes(), &mut out).unwrap()
    }

    #[test]
    fn order_sign_and_silence_are_told_apart() {
        let (findings, motions) = ask(&[&[(0, 0.3)], &[(2, 0.4)], &[(2, -0.3)]], "\n\n\n");
        let outcomes: Vec<_> =
            findings.iter().map(|f| (f.outcome, f.next.split(':').next().unwrap())).collect();
        assert_eq!(
            outcomes,
            [(Outcome::Ok, ""), (Outcome::Fail, "order of the joints"), (Outcome::Fail, "sign")]
        );
        assert_eq!(motions[1], Moved { asked: 1, index: 2, by: 0.4 });
        let (findings, motions) = ask(&[&[(0, 0.05)], &[(1, 0.3), (0, 0.2)], &[(2, 0.3)]], "\n\n\n");
        let outcomes: Vec<_> = findings.iter().map(|f| f.outcome).collect();
        assert_eq!((outcomes, motions.len()), (vec![Outcome::Fail, Outcome::Warn, Outcome::Ok], 1));
    }

    #[test]
    fn a_person_may_skip_and_stop_and_the_end_of_the_input_stops() {
        for typed in ["s\nq\n", "s\n"] {
            let mut reading = 0;
            let read = || {
                reading += 1;
                Ok::<_, std::io::Error>(vec![0.0; 3])
            };
            let mut out = Vec::new();
            let (findings, _) =
                ask_person(&["hip", "knee", "foot"], read, &mut typed.as_bytes(), &mut out).unwrap();
            assert!(findings.len() == 2 && findings.iter().all(|f| f.outcome == Outcome::Skip));
        }
    }
}
