//! The loop: events in order of (time, sequence), carried out one effect at a time.

use super::data::{Client, ClientReply, DataMsg, History, TICK_US};
use super::invariants::{self, Ledger};
use super::net::Net;
use super::node::{SimNode, initial_topology};
use super::plan::Plan;
use gossip::marks::{Mark, Marks};
use gossip::rng::Rng;
use gossip::{Core, Effect, Event, Message, Packet, Peer, Start};
use proto::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Violation {
    pub at_us: u64,
    pub what: String,
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub events: u64,
    pub versions: u64,
    pub failovers: u64,
    pub crashes: u64,
    pub operations: u64,
    pub unknown: u64,
    pub gave_up: u64,
    pub moves: u64,
    pub discards: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.events += other.events;
        self.versions += other.versions;
        self.failovers += other.failovers;
        self.crashes += other.crashes;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.gave_up += other.gave_up;
        self.moves += other.moves;
        self.discards += other.discards;
    }
    pub fn data_summary(&self, runs: u64) -> String {
        let per_run = |n: u64| n as f64 / runs.max(1) as f64;
        format!(
            "; {:.0} operations ({:.1} unknown), {:.2} moves, {:.2} discards; {} histories given up",
            per_run(self.operations),
            per_run(self.unknown),
            per_run(self.moves),
            per_run(self.discards),
            self.gave_up
        )
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub violation: Option<Violation>,
    pub stats: Stats,
    pub marks: Marks,
    /// Of every event and what it did.
    pub trace_hash: u64,
    pub reproduce: String,
}

/// What a node takes up one at a time.
pub enum Input {
    Core(Event),
    Data(DataMsg),
}

pub(super) enum Happening {
    Packet {
        to: usize,
        packet: Box<Packet>,
    },
    /// To itself: dies with the process.
    Own {
        to: usize,
        life: u32,
        packet: Box<Packet>,
    },
    Timer {
        node: usize,
        life: u32,
    },
    Synced {
        node: usize,
        life: u32,
    },
    Restart {
        node: usize,
        life: u32,
    },
    Thaw {
        node: usize,
    },
    Feed {
        node: usize,
        life: u32,
        event: Event,
    },
    Data {
        to: usize,
        message: DataMsg,
    },
    DataTick {
        node: usize,
    },
    Reply {
        client: usize,
        attempt: u64,
        reply: ClientReply,
    },
    ClientGo {
        client: usize,
    },
    ClientTimeout {
        client: usize,
        attempt: u64,
    },
    Kill {
        node: usize,
        life: u32,
    },
    Urge {
        node: usize,
        stands: bool,
    },
    Fault,
    Heal,
}

pub struct World {
    pub(super) plan: Plan,
    pub(super) now: u64,
    seq: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    pub(super) nodes: Vec<SimNode>,
    pub(super) net: Net,
    pub(super) fault_rng: Rng,
    pub(super) data_rng: Rng,
    pub(super) clients: Vec<Client>,
    pub(super) history: History,
    /// Drops asked for, with the rev they compare (the atlas).
    pub(super) drops_in_flight: BTreeMap<(proto::ShardId, NodeId), proto::Epoch>,
    pub(super) is_over: bool,
    pub(super) ledger: Ledger,
    pub(super) stats: Stats,
    marks: Marks,
    pub(super) is_calm: bool,
    pub(super) next_token: u64,
    pub(super) violation: Option<Violation>,
    trace_hash: u64,
    is_traced: bool,
    /// Directed schedules: packets for which this holds (from, to, message) vanish.
    pub(super) filter: Option<fn(usize, usize, &Message) -> bool>,
    pub(super) filter_data: Option<fn(&DataMsg) -> bool>,
    /// Replies to the askers of directed schedules, by attempt.
    pub(super) replies: BTreeMap<u64, ClientReply>,
}

/// Runs a plan to its end or to the first violation.
pub fn run(plan: &Plan, is_traced: bool) -> Outcome {
    let mut world = World::new(plan, is_traced);
    world.schedule(plan.faults_from_us, Happening::Fault);
    world.schedule(plan.faults_until_us, Happening::Heal);
    world.run_until(plan.end_us);
    // Whoever is not done by now gets a little longer before it counts as stuck.
    for _ in 0..8 {
        if world.violation.is_some() || world.healed().is_ok() {
            break;
        }
        world.run_until(world.now + 500_000);
    }
    if let Err(what) = world.healed() {
        world.fail(format!("not healed: {what}"));
    }
    if plan.has_data && world.violation.is_none() {
        world.read_all();
    }
    world.finish()
}

