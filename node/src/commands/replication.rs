//! REPLICAOF, PSYNC, WAIT and their kin.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::replica::{self, SyncRequest, Target, failover};
use engine::spec::{Arg, Command, Deprecated, Group, Handler, acl, flag};
use engine::{Error, HostOutcome};
use proto::{NodeId, Offset, ReplId};
use replication::acks::Tally;
use std::sync::atomic::Ordering;

type Outcome = Result<HostOutcome, Error>;

const BASE: Command = Command {
    group: Group::Server,
    flags: flag::ADMIN | flag::NOSCRIPT,
    run: Handler::Host,
    ..Command::BASE
};

/// The role changes with the gate closed. Unlike Redis's it is allowed while a snapshot of the primary is loaded, which
/// takes as long as the network does: that is then given up.
const REPLICAOF: Command = Command {
    name: "replicaof",
    summary: "Configures a server as replica of another, or promotes it to a primary.",
    since: "5.0.0",
    arity: 3,
    flags: flag::ADMIN
        | flag::NOSCRIPT
        | flag::STALE
        | flag::LOADING
        | flag::NO_ASYNC_LOADING
        | flag::EXCLUSIVE,
    args: &[Arg::string("host"), Arg::integer("port")],
    ..BASE
};
fn replicaof<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let shared = cx.shared().clone();
    if shared.settings().is_cluster {
        return Err(Error::text("ERR REPLICAOF not allowed in cluster mode."));
    }
    if cx.session.is_replica {
        return Err(Error::text("ERR Command is not valid when client is a replica."));
    }
    if failover::is_any(&shared) {
        return Err(Error::text("ERR REPLICAOF not allowed while failing over."));
    }
    if !cx.host.is_exclusive {
        return Ok(HostOutcome::NeedsGate);
    }
    if cx.is_word(1, "NO") && cx.is_word(2, "ONE") {
        if shared.state.is_replica.load(Ordering::Acquire) {
            replica::lead_closed(&shared);
            tracing::info!("MASTER MODE enabled (user request from '{}')", cx.host.client.peer);
        }
        remember(&shared, &[]);
        return cx.ok();
    }
    let port = engine::number::parse_i64(cx.args[2])
        .and_then(|n| u16::try_from(n).ok())
        .ok_or(Error::text("ERR Invalid master port"))?;
    let target = Target { host: cx.text(1), port, node: None, generation: 0, tenure: proto::Epoch(0) };
    if replica::target(&shared).as_ref() == Some(&target) {
        cx.out.simple("OK Already connected to specified master");
        return Ok(HostOutcome::Done);
    }
    remember(&shared, &[target.host.clone(), port.to_string()]);
    tracing::info!("REPLICAOF {}:{port} enabled (user request from '{}')", target.host, cx.host.client.peer);
    replica::follow_closed(&shared, Some(target));
    cx.ok()
}

/// CONFIG GET shows the primary and CONFIG REWRITE keeps it.
pub fn remember<E: Env>(shared: &crate::shared::Shared<E>, words: &[String]) {
    let result = shared.config().set("replicaof", words, true);
    assert!(result.is_ok(), "any words are a valid 'replicaof'");
}

const ROLE: Command = Command {
    name: "role",
    summary: "Returns the replication role.",
    since: "2.8.12",
    flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST,
    acl: acl::ADMIN | acl::DANGEROUS,
    ..BASE
};
fn role<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let shared = cx.shared().clone();
    shared.replication.write_role(&shared, cx.out);
    Ok(HostOutcome::Done)
}

