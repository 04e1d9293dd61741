//! Elements at places: by tables that are known now, or by computed indices.

use super::{Computed, Context, Lowering, Tensor, axis, strides};
use crate::import::{Kind, Node, elements};
use crate::program::{Axis, Op};
use tendon_wire::image::binary;

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Compress",        compress),
    ("Gather",          gather),
    ("GatherElements",  gather_elements),
    ("GatherND",        gather_nd),
    ("NonZero",         non_zero),
    ("OneHot",          one_hot),
    ("ReverseSequence", reverse_sequence),
    ("Scatter",         scatter_elements),
    ("ScatterElements", scatter_elements),
    ("ScatterND",       scatter_nd),
    ("TensorScatter",   tensor_scatter),
    ("Trilu",           trilu),
];

impl Context {
    /// `x` at the places given for every axis: `y[i, j, ..] = x[places[0][i], places[1][j], ..]`.
    pub(super) fn picked(&mut self, x: &Computed, places: &[Vec<usize>]) -> Result<Computed, String> {
        let shape: Vec<usize> = places.iter().map(Vec::len).collect();
        let len = elements(&shape)?;
        self.charge(len)?;
        let own = strides(&x.shape);
        let mut table = vec![0u32];
        for (places, stride) in places.iter().zip(&own) {
            table = table
                .iter()
                .flat_map(|&base| places.iter().map(move |&place| base + place as u32 * *stride as u32))
                .collect();
        }
        let id = self.step(Op::Gather { x: x.id, table }, len)?;
        Ok(Computed { id, shape, kind: x.kind })
    }

    /// Slices of `x` along an axis at computed indices, which count from either end.
    pub(super) fn taken(
        &mut self,
        x: &Computed,
        indices: &Computed,
        along: usize,
    ) -> Result<Computed, String> {
        if along >= x.shape.len() {
            return Err(format!("shape {:?} has no axis {along}", x.shape));
        }
        self.sound(x)?;
        self.sound(indices)?;
        let mut shape = x.shape[..along].to_vec();
        shape.extend(&indices.shape);
        shape.extend(&x.shape[along + 1..]);
        let op = Op::Take {
            x: x.id,
            indices: indices.id,
            axis: Axis::of(&x.shape, along),
            m: indices.len(),
            each: false,
        };
        let id = self.step(op, elements(&shape)?)?;
        Ok(Computed { id, shape, kind: x.kind })
    }

    /// One element of `x` per index: `indices` has the shape of the result.
    pub(super) fn taken_each(
        &mut self,
        x: &Computed,
        indices: &Computed,
        along: usize,
    ) -> Result<Computed, String> {
        self.sound(x)?;
        self.sound(indices)?;
        if along >= x.shape.len() || indices.shape.len() != x.shape.len() {
            return Err(format!(
                "indices of shape {:?} do not fit axis {along} of {:?}",
                indices.shape, x.shape
            ));
        }
        // Other axes may be shorter in the indices: only the first elements are read.
        let mut x = x.clone();
        for place in (0..x.shape.len()).filter(|&place| place != along) {
            if indices.shape.get(place).is_none_or(|&size| size > x.shape[place]) {
                return Err(format!("indices of shape {:?} do not fit {:?}", indices.shape, x.shape));
            }
            x = self.part(&x, place, 0, indices.shape[place])?;
        }
        let op = Op::Take {
            x: x.id,
            indices: indices.id,
            axis: Axis::of(&x.shape, along),
            m: indices.shape[along],
            each: true,
        };
        let id = self.step(op, indices.len())?;
        Ok(Computed { id, shape: indices.shape.clone(), kind: x.kind })
    }
}

