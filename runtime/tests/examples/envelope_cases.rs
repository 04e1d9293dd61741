//! Random contracts, profiles, measurements and commands for the envelope, judged by the oracle: for the tests of this
//! folder and the campaigns of `tests/`, which include this file.

use crate::numbers::{any_f32, within};
use fastrand::Rng;
use tendon_runtime::oracle::{Oracle, Violation};
use tendon_runtime::spec::{ActionSpec, FallbackSpec, Mode, MonitorsSpec, Signal, TermSpec};
use tendon_runtime::spec::{ContractSpec, JointSpec, LimitShares, ProfileSpec};
use tendon_runtime::{Envelope, JointCommand, MAX_JOINTS, Profile};
use tendon_wire::image::JointRecord;

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// Commands of one joint in one tick.
    pub(crate) joint_cases: u64,
    /// Of them changed by the envelope.
    pub(crate) limited: u64,
    /// Of them without a finite measurement.
    pub(crate) without_measurement: u64,
    /// Ticks in which the power budget was used up.
    pub(crate) at_power_budget: u64,
}

/// Ticks with one contract.
const TICKS: usize = 300;
const JOINTS: usize = 3;

/// Runs `contracts` random contracts, [`TICKS`] ticks each.
///
/// # Errors
/// The first promise that did not hold.
pub(crate) fn run(seed: u64, contracts: usize) -> Result<Report, Violation> {
    let mut report = Report::default();
    for index in 0..contracts {
        // A case is found again by its seed alone.
        let mut rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(index as u64));
        walk(&mut rng, &mut report)?;
    }
    Ok(report)
}

#[expect(clippy::eq_op, reason = "a command with NaN is not equal to itself")]
fn walk(rng: &mut Rng, report: &mut Report) -> Result<(), Violation> {
    let compiled = contract(rng).compile().expect("a contract within its own limits");
    let contract = compiled.view();
    let (mut envelope, mut oracle) = (Envelope::default(), Oracle::new(&contract));
    let budget = contract.header.power_budget;
    for _ in 0..TICKS {
        if rng.u8(0..50) == 0 {
            let at: Vec<f32> =
                contract.joints.iter().map(|j| within(rng, j.position_min, j.position_max)).collect();
            envelope.reset(&at);
            oracle.reset(&at);
        }
        if rng.u8(0..30) == 0 {
            let index = rng.u8(0..contract.profiles.len() as u8);
            envelope.set_profile(Profile::of(&contract, index).expect("it has this one"));
        }
        let measure = |rng: &mut Rng, f: fn(&JointRecord) -> (f32, f32)| -> Vec<f32> {
            contract.joints.iter().map(f).map(|(low, high)| measurement(rng, low, high)).collect()
        };
        let q = measure(rng, |j| (j.position_min, j.position_max));
        let dq = measure(rng, |j| (-j.velocity_limit, j.velocity_limit));
        let mut before = [JointCommand::default(); MAX_JOINTS];
        for command in before.iter_mut().take(contract.joints.len()) {
            *command = random_command(rng);
        }
        let mut after = before;
        let bits = envelope.apply(&contract, &q, &dq, &mut after);
        oracle.check(&contract, envelope.profile(), &q, &dq, &after)?;
        for index in 0..contract.joints.len() {
            if (bits >> index & 1 == 1) != (before[index] != after[index]) && before[index] == before[index] {
                let detail = format!("{:?} -> {:?}, bits {bits:b}", before[index], after[index]);
                return Err(Violation { joint: Some(index), promise: "the bit of a joint tells", detail });
            }
            report.without_measurement += u64::from(!(q[index].is_finite() && dq[index].is_finite()));
        }
        report.joint_cases += contract.joints.len() as u64;
        report.limited += u64::from(bits.count_ones());
        report.at_power_budget += u64::from(envelope.power() >= 0.999 * budget);
    }
    Ok(())
}

/// Limits from sluggish to absurd.
fn contract(rng: &mut Rng) -> ContractSpec {
    let mut size = |low: i32, high: i32| 10f32.powf(low as f32 + (high - low) as f32 * rng.f32());
    let joints: Vec<JointSpec> = (0..JOINTS)
        .map(|index| JointSpec {
            name: format!("joint_{index}"),
            robot_index: None,
            default_position: 0.0,
            position_limits: [-size(-2, 5), size(-2, 5)],
            velocity_limit: size(-6, 5),
            acceleration_limit: size(-2, 6),
            jerk_limit: Some(size(-1, 9)),
            braking_deceleration: Some(size(-2, 6)),
            torque_limit: if size(0, 1) < 1.3 { 0.0 } else { size(-3, 4) },
            position_rate_limit: size(-2, 6),
            torque_rate_limit: size(-2, 6),
            kp: 20.0,
            kd: 0.5,
            damping_kd: Some(size(-3, 3)),
        })
        .collect();
    let scales = (0..4).map(|index| {
        let mut share = || Some(rng.f32().max(1e-3));
        ProfileSpec {
            name: format!("profile_{index}"),
            scale: LimitShares {
                velocity: share(),
                acceleration: share(),
                jerk: share(),
                torque: share(),
                torque_rate: share(),
                power: share(),
            },
            cap: LimitShares { torque: (index == 3).then_some(1.0), ..LimitShares::default() },
        }
    });
    let mut profiles = vec![ProfileSpec { name: "full".into(), ..ProfileSpec::default() }];
    profiles.extend(scales);
    let mut spec = ContractSpec {
        version: 1,
        robot: "random".into(),
        control_period_s: f64::from(within(rng, 1e-4, 0.1)),
        quaternion_order: Default::default(),
        commands: Vec::new(),
        preferences: Vec::new(),
        sensors: Vec::new(),
        actions: vec![ActionSpec {
            joint: "joint_0".into(),
            mode: Mode::Position,
            scale: 1.0,
            offset: 0.0,
            clip: None,
            kp: 1.0,
            kd: 0.0,
        }],
        joints,
        observations: vec![TermSpec::plain("position", Signal::JointPosition)],
        fallback: FallbackSpec::default(),
        power_budget: rng.bool().then(|| 10f32.powf(within(rng, -2.0, 4.0))),
        profiles,
        default_profile: None,
        monitors: MonitorsSpec::default(),
        error_budget: None,
    };
    if rng.u8(0..10) == 0 {
        spec.joints[0].velocity_limit = f32::from_bits(rng.u32(1..1000));
    }
    spec
}

fn random_command(rng: &mut Rng) -> JointCommand {
    let wild = rng.u8(0..3) == 0;
    let mut value = |scale: f32| if wild { any_f32(rng) } else { within(rng, -scale, scale) };
    let mut c = JointCommand {
        position: value(4.0),
        velocity: value(20.0),
        torque: value(20.0),
        kp: value(200.0),
        kd: value(20.0),
        torque_limit: value(20.0),
    };
    if rng.bool() {
        (c.kp, c.kd, c.torque_limit) = (c.kp.abs(), c.kd.abs(), c.torque_limit.abs());
    }
    // The modes: position, velocity, torque.
    match rng.u8(0..4) {
        0 => c.kp = 0.0,
        1 => (c.kp, c.kd) = (0.0, 0.0),
        _ => {}
    }
    c
}

fn measurement(rng: &mut Rng, low: f32, high: f32) -> f32 {
    match rng.u8(0..10) {
        0 => any_f32(rng),
        1 => low,
        2 => high,
        3 => within(rng, 2.0 * low, 2.0 * high),
        4 => high - (high - low) * 1e-3 * rng.f32(),
        _ => within(rng, low, high),
    }
}
