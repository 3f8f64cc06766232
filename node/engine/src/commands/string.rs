//! Strings.

use super::expiry::TIMES;
use super::string_if::{CONDITIONS, Condition};
use crate::cx::Cx;
use crate::number::{parse_f64, parse_i64};
use crate::settings::notify;
use crate::spec::{Arg, Command, Deprecated, Group, Handler, KeySpec, flag, key};
use crate::{Args, Error, commands::expiry};
use storage::{Expiry, ValueRef};

pub(super) const BASE: Command = Command { group: Group::String, ..Command::BASE };

const EXPIRY_ARGS: &[Arg] = &[
    TIMES[0].since("2.6.12"),
    TIMES[1].since("2.6.12"),
    TIMES[2].since("6.2.0"),
    TIMES[3].since("6.2.0"),
    Arg::word("keepttl", "KEEPTTL").since("6.0.0"),
];

pub const GET: Command = Command {
    name: "get",
    summary: "Returns the string value of a key.",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(get),
    ..BASE
};
fn get(cx: &mut Cx) -> Result<(), Error> {
    match cx.keys.read_str(cx.args[1])? {
        Some(value) => cx.out.bulk(value),
        None => cx.out.null(),
    }
    Ok(())
}

/// Only with GET the old value is read.
fn set_flags(args: Args) -> u16 {
    match args.iter().skip(3).any(|a| a.eq_ignore_ascii_case(b"GET")) {
        true => key::RW | key::ACCESS | key::UPDATE,
        false => key::OW | key::UPDATE,
    }
}

pub const SET: Command = Command {
    name: "set",
    summary: "Sets the string value of a key, whatever its type. The key is created if it does not exist.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE | key::VARIABLE_FLAGS)],
    vary: Some(set_flags),
    args: &[
        Arg::key("key", 0),
        Arg::string("value"),
        Arg::one_of(
            "condition",
            &[
                Arg::word("nx", "NX").since("2.6.12"),
                Arg::word("xx", "XX").since("2.6.12"),
                CONDITIONS[0].since("8.4.0"),
                CONDITIONS[1].since("8.4.0"),
                CONDITIONS[2].since("8.4.0"),
                CONDITIONS[3].since("8.4.0"),
            ],
        )
        .optional(),
        Arg::word("get", "GET").since("6.2.0").optional(),
        Arg::one_of("expiration", EXPIRY_ARGS).optional(),
    ],
    history: &[
        ("2.6.12", "Added the `EX`, `PX`, `NX` and `XX` options."),
        ("6.0.0", "Added the `KEEPTTL` option."),
        ("6.2.0", "Added the `GET`, `EXAT` and `PXAT` options."),
        ("7.0.0", "Allowed the `NX` and `GET` options together."),
        ("8.4.0", "Added the `IFEQ`, `IFNE`, `IFDEQ` and `IFDNE` options."),
    ],
    run: Handler::Keys(set),
    ..BASE
};
fn set(cx: &mut Cx) -> Result<(), Error> {
    let (key, value) = (cx.args[1], cx.args[2]);
    if cx.args.len() == 3 {
        cx.keys.store_str(key, value, Expiry::None);
        cx.keys.changed(key, notify::STRING, "set");
        cx.out.ok();
        return Ok(());
    }
    let options = Options::parse(cx, 3, Allowed::Set)?;
    let expire = options.expire_ms(cx, "set")?;
    if options.is_get {
        // Redis 7.0: with GET the type is checked first, and a wrong one sets nothing.
        match cx.keys.read_str(key)? {
            Some(old) => cx.out.bulk(old),
            None => cx.out.null(),
        }
    }
    if !options.condition.holds(cx.keys, key)? {
        if !options.is_get {
            cx.out.null();
        }
        return Ok(());
    }
    let expiry = match (expire, options.is_keep_ttl) {
        (Some(at), _) => Expiry::At(at),
        (None, true) => Expiry::Keep,
        (None, false) => Expiry::None,
    };
    cx.keys.exists(key); // an expired value must not lend its expiry to KEEPTTL
    cx.keys.store_str(key, value, expiry);
    cx.keys.changed(key, notify::STRING, "set");
    match expire {
        Some(at) => {
            cx.keys.event(key, notify::GENERIC, "expire");
            cx.replay(&[b"SET", key, value, b"PXAT", at.to_string().as_bytes()]);
        }
        None if options.is_keep_ttl => cx.replay(&[b"SET", key, value, b"KEEPTTL"]),
        None => cx.replay(&[b"SET", key, value]),
    }
    if !options.is_get {
        cx.out.ok();
    }
    Ok(())
}

