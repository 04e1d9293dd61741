//! Attention and what comes with it: scaled dot products with masks and caches, rotary embedding.

use super::{Computed, Context, Lowering, broadcast};
use crate::import::{Kind, Node, elements};
use crate::program::{Axis, Function, Op};
use tendon_wire::image::{binary, reduce as by, unary};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Attention",       attention),
    ("LinearAttention", linear_attention),
    ("RotaryEmbedding", rotary_embedding),
];

/// `[batch, sequence, heads * n]` as `[batch, heads, sequence, n]`; what has four dimensions stays.
fn heads(context: &mut Context, node: &Node, x: Computed, attribute: &str) -> Result<Computed, String> {
    match *x.shape {
        [_, _, _, _] => Ok(x),
        [batch, sequence, hidden] => {
            let count = usize::try_from(node.int(attribute, 0)?).unwrap_or(0);
            if count == 0 || !hidden.is_multiple_of(count) {
                return Err(format!("attribute `{attribute}` is {count}, expected a divisor of {hidden}"));
            }
            let split = Computed { shape: vec![batch, sequence, count, hidden / count], ..x };
            context.permuted(&split, &[0, 2, 1, 3])
        }
        _ => Err(format!("an input has shape {:?}, expected three or four dimensions", x.shape)),
    }
}

/// What the additive mask is made of, apart from the input of that name.
struct Frontier {
    queries: usize,
    keys: usize,
    /// Keys in front of the first query, when that is known.
    offset: i64,
    causal: bool,
    /// Keys before and after a query's own that it sees.
    window: [Option<i64>; 2],
}

impl Frontier {
    /// Constant numbers per query and key, `[queries, keys]`.
    fn grid(&self, f: impl Fn(i64, i64) -> f32) -> Vec<f32> {
        let place = |index: usize| ((index / self.keys) as i64, (index % self.keys) as i64);
        (0..self.queries * self.keys).map(place).map(|(query, key)| f(query, key)).collect()
    }

    /// Whether a query sees a key, by place.
    fn sees(&self, query: i64, key: i64) -> bool {
        let ahead = key - (query + self.offset);
        let [left, right] = self.window;
        (!self.causal || ahead <= 0)
            && left.is_none_or(|left| -ahead <= left)
            && right.is_none_or(|right| ahead <= right)
    }
}

