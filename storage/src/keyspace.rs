//! All keys of a node: 16384 slots, each with its lock and one table per database.
//!
//! Invariants: a slot's tables and state are touched under its lock only; nothing here is global, so two keyspaces
//! can live in one process. SWAPDB only exchanges two entries of `places`: tables stay where they are.

use crate::counters::Counters;
use crate::db::{Db, LookAhead};
use crate::directory::Root;
use crate::entry::RawEntry;
use crate::gate::{Gate, GateClosed};
use crate::keyhash::KeyHasher;
use crate::slot::{SlotGuard, SlotLine};
use crate::snapshot::Snapshot;
use crate::value::ValueRef;
use arrayvec::ArrayVec;
use proto::Slot;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// A key that a command will look up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyAhead {
    pub slot: Slot,
    /// [`Keyspace::hash`] of the key.
    pub hash: u64,
}

/// An element that a command will look up in the collection at a key.
#[derive(Clone, Copy)]
pub struct ElementAhead<'a> {
    pub key: KeyAhead,
    pub element: &'a [u8],
    /// The score that it will get, if it is to be put into a sorted set.
    pub score: Option<f64>,
    /// Its hash in the collection, from the first step on.
    pub(crate) hash: u64,
    /// Steps that are done.
    pub(crate) step: u8,
    /// Where the step before found it, and where it is to go: hints, which may be outdated.
    pub(crate) place: u32,
    pub(crate) goal: Option<u32>,
}

impl<'a> ElementAhead<'a> {
    #[inline]
    pub fn new(key: KeyAhead, element: &'a [u8]) -> ElementAhead<'a> {
        ElementAhead { key, element, score: None, hash: 0, step: 0, place: 0, goal: None }
    }
}

/// Goes one step further with each of the elements of one collection. Those for which there is another step come first
/// afterwards; returns how many.
#[inline]
fn step(value: ValueRef<'_>, elements: &mut [ElementAhead<'_>]) -> usize {
    let mut kept = 0;
    for at in 0..elements.len() {
        let mut element = elements[at];
        let has_more = match value {
            ValueRef::Set(set) => set.prefetch(&mut element),
            ValueRef::Hash(hash) => hash.prefetch(&mut element),
            ValueRef::ZSet(zset) => zset.prefetch(&mut element),
            ValueRef::Str(_) | ValueRef::List(_) | ValueRef::Stream(_) => false,
        };
        if has_more {
            elements[kept] = element;
            kept += 1;
        }
    }
    kept
}

/// See the module's head.
pub struct Keyspace {
    lines: Box<[SlotLine; Slot::COUNT]>,
    hasher: KeyHasher,
    /// Where the tables of a database are: the index into `homes`, changed by SWAPDB.
    places: Box<[AtomicU16]>,
    homes: Box<[OnceLock<Box<Home>>]>,
    pub(crate) counters: Arc<Counters>,
    /// The epoch that segments are stamped with; raised by each snapshot.
    pub(crate) epoch: AtomicU32,
    pub(crate) snapshot: Mutex<Option<Arc<Snapshot>>>,
    /// Access clock of entries that are made now.
    pub(crate) clock: AtomicU32,
    gate: Gate,
}

/// One database's tables and the hints about them that are read without locks.
pub(crate) struct Home {
    /// Roots by slot; none for home 0, whose roots are in the slots' lines.
    roots: Box<[UnsafeCell<Root>]>,
    /// Lower bounds of the slots' next expiry.
    pub(crate) next_expiry: Box<[NextExpiry]>,
    /// One bit per slot that has keys.
    occupied: Box<[AtomicU64]>,
}

// SAFETY: a root is only touched under its slot's lock; it owns what it points to, all of it Send.
unsafe impl Sync for Home {}
// SAFETY: as above.
unsafe impl Send for Home {}

/// A time in ms, `i64::MAX` for never. Zeros stand for never, so that what nobody sets takes no memory.
pub(crate) struct NextExpiry(AtomicI64);

