//! Environment steps per second: `cargo run --release --example speed`.
#![allow(clippy::unwrap_used, reason = "an example that stops at the first fault")]

use std::time::Instant;

use tendon_sim::tasks::TASKS;
use tendon_sim::{Rng, VecEnv};

fn main() {
    println!("task | threads | steps/s | us per step and core");
    for task in TASKS {
        for threads in [1, 2] {
            let n = 32;
            let environments = (0..n).map(|_| task.make().unwrap()).collect();
            let mut envs = VecEnv::new(environments, threads, 1).unwrap();
            let mut rng = Rng::new(1, 2);
            let mut actions = vec![0.0; n * envs.action_len()];
            let start = Instant::now();
            let steps = 500;
            for _ in 0..steps {
                actions.fill_with(|| rng.uniform(-1.0, 1.0));
                envs.step(&actions);
            }
            let rate = (steps * n) as f64 / start.elapsed().as_secs_f64();
            println!("{} | {threads} | {rate:.0} | {:.1}", task.name, 1e6 * threads as f64 / rate);
        }
    }
}
