//! Expiry times: EXPIRE and TTL in their four units. What is replayed is always an absolute time in milliseconds.

use crate::Error;
use crate::cx::Cx;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};

/// How a command states a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

/// A time as SET and its kin take it, behind the word of [`Unit::option`]; in the order of [`Unit::ALL`].
pub const TIMES: [Arg; 4] = [
    Arg::integer("seconds").token("EX"),
    Arg::integer("milliseconds").token("PX"),
    Arg::unix_time("unix-time-seconds").token("EXAT"),
    Arg::unix_time("unix-time-milliseconds").token("PXAT"),
];

impl Unit {
    pub const ALL: [Unit; 4] = [Unit::Seconds, Unit::Milliseconds, Unit::UnixSeconds, Unit::UnixMilliseconds];

    /// The word before such a time in SET and GETEX.
    pub fn option(self) -> &'static str {
        match self {
            Unit::Seconds => "EX",
            Unit::Milliseconds => "PX",
            Unit::UnixSeconds => "EXAT",
            Unit::UnixMilliseconds => "PXAT",
        }
    }
    fn is_seconds(self) -> bool {
        matches!(self, Unit::Seconds | Unit::UnixSeconds)
    }
    fn is_relative(self) -> bool {
        matches!(self, Unit::Seconds | Unit::Milliseconds)
    }
    /// The absolute time in ms; `None` when it does not fit.
    pub fn absolute_ms(self, amount: i64, now_ms: i64) -> Option<i64> {
        let ms = if self.is_seconds() { amount.checked_mul(1000)? } else { amount };
        if self.is_relative() { ms.checked_add(now_ms) } else { Some(ms) }
    }
    /// An absolute time as this unit states it.
    fn state(self, at_ms: i64, now_ms: i64) -> i64 {
        let ms = if self.is_relative() { (at_ms - now_ms).max(0) } else { at_ms };
        if self.is_seconds() { (ms + if self.is_relative() { 500 } else { 0 }) / 1000 } else { ms }
    }
}

const CONDITION: Arg = Arg::one_of(
    "condition",
    &[Arg::word("nx", "NX"), Arg::word("xx", "XX"), Arg::word("gt", "GT"), Arg::word("lt", "LT")],
)
.since("7.0.0")
.optional();

pub const EXPIRE: Command = Command {
    name: "expire",
    summary: "Sets the expiration time of a key in seconds.",
    group: Group::Generic,
    arity: -3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::integer("seconds"), CONDITION],
    history: &[("7.0.0", "Added options: `NX`, `XX`, `GT` and `LT`.")],
    run: Handler::Keys(|cx| expire(cx, Unit::Seconds, "expire")),
    ..Command::BASE
};
pub const PEXPIRE: Command = Command {
    name: "pexpire",
    summary: "Sets the expiration time of a key in milliseconds.",
    since: "2.6.0",
    args: &[Arg::key("key", 0), Arg::integer("milliseconds"), CONDITION],
    run: Handler::Keys(|cx| expire(cx, Unit::Milliseconds, "pexpire")),
    ..EXPIRE
};
pub const EXPIREAT: Command = Command {
    name: "expireat",
    summary: "Sets the expiration time of a key to a Unix timestamp in seconds.",
    since: "1.2.0",
    args: &[Arg::key("key", 0), Arg::unix_time("unix-time-seconds"), CONDITION],
    run: Handler::Keys(|cx| expire(cx, Unit::UnixSeconds, "expireat")),
    ..EXPIRE
};
pub const PEXPIREAT: Command = Command {
    name: "pexpireat",
    summary: "Sets the expiration time of a key to a Unix timestamp in milliseconds.",
    since: "2.6.0",
    args: &[Arg::key("key", 0), Arg::unix_time("unix-time-milliseconds"), CONDITION],
    run: Handler::Keys(|cx| expire(cx, Unit::UnixMilliseconds, "pexpireat")),
    ..EXPIRE
};

#[derive(Default)]
struct Conditions {
    is_nx: bool,
    is_xx: bool,
    is_gt: bool,
    is_lt: bool,
}

