//! What of the node tests is in scope, by rules; and which inputs are constants in every policy.

use crate::case::{Bound, Case, numbers};
use std::collections::BTreeSet;
use std::path::Path;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto::Value;

/// The rules by which a case is out of scope, in order; the first that holds is the reason.
pub(crate) const RULES: [(&str, &str); 12] = [
    ("ml-domain", "operators of ai.onnx.ml (trees, encoders): no neural networks"),
    ("training", "optimizer steps (ai.onnx.preview.training): no inference"),
    ("preview", "operators of ai.onnx.preview: not in the standard yet"),
    ("string", "strings: a controller has none"),
    ("sequence", "sequences and optional values: their length is known at run time only"),
    ("image-decoder", "decodes image files"),
    ("small-dtype", "float8e8m0, complex numbers: no exporter of policies writes them"),
    ("random", "the output depends on a random generator of the runtime"),
    ("dynamic-shape", "the shape of the output depends on values: time and memory would have no bound"),
    ("bitcast", "reinterprets bits, which `f32` does not carry"),
    ("wide-integer", "integers beyond 2^24, which `f32` does not hold exactly"),
    ("empty", "a tensor without elements"),
];

/// Cases in scope that do not pass, each with the reason.
const KNOWN: [(&str, &str); 2] = [("test_dft_inverse", NOISE), ("test_dft_inverse_opset19", NOISE)];
const NOISE: &str =
    "expects 1.9e-7, the rounding noise of numpy's FFT in f32, where the exact result is 0 and ours 3e-15";

/// Why a case in scope is known not to pass.
pub(crate) fn known(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(case, _)| *case == name).map(|(_, reason)| *reason)
}

const STRING: [&str; 6] =
    ["StringNormalizer", "StringSplit", "StringConcat", "RegexFullMatch", "TfIdfVectorizer", "LabelEncoder"];
const SEQUENCE: [&str; 12] = [
    "SequenceMap",
    "SequenceInsert",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceLength",
    "SplitToSequence",
    "ConcatFromSequence",
    "OptionalHasElement",
    "OptionalGetElement",
    "Optional",
];
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"];
const DYNAMIC: [&str; 2] = ["Unique", "NonMaxSuppression"];

/// Inputs that decide shapes, axes or structure.
const SHAPES: &[(&str, &[usize])] = &[
    ("AffineGrid", &[1]),
    ("BlackmanWindow", &[0]),
    ("CenterCropPad", &[1]),
    ("Col2Im", &[1, 2]),
    ("Compress", &[1]),
    ("ConstantOfShape", &[0]),
    ("NonZero", &[0]),
    ("CumProd", &[1]),
    ("CumSum", &[1]),
    ("DFT", &[1, 2]),
    ("Dropout", &[1, 2]),
    ("Expand", &[1]),
    ("GRU", &[4]),
    ("HammingWindow", &[0]),
    ("HannWindow", &[0]),
    ("If", &[0]),
    ("LSTM", &[4]),
    ("Loop", &[0]),
    ("MaxUnpool", &[2]),
    ("MelWeightMatrix", &[0, 1, 2, 3, 4]),
    ("OneHot", &[1]),
    ("Pad", &[1, 3]),
    ("RNN", &[4]),
    ("Range", &[0, 1, 2]),
    ("ReduceL1", &[1]),
    ("ReduceL2", &[1]),
    ("ReduceLogSum", &[1]),
    ("ReduceLogSumExp", &[1]),
    ("ReduceMax", &[1]),
    ("ReduceMean", &[1]),
    ("ReduceMin", &[1]),
    ("ReduceProd", &[1]),
    ("ReduceSum", &[1]),
    ("ReduceSumSquare", &[1]),
    ("Reshape", &[1]),
    ("Resize", &[1, 2, 3]),
    ("STFT", &[1, 3]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Squeeze", &[1]),
    ("Tile", &[1]),
    ("TopK", &[1]),
    ("Trilu", &[1]),
    ("Unsqueeze", &[1]),
    ("Upsample", &[1]),
];

/// Inputs that are weights or scales in every policy.
const WEIGHTS: &[(&str, &[usize])] = &[
    ("BatchNormalization", &[1, 2, 3, 4]),
    ("Clip", &[1, 2]),
    ("Conv", &[1, 2]),
    ("ConvInteger", &[1, 2, 3]),
    ("ConvTranspose", &[1, 2]),
    ("DeformConv", &[1, 3]),
    ("DequantizeLinear", &[1, 2]),
    ("GRU", &[1, 2, 3]),
    ("Gemm", &[1, 2]),
    ("GroupNormalization", &[1, 2]),
    ("InstanceNormalization", &[1, 2]),
    ("LSTM", &[1, 2, 3, 7]),
    ("LayerNormalization", &[1, 2]),
    ("MatMulInteger", &[1, 2, 3]),
    ("PRelu", &[1]),
    ("QLinearConv", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("QLinearMatMul", &[1, 2, 3, 4, 5, 6, 7]),
    ("QuantizeLinear", &[1, 2]),
    ("RMSNormalization", &[1]),
    ("RNN", &[1, 2, 3]),
];

/// Number of the element type; `None`: no tensor.
pub(crate) fn tensor_type(port: &pb::ValueInfoProto) -> Option<i32> {
    match port.r#type.as_ref()?.value.as_ref()? {
        Value::TensorType(tensor) => Some(tensor.elem_type),
    }
}

/// A graph and those inside its nodes.
fn graphs(graph: &pb::GraphProto) -> Vec<&pb::GraphProto> {
    let inner =
        graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.g.as_ref());
    std::iter::once(graph).chain(inner.flat_map(graphs)).collect()
}

