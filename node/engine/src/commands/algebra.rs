//! Intersection and difference over sets and sorted sets.
//!
//! Only one key is read at a time: the members of the smallest (or first) source are taken in chunks, and each chunk is passed
//! through the other sources. So memory is bounded by a chunk, whatever the sizes.

use super::collection::held;
use crate::Error;
use crate::keys::Keys;
use storage::{Set, ValueRef, ZSet};

/// A set or a sorted set; members of a set have the score 1.
#[derive(Clone, Copy)]
pub enum View<'k> {
    Set(&'k Set),
    ZSet(&'k ZSet),
}

impl<'k> View<'k> {
    fn of(value: ValueRef<'k>, allowed: Allowed) -> Result<View<'k>, Error> {
        match value {
            ValueRef::Set(set) => Ok(View::Set(set)),
            ValueRef::ZSet(set) if allowed == Allowed::Both => Ok(View::ZSet(set)),
            _ => Err(Error::WrongType),
        }
    }

    fn len(self) -> usize {
        match self {
            View::Set(set) => set.len(),
            View::ZSet(set) => set.len(),
        }
    }

    pub fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            View::Set(set) => set.contains(member).then_some(1.0),
            View::ZSet(set) => set.score(member),
        }
    }

    /// Yields about `count` members from a cursor on; the next cursor is 0 at the end.
    pub fn scan(self, cursor: u64, count: usize, f: &mut dyn FnMut(&[u8], f64)) -> u64 {
        match self {
            View::Set(set) => set.scan(cursor, count, &mut |member| f(&member, 1.0)),
            View::ZSet(set) => set.scan(cursor, count, f),
        }
    }

    pub fn for_each(self, f: &mut dyn FnMut(&[u8], f64)) {
        match self {
            View::Set(set) => set.iter().for_each(|member| f(&member, 1.0)),
            View::ZSet(set) => set.iter().for_each(|(member, score)| f(member, score)),
        }
    }
}

/// Which types may be sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    Sets,
    Both,
}

/// One source: a key, its weight and its size, 0 if it is not there.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub key: &'a [u8],
    pub weight: f64,
    pub len: usize,
}

/// Looks at all sources. `Err` when any holds another type, even if the result is empty without it.
pub fn sources<'a>(
    keys: &mut Keys<'_>,
    names: &[&'a [u8]],
    allowed: Allowed,
) -> Result<Vec<Source<'a>>, Error> {
    let source = |key: &&'a [u8]| {
        let entry = keys.read(key);
        let len = entry.map_or(Ok(0), |e| View::of(e.value(), allowed).map(View::len))?;
        Ok(Source { key, weight: 1.0, len })
    };
    names.iter().map(source).collect()
}

/// A source again; the types were checked by [`sources`].
pub fn view<'k>(keys: &'k mut Keys<'_>, key: &[u8]) -> Option<View<'k>> {
    View::of(keys.peek(key)?.value(), Allowed::Both).ok()
}

/// Members taken at once: a choice, some tens of kilobytes.
const CHUNK: usize = 1024;

/// Members of the source `first` that every step of `pass` keeps, in chunks; `each` returns false when it has enough.
fn filtered(
    keys: &mut Keys<'_>,
    first: Source<'_>,
    pass: &mut dyn FnMut(&mut Keys<'_>, &mut Vec<(Vec<u8>, f64)>),
    each: &mut dyn FnMut(&[u8], f64) -> bool,
) {
    let mut cursor = 0;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        let Some(source) = view(keys, first.key) else { return };
        cursor = source
            .scan(cursor, CHUNK, &mut |member, score| chunk.push((member.to_vec(), weighted(first, score))));
        pass(keys, &mut chunk);
        if !chunk.iter().all(|(member, score)| each(member, *score)) || cursor == 0 {
            return;
        }
    }
}

/// A score times its source's weight, where infinity times zero is 0.
pub fn weighted(source: Source<'_>, score: f64) -> f64 {
    let product = source.weight * score;
    if product.is_nan() { 0.0 } else { product }
}

/// How scores of one member in several sources become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    /// Infinity less infinity is 0, as in Redis.
    pub fn join(self, a: f64, b: f64) -> f64 {
        match self {
            Aggregate::Sum if (a + b).is_nan() => 0.0,
            Aggregate::Sum => a + b,
            Aggregate::Min if b < a => b,
            Aggregate::Max if b > a => b,
            _ => a,
        }
    }
}

/// Passes the members that all sources have to `each`, with their joint scores, until it returns false.
pub fn intersect(
    keys: &mut Keys<'_>,
    sources: &[Source<'_>],
    aggregate: Aggregate,
    each: &mut dyn FnMut(&[u8], f64) -> bool,
) {
    if sources.iter().any(|s| s.len == 0) {
        return;
    }
    let mut ordered = sources.to_vec();
    ordered.sort_by_key(|s| s.len);
    let Some((first, others)) = ordered.split_first() else { return };
    let mut pass = |keys: &mut Keys<'_>, chunk: &mut Vec<(Vec<u8>, f64)>| {
        for other in others {
            let Some(view) = view(keys, other.key) else { return chunk.clear() };
            chunk.retain_mut(|(member, score)| match view.score(member) {
                None => false,
                Some(found) => {
                    *score = aggregate.join(*score, weighted(*other, found));
                    true
                }
            });
        }
    };
    filtered(keys, *first, &mut pass, each);
}

/// Passes the members of the first source that no other has to `each`.
pub fn subtract(keys: &mut Keys<'_>, sources: &[Source<'_>], each: &mut dyn FnMut(&[u8], f64)) {
    let Some((first, others)) = sources.split_first() else { return };
    let mut pass = |keys: &mut Keys<'_>, chunk: &mut Vec<(Vec<u8>, f64)>| {
        for other in others {
            if let Some(view) = view(keys, other.key) {
                chunk.retain(|(member, _)| view.score(member).is_none());
            }
        }
    };
    filtered(keys, *first, &mut pass, &mut |member, score| {
        each(member, score);
        true
    });
}

/// The set at a key, for sources that are sets.
pub fn set<'k>(keys: &'k mut Keys<'_>, key: &[u8]) -> Option<&'k Set> {
    held::<Set>(keys, key).ok().flatten()
}
