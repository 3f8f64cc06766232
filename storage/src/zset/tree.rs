//! The big form of a sorted set: a B+tree of 1-KiB leaves, counts in the inner nodes, and an index from member to leaf.
//!
//! The index holds 32 hash bits and the leaf's number per member. That is all a split of the index needs; and as two members of one
//! leaf with the same 32 bits have equal entries, moving or removing either entry is right for both.
//! Separators are lower bounds: everything before a child is at most its separator, everything in it at least. Removals leave them as they are.
//! Invariants: leaves are chained in order; a child's count is the number of elements below it; every element has one index entry.

use super::arena::Arena;
use super::inner::{CHILDREN_MAX, Child, Inner};
use super::key::{Probe, encode};
use super::leaf::{Leaf, NONE};
use crate::hash::seeded;
use crate::hash::table::{Ahead, Slot, Table};
use crate::keyspace::ElementAhead;
use smallvec::SmallVec;
use std::cell::Cell;

/// Elements by (score, member), found by member too.
#[derive(Clone)]
pub struct Tree {
    pub(super) leaves: Arena<Leaf>,
    pub(super) inners: Arena<Inner>,
    pub(super) root: u32,
    /// Levels of inner nodes; 0: the root is a leaf.
    pub(super) height: usize,
    pub(super) index: Table<Place>,
    /// Bytes of all leaves' buffers.
    pub(super) leaf_bytes: usize,
}

/// The way from the root to a leaf: inner node and number of the child taken.
pub type Path = SmallVec<[(u32, u16); 8]>;

/// An index entry: 32 hash bits above, the leaf's number below.
#[derive(Clone, Copy)]
pub struct Place(u64);

impl Place {
    fn new(hash: u64, leaf: u32) -> Place {
        Place(hash >> 32 << 32 | u64::from(leaf))
    }

    /// The leaf's number.
    pub fn leaf(&self) -> u32 {
        self.0 as u32
    }
}

impl Slot for Place {
    const TAG_SHIFT: u32 = 32;

    #[inline]
    fn tag_of(hash: u64) -> u64 {
        hash >> 32
    }

    #[inline]
    fn word(&self) -> u64 {
        self.0
    }

