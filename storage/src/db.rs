//! A locked slot's part of one database: lookups ([`Db`]) and changes ([`DbMut`]).
//!
//! Invariant: every change first passes [`DbMut::before_write`] with the segment it changes, so that a snapshot in
//! progress gets the segment as it was.

use crate::counters::Counters;
use crate::directory::Root;
use crate::entry::{Content, Entry, RawEntry};
use crate::keyspace::Keyspace;
use crate::segment::Seg;
use crate::table::Env;
use crate::value::{Collection, Kind, Value, ValueMut};
use proto::Slot;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a write does with the expiry a key has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    Keep,
    None,
    /// Milliseconds since 1970.
    At(i64),
}

impl Expiry {
    pub(crate) fn over(self, old: Option<i64>) -> Option<i64> {
        match self {
            Expiry::Keep => old,
            Expiry::None => None,
            Expiry::At(ms) => Some(ms),
        }
    }
}

/// What has expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    Key,
    /// Fields of the hash at a key.
    Fields,
}

/// A slot's keys in one database, for reading.
pub struct Db<'a> {
    root: &'a Root,
    keyspace: &'a Keyspace,
    slot: Slot,
    home: u16,
    /// Holds back Send and Sync: readers touch clocks and hints under the lock of one guard on one thread.
    one_thread: PhantomData<*const ()>,
}

impl<'a> Db<'a> {
    /// The caller holds the slot's lock for `'a`.
    #[inline]
    pub(crate) fn new(keyspace: &'a Keyspace, slot: Slot, db: u16) -> Db<'a> {
        Db::of_home(keyspace, slot, keyspace.place(db))
    }
    /// As [`Db::new`], of a database whose home is known.
    #[inline]
    pub(crate) fn of_home(keyspace: &'a Keyspace, slot: Slot, home: u16) -> Db<'a> {
        Db { root: keyspace.root_ref(slot, home), keyspace, slot, home, one_thread: PhantomData }
    }
    /// The key's entry, expired or not; `hash` is [`Keyspace::hash`] of the key.
    #[inline(always)] // few callers, and a call costs as much as what is done in it
    pub fn get(&self, key: &[u8], hash: u64) -> Option<Entry<'a>> {
        let (_, _, entry) = self.root.find(hash, key)?;
        Some(Entry::new(entry))
    }
    pub fn len(&self) -> u64 {
        self.root.count as u64
    }
    pub fn is_empty(&self) -> bool {
        self.root.count == 0
    }
    /// Keys with an expiry.
    #[inline]
    pub fn expires_len(&self) -> u64 {
        self.root.expires as u64
    }
    /// Begins to look a key up, without waiting for its memory: asks for the segment. `None`: there is no key at all.
    #[inline]
    pub fn look_ahead(&self, hash: u64) -> Option<LookAhead<'a>> {
        let seg = self.root.locate(hash)?;
        seg.prefetch();
        Some(LookAhead { seg, hash, matches: 0, one_thread: PhantomData })
    }
    /// A time in ms before which no key of the slot expires; `i64::MAX` when none does.
    pub fn next_expiry(&self) -> i64 {
        self.keyspace.next_expiry(self.slot, self.home)
    }
    /// Calls `each` for the entries of one segment (at most 62) and returns the next cursor, 0 at the end. A cursor
    /// is below 2^48. Every key present from the first call to the last is seen at least once, whatever is added,
    /// removed, grown or shrunk between calls.
    pub fn scan(&self, cursor: u64, each: &mut dyn FnMut(Entry<'_>)) -> u64 {
        self.root.scan(cursor & ((1 << 48) - 1), &mut |raw| each(Entry::new(raw)))
    }
    /// A key chosen by `rand`, approximately evenly.
    pub fn sample(&self, rand: u64) -> Option<Entry<'a>> {
        self.root.sample(rand).map(Entry::new)
    }

