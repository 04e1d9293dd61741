//! Firmware images: from the ELF files of a build, packed for both slots, read back from a package.

use bytemuck::Zeroable;
use std::path::{Path, PathBuf};
use tendon_bounds::Elf;
use tendon_wire::flash::{CODE_OFFSET, FIRMWARE_MAGIC, FIRMWARE_VERSION, seal};
use tendon_wire::image::{ALIGN, CRC_FROM, Header, Section, Span};

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// What is wrong with a firmware file.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// It cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no firmware.
    #[error("{file}: {problem}")]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// The images of one firmware: one for each slot, because it runs where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Images in the order of the slots they are for, each with a header.
    pub images: Vec<Vec<u8>>,
    /// Board it was built for.
    pub board: String,
    /// Its version.
    pub version: String,
}

impl Package {
    /// Reads a package (`.tfw`), or packs `BOARD.elf` and the `BOARD-b.elf` beside it.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn read(path: &Path) -> Result<Self, FirmwareError> {
        let bytes = read(path)?;
        let format = |problem: String| FirmwareError::Format { file: path.into(), problem };
        if bytes.starts_with(&FIRMWARE_MAGIC) {
            return Self::parse(&bytes).map_err(format);
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err(format(
                "is no firmware: give a package (.tfw) of `tendon sign`, or BOARD.elf of `cargo xtask firmware build`"
                    .into(),
            ));
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let other = path.with_file_name(format!("{}-b.elf", stem.strip_suffix("-b").unwrap_or(stem)));
        let first = path.with_file_name(format!("{}.elf", stem.strip_suffix("-b").unwrap_or(stem)));
        let mut images = Vec::new();
        for file in [first, other] {
            let elf = read(&file)?;
            images.push(image_of_elf(&elf).map_err(|problem| FirmwareError::Format { file, problem })?);
        }
        Self::parse(&images.concat()).map_err(format)
    }

    /// Takes the images of a package apart.
    fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut package = Self { images: Vec::new(), board: String::new(), version: String::new() };
        while !bytes.is_empty() {
            let header = header(bytes).ok_or("the package is truncated or damaged: build it again")?;
            let (image, rest) = bytes.split_at(header.total_len as usize);
            let board = zero_padded(&header.robot_id);
            let version = span(image, header.sections[Section::Manifest as usize]).unwrap_or(&[]);
            let version = String::from_utf8_lossy(version).into_owned();
            if !package.images.is_empty() && (&board, &version) != (&package.board, &package.version) {
                return Err("its images are of different boards or versions: build it again".into());
            }
            (package.board, package.version) = (board, version);
            package.images.push(image.to_vec());
            bytes = rest;
        }
        if package.images.is_empty() { Err("the package is empty".into()) } else { Ok(package) }
    }

    /// An error for a firmware that was built with a feature that only tests and campaigns may have.
    ///
    /// # Errors
    /// Which feature.
    pub fn for_release(self, path: &Path) -> Result<Self, FirmwareError> {
        match self.version.split_once('+') {
            None => Ok(self),
            Some((_, feature)) => {
                let problem = format!(
                    "was built with feature `{feature}`, for tests alone; build a release with `cargo xtask firmware build`"
                );
                Err(FirmwareError::Format { file: path.into(), problem })
            }
        }
    }

    /// The file: images one after the other.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.images.concat()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FirmwareError> {
    let error = |source| FirmwareError::Read { file: path.into(), source };
    if std::fs::metadata(path).map_err(error)?.len() > MAX_FILE {
        let problem = format!("is larger than {MAX_FILE} bytes: this is no firmware");
        return Err(FirmwareError::Format { file: path.into(), problem });
    }
    std::fs::read(path).map_err(error)
}

/// The header of an image that is all there.
fn header(bytes: &[u8]) -> Option<Header> {
    let header: Header = bytemuck::try_pod_read_unaligned(bytes.get(..size_of::<Header>())?).ok()?;
    let fits = (size_of::<Header>()..=bytes.len()).contains(&(header.total_len as usize));
    let holds = header.magic == FIRMWARE_MAGIC
        && fits
        && tendon_wire::CRC32C.checksum(&bytes[CRC_FROM..header.total_len as usize]) == header.crc32c;
    holds.then_some(header)
}

fn span(image: &[u8], span: Span) -> Option<&[u8]> {
    image.get(span.offset as usize..)?.get(..span.len as usize)
}

fn zero_padded(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or(&[])).into_owned()
}

/// The image of a linked firmware: its loaded bytes behind a header, without a signature.
///
/// # Errors
/// What is missing in the file.
pub fn image_of_elf(file: &[u8]) -> Result<Vec<u8>, String> {
    let elf = Elf::parse(file).map_err(|error| error.to_string())?;
    let section = elf.section(tendon_bounds::SECTION).ok_or("says nothing of its board (section .tendon)")?;
    let info = String::from_utf8_lossy(section.bytes).into_owned();
    let word =
        |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned());
    let (board, version) = (word("board "), word("version "));
    let (Some(board), Some(mut version)) = (board, version) else {
        return Err("its section .tendon names no board and version".into());
    };
    for feature in info.lines().filter_map(|line| line.strip_prefix("feature ")) {
        version = format!("{version}+{feature}");
    }
    let vectors = elf.section(".vector_table").ok_or("has no vector table")?.address;
    let mut code: Vec<u8> = Vec::new();
    for segment in &elf.segments {
        let at = segment.address.checked_sub(vectors).ok_or("has bytes before its vector table")? as usize;
        if at > tendon_wire::image::MAX_IMAGE || at < code.len() {
            return Err(format!("has bytes at {:#x}, not in one piece with the rest", segment.address));
        }
        code.resize(at, 0xff);
        code.extend_from_slice(segment.bytes);
    }
    let mut header = Header::zeroed();
    header.magic = FIRMWARE_MAGIC;
    header.format_version = FIRMWARE_VERSION;
    header.schema_hash = vectors.into();
    for (to, from) in header.robot_id.iter_mut().zip(board.bytes()) {
        *to = from;
    }
    let mut image = vec![0; CODE_OFFSET as usize];
    header.sections[0] = Span { offset: CODE_OFFSET, len: code.len() as u32 };
    image.extend_from_slice(&code);
    image.resize(image.len().next_multiple_of(ALIGN), 0);
    let version = version.as_bytes();
    header.sections[Section::Manifest as usize] =
        Span { offset: image.len() as u32, len: version.len() as u32 };
    image.extend_from_slice(version);
    image.resize(image.len().next_multiple_of(ALIGN), 0);
    header.total_len = image.len() as u32;
    image[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
    seal(&mut image);
    Ok(image)
}
