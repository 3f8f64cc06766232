//! Commands about the connection itself.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use engine::acl::{Context, Reason};
use engine::multi;
use engine::spec::{Arg, Command, Group, Handler, acl, flag};
use engine::{Error, HostOutcome};
use proto::view::Role;

type Outcome = Result<HostOutcome, Error>;

const BASE: Command = Command {
    group: Group::Connection,
    flags: OPEN,
    acl: acl::CONNECTION,
    run: Handler::Host,
    ..Command::BASE
};
const OPEN: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST;

const PING: Command = Command {
    name: "ping",
    summary: "Returns the server's liveliness response.",
    arity: -1,
    flags: flag::FAST | flag::SUBSCRIBED,
    args: &[Arg::string("message").optional()],
    tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
    ..BASE
};
fn ping<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if cx.args.len() > 2 {
        return Err(Error::Arity("ping".into()));
    }
    let message = cx.args.get(1).copied();
    if cx.session.is_subscribed() && !cx.session.is_resp3 {
        cx.out.array(2);
        cx.out.bulk(b"pong");
        cx.out.bulk(message.unwrap_or_default());
    } else {
        match message {
            Some(message) => cx.out.bulk(message),
            None => cx.out.simple("PONG"),
        }
    }
    Ok(HostOutcome::Done)
}

const ECHO: Command = Command {
    name: "echo",
    summary: "Returns the given string.",
    arity: 2,
    flags: flag::FAST | flag::LOADING | flag::STALE,
    args: &[Arg::string("message")],
    ..BASE
};
fn echo<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    cx.out.bulk(cx.args[1]);
    Ok(HostOutcome::Done)
}

const SELECT: Command = Command {
    name: "select",
    summary: "Changes the selected database.",
    arity: 2,
    flags: flag::LOADING | flag::STALE | flag::FAST,
    args: &[Arg::integer("index")],
    ..BASE
};
fn select<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let number = cx.int(1)?;
    if i32::try_from(number).is_err() {
        return Err(Error::text("ERR value is out of range, value must between -2147483648 and 2147483647"));
    }
    let settings = cx.host.setting.settings;
    if settings.is_cluster && number != 0 {
        return Err(Error::text("ERR SELECT is not allowed in cluster mode"));
    }
    cx.session.db = u16::try_from(number)
        .ok()
        .filter(|db| *db < settings.engine.databases)
        .ok_or(Error::text("ERR DB index is out of range"))?;
    cx.ok()
}

const AUTH: Command = Command {
    name: "auth",
    summary: "Authenticates the connection.",
    arity: -2,
    flags: OPEN | flag::NO_AUTH | flag::ALLOW_BUSY,
    is_secret: Some(|_, i| i > 0),
    args: &[Arg::string("username").since("6.0.0").optional(), Arg::string("password")],
    history: &[("6.0.0", "Added ACL style (username and password).")],
    ..BASE
};
fn auth<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if cx.args.len() > 3 {
        return Err(Error::Syntax);
    }
    if cx.args.len() == 2 && cx.shared().users.default_user().is_nopass {
        return Err(Error::text(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ));
    }
    let (user, password) = match cx.args.len() {
        2 => (b"default".as_slice(), cx.args[1]),
        _ => (cx.args[1], cx.args[2]),
    };
    authenticate(cx, user, password)?;
    cx.ok()
}

fn authenticate<E: Env>(cx: &mut HostCx<E>, user: &[u8], password: &[u8]) -> Result<(), Error> {
    // Before the user is looked up: a change after this is seen with the next batch.
    let epoch = cx.shared().users.epoch();
    let Some(user) = cx.shared().users.authenticate(user, password) else {
        let context = if cx.session.in_multi() { Context::Multi } else { Context::Toplevel };
        cx.host.log_denied(Reason::Auth, context, cx.args[0], user);
        return Err(Error::text("WRONGPASS invalid username-password pair or user is disabled."));
    };
    cx.host.client.set_user(&user);
    cx.session.users_epoch = epoch;
    cx.session.set_user(Some(user), true);
    Ok(())
}

const HELLO: Command = Command {
    name: "hello",
    summary: "Handshakes with the server.",
    since: "6.0.0",
    arity: -1,
    flags: OPEN | flag::NO_AUTH | flag::ALLOW_BUSY,
    is_secret: Some(|args, i| {
        let is_auth = |i: Option<usize>| i.is_some_and(|i| args[i].eq_ignore_ascii_case(b"AUTH"));
        i > 2 && (is_auth(i.checked_sub(1)) || i > 3 && is_auth(i.checked_sub(2)))
    }),
    args: &[Arg::block(
        "arguments",
        &[
            Arg::integer("protover"),
            Arg::block("auth", &[Arg::string("username"), Arg::string("password")]).token("AUTH").optional(),
            Arg::string("clientname").token("SETNAME").optional(),
        ],
    )
    .optional()],
    history: &[(
        "6.2.0",
        "`protover` made optional; when called without arguments reports the current connection's context.",
    )],
    ..BASE
};
fn hello<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let mut is_resp3 = cx.session.is_resp3;
    if cx.args.len() >= 2 {
        let version =
            cx.int(1).map_err(|_| Error::text("ERR Protocol version is not an integer or out of range"))?;
        is_resp3 = match version {
            2 => false,
            3 => true,
            _ => return Err(Error::text("NOPROTO unsupported protocol version")),
        };
    }
    let (mut credentials, mut name, mut i) = (None, None, 2);
    while i < cx.args.len() {
        if cx.is_word(i, "AUTH") && i + 2 < cx.args.len() {
            credentials = Some((cx.args[i + 1], cx.args[i + 2]));
            i += 3;
        } else if cx.is_word(i, "SETNAME") && i + 1 < cx.args.len() {
            name = Some(super::client::checked_name(cx.args[i + 1])?);
            i += 2;
        } else {
            return Err(Error::err(&format!("Syntax error in HELLO option '{}'", cx.text(i))));
        }
    }
    if let Some((user, password)) = credentials {
        authenticate(cx, user, password)?;
    }
    if !cx.session.is_authenticated() {
        return Err(Error::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        super::client::set_name(cx, name);
    }
    cx.session.is_resp3 = is_resp3;
    cx.out.set_resp3(is_resp3);
    describe(cx);
    Ok(HostOutcome::Done)
}

