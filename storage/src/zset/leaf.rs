//! A leaf of the sorted set's tree: about 1 KiB of elements in order, in one allocation.
//!
//! Layout for n elements: `[scores u64 x n][tags u8 x n][lengths u8 x n][members]`, ten bytes more than the member each.
//! A length of 255 says that the member stands behind a four-byte length of its own. Scores are encoded; a tag is the low byte of the member's hash.

use super::key::{Probe, Separator};

/// Bytes a leaf may hold before it must share or split. Larger only if it holds a single member.
pub const LEAF_BYTES_MAX: usize = 1024;
/// No neighbour: the end of the chain of leaves.
pub const NONE: u32 = u32::MAX;

const FIXED: usize = 10;
const LONG: u8 = 255;

/// Elements in order, and the numbers of the neighbouring leaves.
#[derive(Clone)]
pub struct Leaf {
    buf: Vec<u8>,
    n: u32,
    pub prev: u32,
    pub next: u32,
}

impl Default for Leaf {
    fn default() -> Leaf {
        Leaf { buf: Vec::new(), n: 0, prev: NONE, next: NONE }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // A kilobyte of the general allocator's, which takes as long as some objects of the slab.
        crate::pace::freed(4);
    }
}

impl Leaf {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.n as usize
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Bytes allocated.
    pub fn heap_bytes(&self) -> usize {
        self.buf.capacity()
    }

    /// Encoded score of element `i`.
    pub fn score(&self, i: usize) -> u64 {
        let bytes = self.buf[8 * i..].first_chunk().expect("a score has eight bytes");
        u64::from_le_bytes(*bytes)
    }

    /// Overwrites a score; the caller knows that the order stays.
    pub fn set_score(&mut self, i: usize, score: u64) {
        assert!(i < self.len());
        self.buf[8 * i..8 * i + 8].copy_from_slice(&score.to_le_bytes());
    }

    /// The member of element `i`.
    pub fn member(&self, i: usize) -> &[u8] {
        self.member_at(i, self.offset(i)).0
    }

    /// The member of element `i` whose bytes start at `offset`, and the offset of the next.
    pub fn member_at(&self, i: usize, offset: usize) -> (&[u8], usize) {
        let (from, len) = match self.lens()[i] {
            LONG => (offset + 4, self.long_len(offset)),
            short => (offset, short as usize),
        };
        (&self.buf[from..from + len], from + len)
    }

    /// Where the bytes of element `i` start.
    pub fn offset(&self, i: usize) -> usize {
        let lens = &self.lens()[..i];
        let start = FIXED * self.len();
        if !lens.contains(&LONG) {
            return start + lens.iter().map(|&l| l as usize).sum::<usize>();
        }
        lens.iter().fold(start, |at, &l| at + if l == LONG { 4 + self.long_len(at) } else { l as usize })
    }

    /// The element `member`, if it is here.
    pub fn find(&self, tag: u8, member: &[u8]) -> Option<usize> {
        let len = member.len().min(LONG as usize) as u8;
        let n = self.len();
        let tags = &self.buf[8 * n..9 * n];
        let lens = self.lens();
        (0..n).find(|&i| tags[i] == tag && lens[i] == len && self.member(i) == member)
    }

    /// Number of elements before a place.
    pub fn position(&self, probe: &Probe<'_>) -> usize {
        let n = self.len();
        let (mut from, mut to) = (0, n);
        if let Probe::Element { score, .. } | Probe::Score { score, .. } = *probe {
            // Scores decide all but a run of equal ones.
            from = partition(0, n, |i| self.score(i) < score);
            to = partition(from, n, |i| self.score(i) == score);
        }
        if let Probe::Score { is_behind, .. } = *probe {
            return if is_behind { to } else { from };
        }
        let mut offset = self.offset(from);
        for i in from..to {
            let (member, next) = self.member_at(i, offset);
            if !probe.is_below(self.score(i), member) {
                return i;
            }
            offset = next;
        }
        to
    }

    /// The separator in front of this leaf. Panics if it is empty.
    pub fn separator(&self) -> Separator {
        Separator::of(self.score(0), self.member(0))
    }

