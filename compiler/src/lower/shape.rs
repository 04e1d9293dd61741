//! Operators that move numbers or only name them anew: shapes are resolved here; what remains are views and
//! moves along strides.

use super::{Computed, Context, Lowering, Tensor, axis, strides};
use crate::import::{Attribute, Constant, Data, Kind, Node, elements};
use crate::program::{Op, view};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Concat",     concat),
    ("Constant",   constant),
    ("ConstantOfShape", constant_of_shape),
    ("DepthToSpace", depth_to_space),
    ("Dropout",    dropout),
    ("Expand",     expand),
    ("EyeLike",    eye_like),
    ("Flatten",    flatten),
    ("Identity",   identity),
    ("Pad",        pad),
    ("Range",      range),
    ("Reshape",    reshape),
    ("Shape",      shape),
    ("Size",       size),
    ("Slice",      slice),
    ("SpaceToDepth", space_to_depth),
    ("Split",      split),
    ("Squeeze",    squeeze),
    ("Tile",       tile),
    ("Transpose",  transpose),
    ("Unsqueeze",  unsqueeze),
];

/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// The input under another name.
fn identity(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    context.set(node, 0, tensor)
}

/// Nothing is dropped at inference; the mask is all true.
fn dropout(context: &mut Context, node: &Node) -> Result<(), String> {
    if context.integers(node, 2)?.is_some_and(|training| training.iter().any(|&mode| mode != 0)) {
        return Err("training_mode is true: export the model for inference".into());
    }
    let tensor = context.input(node, 0)?;
    let mask = Tensor::integers(vec![1; elements(tensor.shape())?], tensor.shape().to_vec(), Kind::Bool);
    context.set(node, 1, mask)?;
    context.set(node, 0, tensor)
}

/// A constant in an attribute.
fn constant(context: &mut Context, node: &Node) -> Result<(), String> {
    let attribute = node.attributes.iter().find(|(name, _)| name.starts_with("value"));
    let scalar = |data, kind| Constant { shape: vec![], kind, data };
    let constant = match attribute.map(|(_, attribute)| attribute) {
        Some(Attribute::Tensor(constant)) => constant.clone(),
        Some(Attribute::Float(value)) => scalar(Data::F32(vec![*value]), Kind::F32),
        Some(Attribute::Int(value)) => scalar(Data::I64(vec![*value]), Kind::I64),
        Some(Attribute::Floats(values)) => {
            Constant { shape: vec![values.len()], kind: Kind::F32, data: Data::F32(values.clone()) }
        }
        Some(Attribute::Ints(values)) => {
            Constant { shape: vec![values.len()], kind: Kind::I64, data: Data::I64(values.clone()) }
        }
        _ => return Err("has no value of floats or integers".into()),
    };
    let tensor = context.constant(&constant)?;
    context.set(node, 0, tensor)
}

fn sizes(values: &[i64]) -> Result<Vec<usize>, String> {
    if values.len() > MAX_RANK {
        return Err(format!("shape {values:?} has more than {MAX_RANK} dimensions"));
    }
    let shape: Result<Vec<usize>, _> = values.iter().map(|&dim| usize::try_from(dim)).collect();
    let shape = shape.map_err(|_| format!("shape {values:?} is malformed"))?;
    elements(&shape)?;
    Ok(shape)
}

fn constant_of_shape(context: &mut Context, node: &Node) -> Result<(), String> {
    let shape = sizes(&context.integers(node, 0)?.ok_or("has no shape")?)?;
    let count = elements(&shape)?;
    context.charge(count)?;
    let tensor = match node.attributes.get("value") {
        Some(Attribute::Tensor(Constant { data: Data::I64(values), kind, .. })) if values.len() == 1 => {
            Tensor::integers(vec![values[0]; count], shape, *kind)
        }
        Some(Attribute::Tensor(Constant { data: Data::F32(values), kind, .. })) if values.len() == 1 => {
            Tensor::Value { value: context.floats(vec![values[0]; count])?, shape, kind: *kind }
        }
        None => Tensor::Value { value: context.floats(vec![0.0; count])?, shape, kind: Kind::F32 },
        Some(other) => return Err(format!("attribute `value` is {}, expected one number", other.kind())),
    };
    context.set(node, 0, tensor)
}