/// Slices along an axis. Known indices cost a view or a table, computed ones a search at run time.
fn gather(context: &mut Context, node: &Node) -> Result<(), String> {
    let (tensor, indices) = (context.input(node, 0)?, context.input(node, 1)?);
    let along = axis(node.int("axis", 0)?, tensor.shape().len())?;
    let size = tensor.shape()[along];
    let place = |index: i64| {
        axis(index, size).map_err(|_| format!("index {index} lies outside axis {along} of size {size}"))
    };
    if let Tensor::Known { values: places, shape: index_shape, .. } = &indices {
        let places = places.iter().map(|&index| place(index)).collect::<Result<Vec<_>, _>>()?;
        if let (Tensor::Known { values, kind, .. }, 1) = (&tensor, tensor.shape().len()) {
            let gathered = places.iter().map(|&place| values[place]).collect();
            return context.set(node, 0, Tensor::integers(gathered, index_shape.clone(), *kind));
        }
        let x = context.computed(tensor)?;
        let mut shape = x.shape[..along].to_vec();
        shape.extend(index_shape);
        shape.extend(&x.shape[along + 1..]);
        let run = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let y = match places.first() {
            Some(&first) if run => context.part(&x, along, first, places.len())?,
            Some(_) => {
                let mut all: Vec<Vec<usize>> = x.shape.iter().map(|&size| (0..size).collect()).collect();
                all[along] = places;
                context.picked(&x, &all)?
            }
            None => return Err("has no indices: the result is empty".into()),
        };
        return context.finish(node, Computed { shape, ..y });
    }
    let x = context.computed(tensor)?;
    let indices = context.computed(indices)?;
    let y = context.taken(&x, &indices, along)?;
    context.finish(node, y)
}

/// Slices along an axis where a constant condition holds.
fn compress(context: &mut Context, node: &Node) -> Result<(), String> {
    let mut x = context.value(node, 0)?;
    let condition = context.integers(node, 1)?.ok_or("has no condition")?;
    let along = match node.attributes.contains_key("axis") {
        true => axis(node.int("axis", 0)?, x.shape.len())?,
        false => {
            x.shape = vec![x.len()];
            0
        }
    };
    if condition.len() > x.shape[along] {
        return Err(format!("{} conditions for axis {along} of {:?}", condition.len(), x.shape));
    }
    let mut all: Vec<Vec<usize>> = x.shape.iter().map(|&size| (0..size).collect()).collect();
    all[along] = (0..condition.len()).filter(|&place| condition[place] != 0).collect();
    if all[along].is_empty() {
        return Err("its condition holds nowhere: the result is empty".into());
    }
    let y = context.picked(&x, &all)?;
    context.finish(node, y)
}

/// Places where a constant is not 0, an axis per row.
fn non_zero(context: &mut Context, node: &Node) -> Result<(), String> {
    let (values, shape) = context.known(node, 0)?.ok_or("has no input")?;
    let places: Vec<usize> = (0..values.len()).filter(|&place| values[place] != 0.0).collect();
    let steps = strides(&shape);
    let along = |axis: usize| places.iter().map(move |&place| (place, axis));
    let all = (0..shape.len()).flat_map(along);
    let indices: Vec<i64> =
        all.map(|(place, axis)| (place / steps[axis] as usize % shape[axis]) as i64).collect();
    context.set(node, 0, Tensor::integers(indices, vec![shape.len(), places.len()], Kind::I64))
}

fn gather_elements(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, indices) = (context.value(node, 0)?, context.value(node, 1)?);
    let along = axis(node.int("axis", 0)?, x.shape.len())?;
    if indices.shape.len() != x.shape.len() {
        return Err(format!("indices of shape {:?} do not fit {:?}", indices.shape, x.shape));
    }
    let y = context.taken_each(&x, &indices, along)?;
    context.finish(node, y)
}

/// Index vectors in the last axis as one index into the flattened axes `batch..batch + depth` of `shape`.
fn flattened(
    context: &mut Context,
    indices: &Computed,
    shape: &[usize],
    batch: usize,
) -> Result<(Computed, usize), String> {
    let depth = indices.shape.last().copied().unwrap_or(0);
    if depth == 0 || batch + depth > shape.len() || indices.shape.len() <= batch {
        return Err(format!("indices of shape {:?} do not fit {shape:?}", indices.shape));
    }
    let last = indices.shape.len() - 1;
    let sizes = &shape[batch..batch + depth];
    let steps = strides(sizes);
    let mut sum: Option<Computed> = None;
    for (place, (&size, &step)) in sizes.iter().zip(&steps).enumerate() {
        let own = context.part(indices, last, place, 1)?;
        // Negative indices count from the end of their own axis.
        let own = context.with_number(&own, binary::MOD, size as f32)?;
        let own = context.with_number(&own, binary::MUL, step as f32)?;
        sum = Some(match sum {
            None => own,
            Some(sum) => context.combine(&sum, &own, binary::ADD)?,
        });
    }
    let mut flat = sum.ok_or("has no indices")?;
    flat.shape.pop();
    Ok((flat, depth))
}