impl World {
    pub(super) fn new(plan: &Plan, is_traced: bool) -> World {
        let initial = Arc::new(initial_topology(plan));
        let nodes = (0..plan.nodes).map(|i| SimNode::new(i, plan, &initial)).collect();
        let mut world = World {
            plan: plan.clone(),
            now: 0,
            seq: 0,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            nodes,
            net: Net::new(plan),
            fault_rng: Rng::new(plan.seed ^ 0xFA01_7000),
            data_rng: Rng::new(plan.seed ^ 0xDA7A_0000),
            clients: Vec::new(),
            history: History::default(),
            drops_in_flight: BTreeMap::new(),
            is_over: false,
            ledger: Ledger::default(),
            stats: Stats::default(),
            marks: Marks::default(),
            is_calm: false,
            next_token: 0,
            violation: None,
            trace_hash: 0xCBF2_9CE4_8422_2325,
            is_traced,
            filter: None,
            filter_data: None,
            replies: BTreeMap::new(),
        };
        (0..plan.nodes).for_each(|i| world.start(i));
        if plan.has_data {
            (0..plan.nodes).for_each(|i| world.schedule(i as u64 * 331, Happening::DataTick { node: i }));
            world.start_clients();
        }
        world
    }

    fn healed(&self) -> Result<(), String> {
        invariants::healed(&self.nodes, self.now)?;
        if self.plan.has_data { invariants::data_healed(&self.nodes) } else { Ok(()) }
    }

    /// Every key is read at its owner; then the clients' histories are judged.
    fn read_all(&mut self) {
        self.begin_last_reads();
        for _ in 0..20 {
            if self.unread() == 0 {
                break;
            }
            self.run_until(self.now + 250_000);
        }
        if self.unread() > 0 {
            self.fail(format!("{} keys cannot be read", self.unread()));
        }
        self.is_over = true;
        self.check_history();
    }

    pub(super) fn schedule(&mut self, at: u64, happening: Happening) {
        if at == u64::MAX {
            return;
        }
        self.seq += 1;
        self.heap.push(Reverse((at.max(self.now), self.seq)));
        self.happenings.insert(self.seq, happening);
    }

