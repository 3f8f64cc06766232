//! Taking up a decided version: the one place where a node's topology changes.

use super::Role;
use crate::config::Mutation;
use crate::core::Core;
use crate::effect::Effect;
use crate::marks::Mark;
use crate::topology::{Delta, Topology};
use crate::wire::Message;
use proto::{Epoch, NodeId, Now};
use std::sync::Arc;

impl Core {
    /// `deltas` lead from our version to `value`; empty when the whole value came. `is_ours`: decided by our leading.
    pub(crate) fn adopt(
        &mut self,
        now: Now,
        value: Arc<Topology>,
        deltas: Vec<Delta>,
        is_ours: bool,
        out: &mut Vec<Effect>,
    ) {
        let old = std::mem::replace(&mut self.record.topology, value.clone());
        // A12: only upwards; what was accepted for an instance that is closed is void; `promised` stays.
        assert!(value.order() > old.order(), "A12: {:?} after {:?}", value.order(), old.order());
        self.record.accepted = None;
        self.hash = deltas.last().map_or_else(|| value.hash(), |d| d.hash);
        self.spread.keep(deltas);
        if value.voters != old.voters {
            self.marks.hit(Mark::VotersChanged);
        }
        if value.cfg != old.cfg && !self.mutated(Mutation::W3) {
            // W3: under the voters before me somebody may still hold a lease that I know nothing of.
            self.promises.blanket(now.mono + self.times.wait);
        }
        // W7: a new tenure is born with a promise, or it would be replaced before its first request arrives.
        for shard in &value.shards {
            if old.shard(shard.id).is_none_or(|s| s.primary != shard.primary || s.epoch != shard.epoch) {
                self.promises.promise(shard.primary, now.mono + self.times.wait);
            }
        }
        self.promises.adopted(value.ver, now.mono);
        self.vote.mask_dirty = true;
        self.vote.mask.clear();
        self.membership.follow(&value, now.mono);
        let me = self.record.node;
        let (was, is) = (old.shard_of(me).map(|s| s.id), value.shard_of(me).map(|s| s.id));
        self.persist(out);
        if was.is_some() && is.is_some() && was != is {
            // D10: what is held belongs to another shard; before it goes, the generation does.
            self.end_generation(out);
        }
        out.push(Effect::Adopted(value.clone()));
        if !is_ours && !matches!(self.role, Role::Follower) {
            self.step_down(now);
        }
        self.take_up_tenure(now, out);
        self.settle_submissions(out);
        if value.member(me).is_none() {
            self.on_removed(now, out);
        }
    }

    pub(crate) fn on_decided(&mut self, now: Now, from: NodeId, chain: Vec<Delta>, out: &mut Vec<Effect>) {
        let (mut topo, mut hash) = (self.record.topology.clone(), self.hash);
        let mut applied = Vec::new();
        for delta in chain.into_iter().filter(|d| d.ver > self.record.topology.ver) {
            let Some(next) = delta.apply(&topo, hash) else {
                self.need_topology(now, from, out);
                break;
            };
            (topo, hash) = (Arc::new(next), delta.hash);
            applied.push(delta);
        }
        if !applied.is_empty() {
            self.adopt(now, topo, applied, false, out);
            self.pass_on(out);
        }
    }

    pub(crate) fn on_decided_full(&mut self, now: Now, topology: Topology, out: &mut Vec<Effect>) {
        let is_newer = topology.cluster == self.record.cluster()
            && topology.order() > self.record.topology.order()
            && topology.check().is_ok();
        if is_newer {
            self.marks.hit(Mark::FullTopology);
            self.adopt(now, Arc::new(topology), Vec::new(), false, out);
            self.pass_on(out);
        }
    }

    pub(crate) fn on_need_topo(
        &mut self,
        now: Now,
        from: NodeId,
        ver: Epoch,
        hash: u64,
        out: &mut Vec<Effect>,
    ) {
        if ver < self.record.topology.ver || hash != self.hash {
            self.send_topology(now, from, ver, Some(hash), out);
        }
    }
}

impl Core {
    pub(crate) fn need_topology(&mut self, now: Now, from: NodeId, out: &mut Vec<Effect>) {
        if self.spread.may_ask(from, now.mono, self.times.resend) {
            let message = Message::NeedTopo { ver: self.record.topology.ver, hash: self.hash };
            self.send(from, message, out);
        }
    }
}
