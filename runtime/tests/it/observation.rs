use crate::numbers::within;
use crate::world::{ROBOT_INDEX, spec, state};
use fastrand::Rng;
use tendon_runtime::spec::{ContractSpec, HistoryOrder, PerElement, Signal, TermSpec};
use tendon_runtime::{ObservationBuilder, RawState, StateFault, check_state, math};

const LAST_ACTION: [f32; 2] = [0.7, -0.8];

fn with_terms(terms: Vec<TermSpec>) -> ContractSpec {
    ContractSpec { observations: terms, ..spec() }
}

/// One observation per state.
fn observe(spec: &ContractSpec, states: &[RawState]) -> Vec<Vec<f32>> {
    let compiled = spec.compile().unwrap();
    let contract = compiled.view();
    let mut history = vec![f32::NAN; contract.header.history_len as usize];
    let mut builder = ObservationBuilder::default();
    states
        .iter()
        .map(|state| {
            check_state(&contract, state).unwrap();
            let mut observation = vec![f32::NAN; contract.header.n_observation as usize];
            builder.build(&contract, state, &LAST_ACTION, &mut history, &mut observation).unwrap();
            observation
        })
        .collect()
}

/// A state in which every number is another one.
fn distinct() -> RawState {
    let mut state = state();
    state.base_linear_velocity = [0.1, 0.2, 0.3];
    state.base_angular_velocity = [0.4, 0.5, 0.6];
    state.base_orientation = [0.8, 0.0, 0.6, 0.0];
    state.joint_position.copy_from_slice(&[1.0, 1.1, 1.2]);
    state.joint_velocity.copy_from_slice(&[2.0, 2.1, 2.2]);
    state.command.copy_from_slice(&[3.0, 3.1]);
    state.preference.copy_from_slice(&[4.0]);
    state.sensors.copy_from_slice(&[5.0, 5.1]);
    state
}

fn counting(value: f32) -> RawState {
    let mut state = state();
    state.command.copy_from_slice(&[value, -value]);
    state
}

#[test]
fn every_signal_arrives_joints_in_the_policys_order() {
    let position = [1.2, 1.0, 1.1]; // robot's 2, 0, 1
    let defaults = [0.1, -0.2, 0.3];
    let relative: Vec<f32> = position.iter().zip(defaults).map(|(q, d)| q - d).collect();
    // Pitched by 2 atan(0.6 / 0.8): gravity in the IMU frame is (0.96, 0, -0.28).
    let cases: [(Signal, Vec<f32>); 13] = [
        (Signal::BaseLinearVelocity, vec![0.1, 0.2, 0.3]),
        (Signal::BaseAngularVelocity, vec![0.4, 0.5, 0.6]),
        (Signal::ProjectedGravity, vec![0.96, 0.0, -0.28]),
        (Signal::BaseOrientation, vec![0.8, 0.0, 0.6, 0.0]),
        (Signal::JointPosition, position.to_vec()),
        (Signal::JointPositionRelative, relative),
        (Signal::JointVelocity, vec![2.2, 2.0, 2.1]),
        (Signal::LastAction, LAST_ACTION.to_vec()),
        (Signal::Command, vec![3.0, 3.1]),
        (Signal::Preference, vec![4.0]),
        (Signal::Sensor, vec![5.0, 5.1]),
        (Signal::JointSin, position.iter().map(|q| math::sin_cos(*q).0).collect()),
        (Signal::JointCos, position.iter().map(|q| math::sin_cos(*q).1).collect()),
    ];
    let all = with_terms(cases.iter().map(|(signal, _)| TermSpec::plain("term", *signal)).collect());
    let mut observed = observe(&all, &[distinct()]).remove(0).into_iter();
    for (signal, expected) in cases {
        for (element, expected) in expected.into_iter().enumerate() {
            let value = observed.next().unwrap();
            assert!((value - expected).abs() < 1e-6, "{signal:?}[{element}] is {value}, expected {expected}");
        }
    }
    assert_eq!(observed.next(), None);
}

#[test]
fn scales_then_offsets_then_clips_each_element() {
    let term = TermSpec {
        scale: PerElement::Each(vec![2.0, 10.0, -1.0]),
        offset: PerElement::Each(vec![0.5, 0.0, 0.25]),
        clip: Some([-2.0, 4.0]),
        ..TermSpec::plain("velocity", Signal::JointVelocity)
    };
    let mut state = state();
    for (value, index) in [1.0, 1.0, 3.0].into_iter().zip(ROBOT_INDEX) {
        state.joint_velocity[index] = value;
    }
    assert_eq!(observe(&with_terms(vec![term]), &[state]), [[2.5, 4.0, -2.0]]);
}

#[test]
fn takes_a_sub_range_of_a_signal() {
    let term = |first, width| TermSpec {
        elements: Some([first, width]),
        ..TermSpec::plain("position", Signal::JointPosition)
    };
    let observed = observe(&with_terms(vec![term(1, 2), term(2, 1)]), &[distinct()]);
    assert_eq!(observed, [[1.0, 1.1, 1.1]]);
}

#[test]
fn keeps_history_oldest_first_or_newest_first() {
    let term = |order| TermSpec { history: 3, order, ..TermSpec::plain("command", Signal::Command) };
    let spec = with_terms(vec![
        term(HistoryOrder::OldestFirst),
        TermSpec::plain("now", Signal::Command),
        term(HistoryOrder::NewestFirst),
    ]);
    let states: Vec<RawState> = (1..=4).map(|i| counting(i as f32)).collect();
    let observed = observe(&spec, &states);
    assert_eq!(observed[2], [1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 3.0, -3.0, 3.0, -3.0, 2.0, -2.0, 1.0, -1.0]);
    assert_eq!(observed[3], [2.0, -2.0, 3.0, -3.0, 4.0, -4.0, 4.0, -4.0, 4.0, -4.0, 3.0, -3.0, 2.0, -2.0]);
}

