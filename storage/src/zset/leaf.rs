//! A leaf of the sorted set's tree: about 1 KiB of elements in order, in one allocation behind a thin pointer.
//!
//! Layout for n elements: `[n u32][prev u32][next u32]`, then `[tags u8 x n][lengths u8 x n][scores u64 x n][members]`, ten
//! bytes more than the member each. What a look-up reads first stands first: with the length of the allocation, it is in
//! the first two lines. A length of 255 says that the member stands behind a four-byte length of its own. Scores are
//! encoded; a tag is the low byte of the member's hash.

use super::key::{Probe, Separator};
use crate::segment::prefetch;
use crate::thin::Bytes;

/// Bytes of elements a leaf may hold before it must share or split: what fits an allocation of 1 KiB. Larger only if it
/// holds a single member.
pub const LEAF_BYTES_MAX: usize = 1024 - 4 - HEADER;
/// No neighbour: the end of the chain of leaves.
pub const NONE: u32 = u32::MAX;

const HEADER: usize = 12;
const FIXED: usize = 10;
const LONG: u8 = 255;

/// Elements in order, and the numbers of the neighbouring leaves. One without elements allocates nothing, unless it has
/// neighbours.
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct Leaf(Bytes);

impl Leaf {
    fn with_bytes(bytes: usize, n: usize) -> Leaf {
        let mut leaf = Leaf(Bytes::zeroed(HEADER + bytes));
        leaf.set_number(0, n as u32);
        leaf.set_neighbours(NONE, NONE);
        leaf
    }

    #[inline]
    fn number(&self, index: usize) -> Option<u32> {
        self.0.get().get(4 * index..)?.first_chunk().map(|n| u32::from_le_bytes(*n))
    }
    fn set_number(&mut self, index: usize, number: u32) {
        self.0.get_mut()[4 * index..4 * index + 4].copy_from_slice(&number.to_le_bytes());
    }

