//! Operators that move no numbers: shapes are resolved here, what remains are views and copies.

use super::{Context, Tensor, axis};
use crate::import::{Attribute, Constant, Data, Node, elements};
use crate::program::Op;

/// The input under another name.
pub(super) fn identity(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    context.set(node, 0, tensor)
}

/// Float to float; constants of integers to float and back are folded.
pub(super) fn cast(context: &mut Context, node: &Node) -> Result<(), String> {
    const FLOAT: i64 = 1;
    const INT32: i64 = 6;
    const INT64: i64 = 7;
    let to = node.int("to", 0)?;
    let tensor = match (context.input(node, 0)?, to) {
        (Tensor::Constant(Constant { shape, data: Data::I64(values) }), FLOAT) => {
            let data = Data::F32(values.into_iter().map(|value| value as f32).collect());
            Tensor::Constant(Constant { shape, data })
        }
        (tensor @ Tensor::Constant(Constant { data: Data::I64(_), .. }), INT32 | INT64) => tensor,
        (tensor @ Tensor::Constant(Constant { data: Data::F32(_), .. }), FLOAT) => tensor,
        (tensor @ Tensor::Computed { .. }, FLOAT) => tensor,
        _ => return Err(format!("attribute `to` is {to}: only casts to float32 (1) have a lowering")),
    };
    context.set(node, 0, tensor)
}

/// A constant in an attribute.
pub(super) fn constant(context: &mut Context, node: &Node) -> Result<(), String> {
    let attribute = node.attributes.iter().find(|(name, _)| name.starts_with("value"));
    let constant = match attribute.map(|(_, attribute)| attribute) {
        Some(Attribute::Tensor(constant)) => constant.clone(),
        Some(Attribute::Float(value)) => Constant { shape: vec![], data: Data::F32(vec![*value]) },
        Some(Attribute::Int(value)) => Constant { shape: vec![], data: Data::I64(vec![*value]) },
        Some(Attribute::Floats(values)) => {
            Constant { shape: vec![values.len()], data: Data::F32(values.clone()) }
        }
        Some(Attribute::Ints(values)) => {
            Constant { shape: vec![values.len()], data: Data::I64(values.clone()) }
        }
        _ => return Err("has no value of floats or integers".into()),
    };
    context.set(node, 0, Tensor::Constant(constant))
}

/// The shape of a tensor, which is constant here.
pub(super) fn shape(context: &mut Context, node: &Node) -> Result<(), String> {
    let shape = context.input(node, 0)?.shape().to_vec();
    let bound = |name: &str, default: usize| -> Result<usize, String> {
        let value = node.int(name, default as i64)?;
        let value = if value < 0 { value.saturating_add(shape.len() as i64) } else { value };
        Ok(value.clamp(0, shape.len() as i64) as usize)
    };
    let (start, end) = (bound("start", 0)?, bound("end", shape.len())?);
    let dims: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&dim| dim as i64).collect();
    context.set(node, 0, Tensor::Constant(Constant { shape: vec![dims.len()], data: Data::I64(dims) }))
}

/// Elements of a constant vector (as in shape computations).
pub(super) fn gather(context: &mut Context, node: &Node) -> Result<(), String> {
    let indices = context.input(node, 1)?;
    let (Tensor::Constant(data), Tensor::Constant(indices)) = (context.input(node, 0)?, indices) else {
        return Err("only constants are gathered: use Slice for computed tensors".into());
    };
    let (Data::I64(values), Data::I64(places), 1) = (&data.data, &indices.data, data.shape.len()) else {
        return Err("only elements of an integer vector are gathered".into());
    };
    let gathered = places
        .iter()
        .map(|&place| {
            let place = axis(place, values.len()).map_err(|_| format!("index {place} lies outside"))?;
            Ok(values[place])
        })
        .collect::<Result<Vec<i64>, String>>()?;
    context.set(node, 0, Tensor::Constant(Constant { shape: indices.shape, data: Data::I64(gathered) }))
}

