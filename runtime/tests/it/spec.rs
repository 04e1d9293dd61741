use crate::numbers::within;
use crate::world::spec;
use fastrand::Rng;
use tendon_runtime::spec::{ContractSpec, InputSpec, PerElement, Signal, SpecError, TermSpec};
use tendon_runtime::{AlignedBytes, Contract};

/// The field that `compile` names after `change`.
fn refused(change: impl FnOnce(&mut ContractSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    match spec.compile().unwrap_err() {
        SpecError::Field { field, .. } => field,
        SpecError::Contract(error) => format!("{} row {}", error.field, error.row),
        SpecError::Json(error) => panic!("{error}"),
    }
}

#[test]
fn json_keeps_every_bit_of_every_number() {
    let mut rng = Rng::with_seed(7);
    for _ in 0..2_000 {
        let mut spec = spec();
        spec.control_period_s = rng.f64();
        spec.fallback.hold_s = rng.f64() * 1e-3;
        for joint in &mut spec.joints {
            joint.default_position = within(&mut rng, -3.0, 3.0);
            joint.kp = f32::from_bits(rng.u32(1..f32::MAX.to_bits()));
        }
        let scales = (0..3).map(|_| f32::from_bits(rng.u32(1..f32::MAX.to_bits()))).collect();
        spec.observations[0].scale = PerElement::Each(scales);
        assert_eq!(ContractSpec::from_json(&spec.to_json()), Ok(spec));
    }
}

#[test]
fn names_an_unknown_key() {
    let json = spec().to_json();
    for (at, key) in [
        ("{\"version\"", "{\"colour\":1,\"version\""),
        ("{\"name\":\"joint_0\"", "{\"torque\":1,\"name\":\"joint_0\""),
    ] {
        let json = json.replacen(at, key, 1);
        let Err(SpecError::Json(error)) = ContractSpec::from_json(&json) else { panic!("{key} was taken") };
        assert!(error.contains("unknown field"), "{error}");
        assert!(error.contains("line 1 column"), "{error}");
    }
    assert!(matches!(ContractSpec::from_json("{"), Err(SpecError::Json(_))));
}

#[test]
fn names_the_field_that_does_not_hold() {
    type Case = (&'static str, fn(&mut ContractSpec));
    let cases: [Case; 32] = [
        ("version", |s| s.version = 2),
        ("robot", |s| s.robot = String::new()),
        ("robot", |s| s.robot = "x".repeat(33)),
        ("joints[1].name", |s| s.joints[1].name = "joint_0".into()),
        ("control_period_s", |s| s.control_period_s = f64::NAN),
        ("control_period_s", |s| s.control_period_s = -1.0),
        ("period_us row 0", |s| s.control_period_s = 0.0),
        ("fallback.dwell_s", |s| s.fallback.dwell_s = 1e9),
        ("ready_tolerance row 0", |s| s.fallback.ready_tolerance = 0.0),
        ("ready_velocity row 0", |s| s.fallback.ready_velocity = f32::INFINITY),
        ("n_joints row 0", |s| (s.joints, s.actions, s.observations) = (vec![], vec![], vec![])),
        ("n_terms row 0", |s| s.observations.clear()),
        ("n_actions row 0", |s| {
            s.actions.clear();
            s.observations.retain(|term| term.signal != Signal::LastAction);
        }),
        ("robot_index row 1", |s| s.joints[1].robot_index = Some(2)),
        ("robot_index row 0", |s| s.joints[0].robot_index = Some(3)),
        ("velocity_limit row 2", |s| s.joints[2].velocity_limit = 0.0),
        ("acceleration_limit row 0", |s| s.joints[0].acceleration_limit = f32::NAN),
        ("torque_limit row 0", |s| s.joints[0].torque_limit = -1.0),
        ("damping_kd row 0", |s| s.joints[0].damping_kd = Some(f32::NAN)),
        ("position_min row 0", |s| s.joints[0].position_limits = [1.0, 1.0]),
        ("position_max row 0", |s| s.joints[0].position_limits = [-1.0, f32::INFINITY]),
        ("default_position row 0", |s| s.joints[0].default_position = 2.1),
        ("observations[0].elements", |s| s.observations[0].elements = Some([2, 2])),
        ("observations[0].elements", |s| s.observations[0].elements = Some([0, 0])),
        ("observations[0].scale", |s| s.observations[0].scale = PerElement::Each(vec![1.0; 2])),
        ("observations[0].offset", |s| s.observations[0].offset = PerElement::Each(vec![])),
        ("scale, offset or clip row 0", |s| s.observations[0].scale = PerElement::One(f32::NAN)),
        ("clip row 0", |s| s.observations[0].clip = Some([1.0, -1.0])),
        ("history row 1", |s| s.observations[1].history = 0),
        ("actions[1].joint", |s| s.actions[1].joint = "tail".into()),
        ("action joint row 1", |s| s.actions[1].joint = "joint_0".into()),
        ("action clip row 0", |s| s.actions[0].clip = Some([1.0, 1.0])),
    ];
    for (field, change) in cases {
        assert_eq!(refused(change), field);
    }
    assert_eq!(refused(|s| s.actions[0].kp = -1.0), "action kp row 0");
    assert_eq!(refused(|s| s.actions[0].scale = f32::NAN), "action scale row 0");
}

#[test]
fn absurd_sizes_are_errors_and_never_wrap() {
    let many = |n: usize| -> Vec<InputSpec> { vec![spec().commands[0].clone(); n] };
    assert_eq!(
        refused(|s| s.joints = (0..70_000)
            .map(|i| {
                let mut j = s.joints[0].clone();
                j.name = i.to_string();
                j
            })
            .collect()),
        "joints"
    );
    assert_eq!(refused(|s| s.actions = vec![s.actions[0].clone(); 65_537]), "actions");
    assert_eq!(refused(|s| s.observations = vec![s.observations[0].clone(); 65_537]), "observations");
    assert_eq!(refused(|s| s.commands = many(65_538)), "commands", "2 if it wrapped, as many as there were");
    assert_eq!(refused(|s| s.preferences = many(65_537)), "preferences");
    assert_eq!(refused(|s| s.sensors = vec![String::new(); 65_538]), "sensors");
    for elements in [[0, u16::MAX], [u16::MAX, 1], [u16::MAX, u16::MAX]] {
        assert_eq!(refused(|s| s.observations[0].elements = Some(elements)), "observations[0].elements");
    }
    assert_eq!(refused(|s| s.observations[1].history = u16::MAX), "n_observation row 0");
    let longest = |s: &mut ContractSpec| {
        s.observations = vec![TermSpec { history: u16::MAX, ..TermSpec::plain("a", Signal::Sensor) }; 512];
    };
    assert_eq!(refused(longest), "n_observation row 0", "the sum does not wrap either");
}

#[test]
fn bytes_split_into_the_records_that_were_compiled() {
    let compiled = spec().compile().unwrap();
    let bytes = AlignedBytes::new(&compiled.bytes());
    let contract = Contract::split(&bytes).unwrap();
    let view = compiled.view();
    assert_eq!(contract.header, view.header);
    assert_eq!((contract.joints, contract.actions), (view.joints, view.actions));
    assert_eq!((contract.terms, contract.values), (view.terms, view.values));
    assert_eq!(contract.check(), Ok(()));
    for length in 0..bytes.len() {
        assert!(Contract::split(&bytes[..length]).is_none(), "{length} bytes");
    }
}

#[test]
fn mutated_bytes_never_panic() {
    let good = AlignedBytes::new(&spec().compile().unwrap().bytes());
    let mut rng = Rng::with_seed(9);
    let mut admitted = 0;
    for _ in 0..300_000 {
        let mut bad = good.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..good.len());
            bad.as_mut_slice()[at] =
                if rng.bool() { rng.u8(..) } else { [0, 1, 0x7f, 0x80, 0xff][rng.usize(..5)] };
        }
        let length = if rng.u8(0..10) == 0 { rng.usize(..good.len()) } else { good.len() };
        if Contract::split(&bad[..length]).is_some_and(|contract| contract.check().is_ok()) {
            admitted += 1;
        }
    }
    assert!(admitted > 1_000, "the mutator reaches behind the first check: {admitted}");
}