fn gather_nd(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, indices) = (context.value(node, 0)?, context.value(node, 1)?);
    let batch = usize::try_from(node.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    if batch >= x.shape.len() || batch >= indices.shape.len() || x.shape[..batch] != indices.shape[..batch] {
        return Err(format!("batch_dims {batch} does not fit shapes {:?} and {:?}", x.shape, indices.shape));
    }
    let (flat, depth) = flattened(context, &indices, &x.shape, batch)?;
    let outer = elements(&x.shape[..batch])?;
    let n = elements(&x.shape[batch..batch + depth])?;
    let inner = elements(&x.shape[batch + depth..])?;
    let m = elements(&flat.shape[batch..])?;
    let mut shape = flat.shape.clone();
    shape.extend(&x.shape[batch + depth..]);
    let y = if batch == 0 {
        context.taken(&Computed { shape: vec![n, inner], ..x }, &Computed { shape: vec![m], ..flat }, 0)?
    } else {
        let indices = context.expand(&Computed { shape: vec![outer, m, 1], ..flat }, &[outer, m, inner])?;
        let axis = Axis { outer, n, inner };
        let op = Op::Take { x: x.id, indices: indices.id, axis, m, each: true };
        Computed { id: context.step(op, outer * m * inner)?, shape: vec![], kind: x.kind }
    };
    context.finish(node, Computed { shape, ..y })
}

fn reduction(node: &Node) -> Result<u8, String> {
    Ok(match node.text("reduction", "none")? {
        "none" => 0,
        "add" => 1,
        "mul" => 2,
        "max" => 3,
        "min" => 4,
        other => {
            return Err(format!("attribute `reduction` is `{other}`, expected none, add, mul, max or min"));
        }
    })
}

fn scatter_elements(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, indices, updates) = (context.value(node, 0)?, context.value(node, 1)?, context.value(node, 2)?);
    let along = axis(node.int("axis", 0)?, x.shape.len())?;
    let kind = reduction(node)?;
    let beside = |(place, (a, b)): (usize, (&usize, &usize))| place == along || a == b;
    let fits = indices.shape.len() == x.shape.len() && indices.shape == updates.shape;
    if !fits || !x.shape.iter().zip(&indices.shape).enumerate().all(beside) {
        return Err(format!(
            "indices {:?} and updates {:?} must have the shape of data {:?} beside axis {along}: others have no lowering",
            indices.shape, updates.shape, x.shape
        ));
    }
    let (axis, m) = (Axis::of(&x.shape, along), indices.shape[along]);
    let op = Op::Scatter { x: x.id, indices: indices.id, updates: updates.id, axis, m, each: true, kind };
    let id = context.step(op, x.len())?;
    context.finish(node, Computed { id, ..x })
}

fn scatter_nd(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, indices, updates) = (context.value(node, 0)?, context.value(node, 1)?, context.value(node, 2)?);
    let kind = reduction(node)?;
    let (flat, depth) = flattened(context, &indices, &x.shape, 0)?;
    let axis = Axis { outer: 1, n: elements(&x.shape[..depth])?, inner: elements(&x.shape[depth..])? };
    let m = flat.len();
    if updates.len() != m * axis.inner {
        return Err(format!("updates of shape {:?} do not fit {m} indices", updates.shape));
    }
    let op = Op::Scatter { x: x.id, indices: flat.id, updates: updates.id, axis, m, each: false, kind };
    let id = context.step(op, x.len())?;
    context.finish(node, Computed { id, ..x })
}

/// A cache with new entries along an axis, at computed places.
fn tensor_scatter(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, updates) = (context.value(node, 0)?, context.value(node, 1)?);
    let rank = x.shape.len();
    let along = axis(node.int("axis", -2)?, rank)?;
    let fits = updates.shape.len() == rank
        && along > 0
        && (0..rank).all(|place| place == along || x.shape[place] == updates.shape[place])
        && updates.shape[along] <= x.shape[along];
    if !fits {
        return Err(format!(
            "updates of shape {:?} do not fit {:?} along axis {along}",
            updates.shape, x.shape
        ));
    }
    let count = updates.shape[along];
    let mut shape = vec![1; rank];
    shape[along] = count;
    let steps = context.fixed((0..count).map(|step| step as f32).collect(), shape, Kind::I64)?;
    let mut places = match context.optional(node, 2)? {
        None => steps,
        Some(starts) => {
            let starts = context.computed(starts)?;
            let mut shape = vec![1; rank];
            shape[0] = starts.len();
            context.combine(&Computed { shape, ..starts }, &steps, binary::ADD)?
        }
    };
    match node.text("mode", "linear")? {
        "linear" => {}
        "circular" => places = context.with_number(&places, binary::MOD, x.shape[along] as f32)?,
        other => return Err(format!("attribute `mode` is `{other}`, expected linear or circular")),
    }
    let places = context.expand(&places, &updates.shape)?;
    let axis = Axis::of(&x.shape, along);
    let op =
        Op::Scatter { x: x.id, indices: places.id, updates: updates.id, axis, m: count, each: true, kind: 0 };
    let id = context.step(op, x.len())?;
    context.finish(node, Computed { id, ..x })
}

