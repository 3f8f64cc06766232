//! CLIENT: what connections are there, and what they want of the server.

use super::Functions;
use crate::clients::Client;
use crate::env::Env;
use crate::host::HostCx;
use crate::mail::Note;
use crate::shared::Shared;
use engine::session::{ReplyMode, Tracking};
use engine::spec::{Arg, Command, Group, Handler, acl, flag};
use engine::{Error, HostOutcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;

type Outcome = Result<HostOutcome, Error>;

const OPEN: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::KEEPS_STATES;
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
            name: "pause",
            summary: "Suspends commands processing.",
            since: "3.0.0",
            arity: -3,
            flags: ADMIN,
            args: &[
                Arg::integer("timeout"),
                Arg::one_of("mode", &[Arg::word("write", "WRITE"), Arg::word("all", "ALL")])
                    .since("6.2.0")
                    .optional(),
            ],
            ..SUB
        },
        Command {
            name: "unpause",
            summary: "Resumes processing commands from paused clients.",
            since: "6.2.0",
            complexity: "O(N) Where N is the number of paused clients",
            flags: ADMIN,
            ..SUB
        },
        Command {
            name: "tracking",
            summary: "Controls server-assisted client-side caching for the connection.",
            since: "6.0.0",
            arity: -3,
            args: &[
                Arg::one_of("status", &[Arg::word("on", "ON"), Arg::word("off", "OFF")]),
                Arg::integer("client-id").token("REDIRECT").optional(),
                Arg::string("prefix").token("PREFIX").multiple_token().optional(),
                Arg::word("bcast", "BCAST").optional(),
                Arg::word("optin", "OPTIN").optional(),
                Arg::word("optout", "OPTOUT").optional(),
                Arg::word("noloop", "NOLOOP").optional(),
            ],
            ..SUB
        },
        Command {
            name: "caching",
            summary: "Instructs the server whether to track the keys in the next request.",
            since: "6.0.0",
            arity: 3,
            args: &[Arg::one_of("mode", &[Arg::word("yes", "YES"), Arg::word("no", "NO")])],
            ..SUB
        },
        Command {
            name: "getredir",
            summary: "Returns the client ID to which the connection's tracking notifications are redirected.",
            since: "6.0.0",
            ..SUB
        },
        Command {
            name: "trackinginfo",
            summary: "Returns information about server-assisted client-side caching for the connection.",
            since: "6.2.0",
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

/// A client's line of CLIENT LIST, without its end.
pub fn line<E: Env>(shared: &Shared<E>, client: &Client, now_ms: i64, query: Option<usize>) -> String {
    let table = &shared.engine.table;
    let id = client.command.load(Ordering::Relaxed);
    let command = id.checked_sub(1).and_then(|i| table.specs().get(i)).map_or("NULL", |s| &s.full_name);
    client.line(now_ms, command, query)
}

/// One thing that is asked of a client.
enum Condition {
    Ids(Vec<u64>),
    Kind(&'static str),
    User(String),
    Peer(String),
    Own(String),
    Ip(String),
    Name(String),
    LibName(String),
    LibVersion(String),
    Flags(String),
    Db(u16),
    AgeS(i64),
    IdleS(i64),
}

impl Condition {
    fn holds(&self, client: &Client, now_ms: i64) -> bool {
        match self {
            Condition::Ids(ids) => ids.contains(&client.id),
            Condition::Kind(kind) => *kind == client.kind(),
            Condition::User(user) => *user == client.text().user,
            Condition::Peer(peer) => *peer == client.peer_text(),
            Condition::Own(own) => *own == client.own_text(),
            Condition::Ip(ip) => *ip == client.peer.ip().to_string(),
            Condition::Name(name) => *name == client.text().name,
            Condition::LibName(name) => *name == client.text().lib_name,
            Condition::LibVersion(version) => *version == client.text().lib_version,
            Condition::Flags(flags) => flags.chars().all(|f| client.flags().contains(f)),
            Condition::Db(db) => *db == client.db.load(Ordering::Relaxed),
            Condition::AgeS(s) => client.age_s(now_ms) >= *s,
            Condition::IdleS(s) => client.idle_s(now_ms) >= *s,
        }
    }
}

/// Clients that conditions choose. Follows CLIENT LIST and CLIENT KILL of Redis 7.0, and the further conditions of Redis
/// 8 and Valkey 9, each of which may be turned round by `NOT-` before its name.
struct Filter {
    /// Each with whether it must hold.
    conditions: Vec<(Condition, bool)>,
    may_be_me: bool,
}

impl Filter {
    fn parse<E: Env>(cx: &HostCx<E>, from: usize) -> Result<Filter, Error> {
        let mut filter = Filter { conditions: Vec::new(), may_be_me: true };
        let mut i = from;
        while i < cx.args.len() {
            let value = cx.args.get(i + 1).map(|_| cx.text(i + 1)).ok_or(Error::Syntax)?;
            let name = cx.text(i).to_ascii_uppercase();
            let (name, is_wanted) = match name.strip_prefix("NOT-") {
                Some(rest) => (rest, false),
                None => (name.as_str(), true),
            };
            if name == "SKIPME" && is_wanted {
                filter.may_be_me = match value.to_lowercase().as_str() {
                    "yes" => false,
                    "no" => true,
                    _ => return Err(Error::Syntax),
                };
                i += 2;
                continue;
            }
            let condition = Filter::condition(cx, name, value, &mut i)?;
            filter.conditions.push((condition, is_wanted));
            i += 2;
        }
        Ok(filter)
    }

    /// The condition at `i`, which moves on where it has several operands.
    fn condition<E: Env>(
        cx: &HostCx<E>,
        name: &str,
        value: String,
        i: &mut usize,
    ) -> Result<Condition, Error> {
        let count = |what: &'static str| {
            let count = cx.int(*i + 1).ok().filter(|n| *n >= 0);
            count.ok_or_else(|| Error::err(&format!("{what} is not an integer or out of range")))
        };
        Ok(match name {
            "ID" => Condition::Ids(Filter::ids(cx, i)?),
            "TYPE" => Condition::Kind(kind_named(&value)?),
            "USER" if cx.shared().users.get(cx.args[*i + 1]).is_none() => {
                return Err(Error::err(&format!("No such user '{value}'")));
            }
            "USER" => Condition::User(value),
            "ADDR" => Condition::Peer(value),
            "LADDR" => Condition::Own(value),
            "IP" => Condition::Ip(value),
            "NAME" => Condition::Name(value),
            "LIB-NAME" => Condition::LibName(value),
            "LIB-VER" => Condition::LibVersion(value),
            "FLAGS" => Condition::Flags(value),
            "DB" => Condition::Db(
                u16::try_from(count("DB")?)
                    .ok()
                    .filter(|db| *db < cx.shared().engine.keyspace.databases())
                    .ok_or(Error::text("ERR DB number should be between 0 and the number of databases"))?,
            ),
            "MAXAGE" => Condition::AgeS(count("maxage")?),
            "IDLE" => Condition::IdleS(count("idle")?),
            _ => return Err(Error::Syntax),
        })
    }

    /// One id or several.
    fn ids<E: Env>(cx: &HostCx<E>, i: &mut usize) -> Result<Vec<u64>, Error> {
        // Redis: CLIENT LIST and CLIENT KILL have each their words for it.
        let invalid = || match cx.is_word(1, "LIST") {
            true => Error::text("ERR Invalid client ID"),
            false => Error::text("ERR client-id should be greater than 0"),
        };
        let mut ids = Vec::new();
        while *i + 1 < cx.args.len()
            && let Ok(id) = cx.int(*i + 1)
        {
            ids.push(u64::try_from(id).ok().filter(|id| *id > 0).ok_or_else(invalid)?);
            *i += 1;
        }
        if ids.is_empty() {
            return Err(invalid());
        }
        // The caller goes over the name and one operand.
        *i -= 1;
        Ok(ids)
    }

    fn holds(&self, client: &Client, me: u64, now_ms: i64) -> bool {
        self.conditions.iter().all(|(condition, is_wanted)| condition.holds(client, now_ms) == *is_wanted)
            && (self.may_be_me || client.id != me)
    }
}

fn kind_named(name: &str) -> Result<&'static str, Error> {
    let lower = name.to_lowercase();
    let name_of = |kind: &str| {
        if kind == "slave" {
            "replica"
        } else if kind == "primary" {
            "master"
        } else {
            ""
        }
    };
    ["normal", "replica", "pubsub", "master"]
        .into_iter()
        .find(|kind| lower == *kind || name_of(&lower) == *kind)
        .ok_or_else(|| Error::err(&format!("Unknown client type '{name}'")))
}

