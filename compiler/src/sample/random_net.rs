//! Random networks over all operators, to compare counts with bounds: seeded sizes, seeded order.

use super::{float_tensor, int_attribute, int_tensor, ints_attribute, model, node};
use crate::random::Random;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

const OPSET: i64 = 21;
/// Elements that a stage may have at most; larger ones are thinned.
const MOST: usize = 384;

struct Net {
    random: Random,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    count: usize,
}

impl Net {
    /// Uniform below `n`.
    fn below(&mut self, n: usize) -> usize {
        let unit = f64::from(self.random.symmetric()) / 2.0 + 0.5;
        ((unit * n as f64) as usize).min(n.saturating_sub(1))
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    fn floats(&mut self, shape: &[usize]) -> String {
        let name = self.name();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.5 * self.random.symmetric()).collect();
        self.tensors.push(float_tensor(&name, shape, &values));
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let name = self.name();
        self.tensors.push(int_tensor(&name, values));
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let name = self.name();
        self.nodes.push(node(op, inputs, &[&name], attributes));
        name
    }

    fn reshaped(&mut self, from: &str, shape: &[i64]) -> String {
        let shape = self.integers(shape);
        self.node("Reshape", &[from, &shape], vec![])
    }

    fn flat(&mut self, from: &str) -> String {
        self.reshaped(from, &[1, -1])
    }

    /// The first `count` elements.
    fn thinned(&mut self, from: &str, n: usize, count: usize) -> String {
        let places: Vec<i64> = (0..count).map(|_| self.below(n) as i64).collect();
        let indices = self.integers(&places);
        self.node("Gather", &[from, &indices], vec![int_attribute("axis", 1)])
    }
}

/// A seeded network `x` `[1, n]` to `y` `[1, m]` of two to four stages out of all operators, and its name.
#[must_use]
pub fn random_network(seed: u64) -> (String, Vec<u8>) {
    let (nodes, tensors) = (Vec::new(), Vec::new());
    let mut net = Net { random: Random::new(seed), nodes, tensors, count: 0 };
    let n_in = 8 * (1 + net.below(12));
    let (mut value, mut n) = (net.node("Tanh", &["x"], vec![]), n_in);
    let mut names = Vec::new();
    for _ in 0..2 + net.below(3) {
        if n > MOST || !n.is_multiple_of(4) {
            let count = 4 * (1 + net.below(16));
            (value, n) = (net.thinned(&value, n, count), count);
        }
        let (name, next, len) = stage(&mut net, &value, n);
        names.push(format!("{name} {n}"));
        (value, n) = (net.flat(&next), len);
    }
    net.nodes.push(node("Identity", &[&value], &["y"], vec![]));
    let onnx = model(net.nodes, net.tensors, ("x", &[1, n_in]), ("y", &[1, n]), OPSET);
    (format!("{seed}: {}", names.join(", ")), onnx)
}

const UNARY: [&str; 22] = [
    "Abs",
    "Atan",
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
    "Relu",
    "Round",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tan",
    "Tanh",
];
const BINARY: [&str; 7] = ["Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu"];

