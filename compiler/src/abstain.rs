//! Which observations a policy was recorded with: range and density of recorded observations, and a threshold for both
//! by conformal calibration on observations held out.
//!
//! Every run is cut into blocks, by turns for the statistics and for the threshold. The score of an observation is
//! that of [`Abstention`]; the statistic is the controller's own: the `needed`-th largest of the last `window` scores. Of `m`
//! statistics held out the threshold is the `ceil((m + 1) (1 - alpha))`-th smallest (Vovk et al. 2005; Angelopoulos and
//! Bates 2021, 1.1): a new one exceeds it with probability `alpha` at most, if it is exchangeable with them.

use crate::error::CompileError;
use nalgebra::{DMatrix, SymmetricEigen};
use tendon_runtime::Abstention;
use tendon_runtime::abstention::{MAX_WINDOW, Window};
use tendon_runtime::spec::ContractSpec;
use tendon_wire::image::{AbstentionHeader, signal};

/// Ticks of a block.
const BLOCK: usize = 50;
/// Elements up to which the whole covariance is kept.
const FULL: usize = 64;
/// Rows of the basis beyond.
const RANK: usize = 32;
/// Smallest variance in any direction, of a unit one per element: what recordings show less of is noise.
const FLOOR: f64 = 1e-3;
/// An element with less deviation than this share of its size does not vary.
const STILL: f64 = 1e-5;
/// Share of the recorded observations whose scores are below 1.
const UNIT: f64 = 0.99;

/// What to calibrate on, and how careful to be.
#[derive(Clone, Copy, Debug)]
pub struct Abstain<'a> {
    /// Runs of observations `[n_inputs]` in order, as the controller saw them.
    pub runs: &'a [Vec<Vec<f32>>],
    /// Share of ticks at which the controller may abstain from observations like the recorded ones.
    pub false_alarm: f64,
    /// Ticks looked at.
    pub window: u16,
    /// Unlikely ones among them.
    pub needed: u16,
}

/// Result of a calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct AbstentionReport {
    /// Observations that the statistics come from.
    pub fitted: usize,
    /// Windows that the threshold comes from.
    pub calibrated: usize,
    /// The threshold.
    pub threshold: f32,
    /// Largest statistic among them.
    pub largest: f32,
    /// Rows of the basis.
    pub rank: usize,
    /// Elements that did not vary in the recording: only their range is watched.
    pub still: Vec<usize>,
}

/// Ranges that people chose for an element: of commands and preference inputs, scaled as the observation is.
fn chosen(spec: &ContractSpec, n: usize) -> Option<Vec<Option<[f32; 2]>>> {
    let compiled = spec.compile().ok()?;
    let contract = compiled.view();
    let mut ranges = Vec::new();
    for term in contract.terms {
        let width = usize::from(term.width);
        let values = contract.values.get(term.values as usize..)?;
        for _ in 0..term.history {
            for element in 0..width {
                let inputs = match term.signal {
                    signal::COMMAND => &spec.commands,
                    signal::PREFERENCE => &spec.preferences,
                    _ => {
                        ranges.push(None);
                        continue;
                    }
                };
                let at = |block: usize| values.get(block * width + element).copied().unwrap_or(0.0);
                let ends = inputs.get(usize::from(term.first) + element)?.range;
                let [a, b] = ends.map(|end| (end * at(0) + at(1)).clamp(at(2), at(3)));
                ranges.push(Some([a.min(b), a.max(b)]));
            }
        }
    }
    (ranges.len() == n).then_some(ranges)
}

