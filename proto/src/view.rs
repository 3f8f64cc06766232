//! The cluster as a node sees it at one moment: one immutable value from which every reply about the cluster is made.
//!
//! Invariant: CLUSTER SLOTS, SHARDS, NODES and each redirect derive from the same view, so they cannot disagree.

use crate::{Epoch, NodeId, ShardId, Slot, SlotRange};

/// A decided topology with what gossip adds to it. Published whole, swapped atomically.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Version of the topology: Redis's `currentEpoch`.
    pub epoch: Epoch,
    pub myself: NodeId,
    /// Sorted by id; contains `myself`.
    pub nodes: Vec<NodeView>,
    /// Index into `nodes` of each slot's owner.
    owners: Box<[u16; Slot::COUNT]>,
    pub is_ok: bool,
    /// Voters of the topology.
    pub voters: Vec<NodeId>,
    /// Whether a failed primary of this cluster would be replaced without an operator.
    pub can_fail_over: bool,
    /// Slots that are being moved key by key: the node they go to or come from.
    pub hints: Vec<SlotHint>,
}

/// A slot that is being moved with SETSLOT and MIGRATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotHint {
    pub slot: Slot,
    pub from: NodeId,
    pub to: NodeId,
    /// Which of the two sides said so. Redis's tools set the target's first.
    pub is_importing: bool,
    pub is_migrating: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Primary,
    /// Of the node with this id.
    Replica(NodeId),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    Online,
    /// Silent for longer than gossip allows: Redis's PFAIL.
    Suspected,
    Failed,
}

#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    pub shard: ShardId,
    /// An address that clients can reach; empty while unknown.
    pub ip: String,
    /// Of clients in plain TCP; 0: none.
    pub port: u16,
    /// Of clients over TLS; 0: none.
    pub tls_port: u16,
    pub bus_port: u16,
    pub hostname: String,
    pub role: Role,
    pub health: Health,
    /// Version at which the shard's present tenure began.
    pub config_epoch: Epoch,
    pub is_link_connected: bool,
    /// Wall clock in ms of the oldest unanswered probe, 0 for none.
    pub ping_sent_ms: i64,
    pub pong_received_ms: i64,
    /// Replication offset as last heard.
    pub offset: u64,
    pub slots: Vec<SlotRange>,
}

impl NodeView {
    /// The port for a client that speaks as it does to whom it asks; where there is none, the other.
    pub fn client_port(&self, is_tls: bool) -> u16 {
        match (is_tls, self.port, self.tls_port) {
            (true, port, 0) | (false, port, _) if port != 0 => port,
            (_, _, tls_port) => tls_port,
        }
    }
}

impl ClusterView {
    const NOBODY: u16 = u16::MAX;

    /// Builds the view; `nodes[..].slots` says who owns what.
    pub fn new(epoch: Epoch, myself: NodeId, mut nodes: Vec<NodeView>) -> ClusterView {
        nodes.sort_by_key(|n| n.id);
        let mut owners = Box::new([Self::NOBODY; Slot::COUNT]);
        for (index, node) in nodes.iter().enumerate() {
            for slot in node.slots.iter().flat_map(|r| r.iter()) {
                owners[slot.index()] = index as u16;
            }
        }
        let hints = Vec::new();
        ClusterView {
            epoch,
            myself,
            nodes,
            owners,
            is_ok: false,
            voters: Vec::new(),
            can_fail_over: false,
            hints,
        }
    }

    #[inline]
    pub fn owner(&self, slot: Slot) -> Option<&NodeView> {
        match self.owners[slot.index()] {
            Self::NOBODY => None,
            index => Some(&self.nodes[index as usize]),
        }
    }
    pub fn node(&self, id: &NodeId) -> Option<&NodeView> {
        self.nodes.binary_search_by_key(id, |n| n.id).ok().map(|i| &self.nodes[i])
    }
    pub fn me(&self) -> &NodeView {
        self.node(&self.myself).expect("a view contains its own node")
    }
    /// The primary of the shard that this node belongs to: itself or the one it replicates.
    pub fn my_primary(&self) -> NodeId {
        match self.me().role {
            Role::Primary => self.myself,
            Role::Replica(of) => of,
        }
    }
    pub fn replicas_of(&self, id: NodeId) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(move |n| n.role == Role::Replica(id))
    }
    pub fn hint(&self, slot: Slot) -> Option<&SlotHint> {
        self.hints.iter().find(|h| h.slot == slot)
    }
    pub fn slots_assigned(&self) -> usize {
        self.owners.iter().filter(|o| **o != Self::NOBODY).count()
    }
    /// Slots whose owner's health is `health`.
    pub fn slots_with(&self, health: Health) -> usize {
        self.owners
            .iter()
            .filter(|o| **o != Self::NOBODY && self.nodes[**o as usize].health == health)
            .count()
    }
}
