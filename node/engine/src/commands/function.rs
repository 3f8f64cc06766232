//! Functions: FCALL and FUNCTION.

use super::scripting::{FLUSH_MODE, RUN, RUN_RO, SUB, help, is_flush_mode, kill};
use crate::cx::EngineCx;
use crate::script::control::{Control, busy_error};
use crate::script::library::{LibraryFunction, RestorePolicy};
use crate::script::run::ScriptCommand;
use crate::spec::{Arg, Command, Handler, flag};
use crate::{Error, glob};
use storage::rdb::{Format, dump_functions, restore_functions};

const CALL_ARGS: &[Arg] = &[
    Arg::string("function"),
    Arg::integer("numkeys"),
    Arg::key("key", 0).optional().multiple(),
    Arg::string("arg").optional().multiple(),
];
const COMPLEXITY: &str = "Depends on the function that is executed.";

pub const FCALL: Command = Command {
    name: "fcall",
    summary: "Invokes a function.",
    since: "7.0.0",
    complexity: COMPLEXITY,
    args: CALL_ARGS,
    run: Handler::Script(ScriptCommand::Function { is_ro: false }),
    ..RUN
};
pub const FCALL_RO: Command = Command {
    name: "fcall_ro",
    summary: "Invokes a read-only function.",
    complexity: COMPLEXITY,
    args: CALL_ARGS,
    run: Handler::Script(ScriptCommand::Function { is_ro: true }),
    ..RUN_RO
};

const FUNCTION_SUB: Command = Command { since: "7.0.0", ..SUB };
/// Changes the libraries: with the gate closed, so that they have an order with all else that is replicated.
const CHANGE: u32 = flag::NOSCRIPT | flag::WRITE | flag::EXCLUSIVE;
const ON_SHARDS: &[&str] = &["request_policy:all_shards", "response_policy:all_succeeded"];

pub const FUNCTION: Command = Command {
    name: "function",
    summary: "A container for function commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: 0,
    subcommands: &[
        Command {
            name: "delete",
            summary: "Deletes a library and its functions.",
            arity: 3,
            flags: CHANGE,
            args: &[Arg::string("library-name")],
            tips: ON_SHARDS,
            run: Handler::Engine(delete),
            ..FUNCTION_SUB
        },
        Command {
            name: "dump",
            summary: "Dumps all libraries into a serialized binary payload.",
            complexity: "O(N) where N is the number of functions",
            run: Handler::Engine(dump),
            ..FUNCTION_SUB
        },
        Command {
            name: "flush",
            summary: "Deletes all libraries and functions.",
            complexity: "O(N) where N is the number of functions deleted",
            arity: -2,
            flags: CHANGE,
            args: &[FLUSH_MODE],
            tips: ON_SHARDS,
            run: Handler::Engine(flush),
            ..FUNCTION_SUB
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            flags: flag::LOADING | flag::STALE,
            run: Handler::Engine(help),
            ..FUNCTION_SUB
        },
        Command {
            name: "kill",
            summary: "Terminates a function during execution.",
            flags: flag::NOSCRIPT | flag::ALLOW_BUSY,
            tips: &["request_policy:all_shards", "response_policy:one_succeeded"],
            run: Handler::Engine(|cx| kill(cx, false)),
            ..FUNCTION_SUB
        },
        Command {
            name: "list",
            summary: "Returns information about all libraries.",
            complexity: "O(N) where N is the number of functions",
            arity: -2,
            args: &[
                Arg::string("library-name-pattern").token("LIBRARYNAME").optional(),
                Arg::word("withcode", "WITHCODE").optional(),
            ],
            tips: &["nondeterministic_output_order"],
            run: Handler::Engine(list),
            ..FUNCTION_SUB
        },
        Command {
            name: "load",
            summary: "Creates a library.",
            complexity: "O(1) (considering compilation time is redundant)",
            arity: -3,
            flags: CHANGE | flag::DENYOOM,
            args: &[Arg::word("replace", "REPLACE").optional(), Arg::string("function-code")],
            tips: ON_SHARDS,
            run: Handler::Engine(load),
            ..FUNCTION_SUB
        },
        Command {
            name: "restore",
            summary: "Restores all libraries from a payload.",
            complexity: "O(N) where N is the number of functions on the payload",
            arity: -3,
            flags: CHANGE | flag::DENYOOM,
            args: &[
                Arg::string("serialized-value"),
                Arg::one_of(
                    "policy",
                    &[
                        Arg::word("flush", "FLUSH"),
                        Arg::word("append", "APPEND"),
                        Arg::word("replace", "REPLACE"),
                    ],
                )
                .optional(),
            ],
            tips: ON_SHARDS,
            run: Handler::Engine(restore),
            ..FUNCTION_SUB
        },
        Command {
            name: "stats",
            summary: "Returns information about a function during execution.",
            flags: flag::NOSCRIPT | flag::ALLOW_BUSY,
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            run: Handler::Engine(stats),
            ..FUNCTION_SUB
        },
    ],
    run: Handler::Container,
    ..FUNCTION_SUB
};

/// Redis checks these counts in the function, and says so otherwise than by the arity.
fn wrong_count(args: crate::Args) -> Error {
    let name = String::from_utf8_lossy(args[1]).into_owned();
    Error::err(&format!("unknown subcommand or wrong number of arguments for '{name}'. Try FUNCTION HELP."))
}

