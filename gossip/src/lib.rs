//! Who is in the cluster, who is alive, and what a majority has decided: pure state machines.
//!
//! Failure detection follows SWIM; agreement, leases and failover follow the numbered rules (A1..A12, W1..W13,
//! D6..D16) that stand in comments where they are obeyed and in the names of tests.
//! Invariant: no I/O, no clock, no thread, no unseeded randomness.
//! Invariant: in a list of effects, what must be durable stands before what rests on it.

#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
mod core;
mod effect;
pub mod marks;
pub mod membership;
mod promises;
mod quorum;
pub mod record;
pub mod rng;
#[cfg(test)]
mod story;
pub mod topology;
pub mod view;
pub mod wire;

pub use crate::core::{Core, Start, first_generation};
pub use admin::{Command, FailoverMode, Outcome, Refusal, Request};
pub use config::{Config, DataClass, Mutation, Times};
pub use effect::{Effect, Event, Peer};
pub use record::Record;
pub use topology::Topology;
pub use wire::v2::Position;
pub use wire::{Message, Packet};
