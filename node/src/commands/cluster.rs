//! CLUSTER: what the cluster looks like and how it is changed. What is shown derives from one view; what is changed is a
//! decision of the quorum.

mod change;
mod show;

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome};
use proto::{ClusterView, NodeId, Slot};

type Outcome = Result<HostOutcome, Error>;

const SHOW: Command = Command {
    group: Group::Cluster,
    since: "3.0.0",
    complexity: "O(N) where N is the total number of cluster nodes",
    arity: 2,
    flags: flag::STALE | flag::LOADING,
    run: Handler::Host,
    ..Command::BASE
};
const CHANGE: Command = Command {
    complexity: "One decision of the voters.",
    flags: flag::ADMIN | flag::STALE | flag::NO_ASYNC_LOADING | flag::NO_MULTI,
    ..SHOW
};
const SLOT_LIST: &[Arg] = &[Arg::integer("slot").multiple()];
const SLOT_RANGES: &[Arg] =
    &[Arg::block("range", &[Arg::integer("start-slot"), Arg::integer("end-slot")]).multiple()];

pub static COMMANDS: &[Command] = &[Command {
    name: "cluster",
    summary: "A container for Redis Cluster commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: 0,
    run: Handler::Container,
    subcommands: &[
        Command {
            name: "addslots",
            summary: "Assigns new hash slots to a node.",
            arity: -3,
            args: SLOT_LIST,
            ..CHANGE
        },
        Command {
            name: "addslotsrange",
            summary: "Assigns new hash slot ranges to a node.",
            since: "7.0.0",
            arity: -4,
            args: SLOT_RANGES,
            ..CHANGE
        },
        Command { name: "bumpepoch", summary: "Advances the cluster config epoch.", ..CHANGE },
        Command {
            name: "cancelslotmigrations",
            summary: "Cancels all slot migrations that this node sends.",
            since: "9.0.0",
            ..CHANGE
        },
        Command {
            name: "count-failure-reports",
            summary: "Returns the number of failure reports active for a node.",
            arity: 3,
            args: &[Arg::string("node-id")],
            ..SHOW
        },
        Command {
            name: "countkeysinslot",
            summary: "Returns the number of keys in a hash slot.",
            complexity: "O(1)",
            arity: 3,
            args: &[Arg::integer("slot")],
            ..SHOW
        },
        Command {
            name: "delslots",
            summary: "Sets hash slots as unbound for a node.",
            arity: -3,
            args: SLOT_LIST,
            ..CHANGE
        },
        Command {
            name: "delslotsrange",
            summary: "Sets hash slot ranges as unbound for a node.",
            since: "7.0.0",
            arity: -4,
            args: SLOT_RANGES,
            ..CHANGE
        },
        Command {
            name: "failover",
            summary: "Makes a replica the primary of its shard.",
            arity: -2,
            args: &[Arg::one_of(
                "options",
                &[Arg::word("force", "FORCE"), Arg::word("takeover", "TAKEOVER")],
            )
            .optional()],
            ..CHANGE
        },
        Command { name: "flushslots", summary: "Deletes all slots information from a node.", ..CHANGE },
        Command {
            name: "forget",
            summary: "Removes a node from the cluster.",
            arity: 3,
            args: &[Arg::string("node-id")],
            ..CHANGE
        },
        Command {
            name: "getkeysinslot",
            summary: "Returns the key names in a hash slot.",
            complexity: "O(N) where N is the number of requested keys",
            arity: 4,
            args: &[Arg::integer("slot"), Arg::integer("count")],
            ..SHOW
        },
        Command {
            name: "getslotmigrations",
            summary: "Returns the slot migrations that this node knows of.",
            since: "9.0.0",
            ..SHOW
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            since: "5.0.0",
            ..SHOW
        },
        Command {
            name: "info",
            summary: "Returns information about the state of a node.",
            complexity: "O(1)",
            ..SHOW
        },
        Command {
            name: "keyslot",
            summary: "Returns the hash slot for a key.",
            complexity: "O(N) where N is the number of bytes in the key",
            arity: 3,
            args: &[Arg::string("key")],
            ..SHOW
        },
        Command { name: "links", summary: "Returns a list of all bus links.", since: "7.0.0", ..SHOW },
        Command {
            name: "meet",
            summary: "Makes two clusters one.",
            arity: -4,
            args: &[
                Arg::string("ip"),
                Arg::integer("port"),
                Arg::integer("cluster-bus-port").since("4.0.0").optional(),
            ],
            ..CHANGE
        },
        Command {
            name: "migrateslots",
            summary: "Moves slots to other nodes, each range atomically.",
            since: "9.0.0",
            arity: -7,
            args: &[Arg::block(
                "migration",
                &[
                    Arg::block("range", &[Arg::integer("start-slot"), Arg::integer("end-slot")])
                        .token("SLOTSRANGE")
                        .multiple(),
                    Arg::string("node-id").token("NODE"),
                ],
            )
            .multiple()],
            ..CHANGE
        },
        Command { name: "myid", summary: "Returns the ID of a node.", complexity: "O(1)", ..SHOW },
        Command {
            name: "myshardid",
            summary: "Returns the shard ID of a node.",
            since: "7.2.0",
            complexity: "O(1)",
            ..SHOW
        },
        Command { name: "nodes", summary: "Returns the cluster configuration for a node.", ..SHOW },
        Command {
            name: "replicas",
            summary: "Lists the replica nodes of a primary.",
            since: "5.0.0",
            arity: 3,
            args: &[Arg::string("node-id")],
            ..SHOW
        },
        Command {
            name: "replicate",
            summary: "Makes a node the replica of a primary.",
            arity: 3,
            args: &[Arg::string("node-id")],
            ..CHANGE
        },
        Command {
            name: "reset",
            summary: "Makes a node leave its cluster.",
            arity: -2,
            flags: flag::ADMIN | flag::STALE | flag::NOSCRIPT | flag::NO_MULTI,
            args: &[
                Arg::one_of("reset-type", &[Arg::word("hard", "HARD"), Arg::word("soft", "SOFT")]).optional()
            ],
            ..CHANGE
        },
        Command {
            name: "saveconfig",
            summary: "Saves the topology: every version is saved when it is decided.",
            ..CHANGE
        },
        Command {
            name: "set-config-epoch",
            summary: "Sets the configuration epoch of a new node.",
            arity: 3,
            args: &[Arg::integer("config-epoch")],
            ..CHANGE
        },
        Command {
            name: "setslot",
            summary: "Binds a hash slot to a node, or marks it as on its way.",
            arity: -4,
            args: &[
                Arg::integer("slot"),
                Arg::one_of(
                    "subcommand",
                    &[
                        Arg::string("node-id").token("IMPORTING"),
                        Arg::string("node-id").token("MIGRATING"),
                        Arg::string("node-id").token("NODE"),
                        Arg::word("stable", "STABLE"),
                    ],
                ),
            ],
            ..CHANGE
        },
        Command {
            name: "shards",
            summary: "Returns the mapping of cluster slots to shards.",
            since: "7.0.0",
            ..SHOW
        },
        Command {
            name: "slaves",
            summary: "Lists the replica nodes of a primary.",
            arity: 3,
            args: &[Arg::string("node-id")],
            deprecated: Some(engine::spec::Deprecated { since: "5.0.0", replaced_by: "`CLUSTER REPLICAS`" }),
            ..SHOW
        },
        Command { name: "slots", summary: "Returns the mapping of cluster slots to nodes.", ..SHOW },
        Command {
            name: "syncslots",
            summary: "An internal command by which slots arrive from another shard.",
            since: "9.0.0",
            arity: -3,
            flags: flag::ADMIN | flag::NO_MULTI | flag::NOSCRIPT,
            args: &[Arg::string("argument").multiple()],
            ..SHOW
        },
    ],
    ..SHOW
}];

