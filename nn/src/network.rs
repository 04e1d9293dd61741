//! A network that a policy can be: an encoder, then dense layers.

use crate::conv::{Conv2d, ConvWeights, ConvWorkspace};
use crate::gru::{Gru, GruWeights, GruWorkspace, Sequences};
use crate::mlp::{Mlp, Weights, Workspace};
use crate::raw::Aligned;
use crate::sharded::BLOCK;
use crate::transformer::{Transformer, TransformerWeights, TransformerWorkspace};
use std::ops::Range;

/// An encoder and the dense layers behind it, over steps of sequences.
///
/// What an encoder remembers from step to step is its **memory**, [`Network::memory_len`] numbers per sequence that are zero where an
/// episode begins: the state of a GRU, the window of a transformer, nothing else.
///
/// Parameters: the encoder's, then the dense layers'.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    inputs: usize,
    encoder: Encoder,
    head: Mlp,
}

/// What comes before the dense layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoder {
    /// Nothing.
    None,
    /// Recurrent units; their state goes on.
    Gru(Gru),
    /// Convolutions over the first numbers of the input, an image with channels last; what follows the image is handed on.
    Conv(Vec<Conv2d>),
    /// Attention over the last inputs, zeros where the episode is younger. Memory: the window but for the newest input, the oldest
    /// first.
    Transformer(Transformer),
}

impl Network {
    /// Dense layers alone.
    pub fn dense(head: Mlp) -> Self {
        Self { inputs: head.inputs(), encoder: Encoder::None, head }
    }

    /// `encoder` of `inputs` numbers per step, and `head` on top of it.
    ///
    /// # Panics
    /// Where they do not fit together; [`Encoder::features`] says what a head has to take.
    pub fn new(inputs: usize, encoder: Encoder, head: Mlp) -> Self {
        assert_eq!(encoder.features(inputs), Some(head.inputs()), "a head that takes what the encoder gives");
        Self { inputs, encoder, head }
    }

    /// Numbers of one step.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// Numbers of a result.
    pub fn outputs(&self) -> usize {
        self.head.outputs()
    }
    /// What comes first.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }
    /// What comes then.
    pub fn head(&self) -> &Mlp {
        &self.head
    }
    /// Numbers that go on from step to step.
    pub fn memory_len(&self) -> usize {
        match &self.encoder {
            Encoder::None | Encoder::Conv(_) => 0,
            Encoder::Gru(gru) => gru.hidden(),
            Encoder::Transformer(transformer) => (transformer.window() - 1) * self.inputs,
        }
    }
    /// Where the head's parameters lie.
    pub fn head_parameters(&self) -> Range<usize> {
        let start = self.encoder.parameter_count();
        start..start + self.head.parameter_count()
    }
    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        self.head_parameters().end
    }

    /// Fresh parameters; `output_gain` is that of the last layer. `normal` draws from a standard normal distribution.
    pub fn initialise(&self, output_gain: f32, normal: &mut impl FnMut() -> f64) -> Vec<f32> {
        let mut parameters = match &self.encoder {
            Encoder::None => Vec::new(),
            Encoder::Gru(gru) => gru.initialise(normal),
            Encoder::Conv(layers) => layers.iter().flat_map(|layer| layer.initialise(normal)).collect(),
            Encoder::Transformer(transformer) => transformer.initialise(normal),
        };
        parameters.extend(self.head.initialise(output_gain, normal));
        parameters
    }

    /// `parameters` in the layout of the kernels.
    ///
    /// # Panics
    /// When they are not [`Network::parameter_count`].
    pub fn weights(&self, parameters: &[f32]) -> NetworkWeights {
        assert_eq!(parameters.len(), self.parameter_count(), "parameters");
        let (of_encoder, of_head) = parameters.split_at(self.encoder.parameter_count());
        let encoder = match &self.encoder {
            Encoder::None => EncoderWeights::None,
            Encoder::Gru(gru) => EncoderWeights::Gru(gru.weights(of_encoder)),
            Encoder::Conv(layers) => {
                let mut rest = of_encoder;
                let weights = layers.iter().map(|layer| {
                    let (own, others) = rest.split_at(layer.parameter_count());
                    rest = others;
                    layer.weights(own)
                });
                EncoderWeights::Conv(weights.collect())
            }
            Encoder::Transformer(transformer) => EncoderWeights::Transformer(transformer.weights(of_encoder)),
        };
        NetworkWeights { encoder, head: self.head.weights(of_head), network: self.clone() }
    }

    /// Memory for a [`BLOCK`] of rows; each thread has its own.
    pub fn workspace(&self) -> NetworkWorkspace {
        let encoder = match &self.encoder {
            Encoder::None => EncoderWorkspace::None,
            Encoder::Gru(gru) => EncoderWorkspace::Gru(gru.workspace(BLOCK, 1)),
            Encoder::Conv(layers) => EncoderWorkspace::Conv {
                layers: layers.iter().map(|layer| layer.workspace(BLOCK)).collect(),
                images: Aligned::new(BLOCK * layers[0].input_len()),
                between: [(); 2].map(|()| Vec::new()),
            },
            Encoder::Transformer(transformer) => EncoderWorkspace::Transformer {
                inner: transformer.workspace(BLOCK),
                windows: Aligned::new(BLOCK * transformer.window() * self.inputs),
            },
        };
        let width = if matches!(self.encoder, Encoder::None) { 0 } else { self.head.inputs() };
        NetworkWorkspace {
            encoder,
            head: self.head.workspace(),
            features: Aligned::new(BLOCK * width),
            d_features: Aligned::new(BLOCK * width),
            resets: Vec::new(),
        }
    }
}

