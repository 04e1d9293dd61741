//! A transformer over a short window of inputs.

use crate::layer_norm::LayerNorm;
use crate::mlp::{Activation, orthogonal};
use crate::raw::{self, Aligned, Panels, Start};
use std::ops::Range;

/// Encodes the last `window` inputs into `width` numbers: what the newest one has gathered from all.
///
/// Tokens are `x W + b` plus a learned position. Each block is that of Vaswani et al. 2017 with the normalisation first (Xiong et
/// al. 2020): `y = y + attention(norm(y))`, `y = y + mlp(norm(y))`, where `attention` is `softmax(q k^T / sqrt(width / heads)) v` per
/// head and a dense layer, and `mlp` is `width -> 4 width -> width` with Swish. The result is the last token, normalised.
/// Every token sees the whole window: only the newest is read, and it comes last.
///
/// Parameters: `W` `[inputs, width]`, `b`, positions `[window, width]`; for each block gain and bias of the first norm, `q k v`
/// `[width, 3 width]` and bias, the dense layer `[width, width]` and bias, the second norm, both layers of the `mlp`; the last norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transformer {
    inputs: usize,
    window: usize,
    width: usize,
    heads: usize,
    blocks: usize,
}

/// Where the parameters of one block lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformerBlock {
    /// Gain and bias of the norm before attention, `[2 width]`.
    pub attention_norm: Range<usize>,
    /// `[width, 3 width]`; columns of queries, keys and values in this order, each head by head.
    pub qkv: Range<usize>,
    /// `[3 width]`.
    pub qkv_bias: Range<usize>,
    /// `[width, width]`.
    pub gather: Range<usize>,
    /// `[width]`.
    pub gather_bias: Range<usize>,
    /// Gain and bias of the norm before the dense layers, `[2 width]`.
    pub dense_norm: Range<usize>,
    /// `[width, 4 width]`.
    pub up: Range<usize>,
    /// `[4 width]`.
    pub up_bias: Range<usize>,
    /// `[4 width, width]`.
    pub down: Range<usize>,
    /// `[width]`.
    pub down_bias: Range<usize>,
}

/// What follows the first dense layer of a block.
const DENSE: Activation = Activation::Swish;
/// The dense layers of a block are so many times wider (Vaswani et al. 2017).
const WIDER: usize = 4;

impl Transformer {
    /// `inputs`: numbers of one step; `window`: steps seen; `width`: numbers of a token; `heads` share them.
    ///
    /// # Panics
    /// When one of them is 0 or `heads` do not divide `width`.
    pub fn new(inputs: usize, window: usize, width: usize, heads: usize, blocks: usize) -> Self {
        assert!(
            inputs * window * width * heads * blocks > 0,
            "a transformer without {inputs} inputs, a window of {window}, width {width}, {heads} heads or {blocks} blocks"
        );
        assert_eq!(width % heads, 0, "{heads} heads share a width of {width}");
        Self { inputs, window, width, heads, blocks }
    }

