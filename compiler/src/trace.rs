//! Recorded rows of observation and action: CSV with columns `obs0..` and `act0..`.

use std::io::Read;

/// Most rows of a trace.
pub const MAX_ROWS: usize = 1_000_000;

/// Rows of a recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// `[rows][n_inputs]`
    pub observations: Vec<Vec<f32>>,
    /// `[rows][n_outputs]`
    pub actions: Vec<Vec<f32>>,
}

/// What is wrong with a trace. Rows count from 1 below the header, as lines of the file minus one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// No CSV.
    #[error("it is no CSV: {0}")]
    Csv(String),
    /// The header is not `obs0..`, `act0..`.
    #[error(
        "column {column} is `{found}`, expected `{expected}`: the policy takes {n_inputs} observations and gives {n_outputs} actions"
    )]
    Column {
        /// From 1.
        column: usize,
        /// Name found; empty when the header ends before.
        found: String,
        /// Name expected; empty when the header should have ended.
        expected: String,
        /// Of the policy.
        n_inputs: usize,
        /// Of the policy.
        n_outputs: usize,
    },
    /// A value is no finite number.
    #[error("row {row}, column `{column}`: `{value}` is no finite number")]
    Value {
        /// From 1, below the header.
        row: usize,
        /// Name of the column.
        column: String,
        /// What stands there.
        value: String,
    },
    /// No rows, or too many.
    #[error("it has {0} rows: between 1 and {MAX_ROWS} are compared")]
    Rows(usize),
}

impl Trace {
    /// Reads a CSV whose columns fit a policy with these counts.
    ///
    /// # Errors
    /// The first column or value that does not fit, by name.
    pub fn read(reader: impl Read, n_inputs: usize, n_outputs: usize) -> Result<Self, TraceError> {
        let mut reader = csv::Reader::from_reader(reader);
        let names: Vec<String> = (0..n_inputs)
            .map(|index| format!("obs{index}"))
            .chain((0..n_outputs).map(|index| format!("act{index}")))
            .collect();
        let headers = reader.headers().map_err(|error| TraceError::Csv(error.to_string()))?;
        for index in 0..names.len().max(headers.len()) {
            let found = headers.get(index).unwrap_or("").trim();
            let expected = names.get(index).map_or("", String::as_str);
            if found != expected {
                let (found, expected) = (found.to_string(), expected.to_string());
                return Err(TraceError::Column { column: index + 1, found, expected, n_inputs, n_outputs });
            }
        }
        let mut trace = Self::default();
        for (row, record) in reader.records().enumerate() {
            let record = record.map_err(|error| TraceError::Csv(error.to_string()))?;
            if row == MAX_ROWS {
                return Err(TraceError::Rows(row + 1));
            }
            let mut values = Vec::with_capacity(names.len());
            for (text, column) in record.iter().zip(&names) {
                let value = text.trim().parse::<f32>().ok().filter(|value| value.is_finite());
                values.push(value.ok_or_else(|| TraceError::Value {
                    row: row + 1,
                    column: column.clone(),
                    value: text.to_string(),
                })?);
            }
            trace.actions.push(values.split_off(n_inputs.min(values.len())));
            trace.observations.push(values);
        }
        if trace.observations.is_empty() {
            return Err(TraceError::Rows(0));
        }
        Ok(trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, TraceError> {
        Trace::read(text.as_bytes(), 2, 1)
    }

    #[test]
    fn reads_rows_of_observation_and_action() {
        let trace = read("obs0,obs1,act0\n1,2,3\n-4e-3,5.5,6\n").unwrap();
        assert_eq!(trace.observations, [[1.0, 2.0], [-4e-3, 5.5]]);
        assert_eq!(trace.actions, [[3.0], [6.0]]);
    }

    #[test]
    fn names_the_row_and_column_that_do_not_fit() {
        let text = |text| read(text).unwrap_err().to_string();
        assert!(text("obs0,act0\n1,2\n").contains("column 2 is `act0`, expected `obs1`"));
        assert!(text("obs0,obs1,act0,act1\n1,2,3,4\n").contains("column 4 is `act1`, expected ``"));
        assert!(text("obs0,obs1,act0\n1,2,3\n1,x,3\n").contains("row 2, column `obs1`: `x`"));
        assert!(text("obs0,obs1,act0\n1,2,NaN\n").contains("column `act0`: `NaN`"));
        assert!(text("obs0,obs1,act0\n1,2\n").contains("no CSV"));
        assert!(text("obs0,obs1,act0\n").contains("0 rows"));
    }
}
