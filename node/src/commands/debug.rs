//! DEBUG, as far as tests and tools need it.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::persist::PersistRequest;
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome};
use std::sync::atomic::Ordering;
use std::time::Duration;

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
        Command { name: "digest", summary: "Returns a digest of all data.", ..SUB },
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
        Command { name: "jmap", summary: "Accepted for compatibility.", ..SUB },
        Command { name: "help", summary: "Returns helpful text about the different subcommands.", ..SUB },
    ],
    ..SUB
}];

fn allowed<E: Env>(cx: &HostCx<E>) -> Result<(), Error> {
    let peer = cx.host.client.peer;
    let mode = cx.shared().config().get("enable-debug-command").to_string();
    if mode == "yes" || mode == "local" && peer.ip().is_loopback() {
        return Ok(());
    }
    Err(Error::text(
        "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
    ))
}

fn sleep<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    if !cx.host.is_exclusive {
        return Ok(HostOutcome::NeedsGate);
    }
    const SECONDS_MAX: f64 = 3600.0;
    let seconds = engine::number::parse_f64(cx.args[2]).ok_or(Error::NotFloat)?.clamp(0.0, SECONDS_MAX);
    cx.shared().env.stall(Duration::from_secs_f64(seconds));
    cx.ok()
}

fn digest<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    allowed(cx)?;
    if !cx.host.is_exclusive {
        return Ok(HostOutcome::NeedsGate);
    }
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
    let ticket = cx.ticket();
    let is_saved = !(2..cx.args.len()).any(|i| cx.is_word(i, "NOSAVE"));
    let is_flushed = !(2..cx.args.len()).any(|i| cx.is_word(i, "NOFLUSH"));
    cx.shared().persist.request(PersistRequest::Reload { ticket, is_saved, is_flushed });
    Ok(HostOutcome::Later)
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
        ("debug|jmap", |cx| {
            allowed(cx)?;
            cx.ok()
        }),
        ("debug|help", |cx| cx.help()),
    ]
}