/// Options that SET, MSETEX and GETEX share.
#[derive(Default)]
pub(super) struct Options<'a> {
    pub condition: Condition<'a>,
    pub is_get: bool,
    pub is_keep_ttl: bool,
    pub is_persist: bool,
    /// Unit and argument of an expiry.
    pub expire: Option<(expiry::Unit, usize)>,
}

/// Which of the options a command takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    Set,
    /// As SET, without those that look at one value.
    SetMany,
    GetEx,
}

impl<'a> Options<'a> {
    pub fn parse(cx: &Cx<'a, '_>, from: usize, allowed: Allowed) -> Result<Options<'a>, Error> {
        use expiry::Unit;
        let mut o = Options::default();
        let mut i = from;
        while i < cx.args.len() {
            let has_next = i + 1 < cx.args.len();
            // Of the options of expiry one holds; the same one may stand again, and the last counts.
            let may_time = |unit: &Unit| {
                !o.is_keep_ttl && !o.is_persist && o.expire.is_none_or(|(held, _)| held == *unit)
            };
            let is_set = allowed != Allowed::GetEx;
            let is_one = allowed == Allowed::Set;
            if is_set && cx.is_word(i, "NX") && o.condition.may_become(&Condition::New) {
                o.condition = Condition::New;
            } else if is_set && cx.is_word(i, "XX") && o.condition.may_become(&Condition::Exists) {
                o.condition = Condition::Exists;
            } else if is_one
                && has_next
                && o.condition == Condition::None
                && let Some(condition) = Condition::parse(cx, i)?
            {
                o.condition = condition;
                i += 1;
            } else if is_one && cx.is_word(i, "GET") {
                o.is_get = true;
            } else if is_set && cx.is_word(i, "KEEPTTL") && o.expire.is_none() {
                o.is_keep_ttl = true;
            } else if !is_set && cx.is_word(i, "PERSIST") && o.expire.is_none() {
                o.is_persist = true;
            } else if has_next
                && let Some(unit) = Unit::ALL.iter().find(|u| cx.is_word(i, u.option()) && may_time(u))
            {
                o.expire = Some((*unit, i + 1));
                i += 1;
            } else {
                return Err(Error::Syntax);
            }
            i += 1;
        }
        Ok(o)
    }

    /// The absolute time of the expiry, in ms.
    pub fn expire_ms(&self, cx: &Cx, command: &'static str) -> Result<Option<i64>, Error> {
        let Some((unit, at)) = self.expire else { return Ok(None) };
        let value = cx.int(at)?;
        if value <= 0 {
            return Err(Error::InvalidExpire(command));
        }
        unit.absolute_ms(value, cx.keys.now_ms).map(Some).ok_or(Error::InvalidExpire(command))
    }
}

pub const SETNX: Command = Command {
    name: "setnx",
    summary: "Sets the string value of a key only when the key does not exist.",
    arity: 3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::OW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("value")],
    deprecated: Some(Deprecated { since: "2.6.12", replaced_by: "`SET` with the `NX` argument" }),
    run: Handler::Keys(setnx),
    ..BASE
};
fn setnx(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let is_new = !cx.keys.exists(key);
    if is_new {
        cx.keys.store_str(key, cx.args[2], Expiry::None);
        cx.keys.changed(key, notify::STRING, "set");
    }
    cx.out.int(is_new as i64);
    Ok(())
}

pub const SETEX: Command = Command {
    name: "setex",
    summary: "Sets the string value and expiration time in seconds of a key.",
    since: "2.0.0",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::integer("seconds"), Arg::string("value")],
    deprecated: Some(Deprecated { since: "2.6.12", replaced_by: "`SET` with the `EX` argument" }),
    run: Handler::Keys(|cx| set_with_expiry(cx, expiry::Unit::Seconds, "setex")),
    ..BASE
};
pub const PSETEX: Command = Command {
    name: "psetex",
    summary: "Sets the string value and expiration time in milliseconds of a key.",
    since: "2.6.0",
    args: &[Arg::key("key", 0), Arg::integer("milliseconds"), Arg::string("value")],
    deprecated: Some(Deprecated { since: "2.6.12", replaced_by: "`SET` with the `PX` argument" }),
    run: Handler::Keys(|cx| set_with_expiry(cx, expiry::Unit::Milliseconds, "psetex")),
    ..SETEX
};
fn set_with_expiry(cx: &mut Cx, unit: expiry::Unit, command: &'static str) -> Result<(), Error> {
    let (key, value) = (cx.args[1], cx.args[3]);
    let amount = cx.int(2)?;
    let at = (amount > 0)
        .then(|| unit.absolute_ms(amount, cx.keys.now_ms))
        .flatten()
        .ok_or(Error::InvalidExpire(command))?;
    cx.keys.store_str(key, value, Expiry::At(at));
    cx.keys.changed(key, notify::STRING, "set");
    cx.keys.event(key, notify::GENERIC, "expire");
    cx.replay(&[b"SET", key, value, b"PXAT", at.to_string().as_bytes()]);
    cx.out.ok();
    Ok(())
}

