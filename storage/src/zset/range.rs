//! Walking a sorted set between two ranks, from either end.

use super::key::decode;
use super::packed_score;
use super::tree::Tree;
use crate::packed::{self, Packed};

/// Members with scores, in order. Reverse it for the descending order.
#[derive(Clone)]
pub struct Range<'a> {
    body: Body<'a>,
    left: usize,
}

#[derive(Clone)]
enum Body<'a> {
    /// `back`: positions of the pairs still to come, made when the walk first comes from the back.
    Packed {
        iter: packed::Iter<'a>,
        back: Vec<u32>,
    },
    Tree {
        tree: &'a Tree,
        front: Front,
        back: Back,
    },
}

/// The next element: leaf, number in the leaf, offset of the member's bytes.
#[derive(Clone, Copy)]
struct Front {
    leaf: u32,
    i: usize,
    offset: usize,
}

/// The next element from the back: leaf, number in the leaf plus one.
#[derive(Clone, Copy)]
struct Back {
    leaf: u32,
    i: usize,
}

impl<'a> Range<'a> {
    pub(super) fn packed(packed: &'a Packed, start: usize, end: usize) -> Range<'a> {
        let iter = packed.iter_from(packed.position(2 * start));
        Range { body: Body::Packed { iter, back: Vec::new() }, left: end - start }
    }

    pub(super) fn tree(tree: &'a Tree, start: usize, end: usize) -> Range<'a> {
        let left = end - start;
        let (mut front, mut back) =
            (Front { leaf: tree.root, i: 0, offset: 0 }, Back { leaf: tree.root, i: 0 });
        if left > 0 {
            let (leaf, i) = tree.at(start);
            front = Front { leaf, i, offset: tree.leaves.get(leaf).offset(i) };
            let (leaf, i) = tree.at(end - 1);
            back = Back { leaf, i: i + 1 };
        }
        Range { body: Body::Tree { tree, front, back }, left }
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.body {
            Body::Packed { iter, .. } => packed_pair(iter),
            Body::Tree { tree, front, .. } => {
                let mut leaf = tree.leaves.get(front.leaf);
                if front.i == leaf.len() {
                    front.leaf = tree.neighbours(front.leaf).1?;
                    leaf = tree.leaves.get(front.leaf);
                    (front.i, front.offset) = (0, leaf.offset(0));
                }
                let (member, next) = leaf.member_at(front.i, front.offset);
                let score = leaf.score(front.i);
                (front.i, front.offset) = (front.i + 1, next);
                Some((member, decode(score)))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.body {
            Body::Packed { iter, back } => {
                if back.is_empty() {
                    *back = positions(iter.clone(), self.left + 1);
                }
                let mut pair = iter.clone();
                pair.go_to(back.pop()? as usize);
                packed_pair(&mut pair)
            }
            Body::Tree { tree, back, .. } => {
                if back.i == 0 {
                    back.leaf = tree.neighbours(back.leaf).0?;
                    back.i = tree.leaves.get(back.leaf).len();
                }
                back.i -= 1;
                let leaf = tree.leaves.get(back.leaf);
                Some((leaf.member(back.i), decode(leaf.score(back.i))))
            }
        }
    }
}

fn packed_pair<'a>(iter: &mut packed::Iter<'a>) -> Option<(&'a [u8], f64)> {
    Some((iter.next()?, decode(packed_score(iter.next()?))))
}

/// Where the next `count` pairs stand: a packed form cannot be walked from the back.
fn positions(mut iter: packed::Iter<'_>, count: usize) -> Vec<u32> {
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        found.push(iter.position() as u32);
        iter.next();
        iter.next();
    }
    found
}

impl ExactSizeIterator for Range<'_> {}
