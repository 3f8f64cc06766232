//! DEBUG, as far as tests and tools need it.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::persist::{PersistRequest, ReloadSource};
use engine::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use engine::{Error, HostOutcome, evict};
use proto::Slot;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::ValueRef;
use storage::rdb::Format;

type Outcome = Result<HostOutcome, Error>;

const SUB: Command = Command {
    group: Group::Server,
    arity: 2,
    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
    run: Handler::Host,
    ..Command::BASE
};

pub static COMMANDS: &[Command] = &[Command {
    name: "debug",
    summary: "A container for debugging commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: SUB.flags | flag::OPEN_SUBCOMMANDS,
    run: Handler::Container,
    subcommands: &[
        Command {
            name: "sleep",
            summary: "Stops the server for some seconds.",
            arity: 3,
            args: &[Arg::double("seconds")],
            ..SUB
        },
        Command {
            name: "digest",
            summary: "Returns a digest of all data.",
            flags: SUB.flags | flag::EXCLUSIVE,
            ..SUB
        },
        Command {
            name: "digest-value",
            summary: "Returns digests of the values of keys.",
            arity: -3,
            args: &[Arg::string("key").multiple()],
            ..SUB
        },
        Command {
            name: "reload",
            summary: "Saves the data to disk and loads it again.",
            arity: -2,
            flags: SUB.flags | flag::NO_MULTI,
            args: &[Arg::string("option").multiple().optional()],
            ..SUB
        },
        Command {
            name: "set-active-expire",
            summary: "Switches active expiry on or off.",
            arity: 3,
            args: &[Arg::integer("is-on")],
            ..SUB
        },
        Command {
            name: "object",
            summary: "Shows low-level information about a key and its value.",
            arity: -3,
            flags: SUB.flags | flag::READONLY,
            keys: &[KeySpec::one(2, key::RO)],
            args: &[Arg::key("key", 0), Arg::word("fast", "FAST").optional()],
            ..SUB
        },
        Command {
            name: "loadaof",
            summary: "Writes out what the append-only file lacks, and loads all data from it.",
            flags: SUB.flags | flag::NO_MULTI,
            ..SUB
        },
        Command {
            name: "populate",
            summary: "Makes keys of strings that are not there yet.",
            arity: -3,
            flags: SUB.flags | flag::WRITE,
            args: &[Arg::integer("count"), Arg::string("prefix").optional(), Arg::integer("size").optional()],
            ..SUB
        },
        Command {
            name: "protocol",
            summary: "Replies with a value of the type.",
            arity: 3,
            args: &[Arg::string("type")],
            ..SUB
        },
        Command {
            name: "error",
            summary: "Replies with an error of this text.",
            arity: 3,
            args: &[Arg::string("message")],
            ..SUB
        },
        Command {
            name: "log",
            summary: "Writes a line into the log.",
            arity: 3,
            args: &[Arg::string("message")],
            ..SUB
        },
        Command {
            name: "htstats",
            summary: "Shows the tables of a database.",
            arity: -3,
            args: &[Arg::integer("db"), Arg::word("full", "FULL").optional()],
            ..SUB
        },
        Command {
            name: "htstats-key",
            summary: "Shows the table of a large hash, set or sorted set.",
            arity: -3,
            flags: SUB.flags | flag::READONLY,
            keys: &[KeySpec::one(2, key::RO)],
            args: &[Arg::key("key", 0), Arg::word("full", "FULL").optional()],
            ..SUB
        },
        Command { name: "change-repl-id", summary: "Gives the history of the data a new name.", ..SUB },
        Command {
            name: "config-rewrite-force-all",
            summary: "Rewrites the configuration file with every directive.",
            ..SUB
        },
        Command {
            name: "pause-cron",
            summary: "Stops or starts background work.",
            arity: 3,
            args: &[Arg::integer("is-paused")],
            ..SUB
        },
        Command {
            name: "set-disable-deny-scripts",
            summary: "Lets scripts call commands of administration, or denies them again.",
            arity: 3,
            args: &[Arg::integer("is-allowed")],
            ..SUB
        },
        Command {
            name: "stringmatch-len",
            summary: "Matches a string of so many bytes with a pattern.",
            arity: 4,
            args: &[Arg::integer("bytes"), Arg::string("pattern")],
            ..SUB
        },
        Command {
            name: "quicklist-packed-threshold",
            summary: "Accepted for compatibility: elements of every size are in the nodes of their list.",
            arity: 3,
            args: &[Arg::string("bytes")],
            ..SUB
        },
        Command {
            name: "replybuffer",
            summary: "Accepted for compatibility: idle connections hold no buffers.",
            arity: 4,
            args: &[Arg::string("subcommand"), Arg::string("value")],
            ..SUB
        },
        Command {
            name: "mallctl",
            summary: "Returns a number of the allocator's.",
            arity: 3,
            args: &[Arg::string("name")],
            ..SUB
        },
        Command {
            name: "dict-resizing",
            summary: "Accepted for compatibility: tables grow a segment at a time.",
            arity: 3,
            args: &[Arg::integer("is-on")],
            ..SUB
        },
        Command { name: "jmap", summary: "Accepted for compatibility.", ..SUB },
        Command { name: "help", summary: "Returns helpful text about the different subcommands.", ..SUB },
    ],
    ..SUB
}];

