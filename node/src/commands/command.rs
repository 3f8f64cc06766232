//! COMMAND: what commands there are, from the table alone.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use engine::spec::{Arg, Begin, Command, Find, Group, Handler, KeySpec, acl, flag, key};
use engine::{Error, HostOutcome, Spec, glob};
use proto::resp::Reply;

type Outcome = Result<HostOutcome, Error>;

const SUB: Command = Command {
    group: Group::Server,
    since: "2.8.13",
    complexity: "O(N) where N is the number of commands to look up",
    arity: -2,
    flags: flag::LOADING | flag::STALE,
    acl: acl::CONNECTION,
    run: Handler::Host,
    ..Command::BASE
};

pub const COMMAND: Command = Command {
    name: "command",
    summary: "Returns detailed information about all commands.",
    arity: -1,
    subcommands: &[
        Command { name: "count", summary: "Returns a count of commands.", arity: 2, ..SUB },
        Command {
            name: "docs",
            summary: "Returns documentary information about one, multiple or all commands.",
            since: "7.0.0",
            args: &[Arg::string("command-name").multiple().optional()],
            ..SUB
        },
        Command {
            name: "getkeys",
            summary: "Extracts the key names from an arbitrary command.",
            arity: -3,
            args: &[Arg::string("command"), Arg::string("arg").multiple().optional()],
            ..SUB
        },
        Command {
            name: "getkeysandflags",
            summary: "Extracts the key names and access flags for an arbitrary command.",
            since: "7.0.0",
            arity: -3,
            args: &[Arg::string("command"), Arg::string("arg").multiple().optional()],
            ..SUB
        },
        Command {
            name: "info",
            summary: "Returns information about one, multiple or all commands.",
            args: &[Arg::string("command-name").multiple().optional()],
            ..SUB
        },
        Command {
            name: "list",
            summary: "Returns a list of command names.",
            since: "7.0.0",
            args: &[Arg::one_of(
                "filterby",
                &[
                    Arg::string("module-name").token("MODULE"),
                    Arg::string("category").token("ACLCAT"),
                    Arg::pattern("pattern").token("PATTERN"),
                ],
            )
            .token("FILTERBY")
            .optional()],
            ..SUB
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            since: "5.0.0",
            arity: 2,
            ..SUB
        },
    ],
    ..SUB
};

fn all<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let table = &cx.host.shared.engine.table;
    let specs: Vec<&'static Spec> = table.commands().collect();
    cx.out.array(specs.len());
    specs.iter().for_each(|s| info(s, cx.out));
    Ok(HostOutcome::Done)
}

fn some<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if cx.args.len() == 2 {
        return all(cx);
    }
    cx.out.array(cx.args.len() - 2);
    for name in &cx.args[2..] {
        match cx.host.shared.engine.table.by_full_name(name) {
            Some(spec) => info(spec, cx.out),
            None => cx.out.null_array(),
        }
    }
    Ok(HostOutcome::Done)
}

/// One entry of COMMAND INFO.
fn info(spec: &Spec, out: &mut Reply) {
    let command = spec.command;
    let (first, last, step) = spec.legacy_range();
    out.array(10);
    out.bulk(spec.full_name.as_bytes());
    out.int(command.arity as i64);
    let flags: Vec<&str> =
        flag::NAMES.iter().filter(|(f, _)| flags(command) & f != 0).map(|(_, n)| *n).collect();
    out.set(flags.len());
    flags.iter().for_each(|f| out.simple(f));
    out.int(first);
    out.int(last);
    out.int(step);
    let categories: Vec<&str> =
        acl::NAMES.iter().filter(|(c, _)| spec.acl & c != 0).map(|(_, n)| *n).collect();
    out.set(categories.len());
    categories.iter().for_each(|c| out.simple(&format!("@{c}")));
    out.array(command.tips.len());
    command.tips.iter().for_each(|t| out.bulk(t.as_bytes()));
    out.array(command.keys.len());
    command.keys.iter().for_each(|k| key_spec(k, out));
    out.array(spec.subcommands.len());
    spec.subcommands.iter().for_each(|s| info(s, out));
}

