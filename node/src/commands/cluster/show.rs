//! The questions of CLUSTER.

use super::{Outcome, node_arg, slot_arg, view};
use crate::env::Env;
use crate::host::HostCx;
use engine::{Error, HostOutcome};
use proto::resp::Reply;
use proto::view::{ClusterView, Health, NodeView, Role};
use proto::{Slot, SlotRange};
use std::fmt::Write;

pub fn info<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let status = cx.shared().control.status().clone();
    let primaries = view.nodes.iter().filter(|n| n.role == Role::Primary && !n.slots.is_empty()).count();
    let count = |h: Health| view.slots_with(h).to_string();
    let lines = [
        ("cluster_state", if view.is_ok { "ok" } else { "fail" }.to_string()),
        ("cluster_slots_assigned", view.slots_assigned().to_string()),
        ("cluster_slots_ok", count(Health::Online)),
        ("cluster_slots_pfail", count(Health::Suspected)),
        ("cluster_slots_fail", count(Health::Failed)),
        ("cluster_known_nodes", view.nodes.len().to_string()),
        ("cluster_size", primaries.to_string()),
        ("cluster_current_epoch", view.epoch.to_string()),
        ("cluster_my_epoch", status.my_epoch.to_string()),
        ("cluster_stats_messages_sent", status.sent.to_string()),
        ("cluster_stats_messages_received", status.received.to_string()),
        ("total_cluster_links_buffer_limit_exceeded", "0".to_string()),
        ("cluster_voters", view.voters.len().to_string()),
        ("cluster_can_fail_over", if view.can_fail_over { "yes" } else { "no" }.to_string()),
        ("cluster_leader", status.leader.map_or("-".into(), |l| l.to_string())),
    ];
    let text: String = lines.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

/// The line of a node, as CLUSTER NODES shows it and tools parse it.
fn line(view: &ClusterView, node: &NodeView, is_tls: bool) -> String {
    let hostname = if node.hostname.is_empty() { String::new() } else { format!(",{}", node.hostname) };
    let mut flags: Vec<&str> = Vec::new();
    if node.id == view.myself {
        flags.push("myself");
    }
    flags.push(if node.role == Role::Primary { "master" } else { "slave" });
    match node.health {
        Health::Online => {}
        Health::Suspected => flags.push("fail?"),
        Health::Failed => flags.push("fail"),
    }
    let primary = match node.role {
        Role::Primary => "-".to_string(),
        Role::Replica(of) => of.to_string(),
    };
    let link = if node.is_link_connected || node.id == view.myself { "connected" } else { "disconnected" };
    let mut text = format!(
        "{} {}:{}@{}{hostname} {} {primary} {} {} {} {link}",
        node.id,
        node.ip,
        node.client_port(is_tls),
        node.bus_port,
        flags.join(","),
        node.ping_sent_ms,
        node.pong_received_ms,
        node.config_epoch,
    );
    for range in &node.slots {
        let _ = write!(text, " {range}");
    }
    if node.id == view.myself {
        for hint in &view.hints {
            if hint.from == view.myself && hint.is_migrating {
                let _ = write!(text, " [{}->-{}]", hint.slot, hint.to);
            }
            if hint.to == view.myself && hint.is_importing {
                let _ = write!(text, " [{}-<-{}]", hint.slot, hint.from);
            }
        }
    }
    text
}

pub fn nodes<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let text: String = view.nodes.iter().map(|n| line(view, n, cx.session.is_tls) + "\n").collect();
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

pub fn replicas<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let id = node_arg(cx, view, 2)?;
    if view.node(&id).is_some_and(|n| n.role != Role::Primary) {
        return Err(Error::text("ERR The specified node is not a master"));
    }
    let lines: Vec<String> = view.replicas_of(id).map(|n| line(view, n, cx.session.is_tls)).collect();
    cx.out.array(lines.len());
    lines.iter().for_each(|l| cx.out.bulk(l.as_bytes()));
    Ok(HostOutcome::Done)
}

pub fn slots<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let mut ranges: Vec<(SlotRange, &NodeView)> =
        view.nodes.iter().flat_map(|n| n.slots.iter().map(move |r| (*r, n))).collect();
    ranges.sort_by_key(|(r, _)| r.first);
    cx.out.array(ranges.len());
    for (range, owner) in ranges {
        let replicas: Vec<&NodeView> =
            view.replicas_of(owner.id).filter(|r| r.health != Health::Failed).collect();
        cx.out.array(3 + replicas.len());
        cx.out.int(range.first.number() as i64);
        cx.out.int(range.last.number() as i64);
        let is_tls = cx.session.is_tls;
        std::iter::once(&owner).chain(&replicas).for_each(|n| endpoint(n, is_tls, cx.out));
    }
    Ok(HostOutcome::Done)
}

fn endpoint(node: &NodeView, is_tls: bool, out: &mut Reply) {
    out.array(4);
    out.bulk(node.ip.as_bytes());
    out.int(node.client_port(is_tls) as i64);
    out.bulk(node.id.to_string().as_bytes());
    match node.hostname.is_empty() {
        true => out.map(0),
        false => {
            out.map(1);
            out.bulk(b"hostname");
            out.bulk(node.hostname.as_bytes());
        }
    }
}

