//! Convolutions over small images.

use crate::Activation;
use crate::mlp::orthogonal;
use crate::raw::{self, Aligned, Panels, Start};
use std::ops::Range;

/// A convolution without padding and the activation after it (the layers of Mnih et al. 2015): images
/// `[height, width, channels]` to `[out_height, out_width, outputs]`, channels last, so that the next layer or a dense
/// one reads the result as it lies.
///
/// Parameters: `W`, `[kernel, kernel, channels, outputs]`, then `b`, `[outputs]`. ONNX wants `[outputs, channels, kernel,
/// kernel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Numbers of a pixel.
    pub channels: usize,
    /// Numbers of a pixel of the result.
    pub outputs: usize,
    /// Side of the square that a result sees.
    pub kernel: usize,
    /// Pixels from one square to the next, both ways.
    pub stride: usize,
    /// What follows.
    pub activation: Activation,
}

impl Conv2d {
    /// Rows and columns of a result.
    ///
    /// # Panics
    /// When a size is 0 or the kernel larger than the image.
    pub fn out_size(&self) -> (usize, usize) {
        let side = |size: usize| {
            let fits = self.kernel > 0 && self.stride > 0 && size >= self.kernel;
            assert!(fits, "kernel {} and stride {} on a side of {size}", self.kernel, self.stride);
            (size - self.kernel) / self.stride + 1
        };
        (side(self.height), side(self.width))
    }

    /// Numbers of an image.
    pub fn input_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Numbers of a result.
    pub fn output_len(&self) -> usize {
        let (height, width) = self.out_size();
        height * width * self.outputs
    }

    /// Numbers that a result sees.
    fn patch(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    /// Length of the packed parameters.
    pub fn parameter_count(&self) -> usize {
        self.biases().end
    }

    /// Where `W` lies.
    pub fn filters(&self) -> Range<usize> {
        0..self.patch() * self.outputs
    }

    /// Where `b` lies.
    pub fn biases(&self) -> Range<usize> {
        let start = self.filters().end;
        start..start + self.outputs
    }

    /// Fresh parameters: orthogonal with gain sqrt(2), zero biases. `normal` draws from a standard normal distribution.
    pub fn initialise(&self, normal: &mut impl FnMut() -> f64) -> Vec<f32> {
        let mut parameters = vec![0.0; self.parameter_count()];
        let gain = std::f32::consts::SQRT_2;
        orthogonal(self.patch(), self.outputs, gain, normal, &mut parameters[self.filters()]);
        parameters
    }

    /// `parameters` in the layout of the kernels.
    pub fn weights(&self, parameters: &[f32]) -> ConvWeights {
        let mut weights = ConvWeights {
            conv: *self,
            filters: Panels::new(self.patch(), self.outputs),
            transposed: Panels::new(self.outputs, self.patch()),
            bias: Aligned::new(self.outputs),
        };
        weights.set(parameters);
        weights
    }

    /// Memory for `images`; each thread has its own.
    pub fn workspace(&self, images: usize) -> ConvWorkspace {
        let (height, width) = self.out_size();
        let results = images * self.output_len();
        let patches = || Aligned::new(images * height * width * self.patch());
        ConvWorkspace {
            patches: patches(),
            d_patches: patches(),
            values: Aligned::new(results),
            inputs: Aligned::new(results),
            d: Aligned::new(results),
        }
    }
}

/// Parameters of a [`Conv2d`] in the layout of the kernels. [`ConvWeights::set`] again after each step of the optimiser.
#[derive(Clone, Debug)]
pub struct ConvWeights {
    conv: Conv2d,
    filters: Panels,
    transposed: Panels,
    bias: Aligned,
}

/// Memory of one thread: what [`ConvWeights::forward`] leaves for [`ConvWeights::backward`].
#[derive(Clone, Debug)]
pub struct ConvWorkspace {
    /// What each result sees, a row each.
    patches: Aligned,
    d_patches: Aligned,
    values: Aligned,
    /// What went into the activation.
    inputs: Aligned,
    d: Aligned,
}

impl ConvWorkspace {
    /// The first `len` numbers that the last [`ConvWeights::forward`] left.
    pub(crate) fn results(&self, len: usize) -> &[f32] {
        &self.values[..len]
    }
}

impl ConvWeights {
    /// Takes `parameters`.
    ///
    /// # Panics
    /// When they are not [`Conv2d::parameter_count`].
    pub fn set(&mut self, parameters: &[f32]) {
        assert_eq!(parameters.len(), self.conv.parameter_count(), "parameters");
        self.filters.set(&parameters[self.conv.filters()]);
        self.transposed.set_transposed(&parameters[self.conv.filters()]);
        self.bias.copy_from_slice(&parameters[self.conv.biases()]);
    }

