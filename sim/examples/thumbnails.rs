//! Pictures of every task after one second of random actions: `cargo run --example thumbnails -- FOLDER`.
#![allow(clippy::unwrap_used, reason = "an example that stops at the first fault")]

use tendon_sim::tasks::TASKS;
use tendon_sim::{Environment, Rng, render};

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    for task in TASKS {
        let mut env = task.make().unwrap();
        let mut observation = vec![0.0; env.observation_len()];
        env.reset(1, &mut observation);
        let mut rng = Rng::new(1, 2);
        for _ in 0..25 {
            let action: Vec<f32> = (0..env.action_len()).map(|_| rng.uniform(-1.0, 1.0)).collect();
            env.step(&action, &mut observation);
        }
        let start = std::time::Instant::now();
        let image = render(&env.scene(), &env.camera([480, 360]));
        println!("{}: {:?}", task.name, start.elapsed());
        image.write_png(format!("{folder}/{}.png", task.name)).unwrap();
    }
}
