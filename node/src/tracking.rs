//! Client-side caching: who is to be told when which keys change. Follows CLIENT TRACKING of Redis.
//!
//! Keys that a client has read stand in a table under its id, in parts that are locked by themselves; the first change
//! takes them out and tells. Clients in broadcast mode stand under their prefixes instead. Both happen while the keys'
//! slots are locked, so that a client that reads a value is in the table before anybody changes it, and a change is told
//! before anybody reads what it left. Messages go through the letter box of the client's worker, after the reply of the
//! command that is running there.
//!
//! Invariant: while nobody tracks nothing is remembered, and a command pays one branch.

use crate::clients::{Client, state};
use crate::env::Env;
use crate::mail::Note;
use crate::shared::Shared;
use engine::ChangedKey;
use engine::session::Tracking as Mode;
use proto::resp::Reply;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Where RESP2 clients that another one is redirected to are told.
const CHANNEL: &[u8] = b"__redis__:invalidate";
const PARTS: usize = 64;
/// What a prefix takes beside its bytes: places in two tables.
const PREFIX_BYTES: usize = 128;
/// What a key takes beside its bytes: its place in the table, of which a third is empty, and an allocation.
const KEY_BYTES: usize = 96;

/// One client that tracks.
pub struct Tracker {
    client: Arc<Client>,
    pub mode: Mode,
    /// It is not told of what it changes itself.
    pub is_noloop: bool,
    /// Id of the client that is told instead; 0: itself.
    pub redirect: u64,
    pub prefixes: BTreeSet<Vec<u8>>,
    /// Who should be told instead is gone.
    pub is_broken: AtomicBool,
}

type Part = BTreeMap<Vec<u8>, SmallVec<[u64; 2]>>;

/// See the module's head.
pub struct Tracking {
    /// Clients that track.
    count: AtomicUsize,
    clients: RwLock<BTreeMap<u64, Arc<Tracker>>>,
    prefixes: RwLock<BTreeMap<Vec<u8>, BTreeSet<u64>>>,
    parts: [Mutex<Part>; PARTS],
    keys: AtomicUsize,
    items: AtomicUsize,
    key_bytes: AtomicUsize,
}

impl Default for Tracking {
    fn default() -> Tracking {
        Tracking {
            count: AtomicUsize::new(0),
            clients: RwLock::default(),
            prefixes: RwLock::default(),
            parts: std::array::from_fn(|_| Mutex::default()),
            keys: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            key_bytes: AtomicUsize::new(0),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client is told.
enum Message<'a> {
    Keys(&'a [&'a [u8]]),
    All,
}

impl Tracking {
    /// Somebody tracks, or keys are left in the table by who did.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0 || self.keys.load(Ordering::Relaxed) > 0
    }
    /// Clients that track, keys and clients in the table, prefixes.
    pub fn figures(&self) -> [usize; 4] {
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        [load(&self.count), load(&self.keys), load(&self.items), read(&self.prefixes).len()]
    }
    /// Bytes of the table, about. What is kept for prefixes is counted with their clients.
    pub fn bytes(&self) -> usize {
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        load(&self.key_bytes) + load(&self.items) * size_of::<u64>()
    }
    pub fn get(&self, client: u64) -> Option<Arc<Tracker>> {
        read(&self.clients).get(&client).cloned()
    }

