//! Channels: SUBSCRIBE and its kin, PUBLISH, PUBSUB.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::pubsub::{Receiver, Space};
use engine::spec::{Arg, Channels, Command, Group, Handler, KeySpec, channel, flag, key};
use engine::{Error, HostOutcome};

type Outcome = Result<HostOutcome, Error>;

const BASE: Command = Command {
    group: Group::PubSub,
    since: "2.0.0",
    complexity: "O(N) where N is the number of channels.",
    arity: -2,
    flags: flag::PUBSUB | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::SUBSCRIBED,
    run: Handler::Host,
    ..Command::BASE
};
const CHANNELS: &[Arg] = &[Arg::string("channel").multiple()];

pub static COMMANDS: &[Command] = &[
    Command {
        name: "subscribe",
        channels: Channels::all(channel::SUBSCRIBE),
        summary: "Listens for messages published to channels.",
        args: CHANNELS,
        ..BASE
    },
    Command {
        name: "unsubscribe",
        channels: Channels::all(channel::UNSUBSCRIBE),
        summary: "Stops listening to messages posted to channels.",
        arity: -1,
        args: &[Arg::string("channel").multiple().optional()],
        ..BASE
    },
    Command {
        name: "psubscribe",
        channels: Channels::all(channel::PATTERN | channel::SUBSCRIBE),
        summary: "Listens for messages published to channels that match one or more patterns.",
        args: &[Arg::pattern("pattern").multiple()],
        ..BASE
    },
    Command {
        name: "punsubscribe",
        channels: Channels::all(channel::PATTERN | channel::UNSUBSCRIBE),
        summary: "Stops listening to messages published to channels that match one or more patterns.",
        arity: -1,
        args: &[Arg::pattern("pattern").multiple().optional()],
        ..BASE
    },
    Command {
        name: "ssubscribe",
        channels: Channels::all(channel::SUBSCRIBE),
        summary: "Listens for messages published to shard channels.",
        since: "7.0.0",
        keys: &[KeySpec::range(1, -1, 1, key::NOT_KEY)],
        args: &[Arg::string("shardchannel").multiple()],
        ..BASE
    },
    Command {
        name: "sunsubscribe",
        channels: Channels::all(channel::UNSUBSCRIBE),
        summary: "Stops listening to messages posted to shard channels.",
        since: "7.0.0",
        arity: -1,
        keys: &[KeySpec::range(1, -1, 1, key::NOT_KEY)],
        args: &[Arg::string("shardchannel").multiple().optional()],
        ..BASE
    },
    Command {
        name: "publish",
        channels: Channels::one(channel::PUBLISH),
        summary: "Posts a message to a channel.",
        complexity: "O(N+M) where N is the number of receivers and M the number of patterns.",
        arity: 3,
        flags: flag::PUBSUB | flag::LOADING | flag::STALE | flag::FAST | flag::MAY_REPLICATE,
        args: &[Arg::string("channel"), Arg::string("message")],
        ..BASE
    },
    Command {
        name: "spublish",
        channels: Channels::one(channel::PUBLISH),
        summary: "Posts a message to a shard channel.",
        since: "7.0.0",
        complexity: "O(N) where N is the number of receivers.",
        arity: 3,
        flags: flag::PUBSUB | flag::LOADING | flag::STALE | flag::FAST | flag::MAY_REPLICATE,
        keys: &[KeySpec::one(1, key::NOT_KEY)],
        args: &[Arg::string("shardchannel"), Arg::string("message")],
        ..BASE
    },
    Command {
        name: "pubsub",
        summary: "A container for Pub/Sub commands.",
        since: "2.8.0",
        complexity: "Depends on subcommand.",
        flags: 0,
        run: Handler::Container,
        subcommands: &[
            Command {
                name: "channels",
                summary: "Returns the active channels.",
                arity: -2,
                args: &[Arg::pattern("pattern").optional()],
                ..INFO
            },
            Command {
                name: "numpat",
                summary: "Returns a count of unique pattern subscriptions.",
                arity: 2,
                ..INFO
            },
            Command {
                name: "numsub",
                summary: "Returns a count of subscribers to channels.",
                arity: -2,
                args: &[Arg::string("channel").multiple().optional()],
                ..INFO
            },
            Command {
                name: "shardchannels",
                summary: "Returns the active shard channels.",
                since: "7.0.0",
                arity: -2,
                args: &[Arg::pattern("pattern").optional()],
                ..INFO
            },
            Command {
                name: "shardnumsub",
                summary: "Returns the count of subscribers of shard channels.",
                since: "7.0.0",
                arity: -2,
                args: &[Arg::string("shardchannel").multiple().optional()],
                ..INFO
            },
            Command {
                name: "help",
                summary: "Returns helpful text about the different subcommands.",
                since: "6.2.0",
                arity: 2,
                ..INFO
            },
        ],
        ..BASE
    },
];
const INFO: Command = Command { since: "2.8.0", flags: flag::PUBSUB | flag::LOADING | flag::STALE, ..BASE };

