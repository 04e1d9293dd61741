//! Gradients against finite differences and against burn, and bits against threads.
mod reference;

mod determinism;
mod gru;
mod mlp;
