//! The city: whole nodes, with their real connections, commands, replication and files, under turmoil's network and clock
//! and a simulated disk. Faults and workload are drawn from a seed; clients remember what they were promised.
//!
//! Invariant: a run is decided by its seed: same seed, same trace.

mod client;
mod env;
mod oracle;
mod plan;
mod run;

pub use oracle::Oracle;
pub use plan::{Durability, Fault, Plan};
pub use run::{Report, run};
