//! What boots and what may: two slots each for policy and firmware, records that say which, signatures, keys.
//!
//! Pure logic over [`embedded_storage::nor_flash::NorFlash`]: the boot stage runs it on a board's flash, the
//! stand-in process on a file, tests and campaigns on a model whose power fails (`sim`). Slots are selected, never
//! swapped; records are appended, never changed; at any instant of a power cut the image before or the image after
//! boots, verified. Decisions by state: `docs/flash.md`.
//!
//! `no_std`, no heap. Unlike `runtime` it may panic (Ed25519 and the log crate do not link without): in the boot
//! stage a panic is a reset.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(feature = "sim", feature = "sign"))]
extern crate std;

mod flow;
mod image;
mod keys;
mod layout;
mod log;
mod records;
pub mod service;
#[cfg(feature = "sign")]
pub mod sign;
#[cfg(feature = "sim")]
pub mod sim;
mod vouch;

pub use flow::{Boot, FIRMWARE_BOOTS};
pub use keys::is_usable;
pub use layout::{Layout, LayoutProblem, Region};
pub use vouch::{REFUSED, padded, vouch};
