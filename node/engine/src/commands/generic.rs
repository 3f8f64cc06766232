//! Commands on keys of every type.

use crate::cx::Cx;
use crate::number::parse_within;
use crate::settings::{Settings, notify};
use crate::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use crate::{Error, evict, number};
use storage::{Value, ValueRef};

const BASE: Command = Command { group: Group::Generic, ..Command::BASE };

pub const DEL: Command = Command {
    name: "del",
    summary: "Deletes one or more keys.",
    complexity: "O(N) where N is the number of keys, plus the number of elements of each collection.",
    arity: -2,
    flags: flag::WRITE,
    keys: &[KeySpec::range(1, -1, 1, key::RM | key::DELETE)],
    args: &[Arg::key("key", 0).multiple()],
    tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
    run: Handler::Keys(del),
    ..BASE
};
pub const UNLINK: Command = Command {
    name: "unlink",
    summary: "Deletes one or more keys; their memory is freed in the background.",
    since: "4.0.0",
    complexity: "O(1) for each key removed.",
    flags: flag::WRITE | flag::FAST,
    ..DEL
};
fn del(cx: &mut Cx) -> Result<(), Error> {
    let mut deleted = 0;
    for key in &cx.args[1..] {
        deleted += cx.keys.delete(key) as i64;
    }
    cx.out.int(deleted);
    Ok(())
}

pub const EXISTS: Command = Command {
    name: "exists",
    summary: "Determines whether one or more keys exist.",
    complexity: "O(N) where N is the number of keys to check.",
    arity: -2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::range(1, -1, 1, key::RO)],
    args: &[Arg::key("key", 0).multiple()],
    tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
    history: &[("3.0.3", "Accepts multiple `key` arguments.")],
    run: Handler::Keys(exists),
    ..BASE
};
fn exists(cx: &mut Cx) -> Result<(), Error> {
    let count = cx.args[1..].iter().filter(|key| cx.keys.peek(key).is_some()).count();
    cx.out.int(count as i64);
    Ok(())
}

pub const TOUCH: Command = Command {
    name: "touch",
    summary: "Returns the number of existing keys out of those specified after updating the time they were last accessed.",
    since: "3.2.1",
    run: Handler::Keys(touch),
    ..EXISTS
};
fn touch(cx: &mut Cx) -> Result<(), Error> {
    let count = cx.args[1..].iter().filter(|key| cx.keys.read(key).is_some()).count();
    cx.out.int(count as i64);
    Ok(())
}

pub const TYPE: Command = Command {
    name: "type",
    summary: "Determines the type of value stored at a key.",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(type_of),
    ..BASE
};
fn type_of(cx: &mut Cx) -> Result<(), Error> {
    let name = cx.keys.peek(cx.args[1]).map_or("none", |e| e.kind().name());
    cx.out.simple(name);
    Ok(())
}

pub const RENAME: Command = Command {
    name: "rename",
    summary: "Renames a key and overwrites the destination.",
    arity: 3,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::OW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::key("newkey", 1)],
    run: Handler::Keys(|cx| {
        rename(cx, true)?;
        cx.out.ok();
        Ok(())
    }),
    ..BASE
};
pub const RENAMENX: Command = Command {
    name: "renamenx",
    summary: "Renames a key only when the target key name does not exist.",
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::OW | key::INSERT)],
    run: Handler::Keys(|cx| {
        let is_renamed = rename(cx, false)?;
        cx.out.int(is_renamed as i64);
        Ok(())
    }),
    ..RENAME
};
fn rename(cx: &mut Cx, may_overwrite: bool) -> Result<bool, Error> {
    let (from, to) = (cx.args[1], cx.args[2]);
    let expire = cx.keys.peek(from).ok_or(Error::NoSuchKey)?.expire_ms();
    if from == to {
        return Ok(may_overwrite);
    }
    if !may_overwrite && cx.keys.exists(to) {
        return Ok(false);
    }
    let value = cx.keys.take(from).ok_or(Error::NoSuchKey)?;
    cx.keys.store(to, value, expire);
    cx.keys.changed(from, notify::GENERIC, "rename_from");
    cx.keys.changed(to, notify::GENERIC, "rename_to");
    Ok(true)
}