fn allowed<E: Env>(cx: &HostCx<E>) -> Result<(), Error> {
    if cx.is_enabled("enable-debug-command") {
        return Ok(());
    }
    Err(Error::text(
        "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
    ))
}

fn sleep<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    // A transaction or a script holds up whoever wants its keys.
    if !cx.host.is_exclusive && !cx.is_nested() {
        return Ok(HostOutcome::NeedsGate);
    }
    const SECONDS_MAX: f64 = 3600.0;
    let seconds = engine::number::parse_f64(cx.args[2]).ok_or(Error::NotFloat)?.clamp(0.0, SECONDS_MAX);
    cx.shared().env.stall(Duration::from_secs_f64(seconds));
    cx.ok()
}

fn digest<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let digest = crate::digest::of_all(&cx.shared().engine.keyspace);
    cx.out.simple(&crate::digest::hex(&digest));
    Ok(HostOutcome::Done)
}

fn digest_value<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    cx.out.array(cx.args.len() - 2);
    for key in &cx.args[2..] {
        let digest = crate::digest::of_key(&cx.host.shared.engine.keyspace, cx.session.db, key);
        cx.out.simple(&crate::digest::hex(&digest));
    }
    Ok(HostOutcome::Done)
}

fn reload<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let (mut is_saved, mut is_flushed, mut may_replace) = (true, true, false);
    for i in 2..cx.args.len() {
        match cx.text(i).to_lowercase().as_str() {
            "nosave" => is_saved = false,
            "noflush" => is_flushed = false,
            "merge" => may_replace = true,
            _ => {
                return Err(Error::text(
                    "ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.",
                ));
            }
        }
    }
    let source = ReloadSource::Snapshot { is_saved, is_flushed, may_replace };
    let ticket = cx.ticket();
    cx.shared().persist.request(PersistRequest::Reload { ticket, source });
    Ok(HostOutcome::Later)
}

fn loadaof<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let ticket = cx.ticket();
    cx.shared().persist.request(PersistRequest::Reload { ticket, source: ReloadSource::Log });
    Ok(HostOutcome::Later)
}

/// Runs `f` on the entry of argument 2. `Err`: there is none.
fn with_entry<E: Env, T>(
    cx: &HostCx<E>,
    f: impl FnOnce(storage::Entry<'_>, &Format) -> T,
) -> Result<T, Error> {
    let (keyspace, key) = (&cx.host.shared.engine.keyspace, cx.args[2]);
    let guard = keyspace.lock_wait(Slot::of_key(key));
    let entry = guard.db(cx.session.db).get(key, keyspace.hash(key)).ok_or(Error::NoSuchKey)?;
    let settings = &cx.host.setting.settings;
    let format = Format {
        version: settings.rdb_version as u16,
        compress: settings.is_rdb_compressed,
        ..Format::default()
    };
    Ok(f(entry, &format))
}

fn object<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let is_fast = cx.is_word(3, "FAST");
    let now_ms = cx.host.setting.now.wall.0;
    let settings = &cx.host.setting.settings.engine;
    let is_lfu = settings.maxmemory_policy.is_lfu();
    let line = with_entry(cx, |entry, format| {
        let clock = entry.clock();
        let idle_s = if is_lfu { 0 } else { evict::idle_s(clock, now_ms) };
        let mut line = format!(
            "Value at:{:p} refcount:{} encoding:{}",
            entry.address(),
            engine::commands::generic::refcount(entry.value(), settings),
            entry.encoding()
        );
        if !is_fast {
            // The payload of DUMP has a byte of type before the value and ten bytes of version and checksum behind it.
            line += &format!(" serializedlength:{}", storage::rdb::dump(entry.value(), format).len() - 11);
        }
        line + &format!(" lru:{clock} lru_seconds_idle:{idle_s}")
    })?;
    cx.out.simple(&line);
    Ok(HostOutcome::Done)
}

