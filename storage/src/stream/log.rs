//! The entries of a stream in order of their ids, and the counters that belong to them.
//!
//! Full blocks stand in a B-tree by base; the last block stands beside it, so that adding an entry searches nothing and a
//! short stream has no tree. A change moves at most one block.
//! Invariant: `tail` is empty exactly if the log is; every block in the tree has an entry and a base below the next one's.

use super::block::{Block, Cursor, Fields, Item};
use super::id::StreamId;
use crate::thresholds::Thresholds;
use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;
use std::{iter, option};

/// Entries and counters.
#[derive(Default)]
pub struct Log {
    sealed: BTreeMap<StreamId, Block>,
    tail: Block,
    tail_base: StreamId,
    tail_last: StreamId,
    len: usize,
    first_id: StreamId,
    /// The highest id ever given. At least that of the last entry.
    pub last_id: StreamId,
    /// The highest id of an entry that was deleted by its id (not trimmed); `0-0` for none.
    pub max_deleted_id: StreamId,
    /// Entries ever added.
    pub entries_added: u64,
    /// Bytes of all blocks, by allocator class.
    block_bytes: usize,
}

/// An entry.
pub struct Entry<'a> {
    pub id: StreamId,
    pub fields: Fields<'a>,
}

impl<'a> From<Item<'a>> for Entry<'a> {
    fn from(item: Item<'a>) -> Entry<'a> {
        Entry { id: item.id, fields: item.fields() }
    }
}

impl Clone for Log {
    fn clone(&self) -> Log {
        // Copies have no room for further entries: their bytes are counted anew.
        let (sealed, tail) = (self.sealed.clone(), self.tail.clone());
        let block_bytes = sealed.values().chain([&tail]).map(Block::heap_bytes).sum();
        Log { sealed, tail, block_bytes, ..*self }
    }
}

/// What trimming keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trim {
    /// The last so many entries.
    Len(usize),
    /// The entries from this id on.
    From(StreamId),
}

/// Bytes a block may have when `stream-node-max-bytes` is 0, which means no limit in Redis: a block is moved whole.
const UNLIMITED_BYTES: usize = 64 * 1024;
/// Largest block whatever the directives say, in bytes and entries.
const BLOCK_BYTES_MAX: usize = 1 << 20;
const BLOCK_ENTRIES_MAX: usize = 1 << 16;
/// Bytes that a sealed block takes in the tree: measured for ids that ascend (nodes of 11 places, 6 or 7 of them filled).
const PLACE_BYTES: usize = 92;

impl Log {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Id of the first entry; `0-0` where there is none.
    pub fn first_id(&self) -> StreamId {
        self.first_id
    }
    /// Id of the last entry that is there; `None` where there is none.
    pub fn top_id(&self) -> Option<StreamId> {
        (self.len > 0).then_some(self.tail_last)
    }
    /// Number of blocks.
    pub fn blocks_len(&self) -> usize {
        self.sealed.len() + (self.len > 0) as usize
    }
    /// Bytes allocated for entries and their index; the index is estimated from the number of blocks.
    pub fn heap_bytes(&self) -> usize {
        self.block_bytes + self.sealed.len() * PLACE_BYTES
    }

    /// The id that an entry added at `now_ms` gets; `None`: there is none above the last.
    pub fn next_id(&self, now_ms: u64) -> Option<StreamId> {
        if now_ms > self.last_id.ms { Some(StreamId::new(now_ms, 0)) } else { self.last_id.next() }
    }

    /// Adds an entry of field names and values in turn. Panics unless its id is above [`Log::last_id`].
    pub fn append<P: AsRef<[u8]>>(&mut self, id: StreamId, pairs: &[P], thresholds: &Thresholds) {
        assert!(id > self.last_id && pairs.len().is_multiple_of(2));
        if self.len > 0 && self.is_tail_full(pairs, thresholds) {
            self.seal_tail();
        }
        if self.tail.live() == 0 {
            self.block_bytes -= self.tail.heap_bytes();
            self.tail = Block::for_fields(pairs);
            self.block_bytes += self.tail.heap_bytes();
            (self.tail_base, self.tail_last) = (id, id);
        }
        if self.len == 0 {
            self.first_id = id;
        }
        let before = self.tail_last;
        self.change_tail(|tail, _| tail.push(before, id, pairs));
        self.tail_last = id;
        self.last_id = id;
        self.len += 1;
        self.entries_added = self.entries_added.wrapping_add(1);
    }

