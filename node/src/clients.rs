//! The register of clients: what CLIENT LIST shows of connections that other threads serve.

use crate::socket::UNIX_ADDRESS;
use engine::blocking::Waiter;
use proto::Now;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// CLIENT LIST counts unsent bytes in blocks of this size, which Redis keeps them in.
const OUTPUT_BLOCK_BYTES: usize = 16 * 1024;

/// One client. Numbers are written by its worker after each batch, without synchronisation.
pub struct Client {
    pub id: u64,
    /// See [`Client::worker`].
    worker: AtomicUsize,
    pub peer: SocketAddr,
    pub own: SocketAddr,
    /// It came by the Unix socket at this path.
    pub unix_path: Option<Arc<str>>,
    /// Wall clock, in ms.
    pub created_ms: i64,
    pub text: Mutex<ClientText>,
    /// Id of the client that is told instead of it; -1: it does not track.
    pub redirect: AtomicI64,
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
    /// Bytes of arguments that have come of a command that has not come whole.
    pub argument_bytes: AtomicUsize,
    pub output_bytes: AtomicUsize,
    /// What of that others may send as well.
    pub shared_bytes: AtomicUsize,
    /// Bytes of the arguments that are queued since MULTI.
    pub multi_bytes: AtomicUsize,
    /// Bytes of names that are kept for it: channels, watched keys, prefixes.
    pub name_bytes: AtomicUsize,
    pub prefix_bytes: AtomicUsize,
    /// Keys that it watches.
    pub watched: AtomicUsize,
    /// What of its memory, and of what it shares, stands in the sums over all clients.
    counted: AtomicUsize,
    counted_shared: AtomicUsize,
    pub resp: AtomicU32,
    /// Id of the last command's spec plus one; 0: none yet.
    pub command: AtomicUsize,
    pub total_commands: AtomicU64,
    is_killed: AtomicBool,
    /// What it waits for.
    waiter: Mutex<Option<Arc<Waiter>>>,
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
    pub const TRACKING: u32 = 1 << 11;
    pub const BCAST: u32 = 1 << 12;
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
    pub evicted: AtomicU64,
    /// Bytes of all clients' buffers; what several share counts for each.
    bytes: AtomicUsize,
    /// What of that is shared.
    shared_bytes: AtomicUsize,
    /// What they may be at most, `maxmemory-clients`; 0: any number.
    pub bytes_max: AtomicUsize,
}

