//! CLUSTER FAILOVER in its three modes, and the hand-over of a process that ends.

use super::submit::HandOverWait;
use super::{FailoverMode, Outcome, Refusal, Request};
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::quorum::{Draining, Role};
use crate::topology::{Ballot, InSync, Topology, Voter};
use crate::wire::Message;
use proto::{Epoch, Generation, NodeId, Now, ShardId};
use std::sync::Arc;

/// Voters of a new lineage. Choice: as upkeep would take for a small cluster; it corrects it later.
const TAKEOVER_VOTERS_MAX: usize = 5;

impl Core {
    pub(crate) fn on_failover(&mut self, now: Now, token: u64, mode: FailoverMode, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let me = self.record.node;
        let shard = topo.shard_of(me).filter(|s| s.primary.node != me);
        let Some(shard) = shard else {
            out.push(Effect::Answer { token, result: Err(Refusal::NotReplica) });
            return;
        };
        let force = Request::Prefer { shard: shard.id, to: me };
        match mode {
            FailoverMode::Takeover if !self.has_quorum() => self.take_over(now, token, shard.id, out),
            FailoverMode::Force | FailoverMode::Takeover => self.on_decide(now, token, force, out),
            FailoverMode::Default => self.ask_to_hand_over(now, token, shard.id, out),
        }
    }

    fn ask_to_hand_over(&mut self, now: Now, token: u64, id: ShardId, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let shard = topo.shard(id).expect("the caller's own");
        let refusal = if !self.membership.is_online(shard.primary.node) {
            Some(Refusal::PrimaryDown)
        } else if self.submissions.hand_over.is_some() {
            Some(Refusal::Busy)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            out.push(Effect::Answer { token, result: Err(refusal) });
            return;
        }
        let deadline = now.mono + self.times.request_deadline;
        self.submissions.hand_over = Some(HandOverWait { token, shard: id, deadline });
        self.send(shard.primary.node, Message::HandOver { shard: id, tenure: shard.epoch }, out);
    }

    /// At the primary: pause, let the replica catch up, stop, and have it promoted.
    pub(crate) fn on_hand_over(
        &mut self,
        now: Now,
        from: NodeId,
        id: ShardId,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) {
        let topo = self.record.topology.clone();
        let is_mine = self.tenure.as_ref().is_some_and(|t| t.shard == id && t.epoch == epoch);
        let shard = topo.shard(id).filter(|s| is_mine && s.members.contains(&from));
        let reason = match shard {
            None => Some(Refusal::Changed),
            Some(s) if s.strict && !s.in_sync.iter().any(|m| m.node == from) => Some(Refusal::NotInSync),
            Some(_) if self.draining.as_ref().is_some_and(|d| d.to == Some(from)) => return,
            Some(_) if self.draining.is_some() => Some(Refusal::Busy),
            Some(_) => None,
        };
        if let Some(reason) = reason {
            self.send(from, Message::HandOverRefused { shard: id, reason }, out);
            return;
        }
        self.begin_draining(now, Some(from), None, out);
    }

    fn begin_draining(&mut self, now: Now, to: Option<NodeId>, token: Option<u64>, out: &mut Vec<Effect>) {
        let deadline = now.mono + self.times.request_deadline;
        self.draining = Some(Draining { to, token, deadline, is_done: false });
        out.push(Effect::Drain { to });
    }

    pub(crate) fn on_drained(&mut self, now: Now, to: NodeId, generation: Generation, out: &mut Vec<Effect>) {
        let Some(tenure) = &self.tenure else { return };
        let (shard, epoch) = (tenure.shard, tenure.epoch);
        let Some(draining) = self.draining.as_mut().filter(|d| !d.is_done) else { return };
        draining.is_done = true;
        self.marks.hit(Mark::PlannedFailover);
        // W11: from here on this process does not serve in this tenure, whatever becomes of the request.
        self.release_tenure(out);
        self.submit_own(now, Request::HandOver { shard, epoch, to, generation }, out);
    }

