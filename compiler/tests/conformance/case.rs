//! One case: read, bound, compiled, run, compared.

use crate::scope;
use prost::Message;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tendon_compiler::parity::ImageRunner;
use tendon_compiler::{ContractChoice, Kind, Options, compile};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

/// As onnx's own runner compares.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;
/// Of bfloat16: two units in the last place.
const RELATIVE_BF16: f64 = 1.0 / 64.0;

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: pb::ModelProto,
    /// In the order of the graph; `None`: no tensor.
    pub(crate) inputs: Vec<Option<pb::TensorProto>>,
    pub(crate) outputs: Vec<Option<pb::TensorProto>>,
}

pub(crate) struct Result {
    pub(crate) name: String,
    /// The operator that the case is about.
    pub(crate) target: String,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// With these inputs bound as constants.
    Passed(Bound),
    /// By the rule with this name.
    OutOfScope(&'static str),
    Failed(String),
    Crashed(String),
}

/// Which inputs were bound as constants, as exporters write them; the first that compiles counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bound {
    Nothing,
    /// Shapes, axes, and what else decides the form of the graph.
    Shapes,
    /// Those and what is a weight or a scale in every policy.
    Weights,
    /// All but the first input of floats.
    AllButOne,
    /// All: the outputs are constant.
    Everything,
}

