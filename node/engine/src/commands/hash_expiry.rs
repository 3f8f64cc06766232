//! Fields of hashes that expire by themselves, as in Redis 8: HEXPIRE and its kin, HTTL and its kin, HPERSIST, HGETEX,
//! HSETEX, HGETDEL.
//!
//! A field whose time has come is hidden at once and removed soon: when somebody comes by, or by the expiry cycle. What is
//! replayed are effects: HDEL for what has expired, HPEXPIREAT with absolute times.

use super::collection::{changed, held, wrong_arity};
use super::expiry::{TIMES, Unit};
use super::hash::{BASE, settle};
use crate::Error;
use crate::cx::Cx;
use crate::keys::Keys;
use crate::number::parse_i64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use storage::{FIELD_EXPIRY_MAX, Hash};

const NOT_POSITIVE: &str = "ERR Number of fields must be a positive integer";

/// The fields behind `FIELDS numfields`, the first of which is argument `at`; they end the command.
fn fields<'a>(cx: &Cx<'a, '_>, at: usize, not_positive: &'static str) -> Result<&'a [&'a [u8]], Error> {
    if !cx.is_word(at, "FIELDS") {
        return Err(Error::text("ERR Mandatory argument FIELDS is missing or not at the right position"));
    }
    let count = cx.args.get(at + 1).and_then(|n| parse_i64(n)).filter(|n| *n >= 1);
    let count = count.ok_or(Error::text(not_positive))?;
    let fields = cx.args.get(at + 2..).unwrap_or_default();
    if count as u64 != fields.len() as u64 {
        return Err(Error::text("ERR The `numfields` parameter must match the number of arguments"));
    }
    Ok(fields)
}

/// A time at argument `at`, in ms since 1970.
fn time(cx: &Cx, at: usize, unit: Unit) -> Result<i64, Error> {
    let amount = cx.int(at)?;
    if amount < 0 {
        return Err(Error::text("ERR invalid expire time, must be >= 0"));
    }
    unit.absolute_ms(amount, cx.keys.now_ms).filter(|at| *at <= FIELD_EXPIRY_MAX).ok_or_else(|| {
        let name = String::from_utf8_lossy(cx.args[0]).to_lowercase();
        Error::err(&format!("invalid expire time in '{name}' command"))
    })
}

/// What sets a time did to a field. The numbers are those of the replies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    NoField = -2,
    NotMet = 0,
    Set = 1,
    /// The time was past: the field is gone.
    Deleted = 2,
}

/// When a field may get a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Any,
    Without,
    With,
    Later,
    Sooner,
}

impl Condition {
    fn parse(cx: &Cx, at: usize) -> Condition {
        match () {
            () if cx.is_word(at, "NX") => Condition::Without,
            () if cx.is_word(at, "XX") => Condition::With,
            () if cx.is_word(at, "GT") => Condition::Later,
            () if cx.is_word(at, "LT") => Condition::Sooner,
            () => Condition::Any,
        }
    }
    /// A field without a time counts as one that expires last of all.
    fn allows(self, old: Option<i64>, new: i64) -> bool {
        match self {
            Condition::Any => true,
            Condition::Without => old.is_none(),
            Condition::With => old.is_some(),
            Condition::Later => old.is_some_and(|old| new > old),
            Condition::Sooner => old.is_none_or(|old| new < old),
        }
    }
}