fn load(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let (code, options) = cx.args[2..].split_last().expect("the arity demands it");
    for option in options {
        if !option.eq_ignore_ascii_case(b"replace") {
            let option = String::from_utf8_lossy(option);
            return Err(Error::err(&format!("Unknown option given: {option}")));
        }
    }
    let name = cx.turn.engine.scripts.libraries.load(code, !options.is_empty())?;
    cx.has_changed = true;
    cx.out.bulk(name.as_bytes());
    Ok(())
}

fn delete(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    cx.turn.engine.scripts.libraries.delete(cx.args[2])?;
    cx.has_changed = true;
    cx.out.ok();
    Ok(())
}

fn flush(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    if cx.args.len() > 3 {
        return Err(wrong_count(cx.args));
    }
    if !is_flush_mode(cx.args) {
        return Err(Error::text("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    cx.turn.engine.scripts.libraries.flush();
    cx.has_changed = true;
    cx.out.ok();
    Ok(())
}

fn dump(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let set = cx.turn.engine.scripts.libraries.set();
    let texts: Vec<&[u8]> = set.libraries.values().map(|l| l.text.as_slice()).collect();
    cx.out.bulk(&dump_functions(&texts, &Format::default()));
    Ok(())
}

fn restore(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let policy = match cx.args.len() {
        3 => RestorePolicy::Append,
        4 if cx.is_word(3, "APPEND") => RestorePolicy::Append,
        4 if cx.is_word(3, "REPLACE") => RestorePolicy::Replace,
        4 if cx.is_word(3, "FLUSH") => RestorePolicy::Flush,
        4 => {
            return Err(Error::text(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
        _ => {
            return Err(wrong_count(cx.args));
        }
    };
    let texts = restore_functions(cx.args[2]).map_err(|error| match error {
        storage::rdb::RdbError::Corrupt { what, .. } => Error::err(what),
        _ => Error::text("ERR DUMP payload version or checksum are wrong"),
    })?;
    cx.turn.engine.scripts.libraries.restore(&texts, policy)?;
    cx.has_changed = true;
    cx.out.ok();
    Ok(())
}

fn list(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let (mut with_code, mut pattern, mut i) = (false, None, 2);
    while i < cx.args.len() {
        if !with_code && cx.is_word(i, "WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && cx.is_word(i, "LIBRARYNAME") {
            i += 1;
            let name = cx.args.get(i).copied();
            pattern = Some(name.ok_or(Error::text("ERR library name argument was not given"))?);
        } else {
            let shown = String::from_utf8_lossy(cx.args[i]).into_owned();
            return Err(Error::err(&format!("Unknown argument {shown}")));
        }
        i += 1;
    }
    let set = cx.turn.engine.scripts.libraries.set();
    let is_asked = |name: &str| pattern.is_none_or(|p| glob::matches(p, name.as_bytes(), true));
    let libraries: Vec<_> = set.libraries.values().filter(|l| is_asked(&l.name)).collect();
    let out = &mut *cx.out;
    out.array(libraries.len());
    for library in libraries {
        out.map(if with_code { 4 } else { 3 });
        out.bulk(b"library_name");
        out.bulk(library.name.as_bytes());
        out.bulk(b"engine");
        out.bulk(b"LUA");
        out.bulk(b"functions");
        out.array(library.functions.len());
        library.functions.iter().for_each(|f| list_function(out, f));
        if with_code {
            out.bulk(b"library_code");
            out.bulk(&library.text);
        }
    }
    Ok(())
}

fn list_function(out: &mut proto::resp::Reply, function: &LibraryFunction) {
    out.map(3);
    out.bulk(b"name");
    out.bulk(function.name.as_bytes());
    out.bulk(b"description");
    match &function.description {
        Some(text) => out.bulk(text),
        None => out.null(),
    }
    out.bulk(b"flags");
    let names = function.flags.names();
    out.set(names.len());
    names.iter().for_each(|name| out.simple(name));
}

fn stats(cx: &mut EngineCx<'_, '_>) -> Result<(), Error> {
    let scripts = &cx.turn.engine.scripts;
    let running = scripts.control.oldest();
    if let Some(script) = running.as_ref().filter(|r| r.is_eval) {
        return Err(busy_error(script));
    }
    let out = &mut *cx.out;
    out.map(2);
    out.bulk(b"running_script");
    match running {
        None => out.null(),
        Some(script) => {
            out.map(3);
            out.bulk(b"name");
            out.bulk(script.name.as_bytes());
            out.bulk(b"command");
            out.array(script.command.len());
            script.command.iter().for_each(|arg| out.bulk(arg));
            out.bulk(b"duration_ms");
            out.int(Control::ms(&script, cx.turn.now.mono) as i64);
        }
    }
    let set = scripts.libraries.set();
    out.bulk(b"engines");
    out.map(1);
    out.bulk(b"LUA");
    out.map(2);
    out.bulk(b"libraries_count");
    out.int(set.libraries.len() as i64);
    out.bulk(b"functions_count");
    out.int(set.functions_len() as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[FCALL, FCALL_RO, FUNCTION];
