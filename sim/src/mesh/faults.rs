//! What goes wrong, and what is asked of the cluster meanwhile. Aimed at primaries and leaders more often than not.

use super::plan::Fault;
use super::world::{Happening, World};
use gossip::{Command, Event, FailoverMode, Request};
use proto::NodeId;

impl World {
    pub(super) fn on_fault(&mut self) {
        if self.is_calm {
            return;
        }
        let gap = self.plan.fault_gap_us;
        let next = self.now + self.fault_rng.between(gap.0, gap.1);
        self.schedule(next, Happening::Fault);
        let kind = self.plan.faults[self.fault_rng.below(self.plan.faults.len() as u64) as usize];
        let target = self.aim();
        self.note(|| format!("FAULT {kind:?} at n{target}"));
        self.strike(kind, target);
    }

    /// A primary, a leader, or anybody.
    fn aim(&mut self) -> usize {
        let any = self.fault_rng.below(self.nodes.len() as u64) as usize;
        let wanted = self.fault_rng.below(10);
        let lease_valid = |w: &World, i: usize| w.nodes[i].is_lease_valid(w.now);
        let leads = |w: &World, i: usize| w.nodes[i].core.as_ref().is_some_and(|c| c.is_leader());
        let start = self.fault_rng.below(self.nodes.len() as u64) as usize;
        let order = (0..self.nodes.len()).map(|i| (i + start) % self.nodes.len());
        match wanted {
            0..=3 => order.clone().find(|i| lease_valid(self, *i)).unwrap_or(any),
            4..=5 => order.clone().find(|i| leads(self, *i)).unwrap_or(any),
            _ => any,
        }
    }

    fn outage(&mut self) -> u64 {
        let (low, high) = self.plan.outage_us;
        self.fault_rng.between(low, high)
    }
    fn downtime(&mut self) -> u64 {
        let (low, high) = self.plan.restart_us;
        self.fault_rng.between(low, high)
    }

    fn strike(&mut self, kind: Fault, target: usize) {
        let count = self.nodes.len();
        let other = (target + 1 + self.fault_rng.below(count as u64 - 1) as usize) % count;
        let until = self.now + self.outage();
        let down = self.downtime();
        match kind {
            Fault::Crash => self.crash_for(target, down),
            Fault::CrashMidStep => {
                let effects = self.fault_rng.below(12) as u32;
                self.nodes[target].crash_after = Some(effects);
                // Whoever dies in the middle of a list is brought back with everybody who is down.
                self.schedule_revival(down + 20_000);
            }
            Fault::CrashTwo => {
                let down_too = self.downtime();
                self.crash_for(target, down);
                self.crash_for(other, down_too);
            }
            Fault::CrashAll => {
                for i in 0..count {
                    let down = self.downtime();
                    self.crash_for(i, down);
                }
            }
            Fault::Freeze => self.freeze(target, until),
            Fault::CutPair => {
                self.net.cut(target, other, until);
                self.net.cut(other, target, until);
            }
            Fault::CutOneWay => self.cut_one_way(target, until),
            Fault::Isolate => {
                for i in 0..count {
                    self.net.cut(i, target, until);
                    self.net.cut(target, i, until);
                }
            }
            Fault::Split => self.split(until),
            Fault::HideFromLeader => self.hide_from_leader(target, until),
            Fault::LoseStore => self.lose_store(target, down),
            Fault::Duel => {
                // Both want to decide something, so that their proposals meet.
                for node in [target, other] {
                    let value = Some(format!("{}-{node}", self.now));
                    self.command(node, Command::Decide(Request::Setting { name: "duel".into(), value }));
                    self.feed(node, Event::Stand);
                }
                let at = self.now + self.fault_rng.between(1_000, 200_000);
                self.schedule(at, Happening::Urge { node: other, stands: true });
            }
            Fault::VoterSwap => self.swap_voters(target),
            Fault::HandOver => self.hand_over(other),
            Fault::Impatient => self.impatient_hand_over(target),
            Fault::AimedRestart => self.aimed(target, true),
            Fault::AimedSwap => self.aimed(target, false),
            Fault::Move => self.move_slots(other),
            Fault::Shorten => self.shorten(target, down),
        }
    }

    /// What a lease must outlive: its holder is cut off, and everybody who promised it is gone or restarted.
    fn aimed(&mut self, holder: usize, restarts: bool) {
        let until = self.now + 400_000;
        let count = self.nodes.len();
        let others: Vec<usize> = (0..count).filter(|i| *i != holder).collect();
        for i in &others {
            self.net.cut(*i, holder, until);
            self.net.cut(holder, *i, until);
        }
        if restarts {
            for i in &others {
                let down = self.fault_rng.between(1_000, 10_000);
                self.crash_for(*i, down);
            }
        } else {
            self.swap_voters(others[0]);
        }
        for _ in 0..8 {
            let at = self.now + self.fault_rng.between(20_000, 250_000);
            let node = others[self.fault_rng.below(others.len() as u64) as usize];
            let stands = self.fault_rng.chance(400);
            self.schedule(at, Happening::Urge { node, stands });
        }
    }

    /// Urges a node to stand, or to ask for somebody's replacement.
    pub(super) fn urge(&mut self, node: usize, stands: bool) {
        if self.is_calm {
        } else if stands {
            self.feed(node, Event::Stand);
        } else {
            self.impatient_hand_over(node);
        }
    }

