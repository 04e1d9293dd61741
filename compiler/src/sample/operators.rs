//! One small network per operator of the runtime and per kind of it, to compare bits between two machines.

use super::{float_tensor, int_attribute, int_tensor, ints_attribute, model, node};
use crate::parity::random_inputs;
use crate::{CompileError, Compiled, ContractChoice, Options, compile};
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

/// A network around one operator of the runtime: `x` of [`Sample::N_INPUTS`] elements to `y`.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The ONNX operator and what is special about it.
    pub name: String,
    /// The file. It compiles to a bare network.
    pub onnx: Vec<u8>,
    /// Its dense layers get 8-bit weights.
    pub quantized: bool,
}

impl Sample {
    /// Compiles it to a bare network.
    ///
    /// # Errors
    /// As [`crate::compile`].
    pub fn compile(&self) -> Result<Compiled, CompileError> {
        let rows = random_inputs(Self::N_INPUTS, 16, 1);
        let quantize = self.quantized.then_some(&*rows);
        compile(&self.onnx, &Options { contract: ContractChoice::Bare, quantize, ..Options::default() })
    }

    /// Elements of every sample's input. Any finite numbers do; small ones reach more.
    pub const N_INPUTS: usize = 8;
}

/// ONNX numbers of element types.
const INT8: i64 = 3;
const UINT8: i64 = 2;
const INT32: i64 = 6;
const BOOL: i64 = 9;
/// Of all samples; what exists only in older sets has none.
const OPSET: i64 = 24;

/// Collects samples.
struct Samples(Vec<Sample>);

impl Samples {
    /// Nodes from `x` `[1, 8]` to `y`.
    fn add(&mut self, name: &str, nodes: Vec<NodeProto>, tensors: Vec<TensorProto>) {
        let n = Sample::N_INPUTS;
        let onnx = model(nodes, tensors, ("x", &[1, n]), ("y", &[1, n]), OPSET);
        self.0.push(Sample { name: name.into(), onnx, quantized: false });
    }

    /// One node on `from`, which `before` makes of `x`.
    fn one(
        &mut self,
        name: &str,
        op: &str,
        before: &[NodeProto],
        from: &str,
        attributes: Vec<AttributeProto>,
    ) {
        let mut nodes = before.to_vec();
        nodes.push(node(op, &[from], &["y"], attributes));
        self.add(name, nodes, vec![]);
    }
}

fn cast(from: &str, to: &str, kind: i64) -> NodeProto {
    node("Cast", &[from], &[to], vec![int_attribute("to", kind)])
}

fn weights(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect()
}

fn reshape(from: &str, to: &str, shape: &str) -> NodeProto {
    node("Reshape", &[from, shape], &[to], vec![])
}

/// Samples that together use every operator of the runtime, every function of one and of two numbers, every way to
/// reduce, pool and scatter (a test of this package holds them to it).
#[must_use]
pub fn operators() -> Vec<Sample> {
    let mut samples = Samples(Vec::new());
    unary(&mut samples);
    binary(&mut samples);
    layers(&mut samples);
    along_axes(&mut samples);
    places(&mut samples);
    quantized(&mut samples);
    samples.0
}

/// Layers that hand activations on as integers, with and without ReLU, and one that gives `f32`.
fn quantized(samples: &mut Samples) {
    let n = Sample::N_INPUTS;
    let matrix = |name: &str| float_tensor(name, &[n, n], &weights(n * n));
    let nodes = vec![
        node("MatMul", &["x", "a"], &["p"], vec![]),
        node("MatMul", &["p", "b"], &["q"], vec![]),
        node("Relu", &["q"], &["r"], vec![]),
        node("MatMul", &["r", "c"], &["y"], vec![]),
    ];
    samples.add("8w16a", nodes, vec![matrix("a"), matrix("b"), matrix("c")]);
    samples.0.iter_mut().rev().take(1).for_each(|sample| sample.quantized = true);
}

