//! What the runtime promises, seen through its public interface.

mod action;
mod blackbox;
mod controller;
mod deadline;
mod elsewhere;
mod envelope;
mod image;
mod monitor;
mod node;
#[path = "../examples/numbers.rs"]
mod numbers;
mod observation;
mod spec;
mod world;
