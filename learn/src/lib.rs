//! Learners: from a task, or from people's preferences, to a policy.
//!
//! One file per algorithm ([`train`] is PPO). They share rollouts ([`Rollout`]), the network ([`ActorCritic`], on `tendon-nn`'s
//! gradients), checkpoints, and progress reports. Seeds are arguments; the same seed gives the same bits on any number of threads.

#![forbid(unsafe_code)]

mod architecture;
mod checkpoint;
mod communicator;
mod config;
mod constrained;
pub mod demo;
mod diffusion;
mod driver;
mod flow;
mod hopper;
mod imitate;
#[cfg(feature = "mpi")]
mod mpi;
mod network;
mod normaliser;
mod parallel;
mod pendulum;
mod policy;
mod ppo;
pub mod preference;
mod progress;
mod random;
mod regression;
mod rollout;
pub mod run_folder;
mod sac;
mod sequences;
pub mod settings;

#[cfg(feature = "mpi")]
pub use crate::mpi::Mpi;
pub use architecture::{NetworkConfig, NetworkKind};
pub use checkpoint::Checkpoint;
pub use communicator::{Alone, Communicator, Traffic};
pub use config::{PpoConfig, Schedule};
pub use constrained::{ConstrainedConfig, train_constrained};
pub use diffusion::{DiffusionConfig, train_diffusion};
pub use flow::{FlowConfig, train_flow};
pub use hopper::Hopper;
pub use imitate::{ImitationConfig, WithPrivileged, imitate};
pub use network::{ActorCritic, Batch, Inference, Losses, Minibatch, StepSettings};
pub use normaliser::{FrozenNormaliser, NORMALISED_LIMIT, Normaliser};
pub use pendulum::Pendulum;
pub use policy::{
    Actor, EPISODE_LIMIT, Episode, Head, Hidden, Interval, Policy, Sampler, bootstrap, evaluate, mlp, student,
};
pub use ppo::{LearnError, Trained, train, train_from};
pub use progress::{CurveRow, OnProgress, Progress, Stage};
pub use random::{Rng, derive_seed};
pub use rollout::{ACTION_LIMIT, Finished, MakeEnvironment, Rollout, advantages};
pub use sac::{SacConfig, train_sac};
pub use tendon_nn::{Activation, Conv2d, Encoder, Gru, Layer, Mlp, Network, Transformer};

pub(crate) use ppo::Ppo;
pub(crate) use rollout::stream;
