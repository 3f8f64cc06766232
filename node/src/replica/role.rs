//! Changes of role: primary, or replica of somebody.
//!
//! Invariant: the role changes with the gate closed, so that no command runs half as one and half as the other.

use super::{LinkStage, LinkState, new_replid, wait};
use crate::clients::state as client_state;
use crate::env::Env;
use crate::shared::Shared;
use proto::{Epoch, NodeId};
use std::sync::atomic::Ordering;

/// A primary to follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    /// In a cluster: who we are, and the generation of our data; the primary is told.
    pub node: Option<NodeId>,
    pub generation: u64,
    /// The tenure that is followed.
    pub tenure: Epoch,
}

/// Makes this node a replica of `target`; `None`: a replica that does not know yet of whom. Does nothing if it is so
/// already. The caller is not inside the gate.
pub fn follow<E: Env>(shared: &Shared<E>, target: Option<Target>) {
    let (is_following, is_same) = {
        let state = shared.replication.state();
        (state.is_following, state.target == target)
    };
    if is_following && is_same {
        return;
    }
    let closed = shared.close_gate();
    follow_closed(shared, target);
    drop(closed);
}

/// Makes this node a primary. Does nothing if it is one. The caller is not inside the gate.
pub fn lead<E: Env>(shared: &Shared<E>) {
    let is_change = {
        let state = shared.replication.state();
        state.is_following || state.is_history_loaded
    };
    if is_change {
        let closed = shared.close_gate();
        lead_closed(shared);
        drop(closed);
    }
}

/// The primary that this node follows, if it is a replica and knows.
pub fn target<E: Env>(shared: &Shared<E>) -> Option<Target> {
    shared.replication.state().target.clone()
}

/// As [`follow`], for who has the gate closed.
pub fn follow_closed<E: Env>(shared: &Shared<E>, target: Option<Target>) {
    assert!(shared.engine.keyspace.gate().is_closed(), "roles change with the gate closed");
    let now = shared.env.now().mono;
    let mut state = shared.replication.state();
    let was_following = std::mem::replace(&mut state.is_following, true);
    state.target = target;
    state.target_number += 1;
    state.link = LinkState { down_since: Some(now), ..LinkState::default() };
    shared.state.is_link_up.store(false, Ordering::Release);
    if !was_following {
        // What was written without a backlog is in no offset: nobody can share this history.
        if !shared.feed.is_backlog_on() {
            state.history.replace(new_replid(&shared.env));
        }
        shared.feed.turn_backlog_on();
        shared.feed.set_following(true);
        shared.state.is_replica.store(true, Ordering::Release);
    }
    drop(state);
    if !was_following {
        crate::log::set_role(true);
        wait::end_all(shared);
        unblock_clients(shared);
    }
    shared.replication.target_changed.notify_one();
}

/// As [`lead`], for who has the gate closed.
pub fn lead_closed<E: Env>(shared: &Shared<E>) {
    assert!(shared.engine.keyspace.gate().is_closed(), "roles change with the gate closed");
    let mut state = shared.replication.state();
    if !state.is_following && !state.is_history_loaded {
        return;
    }
    let replid = new_replid(&shared.env);
    let end = shared.feed.end();
    match state.has_history {
        true => state.history.shift(replid, end),
        // Cut off in the middle of a full sync: what is here is no history of anybody's.
        false => state.history.replace(replid),
    }
    state.has_history = true;
    state.is_history_loaded = false;
    state.is_following = false;
    state.target = None;
    state.target_number += 1;
    state.link = LinkState { stage: LinkStage::Connect, ..LinkState::default() };
    state.lonely_since = None;
    tracing::info!(
        "Setting secondary replication ID to {}, valid up to offset: {}. New replication ID is {replid}",
        state.history.replid2(),
        state.history.second_offset()
    );
    drop(state);
    // Replicas learn the new name when they ask again.
    shared.replication.next_turn();
    shared.feed.set_following(false);
    shared.state.is_link_up.store(false, Ordering::Release);
    shared.state.is_replica.store(false, Ordering::Release);
    crate::log::set_role(false);
    shared.replication.target_changed.notify_one();
}

/// Clients that wait for keys wait for writes that will not be theirs to serve.
fn unblock_clients<E: Env>(shared: &Shared<E>) {
    for client in shared.clients.all().iter().filter(|c| c.has(client_state::BLOCKED)) {
        shared.unblock(client.id, true);
    }
}
