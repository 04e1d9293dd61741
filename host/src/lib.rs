//! The `tendon` program as a library: learning, export, link, hardware-in-the-loop, reports.
#![forbid(unsafe_code)]

pub mod demo;
pub mod export;
pub mod learner;
pub mod link;
pub mod preference;
pub mod run_folder;
