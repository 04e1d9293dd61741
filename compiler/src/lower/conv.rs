//! Windows over images: convolution and pooling, in one or two dimensions.

use super::{Computed, Context, Lowering};
use crate::import::{Node, elements};
use crate::program::{Function, Gemm, Op};
use tendon_wire::image::{Window, binary, pool, reduce, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("AveragePool",       average_pool),
    ("Conv",              conv),
    ("ConvTranspose",     conv_transpose),
    ("GlobalAveragePool", |c, n| global_pool(c, n, reduce::MEAN)),
    ("GlobalLpPool",      global_lp_pool),
    ("GlobalMaxPool",     |c, n| global_pool(c, n, reduce::MAX)),
    ("LRN",               lrn),
    ("LpPool",            lp_pool),
    ("MaxPool",           max_pool),
];

/// Largest kernel, stride, dilation or pad: as the runtime has it.
const MOST: i64 = (1 << 15) - 1;

/// The attributes of a window over `spatial` dimensions, as a window over two (height 1 in front of one).
struct Frame {
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Top and left, bottom and right.
    pad: [[usize; 2]; 2],
    out: [usize; 2],
    spatial: usize,
}

fn pair(values: &[usize], missing: usize) -> [usize; 2] {
    match *values {
        [one] => [missing, one],
        [a, b] => [a, b],
        _ => [missing, missing],
    }
}

fn positive(node: &Node, name: &str, spatial: usize, low: i64, default: i64) -> Result<Vec<usize>, String> {
    let values = node.ints(name)?.unwrap_or_else(|| vec![default; spatial]);
    if values.len() != spatial || values.iter().any(|value| !(low..=MOST).contains(value)) {
        return Err(format!("attribute `{name}` is {values:?}, expected {spatial} numbers from {low} to {MOST}"));
    }
    Ok(values.into_iter().map(|value| value as usize).collect())
}

impl Frame {
    fn read(node: &Node, shape: &[usize], kernel: &[usize]) -> Result<Self, String> {
        let spatial = shape.len().saturating_sub(2);
        if !(1..=2).contains(&spatial) || kernel.len() != spatial {
            return Err(format!(
                "input of shape {shape:?} with a kernel {kernel:?}: windows over one or two dimensions have a lowering"
            ));
        }
        let stride = positive(node, "strides", spatial, 1, 1)?;
        let dilation = positive(node, "dilations", spatial, 1, 1)?;
        let mut pads = node.ints("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
        if pads.len() != 2 * spatial || pads.iter().any(|pad| !(0..=MOST).contains(pad)) {
            return Err(format!("attribute `pads` is {pads:?}, expected {} numbers from 0", 2 * spatial));
        }
        let automatic = node.text("auto_pad", "NOTSET")?.to_string();
        let ceil = node.int("ceil_mode", 0)? != 0;
        let mut out = Vec::new();
        for place in 0..spatial {
            let (size, reach) = (shape[place + 2], (kernel[place] - 1) * dilation[place] + 1);
            match &*automatic {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let count = size.div_ceil(stride[place]);
                    let total = ((count - 1) * stride[place] + reach).saturating_sub(size) as i64;
                    let (less, more) = (total / 2, total - total / 2);
                    let (before, after) = if automatic == "SAME_UPPER" { (less, more) } else { (more, less) };
                    (pads[place], pads[place + spatial]) = (before, after);
                }
                "VALID" => (pads[place], pads[place + spatial]) = (0, 0),
                _ => {}
            }
            let padded = size + (pads[place] + pads[place + spatial]) as usize;
            let room = padded.checked_sub(reach).ok_or_else(|| {
                format!("a kernel that reaches over {reach} does not fit {padded} elements (axis {})", place + 2)
            })?;
            let mut count = if ceil { room.div_ceil(stride[place]) } else { room / stride[place] } + 1;
            // A window must start inside the image or the padding before it.
            if ceil && (count - 1) * stride[place] >= size + pads[place] as usize {
                count -= 1;
            }
            out.push(count);
        }
        let pads: Vec<usize> = pads.into_iter().map(|pad| pad as usize).collect();
        let (before, after) = pads.split_at(spatial);
        Ok(Self {
            size: pair(&shape[2..], 1),
            kernel: pair(kernel, 1),
            stride: pair(&stride, 1),
            dilation: pair(&dilation, 1),
            pad: [pair(before, 0), pair(after, 0)],
            out: pair(&out, 1),
            spatial,
        })
    }