fn unary(samples: &mut Samples) {
    for op in [
        "Abs",
        "Atan",
        "Asinh",
        "Ceil",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "LeakyRelu",
        "Mish",
        "Reciprocal",
        "Relu",
        "Round",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    ] {
        samples.one(op, op, &[], "x", vec![]);
    }
    let tanh = super::attribute("approximate", super::AttributeType::String);
    let tanh = AttributeProto { s: b"tanh".to_vec(), ..tanh };
    samples.one("Gelu tanh", "Gelu", &[], "x", vec![tanh]);
    // Where the function is defined: on (0, 1), from 1 on.
    for op in ["Log", "Sqrt", "Asin", "Acos", "Atanh"] {
        samples.one(op, op, &[node("Sigmoid", &["x"], &["s"], vec![])], "s", vec![]);
    }
    samples.one("Acosh", "Acosh", &[node("Cosh", &["x"], &["c"], vec![])], "c", vec![]);
    samples.one("IsNaN", "IsNaN", &[node("Log", &["x"], &["l"], vec![])], "l", vec![]);
    let inverse = [node("Relu", &["x"], &["r"], vec![]), node("Reciprocal", &["r"], &["i"], vec![])];
    samples.one("IsInf", "IsInf", &inverse, "i", vec![]);
    samples.one("Cast to integers", "Cast", &[], "x", vec![int_attribute("to", INT32)]);
    samples.one("Not", "Not", &[cast("x", "b", BOOL)], "b", vec![]);
    samples.one("BitwiseNot", "BitwiseNot", &[cast("x", "i", INT32)], "i", vec![]);
    let clip = vec![node("Clip", &["x", "low", "high"], &["y"], vec![])];
    samples.add("Clip", clip, vec![float_tensor("low", &[], &[-0.5]), float_tensor("high", &[], &[0.75])]);
    let wrap = vec![cast("x", "i", INT8), node("Add", &["i", "i"], &["y"], vec![])];
    samples.add("Add of int8", wrap, vec![]);
}

fn binary(samples: &mut Samples) {
    let constant = || vec![float_tensor("c", &[8], &weights(8).iter().map(|w| w + 1.5).collect::<Vec<_>>())];
    for op in [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Min",
        "Max",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "PRelu",
    ] {
        samples.add(op, vec![node(op, &["x", "c"], &["y"], vec![])], constant());
        let nodes = vec![node("Sigmoid", &["x"], &["s"], vec![]), node(op, &["x", "s"], &["y"], vec![])];
        samples.add(&format!("{op} of computed"), nodes, vec![]);
    }
    for op in ["Sub", "Div", "Pow"] {
        samples.add(
            &format!("{op} from a constant"),
            vec![node(op, &["c", "x"], &["y"], vec![])],
            constant(),
        );
    }
    let positive = || node("Sigmoid", &["x"], &["s"], vec![]);
    samples.add("Pow", vec![positive(), node("Pow", &["s", "c"], &["y"], vec![])], constant());
    for fmod in [0, 1] {
        let nodes = vec![node("Mod", &["x", "c"], &["y"], vec![int_attribute("fmod", fmod)])];
        samples.add(&format!("Mod {fmod}"), nodes, constant());
    }
    // One number per row of `[2, 4]`.
    let nodes = vec![reshape("x", "r", "shape"), node("Mul", &["r", "c"], &["y"], vec![])];
    samples.add(
        "Mul by rows",
        nodes,
        vec![int_tensor("shape", &[2, 4]), float_tensor("c", &[2, 1], &[0.5, -2.0])],
    );
    for op in ["And", "Or", "Xor"] {
        let nodes = vec![
            node("Sin", &["x"], &["s"], vec![]),
            node("Greater", &["x", "zero"], &["a"], vec![]),
            node("Greater", &["s", "zero"], &["b"], vec![]),
            node(op, &["a", "b"], &["y"], vec![]),
        ];
        samples.add(op, nodes, vec![float_tensor("zero", &[], &[0.0])]);
    }
    let scaled =
        || vec![node("Mul", &["x", "c"], &["m"], vec![]), cast("x", "i", INT32), cast("m", "j", INT32)];
    let hundred = || vec![float_tensor("c", &[], &[100.0])];
    for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"] {
        let mut nodes = scaled();
        nodes.push(node(op, &["i", "j"], &["y"], vec![]));
        samples.add(op, nodes, hundred());
    }
    for direction in ["LEFT", "RIGHT"] {
        let text = super::attribute("direction", super::AttributeType::String);
        let text = AttributeProto { s: direction.into(), ..text };
        let nodes = vec![
            node("Abs", &["x"], &["a"], vec![]),
            cast("a", "i", UINT8),
            node("BitShift", &["i", "i"], &["y"], vec![text]),
        ];
        samples.add(&format!("BitShift {direction}"), nodes, vec![]);
    }
}