/// Gives fields of the hash at argument 1 a time, or deletes those for which it is past; tells events and replays it.
/// What has expired has been removed before. No reply is written.
fn set_times(cx: &mut Cx, fields: &[&[u8]], at_ms: i64, condition: Condition) -> Result<Vec<Outcome>, Error> {
    let (key, thresholds, seen_at) = (cx.args[1], &cx.settings.thresholds, cx.keys.fields_at());
    let is_past = at_ms <= cx.keys.now_ms && cx.keys.may_expire;
    let Some(hash) = held::<Hash>(cx.keys, key)? else { return Ok(vec![Outcome::NoField; fields.len()]) };
    // Told before it is done: the event precedes that of a hash which goes with its last field.
    let is_any = fields
        .iter()
        .any(|field| hash.live(seen_at).contains(field) && condition.allows(hash.expiry(field), at_ms));
    if is_any {
        changed(cx.keys, key, notify::HASH, if is_past { "hdel" } else { "hexpire" }, 1);
    }
    let apply = |hash: &mut Hash| -> Vec<Outcome> {
        let apply_one = |field: &&[u8]| match () {
            () if !hash.live(seen_at).contains(field) => Outcome::NoField,
            () if !condition.allows(hash.expiry(field), at_ms) => Outcome::NotMet,
            () if is_past => {
                hash.remove(field);
                Outcome::Deleted
            }
            () => {
                hash.set_expiry(field, Some(at_ms), thresholds);
                Outcome::Set
            }
        };
        fields.iter().map(apply_one).collect()
    };
    let outcomes = cx.keys.update(key, apply)?.unwrap_or_default();
    let with = |wanted| fields.iter().zip(&outcomes).filter(move |(_, o)| **o == wanted).map(|(f, _)| *f);
    let (set, deleted): (Vec<&[u8]>, Vec<&[u8]>) =
        (with(Outcome::Set).collect(), with(Outcome::Deleted).collect());
    cx.keys.effects.dirty += ((set.len() + deleted.len()) as u64).saturating_sub(1);
    if !deleted.is_empty() {
        cx.replay(&[&[b"HDEL".as_slice(), key], &deleted[..]].concat());
    }
    if !set.is_empty() {
        let (at, count) = (at_ms.to_string(), set.len().to_string());
        let head = [b"HPEXPIREAT".as_slice(), key, at.as_bytes(), b"FIELDS", count.as_bytes()];
        cx.replay(&[&head, &set[..]].concat());
    }
    Ok(outcomes)
}

/// Makes fields stay, tells it and replays it. What has expired has been removed before. Tells of each field whether it
/// would have expired; `None`: there is no such field.
fn persist(cx: &mut Cx, fields: &[&[u8]]) -> Result<Vec<Option<bool>>, Error> {
    let (key, thresholds, seen_at) = (cx.args[1], &cx.settings.thresholds, cx.keys.fields_at());
    let apply = |hash: &mut Hash| -> Vec<Option<bool>> {
        let apply_one = |field: &&[u8]| {
            let had_time = hash.expiry(field).is_some();
            let is_there = hash.live(seen_at).contains(field);
            (is_there && hash.set_expiry(field, None, thresholds)).then_some(had_time)
        };
        fields.iter().map(apply_one).collect()
    };
    let outcomes = cx.keys.update(key, apply)?.unwrap_or_else(|| vec![None; fields.len()]);
    let kept: Vec<&[u8]> =
        fields.iter().zip(&outcomes).filter(|(_, o)| **o == Some(true)).map(|(field, _)| *field).collect();
    if !kept.is_empty() {
        changed(cx.keys, key, notify::HASH, "hpersist", kept.len());
        let count = kept.len().to_string();
        let head = [b"HPERSIST".as_slice(), key, b"FIELDS", count.as_bytes()];
        cx.replay(&[&head, &kept[..]].concat());
    }
    Ok(outcomes)
}

const FIELDS: Arg =
    Arg::block("fields", &[Arg::integer("numfields"), Arg::string("field").multiple()]).token("FIELDS");
const CONDITION: Arg = Arg::one_of(
    "condition",
    &[Arg::word("nx", "NX"), Arg::word("xx", "XX"), Arg::word("gt", "GT"), Arg::word("lt", "LT")],
)
.optional();

const OF_FIELDS: Command = Command {
    since: "7.4.0",
    complexity: "O(N) where N is the number of specified fields",
    arity: -5,
    ..BASE
};

