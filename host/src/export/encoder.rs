//! What comes before a policy's dense layers, as ONNX.

use super::Graph;
use tendon_learn::{Activation, Conv2d, Encoder, Gru, Transformer};

/// Of `LayerNormalization`, as the engine that trains has it.
const EPSILON: f32 = 1e-5;

impl Graph {
    /// `encoder` from `input`, `[1, n_obs]`; returns the name of its features, `[1, width]`.
    pub(super) fn encoder(&mut self, encoder: &Encoder, p: &[f32], n_obs: usize, input: &str) -> String {
        match encoder {
            Encoder::None => return input.into(),
            Encoder::Gru(gru) => self.gru(gru, p, input),
            Encoder::Conv(layers) => self.convolutions(layers, p, n_obs, input),
            Encoder::Transformer(transformer) => self.transformer(transformer, p, input),
        }
        "features".into()
    }

    /// ONNX's `GRU` with `linear_before_reset`: gates z, r, n where the engine has r, z, n, matrices `[hidden, inputs]` each.
    fn gru(&mut self, gru: &Gru, p: &[f32], input: &str) {
        let (inputs, hidden) = (gru.inputs(), gru.hidden());
        const ORDER: [usize; 3] = [1, 0, 2];
        let turned = |matrix: &[f32], rows: usize| -> Vec<f32> {
            let column = |c: usize| (0..rows).map(move |r| matrix[r * 3 * hidden + c]);
            ORDER.iter().flat_map(|gate| (0..hidden).flat_map(move |c| column(gate * hidden + c))).collect()
        };
        let biases = [gru.input_biases(), gru.state_biases()];
        let biases: Vec<f32> = biases
            .iter()
            .flat_map(|of| ORDER.iter().flat_map(|gate| &p[of.clone()][gate * hidden..(gate + 1) * hidden]))
            .copied()
            .collect();
        self.constant("gru.input", &[1, 3 * hidden, inputs], &turned(&p[gru.input_weights()], inputs));
        self.constant("gru.state", &[1, 3 * hidden, hidden], &turned(&p[gru.state_weights()], hidden));
        self.constant("gru.bias", &[1, 6 * hidden], &biases);
        self.reshape(input, &[1, 1, inputs as i64], "gru.x");
        self.node("GRU", &["gru.x", "gru.input", "gru.state", "gru.bias", "", "h_in"], "gru.steps");
        self.also("h_out");
        self.integer("hidden_size", hidden as i64);
        self.integer("linear_before_reset", 1);
        self.reshape("h_out", &[1, hidden as i64], "features");
    }

    /// Channels come last in the observation and first in ONNX: the image is turned, and the last result turned back.
    fn convolutions(&mut self, layers: &[Conv2d], p: &[f32], n_obs: usize, input: &str) {
        let (first, last) = (&layers[0], &layers[layers.len() - 1]);
        let image = first.input_len();
        self.slice(input, 1, (0, image), "image.flat");
        let sides = [first.height, first.width, first.channels].map(|side| side as i64);
        self.reshape("image.flat", &[1, sides[0], sides[1], sides[2]], "image");
        self.transpose("image", &[0, 3, 1, 2], "image.turned");
        let mut x = "image.turned".to_string();
        let mut start = 0;
        for (i, layer) in layers.iter().enumerate() {
            let own = &p[start..start + layer.parameter_count()];
            start += layer.parameter_count();
            let Conv2d { channels, outputs, kernel, stride, .. } = *layer;
            let filters = &own[layer.filters()];
            let turned: Vec<f32> = (0..outputs)
                .flat_map(|o| (0..channels).flat_map(move |c| (0..kernel * kernel).map(move |k| (o, c, k))))
                .map(|(o, c, k)| filters[(k * channels + c) * outputs + o])
                .collect();
            let (weight, bias) = (format!("conv.{i}.weight"), format!("conv.{i}.bias"));
            self.constant(&weight, &[outputs, channels, kernel, kernel], &turned);
            self.constant(&bias, &[outputs], &own[layer.biases()]);
            let linear = format!("conv.{i}.linear");
            self.node("Conv", &[&x, &weight, &bias], &linear);
            self.integer_list("kernel_shape", &[kernel as i64; 2]);
            self.integer_list("strides", &[stride as i64; 2]);
            x = self.activation(layer.activation, linear, &format!("conv.{i}.hidden"));
        }
        self.transpose(&x, &[0, 2, 3, 1], "conv.back");
        let seen = if image < n_obs { "conv.flat" } else { "features" };
        self.reshape("conv.back", &[1, last.output_len() as i64], seen);
        if image < n_obs {
            self.slice(input, 1, (image, n_obs), "beside");
            self.concat(1, &[seen, "beside"], "features");
        }
    }