/// Bytes of the command that runs, as its client sent it.
fn query_bytes<E: Env>(cx: &HostCx<E>) -> usize {
    let mut encoded = Vec::new();
    proto::resp::encode_command(cx.args, &mut encoded);
    encoded.len()
}

fn list<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let filter = Filter::parse(cx, 2)?;
    let (me, now_ms, own) = (cx.session.id, cx.host.setting.now.wall.0, query_bytes(cx));
    let clients = cx.shared().clients.all();
    let is_shown = |c: &&Arc<Client>| !c.is_killed() && filter.holds(c, me, now_ms);
    let one = |c: &Arc<Client>| line(cx.shared(), c, now_ms, (c.id == me).then_some(own)) + "\n";
    let text: String = clients.iter().filter(is_shown).map(one).collect();
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn info<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let text = line(cx.shared(), cx.host.client, cx.host.setting.now.wall.0, Some(query_bytes(cx))) + "\n";
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn kill<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let is_old_form = cx.args.len() == 3;
    let filter = match is_old_form {
        true => Filter { conditions: vec![(Condition::Peer(cx.text(2)), true)], may_be_me: true },
        false => {
            let names_me = (2..cx.args.len()).any(|i| cx.is_word(i, "SKIPME"));
            let mut filter = Filter::parse(cx, 2)?;
            filter.may_be_me &= names_me;
            filter
        }
    };
    let (me, now_ms) = (cx.session.id, cx.host.setting.now.wall.0);
    let is_chosen = |c: &Arc<Client>| !c.is_killed() && filter.holds(c, me, now_ms);
    let chosen: Vec<Arc<Client>> = cx.shared().clients.all().into_iter().filter(is_chosen).collect();
    for client in &chosen {
        client.kill();
        cx.shared().tell(client, Note::Kill { is_soft: client.id == me });
    }
    // The link to the primary is no connection of a worker's.
    let is_link = matches!(filter.conditions[..], [(Condition::Kind("master"), true)])
        && crate::replica::cut_link(cx.shared());
    match (is_old_form, chosen.len() + is_link as usize) {
        (true, 0) => return Err(Error::text("ERR No such client")),
        (true, _) => cx.out.ok(),
        (false, count) => cx.out.int(count as i64),
    }
    // Inside EXEC the letter ends the connection.
    let is_ending = chosen.iter().any(|c| c.id == me) && !cx.is_nested();
    Ok(if is_ending { HostOutcome::Close } else { HostOutcome::Done })
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
    let is_blocked = u64::try_from(id).is_ok_and(|id| cx.shared().unblock(id, is_error));
    cx.out.int(is_blocked as i64);
    Ok(HostOutcome::Done)
}

