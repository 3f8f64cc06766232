//! Replication: the feed that everything reads, histories, and who is in step with a primary.
//!
//! Invariant: nothing here does I/O, reads a clock or starts a thread.

#![forbid(unsafe_code)]

pub mod acks;
pub mod feed;
pub mod history;
pub mod insync;
mod sync;
