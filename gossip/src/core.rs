//! The control plane of one node: what the driver feeds with events and whose effects it carries out in order.
//!
//! Invariant: `step` reads no clock and keeps no promise that is not in its effects before it is relied upon.

use crate::admin::{Command, Meets, Submissions};
use crate::config::{Config, DataClass, Mutation, Times};
use crate::effect::{Effect, Event, Peer};
use crate::marks::Marks;
use crate::membership::{Mail, Membership};
use crate::promises::Promises;
use crate::quorum::{Draining, Role, Spread, Tenure, Vote};
use crate::record::Record;
use crate::rng::Rng;
use crate::topology::{Address, Ballot, ClusterId, Member, Primary, Topology};
use crate::wire::v2::Position;
use crate::wire::{Message, Packet};
use proto::{Boot, Epoch, Generation, Mono, NodeId, Now, Offset, ShardId, SlotRange, StoreId};
use std::sync::Arc;

/// See the module's head. One per node; not shared.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) times: Times,
    pub(crate) rng: Rng,
    pub(crate) marks: Marks,
    /// What a restart would find once all effects so far are carried out.
    pub(crate) record: Record,
    /// Of `record.topology`.
    pub(crate) hash: u64,
    pub(crate) spread: Spread,
    pub(crate) promises: Promises,
    pub(crate) vote: Vote,
    pub(crate) role: Role,
    pub(crate) election_at: Mono,
    pub(crate) round_seen: u64,
    pub(crate) tenure: Option<Tenure>,
    pub(crate) draining: Option<Draining>,
    pub(crate) membership: Membership,
    pub(crate) submissions: Submissions,
    pub(crate) meets: Meets,
    pub(crate) position: Position,
    pub(crate) address: Address,
    pub(crate) stopped: Vec<SlotRange>,
    pub(crate) next_self_check: Mono,
}

/// What a node knows when it starts.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// From the store; `None` for a node that has none yet.
    pub record: Option<Record>,
    /// How far the recovered log reaches; `None` when nothing was recovered.
    pub recovered: Option<(Epoch, Offset)>,
    /// Entropy, drawn by the caller.
    pub seed: u64,
}

impl Core {
    /// Panics when the configured times break W13.
    pub fn new(config: Config, start: Start, now: Now, out: &mut Vec<Effect>) -> Core {
        let mut rng = Rng::new(start.seed);
        let times = Times::of(&config);
        let is_restart = start.record.is_some();
        let record = match start.record {
            Some(old) => reopened(old, &config, start.recovered),
            None => first_record(&config, &mut rng),
        };
        let (epoch, offset) = start.recovered.unwrap_or_default();
        let position = Position { generation: record.generation, epoch, offset, is_draining: false };
        // A later life begins with a higher incarnation than any earlier one can have reached.
        let membership = Membership::new(record.node, now.mono, record.boot.0 << 32);
        let mut core = Core {
            hash: record.topology.hash(),
            spread: Spread::default(),
            promises: Promises::default(),
            vote: Vote::default(),
            role: Role::Follower,
            election_at: now.mono,
            round_seen: record.promised.round,
            tenure: None,
            draining: None,
            membership,
            submissions: Submissions::new(record.boot),
            meets: Meets::default(),
            position,
            address: config.address.clone(),
            stopped: Vec::new(),
            next_self_check: now.mono,
            marks: Marks::default(),
            record,
            config,
            times,
            rng,
        };
        core.begin(is_restart, now, out);
        core
    }

