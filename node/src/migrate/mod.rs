//! Slot moves: the data path of both sides. The decisions are the quorum's, the order of steps is
//! `migration::source`'s.
//!
//! A move is replication of some slots: a snapshot of them at one offset of the feed, the writes behind it, a short
//! pause of those slots alone, and one decision. The stream is ordinary commands on an ordinary connection, so that what
//! arrives is logged and replicated at the target like any other write.

mod export;
mod import;
mod link;

pub use import::sync_slots;

use crate::env::Env;
use crate::host::HostCx;
use crate::shared::Shared;
use engine::{Error, HostOutcome};
use gossip::topology::{Move, Topology};
use gossip::{Command, Outcome, Request};
use migration::Tag;
use migration::source::Event;
use proto::{ClusterView, NodeId, ShardId, Slot, SlotRange};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::GateReader;
use tokio::sync::mpsc;

/// A move, as CLUSTER GETSLOTMIGRATIONS shows it.
#[derive(Clone, Debug)]
pub struct Migration {
    pub id: u64,
    pub is_export: bool,
    pub slots: Vec<SlotRange>,
    pub source: NodeId,
    pub target: NodeId,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub state: &'static str,
    pub message: String,
    pub remaining_bytes: u64,
    /// Longest time that the slots were served by nobody, in microseconds.
    pub paused_us: u64,
    pub keys: u64,
}

/// Moves remembered after their end.
const REMEMBERED_MAX: usize = 64;

/// The moves that this node takes or took part in; the newest last.
#[derive(Default)]
pub struct Migrations {
    all: Mutex<Vec<Migration>>,
    arriving: Mutex<import::Arriving>,
}

impl Migrations {
    fn lock(&self) -> MutexGuard<'_, Vec<Migration>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn arriving(&self) -> MutexGuard<'_, import::Arriving> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn list(&self) -> Vec<Migration> {
        self.lock().clone()
    }
    fn add(&self, migration: Migration) {
        let mut all = self.lock();
        all.retain(|m| m.id != migration.id || m.is_export != migration.is_export);
        all.push(migration);
        let excess = all.len().saturating_sub(REMEMBERED_MAX);
        all.drain(..excess);
    }
    fn update(&self, id: u64, is_export: bool, change: impl FnOnce(&mut Migration)) {
        if let Some(m) = self.lock().iter_mut().find(|m| m.id == id && m.is_export == is_export) {
            change(m);
        }
    }
}

/// CLUSTER MIGRATESLOTS: asks for the moves; the answer comes when they are decided to begin.
pub fn start<E: Env>(
    cx: &mut HostCx<E>,
    view: &ClusterView,
    requests: Vec<(Vec<SlotRange>, NodeId)>,
) -> Result<HostOutcome, Error> {
    let shared = cx.shared().clone();
    let from = view.me().shard;
    let total = requests.len();
    let progress = Arc::new(Mutex::new((Some(cx.ticket()), 0usize)));
    for (slots, target) in requests {
        let to = view.node(&target).expect("looked up before").shard;
        let request = Request::MoveStart { id: shared.env.rand(), slots, from, to };
        let progress = progress.clone();
        let answer = Box::new(move |result: Result<Outcome, gossip::Refusal>| {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.1 += 1;
            match result {
                Err(refusal) => {
                    if let Some(ticket) = progress.0.take() {
                        ticket.answer(|out| out.error(&refusal.to_string()));
                    }
                }
                Ok(_) if progress.1 == total => {
                    if let Some(ticket) = progress.0.take() {
                        ticket.answer(|out| out.ok());
                    }
                }
                Ok(_) => {}
            }
        });
        shared.control.ask(Command::Decide(request), answer);
    }
    Ok(HostOutcome::Later)
}

/// CLUSTER CANCELSLOTMIGRATIONS: the source stays as it was.
pub fn cancel_all<E: Env>(cx: &mut HostCx<E>) -> Result<HostOutcome, Error> {
    let shared = cx.shared().clone();
    let topology = shared.topology.load_full();
    let moves = topology.as_ref().map(|t| outgoing(t, cx.host.setting.view)).unwrap_or_default();
    if moves.is_empty() {
        return Err(Error::text("ERR No migrations ongoing"));
    }
    let last = moves.len() - 1;
    for (i, mv) in moves.into_iter().enumerate() {
        let ticket = (i == last).then(|| cx.ticket());
        let answer = Box::new(move |result: Result<Outcome, gossip::Refusal>| {
            if let Some(ticket) = ticket {
                ticket.answer(|out| match result {
                    Ok(_) => out.ok(),
                    Err(refusal) => out.error(&refusal.to_string()),
                });
            }
        });
        shared.control.ask(Command::Decide(Request::MoveCancel { id: mv.id }), answer);
    }
    Ok(HostOutcome::Later)
}

fn outgoing(topology: &Topology, view: Option<&ClusterView>) -> Vec<Move> {
    let Some(shard) = view.map(|v| v.me().shard) else { return Vec::new() };
    topology.moves.iter().filter(|m| m.from == shard).cloned().collect()
}

