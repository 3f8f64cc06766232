//! FAILOVER outside of a cluster: a primary hands its role over to one of its replicas.
//!
//! Writes wait; when a replica has everything, this node becomes a replica of it and asks it for the stream with the word
//! FAILOVER, at which it becomes the primary. Follows Redis 6.2, section by section of its replication.c.
//!
//! Invariant: from the first step to the last at most one of the two is a primary, and no write is answered by a node that
//! gives its role up.

use super::{Target, follow_closed, lead_closed, wait};
use crate::env::Env;
use crate::shared::Shared;
use proto::{Epoch, Mono};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A hand-over that was asked for and has not ended.
#[derive(Clone, Debug)]
pub struct Failover {
    /// Address of the replica; `None`: whichever has everything first.
    pub to: Option<(String, u16)>,
    /// Takes over when time is up, though it does not have everything.
    pub is_forced: bool,
    pub deadline: Option<Mono>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Writes will wait from the next batch on.
    Begun,
    WaitingForSync,
    /// This node follows already, and asks the replica to lead.
    InProgress,
}

/// What [`begin`] may refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    InProgress,
    IsReplica,
    NoReplicas,
    /// A forced one says whom and when.
    ForceAlone,
    NotAReplica,
    NotOnline,
}

impl Failover {
    pub fn new(to: Option<(String, u16)>, is_forced: bool, deadline: Option<Mono>) -> Failover {
        Failover { to, is_forced, deadline, stage: Stage::Begun }
    }
    fn name(&self) -> String {
        match &self.to {
            Some((host, port)) => format!("{host}:{port}"),
            None => "any replica".into(),
        }
    }
}

/// Begins a hand-over: writes wait from now on. `Err`: nothing was changed.
pub fn begin<E: Env>(shared: &Shared<E>, failover: Failover) -> Result<(), Refusal> {
    let mut state = shared.replication.state();
    if state.failover.is_some() {
        return Err(Refusal::InProgress);
    }
    if state.is_following {
        return Err(Refusal::IsReplica);
    }
    if state.replicas.is_empty() {
        return Err(Refusal::NoReplicas);
    }
    if failover.is_forced && (failover.to.is_none() || failover.deadline.is_none()) {
        return Err(Refusal::ForceAlone);
    }
    if let Some((host, port)) = &failover.to {
        let found = state.replicas.values().find(|r| is_at(r, host, *port));
        let replica = found.ok_or(Refusal::NotAReplica)?;
        if replica.stage != super::Stage::Online {
            return Err(Refusal::NotOnline);
        }
    }
    tracing::info!("FAILOVER requested to {}.", failover.name());
    state.failover = Some(failover);
    shared.state.is_paused.store(true, Ordering::SeqCst);
    drop(state);
    shared.replication.round_due.notify_one();
    Ok(())
}

fn is_at(replica: &super::Replica, host: &str, port: u16) -> bool {
    replica.ip.eq_ignore_ascii_case(host) && replica.greeting.port == port
}

/// Goes on with a hand-over that waits for its replica. On the thread of the links, outside of the gate.
pub(super) fn step<E: Env>(shared: &Shared<E>) {
    let Some(failover) = shared.replication.state().failover.clone() else { return };
    match failover.stage {
        Stage::Begun => {
            // Nobody is in the middle of a batch any more that began before writes waited.
            // A script may be, for long: the next round looks again, until the time for it is up.
            if shared.engine.keyspace.gate().try_close().is_none() {
                return;
            }
            set_stage(shared, Stage::WaitingForSync);
            wait::ask_for_last_acks(shared);
        }
        Stage::WaitingForSync => match find_synced(shared, &failover) {
            Some((host, port)) => {
                tracing::info!("Failover target {host}:{port} is synced, failing over.");
                hand_over(shared, host, port);
            }
            None if failover.deadline.is_some_and(|at| shared.env.now().mono >= at) => {
                time_is_up(shared, failover)
            }
            None => {}
        },
        Stage::InProgress => {}
    }
}

