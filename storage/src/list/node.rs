//! A node of a list: byte strings in a row in one allocation behind a thin pointer.
//!
//! `[head u32][end u32][count u32]`, then room of which `head..end` is in use by entries of
//! `[length][bytes][length, reversed]` with 7-bit variable lengths, so that both directions are cheap. Room may stand at
//! either end: adding and taking at an end moves nothing.
//!
//! A sealed node has entries of `[length][bytes]` and no room: for those in the middle of a long list, to which nothing
//! is added and from which nothing is taken, that saves a byte per entry. The top bit of `count` tells.
//! Invariant: the bytes in use are exactly `count` well-formed entries.

use crate::packed::{self, len_width, read_len};
use crate::slab::class_size;
use crate::thin::{Bytes, Small};

/// Before the entries, in the allocation: its length, and the three numbers.
const HEADER: usize = 12;
/// In `count`: the node is sealed.
const SEALED: usize = 1 << 31;
/// What an allocation holds beside room for entries.
pub const OVERHEAD: usize = HEADER + 4;

/// Byte strings in a row, each addressed by its position: the byte offset of its entry.
#[derive(Default, Clone)]
#[repr(transparent)]
pub struct Node(Bytes);

// SAFETY: transparent.
unsafe impl Small for Node {
    fn leave_span(&mut self) {
        self.0.leave_span();
    }
    fn start(&self) -> *const u8 {
        self.0.start()
    }
}

/// The numbers that a node begins with.
#[derive(Clone, Copy, Default)]
struct Header {
    head: usize,
    end: usize,
    /// With [`SEALED`].
    count: usize,
}

impl Header {
    #[inline]
    fn read(from: &[u8; HEADER]) -> Header {
        let (numbers, _) = from.as_chunks();
        let [head, end, count] = [0, 1, 2].map(|i: usize| u32::from_le_bytes(numbers[i]) as usize);
        Header { head, end, count }
    }
    #[inline]
    fn write(self, to: &mut [u8; HEADER]) {
        let (numbers, _) = to.as_chunks_mut();
        for (to, number) in numbers.iter_mut().zip([self.head, self.end, self.count]) {
            *to = (number as u32).to_le_bytes();
        }
    }
    #[inline]
    fn is_sealed(self) -> bool {
        self.count & SEALED != 0
    }
    #[inline]
    fn len(self) -> usize {
        self.count & !SEALED
    }
}

impl Node {
    /// An empty node of an allocation of `bytes` bytes, whose room is for entries before the first or for those behind the
    /// last.
    pub fn with_room(bytes: usize, is_front: bool) -> Node {
        let room = class_size(bytes.max(OVERHEAD)) - OVERHEAD;
        let mut node = Node(Bytes::zeroed(HEADER + room));
        let at = if is_front { room } else { 0 };
        node.set(at, at, 0);
        node
    }

    #[inline]
    fn header(&self) -> Header {
        self.0.get().first_chunk().map(Header::read).unwrap_or_default()
    }
    #[inline]
    fn head(&self) -> usize {
        self.header().head
    }
    #[inline]
    fn end(&self) -> usize {
        self.header().end
    }
    #[inline]
    fn set(&mut self, head: usize, end: usize, count: usize) {
        let to = self.0.get_mut().first_chunk_mut().expect("a node that is changed has its header");
        Header { head, end, count }.write(to);
    }
    /// Bytes of room, in use or not.
    fn room(&self) -> usize {
        self.0.len().saturating_sub(HEADER)
    }

