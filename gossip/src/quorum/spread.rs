//! How decided versions spread: beside every answer to a packet of another version, and at once to those concerned.
//!
//! Invariant: one node is sent the topology at most once per `resend`, however often it shows an old version.

use crate::core::Core;
use crate::effect::Effect;
use crate::topology::{Delta, MEMBERS_MAX, Topology};
use crate::wire::Message;
use proto::{Epoch, Mono, NodeId, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Versions kept as deltas (chapter 6); who is further behind gets the whole value.
const DELTAS_MAX: usize = 256;
/// Up to this size the decider tells everybody itself. Choice: 64 packets are nothing; above, an epidemic is cheaper.
const TELL_ALL_MAX: usize = 64;
const FANOUT: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Spread {
    deltas: VecDeque<Delta>,
    heard: BTreeMap<NodeId, (u64, Epoch)>,
    sent: BTreeMap<NodeId, Mono>,
    asked: BTreeMap<NodeId, Mono>,
}

impl Spread {
    pub fn keep(&mut self, deltas: Vec<Delta>) {
        if deltas.is_empty() {
            self.deltas.clear();
        }
        self.deltas.extend(deltas);
        while self.deltas.len() > DELTAS_MAX {
            self.deltas.pop_front();
        }
    }
    pub fn heard(&mut self, node: NodeId, order: (u64, Epoch)) {
        if self.heard.len() < 2 * MEMBERS_MAX || self.heard.contains_key(&node) {
            self.heard.insert(node, order);
        }
    }
    /// Version that a node showed last.
    pub fn shown_by(&self, node: NodeId) -> Option<(u64, Epoch)> {
        self.heard.get(&node).copied()
    }
    pub fn may_ask(&mut self, node: NodeId, now: Mono, pause: Duration) -> bool {
        may(&mut self.asked, node, now, pause)
    }

    fn chain_from(&self, ver: Epoch, hash: Option<u64>) -> Option<Vec<Delta>> {
        let start = self.deltas.iter().position(|d| d.parent == ver)?;
        let fits = hash.is_none_or(|hash| self.deltas[start].parent_hash == hash);
        fits.then(|| self.deltas.range(start..).cloned().collect())
    }
}

fn may(last: &mut BTreeMap<NodeId, Mono>, node: NodeId, now: Mono, pause: Duration) -> bool {
    if last.get(&node).is_some_and(|at| now < *at + pause) {
        return false;
    }
    if last.len() > 2 * MEMBERS_MAX {
        last.clear();
    }
    last.insert(node, now);
    true
}

impl Core {
    /// Chapter 3: who is behind gets Decided, who is ahead is asked.
    pub(crate) fn exchange_versions(
        &mut self,
        now: Now,
        from: NodeId,
        theirs: (u64, Epoch),
        out: &mut Vec<Effect>,
    ) {
        let mine = self.record.topology.order();
        if theirs > mine {
            self.need_topology(now, from, out);
        } else if theirs < mine && from != self.record.node {
            // Another lineage shares no version with ours: no delta fits.
            let ver = if theirs.0 == mine.0 { theirs.1 } else { Epoch(0) };
            self.send_topology(now, from, ver, None, out);
        }
    }

    pub(crate) fn send_topology(
        &mut self,
        now: Now,
        to: NodeId,
        ver: Epoch,
        hash: Option<u64>,
        out: &mut Vec<Effect>,
    ) {
        // An explicit question is always answered: it comes once per `resend` itself.
        if !may(&mut self.spread.sent, to, now.mono, self.times.resend) && hash.is_none() {
            return;
        }
        let message = match self.spread.chain_from(ver, hash) {
            Some(chain) => Message::Decided { chain },
            None => Message::DecidedFull { topology: Box::new((*self.record.topology).clone()) },
        };
        self.send(to, message, out);
    }

    /// The decider tells voters, the shards concerned, and the rest or a few of it.
    pub(crate) fn announce(&mut self, topo: &Topology, delta: &Delta, out: &mut Vec<Effect>) {
        let mut to: BTreeSet<NodeId> = topo.voters.iter().map(|v| v.node).collect();
        if topo.members.len() <= TELL_ALL_MAX {
            to.extend(topo.members.iter().map(|m| m.id));
        } else {
            let concerned = topo.shards.iter().filter(|s| s.rev == topo.ver);
            to.extend(concerned.flat_map(|s| s.members.iter().copied()));
            to.extend((0..FANOUT).map(|_| self.some_member()));
        }
        // Who has just been removed learns it from us too.
        to.extend(delta.members_gone.iter().copied());
        to.remove(&self.record.node);
        for node in to {
            self.send(node, Message::Decided { chain: vec![delta.clone()] }, out);
        }
    }

    /// In a large cluster each adopter tells a few more: an epidemic.
    pub(crate) fn pass_on(&mut self, out: &mut Vec<Effect>) {
        if self.record.topology.members.len() <= TELL_ALL_MAX {
            return;
        }
        let Some(delta) = self.spread.deltas.back().cloned() else { return };
        for _ in 0..FANOUT {
            let to = self.some_member();
            self.send(to, Message::Decided { chain: vec![delta.clone()] }, out);
        }
    }

    fn some_member(&mut self) -> NodeId {
        let members = &self.record.topology.members;
        members[self.rng.below(members.len() as u64) as usize].id
    }
}