    pub(crate) fn on_drain_failed(&mut self, out: &mut Vec<Effect>) {
        let Some(draining) = self.draining.take_if(|d| !d.is_done) else { return };
        let shard = self.tenure.as_ref().map(|t| t.shard).unwrap_or_default();
        if let Some(to) = draining.to {
            self.send(to, Message::HandOverRefused { shard, reason: Refusal::NotCaughtUp }, out);
        }
        if let Some(token) = draining.token {
            // The process ends anyway: the lease is given back, so that others need not wait for it.
            self.release_tenure(out);
            out.push(Effect::Answer { token, result: Err(Refusal::NotCaughtUp) });
        }
    }

    pub(crate) fn tick_draining(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.draining.as_ref().is_some_and(|d| !d.is_done && now.mono >= d.deadline) {
            self.on_drain_failed(out);
        }
    }

    /// Another tenure has begun: a hand-over of ours has come to its end.
    pub(crate) fn end_draining(&mut self, out: &mut Vec<Effect>) {
        if let Some(token) = self.draining.take().and_then(|d| d.token) {
            out.push(Effect::Answer { token, result: Ok(Outcome::Done) });
        }
    }

    pub(crate) fn on_hand_over_refused(&mut self, shard: ShardId, reason: Refusal, out: &mut Vec<Effect>) {
        if let Some(wait) = self.submissions.hand_over.take_if(|h| h.shard == shard) {
            out.push(Effect::Answer { token: wait.token, result: Err(reason) });
        }
    }

    /// The leader is about to remove our slotless shard and would have to wait for our lease.
    pub(crate) fn on_step_aside(&mut self, tenure: Epoch, out: &mut Vec<Effect>) {
        let Some(mine) = &self.tenure else { return };
        if mine.epoch == tenure && !self.record.topology.has_slots(mine.shard) {
            self.release_tenure(out);
        }
    }

    pub(crate) fn on_shut_down(&mut self, now: Now, token: u64, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let has_heir = topo.shard_of(self.record.node).is_some_and(|s| s.members.len() > 1);
        if self.tenure.is_none() || !has_heir {
            self.release_tenure(out);
            out.push(Effect::Answer { token, result: Ok(Outcome::Done) });
        } else if self.draining.is_none() {
            self.begin_draining(now, None, Some(token), out);
        } else {
            out.push(Effect::Answer { token, result: Err(Refusal::Busy) });
        }
    }

    /// TAKEOVER without a majority: a new lineage, whose voters are the nodes on this side.
    fn take_over(&mut self, now: Now, token: u64, shard: ShardId, out: &mut Vec<Effect>) {
        let old = self.record.topology.clone();
        let me = self.me();
        let round = self.record.promised.round.max(self.round_seen) + 1;
        let ballot = Ballot { round, node: me.node };
        let mut next: Topology = super::successor(&old, ballot);
        next.lineage += 1;
        next.cfg = next.ver;
        next.voters = self.takeover_voters(&old);
        let ver = next.ver;
        let taken = next.shard_mut(shard).expect("the caller's own");
        super::promote(taken, me, ver);
        taken.lossy = true;
        taken.in_sync = vec![InSync { node: me.node, generation: self.record.generation }];
        next.check().expect("a takeover keeps the topology sound");
        self.record.promised = ballot;
        self.role = Role::Follower;
        self.marks.hit(Mark::Lossy);
        self.adopt(now, Arc::new(next), Vec::new(), false, out);
        // Whoever shows an old version from now on is sent this one.
        let others = old.members.iter().map(|m| m.id).filter(|m| *m != me.node);
        let others: Vec<NodeId> = others.filter(|m| self.membership.is_online(*m)).collect();
        for member in others {
            self.send_topology(now, member, Epoch(0), None, out);
        }
        out.push(Effect::Answer { token, result: Ok(Outcome::Done) });
    }

    fn takeover_voters(&self, old: &Topology) -> Vec<Voter> {
        let own = Voter { node: self.record.node, store: self.record.store };
        let online = old.members.iter().filter(|m| m.id != own.node && self.membership.is_online(m.id));
        let mut voters = vec![own];
        voters.extend(online.map(|m| Voter { node: m.id, store: m.store }).take(TAKEOVER_VOTERS_MAX - 1));
        if voters.len() % 2 == 0 {
            voters.pop();
        }
        voters.sort();
        voters
    }
}