pub const HEXPIRE: Command = Command {
    name: "hexpire",
    summary: "Sets in how many seconds fields of a hash expire.",
    arity: -6,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::integer("seconds"), CONDITION, FIELDS],
    run: Handler::Keys(|cx| hexpire(cx, Unit::Seconds)),
    ..OF_FIELDS
};
pub const HPEXPIRE: Command = Command {
    name: "hpexpire",
    summary: "Sets in how many milliseconds fields of a hash expire.",
    args: &[Arg::key("key", 0), Arg::integer("milliseconds"), CONDITION, FIELDS],
    run: Handler::Keys(|cx| hexpire(cx, Unit::Milliseconds)),
    ..HEXPIRE
};
pub const HEXPIREAT: Command = Command {
    name: "hexpireat",
    summary: "Sets at which second fields of a hash expire.",
    args: &[Arg::key("key", 0), Arg::unix_time("unix-time-seconds"), CONDITION, FIELDS],
    run: Handler::Keys(|cx| hexpire(cx, Unit::UnixSeconds)),
    ..HEXPIRE
};
pub const HPEXPIREAT: Command = Command {
    name: "hpexpireat",
    summary: "Sets at which millisecond fields of a hash expire.",
    args: &[Arg::key("key", 0), Arg::unix_time("unix-time-milliseconds"), CONDITION, FIELDS],
    run: Handler::Keys(|cx| hexpire(cx, Unit::UnixMilliseconds)),
    ..HEXPIRE
};
fn hexpire(cx: &mut Cx, unit: Unit) -> Result<(), Error> {
    let key = cx.args[1];
    held::<Hash>(cx.keys, key)?;
    let at_ms = time(cx, 2, unit)?;
    let condition = Condition::parse(cx, 3);
    let fields_at = if condition == Condition::Any { 3 } else { 4 };
    let fields = fields(cx, fields_at, "ERR Parameter `numFields` should be greater than 0")?;
    settle(cx.keys, key, fields)?;
    let outcomes = set_times(cx, fields, at_ms, condition)?;
    cx.out.array(outcomes.len());
    outcomes.iter().for_each(|outcome| cx.out.int(*outcome as i64));
    Ok(())
}

pub const HTTL: Command = Command {
    name: "httl",
    summary: "Returns in how many seconds fields of a hash expire.",
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), FIELDS],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(|cx| httl(cx, Unit::Seconds)),
    ..OF_FIELDS
};
pub const HPTTL: Command = Command {
    name: "hpttl",
    summary: "Returns in how many milliseconds fields of a hash expire.",
    run: Handler::Keys(|cx| httl(cx, Unit::Milliseconds)),
    ..HTTL
};
pub const HEXPIRETIME: Command = Command {
    name: "hexpiretime",
    summary: "Returns at which second fields of a hash expire.",
    tips: &[],
    run: Handler::Keys(|cx| httl(cx, Unit::UnixSeconds)),
    ..HTTL
};
pub const HPEXPIRETIME: Command = Command {
    name: "hpexpiretime",
    summary: "Returns at which millisecond fields of a hash expire.",
    tips: &[],
    run: Handler::Keys(|cx| httl(cx, Unit::UnixMilliseconds)),
    ..HTTL
};
fn httl(cx: &mut Cx, unit: Unit) -> Result<(), Error> {
    const NO_FIELD: i64 = -2;
    const NO_TIME: i64 = -1;
    let (key, now_ms, at_ms) = (cx.args[1], cx.keys.now_ms, cx.keys.fields_at());
    cx.keys.read_as::<Hash>(key)?;
    let fields = fields(cx, 2, NOT_POSITIVE)?;
    let hash = held::<Hash>(cx.keys, key)?.map(|hash| hash.live(at_ms));
    // Redis 8 rounds seconds up.
    let state = |at: i64| match unit {
        Unit::Seconds => (at + 999 - now_ms) / 1000,
        Unit::Milliseconds => at - now_ms,
        Unit::UnixSeconds => (at + 999) / 1000,
        Unit::UnixMilliseconds => at,
    };
    cx.out.array(fields.len());
    for field in fields {
        cx.out.int(match hash.filter(|hash| hash.contains(field)) {
            None => NO_FIELD,
            Some(hash) => hash.expiry(field).map_or(NO_TIME, state),
        });
    }
    settle(cx.keys, key, &[])
}

pub const HPERSIST: Command = Command {
    name: "hpersist",
    summary: "Makes fields of a hash stay that would have expired.",
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), FIELDS],
    run: Handler::Keys(hpersist),
    ..OF_FIELDS
};
fn hpersist(cx: &mut Cx) -> Result<(), Error> {
    held::<Hash>(cx.keys, cx.args[1])?;
    let fields = fields(cx, 2, NOT_POSITIVE)?;
    settle(cx.keys, cx.args[1], fields)?;
    let outcomes = persist(cx, fields)?;
    cx.out.array(outcomes.len());
    outcomes.iter().for_each(|had_time| {
        cx.out.int(match had_time {
            None => -2,
            Some(false) => -1,
            Some(true) => 1,
        })
    });
    Ok(())
}

