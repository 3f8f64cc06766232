//! Lists: packed nodes of at most 8 KiB (by default) in blocks of at most 128 nodes.
//!
//! The blocks stand in one queue, so an index is found by counts of blocks, then of nodes, then of entries, and the most any change
//! moves is one node, one block of node headers and the row of block headers (one per about 50 000 short entries).
//! Invariants: no block and no node is empty; `len` of a block is the sum over its nodes.

mod node;

use crate::packed::{self, Packed, entry_bytes};
use crate::thresholds::Thresholds;
use node::{Block, Limit};
use std::collections::VecDeque;

/// A sequence of byte strings.
#[derive(Clone, Default)]
pub struct List {
    blocks: VecDeque<Block>,
    len: usize,
    /// Bytes of all packed nodes.
    bytes: usize,
}

/// Where an entry is: block, node in the block, entry in the node.
#[derive(Clone, Copy, Debug)]
struct Place {
    block: usize,
    node: usize,
    entry: usize,
}

impl List {
    /// An empty list; allocates nothing.
    pub fn new() -> List {
        List::default()
    }

    /// The name OBJECT ENCODING gives: always `quicklist` in Redis 7.0.
    pub fn encoding(&self) -> &'static str {
        "quicklist"
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated beyond the struct itself; node headers are estimated from the number of blocks.
    pub fn heap_bytes(&self) -> usize {
        let nodes = match self.blocks.len() {
            0 => 0,
            1 => self.blocks[0].nodes.capacity(),
            many => many * node::BLOCK_NODES_MAX * 3 / 4,
        };
        self.bytes + self.blocks.capacity() * size_of::<Block>() + nodes * size_of::<Packed>()
    }

    /// Number of packed nodes.
    pub fn nodes(&self) -> usize {
        self.blocks.iter().map(|b| b.nodes.len()).sum()
    }

    /// Adds an entry behind the last.
    pub fn push_back(&mut self, value: &[u8], thresholds: &Thresholds) {
        self.insert(self.len, value, thresholds);
    }

    /// Adds an entry before the first.
    pub fn push_front(&mut self, value: &[u8], thresholds: &Thresholds) {
        self.insert(0, value, thresholds);
    }

    /// Removes and returns the last entry.
    pub fn pop_back(&mut self) -> Option<Vec<u8>> {
        let last = self.len.checked_sub(1)?;
        let value = self.get(last)?.to_vec();
        self.remove_range(last, 1);
        Some(value)
    }

    /// Removes and returns the first entry.
    pub fn pop_front(&mut self) -> Option<Vec<u8>> {
        let value = self.get(0)?.to_vec();
        self.remove_range(0, 1);
        Some(value)
    }

