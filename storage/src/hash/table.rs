//! The table behind big hashes, big sets and the member index of sorted sets: extendible hashing in a tree of directories.
//!
//! Top bits of the hash choose a segment of at most 63 items; a full one splits by one more bit. A directory consumes
//! eight bits and holds at most 256 segments; where more bits are needed a child directory takes the segment's place. So the most an
//! insertion ever copies is one segment and one directory of 256 entries, whatever the size of the table.
//! A segment is one interval of the hash space. Splits divide intervals and merges join them, therefore a scan whose cursor is the
//! start of the next interval returns each item that was present throughout, as SCAN promises.
//! Invariants: `count` of a directory is the number of items below it; local depth <= 8.

use super::segment::{Segment, segment_bytes};
use crate::keyspace::ElementAhead;
use crate::segment::prefetch;
use std::ptr;

/// What a table holds: a word with some bits of the item's hash on top.
pub trait Slot {
    /// Where the hash bits of the word begin.
    const TAG_SHIFT: u32;
    /// Those bits of a hash.
    fn tag_of(hash: u64) -> u64;
    /// The word of this item.
    fn word(&self) -> u64;
    /// The full hash, as given at insertion. Asked for at splits only.
    fn hash(&self, seed: u64) -> u64;
    /// Asks the CPU for what [`Slot::hash`] reads.
    fn prefetch(&self) {}
    /// Bytes allocated outside the table.
    fn heap_bytes(&self) -> usize;

    /// Whether this item can have that hash: cheap, and wrong only towards `true`.
    #[inline]
    fn may_be(&self, hash: u64) -> bool {
        self.word() >> Self::TAG_SHIFT == Self::tag_of(hash)
    }
}

/// What is known of an item that memory was asked for.
pub enum Ahead<T> {
    /// There are more steps.
    Later,
    There(T),
    None,
}

/// An unordered multiset of items, found by hash.
#[derive(Clone)]
pub struct Table<T> {
    root: Dir<T>,
    seed: u64,
    /// Bytes of items, segments and directories.
    bytes: usize,
}

#[derive(Clone)]
struct Dir<T> {
    children: Vec<Child<T>>,
    count: usize,
    /// Number of the child for each value of the next eight bits. In one piece with the rest: a look-up waits for it once.
    map: [u8; 1 << DIR_BITS],
}

impl<T> Drop for Dir<T> {
    fn drop(&mut self) {
        // Items say so themselves if they own memory; a segment takes as long as one of them.
        crate::pace::freed(self.children.len() as u32);
    }
}

/// Sixteen bytes: the children of a large table stay in the second-level cache.
#[derive(Clone)]
enum Child<T> {
    /// Bits of the directory's eight that all items here share, and the items.
    Segment(u8, Segment<T>),
    Dir(Box<Dir<T>>),
}

/// Items per segment: a measured choice of the data plane, so that splits stay below 4 us; with tags, 576 bytes.
const SEGMENT_MAX: usize = 63;
const _: () = assert!(SEGMENT_MAX <= u64::BITS as usize, "a split has a bit for each item");
/// A segment and its buddy merge at half of that, so that they do not split again at once.
const MERGE_MAX: usize = 31;
/// Capacities a segment grows through. Twice as many save one byte an item, and cost more than that: segments that pass through
/// leave spans half empty.
const CLASSES: [usize; 5] = [4, 12, 20, 36, SEGMENT_MAX];
/// Bits one directory consumes.
const DIR_BITS: u8 = 8;

impl<T: Slot> Table<T> {
    /// Bits that choose segments, and width of a scan cursor. Segments with more equal bits than these do not split.
    pub const HASH_BITS: u8 = 48;

    /// An empty table.
    pub fn new(seed: u64) -> Table<T> {
        let root = Dir::with(Segment::default());
        Table { bytes: root.own_bytes(), root, seed }
    }