fn set_stage<E: Env>(shared: &Shared<E>, stage: Stage) {
    if let Some(failover) = &mut shared.replication.state().failover {
        failover.stage = stage;
    }
}

fn find_synced<E: Env>(shared: &Shared<E>, failover: &Failover) -> Option<(String, u16)> {
    let end = shared.feed.end();
    let state = shared.replication.state();
    let is_meant = |replica: &super::Replica| match &failover.to {
        Some((host, port)) => is_at(replica, host, *port),
        None => true,
    };
    let has_all = |id: &u64| state.acks.get(*id).is_some_and(|a| a.is_online && a.offset >= end);
    let found = state.replicas.iter().find(|(id, replica)| is_meant(replica) && has_all(id));
    found.map(|(_, replica)| (replica.ip.clone(), replica.greeting.port))
}

fn time_is_up<E: Env>(shared: &Shared<E>, failover: Failover) {
    match failover.to.clone() {
        Some((host, port)) if failover.is_forced => {
            tracing::info!("FAILOVER to {host}:{port} time out exceeded, failing over.");
            hand_over(shared, host, port);
        }
        _ => abort(shared, "Replica never caught up before timeout"),
    }
}

/// This node becomes a replica of the one that takes over; its link does the rest.
fn hand_over<E: Env>(shared: &Shared<E>, host: String, port: u16) {
    {
        let mut state = shared.replication.state();
        let Some(failover) = &mut state.failover else { return };
        failover.to = Some((host.clone(), port));
        failover.stage = Stage::InProgress;
    }
    crate::commands::replication::remember(shared, &[host.clone(), port.to_string()]);
    let target = Target { host, port, node: None, generation: 0, tenure: Epoch(0) };
    let closed = shared.close_gate();
    follow_closed(shared, Some(target));
    drop(closed);
}

/// Whether this node has given its role up and must ask the replica to take it.
pub(super) fn is_in_progress<E: Env>(shared: &Shared<E>) -> bool {
    shared.replication.state().failover.as_ref().is_some_and(|f| f.stage == Stage::InProgress)
}

/// Whether a hand-over goes on.
pub fn is_any<E: Env>(shared: &Shared<E>) -> bool {
    shared.replication.state().failover.is_some()
}

/// The replica has taken over.
pub(super) fn finish<E: Env>(shared: &Shared<E>) {
    shared.replication.state().failover = None;
    shared.state.is_paused.store(false, Ordering::SeqCst);
}

/// Gives a hand-over up: this node leads, as before. The caller is not inside the gate.
pub(super) fn abort<E: Env>(shared: &Shared<E>, why: &str) {
    let closed = shared.close_gate();
    abort_closed(shared, why);
    drop(closed);
}

/// As [`abort`], for who has the gate closed. False: nothing goes on.
pub fn abort_closed<E: Env>(shared: &Shared<E>, why: &str) -> bool {
    let Some(failover) = shared.replication.state().failover.clone() else { return false };
    tracing::info!("FAILOVER to {} aborted: {why}", failover.name());
    if failover.stage == Stage::InProgress {
        lead_closed(shared);
        crate::commands::replication::remember(shared, &[]);
    }
    finish(shared);
    true
}

/// When [`step`] has to look again, besides at acknowledgements.
pub(super) fn due_in(state: &super::State, now: Mono) -> Option<Duration> {
    let failover = state.failover.as_ref()?;
    match failover.stage {
        Stage::Begun => Some(Duration::ZERO),
        Stage::WaitingForSync => failover.deadline.map(|at| at.since(now)),
        Stage::InProgress => None,
    }
}

/// As INFO shows it.
pub(super) fn describe(state: &super::State) -> &'static str {
    match state.failover.as_ref().map(|f| f.stage) {
        None => "no-failover",
        Some(Stage::Begun | Stage::WaitingForSync) => "waiting-for-sync",
        Some(Stage::InProgress) => "failover-in-progress",
    }
}