fn view<'h, E: Env>(cx: &HostCx<'_, 'h, E>) -> Result<&'h ClusterView, Error> {
    if !cx.host.setting.settings.is_cluster {
        return Err(Error::text("ERR This instance has cluster support disabled"));
    }
    cx.host.setting.view.ok_or(Error::text("LOADING The cluster side of this node is starting"))
}

fn slot_arg<E: Env>(cx: &HostCx<E>, index: usize) -> Result<Slot, Error> {
    let number = engine::number::parse_i64(cx.args[index]);
    number
        .and_then(|n| u16::try_from(n).ok())
        .and_then(Slot::new)
        .ok_or(Error::text("ERR Invalid or out of range slot"))
}

/// A node of the cluster among the arguments.
fn node_arg<E: Env>(cx: &HostCx<E>, view: &ClusterView, index: usize) -> Result<NodeId, Error> {
    let unknown = || Error::err(&format!("Unknown node {}", cx.text(index)));
    let id = NodeId::from_hex(cx.args[index]).ok_or_else(unknown)?;
    view.node(&id).map(|n| n.id).ok_or_else(unknown)
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("cluster|addslots", |cx| change::slots(cx, change::SlotChange::Add, false)),
        ("cluster|addslotsrange", |cx| change::slots(cx, change::SlotChange::Add, true)),
        ("cluster|bumpepoch", change::bump_epoch::<E>),
        ("cluster|cancelslotmigrations", change::cancel_migrations::<E>),
        ("cluster|count-failure-reports", show::failure_reports::<E>),
        ("cluster|countkeysinslot", show::count_keys::<E>),
        ("cluster|delslots", |cx| change::slots(cx, change::SlotChange::Delete, false)),
        ("cluster|delslotsrange", |cx| change::slots(cx, change::SlotChange::Delete, true)),
        ("cluster|failover", change::failover::<E>),
        ("cluster|flushslots", change::flush_slots::<E>),
        ("cluster|forget", change::forget::<E>),
        ("cluster|getkeysinslot", show::keys_in_slot::<E>),
        ("cluster|getslotmigrations", show::migrations::<E>),
        ("cluster|help", |cx| cx.help()),
        ("cluster|info", show::info::<E>),
        ("cluster|keyslot", |cx| {
            cx.out.int(Slot::of_key(cx.args[2]).number() as i64);
            Ok(HostOutcome::Done)
        }),
        ("cluster|links", show::links::<E>),
        ("cluster|meet", change::meet::<E>),
        ("cluster|migrateslots", change::migrate_slots::<E>),
        ("cluster|myid", |cx| {
            let id = view(cx)?.myself.to_string();
            cx.out.bulk(id.as_bytes());
            Ok(HostOutcome::Done)
        }),
        ("cluster|myshardid", |cx| {
            let id = view(cx)?.me().shard.to_string();
            cx.out.bulk(id.as_bytes());
            Ok(HostOutcome::Done)
        }),
        ("cluster|nodes", show::nodes::<E>),
        ("cluster|replicas", show::replicas::<E>),
        ("cluster|replicate", change::replicate::<E>),
        ("cluster|reset", change::reset::<E>),
        ("cluster|saveconfig", |cx| {
            view(cx)?;
            cx.ok()
        }),
        ("cluster|set-config-epoch", change::set_config_epoch::<E>),
        ("cluster|setslot", change::set_slot::<E>),
        ("cluster|shards", show::shards::<E>),
        ("cluster|slaves", show::replicas::<E>),
        ("cluster|slots", show::slots::<E>),
        ("cluster|syncslots", crate::migrate::sync_slots::<E>),
    ]
}
