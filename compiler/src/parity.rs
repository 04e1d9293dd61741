//! The same policy run two ways, compared row by row: ONNX through tract, the image through the
//! runtime, a recording, a controller over a link.
//!
//! Error of an element: `|a - b| / max(1, |b|)`, `b` being the reference.

use crate::random::Random;
use tendon_runtime::{Image, ImageError, Policy};

pub use crate::reference::OnnxRunner;

/// Largest error at which two ways count as the same.
pub const TOLERANCE: f64 = 1e-5;

/// Result of a comparison over all rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Rows compared.
    pub rows: usize,
    /// Largest error; infinite when one side is NaN and the other not.
    pub max_error: f64,
    /// Where the largest error is.
    pub worst: Option<Place>,
    /// First place beyond the tolerance, by row, then column.
    pub first_divergence: Option<Place>,
}

/// An element of an output.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Row, from 0.
    pub row: usize,
    /// Column `act3`, with its joint when a contract names it.
    pub column: String,
    /// What the reference gives.
    pub expected: f32,
    /// What the other side gives.
    pub found: f32,
}

impl Report {
    /// Whether every element is within the tolerance.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.first_divergence.is_none()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows, largest error {:.2e}", self.rows, self.max_error)?;
        if let Some(place) = &self.worst {
            write!(f, " (row {}, {})", place.row, place.column)?;
        }
        if let Some(Place { row, column, expected, found }) = &self.first_divergence {
            write!(
                f,
                "; first divergence: row {row}, {column}: {found} where the reference gives {expected}"
            )?;
        }
        Ok(())
    }
}

/// Why a comparison has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParityError {
    /// A side failed at a row.
    #[error("{side}, row {row}: {error}")]
    Run {
        /// `reference` or `candidate`.
        side: &'static str,
        /// From 0.
        row: usize,
        /// What it says.
        error: String,
    },
    /// The sides give outputs of different lengths.
    #[error(
        "row {row}: the reference gives {expected} outputs, the candidate {found}: they are different policies"
    )]
    Length {
        /// From 0.
        row: usize,
        /// Of the reference.
        expected: usize,
        /// Of the candidate.
        found: usize,
    },
}

/// Compares two runners on the same inputs, within `tolerance`; 0 compares bit for bit (NaN equals
/// NaN of any payload, -0 differs from 0). `labels`: see [`output_labels`].
///
/// # Errors
/// When a runner fails or the lengths differ.
pub fn compare<A: std::fmt::Display, B: std::fmt::Display>(
    inputs: &[Vec<f32>],
    labels: &[String],
    tolerance: f64,
    mut reference: impl FnMut(&[f32]) -> Result<Vec<f32>, A>,
    mut candidate: impl FnMut(&[f32]) -> Result<Vec<f32>, B>,
) -> Result<Report, ParityError> {
    let mut report = Report::default();
    for (row, input) in inputs.iter().enumerate() {
        let fail = |side, error: String| ParityError::Run { side, row, error };
        let expected = reference(input).map_err(|error| fail("reference", error.to_string()))?;
        let found = candidate(input).map_err(|error| fail("candidate", error.to_string()))?;
        report.add(row, &expected, &found, labels, tolerance)?;
    }
    Ok(report)
}

/// Compares a runner with recorded outputs, one per input.
///
/// # Errors
/// As [`compare`].
pub fn compare_recorded<B: std::fmt::Display>(
    inputs: &[Vec<f32>],
    recorded: &[Vec<f32>],
    labels: &[String],
    tolerance: f64,
    candidate: impl FnMut(&[f32]) -> Result<Vec<f32>, B>,
) -> Result<Report, ParityError> {
    let mut rows = recorded.iter();
    let reference = |_: &[f32]| rows.next().cloned().ok_or("the recording has fewer outputs than inputs");
    compare(inputs, labels, tolerance, reference, candidate)
}

impl Report {
    fn add(
        &mut self,
        row: usize,
        expected: &[f32],
        found: &[f32],
        labels: &[String],
        tolerance: f64,
    ) -> Result<(), ParityError> {
        if expected.len() != found.len() {
            return Err(ParityError::Length { row, expected: expected.len(), found: found.len() });
        }
        for (column, (&expected, &found)) in expected.iter().zip(found).enumerate() {
            let error = error(f64::from(found), f64::from(expected));
            let same_bits = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            let place = || Place {
                row,
                column: labels.get(column).cloned().unwrap_or_else(|| format!("act{column}")),
                expected,
                found,
            };
            if error > self.max_error || self.worst.is_none() {
                self.max_error = error;
                self.worst = Some(place());
            }
            let diverges = if tolerance > 0.0 { error > tolerance } else { !same_bits };
            if diverges && self.first_divergence.is_none() {
                self.first_divergence = Some(place());
            }
        }
        self.rows = self.rows.max(row + 1);
        Ok(())
    }
}

