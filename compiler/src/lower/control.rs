//! Control flow, resolved here: loops are unrolled, a branch is taken or both are computed and one chosen.

use super::{Computed, Context, Lowering, Tensor, axis};
use crate::import::{Attribute, Graph, Kind, Node};
use tendon_wire::image::binary;

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("If",   branch),
    ("Loop", repeat),
    ("Scan", scan),
];

/// Most iterations of a loop: denoising takes tens, a scan one per element of a sequence.
const MAX_ITERATIONS: usize = 1024;

fn body<'n>(node: &'n Node, name: &str) -> Result<&'n Graph, String> {
    match node.attributes.get(name) {
        Some(Attribute::Graph(graph)) => Ok(graph),
        _ => Err(format!("attribute `{name}` is no graph: the node is malformed")),
    }
}

impl Context {
    /// Lowers a graph inside a node. Its names hide those around it and are gone afterwards.
    fn inner(&mut self, graph: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
        if inputs.len() != graph.inputs.len() {
            return Err(format!("its body takes {} inputs, {} are given", graph.inputs.len(), inputs.len()));
        }
        let own = graph
            .nodes
            .iter()
            .flat_map(|node| &node.outputs)
            .chain(&graph.inputs)
            .chain(graph.constants.keys());
        let hidden: Vec<(String, Option<Tensor>)> =
            own.map(|name| (name.clone(), self.tensors.get(name).cloned())).collect();
        self.tensors.extend(graph.inputs.iter().cloned().zip(inputs));
        let outer = self.node.clone();
        self.graph(graph).map_err(|error| error.to_string())?;
        self.node = outer;
        let output = |name: &String| {
            self.tensors.get(name).cloned().ok_or_else(|| format!("output `{name}` of its body has no value"))
        };
        let outputs = graph.outputs.iter().map(output).collect::<Result<Vec<_>, _>>()?;
        // The first entry of a name has what was there before.
        for (name, tensor) in hidden.into_iter().rev() {
            match tensor {
                Some(tensor) => self.tensors.insert(name, tensor),
                None => self.tensors.remove(&name),
            };
        }
        Ok(outputs)
    }

    /// Whether a condition holds; `None`: it is computed.
    fn truth(&self, tensor: &Tensor) -> Option<bool> {
        self.whole(tensor)?.first().map(|&value| value != 0)
    }

    /// A condition as one number that broadcasts to anything.
    fn condition(&mut self, tensor: Tensor) -> Result<Computed, String> {
        let condition = self.computed(tensor)?;
        if condition.len() != 1 {
            return Err(format!("its condition has shape {:?}, expected one element", condition.shape));
        }
        Ok(Computed { shape: vec![], ..condition })
    }

    /// One of two tensors of equal shape by a computed condition.
    fn either(&mut self, condition: &Computed, yes: Tensor, no: Tensor) -> Result<Tensor, String> {
        if yes.shape() != no.shape() {
            return Err(format!(
                "its condition is computed and its results have shapes {:?} and {:?}: only equal ones have a lowering",
                yes.shape(),
                no.shape()
            ));
        }
        let (yes, no) = (self.computed(yes)?, self.computed(no)?);
        let y = self.choose(condition, &yes, &no)?;
        Ok(Tensor::Value { value: y.id, shape: y.shape, kind: y.kind })
    }

    /// Tensors of equal shape as one, along a new axis.
    fn stacked(&mut self, parts: &[Computed], along: usize) -> Result<Computed, String> {
        let first = parts.first().ok_or("it runs no iteration: a sequence of its results is empty")?;
        if along > first.shape.len() {
            return Err(format!("axis {along} lies outside the results of shape {:?}", first.shape));
        }
        let grown = |part: &Computed| {
            let mut shape = part.shape.clone();
            shape.insert(along, 1);
            Computed { shape, ..part.clone() }
        };
        let parts: Vec<Computed> = parts.iter().map(grown).collect();
        self.concatenated(&parts, along)
    }
}

/// A constant condition takes one branch; with a computed one both are computed.
fn branch(context: &mut Context, node: &Node) -> Result<(), String> {
    let condition = context.input(node, 0)?;
    let (yes, no) = (body(node, "then_branch")?, body(node, "else_branch")?);
    let results = match context.truth(&condition) {
        Some(true) => context.inner(yes, vec![])?,
        Some(false) => context.inner(no, vec![])?,
        None => {
            let condition = context.condition(condition)?;
            let (yes, no) = (context.inner(yes, vec![])?, context.inner(no, vec![])?);
            let pairs = yes.into_iter().zip(no);
            pairs.map(|(yes, no)| context.either(&condition, yes, no)).collect::<Result<Vec<_>, _>>()?
        }
    };
    for (index, tensor) in results.into_iter().enumerate() {
        context.set(node, index, tensor)?;
    }
    Ok(())
}

