//! Rows of episodes cut into sequences, as recurrent networks learn from them.

use tendon_nn::Sequences;

/// Rows to learn from; those of a sequence follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// Steps of a sequence; 1 where the network remembers nothing.
    pub(crate) sequence: usize,
    /// `[rows, whole width]`.
    pub(crate) states: &'a [f32],
    /// Whether an episode begins with the row, `[rows]`.
    pub(crate) begins: &'a [bool],
    /// What is remembered before the first step of each sequence, `[rows / sequence, memory_len]`.
    pub(crate) memory: &'a [f32],
}

/// A block of sequences in the order of [`Sequences`]: all first steps, then all second ones.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// The row of each step.
    pub(crate) rows: Vec<usize>,
    input: Vec<f32>,
    start: Vec<f32>,
    resets: Vec<bool>,
}

impl Steps {
    /// Gathers the first `width` numbers of each state of the sequences `units`.
    pub(crate) fn gather(&mut self, from: &Rows, units: &[usize], width: usize) {
        let Self { rows, input, start, resets } = self;
        let count = from.begins.len();
        rows.clear();
        rows.extend((0..from.sequence).flat_map(|t| units.iter().map(move |u| u * from.sequence + t)));
        let whole = from.states.len() / count;
        input.clear();
        rows.iter().for_each(|&r| input.extend_from_slice(&from.states[r * whole..][..width]));
        resets.clear();
        resets.extend(rows.iter().map(|&r| from.begins[r]));
        let len = from.memory.len() / (count / from.sequence);
        start.clear();
        units.iter().for_each(|&u| start.extend_from_slice(&from.memory[u * len..][..len]));
    }

    pub(crate) fn sequences(&self) -> Sequences<'_> {
        Sequences { input: &self.input, start: &self.start, resets: &self.resets }
    }
}
