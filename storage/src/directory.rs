//! The directory of a table: from the top bits of a hash to its segment. Extendible hashing (Fagin et al. 1979), but
//! over a radix tree: up to four pointers inline in the slot's line, then nodes that double up to 256 pointers and
//! then grow children, so that no growth ever copies more than 2 KiB.
//!
//! Invariants: a segment of depth d is pointed to by exactly the 2^(base+bits-d) consecutive pointers of its interval
//! in one node; only nodes of eight bits have child nodes; a heap node has at least one segment of full depth or
//! child (`full` counts them), else it is halved or gives way to its only segment.

use crate::segment::Seg;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// Depth mark of a root whose first pointer is a node.
const TREE: u8 = 3;
/// Hash bits that one full node resolves.
const NODE_BITS: u32 = 8;
/// SCAN's cursor has 48 bits, so intervals never get finer. With a keyed hash, 63 keys that agree in 48 bits are
/// not going to happen.
const DEPTH_MAX: u32 = 48;

/// The root of a table: lives in the slot's line for database 0, else in the database's array.
#[repr(C, packed)]
pub(crate) struct Root {
    inline: [[u8; 6]; 4],
    pub(crate) count: u32,
    pub(crate) expires: u32,
    depth: u8,
}

#[repr(C)]
struct Node {
    bits: u8,
    /// Segments of full depth, or child nodes, in this node. At most 256.
    full: u16,
    // then 1 << bits words: an exposed address, bit 0 set for a node
}

const NODE_HEADER: usize = 8;

#[derive(Clone, Copy, PartialEq)]
struct NodePtr(*mut Node);

fn node_layout(bits: u32) -> Layout {
    Layout::from_size_align(NODE_HEADER + (8 << bits), 8).expect("a small layout")
}

impl NodePtr {
    fn new(bits: u32) -> NodePtr {
        assert!(bits <= NODE_BITS);
        let layout = node_layout(bits);
        // SAFETY: the layout is not of size zero; zero is a valid header, then `bits` is set.
        unsafe {
            let p = alloc_zeroed(layout).cast::<Node>();
            if p.is_null() {
                handle_alloc_error(layout);
            }
            (*p).bits = bits as u8;
            NodePtr(p)
        }
    }
    /// SAFETY: nobody points to the node any more.
    unsafe fn free(self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0.cast(), node_layout(self.bits())) }
    }
    /// SAFETY: `word` is a live node's, with bit 0 set.
    unsafe fn from_word(word: u64) -> NodePtr {
        NodePtr(std::ptr::with_exposed_provenance_mut((word & !1) as usize))
    }
    fn to_word(self) -> u64 {
        self.0.expose_provenance() as u64 | 1
    }
    #[inline]
    fn bits(self) -> u32 {
        // SAFETY: nodes are live while the directory points to them; so below.
        unsafe { (*self.0).bits as u32 }
    }
    fn full(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).full as u32 }
    }
    fn set_full(self, full: u32) {
        // SAFETY: as above; writers hold the slot's lock.
        unsafe { (*self.0).full = full as u16 }
    }
    #[inline]
    fn get(self, i: usize) -> u64 {
        debug_assert!(i < 1 << self.bits());
        // SAFETY: below the node's length.
        unsafe { self.0.cast::<u8>().add(NODE_HEADER).cast::<u64>().add(i).read() }
    }
    fn set(self, i: usize, word: u64) {
        assert!(i < 1 << self.bits());
        // SAFETY: below the node's length; writers hold the slot's lock.
        unsafe { self.0.cast::<u8>().add(NODE_HEADER).cast::<u64>().add(i).write(word) }
    }
    fn bytes(self) -> usize {
        crate::slab::class_size(node_layout(self.bits()).size())
    }
}

/// Bits `base .. base + bits` of a hash, from the top.
#[inline]
fn slice(hash: u64, base: u32, bits: u32) -> usize {
    // In two steps, since a shift by 64 is none.
    ((hash << base) >> 1 >> (63 - bits)) as usize
}

