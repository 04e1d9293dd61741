//! ONNX bytes to a checked model: names resolved, nodes sorted, constants of known size.

use crate::budget;
use crate::error::ImportError;
use prost::Message;
use serde::{Deserialize, Serialize};
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

/// A checked ONNX graph.
#[derive(Clone, Debug)]
pub struct Model {
    /// What wrote the file, `name version`.
    pub producer: String,
    /// Version of the ONNX operator set.
    pub opset: i64,
    /// Metadata keys and values.
    pub metadata: BTreeMap<String, String>,
    /// The network's inputs; an open batch is fixed to 1.
    pub inputs: Vec<Port>,
    /// Names of the network's outputs.
    pub outputs: Vec<String>,
    pub(crate) graph: Graph,
}

/// Nodes and constants, of the model or of an attribute (the body of a Loop, say).
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    /// Names of the inputs.
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    /// Nodes, operands before their users.
    pub(crate) nodes: Vec<Node>,
    /// Initializers by name.
    pub(crate) constants: BTreeMap<String, Constant>,
}

/// A named tensor with its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name in the file.
    pub name: String,
    /// Shape, open batch 1.
    pub shape: Vec<usize>,
    /// Type of its elements; the runtime carries all of them as `f32`.
    pub kind: Kind,
}

impl Port {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Type of a tensor's elements in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are ONNX's")]
pub enum Kind {
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    BF16,
    F8E4M3,
    F8E4M3Uz,
    F8E5M2,
    F8E5M2Uz,
    F4E2M1,
    U4,
    I4,
    U2,
    I2,
}

/// What a float of at most 8 bits can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallFloat {
    /// Bits of the fraction.
    pub(crate) fraction: u32,
    /// What is taken from the stored exponent.
    pub(crate) bias: i32,
    /// Largest number.
    pub(crate) largest: f32,
    /// Whether there is an infinity beyond it, else NaN (or neither).
    pub(crate) infinite: bool,
    /// Bit pattern of the only NaN beside a sign that says nothing; `None`: by the largest exponents, or none.
    nan: Option<u8>,
}

impl Kind {
    /// By ONNX's number.
    pub(crate) fn from_onnx(number: i32) -> Result<Self, String> {
        // Numbers that the reader of the protobuf has no names for yet.
        match number {
            16 => return Ok(Self::BF16),
            17 => return Ok(Self::F8E4M3),
            18 => return Ok(Self::F8E4M3Uz),
            19 => return Ok(Self::F8E5M2),
            20 => return Ok(Self::F8E5M2Uz),
            21 => return Ok(Self::U4),
            22 => return Ok(Self::I4),
            23 => return Ok(Self::F4E2M1),
            25 => return Ok(Self::U2),
            26 => return Ok(Self::I2),
            _ => {}
        }
        Ok(match DataType::try_from(number) {
            Ok(DataType::Float16) => Self::F16,
            Ok(DataType::Float) => Self::F32,
            Ok(DataType::Double) => Self::F64,
            Ok(DataType::Int8) => Self::I8,
            Ok(DataType::Int16) => Self::I16,
            Ok(DataType::Int32) => Self::I32,
            Ok(DataType::Int64) => Self::I64,
            Ok(DataType::Uint8) => Self::U8,
            Ok(DataType::Uint16) => Self::U16,
            Ok(DataType::Uint32) => Self::U32,
            Ok(DataType::Uint64) => Self::U64,
            Ok(DataType::Bool) => Self::Bool,
            other => {
                let found = other.map_or(number.to_string(), |kind| kind.as_str_name().to_string());
                return Err(format!("has data type {found}: export it as FLOAT (or INT64 for shapes)"));
            }
        })
    }

