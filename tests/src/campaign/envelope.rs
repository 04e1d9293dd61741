//! The envelope against its oracle, and broken sensors and motors in closed loop.

use super::world::cart_pole;
use super::{Campaign, Run};
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use tendon::faults::{Fault, Outcome, Plant, TaskPlant, WalkPlant, run as closed_loop};
use tendon::link::{Session, with_in_process};
use tendon_compiler::{ContractChoice, Manifest, Options, compile};
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{AlignedBytes, Image};
use tendon_sim::{Robot, RobotOptions};
use tendon_wire::image::monitor;
use tendon_wire::mutation::Check;

#[path = "../../../runtime/tests/examples/envelope_cases.rs"]
mod cases;

pub(super) const ENVELOPE: Campaign =
    Campaign { name: "envelope", gates: &[4], guards: &[Check::Envelope], run: envelope };

pub(super) const FAULTS: Campaign = Campaign {
    name: "faults",
    gates: &[20],
    guards: &[Check::Envelope, Check::SensorMonitor, Check::ResponseMonitor],
    run: faults,
};

fn envelope(run: &mut Run) -> Result<(), String> {
    // A contract is walked for 300 ticks with three joints.
    let contracts = run.amount(12_000, 600);
    let batch = contracts / 20;
    let (mut joint_cases, mut limited, mut blind, mut at_budget) = (0, 0, 0, 0);
    let (mut broken, mut example) = (0, None);
    for step in 0..20 {
        let seeds: Vec<u64> = (0..8).map(|shard| run.seed << 32 | step << 8 | shard).collect();
        let reports: Vec<_> =
            seeds.par_iter().map(|&seed| cases::run(seed, (batch / 8).max(1) as usize)).collect();
        for report in reports {
            match report {
                Ok(report) => {
                    joint_cases += report.joint_cases;
                    limited += report.limited;
                    blind += report.without_measurement;
                    at_budget += report.at_power_budget;
                }
                Err(violation) => {
                    broken += 1;
                    example.get_or_insert_with(|| format!("{violation:?}"));
                }
            }
        }
        run.progress(step + 1, 20);
    }
    run.count("commands of one joint in one tick", "commands", joint_cases as f64);
    run.count("of them changed", "commands", limited as f64);
    run.count("of them without a finite measurement", "commands", blind as f64);
    run.count("ticks at the power budget", "ticks", at_budget as f64);
    run.none("outputs that are not finite or outside a limit", "runs", broken, example);
    Ok(())
}

/// Tick from which it is broken, and ticks in all.
const FROM: u64 = 60;
const TICKS: u64 = 200;

/// A policy with its contract, and robots to run it on.
struct Loop {
    name: &'static str,
    image: AlignedBytes,
    schema_hash: u64,
    contract: ContractSpec,
    plant: Box<dyn Fn() -> Result<Box<dyn Plant>, String> + Sync>,
}

impl Loop {
    fn run(&self, fault: Option<Fault>) -> Result<Outcome, String> {
        let mut plant = (self.plant)()?;
        with_in_process(self.image.len().next_multiple_of(4096), |transport| {
            let (mut session, _) = Session::open(transport).map_err(|error| error.to_string())?;
            session.upload(&self.image, |_| ()).map_err(|error| error.to_string())?;
            closed_loop(&mut session, &mut *plant, &self.contract, self.schema_hash, fault, TICKS)
                .map_err(|error| error.to_string())
        })
    }
}

fn on_cart_pole() -> Result<Loop, String> {
    let (image, schema_hash, environment) = cart_pole(3)?;
    let contract = environment.contract().clone();
    let plant = || Ok(Box::new(TaskPlant::new(cart_pole(3)?.2, 1)) as Box<dyn Plant>);
    Ok(Loop { name: "cart-pole", image, schema_hash, contract, plant: Box::new(plant) })
}

