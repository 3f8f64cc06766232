//! Keys under lock: lookups with expiry, changes with what follows from them (watchers, waiters, notifications,
//! the count of changes).

use crate::Kept;
use crate::blocking::{Presence, SlotSide};
use crate::error::Error;
use crate::evict;
use crate::locks::{At, Locks, Place, Places};
use crate::propagate::Unit;
use crate::settings::{Settings, notify};
use crate::stats::Stats;
use crate::turn::{ChangedKey, Host, Passage, Turn};
use proto::{ClusterView, Slot};
use smallvec::SmallVec;
use std::any::Any;
pub use storage::Collection;
use storage::{Db, DbMut, Entry, EntryMut, Expiry, Hash, Keyspace, Value, ValueRef};

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
    /// Keys that changed, where clients want to be told so.
    changed: Vec<ChangedKey>,
    /// A database was emptied.
    is_flushed: bool,
    /// All databases were emptied.
    is_emptied: bool,
    /// Removed values and tables, to be freed elsewhere.
    pub garbage: Vec<Box<dyn Any + Send>>,
}

impl Effects {
    #[inline]
    fn has_more(&self) -> bool {
        !self.garbage.is_empty() || !self.events.is_empty() || !self.ready.is_empty() || self.is_emptied
    }

    fn carry_out(&mut self, notified: u32, host: &mut dyn Host) {
        self.ready.clear();
        let garbage = std::mem::take(&mut self.garbage);
        if !garbage.is_empty() {
            host.dispose(garbage);
        }
        self.events.drain(..).for_each(|e| e.publish(notified, host));
    }
}

/// The keyspace as one command sees it.
pub struct Keys<'g> {
    pub locks: Locks<'g>,
    places: Places,
    pub keyspace: &'g Keyspace,
    pub settings: &'g Settings,
    pub db: u16,
    pub now_ms: i64,
    /// What an entry that is used now has for a clock, but under an LFU policy, where it depends on what it had.
    clock: Option<u32>,
    /// False on a replica and while a stream is applied: expired keys are hidden or kept, never removed.
    pub may_expire: bool,
    /// True while a stream is applied: an expired key is still there, its primary will delete it.
    pub sees_expired: bool,
    /// Reads leave the access clock alone.
    pub is_no_touch: bool,
    /// Clients want to be told of keys that change.
    is_tracked: bool,
    /// The user may read keys that the command's arguments do not name.
    pub may_read_any: bool,
    /// The node is part of a cluster: what a command uses is in one slot.
    pub cluster: Option<&'g ClusterView>,
    pub passage: Option<&'g Passage<'g>>,
    pub effects: Kept<Effects>,
    pub unit: Kept<Unit>,
    pub stats: &'g Stats,
}

/// Runs `f` on the collection of an entry; says as well whether it is empty afterwards. `Err`: it is of another type.
#[inline(always)] // as what it calls
fn change<C: Collection, R>(
    entry: &mut EntryMut<'_>,
    f: impl FnOnce(&mut C) -> R,
) -> Result<(R, bool), Error> {
    entry.change(|c: &mut C| (f(c), c.is_empty())).ok_or(Error::WrongType)
}

/// Fields of one hash that expire at once: some hundred microseconds of work.
pub const FIELDS_MAX: usize = 512;

/// Removes fields whose time has come: at most [`FIELDS_MAX`] of them, and all of `named`.
pub fn take_due(hash: &mut Hash, now_ms: i64, named: &[&[u8]]) -> Vec<Vec<u8>> {
    if hash.next_expiry().is_none_or(|at| at > now_ms) {
        return Vec::new();
    }
    let mut gone = hash.take_due(now_ms, FIELDS_MAX);
    for field in named {
        if hash.expiry(field).is_some_and(|at| at <= now_ms) && hash.remove(field) {
            gone.push(field.to_vec());
        }
    }
    gone
}

