//! The big form of a list: nodes of at most 8 KiB (by default) in blocks of at most 128 nodes.
//!
//! The blocks stand in one queue, so an index is found by counts of blocks, then of nodes, then of entries, and the most any change
//! moves is one node, one block of nodes' pointers and the row of blocks (one per about 50 000 short entries).
//! Invariants: no block and no node is empty; `len` of a block is the sum over its nodes; nodes that are not at either end
//! are sealed once they were full.

use super::block::{self, Block, Limit};
use super::node::{self, Node, entry_bytes};
use std::collections::VecDeque;

/// Nodes in a row; never empty between calls, but for the callee of the last removal.
#[derive(Clone, Default)]
pub struct Nodes {
    blocks: VecDeque<Block>,
    len: usize,
    /// Bytes of all nodes.
    bytes: usize,
}

/// The part of a full node's allocation that one begins with which follows it at an end of the list: a choice, from which
/// three doublings lead to the whole.
const NEW_SHARE: usize = 8;

/// Where an entry is: block, node in the block, entry in the node.
#[derive(Clone, Copy, Debug)]
struct Place {
    block: usize,
    node: usize,
    entry: usize,
}

impl Nodes {
    /// A row of one node.
    pub fn of(node: Node) -> Nodes {
        let (len, bytes) = (node.len(), node.heap_bytes());
        let nodes = VecDeque::from([node]);
        Nodes { blocks: VecDeque::from([Block { nodes, len }]), len, bytes }
    }

    /// The only node, if it is the only one; the row is empty then.
    pub fn take_only(&mut self) -> Option<Node> {
        match (self.blocks.len(), self.blocks.front_mut()) {
            (1, Some(block)) if block.nodes.len() == 1 => {
                let mut only = block.nodes.pop_front();
                only.iter_mut().for_each(Node::unseal);
                *self = Nodes::default();
                only
            }
            _ => None,
        }
    }

    /// Whether there is one node, of at most `bytes` bytes of entries.
    pub fn is_one_of(&self, bytes: usize) -> bool {
        self.blocks.len() == 1 && self.blocks[0].nodes.len() == 1 && self.blocks[0].nodes[0].bytes() <= bytes
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes allocated beyond the struct itself; rows of nodes are estimated from the number of blocks, most of which are
    /// full where a list has grown at its ends.
    pub fn heap_bytes(&self) -> usize {
        let nodes = match self.blocks.len() {
            0 => 0,
            1 => self.blocks[0].nodes.capacity(),
            many => many * block::BLOCK_NODES_MAX,
        };
        self.bytes + self.blocks.capacity() * size_of::<Block>() + nodes * size_of::<Node>()
    }

    /// Number of packed nodes.
    pub fn nodes(&self) -> usize {
        self.blocks.iter().map(|b| b.nodes.len()).sum()
    }

    /// Adds an entry behind the last.
    pub fn push_back(&mut self, value: &[u8], limit: Limit) {
        let need = entry_bytes(value.len());
        if let Some(block) = self.blocks.back_mut()
            && let Some(node) = block.nodes.back_mut()
            && limit.admits(node.len() + 1, node.bytes() + need)
        {
            self.bytes = self.bytes.strict_add_signed(node.push_back(value, limit.bytes()));
            block.len += 1;
            self.len += 1;
            return;
        }
        self.insert(self.len, value, limit);
    }

    /// Adds an entry before the first.
    pub fn push_front(&mut self, value: &[u8], limit: Limit) {
        let need = entry_bytes(value.len());
        if let Some(block) = self.blocks.front_mut()
            && let Some(node) = block.nodes.front_mut()
            && limit.admits(node.len() + 1, node.bytes() + need)
        {
            self.bytes = self.bytes.strict_add_signed(node.push_front(value, limit.bytes()));
            block.len += 1;
            self.len += 1;
            return;
        }
        self.insert(0, value, limit);
    }

    /// The entry with number `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let place = self.place(index)?;
        self.blocks[place.block].nodes[place.node].get(place.entry)
    }

