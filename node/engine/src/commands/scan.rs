//! Going through the keys of a database: SCAN, KEYS, RANDOMKEY, DBSIZE.
//!
//! A cursor is the slot in the upper 16 bits and a place within the slot below, so that it survives changes of every
//! other slot, their migration included.

use crate::cx::Cx;
use crate::keys::{Collection, Keys};
use crate::number::parse_u64;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use crate::{Error, glob};
use proto::Slot;
use proto::resp::Reply;

const BASE: Command = Command { group: Group::Generic, ..Command::BASE };
const SLOT_SHIFT: u32 = 48;
/// Slots visited by one SCAN although they gave nothing. Bounds the time of one call over a sparse database.
const SLOTS_PER_CALL_MAX: usize = 256;
/// Keys that KEYS looks at before it lets others close the gate: a slot or two, some ten microseconds.
const KEYS_PART: usize = 64;

/// MATCH, COUNT and TYPE, which SCAN and its kin for collections share.
pub struct Filter<'a> {
    pub pattern: Option<&'a [u8]>,
    pub count: usize,
    pub kind: Option<&'a [u8]>,
}

impl Default for Filter<'_> {
    fn default() -> Self {
        Filter { pattern: None, count: 10, kind: None }
    }
}

impl<'a> Filter<'a> {
    /// Parses the options from argument `from` on.
    pub fn parse(cx: &Cx<'a, '_>, from: usize, has_type: bool) -> Result<Filter<'a>, Error> {
        let mut filter = Filter::default();
        (from..cx.args.len()).step_by(2).try_for_each(|at| filter.option(cx, at, has_type))?;
        Ok(filter)
    }
    /// Parses the option at argument `at`, and its operand.
    pub fn option(&mut self, cx: &Cx<'a, '_>, at: usize, has_type: bool) -> Result<(), Error> {
        let value = *cx.args.get(at + 1).ok_or(Error::Syntax)?;
        if cx.is_word(at, "MATCH") {
            self.pattern = (value != b"*").then_some(value);
        } else if cx.is_word(at, "COUNT") {
            let count = cx.int(at + 1)?;
            if count < 1 {
                return Err(Error::Syntax);
            }
            self.count = count as usize;
        } else if has_type && cx.is_word(at, "TYPE") {
            self.kind = Some(value);
        } else {
            return Err(Error::Syntax);
        }
        Ok(())
    }

    /// Whether a key of this kind is looked for.
    pub fn takes(&self, key: &[u8], kind: &str) -> bool {
        self.kind.is_none_or(|k| k.eq_ignore_ascii_case(kind.as_bytes())) && self.is_match(key)
    }

    pub fn is_match(&self, text: &[u8]) -> bool {
        self.pattern.is_none_or(|p| glob::matches(p, text, false))
    }
}

/// A cursor among the arguments, as `strtoul` reads it: with zeros and signs, and nothing at all as zero.
fn parse_cursor(text: &[u8]) -> Result<u64, Error> {
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    let first = digits.iter().position(|c| *c != b'0').unwrap_or(digits.len().saturating_sub(1));
    let number = if text.is_empty() { Some(0) } else { parse_u64(&digits[first..]) };
    let number = number.ok_or(Error::text("ERR invalid cursor"))?;
    Ok(if text.starts_with(b"-") { number.wrapping_neg() } else { number })
}

/// A page of SCAN and its kin: the next cursor, and the header of its `len` elements, which follow.
pub fn page(out: &mut Reply, next: u64, len: usize) {
    out.array(2);
    out.bulk(next.to_string().as_bytes());
    out.array(len);
}

/// What HSCAN, SSCAN and ZSCAN have in common.
pub const OF_COLLECTION: Command = Command {
    since: "2.8.0",
    complexity: "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection..",
    arity: -3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::integer("cursor"),
        Arg::pattern("pattern").token("MATCH").optional(),
        Arg::integer("count").token("COUNT").optional(),
    ],
    tips: &["nondeterministic_output"],
    ..Command::BASE
};