impl NextExpiry {
    /// One for each slot.
    fn all_never() -> Box<[NextExpiry]> {
        // SAFETY: zeros are a valid atomic number.
        unsafe { Box::new_zeroed_slice(Slot::COUNT).assume_init() }
    }
    #[inline]
    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed) ^ i64::MAX
    }
    #[inline]
    pub(crate) fn set(&self, at_ms: i64) {
        self.0.store(at_ms ^ i64::MAX, Ordering::Relaxed);
    }
}

impl Home {
    fn own_bytes(&self) -> usize {
        self.roots.len() * size_of::<Root>() + self.next_expiry.len() * 8 + self.occupied.len() * 8
    }
}

static EMPTY: Root = Root::EMPTY;

impl Keyspace {
    /// An empty keyspace with `databases` databases (at least one). The seed keys the hash of all tables: random in
    /// production, fixed in simulations.
    pub fn new(databases: u16, hash_seed: [u64; 2]) -> Keyspace {
        Keyspace::with_hasher(databases, KeyHasher::new(hash_seed))
    }

    pub(crate) fn with_hasher(databases: u16, hasher: KeyHasher) -> Keyspace {
        assert!(databases > 0);
        let keyspace = Keyspace {
            lines: SlotLine::all_new(),
            hasher,
            places: (0..databases).map(AtomicU16::new).collect(),
            homes: (0..databases).map(|_| OnceLock::new()).collect(),
            counters: Arc::new(Counters::new(databases)),
            epoch: AtomicU32::new(0),
            snapshot: Mutex::default(),
            clock: AtomicU32::new(0),
            gate: Gate::default(),
        };
        keyspace.counters.add_bytes(keyspace.own_bytes() as isize);
        keyspace
    }

    /// Bytes of the keyspace without any table, all counted with the first slot.
    pub(crate) fn own_bytes(&self) -> u64 {
        let homes = self.homes.iter().filter_map(|home| home.get()).map(|home| home.own_bytes());
        (Slot::COUNT * size_of::<SlotLine>() + homes.sum::<usize>()) as u64
    }

    /// The keyed hash under which `key` is stored.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }
    pub(crate) fn hasher(&self) -> KeyHasher {
        self.hasher
    }
    /// The access clock that new entries begin with; the engine sets it once per batch.
    pub fn set_clock(&self, clock: u32) {
        self.clock.store(clock, Ordering::Relaxed);
    }
    pub fn databases(&self) -> u16 {
        self.places.len() as u16
    }
    /// The gate that commands pass and operations on everything close.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    #[inline]
    fn line(&self, slot: Slot) -> &SlotLine {
        &self.lines[slot.index()]
    }

