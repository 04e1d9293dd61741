//! From functions to the system: tasks preempt each other, so their depths add up, one per priority.

use crate::elf::{Elf, ElfError, word};
use crate::flow::{Code, Depth, Flow, Frame, Violation};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// What exception entry pushes, bytes: 26 words with the floating-point registers (reserved also when
/// stacking is lazy), and one to align the stack to 8 (DDI 0403E, B1.5.6 and B1.5.7).
pub const EXCEPTION_FRAME: u32 = 26 * 4 + 4;
/// Section in which the firmware says what it is; `firmware/build.rs` writes it.
pub const SECTION: &str = ".tendon";
/// HardFault, and NMI above it: the levels that no table of tasks has.
const FAULT_LEVELS: u32 = 2;

/// Why a firmware has no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not a file that can be judged.
    Elf(ElfError),
    /// Something that the firmware's build should have put there.
    Missing(String),
    /// A line of [`SECTION`] that is not understood.
    BuildInfo(String),
    /// It was built with a feature that only tests may have.
    Feature(String),
    /// An exception that has a handler and no row in the task table.
    Vector {
        /// Index in the vector table.
        index: usize,
        /// Its handler.
        handler: String,
    },
    /// A path that cannot be followed.
    Path(Violation),
    /// A symbol that must not be there.
    Symbol {
        /// Name, mangled.
        name: String,
        /// What it proves.
        why: &'static str,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => error.fmt(f),
            Self::Missing(what) => {
                write!(f, "the firmware has no {what}: build it with `cargo xtask firmware build`")
            }
            Self::BuildInfo(line) => write!(f, "section {SECTION}: `{line}` is not understood"),
            Self::Feature(name) => write!(
                f,
                "built with feature `{name}`, which only tests and campaigns may run; build a release with `cargo xtask firmware build`"
            ),
            Self::Vector { index, handler } => write!(
                f,
                "vector {index} goes to `{handler}`, which returns and is bound by no #[task] of firmware/src/main.rs"
            ),
            Self::Path(violation) => violation.fmt(f),
            Self::Symbol { name, why } => write!(f, "symbol `{name}`: {why}"),
        }
    }
}

impl From<ElfError> for Failure {
    fn from(error: ElfError) -> Self {
        Self::Elf(error)
    }
}

/// One row of the table: a task, the thread, or the faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Interrupt, `thread` or `faults`.
    pub name: String,
    /// Priority of the task table; `None`: the faults, above all.
    pub priority: Option<u8>,
    /// Deepest stack of its own, bytes.
    pub stack: u32,
    /// Exception frames that come with it, bytes.
    pub frames: u32,
    /// The deepest path.
    pub path: Vec<Frame>,
    /// Instructions when no loop repeats (`Depth::instructions`); 0 for the faults.
    pub instructions: u32,
}

/// The bound of a firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Board it was built for.
    pub board: String,
    /// Its version.
    pub version: String,
    /// Thread first, then tasks by priority, then faults.
    pub tasks: Vec<Task>,
    /// Deepest stack of the whole system, bytes.
    pub worst: u32,
    /// Bytes that the linker keeps free for the stack.
    pub reserved: u32,
    /// The boot stage, where the firmware has one.
    pub boot: Option<BootStage>,
}

/// The program that starts the firmware, and on whose services `idle` calls: their stack is part of the thread's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootStage {
    /// Deepest stack of its own start, before the firmware runs, bytes.
    pub worst: u32,
    /// Bytes it has for that.
    pub reserved: u32,
}

impl Report {
    /// Whether the stack that is reserved holds the worst.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.worst <= self.reserved && self.boot.is_none_or(|boot| boot.worst <= boot.reserved)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "firmware {} for {}", self.version, self.board)?;
        writeln!(f, "{:<16}{:>8}{:>8}{:>8}  deepest path", "task", "priority", "stack", "frames")?;
        for task in &self.tasks {
            let priority = task.priority.map_or_else(|| "-".to_owned(), |priority| priority.to_string());
            let path: Vec<String> =
                task.path.iter().map(|frame| format!("{} {}", frame.function, frame.bytes)).collect();
            let (name, path) = (&task.name, path.join(" > "));
            writeln!(f, "{name:<16}{priority:>8}{:>8}{:>8}  {path}", task.stack, task.frames)?;
        }
        write!(f, "worst stack {} bytes, {} reserved", self.worst, self.reserved)?;
        match self.boot {
            Some(boot) => {
                write!(f, "\nboot stage, before: {} bytes, {} reserved", boot.worst, boot.reserved)
            }
            None => Ok(()),
        }
    }
}

/// What the firmware says of itself in [`SECTION`].
#[derive(Debug, Default)]
struct BuildInfo {
    board: Option<String>,
    version: Option<String>,
    priorities: BTreeMap<String, u8>,
}