    // Redis 7.0: a node is full by its bytes with the new elements, or by the entries ever put into it.
    fn is_tail_full<P: AsRef<[u8]>>(&self, pairs: &[P], thresholds: &Thresholds) -> bool {
        let bytes_max = match thresholds.stream_node_max_bytes {
            0 => UNLIMITED_BYTES,
            n => n.min(BLOCK_BYTES_MAX),
        };
        let entries_max = match thresholds.stream_node_max_entries {
            0 => BLOCK_ENTRIES_MAX,
            n => n.min(BLOCK_ENTRIES_MAX),
        };
        let added: usize = pairs.iter().map(|p| p.as_ref().len()).sum();
        self.tail.bytes() + added >= bytes_max || self.tail.used() >= entries_max
    }

    fn seal_tail(&mut self) {
        self.change_tail(|tail, _| tail.seal());
        let full = std::mem::take(&mut self.tail);
        self.sealed.insert(self.tail_base, full);
    }

    fn change_tail<R>(&mut self, f: impl FnOnce(&mut Block, StreamId) -> R) -> R {
        let before = self.tail.heap_bytes();
        let result = f(&mut self.tail, self.tail_base);
        self.block_bytes = self.block_bytes + self.tail.heap_bytes() - before;
        result
    }

    /// The last block lost entries: finds its last one, or makes the block before it the last.
    fn settle_tail(&mut self) {
        if self.tail.live() == 0 {
            self.block_bytes -= self.tail.heap_bytes();
            (self.tail_base, self.tail) = self.sealed.pop_last().unwrap_or_default();
        }
        self.tail_last = self.tail.last(self.tail_base);
    }

    fn is_in_tail(&self, id: StreamId) -> bool {
        self.len > 0 && id >= self.tail_base
    }

    /// Removes an entry by its id, which counts as deleted from now on. False: it is not there.
    pub fn delete(&mut self, id: StreamId) -> bool {
        let is_gone = if self.is_in_tail(id) {
            self.change_tail(|tail, base| tail.remove(base, id))
        } else {
            self.delete_sealed(id)
        };
        if !is_gone {
            return false;
        }
        self.len -= 1;
        if id == self.tail_last {
            self.settle_tail();
        }
        if id == self.first_id {
            self.find_first();
        }
        self.max_deleted_id = self.max_deleted_id.max(id);
        true
    }

    fn delete_sealed(&mut self, id: StreamId) -> bool {
        let Some((base, block)) = self.sealed.range_mut(..=id).next_back() else { return false };
        let (base, before) = (*base, block.heap_bytes());
        if !block.remove(base, id) {
            return false;
        }
        let is_empty = block.live() == 0;
        self.block_bytes -= before;
        if is_empty {
            self.sealed.remove(&base);
        } else {
            self.block_bytes += block.heap_bytes();
        }
        true
    }

    fn find_first(&mut self) {
        let first = self.all_blocks().next().and_then(|(base, block)| block.cursor(*base).next());
        self.first_id = first.map_or(StreamId::MIN, |item| item.id);
    }

    /// Removes entries from the front. `is_approximate`: whole blocks only. `limit`: stop before more than so many are
    /// removed, 0 for no limit. Returns how many were removed.
    pub fn trim(&mut self, to: Trim, is_approximate: bool, limit: usize) -> usize {
        let before = self.len;
        while self.len > 0 {
            let entries = self.first_block().live();
            let is_enough = matches!(to, Trim::Len(max) if self.len <= max);
            if is_enough || limit > 0 && before - self.len + entries > limit {
                break;
            }
            let is_whole = match to {
                Trim::Len(max) => self.len - entries >= max,
                Trim::From(id) => self.is_first_block_below(id),
            };
            if !is_whole {
                if !is_approximate {
                    self.trim_first_block(to);
                }
                break;
            }
            self.len -= entries;
            match self.sealed.pop_first() {
                Some((_, block)) => self.block_bytes -= block.heap_bytes(),
                None => {
                    self.block_bytes -= self.tail.heap_bytes();
                    (self.tail, self.tail_base, self.tail_last) = Default::default();
                }
            }
        }
        if self.len < before {
            self.find_first();
        }
        before - self.len
    }

    fn first_block(&self) -> &Block {
        self.sealed.first_key_value().map_or(&self.tail, |(_, block)| block)
    }

    fn is_first_block_below(&self, id: StreamId) -> bool {
        let mut blocks = self.all_blocks();
        let Some((base, block)) = blocks.next() else { return false };
        match blocks.next() {
            // The next block's base may be as old as the block; only if it is too high must the entries be looked at.
            Some((next, _)) if *next <= id => true,
            Some(_) => block.last(*base) < id,
            None => self.tail_last < id,
        }
    }

