//! Failover: which shards may be given another primary, and which one.
//!
//! Invariant: a failover changes the primary and nothing else (D8).

use super::Role;
use crate::admin::{promote, successor};
use crate::config::Mutation;
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::topology::{InSync, Primary, Shard, Topology};
use crate::wire::Message;
use crate::wire::v2::Position;
use proto::view::Health;
use proto::{Mono, NodeId, Now, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reports about a shard whose primary may be replaced.
#[derive(Debug)]
pub(crate) struct Collecting {
    pub deadline: Mono,
    reports: BTreeMap<NodeId, Report>,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    process: Primary,
    position: Position,
}

impl Core {
    pub(crate) fn on_position_ask(&mut self, from: NodeId, shard: ShardId, out: &mut Vec<Effect>) {
        let topo = &self.record.topology;
        if topo.shard(shard).is_some_and(|s| s.members.contains(&self.record.node)) {
            let is_stepping = self.draining.is_some() || self.tenure.as_ref().is_some_and(|t| t.is_stepping);
            let position =
                Position { is_draining: self.position.is_draining || is_stepping, ..self.position };
            self.send(from, Message::PositionIs { shard, position }, out);
        }
    }

    pub(crate) fn on_position(&mut self, now: Now, process: Primary, shard: ShardId, position: Position) {
        let topo = self.record.topology.clone();
        let Role::Leader(leader) = &mut self.role else { return };
        let is_member = topo.shard(shard).is_some_and(|s| s.members.contains(&process.node));
        if let Some(collecting) = leader.failovers.get_mut(&shard).filter(|_| is_member) {
            collecting.reports.insert(process.node, Report { process, position });
            collecting.deadline = collecting.deadline.min(now.mono + self.times.position_window);
            leader.is_stirred = true;
        }
    }

    /// W8: proposes only what a majority of fresh masks says can be decided.
    pub(crate) fn propose_failovers(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        self.refresh_mask(now);
        let topo = self.record.topology.clone();
        let Role::Leader(leader) = &self.role else { return false };
        let ballot = leader.ballot;
        let mut next = successor(&topo, ballot);
        let mut is_changed = false;
        for (i, shard) in topo.shards.iter().enumerate() {
            if !self.is_freed_by_majority(now, i) {
                self.forget_collecting(shard.id);
            } else if let Some((to, lossy)) = self.collect(now, shard, out) {
                let ver = next.ver;
                let changed = next.shard_mut(shard.id).expect("same shards");
                promote(changed, to, ver);
                if self.mutated(Mutation::D8) {
                    changed.in_sync.retain(|m| m.node == to.node);
                }
                if let Some(copy) = lossy {
                    self.marks.hit(Mark::Lossy);
                    (changed.lossy, changed.in_sync) = (true, vec![copy]);
                }
                self.marks.hit(Mark::Failover);
                is_changed = true;
            }
        }
        if is_changed {
            self.propose(now, Arc::new(next), Vec::new(), out);
        }
        is_changed
    }

    fn forget_collecting(&mut self, shard: ShardId) {
        if let Role::Leader(leader) = &mut self.role {
            leader.failovers.remove(&shard);
        }
    }

    fn is_freed_by_majority(&self, now: Now, index: usize) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let bit = |mask: &Vec<u64>| mask.get(index / 64).is_some_and(|w| w >> (index % 64) & 1 == 1);
        if !bit(&self.vote.mask) {
            return false;
        }
        let is_fresh = |at: Mono| now.mono < at + self.times.election;
        let others = self.record.topology.voters.iter().filter(|v| v.node != self.record.node);
        let freed = others.filter_map(|v| leader.acks.get(&v.node));
        let freed = freed.filter(|a| is_fresh(a.at) && a.free.as_ref().is_some_and(bit)).count();
        freed + 1 >= self.votes_needed()
    }

    /// Asks the shard's members how far they reach; says whom to promote once that is known.
    fn collect(
        &mut self,
        now: Now,
        shard: &Shard,
        out: &mut Vec<Effect>,
    ) -> Option<(Primary, Option<InSync>)> {
        let deadline = now.mono + self.times.position_window;
        let Role::Leader(leader) = &mut self.role else { return None };
        let is_new = !leader.failovers.contains_key(&shard.id);
        let collecting = leader
            .failovers
            .entry(shard.id)
            .or_insert_with(|| Collecting { deadline, reports: BTreeMap::new() });
        let is_over = now.mono >= collecting.deadline;
        let heard = |m: &NodeId| collecting.reports.contains_key(m);
        let all_answered = shard.members.iter().all(heard);
        let living_answered =
            shard.members.iter().all(|m| heard(m) || self.membership.health(*m) == Health::Failed);
        if !is_new && (all_answered || living_answered || is_over) {
            let reports = collecting.reports.clone();
            let preferred = leader.preferred.get(&shard.id).map(|(node, _)| *node);
            let choice = self.choose(shard, &reports, preferred, all_answered);
            if choice.is_some() {
                return choice;
            }
            self.marks.hit(Mark::NoCandidate);
        }
        if is_new || is_over {
            let Role::Leader(leader) = &mut self.role else { return None };
            leader.failovers.get_mut(&shard.id).expect("just made").deadline = deadline;
            for member in &shard.members {
                self.send(*member, Message::PositionAsk { shard: shard.id }, out);
            }
        }
        None
    }

    fn choose(
        &self,
        shard: &Shard,
        reports: &BTreeMap<NodeId, Report>,
        preferred: Option<NodeId>,
        all_answered: bool,
    ) -> Option<(Primary, Option<InSync>)> {
        let topo: &Topology = &self.record.topology;
        let is_candidate = |r: &&Report| {
            r.process.node == shard.primary.node
                || topo.member(r.process.node).is_some_and(|m| !m.no_failover)
        };
        // D6: of a strict shard only (node, generation) in the set.
        let is_legal = |r: &&Report| {
            !shard.strict
                || shard.contains_in_sync(r.process.node, r.position.generation)
                || self.mutated(Mutation::D6)
        };
        let best = best_of(shard, reports.values().filter(is_candidate).filter(is_legal), preferred);
        if let Some(best) = best {
            return Some((best.process, None));
        }
        // Chapter 6: the whole set is gone. With every member's answer at hand the best copy may be taken, openly.
        let may_lose = shard.members.len() == 1
            || self.config.promote_best_of_all
            || topo.setting("cluster-promote-best-of-all") == Some("yes");
        if !shard.strict || !all_answered || !may_lose {
            return None;
        }
        let best = best_of(shard, reports.values().filter(is_candidate), preferred)?;
        let copy = InSync { node: best.process.node, generation: best.position.generation };
        Some((best.process, Some(copy)))
    }
}