    fn begin(&mut self, is_restart: bool, now: Now, out: &mut Vec<Effect>) {
        // The boot is durable before anything is said.
        self.persist(out);
        let topo = self.record.topology.clone();
        self.membership.follow(&topo, now.mono);
        self.promises.hear(self.record.node, self.record.store, self.record.boot);
        if (is_restart || self.config.initial.is_some()) && self.config.mutation != Some(Mutation::W3) {
            // W3: what this voter promised before its restart is not remembered, so everybody counts as promised.
            self.promises.blanket(now.mono + self.times.wait);
        }
        self.restart_election_timer(now);
        if self.is_only_voter() {
            self.election_at = now.mono;
        }
        self.vote.mask_dirty = true;
        out.push(Effect::Adopted(topo.clone()));
        self.take_up_tenure(now, out);
        self.say_hello(out);
    }

    /// Voters learn the new boot at once, so that they need not wait for the old one's lease (W10).
    fn say_hello(&mut self, out: &mut Vec<Effect>) {
        for voter in self.record.topology.voters.clone() {
            if voter.node != self.record.node {
                let news =
                    crate::wire::v2::News { incarnation: self.record.boot.0 << 32, ..Default::default() };
                self.send(voter.node, Message::Ping { seq: 0, news }, out);
            }
        }
    }