impl<'g> Keys<'g> {
    /// Borrows the worker's unit and list of effects; [`Keys::give_back`] returns them.
    #[inline]
    pub fn new(turn: &mut Turn<'g>, locks: Locks<'g>, db: u16) -> Keys<'g> {
        Keys {
            locks,
            places: Places::default(),
            keyspace: &turn.engine.keyspace,
            settings: turn.settings,
            db,
            now_ms: turn.now.wall.0,
            clock: evict::plain_clock(turn.settings, turn.now.wall.0),
            // While writes wait nothing is removed by itself either.
            may_expire: !turn.status.is_replica && !turn.status.is_paused,
            sees_expired: false,
            is_no_touch: false,
            is_tracked: turn.is_tracked,
            may_read_any: true,
            cluster: turn.cluster,
            passage: turn.passage,
            effects: turn.local.effects.lend(),
            unit: turn.local.unit.lend(),
            stats: turn.stats,
        }
    }

    /// Ends a command: unlocks; what was removed and what is to be told goes to the host. Others may follow.
    #[inline]
    pub fn release(&mut self, turn: &mut Turn<'g>) {
        if self.is_tracked {
            self.tell_changes(turn.host);
        }
        self.locks.release();
        self.unit.clear();
        self.effects.dirty = 0;
        if self.effects.has_more() {
            self.carry_out(turn);
        }
    }
    #[cold]
    fn carry_out(&mut self, turn: &mut Turn<'g>) {
        self.effects.carry_out(self.settings.notify_keyspace_events, turn.host);
        if std::mem::take(&mut self.effects.is_emptied) {
            turn.host.emptied(self.locks.closed().expect("who empties everything has closed the gate"));
        }
    }

    /// As [`Keys::release`], and hands back what was borrowed.
    #[inline]
    pub fn give_back(&mut self, turn: &mut Turn<'g>) {
        self.release(turn);
        turn.local.unit = self.unit.lend();
        turn.local.effects = self.effects.lend();
    }

    /// Tells clients of what changed while nobody else can read it: whoever reads it later is remembered anew.
    #[cold]
    pub(crate) fn tell_changes(&mut self, host: &mut dyn Host) {
        let effects = &mut *self.effects;
        if !effects.changed.is_empty() {
            host.invalidate(&effects.changed);
            effects.changed.clear();
        }
        if std::mem::take(&mut effects.is_flushed) {
            host.invalidate_all();
        }
    }

    /// Whether a read may keep what it has worked out beside the value: not on a replica, whose values are those of its
    /// primary.
    pub fn may_cache(&self) -> bool {
        self.may_expire || self.sees_expired
    }

    /// Takes the places of the command that runs next.
    #[inline]
    pub(crate) fn set_places(&mut self, places: Places) {
        self.places = places;
    }
    /// As [`Keys::set_places`], the place of the only key of a command.
    #[inline]
    pub(crate) fn set_only_place(&mut self, place: Place) {
        self.places.set_only(place);
    }
    /// The places of the command before, to be filled anew.
    #[inline]
    pub(crate) fn lend_places(&mut self) -> Places {
        std::mem::take(&mut self.places)
    }
    /// As [`Keys::set_places`], whose slots are locked: asks for the memory of several keys at a time.
    #[inline]
    pub(crate) fn take_places(&mut self, places: Places) {
        if places.is_many() {
            self.locks.prefetch(self.db, &places);
        }
        self.set_places(places);
    }

    /// Locks the slot of a key that is not among the command's arguments, which no command may use before. `Err`: somebody
    /// holds it, or so many are locked that closing the gate is cheaper; the command, which must not have changed anything
    /// yet, hands the error on and runs again with the gate closed. For commands with [`crate::spec::flag::ANY_KEY`].
    pub fn reach(&mut self, key: &[u8]) -> Result<(), Error> {
        const SLOTS_MAX: usize = 256; // a choice: inserting among more of them begins to cost
        const SPINS_MAX: usize = 200; // a choice: some microseconds
        let slot = [Slot::of_key(key)];
        if self.locks.closed().is_some() || self.locks.holds(slot[0]) {
            return Ok(());
        }
        let may_more = self.locks.len() < SLOTS_MAX;
        let is_locked = may_more
            && (0..SPINS_MAX).any(|_| {
                let is_locked = self.locks.try_extend(&slot);
                if !is_locked {
                    std::hint::spin_loop();
                }
                is_locked
            });
        if is_locked { Ok(()) } else { Err(Error::NeedsGate) }
    }

    /// Where a key is.
    #[inline(always)] // nearly all it does is two comparisons
    fn place(&mut self, key: &[u8]) -> At {
        match self.places.find(key) {
            Some(at) => at,
            None => self.place_of_other(key),
        }
    }
    /// Where a key is that is not the command's next one.
    #[inline(never)] // inlined it takes registers from all who ask for places
    fn place_of_other(&self, key: &[u8]) -> At {
        self.keyspace.key_ahead(key).into()
    }

    #[inline(always)]
    fn db(&mut self, key: &[u8]) -> (Db<'_>, u64) {
        let at = self.place(key);
        (self.locks.guard_at(at).db(self.db), at.hash)
    }
    #[inline(always)]
    fn db_mut(&mut self, key: &[u8]) -> (DbMut<'_>, u64) {
        let at = self.place(key);
        (self.locks.guard_at(at).db_mut(self.db), at.hash)
    }

    /// Whether the key may be one that has expired; false for every key of a slot in which none has.
    #[inline(always)]
    fn may_be_due(&mut self, at: At) -> bool {
        let db = self.locks.guard_at(at).db(self.db);
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

    /// What is at a key, without removing it if its time has come.
    pub fn presence(&mut self, key: &[u8]) -> Presence {
        let now_ms = self.now_ms;
        let (db, hash) = self.db(key);
        match db.get(key, hash).map(|e| e.expire_ms()) {
            None => Presence::Absent,
            Some(Some(at)) if at <= now_ms => Presence::Expired,
            Some(_) => Presence::Live,
        }
    }

    /// Removes a key whose time has come, as a write of its own.
    pub fn expire(&mut self, key: &[u8]) {
        let (mut db, hash) = self.db_mut(key);
        let value = db.remove(key, hash);
        value.into_iter().for_each(|value| self.discard(value));
        let verb: &[u8] = if self.settings.lazyfree_lazy_expire { b"UNLINK" } else { b"DEL" };
        self.unit.push(self.db, &[verb, key]);
        self.stats.expired.add(1);
        self.changed(key, notify::EXPIRED, "expired");
        if let Some(change) = self.effects.changed.last_mut() {
            change.is_own = false;
        }
    }

    /// The time as of which fields of hashes are looked at: those that have expired by then are hidden. While a stream is
    /// applied, none are.
    #[inline]
    pub fn fields_at(&self) -> i64 {
        if self.sees_expired { i64::MIN } else { self.now_ms }
    }

    /// Removes fields of the hash at a key whose time has come, as a write of its own: a number of them, and all of `named`.
    /// Nothing on a replica. Returns how many.
    pub fn expire_fields(&mut self, key: &[u8], named: &[&[u8]]) -> usize {
        let now_ms = self.now_ms;
        let is_due = self.may_expire
            && match self.peek(key).map(|entry| entry.value()) {
                Some(ValueRef::Hash(hash)) => hash.next_expiry().is_some_and(|at| at <= now_ms),
                _ => false,
            };
        if !is_due {
            return 0;
        }
        self.event(key, notify::HASH, "hexpired");
        let gone = self.update(key, |hash: &mut Hash| take_due(hash, now_ms, named));
        let gone = gone.expect("it is a hash").expect("it is there");
        self.fields_expired(key, &gone);
        gone.len()
    }

    /// Says that fields of the hash at a key have expired and are gone; the event has been told.
    pub fn fields_expired(&mut self, key: &[u8], fields: &[Vec<u8>]) {
        self.stats.expired_fields.add(fields.len() as u64);
        self.touched(key);
        if let Some(change) = self.effects.changed.last_mut() {
            change.is_own = false;
        }
        let mut args: Vec<&[u8]> = vec![b"HDEL", key];
        args.extend(fields.iter().map(Vec::as_slice));
        self.unit.push(self.db, &args);
    }

    /// The entry of a key for reading, which counts as a hit or a miss.
    #[inline]
    pub fn read(&mut self, key: &[u8]) -> Option<Entry<'_>> {
        let at = self.place(key);
        let is_gone = self.may_be_due(at) && !self.exists(key);
        let Keys { locks, stats, effects, settings, db, now_ms, clock, is_no_touch, .. } = self;
        let entry = if is_gone { None } else { locks.guard_at(at).db(*db).get(key, at.hash) };
        match &entry {
            Some(entry) => {
                stats.hits.add(1);
                if !*is_no_touch {
                    entry.set_clock(clock.unwrap_or_else(|| evict::touched(entry.clock(), *now_ms, true)));
                }
            }
            None => {
                stats.misses.add(1);
                if settings.notify_keyspace_events & notify::KEY_MISS != 0 {
                    effects.events.push(Event { name: "keymiss", db: *db, key: key.to_vec() });
                }
            }
        }
        entry
    }

    /// The entry of a key for writing; its access clock is set. Does not count as a hit or a miss, as in Redis.
    pub fn write(&mut self, key: &[u8]) -> Option<EntryMut<'_>> {
        let at = self.place(key);
        if self.may_be_due(at) && !self.exists(key) {
            return None;
        }
        let Keys { locks, db, now_ms, clock, is_no_touch, .. } = self;
        let entry = locks.guard_at(at).db_mut(*db).into_entry(key, at.hash)?;
        if !*is_no_touch {
            let old = entry.read();
            old.set_clock(clock.unwrap_or_else(|| evict::touched(old.clock(), *now_ms, true)));
        }
        Some(entry)
    }

    /// As [`Keys::read`] without statistics and access clock: TTL, TYPE, OBJECT, EXISTS.
    pub fn peek(&mut self, key: &[u8]) -> Option<Entry<'_>> {
        let at = self.place(key);
        if self.may_be_due(at) && !self.exists(key) {
            return None;
        }
        self.locks.guard_at(at).db(self.db).get(key, at.hash)
    }

    /// The string at a key. `Err` when it holds another type.
    #[inline]
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
        let (result, is_empty) = change(&mut entry, f)?;
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
        let Some(mut entry) = self.write(key) else { return Ok(self.make(key, f)) };
        let (result, is_empty) = change(&mut entry, f)?;
        drop(entry);
        if is_empty {
            self.drop_empty(key);
        }
        Ok(result)
    }

    fn make<C: Collection, R>(&mut self, key: &[u8], f: impl FnOnce(&mut C) -> R) -> R {
        let mut collection = C::new();
        let result = f(&mut collection);
        if !collection.is_empty() {
            self.store(key, collection.into_value(), None);
        }
        result
    }

    fn drop_empty(&mut self, key: &[u8]) {
        let (mut db, hash) = self.db_mut(key);
        db.remove(key, hash);
        self.event(key, notify::GENERIC, "del");
    }

    /// Puts a string at a key, whatever was there. The caller says [`Keys::changed`].
    pub fn store_str(&mut self, key: &[u8], value: &[u8], expiry: Expiry) {
        self.note_if_new(key);
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
    /// The caller has checked the type, and says [`Keys::changed`].
    pub fn overwrite_str(&mut self, key: &[u8], offset: usize, patch: &[u8]) {
        let end = offset + patch.len();
        self.update_str(key, end, |bytes| bytes[offset..end].copy_from_slice(patch))
            .expect("the caller checked the type");
    }

    /// Runs `f` on the string at a key, made and filled up with zeros to `len_min` bytes as needed; gives what `f` gives and
    /// whether the string has grown. `Err` when the key holds another type. The caller says [`Keys::changed`].
    pub fn update_str<R>(
        &mut self,
        key: &[u8],
        len_min: usize,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<(R, bool), Error> {
        if let Some(mut entry) = self.write(key) {
            let ValueRef::Str(old) = entry.read().value() else { return Err(Error::WrongType) };
            let len = old.len();
            return Ok((f(entry.resize_str(len.max(len_min))), len < len_min));
        }
        self.note_if_new(key);
        let (mut db, hash) = self.db_mut(key);
        db.set_str(key, hash, b"", Expiry::None);
        let mut entry = db.get_mut(key, hash).expect("just made");
        Ok((f(entry.resize_str(len_min)), true))
    }

    /// Puts a value at a key, whatever was there. The caller says [`Keys::changed`].
    pub fn store(&mut self, key: &[u8], value: Value, expire_ms: Option<i64>) {
        self.note_if_new(key);
        let (mut db, hash) = self.db_mut(key);
        if let Some(old) = db.insert(key, hash, value, expire_ms) {
            self.discard(old);
        }
    }

    /// Tells subscribers of a key that is about to be made.
    #[inline]
    fn note_if_new(&mut self, key: &[u8]) {
        if self.settings.notify_keyspace_events & notify::NEW != 0 {
            self.tell_if_new(key);
        }
    }
    #[inline(never)]
    fn tell_if_new(&mut self, key: &[u8]) {
        let (db, hash) = self.db(key);
        if db.get(key, hash).is_none() {
            self.event(key, notify::NEW, "new");
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
        self.effects.is_flushed |= self.is_tracked;
        self.effects.is_emptied |= db.is_none();
        for slot in Slot::all() {
            self.mark_watched(slot, |of| db.is_none_or(|db| db == of).then_some(None));
            let guard = self.locks.guard(slot);
            for db in db.map_or(0..self.keyspace.databases(), |db| db..db + 1) {
                if let Some(table) = guard.db_mut(db).take_table() {
                    self.effects.garbage.push(Box::new(table));
                }
            }
            if let Some(side) = guard.state_mut().side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
                // Readers of groups learn that their stream is gone.
                let all: SmallVec<[u16; 16]> =
                    db.map_or(0..self.keyspace.databases(), |db| db..db + 1).collect();
                self.effects.ready.extend(side.waited_keys(&all));
            }
        }
    }

    /// The databases of a slot are about to change as a whole. `becomes`: for those that do, the number of the one that
    /// takes its place, or none if it will be empty.
    fn mark_watched(&mut self, slot: Slot, becomes: impl Fn(u16) -> Option<Option<u16>>) {
        let state = self.locks.guard(slot).state_mut();
        let side = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>());
        let watched = side.map(|s| s.watched_keys()).unwrap_or_default();
        let own_db = self.db;
        for (db, key) in watched {
            let Some(next) = becomes(db) else { continue };
            self.db = db;
            let before = self.presence(&key);
            let now = match next {
                Some(next) => {
                    self.db = next;
                    self.presence(&key)
                }
                None => Presence::Absent,
            };
            self.side(slot).mark_watchers(db, &key, before, now);
        }
        self.db = own_db;
    }

    /// Swaps two databases. Only with the gate closed. Clients that wait for keys of either may find them now.
    pub fn swap_dbs(&mut self, a: u16, b: u16) {
        let closed = self.locks.closed().expect("runs with the gate closed");
        for slot in Slot::all() {
            let other = |db| if db == a { Some(Some(b)) } else { (db == b).then_some(Some(a)) };
            self.mark_watched(slot, other);
        }
        self.locks.release();
        self.keyspace.swap_dbs(a, b, closed);
        for slot in Slot::all() {
            let state = self.locks.guard(slot).state_mut();
            if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
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
    #[inline]
    pub fn changed(&mut self, key: &[u8], class: u32, event: &'static str) {
        self.effects.dirty += 1;
        self.touched(key);
        self.event(key, class, event);
    }

    /// As [`Keys::changed`] without counting a further change or telling an event.
    #[inline]
    pub fn touched(&mut self, key: &[u8]) {
        let at = self.place(key);
        if self.is_tracked {
            self.note_change(key);
        }
        if self.locks.guard_at(at).state().side.is_some() {
            self.tell_side(at, key);
        }
    }

    #[cold]
    fn note_change(&mut self, key: &[u8]) {
        self.effects.changed.push(ChangedKey { key: key.to_vec(), is_own: true });
    }

    /// Tells those who watch a key that changed and those who wait for it.
    #[inline(never)]
    fn tell_side(&mut self, at: At, key: &[u8]) {
        let db = self.db;
        let state = self.locks.guard_at(at).state_mut();
        if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
            let is_watched = side.is_watched(db, key);
            if side.has_waiters(db, key) {
                self.effects.ready.push((db, key.to_vec()));
            }
            if is_watched {
                self.mark(at.slot, key);
            }
        }
    }

    #[cold]
    fn mark(&mut self, slot: Slot, key: &[u8]) {
        let (db, now) = (self.db, self.presence(key));
        // Whatever was there: it changed.
        self.side(slot).mark_watchers(db, key, Presence::Live, now);
    }

    /// Tells subscribers of keyspace notifications, if any class is switched on.
    #[inline]
    pub fn event(&mut self, key: &[u8], class: u32, name: &'static str) {
        if self.settings.notify_keyspace_events & class != 0 {
            self.note_event(key, name);
        }
    }
    #[cold]
    fn note_event(&mut self, key: &[u8], name: &'static str) {
        self.effects.events.push(Event { name, db: self.db, key: key.to_vec() });
    }

    /// What lives beside the slot of `key`: watchers and waiters; made on demand.
    pub fn side(&mut self, slot: Slot) -> &mut SlotSide {
        let state = self.locks.guard(slot).state_mut();
        let side = state.side.get_or_insert_with(|| Box::new(SlotSide::default()));
        side.downcast_mut::<SlotSide>().expect("only the engine uses the side of a slot")
    }
}