/// Keys made under one lock of the gate: what a client may ask for in one command.
const POPULATE_MAX: u64 = 100_000_000;
const POPULATE_BYTES_MAX: usize = 512 << 20;

fn populate<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    if cx.args.len() > 5 {
        return Err(Error::Syntax);
    }
    let positive = |n: i64, max: u64| u64::try_from(n).ok().filter(|n| *n <= max);
    let out_of_range = Error::text("ERR value is out of range, must be positive");
    let count = positive(cx.int(2)?, POPULATE_MAX).ok_or(out_of_range.clone())?;
    let prefix = if cx.args.len() > 3 { cx.args[3].to_vec() } else { b"key".to_vec() };
    let bytes = match cx.args.len() {
        5 => Some(positive(cx.int(4)?, POPULATE_BYTES_MAX as u64).ok_or(out_of_range)? as usize),
        _ => None,
    };
    let (keyspace, db) = (&cx.host.shared.engine.keyspace, cx.session.db);
    for i in 0..count {
        let key = [prefix.as_slice(), format!(":{i}").as_bytes()].concat();
        let mut value = format!("value:{i}").into_bytes();
        value.resize(bytes.unwrap_or(value.len()), 0);
        let hash = keyspace.hash(&key);
        let mut guard = keyspace.lock_wait(Slot::of_key(&key));
        let mut home = guard.db_mut(db);
        if home.get(&key, hash).is_none() {
            home.set_str(&key, hash, &value, storage::Expiry::None);
        }
    }
    cx.ok()
}

