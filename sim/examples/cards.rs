//! Writes docs/tasks.md and a picture of every task after half a second of small random actions:
//! `cargo run --release -p tendon-sim --example cards -- docs`.
#![allow(clippy::unwrap_used, reason = "an example that stops at the first fault")]

use tendon_sim::tasks::{TASKS, cards};
use tendon_sim::{Environment, Rng, render};

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
}