    /// Results of `images`, one after the other.
    ///
    /// # Panics
    /// With a part of an image, or more than the workspace has room for.
    pub fn forward<'a>(&self, images: &[f32], workspace: &'a mut ConvWorkspace) -> &'a [f32] {
        let results = self.results(images);
        let ConvWorkspace { patches, values, inputs, .. } = workspace;
        assert!(results <= values.len(), "more images than the workspace has room for");
        let (patch, outputs) = (self.conv.patch(), self.conv.outputs);
        let patches = &mut patches[..results / outputs * patch];
        for_each_line(&self.conv, images.len(), |to, from| {
            let len = self.conv.kernel * self.conv.channels;
            patches[to..to + len].copy_from_slice(&images[from..from + len]);
        });
        let values = &mut values[..results];
        raw::multiply(patches, &self.filters, Start::Bias(&self.bias), values, |row, band| {
            if self.conv.activation.keeps_input() {
                inputs[row * outputs..][..band.len()].copy_from_slice(band);
            }
            raw::activate(self.conv.activation, band);
        });
        values
    }

    /// Adds the gradient of the parameters to `gradient`, given `d_output`, d loss / d results of the last
    /// [`ConvWeights::forward`] with these `images` and this `workspace`; writes d loss / d images where it is asked for.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn backward(
        &self,
        images: &[f32],
        d_output: &[f32],
        workspace: &mut ConvWorkspace,
        gradient: &mut [f32],
        d_images: Option<&mut [f32]>,
    ) {
        let results = self.results(images);
        assert_eq!(d_output.len(), results, "one derivative per result");
        assert_eq!(gradient.len(), self.conv.parameter_count(), "gradient");
        let ConvWorkspace { patches, d_patches, values, inputs, d } = workspace;
        let (patch, outputs) = (self.conv.patch(), self.conv.outputs);
        let d = &mut d[..results];
        d.copy_from_slice(d_output);
        let kept = if self.conv.activation.keeps_input() { inputs } else { values };
        raw::derive(self.conv.activation, &kept[..results], d);
        let patches = &patches[..results / outputs * patch];
        raw::accumulate_rows(d, &mut gradient[self.conv.biases()]);
        raw::accumulate_outer(patches, patch, d, outputs, &mut gradient[self.conv.filters()]);
        if let Some(d_images) = d_images {
            assert_eq!(d_images.len(), images.len(), "one derivative per input");
            let d_patches = &mut d_patches[..patches.len()];
            raw::multiply(d, &self.transposed, Start::Zero, d_patches, |_, _| ());
            d_images.fill(0.0);
            for_each_line(&self.conv, images.len(), |from, to| {
                let len = self.conv.kernel * self.conv.channels;
                raw::add(&mut d_images[to..to + len], &d_patches[from..from + len]);
            });
        }
    }

    /// Numbers in the results of `images`.
    fn results(&self, images: &[f32]) -> usize {
        let len = self.conv.input_len();
        assert_eq!(images.len() % len, 0, "{} numbers are no whole images of {len}", images.len());
        images.len() / len * self.conv.output_len()
    }
}

/// `line(in patches, in images)` for where each line of each square begins, in images of `len` numbers together.
fn for_each_line(conv: &Conv2d, len: usize, mut line: impl FnMut(usize, usize)) {
    let (height, width) = conv.out_size();
    let mut to = 0;
    for image in (0..len).step_by(conv.input_len()) {
        for y in 0..height {
            for x in 0..width {
                for k in 0..conv.kernel {
                    let pixel = (y * conv.stride + k) * conv.width + x * conv.stride;
                    line(to, image + pixel * conv.channels);
                    to += conv.kernel * conv.channels;
                }
            }
        }
    }
}
