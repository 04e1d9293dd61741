//! The `tendon` program as a library: learning, export, link, hardware-in-the-loop, reports.
#![forbid(unsafe_code)]

pub mod link;
