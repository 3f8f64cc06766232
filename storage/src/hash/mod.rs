//! Hashes: fields with values, packed while small, then a table of one-allocation elements.

pub(crate) mod element;
mod expiring;
pub mod seeded;
mod segment;
pub(crate) mod table;

use crate::keyspace::ElementAhead;
use crate::packed::{self, PACKED_BYTES_MAX, Packed};
use crate::slab::class_size;
use crate::thin::{Small, View, ViewMut, Word};
use crate::thresholds::Thresholds;
use element::Element;
use expiring::Expiring;
pub use expiring::{FIELD_EXPIRY_MAX, Live, Numbered};
use table::Table;

/// Fields and values. Order is that of insertion while packed, that of the keyed hash afterwards.
#[derive(Clone, Default)]
#[repr(transparent)]
pub struct Hash {
    /// Packed: field, value, field, value ...
    word: Word<Packed, Big>,
}

/// What is not packed.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "boxed as a whole, and hashes with fields that expire are few")]
enum Big {
    Table(Fields),
    Expiring(Expiring),
}

type Fields = Table<Element<true>>;

impl Hash {
    /// An empty hash; allocates nothing.
    pub fn new() -> Hash {
        Hash::default()
    }

    /// The name OBJECT ENCODING gives: `listpack`, `listpackex` (of which some fields expire) or `hashtable`.
    pub fn encoding(&self) -> &'static str {
        match self.word.view() {
            View::Small(_) => "listpack",
            View::Big(Big::Table(_)) => "hashtable",
            View::Big(Big::Expiring(e)) if e.fields.word.is_big() => "hashtable",
            View::Big(Big::Expiring(_)) => "listpackex",
        }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        match self.word.view() {
            View::Small(packed) => packed.len() / 2,
            View::Big(Big::Table(table)) => table.len(),
            View::Big(Big::Expiring(e)) => e.fields.len(),
        }
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated beyond the eight of the value itself.
    pub fn heap_bytes(&self) -> usize {
        match self.word.view() {
            View::Small(packed) => packed.heap_bytes(),
            View::Big(Big::Table(table)) => class_size(size_of::<Big>()) + table.heap_bytes(),
            View::Big(Big::Expiring(e)) => e.heap_bytes(),
        }
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        match self.word.view() {
            View::Small(packed) => find(packed, field).map(|(_, value)| value),
            View::Big(Big::Table(table)) => {
                let hash = seeded::hash(table.seed(), field);
                table.find(hash, |e| e.key() == field).map(|e| e.get().1)
            }
            View::Big(Big::Expiring(e)) => e.fields.get(field),
        }
    }

    /// Whether a field is there.
    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Sets a field, which no longer expires; `true` if it is new.
    pub fn set(&mut self, field: &[u8], value: &[u8], thresholds: &Thresholds) -> bool {
        if let ViewMut::Small(packed) = self.word.view_mut() {
            let is_short = field.len().max(value.len()) <= thresholds.hash_max_listpack_value
                && packed.bytes() + field.len() + value.len() <= PACKED_BYTES_MAX;
            if is_short {
                if let Some((at, _)) = find(packed, field) {
                    packed.replace(at, value);
                    return false;
                }
                if packed.len() / 2 < thresholds.hash_max_listpack_entries {
                    packed.insert_pair(packed.bytes(), field, value);
                    return true;
                }
            }
            self.convert(thresholds.hash_seed);
        }
        match self.word.view_mut() {
            ViewMut::Small(_) => unreachable!("converted above"),
            ViewMut::Big(Big::Table(table)) => set(table, field, value),
            ViewMut::Big(Big::Expiring(e)) => {
                let is_new = e.fields.set(field, value, thresholds);
                if e.forget_time(field) {
                    self.settle();
                }
                is_new
            }
        }
    }

    /// As [`Hash::set`]; a field that expires goes on doing so.
    pub fn set_keeping_expiry(&mut self, field: &[u8], value: &[u8], thresholds: &Thresholds) -> bool {
        match self.word.view_mut() {
            ViewMut::Big(Big::Expiring(e)) => e.fields.set(field, value, thresholds),
            _ => self.set(field, value, thresholds),
        }
    }

