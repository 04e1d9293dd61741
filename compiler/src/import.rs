//! ONNX bytes to a checked model: names resolved, nodes sorted, constants of known size.

use crate::budget;
use crate::error::ImportError;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;

/// Largest ONNX file: an image holds at most 8 MiB, so more weights than this never compile.
pub const MAX_FILE: usize = 64 << 20;
/// Largest number of nodes, far above any policy: bounds every pass over the graph.
pub const MAX_NODES: usize = 16_384;
/// Largest tensor, elements.
pub(crate) const MAX_ELEMENTS: usize = MAX_FILE / 4;
/// Largest rank of a tensor.
const MAX_RANK: usize = 8;

/// A checked ONNX graph with one input and one output.
#[derive(Clone, Debug)]
pub struct Model {
    /// What wrote the file, `name version`.
    pub producer: String,
    /// Version of the ONNX operator set.
    pub opset: i64,
    /// Metadata keys and values.
    pub metadata: BTreeMap<String, String>,
    /// The network's input; the batch is fixed to 1.
    pub input: Port,
    /// Name of the network's output.
    pub output: String,
    /// Nodes, operands before their users.
    pub(crate) nodes: Vec<Node>,
    /// Initializers by name.
    pub(crate) constants: BTreeMap<String, Constant>,
}

/// A named tensor with its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the file.
    pub name: String,
    /// Shape, batch 1.
    pub shape: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) op_type: String,
    /// Empty: an optional input that is absent.
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: BTreeMap<String, Attribute>,
}

#[derive(Clone, Debug)]
pub(crate) enum Attribute {
    Float(f32),
    Int(i64),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Tensor(Constant),
    /// A kind no lowering reads (text, graphs, sparse tensors, types).
    Other,
}

impl Attribute {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Float(value) => format!("the float {value}"),
            Self::Int(value) => format!("the integer {value}"),
            Self::Floats(values) => format!("a list of {} floats", values.len()),
            Self::Ints(values) => format!("a list of {} integers", values.len()),
            Self::Tensor(tensor) => format!("a tensor of shape {:?}", tensor.shape),
            Self::Other => "of a kind that is not read".into(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
}

#[derive(Clone, Debug)]
pub(crate) enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Model {
    /// Reads and checks an ONNX file.
    ///
    /// # Errors
    /// The first thing that does not hold; never panics, whatever the bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImportError> {
        Self::from_proto(decode(bytes)?)
    }

    fn from_proto(proto: pb::ModelProto) -> Result<Self, ImportError> {
        let graph = proto.graph.ok_or(ImportError::Missing { field: "graph" })?;
        if graph.node.len() > MAX_NODES {
            return Err(ImportError::TooLarge {
                what: "number of nodes",
                value: graph.node.len(),
                limit: MAX_NODES,
            });
        }
        if !graph.sparse_initializer.is_empty() {
            return Err(ImportError::Model {
                field: "sparse_initializer",
                problem: "sparse weights are not read: export dense ones".into(),
            });
        }
        let mut constants = BTreeMap::new();
        for tensor in &graph.initializer {
            let constant = constant(&tensor.name, tensor)?;
            if constants.insert(tensor.name.clone(), constant).is_some() {
                return Err(ImportError::Duplicate { name: tensor.name.clone() });
            }
        }
        // Files of IR version 3 list initializers among the inputs as well.
        let inputs: Vec<_> =
            graph.input.iter().filter(|input| !constants.contains_key(&input.name)).collect();
        let input = port(single("inputs", &inputs.iter().map(|i| &*i.name).collect::<Vec<_>>(), &inputs)?)?;
        let names: Vec<_> = graph.output.iter().map(|output| &*output.name).collect();
        let output = single("outputs", &names, &graph.output)?.name.clone();
        let mut nodes = Vec::new();
        for (index, node) in graph.node.into_iter().enumerate() {
            nodes.push(read_node(index, node)?);
        }
        let opset = proto.opset_import.iter().find(|set| matches!(&*set.domain, "" | "ai.onnx"));
        let opset = opset.ok_or(ImportError::Missing { field: "opset_import" })?.version;
        let metadata = proto.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let nodes = sort(nodes, &input.name, &constants)?;
        let made = nodes.iter().any(|node| node.outputs.contains(&output));
        if !made && output != input.name {
            return Err(ImportError::Undefined { name: output, node: "the graph's outputs".into() });
        }
        Ok(Self {
            producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().to_string(),
            opset,
            metadata,
            input,
            output,
            nodes,
            constants,
        })
    }
}