    fn transformer(&mut self, shape: &Transformer, p: &[f32], input: &str) {
        let (inputs, window, width, heads) = (shape.inputs(), shape.window(), shape.width(), shape.heads());
        let part = width / heads;
        let tokens = if window > 1 {
            self.concat(1, &["h_in", input], "window");
            self.slice("window", 1, (inputs, window * inputs), "h_out");
            "window"
        } else {
            input
        };
        self.reshape(tokens, &[window as i64, inputs as i64], "tokens");
        self.linear(
            "tokens",
            "embedding",
            [inputs, width],
            &p[shape.embedding()],
            &p[shape.embedding_bias()],
        );
        self.constant("positions", &[window, width], &p[shape.positions()]);
        self.node("Add", &["embedding", "positions"], "block.0");
        self.constant("attention.scale", &[], &[1.0 / (part as f32).sqrt()]);
        for index in 0..shape.blocks() {
            let at = shape.block(index);
            let (x, name) = (format!("block.{index}"), |part: &str| format!("block.{index}.{part}"));
            self.norm(&x, &name("norm"), width, &p[at.attention_norm]);
            self.linear(&name("norm"), &name("qkv"), [width, 3 * width], &p[at.qkv], &p[at.qkv_bias]);
            // [window, 3 width] to queries, keys and values [heads, window, part].
            self.reshape(&name("qkv"), &[window as i64, 3 * heads as i64, part as i64], &name("heads"));
            self.transpose(&name("heads"), &[1, 0, 2], &name("turned"));
            for (i, which) in ["q", "k", "v"].into_iter().enumerate() {
                self.slice(&name("turned"), 0, (i * heads, (i + 1) * heads), &name(which));
            }
            self.transpose(&name("k"), &[0, 2, 1], &name("keys"));
            self.node("MatMul", &[&name("q"), &name("keys")], &name("scores"));
            self.node("Mul", &[&name("scores"), "attention.scale"], &name("scaled"));
            self.node("Softmax", &[&name("scaled")], &name("attention"));
            self.integer("axis", -1);
            self.node("MatMul", &[&name("attention"), &name("v")], &name("gathered"));
            self.transpose(&name("gathered"), &[1, 0, 2], &name("back"));
            self.reshape(&name("back"), &[window as i64, width as i64], &name("joined"));
            let sizes = [width, width];
            self.linear(&name("joined"), &name("gather"), sizes, &p[at.gather], &p[at.gather_bias]);
            self.node("Add", &[&x, &name("gather")], &name("middle"));
            self.norm(&name("middle"), &name("dense"), width, &p[at.dense_norm]);
            self.linear(&name("dense"), &name("up"), [width, 4 * width], &p[at.up], &p[at.up_bias]);
            let up = self.activation(Activation::Swish, name("up"), &name("wide"));
            self.linear(&up, &name("down"), [4 * width, width], &p[at.down], &p[at.down_bias]);
            self.node("Add", &[&name("middle"), &name("down")], &format!("block.{}", index + 1));
        }
        self.slice(&format!("block.{}", shape.blocks()), 0, (window - 1, window), "newest");
        self.norm("newest", "features", width, &p[shape.last_norm()]);
    }

    fn linear(&mut self, input: &str, output: &str, sizes: [usize; 2], weight: &[f32], bias: &[f32]) {
        let names = [format!("{output}.weight"), format!("{output}.bias")];
        self.constant(&names[0], &sizes, weight);
        self.constant(&names[1], &sizes[1..], bias);
        self.node("Gemm", &[input, &names[0], &names[1]], output);
    }

    fn norm(&mut self, input: &str, output: &str, width: usize, both: &[f32]) {
        let names = [format!("{output}.gain"), format!("{output}.offset")];
        self.constant(&names[0], &[width], &both[..width]);
        self.constant(&names[1], &[width], &both[width..]);
        self.node("LayerNormalization", &[input, &names[0], &names[1]], output);
        self.integer("axis", -1);
        self.float("epsilon", EPSILON);
    }
}