    /// The seed items are hashed with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.root.count
    }

    /// Bytes allocated for the table and its items.
    pub fn heap_bytes(&self) -> usize {
        self.bytes
    }

    /// The first item with this hash that `is` accepts.
    pub fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let items = self.items(hash);
        items.position(hash as u8, |t| t.may_be(hash) && is(t)).map(|i| &items.items()[i])
    }

    /// Asks the CPU for what a look-up will read, one step further at each call. Returns the item, which is hardly another,
    /// as soon as it is there.
    #[inline]
    pub fn prefetch(&self, ahead: &mut ElementAhead<'_>) -> Ahead<&T> {
        let hash = ahead.hash;
        ahead.step += 1;
        match ahead.step {
            // The root is at hand: it is read by every look-up.
            1 => match self.root.child(hash, 0) {
                Child::Dir(dir) => {
                    prefetch(dir.map.as_ptr().wrapping_add(index(hash, 1)));
                    prefetch((&raw const dir.children).cast());
                }
                Child::Segment(_, items) => {
                    ahead.step = 3;
                    items.prefetch();
                }
            },
            2 => {
                if let Child::Dir(dir) = self.root.child(hash, 0) {
                    prefetch(ptr::from_ref(dir.child(hash, 1)).cast());
                }
            }
            3 => self.items(hash).prefetch(),
            4 => {
                let items = self.items(hash);
                let Some(i) = items.position(hash as u8, |_| true) else { return Ahead::None };
                prefetch(items.items().as_ptr().wrapping_add(i).cast());
                ahead.place = i as u32;
            }
            _ => return self.items(hash).items().get(ahead.place as usize).map_or(Ahead::None, Ahead::There),
        }
        Ahead::Later
    }

    /// The segment that covers a hash.
    #[inline]
    fn items(&self, hash: u64) -> &Segment<T> {
        let (mut dir, mut level) = (&self.root, 0);
        loop {
            match dir.child(hash, level) {
                Child::Dir(next) => dir = next,
                Child::Segment(_, items) => return items,
            }
            level += 1;
        }
    }

    /// Lets `change` work on the first such item, and keeps the byte count. `None`: there is no such item.
    pub fn update<R>(
        &mut self,
        hash: u64,
        is: impl Fn(&T) -> bool,
        change: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let mut dir = &mut self.root;
        let mut level = 0;
        loop {
            let child = dir.map[index(hash, level)] as usize;
            match &mut dir.children[child] {
                Child::Dir(next) => dir = next,
                Child::Segment(_, items) => {
                    let found = items.position(hash as u8, |t| t.may_be(hash) && is(t))?;
                    let item = &mut items.items_mut()[found];
                    let before = item.heap_bytes();
                    let result = change(item);
                    self.bytes = self.bytes + item.heap_bytes() - before;
                    return Some(result);
                }
            }
            level += 1;
        }
    }

    /// Adds an item; whether an equal one is there is the caller's question.
    pub fn insert(&mut self, hash: u64, item: T) {
        self.bytes += item.heap_bytes();
        let grown = self.root.insert(hash, 0, self.seed, item);
        self.bytes = self.bytes.strict_add_signed(grown);
    }

    /// Removes and returns the first item with this hash that `is` accepts.
    pub fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        let (item, grown) = self.root.remove(hash, 0, &is)?;
        self.bytes = self.bytes.strict_add_signed(grown) - item.heap_bytes();
        Some(item)
    }

    /// The item with number `index` in some fixed order that changes with every insertion and removal.
    pub fn at(&self, index: usize) -> Option<&T> {
        let (mut dir, mut left) = (&self.root, index);
        'down: loop {
            for child in &dir.children {
                let count = child.count();
                if left >= count {
                    left -= count;
                    continue;
                }
                match child {
                    Child::Segment(_, items) => return items.items().get(left),
                    Child::Dir(next) => dir = next,
                }
                continue 'down;
            }
            return None;
        }
    }

    /// Items of whole segments from `cursor` on, at least `count` if there are as many; returns the next cursor, 0 at the end.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut f: impl FnMut(&'a T)) -> u64 {
        let mut from = cursor << (64 - Self::HASH_BITS);
        let mut seen = 0;
        loop {
            let (items, next) = self.segment(from);
            items.iter().for_each(&mut f);
            seen += items.len().max(1);
            match next {
                None => return 0,
                Some(next) if seen >= count => return next >> (64 - Self::HASH_BITS),
                Some(next) => from = next,
            }
        }
    }

    /// All items in order of their segments' hash intervals.
    pub fn iter(&self) -> Iter<'_, T> {
        let (items, next) = self.segment(0);
        Iter { table: self, items: items.iter(), next, left: self.len() }
    }

    /// The segment that covers a hash, and where the next interval starts.
    fn segment(&self, hash: u64) -> (&[T], Option<u64>) {
        let (mut dir, mut level) = (&self.root, 0);
        loop {
            match dir.child(hash, level) {
                Child::Dir(next) => dir = next,
                Child::Segment(local, items) => {
                    let bits = u32::from(level * DIR_BITS + local);
                    let last = hash | u64::MAX.checked_shr(bits).unwrap_or(0);
                    return (items.items(), last.checked_add(1));
                }
            }
            level += 1;
        }
    }
}

