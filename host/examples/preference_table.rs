//! Prints the table "true against learned reward" of one task over several seeds:
//! `cargo run --release -p tendon --example preference_table -- cart-pole 1 5 [CONFIG.toml]`.

use std::ops::ControlFlow;
use std::time::Instant;

use tendon_learn::demo::demo_learning;
use tendon_learn::preference::PreferenceConfig;
use tendon_learn::{Progress, Stage};
use tendon_sim::Environment;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, first, last, rest @ ..] = &arguments[..] else {
        return Err("usage: preference_table TASK FIRST_SEED LAST_SEED [CONFIG.toml]".into());
    };
    let task = tendon_sim::tasks::find(task)?;
    task.make()?;
    let config: PreferenceConfig = match rest.first() {
        Some(file) => toml::from_str(&std::fs::read_to_string(file)?)?,
        None => PreferenceConfig::default(),
    };
    let make = || -> Box<dyn Environment> { Box::new(task.make().expect("the task has been made above")) };
    println!(
        "seed  random  true (95%)             learned (95%)          improvement  success  true s  learned s"
    );
    for seed in first.parse::<u64>()?..=last.parse()? {
        let mut stage = (Stage::RandomBaseline, Instant::now());
        let mut seconds = Vec::new();
        let mut on_progress = |progress: &Progress| {
            if progress.stage != stage.0 {
                seconds.push(stage.1.elapsed().as_secs_f64());
                stage = (progress.stage, Instant::now());
            }
            if let Some(row) = progress.row.as_ref().filter(|row| row.iteration % 10 == 9) {
                eprintln!(
                    "  {:?} {:>7} steps: return {:?} length {:?} reward {:.3} kl {:.4} entropy {:.2} rate {:.1e} labels {} accuracy {:?} {:.0} steps/s",
                    progress.stage,
                    row.steps,
                    row.episode_return,
                    row.episode_length,
                    row.reward_mean,
                    row.kl,
                    row.entropy,
                    row.learning_rate,
                    row.labels,
                    row.label_accuracy,
                    row.steps_per_s
                );
            }
            ControlFlow::Continue(())
        };
        let outcome = demo_learning(&config, &make, 50, seed, None, &mut on_progress)?;
        let show = |e: &tendon_learn::demo::Evaluation| {
            e.interval.map_or_else(String::new, |i| format!("{:.1} ({:.1}..{:.1})", i.mean, i.low, i.high))
        };
        println!(
            "{seed:>4}  {:>6.1}  {:<21}  {:<21}  {:>11.3}  {:>7.2}  {:>6.1}  {:>9.1}",
            outcome.random.interval.map_or(f64::NAN, |i| i.mean),
            show(&outcome.true_reward),
            show(&outcome.learned_reward),
            outcome.normalised_improvement,
            outcome.learned_reward.success_rate,
            seconds.get(1).copied().unwrap_or_default(),
            seconds.get(2).copied().unwrap_or_default(),
        );
    }
    Ok(())
}