    /// Whether it is a floating-point type.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64 | Self::BF16) || self.small_float().is_some()
    }

    /// Of a float of at most 8 bits.
    pub(crate) fn small_float(self) -> Option<SmallFloat> {
        let of = |fraction, bias, largest, infinite, nan| {
            Some(SmallFloat { fraction, bias, largest, infinite, nan })
        };
        match self {
            Self::F8E4M3 => of(3, 7, 448.0, false, Some(0x7f)),
            Self::F8E4M3Uz => of(3, 8, 240.0, false, Some(0x80)),
            Self::F8E5M2 => of(2, 15, 57344.0, true, None),
            Self::F8E5M2Uz => of(2, 16, 57344.0, false, Some(0x80)),
            Self::F4E2M1 => of(1, 1, 6.0, false, None),
            _ => None,
        }
    }

    /// Bits of an integer.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::I2 | Self::U2 => 2,
            Self::I4 | Self::U4 | Self::F4E2M1 => 4,
            Self::I8 | Self::U8 | Self::F8E4M3 | Self::F8E4M3Uz | Self::F8E5M2 | Self::F8E5M2Uz => 8,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 16,
            Self::I64 | Self::U64 | Self::F64 => 64,
            Self::I32 | Self::U32 | Self::F32 => 32,
            Self::Bool => 1,
        }
    }

    /// Bits and sign of an integer type that overflows below 2^24; others do not overflow in a policy.
    pub(crate) fn small_integer(self) -> Option<(u32, bool)> {
        match self {
            Self::I2 => Some((2, true)),
            Self::U2 => Some((2, false)),
            Self::I4 => Some((4, true)),
            Self::U4 => Some((4, false)),
            Self::I8 => Some((8, true)),
            Self::U8 => Some((8, false)),
            Self::I16 => Some((16, true)),
            Self::U16 => Some((16, false)),
            _ => None,
        }
    }
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
    Text(String),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    Tensor(Constant),
    Graph(Box<Graph>),
    /// A kind no lowering reads (sparse tensors, types).
    Other,
}

impl Attribute {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Float(value) => format!("the float {value}"),
            Self::Int(value) => format!("the integer {value}"),
            Self::Text(value) => format!("the text `{value}`"),
            Self::Floats(values) => format!("a list of {} floats", values.len()),
            Self::Ints(values) => format!("a list of {} integers", values.len()),
            Self::Texts(values) => format!("a list of {} texts", values.len()),
            Self::Tensor(tensor) => format!("a tensor of shape {:?}", tensor.shape),
            Self::Graph(_) => "a graph".into(),
            Self::Other => "of a kind that is not read".into(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
    pub(crate) data: Data,
}

#[derive(Clone, Debug)]
pub(crate) enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Model {
    /// Inputs that are recurrent state by the names that exporters give them, each with the output that it
    /// becomes: `h_in` and `h_out` (rsl_rl, Isaac Lab), `h_0` and `h_n`, `h0` and `hn`, of equal shape.
    #[must_use]
    pub fn state_pairs(&self) -> Vec<(String, String)> {
        const ENDINGS: [(&str, &str); 3] = [("_in", "_out"), ("_0", "_n"), ("0", "n")];
        let partner = |input: &str| {
            ENDINGS.iter().find_map(|(from, to)| {
                let name = format!("{}{to}", input.strip_suffix(from)?);
                self.outputs.contains(&name).then_some(name)
            })
        };
        self.inputs.iter().filter_map(|port| Some((port.name.clone(), partner(&port.name)?))).collect()
    }

    /// Reads and checks an ONNX file.
    ///
    /// # Errors
    /// The first thing that does not hold; never panics, whatever the bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImportError> {
        Self::from_proto(decode(bytes)?)
    }

