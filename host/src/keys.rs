//! Key files. A secret key is a file that its owner alone may read, and is never printed.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tendon_boot::is_usable;
use tendon_boot::sign::SigningKey;
use tendon_wire::flash::{PublicKey, key_id};

/// First line of a file with a secret key; the second is the key, hexadecimal.
const SECRET: &str = "tendon ed25519 secret key 1";
/// First line of a file with a public key.
const PUBLIC: &str = "tendon ed25519 public key 1";
/// Extension of files with a secret key.
pub const SECRET_EXTENSION: &str = "key";
/// Extension of files with a public key.
pub const PUBLIC_EXTENSION: &str = "pub";
/// No key file is longer.
const MAX_FILE: u64 = 4096;

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refused.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A name that exists.
    #[error("{0}: there is such a key already; a key is never overwritten, choose another name")]
    Exists(PathBuf),
    /// Others may read it.
    #[error(
        "{file}: others may read or write this secret key (mode {mode:04o}); run `chmod 600 {file}`, and make a new key if somebody may have read it"
    )]
    Mode {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// No key in it.
    #[error("{file}: is no {expected} key of Tendon; `tendon keys new NAME` makes both files")]
    Format {
        /// The file.
        file: PathBuf,
        /// `secret` or `public`.
        expected: &'static str,
    },
    /// A name with a path in it.
    #[error("`{0}` is no name for a key: letters, digits, `-` and `_`")]
    Name(String),
}

/// Where keys are unless a folder is given: `~/.config/tendon/keys`.
#[must_use]
pub fn default_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    config.unwrap_or_default().join("tendon/keys")
}

/// Makes a key and writes `NAME.key` (mode 0600) and `NAME.pub`. Returns the path of the first.
///
/// # Errors
/// A name that exists or is none, or what the system refuses.
pub fn create(folder: &Path, name: &str) -> Result<(PathBuf, PublicKey), KeyError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err(KeyError::Name(name.into()));
    }
    let at = |file: &Path| {
        let file = file.to_owned();
        move |source| KeyError::Io { file, source }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| KeyError::Io { file: folder.into(), source: error.into() })?;
    }
    let key = SigningKey::from_bytes(&seed);
    let public = *key.verifying_key().as_bytes();
    let path = folder.join(name).with_extension(SECRET_EXTENSION);
    write_new(&path, 0o600, &format!("{SECRET}\n{}\n", hex(&seed)))?;
    write_new(&path.with_extension(PUBLIC_EXTENSION), 0o644, &format!("{PUBLIC}\n{}\n", hex(&public)))?;
    Ok((path, public))
}

/// `O_EXCL`: a file that exists, a link included, is left alone.
fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let error = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
        _ => KeyError::Io { file: path.into(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(error)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(error)
}

/// Reads a secret key; refuses a file that others may read or write.
///
/// # Errors
/// See there.
pub fn read_secret(path: &Path) -> Result<SigningKey, KeyError> {
    // The file that is checked is the file that is read.
    let error = |source| KeyError::Io { file: path.into(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    let mode = file.metadata().map_err(error)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { file: path.into(), mode });
    }
    let seed = parse(path, file, SECRET, "secret")?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Reads a public key, from its own file or from that of the secret key.
///
/// # Errors
/// See there.
pub fn read_public(path: &Path) -> Result<PublicKey, KeyError> {
    if path.extension().is_some_and(|extension| extension == SECRET_EXTENSION) {
        return Ok(*read_secret(path)?.verifying_key().as_bytes());
    }
    let error = |source| KeyError::Io { file: path.into(), source };
    let public = parse(path, std::fs::File::open(path).map_err(error)?, PUBLIC, "public")?;
    if is_usable(&public) {
        Ok(public)
    } else {
        Err(KeyError::Format { file: path.into(), expected: "public" })
    }
}

fn parse(path: &Path, file: std::fs::File, head: &str, expected: &'static str) -> Result<[u8; 32], KeyError> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE), &mut text)
        .map_err(|source| KeyError::Io { file: path.into(), source })?;
    let mut lines = text.lines();
    let bytes = lines.next().filter(|line| *line == head).and_then(|_| unhex(lines.next()?));
    bytes.ok_or(KeyError::Format { file: path.into(), expected })
}

/// The public keys of a folder, by name.
///
/// # Errors
/// What the system refuses; a folder that is not there has none.
pub fn list(folder: &Path) -> Result<Vec<(PathBuf, PublicKey)>, KeyError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(KeyError::Io { file: folder.into(), source }),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == PUBLIC_EXTENSION))
        .collect();
    files.sort();
    files.into_iter().map(|file| read_public(&file).map(|key| (file, key))).collect()
}

/// How a key is called for people: its first bytes.
#[must_use]
pub fn short(key: &PublicKey) -> String {
    hex(&key_id(key))
}

/// Hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}
