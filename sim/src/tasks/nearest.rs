//! The name that was probably meant.

/// The nearest of `known` to `name` by edit distance (Levenshtein), if any is nearer than half its length.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.into_iter().map(|k| (distance(name, k), k)).min_by_key(|(d, _)| *d)?;
    (best.0 <= best.1.chars().count().max(4) / 2).then_some(best.1)
}

/// `no X called "name"; did you mean "Y"? There are A, B, C`.
pub(super) fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let meant = nearest(name, known.iter().copied()).map(|k| format!("; did you mean \"{k}\"?"));
    let list = if known.is_empty() { "none".into() } else { known.join(", ") };
    format!("no {kind} called \"{name}\"{} There are: {list}", meant.unwrap_or_else(|| ".".into()))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = name.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    let mut rest = rest;
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, expected) in [
            ("*", "FL_hip", true),
            ("FL_*", "FL_hip", true),
            ("*_hip", "FL_hip", true),
            ("*_hip", "FL_hip_x", false),
            ("F*_h*p", "FL_hip", true),
            ("FL_hip", "FL_hip", true),
            ("FL", "FL_hip", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn finds_the_name_meant_and_stays_silent_when_none_is_near() {
        assert_eq!(nearest("tracking_linvel", ["lin_vel_z", "tracking_lin_vel"]), Some("tracking_lin_vel"));
        assert_eq!(nearest("banana", ["lin_vel_z", "torques"]), None);
    }
}
