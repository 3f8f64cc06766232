//! Hashes.

use super::collection::{RandomCount, changed, held, wrong_arity};
use super::scan;
use crate::cx::Cx;
use crate::keys::{Keys, take_due};
use crate::number::{parse_f64, parse_i64};
use crate::settings::notify;
use crate::spec::{Arg, Command, Deprecated, Group, Handler, KeySpec, flag, key};
use crate::{Error, long_double};
use storage::{Hash, Live};

pub(super) const BASE: Command = Command { group: Group::Hash, ..Command::BASE };

pub const HSET: Command = Command {
    name: "hset",
    summary: "Sets one or more fields of a hash. The hash is created if it does not exist.",
    since: "2.0.0",
    complexity: "O(1) for each field/value pair added, so O(N) to add N field/value pairs when the command is called with multiple field/value pairs.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    element: 2,
    args: &[
        Arg::key("key", 0),
        Arg::block("field_value", &[Arg::string("field"), Arg::string("value")]).multiple(),
    ],
    history: &[("4.0.0", "Accepts multiple `field` and `value` arguments.")],
    run: Handler::Keys(hset),
    ..BASE
};
fn hset(cx: &mut Cx) -> Result<(), Error> {
    let created = set_pairs(cx)?;
    cx.out.int(created as i64);
    Ok(())
}

pub const HMSET: Command = Command {
    name: "hmset",
    summary: "Sets one or more fields of a hash and answers OK.",
    since: "2.0.0",
    complexity: "O(N) where N is the number of fields being set.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    element: 2,
    args: &[
        Arg::key("key", 0),
        Arg::block("field_value", &[Arg::string("field"), Arg::string("value")]).multiple(),
    ],
    deprecated: Some(Deprecated { since: "4.0.0", replaced_by: "`HSET` with multiple field-value pairs" }),
    run: Handler::Keys(hmset),
    ..BASE
};
fn hmset(cx: &mut Cx) -> Result<(), Error> {
    set_pairs(cx)?;
    cx.out.ok();
    Ok(())
}

/// Removes fields of the hash at a key whose time has come, all of `named` among them. `Err`: it is no hash.
pub(super) fn settle(keys: &mut Keys<'_>, key: &[u8], named: &[&[u8]]) -> Result<(), Error> {
    let at_ms = keys.fields_at();
    if held::<Hash>(keys, key)?.is_some_and(|hash| hash.next_expiry().is_some_and(|at| at <= at_ms)) {
        keys.expire_fields(key, named);
    }
    Ok(())
}

/// The hash at a key, without fields whose time has come.
fn read<'k>(keys: &'k mut Keys<'_>, key: &[u8]) -> Result<Option<Live<'k>>, Error> {
    let at_ms = keys.fields_at();
    Ok(keys.read_as::<Hash>(key)?.map(|hash| hash.live(at_ms)))
}

/// Says that fields have expired that were removed while others were set.
fn gone(cx: &mut Cx, fields: &[Vec<u8>]) {
    if !fields.is_empty() {
        cx.keys.event(cx.args[1], notify::HASH, "hexpired");
        cx.keys.fields_expired(cx.args[1], fields);
    }
}

/// After a read that passed over fields whose time has come.
#[inline]
fn after_read(cx: &mut Cx, has_hidden: bool) -> Result<(), Error> {
    if has_hidden {
        cx.keys.expire_fields(cx.args[1], &[]);
    }
    Ok(())
}

/// Whether a read passed over fields.
#[inline]
fn has_hidden(hash: Option<Live>) -> bool {
    hash.is_some_and(|hash| hash.has_hidden())
}