/// Replies with the values of fields; if they are `taken` with it, of one that is named twice once.
fn reply_values(cx: &mut Cx, fields: &[&[u8]], taken: bool) -> Result<(), Error> {
    let at_ms = cx.keys.fields_at();
    let hash = cx.keys.read_as::<Hash>(cx.args[1])?.map(|hash| hash.live(at_ms));
    cx.out.array(fields.len());
    for (i, field) in fields.iter().enumerate() {
        let is_gone = taken && fields[..i].contains(field);
        match hash.filter(|_| !is_gone).and_then(|hash| hash.get(field)) {
            Some(value) => cx.out.bulk(value),
            None => cx.out.null(),
        }
    }
    Ok(())
}

pub const HGETEX: Command = Command {
    name: "hgetex",
    summary: "Returns the values of fields of a hash, and sets when they expire or that they do not.",
    since: "8.0.0",
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::one_of("expiration", &[TIMES[0], TIMES[1], TIMES[2], TIMES[3], Arg::word("persist", "PERSIST")])
            .optional(),
        FIELDS,
    ],
    run: Handler::Keys(hgetex),
    ..OF_FIELDS
};
fn hgetex(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    held::<Hash>(cx.keys, key)?;
    let unit = Unit::ALL.into_iter().find(|unit| cx.is_word(2, unit.option()));
    let at_ms = unit.map(|unit| time(cx, 3, unit)).transpose()?;
    let is_persist = cx.is_word(2, "PERSIST");
    let fields_at = 2 + 2 * unit.is_some() as usize + is_persist as usize;
    if fields_at + 1 >= cx.args.len() {
        return Err(wrong_arity(cx));
    }
    let fields = fields(cx, fields_at, NOT_POSITIVE)?;
    settle(cx.keys, key, fields)?;
    let is_past = at_ms.is_some_and(|at| at <= cx.keys.now_ms) && cx.keys.may_expire;
    reply_values(cx, fields, is_past)?;
    if let Some(at_ms) = at_ms {
        set_times(cx, fields, at_ms, Condition::Any)?;
    } else if is_persist {
        persist(cx, fields)?;
    }
    Ok(())
}

pub const HGETDEL: Command = Command {
    name: "hgetdel",
    summary: "Returns the values of fields of a hash and deletes them. The hash goes with its last field.",
    since: "8.0.0",
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), FIELDS],
    run: Handler::Keys(hgetdel),
    ..OF_FIELDS
};
fn hgetdel(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    held::<Hash>(cx.keys, key)?;
    let fields = fields(cx, 2, NOT_POSITIVE)?;
    settle(cx.keys, key, fields)?;
    reply_values(cx, fields, true)?;
    let at_ms = cx.keys.fields_at();
    let hash = held::<Hash>(cx.keys, key)?.map(|hash| hash.live(at_ms));
    let is_deleted =
        |i: usize| hash.is_some_and(|hash| hash.contains(fields[i])) && !fields[..i].contains(&fields[i]);
    let deleted: Vec<&[u8]> = (0..fields.len()).filter(|i| is_deleted(*i)).map(|i| fields[i]).collect();
    if !deleted.is_empty() {
        changed(cx.keys, key, notify::HASH, "hdel", deleted.len());
        cx.keys.update(key, |hash: &mut Hash| deleted.iter().for_each(|field| _ = hash.remove(field)))?;
        cx.replay(&[&[b"HDEL".as_slice(), key], &deleted[..]].concat());
    }
    Ok(())
}

pub const HSETEX: Command = Command {
    name: "hsetex",
    summary: "Sets fields of a hash and when they expire, on a condition on all of them.",
    since: "8.0.0",
    complexity: "O(N) where N is the number of fields being set.",
    arity: -6,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::one_of("condition", &[Arg::word("fnx", "FNX"), Arg::word("fxx", "FXX")]).optional(),
        Arg::one_of("expiration", &[TIMES[0], TIMES[1], TIMES[2], TIMES[3], Arg::word("keepttl", "KEEPTTL")])
            .optional(),
        Arg::block(
            "fields",
            &[
                Arg::integer("numfields"),
                Arg::block("data", &[Arg::string("field"), Arg::string("value")]).multiple(),
            ],
        )
        .token("FIELDS"),
    ],
    run: Handler::Keys(hsetex),
    ..OF_FIELDS
};

