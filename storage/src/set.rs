//! Sets: sorted integers while all members are integers and few, else a table of one-allocation elements.

use crate::hash::element::Element;
use crate::hash::seeded;
use crate::hash::table::{self, Table};
use crate::intset::IntSet;
use crate::keyspace::ElementAhead;
use crate::slab::class_size;
use crate::thin::{Small, View, ViewMut, Word};
use crate::thresholds::Thresholds;
use std::ops::Deref;

/// Distinct byte strings. Order is ascending while integers, that of the keyed hash afterwards.
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct Set {
    word: Word<IntSet, Members>,
}

type Members = Table<Element<false>>;

/// A member: bytes of the set, or the text of an integer.
#[derive(Clone, Copy)]
pub enum Member<'a> {
    /// Bytes that live in the set.
    Bytes(&'a [u8]),
    /// An integer and its decimal text.
    Int(i64, IntText),
}

/// Decimal text of an `i64` without an allocation.
#[derive(Clone, Copy)]
pub struct IntText {
    text: [u8; 20],
    from: u8,
}

impl IntText {
    /// The shortest decimal text of `value`.
    pub fn new(value: i64) -> IntText {
        let mut text = [0; 20];
        let (mut at, mut left) = (text.len(), value.unsigned_abs());
        loop {
            at -= 1;
            text[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            text[at] = b'-';
        }
        IntText { text, from: at as u8 }
    }
}

impl Deref for IntText {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.text[self.from as usize..]
    }
}

impl Deref for Member<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Member::Bytes(bytes) => bytes,
            Member::Int(_, text) => text,
        }
    }
}

fn int_member<'a>(value: i64) -> Member<'a> {
    Member::Int(value, IntText::new(value))
}

/// The integer whose shortest decimal text these bytes are.
pub fn parse_int(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        b"0" if !is_negative => return Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 19 => {}
        _ => return None,
    }
    let mut value: i64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        // Negative all along, since the range is larger by one below zero.
        value = value.checked_mul(10)?.checked_sub(digit)?;
    }
    if is_negative { Some(value) } else { value.checked_neg() }
}

impl Set {
    /// An empty set; allocates nothing.
    pub fn new() -> Set {
        Set::default()
    }

    /// The name OBJECT ENCODING gives: `intset` or `hashtable`.
    pub fn encoding(&self) -> &'static str {
        match self.word.view() {
            View::Small(_) => "intset",
            View::Big(_) => "hashtable",
        }
    }

    /// The integers, if that is the form.
    pub fn as_intset(&self) -> Option<&IntSet> {
        match self.word.view() {
            View::Small(ints) => Some(ints),
            View::Big(_) => None,
        }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        match self.word.view() {
            View::Small(ints) => ints.len(),
            View::Big(table) => table.len(),
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated beyond the eight of the value itself.
    pub fn heap_bytes(&self) -> usize {
        match self.word.view() {
            View::Small(ints) => ints.heap_bytes(),
            View::Big(table) => class_size(size_of::<Members>()) + table.heap_bytes(),
        }
    }

    /// Whether `member` is in the set.
    pub fn contains(&self, member: &[u8]) -> bool {
        match self.word.view() {
            View::Small(ints) => parse_int(member).is_some_and(|value| ints.contains(value)),
            View::Big(table) => {
                table.find(seeded::hash(table.seed(), member), |e| e.key() == member).is_some()
            }
        }
    }

    /// Adds a member; `false` if it was there.
    pub fn insert(&mut self, member: &[u8], thresholds: &Thresholds) -> bool {
        if let ViewMut::Small(ints) = self.word.view_mut() {
            if let Some(value) = parse_int(member) {
                let is_new = ints.insert(value);
                // The hard cap keeps insertion into the array bounded, as in Redis.
                if is_new && ints.len() > thresholds.set_max_intset_entries.min(1 << 28) {
                    self.convert(thresholds.hash_seed);
                }
                return is_new;
            }
            self.convert(thresholds.hash_seed);
        }
        let ViewMut::Big(table) = self.word.view_mut() else { unreachable!("converted above") };
        let hash = seeded::hash(table.seed(), member);
        if table.find(hash, |e| e.key() == member).is_some() {
            return false;
        }
        table.insert(hash, Element::new(hash, member, b""));
        true
    }

    /// Removes a member; `false` if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self.word.view_mut() {
            ViewMut::Small(ints) => parse_int(member).is_some_and(|value| ints.remove(value)),
            ViewMut::Big(table) => {
                let hash = seeded::hash(table.seed(), member);
                table.remove(hash, |e| e.key() == member).is_some()
            }
        }
    }

    /// Asks the CPU for what a look-up of a member will read, one step further at each call; whether there is another.
    #[inline]
    pub(crate) fn prefetch(&self, member: &mut ElementAhead<'_>) -> bool {
        match self.word.view() {
            View::Small(ints) => {
                ints.prefetch();
                false
            }
            View::Big(table) => Element::prefetch_in(table, member),
        }
    }

    /// Moves what small sets hold out of spans that are being emptied.
    pub(crate) fn leave_span(&mut self) {
        self.word.leave_span();
    }

    /// All members.
    pub fn iter(&self) -> Iter<'_> {
        match self.word.view() {
            View::Small(ints) => Iter::Ints(ints, 0),
            View::Big(table) => Iter::Table(table.iter()),
        }
    }

    /// The member with number `index`: each number below `len()` names another member until the set changes.
    pub fn at(&self, index: usize) -> Option<Member<'_>> {
        match self.word.view() {
            View::Small(ints) => ints.get(index).map(int_member),
            View::Big(table) => table.at(index).map(|e| Member::Bytes(e.key())),
        }
    }

    /// A member drawn evenly by a random number. `None`: the set is empty.
    pub fn random(&self, rand: u64) -> Option<Member<'_>> {
        self.at((rand % self.len().max(1) as u64) as usize)
    }

    /// SSCAN: yields about `count` members from `cursor` on and returns the next cursor, 0 at the end. Integers are yielded all at once.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, f: &mut dyn FnMut(Member<'a>)) -> u64 {
        match self.word.view() {
            View::Small(_) => {
                self.iter().for_each(f);
                0
            }
            View::Big(table) => table.scan(cursor, count, |e| f(Member::Bytes(e.key()))),
        }
    }

    fn convert(&mut self, seed: u64) {
        let View::Small(ints) = self.word.view() else { return };
        let mut table = Box::new(Table::new(seed));
        for value in ints.iter() {
            let text = IntText::new(value);
            let hash = seeded::hash(seed, &text);
            table.insert(hash, Element::new(hash, &text, b""));
        }
        self.word = Word::big(table);
    }
}

