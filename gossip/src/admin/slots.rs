//! Slots given, taken back, and moved key by key.

use super::apply::{Change, Context, Verdict, done, successor};
use super::{Outcome, Refusal};
use crate::topology::{Hint, Shard, Topology};
use proto::{NodeId, ShardId, Slot, SlotRange};

pub(crate) fn add(topo: &Topology, node: NodeId, slots: &[SlotRange], ctx: &Context<'_>) -> Verdict {
    let shard = served_by(topo, node)?.id;
    let taken = each(slots)?.find(|s| topo.owner(*s).is_some_and(|o| o != shard || !ctx.is_retry));
    match taken {
        Some(slot) => Err(Refusal::SlotBusy(slot)),
        None => give(topo, slots, Some(shard), ctx),
    }
}

/// The owner itself gives up slots; the core has stopped serving them before it asked (as S1).
pub(crate) fn del(topo: &Topology, node: NodeId, slots: &[SlotRange], ctx: &Context<'_>) -> Verdict {
    let shard = served_by(topo, node)?.id;
    for slot in each(slots)? {
        match topo.owner(slot) {
            Some(owner) if owner == shard => {}
            Some(owner) => return Err(of_another(topo, slot, owner)),
            None if ctx.is_retry => {}
            None => return Err(Refusal::SlotUnassigned(slot)),
        }
    }
    give(topo, slots, None, ctx)
}

pub(crate) fn flush(topo: &Topology, node: NodeId, ctx: &Context<'_>) -> Verdict {
    let slots = topo.slots_of(served_by(topo, node)?.id);
    if slots.is_empty() {
        return Ok(Change::Nothing(Outcome::Done));
    }
    give(topo, &slots, None, ctx)
}

/// SETSLOT MIGRATING and IMPORTING: decided, so that a failover does not forget them.
pub(crate) fn hint(
    topo: &Topology,
    slot: Slot,
    source: NodeId,
    target: NodeId,
    is_importing: bool,
    ctx: &Context<'_>,
) -> Verdict {
    let from = topo.shard_of(source).ok_or(Refusal::UnknownNode)?.id;
    let to = topo.shard_of(target).ok_or(Refusal::UnknownNode)?.id;
    if from == to {
        return Err(Refusal::SameShard);
    }
    match topo.owner(slot) {
        Some(owner) if is_importing && owner == to => return Err(Refusal::SlotBusy(slot)),
        Some(owner) if !is_importing && owner != from => return Err(of_another(topo, slot, owner)),
        None if !is_importing => return Err(Refusal::SlotUnassigned(slot)),
        _ => {}
    }
    if topo.moves.iter().any(|m| m.slots.iter().any(|r| r.contains(slot))) {
        return Err(Refusal::MovesOverlap);
    }
    let old = topo.hint(slot).filter(|h| h.from == from && h.to == to);
    let hint = Hint {
        slot,
        from,
        to,
        is_migrating: !is_importing || old.is_some_and(|h| h.is_migrating),
        is_importing: is_importing || old.is_some_and(|h| h.is_importing),
    };
    if topo.hint(slot) == Some(&hint) {
        return Ok(Change::Nothing(Outcome::Done));
    }
    let mut next = successor(topo, ctx.ballot);
    next.hints.retain(|h| h.slot != slot);
    next.hints.push(hint);
    next.hints.sort_by_key(|h| h.slot);
    done(next)
}

pub(crate) fn stable(topo: &Topology, slot: Slot, ctx: &Context<'_>) -> Verdict {
    if topo.hint(slot).is_none() {
        return Ok(Change::Nothing(Outcome::Done));
    }
    let mut next = successor(topo, ctx.ballot);
    next.hints.retain(|h| h.slot != slot);
    done(next)
}

/// SETSLOT NODE. The owner may give its slot away (it has stopped serving it and holds no key of it); anybody else
/// may ask only while the owner answers ASK for every key of it, which a decided MIGRATING hint says.
pub(crate) fn slot_to(
    topo: &Topology,
    slot: Slot,
    node: NodeId,
    asker: NodeId,
    ctx: &Context<'_>,
) -> Verdict {
    let to = topo.shard_of(node).ok_or(Refusal::UnknownNode)?;
    if to.primary.node != node {
        return Err(Refusal::NotPrimary);
    }
    if let Some(owner) = topo.owner(slot) {
        let is_owner = topo.shard(owner).is_some_and(|s| s.primary.node == asker);
        let is_handed_over = topo.hint(slot).is_some_and(|h| h.to == to.id && h.is_migrating);
        if owner == to.id {
            return stable(topo, slot, ctx);
        }
        if !is_owner && !is_handed_over {
            return Err(of_another(topo, slot, owner));
        }
    }
    give(topo, &[SlotRange { first: slot, last: slot }], Some(to.id), ctx)
}

