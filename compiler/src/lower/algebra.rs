//! Sums of products by letters, and determinants.

use super::{Computed, Context, Lowering, broadcast, strides};
use crate::import::{Node, elements};
use tendon_wire::image::{binary, reduce as by};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Det",    determinant),
    ("Einsum", einsum),
];

/// Largest matrix of a determinant: the minors grow as `2^n`.
const MAX_DETERMINANT: usize = 6;

/// Stands for the first axis of an ellipsis; those behind it follow.
const ELLIPSIS: u32 = 0x1_0000;

/// A tensor with a letter per axis.
struct Lettered {
    x: Computed,
    letters: Vec<u32>,
}

impl Lettered {
    fn size(&self, letter: u32) -> Option<usize> {
        self.letters.iter().position(|own| *own == letter).map(|axis| self.x.shape[axis])
    }
}

/// Letters of a term; an ellipsis stands for `hidden` axes.
fn letters(term: &str, hidden: usize) -> Result<Vec<u32>, String> {
    let mut letters = Vec::new();
    let mut rest = term.chars().filter(|c| !c.is_whitespace()).peekable();
    while let Some(c) = rest.next() {
        if c == '.' {
            if rest.next() != Some('.') || rest.next() != Some('.') {
                return Err(format!("term `{term}` is malformed"));
            }
            letters.extend((0..hidden as u32).map(|place| ELLIPSIS + place));
        } else if c.is_ascii_alphabetic() {
            letters.push(u32::from(c));
        } else {
            return Err(format!("term `{term}` has the letter `{c}`"));
        }
    }
    Ok(letters)
}

/// Axes of a term that has an ellipsis beyond its letters.
fn hidden(term: &str, rank: usize) -> usize {
    let own = term.chars().filter(char::is_ascii_alphabetic).count();
    if term.contains('.') { rank.saturating_sub(own) } else { 0 }
}

fn einsum(context: &mut Context, node: &Node) -> Result<(), String> {
    let equation = node.text("equation", "")?.to_string();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&*equation, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != node.inputs.len() {
        return Err(format!(
            "equation `{equation}` has {} terms for {} inputs",
            terms.len(),
            node.inputs.len()
        ));
    }
    let mut operands = Vec::new();
    let mut most = 0;
    for (index, term) in terms.iter().enumerate() {
        let x = context.value(node, index)?;
        let own = hidden(term, x.shape.len());
        most = most.max(own);
        let mut letters = letters(term, own)?;
        if letters.len() != x.shape.len() {
            return Err(format!("term `{term}` does not fit shape {:?}", x.shape));
        }
        // Ellipses are aligned at their ends.
        letters
            .iter_mut()
            .filter(|letter| **letter >= ELLIPSIS)
            .for_each(|letter| *letter += 64 - own as u32);
        operands.push(context.diagonal(&Lettered { x, letters })?);
    }
    let wanted = match right {
        Some(right) => {
            let mut wanted = letters(right, most)?;
            wanted
                .iter_mut()
                .filter(|letter| **letter >= ELLIPSIS)
                .for_each(|letter| *letter += 64 - most as u32);
            wanted
        }
        None => {
            let all: Vec<u32> = operands.iter().flat_map(|operand| operand.letters.iter().copied()).collect();
            let mut once: Vec<u32> = all
                .iter()
                .copied()
                .filter(|l| *l < ELLIPSIS && all.iter().filter(|o| *o == l).count() == 1)
                .collect();
            once.sort_unstable();
            (0..most as u32).map(|place| ELLIPSIS + 64 - most as u32 + place).chain(once).collect()
        }
    };
    let mut operands = operands.into_iter();
    let mut result = operands.next().ok_or("has no inputs")?;
    let rest: Vec<Lettered> = operands.collect();
    for (place, operand) in rest.iter().enumerate() {
        // What neither the result nor a later operand names is summed.
        let kept = |letter: &u32| {
            wanted.contains(letter) || rest[place + 1..].iter().any(|later| later.letters.contains(letter))
        };
        result = context.contracted(&result, operand, kept)?;
    }
    let summed: Vec<usize> =
        (0..result.letters.len()).filter(|&axis| !wanted.contains(&result.letters[axis])).collect();
    if !summed.is_empty() {
        let y = context.reduced(&result.x, &summed, by::SUM)?;
        let keep = |axis: &usize| !summed.contains(axis);
        let axes: Vec<usize> = (0..result.letters.len()).filter(keep).collect();
        let shape = axes.iter().map(|&axis| result.x.shape[axis]).collect();
        result = Lettered {
            x: Computed { shape, ..y },
            letters: axes.iter().map(|&axis| result.letters[axis]).collect(),
        };
    }
    let order = wanted.iter().map(|letter| {
        let place = result.letters.iter().position(|own| own == letter);
        place.ok_or_else(|| format!("equation `{equation}` gives a letter that no term has"))
    });
    let order = order.collect::<Result<Vec<_>, _>>()?;
    if order.len() != result.letters.len() {
        return Err(format!("equation `{equation}` is malformed"));
    }
    let y = context.permuted(&result.x, &order)?;
    context.finish(node, y)
}

