use crate::world::{any_f32, spec, within};
use fastrand::Rng;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{Contract, Envelope, JointCommand, MAX_JOINTS, math};
use tendon_wire::image::JointRecord;

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
    // A strong velocity servo at rest needs its torque cut; up to speed it needs none, although
    // the torque rate is slow.
    let mut spec = spec();
    spec.joints[0].torque_rate_limit = 5.0;
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

/// Limits from sluggish to absurd.
fn random_contract(rng: &mut Rng) -> ContractSpec {
    let mut spec = spec();
    spec.control_period_s = f64::from(within(rng, 1e-4, 0.1));
    for joint in &mut spec.joints {
        let mut size = |low: i32, high: i32| 10f32.powf(within(rng, low as f32, high as f32));
        joint.position_limits = [-size(-2, 5), size(-2, 5)];
        joint.default_position = 0.0;
        joint.velocity_limit = size(-6, 5);
        joint.acceleration_limit = size(-2, 6);
        joint.position_rate_limit = size(-2, 6);
        joint.torque_rate_limit = size(-2, 6);
        joint.torque_limit = size(-3, 4);
        joint.damping_kd = Some(size(-3, 3));
        if rng.u8(0..10) == 0 {
            joint.torque_limit = 0.0;
        }
        if rng.u8(0..10) == 0 {
            joint.velocity_limit = f32::from_bits(rng.u32(1..1000));
        }
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
    c
}

fn random_measurement(rng: &mut Rng, low: f32, high: f32) -> f32 {
    match rng.u8(0..8) {
        0 => any_f32(rng),
        1 => low,
        2 => high,
        3 => within(rng, 2.0 * low, 2.0 * high),
        _ => within(rng, low, high),
    }
}

struct Case<'a> {
    joint: &'a JointRecord,
    dt: f32,
    before: JointCommand,
    last: JointCommand,
    q: f32,
    dq: f32,
}

fn assert_promises(case: &Case<'_>, after: &JointCommand) {
    let Case { joint, dt, before, last, q, dq } = *case;
    let context = || format!("{joint:?}\ndt {dt} q {q} dq {dq}\nlast {last:?}\n{before:?}\n-> {after:?}");
    let c = after;
    let members = [c.position, c.velocity, c.torque, c.kp, c.kd, c.torque_limit];
    assert!(members.iter().all(|v| v.is_finite()), "finite: {}", context());
    assert!((joint.position_min..=joint.position_max).contains(&c.position), "position: {}", context());
    assert!(c.kp >= 0.0 && c.kd >= 0.0, "gains: {}", context());
    assert!((0.0..=joint.torque_limit).contains(&c.torque_limit), "torque_limit: {}", context());
    if !(q.is_finite() && dq.is_finite()) {
        assert_eq!((c.kp, c.kd, c.torque, c.torque_limit), (0.0, 0.0, 0.0, 0.0), "no torque: {}", context());
        return;
    }
    let step = joint.position_rate_limit * dt;
    let place = |x| math::clip(x, joint.position_min, joint.position_max);
    let reach = place(last.position - step)..=place(last.position + step);
    assert!(reach.contains(&c.position), "position rate: {}", context());
    let step = joint.acceleration_limit * dt;
    let reach = last.velocity - step..=last.velocity + step;
    assert!(reach.contains(&c.velocity), "acceleration: {}", context());
    assert!(c.velocity.abs() <= joint.velocity_limit, "velocity: {}", context());

    let torque = torque(c, q, dq);
    let limit = f64::from(joint.torque_limit);
    let slack = limit * ROUNDING + 1e-30;
    assert!(torque.abs() <= limit + slack, "torque {torque}: {}", context());
    let too_high = q >= joint.position_max || dq >= joint.velocity_limit;
    assert!(!too_high || torque <= slack, "torque {torque} outwards: {}", context());
    let too_low = q <= joint.position_min || dq <= -joint.velocity_limit;
    assert!(!too_low || torque >= -slack, "torque {torque} outwards: {}", context());
}

/// Random commands, measurements and limits, in sequences so that the rate limits have a past.
fn random_walk(contract: &Contract<'_>, ticks: usize, rng: &mut Rng) {
    let dt = contract.period_s();
    let mut envelope = Envelope::default();
    let mut last = all(JointCommand::default());
    for _ in 0..ticks {
        if rng.u8(0..50) == 0 {
            let at: Vec<f32> =
                contract.joints.iter().map(|j| within(rng, j.position_min, j.position_max)).collect();
            envelope.reset(&at);
            for (last, q) in last.iter_mut().zip(at) {
                *last = JointCommand { position: q, ..JointCommand::default() };
            }
        }
        let mut measure = |f: fn(&JointRecord) -> (f32, f32)| -> Vec<f32> {
            contract.joints.iter().map(f).map(|(low, high)| random_measurement(rng, low, high)).collect()
        };
        let q = measure(|j| (j.position_min, j.position_max));
        let dq = measure(|j| (-j.velocity_limit, j.velocity_limit));
        let mut before = all(JointCommand::default());
        for command in before.iter_mut().take(contract.joints.len()) {
            *command = random_command(rng);
        }
        let mut after = before;
        let bits = envelope.apply(contract, &q, &dq, &mut after);
        for (index, joint) in contract.joints.iter().enumerate() {
            let case =
                Case { joint, dt, before: before[index], last: last[index], q: q[index], dq: dq[index] };
            assert_promises(&case, &after[index]);
            assert_eq!(bits >> index & 1 == 1, before[index] != after[index], "bit of joint {index}");
        }
        assert_eq!(bits >> contract.joints.len(), 0);
        last = after;
    }
}

#[test]
fn keeps_every_promise_in_random_cases() {
    // 2.4 million joint cases in release; a debug build is for debugging.
    let contracts = if cfg!(debug_assertions) { 50 } else { 2000 };
    let mut rng = Rng::with_seed(11);
    for _ in 0..contracts {
        let compiled = random_contract(&mut rng).compile().unwrap();
        random_walk(&compiled.view(), 400, &mut rng);
    }
}