impl Encoder {
    /// Numbers that it gives for `inputs`; `None` where it does not fit.
    pub fn features(&self, inputs: usize) -> Option<usize> {
        match self {
            Encoder::None => Some(inputs),
            Encoder::Gru(gru) => (gru.inputs() == inputs).then_some(gru.hidden()),
            Encoder::Transformer(transformer) => {
                (transformer.inputs() == inputs).then_some(transformer.width())
            }
            Encoder::Conv(layers) => {
                let (first, last) = (layers.first()?, layers.last()?);
                let fits = layers.windows(2).all(|pair| {
                    let next = (pair[1].height, pair[1].width);
                    pair[0].out_size() == next && pair[0].outputs == pair[1].channels
                });
                let rest = inputs.checked_sub(first.input_len())?;
                fits.then_some(last.output_len() + rest)
            }
        }
    }

    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        match self {
            Encoder::None => 0,
            Encoder::Gru(gru) => gru.parameter_count(),
            Encoder::Conv(layers) => layers.iter().map(Conv2d::parameter_count).sum(),
            Encoder::Transformer(transformer) => transformer.parameter_count(),
        }
    }
}

/// Parameters of a [`Network`] in the layout of the kernels. [`NetworkWeights::set`] again after each step of the optimiser.
#[derive(Clone, Debug)]
pub struct NetworkWeights {
    network: Network,
    encoder: EncoderWeights,
    head: Weights,
}

#[derive(Clone, Debug)]
enum EncoderWeights {
    None,
    Gru(GruWeights),
    Conv(Vec<ConvWeights>),
    Transformer(TransformerWeights),
}

/// Memory of one thread: what [`NetworkWeights::forward`] leaves for [`NetworkWeights::backward`].
#[derive(Clone, Debug)]
pub struct NetworkWorkspace {
    encoder: EncoderWorkspace,
    head: Workspace,
    features: Aligned,
    d_features: Aligned,
    /// As many as there are rows, none of them set.
    resets: Vec<bool>,
}

#[derive(Clone, Debug)]
enum EncoderWorkspace {
    None,
    Gru(GruWorkspace),
    Conv { layers: Vec<ConvWorkspace>, images: Aligned, between: [Vec<f32>; 2] },
    Transformer { inner: TransformerWorkspace, windows: Aligned },
}

impl NetworkWeights {
    /// The shape.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The dense layers: all there is, where nothing comes before them.
    pub fn head(&self) -> &Weights {
        &self.head
    }

    /// Takes `parameters`.
    ///
    /// # Panics
    /// When they are not [`Network::parameter_count`].
    pub fn set(&mut self, parameters: &[f32]) {
        assert_eq!(parameters.len(), self.network.parameter_count(), "parameters");
        let (of_encoder, of_head) = parameters.split_at(self.network.encoder.parameter_count());
        match &mut self.encoder {
            EncoderWeights::None => {}
            EncoderWeights::Gru(weights) => weights.set(of_encoder),
            EncoderWeights::Conv(layers) => {
                let mut rest = of_encoder;
                for (weights, shape) in layers.iter_mut().zip(self.network.conv_layers()) {
                    let (own, others) = rest.split_at(shape.parameter_count());
                    weights.set(own);
                    rest = others;
                }
            }
            EncoderWeights::Transformer(weights) => weights.set(of_encoder),
        }
        self.head.set(of_head);
    }

