//! The mesh: N control planes in one loop over a heap of (time, event). No sockets, no tokio, no threads.
//!
//! A run is a plan drawn from a seed: faults first, then calm, in which the cluster must heal. Every step is checked.
//! Invariant: equal plans give equal traces; a test compares their hashes.

mod batch;
mod data;
mod faults;
mod invariants;
mod net;
mod node;
mod plan;
mod world;

#[cfg(test)]
mod directed;
#[cfg(test)]
mod directed_data;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use plan::{Mutant, Plan, Profile, parse_mutant};
pub use world::{Outcome, Stats, Violation, run};
