//! Observations unlike those that a policy was recorded with, in closed loop.

use super::world::cart_pole_with;
use super::{Campaign, Run};
use rayon::prelude::*;
use tendon::faults::{Channel, Fault, Kind, Outcome, Plant, TaskPlant, run as closed_loop};
use tendon::link::{Session, with_in_process};
use tendon_compiler::sample::{Hidden, mlp, with_metadata};
use tendon_compiler::{Abstain, Options, compile};
use tendon_runtime::spec::{ContractSpec, METADATA_KEY, MonitorAction};
use tendon_runtime::{AlignedBytes, Cause, JointCommand, RawState};
use tendon_wire::mutation::Check;

pub(super) const ABSTENTION: Campaign =
    Campaign { name: "abstention", gates: &[20], guards: &[Check::Abstention], run: abstention };

/// Tick from which it is unlike, and ticks in all.
const FROM: u64 = 60;
const TICKS: u64 = 200;
/// Share of ticks at which the controller may abstain from what is like the recording.
const FALSE_ALARM: f64 = 1e-3;

/// A plant that keeps what its policy saw.
struct Recorded {
    plant: TaskPlant,
    rows: Vec<Vec<f32>>,
}

impl Plant for Recorded {
    fn state(&mut self) -> RawState {
        self.plant.state()
    }

    fn apply(&mut self, proposed: &[f32], commands: &[JointCommand]) {
        self.plant.apply(proposed, commands);
        self.rows.push(self.plant.observation().to_vec());
    }
}

/// The cart-pole with no other monitor that could fall back first.
struct World {
    contract: ContractSpec,
    image: AlignedBytes,
    schema_hash: u64,
}

fn alone(contract: &mut ContractSpec) {
    let monitors = &mut contract.monitors;
    for monitor in [
        &mut monitors.age,
        &mut monitors.off,
        &mut monitors.stuck,
        &mut monitors.noise,
        &mut monitors.jump,
        &mut monitors.response,
    ] {
        monitor.action = MonitorAction::Off;
    }
}

impl World {
    fn new(abstain: Option<Abstain<'_>>) -> Result<Self, String> {
        let (.., environment) = cart_pole_with(3, alone)?;
        let mut contract = environment.contract().clone();
        alone(&mut contract);
        let schema_hash = contract.compile().map_err(|error| error.to_string())?.schema_hash();
        let network = mlp(&[tendon_sim::Environment::observation_len(&environment), 32, 1], Hidden::Tanh, 3);
        let onnx = with_metadata(network, METADATA_KEY, &contract.to_json());
        let image = compile(&onnx, &Options { abstain, ..Options::default() });
        Ok(Self { contract, image: image.map_err(|error| error.to_string())?.image, schema_hash })
    }

    fn run(&self, seed: u64, fault: Option<Fault>) -> Result<(Outcome, Vec<Vec<f32>>), String> {
        let environment = cart_pole_with(3, alone)?.2;
        let mut plant = Recorded { plant: TaskPlant::new(environment, seed), rows: Vec::new() };
        let outcome = with_in_process(self.image.len().next_multiple_of(4096), |transport| {
            let (mut session, _) = Session::open(transport).map_err(|error| error.to_string())?;
            session.upload(&self.image, |_| ()).map_err(|error| error.to_string())?;
            closed_loop(&mut session, &mut plant, &self.contract, self.schema_hash, fault, TICKS)
                .map_err(|error| error.to_string())
        })?;
        Ok((outcome, plant.rows))
    }
}

/// Calibrates on healthy runs, then counts how often fresh ones and broken ones are abstained from.
fn abstention(run: &mut Run) -> Result<(), String> {
    let (recorded, fresh) = (run.amount(200, 60), run.amount(400, 40));
    let first = run.seed << 20;
    let plain = World::new(None)?;
    let runs: Vec<Vec<Vec<f32>>> = (0..recorded)
        .into_par_iter()
        .map(|seed| plain.run(first + seed, None).map(|(_, rows)| rows))
        .collect::<Result<_, _>>()?;
    let careful = World::new(Some(Abstain { runs: &runs, false_alarm: FALSE_ALARM, window: 5, needed: 3 }))?;
    let healthy: Vec<Outcome> = (0..fresh)
        .into_par_iter()
        .map(|seed| careful.run(first + (1 << 19) + seed, None).map(|(outcome, _)| outcome))
        .collect::<Result<_, _>>()?;
    // Measured far off. The pole's angle is not among them: it comes around, and any angle was seen.
    let channels = [Channel::JointPosition(0), Channel::JointVelocity(0), Channel::JointVelocity(1)];
    let mut broken: Vec<(Fault, u64)> = Vec::new();
    for seed in 0..fresh {
        let seed = first + (1 << 18) + seed;
        for channel in channels {
            let fault = Fault::new(channel, Kind::Jump, FROM, seed);
            broken.push((Fault { magnitude: 10.0 * fault.magnitude, ..fault }, seed));
        }
    }
    let outcomes: Vec<Outcome> = broken
        .par_iter()
        .map(|&(fault, seed)| careful.run(seed, Some(fault)).map(|(outcome, _)| outcome))
        .collect::<Result<_, _>>()?;
    let ended = |outcome: &&Outcome| outcome.cause == Cause::Abstention;
    let limits = outcomes.iter().chain(&healthy).filter(|outcome| !outcome.limits_held()).count();
    let noticed = outcomes.iter().filter(ended).count();
    let alarms = healthy.iter().filter(|outcome| outcome.state != tendon_runtime::State::Running).count();
    run.count("healthy runs to calibrate on", "runs", recorded as f64);
    run.count("fresh healthy runs", "runs", fresh as f64);
    run.at_most(
        "of them abstained from, share (one tick in 1000 may)",
        "share",
        alarms as f64 / fresh as f64,
        FALSE_ALARM * TICKS as f64,
    );
    run.count("runs with one joint measured far off", "runs", outcomes.len() as f64);
    run.at_least("of them ended by abstention, share", "share", noticed as f64 / outcomes.len() as f64, 0.9);
    let late = outcomes.iter().filter(ended).filter_map(|outcome| outcome.fell_back_after).max();
    run.count("longest from the fault to the fall-back", "ticks", late.map_or(f64::NAN, |late| late as f64));
    run.none("limits broken", "runs", limits as u64, None);
    Ok(())
}