impl<T: Slot> Dir<T> {
    fn with(items: Segment<T>) -> Dir<T> {
        let count = items.len();
        Dir { children: vec![Child::Segment(0, items)], count, map: [0; 1 << DIR_BITS] }
    }

    #[inline]
    fn child(&self, hash: u64, level: u8) -> &Child<T> {
        &self.children[self.map[index(hash, level)] as usize]
    }

    /// Bytes of this directory's own list and segments, without items and child directories.
    fn own_bytes(&self) -> usize {
        let segments: usize = self.children.iter().map(Child::own_bytes).sum();
        self.dir_bytes() + segments
    }

    fn dir_bytes(&self) -> usize {
        self.children.capacity() * size_of::<Child<T>>()
    }

    /// Returns by how many bytes segments and directories grew.
    fn insert(&mut self, hash: u64, level: u8, seed: u64, item: T) -> isize {
        self.count += 1;
        let before = self.dir_bytes() as isize;
        let mut grown = 0;
        loop {
            let child = self.map[index(hash, level)] as usize;
            match &mut self.children[child] {
                Child::Dir(dir) => {
                    grown += dir.insert(hash, level + 1, seed, item);
                    break;
                }
                Child::Segment(local, items)
                    if items.len() < SEGMENT_MAX || level * DIR_BITS + *local >= Table::<T>::HASH_BITS =>
                {
                    let had = items.capacity();
                    push(items, hash as u8, item);
                    grown += bytes_of(items.capacity()) - bytes_of(had);
                    break;
                }
                Child::Segment(..) => grown += self.split(child, hash, level, seed),
            }
        }
        grown + self.dir_bytes() as isize - before
    }

    /// Splits a full segment by one more bit, or puts a directory in its place. Returns the bytes of new segments and
    /// directories less those of old ones, without this directory's own list.
    fn split(&mut self, child: usize, hash: u64, level: u8, seed: u64) -> isize {
        let Child::Segment(local, items) = &mut self.children[child] else {
            unreachable!("directories do not split")
        };
        if *local == DIR_BITS {
            let dir = Box::new(Dir::with(std::mem::take(items)));
            let bytes = dir.dir_bytes() + size_of::<Dir<T>>();
            self.children[child] = Child::Dir(dir);
            return bytes as isize;
        }
        let shift = 63 - (level * DIR_BITS + *local);
        *local += 1;
        let (local, old) = (*local, std::mem::take(items));
        let had = old.capacity();
        old.items().iter().for_each(Slot::prefetch);
        // Of each item the bit that tells its half; no more than 63, as fuller ones do not split.
        let bits = old
            .items()
            .iter()
            .enumerate()
            .fold(0u64, |bits, (i, item)| bits | (item.hash(seed) >> shift & 1) << i);
        let ones_len = bits.count_ones() as usize;
        let mut ones = Segment::with_capacity(class(ones_len));
        let mut zeros = Segment::with_capacity(class(old.len() - ones_len));
        let mut left = old.len();
        for (tag, item) in old.drain() {
            left -= 1;
            if bits >> left & 1 == 0 { &mut zeros } else { &mut ones }.push(tag, item);
        }
        let grown = bytes_of(zeros.capacity()) + bytes_of(ones.capacity()) - bytes_of(had);
        self.children[child] = Child::Segment(local, zeros);
        let new = self.children.len();
        if self.children.len() == self.children.capacity() {
            self.children.reserve_exact(1 + self.children.len() / 2);
        }
        self.children.push(Child::Segment(local, ones));
        let half = 1 << (DIR_BITS - local);
        let first = index(hash, level) / (2 * half) * (2 * half);
        self.map[first + half..first + 2 * half].fill(new as u8);
        grown
    }

