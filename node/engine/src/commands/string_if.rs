//! Strings that are set or deleted on a condition: what SET's IFEQ and its kin mean, DELEX, DELIFEQ, MSETEX, DIGEST.
//!
//! A digest is XXH3 of 64 bits with seed 0, as sixteen hexadecimal digits.

use super::expiry::TIMES;
use super::string::{Allowed, BASE, Options};
use crate::Error;
use crate::cx::Cx;
use crate::keys::Keys;
use crate::number::parse_i64;
use crate::settings::notify;
use crate::spec::{Arg, Begin, Command, Find, Handler, KeySpec, flag, key};
use storage::Expiry;
use xxhash_rust::xxh3::xxh3_64;

/// What must hold of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Condition<'a> {
    #[default]
    None,
    New,
    Exists,
    Equal(&'a [u8]),
    NotEqual(&'a [u8]),
    DigestEqual(u64),
    DigestNotEqual(u64),
}

pub const CONDITIONS: [Arg; 4] = [
    Arg::string("ifeq-value").token("IFEQ").since("8.4.0"),
    Arg::string("ifne-value").token("IFNE").since("8.4.0"),
    Arg::string("ifdeq-digest").token("IFDEQ").since("8.4.0"),
    Arg::string("ifdne-digest").token("IFDNE").since("8.4.0"),
];

impl<'a> Condition<'a> {
    /// The condition on the value at argument `at`, which has an operand; `None`: there is none.
    pub fn parse(cx: &Cx<'a, '_>, at: usize) -> Result<Option<Condition<'a>>, Error> {
        let operand = cx.args[at + 1];
        Ok(Some(match () {
            () if cx.is_word(at, "IFEQ") => Condition::Equal(operand),
            () if cx.is_word(at, "IFNE") => Condition::NotEqual(operand),
            () if cx.is_word(at, "IFDEQ") => Condition::DigestEqual(parse_digest(operand)?),
            () if cx.is_word(at, "IFDNE") => Condition::DigestNotEqual(parse_digest(operand)?),
            () => return Ok(None),
        }))
    }

    /// Whether `other` may follow it among the options: repeating it is no error, contradicting it is.
    pub fn may_become(&self, other: &Condition) -> bool {
        *self == Condition::None || self == other
    }

    /// Whether it holds. `Err`: it is one on a value, and the key holds no string.
    pub fn holds(&self, keys: &mut Keys<'_>, key: &[u8]) -> Result<bool, Error> {
        match self {
            Condition::None => return Ok(true),
            Condition::New => return Ok(!keys.exists(key)),
            Condition::Exists => return Ok(keys.exists(key)),
            _ => {}
        }
        let value = keys.read_str(key)?;
        Ok(match *self {
            Condition::Equal(other) => value == Some(other),
            Condition::NotEqual(other) => value != Some(other),
            Condition::DigestEqual(digest) => value.is_some_and(|v| xxh3_64(v) == digest),
            Condition::DigestNotEqual(digest) => value.is_none_or(|v| xxh3_64(v) != digest),
            Condition::None | Condition::New | Condition::Exists => unreachable!("answered above"),
        })
    }
}

fn parse_digest(text: &[u8]) -> Result<u64, Error> {
    const DIGITS: usize = 16;
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.len() == DIGITS && text.bytes().all(|c| c.is_ascii_hexdigit()))
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(Error::text("ERR must be exactly 16 hexadecimal characters"))
}

pub const DIGEST: Command = Command {
    name: "digest",
    summary: "Returns a hash of the string value of a key, in hexadecimal digits.",
    since: "8.4.0",
    complexity: "O(N) where N is the length of the string value.",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(digest),
    ..BASE
};
fn digest(cx: &mut Cx) -> Result<(), Error> {
    match cx.keys.read_str(cx.args[1])?.map(xxh3_64) {
        Some(digest) => cx.out.bulk(format!("{digest:016x}").as_bytes()),
        None => cx.out.null(),
    }
    Ok(())
}

fn delete(cx: &mut Cx, condition: Condition) -> Result<(), Error> {
    let key = cx.args[1];
    let is_deleted = cx.keys.exists(key) && condition.holds(cx.keys, key)? && cx.keys.delete(key);
    if is_deleted {
        cx.replay(&[b"DEL".as_slice(), key]);
    }
    cx.out.int(is_deleted as i64);
    Ok(())
}