fn attention(context: &mut Context, node: &Node) -> Result<(), String> {
    let (q, k, v) = (context.value(node, 0)?, context.value(node, 1)?, context.value(node, 2)?);
    let (kind, flat) = (q.kind, q.shape.len() == 3);
    let q = heads(context, node, q, "q_num_heads")?;
    let mut k = heads(context, node, k, "kv_num_heads")?;
    let mut v = heads(context, node, v, "kv_num_heads")?;
    let mut past = 0;
    if let (Some(past_k), Some(past_v)) = (context.optional(node, 4)?, context.optional(node, 5)?) {
        let (past_k, past_v) = (context.computed(past_k)?, context.computed(past_v)?);
        past = past_k.shape.get(2).copied().unwrap_or(0);
        if past > 0 {
            k = context.concatenated(&[past_k, k], 2)?;
            v = context.concatenated(&[past_v, v], 2)?;
        }
    }
    let (&[batch, n_heads, queries, size], &[_, groups, keys, _], &[_, _, v_keys, v_size]) =
        (&*q.shape, &*k.shape, &*v.shape)
    else {
        return Err("Q, K and V have not four dimensions".into());
    };
    let fits =
        k.shape == [batch, groups, keys, size] && v.shape == [batch, groups, keys, v_size] && v_keys == keys;
    if !fits || groups == 0 || !n_heads.is_multiple_of(groups) {
        return Err(format!("Q {:?}, K {:?} and V {:?} do not fit", q.shape, k.shape, v.shape));
    }
    let scale = node.float("scale", 1.0 / (size as f32).sqrt())?;
    let q = context.with_number(&q, binary::MUL, scale)?;
    // Heads that share keys lie one after the other: their queries are rows of one product.
    let rows = n_heads / groups * queries;
    let op = Op::MatMul { a: q.id, b: k.id, batch: batch * groups, m: rows, k: size, n: keys, kind: 1 };
    let shape = vec![batch, n_heads, queries, keys];
    let mut scores = Computed { id: context.step(op, elements(&shape)?)?, shape: shape.clone(), kind };
    let softcap = node.float("softcap", 0.0)?;
    if softcap > 0.0 {
        let scaled = context.with_number(&scores, binary::DIV, softcap)?;
        let bent = context.apply(&scaled, Function::new(unary::TANH))?;
        scores = context.with_number(&bent, binary::MUL, softcap)?;
    }
    let raw = scores.clone();
    let mask = mask(context, node, [batch, queries, keys], past)?;
    if let Some(mask) = &mask {
        if broadcast(&mask.shape, &shape)? != shape {
            return Err(format!("a mask of shape {:?} does not fit scores of shape {shape:?}", mask.shape));
        }
        scores = context.combine(&scores, mask, binary::ADD)?;
    }
    let biased = scores.clone();
    let op = Op::Softmax { x: scores.id, axis: Axis::of(&shape, 3), logarithm: false };
    let mut weights = Computed { id: context.step(op, scores.len())?, ..scores };
    if let Some(mask) = &mask {
        weights = without_blind_rows(context, &weights, mask)?;
    }
    let op =
        Op::MatMul { a: weights.id, b: v.id, batch: batch * groups, m: rows, k: keys, n: v_size, kind: 0 };
    let shape = vec![batch, n_heads, queries, v_size];
    let mut y = Computed { id: context.step(op, elements(&shape)?)?, shape, kind };
    if flat {
        y = context.permuted(&y, &[0, 2, 1, 3])?;
        y.shape = vec![batch, queries, n_heads * v_size];
    }
    context.result(node, 1, k.id, k.shape, kind)?;
    context.result(node, 2, v.id, v.shape, kind)?;
    let shown = match node.int("qk_matmul_output_mode", 0)? {
        0 | 1 => raw,
        2 => biased,
        3 => weights,
        other => return Err(format!("attribute `qk_matmul_output_mode` is {other}, expected 0 to 3")),
    };
    context.result(node, 3, shown.id, shown.shape, kind)?;
    context.finish(node, y)
}

/// Rows of a softmax whose mask lets nothing through are 0.
fn without_blind_rows(
    context: &mut Context,
    weights: &Computed,
    mask: &Computed,
) -> Result<Computed, String> {
    let last = mask.shape.len().checked_sub(1).ok_or("the mask is a scalar")?;
    let best = context.reduced(mask, &[last], by::MAX)?;
    if context.data(best.id).is_some_and(|best| best.iter().all(|&best| best > f32::NEG_INFINITY)) {
        return Ok(weights.clone());
    }
    let blind = context.with_number(&best, binary::EQUAL, f32::NEG_INFINITY)?;
    let zero = context.fixed(vec![0.0], vec![], weights.kind)?;
    let y = context.choose(&blind, &zero, weights)?;
    Ok(Computed { kind: weights.kind, ..y })
}