#[test]
fn the_first_frame_fills_a_history_of_any_length() {
    for history in 1..=40 {
        for order in [HistoryOrder::OldestFirst, HistoryOrder::NewestFirst] {
            let spec =
                with_terms(vec![TermSpec { history, order, ..TermSpec::plain("command", Signal::Command) }]);
            let observed = observe(&spec, &[counting(1.0)]);
            assert_eq!(observed[0], [1.0, -1.0].repeat(history.into()), "{history} frames, {order:?}");
        }
    }
}

#[test]
fn reset_forgets_the_history() {
    let spec = with_terms(vec![TermSpec { history: 2, ..TermSpec::plain("command", Signal::Command) }]);
    let compiled = spec.compile().unwrap();
    let contract = compiled.view();
    let (mut history, mut observation) = ([f32::NAN; 4], [f32::NAN; 4]);
    let mut builder = ObservationBuilder::default();
    for value in [1.0, 2.0] {
        builder.build(&contract, &counting(value), &[], &mut history, &mut observation).unwrap();
    }
    assert_eq!(observation, [1.0, -1.0, 2.0, -2.0]);
    builder.reset();
    builder.build(&contract, &counting(5.0), &[], &mut history, &mut observation).unwrap();
    assert_eq!(observation, [5.0, -5.0, 5.0, -5.0]);
}

#[test]
fn says_when_memory_is_shorter_than_the_plan() {
    let compiled = spec().compile().unwrap();
    let contract = compiled.view();
    let (n, h) = (contract.header.n_observation as usize, contract.header.history_len as usize);
    for (history, observation) in [(h - 1, n), (h, n - 1), (0, 0)] {
        let (mut history, mut observation) = (vec![0.0; history], vec![0.0; observation]);
        let mut builder = ObservationBuilder::default();
        let result = builder.build(&contract, &state(), &LAST_ACTION, &mut history, &mut observation);
        assert_eq!(result, Err(StateFault::Memory));
    }
}

#[test]
fn refuses_each_field_that_is_not_finite_or_has_another_count() {
    type Field = (&'static str, fn(&mut RawState) -> (&mut [f32], Option<usize>));
    type Resize = (&'static str, fn(&mut RawState, usize));
    let compiled = spec().compile().unwrap();
    let contract = compiled.view();
    let fields: [Field; 8] = [
        ("joint_position", |s| (&mut s.joint_position, Some(3))),
        ("joint_velocity", |s| (&mut s.joint_velocity, Some(3))),
        ("command", |s| (&mut s.command, Some(2))),
        ("preference", |s| (&mut s.preference, Some(1))),
        ("sensors", |s| (&mut s.sensors, Some(2))),
        ("base_angular_velocity", |s| (&mut s.base_angular_velocity, None)),
        ("base_linear_velocity", |s| (&mut s.base_linear_velocity, None)),
        ("base_orientation", |s| (&mut s.base_orientation, None)),
    ];
    assert_eq!(check_state(&contract, &state()), Ok(()));
    for (field, values) in fields {
        let count = values(&mut state()).0.len();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for element in 0..count {
                let mut state = state();
                values(&mut state).0[element] = bad;
                let result = check_state(&contract, &state);
                assert_eq!(result, Err(StateFault::NotFinite(field)), "{field}[{element}] = {bad}");
            }
        }
    }
    let counts: [Resize; 5] = [
        ("joint_position", |s, n| s.joint_position.resize(n, 0.0).unwrap()),
        ("joint_velocity", |s, n| s.joint_velocity.resize(n, 0.0).unwrap()),
        ("command", |s, n| s.command.resize(n, 0.0).unwrap()),
        ("preference", |s, n| s.preference.resize(n, 0.0).unwrap()),
        ("sensors", |s, n| s.sensors.resize(n, 0.0).unwrap()),
    ];
    for (field, resize) in counts {
        let right = fields.iter().find(|(name, _)| *name == field).unwrap().1(&mut state()).1.unwrap();
        for count in (0..=8).filter(|count| *count != right) {
            let mut state = state();
            resize(&mut state, count);
            assert_eq!(check_state(&contract, &state), Err(StateFault::Count(field)), "{count}");
        }
    }
}

#[test]
fn refuses_a_quaternion_that_is_not_of_unit_length() {
    let compiled = spec().compile().unwrap();
    for quaternion in [[0.0; 4], [0.5, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [f32::MAX, 0.0, 0.0, 0.0]] {
        let state = RawState { base_orientation: quaternion, ..state() };
        assert_eq!(check_state(&compiled.view(), &state), Err(StateFault::Orientation), "{quaternion:?}");
    }
}

#[test]
fn projects_gravity_as_the_rotation_matrix_does_in_f64() {
    let spec = with_terms(vec![TermSpec::plain("gravity", Signal::ProjectedGravity)]);
    let mut rng = Rng::with_seed(3);
    for _ in 0..20_000 {
        let raw: [f64; 4] = std::array::from_fn(|_| f64::from(within(&mut rng, -1.0, 1.0)));
        let norm = raw.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm < 0.1 {
            continue;
        }
        let [w, x, y, z] = raw.map(|v| v / norm);
        // Rows of world_from_imu; the third is world's z axis in the IMU frame.
        let up = [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)];
        let state = RawState { base_orientation: [w, x, y, z].map(|v| v as f32), ..state() };
        let observed = observe(&spec, &[state]).remove(0);
        for (value, up) in observed.iter().zip(up) {
            assert!((f64::from(*value) + up).abs() < 1e-6, "{observed:?} against {up:?}");
        }
    }
}