/// `movablekeys` follows from key specs that are no plain ranges.
fn flags(command: &Command) -> u32 {
    let is_plain = |k: &KeySpec| matches!((k.begin, k.find), (Begin::Index(_), Find::Range { .. }));
    let is_movable = command.keys.iter().any(|k| !is_plain(k) || k.flags & key::INCOMPLETE != 0);
    command.flags | if is_movable { flag::MOVABLE_KEYS } else { 0 }
}

fn key_spec(spec: &KeySpec, out: &mut Reply) {
    let text = |out: &mut Reply, s: &str| out.bulk(s.as_bytes());
    out.map(3);
    text(out, "flags");
    let names: Vec<&str> = key::NAMES.iter().filter(|(f, _)| spec.flags & f != 0).map(|(_, n)| *n).collect();
    out.set(names.len());
    names.iter().for_each(|n| out.simple(n));
    text(out, "begin_search");
    out.map(2);
    text(out, "type");
    match spec.begin {
        Begin::Index(index) => {
            text(out, "index");
            text(out, "spec");
            out.map(1);
            text(out, "index");
            out.int(index as i64);
        }
        Begin::Keyword { word, start }
        | Begin::AfterOptions { word, start, .. }
        | Begin::Option { word, start, .. } => {
            text(out, "keyword");
            text(out, "spec");
            out.map(2);
            text(out, "keyword");
            text(out, word);
            text(out, "startfrom");
            out.int(start as i64);
        }
    }
    text(out, "find_keys");
    out.map(2);
    text(out, "type");
    let fields: [(&str, i16); 3] = match spec.find {
        Find::Range { last, step, limit } => {
            text(out, "range");
            [("lastkey", last), ("keystep", step), ("limit", limit)]
        }
        Find::Count { count, first, step } => {
            text(out, "keynum");
            [("keynumidx", count), ("firstkey", first), ("keystep", step)]
        }
    };
    text(out, "spec");
    out.map(3);
    for (name, value) in fields {
        text(out, name);
        out.int(value as i64);
    }
}

fn docs<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let table = &cx.host.shared.engine.table;
    let specs: Vec<&'static Spec> = match cx.args.len() {
        2 => table.commands().collect(),
        _ => cx.args[2..].iter().filter_map(|n| table.by_full_name(n)).collect(),
    };
    cx.out.map(specs.len());
    for spec in specs {
        cx.out.bulk(spec.full_name.as_bytes());
        doc(spec, cx.out);
    }
    Ok(HostOutcome::Done)
}

fn doc(spec: &Spec, out: &mut Reply) {
    let c = spec.command;
    let mark = out.mark();
    let mut fields = 4;
    for (name, value) in
        [("summary", c.summary), ("since", c.since), ("group", c.group.name()), ("complexity", c.complexity)]
    {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    if let Some(deprecated) = c.deprecated {
        fields += 3;
        out.bulk(b"doc_flags");
        out.set(1);
        out.simple("deprecated");
        for (name, value) in [("deprecated_since", deprecated.since), ("replaced_by", deprecated.replaced_by)]
        {
            out.bulk(name.as_bytes());
            out.bulk(value.as_bytes());
        }
    }
    if !c.history.is_empty() {
        fields += 1;
        out.bulk(b"history");
        out.set(c.history.len());
        for (version, change) in c.history {
            out.array(2);
            out.bulk(version.as_bytes());
            out.bulk(change.as_bytes());
        }
    }
    if !c.args.is_empty() {
        fields += 1;
        out.bulk(b"arguments");
        out.array(c.args.len());
        c.args.iter().for_each(|a| arg(a, out));
    }
    if !spec.subcommands.is_empty() {
        fields += 1;
        out.bulk(b"subcommands");
        out.map(spec.subcommands.len());
        for sub in &spec.subcommands {
            out.bulk(sub.full_name.as_bytes());
            doc(sub, out);
        }
    }
    out.map_at(mark, fields);
}

fn arg(arg: &Arg, out: &mut Reply) {
    let mark = out.mark();
    let mut fields = 2;
    let text = |out: &mut Reply, name: &str, value: &str| {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    };
    text(out, "name", arg.name);
    text(out, "type", arg.kind.name());
    if arg.children.is_empty() {
        fields += 1;
        text(out, "display_text", arg.name);
    }
    if let Some(spec) = arg.key_spec {
        fields += 1;
        out.bulk(b"key_spec_index");
        out.int(spec as i64);
    }
    if let Some(token) = arg.token {
        fields += 1;
        text(out, "token", token);
    }
    if let Some(since) = arg.since {
        fields += 1;
        text(out, "since", since);
    }
    let flags = [
        (arg.is_optional, "optional"),
        (arg.is_multiple, "multiple"),
        (arg.is_multiple_token, "multiple_token"),
    ];
    let set: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|(_, n)| *n).collect();
    if !set.is_empty() {
        fields += 1;
        out.bulk(b"flags");
        out.set(set.len());
        set.iter().for_each(|f| out.simple(f));
    }
    if !arg.children.is_empty() {
        fields += 1;
        out.bulk(b"arguments");
        out.array(arg.children.len());
        arg.children.iter().for_each(|a| self::arg(a, out));
    }
    out.map_at(mark, fields);
}

