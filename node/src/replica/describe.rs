//! What others see of replication: INFO, ROLE, and the control loop.

use super::{LinkStage, ReplicationState, Stage, State};
use crate::env::Env;
use crate::shared::Shared;
use proto::resp::Reply;
use proto::{Epoch, Mono, NodeId, Now, Offset, ReplId};
use std::sync::atomic::Ordering;

/// Where this node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub replid: ReplId,
    pub offset: Offset,
    /// The data is that of the history up to the offset.
    pub has_history: bool,
    /// A replica whose link is up.
    pub is_link_up: bool,
}

/// A replica of this node, as the control loop sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaView {
    pub client: u64,
    pub ip: String,
    pub port: u16,
    /// Who it is and the generation of its data, if it said.
    pub node: Option<(NodeId, u64)>,
    /// The tenure that it follows, if it said.
    pub tenure: Option<Epoch>,
    pub is_online: bool,
    pub acked: Offset,
    /// What of it is on the replica's disk, if it says.
    pub synced: Offset,
    pub acked_at: Mono,
}

impl ReplicationState {
    pub fn position<E: Env>(&self, shared: &Shared<E>) -> Position {
        let state = self.state();
        Position {
            replid: state.history.replid(),
            offset: shared.feed.end(),
            has_history: state.has_history,
            is_link_up: state.is_following && shared.state.is_link_up.load(Ordering::Acquire),
        }
    }

    /// The replicas of this node, by client id.
    pub fn replicas(&self) -> Vec<ReplicaView> {
        let state = self.state();
        state
            .replicas
            .iter()
            .map(|(id, r)| {
                let acked = state.acks.get(*id).expect("every replica is among the acknowledging");
                ReplicaView {
                    client: *id,
                    ip: r.ip.clone(),
                    port: r.greeting.port,
                    node: r.greeting.node,
                    tenure: r.greeting.tenure,
                    is_online: acked.is_online,
                    acked: acked.offset,
                    synced: acked.synced,
                    acked_at: acked.at,
                }
            })
            .collect()
    }

    /// Where this node stood in its earlier life, as its data files say: epoch of the stream and offset.
    pub fn recovered(&self) -> Option<(Epoch, Offset)> {
        self.state().recovered
    }
    /// The replicas that have everything before `end`: who they are, and the generation of their data.
    pub fn matched(&self, end: u64) -> Vec<(NodeId, u64)> {
        let replicas = self.replicas();
        replicas.iter().filter(|r| r.is_online && r.acked.0 >= end).filter_map(|r| r.node).collect()
    }

    /// The lines of INFO replication.
    pub fn describe<E: Env>(&self, shared: &Shared<E>, now: Now) -> Vec<(String, String)> {
        let state = self.state();
        let mut lines = Vec::new();
        let mut line =
            |name: &str, value: &dyn std::fmt::Display| lines.push((name.into(), value.to_string()));
        line("role", &if state.is_following { "slave" } else { "master" });
        if state.is_following {
            describe_link(&state, shared, now.mono, &mut line);
        }
        line("connected_slaves", &state.replicas.len());
        let settings = shared.settings();
        if settings.engine.min_replicas_to_write > 0 && settings.min_replicas_max_lag_s > 0 {
            line("min_slaves_good_slaves", &shared.state.good_replicas.load(Ordering::Relaxed));
        }
        for (i, (id, replica)) in state.replicas.iter().enumerate() {
            let acked = state.acks.get(*id).expect("every replica is among the acknowledging");
            let lag_s = if acked.is_online { now.mono.since(acked.at).as_secs() } else { 0 };
            let stage = match replica.stage {
                Stage::Waiting => "wait_bgsave",
                Stage::Snapshot => "send_bulk",
                Stage::Online => "online",
            };
            let (ip, port) = (&replica.ip, replica.greeting.port);
            let text = format!("ip={ip},port={port},state={stage},offset={},lag={lag_s}", acked.offset);
            line(&format!("slave{i}"), &text);
        }
        let feed = &shared.feed;
        let held = feed.held_bytes();
        let is_on = feed.is_backlog_on();
        line("master_failover_state", &super::failover::describe(&state));
        if settings.durability != crate::config::Durability::Async {
            let topology = shared.topology.load();
            let node = shared.view.load().as_ref().map(|view| view.myself);
            let shard = topology.as_ref().zip(node).and_then(|(t, node)| t.shard_of(node));
            line("in_sync_copies", &shard.map_or(0, |s| if s.strict { s.in_sync.len() } else { 0 }));
        }
        line("master_replid", &state.history.replid());
        line("master_replid2", &state.history.replid2());
        line("master_repl_offset", &feed.end());
        line("second_repl_offset", &state.history.second_offset());
        line("repl_backlog_active", &(is_on as u8));
        line("repl_backlog_size", &feed.backlog_bytes());
        line("repl_backlog_first_byte_offset", &if is_on { feed.end().0 - held + 1 } else { 0 });
        line("repl_backlog_histlen", &if is_on { held } else { 0 });
        lines
    }