/// Where a segment's pointers stand: in the root (`node` null) or in a node that begins at hash bit `base`.
#[derive(Clone, Copy)]
struct Place {
    node: Option<NodePtr>,
    base: u32,
    bits: u32,
}

impl Root {
    pub(crate) const EMPTY: Root = Root { inline: [[0; 6]; 4], count: 0, expires: 0, depth: 0 };

    #[inline]
    fn word(&self, i: usize) -> u64 {
        let b = self.inline[i];
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
    }
    fn set_word(&mut self, i: usize, word: u64) {
        assert!(word >> 47 == 0, "an address above 47 bits");
        self.inline[i].copy_from_slice(&word.to_le_bytes()[..6]);
    }

    /// The segment whose interval holds `hash`; `None` for a table without any.
    #[inline]
    pub(crate) fn locate(&self, hash: u64) -> Option<Seg> {
        let mut word;
        if self.depth < TREE {
            word = self.word(slice(hash, 0, self.depth as u32));
        } else {
            word = self.word(0);
            let mut base = 0;
            while word & 1 != 0 {
                // SAFETY: bit 0 marks a live node.
                let node = unsafe { NodePtr::from_word(word) };
                word = node.get(slice(hash, base, node.bits()));
                base += NODE_BITS;
            }
        }
        // SAFETY: words without bit 0 are live segments, or zero in an empty table.
        (word != 0).then(|| unsafe { Seg::from_exposed(word) })
    }

    /// The node (or the root) that points to the segment of `hash`, and that node's parent.
    fn place(&self, hash: u64) -> (Place, Option<Place>) {
        let mut here = Place { node: None, base: 0, bits: self.depth.min(TREE - 1) as u32 };
        if self.depth < TREE {
            return (here, None);
        }
        let mut parent = None;
        let mut word = self.word(0);
        while word & 1 != 0 {
            // SAFETY: bit 0 marks a live node.
            let node = unsafe { NodePtr::from_word(word) };
            let base = if here.node.is_none() { 0 } else { here.base + NODE_BITS };
            if here.node.is_some() {
                parent = Some(here);
            }
            here = Place { node: Some(node), base, bits: node.bits() };
            word = node.get(slice(hash, base, node.bits()));
        }
        (here, parent)
    }

    fn get_at(&self, place: Place, i: usize) -> u64 {
        place.node.map_or_else(|| self.word(i), |node| node.get(i))
    }
    fn set_at(&mut self, place: Place, i: usize, word: u64) {
        match place.node {
            Some(node) => node.set(i, word),
            None => self.set_word(i, word),
        }
    }
    /// Points a whole interval of `depth` bits to a segment.
    fn fill(&mut self, place: Place, hash: u64, depth: u32, seg: Seg) {
        let run = 1usize << (place.base + place.bits - depth);
        let first = slice(hash, place.base, place.bits) & !(run - 1);
        for i in first..first + run {
            self.set_at(place, i, seg.expose());
        }
    }

    /// The first segment of a table without any. Returns bytes gained.
    pub(crate) fn put_first(&mut self, seg: Seg) {
        assert!(self.depth == 0 && self.word(0) == 0);
        self.set_word(0, seg.expose());
    }

    /// Puts `new` in the place of the segment that covers `hash`; both have the same depth.
    pub(crate) fn replace(&mut self, hash: u64, new: Seg) {
        let (place, _) = self.place(hash);
        self.fill(place, hash, new.depth(), new);
    }

