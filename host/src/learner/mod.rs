//! Learners: from a task to a policy.
//!
//! One file per algorithm ([`train`] is PPO). They share rollouts ([`Rollout`]), the network ([`ActorCritic`], the one type behind which
//! burn hides), checkpoints, and progress reports. Seeds are arguments; the same seed gives the same bits on any number of threads.

mod adam;
mod checkpoint;
mod config;
pub(crate) mod gradient;
mod mlp;
mod network;
mod normaliser;
#[cfg(test)]
pub(crate) mod pendulum;
mod policy;
mod ppo;
mod progress;
mod random;
mod rollout;

pub use checkpoint::Checkpoint;
pub use config::{PpoConfig, Schedule};
pub use mlp::{Layer, Mlp};
pub use network::{ActorCritic, Batch, Losses, StepSettings};
pub use normaliser::{FrozenNormaliser, NORMALISED_LIMIT, Normaliser};
pub use policy::{EPISODE_LIMIT, Episode, Interval, Policy, bootstrap, evaluate};
pub use ppo::{LearnError, Trained, restore_policy, train};
pub use progress::{CurveRow, OnProgress, Progress, Stage};
pub use random::{Rng, derive_seed};
pub use rollout::{ACTION_LIMIT, MakeEnvironment, Rollout, advantages};

pub(crate) use adam::Adam;
pub(crate) use mlp::tanh;
pub(crate) use ppo::{Ppo, same_config};
pub(crate) use rollout::stream;
