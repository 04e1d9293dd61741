#[path = "../examples/envelope_cases.rs"]
mod cases;

use crate::world::spec;
use tendon_runtime::oracle::Oracle;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{Envelope, JointCommand, MAX_JOINTS, Profile};

const STILL: JointCommand =
    JointCommand { position: 0.0, velocity: 0.0, torque: 0.0, kp: 0.0, kd: 0.0, torque_limit: 6.0 };
/// Rounding that the envelope's documentation allows, as a share of the torque limit.
const ROUNDING: f64 = 1e-3;

/// The servo law, in f64 and before its own clamp.
fn torque(c: &JointCommand, q: f32, dq: f32) -> f64 {
    let [position, velocity, q, dq] = [c.position, c.velocity, q, dq].map(f64::from);
    f64::from(c.kp) * (position - q) + f64::from(c.kd) * (velocity - dq) + f64::from(c.torque)
}

fn all(command: JointCommand) -> [JointCommand; MAX_JOINTS] {
    [command; MAX_JOINTS]
}

/// One application after a reset at `q`, joint 0.
fn limited(spec: &ContractSpec, q: f32, dq: f32, command: JointCommand) -> JointCommand {
    let compiled = spec.compile().unwrap();
    let mut envelope = Envelope::default();
    envelope.reset(&[q; 3]);
    let mut commands = all(command);
    envelope.apply(&compiled.view(), &[q; 3], &[dq; 3], &mut commands);
    commands[0]
}

#[test]
fn cannot_exceed_torque_limit_when_policy_returns_nan() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let members: [fn(&mut JointCommand) -> &mut f32; 6] = [
            |c| &mut c.position,
            |c| &mut c.velocity,
            |c| &mut c.torque,
            |c| &mut c.kp,
            |c| &mut c.kd,
            |c| &mut c.torque_limit,
        ];
        for member in members {
            let mut command = JointCommand { kp: 20.0, kd: 1.0, ..STILL };
            *member(&mut command) = bad;
            let safe = limited(&spec(), 0.5, 100.0, command);
            assert_eq!((safe.kp, safe.torque_limit, safe.position), (0.0, 6.0, 0.5), "{bad}: damping");
            assert!(torque(&safe, 0.5, 100.0).abs() <= 6.0 * (1.0 + ROUNDING), "{safe:?}");
        }
    }
}

#[test]
fn a_negative_gain_becomes_damping() {
    for command in [JointCommand { kp: -1.0, ..STILL }, JointCommand { kd: -1.0, ..STILL }] {
        let safe = limited(&spec(), 0.0, 0.0, command);
        assert_eq!((safe.kp, safe.kd), (0.0, 1.0));
    }
}

#[test]
fn gives_no_torque_when_a_measurement_is_not_finite_or_missing() {
    let command = JointCommand { kp: 20.0, kd: 1.0, torque: 3.0, ..STILL };
    let none = |c: &JointCommand| (c.kp, c.kd, c.torque, c.torque_limit) == (0.0, 0.0, 0.0, 0.0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for command in [command, JointCommand { kp: 0.0, ..command }] {
            assert!(none(&limited(&spec(), bad, 0.0, command)), "q = {bad}");
            assert!(none(&limited(&spec(), 0.0, bad, command)), "dq = {bad}");
        }
    }
    let compiled = spec().compile().unwrap();
    let mut commands = all(command);
    let bits = Envelope::default().apply(&compiled.view(), &[0.0], &[0.0, 0.0], &mut commands);
    assert!(commands[1..3].iter().all(none), "{:?}", &commands[..3]);
    assert_eq!(bits & 0b110, 0b110);
}

#[test]
fn goes_on_from_the_last_setpoint_after_a_measurement_was_not_finite() {
    let mut spec = spec();
    spec.joints[0].position_rate_limit = 1.0; // 0.02 rad per tick
    let compiled = spec.compile().unwrap();
    let mut envelope = Envelope::default();
    envelope.reset(&[1.0; 3]);
    for q in [1.0, f32::NAN, 1.0] {
        let mut commands = all(JointCommand { position: -1.0, kp: 1.0, ..STILL });
        envelope.apply(&compiled.view(), &[q; 3], &[0.0; 3], &mut commands);
        assert!(commands[0].position > 0.9, "{:?}", commands[0]);
    }
}