/// Unrolled as often as the trip count says. A condition that is computed keeps the values from the iteration on in
/// which it fails.
fn repeat(context: &mut Context, node: &Node) -> Result<(), String> {
    let graph = body(node, "body")?;
    let count = match context.optional(node, 0)? {
        None => None,
        Some(tensor) => Some(context.whole(&tensor).ok_or_else(|| {
            format!(
                "its trip count `{}` is computed: export with a fixed number of iterations",
                node.inputs[0]
            )
        })?),
    };
    let count = count.and_then(|values| values.first().copied()).map(|count| count.max(0) as usize);
    let mut going = context.optional(node, 1)?;
    let mut carried =
        (2..node.inputs.len()).map(|index| context.input(node, index)).collect::<Result<Vec<_>, _>>()?;
    let n_scans = graph.outputs.len().checked_sub(1 + carried.len()).ok_or("its body has too few outputs")?;
    let mut scans: Vec<Vec<Computed>> = vec![Vec::new(); n_scans];
    let mut active: Option<Computed> = None;
    for iteration in 0..count.unwrap_or(usize::MAX) {
        match going.as_ref().map(|going| context.truth(going)) {
            Some(Some(false)) => break,
            Some(None) => {
                let condition = going.clone().ok_or("has no condition")?;
                let condition = context.condition(condition)?;
                active = Some(match active {
                    Some(before) => context.combine(&before, &condition, binary::AND)?,
                    None => condition,
                });
            }
            _ => {}
        }
        if iteration >= MAX_ITERATIONS {
            return Err(format!(
                "it runs more than {MAX_ITERATIONS} iterations, or has no bound that is constant"
            ));
        }
        if active.is_some() && (n_scans > 0 || count.is_none()) {
            return Err("its condition is computed: export with a fixed number of iterations".into());
        }
        let number = Tensor::integers(vec![iteration as i64], vec![], Kind::I64);
        let condition = going.clone().unwrap_or(Tensor::integers(vec![1], vec![], Kind::Bool));
        let mut inputs = vec![number, condition];
        inputs.extend(carried.iter().cloned());
        let mut results = context.inner(graph, inputs)?.into_iter();
        going = results.next();
        for old in &mut carried {
            let new = results.next().ok_or("its body has too few outputs")?;
            *old = match &active {
                Some(active) => context.either(active, new, old.clone())?,
                None => new,
            };
        }
        for (scan, result) in scans.iter_mut().zip(results) {
            scan.push(context.computed(result)?);
        }
    }
    let mut index = 0;
    for tensor in carried {
        context.set(node, index, tensor)?;
        index += 1;
    }
    for parts in scans {
        if node.outputs.get(index).is_some_and(|name| !name.is_empty()) {
            let y = context.stacked(&parts, 0)?;
            context.result(node, index, y.id, y.shape, y.kind)?;
        }
        index += 1;
    }
    Ok(())
}

/// Axes and directions of the sequences that a Scan reads and writes.
struct Sequences {
    in_axes: Vec<i64>,
    in_reversed: Vec<bool>,
    out_axes: Vec<i64>,
    out_reversed: Vec<bool>,
}

impl Sequences {
    fn read(node: &Node, n_in: usize, n_out: usize, names: [&str; 2]) -> Result<Self, String> {
        let list = |name: &str, count: usize| -> Result<Vec<i64>, String> {
            let values = node.ints(name)?.unwrap_or_else(|| vec![0; count]);
            if values.len() != count {
                return Err(format!("attribute `{name}` has {} numbers for {count} sequences", values.len()));
            }
            Ok(values)
        };
        let reversed = |name: &str, count: usize| -> Result<Vec<bool>, String> {
            Ok(list(name, count)?.into_iter().map(|value| value != 0).collect())
        };
        Ok(Self {
            in_axes: list("scan_input_axes", n_in)?,
            in_reversed: reversed(names[0], n_in)?,
            out_axes: list("scan_output_axes", n_out)?,
            out_reversed: reversed(names[1], n_out)?,
        })
    }
}

