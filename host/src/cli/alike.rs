//! Trainings of one task under one set of settings, which differ in their seeds alone.

use super::learn::{MAX_CONFIG, RunInfo, curves_of, info_of, name};
use super::read_text;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What each of `runs` is about; an error where they are no trainings of one kind with a seed each, all done as far.
pub(super) fn infos_of(runs: &[PathBuf]) -> Result<Vec<RunInfo>> {
    let mut infos: Vec<RunInfo> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let (first, info) = (&runs[0], info_of(run)?);
        if index > 0 {
            let difference = difference(first, run)?;
            ensure!(
                difference.is_none(),
                "{}: {}; several runs make one table where they differ in their seeds alone",
                run.display(),
                difference.unwrap_or_default()
            );
            let [done, expected] = [run, first].map(|run| curves_of(run).map(|curves| curves.len()));
            let (done, expected) = (done?, expected?);
            ensure!(
                done == expected,
                "{}: curves.json: {done} iterations, {} has {expected}; let both finish, `tendon train --resume` goes on",
                run.display(),
                first.display()
            );
        }
        if let Some(other) = infos.iter().position(|other| other.seed == info.seed) {
            anyhow::bail!(
                "{}: seed: {} as in {}; give trainings with a seed each",
                run.display(),
                info.seed,
                runs[other].display()
            );
        }
        infos.push(info);
    }
    Ok(infos)
}

/// The first thing beside the seed (and the number of threads, which changes no bit) in which run `b` differs from `a`.
pub(super) fn difference(a: &Path, b: &Path) -> Result<Option<String>> {
    let (one, other) = (info_of(a)?, info_of(b)?);
    let starts = |info: &RunInfo| if info.from.is_some() { "a run" } else { "nothing" };
    for (key, one, other) in [
        ("task", one.task.clone(), other.task.clone()),
        ("learner", name(one.learner), name(other.learner)),
        ("preferences", one.preferences.to_string(), other.preferences.to_string()),
        ("from", starts(&one).into(), starts(&other).into()),
    ] {
        if one != other {
            return Ok(Some(format!("run.toml: {key}: {other}, {} has {one}", a.display())));
        }
    }
    let settings = |run: &Path| -> Result<Table> {
        let file = run.join("config.toml");
        read_text(&file, MAX_CONFIG)?.parse().with_context(|| file.display().to_string())
    };
    let (one, other) = (settings(a)?, settings(b)?);
    Ok(first_difference(&one, &other, "").map(|(key, one, other)| {
        let said = |value: Option<Value>| value.map_or_else(|| "not there".into(), |value| value.to_string());
        format!("config.toml: {key}: {}, {} has {}", said(other), a.display(), said(one))
    }))
}

/// The first key with different values, and these.
fn first_difference(a: &Table, b: &Table, path: &str) -> Option<(String, Option<Value>, Option<Value>)> {
    let missing = b.keys().filter(|key| !a.contains_key(*key));
    a.keys().chain(missing).filter(|key| *key != "threads").find_map(|key| {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (a.get(key), b.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => first_difference(a, b, &full),
            (a, b) if a == b => None,
            (a, b) => Some((full, a.cloned(), b.cloned())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_differ_in_the_first_key_that_changes_a_bit() {
        let difference = |b: &str| {
            let a = "clip = 0.2\nthreads = 1\n[network]\nunits = 64\n".parse().unwrap();
            first_difference(&a, &b.parse().unwrap(), "").map(|(key, ..)| key)
        };
        assert_eq!(difference("clip = 0.2\nthreads = 2\n[network]\nunits = 64\n"), None);
        assert_eq!(difference("clip = 0.2\n[network]\nunits = 32\n").as_deref(), Some("network.units"));
        assert_eq!(difference("clip = 0.2\nnew = 1\n[network]\nunits = 64\n").as_deref(), Some("new"));
        assert_eq!(difference("[network]\nunits = 64\n").as_deref(), Some("clip"));
    }
}