    /// Sets or takes away (`None`) the time in ms since 1970, at most [`FIELD_EXPIRY_MAX`], at which a field expires.
    /// `false`: there is no such field.
    pub fn set_expiry(&mut self, field: &[u8], at_ms: Option<i64>, thresholds: &Thresholds) -> bool {
        if !self.contains(field) {
            return false;
        }
        match (self.word.view_mut(), at_ms) {
            (ViewMut::Big(Big::Expiring(e)), Some(at_ms)) => e.set_time(field, at_ms, thresholds),
            (ViewMut::Big(Big::Expiring(e)), None) => {
                e.forget_time(field);
                self.settle();
            }
            (_, Some(at_ms)) => {
                let expiring = Expiring::new(std::mem::take(self), field, at_ms, thresholds);
                self.word = Word::big(Box::new(Big::Expiring(expiring)));
            }
            (_, None) => {}
        }
        true
    }

    /// When a field expires; `None`: never, or there is no such field.
    pub fn expiry(&self, field: &[u8]) -> Option<i64> {
        self.expiring()?.time(field)
    }

    /// The soonest time at which a field expires; `None`: none does.
    #[inline]
    pub fn next_expiry(&self) -> Option<i64> {
        if self.word.is_big() { self.expiring().map(Expiring::soonest) } else { None }
    }

    /// Removes up to `max` fields whose time is not after `now_ms`, and hands them out, the soonest first.
    pub fn take_due(&mut self, now_ms: i64, max: usize) -> Vec<Vec<u8>> {
        let ViewMut::Big(Big::Expiring(e)) = self.word.view_mut() else { return Vec::new() };
        let taken = e.take_due(now_ms, max);
        self.settle();
        taken
    }

    /// The hash as it is at a time: what has expired by then is hidden.
    #[inline]
    pub fn live(&self, now_ms: i64) -> Live<'_> {
        Live::new(self, self.expiring(), now_ms)
    }

    #[inline]
    fn expiring(&self) -> Option<&Expiring> {
        match self.word.view() {
            View::Big(Big::Expiring(e)) => Some(e),
            _ => None,
        }
    }

    /// Goes back to the plain form when no field expires any more.
    fn settle(&mut self) {
        if let ViewMut::Big(Big::Expiring(e)) = self.word.view_mut()
            && e.is_spent()
        {
            *self = std::mem::take(&mut e.fields);
        }
    }

    /// Removes a field; `false` if it was not there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match self.word.view_mut() {
            ViewMut::Small(packed) => {
                let Some((value_at, _)) = find(packed, field) else { return false };
                packed.remove_pair(value_at - packed::entry_bytes(field.len()));
                true
            }
            ViewMut::Big(Big::Table(table)) => {
                let hash = seeded::hash(table.seed(), field);
                table.remove(hash, |e| e.key() == field).is_some()
            }
            ViewMut::Big(Big::Expiring(e)) => {
                let is_removed = e.fields.remove(field);
                if e.forget_time(field) {
                    self.settle();
                }
                is_removed
            }
        }
    }

    /// Asks the CPU for what a look-up of a field will read, one step further at each call; whether there is another.
    #[inline]
    pub(crate) fn prefetch(&self, field: &mut ElementAhead<'_>) -> bool {
        let table = match self.word.view() {
            View::Small(packed) => {
                packed.prefetch();
                return false;
            }
            View::Big(Big::Table(table)) => table,
            View::Big(Big::Expiring(e)) => return e.fields.prefetch(field),
        };
        Element::prefetch_in(table, field)
    }

    /// Moves what small hashes hold out of spans that are being emptied.
    pub(crate) fn leave_span(&mut self) {
        self.word.leave_span();
    }

    /// All fields with their values.
    pub fn iter(&self) -> Iter<'_> {
        match self.word.view() {
            View::Small(packed) => Iter { body: IterBody::Packed(packed.iter()), left: self.len() },
            View::Big(Big::Table(table)) => Iter { body: IterBody::Table(table.iter()), left: self.len() },
            View::Big(Big::Expiring(e)) => e.fields.iter(),
        }
    }

    /// The field with number `index`: each number below `len()` names another field until the hash changes.
    pub fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        match self.word.view() {
            View::Small(packed) => {
                let mut iter = packed.iter_from(packed.position((2 * index).min(packed.len())));
                Some((iter.next()?, iter.next()?))
            }
            View::Big(Big::Table(table)) => table.at(index).map(Element::get),
            View::Big(Big::Expiring(e)) => e.fields.at(index),
        }
    }

    /// A field drawn evenly by a random number. `None`: the hash is empty.
    pub fn random(&self, rand: u64) -> Option<(&[u8], &[u8])> {
        self.at((rand % self.len().max(1) as u64) as usize)
    }

    /// HSCAN: yields about `count` fields from `cursor` on and returns the next cursor, 0 at the end. A packed hash is yielded whole.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, f: &mut dyn FnMut(&'a [u8], &'a [u8])) -> u64 {
        match self.word.view() {
            View::Small(_) => {
                self.iter().for_each(|(field, value)| f(field, value));
                0
            }
            View::Big(Big::Table(table)) => table.scan(cursor, count, |e| f(e.get().0, e.get().1)),
            View::Big(Big::Expiring(e)) => e.fields.scan(cursor, count, f),
        }
    }

    fn convert(&mut self, seed: u64) {
        let View::Small(packed) = self.word.view() else { return };
        let mut table = Table::new(seed);
        let mut iter = packed.iter();
        while let (Some(field), Some(value)) = (iter.next(), iter.next()) {
            let hash = seeded::hash(seed, field);
            table.insert(hash, Element::new(hash, field, value));
        }
        self.word = Word::big(Box::new(Big::Table(table)));
    }
}