/// One iteration per element of the sequences.
fn scan(context: &mut Context, node: &Node) -> Result<(), String> {
    let graph = body(node, "body")?;
    // Up to opset 8 the lengths of the sequences come first and every tensor has a batch dimension.
    let batched = context.opset < 9;
    let first = usize::from(batched);
    if batched && context.optional(node, 0)?.is_some() {
        return Err("its sequences have lengths of their own: export with an opset from 9".into());
    }
    let n_in = usize::try_from(node.int("num_scan_inputs", 0)?).unwrap_or(0);
    let n_state = node.inputs.len().checked_sub(first + n_in).ok_or("has too few inputs")?;
    let n_out = graph.outputs.len().checked_sub(n_state).ok_or("its body has too few outputs")?;
    let names =
        if batched { ["directions", ""] } else { ["scan_input_directions", "scan_output_directions"] };
    let sequences = Sequences::read(node, n_in, n_out, names)?;
    let inputs =
        (first..node.inputs.len()).map(|index| context.value(node, index)).collect::<Result<Vec<_>, _>>()?;
    let results = if batched {
        let batch = inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or(0);
        let mut all: Vec<Vec<Computed>> = vec![Vec::new(); n_state + n_out];
        for item in 0..batch {
            let mut own = Vec::new();
            for input in &inputs {
                if input.shape.first() != Some(&batch) {
                    return Err(format!("an input has shape {:?}, expected a batch of {batch}", input.shape));
                }
                let part = context.part(input, 0, item, 1)?;
                own.push(Computed { shape: input.shape[1..].to_vec(), ..part });
            }
            let results = context.scanned(graph, own, n_state, &sequences)?;
            all.iter_mut().zip(results).for_each(|(all, result)| all.push(result));
        }
        all.iter().map(|parts| context.stacked(parts, 0)).collect::<Result<Vec<_>, _>>()?
    } else {
        context.scanned(graph, inputs, n_state, &sequences)?
    };
    for (index, y) in results.into_iter().enumerate() {
        context.result(node, index, y.id, y.shape, y.kind)?;
    }
    Ok(())
}

impl Context {
    /// States, then sequences, before and after.
    fn scanned(
        &mut self,
        graph: &Graph,
        inputs: Vec<Computed>,
        n_state: usize,
        sequences: &Sequences,
    ) -> Result<Vec<Computed>, String> {
        let tensor = |x: &Computed| Tensor::Value { value: x.id, shape: x.shape.clone(), kind: x.kind };
        let (states, read) = inputs.split_at(n_state);
        let mut states: Vec<Tensor> = states.iter().map(tensor).collect();
        let mut axes = Vec::new();
        for (x, &along) in read.iter().zip(&sequences.in_axes) {
            axes.push(axis(along, x.shape.len())?);
        }
        let mut lengths = read.iter().zip(&axes).map(|(x, &along)| x.shape[along]);
        let length = lengths.next().ok_or("reads no sequence")?;
        if lengths.any(|other| other != length) || length > MAX_ITERATIONS {
            return Err(format!("its sequences differ in length, or are longer than {MAX_ITERATIONS}"));
        }
        let mut written: Vec<Vec<Computed>> = vec![Vec::new(); sequences.out_axes.len()];
        for step in 0..length {
            let mut own = states;
            for ((x, &along), &reversed) in read.iter().zip(&axes).zip(&sequences.in_reversed) {
                let part = self.part(x, along, if reversed { length - 1 - step } else { step }, 1)?;
                let mut shape = part.shape.clone();
                shape.remove(along);
                own.push(tensor(&Computed { shape, ..part }));
            }
            let mut results = self.inner(graph, own)?;
            let outputs = results.split_off(n_state.min(results.len()));
            states = results;
            for (parts, output) in written.iter_mut().zip(outputs) {
                parts.push(self.computed(output)?);
            }
        }
        let mut results =
            states.into_iter().map(|state| self.computed(state)).collect::<Result<Vec<_>, _>>()?;
        for ((mut parts, &along), &reversed) in
            written.into_iter().zip(&sequences.out_axes).zip(&sequences.out_reversed)
        {
            if reversed {
                parts.reverse();
            }
            let rank = parts.first().map_or(0, |part| part.shape.len());
            let along = axis(along, rank + 1)?;
            results.push(self.stacked(&parts, along)?);
        }
        Ok(results)
    }
}