    /// Results, `[rows, outputs]`, of at most [`BLOCK`] steps of sequences side by side. Networks without memory take every row
    /// for itself and look neither at `start` nor at `resets`. A row has the same bits in any batch.
    ///
    /// # Panics
    /// With more rows, or lengths that do not fit together.
    pub fn forward<'a>(&self, sequences: Sequences<'_>, workspace: &'a mut NetworkWorkspace) -> &'a [f32] {
        let rows = self.rows(sequences.input);
        let NetworkWorkspace { encoder, head, features, .. } = workspace;
        let width = self.network.head.inputs();
        match (&self.encoder, encoder) {
            (EncoderWeights::Gru(gru), EncoderWorkspace::Gru(inner)) => {
                features[..rows * width].copy_from_slice(gru.forward(sequences, inner));
            }
            (EncoderWeights::Conv(layers), EncoderWorkspace::Conv { layers: inner, images, between }) => {
                let image = self.network.conv_layers()[0].input_len();
                let images = &mut images[..rows * image];
                let inputs = self.network.inputs;
                for (to, from) in images.chunks_exact_mut(image).zip(sequences.input.chunks_exact(inputs)) {
                    to.copy_from_slice(&from[..image]);
                }
                let [x, _] = between;
                x.clear();
                for (i, (weights, inner)) in layers.iter().zip(inner.iter_mut()).enumerate() {
                    let y = weights.forward(if i == 0 { images } else { x }, inner);
                    x.clear();
                    x.extend_from_slice(y);
                }
                let seen = x.len() / rows.max(1);
                let joined = features.chunks_exact_mut(width).zip(x.chunks_exact(seen));
                for ((to, seen_here), from) in joined.zip(sequences.input.chunks_exact(inputs)) {
                    to[..seen].copy_from_slice(seen_here);
                    to[seen..].copy_from_slice(&from[image..]);
                }
            }
            (EncoderWeights::Transformer(weights), EncoderWorkspace::Transformer { inner, windows }) => {
                let windows = &mut windows[..rows * weights.transformer().window() * self.network.inputs];
                fill_windows(&self.network, sequences, windows);
                features[..rows * width].copy_from_slice(weights.forward(windows, inner));
            }
            _ => return self.head.forward(sequences.input, head),
        }
        self.head.forward(&features[..rows * width], head)
    }