fn error(found: f64, expected: f64) -> f64 {
    if found == expected || found.is_nan() && expected.is_nan() {
        return 0.0;
    }
    let error = (found - expected).abs() / expected.abs().max(1.0);
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Names of the outputs: `act0 (FR_hip_joint)`, or `act0` without a contract.
#[must_use]
pub fn output_labels(n_outputs: usize, contract: Option<&tendon_runtime::spec::ContractSpec>) -> Vec<String> {
    (0..n_outputs)
        .map(|index| match contract.and_then(|contract| contract.actions.get(index)) {
            Some(action) => format!("act{index} ({})", action.joint),
            None => format!("act{index}"),
        })
        .collect()
}

/// `rows` seeded inputs: uniform in `[-1, 1)`, every fourth row four times as large.
#[must_use]
pub fn random_inputs(n_inputs: usize, rows: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = Random::new(seed);
    (0..rows)
        .map(|row| {
            let size = if row % 4 == 3 { 4.0 } else { 1.0 };
            (0..n_inputs).map(|_| size * random.symmetric()).collect()
        })
        .collect()
}

/// An image on the host's runtime.
#[derive(Debug)]
pub struct ImageRunner<'a> {
    policy: Policy<'a>,
    arena: Vec<f32>,
}

impl<'a> ImageRunner<'a> {
    /// Checks the image; `bytes` are 16-byte aligned.
    ///
    /// # Errors
    /// What the runtime refuses.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let policy = Image::parse(bytes)?.policy(bytes).ok_or(ImageError::Section("contract"))?;
        let mut arena = vec![f32::NAN; policy.network.plan().arena_len as usize];
        policy.network.reset(&mut arena);
        Ok(Self { policy, arena })
    }

    /// The policy inside.
    #[must_use]
    pub fn policy(&self) -> &Policy<'a> {
        &self.policy
    }

    /// Forgets the recurrent state.
    pub fn reset(&mut self) {
        self.policy.network.reset(&mut self.arena);
    }

    /// One inference; the recurrent state goes on.
    ///
    /// # Errors
    /// When the input has not the policy's length.
    pub fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, String> {
        let n_inputs = self.policy.network.plan().n_inputs;
        self.policy
            .network
            .run(input, &mut self.arena)
            .map(<[f32]>::to_vec)
            .ok_or_else(|| format!("the input has {} elements, the image takes {n_inputs}", input.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares one row of outputs.
    fn row(expected: &[f32], found: &[f32], tolerance: f64) -> Report {
        let give = |values: &[f32]| Ok::<_, String>(values.to_vec());
        let labels = ["act0 (hip)".to_string(), "act1 (knee)".to_string()];
        compare(&[vec![0.0]], &labels, tolerance, |_| give(expected), |_| give(found)).unwrap()
    }

    #[test]
    fn the_first_divergence_is_named_by_row_and_joint() {
        let report = row(&[100.0, 0.5], &[100.0005, 0.6], TOLERANCE);
        assert!(!report.passed());
        assert!(
            report
                .to_string()
                .ends_with("first divergence: row 0, act1 (knee): 0.6 where the reference gives 0.5")
        );
        assert!(
            row(&[100.0, 0.5], &[100.0005, 0.500_009], TOLERANCE).passed(),
            "relative above 1, absolute below"
        );
    }

    #[test]
    fn a_nan_on_one_side_is_an_infinite_error() {
        assert_eq!(row(&[1.0, 2.0], &[1.0, f32::NAN], TOLERANCE).max_error, f64::INFINITY);
        assert!(!row(&[f32::INFINITY, 2.0], &[1.0, 2.0], TOLERANCE).passed());
        assert!(row(&[f32::NAN, 2.0], &[f32::NAN, 2.0], TOLERANCE).passed());
    }

    #[test]
    fn without_tolerance_every_bit_counts() {
        assert!(row(&[1.0, 0.0], &[1.0, 0.0], 0.0).passed());
        assert!(!row(&[1.0, 0.0], &[1.0 + f32::EPSILON, 0.0], 0.0).passed());
        assert!(!row(&[1.0, 0.0], &[1.0, -0.0], 0.0).passed());
    }

    #[test]
    fn outputs_of_different_length_and_failing_runners_are_errors() {
        let one = |_: &[f32]| Ok::<_, String>(vec![1.0]);
        let two = |_: &[f32]| Ok::<_, String>(vec![1.0, 2.0]);
        let fails = |_: &[f32]| Err::<Vec<f32>, _>("link lost");
        let rows = [vec![0.0], vec![0.0]];
        assert!(matches!(compare(&rows, &[], 0.0, one, two), Err(ParityError::Length { row: 0, .. })));
        let text = compare(&rows, &[], 0.0, one, fails).unwrap_err().to_string();
        assert_eq!(text, "candidate, row 0: link lost");
        let text = compare_recorded(&rows, &[vec![1.0]], &[], 0.0, one).unwrap_err().to_string();
        assert!(text.contains("fewer outputs than inputs"));
    }
}
