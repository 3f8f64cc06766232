//! Shards: who belongs to them, who is in sync, who serves.
//!
//! Invariant: the leader never computes an in-sync set; it only relays what a primary asked for (D8).

use super::apply::{Change, Context, Verdict, done, refuse_join, successor, with_voters};
use super::{Outcome, Refusal};
use crate::config::Mutation;
use crate::topology::{InSync, MEMBERS_MAX, Member, Primary, Shard, Topology, Voter};
use crate::wire::v2::Join;
use proto::{Epoch, Generation, NodeId, ShardId};

pub(crate) fn update_member(topo: &Topology, member: &Member, ctx: &Context<'_>) -> Verdict {
    let old = topo.member(member.id).ok_or(Refusal::UnknownNode)?;
    let mut next = successor(topo, ctx.ballot);
    // `join` stays: it says which MEET brought the node here.
    next.insert_member(Member { join: old.join, ..member.clone() });
    if topo.member(member.id) == next.member(member.id) {
        return Ok(Change::Nothing(Outcome::Done));
    }
    done(next)
}

/// The node leaves its shard, which must hold no slots once it is gone, and follows another as a learner.
pub(crate) fn replicate(topo: &Topology, node: NodeId, target: NodeId, ctx: &Context<'_>) -> Verdict {
    topo.member(node).ok_or(Refusal::UnknownNode)?;
    let to = topo.shard_of(target).ok_or(Refusal::UnknownNode)?;
    if node == target {
        return Err(Refusal::ReplicateSelf);
    }
    if to.primary.node != target {
        return Err(Refusal::ReplicateReplica);
    }
    let from = topo.shard_of(node);
    if from.is_some_and(|s| s.id == to.id) {
        return Ok(Change::Nothing(Outcome::Done));
    }
    if let Some(from) = from {
        let is_primary = from.primary.node == node;
        if is_primary && (topo.has_slots(from.id) || from.members.len() > 1) {
            return Err(Refusal::NotEmpty);
        }
        if is_primary && topo.moves.iter().any(|m| m.from == from.id || m.to == from.id) {
            return Err(Refusal::MovesOverlap);
        }
        if !is_primary && is_last_copy(from, node) {
            return Err(Refusal::LastCopy);
        }
    }
    let to = to.id;
    let mut next = successor(topo, ctx.ballot);
    let ver = next.ver;
    next.leave_shard(node, ver);
    let shard = next.shard_mut(to).expect("not the shard that was left");
    shard.members.push(node);
    shard.members.sort();
    shard.rev = ver;
    done(next)
}

/// Takes a node out; a voter is replaced in the same version.
pub(crate) fn forget(topo: &Topology, node: NodeId, ctx: &Context<'_>) -> Verdict {
    let Some(member) = topo.member(node) else {
        // The tools repeat FORGET at every node: what is gone is gone.
        let known = topo.departed_join(node).is_some();
        return if known { Ok(Change::Nothing(Outcome::Done)) } else { Err(Refusal::UnknownNode) };
    };
    if topo.members.len() == 1 {
        return Err(Refusal::ForgetSelf);
    }
    if let Some(shard) = topo.shard_of(node) {
        let is_primary = shard.primary.node == node;
        if is_primary && (topo.has_slots(shard.id) || shard.members.len() > 1) {
            return Err(Refusal::ForgetPrimary);
        }
        if !is_primary && is_last_copy(shard, node) {
            return Err(Refusal::LastCopy);
        }
        if is_primary && topo.moves.iter().any(|m| m.from == shard.id || m.to == shard.id) {
            return Err(Refusal::MovesOverlap);
        }
    }
    let join = member.join;
    let mut next = successor(topo, ctx.ballot);
    let ver = next.ver;
    next.leave_shard(node, ver);
    next.hints
        .retain(|h| next.shards.iter().any(|s| s.id == h.from) && next.shards.iter().any(|s| s.id == h.to));
    next.members.retain(|m| m.id != node);
    next.note_departed(node, join);
    if topo.has_voter_node(node) {
        let mut voters: Vec<Voter> = topo.voters.iter().copied().filter(|v| v.node != node).collect();
        let fresh = |v: &&Voter| v.node != node && voters.iter().all(|o| o.node != v.node);
        let substitute = ctx.pool.iter().find(fresh).copied();
        voters.extend(substitute);
        if voters.is_empty() {
            // Nobody healthy is known; any member votes rather than none.
            voters.extend(next.members.first().map(|m| Voter { node: m.id, store: m.store }));
        }
        next = with_voters(next, voters);
    }
    done(next)
}

fn is_last_copy(shard: &Shard, node: NodeId) -> bool {
    shard.strict && shard.in_sync.iter().all(|m| m.node == node)
}

