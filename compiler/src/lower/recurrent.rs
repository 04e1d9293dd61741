//! RNN, GRU and LSTM over a sequence, unrolled: dense layers with their activations, and elementwise steps.

use super::{Computed, Context, Lowering};
use crate::import::Node;
use crate::program::{Function, Op, ValueId};
use tendon_wire::image::{binary, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("GRU",  gru),
    ("LSTM", lstm),
    ("RNN",  rnn),
];

/// One direction of a recurrent layer.
struct Direction {
    /// Steps of the sequence in the order they are taken.
    order: Vec<usize>,
    /// `[gates * hidden][n_in]` and `[gates * hidden][hidden]`.
    input: Vec<f32>,
    recurrent: Vec<f32>,
    /// `[gates * hidden]` each.
    input_bias: Vec<f32>,
    recurrent_bias: Vec<f32>,
    activations: Vec<Function>,
    /// `[batch, hidden]`.
    hidden: Computed,
    cell: Option<Computed>,
    /// Of LSTM: `[3 * hidden]` for the input, output and forget gates.
    peepholes: Option<Vec<f32>>,
}

/// A recurrent layer with its operands in one order.
struct Layer {
    /// `[steps, batch, n_in]`.
    x: Computed,
    steps: usize,
    batch: usize,
    n_in: usize,
    hidden: usize,
    directions: Vec<Direction>,
    /// Sequence and batch change places.
    batch_first: bool,
    clip: Option<f32>,
    /// Steps of each sequence, when not all.
    lengths: Option<Vec<usize>>,
}

fn function(name: &str, alpha: Option<f32>, beta: Option<f32>) -> Result<Function, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "relu" => Function::new(unary::RELU),
        "tanh" => Function::new(unary::TANH),
        "sigmoid" => Function::new(unary::SIGMOID),
        "elu" => Function::with(unary::ELU, alpha.unwrap_or(1.0), 0.0),
        "leakyrelu" => Function::with(unary::LEAKY_RELU, alpha.unwrap_or(0.01), 0.0),
        "thresholdedrelu" => Function::with(unary::THRESHOLDED_RELU, alpha.unwrap_or(1.0), 0.0),
        "softsign" => Function::new(unary::SOFTSIGN),
        "softplus" => Function::new(unary::SOFTPLUS),
        _ => {
            let _ = beta;
            return Err(format!(
                "activation `{name}` has no lowering: use Relu, Tanh, Sigmoid, Elu, LeakyRelu, ThresholdedRelu, Softsign or Softplus"
            ));
        }
    })
}

