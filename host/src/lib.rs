//! The `tendon` program as a library: learning, export, link, hardware-in-the-loop, reports.
#![forbid(unsafe_code)]

pub mod cli;
pub mod cost;
pub mod count;
pub mod demo;
pub mod doctor;
pub mod export;
pub mod faults;
pub mod hil;
pub mod keys;
pub mod learner;
pub mod link;
pub mod monitor;
pub mod preference;
pub mod recording;
pub mod report;
pub mod robot;
pub mod run_folder;
#[cfg(feature = "viewer")]
pub mod viewer;
pub mod walk;
