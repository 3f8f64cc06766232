//! In-sync sets: what a primary may acknowledge, whom it has dropped and added, and what a member does when it finds
//! that its bytes are not its primary's. Rules D1..D17 of the protocol.
//!
//! Pure: events in, effects out. Offsets are the feed's; the set and its changes are the topology's.
//! Invariant: what is acknowledged is held by every (node, generation) that may be promoted.

mod follower;
mod primary;
mod tenures;

pub use follower::{Follower, FollowerEffect};
pub use primary::{Ask, Effect, Event, Primary, Settings};
pub use tenures::{Fit, Tenures};

use proto::{Epoch, Generation, NodeId, ShardId};

/// What a topology says about one shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardState {
    pub id: ShardId,
    /// Version at which the present tenure began.
    pub epoch: Epoch,
    /// Version of the last change of any kind.
    pub rev: Epoch,
    pub primary: NodeId,
    pub in_sync: Vec<(NodeId, Generation)>,
    pub members: Vec<NodeId>,
    pub strict: bool,
}

/// How far an acknowledgement reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The primary alone.
    Async,
    /// Every member of the set holds it.
    InSync,
    /// Every member of the set holds it on its disk; our own disk counts like a member's (D1, D17).
    InSyncFsync,
}

/// A rule taken out. For the simulator's tests of itself; never set in a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Acknowledges without waiting for anybody.
    D1NoWait,
    /// A member that is being added does not count yet.
    D1NoPending,
    /// Acknowledges as soon as Drop is asked.
    D2,
    /// Adds members that are still behind.
    D3,
    /// Takes all it holds for acknowledged when its tenure begins.
    D13,
}
