//! Scripts: EVAL and its kin, and SCRIPT.

use crate::cx::EngineCx;
use crate::script::cache::parse_sha;
use crate::script::run::{self, ScriptCommand};
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use crate::{Args, Error};

const RUN_FLAGS: u32 = flag::NOSCRIPT
    | flag::STALE
    | flag::SKIP_MONITOR
    | flag::NO_MANDATORY_KEYS
    | flag::MOVABLE_KEYS
    | flag::SCRIPT
    | flag::LONG;
const KEYS: KeySpec = KeySpec::counted(2, key::RW | key::ACCESS | key::UPDATE);
const KEYS_RO: KeySpec = KeySpec::counted(2, key::RO | key::ACCESS);

/// What runs a script; a function as well.
pub(super) const RUN: Command = Command {
    since: "2.6.0",
    group: Group::Scripting,
    complexity: "Depends on the script that is executed.",
    arity: -3,
    flags: RUN_FLAGS | flag::MAY_REPLICATE,
    keys: &[KEYS],
    args: &[
        Arg::string("script"),
        Arg::integer("numkeys"),
        Arg::key("key", 0).optional().multiple(),
        Arg::string("arg").optional().multiple(),
    ],
    ..Command::BASE
};
pub(super) const RUN_RO: Command =
    Command { since: "7.0.0", flags: RUN_FLAGS | flag::READONLY, keys: &[KEYS_RO], ..RUN };
const SHA_ARGS: &[Arg] = &[
    Arg::string("sha1"),
    Arg::integer("numkeys"),
    Arg::key("key", 0).optional().multiple(),
    Arg::string("arg").optional().multiple(),
];

pub const EVAL: Command = Command {
    name: "eval",
    summary: "Executes a server-side Lua script.",
    run: Handler::Script(ScriptCommand::Eval { is_sha: false, is_ro: false }),
    ..RUN
};
pub const EVALSHA: Command = Command {
    name: "evalsha",
    summary: "Executes a server-side Lua script by SHA1 digest.",
    args: SHA_ARGS,
    run: Handler::Script(ScriptCommand::Eval { is_sha: true, is_ro: false }),
    ..RUN
};
pub const EVAL_RO: Command = Command {
    name: "eval_ro",
    summary: "Executes a read-only server-side Lua script.",
    run: Handler::Script(ScriptCommand::Eval { is_sha: false, is_ro: true }),
    ..RUN_RO
};
pub const EVALSHA_RO: Command = Command {
    name: "evalsha_ro",
    summary: "Executes a read-only server-side Lua script by SHA1 digest.",
    args: SHA_ARGS,
    run: Handler::Script(ScriptCommand::Eval { is_sha: true, is_ro: true }),
    ..RUN_RO
};

/// A subcommand of SCRIPT or FUNCTION.
pub(super) const SUB: Command =
    Command { since: "2.6.0", group: Group::Scripting, arity: 2, flags: flag::NOSCRIPT, ..Command::BASE };
const ON_ALL: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];

pub const SCRIPT: Command = Command {
    name: "script",
    summary: "A container for Lua scripts management commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: 0,
    subcommands: &[
        Command {
            name: "debug",
            summary: "Sets the debug mode of server-side Lua scripts.",
            since: "3.2.0",
            arity: 3,
            args: &[Arg::one_of(
                "mode",
                &[Arg::word("yes", "YES"), Arg::word("sync", "SYNC"), Arg::word("no", "NO")],
            )],
            run: Handler::Host,
            ..SUB
        },
        Command {
            name: "exists",
            summary: "Determines whether server-side Lua scripts exist in the script cache.",
            complexity: "O(N) with N being the number of scripts to check (so checking a single script is an O(1) operation).",
            arity: -3,
            args: &[Arg::string("sha1").multiple()],
            tips: &["request_policy:all_shards", "response_policy:agg_logical_and"],
            run: Handler::Engine(exists),
            ..SUB
        },
        Command {
            name: "flush",
            summary: "Removes all server-side Lua scripts from the script cache.",
            complexity: "O(N) with N being the number of scripts in cache",
            arity: -2,
            args: &[FLUSH_MODE],
            history: &[("6.2.0", "Added the `ASYNC` and `SYNC` flushing mode modifiers.")],
            tips: ON_ALL,
            run: Handler::Engine(flush),
            ..SUB
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            since: "5.0.0",
            flags: flag::LOADING | flag::STALE,
            run: Handler::Engine(help),
            ..SUB
        },
        Command {
            name: "kill",
            summary: "Terminates a server-side Lua script during execution.",
            flags: flag::NOSCRIPT | flag::ALLOW_BUSY,
            tips: &["request_policy:all_shards", "response_policy:one_succeeded"],
            run: Handler::Engine(|cx| kill(cx, true)),
            ..SUB
        },
        Command {
            name: "load",
            summary: "Loads a server-side Lua script to the script cache.",
            complexity: "O(N) with N being the length in bytes of the script body.",
            arity: 3,
            flags: flag::NOSCRIPT | flag::STALE,
            args: &[Arg::string("script")],
            tips: ON_ALL,
            run: Handler::Engine(load),
            ..SUB
        },
    ],
    run: Handler::Container,
    ..SUB
};
/// Accepted; old scripts and libraries are dropped at once, and freed by each worker.
pub(super) const FLUSH_MODE: Arg =
    Arg::one_of("flush-type", &[Arg::word("async", "ASYNC"), Arg::word("sync", "SYNC")])
        .since("6.2.0")
        .optional();

/// Whether the mode of a FLUSH is one.
pub(super) fn is_flush_mode(args: Args) -> bool {
    match args {
        [_, _] => true,
        [_, _, mode] => [&b"sync"[..], b"async"].iter().any(|m| m.eq_ignore_ascii_case(mode)),
        _ => false,
    }
}

fn load(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let sha = run::load(cx.turn, cx.args[2])?;
    cx.out.bulk(sha.as_bytes());
    Ok(())
}

fn exists(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    cx.out.array(cx.args.len() - 2);
    for text in &cx.args[2..] {
        let is_there = parse_sha(text).is_some_and(|sha| cx.turn.engine.scripts.cache.get(&sha).is_some());
        cx.out.int(is_there.into());
    }
    Ok(())
}

fn flush(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    if !is_flush_mode(cx.args) {
        return Err(Error::text("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
    }
    cx.turn.engine.scripts.cache.flush();
    cx.out.ok();
    Ok(())
}

pub(super) fn kill(cx: &mut EngineCx<'_, '_>, is_eval: bool) -> Result<(), Error> {
    let slow_ms = cx.turn.settings.busy_reply_threshold_ms;
    cx.turn.engine.scripts.control.kill(is_eval, cx.turn.now.mono, slow_ms)?;
    cx.out.ok();
    Ok(())
}

/// Lines of the container's help.
pub(super) fn help(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let container = cx.turn.engine.table.by_name(cx.args[0]).expect("the command was found by it");
    let lines = container.help();
    cx.out.array(lines.len());
    lines.iter().for_each(|line| cx.out.simple(line));
    Ok(())
}

pub static COMMANDS: &[Command] = &[EVAL, EVALSHA, EVAL_RO, EVALSHA_RO, SCRIPT];
