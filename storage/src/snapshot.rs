//! Snapshots without fork: the state at one instant, written out while writing goes on.
//!
//! A snapshot raises the epoch while the gate is closed. Each segment carries the epoch at which it was last saved
//! or made; a writer that meets an older stamp hands the segment to the snapshot first, then changes it. Walkers do
//! the rest, segment by segment. A table that is taken out whole (FLUSHALL) is handed over and walked later.
//!
//! Invariants: a segment of the epoch before is handed over exactly once, under its slot's lock (or, in a detached
//! table, by whoever owns that); both halves of a split and both sides of a merge have the same stamp. So the blocks
//! together are exactly the state at the instant.
//!
//! Extra memory is the queue of blocks. Walkers stop while it is above a bound of the node's choice; writers never
//! wait here: the node looks at [`Snapshot::queued_bytes`] before it takes locks.

use crate::db::Table;
use crate::directory::Root;
use crate::gate::GateClosed;
use crate::keyspace::Keyspace;
use crate::rdb::{Access, Format, write_record};
use crate::segment::Seg;
use proto::{Slot, SlotRange};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What to write and how.
#[derive(Clone)]
pub struct SnapshotOptions {
    pub format: Format,
    /// Only these slots, as slot migration needs; `None` for all.
    pub slots: Option<Vec<SlotRange>>,
    /// What an entry's access clock means, by the eviction policy in force.
    pub access: Arc<dyn Fn(u32) -> Access + Send + Sync>,
}

impl Default for SnapshotOptions {
    fn default() -> SnapshotOptions {
        SnapshotOptions { format: Format::default(), slots: None, access: Arc::new(|_| Access::None) }
    }
}

/// Another snapshot is under way; nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub struct SnapshotBusy;

/// RDB records of some keys of one slot in one database.
#[derive(Debug)]
pub struct Block {
    pub slot: Slot,
    /// The database's number at the snapshot's instant.
    pub db: u16,
    pub records: Vec<u8>,
    pub keys: u32,
}

/// A snapshot under way. It ends with [`Keyspace::end_snapshot`], whether it is finished or not.
pub struct Snapshot {
    epoch: u32,
    options: SnapshotOptions,
    wanted: [u64; Slot::COUNT / 64],
    /// Slots all of whose segments are saved; set under the slot's lock.
    walked: Box<[AtomicU64]>,
    slots_left: AtomicU32,
    next_slot: AtomicU32,
    walks: Mutex<Vec<Walk>>,
    detached: Mutex<Vec<Detached>>,
    detached_left: AtomicU32,
    /// Number and sizes of each home's database at the instant.
    dbs: Vec<u16>,
    sizes: Vec<(u64, u64)>,
    queue: Mutex<VecDeque<Block>>,
    queued: AtomicU64,
    ended: AtomicBool,
}

/// Where the walk of a slot stands.
struct Walk {
    slot: Slot,
    home: u16,
    from: u64,
}

struct Detached {
    slot: Slot,
    home: u16,
    table: Table,
    from: u64,
}

/// Segments per call of [`Snapshot::walk_next`]; the slot's lock is released after each. Choice: about a millisecond.
const STEP: usize = 64;

