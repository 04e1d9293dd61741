//! Images read at computed places: grids, regions, deformed kernels.

use super::{Computed, Context, Lowering, strides};
use crate::import::{Kind, Node, elements};
use crate::program::{Axis, Function, Op};
use tendon_wire::image::{binary, reduce as by, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("AffineGrid", affine_grid),
    ("DeformConv", deform_conv),
    ("GridSample", grid_sample),
    ("RoiAlign",   roi_align),
];

/// Along one axis: places of the pixels to read (whole numbers inside the image), and their weights.
type Taps = Vec<(Computed, Computed)>;

/// What lies outside an image.
#[derive(Clone, Copy, PartialEq)]
enum Border {
    Zeros,
    Edge,
    /// Mirrored at these places.
    Mirror {
        low: f32,
        high: f32,
    },
}

impl Context {
    fn plus(&mut self, x: &Computed, number: f32) -> Result<Computed, String> {
        self.with_number(x, binary::ADD, number)
    }

    fn times(&mut self, x: &Computed, number: f32) -> Result<Computed, String> {
        self.with_number(x, binary::MUL, number)
    }

    fn clipped(&mut self, x: &Computed, low: f32, high: f32) -> Result<Computed, String> {
        self.apply(x, Function::with(unary::CLIP, low, high))
    }

    /// Back and forth between two places.
    fn mirrored(&mut self, x: &Computed, low: f32, high: f32) -> Result<Computed, String> {
        let span = high - low;
        if span <= 0.0 {
            return self.times(x, 0.0);
        }
        let x = self.plus(x, -low)?;
        let x = self.with_number(&x, binary::MOD, 2.0 * span)?;
        let x = self.plus(&x, -span)?;
        let x = self.apply(&x, Function::new(unary::ABS))?;
        let x = self.times(&x, -1.0)?;
        self.plus(&x, span + low)
    }

    /// One tap: the pixel inside the image, and the weight, 0 where zeros lie around it.
    fn tap(
        &mut self,
        place: &Computed,
        weight: Computed,
        size: usize,
        border: Border,
    ) -> Result<(Computed, Computed), String> {
        let last = size as f32 - 1.0;
        let (mut place, mut weight) = (place.clone(), weight);
        match border {
            Border::Zeros => {
                let above = self.with_number(&place, binary::GREATER_EQUAL, 0.0)?;
                let below = self.with_number(&place, binary::LESS_EQUAL, last)?;
                let inside = self.combine(&above, &below, binary::AND)?;
                weight = self.combine(&weight, &inside, binary::MUL)?;
            }
            Border::Edge => {}
            Border::Mirror { low, high } => place = self.mirrored(&place, low, high)?,
        }
        Ok((self.clipped(&place, 0.0, last)?, weight))
    }

    /// Taps around places along an axis of `size` pixels.
    fn taps(&mut self, place: &Computed, size: usize, mode: &str, border: Border) -> Result<Taps, String> {
        let one = self.times(place, 0.0)?;
        let one = self.plus(&one, 1.0)?;
        if mode == "nearest" {
            return Ok(vec![self.tap(place, one, size, border)?]);
        }
        let floor = self.apply(place, Function::new(unary::FLOOR))?;
        let ratio = self.combine(place, &floor, binary::SUB)?;
        let mut taps = Vec::new();
        if mode == "linear" {
            let left = self.combine(&one, &ratio, binary::SUB)?;
            for (step, weight) in [(0.0, left), (1.0, ratio)] {
                let own = self.plus(&floor, step)?;
                taps.push(self.tap(&own, weight, size, border)?);
            }
            return Ok(taps);
        }
        // Cubic convolution (Keys 1981), a = -0.75, as a polynomial of the distance.
        const A: f32 = -0.75;
        let near = [1.0, 0.0, -(A + 3.0), A + 2.0];
        let far = [-4.0 * A, 8.0 * A, -5.0 * A, A];
        for (step, [c0, c1, c2, c3]) in [(-1.0, far), (0.0, near), (1.0, near), (2.0, far)] {
            let distance = self.plus(&ratio, -step)?;
            let distance = self.apply(&distance, Function::new(unary::ABS))?;
            let mut sum = self.times(&distance, c3)?;
            for coefficient in [c2, c1] {
                sum = self.plus(&sum, coefficient)?;
                sum = self.combine(&sum, &distance, binary::MUL)?;
            }
            let weight = self.plus(&sum, c0)?;
            let own = self.plus(&floor, step)?;
            taps.push(self.tap(&own, weight, size, border)?);
        }
        Ok(taps)
    }

