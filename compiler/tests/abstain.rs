//! Abstention: false alarms at the rate that was asked for, and detection of observations unlike the recorded ones.

mod common;

use common::{contract, real};
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::trace::Trace;
use tendon_compiler::{Abstain, AbstentionReport, ContractChoice, Options, compile};
use tendon_runtime::abstention::Window;
use tendon_runtime::{AlignedBytes, Image};

const N: usize = 12;

/// SplitMix64 and Box-Muller: this test's own noise.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Observations of a robot with four degrees of freedom seen by twelve sensors.
fn observations(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut noise = Normal(seed);
    (0..count)
        .map(|_| {
            let hidden: Vec<f64> = (0..4).map(|_| noise.next()).collect();
            let seen = |i: usize| hidden[i % 4] * (1.0 + i as f64 * 0.2) + 0.5 * hidden[(i + 1) % 4];
            (0..N).map(|i| (seen(i) + 0.1 * noise.next() + i as f64) as f32).collect()
        })
        .collect()
}

fn compiled(
    rows: &[Vec<f32>],
    false_alarm: f64,
    window: u16,
    needed: u16,
) -> (AlignedBytes, AbstentionReport) {
    let onnx = mlp(&[rows[0].len(), 8, 2], Hidden::Tanh, 1);
    let runs = [rows.to_vec()];
    let abstain = Abstain { runs: &runs, false_alarm, window, needed };
    let options = Options { contract: ContractChoice::Bare, abstain: Some(abstain), ..Options::default() };
    let compiled = compile(&onnx, &options).unwrap();
    (compiled.image, compiled.abstention.unwrap())
}

/// Of every tick whether the controller would abstain, from the first whole window on.
fn alarms(image: &AlignedBytes, rows: &[Vec<f32>]) -> Vec<bool> {
    let parsed = Image::parse(image).unwrap();
    let abstention = parsed.policy(image).unwrap().abstention.unwrap();
    let mut window = Window::default();
    let statistics = rows.iter().map(|row| window.push(abstention.header, abstention.score(row)));
    let first = usize::from(abstention.header.window) - 1;
    statistics.map(|s| s > abstention.header.threshold).skip(first).collect()
}

fn share(alarms: &[bool]) -> f64 {
    alarms.iter().filter(|alarm| **alarm).count() as f64 / alarms.len() as f64
}

#[test]
fn false_alarms_come_at_the_rate_asked_for() {
    let recorded = observations(20_000, 1);
    for rate in [0.05, 0.01, 2e-3] {
        let (image, report) = compiled(&recorded, rate, 1, 1);
        let fresh = observations(200_000, 2);
        let found = share(&alarms(&image, &fresh));
        // The threshold comes from m windows: its own spread is that of a binomial of m draws, beside that of 200,000.
        let spread =
            (rate * (1.0 - rate) * (1.0 / report.calibrated as f64 + 1.0 / fresh.len() as f64)).sqrt();
        println!("asked {rate}, found {found:.5} +- {spread:.5}, {report:?}");
        assert!((found - rate).abs() < 3.3 * spread, "{found} for {rate}");
    }
}

#[test]
fn the_windowed_statistic_is_calibrated_as_a_whole() {
    // 3 of 5 independent ticks: thresholds are lower than for single ticks, the rate is the one asked for.
    let recorded = observations(40_000, 3);
    let rate = 0.01;
    let (image, report) = compiled(&recorded, rate, 5, 3);
    let (_, single) = compiled(&recorded, rate, 1, 1);
    assert!(report.threshold < single.threshold);
    let found = share(&alarms(&image, &observations(200_000, 4)));
    println!("asked {rate}, found {found:.5}");
    // Windows that overlap are no independent draws: up to five times the variance.
    let spread = (5.0 * rate * (1.0 / report.calibrated as f64 + 1.0 / 200_000.0)).sqrt();
    assert!((found - rate).abs() < 3.3 * spread, "{found} for {rate} +- {spread}");
}

#[test]
fn shifted_permuted_and_corrupt_observations_are_noticed() {
    let (image, _) = compiled(&observations(20_000, 1), 1e-3, 5, 3);
    let fresh = observations(2000, 9);
    type Corruption = fn(&mut Vec<f32>, usize);
    let cases: [(&str, Corruption, f64); 6] = [
        ("one element shifted by two deviations", |row, _| row[5] += 4.0, 0.95),
        ("two elements exchanged", |row, _| row.swap(2, 7), 0.99),
        ("one element frozen", |row, _| row[3] = 3.0, 0.75),
        ("one sign turned", |row, _| row[8] = 16.0 - row[8], 0.9),
        ("one element off", |row, _| row[11] = 0.0, 0.99),
        ("far outside", |row, _| row[0] = 1e30, 1.0),
    ];
    for (name, corrupt, least) in cases {
        let mut rows = fresh.clone();
        rows.iter_mut().enumerate().for_each(|(tick, row)| corrupt(row, tick));
        let found = share(&alarms(&image, &rows));
        println!("{name}: {found:.3} of the ticks");
        assert!(found >= least, "{name}: {found}");
    }
    assert!(share(&alarms(&image, &fresh)) < 0.01);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut rows = fresh[..20].to_vec();
        rows.iter_mut().for_each(|row| row[4] = bad);
        assert_eq!(share(&alarms(&image, &rows)), 1.0, "{bad}");
    }
}