    /// Returns the item and by how many bytes segments and directories grew, which is mostly negative.
    fn remove(&mut self, hash: u64, level: u8, is: &impl Fn(&T) -> bool) -> Option<(T, isize)> {
        let before = self.dir_bytes() as isize;
        let at = index(hash, level);
        let child = &mut self.children[self.map[at] as usize];
        let (item, mut grown) = match child {
            Child::Dir(dir) => {
                let (item, mut grown) = dir.remove(hash, level + 1, is)?;
                if dir.children.len() == 1 {
                    grown -= (dir.dir_bytes() + size_of::<Dir<T>>()) as isize;
                    let only = dir.children.pop().expect("a directory has a child");
                    // Items of a directory's child share all of this directory's bits.
                    *child = match only {
                        Child::Segment(_, items) => Child::Segment(DIR_BITS, items),
                        dir => dir,
                    };
                }
                (item, grown)
            }
            Child::Segment(_, items) => {
                let found = items.position(hash as u8, |t| t.may_be(hash) && is(t))?;
                let had = items.capacity();
                let item = items.swap_remove(found);
                shrink(items);
                (item, bytes_of(items.capacity()) - bytes_of(had))
            }
        };
        self.count -= 1;
        grown += self.merge(at);
        Some((item, grown + self.dir_bytes() as isize - before))
    }

    /// Merges the segment at a place of the map with its buddy while both fit half a segment.
    fn merge(&mut self, mut at: usize) -> isize {
        let mut grown = 0;
        let mut merged = false;
        loop {
            let child = self.map[at] as usize;
            let Child::Segment(local @ 1.., mine) = &self.children[child] else { break };
            let local = *local;
            let span = 1 << (DIR_BITS - local);
            let first = at / span * span;
            let buddy = self.map[first ^ span] as usize;
            let Child::Segment(its_local, its) = &self.children[buddy] else { break };
            if *its_local != local || mine.len() + its.len() > MERGE_MAX {
                break;
            }
            grown -= bytes_of(mine.capacity()) + bytes_of(its.capacity());
            let mut all = Segment::with_capacity(class(mine.len() + its.len()));
            for source in [child, buddy] {
                let Child::Segment(_, items) = &mut self.children[source] else {
                    unreachable!("looked at above")
                };
                all.append(items);
            }
            grown += bytes_of(all.capacity());
            self.children[child] = Child::Segment(local - 1, all);
            let last = self.children.len() - 1;
            self.children.swap_remove(buddy);
            for place in &mut self.map {
                if *place as usize == buddy {
                    *place = child as u8;
                }
                if *place as usize == last {
                    *place = buddy as u8;
                }
            }
            at = first & !span;
            merged = true;
        }
        if merged && self.children.len() < self.children.capacity() / 2 {
            self.children.shrink_to(self.children.len() + self.children.len() / 4);
        }
        grown
    }
}

/// Place in the map of a directory that consumes the bits of a level.
#[inline]
fn index(hash: u64, level: u8) -> usize {
    (hash << (level * DIR_BITS) >> (64 - DIR_BITS)) as usize
}

impl<T> Child<T> {
    fn count(&self) -> usize {
        match self {
            Child::Segment(_, items) => items.len(),
            Child::Dir(dir) => dir.count,
        }
    }

    /// Bits of the directory's eight that all items below share.
    #[cfg(test)]
    fn local(&self) -> u8 {
        match self {
            Child::Segment(local, _) => *local,
            Child::Dir(_) => DIR_BITS,
        }
    }

    fn own_bytes(&self) -> usize {
        match self {
            Child::Segment(_, items) => items.heap_bytes(),
            Child::Dir(_) => 0,
        }
    }
}

fn bytes_of(cap: usize) -> isize {
    segment_bytes(cap) as isize
}

fn class(len: usize) -> usize {
    if len == 0 { 0 } else { CLASSES.into_iter().find(|&c| c >= len).unwrap_or(len) }
}

fn push<T>(items: &mut Segment<T>, tag: u8, item: T) {
    if items.len() == items.capacity() {
        items.resize(class(items.len() + 1));
    }
    items.push(tag, item);
}

fn shrink<T>(items: &mut Segment<T>) {
    let room = class(items.len() + items.len() / 2);
    if items.len() * 3 < items.capacity() && room < items.capacity() {
        items.resize(room);
    }
}

/// Items of a table in order of their segments.
pub struct Iter<'a, T> {
    table: &'a Table<T>,
    items: std::slice::Iter<'a, T>,
    next: Option<u64>,
    left: usize,
}