/// Sets the fields of HSET and HMSET; returns how many are new.
fn set_pairs(cx: &mut Cx) -> Result<usize, Error> {
    let (key, pairs) = (cx.args[1], &cx.args[2..]);
    if !pairs.len().is_multiple_of(2) {
        return Err(wrong_arity(cx));
    }
    let (thresholds, at_ms, mut expired) = (&cx.settings.thresholds, cx.keys.fields_at(), Vec::new());
    let created = cx.keys.update_or_new(key, |hash: &mut Hash| {
        if hash.next_expiry().is_some_and(|at| at <= at_ms) {
            let fields: Vec<&[u8]> = pairs.iter().step_by(2).copied().collect();
            expired = take_due(hash, at_ms, &fields);
        }
        pairs.chunks_exact(2).filter(|pair| hash.set(pair[0], pair[1], thresholds)).count()
    })?;
    gone(cx, &expired);
    changed(cx.keys, key, notify::HASH, "hset", pairs.len() / 2);
    Ok(created)
}

pub const HSETNX: Command = Command {
    name: "hsetnx",
    summary: "Sets a field of a hash only if the field does not exist.",
    since: "2.0.0",
    complexity: "O(1)",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field"), Arg::string("value")],
    run: Handler::Keys(hsetnx),
    ..BASE
};
fn hsetnx(cx: &mut Cx) -> Result<(), Error> {
    let (key, field, value) = (cx.args[1], cx.args[2], cx.args[3]);
    let (thresholds, at_ms, mut expired) = (&cx.settings.thresholds, cx.keys.fields_at(), Vec::new());
    let is_set = cx.keys.update_or_new(key, |hash: &mut Hash| {
        expired = take_due(hash, at_ms, &[field]);
        !hash.contains(field) && hash.set(field, value, thresholds)
    })?;
    gone(cx, &expired);
    if is_set {
        cx.keys.changed(key, notify::HASH, "hset");
    }
    cx.out.int(is_set as i64);
    Ok(())
}