fn eye_like(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let &[rows, columns] = tensor.shape() else {
        return Err(format!("shape {:?} is no matrix", tensor.shape()));
    };
    let kind = match node.int("dtype", 0)? {
        0 => tensor.kind(),
        number => Kind::from_onnx(number as i32).map_err(|problem| format!("attribute `dtype` {problem}"))?,
    };
    let diagonal = node.int("k", 0)?;
    let on = |place: usize| (place % columns) as i64 - (place / columns) as i64 == diagonal;
    let values = (0..rows * columns).map(|place| f32::from(u8::from(on(place)))).collect();
    let value = context.floats(values)?;
    context.set(node, 0, Tensor::Value { value, shape: vec![rows, columns], kind })
}

/// `start`, `start + delta`, ... before `limit`.
fn range(context: &mut Context, node: &Node) -> Result<(), String> {
    let kind = context.input(node, 0)?.kind();
    let mut bounds = [0.0f64; 3];
    for (index, bound) in bounds.iter_mut().enumerate() {
        *bound = context.scalar(node, index)?.ok_or("has no bounds")?.into();
    }
    let [start, limit, delta] = bounds;
    let count = ((limit - start) / delta).ceil();
    if !(1.0..=(1 << 20) as f64).contains(&count) {
        return Err(format!("from {start} to {limit} by {delta} gives {count} numbers"));
    }
    let values = (0..count as usize).map(|index| start + index as f64 * delta);
    let shape = vec![count as usize];
    let tensor = if kind.is_float() {
        Tensor::Value { value: context.floats(values.map(|value| value as f32).collect())?, shape, kind }
    } else {
        Tensor::integers(values.map(|value| value as i64).collect(), shape, kind)
    };
    context.set(node, 0, tensor)
}

/// The shape of a tensor, which is constant here.
fn shape(context: &mut Context, node: &Node) -> Result<(), String> {
    let shape = context.input(node, 0)?.shape().to_vec();
    let bound = |name: &str, default: usize| -> Result<usize, String> {
        let value = node.int(name, default as i64)?;
        let value = if value < 0 { value.saturating_add(shape.len() as i64) } else { value };
        Ok(value.clamp(0, shape.len() as i64) as usize)
    };
    let (start, end) = (bound("start", 0)?, bound("end", shape.len())?);
    let dims: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&dim| dim as i64).collect();
    let rank = dims.len();
    context.set(node, 0, Tensor::integers(dims, vec![rank], Kind::I64))
}

fn size(context: &mut Context, node: &Node) -> Result<(), String> {
    let count = elements(context.input(node, 0)?.shape())?;
    context.set(node, 0, Tensor::integers(vec![count as i64], vec![], Kind::I64))
}

/// Shape with 0 (keep) and -1 (the rest).
fn reshape(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let wanted = context.integers_or(node, 1, "shape")?.ok_or("has no shape: export with fixed shapes")?;
    let keep_zero = node.int("allowzero", 0)? == 0;
    let (total, mut open, mut shape) = (elements(tensor.shape())?, None, Vec::new());
    for (place, &dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            -1 if open.is_none() => {
                open = Some(place);
                1
            }
            0 if keep_zero => {
                *tensor.shape().get(place).ok_or_else(|| format!("shape {wanted:?} keeps axis {place}"))?
            }
            dim => usize::try_from(dim).map_err(|_| format!("shape {wanted:?} is malformed"))?,
        });
    }
    if let Some(place) = open {
        shape[place] = total.checked_div(elements(&shape)?).unwrap_or(0);
    }
    reshaped(context, node, tensor, shape)
}

/// Two dimensions, split at an axis.
fn flatten(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let rank = tensor.shape().len();
    let split = match node.int("axis", 1)? {
        value if value == rank as i64 => rank,
        value => axis(value, rank)?,
    };
    let (before, after) = tensor.shape().split_at(split);
    let shape = vec![elements(before)?, elements(after)?];
    reshaped(context, node, tensor, shape)
}