const SPACES: [(Space, &str, &str); 3] = [
    (Space::Channel, "subscribe", "unsubscribe"),
    (Space::Pattern, "psubscribe", "punsubscribe"),
    (Space::Sharded, "ssubscribe", "sunsubscribe"),
];

fn subscribe<E: Env>(cx: &mut HostCx<E>, space: Space) -> Outcome {
    // Redis: a RESP2 client inside MULTI could not tell messages from replies.
    if cx.session.in_multi() && !cx.session.is_resp3 {
        return Err(Error::text("ERR SUBSCRIBE isn't allowed for a DENY BLOCKING client"));
    }
    if space == Space::Sharded {
        check_slots(cx)?;
    }
    let verb = SPACES[space as usize].1;
    let receiver = Receiver { client: cx.host.client.clone(), is_resp3: cx.session.is_resp3 };
    for name in &cx.args[1..] {
        let connection = cx.connection().clone();
        let mut subscriptions = connection.subscriptions.borrow_mut();
        if subscriptions.insert(space, name) {
            cx.shared().pubsub.subscribe(space, name, receiver.clone());
            cx.session.subscriptions[space as usize] += 1;
        }
        drop(subscriptions);
        confirm(cx, verb, Some(name), space);
    }
    Ok(HostOutcome::Done)
}

fn moved<E: Env>(cx: &HostCx<E>, slot: proto::Slot, to: &proto::view::NodeView) -> Error {
    let port = to.client_port(cx.session.is_tls);
    Error::Text(format!("MOVED {slot} {}:{port}", to.ip).into())
}

/// Sharded channels live where their slot does.
fn check_slots<E: Env>(cx: &HostCx<E>) -> Result<(), Error> {
    let Some(view) = cx.host.setting.view else { return Ok(()) };
    let slots: std::collections::BTreeSet<_> = cx.args[1..].iter().map(|n| proto::Slot::of_key(n)).collect();
    if slots.len() > 1 {
        return Err(Error::CrossSlot);
    }
    let slot = *slots.first().expect("at least one channel");
    match view.owner(slot) {
        None => Err(Error::text("CLUSTERDOWN Hash slot not served")),
        Some(owner) if owner.id == view.my_primary() => Ok(()),
        Some(owner) => Err(moved(cx, slot, owner)),
    }
}

fn confirm<E: Env>(cx: &mut HostCx<E>, verb: &str, name: Option<&[u8]>, space: Space) {
    let counts = &cx.session.subscriptions;
    let count = if space == Space::Sharded { counts[2] } else { counts[0] + counts[1] };
    cx.out.push(3);
    cx.out.bulk(verb.as_bytes());
    match name {
        Some(name) => cx.out.bulk(name),
        None => cx.out.null(),
    }
    cx.out.int(count as i64);
}

