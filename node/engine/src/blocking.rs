//! Clients that wait for keys (BLPOP and its kin), and keys that clients watch.
//!
//! Waiters stand in queues beside the slots of their keys. Whoever changes such a key serves them, under the same
//! locks and before anybody else can see the change; the reply travels to the waiter's worker through its mailbox.
//!
//! Invariant: a waiter is served, timed out or unblocked once: the three race for one atomic state.

use crate::cx::{Cx, Replay, Waiting};
use crate::keys::Keys;
use crate::spec::Handler;
use crate::table::Spec;
use crate::{Args, Error, Rng, Session};
use proto::Slot;
use proto::resp::Reply;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// A worker's letter box for replies that come from elsewhere.
pub trait Mailbox: Send + Sync {
    /// The reply of a client that waited. `written`: end of what serving it put into the feed, 0 for nothing.
    fn deliver(&self, session: u64, reply: Vec<u8>, written: u64);
    /// The client must run its command again by itself: a slot that it needs is held by another.
    fn retry(&self, session: u64);
}

/// What a command's function asks for when it found nothing.
pub struct WaitRequest {
    pub keys: Vec<Vec<u8>>,
    /// 0: for ever.
    pub timeout_ms: u64,
    /// What runs when a key changed, if not the arguments as they came: a place in a stream that meant "now".
    pub args: Option<Vec<Vec<u8>>>,
    /// Whether an error of the command, run again, is the client's answer. Else the client goes on waiting.
    pub ends_on_error: bool,
}

/// The two forms of "nothing" that blocking commands answer with where a client cannot wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nothing {
    /// Where the reply would be one element.
    String,
    Array,
}

impl Nothing {
    pub fn write(self, out: &mut Reply) {
        match self {
            Nothing::String => out.null(),
            Nothing::Array => out.null_array(),
        }
    }
}

const WAITING: u8 = 0;
/// Somebody runs the waiter's command; it ends within the time that a slot is held.
const SERVING: u8 = 1;
const ENDED: u8 = 2;

/// A client that waits.
pub struct Waiter {
    pub session: u64,
    pub spec: &'static Spec,
    args: Vec<Vec<u8>>,
    pub db: u16,
    is_resp3: bool,
    keys: Vec<Vec<u8>>,
    /// 0: for ever.
    pub timeout_ms: u64,
    ends_on_error: bool,
    phase: AtomicU8,
    mailbox: Arc<dyn Mailbox>,
}

