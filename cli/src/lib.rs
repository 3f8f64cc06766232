//! shoal-cli: one-shot commands, an interactive mode, and the administration of clusters.
//!
//! Invariant: what a command prints to the standard output is its result; what is wrong goes to the standard error, and
//! the exit code says so.

#![forbid(unsafe_code)]

pub mod client;
pub mod cluster;
pub mod docs;
pub mod format;
pub mod interactive;
pub mod options;
pub mod script;
pub mod tls;