fn give(topo: &Topology, slots: &[SlotRange], to: Option<ShardId>, ctx: &Context<'_>) -> Verdict {
    let overlaps = |m: &crate::topology::Move| {
        m.slots.iter().any(|a| slots.iter().any(|b| a.first <= b.last && b.first <= a.last))
    };
    if topo.moves.iter().any(overlaps) {
        return Err(Refusal::MovesOverlap);
    }
    let mut next = successor(topo, ctx.ballot);
    next.assign(slots, to);
    next.hints.retain(|h| !slots.iter().any(|r| r.contains(h.slot)));
    if next.owners == topo.owners && next.hints == topo.hints {
        return Ok(Change::Nothing(Outcome::Done));
    }
    done(next)
}

fn served_by(topo: &Topology, node: NodeId) -> Result<&Shard, Refusal> {
    let shard = topo.shard_of(node).ok_or(Refusal::UnknownNode)?;
    if shard.primary.node == node { Ok(shard) } else { Err(Refusal::NotPrimary) }
}

fn each(slots: &[SlotRange]) -> Result<impl Iterator<Item = Slot> + '_, Refusal> {
    let is_sound = slots.iter().all(|r| r.first <= r.last && r.last.index() < Slot::COUNT);
    if is_sound && slots.len() <= Slot::COUNT {
        Ok(slots.iter().flat_map(|r| r.iter()))
    } else {
        Err(Refusal::BadValue)
    }
}

fn of_another(topo: &Topology, slot: Slot, owner: ShardId) -> Refusal {
    topo.shard(owner).map_or(Refusal::UnknownShard, |s| Refusal::SlotOfAnother(slot, s.primary.node))
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::super::apply::tests::run;
    use super::*;
    use crate::topology::tests::{cluster, node, shard_id};

    fn slot(n: u16) -> Slot {
        Slot::new(n).unwrap()
    }
    fn range(a: u16, b: u16) -> Vec<SlotRange> {
        vec![SlotRange::new(slot(a), slot(b)).unwrap()]
    }

    #[test]
    fn slots_are_given_once() {
        let topo = cluster(&[&[1, 2], &[3]], &[1]);
        let bare = run(&topo, Request::DelSlots { node: node(3), slots: range(9000, 9100) }).unwrap();
        assert_eq!(bare.owner(slot(9050)), None);
        let add = |n, r| run(&bare, Request::AddSlots { node: node(n), slots: r });
        assert_eq!(add(1, range(8999, 9000)), Err(Refusal::SlotBusy(slot(8999))));
        assert_eq!(add(2, range(9000, 9000)), Err(Refusal::NotPrimary));
        assert_eq!(add(1, range(9000, 9100)).unwrap().owner(slot(9050)), Some(shard_id(1)));
    }

    #[test]
    fn only_the_owner_gives_up_a_slot() {
        let topo = cluster(&[&[1], &[3]], &[1]);
        let del = run(&topo, Request::DelSlots { node: node(1), slots: range(16383, 16383) });
        assert_eq!(del, Err(Refusal::SlotOfAnother(slot(16383), node(3))));
    }

    #[test]
    fn the_key_by_key_way_in_the_order_of_the_tools() {
        let topo = cluster(&[&[1], &[3]], &[1]);
        let to = Request::SlotTo { slot: slot(5), node: node(3), asker: node(3) };
        assert_eq!(run(&topo, to.clone()), Err(Refusal::SlotOfAnother(slot(5), node(1))));
        let importing = Request::Importing { node: node(3), slot: slot(5), source: node(1) };
        let topo = run(&topo, importing).unwrap();
        let topo = run(&topo, Request::Migrating { node: node(1), slot: slot(5), target: node(3) }).unwrap();
        let hint = topo.hint(slot(5)).unwrap();
        assert!(hint.is_importing && hint.is_migrating);
        let topo = run(&topo, to.clone()).unwrap();
        assert_eq!((topo.owner(slot(5)), topo.hint(slot(5))), (Some(shard_id(3)), None));
        assert_eq!(run(&topo, to).unwrap(), topo);
    }
}