    fn from_proto(proto: pb::ModelProto) -> Result<Self, ImportError> {
        let graph = proto.graph.ok_or(ImportError::Missing { field: "graph" })?;
        // Files of IR version 3 list initializers among the inputs as well.
        let initializers: BTreeSet<&str> = graph.initializer.iter().map(|tensor| &*tensor.name).collect();
        let declared: Vec<_> =
            graph.input.iter().filter(|input| !initializers.contains(&*input.name)).cloned().collect();
        let batch = declared.iter().find_map(open_batch);
        let inputs =
            declared.iter().map(|input| port(input, batch.as_deref())).collect::<Result<Vec<_>, _>>()?;
        let opset = proto.opset_import.iter().find(|set| matches!(&*set.domain, "" | "ai.onnx"));
        let opset = opset.ok_or(ImportError::Missing { field: "opset_import" })?.version;
        let metadata = proto.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let mut room = MAX_NODES;
        let graph = read_graph(graph, &BTreeSet::new(), &mut room)?;
        if graph.outputs.is_empty() {
            return Err(ImportError::Missing { field: "graph.output" });
        }
        Ok(Self {
            producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().to_string(),
            opset,
            metadata,
            inputs,
            outputs: graph.outputs.clone(),
            graph,
        })
    }
}

/// Reads a graph; `outer`: names that the graph around it defines; `room`: nodes that may still come.
fn read_graph(
    graph: pb::GraphProto,
    outer: &BTreeSet<String>,
    room: &mut usize,
) -> Result<Graph, ImportError> {
    if graph.node.len() > *room {
        return Err(ImportError::TooLarge {
            what: "number of nodes",
            value: graph.node.len(),
            limit: MAX_NODES,
        });
    }
    *room -= graph.node.len();
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
    let inputs: Vec<String> = graph
        .input
        .iter()
        .filter(|input| !constants.contains_key(&input.name))
        .map(|input| input.name.clone())
        .collect();
    let outputs: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let mut defined = outer.clone();
    defined.extend(constants.keys().cloned());
    for input in &inputs {
        if !defined.insert(input.clone()) && !outer.contains(input) {
            return Err(ImportError::Duplicate { name: input.clone() });
        }
    }
    let mut names = defined.clone();
    names.extend(graph.node.iter().flat_map(|node| node.output.iter().cloned()));
    let mut nodes = Vec::new();
    for (index, node) in graph.node.into_iter().enumerate() {
        nodes.push(read_node(index, node, &names, room)?);
    }
    let nodes = sort(nodes, &defined, outer)?;
    if let Some(missing) = outputs.iter().find(|output| !names.contains(*output)) {
        return Err(ImportError::Undefined { name: missing.clone(), node: "the graph's outputs".into() });
    }
    Ok(Graph { inputs, outputs, nodes, constants })
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

fn dims(info: &pb::ValueInfoProto) -> &[pb::tensor_shape_proto::Dimension] {
    match info.r#type.as_ref().and_then(|r#type| r#type.value.as_ref()) {
        Some(pb::type_proto::Value::TensorType(tensor)) => {
            tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim)
        }
        _ => &[],
    }
}

/// Symbol of an open first dimension.
fn open_batch(info: &pb::ValueInfoProto) -> Option<String> {
    match dims(info) {
        [pb::tensor_shape_proto::Dimension { value: Some(Dim::DimParam(symbol)), .. }, _, ..] => {
            Some(symbol.clone())
        }
        _ => None,
    }
}