/// Position and bytes of a field's value.
fn find<'a>(packed: &'a Packed, field: &[u8]) -> Option<(usize, &'a [u8])> {
    let mut iter = packed.iter();
    while let Some(key) = iter.next() {
        let at = iter.position();
        let value = iter.next()?;
        if key == field {
            return Some((at, value));
        }
    }
    None
}

fn set(table: &mut Table<Element<true>>, field: &[u8], value: &[u8]) -> bool {
    let hash = seeded::hash(table.seed(), field);
    let is_new = table.update(hash, |e| e.key() == field, |e| e.set_value(value)).is_none();
    if is_new {
        table.insert(hash, Element::new(hash, field, value));
    }
    is_new
}

/// Fields with their values.
pub struct Iter<'a> {
    body: IterBody<'a>,
    left: usize,
}

enum IterBody<'a> {
    Packed(packed::Iter<'a>),
    Table(table::Iter<'a, Element<true>>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = match &mut self.body {
            IterBody::Packed(iter) => (iter.next()?, iter.next()?),
            IterBody::Table(iter) => iter.next()?.get(),
        };
        self.left -= 1;
        Some(pair)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn small() -> Thresholds {
        Thresholds { hash_max_listpack_entries: 8, hash_max_listpack_value: 16, ..Thresholds::default() }
    }

    #[test]
    fn leaves_the_packed_form_past_either_threshold_and_stays_out() {
        let t = small();
        let mut h = Hash::new();
        for i in 0..8 {
            h.set(&[i], &[b'v'; 16], &t);
        }
        assert_eq!(h.encoding(), "listpack");
        h.set(b"ninth", b"", &t);
        assert_eq!(h.encoding(), "hashtable");
        assert!(h.remove(b"ninth") && h.encoding() == "hashtable");
        for (field, value) in [(17, 0), (0, 17)] {
            let mut h = Hash::new();
            h.set(&vec![0; field], &vec![0; value], &t);
            assert_eq!(h.encoding(), "hashtable");
        }
    }

    #[test]
    fn each_index_is_another_field() {
        let t = small();
        for n in [1, 8, 500] {
            let mut h = Hash::new();
            (0..n).for_each(|i: u32| _ = h.set(&i.to_be_bytes(), b"v", &t));
            let all: BTreeSet<_> = (0..h.len()).map(|i| h.at(i).unwrap().0).collect();
            assert_eq!((all.len(), h.at(h.len())), (n as usize, None));
        }
        assert_eq!(Hash::new().random(5), None);
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((0..3u8, 0..200u16, prop_oneof![0..20usize, Just(300usize)]), 1..400)) {
            let t = small();
            let (mut hash, mut model) = (Hash::new(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
            for (n, (op, field, size)) in ops.into_iter().enumerate() {
                let field = format!("field:{field}").into_bytes();
                if op == 0 {
                    prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some());
                } else {
                    let value = vec![n as u8; size];
                    prop_assert_eq!(hash.set(&field, &value, &t), model.insert(field.clone(), value).is_none());
                }
                prop_assert_eq!(hash.get(&field), model.get(&field).map(|v| &v[..]));
                prop_assert_eq!(hash.len(), model.len());
            }
            let all: BTreeMap<_, _> = hash.iter().map(|(f, v)| (f.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(&all, &model);
            let mut scanned = BTreeMap::new();
            let mut cursor = 0;
            loop {
                cursor = hash.scan(cursor, 10, &mut |f, v| _ = scanned.insert(f.to_vec(), v.to_vec()));
                if cursor == 0 { break; }
            }
            prop_assert_eq!(&scanned, &model);
            let copy = hash.clone();
            prop_assert!(copy.iter().eq(hash.iter()));
        }
    }
}
