//! Policies that other projects published, as they are.

mod common;

use common::{check, contract, real};
use tendon_compiler::parity::{ImageRunner, OnnxRunner, TOLERANCE, compare_recorded, output_labels};
use tendon_compiler::trace::Trace;
use tendon_compiler::{ContractChoice, Options, compile, inspect};

fn with_contract<'a>(file: &'a str, text: &'a str) -> Options<'a> {
    Options { contract: ContractChoice::Toml { file, text }, ..Options::default() }
}

#[test]
fn go1_policy_compiles_as_it_is_and_agrees_with_tract() {
    let Some(onnx) = real("go1_joystick.onnx") else { return };
    let (compiled, report) = check(&onnx, 256);
    println!("Go1, random inputs: {report}");
    assert!(report.passed(), "{report}");
    let runner = ImageRunner::new(&compiled.image).unwrap();
    let plan = runner.policy().network.plan();
    assert_eq!(
        (plan.n_inputs, plan.n_outputs, plan.macs),
        (48, 12, 48 * 512 + 512 * 256 + 256 * 128 + 128 * 12)
    );
    assert_eq!(
        runner.policy().network.operators().len(),
        4,
        "normalization, swish, split and tanh are fused"
    );
    assert_eq!(compiled.arena.planned, 768);
}

#[test]
fn go1_trace_is_reproduced_by_tract_and_by_the_runtime() {
    let (Some(onnx), Some(csv)) = (real("go1_joystick.onnx"), real("go1_trace_forward.csv")) else { return };
    let text = contract("go1_joystick.toml");
    let compiled = compile(&onnx, &with_contract("go1_joystick.toml", &text)).unwrap();
    let trace = Trace::read(&*csv, 48, 12).unwrap();
    assert_eq!(trace.observations.len(), 500);
    let labels = output_labels(12, compiled.contract.as_ref());
    assert_eq!(labels[3], "act3 (FL_hip_joint)");
    let reference = OnnxRunner::new(&onnx).unwrap();
    let tract =
        compare_recorded(&trace.observations, &trace.actions, &labels, TOLERANCE, |x| reference.run(x));
    let mut image = ImageRunner::new(&compiled.image).unwrap();
    let own = compare_recorded(&trace.observations, &trace.actions, &labels, TOLERANCE, |x| image.run(x));
    let (tract, own) = (tract.unwrap(), own.unwrap());
    println!("Go1 trace, tract: {tract}\nGo1 trace, runtime: {own}");
    assert!(tract.passed() && own.passed());
}

#[test]
fn g1_policy_compiles_as_it_is_and_agrees_with_tract() {
    let Some(onnx) = real("g1_velocity.onnx") else { return };
    let text = contract("g1_velocity.toml");
    let (_, report) = check(&onnx, 128);
    println!("G1, random inputs: {report}");
    assert!(report.passed(), "{report}");
    let compiled = compile(&onnx, &with_contract("g1_velocity.toml", &text)).unwrap();
    let runner = ImageRunner::new(&compiled.image).unwrap();
    let view = runner.policy().contract.unwrap();
    assert_eq!((view.header.n_observation, view.header.history_len, view.joints.len()), (480, 480, 29));
}

#[test]
fn inspect_shows_terms_joints_operators_and_sizes_of_a_real_policy() {
    let Some(onnx) = real("go1_joystick.onnx") else { return };
    let text = contract("go1_joystick.toml");
    let compiled = compile(&onnx, &with_contract("go1_joystick.toml", &text)).unwrap();
    let table = inspect::inspect(&compiled.image, Some(1234)).unwrap();
    println!("{table}");
    for part in
        ["go1", "last raw action", "RL_calf_joint", "35.55", "Swish", "48 -> 512", "1234 bytes", "189952"]
    {
        assert!(table.contains(part), "{part}");
    }
}

#[test]
fn a_contract_of_the_wrong_robot_is_refused_with_the_sum_of_its_terms() {
    let Some(onnx) = real("go1_joystick.onnx") else { return };
    let text = contract("g1_velocity.toml");
    let error = compile(&onnx, &with_contract("g1_velocity.toml", &text)).unwrap_err().to_string();
    assert!(error.contains("has 48 elements") && error.contains("make 480"), "{error}");
    assert!(error.contains("base_ang_vel 3 x 5 + projected_gravity 3 x 5"), "{error}");
}
