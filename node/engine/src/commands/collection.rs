//! What the families of collections share: counts among the arguments, random choice, and saying what changed.

use crate::cx::Cx;
use crate::keys::{Collection, Keys};
use crate::number::parse_i64;
use crate::number::parse_within;
use crate::{Error, Rng};
use std::collections::BTreeSet;

/// The collection at a key that is about to be changed: neither a hit nor a miss. `Err` when the key holds another type.
pub fn held<'k, C: Collection + 'static>(keys: &'k mut Keys<'_>, key: &[u8]) -> Result<Option<&'k C>, Error> {
    match keys.peek(key) {
        None => Ok(None),
        Some(entry) => C::of(entry.value()).map(Some).ok_or(Error::WrongType),
    }
}

/// Says that `count` elements at a key changed, as one event. Before the change where it may empty the key, so that
/// its event precedes the `del`.
pub fn changed(keys: &mut Keys<'_>, key: &[u8], class: u32, event: &'static str, count: usize) {
    keys.changed(key, class, event);
    keys.effects.dirty += (count as u64).saturating_sub(1);
}

/// Argument `index` as a number of at least `min`; anything else is answered with `message`.
pub fn at_least(cx: &Cx, index: usize, min: i64, message: &'static str) -> Result<usize, Error> {
    parse_i64(cx.arg(index)).filter(|n| *n >= min).map(|n| n as usize).ok_or(Error::text(message))
}

pub const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
const OUT_OF_RANGE: &str = "ERR value is out of range";

/// The optional count of LPOP, SPOP, ZPOPMIN: argument 2.
pub fn pop_count(cx: &Cx) -> Result<Option<usize>, Error> {
    if cx.args.len() < 3 { Ok(None) } else { at_least(cx, 2, 0, NOT_POSITIVE).map(Some) }
}

/// `numkeys` at argument `index` and at least one key behind it. The keys may be fewer than it says: callers check.
pub fn numkeys(cx: &Cx, index: usize) -> Result<usize, Error> {
    at_least(cx, index, 1, "ERR numkeys should be greater than 0")
}

/// What LMPOP, ZMPOP and their blocking forms ask for; `E` is the kind of end.
pub struct PopRequest<'a, E> {
    pub keys: &'a [&'a [u8]],
    pub end: E,
    /// At least 1.
    pub count: usize,
}

impl<'a, E> PopRequest<'a, E> {
    /// Parses the arguments from `numkeys` on, which is at `numkeys_at`.
    pub fn parse(
        cx: &Cx<'a, '_>,
        numkeys_at: usize,
        parse_end: fn(&Cx, usize) -> Result<E, Error>,
    ) -> Result<Self, Error> {
        let args = cx.args;
        let first = numkeys_at + 1;
        let end_at =
            numkeys(cx, numkeys_at)?.checked_add(first).filter(|i| *i < args.len()).ok_or(Error::Syntax)?;
        let end = parse_end(cx, end_at)?;
        let mut count = None;
        let mut i = end_at + 1;
        while i < args.len() {
            if count.is_some() || !cx.is_word(i, "COUNT") || i + 1 >= args.len() {
                return Err(Error::Syntax);
            }
            count = Some(at_least(cx, i + 1, 1, "ERR count should be greater than 0")?);
            i += 2;
        }
        Ok(PopRequest { keys: &args[first..end_at], end, count: count.unwrap_or(1) })
    }
}

/// The argument of the random-member commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RandomCount {
    /// So many different members, or all there are.
    Distinct(usize),
    /// Exactly so many, with repetition.
    Repeated(usize),
}

/// Replies with more elements than this are refused; Redis would try until memory runs out.
const RANDOM_REPLIES_MAX: u64 = 1 << 26;

impl RandomCount {
    /// Parses argument 2 of HRANDFIELD, SRANDMEMBER and ZRANDMEMBER. Call [`RandomCount::check`] when options are parsed.
    pub fn parse(cx: &Cx) -> Result<RandomCount, Error> {
        let count = parse_within(cx.args[2], -i64::MAX..=i64::MAX)?;
        let n = count.unsigned_abs() as usize;
        Ok(if count < 0 { RandomCount::Repeated(n) } else { RandomCount::Distinct(n) })
    }

    /// Refuses counts whose reply cannot be. `with_values`: each element has two parts.
    pub fn check(self, with_values: bool) -> Result<RandomCount, Error> {
        let (RandomCount::Distinct(n) | RandomCount::Repeated(n)) = self;
        let is_repeated = matches!(self, RandomCount::Repeated(_));
        let too_many =
            with_values && n as u64 > i64::MAX as u64 / 2 || is_repeated && n as u64 > RANDOM_REPLIES_MAX;
        if too_many { Err(Error::text(OUT_OF_RANGE)) } else { Ok(self) }
    }

    /// Numbers of the chosen among `len` elements: ascending if distinct.
    pub fn choose(self, len: usize, rng: &mut Rng) -> Vec<usize> {
        match self {
            _ if len == 0 => Vec::new(),
            RandomCount::Distinct(n) => distinct(n, len, rng),
            RandomCount::Repeated(n) => (0..n).map(|_| rng.below(len as u64) as usize).collect(),
        }
    }
}

/// `n` different numbers below `len`, each set of them equally likely; ascending. Follows Floyd's algorithm.
pub fn distinct(n: usize, len: usize, rng: &mut Rng) -> Vec<usize> {
    if n >= len {
        return (0..len).collect();
    }
    let mut chosen = BTreeSet::new();
    for last in len - n..len {
        let drawn = rng.below(last as u64 + 1) as usize;
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

/// The name by which the command was called, as errors of arity show it.
pub fn wrong_arity(cx: &Cx) -> Error {
    Error::Arity(String::from_utf8_lossy(cx.arg(0)).to_lowercase())
}

/// Range of indices `start..end` for two arguments that may count from the end. Empty: `None`.
pub fn index_range(start: i64, stop: i64, len: usize) -> Option<(usize, usize)> {
    let len = len as i64;
    let place = |i: i64| if i < 0 { len.saturating_add(i) } else { i };
    let (start, stop) = (place(start).max(0), place(stop).min(len - 1));
    (start <= stop && start < len).then(|| (start as usize, stop as usize + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_count_from_either_end() {
        for (start, stop, len, range) in [
            (0, -1, 3, Some((0, 3))),
            (-2, -1, 3, Some((1, 3))),
            (-100, 100, 3, Some((0, 3))),
            (2, 1, 3, None),
            (3, 9, 3, None),
            (0, -4, 3, None),
            (0, 0, 0, None),
            (i64::MIN, i64::MAX, 2, Some((0, 2))),
        ] {
            assert_eq!(index_range(start, stop, len), range, "{start} {stop} of {len}");
        }
    }

    #[test]
    fn every_number_is_chosen_equally_often() {
        let mut rng = Rng::new(7);
        let mut hits = [0; 10];
        for _ in 0..10_000 {
            let chosen = distinct(3, 10, &mut rng);
            assert!(chosen.windows(2).all(|w| w[0] < w[1]) && chosen.len() == 3);
            chosen.iter().for_each(|i| hits[*i] += 1);
        }
        assert!(hits.iter().all(|n| (2800..3200).contains(n)), "{hits:?}");
    }
}