    fn hash(&self, _: u64) -> u64 {
        self.0 >> 32 << 32
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Tree {
    /// An empty tree whose index is keyed with `seed`.
    pub fn new(seed: u64) -> Tree {
        let mut leaves = Arena::default();
        let root = leaves.add(Leaf::default());
        Tree { leaves, inners: Arena::default(), root, height: 0, index: Table::new(seed), leaf_bytes: 0 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes allocated; inner nodes are taken as three quarters full.
    pub fn heap_bytes(&self) -> usize {
        let inner = self.inners.live() * CHILDREN_MAX * 3 / 4 * size_of::<Child>();
        self.leaf_bytes
            + self.leaves.heap_bytes()
            + self.inners.heap_bytes()
            + inner
            + self.index.heap_bytes()
    }

    /// The hash of a member: its top half goes to the index, its low byte is the tag in the leaf.
    pub fn hash(&self, member: &[u8]) -> u64 {
        hash(self.index.seed(), member)
    }

    /// Leaf and number in the leaf of a member.
    pub fn find(&self, hash: u64, member: &[u8]) -> Option<(u32, usize)> {
        let found = Cell::new(0);
        let place = self.index.find(hash, |place| {
            let here = self.leaves.get(place.leaf()).find(hash as u8, member);
            found.set(here.unwrap_or(0));
            here.is_some()
        })?;
        Some((place.leaf(), found.get()))
    }

    /// Asks the CPU for what a look-up of a member will read, and for where a new score puts it, one step further at each
    /// call; whether there is another.
    pub(crate) fn prefetch(&self, member: &mut ElementAhead<'_>) -> bool {
        const IN_LEAF: u8 = u8::MAX;
        match member.step {
            0 => {
                member.hash = self.hash(member.element);
                member.goal = member.score.map(|score| self.goal(score, member.element));
            }
            IN_LEAF => {
                self.prefetch_in_leaf(member);
                return false;
            }
            _ => {}
        }
        match self.index.prefetch(member) {
            Ahead::Later => return true,
            Ahead::There(place) => {
                member.place = place.leaf();
                self.leaves.get_if(place.leaf()).into_iter().for_each(Leaf::prefetch_head);
            }
            Ahead::None => member.place = NONE,
        }
        member.step = IN_LEAF;
        member.place != NONE || member.goal.is_some()
    }

    /// The leaf where a member with this score belongs.
    fn goal(&self, score: f64, member: &[u8]) -> u32 {
        let goal = self.walk(&Probe::Element { score: encode(score), member }, |_, _, _| ());
        self.leaves.get(goal).prefetch_head();
        goal
    }

    fn prefetch_in_leaf(&self, member: &ElementAhead<'_>) {
        let leaf = self.leaves.get_if(member.place);
        let Some(goal) = member.goal else {
            return leaf.into_iter().for_each(|leaf| leaf.prefetch_element(member.hash as u8));
        };
        leaf.into_iter().chain(self.leaves.get_if(goal)).for_each(Leaf::prefetch_whole);
    }

    /// Encoded score of a member.
    pub fn score(&self, member: &[u8]) -> Option<u64> {
        let (leaf, i) = self.find(self.hash(member), member)?;
        Some(self.leaves.get(leaf).score(i))
    }

    /// Gives a member the score that `choose` makes of its present one (`None`: the member is new), unless it chooses none.
    /// Returns both.
    pub fn update(
        &mut self,
        member: &[u8],
        choose: impl FnOnce(Option<u64>) -> Option<u64>,
    ) -> (Option<u64>, Option<u64>) {
        let hash = self.hash(member);
        let Some((id, i)) = self.find(hash, member) else {
            let new = choose(None);
            if let Some(score) = new {
                self.add(score, member, hash, None);
            }
            return (None, new);
        };
        let old = self.leaves.get(id).score(i);
        let new = choose(Some(old));
        if let Some(score) = new
            && score != old
        {
            self.rescore((id, i), old, score, member, hash);
        }
        (Some(old), new)
    }

    /// Moves a member that stands at element `i` of a leaf to where its new score belongs.
    fn rescore(&mut self, (id, i): (u32, usize), old: u64, score: u64, member: &[u8], hash: u64) {
        let leaf = self.leaves.get_mut(id);
        let last = leaf.len() - 1;
        // Strictly between its neighbours it stays where it is; strictly within the scores of the leaf it stays there.
        let (low, high) = (leaf.score(0), leaf.score(last));
        if 0 < i && i < last && leaf.score(i - 1) < score && score < leaf.score(i + 1) {
            leaf.set_score(i, score);
        } else if low < score && score < high {
            self.change(id, |leaf| {
                leaf.remove(i);
                let at = leaf.position(&Probe::Element { score, member });
                leaf.insert(at, score, hash as u8, member);
            });
        } else {
            self.take_out((id, i), old, member);
            self.add(score, member, hash, Some(id));
        }
    }

    /// Removes a member and returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<u64> {
        let hash = self.hash(member);
        let (leaf, i) = self.find(hash, member)?;
        let score = self.leaves.get(leaf).score(i);
        let gone = self.index.remove(hash, |place| place.leaf() == leaf);
        assert!(gone.is_some(), "every element has an index entry");
        self.take_out((leaf, i), score, member);
        Some(score)
    }

    /// Enters an element. `moved_from`: its index entry is there and still says this leaf, which may be gone; entries
    /// that are equal stand for each other.
    fn add(&mut self, score: u64, member: &[u8], hash: u64, moved_from: Option<u32>) {
        assert!(self.len() < u32::MAX as usize, "counts have 32 bits");
        let probe = Probe::Element { score, member };
        let (path, id) = self.descend(&probe);
        let at = self.leaves.get(id).position(&probe);
        self.change(id, |leaf| leaf.insert(at, score, hash as u8, member));
        match moved_from {
            None => self.index.insert(hash, Place::new(hash, id)),
            Some(old) => self.replace_place(hash, old, id),
        }
        for &(inner, child) in &path {
            self.inners.get_mut(inner).count_more(child as usize, 1);
        }
        self.relieve(path, id, at);
    }

    fn replace_place(&mut self, hash: u64, from: u32, now: u32) {
        let moved =
            self.index.update(hash, |place| place.leaf() == from, |place| *place = Place::new(hash, now));
        assert!(moved.is_some(), "every element has an index entry");
    }

    /// Takes element `i` out of a leaf; its index entry is the caller's business.
    fn take_out(&mut self, (id, i): (u32, usize), score: u64, member: &[u8]) {
        let (path, found) = self.descend(&Probe::Element { score, member });
        assert!(found == id, "the index knows the member, so the tree holds it");
        self.change(id, |leaf| leaf.remove(i));
        for &(inner, child) in &path {
            self.inners.get_mut(inner).count_more(child as usize, -1);
        }
        self.settle(path, id);
    }

    /// Number of elements before a place.
    pub fn rank(&self, probe: &Probe<'_>) -> usize {
        let mut before = 0;
        let leaf = self.walk(probe, |inner, _, at| before += inner.count_before(at));
        before + self.leaves.get(leaf).position(probe)
    }

    /// Leaf and number in the leaf of the element with a rank. Panics beyond the last.
    pub fn at(&self, rank: usize) -> (u32, usize) {
        assert!(rank < self.len());
        (0..self.height).fold((self.root, rank), |(id, rank), _| self.inners.get(id).find_rank(rank))
    }

    /// The way to the leaf that a place is in.
    pub(super) fn descend(&self, probe: &Probe<'_>) -> (Path, u32) {
        let mut path = Path::new();
        let leaf = self.walk(probe, |_, id, at| path.push((id, at as u16)));
        (path, leaf)
    }

    /// Goes down to the leaf that a place is in. `visit` is told of each inner node, its number and that of the child taken.
    #[inline]
    fn walk(&self, probe: &Probe<'_>, mut visit: impl FnMut(&Inner, u32, usize)) -> u32 {
        let mut id = self.root;
        for level in (0..self.height).rev() {
            let inner = self.inners.get(id);
            let at = inner.position(probe, |child| self.first(child, level));
            visit(inner, id, at);
            id = inner.id(at);
        }
        id
    }

    /// The first element below a node that stands `level` above the leaves. Only the root leaf is ever empty.
    fn first(&self, mut id: u32, level: usize) -> (u64, &[u8]) {
        for _ in 0..level {
            id = self.inners.get(id).id(0);
        }
        let leaf = self.leaves.get(id);
        (leaf.score(0), leaf.member(0))
    }

    /// Changes a leaf and keeps the byte count.
    pub(super) fn change<R>(&mut self, id: u32, f: impl FnOnce(&mut Leaf) -> R) -> R {
        let leaf = self.leaves.get_mut(id);
        let before = leaf.heap_bytes();
        let result = f(leaf);
        self.leaf_bytes = self.leaf_bytes + leaf.heap_bytes() - before;
        result
    }

    /// Tells the index that elements `range` of leaf `now` have come from leaf `from`.
    pub(super) fn relocate(&mut self, range: std::ops::Range<usize>, from: u32, now: u32) {
        let leaf = self.leaves.get(now);
        let mut offset = leaf.offset(range.start);
        for i in range {
            let (member, next) = leaf.member_at(i, offset);
            let hash = hash(self.index.seed(), member);
            self.index
                .update(hash, |place| place.leaf() == from, |place| *place = Place::new(hash, now))
                .expect("every element has an index entry");
            offset = next;
        }
    }

    /// ZSCAN over the index; yields about `count` elements and returns the next cursor.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut f: impl FnMut(&'a [u8], u64)) -> u64 {
        self.index.scan(cursor, count, |place| {
            // The entry has only half of the hash; the tag is of the other half, so all members must be asked.
            let leaf = self.leaves.get(place.leaf());
            for i in 0..leaf.len() {
                let member = leaf.member(i);
                if place.may_be(self.hash(member)) {
                    f(member, leaf.score(i));
                }
            }
        })
    }

    /// The leaf behind or before a leaf.
    pub fn neighbours(&self, leaf: u32) -> (Option<u32>, Option<u32>) {
        let leaf = self.leaves.get(leaf);
        ((leaf.prev() != NONE).then_some(leaf.prev()), (leaf.next() != NONE).then_some(leaf.next()))
    }
}

fn hash(seed: u64, member: &[u8]) -> u64 {
    let hash = seeded::hash(seed, member);
    #[cfg(test)]
    let hash = hash & HASH_MASK.get();
    hash
}

#[cfg(test)]
thread_local! {
    /// Tests cut the hash, so that members collide in the index and in the tags.
    pub static HASH_MASK: Cell<u64> = const { Cell::new(u64::MAX) };
}