impl Client {
    /// The worker that serves it, or is about to.
    #[inline]
    pub fn worker(&self) -> usize {
        self.worker.load(Ordering::Acquire)
    }
    /// Its worker hands it to another.
    pub fn move_to(&self, worker: usize) {
        self.worker.store(worker, Ordering::Release);
    }
    /// Its worker has run so many commands of it.
    #[inline]
    pub fn saw(&self, ran: usize, now: Now) {
        self.last_active_ms.store(now.wall.0, Ordering::Relaxed);
        // Nobody else counts.
        let before = self.total_commands.load(Ordering::Relaxed);
        self.total_commands.store(before + ran as u64, Ordering::Relaxed);
    }
    /// Nothing stood in its buffers when they were looked at last, and it is counted so.
    #[inline]
    pub fn has_empty_buffers(&self) -> bool {
        let all = [&self.query_bytes, &self.argument_bytes, &self.output_bytes];
        all.iter().all(|bytes| bytes.load(Ordering::Relaxed) == 0)
            && self.counted.load(Ordering::Relaxed) == self.memory_bytes()
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, worker: usize, peer: SocketAddr, own: SocketAddr, now_ms: i64) -> Arc<Client> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            worker: AtomicUsize::new(worker),
            peer,
            own,
            unix_path: self.unix_path.get().filter(|_| peer == UNIX_ADDRESS).cloned(),
            created_ms: now_ms,
            text: Mutex::new(ClientText { user: "default".into(), ..ClientText::default() }),
            redirect: AtomicI64::new(-1),
            user_id: AtomicU64::new(0),
            last_active_ms: AtomicI64::new(now_ms),
            db: AtomicU16::new(0),
            state: AtomicU32::new(0),
            subscriptions: Default::default(),
            multi: AtomicI64::new(-1),
            query_bytes: AtomicUsize::new(0),
            argument_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            shared_bytes: AtomicUsize::new(0),
            multi_bytes: AtomicUsize::new(0),
            name_bytes: AtomicUsize::new(0),
            prefix_bytes: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
            counted_shared: AtomicUsize::new(0),
            resp: AtomicU32::new(2),
            command: AtomicUsize::new(0),
            total_commands: AtomicU64::new(0),
            is_killed: AtomicBool::new(false),
            waiter: Mutex::default(),
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
            self.uncount(&client);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
    /// Bytes of all clients' buffers; what several share counts for each.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
    /// Bytes of what is no client's alone.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes.load(Ordering::Relaxed)
    }
    /// Counts what a client takes now, unless it has ended or is about to.
    pub fn count_bytes(&self, client: &Client) {
        let now = client.memory_bytes();
        let has_ended = || client.is_gone.load(Ordering::Relaxed) || client.is_killed();
        if client.counted.load(Ordering::Relaxed) == now || has_ended() {
            return;
        }
        let renew = |sum: &AtomicUsize, counted: &AtomicUsize, now: usize| {
            sum.fetch_add(now.wrapping_sub(counted.swap(now, Ordering::AcqRel)), Ordering::Relaxed);
        };
        renew(&self.bytes, &client.counted, now);
        let shared = client.shared_bytes.load(Ordering::Relaxed);
        if client.counted_shared.load(Ordering::Relaxed) != shared {
            renew(&self.shared_bytes, &client.counted_shared, shared);
        }
        if has_ended() {
            self.uncount(client);
        }
    }
    fn uncount(&self, client: &Client) {
        self.bytes.fetch_sub(client.counted.swap(0, Ordering::AcqRel), Ordering::Relaxed);
        self.shared_bytes.fetch_sub(client.counted_shared.swap(0, Ordering::AcqRel), Ordering::Relaxed);
    }
    /// Chooses clients to be disconnected, the largest first, until the others take at most `max` bytes. Links of
    /// replicas and of the primary stay, and who said CLIENT NO-EVICT ON.
    pub fn choose_victims(&self, max: usize) -> Vec<Arc<Client>> {
        // Held throughout: who comes meanwhile finds the sum as it is then, and does not choose others.
        let clients = self.lock();
        let mut all: Vec<_> = clients.values().cloned().collect();
        all.retain(|c| !c.has(state::NO_EVICT | state::REPLICA | state::PRIMARY) && !c.is_killed());
        all.sort_by_key(|c| std::cmp::Reverse(c.counted.load(Ordering::Relaxed)));
        let mut victims = Vec::new();
        for client in all {
            if self.bytes() <= max {
                break;
            }
            if !client.kill() {
                continue;
            }
            self.uncount(&client);
            self.evicted.fetch_add(1, Ordering::Relaxed);
            victims.push(client);
        }
        victims
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
    /// It is ended: from now on it is not served, told or listed. Its worker has to be told. False: it was ended before.
    pub fn kill(&self) -> bool {
        let is_first = !self.is_killed.swap(true, Ordering::AcqRel);
        self.claim_wait();
        is_first
    }
    pub fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Acquire)
    }
    fn waiter(&self) -> MutexGuard<'_, Option<Arc<Waiter>>> {
        self.waiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Says what it waits for.
    pub fn set_waiter(&self, waiter: Option<Arc<Waiter>>) {
        *self.waiter() = waiter;
        if self.is_killed() {
            self.claim_wait();
        }
    }
    /// Ends its wait, so that nobody serves it any more; its worker has to be told. False: it does not wait, or was
    /// served.
    pub fn claim_wait(&self) -> bool {
        self.waiter().as_ref().is_some_and(|waiter| waiter.claim())
    }
    pub fn has(&self, states: u32) -> bool {
        self.state.load(Ordering::Relaxed) & states != 0
    }

    /// Bytes of its buffers, and of what is kept for it anyway.
    pub fn memory_bytes(&self) -> usize {
        const KEPT: usize = 1024;
        let buffers = [
            &self.query_bytes,
            &self.argument_bytes,
            &self.output_bytes,
            &self.multi_bytes,
            &self.name_bytes,
            &self.prefix_bytes,
        ];
        buffers.iter().map(|n| n.load(Ordering::Relaxed)).sum::<usize>() + KEPT
    }
    /// The letters of its states, as CLIENT LIST shows them.
    pub fn flags(&self) -> String {
        const LETTERS: [(u32, char); 13] = [
            (state::MONITOR, 'O'),
            (state::REPLICA, 'S'),
            (state::PRIMARY, 'M'),
            (state::SUBSCRIBED, 'P'),
            (state::MULTI, 'x'),
            (state::BLOCKED, 'b'),
            (state::TRACKING, 't'),
            (state::BCAST, 'B'),
            (state::DIRTY, 'd'),
            (state::CLOSING, 'c'),
            (state::READONLY, 'r'),
            (state::NO_EVICT, 'e'),
            (state::NO_TOUCH, 'T'),
        ];
        let flags: String = LETTERS.iter().filter(|(s, _)| self.has(*s)).map(|(_, l)| *l).collect();
        let flags = if self.unix_path.is_some() { flags + "U" } else { flags };
        if flags.is_empty() { "N".into() } else { flags }
    }
    /// Whole seconds since its last command.
    pub fn idle_s(&self, now_ms: i64) -> i64 {
        (now_ms - self.last_active_ms.load(Ordering::Relaxed)).max(0) / 1000
    }
    /// Whole seconds since it came.
    pub fn age_s(&self, now_ms: i64) -> i64 {
        (now_ms - self.created_ms).max(0) / 1000
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

    /// The line of CLIENT LIST, without its end. `query`: bytes of its command, if it is the one that asks.
    pub fn line(&self, now_ms: i64, command: &str, query: Option<usize>) -> String {
        let text = self.text().clone();
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let [sub, psub, ssub] = [0, 1, 2].map(|i: usize| self.subscriptions[i].load(Ordering::Relaxed));
        let query_bytes = query.unwrap_or_else(|| load(&self.query_bytes));
        let own_bytes = query.unwrap_or(0);
        let argv_bytes = own_bytes + load(&self.argument_bytes);
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={sub} psub={psub} ssub={ssub} multi={} qbuf={query_bytes} qbuf-free=0 argv-mem={argv_bytes} multi-mem={} rbs=0 rbp=0 obl=0 oll={} omem={} tot-mem={} events=r cmd={command} user={} redir={} resp={} lib-name={} lib-ver={} tot-cmds={} watch={}",
            self.id,
            self.peer_text(),
            self.own_text(),
            self.id + 7,
            text.name,
            self.age_s(now_ms),
            self.idle_s(now_ms),
            self.flags(),
            self.db.load(Ordering::Relaxed),
            self.multi.load(Ordering::Relaxed),
            load(&self.multi_bytes),
            load(&self.output_bytes).div_ceil(OUTPUT_BLOCK_BYTES),
            load(&self.output_bytes),
            self.memory_bytes() + own_bytes,
            text.user,
            self.redirect.load(Ordering::Relaxed),
            self.resp.load(Ordering::Relaxed),
            text.lib_name,
            text.lib_version,
            self.total_commands.load(Ordering::Relaxed),
            load(&self.watched),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_go_until_the_rest_fits() {
        let clients = Clients::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let sizes = [10_000, 50_000, 30_000, 90_000];
        let all: Vec<_> = sizes
            .iter()
            .map(|bytes| {
                let client = clients.add(0, address, address, 0);
                client.query_bytes.store(*bytes, Ordering::Relaxed);
                clients.count_bytes(&client);
                client
            })
            .collect();
        all[3].state.store(state::NO_EVICT, Ordering::Relaxed);
        assert_eq!(clients.bytes(), 180_000 + 4 * 1024);
        all[0].output_bytes.store(500, Ordering::Relaxed);
        all[0].shared_bytes.store(400, Ordering::Relaxed);
        clients.count_bytes(&all[0]);
        assert_eq!((clients.bytes(), clients.shared_bytes()), (180_500 + 4 * 1024, 400));
        all[0].output_bytes.store(0, Ordering::Relaxed);
        all[0].shared_bytes.store(0, Ordering::Relaxed);
        clients.count_bytes(&all[0]);
        assert_eq!(clients.shared_bytes(), 0);
        let victims: Vec<u64> = clients.choose_victims(140_000).iter().map(|c| c.id).collect();
        assert_eq!(victims, [all[1].id]);
        assert!(clients.choose_victims(140_000).is_empty());
        clients.count_bytes(&all[1]);
        assert_eq!(clients.bytes(), 130_000 + 3 * 1024, "one that is about to end takes nothing");
        clients.remove(all[3].id);
        assert_eq!(clients.bytes(), 40_000 + 2 * 1024);
        clients.count_bytes(&all[3]);
        assert_eq!(clients.bytes(), 40_000 + 2 * 1024, "one that is gone takes nothing");
    }
}
