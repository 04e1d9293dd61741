//! Preferences on disk: append-only JSON lines, each with its CRC.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{Preference, Segment};
use crate::run_folder::{FileError, read_limited, write_atomically};
use tendon_wire::CRC32C;

/// Larger files of preferences are not read, bytes.
const SIZE_LIMIT: u64 = 1 << 30;

/// Segments and preferences of one run.
///
/// A line is `{"record":{..},"crc32c":"89abcdef"}`; the CRC is that of the bytes of the record. Segments stand before the preferences
/// that name them. A crash can leave half a line at the end: it is dropped on opening. Any other damage is an error.
#[derive(Clone, Debug, Default)]
pub struct PreferenceStore {
    file: Option<PathBuf>,
    segments: Vec<Segment>,
    preferences: Vec<Preference>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Record {
    Segment(Segment),
    Preference(Preference),
}

const PREFIX: &str = "{\"record\":";
const MIDDLE: &str = ",\"crc32c\":\"";
const SUFFIX: &str = "\"}";
const NEXT_STEP: &str = "restore the file from a copy, or delete this line and those that depend on it";

impl PreferenceStore {
    /// A store without a file.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens `file`, or begins it.
    ///
    /// # Errors
    /// When it cannot be read or a line is damaged: file, line, field and next step are named.
    pub fn open(file: &Path) -> Result<Self, FileError> {
        let mut store = Self { file: Some(file.into()), ..Self::default() };
        if !file.exists() {
            return Ok(store);
        }
        let bytes = read_limited(file, SIZE_LIMIT, "split the file")?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        for (number, line) in
            bytes[..whole].split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
        {
            let fail = |field: &str, problem: String| {
                FileError::new(file, format!("line {}: {field}", number + 1), problem, NEXT_STEP)
            };
            match parse(line).map_err(|(field, problem)| fail(field, problem))? {
                Record::Segment(segment) => {
                    store.accept_segment(segment).map_err(|(field, problem)| fail(field, problem))?
                }
                Record::Preference(preference) => {
                    store.accept_preference(preference).map_err(|(field, problem)| fail(field, problem))?;
                }
            }
        }
        if whole < bytes.len() {
            write_atomically(file, &bytes[..whole])?;
        }
        Ok(store)
    }

    /// The segments; the index is the id.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The preferences in the order given.
    pub fn preferences(&self) -> &[Preference] {
        &self.preferences
    }

    /// Answers that can be learned from.
    pub fn labels(&self) -> u64 {
        self.preferences.iter().filter(|p| p.left_probability().is_some()).count() as u64
    }

    /// Adds new records, on disk with one fsync before they count. Ids of segments go on from `segments().len()`.
    ///
    /// # Errors
    /// When a record is invalid or the disk refuses.
    pub fn append(&mut self, segments: Vec<Segment>, preferences: Vec<Preference>) -> Result<(), FileError> {
        let before = (self.segments.len(), self.preferences.len());
        let result = self.try_append(segments, preferences);
        if result.is_err() {
            self.segments.truncate(before.0);
            self.preferences.truncate(before.1);
        }
        result
    }

    /// Drops what was added after the first `segments` and `preferences`: a learner that goes back to a checkpoint asks again.
    ///
    /// # Errors
    /// When the disk refuses, or fewer are there.
    pub(crate) fn truncate(&mut self, segments: usize, preferences: usize) -> Result<(), FileError> {
        let file = self.file.clone().unwrap_or_default();
        if self.segments.len() < segments || self.preferences.len() < preferences {
            let problem = format!(
                "{} segments and {} preferences, the checkpoint knows {segments} and {preferences}",
                self.segments.len(),
                self.preferences.len()
            );
            return Err(FileError::new(
                file,
                "length",
                problem,
                "restore the file from a copy, or train anew",
            ));
        }
        self.segments.truncate(segments);
        self.preferences.truncate(preferences);
        if self.file.is_some() {
            let records = self
                .segments
                .iter()
                .cloned()
                .map(Record::Segment)
                .chain(self.preferences.iter().cloned().map(Record::Preference));
            let text = records.map(|record| line(&record, &file)).collect::<Result<String, _>>()?;
            write_atomically(&file, text.as_bytes())?;
        }
        Ok(())
    }

    fn try_append(&mut self, segments: Vec<Segment>, preferences: Vec<Preference>) -> Result<(), FileError> {
        let file = self.file.clone().unwrap_or_default();
        let invalid = |(field, problem): (&str, String)| {
            FileError::new(&file, field, problem, "report this: the record is invalid")
        };
        let mut text = String::new();
        for segment in segments {
            self.accept_segment(segment.clone()).map_err(invalid)?;
            text += &line(&Record::Segment(segment), &file)?;
        }
        for preference in preferences {
            self.accept_preference(preference.clone()).map_err(invalid)?;
            text += &line(&Record::Preference(preference), &file)?;
        }
        if self.file.is_some() {
            let write = || -> std::io::Result<()> {
                let mut handle = OpenOptions::new().create(true).append(true).open(&file)?;
                let before = handle.metadata()?.len();
                handle.write_all(text.as_bytes()).and_then(|()| handle.sync_all()).inspect_err(|_| {
                    // What is reported is why writing failed; opening drops a torn end should this fail too.
                    let _ = handle.set_len(before);
                })
            };
            write().map_err(|e| FileError::write(&file, &e))?;
        }
        Ok(())
    }