    /// Replaces the entry with number `index`; `false` if there is none.
    pub fn set(&mut self, index: usize, value: &[u8], limit: Limit) -> bool {
        let Some(place) = self.place(index) else { return false };
        let node = &self.blocks[place.block].nodes[place.node];
        let old = node.get(place.entry).map_or(0, <[u8]>::len);
        let after = (node.bytes() + entry_bytes(value.len())).saturating_sub(entry_bytes(old));
        if value.len() <= old || node.len() == 1 || limit.admits(node.len(), after) {
            self.change(place, |node| node.replace(node.position(place.entry), value, limit.bytes()));
        } else {
            self.remove_range(index, 1);
            self.insert(index, value, limit);
        }
        true
    }

    /// Puts an entry before the one with number `index`, or at the end if `index` is `len()`. Panics beyond that.
    pub fn insert(&mut self, index: usize, value: &[u8], limit: Limit) {
        assert!(index <= self.len);
        self.len += 1;
        let Some(place) = self.place_for(index) else {
            let mut node = Node::default();
            node.push_back(value, limit.bytes());
            *self = Nodes::of(node);
            return;
        };
        self.blocks[place.block].len += 1;
        let node = &self.blocks[place.block].nodes[place.node];
        if limit.admits(node.len() + 1, node.bytes() + entry_bytes(value.len())) {
            return self.change(place, |node| put(node, place.entry, value, limit.bytes()));
        }
        let grown = self.insert_beside(place, value, limit);
        self.split_block(place.block, grown);
    }

    /// The node at `place` is full: the entry goes into a neighbour if it stands at an edge and there is room, else into a new node.
    /// Returns the number of the node in its block.
    fn insert_beside(&mut self, place: Place, value: &[u8], limit: Limit) -> usize {
        let block = &self.blocks[place.block];
        let (count, need) = (block.nodes[place.node].len(), entry_bytes(value.len()));
        let has_room =
            |n: usize| block.nodes.get(n).is_some_and(|n| limit.admits(n.len() + 1, n.bytes() + need));
        if place.entry == 0 && place.node > 0 && has_room(place.node - 1) {
            let at = place.node - 1;
            self.change(Place { node: at, ..place }, |node| node.push_back(value, limit.bytes()));
            return at;
        }
        if place.entry == count && has_room(place.node + 1) {
            let at = place.node + 1;
            self.change(Place { node: at, ..place }, |node| node.push_front(value, limit.bytes()));
            return at;
        }
        let mut new_at = place.node;
        if place.entry > 0 {
            new_at += 1;
            if place.entry < count {
                let mut tail = Node::default();
                self.change(place, |node| tail = node.split_off(place.entry));
                self.bytes += tail.heap_bytes();
                self.blocks[place.block].nodes.insert(new_at, tail);
            }
        }
        // Nothing more is added to the full node at its end.
        self.change(place, Node::seal);
        self.blocks[place.block].nodes.insert(new_at, Node::default());
        let new = Place { node: new_at, ..place };
        let (is_end, is_front) = (self.is_end(new), place.entry == 0);
        let full = if is_front { new_at + 1 } else { new_at - 1 };
        let full_bytes = self.blocks[place.block].nodes[full].heap_bytes().min(limit.bytes());
        self.change(new, |node| {
            if is_end {
                *node = Node::with_room(full_bytes / NEW_SHARE, is_front);
            }
            node.insert(0, value, limit.bytes());
        });
        self.join(place.block, new_at, limit);
        new_at
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
            nodes[left].append(gone, limit.bytes());
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
            *self = Nodes::default();
        }
    }

    /// The entries numbered `start..end` in order, from either end.
    pub fn range(&self, start: usize, end: usize) -> Iter<'_> {
        let end = end.min(self.len);
        let front = self.place(start).map(|place| {
            let node = &self.blocks[place.block].nodes[place.node];
            Cursor { iter: node.iter_from(node.position(place.entry)), block: place.block, node: place.node }
        });
        Iter { list: self, front, back: None, end, left: end.saturating_sub(start) }
    }

    /// Where a walk from the back begins that ends before entry `end`.
    fn back(&self, end: usize) -> Option<Cursor<'_>> {
        let place = self.place(end.checked_sub(1)?)?;
        let node = &self.blocks[place.block].nodes[place.node];
        let iter = node.iter_between(0, node.position(place.entry + 1));
        Some(Cursor { iter, block: place.block, node: place.node })
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
            let (block, rest) = block::walk(self.blocks.iter().map(|b| b.len), index)?;
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

    /// Changes one node and keeps the byte count. A sealed one is sealed again, but at either end of the list.
    fn change<R>(&mut self, place: Place, f: impl FnOnce(&mut Node) -> R) {
        let is_end = self.is_end(place);
        let node = &mut self.blocks[place.block].nodes[place.node];
        let (before, was_sealed) = (node.heap_bytes(), node.is_sealed());
        node.unseal();
        f(node);
        if was_sealed && !is_end {
            node.seal();
        }
        self.bytes = self.bytes + node.heap_bytes() - before;
    }

    /// Whether a node is the first or the last.
    fn is_end(&self, place: Place) -> bool {
        let is_first = place.block == 0 && place.node == 0;
        let is_last =
            place.block + 1 == self.blocks.len() && place.node + 1 == self.blocks[place.block].nodes.len();
        is_first || is_last
    }

    /// Cuts a block that is over its bound in two: in the middle, but at either edge of a list that grows there so that
    /// the part that stays behind is full.
    fn split_block(&mut self, at: usize, grown: usize) {
        let is_last = at + 1 == self.blocks.len();
        let block = &mut self.blocks[at];
        if !block.is_over() {
            return;
        }
        let nodes = block.nodes.len();
        let cut = match grown {
            0 if at == 0 => 1,
            _ if is_last && grown + 1 == nodes => grown,
            _ => nodes / 2,
        };
        let tail = block.split_off(cut);
        self.blocks.insert(at + 1, tail);
    }

    /// After a removal: drops an empty block, merges a small one into its left neighbour.
    fn tidy(&mut self, at: usize) {
        if self.blocks[at].nodes.is_empty() {
            self.blocks.remove(at);
        } else if at > 0
            && self.blocks[at].nodes.len() + self.blocks[at - 1].nodes.len() <= block::BLOCK_NODES_MAX / 2
        {
            let Some(gone) = self.blocks.remove(at) else { return };
            self.blocks[at - 1].len += gone.len;
            self.blocks[at - 1].nodes.extend(gone.nodes);
        }
    }
}