impl Conditions {
    fn parse(cx: &Cx) -> Result<Conditions, Error> {
        let mut c = Conditions::default();
        for i in 3..cx.args.len() {
            let word = String::from_utf8_lossy(cx.args[i]).to_uppercase();
            match word.as_str() {
                "NX" => c.is_nx = true,
                "XX" => c.is_xx = true,
                "GT" => c.is_gt = true,
                "LT" => c.is_lt = true,
                _ => {
                    let shown = String::from_utf8_lossy(cx.args[i]);
                    return Err(Error::err(&format!("Unsupported option {shown}")));
                }
            }
        }
        if c.is_nx && (c.is_xx || c.is_gt || c.is_lt) {
            return Err(Error::text("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if c.is_gt && c.is_lt {
            return Err(Error::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(c)
    }

    /// Whether the present expiry (`None`: never) lets `at` replace it.
    fn hold(&self, present: Option<i64>, at: i64) -> bool {
        !(self.is_nx && present.is_some()
            || self.is_xx && present.is_none()
            || self.is_gt && present.is_none_or(|p| at <= p)
            || self.is_lt && present.is_some_and(|p| at >= p))
    }
}

fn expire(cx: &mut Cx, unit: Unit, command: &'static str) -> Result<(), Error> {
    let key = cx.args[1];
    let conditions = Conditions::parse(cx)?;
    let amount = cx.int(2)?;
    let at = unit.absolute_ms(amount, cx.keys.now_ms).ok_or(Error::InvalidExpire(command))?;
    let Some(entry) = cx.keys.peek(key) else {
        cx.out.int(0);
        return Ok(());
    };
    if !conditions.hold(entry.expire_ms(), at) {
        cx.out.int(0);
        return Ok(());
    }
    if at <= cx.keys.now_ms && cx.keys.may_expire {
        cx.keys.delete(key);
        let verb: &[u8] = if cx.settings.lazyfree_lazy_expire { b"UNLINK" } else { b"DEL" };
        cx.replay(&[verb, key]);
    } else {
        cx.keys.set_expire(key, Some(at));
        cx.keys.changed(key, notify::GENERIC, "expire");
        cx.replay(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
    }
    cx.out.int(1);
    Ok(())
}

pub const TTL: Command = Command {
    name: "ttl",
    summary: "Returns the expiration time in seconds of a key.",
    group: Group::Generic,
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    history: &[("2.8.0", "Added the -2 reply.")],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(|cx| ttl(cx, Unit::Seconds)),
    ..Command::BASE
};
pub const PTTL: Command = Command {
    name: "pttl",
    summary: "Returns the expiration time in milliseconds of a key.",
    since: "2.6.0",
    run: Handler::Keys(|cx| ttl(cx, Unit::Milliseconds)),
    ..TTL
};
pub const EXPIRETIME: Command = Command {
    name: "expiretime",
    summary: "Returns the expiration time of a key as a Unix timestamp in seconds.",
    since: "7.0.0",
    history: &[],
    tips: &[],
    run: Handler::Keys(|cx| ttl(cx, Unit::UnixSeconds)),
    ..TTL
};
pub const PEXPIRETIME: Command = Command {
    name: "pexpiretime",
    summary: "Returns the expiration time of a key as a Unix timestamp in milliseconds.",
    since: "7.0.0",
    history: &[],
    tips: &[],
    run: Handler::Keys(|cx| ttl(cx, Unit::UnixMilliseconds)),
    ..TTL
};
fn ttl(cx: &mut Cx, unit: Unit) -> Result<(), Error> {
    let now_ms = cx.keys.now_ms;
    let reply = match cx.keys.peek(cx.args[1]).map(|e| e.expire_ms()) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => unit.state(at, now_ms),
    };
    cx.out.int(reply);
    Ok(())
}

pub const PERSIST: Command = Command {
    name: "persist",
    summary: "Removes the expiration time of a key.",
    since: "2.2.0",
    group: Group::Generic,
    arity: 2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(persist),
    ..Command::BASE
};
fn persist(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let has_expiry = cx.keys.peek(key).is_some_and(|e| e.expire_ms().is_some());
    if has_expiry {
        cx.keys.set_expire(key, None);
        cx.keys.changed(key, notify::GENERIC, "persist");
    }
    cx.out.int(has_expiry as i64);
    Ok(())
}

pub static COMMANDS: &[Command] =
    &[EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT, TTL, PTTL, EXPIRETIME, PEXPIRETIME, PERSIST];