fn pause<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let is_for_all = match cx.args.len() {
        3 => true,
        4 if cx.is_word(3, "WRITE") => false,
        4 if cx.is_word(3, "ALL") => true,
        4 => return Err(Error::text("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(cx.unknown_form()),
    };
    const NO_TIME: Error = Error::text("ERR timeout is not an integer or out of range");
    let ms = cx.int(2).map_err(|_| NO_TIME)?;
    if ms < 0 {
        return Err(Error::text("ERR timeout is negative"));
    }
    if !cx.host.is_exclusive && !cx.is_nested() {
        // Nobody is in the middle of a batch that saw no pause: what is written is written when this answers.
        return Ok(HostOutcome::NeedsGate);
    }
    let now = cx.shared().env.now().mono;
    let until = (ms as u64).checked_mul(1000).and_then(|us| now.0.checked_add(us)).ok_or(NO_TIME)?;
    cx.shared().pause.begin(now, proto::Mono(until), is_for_all);
    cx.ok()
}

/// What CLIENT TRACKING asks for.
#[derive(Default)]
struct TrackingRequest<'a> {
    mode: Tracking,
    is_noloop: bool,
    redirect: u64,
    prefixes: Vec<&'a [u8]>,
}

fn parse_tracking<'a, E: Env>(cx: &HostCx<'a, '_, E>) -> Result<TrackingRequest<'a>, Error> {
    let mut request = TrackingRequest::default();
    let mut i = 3;
    while i < cx.args.len() {
        let has_more = i + 1 < cx.args.len();
        if cx.is_word(i, "REDIRECT") && has_more {
            if request.redirect != 0 {
                return Err(Error::text("ERR A client can only redirect to a single other client"));
            }
            i += 1;
            let id = u64::try_from(cx.int(i)?).ok().filter(|id| cx.shared().clients.get(*id).is_some());
            request.redirect =
                id.ok_or(Error::text("ERR The client ID you want redirect to does not exist"))?;
        } else if cx.is_word(i, "PREFIX") && has_more {
            i += 1;
            request.prefixes.push(cx.args[i]);
        } else if cx.is_word(i, "BCAST") {
            request.mode.is_bcast = true;
        } else if cx.is_word(i, "OPTIN") {
            request.mode.is_optin = true;
        } else if cx.is_word(i, "OPTOUT") {
            request.mode.is_optout = true;
        } else if cx.is_word(i, "NOLOOP") {
            request.is_noloop = true;
        } else {
            return Err(Error::Syntax);
        }
        i += 1;
    }
    Ok(request)
}

