//! Blocks of nodes, and how much one node may hold.

use super::node::{Node, OVERHEAD};
use crate::thresholds::Thresholds;
use std::collections::VecDeque;

/// Nodes per block: a choice, so that a change moves at most 4 KiB of node headers.
pub const BLOCK_NODES_MAX: usize = 128;

/// Some neighbouring nodes and the number of entries in them.
#[derive(Clone, Default)]
pub struct Block {
    pub nodes: VecDeque<Node>,
    pub len: usize,
}

impl Block {
    /// Node and entry in the node of entry `index` of this block.
    pub fn seek(&self, index: usize) -> Option<(usize, usize)> {
        if index < self.len / 2 {
            return walk(self.nodes.iter().map(Node::len), index);
        }
        let mut end = self.len;
        for (number, node) in self.nodes.iter().enumerate().rev() {
            end -= node.len();
            if end <= index {
                return Some((number, index - end));
            }
        }
        None
    }

    /// Whether there are more nodes than there may be.
    pub fn is_over(&self) -> bool {
        self.nodes.len() > BLOCK_NODES_MAX
    }

    /// Keeps the nodes before number `at` and returns the others.
    pub fn split_off(&mut self, at: usize) -> Block {
        let nodes = self.nodes.split_off(at);
        self.nodes.shrink_to_fit();
        let len = nodes.iter().map(Node::len).sum();
        self.len -= len;
        Block { nodes, len }
    }
}

/// The part and the place in it where `index` falls, over parts of these lengths.
pub fn walk(lens: impl Iterator<Item = usize>, index: usize) -> Option<(usize, usize)> {
    let mut left = index;
    for (number, len) in lens.enumerate() {
        if left < len {
            return Some((number, left));
        }
        left -= len;
    }
    None
}

/// What one node may hold, from `list-max-listpack-size`.
#[derive(Clone, Copy)]
pub struct Limit {
    entries: usize,
    bytes: usize,
}

impl Limit {
    /// A positive size counts entries (of 8 KiB together at most, as in Redis); -1 to -5 are 4 to 64 KiB.
    pub fn of(thresholds: &Thresholds) -> Limit {
        match thresholds.list_max_listpack_size {
            size @ 1.. => Limit { entries: size as usize, bytes: 8192 },
            0 => Limit { entries: 1, bytes: 8192 },
            size => Limit { entries: usize::MAX, bytes: 4096 << (-i64::from(size) - 1).min(4) },
        }
    }

    /// Whether a node with so much in it is within the limit. One entry always is.
    #[inline]
    pub fn admits(self, entries: usize, bytes: usize) -> bool {
        entries <= 1 || entries <= self.entries && bytes + OVERHEAD <= self.bytes
    }

    /// Bytes of a full node's allocation.
    #[inline]
    pub fn bytes(self) -> usize {
        self.bytes
    }
}