pub const GETEX: Command = Command {
    name: "getex",
    summary: "Returns the string value of a key after setting its expiration time.",
    since: "6.2.0",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::one_of("expiration", &[TIMES[0], TIMES[1], TIMES[2], TIMES[3], Arg::word("persist", "PERSIST")])
            .optional(),
    ],
    run: Handler::Keys(getex),
    ..BASE
};
fn getex(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let options = Options::parse(cx, 2, Allowed::GetEx)?;
    let Some(value) = cx.keys.read_str(key)? else {
        cx.out.null();
        return Ok(());
    };
    let mark = cx.out.len();
    cx.out.bulk(value);
    let expire = match options.expire_ms(cx, "getex") {
        Ok(expire) => expire,
        Err(error) => {
            cx.out.truncate(mark);
            return Err(error);
        }
    };
    match expire {
        Some(at) if at <= cx.keys.now_ms && cx.keys.may_expire => {
            cx.keys.delete(key);
            cx.replay(&[b"DEL".as_slice(), key]);
        }
        Some(at) => {
            cx.keys.set_expire(key, Some(at));
            cx.keys.changed(key, notify::GENERIC, "expire");
            cx.replay(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
        }
        None if options.is_persist && cx.keys.peek(key).is_some_and(|e| e.expire_ms().is_some()) => {
            cx.keys.set_expire(key, None);
            cx.keys.changed(key, notify::GENERIC, "persist");
            cx.replay(&[b"PERSIST".as_slice(), key]);
        }
        None => {}
    }
    Ok(())
}

pub const GETDEL: Command = Command {
    name: "getdel",
    summary: "Returns the string value of a key after deleting the key.",
    since: "6.2.0",
    arity: 2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(getdel),
    ..BASE
};
fn getdel(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    match cx.keys.read_str(key)? {
        None => cx.out.null(),
        Some(value) => {
            cx.out.bulk(value);
            cx.keys.delete(key);
            cx.replay(&[b"DEL".as_slice(), key]);
        }
    }
    Ok(())
}

pub const GETSET: Command = Command {
    name: "getset",
    summary: "Returns the previous string value of a key after setting it to a new value.",
    arity: 3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::string("value")],
    deprecated: Some(Deprecated { since: "6.2.0", replaced_by: "`SET` with the `GET` argument" }),
    run: Handler::Keys(getset),
    ..BASE
};
fn getset(cx: &mut Cx) -> Result<(), Error> {
    let (key, value) = (cx.args[1], cx.args[2]);
    match cx.keys.read_str(key)? {
        Some(old) => cx.out.bulk(old),
        None => cx.out.null(),
    }
    cx.keys.store_str(key, value, Expiry::None);
    cx.keys.changed(key, notify::STRING, "set");
    cx.replay(&[b"SET".as_slice(), key, value]);
    Ok(())
}

pub const MGET: Command = Command {
    name: "mget",
    summary: "Returns the string values of one or more keys, all at one moment.",
    complexity: "O(N) where N is the number of keys to retrieve.",
    arity: -2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::range(1, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0).multiple()],
    tips: &["request_policy:multi_shard"],
    run: Handler::Keys(mget),
    ..BASE
};
fn mget(cx: &mut Cx) -> Result<(), Error> {
    cx.out.array(cx.args.len() - 1);
    for key in &cx.args[1..] {
        match cx.keys.read_str(key) {
            Ok(Some(value)) => cx.out.bulk(value),
            _ => cx.out.null(),
        }
    }
    Ok(())
}

