//! Learners: from a task, or from people's preferences, to a policy.
//!
//! One file per algorithm ([`train`] is PPO). They share rollouts ([`Rollout`]), the network ([`ActorCritic`], the one type behind which
//! burn hides), checkpoints, and progress reports. Seeds are arguments; the same seed gives the same bits on any number of threads.

#![forbid(unsafe_code)]

mod adam;
mod checkpoint;
mod config;
pub mod demo;
mod gradient;
mod mlp;
mod network;
mod normaliser;
mod pendulum;
mod policy;
mod ppo;
pub mod preference;
mod progress;
mod random;
mod rollout;
pub mod run_folder;

pub use checkpoint::Checkpoint;
pub use config::{PpoConfig, Schedule};
pub use mlp::{Layer, Mlp};
pub use network::{ActorCritic, Batch, Losses, StepSettings};
pub use normaliser::{FrozenNormaliser, NORMALISED_LIMIT, Normaliser};
pub use pendulum::Pendulum;
pub use policy::{EPISODE_LIMIT, Episode, Interval, Policy, bootstrap, evaluate};
pub use ppo::{LearnError, Trained, restore_policy, train};
pub use progress::{CurveRow, OnProgress, Progress, Stage};
pub use random::{Rng, derive_seed};
pub use rollout::{ACTION_LIMIT, MakeEnvironment, Rollout, advantages};

pub(crate) use adam::Adam;
pub(crate) use mlp::tanh;
pub(crate) use ppo::{Ppo, same_config};
pub(crate) use rollout::stream;
