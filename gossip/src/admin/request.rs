//! Requests: each is a compare-and-set on what it names (A11), so that one which comes late changes nothing.

use crate::topology::{Member, Seal};
use crate::wire::v2::Join;
use proto::{Epoch, Generation, NodeId, ShardId, Slot, SlotRange};
use rkyv::{Archive, Deserialize, Serialize};

/// What the node's own users ask of the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A decision of the cluster.
    Decide(Request),
    /// CLUSTER MEET.
    Meet { ip: String, bus_port: u16 },
    /// CLUSTER FAILOVER, at a replica.
    Failover(FailoverMode),
    /// CLUSTER RESET. `has_keys`: refused while a primary holds keys.
    Reset { is_hard: bool, has_keys: bool },
    /// The process is about to end: hand over and stop serving.
    ShutDown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailoverMode {
    /// With the primary's consent; nothing is lost.
    Default,
    /// Without its consent, once its lease has run out.
    Force,
    /// Without a majority, if there is none. What the other side decides meanwhile is given up.
    Takeover,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Request {
    AddSlots {
        node: NodeId,
        slots: Vec<SlotRange>,
    },
    /// Only from the slots' owner, which stops serving them before it asks.
    DelSlots {
        node: NodeId,
        slots: Vec<SlotRange>,
    },
    FlushSlots {
        node: NodeId,
    },
    SetConfigEpoch {
        node: NodeId,
        epoch: Epoch,
    },
    BumpEpoch {
        node: NodeId,
    },
    /// `node` leaves its shard and follows the primary `target`, as a learner.
    Replicate {
        node: NodeId,
        target: NodeId,
    },
    Forget {
        node: NodeId,
    },
    /// SETSLOT MIGRATING at `node`.
    Migrating {
        node: NodeId,
        slot: Slot,
        target: NodeId,
    },
    /// SETSLOT IMPORTING at `node`.
    Importing {
        node: NodeId,
        slot: Slot,
        source: NodeId,
    },
    /// SETSLOT STABLE.
    Stable {
        slot: Slot,
    },
    /// SETSLOT NODE: the last step of the key-by-key way, asked by `asker`.
    SlotTo {
        slot: Slot,
        node: NodeId,
        asker: NodeId,
    },
    /// A cluster-wide setting; `None` removes it.
    Setting {
        name: String,
        value: Option<String>,
    },
    /// A member's own entry: its address, store or flags have changed.
    Member(Member),
    /// Exactly these nodes vote.
    Voters {
        nodes: Vec<NodeId>,
    },
    /// D5: compare-and-set on (rev, primary).
    Drop {
        shard: ShardId,
        rev: Epoch,
        by: NodeId,
        node: NodeId,
        generation: Generation,
    },
    Add {
        shard: ShardId,
        rev: Epoch,
        by: NodeId,
        node: NodeId,
        generation: Generation,
    },
    /// D9: from now on only members of the set are promoted; the set begins with the primary alone.
    Strict {
        shard: ShardId,
        rev: Epoch,
        by: NodeId,
        generation: Generation,
    },
    /// A planned hand-over: the primary of this tenure has stopped.
    HandOver {
        shard: ShardId,
        epoch: Epoch,
        to: NodeId,
        generation: Generation,
    },
    /// The ordinary failover, with this candidate preferred.
    Prefer {
        shard: ShardId,
        to: NodeId,
    },
    MoveStart {
        id: u64,
        slots: Vec<SlotRange>,
        from: ShardId,
        to: ShardId,
    },
    /// S3: compare-and-set on both epochs.
    MoveCommit {
        id: u64,
        epoch_from: Epoch,
        epoch_to: Epoch,
    },
    MoveCancel {
        id: u64,
    },
    /// This chain joins another and serves no more.
    Seal(Seal),
    /// The join was refused for good.
    Unseal {
        join: u64,
    },
    Join(Box<Join>),
    /// Makes a refusal final: this join will never be accepted.
    RefuseJoin {
        node: NodeId,
        join: u64,
    },
}

/// How a request ended well.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    /// BUMPEPOCH: the shard's epoch is this now.
    Bumped(Epoch),
    /// BUMPEPOCH: it already was the highest.
    Still(Epoch),
    /// The join was refused, and that is decided.
    JoinRefused,
}