    /// Calls `each` with the keys that expired at or before `now_ms`, and with hashes of which fields did, in at most
    /// `segments_max` segments from `cursor` on, and returns the next cursor, 0 at the end. A walk in one call also renews
    /// [`Db::next_expiry`].
    pub fn collect_due(
        &self,
        now_ms: i64,
        cursor: u64,
        segments_max: usize,
        each: &mut dyn FnMut(&[u8], Due),
    ) -> u64 {
        let root = self.root;
        let (mut at, mut soonest) = (cursor << 16, i64::MAX);
        for _ in 0..segments_max.max(1) {
            let Some((seg, next)) = root.segment_from(at) else { break };
            if seg.may_expire() {
                let mut any = false;
                for i in 0..seg.len() {
                    let entry = seg.entry(i);
                    let times = [(entry.expire_ms(), Due::Key), (entry.field_expire_ms(), Due::Fields)];
                    for (time, due) in times {
                        let Some(time) = time else { continue };
                        any = true;
                        soonest = soonest.min(time);
                        if time <= now_ms {
                            each(entry.key(), due);
                            break;
                        }
                    }
                }
                // The slot's lock is held, so readers may do this too.
                seg.set_may_expire(any);
            }
            match next {
                Some(hash) => at = hash,
                None => {
                    at = 0;
                    break;
                }
            }
        }
        if cursor == 0 && at == 0 && root.count > 0 {
            self.keyspace.home(self.home).next_expiry[self.slot.index()].set(soonest);
        }
        at >> 16
    }
}

/// A look-up under way, stage by stage, so that the reads of several overlap. The slot is locked and nothing in it is
/// changed meanwhile.
#[derive(Clone, Copy)]
pub struct LookAhead<'a> {
    seg: Seg,
    hash: u64,
    /// See [`Seg::prefetch_pointer`].
    matches: u64,
    one_thread: PhantomData<(&'a (), *const ())>,
}

impl LookAhead<'_> {
    /// The stages behind the first, of several at a time: asks for the places in segments that point to entries, then for
    /// the entries.
    #[inline]
    pub fn go_on(ahead: &mut [LookAhead<'_>]) {
        ahead.iter_mut().for_each(|one| one.matches = one.seg.prefetch_pointer(one.hash));
        ahead.iter().for_each(|one| one.seg.prefetch_entry(one.hash, one.matches));
    }
}

/// A slot's keys in one database, for writing.
pub struct DbMut<'a> {
    keyspace: &'a Keyspace,
    slot: Slot,
    home: u16,
    one_thread: PhantomData<*const ()>,
}

impl<'a> DbMut<'a> {
    /// The caller holds the slot's lock for `'a`, through a guard it has borrowed mutably.
    #[inline]
    pub(crate) fn new(keyspace: &'a Keyspace, slot: Slot, db: u16) -> DbMut<'a> {
        DbMut { keyspace, slot, home: keyspace.place(db), one_thread: PhantomData }
    }

    /// The same keys, for reading.
    #[inline]
    pub fn read(&self) -> Db<'_> {
        Db::of_home(self.keyspace, self.slot, self.home)
    }
    #[inline]
    fn root(&self) -> &Root {
        self.keyspace.root_ref(self.slot, self.home)
    }
    #[inline]
    fn root_mut(&mut self) -> &mut Root {
        // SAFETY: the slot's guard is mutably borrowed for `'a`, `self` likewise, and no `&Root` outlives a call.
        unsafe { &mut *self.keyspace.root_cell(self.slot, self.home).get() }
    }
    fn env(&self) -> Env {
        Env { hasher: self.keyspace.hasher(), epoch: self.keyspace.epoch.load(Ordering::Relaxed), bytes: 0 }
    }
    fn settle(&self, env: &Env) {
        self.keyspace.counters.add_bytes(env.bytes);
    }

    /// Hands the segment to a snapshot in progress that has not got it yet.
    #[inline]
    fn before_write(&mut self, seg: Seg) {
        let epoch = self.keyspace.epoch.load(Ordering::Relaxed);
        if seg.stamp() != epoch {
            self.keyspace.save_segment(self.slot, self.home, seg, epoch);
        }
    }