/// Follows the topology: drives the moves that leave this primary, and removes keys of slots that are another's.
pub async fn run<E: Env>(shared: Arc<Shared<E>>) {
    let mut exports: BTreeMap<u64, mpsc::Sender<Event>> = BTreeMap::new();
    // A slot of each, and whose it will be: to tell what became of a move that is listed no more.
    let mut targets: BTreeMap<u64, (Slot, ShardId)> = BTreeMap::new();
    let mut gate = shared.engine.keyspace.gate().register();
    loop {
        // Woken by each version; looks by itself too, since keys of foreign slots may be left for later.
        let _ = tokio::time::timeout(Duration::from_millis(100), shared.adopted.notified()).await;
        let (Some(topology), Some(view)) = (shared.topology.load_full(), shared.view.load_full()) else {
            continue;
        };
        let me = view.myself;
        let Some(shard) = topology.shard_of(me).filter(|s| s.primary.node == me).cloned() else {
            exports.clear();
            continue;
        };
        let now = shared.env.now();
        if !shared.status(now.mono).has_lease {
            continue;
        }
        exports.retain(|_, events| !events.is_closed());
        for mv in topology.moves.iter().filter(|m| m.from == shard.id) {
            let Some(target) = topology.shard(mv.to) else { continue };
            let tag = Tag { id: mv.id, epoch_from: shard.epoch, epoch_to: target.epoch, attempt: 0 };
            targets.insert(mv.id, (mv.slots[0].first, mv.to));
            let nodes = (me, target.primary.node);
            let events = exports.entry(mv.id).or_insert_with(|| export::spawn(&shared, mv, tag, nodes));
            // A full queue is no loss: this is said again at the next look.
            let _ = events.try_send(Event::Listed { epoch_from: tag.epoch_from, epoch_to: tag.epoch_to });
        }
        for (id, events) in &exports {
            if let Some((slot, to)) = targets.get(id)
                && topology.find_move(*id).is_none()
            {
                let _ = events.try_send(Event::Gone { is_moved: topology.owner(*slot) == Some(*to) });
            }
        }
        targets.retain(|id, _| exports.contains_key(id));
        note_imports(&shared, &topology, shard.id, me);
        purge_foreign(&shared, &topology, shard.id, &mut gate).await;
    }
}

fn note_imports<E: Env>(shared: &Shared<E>, topology: &Topology, shard: ShardId, me: NodeId) {
    let now_ms = shared.env.now().wall.0;
    shared.migrations.arriving().retain(|id| topology.find_move(id).is_some_and(|m| m.to == shard));
    for m in shared.migrations.list().iter().filter(|m| !m.is_export && m.state == "importing") {
        if !topology.moves.iter().any(|mv| mv.id == m.id) {
            let is_mine = m.slots.first().is_some_and(|r| topology.owner(r.first) == Some(shard));
            shared.migrations.update(m.id, false, |m| {
                m.state = if is_mine { "success" } else { "canceled" };
                m.updated_ms = now_ms;
            });
        }
    }
    for mv in topology.moves.iter().filter(|m| m.to == shard) {
        let is_known = shared.migrations.list().iter().any(|m| m.id == mv.id && !m.is_export);
        if !is_known {
            let source = topology.shard(mv.from).map_or(me, |s| s.primary.node);
            shared.migrations.add(record(mv, false, source, me, now_ms, "importing"));
        }
    }
}

fn record(
    mv: &Move,
    is_export: bool,
    source: NodeId,
    target: NodeId,
    now_ms: i64,
    state: &'static str,
) -> Migration {
    Migration {
        id: mv.id,
        is_export,
        slots: mv.slots.clone(),
        source,
        target,
        created_ms: now_ms,
        updated_ms: now_ms,
        state,
        message: String::new(),
        remaining_bytes: 0,
        paused_us: 0,
        keys: 0,
    }
}

/// S7: only a primary purges, through its stream, slots that are another's and for which no move to it is listed.
async fn purge_foreign<E: Env>(
    shared: &Arc<Shared<E>>,
    topology: &Topology,
    shard: ShardId,
    gate: &mut GateReader,
) {
    const KEYS_PER_STEP: usize = 100;
    for slot in Slot::all() {
        let is_mine = topology.owner(slot).is_none_or(|owner| owner == shard);
        let keyspace = &shared.engine.keyspace;
        if is_mine || keyspace.slot_len(slot, 0) == 0 {
            continue;
        }
        let is_arriving =
            topology.moves.iter().any(|m| m.to == shard && m.slots.iter().any(|r| r.contains(slot)))
                || topology.hint(slot).is_some_and(|h| h.to == shard);
        if is_arriving {
            continue;
        }
        loop {
            let is_current = shared.topology.load().as_ref().is_some_and(|t| t.ver == topology.ver);
            if !is_current || !shared.status(shared.env.now().mono).has_lease {
                return;
            }
            let inside = gate.enter_wait();
            engine::purge::wake_waiters(&shared.engine, slot);
            let purged = engine::purge::purge(&shared.engine, slot, KEYS_PER_STEP);
            drop(inside);
            if purged == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}
