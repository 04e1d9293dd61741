//! The same file under the same controls, stepped by MuJoCo and by us: how far joints and base come apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tendon_sim::{Engine, JointCommand, Robot, World};

use crate::Result;
use crate::gym::{Case, driven, load};
use crate::plot::chart;
use crate::table::Row;

/// Controls of a motor or targets of a servo, in the file's units, one row per control period.
type Controls = Vec<Vec<f64>>;

struct Comparison {
    name: &'static str,
    file: PathBuf,
    substeps: usize,
    keyframe: bool,
    start: Vec<(String, f32)>,
    controls: Controls,
}

/// Times at which the table says how far apart the two are, s.
const TIMES_S: [f64; 3] = [0.1, 0.5, 2.0];

pub(crate) fn run() -> Result<Vec<Row>> {
    let mut comparisons = Vec::new();
    let models = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/robots"));
    comparisons.push(push("cart-pole", models.join("cart_pole.xml"), 5, 100, 0.3, &[("hinge", 0.5)])?);
    comparisons.push(push("hopper", crate::peers::gymnasium_files()?.join("hopper.xml"), 4, 250, 0.4, &[])?);
    if let Some(go1) = crate::peers::go1() {
        let home = targets_home(&go1)?;
        let case = |name, controls| Comparison {
            name,
            file: go1.clone(),
            substeps: 5,
            keyframe: true,
            start: Vec::new(),
            controls,
        };
        comparisons.push(case("quadruped standing", vec![home.clone(); 100]));
        comparisons.push(case("quadruped walking", walking(&go1, &home)?));
    }
    let humanoid = models.join("humanoid.xml");
    comparisons.push(Comparison {
        name: "humanoid standing",
        substeps: 5,
        keyframe: true,
        start: Vec::new(),
        controls: vec![targets_home(&humanoid)?; 100],
        file: humanoid,
    });
    let scenes = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench"));
    comparisons.push(push("rolling ball", scenes.join("rolling_ball.xml"), 5, 200, 0.0, &[])?);
    comparisons.push(push("braked disc", scenes.join("braked_disc.xml"), 5, 200, 1.0, &[])?);
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    let requests: Vec<Value> = comparisons.iter().map(Comparison::request).collect::<Result<_>>()?;
    let peers = crate::peers::ask("traces", &json!({ "cases": requests }))?;
    for comparison in &comparisons {
        let robot = load(&comparison.file, Engine::Auto)?;
        let period = f64::from(robot.timestep_s) * comparison.substeps as f64;
        let ours = comparison.ours(&robot);
        let (joint, base) = apart(&ours, &peers[comparison.name]["rows"])?;
        let at = |series: &[f64], time: f64| {
            let count = ((time / period).round() as usize).min(series.len());
            series[..count].iter().copied().fold(0.0, f64::max)
        };
        for (metric, unit, series) in
            [("largest joint difference", "rad or m", &joint), ("base position difference", "m", &base)]
        {
            if series.iter().all(|v| *v == 0.0) {
                continue;
            }
            let note = TIMES_S.map(|t| format!("{:.4} by {t} s", at(series, t)));
            rows.push(Row {
                case: comparison.name.into(),
                metric,
                unit,
                tendon: at(series, TIMES_S[1]),
                peers: Vec::new(),
                goal: "small beside the motion",
                note: note.join(", "),
            });
        }
        let over_time =
            |series: &[f64]| (1..).zip(series).map(|(i, &v)| (f64::from(i) * period, v)).collect();
        lines.push((comparison.name, over_time(&joint), over_time(&base)));
    }
    write_plots(&lines)?;
    Ok(rows)
}

type Series = Vec<(f64, f64)>;