#[test]
fn many_inputs_keep_principal_directions_only() {
    let wide = |rows: Vec<Vec<f32>>, seed: u64| -> Vec<Vec<f32>> {
        let mut noise = Normal(seed);
        rows.into_iter()
            .map(|row| {
                (0..120).map(|i| row[i % N] * (1.0 + i as f32 * 0.01) + 0.05 * noise.next() as f32).collect()
            })
            .collect()
    };
    let (image, report) = compiled(&wide(observations(4000, 1), 1), 5e-3, 3, 2);
    assert_eq!(report.rank, 32);
    let fresh = wide(observations(20_000, 5), 6);
    let found = share(&alarms(&image, &fresh));
    assert!((0.0005..0.02).contains(&found), "{found}");
    let mut swapped = fresh[..2000].to_vec();
    swapped.iter_mut().for_each(|row| row.swap(3, 40));
    assert!(share(&alarms(&image, &swapped)) > 0.9);
}

#[test]
fn refuses_what_it_cannot_calibrate() {
    let text = |rows: Vec<Vec<f32>>, false_alarm, window, needed| {
        let onnx = mlp(&[N, 8, 2], Hidden::Tanh, 1);
        let runs = [rows];
        let abstain = Abstain { runs: &runs, false_alarm, window, needed };
        let options =
            Options { contract: ContractChoice::Bare, abstain: Some(abstain), ..Options::default() };
        compile(&onnx, &options).unwrap_err().to_string()
    };
    let few = text(observations(500, 1), 1e-3, 1, 1);
    assert!(few.contains("250 windows held out") && few.contains("999 at least"), "{few}");
    assert!(text(observations(500, 1), 0.1, 17, 1).contains("1 to 16 ticks"));
    assert!(text(observations(500, 1), 0.1, 3, 4).contains("4 of 3 ticks"));
    assert!(text(observations(500, 1), 1.5, 1, 1).contains("between 0 and 1"));
    assert!(text(vec![vec![0.0; 5]; 500], 0.1, 1, 1).contains("the network takes 12"));
}

#[test]
fn the_go1_trace_tells_walking_from_broken_walking() {
    let (Some(onnx), Some(csv)) = (real("go1_joystick.onnx"), real("go1_trace_forward.csv")) else { return };
    let trace = Trace::read(&*csv, 48, 12).unwrap().observations;
    let runs = [trace.clone()];
    let abstain = Abstain { runs: &runs, false_alarm: 0.02, window: 5, needed: 3 };
    let text = contract("go1_joystick.toml");
    let contract = ContractChoice::Toml { file: "go1_joystick.toml", text: &text };
    let compiled =
        compile(&onnx, &Options { contract, abstain: Some(abstain), ..Options::default() }).unwrap();
    let report = compiled.abstention.unwrap();
    println!("{report:?}");
    assert_eq!(report.still, [45, 46, 47], "the command did not vary");
    // The first blocks are the ones fitted; the second ones were held out.
    let healthy = share(&alarms(&compiled.image, &trace));
    println!("healthy: {healthy:.4} of the ticks");
    assert!(healthy < 0.05, "{healthy}");
    let mut found = Vec::new();
    for joint in 0..12 {
        let mut frozen = trace.clone();
        let value = trace[100][9 + joint];
        frozen.iter_mut().for_each(|row| row[9 + joint] = value);
        found.push(share(&alarms(&compiled.image, &frozen)));
    }
    println!("position of one joint frozen: {found:.2?} of the ticks");
    let mut turned = trace.clone();
    turned.iter_mut().for_each(|row| row[9..21].rotate_left(3));
    let legs = share(&alarms(&compiled.image, &turned));
    println!("legs exchanged: {legs:.2}");
    assert!(legs > 0.9, "{legs}");
    let mut tilted = trace;
    tilted.iter_mut().for_each(|row| row[6] += 0.5);
    let tilt = share(&alarms(&compiled.image, &tilted));
    println!("gravity tilted by half a radian: {tilt:.2}");
    assert!(tilt > 0.9, "{tilt}");
}
