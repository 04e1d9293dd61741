//! The tendon program: learning, export, link, hardware-in-the-loop, reports
#![forbid(unsafe_code)]

pub mod learner;
pub mod run_folder;
