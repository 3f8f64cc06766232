//! Replication links: replicas of this node, and this node as a replica.

use crate::env::Env;
use crate::shared::Shared;
use proto::{Now, ReplId};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What INFO and ROLE show, and what both sides of replication share.
#[derive(Default)]
pub struct ReplicationState {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
pub struct State {
    /// The present history.
    pub replid: ReplId,
    /// The history before a promotion, valid up to `second_offset`.
    pub replid2: ReplId,
    pub second_offset: i64,
    pub info: ReplInfo,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ReplInfo {
    pub full_syncs: u64,
    pub partial_ok: u64,
    pub partial_err: u64,
}

impl ReplicationState {
    pub fn new(replid: ReplId) -> ReplicationState {
        let state = State { replid, second_offset: -1, ..State::default() };
        ReplicationState { state: Mutex::new(state) }
    }
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn info(&self) -> ReplInfo {
        self.state().info
    }
    /// The lines of INFO replication.
    pub fn describe<E: Env>(&self, shared: &Shared<E>, _now: Now) -> Vec<(String, String)> {
        let state = self.state().clone();
        vec![
            ("role".into(), "master".into()),
            ("connected_slaves".into(), "0".into()),
            ("master_failover_state".into(), "no-failover".into()),
            ("master_replid".into(), state.replid.to_string()),
            ("master_replid2".into(), state.replid2.to_string()),
            ("master_repl_offset".into(), shared.feed.end().to_string()),
            ("second_repl_offset".into(), state.second_offset.to_string()),
            ("repl_backlog_active".into(), (shared.feed.is_backlog_on() as u8).to_string()),
            ("repl_backlog_size".into(), shared.feed.backlog_bytes().to_string()),
        ]
    }
    /// A client's connection has ended.
    pub fn forget_client(&self, _client: u64) {}
}

/// Stands in until links exist.
pub struct Target {
    pub host: String,
    pub port: u16,
    pub node: Option<proto::NodeId>,
    pub generation: u64,
}
pub fn follow<E: Env>(_shared: &std::sync::Arc<Shared<E>>, _target: Option<Target>) {}
pub fn lead<E: Env>(_shared: &std::sync::Arc<Shared<E>>) {}
pub fn ask_for_acks<E: Env>(_shared: &std::sync::Arc<Shared<E>>) {}
impl ReplicationState {
    pub fn recovered(&self) -> Option<(proto::Epoch, proto::Offset)> {
        None
    }
    pub fn matched(&self, _end: u64) -> Vec<(proto::NodeId, u64)> {
        Vec::new()
    }
}
