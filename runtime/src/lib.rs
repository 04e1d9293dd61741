//! A policy on its controller: what the bytes of an image mean, and every step from a raw robot
//! state to joint commands.
//!
//! No clock, heap, I/O or panic: time, memory and state are arguments. The same calls serve
//! simulation, training, hardware-in-the-loop and robot. One tick:
//! [`ObservationBuilder`] -> [`Network`] -> [`map_action`] -> [`Envelope`], driven by [`Controller`].
#![no_std]
#![cfg_attr(not(any(arm_fpu_dsp, neon, vectors)), forbid(unsafe_code))]
#![cfg_attr(any(arm_fpu_dsp, neon, vectors), deny(unsafe_code))] // lifted in kernels/arm.rs, neon.rs and x86.rs

#[cfg(feature = "std")]
extern crate std;

pub mod abstention;
mod action;
#[cfg(feature = "spec")]
mod aligned;
mod blackbox;
mod codes;
mod contract;
mod controller;
pub mod cost;
pub mod deadline;
mod envelope;
mod functions;
mod image;
mod kernels;
mod limits;
mod loader;
pub mod math;
pub mod monitor;
mod network;
pub mod node;
mod observation;
#[cfg(feature = "spec")]
pub mod oracle;
pub mod response;
#[cfg(feature = "spec")]
pub mod spec;
#[cfg(feature = "spec")]
mod spec_safety;
mod start;
pub mod store;
pub mod timing;

pub use abstention::Abstention;
pub use action::{JointCommand, map_action};
#[cfg(feature = "spec")]
pub use aligned::AlignedBytes;
pub use blackbox::BlackBox;
pub use codes::{Cause, Refusal, State};
pub use contract::{Contract, ContractError, MAX_PROFILES};
pub use controller::{Applied, Controller, Memory};
pub use envelope::Envelope;
pub use image::{Image, ImageError, Policy};
pub use limits::{Limits, Profile};
pub use network::{Network, NetworkError};
pub use observation::{ObservationBuilder, StateFault, check_state};
pub use tendon_wire::message::{MAX_JOINTS, RawState};