/// Protobuf of an ONNX file whose decoding fits into memory.
///
/// # Errors
/// When the file is too large, would unfold to too much, or is no protobuf.
pub(crate) fn decode(bytes: &[u8]) -> Result<pb::ModelProto, ImportError> {
    if bytes.len() > MAX_FILE {
        return Err(ImportError::TooLarge { what: "file length", value: bytes.len(), limit: MAX_FILE });
    }
    budget::check(bytes)?;
    pb::ModelProto::decode(bytes).map_err(|error| ImportError::Protobuf(error.to_string()))
}

fn single<'a, T>(what: &'static str, names: &[&str], ports: &'a [T]) -> Result<&'a T, ImportError> {
    match ports {
        [port] => Ok(port),
        _ => Err(ImportError::Ports { what, count: ports.len(), names: names.join(", ") }),
    }
}

fn port(info: &pb::ValueInfoProto) -> Result<Port, ImportError> {
    let fail = |problem: String| ImportError::Input { name: info.name.clone(), problem };
    let Some(pb::type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|r#type| r#type.value.as_ref())
    else {
        return Err(fail("has no tensor type: export it as float32 [1, n]".into()));
    };
    if tensor.elem_type != DataType::Float as i32 {
        return Err(fail(format!("has element type {}: export it as float32 (1)", tensor.elem_type)));
    }
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    if dims.is_empty() || dims.len() > MAX_RANK {
        return Err(fail(format!("has {} dimensions: export it as [1, n]", dims.len())));
    }
    let mut shape = Vec::new();
    for (axis, dim) in dims.iter().enumerate() {
        let batch = axis == 0 && dims.len() > 1;
        match &dim.value {
            Some(Dim::DimValue(value)) if batch && *value > 1 => {
                return Err(fail(format!("has batch {value}: export it with batch 1 or a dynamic batch")));
            }
            _ if batch => shape.push(1),
            Some(Dim::DimValue(value)) if *value > 0 => shape.push(*value as usize),
            Some(Dim::DimParam(symbol)) => {
                return Err(fail(format!(
                    "dimension {axis} is the symbol `{symbol}`: export it with a fixed size (only the batch may be open)"
                )));
            }
            _ => return Err(fail(format!("dimension {axis} has no size: export it with a fixed one"))),
        }
    }
    elements(&shape).map_err(fail)?;
    Ok(Port { name: info.name.clone(), shape })
}

/// Elements of a shape, with checked products.
pub(crate) fn elements(shape: &[usize]) -> Result<usize, String> {
    shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .filter(|&product| product <= MAX_ELEMENTS)
        .ok_or_else(|| format!("shape {shape:?} has more than {MAX_ELEMENTS} elements"))
}

fn constant(name: &str, tensor: &pb::TensorProto) -> Result<Constant, ImportError> {
    let fail = |problem: String| ImportError::Tensor { name: name.to_string(), problem };
    if tensor.data_location == Some(DataLocation::External as i32) || !tensor.external_data.is_empty() {
        let file = tensor.external_data.iter().find(|entry| entry.key == "location");
        return Err(ImportError::External {
            name: name.to_string(),
            file: file.map_or(String::new(), |entry| entry.value.clone()),
        });
    }
    if tensor.dims.len() > MAX_RANK {
        return Err(fail(format!("has rank {}: at most {MAX_RANK} is read", tensor.dims.len())));
    }
    let shape = tensor
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).map_err(|_| fail(format!("has dimension {dim}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let count = elements(&shape).map_err(fail)?;
    let raw = (!tensor.raw_data.is_empty()).then_some(&*tensor.raw_data);
    let (data, length) = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => {
            let values = match raw {
                Some(raw) => words(raw).map(|words| words.map(f32::from_le_bytes).collect()),
                None => Some(tensor.float_data.clone()),
            };
            let values: Vec<f32> = values.ok_or_else(|| fail("raw data is no whole number of f32".into()))?;
            let length = values.len();
            (Data::F32(values), length)
        }
        Ok(DataType::Int64) => {
            let values = match raw {
                Some(raw) => words(raw).map(|words| words.map(i64::from_le_bytes).collect()),
                None => Some(tensor.int64_data.clone()),
            };
            let values: Vec<i64> = values.ok_or_else(|| fail("raw data is no whole number of i64".into()))?;
            let length = values.len();
            (Data::I64(values), length)
        }
        Ok(DataType::Int32) => {
            let values = match raw {
                Some(raw) => words(raw).map(|words| words.map(i32::from_le_bytes).map(i64::from).collect()),
                None => Some(tensor.int32_data.iter().map(|&value| i64::from(value)).collect()),
            };
            let values: Vec<i64> = values.ok_or_else(|| fail("raw data is no whole number of i32".into()))?;
            let length = values.len();
            (Data::I64(values), length)
        }
        other => {
            let found = other.map_or(tensor.data_type.to_string(), |kind| kind.as_str_name().to_string());
            return Err(fail(format!("has data type {found}: export it as FLOAT (or INT64 for shapes)")));
        }
    };
    if length != count {
        return Err(fail(format!("has {length} elements where shape {shape:?} needs {count}")));
    }
    Ok(Constant { shape, data })
}

fn words<const N: usize>(raw: &[u8]) -> Option<impl Iterator<Item = [u8; N]>> {
    let (words, rest) = raw.as_chunks::<N>();
    rest.is_empty().then(|| words.iter().copied())
}

fn read_node(index: usize, node: pb::NodeProto) -> Result<Node, ImportError> {
    let name = match (&*node.name, node.output.first()) {
        ("", Some(output)) => output.clone(),
        ("", None) => format!("#{index}"),
        (name, _) => name.to_string(),
    };
    let op_type = match &*node.domain {
        "" | "ai.onnx" => node.op_type,
        domain => format!("{domain}::{}", node.op_type),
    };
    let mut attributes = BTreeMap::new();
    for attribute in node.attribute {
        let key = attribute.name.clone();
        let value = read_attribute(&name, attribute)?;
        attributes.insert(key, value);
    }
    Ok(Node { name, op_type, inputs: node.input, outputs: node.output, attributes })
}

fn read_attribute(node: &str, attribute: pb::AttributeProto) -> Result<Attribute, ImportError> {
    use pb::attribute_proto::AttributeType;
    Ok(match AttributeType::try_from(attribute.r#type) {
        Ok(AttributeType::Float) => Attribute::Float(attribute.f),
        Ok(AttributeType::Int) => Attribute::Int(attribute.i),
        Ok(AttributeType::Floats) => Attribute::Floats(attribute.floats),
        Ok(AttributeType::Ints) => Attribute::Ints(attribute.ints),
        Ok(AttributeType::Tensor) => match attribute.t {
            Some(tensor) => Attribute::Tensor(constant(&format!("{node}.{}", attribute.name), &tensor)?),
            None => Attribute::Other,
        },
        _ => Attribute::Other,
    })
}

/// Nodes with operands before their users (Kahn's algorithm, stable for sorted files).
fn sort(
    nodes: Vec<Node>,
    input: &str,
    constants: &BTreeMap<String, Constant>,
) -> Result<Vec<Node>, ImportError> {
    let mut producer: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|name| !name.is_empty()) {
            let known = output == input || constants.contains_key(output);
            if known || producer.insert(output, index).is_some() {
                return Err(ImportError::Duplicate { name: output.clone() });
            }
        }
    }
    let mut waiting = vec![0usize; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            if let Some(&from) = producer.get(&**name) {
                waiting[index] += 1;
                users[from].push(index);
            } else if name != input && !constants.contains_key(name) {
                return Err(ImportError::Undefined { name: name.clone(), node: node.name.clone() });
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&index| waiting[index] == 0).collect();
    let mut order = Vec::new();
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.insert(user);
            }
        }
    }
    if let Some(stuck) = (0..nodes.len()).find(|&index| waiting[index] > 0) {
        return Err(ImportError::Cycle { node: nodes[stuck].name.clone() });
    }
    let mut slots: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| slots[index].take()).collect())
}