/// The abstention section.
pub(crate) fn calibrate(
    abstain: &Abstain<'_>,
    n: usize,
    spec: Option<&ContractSpec>,
) -> Result<(Vec<u8>, AbstentionReport), CompileError> {
    let fail = |problem: String| Err(CompileError::Mismatch(format!("abstention: {problem}")));
    let Abstain { runs, false_alarm, window, needed } = *abstain;
    if !(1..=MAX_WINDOW as u16).contains(&window) || !(1..=window).contains(&needed) {
        return fail(format!(
            "{needed} of {window} ticks: give 1 to {MAX_WINDOW} ticks, and as many or fewer of them"
        ));
    }
    if !(false_alarm > 0.0 && false_alarm < 1.0) {
        return fail(format!("a false-alarm rate of {false_alarm}: give one between 0 and 1"));
    }
    if let Some(row) = runs.iter().flatten().find(|row| row.len() != n) {
        return fail(format!("recorded observations of {} elements, the network takes {n}", row.len()));
    }
    // Turns begin with another one in every run, so that beginnings are on both sides.
    let blocks = || {
        let runs = runs.iter().enumerate();
        runs.flat_map(|(first, run)| run.chunks(BLOCK).enumerate().map(move |(i, block)| (first + i, block)))
    };
    let fitted: Vec<&Vec<f32>> = blocks().filter(|(i, _)| i % 2 == 0).flat_map(|(_, block)| block).collect();
    let held_out: Vec<&[Vec<f32>]> = blocks().filter(|(i, _)| i % 2 == 1).map(|(_, block)| block).collect();
    let windows: usize = held_out.iter().map(|block| (block.len() + 1).saturating_sub(window.into())).sum();
    let rank = ((windows + 1) as f64 * (1.0 - false_alarm)).ceil() as usize;
    if rank > windows {
        return fail(format!(
            "{windows} windows held out, a false-alarm rate of {false_alarm} needs {} at least: record longer or choose a larger --false-alarm",
            (1.0 / false_alarm).ceil() - 1.0
        ));
    }
    let mut section = fit(&fitted, n, spec);
    if fitted.len() < 2 * section.varying.len() {
        return fail(format!(
            "statistics of {} elements from {} observations: record at least {}",
            section.varying.len(),
            fitted.len(),
            4 * section.varying.len()
        ));
    }
    section.header.window = window;
    section.header.needed = needed;
    section.header.false_alarm = false_alarm as f32;
    section.header.fitted = fitted.len() as u32;
    section.header.calibrated = windows as u32;
    section.header.threshold = f32::MAX;
    // Scores by the controller's own arithmetic, in units of the recorded ones.
    let scores = |section: &Section, of: fn(&Abstention<'_>, &[f32]) -> f32, rows: &[&Vec<f32>]| {
        let bytes = section.words();
        let view = Abstention::split(bytemuck::cast_slice(&bytes)).map(|view| {
            let mut scores: Vec<f32> = rows.iter().map(|row| of(&view, row)).collect();
            scores.sort_by(f32::total_cmp);
            scores
        });
        view.unwrap_or_default()
    };
    let unit = |sorted: &[f32]| {
        let place = (sorted.len() as f64 * UNIT) as usize;
        sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(1.0).max(1e-6)
    };
    let density = scores(&section, |view, row| view.density(row), &fitted);
    let range = scores(&section, |view, row| view.range(row), &fitted);
    (section.header.density_scale, section.header.range_scale) = (1.0 / unit(&density), 1.0 / unit(&range));
    let bytes = section.words();
    let Some(view) = Abstention::split(bytemuck::cast_slice(&bytes)) else {
        return Err(CompileError::Image("abstention section".into()));
    };
    let mut statistics = Vec::with_capacity(windows);
    for block in held_out {
        let mut last = Window::default();
        for (tick, row) in block.iter().enumerate() {
            let statistic = last.push(view.header, view.score(row));
            if tick + 1 >= window.into() {
                statistics.push(statistic);
            }
        }
    }
    statistics.sort_by(f32::total_cmp);
    section.header.threshold = statistics[rank - 1];
    let report = AbstentionReport {
        fitted: fitted.len(),
        calibrated: windows,
        threshold: section.header.threshold,
        largest: statistics[windows - 1],
        rank: section.header.rank as usize,
        still: (0..n).filter(|element| !section.varying.contains(element)).collect(),
    };
    if !report.threshold.is_finite() || report.threshold <= 0.0 {
        return fail(format!(
            "the threshold would be {}: are the recordings of this policy?",
            report.threshold
        ));
    }
    Ok((bytemuck::cast_slice(&section.words()).to_vec(), report))
}

