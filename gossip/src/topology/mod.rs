//! The topology: one versioned value that says who is in the cluster and who owns what. Chapter 2 of the protocol.
//!
//! Invariant: members, shards and owners are sorted, so two nodes with the same version hold the same bytes.
//! Invariant: a node is a member of at most one shard.

mod check;
mod delta;
mod owners;

pub use delta::Delta;
pub use owners::Owned;

use proto::{Boot, Epoch, Generation, NodeId, ShardId, Slot, SlotRange, StoreId};
use rkyv::{Archive, Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Name of a chain of topologies: 20 random bytes drawn by the node that began it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub [u8; 20]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Number of an attempt to lead. One ballot spans all versions; ties are broken by the node.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
pub struct Ballot {
    pub round: u64,
    pub node: NodeId,
}

/// A voter is a node *with a store*: a node that lost its store has forgotten its votes (A8).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Voter {
    pub node: NodeId,
    pub store: StoreId,
}

/// Who serves a shard: a node *in one life of its process* (D12).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Primary {
    pub node: NodeId,
    pub boot: Boot,
    /// Boots are counted per store, so that a boot alone says nothing about a node whose store was lost.
    pub store: StoreId,
}

/// A full copy: a node *in one life of its data* (D6).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InSync {
    pub node: NodeId,
    pub generation: Generation,
}

/// Where a node is reached. `ip` is empty until somebody has seen it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Address {
    pub ip: String,
    /// Of clients in plain TCP; 0: none.
    pub port: u16,
    /// Of clients over TLS; 0: none.
    pub tls_port: u16,
    pub bus_port: u16,
    pub hostname: String,
    /// Failure domain, for the choice of voters; empty when unknown.
    pub zone: String,
}

impl Address {
    /// The port for commands of other nodes, in plain TCP or over TLS; 0: there is none.
    pub fn port_for(&self, is_tls: bool) -> u16 {
        if is_tls { self.tls_port } else { self.port }
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Hash)]
pub struct Member {
    pub id: NodeId,
    pub store: StoreId,
    pub address: Address,
    /// Number of the MEET that brought it here, counted by the node itself.
    pub join: u64,
    /// `cluster-replica-no-failover`: never a candidate.
    pub no_failover: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Hash)]
pub struct Shard {
    pub id: ShardId,
    /// Version at which the present tenure began.
    pub epoch: Epoch,
    /// What Redis shows as `configEpoch`: `epoch`, or what SET-CONFIG-EPOCH said before the first tenure change.
    pub config_epoch: Epoch,
    /// Version of the last change of any kind.
    pub rev: Epoch,
    pub primary: Primary,
    pub in_sync: Vec<InSync>,
    pub members: Vec<NodeId>,
    /// In-sync acknowledgements have been or may be given (D9).
    pub strict: bool,
    /// An operator or `promote-best-of-all` put up with the loss of acknowledged writes.
    pub lossy: bool,
}

/// Slots on their way from one shard to another.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Hash)]
pub struct Move {
    pub id: u64,
    pub slots: Vec<SlotRange>,
    pub from: ShardId,
    pub to: ShardId,
}

/// A slot that is being moved key by key: SETSLOT MIGRATING and IMPORTING.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Hint {
    pub slot: Slot,
    pub from: ShardId,
    pub to: ShardId,
    pub is_migrating: bool,
    pub is_importing: bool,
}

/// This chain is about to become part of another and serves no more.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Hash)]
pub struct Seal {
    pub join: u64,
    pub ip: String,
    pub bus_port: u16,
}

/// A node that left or was refused; its joins up to this number are void.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Departed {
    pub node: NodeId,
    pub join: u64,
}

/// A whole version.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    pub cluster: ClusterId,
    /// Raised by TAKEOVER alone; a higher lineage beats any version of a lower one.
    pub lineage: u64,
    /// Redis's `currentEpoch`.
    pub ver: Epoch,
    /// Version at which `voters` last changed.
    pub cfg: Epoch,
    pub voters: Vec<Voter>,
    pub members: Vec<Member>,
    pub shards: Vec<Shard>,
    pub owners: Vec<Owned>,
    pub moves: Vec<Move>,
    pub hints: Vec<Hint>,
    pub settings: Vec<(String, String)>,
    pub departed: Vec<Departed>,
    pub seal: Option<Seal>,
    /// Ballot under which this value was first proposed; a later leader repeats the value unchanged.
    pub by: Ballot,
}

