//! Contracts that cross crates
