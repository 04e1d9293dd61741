//! Windows over images: convolution and pooling. The runtime knows two dimensions; one is two with height 1, and
//! three are taken apart: a pool into one over the planes and one along the depth, a convolution into one over
//! planes that have the taps along the depth as channels.

use super::{Computed, Context, Lowering};
use crate::import::{Kind, Node, elements};
use crate::program::{Axis, Function, Gemm, Op};
use tendon_wire::image::{Window, binary, pool, reduce, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("AveragePool",       average_pool),
    ("CausalConvWithState", causal_conv),
    ("Col2Im",            col_to_image),
    ("Conv",              conv),
    ("ConvTranspose",     conv_transpose),
    ("GlobalAveragePool", |c, n| global_pool(c, n, reduce::MEAN)),
    ("GlobalLpPool",      global_lp_pool),
    ("GlobalMaxPool",     |c, n| global_pool(c, n, reduce::MAX)),
    ("LRN",               lrn),
    ("LpPool",            lp_pool),
    ("MaxPool",           max_pool),
    ("MaxUnpool",         max_unpool),
];

/// Largest kernel, stride, dilation or pad: as the runtime has it.
const MOST: i64 = (1 << 15) - 1;

/// The attributes of a window over `spatial` dimensions, as a window over three (depth, height, width).
#[derive(Clone)]
struct Frame {
    size: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    /// In front, behind.
    pad: [[usize; 3]; 2],
    out: [usize; 3],
    spatial: usize,
}

/// What each number is where nothing is given.
const SIZE: usize = 1;
const PAD: usize = 0;

fn triple(values: &[usize], missing: usize) -> [usize; 3] {
    match *values {
        [one] => [missing, missing, one],
        [a, b] => [missing, a, b],
        [a, b, c] => [a, b, c],
        _ => [missing; 3],
    }
}

fn positive(node: &Node, name: &str, spatial: usize, low: i64, default: i64) -> Result<Vec<usize>, String> {
    let values = node.ints(name)?.unwrap_or_else(|| vec![default; spatial]);
    if values.len() != spatial || values.iter().any(|value| !(low..=MOST).contains(value)) {
        return Err(format!(
            "attribute `{name}` is {values:?}, expected {spatial} numbers from {low} to {MOST}"
        ));
    }
    Ok(values.into_iter().map(|value| value as usize).collect())
}

impl Frame {
    fn read(node: &Node, shape: &[usize], kernel: &[usize]) -> Result<Self, String> {
        let spatial = shape.len().saturating_sub(2);
        if !(1..=3).contains(&spatial) || kernel.len() != spatial || kernel.contains(&0) {
            return Err(format!(
                "input of shape {shape:?} with a kernel {kernel:?}: windows over one to three dimensions have a lowering"
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
                format!(
                    "a kernel that reaches over {reach} does not fit {padded} elements (axis {})",
                    place + 2
                )
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
            size: triple(&shape[2..], SIZE),
            kernel: triple(kernel, SIZE),
            stride: triple(&stride, SIZE),
            dilation: triple(&dilation, SIZE),
            pad: [triple(before, PAD), triple(after, PAD)],
            out: triple(&out, SIZE),
            spatial,
        })
    }

    /// The window over one plane.
    fn window(&self, channels: usize, channels_out: usize, groups: usize) -> Window {
        Window {
            channels: channels as u32,
            height: self.size[1] as u32,
            width: self.size[2] as u32,
            channels_out: channels_out as u32,
            height_out: self.out[1] as u32,
            width_out: self.out[2] as u32,
            kernel_h: self.kernel[1] as u32,
            kernel_w: self.kernel[2] as u32,
            stride_h: self.stride[1] as u32,
            stride_w: self.stride[2] as u32,
            dilation_h: self.dilation[1] as u32,
            dilation_w: self.dilation[2] as u32,
            pad_top: self.pad[0][1] as u32,
            pad_left: self.pad[0][2] as u32,
            groups: groups as u32,
            reserved: 0,
        }
    }

    /// The same along the depth alone, over pixels in a row.
    fn depth(&self) -> Self {
        let pick = |values: [usize; 3], missing: usize| [missing, values[0], missing];
        let pixels = self.out[1] * self.out[2];
        Self {
            size: [SIZE, self.size[0], pixels],
            kernel: pick(self.kernel, SIZE),
            stride: pick(self.stride, SIZE),
            dilation: pick(self.dilation, SIZE),
            pad: self.pad.map(|pad| pick(pad, PAD)),
            out: [SIZE, self.out[0], pixels],
            spatial: 2,
        }
    }

    /// Elements over which the kernel reaches along an axis.
    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// Shape of the result.
    fn shape(&self, images: usize, channels: usize) -> Vec<usize> {
        let mut shape = vec![images, channels];
        shape.extend(&self.out[3 - self.spatial..]);
        shape
    }
}

fn conv(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, weights) = (context.value(node, 0)?, context.value(node, 1)?);
    let bias = context.known(node, 2)?.map(|(values, _)| values.to_vec());
    let y = convolution(context, node, &x, &weights, bias)?;
    context.finish(node, y)
}

