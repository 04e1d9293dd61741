//! Checkpoints: everything a learner needs to go on with the same bits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use tendon_wire::CRC32C;
use tendon_wire::mutation::{Check, removed};

use crate::communicator::Communicator;
use crate::run_folder::{FileError, read_limited, replace_link, write_folder_atomically};

/// The state of a learner as named counters and arrays.
///
/// On disk `state.json` (readable: kind, configuration, counters, table of arrays) and `arrays.bin`: magic `TNDC`, CRC-32C of
/// `state.json`, CRC-32C of the arrays, then the arrays as little-endian `f64` in the order of the table. `f32` values survive the way
/// through `f64` exactly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Which learner wrote it.
    pub kind: String,
    /// The learner's configuration.
    pub config: serde_json::Value,
    counters: BTreeMap<String, u64>,
    arrays: BTreeMap<String, Vec<f64>>,
    /// Where it was read from, for messages.
    file: PathBuf,
}

const FORMAT: &str = "tendon-checkpoint";
const VERSION: u32 = 1;
const MAGIC: &[u8; 4] = b"TNDC";
const NEXT_STEP: &str =
    "start from an older folder in checkpoints/ (point the link `last` at it), or train anew";

/// Files larger than this are neither written nor read, bytes.
const SIZE_LIMIT: u64 = 16 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    kind: String,
    config: serde_json::Value,
    counters: BTreeMap<String, u64>,
    /// Name and length in the order of `arrays.bin`.
    arrays: Vec<(String, usize)>,
}

impl Checkpoint {
    /// An empty checkpoint.
    pub fn new(kind: &str, config: serde_json::Value) -> Self {
        Self { kind: kind.into(), config, ..Self::default() }
    }

    /// Adds a counter.
    pub fn put_counter(&mut self, name: &str, value: u64) {
        self.counters.insert(name.into(), value);
    }

    /// Adds an array.
    pub fn put<T: Copy + Into<f64>>(&mut self, name: &str, values: &[T]) {
        self.arrays.insert(name.into(), values.iter().map(|&v| v.into()).collect());
    }

    /// Reads a counter.
    ///
    /// # Errors
    /// When it is missing.
    pub fn counter(&self, name: &str) -> Result<u64, FileError> {
        self.counters.get(name).copied().ok_or_else(|| self.error(name, "counter is missing"))
    }

    /// Reads an array of a known length.
    ///
    /// # Errors
    /// When it is missing, of another length, or not finite.
    pub fn array(&self, name: &str, length: usize) -> Result<&[f64], FileError> {
        let values = self.any_array(name)?;
        if values.len() != length {
            return Err(self.error(name, format!("{} values instead of {length}", values.len())));
        }
        Ok(values)
    }

