//! rapier3d worlds, robots, tasks, vectorised environments and a software camera.

mod environment;

pub use environment::{Environment, Step};