impl Keyspace {
    /// Begins a snapshot of this instant: every change made before is in it, none made after. All writers are
    /// outside the gate (that is what `closed` proves) and write inside it only.
    pub fn begin_snapshot(
        &self,
        options: SnapshotOptions,
        _closed: &GateClosed<'_>,
    ) -> Result<Arc<Snapshot>, SnapshotBusy> {
        let mut active = lock(&self.snapshot);
        if active.is_some() {
            return Err(SnapshotBusy);
        }
        let epoch = self.epoch.load(Ordering::Relaxed).checked_add(1).expect("fewer than 2^32 snapshots");
        self.epoch.store(epoch, Ordering::Release);
        let mut dbs = vec![0; self.databases() as usize];
        for db in 0..self.databases() {
            dbs[self.place(db) as usize] = db;
        }
        let sizes = (0..self.databases()).map(|db| (self.len(db), self.expires_len(db))).collect();
        let snapshot = Arc::new(Snapshot::new(epoch, options, dbs, sizes));
        *active = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// As [`Keyspace::end_snapshot`], whichever it is.
    pub(crate) fn end_any_snapshot(&self) {
        let active = lock(&self.snapshot).clone();
        active.iter().for_each(|snapshot| self.end_snapshot(snapshot));
    }

    /// Ends a snapshot: writers owe it nothing any more, and what is queued is dropped. Another may begin.
    pub fn end_snapshot(&self, snapshot: &Arc<Snapshot>) {
        let mut active = lock(&self.snapshot);
        if active.as_ref().is_some_and(|s| Arc::ptr_eq(s, snapshot)) {
            *active = None;
        }
        drop(active);
        snapshot.ended.store(true, Ordering::Relaxed);
        lock(&snapshot.walks).clear();
        let detached = std::mem::take(&mut *lock(&snapshot.detached));
        lock(&snapshot.queue).clear();
        snapshot.queued.store(0, Ordering::Relaxed);
        drop(detached);
    }

    /// The snapshot that still wants the old content of a slot.
    fn snapshot_of(&self, slot: Slot, epoch: u32) -> Option<Arc<Snapshot>> {
        let active = lock(&self.snapshot);
        active.as_ref().filter(|s| s.epoch == epoch && s.wants(slot)).cloned()
    }

    /// Saves a segment whose stamp is older than `epoch` before it is changed, and stamps it. The caller holds the
    /// slot's lock.
    #[cold]
    pub(crate) fn save_segment(&self, slot: Slot, home: u16, seg: Seg, epoch: u32) {
        if let Some(snapshot) = self.snapshot_of(slot, epoch) {
            // Without compression: the writer's client is waiting.
            snapshot.save(slot, home, seg, false);
        }
        seg.set_stamp(epoch);
    }

    /// Hands a table that was just taken out of its slot to the snapshot under way, if that still needs it. The
    /// caller holds the slot's lock.
    pub(crate) fn hand_over(&self, slot: Slot, home: u16, table: Table) -> Option<Table> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        match self.snapshot_of(slot, epoch) {
            Some(snapshot) if !snapshot.is_slot_walked(slot) => {
                snapshot.detached_left.fetch_add(1, Ordering::Relaxed);
                lock(&snapshot.detached).push(Detached { slot, home, table, from: 0 });
                None
            }
            _ => Some(table),
        }
    }
}