/// The Go1 of the folder of real inputs; `None` where that is missing.
fn on_go1() -> Result<Option<Loop>, String> {
    let folder =
        std::env::var_os("TENDON_REAL").map_or_else(|| crate::root().join("../shared/real"), PathBuf::from);
    let onnx = folder.join("go1_joystick.onnx");
    if !onnx.is_file() {
        eprintln!("SKIPPED: {} has no Go1; set TENDON_REAL to the folder of real inputs", folder.display());
        return Ok(None);
    }
    let onnx = std::fs::read(&onnx).map_err(|error| format!("{}: {error}", onnx.display()))?;
    let text = include_str!("../../../models/contracts/go1_joystick.toml");
    let contract = ContractChoice::Toml { file: "go1_joystick.toml", text };
    let image =
        compile(&onnx, &Options { contract, ..Options::default() }).map_err(|error| error.to_string())?.image;
    let schema_hash = Image::parse(&image).map_err(|error| error.to_string())?.header().schema_hash;
    let contract = Manifest::of_image(&image).map_err(|error| error.to_string())?.contract;
    let contract = contract.ok_or("the Go1's image has no contract")?;
    let robot = Robot::from_file(folder.join("go1_scene_flat.xml"), RobotOptions::default())
        .or_else(|_| Robot::from_file(folder.join("go1_feetonly.xml"), RobotOptions::default()))
        .map_err(|error| error.to_string())?;
    let spec = contract.clone();
    let plant = move || {
        let plant = WalkPlant::new(&Arc::clone(&robot), &spec, "home", "imu", &[0.5, 0.0, 0.0]);
        plant.map(|plant| Box::new(plant) as Box<dyn Plant>).map_err(|error| error.to_string())
    };
    Ok(Some(Loop { name: "Go1", image, schema_hash, contract, plant: Box::new(plant) }))
}

/// Every fault on every channel: the limits hold; what the monitors notice is reported.
fn faults(run: &mut Run) -> Result<(), String> {
    let mut loops = vec![on_cart_pole()?];
    loops.extend(on_go1()?);
    for closed in &loops {
        let name = closed.name;
        let walks = name == "Go1";
        let healthy = closed.run(None)?;
        run.exactly(format!("{name}: alarms without a fault"), "ticks", healthy.false_alarms, 0);
        let all = Fault::every(&closed.contract, FROM, run.seed);
        let outcomes: Vec<(Fault, Outcome)> = all
            .par_iter()
            .map(|&fault| closed.run(Some(fault)).map(|outcome| (fault, outcome)))
            .collect::<Result<_, _>>()?;
        let broken = outcomes.iter().filter(|(_, outcome)| !outcome.limits_held());
        let example =
            broken.clone().next().map(|(fault, outcome)| format!("{fault:?}: {:?}", outcome.violations));
        run.count(format!("{name}: faults, one on each channel"), "faults", outcomes.len() as f64);
        run.none(format!("{name}: limits broken"), "faults", broken.count() as u64, example);
        let early = outcomes.iter().map(|(_, outcome)| outcome.false_alarms).sum();
        run.none(format!("{name}: alarms before the fault"), "ticks", early, None);
        let mut latencies: Vec<u64> =
            outcomes.iter().filter_map(|(_, outcome)| outcome.detected_after).collect();
        latencies.sort_unstable();
        run.count(format!("{name}: noticed"), "faults", latencies.len() as f64);
        if let (Some(last), Some(median)) = (latencies.last(), latencies.get(latencies.len() / 2)) {
            run.count(format!("{name}: ticks until noticed, median"), "ticks", *median as f64);
            run.count(format!("{name}: ticks until noticed, longest"), "ticks", *last as f64);
        }
        let sensors: u16 =
            [monitor::AGE, monitor::OFF, monitor::STUCK, monitor::JUMP].map(|bit| 1 << bit).iter().sum();
        let by = |bits: u16| outcomes.iter().filter(|(_, outcome)| outcome.alarms & bits != 0).count() as f64;
        run.at_least(format!("{name}: noticed by a sensor monitor"), "faults", by(sensors), 3.0);
        // On a cart no motor fault leaves a joint standing or running away within the time.
        let (metric, found) =
            (format!("{name}: noticed by the response monitor"), by(1 << monitor::RESPONSE));
        if walks {
            run.at_least(metric, "faults", found, 1.0);
        } else {
            run.count(metric, "faults", found);
        }
    }
    Ok(())
}