fn describe<E: Env>(cx: &mut HostCx<E>) {
    let is_replica = match cx.host.setting.view {
        Some(view) => view.me().role != Role::Primary,
        None => cx.host.setting.status.is_replica,
    };
    let is_cluster = cx.host.setting.settings.is_cluster;
    let (id, version) = (cx.session.id as i64, if cx.session.is_resp3 { 3 } else { 2 });
    cx.out.map(7);
    for (field, value) in [("server", "redis"), ("version", super::info::REDIS_VERSION)] {
        cx.out.bulk(field.as_bytes());
        cx.out.bulk(value.as_bytes());
    }
    for (field, value) in [("proto", version), ("id", id)] {
        cx.out.bulk(field.as_bytes());
        cx.out.int(value);
    }
    let mode = if is_cluster { "cluster" } else { "standalone" };
    for (field, value) in [("mode", mode), ("role", if is_replica { "replica" } else { "master" })] {
        cx.out.bulk(field.as_bytes());
        cx.out.bulk(value.as_bytes());
    }
    cx.out.bulk(b"modules");
    cx.out.array(0);
}

const QUIT: Command = Command {
    name: "quit",
    summary: "Closes the connection.",
    arity: -1,
    flags: OPEN | flag::NO_AUTH | flag::SUBSCRIBED | flag::NOT_QUEUED | flag::ALLOW_BUSY,
    ..BASE
};
fn quit<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    cx.out.ok();
    Ok(HostOutcome::Close)
}

const RESET: Command = Command {
    name: "reset",
    summary: "Resets the connection.",
    since: "6.2.0",
    arity: 1,
    flags: OPEN | flag::NO_AUTH | flag::SUBSCRIBED | flag::NOT_QUEUED | flag::ALLOW_BUSY,
    ..BASE
};
fn reset<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let shared = cx.shared().clone();
    cx.session.multi = None;
    if !cx.host.is_exclusive {
        multi::unwatch(cx.session, &shared.engine);
    }
    if std::mem::take(&mut cx.session.is_monitor) {
        crate::observe::end_monitoring(&shared, cx.session.id);
    }
    super::client::stop_tracking(cx);
    super::pubsub::unsubscribe_all(cx);
    cx.session.db = 0;
    cx.session.is_resp3 = false;
    cx.out.set_resp3(false);
    cx.session.is_readonly = false;
    cx.session.is_asking = false;
    cx.session.is_no_touch = false;
    cx.session.is_no_evict = false;
    cx.session.reply_mode = engine::session::ReplyMode::On;
    shared.users.begin(cx.session);
    cx.session.user().into_iter().for_each(|user| cx.host.client.set_user(user));
    super::client::set_name(cx, Vec::new());
    cx.out.simple("RESET");
    Ok(HostOutcome::Done)
}

const READONLY: Command = Command {
    name: "readonly",
    summary: "Enables read-only queries for a connection to a cluster replica node.",
    since: "3.0.0",
    group: Group::Cluster,
    arity: 1,
    flags: flag::LOADING | flag::STALE | flag::FAST,
    ..BASE
};
const READWRITE: Command = Command {
    name: "readwrite",
    summary: "Disables read-only queries for a connection to a cluster replica node.",
    ..READONLY
};
fn set_readonly<E: Env>(cx: &mut HostCx<E>, is_readonly: bool) -> Outcome {
    if !cx.host.setting.settings.is_cluster {
        return Err(Error::text("ERR This instance has cluster support disabled"));
    }
    cx.session.is_readonly = is_readonly;
    cx.ok()
}

const ASKING: Command = Command {
    name: "asking",
    summary: "Signals that a cluster client is following an -ASK redirect.",
    since: "3.0.0",
    group: Group::Cluster,
    arity: 1,
    flags: flag::FAST | flag::ASKING,
    ..BASE
};
fn asking<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    if !cx.host.setting.settings.is_cluster {
        return Err(Error::text("ERR This instance has cluster support disabled"));
    }
    cx.session.is_asking = true;
    cx.ok()
}

pub static COMMANDS: &[Command] =
    &[PING, ECHO, SELECT, AUTH, HELLO, QUIT, RESET, READONLY, READWRITE, ASKING];

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("ping", ping::<E>),
        ("echo", echo::<E>),
        ("select", select::<E>),
        ("auth", auth::<E>),
        ("hello", hello::<E>),
        ("quit", quit::<E>),
        ("reset", reset::<E>),
        ("readonly", |cx| set_readonly(cx, true)),
        ("readwrite", |cx| set_readonly(cx, false)),
        ("asking", asking::<E>),
    ]
}