    /// Numbers of one step.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// Steps seen.
    pub fn window(&self) -> usize {
        self.window
    }
    /// Numbers of a token, and of the result.
    pub fn width(&self) -> usize {
        self.width
    }
    /// Heads of attention.
    pub fn heads(&self) -> usize {
        self.heads
    }
    /// Blocks one after the other.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Where the weights of the embedding lie, `[inputs, width]`.
    pub fn embedding(&self) -> Range<usize> {
        0..self.inputs * self.width
    }
    /// Where its bias lies, `[width]`.
    pub fn embedding_bias(&self) -> Range<usize> {
        after(&self.embedding(), self.width)
    }
    /// Where the positions lie, `[window, width]`, the oldest step first.
    pub fn positions(&self) -> Range<usize> {
        after(&self.embedding_bias(), self.window * self.width)
    }
    /// Where the parameters of block `index` lie.
    pub fn block(&self, index: usize) -> TransformerBlock {
        let width = self.width;
        let start = self.positions().end + index * self.block_len();
        let attention_norm = start..start + 2 * width;
        let qkv = after(&attention_norm, 3 * width * width);
        let qkv_bias = after(&qkv, 3 * width);
        let gather = after(&qkv_bias, width * width);
        let gather_bias = after(&gather, width);
        let dense_norm = after(&gather_bias, 2 * width);
        let up = after(&dense_norm, WIDER * width * width);
        let up_bias = after(&up, WIDER * width);
        let down = after(&up_bias, WIDER * width * width);
        let down_bias = after(&down, width);
        TransformerBlock {
            attention_norm,
            qkv,
            qkv_bias,
            gather,
            gather_bias,
            dense_norm,
            up,
            up_bias,
            down,
            down_bias,
        }
    }
    fn block_len(&self) -> usize {
        let width = self.width;
        (4 + 2 * WIDER) * width * width + (9 + WIDER) * width
    }
    /// Where gain and bias of the last norm lie, `[2 width]`.
    pub fn last_norm(&self) -> Range<usize> {
        let start = self.positions().end + self.blocks * self.block_len();
        start..start + 2 * self.width
    }

    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        self.last_norm().end
    }

    /// Fresh parameters: orthogonal matrices, those that end a block smaller by the root of their number (GPT-2), positions of
    /// deviation 0.02, zero biases. `normal` draws from a standard normal distribution.
    pub fn initialise(&self, normal: &mut impl FnMut() -> f64) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        let width = self.width;
        orthogonal(self.inputs, width, 1.0, normal, &mut parameters[self.embedding()]);
        parameters[self.positions()].iter_mut().for_each(|p| *p = 0.02 * normal() as f32);
        let norm = LayerNorm { width }.initialise();
        let ends = 1.0 / (2.0 * self.blocks as f32).sqrt();
        for block in (0..self.blocks).map(|index| self.block(index)) {
            parameters[block.attention_norm].copy_from_slice(&norm);
            parameters[block.dense_norm].copy_from_slice(&norm);
            orthogonal(width, 3 * width, 1.0, normal, &mut parameters[block.qkv]);
            orthogonal(width, width, ends, normal, &mut parameters[block.gather]);
            orthogonal(width, WIDER * width, std::f32::consts::SQRT_2, normal, &mut parameters[block.up]);
            orthogonal(WIDER * width, width, ends, normal, &mut parameters[block.down]);
        }
        parameters[self.last_norm()].copy_from_slice(&norm);
        parameters
    }

    /// `parameters` in the layout of the kernels.
    pub fn weights(&self, parameters: &[f32]) -> TransformerWeights {
        let width = self.width;
        let block = || BlockWeights {
            attention_norm: vec![0.0; 2 * width],
            qkv: Dense::new(width, 3 * width),
            gather: Dense::new(width, width),
            dense_norm: vec![0.0; 2 * width],
            up: Dense::new(width, WIDER * width),
            down: Dense::new(WIDER * width, width),
        };
        let mut weights = TransformerWeights {
            transformer: *self,
            embedding: Dense::new(self.inputs, width),
            positions: vec![0.0; self.window * width],
            blocks: (0..self.blocks).map(|_| block()).collect(),
            last_norm: vec![0.0; 2 * width],
        };
        weights.set(parameters);
        weights
    }

    /// Memory for `windows` at a time; each thread has its own.
    pub fn workspace(&self, windows: usize) -> TransformerWorkspace {
        let tokens = windows * self.window;
        let rows = |width: usize| Aligned::new(tokens * width);
        let width = self.width;
        let block = || BlockWorkspace {
            x: rows(width),
            normed: rows(width),
            qkv: rows(3 * width),
            attention: Aligned::new(windows * self.heads * self.window * self.window),
            gathered: rows(width),
            middle: rows(width),
            middle_normed: rows(width),
            up_inputs: rows(WIDER * width),
            up: rows(WIDER * width),
        };
        TransformerWorkspace {
            windows,
            blocks: (0..self.blocks).map(|_| block()).collect(),
            y: rows(width),
            last: Aligned::new(windows * width),
            result: Aligned::new(windows * width),
            d: rows(width),
            d_other: rows(width),
            d_qkv: rows(3 * width),
            d_up: rows(WIDER * width),
            head: HeadScratch::new(self.window, width / self.heads),
        }
    }
}

