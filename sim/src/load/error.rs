//! What is wrong with a robot file, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A robot file that cannot be loaded: file, line where known, field, value, reason and the next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// The file the fault lies in (an include's own name, not the main file's).
    pub file: PathBuf,
    /// Line, counted from 1, where the parser knows it.
    pub line: Option<u32>,
    /// Element and attribute, like `<inertial> mass`.
    pub field: String,
    /// The value found; empty where none applies.
    pub value: String,
    /// Why it cannot be used.
    pub problem: String,
    /// What the user can do.
    pub next_step: &'static str,
}

impl LoadError {
    pub(super) fn new(
        file: &Path,
        field: impl Into<String>,
        value: impl ToString,
        problem: impl Into<String>,
        next_step: &'static str,
    ) -> Self {
        // A value comes from the file: keep messages short whatever it holds.
        let value: String = value.to_string().chars().take(80).collect();
        Self {
            file: file.to_path_buf(),
            line: None,
            field: field.into(),
            value,
            problem: problem.into(),
            next_step,
        }
    }

    pub(super) fn at_line(mut self, line: u32) -> Self {
        self.line = Some(line);
        self
    }

    /// Where the element stands, if that is known.
    pub(super) fn at(mut self, place: Option<&Place>) -> Self {
        if let Some(Place { file, line }) = place {
            self.file.clone_from(file);
            self.line = Some(*line);
        }
        self
    }
}

/// Where an element stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// An include's own name, not the main file's.
    pub(super) file: PathBuf,
    pub(super) line: u32,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.field)?;
        if !self.value.is_empty() {
            write!(f, " \"{}\"", self.value)?;
        }
        write!(f, ": {}; {}", self.problem, self.next_step)
    }
}

/// Something a robot file asks for that the simulation leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// File the element stands in.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: u32,
    /// Element, or element and attribute.
    pub element: String,
    /// What happens instead.
    pub effect: &'static str,
}
