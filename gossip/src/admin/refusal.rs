//! Why a request was not carried out, in words an operator understands. Redis's own words where Redis has them.

use proto::{NodeId, Slot};
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody decided in time. The request may still take effect.
    NoQuorum,
    /// Too many requests wait.
    Busy,
    UnknownNode,
    UnknownShard,
    UnknownMove,
    SlotBusy(Slot),
    SlotUnassigned(Slot),
    SlotOfAnother(Slot, NodeId),
    NotPrimary,
    NotReplica,
    NoPrimary,
    ReplicateSelf,
    ReplicateReplica,
    /// REPLICATE of a primary that owns slots.
    NotEmpty,
    ForgetSelf,
    ForgetPrimary,
    LastCopy,
    NotAlone,
    EpochIsSet,
    /// What the request compared has changed meanwhile.
    Changed,
    NotInSync,
    NotCandidate,
    PrimaryDown,
    NotCaughtUp,
    MovesOverlap,
    SameShard,
    TooMany,
    BadValue,
    VoterUnknown,
    /// Both clusters have more than one node.
    BothLarge,
    SlotsOverlap(Slot),
    Sealed,
    MeetTimeout,
    JoinVoid,
    HoldsKeys,
    WasReset,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        let text = match self {
            NoQuorum => "NOQUORUM No majority of the voters answered in time; the change may still happen",
            Busy => "ERR Too many cluster changes are waiting, try again",
            UnknownNode => "ERR Unknown node",
            UnknownShard => "ERR Unknown shard",
            UnknownMove => "ERR No such slot migration",
            SlotBusy(slot) => return write!(f, "ERR Slot {slot} is already busy"),
            SlotUnassigned(slot) => return write!(f, "ERR Slot {slot} is already unassigned"),
            SlotOfAnother(slot, node) => return write!(f, "ERR Slot {slot} is owned by {node}; ask there"),
            NotPrimary => "ERR Only a primary can do that",
            NotReplica => "ERR You should send CLUSTER FAILOVER to a replica",
            NoPrimary => "ERR I'm a replica but my master is unknown to me",
            ReplicateSelf => "ERR Can't replicate myself",
            ReplicateReplica => "ERR I can only replicate a master, not a replica.",
            NotEmpty => "ERR To set a master the node must be empty and without assigned slots.",
            ForgetSelf => "ERR I tried hard but I can't forget myself...",
            ForgetPrimary => "ERR That node is a primary with slots; move them or fail over first",
            LastCopy => "ERR That node is the last in-sync copy of its shard",
            NotAlone => {
                "ERR The user can assign a config epoch only when the node does not know any other node."
            }
            EpochIsSet => "ERR Node config epoch is already non-zero",
            Changed => "ERR The cluster changed meanwhile; look again and retry",
            NotInSync => "ERR That node is not in the in-sync set of its shard",
            NotCandidate => "ERR That node is no candidate for its shard",
            PrimaryDown => "ERR Master is down or failed, please use CLUSTER FAILOVER FORCE",
            NotCaughtUp => "ERR The replica did not catch up in time; the primary goes on",
            MovesOverlap => "ERR A slot is already being migrated",
            SameShard => "ERR Source and target are the same shard",
            TooMany => "ERR Limit reached",
            BadValue => "ERR Bad value",
            VoterUnknown => "ERR A voter must be a member that has been heard of",
            BothLarge => "ERR Both clusters have more than one node; forget the nodes of one of them first",
            SlotsOverlap(slot) => return write!(f, "ERR Both clusters assign slot {slot}"),
            Sealed => "ERR This node is joining another cluster",
            MeetTimeout => "ERR No answer from that node; check address and cluster bus port",
            JoinVoid => "ERR The other cluster has refused or removed this node; MEET again",
            HoldsKeys => "ERR CLUSTER RESET can't be called with master nodes containing keys",
            WasReset => "ERR The node was reset",
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_begin_with_a_code_and_hold_no_line_break() {
        let slot = Slot::new(7).unwrap();
        for refusal in [Refusal::NoQuorum, Refusal::SlotBusy(slot), Refusal::BothLarge, Refusal::NotAlone] {
            let text = refusal.to_string();
            assert!(text.starts_with("ERR ") || text.starts_with("NOQUORUM "), "{text}");
            assert!(!text.contains(['\r', '\n']), "{text}");
        }
        assert_eq!(Refusal::SlotBusy(slot).to_string(), "ERR Slot 7 is already busy");
    }
}