pub const COPY: Command = Command {
    name: "copy",
    summary: "Copies the value of a key to a new key.",
    since: "6.2.0",
    complexity: "O(N) for collections, where N is the number of their elements; O(1) for strings.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS), KeySpec::one(2, key::OW | key::UPDATE)],
    args: &[
        Arg::key("source", 0),
        Arg::key("destination", 1),
        Arg::integer("destination-db").token("DB").optional(),
        Arg::word("replace", "REPLACE").optional(),
    ],
    run: Handler::Keys(copy),
    ..BASE
};
fn copy(cx: &mut Cx) -> Result<(), Error> {
    let (from, to) = (cx.args[1], cx.args[2]);
    let (source_db, mut target_db, mut is_replace) = (cx.keys.db, cx.keys.db, false);
    let mut i = 3;
    while i < cx.args.len() {
        if cx.is_word(i, "REPLACE") {
            is_replace = true;
        } else if cx.is_word(i, "DB") && i + 1 < cx.args.len() {
            target_db = db_index(cx, i + 1)?;
            i += 1;
        } else {
            return Err(Error::Syntax);
        }
        i += 1;
    }
    if from == to && target_db == source_db {
        return Err(Error::text("ERR source and destination objects are the same"));
    }
    let Some((value, expire)) = cx.keys.read(from).map(|e| (copy_of(e.value()), e.expire_ms())) else {
        cx.out.int(0);
        return Ok(());
    };
    cx.keys.db = target_db;
    let is_taken = cx.keys.exists(to);
    if !is_taken || is_replace {
        cx.keys.store(to, value, expire);
        cx.keys.changed(to, notify::GENERIC, "copy_to");
    }
    cx.keys.db = source_db;
    cx.out.int((!is_taken || is_replace) as i64);
    Ok(())
}

pub fn copy_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Str(v) => Value::str(v),
        ValueRef::List(v) => Value::List(v.clone()),
        ValueRef::Set(v) => Value::Set(v.clone()),
        ValueRef::Hash(v) => Value::Hash(v.clone()),
        ValueRef::ZSet(v) => Value::ZSet(v.clone()),
        ValueRef::Stream(v) => Value::Stream(Box::new(v.clone())),
    }
}

/// A database number among the arguments.
fn db_index(cx: &Cx, index: usize) -> Result<u16, Error> {
    let number = parse_within(cx.args[index], i32::MIN.into()..=i32::MAX.into())?;
    u16::try_from(number)
        .ok()
        .filter(|db| *db < cx.settings.databases)
        .ok_or(Error::text("ERR DB index is out of range"))
}

pub const MOVE: Command = Command {
    name: "move",
    summary: "Moves a key to another database.",
    arity: 3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("db")],
    run: Handler::Keys(move_key),
    ..BASE
};
fn move_key(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let source_db = cx.keys.db;
    let target_db = db_index(cx, 2)?;
    if target_db == source_db {
        return Err(Error::text("ERR source and destination objects are the same"));
    }
    let expire = cx.keys.peek(key).map(|e| e.expire_ms());
    cx.keys.db = target_db;
    let is_taken = cx.keys.exists(key);
    cx.keys.db = source_db;
    let (Some(expire), false) = (expire, is_taken) else {
        cx.out.int(0);
        return Ok(());
    };
    let value = cx.keys.take(key).ok_or(Error::NoSuchKey)?;
    cx.keys.changed(key, notify::GENERIC, "move_from");
    cx.keys.db = target_db;
    cx.keys.store(key, value, expire);
    cx.keys.changed(key, notify::GENERIC, "move_to");
    cx.keys.db = source_db;
    cx.out.int(1);
    Ok(())
}

