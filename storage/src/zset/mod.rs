//! Sorted sets: packed (member, score) pairs in order while small, then a B+tree with a member index.
//!
//! Every range, by score, by member or by rank, is a range of ranks: `rank_of_score` and `rank_of_member` turn bounds into ranks,
//! and `range` walks them from either end.

mod arena;
mod balance;
mod inner;
mod key;
mod leaf;
mod range;
mod tree;

use crate::keyspace::ElementAhead;
use crate::packed::{PACKED_BYTES_MAX, Packed};
use crate::slab::class_size;
use crate::thin::{Small, View, ViewMut, Word};
use crate::thresholds::Thresholds;
use key::{Probe, decode, encode};
pub use range::Range;
use tree::Tree;

/// Members with scores, ordered by score, then by member.
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct ZSet {
    /// Packed: member, encoded score (eight bytes), member ...
    word: Word<Packed, Tree>,
}

impl ZSet {
    /// An empty sorted set; allocates nothing.
    pub fn new() -> ZSet {
        ZSet::default()
    }

    /// The name OBJECT ENCODING gives: `listpack` or `skiplist`.
    pub fn encoding(&self) -> &'static str {
        match self.word.view() {
            View::Small(_) => "listpack",
            View::Big(_) => "skiplist",
        }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        match self.word.view() {
            View::Small(packed) => packed.len() / 2,
            View::Big(tree) => tree.len(),
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated beyond the eight of the value itself.
    pub fn heap_bytes(&self) -> usize {
        match self.word.view() {
            View::Small(packed) => packed.heap_bytes(),
            View::Big(tree) => class_size(size_of::<Tree>()) + tree.heap_bytes(),
        }
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        let encoded = match self.word.view() {
            View::Small(packed) => find(packed, member).map(|found| found.score),
            View::Big(tree) => tree.score(member),
        };
        encoded.map(decode)
    }

    /// Sets the score of a member and returns its old one; `None`: the member is new. Panics on NaN. -0 is stored as 0.
    pub fn insert(&mut self, member: &[u8], score: f64, thresholds: &Thresholds) -> Option<f64> {
        self.update(member, thresholds, |_| Some(score)).0
    }

    /// Gives a member the score that `choose` makes of its present one (`None`: the member is new), unless it chooses none.
    /// Returns both. Panics on NaN. -0 is stored as 0.
    pub fn update(
        &mut self,
        member: &[u8],
        thresholds: &Thresholds,
        choose: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> (Option<f64>, Option<f64>) {
        let choose = |old: Option<u64>| choose(old.map(decode)).map(encode);
        let (old, new) = match self.word.view_mut() {
            ViewMut::Big(tree) => tree.update(member, choose),
            ViewMut::Small(packed) => {
                let found = find(packed, member);
                let old = found.as_ref().map(|found| found.score);
                let new = choose(old);
                if let Some(score) = new
                    && old != new
                {
                    if let Some(found) = &found {
                        packed.remove_pair(found.at);
                    }
                    let fits = packed.len() / 2 < thresholds.zset_max_listpack_entries
                        && member.len() <= thresholds.zset_max_listpack_value
                        && packed.bytes() + member.len() <= PACKED_BYTES_MAX;
                    if found.is_some() || fits {
                        put(packed, member, score);
                    } else {
                        self.convert(thresholds.hash_seed);
                        let ViewMut::Big(tree) = self.word.view_mut() else {
                            unreachable!("converted above")
                        };
                        tree.update(member, |_| new);
                    }
                }
                (old, new)
            }
        };
        (old.map(decode), new.map(decode))
    }

    /// Removes a member and returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let score = match self.word.view_mut() {
            ViewMut::Small(packed) => {
                let found = find(packed, member)?;
                packed.remove_pair(found.at);
                found.score
            }
            ViewMut::Big(tree) => tree.remove(member)?,
        };
        Some(decode(score))
    }