/// The sum of all masks: 0 where a query sees a key, -inf where not, other numbers as given.
fn mask(
    context: &mut Context,
    node: &Node,
    [batch, queries, keys]: [usize; 3],
    past: usize,
) -> Result<Option<Computed>, String> {
    let side = |name: &str| -> Result<Option<i64>, String> {
        Ok(Some(node.int(name, -1)?).filter(|&size| size >= 0))
    };
    let frontier = Frontier {
        queries,
        keys,
        offset: past as i64,
        causal: node.int("is_causal", 0)? != 0,
        window: [side("left_window_size")?, side("right_window_size")?],
    };
    let mut parts = Vec::new();
    if context.optional(node, 3)?.is_some() {
        parts.push(given_mask(context, node, keys)?);
    }
    match context.optional(node, 6)? {
        Some(lengths) if past == 0 => {
            let lengths = context.computed(lengths)?;
            if lengths.len() != batch {
                return Err(format!("nonpad_kv_seqlen has shape {:?}, expected [{batch}]", lengths.shape));
            }
            let lengths = Computed { shape: vec![batch, 1, 1, 1], ..lengths };
            parts.push(moving_frontier(context, &lengths, &frontier)?);
        }
        Some(_) => return Err("has both past keys and nonpad_kv_seqlen: the node is malformed".into()),
        None => {
            let numbers =
                frontier.grid(|query, key| if frontier.sees(query, key) { 0.0 } else { f32::NEG_INFINITY });
            if numbers.iter().any(|&number| number != 0.0) {
                parts.push(context.fixed(numbers, vec![queries, keys], Kind::F32)?);
            }
        }
    }
    let mut parts = parts.into_iter();
    let Some(mut sum) = parts.next() else { return Ok(None) };
    for part in parts {
        sum = context.combine(&sum, &part, binary::ADD)?;
    }
    Ok(Some(sum))
}

/// The mask that the node is given, as numbers to add; keys beyond it are not seen.
fn given_mask(context: &mut Context, node: &Node, keys: usize) -> Result<Computed, String> {
    let mut given = context.value(node, 3)?;
    if given.kind == Kind::Bool {
        let seen = context.fixed(vec![0.0], vec![], Kind::F32)?;
        let hidden = context.fixed(vec![f32::NEG_INFINITY], vec![], Kind::F32)?;
        given = context.choose(&given, &seen, &hidden)?;
    }
    match given.shape.last() {
        Some(&own) if own < keys && own != 1 => {
            let mut shape = given.shape.clone();
            *shape.last_mut().ok_or("the mask is a scalar")? = keys;
            context.padded(&given, &vec![0; shape.len()], &shape, f32::NEG_INFINITY)
        }
        _ => {
            let shape = broadcast(&given.shape, &[keys])?;
            context.expand(&given, &shape)
        }
    }
}

/// The mask when the number of keys that count is computed, one per item of the batch.
fn moving_frontier(
    context: &mut Context,
    lengths: &Computed,
    frontier: &Frontier,
) -> Result<Computed, String> {
    // A query at `i` stands at key `i + length - queries`.
    let behind = |query: i64, key: i64| (key - query + frontier.queries as i64) as f32;
    let mut least = frontier.grid(|_, key| (key + 1) as f32);
    let mut most: Option<Vec<f32>> = None;
    let mut raise = |numbers: Vec<f32>| {
        least.iter_mut().zip(numbers).for_each(|(least, number)| *least = least.max(number))
    };
    if frontier.causal {
        raise(frontier.grid(behind));
    }
    if let Some(right) = frontier.window[1] {
        raise(frontier.grid(|query, key| behind(query, key) - right as f32));
    }
    if let Some(left) = frontier.window[0] {
        most = Some(frontier.grid(|query, key| behind(query, key) + left as f32));
    }
    let shape = vec![frontier.queries, frontier.keys];
    let least = context.fixed(least, shape.clone(), Kind::F32)?;
    let mut seen = context.combine(lengths, &least, binary::GREATER_EQUAL)?;
    if let Some(most) = most {
        let most = context.fixed(most, shape, Kind::F32)?;
        let near = context.combine(lengths, &most, binary::LESS_EQUAL)?;
        seen = context.combine(&seen, &near, binary::AND)?;
    }
    let zero = context.fixed(vec![0.0], vec![], Kind::F32)?;
    let hidden = context.fixed(vec![f32::NEG_INFINITY], vec![], Kind::F32)?;
    context.choose(&seen, &zero, &hidden)
}

