//! What all threads of a node share.

use crate::clients::{Client, Clients};
use crate::config::{Config, NodeSettings};
use crate::env::Env;
use crate::mail::{Letter, Mail, Note};
use crate::pubsub::PubSub;
use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::utils::CachePadded;
use engine::stats::Stats;
use engine::{Engine, Status};
use proto::{ClusterView, Mono, Now};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The node's common state. Threads meet here and in their letter boxes, nowhere else.
pub struct Shared<E: Env> {
    pub env: E,
    pub engine: Engine,
    /// Functions of the commands that run in the node, by spec id.
    pub functions: Vec<Option<crate::host::HostFn<E>>>,
    pub feed: Arc<replication::feed::Feed>,
    pub config: Mutex<Config>,
    pub settings: ArcSwap<NodeSettings>,
    /// `None` when cluster mode is off.
    pub view: ArcSwapOption<ClusterView>,
    /// The decided topology behind the view; `None` when cluster mode is off.
    pub topology: ArcSwapOption<gossip::Topology>,
    /// Rings at each new version.
    pub adopted: tokio::sync::Notify,
    pub state: State,
    pub clients: Clients,
    pub users: crate::users::Users,
    pub observe: crate::observe::Observe,
    /// A session of the Lua debugger is open.
    pub debugging: AtomicBool,
    pub tracking: crate::tracking::Tracking,
    pub pause: crate::pause::Pause,
    pub pubsub: PubSub,
    pub messages: crate::message::Messages,
    pub mail: Vec<Arc<Mail<E::Socket>>>,
    /// Clients per worker, for who hands out connections.
    pub load: Vec<AtomicUsize>,
    pub crew: crate::crew::Crew,
    /// Counters of each worker, then of each worker's side thread, then of the debugger's, then of the control thread, which
    /// applies a primary's stream. Each is added to by its thread alone.
    pub stats: Vec<Arc<CachePadded<Stats>>>,
    pub counters: Counters,
    pub started: Now,
    /// 40 hex digits that change with every start.
    pub run_id: String,
    pub control: crate::control::ControlHandle,
    pub persist: crate::persist::PersistHandle<E::Socket>,
    pub disposal: crate::free::Disposal,
    pub listening: crate::listen::ListenHandle<E::Socket>,
    /// What new connections over TLS use; `None` until it is configured.
    pub tls: ArcSwapOption<crate::tls::Tls>,
    pub replication: crate::replica::ReplicationState,
    pub migrations: crate::migrate::Migrations,
    pub migrate_links: crate::commands::migrate_links::Links,
}

/// What decides whether commands run; read once per batch.
#[derive(Default)]
pub struct State {
    pub is_loading: AtomicBool,
    /// A primary's data are loaded beside ours, which is served meanwhile.
    pub is_loading_beside: AtomicBool,
    pub is_replica: AtomicBool,
    pub is_link_up: AtomicBool,
    pub is_save_failing: AtomicBool,
    pub is_log_failing: AtomicBool,
    pub is_paused: AtomicBool,
    /// Why writes wait before they take locks: a set of [`throttle`] causes. Whoever sets one takes it back.
    pub throttle: AtomicU32,
    /// Database that a replica's stream has selected; set by its link inside the gate, with the bytes it appends.
    pub stream_db: AtomicU32,
    pub good_replicas: AtomicU32,
    /// Cluster mode: until when this node may serve as a primary, in microseconds of the monotonic clock.
    pub lease_until: AtomicU64,
    /// Replies to writes wait until the feed is released up to their end.
    pub is_gated: AtomicBool,
    /// Replies to reads wait as well.
    pub is_read_gated: AtomicBool,
    pub released: AtomicU64,
    /// Counts tenures whose held replies will never be allowed: whoever still waits for one is disconnected.
    pub term: AtomicU64,
    /// The in-sync set is smaller than `min-in-sync`.
    pub is_short_of_copies: AtomicBool,
    /// What each [`gate`] lets through: `None` for all, else the offset up to which units may be acknowledged.
    gates: Mutex<[Option<u64>; 2]>,
    /// The append-only file has taken the feed up to here; meaningless while there is none.
    pub log_taken: AtomicU64,
    /// The append-only file is durable up to here; 0 while there is none.
    pub log_synced: AtomicU64,
    pub is_shutting_down: AtomicBool,
    /// Workers do nothing that they are not asked for (DEBUG PAUSE-CRON).
    pub is_cron_paused: AtomicBool,
    /// Active expiry is on (DEBUG SET-ACTIVE-EXPIRE).
    pub is_expiring: AtomicBool,
    /// Counts moves that took slots from here: a batch that began before the last one knows the slots' owner wrongly.
    pub slots_left: AtomicU64,
}

