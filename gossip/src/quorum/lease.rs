//! Leases, on both sides. Chapter 4.2.
//!
//! Invariant: a primary counts a lease from when it sent the request, a voter from when it received it (W1, W13).

use super::Role;
use crate::config::Mutation;
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::topology::{Primary, Voter};
use crate::wire::Message;
use proto::{Boot, Epoch, Mono, NodeId, Now, ShardId};
use std::collections::BTreeMap;

/// The primary's side: one tenure of this very process.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub began: Mono,
    /// Newest send time that each voter has granted.
    pub grants: BTreeMap<Voter, Mono>,
    pub lease_until: Mono,
    pub next_request: Mono,
    /// Released: it never serves again in this tenure (W11).
    pub is_stepping: bool,
    cfg: Epoch,
}

/// A hand-over in progress at the primary.
#[derive(Debug)]
pub(crate) struct Draining {
    /// Who asked; `None` for our own shutdown.
    pub to: Option<NodeId>,
    pub token: Option<u64>,
    pub deadline: Mono,
    pub is_done: bool,
}

impl Core {
    /// Begins, continues or ends the tenure as the topology says.
    pub(crate) fn take_up_tenure(&mut self, now: Now, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        // W1, D12: the topology must name this process; a restarted primary is nothing.
        let Some(shard) = topo.tenure_of(self.me()) else {
            self.tenure = None;
            self.end_draining(out);
            return;
        };
        match &mut self.tenure {
            Some(tenure) if tenure.shard == shard.id && tenure.epoch == shard.epoch => {
                if tenure.cfg != topo.cfg {
                    // W5: grants of the former configuration count no more; the lease they gave does.
                    tenure.cfg = topo.cfg;
                    tenure.grants.clear();
                    tenure.next_request = now.mono;
                }
            }
            _ => {
                self.end_draining(out);
                self.tenure = Some(Tenure {
                    shard: shard.id,
                    epoch: shard.epoch,
                    began: now.mono,
                    grants: BTreeMap::new(),
                    lease_until: Mono(0),
                    next_request: now.mono,
                    is_stepping: false,
                    cfg: topo.cfg,
                });
                let is_whole = shard.contains_in_sync(self.record.node, self.record.generation);
                if shard.strict && !is_whole && !self.mutated(Mutation::D6) {
                    // D16: what I hold is not what the set was promised.
                    self.release_tenure(out);
                }
            }
        }
        // W7: the first request leaves in the step that adopts.
        self.tick_tenure(now, out);
    }

    pub(crate) fn tick_tenure(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(tenure) = &mut self.tenure else { return };
        if now.mono >= tenure.next_request && !tenure.is_stepping {
            tenure.next_request = now.mono + self.times.lease_period;
            let message = Message::LeaseReq { tenure: tenure.epoch, sent: now.mono };
            for voter in self.record.topology.voters.clone() {
                self.send(voter.node, message.clone(), out);
            }
        }
    }

    /// W11: gives the lease back and never serves again in this tenure.
    pub(crate) fn release_tenure(&mut self, out: &mut Vec<Effect>) {
        let Some(tenure) = &mut self.tenure else { return };
        tenure.is_stepping = true;
        tenure.next_request = Mono(u64::MAX);
        let message = Message::Release { boot: self.record.boot, tenure: tenure.epoch };
        // The data plane stops before the voters hear that it has.
        out.push(Effect::Publish);
        for voter in self.record.topology.voters.clone() {
            self.send(voter.node, message.clone(), out);
        }
    }

    pub(crate) fn on_lease_req(
        &mut self,
        now: Now,
        process: Primary,
        tenure: Epoch,
        sent: Mono,
        out: &mut Vec<Effect>,
    ) {
        let topo = self.record.topology.clone();
        if !self.is_voter() {
            return;
        }
        let Some(shard) = topo.tenure_of(process).filter(|s| s.epoch == tenure) else {
            self.marks.hit(Mark::NotPrimary);
            return;
        };
        if self.promises.is_dead(process) || self.promises.is_released(process, tenure) {
            return;
        }
        if let Some((_, next)) = &self.record.accepted
            && !self.mutated(Mutation::W4)
        {
            // W4: what I have voted for may be decided already.
            let is_replaced = next.shard(shard.id).is_none_or(|s| s.primary != process);
            if next.voters != topo.voters || is_replaced {
                self.marks.hit(Mark::W4Refuse);
                return;
            }
        }
        if self.promises.is_condemned(process, topo.ver, now.mono) && !self.mutated(Mutation::W4) {
            // W9
            self.marks.hit(Mark::W9Condemned);
            return;
        }
        if self.promises.is_free(shard, now.mono) {
            self.vote.mask_dirty = true;
        }
        self.promises.promise(process, now.mono + self.times.wait);
        let message = Message::LeaseAck { boot: process.boot, tenure, sent, cfg: topo.cfg };
        self.send(process.node, message, out);
    }

