//! `policy.onnx`: an inspectable file that any ONNX runtime can run, with the policy's contract inside.

use std::path::Path;

use prost::Message;
use tendon_runtime::spec::{ContractSpec, JointSpec, METADATA_KEY};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use tendon_learn::run_folder::{FileError, write_atomically};
use tendon_learn::{ACTION_LIMIT, Activation, Encoder, Layer, NORMALISED_LIMIT, Policy, Sampler};

mod encoder;

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
/// normaliser), then the encoder, then the dense layers (`Gemm` and activation each) once, or, for a flow or a
/// diffusion, once per step on `[observation, x, time]` with `x` from zeros or the policy's noise, a constant; at the end `Clip`. What an encoder remembers comes in as `h_in` and goes out as
/// `h_out`, zero where an episode begins: the state of a GRU `[1, 1, units]`, the window of a transformer `[1, (window - 1) n_obs]`.
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
    let (of_encoder, of_head) = policy.parameters.split_at(policy.network.head_parameters().start);
    let layers = policy.network.head().layers();
    for (i, layer) in layers.iter().enumerate() {
        let shape = [layer.inputs, layer.outputs];
        graph.constant(&format!("actor.{i}.weight"), &shape, &of_head[layer.weights()]);
        graph.constant(&format!("actor.{i}.bias"), &shape[1..], &of_head[layer.biases()]);
    }
    let input = match policy.head.sampler(n_act) {
        None => {
            let features = graph.encoder(policy.network.encoder(), of_encoder, n_obs, "normalised");
            graph.dense(layers, &features, "")
        }
        Some(Sampler { start, times, keep, along }) => {
            if keep != 1.0 {
                graph.constant("sampler.keep", &[], &[keep]);
            }
            graph.constant("sampler.along", &[], &[along]);
            graph.constant("sampler.start", &[1, n_act], &start);
            times.iter().enumerate().fold("sampler.start".to_string(), |x, (step, features)| {
                let name = |part: &str| format!("sampler.{step}.{part}");
                graph.constant(&name("time"), &[1, features.len()], features);
                graph.concat(1, &["normalised", &x, &name("time")], &name("input"));
                let v = graph.dense(layers, &name("input"), &name(""));
                graph.node("Mul", &[&v, "sampler.along"], &name("moved"));
                let kept = if keep == 1.0 {
                    x
                } else {
                    graph.node("Mul", &[&x, "sampler.keep"], &name("kept"));
                    name("kept")
                };
                graph.node("Add", &[&kept, &name("moved")], &name("x"));
                name("x")
            })
        }
    };
    graph.constant("action.low", &[], &[-ACTION_LIMIT]);
    graph.constant("action.high", &[], &[ACTION_LIMIT]);
    graph.node("Clip", &[&input, "action.low", "action.high"], "actions");
    let memory: Vec<usize> = match policy.network.encoder() {
        Encoder::Gru(gru) => vec![1, 1, gru.hidden()],
        _ if policy.network.memory_len() > 0 => vec![1, policy.network.memory_len()],
        _ => Vec::new(),
    };
    let (mut inputs, mut outputs) = (vec![value("obs", &[1, n_obs])], vec![value("actions", &[1, n_act])]);
    if !memory.is_empty() {
        inputs.push(value("h_in", &memory));
        outputs.push(value("h_out", &memory));
    }

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
            input: inputs,
            output: outputs,
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

    fn integers(&mut self, name: &str, values: &[i64]) {
        self.constants.push(pb::TensorProto {
            name: name.into(),
            dims: vec![values.len() as i64],
            data_type: DataType::Int64 as i32,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
    }

    /// Dense layers from `input`; intermediate names begin with `prefix`. Returns the output's name.
    fn dense(&mut self, layers: &[Layer], input: &str, prefix: &str) -> String {
        layers.iter().enumerate().fold(input.to_string(), |input, (i, layer)| {
            let linear = format!("{prefix}linear.{i}");
            self.node("Gemm", &[&input, &format!("actor.{i}.weight"), &format!("actor.{i}.bias")], &linear);
            self.activation(layer.activation, linear, &format!("{prefix}hidden.{i}"))
        })
    }

    /// `input` through `activation`, under the name `output` where there is something to compute.
    fn activation(&mut self, activation: Activation, input: String, output: &str) -> String {
        match activation {
            Activation::None => return input,
            Activation::Tanh => self.node("Tanh", &[&input], output),
            Activation::Relu => self.node("Relu", &[&input], output),
            Activation::Elu => self.node("Elu", &[&input], output),
            Activation::Sigmoid => self.node("Sigmoid", &[&input], output),
            Activation::Swish => {
                let gate = format!("{output}.gate");
                self.node("Sigmoid", &[&input], &gate);
                self.node("Mul", &[&input, &gate], output);
            }
        }
        output.into()
    }

    fn concat(&mut self, axis: i64, inputs: &[&str], output: &str) {
        self.node("Concat", inputs, output);
        self.integer("axis", axis);
    }

    fn reshape(&mut self, input: &str, shape: &[i64], output: &str) {
        let name = format!("{output}.shape");
        self.integers(&name, shape);
        self.node("Reshape", &[input, &name], output);
    }

    /// Columns `start..end` of `axis`.
    fn slice(&mut self, input: &str, axis: i64, (start, end): (usize, usize), output: &str) {
        let names = ["start", "end", "axis"].map(|part| format!("{output}.{part}"));
        for (name, value) in names.iter().zip([start as i64, end as i64, axis]) {
            self.integers(name, &[value]);
        }
        self.node("Slice", &[input, &names[0], &names[1], &names[2]], output);
    }

    fn transpose(&mut self, input: &str, order: &[i64], output: &str) {
        self.node("Transpose", &[input], output);
        self.integer_list("perm", order);
    }

    /// An attribute of the last node.
    fn attribute(&mut self, attribute: pb::AttributeProto) {
        if let Some(node) = self.nodes.last_mut() {
            node.attribute.push(attribute);
        }
    }

    fn integer(&mut self, name: &str, value: i64) {
        let kind = pb::attribute_proto::AttributeType::Int as i32;
        self.attribute(pb::AttributeProto {
            name: name.into(),
            r#type: kind,
            i: value,
            ..Default::default()
        });
    }

    fn float(&mut self, name: &str, value: f32) {
        let kind = pb::attribute_proto::AttributeType::Float as i32;
        self.attribute(pb::AttributeProto {
            name: name.into(),
            r#type: kind,
            f: value,
            ..Default::default()
        });
    }

    fn integer_list(&mut self, name: &str, values: &[i64]) {
        let kind = pb::attribute_proto::AttributeType::Ints as i32;
        let ints = values.to_vec();
        self.attribute(pb::AttributeProto { name: name.into(), r#type: kind, ints, ..Default::default() });
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

    /// Adds an output to the last node.
    fn also(&mut self, output: &str) {
        if let Some(node) = self.nodes.last_mut() {
            node.output.push(output.into());
        }
    }
}

/// A tensor at the graph's edge.
fn value(name: &str, shape: &[usize]) -> pb::ValueInfoProto {
    let dim =
        |d: usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Default::default() };
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: shape.iter().map(|&d| dim(d)).collect() }),
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
    use tendon_learn::{Head, Hidden, Network, NetworkConfig, NetworkKind, Normaliser, Rng, mlp};

    fn policy_of(network: Network, n_obs: usize, head: Head) -> Policy {
        let mut rng = Rng::at(4, &[]);
        let rows: Vec<f32> =
            (0..100 * n_obs).map(|i| (i % n_obs) as f32 * 0.5 + rng.normal() as f32).collect();
        let mut normaliser = Normaliser::new(n_obs);
        normaliser.update(&rows);
        let parameters: Vec<f32> = network.initialise(1.0, &mut || rng.normal());
        let parameters = parameters.iter().map(|p| p + 0.05 * rng.normal() as f32).collect();
        Policy { normaliser: normaliser.freeze(), head, network, parameters }
    }

    fn policy(activation: Hidden, head: Head) -> Policy {
        let time = head.sampler(2).map_or(0, |sampler| 2 + sampler.times[0].len());
        let inputs = 6 + time;
        policy_of(Network::dense(mlp(inputs, &[32, 24], 2, activation)), 6, head)
    }

    #[test]
    fn tract_computes_the_same_actions() {
        for activation in [Hidden::Tanh, Hidden::Relu, Hidden::Elu, Hidden::Swish] {
            let diffusion = Head::Diffusion { steps: 3, seed: 2 };
            for head in [Head::Direct, Head::Flow { steps: 1 }, Head::Flow { steps: 3 }, diffusion] {
                let worst = difference_to_tract(&policy(activation, head));
                assert!(worst <= 1e-5, "{activation:?} {head:?}: {worst}");
            }
        }
    }

    #[test]
    fn tract_computes_the_same_actions_and_memory_behind_every_encoder() {
        let image =
            NetworkConfig { image: [8, 7, 2], kernels: vec![3, 2], ..NetworkConfig::of(NetworkKind::Conv) };
        let blocks = NetworkConfig { blocks: 2, ..NetworkConfig::of(NetworkKind::Transformer) };
        let window = NetworkConfig { window: 1, ..NetworkConfig::of(NetworkKind::Transformer) };
        for (config, n_obs) in
            [(NetworkConfig::of(NetworkKind::Gru), 6), (image, 8 * 7 * 2 + 3), (blocks, 6), (window, 6)]
        {
            let network = config.build(n_obs, &[16], 2, Hidden::Tanh).unwrap();
            let worst = difference_to_tract(&policy_of(network, n_obs, Head::Direct));
            assert!(worst <= 1e-5, "{config:?}: {worst}");
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
        let n_obs = policy.observation_len();
        let mut worst = 0.0f32;
        let len = policy.network.memory_len();
        let shape =
            if matches!(policy.network.encoder(), Encoder::Gru(_)) { vec![1, 1, len] } else { vec![1, len] };
        let mut memory = vec![0.0; len];
        for _ in 0..200 {
            // Some far outside what the normaliser saw, so that its clip works.
            let observation: Vec<f32> =
                (0..n_obs).map(|i| i as f32 * 0.5 + 3.0 * rng.normal() as f32).collect();
            let mut expected = Vec::new();
            actor.act(&observation, &mut expected);
            let mut inputs = tvec!(Tensor::from_shape(&[1, n_obs], &observation).unwrap().into());
            if len > 0 {
                inputs.push(Tensor::from_shape(&shape, &memory).unwrap().into());
            }
            let output = model.run(inputs).unwrap();
            let actions = output[0].to_plain_array_view::<f32>().unwrap();
            worst = actions.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            if len > 0 {
                memory = output[1].to_plain_array_view::<f32>().unwrap().iter().copied().collect();
            }
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
