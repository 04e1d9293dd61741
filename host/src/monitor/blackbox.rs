//! The black box as a file for other tools, and as plots.

use super::JointLabel;
use crate::link::{LinkError, Session, Transport};
use crate::report::{Line, Page, line_plot};
use std::fmt::Write;
use tendon_runtime::{Cause, State};
use tendon_wire::message::BlackBoxRecord;

/// Every record, oldest first. `progress`: records read and records that there are. What is damaged is left out.
///
/// # Errors
/// No answer.
pub fn fetch<T: Transport>(
    session: &mut Session<T>,
    mut progress: impl FnMut(u32, u32),
) -> Result<Vec<BlackBoxRecord>, LinkError> {
    let count = session.black_box(u32::MAX)?.count;
    let mut records = Vec::new();
    for index in 0..count {
        let record = session.black_box(index)?;
        // A damaged record answers as the last tick, whose index is the count.
        if record.index == index {
            records.push(record);
        }
        progress(index + 1, count);
    }
    Ok(records)
}

/// A table with a column per joint and quantity.
#[must_use]
pub fn csv(records: &[BlackBoxRecord], labels: &[JointLabel]) -> String {
    let joints = records.iter().map(|record| record.joint_position.len()).max().unwrap_or(0);
    let mut text =
        "boot,tick,time_us,sequence,state,cause,late,limited,release_ns,execution_ns,qw,qx,qy,qz,wx,wy,wz"
            .to_owned();
    for joint in 0..joints {
        let name = labels.get(joint).map_or_else(|| format!("joint{joint}"), |label| label.name.clone());
        for quantity in ["position", "velocity", "setpoint", "torque", "kp", "kd"] {
            let _ = write!(text, ",{}_{quantity}", name.replace([',', '"', '\n'], "_"));
        }
    }
    text.push('\n');
    for record in records {
        let code = |name: Option<String>| name.unwrap_or_else(|| "unknown".into());
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{}",
            record.boot,
            record.tick,
            record.time_us,
            record.sequence,
            code(State::from_code(record.state).map(|state| format!("{state:?}"))),
            code(Cause::from_code(record.cause).map(|cause| format!("{cause:?}"))),
            u8::from(record.late),
            record.limited,
            record.release_ns,
            record.execution_ns,
        );
        for value in record.base_orientation.iter().chain(&record.base_angular_velocity) {
            let _ = write!(text, ",{value}");
        }
        for joint in 0..joints {
            let values = [
                &record.joint_position,
                &record.joint_velocity,
                &record.position,
                &record.torque,
                &record.kp,
                &record.kd,
            ];
            for values in values {
                // Nothing was measured, or nothing commanded.
                let value = values.get(joint).map_or_else(String::new, ToString::to_string);
                let _ = write!(text, ",{value}");
            }
        }
        text.push('\n');
    }
    text
}

/// A page with plots over the seconds before the last record of the newest start: state, positions and setpoints,
/// velocities, times of the ticks.
#[must_use]
pub fn page(records: &[BlackBoxRecord], labels: &[JointLabel]) -> String {
    let boot = records.last().map_or(0, |record| record.boot);
    let records: Vec<&BlackBoxRecord> = records.iter().filter(|record| record.boot == boot).collect();
    let end = records.last().map_or(0, |record| record.time_us);
    let seconds = |record: &BlackBoxRecord| -(end.saturating_sub(record.time_us) as f64) * 1e-6;
    let joints = records.iter().map(|record| record.joint_position.len()).max().unwrap_or(0);
    let name =
        |joint: usize| labels.get(joint).map_or_else(|| format!("joint {joint}"), |label| label.name.clone());
    let line = |name: String, value: &dyn Fn(&BlackBoxRecord) -> Option<f64>| Line {
        name,
        points: records.iter().filter_map(|record| Some((seconds(record), value(record)?))).collect(),
    };
    let of_joints = |values: &dyn Fn(&BlackBoxRecord, usize) -> Option<f64>| -> Vec<Line> {
        (0..joints).map(|joint| line(name(joint), &|record| values(record, joint))).collect()
    };
    let at = |values: &[f32], joint: usize| values.get(joint).map(|value| f64::from(*value));
    let plots = [
        (
            "state (4 Running, 5 Damping, 6 Fault) and cause",
            vec![
                line("state".into(), &|record| Some(record.state.into())),
                line("cause".into(), &|record| Some(record.cause.into())),
            ],
        ),
        ("measured position, rad or m", of_joints(&|record, joint| at(&record.joint_position, joint))),
        ("position setpoint, rad or m", of_joints(&|record, joint| at(&record.position, joint))),
        ("measured velocity, rad/s or m/s", of_joints(&|record, joint| at(&record.joint_velocity, joint))),
        (
            "time of the tick, us",
            vec![
                line("execution".into(), &|record| Some(f64::from(record.execution_ns) / 1000.0)),
                line("release".into(), &|record| Some(f64::from(record.release_ns) / 1000.0)),
            ],
        ),
    ];
    let mut page = Page::new("Black box");
    page.text(&format!("start {boot}, {} records, the last at {end} us", records.len()));
    for (title, lines) in plots {
        page.plot(&line_plot(title, "s before the last record", &lines));
    }
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<BlackBoxRecord> {
        let values = |x: f32| [x, -x].into_iter().collect();
        (0..3u8)
            .map(|tick| BlackBoxRecord {
                boot: 2,
                tick: tick.into(),
                time_us: u64::from(tick) * 20_000,
                state: 4 + tick,
                late: tick == 1,
                joint_position: values(f32::from(tick)),
                position: values(0.5),
                ..BlackBoxRecord::default()
            })
            .collect()
    }

    #[test]
    fn every_row_of_the_file_has_the_columns_of_its_head() {
        let label = JointLabel { name: "a,b".into(), ..JointLabel::default() };
        let text = csv(&records(), &[label]);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [17 + 12; 4], "{text}");
        assert!(text.contains("a_b_position") && text.contains("joint1_kd"));
        assert!(text.lines().nth(2).unwrap().starts_with("2,1,20000,0,Damping,None,1,"), "{text}");
    }

    #[test]
    fn plots_the_newest_start_alone() {
        let mut records = records();
        records[0].boot = 1;
        let html = page(&records, &[]);
        assert_eq!(html.matches("<polyline").count(), 10, "{html}");
        let first = html.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(first.split(' ').count(), 2);
        assert!(page(&[], &[]).contains("0 records"));
    }
}