    pub(crate) fn on_lease_ack(
        &mut self,
        now: Now,
        from: Voter,
        (boot, epoch, sent, cfg): (Boot, Epoch, Mono, Epoch),
    ) {
        let topo = self.record.topology.clone();
        let needed = self.votes_needed();
        let skips_cfg = self.mutated(Mutation::W5);
        let counts_receipt = self.mutated(Mutation::W1Receipt);
        let Some(tenure) = &mut self.tenure else { return };
        // W1: sends before the tenure began do not count; nor do those of the future.
        if boot != self.record.boot || epoch != tenure.epoch || sent < tenure.began || sent > now.mono {
            return;
        }
        // W5: the granter must know the configuration under which I count it.
        if (cfg != topo.cfg || !topo.voters.contains(&from)) && !skips_cfg {
            self.marks.hit(Mark::W5OtherCfg);
            return;
        }
        let granted = if counts_receipt { now.mono } else { sent };
        let grant = tenure.grants.entry(from).or_default();
        *grant = (*grant).max(granted);
        let mut sends: Vec<Mono> = tenure.grants.values().copied().collect();
        sends.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(oldest) = sends.get(needed - 1) {
            tenure.lease_until = tenure.lease_until.max(*oldest + self.times.lease);
        }
    }

    pub(crate) fn on_release(&mut self, process: Primary, tenure: Epoch) {
        let topo = &self.record.topology;
        let Some(shard) = topo.tenure_of(process) else { return };
        // W11: a late copy of an old release says nothing about the present tenure.
        if shard.epoch == tenure {
            self.promises.release(process, tenure);
        } else if self.mutated(Mutation::W11) {
            self.promises.release(process, shard.epoch);
        } else {
            self.marks.hit(Mark::W11Late);
            return;
        }
        self.vote.mask_dirty = true;
    }

    /// Recomputes the mask of primaries that may be replaced as far as this voter is concerned (W8).
    pub(crate) fn refresh_mask(&mut self, now: Now) -> bool {
        let topo = &self.record.topology;
        let mut mask = vec![0u64; topo.shards.len().div_ceil(64)];
        let mut next = None;
        for (i, shard) in topo.shards.iter().enumerate() {
            let free_at = self.promises.free_at(shard);
            if free_at <= now.mono {
                mask[i / 64] |= 1 << (i % 64);
                if self.promises.is_dead(shard.primary) {
                    self.marks.hit(Mark::W10Void);
                }
            } else {
                next = Some(next.map_or(free_at, |n: Mono| n.min(free_at)));
            }
        }
        (self.vote.mask_at, self.vote.mask_dirty) = (next, false);
        let has_changed = mask != self.vote.mask;
        self.vote.mask = mask;
        has_changed
    }

    /// Pushes the mask when it changes: an expiring promise is an event because it is made one.
    pub(crate) fn tick_vote(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.is_voter() {
            return;
        }
        let is_due = self.vote.mask_at.is_some_and(|at| now.mono >= at);
        if (self.vote.mask_dirty || is_due) && self.refresh_mask(now) {
            if let Role::Leader(leader) = &mut self.role {
                leader.is_stirred = true;
                if let Some(proposal) = &mut leader.proposal
                    && proposal.waits.remove(&self.record.node).is_some()
                {
                    proposal.resend_at = now.mono;
                }
            } else {
                self.send_lead_ack(out);
            }
        }
    }

    pub(crate) fn vote_deadline(&self) -> Mono {
        if self.is_voter() { self.vote.mask_at.unwrap_or(Mono(u64::MAX)) } else { Mono(u64::MAX) }
    }
}
