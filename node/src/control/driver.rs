//! The loop itself.

use super::bus::{Bus, Inbound};
use super::roles::Roles;
use super::{Answer, ControlInbox, ControlRequest, LinkInfo};
use crate::config::{Durability, NodeSettings};
use crate::env::Env;
use crate::pubsub::Space;
use crate::shared::Shared;
use gossip::topology::{Address, Topology};
use gossip::{Config, Core, DataClass, Effect, Event, Outcome, Peer, Position, Record, Refusal, Start};
use proto::{Epoch, Mono, NodeId, Offset};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::Disk;
use storage::disk::write_atomic;
use tokio::sync::mpsc;

/// Requests whose answer is awaited. Choice: one per connection is plenty; more are refused.
const PENDING_MAX: usize = 10_000;
/// Time goes on between two looks at the deadlines.
const STEP: Duration = Duration::from_millis(1);
/// The loop runs at least this often, to keep positions fresh.
const PERIOD: Duration = Duration::from_millis(50);

struct Driver<E: Env> {
    shared: Arc<Shared<E>>,
    core: Core,
    bus: Rc<Bus<E>>,
    file: String,
    pending: BTreeMap<u64, Answer>,
    next_token: u64,
    roles: Roles<E>,
    /// The stream's epoch as the file beside the topology's has it.
    saved_epoch: Epoch,
    status_at: Mono,
    /// Where nodes were heard from last, for those whose address is not in the topology yet.
    heard: BTreeMap<NodeId, String>,
}

/// Runs the cluster side of a node. `Err`: it could not start.
pub async fn run<E: Env>(shared: Arc<Shared<E>>, inbox: ControlInbox) -> Result<(), String> {
    let settings = shared.settings.load_full();
    let file = settings.cluster_config_file.clone();
    let disk = shared.env.disk();
    let lock_name = format!("{file}.lock");
    let lock_disk = disk.clone();
    let lock = shared.env.blocking(move || lock_disk.lock(&lock_name)).await;
    let lock = lock.map_err(|e| {
        format!("Sorry, the cluster configuration file {file} is already used by a different node: {e}")
    })?;
    let record = read_record(&shared, &disk, &file).await?;
    if settings.durability == Durability::InSyncFsync && !settings.appendonly {
        return Err("durability in-sync-fsync needs appendonly yes: there is nothing to sync without".into());
    }
    if settings.cluster_secret.is_empty() {
        tracing::debug!("cluster-secret is empty: packets of the bus are not authenticated");
    }
    let silence = Duration::from_millis((settings.node_timeout_ms / 3).clamp(150, 5000));
    let (bus, inbound) = Bus::new(shared.clone(), &settings.cluster_secret, silence);
    for listener in super::roles::listen(&shared, settings.cluster_port).await? {
        tokio::task::spawn_local(bus.clone().accept(listener));
    }
    let mut effects = Vec::new();
    let recovered = recovered(&shared, &disk, &file).await?;
    let start = Start { record, recovered, seed: shared.env.rand() };
    let core = Core::new(core_config(&settings), start, shared.env.now(), &mut effects);
    tracing::info!("Node {} of cluster {:?}", core.id(), core.cluster());
    shared.feed.turn_backlog_on();
    let stream_epoch = recovered.map_or(Epoch(0), |(epoch, _)| epoch);
    let roles = Roles::new(shared.clone(), core.id(), stream_epoch);
    let mut driver = Driver {
        shared,
        core,
        bus,
        file,
        pending: BTreeMap::new(),
        next_token: 1,
        saved_epoch: roles.stream_epoch(),
        roles,
        status_at: Mono(0),
        heard: BTreeMap::new(),
    };
    driver.carry_out(effects).await?;
    let result = driver.run(inbox, inbound).await;
    drop(lock);
    result
}

async fn read_record<E: Env>(
    shared: &Shared<E>,
    disk: &Arc<dyn Disk>,
    file: &str,
) -> Result<Option<Record>, String> {
    let (disk, path) = (disk.clone(), file.to_string());
    let bytes = shared
        .env
        .blocking(move || disk.exists(&path).and_then(|is| is.then(|| disk.read(&path)).transpose()))
        .await;
    let bytes = bytes.map_err(|e| format!("Can't read the cluster configuration file {file}: {e}"))?;
    match bytes {
        None => Ok(None),
        Some(bytes) => Record::decode(&bytes).map(Some).map_err(|e| {
            format!("The cluster configuration file {file} is damaged ({e:?}). Restore it, or remove it to start this node as a new one.")
        }),
    }
}

