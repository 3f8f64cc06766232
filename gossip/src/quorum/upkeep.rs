//! Keeping the voter set odd, alive and spread over hosts. Chapter 6.
//!
//! Invariant: never in the version before a failover: a change of voters costs E without one (W3).

use super::Role;
use crate::admin::{successor, with_voters};
use crate::core::Core;
use crate::effect::Effect;
use crate::topology::{Topology, Voter};
use proto::{NodeId, Now};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Voters that a cluster of so many living nodes should have.
fn target(nodes: usize) -> usize {
    match nodes {
        // With two voters the death of either stops both; one voter is the lesser evil.
        0..=2 => 1,
        3..=4 => 3,
        5..=49 => 5,
        50..=499 => 7,
        _ => 9,
    }
}

impl Core {
    /// Nodes that could begin to vote now: they answer, with the store the topology knows, at our version.
    pub(crate) fn voter_pool(&self) -> Vec<Voter> {
        let topo = &self.record.topology;
        let mut hosts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let host = |node: NodeId| {
            topo.member(node).map(|m| (m.address.zone.as_str(), m.address.ip.as_str())).unwrap_or_default()
        };
        topo.voters.iter().for_each(|v| *hosts.entry(host(v.node)).or_default() += 1);
        let is_ready = |id: NodeId, store| {
            id == self.record.node
                || (self.membership.is_online(id)
                    && self.promises.seen(id).is_some_and(|(s, _)| s == store)
                    && self.spread.shown_by(id) == Some(topo.order()))
        };
        let mut pool: Vec<Voter> = topo
            .members
            .iter()
            .filter(|m| !topo.is_voter(m.id, m.store) && is_ready(m.id, m.store))
            .map(|m| Voter { node: m.id, store: m.store })
            .collect();
        // Hosts without a voter first, and no host twice before each has had its turn.
        let mut spread = Vec::new();
        while !pool.is_empty() {
            let least = pool.iter().map(|v| hosts.get(&host(v.node)).copied().unwrap_or(0)).min();
            let at = pool.iter().position(|v| Some(hosts.get(&host(v.node)).copied().unwrap_or(0)) == least);
            let voter = pool.remove(at.expect("the least is there"));
            *hosts.entry(host(voter.node)).or_default() += 1;
            spread.push(voter);
            if spread.len() >= proto::limits::VOTERS_MAX {
                break;
            }
        }
        spread
    }

    pub(crate) fn propose_upkeep(&mut self, now: Now, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let period = self.times.upkeep_period;
        let Role::Leader(leader) = &mut self.role else { return };
        if now.mono < leader.next_upkeep {
            return;
        }
        leader.next_upkeep = now.mono + period;
        if leader.members_count != topo.members.len() {
            (leader.members_count, leader.members_changed) = (topo.members.len(), now.mono);
        }
        let is_settled = now.mono >= leader.members_changed + period;
        let ballot = leader.ballot;
        let primaries_answer = topo.shards.iter().all(|s| self.membership.is_online(s.primary.node));
        let is_calm = self.vote.mask.iter().all(|w| *w == 0) && primaries_answer;
        let is_fixed = topo.setting("cluster-voters-fixed") == Some("yes");
        if !is_settled || !is_calm || topo.seal.is_some() || is_fixed {
            return;
        }
        let wanted = self.wanted_voters(&topo, now);
        let alive = wanted.iter().filter(|v| self.membership.is_online(v.node)).count();
        if wanted != topo.voters && wanted.len() % 2 == 1 && alive > wanted.len() / 2 {
            let next = with_voters(successor(&topo, ballot), wanted);
            self.propose(now, Arc::new(next), Vec::new(), out);
        }
    }

    fn wanted_voters(&self, topo: &Topology, now: Now) -> Vec<Voter> {
        let is_long_dead = |node: NodeId| {
            self.membership.failed_since(node).is_some_and(|at| now.mono >= at + self.times.voter_dead)
        };
        let living = topo.members.iter().filter(|m| !is_long_dead(m.id)).count();
        let target = target(living);
        let is_kept =
            |v: &Voter| topo.member(v.node).is_some_and(|m| m.store == v.store) && !is_long_dead(v.node);
        let mut wanted: Vec<Voter> = topo.voters.iter().copied().filter(is_kept).collect();
        while wanted.len() > target {
            // Who does not answer goes first; never the leader itself.
            let at = wanted
                .iter()
                .position(|v| !self.membership.is_online(v.node))
                .or_else(|| wanted.iter().rposition(|v| v.node != self.record.node));
            wanted.remove(at.expect("more than one voter"));
        }
        let room = target - wanted.len();
        wanted.extend(self.voter_pool().into_iter().take(room));
        wanted.sort();
        wanted
    }
}