/// The arguments of HSETEX.
#[derive(Default)]
struct SetRequest<'a> {
    /// All fields must be there (`true`), or none (`false`).
    must_exist: Option<bool>,
    at_ms: Option<i64>,
    keeps_time: bool,
    pairs: &'a [&'a [u8]],
}

impl<'a> SetRequest<'a> {
    fn parse(cx: &Cx<'a, '_>) -> Result<SetRequest<'a>, Error> {
        let mut request = SetRequest::default();
        let mut i = 2;
        while i < cx.args.len() {
            let unit = Unit::ALL.into_iter().find(|unit| cx.is_word(i, unit.option()));
            let is_keep = cx.is_word(i, "KEEPTTL");
            if cx.is_word(i, "FIELDS") {
                request.pairs = Self::pairs(cx, i)?;
                return Ok(request);
            }
            if (unit.is_some() || is_keep) && (request.at_ms.is_some() || request.keeps_time) {
                return Err(Error::text(
                    "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
                ));
            }
            match unit {
                Some(_) if i + 1 >= cx.args.len() => return Err(Error::text("ERR missing expire time")),
                Some(unit) => {
                    request.at_ms = Some(time(cx, i + 1, unit)?);
                    i += 1;
                }
                None if is_keep => request.keeps_time = true,
                None if cx.is_word(i, "FXX") || cx.is_word(i, "FNX") => {
                    if request.must_exist.is_some() {
                        return Err(Error::text("ERR Only one of FXX or FNX arguments can be specified"));
                    }
                    request.must_exist = Some(cx.is_word(i, "FXX"));
                }
                None => {
                    let text = String::from_utf8_lossy(cx.args[i]);
                    return Err(Error::err(&format!("unknown argument: {text}")));
                }
            }
            i += 1;
        }
        Err(wrong_arity(cx))
    }

    fn pairs(cx: &Cx<'a, '_>, at: usize) -> Result<&'a [&'a [u8]], Error> {
        if at + 3 >= cx.args.len() {
            return Err(wrong_arity(cx));
        }
        let count = parse_i64(cx.args[at + 1]).filter(|n| (1..=i32::MAX as i64).contains(n));
        let count = count.ok_or(Error::text("ERR invalid number of fields"))? as usize;
        let pairs = &cx.args[at + 2..];
        if pairs.len() != 2 * count { Err(wrong_arity(cx)) } else { Ok(pairs) }
    }
}

fn hsetex(cx: &mut Cx) -> Result<(), Error> {
    let request = SetRequest::parse(cx)?;
    let (key, thresholds) = (cx.args[1], &cx.settings.thresholds);
    held::<Hash>(cx.keys, key)?;
    let fields: Vec<&[u8]> = request.pairs.iter().step_by(2).copied().collect();
    settle(cx.keys, key, &fields)?;
    if let Some(must_exist) = request.must_exist
        && !fields_are(cx.keys, key, &fields, must_exist)?
    {
        cx.out.int(0);
        return Ok(());
    }
    let is_past = request.at_ms.is_some_and(|at| at <= cx.keys.now_ms) && cx.keys.may_expire;
    cx.keys.update_or_new(key, |hash: &mut Hash| {
        for pair in request.pairs.chunks_exact(2) {
            match request.keeps_time {
                true => _ = hash.set_keeping_expiry(pair[0], pair[1], thresholds),
                false => _ = hash.set(pair[0], pair[1], thresholds),
            }
            if let Some(at_ms) = request.at_ms.filter(|_| !is_past) {
                hash.set_expiry(pair[0], Some(at_ms), thresholds);
            }
        }
    })?;
    changed(cx.keys, key, notify::HASH, "hset", fields.len());
    match request.at_ms {
        Some(_) if is_past => {
            cx.keys.event(key, notify::HASH, "hdel");
            cx.keys.update(key, |hash: &mut Hash| fields.iter().for_each(|field| _ = hash.remove(field)))?;
            cx.replay(&[&[b"HDEL".as_slice(), key], &fields[..]].concat());
        }
        Some(at_ms) => {
            cx.keys.event(key, notify::HASH, "hexpire");
            let (at, count) = (at_ms.to_string(), fields.len().to_string());
            let head = [b"HSETEX".as_slice(), key, b"PXAT", at.as_bytes(), b"FIELDS", count.as_bytes()];
            cx.replay(&[&head, request.pairs].concat());
        }
        None if request.keeps_time => {
            let count = fields.len().to_string();
            let head = [b"HSETEX".as_slice(), key, b"KEEPTTL", b"FIELDS", count.as_bytes()];
            cx.replay(&[&head, request.pairs].concat());
        }
        None => cx.replay(&[&[b"HSET".as_slice(), key], request.pairs].concat()),
    }
    cx.out.int(1);
    Ok(())
}

