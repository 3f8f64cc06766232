//! The command engine: arguments in, a reply and effects out. Synchronous; it owns no thread, socket, clock or file.
//!
//! The way of a command: [`execute::execute`] looks it up, admits it ([`admission`]), locks the slots of its keys in
//! ascending order, runs its function with a [`cx::Cx`], hands what must be replayed to the [`Feed`] while the locks
//! are still held, serves clients that waited for its keys, and unlocks.
//!
//! Invariant: a command that answers with an error has changed nothing that is not in the feed.
//! Invariant: there are no globals; two engines live in one process.
//! Invariant: no unsafe code but [`script`]'s small part that speaks to Lua.

#![deny(unsafe_code)]

pub mod acl;
pub mod admission;
pub mod blocking;
pub mod commands;
pub mod cx;
pub mod error;
pub mod evict;
pub mod execute;
pub mod expire;
pub mod geo;
pub mod glob;
pub mod histogram;
pub mod hll;
mod kept;
pub mod keys;
pub mod lane;
pub mod locks;
pub mod long_double;
pub mod multi;
pub mod number;
pub mod propagate;
pub mod purge;
pub mod replace;
pub mod script;
pub mod session;
pub mod settings;
pub mod spec;
pub mod stats;
pub mod table;
#[cfg(any(test, fuzzing))]
pub mod testing;
pub mod turn;

pub use error::Error;
pub use execute::{Outcome, execute, refuse_busy};
pub use kept::Kept;
pub use lane::Lane;
pub use propagate::{Feed, Unit};
pub use session::Session;
pub use settings::Settings;
pub use spec::Command;
pub use table::{KeysAhead, Spec, Table};
pub use turn::{ChangedKey, Host, HostOutcome, Local, Passage, Ran, Status, Turn};

use std::sync::Arc;
use storage::Keyspace;

/// What all workers share.
pub struct Engine {
    pub keyspace: Arc<Keyspace>,
    pub table: Table,
    pub feed: Arc<dyn Feed>,
    pub scripts: Arc<script::Scripts>,
}

/// The arguments of a command, the name first.
pub type Args<'a> = &'a [&'a [u8]];

/// A small generator for sampling and for random replies; never for anything that is replayed.
/// Follows xorshift64*.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed | 1)
    }
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0);
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }
}
