//! Keys under lock: lookups with expiry, changes with what follows from them (watchers, waiters, notifications,
//! the count of changes).

use crate::Kept;
use crate::blocking::SlotSide;
use crate::error::Error;
use crate::evict;
use crate::propagate::Unit;
use crate::settings::{Settings, notify};
use crate::stats::Stats;
use crate::turn::{Host, Turn};
use proto::Slot;
use smallvec::SmallVec;
use std::any::Any;
use storage::{
    Db, DbMut, Entry, EntryMut, Expiry, GateClosed, Hash, Keyspace, List, Set, SlotGuard, Stream, Value,
    ValueMut, ValueRef, ZSet,
};

/// Locked slots. Ascending, all taken before the first effect; with the gate closed they are taken as they are met,
/// since nobody else runs.
pub struct Locks<'g> {
    keyspace: &'g Keyspace,
    held: SmallVec<[SlotGuard<'g>; 2]>,
    exclusive: Option<&'g GateClosed<'g>>,
}

impl<'g> Locks<'g> {
    /// Locks `slots`, which ascend. `Err`: this slot is held by another for longer than one spins; nothing is locked.
    pub fn take(keyspace: &'g Keyspace, slots: &[Slot]) -> Result<Locks<'g>, Slot> {
        let mut held = SmallVec::new();
        for slot in slots {
            held.push(keyspace.lock(*slot).ok_or(*slot)?);
        }
        Ok(Locks { keyspace, held, exclusive: None })
    }

    /// With the gate closed: every slot may be used.
    pub fn exclusive(keyspace: &'g Keyspace, closed: &'g GateClosed<'g>) -> Locks<'g> {
        Locks { keyspace, held: SmallVec::new(), exclusive: Some(closed) }
    }

    /// Locks the slots, or none where the gate is closed.
    pub fn take_for(turn: &Turn<'g>, slots: &[Slot]) -> Result<Locks<'g>, Slot> {
        match turn.exclusive {
            Some(closed) => Ok(Locks::exclusive(&turn.engine.keyspace, closed)),
            None => Locks::take(&turn.engine.keyspace, slots),
        }
    }

    /// Also locks `slots` if none of them has to be waited for. Order does not matter for a lock that is not waited for.
    pub fn try_extend(&mut self, slots: &[Slot]) -> bool {
        for slot in slots {
            if let Err(place) = self.place(*slot) {
                match self.keyspace.try_lock(*slot) {
                    Some(guard) => self.held.insert(place, guard),
                    None => return false,
                }
            }
        }
        true
    }

    /// Slots that are held at present.
    pub fn slots(&self) -> SmallVec<[Slot; 4]> {
        self.held.iter().map(|g| g.slot()).collect()
    }

    #[inline]
    fn place(&self, slot: Slot) -> Result<usize, usize> {
        match self.held.as_slice() {
            [only] if only.slot() == slot => Ok(0),
            held => held.binary_search_by_key(&slot, |g| g.slot()),
        }
    }

    /// The guard of a slot. Panics when the slot is not among the locked: the key specs of the command are wrong.
    #[inline]
    pub fn guard(&mut self, slot: Slot) -> &mut SlotGuard<'g> {
        let place = self.place(slot).unwrap_or_else(|_| self.lock_more(slot));
        &mut self.held[place]
    }

    #[cold]
    fn lock_more(&mut self, slot: Slot) -> usize {
        assert!(self.exclusive.is_some(), "slot {slot} is not locked: a key outside the declared key specs");
        // A long exclusive command must not hold all slots that it passed.
        self.held.clear();
        self.held.push(self.keyspace.lock_wait(slot));
        0
    }
}

impl<'g> Locks<'g> {
    /// Runs `f` on any slot, for commands that go through the keyspace. They hold no other lock: with others they
    /// run with the gate closed.
    pub fn visit<R>(&mut self, slot: Slot, f: impl FnOnce(&mut SlotGuard<'g>) -> R) -> R {
        if self.exclusive.is_some() || self.place(slot).is_ok() {
            return f(self.guard(slot));
        }
        assert!(self.held.is_empty(), "waiting for a slot while another is held");
        f(&mut self.keyspace.lock_wait(slot))
    }
}

/// A change that notifications tell of.
struct Event {
    name: &'static str,
    db: u16,
    key: Vec<u8>,
}

impl Event {
    fn publish(&self, set: u32, host: &mut dyn Host) {
        if set & notify::KEYSPACE != 0 {
            let channel = [format!("__keyspace@{}__:", self.db).as_bytes(), &self.key].concat();
            host.publish(&channel, self.name.as_bytes());
        }
        if set & notify::KEYEVENT != 0 {
            host.publish(format!("__keyevent@{}__:{}", self.db, self.name).as_bytes(), &self.key);
        }
    }
}

/// What a command has caused so far.
#[derive(Default)]
pub struct Effects {
    /// Number of changes; Redis's `dirty`.
    pub dirty: u64,
    events: Vec<Event>,
    /// Keys that clients wait for and that changed.
    pub ready: Vec<(u16, Vec<u8>)>,
    /// Removed values and tables, to be freed elsewhere.
    pub garbage: Vec<Box<dyn Any + Send>>,
}

impl Effects {
    #[inline]
    fn has_more(&self) -> bool {
        !self.garbage.is_empty() || !self.events.is_empty() || !self.ready.is_empty()
    }

    #[cold]
    fn carry_out(&mut self, notified: u32, host: &mut dyn Host) {
        self.ready.clear();
        let garbage = std::mem::take(&mut self.garbage);
        if !garbage.is_empty() {
            host.dispose(garbage);
        }
        self.events.drain(..).for_each(|e| e.publish(notified, host));
    }
}

/// Slot and hash of one of the command's keys, so that they are computed once.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Where the key's bytes stand: which argument it is.
    key: (usize, usize),
    pub slot: Slot,
    hash: u64,
}

impl Place {
    pub(crate) fn new(key: &[u8], slot: Slot, hash: u64) -> Place {
        Place { key: (key.as_ptr().addr(), key.len()), slot, hash }
    }
    #[inline]
    fn is_of(&self, key: &[u8]) -> bool {
        self.key == (key.as_ptr().addr(), key.len())
    }
}

/// Places of the keys of a command, in order.
pub(crate) type Places = SmallVec<[Place; 1]>;

/// Slots of the keys, ascending and each once.
pub(crate) type Slots = SmallVec<[Slot; 4]>;

/// The place of the only key of a command.
#[inline]
pub(crate) fn single_place(turn: &Turn, key: &[u8]) -> Place {
    let (slot, hash) = turn.first_key.unwrap_or_else(|| (Slot::of_key(key), turn.engine.keyspace.hash(key)));
    Place::new(key, slot, hash)
}

/// The places of a command's keys, whose memory is asked for meanwhile, and their slots, ascending and each once.
/// `first`: slot and hash of argument 1, if it is a key and they are known. `None`: the arguments do not fit the key specs.
pub(crate) fn places(turn: &Turn, spec: &crate::Spec, args: crate::Args, db: u16) -> (Places, Slots) {
    /// Keys whose memory is asked for ahead: what a first-level cache holds.
    const AHEAD_MAX: usize = 128;
    let keyspace = &turn.engine.keyspace;
    // Redis: arguments that do not fit the key specs name no keys. The function says what is wrong with them before it
    // touches any.
    let Some(numbers) = spec.key_positions(args) else { return Default::default() };
    let places: Places = numbers
        .iter()
        .map(|i| {
            let place = Place::new(args[*i], Slot::of_key(args[*i]), keyspace.hash(args[*i]));
            keyspace.prefetch_slot(place.slot);
            place
        })
        .collect();
    if places.len() > 1 && turn.exclusive.is_none() {
        let ahead = &places[..places.len().min(AHEAD_MAX)];
        ahead.iter().for_each(|p| keyspace.prefetch_segment(p.slot, db, p.hash));
        ahead.iter().for_each(|p| keyspace.prefetch_entry(p.slot, db, p.hash));
    }
    let mut slots: Slots = places.iter().map(|p| p.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    (places, slots)
}

/// The keyspace as one command sees it.
pub struct Keys<'g> {
    pub locks: Locks<'g>,
    places: Places,
    /// The place that was looked up last.
    at_place: usize,
    pub keyspace: &'g Keyspace,
    pub settings: &'g Settings,
    pub db: u16,
    pub now_ms: i64,
    /// False on a replica and while a stream is applied: expired keys are hidden or kept, never removed.
    pub may_expire: bool,
    /// True while a stream is applied: an expired key is still there, its primary will delete it.
    pub sees_expired: bool,
    /// Reads leave the access clock alone.
    pub is_no_touch: bool,
    pub effects: Kept<Effects>,
    pub unit: Kept<Unit>,
    pub stats: Kept<Stats>,
}

/// A type of collection that a key may hold.
pub trait Collection: Sized {
    fn of(value: ValueRef<'_>) -> Option<&Self>;
    fn of_mut(value: ValueMut<'_>) -> Option<&mut Self>;
    /// Whether its key goes: it holds nothing that is worth keeping.
    fn is_empty(&self) -> bool;
    fn new() -> Self;
    fn into_value(self) -> Value;
}

macro_rules! collection {
    ($t:ident, $is_empty:expr) => {
        impl Collection for $t {
            fn of(value: ValueRef<'_>) -> Option<&Self> {
                if let ValueRef::$t(v) = value { Some(v) } else { None }
            }
            fn of_mut(value: ValueMut<'_>) -> Option<&mut Self> {
                if let ValueMut::$t(v) = value { Some(v) } else { None }
            }
            fn is_empty(&self) -> bool {
                let is_empty: fn(&Self) -> bool = $is_empty;
                is_empty(self)
            }
            fn new() -> Self {
                $t::new()
            }
            fn into_value(self) -> Value {
                Value::$t(Box::new(self))
            }
        }
    };
}
collection!(List, |v| v.len() == 0);
collection!(Set, |v| v.len() == 0);
collection!(Hash, |v| v.len() == 0);
collection!(ZSet, |v| v.len() == 0);
// A stream without entries still has its last id and its groups.
collection!(Stream, |_| false);

impl<'g> Keys<'g> {
    /// Borrows the worker's unit, statistics and list of effects; [`Keys::give_back`] returns them.
    #[inline]
    pub fn new(turn: &mut Turn<'g>, locks: Locks<'g>, db: u16) -> Keys<'g> {
        let mut unit = turn.local.unit.lend();
        unit.clear();
        Keys {
            locks,
            places: Places::new(),
            at_place: 0,
            keyspace: &turn.engine.keyspace,
            settings: turn.settings,
            db,
            now_ms: turn.now.wall.0,
            may_expire: !turn.status.is_replica,
            sees_expired: false,
            is_no_touch: false,
            effects: turn.local.effects.lend(),
            unit,
            stats: turn.local.stats.lend(),
        }
    }

    /// Unlocks and hands back what was borrowed; what was removed and what is to be told goes to the host.
    #[inline]
    pub fn give_back(&mut self, turn: &mut Turn<'g>) {
        self.locks.held.clear();
        turn.local.unit = self.unit.lend();
        turn.local.stats = self.stats.lend();
        self.effects.dirty = 0;
        if self.effects.has_more() {
            self.effects.carry_out(self.settings.notify_keyspace_events, turn.host);
        }
        turn.local.effects = self.effects.lend();
    }

    /// Takes the places of the command that runs next.
    pub(crate) fn set_places(&mut self, places: Places) {
        (self.places, self.at_place) = (places, 0);
    }

    /// Slot and hash of a key. Commands use their keys mostly in order, and each several times.
    #[inline]
    fn place(&mut self, key: &[u8]) -> (Slot, u64) {
        match self.places.get(self.at_place) {
            Some(place) if place.is_of(key) => (place.slot, place.hash),
            _ => self.next_place(key),
        }
    }
    fn next_place(&mut self, key: &[u8]) -> (Slot, u64) {
        match self.places.get(self.at_place + 1) {
            Some(place) if place.is_of(key) => {
                self.at_place += 1;
                (place.slot, place.hash)
            }
            _ => (Slot::of_key(key), self.keyspace.hash(key)),
        }
    }

    #[inline]
    fn db(&mut self, key: &[u8]) -> (Db<'_>, u64) {
        let (slot, hash) = self.place(key);
        let db = self.db;
        (self.locks.guard(slot).db(db), hash)
    }
    #[inline]
    fn db_mut(&mut self, key: &[u8]) -> (DbMut<'_>, u64) {
        let (slot, hash) = self.place(key);
        let db = self.db;
        (self.locks.guard(slot).db_mut(db), hash)
    }

    /// Whether the key may be one that has expired; false for every key of a slot in which none has.
    #[inline]
    fn may_be_due(&mut self, slot: Slot) -> bool {
        let db = self.locks.guard(slot).db(self.db);
        db.expires_len() != 0 && !self.sees_expired && db.next_expiry() <= self.now_ms
    }

    /// Whether the key is there and has not expired. An expired one is removed where this node may.
    pub fn exists(&mut self, key: &[u8]) -> bool {
        let now_ms = self.now_ms;
        let (db, hash) = self.db(key);
        let expire = match db.get(key, hash) {
            None => return false,
            Some(entry) => entry.expire_ms(),
        };
        if self.sees_expired || expire.is_none_or(|at| at > now_ms) {
            return true;
        }
        if self.may_expire {
            self.expire(key);
        }
        false
    }

    /// Whether the key is still held although its time has come.
    pub fn is_held_expired(&mut self, key: &[u8]) -> bool {
        let now_ms = self.now_ms;
        let (db, hash) = self.db(key);
        db.get(key, hash).and_then(|e| e.expire_ms()).is_some_and(|at| at <= now_ms)
    }

    /// Removes a key whose time has come, as a write of its own.
    pub fn expire(&mut self, key: &[u8]) {
        let (mut db, hash) = self.db_mut(key);
        db.remove(key, hash);
        let verb: &[u8] = if self.settings.lazyfree_lazy_expire { b"UNLINK" } else { b"DEL" };
        self.unit.push(self.db, &[verb, key]);
        self.stats.expired += 1;
        self.changed(key, notify::EXPIRED, "expired");
    }

    /// The entry of a key for reading, which counts as a hit or a miss.
    #[inline]
    pub fn read(&mut self, key: &[u8]) -> Option<Entry<'_>> {
        let (slot, hash) = self.place(key);
        let is_gone = self.may_be_due(slot) && !self.exists(key);
        let Keys { locks, stats, effects, settings, db, now_ms, is_no_touch, .. } = self;
        let entry = if is_gone { None } else { locks.guard(slot).db(*db).get(key, hash) };
        match &entry {
            Some(entry) => {
                stats.hits += 1;
                if !*is_no_touch {
                    entry.set_clock(evict::touched(
                        entry.clock(),
                        *now_ms,
                        settings.maxmemory_policy.is_lfu(),
                    ));
                }
            }
            None => {
                stats.misses += 1;
                if settings.notify_keyspace_events & notify::KEY_MISS != 0 {
                    effects.events.push(Event { name: "keymiss", db: *db, key: key.to_vec() });
                }
            }
        }
        entry
    }

    /// The entry of a key for writing; its access clock is set. Does not count as a hit or a miss, as in Redis.
    pub fn write(&mut self, key: &[u8]) -> Option<EntryMut<'_>> {
        let (slot, hash) = self.place(key);
        if self.may_be_due(slot) && !self.exists(key) {
            return None;
        }
        let Keys { locks, settings, db, now_ms, is_no_touch, .. } = self;
        let entry = locks.guard(slot).db_mut(*db).into_entry(key, hash)?;
        if !*is_no_touch {
            let clock = entry.read().clock();
            entry.read().set_clock(evict::touched(clock, *now_ms, settings.maxmemory_policy.is_lfu()));
        }
        Some(entry)
    }

    /// As [`Keys::read`] without statistics and access clock: TTL, TYPE, OBJECT, EXISTS.
    pub fn peek(&mut self, key: &[u8]) -> Option<Entry<'_>> {
        let (slot, hash) = self.place(key);
        if self.may_be_due(slot) && !self.exists(key) {
            return None;
        }
        self.locks.guard(slot).db(self.db).get(key, hash)
    }