    /// Pixels of `x` `[n, channels, pixels]` at every combination of taps, weighted: each `[n, channels, places]`.
    /// The taps have the shape `[n, places]`; `size`: of the image.
    fn sampled(&mut self, x: &Computed, size: &[usize], taps: &[Taps]) -> Result<Vec<Computed>, String> {
        let [n, channels, pixels] = [x.shape[0], x.shape[1], elements(size)?];
        let steps = strides(size);
        let mut all: Vec<Option<(Computed, Computed)>> = vec![None];
        for (own, &step) in taps.iter().zip(&steps) {
            let mut next = Vec::new();
            for before in &all {
                for (place, weight) in own {
                    let place = self.times(place, step as f32)?;
                    next.push(Some(match before {
                        None => (place, weight.clone()),
                        Some((index, product)) => {
                            let index = self.combine(index, &place, binary::ADD)?;
                            (index, self.combine(product, weight, binary::MUL)?)
                        }
                    }));
                }
            }
            all = next;
        }
        let mut values = Vec::new();
        for (index, weight) in all.into_iter().flatten() {
            let places = index.len() / n;
            let wide = [n, channels, places];
            let index = self.expand(&Computed { shape: vec![n, 1, places], ..index }, &wide)?;
            let axis = Axis { outer: n * channels, n: pixels, inner: 1 };
            let op = Op::Take { x: x.id, indices: index.id, axis, m: places, each: true };
            let value = Computed { id: self.step(op, elements(&wide)?)?, shape: wide.to_vec(), kind: x.kind };
            values.push(self.combine(
                &value,
                &Computed { shape: vec![n, 1, places], ..weight },
                binary::MUL,
            )?);
        }
        Ok(values)
    }

    fn folded(&mut self, values: Vec<Computed>, kind: u8) -> Result<Computed, String> {
        let mut values = values.into_iter();
        let mut sum = values.next().ok_or("reads no pixel")?;
        for value in values {
            sum = self.combine(&sum, &value, kind)?;
        }
        Ok(sum)
    }
}

fn grid_sample(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, grid) = (context.value(node, 0)?, context.value(node, 1)?);
    let rank = x.shape.len();
    if !(3..=5).contains(&rank)
        || grid.shape.len() != rank
        || grid.shape[0] != x.shape[0]
        || grid.shape[rank - 1] != rank - 2
    {
        return Err(format!("a grid of shape {:?} does not fit {:?}", grid.shape, x.shape));
    }
    let [n, channels] = [x.shape[0], x.shape[1]];
    let size = x.shape[2..].to_vec();
    let places = grid.len() / n / size.len();
    let mode = match node.text("mode", "linear")? {
        "nearest" => "nearest",
        "linear" | "bilinear" => "linear",
        "cubic" | "bicubic" => "cubic",
        other => return Err(format!("attribute `mode` is `{other}`, expected nearest, linear or cubic")),
    };
    let corners = node.int("align_corners", 0)? != 0;
    let padding = node.text("padding_mode", "zeros")?;
    let mut taps = Vec::new();
    for (along, &size) in size.iter().enumerate() {
        let length = size as f32;
        // The grid names the last axis first.
        let own = context.part(&grid, rank - 1, rank - 3 - along, 1)?;
        let own = Computed { shape: vec![n, places], ..own };
        let own = context.plus(&own, 1.0)?;
        let (factor, shift) = if corners { ((length - 1.0) / 2.0, 0.0) } else { (length / 2.0, -0.5) };
        let own = context.times(&own, factor)?;
        let mut own = context.plus(&own, shift)?;
        if mode == "nearest" {
            own = context.apply(&own, Function::new(unary::ROUND))?;
        }
        let (low, high) = if corners { (0.0, length - 1.0) } else { (-0.5, length - 0.5) };
        let border = match padding {
            "zeros" => Border::Zeros,
            "border" => Border::Edge,
            "reflection" => Border::Mirror { low, high },
            other => {
                return Err(format!(
                    "attribute `padding_mode` is `{other}`, expected zeros, border or reflection"
                ));
            }
        };
        if border != Border::Zeros {
            let moved = match border {
                Border::Mirror { low, high } => context.mirrored(&own, low, high)?,
                _ => context.clipped(&own, 0.0, length - 1.0)?,
            };
            let above = context.with_number(&own, binary::GREATER_EQUAL, low)?;
            let below = context.with_number(&own, binary::LESS_EQUAL, high)?;
            let inside = context.combine(&above, &below, binary::AND)?;
            own = context.choose(&inside, &own, &moved)?;
            if mode == "nearest" {
                own = context.apply(&own, Function::new(unary::TRUNC))?;
            }
        }
        taps.push(context.taps(&own, size, mode, border)?);
    }
    let flat = Computed { shape: vec![n, channels, elements(&size)?], ..x.clone() };
    let values = context.sampled(&flat, &size, &taps)?;
    let y = context.folded(values, binary::ADD)?;
    let shape: Vec<usize> =
        [n, channels].into_iter().chain(grid.shape[1..rank - 1].iter().copied()).collect();
    context.finish(node, Computed { shape, ..y })
}