/// The convolution that a node's attributes describe.
pub(super) fn convolution(
    context: &mut Context,
    node: &Node,
    x: &Computed,
    weights: &Computed,
    bias: Option<Vec<f32>>,
) -> Result<Computed, String> {
    let kernel_shape = &weights.shape;
    let Some(values) = context.data(weights.id).cloned() else {
        return Err("its weights are computed: export them as initializers".into());
    };
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
    let bias = match bias {
        Some(bias) if bias.len() == channels_out => bias,
        Some(bias) => return Err(format!("has {} biases for {channels_out} channels", bias.len())),
        None => vec![0.0; channels_out],
    };
    let y = context.convolved(x, &frame, values.to_vec(), bias, groups)?;
    Ok(Computed { shape: frame.shape(images, channels_out), kind: x.kind, ..y })
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
        let (images, channels, channels_out) = (x.shape[0], x.shape[1], bias.len());
        if frame.spatial < 3 {
            return self.convolved_planes(
                x.id,
                images,
                frame.window(channels, channels_out, groups),
                weights,
                bias,
            );
        }
        let [depth, height, width] = frame.size;
        let [out_depth, out_height, out_width] = frame.out;
        let taps = frame.kernel[0];
        let [front, back] = [frame.pad[0][0], frame.pad[1][0]];
        let mut x = Computed { shape: vec![images, channels, depth, height, width], ..x.clone() };
        if front + back > 0 {
            x = self.padded(
                &x,
                &[0, 0, front, 0, 0],
                &[images, channels, front + depth + back, height, width],
                0.0,
            )?;
        }
        let own = super::strides(&x.shape);
        let plane = own[2];
        let from = [own[0], plane * frame.stride[0] as i64, own[1], plane * frame.dilation[0] as i64, 1];
        let x = self.moved(&x, &[images, out_depth, channels, taps, height * width], &from, 0)?;
        let window = frame.window(channels * taps, channels_out, groups);
        let y = self.convolved_planes(x.id, images * out_depth, window, weights, bias)?;
        let y = Computed { shape: vec![images, out_depth, channels_out, out_height * out_width], ..y };
        self.permuted(&y, &[0, 2, 1, 3])
    }

    fn convolved_planes(
        &mut self,
        x: super::ValueId,
        images: usize,
        window: Window,
        weights: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<Computed, String> {
        let len = elements(&[images, bias.len(), window.height_out as usize, window.width_out as usize])?;
        let gemm = Gemm { weights, bias, activation: Function::NONE };
        let id = self.step(Op::Conv { x, images, window, gemm }, len)?;
        Ok(Computed { id, shape: vec![len], kind: Kind::F32 })
    }
}

