//! Bounds of a linked firmware, derived from its ELF alone: the deepest stack of the whole system, and
//! the absence of panics and of a heap. `docs/bounds.md` says what they assume.
//!
//! [`check`] reads bytes and gives a [`Report`] or every reason why there is none. No dependencies: both
//! `cargo xtask` and `tendon inspect` use it, and the one must start at once while ELF32 takes a page.
#![forbid(unsafe_code)]

pub mod cycles;
mod elf;
mod flow;
mod system;
pub mod thumb;

pub use elf::{Elf, ElfError, Section, Segment, Symbol};
pub use flow::{Code, Depth, Flow, Frame, Function, Problem, ROM_STACK, Violation};
pub use system::{
    BootStage, EXCEPTION_FRAME, Failure, Report, SECTION, Task, check, check_file, check_with,
    forbidden_symbols,
};
