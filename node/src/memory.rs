//! Memory beside keys and values: what INFO and MEMORY STATS show of it, and what of it counts for `maxmemory`.
//!
//! Follows Redis's `used_memory` without what `freeMemoryGetNotCountedMemory` leaves out: bytes of the feed that are held
//! beyond the backlog's size, since replicas or the log are behind. Were they counted, each eviction would be a command
//! that makes them more. Interpreters are left out as well, whose memory is not in Redis's `used_memory` either.

use crate::clients::state;
use crate::env::Env;
use crate::shared::Shared;
use std::sync::atomic::Ordering;

/// In bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Beside {
    pub clients: u64,
    /// Within `repl-backlog-size`.
    pub backlog: u64,
    /// Beyond it, for replicas and moves of slots that are behind.
    pub replicas: u64,
    /// Beyond it, for the append-only file alone.
    pub log: u64,
    pub scripts: u64,
    pub functions: u64,
    /// Keys in the table of CLIENT TRACKING.
    pub tracking: u64,
}

impl Beside {
    /// What is there now.
    pub fn of<E: Env>(shared: &Shared<E>) -> Beside {
        let feed = &shared.feed;
        let surplus = feed.surplus_bytes();
        let log = log_lag(shared).min(surplus);
        Beside {
            clients: client_bytes(shared),
            backlog: feed.held_bytes().saturating_sub(surplus),
            replicas: surplus - log,
            log,
            scripts: shared.engine.scripts.cache.bytes() as u64,
            functions: shared.engine.scripts.libraries.set().bytes() as u64,
            tracking: shared.tracking.bytes() as u64,
        }
    }
    pub fn total(&self) -> u64 {
        self.counted() + self.not_counted()
    }
    /// What `maxmemory` does not limit.
    pub fn not_counted(&self) -> u64 {
        self.replicas + self.log
    }
    pub fn counted(&self) -> u64 {
        self.clients + self.backlog + self.tracking + self.texts()
    }
    /// What is seldom changed, and takes time to sum up.
    fn texts(&self) -> u64 {
        self.scripts + self.functions
    }
}

/// Clients' buffers; what several of them share counts once, as it stands in memory.
fn client_bytes<E: Env>(shared: &Shared<E>) -> u64 {
    let own = shared.clients.bytes().saturating_sub(shared.clients.shared_bytes());
    (own + shared.messages.held_bytes()) as u64
}

/// Bytes that the append-only file has not taken yet.
fn log_lag<E: Env>(shared: &Shared<E>) -> u64 {
    match shared.settings().appendonly {
        true => shared.feed.end().0.saturating_sub(shared.state.log_taken.load(Ordering::Relaxed)),
        false => 0,
    }
}

/// Keys, values and everything beside them: `used_memory`.
pub fn used_bytes<E: Env>(shared: &Shared<E>, beside: &Beside) -> u64 {
    shared.engine.keyspace.used_bytes() + beside.total()
}

/// What counts for `maxmemory` beside keys and values, for a batch: scripts and libraries as they were at the last round.
#[inline]
pub fn counted<E: Env>(shared: &Shared<E>) -> u64 {
    let feed = &shared.feed;
    let backlog = feed.held_bytes().saturating_sub(feed.surplus_bytes());
    let texts = shared.counters.text_bytes.load(Ordering::Relaxed);
    client_bytes(shared) + backlog + shared.tracking.bytes() as u64 + texts
}

/// Renews what [`counted`] takes from the last round.
pub fn renew<E: Env>(shared: &Shared<E>) {
    if shared.settings().engine.maxmemory > 0 {
        shared.counters.text_bytes.store(Beside::of(shared).texts(), Ordering::Relaxed);
    }
}

/// Notes the most that was ever used; returns it.
pub fn renew_peak<E: Env>(shared: &Shared<E>, used: u64) -> u64 {
    shared.counters.peak_bytes.fetch_max(used, Ordering::Relaxed).max(used)
}

/// What INFO shows as the replicas' buffers. Without replicas what is left of them is nobody's, and yet not counted.
pub fn replica_buffer_bytes<E: Env>(shared: &Shared<E>, beside: &Beside) -> u64 {
    let is_replica = |c: &std::sync::Arc<crate::clients::Client>| c.has(state::REPLICA) && !c.is_killed();
    if shared.clients.all().iter().any(is_replica) { beside.replicas } else { 0 }
}
