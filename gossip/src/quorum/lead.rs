//! Leading: heartbeats, masks, and what is proposed next.
//!
//! Order of proposals: what phase 1 found (A3), failovers, requests, a no-op for a dangling vote (A10), upkeep.

use super::Role;
use super::failover::Collecting;
use crate::admin::{Change, Context, Outcome, Request, apply};
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::topology::{Ballot, Delta, Primary, Topology, Voter};
use crate::wire::Message;
use proto::{Epoch, Mono, NodeId, Now, ShardId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Leader {
    pub ballot: Ballot,
    /// Who promised this ballot, by (node, store) (A6).
    pub promised: BTreeSet<Voter>,
    pub proposal: Option<Proposal>,
    pub queue: VecDeque<Pending>,
    pub acks: BTreeMap<NodeId, Ack>,
    pub failovers: BTreeMap<ShardId, Collecting>,
    /// FAILOVER FORCE: candidates to be preferred, until then.
    pub preferred: BTreeMap<ShardId, (NodeId, Mono)>,
    /// Answers already given, by (asker, its life, its number), so that a repeated request is not carried out twice.
    pub answered: VecDeque<((Primary, u64), Result<(Outcome, Epoch), crate::admin::Refusal>)>,
    pub began: Mono,
    pub next_heartbeat: Mono,
    pub next_upkeep: Mono,
    pub members_changed: Mono,
    pub members_count: usize,
    /// Something has happened that may allow a proposal.
    pub is_stirred: bool,
}

#[derive(Debug)]
pub(crate) struct Proposal {
    pub value: Arc<Topology>,
    pub delta: Delta,
    pub acks: BTreeSet<Voter>,
    pub waits: BTreeMap<NodeId, Mono>,
    pub resend_at: Mono,
    pub pending: Vec<Pending>,
}

/// A request in a leader's hands.
#[derive(Debug)]
pub(crate) struct Pending {
    pub from: Primary,
    pub id: u64,
    pub is_retry: bool,
    pub request: Request,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub(crate) struct Ack {
    pub at: Mono,
    /// Free mask at our version, if the last one was.
    pub free: Option<Vec<u64>>,
    pub dangling: bool,
}

/// Requests that wait at a leader. Choice: far above what operators and primaries of a big cluster send at once.
pub(crate) const QUEUE_MAX: usize = 1024;
const ANSWERED_MAX: usize = 1024;

impl Leader {
    pub fn new(ballot: Ballot, promised: BTreeSet<Voter>, now: Mono) -> Leader {
        Leader {
            ballot,
            promised,
            proposal: None,
            queue: VecDeque::new(),
            acks: BTreeMap::new(),
            failovers: BTreeMap::new(),
            preferred: BTreeMap::new(),
            answered: VecDeque::new(),
            began: now,
            next_heartbeat: now,
            next_upkeep: now,
            members_changed: now,
            members_count: 0,
            is_stirred: true,
        }
    }

    pub fn next_deadline(&self) -> Mono {
        let proposal = self.proposal.as_ref().map(|p| p.resend_at);
        let collecting = self.failovers.values().map(|c| c.deadline).min();
        [Some(self.next_heartbeat), Some(self.next_upkeep), proposal, collecting]
            .into_iter()
            .flatten()
            .min()
            .unwrap()
    }

    pub fn remember_answer(
        &mut self,
        key: (Primary, u64),
        result: Result<(Outcome, Epoch), crate::admin::Refusal>,
    ) {
        if self.answered.len() >= ANSWERED_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back((key, result));
    }
}

impl Core {
    pub(crate) fn tick_role(&mut self, now: Now, out: &mut Vec<Effect>) {
        match &self.role {
            Role::Leader(_) => self.tick_leader(now, out),
            _ if now.mono >= self.election_at => self.stand(now, out),
            _ => {}
        }
    }

    fn tick_leader(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let topo = self.record.topology.clone();
        if now.mono >= leader.next_heartbeat {
            // A9: a leader that a majority does not answer leads nobody.
            let fresh = |node: NodeId| {
                node == self.record.node
                    || leader.acks.get(&node).is_some_and(|a| now.mono < a.at + self.times.election)
            };
            let answering = topo.voters.iter().filter(|v| fresh(v.node)).count();
            if answering < topo.majority() && now.mono >= leader.began + self.times.election {
                self.marks.hit(Mark::A9StepDown);
                self.step_down(now);
                return;
            }
            self.send_heartbeats(now, out);
        }
        self.pump(now, out);
    }

    pub(crate) fn send_heartbeats(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.next_heartbeat = now.mono + self.times.leader_period;
        let ballot = leader.ballot;
        self.vote.leader_heard = now.mono;
        for voter in self.record.topology.voters.clone() {
            if voter.node != self.record.node {
                self.send(voter.node, Message::LeadHb { ballot }, out);
            }
        }
    }

    /// Notes who leads, as far as a ballot proves it.
    pub(crate) fn follow(&mut self, now: Now, ballot: Ballot, from: NodeId) {
        if ballot < self.record.promised || ballot.node != from {
            return;
        }
        let is_own = from == self.record.node;
        if !is_own && !matches!(self.role, Role::Follower) {
            self.step_down(now);
        }
        if self.vote.following != Some((ballot, from)) {
            self.vote.following = Some((ballot, from));
            self.vote.mask_dirty = true;
            self.vote.mask.clear();
        }
        self.membership.leader = self.membership.leader.max(self.vote.following);
        self.vote.leader_heard = now.mono;
        if !is_own {
            self.restart_election_timer(now);
        }
    }

    pub(crate) fn on_lead_hb(&mut self, now: Now, from: NodeId, ballot: Ballot, out: &mut Vec<Effect>) {
        if !self.is_voter() {
            return;
        }
        if ballot < self.record.promised {
            self.send(from, Message::Nack { promised: self.record.promised }, out);
            return;
        }
        self.follow(now, ballot, from);
        self.refresh_mask(now);
        self.send_lead_ack(out);
    }

    pub(crate) fn send_lead_ack(&mut self, out: &mut Vec<Effect>) {
        let Some((ballot, leader)) = self.vote.following else { return };
        if leader == self.record.node {
            return;
        }
        // A10: a vote for a value that its proposer may have abandoned.
        let dangling = self.record.accepted.as_ref().is_some_and(|(b, _)| *b < ballot);
        self.send(leader, Message::LeadAck { ballot, free: self.vote.mask.clone(), dangling }, out);
    }

    pub(crate) fn on_lead_ack(
        &mut self,
        now: Now,
        from: Voter,
        ballot: Ballot,
        free: Option<Vec<u64>>,
        dangling: bool,
    ) {
        let is_voter = self.record.topology.voters.contains(&from);
        let Role::Leader(leader) = &mut self.role else { return };
        if !is_voter || leader.ballot != ballot {
            return;
        }
        // A mask that has changed may free a voter that had to wait.
        if let Some(proposal) = &mut leader.proposal
            && proposal.waits.remove(&from.node).is_some()
        {
            proposal.resend_at = now.mono;
        }
        leader.acks.insert(from.node, Ack { at: now.mono, free, dangling });
        leader.is_stirred = true;
    }

    /// Proposes the next thing, if nothing is under way.
    pub(crate) fn pump(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(proposal) = &mut leader.proposal {
            if now.mono >= proposal.resend_at {
                proposal.resend_at = now.mono + self.times.leader_period;
                self.send_accepts(out);
            }
            return;
        }
        let is_due = leader.is_stirred
            || !leader.queue.is_empty()
            || now.mono >= leader.next_upkeep
            || leader.failovers.values().any(|c| now.mono >= c.deadline);
        if !is_due {
            return;
        }
        leader.is_stirred = false;
        if self.propose_failovers(now, out) || self.propose_request(now, out) || self.propose_noop(now, out) {
            return;
        }
        self.propose_upkeep(now, out);
    }

    fn propose_request(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        loop {
            let Role::Leader(leader) = &mut self.role else { return false };
            let Some(mut pending) = leader.queue.pop_front() else { return false };
            let ballot = leader.ballot;
            let topo = self.record.topology.clone();
            let pool = self.voter_pool();
            let ctx = Context {
                ballot,
                is_retry: pending.is_retry,
                promises: &self.promises,
                pool: &pool,
                mutation: self.config.mutation,
            };
            match apply(&topo, &pending.request, &ctx) {
                Ok(Change::Next(value, outcome)) => {
                    pending.outcome = outcome;
                    self.ask_to_step_aside(&topo, &value, &pending.request, out);
                    self.propose(now, Arc::new(*value), vec![pending], out);
                    return true;
                }
                Ok(Change::Nothing(outcome)) => {
                    self.note_preference(now, &pending.request);
                    pending.outcome = outcome;
                    self.answer_pending(pending, topo.ver, out);
                }
                Err(refusal) => self.refuse_pending(pending, refusal, out),
            }
        }
    }

    /// A forgotten primary without slots gives its lease back, so that nobody waits for it.
    fn ask_to_step_aside(&self, topo: &Topology, next: &Topology, request: &Request, out: &mut Vec<Effect>) {
        if matches!(request, Request::Forget { .. } | Request::Replicate { .. }) {
            for shard in topo.replaced_by(next) {
                self.send(shard.primary.node, Message::StepAside { tenure: shard.epoch }, out);
            }
        }
    }

    fn note_preference(&mut self, now: Now, request: &Request) {
        let until = now.mono + self.times.wait * 2;
        if let (Request::Prefer { shard, to }, Role::Leader(leader)) = (request, &mut self.role) {
            leader.preferred.insert(*shard, (*to, until));
        }
    }

    /// A10
    fn propose_noop(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let ballot = leader.ballot;
        let own = self.record.accepted.as_ref().is_some_and(|(b, _)| *b < ballot);
        if !own && !leader.acks.values().any(|a| a.dangling && a.free.is_some()) {
            return false;
        }
        self.marks.hit(Mark::A10Noop);
        let value = crate::admin::successor(&self.record.topology, ballot);
        self.propose(now, Arc::new(value), Vec::new(), out);
        true
    }

    pub(crate) fn answer_pending(&mut self, pending: Pending, ver: Epoch, out: &mut Vec<Effect>) {
        self.close_pending(pending.from, pending.id, Ok((pending.outcome, ver)), out);
    }
    pub(crate) fn refuse_pending(
        &mut self,
        pending: Pending,
        refusal: crate::admin::Refusal,
        out: &mut Vec<Effect>,
    ) {
        self.close_pending(pending.from, pending.id, Err(refusal), out);
    }
    fn close_pending(
        &mut self,
        from: Primary,
        id: u64,
        result: Result<(Outcome, Epoch), crate::admin::Refusal>,
        out: &mut Vec<Effect>,
    ) {
        if let Role::Leader(leader) = &mut self.role {
            leader.remember_answer((from, id), result.clone());
        }
        self.send(from.node, Message::Answer { id, result }, out);
    }
}