    /// The key's entry, expired or not.
    #[inline]
    pub fn get(&self, key: &[u8], hash: u64) -> Option<Entry<'_>> {
        self.read().get(key, hash)
    }
    /// A key chosen by `rand`, approximately evenly.
    pub fn sample(&self, rand: u64) -> Option<Entry<'_>> {
        self.read().sample(rand)
    }
    pub fn len(&self) -> u64 {
        self.root().count as u64
    }
    pub fn is_empty(&self) -> bool {
        self.root().count == 0
    }

    /// The key's entry, expired or not, to be changed.
    pub fn get_mut(&mut self, key: &[u8], hash: u64) -> Option<EntryMut<'_>> {
        DbMut { one_thread: PhantomData, ..*self }.into_entry(key, hash)
    }
    /// As [`DbMut::get_mut`], for as long as the slot is locked.
    #[inline]
    pub fn into_entry(mut self, key: &[u8], hash: u64) -> Option<EntryMut<'a>> {
        let (seg, index, _) = self.root().find(hash, key)?;
        self.before_write(seg);
        Some(self.entry_at(seg, index))
    }
    /// The entry at a place that was found, of whose segment a snapshot has what it needs.
    #[inline]
    fn entry_at(self, seg: Seg, index: usize) -> EntryMut<'a> {
        let raw = seg.entry(index);
        EntryMut { db: self, seg, index, raw, before: None }
    }

    /// Sets a key to a string. Allocates at most once (twice for a value that is kept apart), not at all when the
    /// allocator's class stays the same. Returns a collection that was there, so that a big one can be dropped elsewhere.
    pub fn set_str(&mut self, key: &[u8], hash: u64, bytes: &[u8], expiry: Expiry) -> Option<Value> {
        if let Some((seg, index, entry)) = self.root().find(hash, key) {
            self.before_write(seg);
            // SAFETY: the slot's guard is mutably borrowed.
            if unsafe { entry.overwrite_str(bytes, expiry) } {
                return None;
            }
            return self.replace_by_str(seg, index, bytes, expiry);
        }
        self.add(key, hash, Content::Str(bytes), expiry.over(None));
        None
    }
    #[inline(never)]
    fn replace_by_str(&mut self, seg: Seg, index: usize, bytes: &[u8], expiry: Expiry) -> Option<Value> {
        let mut entry = DbMut { one_thread: PhantomData, ..*self }.entry_at(seg, index);
        entry.set_str(bytes, expiry)
    }

    /// Sets a key to a value. Returns a collection that was there. Panics on an empty collection.
    pub fn insert(&mut self, key: &[u8], hash: u64, value: Value, expire: Option<i64>) -> Option<Value> {
        assert!(!value.is_empty_collection(), "no key holds an empty collection");
        if let Some(mut entry) = self.get_mut(key, hash) {
            return entry.replace(value, expire);
        }
        self.add(key, hash, Content::Owned(value), expire);
        None
    }

    fn add(&mut self, key: &[u8], hash: u64, content: Content<'_>, expire: Option<i64>) {
        if let Some(seg) = self.root().locate(hash) {
            self.before_write(seg);
        }
        let mut env = self.env();
        let entry = RawEntry::create(key, content, expire, self.keyspace.clock.load(Ordering::Relaxed));
        let root = self.root_mut();
        root.insert(hash, entry, &mut env);
        let first = root.count == 1;
        if first {
            self.keyspace.set_occupied(self.slot, self.home, true);
        }
        self.keyspace.counters.add_keys(self.home, 1);
        self.expiry_changed(None, expire);
        self.field_expiry_changed(None, entry.field_expire_ms());
        self.settle(&env);
    }

    /// Takes a key out and hands back its value, so that a big one can be dropped elsewhere.
    pub fn remove(&mut self, key: &[u8], hash: u64) -> Option<Value> {
        let raw = self.take(key, hash)?;
        // SAFETY: the entry was taken out of its only table.
        Some(unsafe { raw.into_value() })
    }
    /// Deletes a key, dropping its value here. Returns whether it was there.
    pub fn delete(&mut self, key: &[u8], hash: u64) -> bool {
        let Some(raw) = self.take(key, hash) else { return false };
        // SAFETY: the entry was taken out of its only table.
        unsafe { raw.free() };
        true
    }

    fn take(&mut self, key: &[u8], hash: u64) -> Option<RawEntry> {
        let (seg, i, _) = self.root().find(hash, key)?;
        self.before_write(seg);
        let mut env = self.env();
        let raw = self.root_mut().take(seg, i, &mut env);
        while let Some(buddy) = self.root().merge_candidate(hash) {
            self.before_write(buddy);
            self.root_mut().merge_segments(hash, &mut env);
        }
        self.root_mut().shrink(hash, &mut env);
        if self.root().count == 0 {
            self.emptied();
        }
        self.keyspace.counters.add_keys(self.home, -1);
        self.keyspace.counters.add_expires(self.home, -(raw.expire_ms().is_some() as i64));
        self.field_expiry_changed(raw.field_expire_ms(), None);
        self.settle(&env);
        Some(raw)
    }

    fn emptied(&mut self) {
        self.keyspace.set_occupied(self.slot, self.home, false);
        self.keyspace.home(self.home).next_expiry[self.slot.index()].set(i64::MAX);
    }

    /// Moves the keys of one segment out of spans that are being emptied (see [`crate::slab::begin_compaction`]), from
    /// `cursor` on. Returns the next cursor, 0 at the end. At most 62 keys are moved; what big collections hold stays.
    pub fn leave_spans(&mut self, cursor: u64) -> u64 {
        if self.root().count == 0 {
            return 0;
        }
        self.root_mut().leave_spans(cursor)
    }

    /// Sets or takes away a key's expiry. Returns whether the key exists.
    pub fn set_expire(&mut self, key: &[u8], hash: u64, expire: Option<i64>) -> bool {
        let Some(mut entry) = self.get_mut(key, hash) else { return false };
        entry.set_expire(expire);
        true
    }

    /// Counts a change of expiry from `old` to `new` outside the table, and renews the slot's bound.
    fn expiry_changed(&mut self, old: Option<i64>, new: Option<i64>) {
        let delta = new.is_some() as i64 - old.is_some() as i64;
        self.keyspace.counters.add_expires(self.home, delta);
        self.lower_bound(new);
    }

    /// As [`DbMut::expiry_changed`], of the soonest expiry of a hash's fields.
    fn field_expiry_changed(&mut self, old: Option<i64>, new: Option<i64>) {
        let delta = new.is_some() as i64 - old.is_some() as i64;
        self.keyspace.counters.add_field_expires(self.home, delta);
        self.lower_bound(new);
    }

    fn lower_bound(&mut self, time: Option<i64>) {
        if let Some(at) = time {
            let bound = &self.keyspace.home(self.home).next_expiry[self.slot.index()];
            if at < bound.get() {
                bound.set(at);
            }
        }
    }

    /// Takes the whole table out, at a cost that does not depend on its size. `None` when it was empty, or when a
    /// snapshot under way still needs it and has got it: that drops it when it is written.
    pub fn take_table(&mut self) -> Option<Table> {
        if self.root().count == 0 {
            return None;
        }
        let root = std::mem::replace(self.root_mut(), Root::EMPTY);
        self.emptied();
        let counters = self.keyspace.counters.clone();
        counters.add_keys(self.home, -(root.count as i64));
        counters.add_expires(self.home, -(root.expires as i64));
        self.keyspace.hand_over(self.slot, self.home, Table { root, home: self.home, counters })
    }
    /// Deletes all keys of the slot in this database, here and now.
    pub fn clear(&mut self) {
        drop(self.take_table());
    }
}