fn unsubscribe<E: Env>(cx: &mut HostCx<E>, space: Space) -> Outcome {
    let verb = SPACES[space as usize].2;
    let names: Vec<Vec<u8>> = match cx.args.len() {
        1 => cx.connection().subscriptions.borrow().spaces[space as usize].iter().cloned().collect(),
        _ => cx.args[1..].iter().map(|n| n.to_vec()).collect(),
    };
    if names.is_empty() {
        confirm(cx, verb, None, space);
    }
    for name in names {
        remove(cx, space, &name);
        confirm(cx, verb, Some(&name), space);
    }
    Ok(HostOutcome::Done)
}

fn remove<E: Env>(cx: &mut HostCx<E>, space: Space, name: &[u8]) {
    if cx.connection().subscriptions.borrow_mut().remove(space, name) {
        cx.shared().pubsub.unsubscribe(space, name, cx.session.id);
        cx.session.subscriptions[space as usize] -= 1;
    }
}

/// Ends all subscriptions without a word.
pub fn unsubscribe_all<E: Env>(cx: &mut HostCx<E>) {
    for (space, ..) in SPACES {
        let names: Vec<Vec<u8>> =
            cx.connection().subscriptions.borrow().spaces[space as usize].iter().cloned().collect();
        names.iter().for_each(|name| remove(cx, space, name));
    }
}

fn publish<E: Env>(cx: &mut HostCx<E>, space: Space) -> Outcome {
    if space == Space::Sharded {
        let view = cx.host.setting.view;
        if let Some(view) = view {
            let slot = proto::Slot::of_key(cx.args[1]);
            match view.owner(slot) {
                Some(owner) if owner.id == view.my_primary() => {}
                Some(owner) => return Err(moved(cx, slot, owner)),
                None => return Err(Error::text("CLUSTERDOWN Hash slot not served")),
            }
        }
    }
    let receivers = cx.shared().publish(space, cx.args[1], cx.args[2]);
    let shared = cx.shared().clone();
    shared.control.publish(space, cx.args[1], cx.args[2]);
    cx.out.int(receivers as i64);
    // In a cluster it travels over the bus.
    let has_replicas = cx.host.setting.view.is_none() && shared.feed.is_backlog_on();
    Ok(if has_replicas { HostOutcome::Replayed } else { HostOutcome::Done })
}

fn channels<E: Env>(cx: &mut HostCx<E>, space: Space) -> Outcome {
    let names = cx.shared().pubsub.names(space, cx.args.get(2).copied());
    cx.out.array(names.len());
    names.iter().for_each(|n| cx.out.bulk(n));
    Ok(HostOutcome::Done)
}

fn numsub<E: Env>(cx: &mut HostCx<E>, space: Space) -> Outcome {
    cx.out.array((cx.args.len() - 2) * 2);
    for name in &cx.args[2..] {
        let count = cx.shared().pubsub.count(space, name);
        cx.out.bulk(name);
        cx.out.int(count as i64);
    }
    Ok(HostOutcome::Done)
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("subscribe", |cx| subscribe(cx, Space::Channel)),
        ("unsubscribe", |cx| unsubscribe(cx, Space::Channel)),
        ("psubscribe", |cx| subscribe(cx, Space::Pattern)),
        ("punsubscribe", |cx| unsubscribe(cx, Space::Pattern)),
        ("ssubscribe", |cx| subscribe(cx, Space::Sharded)),
        ("sunsubscribe", |cx| unsubscribe(cx, Space::Sharded)),
        ("publish", |cx| publish(cx, Space::Channel)),
        ("spublish", |cx| publish(cx, Space::Sharded)),
        ("pubsub|channels", |cx| channels(cx, Space::Channel)),
        ("pubsub|numpat", |cx| {
            cx.out.int(cx.shared().pubsub.len(Space::Pattern) as i64);
            Ok(HostOutcome::Done)
        }),
        ("pubsub|numsub", |cx| numsub(cx, Space::Channel)),
        ("pubsub|shardchannels", |cx| channels(cx, Space::Sharded)),
        ("pubsub|shardnumsub", |cx| numsub(cx, Space::Sharded)),
        ("pubsub|help", |cx| cx.help()),
    ]
}