/// The file that names the epoch of the stream which our copy comes from, and the offset at which it began.
fn stream_file(cluster_file: &str) -> String {
    format!("{cluster_file}.stream")
}

/// How far the recovered copy reaches. A copy that is shorter than where its last epoch began is of an older one, which
/// is not known any more.
async fn recovered<E: Env>(
    shared: &Shared<E>,
    disk: &Arc<dyn Disk>,
    file: &str,
) -> Result<Option<(Epoch, Offset)>, String> {
    let Some((_, offset)) = shared.replication.recovered() else { return Ok(None) };
    let (disk, path) = (disk.clone(), stream_file(file));
    let text = shared
        .env
        .blocking(move || disk.exists(&path).and_then(|is| is.then(|| disk.read(&path)).transpose()));
    let text = text.await.map_err(|e| format!("Can't read {}: {e}", stream_file(file)))?;
    let text = text.map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|w| w.parse::<u64>());
    let epoch = match (numbers.next(), numbers.next()) {
        (Some(Ok(epoch)), Some(Ok(began))) if offset.0 >= began => Epoch(epoch),
        _ => Epoch(0),
    };
    Ok(Some((epoch, offset)))
}

fn core_config(settings: &NodeSettings) -> Config {
    let port = |announced: u16, real: u16| if announced == 0 { real } else { announced };
    Config {
        address: Address {
            ip: settings.announce_ip.clone(),
            port: port(settings.announce_port, settings.port),
            tls_port: port(settings.announce_tls_port, settings.tls_port),
            bus_port: port(settings.announce_bus_port, settings.cluster_port),
            hostname: settings.announce_hostname.clone(),
            zone: String::new(),
        },
        node_timeout: Duration::from_millis(settings.node_timeout_ms),
        data_class: match settings.durability {
            Durability::InSyncFsync => DataClass::Fsync,
            _ => DataClass::Memory,
        },
        no_failover: !settings.may_fail_over,
        ..Config::default()
    }
}

impl<E: Env> Driver<E> {
    async fn run(
        &mut self,
        mut inbox: ControlInbox,
        mut inbound: mpsc::Receiver<Inbound>,
    ) -> Result<(), String> {
        let shared = self.shared.clone();
        let mut looked_at = Mono(0);
        loop {
            let now = self.shared.env.now().mono;
            let due = self.core.next_deadline().min(looked_at + PERIOD);
            let mut effects = Vec::new();
            tokio::select! {
                biased;
                request = inbox.recv() => match request {
                    Some(request) => self.on_request(request, &mut effects),
                    None => return Ok(()),
                },
                received = inbound.recv() => match received {
                    Some(received) => self.on_inbound(received, &mut effects),
                    None => return Ok(()),
                },
                () = shared.replication.acknowledged.notified() => {
                    // Replies wait for this and for nothing else.
                    self.keep_in_sync().await?;
                    if self.shared.env.now().mono < due && !self.roles.is_draining() {
                        continue;
                    }
                    self.step(Event::Tick, &mut effects);
                }
                // A deadline may lie in the past for as long as what it waits for takes.
                () = tokio::time::sleep(due.since(now).max(STEP)) => self.step(Event::Tick, &mut effects),
            }
            // Whatever waits already is worked off before the effects' disk and network.
            for _ in 0..64 {
                match inbound.try_recv() {
                    Ok(received) => self.on_inbound(received, &mut effects),
                    Err(_) => break,
                }
            }
            self.say_position(&mut effects);
            let now = self.shared.env.now();
            looked_at = now.mono;
            for event in self.roles.poll(&self.core, now) {
                self.step(event, &mut effects);
            }
            self.carry_out(effects).await?;
            self.save_stream_epoch().await?;
            self.keep_in_sync().await?;
            self.publish_lease();
            self.publish_status();
        }
    }

    /// Lets held replies go, and carries out what the in-sync set asks for.
    async fn keep_in_sync(&mut self) -> Result<(), String> {
        let (epoch, _) = self.roles.position();
        let wants = self.roles.in_sync.round(&self.core, epoch, self.shared.env.now());
        let mut effects = Vec::new();
        for (command, answer) in wants.asks {
            self.on_request(ControlRequest::Command { command, answer }, &mut effects);
        }
        wants.events.into_iter().for_each(|event| self.step(event, &mut effects));
        if wants.is_discarding {
            self.step(Event::GenerationEnded, &mut effects);
        }
        if !effects.is_empty() {
            self.carry_out(effects).await?;
        }
        if wants.is_discarding {
            // D10: the new generation is durable; under its name nothing was acknowledged.
            let generation = self.core.generation();
            tracing::info!(generation = generation.0, "our copy is given up and synced anew");
            self.shared.replication.let_discard(generation.0);
            self.roles.follow(&self.core, self.core.topology());
        }
        Ok(())
    }

    fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let now = self.shared.env.now();
        self.core.step(now, event, effects);
    }

    fn on_request(&mut self, request: ControlRequest, effects: &mut Vec<Effect>) {
        match request {
            ControlRequest::Publish { space, channel, message } => self.spread(space, &channel, &message),
            ControlRequest::Command { command, answer } => {
                if self.pending.len() >= PENDING_MAX {
                    return answer(Err(Refusal::Busy));
                }
                let token = self.next_token;
                self.next_token += 1;
                self.pending.insert(token, answer);
                self.step(Event::Command { token, command }, effects);
            }
        }
    }

    fn on_inbound(&mut self, inbound: Inbound, effects: &mut Vec<Effect>) {
        match inbound {
            Inbound::Packet { from_ip, packet } => {
                self.heard.insert(packet.from, from_ip.clone());
                self.step(Event::Packet { from_ip: Some(from_ip), packet }, effects);
            }
            Inbound::Data { cluster, body } if cluster == self.core.cluster() => self.hear(&body),
            Inbound::Data { .. } => {}
        }
    }

    /// A published message on its way: the space, then channel and message with their lengths.
    fn spread(&mut self, space: Space, channel: &[u8], message: &[u8]) {
        let mut body = vec![space as u8];
        for part in [channel, message] {
            body.extend_from_slice(&(part.len() as u32).to_le_bytes());
            body.extend_from_slice(part);
        }
        if body.len() > gossip::wire::FRAME_BODY_BYTES_MAX {
            tracing::warn!(bytes = body.len(), "a published message is too long for the cluster bus");
            return;
        }
        let frame = self.bus.encode_data(self.core.cluster(), &body);
        let topo = self.core.topology().clone();
        let shard = topo.shard_of(self.core.id()).map(|s| s.id);
        for member in topo.members.iter().filter(|m| m.id != self.core.id()) {
            // Sharded channels live in one shard.
            let is_wanted = space != Space::Sharded || topo.shard_of(member.id).map(|s| s.id) == shard;
            if is_wanted {
                self.bus.send(&member.address.ip, member.address.bus_port, frame.clone());
            }
        }
    }

    fn hear(&self, body: &[u8]) {
        let part = |from: usize| -> Option<(&[u8], usize)> {
            let len = u32::from_le_bytes(body.get(from..from + 4)?.try_into().ok()?) as usize;
            let start = from + 4;
            Some((body.get(start..start.checked_add(len)?)?, start + len))
        };
        let space = match body.first() {
            Some(0) => Space::Channel,
            Some(2) => Space::Sharded,
            _ => return,
        };
        if let Some((channel, next)) = part(1)
            && let Some((message, _)) = part(next)
        {
            self.shared.publish(space, channel, message);
        }
    }

    /// Tells the core how far our copy of the data reaches.
    fn say_position(&mut self, effects: &mut Vec<Effect>) {
        let (epoch, offset) = self.roles.position();
        let is_draining = self.shared.state.is_paused.load(Ordering::Relaxed);
        let position = Position { generation: self.core.generation(), epoch, offset, is_draining };
        if position != self.core.position() {
            self.step(Event::Position(position), effects);
        }
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), String> {
        let mut queue: std::collections::VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Persist(mut record) => {
                    // Several in a row: the last one says all, and nothing was said between them.
                    while let Some(Effect::Persist(_)) = queue.front() {
                        let Some(Effect::Persist(next)) = queue.pop_front() else { unreachable!() };
                        record = next;
                    }
                    self.persist(&record).await?;
                }
                Effect::Send { to, packet } => {
                    if to == Peer::Node(self.core.id()) {
                        let mut more = Vec::new();
                        self.step(Event::Packet { from_ip: None, packet }, &mut more);
                        more.into_iter().rev().for_each(|e| queue.push_front(e));
                    } else {
                        self.send(to, &packet);
                    }
                }
                Effect::Adopted(topology) => {
                    self.log_change(&topology);
                    // Nothing is served any more by a tenure that has ended, before its replies are given up.
                    self.publish_lease();
                    self.roles.adopt(&self.core, &topology);
                    self.save_stream_epoch().await?;
                    self.publish_view();
                    self.shared.topology.store(Some(topology));
                    self.shared.adopted.notify_one();
                }
                Effect::Publish => {
                    self.publish_lease();
                    self.publish_view();
                }
                Effect::Drain { to } => self.roles.drain(to, self.shared.env.now().mono),
                Effect::Answer { token, result } => self.answer(token, result),
            }
        }
        Ok(())
    }

    fn answer(&mut self, token: u64, result: Result<Outcome, Refusal>) {
        if let Some(answer) = self.pending.remove(&token) {
            answer(result);
        }
    }

    async fn persist(&self, record: &Record) -> Result<(), String> {
        let (disk, file, bytes) = (self.shared.env.disk(), self.file.clone(), record.encode());
        let written = self.shared.env.blocking(move || write_atomic(&*disk, &file, &bytes)).await;
        // What was promised on the strength of this file would not hold after a restart: stop.
        written.map_err(|e| format!("Can't write the cluster configuration file {}: {e}", self.file))
    }

    /// What is written under a tenure is compared by its epoch after a restart: the epoch is durable before the tenure
    /// serves.
    async fn save_stream_epoch(&mut self) -> Result<(), String> {
        let epoch = self.roles.stream_epoch();
        if epoch == self.saved_epoch {
            return Ok(());
        }
        self.saved_epoch = epoch;
        let text = format!("{} {}\n", epoch.0, self.shared.feed.end().0);
        let (disk, file) = (self.shared.env.disk(), stream_file(&self.file));
        let written = self.shared.env.blocking(move || write_atomic(&*disk, &file, text.as_bytes())).await;
        written.map_err(|e| format!("Can't write {}: {e}", stream_file(&self.file)))
    }

    fn send(&self, to: Peer, packet: &gossip::Packet) {
        let frame = self.bus.encode(packet);
        match to {
            Peer::Address { ip, bus_port } => self.bus.send(&ip, bus_port, frame),
            Peer::Node(id) => {
                if let Some(member) = self.core.topology().member(id) {
                    let heard = self.heard.get(&id).map_or("", |ip| ip.as_str());
                    let ip = if member.address.ip.is_empty() { heard } else { &member.address.ip };
                    self.bus.send(ip, member.address.bus_port, frame);
                }
            }
        }
    }

    fn log_change(&self, topology: &Arc<Topology>) {
        let me = self.core.id();
        let role = match topology.shard_of(me) {
            Some(shard) if shard.primary.node == me => "primary".to_string(),
            Some(shard) => format!("replica of {}", shard.primary.node),
            None => "witness".to_string(),
        };
        tracing::info!(
            "Cluster version {}: {} nodes, {} shards; this node is {role}",
            topology.ver,
            topology.members.len(),
            topology.shards.len()
        );
    }

    fn publish_view(&self) {
        let view = gossip::view::build(&self.core, self.shared.env.now().mono);
        if self.shared.view.swap(Some(Arc::new(view))).is_none() {
            // Until now nobody knew which slots are ours: clients were told that we load.
            self.shared.state.is_loading.store(false, Ordering::Release);
            self.shared.adopted.notify_one();
        }
        self.roles.publish_slots(&self.core);
    }

    /// Until when this node may serve. Stored before anything else is said, so that a release fences at once.
    fn publish_lease(&self) {
        let until = self.core.lease_until().map_or(0, |m| m.0);
        self.shared.state.lease_until.store(until, Ordering::Release);
    }

    fn publish_status(&mut self) {
        let now = self.shared.env.now();
        if now.mono < self.status_at {
            return;
        }
        self.status_at = now.mono + Duration::from_millis(100);
        // Health and cluster state follow from time as well.
        self.publish_view();
        let topo = self.core.topology().clone();
        let addresses = self.bus.addresses();
        self.shared.control.link_count.store(addresses.len(), Ordering::Relaxed);
        let membership = self.core.membership();
        let reports: Vec<(NodeId, usize)> =
            topo.members.iter().map(|m| (m.id, membership.failure_reports(m.id))).collect();
        let mut status = self.shared.control.status();
        status.sent = self.bus.sent.get();
        status.received = self.bus.received.get();
        status.my_epoch = topo.shard_of(self.core.id()).map_or(0, |s| s.config_epoch.0);
        status.leader = self.core.leader();
        status.failure_reports = reports;
        status.moves.clone_from(&topo.moves);
        status.departed = topo.departed.iter().map(|d| d.node).collect();
        status.links = addresses
            .into_iter()
            .map(|(ip, bus_port)| LinkInfo {
                is_outgoing: true,
                ip,
                bus_port,
                created_ms: self.shared.started.wall.0,
                queued_bytes: 0,
            })
            .collect();
    }
}