/// Members of a set.
pub enum Iter<'a> {
    /// Integers and the number of the next.
    Ints(&'a IntSet, usize),
    /// Elements of the table.
    #[doc(hidden)]
    Table(TableIter<'a>),
}

type TableIter<'a> = table::Iter<'a, Element<false>>;

impl<'a> Iterator for Iter<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        match self {
            Iter::Ints(ints, next) => {
                *next += 1;
                ints.get(*next - 1).map(int_member)
            }
            Iter::Table(iter) => iter.next().map(|e| Member::Bytes(e.key())),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self {
            Iter::Ints(ints, next) => ints.len().saturating_sub(*next),
            Iter::Table(iter) => iter.len(),
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_the_shortest_text_is_an_integer() {
        for value in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(parse_int(&IntText::new(value)), Some(value));
            assert_eq!(&*IntText::new(value), value.to_string().as_bytes());
        }
        for text in
            ["", "-", "-0", "01", "+1", " 1", "1 ", "9223372036854775808", "-9223372036854775809", "1a"]
        {
            assert_eq!(parse_int(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn leaves_the_intset_by_count_and_by_kind() {
        let t = Thresholds { set_max_intset_entries: 3, ..Thresholds::default() };
        let mut s = Set::new();
        ["3", "1", "2", "2"].iter().for_each(|m| _ = s.insert(m.as_bytes(), &t));
        assert_eq!((s.encoding(), s.len()), ("intset", 3));
        s.insert(b"4", &t);
        assert_eq!((s.encoding(), s.len()), ("hashtable", 4));
        let mut s = Set::new();
        ["1", "01"].iter().for_each(|m| _ = s.insert(m.as_bytes(), &t));
        assert_eq!((s.encoding(), s.len()), ("hashtable", 2));
        assert!(s.contains(b"1") && s.contains(b"01") && !s.contains(b"2"));
    }

    proptest! {
        #[test]
        fn behaves_as_a_btree_set(words in any::<bool>(), ops in prop::collection::vec((0..3u8, 0..300i64), 1..500)) {
            let t = Thresholds { set_max_intset_entries: 100, ..Thresholds::default() };
            let (mut set, mut model) = (Set::new(), BTreeSet::new());
            for (op, n) in ops {
                let member = if words { format!("m{n}") } else { n.to_string() }.into_bytes();
                if op == 0 {
                    prop_assert_eq!(set.remove(&member), model.remove(&member));
                } else {
                    prop_assert_eq!(set.insert(&member, &t), model.insert(member.clone()));
                }
                prop_assert_eq!((set.contains(&member), set.len()), (op != 0, model.len()));
            }
            let all: BTreeSet<Vec<u8>> = set.iter().map(|m| m.to_vec()).collect();
            prop_assert_eq!(&all, &model);
            let picked: BTreeSet<Vec<u8>> = (0..set.len()).map(|i| set.at(i).unwrap().to_vec()).collect();
            prop_assert_eq!(&picked, &model);
            let (mut scanned, mut cursor) = (BTreeSet::new(), 0);
            loop {
                cursor = set.scan(cursor, 5, &mut |m| _ = scanned.insert(m.to_vec()));
                if cursor == 0 { break; }
            }
            prop_assert_eq!(&scanned, &model);
        }
    }
}