pub const HGET: Command = Command {
    name: "hget",
    summary: "Returns the value of a field of a hash.",
    since: "2.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field")],
    run: Handler::Keys(hget),
    ..BASE
};
fn hget(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    match hash.and_then(|hash| hash.get(cx.args[2])) {
        Some(value) => cx.out.bulk(value),
        None => cx.out.null(),
    }
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HMGET: Command = Command {
    name: "hmget",
    summary: "Returns the values of the given fields of a hash.",
    since: "2.0.0",
    complexity: "O(N) where N is the number of fields being requested.",
    arity: -3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field").multiple()],
    run: Handler::Keys(hmget),
    ..BASE
};
fn hmget(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    let fields = &cx.args[2..];
    cx.out.array(fields.len());
    for field in fields {
        match hash.and_then(|hash| hash.get(field)) {
            Some(value) => cx.out.bulk(value),
            None => cx.out.null(),
        }
    }
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HDEL: Command = Command {
    name: "hdel",
    summary: "Deletes one or more fields of a hash. The hash goes with its last field.",
    since: "2.0.0",
    complexity: "O(N) where N is the number of fields to be removed.",
    arity: -3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field").multiple()],
    history: &[("2.4.0", "Accepts multiple `field` arguments.")],
    run: Handler::Keys(hdel),
    ..BASE
};
fn hdel(cx: &mut Cx) -> Result<(), Error> {
    let (key, fields) = (cx.args[1], &cx.args[2..]);
    settle(cx.keys, key, fields)?;
    let is_any = held::<Hash>(cx.keys, key)?.is_some_and(|hash| fields.iter().any(|f| hash.contains(f)));
    if !is_any {
        cx.out.int(0);
        return Ok(());
    }
    cx.keys.changed(key, notify::HASH, "hdel");
    let deleted = cx.keys.update(key, |hash: &mut Hash| fields.iter().filter(|f| hash.remove(f)).count())?;
    let deleted = deleted.unwrap_or(0);
    cx.keys.effects.dirty += deleted as u64 - 1;
    cx.out.int(deleted as i64);
    Ok(())
}

pub const HLEN: Command = Command {
    name: "hlen",
    summary: "Returns the number of fields of a hash.",
    since: "2.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(hlen),
    ..BASE
};
fn hlen(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    cx.out.int(hash.map_or(0, |hash| hash.len()) as i64);
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HSTRLEN: Command = Command {
    name: "hstrlen",
    summary: "Returns the length of the value of a field of a hash.",
    since: "3.2.0",
    complexity: "O(1)",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field")],
    run: Handler::Keys(hstrlen),
    ..BASE
};
fn hstrlen(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    let value = hash.and_then(|hash| hash.get(cx.args[2]));
    cx.out.int(value.map_or(0, |v| v.len()) as i64);
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HEXISTS: Command = Command {
    name: "hexists",
    summary: "Determines whether a field of a hash exists.",
    since: "2.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field")],
    run: Handler::Keys(hexists),
    ..BASE
};
fn hexists(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    cx.out.int(hash.is_some_and(|hash| hash.contains(cx.args[2])) as i64);
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HINCRBY: Command = Command {
    name: "hincrby",
    summary: "Adds an integer to the value of a field of a hash; a missing field counts as 0.",
    since: "2.0.0",
    complexity: "O(1)",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field"), Arg::integer("increment")],
    run: Handler::Keys(hincrby),
    ..BASE
};
fn hincrby(cx: &mut Cx) -> Result<(), Error> {
    let (key, field, by) = (cx.args[1], cx.args[2], cx.int(3)?);
    settle(cx.keys, key, &[field])?;
    let old = match held::<Hash>(cx.keys, key)?.and_then(|hash| hash.get(field)) {
        Some(text) => parse_i64(text).ok_or(Error::text("ERR hash value is not an integer"))?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or(Error::IncrementOverflow)?;
    set_field(cx, new.to_string().as_bytes())?;
    cx.keys.changed(key, notify::HASH, "hincrby");
    cx.out.int(new);
    Ok(())
}

pub const HINCRBYFLOAT: Command = Command {
    name: "hincrbyfloat",
    summary: "Adds a floating point number to the value of a field of a hash; a missing field counts as 0.",
    since: "2.6.0",
    complexity: "O(1)",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("field"), Arg::double("increment")],
    run: Handler::Keys(hincrbyfloat),
    ..BASE
};
fn hincrbyfloat(cx: &mut Cx) -> Result<(), Error> {
    let (key, field) = (cx.args[1], cx.args[2]);
    if cx.float(3)?.is_infinite() {
        return Err(Error::text("ERR value is NaN or Infinity"));
    }
    settle(cx.keys, key, &[field])?;
    let hash = held::<Hash>(cx.keys, key)?;
    let expires = hash.is_some_and(|hash| hash.expiry(field).is_some());
    let old = hash.and_then(|hash| hash.get(field)).unwrap_or(b"0");
    if parse_f64(old).is_none() {
        return Err(Error::text("ERR hash value is not a float"));
    }
    let new = long_double::add(old, cx.args[3]).ok_or(Error::IncrementNanOrInfinity)?;
    set_field(cx, new.as_bytes())?;
    cx.keys.changed(key, notify::HASH, "hincrbyfloat");
    // The sum is replayed, so that rounding elsewhere cannot differ.
    if expires {
        cx.replay(&[b"HSETEX".as_slice(), key, b"KEEPTTL", b"FIELDS", b"1", field, new.as_bytes()]);
    } else {
        cx.replay(&[b"HSET".as_slice(), key, field, new.as_bytes()]);
    }
    cx.out.bulk(new.as_bytes());
    Ok(())
}

/// Sets the field in argument 2, which goes on expiring if it does.
fn set_field(cx: &mut Cx, value: &[u8]) -> Result<(), Error> {
    let (field, thresholds) = (cx.args[2], &cx.settings.thresholds);
    cx.keys.update_or_new(cx.args[1], |hash: &mut Hash| hash.set_keeping_expiry(field, value, thresholds))?;
    Ok(())
}

pub const HGETALL: Command = Command {
    name: "hgetall",
    summary: "Returns all fields of a hash with their values.",
    since: "2.0.0",
    complexity: "O(N) where N is the size of the hash.",
    arity: 2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(hgetall),
    ..BASE
};
fn hgetall(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    cx.out.map(hash.map_or(0, |hash| hash.len()));
    for (field, value) in hash.into_iter().flat_map(|hash| hash.iter()) {
        cx.out.bulk(field);
        cx.out.bulk(value);
    }
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HKEYS: Command = Command {
    name: "hkeys",
    summary: "Returns all fields of a hash.",
    since: "2.0.0",
    complexity: "O(N) where N is the size of the hash.",
    arity: 2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(hkeys),
    ..BASE
};
fn hkeys(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    cx.out.array(hash.map_or(0, |hash| hash.len()));
    hash.into_iter().flat_map(|hash| hash.iter()).for_each(|(field, _)| cx.out.bulk(field));
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HVALS: Command = Command {
    name: "hvals",
    summary: "Returns all values of a hash.",
    since: "2.0.0",
    complexity: "O(N) where N is the size of the hash.",
    arity: 2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(hvals),
    ..BASE
};
fn hvals(cx: &mut Cx) -> Result<(), Error> {
    let hash = read(cx.keys, cx.args[1])?;
    cx.out.array(hash.map_or(0, |hash| hash.len()));
    hash.into_iter().flat_map(|hash| hash.iter()).for_each(|(_, value)| cx.out.bulk(value));
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub const HRANDFIELD: Command = Command {
    name: "hrandfield",
    summary: "Returns one or more fields of a hash at random.",
    since: "6.2.0",
    complexity: "O(N) where N is the number of fields returned",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::block("options", &[Arg::integer("count"), Arg::word("withvalues", "WITHVALUES").optional()])
            .optional(),
    ],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(hrandfield),
    ..BASE
};
fn hrandfield(cx: &mut Cx) -> Result<(), Error> {
    if cx.args.len() == 2 {
        let rand = cx.rng.next_u64();
        let hash = read(cx.keys, cx.args[1])?.filter(|hash| !hash.is_empty());
        match hash.and_then(|hash| hash.numbered().at((rand % hash.len() as u64) as usize)) {
            Some((field, _)) => cx.out.bulk(field),
            None => cx.out.null(),
        }
        let has_hidden = has_hidden(hash);
        return after_read(cx, has_hidden);
    }
    let count = RandomCount::parse(cx)?;
    let with_values = cx.args.len() == 4 && cx.is_word(3, "WITHVALUES");
    if cx.args.len() > 3 && !with_values {
        return Err(Error::Syntax);
    }
    let count = count.check(with_values)?;
    let Some(hash) = read(cx.keys, cx.args[1])? else {
        cx.out.array(0);
        return Ok(());
    };
    let chosen = count.choose(hash.len(), cx.rng);
    let numbered = hash.numbered();
    let is_nested = with_values && cx.out.is_resp3();
    cx.out.array(if with_values && !is_nested { chosen.len() * 2 } else { chosen.len() });
    for (field, value) in chosen.into_iter().filter_map(|i| numbered.at(i)) {
        if is_nested {
            cx.out.array(2);
        }
        cx.out.bulk(field);
        if with_values {
            cx.out.bulk(value);
        }
    }
    let has_hidden = hash.has_hidden();
    after_read(cx, has_hidden)
}

pub const HSCAN: Command = Command {
    name: "hscan",
    summary: "Iterates over the fields of a hash and their values.",
    group: Group::Hash,
    run: Handler::Keys(hscan),
    ..scan::OF_COLLECTION
};
fn hscan(cx: &mut Cx) -> Result<(), Error> {
    let Some((cursor, filter)) = scan::begin_of_collection::<Hash>(cx)? else { return Ok(()) };
    let mut found = Vec::new();
    let at_ms = cx.keys.fields_at();
    let hash = held::<Hash>(cx.keys, cx.args[1])?.map(|hash| hash.live(at_ms));
    let next = hash.map_or(0, |hash| {
        hash.scan(cursor, filter.count, &mut |field, value| {
            if filter.is_match(field) {
                found.push((field, value));
            }
        })
    });
    scan::page(cx.out, next, found.len() * 2);
    for (field, value) in found {
        cx.out.bulk(field);
        cx.out.bulk(value);
    }
    let has_hidden = has_hidden(hash);
    after_read(cx, has_hidden)
}

pub static COMMANDS: &[Command] = &[
    HSET,
    HMSET,
    HSETNX,
    HGET,
    HMGET,
    HDEL,
    HLEN,
    HSTRLEN,
    HEXISTS,
    HINCRBY,
    HINCRBYFLOAT,
    HGETALL,
    HKEYS,
    HVALS,
    HRANDFIELD,
    HSCAN,
];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn set_get_delete() {
        assert_eq!(run(&["HSET h a 1 b 2", "HSET h a 3 c 4"]), ":1\r\n");
        assert_eq!(run(&["HSET h a 1 b 2", "HMGET h a x b"]), "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n");
        assert_eq!(run(&["HSET h a 1", "HGETALL h"]), "*2\r\n$1\r\na\r\n$1\r\n1\r\n");
        assert_eq!(run(&["HSET h a 1 b"]), "-ERR wrong number of arguments for 'hset' command\r\n");
        assert_eq!(run(&["HSET h a 1 b 2", "HDEL h a x b", "EXISTS h"]), ":0\r\n");
        assert_eq!(run(&["HSETNX h a 1", "HSETNX h a 2", "HGET h a"]), "$1\r\n1\r\n");
        assert_eq!(
            run(&["SET s 1", "HGET s a"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
    }

    #[test]
    fn increments() {
        assert_eq!(run(&["HINCRBY h a 5", "HINCRBY h a -7"]), ":-2\r\n");
        assert_eq!(run(&["HSET h a x", "HINCRBY h a 1"]), "-ERR hash value is not an integer\r\n");
        assert_eq!(
            run(&["HSET h a 9223372036854775807", "HINCRBY h a 1"]),
            "-ERR increment or decrement would overflow\r\n"
        );
        let mut r = Runner::default();
        assert_eq!(r.all(&["HSET h a 10.50", "HINCRBYFLOAT h a 0.1"]), "$4\r\n10.6\r\n");
        assert_eq!(r.replayed()[1], "HSET h a 10.6");
        assert_eq!(r.run("HINCRBYFLOAT h a inf"), "-ERR value is NaN or Infinity\r\n");
    }

    #[test]
    fn the_last_field_takes_the_hash_along() {
        let mut r = Runner::default();
        r.settings.notify_keyspace_events = u32::MAX;
        r.all(&["HSET h a 1 b 2", "HDEL h a b z"]);
        assert_eq!(r.replayed(), ["HSET h a 1 b 2", "HDEL h a b z"]);
        let events: Vec<String> = r.published().into_iter().filter(|e| e.contains("keyspace")).collect();
        assert_eq!(
            events,
            [
                "__keyspace@0__:h new",
                "__keyspace@0__:h hset",
                "__keyspace@0__:h hdel",
                "__keyspace@0__:h del"
            ]
        );
    }

    #[test]
    fn random_fields_and_scan() {
        assert_eq!(run(&["HSET h a 1", "HRANDFIELD h -3"]), "*3\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n");
        assert_eq!(run(&["HSET h a 1", "HRANDFIELD h 9 WITHVALUES"]), "*2\r\n$1\r\na\r\n$1\r\n1\r\n");
        assert_eq!(run(&["HRANDFIELD h 3 x"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["HRANDFIELD h"]), "$-1\r\n");
        assert_eq!(
            run(&["HSET h a 1 b 2", "HSCAN h 0 MATCH b*"]),
            "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nb\r\n$1\r\n2\r\n"
        );
        assert_eq!(run(&["HSCAN h 0 nonsense"]), "*2\r\n$1\r\n0\r\n*0\r\n");
    }
}