/// A depthwise convolution over what came before and the input, and what the next one needs of it.
fn causal_conv(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, weights) = (context.value(node, 0)?, context.value(node, 1)?);
    let (&[batch, channels, length], &[_, _, taps]) = (&*x.shape, &*weights.shape) else {
        return Err(format!("shapes {:?} and {:?} are not [batch, channels, n]", x.shape, weights.shape));
    };
    let before = taps.saturating_sub(1);
    let kind = x.kind;
    let mut whole = x;
    if before > 0 {
        let past = match context.optional(node, 3)? {
            Some(past) => context.computed(past)?,
            None => context.fixed(
                vec![0.0; elements(&[batch, channels, before])?],
                vec![batch, channels, before],
                kind,
            )?,
        };
        if past.shape != [batch, channels, before] {
            return Err(format!(
                "past_state has shape {:?}, expected {:?}",
                past.shape,
                [batch, channels, before]
            ));
        }
        whole = context.concatenated(&[past, whole], 2)?;
    }
    let values =
        context.data(weights.id).ok_or("its weights are computed: export them as initializers")?.to_vec();
    let bias = context.known(node, 2)?.map_or_else(|| vec![0.0; channels], |(bias, _)| bias.to_vec());
    if weights.shape != [channels, 1, taps] || bias.len() != channels {
        return Err(format!(
            "weights {:?} and {} biases do not fit {channels} channels",
            weights.shape,
            bias.len()
        ));
    }
    let frame = Frame {
        size: [SIZE, SIZE, before + length],
        kernel: [SIZE, SIZE, taps],
        stride: [SIZE; 3],
        dilation: [SIZE; 3],
        pad: [[PAD; 3]; 2],
        out: [SIZE, SIZE, length],
        spatial: 1,
    };
    let y = context.convolved(&whole, &frame, values, bias, channels)?;
    let mut y = Computed { shape: vec![batch, channels, length], kind, ..y };
    match node.text("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = context.swished(&y, 1.0)?,
        other => return Err(format!("attribute `activation` is `{other}`, expected none, silu or swish")),
    }
    if node.outputs.get(1).is_some_and(|name| !name.is_empty()) {
        if before == 0 {
            return Err("a kernel of one has no state: export without its second output".into());
        }
        let state = context.part(&whole, 2, length, before)?;
        context.result(node, 1, state.id, state.shape, kind)?;
    }
    context.finish(node, y)
}

