//! Networks on the emulated controller beside the runtime's bound in closed form: every count is below its bound, and
//! counts do not depend on the input. `cargo xtask campaign cost` runs it.

use crate::count::{Counted, INSTRUCTIONS_PER_COUNT, Job, count};
use anyhow::{Context, Result, ensure};
use tendon_compiler::parity::{ImageRunner, random_inputs};
use tendon_compiler::sample::{Cell, Hidden, conv_encoder, mlp, operators, random_network, recurrent};
use tendon_compiler::{ContractChoice, Options, compile};
use tendon_runtime::cost::instructions;
use tendon_runtime::{AlignedBytes, Network};

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Random dense networks.
    pub dense: u64,
    /// Random networks over all operators.
    pub mixed: u64,
    /// Inputs of each, counted to [`INSTRUCTIONS_PER_COUNT`].
    pub inputs: usize,
    /// Inputs of each that are counted to one instruction, four times as many of the smallest.
    pub exact: usize,
    /// Inputs of each operator's sample.
    pub sample_inputs: usize,
}

impl Size {
    /// What the tests run.
    pub const SHORT: Self = Self { dense: 60, mixed: 60, inputs: 16, exact: 4, sample_inputs: 16 };
    /// The campaign.
    pub const LONG: Self = Self { dense: 1000, mixed: 1000, inputs: 100, exact: 3, sample_inputs: 10_000 };
}

/// What kind of network a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `f32`, dense layers only: the bound is held to 1.3 of the count.
    Dense,
    /// Any operators.
    Mixed,
}

/// One network.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Of which family.
    pub family: Family,
    /// Instructions of an inference, mean over inputs.
    pub counted: f64,
    /// The bound.
    pub bound: u64,
    /// Instructions between the dearest and the cheapest input, to one instruction.
    pub spread: f64,
    /// The same over the many inputs, to [`INSTRUCTIONS_PER_COUNT`].
    pub coarse_spread: u64,
    /// Inputs that were run.
    pub inputs: usize,
}

impl Row {
    /// Bound over count.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.bound as f64 / self.counted.max(1.0)
    }

    /// What does not hold, in words.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let name = &self.name;
        if self.counted > self.bound as f64 {
            return Some(format!("{name}: {:.1} counted, bound {}", self.counted, self.bound));
        }
        if self.spread > 0.0 || self.coarse_spread > INSTRUCTIONS_PER_COUNT {
            let (fine, coarse) = (self.spread, self.coarse_spread);
            return Some(format!("{name}: the count depends on the input, by {fine:.1} (of many {coarse})"));
        }
        (self.family == Family::Dense && self.ratio() > MOST_DENSE)
            .then(|| format!("{name}: bound {} is {:.3} times the count", self.bound, self.ratio()))
    }
}

/// The bound of a dense network is at most this many times its count.
const MOST_DENSE: f64 = 1.3;
/// Repeats of an input that is counted to one instruction: as many as a count has instructions.
const REPEATS: u32 = INSTRUCTIONS_PER_COUNT as u32;
/// A sum over [`REPEATS`] is exact where the period of the repeats has no factor in common with a count, which is so for
/// one of as many pads.
const PADS: u32 = 4;