pub const MSET: Command = Command {
    name: "mset",
    summary: "Sets the string values of one or more keys, all at one moment.",
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys to set.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::range(1, -1, 2, key::OW | key::UPDATE)],
    args: &[Arg::block("data", &[Arg::key("key", 0), Arg::string("value")]).multiple()],
    tips: &["request_policy:multi_shard", "response_policy:all_succeeded"],
    run: Handler::Keys(mset),
    ..BASE
};
fn mset(cx: &mut Cx) -> Result<(), Error> {
    set_all(cx)?;
    cx.out.ok();
    Ok(())
}

pub const MSETNX: Command = Command {
    name: "msetnx",
    summary: "Sets the string values of one or more keys only when none of them exists.",
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys to set.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::range(1, -1, 2, key::OW | key::INSERT)],
    args: &[Arg::block("data", &[Arg::key("key", 0), Arg::string("value")]).multiple()],
    tips: &["request_policy:multi_shard", "response_policy:agg_min"],
    run: Handler::Keys(msetnx),
    ..BASE
};
fn msetnx(cx: &mut Cx) -> Result<(), Error> {
    check_pairs(cx)?;
    let is_any = cx.args[1..].iter().step_by(2).any(|key| cx.keys.exists(key));
    if !is_any {
        set_all(cx)?;
    }
    cx.out.int(!is_any as i64);
    Ok(())
}

fn check_pairs(cx: &Cx) -> Result<(), Error> {
    if !cx.args.len().is_multiple_of(2) {
        return Ok(());
    }
    Err(Error::Arity(String::from_utf8_lossy(cx.args[0]).to_lowercase()))
}

fn set_all(cx: &mut Cx) -> Result<(), Error> {
    check_pairs(cx)?;
    for pair in cx.args[1..].chunks_exact(2) {
        cx.keys.store_str(pair[0], pair[1], Expiry::None);
        cx.keys.changed(pair[0], notify::STRING, "set");
    }
    Ok(())
}

pub const APPEND: Command = Command {
    name: "append",
    summary: "Appends a string to the value of a key. Creates the key if it does not exist.",
    since: "2.0.0",
    complexity: "O(1) amortised.",
    arity: 3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("value")],
    run: Handler::Keys(append),
    ..BASE
};
fn append(cx: &mut Cx) -> Result<(), Error> {
    let (key, tail) = (cx.args[1], cx.args[2]);
    let old = cx.keys.read_str(key)?.map(|v| v.len());
    let len = old.unwrap_or(0) + tail.len();
    check_length(cx, len)?;
    match old {
        None => cx.keys.store_str(key, tail, Expiry::None),
        Some(_) => cx.keys.append_str(key, tail),
    }
    cx.keys.changed(key, notify::STRING, "append");
    cx.out.int(len as i64);
    Ok(())
}

fn check_length(cx: &Cx, len: usize) -> Result<(), Error> {
    if len > cx.settings.proto_max_bulk_len { Err(Error::StringTooLong) } else { Ok(()) }
}

pub const STRLEN: Command = Command {
    name: "strlen",
    summary: "Returns the length of a string value.",
    since: "2.2.0",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(strlen),
    ..BASE
};
fn strlen(cx: &mut Cx) -> Result<(), Error> {
    let len = cx.keys.read_str(cx.args[1])?.map_or(0, |v| v.len());
    cx.out.int(len as i64);
    Ok(())
}

pub const SETRANGE: Command = Command {
    name: "setrange",
    summary: "Overwrites a part of a string value with another by an offset. Creates the key if it does not exist.",
    since: "2.2.0",
    complexity: "O(N) where N is the length of the value.",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::integer("offset"), Arg::string("value")],
    run: Handler::Keys(setrange),
    ..BASE
};
fn setrange(cx: &mut Cx) -> Result<(), Error> {
    let (key, patch) = (cx.args[1], cx.args[3]);
    let offset = cx.int(2)?;
    if offset < 0 {
        return Err(Error::text("ERR offset is out of range"));
    }
    let len = cx.keys.read_str(key)?.map_or(0, |v| v.len());
    if patch.is_empty() {
        cx.out.int(len as i64);
        return Ok(());
    }
    let end = (offset as usize).checked_add(patch.len()).ok_or(Error::StringTooLong)?;
    check_length(cx, end)?;
    cx.keys.overwrite_str(key, offset as usize, patch);
    cx.keys.changed(key, notify::STRING, "setrange");
    cx.out.int(end.max(len) as i64);
    Ok(())
}