/// Whether all fields are there, or none.
fn fields_are(keys: &mut Keys<'_>, key: &[u8], fields: &[&[u8]], there: bool) -> Result<bool, Error> {
    let at_ms = keys.fields_at();
    let hash = held::<Hash>(keys, key)?.map(|hash| hash.live(at_ms));
    Ok(fields.iter().all(|field| hash.is_some_and(|hash| hash.contains(field)) == there))
}

pub static COMMANDS: &[Command] = &[
    HEXPIRE,
    HPEXPIRE,
    HEXPIREAT,
    HPEXPIREAT,
    HTTL,
    HPTTL,
    HEXPIRETIME,
    HPEXPIRETIME,
    HPERSIST,
    HGETEX,
    HGETDEL,
    HSETEX,
];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    /// A hash of which `a` expires in 100 ms, `b` in 200 ms.
    fn runner() -> Runner {
        let mut r = Runner::default();
        r.all(&["HSET h a 1 b 2 c 3", "HPEXPIRE h 100 FIELDS 1 a", "HPEXPIRE h 200 FIELDS 1 b"]);
        r.replayed();
        r
    }

    #[test]
    fn times_are_set_on_conditions() {
        let mut r = Runner::default();
        r.run("HSET h a 1 b 2");
        assert_eq!(r.run("HEXPIRE h 10 FIELDS 2 a x"), "*2\r\n:1\r\n:-2\r\n");
        assert_eq!(r.run("HEXPIRE h 20 NX FIELDS 2 a b"), "*2\r\n:0\r\n:1\r\n");
        assert_eq!(r.run("HEXPIRE h 5 GT FIELDS 1 a"), "*1\r\n:0\r\n");
        assert_eq!(r.run("HEXPIRE h 5 LT FIELDS 1 a"), "*1\r\n:1\r\n");
        assert_eq!(r.run("HTTL h FIELDS 3 a b x"), "*3\r\n:5\r\n:20\r\n:-2\r\n");
        assert_eq!(r.run("HPERSIST h FIELDS 2 a x"), "*2\r\n:1\r\n:-2\r\n");
        assert_eq!(r.run("HPERSIST h FIELDS 1 a"), "*1\r\n:-1\r\n");
        assert_eq!(r.run("HEXPIRE h 5 XX FIELDS 1 a"), "*1\r\n:0\r\n");
        assert_eq!(r.run("HEXPIRE h 5 LT FIELDS 1 a"), "*1\r\n:1\r\n");
        assert_eq!(r.run("HPEXPIRETIME h FIELDS 1 a"), "*1\r\n:1700000005000\r\n");
        assert_eq!(r.run("OBJECT ENCODING h"), "$10\r\nlistpackex\r\n");
        assert_eq!(r.run("HEXPIRE none 5 FIELDS 1 a"), "*1\r\n:-2\r\n");
    }

    #[test]
    fn effects_are_replayed() {
        let mut r = Runner::default();
        r.run("HSET h a 1 b 2");
        r.replayed();
        r.run("HEXPIRE h 10 FIELDS 2 a x");
        r.run("HEXPIRE h 10 NX FIELDS 1 a");
        r.run("HEXPIRE h 0 FIELDS 1 b");
        r.run("HPERSIST h FIELDS 2 a x");
        r.run("HSETEX h EX 5 FIELDS 1 d 4");
        r.run("HSETEX h KEEPTTL FIELDS 1 d 5");
        r.run("HGETEX h PX 7 FIELDS 1 d");
        r.run("HGETDEL h FIELDS 2 d d");
        assert_eq!(
            r.replayed(),
            [
                "HPEXPIREAT h 1700000010000 FIELDS 1 a",
                "HDEL h b",
                "HPERSIST h FIELDS 1 a",
                "HSETEX h PXAT 1700000005000 FIELDS 1 d 4",
                "HSETEX h KEEPTTL FIELDS 1 d 5",
                "HPEXPIREAT h 1700000000007 FIELDS 1 d",
                "HDEL h d",
            ]
        );
    }

    #[test]
    fn what_has_expired_is_hidden_and_goes() {
        let reads = [
            ("HGET h a", "$-1\r\n"),
            ("HMGET h a b", "*2\r\n$-1\r\n$1\r\n2\r\n"),
            ("HEXISTS h a", ":0\r\n"),
            ("HSTRLEN h a", ":0\r\n"),
            ("HLEN h", ":2\r\n"),
            ("HGETALL h", "*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\nc\r\n$1\r\n3\r\n"),
            ("HKEYS h", "*2\r\n$1\r\nb\r\n$1\r\nc\r\n"),
            ("HVALS h", "*2\r\n$1\r\n2\r\n$1\r\n3\r\n"),
            ("HRANDFIELD h 9", "*2\r\n$1\r\nb\r\n$1\r\nc\r\n"),
            ("HSCAN h 0", "*2\r\n$1\r\n0\r\n*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\nc\r\n$1\r\n3\r\n"),
            ("HTTL h FIELDS 1 a", "*1\r\n:-2\r\n"),
            ("HGETEX h FIELDS 1 a", "*1\r\n$-1\r\n"),
            ("HGETDEL h FIELDS 1 a", "*1\r\n$-1\r\n"),
            ("HPERSIST h FIELDS 1 a", "*1\r\n:-2\r\n"),
        ];
        for (line, reply) in reads {
            let mut r = runner();
            r.now_ms += 100;
            assert_eq!(r.run(line), reply, "{line}");
            assert_eq!(r.replayed(), ["HDEL h a"], "{line}");
            let mut replica = runner();
            (replica.now_ms, replica.status.is_replica) = (replica.now_ms + 100, true);
            replica.settings.replica_read_only = false;
            assert_eq!(replica.run(line), reply, "{line}");
            assert_eq!(replica.replayed(), [""; 0], "{line}");
        }
    }

    #[test]
    fn writes_find_no_expired_field() {
        for (line, reply, replayed) in [
            ("HSET h a 5", ":1\r\n", "HDEL h a; HSET h a 5"),
            ("HSETNX h a 5", ":1\r\n", "HDEL h a; HSETNX h a 5"),
            ("HINCRBY h a 5", ":5\r\n", "HDEL h a; HINCRBY h a 5"),
            ("HINCRBYFLOAT h a 5", "$1\r\n5\r\n", "HDEL h a; HSET h a 5"),
            ("HDEL h a b", ":1\r\n", "HDEL h a; HDEL h a b"),
            ("HSETEX h FNX FIELDS 1 a 1", ":1\r\n", "HDEL h a; HSET h a 1"),
            ("HEXPIRE h 1 FIELDS 1 a", "*1\r\n:-2\r\n", "HDEL h a"),
        ] {
            let mut r = runner();
            r.now_ms += 100;
            assert_eq!(r.run(line), reply, "{line}");
            assert_eq!(r.replayed(), [replayed], "{line}");
        }
    }

    #[test]
    fn setting_a_field_ends_its_time_but_adding_to_it_does_not() {
        let mut r = runner();
        r.run("HSET h a 5");
        r.run("HINCRBY h b 5");
        assert_eq!(r.run("HPTTL h FIELDS 2 a b"), "*2\r\n:-1\r\n:200\r\n");
        r.replayed();
        r.run("HINCRBYFLOAT h b 1");
        assert_eq!(r.replayed(), ["HSETEX h KEEPTTL FIELDS 1 b 8"]);
        assert_eq!(r.run("HPTTL h FIELDS 1 b"), "*1\r\n:200\r\n");
    }

    #[test]
    fn the_last_field_takes_the_hash_along_when_it_expires() {
        let mut r = Runner::default();
        r.settings.notify_keyspace_events = u32::MAX;
        r.all(&["HSET h a 1", "HPEXPIRE h 5 FIELDS 1 a"]);
        r.now_ms += 5;
        r.published();
        assert_eq!(r.run("HGET h a"), "$-1\r\n");
        let events: Vec<String> = r.published().into_iter().filter(|e| e.contains("keyspace")).collect();
        assert_eq!(events, ["__keyspace@0__:h hexpired", "__keyspace@0__:h del"]);
        assert_eq!(r.run("EXISTS h"), ":0\r\n");
        assert_eq!(r.all(&["HSET h a 1", "HEXPIRE h 0 FIELDS 1 a"]), "*1\r\n:2\r\n");
        assert_eq!(r.run("EXISTS h"), ":0\r\n");
    }

    #[test]
    fn a_stream_sees_every_field() {
        let mut r = runner();
        r.now_ms += 1000;
        r.session.is_primary_link = true;
        assert_eq!(r.run("HSET h a 5"), ":0\r\n");
        assert_eq!(r.run("HPEXPIREAT h 1 FIELDS 1 c"), "*1\r\n:1\r\n");
        assert_eq!(r.run("HLEN h"), ":3\r\n");
    }

    #[test]
    fn copies_have_the_same_times() {
        let mut r = runner();
        r.run("COPY h i");
        r.run("RENAME h j");
        let dump = r.dump("j");
        r.run_args(&[b"RESTORE", b"k", b"0", &dump]);
        for key in ["i", "j", "k"] {
            assert_eq!(
                r.run(&format!("HPTTL {key} FIELDS 3 a b c")),
                "*3\r\n:100\r\n:200\r\n:-1\r\n",
                "{key}"
            );
        }
        assert_eq!(
            r.all(&["RPUSH l 1", "HSET p1 f v", "HPEXPIRE p1 9 FIELDS 1 f", "SORT l GET p*->f"]),
            "*1\r\n$1\r\nv\r\n"
        );
        r.now_ms += 9;
        assert_eq!(r.run("SORT l GET p*->f"), "*1\r\n$-1\r\n");
    }

    #[test]
    fn the_cycle_removes_a_bounded_number_under_one_lock() {
        let mut r = Runner::default();
        for i in 0..2000 {
            r.run(&format!("HSETEX h PX 10 FIELDS 1 f{i} v"));
        }
        r.run("HSET h stays v");
        r.run("HSETEX gone PX 10 FIELDS 1 f v");
        r.replayed();
        assert_eq!(r.expire_cycle(), 0);
        r.now_ms += 10;
        assert_eq!(r.expire_cycle(), 2001);
        let replayed = r.replayed();
        assert_eq!(replayed.len(), 5);
        assert!(replayed.iter().all(|unit| unit.starts_with("HDEL ") && unit.split(' ').count() <= 514));
        assert_eq!(r.run("DBSIZE"), ":1\r\n");
        assert_eq!(r.run("OBJECT ENCODING h"), "$9\r\nhashtable\r\n");
        assert_eq!(r.expire_cycle(), 0);
    }

    #[test]
    fn arguments() {
        for (line, error) in [
            (
                "HEXPIRE h 1 FIELD 1 a",
                "ERR Mandatory argument FIELDS is missing or not at the right position",
            ),
            ("HEXPIRE h 1 FIELDS 0 a", "ERR Parameter `numFields` should be greater than 0"),
            ("HEXPIRE h 1 FIELDS 2 a", "ERR The `numfields` parameter must match the number of arguments"),
            ("HEXPIRE h -1 FIELDS 1 a", "ERR invalid expire time, must be >= 0"),
            ("HEXPIRE h 281474976710656 FIELDS 1 a", "ERR invalid expire time in 'hexpire' command"),
            ("HTTL h FIELDS 0 a", "ERR Number of fields must be a positive integer"),
            ("HSETEX h FNX FXX FIELDS 1 a 1", "ERR Only one of FXX or FNX arguments can be specified"),
            (
                "HSETEX h EX 1 KEEPTTL FIELDS 1 a 1",
                "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
            ),
            ("HSETEX h FIELDS 2 a 1", "ERR wrong number of arguments for 'hsetex' command"),
            ("HSETEX h NO FIELDS 1 a 1", "ERR unknown argument: NO"),
            ("HGETEX h EX 1 FIELDS", "ERR wrong number of arguments for 'hgetex' command"),
        ] {
            assert_eq!(run(&["HSET h a 1", line]), format!("-{error}\r\n"), "{line}");
        }
    }
}
