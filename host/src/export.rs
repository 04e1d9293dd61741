//! `policy.onnx`: an inspectable file that any ONNX runtime can run, with the policy's contract inside.

use std::path::Path;

use prost::Message;
use tendon_runtime::spec::{ContractSpec, JointSpec, METADATA_KEY};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use tendon_learn::run_folder::{FileError, write_atomically};
use tendon_learn::{ACTION_LIMIT, Activation, Head, NORMALISED_LIMIT, Policy};

/// Writes `policy` to `file` with metadata `tendon.contract` = `contract` (JSON) and `keys` (the CSV keys that other tools read:
/// `joint_names`, `joint_stiffness`, `joint_damping`, `default_joint_pos`, `observation_names`, `action_scale`).
///
/// # Errors
/// When the disk refuses; an older file is then intact.
pub fn export_onnx(
    policy: &Policy,
    contract: &str,
    keys: &[(String, String)],
    file: &Path,
) -> Result<(), FileError> {
    write_atomically(file, &policy_onnx(policy, contract, keys))
}

/// The keys that other tools read, as they write them (BeyondMimic, mjlab): one CSV string each.
pub fn contract_keys(contract: &ContractSpec) -> Vec<(String, String)> {
    let csv = |values: Vec<String>| values.join(",");
    let joints = |value: &dyn Fn(&JointSpec) -> String| csv(contract.joints.iter().map(value).collect());
    [
        ("joint_names", joints(&|j| j.name.clone())),
        ("joint_stiffness", joints(&|j| j.kp.to_string())),
        ("joint_damping", joints(&|j| j.kd.to_string())),
        ("default_joint_pos", joints(&|j| j.default_position.to_string())),
        ("observation_names", csv(contract.observations.iter().map(|term| term.name.clone()).collect())),
        ("action_scale", csv(contract.actions.iter().map(|action| action.scale.to_string()).collect())),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .to_vec()
}

/// The file's bytes. Input `obs`, `[1, n_obs]`, output `actions`, `[1, n_act]` in -1..1: `Sub -> Mul -> Clip` (observation
/// normaliser), then the network (`Gemm` and its activation per layer) once, or, for a flow, once per Euler step on
/// `[observation, x, t]` with `x` added up from 0; at the end `Clip`.
pub fn policy_onnx(policy: &Policy, contract: &str, keys: &[(String, String)]) -> Vec<u8> {
    let (n_obs, n_act) = (policy.observation_len(), policy.action_len());
    let mut graph = Graph::default();
    graph.constant("normaliser.offset", &[1, n_obs], &policy.normaliser.offset);
    graph.constant("normaliser.scale", &[1, n_obs], &policy.normaliser.scale);
    graph.constant("normaliser.low", &[], &[-NORMALISED_LIMIT]);
    graph.constant("normaliser.high", &[], &[NORMALISED_LIMIT]);
    graph.node("Sub", &["obs", "normaliser.offset"], "centred");
    graph.node("Mul", &["centred", "normaliser.scale"], "scaled");
    graph.node("Clip", &["scaled", "normaliser.low", "normaliser.high"], "normalised");
    for (i, layer) in policy.mlp.layers().iter().enumerate() {
        let shape = [layer.inputs, layer.outputs];
        graph.constant(&format!("actor.{i}.weight"), &shape, &policy.parameters[layer.weights()]);
        graph.constant(&format!("actor.{i}.bias"), &shape[1..], &policy.parameters[layer.biases()]);
    }
    let input = match policy.head {
        Head::Direct => graph.network(policy, "normalised", ""),
        Head::Flow { steps } => {
            let length = 1.0 / steps as f32;
            graph.constant("flow.step", &[], &[length]);
            graph.constant("flow.start", &[1, n_act], &vec![0.0; n_act]);
            (0..steps).fold("flow.start".to_string(), |x, step| {
                let (time, input) = (format!("flow.{step}.time"), format!("flow.{step}.input"));
                graph.constant(&time, &[1, 1], &[step as f32 * length]);
                graph.concat(&["normalised", &x, &time], &input);
                let velocity = graph.network(policy, &input, &format!("flow.{step}."));
                let (moved, next) = (format!("flow.{step}.moved"), format!("flow.{step}.x"));
                graph.node("Mul", &[&velocity, "flow.step"], &moved);
                graph.node("Add", &[&x, &moved], &next);
                next
            })
        }
    };
    graph.constant("action.low", &[], &[-ACTION_LIMIT]);
    graph.constant("action.high", &[], &[ACTION_LIMIT]);
    graph.node("Clip", &[&input, "action.low", "action.high"], "actions");

    let metadata =
        std::iter::once((METADATA_KEY, contract)).chain(keys.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let model = pb::ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: "tendon".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(pb::GraphProto {
            name: "policy".into(),
            node: graph.nodes,
            initializer: graph.constants,
            input: vec![value("obs", n_obs)],
            output: vec![value("actions", n_act)],
            ..Default::default()
        }),
        metadata_props: metadata
            .map(|(key, value)| pb::StringStringEntryProto { key: key.into(), value: value.into() })
            .collect(),
        ..Default::default()
    };
    model.encode_to_vec()
}

/// Of ONNX 1.12, which pairs it with operator set 17.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

#[derive(Default)]
struct Graph {
    nodes: Vec<pb::NodeProto>,
    constants: Vec<pb::TensorProto>,
}

impl Graph {
    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.constants.push(pb::TensorProto {
            name: name.into(),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: DataType::Float as i32,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
    }

    /// The policy's network from `input`; intermediate names begin with `prefix`. Returns the output's name.
    fn network(&mut self, policy: &Policy, input: &str, prefix: &str) -> String {
        policy.mlp.layers().iter().enumerate().fold(input.to_string(), |input, (i, layer)| {
            let linear = format!("{prefix}linear.{i}");
            self.node("Gemm", &[&input, &format!("actor.{i}.weight"), &format!("actor.{i}.bias")], &linear);
            let hidden = format!("{prefix}hidden.{i}");
            match layer.activation {
                Activation::None => return linear,
                Activation::Tanh => self.node("Tanh", &[&linear], &hidden),
                Activation::Relu => self.node("Relu", &[&linear], &hidden),
                Activation::Elu => self.node("Elu", &[&linear], &hidden),
                Activation::Sigmoid => self.node("Sigmoid", &[&linear], &hidden),
                Activation::Swish => {
                    let gate = format!("{prefix}gate.{i}");
                    self.node("Sigmoid", &[&linear], &gate);
                    self.node("Mul", &[&linear, &gate], &hidden);
                }
            }
            hidden
        })
    }

    /// Along the last axis.
    fn concat(&mut self, inputs: &[&str], output: &str) {
        self.node("Concat", inputs, output);
        if let Some(node) = self.nodes.last_mut() {
            node.attribute.push(pb::AttributeProto {
                name: "axis".into(),
                r#type: pb::attribute_proto::AttributeType::Int as i32,
                i: 1,
                ..Default::default()
            });
        }
    }

    /// Nodes carry the name of their output.
    fn node(&mut self, operator: &str, inputs: &[&str], output: &str) {
        self.nodes.push(pb::NodeProto {
            op_type: operator.into(),
            name: output.into(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            ..Default::default()
        });
    }
}

/// A matrix `[1, width]` at the graph's edge.
fn value(name: &str, width: usize) -> pb::ValueInfoProto {
    let dim =
        |d: usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Default::default() };
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: vec![dim(1), dim(width)] }),
    };
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::*;

    use super::*;
    use tendon_learn::{Hidden, Normaliser, Rng, mlp};

    fn policy(activation: Hidden, head: Head) -> Policy {
        let mut rng = Rng::at(4, &[]);
        let rows: Vec<f32> = (0..600).map(|i| (i % 6) as f32 * 3.0 + rng.normal() as f32).collect();
        let mut normaliser = Normaliser::new(6);
        normaliser.update(&rows);
        let inputs = if head == Head::Direct { 6 } else { 6 + 2 + 1 };
        let mlp = mlp(inputs, &[32, 24], 2, activation);
        let parameters: Vec<f32> = mlp.initialise(1.0, &mut || rng.normal());
        let parameters = parameters.iter().map(|p| p + 0.05 * rng.normal() as f32).collect();
        Policy { normaliser: normaliser.freeze(), head, mlp, parameters }
    }

    #[test]
    fn tract_computes_the_same_actions() {
        for activation in [Hidden::Tanh, Hidden::Relu, Hidden::Elu, Hidden::Swish] {
            for head in [Head::Direct, Head::Flow { steps: 1 }, Head::Flow { steps: 3 }] {
                let worst = difference_to_tract(&policy(activation, head));
                assert!(worst <= 1e-5, "{activation:?} {head:?}: {worst}");
            }
        }
    }

    fn difference_to_tract(policy: &Policy) -> f32 {
        let bytes = policy_onnx(policy, "{}", &[]);
        let model = tract_onnx::onnx()
            .model_for_read(&mut &bytes[..])
            .unwrap()
            .into_optimized()
            .unwrap()
            .into_runnable()
            .unwrap();
        let mut rng = Rng::at(5, &[]);
        let mut actor = policy.actor();
        let mut worst = 0.0f32;
        for _ in 0..200 {
            // Some far outside what the normaliser saw, so that its clip works.
            let observation: Vec<f32> = (0..6).map(|i| i as f32 * 3.0 + 8.0 * rng.normal() as f32).collect();
            let mut expected = Vec::new();
            actor.act(&observation, &mut expected);
            let input = Tensor::from_shape(&[1, 6], &observation).unwrap();
            let output = model.run(tvec!(input.into())).unwrap();
            let actions = output[0].to_plain_array_view::<f32>().unwrap();
            worst = actions.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
        worst
    }

    #[test]
    fn metadata_holds_the_contract_and_the_keys() {
        let keys = [("joint_names".to_string(), "slide,hinge".to_string())];
        let model = pb::ModelProto::decode(
            &policy_onnx(&policy(Hidden::Tanh, Head::Direct), "{\"robot\":\"x\"}", &keys)[..],
        )
        .unwrap();
        let found: Vec<_> = model.metadata_props.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
        assert_eq!(found, [("tendon.contract", "{\"robot\":\"x\"}"), ("joint_names", "slide,hinge")]);
    }
}
