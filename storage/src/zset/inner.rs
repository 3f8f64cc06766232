//! An inner node of the sorted set's tree: for each child a lower bound, its number and how many elements are below it.
//!
//! By columns in one allocation: `[scores x cap][prefixes x cap][links x cap]`. A descent compares scores alone, which stand
//! in six lines of a full node, until some are equal; a rank adds up the links before one.

use super::key::{Probe, Separator, prefix};
use std::ops::Range;

/// Children of a node: with 24 bytes each it is about as large as a leaf.
pub const CHILDREN_MAX: usize = 48;
/// Rooms a node grows through. One child more than may stay: it splits afterwards.
const ROOMS: [usize; 4] = [4, 12, 24, CHILDREN_MAX + 1];

/// One child of an inner node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    pub separator: Separator,
    pub id: u32,
    pub count: u32,
}

/// See the module's head. One without children allocates nothing.
#[derive(Clone, Default)]
pub struct Inner {
    columns: Box<[u64]>,
    len: usize,
}

impl Inner {
    pub fn new(children: &[Child]) -> Inner {
        let mut inner = Inner::default();
        children.iter().for_each(|child| inner.insert(inner.len, *child));
        inner
    }

    /// Number of children.
    pub fn len(&self) -> usize {
        self.len
    }

    fn room(&self) -> usize {
        self.columns.len() / 3
    }

    fn column(&self, column: usize) -> &[u64] {
        &self.columns[column * self.room()..][..self.len]
    }
    #[inline]
    fn scores(&self) -> &[u64] {
        &self.columns[..self.len]
    }
    #[inline]
    fn links(&self) -> &[u64] {
        self.column(2)
    }

    pub fn child(&self, i: usize) -> Child {
        let (id, count) = parts(self.links()[i]);
        Child { separator: Separator { score: self.scores()[i], prefix: self.column(1)[i] }, id, count }
    }

    /// The number of child `i`.
    #[inline]
    pub fn id(&self, i: usize) -> u32 {
        parts(self.links()[i]).0
    }

    /// The number of child `i`, if there are so many.
    pub fn get_id(&self, i: usize) -> Option<u32> {
        self.links().get(i).map(|link| parts(*link).0)
    }

    pub fn set(&mut self, i: usize, child: Child) {
        assert!(i < self.len);
        let room = self.room();
        self.columns[i] = child.separator.score;
        self.columns[room + i] = child.separator.prefix;
        self.columns[2 * room + i] = link(child.id, child.count);
    }

    /// Changes the number of elements below child `i`.
    #[inline]
    pub fn count_more(&mut self, i: usize, more: i32) {
        assert!(i < self.len);
        let at = 2 * self.room() + i;
        let (id, count) = parts(self.columns[at]);
        self.columns[at] = link(id, count.strict_add_signed(more));
    }

    /// Elements below all children.
    pub fn sum(&self) -> u32 {
        self.count_before(self.len) as u32
    }

    /// Elements below the first `i` children.
    #[inline]
    pub fn count_before(&self, i: usize) -> usize {
        self.links()[..i].iter().map(|link| link >> 32).sum::<u64>() as usize
    }

    /// The child that has the element with a rank, and its rank there. Panics beyond the last.
    pub fn find_rank(&self, mut rank: usize) -> (u32, usize) {
        for link in self.links() {
            let (id, count) = parts(*link);
            if rank < count as usize {
                return (id, rank);
            }
            rank -= count as usize;
        }
        panic!("a rank beyond the last element");
    }

    /// The child to look in for a place. `first` tells the first element of a child, where separators do not decide.
    #[inline]
    pub fn position<'a>(&self, probe: &Probe<'_>, first: impl Fn(u32) -> (u64, &'a [u8])) -> usize {
        // What is before all others is for the first child, whatever its separator.
        let behind = &self.scores()[1..];
        let (range, member) = match *probe {
            Probe::Score { score, is_behind: true } => return behind.partition_point(|s| *s <= score),
            Probe::Score { score, is_behind: false } => return behind.partition_point(|s| *s < score),
            Probe::Element { score, member } => {
                let from = behind.partition_point(|s| *s < score);
                // Scores tell nearly all apart.
                if behind.get(from) != Some(&score) {
                    return from;
                }
                let same = behind[from..].partition_point(|s| *s == score);
                (1 + from..1 + from + same, member)
            }
            Probe::Member { member, .. } => (1..self.len, member),
        };
        self.position_by_member(range, probe, member, first)
    }