/// How far replies may leave, and in which term: see [`State::term`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    pub end: u64,
    pub term: u64,
}

/// Causes for writes to wait: somebody who must keep what they bring is behind.
pub mod throttle {
    /// A snapshot's consumer.
    pub const SNAPSHOT: u32 = 1 << 0;
    /// The append-only file.
    pub const LOG: u32 = 1 << 1;
    /// A slot migration.
    pub const MIGRATION: u32 = 1 << 2;
    /// The node is about to end.
    pub const SHUTDOWN: u32 = 1 << 3;
}

/// Who may hold back replies to writes; see [`Shared::allow`].
pub mod gate {
    /// `appendfsync always`: until the log is durable.
    pub const LOG: usize = 0;
    /// `durability`: until the in-sync set has it.
    pub const IN_SYNC: usize = 1;
}

impl State {
    /// Sets or takes back a cause for writes to wait.
    pub fn set_throttle(&self, cause: u32, is_on: bool) {
        match is_on {
            true => self.throttle.fetch_or(cause, Ordering::Relaxed),
            false => self.throttle.fetch_and(!cause, Ordering::Relaxed),
        };
    }
    /// Writes wait, for a hand-over or for somebody who is behind.
    pub fn holds_writes(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed) || self.throttle.load(Ordering::Relaxed) != 0
    }
}

/// Figures of INFO that no worker owns.
#[derive(Default)]
pub struct Counters {
    /// Bytes of replication links; those of clients are counted by their workers.
    pub net_in: AtomicU64,
    pub net_out: AtomicU64,
    pub blocked: AtomicUsize,
    pub peak_bytes: AtomicU64,
    /// See [`crate::memory::counted`].
    pub text_bytes: AtomicU64,
    /// Commands a second, sampled by the control thread.
    pub ops_per_s: AtomicU64,
    pub bytes_in_per_s: AtomicU64,
    pub bytes_out_per_s: AtomicU64,
    pub ticks_per_us: AtomicU64,
    pub clock_ms: AtomicI64,
}

impl<E: Env> Shared<E> {
    pub fn settings(&self) -> arc_swap::Guard<Arc<NodeSettings>> {
        self.settings.load()
    }
    pub fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Makes the typed settings follow the table.
    pub fn publish_config(&self, config: &Config) {
        let mut settings = NodeSettings::from(config);
        settings.engine.thresholds.hash_seed = self.settings().engine.thresholds.hash_seed;
        self.clients.bytes_max.store(settings.clients_bytes_max, Ordering::Relaxed);
        self.evict_clients();
        self.settings.store(Arc::new(settings));
        self.renew_observe();
    }

    pub fn status(&self, now: Mono) -> Status {
        let s = &self.state;
        let load = |b: &AtomicBool| b.load(Ordering::Relaxed);
        Status {
            is_loading: load(&s.is_loading),
            is_loading_beside: load(&s.is_loading_beside),
            is_replica: load(&s.is_replica),
            is_link_up: load(&s.is_link_up),
            has_lease: now.0 < s.lease_until.load(Ordering::Acquire),
            is_save_failing: load(&s.is_save_failing),
            is_log_failing: load(&s.is_log_failing),
            good_replicas: s.good_replicas.load(Ordering::Relaxed),
            is_paused: s.holds_writes() || self.pause.holds_writes(now),
            is_paused_for_all: self.pause.holds_all(now),
            is_short_of_copies: load(&s.is_short_of_copies),
            is_busy: self.is_busy(now),
        }
    }

