//! Flash of the boards: where it is, how it is written, and where things lie in it.

#[cfg(feature = "nucleo-h743zi")]
mod nucleo_h743zi;
#[cfg(feature = "nucleo-h743zi")]
pub use nucleo_h743zi::{LAYOUT, STALLS, Sectors as Flash};

#[cfg(feature = "pico2")]
mod pico2;
#[cfg(feature = "pico2")]
pub use pico2::{LAYOUT, Qspi as Flash, STALLS};

#[cfg(any(feature = "qemu-an386", feature = "qemu-an500", feature = "qemu-an505"))]
mod mps2;
#[cfg(any(feature = "qemu-an386", feature = "qemu-an500", feature = "qemu-an505"))]
pub use mps2::{LAYOUT, Psram as Flash, STALLS};
#[cfg(feature = "mutate")]
pub use mps2::removed_check;