fn tracking<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let request = parse_tracking(cx)?;
    if !cx.shared().tracking.is_on() && !cx.host.is_exclusive && !cx.is_nested() {
        // Nobody is in the middle of a batch that saw no client who tracks.
        return Ok(HostOutcome::NeedsGate);
    }
    match on_off(cx)? {
        true => start_tracking(cx, &request)?,
        false => stop_tracking(cx),
    }
    cx.ok()
}

fn start_tracking<E: Env>(cx: &mut HostCx<E>, request: &TrackingRequest) -> Result<(), Error> {
    let mode = request.mode;
    if !mode.is_bcast && !request.prefixes.is_empty() {
        return Err(Error::text("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    if cx.session.tracking().is_some_and(|old| old.is_bcast != mode.is_bcast) {
        return Err(Error::text(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
        ));
    }
    if mode.is_bcast && (mode.is_optin || mode.is_optout) {
        return Err(Error::text("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if mode.is_optin && mode.is_optout {
        return Err(Error::text("ERR You can't specify both OPTIN mode and OPTOUT mode"));
    }
    let is_switched = |old: Tracking| mode.is_optin && old.is_optout || mode.is_optout && old.is_optin;
    if cx.session.tracking().is_some_and(is_switched) {
        return Err(Error::text(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
        ));
    }
    check_prefixes(cx, &request.prefixes)?;
    let client = cx.host.client;
    cx.shared().tracking.begin(client, mode, request.is_noloop, request.redirect, &request.prefixes);
    client.redirect.store(request.redirect as i64, Ordering::Relaxed);
    cx.session.set_tracking(Some(mode));
    Ok(())
}

/// Prefixes of one client must not overlap: it would be told twice.
fn check_prefixes<E: Env>(cx: &HostCx<E>, prefixes: &[&[u8]]) -> Result<(), Error> {
    let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
    let error = |a: &[u8], what: &str, b: &[u8]| {
        Err(Error::err(&format!(
            "Prefix '{}' overlaps with {what} prefix '{}'. Prefixes for a single client must not overlap.",
            String::from_utf8_lossy(a),
            String::from_utf8_lossy(b)
        )))
    };
    let known = cx.shared().tracking.get(cx.session.id).map(|t| t.prefixes.clone()).unwrap_or_default();
    for (i, prefix) in prefixes.iter().enumerate() {
        if let Some(other) = known.iter().find(|other| overlap(prefix, other)) {
            return error(prefix, "an existing", other);
        }
        if let Some(other) = prefixes[i + 1..].iter().find(|other| overlap(prefix, other)) {
            return error(prefix, "another provided", other);
        }
    }
    Ok(())
}

/// The client is told of no keys any more.
pub fn stop_tracking<E: Env>(cx: &mut HostCx<E>) {
    cx.shared().tracking.end(cx.session.id);
    cx.host.client.redirect.store(-1, Ordering::Relaxed);
    cx.session.set_tracking(None);
}

fn caching<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let Some(mode) = cx.session.tracking() else {
        return Err(Error::text(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    match (cx.is_word(2, "YES"), cx.is_word(2, "NO")) {
        (true, _) if mode.is_optin => {}
        (true, _) => {
            return Err(Error::text(
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            ));
        }
        (_, true) if mode.is_optout => {}
        (_, true) => {
            return Err(Error::text(
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            ));
        }
        _ => return Err(Error::Syntax),
    }
    cx.session.is_caching = true;
    cx.ok()
}

fn tracking_info<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let tracker = cx.shared().tracking.get(cx.session.id);
    let mut flags = vec![if tracker.is_some() { "on" } else { "off" }];
    if let Some(t) = &tracker {
        let is_caching = cx.session.is_caching;
        let named = [
            (t.mode.is_bcast, "bcast"),
            (t.mode.is_optin, "optin"),
            (t.mode.is_optin && is_caching, "caching-yes"),
            (t.mode.is_optout, "optout"),
            (t.mode.is_optout && is_caching, "caching-no"),
            (t.is_noloop, "noloop"),
            (t.is_broken.load(Ordering::Relaxed), "broken_redirect"),
        ];
        flags.extend(named.iter().filter(|(is, _)| *is).map(|(_, name)| *name));
    }
    cx.out.map(3);
    cx.out.bulk(b"flags");
    cx.out.set(flags.len());
    flags.iter().for_each(|f| cx.out.bulk(f.as_bytes()));
    cx.out.bulk(b"redirect");
    cx.out.int(tracker.as_ref().map_or(-1, |t| t.redirect as i64));
    cx.out.bulk(b"prefixes");
    let prefixes = tracker.map(|t| t.prefixes.clone()).unwrap_or_default();
    cx.out.array(prefixes.len());
    prefixes.iter().for_each(|p| cx.out.bulk(p));
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
        ("client|pause", pause::<E>),
        ("client|unpause", |cx| {
            cx.shared().pause.end();
            cx.ok()
        }),
        ("client|tracking", tracking::<E>),
        ("client|caching", caching::<E>),
        ("client|getredir", |cx| {
            let redirect = cx.host.client.redirect.load(Ordering::Relaxed);
            cx.out.int(redirect);
            Ok(HostOutcome::Done)
        }),
        ("client|trackinginfo", tracking_info::<E>),
        ("client|unblock", unblock::<E>),
        ("client|help", |cx| cx.help()),
    ]
}