    /// Number of members before this one.
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        match self.word.view() {
            View::Small(packed) => find(packed, member).map(|found| found.rank),
            View::Big(tree) => {
                let score = tree.score(member)?;
                Some(tree.rank(&Probe::Element { score, member }))
            }
        }
    }

    /// Number of members whose score is below `score`, or not above it if `or_equal`. Panics on NaN.
    pub fn rank_of_score(&self, score: f64, or_equal: bool) -> usize {
        self.rank_of(&Probe::Score { score: encode(score), is_behind: or_equal })
    }

    /// Number of members that are less than `member`, or equal to it if `or_equal`, in a set whose scores are all equal.
    /// With differing scores some rank is returned.
    pub fn rank_of_member(&self, member: &[u8], or_equal: bool) -> usize {
        self.rank_of(&Probe::Member { member, is_behind: or_equal })
    }

    fn rank_of(&self, probe: &Probe<'_>) -> usize {
        match self.word.view() {
            View::Small(packed) => pairs(packed).take_while(|(m, s)| probe.is_below(*s, m)).count(),
            View::Big(tree) => tree.rank(probe),
        }
    }

    /// The member with a rank, and its score.
    pub fn at(&self, rank: usize) -> Option<(&[u8], f64)> {
        self.range(rank, rank.saturating_add(1)).next()
    }

    /// A member drawn evenly by a random number. `None`: the set is empty.
    pub fn random(&self, rand: u64) -> Option<(&[u8], f64)> {
        self.at((rand % self.len().max(1) as u64) as usize)
    }

    /// The members with ranks `start..end` and their scores, in order, from either end.
    pub fn range(&self, start: usize, end: usize) -> Range<'_> {
        let end = end.min(self.len());
        match self.word.view() {
            View::Small(packed) => Range::packed(packed, start.min(end), end),
            View::Big(tree) => Range::tree(tree, start.min(end), end),
        }
    }

    /// All members with their scores in order, from either end.
    pub fn iter(&self) -> Range<'_> {
        self.range(0, self.len())
    }

    /// Removes the members with ranks `start..end`, passing each to `f` before. Returns how many there were.
    pub fn remove_range(&mut self, start: usize, end: usize, f: &mut dyn FnMut(&[u8], f64)) -> usize {
        let count = end.min(self.len()).saturating_sub(start);
        let mut member = Vec::new();
        for _ in 0..count {
            let (bytes, score) = self.at(start).expect("below the length");
            f(bytes, score);
            member.clear();
            member.extend_from_slice(bytes);
            self.remove(&member);
        }
        count
    }

    /// ZSCAN: yields about `count` members from `cursor` on and returns the next cursor, 0 at the end. A packed set is yielded whole.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, f: &mut dyn FnMut(&'a [u8], f64)) -> u64 {
        match self.word.view() {
            View::Small(_) => {
                self.iter().for_each(|(member, score)| f(member, score));
                0
            }
            View::Big(tree) => tree.scan(cursor, count, |member, score| f(member, decode(score))),
        }
    }

    /// Asks the CPU for what a look-up of a member will read, one step further at each call; whether there is another.
    #[inline]
    pub(crate) fn prefetch(&self, member: &mut ElementAhead<'_>) -> bool {
        match self.word.view() {
            View::Small(packed) => {
                packed.prefetch();
                false
            }
            View::Big(tree) => tree.prefetch(member),
        }
    }

    /// Moves what small sorted sets hold out of spans that are being emptied.
    pub(crate) fn leave_span(&mut self) {
        self.word.leave_span();
    }

    fn convert(&mut self, seed: u64) {
        let View::Small(packed) = self.word.view() else { return };
        let mut tree = Box::new(Tree::new(seed));
        for (member, score) in pairs(packed) {
            tree.update(member, |_| Some(score));
        }
        self.word = Word::big(tree);
    }
}

struct Found {
    /// Position of the member in the packed form.
    at: usize,
    rank: usize,
    score: u64,
}

fn find(packed: &Packed, member: &[u8]) -> Option<Found> {
    let mut iter = packed.iter();
    for rank in 0.. {
        let at = iter.position();
        let here = iter.next()?;
        let score = packed_score(iter.next()?);
        if here == member {
            return Some(Found { at, rank, score });
        }
    }
    None
}

/// Enters a pair where it belongs; the member is not there.
fn put(packed: &mut Packed, member: &[u8], score: u64) {
    let probe = Probe::Element { score, member };
    let mut iter = packed.iter();
    let mut at = 0;
    while let (Some(m), Some(s)) = (iter.next(), iter.next()) {
        if !probe.is_below(packed_score(s), m) {
            break;
        }
        at = iter.position();
    }
    packed.insert_pair(at, member, &score.to_le_bytes());
}

fn packed_score(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |all| u64::from_le_bytes(*all))
}

fn pairs(packed: &Packed) -> impl Iterator<Item = (&[u8], u64)> {
    let mut iter = packed.iter();
    std::iter::from_fn(move || Some((iter.next()?, packed_score(iter.next()?))))
}

#[cfg(test)]
mod tests;