    fn window(&self, channels: usize, channels_out: usize, groups: usize) -> Window {
        Window {
            channels: channels as u32,
            height: self.size[0] as u32,
            width: self.size[1] as u32,
            channels_out: channels_out as u32,
            height_out: self.out[0] as u32,
            width_out: self.out[1] as u32,
            kernel_h: self.kernel[0] as u32,
            kernel_w: self.kernel[1] as u32,
            stride_h: self.stride[0] as u32,
            stride_w: self.stride[1] as u32,
            dilation_h: self.dilation[0] as u32,
            dilation_w: self.dilation[1] as u32,
            pad_top: self.pad[0][0] as u32,
            pad_left: self.pad[0][1] as u32,
            groups: groups as u32,
            reserved: 0,
        }
    }

    /// Shape of the result.
    fn shape(&self, images: usize, channels: usize) -> Vec<usize> {
        let mut shape = vec![images, channels];
        shape.extend(&self.out[2 - self.spatial..]);
        shape
    }
}

fn conv(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let (weights, kernel_shape) = context.known(node, 1)?.ok_or("has no weights")?;
    let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
    if kernel_shape.len() != x.shape.len() || kernel_shape.len() < 3 {
        return Err(format!("weights of shape {kernel_shape:?} do not fit an input of shape {:?}", x.shape));
    }
    let (images, channels, channels_out) = (x.shape[0], x.shape[1], kernel_shape[0]);
    let divides = groups > 0 && channels.is_multiple_of(groups) && channels_out.is_multiple_of(groups);
    if !divides || kernel_shape[1] != channels / groups {
        return Err(format!("{groups} groups of weights {kernel_shape:?} do not fit {channels} channels"));
    }
    let frame = Frame::read(node, &x.shape, &kernel_shape[2..])?;
    let bias = match context.known(node, 2)? {
        Some((bias, _)) if bias.len() == channels_out => bias.to_vec(),
        Some((bias, _)) => return Err(format!("has {} biases for {channels_out} channels", bias.len())),
        None => vec![0.0; channels_out],
    };
    let y = context.convolved(&x, &frame, weights.to_vec(), bias, groups)?;
    let shape = frame.shape(images, channels_out);
    context.finish(node, Computed { shape, ..y })
}

impl Context {
    fn convolved(
        &mut self,
        x: &Computed,
        frame: &Frame,
        weights: Vec<f32>,
        bias: Vec<f32>,
        groups: usize,
    ) -> Result<Computed, String> {
        let (images, channels) = (x.shape[0], x.shape[1]);
        let window = frame.window(channels, bias.len(), groups);
        let len = elements(&[images, bias.len(), frame.out[0], frame.out[1]])?;
        let gemm = Gemm { weights, bias, activation: Function::NONE };
        let id = self.step(Op::Conv { x: x.id, images, window, gemm }, len)?;
        Ok(Computed { id, ..x.clone() })
    }
}

