//! The stream between a primary and its replicas, and what the in-sync cores decide about it.

use super::super::node::SimNode;
use super::super::world::{Input, World};
use super::*;
use gossip::{Command, DataClass, Event, Request};
use replication::insync::{Ask, Class, Effect, Event as InSyncEvent, Fit, FollowerEffect, Settings};

impl SimNode {
    pub(in super::super) fn generation(&self) -> Generation {
        self.core.as_ref().map(|c| c.generation()).unwrap_or_default()
    }
}

impl World {
    /// Called whenever the core has carried out a step: takes up what it has adopted.
    pub(in super::super) fn sync_data(&mut self, i: usize) {
        if !self.plan.has_data {
            return;
        }
        let Some(core) = self.nodes[i].core.as_ref() else { return };
        let topo = core.topology().clone();
        // A tenure that was given back is no tenure for the data.
        let tenure = core.tenure().filter(|_| core.lease_until().is_some());
        let generation = core.generation();
        let is_new_version = self.nodes[i].data.order != topo.order();
        if tenure != self.nodes[i].data.tenure {
            self.change_tenure(i, &topo, tenure, generation);
        } else if is_new_version && let Some((shard, _)) = tenure {
            let state = shard_state(&topo, shard).expect("a tenure's shard");
            self.step_primary(i, InSyncEvent::Topology(state));
        }
        if is_new_version {
            let data = &mut self.nodes[i].data;
            data.order = topo.order();
            self.follow_topology(i, &topo);
            self.purge_foreign(i, &topo);
            self.sync_moves(i, &topo);
            let data = &mut self.nodes[i].data;
            data.former = topo.shards.iter().map(|s| (s.id, s.primary.node)).collect();
        }
    }

    fn change_tenure(
        &mut self,
        i: usize,
        topo: &Topology,
        tenure: Option<(ShardId, Epoch)>,
        generation: Generation,
    ) {
        let now = self.nodes[i].clock(self.now);
        let settings = self.insync_settings();
        let id = self.nodes[i].id;
        let data = &mut self.nodes[i].data;
        data.tenure = tenure;
        data.primary = None;
        data.draining = None;
        data.sources.clear();
        data.targets.clear();
        data.matched.clear();
        // Written and not acknowledged: nobody knows; read and not shown: nothing happened.
        let waiting = std::mem::take(&mut data.waiting);
        for wait in waiting.into_iter().filter(|w| matches!(w.reply, ClientReply::Value(_))) {
            self.reply(wait.client, wait.attempt, ClientReply::Refused);
        }
        let Some((shard, epoch)) = tenure else { return };
        let data = &mut self.nodes[i].data;
        if data.last_epoch() >= epoch {
            self.fail(format!(
                "node {i} begins tenure {epoch} on a log of {}",
                self.nodes[i].data.last_epoch()
            ));
            return;
        }
        data.push(Entry { epoch, record: Record::Header });
        let state = shard_state(topo, shard).expect("a tenure's shard");
        let offsets = (Offset(data.acknowledged), Offset(data.end()));
        let former = data.former.get(&shard).copied();
        data.primary = Some(Primary::new((id, generation), state, offsets, former, settings, now));
        self.purge_foreign(i, topo);
        self.sync_moves(i, topo);
        self.step_primary(i, InSyncEvent::Tick);
        if self.fault_rng.chance(self.plan.kill_new_primary_per_mille) {
            let at = self.now + self.fault_rng.below(150_000);
            let life = self.nodes[i].life;
            self.schedule(at, super::super::world::Happening::Kill { node: i, life });
        }
    }

    fn insync_settings(&self) -> Settings {
        let class = if self.plan.data_class == DataClass::Fsync { Class::InSyncFsync } else { Class::InSync };
        Settings {
            class,
            lag: lag(&self.plan),
            retry: std::time::Duration::from_millis(100),
            mutation: self.plan.mutant.insync(),
        }
    }

    pub(super) fn append(&mut self, i: usize, record: Record) -> u64 {
        let data = &mut self.nodes[i].data;
        let (_, epoch) = data.tenure.expect("only a primary appends");
        data.push(Entry { epoch, record });
        let end = data.end();
        self.step_primary(i, InSyncEvent::Appended(Offset(end)));
        self.stream(i);
        end
    }