pub const GETRANGE: Command = Command {
    name: "getrange",
    summary: "Returns a part of the string stored at a key.",
    since: "2.4.0",
    complexity: "O(N) where N is the length of the returned string.",
    arity: 4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::integer("start"), Arg::integer("end")],
    run: Handler::Keys(getrange),
    ..BASE
};
pub const SUBSTR: Command = Command {
    name: "substr",
    summary: "Returns a part of a string value.",
    since: "1.0.0",
    deprecated: Some(Deprecated { since: "2.0.0", replaced_by: "`GETRANGE`" }),
    ..GETRANGE
};
fn getrange(cx: &mut Cx) -> Result<(), Error> {
    let (start, end) = (cx.int(2)?, cx.int(3)?);
    let value = cx.keys.read_str(cx.args[1])?.unwrap_or_default();
    let len = value.len() as i64;
    if start < 0 && end < 0 && start > end {
        cx.out.bulk(b"");
        return Ok(());
    }
    let clamp = |i: i64| if i < 0 { (len + i).max(0) } else { i };
    let (start, end) = (clamp(start), clamp(end).min(len - 1));
    match start > end || len == 0 {
        true => cx.out.bulk(b""),
        false => cx.out.bulk(&value[start as usize..=end as usize]),
    }
    Ok(())
}

const COUNTER: Command = Command {
    arity: 2,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    args: &[Arg::key("key", 0)],
    ..BASE
};
pub const INCR: Command = Command {
    name: "incr",
    summary: "Increments the integer value of a key by one. Uses 0 as initial value if the key does not exist.",
    run: Handler::Keys(|cx| add(cx, 1)),
    ..COUNTER
};
pub const DECR: Command = Command {
    name: "decr",
    summary: "Decrements the integer value of a key by one. Uses 0 as initial value if the key does not exist.",
    run: Handler::Keys(|cx| add(cx, -1)),
    ..COUNTER
};
pub const INCRBY: Command = Command {
    name: "incrby",
    summary: "Increments the integer value of a key by a number. Uses 0 as initial value if the key does not exist.",
    arity: 3,
    args: &[Arg::key("key", 0), Arg::integer("increment")],
    run: Handler::Keys(|cx| {
        let by = cx.int(2)?;
        add(cx, by)
    }),
    ..COUNTER
};
pub const DECRBY: Command = Command {
    name: "decrby",
    summary: "Decrements the integer value of a key by a number. Uses 0 as initial value if the key does not exist.",
    arity: 3,
    args: &[Arg::key("key", 0), Arg::integer("decrement")],
    run: Handler::Keys(|cx| {
        let by = cx.int(2)?.checked_neg().ok_or(Error::text("ERR decrement would overflow"))?;
        add(cx, by)
    }),
    ..COUNTER
};
fn add(cx: &mut Cx, by: i64) -> Result<(), Error> {
    let key = cx.args[1];
    let mut digits = itoa::Buffer::new();
    let sum = |old: i64| old.checked_add(by).ok_or(Error::IncrementOverflow);
    let added = cx.keys.write(key).map(|mut entry| {
        let ValueRef::Str(text) = entry.read().value() else { return Err(Error::WrongType) };
        let new = sum(parse_i64(text).ok_or(Error::NotInteger)?)?;
        entry.set_str(digits.format(new).as_bytes(), Expiry::Keep);
        Ok(new)
    });
    let new = match added {
        Some(new) => new?,
        None => {
            cx.keys.store_str(key, digits.format(by).as_bytes(), Expiry::None);
            by
        }
    };
    cx.keys.changed(key, notify::STRING, "incrby");
    cx.out.int(new);
    Ok(())
}

pub const INCRBYFLOAT: Command = Command {
    name: "incrbyfloat",
    summary: "Increments the floating point value of a key by a number. Uses 0 as initial value if the key does not exist.",
    since: "2.6.0",
    arity: 3,
    args: &[Arg::key("key", 0), Arg::double("increment")],
    run: Handler::Keys(incrbyfloat),
    ..COUNTER
};
fn incrbyfloat(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let old = cx.keys.read_str(key)?.unwrap_or(b"0").to_vec();
    if parse_f64(&old).is_none() || parse_f64(cx.args[2]).is_none() {
        return Err(Error::NotFloat);
    }
    let text = crate::long_double::add(&old, cx.args[2]).ok_or(Error::IncrementNanOrInfinity)?;
    cx.keys.store_str(key, text.as_bytes(), Expiry::Keep);
    cx.keys.changed(key, notify::STRING, "incrbyfloat");
    cx.replay(&[b"SET".as_slice(), key, text.as_bytes(), b"KEEPTTL"]);
    cx.out.bulk(text.as_bytes());
    Ok(())
}