/// Pairs of elements turned by an angle that grows with the position.
fn rotary_embedding(context: &mut Context, node: &Node) -> Result<(), String> {
    let given = context.value(node, 0)?;
    let flat = given.shape.len() == 3;
    let original = given.shape.clone();
    let x = if flat {
        let count = usize::try_from(node.int("num_heads", 0)?).unwrap_or(0);
        let &[batch, sequence, hidden] = &*given.shape else { return Err("has not three dimensions".into()) };
        if count == 0 || !hidden.is_multiple_of(count) {
            return Err(format!("attribute `num_heads` is {count}, expected a divisor of {hidden}"));
        }
        Computed { shape: vec![batch, sequence, count, hidden / count], ..given }
    } else {
        given
    };
    let &[_, _, _, size] = &*x.shape else { return Err(format!("input has shape {original:?}")) };
    let turned = match node.int("rotary_embedding_dim", 0)? {
        0 => size,
        some => usize::try_from(some)
            .ok()
            .filter(|&some| some <= size)
            .ok_or("attribute `rotary_embedding_dim` is too large")?,
    };
    let half = turned / 2;
    let mut waves = Vec::new();
    for index in [1, 2] {
        let mut wave = context.value(node, index)?;
        if context.optional(node, 3)?.is_some() {
            let positions = context.value(node, 3)?;
            wave = context.taken(&wave, &positions, 0)?;
        }
        let &[batch, sequence, pairs] = &*wave.shape else {
            return Err(format!(
                "input {index} has shape {:?}, expected [batch, sequence, {half}]",
                wave.shape
            ));
        };
        if pairs != half {
            return Err(format!(
                "input {index} has shape {:?}, expected [batch, sequence, {half}]",
                wave.shape
            ));
        }
        let shape = if flat { vec![batch, sequence, 1, half] } else { vec![batch, 1, sequence, half] };
        waves.push(Computed { shape, ..wave });
    }
    let [cos, sin] = &*waves else { return Err("has no waves".into()) };
    let interleaved = node.int("interleaved", 0)? != 0;
    let mut windows: Vec<(usize, usize, i64)> = x.shape.iter().map(|&size| (0, size, 1)).collect();
    let mut pick = |context: &mut Context, part: usize| {
        windows[3] = if interleaved { (part, half, 2) } else { (part * half, half, 1) };
        context.windowed(&x, &windows)
    };
    let (a, b) = (pick(context, 0)?, pick(context, 1)?);
    let mut sum = |left: [&Computed; 2], right: [&Computed; 2], kind: u8| -> Result<Computed, String> {
        let left = context.combine(left[0], left[1], binary::MUL)?;
        let right = context.combine(right[0], right[1], binary::MUL)?;
        context.combine(&left, &right, kind)
    };
    let real = sum([&a, cos], [&b, sin], binary::SUB)?;
    let imaginary = sum([&a, sin], [&b, cos], binary::ADD)?;
    let mut y = if interleaved {
        let column = |x: Computed| {
            let mut shape = x.shape.clone();
            shape.push(1);
            Computed { shape, ..x }
        };
        let pairs = context.concatenated(&[column(real), column(imaginary)], 4)?;
        let mut shape = x.shape.clone();
        shape[3] = turned;
        Computed { shape, ..pairs }
    } else {
        context.concatenated(&[real, imaginary], 3)?
    };
    if turned < size {
        let rest = context.part(&x, 3, turned, size - turned)?;
        y = context.concatenated(&[y, rest], 3)?;
    }
    context.finish(node, Computed { shape: original, ..y })
}