impl Waiter {
    /// Ends the wait. False: it was served or ended before. Spins while somebody serves it.
    pub fn claim(&self) -> bool {
        loop {
            match self.phase.compare_exchange(WAITING, ENDED, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(SERVING) => std::hint::spin_loop(),
                Err(_) => return false,
            }
        }
    }
    fn begin_serving(&self) -> bool {
        self.phase.compare_exchange(WAITING, SERVING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
    fn end_serving(&self, is_served: bool) {
        self.phase.store(if is_served { ENDED } else { WAITING }, Ordering::Release);
    }
    /// Makes the client run its command again.
    pub fn ask_again(&self) {
        self.mailbox.retry(self.session);
    }
    pub fn is_waiting(&self) -> bool {
        self.phase.load(Ordering::Acquire) == WAITING
    }
    /// The slots beside which the waiter stands, ascending and each once.
    pub fn slots(&self) -> SmallVec<[Slot; 4]> {
        let mut slots: SmallVec<[Slot; 4]> = self.keys.iter().map(|k| Slot::of_key(k)).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
    /// Whether the session's user may run the command that waits.
    pub fn is_allowed_to(&self, session: &Session) -> bool {
        let args: SmallVec<[&[u8]; 8]> = self.args.iter().map(|a| a.as_slice()).collect();
        session.check(self.spec, &args).is_ok()
    }
    /// What waits.
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }
    /// The command that waits.
    pub fn args(&self) -> &[Vec<u8>] {
        &self.args
    }
    pub fn keys(&self) -> &[Vec<u8>] {
        &self.keys
    }
    /// What the client gets when its time is up.
    pub fn timeout_reply(&self) -> Vec<u8> {
        let mut out = Reply::new(self.is_resp3);
        // Redis 7.0: a null array when time is up, even where a transaction gets a plain null.
        out.null_array();
        out.take()
    }
}

type Key = (u16, Vec<u8>);

/// What stands beside a slot: clients that wait for its keys or watch them. Only where there are any.
#[derive(Default)]
pub struct SlotSide {
    waiters: BTreeMap<Key, VecDeque<Arc<Waiter>>>,
    watchers: BTreeMap<Key, Vec<Arc<Watched>>>,
}

/// A key that a connection watches.
#[derive(Debug)]
pub struct Watched {
    /// Of the connection: some key of its changed.
    flag: Arc<AtomicBool>,
    /// The key's time was over when WATCH came, but it was still there. That it vanishes is no change.
    is_expired: AtomicBool,
}

impl Watched {
    pub fn new(flag: &Arc<AtomicBool>, is_expired: bool) -> Arc<Watched> {
        Arc::new(Watched { flag: flag.clone(), is_expired: AtomicBool::new(is_expired) })
    }
    pub fn is_expired(&self) -> bool {
        self.is_expired.load(Ordering::Acquire)
    }
    /// The key changed; afterwards it is as `now`.
    fn mark(&self, before: Presence, now: Presence) {
        match (self.is_expired(), before, now) {
            (true, _, Presence::Expired) | (false, Presence::Absent, Presence::Absent) => {}
            (true, _, Presence::Absent) => self.is_expired.store(false, Ordering::Release),
            (false, Presence::Absent, Presence::Expired) => self.is_expired.store(true, Ordering::Release),
            _ => self.flag.store(true, Ordering::Release),
        }
    }
}

/// What is at a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    Absent,
    /// Its time is over, and it is still there.
    Expired,
    Live,
}

impl SlotSide {
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.watchers.is_empty()
    }
    pub fn watch(&mut self, db: u16, key: &[u8], watched: &Arc<Watched>) {
        self.watchers.entry((db, key.to_vec())).or_default().push(watched.clone());
    }
    pub fn unwatch(&mut self, db: u16, key: &[u8], watched: &Arc<Watched>) {
        let key = (db, key.to_vec());
        if let Some(all) = self.watchers.get_mut(&key) {
            all.retain(|w| !Arc::ptr_eq(w, watched));
            if all.is_empty() {
                self.watchers.remove(&key);
            }
        }
    }
    pub fn is_watched(&self, db: u16, key: &[u8]) -> bool {
        !self.watchers.is_empty() && self.watchers.contains_key(&(db, key.to_vec()))
    }
    /// A key changed, so that it is as `now`.
    pub fn mark_watchers(&self, db: u16, key: &[u8], before: Presence, now: Presence) {
        for watched in self.watchers.get(&(db, key.to_vec())).into_iter().flatten() {
            watched.mark(before, now);
        }
    }
    /// The keys that are watched, each once.
    pub fn watched_keys(&self) -> Vec<(u16, Vec<u8>)> {
        self.watchers.keys().cloned().collect()
    }
    pub fn has_waiters(&self, db: u16, key: &[u8]) -> bool {
        !self.waiters.is_empty() && self.waiters.contains_key(&(db, key.to_vec()))
    }
    pub fn waiters(&self) -> impl Iterator<Item = &Arc<Waiter>> {
        self.waiters.values().flatten()
    }
    /// Keys of these databases that somebody waits for.
    pub fn waited_keys(&self, dbs: &[u16]) -> Vec<(u16, Vec<u8>)> {
        self.waiters.keys().filter(|(db, _)| dbs.contains(db)).cloned().collect()
    }
    fn queue(&mut self, db: u16, key: &[u8], waiter: &Arc<Waiter>) {
        self.waiters.entry((db, key.to_vec())).or_default().push_back(waiter.clone());
    }
    /// Takes a waiter out of the queues of this slot.
    pub fn forget(&mut self, waiter: &Arc<Waiter>) {
        self.waiters.retain(|_, queue| {
            queue.retain(|w| !Arc::ptr_eq(w, waiter));
            !queue.is_empty()
        });
    }
    fn first(&self, db: u16, key: &[u8]) -> SmallVec<[Arc<Waiter>; 4]> {
        self.waiters.get(&(db, key.to_vec())).into_iter().flatten().cloned().collect()
    }
}