impl Verdict {
    pub(crate) fn is_fine(&self) -> bool {
        matches!(self, Self::Passed(_) | Self::OutOfScope(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(bound) => write!(f, "passed ({bound:?})"),
            Self::OutOfScope(rule) => write!(f, "out of scope: {rule}"),
            Self::Failed(problem) => write!(f, "failed: {problem}"),
            Self::Crashed(problem) => write!(f, "crashed: {problem}"),
        }
    }
}

impl Case {
    pub(crate) fn read(folder: &Path, name: &str) -> std::result::Result<Self, String> {
        let at = folder.join(name);
        let read = |path: std::path::PathBuf| {
            std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let model =
            pb::ModelProto::decode(&*read(at.join("model.onnx"))?).map_err(|error| error.to_string())?;
        let graph = model.graph.clone().ok_or("has no graph")?;
        let data = at.join("test_data_set_0");
        let tensors = |kind: &str, ports: &[pb::ValueInfoProto]| {
            let one = |(index, port): (usize, &pb::ValueInfoProto)| match scope::tensor_type(port) {
                None => Ok(None),
                Some(_) => {
                    let bytes = read(data.join(format!("{kind}_{index}.pb")))?;
                    pb::TensorProto::decode(&*bytes)
                        .map(Some)
                        .map_err(|error| format!("{kind}_{index}: {error}"))
                }
            };
            ports.iter().enumerate().map(one).collect::<std::result::Result<Vec<_>, _>>()
        };
        let (inputs, outputs) = (tensors("input", &graph.input)?, tensors("output", &graph.output)?);
        Ok(Self { name: name.into(), model, inputs, outputs })
    }

    pub(crate) fn graph(&self) -> &pb::GraphProto {
        static EMPTY: std::sync::LazyLock<pb::GraphProto> = std::sync::LazyLock::new(Default::default);
        self.model.graph.as_ref().unwrap_or(&EMPTY)
    }
}

/// The verdict of a case.
pub(crate) fn judged(case: &Case, folder: &Path, names: &[String]) -> Result {
    let result =
        |verdict| Result { name: case.name.clone(), target: scope::target(case, folder, names), verdict };
    if let Some(rule) = scope::out_of_scope(case) {
        return result(Verdict::OutOfScope(rule));
    }
    let text = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    };
    match catch_unwind(AssertUnwindSafe(|| tried(case))) {
        Ok(Ok(bound)) => result(Verdict::Passed(bound)),
        Ok(Err(problem)) => result(Verdict::Failed(problem)),
        Err(panic) => result(Verdict::Crashed(text(panic))),
    }
}

/// Binds as little as compiles, runs, and compares.
fn tried(case: &Case) -> std::result::Result<Bound, String> {
    let constants = scope::constants(case);
    let mut first_refusal = String::new();
    let mut last: Option<Vec<bool>> = None;
    for bound in [Bound::Nothing, Bound::Shapes, Bound::Weights, Bound::AllButOne, Bound::Everything] {
        let mask = constants.bound(case, bound);
        if last.as_ref() == Some(&mask) {
            continue;
        }
        last = Some(mask.clone());
        match attempt(case, &mask) {
            Ok(()) => return Ok(bound),
            Err(Attempt::Wrong(problem)) => return Err(problem),
            // Without the operator there is no need to try further.
            Err(Attempt::Refused(problem)) if problem.contains("is not supported") => {
                return Err(
                    problem.split(" is not supported").next().unwrap_or("").to_string() + " is not supported"
                );
            }
            Err(Attempt::Refused(problem)) => first_refusal = problem,
        }
    }
    Err(first_refusal)
}

enum Attempt {
    Refused(String),
    Wrong(String),
}

/// The model with the masked inputs as initializers; the others have the shapes of the data, as an exporter with
/// fixed shapes writes them.
pub(crate) fn bind(case: &Case, mask: &[bool]) -> (pb::ModelProto, Vec<f32>) {
    let mut model = case.model.clone();
    let mut input = Vec::new();
    let Some(graph) = &mut model.graph else { return (model, input) };
    let ports = std::mem::take(&mut graph.input);
    for ((port, tensor), &constant) in ports.into_iter().zip(&case.inputs).zip(mask) {
        let Some(tensor) = tensor else { continue };
        if constant {
            graph.initializer.push(pb::TensorProto { name: port.name, ..tensor.clone() });
        } else {
            input.extend(numbers(tensor).unwrap_or_default().into_iter().map(|value| value as f32));
            graph.input.push(fixed_port(&port.name, tensor.data_type, &tensor.dims));
        }
    }
    // An input that goes straight to an output, so that outputs which are constant have a policy around them.
    const PROBE: &str = "tendon.probe";
    graph.input.push(fixed_port(PROBE, DataType::Float as i32, &[1]));
    graph.output.push(fixed_port(&format!("{PROBE}.out"), DataType::Float as i32, &[1]));
    graph.node.push(pb::NodeProto {
        op_type: "Identity".into(),
        input: vec![PROBE.into()],
        output: vec![format!("{PROBE}.out")],
        ..Default::default()
    });
    input.push(PROBE_VALUE);
    (model, input)
}

const PROBE_VALUE: f32 = 0.75;

fn fixed_port(name: &str, elem_type: i32, dims: &[i64]) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = dims
        .iter()
        .map(|&dim| Dimension { value: Some(Value::DimValue(dim)), ..Default::default() })
        .collect();
    let tensor = pb::type_proto::Tensor { elem_type, shape: Some(pb::TensorShapeProto { dim }) };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

fn attempt(case: &Case, mask: &[bool]) -> std::result::Result<(), Attempt> {
    let (model, input) = bind(case, mask);
    let options = Options {
        contract: ContractChoice::Bare,
        states: Some(&[]),
        golden_vectors: 1,
        ..Options::default()
    };
    let compiled =
        compile(&model.encode_to_vec(), &options).map_err(|error| Attempt::Refused(error.to_string()))?;
    let mut runner = ImageRunner::new(&compiled.image).map_err(|error| Attempt::Wrong(error.to_string()))?;
    let found = runner.run(&input).map_err(Attempt::Wrong)?;
    let mut rest = &*found;
    let named: Vec<&pb::ValueInfoProto> = case.graph().output.iter().collect();
    if compiled.outputs.len() != named.len() + 1 {
        return Err(Attempt::Wrong(format!(
            "{} outputs, expected {}",
            compiled.outputs.len() - 1,
            named.len()
        )));
    }
    for ((port, expected), info) in compiled.outputs.iter().zip(&case.outputs).zip(named) {
        let Some(expected) = expected else { return Err(Attempt::Wrong("an output is no tensor".into())) };
        let shape: Vec<i64> = port.shape.iter().map(|&dim| dim as i64).collect();
        if shape != expected.dims {
            return Err(Attempt::Wrong(format!(
                "{} has shape {shape:?}, expected {:?}",
                info.name, expected.dims
            )));
        }
        let kind = kind_of(expected.data_type);
        if Some(port.kind) != kind {
            return Err(Attempt::Wrong(format!("{} has type {:?}, expected {kind:?}", info.name, port.kind)));
        }
        let values =
            numbers(expected).ok_or_else(|| Attempt::Wrong("an output is of no known type".into()))?;
        let (own, after) =
            rest.split_at_checked(values.len()).ok_or_else(|| Attempt::Wrong("too few outputs".into()))?;
        rest = after;
        // A caller would get the type of the output.
        let cast = |value: f32| match port.kind {
            Kind::F16 => to_half(value),
            Kind::BF16 => to_brain(value),
            _ => value.into(),
        };
        let own: Vec<f64> = own.iter().copied().map(cast).collect();
        let relative = if port.kind == Kind::BF16 { RELATIVE_BF16 } else { RELATIVE };
        if let Some((place, (found, expected))) = own
            .iter()
            .zip(&values)
            .enumerate()
            .find(|(_, (found, expected))| !close(**found, **expected, relative))
        {
            let wrong = own
                .iter()
                .zip(&values)
                .filter(|(found, expected)| !close(**found, **expected, relative))
                .count();
            return Err(Attempt::Wrong(format!(
                "{} [{place}] is {found}, expected {expected} ({wrong} of {} differ)",
                info.name,
                values.len()
            )));
        }
    }
    if rest != [PROBE_VALUE] {
        return Err(Attempt::Wrong(format!("{} more outputs, expected one", rest.len())));
    }
    Ok(())
}

fn close(found: f64, expected: f64, relative: f64) -> bool {
    if found == expected || (found.is_nan() && expected.is_nan()) {
        return true;
    }
    expected.is_finite() && (found - expected).abs() <= ABSOLUTE + relative * expected.abs()
}

fn kind_of(data_type: i32) -> Option<Kind> {
    match data_type {
        16 => return Some(Kind::BF16),
        17 => return Some(Kind::F8E4M3),
        18 => return Some(Kind::F8E4M3Uz),
        19 => return Some(Kind::F8E5M2),
        20 => return Some(Kind::F8E5M2Uz),
        21 => return Some(Kind::U4),
        22 => return Some(Kind::I4),
        23 => return Some(Kind::F4E2M1),
        25 => return Some(Kind::U2),
        26 => return Some(Kind::I2),
        _ => {}
    }
    Some(match DataType::try_from(data_type).ok()? {
        DataType::Float16 => Kind::F16,
        DataType::Float => Kind::F32,
        DataType::Double => Kind::F64,
        DataType::Int8 => Kind::I8,
        DataType::Int16 => Kind::I16,
        DataType::Int32 => Kind::I32,
        DataType::Int64 => Kind::I64,
        DataType::Uint8 => Kind::U8,
        DataType::Uint16 => Kind::U16,
        DataType::Uint32 => Kind::U32,
        DataType::Uint64 => Kind::U64,
        DataType::Bool => Kind::Bool,
        _ => return None,
    })
}

/// The numbers of a tensor; `None`: of another type.
pub(crate) fn numbers(tensor: &pb::TensorProto) -> Option<Vec<f64>> {
    fn words<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        raw.as_chunks::<N>().0.iter().copied().map(read).collect()
    }
    let raw = &*tensor.raw_data;
    let typed = raw.is_empty();
    let small = || tensor.int32_data.iter().map(|&value| f64::from(value)).collect();
    Some(match kind_of(tensor.data_type)? {
        Kind::F32 if typed => tensor.float_data.iter().map(|&value| value.into()).collect(),
        Kind::F64 if typed => tensor.double_data.clone(),
        Kind::F16 if typed => tensor.int32_data.iter().map(|&bits| half(bits as u16)).collect(),
        Kind::I64 if typed => tensor.int64_data.iter().map(|&value| value as f64).collect(),
        Kind::U32 | Kind::U64 if typed => tensor.uint64_data.iter().map(|&value| value as f64).collect(),
        Kind::BF16 if typed => small_words(tensor).map(|word| f32::from_bits(word << 16).into()).collect(),
        Kind::BF16 => words(raw, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16).into()),
        kind if bits_of(kind).is_some() => packed(tensor, kind),
        _ if typed => small(),
        Kind::F32 => words(raw, |b| f32::from_le_bytes(b).into()),
        Kind::F64 => words(raw, f64::from_le_bytes),
        Kind::F16 => words(raw, |b| half(u16::from_le_bytes(b))),
        Kind::I8 => words(raw, |b| i8::from_le_bytes(b).into()),
        Kind::I16 => words(raw, |b| i16::from_le_bytes(b).into()),
        Kind::I32 => words(raw, |b| i32::from_le_bytes(b).into()),
        Kind::I64 => words(raw, |b| i64::from_le_bytes(b) as f64),
        Kind::U8 | Kind::Bool => words(raw, |b| u8::from_le_bytes(b).into()),
        Kind::U16 => words(raw, |b| u16::from_le_bytes(b).into()),
        Kind::U32 => words(raw, |b| u32::from_le_bytes(b).into()),
        Kind::U64 => words(raw, |b| u64::from_le_bytes(b) as f64),
        _ => return None,
    })
}

