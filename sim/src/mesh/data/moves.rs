//! Slot moves: the source numbers items and sends them, the target applies them through its own stream.

use super::super::world::World;
use super::*;
use gossip::{Command, Request};
use migration::source::{Effect, Event, Source};
use migration::target::Target;

pub struct SourceRun {
    pub core: Source,
    pub slots: Vec<Slot>,
    items: Vec<Item>,
    to: ShardId,
    /// When the target was last heard of, or the attempt began; true time, in µs.
    heard: u64,
}

pub struct TargetRun {
    pub core: Target,
}

/// Items that the target may be behind when the pause begins: few, so that most of a run is not paused.
const BEHIND_MAX: u64 = 64;
/// A target that is silent for so long has failed, as with the time-out of a real link.
const SILENCE_US: u64 = 150_000;
/// Items of one message; the slow profile sends fewer.
const BATCH: usize = 16;

impl World {
    /// S8: moves live in the topology; whoever serves `from` drives them.
    pub(super) fn sync_moves(&mut self, i: usize, topo: &Topology) {
        let Some((shard, _)) = self.nodes[i].data.tenure else { return };
        let epoch = |id: ShardId| topo.shard(id).map_or(Epoch(0), |s| s.epoch);
        let gone: Vec<u64> =
            self.nodes[i].data.sources.keys().copied().filter(|id| topo.find_move(*id).is_none()).collect();
        for id in gone {
            let run = &self.nodes[i].data.sources[&id];
            let is_moved = run.slots.iter().all(|s| topo.owner(*s) == Some(run.to));
            self.step_source(i, id, Event::Gone { is_moved });
            self.nodes[i].data.sources.remove(&id);
            self.stats.moves += u64::from(is_moved);
        }
        self.nodes[i].data.targets.retain(|id, _| topo.find_move(*id).is_some());
        self.nodes[i].data.arrivals.retain(|id| topo.find_move(id).is_some());
        for mv in topo.moves.iter().filter(|m| m.from == shard) {
            let (epoch_from, epoch_to) = (epoch(mv.from), epoch(mv.to));
            if self.nodes[i].data.sources.contains_key(&mv.id) {
                self.step_source(i, mv.id, Event::Listed { epoch_from, epoch_to });
                continue;
            }
            let now = self.nodes[i].clock(self.now);
            let tag = Tag { id: mv.id, epoch_from, epoch_to, attempt: 0 };
            let mut out = Vec::new();
            let core = Source::new(tag, BEHIND_MAX, self.plan.mutant.migration(), now, &mut out);
            let slots: Vec<Slot> = all_slots().filter(|s| mv.slots.iter().any(|r| r.contains(*s))).collect();
            let run = SourceRun { core, slots, items: Vec::new(), to: mv.to, heard: self.now };
            self.nodes[i].data.sources.insert(mv.id, run);
            self.obey_source(i, mv.id, out);
        }
    }

    fn step_source(&mut self, i: usize, id: u64, event: Event) {
        let now = self.nodes[i].clock(self.now);
        let Some(run) = self.nodes[i].data.sources.get_mut(&id) else { return };
        let mut out = Vec::new();
        run.core.step(now, event, &mut out);
        self.obey_source(i, id, out);
    }