/// The first elements of every sequence in reverse order, as many as its length says.
fn reverse_sequence(context: &mut Context, node: &Node) -> Result<(), String> {
    let (x, lengths) = (context.value(node, 0)?, context.value(node, 1)?);
    let rank = x.shape.len();
    let (batch, time) = (axis(node.int("batch_axis", 1)?, rank)?, axis(node.int("time_axis", 0)?, rank)?);
    if batch == time || lengths.len() != x.shape[batch] {
        return Err(format!("lengths of shape {:?} do not fit axis {batch} of {:?}", lengths.shape, x.shape));
    }
    let shape = |along: usize| {
        let mut shape = vec![1; rank];
        shape[along] = x.shape[along];
        shape
    };
    let steps =
        context.fixed((0..x.shape[time]).map(|step| step as f32).collect(), shape(time), Kind::I64)?;
    let lengths = Computed { shape: shape(batch), ..lengths };
    let inside = context.combine(&steps, &lengths, binary::LESS)?;
    let last = context.with_number(&lengths, binary::SUB, 1.0)?;
    let turned = context.combine(&last, &steps, binary::SUB)?;
    let places = context.choose(&inside, &turned, &steps)?;
    let places = context.expand(&places, &x.shape)?;
    let y = context.taken_each(&x, &places, time)?;
    context.finish(node, y)
}

/// 1 (or the second value) where the index is, 0 (or the first) elsewhere.
fn one_hot(context: &mut Context, node: &Node) -> Result<(), String> {
    let indices = context.value(node, 0)?;
    let depth = context.scalar(node, 1)?.ok_or("has no depth")? as usize;
    let values = context.value(node, 2)?;
    let rank = indices.shape.len();
    let along = axis(node.int("axis", -1)?, rank + 1)?;
    if !(1..=1 << 16).contains(&depth) {
        return Err(format!("depth {depth} is out of range"));
    }
    let places = context.floats((0..depth).map(|place| place as f32).collect())?;
    let mut own = vec![1; rank + 1 - along];
    own[0] = depth;
    let places = Computed { id: places, shape: own, kind: Kind::F32 };
    let mut shape = indices.shape.clone();
    shape.insert(along, 1);
    // Negative indices count from the end; others outside are nowhere.
    let indices = Computed { shape, ..indices };
    let negative = context.with_number(&indices, binary::LESS, 0.0)?;
    let shift = context.with_number(&negative, binary::MUL, depth as f32)?;
    let indices = context.combine(&indices, &shift, binary::ADD)?;
    let hot = context.combine(&indices, &places, binary::EQUAL)?;
    let (off, on) = (context.part(&values, 0, 0, 1)?, context.part(&values, 0, 1, 1)?);
    let y = context.choose(&hot, &on, &off)?;
    context.finish(node, Computed { kind: values.kind, ..y })
}

/// The triangle above or below a diagonal.
fn trilu(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let k = context.integers(node, 1)?.and_then(|values| values.first().copied()).unwrap_or(0);
    let upper = node.int("upper", 1)? != 0;
    let &[.., rows, columns] = &*x.shape else {
        return Err(format!("shape {:?} is no matrix", x.shape));
    };
    let kept = |place: usize| {
        let diagonal = (place % columns) as i64 - (place / columns) as i64;
        if upper { diagonal >= k } else { diagonal <= k }
    };
    let mask = (0..rows * columns).map(|place| f32::from(u8::from(kept(place)))).collect();
    let mask = Computed { id: context.floats(mask)?, shape: vec![rows, columns], kind: Kind::Bool };
    let zero = Computed { id: context.floats(vec![0.0])?, shape: vec![1], kind: x.kind };
    let y = context.choose(&mask, &x, &zero)?;
    context.finish(node, y)
}
