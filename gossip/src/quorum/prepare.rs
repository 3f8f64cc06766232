//! Phase 1: standing for leadership. Chapter 4.1.

use super::{Leader, Role};
use crate::config::Mutation;
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::topology::{Ballot, Delta, Topology, Voter};
use crate::wire::Message;
use proto::{Mono, Now};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Candidate {
    pub ballot: Ballot,
    /// A4: by (node, store).
    pub promises: BTreeMap<Voter, Option<(Ballot, Arc<Topology>)>>,
}

impl Core {
    pub(crate) fn restart_election_timer(&mut self, now: Now) {
        let base = self.times.election.as_micros() as u64;
        // A9: random in [1, 2] times the base, so that two candidates seldom meet twice.
        let wait = std::time::Duration::from_micros(self.rng.between(base, 2 * base));
        self.election_at = now.mono + wait;
    }

    pub(crate) fn stand(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.restart_election_timer(now);
        if !self.is_voter() {
            return;
        }
        let round = self.record.promised.round.max(self.round_seen) + 1;
        let ballot = Ballot { round, node: self.record.node };
        self.role = Role::Candidate(Candidate { ballot, promises: BTreeMap::new() });
        self.vote.following = None;
        for voter in self.record.topology.voters.clone() {
            self.send(voter.node, Message::Prepare { ballot }, out);
        }
    }

    pub(crate) fn on_prepare(&mut self, now: Now, from: Voter, ballot: Ballot, out: &mut Vec<Effect>) {
        // A7, A8: only a voter of my version, with its own store; A5: at my version (seen to by the caller).
        if !self.is_voter() || !self.record.topology.is_voter(from.node, from.store) {
            return;
        }
        let leads = self.vote.following.is_some_and(|(_, leader)| leader != from.node);
        if leads && now.mono < self.vote.leader_heard + self.times.election / 3 {
            // A9: sticky.
            self.marks.hit(Mark::A9Sticky);
            return;
        }
        // A1
        if ballot < self.record.promised && !self.mutated(Mutation::A1) {
            self.send(from.node, Message::Nack { promised: self.record.promised }, out);
            return;
        }
        if ballot > self.record.promised || self.mutated(Mutation::A1) {
            self.record.promised = ballot;
            // A2: durable before it is said.
            self.persist_vote(out);
        }
        if from.node != self.record.node {
            self.restart_election_timer(now);
        }
        let topo = &self.record.topology;
        let accepted =
            self.record.accepted.as_ref().map(|(b, value)| (*b, Delta::between(topo, self.hash, value)));
        self.send(from.node, Message::Promise { ballot, accepted }, out);
    }

    pub(crate) fn on_promise(
        &mut self,
        now: Now,
        from: Voter,
        ballot: Ballot,
        accepted: Option<(Ballot, Delta)>,
        out: &mut Vec<Effect>,
    ) {
        if !self.record.topology.voters.contains(&from) {
            return;
        }
        let accepted = match accepted {
            None => None,
            Some((b, delta)) => match delta.apply(&self.record.topology, self.hash) {
                Some(value) => Some((b, Arc::new(value))),
                None => return,
            },
        };
        let needed = self.votes_needed();
        match &mut self.role {
            Role::Leader(leader) if leader.ballot == ballot => {
                leader.promised.insert(from);
            }
            Role::Candidate(candidate) if candidate.ballot == ballot => {
                candidate.promises.insert(from, accepted);
                if candidate.promises.len() >= needed {
                    self.lead(now, out);
                }
            }
            _ => {}
        }
    }

    fn lead(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Role::Candidate(candidate) = std::mem::replace(&mut self.role, Role::Follower) else { return };
        let promised = candidate.promises.keys().copied().collect();
        let leader = Leader::new(candidate.ballot, promised, now.mono);
        self.role = Role::Leader(Box::new(leader));
        self.vote.following = Some((candidate.ballot, self.record.node));
        self.membership.leader = self.membership.leader.max(self.vote.following);
        // A3: the highest accepted value may be decided already; it is repeated unchanged.
        let highest = candidate.promises.into_values().flatten().max_by_key(|(ballot, _)| *ballot);
        if let Some((_, value)) = highest
            && !self.mutated(Mutation::A3)
        {
            self.marks.hit(Mark::A3Repeat);
            self.propose(now, value, Vec::new(), out);
        }
        self.send_heartbeats(now, out);
    }

    pub(crate) fn on_nack(&mut self, now: Now, promised: Ballot) {
        self.round_seen = self.round_seen.max(promised.round);
        let mine = match &self.role {
            Role::Follower => return,
            Role::Candidate(candidate) => candidate.ballot,
            Role::Leader(leader) => leader.ballot,
        };
        if promised > mine {
            self.step_down(now);
        }
    }

    /// Back to following. Requests die with leadership (A11); those who asked will ask again.
    pub(crate) fn step_down(&mut self, now: Now) {
        self.role = Role::Follower;
        if self.vote.following.is_some_and(|(_, leader)| leader == self.record.node) {
            self.vote.following = None;
        }
        self.restart_election_timer(now);
    }

    /// A2: a vote is durable before it is said.
    pub(crate) fn persist_vote(&mut self, out: &mut Vec<Effect>) {
        if !self.mutated(Mutation::A2) {
            self.persist(out);
        }
    }

    pub(crate) fn role_deadline(&self) -> Mono {
        match &self.role {
            Role::Leader(leader) => leader.next_deadline(),
            _ if self.is_voter() => self.election_at,
            _ => Mono(u64::MAX),
        }
    }
}