pub const DELEX: Command = Command {
    name: "delex",
    summary: "Deletes a key on a condition on its string value.",
    since: "8.4.0",
    complexity: "O(1) for IFEQ/IFNE, O(N) for IFDEQ/IFDNE where N is the length of the string value.",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE | key::VARIABLE_FLAGS)],
    args: &[Arg::key("key", 0), Arg::one_of("condition", &CONDITIONS).optional()],
    run: Handler::Keys(delex),
    ..BASE
};
fn delex(cx: &mut Cx) -> Result<(), Error> {
    let condition = match cx.args.len() {
        2 => Condition::None,
        4 => Condition::parse(cx, 2)?.ok_or(Error::Syntax)?,
        _ => return Err(Error::Syntax),
    };
    delete(cx, condition)
}

pub const DELIFEQ: Command = Command {
    name: "delifeq",
    summary: "Deletes a key if its string value is equal to another.",
    since: "9.0.0",
    arity: 3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RM | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::string("value")],
    run: Handler::Keys(|cx| delete(cx, Condition::Equal(cx.args[2]))),
    ..BASE
};

pub const MSETEX: Command = Command {
    name: "msetex",
    summary: "Sets the string values of several keys with one expiration, all at one moment, on a condition on all of them.",
    since: "8.4.0",
    complexity: "O(N) where N is the number of keys to set.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
    keys: &[KeySpec {
        begin: Begin::Index(1),
        find: Find::Count { count: 0, first: 1, step: 2 },
        flags: key::OW | key::UPDATE,
    }],
    args: &[
        Arg::integer("numkeys"),
        Arg::block("data", &[Arg::key("key", 0), Arg::string("value")]).multiple(),
        Arg::one_of("condition", &[Arg::word("nx", "NX"), Arg::word("xx", "XX")]).optional(),
        Arg::one_of("expiration", &[TIMES[0], TIMES[1], TIMES[2], TIMES[3], Arg::word("keepttl", "KEEPTTL")])
            .optional(),
    ],
    tips: &["request_policy:multi_shard", "response_policy:all_succeeded"],
    run: Handler::Keys(msetex),
    ..BASE
};
fn msetex(cx: &mut Cx) -> Result<(), Error> {
    let count = parse_i64(cx.args[1])
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| (1..=i32::MAX as usize).contains(n))
        .ok_or(Error::text("ERR invalid numkeys value or out of range"))?;
    let end = 2 + 2 * count;
    if end > cx.args.len() {
        return Err(Error::Syntax);
    }
    let options = Options::parse(cx, end, Allowed::SetMany)?;
    let at = options.expire_ms(cx, "msetex")?;
    let expiry = match (at, options.is_keep_ttl) {
        (Some(at), _) => Expiry::At(at),
        (None, true) => Expiry::Keep,
        (None, false) => Expiry::None,
    };
    let pairs = &cx.args[2..end];
    for pair in pairs.chunks_exact(2) {
        if !options.condition.holds(cx.keys, pair[0])? {
            cx.out.int(0);
            return Ok(());
        }
    }
    for pair in pairs.chunks_exact(2) {
        cx.keys.exists(pair[0]); // an expired value must not lend its expiry to KEEPTTL
        cx.keys.store_str(pair[0], pair[1], expiry);
        cx.keys.changed(pair[0], notify::STRING, "set");
        match at {
            Some(at) => {
                cx.keys.event(pair[0], notify::GENERIC, "expire");
                cx.replay(&[b"SET", pair[0], pair[1], b"PXAT", at.to_string().as_bytes()]);
            }
            None if options.is_keep_ttl => cx.replay(&[b"SET", pair[0], pair[1], b"KEEPTTL"]),
            None => cx.replay(&[b"SET", pair[0], pair[1]]),
        }
    }
    cx.out.int(1);
    Ok(())
}

