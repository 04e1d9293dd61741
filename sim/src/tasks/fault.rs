//! Faults of task files, with the line that they lie on: the one place where fields are matched with lines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

/// A task file that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
pub struct SpecFault {
    /// The file.
    pub file: PathBuf,
    /// Line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// Field, value and next step.
    pub problem: String,
}

impl SpecFault {
    pub(super) fn new(file: &Path, problem: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line: None, problem: problem.into() }
    }
}

/// The text that a task was read from; nothing for a task that was changed afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Source(Option<Arc<str>>);

impl PartialEq for Source {
    /// Tasks are equal whatever they were read from.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Source {
    pub(super) fn new(text: &str) -> Self {
        Self(Some(text.into()))
    }

    /// Line of a field like `rewards[3].axis`; where it is left out, of the table that it belongs into.
    pub(super) fn line(&self, field: &str) -> Option<usize> {
        let text = self.0.as_deref()?;
        let document = DeTable::parse(text).ok()?;
        let mut parts = field.split(['.', '[']).map(|part| part.trim_end_matches(']'));
        let (key, mut value) = document.get_ref().get_key_value(parts.next()?)?;
        let mut start = key.span().start;
        for part in parts {
            let next = match value.get_ref() {
                DeValue::Table(table) => table.get_key_value(part).map(|(key, value)| (key.span(), value)),
                DeValue::Array(array) => {
                    part.parse::<usize>().ok().and_then(|i| array.get(i)).map(|value| (value.span(), value))
                }
                _ => None,
            };
            let Some((span, next)) = next else { break };
            (start, value) = (span.start, next);
        }
        Some(line_of(text, start))
    }
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_line_that_they_stand_on() {
        let source = Source::new(
            "a = 1\nb = [\n  { x = 1 },\n  { x = 2, y = [3,\n    4] },\n]\n\n[c]\nd = 5\n[[e.f]]\ng = 6\n[[e.f]]\ng = 7\n",
        );
        for (field, line) in [
            ("a", Some(1)),
            ("b", Some(2)),
            ("b[0].x", Some(3)),
            ("b[1].y", Some(4)),
            ("b[1].y[1]", Some(5)),
            ("c", Some(8)),
            ("c.d", Some(9)),
            ("e.f[1].g", Some(13)),
            // Left out: the table it belongs into.
            ("b[1].z", Some(4)),
            ("e.f[1].h", Some(12)),
            ("z", None),
        ] {
            assert_eq!(source.line(field), line, "{field}");
        }
        assert_eq!(Source::default().line("a"), None);
    }
}
