//! Cases that were damaged in one or two places, along the structure of the file: an error or a network that runs,
//! never a panic.

use crate::case::{Case, bind};
use prost::Message;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tendon_compiler::parity::ImageRunner;
use tendon_compiler::{ContractChoice, Options, compile, supported_operators};
use tract_onnx::pb;

/// A file takes at most this long, seconds of the processor: what else runs on the machine does not count.
const MOST_S: f64 = 2.0;
/// And the process at most this much memory meanwhile, bytes.
const MOST_BYTES: u64 = 512 << 20;

/// The most that a file took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worst {
    /// Seconds of the processor.
    pub(crate) seconds: f64,
    /// Resident memory of the whole process, bytes; 0 where the system does not tell.
    pub(crate) bytes: u64,
}

/// Time that this thread was on a processor, s.
fn processor_s() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}

/// Largest resident memory since [`forget_peak`], bytes.
fn peak_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Linux starts the peak again.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

pub(crate) struct Picks(pub(crate) u64);

impl Picks {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    fn integer(&mut self) -> i64 {
        const VALUES: [i64; 16] =
            [-3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 64, 1000, 1 << 20, 1 << 31, i64::MIN, i64::MAX];
        VALUES[self.below(VALUES.len())]
    }

    fn float(&mut self) -> f32 {
        const VALUES: [f32; 10] =
            [0.0, -1.0, 0.5, 1.0, 2.0, 1e30, 1e-30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        VALUES[self.below(VALUES.len())]
    }
}

fn attribute(attribute: &mut pb::AttributeProto, picks: &mut Picks) {
    match picks.below(4) {
        0 => attribute.i = picks.integer(),
        1 => attribute.f = picks.float(),
        2 if !attribute.ints.is_empty() => {
            let place = picks.below(attribute.ints.len());
            match picks.below(3) {
                0 => attribute.ints[place] = picks.integer(),
                1 => {
                    attribute.ints.remove(place);
                }
                _ => attribute.ints.push(picks.integer()),
            }
        }
        _ if !attribute.s.is_empty() => {
            let words: [&[u8]; 6] = [b"", b"none", b"max", b"LEFT", b"reverse", b"SAME_UPPER"];
            attribute.s = words[picks.below(words.len())].to_vec();
        }
        _ => attribute.i = picks.integer(),
    }
}

fn node(node: &mut pb::NodeProto, picks: &mut Picks, names: &[String]) {
    let operators = supported_operators();
    match picks.below(7) {
        0 | 1 if !node.attribute.is_empty() => {
            let place = picks.below(node.attribute.len());
            attribute(&mut node.attribute[place], picks);
        }
        2 if !node.attribute.is_empty() => {
            let place = picks.below(node.attribute.len());
            node.attribute.remove(place);
        }
        3 if !node.input.is_empty() => {
            let place = picks.below(node.input.len());
            node.input[place] = names.get(picks.below(names.len() + 1)).cloned().unwrap_or_default();
        }
        4 if !node.input.is_empty() => {
            node.input.pop();
        }
        5 => node.op_type = operators[picks.below(operators.len())].to_string(),
        _ => node.input.push(names.get(picks.below(names.len())).cloned().unwrap_or_default()),
    }
}

fn dims(dims: &mut Vec<i64>, picks: &mut Picks) {
    const SIZES: [i64; 8] = [0, 1, 2, 3, 4, 5, 8, 100];
    let place = picks.below(dims.len());
    match picks.below(3) {
        0 if !dims.is_empty() => dims[place] = SIZES[picks.below(SIZES.len())],
        1 if !dims.is_empty() => {
            dims.remove(place);
        }
        _ => dims.insert(place, SIZES[picks.below(SIZES.len())]),
    }
}

/// A tensor with other dimensions and as much data as they need.
fn tensor(tensor: &mut pb::TensorProto, picks: &mut Picks) {
    let count = |dims: &[i64]| dims.iter().product::<i64>().max(0) as usize;
    let before = count(&tensor.dims);
    if picks.below(2) == 0 && !tensor.raw_data.is_empty() {
        let place = picks.below(tensor.raw_data.len());
        tensor.raw_data[place] = [0, 1, 2, 3, 0x7f, 0x80, 0xff][picks.below(7)];
        return;
    }
    dims(&mut tensor.dims, picks);
    let after = count(&tensor.dims).min(1 << 16);
    if let Some(width) = tensor.raw_data.len().checked_div(before).filter(|width| *width > 0) {
        tensor.raw_data = tensor.raw_data.iter().copied().cycle().take(after * width).collect();
    }
}

fn mutate(model: &mut pb::ModelProto, picks: &mut Picks) {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let names: Vec<String> = model
        .graph
        .iter()
        .flat_map(|graph| {
            let ports = graph.input.iter().map(|port| port.name.clone());
            ports.chain(graph.initializer.iter().map(|tensor| tensor.name.clone()))
        })
        .collect();
    let Some(graph) = &mut model.graph else { return };
    match picks.below(8) {
        0 => {
            for set in &mut model.opset_import {
                set.version = 1 + picks.below(28) as i64;
            }
        }
        1 | 2 if !graph.initializer.is_empty() => {
            let place = picks.below(graph.initializer.len());
            tensor(&mut graph.initializer[place], picks);
        }
        3 | 4 if !graph.input.is_empty() => {
            let place = picks.below(graph.input.len());
            let port = graph.input[place].r#type.as_mut().and_then(|kind| kind.value.as_mut());
            if let Some(pb::type_proto::Value::TensorType(kind)) = port {
                let shape = kind.shape.get_or_insert_default();
                let mut own: Vec<i64> = shape
                    .dim
                    .iter()
                    .map(|dim| match dim.value {
                        Some(Value::DimValue(value)) => value,
                        _ => 1,
                    })
                    .collect();
                dims(&mut own, picks);
                let dim = |value| Dimension { value: Some(Value::DimValue(value)), ..Default::default() };
                shape.dim = own.into_iter().map(dim).collect();
            }
        }
        _ => {
            let place = picks.below(graph.node.len().max(1) - 1);
            let Some(own) = graph.node.get_mut(place) else { return };
            // Sometimes inside a body.
            let inner = own.attribute.iter_mut().find_map(|attribute| attribute.g.as_mut());
            match inner {
                Some(inner) if !inner.node.is_empty() && picks.below(2) == 0 => {
                    let place = picks.below(inner.node.len());
                    node(&mut inner.node[place], picks, &names);
                }
                _ => node(own, picks, &names),
            }
        }
    }
}

/// What is wrong with one damaged case.
pub(crate) fn damaged(case: &Case, picks: &mut Picks, worst: &mut Worst) -> Result<bool, String> {
    let mask: Vec<bool> = case.inputs.iter().map(|_| picks.below(3) == 0).collect();
    let (mut model, _) = bind(case, &mask);
    for _ in 0..=picks.below(2) {
        mutate(&mut model, picks);
    }
    let bytes = model.encode_to_vec();
    let options = Options {
        contract: ContractChoice::Bare,
        states: Some(&[]),
        golden_vectors: 1,
        ..Options::default()
    };
    forget_peak();
    let started = processor_s();
    let run = || -> Result<bool, String> {
        match compile(&bytes, &options) {
            Err(error) if error.to_string().contains("fault of the compiler") => Err(error.to_string()),
            Err(_) => Ok(false),
            Ok(compiled) => {
                let mut runner = ImageRunner::new(&compiled.image).map_err(|error| error.to_string())?;
                let n = runner.policy().network.plan().n_inputs as usize;
                let found = runner.run(&vec![0.5; n])?;
                let count: usize = compiled.outputs.iter().map(tendon_compiler::Port::len).sum();
                if found.len() == count {
                    Ok(true)
                } else {
                    Err(format!("{} outputs, expected {count}", found.len()))
                }
            }
        }
    };
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!(
            "panicked: {}",
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        ))
    });
    let (seconds, peak) = (processor_s() - started, peak_bytes());
    *worst = Worst { seconds: worst.seconds.max(seconds), bytes: worst.bytes.max(peak) };
    let result = if seconds > MOST_S { Err(format!("took {seconds:.1} s")) } else { result };
    let result = if peak > MOST_BYTES { Err(format!("took {} MiB", peak >> 20)) } else { result };
    result.inspect_err(|_| {
        if let Some(folder) = std::env::var_os("TENDON_DAMAGED") {
            let name = format!("{}-{}.onnx", case.name, bytes.len());
            let _ = std::fs::write(std::path::Path::new(&folder).join(name), &bytes);
        }
    })
}
