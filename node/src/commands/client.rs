//! CLIENT: what connections are there, and what they want of the server.

use super::Functions;
use crate::clients::Client;
use crate::env::Env;
use crate::host::HostCx;
use crate::mail::Letter;
use engine::session::ReplyMode;
use engine::spec::{Arg, Command, Group, Handler, acl, flag};
use engine::{Error, HostOutcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;

type Outcome = Result<HostOutcome, Error>;

const OPEN: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE;
const ADMIN: u32 = OPEN | flag::ADMIN;
const SUB: Command = Command {
    group: Group::Connection,
    since: "2.4.0",
    arity: 2,
    flags: OPEN,
    acl: acl::CONNECTION,
    run: Handler::Host,
    ..Command::BASE
};

pub const CLIENT: Command = Command {
    name: "client",
    summary: "A container for client connection commands.",
    group: Group::Connection,
    since: "2.4.0",
    complexity: "Depends on subcommand.",
    arity: -2,
    acl: acl::CONNECTION,
    subcommands: &[
        Command {
            name: "id",
            summary: "Returns the unique client ID of the connection.",
            since: "5.0.0",
            ..SUB
        },
        Command { name: "getname", summary: "Returns the name of the connection.", since: "2.6.9", ..SUB },
        Command {
            name: "setname",
            summary: "Sets the connection name.",
            since: "2.6.9",
            arity: 3,
            args: &[Arg::string("connection-name")],
            ..SUB
        },
        Command {
            name: "setinfo",
            summary: "Sets information specific to the client or connection.",
            since: "7.2.0",
            arity: 4,
            args: &[Arg::one_of(
                "attr",
                &[Arg::string("libname").token("LIB-NAME"), Arg::string("libver").token("LIB-VER")],
            )],
            ..SUB
        },
        Command {
            name: "list",
            summary: "Lists open connections.",
            complexity: "O(N) where N is the number of client connections",
            arity: -2,
            flags: ADMIN,
            args: &[
                Arg::one_of(
                    "client-type",
                    &[
                        Arg::word("normal", "NORMAL"),
                        Arg::word("master", "MASTER"),
                        Arg::word("replica", "REPLICA"),
                        Arg::word("pubsub", "PUBSUB"),
                    ],
                )
                .token("TYPE")
                .since("5.0.0")
                .optional(),
                Arg::integer("client-id").token("ID").since("6.2.0").multiple().optional(),
            ],
            ..SUB
        },
        Command { name: "info", summary: "Returns information about the connection.", since: "6.2.0", ..SUB },
        Command {
            name: "kill",
            summary: "Terminates open connections.",
            complexity: "O(N) where N is the number of client connections",
            arity: -3,
            flags: ADMIN,
            args: &[Arg::string("filter").multiple()],
            ..SUB
        },
        Command {
            name: "no-evict",
            summary: "Sets the client eviction mode of the connection.",
            since: "7.0.0",
            arity: 3,
            flags: ADMIN,
            args: &[Arg::one_of("enabled", &[Arg::word("on", "ON"), Arg::word("off", "OFF")])],
            ..SUB
        },
        Command {
            name: "no-touch",
            summary: "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.",
            since: "7.2.0",
            arity: 3,
            args: &[Arg::one_of("enabled", &[Arg::word("on", "ON"), Arg::word("off", "OFF")])],
            ..SUB
        },
        Command {
            name: "reply",
            summary: "Instructs the server whether to reply to commands.",
            since: "3.2.0",
            arity: 3,
            args: &[Arg::one_of(
                "action",
                &[Arg::word("on", "ON"), Arg::word("off", "OFF"), Arg::word("skip", "SKIP")],
            )],
            ..SUB
        },
        Command {
            name: "unblock",
            summary: "Unblocks a client blocked by a blocking command from a different connection.",
            since: "5.0.0",
            arity: -3,
            flags: ADMIN,
            args: &[
                Arg::integer("client-id"),
                Arg::one_of("unblock-type", &[Arg::word("timeout", "TIMEOUT"), Arg::word("error", "ERROR")])
                    .optional(),
            ],
            ..SUB
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            since: "5.0.0",
            ..SUB
        },
    ],
    ..Command::BASE
};

/// A name that fits into the lines of CLIENT LIST.
pub fn checked_name(name: &[u8]) -> Result<Vec<u8>, Error> {
    if name.iter().any(|c| !(b'!'..=b'~').contains(c)) {
        return Err(Error::text("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    Ok(name.to_vec())
}

pub fn set_name<E: Env>(cx: &mut HostCx<E>, name: Vec<u8>) {
    cx.host.client.text().name = String::from_utf8_lossy(&name).into_owned();
    cx.session.name = name;
}

fn set_info<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let value = cx.args[3];
    if value.iter().any(|c| !(b'!'..=b'~').contains(c)) {
        let which = cx.text(2).to_lowercase();
        return Err(Error::err(&format!("{which} cannot contain spaces, newlines or special characters.")));
    }
    let text = cx.text(3);
    if cx.is_word(2, "LIB-NAME") {
        cx.session.lib_name = value.to_vec();
        cx.host.client.text().lib_name = text;
    } else if cx.is_word(2, "LIB-VER") {
        cx.session.lib_version = value.to_vec();
        cx.host.client.text().lib_version = text;
    } else {
        return Err(Error::err(&format!("Unrecognized option '{}'", cx.text(2))));
    }
    cx.ok()
}

fn line<E: Env>(cx: &HostCx<E>, client: &Client) -> String {
    let table = &cx.shared().engine.table;
    let id = client.command.load(Ordering::Relaxed);
    let command = id.checked_sub(1).and_then(|i| table.specs().get(i)).map_or("NULL", |s| &s.full_name);
    client.line(cx.host.setting.now.wall.0, command)
}

/// Clients that conditions choose. Follows CLIENT LIST and CLIENT KILL of Redis 7.0.
#[derive(Default)]
struct Filter {
    ids: Option<Vec<u64>>,
    kind: Option<String>,
    user: Option<String>,
    peer: Option<String>,
    own: Option<String>,
    may_be_me: bool,
}

impl Filter {
    fn parse<E: Env>(cx: &HostCx<E>, from: usize) -> Result<Filter, Error> {
        // Redis: CLIENT LIST and CLIENT KILL have each their words for it.
        let invalid_id = || match cx.is_word(1, "LIST") {
            true => Error::text("ERR Invalid client ID"),
            false => Error::text("ERR client-id should be greater than 0"),
        };
        let mut filter = Filter { may_be_me: true, ..Filter::default() };
        let mut i = from;
        while i < cx.args.len() {
            let value = cx.args.get(i + 1).map(|_| cx.text(i + 1)).ok_or(Error::Syntax)?;
            if cx.is_word(i, "ID") {
                let mut ids = Vec::new();
                while i + 1 < cx.args.len()
                    && let Ok(id) = cx.int(i + 1)
                {
                    ids.push(u64::try_from(id).ok().filter(|id| *id > 0).ok_or_else(invalid_id)?);
                    i += 1;
                }
                if ids.is_empty() {
                    return Err(invalid_id());
                }
                filter.ids = Some(ids);
                i += 1;
                continue;
            } else if cx.is_word(i, "TYPE") {
                let kind = match value.to_lowercase().as_str() {
                    "slave" => "replica".to_string(),
                    kind => kind.to_string(),
                };
                if !["normal", "replica", "pubsub", "master"].contains(&kind.as_str()) {
                    return Err(Error::err(&format!("Unknown client type '{value}'")));
                }
                filter.kind = Some(kind);
            } else if cx.is_word(i, "USER") {
                if value != "default" {
                    return Err(Error::err(&format!("No such user '{value}'")));
                }
                filter.user = Some(value);
            } else if cx.is_word(i, "ADDR") {
                filter.peer = Some(value);
            } else if cx.is_word(i, "LADDR") {
                filter.own = Some(value);
            } else if cx.is_word(i, "SKIPME") {
                filter.may_be_me = match value.to_lowercase().as_str() {
                    "yes" => false,
                    "no" => true,
                    _ => return Err(Error::Syntax),
                };
            } else {
                return Err(Error::Syntax);
            }
            i += 2;
        }
        Ok(filter)
    }

    fn holds(&self, client: &Client, me: u64) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && self.kind.as_ref().is_none_or(|k| k == client.kind())
            && self.user.as_ref().is_none_or(|u| *u == client.text().user)
            && self.peer.as_ref().is_none_or(|a| *a == client.peer_text())
            && self.own.as_ref().is_none_or(|a| *a == client.own_text())
            && (self.may_be_me || client.id != me)
    }
}

fn list<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let filter = Filter::parse(cx, 2)?;
    let clients = cx.shared().clients.all();
    let chosen = clients.iter().filter(|c| filter.holds(c, cx.session.id));
    let text: String = chosen.map(|c| line(cx, c) + "\n").collect();
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn info<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let text = line(cx, cx.host.client) + "\n";
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn kill<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let is_old_form = cx.args.len() == 3;
    let filter = match is_old_form {
        true => Filter { peer: Some(cx.text(2)), may_be_me: true, ..Filter::default() },
        false => {
            let names_me = (2..cx.args.len()).any(|i| cx.is_word(i, "SKIPME"));
            let mut filter = Filter::parse(cx, 2)?;
            filter.may_be_me &= names_me;
            filter
        }
    };
    let me = cx.session.id;
    let chosen: Vec<Arc<Client>> =
        cx.shared().clients.all().into_iter().filter(|c| filter.holds(c, me)).collect();
    for client in &chosen {
        client.is_killed.store(true, Ordering::Relaxed);
        cx.shared().post_to(client.id, Letter::Kill { client: client.id, is_soft: client.id == me });
    }
    match (is_old_form, chosen.len()) {
        (true, 0) => return Err(Error::text("ERR No such client")),
        (true, _) => cx.out.ok(),
        (false, count) => cx.out.int(count as i64),
    }
    Ok(if chosen.iter().any(|c| c.id == me) { HostOutcome::Close } else { HostOutcome::Done })
}

fn on_off<E: Env>(cx: &HostCx<E>) -> Result<bool, Error> {
    match (cx.is_word(2, "ON"), cx.is_word(2, "OFF")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(Error::Syntax),
    }
}

fn reply<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if cx.is_word(2, "ON") {
        cx.session.reply_mode = ReplyMode::On;
        return cx.ok();
    }
    if cx.is_word(2, "OFF") {
        cx.session.reply_mode = ReplyMode::Off;
    } else if cx.is_word(2, "SKIP") {
        if cx.session.reply_mode == ReplyMode::On {
            cx.session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(Error::Syntax);
    }
    Ok(HostOutcome::Done)
}

fn unblock<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let id = cx.int(2)?;
    let is_error = match cx.args.len() {
        3 => false,
        4 if cx.is_word(3, "TIMEOUT") => false,
        4 if cx.is_word(3, "ERROR") => true,
        _ => return Err(Error::text("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    let client = u64::try_from(id).ok().and_then(|id| cx.shared().clients.get(id));
    let is_blocked = client.is_some_and(|c| {
        let is_blocked = c.has(crate::clients::state::BLOCKED);
        if is_blocked {
            cx.shared().post_to(c.id, Letter::Unblock(c.id, is_error));
        }
        is_blocked
    });
    cx.out.int(is_blocked as i64);
    Ok(HostOutcome::Done)
}

pub static COMMANDS: &[Command] = &[CLIENT];

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("client|id", |cx| {
            cx.out.int(cx.session.id as i64);
            Ok(HostOutcome::Done)
        }),
        ("client|getname", |cx| {
            match cx.session.name.is_empty() {
                true => cx.out.null(),
                false => cx.out.bulk(&cx.session.name),
            }
            Ok(HostOutcome::Done)
        }),
        ("client|setname", |cx| {
            let name = checked_name(cx.args[2])?;
            set_name(cx, name);
            cx.ok()
        }),
        ("client|setinfo", set_info::<E>),
        ("client|list", list::<E>),
        ("client|info", info::<E>),
        ("client|kill", kill::<E>),
        ("client|no-evict", |cx| {
            cx.session.is_no_evict = on_off(cx)?;
            cx.ok()
        }),
        ("client|no-touch", |cx| {
            cx.session.is_no_touch = on_off(cx)?;
            cx.ok()
        }),
        ("client|reply", reply::<E>),
        ("client|unblock", unblock::<E>),
        ("client|help", |cx| cx.help()),
    ]
}
