//! The `tendon` program as a library: export, link, hardware-in-the-loop, reports.
#![forbid(unsafe_code)]

pub mod cli;
pub mod cost;
pub mod count;
pub mod doctor;
pub mod export;
pub mod faults;
pub mod hil;
pub mod keys;
pub mod link;
pub mod mishaps;
pub mod monitor;
pub mod recording;
pub mod report;
pub mod robot;
#[cfg(feature = "viewer")]
pub mod viewer;
pub mod walk;
