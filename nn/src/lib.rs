//! Training on the CPU: gradients of the small networks that robots run, as fast as this processor multiplies.
//!
//! ```
//! use tendon_nn::{Activation, Adam, AdamSettings, Mlp, Sharded};
//!
//! // a batch of 512, towards targets: one step of mean-squared error on two threads.
//! let mlp = Mlp::new(&[3, 32, 1], Activation::Tanh, Activation::None);
//! let mut uniform = || 0.3; // in earnest: a seeded generator
//! let mut parameters = mlp.initialise_uniform(&mut uniform);
//! let mut weights = mlp.weights(&parameters);
//! let mut adam = Adam::new(parameters.len(), AdamSettings::default());
//! let mut sharded = Sharded::new(2, parameters.len(), || mlp.workspace());
//! let (x, target) = (vec![0.5; 512 * 3], vec![0.2; 512]);
//!
//! let gradient = sharded.gradient(512, |rows, workspace, gradient| {
//!     let x = &x[rows.start * 3..rows.end * 3];
//!     let y = weights.forward(x, workspace);
//!     let d: Vec<f32> = y.iter().zip(&target[rows]).map(|(y, t)| 2.0 * (y - t) / 512.0).collect();
//!     weights.backward(x, &d, workspace, gradient, None);
//! });
//! adam.step(&mut parameters, gradient, 3e-4);
//! weights.set(&parameters);
//! ```
//!
//! **Parameters are one flat slice**, gradients another of the same order: optimiser, all-reduce, checkpoint and bit-equal
//! resumption are loops over a slice. A network knows its shape and where its weights lie; it owns none. What it keeps for
//! the kernels ([`Weights`]) is a copy in their layout, set again after each step.
//!
//! **The same seed gives the same bits on any number of threads.** [`Sharded`] cuts a batch into shards by its size alone,
//! goes through a shard in blocks that stay in the second cache from the first layer's forward to its backward step, and adds
//! the shards in order. An element of a product is summed in one order, wherever it lies in a tile; AVX-512 and AVX2 give
//! the same bits, processors without fused multiply-add others.
//!
//! **Why an engine of its own.** A training step of 48-256-256-12 at batch 4096 took burn-flex 87 ms on two cores, PyTorch
//! 16; the machine can do it in about 10. The difference is layout, fusion and the hand-off between threads, which no
//! extension of single operators reaches: every operator of a general engine passes its whole batch through memory. These
//! networks are few and their backward steps a page each. burn stays the reference: `tests/` compares every gradient with
//! its automatic differentiation and with finite differences.
#![deny(unsafe_code)] // lifted in raw/mod.rs

mod adam;
mod conv;
mod gru;
mod layer_norm;
mod mlp;
mod network;
mod raw;
mod sharded;
mod transformer;

pub use adam::{Adam, AdamSettings};
pub use conv::{Conv2d, ConvWeights, ConvWorkspace};
pub use gru::{Gru, GruWeights, GruWorkspace, Sequences};
pub use layer_norm::LayerNorm;
pub use mlp::{Activation, Layer, Mlp, Weights, Workspace};
pub use network::{Encoder, Network, NetworkWeights, NetworkWorkspace};
pub use raw::Pool;
pub use sharded::{BLOCK, Sharded};
pub use transformer::{Transformer, TransformerBlock, TransformerWeights, TransformerWorkspace};