/// Shape with 0 (keep) and -1 (the rest).
pub(super) fn reshape(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let wanted = match context.integers(node, 1)? {
        Some(wanted) => wanted,
        None => node.ints("shape")?.ok_or("has no shape: export with fixed shapes")?,
    };
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
pub(super) fn flatten(context: &mut Context, node: &Node) -> Result<(), String> {
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
pub(super) fn squeeze(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let own = tensor.shape().to_vec();
    let shape = match axes(context, node)? {
        None => own.into_iter().filter(|&dim| dim != 1).collect(),
        Some(axes) => {
            let dropped = axes.iter().map(|&a| axis(a, own.len())).collect::<Result<Vec<_>, _>>()?;
            if let Some(bad) = dropped.iter().find(|&&place| own[place] != 1) {
                return Err(format!("axis {bad} has size {}, expected 1", own[*bad]));
            }
            own.iter()
                .enumerate()
                .filter(|(place, _)| !dropped.contains(place))
                .map(|(_, &dim)| dim)
                .collect()
        }
    };
    reshaped(context, node, tensor, shape)
}

/// With more dimensions of size 1.
pub(super) fn unsqueeze(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let axes = axes(context, node)?.ok_or("has no axes: the node is malformed")?;
    let rank = tensor.shape().len() + axes.len();
    if rank > 8 {
        return Err(format!("the result has rank {rank}: at most 8 is supported"));
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

/// Permutations that keep the order of the numbers: only dimensions of size 1 move.
pub(super) fn transpose(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let own = tensor.shape();
    let order: Vec<usize> = match node.ints("perm")? {
        None => (0..own.len()).rev().collect(),
        Some(perm) => perm.iter().map(|&a| axis(a, own.len())).collect::<Result<_, _>>()?,
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..own.len()).collect::<Vec<_>>() {
        return Err(format!("attribute `perm` {order:?} is no permutation"));
    }
    let shape: Vec<usize> = order.iter().map(|&place| own[place]).collect();
    let moved = order.iter().filter(|&&place| own[place] != 1).is_sorted();
    match (&tensor, moved) {
        (_, true) => reshaped(context, node, tensor, shape),
        (Tensor::Constant(Constant { shape: own, data: Data::F32(values) }), false) if own.len() == 2 => {
            let (rows, columns) = (own[0], own[1]);
            let data = (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect();
            context.set(node, 0, Tensor::Constant(Constant { shape, data: Data::F32(data) }))
        }
        _ => Err(format!("shape {own:?} by {order:?} moves numbers: this has no lowering yet")),
    }
}

/// Consecutive parts along an axis, as views.
pub(super) fn split(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensor = context.input(node, 0)?;
    let along = axis(node.int("axis", 0)?, tensor.shape().len())?;
    let size = tensor.shape()[along];
    let given = match context.integers(node, 1)? {
        Some(sizes) => Some(sizes),
        None => node.ints("split")?,
    };
    let sizes: Vec<usize> = match given {
        Some(sizes) => sizes
            .iter()
            .map(|&part| usize::try_from(part).map_err(|_| format!("part {part} is negative")))
            .collect::<Result<_, _>>()?,
        None => {
            let count = node.outputs.len().max(1);
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
        let view = window(context, &tensor, along, start, part)?;
        context.set(node, index, view)?;
        start += part;
    }
    Ok(())
}

/// A window with step 1 along each axis.
pub(super) fn slice(context: &mut Context, node: &Node) -> Result<(), String> {
    let mut tensor = context.input(node, 0)?;
    let rank = tensor.shape().len();
    let (starts, ends) = match (context.integers(node, 1)?, context.integers(node, 2)?) {
        (Some(starts), Some(ends)) => (starts, ends),
        _ => match (node.ints("starts")?, node.ints("ends")?) {
            (Some(starts), Some(ends)) => (starts, ends),
            _ => return Err("has no starts and ends: export with fixed shapes".into()),
        },
    };
    let axes = match context.integers(node, 3)? {
        Some(axes) => axes,
        None => node.ints("axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect()),
    };
    let steps = context.integers(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err("starts, ends, axes and steps differ in length: the node is malformed".into());
    }
    for (((&start, &end), &along), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let along = axis(along, rank)?;
        if step != 1 {
            return Err(format!("step {step}: only step 1 has a lowering"));
        }
        let size = tensor.shape()[along] as i64;
        let clamp = |value: i64| {
            let value = if value < 0 { value.saturating_add(size) } else { value };
            value.clamp(0, size) as usize
        };
        let (start, end) = (clamp(start), clamp(end));
        if start >= end {
            return Err(format!("window {start}..{end} of axis {along} (size {size}) is empty"));
        }
        if end - start < size as usize {
            tensor = window(context, &tensor, along, start, end - start)?;
        }
    }
    context.set(node, 0, tensor)
}

/// Tensors one after the other.
pub(super) fn concat(context: &mut Context, node: &Node) -> Result<(), String> {
    let tensors =
        (0..node.inputs.len()).map(|index| context.input(node, index)).collect::<Result<Vec<_>, _>>()?;
    let first = tensors.first().ok_or("has no inputs: the node is malformed")?;
    let along = axis(node.int("axis", 0)?, first.shape().len())?;
    let mut shape = first.shape().to_vec();
    shape[along] = 0;
    for tensor in &tensors {
        let own = tensor.shape();
        let fits = own.len() == shape.len()
            && own.iter().zip(&shape).enumerate().all(|(place, (a, b))| place == along || a == b);
        if !fits {
            return Err(format!("shapes {:?} and {own:?} differ beside axis {along}", first.shape()));
        }
        shape[along] += own[along];
    }
    contiguous(&shape, along)?;
    if tensors.iter().all(|tensor| matches!(tensor, Tensor::Constant(_))) {
        let data = concat_constants(&tensors)?;
        return context.set(node, 0, Tensor::Constant(Constant { shape, data }));
    }
    let anchor = tensors.iter().find_map(|tensor| match tensor {
        Tensor::Computed { value, .. } => Some(*value),
        Tensor::Constant(_) => None,
    });
    let mut parts = Vec::new();
    for tensor in &tensors {
        parts.push(match (tensor, anchor) {
            (Tensor::Computed { value, .. }, _) => *value,
            (Tensor::Constant(constant), Some(anchor)) => {
                let values = context.vector(constant, &constant.shape)?;
                context.constant_vector(anchor, values)?
            }
            (Tensor::Constant(_), None) => return Err("mixes constants and nothing".into()),
        });
    }
    context.emit(node, Op::Concat { parts }, shape)
}

fn concat_constants(tensors: &[Tensor]) -> Result<Data, String> {
    let (mut floats, mut integers) = (Vec::new(), Vec::new());
    for tensor in tensors {
        match tensor {
            Tensor::Constant(Constant { data: Data::F32(values), .. }) => floats.extend_from_slice(values),
            Tensor::Constant(Constant { data: Data::I64(values), .. }) => integers.extend_from_slice(values),
            Tensor::Computed { .. } => {}
        }
    }
    match (floats.is_empty(), integers.is_empty()) {
        (false, false) => Err("mixes floats and integers: the node is malformed".into()),
        (_, true) => Ok(Data::F32(floats)),
        _ => Ok(Data::I64(integers)),
    }
}

fn axes(context: &mut Context, node: &Node) -> Result<Option<Vec<i64>>, String> {
    match context.integers(node, 1)? {
        Some(axes) => Ok(Some(axes)),
        None => node.ints("axes"),
    }
}

/// The same numbers under another shape.
fn reshaped(context: &mut Context, node: &Node, tensor: Tensor, shape: Vec<usize>) -> Result<(), String> {
    if elements(&shape)? != elements(tensor.shape())? {
        return Err(format!("shape {:?} does not become {shape:?}", tensor.shape()));
    }
    let tensor = match tensor {
        Tensor::Constant(constant) => Tensor::Constant(Constant { shape, ..constant }),
        Tensor::Computed { value, .. } => Tensor::Computed { value, shape },
    };
    context.set(node, 0, tensor)
}

/// `tensor[.., start..start + size, ..]` along an axis.
fn window(
    context: &mut Context,
    tensor: &Tensor,
    along: usize,
    start: usize,
    size: usize,
) -> Result<Tensor, String> {
    let mut shape = tensor.shape().to_vec();
    contiguous(&shape, along)?;
    let inner = elements(&shape[along + 1..])?;
    shape[along] = size;
    let (from, count) = (start * inner, elements(&shape)?);
    fn part<T: Copy>(values: &[T], from: usize, count: usize) -> Vec<T> {
        values.iter().skip(from).take(count).copied().collect()
    }
    Ok(match tensor {
        Tensor::Constant(Constant { data: Data::F32(values), .. }) => {
            Tensor::Constant(Constant { shape, data: Data::F32(part(values, from, count)) })
        }
        Tensor::Constant(Constant { data: Data::I64(values), .. }) => {
            Tensor::Constant(Constant { shape, data: Data::I64(part(values, from, count)) })
        }
        Tensor::Computed { value, .. } => {
            let value = context.step(Op::Slice { x: *value, start: from }, &shape)?;
            Tensor::Computed { value, shape }
        }
    })
}

/// Along this axis, parts of the tensor are contiguous: everything before it has size 1.
fn contiguous(shape: &[usize], along: usize) -> Result<(), String> {
    if elements(&shape[..along])? == 1 {
        return Ok(());
    }
    Err(format!(
        "axis {along} of shape {shape:?} is not the first beside dimensions of size 1: this has no lowering yet"
    ))
}