/// A table that belongs to no slot any more. Its bytes are counted as used until it is dropped, which takes time in
/// proportion to its size and may happen on any thread.
pub struct Table {
    root: Root,
    home: u16,
    counters: Arc<Counters>,
}

// SAFETY: the table owns its segments and entries, whose values are Send.
unsafe impl Send for Table {}

impl Table {
    /// Keys in the table.
    pub fn len(&self) -> u64 {
        self.root.count as u64
    }
    pub fn is_empty(&self) -> bool {
        self.root.count == 0
    }
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let freed = self.root.free_all();
        self.counters.add_bytes(-(freed.bytes as isize));
        self.counters.add_field_expires(self.home, -freed.field_expires);
    }
}

/// An existing key, to be changed. Dropping it settles the accounts.
pub struct EntryMut<'a> {
    db: DbMut<'a>,
    seg: Seg,
    index: usize,
    raw: RawEntry,
    /// What was counted of it, once it is changed in a way that may change that.
    before: Option<Account>,
}

/// What is counted of an entry.
#[derive(Clone, Copy)]
struct Account {
    bytes: usize,
    expire: Option<i64>,
    /// When the soonest field of a hash expires.
    field_expire: Option<i64>,
}

impl Account {
    fn of(raw: RawEntry) -> Account {
        Account { bytes: raw.bytes(), expire: raw.expire_ms(), field_expire: raw.field_expire_ms() }
    }
}