    /// The entry with number `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let place = self.place(index)?;
        self.blocks[place.block].nodes[place.node].get(place.entry)
    }

    /// Replaces the entry with number `index`; `false` if there is none.
    pub fn set(&mut self, index: usize, value: &[u8], thresholds: &Thresholds) -> bool {
        let Some(place) = self.place(index) else { return false };
        let node = &self.blocks[place.block].nodes[place.node];
        let old = node.get(place.entry).map_or(0, <[u8]>::len);
        let limit = Limit::of(thresholds);
        let after = node.bytes() - entry_bytes(old) + entry_bytes(value.len());
        if value.len() <= old || node.len() == 1 || limit.admits(node.len(), after) {
            self.change(place, |node| node.replace(node.position(place.entry), value));
        } else {
            self.remove_range(index, 1);
            self.insert(index, value, thresholds);
        }
        true
    }

    /// Puts an entry before the one with number `index`, or at the end if `index` is `len()`. Panics beyond that.
    pub fn insert(&mut self, index: usize, value: &[u8], thresholds: &Thresholds) {
        assert!(index <= self.len);
        let limit = Limit::of(thresholds);
        self.len += 1;
        let Some(place) = self.place_for(index) else {
            let mut nodes = VecDeque::with_capacity(1);
            nodes.push_back(Packed::new());
            self.blocks.reserve_exact(1);
            self.blocks.push_back(Block { nodes, len: 1 });
            return self.change(Place { block: 0, node: 0, entry: 0 }, |node| node.push_back(value));
        };
        self.blocks[place.block].len += 1;
        let node = &self.blocks[place.block].nodes[place.node];
        if limit.admits(node.len() + 1, node.bytes() + entry_bytes(value.len())) {
            return self.change(place, |node| put(node, place.entry, value));
        }
        self.insert_beside(place, value, limit);
        self.split_block(place.block);
    }

    /// The node at `place` is full: the entry goes into a neighbour if it stands at an edge and there is room, else into a new node.
    fn insert_beside(&mut self, place: Place, value: &[u8], limit: Limit) {
        let block = &self.blocks[place.block];
        let (count, need) = (block.nodes[place.node].len(), entry_bytes(value.len()));
        let has_room =
            |n: usize| block.nodes.get(n).is_some_and(|n| limit.admits(n.len() + 1, n.bytes() + need));
        if place.entry == 0 && place.node > 0 && has_room(place.node - 1) {
            return self.change(Place { node: place.node - 1, ..place }, |node| node.push_back(value));
        }
        if place.entry == count && has_room(place.node + 1) {
            return self.change(Place { node: place.node + 1, ..place }, |node| node.push_front(value));
        }
        let mut new_at = place.node;
        if place.entry > 0 {
            new_at += 1;
            if place.entry < count {
                let mut tail = Packed::new();
                self.change(place, |node| tail = node.split_off(place.entry));
                self.bytes += tail.heap_bytes();
                self.blocks[place.block].nodes.insert(new_at, tail);
            }
        }
        self.blocks[place.block].nodes.insert(new_at, Packed::new());
        self.change(Place { node: new_at, ..place }, |node| node.push_back(value));
        self.join(place.block, new_at, limit);
    }

    /// Merges a node with a neighbour if both fit one node.
    fn join(&mut self, block: usize, node: usize, limit: Limit) {
        let nodes = &mut self.blocks[block].nodes;
        for left in [node, node.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (nodes.get(left), nodes.get(left.wrapping_add(1))) else { continue };
            if !limit.admits(a.len() + b.len(), a.bytes() + b.bytes()) {
                continue;
            }
            let Some(gone) = nodes.remove(left + 1) else { continue };
            let before = nodes[left].heap_bytes() + gone.heap_bytes();
            nodes[left].append(&gone);
            self.bytes = self.bytes - before + nodes[left].heap_bytes();
        }
    }

    /// Removes up to `count` entries from number `index` on.
    pub fn remove_range(&mut self, index: usize, count: usize) {
        let mut left = count.min(self.len.saturating_sub(index));
        while left > 0 {
            let place = self.place(index).expect("entries are left");
            let block = &mut self.blocks[place.block];
            let node = &block.nodes[place.node];
            let gone = if place.entry == 0 && node.len() <= left {
                self.bytes -= node.heap_bytes();
                block.nodes.remove(place.node).map_or(0, |node| node.len())
            } else {
                let n = left.min(node.len() - place.entry);
                self.change(place, |node| node.remove(node.position(place.entry), n));
                n
            };
            self.blocks[place.block].len -= gone;
            self.len -= gone;
            left -= gone;
            self.tidy(place.block);
        }
        if self.len == 0 {
            *self = List::new();
        }
    }

    /// Keeps the entries numbered `start..end` and removes the others.
    pub fn trim(&mut self, start: usize, end: usize) {
        let end = end.min(self.len);
        self.remove_range(end, self.len - end);
        self.remove_range(0, start);
    }

    /// Removes entries equal to `value`: all if `count` is 0, else at most that many from the front (or, if negative, from the back).
    /// Returns how many were removed.
    pub fn remove_equal(&mut self, value: &[u8], count: i64) -> usize {
        let max = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
        let mut found: Vec<usize> = if count >= 0 {
            self.iter().enumerate().filter(|(_, v)| *v == value).map(|(i, _)| i).take(max).collect()
        } else {
            let last = self.len.saturating_sub(1);
            self.iter()
                .rev()
                .enumerate()
                .filter(|(_, v)| *v == value)
                .map(|(i, _)| last - i)
                .take(max)
                .collect()
        };
        // From the back, so that the numbers of those still to be removed stay true.
        found.sort_unstable();
        for &index in found.iter().rev() {
            self.remove_range(index, 1);
        }
        found.len()
    }

    /// All entries in order, from either end.
    pub fn iter(&self) -> Iter<'_> {
        self.range(0, self.len)
    }

    /// The entries numbered `start..end` in order, from either end.
    pub fn range(&self, start: usize, end: usize) -> Iter<'_> {
        let end = end.min(self.len);
        let left = end.saturating_sub(start);
        let cursor = |index: usize| {
            self.place(index).map(|place| {
                let node = &self.blocks[place.block].nodes[place.node];
                (place, node.position(place.entry))
            })
        };
        let front = cursor(start).map(|(place, at)| Cursor {
            iter: self.blocks[place.block].nodes[place.node].iter_from(at),
            block: place.block,
            node: place.node,
        });
        let back = end.checked_sub(1).and_then(cursor).map(|(place, at)| {
            let node = &self.blocks[place.block].nodes[place.node];
            let mut after = node.iter_from(at);
            after.next();
            Cursor { iter: node.iter_before(after.position()), block: place.block, node: place.node }
        });
        Iter { list: self, front, back, left }
    }

    fn place(&self, index: usize) -> Option<Place> {
        if index >= self.len { None } else { self.seek(index) }
    }

    /// Where an entry inserted before number `index` belongs: behind the last if there is none.
    fn place_for(&self, index: usize) -> Option<Place> {
        let held = self.len - 1;
        if index < held {
            return self.seek(index);
        }
        let block = self.blocks.len().checked_sub(1)?;
        let node = self.blocks[block].nodes.len() - 1;
        Some(Place { block, node, entry: self.blocks[block].nodes[node].len() })
    }

    /// Finds entry `index` from the nearer end.
    fn seek(&self, index: usize) -> Option<Place> {
        let held: usize = self.len;
        if index < held / 2 {
            let (block, rest) = node::walk(self.blocks.iter().map(|b| b.len), index)?;
            let (node, entry) = self.blocks[block].seek(rest)?;
            Some(Place { block, node, entry })
        } else {
            let mut end = self.blocks.iter().map(|b| b.len).sum::<usize>();
            for (block, b) in self.blocks.iter().enumerate().rev() {
                end -= b.len;
                if end <= index {
                    let (node, entry) = b.seek(index - end)?;
                    return Some(Place { block, node, entry });
                }
            }
            None
        }
    }

    /// Changes one node and keeps the byte count.
    fn change<R>(&mut self, place: Place, f: impl FnOnce(&mut Packed) -> R) {
        let node = &mut self.blocks[place.block].nodes[place.node];
        let before = node.heap_bytes();
        f(node);
        self.bytes = self.bytes + node.heap_bytes() - before;
    }

    fn split_block(&mut self, at: usize) {
        if let Some(tail) = self.blocks[at].split() {
            self.blocks.insert(at + 1, tail);
        }
    }

    /// After a removal: drops an empty block, merges a small one into its left neighbour.
    fn tidy(&mut self, at: usize) {
        if self.blocks[at].nodes.is_empty() {
            self.blocks.remove(at);
        } else if at > 0
            && self.blocks[at].nodes.len() + self.blocks[at - 1].nodes.len() <= node::BLOCK_NODES_MAX / 2
        {
            let Some(mut gone) = self.blocks.remove(at) else { return };
            self.blocks[at - 1].len += gone.len;
            self.blocks[at - 1].nodes.extend(std::mem::take(&mut gone.nodes));
        }
    }
}