    /// Number of entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.header().len()
    }

    /// Whether entries have their length in front only.
    #[inline]
    pub fn is_sealed(&self) -> bool {
        self.header().is_sealed()
    }

    /// Whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the entries take once the node is sealed, or a few more.
    #[inline]
    pub fn bytes(&self) -> usize {
        let header = self.header();
        let used = header.end - header.head;
        if header.is_sealed() { used } else { used - header.len() }
    }

    /// Bytes in use.
    #[inline]
    fn used(&self) -> usize {
        let header = self.header();
        header.end - header.head
    }

    /// Bytes allocated.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    #[inline]
    fn body(&self) -> &[u8] {
        let header = self.header();
        self.0.get().get(HEADER + header.head..HEADER + header.end).unwrap_or(&[])
    }

    /// All entries in order, from either end.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        self.iter_between(0, self.used())
    }

    /// The entries from position `at` on.
    pub fn iter_from(&self, at: usize) -> Iter<'_> {
        self.iter_between(at, self.used())
    }

    /// The entries between two positions.
    pub fn iter_between(&self, from: usize, to: usize) -> Iter<'_> {
        let behind = if self.is_sealed() { 0 } else { usize::MAX };
        Iter { body: self.body(), at: from, end: to, behind, back: Vec::new() }
    }

    /// Position of entry `index`, found from the nearer end; `index == len()` is the position past the last.
    pub fn position(&self, index: usize) -> usize {
        assert!(index <= self.len());
        if index <= self.len() / 2 || self.is_sealed() {
            let mut iter = self.iter();
            for _ in 0..index {
                iter.next();
            }
            iter.at
        } else {
            let mut iter = self.iter();
            for _ in index..self.len() {
                iter.next_back();
            }
            iter.end
        }
    }

    /// The entry with number `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len() {
            return None;
        }
        if index + 1 == self.len() && !self.is_sealed() {
            return self.iter().next_back();
        }
        self.iter_from(self.position(index)).next()
    }

    /// Adds an entry behind the last. Room grows up to an allocation of `limit` bytes where that is enough. Returns by how
    /// many bytes the allocation has become larger.
    #[inline]
    pub fn push_back(&mut self, bytes: &[u8], limit: usize) -> isize {
        if self.put_at_end(bytes, |header, room, need| {
            let from = header.end;
            header.end = from.checked_add(need).filter(|end| *end <= room)?;
            Some(from)
        }) {
            return 0;
        }
        self.resizing(|node| node.insert(node.used(), bytes, limit))
    }

    /// As [`Node::push_back`], before the first.
    #[inline]
    pub fn push_front(&mut self, bytes: &[u8], limit: usize) -> isize {
        if self.put_at_end(bytes, |header, _, need| {
            header.head = header.head.checked_sub(need)?;
            Some(header.head)
        }) {
            return 0;
        }
        self.resizing(|node| node.insert(0, bytes, limit))
    }

    /// Adds an entry at an end where `take` finds room for it: given the bytes of all room and those needed, it says where
    /// the entry is to stand. False: there is none, and nothing was done.
    #[inline]
    fn put_at_end(
        &mut self,
        bytes: &[u8],
        take: impl FnOnce(&mut Header, usize, usize) -> Option<usize>,
    ) -> bool {
        let Some((to, room)) = self.0.get_mut().split_first_chunk_mut() else { return false };
        let mut header = Header::read(to);
        let need = open_bytes(bytes.len());
        if header.is_sealed() {
            return false;
        }
        let Some(from) = take(&mut header, room.len(), need) else { return false };
        write_open(&mut room[from..from + need], bytes);
        header.count += 1;
        header.write(to);
        true
    }

    #[cold]
    fn resizing(&mut self, f: impl FnOnce(&mut Node)) -> isize {
        let before = self.heap_bytes();
        self.unseal();
        f(self);
        self.heap_bytes() as isize - before as isize
    }

    /// Puts an entry at a position, before the one that stands there. The node is not sealed, and neither is it for the
    /// other changes by position.
    pub fn insert(&mut self, at: usize, bytes: &[u8], limit: usize) {
        let need = open_bytes(bytes.len());
        let count = self.len() + 1;
        write_open(self.splice(at, 0, need, count, limit), bytes);
    }

    /// Removes up to `count` entries from a position on; returns how many there were.
    pub fn remove(&mut self, at: usize, count: usize) -> usize {
        let mut iter = self.iter_from(at);
        let mut gone = 0;
        while gone < count && iter.next().is_some() {
            gone += 1;
        }
        let old = iter.at - at;
        self.splice(at, old, 0, self.len() - gone, 0);
        self.give_back();
        gone
    }

    /// Replaces the entry at a position.
    pub fn replace(&mut self, at: usize, bytes: &[u8], limit: usize) {
        let mut iter = self.iter_from(at);
        assert!(iter.next().is_some(), "an entry stands at the position");
        let old = iter.at - at;
        write_open(self.splice(at, old, open_bytes(bytes.len()), self.len(), limit), bytes);
        self.give_back();
    }

    /// Cuts the sequence in two before entry `index` and returns the second part.
    pub fn split_off(&mut self, index: usize) -> Node {
        self.unseal();
        let at = self.position(index);
        let mut tail = Node::default();
        let part = &self.body()[at..];
        if !part.is_empty() {
            tail.splice(0, 0, part.len(), self.len() - index, 0).copy_from_slice(part);
        }
        self.splice(at, self.used() - at, 0, index, 0);
        self.give_back();
        tail
    }

    /// Adds all entries of another sequence behind the last.
    pub fn append(&mut self, mut other: Node, limit: usize) {
        self.unseal();
        other.unseal();
        let body = other.body();
        if !body.is_empty() {
            let count = self.len() + other.len();
            self.splice(self.used(), 0, body.len(), count, limit).copy_from_slice(body);
        }
    }

    /// Gives up all room and the lengths behind entries: nothing will be added soon.
    pub fn seal(&mut self) {
        if !self.is_sealed() && !self.is_empty() {
            self.rewrite(SEALED, packed::entry_bytes, packed::write_entry);
        }
    }

    /// Makes a sealed node one that can be changed.
    #[inline]
    pub fn unseal(&mut self) {
        if self.is_sealed() {
            self.open();
        }
    }

    #[cold]
    fn open(&mut self) {
        self.rewrite(0, open_bytes, write_open);
    }

    /// Writes all entries anew; what an entry takes depends on its length.
    fn rewrite(
        &mut self,
        mark: usize,
        entry_bytes: impl Fn(usize) -> usize,
        write: impl Fn(&mut [u8], &[u8]),
    ) {
        let used = self.fold(0, |used, entry| used + entry_bytes(entry.len()));
        let mut to = Node(Bytes::zeroed(class_size(OVERHEAD + used) - 4));
        to.set(0, used, self.len() | mark);
        let place = &mut to.0.get_mut()[HEADER..HEADER + used];
        let end = self.fold(0, |at, entry| {
            let end = at + entry_bytes(entry.len());
            write(&mut place[at..end], entry);
            end
        });
        debug_assert_eq!(end, used);
        *self = to;
    }

    fn fold<B>(&self, init: B, mut f: impl FnMut(B, &[u8]) -> B) -> B {
        self.iter().fold_some(usize::MAX, init, &mut f).0
    }

    /// Makes the `old` bytes of entries at `at` into `new` bytes, which are returned to be written, and the count into
    /// `count`.
    fn splice(&mut self, at: usize, old: usize, new: usize, count: usize, limit: usize) -> &mut [u8] {
        debug_assert!(!self.is_sealed());
        let (head, end, room) = (self.head(), self.end(), self.room());
        let (used, behind) = (end - head, end - head - at - old);
        let (front, back) = (head, room - end);
        let more = new.saturating_sub(old);
        // The part that moves, if its side has the room: the shorter one.
        let moves_front = if at <= behind { front >= more } else { back < more && front >= more };
        let (head, end) = if moves_front && room > 0 {
            let to = head + old - new.min(head + old);
            debug_assert!(head + old >= new);
            self.0.get_mut().copy_within(HEADER + head..HEADER + head + at, HEADER + to);
            (to, end)
        } else if back >= more && room > 0 {
            let to = end - old + new;
            self.0.get_mut().copy_within(HEADER + head + at + old..HEADER + end, HEADER + head + at + new);
            (head, to)
        } else {
            self.make_room(at, old, new, count, limit);
            return self.span(at, new);
        };
        debug_assert_eq!(end - head, used - old + new);
        self.set(head, end, count);
        self.span(at, new)
    }

    fn span(&mut self, at: usize, len: usize) -> &mut [u8] {
        let from = HEADER + self.head() + at;
        &mut self.0.get_mut()[from..from + len]
    }

    /// As `splice`, where neither side has the room: with a larger allocation, or by moving everything to the other side.
    #[cold]
    fn make_room(&mut self, at: usize, old: usize, new: usize, count: usize, limit: usize) {
        let need = self.used() - old + new;
        let spare = self.room().saturating_sub(need);
        // Moving everything pays when it gives room for some time; at the limit there is no other way.
        let room = if spare > need / 4 || need <= self.room() && self.room() + OVERHEAD >= limit {
            self.room()
        } else {
            let least = OVERHEAD + need;
            let want = if least < DOUBLES_FROM { least + need / 8 } else { 2 * least };
            class_size(want.min(limit).max(least)) - OVERHEAD
        };
        self.rebuild(at, old, new, count, room);
    }

    /// A new allocation with so much room, which is spare on the side where bytes were added.
    fn rebuild(&mut self, at: usize, old: usize, new: usize, count: usize, room: usize) {
        let body = self.body();
        let need = body.len() - old + new;
        let head = if at < body.len().div_ceil(2) { room - need } else { 0 };
        let mut to = Node(Bytes::zeroed(HEADER + room));
        to.set(head, head + need, count);
        let place = &mut to.0.get_mut()[HEADER + head..HEADER + head + need];
        place[..at].copy_from_slice(&body[..at]);
        place[at + new..].copy_from_slice(&body[at + old..]);
        *self = to;
    }

    /// Gives memory back once less than half of the allocation is in use.
    fn give_back(&mut self) {
        if self.is_empty() {
            *self = Node::default();
        } else if self.heap_bytes() > 64 && self.used() < self.room() / 2 {
            let room = class_size(OVERHEAD + self.used() + self.used() / 8) - OVERHEAD;
            self.rebuild(self.used(), 0, 0, self.len(), room);
        }
    }
}