/// Zeros between the pixels and around them, then a convolution with the mirrored kernel.
fn conv_transpose(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let (weights, kernel_shape) = context.known(node, 1)?.ok_or("has no weights")?;
    let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
    let spatial = x.shape.len().saturating_sub(2);
    if kernel_shape.len() != x.shape.len() || !(1..=3).contains(&spatial) || kernel_shape.contains(&0) {
        return Err(format!(
            "weights of shape {kernel_shape:?} on an input of shape {:?}: one to three dimensions have a lowering",
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
    let (mut shape, mut windows, mut before) =
        (vec![images, channels], vec![(0, images, 1), (0, channels, 1)], vec![0, 0]);
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
        size: triple(&shape[2..], SIZE),
        kernel: triple(&kernel_shape[2..], SIZE),
        stride: [SIZE; 3],
        dilation: triple(&dilation, SIZE),
        pad: [[PAD; 3]; 2],
        out: triple(&out, SIZE),
        spatial,
    };
    let y = context.convolved(&y, &frame, turned, bias, groups)?;
    context.finish(node, Computed { shape: frame.shape(images, channels_out), kind: x.kind, ..y })
}

impl Context {
    /// The pixels of `x` at steps of `stride` from `before` on, zeros elsewhere.
    pub(super) fn spread(
        &mut self,
        x: &Computed,
        before: &[usize],
        stride: &[usize],
        shape: &[usize],
    ) -> Result<Computed, String> {
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
        let shape = frame.shape(images, channels);
        if frame.spatial < 3 {
            let window = frame.window(channels, channels, 1);
            let id = self.step(Op::Pool { x: x.id, images, window, kind }, elements(&shape)?)?;
            return Ok(Computed { id, shape, kind: x.kind });
        }
        // Every depth is a channel; means over lines of equal length are the mean over the box.
        let [depth, ..] = frame.size;
        let planes = Frame { spatial: 2, ..frame.clone() };
        let flat =
            Computed { shape: vec![images, channels * depth, frame.size[1], frame.size[2]], ..x.clone() };
        let y = self.pooled(&flat, &planes, kind)?;
        let along = frame.depth();
        let y = self.pooled(
            &Computed { shape: vec![images, channels, along.size[1], along.size[2]], ..y },
            &along,
            kind,
        )?;
        Ok(Computed { shape, ..y })
    }
}

fn kernel(node: &Node, x: &Computed) -> Result<Vec<usize>, String> {
    positive(node, "kernel_shape", x.shape.len().saturating_sub(2), 1, 0)
}

fn max_pool(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let frame = Frame::read(node, &x.shape, &kernel(node, &x)?)?;
    if node.outputs.get(1).is_some_and(|name| !name.is_empty()) {
        return max_pool_with_places(context, node, &x, &frame);
    }
    let y = context.pooled(&x, &frame, pool::MAX)?;
    context.finish(node, y)
}

/// The windows side by side; then the largest element of each, and where it lies in `x`.
fn max_pool_with_places(
    context: &mut Context,
    node: &Node,
    x: &Computed,
    frame: &Frame,
) -> Result<(), String> {
    let planes = x.shape[0] * x.shape[1];
    // Every window inside: what is added is never the largest.
    let reached = |axis: usize| (frame.out[axis] - 1) * frame.stride[axis] + frame.reach(axis);
    let grown: Vec<usize> =
        (0..3).map(|axis| reached(axis).max(frame.pad[0][axis] + frame.size[axis])).collect();
    let [front, top, left] = frame.pad[0];
    let flat = Computed { shape: [&[planes], &frame.size[..]].concat(), ..x.clone() };
    let wide = [&[planes], &*grown].concat();
    let padded = context.padded(&flat, &[0, front, top, left], &wide, f32::NEG_INFINITY)?;
    let own = super::strides(&wide);
    let (outs, taps): (usize, usize) = (frame.out.iter().product(), frame.kernel.iter().product());
    let dims = [&[planes], &frame.out[..], &frame.kernel[..]].concat();
    let mut from = vec![own[0]];
    from.extend((0..3).map(|axis| own[axis + 1] * frame.stride[axis] as i64));
    from.extend((0..3).map(|axis| own[axis + 1] * frame.dilation[axis] as i64));
    let windows = context.moved(&padded, &dims, &from, 0)?;
    let around = Axis { outer: planes * outs, n: taps, inner: 1 };
    let shape = frame.shape(x.shape[0], x.shape[1]);
    let largest =
        context.step(Op::Reduce { x: windows.id, axis: around, kind: reduce::MAX }, planes * outs)?;
    context.result(node, 0, largest, shape.clone(), x.kind)?;
    let tap = context.step(Op::Arg { x: windows.id, axis: around, kind: 0 }, planes * outs)?;
    let tap = Computed { id: tap, shape: vec![planes * outs], kind: Kind::I64 };
    // Place of a pixel in its plane, row by row or column by column.
    let [_, height, width] = frame.size;
    let steps = match node.int("storage_order", 0)? {
        0 => [(height * width) as i64, width as i64, 1],
        _ => [1, frame.size[0] as i64, (frame.size[0] * height) as i64],
    };
    let index_of = |mut index: usize, sizes: &[usize; 3]| {
        let mut place = [0i64; 3];
        for axis in (0..3).rev() {
            place[axis] = (index % sizes[axis]) as i64;
            index /= sizes[axis];
        }
        place
    };
    let dot = |place: [i64; 3]| -> i64 { place.iter().zip(&steps).map(|(a, b)| a * b).sum() };
    let offset = |tap: usize| {
        let place = index_of(tap, &frame.kernel);
        dot([0, 1, 2].map(|axis| place[axis] * frame.dilation[axis] as i64)) as f32
    };
    let plane: usize = frame.size.iter().product();
    elements(&[planes, plane])?;
    let start = |place: usize| {
        let out = index_of(place % outs, &frame.out);
        let corner = [0, 1, 2].map(|axis| out[axis] * frame.stride[axis] as i64 - frame.pad[0][axis] as i64);
        (dot(corner) + (place / outs * plane) as i64) as f32
    };
    let offsets = context.fixed((0..taps).map(offset).collect(), vec![taps], Kind::I64)?;
    let starts = context.fixed((0..planes * outs).map(start).collect(), vec![planes * outs], Kind::I64)?;
    let places = context.taken(&offsets, &tap, 0)?;
    let places = context.combine(&places, &starts, binary::ADD)?;
    context.result(node, 1, places.id, shape, Kind::I64)
}

/// Elements put back where a MaxPool took them from; zeros elsewhere.
fn max_unpool(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, places) = (context.value(node, 0)?, context.value(node, 1)?);
    let kernel = kernel(node, &x)?;
    let spatial = kernel.len();
    if spatial == 0 {
        return Err(format!("shape {:?} has no pixels", x.shape));
    }
    let stride = positive(node, "strides", spatial, 1, 1)?;
    let pads = positive(node, "pads", 2 * spatial, 0, 0)?;
    let mut shape = x.shape[..2].to_vec();
    for axis in 0..spatial {
        let size = (x.shape[axis + 2] - 1) * stride[axis] + kernel[axis];
        shape.push(size.checked_sub(pads[axis] + pads[axis + spatial]).ok_or("pads leave nothing")?);
    }
    if places.shape != x.shape {
        return Err(format!("indices of shape {:?} do not fit {:?}", places.shape, x.shape));
    }
    let n = elements(&shape)?;
    let zeros = context.filled(n, 0.0)?;
    let axis = Axis { outer: 1, n, inner: 1 };
    let op =
        Op::Scatter { x: zeros, indices: places.id, updates: x.id, axis, m: x.len(), each: false, kind: 0 };
    let mut y = Computed { id: context.step(op, n)?, shape: shape.clone(), kind: x.kind };
    if let Some(wanted) = context.integers(node, 2)? {
        let wanted: Option<Vec<usize>> = wanted.into_iter().map(|size| usize::try_from(size).ok()).collect();
        let wanted =
            wanted.filter(|w| w.len() == shape.len() && w.iter().zip(&shape).all(|(w, own)| w >= own));
        let wanted = wanted.ok_or_else(|| format!("output_shape is smaller than {shape:?}"))?;
        if wanted != shape {
            y = context.padded(&y, &vec![0; shape.len()], &wanted, 0.0)?;
        }
    }
    context.finish(node, y)
}

/// Columns of windows added up to an image.
fn col_to_image(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let read = |context: &mut Context, index: usize| -> Result<Vec<usize>, String> {
        let values = context.integers(node, index)?.ok_or("has no sizes")?;
        let bounded =
            |value: i64| usize::try_from(value).ok().filter(|&value| (1..=MOST as usize).contains(&value));
        values
            .iter()
            .map(|&value| bounded(value).ok_or_else(|| format!("size {value} is out of range")))
            .collect()
    };
    let (image, block) = (read(context, 1)?, read(context, 2)?);
    let rank = image.len();
    let dilation = positive(node, "dilations", rank, 1, 1)?;
    let stride = positive(node, "strides", rank, 1, 1)?;
    let pads = positive(node, "pads", 2 * rank, 0, 0)?;
    let taps = elements(&block)?;
    let &[images, rows, columns] = &*x.shape else {
        return Err(format!("input has shape {:?}, expected [batch, channels * kernel, windows]", x.shape));
    };
    if block.len() != rank || rank == 0 || !rows.is_multiple_of(taps) {
        return Err(format!("a kernel {block:?} does not fit an image {image:?} and {rows} rows"));
    }
    let channels = rows / taps;
    let (mut wide, mut counts) = (Vec::new(), Vec::new());
    for axis in 0..rank {
        let size = image[axis] + pads[axis] + pads[axis + rank];
        let reach = (block[axis] - 1) * dilation[axis] + 1;
        let room =
            size.checked_sub(reach).ok_or_else(|| format!("a kernel {block:?} does not fit {image:?}"))?;
        wide.push(size);
        counts.push(room / stride[axis] + 1);
    }
    if elements(&counts)? != columns {
        return Err(format!("has {columns} columns, the windows are {counts:?}"));
    }
    let n = elements(&wide)?;
    let steps = super::strides(&wide);
    let mut table = vec![0i64];
    for (sizes, factors) in [(&block, &dilation), (&counts, &stride)] {
        for axis in 0..rank {
            let step = steps[axis] * factors[axis] as i64;
            table = table
                .iter()
                .flat_map(|&base| (0..sizes[axis] as i64).map(move |i| base + i * step))
                .collect();
        }
    }
    let m = table.len();
    let indices = context.floats(table.into_iter().map(|place| place as f32).collect())?;
    let zeros = context.filled(elements(&[images, channels, n])?, 0.0)?;
    let axis = Axis { outer: images * channels, n, inner: 1 };
    let op = Op::Scatter { x: zeros, indices, updates: x.id, axis, m, each: false, kind: 1 };
    let id = context.step(op, images * channels * n)?;
    let shape: Vec<usize> = [images, channels].into_iter().chain(wide).collect();
    let mut windows: Vec<(usize, usize, i64)> = shape.iter().map(|&size| (0, size, 1)).collect();
    for axis in 0..rank {
        windows[axis + 2] = (pads[axis], image[axis], 1);
    }
    let y = context.windowed(&Computed { id, shape, kind: x.kind }, &windows)?;
    context.finish(node, y)
}

/// Zeros around the image become part of it.
fn with_padding(context: &mut Context, x: &Computed, frame: &mut Frame) -> Result<Computed, String> {
    if frame.pad == [[PAD; 3]; 2] {
        return Ok(x.clone());
    }
    let size = [0, 1, 2].map(|axis| frame.size[axis] + frame.pad[0][axis] + frame.pad[1][axis]);
    let flat = Computed { shape: [&x.shape[..2], &frame.size].concat(), ..x.clone() };
    let before = [&[0, 0], &frame.pad[0][..]].concat();
    let y = context.padded(&flat, &before, &[&x.shape[..2], &size].concat(), 0.0)?;
    (frame.size, frame.pad) = (size, [[PAD; 3]; 2]);
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
        if p == 2.0 {
            self.combine(&size, &size, binary::MUL)
        } else {
            self.with_number(&size, binary::POW, p)
        }
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
    let &[images, channels, ..] = &*x.shape else {
        return Err(format!("shape {:?} has no channels", x.shape));
    };
    if !(1..=MOST).contains(&size) {
        return Err(format!("attribute `size` is {size}, expected a number from 1"));
    }
    let (size, pixels) = (size as usize, x.len() / (images * channels));
    let square = context.combine(&x, &x, binary::MUL)?;
    let flat = Computed { shape: vec![images, 1, channels, pixels], ..square };
    let frame = Frame {
        size: [SIZE, channels, pixels],
        kernel: [SIZE, size, SIZE],
        stride: [SIZE; 3],
        dilation: [SIZE; 3],
        pad: [[PAD, (size - 1) / 2, PAD], [PAD, size / 2, PAD]],
        out: [SIZE, channels, pixels],
        spatial: 2,
    };
    let sum = context.pooled(&flat, &frame, pool::SUM)?;
    let scaled = context.with_number(&sum, binary::MUL, node.float("alpha", 1e-4)? / size as f32)?;
    let base = context.with_number(&scaled, binary::ADD, node.float("bias", 1.0)?)?;
    let factor = context.with_number(&base, binary::POW, node.float("beta", 0.75)?)?;
    let y = context.combine(&x, &Computed { shape: x.shape.clone(), ..factor }, binary::DIV)?;
    context.finish(node, y)
}