/// An input of the model; an open first dimension and the symbol `batch` stand for 1.
fn port(info: &pb::ValueInfoProto, batch: Option<&str>) -> Result<Port, ImportError> {
    let fail = |problem: String| ImportError::Input { name: info.name.clone(), problem };
    let Some(pb::type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|r#type| r#type.value.as_ref())
    else {
        return Err(fail("has no tensor type: export it as float32 [1, n]".into()));
    };
    let kind = Kind::from_onnx(tensor.elem_type).map_err(fail)?;
    let dims = dims(info);
    if dims.len() > MAX_RANK {
        return Err(fail(format!("has {} dimensions: export it as [1, n]", dims.len())));
    }
    let mut shape = Vec::new();
    for (axis, dim) in dims.iter().enumerate() {
        shape.push(match &dim.value {
            Some(Dim::DimValue(value)) if *value > 0 => *value as usize,
            Some(Dim::DimParam(symbol)) if batch == Some(symbol) => 1,
            _ if axis == 0 && dims.len() > 1 => 1,
            Some(Dim::DimParam(symbol)) => {
                return Err(fail(format!(
                    "dimension {axis} is the symbol `{symbol}`: export it with a fixed size (only the batch may be open)"
                )));
            }
            _ => return Err(fail(format!("dimension {axis} has no size: export it with a fixed one"))),
        });
    }
    elements(&shape).map_err(fail)?;
    Ok(Port { name: info.name.clone(), shape, kind })
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
    let kind = Kind::from_onnx(tensor.data_type).map_err(fail)?;
    let broken = || fail(format!("its raw data is no whole number of {kind:?}"));
    let data = match raw {
        Some(raw) => raw_data(raw, kind, count).ok_or_else(broken)?,
        None => typed_data(tensor, kind, count),
    };
    let length = data.len();
    if length != count {
        return Err(fail(format!("has {length} elements where shape {shape:?} needs {count}")));
    }
    Ok(Constant { shape, kind, data })
}

/// Numbers of fewer than 8 bits, the lowest bits first.
fn packed(bytes: impl Iterator<Item = u8>, kind: Kind, count: usize) -> Data {
    let bits = kind.bits();
    let parts =
        bytes.flat_map(|byte| (0..8 / bits).map(move |place| byte >> (place * bits) & ((1 << bits) - 1)));
    let parts = parts.take(count);
    match (kind.small_float(), kind.small_integer()) {
        (Some(float), _) => Data::F32(parts.map(|part| float.number(part, bits)).collect()),
        (None, Some((_, true))) => {
            let half = 1i64 << (bits - 1);
            Data::I64(parts.map(|part| (i64::from(part) ^ half) - half).collect())
        }
        _ => Data::I64(parts.map(i64::from).collect()),
    }
}

impl SmallFloat {
    /// The number with these bits.
    fn number(self, pattern: u8, bits: u32) -> f32 {
        let sign = pattern >> (bits - 1) & 1;
        let magnitude = pattern & ((1u8 << (bits - 1)) - 1);
        let (exponent, fraction) =
            (i32::from(magnitude >> self.fraction), magnitude & ((1 << self.fraction) - 1));
        let scale = 2f32.powi(exponent.max(1) - self.bias - self.fraction as i32);
        let whole = if exponent == 0 { 0.0 } else { (1u32 << self.fraction) as f32 };
        let value = (whole + f32::from(fraction)) * scale;
        let value = match self.nan {
            Some(0x7f) if magnitude == 0x7f => f32::NAN,
            Some(0x80) if pattern == 0x80 => f32::NAN,
            _ if self.infinite && exponent == 31 => {
                if fraction == 0 {
                    f32::INFINITY
                } else {
                    f32::NAN
                }
            }
            _ => value,
        };
        if sign == 1 { -value } else { value }
    }
}

fn raw_data(raw: &[u8], kind: Kind, count: usize) -> Option<Data> {
    fn integers<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> i64) -> Option<Data> {
        Some(Data::I64(words(raw)?.map(read).collect()))
    }
    match kind {
        Kind::F32 => Some(Data::F32(words(raw)?.map(f32::from_le_bytes).collect())),
        Kind::F64 => Some(Data::F32(words(raw)?.map(|bytes| f64::from_le_bytes(bytes) as f32).collect())),
        Kind::F16 => Some(Data::F32(words(raw)?.map(|bytes| half(u16::from_le_bytes(bytes))).collect())),
        Kind::I8 => integers(raw, |b| i8::from_le_bytes(b).into()),
        Kind::I16 => integers(raw, |b| i16::from_le_bytes(b).into()),
        Kind::I32 => integers(raw, |b| i32::from_le_bytes(b).into()),
        Kind::I64 => integers(raw, i64::from_le_bytes),
        Kind::U8 | Kind::Bool => integers(raw, |b| u8::from_le_bytes(b).into()),
        Kind::U16 => integers(raw, |b| u16::from_le_bytes(b).into()),
        Kind::U32 => integers(raw, |b| u32::from_le_bytes(b).into()),
        Kind::U64 => integers(raw, |b| u64::from_le_bytes(b).min(i64::MAX as u64) as i64),
        Kind::BF16 => Some(Data::F32(words(raw)?.map(|b| brain(u16::from_le_bytes(b))).collect())),
        small => {
            let whole = count.div_ceil(8 / small.bits() as usize) == raw.len();
            whole.then(|| packed(raw.iter().copied(), small, count))
        }
    }
}