    /// Number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.number(0).unwrap_or(0) as usize
    }
    /// Number of the leaf before this one.
    pub fn prev(&self) -> u32 {
        self.number(1).unwrap_or(NONE)
    }
    /// Number of the leaf behind this one.
    pub fn next(&self) -> u32 {
        self.number(2).unwrap_or(NONE)
    }
    pub fn set_prev(&mut self, prev: u32) {
        self.set_neighbours(prev, self.next());
    }
    pub fn set_next(&mut self, next: u32) {
        self.set_neighbours(self.prev(), next);
    }
    pub fn set_neighbours(&mut self, prev: u32, next: u32) {
        if self.0.len() == 0 {
            if (prev, next) == (NONE, NONE) {
                return;
            }
            self.0 = Bytes::zeroed(HEADER);
        }
        self.set_number(1, prev);
        self.set_number(2, next);
    }

    #[inline]
    fn body(&self) -> &[u8] {
        self.0.get().get(HEADER..).unwrap_or(&[])
    }

    #[inline]
    fn parts(&self) -> Parts<'_> {
        let body = self.body();
        let n = self.len();
        let (tags, rest) = body.split_at(n);
        let (lens, rest) = rest.split_at(n);
        Parts { tags, lens, scores: rest[..8 * n].as_chunks().0, body }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.body().len()
    }

    /// Bytes allocated.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    /// Asks the CPU for what a look-up reads first.
    #[inline]
    pub fn prefetch_head(&self) {
        prefetch(self.0.start());
        prefetch(self.0.start().wrapping_add(64));
    }

    /// Asks the CPU for the score and the member with this tag, once the head is there.
    #[inline]
    pub fn prefetch_element(&self, tag: u8) {
        let parts = self.parts();
        if let Some(i) = memchr::memchr(tag, parts.tags) {
            prefetch(parts.scores.as_ptr().wrapping_add(i).cast());
            prefetch(parts.body.as_ptr().wrapping_add(parts.offset(i)));
        }
    }

    /// Asks the CPU for all of it, once the head is there: a change moves half of it.
    #[inline]
    pub fn prefetch_whole(&self) {
        for at in (128..self.0.len() + 4).step_by(64) {
            prefetch(self.0.start().wrapping_add(at));
        }
    }

    /// Encoded score of element `i`.
    #[inline]
    pub fn score(&self, i: usize) -> u64 {
        u64::from_le_bytes(self.parts().scores[i])
    }

    /// Overwrites a score; the caller knows that the order stays.
    pub fn set_score(&mut self, i: usize, score: u64) {
        let n = self.len();
        assert!(i < n);
        let at = HEADER + 2 * n + 8 * i;
        self.0.get_mut()[at..at + 8].copy_from_slice(&score.to_le_bytes());
    }

    /// The member of element `i`.
    pub fn member(&self, i: usize) -> &[u8] {
        let parts = self.parts();
        parts.member_at(i, parts.offset(i)).0
    }

    /// The member of element `i` whose bytes start at `offset`, and the offset of the next.
    #[inline]
    pub fn member_at(&self, i: usize, offset: usize) -> (&[u8], usize) {
        self.parts().member_at(i, offset)
    }

    /// Where the bytes of element `i` start.
    pub fn offset(&self, i: usize) -> usize {
        self.parts().offset(i)
    }

    /// The element `member`, if it is here.
    #[inline]
    pub fn find(&self, tag: u8, member: &[u8]) -> Option<usize> {
        let len = member.len().min(LONG as usize) as u8;
        let parts = self.parts();
        let is_it = |i: &usize| parts.lens[*i] == len && parts.member_at(*i, parts.offset(*i)).0 == member;
        memchr::memchr_iter(tag, parts.tags).find(is_it)
    }

    /// Number of elements before a place.
    pub fn position(&self, probe: &Probe<'_>) -> usize {
        let parts = self.parts();
        let mut range = 0..parts.tags.len();
        if let Probe::Element { score, .. } | Probe::Score { score, .. } = *probe {
            let is_below = |s: &[u8; 8]| u64::from_le_bytes(*s) < score;
            let is_same = |s: &[u8; 8]| u64::from_le_bytes(*s) == score;
            // Scores decide all but a run of equal ones.
            range.start = parts.scores.partition_point(is_below);
            if !parts.scores.get(range.start).is_some_and(is_same) {
                return range.start;
            }
            range.end = range.start + parts.scores[range.start..].partition_point(is_same);
        }
        if let Probe::Score { is_behind, .. } = *probe {
            return if is_behind { range.end } else { range.start };
        }
        let mut offset = parts.offset(range.start);
        for i in range.clone() {
            let (member, next) = parts.member_at(i, offset);
            if !probe.is_below(u64::from_le_bytes(parts.scores[i]), member) {
                return i;
            }
            offset = next;
        }
        range.end
    }

    /// The separator in front of this leaf. Panics if it is empty.
    pub fn separator(&self) -> Separator {
        Separator::of(self.score(0), self.member(0))
    }

    /// Puts an element before element `i`.
    pub fn insert(&mut self, i: usize, score: u64, tag: u8, member: &[u8]) {
        let (n, at, old) = (self.len(), self.offset(i), self.bytes());
        let size = member_bytes(member.len());
        if self.0.len() == 0 {
            *self = Leaf::with_bytes(FIXED + size, 0);
        } else {
            self.0.splice(HEADER + old, 0, FIXED + size);
        }
        self.set_number(0, n as u32 + 1);
        let buf = &mut self.0.get_mut()[HEADER..];
        buf.copy_within(at..old, at + FIXED + size);
        buf.copy_within(2 * n + 8 * i..at, 2 * n + 8 * i + FIXED);
        buf.copy_within(n + i..2 * n + 8 * i, n + i + 2);
        buf.copy_within(i..n + i, i + 1);
        buf[i] = tag;
        buf[n + 1 + i] = member.len().min(LONG as usize) as u8;
        let score_at = 2 * (n + 1) + 8 * i;
        buf[score_at..score_at + 8].copy_from_slice(&score.to_le_bytes());
        let mut to = at + FIXED;
        if member.len() >= LONG as usize {
            let len = u32::try_from(member.len()).expect("members are below 4 GiB");
            buf[to..to + 4].copy_from_slice(&len.to_le_bytes());
            to += 4;
        }
        buf[to..to + member.len()].copy_from_slice(member);
    }

    /// Removes element `i`.
    pub fn remove(&mut self, i: usize) {
        assert!(i < self.len());
        let (n, at, old) = (self.len(), self.offset(i), self.bytes());
        let (_, end) = self.member_at(i, at);
        self.set_number(0, n as u32 - 1);
        let buf = &mut self.0.get_mut()[HEADER..];
        buf.copy_within(i + 1..n + i, i);
        buf.copy_within(n + i + 1..2 * n + 8 * i, n + i - 1);
        buf.copy_within(2 * n + 8 * i + 8..at, 2 * n + 8 * i - 2);
        buf.copy_within(end..old, at - FIXED);
        let less = FIXED + end - at;
        self.0.splice(HEADER + old - less, less, 0);
    }

    /// Number of elements that make up about half of the bytes: at least one, and not all, of two or more.
    pub fn middle(&self) -> usize {
        let (mut offset, mut sum) = (self.offset(0), 0);
        for i in 0..self.len() {
            let (_, next) = self.member_at(i, offset);
            sum += FIXED + next - offset;
            if 2 * sum >= self.bytes() {
                return (i + 1).clamp(1, self.len() - 1);
            }
            offset = next;
        }
        self.len() / 2
    }

    /// Cuts the leaf in two before element `at`. The second part has no neighbours yet.
    pub fn split_off(&mut self, at: usize) -> Leaf {
        let (n, cut) = (self.len(), self.offset(at));
        let body = self.body();
        let part = |from: usize, to: usize, bytes: &[u8]| {
            let mut leaf = Leaf::with_bytes(FIXED * (to - from) + bytes.len(), to - from);
            let parts = [&body[from..to], &body[n + from..n + to], &body[2 * n + 8 * from..2 * n + 8 * to]];
            leaf.fill(parts.into_iter().chain([bytes]));
            leaf
        };
        let mut left = part(0, at, &body[FIXED * n..cut]);
        let right = part(at, n, &body[cut..]);
        left.set_neighbours(self.prev(), self.next());
        *self = left;
        right
    }

    /// Adds all elements of another leaf behind the last.
    pub fn append(&mut self, other: &Leaf) {
        let (n, m) = (self.len(), other.len());
        let (a, b) = (self.body(), other.body());
        let mut both = Leaf::with_bytes(a.len() + b.len(), n + m);
        let spans = [(0, 1), (1, 2), (2, FIXED)];
        both.fill(
            spans
                .into_iter()
                .flat_map(|(from, to)| [&a[from * n..to * n], &b[from * m..to * m]])
                .chain([&a[FIXED * n..], &b[FIXED * m..]]),
        );
        both.set_neighbours(self.prev(), self.next());
        *self = both;
    }

    /// Fills the body with parts that are as long together.
    fn fill<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) {
        let mut rest = &mut self.0.get_mut()[HEADER..];
        for part in parts {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
        assert!(rest.is_empty());
    }
}

