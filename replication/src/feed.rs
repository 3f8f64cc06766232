//! The feed: every write unit once, in one sequence of bytes with one offset, the PSYNC offset. Replica links, the AOF
//! and slot moves read it, each at its own pace.
//!
//! Bytes stand in blocks. A full block is shared by all its readers and never changes; the last one is copied from.
//! Blocks are kept for the backlog's size, and longer for readers that must not lose a byte.
//!
//! Invariant: what stands before `end` never changes, and a unit is readable either whole or not at all.
//! Invariant: units of one slot stand in the order in which they were carried out, since they are appended under its lock.

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard};
use bytes::Bytes;
use proto::resp::encode_command;
use proto::{Offset, Slot};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Size of a block, in bytes; a longer unit gets a block of its own. Choice: one system call's worth of sending.
const BLOCK_BYTES: usize = 64 * 1024;

/// See the module's head.
pub struct Feed {
    inner: Mutex<Inner>,
    /// Mirrors of `inner`, for readers that only look.
    end: AtomicU64,
    kept: AtomicU64,
    /// Figures, which no reader depends on: loom need not see them.
    held: std::sync::atomic::AtomicU64,
    surplus: std::sync::atomic::AtomicU64,
    /// Readers, and 1 while the backlog is on.
    attached: AtomicUsize,
    /// The bytes are another's: only [`Feed::append_stream`] adds to them.
    is_following: AtomicBool,
}

struct Inner {
    /// Full blocks in order; together with `tail` without a gap.
    blocks: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Offset of the first byte held.
    first: u64,
    end: u64,
    /// Database of the last unit; `None`: the next unit begins with SELECT.
    db: Option<u16>,
    backlog_bytes: usize,
    is_backlog_on: bool,
    readers: BTreeMap<u64, ReaderState>,
    next_reader: u64,
    /// Units with their slots, kept while somebody wants them by slot.
    marks: VecDeque<Mark>,
    scratch: Vec<u8>,
}

struct ReaderState {
    /// What the reader has done with; what comes after it is kept if `must_keep`.
    position: u64,
    must_keep: bool,
    wants_marks: bool,
    wake: Arc<dyn Wake>,
    is_waiting: Arc<AtomicBool>,
}

/// Where a unit stands and whose slot it is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    pub start: Offset,
    pub end: Offset,
    /// `None`: of several slots, or of none.
    pub slot: Option<Slot>,
    /// Database of its first command.
    pub db: u16,
}

/// Tells a reader that there is something to read.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// What a reader is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Bytes may go when the backlog is full; the reader then gets [`OffsetGone`].
    Backlog,
    /// Every byte is kept until it was read. Whoever writes holds back in time: see [`Feed::kept_bytes`].
    All,
    /// As `All`, with the units' slots.
    AllWithSlots,
}

/// The feed no longer holds the offset, or does not hold it yet. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetGone;

impl Feed {
    /// An empty feed at `start` that keeps `backlog_bytes` once the backlog is on.
    pub fn new(start: Offset, backlog_bytes: usize) -> Feed {
        let inner = Inner {
            blocks: VecDeque::new(),
            tail: Vec::new(),
            first: start.0,
            end: start.0,
            db: None,
            backlog_bytes,
            is_backlog_on: false,
            readers: BTreeMap::new(),
            next_reader: 0,
            marks: VecDeque::new(),
            scratch: Vec::new(),
        };
        Feed {
            inner: Mutex::new(inner),
            end: AtomicU64::new(start.0),
            kept: AtomicU64::new(0),
            held: Default::default(),
            surplus: Default::default(),
            attached: AtomicUsize::new(0),
            is_following: AtomicBool::new(false),
        }
    }

