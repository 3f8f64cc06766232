//! Lists: one node while that is enough, then nodes in blocks.

mod block;
mod node;
mod nodes;

use crate::slab::class_size;
use crate::thin::{View, ViewMut, Word};
use crate::thresholds::Thresholds;
use block::Limit;
use node::{Node, entry_bytes};
use nodes::Nodes;

/// A sequence of byte strings.
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct List {
    word: Word<Node, Nodes>,
}

/// Bytes of entries at which the last node of a row becomes the small form again: a choice, a quarter of a node, so that
/// a list at the boundary does not go to and fro.
const SMALL_AGAIN: usize = 2048;

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
        match self.word.view() {
            View::Small(node) => node.len(),
            View::Big(nodes) => nodes.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated beyond the eight of the value itself.
    pub fn heap_bytes(&self) -> usize {
        match self.word.view() {
            View::Small(node) => node.heap_bytes(),
            View::Big(nodes) => class_size(size_of::<Nodes>()) + nodes.heap_bytes(),
        }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        match self.word.view() {
            View::Small(node) => !node.is_empty() as usize,
            View::Big(nodes) => nodes.nodes(),
        }
    }

    /// Adds an entry behind the last.
    pub fn push_back(&mut self, value: &[u8], thresholds: &Thresholds) {
        let limit = Limit::of(thresholds);
        match self.with_room(entry_bytes(value.len()), limit) {
            ViewMut::Small(node) => _ = node.push_back(value, limit.bytes()),
            ViewMut::Big(nodes) => nodes.push_back(value, limit),
        }
    }

    /// Adds an entry before the first.
    pub fn push_front(&mut self, value: &[u8], thresholds: &Thresholds) {
        let limit = Limit::of(thresholds);
        match self.with_room(entry_bytes(value.len()), limit) {
            ViewMut::Small(node) => _ = node.push_front(value, limit.bytes()),
            ViewMut::Big(nodes) => nodes.push_front(value, limit),
        }
    }

    /// The form that has room for one more entry of so many bytes.
    #[inline]
    fn with_room(&mut self, need: usize, limit: Limit) -> ViewMut<'_, Node, Nodes> {
        if let ViewMut::Small(node) = self.word.view_mut()
            && !limit.admits(node.len() + 1, node.bytes() + need)
        {
            self.become_big();
        }
        self.word.view_mut()
    }

    #[cold]
    fn become_big(&mut self) {
        if let ViewMut::Small(node) = self.word.view_mut() {
            let node = std::mem::take(node);
            self.word = Word::big(Box::new(Nodes::of(node)));
        }
    }

    /// Removes and returns the last entry.
    pub fn pop_back(&mut self) -> Option<Vec<u8>> {
        let last = self.len().checked_sub(1)?;
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
        match self.word.view() {
            View::Small(node) => node.get(index),
            View::Big(nodes) => nodes.get(index),
        }
    }

    /// Replaces the entry with number `index`; `false` if there is none.
    pub fn set(&mut self, index: usize, value: &[u8], thresholds: &Thresholds) -> bool {
        let limit = Limit::of(thresholds);
        let Some(old) = self.get(index).map(<[u8]>::len) else { return false };
        if let ViewMut::Small(node) = self.word.view_mut() {
            let after = node.bytes() - entry_bytes(old) + entry_bytes(value.len());
            if limit.admits(node.len(), after) {
                node.replace(node.position(index), value, limit.bytes());
                return true;
            }
        }
        match self.with_room(entry_bytes(value.len()), limit) {
            ViewMut::Small(_) => unreachable!("it has no room for the longer value"),
            ViewMut::Big(nodes) => nodes.set(index, value, limit),
        }
    }

    /// Puts an entry before the one with number `index`, or at the end if `index` is `len()`. Panics beyond that.
    pub fn insert(&mut self, index: usize, value: &[u8], thresholds: &Thresholds) {
        let limit = Limit::of(thresholds);
        match self.with_room(entry_bytes(value.len()), limit) {
            ViewMut::Small(node) => node.insert(node.position(index), value, limit.bytes()),
            ViewMut::Big(nodes) => nodes.insert(index, value, limit),
        }
    }

    /// Removes up to `count` entries from number `index` on.
    pub fn remove_range(&mut self, index: usize, count: usize) {
        match self.word.view_mut() {
            ViewMut::Small(node) => {
                if index < node.len() && count > 0 {
                    node.remove(node.position(index), count);
                }
            }
            ViewMut::Big(nodes) => {
                nodes.remove_range(index, count);
                if nodes.len() == 0 || nodes.is_one_of(SMALL_AGAIN) {
                    self.word = Word::small(nodes.take_only().unwrap_or_default());
                }
            }
        }
    }

    /// Keeps the entries numbered `start..end` and removes the others.
    pub fn trim(&mut self, start: usize, end: usize) {
        let end = end.min(self.len());
        self.remove_range(end, self.len() - end);
        self.remove_range(0, start);
    }

    /// Removes entries equal to `value`: all if `count` is 0, else at most that many from the front (or, if negative, from the back).
    /// Returns how many were removed.
    pub fn remove_equal(&mut self, value: &[u8], count: i64) -> usize {
        let max = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
        let mut found: Vec<usize> = if count >= 0 {
            self.iter().enumerate().filter(|(_, v)| *v == value).map(|(i, _)| i).take(max).collect()
        } else {
            let last = self.len().saturating_sub(1);
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
        self.range(0, self.len())
    }

    /// The entries numbered `start..end` in order, from either end.
    pub fn range(&self, start: usize, end: usize) -> Iter<'_> {
        let end = end.min(self.len());
        let start = start.min(end);
        match self.word.view() {
            View::Small(node) => Iter {
                body: IterBody::Small { node, iter: node.iter_from(node.position(start)), end: Some(end) },
                left: end - start,
            },
            View::Big(nodes) => Iter { body: IterBody::Big(nodes.range(start, end)), left: end - start },
        }
    }

    /// Moves what small lists hold out of spans that are being emptied.
    pub(crate) fn leave_span(&mut self) {
        self.word.leave_span();
    }
}

/// Entries of a list in order, from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    body: IterBody<'a>,
    left: usize,
}

#[derive(Clone)]
enum IterBody<'a> {
    /// `end`: number of the entry past the last, until the walk first comes from the back and looks for its position.
    Small {
        node: &'a Node,
        iter: node::Iter<'a>,
        end: Option<usize>,
    },
    Big(nodes::Iter<'a>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.body {
            IterBody::Small { iter, .. } => iter.next(),
            IterBody::Big(iter) => iter.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }

    fn fold<B, F: FnMut(B, &'a [u8]) -> B>(self, init: B, mut f: F) -> B {
        match self.body {
            IterBody::Small { iter, .. } => iter.fold_some(self.left, init, &mut f).0,
            IterBody::Big(iter) => iter.fold(init, f),
        }
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    #[inline]
    fn next_back(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.body {
            IterBody::Small { node, iter, end } => {
                if let Some(end) = end.take() {
                    iter.end_at(node.position(end));
                }
                iter.next_back()
            }
            IterBody::Big(iter) => iter.next_back(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests;
