//! rapier3d worlds, robots, tasks, vectorised environments and a software camera.
#![forbid(unsafe_code)]

mod dynamics;
mod environment;
mod interface;
mod load;
mod render;
mod robot;
mod rollout;
mod scene;
mod seed;
mod servo;
mod state;
pub mod tasks;
mod terrain;
mod vec_env;
mod world;

pub use environment::{Environment, Step};
pub use interface::{InterfaceError, PolicyInterface};
pub use load::{LoadError, Unsupported};
pub use render::{Camera, Drawn, Image, Looks, Randomisation, Texture, render};
pub use robot::{Actuator, Body, Engine, Joint, JointKind, Keyframe, Robot, RobotOptions, Site};
pub use rollout::{LocomotionMetrics, LocomotionTask, RolloutError, run_locomotion};
pub use scene::{Mesh, Placed, Scene, Shape};
pub use seed::{Rng, TrajectoryHash, derive_seed};
pub use servo::servo_torque;
pub use tendon_runtime::JointCommand;
pub use terrain::Terrain;
pub use vec_env::{StepBatch, VecEnv, VecEnvError};
pub use world::{FrameMotion, World};