/// Places of the pixels of a plane or a box, turned and moved by matrices.
fn affine_grid(context: &mut Context, node: &Node) -> Result<(), String> {
    let theta = context.value(node, 0)?;
    let size = context.integers(node, 1)?.ok_or("has no size")?;
    let size: Option<Vec<usize>> =
        size.iter().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0)).collect();
    let size = size
        .filter(|size| (4..=5).contains(&size.len()))
        .ok_or("its size is not [n, channels, .., height, width]")?;
    let (n, size) = (size[0], &size[2..]);
    let (rank, pixels) = (size.len(), elements(size)?);
    if theta.shape != [n, rank, rank + 1] {
        return Err(format!("matrices of shape {:?}, expected {:?}", theta.shape, [n, rank, rank + 1]));
    }
    let corners = node.int("align_corners", 0)? != 0;
    let steps = strides(size);
    let mut grid = Vec::new();
    // The last axis first, then 1.
    for axis in (0..rank).rev() {
        let length = size[axis] as f32;
        let place = |pixel: usize| (pixel / steps[axis] as usize % size[axis]) as f32;
        grid.extend((0..pixels).map(|pixel| match corners {
            true if length == 1.0 => -1.0,
            true => 2.0 * place(pixel) / (length - 1.0) - 1.0,
            false => (2.0 * place(pixel) + 1.0) / length - 1.0,
        }));
    }
    grid.extend(vec![1.0; pixels]);
    let grid = context.fixed(grid, vec![rank + 1, pixels], theta.kind)?;
    let y = context.product(&theta, &grid)?;
    let y = context.permuted(&y, &[0, 2, 1])?;
    let shape: Vec<usize> = [n].into_iter().chain(size.iter().copied()).chain([rank]).collect();
    context.finish(node, Computed { shape, ..y })
}

/// Attributes of one number per axis.
fn pair(node: &Node, name: &str, default: usize) -> Result<Vec<usize>, String> {
    let values = node.ints(name)?.unwrap_or_else(|| vec![default as i64; if name == "pads" { 4 } else { 2 }]);
    let bounded = |value: &i64| usize::try_from(*value).ok().filter(|&value| value <= 1 << 12);
    let values: Option<Vec<usize>> = values.iter().map(bounded).collect();
    values
        .filter(|values| values.len() == if name == "pads" { 4 } else { 2 })
        .ok_or_else(|| format!("attribute `{name}` is out of range"))
}

