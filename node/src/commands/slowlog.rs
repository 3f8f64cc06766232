//! SLOWLOG, COMMANDLOG and MONITOR: commands that ran.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::observe::{self, LARGE_REPLY, LARGE_REQUEST, SLOW};
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome};

type Outcome = Result<HostOutcome, Error>;

const SUB: Command = Command {
    group: Group::Server,
    since: "2.2.12",
    complexity: "O(N) where N is the number of entries in the log",
    arity: 2,
    flags: flag::ADMIN | flag::LOADING | flag::STALE,
    run: Handler::Host,
    ..Command::BASE
};
const HELP: Command = Command {
    name: "help",
    summary: "Returns helpful text about the different subcommands.",
    since: "6.2.0",
    complexity: "O(1)",
    flags: flag::LOADING | flag::STALE,
    ..SUB
};
const GET: Command = Command {
    name: "get",
    summary: "Returns the log's entries.",
    tips: &["request_policy:all_nodes", "nondeterministic_output"],
    ..SUB
};
const LEN: Command = Command {
    name: "len",
    summary: "Returns the number of entries in the log.",
    complexity: "O(1)",
    tips: &["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"],
    ..SUB
};
const RESET: Command = Command {
    name: "reset",
    summary: "Clears all entries from the log.",
    tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
    ..SUB
};
const KIND: Arg = Arg::one_of(
    "type",
    &[
        Arg::word("slow", "SLOW"),
        Arg::word("large-request", "LARGE-REQUEST"),
        Arg::word("large-reply", "LARGE-REPLY"),
    ],
);

pub static COMMANDS: &[Command] = &[
    Command {
        name: "slowlog",
        summary: "A container for slow log commands.",
        complexity: "Depends on subcommand.",
        arity: -2,
        flags: 0,
        run: Handler::Container,
        subcommands: &[
            Command { arity: -2, args: &[Arg::integer("count").optional()], ..GET },
            LEN,
            RESET,
            HELP,
        ],
        ..SUB
    },
    Command {
        name: "commandlog",
        summary: "A container for command log commands.",
        since: "8.1.0",
        complexity: "Depends on subcommand.",
        arity: -2,
        flags: 0,
        run: Handler::Container,
        subcommands: &[
            Command { since: "8.1.0", arity: 4, args: &[Arg::integer("count"), KIND], ..GET },
            Command { since: "8.1.0", arity: 3, args: &[KIND], ..LEN },
            Command { since: "8.1.0", arity: 3, args: &[KIND], ..RESET },
            Command { since: "8.1.0", ..HELP },
        ],
        ..SUB
    },
    Command {
        name: "monitor",
        summary: "Listens for all requests received by the server in real-time.",
        since: "1.0.0",
        complexity: "O(1)",
        arity: 1,
        flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
        ..SUB
    },
];

fn kind<E: Env>(cx: &HostCx<E>, index: usize) -> Result<usize, Error> {
    [(SLOW, "slow"), (LARGE_REQUEST, "large-request"), (LARGE_REPLY, "large-reply")]
        .into_iter()
        .find(|(_, name)| cx.is_word(index, name))
        .map(|(kind, _)| kind)
        .ok_or(Error::text("ERR type should be one of the following: slow, large-request, large-reply"))
}

fn get<E: Env>(cx: &mut HostCx<E>, kind: usize, default: i64) -> Outcome {
    const OUT_OF_RANGE: Error = Error::text("ERR count should be greater than or equal to -1");
    let count = if cx.args.len() > 2 { cx.int(2)? } else { default };
    let count = match count {
        -1 => usize::MAX,
        count => usize::try_from(count).map_err(|_| OUT_OF_RANGE)?,
    };
    let entries = cx.shared().observe.logs[kind].newest(count);
    cx.out.array(entries.len());
    for entry in entries {
        cx.out.array(6);
        cx.out.int(entry.id as i64);
        cx.out.int(entry.at_s);
        cx.out.int(entry.value as i64);
        cx.out.array(entry.args.len());
        entry.args.iter().for_each(|a| cx.out.bulk(a));
        cx.out.bulk(entry.peer.as_bytes());
        cx.out.bulk(entry.name.as_bytes());
    }
    Ok(HostOutcome::Done)
}

fn len<E: Env>(cx: &mut HostCx<E>, kind: usize) -> Outcome {
    let len = cx.shared().observe.logs[kind].entries();
    cx.out.int(len as i64);
    Ok(HostOutcome::Done)
}

fn reset<E: Env>(cx: &mut HostCx<E>, kind: usize) -> Outcome {
    cx.shared().observe.logs[kind].clear();
    cx.ok()
}

fn monitor<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if cx.is_nested() {
        return Err(Error::text("ERR MONITOR isn't allowed for DENY BLOCKING client"));
    }
    if !cx.session.is_monitor {
        cx.session.is_monitor = true;
        observe::begin_monitoring(cx.host.shared, cx.host.client);
    }
    cx.ok()
}

pub fn functions<E: Env>() -> Functions<E> {
    const SHOWN: i64 = 10;
    &[
        ("slowlog|get", |cx| match cx.args.len() {
            2 | 3 => get(cx, SLOW, SHOWN),
            _ => Err(cx.unknown_form()),
        }),
        ("slowlog|len", |cx| len(cx, SLOW)),
        ("slowlog|reset", |cx| reset(cx, SLOW)),
        ("slowlog|help", |cx| cx.help()),
        ("commandlog|get", |cx| {
            let kind = kind(cx, 3)?;
            get(cx, kind, SHOWN)
        }),
        ("commandlog|len", |cx| {
            let kind = kind(cx, 2)?;
            len(cx, kind)
        }),
        ("commandlog|reset", |cx| {
            let kind = kind(cx, 2)?;
            reset(cx, kind)
        }),
        ("commandlog|help", |cx| cx.help()),
        ("monitor", monitor::<E>),
    ]
}