    pub fn step(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Packet { from_ip, packet } => self.on_packet(now, from_ip, *packet, out),
            Event::Command { token, command } => self.on_command(now, token, command, out),
            Event::Position(position) => {
                self.position = Position { generation: self.record.generation, ..position };
                self.membership.offset = position.offset.0;
            }
            Event::GenerationEnded => self.end_generation(out),
            Event::HighWater { epoch, offset } => self.on_high_water(epoch, offset, out),
            Event::Drained { to, generation } => self.on_drained(now, to, generation, out),
            Event::DrainFailed => self.on_drain_failed(out),
            Event::Stand => self.stand(now, out),
        }
        self.tick(now, out);
        self.assert_invariants();
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.tick_tenure(now, out);
        self.tick_vote(now, out);
        self.tick_role(now, out);
        self.tick_submissions(now, out);
        self.tick_meets(now, out);
        self.tick_self_check(now, out);
        let mut mail = Mail::new();
        self.membership.tick(now, &self.times, &mut self.rng, &mut mail);
        self.post(mail, out);
        if self.membership.take_changed() {
            out.push(Effect::Publish);
        }
    }

    /// When [`Event::Tick`] is due at the latest; it may lie in the past.
    pub fn next_deadline(&self) -> Mono {
        let mut due = self.membership.next_deadline(&self.times).min(self.next_self_check);
        due = due.min(self.vote_deadline()).min(self.role_deadline());
        due = due.min(self.submissions.next_deadline()).min(self.meets.next_deadline());
        if let Some(tenure) = &self.tenure {
            due = due.min(tenure.next_request);
        }
        due
    }

    fn on_packet(&mut self, now: Now, from_ip: Option<String>, packet: Packet, out: &mut Vec<Effect>) {
        let is_own = packet.from == self.record.node;
        if is_own && (packet.boot, packet.store) != (self.record.boot, self.record.store) {
            return;
        }
        if packet.cluster != self.record.cluster() {
            self.on_stranger(now, from_ip, packet, out);
            return;
        }
        let is_member = self.record.topology.member(packet.from).is_some();
        if is_member {
            if self.promises.hear(packet.from, packet.store, packet.boot) {
                self.vote.mask_dirty = true;
            }
            self.membership.on_heard(packet.from, now.mono);
        }
        let theirs = (packet.lineage, packet.ver);
        self.spread.heard(packet.from, theirs);
        let is_topology = matches!(
            packet.message,
            Message::Decided { .. } | Message::DecidedFull { .. } | Message::NeedTopo { .. }
        );
        if is_topology || is_member {
            self.dispatch(now, from_ip, packet.clone(), out);
        }
        self.exchange_versions(now, packet.from, theirs, out);
    }

    fn dispatch(&mut self, now: Now, from_ip: Option<String>, packet: Packet, out: &mut Vec<Effect>) {
        use Message::*;
        let Packet { from, boot, store, ver, lineage, .. } = packet;
        // What belongs to an instance is judged at the same version only (A5).
        let is_same = (lineage, ver) == self.record.topology.order();
        let voter = crate::topology::Voter { node: from, store };
        let process = Primary { node: from, boot, store };
        let mut mail = Mail::new();
        match packet.message {
            Prepare { ballot } if is_same => self.on_prepare(now, voter, ballot, out),
            Promise { ballot, accepted } if is_same => self.on_promise(now, voter, ballot, accepted, out),
            Nack { promised } => self.on_nack(now, promised),
            Accept { ballot, value } if is_same => self.on_accept(now, from, ballot, value, out),
            Accepted { ballot } if is_same => self.on_accepted(now, voter, ballot, out),
            AcceptWait { ballot, remaining_us } if is_same => {
                self.on_accept_wait(now, voter, ballot, remaining_us)
            }
            Decided { chain } if lineage == self.record.topology.lineage => {
                self.on_decided(now, from, chain, out)
            }
            DecidedFull { topology } => self.on_decided_full(now, *topology, out),
            NeedTopo { ver, hash } => self.on_need_topo(now, from, ver, hash, out),
            LeadHb { ballot } => self.on_lead_hb(now, from, ballot, out),
            LeadAck { ballot, free, dangling } => {
                self.on_lead_ack(now, voter, ballot, is_same.then_some(free), dangling)
            }
            LeaseReq { tenure, sent } => self.on_lease_req(now, process, tenure, sent, out),
            LeaseAck { boot, tenure, sent, cfg } => self.on_lease_ack(now, voter, (boot, tenure, sent, cfg)),
            Release { boot, tenure } if boot == process.boot => self.on_release(process, tenure),
            PositionAsk { shard } => self.on_position_ask(from, shard, out),
            PositionIs { shard, position } => self.on_position(now, process, shard, position),
            Ask { id, is_retry, request } => self.on_ask(now, process, id, is_retry, *request, out),
            Answer { id, result } => self.on_answer(now, id, result, out),
            NotLeader { id, leader } => self.on_not_leader(now, id, leader),
            HandOver { shard, tenure } => self.on_hand_over(now, from, shard, tenure, out),
            HandOverRefused { shard, reason } => self.on_hand_over_refused(shard, reason, out),
            StepAside { tenure } => self.on_step_aside(tenure, out),
            Ping { seq, news } => self.membership.on_ping(from, seq, &news, now, &mut mail),
            Pong { seq, news } => self.membership.on_pong(from, seq, &news, now, &mut mail),
            PingReq { seq, target, news } => {
                self.membership.on_ping_req(from, seq, target, &news, now.mono, &mut mail)
            }
            message @ (Hello { .. } | HelloAck { .. } | Invite { .. } | JoinAsk { .. }) => {
                self.on_meet_message(now, from_ip, from, message, out)
            }
            _ => {}
        }
        self.post(mail, out);
    }

    // --- what all parts use ---

    pub(crate) fn packet(&self, message: Message) -> Box<Packet> {
        let (lineage, ver) = self.record.topology.order();
        Box::new(Packet {
            cluster: self.record.cluster(),
            lineage,
            from: self.record.node,
            boot: self.record.boot,
            store: self.record.store,
            ver,
            message,
        })
    }
    pub(crate) fn send(&self, to: NodeId, message: Message, out: &mut Vec<Effect>) {
        out.push(Effect::Send { to: Peer::Node(to), packet: self.packet(message) });
    }
    pub(crate) fn post(&self, mail: Mail, out: &mut Vec<Effect>) {
        mail.into_iter().for_each(|(to, message)| self.send(to, message, out));
    }
    pub(crate) fn persist(&self, out: &mut Vec<Effect>) {
        out.push(Effect::Persist(Box::new(self.record.clone())));
    }
    pub(crate) fn me(&self) -> Primary {
        Primary { node: self.record.node, boot: self.record.boot, store: self.record.store }
    }
    pub(crate) fn is_only_voter(&self) -> bool {
        self.is_voter() && self.record.topology.voters.len() == 1
    }
    pub(crate) fn mutated(&self, mutation: Mutation) -> bool {
        self.config.mutation == Some(mutation)
    }
    /// A4: how many votes decide.
    pub(crate) fn votes_needed(&self) -> usize {
        let majority = self.record.topology.majority();
        if self.mutated(Mutation::A4) { (majority - 1).max(1) } else { majority }
    }

    /// D10: the new generation is durable before anything is discarded, since effects are carried out in order.
    pub(crate) fn end_generation(&mut self, out: &mut Vec<Effect>) {
        self.record.generation.0 += 1;
        self.record.high_water = Default::default();
        self.position = Position { generation: self.record.generation, ..Position::default() };
        self.persist(out);
    }

    fn on_high_water(&mut self, epoch: Epoch, offset: Offset, out: &mut Vec<Effect>) {
        if (epoch, offset) > self.record.high_water {
            self.record.high_water = (epoch, offset);
            self.persist(out);
        }
    }

    /// The cluster's entry for this node follows its configuration and its store.
    fn tick_self_check(&mut self, now: Now, out: &mut Vec<Effect>) {
        if now.mono < self.next_self_check {
            return;
        }
        self.next_self_check = now.mono + self.times.upkeep_period;
        let topo = self.record.topology.clone();
        let Some(entry) = topo.member(self.record.node) else { return };
        let mut wanted = entry.clone();
        wanted.store = self.record.store;
        wanted.no_failover = self.config.no_failover;
        wanted.address = self.address.clone();
        if wanted.address.ip.is_empty() {
            wanted.address.ip.clone_from(&entry.address.ip);
        }
        if wanted != *entry && topo.seal.is_none() {
            self.submit_own(now, crate::admin::Request::Member(wanted), out);
        }
    }

    fn assert_invariants(&self) {
        let topo = &self.record.topology;
        assert!(self.record.accepted.as_ref().is_none_or(|(_, value)| value.ver > topo.ver), "A12");
        if let Some(tenure) = &self.tenure {
            let shard = topo.tenure_of(self.me()).expect("a tenure is in the topology");
            assert!(shard.id == tenure.shard && shard.epoch == tenure.epoch, "D12");
        }
    }

    // --- what the driver reads ---

    pub fn id(&self) -> NodeId {
        self.record.node
    }
    pub fn boot(&self) -> Boot {
        self.record.boot
    }
    pub fn store(&self) -> StoreId {
        self.record.store
    }
    pub fn cluster(&self) -> ClusterId {
        self.record.cluster()
    }
    pub fn generation(&self) -> Generation {
        self.record.generation
    }
    pub fn topology(&self) -> &Arc<Topology> {
        &self.record.topology
    }
    pub fn record(&self) -> &Record {
        &self.record
    }
    pub fn times(&self) -> &Times {
        &self.times
    }
    pub fn marks(&self) -> &Marks {
        &self.marks
    }
    pub fn membership(&self) -> &Membership {
        &self.membership
    }
    pub fn is_voter(&self) -> bool {
        self.record.topology.is_voter(self.record.node, self.record.store)
    }
    /// The leader as last heard, ourselves included. A hint: nothing rests on it.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.record.node),
            _ => self.vote.following.map(|(_, node)| node).or(self.membership.leader.map(|(_, node)| node)),
        }
    }
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }
    pub fn ballot(&self) -> Ballot {
        self.record.promised
    }
    /// The shard this process serves and the epoch of its tenure, lease or not.
    pub fn tenure(&self) -> Option<(ShardId, Epoch)> {
        self.tenure.as_ref().map(|t| (t.shard, t.epoch))
    }
    /// Until when this process may serve its shard (W1); `None` when it may not at all. Compare it with a clock read
    /// *after* the data was (W12).
    pub fn lease_until(&self) -> Option<Mono> {
        let tenure = self.tenure.as_ref()?;
        if self.mutated(Mutation::W1NoLease) {
            return Some(Mono(u64::MAX));
        }
        let may_serve = !tenure.is_stepping && self.record.topology.seal.is_none();
        may_serve.then_some(tenure.lease_until)
    }
    pub fn is_lease_valid(&self, now: Mono) -> bool {
        self.lease_until().is_some_and(|until| now < until)
    }
    /// Slots of ours that we are giving up: not to be served, whoever the topology says owns them (S1).
    pub fn stopped_slots(&self) -> &[SlotRange] {
        &self.stopped
    }
    /// Whether a primary that dies now would be replaced without an operator: the voters that answer are a majority
    /// without any one of them.
    pub fn can_fail_over(&self) -> bool {
        let topo = &self.record.topology;
        let answering = topo.voters.iter().filter(|v| self.membership.is_online(v.node)).count();
        topo.voters.len() >= 3 && answering > topo.majority().saturating_sub(1) && answering >= 2
    }
    /// Whether a majority of the voters is known to answer.
    pub fn has_quorum(&self) -> bool {
        let topo = &self.record.topology;
        let answering = topo.voters.iter().filter(|v| self.membership.is_online(v.node)).count();
        answering >= topo.majority()
    }
    pub fn position(&self) -> Position {
        self.position
    }
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn on_command(&mut self, now: Now, token: u64, command: Command, out: &mut Vec<Effect>) {
        match command {
            Command::Decide(request) => self.on_decide(now, token, request, out),
            Command::Meet { ip, bus_port } => self.on_meet(now, token, ip, bus_port, out),
            Command::Failover(mode) => self.on_failover(now, token, mode, out),
            Command::Reset { is_hard, has_keys } => self.on_reset(now, token, is_hard, has_keys, out),
            Command::ShutDown => self.on_shut_down(now, token, out),
        }
    }
}