impl Context {
    /// Every letter once: axes that share one become their diagonal.
    fn diagonal(&mut self, operand: &Lettered) -> Result<Lettered, String> {
        let own = strides(&operand.x.shape);
        let (mut letters, mut shape, mut from) = (Vec::new(), Vec::new(), Vec::new());
        for ((&letter, &size), &stride) in operand.letters.iter().zip(&operand.x.shape).zip(&own) {
            match letters.iter().position(|other| *other == letter) {
                Some(place) if shape[place] == size => from[place] += stride,
                Some(_) => return Err(format!("shape {:?} has no diagonal", operand.x.shape)),
                None => {
                    letters.push(letter);
                    shape.push(size);
                    from.push(stride);
                }
            }
        }
        let x = if shape.len() == operand.letters.len() {
            operand.x.clone()
        } else {
            self.moved(&operand.x, &shape, &from, 0)?
        };
        Ok(Lettered { x, letters })
    }

    /// The product of two tensors, summed over the letters that both have and nobody keeps.
    fn contracted(
        &mut self,
        a: &Lettered,
        b: &Lettered,
        kept: impl Fn(&u32) -> bool,
    ) -> Result<Lettered, String> {
        let shared = |letter: &&u32| b.letters.contains(letter);
        let batch: Vec<u32> =
            a.letters.iter().filter(shared).filter(|letter| kept(letter)).copied().collect();
        let summed: Vec<u32> =
            a.letters.iter().filter(shared).filter(|letter| !kept(letter)).copied().collect();
        let rows: Vec<u32> = a.letters.iter().filter(|letter| !b.letters.contains(letter)).copied().collect();
        let columns: Vec<u32> =
            b.letters.iter().filter(|letter| !a.letters.contains(letter)).copied().collect();
        let sizes = |operand: &Lettered, letters: &[u32]| -> Vec<usize> {
            letters.iter().map(|&letter| operand.size(letter).unwrap_or(1)).collect()
        };
        let wide = broadcast(&sizes(a, &batch), &sizes(b, &batch))?;
        if sizes(a, &summed) != sizes(b, &summed) {
            return Err(format!("shapes {:?} and {:?} do not fit", a.x.shape, b.x.shape));
        }
        let (m, k, n) =
            (elements(&sizes(a, &rows))?, elements(&sizes(a, &summed))?, elements(&sizes(b, &columns))?);
        let left = self.arranged(a, &[&batch, &rows, &summed], [m, k])?;
        let right = self.arranged(b, &[&batch, &summed, &columns], [k, n])?;
        let y = self.product(&left, &right)?;
        let mut shape = wide;
        shape.extend(sizes(a, &rows));
        shape.extend(sizes(b, &columns));
        Ok(Lettered { x: Computed { shape, ..y }, letters: [batch, rows, columns].concat() })
    }

    /// A batch of matrices: axes in this order, all but those of the batch as two.
    fn arranged(
        &mut self,
        operand: &Lettered,
        parts: &[&Vec<u32>; 3],
        matrix: [usize; 2],
    ) -> Result<Computed, String> {
        let place = |letter: &u32| operand.letters.iter().position(|own| own == letter);
        let order: Option<Vec<usize>> = parts.iter().flat_map(|part| part.iter()).map(place).collect();
        let order = order.ok_or("a letter is missing")?;
        let y = self.permuted(&operand.x, &order)?;
        let mut shape = y.shape[..parts[0].len()].to_vec();
        shape.extend(matrix);
        Ok(Computed { shape, ..y })
    }
}

/// By minors of the rows from below, each made once.
fn determinant(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let &[ref batch @ .., n, columns] = &*x.shape else {
        return Err(format!("shape {:?} is no matrix", x.shape));
    };
    if n != columns || !(1..=MAX_DETERMINANT).contains(&n) {
        return Err(format!(
            "a matrix of {n} x {columns}: square ones up to {MAX_DETERMINANT} have a lowering"
        ));
    }
    let (batch, count) = (batch.to_vec(), x.len() / (n * n));
    let x = Computed { shape: vec![count, n * n], ..x };
    let mut minors: Vec<Option<Computed>> = vec![None; 1 << n];
    for set in 1usize..1 << n {
        let row = n - set.count_ones() as usize;
        let mut sum: Option<Computed> = None;
        let members = (0..n).filter(|column| set >> column & 1 == 1);
        for (place, column) in members.enumerate() {
            let own = context.part(&x, 1, row * n + column, 1)?;
            let term = match &minors[set & !(1 << column)] {
                Some(minor) => context.combine(&own, minor, binary::MUL)?,
                None => own,
            };
            sum = Some(match sum {
                None => term,
                Some(sum) => {
                    context.combine(&sum, &term, if place % 2 == 0 { binary::ADD } else { binary::SUB })?
                }
            });
        }
        minors[set] = sum;
    }
    let y = minors.pop().flatten().ok_or("has no elements")?;
    context.finish(node, Computed { shape: batch, ..y })
}
