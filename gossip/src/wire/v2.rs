//! Wire version 2: the messages of chapter 3 of the protocol, and those of failure detection, requests and MEET.
//!
//! Invariant: the layout of these types, and of the topology's, is frozen with this version; a test holds its bytes.
//! A change makes a `v3` beside it.

use crate::admin::{Outcome, Refusal, Request};
use crate::topology::{Address, Ballot, ClusterId, Delta, Member, Shard, Topology};
use proto::{Boot, Epoch, Generation, Mono, NodeId, Offset, ShardId, SlotRange, StoreId};
use rkyv::{Archive, Deserialize, Serialize};

/// What every packet carries besides its message.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub cluster: ClusterId,
    pub lineage: u64,
    pub from: NodeId,
    pub boot: Boot,
    pub store: StoreId,
    pub ver: Epoch,
    pub message: Message,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Prepare {
        ballot: Ballot,
    },
    Promise {
        ballot: Ballot,
        accepted: Option<(Ballot, Delta)>,
    },
    Nack {
        promised: Ballot,
    },
    Accept {
        ballot: Ballot,
        value: Delta,
    },
    Accepted {
        ballot: Ballot,
    },
    AcceptWait {
        ballot: Ballot,
        remaining_us: u64,
    },
    /// Versions in ascending order, each a delta to the one before.
    Decided {
        chain: Vec<Delta>,
    },
    DecidedFull {
        topology: Box<Topology>,
    },
    /// Asks for what is newer than this version; the hash tells whether a delta fits.
    NeedTopo {
        ver: Epoch,
        hash: u64,
    },
    LeadHb {
        ballot: Ballot,
    },
    /// `free` has one bit per shard, in the topology's order: its primary may be replaced as far as I am concerned.
    LeadAck {
        ballot: Ballot,
        free: Vec<u64>,
        dangling: bool,
    },
    LeaseReq {
        tenure: Epoch,
        sent: Mono,
    },
    LeaseAck {
        boot: Boot,
        tenure: Epoch,
        sent: Mono,
        cfg: Epoch,
    },
    Release {
        boot: Boot,
        tenure: Epoch,
    },
    PositionAsk {
        shard: ShardId,
    },
    PositionIs {
        shard: ShardId,
        position: Position,
    },
    /// A request on its way to the leader.
    Ask {
        id: u64,
        is_retry: bool,
        request: Box<Request>,
    },
    /// `Ok` carries the version that decided it.
    Answer {
        id: u64,
        result: Result<(Outcome, Epoch), Refusal>,
    },
    /// Not the leader; perhaps this one is.
    NotLeader {
        id: u64,
        leader: Option<NodeId>,
    },
    /// A replica asks its primary to hand over.
    HandOver {
        shard: ShardId,
        tenure: Epoch,
    },
    HandOverRefused {
        shard: ShardId,
        reason: Refusal,
    },
    /// The leader asks a primary without slots to release its tenure.
    StepAside {
        tenure: Epoch,
    },
    Ping {
        seq: u64,
        news: News,
    },
    Pong {
        seq: u64,
        news: News,
    },
    /// Probe `target` for me.
    PingReq {
        seq: u64,
        target: NodeId,
        news: News,
    },
    Hello {
        nonce: u64,
        address: Address,
    },
    HelloAck {
        nonce: u64,
        address: Address,
        seen_ip: String,
        members: u32,
    },
    /// The other side of a MEET should join the sender.
    Invite {
        nonce: u64,
        address: Address,
        seen_ip: String,
    },
    JoinAsk {
        join: Box<Join>,
    },
    JoinDone {
        join: u64,
        topology: Box<Topology>,
    },
    /// The refusal is decided: `departed` of the refuser says so.
    JoinRefused {
        join: u64,
        reason: Refusal,
    },
}

/// How far a member's copy of its shard reaches.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    pub generation: Generation,
    /// Epoch of the last byte held; (0, 0) for a copy that is not known to be whole.
    pub epoch: Epoch,
    pub offset: Offset,
    /// About to stop: take another if there is one.
    pub is_draining: bool,
}

/// What rides on probes.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    pub incarnation: u64,
    pub offset: u64,
    pub leader: Option<(Ballot, NodeId)>,
    /// At most [`crate::membership::RUMOURS_MAX`].
    pub rumours: Vec<Rumour>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rumour {
    pub node: NodeId,
    pub incarnation: u64,
    pub state: RumourState,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RumourState {
    Alive = 0,
    Suspected = 1,
    Failed = 2,
}

/// A sealed chain of one node asks to become part of the receiver's.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Join {
    pub member: Member,
    pub boot: Boot,
    pub generation: Generation,
    pub shard: Shard,
    pub slots: Vec<SlotRange>,
    pub ver: Epoch,
    pub seen_ip: String,
}

impl Packet {
    pub fn to_bytes(&self) -> Vec<u8> {
        rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("a packet can be archived").into_vec()
    }
    /// `None` for bytes that are no packet, or one that breaks a topology's rules.
    pub fn from_bytes(bytes: &[u8]) -> Option<Packet> {
        let packet = rkyv::from_bytes::<Packet, rkyv::rancor::Error>(bytes).ok()?;
        packet.message.is_sound().then_some(packet)
    }
}

impl Message {
    fn is_sound(&self) -> bool {
        match self {
            Message::DecidedFull { topology } | Message::JoinDone { topology, .. } => {
                topology.check().is_ok()
            }
            Message::Ping { news, .. } | Message::Pong { news, .. } | Message::PingReq { news, .. } => {
                news.rumours.len() <= crate::membership::RUMOURS_MAX
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{cluster, node};

    fn packet(message: Message) -> Packet {
        Packet {
            cluster: ClusterId([9; 20]),
            lineage: 0,
            from: node(1),
            boot: Boot(3),
            store: StoreId(1),
            ver: Epoch(1),
            message,
        }
    }

    fn samples() -> Vec<Packet> {
        let topology = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        let mut next = topology.clone();
        next.ver = Epoch(2);
        let value = Delta::between(&topology, topology.hash(), &next);
        let ballot = Ballot { round: 4, node: node(1) };
        let request = Box::new(Request::Forget { node: node(2) });
        vec![
            packet(Message::Prepare { ballot }),
            packet(Message::Promise { ballot, accepted: Some((ballot, value.clone())) }),
            packet(Message::Accept { ballot, value }),
            packet(Message::DecidedFull { topology: Box::new(topology) }),
            packet(Message::Ask { id: 3, is_retry: true, request }),
            packet(Message::Answer { id: 3, result: Err(Refusal::UnknownNode) }),
        ]
    }

    #[test]
    fn packets_round_trip() {
        for packet in samples() {
            assert_eq!(Packet::from_bytes(&packet.to_bytes()), Some(packet));
        }
    }

    #[test]
    fn damaged_packets_are_refused_or_differ_but_never_panic() {
        for packet in samples() {
            let good = packet.to_bytes();
            for at in 0..good.len() {
                for flip in [1u8, 0x80, 0xFF] {
                    let mut bad = good.clone();
                    bad[at] ^= flip;
                    let _ = Packet::from_bytes(&bad);
                }
                let _ = Packet::from_bytes(&good[..at]);
            }
        }
    }

    #[test]
    fn layout_of_version_2_is_frozen() {
        let sum =
            samples().iter().fold(0u32, |sum, p| sum.rotate_left(1) ^ super::super::crc32c(&p.to_bytes()));
        assert_eq!(sum, 2396013007, "a change of layout needs a new wire version");
    }
}