/// Networks that are no sample: name, family, image.
fn networks(size: &Size) -> Result<Vec<(String, Family, AlignedBytes)>> {
    let options = Options { contract: ContractChoice::Bare, golden_vectors: 1, ..Options::default() };
    let mut all = Vec::new();
    let mut add = |name: String, family, onnx: &[u8]| -> Result<()> {
        let image = compile(onnx, &options).with_context(|| name.clone())?.image;
        all.push((name, family, image));
        Ok(())
    };
    for seed in 1..=size.dense {
        // Sizes from the bits of a multiplicative hash: 1 to 48 inputs, one to three layers of 1 to 64.
        let hash = |place: u64| ((seed * 31 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize;
        let layers = 1 + hash(0) % 3;
        let mut sizes = vec![1 + hash(1) % 48];
        (0..layers).for_each(|layer| sizes.push(1 + hash(2 + layer as u64) % 64));
        let hidden = [Hidden::Relu, Hidden::Tanh, Hidden::Swish][hash(9) % 3];
        let names: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        add(format!("{} {hidden:?}", names.join("-")), Family::Dense, &mlp(&sizes, hidden, seed))?;
    }
    for seed in 1..=size.mixed {
        let (name, onnx) = random_network(seed);
        add(name, Family::Mixed, &onnx)?;
    }
    // Shapes that policies have.
    add("48-512-256-128-12 Swish".into(), Family::Dense, &mlp(&[48, 512, 256, 128, 12], Hidden::Swish, 1))?;
    add("LSTM 47-64 + 32".into(), Family::Mixed, &recurrent(Cell::Lstm, 47, 64, 32, 12, 1))?;
    add("GRU 48-64".into(), Family::Mixed, &recurrent(Cell::Gru, 48, 64, 0, 12, 1))?;
    add("Conv encoder 1x32x32".into(), Family::Mixed, &conv_encoder(32, &[8, 16], 32, 1))?;
    Ok(all)
}

/// Random numbers with what is special among them: zeros, infinities, NaN, subnormal, huge and tiny ones.
fn pool(len: usize) -> Vec<f32> {
    const SPECIAL: [f32; 16] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40,
        -1e-40,
        3e38,
        -3e38,
        1e-20,
        88.5,
        -88.5,
        0.5,
        1e7,
    ];
    let random = random_inputs(1024, len.div_ceil(1024), 7).concat();
    let special = |(place, x): (usize, f32)| {
        let pick = place.wrapping_mul(0x9e37_79b1) >> 7;
        match place / 256 % 4 {
            // Runs of ordinary numbers, runs with some special ones among them.
            1 | 3 if pick % 5 == 0 => SPECIAL[pick / 5 % SPECIAL.len()],
            2 => 8.0 * x,
            _ => x,
        }
    };
    random.into_iter().take(len).enumerate().map(special).collect()
}

/// Runs everything. The controller computes bit for bit what this computer does, on all inputs.
///
/// # Errors
/// QEMU or the program for it is missing, or outputs differ.
pub fn campaign(size: &Size) -> Result<Vec<Row>> {
    let mut all: Vec<(String, Family, AlignedBytes, usize)> = Vec::new();
    for (name, family, image) in networks(size)? {
        all.push((name, family, image, size.inputs));
    }
    for sample in operators() {
        let image = sample.compile()?.image;
        all.push((sample.name, Family::Mixed, image, size.sample_inputs));
    }
    let runners: Vec<ImageRunner> =
        all.iter().map(|(_, _, image, _)| ImageRunner::new(image)).collect::<Result<_, _>>()?;
    let networks: Vec<Network<'_>> = runners.iter().map(|runner| runner.policy().network).collect();
    let longest =
        networks.iter().zip(&all).map(|(network, (.., inputs))| inputs * network.plan().n_inputs as usize);
    let pool = pool(longest.max().unwrap_or(0).min(1 << 20));
    let exact: Vec<Job<'_>> = networks
        .iter()
        .map(|&network| {
            // More where an inference is short.
            let exact = match instructions(&network) {
                0..3_000 => 4 * size.exact,
                3_000..300_000 => size.exact,
                _ => 1,
            };
            Job { network, inputs: exact, repeats: REPEATS, pad: 0 }
        })
        .collect();
    let many: Vec<Job<'_>> = networks
        .iter()
        .zip(&all)
        .map(|(&network, (.., inputs))| Job { network, inputs: *inputs, repeats: 1, pad: 0 })
        .collect();
    let mut exact_counts = count(&exact, &pool)?;
    for pad in 1..PADS {
        let padded: Vec<Job<'_>> = exact.iter().map(|job| Job { pad, ..*job }).collect();
        for (best, found) in exact_counts.iter_mut().zip(count(&padded, &pool)?) {
            let spread = |counted: &Option<Counted>| counted.map_or(u32::MAX, |c| c.most - c.least);
            if spread(&found) < spread(&*best) {
                *best = found;
            }
        }
    }
    let many_counts = count(&many, &pool)?;
    let mut rows = Vec::new();
    for (index, (name, family, ..)) in all.iter().enumerate() {
        let refused = || format!("{name}: the controller refused the network");
        let fine = exact_counts[index].with_context(refused)?;
        let coarse = many_counts[index].with_context(refused)?;
        let network = &networks[index];
        let n_inputs = network.plan().n_inputs.max(1) as usize;
        let ran = many[index].inputs.min(pool.len() / n_inputs);
        compare(name, network, &pool, ran, &coarse)?;
        let per = f64::from(REPEATS);
        let fine_ran = exact[index].inputs.min(pool.len() / n_inputs).max(1);
        let instructions_of =
            |counts: u32, inferences: f64| f64::from(counts) * INSTRUCTIONS_PER_COUNT as f64 / inferences;
        rows.push(Row {
            name: name.clone(),
            family: *family,
            counted: instructions_of(fine.total, per * fine_ran as f64),
            bound: instructions(network),
            spread: instructions_of(fine.most - fine.least, per),
            coarse_spread: u64::from(coarse.most - coarse.least) * INSTRUCTIONS_PER_COUNT,
            inputs: ran,
        });
    }
    Ok(rows)
}

/// Whether this computer's outputs have the hash that `tendon-count` gave.
pub(crate) fn compare(
    name: &str,
    network: &Network<'_>,
    pool: &[f32],
    inputs: usize,
    counted: &Counted,
) -> Result<()> {
    let n_inputs = network.plan().n_inputs.max(1) as usize;
    let mut arena = vec![0.0; network.plan().arena_len as usize];
    network.reset(&mut arena);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for input in pool.chunks_exact(n_inputs).take(inputs) {
        for value in network.run(input, &mut arena).context("a length does not fit")? {
            let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
            hash = (hash ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3);
        }
    }
    ensure!(hash == counted.hash, "{name}: the controller's outputs are not this computer's, bit for bit");
    Ok(())
}