fn reopened(old: Record, config: &Config, recovered: Option<(Epoch, Offset)>) -> Record {
    // D7: memory class: a restart is a new generation; fsync class: it goes on iff the log reaches the mark.
    let is_whole =
        config.data_class == DataClass::Fsync && recovered.is_some_and(|reached| reached >= old.high_water);
    let generation = if is_whole { old.generation } else { Generation(old.generation.0 + 1) };
    let high_water = if is_whole { old.high_water } else { Default::default() };
    Record { boot: Boot(old.boot.0 + 1), generation, high_water, ..old }
}

fn first_record(config: &Config, rng: &mut Rng) -> Record {
    let node = config.id.unwrap_or_else(|| NodeId(rng.id()));
    let store = config.store.unwrap_or_else(|| StoreId(rng.draw()));
    let topology = match &config.initial {
        Some(topology) => topology.clone(),
        None => {
            let generation = first_generation(store);
            Arc::new(fresh_chain(config, &config.address, (node, store), Boot(1), generation, rng))
        }
    };
    Record {
        node,
        store,
        boot: Boot(1),
        topology,
        promised: Ballot::default(),
        accepted: None,
        generation: first_generation(store),
        high_water: Default::default(),
        joins: 0,
    }
}

/// Generations are counted per store, so that the data of a lost store is never taken for that of the next.
pub fn first_generation(store: StoreId) -> Generation {
    Generation(((store.0 ^ (store.0 >> 32)) << 32) | 1)
}

/// Version 1 of a chain of this node's own.
pub(crate) fn fresh_chain(
    config: &Config,
    address: &Address,
    (id, store): (NodeId, StoreId),
    boot: Boot,
    generation: Generation,
    rng: &mut Rng,
) -> Topology {
    let member = Member { id, store, address: address.clone(), join: 0, no_failover: config.no_failover };
    Topology::alone(ClusterId(rng.id()), member, ShardId(rng.id()), boot, generation)
}