    /// A client tracks from now on, or in another way. Prefixes are added to those it has.
    pub fn begin(
        &self,
        client: &Arc<Client>,
        mode: Mode,
        is_noloop: bool,
        redirect: u64,
        prefixes: &[&[u8]],
    ) {
        let mut all: BTreeSet<Vec<u8>> = self.get(client.id).map(|t| t.prefixes.clone()).unwrap_or_default();
        if mode.is_bcast {
            let new: &[&[u8]] = if prefixes.is_empty() { &[b""] } else { prefixes };
            let mut table = write(&self.prefixes);
            for prefix in new {
                table.entry(prefix.to_vec()).or_default().insert(client.id);
                all.insert(prefix.to_vec());
            }
        }
        let bytes = all.iter().map(|prefix| prefix.len() + PREFIX_BYTES).sum();
        client.prefix_bytes.store(bytes, Ordering::Relaxed);
        let tracker = Tracker {
            client: client.clone(),
            mode,
            is_noloop,
            redirect,
            prefixes: all,
            is_broken: AtomicBool::new(false),
        };
        if write(&self.clients).insert(client.id, Arc::new(tracker)).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A client tracks no more, if it did. What stands in the table for it goes when the keys change.
    pub fn end(&self, client: u64) {
        let Some(tracker) = write(&self.clients).remove(&client) else { return };
        tracker.client.prefix_bytes.store(0, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        let mut table = write(&self.prefixes);
        for prefix in &tracker.prefixes {
            if let Some(ids) = table.get_mut(prefix) {
                ids.remove(&client);
                if ids.is_empty() {
                    table.remove(prefix);
                }
            }
        }
    }

    fn part(&self, key: &[u8]) -> &Mutex<Part> {
        // Any spreading will do; a client that makes keys fall together slows down itself.
        let hash = key.iter().fold(key.len(), |hash, c| hash.wrapping_mul(31).wrapping_add(*c as usize));
        &self.parts[(hash ^ hash >> 8) % PARTS]
    }

    fn remember(&self, client: u64, key: &[u8]) {
        let mut part = lock(self.part(key));
        match part.get_mut(key) {
            Some(ids) if ids.contains(&client) => return,
            Some(ids) => ids.push(client),
            None => {
                part.insert(key.to_vec(), SmallVec::from_slice(&[client]));
                self.keys.fetch_add(1, Ordering::Relaxed);
                self.key_bytes.fetch_add(key.len() + KEY_BYTES, Ordering::Relaxed);
            }
        }
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a key out of the table; gives who read it.
    fn forget(&self, key: &[u8]) -> SmallVec<[u64; 2]> {
        let Some(ids) = lock(self.part(key)).remove(key) else { return SmallVec::new() };
        self.keys.fetch_sub(1, Ordering::Relaxed);
        self.key_bytes.fetch_sub(key.len() + KEY_BYTES, Ordering::Relaxed);
        self.items.fetch_sub(ids.len(), Ordering::Relaxed);
        ids
    }

    fn clear(&self) {
        for part in &self.parts {
            let part = std::mem::take(&mut *lock(part));
            self.keys.fetch_sub(part.len(), Ordering::Relaxed);
            self.key_bytes.fetch_sub(part.keys().map(|key| key.len() + KEY_BYTES).sum(), Ordering::Relaxed);
            self.items.fetch_sub(part.values().map(|ids| ids.len()).sum(), Ordering::Relaxed);
        }
    }
}

/// A client has read keys, whose slots are locked.
pub fn remember<E: Env>(shared: &Shared<E>, client: u64, keys: &mut dyn Iterator<Item = &[u8]>) {
    keys.for_each(|key| shared.tracking.remember(client, key));
    trim(shared);
}

/// Keys changed, whose slots are locked. `by`: the client whose command it was.
pub fn invalidate<E: Env>(shared: &Shared<E>, by: Option<u64>, changed: &[ChangedKey]) {
    let tracking = &shared.tracking;
    for change in changed {
        for id in tracking.forget(&change.key) {
            let Some(tracker) = tracking.get(id) else { continue };
            let is_own = tracker.is_noloop && change.is_own && by == Some(id);
            if !tracker.mode.is_bcast && !is_own {
                send(shared, &tracker, &Message::Keys(&[&change.key]));
            }
        }
    }
    broadcast(shared, by, changed);
}

/// Tells the clients of each prefix of all keys with it, in one message each.
fn broadcast<E: Env>(shared: &Shared<E>, by: Option<u64>, changed: &[ChangedKey]) {
    let tracking = &shared.tracking;
    let prefixes = read(&tracking.prefixes);
    for (prefix, ids) in prefixes.iter() {
        // The last change of a key says whose it is.
        let keys: BTreeMap<&[u8], bool> = changed
            .iter()
            .filter(|c| c.key.starts_with(prefix))
            .map(|c| (c.key.as_slice(), c.is_own))
            .collect();
        if keys.is_empty() {
            continue;
        }
        for tracker in ids.iter().filter_map(|id| tracking.get(*id)) {
            let is_skipped = |is_own: bool| tracker.is_noloop && is_own && by == Some(tracker.client.id);
            let told: Vec<&[u8]> =
                keys.iter().filter(|(_, is_own)| !is_skipped(**is_own)).map(|(key, _)| *key).collect();
            if !told.is_empty() {
                send(shared, &tracker, &Message::Keys(&told));
            }
        }
    }
}

/// A database was emptied: nobody may use anything any more.
pub fn invalidate_all<E: Env>(shared: &Shared<E>) {
    if !shared.tracking.is_on() {
        return;
    }
    shared.tracking.clear();
    let trackers: Vec<Arc<Tracker>> = read(&shared.tracking.clients).values().cloned().collect();
    trackers.iter().for_each(|tracker| send(shared, tracker, &Message::All));
}

/// Keeps the table within `tracking-table-max-keys`: whoever read what is taken out is told that it changed.
pub fn trim<E: Env>(shared: &Shared<E>) {
    let tracking = &shared.tracking;
    let max = shared.settings().tracking_keys_max;
    while max > 0 && tracking.keys.load(Ordering::Relaxed) > max {
        let from = shared.env.rand() as usize % PARTS;
        let key = (0..PARTS).find_map(|i| {
            let part = lock(&tracking.parts[(from + i) % PARTS]);
            part.keys().next().cloned()
        });
        let Some(key) = key else { return };
        for id in tracking.forget(&key) {
            if let Some(tracker) = tracking.get(id).filter(|t| !t.mode.is_bcast) {
                send(shared, &tracker, &Message::Keys(&[&key]));
            }
        }
    }
}

fn send<E: Env>(shared: &Shared<E>, tracker: &Tracker, message: &Message) {
    let redirected = match tracker.redirect {
        0 => None,
        id => match shared.clients.get(id) {
            Some(client) => Some(client),
            None => return tell_broken(shared, tracker),
        },
    };
    let client = redirected.as_ref().unwrap_or(&tracker.client);
    let is_resp3 = client.resp.load(Ordering::Relaxed) == 3;
    let mut out = Reply::new(is_resp3);
    if is_resp3 {
        out.push(2);
        out.bulk(b"invalidate");
    } else if redirected.is_some() && client.has(state::SUBSCRIBED) {
        out.array(3);
        out.bulk(b"message");
        out.bulk(CHANNEL);
    } else {
        // RESP2 has no place for what nobody asked for.
        return;
    }
    match message {
        Message::All => out.null(),
        Message::Keys(keys) => {
            out.array(keys.len());
            keys.iter().for_each(|key| out.bulk(key));
        }
    }
    shared.tell(client, Note::Push(shared.messages.make(out.take())));
}

/// Whoever should be told is gone: the client that tracks learns it.
fn tell_broken<E: Env>(shared: &Shared<E>, tracker: &Tracker) {
    tracker.is_broken.store(true, Ordering::Relaxed);
    let client = &tracker.client;
    if client.resp.load(Ordering::Relaxed) != 3 {
        return;
    }
    let mut out = Reply::new(true);
    out.push(2);
    out.bulk(b"tracking-redir-broken");
    out.int(tracker.redirect as i64);
    shared.tell(client, Note::Push(shared.messages.make(out.take())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;

    fn client(clients: &Clients) -> Arc<Client> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        clients.add(0, address, address, 0)
    }

    #[test]
    fn keys_are_remembered_once_and_forgotten_at_once() {
        let tracking = Tracking::default();
        [(1, "a"), (1, "a"), (2, "a"), (1, "b")]
            .iter()
            .for_each(|(id, k)| tracking.remember(*id, k.as_bytes()));
        assert_eq!(tracking.figures()[1..3], [2, 3]);
        assert_eq!(tracking.bytes(), 2 * (1 + KEY_BYTES) + 3 * 8);
        assert_eq!(tracking.forget(b"a").as_slice(), [1, 2]);
        assert!(tracking.forget(b"a").is_empty());
        assert_eq!(tracking.bytes(), 1 + KEY_BYTES + 8);
        tracking.clear();
        assert_eq!((tracking.figures()[1..3].to_vec(), tracking.bytes()), (vec![0, 0], 0));
    }

    #[test]
    fn prefixes_add_up_and_go_with_their_client() {
        let (tracking, clients) = (Tracking::default(), Clients::default());
        let (one, two) = (client(&clients), client(&clients));
        let mode = Mode { is_bcast: true, ..Mode::default() };
        tracking.begin(&one, mode, false, 0, &[b"a:"]);
        tracking.begin(&one, mode, false, 0, &[b"b:"]);
        tracking.begin(&two, mode, false, 0, &[]);
        assert_eq!(tracking.figures(), [2, 0, 0, 3]);
        assert_eq!(tracking.get(one.id).unwrap().prefixes.len(), 2);
        tracking.end(one.id);
        assert_eq!(tracking.figures(), [1, 0, 0, 1]);
        tracking.end(two.id);
        assert!(!tracking.is_on());
    }
}