const REPLCONF: Command = Command {
    name: "replconf",
    summary: "An internal command for configuring the replication stream.",
    since: "3.0.0",
    arity: -1,
    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::ALLOW_BUSY,
    ..BASE
};
fn replconf<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    // `shoal-node` alone has several values.
    if cx.args.len() == 5 && cx.is_word(1, "shoal-node") {
        return replconf_node(cx);
    }
    if cx.args.len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    let shared = cx.shared().clone();
    let id = cx.session.id;
    for i in (1..cx.args.len()).step_by(2) {
        let value = cx.args[i + 1];
        match cx.text(i).to_ascii_lowercase().as_str() {
            "listening-port" => {
                let port = engine::number::parse_i64(value).and_then(|n| u16::try_from(n).ok());
                let port = port.ok_or(Error::NotInteger)?;
                shared.replication.greet(id, |g| g.port = port);
            }
            "ip-address" => {
                const ADDRESS_BYTES_MAX: usize = 255;
                let ip = cx.text(i + 1);
                if ip.len() > ADDRESS_BYTES_MAX || ip.contains(|c: char| c.is_control() || c == ',') {
                    return Err(Error::err(&format!(
                        "REPLCONF ip-address provided by replica instance is too long: {} bytes",
                        ip.len()
                    )));
                }
                shared.replication.greet(id, |g| g.ip = (!ip.is_empty()).then_some(ip));
            }
            "capa" if value.eq_ignore_ascii_case(b"eof") => {
                shared.replication.greet(id, |g| g.can_eof = true)
            }
            "capa" if value.eq_ignore_ascii_case(b"psync2") => {
                shared.replication.greet(id, |g| g.can_psync2 = true)
            }
            // Capabilities that we do not know are no reason to refuse; nor is the replica's version.
            "capa" | "version" => {}
            // Redis answers neither of the two: outside of a link they mean nothing.
            "ack" | "getack" => return Ok(HostOutcome::Done),
            "rdb-only" => {
                let is_only = engine::number::parse_i64(value).ok_or(Error::NotInteger)? != 0;
                shared.replication.greet(id, |g| g.is_rdb_only = is_only);
            }
            "rdb-filter-only" => replconf_filter(cx, i + 1)?,
            name => return Err(Error::err(&format!("Unrecognized REPLCONF option: {name}"))),
        }
    }
    cx.ok()
}

fn replconf_filter<E: Env>(cx: &HostCx<E>, at: usize) -> Result<(), Error> {
    let text = cx.text(at);
    let mut is_without_data = false;
    for word in text.split_whitespace() {
        match word {
            "functions" => is_without_data = true,
            _ => return Err(Error::err(&format!("Unsupported rdb-filter-only option: {word}"))),
        }
    }
    cx.shared().replication.greet(cx.session.id, |g| g.is_without_data = is_without_data);
    Ok(())
}

/// `REPLCONF shoal-node <id> <generation> <tenure>`: in a cluster, who the replica is, which life its data is in, and
/// which tenure it follows.
fn replconf_node<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let node = NodeId::from_hex(cx.args[2]).ok_or(Error::Syntax)?;
    // Generations use all 64 bits.
    let number = |i: usize| cx.text(i).parse::<u64>().map_err(|_| Error::NotInteger);
    let (generation, tenure) = (number(3)?, proto::Epoch(number(4)?));
    cx.shared().replication.greet(cx.session.id, |g| {
        g.node = Some((node, generation));
        g.tenure = Some(tenure);
    });
    cx.ok()
}

const PSYNC: Command = Command {
    name: "psync",
    summary: "An internal command used in replication.",
    since: "2.8.0",
    arity: -3,
    flags: flag::ADMIN | flag::NO_ASYNC_LOADING | flag::NO_MULTI | flag::NOSCRIPT,
    args: &[Arg::string("replicationid"), Arg::integer("offset")],
    ..BASE
};
fn psync<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let place = cx.int(2)?;
    let replid = ReplId::from_hex(cx.args[1]);
    if cx.is_word(3, "FAILOVER") {
        if !cx.host.is_exclusive {
            return Ok(HostOutcome::NeedsGate);
        }
        take_over(cx, replid)?;
    }
    // On the wire places count from 1, and -1 means nothing.
    let has = replid.and_then(|id| u64::try_from(place - 1).ok().map(|n| (id, Offset(n))));
    let is_named = !cx.args[1].starts_with(b"?");
    start_sync(cx, SyncRequest { is_psync: true, is_named, has })
}

/// Our primary gives its role up and asks us to take it.
fn take_over<E: Env>(cx: &mut HostCx<E>, replid: Option<ReplId>) -> Result<(), Error> {
    let shared = cx.shared().clone();
    tracing::warn!("Failover request received for replid {}.", cx.text(1));
    if shared.settings().is_cluster || !shared.state.is_replica.load(Ordering::Acquire) {
        return Err(Error::text("ERR PSYNC FAILOVER can't be sent to a master."));
    }
    if replid != Some(shared.replication.replid()) {
        return Err(Error::text("ERR PSYNC FAILOVER replid must match my replid."));
    }
    replica::lead_closed(&shared);
    remember(&shared, &[]);
    tracing::info!("MASTER MODE enabled (failover request from '{}')", cx.host.client.peer);
    Ok(())
}

const SYNC: Command = Command {
    name: "sync",
    summary: "An internal command used in replication.",
    arity: 1,
    flags: flag::ADMIN | flag::NO_ASYNC_LOADING | flag::NO_MULTI | flag::NOSCRIPT,
    ..BASE
};
fn sync<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    start_sync(cx, SyncRequest { is_psync: false, is_named: false, has: None })
}