fn after(range: &Range<usize>, len: usize) -> Range<usize> {
    range.end..range.end + len
}

/// Parameters of a [`Transformer`] in the layout of the kernels. [`TransformerWeights::set`] again after each step of the optimiser.
#[derive(Clone, Debug)]
pub struct TransformerWeights {
    transformer: Transformer,
    embedding: Dense,
    positions: Vec<f32>,
    blocks: Vec<BlockWeights>,
    last_norm: Vec<f32>,
}

#[derive(Clone, Debug)]
struct BlockWeights {
    attention_norm: Vec<f32>,
    qkv: Dense,
    gather: Dense,
    dense_norm: Vec<f32>,
    up: Dense,
    down: Dense,
}

/// Memory of one thread: what [`TransformerWeights::forward`] leaves for [`TransformerWeights::backward`].
#[derive(Clone, Debug)]
pub struct TransformerWorkspace {
    windows: usize,
    blocks: Vec<BlockWorkspace>,
    /// What the last block leaves.
    y: Aligned,
    /// The last tokens of it.
    last: Aligned,
    result: Aligned,
    d: Aligned,
    d_other: Aligned,
    d_qkv: Aligned,
    d_up: Aligned,
    head: HeadScratch,
}

#[derive(Clone, Debug)]
struct BlockWorkspace {
    x: Aligned,
    normed: Aligned,
    qkv: Aligned,
    /// Softmax, `[windows, heads, window, window]`.
    attention: Aligned,
    gathered: Aligned,
    /// After attention.
    middle: Aligned,
    middle_normed: Aligned,
    /// What goes into the activation.
    up_inputs: Aligned,
    up: Aligned,
}

impl TransformerWeights {
    /// The shape.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// Takes `parameters`.
    ///
    /// # Panics
    /// When they are not [`Transformer::parameter_count`].
    pub fn set(&mut self, parameters: &[f32]) {
        let shape = self.transformer;
        assert_eq!(parameters.len(), shape.parameter_count(), "parameters");
        let of = |range: Range<usize>| &parameters[range];
        self.embedding.set(of(shape.embedding()), of(shape.embedding_bias()));
        self.positions.copy_from_slice(of(shape.positions()));
        for (index, weights) in self.blocks.iter_mut().enumerate() {
            let block = shape.block(index);
            weights.attention_norm.copy_from_slice(of(block.attention_norm));
            weights.qkv.set(of(block.qkv), of(block.qkv_bias));
            weights.gather.set(of(block.gather), of(block.gather_bias));
            weights.dense_norm.copy_from_slice(of(block.dense_norm));
            weights.up.set(of(block.up), of(block.up_bias));
            weights.down.set(of(block.down), of(block.down_bias));
        }
        self.last_norm.copy_from_slice(of(shape.last_norm()));
    }