/// Zeros between the pixels and around them, then a convolution with the mirrored kernel.
fn conv_transpose(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let (weights, kernel_shape) = context.known(node, 1)?.ok_or("has no weights")?;
    let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
    let spatial = x.shape.len().saturating_sub(2);
    if kernel_shape.len() != x.shape.len() || !(1..=2).contains(&spatial) {
        return Err(format!(
            "weights of shape {kernel_shape:?} on an input of shape {:?}: one or two dimensions have a lowering",
            x.shape
        ));
    }
    let (images, channels) = (x.shape[0], x.shape[1]);
    if groups == 0 || !channels.is_multiple_of(groups) || kernel_shape[0] != channels {
        return Err(format!("{groups} groups of weights {kernel_shape:?} do not fit {channels} channels"));
    }
    let channels_out = kernel_shape[1] * groups;
    let stride = positive(node, "strides", spatial, 1, 1)?;
    let dilation = positive(node, "dilations", spatial, 1, 1)?;
    let extra = positive(node, "output_padding", spatial, 0, 0)?;
    let mut pads = node.ints("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
    if pads.len() != 2 * spatial {
        return Err(format!("attribute `pads` has {} numbers for {spatial} dimensions", pads.len()));
    }
    let automatic = node.text("auto_pad", "NOTSET")?;
    let wanted = node.ints("output_shape")?;
    let mut out = Vec::new();
    for place in 0..spatial {
        let reach = (kernel_shape[place + 2] - 1) * dilation[place] + 1;
        let full = stride[place] * (x.shape[place + 2] - 1) + extra[place] + reach;
        let same = automatic == "SAME_UPPER" || automatic == "SAME_LOWER";
        let size = match &wanted {
            Some(sizes) => Some(*sizes.get(sizes.len().saturating_sub(spatial) + place).unwrap_or(&0)),
            None if same => Some((x.shape[place + 2] * stride[place]) as i64),
            None => None,
        };
        if let Some(size) = size {
            let total = full as i64 - size;
            let (less, more) = (total.div_euclid(2), total - total.div_euclid(2));
            let before = if automatic == "SAME_UPPER" { less } else { more };
            (pads[place], pads[place + spatial]) = (before, total - before);
        }
        let size = full as i64 - pads[place] - pads[place + spatial];
        if !(1..=MOST).contains(&size) {
            return Err(format!("pads {pads:?} leave {size} elements of {full} (axis {})", place + 2));
        }
        out.push(size as usize);
    }
    // Zeros between the pixels, and `reach - 1 - pad` around them (cut off where that is negative).
    let (mut shape, mut windows, mut before) = (vec![images, channels], vec![(0, images, 1), (0, channels, 1)], vec![0, 0]);
    for place in 0..spatial {
        let reach = (kernel_shape[place + 2] - 1) * dilation[place] + 1;
        let front = reach as i64 - 1 - pads[place];
        shape.push(out[place] + reach - 1);
        before.push(front.max(0) as usize);
        windows.push(((-front).max(0) as usize, out[place] + reach - 1, 1));
    }
    let spread_shape: Vec<usize> = (0..spatial)
        .map(|place| before[place + 2] + (x.shape[place + 2] - 1) * stride[place] + 1)
        .zip(&windows[2..])
        .map(|(len, (cut, count, _))| len.max(cut + count))
        .collect();
    let mut spread = vec![images, channels];
    spread.extend(&spread_shape);
    let y = context.spread(&x, &before, &stride, &spread)?;
    let y = context.windowed(&y, &windows)?;
    // `[channels][channels_out / groups][k]` to `[channels_out][channels / groups][k]`, mirrored.
    let taps: usize = kernel_shape[2..].iter().product();
    let (c_in, c_out) = (channels / groups, kernel_shape[1]);
    let mut turned = vec![0.0; weights.len()];
    context.charge(turned.len())?;
    for group in 0..groups {
        for input in 0..c_in {
            for output in 0..c_out {
                for tap in 0..taps {
                    let from = ((group * c_in + input) * c_out + output) * taps + (taps - 1 - tap);
                    turned[((group * c_out + output) * c_in + input) * taps + tap] = weights[from];
                }
            }
        }
    }
    let bias = match context.known(node, 2)? {
        Some((bias, _)) if bias.len() == channels_out => bias.to_vec(),
        Some((bias, _)) => return Err(format!("has {} biases for {channels_out} channels", bias.len())),
        None => vec![0.0; channels_out],
    };
    let frame = Frame {
        size: pair(&shape[2..], 1),
        kernel: pair(&kernel_shape[2..], 1),
        stride: [1, 1],
        dilation: pair(&dilation, 1),
        pad: [[0, 0], [0, 0]],
        out: pair(&out, 1),
        spatial,
    };
    let y = context.convolved(&y, &frame, turned, bias, groups)?;
    context.finish(node, Computed { shape: frame.shape(images, channels_out), ..y })
}

impl Context {
    /// The pixels of `x` at steps of `stride` from `before` on, zeros elsewhere.
    fn spread(&mut self, x: &Computed, before: &[usize], stride: &[usize], shape: &[usize]) -> Result<Computed, String> {
        let full = super::strides(shape);
        let mut to = full.clone();
        for (place, &step) in stride.iter().enumerate() {
            to[place + 2] *= step as i64;
        }
        let offset: usize = before.iter().zip(&full).map(|(&count, &step)| count * step as usize).sum();
        let view = crate::program::view(&x.shape, &super::strides(&x.shape), &to, [0, offset])
            .ok_or("has too many dimensions")?;
        let id = self.step(Op::Assemble { fill: Some(0.0), parts: vec![(x.id, view)] }, elements(shape)?)?;
        Ok(Computed { id, shape: shape.to_vec(), kind: x.kind })
    }

    fn pooled(&mut self, x: &Computed, frame: &Frame, kind: u8) -> Result<Computed, String> {
        let (images, channels) = (x.shape[0], x.shape[1]);
        let window = frame.window(channels, channels, 1);
        let shape = frame.shape(images, channels);
        let id = self.step(Op::Pool { x: x.id, images, window, kind }, elements(&shape)?)?;
        Ok(Computed { id, shape, kind: x.kind })
    }
}

fn kernel(node: &Node, x: &Computed) -> Result<Vec<usize>, String> {
    positive(node, "kernel_shape", x.shape.len().saturating_sub(2), 1, 0)
}

fn max_pool(context: &mut Context, node: &Node) -> Result<(), String> {
    if node.outputs.get(1).is_some_and(|name| !name.is_empty()) {
        return Err("its second output (indices) has no lowering: export without it".into());
    }
    let x = context.value(node, 0)?;
    let frame = Frame::read(node, &x.shape, &kernel(node, &x)?)?;
    let y = context.pooled(&x, &frame, pool::MAX)?;
    context.finish(node, y)
}

/// Zeros around the image become part of it.
fn with_padding(context: &mut Context, x: &Computed, frame: &mut Frame) -> Result<Computed, String> {
    if frame.pad == [[0, 0], [0, 0]] {
        return Ok(x.clone());
    }
    let size: Vec<usize> = (0..2).map(|axis| frame.size[axis] + frame.pad[0][axis] + frame.pad[1][axis]).collect();
    let flat = Computed { shape: vec![x.shape[0], x.shape[1], frame.size[0], frame.size[1]], ..x.clone() };
    let before = [0, 0, frame.pad[0][0], frame.pad[0][1]];
    let y = context.padded(&flat, &before, &[x.shape[0], x.shape[1], size[0], size[1]], 0.0)?;
    (frame.size, frame.pad) = ([size[0], size[1]], [[0, 0], [0, 0]]);
    Ok(y)
}

fn average_pool(context: &mut Context, node: &Node) -> Result<(), String> {
    let mut x = context.value(node, 0)?;
    let mut frame = Frame::read(node, &x.shape, &kernel(node, &x)?)?;
    if node.int("count_include_pad", 0)? != 0 {
        x = with_padding(context, &x, &mut frame)?;
    }
    let y = context.pooled(&x, &frame, pool::MEAN)?;
    context.finish(node, y)
}

/// `(sum |x|^p)^(1/p)`
fn lp_pool(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let frame = Frame::read(node, &x.shape, &kernel(node, &x)?)?;
    let p = node.int("p", 2)? as f32;
    let powers = context.powers(&x, p)?;
    let sum = context.pooled(&powers, &frame, pool::SUM)?;
    let y = context.with_number(&sum, binary::POW, 1.0 / p)?;
    context.finish(node, y)
}

impl Context {
    /// `|x|^p`
    fn powers(&mut self, x: &Computed, p: f32) -> Result<Computed, String> {
        let size = self.apply(x, Function::new(unary::ABS))?;
        if p == 2.0 { self.combine(&size, &size, binary::MUL) } else { self.with_number(&size, binary::POW, p) }
    }
}

fn spatial_axes(x: &Computed) -> Result<Vec<usize>, String> {
    match x.shape.len() {
        0..=2 => Err(format!("input of shape {:?} has no pixels", x.shape)),
        rank => Ok((2..rank).collect()),
    }
}

fn global_pool(context: &mut Context, node: &Node, kind: u8) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let y = context.reduced(&x, &spatial_axes(&x)?, kind)?;
    context.finish(node, y)
}

