//! Moves as the topology holds them: begun, committed, cancelled (S3, S8).

use super::apply::{Change, Context, Verdict, done, successor};
use super::{Outcome, Refusal};
use crate::config::Mutation;
use crate::topology::{MOVES_MAX, Move, Topology};
use proto::{Epoch, ShardId, Slot, SlotRange};

pub(crate) fn start(
    topo: &Topology,
    id: u64,
    slots: &[SlotRange],
    (from, to): (ShardId, ShardId),
    ctx: &Context<'_>,
) -> Verdict {
    if topo.find_move(id).is_some() {
        return if ctx.is_retry { Ok(Change::Nothing(Outcome::Done)) } else { Err(Refusal::MovesOverlap) };
    }
    if topo.shard(from).is_none() || topo.shard(to).is_none() {
        return Err(Refusal::UnknownShard);
    }
    if from == to {
        return Err(Refusal::SameShard);
    }
    if topo.moves.len() >= MOVES_MAX {
        return Err(Refusal::TooMany);
    }
    let is_sound = slots.iter().all(|r| r.first <= r.last && r.last.index() < Slot::COUNT);
    if !is_sound || slots.is_empty() || slots.len() > Slot::COUNT {
        return Err(Refusal::BadValue);
    }
    for slot in slots.iter().flat_map(|r| r.iter()) {
        match topo.owner(slot) {
            Some(owner) if owner == from => {}
            Some(owner) => {
                let node = topo.shard(owner).ok_or(Refusal::UnknownShard)?.primary.node;
                return Err(Refusal::SlotOfAnother(slot, node));
            }
            None => return Err(Refusal::SlotUnassigned(slot)),
        }
        let is_moving = topo.moves.iter().any(|m| m.slots.iter().any(|r| r.contains(slot)));
        if is_moving || topo.hint(slot).is_some() {
            return Err(Refusal::MovesOverlap);
        }
    }
    let mut next = successor(topo, ctx.ballot);
    next.moves.push(Move { id, slots: slots.to_vec(), from, to });
    done(next)
}

pub(crate) fn commit(topo: &Topology, id: u64, epochs: (Epoch, Epoch), ctx: &Context<'_>) -> Verdict {
    let Some(mv) = topo.find_move(id) else { return Err(Refusal::UnknownMove) };
    let epoch = |shard| topo.shard(shard).map(|s| s.epoch);
    // S3: both epochs. Another primary on either side knows nothing of what this pair has agreed.
    let is_same = epoch(mv.from) == Some(epochs.0) && epoch(mv.to) == Some(epochs.1);
    if !is_same && ctx.mutation != Some(Mutation::S3) {
        return Err(Refusal::Changed);
    }
    let mut next = successor(topo, ctx.ballot);
    next.assign(&mv.slots, Some(mv.to));
    next.moves.retain(|m| m.id != id);
    done(next)
}

/// Cancelling what has ended already is no error: one of the two had to win (S2).
pub(crate) fn cancel(topo: &Topology, id: u64, ctx: &Context<'_>) -> Verdict {
    if topo.find_move(id).is_none() {
        return Ok(Change::Nothing(Outcome::Done));
    }
    let mut next = successor(topo, ctx.ballot);
    next.moves.retain(|m| m.id != id);
    done(next)
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::super::apply::tests::run;
    use super::*;
    use crate::topology::tests::{cluster, shard_id};

    fn slots(a: u16, b: u16) -> Vec<SlotRange> {
        vec![SlotRange::new(Slot::new(a).unwrap(), Slot::new(b).unwrap()).unwrap()]
    }
    fn begin(a: u16, b: u16) -> Request {
        Request::MoveStart { id: 7, slots: slots(a, b), from: shard_id(1), to: shard_id(3) }
    }

    #[test]
    fn s3_commit_compares_both_epochs() {
        let topo = run(&cluster(&[&[1, 2], &[3, 4]], &[1]), begin(0, 9)).unwrap();
        let commit = |a, b| Request::MoveCommit { id: 7, epoch_from: Epoch(a), epoch_to: Epoch(b) };
        assert_eq!(run(&topo, commit(2, 1)), Err(Refusal::Changed));
        assert_eq!(run(&topo, commit(1, 2)), Err(Refusal::Changed));
        let next = run(&topo, commit(1, 1)).unwrap();
        assert_eq!(next.owner(Slot::new(9).unwrap()), Some(shard_id(3)));
        assert_eq!(run(&next, commit(1, 1)), Err(Refusal::UnknownMove));
    }

    #[test]
    fn s2_a_cancelled_move_commits_no_more() {
        let topo = run(&cluster(&[&[1, 2], &[3, 4]], &[1]), begin(0, 9)).unwrap();
        let next = run(&topo, Request::MoveCancel { id: 7 }).unwrap();
        let commit = Request::MoveCommit { id: 7, epoch_from: Epoch(1), epoch_to: Epoch(1) };
        assert_eq!(run(&next, commit), Err(Refusal::UnknownMove));
        assert_eq!(run(&next, Request::MoveCancel { id: 7 }).unwrap(), next);
    }

    #[test]
    fn moves_do_not_overlap_and_take_only_what_is_owned() {
        let topo = run(&cluster(&[&[1, 2], &[3, 4]], &[1]), begin(0, 9)).unwrap();
        let again = Request::MoveStart { id: 8, slots: slots(9, 9), from: shard_id(1), to: shard_id(3) };
        assert_eq!(run(&topo, again), Err(Refusal::MovesOverlap));
        let foreign =
            Request::MoveStart { id: 8, slots: slots(0, 16383), from: shard_id(3), to: shard_id(1) };
        assert!(matches!(run(&topo, foreign), Err(Refusal::SlotOfAnother(_, _))));
    }
}
