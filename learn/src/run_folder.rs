//! The folder of one run: configuration, curves, checkpoints, all written so that a crash leaves the old or the new, never half.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A file that could not be read, written or believed.
#[derive(Debug, Error)]
#[error("{}: {field}: {problem}; {next_step}", file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// The field or line inside it, or the operation on it.
    pub field: String,
    /// What is wrong, with the value found.
    pub problem: String,
    /// What the user can do.
    pub next_step: &'static str,
}

impl FileError {
    /// An error about `field` of `file`.
    pub fn new(
        file: impl Into<PathBuf>,
        field: impl Into<String>,
        problem: impl ToString,
        next_step: &'static str,
    ) -> Self {
        Self { file: file.into(), field: field.into(), problem: problem.to_string(), next_step }
    }

    /// The operating system refused to write.
    pub fn write(file: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::new(
            file,
            "write",
            error,
            "free space or choose another folder with write permission; what was there before is intact",
        )
    }

    /// The operating system refused to read.
    pub fn read(file: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::new(file, "read", error, "check the path and its permissions")
    }
}

/// All of a file, unless it is larger than `limit` bytes; then `next_step` says what the user can do.
pub(crate) fn read_limited(file: &Path, limit: u64, next_step: &'static str) -> Result<Vec<u8>, FileError> {
    let length = fs::metadata(file).map_err(|e| FileError::read(file, &e))?.len();
    if length > limit {
        let problem = format!("{length} bytes, at most {limit} are read");
        return Err(FileError::new(file, "length", problem, next_step));
    }
    fs::read(file).map_err(|e| FileError::read(file, &e))
}

/// A run folder:
/// ```text
/// config.toml          every setting, defaults filled in
/// curves.csv           one row per iteration, see `learner::CurveRow`
/// curves.json          the same rows
/// preferences.jsonl    labels (preference runs)
/// checkpoints/<step>/  state.json, arrays.bin
/// checkpoints/last     link to the newest
/// ```
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        fs::create_dir_all(path.join("checkpoints")).map_err(|e| FileError::write(&path, &e))?;
        Ok(Self { path })
    }

    /// The folder where there is one; makes nothing.
    pub fn opened(path: &Path) -> Option<Self> {
        path.is_dir().then(|| Self { path: path.into() })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Whether there is a checkpoint to go on from.
    pub fn has_checkpoint(&self) -> bool {
        fs::symlink_metadata(self.checkpoints().join("last")).is_ok()
    }

    /// `preferences.jsonl`.
    pub fn preferences(&self) -> PathBuf {
        self.path.join("preferences.jsonl")
    }

    /// Writes `config.toml`.
    ///
    /// # Errors
    /// When the file cannot be written or the configuration has no TOML form.
    pub fn write_config<C: Serialize>(&self, config: &C) -> Result<(), FileError> {
        let file = self.path.join("config.toml");
        let text = toml::to_string_pretty(config).map_err(|e| {
            FileError::new(&file, "config", e, "report this: the configuration should have a TOML form")
        })?;
        write_atomically(&file, text.as_bytes())
    }

    /// Writes `curves.csv` and `curves.json`: one row per item, one column per field of the row.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_curves<R: Serialize>(&self, rows: &[R]) -> Result<(), FileError> {
        let file = self.path.join("curves.csv");
        let bug = |e: serde_json::Error| {
            FileError::new(&file, "row", e, "report this: a curve row should have a JSON form")
        };
        let objects = rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>().map_err(bug)?;
        let mut text = String::new();
        for (i, row) in objects.iter().filter_map(serde_json::Value::as_object).enumerate() {
            if i == 0 {
                text += &row.keys().map(String::as_str).collect::<Vec<_>>().join(",");
                text.push('\n');
            }
            let cells: Vec<String> =
                row.values().map(|v| if v.is_null() { String::new() } else { v.to_string() }).collect();
            text += &cells.join(",");
            text.push('\n');
        }
        write_atomically(&file, text.as_bytes())?;
        let json = serde_json::to_vec(&objects).map_err(bug)?;
        write_atomically(&self.path.join("curves.json"), &json)
    }

    /// Reads the rows back.
    ///
    /// # Errors
    /// When `curves.json` cannot be read or is damaged.
    pub fn read_curves<R: DeserializeOwned>(&self) -> Result<Vec<R>, FileError> {
        let file = self.path.join("curves.json");
        let bytes = fs::read(&file).map_err(|e| FileError::read(&file, &e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| FileError::new(&file, "json", e, "delete the run folder and train anew"))
    }
}

