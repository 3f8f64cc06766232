//! From a request and version n to version n+1, or to the reason why not. Pure.
//!
//! Invariant: a request that compares (rev, epochs, owner) with anything but the present value is refused (A11).

use super::{Outcome, Refusal, Request, moves, shards, slots};
use crate::config::Mutation;
use crate::promises::Promises;
use crate::topology::{Ballot, Primary, SETTINGS_MAX, TEXT_BYTES_MAX, Topology, Voter};
use proto::limits::VOTERS_MAX;
use proto::{Epoch, NodeId};

#[derive(Debug)]
pub(crate) enum Change {
    Next(Box<Topology>, Outcome),
    /// It already is as asked.
    Nothing(Outcome),
}
pub(crate) type Verdict = Result<Change, Refusal>;

/// What a leader knows beside the topology.
pub(crate) struct Context<'a> {
    pub ballot: Ballot,
    /// The request was sent before, to a leader that may have carried it out.
    pub is_retry: bool,
    /// Which lives of the nodes have been heard.
    pub promises: &'a Promises,
    /// Nodes that may vote in a forgotten voter's place, best first.
    pub pool: &'a [Voter],
    pub mutation: Option<Mutation>,
}

impl Context<'_> {
    /// The latest life of a node that has spoken.
    pub fn process(&self, node: NodeId) -> Option<Primary> {
        self.promises.seen(node).map(|(store, boot)| Primary { node, boot, store })
    }
}

/// A copy that will be version n+1.
pub(crate) fn successor(topo: &Topology, ballot: Ballot) -> Topology {
    Topology { ver: Epoch(topo.ver.0 + 1), by: ballot, ..topo.clone() }
}

pub(crate) fn done(next: Topology) -> Verdict {
    next.check().map_err(|_| Refusal::BadValue)?;
    Ok(Change::Next(Box::new(next), Outcome::Done))
}

pub(crate) fn apply(topo: &Topology, request: &Request, ctx: &Context<'_>) -> Verdict {
    use Request::*;
    if topo.seal.is_some() && !matches!(request, Unseal { .. } | RefuseJoin { .. }) {
        return Err(Refusal::Sealed);
    }
    match request {
        AddSlots { node, slots } => slots::add(topo, *node, slots, ctx),
        DelSlots { node, slots } => slots::del(topo, *node, slots, ctx),
        FlushSlots { node } => slots::flush(topo, *node, ctx),
        Migrating { node, slot, target } => slots::hint(topo, *slot, *node, *target, false, ctx),
        Importing { node, slot, source } => slots::hint(topo, *slot, *source, *node, true, ctx),
        Stable { slot } => slots::stable(topo, *slot, ctx),
        SlotTo { slot, node, asker } => slots::slot_to(topo, *slot, *node, *asker, ctx),
        SetConfigEpoch { node, epoch } => set_config_epoch(topo, *node, *epoch, ctx),
        BumpEpoch { node } => bump_epoch(topo, *node, ctx),
        Setting { name, value } => setting(topo, name, value.as_deref(), ctx),
        Member(member) => shards::update_member(topo, member, ctx),
        Voters { nodes } => voters(topo, nodes, ctx),
        Replicate { node, target } => shards::replicate(topo, *node, *target, ctx),
        Forget { node } => shards::forget(topo, *node, ctx),
        Drop { shard, rev, by, node, generation } => {
            shards::drop(topo, *shard, (*rev, *by), (*node, *generation), ctx)
        }
        Add { shard, rev, by, node, generation } => {
            shards::add(topo, *shard, (*rev, *by), (*node, *generation), ctx)
        }
        Strict { shard, rev, by, generation } => shards::strict(topo, *shard, (*rev, *by), *generation, ctx),
        HandOver { shard, epoch, to, generation } => {
            shards::hand_over(topo, *shard, *epoch, (*to, *generation), ctx)
        }
        Prefer { shard, to } => shards::prefer(topo, *shard, *to),
        MoveStart { id, slots, from, to } => moves::start(topo, *id, slots, (*from, *to), ctx),
        MoveCommit { id, epoch_from, epoch_to } => moves::commit(topo, *id, (*epoch_from, *epoch_to), ctx),
        MoveCancel { id } => moves::cancel(topo, *id, ctx),
        Seal(seal) => {
            if topo.members.len() != 1 {
                return Err(Refusal::BothLarge);
            }
            done(Topology { seal: Some(seal.clone()), ..successor(topo, ctx.ballot) })
        }
        Unseal { join } => match &topo.seal {
            Some(seal) if seal.join == *join => done(Topology { seal: None, ..successor(topo, ctx.ballot) }),
            _ => Ok(Change::Nothing(Outcome::Done)),
        },
        Join(join) => shards::join(topo, join, ctx),
        RefuseJoin { node, join } => Ok(refuse_join(topo, *node, *join, ctx)),
    }
}

/// Makes a refusal final, so that the other side may serve again.
pub(crate) fn refuse_join(topo: &Topology, node: NodeId, join: u64, ctx: &Context<'_>) -> Change {
    if topo.departed_join(node) >= Some(join) {
        return Change::Nothing(Outcome::JoinRefused);
    }
    let mut next = successor(topo, ctx.ballot);
    next.note_departed(node, join);
    Change::Next(Box::new(next), Outcome::JoinRefused)
}