impl EntryMut<'_> {
    /// The entry as a reader sees it.
    #[inline]
    pub fn read(&self) -> Entry<'_> {
        Entry::new(self.raw)
    }
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.raw.key()
    }
    #[inline]
    pub fn kind(&self) -> Kind {
        self.raw.kind()
    }
    pub fn expire_ms(&self) -> Option<i64> {
        self.raw.expire_ms()
    }
    pub fn set_clock(&mut self, clock: u32) {
        self.read().set_clock(clock);
    }
    /// The value, to be changed in place. A collection that becomes empty must be removed by the caller.
    #[inline]
    pub fn value_mut(&mut self) -> ValueMut<'_> {
        self.note();
        // SAFETY: `self` is mutably borrowed for as long as the result lives.
        unsafe { self.raw.value_mut() }
    }
    /// Runs `f` on the collection. `None`: the key holds something else. What becomes empty must be removed by the caller.
    #[inline(always)] // the accounts then stay in registers
    pub fn change<C: Collection, R>(&mut self, f: impl FnOnce(&mut C) -> R) -> Option<R> {
        // SAFETY: `self` is mutably borrowed for as long as the reference lives.
        let collection = C::of_mut(unsafe { self.raw.value_mut() })?;
        // The entry itself stays as it is, so that what is outside is all that there is to count.
        let (bytes, field_expire) = (collection.outside_bytes(), collection.next_expiry());
        let result = f(collection);
        let (grown, now) = (collection.outside_bytes() as isize - bytes as isize, collection.next_expiry());
        self.db.keyspace.counters.add_bytes(grown);
        if now != field_expire {
            self.settle_fields(field_expire, now);
        }
        if let Some(before) = &mut self.before {
            before.bytes = before.bytes.strict_add_signed(grown);
            before.field_expire = now;
        }
        Some(result)
    }

    /// Replaces the value by a string. Returns a collection that was there.
    pub fn set_str(&mut self, bytes: &[u8], expiry: Expiry) -> Option<Value> {
        // SAFETY: the slot's guard is mutably borrowed, and so is `self`.
        if unsafe { self.raw.overwrite_str(bytes, expiry) } {
            return None;
        }
        self.note();
        let expire = expiry.over(self.raw.expire_ms());
        // SAFETY: the old place is forgotten by `moved`; so below.
        let (raw, old) = unsafe { self.raw.set_str(bytes, expire) };
        self.moved(raw);
        old
    }
    /// Replaces value and expiry. Returns a collection that was there. Panics on an empty collection.
    pub fn replace(&mut self, value: Value, expire: Option<i64>) -> Option<Value> {
        assert!(!value.is_empty_collection(), "no key holds an empty collection");
        self.note();
        // SAFETY: see set_str.
        let (raw, old) = unsafe { self.raw.replace(value, expire) };
        self.moved(raw);
        old
    }
    pub fn set_expire(&mut self, expire: Option<i64>) {
        self.note();
        // SAFETY: see set_str.
        let raw = unsafe { self.raw.set_expire(expire) };
        self.moved(raw);
    }
    /// Changes the length of a string, filling with zeros; its encoding becomes "raw". Panics on other kinds.
    pub fn resize_str(&mut self, len: usize) -> &mut [u8] {
        self.note();
        // SAFETY: see set_str.
        let raw = unsafe { self.raw.resize_str(len) };
        raw.mark_raw();
        self.moved(raw);
        match self.value_mut() {
            ValueMut::Str(bytes) => bytes,
            _ => unreachable!("resize_str checked the kind"),
        }
    }
    /// Appends to a string. Returns its new length. Panics on other kinds.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let old = match self.value_mut() {
            ValueMut::Str(old) => old.len(),
            _ => panic!("append to a collection"),
        };
        self.resize_str(old + bytes.len())[old..].copy_from_slice(bytes);
        old + bytes.len()
    }

    /// To be called before a change that may take or free memory.
    #[inline]
    fn note(&mut self) {
        if self.before.is_none() {
            self.before = Some(Account::of(self.raw));
        }
    }

    fn moved(&mut self, raw: RawEntry) {
        if raw != self.raw {
            self.raw = raw;
            self.seg.set_entry(self.index, raw);
        }
    }
}

impl Drop for EntryMut<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            self.settle(before);
        }
    }
}

impl EntryMut<'_> {
    fn settle(&mut self, before: Account) {
        let now = Account::of(self.raw);
        self.db.keyspace.counters.add_bytes(now.bytes as isize - before.bytes as isize);
        if now.expire != before.expire {
            let root = self.db.root_mut();
            root.expires = root.expires + now.expire.is_some() as u32 - before.expire.is_some() as u32;
            if now.expire.is_some() {
                self.seg.set_may_expire(true);
            }
            self.db.expiry_changed(before.expire, now.expire);
        }
        if now.field_expire != before.field_expire {
            self.settle_fields(before.field_expire, now.field_expire);
        }
    }

    fn settle_fields(&mut self, before: Option<i64>, now: Option<i64>) {
        if now.is_some() {
            self.seg.set_may_expire(true);
        }
        self.db.field_expiry_changed(before, now);
    }
}
