//! The in-sync classes of durability at this node: feeds `replication::insync` with what happens, opens the gate of
//! replies as far as the set holds the log, and asks the quorum for changes of the set. Rules D1..D17.
//!
//! Invariant: while a replica may be in the set, or may come to be, replies leave only as far as all of the set
//! acknowledged. Alone, with nobody who could be added, the gate stands open: own writes need no round trip.

use super::Answer;
use crate::config::Durability;
use crate::env::Env;
use crate::shared::{Shared, gate};
use gossip::topology::Shard;
use gossip::{Command, Core, Request};
use proto::{Epoch, Generation, Mono, NodeId, Now, Offset};
use replication::insync::{
    Ask, Class, Effect, Event, Follower, FollowerEffect, Primary, Settings, ShardState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Least time between two asks of the same thing. Choice: a decision takes some round trips and fsyncs.
const RETRY: Duration = Duration::from_millis(100);
/// How often the mark of what others were told is made durable. Choice: it costs an fsync of the cluster's file.
const HIGH_WATER_EVERY: Duration = Duration::from_millis(200);

/// A request on its way: which, about whom, at which revision.
type AskKey = (u8, NodeId, u64);

/// What a round wants of the core.
#[derive(Default)]
pub struct Wants {
    pub asks: Vec<(Command, Answer)>,
    pub events: Vec<gossip::Event>,
    /// Our copy is given up: its generation is to end, and then it is synced anew.
    pub is_discarding: bool,
}

/// See the module's head.
pub struct InSync<E: Env> {
    shared: Arc<Shared<E>>,
    /// `None`: async.
    class: Option<Class>,
    lag: Duration,
    primary: Option<Primary>,
    follower: Follower,
    /// Last acknowledgement told of each link, by client id.
    fed: BTreeMap<u64, Mono>,
    fed_at: Mono,
    /// Revision at which an Add was asked last: it may be decided until the revision moves (D4).
    added_at: Option<Epoch>,
    /// Everything may leave: this node is the whole set.
    is_open: bool,
    asking: Arc<Mutex<BTreeSet<AskKey>>>,
    high_water: (Epoch, Offset),
    high_water_at: Mono,
}

impl<E: Env> InSync<E> {
    pub fn new(shared: Arc<Shared<E>>, me: NodeId) -> InSync<E> {
        let settings = shared.settings.load_full();
        let class = match settings.durability {
            Durability::Async => None,
            Durability::InSync => Some(Class::InSync),
            Durability::InSyncFsync => Some(Class::InSyncFsync),
        };
        InSync {
            shared,
            class,
            lag: settings.in_sync_lag(),
            primary: None,
            follower: Follower::new(me),
            fed: BTreeMap::new(),
            fed_at: Mono(0),
            added_at: None,
            is_open: false,
            asking: Arc::default(),
            high_water: (Epoch(0), Offset(0)),
            high_water_at: Mono(0),
        }
    }

    /// A tenure of ours has begun or goes on; this node does not serve yet if it has begun. `former`: who served before.
    pub fn lead(&mut self, core: &Core, former: Option<NodeId>, now: Now) {
        let Some(class) = self.class else { return };
        let Some(shard) = own_shard(core).filter(|s| core.tenure() == Some((s.id, s.epoch))) else {
            return self.end();
        };
        if self.primary.as_ref().is_some_and(|p| p.shard().epoch == shard.epoch) {
            return;
        }
        if self.primary.is_none() && !core.topology().has_slots(shard.id) {
            // Nothing can be written here; an empty node is free to join others.
            return;
        }
        // The same process going on in another tenure has seen what was acknowledged; any other is told nothing (D13).
        let acknowledged = self.primary.take().map_or(Offset(0), |p| p.acknowledged());
        if acknowledged == Offset(0) {
            self.shared.hold_all();
        } else {
            self.shared.allow(gate::IN_SYNC, Some(acknowledged.0));
        }
        // Nobody is in the middle of a batch that saw the gate open. What scripts answer is looked at when they have ended.
        self.shared.engine.keyspace.gate().settle();
        let settings = Settings { class, lag: self.lag, retry: RETRY, mutation: None };
        let me = (core.id(), core.generation());
        let offsets = (acknowledged, self.shared.feed.end());
        self.primary = Some(Primary::new(me, state_of(shard), offsets, former, settings, now));
        self.fed.clear();
        self.fed_at = now.mono;
        self.added_at = None;
        self.is_open = false;
    }

    /// No tenure of ours goes on, and this node serves no more: what was not acknowledged never will be.
    pub fn end(&mut self) {
        if self.primary.take().is_some() {
            self.shared.end_term();
            self.shared.state.is_short_of_copies.store(false, Ordering::Relaxed);
        }
    }

    /// One look at everything. `epoch`: of the stream that our copy comes from.
    pub fn round(&mut self, core: &Core, epoch: Epoch, now: Now) -> Wants {
        let mut wants = Wants::default();
        self.round_of_follower(core, &mut wants);
        if self.class == Some(Class::InSyncFsync) {
            self.raise_high_water(epoch, now, &mut wants);
        }
        if self.primary.is_some() {
            self.round_of_primary(core, now, &mut wants);
        }
        wants
    }

    /// D10: a copy that the primary cannot continue is given up once nobody counts on it.
    fn round_of_follower(&mut self, core: &Core, wants: &mut Wants) {
        let refused = self.shared.replication.refused();
        if refused != Some(core.generation().0) {
            return;
        }
        let Some(shard) = own_shard(core) else { return };
        let (state, mut out) = (state_of(shard), Vec::new());
        let end = self.shared.feed.end();
        self.follower.on_diverged(&state, core.generation(), shard.epoch, end, &mut out);
        wants.is_discarding = out.contains(&FollowerEffect::DiscardAndSync);
    }

    /// D7: how far others were told that our disk reaches.
    fn raise_high_water(&mut self, epoch: Epoch, now: Now, wants: &mut Wants) {
        let synced = Offset(self.shared.state.log_synced.load(Ordering::Acquire));
        let is_due = now.mono >= self.high_water_at + HIGH_WATER_EVERY;
        if is_due && (epoch, synced) > self.high_water && self.shared.replication.has_history() {
            self.high_water = (epoch, synced);
            self.high_water_at = now.mono;
            wants.events.push(gossip::Event::HighWater { epoch, offset: synced });
        }
    }

    fn round_of_primary(&mut self, core: &Core, now: Now, wants: &mut Wants) {
        let Some(shard) = own_shard(core) else { return };
        let mut primary = self.primary.take().expect("looked at by the caller");
        if core.tenure() != Some((shard.id, primary.shard().epoch)) || shard.epoch != primary.shard().epoch {
            // The version that ends this tenure is being adopted.
            self.primary = Some(primary);
            return;
        }
        let mut out = Vec::new();
        if shard.rev != primary.shard().rev || shard.members != primary.shard().members {
            tracing::info!("In-sync set at version {}: {} copies", shard.rev, shard.in_sync.len());
            primary.step(now, Event::Topology(state_of(shard)), &mut out);
        }
        let replicas: Vec<_> = self.shared.replication.replicas();
        let replicas: Vec<_> =
            replicas.into_iter().filter(|r| r.is_online && r.tenure == Some(shard.epoch)).collect();
        let is_heard = replicas.iter().any(|r| r.node.is_some() && now.mono < r.acked_at + self.lag);
        if self.is_open && is_heard {
            self.shut();
        }
        // After the acknowledgements were looked at: nobody acknowledges what is not there.
        primary.step(now, Event::Appended(self.shared.feed.end()), &mut out);
        let synced = Offset(self.shared.state.log_synced.load(Ordering::Acquire));
        primary.step(now, Event::Synced(synced), &mut out);
        for (node, (tenure, generation)) in self.shared.replication.take_diverged() {
            if tenure == shard.epoch && shard.members.contains(&node) {
                primary.step(now, Event::Diverged { node, generation: Generation(generation) }, &mut out);
            }
        }
        self.fed.retain(|client, _| replicas.iter().any(|r| r.client == *client));
        if !self.is_open {
            for r in &replicas {
                let Some((node, generation)) = r.node else { continue };
                if self.fed.insert(r.client, r.acked_at) == Some(r.acked_at) {
                    continue;
                }
                self.fed_at = now.mono;
                let ack = Event::Ack {
                    node,
                    generation: Generation(generation),
                    tenure: shard.epoch,
                    matched: r.acked,
                    synced: r.synced,
                };
                primary.step(now, ack, &mut out);
            }
        }
        primary.step(now, Event::Tick, &mut out);
        for effect in out {
            if let Effect::Ask(ask) = effect {
                self.ask(core, shard, ask, wants);
            }
        }
        self.publish(core, shard, &primary, is_heard, now);
        self.primary = Some(primary);
    }

    /// Lets leave what the set holds.
    fn publish(&mut self, core: &Core, shard: &Shard, primary: &Primary, is_heard: bool, now: Now) {
        let is_alone = shard.strict
            && shard.in_sync.iter().all(|m| m.node == core.id())
            && self.added_at != Some(shard.rev);
        // As long as somebody was heard of lately he may be added, and counts from that moment on (D1, D3).
        let may_open = is_alone && !is_heard && now.mono >= self.fed_at + self.lag;
        let is_durable_gate = self.class == Some(Class::InSync)
            || self.shared.settings().appendfsync == crate::config::Fsync::Always;
        if !self.is_open && may_open && is_durable_gate && primary.acknowledged() > Offset(0) {
            self.is_open = true;
            self.shared.allow(gate::IN_SYNC, None);
        }
        if !self.is_open {
            self.shared.allow(gate::IN_SYNC, Some(primary.acknowledged().0));
        }
        let is_short = shard.in_sync.len() < self.shared.settings().min_in_sync;
        self.shared.state.is_short_of_copies.store(is_short, Ordering::Relaxed);
    }

    /// From here on replies wait; those that left did so before anybody could be added.
    fn shut(&mut self) {
        self.is_open = false;
        self.shared.allow(gate::IN_SYNC, Some(self.shared.feed.end().0));
        self.shared.engine.keyspace.gate().settle();
    }

    fn ask(&mut self, core: &Core, shard: &Shard, ask: Ask, wants: &mut Wants) {
        let (id, by) = (shard.id, core.id());
        let (key, request) = match ask {
            Ask::Drop { rev, node, generation } => {
                ((0, node, rev.0), Request::Drop { shard: id, rev, by, node, generation })
            }
            Ask::Add { rev, node, generation } => {
                self.added_at = Some(rev);
                ((1, node, rev.0), Request::Add { shard: id, rev, by, node, generation })
            }
            Ask::Strict { rev, generation } => {
                ((2, by, rev.0), Request::Strict { shard: id, rev, by, generation })
            }
        };
        let lock = |asking: &Mutex<BTreeSet<AskKey>>, change: &dyn Fn(&mut BTreeSet<AskKey>) -> bool| {
            change(&mut asking.lock().unwrap_or_else(PoisonError::into_inner))
        };
        if !lock(&self.asking, &|asking| asking.insert(key)) {
            return;
        }
        tracing::debug!(?request, "asks for a change of the in-sync set");
        let asking = self.asking.clone();
        let answer: Answer = Box::new(move |_| {
            lock(&asking, &|asking| asking.remove(&key));
        });
        wants.asks.push((Command::Decide(request), answer));
    }
}

fn own_shard(core: &Core) -> Option<&Shard> {
    core.topology().shard_of(core.id())
}

fn state_of(shard: &Shard) -> ShardState {
    ShardState {
        id: shard.id,
        epoch: shard.epoch,
        rev: shard.rev,
        primary: shard.primary.node,
        in_sync: shard.in_sync.iter().map(|m| (m.node, m.generation)).collect(),
        members: shard.members.clone(),
        strict: shard.strict,
    }
}