    fn obey_source(&mut self, i: usize, id: u64, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Begin(_) => self.begin_items(i, id),
                // One event at a time here: nothing is under way when the pause begins.
                Effect::Pause => {
                    let items = self.nodes[i].data.sources[&id].items.len() as u64;
                    self.step_source(i, id, Event::Paused { items });
                }
                Effect::AskCommit(tag) => {
                    let Tag { id, epoch_from, epoch_to, .. } = tag;
                    self.command_later(i, Command::Decide(Request::MoveCommit { id, epoch_from, epoch_to }));
                }
                Effect::AskCancel(id, _) => {
                    self.command_later(i, Command::Decide(Request::MoveCancel { id }))
                }
                // `is_stopped` is asked at every request; purging follows the topology.
                Effect::Resume | Effect::Moved | Effect::Cancelled => {}
            }
        }
    }

    fn begin_items(&mut self, i: usize, id: u64) {
        let data = &mut self.nodes[i].data;
        let run = data.sources.get_mut(&id).expect("just made");
        run.heard = self.now;
        run.items = vec![Item::Begin(run.slots.clone())];
        let held = data.map.iter().filter(|(k, _)| run.slots.contains(&slot_of(**k)));
        run.items.extend(held.filter_map(|(k, (v, _))| v.map(|v| Item::Set(*k, v))));
        let items = run.items.len() as u64;
        self.step_source(i, id, Event::Copied { items });
    }

    /// A write to slots on the move is an item too.
    pub(super) fn note_write(&mut self, i: usize, key: Key, value: Value) {
        let slot = slot_of(key);
        let touched: Vec<u64> = self.nodes[i]
            .data
            .sources
            .iter()
            .filter(|(_, r)| r.slots.contains(&slot))
            .map(|(id, _)| *id)
            .collect();
        for id in touched {
            let run = self.nodes[i].data.sources.get_mut(&id).expect("just found");
            run.items.push(Item::Set(key, value));
            let items = run.items.len() as u64;
            self.step_source(i, id, Event::Written { items, unnumbered: 0 });
        }
    }

    pub(super) fn tick_moves(&mut self, i: usize) {
        let ids: Vec<u64> = self.nodes[i].data.sources.keys().copied().collect();
        for id in ids {
            let run = &self.nodes[i].data.sources[&id];
            let is_owed = run.core.safe() < run.items.len() as u64;
            if is_owed && self.now >= run.heard + SILENCE_US {
                self.step_source(i, id, Event::Failed);
            }
            self.step_source(i, id, Event::Tick);
            self.send_items(i, id);
        }
    }

    fn send_items(&mut self, i: usize, id: u64) {
        let most = BATCH.min(self.plan.catch_up);
        let node = &self.nodes[i];
        let Some(core) = node.core.as_ref() else { return };
        let Some(run) = node.data.sources.get(&id) else { return };
        let Some(to) = core.topology().shard(run.to).map(|s| s.primary.node) else { return };
        let first = run.core.applied();
        let items: Vec<Item> = run.items.iter().skip(first as usize).take(most).cloned().collect();
        let message = DataMsg::Feed { from: node.id, tag: run.core.tag(), first, items };
        self.send_data(i, to, message);
    }

    pub(super) fn on_feed(&mut self, i: usize, from: NodeId, tag: Tag, first: u64, items: Vec<Item>) {
        let node = &self.nodes[i];
        let Some(core) = node.core.as_ref() else { return };
        let topo = core.topology().clone();
        let Some((shard, epoch)) = node.data.tenure else { return };
        // S6: of this attempt, between these two tenures, as our own topology lists it.
        let is_ours = topo.find_move(tag.id).is_some_and(|m| {
            m.to == shard
                && tag.epoch_to == epoch
                && topo.shard(m.from).is_some_and(|s| s.epoch == tag.epoch_from && s.primary.node == from)
        });
        if !is_ours {
            return;
        }
        if !self.nodes[i].data.arrivals.admit(tag) {
            return;
        }
        let mutation = self.plan.mutant.migration();
        let run = self.nodes[i].data.targets.get(&tag.id);
        if run.is_none_or(|r| r.core.tag() != tag) {
            self.nodes[i].data.targets.insert(tag.id, TargetRun { core: Target::new(tag, mutation) });
        }
        let Some(skip) = self.nodes[i].data.targets[&tag.id].core.skip(tag, first) else { return };
        for item in items.into_iter().skip(skip) {
            let record = match item {
                Item::Begin(slots) => Record::Purge(slots),
                Item::Set(key, value) => Record::Set(key, value),
            };
            let end = self.append(i, record);
            let acknowledged = Offset(self.nodes[i].data.acknowledged);
            if let Some(run) = self.nodes[i].data.targets.get_mut(&tag.id) {
                run.core.on_applied(Offset(end));
                run.core.on_acknowledged(acknowledged);
            }
        }
        if let Some(run) = self.nodes[i].data.targets.get(&tag.id) {
            let (applied, safe) = run.core.progress();
            self.send_data(i, from, DataMsg::FeedAck { tag, applied, safe });
        }
    }

    pub(super) fn on_feed_ack(&mut self, i: usize, tag: Tag, applied: u64, safe: u64) {
        let now = self.now;
        if let Some(run) = self.nodes[i].data.sources.get_mut(&tag.id).filter(|r| r.core.tag() == tag) {
            run.heard = now;
        }
        self.step_source(i, tag.id, Event::Ack { tag, applied, safe });
        let has_more =
            self.nodes[i].data.sources.get(&tag.id).is_some_and(|r| r.core.applied() < r.items.len() as u64);
        if has_more {
            self.send_items(i, tag.id);
        }
    }
}
