//! Simulation: whole clusters in one thread, every fault drawn from a seed.

pub mod city;
pub mod linearize;
pub mod mesh;
