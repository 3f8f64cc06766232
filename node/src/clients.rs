//! The register of clients: what CLIENT LIST shows of connections that other threads serve.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One client. Numbers are written by its worker after each batch, without synchronisation.
pub struct Client {
    pub id: u64,
    pub worker: usize,
    pub peer: SocketAddr,
    pub own: SocketAddr,
    /// Wall clock, in ms.
    pub created_ms: i64,
    pub text: Mutex<ClientText>,
    /// Id of its user.
    pub user_id: AtomicU64,
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
    pub const MONITOR: u32 = 1 << 10;
}

/// All clients, by id.
#[derive(Default)]
pub struct Clients {
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
            created_ms: now_ms,
            text: Mutex::new(ClientText { user: "default".into(), ..ClientText::default() }),
            user_id: AtomicU64::new(0),
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
    /// Says whose connection this is.
    pub fn set_user(&self, user: &engine::acl::User) {
        self.user_id.store(user.id, Ordering::Relaxed);
        self.text().user = String::from_utf8_lossy(&user.name).into_owned();
    }
    pub fn has(&self, states: u32) -> bool {
        self.state.load(Ordering::Relaxed) & states != 0
    }

    /// Bytes of its buffers, and of what is kept for it anyway.
    pub fn memory_bytes(&self) -> usize {
        const KEPT: usize = 1024;
        self.query_bytes.load(Ordering::Relaxed) + self.output_bytes.load(Ordering::Relaxed) + KEPT
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
        const LETTERS: [(u32, char); 10] = [
            (state::MONITOR, 'O'),
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
        if flags.is_empty() {
            flags.push('N');
        }
        let text = self.text().clone();
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let [sub, psub, ssub] = [0, 1, 2].map(|i: usize| self.subscriptions[i].load(Ordering::Relaxed));
        let idle_s = (now_ms - self.last_active_ms.load(Ordering::Relaxed)).max(0) / 1000;
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={idle_s} flags={flags} db={} sub={sub} psub={psub} ssub={ssub} multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll=0 omem=0 tot-mem={} events=r cmd={command} user={} redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer,
            self.own,
            self.id + 7,
            text.name,
            (now_ms - self.created_ms).max(0) / 1000,
            self.db.load(Ordering::Relaxed),
            self.multi.load(Ordering::Relaxed),
            load(&self.query_bytes),
            load(&self.output_bytes),
            self.memory_bytes(),
            text.user,
            self.resp.load(Ordering::Relaxed),
            text.lib_name,
            text.lib_version,
        )
    }
}
