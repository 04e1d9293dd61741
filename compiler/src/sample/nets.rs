//! Recurrent policies and an image encoder, of the shapes that benches measure.

use super::{float_tensor, int_attribute, int_tensor, ints_attribute, node, ports};
use crate::random::Random;
use tract_onnx::pb::{NodeProto, TensorProto};

/// Recurrent cell of [`recurrent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `LSTM`
    Lstm,
    /// `GRU` as PyTorch has it (`linear_before_reset`)
    Gru,
}

/// Collects a network.
struct Net {
    random: Random,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), nodes: Vec::new(), tensors: Vec::new() }
    }

    /// A tensor of uniform numbers up to `bound`.
    fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| bound * self.random.symmetric()).collect();
        self.tensors.push(float_tensor(name, shape, &values));
    }

    /// `to = Gemm(from)`.
    fn dense(&mut self, from: &str, to: &str, n_in: usize, n_out: usize) {
        let (weight, bias) = (format!("{to}.weight"), format!("{to}.bias"));
        self.uniform(&weight, &[n_out, n_in], (3.0 / n_in as f32).sqrt());
        self.uniform(&bias, &[n_out], 0.1);
        self.nodes.push(node("Gemm", &[from, &weight, &bias], &[to], vec![int_attribute("transB", 1)]));
    }
}

/// An ONNX file of a recurrent policy: `obs` `[1, n_in]` through a cell of `hidden` units, then, where `dense` is not 0,
/// a layer of so many with Elu, and `actions` `[1, n_out]`. State: `h_in` to `h_out` and, for an LSTM, `c_in` to `c_out`.
#[must_use]
pub fn recurrent(cell: Cell, n_in: usize, hidden: usize, dense: usize, n_out: usize, seed: u64) -> Vec<u8> {
    let mut net = Net::new(seed);
    let (op, gates) = if cell == Cell::Lstm { ("LSTM", 4) } else { ("GRU", 3) };
    let bound = 1.0 / (hidden as f32).sqrt();
    net.uniform("W", &[1, gates * hidden, n_in], bound);
    net.uniform("R", &[1, gates * hidden, hidden], bound);
    net.uniform("B", &[1, 2 * gates * hidden], bound);
    net.tensors.push(int_tensor("sequence", &[1, 1, n_in as i64]));
    net.tensors.push(int_tensor("row", &[1, hidden as i64]));
    net.nodes.push(node("Reshape", &["obs", "sequence"], &["x"], vec![]));
    let mut attributes = vec![int_attribute("hidden_size", hidden as i64)];
    let state: &[usize] = &[1, 1, hidden];
    let (obs, actions): (&[usize], &[usize]) = (&[1, n_in], &[1, n_out]);
    let mut inputs = vec![("obs", obs), ("h_in", state)];
    let mut outputs = vec![("actions", actions), ("h_out", state)];
    if cell == Cell::Lstm {
        inputs.push(("c_in", state));
        outputs.push(("c_out", state));
        let from = ["x", "W", "R", "B", "", "h_in", "c_in"];
        net.nodes.push(node(op, &from, &["y", "h_out", "c_out"], attributes));
    } else {
        attributes.push(int_attribute("linear_before_reset", 1));
        net.nodes.push(node(op, &["x", "W", "R", "B", "", "h_in"], &["y", "h_out"], attributes));
    }
    net.nodes.push(node("Reshape", &["y", "row"], &["features"], vec![]));
    if dense == 0 {
        net.dense("features", "actions", hidden, n_out);
    } else {
        net.dense("features", "sum", hidden, dense);
        net.nodes.push(node("Elu", &["sum"], &["dense"], vec![]));
        net.dense("dense", "actions", dense, n_out);
    }
    ports(net.nodes, net.tensors, &inputs, &outputs, 17)
}

/// An ONNX file of an image encoder: `image` `[1, 1, size, size]` through convolutions of 3 x 3 with stride 2, padding 1
/// and ReLU, one per entry of `channels`, then a dense layer to `latent` `[1, n_out]`.
#[must_use]
pub fn conv_encoder(size: usize, channels: &[usize], n_out: usize, seed: u64) -> Vec<u8> {
    let mut net = Net::new(seed);
    let (mut value, mut c_in, mut edge) = ("image".to_string(), 1, size);
    for (layer, &c_out) in channels.iter().enumerate() {
        let [weight, bias, sum, out] =
            ["weight", "bias", "sum", "out"].map(|part| format!("conv{layer}.{part}"));
        net.uniform(&weight, &[c_out, c_in, 3, 3], (3.0 / (9 * c_in) as f32).sqrt());
        net.uniform(&bias, &[c_out], 0.1);
        let attributes = vec![
            ints_attribute("kernel_shape", &[3, 3]),
            ints_attribute("strides", &[2, 2]),
            ints_attribute("pads", &[1, 1, 1, 1]),
        ];
        net.nodes.push(node("Conv", &[&value, &weight, &bias], &[&sum], attributes));
        net.nodes.push(node("Relu", &[&sum], &[&out], vec![]));
        (value, c_in, edge) = (out, c_out, edge.div_ceil(2));
    }
    net.nodes.push(node("Flatten", &[&value], &["features"], vec![]));
    net.dense("features", "latent", c_in * edge * edge, n_out);
    ports(net.nodes, net.tensors, &[("image", &[1, 1, size, size])], &[("latent", &[1, n_out])], 17)
}