fn nodes(case: &Case) -> Vec<&pb::NodeProto> {
    graphs(case.graph()).into_iter().flat_map(|graph| &graph.node).collect()
}

/// The operator that a case is about: of `_expanded` cases the one whose body it is.
pub(crate) fn target(case: &Case, folder: &Path, names: &[String]) -> String {
    let base = case.name.split("_expanded").next().unwrap_or(&case.name);
    let base = match names.iter().any(|name| name == base) && base != case.name {
        true => Case::read(folder, base).ok(),
        false => None,
    };
    let graph = base.as_ref().map_or(case.graph(), Case::graph);
    graph.node.first().map_or(String::new(), |node| node.op_type.clone())
}

/// The rule by which a case is out of scope.
pub(crate) fn out_of_scope(case: &Case) -> Option<&'static str> {
    let nodes = nodes(case);
    let op = |names: &[&str]| nodes.iter().any(|node| names.contains(&&*node.op_type));
    let domain = |name: &str| nodes.iter().any(|node| node.domain == name);
    let graph = case.graph();
    let ports: Vec<_> = graph.input.iter().chain(&graph.output).collect();
    let no_tensor = ports.iter().any(|port| tensor_type(port).is_none());
    let casts = nodes.iter().filter(|node| node.op_type == "Cast").flat_map(|node| &node.attribute);
    let casts = casts.filter(|attribute| attribute.name == "to").map(|attribute| attribute.i as i32);
    let types: BTreeSet<i32> = ports.iter().filter_map(|port| tensor_type(port)).chain(casts).collect();
    let string = types.contains(&(DataType::String as i32));
    let known = |number: &i32| *number == DataType::String as i32 || crate::case::is_carried(*number);
    let holds = |rule: &str| match rule {
        "ml-domain" => domain("ai.onnx.ml"),
        "training" => domain("ai.onnx.preview.training"),
        "preview" => domain("ai.onnx.preview"),
        "string" => string || op(&STRING),
        "sequence" => no_tensor || op(&SEQUENCE),
        "image-decoder" => op(&["ImageDecoder"]),
        "small-dtype" => !types.iter().all(known),
        "random" => op(&RANDOM) || drops(case, &nodes),
        "dynamic-shape" => op(&DYNAMIC),
        "bitcast" => op(&["BitCast"]),
        "wide-integer" => wide(case),
        _ => empty(case, &nodes),
    };
    RULES.iter().map(|(rule, _)| *rule).find(|rule| holds(rule))
}