    /// Nothing panics while the lock is held, so a poisoned one is as good as another.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed) != 0
    }
    /// Offset behind the last unit.
    #[inline]
    pub fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }
    /// Offset of the first byte held.
    pub fn first(&self) -> Offset {
        Offset(self.lock().first)
    }
    /// Bytes that are held only because a reader must not lose them. Writers wait when it grows too large.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
    pub fn backlog_bytes(&self) -> usize {
        self.lock().backlog_bytes
    }
    pub fn set_backlog_bytes(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.backlog_bytes = bytes;
        self.trim(&mut inner);
    }
    pub fn is_backlog_on(&self) -> bool {
        self.lock().is_backlog_on
    }
    /// Keeps a backlog from now on even while nobody reads.
    pub fn turn_backlog_on(&self) {
        let mut inner = self.lock();
        if !inner.is_backlog_on {
            inner.is_backlog_on = true;
            inner.db = None;
            self.count_attached(&inner);
            self.trim(&mut inner);
        }
    }
    /// Drops the backlog; readers keep what they must.
    pub fn turn_backlog_off(&self) {
        let mut inner = self.lock();
        inner.is_backlog_on = false;
        self.count_attached(&inner);
        self.trim(&mut inner);
    }
    fn count_attached(&self, inner: &Inner) {
        self.attached.store(inner.readers.len() + inner.is_backlog_on as usize, Ordering::Relaxed);
    }

    /// Whether the feed is a copy of a primary's. While it is, units of our own (writes on a writable replica) stay
    /// out of it, else its offsets would mean something else than the primary's.
    pub fn set_following(&self, yes: bool) {
        self.is_following.store(yes, Ordering::Release);
        self.lock().db = None;
    }
    /// Bytes held, as INFO shows them.
    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
    /// Bytes held beyond the backlog's size: readers are behind, or have blocks of which they want a part.
    pub fn surplus_bytes(&self) -> u64 {
        self.surplus.load(Ordering::Relaxed)
    }

    /// The next unit will say its database, so that a reader may begin there.
    pub fn select_again(&self) {
        self.lock().db = None;
    }

    /// Begins a new history at `offset`: all bytes are forgotten. Readers find their offset gone.
    pub fn restart(&self, offset: Offset) {
        let mut inner = self.lock();
        inner.blocks.clear();
        inner.tail.clear();
        inner.marks.clear();
        (inner.first, inner.end) = (offset.0, offset.0);
        inner.db = None;
        self.publish(&mut inner);
    }

    /// Appends a unit: commands (database, encoded form) that are replayed together. Several are wrapped in MULTI and
    /// EXEC. Returns the end.
    pub fn append<'a>(&self, slot: Option<Slot>, ops: impl ExactSizeOps<'a>) -> Offset {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if self.is_following.load(Ordering::Acquire) {
            return Offset(inner.end);
        }
        let start = inner.end;
        let mut scratch = std::mem::take(&mut inner.scratch);
        scratch.clear();
        let is_wrapped = ops.count() > 1;
        let mut first_db = 0;
        for (i, (db, bytes)) in ops.each().enumerate() {
            if i == 0 {
                first_db = db;
            }
            // MULTI comes behind the first SELECT, as in Redis.
            if inner.db != Some(db) {
                encode_command(&[b"SELECT".as_slice(), db.to_string().as_bytes()], &mut scratch);
                inner.db = Some(db);
            }
            if is_wrapped && i == 0 {
                encode_command(&[b"MULTI"], &mut scratch);
            }
            scratch.extend_from_slice(bytes);
        }
        if is_wrapped {
            encode_command(&[b"EXEC"], &mut scratch);
        }
        inner.push(&scratch);
        inner.scratch = scratch;
        inner.mark(start, slot, first_db);
        self.publish(inner);
        Offset(inner.end)
    }

    /// Appends bytes of a primary's stream as they came: a replica's feed is its primary's. They must end where a
    /// command, or a transaction, ends. `slot`, `db`: as far as known.
    pub fn append_stream(&self, bytes: &[u8], slot: Option<Slot>, db: u16) -> Offset {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let start = inner.end;
        inner.push(bytes);
        // The stream says SELECT by itself; after a change of role the first unit of our own says it again.
        inner.db = None;
        inner.mark(start, slot, db);
        self.publish(inner);
        Offset(inner.end)
    }

    fn publish(&self, inner: &mut Inner) {
        self.trim(inner);
        self.end.store(inner.end, Ordering::Release);
        for reader in inner.readers.values() {
            if reader.is_waiting.swap(false, Ordering::AcqRel) {
                reader.wake.wake();
            }
        }
    }

    fn trim(&self, inner: &mut Inner) {
        let backlog = if inner.is_backlog_on { inner.backlog_bytes as u64 } else { 0 };
        let wanted = inner.end.saturating_sub(backlog);
        let must =
            inner.readers.values().filter(|r| r.must_keep).map(|r| r.position).min().unwrap_or(u64::MAX);
        // Readers of the backlog get at least one block, else a reader without a backlog could never keep up.
        let wanted =
            wanted.min(inner.readers.values().map(|r| r.position.max(wanted)).min().unwrap_or(wanted));
        let keep_from = wanted.min(must);
        self.kept.store(wanted.saturating_sub(must.min(wanted)), Ordering::Relaxed);
        while let Some(block) = inner.blocks.front() {
            if inner.first + block.len() as u64 > keep_from {
                break;
            }
            inner.first += block.len() as u64;
            inner.blocks.pop_front();
        }
        if inner.blocks.is_empty() && inner.end <= keep_from && !inner.is_backlog_on {
            inner.tail.clear();
            inner.first = inner.end;
        }
        let held = inner.end - inner.first;
        self.held.store(held, Ordering::Relaxed);
        self.surplus.store(held.saturating_sub(backlog), Ordering::Relaxed);
        let marks_from = inner.readers.values().filter(|r| r.wants_marks).map(|r| r.position).min();
        while inner.marks.front().is_some_and(|m| marks_from.is_none_or(|from| m.end.0 <= from)) {
            inner.marks.pop_front();
        }
    }

    /// Copies up to about `max` bytes from `from` on into `out`. `Err`: that offset is not held.
    pub fn read(&self, from: Offset, max: usize, out: &mut Vec<u8>) -> Result<usize, OffsetGone> {
        let before = out.len();
        for piece in self.pieces(from, max)? {
            out.extend_from_slice(&piece);
        }
        Ok(out.len() - before)
    }

    /// The bytes from `from` on, about `max` of them, whole blocks shared without copying. Empty at the end.
    pub fn pieces(&self, from: Offset, max: usize) -> Result<Vec<Bytes>, OffsetGone> {
        let inner = self.lock();
        if from.0 < inner.first || from.0 > inner.end {
            return Err(OffsetGone);
        }
        let (mut at, mut got, mut pieces) = (inner.first, 0, Vec::new());
        for block in &inner.blocks {
            let end = at + block.len() as u64;
            if end > from.0 && got < max {
                let skip = from.0.saturating_sub(at) as usize;
                let take = (block.len() - skip).min(max - got);
                pieces.push(block.slice(skip..skip + take));
                got += take;
            }
            at = end;
        }
        if got < max && inner.end > at.max(from.0) {
            let skip = from.0.saturating_sub(at) as usize;
            let take = (inner.tail.len() - skip).min(max - got);
            pieces.push(Bytes::copy_from_slice(&inner.tail[skip..skip + take]));
        }
        Ok(pieces)
    }

    /// The units that begin at `from` or later, at most `max`.
    pub fn marks(&self, from: Offset, max: usize) -> Vec<Mark> {
        self.lock().marks.iter().filter(|m| m.start >= from).take(max).copied().collect()
    }

    /// Adds a reader at `from`. `Err`: that offset is not held.
    pub fn attach(
        self: &Arc<Self>,
        from: Offset,
        keep: Keep,
        wake: Arc<dyn Wake>,
    ) -> Result<Reader, OffsetGone> {
        let mut inner = self.lock();
        if from.0 < inner.first || from.0 > inner.end {
            return Err(OffsetGone);
        }
        Ok(self.add_reader(&mut inner, from, keep, wake))
    }

    /// Adds a reader at the end. The next unit says its database, so that the reader's bytes stand for themselves.
    pub fn attach_at_end(self: &Arc<Self>, keep: Keep, wake: Arc<dyn Wake>) -> Reader {
        let mut inner = self.lock();
        inner.db = None;
        let end = Offset(inner.end);
        self.add_reader(&mut inner, end, keep, wake)
    }

    fn add_reader(
        self: &Arc<Self>,
        inner: &mut Inner,
        from: Offset,
        keep: Keep,
        wake: Arc<dyn Wake>,
    ) -> Reader {
        let id = inner.next_reader;
        inner.next_reader += 1;
        let is_waiting = Arc::new(AtomicBool::new(false));
        let state = ReaderState {
            position: from.0,
            must_keep: keep != Keep::Backlog,
            wants_marks: keep == Keep::AllWithSlots,
            wake,
            is_waiting: is_waiting.clone(),
        };
        inner.readers.insert(id, state);
        self.count_attached(inner);
        Reader { feed: self.clone(), id, position: from, is_waiting }
    }
}

