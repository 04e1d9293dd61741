//! `docs/timing.md` is written from the response-time analysis that the controller makes.

use std::fmt::Write;
use tendon::link::{ControllerKind, firmware_path};
use tendon_compiler::sample::{Hidden, mlp, with_metadata};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_runtime::cost::{self, Profile};
use tendon_runtime::response::{BoardTiming, Task, response_ns};
use tendon_runtime::spec::METADATA_KEY;
use tendon_runtime::{AlignedBytes, Image};

/// Boards of the document: the emulated one, and processors with an estimated profile (docs/bounds.md).
const BOARDS: [(&str, BoardTiming); 4] = [
    ("QEMU, one instruction one ns, 1 Mbaud", BoardTiming::QEMU),
    ("Cortex-M4F 168 MHz (estimated), 1 Mbaud", BoardTiming::serial(Profile::M4F, 1_000_000, 1, 1)),
    ("Cortex-M7 480 MHz (estimated), 3 Mbaud", BoardTiming::serial(Profile::M7, 3_000_000, 16, 1)),
    ("Cortex-M33 150 MHz (estimated), 1 Mbaud", BoardTiming::serial(Profile::M33, 1_000_000, 32, 1)),
];

/// Policies of the document.
fn policies() -> [(&'static str, AlignedBytes); 3] {
    let cart_pole = |period_s: f64, hidden: &[usize]| {
        let environment = tendon_sim::tasks::find("cart-pole").unwrap().make().unwrap();
        let mut spec = environment.contract().clone();
        spec.control_period_s = period_s;
        let n_obs = spec.compile().unwrap().view().header.n_observation as usize;
        let sizes: Vec<usize> = [n_obs].iter().chain(hidden).chain(&[1]).copied().collect();
        let onnx = with_metadata(mlp(&sizes, Hidden::Tanh, 1), METADATA_KEY, &spec.to_json());
        compile(&onnx, &Options::default()).unwrap().image
    };
    let contract = ContractChoice::Toml {
        file: "models/contracts/go1_joystick.toml",
        text: include_str!("../../models/contracts/go1_joystick.toml"),
    };
    let go1 = mlp(&[48, 512, 256, 128, 12], Hidden::Tanh, 1);
    let go1 = compile(&go1, &Options { contract, ..Options::default() }).unwrap().image;
    [
        ("cart-pole, 50 Hz, 2 joints, 64-64 tanh", cart_pole(0.02, &[64, 64])),
        ("cart-pole, 1 kHz, 2 joints, 64-64 tanh", cart_pole(0.001, &[64, 64])),
        ("Go1's contract, 50 Hz, 12 joints, 512-256-128 tanh", go1),
    ]
}

fn tasks(board: &BoardTiming, image: &AlignedBytes) -> [Task; 5] {
    let parsed = Image::parse(image).unwrap();
    let policy = parsed.policy(image).unwrap();
    board.tasks(&policy.contract.unwrap(), &policy)
}

fn us(ns: u64) -> String {
    match ns {
        u64::MAX => "-".into(),
        ns if ns >= 1_000_000_000 => format!("{:.0} s", ns as f64 / 1e9),
        ns => format!("{:.1}", ns as f64 / 1000.0),
    }
}

fn table(text: &mut String, board: &BoardTiming, image: &AlignedBytes) {
    let tasks = tasks(board, image);
    text.push_str("| task | priority | T | C | B | J | R | D |\n|---|---|---|---|---|---|---|---|\n");
    let mut refused = Vec::new();
    for task in &tasks {
        let response = response_ns(&tasks, task);
        let shown = match response {
            Ok(ns) => us(ns),
            Err(ns) => {
                refused.push(task.name);
                format!("**> {}**", us(ns))
            }
        };
        let [t, c, b, j, d] =
            [task.period_ns, task.cost_ns, task.blocking_ns, task.jitter_ns, task.deadline_ns].map(us);
        writeln!(text, "| {} | {} | {t} | {c} | {b} | {j} | {shown} | {d} |", task.name, task.priority)
            .unwrap();
    }
    let used: f64 = tasks.iter().map(|task| task.cost_ns as f64 / task.period_ns as f64).sum();
    write!(text, "\nUtilisation {:.1} %. ", 100.0 * used).unwrap();
    match refused.as_slice() {
        [] => text.push_str("Admitted.\n\n"),
        names => writeln!(text, "Refused: {}.\n", names.join(", ")).unwrap(),
    }
}

fn document() -> String {
    let mut text = include_str!("timing.md").to_owned();
    for (name, image) in &policies() {
        writeln!(text, "### {name}\n").unwrap();
        for (board, timing) in &BOARDS {
            writeln!(text, "{board}:\n").unwrap();
            table(&mut text, timing, image);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[test]
fn timing_md_says_what_the_analysis_says() {
    tendon_tests::assert_committed("docs/timing.md", &document());
}

#[test]
fn the_emulated_board_admits_every_policy_of_the_document() {
    for (name, image) in &policies() {
        let tasks = tasks(&BoardTiming::QEMU, image);
        for task in &tasks {
            assert!(response_ns(&tasks, task).is_ok(), "{name}: {} may miss its deadline", task.name);
        }
    }
}

#[test]
fn the_analysis_has_the_tasks_priorities_and_instructions_of_the_firmware() {
    let Some(elf) = firmware_path(ControllerKind::Qemu) else {
        println!("SKIPPED: the firmware is missing; run `cargo xtask test`");
        return;
    };
    let report = tendon_bounds::check_file(&elf).unwrap_or_else(|f| panic!("{f:#?}"));
    let (_, image) = &policies()[0];
    let mut analysed: Vec<(&str, u8)> =
        tasks(&BoardTiming::QEMU, image).iter().map(|task| (task.name, task.priority)).collect();
    let mut linked: Vec<(&str, u8)> = report
        .tasks
        .iter()
        .filter_map(|task| Some((task.name.as_str(), task.priority.filter(|priority| *priority > 0)?)))
        .collect();
    analysed.sort_unstable();
    linked.sort_unstable();
    assert_eq!(
        analysed, linked,
        "a #[task] of firmware/src/main.rs and a row of runtime/src/response.rs differ"
    );
    // A byte passes each loop of its handler once: no instruction runs more than twice.
    for (name, bound) in
        [("CLOCK_WRAP", cost::CLOCK_WRAP), ("LINK_RX", cost::LINK_RX), ("LINK_TX", cost::LINK_TX)]
    {
        let task = report.tasks.iter().find(|task| task.name == name).unwrap();
        println!("{name}: {} instructions linked, {bound} in the analysis", task.instructions);
        assert!(u64::from(2 * task.instructions) <= bound, "{name}: {} instructions", task.instructions);
    }
}
