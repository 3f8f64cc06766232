//! Data of the mesh: a log per shard, a small map with unique values, clients that remember what they were told.
//!
//! The decisions are those of the real cores: `replication::insync`, `migration`. An offset counts records here.

mod atlas;
mod clients;
mod moves;
mod replicate;
mod serve;

pub(super) use clients::{Client, History};
pub(super) use moves::{SourceRun, TargetRun};

use super::plan::Plan;
use gossip::Topology;
use migration::Tag;
use migration::target::Arrivals;
use proto::{Epoch, Generation, Mono, NodeId, Offset, ShardId, Slot};
use replication::insync::{Follower, Primary, ShardState, Tenures};
use std::collections::BTreeMap;

pub type Key = u8;
pub type Value = u32;

pub const SLOTS: u16 = 6;
pub const KEYS: Key = 12;
/// Between two looks of a node at its links, disk and waiters.
pub const TICK_US: u64 = 5_000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A tenure begins (D13).
    Header,
    Set(Key, Value),
    /// All keys of these slots are gone (S5, S7).
    Purge(Vec<Slot>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub epoch: Epoch,
    pub record: Record,
}

/// An item of a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    Begin(Vec<Slot>),
    Set(Key, Value),
}

#[derive(Clone, Debug)]
pub enum DataMsg {
    /// A replica shows where it stands: handshake and acknowledgement in one.
    Ack {
        from: NodeId,
        shard: ShardId,
        tenure: Epoch,
        generation: Generation,
        epoch: Epoch,
        end: u64,
        durable: u64,
        is_diverged: bool,
    },
    Append {
        from: NodeId,
        shard: ShardId,
        tenure: Epoch,
        generation: Generation,
        first: u64,
        entries: Vec<Entry>,
        acknowledged: u64,
    },
    Diverged {
        shard: ShardId,
        tenure: Epoch,
        generation: Generation,
    },
    Feed {
        from: NodeId,
        tag: Tag,
        first: u64,
        items: Vec<Item>,
    },
    FeedAck {
        tag: Tag,
        applied: u64,
        safe: u64,
    },
    Client {
        client: usize,
        attempt: u64,
        key: Key,
        write: Option<Value>,
    },
}

/// A reply that waits at the gate.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub client: usize,
    pub attempt: u64,
    pub offset: u64,
    pub reply: ClientReply,
    /// Not before this look, so that a node may freeze between reading and replying (W12).
    pub not_before: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientReply {
    Written,
    Value(Option<Value>),
    /// Certainly not carried out.
    Refused,
}

pub struct DataNode {
    pub log: Vec<Entry>,
    pub tenures: Tenures,
    /// Length of the log that is being written, or was, to the disk.
    pub synced: u64,
    /// Length that a power loss leaves.
    pub on_disk: u64,
    /// The same, once the record's high-water mark says so (D7).
    pub durable: u64,
    /// Value and the offset behind its last change; an absent key keeps the offset of its removal.
    pub map: BTreeMap<Key, (Option<Value>, u64)>,
    pub acknowledged: u64,
    pub follower: Follower,
    pub primary: Option<Primary>,
    pub tenure: Option<(ShardId, Epoch)>,
    pub former: BTreeMap<ShardId, NodeId>,
    pub order: (u64, Epoch),
    pub waiting: Vec<Waiting>,
    /// What each replica was last seen to hold, of which generation.
    pub matched: BTreeMap<NodeId, (Generation, u64)>,
    pub sources: BTreeMap<u64, SourceRun>,
    pub targets: BTreeMap<u64, TargetRun>,
    pub arrivals: Arrivals,
    pub draining: Option<(Option<NodeId>, Mono)>,
    pub position_told: (Generation, u64),
}

impl DataNode {
    pub fn new(id: NodeId) -> DataNode {
        DataNode {
            log: Vec::new(),
            tenures: Tenures::default(),
            synced: 0,
            on_disk: 0,
            durable: 0,
            map: BTreeMap::new(),
            acknowledged: 0,
            follower: Follower::new(id),
            primary: None,
            tenure: None,
            former: BTreeMap::new(),
            order: Default::default(),
            waiting: Vec::new(),
            matched: BTreeMap::new(),
            sources: BTreeMap::new(),
            targets: BTreeMap::new(),
            arrivals: Arrivals::default(),
            draining: None,
            position_told: Default::default(),
        }
    }

    pub fn end(&self) -> u64 {
        self.log.len() as u64
    }
    pub fn last_epoch(&self) -> Epoch {
        self.tenures.epoch_before(Offset(self.end()))
    }

    pub fn push(&mut self, entry: Entry) {
        self.tenures.begin(entry.epoch, Offset(self.end()));
        let offset = self.end() + 1;
        match &entry.record {
            Record::Header => {}
            Record::Set(key, value) => {
                self.map.insert(*key, (Some(*value), offset));
            }
            Record::Purge(slots) => {
                for key in (0..KEYS).filter(|k| slots.contains(&slot_of(*k))) {
                    if let Some(entry) = self.map.get_mut(&key) {
                        *entry = (None, offset);
                    }
                }
            }
        }
        self.log.push(entry);
    }

    /// What a restart finds: the first `len` records, and nothing volatile.
    pub fn restart(&mut self, id: NodeId, len: u64) {
        let entries: Vec<Entry> = self.log.drain(..).take(len as usize).collect();
        *self = DataNode::new(id);
        entries.into_iter().for_each(|e| self.push(e));
        (self.synced, self.on_disk) = (len, len);
    }
    /// The copy is thrown away (D10).
    pub fn discard(&mut self) {
        self.log.clear();
        self.tenures = Tenures::default();
        self.map.clear();
        (self.synced, self.on_disk, self.durable, self.acknowledged) = (0, 0, 0, 0);
    }
}

pub fn slot_of(key: Key) -> Slot {
    Slot::new((key as u16 % SLOTS) * (Slot::COUNT as u16 / SLOTS)).expect("below 16384")
}
pub fn all_slots() -> impl Iterator<Item = Slot> {
    (0..SLOTS as Key).map(slot_of)
}

pub fn shard_state(topo: &Topology, id: ShardId) -> Option<ShardState> {
    let shard = topo.shard(id)?;
    Some(ShardState {
        id,
        epoch: shard.epoch,
        rev: shard.rev,
        primary: shard.primary.node,
        in_sync: shard.in_sync.iter().map(|m| (m.node, m.generation)).collect(),
        members: shard.members.clone(),
        strict: shard.strict,
    })
}

/// LAG of chapter 7, for the links of this plan.
pub fn lag(plan: &Plan) -> std::time::Duration {
    std::time::Duration::from_micros((plan.wait_ms * 1000 / 4).max(4 * plan.delay_us.1 + 4 * TICK_US))
}