pub static COMMANDS: &[Command] = &[
    GET,
    SET,
    SETNX,
    SETEX,
    PSETEX,
    GETEX,
    GETDEL,
    GETSET,
    MGET,
    MSET,
    MSETNX,
    APPEND,
    STRLEN,
    SETRANGE,
    GETRANGE,
    SUBSTR,
    INCR,
    DECR,
    INCRBY,
    DECRBY,
    INCRBYFLOAT,
];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn set_and_its_options() {
        assert_eq!(run(&["SET k v EX 0"]), "-ERR invalid expire time in 'set' command\r\n");
        assert_eq!(run(&["SET k v EX 9223372036854775807"]), "-ERR invalid expire time in 'set' command\r\n");
        assert_eq!(run(&["SET k v NX XX"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["SET k v PX 10 EX 10"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["SET k v KEEPTTL EX 10"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["SET k v EX 10 KEEPTTL"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["SET k v EX 10 NX EX 20 NX", "TTL k"]), ":20\r\n");
        assert_eq!(run(&["GETEX k PERSIST PERSIST"]), "$-1\r\n");
        assert_eq!(run(&["GETEX k PERSIST EX 1"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["GETEX k EX 1 PERSIST"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["SET k v XX"]), "$-1\r\n");
        assert_eq!(run(&["SET k v", "SET k w NX GET"]), "$1\r\nv\r\n");
        assert_eq!(run(&["SET k v", "SET k w GET", "GET k"]), "$1\r\nw\r\n");
        assert_eq!(run(&["SET k v EX 10", "SET k w KEEPTTL", "TTL k"]), ":10\r\n");
        assert_eq!(run(&["SET k v EX 10", "SET k w", "TTL k"]), ":-1\r\n");
    }

    #[test]
    fn what_is_replayed_has_absolute_times() {
        let mut r = Runner::default();
        r.run("SET k v EX 10");
        r.run("SET k w");
        r.run("GETEX k PX 5");
        r.run("SET k v XX");
        r.run("SET n v XX");
        assert_eq!(
            r.replayed(),
            ["SET k v PXAT 1700000010000", "SET k w", "PEXPIREAT k 1700000000005", "SET k v"]
        );
    }

    #[test]
    fn counters() {
        assert_eq!(run(&["INCR n", "INCRBY n 41"]), ":42\r\n");
        assert_eq!(
            run(&["SET n 9223372036854775807", "INCR n"]),
            "-ERR increment or decrement would overflow\r\n"
        );
        assert_eq!(run(&["DECRBY n -9223372036854775808"]), "-ERR decrement would overflow\r\n");
        assert_eq!(run(&["SET n 1x", "INCR n"]), "-ERR value is not an integer or out of range\r\n");
        assert_eq!(run(&["SET n 10.5", "INCRBYFLOAT n 0.1"]), "$4\r\n10.6\r\n");
        assert_eq!(run(&["SET n 1 EX 9", "INCR n", "TTL n"]), ":9\r\n");
    }

    #[test]
    fn ranges() {
        assert_eq!(run(&["SET k hello", "GETRANGE k 1 -2"]), "$3\r\nell\r\n");
        assert_eq!(run(&["SET k hello", "GETRANGE k 7 9"]), "$0\r\n\r\n");
        assert_eq!(run(&["SETRANGE k 2 ab", "GET k"]), "$4\r\n\0\0ab\r\n");
        assert_eq!(
            run(&["SETRANGE k 536870912 a"]),
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
        );
        assert_eq!(run(&["SET k ab", "APPEND k cd", "GET k"]), "$4\r\nabcd\r\n");
        assert_eq!(run(&["SET k ab", "APPEND k cd", "OBJECT ENCODING k"]), "$3\r\nraw\r\n");
    }

    #[test]
    fn many_keys() {
        assert_eq!(run(&["MSET a 1 b 2", "MGET a x b"]), "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n");
        assert_eq!(run(&["MSET a 1 b"]), "-ERR wrong number of arguments for 'mset' command\r\n");
        assert_eq!(run(&["SET b 1", "MSETNX a 1 b 2", "EXISTS a"]), ":0\r\n");
    }
}
