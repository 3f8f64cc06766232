//! The register of clients: what CLIENT LIST shows of connections that other threads serve.

use crate::socket::UNIX_ADDRESS;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// CLIENT LIST counts unsent bytes in blocks of this size, which Redis keeps them in.
const OUTPUT_BLOCK_BYTES: usize = 16 * 1024;

/// One client. Numbers are written by its worker after each batch, without synchronisation.
pub struct Client {
    pub id: u64,
    pub worker: usize,
    pub peer: SocketAddr,
    pub own: SocketAddr,
    /// It came by the Unix socket at this path.
    pub unix_path: Option<Arc<str>>,
    /// Wall clock, in ms.
    pub created_ms: i64,
    pub text: Mutex<ClientText>,
    pub last_active_ms: AtomicI64,
    pub db: AtomicU16,
    /// Set of [`state`]s.
    pub state: AtomicU32,
    pub subscriptions: [AtomicU32; 3],
    /// -1: not in a transaction.
    pub multi: AtomicI64,
    pub query_bytes: AtomicUsize,
    pub output_bytes: AtomicUsize,
    pub resp: AtomicU32,
    /// Id of the last command's spec plus one; 0: none yet.
    pub command: AtomicUsize,
    pub total_commands: AtomicU64,
    pub is_killed: AtomicBool,
    /// Its connection has ended.
    pub is_gone: AtomicBool,
}

/// What seldom changes.
#[derive(Clone, Default)]
pub struct ClientText {
    pub name: String,
    pub user: String,
    pub lib_name: String,
    pub lib_version: String,
}

/// States that CLIENT LIST shows as letters.
pub mod state {
    pub const BLOCKED: u32 = 1 << 0;
    pub const MULTI: u32 = 1 << 1;
    pub const SUBSCRIBED: u32 = 1 << 2;
    pub const REPLICA: u32 = 1 << 3;
    pub const PRIMARY: u32 = 1 << 4;
    pub const READONLY: u32 = 1 << 5;
    pub const NO_EVICT: u32 = 1 << 6;
    pub const NO_TOUCH: u32 = 1 << 7;
    pub const DIRTY: u32 = 1 << 8;
    pub const CLOSING: u32 = 1 << 9;
}

/// All clients, by id.
#[derive(Default)]
pub struct Clients {
    /// Path of the Unix socket, in the place of addresses of clients that came there.
    pub unix_path: OnceLock<Arc<str>>,
    all: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
    pub count: AtomicUsize,
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, worker: usize, peer: SocketAddr, own: SocketAddr, now_ms: i64) -> Arc<Client> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            worker,
            peer,
            own,
            unix_path: self.unix_path.get().filter(|_| peer == UNIX_ADDRESS).cloned(),
            created_ms: now_ms,
            text: Mutex::new(ClientText { user: "default".into(), ..ClientText::default() }),
            last_active_ms: AtomicI64::new(now_ms),
            db: AtomicU16::new(0),
            state: AtomicU32::new(0),
            subscriptions: Default::default(),
            multi: AtomicI64::new(-1),
            query_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            resp: AtomicU32::new(2),
            command: AtomicUsize::new(0),
            total_commands: AtomicU64::new(0),
            is_killed: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
        });
        self.lock().insert(id, client.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        client
    }

    pub fn remove(&self, id: u64) {
        let removed = self.lock().remove(&id);
        if let Some(client) = removed {
            client.is_gone.store(true, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.lock().get(&id).cloned()
    }
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }
    /// An id for something that behaves like a client but has no connection to a worker.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Client {
    pub fn text(&self) -> MutexGuard<'_, ClientText> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn has(&self, states: u32) -> bool {
        self.state.load(Ordering::Relaxed) & states != 0
    }

    /// The peer's address, as CLIENT LIST shows it.
    pub fn peer_text(&self) -> String {
        self.unix_path.as_ref().map_or_else(|| self.peer.to_string(), |path| format!("{path}:0"))
    }
    /// Our own address.
    pub fn own_text(&self) -> String {
        self.unix_path.as_ref().map_or_else(|| self.own.to_string(), |path| format!("{path}:0"))
    }

    /// `normal`, `pubsub`, `replica` or `master`.
    pub fn kind(&self) -> &'static str {
        if self.has(state::REPLICA) {
            "replica"
        } else if self.has(state::PRIMARY) {
            "master"
        } else if self.has(state::SUBSCRIBED) {
            "pubsub"
        } else {
            "normal"
        }
    }

    /// The line of CLIENT LIST, without its end.
    pub fn line(&self, now_ms: i64, command: &str) -> String {
        const LETTERS: [(u32, char); 9] = [
            (state::REPLICA, 'S'),
            (state::PRIMARY, 'M'),
            (state::SUBSCRIBED, 'P'),
            (state::MULTI, 'x'),
            (state::BLOCKED, 'b'),
            (state::DIRTY, 'd'),
            (state::CLOSING, 'c'),
            (state::READONLY, 'r'),
            (state::NO_EVICT, 'e'),
        ];
        let mut flags: String = LETTERS.iter().filter(|(s, _)| self.has(*s)).map(|(_, l)| *l).collect();
        if self.unix_path.is_some() {
            flags.push('U');
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let text = self.text().clone();
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let [sub, psub, ssub] = [0, 1, 2].map(|i: usize| self.subscriptions[i].load(Ordering::Relaxed));
        let idle_s = (now_ms - self.last_active_ms.load(Ordering::Relaxed)).max(0) / 1000;
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={idle_s} flags={flags} db={} sub={sub} psub={psub} ssub={ssub} multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll={} omem={} tot-mem={} events=r cmd={command} user={} redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer_text(),
            self.own_text(),
            self.id + 7,
            text.name,
            (now_ms - self.created_ms).max(0) / 1000,
            self.db.load(Ordering::Relaxed),
            self.multi.load(Ordering::Relaxed),
            load(&self.query_bytes),
            load(&self.output_bytes).div_ceil(OUTPUT_BLOCK_BYTES),
            load(&self.output_bytes),
            load(&self.query_bytes) + load(&self.output_bytes) + 1024,
            text.user,
            self.resp.load(Ordering::Relaxed),
            text.lib_name,
            text.lib_version,
        )
    }
}
