//! Sorted integers in one array of 16, 32 or 64-bit elements: sets whose members are all integers.
//!
//! The width is that of the widest value ever held, as in Redis; it never narrows.

/// A sorted set of integers.
#[derive(Clone)]
pub struct IntSet {
    cells: Cells,
}

#[derive(Clone)]
enum Cells {
    W16(Vec<i16>),
    W32(Vec<i32>),
    W64(Vec<i64>),
}

impl Default for IntSet {
    fn default() -> IntSet {
        IntSet { cells: Cells::W16(Vec::new()) }
    }
}

macro_rules! each {
    ($self:expr, $v:ident => $e:expr) => {
        match $self {
            Cells::W16($v) => $e,
            Cells::W32($v) => $e,
            Cells::W64($v) => $e,
        }
    };
}

impl IntSet {
    /// An empty set; allocates nothing.
    pub fn new() -> IntSet {
        IntSet::default()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        each!(&self.cells, v => v.len())
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes per member: 2, 4 or 8.
    pub fn width(&self) -> usize {
        match self.cells {
            Cells::W16(_) => 2,
            Cells::W32(_) => 4,
            Cells::W64(_) => 8,
        }
    }

    /// Bytes allocated.
    pub fn heap_bytes(&self) -> usize {
        each!(&self.cells, v => v.capacity()) * self.width()
    }

    /// The member with number `index` in ascending order.
    #[allow(clippy::useless_conversion)] // one of the three widths is i64
    pub fn get(&self, index: usize) -> Option<i64> {
        each!(&self.cells, v => v.get(index).map(|&x| i64::from(x)))
    }

    /// Whether a value is a member.
    pub fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// Adds a value; `false` if it was there.
    pub fn insert(&mut self, value: i64) -> bool {
        let Err(at) = self.search(value) else { return false };
        self.widen(value);
        match &mut self.cells {
            Cells::W16(v) => insert_exact(v, at, value as i16),
            Cells::W32(v) => insert_exact(v, at, value as i32),
            Cells::W64(v) => insert_exact(v, at, value),
        }
        true
    }

    /// Removes a value; `false` if it was not there.
    pub fn remove(&mut self, value: i64) -> bool {
        let Ok(at) = self.search(value) else { return false };
        each!(&mut self.cells, v => {
            v.remove(at);
            if v.len() < v.capacity() / 2 {
                v.shrink_to(v.len() + v.len() / 8);
            }
        });
        true
    }

    /// All members, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator + '_ {
        (0..self.len()).map(|i| self.get(i).expect("below the length"))
    }

    #[allow(clippy::useless_conversion)] // as above
    fn search(&self, value: i64) -> Result<usize, usize> {
        each!(&self.cells, v => v.binary_search_by(|&x| i64::from(x).cmp(&value)))
    }

    fn widen(&mut self, value: i64) {
        if self.width() < 8 && i32::try_from(value).is_err() {
            self.cells = Cells::W64(self.iter().collect());
        } else if self.width() < 4 && i16::try_from(value).is_err() {
            self.cells = Cells::W32(self.iter().map(|x| x as i32).collect());
        }
    }
}

/// Inserts, growing by an eighth instead of doubling.
fn insert_exact<T>(v: &mut Vec<T>, at: usize, value: T) {
    if v.len() == v.capacity() {
        v.reserve_exact(1 + v.len() / 8);
    }
    v.insert(at, value);
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