/// The commands of a unit; both methods agree.
pub trait ExactSizeOps<'a> {
    fn count(&self) -> usize;
    fn each(&self) -> impl Iterator<Item = (u16, &'a [u8])>;
}

impl<'a> ExactSizeOps<'a> for &[(u16, &'a [u8])] {
    fn count(&self) -> usize {
        self.len()
    }
    fn each(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.iter().copied()
    }
}

impl Inner {
    fn push(&mut self, bytes: &[u8]) {
        if self.tail.len() + bytes.len() > BLOCK_BYTES && !self.tail.is_empty() {
            let full = std::mem::replace(&mut self.tail, Vec::with_capacity(BLOCK_BYTES.max(bytes.len())));
            self.blocks.push_back(Bytes::from(full));
        }
        self.tail.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
    }

    fn mark(&mut self, start: u64, slot: Option<Slot>, db: u16) {
        if self.readers.values().any(|r| r.wants_marks) {
            self.marks.push_back(Mark { start: Offset(start), end: Offset(self.end), slot, db });
        }
    }
}

/// A reader's place in the feed. Dropping it lets go of what was kept for it.
pub struct Reader {
    feed: Arc<Feed>,
    id: u64,
    position: Offset,
    is_waiting: Arc<AtomicBool>,
}

impl Reader {
    pub fn position(&self) -> Offset {
        self.position
    }
    /// The next bytes, about `max`; empty at the end. They stay the reader's until [`Reader::advance`].
    pub fn pieces(&self, max: usize) -> Result<Vec<Bytes>, OffsetGone> {
        self.feed.pieces(self.position, max)
    }
    /// Lets go of everything before `to`, which is not before the present position.
    pub fn advance(&mut self, to: Offset) {
        assert!(to >= self.position);
        self.position = to;
        let mut inner = self.feed.lock();
        if let Some(state) = inner.readers.get_mut(&self.id) {
            state.position = to.0;
        }
        self.feed.trim(&mut inner);
    }
    /// Asks to be woken at the next append. True: there is something already, and nobody will wake.
    pub fn wait(&self) -> bool {
        self.is_waiting.store(true, Ordering::SeqCst);
        let is_ready = self.feed.lock().end > self.position.0;
        if is_ready {
            self.is_waiting.store(false, Ordering::SeqCst);
        }
        is_ready
    }
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.feed.lock();
        inner.readers.remove(&self.id);
        self.feed.count_attached(&inner);
        self.feed.trim(&mut inner);
    }
}