    /// Makes room for a split: afterwards the segment of `hash` is covered by at least two pointers, and `upper`
    /// stands behind the upper half of its interval. The caller has moved the entries and raised both depths.
    /// Returns the bytes the directory grew by.
    pub(crate) fn split(&mut self, hash: u64, lower: Seg, upper: Seg) -> isize {
        let depth = lower.depth();
        assert!(depth <= DEPTH_MAX, "63 keys agree in 48 bits of a keyed hash");
        let mut grown = 0;
        let (mut place, parent) = self.place(hash);
        if depth - 1 == place.base + place.bits {
            (place, grown) = self.widen(place, parent, hash, lower);
        }
        let bit = 1u64 << (64 - depth);
        self.fill(place, hash & !bit, depth, lower);
        self.fill(place, hash | bit, depth, upper);
        if depth == place.base + place.bits
            && let Some(node) = place.node
        {
            node.set_full(node.full() + 2);
        }
        grown
    }

    /// One more bit at `place`, which points to `seg` by a single pointer.
    fn widen(&mut self, place: Place, parent: Option<Place>, hash: u64, seg: Seg) -> (Place, isize) {
        match place.node {
            None if place.bits < 2 => {
                for i in (0..1usize << place.bits).rev() {
                    let word = self.word(i);
                    self.set_word(2 * i, word);
                    self.set_word(2 * i + 1, word);
                }
                self.depth += 1;
                (Place { bits: place.bits + 1, ..place }, 0)
            }
            Some(old) if place.bits == NODE_BITS => {
                // The node stays; a child takes the place of the segment's pointer.
                let child = NodePtr::new(1);
                child.set(0, seg.expose());
                child.set(1, seg.expose());
                old.set(slice(hash, place.base, NODE_BITS), child.to_word());
                let place = Place { node: Some(child), base: place.base + NODE_BITS, bits: 1 };
                (place, child.bytes() as isize)
            }
            old => {
                let node = NodePtr::new(place.bits + 1);
                for i in 0..1usize << place.bits {
                    let word = self.get_at(place, i);
                    node.set(2 * i, word);
                    node.set(2 * i + 1, word);
                }
                let mut grown = node.bytes() as isize;
                match parent {
                    Some(parent) => {
                        self.set_at(parent, slice(hash, parent.base, parent.bits), node.to_word());
                    }
                    None => {
                        self.inline = [[0; 6]; 4];
                        self.set_word(0, node.to_word());
                        self.depth = TREE;
                    }
                }
                if let Some(old) = old {
                    grown -= old.bytes() as isize;
                    // SAFETY: its only pointer was replaced just now.
                    unsafe { old.free() };
                }
                (Place { node: Some(node), base: place.base, bits: place.bits + 1 }, grown)
            }
        }
    }

    /// The other half of the interval that the segment of `hash` would have one bit up, if that is one segment.
    pub(crate) fn buddy(&self, hash: u64) -> Option<Seg> {
        let (place, _) = self.place(hash);
        let seg = self.locate(hash)?;
        let depth = seg.depth();
        if depth == 0 {
            return None;
        }
        // A node's segments are deeper than its base (else the node had given way), so the buddy is in it too.
        assert!(depth > place.base);
        let other = hash ^ (1 << (64 - depth));
        let word = self.get_at(place, slice(other, place.base, place.bits));
        if word & 1 != 0 {
            return None;
        }
        // SAFETY: a word without bit 0 in a table that has segments is a live segment.
        let buddy = unsafe { Seg::from_exposed(word) };
        (buddy.depth() == depth).then_some(buddy)
    }

