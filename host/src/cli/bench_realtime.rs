//! `bench realtime`: is the loop of `tendon run --realtime` on time on this machine?

use super::robot::{drive, report, rows};
use super::run::contract_of;
use super::write_json;
use crate::robot::{BusKind, Priority, Settings, Simulated, calibration_for, launch_simulated, robot_order};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::{ContractChoice, Options, compile};

const CONTRACT: &str = include_str!("../../../models/contracts/servo_arm.toml");
const PERIOD: &str = "control_period_s = 0.02";

/// A six-joint arm of simulated Dynamixels at 4 Mbaud in a process of its own, a policy of 24-64-64-6 neurons with
/// random weights; once on a quiet machine, once beside `load` threads per core that compute, allocate and write.
pub(super) fn realtime(seconds: f64, rate: u32, load: usize, json: Option<&PathBuf>) -> Result<()> {
    ensure!((1..=1000).contains(&rate), "--rate {rate}: expected 1 to 1000 Hz");
    let text = CONTRACT.replace(PERIOD, &format!("control_period_s = {}", 1.0 / f64::from(rate)));
    let contract = ContractChoice::Toml { file: "models/contracts/servo_arm.toml", text: &text };
    let onnx = mlp(&[24, 64, 64, 6], Hidden::Tanh, 5);
    let image = compile(&onnx, &Options { contract, ..Options::default() })?.image;
    let folder = std::env::temp_dir().join(format!("tendon-realtime-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join("policy.tnd");
    super::write_file(&file, &image)?;
    let mut all = Vec::new();
    for (case, threads) in [("quiet", 0), ("load", load)] {
        println!("\n{case}:");
        let stop = AtomicBool::new(false);
        let summary = std::thread::scope(|scope| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            for index in 0..threads * cores {
                let (stop, file) = (&stop, folder.join(format!("load-{index}")));
                scope.spawn(move || burden(stop, &file));
            }
            let summary = one(&image, &file, seconds);
            stop.store(true, Relaxed);
            summary
        })?;
        let (contract, _) = contract_of(&image)?;
        let names: Vec<&str> = robot_order(&contract).into_iter().map(|joint| joint.name.as_str()).collect();
        report(&summary, &names);
        all.extend(rows(case, &summary));
    }
    let _ = std::fs::remove_dir_all(&folder);
    write_json(json, &all)
}

fn one(
    image: &tendon_runtime::AlignedBytes,
    file: &std::path::Path,
    seconds: f64,
) -> Result<crate::robot::Summary> {
    let (contract, hash) = contract_of(image)?;
    let program = std::env::current_exe().context("this program's own path")?;
    let how = Simulated { seed: 1, real_time: true, ..Simulated::default() };
    let robot = launch_simulated(&program, file, BusKind::Dynamixel, &how)?;
    let settings = Settings {
        rate_hz: None,
        seconds: Some(seconds),
        command: Vec::new(),
        profile: None,
        priority: Some(Priority::default()),
        without_priority: true,
    };
    drive(robot.port(), &calibration_for(&contract, BusKind::Dynamixel), image, &contract, hash, &settings)
}

/// Computes, allocates and writes until it is told to stop.
fn burden(stop: &AtomicBool, file: &std::path::Path) {
    let mut state = 1u64;
    while !stop.load(Relaxed) {
        let mut values = vec![0u64; 1 << 17];
        for value in &mut values {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *value = state;
        }
        values.sort_unstable();
        let _ = std::fs::write(file, bytemuck::cast_slice::<u64, u8>(&values));
    }
}