/// Without dimensions of size 1.
fn squeeze(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let own = tensor.shape().to_vec();
    let shape = match context.integers_or(node, 1, "axes")? {
        None => own.into_iter().filter(|&dim| dim != 1).collect(),
        Some(axes) => {
            let dropped = axes.iter().map(|&a| axis(a, own.len())).collect::<Result<Vec<_>, _>>()?;
            if let Some(bad) = dropped.iter().find(|&&place| own[place] != 1) {
                return Err(format!("axis {bad} has size {}, expected 1", own[*bad]));
            }
            let kept = own.iter().enumerate().filter(|(place, _)| !dropped.contains(place));
            kept.map(|(_, &dim)| dim).collect()
        }
    };
    reshaped(context, node, tensor, shape)
}

/// With more dimensions of size 1.
fn unsqueeze(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let axes = context.integers_or(node, 1, "axes")?.ok_or("has no axes: the node is malformed")?;
    let rank = tensor.shape().len() + axes.len();
    if rank > MAX_RANK {
        return Err(format!("the result has rank {rank}: at most {MAX_RANK} is supported"));
    }
    let mut places = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    let mut shape = tensor.shape().to_vec();
    for place in places {
        if place > shape.len() {
            return Err(format!("axes {axes:?} are malformed"));
        }
        shape.insert(place, 1);
    }
    reshaped(context, node, tensor, shape)
}

fn transpose(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let rank = tensor.shape().len();
    let order: Vec<usize> = match node.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => perm.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?,
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("attribute `perm` {order:?} is no permutation"));
    }
    let x = context.computed(tensor)?;
    let y = context.permuted(&x, &order)?;
    context.finish(node, y)
}

impl Context {
    /// Dimensions in another order.
    pub(super) fn permuted(&mut self, x: &Computed, order: &[usize]) -> Result<Computed, String> {
        let shape: Vec<usize> = order.iter().map(|&place| x.shape[place]).collect();
        // Only dimensions of size 1 move: the numbers stay where they are.
        if order.iter().filter(|&&place| x.shape[place] != 1).is_sorted() {
            return Ok(Computed { shape, ..x.clone() });
        }
        let own = strides(&x.shape);
        let from: Vec<i64> = order.iter().map(|&place| own[place]).collect();
        self.moved(x, &shape, &from, 0)
    }

    /// Elements `start`, `start + step`, ... along each axis.
    pub(super) fn windowed(
        &mut self,
        x: &Computed,
        windows: &[(usize, usize, i64)],
    ) -> Result<Computed, String> {
        let own = strides(&x.shape);
        let (mut shape, mut from, mut offset) = (Vec::new(), Vec::new(), 0usize);
        for (&(start, count, step), &stride) in windows.iter().zip(&own) {
            shape.push(count);
            from.push(stride * step);
            offset += start * stride as usize;
        }
        let len = elements(&shape)?;
        if len == 0 {
            return Err(format!("a window of shape {shape:?} is empty"));
        }
        if shape == x.shape && windows.iter().all(|&(_, count, step)| step == 1 || count == 1) {
            return Ok(x.clone());
        }
        // A run of neighbours is a view.
        let run = windows.iter().zip(&x.shape).skip_while(|((_, count, _), _)| *count == 1).skip(1);
        let plain = windows.iter().all(|&(_, count, step)| step == 1 || count == 1);
        if plain && run.into_iter().all(|((_, count, _), size)| count == size) {
            let id = self.step(Op::Slice { x: x.id, start: offset }, len)?;
            return Ok(Computed { id, shape, kind: x.kind });
        }
        self.moved(x, &shape, &from, offset)
    }

    /// `count` elements from `start` along one axis.
    pub(super) fn part(&mut self, x: &Computed, along: usize, start: usize, count: usize) -> Result<Computed, String> {
        let mut windows: Vec<_> = x.shape.iter().map(|&size| (0, size, 1)).collect();
        if start + count > windows[along].1 {
            return Err(format!("a part {start}..{} lies outside axis {along} of {:?}", start + count, x.shape));
        }
        windows[along] = (start, count, 1);
        self.windowed(x, &windows)
    }