/// Draining members last, then the operator's wish, then another process than the one whose lease ran out if it has
/// followed the same tenure, then the highest (epoch, offset) (D9).
fn best_of<'a>(
    shard: &Shard,
    reports: impl Iterator<Item = &'a Report> + Clone,
    preferred: Option<NodeId>,
) -> Option<&'a Report> {
    let newest = reports.clone().map(|r| r.position.epoch).max()?;
    reports.max_by_key(|r| {
        let is_another = r.process != shard.primary && (shard.strict || r.position.epoch == newest);
        (
            !r.position.is_draining,
            preferred == Some(r.process.node),
            is_another,
            r.position.epoch,
            r.position.offset,
            r.process.node == shard.primary.node,
            std::cmp::Reverse(r.process.node),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{cluster, node, primary};
    use proto::{Epoch, Generation, Offset};

    fn report(n: u8, boot: u64, epoch: u64, offset: u64) -> Report {
        let position = Position {
            generation: Generation(1),
            epoch: Epoch(epoch),
            offset: Offset(offset),
            is_draining: false,
        };
        Report { process: primary(n, boot), position }
    }
    fn best(reports: &[Report], preferred: Option<u8>) -> u8 {
        let shard = cluster(&[&[1, 2, 3]], &[1]).shards[0].clone();
        best_of(&shard, reports.iter(), preferred.map(node)).unwrap().process.node.0[0]
    }

    #[test]
    fn d9_the_highest_epoch_then_offset_wins() {
        assert_eq!(best(&[report(2, 1, 5, 10), report(3, 1, 4, 99)], None), 2);
        assert_eq!(best(&[report(2, 1, 5, 10), report(3, 1, 5, 11)], None), 3);
        assert_eq!(best(&[report(2, 1, 5, 10), report(3, 1, 5, 11)], Some(2)), 2);
    }

    #[test]
    fn the_process_that_lost_its_lease_comes_last_among_equals() {
        assert_eq!(best(&[report(1, 1, 5, 99), report(2, 1, 5, 10)], None), 2);
        assert_eq!(best(&[report(1, 1, 5, 99), report(2, 1, 4, 10)], None), 1);
        assert_eq!(best(&[report(1, 2, 5, 99), report(2, 1, 5, 10)], None), 1);
    }

    #[test]
    fn a_draining_member_is_taken_only_if_there_is_no_other() {
        let mut leaving = report(1, 1, 5, 99);
        leaving.position.is_draining = true;
        assert_eq!(best(&[leaving, report(2, 1, 3, 1)], None), 2);
        assert_eq!(best(&[leaving], None), 1);
    }
}
