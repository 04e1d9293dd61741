//! Gradients against finite differences and against burn, and bits against threads.
mod reference;

mod conv;
mod determinism;
mod gru;
mod layer_norm;
mod mlp;
mod network;
mod transformer;