    pub(super) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some(Reverse((at, seq))) = self.heap.peek().copied().filter(|Reverse((at, _))| *at <= end)
            else {
                break;
            };
            self.heap.pop();
            self.now = at;
            self.stats.events += 1;
            let happening = self.happenings.remove(&seq).expect("scheduled once");
            self.happen(happening);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Packet { to, packet } => {
                self.feed(to, Event::Packet { from_ip: None, packet });
            }
            Happening::Own { to, life, packet } if self.nodes[to].life == life => {
                self.feed(to, Event::Packet { from_ip: None, packet });
            }
            Happening::Timer { node, life }
                if self.nodes[node].life == life
                    && self.nodes[node].timer_at.is_some_and(|at| at <= self.now) =>
            {
                self.nodes[node].timer_at = None;
                self.feed(node, Event::Tick);
            }
            Happening::Synced { node, life } if self.nodes[node].life == life => self.on_synced(node),
            Happening::Restart { node, life } if self.nodes[node].life == life => self.start(node),
            Happening::Thaw { node } => self.carry_on(node),
            Happening::Feed { node, life, event } if self.nodes[node].life == life => self.feed(node, event),
            Happening::Data { to, message } => self.feed_input(to, Input::Data(message)),
            Happening::DataTick { node } => {
                self.on_data_tick(node);
                self.carry_on(node);
                self.schedule(self.now + TICK_US, Happening::DataTick { node });
            }
            Happening::Reply { client, attempt, reply } => self.on_reply(client, attempt, reply),
            Happening::ClientGo { client } => self.on_client_go(client),
            Happening::ClientTimeout { client, attempt } => self.on_client_timeout(client, attempt),
            Happening::Kill { node, life } if self.nodes[node].life == life && !self.is_calm => {
                let down = self.fault_rng.between(self.plan.restart_us.0, self.plan.restart_us.1);
                self.crash_for(node, down);
            }
            Happening::Urge { node, stands } => self.urge(node, stands),
            Happening::Fault => self.on_fault(),
            Happening::Heal => self.heal(),
            _ => {}
        }
    }

    // --- nodes ---

    pub(super) fn start(&mut self, i: usize) {
        if self.nodes[i].core.is_some() {
            return;
        }
        let now = self.nodes[i].clock(self.now);
        let node = &mut self.nodes[i];
        let seed = self.plan.seed.wrapping_mul(31).wrapping_add(i as u64).wrapping_mul(31) + node.life as u64;
        if self.plan.has_data {
            let (epoch, offset) = (node.data.last_epoch(), proto::Offset(node.data.end()));
            node.position = gossip::Position { epoch, offset, ..gossip::Position::default() };
        }
        let recovered = Some((node.position.epoch, node.position.offset));
        let start = Start { record: node.disk.clone(), recovered, seed };
        let mut out = Vec::new();
        node.core = Some(Core::new(node.config.clone(), start, now, &mut out));
        node.timer_at = None;
        node.is_copy_lost = false;
        node.pending.extend(out);
        self.trace(i, "start", 0);
        self.carry_on(i);
    }

    /// Hands an event to a node, or keeps it until the node can take it.
    pub(super) fn feed(&mut self, i: usize, event: Event) {
        self.feed_input(i, Input::Core(event));
    }
    fn feed_input(&mut self, i: usize, input: Input) {
        let node = &mut self.nodes[i];
        if node.core.is_none() {
            return;
        }
        node.inbox.push_back(input);
        assert!(node.inbox.len() < 200_000, "an inbox without bound");
        self.carry_on(i);
    }

    /// Effects first, in order; then the next event.
    pub(super) fn carry_on(&mut self, i: usize) {
        loop {
            self.carry_out(i);
            if self.violation.is_some() || self.nodes[i].core.is_none() || self.nodes[i].is_busy(self.now) {
                return;
            }
            self.discard_if_due(i);
            self.sync_data(i);
            match self.nodes[i].inbox.pop_front() {
                None => break,
                Some(Input::Data(message)) => self.on_data(i, message),
                Some(Input::Core(event)) => {
                    let now = self.nodes[i].clock(self.now);
                    let mut out = Vec::new();
                    self.nodes[i].core.as_mut().expect("lives").step(now, event, &mut out);
                    self.nodes[i].pending.extend(out);
                    self.check_step(i);
                }
            }
        }
        self.set_timer(i);
    }

    fn set_timer(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let Some(core) = &node.core else { return };
        let at = node.true_time(core.next_deadline()).max(self.now + 100);
        if node.timer_at.is_none_or(|set| at < set) {
            node.timer_at = Some(at);
            let life = node.life;
            self.schedule(at, Happening::Timer { node: i, life });
        }
    }

    fn carry_out(&mut self, i: usize) {
        while self.nodes[i].syncing.is_none() && !self.nodes[i].is_frozen(self.now) {
            let Some(effect) = self.nodes[i].pending.pop_front() else { return };
            let crash_allowed = self.nodes[i].crash_after == Some(0) && self.may_crash(i);
            match &mut self.nodes[i].crash_after {
                Some(0) if crash_allowed => {
                    self.crash(i);
                    return;
                }
                Some(0) => self.nodes[i].crash_after = None,
                Some(left) => *left -= 1,
                None => {}
            }
            match effect {
                Effect::Persist(record) => self.on_persist(i, record),
                Effect::Send { to, packet } => self.on_send(i, to, packet),
                Effect::Adopted(topo) => match self.ledger.on_adopted(&topo) {
                    Ok(is_new) => self.stats.versions += u64::from(is_new),
                    Err(what) => self.fail(what),
                },
                Effect::Drain { to } => self.on_drain(i, to),
                Effect::Answer { .. } | Effect::Publish => {}
            }
        }
    }

    fn on_persist(&mut self, i: usize, record: Box<gossip::Record>) {
        if let Err(what) = invariants::disk_is_monotonic(&self.nodes[i], &record) {
            self.fail(what);
        }
        self.nodes[i].syncing = Some(record);
        let took = if self.plan.fsync_us == 0 { 0 } else { self.fault_rng.below(self.plan.fsync_us) };
        if took == 0 {
            self.write_record(i);
        } else {
            let life = self.nodes[i].life;
            self.schedule(self.now + took, Happening::Synced { node: i, life });
        }
    }
    fn on_synced(&mut self, i: usize) {
        self.write_record(i);
        self.carry_on(i);
    }
    fn write_record(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let Some(record) = node.syncing.take() else { return };
        let (lineage, ver) = record.topology.order();
        node.disk_order = (lineage, ver, record.boot);
        node.disk = Some(*record);
    }

    fn on_drain(&mut self, i: usize, to: Option<NodeId>) {
        if self.plan.has_data {
            self.begin_draining(i, to);
            return;
        }
        let Some(to) = to else { return };
        let Some(target) = self.nodes.iter().find(|n| n.id == to) else { return };
        let Some(core) = &target.core else { return };
        let event = Event::Drained { to, generation: core.generation() };
        let (at, life) = (self.now + self.fault_rng.between(100, 20_000), self.nodes[i].life);
        self.schedule(at, Happening::Feed { node: i, life, event });
    }

    fn on_send(&mut self, from: usize, to: Peer, packet: Box<Packet>) {
        let Peer::Node(id) = to else { return };
        let Some(to) = self.nodes.iter().position(|n| n.id == id) else { return };
        if to == from {
            let life = self.nodes[from].life;
            self.schedule(self.now, Happening::Own { to, life, packet });
            return;
        }
        if self.filter.is_some_and(|vanishes| vanishes(from, to, &packet.message)) {
            return;
        }
        let is_request = matches!(packet.message, Message::Ask { .. } | Message::Release { .. });
        let lateness = if is_request { 3 * self.net.late_us() } else { self.net.late_us() };
        for at in self.net.arrivals(self.now, from, to, lateness) {
            self.schedule(at, Happening::Packet { to, packet: packet.clone() });
        }
    }

    /// Power is lost: what was not synced is gone, what was being written may be either.
    pub(super) fn crash(&mut self, i: usize) {
        let is_written = self.fault_rng.chance(500);
        if self.nodes[i].syncing.is_some() && is_written {
            self.write_record(i);
        }
        let node = &mut self.nodes[i];
        let Some(core) = node.core.take() else { return };
        self.marks.add(core.marks());
        node.syncing = None;
        node.pending.clear();
        node.inbox.clear();
        (node.timer_at, node.crash_after) = (None, None);
        node.frozen_until = 0;
        node.discard_pending = None;
        let kept = match self.plan.data_class {
            gossip::DataClass::Memory => 0,
            gossip::DataClass::Fsync => self.fault_rng.between(node.data.on_disk, node.data.end()),
        };
        node.data.restart(node.id, kept);
        node.life += 1;
        self.stats.crashes += 1;
        self.trace(i, "crash", 0);
    }
    /// In the memory class a crash is the loss of a copy.
    fn may_crash(&self, i: usize) -> bool {
        !self.plan.has_data || self.plan.data_class == gossip::DataClass::Fsync || self.may_lose(i)
    }
    pub(super) fn crash_for(&mut self, i: usize, outage: u64) {
        if !self.may_crash(i) {
            return;
        }
        self.crash(i);
        let life = self.nodes[i].life;
        self.schedule(self.now + outage, Happening::Restart { node: i, life });
    }

    fn heal(&mut self) {
        self.is_calm = true;
        self.net.heal();
        for i in 0..self.nodes.len() {
            self.nodes[i].frozen_until = 0;
            self.nodes[i].crash_after = None;
            self.start(i);
            self.carry_on(i);
        }
    }

    // --- checks ---

    fn check_step(&mut self, i: usize) {
        if let Err(what) = invariants::one_server(&self.nodes, i, self.now) {
            self.fail(what);
        }
        let core = self.nodes[i].core.as_ref().expect("just stepped");
        let (lineage, ver) = core.topology().order();
        let lease = core.lease_until().map_or(0, |l| l.0);
        let tenure = core.tenure().map_or(0, |t| t.1.0);
        let digest = [lineage, ver.0, lease, tenure, core.ballot().round, self.nodes[i].pending.len() as u64];
        let sum = digest.iter().fold(0u64, |sum, d| sum.rotate_left(7) ^ d);
        self.trace(i, "step", sum);
    }

    pub(super) fn trace(&mut self, i: usize, what: &str, sum: u64) {
        for word in [self.now, i as u64, sum] {
            self.trace_hash = (self.trace_hash ^ word).wrapping_mul(0x100_0000_01B3);
        }
        if self.is_traced {
            let core = self.nodes[i].core.as_ref();
            let state = core.map(|c| {
                let order = c.topology().order();
                let now = self.nodes[i].clock(self.now).mono;
                (order, c.boot().0, c.is_leader(), c.tenure().map(|t| t.1.0), c.is_lease_valid(now))
            });
            println!("{:>10} n{i} {what} (order, boot, leads, tenure, lease) {state:?}", self.now);
        }
    }
    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:>10} {}", self.now, text());
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.note(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(Violation { at_us: self.now, what });
    }

    pub(super) fn finish(mut self) -> Outcome {
        for node in &self.nodes {
            if let Some(core) = &node.core {
                self.marks.add(core.marks());
            }
        }
        self.stats.failovers =
            u64::from(self.marks.count(Mark::Failover) + self.marks.count(Mark::PlannedFailover));
        Outcome {
            violation: self.violation,
            stats: self.stats,
            marks: self.marks,
            trace_hash: self.trace_hash,
            reproduce: self.plan.reproduce(),
        }
    }
}
