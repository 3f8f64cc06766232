//! Fields that expire by themselves: a hash beside a sorted set of those of its fields that do, by time.
//!
//! A hash without such fields has none of this. The times are whole milliseconds below 2^48, which a score holds exactly.
//! Invariant: the sorted set is not empty, and each of its members is a field.

use super::{Hash, Iter};
use crate::slab::class_size;
use crate::{Thresholds, ZSet};

/// Latest time at which a field may expire, in ms since 1970: Redis 8 has 48 bits for it.
pub const FIELD_EXPIRY_MAX: i64 = (1 << 48) - 2;

/// A hash of which some fields expire.
#[derive(Clone)]
pub(super) struct Expiring {
    pub(super) fields: Hash,
    times: ZSet,
}

impl Expiring {
    /// `field` is one of `fields`, which has none that expires.
    pub(super) fn new(fields: Hash, field: &[u8], at_ms: i64, thresholds: &Thresholds) -> Expiring {
        let mut expiring = Expiring { fields, times: ZSet::new() };
        expiring.set_time(field, at_ms, thresholds);
        expiring
    }

    /// Sets when one of the fields expires.
    pub(super) fn set_time(&mut self, field: &[u8], at_ms: i64, thresholds: &Thresholds) {
        assert!((0..=FIELD_EXPIRY_MAX).contains(&at_ms), "callers check the time");
        self.times.insert(field, at_ms as f64, thresholds);
    }

    /// Forgets when a field expires; whether it would have. The caller looks at [`Expiring::is_spent`].
    pub(super) fn forget_time(&mut self, field: &[u8]) -> bool {
        self.times.remove(field).is_some()
    }

    /// Whether no field expires any more.
    pub(super) fn is_spent(&self) -> bool {
        self.times.is_empty()
    }

    pub(super) fn time(&self, field: &[u8]) -> Option<i64> {
        self.times.score(field).map(|at| at as i64)
    }

    /// The soonest time.
    pub(super) fn soonest(&self) -> i64 {
        self.times.at(0).map_or(i64::MAX, |(_, at)| at as i64)
    }

    /// Number of fields whose time is not after `now_ms`.
    fn due(&self, now_ms: i64) -> usize {
        self.times.rank_of_score(now_ms as f64, true)
    }

    /// Removes up to `max` fields that are due, the soonest first.
    pub(super) fn take_due(&mut self, now_ms: i64, max: usize) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        self.times.remove_range(0, self.due(now_ms).min(max), &mut |field, _| taken.push(field.to_vec()));
        taken.iter().for_each(|field| _ = self.fields.remove(field));
        taken
    }

    pub(super) fn heap_bytes(&self) -> usize {
        class_size(size_of::<super::Big>()) + self.fields.heap_bytes() + self.times.heap_bytes()
    }
}

/// A hash as it is at a time: without the fields that have expired by then, removed or not.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    hash: &'a Hash,
    /// What hides fields, if there are any to hide.
    hidden: Option<(&'a Expiring, i64)>,
}

impl<'a> Live<'a> {
    pub(super) fn new(hash: &'a Hash, expiring: Option<&'a Expiring>, now_ms: i64) -> Live<'a> {
        let hidden = expiring.filter(|e| e.soonest() <= now_ms).map(|e| (e, now_ms));
        Live { hash, hidden }
    }

    #[inline]
    fn is_hidden(&self, field: &[u8]) -> bool {
        self.hidden.is_some_and(|(e, now_ms)| e.time(field).is_some_and(|at| at <= now_ms))
    }

    /// Whether fields are hidden.
    #[inline]
    pub fn has_hidden(&self) -> bool {
        self.hidden.is_some()
    }

    /// The value of a field.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<&'a [u8]> {
        self.hash.get(field).filter(|_| !self.is_hidden(field))
    }

    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// When a field expires; `None`: never, or there is no such field.
    pub fn expiry(&self, field: &[u8]) -> Option<i64> {
        self.hash.expiry(field).filter(|_| !self.is_hidden(field))
    }

    pub fn len(&self) -> usize {
        self.hash.len() - self.hidden.map_or(0, |(e, now_ms)| e.due(now_ms))
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All fields with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let live = *self;
        let all: Iter<'a> = self.hash.iter();
        all.filter(move |(field, _)| !live.is_hidden(field))
    }

    /// The fields by number, each number below `len()` another one. Takes a list of all where fields are hidden.
    pub fn numbered(&self) -> Numbered<'a> {
        Numbered { hash: self.hash, list: self.hidden.map(|_| self.iter().collect()) }
    }

    /// As [`Hash::scan`].
    pub fn scan(&self, cursor: u64, count: usize, f: &mut dyn FnMut(&'a [u8], &'a [u8])) -> u64 {
        self.hash.scan(cursor, count, &mut |field, value| {
            if !self.is_hidden(field) {
                f(field, value);
            }
        })
    }
}