    /// The string at a key. `Err` when it holds another type.
    pub fn read_str(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        match self.read(key).map(|e| e.value()) {
            None => Ok(None),
            Some(ValueRef::Str(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(Error::WrongType),
        }
    }

    /// The collection at a key. `Err` when it holds another type.
    pub fn read_as<C: Collection + 'static>(&mut self, key: &[u8]) -> Result<Option<&C>, Error> {
        match self.read(key) {
            None => Ok(None),
            Some(entry) => C::of(entry.value()).map(Some).ok_or(Error::WrongType),
        }
    }

    /// Runs `f` on the collection at a key; `None` when there is none. Removes the key if the collection is empty
    /// afterwards. `Err` when the key holds another type.
    pub fn update<C: Collection, R>(
        &mut self,
        key: &[u8],
        f: impl FnOnce(&mut C) -> R,
    ) -> Result<Option<R>, Error> {
        let Some(mut entry) = self.write(key) else { return Ok(None) };
        let collection = C::of_mut(entry.value_mut()).ok_or(Error::WrongType)?;
        let result = f(collection);
        let is_empty = collection.is_empty();
        drop(entry);
        if is_empty {
            self.drop_empty(key);
        }
        Ok(Some(result))
    }

    /// As [`Keys::update`], on a new collection where there is none. A collection that stays empty is not kept.
    pub fn update_or_new<C: Collection, R>(
        &mut self,
        key: &[u8],
        f: impl FnOnce(&mut C) -> R,
    ) -> Result<R, Error> {
        let mut f = Some(f);
        let mut once = |c: &mut C| (f.take().expect("called once"))(c);
        if let Some(result) = self.update(key, &mut once)? {
            return Ok(result);
        }
        let mut collection = C::new();
        let result = once(&mut collection);
        if !collection.is_empty() {
            self.store(key, collection.into_value(), None);
        }
        Ok(result)
    }

    fn drop_empty(&mut self, key: &[u8]) {
        let (mut db, hash) = self.db_mut(key);
        db.remove(key, hash);
        self.event(key, notify::GENERIC, "del");
    }

    /// Puts a string at a key, whatever was there. The caller says [`Keys::changed`].
    pub fn store_str(&mut self, key: &[u8], value: &[u8], expiry: Expiry) {
        let (mut db, hash) = self.db_mut(key);
        if let Some(old) = db.set_str(key, hash, value, expiry) {
            self.discard(old);
        }
    }

    /// Sets the access clock of a key that is there.
    pub fn set_clock(&mut self, key: &[u8], clock: u32) {
        let (db, hash) = self.db(key);
        if let Some(entry) = db.get(key, hash) {
            entry.set_clock(clock);
        }
    }

    /// Appends to the string at a key, which is there. The caller says [`Keys::changed`].
    pub fn append_str(&mut self, key: &[u8], tail: &[u8]) {
        let (mut db, hash) = self.db_mut(key);
        if let Some(mut entry) = db.get_mut(key, hash) {
            entry.append(tail);
        }
    }

    /// Writes `patch` at `offset` into the string at a key, which is made and filled with zeros as needed.
    /// The caller says [`Keys::changed`].
    pub fn overwrite_str(&mut self, key: &[u8], offset: usize, patch: &[u8]) {
        let (mut db, hash) = self.db_mut(key);
        if db.get(key, hash).is_none() {
            db.set_str(key, hash, b"", Expiry::None);
        }
        let mut entry = db.get_mut(key, hash).expect("just made");
        let end = offset + patch.len();
        let len = match entry.read().value() {
            ValueRef::Str(old) => old.len(),
            _ => unreachable!("the caller checked the type"),
        };
        entry.resize_str(end.max(len))[offset..end].copy_from_slice(patch);
    }

    /// Puts a value at a key, whatever was there. The caller says [`Keys::changed`].
    pub fn store(&mut self, key: &[u8], value: Value, expire_ms: Option<i64>) {
        let (mut db, hash) = self.db_mut(key);
        if let Some(old) = db.insert(key, hash, value, expire_ms) {
            self.discard(old);
        }
    }

    /// Removes a key, and says nothing about it: the caller says [`Keys::changed`].
    pub fn take(&mut self, key: &[u8]) -> Option<Value> {
        if !self.exists(key) {
            return None;
        }
        let (mut db, hash) = self.db_mut(key);
        db.remove(key, hash)
    }

    /// Removes a key and says so with a `del` event. False: it was not there.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let is_there = self.delete_quietly(key);
        if is_there {
            self.changed(key, notify::GENERIC, "del");
        }
        is_there
    }

