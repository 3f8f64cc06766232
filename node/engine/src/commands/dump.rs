//! Values as bytes: DUMP and RESTORE.

use crate::cx::Cx;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use crate::{Error, evict};
use storage::rdb::{Format, RdbError, dump, restore};

pub const DUMP: Command = Command {
    name: "dump",
    summary: "Returns a serialized representation of the value stored at a key.",
    since: "2.6.0",
    group: Group::Generic,
    complexity: "O(1) to access the key and O(N) to serialize it, where N is the size of the value.",
    arity: 2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(dump_key),
    ..Command::BASE
};
fn dump_key(cx: &mut Cx) -> Result<(), Error> {
    let payload = cx.keys.read(cx.args[1]).map(|e| dump(e.value(), &Format::default()));
    match payload {
        Some(payload) => cx.out.bulk(&payload),
        None => cx.out.null(),
    }
    Ok(())
}

pub const RESTORE: Command = Command {
    name: "restore",
    summary: "Creates a key from the serialized representation of a value.",
    since: "2.6.0",
    group: Group::Generic,
    complexity: "O(1) to create the key and O(N) to build the value, where N is its size.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM,
    acl: acl::KEYSPACE | acl::DANGEROUS,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::integer("ttl"),
        Arg::string("serialized-value"),
        Arg::word("replace", "REPLACE").since("3.0.0").optional(),
        Arg::word("absttl", "ABSTTL").since("5.0.0").optional(),
        Arg::integer("seconds").token("IDLETIME").since("5.0.0").optional(),
        Arg::integer("frequency").token("FREQ").since("5.0.0").optional(),
    ],
    history: &[
        ("3.0.0", "Added the `REPLACE` modifier."),
        ("5.0.0", "Added the `ABSTTL` modifier."),
        ("5.0.0", "Added the `IDLETIME` and `FREQ` options."),
    ],
    run: Handler::Keys(restore_key),
    ..Command::BASE
};
/// What a key is restored to in a cluster whose slot is on its way, as the tools send it.
pub const RESTORE_ASKING: Command = Command {
    name: "restore-asking",
    summary: "An internal command for migrating keys in a cluster.",
    since: "3.0.0",
    group: Group::Server,
    flags: flag::WRITE | flag::DENYOOM | flag::ASKING,
    ..RESTORE
};

#[derive(Default)]
struct Options {
    is_replace: bool,
    is_absolute: bool,
    idle_s: Option<i64>,
    frequency: Option<i64>,
}

impl Options {
    fn parse(cx: &Cx) -> Result<Options, Error> {
        let mut o = Options::default();
        let mut i = 4;
        while i < cx.args.len() {
            let has_next = i + 1 < cx.args.len();
            if cx.is_word(i, "REPLACE") {
                o.is_replace = true;
            } else if cx.is_word(i, "ABSTTL") {
                o.is_absolute = true;
            } else if cx.is_word(i, "IDLETIME") && has_next && o.frequency.is_none() {
                let idle = cx.int(i + 1)?;
                if idle < 0 {
                    return Err(Error::text("ERR Invalid IDLETIME value, must be >= 0"));
                }
                o.idle_s = Some(idle);
                i += 1;
            } else if cx.is_word(i, "FREQ") && has_next && o.idle_s.is_none() {
                let frequency = cx.int(i + 1)?;
                if !(0..=255).contains(&frequency) {
                    return Err(Error::text("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                o.frequency = Some(frequency);
                i += 1;
            } else {
                return Err(Error::Syntax);
            }
            i += 1;
        }
        Ok(o)
    }
}

fn restore_key(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let options = Options::parse(cx)?;
    if !options.is_replace && cx.keys.exists(key) {
        return Err(Error::text("BUSYKEY Target key name already exists."));
    }
    let ttl = cx.int(2)?;
    if ttl < 0 {
        return Err(Error::text("ERR Invalid TTL value, must be >= 0"));
    }
    let value = restore(cx.args[3], &cx.settings.thresholds).map_err(|error| match error {
        RdbError::Corrupt { .. } => Error::text("ERR Bad data format"),
        _ => Error::text("ERR DUMP payload version or checksum are wrong"),
    })?;
    let now_ms = cx.keys.now_ms;
    let expire = match (ttl, options.is_absolute) {
        (0, _) => None,
        (at, true) => Some(at),
        (ms, false) => {
            Some(ms.checked_add(now_ms).ok_or(Error::text("ERR Invalid TTL value, must be >= 0"))?)
        }
    };
    if options.is_replace {
        cx.keys.delete_quietly(key);
    }
    if expire.is_some_and(|at| at <= now_ms) && cx.keys.may_expire {
        // Its time is over before it began. What it replaces is gone, and that is what replicas are told.
        cx.keys.changed(key, notify::GENERIC, "del");
        cx.replay(&[b"DEL".as_slice(), key]);
        cx.out.ok();
        return Ok(());
    }
    cx.keys.store(key, value, expire);
    if let Some(idle_s) = options.idle_s {
        cx.keys.set_clock(key, evict::touched(0, now_ms - idle_s.saturating_mul(1000), false));
    }
    if let Some(frequency) = options.frequency {
        cx.keys.set_clock(key, evict::fresh(now_ms, true) & !0xFF | frequency as u32);
    }
    cx.keys.changed(key, notify::GENERIC, "restore");
    if let Some(at) = expire
        && !options.is_absolute
    {
        let at = at.to_string();
        let mut args = cx.args.to_vec();
        args[2] = at.as_bytes();
        args.push(b"ABSTTL");
        cx.replay(&args);
    }
    cx.out.ok();
    Ok(())
}

pub static COMMANDS: &[Command] = &[DUMP, RESTORE, RESTORE_ASKING];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn a_value_comes_back_from_its_bytes() {
        let mut r = Runner::default();
        r.all(&["RPUSH l a b c", "SET s 12345 PX 5000"]);
        for (key, look) in [("l", "LRANGE copy 0 -1"), ("s", "GET copy")] {
            let payload = r.dump(key);
            assert_eq!(r.run_args(&[b"RESTORE", b"copy", b"0", &payload, b"REPLACE"]), "+OK\r\n");
            assert_eq!(r.run(look), r.run(&look.replace("copy", key)));
        }
        assert!(r.replayed().last().unwrap().starts_with("RESTORE copy 0 "));
    }

    #[test]
    fn what_is_no_payload_is_refused() {
        let wrong = "-ERR DUMP payload version or checksum are wrong\r\n";
        assert_eq!(run(&["RESTORE k 0 abc"]), wrong);
        assert_eq!(run(&["SET k v", "RESTORE k 0 abc"]), "-BUSYKEY Target key name already exists.\r\n");
        assert_eq!(run(&["RESTORE k -1 abc"]), "-ERR Invalid TTL value, must be >= 0\r\n");
        let mut r = Runner::default();
        r.run("SET k v");
        let mut payload = r.dump("k");
        payload[1] ^= 1;
        let reply = r.run_args(&[b"RESTORE", b"new", b"0", &payload]);
        assert_eq!(reply, wrong);
    }
}