/// The cursor and the options of HSCAN, SSCAN and ZSCAN. `None`: there is no such key, and that is answered; its
/// options have not been looked at, as in Redis.
pub fn begin_of_collection<'a, C: Collection + 'static>(
    cx: &mut Cx<'a, '_>,
) -> Result<Option<(u64, Filter<'a>)>, Error> {
    let cursor = parse_cursor(cx.args[2])?;
    if cx.keys.read_as::<C>(cx.args[1])?.is_none() {
        page(cx.out, 0, 0);
        return Ok(None);
    }
    Ok(Some((cursor, Filter::parse(cx, 3, false)?)))
}

pub const SCAN: Command = Command {
    name: "scan",
    summary: "Iterates over the key names in the database.",
    since: "2.8.0",
    complexity: "O(1) for every call. O(N) for a complete iteration.",
    arity: -2,
    flags: flag::READONLY | flag::WHOLE_DB,
    args: &[
        Arg::integer("cursor"),
        Arg::pattern("pattern").token("MATCH").optional(),
        Arg::integer("count").token("COUNT").optional(),
        Arg::string("type").token("TYPE").since("6.0.0").optional(),
    ],
    history: &[("6.0.0", "Added the `TYPE` subcommand.")],
    tips: &["nondeterministic_output", "request_policy:special"],
    run: Handler::Keys(scan),
    ..BASE
};
fn scan(cx: &mut Cx) -> Result<(), Error> {
    let cursor = parse_cursor(cx.args[1])?;
    let filter = Filter::parse(cx, 2, true)?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    let next = scan_from(cx.keys, cursor, filter.count, &mut |key, kind| {
        if filter.takes(key, kind) {
            found.push(key.to_vec());
        }
    })?;
    page(cx.out, next, found.len());
    found.iter().for_each(|key| cx.out.bulk(key));
    Ok(())
}

/// [`Scan::run`] from a cursor to the last slot. Returns the next cursor, 0 at the end.
fn scan_from(
    keys: &mut Keys,
    cursor: u64,
    count: usize,
    each: &mut dyn FnMut(&[u8], &str),
) -> Result<u64, Error> {
    let Some(slot) = Slot::new((cursor >> SLOT_SHIFT) as u16) else { return Ok(0) };
    let place = cursor & ((1 << SLOT_SHIFT) - 1);
    let last = Slot::new(Slot::COUNT as u16 - 1).expect("the last slot");
    let next = Scan { slot, place, last, count }.run(keys, each)?;
    Ok(next.map_or(0, |(slot, place)| (slot.number() as u64) << SLOT_SHIFT | place))
}

/// A part of a walk over the keys of a database.
pub struct Scan {
    /// Where it begins: a slot, and a place within it.
    pub slot: Slot,
    pub place: u64,
    /// The last slot that is walked over.
    pub last: Slot,
    /// Keys to visit before it may end.
    pub count: usize,
}

impl Scan {
    /// Visits at least `count` keys (whole segments), if there are that many. Returns where to go on; `None` at the end.
    /// Expired keys are passed over. Errors as [`crate::locks::Locks::visit`].
    pub fn run(
        self,
        keys: &mut Keys,
        each: &mut dyn FnMut(&[u8], &str),
    ) -> Result<Option<(Slot, u64)>, Error> {
        let Scan { mut slot, mut place, last, count } = self;
        let (db, now_ms) = (keys.db, keys.now_ms);
        let mut visited = 0;
        for _ in 0..SLOTS_PER_CALL_MAX.max(count) {
            place = keys.locks.visit(slot, |guard| {
                guard.db(db).scan(place, &mut |entry| {
                    visited += 1;
                    if entry.expire_ms().is_none_or(|at| at > now_ms) {
                        each(entry.key(), entry.kind().name());
                    }
                })
            })?;
            if place == 0 {
                let following = Slot::new(slot.number() + 1).filter(|next| *next <= last);
                match following.and_then(|s| keys.keyspace.next_occupied(db, s)).filter(|s| *s <= last) {
                    Some(next) => slot = next,
                    None => return Ok(None),
                }
            }
            if visited >= count {
                break;
            }
        }
        Ok(Some((slot, place)))
    }
}

