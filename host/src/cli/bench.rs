//! `bench`: the measurements behind docs/, each a table and `--json`.

use super::learn::make;
use super::run::{contract_of, upload, walking_task};
use super::{Measured, print_table, read_file, write_json};
use crate::link::{ControllerKind, Serial, Session, Transport, launch, with_in_process};
use crate::walk::walk;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_learn::bootstrap;
use tendon_learn::demo::demo_learning;
use tendon_learn::preference::PreferenceConfig;
use tendon_runtime::AlignedBytes;
use tendon_runtime::spec::ContractSpec;
use tendon_sim::{LocomotionMetrics, Robot, RobotOptions, tasks};

#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Latency of one inference on this computer, against tract and onnxruntime
    Host {
        /// Folder of real inputs
        #[arg(long, default_value = "../shared/real")]
        real: PathBuf,
        /// Rows as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Instructions per inference on the controller (QEMU, -icount shift=0)
    Mcu {
        /// emx-onnx-cgen, to measure its C in the same run (needs arm-none-eabi-gcc)
        #[arg(long)]
        peer: Option<PathBuf>,
        /// Only cases with this in their name
        #[arg(long, default_value = "")]
        case: String,
        /// Rows as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Instructions of random networks on the controller (QEMU) beside the runtime's bound
    Cost {
        /// What the tests run
        #[arg(long)]
        short: bool,
        /// Rows as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// The Go1 of ../shared/real under five commands: MuJoCo, in process, QEMU controller
    Sim2sim {
        /// Folder of real inputs
        #[arg(long, default_value = "../shared/real")]
        real: PathBuf,
        /// Simulated time per command, s
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Rows as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Jitter and execution time of `tendon run --realtime` on a simulated arm, quiet and under load
    Realtime {
        /// Time per case, s
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        /// Rate of bus and policy, Hz
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Busy threads per core in the second case
        #[arg(long, default_value_t = 2)]
        load: usize,
        /// Rows as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Learned against true reward over seeds
    Learning {
        /// Task
        #[arg(long, default_value = "cart-pole")]
        task: String,
        /// Seeds 1 to this
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// One seed and a few iterations: shows that it runs, proves nothing
        #[arg(long)]
        short: bool,
        /// Rows as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        match self.what {
            What::Host { real, json } => super::bench_host::host(&real, json.as_ref()),
            What::Mcu { peer, case, json } => super::bench_mcu::mcu(peer.as_deref(), &case, json.as_ref()),
            What::Cost { short, json } => super::bench_cost::cost(short, json.as_ref()),
            What::Sim2sim { real, seconds, json } => sim2sim(&real, seconds, json.as_ref()),
            What::Realtime { seconds, rate, load, json } => {
                super::bench_realtime::realtime(seconds, rate, load, json.as_ref())
            }
            What::Learning { task, seeds, short, json } => {
                learning(&task, if short { 1 } else { seeds }, short, json.as_ref())
            }
        }
    }
}

/// Of `bench learning --short`.
const SHORT_STEPS: u64 = 20_000;

/// Command, and what MuJoCo 4.0.0 does with it over 10 s: vx, vy, wz, lowest trunk height
/// (`../shared/real/README.md`).
const MUJOCO: [([f32; 3], [f32; 4]); 5] = [
    ([1.0, 0.0, 0.0], [1.023, 0.014, 0.000, 0.279]),
    ([0.5, 0.0, 0.0], [0.509, 0.015, 0.011, 0.281]),
    ([0.0, 0.4, 0.0], [0.016, 0.366, 0.036, 0.281]),
    ([0.0, 0.0, 1.0], [0.027, 0.037, 0.842, 0.281]),
    ([0.0, 0.0, 0.0], [0.000, 0.000, 0.000, 0.281]),
];
const GO1_CONTRACT: &str = include_str!("../../../models/contracts/go1_joystick.toml");

fn sim2sim(real: &Path, seconds: f64, json: Option<&PathBuf>) -> Result<()> {
    let onnx_file = real.join("go1_joystick.onnx");
    let onnx = read_file(&onnx_file, tendon_compiler::MAX_FILE as u64).with_context(|| {
        format!("give the folder of real inputs with --real (looked in {})", real.display())
    })?;
    let contract = ContractChoice::Toml { file: "models/contracts/go1_joystick.toml", text: GO1_CONTRACT };
    let image = compile(&onnx, &Options { contract, ..Options::default() })?.image;
    let robot = Robot::from_file(real.join("go1_scene_flat.xml"), RobotOptions::default())?;
    let (contract, hash) = contract_of(&image)?;
    let here = with_in_process(image.len(), |transport| {
        let (mut session, _) = Session::open(transport)?;
        five_walks(&mut session, &image, &robot, &contract, hash, seconds)
    })?;
    let controller = launch(ControllerKind::best())?;
    let (mut session, identity) = Session::open(Serial::open(controller.port())?)?;
    let there = five_walks(&mut session, &image, &robot, &contract, hash, seconds)?;
    let mut table = vec![["command", "who", "vx", "vy", "wz", "lowest z", "hash"].map(String::from).to_vec()];
    let mut rows = Vec::new();
    for (((command, mujoco), here), there) in MUJOCO.iter().zip(&here).zip(&there) {
        let name = format!("{}, {}, {}", command[0], command[1], command[2]);
        let line = |who: &str, v: [f32; 4], hash: String| {
            let mut row = vec![name.clone(), who.to_string()];
            row.extend(v.map(|v| format!("{v:.3}")));
            row.push(hash);
            row
        };
        let figures = |m: &LocomotionMetrics| {
            [m.mean_velocity[0], m.mean_velocity[1], m.mean_yaw_rate, m.lowest_height]
        };
        table.push(line("MuJoCo 4.0.0", *mujoco, String::new()));
        table.push(line("tendon, in process", figures(here), format!("{:016x}", here.hash)));
        table.push(line(
            &format!("tendon, {}", identity.board),
            figures(there),
            format!("{:016x}", there.hash),
        ));
        for (axis, metric) in ["vx", "vy", "wz"].into_iter().enumerate() {
            let mut peers = serde_json::Map::new();
            peers.insert("mujoco".into(), f64::from(mujoco[axis]).into());
            rows.push(Measured {
                case: name.clone(),
                metric: metric.into(),
                unit: "m/s or rad/s".into(),
                tendon: figures(there)[axis].into(),
                peers,
                goal: Some("within 15% of MuJoCo on the commanded axis".into()),
            });
        }
    }
    print_table(&table);
    write_json(json, &rows)?;
    for (here, there) in here.iter().zip(&there) {
        ensure!(
            here.hash == there.hash,
            "the controller's run differs from the run in process: {:016x} against {:016x}",
            there.hash,
            here.hash
        );
    }
    Ok(())
}

fn five_walks<T: Transport>(
    session: &mut Session<T>,
    image: &AlignedBytes,
    robot: &Arc<Robot>,
    contract: &ContractSpec,
    hash: u64,
    seconds: f64,
) -> Result<Vec<LocomotionMetrics>> {
    upload(session, image)?;
    let task = walking_task(contract, "home", "imu", seconds);
    MUJOCO
        .iter()
        .map(|(command, _)| {
            let (metrics, _) = walk(session, robot, contract, hash, &task, command, None)?;
            Ok(metrics)
        })
        .collect()
}

fn learning(task: &str, seeds: u64, short: bool, json: Option<&PathBuf>) -> Result<()> {
    let task = tasks::find(task)?.definition()?;
    let mut config = PreferenceConfig::default();
    if short {
        config.ppo.total_steps = config.ppo.total_steps.min(SHORT_STEPS);
    }
    let mut table = vec![
        ["seed", "random", "true reward (95%)", "learned reward (95%)", "share of improvement", "success"]
            .map(String::from)
            .to_vec(),
    ];
    let (mut rows, mut shares) = (Vec::new(), Vec::new());
    for seed in 1..=seeds {
        let mut bars = super::learn::Bars::default();
        let outcome = demo_learning(&config, &|| make(&task), 50, seed, None, &mut |p| {
            let _: ControlFlow<()> = bars.show(p);
            ControlFlow::Continue(())
        })?;
        bars.finish();
        let show = |e: &tendon_learn::demo::Evaluation| {
            e.interval.map_or_else(String::new, |i| format!("{:.1} ({:.1} to {:.1})", i.mean, i.low, i.high))
        };
        table.push(vec![
            seed.to_string(),
            outcome.random.interval.map_or_else(String::new, |i| format!("{:.1}", i.mean)),
            show(&outcome.true_reward),
            show(&outcome.learned_reward),
            format!("{:.3}", outcome.normalised_improvement),
            format!("{:.0}%", 100.0 * outcome.learned_reward.success_rate),
        ]);
        shares.push(outcome.normalised_improvement);
        rows.push(Measured {
            case: format!("{} seed {seed}", task.name()),
            metric: "share of the true reward's improvement over random".into(),
            unit: "1".into(),
            tendon: outcome.normalised_improvement,
            peers: serde_json::Map::new(),
            goal: (!short).then(|| ">= 0.8".into()),
        });
    }
    print_table(&table);
    let interval = bootstrap(&shares, 1);
    println!(
        "share of improvement over {seeds} seeds: {:.3} (95% bootstrap {:.3} to {:.3})",
        interval.mean, interval.low, interval.high
    );
    write_json(json, &rows)
}