/// Allocations from here on double until they reach their limit; smaller ones grow by an eighth, since most lists that
/// are small stay so. A choice.
const DOUBLES_FROM: usize = 1024;

/// Entries of a node in order, from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
    /// Mask of the widths of lengths behind entries: all ones, or zero in a sealed node.
    behind: usize,
    /// Of a sealed node that is walked from the back: where its entries begin that are left.
    back: Vec<u32>,
}

impl<'a> Iter<'a> {
    /// Cuts the walk off at a position.
    pub fn end_at(&mut self, end: usize) {
        self.end = end;
    }

    /// Folds at most `max` entries from the front; says as well how many there were.
    #[inline]
    pub fn fold_some<B>(&self, max: usize, init: B, f: &mut impl FnMut(B, &'a [u8]) -> B) -> (B, usize) {
        let mut acc = init;
        let mut rest = self.body.get(self.at..self.end).unwrap_or(&[]);
        let mut left = max;
        while left > 0
            && let Some((first, behind)) = rest.split_first()
        {
            let (len, width, from) = match *first {
                short @ ..0x80 => (short as usize, 1, behind),
                _ => {
                    let (len, width) = read_len(rest.iter());
                    (len, width, &rest[width..])
                }
            };
            let (entry, behind) = from.split_at(len);
            rest = &behind[width & self.behind..];
            acc = f(acc, entry);
            left -= 1;
        }
        (acc, max - left)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        let first = self.body[self.at];
        let (len, width) =
            if first < 0x80 { (first as usize, 1) } else { read_len(self.body[self.at..].iter()) };
        let from = self.at + width;
        self.at = from + len + (width & self.behind);
        Some(&self.body[from..from + len])
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    #[inline]
    fn next_back(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        if self.behind == 0 {
            return self.sealed_back();
        }
        let last = self.body[self.end - 1];
        let (len, width) =
            if last < 0x80 { (last as usize, 1) } else { read_len(self.body[..self.end].iter().rev()) };
        let to = self.end - width;
        self.end = to - len - width;
        Some(&self.body[to - len..to])
    }
}

impl<'a> Iter<'a> {
    #[cold]
    fn sealed_back(&mut self) -> Option<&'a [u8]> {
        if self.back.is_empty() {
            let mut iter = self.between(self.at, self.end);
            while iter.at < iter.end {
                self.back.push(iter.at as u32);
                iter.next();
            }
        }
        let start = self.back.pop()? as usize;
        let entry = self.between(start, self.end).next();
        self.end = start;
        entry
    }

    /// The same entries between other positions.
    fn between(&self, at: usize, end: usize) -> Iter<'a> {
        Iter { body: self.body, at, end, behind: self.behind, back: Vec::new() }
    }
}