/// Replaces `file` by `bytes`: temporary file, fsync, rename, fsync of the folder.
///
/// # Errors
/// When the disk refuses; the old file is then intact.
pub fn write_atomically(file: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = temporary_beside(file);
    let result = write_synced(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, file))
        .and_then(|()| sync_parent(file));
    result.map_err(|e| {
        // The reason to report is `e`; the leftover is overwritten by the next attempt.
        let _ = fs::remove_file(&temporary);
        FileError::write(file, &e)
    })
}

/// Makes `folder` with `files` inside appear at once: temporary folder, fsync of each file, fsync of the folder, rename, fsync of the
/// parent. An older `folder` is replaced.
///
/// # Errors
/// When the disk refuses; nothing has appeared then.
pub fn write_folder_atomically(folder: &Path, files: &[(&str, &[u8])]) -> Result<(), FileError> {
    write_folder_with(folder, files, write_synced)
}

/// Points the symbolic link `link` at `target` (a name beside it), atomically.
///
/// # Errors
/// When the disk refuses; the old link is then intact.
pub fn replace_link(link: &Path, target: &str) -> Result<(), FileError> {
    let temporary = temporary_beside(link);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary)
        .and_then(|()| fs::rename(&temporary, link))
        .and_then(|()| sync_parent(link))
        .map_err(|e| FileError::write(link, &e))
}

fn write_folder_with(
    folder: &Path,
    files: &[(&str, &[u8])],
    write: impl Fn(&Path, &[u8]) -> io::Result<()>,
) -> Result<(), FileError> {
    let temporary = temporary_beside(folder);
    let replaced = folder.with_extension("old");
    let attempt = || -> io::Result<()> {
        remove_folder(&temporary)?;
        remove_folder(&replaced)?;
        fs::create_dir(&temporary)?;
        for (name, bytes) in files {
            write(&temporary.join(name), bytes)?;
        }
        File::open(&temporary)?.sync_all()?;
        if folder.exists() {
            fs::rename(folder, &replaced)?;
        }
        fs::rename(&temporary, folder)?;
        sync_parent(folder)?;
        remove_folder(&replaced)
    };
    attempt().map_err(|e| {
        let _ = remove_folder(&temporary);
        FileError::write(folder, &e)
    })
}

fn write_synced(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut handle = File::create(file)?;
    handle.write_all(bytes)?;
    handle.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.tmp"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A fresh folder for one test under the target folder.
    pub(crate) fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tendon-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_full_disk_leaves_the_old_folder_intact() {
        let parent = scratch("full-disk");
        let folder = parent.join("7");
        write_folder_atomically(&folder, &[("a", b"old"), ("b", b"old")]).unwrap();
        let error = write_folder_with(&folder, &[("a", b"new"), ("b", b"new")], |file, bytes| {
            if file.ends_with("b") {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                write_synced(file, bytes)
            }
        })
        .unwrap_err();
        assert!(error.to_string().contains("free space"), "{error}");
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"old");
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1, "no temporary folder is left");
    }

    #[test]
    fn a_full_device_is_an_error_of_the_file() {
        assert_eq!(
            write_synced(Path::new("/dev/full"), b"x").unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
    }

    #[test]
    fn a_folder_and_a_link_can_be_replaced() {
        let parent = scratch("replace");
        for text in [b"one", b"two"] {
            write_folder_atomically(&parent.join("1"), &[("a", text)]).unwrap();
            replace_link(&parent.join("last"), "1").unwrap();
            assert_eq!(fs::read(parent.join("last/a")).unwrap(), text);
        }
    }

    #[test]
    fn curves_have_a_header_and_empty_cells() {
        #[derive(Serialize)]
        struct Row {
            iteration: u32,
            episode_return: Option<f32>,
        }
        let run = RunFolder::create(scratch("curves")).unwrap();
        run.write_curves(&[
            Row { iteration: 0, episode_return: None },
            Row { iteration: 1, episode_return: Some(2.5) },
        ])
        .unwrap();
        assert_eq!(
            fs::read_to_string(run.path().join("curves.csv")).unwrap(),
            "iteration,episode_return\n0,\n1,2.5\n"
        );
    }
}
