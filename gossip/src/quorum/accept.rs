//! Phase 2: one value for the version after ours. Chapters 4.1 and 4.2 (W2, W9).

use super::lead::{Pending, Proposal};
use super::{Leader, Role};
use crate::config::Mutation;
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::topology::{Ballot, Delta, Primary, Topology, Voter};
use crate::wire::Message;
use proto::{NodeId, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Core {
    pub(crate) fn propose(
        &mut self,
        now: Now,
        value: Arc<Topology>,
        pending: Vec<Pending>,
        out: &mut Vec<Effect>,
    ) {
        let delta = Delta::between(&self.record.topology, self.hash, &value);
        let period = self.times.leader_period;
        let Role::Leader(leader) = &mut self.role else { panic!("only a leader proposes") };
        assert!(leader.proposal.is_none(), "one proposal at a time");
        leader.proposal = Some(Proposal {
            value,
            delta,
            acks: BTreeSet::new(),
            waits: BTreeMap::new(),
            resend_at: now.mono + period,
            pending,
        });
        self.send_accepts(out);
    }

    /// To every voter that has not accepted yet.
    pub(crate) fn send_accepts(&mut self, out: &mut Vec<Effect>) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(proposal) = &leader.proposal else { return };
        for voter in &self.record.topology.voters {
            if !proposal.acks.contains(voter) {
                let message = Message::Accept { ballot: leader.ballot, value: proposal.delta.clone() };
                self.send(voter.node, message, out);
            }
        }
    }

    pub(crate) fn on_accept(
        &mut self,
        now: Now,
        from: NodeId,
        ballot: Ballot,
        delta: Delta,
        out: &mut Vec<Effect>,
    ) {
        // A7: only a voter of version n, by its own durable topology and store, accepts n+1.
        if !self.is_voter() {
            return;
        }
        // A1
        if ballot < self.record.promised && !self.mutated(Mutation::A1) {
            self.send(from, Message::Nack { promised: self.record.promised }, out);
            return;
        }
        let topo = self.record.topology.clone();
        let Some(value) = delta.apply(&topo, self.hash) else { return };
        self.follow(now, ballot, from);
        let is_repeated = self.record.accepted.as_ref().is_some_and(|(b, v)| *b == ballot && **v == value);
        if !is_repeated {
            if let Some(remaining) = self.running_promise(now, &topo, &value) {
                self.refuse_for_now(now, from, ballot, (&topo, &value), remaining, out);
                return;
            }
            self.record.promised = ballot;
            self.record.accepted = Some((ballot, Arc::new(value)));
            // A2
            self.persist_vote(out);
        }
        self.send(from, Message::Accepted { ballot }, out);
    }

    /// W2: the longest promise of mine to a primary that the value replaces.
    fn running_promise(&self, now: Now, topo: &Topology, value: &Topology) -> Option<std::time::Duration> {
        if self.mutated(Mutation::W2) {
            return None;
        }
        let running = topo.replaced_by(value).filter(|s| !self.promises.is_free(s, now.mono));
        running.map(|s| self.promises.remaining(s, now.mono)).max()
    }

    /// W9: what was proposed for replacement is not renewed, so that the chain is blocked for E at most.
    fn refuse_for_now(
        &mut self,
        now: Now,
        from: NodeId,
        ballot: Ballot,
        (topo, value): (&Topology, &Topology),
        remaining: std::time::Duration,
        out: &mut Vec<Effect>,
    ) {
        self.marks.hit(Mark::W2Wait);
        let primaries: Vec<Primary> = topo.replaced_by(value).map(|s| s.primary).collect();
        self.promises.condemn(topo.ver, primaries, now.mono + self.times.wait);
        let remaining_us = remaining.as_micros() as u64;
        self.send(from, Message::AcceptWait { ballot, remaining_us }, out);
    }

    pub(crate) fn on_accept_wait(&mut self, now: Now, from: Voter, ballot: Ballot, remaining_us: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot == ballot
            && let Some(proposal) = &mut leader.proposal
        {
            let until = now.mono + std::time::Duration::from_micros(remaining_us).min(self.times.wait);
            proposal.waits.insert(from.node, until);
            proposal.resend_at = proposal.resend_at.min(until);
        }
    }

    pub(crate) fn on_accepted(&mut self, now: Now, from: Voter, ballot: Ballot, out: &mut Vec<Effect>) {
        // A4: counted by (node, store), voters of version n only.
        if !self.record.topology.voters.contains(&from) {
            return;
        }
        let needed = self.votes_needed();
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot {
            return;
        }
        let Some(proposal) = &mut leader.proposal else { return };
        proposal.acks.insert(from);
        if proposal.acks.len() >= needed {
            let proposal = leader.proposal.take().expect("just seen");
            self.decide(now, proposal, out);
        }
    }

    fn decide(&mut self, now: Now, proposal: Proposal, out: &mut Vec<Effect>) {
        let ver = proposal.value.ver;
        // Told before it is taken up: the decision may remove this very node.
        self.announce(&proposal.value, &proposal.delta, out);
        for pending in proposal.pending {
            self.answer_pending(pending, ver, out);
        }
        self.adopt(now, proposal.value, vec![proposal.delta], true, out);
        self.after_decision(now, out);
    }

    /// A6: with other voters, leadership goes on only if a majority of the new ones has promised.
    fn after_decision(&mut self, now: Now, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let needed = self.votes_needed();
        let is_voter = self.is_voter();
        let Role::Leader(leader) = &mut self.role else { return };
        leader.on_new_version(now.mono);
        let held = topo.voters.iter().filter(|v| leader.promised.contains(v)).count();
        if !is_voter {
            self.step_down(now);
        } else if held < needed {
            self.marks.hit(Mark::A6NewBallot);
            self.stand(now, out);
        }
    }
}

impl Leader {
    fn on_new_version(&mut self, now: proto::Mono) {
        self.failovers.clear();
        self.preferred.retain(|_, (_, until)| now < *until);
        self.is_stirred = true;
        self.acks.values_mut().for_each(|ack| ack.free = None);
    }
}