/// Bytes that an entry of `len` bytes adds to [`Node::bytes`].
#[inline]
pub fn entry_bytes(len: usize) -> usize {
    open_bytes(len) - 1
}

/// Bytes that an entry of `len` bytes occupies in a node that is not sealed.
#[inline]
fn open_bytes(len: usize) -> usize {
    len + 2 * len_width(len)
}

/// Writes an entry of a node that is not sealed: that of a sealed one, and its length in reverse.
#[inline]
fn write_open(to: &mut [u8], bytes: &[u8]) {
    if bytes.len() < 0x80
        && let [front, place @ .., behind] = to
    {
        (*front, *behind) = (bytes.len() as u8, bytes.len() as u8);
        return place.copy_from_slice(bytes);
    }
    let (front, behind) = to.split_at_mut(packed::entry_bytes(bytes.len()));
    packed::write_entry(front, bytes);
    front.iter().zip(behind.iter_mut().rev()).for_each(|(byte, mirror)| *mirror = *byte);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Back(usize),
        Front(usize),
        Insert(usize, usize),
        Remove(usize, usize),
        Replace(usize, usize),
        SplitJoin(usize),
        Seal,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let size = prop_oneof![0..10usize, 120..135usize, Just(1500usize), Just(20_000usize)];
        let op = prop_oneof![
            size.clone().prop_map(Op::Back),
            size.clone().prop_map(Op::Front),
            (any::<usize>(), size.clone()).prop_map(|(i, s)| Op::Insert(i, s)),
            (any::<usize>(), 0..3usize).prop_map(|(i, n)| Op::Remove(i, n)),
            (any::<usize>(), size).prop_map(|(i, s)| Op::Replace(i, s)),
            any::<usize>().prop_map(Op::SplitJoin),
            Just(Op::Seal),
        ];
        prop::collection::vec(op, 1..80)
    }

    proptest! {
        #[test]
        fn behaves_as_a_vec(limit in prop_oneof![Just(8192usize), Just(0usize)], ops in ops()) {
            let mut node = Node::default();
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                let text = |size: usize| vec![n as u8; size];
                match op {
                    Op::Back(s) => { node.push_back(&text(s), limit); model.push(text(s)); }
                    Op::Front(s) => { node.push_front(&text(s), limit); model.insert(0, text(s)); }
                    Op::Insert(i, s) => {
                        let i = i % (model.len() + 1);
                        node.unseal();
                        node.insert(node.position(i), &text(s), limit);
                        model.insert(i, text(s));
                    }
                    Op::Remove(i, count) => {
                        let i = i % (model.len() + 1);
                        node.unseal();
                        let gone = node.remove(node.position(i), count);
                        prop_assert_eq!(gone, count.min(model.len() - i));
                        model.drain(i..i + gone);
                    }
                    Op::Replace(i, s) if !model.is_empty() => {
                        let i = i % model.len();
                        node.unseal();
                        node.replace(node.position(i), &text(s), limit);
                        model[i] = text(s);
                    }
                    Op::Replace(..) => {}
                    Op::SplitJoin(i) => {
                        let tail = node.split_off(i % (model.len() + 1));
                        node.append(tail, limit);
                    }
                    Op::Seal => {
                        node.seal();
                        let sealed: usize = model.iter().map(|m| m.len() + len_width(m.len())).sum();
                        prop_assert_eq!(node.bytes(), sealed);
                        let exact = if model.is_empty() { 0 } else { class_size(OVERHEAD + sealed) };
                        prop_assert_eq!(node.heap_bytes(), exact);
                    }
                }
                prop_assert_eq!(node.len(), model.len());
                prop_assert!(node.iter().eq(model.iter()));
                prop_assert!(node.iter().rev().eq(model.iter().rev()));
                if !node.is_sealed() {
                    prop_assert_eq!(node.bytes(), model.iter().map(|m| entry_bytes(m.len())).sum::<usize>());
                }
                let mut ends = node.iter();
                prop_assert_eq!(ends.next_back(), model.last().map(|m| &m[..]));
                prop_assert!(ends.eq(model.iter().take(model.len().saturating_sub(1))));
                let middle = model.len() / 2;
                prop_assert_eq!(node.get(middle), model.get(middle).map(|m| &m[..]));
                let spare = node.heap_bytes().saturating_sub(node.used() + OVERHEAD);
                prop_assert!(spare <= 64.max(node.used() + OVERHEAD) + node.heap_bytes() / 4, "{spare}");
            }
        }
    }

    #[test]
    fn a_full_node_fills_its_limit_from_either_end() {
        for front in [false, true] {
            let mut node = Node::default();
            while node.used() + OVERHEAD + 10 <= 8192 {
                if front {
                    node.push_front(&[1; 8], 8192);
                } else {
                    node.push_back(&[1; 8], 8192);
                }
                assert!(node.heap_bytes() <= 8192);
            }
            assert_eq!((node.len(), node.heap_bytes()), (817, 8192));
        }
    }

    #[test]
    fn memory_comes_back() {
        let mut node = Node::default();
        for _ in 0..100 {
            node.push_front(&[7; 100], 1 << 20);
        }
        while node.len() > 1 {
            node.remove(0, 1);
        }
        assert!(node.heap_bytes() < 300, "{}", node.heap_bytes());
        node.remove(0, 1);
        assert_eq!(node.heap_bytes(), 0);
    }
}