fn protocol<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let out = &mut *cx.out;
    match String::from_utf8_lossy(cx.args[2]).to_lowercase().as_str() {
        "string" => out.bulk(b"Hello World"),
        "integer" => out.int(12345),
        "double" => out.double(f64::from(3141) / 1000.0),
        "null" => out.null(),
        "array" => {
            out.array(3);
            (0..3).for_each(|n| out.int(n));
        }
        "set" => {
            out.set(3);
            (0..3).for_each(|n| out.int(n));
        }
        "map" => {
            out.map(3);
            for n in 0..3 {
                out.int(n);
                out.bool(n == 1);
            }
        }
        "attrib" => {
            // A client of RESP2 knows no attributes: it gets the value alone.
            if out.is_resp3() {
                out.raw(b"|1\r\n");
                out.bulk(b"key-popularity");
                out.array(2);
                out.bulk(b"key:123");
                out.int(90);
            }
            out.bulk(b"Some real reply following the attribute");
        }
        "push" => {
            if !out.is_resp3() {
                return Err(Error::text("ERR RESP2 is not supported by this command"));
            }
            out.push(2);
            out.bulk(b"server-cpu-usage");
            out.int(42);
        }
        "true" => out.bool(true),
        "false" => out.bool(false),
        "verbatim" => out.verbatim("txt", b"This is a verbatim\nstring"),
        "bignum" if out.is_resp3() => out.raw(b"(1234567999999999999999999999999999999\r\n"),
        "bignum" => out.bulk(b"1234567999999999999999999999999999999"),
        _ => {
            return Err(Error::text(
                "ERR Wrong protocol type name. Please use one of the following: string|integer|double|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(HostOutcome::Done)
}

/// Text for the tables of one database, in the words of Redis's, as tools look for them.
fn table_text(title: &str, elements: u64, bytes: u64) -> String {
    format!("Hash table 0 stats ({title}):\n table size: {bytes} bytes\n number of elements: {elements}\n")
}

fn htstats<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let keyspace = &cx.host.shared.engine.keyspace;
    let db = u16::try_from(cx.int(2)?).ok().filter(|db| *db < keyspace.databases());
    let db = db.ok_or(Error::text("ERR Out of range database"))?;
    let text = format!(
        "[Dictionary HT]\n{}[Expires HT]\n{}",
        table_text("main hash table", keyspace.len(db), keyspace.used_bytes()),
        table_text("main hash table", keyspace.expires_len(db), 0)
    );
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn htstats_key<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    let found = with_entry(cx, |entry, _| {
        let elements = match entry.value() {
            ValueRef::Hash(v) => v.len(),
            ValueRef::Set(v) => v.len(),
            ValueRef::ZSet(v) => v.len(),
            _ => return None,
        };
        let is_table = matches!(entry.encoding(), "hashtable" | "skiplist");
        is_table.then(|| table_text("main hash table", elements as u64, entry.bytes() as u64))
    })?;
    let text = found.ok_or(Error::text(
        "ERR The value stored at the specified key is not represented using an hash table",
    ))?;
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn stringmatch<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    const BYTES_MAX: i64 = 64 << 20;
    let text = vec![b'a'; cx.int(2)?.clamp(0, BYTES_MAX) as usize];
    let is_match = engine::glob::matches(cx.args[3], &text, false);
    cx.out.int(is_match as i64);
    Ok(HostOutcome::Done)
}

fn rewrite_all<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    super::server::rewrite_config(cx, true)
}

/// Takes what has no meaning here, if it could be meant for Redis.
fn accept<E: Env>(cx: &mut HostCx<E>, is_valid: bool) -> Outcome {
    allowed(cx)?;
    if !is_valid {
        return Err(Error::text("ERR argument must be a memory value bigger than 1 and smaller than 4gb"));
    }
    cx.ok()
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("debug|sleep", sleep::<E>),
        ("debug|digest", digest::<E>),
        ("debug|digest-value", digest_value::<E>),
        ("debug|reload", reload::<E>),
        ("debug|set-active-expire", |cx| {
            allowed(cx)?;
            let is_on = cx.int(2)? != 0;
            cx.shared().state.is_expiring.store(is_on, Ordering::Relaxed);
            cx.ok()
        }),
        ("debug|object", object::<E>),
        ("debug|loadaof", loadaof::<E>),
        ("debug|populate", populate::<E>),
        ("debug|protocol", protocol::<E>),
        ("debug|error", |cx| {
            allowed(cx)?;
            let text: String = cx.text(2).replace(['\r', '\n'], " ");
            cx.out.error(&text);
            Ok(HostOutcome::Done)
        }),
        ("debug|log", |cx| {
            allowed(cx)?;
            tracing::warn!("DEBUG LOG: {}", cx.text(2));
            cx.ok()
        }),
        ("debug|htstats", htstats::<E>),
        ("debug|htstats-key", htstats_key::<E>),
        ("debug|change-repl-id", |cx| {
            allowed(cx)?;
            cx.shared().replication.rename_history(&cx.shared().env);
            cx.ok()
        }),
        ("debug|config-rewrite-force-all", rewrite_all::<E>),
        ("debug|pause-cron", |cx| {
            allowed(cx)?;
            let is_paused = cx.int(2)? != 0;
            cx.shared().state.is_cron_paused.store(is_paused, Ordering::Relaxed);
            cx.ok()
        }),
        ("debug|set-disable-deny-scripts", |cx| {
            allowed(cx)?;
            let is_allowed = cx.int(2)? != 0;
            cx.shared().engine.scripts.denies_nothing.store(is_allowed, Ordering::Relaxed);
            cx.ok()
        }),
        ("debug|stringmatch-len", stringmatch::<E>),
        ("debug|quicklist-packed-threshold", |cx| {
            let bytes = crate::config::parse_memory(&cx.text(2));
            accept(cx, bytes.is_some_and(|n| n <= 1 << 32))
        }),
        ("debug|replybuffer", |cx| accept(cx, true)),
        ("debug|mallctl", |cx| {
            allowed(cx)?;
            let number = cx.shared().env.allocator().and_then(|_| crate::alloc::number(&cx.text(2)));
            cx.out.int(number.ok_or(Error::text("ERR No such number of the allocator"))? as i64);
            Ok(HostOutcome::Done)
        }),
        ("debug|dict-resizing", |cx| accept(cx, true)),
        ("debug|jmap", |cx| {
            allowed(cx)?;
            cx.ok()
        }),
        ("debug|help", |cx| {
            allowed(cx)?;
            cx.help()
        }),
    ]
}