fn keys<E: Env>(cx: &mut HostCx<E>, has_flags: bool) -> Outcome {
    let args = &cx.args[2..];
    let Ok(spec) = cx.host.shared.engine.table.resolve(args) else {
        return Err(match cx.host.shared.engine.table.by_name(args[0]) {
            None => Error::text("ERR Invalid command specified"),
            Some(_) => Error::text("ERR Invalid number of arguments specified for command"),
        });
    };
    if spec.command.keys.iter().all(|k| k.flags & key::NOT_KEY != 0) {
        return Err(Error::text("ERR The command has no key arguments"));
    }
    let mut found: Vec<(usize, u16)> = Vec::new();
    for k in spec.command.keys.iter().filter(|k| k.flags & key::NOT_KEY == 0) {
        let flags = match spec.command.vary {
            Some(vary) if k.flags & key::VARIABLE_FLAGS != 0 => vary(args),
            _ => k.flags,
        };
        let is_fitting = k.positions(args, &mut |i| found.push((i, flags))).is_some();
        if !is_fitting && !spec.has(flag::NO_MANDATORY_KEYS) {
            return Err(Error::text("ERR Invalid arguments specified for command"));
        }
    }
    cx.out.array(found.len());
    for (place, flags) in found {
        if has_flags {
            cx.out.array(2);
        }
        cx.out.bulk(args[place]);
        if has_flags {
            let names: Vec<&str> =
                key::NAMES.iter().filter(|(f, _)| flags & f != 0).map(|(_, n)| *n).collect();
            cx.out.set(names.len());
            names.iter().for_each(|n| cx.out.simple(n));
        }
    }
    Ok(HostOutcome::Done)
}

fn list<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let table = &cx.host.shared.engine.table;
    let is_chosen: Box<dyn Fn(&Spec) -> bool> = match cx.args.len() {
        2 => Box::new(|_| true),
        5 if cx.is_word(2, "FILTERBY") && cx.is_word(3, "PATTERN") => {
            let pattern = cx.args[4].to_vec();
            Box::new(move |s| glob::matches(&pattern, s.full_name.as_bytes(), true))
        }
        5 if cx.is_word(2, "FILTERBY") && cx.is_word(3, "ACLCAT") => {
            let name = cx.text(4).to_lowercase();
            let category = acl::NAMES.iter().find(|(_, n)| *n == name).map_or(0, |(c, _)| *c);
            Box::new(move |s| s.acl & category != 0)
        }
        5 if cx.is_word(2, "FILTERBY") && cx.is_word(3, "MODULE") => Box::new(|_| false),
        _ => return Err(Error::Syntax),
    };
    let names: Vec<&str> = table
        .commands()
        .flat_map(|s| std::iter::once(s).chain(s.subcommands.iter().copied()))
        .filter(|s| is_chosen(s))
        .map(|s| s.full_name.as_str())
        .collect();
    cx.out.array(names.len());
    names.iter().for_each(|n| cx.out.bulk(n.as_bytes()));
    Ok(HostOutcome::Done)
}

pub static COMMANDS: &[Command] = &[COMMAND];

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("command", all::<E>),
        ("command|count", |cx| {
            let count = cx.shared().engine.table.commands().count();
            cx.out.int(count as i64);
            Ok(HostOutcome::Done)
        }),
        ("command|docs", docs::<E>),
        ("command|getkeys", |cx| keys(cx, false)),
        ("command|getkeysandflags", |cx| keys(cx, true)),
        ("command|info", some::<E>),
        ("command|list", list::<E>),
        ("command|help", |cx| cx.help()),
    ]
}