/// One stage on `[1, n]` with `n` a multiple of 4: what it is, its result and how many elements that has.
fn stage(net: &mut Net, x: &str, n: usize) -> (&'static str, String, usize) {
    let quarter = (n / 4) as i64;
    let axis = |place: i64| vec![int_attribute("axis", place)];
    match net.below(20) {
        0 => {
            let op = UNARY[net.below(UNARY.len())];
            (op, net.node(op, &[x], vec![]), n)
        }
        1 => {
            let op = BINARY[net.below(BINARY.len())];
            let by_rows = net.below(2) == 0;
            let c = net.floats(&[4, if by_rows { 1 } else { n / 4 }]);
            let rows = net.reshaped(x, &[4, quarter]);
            (op, net.node(op, &[&rows, &c], vec![]), n)
        }
        2 => {
            let op = BINARY[net.below(BINARY.len())];
            let other = net.node("Sigmoid", &[x], vec![]);
            (op, net.node(op, &[x, &other], vec![]), n)
        }
        3 => {
            let m = 4 * (1 + net.below(16));
            let (w, b) = (net.floats(&[m, n]), net.floats(&[m]));
            let sum = net.node("Gemm", &[x, &w, &b], vec![int_attribute("transB", 1)]);
            let op = ["Identity", "Relu", "Tanh", "Sigmoid", "Elu"][net.below(5)];
            ("Gemm", net.node(op, &[&sum], vec![]), m)
        }
        4 => {
            // Several rows at once.
            let m = 1 + net.below(24);
            let (rows, w) = (net.reshaped(x, &[4, quarter]), net.floats(&[n / 4, m]));
            ("MatMul of rows", net.node("MatMul", &[&rows, &w], vec![]), 4 * m)
        }
        5 | 6 => {
            let (image, c) = (net.reshaped(x, &[1, 2, 2, quarter]), 1 + net.below(8));
            let kernel = 1 + 2 * net.below(2);
            let (w, b) = (net.floats(&[c, 2, kernel, kernel]), net.floats(&[c]));
            let pad = (kernel / 2) as i64;
            let sum = net.node("Conv", &[&image, &w, &b], vec![ints_attribute("pads", &[pad; 4])]);
            let op = ["Identity", "Relu", "Tanh"][net.below(3)];
            ("Conv", net.node(op, &[&sum], vec![]), c * n / 2)
        }
        7 => {
            let image = net.reshaped(x, &[1, 2, 2, quarter]);
            let op = ["MaxPool", "AveragePool"][net.below(2)];
            let attributes =
                vec![ints_attribute("kernel_shape", &[2, 2]), ints_attribute("pads", &[0, 0, 1, 1])];
            (op, net.node(op, &[&image], attributes), n)
        }
        8 => {
            let op = ["Softmax", "LogSoftmax"][net.below(2)];
            let (rows, along) = (net.reshaped(x, &[4, quarter]), net.below(2) as i64);
            (op, net.node(op, &[&rows], axis(along)), n)
        }
        9 => {
            let (scale, bias) = (net.floats(&[n]), net.floats(&[n]));
            ("LayerNormalization", net.node("LayerNormalization", &[x, &scale, &bias], vec![]), n)
        }
        10 => {
            let ops =
                ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"];
            let op = ops[net.below(ops.len())];
            let (rows, along) = (net.reshaped(x, &[4, quarter]), net.below(2));
            let axes = net.integers(&[along as i64]);
            (op, net.node(op, &[&rows, &axes], vec![]), if along == 0 { n / 4 } else { 4 })
        }
        11 => {
            let k = net.integers(&[4]);
            let (values, indices) = (net.name(), net.name());
            net.nodes.push(node("TopK", &[x, &k], &[&values, &indices], vec![]));
            let number = net.node("Cast", &[&indices], vec![int_attribute("to", 1)]);
            ("TopK", net.node("Add", &[&values, &number], vec![]), 4)
        }
        12 => {
            let (rows, along) = (net.reshaped(x, &[4, quarter]), net.below(2));
            let axis = net.integers(&[along as i64]);
            ("CumSum", net.node("CumSum", &[&rows, &axis], vec![]), n)
        }
        13 => {
            let parts = net.reshaped(x, &[2, 2, quarter]);
            ("Transpose", net.node("Transpose", &[&parts], vec![ints_attribute("perm", &[2, 0, 1])]), n)
        }
        14 => {
            // Computed places: x in [-1, 1] or larger becomes an index, clipped.
            let bound = net.floats(&[1]);
            let sized = net.node("Sigmoid", &[x], vec![]);
            let shifted = net.node("Add", &[&sized, &bound], vec![]);
            let index = net.node("Cast", &[&shifted], vec![int_attribute("to", 7)]);
            ("Gather of computed", net.node("GatherElements", &[x, &index], axis(1)), n)
        }
        15 => {
            let (a, b) = (net.reshaped(x, &[4, quarter]), net.reshaped(x, &[quarter, 4]));
            ("MatMul", net.node("MatMul", &[&a, &b], vec![]), 16)
        }
        16 => {
            let zero = net.floats(&[n]);
            let (mask, other) = (net.node("Greater", &[x, &zero], vec![]), net.floats(&[n]));
            ("Where", net.node("Where", &[&mask, x, &other], vec![]), n)
        }
        17 => {
            let other = net.node("Tanh", &[x], vec![]);
            ("Concat", net.node("Concat", &[x, &other], axis(1)), 2 * n)
        }
        18 => {
            let places: Vec<i64> = (0..n).map(|_| net.below(n) as i64).collect();
            let index = net.integers(&places);
            let index = net.reshaped(&index, &[1, n as i64]);
            let updates = net.node("Tanh", &[x], vec![]);
            ("ScatterElements", net.node("ScatterElements", &[x, &index, &updates], axis(1)), n)
        }
        _ => {
            let (op, gates) = [("LSTM", 4), ("GRU", 3)][net.below(2)];
            let (hidden, sequence) = (1 + net.below(32), net.reshaped(x, &[1, 1, n as i64]));
            let (w, r) = (net.floats(&[1, gates * hidden, n]), net.floats(&[1, gates * hidden, hidden]));
            let b = net.floats(&[1, 2 * gates * hidden]);
            let attributes = vec![int_attribute("hidden_size", hidden as i64)];
            (op, net.node(op, &[&sequence, &w, &r, &b], attributes), hidden)
        }
    }
}
