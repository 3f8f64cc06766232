//! Replication links: replicas of this node ([`primary`]), and this node as a replica ([`link`]).
//!
//! The protocol is Redis's PSYNC, so that a stock Redis or Valkey can stand on either side.
//! Invariant: what the feed holds up to its end has been carried out here, and nothing else; a snapshot begun with the
//! gate closed is therefore the state at the feed's end.
//! Invariant: when the history gets another name or begins anew, all replicas of this node are made to ask again.

mod describe;
pub mod failover;
mod link;
mod load;
mod payload;
mod primary;
mod role;
mod transfer;
mod wait;
mod wire;

pub use describe::{Position, ReplicaView};
pub use primary::{SyncRequest, serve};
pub use role::{Target, follow, follow_closed, lead, lead_closed, target};
pub use wait::write as write_tally;
pub use wait::{NO_LOG, Wait, ask_for_acks, ask_for_last_acks, end_wait, log_was_synced, wait_for_copies};

use crate::env::Env;
use crate::shared::Shared;
use proto::{Epoch, Mono, NodeId, Offset, ReplId};
use replication::acks::Acks;
use replication::history::History;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// What both sides of replication share, and what INFO and ROLE show.
pub struct ReplicationState {
    state: Mutex<State>,
    /// Raised when the history changes its name or begins anew: links to replicas of the number before end.
    turn: AtomicU64,
    /// For the link task: the primary to follow is another.
    target_changed: Notify,
    /// For the timer: a client waits, or a hand-over may go on.
    round_due: Notify,
    /// Full syncs that wait for a snapshot, and where the control thread finds them.
    syncs: mpsc::UnboundedSender<payload::Job>,
    syncs_inbox: Mutex<Option<payload::Inbox>>,
    /// Told whenever a replica acknowledged something or came or went; for one listener, the control loop.
    pub acknowledged: Notify,
    /// Told whenever the append-only file was synced; for the link to the primary.
    pub log_synced: Notify,
    /// Epoch of the tenure in which this node leads; 0 while it does not.
    tenure: AtomicU64,
}

pub struct State {
    pub history: History,
    /// The data is that of the history up to the feed's end; not so in and after a full sync that did not finish.
    pub has_history: bool,
    /// The history comes from a snapshot. What we write ourselves is no part of it: the stream may have gone on
    /// elsewhere, or here before a crash.
    is_history_loaded: bool,
    /// Epoch and offset that the node's data files ended with.
    recovered: Option<(Epoch, Offset)>,
    pub info: ReplInfo,
    pub acks: Acks,
    /// By client id: those that sent PSYNC or SYNC.
    replicas: BTreeMap<u64, Replica>,
    /// By client id: what REPLCONF said before that.
    greetings: BTreeMap<u64, Greeting>,
    /// Members whose copies were found not to be ours; for the control loop.
    diverged: BTreeMap<NodeId, (Epoch, u64)>,
    /// The primary finds our copy, in this generation, not to be its own.
    is_refused: Option<u64>,
    /// The generation that has begun so that the copy may be thrown away; nothing was acknowledged in it.
    may_discard: Option<u64>,
    target: Option<Target>,
    target_number: u64,
    failover: Option<failover::Failover>,
    is_following: bool,
    link: LinkState,
    /// Since when there is no replica.
    lonely_since: Option<Mono>,
    last_ping: Option<Mono>,
}

/// What a replica says of itself before it asks for the stream.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    pub port: u16,
    pub ip: Option<String>,
    /// `capa eof`: it takes snapshots whose length is not said before.
    pub can_eof: bool,
    /// `capa psync2`: it takes a new replid with +CONTINUE.
    pub can_psync2: bool,
    pub is_rdb_only: bool,
    /// It wants no keys (`rdb-filter-only functions`).
    pub is_without_data: bool,
    /// In a cluster: who it is, and the generation of its data.
    pub node: Option<(NodeId, u64)>,
    /// In a cluster: the tenure that it follows.
    pub tenure: Option<Epoch>,
}

#[derive(Clone, Debug)]
struct Replica {
    greeting: Greeting,
    ip: String,
    stage: Stage,
}

/// How far a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waits for its snapshot to begin.
    Waiting,
    Snapshot,
    Online,
}