    /// Reads an array of any length.
    ///
    /// # Errors
    /// When it is missing or not finite.
    pub fn any_array(&self, name: &str) -> Result<&[f64], FileError> {
        let values = self.arrays.get(name).ok_or_else(|| self.error(name, "array is missing"))?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(self.error(name, format!("value {i} is {}", values[i]))),
            None => Ok(values),
        }
    }

    /// [`Checkpoint::array`] as `f32`.
    ///
    /// # Errors
    /// As [`Checkpoint::array`].
    pub fn array_f32(&self, name: &str, length: usize) -> Result<Vec<f32>, FileError> {
        Ok(self.array(name, length)?.iter().map(|&v| v as f32).collect())
    }

    /// Refuses to go on with another seed than the run began with.
    pub(crate) fn same_seed(&self, seed: u64) -> Result<(), FileError> {
        let was = self.counter("seed")?;
        if was == seed {
            Ok(())
        } else {
            Err(self.error("seed", format!("{was}, the run now asked for has {seed}")))
        }
    }

    /// An error about a field of this checkpoint.
    pub fn error(&self, field: &str, problem: impl ToString) -> FileError {
        FileError::new(self.file.join("state.json"), field, problem, NEXT_STEP)
    }

    /// Writes `checkpoints/<step>` and then moves the link `checkpoints/last` to it.
    ///
    /// # Errors
    /// When the disk refuses; older checkpoints and the link are then intact.
    pub fn save(&self, checkpoints: &Path, step: u64) -> Result<PathBuf, FileError> {
        let folder = checkpoints.join(step.to_string());
        let (json, binary) = self.encode(&folder)?;
        if binary.len() as u64 > SIZE_LIMIT {
            let problem = format!("{} bytes, at most {SIZE_LIMIT} are read again", binary.len());
            return Err(FileError::new(
                folder,
                "arrays.bin",
                problem,
                "lower `buffer` or the number of episodes",
            ));
        }
        if removed(Check::CheckpointWhole) {
            replace_link(&checkpoints.join("last"), &step.to_string())?;
        }
        write_folder_atomically(&folder, &[("state.json", &json), ("arrays.bin", &binary)])?;
        replace_link(&checkpoints.join("last"), &step.to_string())?;
        Ok(folder)
    }

    /// The whole checkpoint on rank 0, from the parts that ranks have for their environments; nothing on the others.
    pub(crate) fn gathered(mut self, ranks: &dyn Communicator) -> Result<Option<Self>, FileError> {
        if ranks.size() == 1 {
            return Ok(Some(self));
        }
        let folder = Path::new("checkpoint of a rank");
        let (json, binary) = self.of_environments(true).encode(folder)?;
        for (json, binary) in ranks.gather(json).iter().zip(&ranks.gather(binary)) {
            let part = Self::decode(folder, json, binary)?;
            self.counters.extend(part.counters);
            self.arrays.extend(part.arrays);
        }
        Ok((ranks.rank() == 0).then_some(self))
    }

    /// Of everything that all ranks hold alike.
    pub(crate) fn hash_of_shared(&self) -> Result<u32, FileError> {
        let (json, binary) = self.of_environments(false).encode(Path::new("checkpoint of a rank"))?;
        Ok(CRC32C.checksum(&json) ^ CRC32C.checksum(&binary).rotate_left(1))
    }

    /// The entries of single environments, or all others.
    fn of_environments(&self, of_them: bool) -> Self {
        let wanted = |name: &String| name.starts_with("environment.") == of_them;
        Self {
            counters: self
                .counters
                .iter()
                .filter(|(name, _)| wanted(name))
                .map(|(n, v)| (n.clone(), *v))
                .collect(),
            arrays: self
                .arrays
                .iter()
                .filter(|(name, _)| wanted(name))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect(),
            kind: self.kind.clone(),
            config: self.config.clone(),
            file: self.file.clone(),
        }
    }

    /// The bytes of both files.
    fn encode(&self, folder: &Path) -> Result<(Vec<u8>, Vec<u8>), FileError> {
        let header = Header {
            format: FORMAT.into(),
            version: VERSION,
            kind: self.kind.clone(),
            config: self.config.clone(),
            counters: self.counters.clone(),
            arrays: self.arrays.iter().map(|(name, values)| (name.clone(), values.len())).collect(),
        };
        let json =
            serde_json::to_vec_pretty(&header).map_err(|e| FileError::new(folder, "state", e, NEXT_STEP))?;
        let body: Vec<u8> = self.arrays.values().flatten().flat_map(|v| v.to_le_bytes()).collect();
        let mut binary = MAGIC.to_vec();
        binary.extend(CRC32C.checksum(&json).to_le_bytes());
        binary.extend(CRC32C.checksum(&body).to_le_bytes());
        binary.extend(body);
        Ok((json, binary))
    }

    /// Reads and checks a folder that [`Checkpoint::save`] wrote.
    ///
    /// # Errors
    /// When anything is missing, cut, flipped or of another version: file, field and next step are named.
    pub fn load(folder: &Path) -> Result<Self, FileError> {
        let json = read_limited(&folder.join("state.json"), SIZE_LIMIT, NEXT_STEP)?;
        let binary = read_limited(&folder.join("arrays.bin"), SIZE_LIMIT, NEXT_STEP)?;
        Self::decode(folder, &json, &binary)
    }

    /// What [`Checkpoint::encode`] wrote.
    fn decode(folder: &Path, json: &[u8], binary: &[u8]) -> Result<Self, FileError> {
        let (json_file, binary_file) = (folder.join("state.json"), folder.join("arrays.bin"));
        let broken = |field: &str, problem: String| FileError::new(&binary_file, field, problem, NEXT_STEP);
        let Some((prefix, body)) = binary.split_first_chunk::<12>() else {
            return Err(broken("length", format!("{} bytes, a header has 12", binary.len())));
        };
        if &prefix[..4] != MAGIC {
            return Err(broken("magic", format!("{:02x?} instead of {MAGIC:02x?}", &prefix[..4])));
        }
        let word =
            |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
        let header: Header =
            serde_json::from_slice(json).map_err(|e| FileError::new(&json_file, "json", e, NEXT_STEP))?;
        let wrong = |field: &str, problem: String| FileError::new(&json_file, field, problem, NEXT_STEP);
        if header.format != FORMAT || header.version != VERSION {
            return Err(wrong(
                "version",
                format!("{} {} instead of {FORMAT} {VERSION}", header.format, header.version),
            ));
        }
        if word(4) != CRC32C.checksum(json) {
            return Err(wrong("crc", format!("{:08x} instead of {:08x}", CRC32C.checksum(json), word(4))));
        }
        let expected =
            header.arrays.iter().try_fold(0usize, |sum, (_, length)| sum.checked_add(length.checked_mul(8)?));
        if expected != Some(body.len()) {
            return Err(broken(
                "length",
                format!("{} bytes of arrays, state.json lists {expected:?}", body.len()),
            ));
        }
        if word(8) != CRC32C.checksum(body) {
            return Err(broken("crc", format!("{:08x} instead of {:08x}", CRC32C.checksum(body), word(8))));
        }
        let mut values = body.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        let arrays = header
            .arrays
            .iter()
            .map(|(name, length)| (name.clone(), values.by_ref().take(*length).collect()))
            .collect();
        Ok(Self {
            kind: header.kind,
            config: header.config,
            counters: header.counters,
            arrays,
            file: folder.into(),
        })
    }

    /// The checkpoint that `checkpoints/last` points at; `None` when there is none yet.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_last(checkpoints: &Path) -> Result<Option<Self>, FileError> {
        let link = checkpoints.join("last");
        if fs::symlink_metadata(&link).is_err() {
            return Ok(None);
        }
        Self::load(&link).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_folder::tests::scratch;

    fn sample() -> Checkpoint {
        let mut checkpoint = Checkpoint::new("ppo", serde_json::json!({ "clip": 0.2 }));
        checkpoint.put_counter("iteration", 3);
        checkpoint.put("weights", &[0.1f32, -3.4e38, f32::MIN_POSITIVE]);
        checkpoint.put("mean", &[0.1f64, 1e300]);
        checkpoint
    }

    #[test]
    fn comes_back_bit_for_bit_and_last_follows() {
        let folder = scratch("checkpoint");
        sample().save(&folder, 10).unwrap();
        let mut newer = sample();
        newer.put_counter("iteration", 4);
        newer.save(&folder, 20).unwrap();
        let read = Checkpoint::load_last(&folder).unwrap().unwrap();
        assert_eq!(Checkpoint { file: PathBuf::new(), ..read.clone() }, newer);
        assert_eq!(read.array_f32("weights", 3).unwrap(), [0.1, -3.4e38, f32::MIN_POSITIVE]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_rejected_with_its_file() {
        let folder = scratch("checkpoint-corrupt");
        let checkpoint = sample().save(&folder, 10).unwrap();
        for name in ["state.json", "arrays.bin"] {
            let file = checkpoint.join(name);
            let good = fs::read(&file).unwrap();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                fs::write(&file, &bad).unwrap();
                let message = Checkpoint::load(&checkpoint).unwrap_err().to_string();
                assert!(message.contains("checkpoints/"), "{message}");
            }
            for length in 0..good.len() {
                fs::write(&file, &good[..length]).unwrap();
                assert!(Checkpoint::load(&checkpoint).is_err());
            }
            fs::write(&file, &good).unwrap();
        }
        assert!(Checkpoint::load(&checkpoint).is_ok());
    }

    #[test]
    fn names_a_field_of_wrong_length() {
        let message = sample().array("weights", 4).unwrap_err().to_string();
        assert!(message.contains("weights: 3 values instead of 4"), "{message}");
    }
}
