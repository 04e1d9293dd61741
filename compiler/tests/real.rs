//! Policies that other projects published, as they are.

mod common;

use common::{check, contract, real};
use prost::Message;
use tendon_compiler::parity::{
    ImageRunner, OnnxRunner, TOLERANCE, compare, compare_recorded, output_labels, random_inputs,
};
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
fn go1_trace_is_reproduced_by_stock_tract_and_by_the_runtime() {
    let (Some(onnx), Some(csv)) = (real("go1_joystick.onnx"), real("go1_trace_forward.csv")) else { return };
    let text = contract("go1_joystick.toml");
    let compiled = compile(&onnx, &with_contract("go1_joystick.toml", &text)).unwrap();
    let trace = Trace::read(&*csv, 48, 12).unwrap();
    assert_eq!(trace.observations.len(), 500);
    let labels = output_labels(12, compiled.contract.as_ref());
    assert_eq!(labels[3], "act3 (FL_hip_joint)");
    let reference = OnnxRunner::stock(&onnx).unwrap();
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

/// The Go1 policy, evaluated in f64 straight from the file's tensors.
fn go1_in_f64(onnx: &[u8]) -> impl FnMut(&[f32]) -> Result<Vec<f32>, String> {
    let graph = tract_onnx::pb::ModelProto::decode(onnx).unwrap().graph.unwrap();
    let tensor = move |name: &str| -> Vec<f64> {
        let tensor = graph.initializer.iter().find(|tensor| tensor.name == name).unwrap();
        tensor.raw_data.as_chunks().0.iter().map(|&word| f64::from(f32::from_le_bytes(word))).collect()
    };
    let mean = tensor("mlp_1/sub/ReadVariableOp:0");
    let scale = tensor("ConstantFolding/mlp_1/truediv_recip:0");
    let layers: Vec<_> = (0..4)
        .map(|layer| {
            let part = |part| tensor(&format!("mlp_1/MLP_0_1/hidden_{layer}_1/{part}/ReadVariableOp:0"));
            (part("Cast"), part("BiasAdd"), layer < 3)
        })
        .collect();
    move |x| {
        let mut x: Vec<f64> = x
            .iter()
            .zip(mean.iter().zip(&scale))
            .map(|(&x, (mean, scale))| (f64::from(x) - mean) * scale)
            .collect();
        for (weights, bias, hidden) in &layers {
            let sum = |(column, start): (usize, &f64)| {
                let weights = weights.iter().skip(column).step_by(bias.len());
                let sum = start + x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
                if *hidden { sum / (1.0 + (-sum).exp()) } else { sum }
            };
            x = bias.iter().enumerate().map(sum).collect();
        }
        Ok(x[..12].iter().map(|x| x.tanh() as f32).collect())
    }
}

#[test]
fn go1_on_runtime_and_reference_lies_closer_to_f64_than_on_stock_tract() {
    let Some(onnx) = real("go1_joystick.onnx") else { return };
    let compiled = compile(&onnx, &Options::default()).unwrap();
    let mut image = ImageRunner::new(&compiled.image).unwrap();
    let reference = OnnxRunner::new(&onnx).unwrap();
    let stock = OnnxRunner::stock(&onnx).unwrap();
    let inputs = random_inputs(48, 256, 7);
    let mut exact = go1_in_f64(&onnx);
    let runtime = compare(&inputs, &[], TOLERANCE, &mut exact, |x| image.run(x)).unwrap();
    let reference = compare(&inputs, &[], TOLERANCE, &mut exact, |x| reference.run(x)).unwrap();
    let stock = compare(&inputs, &[], TOLERANCE, &mut exact, |x| stock.run(x)).unwrap();
    println!(
        "Go1, random inputs, against f64. runtime: {runtime}\nreference: {reference}\nstock tract: {stock}"
    );
    assert!(runtime.passed() && reference.passed());
    assert!(runtime.max_error < stock.max_error);
}