fn layers(samples: &mut Samples) {
    let gemm = || node("Gemm", &["x", "w", "b"], &["h"], vec![int_attribute("transB", 1)]);
    let dense = || vec![float_tensor("w", &[7, 8], &weights(56)), float_tensor("b", &[7], &weights(7))];
    let image = || {
        vec![
            int_tensor("shape", &[1, 2, 2, 2]),
            float_tensor("w", &[6, 1, 2, 2], &weights(24)),
            float_tensor("b", &[6], &weights(6)),
        ]
    };
    let conv = || {
        let attributes = vec![int_attribute("group", 2), ints_attribute("pads", &[1, 0, 1, 1])];
        vec![reshape("x", "r", "shape"), node("Conv", &["r", "w", "b"], &["h"], attributes)]
    };
    for op in ["Identity", "Relu", "Tanh", "Sigmoid", "Swish", "Elu"] {
        samples.add(&format!("Gemm and {op}"), vec![gemm(), node(op, &["h"], &["y"], vec![])], dense());
        let mut nodes = conv();
        nodes.push(node(op, &["h"], &["y"], vec![]));
        samples.add(&format!("Conv and {op}"), nodes, image());
    }
    // A normalisation that would lose precision inside the layer.
    let nodes = vec![
        node("Sub", &["x", "mean"], &["c"], vec![]),
        node("Div", &["c", "std"], &["n"], vec![]),
        node("MatMul", &["n", "w"], &["y"], vec![]),
    ];
    let tensors = vec![
        float_tensor("mean", &[8], &weights(8)),
        float_tensor("std", &[8], &[1e-4; 8]),
        float_tensor("w", &[8, 3], &weights(24)),
    ];
    samples.add("scale and shift", nodes, tensors);
    // More and fewer units than go at once.
    for hidden in [3, 6] {
        let attributes = vec![int_attribute("hidden_size", hidden as i64)];
        let nodes = vec![reshape("x", "r", "shape"), node("LSTM", &["r", "w", "h"], &["y"], attributes)];
        let tensors = vec![
            int_tensor("shape", &[1, 1, 8]),
            float_tensor("w", &[1, 4 * hidden, 8], &weights(32 * hidden)),
            float_tensor("h", &[1, 4 * hidden, hidden], &weights(4 * hidden * hidden)),
        ];
        samples.add(&format!("LSTM of {hidden}"), nodes, tensors);
    }
    let reshaped = |to: &str| node("Reshape", &["x", &format!("{to}_shape")], &[to], vec![]);
    let shape = |to: &str, dims: &[i64]| int_tensor(&format!("{to}_shape"), dims);
    let product = || node("MatMul", &["a", "b"], &["y"], vec![]);
    for (name, a, b) in [
        ("MatMul", &[2, 2, 2][..], &[2, 2, 2][..]),
        ("MatMul of one A", &[1, 4, 2], &[4, 2, 1]),
        ("MatMul of one B", &[4, 1, 2], &[1, 2, 4]),
    ] {
        samples.add(name, vec![reshaped("a"), reshaped("b"), product()], vec![shape("a", a), shape("b", b)]);
    }
    let nodes = vec![reshaped("q"), node("Attention", &["q", "q", "q"], &["y"], vec![])];
    samples.add("Attention", nodes, vec![shape("q", &[1, 2, 2, 2])]);
    for (op, kernel) in [("MaxPool", [2, 1]), ("AveragePool", [2, 2]), ("LpPool", [1, 2])] {
        let attributes = vec![ints_attribute("kernel_shape", &kernel), ints_attribute("pads", &[0, 0, 1, 0])];
        let nodes = vec![reshaped("r"), node(op, &["r"], &["y"], attributes)];
        samples.add(op, nodes, vec![shape("r", &[1, 2, 2, 2])]);
    }
}