    /// Locks a slot if it is free: one compare-and-swap on the slot's line.
    #[inline]
    pub fn try_lock(&self, slot: Slot) -> Option<SlotGuard<'_>> {
        let line = self.line(slot);
        line.lock().try_lock().then(|| SlotGuard::new(self, line, slot))
    }
    /// Locks a slot, spinning for 1-2 µs at most. `None`: still held, the caller should do something else.
    #[inline]
    pub fn lock(&self, slot: Slot) -> Option<SlotGuard<'_>> {
        let line = self.line(slot);
        (line.lock().try_lock() || line.lock().spin_lock()).then(|| SlotGuard::new(self, line, slot))
    }
    /// Locks a slot, yielding the thread while it is held. For background work, never for workers.
    pub fn lock_wait(&self, slot: Slot) -> SlotGuard<'_> {
        const YIELDS_MAX: u32 = 20;
        let mut looks = 0;
        loop {
            if let Some(guard) = self.lock(slot) {
                return guard;
            }
            looks += 1;
            // The holder's thread may have a lower priority than this one.
            if looks < YIELDS_MAX { std::thread::yield_now() } else { crate::sync::rest() }
        }
    }

    /// As [`Keyspace::lock_wait`], for about a millisecond at most: a script may hold a slot for ever.
    pub fn lock_soon(&self, slot: Slot) -> Option<SlotGuard<'_>> {
        const LOOKS_MAX: u32 = 32;
        (0..LOOKS_MAX).find_map(|looks| {
            let guard = self.lock(slot);
            if guard.is_none() {
                if looks < LOOKS_MAX / 2 { std::thread::yield_now() } else { crate::sync::rest() }
            }
            guard
        })
    }

    /// Where a key is, whose slot's line is asked for: the first stage of looking it up.
    #[inline(never)] // of all that a key is hashed for one copy is enough
    pub fn key_ahead(&self, key: &[u8]) -> KeyAhead {
        let slot = Slot::of_key(key);
        crate::segment::prefetch((&raw const *self.line(slot)).cast());
        KeyAhead { slot, hash: self.hash(key) }
    }
    /// The stages behind it, for several keys at a time, so that their reads overlap: asks for the segments, then for the
    /// places in them that point to entries, then for the entries. Leaves out what is in locked slots.
    pub fn prefetch(&self, db: u16, keys: &[KeyAhead]) {
        /// Slots that are locked together: what a worker runs at a time.
        const TOGETHER: usize = 32;
        let home = self.place(db);
        for keys in keys.chunks(TOGETHER) {
            let mut held: ArrayVec<SlotGuard<'_>, TOGETHER> = ArrayVec::new();
            let mut ahead: ArrayVec<LookAhead<'_>, TOGETHER> = ArrayVec::new();
            for key in keys {
                match self.try_lock(key.slot) {
                    Some(guard) => held.push(guard),
                    // Nearly always: held by nobody else.
                    None if held.iter().any(|guard| guard.slot() == key.slot) => {}
                    None => continue,
                }
                if let Some(one) = Db::of_home(self, key.slot, home).look_ahead(key.hash) {
                    ahead.push(one);
                }
            }
            LookAhead::go_on(&mut ahead);
        }
    }

    /// Stages behind those: asks for what look-ups of elements in collections will read, one step of all at a time, so that
    /// their reads overlap. Leaves out what is in locked slots. The order of `elements` is lost.
    pub fn prefetch_elements(&self, db: u16, elements: &mut [ElementAhead<'_>]) {
        let home = self.place(db);
        let (mut from, mut alone) = (0, 0);
        while from < elements.len() {
            let key = elements[from].key;
            let run = elements[from..].iter().take_while(|e| e.key == key).count();
            if run > 1 {
                // Elements of one key share its lock and its look-up.
                let run = &mut elements[from..from + run];
                self.on_value(key, home, |value| {
                    let mut left = run.len();
                    while left > 0 {
                        left = step(value, &mut run[..left]);
                    }
                    0
                });
            } else {
                elements[alone] = elements[from];
                alone += 1;
            }
            from += run;
        }
        while alone > 0 {
            let mut kept = 0;
            for at in 0..alone {
                elements[kept] = elements[at];
                let element = &mut elements[kept..=kept];
                kept += self.on_value(element[0].key, home, |value| step(value, element));
            }
            alone = kept;
        }
    }
    /// Calls `f` with the collection that is probably at a key, under its lock. 0: it is locked, or none is there.
    #[inline]
    fn on_value(&self, key: KeyAhead, home: u16, f: impl FnOnce(ValueRef<'_>) -> usize) -> usize {
        let Some(_guard) = self.try_lock(key.slot) else { return 0 };
        let Some(seg) = self.root_ref(key.slot, home).locate(key.hash) else { return 0 };
        // Another key with the same tag bits is a string nearly always.
        let is_collection = |entry: RawEntry| !matches!(entry.value(), ValueRef::Str(_));
        seg.probe(key.hash, is_collection).map_or(0, |entry| f(entry.value()))
    }

    /// Keys of a database, expired ones included.
    pub fn len(&self, db: u16) -> u64 {
        self.counters.keys(self.place(db))
    }
    pub fn is_empty(&self) -> bool {
        (0..self.databases()).all(|db| self.len(db) == 0)
    }
    /// Keys of a database that have an expiry.
    pub fn expires_len(&self, db: u16) -> u64 {
        self.counters.expires(self.place(db))
    }
    /// Hashes of a database of which some fields expire.
    pub fn field_expires_len(&self, db: u16) -> u64 {
        self.counters.field_expires(self.place(db))
    }
    /// Keys of a slot in a database; takes the slot's lock, so the caller must not hold it.
    pub fn slot_len(&self, slot: Slot, db: u16) -> u64 {
        self.lock_wait(slot).db(db).len()
    }
    /// Bytes held by keys, values, tables and slots, by allocator class; what other threads change meanwhile may or
    /// may not be counted.
    pub fn used_bytes(&self) -> u64 {
        self.counters.bytes()
    }

    /// The first slot from `from` on that has keys in `db`, without locks.
    pub fn next_occupied(&self, db: u16, from: Slot) -> Option<Slot> {
        let home = self.homes[self.place(db) as usize].get()?;
        let first = from.index() / 64;
        for (i, word) in home.occupied.iter().enumerate().skip(first) {
            let mut bits = word.load(Ordering::Relaxed);
            if i == first {
                bits &= !0 << (from.index() % 64);
            }
            if bits != 0 {
                return Slot::new((i * 64) as u16 + bits.trailing_zeros() as u16);
            }
        }
        None
    }
    /// The first slot from `from` on whose next expiry in `db` may be at or before `now_ms`, without locks.
    pub fn next_due(&self, db: u16, from: Slot, now_ms: i64) -> Option<Slot> {
        let home = self.homes[self.place(db) as usize].get()?;
        let i = home.next_expiry[from.index()..].iter().position(|at| at.get() <= now_ms)?;
        Slot::new((from.index() + i) as u16)
    }

    /// Exchanges two databases. The closed gate proves that no command is under way.
    pub fn swap_dbs(&self, a: u16, b: u16, _closed: &GateClosed<'_>) {
        let (x, y) = (self.place(a), self.place(b));
        self.places[a as usize].store(y, Ordering::Release);
        self.places[b as usize].store(x, Ordering::Release);
    }

    /// The home of a database. Panics if there is no such database.
    #[inline]
    pub(crate) fn place(&self, db: u16) -> u16 {
        self.places[db as usize].load(Ordering::Acquire)
    }

    /// The root of a slot in a home, for reading. The caller holds the slot's lock.
    #[inline]
    pub(crate) fn root_ref(&self, slot: Slot, home: u16) -> &Root {
        if home == 0 {
            // SAFETY: the slot's lock is held by the caller.
            return unsafe { &*self.line(slot).root().get() };
        }
        match self.homes[home as usize].get() {
            // SAFETY: as above.
            Some(home) => unsafe { &*home.roots[slot.index()].get() },
            None => &EMPTY,
        }
    }

    pub(crate) fn home(&self, index: u16) -> &Home {
        self.homes[index as usize].get_or_init(|| {
            let roots = if index == 0 { 0 } else { Slot::COUNT };
            let home = Home {
                roots: (0..roots).map(|_| UnsafeCell::new(Root::EMPTY)).collect(),
                next_expiry: NextExpiry::all_never(),
                occupied: (0..Slot::COUNT / 64).map(|_| AtomicU64::new(0)).collect(),
            };
            self.counters.add_bytes(home.own_bytes() as isize);
            Box::new(home)
        })
    }

    /// The root of a slot in a home, as a cell to be borrowed mutably by a holder of the slot's lock.
    pub(crate) fn root_cell(&self, slot: Slot, home: u16) -> &UnsafeCell<Root> {
        if home == 0 { self.line(slot).root() } else { &self.home(home).roots[slot.index()] }
    }

    /// Sets or clears the bit that says a slot has keys.
    pub(crate) fn set_occupied(&self, slot: Slot, home: u16, yes: bool) {
        let word = &self.home(home).occupied[slot.index() / 64];
        let bit = 1u64 << (slot.index() % 64);
        if yes {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_next_expiry(&self, slot: Slot, home: u16, at_ms: i64) {
        self.home(home).next_expiry[slot.index()].set(at_ms);
    }

    pub(crate) fn next_expiry(&self, slot: Slot, home: u16) -> i64 {
        self.homes[home as usize].get().map_or(i64::MAX, |h| h.next_expiry[slot.index()].get())
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        for slot in Slot::all() {
            for home in 0..self.homes.len() as u16 {
                if home == 0 || self.homes[home as usize].get().is_some() {
                    // SAFETY: `&mut self`: nobody else is here.
                    unsafe { (*self.root_cell(slot, home).get()).free_all() };
                }
            }
        }
    }
}