fn set_config_epoch(topo: &Topology, node: NodeId, epoch: Epoch, ctx: &Context<'_>) -> Verdict {
    if topo.members.len() > 1 {
        return Err(Refusal::NotAlone);
    }
    let shard = topo.shard_of(node).ok_or(Refusal::UnknownNode)?;
    if shard.config_epoch == epoch && ctx.is_retry {
        return Ok(Change::Nothing(Outcome::Done));
    }
    if shard.config_epoch != Epoch(0) {
        return Err(Refusal::EpochIsSet);
    }
    if epoch == Epoch(0) || epoch.0 > u64::MAX / 2 {
        return Err(Refusal::BadValue);
    }
    let mut next = successor(topo, ctx.ballot);
    next.ver = next.ver.max(epoch);
    let (id, ver) = (shard.id, next.ver);
    let shard = next.shard_mut(id).expect("just found");
    (shard.config_epoch, shard.rev) = (epoch, ver);
    done(next)
}

fn bump_epoch(topo: &Topology, node: NodeId, ctx: &Context<'_>) -> Verdict {
    let shard = topo.shard_of(node).ok_or(Refusal::UnknownNode)?;
    let highest = topo.shards.iter().map(|s| s.config_epoch).max().unwrap_or_default();
    let is_alone_there = topo.shards.iter().filter(|s| s.config_epoch == highest).count() == 1;
    if shard.config_epoch == highest && is_alone_there && highest != Epoch(0) {
        return Ok(Change::Nothing(Outcome::Still(highest)));
    }
    let mut next = successor(topo, ctx.ballot);
    let (id, ver) = (shard.id, next.ver);
    let shard = next.shard_mut(id).expect("just found");
    // The tenure goes on: only what is shown changes, so that no lease is disturbed.
    (shard.config_epoch, shard.rev) = (ver, ver);
    Ok(Change::Next(Box::new(next), Outcome::Bumped(ver)))
}

fn setting(topo: &Topology, name: &str, value: Option<&str>, ctx: &Context<'_>) -> Verdict {
    if name.is_empty() || name.len() > TEXT_BYTES_MAX || value.is_some_and(|v| v.len() > TEXT_BYTES_MAX) {
        return Err(Refusal::BadValue);
    }
    if topo.setting(name) == value {
        return Ok(Change::Nothing(Outcome::Done));
    }
    let mut next = successor(topo, ctx.ballot);
    next.settings.retain(|(n, _)| n != name);
    if let Some(value) = value {
        if next.settings.len() >= SETTINGS_MAX {
            return Err(Refusal::TooMany);
        }
        next.settings.push((name.to_owned(), value.to_owned()));
        next.settings.sort();
    }
    done(next)
}

fn voters(topo: &Topology, nodes: &[NodeId], ctx: &Context<'_>) -> Verdict {
    if nodes.is_empty() || nodes.len() > VOTERS_MAX {
        return Err(Refusal::BadValue);
    }
    let mut voters = Vec::new();
    for node in nodes {
        let member = topo.member(*node).ok_or(Refusal::VoterUnknown)?;
        voters.push(Voter { node: *node, store: member.store });
    }
    voters.sort();
    voters.dedup();
    if voters == topo.voters {
        return Ok(Change::Nothing(Outcome::Done));
    }
    done(with_voters(successor(topo, ctx.ballot), voters))
}

/// A change of voters is a change of configuration: every lease counts anew under it (W3, W5).
pub(crate) fn with_voters(mut next: Topology, mut voters: Vec<Voter>) -> Topology {
    voters.sort();
    if next.voters != voters {
        next.cfg = next.ver;
        next.voters = voters;
    }
    next
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::topology::tests::{cluster, node};

    pub(crate) fn run(topo: &Topology, request: Request) -> Result<Topology, Refusal> {
        let promises = Promises::default();
        let ctx = Context {
            ballot: Ballot { round: 9, node: node(1) },
            is_retry: false,
            promises: &promises,
            pool: &[],
            mutation: None,
        };
        match apply(topo, &request, &ctx)? {
            Change::Next(next, _) => {
                next.check().unwrap();
                assert!(next.ver > topo.ver);
                Ok(*next)
            }
            Change::Nothing(_) => Ok(topo.clone()),
        }
    }

    #[test]
    fn a_sealed_chain_decides_nothing_but_its_seal() {
        let alone = cluster(&[&[1]], &[1]);
        let seal = crate::topology::Seal { join: 1, ip: "10.0.0.2".into(), bus_port: 1 };
        let sealed = run(&alone, Request::Seal(seal)).unwrap();
        assert_eq!(run(&sealed, Request::FlushSlots { node: node(1) }), Err(Refusal::Sealed));
        assert_eq!(run(&sealed, Request::Unseal { join: 2 }), Ok(sealed.clone()));
        assert_eq!(run(&sealed, Request::Unseal { join: 1 }).unwrap().seal, None);
    }

    #[test]
    fn config_epoch_is_shown_and_no_tenure_changes() {
        let mut alone = cluster(&[&[1]], &[1]);
        let request = Request::SetConfigEpoch { node: node(1), epoch: Epoch(5) };
        assert_eq!(run(&alone, request.clone()), Err(Refusal::EpochIsSet));
        alone.shards[0].config_epoch = Epoch(0);
        let next = run(&alone, request).unwrap();
        assert_eq!(
            (next.ver, next.shards[0].config_epoch, next.shards[0].epoch),
            (Epoch(5), Epoch(5), Epoch(1))
        );
    }

    #[test]
    fn voters_raise_cfg() {
        let topo = cluster(&[&[1, 2], &[3]], &[1]);
        let next = run(&topo, Request::Voters { nodes: vec![node(3), node(1), node(2)] }).unwrap();
        assert_eq!((next.cfg, next.voters.len()), (next.ver, 3));
        assert_eq!(run(&topo, Request::Voters { nodes: vec![node(9)] }), Err(Refusal::VoterUnknown));
        let same = run(&topo, Request::Voters { nodes: vec![node(1)] }).unwrap();
        assert_eq!(same, topo);
    }
}