    pub(super) fn step_primary(&mut self, i: usize, event: InSyncEvent) {
        let now = self.nodes[i].clock(self.now);
        let Some(primary) = self.nodes[i].data.primary.as_mut() else { return };
        let shard = primary.shard().id;
        let mut out = Vec::new();
        primary.step(now, event, &mut out);
        for effect in out {
            match effect {
                Effect::Acknowledged(offset) => self.on_acknowledged(i, offset.0),
                Effect::Ask(ask) => {
                    let by = self.nodes[i].id;
                    let request = match ask {
                        Ask::Drop { rev, node, generation } => {
                            Request::Drop { shard, rev, by, node, generation }
                        }
                        Ask::Add { rev, node, generation } => {
                            Request::Add { shard, rev, by, node, generation }
                        }
                        Ask::Strict { rev, generation } => Request::Strict { shard, rev, by, generation },
                    };
                    self.command_later(i, Command::Decide(request));
                }
            }
        }
    }

    fn on_acknowledged(&mut self, i: usize, offset: u64) {
        let data = &mut self.nodes[i].data;
        data.acknowledged = data.acknowledged.max(offset);
        for target in data.targets.values_mut() {
            target.core.on_acknowledged(Offset(offset));
        }
        self.flush(i);
    }

    /// S7: only a primary purges, through its stream, what its topology gives to others and no move brings to it.
    fn purge_foreign(&mut self, i: usize, topo: &Topology) {
        let Some((shard, _)) = self.nodes[i].data.tenure else { return };
        let foreign: Vec<Slot> = all_slots()
            .filter(|s| topo.owner(*s) != Some(shard))
            .filter(|s| !topo.moves.iter().any(|m| m.to == shard && m.slots.iter().any(|r| r.contains(*s))))
            .filter(|s| self.nodes[i].data.map.iter().any(|(k, (v, _))| v.is_some() && slot_of(*k) == *s))
            .collect();
        if !foreign.is_empty() {
            self.append(i, Record::Purge(foreign));
        }
    }

    // --- the replica ---

    fn follow_topology(&mut self, i: usize, topo: &Topology) {
        let node = &mut self.nodes[i];
        let generation = node.generation();
        let Some(shard) = topo.shard_of(node.id).map(|s| s.id) else { return };
        let state = shard_state(topo, shard).expect("just found");
        let mut out = Vec::new();
        node.data.follower.on_topology(&state, generation, &mut out);
        self.obey_follower(i, &out);
    }

    fn obey_follower(&mut self, i: usize, effects: &[FollowerEffect]) {
        for FollowerEffect::DiscardAndSync in effects {
            // The generation ends, durably, before the copy goes (D10): the core's effects come first.
            let generation = self.nodes[i].generation();
            if self.nodes[i].discard_pending.replace(generation).is_none() {
                self.nodes[i].inbox.push_front(Input::Core(Event::GenerationEnded));
            }
        }
    }

    pub(in super::super) fn discard_if_due(&mut self, i: usize) {
        let generation = self.nodes[i].generation();
        if self.nodes[i].discard_pending.take_if(|ended| *ended < generation).is_some() {
            self.stats.discards += 1;
            self.nodes[i].data.discard();
        }
    }

    pub(super) fn show_position(&mut self, i: usize) {
        let node = &self.nodes[i];
        let Some(core) = node.core.as_ref() else { return };
        let Some(shard) = core.topology().shard_of(node.id) else { return };
        let primary = shard.primary.node;
        if primary == node.id || node.discard_pending.is_some() {
            return;
        }
        let message = DataMsg::Ack {
            from: node.id,
            shard: shard.id,
            tenure: shard.epoch,
            generation: core.generation(),
            epoch: node.data.last_epoch(),
            end: node.data.end(),
            durable: node.data.durable,
            is_diverged: node.data.follower.is_diverged(),
        };
        self.send_data(i, primary, message);
    }

    pub(super) fn on_append(
        &mut self,
        i: usize,
        (from, shard, tenure): (NodeId, ShardId, Epoch),
        generation: Generation,
        first: u64,
        entries: Vec<Entry>,
        acknowledged: u64,
    ) {
        let node = &self.nodes[i];
        let Some(core) = node.core.as_ref() else { return };
        let Some(state) = shard_state(core.topology(), shard) else { return };
        // D15, and a stream meant for an earlier life of our data is not for us.
        let may_take = node.data.follower.may_take(&state, from, tenure);
        if !may_take
            || generation != core.generation()
            || first > node.data.end()
            || node.discard_pending.is_some()
        {
            return;
        }
        let is_news = !entries.is_empty();
        for (k, entry) in entries.into_iter().enumerate() {
            let at = first as usize + k;
            match self.nodes[i].data.log.get(at) {
                Some(mine) if *mine == entry => {}
                Some(mine) => {
                    let what = format!("node {i}: {entry:?} at {at}, where {mine:?} stands");
                    self.fail(what);
                    return;
                }
                None => self.nodes[i].data.push(entry),
            }
        }
        let data = &mut self.nodes[i].data;
        data.acknowledged = data.acknowledged.max(acknowledged.min(data.end()));
        // An answer to an empty message would be answered in turn, for ever.
        if is_news && (self.plan.data_class == DataClass::Memory || self.data_rng.chance(300)) {
            self.show_position(i);
        }
    }

