//! CLUSTER RESET, and what becomes of a node that its cluster has removed: a chain of its own again.

use super::{Outcome, Refusal, Request};
use crate::core::{Core, fresh_chain};
use crate::effect::Effect;
use crate::membership::Membership;
use crate::promises::Promises;
use crate::quorum::{Role, Spread, Vote};
use crate::topology::Ballot;
use crate::wire::Message;
use proto::{Boot, Generation, NodeId, Now, StoreId};
use std::sync::Arc;

impl Core {
    pub(crate) fn on_reset(
        &mut self,
        now: Now,
        token: u64,
        is_hard: bool,
        has_keys: bool,
        out: &mut Vec<Effect>,
    ) {
        let is_primary = self
            .record
            .topology
            .shard_of(self.record.node)
            .is_some_and(|s| s.primary.node == self.record.node);
        if is_primary && has_keys {
            out.push(Effect::Answer { token, result: Err(Refusal::HoldsKeys) });
            return;
        }
        // Best effort: whoever hears it takes us out; if nobody does, an operator says FORGET.
        self.release_tenure(out);
        let leader = self.leader().filter(|l| *l != self.record.node);
        if let Some(leader) = leader {
            let request = Box::new(Request::Forget { node: self.record.node });
            self.send(leader, Message::Ask { id: 0, is_retry: false, request }, out);
        }
        self.begin_anew(now, is_hard, out);
        out.push(Effect::Answer { token, result: Ok(Outcome::Done) });
    }

    /// Our cluster has decided that we are no part of it.
    pub(crate) fn on_removed(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.begin_anew(now, false, out);
    }

    /// A chain of its own. The store's name changes: what this store promised to the old chain is forgotten (A8).
    fn begin_anew(&mut self, now: Now, is_hard: bool, out: &mut Vec<Effect>) {
        for token in self.submissions.clear().into_iter().chain(self.meets.clear()) {
            out.push(Effect::Answer { token, result: Err(Refusal::WasReset) });
        }
        self.end_draining(out);
        if is_hard {
            self.record.node = NodeId(self.rng.id());
        }
        self.record.store = StoreId(self.rng.draw());
        self.record.boot = Boot(self.record.boot.0 + 1);
        self.record.generation = Generation(self.record.generation.0 + 1);
        let names = (self.record.node, self.record.store);
        let (boot, generation) = (self.record.boot, self.record.generation);
        let topology = fresh_chain(&self.config, &self.address, names, boot, generation, &mut self.rng);
        self.hash = topology.hash();
        self.record.topology = Arc::new(topology);
        self.record.promised = Ballot::default();
        self.record.accepted = None;
        self.record.high_water = Default::default();
        self.position = crate::Position { generation, ..Default::default() };
        self.start_over(now, out);
    }

    /// Forgets everything volatile that belonged to another chain, and takes up this one.
    pub(crate) fn start_over(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.spread = Spread::default();
        self.promises = Promises::default();
        self.promises.hear(self.record.node, self.record.store, self.record.boot);
        self.vote = Vote { mask_dirty: true, ..Vote::default() };
        self.role = Role::Follower;
        self.tenure = None;
        self.round_seen = self.record.promised.round;
        self.membership = Membership::new(self.record.node, now.mono, self.record.boot.0 << 32);
        let topo = self.record.topology.clone();
        self.membership.follow(&topo, now.mono);
        self.stopped.clear();
        self.persist(out);
        out.push(Effect::Adopted(topo));
        self.restart_election_timer(now);
        if self.is_only_voter() {
            self.election_at = now.mono;
        }
        self.take_up_tenure(now, out);
    }
}