    fn schedule_revival(&mut self, after: u64) {
        for i in 0..self.nodes.len() {
            let life = self.nodes[i].life + 1;
            self.schedule(self.now + after, Happening::Restart { node: i, life });
        }
    }

    pub(super) fn freeze(&mut self, target: usize, until: u64) {
        self.nodes[target].frozen_until = until;
        self.schedule(until, Happening::Thaw { node: target });
    }

    fn cut_one_way(&mut self, target: usize, until: u64) {
        let is_deaf = self.fault_rng.chance(500);
        for i in 0..self.nodes.len() {
            if is_deaf {
                self.net.cut(i, target, until);
            } else {
                self.net.cut(target, i, until);
            }
        }
    }

    fn split(&mut self, until: u64) {
        let side: Vec<bool> = (0..self.nodes.len()).map(|_| self.fault_rng.chance(500)).collect();
        for a in 0..side.len() {
            for b in 0..side.len() {
                if side[a] != side[b] {
                    self.net.cut(a, b, until);
                }
            }
        }
    }

    fn hide_from_leader(&mut self, target: usize, until: u64) {
        let leader = self.nodes.iter().position(|n| n.core.as_ref().is_some_and(|c| c.is_leader()));
        if let Some(leader) = leader {
            self.net.cut(target, leader, until);
            self.net.cut(leader, target, until);
        }
    }

    /// Once a run, and never where a configuration under way rests on fewer than three voters.
    fn lose_store(&mut self, target: usize, down: u64) {
        let is_last = self.plan.has_data && !self.may_lose(target);
        if is_last || self.nodes.iter().any(|n| n.stores_lost > 0) {
            return;
        }
        self.crash_for(target, down);
        let node = &mut self.nodes[target];
        node.stores_lost = 1;
        node.disk = None;
        node.disk_order = Default::default();
        node.config.store = Some(proto::StoreId(1000 + target as u64));
        node.position = Default::default();
        node.data = super::data::DataNode::new(node.id);
    }

    /// A disk that lied: the log ends before what was said to be durable.
    fn shorten(&mut self, target: usize, down: u64) {
        let is_fsync = self.plan.data_class == gossip::DataClass::Fsync;
        if !is_fsync || !self.may_lose(target) || self.nodes[target].core.is_none() {
            return;
        }
        self.crash_for(target, down);
        let node = &mut self.nodes[target];
        let end = node.data.end();
        node.is_copy_lost = true;
        node.data.restart(node.id, end - self.fault_rng.between(1, 20).min(end));
    }

    fn move_slots(&mut self, at: usize) {
        let Some(core) = &self.nodes[at].core else { return };
        let topo = core.topology().clone();
        if topo.shards.len() < 2 {
            return;
        }
        let slots: Vec<proto::Slot> = super::data::all_slots().collect();
        let first = slots[self.fault_rng.below(slots.len() as u64) as usize];
        let Some(from) = topo.owner(first) else { return };
        let to = topo.shards.iter().map(|s| s.id).find(|s| *s != from).expect("two shards");
        let also = slots.iter().copied().find(|s| *s != first && topo.owner(*s) == Some(from));
        let mut moved = vec![first];
        moved.extend(also.filter(|_| self.fault_rng.chance(400)));
        moved.sort();
        self.next_token += 1;
        let slots = proto::SlotRange::compact(moved);
        let id = self.next_token;
        self.command(at, Command::Decide(Request::MoveStart { id, slots, from, to }));
    }

    /// Three or five of the members, often with hardly any of the present ones.
    fn swap_voters(&mut self, at: usize) {
        let count = self.nodes.len();
        let mut order: Vec<usize> = (0..count).collect();
        self.fault_rng.shuffle(&mut order);
        let size = if count >= 5 && self.fault_rng.chance(400) { 5 } else { 3 };
        let nodes: Vec<NodeId> = order[..size].iter().map(|i| self.nodes[*i].id).collect();
        self.command(at, Command::Decide(Request::Voters { nodes }));
    }

    fn hand_over(&mut self, at: usize) {
        self.command(at, Command::Failover(FailoverMode::Default));
    }

    /// A request to replace a primary that has released nothing: only the voters stand in its way (W2).
    pub(super) fn impatient_hand_over(&mut self, at: usize) {
        let Some(core) = &self.nodes[at].core else { return };
        let topo = core.topology().clone();
        let shard = &topo.shards[self.fault_rng.below(topo.shards.len() as u64) as usize];
        let to = shard.members[self.fault_rng.below(shard.members.len() as u64) as usize];
        let generation = self
            .nodes
            .iter()
            .find(|n| n.id == to)
            .and_then(|n| n.core.as_ref())
            .map(|c| c.generation())
            .unwrap_or_default();
        let request = Request::HandOver { shard: shard.id, epoch: shard.epoch, to, generation };
        self.command(at, Command::Decide(request));
    }

    /// As [`World::command`], for code that runs inside a node's turn.
    pub(super) fn command_later(&mut self, at: usize, command: Command) {
        if let Command::Decide(Request::Drop { shard, rev, node, .. }) = &command {
            self.drops_in_flight.insert((*shard, *node), *rev);
        }
        self.next_token += 1;
        let token = self.next_token;
        self.nodes[at].inbox.push_back(super::world::Input::Core(Event::Command { token, command }));
    }

    pub(super) fn command(&mut self, at: usize, command: Command) {
        self.next_token += 1;
        let token = self.next_token;
        self.note(|| format!("COMMAND at n{at}: {command:?}"));
        self.feed(at, Event::Command { token, command });
    }
}