/// D5: compare-and-set on (rev, primary).
fn same(topo: &Topology, shard: ShardId, (rev, by): (Epoch, NodeId)) -> Result<&Shard, Refusal> {
    let shard = topo.shard(shard).ok_or(Refusal::UnknownShard)?;
    if shard.rev == rev && shard.primary.node == by { Ok(shard) } else { Err(Refusal::Changed) }
}

fn change(
    topo: &Topology,
    shard: ShardId,
    ctx: &Context<'_>,
    edit: impl FnOnce(&mut Shard, Epoch),
) -> Verdict {
    let mut next = successor(topo, ctx.ballot);
    let ver = next.ver;
    let shard = next.shard_mut(shard).expect("checked by the caller");
    edit(shard, ver);
    shard.rev = ver;
    done(next)
}

pub(crate) fn drop(
    topo: &Topology,
    shard: ShardId,
    cas: (Epoch, NodeId),
    (node, generation): (NodeId, Generation),
    ctx: &Context<'_>,
) -> Verdict {
    let found = same(topo, shard, cas)?;
    if found.primary.node == node {
        return Err(Refusal::LastCopy);
    }
    // Decided even when it is not listed: it raises `rev`, which is what cancels a pending Add (D4).
    change(topo, shard, ctx, |s, _| s.in_sync.retain(|m| *m != InSync { node, generation }))
}

pub(crate) fn add(
    topo: &Topology,
    shard: ShardId,
    cas: (Epoch, NodeId),
    (node, generation): (NodeId, Generation),
    ctx: &Context<'_>,
) -> Verdict {
    if !same(topo, shard, cas)?.members.contains(&node) {
        return Err(Refusal::UnknownNode);
    }
    change(topo, shard, ctx, |s, _| {
        s.in_sync.retain(|m| m.node != node);
        s.in_sync.push(InSync { node, generation });
        s.in_sync.sort();
    })
}

pub(crate) fn strict(
    topo: &Topology,
    shard: ShardId,
    cas: (Epoch, NodeId),
    generation: Generation,
    ctx: &Context<'_>,
) -> Verdict {
    let found = same(topo, shard, cas)?;
    if found.strict {
        return Ok(Change::Nothing(Outcome::Done));
    }
    let node = found.primary.node;
    change(topo, shard, ctx, |s, _| {
        s.strict = true;
        s.in_sync = vec![InSync { node, generation }];
    })
}

/// A planned hand-over. The voters still wait for the release or for the promise to run out (W2).
pub(crate) fn hand_over(
    topo: &Topology,
    shard: ShardId,
    epoch: Epoch,
    (to, generation): (NodeId, Generation),
    ctx: &Context<'_>,
) -> Verdict {
    let found = topo.shard(shard).ok_or(Refusal::UnknownShard)?;
    if found.epoch != epoch {
        return if found.primary.node == to {
            Ok(Change::Nothing(Outcome::Done))
        } else {
            Err(Refusal::Changed)
        };
    }
    if !found.members.contains(&to) {
        return Err(Refusal::UnknownNode);
    }
    // D6: also an operator's wish does not promote outside the set.
    if found.strict && !found.contains_in_sync(to, generation) && ctx.mutation != Some(Mutation::D6) {
        return Err(Refusal::NotInSync);
    }
    let process = ctx.process(to).ok_or(Refusal::NotCandidate)?;
    change(topo, shard, ctx, |s, ver| promote(s, process, ver))
}

/// D8: a failover changes the primary and nothing else.
pub(crate) fn promote(shard: &mut Shard, to: Primary, ver: Epoch) {
    shard.primary = to;
    (shard.epoch, shard.config_epoch, shard.rev) = (ver, ver, ver);
}

pub(crate) fn prefer(topo: &Topology, shard: ShardId, to: NodeId) -> Verdict {
    let found = topo.shard(shard).ok_or(Refusal::UnknownShard)?;
    if !found.members.contains(&to) {
        return Err(Refusal::UnknownNode);
    }
    Ok(Change::Nothing(Outcome::Done))
}