fn start_sync<E: Env>(cx: &mut HostCx<E>, request: SyncRequest) -> Outcome {
    if failover::is_any(cx.shared()) {
        return Err(Error::text("NOMASTERLINK Can't SYNC while failing over"));
    }
    let state = &cx.shared().state;
    if state.is_replica.load(Ordering::Acquire) && !state.is_link_up.load(Ordering::Acquire) {
        return Err(Error::text("NOMASTERLINK Can't SYNC while not connected with my master"));
    }
    if cx.session.is_subscribed() {
        return Err(Error::text("ERR SYNC and PSYNC are not allowed on a connection that is subscribed"));
    }
    if !cx.connection().input.borrow().is_empty() {
        // Redis says so of pending output; here what waits is input that would be taken for acknowledgements.
        tracing::debug!(client = cx.session.id, "a replica sent more before it got an answer");
    }
    cx.session.is_replica = true;
    *cx.connection().sync.borrow_mut() = Some(request);
    Ok(HostOutcome::Later)
}

const WAIT: Command = Command {
    name: "wait",
    summary: "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed.",
    since: "3.0.0",
    group: Group::Generic,
    arity: 3,
    flags: flag::NOSCRIPT | flag::BLOCKING | flag::WAITS,
    args: &[Arg::integer("numreplicas"), Arg::integer("timeout")],
    tips: &["request_policy:all_shards", "response_policy:agg_min"],
    ..BASE
};
fn wait<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let shared = cx.shared().clone();
    if shared.state.is_replica.load(Ordering::Acquire) {
        return Err(Error::text(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        ));
    }
    let needed = Tally::Copies(usize::try_from(cx.int(1)?).unwrap_or(0));
    let timeout_ms = wait_timeout(cx, 2)?;
    wait_for(cx, needed, timeout_ms)
}

/// Redis 7.2. Which writes of others are durable says nothing here, so that it is the connection's own writes that count.
const WAITAOF: Command = Command {
    name: "waitaof",
    summary: "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas.",
    since: "7.2.0",
    complexity: "O(1)",
    group: Group::Generic,
    arity: 4,
    flags: flag::BLOCKING | flag::WAITS,
    args: &[Arg::integer("numlocal"), Arg::integer("numreplicas"), Arg::integer("timeout")],
    tips: &["request_policy:all_shards", "response_policy:agg_min"],
    ..BASE
};
fn waitaof<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let is_local = match cx.int(1)? {
        0 => false,
        1 => true,
        _ => return Err(Error::text("ERR value is out of range, value must between 0 and 1")),
    };
    let copies = usize::try_from(cx.int(2)?)
        .map_err(|_| Error::text("ERR value is out of range, must be positive"))?;
    let timeout_ms = wait_timeout(cx, 3)?;
    let shared = cx.shared();
    if shared.state.is_replica.load(Ordering::Acquire) {
        return Err(Error::text(
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.",
        ));
    }
    if is_local && !shared.settings().appendonly {
        return Err(Error::text(replica::NO_LOG));
    }
    wait_for(cx, Tally::Synced { is_local, copies }, timeout_ms)
}

fn wait_timeout<E: Env>(cx: &HostCx<E>, at: usize) -> Result<u64, Error> {
    let timeout_ms = engine::number::parse_i64(cx.args[at])
        .ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    u64::try_from(timeout_ms).map_err(|_| Error::TimeoutNegative)
}

fn wait_for<E: Env>(cx: &mut HostCx<E>, needed: Tally, timeout_ms: u64) -> Outcome {
    let wait =
        replica::Wait { offset: Offset(cx.session.written), needed, timeout_ms, may_wait: !cx.is_nested() };
    match replica::wait_for_copies(cx.shared(), cx.session.id, &wait) {
        Some(tally) => {
            replica::write_tally(tally, cx.out);
            Ok(HostOutcome::Done)
        }
        None => Ok(HostOutcome::Later),
    }
}

pub static COMMANDS: &[Command] = &[
    REPLICAOF,
    Command {
        name: "slaveof",
        summary: "Sets a server as a replica of another, or promotes it to being a primary.",
        since: "1.0.0",
        deprecated: Some(Deprecated { since: "5.0.0", replaced_by: "`REPLICAOF`" }),
        ..REPLICAOF
    },
    ROLE,
    REPLCONF,
    PSYNC,
    SYNC,
    WAIT,
    WAITAOF,
];

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("replicaof", replicaof::<E>),
        ("slaveof", replicaof::<E>),
        ("role", role::<E>),
        ("replconf", replconf::<E>),
        ("psync", psync::<E>),
        ("sync", sync::<E>),
        ("wait", wait::<E>),
        ("waitaof", waitaof::<E>),
    ]
}