/// A convolution whose taps lie at computed places: the pixels under every tap, then a product.
fn deform_conv(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, weights, offset) = (context.value(node, 0)?, context.value(node, 1)?, context.value(node, 2)?);
    let (&[n, channels, height, width], &[channels_out, per_group, kernel_h, kernel_w]) =
        (&*x.shape, &*weights.shape)
    else {
        return Err(format!(
            "an input of shape {:?} with weights {:?}: two dimensions have a lowering",
            x.shape, weights.shape
        ));
    };
    let positive = |name: &str| -> Result<usize, String> {
        usize::try_from(node.int(name, 1)?)
            .ok()
            .filter(|&value| value > 0)
            .ok_or_else(|| format!("attribute `{name}` is not positive"))
    };
    let (groups, offset_groups) = (positive("group")?, positive("offset_group")?);
    let taps = kernel_h * kernel_w;
    let &[_, rows, out_h, out_w] = &*offset.shape else {
        return Err(format!("offsets have shape {:?}", offset.shape));
    };
    let fits = per_group * groups == channels
        && channels_out.is_multiple_of(groups)
        && channels.is_multiple_of(offset_groups)
        && rows == 2 * taps * offset_groups
        && offset.shape[0] == n;
    if !fits {
        return Err(format!(
            "offsets {:?} and weights {:?} do not fit {:?}",
            offset.shape, weights.shape, x.shape
        ));
    }
    let (stride, dilation, pads) =
        (pair(node, "strides", 1)?, pair(node, "dilations", 1)?, pair(node, "pads", 0)?);
    let kernel = [kernel_h, kernel_w];
    let places = out_h * out_w;
    let size = [height, width];
    let mask = match context.optional(node, 4)? {
        Some(mask) => Some(context.computed(mask)?),
        None => None,
    };
    let offset = Computed { shape: vec![n, offset_groups, taps, 2, places], ..offset };
    let each = channels / offset_groups;
    let mut columns = Vec::new();
    for group in 0..offset_groups {
        let own = context.part(&x, 1, group * each, each)?;
        let own = Computed { shape: vec![n, each, height * width], ..own };
        let mut along = Vec::new();
        for axis in 0..2 {
            let place = |index: usize| {
                let (tap, out) = (index / places, index % places);
                let tap = if axis == 0 { tap / kernel[1] } else { tap % kernel[1] };
                let out = if axis == 0 { out / out_w } else { out % out_w };
                (out * stride[axis] + tap * dilation[axis]) as f32 - pads[axis] as f32
            };
            let grid =
                context.fixed((0..taps * places).map(place).collect(), vec![taps * places], Kind::F32)?;
            let moved = context.part(&offset, 1, group, 1)?;
            let moved = context.part(&moved, 3, axis, 1)?;
            let moved = Computed { shape: vec![n, taps * places], ..moved };
            let moved = context.combine(&moved, &grid, binary::ADD)?;
            along.push(context.taps(&moved, size[axis], "linear", Border::Zeros)?);
        }
        let values = context.sampled(&own, &size, &along)?;
        let mut value = context.folded(values, binary::ADD)?;
        if let Some(mask) = &mask {
            let mask = Computed { shape: vec![n, offset_groups, taps * places], ..mask.clone() };
            let mask = context.part(&mask, 1, group, 1)?;
            value = context.combine(&value, &mask, binary::MUL)?;
        }
        columns.push(value);
    }
    let all = if columns.len() == 1 { columns.remove(0) } else { context.concatenated(&columns, 1)? };
    let all = Computed { shape: vec![n, groups, per_group * taps, places], ..all };
    let all = context.permuted(&all, &[1, 0, 3, 2])?;
    let weights =
        context.data(weights.id).ok_or("its weights are computed: export them as initializers")?.to_vec();
    let bias = context.known(node, 3)?.map_or_else(|| vec![0.0; channels_out], |(bias, _)| bias.to_vec());
    if bias.len() != channels_out {
        return Err(format!("has {} biases for {channels_out} channels", bias.len()));
    }
    let out = channels_out / groups;
    let mut parts = Vec::new();
    for group in 0..groups {
        let own = context.part(&all, 0, group, 1)?;
        let own = Computed { shape: vec![n, places, per_group * taps], ..own };
        let own_weights = weights.chunks(out * per_group * taps).nth(group).unwrap_or(&[]).to_vec();
        let own_bias = bias.chunks(out).nth(group).unwrap_or(&[]).to_vec();
        parts.push(context.dense(&own, own_weights, own_bias)?);
    }
    let y = if parts.len() == 1 { parts.remove(0) } else { context.concatenated(&parts, 2)? };
    let y = context.permuted(&y, &[0, 2, 1])?;
    context.finish(node, Computed { shape: vec![n, channels_out, out_h, out_w], ..y })
}

