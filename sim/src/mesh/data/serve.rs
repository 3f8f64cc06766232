//! What a node does with a client's request, and the gate that its reply passes.

use super::super::plan::Mutant;
use super::super::world::{Happening, World};
use super::*;
use gossip::Event;

impl World {
    pub(in super::super) fn on_data(&mut self, i: usize, message: DataMsg) {
        match message {
            message @ DataMsg::Ack { .. } => self.on_replica_ack(i, message),
            DataMsg::Append { from, shard, tenure, generation, first, entries, acknowledged } => {
                self.on_append(i, (from, shard, tenure), generation, first, entries, acknowledged);
            }
            DataMsg::Diverged { shard, tenure, generation } => {
                self.on_told_diverged(i, shard, tenure, generation)
            }
            DataMsg::Feed { from, tag, first, items } => self.on_feed(i, from, tag, first, items),
            DataMsg::FeedAck { tag, applied, safe } => self.on_feed_ack(i, tag, applied, safe),
            DataMsg::Client { client, attempt, key, write } => self.on_client(i, client, attempt, key, write),
        }
    }

    /// A look at links, disk and waiters, every [`TICK_US`].
    pub(in super::super) fn on_data_tick(&mut self, i: usize) {
        if self.nodes[i].core.is_none() || self.nodes[i].is_busy(self.now) {
            return;
        }
        self.sync_log(i);
        if self.nodes[i].core.is_none() || self.nodes[i].is_busy(self.now) {
            return;
        }
        self.show_position(i);
        self.step_primary(i, replication::insync::Event::Tick);
        self.tick_moves(i);
        self.tick_draining(i);
        self.flush(i);
    }

    /// W1: named by its own topology, with a lease now; and the slot is its own and not stopped.
    fn serves(&self, i: usize, slot: Slot) -> bool {
        let node = &self.nodes[i];
        let Some(core) = node.core.as_ref() else { return false };
        let Some((shard, _)) = node.data.tenure.filter(|t| core.tenure() == Some(*t)) else { return false };
        let is_stopped = node.data.sources.values().any(|s| s.core.is_stopped() && s.slots.contains(&slot));
        node.is_lease_valid(self.now) && core.topology().owner(slot) == Some(shard) && !is_stopped
    }

    fn on_client(&mut self, i: usize, client: usize, attempt: u64, key: Key, write: Option<Value>) {
        let slot = slot_of(key);
        let is_paused = write.is_some() && self.nodes[i].data.draining.is_some();
        if !self.serves(i, slot) || is_paused {
            self.reply(client, attempt, ClientReply::Refused);
            return;
        }
        if let Err(what) = self.one_server_of(i, slot) {
            self.fail(what);
            return;
        }
        let not_before = if self.data_rng.chance(200) { self.now + TICK_US } else { self.now };
        let (offset, reply) = match write {
            Some(value) => {
                let offset = self.append(i, Record::Set(key, value));
                self.note_write(i, key, value);
                (offset, ClientReply::Written)
            }
            None => {
                let (value, written) = self.nodes[i].data.map.get(&key).copied().unwrap_or((None, 0));
                // D14: what may still vanish is not shown.
                let offset = if self.plan.mutant == Mutant::D14 { 0 } else { written };
                (offset, ClientReply::Value(value))
            }
        };
        self.nodes[i].data.waiting.push(Waiting { client, attempt, offset, reply, not_before });
        self.flush(i);
    }

    /// S1..S3: at no moment of true time two nodes may serve one slot.
    fn one_server_of(&self, i: usize, slot: Slot) -> Result<(), String> {
        match (0..self.nodes.len()).find(|o| *o != i && self.serves(*o, slot)) {
            Some(other) => Err(format!("slot {slot} is served by {i} and {other}")),
            None => Ok(()),
        }
    }

    /// The gate: replies whose offset is acknowledged leave, if the lease still holds now, after the data was read
    /// (W12).
    pub(super) fn flush(&mut self, i: usize) {
        let is_valid = self.nodes[i].is_lease_valid(self.now);
        let data = &mut self.nodes[i].data;
        let Some(primary) = data.primary.as_ref() else { return };
        let now = self.now;
        let (ready, waiting) = std::mem::take(&mut data.waiting)
            .into_iter()
            .partition(|w| w.not_before <= now && !primary.is_dirty(Offset(w.offset)));
        data.waiting = waiting;
        let ready: Vec<Waiting> = ready;
        for wait in ready {
            match wait.reply {
                _ if is_valid => self.reply(wait.client, wait.attempt, wait.reply),
                ClientReply::Value(_) => self.reply(wait.client, wait.attempt, ClientReply::Refused),
                // Written and perhaps kept: no answer is the only honest one.
                _ => {}
            }
        }
    }

    pub(super) fn reply(&mut self, client: usize, attempt: u64, reply: ClientReply) {
        let at = self.now + self.data_rng.between(100, 1500);
        self.schedule(at, Happening::Reply { client, attempt, reply });
    }

    pub(super) fn send_data(&mut self, from: usize, to: NodeId, message: DataMsg) {
        let Some(to) = self.nodes.iter().position(|n| n.id == to) else { return };
        if self.filter_data.is_some_and(|vanishes| vanishes(&message)) {
            return;
        }
        for at in self.net.arrivals(self.now, from, to, self.net.late_us()) {
            self.schedule(at, Happening::Data { to, message: message.clone() });
        }
    }

    // --- hand-over ---

    pub(in super::super) fn begin_draining(&mut self, i: usize, to: Option<NodeId>) {
        let deadline = self.nodes[i].clock(self.now).mono + std::time::Duration::from_millis(300);
        self.nodes[i].data.draining = Some((to, deadline));
    }

    fn tick_draining(&mut self, i: usize) {
        let now = self.nodes[i].clock(self.now).mono;
        let data = &mut self.nodes[i].data;
        let Some((to, deadline)) = data.draining else { return };
        let end = data.end();
        let caught_up = data.matched.iter().find(|(n, (_, m))| to.is_none_or(|t| t == **n) && *m == end);
        if let Some((node, (generation, _))) = caught_up {
            let (to, generation) = (*node, *generation);
            data.draining = None;
            self.feed(i, Event::Drained { to, generation });
        } else if now >= deadline {
            data.draining = None;
            self.feed(i, Event::DrainFailed);
        }
    }
}
