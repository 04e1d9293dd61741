//! Little-endian ELF32 for Arm, as far as the bounds need it: allocated bytes and symbols.

use std::fmt;

/// Why a file is not an ELF that can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Not an ELF file of a 32-bit little-endian Arm.
    NotArmElf32,
    /// A header, section or name lies outside the file; the word says which.
    Truncated(&'static str),
    /// No symbol table: the file is stripped.
    NoSymbols,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotArmElf32 => f.write_str("no ELF file of a 32-bit little-endian Arm"),
            Self::Truncated(what) => write!(f, "damaged ELF file: {what} outside the file"),
            Self::NoSymbols => f.write_str("no symbol table: link without stripping"),
        }
    }
}

impl std::error::Error for ElfError {}

/// A section that occupies memory of the target and has bytes in the file.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// Name.
    pub name: &'a str,
    /// First address.
    pub address: u32,
    /// Content.
    pub bytes: &'a [u8],
    /// Holds instructions.
    pub executable: bool,
}

/// A run of bytes that a programmer writes: where it is stored, which is not where it is used for initial values of
/// variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Physical address.
    pub address: u32,
    /// Content.
    pub bytes: &'a [u8],
}

/// One row of the symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Name, mangled.
    pub name: &'a str,
    /// Value; for a Thumb function its address with bit 0 set.
    pub value: u32,
    /// Bytes; 0 where the assembler said nothing.
    pub size: u32,
    /// `STT_FUNC`.
    pub is_function: bool,
    /// Referred to, defined nowhere.
    pub is_undefined: bool,
}

/// The parts of an ELF file.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    /// Allocated sections with content.
    pub sections: Vec<Section<'a>>,
    /// Named symbols.
    pub symbols: Vec<Symbol<'a>>,
    /// Loaded segments with content, by address.
    pub segments: Vec<Segment<'a>>,
}

const EM_ARM: u16 = 40;
const PT_LOAD: u32 = 1;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHF_ALLOC: u32 = 2;
const SHF_EXECINSTR: u32 = 4;
const STT_FUNC: u8 = 2;
/// Section headers and symbols that are read; a firmware has a few hundred.
const MAX_ENTRIES: usize = 1 << 20;

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn slice(bytes: &[u8], start: u32, length: u32) -> Option<&[u8]> {
    bytes.get(start as usize..(start as usize).checked_add(length as usize)?)
}

fn text(names: &[u8], at: u32) -> Option<&str> {
    let rest = names.get(at as usize..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// A section header: name, type, flags, address, offset, size, link.
struct Header {
    name: u32,
    kind: u32,
    flags: u32,
    address: u32,
    offset: u32,
    size: u32,
    link: u32,
}

impl<'a> Elf<'a> {
    /// Parses a file.
    ///
    /// # Errors
    /// Another machine, damage, or no symbols.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        // Magic, ELFCLASS32, ELFDATA2LSB.
        if bytes.get(..6) != Some(b"\x7fELF\x01\x01") || half(bytes, 18) != Some(EM_ARM) {
            return Err(ElfError::NotArmElf32);
        }
        let headers = Self::headers(bytes).ok_or(ElfError::Truncated("section headers"))?;
        let names_at = half(bytes, 50).ok_or(ElfError::Truncated("header"))?;
        let names = headers
            .get(usize::from(names_at))
            .and_then(|header| slice(bytes, header.offset, header.size))
            .ok_or(ElfError::Truncated("section names"))?;
        let mut sections = Vec::new();
        for header in &headers {
            if header.kind == SHT_PROGBITS && header.flags & SHF_ALLOC != 0 {
                let content = slice(bytes, header.offset, header.size);
                sections.push(Section {
                    name: text(names, header.name).ok_or(ElfError::Truncated("a section's name"))?,
                    address: header.address,
                    bytes: content.ok_or(ElfError::Truncated("a section"))?,
                    executable: header.flags & SHF_EXECINSTR != 0,
                });
            }
        }
        let table = headers.iter().find(|header| header.kind == SHT_SYMTAB).ok_or(ElfError::NoSymbols)?;
        let symbols = Self::symbols(bytes, &headers, table).ok_or(ElfError::Truncated("symbol table"))?;
        let segments = Self::loaded(bytes).ok_or(ElfError::Truncated("program headers"))?;
        Ok(Self { sections, symbols, segments })
    }

    fn loaded(bytes: &'a [u8]) -> Option<Vec<Segment<'a>>> {
        let start = word(bytes, 28)? as usize;
        let (entry, count) = (usize::from(half(bytes, 42)?), usize::from(half(bytes, 44)?));
        let mut segments = Vec::new();
        for index in 0..count {
            let at = start.checked_add(index.checked_mul(entry)?)?;
            let header = bytes.get(at..at.checked_add(32)?)?;
            let (kind, offset) = (word(header, 0)?, word(header, 4)?);
            let (address, size) = (word(header, 12)?, word(header, 16)?);
            if kind == PT_LOAD && size > 0 {
                segments.push(Segment { address, bytes: slice(bytes, offset, size)? });
            }
        }
        segments.sort_by_key(|segment| segment.address);
        Some(segments)
    }

    fn headers(bytes: &[u8]) -> Option<Vec<Header>> {
        let start = word(bytes, 32)? as usize;
        let (entry, count) = (usize::from(half(bytes, 46)?), usize::from(half(bytes, 48)?));
        (0..count)
            .map(|index| {
                let at = start.checked_add(index.checked_mul(entry)?)?;
                let header = bytes.get(at..at.checked_add(40)?)?;
                let field = |offset: usize| word(header, offset);
                Some(Header {
                    name: field(0)?,
                    kind: field(4)?,
                    flags: field(8)?,
                    address: field(12)?,
                    offset: field(16)?,
                    size: field(20)?,
                    link: field(24)?,
                })
            })
            .collect()
    }

    fn symbols(bytes: &'a [u8], headers: &[Header], table: &Header) -> Option<Vec<Symbol<'a>>> {
        let names = headers.get(table.link as usize)?;
        let names = slice(bytes, names.offset, names.size)?;
        let rows = slice(bytes, table.offset, table.size)?.as_chunks::<16>().0;
        let mut symbols = Vec::new();
        for row in rows.iter().take(MAX_ENTRIES) {
            let name = text(names, word(row, 0)?)?;
            if !name.is_empty() {
                symbols.push(Symbol {
                    name,
                    value: word(row, 4)?,
                    size: word(row, 8)?,
                    is_function: row[12] & 0xf == STT_FUNC,
                    is_undefined: half(row, 14)? == 0,
                });
            }
        }
        Some(symbols)
    }

    /// Value of the symbol with this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<u32> {
        self.symbols.iter().find(|symbol| symbol.name == name && !symbol.is_undefined).map(|s| s.value)
    }

    /// Content of the section with this name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }
}