    /// Lets `merged`, whose depth is already one less, stand for both halves; frees nothing but directory nodes.
    /// Returns the bytes the directory shrank by.
    pub(crate) fn merge(&mut self, hash: u64, merged: Seg) -> isize {
        let depth = merged.depth();
        let (mut place, parent) = self.place(hash);
        self.fill(place, hash, depth, merged);
        let mut shrunk = 0;
        let Some(mut node) = place.node else {
            self.narrow_inline();
            return 0;
        };
        if depth + 1 == place.base + place.bits {
            node.set_full(node.full() - 2);
        }
        while node.full() == 0 {
            let bits = place.bits - 1;
            shrunk += node.bytes() as isize;
            if place.base == 0 && bits < TREE as u32 {
                let words: Vec<u64> = (0..1usize << bits).map(|i| node.get(2 * i)).collect();
                // SAFETY: the root's pointer to the node is replaced below.
                unsafe { node.free() };
                for (i, word) in words.into_iter().enumerate() {
                    self.set_word(i, word);
                }
                self.depth = bits as u8;
                self.narrow_inline();
                return shrunk;
            }
            if bits == 0 {
                let parent = parent.expect("a node with a base has a parent");
                self.set_at(parent, slice(hash, parent.base, parent.bits), node.get(0));
                // SAFETY: its only pointer was replaced just now.
                unsafe { node.free() };
                return shrunk;
            }
            let smaller = NodePtr::new(bits);
            let mut full = 0;
            for i in 0..1usize << bits {
                let word = node.get(2 * i);
                smaller.set(i, word);
                // SAFETY: a halved node has no children, so the words are segments.
                full += (unsafe { Seg::from_exposed(word) }.depth() == place.base + bits) as u32;
            }
            smaller.set_full(full);
            shrunk -= smaller.bytes() as isize;
            match parent {
                Some(p) => self.set_at(p, slice(hash, p.base, p.bits), smaller.to_word()),
                None => self.set_word(0, smaller.to_word()),
            }
            // SAFETY: its only pointer was replaced just now.
            unsafe { node.free() };
            node = smaller;
            place = Place { node: Some(node), bits, ..place };
        }
        shrunk
    }

    fn narrow_inline(&mut self) {
        while self.depth > 0 {
            let depth = self.depth as u32;
            // SAFETY: inline words below 1 << depth are live segments.
            let deep = (0..1 << depth).any(|i| unsafe { Seg::from_exposed(self.word(i)) }.depth() == depth);
            if deep {
                return;
            }
            for i in 0..1usize << (depth - 1) {
                let word = self.word(2 * i);
                self.set_word(i, word);
            }
            self.depth -= 1;
            for i in 1usize << self.depth..4 {
                self.set_word(i, 0);
            }
        }
    }

    /// Forgets the last segment of an empty table.
    pub(crate) fn clear_first(&mut self) {
        assert!(self.depth == 0);
        self.set_word(0, 0);
    }

    /// The segment at or after `from`, in hash order, and where its interval ends (`None`: at the end of the space).
    pub(crate) fn segment_from(&self, from: u64) -> Option<(Seg, Option<u64>)> {
        let seg = self.locate(from)?;
        let depth = seg.depth();
        if depth == 0 {
            return Some((seg, None));
        }
        let width = 1u64 << (64 - depth);
        Some((seg, (from & !(width - 1)).checked_add(width)))
    }

    /// Frees all nodes, calling `each` for every segment, which it takes over. The root is empty afterwards.
    /// Returns the bytes of the nodes.
    pub(crate) fn take_segments(&mut self, each: &mut dyn FnMut(Seg)) -> usize {
        let mut from = Some(0);
        let mut segments = Vec::new();
        while let Some(hash) = from {
            let Some((seg, next)) = self.segment_from(hash) else { break };
            segments.push(seg);
            from = next;
        }
        let mut bytes = 0;
        if self.depth >= TREE {
            bytes = free_nodes(self.word(0));
        }
        *self = Root::EMPTY;
        segments.into_iter().for_each(each);
        bytes
    }
}

fn free_nodes(word: u64) -> usize {
    if word & 1 == 0 {
        return 0;
    }
    // SAFETY: bit 0 marks a live node; its only pointer is being forgotten by the caller.
    unsafe {
        let node = NodePtr::from_word(word);
        let below: usize = if node.bits() < NODE_BITS {
            0
        } else {
            (0..1 << NODE_BITS).map(|i| free_nodes(node.get(i))).sum()
        };
        let bytes = node.bytes();
        node.free();
        bytes + below
    }
}
