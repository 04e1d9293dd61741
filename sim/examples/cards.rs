//! Writes docs/tasks.md and a picture of every task after half a second of small random actions:
//! `cargo run --release -p tendon-sim --example cards -- docs`.
#![allow(clippy::unwrap_used, reason = "an example that stops at the first fault")]

use std::path::Path;

use tendon_sim::tasks::{RANDOMISED_CAMERA, TASKS, TaskDefinition, cards, find};
use tendon_sim::{Environment, Image, Rng, render};

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "docs".into());
    std::fs::create_dir_all(format!("{folder}/tasks")).unwrap();
    std::fs::write(format!("{folder}/tasks.md"), cards().unwrap()).unwrap();
    for task in TASKS {
        let mut env = task.make().unwrap();
        let mut observation = vec![0.0; env.observation_len()];
        env.reset(1, &mut observation);
        let mut rng = Rng::new(1, 2);
        for _ in 0..25 {
            let action: Vec<f32> = (0..env.action_len()).map(|_| rng.uniform(-0.2, 0.2)).collect();
            env.step(&action, &mut observation);
        }
        let image = render(&env.scene(), &env.camera([320, 240]));
        image.write_png(format!("{folder}/tasks/{}.png", task.name)).unwrap();
    }
    randomised().write_png(format!("{folder}/tasks/randomised.png")).unwrap();
}

/// Eight episodes as a randomised camera sees them, four beside each other.
fn randomised() -> Image {
    let info = find("planar-sweep").unwrap();
    let text = format!("{}\n{RANDOMISED_CAMERA}", info.text);
    let task = TaskDefinition::from_text(Path::new(info.file), &text, info.robot_file, info.robot).unwrap();
    let mut env = task.make().unwrap();
    let mut sheet = Image {
        width: 640,
        height: 320,
        rgb: vec![0; 640 * 320 * 3],
        depth: Vec::new(),
        segmentation: Vec::new(),
    };
    for place in 0..8 {
        env.reset(place as u64, &mut vec![0.0; env.observation_len()]);
        let mut camera = env.observed_camera().unwrap();
        (camera.width, camera.height) = (160, 160);
        let image = render(&env.scene(), &camera);
        for (row, line) in image.rgb.chunks_exact(160 * 3).enumerate() {
            let at = 3 * (640 * (160 * (place / 4) + row) + 160 * (place % 4));
            sheet.rgb[at..at + line.len()].copy_from_slice(line);
        }
    }
    sheet
}