impl Snapshot {
    fn new(epoch: u32, options: SnapshotOptions, dbs: Vec<u16>, sizes: Vec<(u64, u64)>) -> Snapshot {
        let mut wanted = [0u64; Slot::COUNT / 64];
        match &options.slots {
            None => wanted.fill(!0),
            Some(ranges) => {
                ranges.iter().flat_map(|r| r.iter()).for_each(|s| wanted[s.index() / 64] |= bit(s))
            }
        }
        let left = wanted.iter().map(|word| word.count_ones()).sum();
        Snapshot {
            epoch,
            options,
            wanted,
            walked: (0..Slot::COUNT / 64).map(|_| AtomicU64::new(0)).collect(),
            slots_left: AtomicU32::new(left),
            next_slot: AtomicU32::new(0),
            walks: Mutex::default(),
            detached: Mutex::default(),
            detached_left: AtomicU32::new(0),
            dbs,
            sizes,
            queue: Mutex::default(),
            queued: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// How the blocks are written.
    pub fn format(&self) -> &Format {
        &self.options.format
    }
    /// Keys, and keys with an expiry, that a database had at the instant.
    pub fn sizes(&self, db: u16) -> (u64, u64) {
        self.sizes[db as usize]
    }
    /// Bytes of blocks that wait for the consumer.
    pub fn queued_bytes(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }
    /// The next block. `None`: none now; more may come unless the snapshot [`Snapshot::is_walked`] already before
    /// this call.
    pub fn next_block(&self) -> Option<Block> {
        let block = lock(&self.queue).pop_front()?;
        self.queued.fetch_sub(block.records.len() as u64, Ordering::Relaxed);
        Some(block)
    }
    /// Whether all blocks there will ever be have been queued.
    pub fn is_walked(&self) -> bool {
        // In this order: a table is handed over before its slot counts as walked.
        self.slots_left.load(Ordering::Acquire) == 0 && self.detached_left.load(Ordering::Acquire) == 0
    }
    /// Whether the snapshot is walked and its last block was taken.
    pub fn is_finished(&self) -> bool {
        self.is_walked() && lock(&self.queue).is_empty()
    }
    /// Whether it was ended by [`Keyspace::end_snapshot`].
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
    /// Wanted slots that are not walked yet, for progress reports.
    pub fn slots_left(&self) -> u32 {
        self.slots_left.load(Ordering::Relaxed)
    }

    /// Whether the snapshot includes a slot.
    pub fn wants(&self, slot: Slot) -> bool {
        self.wanted[slot.index() / 64] & bit(slot) != 0
    }
    fn is_slot_walked(&self, slot: Slot) -> bool {
        self.walked[slot.index() / 64].load(Ordering::Relaxed) & bit(slot) != 0
    }

    /// Walks a bounded piece of what is left (at most 64 segments), wherever that is; for any number of background
    /// threads, which must not hold slot locks. Returns whether there was any: `false` may mean that other threads
    /// have the rest in hand.
    pub fn walk_next(&self, keyspace: &Keyspace) -> bool {
        if self.is_ended() {
            return false;
        }
        let detached = lock(&self.detached).pop();
        if let Some(detached) = detached {
            self.walk_detached(detached);
            return true;
        }
        let resumed = lock(&self.walks).pop();
        let Some(mut walk) = resumed.or_else(|| self.next_wanted()) else { return false };
        for _ in 0..STEP {
            let before = (walk.home, walk.from);
            if self.walk_segment(keyspace, &mut walk) {
                return true;
            }
            if before == (walk.home, walk.from) {
                break;
            }
        }
        lock(&self.walks).push(walk);
        true
    }

    /// Walks all that is left of a slot, releasing its lock after each segment.
    pub fn walk_slot(&self, keyspace: &Keyspace, slot: Slot) {
        let mut walk = Walk { slot, home: 0, from: 0 };
        while self.wants(slot) && !self.is_ended() && !self.walk_segment(keyspace, &mut walk) {}
    }

    fn next_wanted(&self) -> Option<Walk> {
        loop {
            let number = self.next_slot.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = u16::try_from(number).ok().and_then(Slot::new) else {
                self.next_slot.store(Slot::COUNT as u32, Ordering::Relaxed);
                return None;
            };
            if self.wants(slot) && !self.is_slot_walked(slot) {
                return Some(Walk { slot, home: 0, from: 0 });
            }
        }
    }

    /// Saves the next segment that needs it. Returns whether the slot is done; not while it is held for long.
    fn walk_segment(&self, keyspace: &Keyspace, walk: &mut Walk) -> bool {
        let Some(guard) = keyspace.lock_soon(walk.slot) else { return false };
        while (walk.home as usize) < self.dbs.len() {
            let root = keyspace.root_ref(guard.slot(), walk.home);
            if let Some(from) = self.save_next(root, walk.slot, walk.home, walk.from) {
                walk.from = from;
                return false;
            }
            (walk.home, walk.from) = (walk.home + 1, 0);
        }
        // Under the lock, so that a table is either handed over before or was walked.
        let before = self.walked[walk.slot.index() / 64].fetch_or(bit(walk.slot), Ordering::Relaxed);
        if before & bit(walk.slot) == 0 {
            self.slots_left.fetch_sub(1, Ordering::Release);
        }
        true
    }

    /// Saves the first unsaved segment at or after `from`; returns where to go on, `None` at the table's end.
    fn save_next(&self, root: &Root, slot: Slot, home: u16, from: u64) -> Option<u64> {
        let mut at = from;
        loop {
            let (seg, next) = root.segment_from(at)?;
            let saved = seg.stamp() == self.epoch;
            if !saved {
                self.save(slot, home, seg, self.options.format.compress);
                seg.set_stamp(self.epoch);
            }
            at = next?;
            if !saved {
                return Some(at);
            }
        }
    }

    fn walk_detached(&self, mut detached: Detached) {
        for _ in 0..STEP {
            match self.save_next(detached.table.root(), detached.slot, detached.home, detached.from) {
                Some(from) => detached.from = from,
                None => {
                    drop(detached);
                    self.detached_left.fetch_sub(1, Ordering::Release);
                    return;
                }
            }
        }
        lock(&self.detached).push(detached);
    }

    /// Queues the records of a segment. The caller holds the slot's lock or owns the table.
    fn save(&self, slot: Slot, home: u16, seg: Seg, compress: bool) {
        if seg.len() == 0 || self.is_ended() {
            return;
        }
        let format = Format { compress, ..self.options.format };
        let mut records = Vec::with_capacity(64 * seg.len());
        for i in 0..seg.len() {
            seg.entry(i).prefetch();
        }
        for i in 0..seg.len() {
            let entry = seg.entry(i);
            let access = (self.options.access)(entry.clock());
            write_record(&mut records, &format, entry.key(), entry.value(), entry.expire_ms(), access);
        }
        let block = Block { slot, db: self.dbs[home as usize], keys: seg.len() as u32, records };
        self.queued.fetch_add(block.records.len() as u64, Ordering::Relaxed);
        lock(&self.queue).push_back(block);
    }
}

fn bit(slot: Slot) -> u64 {
    1 << (slot.index() % 64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::{Event, LoadOptions, RdbError, RdbWriter, load};
    use crate::{Expiry, List, Thresholds, Value, ValueMut, ValueRef};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Database and key to the value as text and the expiry.
    type Model = BTreeMap<(u16, Vec<u8>), (String, Option<i64>)>;

    const SLOTS: [u16; 3] = [0, 77, 16383];

    fn slot_of(key: u32) -> Slot {
        Slot::new(SLOTS[key as usize % SLOTS.len()]).unwrap()
    }
    fn text(key: u32) -> Vec<u8> {
        format!("key:{key}").into_bytes()
    }
    fn shown(value: ValueRef<'_>) -> String {
        match value {
            ValueRef::Str(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            ValueRef::List(list) => format!("list of {}", list.len()),
            _ => panic!("neither string nor list"),
        }
    }

    /// A file of the blocks in the order they came, loaded again.
    fn collect(snapshot: &Snapshot, keyspace: &Keyspace) -> Model {
        let (mut writer, mut out) = (RdbWriter::new(*snapshot.format()), Vec::new());
        writer.header(&[], &mut out);
        let mut keys = 0;
        loop {
            let walked = snapshot.is_walked();
            match snapshot.next_block() {
                Some(block) => {
                    keys += block.keys as usize;
                    writer.records(block.db, &block.records, &mut out);
                }
                None if walked => break,
                None => assert!(snapshot.walk_next(keyspace)),
            }
        }
        assert!(snapshot.is_finished() && snapshot.queued_bytes() == 0);
        writer.finish(&mut out);
        let mut model = Model::new();
        load::<RdbError>(&mut &out[..], LoadOptions::default(), &mut |event| {
            if let Event::Key(r) = event {
                model.insert((r.db as u16, r.key), (shown(r.value.as_ref()), r.expire_ms));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(model.len(), keys, "no key comes twice");
        model
    }

    #[derive(Clone, Debug)]
    enum Op {
        Set(u16, u32, u32, Option<i64>),
        Push(u16, u32),
        Append(u16, u32),
        Expire(u16, u32, Option<i64>),
        Delete(u16, u32),
        SetMany(u16, u32, u32),
        DeleteMany(u16, u32, u32),
        Flush(u16, u32),
        Swap(u16, u16),
        Walk,
        WalkSlot(u32),
        Drain,
    }

    fn op() -> impl Strategy<Value = Op> {
        let (db, key) = (0..3u16, 0..2000u32);
        let expire = proptest::option::of(0..1000i64);
        prop_oneof![
            8 => (db.clone(), key.clone(), 0..100u32, expire.clone()).prop_map(|(d, k, v, e)| Op::Set(d, k, v, e)),
            3 => (db.clone(), key.clone()).prop_map(|(d, k)| Op::Push(d, k)),
            3 => (db.clone(), key.clone()).prop_map(|(d, k)| Op::Append(d, k)),
            2 => (db.clone(), key.clone(), expire).prop_map(|(d, k, e)| Op::Expire(d, k, e)),
            5 => (db.clone(), key.clone()).prop_map(|(d, k)| Op::Delete(d, k)),
            3 => (db.clone(), key.clone(), 0..900u32).prop_map(|(d, k, n)| Op::SetMany(d, k, n)),
            3 => (db.clone(), key.clone(), 0..900u32).prop_map(|(d, k, n)| Op::DeleteMany(d, k, n)),
            1 => (db.clone(), key.clone()).prop_map(|(d, k)| Op::Flush(d, k)),
            1 => (db.clone(), db).prop_map(|(a, b)| Op::Swap(a, b)),
            3 => Just(Op::Walk),
            1 => key.prop_map(Op::WalkSlot),
            1 => Just(Op::Drain),
        ]
    }

    fn apply(
        ks: &Keyspace,
        model: &mut Model,
        op: &Op,
        snapshot: Option<&Snapshot>,
        blocks: &mut Vec<Block>,
    ) {
        let set = |model: &mut Model, db: u16, key: u32, value: &str, expire: Option<i64>| {
            let (mut guard, k) = (ks.lock_wait(slot_of(key)), text(key));
            let expiry = expire.map_or(Expiry::None, Expiry::At);
            guard.db_mut(db).set_str(&k, ks.hash(&k), value.as_bytes(), expiry);
            model.insert((db, k), (value.into(), expire));
        };
        let delete = |model: &mut Model, db: u16, key: u32| {
            let k = text(key);
            let gone = ks.lock_wait(slot_of(key)).db_mut(db).delete(&k, ks.hash(&k));
            assert_eq!(gone, model.remove(&(db, k)).is_some());
        };
        match *op {
            Op::Set(db, key, value, expire) => set(model, db, key, &format!("value {value}"), expire),
            Op::Push(db, key) => {
                let (mut guard, k) = (ks.lock_wait(slot_of(key)), text(key));
                let mut db_mut = guard.db_mut(db);
                let old = db_mut.get_mut(&k, ks.hash(&k)).and_then(|mut e| match e.value_mut() {
                    ValueMut::List(list) => {
                        list.push_back(b"x", &Thresholds::default());
                        Some((list.len(), e.expire_ms()))
                    }
                    _ => None,
                });
                let (len, expire) = old.unwrap_or_else(|| {
                    let mut list = List::new();
                    list.push_back(b"x", &Thresholds::default());
                    db_mut.insert(&k, ks.hash(&k), Value::List(list), None);
                    (1, None)
                });
                model.insert((db, k), (format!("list of {len}"), expire));
            }
            Op::Append(db, key) => {
                let (mut guard, k) = (ks.lock_wait(slot_of(key)), text(key));
                let mut db_mut = guard.db_mut(db);
                if let Some(mut e) = db_mut.get_mut(&k, ks.hash(&k))
                    && matches!(e.value_mut(), ValueMut::Str(_))
                {
                    e.append(b"+");
                    model.get_mut(&(db, k)).unwrap().0.push('+');
                }
            }
            Op::Expire(db, key, expire) => {
                let k = text(key);
                ks.lock_wait(slot_of(key)).db_mut(db).set_expire(&k, ks.hash(&k), expire);
                model.entry((db, k)).and_modify(|v| v.1 = expire);
            }
            Op::Delete(db, key) => delete(model, db, key),
            Op::SetMany(db, key, n) => (key..key + n).for_each(|k| set(model, db, k, "many", None)),
            Op::DeleteMany(db, key, n) => (key..key + n).for_each(|k| delete(model, db, k)),
            Op::Flush(db, key) => {
                let slot = slot_of(key);
                ks.lock_wait(slot).db_mut(db).clear();
                model.retain(|(d, k), _| {
                    let number: u32 = std::str::from_utf8(&k[4..]).unwrap().parse().unwrap();
                    *d != db || slot_of(number) != slot
                });
            }
            Op::Swap(a, b) => {
                ks.swap_dbs(a, b, &ks.gate().close());
                let swap = |db| {
                    if db == a {
                        b
                    } else if db == b {
                        a
                    } else {
                        db
                    }
                };
                *model = std::mem::take(model).into_iter().map(|((d, k), v)| ((swap(d), k), v)).collect();
            }
            Op::Walk => {
                snapshot.map(|s| s.walk_next(ks));
            }
            Op::WalkSlot(key) => {
                snapshot.inspect(|s| s.walk_slot(ks, slot_of(key)));
            }
            Op::Drain => {
                if let Some(s) = snapshot {
                    blocks.extend(std::iter::from_fn(|| s.next_block()));
                }
            }
        }
    }

    fn begin(ks: &Keyspace, options: SnapshotOptions) -> Arc<Snapshot> {
        ks.begin_snapshot(options, &ks.gate().close()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

        #[test]
        fn the_blocks_are_the_state_at_the_instant(
            before in prop::collection::vec(op(), 0..60),
            after in prop::collection::vec(op(), 0..120),
            then in prop::collection::vec(op(), 0..30),
        ) {
            let ks = Keyspace::new(3, [3, 4]);
            let mut model = Model::new();
            let empty = ks.used_bytes();
            before.iter().for_each(|op| apply(&ks, &mut model, op, None, &mut Vec::new()));
            // Two snapshots in a row, so that the second meets stamps of all ages.
            for ops in [&after, &then] {
                let instant = model.clone();
                let snapshot = begin(&ks, SnapshotOptions::default());
                for db in 0..3 {
                    let keys = instant.keys().filter(|k| k.0 == db).count() as u64;
                    prop_assert_eq!(snapshot.sizes(db).0, keys);
                }
                let mut blocks = Vec::new();
                for op in ops {
                    apply(&ks, &mut model, op, Some(&snapshot), &mut blocks);
                }
                // Drained early or late, the blocks are the same set; put the drained ones back in front.
                for block in blocks.into_iter().rev() {
                    snapshot.queued.fetch_add(block.records.len() as u64, Ordering::Relaxed);
                    lock(&snapshot.queue).push_front(block);
                }
                prop_assert!(collect(&snapshot, &ks) == instant);
                ks.end_snapshot(&snapshot);
            }
            let last = begin(&ks, SnapshotOptions::default());
            prop_assert!(collect(&last, &ks) == model);
            ks.end_snapshot(&last);
            for slot in SLOTS {
                (0..3).for_each(|db| ks.lock_wait(Slot::new(slot).unwrap()).db_mut(db).clear());
            }
            // What is left are the databases' fixed parts.
            prop_assert!(ks.used_bytes() - empty < 3 * 800_000);
            prop_assert_eq!((ks.len(0), ks.len(1), ks.len(2)), (0, 0, 0));
        }
    }

    #[test]
    fn one_at_a_time_and_an_aborted_one_lets_go() {
        let ks = Keyspace::new(1, [1, 1]);
        let mut model = Model::new();
        apply(&ks, &mut model, &Op::SetMany(0, 0, 1), None, &mut Vec::new());
        let empty = ks.used_bytes();
        apply(&ks, &mut model, &Op::SetMany(0, 0, 2000), None, &mut Vec::new());
        let held = || ks.used_bytes() - empty;
        let full = held();
        let first = begin(&ks, SnapshotOptions::default());
        assert_eq!(
            ks.begin_snapshot(SnapshotOptions::default(), &ks.gate().close()).err(),
            Some(SnapshotBusy)
        );
        apply(&ks, &mut model, &Op::Flush(0, 0), None, &mut Vec::new());
        apply(&ks, &mut model, &Op::DeleteMany(0, 1, 1), None, &mut Vec::new());
        assert!(first.queued_bytes() > 0 && held() > full * 9 / 10, "the flushed table is still held");
        ks.end_snapshot(&first);
        assert!(first.queued_bytes() == 0 && first.next_block().is_none() && !first.walk_next(&ks));
        assert!(held() < full * 7 / 10);
        let second = begin(&ks, SnapshotOptions::default());
        // Ending the first again does not end the second.
        ks.end_snapshot(&first);
        assert!(collect(&second, &ks) == model);
    }

    #[test]
    fn only_the_slots_asked_for() {
        let ks = Keyspace::new(1, [1, 1]);
        let mut model = Model::new();
        apply(&ks, &mut model, &Op::SetMany(0, 0, 900), None, &mut Vec::new());
        let slot = slot_of(1);
        let options =
            SnapshotOptions { slots: SlotRange::new(slot, slot).map(|r| vec![r]), ..Default::default() };
        let instant: Model = model
            .clone()
            .into_iter()
            .filter(|(k, _)| {
                let number: u32 = std::str::from_utf8(&k.1[4..]).unwrap().parse().unwrap();
                slot_of(number) == slot
            })
            .collect();
        let snapshot = begin(&ks, options);
        assert_eq!(snapshot.slots_left(), 1);
        apply(&ks, &mut model, &Op::DeleteMany(0, 0, 600), None, &mut Vec::new());
        apply(&ks, &mut model, &Op::Flush(0, 0), None, &mut Vec::new());
        assert!(collect(&snapshot, &ks) == instant);
    }

    #[test]
    fn writers_and_walkers_at_once() {
        let ks = Keyspace::new(2, [1, 1]);
        let mut model = Model::new();
        apply(&ks, &mut model, &Op::SetMany(0, 0, 6000), None, &mut Vec::new());
        apply(&ks, &mut model, &Op::SetMany(1, 0, 3000), None, &mut Vec::new());
        let snapshot = begin(&ks, SnapshotOptions::default());
        std::thread::scope(|scope| {
            for thread in 0..2u32 {
                let ks = &ks;
                let mut reader = ks.gate().register();
                scope.spawn(move || {
                    let mut x = thread + 1;
                    for _ in 0..30_000 {
                        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let (key, db) = ((x >> 8) % 8000, (x >> 30) as u16 & 1);
                        let k = text(key);
                        let _inside = reader.enter_wait();
                        let mut guard = ks.lock_wait(slot_of(key));
                        match x >> 4 & 3 {
                            0 => drop(guard.db_mut(db).delete(&k, ks.hash(&k))),
                            _ => drop(guard.db_mut(db).set_str(&k, ks.hash(&k), b"changed", Expiry::At(1))),
                        }
                    }
                });
            }
            let snapshot = &snapshot;
            let ks = &ks;
            scope.spawn(move || while snapshot.walk_next(ks) {});
        });
        assert!(collect(&snapshot, &ks) == model);
    }
}
