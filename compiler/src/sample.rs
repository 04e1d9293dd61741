//! Small ONNX files with seeded weights, for tests and benches: the same seed gives the same bytes.

use crate::random::Random;
use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

mod nets;
mod operators;
mod random_net;

pub use nets::{Cell, conv_encoder, recurrent};
pub use operators::{Sample, operators};
pub use random_net::random_network;

/// Hidden activation of a sample network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// `Relu`
    Relu,
    /// `Tanh`
    Tanh,
    /// `Sigmoid` and `Mul`
    Swish,
}

/// An ONNX file of a fully connected network: `sizes` from input to output, Gemm layers with uniform
/// weights of variance `1 / n_in`, linear output.
#[must_use]
pub fn mlp(sizes: &[usize], hidden: Hidden, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let (mut nodes, mut tensors) = (Vec::new(), Vec::new());
    let layers = sizes.len().saturating_sub(1);
    let mut value = "obs".to_string();
    for (layer, pair) in sizes.windows(2).enumerate() {
        let [n_in, n_out] = [pair[0], pair[1]];
        let bound = (3.0 / n_in.max(1) as f32).sqrt();
        let mut uniform = |count: usize, bound: f32| -> Vec<f32> {
            (0..count).map(|_| bound * random.symmetric()).collect()
        };
        let (weight, bias) = (format!("layer{layer}.weight"), format!("layer{layer}.bias"));
        tensors.push(float_tensor(&weight, &[n_out, n_in], &uniform(n_out * n_in, bound)));
        tensors.push(float_tensor(&bias, &[n_out], &uniform(n_out, 0.1)));
        let last = layer + 1 == layers;
        let sum = if last { "actions".to_string() } else { format!("layer{layer}.sum") };
        nodes.push(node("Gemm", &[&value, &weight, &bias], &[&sum], vec![int_attribute("transB", 1)]));
        value = sum;
        if !last {
            let out = format!("layer{layer}.out");
            match hidden {
                Hidden::Relu => nodes.push(node("Relu", &[&value], &[&out], Vec::new())),
                Hidden::Tanh => nodes.push(node("Tanh", &[&value], &[&out], Vec::new())),
                Hidden::Swish => {
                    let gate = format!("layer{layer}.gate");
                    nodes.push(node("Sigmoid", &[&value], &[&gate], Vec::new()));
                    nodes.push(node("Mul", &[&value, &gate], &[&out], Vec::new()));
                }
            }
            value = out;
        }
    }
    let (n_in, n_out) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
    model(nodes, tensors, ("obs", &[1, n_in]), ("actions", &[1, n_out]), 17)
}

/// Bytes of an ONNX file with one input and one output of `float32`.
#[must_use]
pub fn model(
    nodes: Vec<pb::NodeProto>,
    tensors: Vec<pb::TensorProto>,
    input: (&str, &[usize]),
    output: (&str, &[usize]),
    opset: i64,
) -> Vec<u8> {
    ports(nodes, tensors, &[input], &[output], opset)
}

/// Bytes of an ONNX file with inputs and outputs of `float32`.
fn ports(
    nodes: Vec<pb::NodeProto>,
    tensors: Vec<pb::TensorProto>,
    inputs: &[(&str, &[usize])],
    outputs: &[(&str, &[usize])],
    opset: i64,
) -> Vec<u8> {
    let proto = pb::ModelProto {
        ir_version: 8,
        producer_name: "tendon".into(),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(pb::GraphProto {
            name: "policy".into(),
            node: nodes,
            initializer: tensors,
            input: inputs.iter().map(|(name, shape)| port(name, shape)).collect(),
            output: outputs.iter().map(|(name, shape)| port(name, shape)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    proto.encode_to_vec()
}

/// Bytes of an ONNX file with the input `x` and the output `y`, and a state from `h_in` to `h_out`, all `[1, n]`.
fn with_state(nodes: Vec<pb::NodeProto>, n: usize) -> Vec<u8> {
    let shape = [1, n];
    let graph = pb::GraphProto {
        name: "policy".into(),
        node: nodes,
        input: vec![port("x", &shape), port("h_in", &shape)],
        output: vec![port("y", &shape), port("h_out", &shape)],
        ..Default::default()
    };
    let proto = pb::ModelProto {
        ir_version: 8,
        producer_name: "tendon".into(),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(graph),
        ..Default::default()
    };
    proto.encode_to_vec()
}

/// The file with one more metadata entry.
#[must_use]
pub fn with_metadata(mut onnx: Vec<u8>, key: &str, value: &str) -> Vec<u8> {
    // Protobuf messages that follow each other are one message.
    let entry = pb::StringStringEntryProto { key: key.into(), value: value.into() };
    let more = pb::ModelProto { metadata_props: vec![entry], ..Default::default() };
    onnx.extend(more.encode_to_vec());
    onnx
}

/// A node; its name is its first output's.
#[must_use]
pub fn node(
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<pb::AttributeProto>,
) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op_type.into(),
        name: outputs.first().map_or(String::new(), |output| format!("make_{output}")),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        attribute: attributes,
        ..Default::default()
    }
}

/// A `float32` initializer.
#[must_use]
pub fn float_tensor(name: &str, shape: &[usize], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.into(),
        dims: shape.iter().map(|&dim| dim as i64).collect(),
        data_type: DataType::Float as i32,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// An `int64` initializer.
#[must_use]
pub fn int_tensor(name: &str, values: &[i64]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// An integer attribute.
#[must_use]
pub fn int_attribute(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

/// A float attribute.
#[must_use]
pub fn float_attribute(name: &str, value: f32) -> pb::AttributeProto {
    pb::AttributeProto { f: value, ..attribute(name, AttributeType::Float) }
}

/// An attribute of integers.
#[must_use]
pub fn ints_attribute(name: &str, values: &[i64]) -> pb::AttributeProto {
    pb::AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// An attribute that holds a tensor.
#[must_use]
pub fn tensor_attribute(name: &str, tensor: pb::TensorProto) -> pb::AttributeProto {
    pb::AttributeProto { t: Some(tensor), ..attribute(name, AttributeType::Tensor) }
}

fn attribute(name: &str, kind: AttributeType) -> pb::AttributeProto {
    pb::AttributeProto { name: name.into(), r#type: kind as i32, ..Default::default() }
}

fn port(name: &str, shape: &[usize]) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = shape
        .iter()
        .map(|&size| Dimension { value: Some(Value::DimValue(size as i64)), ..Default::default() })
        .collect();
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim }),
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