pub static COMMANDS: &[Command] = &[DIGEST, DELEX, DELIFEQ, MSETEX];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn set_if() {
        assert_eq!(run(&["SET k a", "SET k b IFEQ a", "GET k"]), "$1\r\nb\r\n");
        assert_eq!(run(&["SET k a", "SET k b IFEQ x"]), "$-1\r\n");
        assert_eq!(run(&["SET k b IFEQ a", "EXISTS k"]), ":0\r\n");
        assert_eq!(run(&["SET k b IFNE a", "GET k"]), "$1\r\nb\r\n");
        assert_eq!(run(&["SET k a", "SET k b IFNE a GET"]), "$1\r\na\r\n");
        assert_eq!(run(&["SET k 'Hello world'", "SET k b IFDEQ B6acb9d84a38ff74"]), "+OK\r\n");
        assert_eq!(run(&["SET k 'Hello world'", "SET k b IFDNE b6acb9d84a38ff74"]), "$-1\r\n");
        assert_eq!(run(&["SET k b IFDEQ xyz"]), "-ERR must be exactly 16 hexadecimal characters\r\n");
        for line in ["SET k b IFEQ a NX", "SET k b XX IFEQ a", "SET k b IFEQ", "SET k b IFEQ a IFEQ a"] {
            assert_eq!(run(&[line]), "-ERR syntax error\r\n", "{line}");
        }
        assert_eq!(run(&["LPUSH k 1", "SET k b IFEQ a"]).split(' ').next(), Some("-WRONGTYPE"));
        let mut r = Runner::default();
        r.all(&["SET k a", "SET k b IFEQ a EX 10", "SET k c IFEQ x"]);
        assert_eq!(r.replayed(), ["SET k a", "SET k b PXAT 1700000010000"]);
    }

    #[test]
    fn delete_if() {
        let mut r = Runner::default();
        r.run("MSET a 1 b 1 c 1 d 1");
        r.replayed();
        assert_eq!(r.run("DELIFEQ a 2"), ":0\r\n");
        assert_eq!(r.run("DELIFEQ a 1"), ":1\r\n");
        assert_eq!(r.run("DELIFEQ a 1"), ":0\r\n");
        assert_eq!(r.run("DELEX b IFNE 1"), ":0\r\n");
        assert_eq!(r.run("DELEX b IFEQ 1"), ":1\r\n");
        let digest = r.bytes_of(&[b"DIGEST", b"c"]);
        assert_eq!(r.run_args(&[b"DELEX", b"c", b"IFDEQ", &digest]), ":1\r\n");
        assert_eq!(r.run("DELEX d"), ":1\r\n");
        assert_eq!(r.run("DELEX none IFNE 1"), ":0\r\n");
        assert_eq!(r.replayed(), ["DEL a", "DEL b", "DEL c", "DEL d"]);
        assert_eq!(r.run("DELEX d IFEQ"), "-ERR syntax error\r\n");
        assert_eq!(r.all(&["LPUSH l 1", "DELEX l IFEQ 1"]).split(' ').next(), Some("-WRONGTYPE"));
        assert_eq!(r.run("DELEX l"), ":1\r\n");
    }

    #[test]
    fn digests() {
        assert_eq!(run(&["SET k 'Hello world'", "DIGEST k"]), "$16\r\nb6acb9d84a38ff74\r\n");
        assert_eq!(run(&["DIGEST k"]), "$-1\r\n");
    }

    #[test]
    fn many_with_one_expiry() {
        let mut r = Runner::default();
        assert_eq!(r.run("MSETEX 2 a 1 b 2 EX 10"), ":1\r\n");
        assert_eq!(r.replayed(), ["SET a 1 PXAT 1700000010000; SET b 2 PXAT 1700000010000"]);
        assert_eq!(r.run("TTL b"), ":10\r\n");
        assert_eq!(r.run("MSETEX 2 b 3 c 3 NX"), ":0\r\n");
        assert_eq!(r.run("MSETEX 2 b 3 c 3 XX"), ":0\r\n");
        assert_eq!(r.run("MSETEX 1 b 3 XX KEEPTTL"), ":1\r\n");
        assert_eq!(r.run("TTL b"), ":10\r\n");
        assert_eq!(r.run("MSETEX 1 b 3"), ":1\r\n");
        assert_eq!(r.run("TTL b"), ":-1\r\n");
        assert_eq!(r.run("MSETEX 0 b 3"), "-ERR invalid numkeys value or out of range\r\n");
        assert_eq!(r.run("MSETEX 9 b 3"), "-ERR syntax error\r\n");
        assert_eq!(r.run("MSETEX 1 b 3 IFEQ 3"), "-ERR syntax error\r\n");
        assert_eq!(r.run("MSETEX 1 b 3 EX 0"), "-ERR invalid expire time in 'msetex' command\r\n");
    }
}