    /// Tensors one after the other along an axis.
    pub(super) fn concatenated(&mut self, tensors: &[Computed], along: usize) -> Result<Computed, String> {
        let first = tensors.first().ok_or("has no inputs: the node is malformed")?;
        let mut shape = first.shape.clone();
        shape[along] = 0;
        for tensor in tensors {
            let own = &tensor.shape;
            let fits = own.len() == shape.len()
                && own.iter().zip(&shape).enumerate().all(|(place, (a, b))| place == along || a == b);
            if !fits {
                return Err(format!("shapes {:?} and {own:?} differ beside axis {along}", first.shape));
            }
            shape[along] += own[along];
        }
        let (len, to) = (elements(&shape)?, strides(&shape));
        let mut parts = Vec::new();
        let mut start = 0;
        for tensor in tensors {
            let view = view(&tensor.shape, &strides(&tensor.shape), &to, [0, start * to[along] as usize])
                .ok_or("has too many dimensions")?;
            parts.push((tensor.id, view));
            start += tensor.shape[along];
        }
        let id = self.step(Op::Assemble { fill: None, parts }, len)?;
        Ok(Computed { id, shape, kind: first.kind })
    }

    /// `x` inside a larger tensor of one number; `before`: elements in front along each axis.
    pub(super) fn padded(&mut self, x: &Computed, before: &[usize], shape: &[usize], fill: f32) -> Result<Computed, String> {
        let to = strides(shape);
        let offset: usize = before.iter().zip(&to).map(|(&count, &stride)| count * stride as usize).sum();
        let view = view(&x.shape, &strides(&x.shape), &to, [0, offset]).ok_or("has too many dimensions")?;
        let id = self.step(Op::Assemble { fill: Some(fill), parts: vec![(x.id, view)] }, elements(shape)?)?;
        Ok(Computed { id, shape: shape.to_vec(), kind: x.kind })
    }
}

/// Consecutive parts along an axis.
fn split(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let along = axis(node.int("axis", 0)?, x.shape.len())?;
    let size = x.shape[along];
    let sizes: Vec<usize> = match context.integers_or(node, 1, "split")? {
        Some(sizes) => sizes
            .iter()
            .map(|&part| usize::try_from(part).map_err(|_| format!("part {part} is negative")))
            .collect::<Result<_, _>>()?,
        None => {
            let count = (node.int("num_outputs", node.outputs.len() as i64)?.max(1) as usize).min(size.max(1));
            let part = size.div_ceil(count);
            (0..count).map(|index| part.min(size.saturating_sub(index * part))).collect()
        }
    };
    let total = sizes.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
    if total != Some(size) || sizes.len() != node.outputs.len() {
        return Err(format!(
            "parts {sizes:?} do not make up axis {along} of size {size} in {} outputs",
            node.outputs.len()
        ));
    }
    let mut start = 0;
    for (index, part) in sizes.into_iter().enumerate() {
        let y = context.part(&x, along, start, part)?;
        context.result(node, index, y.id, y.shape, y.kind)?;
        start += part;
    }
    Ok(())
}

fn slice(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let rank = tensor.shape().len();
    let starts = context.integers_or(node, 1, "starts")?.ok_or("has no starts: export with fixed shapes")?;
    let ends = context.integers_or(node, 2, "ends")?.ok_or("has no ends: export with fixed shapes")?;
    let axes = context.integers_or(node, 3, "axes")?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = context.integers(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err("starts, ends, axes and steps differ in length: the node is malformed".into());
    }
    let mut windows: Vec<(usize, usize, i64)> = tensor.shape().iter().map(|&size| (0, size, 1)).collect();
    for (((&start, &end), &along), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let along = axis(along, rank)?;
        let size = tensor.shape()[along] as i64;
        if step == 0 {
            return Err("a step is 0: the node is malformed".into());
        }
        let clamp = |value: i64, low: i64, high: i64| {
            let value = if value < 0 { value.saturating_add(size) } else { value };
            value.clamp(low, high)
        };
        let (start, count) = if step > 0 {
            let (start, end) = (clamp(start, 0, size), clamp(end, 0, size));
            (start, (end - start).max(0) as u64)
        } else {
            let (start, end) = (clamp(start, 0, size - 1), clamp(end, -1, size - 1));
            (start, (start - end).max(0) as u64)
        };
        let count = count.div_ceil(step.unsigned_abs()) as usize;
        if count == 0 && !matches!(tensor, Tensor::Known { .. }) {
            return Err(format!("window {start}..{end} of axis {along} (size {size}) is empty"));
        }
        windows[along] = (start as usize, count, step.clamp(-size.max(1), size.max(1)));
    }
    if let Tensor::Known { values, kind, .. } = &tensor
        && let [(start, count, step)] = *windows
    {
        let places = (0..count as i64).map(|index| (start as i64 + index * step) as usize);
        let values = places.map(|place| values[place]).collect();
        return context.set(node, 0, Tensor::integers(values, vec![count], *kind));
    }
    let x = context.computed(tensor)?;
    let y = context.windowed(&x, &windows)?;
    context.finish(node, y)
}

