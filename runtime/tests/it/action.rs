use crate::world::spec;
use tendon_runtime::spec::{ContractSpec, Mode};
use tendon_runtime::{JointCommand, map_action};

fn mapped(spec: &ContractSpec, action: &[f32]) -> Vec<JointCommand> {
    let compiled = spec.compile().unwrap();
    map_action(&compiled.view(), action)[..spec.joints.len()].to_vec()
}

fn with_mode(mode: Mode) -> ContractSpec {
    let mut spec = spec();
    spec.actions[1].mode = mode;
    spec
}

#[test]
fn clips_then_scales_then_offsets() {
    let commands = mapped(&spec(), &[1.0, -100.0]);
    assert_eq!(commands[0].position, 1.0 * 0.25 + 0.1);
    assert_eq!(commands[1].position, -2.0 * 0.25 + 0.1, "clipped at -2");
}

#[test]
fn sets_position_velocity_or_torque_by_mode() {
    let position = mapped(&with_mode(Mode::Position), &[0.0, 1.0])[1];
    assert_eq!((position.position, position.kp, position.kd), (0.35, 15.0, 0.4));
    assert_eq!((position.velocity, position.torque), (0.0, 0.0));
    let velocity = mapped(&with_mode(Mode::Velocity), &[0.0, 1.0])[1];
    assert_eq!((velocity.velocity, velocity.torque, velocity.kp, velocity.kd), (0.35, 0.0, 0.0, 0.4));
    let torque = mapped(&with_mode(Mode::Torque), &[0.0, 1.0])[1];
    assert_eq!((torque.torque, torque.velocity, torque.kp, torque.kd), (0.35, 0.0, 0.0, 0.4));
}

#[test]
fn joints_without_action_hold_the_default_pose() {
    let held = mapped(&spec(), &[1.0, 1.0])[2];
    let expected =
        JointCommand { position: 0.3, kp: 20.0, kd: 0.5, torque_limit: 6.0, ..JointCommand::default() };
    assert_eq!(held, expected);
}

#[test]
fn passive_joints_have_no_gain() {
    let mut spec = spec();
    (spec.joints[2].kp, spec.joints[2].kd, spec.joints[2].torque_limit) = (0.0, 0.0, 0.0);
    let passive = mapped(&spec, &[1.0, 1.0])[2];
    assert_eq!((passive.kp, passive.kd, passive.torque, passive.torque_limit), (0.0, 0.0, 0.0, 0.0));
}

#[test]
fn actions_find_their_joint_by_name() {
    let mut spec = spec();
    spec.actions[0].joint = "joint_2".into();
    let commands = mapped(&spec, &[1.0, 0.0]);
    assert_eq!(commands[2].position, 0.35);
    assert_eq!(commands[0].position, 0.1, "default pose");
}

#[test]
fn keeps_nan_for_the_envelope_to_see() {
    assert!(mapped(&spec(), &[f32::NAN, 0.0])[0].position.is_nan());
}