    pub(super) fn on_told_diverged(
        &mut self,
        i: usize,
        shard: ShardId,
        tenure: Epoch,
        generation: Generation,
    ) {
        let node = &mut self.nodes[i];
        let Some(core) = node.core.as_ref() else { return };
        let Some(state) = shard_state(core.topology(), shard).filter(|_| core.generation() == generation)
        else {
            return;
        };
        let mut out = Vec::new();
        let end = Offset(node.data.end());
        node.data.follower.on_diverged(&state, generation, tenure, end, &mut out);
        self.obey_follower(i, &out);
    }

    // --- the primary ---

    pub(super) fn on_replica_ack(&mut self, i: usize, message: DataMsg) {
        let DataMsg::Ack { from, shard, tenure, generation, epoch, end, durable, is_diverged } = message
        else {
            return;
        };
        let data = &mut self.nodes[i].data;
        if data.tenure != Some((shard, tenure)) {
            return;
        }
        if is_diverged {
            self.step_primary(i, InSyncEvent::Diverged { node: from, generation });
            return;
        }
        // D11: by (epoch, offset) at the handshake.
        match data.tenures.judge(epoch, Offset(end), Offset(data.end())) {
            Fit::Continues => {
                let known = data.matched.entry(from).or_insert((generation, end));
                *known =
                    if known.0 == generation { (generation, known.1.max(end)) } else { (generation, end) };
                let (matched, synced) = (Offset(end), Offset(durable));
                self.step_primary(i, InSyncEvent::Ack { node: from, generation, tenure, matched, synced });
                self.stream_to(i, from, generation, end);
            }
            Fit::Diverged => {
                self.step_primary(i, InSyncEvent::Diverged { node: from, generation });
                self.send_data(i, from, DataMsg::Diverged { shard, tenure, generation });
            }
        }
    }

    /// New records go at once to those that were at the end.
    fn stream(&mut self, i: usize) {
        let data = &self.nodes[i].data;
        let end = data.end();
        let close: Vec<(NodeId, Generation, u64)> =
            data.matched.iter().filter(|(_, (_, m))| m + 3 >= end).map(|(n, (g, m))| (*n, *g, *m)).collect();
        for (node, generation, matched) in close {
            self.stream_to(i, node, generation, matched);
        }
    }

    fn stream_to(&mut self, i: usize, to: NodeId, generation: Generation, from: u64) {
        let most = self.plan.catch_up;
        let data = &self.nodes[i].data;
        let Some((shard, tenure)) = data.tenure else { return };
        let entries: Vec<Entry> = data.log.iter().skip(from as usize).take(most).cloned().collect();
        let message = DataMsg::Append {
            from: self.nodes[i].id,
            shard,
            tenure,
            generation,
            first: from,
            entries,
            acknowledged: data.acknowledged,
        };
        self.send_data(i, to, message);
    }

    // --- the disk ---

    /// The log written at the last look is on the disk by now; the record's mark follows, then it may be said.
    pub(super) fn sync_log(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let Some(core) = node.core.as_ref() else { return };
        let (generation, end) = (core.generation(), node.data.end());
        if node.data.position_told != (generation, end) {
            node.data.position_told = (generation, end);
            let (epoch, offset) = (node.data.last_epoch(), Offset(end));
            let position = gossip::Position { generation, epoch, offset, is_draining: false };
            node.position = position;
            self.feed(i, Event::Position(position));
        }
        if self.plan.data_class != DataClass::Fsync {
            return;
        }
        let node = &mut self.nodes[i];
        let synced = node.data.synced;
        let mark = (node.data.tenures.epoch_before(Offset(synced)), Offset(synced));
        let disk_mark = node.disk.as_ref().map(|r| (r.generation, r.high_water));
        if disk_mark == Some((generation, mark)) && synced > node.data.durable {
            node.data.durable = synced;
            self.step_primary(i, InSyncEvent::Synced(Offset(synced)));
        } else if disk_mark.is_some_and(|(g, m)| g == generation && m < mark) {
            node.data.on_disk = synced;
            self.feed(i, Event::HighWater { epoch: mark.0, offset: mark.1 });
        }
        let node = &mut self.nodes[i];
        if node.core.is_some() && node.discard_pending.is_none() && node.data.durable == node.data.synced {
            node.data.synced = node.data.end();
        }
    }
}