#[cfg(test)]
impl Nodes {
    pub fn block_sizes(&self) -> Vec<usize> {
        self.blocks.iter().map(|block| block.nodes.len()).collect()
    }
    pub fn check(&self) {
        assert!(self.len > 0);
        let mut bytes = 0;
        for block in &self.blocks {
            assert!(!block.nodes.is_empty() && block.nodes.len() <= block::BLOCK_NODES_MAX);
            assert!(block.nodes.iter().all(|n| !n.is_empty()));
            assert_eq!(block.len, block.nodes.iter().map(Node::len).sum::<usize>());
            bytes += block.nodes.iter().map(Node::heap_bytes).sum::<usize>();
        }
        assert_eq!(self.len, self.blocks.iter().map(|b| b.len).sum::<usize>());
        assert_eq!(self.bytes, bytes);
    }
}

fn put(node: &mut Node, entry: usize, value: &[u8], limit: usize) {
    if entry == node.len() {
        node.push_back(value, limit);
    } else if entry == 0 {
        node.push_front(value, limit);
    } else {
        node.insert(node.position(entry), value, limit);
    }
}

/// Entries of a list in order, from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    list: &'a Nodes,
    front: Option<Cursor<'a>>,
    /// Made when the walk first comes from the back.
    back: Option<Cursor<'a>>,
    /// Number of the entry past the last.
    end: usize,
    left: usize,
}

#[derive(Clone)]
struct Cursor<'a> {
    iter: node::Iter<'a>,
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

    /// Node by node: several times as quick as entry by entry.
    fn fold<B, F: FnMut(B, &'a [u8]) -> B>(self, init: B, mut f: F) -> B {
        let (mut acc, mut left) = (init, self.left);
        let Some(mut at) = self.front else { return acc };
        while left > 0 {
            let count;
            (acc, count) = at.iter.fold_some(left, acc, &mut f);
            left -= count;
            at.node += 1;
            if self.list.blocks.get(at.block).is_none_or(|block| at.node == block.nodes.len()) {
                (at.block, at.node) = (at.block + 1, 0);
            }
            match self.list.blocks.get(at.block).and_then(|block| block.nodes.get(at.node)) {
                Some(node) => at.iter = node.iter(),
                None => break,
            }
        }
        acc
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    fn next_back(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        if self.back.is_none() {
            self.back = self.list.back(self.end);
        }
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