fn global_lp_pool(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let p = node.int("p", 2)? as f32;
    let powers = context.powers(&x, p)?;
    let sum = context.reduced(&powers, &spatial_axes(&x)?, reduce::SUM)?;
    let y = context.with_number(&sum, binary::POW, 1.0 / p)?;
    context.finish(node, y)
}

/// `x / (bias + alpha / size * sum of squares over neighbouring channels)^beta`
fn lrn(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let size = node.int("size", 0)?;
    let &[images, channels, ..] = &*x.shape else { return Err(format!("shape {:?} has no channels", x.shape)) };
    if !(1..=MOST).contains(&size) {
        return Err(format!("attribute `size` is {size}, expected a number from 1"));
    }
    let (size, pixels) = (size as usize, x.len() / (images * channels));
    let square = context.combine(&x, &x, binary::MUL)?;
    let flat = Computed { shape: vec![images, 1, channels, pixels], ..square };
    let frame = Frame {
        size: [channels, pixels],
        kernel: [size, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [[(size - 1) / 2, 0], [size / 2, 0]],
        out: [channels, pixels],
        spatial: 2,
    };
    let sum = context.pooled(&flat, &frame, pool::SUM)?;
    let scaled = context.with_number(&sum, binary::MUL, node.float("alpha", 1e-4)? / size as f32)?;
    let base = context.with_number(&scaled, binary::ADD, node.float("bias", 1.0)?)?;
    let factor = context.with_number(&base, binary::POW, node.float("beta", 0.75)?)?;
    let y = context.combine(&x, &Computed { shape: x.shape.clone(), ..factor }, binary::DIV)?;
    context.finish(node, y)
}
