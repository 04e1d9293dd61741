//! Settings files: TOML whose keys are those of a learner's settings; what it leaves out has its default.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::run_folder::FileError;

/// Reads settings from the `text` of `file`; what it leaves out is as in `default`.
///
/// # Errors
/// Names the file, the key and, for an unknown key, the nearest one there is.
pub fn from_toml<C: Serialize + DeserializeOwned>(
    file: &Path,
    text: &str,
    default: &C,
) -> Result<C, FileError> {
    let table: Table =
        text.parse().map_err(|e: toml::de::Error| FileError::new(file, "toml", e.message(), NEXT_STEP))?;
    let known = Value::try_from(default)
        .map_err(|e| FileError::new(file, "defaults", e, "report this: settings should have a TOML form"))?;
    if let Some((key, problem)) = unknown(&table, &known, "") {
        return Err(FileError::new(file, key, problem, NEXT_STEP));
    }
    // From the text first: its errors name the line.
    let _: C = toml::from_str(text).map_err(|e| FileError::new(file, "value", e, NEXT_STEP))?;
    let whole = over(known, Value::Table(table));
    whole.try_into().map_err(|e| FileError::new(file, "value", e, NEXT_STEP))
}

/// `default` with what `given` says in its place, table by table.
fn over(default: Value, given: Value) -> Value {
    match (default, given) {
        (Value::Table(mut default), Value::Table(given)) => {
            for (key, value) in given {
                let value = match default.remove(&key) {
                    Some(own) => over(own, value),
                    None => value,
                };
                default.insert(key, value);
            }
            Value::Table(default)
        }
        (_, given) => given,
    }
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
    use crate::preference::PreferenceConfig;
    use crate::{ImitationConfig, NetworkConfig, NetworkKind, PpoConfig};

    #[test]
    fn a_typo_is_refused_with_the_nearest_key_also_in_a_table() {
        let file = Path::new("my.toml");
        let message = from_toml(file, "lerning_rate = 1.0", &PpoConfig::default()).unwrap_err().to_string();
        assert!(
            message.contains("my.toml: lerning_rate") && message.contains("`learning_rate`"),
            "{message}"
        );
        let message =
            from_toml(file, "[ppo]\nepoch = 3", &PreferenceConfig::default()).unwrap_err().to_string();
        assert!(message.contains("ppo.epoch") && message.contains("`epochs`"), "{message}");
    }

    #[test]
    fn a_value_of_another_type_names_its_line() {
        let message = from_toml(Path::new("a"), "clip = 0.1\nepochs = \"x\"", &PpoConfig::default())
            .unwrap_err()
            .to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn what_is_left_out_has_the_default_of_the_learner_that_asks() {
        let text = "updates = 3\n[network]\nkind = \"gru\"";
        let config = from_toml(Path::new("a"), text, &ImitationConfig::cloning()).unwrap();
        let network = NetworkConfig::of(NetworkKind::Gru);
        assert_eq!(config, ImitationConfig { updates: 3, network, ..ImitationConfig::cloning() });
    }
}