    /// The reply of ROLE.
    pub fn write_role<E: Env>(&self, shared: &Shared<E>, out: &mut Reply) {
        let state = self.state();
        if state.is_following {
            out.array(5);
            out.bulk(b"slave");
            let (host, port) = state.target.as_ref().map_or(("", 0), |t| (t.host.as_str(), t.port));
            out.bulk(host.as_bytes());
            out.int(port.into());
            out.bulk(link_stage(state.link.stage).as_bytes());
            let is_connected = state.link.stage == LinkStage::Connected;
            out.int(if is_connected { shared.feed.end().0 as i64 } else { -1 });
            return;
        }
        out.array(3);
        out.bulk(b"master");
        out.int(shared.feed.end().0 as i64);
        let online: Vec<_> = state.replicas.iter().filter(|(_, r)| r.stage == Stage::Online).collect();
        out.array(online.len());
        for (id, replica) in online {
            out.array(3);
            out.bulk(replica.ip.as_bytes());
            out.bulk(replica.greeting.port.to_string().as_bytes());
            let acked = state.acks.get(*id).map_or(Offset(0), |a| a.offset);
            out.bulk(acked.to_string().as_bytes());
        }
    }
}

fn link_stage(stage: LinkStage) -> &'static str {
    match stage {
        LinkStage::Connect => "connect",
        LinkStage::Connecting => "connecting",
        LinkStage::Handshake => "handshake",
        LinkStage::Sync => "sync",
        LinkStage::Connected => "connected",
    }
}

fn describe_link<E: Env>(
    state: &State,
    shared: &Shared<E>,
    now: Mono,
    line: &mut dyn FnMut(&str, &dyn std::fmt::Display),
) {
    let link = &state.link;
    let settings = shared.settings();
    let since_s = |at: Option<Mono>| at.map_or(-1, |at| now.since(at).as_secs() as i64);
    let is_up = link.stage == LinkStage::Connected;
    line("master_host", &state.target.as_ref().map_or("", |t| &t.host));
    line("master_port", &state.target.as_ref().map_or(0, |t| t.port));
    line("master_link_status", &if is_up { "up" } else { "down" });
    line("master_last_io_seconds_ago", &if is_up { since_s(link.last_io) } else { -1 });
    line("master_sync_in_progress", &((link.stage == LinkStage::Sync) as u8));
    line("slave_read_repl_offset", &(shared.feed.end().0 + link.unapplied_bytes));
    line("slave_repl_offset", &shared.feed.end());
    if link.stage == LinkStage::Sync {
        let total = link.sync_total.unwrap_or(0);
        line("master_sync_total_bytes", &total);
        line("master_sync_read_bytes", &link.sync_read);
        line("master_sync_left_bytes", &(total as i64 - link.sync_read as i64));
        let percent = if total == 0 { 0.0 } else { link.sync_read as f64 * 100.0 / total as f64 };
        line("master_sync_perc", &format!("{percent:.2}"));
        line("master_sync_last_io_seconds_ago", &since_s(link.last_io));
    }
    if !is_up {
        line("master_link_down_since_seconds", &since_s(link.down_since));
    }
    line("slave_priority", &settings.replica_priority);
    line("slave_read_only", &(settings.engine.replica_read_only as u8));
    line("replica_announced", &1);
}
