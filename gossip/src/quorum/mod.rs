//! Agreement on versions and leases of primaries: one file per message and its answer. Chapters 2 to 4.

mod accept;
mod adopt;
mod failover;
mod lead;
mod lease;
mod prepare;
mod spread;
mod upkeep;

pub(crate) use lead::{Leader, Pending, QUEUE_MAX};
pub(crate) use lease::{Draining, Tenure};
pub(crate) use prepare::Candidate;
pub(crate) use spread::Spread;

use crate::topology::Ballot;
use proto::{Mono, NodeId};

#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// A voter's volatile side, beside its promises.
#[derive(Debug, Default)]
pub(crate) struct Vote {
    pub following: Option<(Ballot, NodeId)>,
    pub leader_heard: Mono,
    /// Bits last told to the leader.
    pub mask: Vec<u64>,
    /// The mask may be other than `mask` says.
    pub mask_dirty: bool,
    /// When a promise runs out next.
    pub mask_at: Option<Mono>,
}