impl<'a, T: Slot> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(item) = self.items.next() {
                self.left -= 1;
                return Some(item);
            }
            let (items, next) = self.table.segment(self.next?);
            (self.items, self.next) = (items.iter(), next);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: Slot> ExactSizeIterator for Iter<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// An item that is its own hash: tests choose where it falls.
    #[derive(Clone, PartialEq, Debug)]
    struct Bare(u64);

    impl Slot for Bare {
        const TAG_SHIFT: u32 = 56;
        fn tag_of(hash: u64) -> u64 {
            u64::from(hash as u8)
        }
        fn word(&self) -> u64 {
            self.0 << 56
        }
        fn hash(&self, _: u64) -> u64 {
            self.0
        }
        fn heap_bytes(&self) -> usize {
            0
        }
    }

    fn mix(n: u64) -> u64 {
        super::super::seeded::hash(3, &n.to_le_bytes())
    }

    impl<T: Slot> Table<T> {
        fn check(&self) {
            fn walk<T: Slot>(dir: &Dir<T>, level: u8, prefix: u64, seed: u64) -> (usize, usize) {
                let (mut count, mut bytes) = (0, dir.own_bytes());
                for (number, child) in dir.children.iter().enumerate() {
                    let places: Vec<_> =
                        (0..dir.map.len()).filter(|&i| dir.map[i] as usize == number).collect();
                    assert_eq!(places.len(), 1 << (DIR_BITS - child.local()));
                    let start = prefix | (places[0] as u64) << (64 - u32::from(DIR_BITS + level * 8));
                    let bits = u32::from(level * 8 + child.local());
                    match child {
                        Child::Segment(_, items) => {
                            for item in items.items() {
                                let h = item.hash(seed);
                                assert_eq!((h ^ start).checked_shr(64 - bits).unwrap_or(0), 0);
                            }
                            count += items.len();
                        }
                        Child::Dir(next) => {
                            assert!(child.local() == 8 && next.children.len() > 1);
                            let (c, b) = walk(next, level + 1, start, seed);
                            count += c;
                            bytes += b + size_of::<Dir<T>>();
                        }
                    }
                }
                assert_eq!(count, dir.count);
                (count, bytes)
            }
            let (_, bytes) = walk(&self.root, 0, 0, self.seed);
            let items: usize = self.iter().map(Slot::heap_bytes).sum();
            assert_eq!(self.bytes, bytes + items);
        }
    }

    #[test]
    fn grows_and_shrinks_with_every_item_in_place() {
        let mut table = Table::new(0);
        let empty = table.heap_bytes();
        let mut model = BTreeMap::new();
        for n in 0..60_000u64 {
            table.insert(mix(n), Bare(mix(n)));
            model.insert(mix(n), ());
            if n % 4999 == 0 {
                table.check();
            }
        }
        table.check();
        assert!(table.iter().map(|b| b.0).collect::<BTreeSet<_>>().iter().eq(model.keys()));
        let all: BTreeSet<_> = (0..table.len()).map(|i| table.at(i).unwrap().0).collect();
        assert_eq!(all.len(), table.len());
        assert_eq!(table.at(table.len()), None);
        for n in 0..60_000u64 {
            assert_eq!(table.remove(mix(n), |b| b.0 == mix(n)), Some(Bare(mix(n))));
            assert_eq!(table.remove(mix(n), |b| b.0 == mix(n)), None);
            if n % 4999 == 0 {
                table.check();
            }
        }
        assert_eq!(table.len(), 0);
        assert!(table.heap_bytes() <= 2 * empty + 64, "{} of {empty}", table.heap_bytes());
        table.check();
    }

    #[test]
    fn equal_hashes_do_not_split_for_ever() {
        let mut table = Table::new(0);
        for _ in 0..300 {
            table.insert(u64::MAX, Bare(u64::MAX));
        }
        table.check();
        assert_eq!(table.scan(0, 10_000, |_| {}), 0);
        for _ in 0..300 {
            assert!(table.remove(u64::MAX, |_| true).is_some());
        }
        table.check();
    }

    #[test]
    fn a_scan_returns_what_was_there_throughout() {
        let mut table = Table::new(0);
        let keep: Vec<u64> = (0..3000).map(mix).collect();
        for &h in &keep {
            table.insert(h, Bare(h));
        }
        let mut extra = 1_000_000..;
        let mut live = Vec::new();
        let (mut seen, mut cursor, mut grow) = (BTreeSet::new(), 0, true);
        for step in 0.. {
            cursor = table.scan(cursor, 10, |b| _ = seen.insert(b.0));
            if cursor == 0 {
                break;
            }
            if step % 40 == 0 {
                grow = !grow;
            }
            for _ in 0..500 {
                if grow {
                    let h = mix(extra.next().unwrap());
                    table.insert(h, Bare(h));
                    live.push(h);
                } else if let Some(h) = live.pop() {
                    assert!(table.remove(h, |b| b.0 == h).is_some());
                }
            }
        }
        assert!(keep.iter().all(|h| seen.contains(h)));
        table.check();
    }
}