fn put(node: &mut Packed, entry: usize, value: &[u8]) {
    if entry == node.len() {
        node.push_back(value);
    } else if entry == 0 {
        node.push_front(value);
    } else {
        node.insert(node.position(entry), value);
    }
}

/// Entries of a list in order, from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    list: &'a List,
    front: Option<Cursor<'a>>,
    back: Option<Cursor<'a>>,
    left: usize,
}

#[derive(Clone)]
struct Cursor<'a> {
    iter: packed::Iter<'a>,
    block: usize,
    node: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let at = self.front.as_mut()?;
        loop {
            if let Some(value) = at.iter.next() {
                return Some(value);
            }
            at.node += 1;
            if at.node == self.list.blocks.get(at.block)?.nodes.len() {
                (at.block, at.node) = (at.block + 1, 0);
            }
            at.iter = self.list.blocks.get(at.block)?.nodes.get(at.node)?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    fn next_back(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let at = self.back.as_mut()?;
        loop {
            if let Some(value) = at.iter.next_back() {
                return Some(value);
            }
            if at.node == 0 {
                at.block = at.block.checked_sub(1)?;
                at.node = self.list.blocks[at.block].nodes.len();
            }
            at.node -= 1;
            at.iter = self.list.blocks[at.block].nodes[at.node].iter();
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests;