/// Whether a Dropout in training mode drops anything.
fn drops(case: &Case, nodes: &[&pb::NodeProto]) -> bool {
    let value = |name: &str, default: f64| {
        let place = case.graph().input.iter().position(|port| port.name == name);
        let tensor = place.and_then(|place| case.inputs[place].as_ref());
        tensor.and_then(numbers).and_then(|values| values.first().copied()).unwrap_or(default)
    };
    nodes.iter().filter(|node| node.op_type == "Dropout").any(|node| match &*node.input {
        [_, ratio, mode, ..] => value(mode, 0.0) != 0.0 && value(ratio, 0.5) != 0.0,
        _ => false,
    })
}

fn wide(case: &Case) -> bool {
    let constants = constants(case);
    let beyond = |tensor: &pb::TensorProto| {
        !crate::case::is_float(tensor.data_type)
            && numbers(tensor)
                .is_some_and(|values| values.iter().any(|value| value.abs() > f64::from(1 << 24)))
    };
    let inputs = case.inputs.iter().enumerate().filter(|(place, _)| !constants.shapes[*place]);
    inputs.map(|(_, tensor)| tensor).chain(&case.outputs).flatten().any(beyond)
}

/// Whether a tensor whose values somebody reads has no elements.
fn empty(case: &Case, nodes: &[&pb::NodeProto]) -> bool {
    let constants = constants(case);
    let read = |name: &str| {
        nodes.iter().any(|node| {
            let type_only = |place| node.op_type == "CastLike" && place == 1;
            node.input.iter().enumerate().any(|(place, input)| input == name && !type_only(place))
        })
    };
    let inputs = case.inputs.iter().zip(&case.graph().input).enumerate();
    let inputs = inputs.filter(|(place, (_, port))| !constants.shapes[*place] && read(&port.name));
    let none = |tensor: &pb::TensorProto| tensor.dims.contains(&0);
    inputs.map(|(_, (tensor, _))| tensor).chain(&case.outputs).flatten().any(none)
}

/// Which inputs are constants in every policy.
pub(crate) struct Constants {
    shapes: Vec<bool>,
    weights: Vec<bool>,
}

/// Graph inputs that reach a port of [`SHAPES`] through other nodes, and those at a port of [`WEIGHTS`].
pub(crate) fn constants(case: &Case) -> Constants {
    let nodes = nodes(case);
    let ports = |table: &[(&str, &[usize])]| -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for node in &nodes {
            let places =
                table.iter().find(|(op, _)| *op == node.op_type).map_or(&[][..], |(_, places)| places);
            names.extend(
                places.iter().filter_map(|&place| node.input.get(place)).filter(|n| !n.is_empty()).cloned(),
            );
        }
        names
    };
    let (mut shapes, weights) = (ports(SHAPES), ports(WEIGHTS));
    loop {
        let before = shapes.len();
        for node in nodes.iter().filter(|node| !matches!(&*node.op_type, "Shape" | "Size")) {
            if node.output.iter().any(|output| shapes.contains(output)) {
                shapes.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
                let inner = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
                shapes.extend(inner.flat_map(|graph| &graph.output).map(|output| output.name.clone()));
            }
        }
        if shapes.len() == before {
            break;
        }
    }
    let mask =
        |names: &BTreeSet<String>| case.graph().input.iter().map(|port| names.contains(&port.name)).collect();
    Constants { shapes: mask(&shapes), weights: mask(&weights) }
}

impl Constants {
    /// Which inputs are constants at this step; tensors without elements always are.
    pub(crate) fn bound(&self, case: &Case, bound: Bound) -> Vec<bool> {
        let float = |tensor: &Option<pb::TensorProto>| {
            let kind = tensor.as_ref().map(|tensor| DataType::try_from(tensor.data_type));
            matches!(kind, Some(Ok(DataType::Float | DataType::Float16 | DataType::Double)))
        };
        let first = case.inputs.iter().position(float).unwrap_or(0);
        let places = case.inputs.iter().enumerate();
        let bound = |(place, tensor): (usize, &Option<pb::TensorProto>)| {
            let empty = tensor.as_ref().is_some_and(|tensor| tensor.dims.contains(&0));
            empty
                || match bound {
                    Bound::Nothing => false,
                    Bound::Shapes => self.shapes[place],
                    Bound::Weights => self.shapes[place] || self.weights[place],
                    Bound::AllButOne => place != first,
                    Bound::Everything => true,
                }
        };
        places.map(bound).collect()
    }
}