fn small_words(tensor: &pb::TensorProto) -> impl Iterator<Item = u32> {
    tensor.int32_data.iter().map(|&word| word as u32)
}

/// Bits of a type of at most 8 bits that is no ordinary integer.
fn bits_of(kind: Kind) -> Option<u32> {
    match kind {
        Kind::U2 | Kind::I2 => Some(2),
        Kind::U4 | Kind::I4 | Kind::F4E2M1 => Some(4),
        Kind::F8E4M3 | Kind::F8E4M3Uz | Kind::F8E5M2 | Kind::F8E5M2Uz => Some(8),
        _ => None,
    }
}

/// Numbers of such a type, by the tables of the ONNX documents.
fn packed(tensor: &pb::TensorProto, kind: Kind) -> Vec<f64> {
    let bits = bits_of(kind).unwrap_or(8);
    let bytes: Vec<u8> = match tensor.raw_data.is_empty() {
        true => small_words(tensor).map(|word| word as u8).collect(),
        false => tensor.raw_data.to_vec(),
    };
    let count = tensor.dims.iter().product::<i64>().max(0) as usize;
    let parts = bytes
        .iter()
        .flat_map(|byte| (0..8 / bits).map(move |i| u32::from(*byte) >> (i * bits) & ((1 << bits) - 1)));
    let float = |pattern: u32, fraction_bits: u32, bias: i32| {
        let negative = pattern >> (bits - 1) == 1;
        let magnitude = pattern & ((1 << (bits - 1)) - 1);
        let (exponent, fraction) =
            (magnitude >> fraction_bits, f64::from(magnitude & ((1 << fraction_bits) - 1)));
        let unit = 2f64.powi(-(fraction_bits as i32));
        let value = match exponent {
            0 => fraction * unit * 2f64.powi(1 - bias),
            _ => (1.0 + fraction * unit) * 2f64.powi(exponent as i32 - bias),
        };
        if negative { -value } else { value }
    };
    let number = |pattern: u32| match kind {
        Kind::I2 | Kind::I4 => f64::from((pattern << (32 - bits)) as i32 >> (32 - bits)),
        Kind::U2 | Kind::U4 => f64::from(pattern),
        Kind::F4E2M1 => float(pattern, 1, 1),
        Kind::F8E4M3 if pattern & 0x7f == 0x7f => f64::NAN,
        Kind::F8E4M3 => float(pattern, 3, 7),
        Kind::F8E5M2 if pattern & 0x7f == 0x7c => {
            if pattern > 0x7f {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        Kind::F8E5M2 if pattern & 0x7f > 0x7c => f64::NAN,
        Kind::F8E5M2 => float(pattern, 2, 15),
        _ if pattern == 0x80 => f64::NAN,
        Kind::F8E4M3Uz => float(pattern, 3, 8),
        _ => float(pattern, 2, 16),
    };
    parts.take(count).map(number).collect()
}

/// The nearest number of the upper half of an `f32`, halves to even.
fn to_brain(value: f32) -> f64 {
    if !value.is_finite() {
        return value.into();
    }
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000).into()
}

/// The nearest half-precision number, halves to even; in range.
fn to_half(value: f32) -> f64 {
    let value = f64::from(value);
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = value.abs().log2().floor().max(-14.0);
    let unit = 2f64.powf(exponent - 10.0);
    let rounded = (value / unit).round_ties_even() * unit;
    if rounded.abs() > 65504.0 { f64::INFINITY.copysign(value) } else { rounded }
}

fn half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// Whether numbers of this type are floating-point ones.
pub(crate) fn is_float(data_type: i32) -> bool {
    kind_of(data_type).is_some_and(Kind::is_float)
}

/// Whether the compiler carries numbers of this type.
pub(crate) fn is_carried(data_type: i32) -> bool {
    kind_of(data_type).is_some()
}