/// The upper half of an `f32`.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn typed_data(tensor: &pb::TensorProto, kind: Kind, count: usize) -> Data {
    match kind {
        Kind::BF16 => Data::F32(tensor.int32_data.iter().map(|&bits| brain(bits as u16)).collect()),
        kind if kind.bits() < 8 && kind != Kind::Bool || kind.small_float().is_some() => {
            packed(tensor.int32_data.iter().map(|&bits| bits as u8), kind, count)
        }
        Kind::F32 => Data::F32(tensor.float_data.clone()),
        Kind::F64 => Data::F32(tensor.double_data.iter().map(|&value| value as f32).collect()),
        Kind::F16 => Data::F32(tensor.int32_data.iter().map(|&bits| half(bits as u16)).collect()),
        Kind::I64 => Data::I64(tensor.int64_data.clone()),
        Kind::U32 | Kind::U64 => {
            Data::I64(tensor.uint64_data.iter().map(|&value| value.min(i64::MAX as u64) as i64).collect())
        }
        _ => Data::I64(tensor.int32_data.iter().map(|&value| value.into()).collect()),
    }
}

/// An IEEE half-precision number.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

impl Data {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }
}

fn words<const N: usize>(raw: &[u8]) -> Option<impl Iterator<Item = [u8; N]>> {
    let (words, rest) = raw.as_chunks::<N>();
    rest.is_empty().then(|| words.iter().copied())
}

fn read_node(
    index: usize,
    node: pb::NodeProto,
    names: &BTreeSet<String>,
    room: &mut usize,
) -> Result<Node, ImportError> {
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
        let value = read_attribute(&name, attribute, names, room)?;
        attributes.insert(key, value);
    }
    Ok(Node { name, op_type, inputs: node.input, outputs: node.output, attributes })
}

fn read_attribute(
    node: &str,
    attribute: pb::AttributeProto,
    names: &BTreeSet<String>,
    room: &mut usize,
) -> Result<Attribute, ImportError> {
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
        Ok(AttributeType::String) => Attribute::Text(String::from_utf8_lossy(&attribute.s).into_owned()),
        Ok(AttributeType::Strings) => {
            let texts = attribute.strings.iter().map(|text| String::from_utf8_lossy(text).into_owned());
            Attribute::Texts(texts.collect())
        }
        Ok(AttributeType::Graph) => match attribute.g {
            Some(graph) => Attribute::Graph(Box::new(read_graph(graph, names, room)?)),
            None => Attribute::Other,
        },
        _ => Attribute::Other,
    })
}

/// Names from outside that the graphs in a node's attributes read.
fn captured(node: &Node) -> Vec<String> {
    let mut names = Vec::new();
    for attribute in node.attributes.values() {
        if let Attribute::Graph(graph) = attribute {
            let read =
                graph.nodes.iter().flat_map(|inner| inner.inputs.iter().cloned().chain(captured(inner)));
            names.extend(read.chain(graph.outputs.iter().cloned()));
        }
    }
    names
}

/// Nodes with operands before their users (Kahn's algorithm, stable for sorted files).
fn sort(
    nodes: Vec<Node>,
    known: &BTreeSet<String>,
    outer: &BTreeSet<String>,
) -> Result<Vec<Node>, ImportError> {
    let mut producer: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|name| !name.is_empty()) {
            let known = known.contains(output) && !outer.contains(output);
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
            } else if !known.contains(name) {
                return Err(ImportError::Undefined { name: name.clone(), node: node.name.clone() });
            }
        }
        for name in captured(node) {
            if let Some(&from) = producer.get(&*name) {
                waiting[index] += 1;
                users[from].push(index);
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
