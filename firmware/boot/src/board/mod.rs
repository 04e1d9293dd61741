//! Flash of the boards: where it is, how it is written, and where things lie in it.

#[cfg(any(feature = "qemu-an386", feature = "qemu-an500", feature = "qemu-an505"))]
mod mps2;
#[cfg(any(feature = "qemu-an386", feature = "qemu-an500", feature = "qemu-an505"))]
pub use mps2::{LAYOUT, Psram as Flash, STALLS};
