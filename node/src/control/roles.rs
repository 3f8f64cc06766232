//! What a topology means for this node's data: follow a primary or lead, pause slots that leave, hand over.

use super::insync::InSync;
use crate::env::Env;
use crate::replica;
use crate::shared::Shared;
use gossip::{Core, Event, Topology};
use proto::{Epoch, Mono, NodeId, Now, Offset, Slot, SlotRange};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::Ownership;

/// A hand-over whose writes have stopped.
struct Draining {
    to: Option<NodeId>,
    deadline: Mono,
    /// Nobody is in the middle of a write any more.
    is_quiet: bool,
}

/// See the module's head.
pub struct Roles<E: Env> {
    shared: Arc<Shared<E>>,
    /// The primary that is followed and the epoch of its tenure.
    followed: Option<(NodeId, Epoch)>,
    /// Epoch of the stream that our copy comes from.
    stream_epoch: Epoch,
    paused: RefCell<Vec<SlotRange>>,
    draining: Option<Draining>,
    pub in_sync: InSync<E>,
}

impl<E: Env> Roles<E> {
    /// `stream_epoch`: of the copy that was recovered.
    pub fn new(shared: Arc<Shared<E>>, me: NodeId, stream_epoch: Epoch) -> Roles<E> {
        let in_sync = InSync::new(shared.clone(), me);
        Roles { shared, followed: None, stream_epoch, paused: RefCell::default(), draining: None, in_sync }
    }

    /// Takes up the role that a new version gives this node.
    pub fn adopt(&mut self, core: &Core, topology: &Arc<Topology>) {
        let Some(shard) = topology.shard_of(core.id()) else {
            self.shared.replication.set_tenure(Epoch(0));
            return self.in_sync.end();
        };
        if shard.primary.node == core.id() {
            if core.tenure().is_none() {
                self.shared.replication.set_tenure(Epoch(0));
                self.in_sync.end();
            } else {
                // Replies are held before anything can be served.
                let former = self.followed.map(|(node, _)| node);
                self.in_sync.lead(core, former, self.shared.env.now());
                if self.followed.take().is_some() || self.stream_epoch != shard.epoch {
                    replica::lead(&self.shared);
                }
                self.stream_epoch = shard.epoch;
                self.shared.replication.set_tenure(shard.epoch);
            }
            self.end_drain_if_over(core);
            return;
        }
        self.shared.replication.set_tenure(Epoch(0));
        self.in_sync.end();
        self.draining = None;
        self.shared.state.is_paused.store(false, Ordering::Relaxed);
        let primary = (shard.primary.node, shard.epoch);
        if self.followed != Some(primary) {
            self.followed = Some(primary);
        }
        self.follow(core, topology);
    }

    /// Follows the primary of our shard, as who we are now.
    pub fn follow(&self, core: &Core, topology: &Topology) {
        let Some(shard) = topology.shard_of(core.id()).filter(|s| s.primary.node != core.id()) else {
            return;
        };
        let Some(member) = topology.member(shard.primary.node) else { return };
        let target = replica::Target {
            host: member.address.ip.clone(),
            port: member.address.port_for(self.shared.settings().is_replication_tls),
            node: Some(core.id()),
            generation: core.generation().0,
            tenure: shard.epoch,
        };
        replica::follow(&self.shared, Some(target));
    }

    /// Epoch of the stream that our copy comes from.
    pub fn stream_epoch(&self) -> Epoch {
        self.stream_epoch
    }

    fn end_drain_if_over(&mut self, core: &Core) {
        if self.draining.is_none() && core.tenure().is_some() {
            self.shared.state.is_paused.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a hand-over waits for a replica.
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// How far our copy reaches.
    pub fn position(&self) -> (Epoch, Offset) {
        let is_synced = self.shared.state.is_link_up.load(Ordering::Relaxed);
        let epoch = match self.followed {
            Some((_, epoch)) if is_synced => epoch,
            _ => self.stream_epoch,
        };
        if !self.shared.replication.has_history() {
            // In the middle of a full sync there is nothing that could be served.
            return (Epoch(0), Offset(0));
        }
        (epoch, self.shared.feed.end())
    }

    /// What has come to an end since the last look.
    pub fn poll(&mut self, core: &Core, now: Now) -> Vec<Event> {
        if let Some((_, epoch)) = self.followed
            && self.shared.state.is_link_up.load(Ordering::Relaxed)
        {
            self.stream_epoch = epoch;
        }
        self.become_quiet();
        let Some(draining) = &self.draining else { return Vec::new() };
        let end = self.shared.feed.end().0;
        let mut matched = self.shared.replication.matched(end);
        if let Some(shard) = core.topology().shard_of(core.id()).filter(|s| s.strict) {
            // D6: of a strict shard only a member of the set is promoted.
            matched.retain(|(node, g)| shard.contains_in_sync(*node, proto::Generation(*g)));
        }
        let candidate = match draining.to {
            Some(to) => matched.iter().find(|(node, _)| *node == to).copied(),
            None => matched.first().copied(),
        };
        if let Some((to, generation)) = candidate.filter(|_| draining.is_quiet) {
            self.draining = None;
            return vec![Event::Drained { to, generation: proto::Generation(generation) }];
        }
        if now.mono >= draining.deadline {
            self.draining = None;
            self.shared.state.is_paused.store(false, Ordering::Relaxed);
            return vec![Event::DrainFailed];
        }
        Vec::new()
    }

    /// Stops writes until a replica has everything.
    pub fn drain(&mut self, to: Option<NodeId>, now: Mono) {
        // Redis: a manual failover gives up after five seconds.
        const PATIENCE: Duration = Duration::from_secs(5);
        self.shared.state.is_paused.store(true, Ordering::SeqCst);
        self.draining = Some(Draining { to, deadline: now + PATIENCE, is_quiet: false });
        self.become_quiet();
    }

    /// Nobody is in the middle of a batch any more once the gate was closed. A script may stay for long: it is asked
    /// for again with each look.
    fn become_quiet(&mut self) {
        if let Some(draining) = &mut self.draining
            && !draining.is_quiet
            && self.shared.engine.keyspace.gate().try_close().is_some()
        {
            draining.is_quiet = true;
            replica::ask_for_last_acks(&self.shared);
        }
    }

    /// Pauses the slots that the core is giving up, and serves again those that it keeps.
    pub fn publish_slots(&self, core: &Core) {
        let stopped = core.stopped_slots();
        let mut paused = self.paused.borrow_mut();
        if *paused == stopped {
            return;
        }
        let is_in = |ranges: &[SlotRange], slot: Slot| ranges.iter().any(|r| r.contains(slot));
        for slot in paused.iter().chain(stopped).flat_map(|r| r.iter()) {
            let (was, is) = (is_in(&paused, slot), is_in(stopped, slot));
            if was != is {
                let mut guard = self.shared.lock_for_node(slot);
                guard.state_mut().ownership = if is { Ownership::Paused } else { Ownership::Serving };
            }
        }
        *paused = stopped.to_vec();
    }
}

/// Listens on the bus port of every address that clients may use.
pub async fn listen<E: Env>(shared: &Shared<E>, port: u16) -> Result<Vec<E::Listener>, String> {
    crate::listen::listen_on(shared, port).await
}