fn concat(context: &mut Context, node: &Node) -> Result<(), String> {
    let mut tensors = Vec::new();
    for index in 0..node.inputs.len() {
        let tensor = context.input(node, index)?;
        // Nothing is added by what is empty.
        if elements(tensor.shape())? > 0 {
            tensors.push(tensor);
        }
    }
    let rank = tensors.first().ok_or("has no inputs: the node is malformed")?.shape().len();
    let along = axis(node.int("axis", 0)?, rank)?;
    let known: Option<Vec<i64>> = tensors
        .iter()
        .map(|tensor| match tensor {
            Tensor::Known { values, shape, .. } if shape.len() == 1 => Some(values.to_vec()),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()
        .map(|parts| parts.concat());
    if let Some(values) = known {
        let (count, kind) = (values.len(), tensors[0].kind());
        return context.set(node, 0, Tensor::integers(values, vec![count], kind));
    }
    let tensors =
        tensors.into_iter().map(|tensor| context.computed(tensor)).collect::<Result<Vec<_>, _>>()?;
    let y = context.concatenated(&tensors, along)?;
    context.finish(node, y)
}

fn expand(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let wanted = sizes(&context.integers(node, 1)?.ok_or("has no shape")?)?;
    let shape = super::broadcast(tensor.shape(), &wanted)?;
    if let Tensor::Known { values, shape: own, kind } = &tensor {
        context.charge(elements(&shape)?)?;
        let values = super::elementwise::repeated(own, &shape).into_iter().map(|place| values[place]).collect();
        return context.set(node, 0, Tensor::integers(values, shape, *kind));
    }
    let x = context.computed(tensor)?;
    let y = context.expand(&x, &shape)?;
    context.finish(node, y)
}

/// Copies along each axis.
fn tile(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let repeats = sizes(&context.integers(node, 1)?.ok_or("has no repeats")?)?;
    if repeats.len() != x.shape.len() {
        return Err(format!("repeats {repeats:?} do not fit shape {:?}", x.shape));
    }
    let own = strides(&x.shape);
    let (mut dims, mut from) = (Vec::new(), Vec::new());
    for ((&size, &count), &stride) in x.shape.iter().zip(&repeats).zip(&own) {
        dims.extend([count, size]);
        from.extend([0, stride]);
    }
    let shape: Vec<usize> = x.shape.iter().zip(&repeats).map(|(&size, &count)| size * count).collect();
    if elements(&shape)? == 0 {
        return Err("the result is empty".into());
    }
    let y = context.moved(&x, &dims, &from, 0)?;
    context.finish(node, Computed { shape, ..y })
}

/// Numbers around a tensor (or off it), constant or mirrored.
fn pad(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let rank = x.shape.len();
    let pads = context.integers_or(node, 1, "pads")?.ok_or("has no pads: export with fixed shapes")?;
    let fill = match context.scalar(node, 2)? {
        Some(value) => value,
        None => node.float("value", 0.0)?,
    };
    let axes = match context.integers(node, 3)? {
        Some(axes) => axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("has {} pads for {} axes: the node is malformed", pads.len(), axes.len()));
    }
    let mut around = vec![(0i64, 0i64); rank];
    for (place, &along) in axes.iter().enumerate() {
        around[along] = (pads[place], pads[place + axes.len()]);
    }
    let limit = 1i64 << 20;
    if around.iter().any(|(before, after)| !(-limit..=limit).contains(before) || !(-limit..=limit).contains(after)) {
        return Err(format!("pads {pads:?} are out of range"));
    }
    let shape = x.shape.iter().zip(&around).map(|(&size, (before, after))| size as i64 + before + after);
    let shape: Vec<i64> = shape.collect();
    if shape.iter().any(|&size| size < 1) {
        return Err(format!("pads {pads:?} leave nothing of shape {:?}", x.shape));
    }
    let shape = sizes(&shape)?;
    let mode = node.text("mode", "constant")?;
    if mode == "constant" {
        let windows: Vec<_> = x
            .shape
            .iter()
            .zip(&around)
            .map(|(&size, &(before, after))| {
                let (first, last) = ((-before).max(0) as usize, (-after).max(0) as usize);
                (first, size.saturating_sub(first + last), 1)
            })
            .collect();
        let kept = context.windowed(&x, &windows)?;
        let before: Vec<usize> = around.iter().map(|(before, _)| (*before).max(0) as usize).collect();
        let y = if kept.shape == shape { kept } else { context.padded(&kept, &before, &shape, fill)? };
        return context.finish(node, y);
    }
    let source = |place: i64, size: i64| -> Result<i64, String> {
        Ok(match mode {
            "edge" => place.clamp(0, size - 1),
            "wrap" => place.rem_euclid(size),
            "reflect" if size == 1 => 0,
            "reflect" => {
                let place = place.rem_euclid(2 * (size - 1));
                place.min(2 * (size - 1) - place)
            }
            other => return Err(format!("attribute `mode` is `{other}`, expected constant, edge, reflect or wrap")),
        })
    };
    let places = (0..rank)
        .map(|along| {
            let (size, before) = (x.shape[along] as i64, around[along].0);
            (0..shape[along] as i64).map(|place| Ok(source(place - before, size)? as usize)).collect()
        })
        .collect::<Result<Vec<Vec<usize>>, String>>()?;
    let y = context.picked(&x, &places)?;
    context.finish(node, y)
}

/// Blocks of channels to blocks of pixels.
fn depth_to_space(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let size = usize::try_from(node.int("blocksize", 0)?).unwrap_or(0);
    let &[n, c, h, w] = &*x.shape else { return Err(format!("shape {:?} is no batch of images", x.shape)) };
    if size == 0 || !c.is_multiple_of(size * size) {
        return Err(format!("blocksize {size} does not divide {c} channels"));
    }
    let depth = c / (size * size);
    let (split, order) = match node.text("mode", "DCR")? {
        "CRD" => (vec![n, depth, size, size, h, w], [0, 1, 4, 2, 5, 3]),
        _ => (vec![n, size, size, depth, h, w], [0, 3, 4, 1, 5, 2]),
    };
    let y = context.permuted(&Computed { shape: split, ..x }, &order)?;
    context.finish(node, Computed { shape: vec![n, depth, h * size, w * size], ..y })
}

/// Blocks of pixels to blocks of channels.
fn space_to_depth(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let size = usize::try_from(node.int("blocksize", 0)?).unwrap_or(0);
    let &[n, c, h, w] = &*x.shape else { return Err(format!("shape {:?} is no batch of images", x.shape)) };
    if size == 0 || !h.is_multiple_of(size) || !w.is_multiple_of(size) {
        return Err(format!("blocksize {size} does not divide {h} x {w} pixels"));
    }
    let split = vec![n, c, h / size, size, w / size, size];
    let y = context.permuted(&Computed { shape: split, ..x }, &[0, 3, 5, 1, 2, 4])?;
    context.finish(node, Computed { shape: vec![n, c * size * size, h / size, w / size], ..y })
}

/// The same numbers under another shape.
fn reshaped(context: &mut Context, node: &Node, tensor: Tensor, shape: Vec<usize>) -> Result<(), String> {
    if elements(&shape)? != elements(tensor.shape())? {
        return Err(format!("shape {:?} does not become {shape:?}", tensor.shape()));
    }
    let tensor = match tensor {
        Tensor::Known { values, kind, .. } => Tensor::Known { values, shape, kind },
        Tensor::Value { value, kind, .. } => Tensor::Value { value, shape, kind },
    };
    context.set(node, 0, tensor)
}