/// A memory of keys times values that decays and is corrected, one step per element of the sequence.
fn linear_attention(context: &mut Context, node: &Node) -> Result<(), String> {
    let q = context.value(node, 0)?;
    let (&[batch, steps, _], kind) = (&*q.shape, q.kind) else {
        return Err(format!("query has shape {:?}, expected three dimensions", q.shape));
    };
    let rule = node.text("update_rule", "gated_delta")?;
    let (gated, corrected) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => {
            return Err(format!(
                "attribute `update_rule` is `{other}`, expected linear, gated, delta or gated_delta"
            ));
        }
    };
    let q = heads(context, node, q, "q_num_heads")?;
    let k = context.value(node, 1)?;
    let k = heads(context, node, k, "kv_num_heads")?;
    let v = context.value(node, 2)?;
    let v = heads(context, node, v, "kv_num_heads")?;
    let (n_heads, groups, size, v_size) = (q.shape[1], k.shape[1], q.shape[3], v.shape[3]);
    let fits = k.shape == [batch, groups, steps, size] && v.shape == [batch, groups, steps, v_size];
    if !fits || !n_heads.is_multiple_of(groups) {
        return Err(format!("Q {:?}, K {:?} and V {:?} do not fit", q.shape, k.shape, v.shape));
    }
    // `[batch, steps, heads (* n)]` as `[batch, heads, steps, n]`.
    let mut factors = |index: usize, wanted: bool| -> Result<Option<Computed>, String> {
        if !wanted {
            return Ok(None);
        }
        let x = context.value(node, index)?;
        let last = x.shape.last().copied().unwrap_or(0);
        let own = if last.is_multiple_of(groups) { groups } else { 1 };
        if x.shape.len() != 3
            || x.len() != batch * steps * last
            || !matches!(last / own.max(1), n if n == 1 || n == size)
        {
            return Err(format!("input {index} has shape {:?}, which does not fit {groups} heads", x.shape));
        }
        let split = Computed { shape: vec![batch, steps, own, last / own], ..x };
        Ok(Some(context.permuted(&split, &[0, 2, 1, 3])?))
    };
    let (decay, beta) = (factors(4, gated)?, factors(5, corrected)?);
    let mut memory = match context.optional(node, 3)? {
        Some(past) => context.computed(past)?,
        None => {
            let shape = vec![batch, groups, size, v_size];
            context.fixed(vec![0.0; elements(&shape)?], shape, kind)?
        }
    };
    if memory.shape != [batch, groups, size, v_size] {
        return Err(format!(
            "past_state has shape {:?}, expected {:?}",
            memory.shape,
            [batch, groups, size, v_size]
        ));
    }
    let memory_kind = memory.kind;
    let scale = match node.float("scale", 0.0)? {
        0.0 => 1.0 / (size as f32).sqrt(),
        scale => scale,
    };
    let q = context.with_number(&q, binary::MUL, scale)?;
    let mut outputs = Vec::new();
    for step in 0..steps {
        let at = |context: &mut Context, x: &Computed, rest: [usize; 2]| -> Result<Computed, String> {
            let part = context.part(x, 2, step, 1)?;
            let shape = vec![batch, part.len() / (batch * rest[0] * rest[1]), rest[0], rest[1]];
            Ok(Computed { shape, ..part })
        };
        if let Some(decay) = &decay {
            let n = decay.shape[3];
            let decay = at(context, decay, [n, 1])?;
            let kept = context.apply(&decay, Function::new(unary::EXP))?;
            memory = context.combine(&memory, &kept, binary::MUL)?;
        }
        let key = at(context, &k, [size, 1])?;
        let mut value = at(context, &v, [1, v_size])?;
        if let Some(beta) = &beta {
            let found =
                context.product(&Computed { shape: vec![batch, groups, 1, size], ..key.clone() }, &memory)?;
            let error = context.combine(&value, &found, binary::SUB)?;
            let beta = at(context, beta, [1, 1])?;
            value = context.combine(&error, &beta, binary::MUL)?;
        }
        let key = context.expand(&key, &[batch, groups, size, v_size])?;
        let new = context.combine(&key, &value, binary::MUL)?;
        memory = context.combine(&memory, &new, binary::ADD)?;
        // Heads that share a memory are rows of one product.
        let rows = at(context, &q, [n_heads / groups, size])?;
        let y = context.product(&rows, &memory)?;
        outputs.push(Computed { shape: vec![batch, 1, n_heads * v_size], ..y });
    }
    let y = if outputs.len() == 1 { outputs.remove(0) } else { context.concatenated(&outputs, 1)? };
    context.result(node, 1, memory.id, memory.shape, memory_kind)?;
    context.finish(node, Computed { kind, ..y })
}