/// Puts a client into the queues of the keys it waits for. Their slots are locked.
pub fn enqueue(
    keys: &mut Keys<'_>,
    session: &Session,
    spec: &'static Spec,
    args: Args,
    request: WaitRequest,
    mailbox: &Arc<dyn Mailbox>,
) -> Arc<Waiter> {
    let waiter = Arc::new(Waiter {
        session: session.id,
        spec,
        args: request.args.unwrap_or_else(|| args.iter().map(|a| a.to_vec()).collect()),
        db: keys.db,
        is_resp3: session.is_resp3,
        keys: request.keys,
        timeout_ms: request.timeout_ms,
        ends_on_error: request.ends_on_error,
        phase: AtomicU8::new(WAITING),
        mailbox: mailbox.clone(),
    });
    let db = keys.db;
    for key in waiter.keys() {
        keys.side(Slot::of_key(key)).queue(db, key, &waiter);
    }
    waiter
}

/// A reply for a client that was served; delivered after the unit is in the feed.
pub struct Served {
    waiter: Arc<Waiter>,
    reply: Vec<u8>,
}

impl Served {
    pub fn deliver(self, written: u64) {
        self.waiter.mailbox.deliver(self.waiter.session, self.reply, written);
    }
}

/// Serves the clients that wait for keys which changed, in the order in which they came, until nothing changes any
/// more: one gets what is popped, all get what is only read. Bounded: each round serves a waiter or ends. `each` is
/// called for each of them, with what serving it is replayed as.
pub fn serve<'g>(keys: &mut Keys<'g>, rng: &mut Rng, each: &mut dyn FnMut(&mut Keys<'g>, Served)) {
    while let Some((db, key)) = keys.effects.ready.pop() {
        let slot = Slot::of_key(&key);
        for waiter in keys.side(slot).first(db, &key) {
            if !waiter.is_waiting() {
                keys.side(slot).forget(&waiter);
                continue;
            }
            match attempt(keys, rng, &waiter) {
                Attempt::Done(reply) => {
                    for slot in waiter.slots() {
                        keys.side(slot).forget(&waiter);
                    }
                    each(keys, Served { waiter, reply });
                }
                Attempt::Retry => waiter.mailbox.retry(waiter.session),
                Attempt::Nothing => {}
            }
        }
    }
}

enum Attempt {
    Done(Vec<u8>),
    /// A slot is held by another.
    Retry,
    /// There is nothing for this client; it goes on waiting.
    Nothing,
}

fn attempt(keys: &mut Keys<'_>, rng: &mut Rng, waiter: &Arc<Waiter>) -> Attempt {
    let args: SmallVec<[&[u8]; 8]> = waiter.args.iter().map(|a| a.as_slice()).collect();
    let Some(slots) = waiter.spec.slots(&args) else { return Attempt::Nothing };
    if !keys.locks.try_extend(&slots) {
        return Attempt::Retry;
    }
    if !waiter.begin_serving() {
        return Attempt::Nothing;
    }
    let reply = run_for(keys, rng, waiter, &args);
    waiter.end_serving(reply.is_some());
    reply.map_or(Attempt::Nothing, Attempt::Done)
}

/// Runs a waiter's command; `None` when it goes on waiting. A key of the wrong type ends no wait but that for a group of
/// a stream, as in Redis.
fn run_for(keys: &mut Keys<'_>, rng: &mut Rng, waiter: &Waiter, args: Args) -> Option<Vec<u8>> {
    let Handler::Keys(run) = waiter.spec.command.run else { return None };
    let mut out = Reply::new(waiter.is_resp3);
    let (db, dirty) = (keys.db, keys.effects.dirty);
    keys.db = waiter.db;
    let mut cx = Cx::new(args, keys, &mut out, rng, Waiting::Allowed);
    cx.is_resumed = true;
    let result: Result<(), Error> = run(&mut cx);
    let (is_waiting, replay) = (cx.unfinished.is_some(), cx.replay);
    keys.db = db;
    if let Err(error) = result {
        if !waiter.ends_on_error {
            return None;
        }
        keys.stats.count_error(error.code());
        keys.stats.commands[waiter.spec.id].failed.add(1);
        out.clear();
        out.error(&error.to_string());
        return Some(out.take());
    }
    if is_waiting {
        return None;
    }
    if keys.effects.dirty > dirty && replay == Replay::AsIs {
        keys.unit.push(waiter.db, &waiter.args);
    }
    Some(out.take())
}