impl BuildInfo {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut info = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["board", name] => info.board = Some((*name).to_owned()),
                ["version", version] => info.version = Some((*version).to_owned()),
                ["task", interrupt, priority] => {
                    let priority = priority.parse().map_err(|_| Failure::BuildInfo(line.to_owned()))?;
                    info.priorities.insert((*interrupt).to_owned(), priority);
                }
                ["feature", name] => return Err(Failure::Feature((*name).to_owned())),
                _ => return Err(Failure::BuildInfo(line.to_owned())),
            }
        }
        Ok(info)
    }
}

/// Symbols that a firmware without panics and heap does not have.
#[must_use]
pub fn forbidden_symbols(elf: &Elf<'_>) -> Vec<Failure> {
    const PANIC: &str = "a panic is linked";
    const HEAP: &str = "a heap is linked";
    // Parts of mangled names (legacy and v0), then whole names of C libraries.
    const PARTS: [(&str, &str); 11] = [
        ("4core9panicking", PANIC),
        ("rust_begin_unwind", PANIC),
        ("rust_panic", PANIC),
        ("a_panic_is_reachable", PANIC),
        ("slice_index_fail", PANIC),
        ("unwrap_failed", PANIC),
        ("__rust_alloc", HEAP),
        ("__rust_realloc", HEAP),
        ("__rdl_alloc", HEAP),
        ("__rg_alloc", HEAP),
        ("handle_alloc_error", HEAP),
    ];
    const NAMES: [&str; 10] = [
        "malloc",
        "calloc",
        "realloc",
        "free",
        "memalign",
        "aligned_alloc",
        "_sbrk",
        "sbrk",
        "_malloc_r",
        "_free_r",
    ];
    let is_alloc_crate = |name: &str| {
        name.starts_with("_ZN5alloc")
            || name.starts_with("_R") && name.contains("_5alloc")
            || name.contains("alloc..")
    };
    let reason = |name: &str, is_undefined: bool| {
        let part = PARTS.iter().find(|(part, _)| name.contains(part)).map(|(_, why)| *why);
        part.or_else(|| (NAMES.contains(&name) || is_alloc_crate(name)).then_some(HEAP))
            .or_else(|| is_undefined.then_some("it is undefined"))
    };
    elf.symbols
        .iter()
        .filter_map(|symbol| {
            let why = reason(symbol.name, symbol.is_undefined)?;
            Some(Failure::Symbol { name: symbol.name.to_owned(), why })
        })
        .collect()
}

/// Derives the bound of a firmware that calls no boot stage from its ELF, or says everything that stands against one.
///
/// # Errors
/// Damage, recursion, indirect calls, unknown instructions, exceptions without priority, panics, a heap.
pub fn check(bytes: &[u8]) -> Result<Report, Vec<Failure>> {
    check_all(bytes, None)
}

/// As [`check`], of a firmware and the boot stage whose services it calls at a fixed address. The calls are followed
/// into the boot stage like any other; panics are allowed there (they reset the controller), recursion, indirect
/// calls and unknown instructions are not.
///
/// # Errors
/// As there.
pub fn check_with(bytes: &[u8], boot: &[u8]) -> Result<Report, Vec<Failure>> {
    check_all(bytes, Some(boot))
}

/// As [`check_with`], with the boot stage that lies beside `BOARD.elf` or `BOARD-b.elf` as `BOARD-boot.elf`, or
/// without where none does.
///
/// # Errors
/// As there, or a file that cannot be read.
pub fn check_file(path: &Path) -> Result<Report, Vec<Failure>> {
    let unreadable = |error| vec![Failure::Missing(format!("file {}: {error}", path.display()))];
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    let board = name.strip_suffix("-b").unwrap_or(name);
    let boot = std::fs::read(path.with_file_name(format!("{board}-boot.elf"))).ok();
    check_all(&bytes, boot.as_deref())
}

fn check_all(bytes: &[u8], boot: Option<&[u8]>) -> Result<Report, Vec<Failure>> {
    let elf = Elf::parse(bytes).map_err(|error| vec![error.into()])?;
    let boot = boot.map(Elf::parse).transpose().map_err(|error| vec![error.into()])?;
    let mut failures = forbidden_symbols(&elf);
    let elves: Vec<&Elf<'_>> = [&elf].into_iter().chain(&boot).collect();
    let code = Code::of(&elves);
    let mut flow = Flow::new(&code);
    let mut report = report(&elf, &code, &mut flow, &mut failures);
    if let (Ok(report), Some(boot)) = (&mut report, &boot) {
        report.boot = boot_stage(boot, &code, &mut flow);
        if report.boot.is_none() {
            failures.push(Failure::Missing(format!("one of the symbols {BOOT_WORK:?} in its boot stage")));
        }
    }
    failures.extend(flow.violations().into_iter().map(Failure::Path));
    match report {
        Ok(report) if failures.is_empty() => Ok(report),
        Ok(_) => Err(failures),
        Err(failure) => {
            failures.push(failure);
            Err(failures)
        }
    }
}