/// What a leaf's body is made of. Offsets are from the start of the body.
#[derive(Clone, Copy)]
struct Parts<'a> {
    tags: &'a [u8],
    lens: &'a [u8],
    scores: &'a [[u8; 8]],
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    #[inline]
    fn member_at(self, i: usize, offset: usize) -> (&'a [u8], usize) {
        let (from, len) = match self.lens[i] {
            LONG => (offset + 4, self.long_len(offset)),
            short => (offset, short as usize),
        };
        (&self.body[from..from + len], from + len)
    }

    #[inline]
    fn offset(self, i: usize) -> usize {
        FIXED * self.lens.len() + self.short_lens(i).unwrap_or_else(|| self.all_lens(i))
    }

    /// Bytes of the first `i` members.
    #[cold]
    fn all_lens(self, i: usize) -> usize {
        let start = FIXED * self.lens.len();
        let end = self.lens[..i]
            .iter()
            .fold(start, |at, &l| at + if l == LONG { 4 + self.long_len(at) } else { l as usize });
        end - start
    }

    /// Sum of the first `i` lengths, eight at a time; `None` if one of them is LONG.
    #[inline]
    fn short_lens(self, i: usize) -> Option<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const EVENS: u64 = 0x00ff_00ff_00ff_00ff;
        // Behind the lengths stand eight bytes of score for each: the last word is whole as well.
        let words = self.body[self.tags.len()..].as_chunks::<8>().0;
        let (mut lanes, mut long) = (0u64, 0);
        let mut add = |word: u64| {
            // Four sums of sixteen bits: a leaf of short members has less than 2^16 bytes.
            lanes += (word & EVENS) + (word >> 8 & EVENS);
            long |= (!word).wrapping_sub(ONES) & word;
        };
        let (whole, rest) = (i / 8, i % 8);
        words[..whole].iter().for_each(|word| add(u64::from_le_bytes(*word)));
        if rest > 0 {
            add(u64::from_le_bytes(words[whole]) & ((1 << (8 * rest)) - 1));
        }
        let is_short = long & (ONES << 7) == 0;
        is_short.then(|| (lanes.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize)
    }

    fn long_len(self, offset: usize) -> usize {
        let bytes = self.body[offset..].first_chunk().expect("a long member has its length");
        u32::from_le_bytes(*bytes) as usize
    }
}

fn member_bytes(len: usize) -> usize {
    if len < LONG as usize { len } else { 4 + len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_vec(ops in prop::collection::vec((0..4u8, any::<usize>(), prop_oneof![0..9usize, 250..260usize]), 1..80)) {
            let (mut leaf, mut model) = (Leaf::default(), Vec::<(u64, u8, Vec<u8>)>::new());
            for (op, i, size) in ops {
                match op {
                    0 if !model.is_empty() => { let i = i % model.len(); leaf.remove(i); model.remove(i); }
                    1 => {
                        let tail = leaf.split_off(i % (model.len() + 1));
                        leaf.append(&tail);
                    }
                    _ => {
                        let i = i % (model.len() + 1);
                        let element = (i as u64 * 3, size as u8, vec![size as u8; size]);
                        leaf.insert(i, element.0, element.1, &element.2);
                        model.insert(i, element);
                    }
                }
                prop_assert_eq!(leaf.len(), model.len());
                for (i, (score, tag, member)) in model.iter().enumerate() {
                    prop_assert_eq!((leaf.score(i), leaf.member(i)), (*score, &member[..]));
                    prop_assert_eq!(leaf.find(*tag, member), model.iter().position(|m| m.2 == *member));
                }
            }
        }
    }
}