/// Members of one cluster. Choice: four times the thousand that the protocol was sized for.
pub const MEMBERS_MAX: usize = 4096;
/// Moves under way at once.
pub const MOVES_MAX: usize = 256;
/// Settings of one cluster.
pub const SETTINGS_MAX: usize = 1024;
/// Remembered departures; the oldest is dropped.
pub const DEPARTED_MAX: usize = 256;
/// Bytes of one name, address or setting.
pub const TEXT_BYTES_MAX: usize = 4096;

impl Topology {
    /// Version 1 of a chain of one node, which owns nothing yet.
    pub fn alone(
        cluster: ClusterId,
        member: Member,
        shard: ShardId,
        boot: Boot,
        generation: Generation,
    ) -> Self {
        let node = member.id;
        let ver = Epoch(1);
        Topology {
            cluster,
            lineage: 0,
            ver,
            cfg: ver,
            voters: vec![Voter { node, store: member.store }],
            shards: vec![Shard {
                id: shard,
                epoch: ver,
                config_epoch: Epoch(0),
                rev: ver,
                primary: Primary { node, boot, store: member.store },
                in_sync: vec![InSync { node, generation }],
                members: vec![node],
                strict: false,
                lossy: false,
            }],
            members: vec![member],
            owners: Vec::new(),
            moves: Vec::new(),
            hints: Vec::new(),
            settings: Vec::new(),
            departed: Vec::new(),
            seal: None,
            by: Ballot { round: 0, node },
        }
    }

    /// Identifies the exact value: the first 8 bytes of SHA-256 over its archive.
    pub fn hash(&self) -> u64 {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("a topology can be archived");
        let digest = Sha256::digest(&bytes);
        u64::from_le_bytes(digest[..8].try_into().expect("8 bytes"))
    }

    /// (lineage, version): the order in which values replace each other (A12).
    pub fn order(&self) -> (u64, Epoch) {
        (self.lineage, self.ver)
    }
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.binary_search_by_key(&id, |m| m.id).ok().map(|i| &self.members[i])
    }
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.binary_search_by_key(&id, |s| s.id).ok().map(|i| &self.shards[i])
    }
    pub fn shard_mut(&mut self, id: ShardId) -> Option<&mut Shard> {
        self.shards.binary_search_by_key(&id, |s| s.id).ok().map(|i| &mut self.shards[i])
    }
    pub fn shard_of(&self, node: NodeId) -> Option<&Shard> {
        self.shards.iter().find(|s| s.members.contains(&node))
    }
    /// The shard that this very process serves.
    pub fn tenure_of(&self, primary: Primary) -> Option<&Shard> {
        self.shards.iter().find(|s| s.primary == primary)
    }
    pub fn is_voter(&self, node: NodeId, store: StoreId) -> bool {
        self.voters.contains(&Voter { node, store })
    }
    pub fn has_voter_node(&self, node: NodeId) -> bool {
        self.voters.iter().any(|v| v.node == node)
    }
    /// Voters that decide.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn hint(&self, slot: Slot) -> Option<&Hint> {
        self.hints.iter().find(|h| h.slot == slot)
    }
    pub fn find_move(&self, id: u64) -> Option<&Move> {
        self.moves.iter().find(|m| m.id == id)
    }
    /// The highest join of `node` that is void.
    pub fn departed_join(&self, node: NodeId) -> Option<u64> {
        self.departed.iter().find(|d| d.node == node).map(|d| d.join)
    }

    pub fn insert_member(&mut self, member: Member) {
        match self.members.binary_search_by_key(&member.id, |m| m.id) {
            Ok(at) => self.members[at] = member,
            Err(at) => self.members.insert(at, member),
        }
    }
    pub fn insert_shard(&mut self, shard: Shard) {
        match self.shards.binary_search_by_key(&shard.id, |s| s.id) {
            Ok(at) => self.shards[at] = shard,
            Err(at) => self.shards.insert(at, shard),
        }
    }
    pub fn note_departed(&mut self, node: NodeId, join: u64) {
        let join = self.departed_join(node).map_or(join, |old| old.max(join));
        self.departed.retain(|d| d.node != node);
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.remove(0);
        }
        self.departed.push(Departed { node, join });
    }
    /// Takes a node out of its shard; a shard without members goes too.
    pub fn leave_shard(&mut self, node: NodeId, ver: Epoch) {
        for shard in self.shards.iter_mut().filter(|s| s.members.contains(&node)) {
            shard.members.retain(|m| *m != node);
            shard.in_sync.retain(|m| m.node != node);
            shard.rev = ver;
        }
        self.shards.retain(|s| !s.members.is_empty());
    }
    /// Primaries that `next` no longer names in their shards, with the shard as it stands here (W2).
    pub fn replaced_by<'a>(&'a self, next: &'a Topology) -> impl Iterator<Item = &'a Shard> + 'a {
        self.shards.iter().filter(|s| next.shard(s.id).is_none_or(|n| n.primary != s.primary))
    }
}

