//! Settings files: TOML whose keys are those of a learner's settings; what it leaves out has its default.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::run_folder::FileError;

/// Reads settings from the `text` of `file`.
///
/// # Errors
/// Names the file, the key and, for an unknown key, the nearest one there is.
pub fn from_toml<C: Default + Serialize + DeserializeOwned>(file: &Path, text: &str) -> Result<C, FileError> {
    let table: Table =
        text.parse().map_err(|e: toml::de::Error| FileError::new(file, "toml", e.message(), NEXT_STEP))?;
    let known = Value::try_from(C::default())
        .map_err(|e| FileError::new(file, "defaults", e, "report this: settings should have a TOML form"))?;
    if let Some((key, problem)) = unknown(&table, &known, "") {
        return Err(FileError::new(file, key, problem, NEXT_STEP));
    }
    // From the text again: its errors name the line.
    toml::from_str(text).map_err(|e| FileError::new(file, "value", e, NEXT_STEP))
}

const NEXT_STEP: &str = "the config.toml of any run folder of this learner lists every key";

/// The first key of `table` that `known` has not, and what is to be said of it.
fn unknown(table: &Table, known: &Value, path: &str) -> Option<(String, String)> {
    let known = known.as_table()?;
    table.iter().find_map(|(key, value)| {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (known.get(key), value) {
            (Some(known), Value::Table(inner)) => unknown(inner, known, &full),
            (Some(_), _) => None,
            (None, _) => {
                let nearest = known.keys().min_by_key(|name| distance(name, key))?;
                Some((full, format!("no such key; did you mean `{nearest}`?")))
            }
        }
    })
}

/// Edits from one word to the other (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PpoConfig;
    use crate::preference::PreferenceConfig;

    #[test]
    fn a_typo_is_refused_with_the_nearest_key_also_in_a_table() {
        let file = Path::new("my.toml");
        let message = from_toml::<PpoConfig>(file, "lerning_rate = 1.0").unwrap_err().to_string();
        assert!(
            message.contains("my.toml: lerning_rate") && message.contains("`learning_rate`"),
            "{message}"
        );
        let message = from_toml::<PreferenceConfig>(file, "[ppo]\nepoch = 3").unwrap_err().to_string();
        assert!(message.contains("ppo.epoch") && message.contains("`epochs`"), "{message}");
    }

    #[test]
    fn a_value_of_another_type_names_its_line() {
        let message =
            from_toml::<PpoConfig>(Path::new("a"), "clip = 0.1\nepochs = \"x\"").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let config: PpoConfig = from_toml(Path::new("a"), "epochs = 3").unwrap();
        assert_eq!(config, PpoConfig { epochs: 3, ..PpoConfig::default() });
    }
}