    /// Removes a key and frees its value. The caller says [`Keys::changed`].
    pub fn delete_quietly(&mut self, key: &[u8]) -> bool {
        let Some(value) = self.take(key) else { return false };
        self.discard(value);
        true
    }

    /// Frees a value: here if it is small, elsewhere if it is not.
    fn discard(&mut self, value: Value) {
        const FREED_HERE_MAX: usize = 64 * 1024; // bytes; about 10 microseconds of freeing
        if value.as_ref().outside_bytes() > FREED_HERE_MAX {
            self.effects.garbage.push(Box::new(value));
        }
    }

    /// Removes all keys of a database, or of all. Only with the gate closed.
    pub fn flush(&mut self, db: Option<u16>) {
        for slot in Slot::all() {
            let guard = self.locks.guard(slot);
            for db in db.map_or(0..self.keyspace.databases(), |db| db..db + 1) {
                if let Some(table) = guard.db_mut(db).take_table() {
                    self.effects.garbage.push(Box::new(table));
                }
            }
            if let Some(side) = guard.state_mut().side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
                side.mark_all_watchers(db);
                // Readers of groups learn that their stream is gone.
                let all: SmallVec<[u16; 16]> =
                    db.map_or(0..self.keyspace.databases(), |db| db..db + 1).collect();
                self.effects.ready.extend(side.waited_keys(&all));
            }
        }
    }

    /// Swaps two databases. Only with the gate closed. Clients that wait for keys of either may find them now.
    pub fn swap_dbs(&mut self, a: u16, b: u16) {
        let closed = self.locks.exclusive.expect("runs with the gate closed");
        self.locks.held.clear();
        self.keyspace.swap_dbs(a, b, closed);
        for slot in Slot::all() {
            let state = self.locks.guard(slot).state_mut();
            if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
                side.mark_all_watchers(Some(a));
                side.mark_all_watchers(Some(b));
                self.effects.ready.extend(side.waited_keys(&[a, b]));
            }
        }
    }

    /// Sets or removes (`None`) the expiry time of a key. False: no such key.
    pub fn set_expire(&mut self, key: &[u8], at_ms: Option<i64>) -> bool {
        let (mut db, hash) = self.db_mut(key);
        db.set_expire(key, hash, at_ms)
    }

    /// Says that a key changed: watchers see it, clients that wait for it are served, subscribers are told, and the
    /// command is replayed elsewhere.
    pub fn changed(&mut self, key: &[u8], class: u32, event: &'static str) {
        self.effects.dirty += 1;
        self.touched(key);
        self.event(key, class, event);
    }

    /// As [`Keys::changed`] without counting a further change or telling an event.
    pub fn touched(&mut self, key: &[u8]) {
        let db = self.db;
        let (slot, _) = self.place(key);
        let state = self.locks.guard(slot).state_mut();
        if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
            side.mark_watchers(db, key);
            if side.has_waiters(db, key) {
                self.effects.ready.push((db, key.to_vec()));
            }
        }
    }

    /// Tells subscribers of keyspace notifications, if any class is switched on.
    pub fn event(&mut self, key: &[u8], class: u32, name: &'static str) {
        if self.settings.notify_keyspace_events & class != 0 {
            self.effects.events.push(Event { name, db: self.db, key: key.to_vec() });
        }
    }

    /// What lives beside the slot of `key`: watchers and waiters; made on demand.
    pub fn side(&mut self, slot: Slot) -> &mut SlotSide {
        let state = self.locks.guard(slot).state_mut();
        let side = state.side.get_or_insert_with(|| Box::new(SlotSide::default()));
        side.downcast_mut::<SlotSide>().expect("only the engine uses the side of a slot")
    }
}