fn write_plots(lines: &[(&'static str, Series, Series)]) -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fidelity"));
    std::fs::create_dir_all(folder)?;
    for (name, joint, base) in lines {
        let mut series = vec![("largest joint difference, rad or m", joint.clone())];
        if base.iter().any(|p| p.1 > 0.0) {
            series.push(("base position difference, m", base.clone()));
        }
        let svg = chart(&format!("{name}: tendon beside MuJoCo"), "time, s", "difference", &series);
        std::fs::write(folder.join(format!("{}.svg", name.replace(' ', "_"))), svg)?;
    }
    println!("plots: {}", folder.display());
    Ok(())
}

/// For the rows of `bench sim`: joints and base after half a second of gentle controls.
pub(crate) fn drift(case: &Case) -> Result<String> {
    let comparison = if case.name == "quadruped" {
        let home = targets_home(&case.file)?;
        let controls = walking(&case.file, &home)?;
        Comparison {
            name: case.name,
            file: case.file.clone(),
            substeps: case.substeps,
            keyframe: true,
            start: Vec::new(),
            controls: controls[..25].to_vec(),
        }
    } else if case.name == "humanoid" {
        let controls = vec![targets_home(&case.file)?; 25];
        let (file, substeps) = (case.file.clone(), case.substeps);
        Comparison { name: case.name, file, substeps, keyframe: true, start: Vec::new(), controls }
    } else {
        let robot = load(&case.file, Engine::Reduced)?;
        let periods = (0.5 / (f64::from(robot.timestep_s) * case.substeps as f64)).round() as usize;
        push(case.name, case.file.clone(), case.substeps, periods, 0.4, &[])?
    };
    let robot = load(&comparison.file, Engine::Reduced)?;
    let peers = crate::peers::ask("traces", &json!({ "cases": [comparison.request()?] }))?;
    let (joint, base) = apart(&comparison.ours(&robot), &peers[case.name]["rows"])?;
    let last = |series: &[f64]| series.last().copied().unwrap_or(f64::NAN);
    let step = peers[case.name]["step_us"].as_f64().unwrap_or(f64::NAN);
    Ok(format!("joints {:.3}, base {:.3} m (MuJoCo {step:.0} us per step)", last(&joint), last(&base)))
}

/// Motors pushed by sines of `share` of their range.
fn push(
    name: &'static str,
    file: PathBuf,
    substeps: usize,
    periods: usize,
    share: f64,
    start: &[(&str, f32)],
) -> Result<Comparison> {
    let robot = load(&file, Engine::Reduced)?;
    let motors = driven(&robot);
    let period = f64::from(robot.timestep_s) * substeps as f64;
    let controls = (0..periods)
        .map(|step| {
            let time = step as f64 * period;
            (0..motors.len()).map(|i| share * (6.0 * time + i as f64).sin()).collect()
        })
        .collect();
    let start = start.iter().map(|&(joint, q)| (joint.to_owned(), q)).collect();
    Ok(Comparison { name, file, substeps, keyframe: false, start, controls })
}

/// The keyframe's positions of all joints with a motor.
fn targets_home(file: &Path) -> Result<Vec<f64>> {
    let robot = load(file, Engine::Reduced)?;
    let home = robot.keyframe("home").ok_or("no keyframe home")?;
    Ok(driven(&robot).into_iter().map(|joint| f64::from(home.joint_position[joint])).collect())
}

/// The recorded actions of the Go1 at 1 m/s: target = home + 0.5 action.
fn walking(go1: &Path, home: &[f64]) -> Result<Controls> {
    let trace = std::fs::read_to_string(go1.with_file_name("go1_trace_forward.csv"))?;
    let mut controls = Vec::new();
    for line in trace.lines() {
        let values: Vec<f64> = line.split(',').filter_map(|v| v.trim().parse().ok()).collect();
        if values.len() >= 60 {
            let action = &values[values.len() - 12..];
            controls.push(home.iter().zip(action).map(|(q, a)| q + 0.5 * a).collect());
        }
    }
    controls.truncate(100);
    if controls.len() < 100 {
        Err("the trace has fewer than 100 rows of 60 numbers".into())
    } else {
        Ok(controls)
    }
}

impl Comparison {
    fn request(&self) -> Result<Value> {
        let robot = load(&self.file, Engine::Reduced)?;
        // A motor's control is a share of its range here, its range in the file; a servo's is its target.
        let names: Vec<&str> = robot.joints.iter().map(|j| j.name.as_str()).collect();
        let start: serde_json::Map<String, Value> =
            self.start.iter().map(|(name, q)| (name.clone(), (*q).into())).collect();
        let motors: Vec<&str> = driven(&robot).into_iter().map(|joint| names[joint]).collect();
        Ok(
            json!({"name": self.name, "driven": motors, "file": self.file, "substeps": self.substeps, "keyframe": self.keyframe,
            "start": start, "joints": names, "controls": self.controls,
            "scaled": !self.keyframe}),
        )
    }

    /// Base position and joints after every control period.
    fn ours(&self, robot: &Arc<Robot>) -> Vec<([f32; 3], Vec<f32>)> {
        let mut world = World::new(Arc::clone(robot));
        if let Some(keyframe) = robot.keyframes.first().filter(|_| self.keyframe) {
            world.apply_keyframe(keyframe);
        }
        let mut position: Vec<f32> = (0..robot.joints.len()).map(|i| world.joint_position(i)).collect();
        for (name, q) in &self.start {
            if let Some(joint) = robot.joint(name) {
                position[joint] = *q;
            }
        }
        if !self.start.is_empty() {
            world.set_joint_state(&position, &vec![0.0; position.len()]);
        }
        let motors = driven(robot);
        let mut commands = vec![JointCommand::default(); robot.joints.len()];
        let mut rows = Vec::new();
        for controls in &self.controls {
            for (&joint, &control) in motors.iter().zip(controls) {
                let Some(motor) = robot.joints[joint].actuator else { continue };
                let is_servo = motor.kp > 0.0;
                let range = robot.joints[joint].range.unwrap_or([f32::MIN, f32::MAX]);
                commands[joint] = JointCommand {
                    position: if is_servo { (control as f32).clamp(range[0], range[1]) } else { 0.0 },
                    kp: motor.kp,
                    kd: motor.kd,
                    torque: if is_servo { 0.0 } else { control as f32 * motor.torque_limit },
                    torque_limit: motor.torque_limit,
                    ..JointCommand::default()
                };
            }
            world.step(&commands, self.substeps);
            let joints = (0..robot.joints.len()).map(|i| world.joint_position(i)).collect();
            rows.push((world.base_pose().0, joints));
        }
        rows
    }
}

/// Per control period: the largest difference of a joint, and the distance between the bases.
fn apart(ours: &[([f32; 3], Vec<f32>)], theirs: &Value) -> Result<(Vec<f64>, Vec<f64>)> {
    let theirs = theirs.as_array().ok_or("no trace")?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let mut joint = Vec::new();
    let mut base = Vec::new();
    for ((position, joints), row) in ours.iter().zip(theirs) {
        let difference = |i: usize, q: &f32| (number(&row[1][i]) - f64::from(*q)).abs();
        joint.push(joints.iter().enumerate().map(|(i, q)| difference(i, q)).fold(0.0, f64::max));
        let squares = position.iter().enumerate().map(|(i, p)| (number(&row[0][i]) - f64::from(*p)).powi(2));
        base.push(squares.sum::<f64>().sqrt());
    }
    Ok((joint, base))
}