impl Layer {
    fn read(context: &mut Context, node: &Node, gates: usize, defaults: &[&str]) -> Result<Self, String> {
        let mut x = context.value(node, 0)?;
        let batch_first = node.int("layout", 0)? != 0;
        if x.shape.len() != 3 {
            return Err(format!("input of shape {:?}, expected [sequence, batch, n]", x.shape));
        }
        if batch_first {
            x = context.permuted(&x, &[1, 0, 2])?;
        }
        let &[steps, batch, n_in] = &*x.shape else { return Err("input is no sequence".into()) };
        let (w, w_shape) = context.known(node, 1)?.ok_or("has no weights")?;
        let (r, r_shape) = context.known(node, 2)?.ok_or("has no recurrent weights")?;
        let directions: &[bool] = match node.text("direction", "forward")? {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            other => return Err(format!("attribute `direction` is `{other}`")),
        };
        let count = directions.len();
        let hidden = r_shape.last().copied().unwrap_or(0);
        let rows = gates * hidden;
        if w_shape != [count, rows, n_in] || r_shape != [count, rows, hidden] || hidden == 0 {
            return Err(format!(
                "weights {w_shape:?} and {r_shape:?} do not fit {count} directions of {gates} gates on {n_in} inputs"
            ));
        }
        let bias = match context.known(node, 3)? {
            Some((bias, shape)) if shape == [count, 2 * rows] => bias.to_vec(),
            Some((_, shape)) => {
                return Err(format!("biases have shape {shape:?}, expected {:?}", [count, 2 * rows]));
            }
            None => vec![0.0; count * 2 * rows],
        };
        let lengths = match context.integers(node, 4)? {
            Some(lengths) if lengths.iter().all(|&length| length == steps as i64) => None,
            Some(lengths)
                if lengths.len() == batch && lengths.iter().all(|l| (0..=steps as i64).contains(l)) =>
            {
                Some(lengths.iter().map(|&length| length as usize).collect())
            }
            Some(lengths) => return Err(format!("sequence_lens {lengths:?} do not fit {steps} steps")),
            None => None,
        };
        let names = node.texts("activations")?.unwrap_or_else(|| {
            (0..count).flat_map(|_| defaults.iter().map(|name| (*name).to_string())).collect()
        });
        if names.len() != count * defaults.len() {
            return Err(format!("has {} activations for {count} directions", names.len()));
        }
        let mut alphas = node.floats("activation_alpha")?.unwrap_or_default().into_iter();
        let functions = names
            .iter()
            .map(|name| {
                let takes = matches!(&*name.to_ascii_lowercase(), "elu" | "leakyrelu" | "thresholdedrelu");
                function(name, if takes { alphas.next() } else { None }, None)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let peepholes = match context.optional(node, 7)? {
            Some(_) if gates == 4 => context.known(node, 7)?.map(|(values, _)| values.to_vec()),
            _ => None,
        };
        if peepholes.as_ref().is_some_and(|values| values.len() != count * 3 * hidden) {
            return Err("peephole weights do not fit".into());
        }
        let mut all = Vec::new();
        for (place, &reverse) in directions.iter().enumerate() {
            let start = |context: &mut Context, index: usize| -> Result<Computed, String> {
                if context.optional(node, index)?.is_none() {
                    let zeros = context.floats(vec![0.0; batch * hidden])?;
                    return Ok(Computed { id: zeros, shape: vec![batch, hidden], kind: x.kind });
                }
                let initial = context.value(node, index)?;
                let (along, expected) =
                    if batch_first { (1, [batch, count, hidden]) } else { (0, [count, batch, hidden]) };
                if initial.shape != expected {
                    return Err(format!(
                        "input {index} has shape {:?}, expected {expected:?}",
                        initial.shape
                    ));
                }
                let own = context.part(&initial, along, place, 1)?;
                Ok(Computed { shape: vec![batch, hidden], ..own })
            };
            let hidden_start = start(context, 5)?;
            let cell = if gates == 4 { Some(start(context, 6)?) } else { None };
            let part = |values: &[f32], len: usize| values[place * len..(place + 1) * len].to_vec();
            let biases = part(&bias, 2 * rows);
            all.push(Direction {
                order: if reverse { (0..steps).rev().collect() } else { (0..steps).collect() },
                input: part(&w, rows * n_in),
                recurrent: part(&r, rows * hidden),
                input_bias: biases[..rows].to_vec(),
                recurrent_bias: biases[rows..].to_vec(),
                activations: part_of(&functions, place, defaults.len()),
                hidden: hidden_start,
                cell,
                peepholes: peepholes.as_ref().map(|values| part(values, 3 * hidden)),
            });
        }
        let clip = node.attributes.contains_key("clip").then(|| node.float("clip", 0.0)).transpose()?;
        Ok(Self { x, steps, batch, n_in, hidden, directions: all, batch_first, clip, lengths })
    }

    /// Rows `from..from + count` (times hidden) of `[h, x]` to gates: one dense layer over both.
    fn gates(
        &self,
        context: &mut Context,
        direction: &Direction,
        joined: &Computed,
        rows: std::ops::Range<usize>,
        f: Function,
    ) -> Result<Computed, String> {
        let (first, last) = (rows.start * self.hidden, rows.end * self.hidden);
        let mut weights = Vec::new();
        for row in first..last {
            weights.extend_from_slice(&direction.recurrent[row * self.hidden..(row + 1) * self.hidden]);
            weights.extend_from_slice(&direction.input[row * self.n_in..(row + 1) * self.n_in]);
        }
        let bias =
            (first..last).map(|row| direction.input_bias[row] + direction.recurrent_bias[row]).collect();
        let sum = context.dense(joined, weights, bias)?;
        self.activated(context, &sum, f)
    }

    /// One half of it: rows of the weights over `x` or over `h` alone.
    fn half(
        &self,
        context: &mut Context,
        x: &Computed,
        [weights, bias]: [&[f32]; 2],
        rows: std::ops::Range<usize>,
    ) -> Result<Computed, String> {
        let n = weights.len() / bias.len().max(1);
        let (first, last) = (rows.start * self.hidden, rows.end * self.hidden);
        context.dense(x, weights[first * n..last * n].to_vec(), bias[first..last].to_vec())
    }

    fn activated(&self, context: &mut Context, x: &Computed, f: Function) -> Result<Computed, String> {
        match self.clip {
            Some(bound) => {
                let clipped = context.apply(x, Function::with(unary::CLIP, -bound, bound))?;
                context.apply(&clipped, f)
            }
            None => context.apply(x, f),
        }
    }

    /// The input of one step `[batch, n_in]`.
    fn step(&self, context: &mut Context, step: usize) -> Result<Computed, String> {
        let own = context.part(&self.x, 0, step, 1)?;
        Ok(Computed { shape: vec![self.batch, self.n_in], ..own })
    }

    /// `new` for the sequences that have this step, `old` for those that ended; `zero` instead of `old` for
    /// outputs.
    fn while_it_lasts(
        &self,
        context: &mut Context,
        step: usize,
        new: &Computed,
        old: &Computed,
    ) -> Result<Computed, String> {
        let Some(lengths) = &self.lengths else { return Ok(new.clone()) };
        let mask = lengths.iter().map(|&length| f32::from(u8::from(step < length))).collect();
        let mask = Computed { id: context.floats(mask)?, shape: vec![self.batch, 1], kind: new.kind };
        context.choose(&mask, new, old)
    }

    /// Runs every direction by `cell` and gives the outputs `Y`, `Y_h`, `Y_c`.
    fn unroll(
        self,
        context: &mut Context,
        node: &Node,
        cell: impl Fn(&Self, &mut Context, &Direction, &Computed, &[Computed]) -> Result<Vec<Computed>, String>,
    ) -> Result<(), String> {
        let (mut sequences, mut hidden_last, mut cell_last) = (Vec::new(), Vec::new(), Vec::new());
        let zeros: ValueId = context.floats(vec![0.0; self.batch * self.hidden])?;
        let zeros = Computed { id: zeros, shape: vec![self.batch, self.hidden], kind: self.x.kind };
        for direction in &self.directions {
            let mut memory = vec![direction.hidden.clone()];
            memory.extend(direction.cell.clone());
            let mut outputs = vec![None; self.steps];
            for &step in &direction.order {
                let x = self.step(context, step)?;
                let next = cell(&self, context, direction, &x, &memory)?;
                outputs[step] = Some(self.while_it_lasts(context, step, &next[0], &zeros)?);
                for (old, new) in memory.iter_mut().zip(&next) {
                    *old = self.while_it_lasts(context, step, new, old)?;
                }
            }
            sequences.push(outputs.into_iter().flatten().collect::<Vec<_>>());
            hidden_last.push(memory[0].clone());
            cell_last.extend(memory.get(1).cloned());
        }
        let wanted = |index: usize| node.outputs.get(index).is_some_and(|name| !name.is_empty());
        let count = self.directions.len();
        if wanted(0) {
            // Each `[batch, hidden]` in the order [step, direction, batch, hidden].
            let parts: Vec<Computed> = (0..self.steps)
                .flat_map(|step| sequences.iter().map(move |outputs| outputs[step].clone()))
                .map(|part| Computed { shape: vec![1, self.batch, self.hidden], ..part })
                .collect();
            let all = match &*parts {
                [only] => only.clone(),
                parts => context.concatenated(parts, 0)?,
            };
            let mut y = Computed { shape: vec![self.steps, count, self.batch, self.hidden], ..all };
            if self.batch_first {
                y = context.permuted(&y, &[2, 0, 1, 3])?;
            }
            context.result(node, 0, y.id, y.shape, y.kind)?;
        }
        for (index, last) in [(1, hidden_last), (2, cell_last)] {
            if !wanted(index) || last.is_empty() {
                continue;
            }
            let parts: Vec<Computed> = last
                .into_iter()
                .map(|part| Computed { shape: vec![1, self.batch, self.hidden], ..part })
                .collect();
            let mut y = match &*parts {
                [only] => only.clone(),
                parts => context.concatenated(parts, 0)?,
            };
            if self.batch_first {
                y = context.permuted(&y, &[1, 0, 2])?;
            }
            context.result(node, index, y.id, y.shape, y.kind)?;
        }
        Ok(())
    }

    /// `[h, x]` of one step: in this order the state and the network's input lie there already (`plan.rs`).
    fn joined(&self, context: &mut Context, x: &Computed, h: &Computed) -> Result<Computed, String> {
        context.concatenated(&[h.clone(), x.clone()], 1)
    }
}

fn part_of<T: Copy>(values: &[T], place: usize, len: usize) -> Vec<T> {
    values[place * len..(place + 1) * len].to_vec()
}

/// `h' = f(W x + R h + b)`
fn rnn(context: &mut Context, node: &Node) -> Result<(), String> {
    let layer = Layer::read(context, node, 1, &["Tanh"])?;
    layer.unroll(context, node, |layer, context, direction, x, memory| {
        let joined = layer.joined(context, x, &memory[0])?;
        Ok(vec![layer.gates(context, direction, &joined, 0..1, direction.activations[0])?])
    })
}

/// Gates in ONNX's order: update, reset, hidden.
fn gru(context: &mut Context, node: &Node) -> Result<(), String> {
    let before = node.int("linear_before_reset", 0)? != 0;
    let layer = Layer::read(context, node, 3, &["Sigmoid", "Tanh"])?;
    layer.unroll(context, node, |layer, context, direction, x, memory| {
        let h = &memory[0];
        let (f, g) = (direction.activations[0], direction.activations[1]);
        let joined = layer.joined(context, x, h)?;
        let gates = layer.gates(context, direction, &joined, 0..2, f)?;
        let (z, r) =
            (context.part(&gates, 1, 0, layer.hidden)?, context.part(&gates, 1, layer.hidden, layer.hidden)?);
        let from_x = layer.half(context, x, [&direction.input, &direction.input_bias], 2..3)?;
        let from_h = if before {
            let own = layer.half(context, h, [&direction.recurrent, &direction.recurrent_bias], 2..3)?;
            context.combine(&own, &r, binary::MUL)?
        } else {
            let kept = context.combine(h, &r, binary::MUL)?;
            layer.half(context, &kept, [&direction.recurrent, &direction.recurrent_bias], 2..3)?
        };
        let sum = context.combine(&from_x, &from_h, binary::ADD)?;
        let candidate = layer.activated(context, &sum, g)?;
        // h' = (1 - z) * n + z * h = n + z * (h - n)
        let difference = context.combine(h, &candidate, binary::SUB)?;
        let part = context.combine(&difference, &z, binary::MUL)?;
        Ok(vec![context.combine(&part, &candidate, binary::ADD)?])
    })
}

/// Gates in ONNX's order: input, output, forget, cell.
fn lstm(context: &mut Context, node: &Node) -> Result<(), String> {
    if node.int("input_forget", 0)? != 0 {
        return Err("attribute `input_forget` is 1: coupled gates have no lowering".into());
    }
    let layer = Layer::read(context, node, 4, &["Sigmoid", "Tanh", "Tanh"])?;
    layer.unroll(context, node, |layer, context, direction, x, memory| {
        let n = layer.hidden;
        let [h, c] = memory else { return Err("has no cell".into()) };
        let [f, g, last] = *direction.activations else { return Err("has not three activations".into()) };
        let joined = layer.joined(context, x, h)?;
        let (input, output, forget);
        if let Some(peepholes) = &direction.peepholes {
            let peephole = |context: &mut Context, place: usize, c: &Computed| -> Result<Computed, String> {
                let gate = layer.gates(context, direction, &joined, place..place + 1, Function::NONE)?;
                let weights = context.floats(peepholes[place * n..(place + 1) * n].to_vec())?;
                let weights = Computed { id: weights, shape: vec![n], kind: c.kind };
                let part = context.combine(c, &weights, binary::MUL)?;
                let sum = context.combine(&gate, &part, binary::ADD)?;
                layer.activated(context, &sum, f)
            };
            input = peephole(context, 0, c)?;
            forget = peephole(context, 2, c)?;
            let candidate = layer.gates(context, direction, &joined, 3..4, g)?;
            let cell = cell_of(context, [&input, &forget, &candidate], c)?;
            output = peephole(context, 1, &cell)?;
            let shown = context.apply(&cell, last)?;
            return Ok(vec![context.combine(&shown, &output, binary::MUL)?, cell]);
        }
        let usual = [f.kind, g.kind, last.kind] == [unary::SIGMOID, unary::TANH, unary::TANH];
        if usual && layer.batch == 1 && layer.clip.is_none() {
            let gates = layer.gates(context, direction, &joined, 0..4, Function::NONE)?;
            return context.lstm(&gates, c);
        }
        let gates = layer.gates(context, direction, &joined, 0..3, f)?;
        input = context.part(&gates, 1, 0, n)?;
        output = context.part(&gates, 1, n, n)?;
        forget = context.part(&gates, 1, 2 * n, n)?;
        let candidate = layer.gates(context, direction, &joined, 3..4, g)?;
        let cell = cell_of(context, [&input, &forget, &candidate], c)?;
        let shown = context.apply(&cell, last)?;
        Ok(vec![context.combine(&shown, &output, binary::MUL)?, cell])
    })
}

impl Context {
    /// Units by the runtime's own step: `[h', c']`.
    fn lstm(&mut self, gates: &Computed, c: &Computed) -> Result<Vec<Computed>, String> {
        let n = c.len();
        let id = self.step(Op::Lstm { cell: c.id, gates: gates.id }, 2 * n)?;
        let both = Computed { id, shape: vec![1, 2 * n], kind: c.kind };
        Ok(vec![self.part(&both, 1, n, n)?, self.part(&both, 1, 0, n)?])
    }
}

/// `c' = i * g + f * c`
fn cell_of(context: &mut Context, [i, f, g]: [&Computed; 3], c: &Computed) -> Result<Computed, String> {
    let new = context.combine(g, i, binary::MUL)?;
    let kept = context.combine(c, f, binary::MUL)?;
    context.combine(&kept, &new, binary::ADD)
}