#[test]
fn cannot_leave_the_position_limits_or_their_rate() {
    let mut spec = spec();
    spec.joints[0].position_rate_limit = 5.0; // 0.1 rad per tick
    let command = JointCommand { position: 50.0, kp: 1.0, ..STILL };
    assert!((limited(&spec, 0.0, 0.0, command).position - 0.1).abs() < 1e-6);
    assert_eq!(limited(&spec, 1.99, 0.0, command).position, 2.0);
    // Also where the position setpoint has to follow a joint that was pushed away.
    let compiled = spec.compile().unwrap();
    let mut envelope = Envelope::default();
    envelope.reset(&[0.0; 3]);
    let mut commands = all(JointCommand { kp: 1000.0, ..STILL });
    envelope.apply(&compiled.view(), &[1.0; 3], &[0.0; 3], &mut commands);
    assert!(commands[0].position <= 0.1 + 1e-6, "{:?}", commands[0]);
    assert!((torque(&commands[0], 1.0, 0.0) + 6.0).abs() < 1e-2, "{:?}", commands[0]);
}

#[test]
fn cannot_exceed_velocity_and_acceleration_limits() {
    let mut spec = spec();
    spec.joints[0].acceleration_limit = 100.0; // 2 rad/s per tick
    let compiled = spec.compile().unwrap();
    let mut envelope = Envelope::default();
    for tick in 1..=6 {
        let mut commands = all(JointCommand { velocity: 100.0, kd: 0.1, ..STILL });
        envelope.apply(&compiled.view(), &[0.0; 3], &[0.0; 3], &mut commands);
        let expected = (2.0 * tick as f32).min(8.0);
        assert!((commands[0].velocity - expected).abs() < 1e-4, "tick {tick}: {:?}", commands[0]);
    }
}

#[test]
fn feed_forward_torque_rises_at_its_rate() {
    let mut spec = spec();
    spec.joints[0].torque_rate_limit = 50.0; // 1 N m per tick
    let compiled = spec.compile().unwrap();
    let mut envelope = Envelope::default();
    for tick in 1..=8 {
        let mut commands = all(JointCommand { torque: 100.0, ..STILL });
        envelope.apply(&compiled.view(), &[0.0; 3], &[0.0; 3], &mut commands);
        let expected = (tick as f32).min(6.0);
        assert!((commands[0].torque - expected).abs() < 1e-4, "tick {tick}: {:?}", commands[0]);
    }
}

#[test]
fn a_torque_correction_ends_with_its_cause() {
    // A strong velocity servo at rest needs its torque cut; up to speed it needs none.
    let mut spec = spec();
    spec.joints[0].acceleration_limit = 1e6;
    let compiled = spec.compile().unwrap();
    let mut envelope = Envelope::default();
    let mut commands = all(STILL);
    for dq in [0.0, 0.0, 3.99] {
        commands = all(JointCommand { velocity: 4.0, kd: 50.0, ..STILL });
        envelope.apply(&compiled.view(), &[0.0; 3], &[dq; 3], &mut commands);
    }
    assert!((torque(&commands[0], 0.0, 3.99) - 0.5).abs() < 1e-3, "{:?}", commands[0]);
}

#[test]
fn takes_torque_away_in_the_direction_of_too_fast_a_motion() {
    for (dq, torque_command) in [(8.0, 5.0), (9.0, 5.0), (-8.0, -5.0), (-9.0, -5.0)] {
        let safe = limited(&spec(), 0.0, dq, JointCommand { torque: torque_command, ..STILL });
        assert!(torque(&safe, 0.0, dq).abs() < 1e-6, "{dq}: {safe:?}");
        let brake = limited(&spec(), 0.0, dq, JointCommand { torque: -torque_command, ..STILL });
        assert_eq!(brake.torque, -torque_command, "braking is free");
    }
}