#[cfg(all(test, loom))]
#[path = "feed_loom.rs"]
mod loom_tests;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self) {}
    }

    fn feed(backlog: usize) -> Arc<Feed> {
        let feed = Arc::new(Feed::new(Offset(100), backlog));
        feed.turn_backlog_on();
        feed
    }

    fn text(feed: &Feed, from: u64) -> String {
        let mut out = Vec::new();
        feed.read(Offset(from), usize::MAX, &mut out).unwrap();
        String::from_utf8(out).unwrap().replace("\r\n", " ")
    }

    #[test]
    fn a_unit_says_its_database_when_that_changes() {
        let feed = feed(1 << 20);
        feed.append(None, [(0u16, b"A".as_slice())].as_slice());
        feed.append(None, [(0u16, b"B".as_slice())].as_slice());
        feed.append(None, [(3u16, b"C".as_slice())].as_slice());
        assert_eq!(text(&feed, 100), "*2 $6 SELECT $1 0 AB*2 $6 SELECT $1 3 C");
    }

    #[test]
    fn several_commands_are_one_transaction() {
        let feed = feed(1 << 20);
        feed.append(None, [(0u16, b"A ".as_slice()), (0u16, b"B ".as_slice())].as_slice());
        assert_eq!(text(&feed, 100), "*2 $6 SELECT $1 0 *1 $5 MULTI A B *1 $4 EXEC ");
    }

    #[test]
    fn the_backlog_forgets_whole_blocks() {
        let feed = feed(BLOCK_BYTES);
        let bytes = vec![7u8; 10_000];
        for _ in 0..100 {
            feed.append_stream(&bytes, None, 0);
        }
        let held = feed.end().0 - feed.first().0;
        assert!((BLOCK_BYTES as u64..3 * BLOCK_BYTES as u64).contains(&held), "{held}");
        assert_eq!(feed.read(Offset(100), 10, &mut Vec::new()), Err(OffsetGone));
        assert_eq!(feed.read(Offset(feed.end().0 + 1), 10, &mut Vec::new()), Err(OffsetGone));
        assert_eq!(feed.read(feed.end(), 10, &mut Vec::new()), Ok(0));
    }

    #[test]
    fn a_reader_that_must_not_lose_bytes_keeps_them() {
        let feed = feed(0);
        let mut reader = feed.attach_at_end(Keep::All, Arc::new(Nobody));
        for i in 0..100u32 {
            feed.append_stream(&[i as u8; 10_000], None, 0);
        }
        assert!(feed.kept_bytes() >= 900_000);
        assert_eq!((feed.held_bytes(), feed.surplus_bytes()), (1_000_000, 1_000_000));
        feed.set_backlog_bytes(400_000);
        assert_eq!((feed.held_bytes(), feed.surplus_bytes()), (1_000_000, 600_000));
        feed.set_backlog_bytes(0);
        let mut seen = Vec::new();
        while reader.position() < feed.end() {
            let pieces = reader.pieces(50_000).unwrap();
            let got: usize = pieces.iter().map(|p| p.len()).sum();
            pieces.iter().for_each(|p| seen.extend_from_slice(p));
            reader.advance(reader.position().plus(got as u64));
        }
        assert_eq!(seen.len(), 1_000_000);
        assert!(seen.chunks(10_000).enumerate().all(|(i, c)| c.iter().all(|b| *b == i as u8)));
        assert_eq!(feed.kept_bytes(), 0);
    }

    #[test]
    fn a_copy_takes_no_units_of_its_own() {
        let feed = feed(1000);
        feed.set_following(true);
        feed.append(None, [(0u16, b"own".as_slice())].as_slice());
        feed.append_stream(b"theirs", None, 0);
        assert_eq!(text(&feed, 100), "theirs");
        feed.set_following(false);
        feed.append(None, [(0u16, b"own".as_slice())].as_slice());
        assert_eq!(text(&feed, 100), "theirs*2 $6 SELECT $1 0 own");
    }

    #[test]
    fn a_waiting_reader_is_woken_once() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let feed = feed(1000);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let reader = feed.attach_at_end(Keep::Backlog, count.clone());
        assert!(!reader.wait());
        feed.append_stream(b"x", None, 0);
        feed.append_stream(b"y", None, 0);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(reader.wait());
    }

    #[test]
    fn marks_tell_whose_a_unit_is() {
        let feed = feed(1000);
        let slot = Slot::new(7);
        feed.append_stream(b"before", slot, 0);
        let reader = feed.attach_at_end(Keep::AllWithSlots, Arc::new(Nobody));
        feed.append_stream(b"abc", slot, 2);
        let mark = Mark { start: Offset(106), end: Offset(109), slot, db: 2 };
        assert_eq!(feed.marks(reader.position(), 10), [mark]);
    }
}