/// Fields that are found by number.
pub struct Numbered<'a> {
    hash: &'a Hash,
    list: Option<Vec<(&'a [u8], &'a [u8])>>,
}

impl<'a> Numbered<'a> {
    pub fn at(&self, index: usize) -> Option<(&'a [u8], &'a [u8])> {
        match &self.list {
            Some(list) => list.get(index).copied(),
            None => self.hash.at(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn small() -> Thresholds {
        Thresholds { hash_max_listpack_entries: 8, zset_max_listpack_entries: 8, ..Thresholds::default() }
    }

    #[test]
    fn the_last_time_takes_its_form_along() {
        let t = small();
        let mut h = Hash::new();
        h.set(b"a", b"1", &t);
        h.set(b"b", b"2", &t);
        let before = h.heap_bytes();
        assert!(h.set_expiry(b"a", Some(100), &t) && !h.set_expiry(b"x", Some(100), &t));
        assert_eq!((h.encoding(), h.next_expiry(), h.expiry(b"a")), ("listpackex", Some(100), Some(100)));
        assert!(h.set_expiry(b"a", None, &t));
        assert_eq!((h.encoding(), h.next_expiry(), h.heap_bytes()), ("listpack", None, before));
        h.set_expiry(b"a", Some(100), &t);
        h.set(b"a", b"3", &t);
        assert_eq!(h.next_expiry(), None);
        h.set_expiry(b"a", Some(100), &t);
        h.set_keeping_expiry(b"a", b"4", &t);
        assert_eq!((h.get(b"a"), h.next_expiry()), (Some(&b"4"[..]), Some(100)));
        assert!(h.remove(b"a"));
        assert_eq!((h.encoding(), h.len()), ("listpack", 1));
        h.set_expiry(b"b", Some(5), &t);
        assert_eq!(h.take_due(5, 9), [b"b".to_vec()]);
        assert!(h.is_empty() && h.next_expiry().is_none());
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_with_times(ops in prop::collection::vec((0..6u8, 0..40u8, 0..100i64), 1..300)) {
            let t = small();
            let (mut hash, mut model) = (Hash::new(), BTreeMap::<Vec<u8>, (Vec<u8>, Option<i64>)>::new());
            for (n, (op, field, at)) in ops.into_iter().enumerate() {
                let field = vec![b'f', field];
                let value = vec![n as u8; 3];
                match op {
                    0 => prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some()),
                    1 => {
                        let old = model.insert(field.clone(), (value.clone(), None));
                        prop_assert_eq!(hash.set(&field, &value, &t), old.is_none());
                    }
                    2 => {
                        let time = model.get(&field).and_then(|(_, at)| *at);
                        model.insert(field.clone(), (value.clone(), time));
                        hash.set_keeping_expiry(&field, &value, &t);
                    }
                    3 | 4 => {
                        let time = (op == 3).then_some(at);
                        let old = model.get_mut(&field).map(|entry| entry.1 = time);
                        prop_assert_eq!(hash.set_expiry(&field, time, &t), old.is_some());
                    }
                    _ => {
                        let taken = hash.take_due(at, 3);
                        prop_assert!(taken.len() <= 3);
                        for field in taken {
                            prop_assert!(model.remove(&field).is_some_and(|(_, time)| time.is_some_and(|t| t <= at)));
                        }
                    }
                }
                prop_assert_eq!(hash.next_expiry(), model.values().filter_map(|(_, at)| *at).min());
                let live = hash.live(at);
                let expected: BTreeMap<_, _> = model
                    .iter()
                    .filter(|(_, (_, time))| time.is_none_or(|t| t > at))
                    .map(|(field, (value, _))| (field.clone(), value.clone()))
                    .collect();
                let seen: BTreeMap<_, _> = live.iter().map(|(f, v)| (f.to_vec(), v.to_vec())).collect();
                prop_assert_eq!(&seen, &expected);
                prop_assert_eq!((live.len(), hash.len()), (expected.len(), model.len()));
                prop_assert_eq!(live.get(&field), expected.get(&field).map(|v| &v[..]));
                let numbered = live.numbered();
                let all: BTreeMap<_, _> =
                    (0..live.len()).map(|i| numbered.at(i).unwrap()).map(|(f, v)| (f.to_vec(), v.to_vec())).collect();
                prop_assert_eq!(&all, &expected);
            }
        }
    }
}
