//! MODULE: the container that clients and tools ask for. This server loads no modules: the list is empty, and whoever is
//! allowed to load one is told so.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome};

type Outcome = Result<HostOutcome, Error>;

const SUB: Command = Command {
    group: Group::Server,
    since: "4.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: flag::ADMIN | flag::NOSCRIPT,
    run: Handler::Host,
    ..Command::BASE
};

pub static COMMANDS: &[Command] = &[Command {
    name: "module",
    summary: "A container for module commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: 0,
    run: Handler::Container,
    subcommands: &[
        Command {
            name: "list",
            summary: "Returns all loaded modules: none.",
            complexity: "O(N) where N is the number of loaded modules.",
            tips: &["nondeterministic_output_order"],
            ..SUB
        },
        Command {
            name: "load",
            summary: "Loads a module: refused, there are none.",
            arity: -3,
            args: &[Arg::string("path"), Arg::string("arg").multiple().optional()],
            ..SUB
        },
        Command {
            name: "loadex",
            summary: "Loads a module with extended parameters: refused, there are none.",
            since: "7.0.0",
            arity: -3,
            args: &[
                Arg::string("path"),
                Arg::block("configs", &[Arg::string("name"), Arg::string("value")])
                    .token("CONFIG")
                    .multiple()
                    .multiple_token()
                    .optional(),
                Arg::block("args", &[Arg::string("arg")]).token("ARGS").multiple().optional(),
            ],
            ..SUB
        },
        Command {
            name: "unload",
            summary: "Unloads a module: there are none.",
            arity: 3,
            args: &[Arg::string("name")],
            ..SUB
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            since: "5.0.0",
            flags: flag::LOADING | flag::STALE,
            ..SUB
        },
    ],
    ..SUB
}];

/// Refuses with `why` whom `enable-module-command` lets in; others with what Redis tells them.
fn refuse<E: Env>(cx: &HostCx<E>, why: &'static str) -> Outcome {
    const DENIED: Error = Error::text(
        "ERR MODULE command not allowed. If the enable-module-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
    );
    match cx.is_enabled("enable-module-command") {
        true => Err(Error::text(why)),
        false => Err(DENIED),
    }
}

fn refuse_load<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    refuse(cx, "ERR Error loading the extension. This server loads no modules.")
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("module|list", |cx| {
            cx.out.array(0);
            Ok(HostOutcome::Done)
        }),
        ("module|load", refuse_load::<E>),
        ("module|loadex", refuse_load::<E>),
        ("module|unload", |cx| refuse(cx, "ERR Error unloading module: no such module with that name")),
        ("module|help", |cx| cx.help()),
    ]
}
