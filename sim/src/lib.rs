//! Simulation: whole clusters in one thread, every fault drawn from a seed.

pub mod linearize;
pub mod mesh;