pub const KEYS: Command = Command {
    name: "keys",
    summary: "Returns all key names that match a pattern.",
    complexity: "O(N) with N being the number of keys in the database.",
    arity: 2,
    flags: flag::READONLY | flag::WHOLE_DB | flag::LONG,
    acl: acl::KEYSPACE | acl::DANGEROUS,
    args: &[Arg::pattern("pattern")],
    tips: &["request_policy:all_shards", "nondeterministic_output_order"],
    run: Handler::Keys(keys),
    ..BASE
};
fn keys(cx: &mut Cx) -> Result<(), Error> {
    let pattern = cx.args[1];
    let mark = cx.out.mark();
    let mut count = 0;
    let mut cursor = 0;
    // What is found in a part is copied once more: the reply grows while no slot is locked.
    let (mut found, mut ends): (Vec<u8>, Vec<usize>) = Default::default();
    loop {
        cursor = scan_from(cx.keys, cursor, KEYS_PART, &mut |key, _| {
            if glob::matches(pattern, key, false) {
                found.extend_from_slice(key);
                ends.push(found.len());
            }
        })?;
        count += ends.len();
        let mut start = 0;
        for end in ends.drain(..) {
            cx.out.bulk(&found[start..end]);
            start = end;
        }
        found.clear();
        let is_to_go_on = cursor != 0 && cx.keys.passage.is_none_or(|passage| (passage.0)());
        if !is_to_go_on {
            break;
        }
    }
    cx.out.array_at(mark, count);
    Ok(())
}

pub const RANDOMKEY: Command = Command {
    name: "randomkey",
    summary: "Returns a random key name from the database.",
    arity: 1,
    flags: flag::READONLY | flag::WHOLE_DB,
    tips: &["request_policy:all_shards", "nondeterministic_output"],
    run: Handler::Keys(randomkey),
    ..BASE
};
fn randomkey(cx: &mut Cx) -> Result<(), Error> {
    const TRIES_MAX: usize = 100; // as Redis: then even an expired key will do
    let (db, now_ms) = (cx.keys.db, cx.keys.now_ms);
    for attempt in 0..TRIES_MAX {
        let start = Slot::new(cx.rng.below(Slot::COUNT as u64) as u16).expect("below the count");
        let keyspace = cx.keys.keyspace;
        let first = Slot::new(0).expect("slot 0");
        let Some(slot) = keyspace.next_occupied(db, start).or_else(|| keyspace.next_occupied(db, first))
        else {
            break;
        };
        let rand = cx.rng.next_u64();
        let key = cx.keys.locks.visit(slot, |guard| {
            let entry = guard.db(db).sample(rand)?;
            let is_live = entry.expire_ms().is_none_or(|at| at > now_ms) || attempt == TRIES_MAX - 1;
            is_live.then(|| entry.key().to_vec())
        })?;
        if let Some(key) = key {
            cx.out.bulk(&key);
            return Ok(());
        }
    }
    cx.out.null();
    Ok(())
}

pub const DBSIZE: Command = Command {
    name: "dbsize",
    summary: "Returns the number of keys in the database.",
    group: Group::Server,
    arity: 1,
    flags: flag::READONLY | flag::FAST | flag::WHOLE_DB,
    acl: acl::KEYSPACE,
    tips: &["request_policy:all_shards", "response_policy:agg_sum"],
    run: Handler::Keys(dbsize),
    ..Command::BASE
};
fn dbsize(cx: &mut Cx) -> Result<(), Error> {
    cx.out.int(cx.keys.keyspace.len(cx.keys.db) as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[SCAN, KEYS, RANDOMKEY, DBSIZE];