    /// As [`Inner::position`], among children whose separators have one score.
    fn position_by_member<'a>(
        &self,
        range: Range<usize>,
        probe: &Probe<'_>,
        member: &[u8],
        first: impl Fn(u32) -> (u64, &'a [u8]),
    ) -> usize {
        let prefixes = &self.column(1)[range.clone()];
        let own = prefix(member);
        let from = prefixes.partition_point(|p| *p < own);
        let same = prefixes[from..].partition_point(|p| *p == own);
        let from = range.start + from;
        let undecided = &self.links()[from..from + same];
        from - 1
            + undecided.partition_point(|link| {
                let (score, member) = first(parts(*link).0);
                probe.is_at_or_behind(score, member)
            })
    }

    /// Puts a child before child `i`.
    pub fn insert(&mut self, i: usize, child: Child) {
        assert!(i <= self.len && self.len <= CHILDREN_MAX);
        if self.len == self.room() {
            let room =
                ROOMS.into_iter().find(|room| *room > self.len).expect("a node that is full was split");
            self.resize(room);
        }
        let (room, len) = (self.room(), self.len);
        for column in self.columns.chunks_exact_mut(room) {
            column.copy_within(i..len, i + 1);
        }
        self.len += 1;
        self.set(i, child);
    }

    pub fn remove(&mut self, i: usize) -> Child {
        let (child, room, len) = (self.child(i), self.room(), self.len);
        for column in self.columns.chunks_exact_mut(room) {
            column.copy_within(i + 1..len, i);
        }
        self.len -= 1;
        child
    }

    fn resize(&mut self, room: usize) {
        let mut columns = vec![0; 3 * room].into_boxed_slice();
        for (i, to) in columns.chunks_exact_mut(room).enumerate() {
            to[..self.len].copy_from_slice(self.column(i));
        }
        self.columns = columns;
    }

    fn children(&self) -> impl Iterator<Item = Child> + '_ {
        (0..self.len).map(|i| self.child(i))
    }

    /// All children, the first with the separator of the node itself: its own may say less.
    pub fn children_behind(&self, separator: Separator) -> impl Iterator<Item = Child> + '_ {
        self.children().enumerate().map(move |(i, child)| match i {
            0 => Child { separator, ..child },
            _ => child,
        })
    }

    /// Cuts the node in two before child `at`.
    pub fn split_off(&mut self, at: usize) -> Inner {
        let tail: Vec<Child> = self.children().skip(at).collect();
        self.len = at;
        Inner::new(&tail)
    }

    /// Adds children behind the last.
    pub fn append(&mut self, children: impl Iterator<Item = Child>) {
        children.for_each(|child| self.insert(self.len, child));
    }
}

#[inline]
fn link(id: u32, count: u32) -> u64 {
    u64::from(count) << 32 | u64::from(id)
}
#[inline]
fn parts(link: u64) -> (u32, u32) {
    (link as u32, (link >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn child(n: u32) -> Child {
        Child { separator: Separator { score: u64::from(n) / 3, prefix: u64::from(n) }, id: n, count: n % 5 }
    }

    proptest! {
        #[test]
        fn behaves_as_a_vec(ops in prop::collection::vec((0..5u8, any::<usize>(), 0..1000u32), 1..200)) {
            let (mut inner, mut model) = (Inner::default(), Vec::new());
            for (op, at, n) in ops {
                match op {
                    0 if !model.is_empty() => {
                        prop_assert_eq!(inner.remove(at % model.len()), model.remove(at % model.len()));
                    }
                    1 => {
                        let tail = inner.split_off(at % (model.len() + 1));
                        inner.append(tail.children());
                    }
                    2 if !model.is_empty() => {
                        let at = at % model.len();
                        inner.count_more(at, 7);
                        model[at].count += 7;
                    }
                    _ if model.len() <= CHILDREN_MAX => {
                        let at = at % (model.len() + 1);
                        inner.insert(at, child(n));
                        model.insert(at, child(n));
                    }
                    _ => {}
                }
                prop_assert_eq!(inner.children().collect::<Vec<_>>(), model.clone());
                prop_assert_eq!(inner.sum(), model.iter().map(|c| c.count).sum::<u32>());
            }
        }
    }
}