#[test]
fn a_velocity_exactly_at_a_tiny_limit_still_has_bounds() {
    let mut spec = spec();
    spec.joints[0].velocity_limit = f32::from_bits(1);
    let safe = limited(
        &spec,
        0.0,
        f32::from_bits(1),
        JointCommand { torque: 100.0, kp: 1e6, position: 1.0, ..STILL },
    );
    assert!(torque(&safe, 0.0, 0.0).abs() < 1e-6, "{safe:?}");
}

#[test]
fn does_not_push_further_out_of_the_position_limits() {
    for (q, outwards) in [(2.0, 5.0), (2.5, 5.0), (-1.5, -5.0), (-3.0, -5.0)] {
        let safe = limited(&spec(), q, 0.0, JointCommand { torque: outwards, ..STILL });
        assert!(torque(&safe, q, 0.0).abs() < 1e-6, "{q}: {safe:?}");
    }
}

#[test]
fn leaves_a_harmless_command_alone() {
    let command =
        JointCommand { position: 0.1, velocity: 0.5, torque: 0.2, kp: 10.0, kd: 0.4, torque_limit: 5.0 };
    let compiled = spec().compile().unwrap();
    let mut commands = all(command);
    assert_eq!(Envelope::default().apply(&compiled.view(), &[0.0; 3], &[0.0; 3], &mut commands), 0);
    assert_eq!(commands[0], command);
}

#[test]
fn keeps_every_promise_in_random_cases() {
    // A debug build is for debugging.
    let contracts = if cfg!(debug_assertions) { 50 } else { 1500 };
    let report = cases::run(11, contracts).unwrap_or_else(|violation| panic!("{violation:#?}"));
    println!("{report:?}");
    if !cfg!(debug_assertions) {
        assert!(report.joint_cases >= 1_000_000);
        // Every kind of limit was felt.
        assert!(report.limited > report.joint_cases / 10 && report.limited < report.joint_cases);
        assert!(report.at_power_budget > 1000 && report.without_measurement > 1000, "{report:?}");
    }
}

#[test]
fn the_oracle_sees_what_an_envelope_without_a_limit_lets_through() {
    // One output each that breaks one promise; the oracle is no rubber stamp.
    let mut spec = spec();
    spec.power_budget = Some(10.0);
    let compiled = spec.compile().unwrap();
    let contract = compiled.view();
    let still = JointCommand { torque_limit: 6.0, ..JointCommand::default() };
    let broken: [(&str, JointCommand, f32, f32); 9] = [
        ("finite", JointCommand { torque: f32::NAN, ..still }, 0.0, 0.0),
        ("position limits", JointCommand { position: 2.1, ..still }, 0.0, 0.0),
        ("gains and torque limit", JointCommand { torque_limit: 6.1, ..still }, 0.0, 0.0),
        ("no torque without a measurement", still, f32::NAN, 0.0),
        ("position rate, acceleration and jerk", JointCommand { position: 0.17, ..still }, 0.0, 0.0),
        ("velocity, acceleration and jerk", JointCommand { velocity: 8.1, ..still }, 0.0, 0.0),
        ("torque", JointCommand { torque: 6.1, ..still }, 0.0, 0.0),
        ("torque", JointCommand { torque: 0.1, ..still }, 0.0, 8.0),
        ("power", JointCommand { torque: 5.0, ..still }, 0.0, 4.0),
    ];
    for (promise, command, q, dq) in broken {
        let mut oracle = Oracle::new(&contract);
        let found = oracle.check(&contract, &Profile::default(), &[q; 3], &[dq; 3], &[command; 3]);
        assert_eq!(found.unwrap_err().promise, promise);
    }
    let mut slow = spec.clone();
    slow.joints[0].torque_rate_limit = 10.0;
    let compiled = slow.compile().unwrap();
    let mut oracle = Oracle::new(&compiled.view());
    let command = JointCommand { torque: 0.5, ..still };
    let found = oracle.check(&compiled.view(), &Profile::default(), &[0.0; 3], &[0.0; 3], &[command; 3]);
    assert_eq!(found.unwrap_err().promise, "torque rate");
}