    /// What a client is told while a slow script runs. `None`: none does.
    pub fn busy_script(&self) -> Option<engine::Error> {
        let slow_ms = self.settings().engine.busy_reply_threshold_ms;
        self.engine.scripts.control.busy(self.env.now().mono, slow_ms)
    }

    /// A slow script keeps everybody from being served, since the settings say so.
    fn is_busy(&self, now: Mono) -> bool {
        let control = &self.engine.scripts.control;
        control.is_any() && {
            let settings = &self.settings().engine;
            settings.is_busy_for_all && control.is_slow(now, settings.busy_reply_threshold_ms)
        }
    }

    /// Closes the gate for the node's own sake, such as a change of its role, which cannot wait. A script that stays
    /// inside for longer than a moment is ended, even if it has written: the control thread would miss its lease.
    pub fn close_gate(&self) -> storage::GateClosed<'_> {
        loop {
            if let Some(closed) = self.engine.keyspace.gate().try_close() {
                return closed;
            }
            self.end_long_scripts();
        }
    }

    /// Ends scripts that count as slow, since the primary's stream needs what they hold: the control thread would not
    /// answer its peers.
    pub fn end_slow_scripts(&self) {
        let slow_ms = self.settings().engine.busy_reply_threshold_ms;
        if slow_ms > 0 && self.engine.scripts.control.is_any() {
            self.engine.scripts.control.stop(self.env.now().mono, slow_ms);
        }
    }

    /// Ends scripts that keep the node from what it has to do.
    pub fn end_long_scripts(&self) {
        const MOMENT_MS: u64 = 200;
        self.engine.scripts.control.stop(self.env.now().mono, MOMENT_MS);
        self.env.stall(std::time::Duration::from_millis(1));
    }

    /// As the keyspace's own for who must not wait for a script without end: such a one is ended.
    pub fn lock_for_node(&self, slot: proto::Slot) -> storage::SlotGuard<'_> {
        loop {
            if let Some(guard) = self.engine.keyspace.lock_soon(slot) {
                return guard;
            }
            self.end_long_scripts();
        }
    }

    /// What may leave now.
    pub fn released(&self) -> Released {
        // In this order: whoever sees an offset of a later term sees that term as well.
        let end = self.state.released.load(Ordering::Acquire);
        Released { end, term: self.state.term.load(Ordering::Acquire) }
    }

    /// Lets held replies go whose units end at or before `end`.
    fn release(&self, end: u64) {
        if self.state.released.fetch_max(end, Ordering::AcqRel) < end {
            self.mail.iter().for_each(|m| m.post(Letter::Released));
        }
    }

    /// A [`gate`] lets replies go whose units end at or before `end`; `None`: all of them. What all gates let through
    /// is released.
    pub fn allow(&self, gate: usize, end: Option<u64>) {
        let mut gates = self.gates();
        gates[gate] = end;
        let held = gates.iter().flatten().min().copied();
        self.state.is_gated.store(held.is_some(), Ordering::SeqCst);
        self.release(held.unwrap_or(self.feed.end().0));
    }
    fn gates(&self) -> MutexGuard<'_, [Option<u64>; 2]> {
        self.state.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reply that was held just when the last gate opened is let go.
    pub fn release_if_open(&self) {
        let gates = self.gates();
        if gates.iter().all(Option::is_none) {
            self.release(self.feed.end().0);
        }
    }

    /// The feed began anew at `end`: what was said of its offsets before holds no more.
    pub fn restart_release(&self, end: u64) {
        let _gates = self.gates();
        self.state.released.store(end, Ordering::SeqCst);
        self.mail.iter().for_each(|m| m.post(Letter::Released));
    }

    /// A tenure begins whose set holds nothing for certain yet: nothing is allowed to leave, not even what is read of
    /// earlier tenures (D13). The caller knows that this node does not serve.
    pub fn hold_all(&self) {
        let mut gates = self.gates();
        gates[gate::IN_SYNC] = Some(0);
        self.state.released.store(0, Ordering::SeqCst);
        self.state.is_gated.store(true, Ordering::SeqCst);
        self.state.is_read_gated.store(true, Ordering::SeqCst);
    }

    /// A tenure has ended: what it had not acknowledged never leaves; those who wait for it are disconnected, since
    /// nobody knows its outcome. The caller knows that this node does not serve.
    pub fn end_term(&self) {
        self.state.term.fetch_add(1, Ordering::SeqCst);
        self.state.is_read_gated.store(false, Ordering::SeqCst);
        self.allow(gate::IN_SYNC, None);
        self.mail.iter().for_each(|m| m.post(Letter::Released));
    }

    /// The worker with the fewest clients, of those that serve.
    pub fn least_loaded(&self) -> usize {
        let load = |i: &usize| self.load[*i].load(Ordering::Relaxed);
        (0..self.crew.active()).min_by_key(load).expect("at least one worker")
    }
    /// The letter box of the worker that serves a client.
    pub fn mail_of(&self, client: &Client) -> &Arc<Mail<E::Socket>> {
        &self.mail[client.worker()]
    }
    /// Has a worker free what is large: one that has little to do.
    pub fn dispose(&self, garbage: crate::free::Garbage) {
        self.dispose_at(&self.mail[self.least_loaded()], garbage);
    }
    /// As [`Shared::dispose`], by the worker of this letter box.
    pub fn dispose_at(&self, mail: &Mail<E::Socket>, garbage: crate::free::Garbage) {
        self.disposal.count(&garbage);
        mail.post(Letter::Garbage(garbage));
    }
    /// Posts to the worker that serves a client.
    pub fn tell(&self, client: &Client, note: Note) {
        self.mail_of(client).post(Letter::Client(client.id, note));
    }
    /// As [`Shared::tell`] for the client of an id, if there is one.
    pub fn tell_id(&self, client: u64, note: Note) {
        if let Some(client) = self.clients.get(client) {
            self.tell(&client, note);
        }
    }

    /// Where the clients' buffers take too much together, ends the largest clients.
    #[inline]
    pub fn evict_clients(&self) {
        let max = self.clients.bytes_max.load(Ordering::Relaxed);
        if max > 0 && self.clients.bytes() > max {
            for victim in self.clients.choose_victims(max) {
                tracing::info!(client = victim.id, peer = %victim.peer, "Evicting client");
                self.tell(&victim, Note::Kill { is_soft: false });
            }
        }
    }

    /// Ends the wait of a client that is blocked, with an error or as if its time were up. False: it does not wait.
    pub fn unblock(&self, client: u64, is_error: bool) -> bool {
        let Some(client) = self.clients.get(client) else { return false };
        let tally = match client.claim_wait() {
            true => None,
            false => match crate::replica::end_wait(self, client.id) {
                Some(tally) => Some(tally),
                None => return false,
            },
        };
        self.tell(&client, Note::Unblock { is_error, tally });
        true
    }

    /// Sends a message to all subscribers of this node.
    pub fn publish(&self, space: crate::pubsub::Space, channel: &[u8], message: &[u8]) -> usize {
        self.pubsub.publish(space, channel, message, &self.messages, &mut |receiver, message| {
            self.tell(&receiver.client, Note::Push(message));
        })
    }

    /// Puts a changed configuration in force.
    pub fn replace_config(&self, next: Config) {
        let mut config = self.config();
        let is_room_less = config.get("maxmemory") != next.get("maxmemory");
        let password = next.get("requirepass").to_string();
        let is_password_new = config.get("requirepass") != password;
        *config = next;
        self.publish_config(&config);
        drop(config);
        if is_password_new {
            self.users.set_default_password(&crate::users::rules(self), password.as_bytes());
        }
        if is_room_less {
            // Soon, and not with the next round: whoever lowered the limit looks at what went.
            self.mail[0].post_round();
        }
        self.persist.request(crate::persist::PersistRequest::ConfigChanged);
        self.apply_config();
    }

    /// Gives the process its title, where it is this node's.
    pub fn renew_title(&self) {
        let config = self.config();
        self.env.set_title(&|program| crate::title::of(&config, program));
    }

    /// Carries out what follows from the settings in force.
    pub fn apply_config(&self) {
        let settings = self.settings();
        self.renew_title();
        crate::memory::renew(self);
        crate::tracking::trim(self);
        crate::replica::recount(self);
        self.feed.set_backlog_bytes(settings.backlog_bytes);
        // From the reply to CONFIG SET on, not from when the log's task comes to it.
        let is_complete = self.persist.status().is_log_complete;
        if settings.appendonly && settings.appendfsync == crate::config::Fsync::Always && is_complete {
            self.allow(gate::LOG, Some(self.state.log_synced.load(Ordering::Acquire)));
        }
    }

    /// Removes all data, at once for everybody; it is freed in the background.
    pub fn flush_all(&self) {
        let closed = self.close_gate();
        let before = self.replace_all(None, &closed);
        drop(closed);
        self.dispose(before);
    }

    /// Puts other data in the place of all, or nothing. What was there before is the caller's to dispose of.
    pub fn replace_all(
        &self,
        next: Option<storage::Keyspace>,
        closed: &storage::GateClosed<'_>,
    ) -> crate::free::Garbage {
        let now_ms = self.env.now().wall.0;
        let before = engine::replace::replace(&self.engine.keyspace, next, now_ms, closed);
        crate::tracking::invalidate_all(self);
        before.into_iter().map(|table| Box::new(table) as Box<dyn std::any::Any + Send>).collect()
    }

    /// CONFIG RESETSTAT.
    pub fn reset_stats(&self) {
        self.stats.iter().for_each(|stats| stats.reset());
        self.disposal.total.store(0, Ordering::Relaxed);
        self.clients.accepted.store(0, Ordering::Relaxed);
        self.clients.rejected.store(0, Ordering::Relaxed);
        self.clients.evicted.store(0, Ordering::Relaxed);
        self.users.log.reset_counts();
        self.counters.net_in.store(0, Ordering::Relaxed);
        self.counters.net_out.store(0, Ordering::Relaxed);
    }

    /// Changes of data since the node began, Redis's `dirty`.
    pub fn dirty(&self) -> u64 {
        self.stats.iter().map(|stats| stats.dirty.get()).sum()
    }

    /// Statistics of all workers together.
    pub fn total_stats(&self) -> Stats {
        let total = Stats::new(self.engine.table.len());
        self.stats.iter().for_each(|stats| total.add(stats));
        total
    }
}

/// A reply that a client waits for while somebody else works for it.
pub struct Ticket<S> {
    mail: Arc<Mail<S>>,
    client: u64,
    pub is_resp3: bool,
}

impl<S> Ticket<S> {
    pub fn new(mail: Arc<Mail<S>>, client: u64, is_resp3: bool) -> Ticket<S> {
        Ticket { mail, client, is_resp3 }
    }
    /// Answers with what `write` writes. A client that went away is not missed.
    pub fn answer(self, write: impl FnOnce(&mut proto::resp::Reply)) {
        let mut out = proto::resp::Reply::new(self.is_resp3);
        write(&mut out);
        self.mail.post(Letter::Client(self.client, Note::Reply { bytes: out.take(), written: 0 }));
    }
}