/// Regions of an image in bins, each the mean or largest of samples between pixels.
fn roi_align(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, regions, items) = (context.value(node, 0)?, context.value(node, 1)?, context.value(node, 2)?);
    let (&[_, channels, height, width], &[count, 4]) = (&*x.shape, &*regions.shape) else {
        return Err(format!("shapes {:?} and {:?} are no images and regions", x.shape, regions.shape));
    };
    if items.len() != count {
        return Err(format!("{} batch indices for {count} regions", items.len()));
    }
    let number = |name: &str, default: i64| -> Result<usize, String> {
        let value = node.int(name, default)?;
        usize::try_from(value).ok().filter(|value| (1..=1 << 10).contains(value)).ok_or_else(|| {
            format!("attribute `{name}` is {value}: a number that is positive and fixed has a lowering")
        })
    };
    let bins = [number("output_height", 1)?, number("output_width", 1)?];
    let samples = number("sampling_ratio", 0)?;
    let old = context.opset < 16;
    let half = node
        .text("coordinate_transformation_mode", if old { "output_half_pixel" } else { "half_pixel" })?
        == "half_pixel";
    let scale = node.float("spatial_scale", 1.0)?;
    let image = context.taken(&x, &items, 0)?;
    let image = Computed { shape: vec![count, channels, height * width], ..image };
    let mut along = Vec::new();
    for (axis, size) in [height, width].into_iter().enumerate() {
        // Start and end of the region, x before y.
        let mut bound = |place: usize| -> Result<Computed, String> {
            let own = context.part(&regions, 1, place, 1)?;
            let own = context.times(&own, scale)?;
            context.plus(&own, if half { -0.5 } else { 0.0 })
        };
        let (start, end) = (bound(1 - axis)?, bound(3 - axis)?);
        let mut span = context.combine(&end, &start, binary::SUB)?;
        if !half {
            span = context.with_number(&span, binary::MAX, 1.0)?;
        }
        let steps = bins[axis] * samples;
        let grid = (0..steps).map(|step| (step as f32 + 0.5) / steps as f32).collect();
        let grid = context.fixed(grid, vec![steps], Kind::F32)?;
        let place = context.combine(&span, &grid, binary::MUL)?;
        let place = context.combine(&place, &start, binary::ADD)?;
        let above = context.with_number(&place, binary::GREATER_EQUAL, -1.0)?;
        let below = context.with_number(&place, binary::LESS_EQUAL, size as f32)?;
        let inside = context.combine(&above, &below, binary::AND)?;
        let place = context.clipped(&place, 0.0, size as f32 - 1.0)?;
        let mut taps = context.taps(&place, size, "linear", Border::Edge)?;
        // Rows times columns.
        let [rows, columns] = bins.map(|bins| bins * samples);
        let own = if axis == 0 { vec![count, rows, 1] } else { vec![count, 1, columns] };
        for (place, weight) in &mut taps {
            *weight = context.combine(weight, &inside, binary::MUL)?;
            for part in [place, weight] {
                let wide = context
                    .expand(&Computed { shape: own.clone(), ..part.clone() }, &[count, rows, columns])?;
                *part = Computed { shape: vec![count, rows * columns], ..wide };
            }
        }
        along.push(taps);
    }
    let values = context.sampled(&image, &[height, width], &along)?;
    let (inner, outer) = match node.text("mode", "avg")? {
        "avg" => (binary::ADD, by::MEAN),
        "max" => (binary::MAX, by::MAX),
        other => return Err(format!("attribute `mode` is `{other}`, expected avg or max")),
    };
    let y = context.folded(values, inner)?;
    let y = Computed { shape: vec![count * channels, bins[0], samples, bins[1], samples], ..y };
    let y = context.reduced(&y, &[2, 4], outer)?;
    context.finish(node, Computed { shape: vec![count, channels, bins[0], bins[1]], ..y })
}