/// Our own link to a primary.
#[derive(Clone, Copy, Debug, Default)]
struct LinkState {
    stage: LinkStage,
    last_io: Option<Mono>,
    down_since: Option<Mono>,
    /// Bytes of the snapshot, if the primary said, and those that came.
    sync_total: Option<u64>,
    sync_read: u64,
    /// Bytes of the stream that came and wait until a pause is over.
    unapplied_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum LinkStage {
    #[default]
    Connect,
    Connecting,
    Handshake,
    Sync,
    Connected,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ReplInfo {
    pub full_syncs: u64,
    pub partial_ok: u64,
    pub partial_err: u64,
}

impl ReplicationState {
    pub fn new(replid: ReplId) -> ReplicationState {
        let state = State {
            history: History::new(replid),
            has_history: true,
            is_history_loaded: false,
            recovered: None,
            info: ReplInfo::default(),
            acks: Acks::default(),
            diverged: BTreeMap::new(),
            is_refused: None,
            may_discard: None,
            replicas: BTreeMap::new(),
            greetings: BTreeMap::new(),
            target: None,
            target_number: 0,
            failover: None,
            is_following: false,
            link: LinkState::default(),
            lonely_since: None,
            last_ping: None,
        };
        let (syncs, syncs_inbox) = mpsc::unbounded_channel();
        ReplicationState {
            state: Mutex::new(state),
            syncs,
            syncs_inbox: Mutex::new(Some(syncs_inbox)),
            turn: AtomicU64::new(0),
            target_changed: Notify::new(),
            round_due: Notify::new(),
            acknowledged: Notify::new(),
            log_synced: Notify::new(),
            tenure: AtomicU64::new(0),
        }
    }
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn info(&self) -> ReplInfo {
        self.state().info
    }
    pub fn replid(&self) -> ReplId {
        self.state().history.replid()
    }
    /// Takes up the history that a snapshot was made of, so that we may go on from it as a replica, and replicas of ours
    /// up to its end. Before the node serves.
    pub fn recover(&self, feed: &replication::feed::Feed, replid: ReplId, offset: Offset) {
        let mut state = self.state();
        state.history = History::new(replid);
        state.is_history_loaded = true;
        feed.restart(offset);
        if offset > Offset(0) {
            feed.turn_backlog_on();
        }
    }
    /// Says what [`ReplicationState::recovered`] answers. Before the control loop starts.
    pub fn set_recovered(&self, epoch: Epoch, offset: Offset) {
        self.state().recovered = Some((epoch, offset));
    }
    /// Gives the history a new name, as if it shared nothing with what it was (DEBUG CHANGE-REPL-ID).
    pub fn rename_history<E: Env>(&self, env: &E) {
        self.state().history.replace(new_replid(env));
        self.next_turn();
    }
    /// CONFIG RESETSTAT.
    pub fn reset_stats(&self) {
        self.state().info = ReplInfo::default();
    }
    /// Changes what a client says of itself as a replica.
    pub fn greet(&self, client: u64, change: impl FnOnce(&mut Greeting)) {
        change(self.state().greetings.entry(client).or_default());
    }

    /// Says in which tenure this node leads; 0: in none.
    pub fn set_tenure(&self, epoch: Epoch) {
        self.tenure.store(epoch.0, Ordering::Release);
    }
    fn tenure(&self) -> Epoch {
        Epoch(self.tenure.load(Ordering::Acquire))
    }
    /// Members whose copies were found not to be ours since the last look: who, tenure and generation.
    pub fn take_diverged(&self) -> BTreeMap<NodeId, (Epoch, u64)> {
        std::mem::take(&mut self.state().diverged)
    }
    /// The generation of our copy that the primary refused to continue, until [`ReplicationState::let_discard`].
    pub fn refused(&self) -> Option<u64> {
        self.state().is_refused
    }
    /// D10: `generation` has begun, durably, for a copy that is to be thrown away.
    pub fn let_discard(&self, generation: u64) {
        let mut state = self.state();
        state.may_discard = Some(generation);
        state.is_refused = None;
    }
    /// The data is that of a history; not so in and after a full sync that did not finish.
    pub fn has_history(&self) -> bool {
        self.state().has_history
    }

    fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }
    /// Makes all replicas ask again.
    fn next_turn(&self) {
        self.turn.fetch_add(1, Ordering::AcqRel);
    }
}

/// A name for a new history.
fn new_replid<E: Env>(env: &E) -> ReplId {
    let mut id = [0u8; 20];
    id.chunks_mut(8).for_each(|c| c.copy_from_slice(&env.rand().to_le_bytes()[..c.len()]));
    ReplId(id)
}

/// Takes up the role that the configuration says.
pub fn start<E: Env>(shared: &Arc<Shared<E>>) {
    if shared.settings().is_cluster {
        // Any node of a cluster may have to serve a replica's partial sync.
        shared.feed.turn_backlog_on();
        return;
    }
    let words = shared.config().get("replicaof").to_string();
    if let Some((host, port)) = words.split_once(' ')
        && let Ok(port) = port.trim().parse()
    {
        {
            // Redis 7.0: what comes from a snapshot may be gone on from; a history of our own nobody shares.
            let mut state = shared.replication.state();
            state.has_history = state.is_history_loaded;
        }
        follow(shared, Some(Target { host: host.into(), port, node: None, generation: 0, tenure: Epoch(0) }));
    } else {
        lead(shared);
    }
}

/// Background work and the link to the primary, for as long as the node lives.
pub async fn run<E: Env>(shared: Arc<Shared<E>>) {
    tokio::join!(rounds(&shared), link::run(&shared), payload::run(&shared));
}

/// Rounds of background work; waits of clients end in time.
const ROUND: Duration = Duration::from_millis(100);

async fn rounds<E: Env>(shared: &Arc<Shared<E>>) {
    loop {
        let now = shared.env.now().mono;
        failover::step(shared);
        let pause = {
            let state = shared.replication.state();
            let wait = state.acks.next_deadline().map(|at| at.since(now));
            wait.into_iter().chain(failover::due_in(&state, now)).fold(ROUND, Duration::min)
        };
        tokio::select! {
            biased;
            () = shared.replication.round_due.notified() => continue,
            () = tokio::time::sleep(pause) => {}
        }
        round(shared, shared.env.now().mono);
    }
}

/// A client's connection has ended, which may have been a replica's.
pub fn forget_client<E: Env>(shared: &Shared<E>, client: u64) {
    let mut state = shared.replication.state();
    state.greetings.remove(&client);
    state.acks.forget_wait(client);
    if state.replicas.remove(&client).is_some() {
        state.acks.remove(client);
        count_good(shared, &state.acks, shared.env.now().mono);
        drop(state);
        shared.replication.acknowledged.notify_one();
    }
}

/// Says how many replicas count for `min-replicas-to-write`. To be called when one comes or goes, and now and then.
fn count_good<E: Env>(shared: &Shared<E>, acks: &Acks, now: Mono) {
    let good = match shared.settings().min_replicas_max_lag_s {
        // Redis: without a bound of the lag the check is off.
        0 => u32::MAX,
        lag_s => acks.good(now, Duration::from_secs(lag_s)) as u32,
    };
    shared.state.good_replicas.store(good, Ordering::Relaxed);
}

/// As [`count_good`], when the bounds may be others.
pub fn recount<E: Env>(shared: &Shared<E>) {
    count_good(shared, &shared.replication.state().acks, shared.env.now().mono);
}

/// Ends the link to the primary, which is then begun anew. False: there is none.
pub fn cut_link<E: Env>(shared: &Shared<E>) -> bool {
    if !shared.state.is_link_up.load(Ordering::Acquire) {
        return false;
    }
    shared.replication.state().target_number += 1;
    shared.replication.target_changed.notify_one();
    true
}

fn round<E: Env>(shared: &Shared<E>, now: Mono) {
    let settings = shared.settings();
    let mut state = shared.replication.state();
    let finished = state.acks.expire(now);
    count_good(shared, &state.acks, now);
    let is_replica = state.is_following;
    let has_replicas = !state.replicas.is_empty();
    let is_ping_due =
        now.since(*state.last_ping.get_or_insert(now)) >= Duration::from_secs(settings.repl_ping_s);
    if is_ping_due {
        state.last_ping = Some(now);
    }
    let is_backlog_stale = drop_backlog_of_nobody(&mut state, now, has_replicas, settings.backlog_ttl_s);
    if is_backlog_stale && !is_replica && !settings.is_cluster && shared.feed.is_backlog_on() {
        // Without a backlog the offset stands still while data changes: the history ends here.
        state.history.replace(new_replid(&shared.env));
        shared.feed.turn_backlog_off();
        tracing::info!("Replication backlog freed after {} seconds without replicas", settings.backlog_ttl_s);
    }
    drop(state);
    wait::answer(shared, finished);
    // During a hand-over the feed's end stands still.
    let is_paused = shared.state.is_paused.load(Ordering::Relaxed);
    if has_replicas && !is_replica && is_ping_due && !is_paused {
        append(shared, &[b"PING"]);
    }
}

fn drop_backlog_of_nobody(state: &mut State, now: Mono, has_replicas: bool, ttl_s: u64) -> bool {
    if has_replicas || ttl_s == 0 {
        state.lonely_since = None;
        return false;
    }
    let since = *state.lonely_since.get_or_insert(now);
    now.since(since) >= Duration::from_secs(ttl_s)
}

/// Puts a command that changes no data into the stream.
fn append<E: Env>(shared: &Shared<E>, args: &[&[u8]]) -> Offset {
    let mut bytes = Vec::new();
    proto::resp::encode_command(args, &mut bytes);
    shared.feed.append(None, [(0u16, bytes.as_slice())].as_slice())
}

/// Wakes a task that reads the feed.
struct Waker(Notify);

impl replication::feed::Wake for Waker {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// Removed when it is not needed any more.
struct TemporaryFile {
    path: String,
    disk: Arc<dyn storage::Disk>,
}

impl TemporaryFile {
    fn new<E: Env>(env: &E, path: String) -> TemporaryFile {
        TemporaryFile { path, disk: env.disk() }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // A file that was not made, or stays behind, harms nobody: the next life overwrites or ignores it.
        let _ = self.disk.remove(&self.path);
    }
}