pub const OBJECT: Command = Command {
    name: "object",
    summary: "A container for object introspection commands.",
    since: "2.2.3",
    complexity: "Depends on subcommand.",
    arity: -2,
    subcommands: &[OBJECT_ENCODING, OBJECT_FREQ, OBJECT_HELP, OBJECT_IDLETIME, OBJECT_REFCOUNT],
    ..BASE
};
const OBJECT_KEY: Command = Command {
    since: "2.2.3",
    arity: 3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(2, key::RO)],
    args: &[Arg::key("key", 0)],
    ..BASE
};
const OBJECT_ENCODING: Command = Command {
    name: "encoding",
    summary: "Returns the internal encoding of a key's value.",
    run: Handler::Keys(|cx| {
        let encoding = cx.keys.peek(cx.args[2]).map(|e| e.encoding());
        match encoding {
            Some(name) => cx.out.bulk(name.as_bytes()),
            None => cx.out.null(),
        }
        Ok(())
    }),
    ..OBJECT_KEY
};
const OBJECT_FREQ: Command = Command {
    name: "freq",
    summary: "Returns the logarithmic access frequency counter of a key's value.",
    since: "4.0.0",
    run: Handler::Keys(|cx| {
        if !cx.settings.maxmemory_policy.is_lfu() && cx.keys.peek(cx.args[2]).is_some() {
            return Err(Error::text(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
        let now_ms = cx.keys.now_ms;
        reply_number(cx, |clock| evict::lfu_decayed(clock, now_ms) as i64)
    }),
    ..OBJECT_KEY
};
const OBJECT_IDLETIME: Command = Command {
    name: "idletime",
    summary: "Returns the time since the last access to a key's value, in seconds.",
    run: Handler::Keys(|cx| {
        if cx.settings.maxmemory_policy.is_lfu() && cx.keys.peek(cx.args[2]).is_some() {
            return Err(Error::text(
                "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
        let now_ms = cx.keys.now_ms;
        reply_number(cx, |clock| evict::idle_s(clock, now_ms) as i64)
    }),
    ..OBJECT_KEY
};
const OBJECT_REFCOUNT: Command = Command {
    name: "refcount",
    summary: "Returns the reference count of a value of a key.",
    run: Handler::Keys(|cx| {
        let settings = cx.settings;
        match cx.keys.peek(cx.args[2]).map(|e| refcount(e.value(), settings)) {
            Some(count) => cx.out.int(count),
            None => cx.out.null(),
        }
        Ok(())
    }),
    ..OBJECT_KEY
};

/// What OBJECT REFCOUNT answers: small numbers, which Redis shares between keys, are in the entry itself and cost as
/// little.
pub fn refcount(value: ValueRef<'_>, settings: &Settings) -> i64 {
    const SHARED: i64 = i32::MAX as i64;
    const SHARED_INTEGERS: i64 = 10_000;
    // Redis shares none of which it has to know when it was used.
    let is_alone = settings.maxmemory > 0 && settings.maxmemory_policy.looks_at_use();
    match value {
        _ if is_alone => 1,
        ValueRef::Str(bytes)
            if number::parse_i64(bytes).is_some_and(|n| (0..SHARED_INTEGERS).contains(&n)) =>
        {
            SHARED
        }
        _ => 1,
    }
}

const OBJECT_HELP: Command = Command {
    name: "help",
    summary: "Returns helpful text about the different subcommands.",
    since: "6.2.0",
    arity: 2,
    flags: flag::LOADING | flag::STALE,
    run: Handler::Keys(|cx| {
        let lines = [
            "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "ENCODING <key>",
            "    Return the kind of internal representation used in order to store the value",
            "    associated with a <key>.",
            "FREQ <key>",
            "    Return the access frequency index of the <key>. The returned integer is",
            "    proportional to the logarithm of the recent access frequency of the key.",
            "IDLETIME <key>",
            "    Return the idle time of the <key>, that is the approximated number of",
            "    seconds elapsed since the last access to the key.",
            "REFCOUNT <key>",
            "    Return the number of references of the value associated with the specified",
            "    <key>.",
            "HELP",
            "    Prints this help.",
        ];
        cx.out.array(lines.len());
        lines.iter().for_each(|l| cx.out.simple(l));
        Ok(())
    }),
    ..BASE
};
fn reply_number(cx: &mut Cx, number: impl FnOnce(u32) -> i64) -> Result<(), Error> {
    match cx.keys.peek(cx.args[2]).map(|e| e.clock()) {
        Some(clock) => cx.out.int(number(clock)),
        None => cx.out.null(),
    }
    Ok(())
}

const FLUSH_MODE: Arg = Arg::one_of(
    "flush-type",
    &[Arg::word("async", "ASYNC").since("4.0.0"), Arg::word("sync", "SYNC").since("6.2.0")],
)
.optional();

pub const FLUSHALL: Command = Command {
    name: "flushall",
    summary: "Removes all keys from all databases.",
    group: Group::Server,
    complexity: "O(1) for clients: memory is freed in the background.",
    arity: -1,
    flags: flag::WRITE | flag::EXCLUSIVE | flag::WHOLE_DB,
    acl: acl::KEYSPACE | acl::DANGEROUS,
    args: &[FLUSH_MODE],
    tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
    run: Handler::Keys(|cx| flush(cx, None)),
    ..Command::BASE
};
pub const FLUSHDB: Command = Command {
    name: "flushdb",
    summary: "Removes all keys from the current database.",
    run: Handler::Keys(|cx| {
        let db = cx.keys.db;
        flush(cx, Some(db))
    }),
    ..FLUSHALL
};
fn flush(cx: &mut Cx, db: Option<u16>) -> Result<(), Error> {
    if cx.args.len() > 2 || cx.args.len() == 2 && !cx.is_word(1, "SYNC") && !cx.is_word(1, "ASYNC") {
        return Err(Error::Syntax);
    }
    cx.keys.flush(db);
    // Redis counts a flush as a change even of an empty database, so that it is always replayed.
    cx.keys.effects.dirty += 1;
    cx.out.ok();
    Ok(())
}

pub const SWAPDB: Command = Command {
    name: "swapdb",
    summary: "Swaps two databases.",
    since: "4.0.0",
    group: Group::Server,
    complexity: "O(1)",
    arity: 3,
    flags: flag::WRITE | flag::FAST | flag::EXCLUSIVE | flag::WHOLE_DB,
    acl: acl::KEYSPACE | acl::DANGEROUS,
    args: &[Arg::integer("index1"), Arg::integer("index2")],
    run: Handler::Keys(swapdb),
    ..Command::BASE
};
fn swapdb(cx: &mut Cx) -> Result<(), Error> {
    let number = |i: usize| parse_within(cx.args[i], i32::MIN.into()..=i32::MAX.into());
    let first = number(1).map_err(|_| Error::text("ERR invalid first DB index"))?;
    let second = number(2).map_err(|_| Error::text("ERR invalid second DB index"))?;
    let index = |n: i64| {
        u16::try_from(n)
            .ok()
            .filter(|db| *db < cx.settings.databases)
            .ok_or(Error::text("ERR DB index is out of range"))
    };
    let (first, second) = (index(first)?, index(second)?);
    cx.keys.swap_dbs(first, second);
    cx.keys.effects.dirty += 1;
    cx.out.ok();
    Ok(())
}

pub static COMMANDS: &[Command] =
    &[DEL, UNLINK, EXISTS, TOUCH, TYPE, RENAME, RENAMENX, COPY, MOVE, OBJECT, FLUSHALL, FLUSHDB, SWAPDB];

#[cfg(test)]
mod tests {
    use crate::Session;
    use crate::testing::{Runner, run};

    #[test]
    fn deletion_and_renaming() {
        assert_eq!(run(&["MSET a 1 b 2", "DEL a b c"]), ":2\r\n");
        assert_eq!(run(&["SET a 1 EX 7", "RENAME a b", "TTL b"]), ":7\r\n");
        assert_eq!(run(&["RENAME a b"]), "-ERR no such key\r\n");
        assert_eq!(run(&["MSET a 1 b 2", "RENAMENX a b"]), ":0\r\n");
        assert_eq!(
            run(&["SET a 1", "COPY a b DB 3", "SELECTED"]).split(',').next(),
            Some("-ERR unknown command 'SELECTED'")
        );
        assert_eq!(run(&["SET a 1", "COPY a a"]), "-ERR source and destination objects are the same\r\n");
    }

    #[test]
    fn an_expired_key_is_gone_and_its_deletion_is_replayed() {
        let mut r = Runner::default();
        r.run("SET k v PX 100");
        r.replayed();
        r.now_ms += 100;
        assert_eq!(r.run("GET k"), "$-1\r\n");
        assert_eq!(r.replayed(), ["DEL k"]);
        assert_eq!(r.run("DBSIZE"), ":0\r\n");
    }

    #[test]
    fn a_replica_hides_an_expired_key_and_keeps_it() {
        let mut r = Runner::default();
        r.run("SET k v PX 100");
        r.replayed();
        r.now_ms += 100;
        r.status.is_replica = true;
        assert_eq!(r.run("GET k"), "$-1\r\n");
        assert_eq!(r.replayed(), [""; 0]);
        assert_eq!(r.run("DBSIZE"), ":1\r\n");
    }

    #[test]
    fn flush_takes_everything() {
        let mut r = Runner::default();
        r.run("SET k v");
        assert_eq!(r.run("FLUSHALL"), "+OK\r\n");
        assert_eq!(r.run("DBSIZE"), ":0\r\n");
        assert_eq!(r.replayed(), ["SET k v", "FLUSHALL"]);
    }

    #[test]
    fn scan_sees_every_key_once() {
        let mut r = Runner::default();
        for i in 0..1000 {
            r.run(&format!("SET key:{i} v"));
        }
        let (mut cursor, mut seen) = ("0".to_string(), std::collections::BTreeSet::new());
        loop {
            let reply = r.run(&format!("SCAN {cursor} COUNT 100"));
            let (value, _) = proto::resp::decode(reply.as_bytes()).unwrap().unwrap();
            let parts = value.as_list().unwrap();
            cursor = parts[0].as_text().unwrap().to_string();
            for key in parts[1].as_list().unwrap() {
                assert!(seen.insert(key.as_text().unwrap().to_string()));
            }
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn transactions() {
        let mut r = Runner::default();
        assert_eq!(r.all(&["MULTI", "SET a 1", "INCR a", "EXEC"]), "*2\r\n+OK\r\n:2\r\n");
        assert_eq!(r.replayed(), ["SET a 1; INCR a"]);
        assert_eq!(
            r.all(&["MULTI", "SET a", "EXEC"]),
            "-EXECABORT Transaction discarded because of previous errors.\r\n"
        );
        assert_eq!(r.run("EXEC"), "-ERR EXEC without MULTI\r\n");
        let mut other = Session::new(2);
        r.all(&["WATCH a", "MULTI", "SET b 1"]);
        r.run_as(&mut other, "SET a 5");
        assert_eq!(r.run("EXEC"), "*-1\r\n");
        assert_eq!(r.all(&["WATCH a", "UNWATCH", "MULTI", "GET a", "EXEC"]), "*1\r\n$1\r\n5\r\n");
    }

    #[test]
    fn flushes_and_swaps_touch_what_changes_by_them() {
        const BROKEN: &str = "*-1\r\n";
        for (lines, is_broken) in [
            (["SET a 1", "WATCH a", "FLUSHALL"], true),
            (["SET a 1", "WATCH b", "FLUSHALL"], false),
            (["SET a 1", "WATCH a", "SWAPDB 0 1"], true),
            (["SET a 1", "WATCH b", "SWAPDB 0 1"], false),
        ] {
            let mut r = Runner::default();
            r.all(&lines);
            assert_eq!(r.all(&["MULTI", "GET x", "EXEC"]) == BROKEN, is_broken, "{lines:?}");
        }
    }

    #[test]
    fn an_expired_key_that_is_watched_may_vanish() {
        for vanish in ["FLUSHALL", "DEL a", "GET a", "SWAPDB 0 1"] {
            let mut r = Runner::default();
            r.run("SET a 1 PX 1");
            r.now_ms += 2;
            let reply = r.all(&["WATCH a", vanish, "MULTI", "GET a", "EXEC"]);
            assert_eq!(reply, "*1\r\n$-1\r\n", "{vanish}");
            assert_eq!(r.all(&["WATCH a", "SET a 2", "MULTI", "GET a", "EXEC"]), "*-1\r\n");
        }
    }

    #[test]
    fn what_refuses_exec_ends_its_transaction() {
        let mut r = Runner::default();
        r.all(&["MULTI", "SET a 1"]);
        r.settings.min_replicas_to_write = 1;
        assert_eq!(
            r.run("EXEC"),
            "-EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas to write.\r\n"
        );
        assert_eq!(r.run("EXEC"), "-ERR EXEC without MULTI\r\n");
    }

    #[test]
    fn small_numbers_count_as_shared() {
        let mut r = Runner::default();
        r.all(&["SET a 9999", "SET b 10000"]);
        assert_eq!(r.run("OBJECT REFCOUNT a"), ":2147483647\r\n");
        assert_eq!(r.run("OBJECT REFCOUNT b"), ":1\r\n");
    }
}
