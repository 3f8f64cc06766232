//! Sorted integers of 16, 32 or 64 bits in one allocation behind a thin pointer: sets whose members are all integers.
//!
//! `[width u32]`, then the integers, little-endian and ascending. The width is that of the widest value ever held, as in
//! Redis; it never narrows.

use crate::thin::{Bytes, Small};

const HEADER: usize = 4;

/// A sorted set of integers.
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct IntSet(Bytes);

// SAFETY: transparent.
unsafe impl Small for IntSet {
    fn leave_span(&mut self) {
        self.0.leave_span();
    }
    fn start(&self) -> *const u8 {
        self.0.start()
    }
}

impl IntSet {
    /// An empty set; allocates nothing.
    pub fn new() -> IntSet {
        IntSet::default()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        // Widths are powers of two.
        self.cells().len() >> self.width().trailing_zeros()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.cells().is_empty()
    }

    /// Bytes per member: 2, 4 or 8.
    pub fn width(&self) -> usize {
        self.0.get().first().map_or(2, |width| *width as usize)
    }

    /// Bytes allocated.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    fn cells(&self) -> &[u8] {
        self.0.get().get(HEADER..).unwrap_or(&[])
    }

    /// The member with number `index` in ascending order.
    pub fn get(&self, index: usize) -> Option<i64> {
        let (width, cells) = (self.width(), self.cells());
        let cell = cells.get(index.checked_mul(width)?..)?;
        Some(match width {
            2 => i64::from(i16::from_le_bytes(*cell.first_chunk()?)),
            4 => i64::from(i32::from_le_bytes(*cell.first_chunk()?)),
            _ => i64::from_le_bytes(*cell.first_chunk()?),
        })
    }

    /// Whether a value is a member.
    pub fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// Adds a value; `false` if it was there.
    pub fn insert(&mut self, value: i64) -> bool {
        let Err(at) = self.search(value) else { return false };
        let need = width_of(value);
        if self.is_empty() {
            self.0 = Bytes::zeroed(HEADER);
            self.0.get_mut()[0] = need as u8;
        } else if need > self.width() {
            self.widen(need);
        }
        let width = self.width();
        let from = HEADER + at * width;
        self.0.splice(from, 0, width);
        self.0.get_mut()[from..from + width].copy_from_slice(&value.to_le_bytes()[..width]);
        true
    }

    /// Removes a value; `false` if it was not there.
    pub fn remove(&mut self, value: i64) -> bool {
        let Ok(at) = self.search(value) else { return false };
        let width = self.width();
        self.0.splice(HEADER + at * width, width, 0);
        true
    }

    /// All members, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator + '_ {
        (0..self.len()).map(|i| self.get(i).expect("below the length"))
    }

    fn search(&self, value: i64) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from + (to - from) / 2;
            match self.get(middle).expect("below the length").cmp(&value) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(from)
    }

    fn widen(&mut self, width: usize) {
        let mut wide = Bytes::zeroed(HEADER + self.len() * width);
        wide.get_mut()[0] = width as u8;
        for (cell, value) in wide.get_mut()[HEADER..].chunks_exact_mut(width).zip(self.iter()) {
            cell.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        self.0 = wide;
    }
}

/// Bytes that a value needs.
fn width_of(value: i64) -> usize {
    match () {
        () if i16::try_from(value).is_ok() => 2,
        () if i32::try_from(value).is_ok() => 4,
        () => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn widens_with_its_values_and_stays_wide() {
        let mut set = IntSet::new();
        for (value, width) in [(1, 2), (32_767, 2), (32_768, 4), (-2_147_483_649, 8), (5, 8)] {
            set.insert(value);
            assert_eq!(set.width(), width, "after {value}");
        }
        assert!(set.remove(-2_147_483_649));
        assert_eq!((set.width(), set.iter().collect::<Vec<_>>()), (8, vec![1, 5, 32_767, 32_768]));
    }

    proptest! {
        #[test]
        fn behaves_as_a_btree_set(ops in prop::collection::vec((any::<bool>(), prop_oneof![-9..9i64, any::<i64>()]), 1..300)) {
            let (mut set, mut model) = (IntSet::new(), BTreeSet::new());
            for (add, value) in ops {
                if add {
                    prop_assert_eq!(set.insert(value), model.insert(value));
                } else {
                    prop_assert_eq!(set.remove(value), model.remove(&value));
                }
                prop_assert_eq!(set.contains(value), add);
                prop_assert!(set.iter().eq(model.iter().copied()));
            }
        }
    }
}