/// Functions of the boot stage that do its work, one after the other; what calls them has next to no stack.
const BOOT_WORK: [&str; 2] = ["tendon_boot_start", "tendon_boot_vouch"];
/// Stack of the boot stage outside of [`BOOT_WORK`]: reset handler and `main`.
const BOOT_OUTSIDE: u32 = 64;

fn boot_stage(elf: &Elf<'_>, code: &Code<'_>, flow: &mut Flow<'_, '_>) -> Option<BootStage> {
    let [first, second] = BOOT_WORK.map(|name| Some(flow.depth(code.address_of(name)?).worst));
    let worst = first?.max(second?).saturating_add(BOOT_OUTSIDE);
    let reserved = elf.value("_stack_start")?.saturating_sub(elf.value("__euninit")?);
    Some(BootStage { worst: worst.saturating_add(FAULT_LEVELS * EXCEPTION_FRAME), reserved })
}

fn report(
    elf: &Elf<'_>,
    code: &Code<'_>,
    flow: &mut Flow<'_, '_>,
    failures: &mut Vec<Failure>,
) -> Result<Report, Failure> {
    let missing = |what: &str| Failure::Missing(what.to_owned());
    let section = elf.section(SECTION).ok_or_else(|| missing(&format!("section {SECTION}")))?;
    let text = std::str::from_utf8(section.bytes).map_err(|_| Failure::BuildInfo("not UTF-8".to_owned()))?;
    let info = BuildInfo::parse(text)?;
    let vectors = elf.section(".vector_table").ok_or_else(|| missing("section .vector_table"))?.bytes;
    let stack = |name: &str| elf.value(name).ok_or_else(|| missing(&format!("symbol {name}")));
    let reserved = stack("_stack_start")?.saturating_sub(stack("_stack_end")?);

    let mut rows: BTreeMap<(u8, String), Task> = BTreeMap::new();
    let mut faults = Task {
        name: "faults".into(),
        priority: None,
        stack: 0,
        frames: FAULT_LEVELS * EXCEPTION_FRAME,
        path: Vec::new(),
        instructions: 0,
    };
    let mut add = |flow: &mut Flow<'_, '_>, name: &str, priority: u8, entry: u32, frames: u32| {
        let Depth { worst: stack, instructions, .. } = flow.depth(entry);
        let path = flow.deepest_path(entry);
        let task =
            Task { name: name.to_owned(), priority: Some(priority), stack, frames, path, instructions };
        rows.insert((priority, name.to_owned()), task);
    };
    let reset = word(vectors, 4).ok_or_else(|| missing("reset vector"))? & !1;
    // Priority 0 of RTIC is the thread: `init` runs there too, before the first interrupt.
    add(flow, "thread", 0, reset, 0);
    let mut bound: Vec<&str> = Vec::new();
    for (index, vector) in vectors.as_chunks::<4>().0.iter().enumerate().skip(2) {
        let entry = u32::from_le_bytes(*vector) & !1;
        if entry == 0 {
            continue;
        }
        let names = code.function(entry).map_or(&[][..], |function| &function.names);
        let task = info.priorities.iter().find(|(interrupt, _)| names.contains(interrupt));
        if let Some((interrupt, priority)) = task {
            bound.push(interrupt);
            add(flow, interrupt, *priority, entry, EXCEPTION_FRAME);
            continue;
        }
        // What nobody binds must stop the controller.
        let depth = flow.depth(entry);
        if depth.returns {
            let handler = names.first().cloned().unwrap_or_default();
            failures.push(Failure::Vector { index, handler });
        }
        if FAULT_LEVELS * depth.worst >= faults.stack {
            (faults.stack, faults.path) = (FAULT_LEVELS * depth.worst, flow.deepest_path(entry));
        }
    }
    for interrupt in info.priorities.keys() {
        if !bound.contains(&interrupt.as_str()) {
            failures.push(missing(&format!("vector for the task {interrupt}")));
        }
    }
    // Tasks of one priority do not preempt each other.
    let mut levels: BTreeMap<u8, u32> = BTreeMap::new();
    for ((priority, _), task) in &rows {
        let level = levels.entry(*priority).or_default();
        *level = (*level).max(task.stack.saturating_add(task.frames));
    }
    let sum = levels.values().fold(0u32, |sum, level| sum.saturating_add(*level));
    let worst = sum.saturating_add(faults.stack).saturating_add(faults.frames);
    let mut tasks: Vec<Task> = rows.into_values().collect();
    tasks.push(faults);
    Ok(Report {
        board: info.board.ok_or_else(|| missing("board name"))?,
        version: info.version.ok_or_else(|| missing("version"))?,
        tasks,
        worst,
        reserved,
        boot: None,
    })
}