/// The section before it is bytes.
struct Section {
    header: AbstentionHeader,
    values: Vec<f32>,
    varying: Vec<usize>,
}

impl Section {
    fn words(&self) -> Vec<u32> {
        let mut words: Vec<u32> = bytemuck::cast_slice(bytemuck::bytes_of(&self.header)).to_vec();
        words.extend_from_slice(bytemuck::cast_slice(&self.values));
        words
    }
}

/// Range, mean, scale and principal directions of `rows`.
fn fit(rows: &[&Vec<f32>], n: usize, spec: Option<&ContractSpec>) -> Section {
    let count = rows.len().max(1) as f64;
    let mean: Vec<f64> =
        (0..n).map(|i| rows.iter().map(|row| f64::from(row[i])).sum::<f64>() / count).collect();
    let deviation: Vec<f64> = (0..n)
        .map(|i| (rows.iter().map(|row| (f64::from(row[i]) - mean[i]).powi(2)).sum::<f64>() / count).sqrt())
        .collect();
    let varies = |i: &usize| deviation[*i] > STILL * mean[*i].abs().max(1.0);
    let varying: Vec<usize> = (0..n).filter(varies).collect();
    let chosen = spec.and_then(|spec| chosen(spec, n)).unwrap_or_else(|| vec![None; n]);
    let ends = (0..n).map(|i| {
        let low = rows.iter().map(|row| row[i]).fold(f32::INFINITY, f32::min);
        let high = rows.iter().map(|row| row[i]).fold(f32::NEG_INFINITY, f32::max);
        let [low, high] = chosen[i].map_or([low, high], |[a, b]| [low.min(a), high.max(b)]);
        // A range of one point is none.
        let least = 1e-3 * low.abs().max(high.abs()).max(1.0);
        if high - low < least { [low - least, high + least] } else { [low, high] }
    });
    let ends: Vec<[f32; 2]> = ends.collect();

    let z = DMatrix::from_fn(rows.len(), varying.len(), |row, column| {
        let i = varying[column];
        (f64::from(rows[row][i]) - mean[i]) / deviation[i]
    });
    let eigen = SymmetricEigen::new(z.transpose() * &z / count);
    let mut order: Vec<usize> = (0..varying.len()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let rank = if varying.len() <= FULL { varying.len() } else { RANK };
    let (kept, rest) = order.split_at(rank);
    let variance = |&place: &usize| eigen.eigenvalues[place].max(FLOOR);
    // What the basis does not span counts with its mean variance (Tipping and Bishop 1999, eq. 8).
    let residual = match rest.len() {
        0 => 0.0,
        count => count as f64 / rest.iter().map(variance).sum::<f64>(),
    };
    let mut values: Vec<f32> = ends.iter().map(|[low, _]| *low).collect();
    values.extend(ends.iter().map(|[_, high]| high));
    values.extend(mean.iter().map(|&mean| mean as f32));
    values.extend((0..n).map(|i| if varies(&i) { (1.0 / deviation[i]) as f32 } else { 0.0 }));
    values.extend(kept.iter().map(|place| (1.0 / variance(place) - residual) as f32));
    for &place in kept {
        let mut row = vec![0.0; n];
        for (column, &i) in varying.iter().enumerate() {
            row[i] = eigen.eigenvectors[(column, place)] as f32;
        }
        values.extend(row);
    }
    let header = AbstentionHeader {
        n: n as u32,
        rank: rank as u32,
        window: 1,
        needed: 1,
        threshold: 0.0,
        residual: residual as f32,
        density_scale: 1.0,
        range_scale: 1.0,
        false_alarm: 0.0,
        calibrated: 0,
        fitted: 0,
    };
    Section { header, values, varying }
}