    fn accept_segment(&mut self, segment: Segment) -> Result<(), (&'static str, String)> {
        segment.check()?;
        if segment.id != self.segments.len() as u64 {
            return Err(("id", format!("{} instead of {}", segment.id, self.segments.len())));
        }
        self.segments.push(segment);
        Ok(())
    }

    fn accept_preference(&mut self, preference: Preference) -> Result<(), (&'static str, String)> {
        preference.check(|id| self.segments.get(usize::try_from(id).ok()?))?;
        self.preferences.push(preference);
        Ok(())
    }
}

fn line(record: &Record, file: &Path) -> Result<String, FileError> {
    let json = serde_json::to_string(record)
        .map_err(|e| FileError::new(file, "record", e, "report this: a record should have a JSON form"))?;
    Ok(format!("{PREFIX}{json}{MIDDLE}{:08x}{SUFFIX}\n", CRC32C.checksum(json.as_bytes())))
}

fn parse(line: &[u8]) -> Result<Record, (&'static str, String)> {
    let text = std::str::from_utf8(line).map_err(|e| ("text", e.to_string()))?;
    let frame = || ("frame", format!("a line is {PREFIX}..{MIDDLE}..{SUFFIX}"));
    let (json, crc) = text
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_suffix(SUFFIX))
        .and_then(|rest| rest.rsplit_once(MIDDLE))
        .ok_or_else(frame)?;
    let found = format!("{:08x}", CRC32C.checksum(json.as_bytes()));
    if crc != found {
        return Err(("crc32c", format!("{crc:?}, the record has {found}")));
    }
    serde_json::from_str(json).map_err(|e| ("record", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Annotator, Label, Role, SCHEMA_VERSION};
    use super::*;
    use crate::run_folder::tests::scratch;
    use std::fs;

    fn segment(id: u64) -> Segment {
        Segment {
            schema: SCHEMA_VERSION,
            id,
            episode_seed: u64::MAX,
            iteration: 0,
            observation_len: 2,
            action_len: 1,
            observations: vec![0.1, -1.0 / 3.0, 1e-30, 3.4e38],
            actions: vec![0.5, -0.7],
            true_rewards: Some(vec![1.0, 2.0]),
        }
    }

    fn preference(left: u64, right: u64, probability: f32) -> Preference {
        let label = Label::Pair { preferred: Role::Right, probability };
        Preference {
            schema: SCHEMA_VERSION,
            left,
            right,
            label,
            annotator: Annotator::Person { user: "a".into() },
        }
    }

    fn written(name: &str) -> PathBuf {
        let file = scratch(name).join("preferences.jsonl");
        let mut store = PreferenceStore::open(&file).unwrap();
        store.append(vec![segment(0), segment(1)], vec![preference(0, 1, 0.9)]).unwrap();
        file
    }

    #[test]
    fn comes_back_bit_for_bit_and_drops_a_torn_last_line() {
        let file = written("store");
        let good = fs::read(&file).unwrap();
        for torn in [0, 1, 30] {
            fs::write(&file, [&good[..], &good[..torn]].concat()).unwrap();
            let store = PreferenceStore::open(&file).unwrap();
            assert_eq!(store.segments(), [segment(0), segment(1)]);
            assert_eq!(store.preferences(), [preference(0, 1, 0.9)]);
            assert_eq!(fs::read(&file).unwrap(), good);
        }
    }

    #[test]
    fn a_flipped_bit_is_rejected_with_file_and_line() {
        let file = written("store-flipped");
        let good = fs::read(&file).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A damaged end of the last line is a torn line.
            if bad.last() == Some(&b'\n') {
                fs::write(&file, &bad).unwrap();
                let message = PreferenceStore::open(&file).unwrap_err().to_string();
                assert!(message.contains("preferences.jsonl: line "), "{message}");
            }
        }
    }

    #[test]
    fn invalid_records_are_refused_by_field_and_leave_the_store_as_it_was() {
        let mut store = PreferenceStore::in_memory();
        store.append(vec![segment(0), segment(1)], vec![]).unwrap();
        let cases = [
            (vec![segment(7)], vec![], "id: 7"),
            (vec![Segment { actions: vec![f32::NAN, 0.0], ..segment(2) }], vec![], "actions: value 0 is NaN"),
            (
                vec![Segment { observations: vec![0.0], ..segment(2) }],
                vec![],
                "observations: 1 values for 2 steps",
            ),
            (vec![], vec![preference(0, 5, 1.0)], "right: no segment 5"),
            (vec![], vec![preference(0, 0, 1.0)], "right: segments 0 and 0"),
            (vec![], vec![preference(0, 1, 0.2)], "label.probability: 0.2"),
        ];
        for (segments, preferences, expected) in cases {
            let message = store.append(segments, preferences).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert_eq!((store.segments().len(), store.preferences().len()), (2, 0));
        }
    }
}