    /// Adds the gradient of the parameters to `gradient`, given `d_output`, d loss / d results of the last
    /// [`NetworkWeights::forward`] with these `sequences` and `workspace` (which is used up). It ends at the first step.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn backward(
        &self,
        sequences: Sequences<'_>,
        d_output: &[f32],
        workspace: &mut NetworkWorkspace,
        gradient: &mut [f32],
    ) {
        assert_eq!(gradient.len(), self.network.parameter_count(), "gradient");
        let rows = self.rows(sequences.input);
        let NetworkWorkspace { encoder, head, features, d_features, .. } = workspace;
        let width = self.network.head.inputs();
        let (of_encoder, of_head) = gradient.split_at_mut(self.network.encoder.parameter_count());
        if matches!(self.encoder, EncoderWeights::None) {
            return self.head.backward(sequences.input, d_output, head, of_head, None);
        }
        let d_features = &mut d_features[..rows * width];
        self.head.backward(&features[..rows * width], d_output, head, of_head, Some(d_features));
        match (&self.encoder, encoder) {
            (EncoderWeights::Gru(gru), EncoderWorkspace::Gru(inner)) => {
                gru.backward(sequences, d_features, inner, of_encoder, None);
            }
            (EncoderWeights::Conv(layers), EncoderWorkspace::Conv { layers: inner, images, between }) => {
                let shapes = self.network.conv_layers();
                let seen = shapes[shapes.len() - 1].output_len();
                let [d, d_before] = between;
                d.clear();
                d_features.chunks_exact(width).for_each(|row| d.extend_from_slice(&row[..seen]));
                let mut end = of_encoder.len();
                for i in (0..layers.len()).rev() {
                    let start = end - shapes[i].parameter_count();
                    let own = &mut of_encoder[start..end];
                    end = start;
                    if i == 0 {
                        layers[0].backward(
                            &images[..rows * shapes[0].input_len()],
                            d,
                            &mut inner[0],
                            own,
                            None,
                        );
                        break;
                    }
                    let (before, here) = inner.split_at_mut(i);
                    let x = before[i - 1].results(rows * shapes[i].input_len());
                    d_before.resize(x.len(), 0.0);
                    layers[i].backward(x, d, &mut here[0], own, Some(d_before));
                    std::mem::swap(d, d_before);
                }
            }
            (EncoderWeights::Transformer(weights), EncoderWorkspace::Transformer { inner, windows }) => {
                let windows = &windows[..rows * weights.transformer().window() * self.network.inputs];
                weights.backward(windows, d_features, inner, of_encoder, None);
            }
            _ => unreachable!("weights and workspace are of one network"),
        }
    }

    /// One step of any number of sequences side by side, what rollouts call: writes the results of `input`, `[rows, inputs]`, to
    /// `output`, `[rows, outputs]`, and moves their `memory`, `[rows, memory_len]`, on. The bits are those of
    /// [`NetworkWeights::forward`].
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn step(
        &self,
        input: &[f32],
        memory: &mut [f32],
        output: &mut [f32],
        workspace: &mut NetworkWorkspace,
    ) {
        let rows = self.rows(input);
        let (inputs, outputs, remembered) =
            (self.network.inputs, self.network.outputs(), self.network.memory_len());
        assert_eq!(output.len(), rows * outputs, "as many results as rows");
        assert_eq!(memory.len(), rows * remembered, "memory of every row");
        let mut resets = std::mem::take(&mut workspace.resets);
        resets.resize(rows.min(BLOCK), false);
        for first in (0..rows).step_by(BLOCK) {
            let here = first..(first + BLOCK).min(rows);
            let input = &input[here.start * inputs..here.end * inputs];
            let memory = &mut memory[here.start * remembered..here.end * remembered];
            let sequences = Sequences { input, start: memory, resets: &resets[..here.len()] };
            output[here.start * outputs..here.end * outputs]
                .copy_from_slice(self.forward(sequences, workspace));
            self.remember(input, memory, workspace);
        }
        workspace.resets = resets;
    }

    /// `memory` after a forward step of these rows.
    fn remember(&self, input: &[f32], memory: &mut [f32], workspace: &NetworkWorkspace) {
        match &self.network.encoder {
            // The state is what the head was given.
            Encoder::Gru(_) => memory.copy_from_slice(&workspace.features[..memory.len()]),
            Encoder::Transformer(_) if !memory.is_empty() => {
                let (inputs, len) = (self.network.inputs, self.network.memory_len());
                for (window, newest) in memory.chunks_exact_mut(len).zip(input.chunks_exact(inputs)) {
                    window.copy_within(inputs.., 0);
                    window[len - inputs..].copy_from_slice(newest);
                }
            }
            _ => {}
        }
    }

    fn rows(&self, input: &[f32]) -> usize {
        let inputs = self.network.inputs;
        assert_eq!(input.len() % inputs, 0, "{} numbers are no whole rows of {inputs}", input.len());
        input.len() / inputs
    }
}

impl Network {
    fn conv_layers(&self) -> &[Conv2d] {
        match &self.encoder {
            Encoder::Conv(layers) => layers,
            _ => &[],
        }
    }
}

/// The window of every step: the inputs before it in its episode, from `start` where they are older than the first step, then its own.
fn fill_windows(network: &Network, sequences: Sequences<'_>, windows: &mut [f32]) {
    let (inputs, memory) = (network.inputs, network.memory_len());
    let rows = sequences.resets.len();
    // A window of one step remembers nothing, and every row is for itself.
    let width = sequences.start.len().checked_div(memory).unwrap_or(rows);
    assert!(
        width > 0 && sequences.start.len() == width * memory,
        "memories of {memory} before the first step"
    );
    assert_eq!(rows % width, 0, "{rows} steps of {width} sequences");
    for row in 0..rows {
        let (before, here) = windows.split_at_mut(row * (memory + inputs));
        let (past, newest) = here[..memory + inputs].split_at_mut(memory);
        newest.copy_from_slice(&sequences.input[row * inputs..(row + 1) * inputs]);
        if sequences.resets[row] {
            past.fill(0.0);
        } else if row < width {
            past.copy_from_slice(&sequences.start[row * memory..(row + 1) * memory]);
        } else {
            let last = &before[(row - width) * (memory + inputs)..][..memory + inputs];
            past.copy_from_slice(&last[inputs..]);
        }
    }
}