impl Shard {
    pub fn contains_in_sync(&self, node: NodeId, generation: Generation) -> bool {
        self.in_sync.contains(&InSync { node, generation })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(n: u8) -> NodeId {
        NodeId([n; 20])
    }
    pub(crate) fn shard_id(n: u8) -> ShardId {
        ShardId([n; 20])
    }
    pub(crate) fn primary(n: u8, boot: u64) -> Primary {
        Primary { node: node(n), boot: Boot(boot), store: StoreId(n as u64) }
    }
    pub(crate) fn member(n: u8) -> Member {
        Member {
            id: node(n),
            store: StoreId(n as u64),
            address: Address {
                ip: format!("10.0.0.{n}"),
                port: 6379,
                tls_port: 0,
                bus_port: 16379,
                hostname: String::new(),
                zone: String::new(),
            },
            join: 0,
            no_failover: false,
        }
    }
    /// One shard per group of nodes, its first node primary; slots split evenly; all nodes vote up to `voters`.
    pub(crate) fn cluster(groups: &[&[u8]], voters: &[u8]) -> Topology {
        let first = groups[0][0];
        let mut topo =
            Topology::alone(ClusterId([9; 20]), member(first), shard_id(first), Boot(1), Generation(1));
        topo.shards.clear();
        for group in groups {
            for n in *group {
                topo.insert_member(member(*n));
            }
            topo.insert_shard(Shard {
                id: shard_id(group[0]),
                epoch: Epoch(1),
                config_epoch: Epoch(1),
                rev: Epoch(1),
                primary: primary(group[0], 1),
                in_sync: group.iter().map(|n| InSync { node: node(*n), generation: Generation(1) }).collect(),
                members: group.iter().map(|n| node(*n)).collect(),
                strict: false,
                lossy: false,
            });
        }
        for n in voters {
            topo.insert_member(member(*n));
        }
        topo.voters = voters.iter().map(|n| Voter { node: node(*n), store: StoreId(*n as u64) }).collect();
        let share = Slot::COUNT / groups.len();
        for (i, group) in groups.iter().enumerate() {
            let last = if i + 1 == groups.len() { Slot::COUNT - 1 } else { (i + 1) * share - 1 };
            let range =
                SlotRange::new(Slot::new((i * share) as u16).unwrap(), Slot::new(last as u16).unwrap());
            topo.assign(&[range.unwrap()], Some(shard_id(group[0])));
        }
        topo.check().unwrap();
        topo
    }

    #[test]
    fn hash_sees_every_field() {
        let topo = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        let base = topo.hash();
        assert_eq!(base, topo.clone().hash());
        let mut other = topo.clone();
        other.shards[1].strict = true;
        assert_ne!(base, other.hash());
        other = topo.clone();
        other.by.round += 1;
        assert_ne!(base, other.hash());
    }

    #[test]
    fn replaced_primaries_are_found() {
        let old = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        let mut new = old.clone();
        new.shards[0].primary = primary(2, 1);
        new.shards.remove(1);
        let gone: Vec<ShardId> = old.replaced_by(&new).map(|s| s.id).collect();
        assert_eq!(gone, [shard_id(1), shard_id(3)]);
        assert_eq!(old.replaced_by(&old).count(), 0);
    }

    #[test]
    fn the_oldest_departure_is_forgotten_first() {
        let mut topo = cluster(&[&[1]], &[1]);
        for n in 0..=DEPARTED_MAX {
            let mut id = [0; 20];
            id[..8].copy_from_slice(&(n as u64).to_le_bytes());
            topo.note_departed(NodeId(id), 1);
        }
        assert_eq!(topo.departed.len(), DEPARTED_MAX);
        assert_eq!(topo.departed_join(NodeId([0; 20])), None);
    }
}
