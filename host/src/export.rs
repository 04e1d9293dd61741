//! `policy.onnx`: an inspectable file that any ONNX runtime can run, with the policy's contract inside.

use std::path::Path;

use prost::Message;
use tendon_runtime::spec::{ContractSpec, JointSpec, METADATA_KEY};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use tendon_learn::run_folder::{FileError, write_atomically};
use tendon_learn::{ACTION_LIMIT, NORMALISED_LIMIT, Policy};

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

/// The file's bytes. Input `obs`, `[1, n_obs]`, output `actions`, `[1, n_act]` in -1..1:
/// `Sub -> Mul -> Clip` (observation normaliser), `Gemm -> Tanh` per hidden layer, `Gemm -> Clip`.
pub fn policy_onnx(policy: &Policy, contract: &str, keys: &[(String, String)]) -> Vec<u8> {
    let (n_obs, n_act) = (policy.mlp.inputs(), policy.mlp.outputs());
    let mut graph = Graph::default();
    graph.constant("normaliser.offset", &[1, n_obs], &policy.normaliser.offset);
    graph.constant("normaliser.scale", &[1, n_obs], &policy.normaliser.scale);
    graph.constant("normaliser.low", &[], &[-NORMALISED_LIMIT]);
    graph.constant("normaliser.high", &[], &[NORMALISED_LIMIT]);
    graph.node("Sub", &["obs", "normaliser.offset"], "centred");
    graph.node("Mul", &["centred", "normaliser.scale"], "scaled");
    graph.node("Clip", &["scaled", "normaliser.low", "normaliser.high"], "normalised");
    let mut input = "normalised".to_string();
    for (i, layer) in policy.mlp.layers().enumerate() {
        let (weight, bias) = (format!("actor.{i}.weight"), format!("actor.{i}.bias"));
        graph.constant(&weight, &[layer.inputs, layer.outputs], &policy.parameters[layer.weight..layer.bias]);
        graph.constant(&bias, &[layer.outputs], &policy.parameters[layer.bias..layer.bias + layer.outputs]);
        let linear = format!("linear.{i}");
        graph.node("Gemm", &[&input, &weight, &bias], &linear);
        input = linear;
        if !layer.last {
            let hidden = format!("hidden.{i}");
            graph.node("Tanh", &[&input], &hidden);
            input = hidden;
        }
    }
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
    use tendon_learn::{Mlp, Normaliser, Rng};

    fn policy() -> Policy {
        let mut rng = Rng::at(4, &[]);
        let rows: Vec<f32> = (0..600).map(|i| (i % 6) as f32 * 3.0 + rng.normal() as f32).collect();
        let mut normaliser = Normaliser::new(6);
        normaliser.update(&rows);
        let mlp = Mlp::new(6, &[32, 24], 2);
        let parameters =
            mlp.initialise(1.0, &mut rng).iter().map(|p| p + 0.05 * rng.normal() as f32).collect();
        Policy { normaliser: normaliser.freeze(), mlp, parameters }
    }

    #[test]
    fn tract_computes_the_same_actions() {
        let policy = policy();
        let bytes = policy_onnx(&policy, "{}", &[]);
        let model = tract_onnx::onnx()
            .model_for_read(&mut &bytes[..])
            .unwrap()
            .into_optimized()
            .unwrap()
            .into_runnable()
            .unwrap();
        let mut rng = Rng::at(5, &[]);
        let mut worst = 0.0f32;
        for _ in 0..200 {
            // Some far outside what the normaliser saw, so that its clip works.
            let observation: Vec<f32> = (0..6).map(|i| i as f32 * 3.0 + 8.0 * rng.normal() as f32).collect();
            let mut expected = Vec::new();
            policy.act(&observation, &mut expected);
            let input = Tensor::from_shape(&[1, 6], &observation).unwrap();
            let output = model.run(tvec!(input.into())).unwrap();
            let actions = output[0].to_plain_array_view::<f32>().unwrap();
            worst = actions.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
        assert!(worst <= 1e-5, "{worst}");
    }

    #[test]
    fn metadata_holds_the_contract_and_the_keys() {
        let keys = [("joint_names".to_string(), "slide,hinge".to_string())];
        let model = pb::ModelProto::decode(&policy_onnx(&policy(), "{\"robot\":\"x\"}", &keys)[..]).unwrap();
        let found: Vec<_> = model.metadata_props.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
        assert_eq!(found, [("tendon.contract", "{\"robot\":\"x\"}"), ("joint_names", "slide,hinge")]);
    }
}
