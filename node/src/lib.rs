//! shoal-server: workers and connections, the control loop, configuration, persistence and replication links.
//!
//! Invariant: the world reaches the node through [`env::Env`] and `storage::Disk` alone.
//! Invariant: threads meet in [`shared::Shared`] and in letter boxes, nowhere else.

mod acl_log;
pub mod alloc;
pub mod clients;
pub mod commands;
pub mod compact;
pub mod config;
pub mod connection;
pub mod control;
pub mod crew;
pub mod debugger;
pub mod digest;
pub mod env;
pub mod errand;
pub mod free;
pub mod host;
mod listen;
pub mod local_cluster;
pub mod log;
pub mod mail;
pub mod memory;
pub mod message;
pub mod migrate;
pub mod node;
pub mod observe;
pub mod pause;
pub mod persist;
pub mod pubsub;
pub mod replica;
pub mod shared;
pub mod socket;
pub mod supply;
pub mod title;
pub mod tls;
pub mod tracking;
pub mod users;
pub mod worker;

pub use config::{Config, NodeSettings};
pub use env::{Env, Real};
pub use node::run;