    /// Removes some but not all entries of the first block.
    fn trim_first_block(&mut self, to: Trim) {
        let mut first = self.sealed.first_entry();
        let (base, block) = match &mut first {
            Some(entry) => (*entry.key(), entry.get_mut()),
            None => (self.tail_base, &mut self.tail),
        };
        let count = match to {
            Trim::Len(max) => self.len - max,
            Trim::From(id) => block.cursor(base).take_while(|item| item.id < id).count(),
        };
        let before = block.heap_bytes();
        block.remove_front(base, count);
        self.block_bytes = self.block_bytes + block.heap_bytes() - before;
        self.len -= count;
    }

    /// The entry with this id.
    pub fn get(&self, id: StreamId) -> Option<Entry<'_>> {
        self.range(id, id).next()
    }
    /// Whether the entry is there.
    pub fn contains(&self, id: StreamId) -> bool {
        self.get(id).is_some()
    }

    /// The entries with ids of `from..=to` in order.
    pub fn range(&self, from: StreamId, to: StreamId) -> Range<'_> {
        Range { blocks: self.blocks(from, to), cursor: None, from, to }
    }
    /// The entries with ids of `from..=to` from the last to the first.
    pub fn range_rev(&self, from: StreamId, to: StreamId) -> RangeRev<'_> {
        RangeRev { blocks: self.blocks(from, to), items: Vec::new(), from, to }
    }

    /// The blocks in which ids of `from..=to` may be, in order.
    fn blocks(&self, from: StreamId, to: StreamId) -> Blocks<'_> {
        let tail = (self.is_in_tail(to) && from <= to).then_some((&self.tail_base, &self.tail));
        if self.is_in_tail(from) || from > to {
            return self.sealed.range((Bound::Excluded(StreamId::MAX), Bound::Unbounded)).chain(tail);
        }
        let start = self.sealed.range(..=from).next_back().map_or(StreamId::MIN, |(base, _)| *base);
        self.sealed.range(start..=to).chain(tail)
    }
    fn all_blocks(&self) -> Blocks<'_> {
        self.blocks(StreamId::MIN, StreamId::MAX)
    }

    /// Calls `each` with the base and the entries of each block.
    pub(crate) fn each_block(&self, each: &mut dyn FnMut(StreamId, &mut dyn Iterator<Item = Entry<'_>>)) {
        for (base, block) in self.all_blocks() {
            each(*base, &mut block.cursor(*base).map(Entry::from));
        }
    }

    /// Whether an entry from `start` on was deleted by its id, as far as that is known.
    // Redis 7.0: only the highest deleted id is remembered.
    pub(super) fn has_tombstones_from(&self, start: StreamId) -> bool {
        self.len > 0
            && self.max_deleted_id != StreamId::MIN
            && self.first_id <= self.max_deleted_id
            && start <= self.max_deleted_id
    }

    /// How many entries had been added when the one with this id had been; `None` where that cannot be known.
    // Redis 7.0's estimate: known at both ends of the log as long as nothing inside was deleted.
    pub fn read_counter(&self, id: StreamId) -> Option<i64> {
        let added = self.entries_added as i64;
        if added == 0 || self.len == 0 && id <= self.last_id || id == self.last_id {
            return Some(added);
        }
        let is_whole = self.max_deleted_id == StreamId::MIN || self.max_deleted_id < self.first_id;
        if id > self.last_id || !is_whole || id > self.first_id {
            return None;
        }
        let gone = added.wrapping_sub(self.len as i64);
        Some(gone + (id == self.first_id) as i64)
    }
}

type Blocks<'a> =
    iter::Chain<btree_map::Range<'a, StreamId, Block>, option::IntoIter<(&'a StreamId, &'a Block)>>;

/// Entries in order.
pub struct Range<'a> {
    blocks: Blocks<'a>,
    cursor: Option<Cursor<'a>>,
    from: StreamId,
    to: StreamId,
}

impl<'a> Iterator for Range<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                let from = self.from;
                if let Some(item) = cursor.find(|item| item.id >= from) {
                    return (item.id <= self.to).then(|| item.into());
                }
            }
            let (base, block) = self.blocks.next()?;
            self.cursor = Some(block.cursor(*base));
        }
    }
}

/// Entries in reverse order. A block is read forward once for all its entries.
pub struct RangeRev<'a> {
    blocks: Blocks<'a>,
    items: Vec<Item<'a>>,
    from: StreamId,
    to: StreamId,
}

impl<'a> Iterator for RangeRev<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            if let Some(item) = self.items.pop() {
                return Some(item.into());
            }
            let (base, block) = self.blocks.next_back()?;
            let (from, to) = (self.from, self.to);
            let within = block.cursor(*base).take_while(|item| item.id <= to);
            self.items.extend(within.filter(|item| item.id >= from));
        }
    }
}