pub fn shards<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let primaries: Vec<&NodeView> = view.nodes.iter().filter(|n| n.role == Role::Primary).collect();
    cx.out.array(primaries.len());
    for primary in primaries {
        cx.out.map(2);
        cx.out.bulk(b"slots");
        cx.out.array(primary.slots.len() * 2);
        for range in &primary.slots {
            cx.out.int(range.first.number() as i64);
            cx.out.int(range.last.number() as i64);
        }
        cx.out.bulk(b"nodes");
        let nodes: Vec<&NodeView> = std::iter::once(primary).chain(view.replicas_of(primary.id)).collect();
        cx.out.array(nodes.len());
        nodes.iter().for_each(|n| shard_node(n, cx.out));
    }
    Ok(HostOutcome::Done)
}

fn shard_node(node: &NodeView, out: &mut Reply) {
    let health = match node.health {
        Health::Failed => "fail",
        _ => "online",
    };
    let role = if node.role == Role::Primary { "master" } else { "replica" };
    let ports = [("port", node.port), ("tls-port", node.tls_port)].into_iter().filter(|(_, port)| *port != 0);
    out.map(6 + ports.clone().count() + usize::from(!node.hostname.is_empty()));
    let id = node.id.to_string();
    let text = |out: &mut Reply, name: &str, value: &str| {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    };
    text(out, "id", &id);
    for (name, port) in ports {
        out.bulk(name.as_bytes());
        out.int(port as i64);
    }
    text(out, "ip", &node.ip);
    text(out, "endpoint", &node.ip);
    if !node.hostname.is_empty() {
        text(out, "hostname", &node.hostname);
    }
    text(out, "role", role);
    out.bulk(b"replication-offset");
    out.int(node.offset as i64);
    text(out, "health", health);
}

pub fn count_keys<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    let slot = slot_arg(cx, 2).map_err(|_| Error::text("ERR Invalid slot"))?;
    let count = cx.shared().engine.keyspace.slot_len(slot, 0);
    cx.out.int(count as i64);
    Ok(HostOutcome::Done)
}

pub fn keys_in_slot<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    let slot = slot_arg(cx, 2).map_err(|_| Error::text("ERR Invalid slot or number of keys"))?;
    let max = cx.int(3).ok().and_then(|n| usize::try_from(n).ok());
    let max = max.ok_or(Error::text("ERR Invalid slot or number of keys"))?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let shared = cx.shared().clone();
    let guard = shared.engine.keyspace.lock_wait(slot);
    let mut cursor = 0;
    loop {
        cursor = guard.db(0).scan(cursor, &mut |entry| {
            if keys.len() < max {
                keys.push(entry.key().to_vec());
            }
        });
        if cursor == 0 || keys.len() >= max {
            break;
        }
    }
    drop(guard);
    cx.out.array(keys.len());
    keys.iter().for_each(|k| cx.out.bulk(k));
    Ok(HostOutcome::Done)
}

pub fn failure_reports<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let id = node_arg(cx, view, 2)?;
    let count =
        cx.shared().control.status().failure_reports.iter().find(|(n, _)| *n == id).map_or(0, |(_, c)| *c);
    cx.out.int(count as i64);
    Ok(HostOutcome::Done)
}

pub fn links<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let links = cx.shared().control.status().links.clone();
    let known: Vec<_> = links
        .iter()
        .filter_map(|l| Some((l, view.nodes.iter().find(|n| n.ip == l.ip && n.bus_port == l.bus_port)?)))
        .collect();
    cx.out.array(known.len());
    for (link, node) in known {
        cx.out.map(6);
        for (name, value) in [
            ("direction", if link.is_outgoing { "to" } else { "from" }.to_string()),
            ("node", node.id.to_string()),
            ("events", "w".to_string()),
        ] {
            cx.out.bulk(name.as_bytes());
            cx.out.bulk(value.as_bytes());
        }
        for (name, value) in [
            ("create-time", link.created_ms),
            ("send-buffer-allocated", link.queued_bytes as i64),
            ("send-buffer-used", link.queued_bytes as i64),
        ] {
            cx.out.bulk(name.as_bytes());
            cx.out.int(value);
        }
    }
    Ok(HostOutcome::Done)
}

pub fn migrations<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    let shared = cx.shared().clone();
    let all = shared.migrations.list();
    cx.out.array(all.len());
    for m in all {
        let ranges: Vec<String> = m.slots.iter().map(|r| format!("{}-{}", r.first, r.last)).collect();
        cx.out.map(12);
        for (name, value) in [
            ("name", format!("{:016x}", m.id)),
            ("operation", if m.is_export { "EXPORT" } else { "IMPORT" }.to_string()),
            ("slot_ranges", ranges.join(" ")),
            ("target_node", m.target.to_string()),
            ("source_node", m.source.to_string()),
        ] {
            cx.out.bulk(name.as_bytes());
            cx.out.bulk(value.as_bytes());
        }
        for (name, value) in [
            ("create_time", m.created_ms / 1000),
            ("last_update_time", m.updated_ms / 1000),
            ("last_ack_time", m.updated_ms / 1000),
        ] {
            cx.out.bulk(name.as_bytes());
            cx.out.int(value);
        }
        for (name, value) in [("state", m.state.to_string()), ("message", m.message.clone())] {
            cx.out.bulk(name.as_bytes());
            cx.out.bulk(value.as_bytes());
        }
        for (name, value) in [("cow_size", 0), ("remaining_repl_size", m.remaining_bytes as i64)] {
            cx.out.bulk(name.as_bytes());
            cx.out.int(value);
        }
    }
    Ok(HostOutcome::Done)
}

/// The slots of an iterator as CLUSTER commands name them.
pub fn ranges(slots: impl IntoIterator<Item = Slot>) -> Vec<SlotRange> {
    SlotRange::compact(slots)
}