    /// Results, `[windows, width]`, of `input`, `[windows, window, inputs]`, the oldest step first. A window has the same bits in
    /// any batch.
    ///
    /// # Panics
    /// With a part of a window, or more than the workspace has room for.
    pub fn forward<'a>(&self, input: &[f32], workspace: &'a mut TransformerWorkspace) -> &'a [f32] {
        let (windows, tokens) = self.rows(input, workspace);
        let Transformer { window, width, heads, .. } = self.transformer;
        let norm = LayerNorm { width };
        let len = tokens * width;
        let TransformerWorkspace { blocks, y, last, result, head, .. } = workspace;
        let y = &mut y[..len];
        self.embedding.forward(input, y);
        y.chunks_exact_mut(window * width).for_each(|tokens| raw::add(tokens, &self.positions));
        for (weights, kept) in self.blocks.iter().zip(blocks) {
            let x = &mut kept.x[..len];
            x.copy_from_slice(y);
            let normed = &mut kept.normed[..len];
            norm.forward(&weights.attention_norm, x, normed);
            let qkv = &mut kept.qkv[..3 * len];
            weights.qkv.forward(normed, qkv);
            let gathered = &mut kept.gathered[..len];
            let size = heads * window * window;
            for (w, attention) in kept.attention.chunks_exact_mut(size).take(windows).enumerate() {
                let rows = w * window..(w + 1) * window;
                let qkv = &qkv[rows.start * 3 * width..rows.end * 3 * width];
                let gathered = &mut gathered[rows.start * width..rows.end * width];
                raw::attend(heads, head, qkv, attention, gathered);
            }
            let middle = &mut kept.middle[..len];
            middle.copy_from_slice(x);
            weights.gather.add(gathered, middle);
            let middle_normed = &mut kept.middle_normed[..len];
            norm.forward(&weights.dense_norm, middle, middle_normed);
            let up = &mut kept.up[..WIDER * len];
            weights.up.forward(middle_normed, up);
            kept.up_inputs[..WIDER * len].copy_from_slice(up);
            raw::activate(DENSE, up);
            y.copy_from_slice(middle);
            weights.down.add(up, y);
        }
        let (last, result) = (&mut last[..windows * width], &mut result[..windows * width]);
        for (to, from) in last.chunks_exact_mut(width).zip(y.chunks_exact(window * width)) {
            to.copy_from_slice(&from[(window - 1) * width..]);
        }
        norm.forward(&self.last_norm, last, result);
        result
    }

    /// Adds the gradient of the parameters to `gradient`, given `d_output`, d loss / d results of the last
    /// [`TransformerWeights::forward`] with this `input` and `workspace`; writes d loss / d input where it is asked for.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn backward(
        &self,
        input: &[f32],
        d_output: &[f32],
        workspace: &mut TransformerWorkspace,
        gradient: &mut [f32],
        d_input: Option<&mut [f32]>,
    ) {
        let (windows, tokens) = self.rows(input, workspace);
        let shape = self.transformer;
        let Transformer { window, width, heads, .. } = shape;
        assert_eq!(d_output.len(), windows * width, "one derivative per result");
        assert_eq!(gradient.len(), shape.parameter_count(), "gradient");
        let norm = LayerNorm { width };
        let len = tokens * width;
        let TransformerWorkspace { blocks, last, result, d, d_other, d_qkv, d_up, head, .. } = workspace;
        let (d, d_other) = (&mut d[..len], &mut d_other[..len]);
        let (d_qkv, d_up) = (&mut d_qkv[..3 * len], &mut d_up[..WIDER * len]);
        let d_last = &mut result[..windows * width];
        norm.backward(
            &self.last_norm,
            &last[..windows * width],
            d_output,
            &mut gradient[shape.last_norm()],
            d_last,
        );
        d.fill(0.0);
        for (to, from) in d.chunks_exact_mut(window * width).zip(d_last.chunks_exact(width)) {
            to[(window - 1) * width..].copy_from_slice(from);
        }
        for (index, (weights, kept)) in self.blocks.iter().zip(blocks).enumerate().rev() {
            let at = shape.block(index);
            let up = &kept.up[..WIDER * len];
            weights.down.backward(up, d, gradient, (at.down, at.down_bias), Some(d_up));
            raw::derive(DENSE, &kept.up_inputs[..WIDER * len], d_up);
            let middle_normed = &kept.middle_normed[..len];
            weights.up.backward(middle_normed, d_up, gradient, (at.up, at.up_bias), Some(d_other));
            let d_normed = &mut kept.middle_normed[..len];
            d_normed.copy_from_slice(d_other);
            norm.backward(
                &weights.dense_norm,
                &kept.middle[..len],
                d_normed,
                &mut gradient[at.dense_norm],
                d_other,
            );
            raw::add(d, d_other);
            let gathered = &kept.gathered[..len];
            weights.gather.backward(gathered, d, gradient, (at.gather, at.gather_bias), Some(d_other));
            let size = heads * window * window;
            for (w, attention) in kept.attention.chunks_exact(size).take(windows).enumerate() {
                let rows = w * window..(w + 1) * window;
                let of_qkv = rows.start * 3 * width..rows.end * 3 * width;
                let d_gathered = &d_other[rows.start * width..rows.end * width];
                raw::attend_derive(
                    heads,
                    head,
                    &kept.qkv[of_qkv.clone()],
                    attention,
                    d_gathered,
                    &mut d_qkv[of_qkv],
                );
            }
            let normed = &kept.normed[..len];
            weights.qkv.backward(normed, d_qkv, gradient, (at.qkv, at.qkv_bias), Some(d_other));
            let d_normed = &mut kept.normed[..len];
            d_normed.copy_from_slice(d_other);
            norm.backward(
                &weights.attention_norm,
                &kept.x[..len],
                d_normed,
                &mut gradient[at.attention_norm],
                d_other,
            );
            raw::add(d, d_other);
        }
        raw::accumulate_rows(d, &mut gradient[shape.positions()]);
        self.embedding.backward(input, d, gradient, (shape.embedding(), shape.embedding_bias()), d_input);
    }

    /// Windows and tokens of `input`.
    fn rows(&self, input: &[f32], workspace: &TransformerWorkspace) -> (usize, usize) {
        let Transformer { inputs, window, .. } = self.transformer;
        let windows = input.len() / (window * inputs);
        assert_eq!(
            input.len(),
            windows * window * inputs,
            "{} numbers are no whole windows of {window} x {inputs}",
            input.len()
        );
        assert!(windows <= workspace.windows, "{windows} windows: more than the workspace has room for");
        (windows, windows * window)
    }
}