/// The second half of MEET. Whatever speaks against it is decided too, so that the other side may go on.
pub(crate) fn join(topo: &Topology, join: &Join, ctx: &Context<'_>) -> Verdict {
    let node = join.member.id;
    let number = join.member.join;
    if topo.member(node).is_some_and(|m| m.join == number) {
        return Ok(Change::Nothing(Outcome::Done));
    }
    if topo.departed_join(node) >= Some(number) {
        return Ok(Change::Nothing(Outcome::JoinRefused));
    }
    let is_taken = join.slots.iter().flat_map(|r| r.iter()).any(|s| topo.owner(s).is_some());
    let is_known = topo.member(node).is_some() || topo.shard(join.shard.id).is_some();
    let is_shaped = join.shard.members == [node]
        && join.shard.primary == Primary { node, boot: join.boot, store: join.member.store }
        && join.shard.in_sync.len() <= 1;
    if is_taken || is_known || !is_shaped || topo.members.len() >= MEMBERS_MAX {
        return Ok(refuse_join(topo, node, number, ctx));
    }
    let mut next = successor(topo, ctx.ballot);
    next.ver = Epoch(topo.ver.max(join.ver).0 + 1);
    let ver = next.ver;
    next.insert_member(join.member.clone());
    next.insert_shard(Shard {
        epoch: ver,
        rev: ver,
        in_sync: vec![InSync { node, generation: join.generation }],
        ..join.shard.clone()
    });
    next.assign(&join.slots, Some(join.shard.id));
    done(next)
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::super::apply::tests::run;
    use super::*;
    use crate::topology::tests::{cluster, member, node, primary, shard_id};
    use proto::Boot;

    fn two() -> Topology {
        let mut topo = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        topo.shards[0].strict = true;
        topo
    }
    fn drop_of(rev: u64, by: u8, n: u8) -> Request {
        let (shard, node, generation) = (shard_id(1), node(n), Generation(1));
        Request::Drop { shard, rev: Epoch(rev), by: crate::topology::tests::node(by), node, generation }
    }

    #[test]
    fn d5_drop_compares_rev_and_primary() {
        let topo = two();
        assert_eq!(run(&topo, drop_of(0, 1, 2)), Err(Refusal::Changed));
        assert_eq!(run(&topo, drop_of(1, 2, 2)), Err(Refusal::Changed));
        assert_eq!(run(&topo, drop_of(1, 1, 1)), Err(Refusal::LastCopy));
        let next = run(&topo, drop_of(1, 1, 2)).unwrap();
        assert_eq!((next.shards[0].in_sync.len(), next.shards[0].rev), (1, Epoch(2)));
        assert_eq!(run(&next, drop_of(1, 1, 2)), Err(Refusal::Changed));
    }

    #[test]
    fn d4_late_add_after_drop() {
        let topo = run(&two(), drop_of(1, 1, 2)).unwrap();
        let shard = shard_id(1);
        let late =
            Request::Add { shard, rev: Epoch(1), by: node(1), node: node(2), generation: Generation(1) };
        assert_eq!(run(&topo, late), Err(Refusal::Changed));
    }

    #[test]
    fn replicate_needs_an_empty_shard() {
        let topo = two();
        let to = |n, t| Request::Replicate { node: node(n), target: node(t) };
        assert_eq!(run(&topo, to(1, 3)), Err(Refusal::NotEmpty));
        assert_eq!(run(&topo, to(5, 4)), Err(Refusal::ReplicateReplica));
        assert_eq!(run(&topo, to(3, 3)), Err(Refusal::ReplicateSelf));
        let next = run(&topo, to(5, 3)).unwrap();
        assert_eq!(next.shard(shard_id(3)).unwrap().members, [node(3), node(4), node(5)]);
        assert_eq!(next.shard(shard_id(3)).unwrap().in_sync.len(), 2);
    }

    #[test]
    fn forget_replaces_a_voter_and_is_idempotent() {
        let topo = two();
        let forget = |n| Request::Forget { node: node(n) };
        assert_eq!(run(&topo, forget(1)), Err(Refusal::ForgetPrimary));
        let next = run(&topo, forget(5)).unwrap();
        assert_eq!((next.voters.len(), next.cfg), (2, next.ver));
        assert_eq!(run(&next, forget(5)).unwrap(), next);
        assert_eq!(run(&next, forget(77)), Err(Refusal::UnknownNode));
        let dropped = run(&topo, drop_of(1, 1, 2)).unwrap();
        assert!(run(&dropped, forget(2)).is_ok());
    }

    #[test]
    fn a_join_is_taken_or_refused_once_and_for_all() {
        let topo = two();
        let mut join = Join {
            member: Member { join: 4, ..member(9) },
            boot: Boot(1),
            generation: Generation(1),
            shard: cluster(&[&[9]], &[9]).shards[0].clone(),
            slots: topo.slots_of(shard_id(1)),
            ver: Epoch(40),
            seen_ip: String::new(),
        };
        let refused = run(&topo, Request::Join(Box::new(join.clone()))).unwrap();
        assert_eq!(refused.departed_join(node(9)), Some(4));
        join.slots.clear();
        assert_eq!(run(&refused, Request::Join(Box::new(join.clone()))).unwrap(), refused);
        join.member.join = 5;
        let joined = run(&refused, Request::Join(Box::new(join))).unwrap();
        let shard = joined.shard(shard_id(9)).unwrap();
        assert_eq!((joined.ver, shard.epoch, shard.primary), (Epoch(41), Epoch(41), primary(9, 1)));
    }
}
