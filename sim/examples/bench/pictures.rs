//! Frames per second of the software camera at 64x64, beside MuJoCo's off-screen renderer on the same processor.

use std::time::{Duration, Instant};

use serde_json::json;
use tendon_sim::{Camera, Engine, World, render};

use crate::Result;
use crate::gym::load;
use crate::table::Row;

/// Robot, point looked at and distance.
const CASES: [(&str, [f32; 3], f32); 3] =
    [("reacher", [0.1, 0.0, 0.0], 0.7), ("hopper", [0.0, 0.0, 0.8], 3.5), ("humanoid", [0.0, 0.0, 0.9], 4.0)];

fn camera((_, target, distance): (&str, [f32; 3], f32), size: usize) -> Camera {
    Camera {
        field_of_view: std::f32::consts::FRAC_PI_4,
        ..Camera::orbit(target, distance, -std::f32::consts::FRAC_PI_2, 0.35, [size, size])
    }
}

fn frames_per_s(world: &World, camera: &Camera) -> f64 {
    let (start, mut frames) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(4) {
        std::hint::black_box(render(&world.scene(), camera));
        frames += 1;
    }
    f64::from(frames) / start.elapsed().as_secs_f64()
}

/// One case without its peer: what a profiler is pointed at.
pub(crate) fn frames(name: &str) -> Result<()> {
    let case = CASES.into_iter().find(|case| case.0 == name).ok_or("no such case")?;
    let file = crate::peers::gymnasium_files()?.join(format!("{name}.xml"));
    let world = World::new(load(&file, Engine::Auto)?);
    println!(
        "{name}: {:.0} frames/s of {} shapes",
        frames_per_s(&world, &camera(case, 64)),
        world.scene().shapes.len()
    );
    Ok(())
}

pub(crate) fn run() -> Result<Vec<Row>> {
    let files = crate::peers::gymnasium_files()?;
    let file = |name: &str| files.join(format!("{name}.xml"));
    let request: Vec<_> = CASES
        .iter()
        .map(|(name, target, distance)| {
            json!({"name": name, "file": file(name), "target": target, "distance": distance})
        })
        .collect();
    let peers = crate::peers::ask("render", &json!({ "cases": request }))?;
    let folder = std::path::Path::new("target/pictures");
    std::fs::create_dir_all(folder)?;
    let mut rows = Vec::new();
    for (name, target, distance) in CASES {
        let world = World::new(load(&file(name), Engine::Auto)?);
        let tendon = frames_per_s(&world, &camera((name, target, distance), 64));
        render(&world.scene(), &camera((name, target, distance), 480))
            .write_png(folder.join(format!("{name}.png")))?;
        rows.push(Row {
            case: format!("{name} 64x64"),
            metric: "frames/s",
            unit: "frames/s",
            tendon,
            peers: vec![("mujoco".into(), peers[name].as_f64().unwrap_or(f64::NAN))],
            goal: ">= 10x",
            note: "colour, depth and segmentation with shadows, all cores as MuJoCo's driver".into(),
        });
    }
    println!("pictures: {}", folder.display());
    Ok(rows)
}