    /// Puts an element before element `i`.
    pub fn insert(&mut self, i: usize, score: u64, tag: u8, member: &[u8]) {
        let (n, at, old) = (self.len(), self.offset(i), self.bytes());
        let size = member_bytes(member.len());
        self.reserve(FIXED + size);
        self.buf.resize(old + FIXED + size, 0);
        let buf = &mut self.buf;
        buf.copy_within(at..old, at + FIXED + size);
        buf.copy_within(9 * n + i..at, 9 * n + i + 10);
        buf.copy_within(8 * n + i..9 * n + i, 8 * n + i + 9);
        buf.copy_within(8 * i..8 * n + i, 8 * i + 8);
        buf[8 * i..8 * i + 8].copy_from_slice(&score.to_le_bytes());
        buf[8 * (n + 1) + i] = tag;
        buf[9 * (n + 1) + i] = member.len().min(LONG as usize) as u8;
        let mut to = at + FIXED;
        if member.len() >= LONG as usize {
            let len = u32::try_from(member.len()).expect("members are below 4 GiB");
            buf[to..to + 4].copy_from_slice(&len.to_le_bytes());
            to += 4;
        }
        buf[to..to + member.len()].copy_from_slice(member);
        self.n += 1;
    }

    /// Removes element `i`.
    pub fn remove(&mut self, i: usize) {
        assert!(i < self.len());
        let (n, at, old) = (self.len(), self.offset(i), self.bytes());
        let (_, end) = self.member_at(i, at);
        let buf = &mut self.buf;
        buf.copy_within(8 * i + 8..8 * n + i, 8 * i);
        buf.copy_within(8 * n + i + 1..9 * n + i, 8 * n + i - 8);
        buf.copy_within(9 * n + i + 1..at, 9 * n + i - 9);
        buf.copy_within(end..old, at - FIXED);
        buf.truncate(old - FIXED - (end - at));
        self.n -= 1;
        if self.buf.capacity() > 2 * self.buf.len() + GRANULE {
            self.buf.shrink_to(self.buf.len().next_multiple_of(GRANULE));
        }
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
        let n = self.len();
        let cut = self.offset(at);
        let part = |from: usize, to: usize, bytes: &[u8]| {
            let mut leaf = Leaf::default();
            leaf.reserve(FIXED * (to - from) + bytes.len());
            for (width, start) in [(8, 0), (1, 8 * n), (1, 9 * n)] {
                leaf.buf.extend_from_slice(&self.buf[start + width * from..start + width * to]);
            }
            leaf.buf.extend_from_slice(bytes);
            leaf.n = (to - from) as u32;
            leaf
        };
        let mut left = part(0, at, &self.buf[FIXED * n..cut]);
        let right = part(at, n, &self.buf[cut..]);
        (self.buf, self.n) = (std::mem::take(&mut left.buf), left.n);
        right
    }

    /// Adds all elements of another leaf behind the last.
    pub fn append(&mut self, other: &Leaf) {
        let (n, m) = (self.len(), other.len());
        let mut both = Leaf::default();
        both.reserve(self.bytes() + other.bytes());
        for (width, i) in [(8, 0), (1, 8), (1, 9)] {
            both.buf.extend_from_slice(&self.buf[i * n..(i + width) * n]);
            both.buf.extend_from_slice(&other.buf[i * m..(i + width) * m]);
        }
        both.buf.extend_from_slice(&self.buf[FIXED * n..]);
        both.buf.extend_from_slice(&other.buf[FIXED * m..]);
        (self.buf, self.n) = (std::mem::take(&mut both.buf), self.n + other.n);
    }

    fn lens(&self) -> &[u8] {
        &self.buf[9 * self.len()..FIXED * self.len()]
    }

    fn long_len(&self, offset: usize) -> usize {
        let bytes = self.buf[offset..].first_chunk().expect("a long member has its length");
        u32::from_le_bytes(*bytes) as usize
    }

    fn reserve(&mut self, more: usize) {
        let need = self.buf.len() + more;
        if need > self.buf.capacity() {
            self.buf.reserve_exact(need.next_multiple_of(GRANULE) - self.buf.len());
        }
    }
}

/// Step of leaf allocations: the distance of the allocator's size classes between 512 and 1024.
const GRANULE: usize = 128;

fn member_bytes(len: usize) -> usize {
    if len < LONG as usize { len } else { 4 + len }
}

fn partition(mut from: usize, mut to: usize, is_left: impl Fn(usize) -> bool) -> usize {
    while from < to {
        let middle = from + (to - from) / 2;
        if is_left(middle) { from = middle + 1 } else { to = middle }
    }
    from
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