fn along_axes(samples: &mut Samples) {
    let grid = || vec![int_tensor("shape", &[2, 2, 2]), int_tensor("axis", &[1])];
    let start = || reshape("x", "r", "shape");
    for op in
        ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare"]
    {
        samples.add(op, vec![start(), node(op, &["r", "axis"], &["y"], vec![])], grid());
    }
    for op in ["ArgMax", "ArgMin"] {
        for last in [0, 1] {
            let attributes = vec![int_attribute("axis", 1), int_attribute("select_last_index", last)];
            samples.add(&format!("{op} {last}"), vec![start(), node(op, &["r"], &["y"], attributes)], grid());
        }
    }
    for op in ["CumSum", "CumProd"] {
        for (exclusive, reverse) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let attributes = vec![int_attribute("exclusive", exclusive), int_attribute("reverse", reverse)];
            let nodes = vec![start(), node(op, &["r", "axis"], &["y"], attributes)];
            // CumProd came with a later set.
            let onnx = model(nodes, grid(), ("x", &[1, 8]), ("y", &[1, 8]), OPSET + 2);
            samples.0.push(Sample { name: format!("{op} {exclusive} {reverse}"), onnx, quantized: false });
        }
    }
    for op in ["Softmax", "LogSoftmax"] {
        samples.add(op, vec![start(), node(op, &["r"], &["y"], vec![int_attribute("axis", 1)])], grid());
    }
    for largest in [0, 1] {
        let attributes = vec![int_attribute("largest", largest)];
        let nodes = vec![
            node("TopK", &["x", "k"], &["v", "i"], attributes),
            node("Add", &["v", "i"], &["y"], vec![]),
        ];
        samples.add(&format!("TopK {largest}"), nodes, vec![int_tensor("k", &[3])]);
    }
}

fn places(samples: &mut Samples) {
    let nodes = vec![reshape("x", "r", "shape"), node("Transpose", &["r"], &["y"], vec![])];
    samples.add("Transpose", nodes, vec![int_tensor("shape", &[2, 2, 2])]);
    samples.add(
        "Pad",
        vec![node("Pad", &["x", "pads"], &["y"], vec![])],
        vec![int_tensor("pads", &[1, 1, 0, 2])],
    );
    let gather = |indices: &str| node("Gather", &["x", indices], &["y"], vec![int_attribute("axis", 1)]);
    samples.add("Gather", vec![gather("i")], vec![int_tensor("i", &[6, 1, 3, 3])]);
    let nodes = vec![node("ArgMax", &["x"], &["i"], vec![int_attribute("axis", 1)]), gather("i")];
    samples.add("Gather of computed", nodes, vec![]);
    let nodes = vec![
        node("Greater", &["x", "zero"], &["g"], vec![]),
        node("Where", &["g", "x", "c"], &["y"], vec![]),
    ];
    samples.add(
        "Where",
        nodes,
        vec![float_tensor("zero", &[], &[0.0]), float_tensor("c", &[8], &weights(8))],
    );
    for reduction in ["none", "add", "mul", "max", "min"] {
        let text = super::attribute("reduction", super::AttributeType::String);
        let text = AttributeProto { s: reduction.into(), ..text };
        let start = || vec![node("Sin", &["x"], &["s"], vec![]), node("Cos", &["x"], &["c"], vec![])];
        let mut nodes = start();
        nodes.push(node(
            "ScatterElements",
            &["s", "i", "c"],
            &["y"],
            vec![text.clone(), int_attribute("axis", 1)],
        ));
        let indices = TensorProto { dims: vec![1, 8], ..int_tensor("i", &[0, 7, 3, 3, 1, 2, 0, 5]) };
        samples.add(&format!("ScatterElements {reduction}"), nodes, vec![indices]);
        let mut nodes = start();
        nodes.push(reshape("s", "a", "shape"));
        nodes.push(reshape("c", "b", "shape"));
        nodes.push(node("ScatterND", &["a", "i", "b"], &["y"], vec![text]));
        let indices = TensorProto { dims: vec![4, 1], ..int_tensor("i", &[3, 1, 1, 0]) };
        samples.add(&format!("ScatterND {reduction}"), nodes, vec![indices, int_tensor("shape", &[4, 2])]);
    }
    // Memory from tick to tick.
    let nodes = vec![
        node("Add", &["x", "h_in"], &["sum"], vec![]),
        node("Tanh", &["sum"], &["h_out"], vec![]),
        node("Mul", &["h_out", "x"], &["y"], vec![]),
    ];
    samples.0.push(Sample {
        name: "state".into(),
        onnx: super::with_state(nodes, Sample::N_INPUTS),
        quantized: false,
    });
}