/// A dense layer without activation.
#[derive(Clone, Debug)]
struct Dense {
    weight: Panels,
    transposed: Panels,
    bias: Aligned,
    inputs: usize,
    outputs: usize,
}

impl Dense {
    fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            weight: Panels::new(inputs, outputs),
            transposed: Panels::new(outputs, inputs),
            bias: Aligned::new(outputs),
            inputs,
            outputs,
        }
    }

    fn set(&mut self, weight: &[f32], bias: &[f32]) {
        self.weight.set(weight);
        self.transposed.set_transposed(weight);
        self.bias.copy_from_slice(bias);
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        raw::multiply(x, &self.weight, Start::Bias(&self.bias), y, |_, _| ());
    }

    /// `y += x W + b`.
    fn add(&self, x: &[f32], y: &mut [f32]) {
        y.chunks_exact_mut(self.outputs).for_each(|row| raw::add(row, &self.bias));
        raw::multiply(x, &self.weight, Start::Result, y, |_, _| ());
    }

    fn backward(
        &self,
        x: &[f32],
        d: &[f32],
        gradient: &mut [f32],
        (weights, biases): (Range<usize>, Range<usize>),
        d_x: Option<&mut [f32]>,
    ) {
        raw::accumulate_outer(x, self.inputs, d, self.outputs, &mut gradient[weights]);
        raw::accumulate_rows(d, &mut gradient[biases]);
        if let Some(d_x) = d_x {
            raw::multiply(d, &self.transposed, Start::Zero, d_x, |_, _| ());
        }
    }
}

/// Of one head: matrices turned so that inner loops run along memory.
#[derive(Clone, Debug)]
pub(crate) struct HeadScratch {
    /// Keys or values, `[width / heads, window]`.
    pub(crate) turned: Vec<f32>,
    /// One row of attention, `[window]`.
    pub(crate) row: Vec<f32>,
}

impl HeadScratch {
    fn new(window: usize, width: usize) -> Self {
        Self { turned: vec![0.0; window * width], row: vec![0.0; window] }
    }
}
