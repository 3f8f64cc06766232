//! Ending in order: nothing that was acknowledged is missing on the disk, as far as the configuration promises.
//!
//! Invariant: the last save and the end of the process happen behind a closed gate, so that no write comes between.

use super::PersistRequest;
use super::log::Order;
use super::save::save_rdb_exclusive;
use super::snapshot::SnapshotTurn;
use super::task::{EARLY_MAX, Persist};
use crate::env::Env;
use crate::shared::{Shared, Ticket, throttle};
use proto::Mono;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use storage::GateClosed;
use tokio::sync::Notify;

/// Times that the log is brought up to the feed's end before the gate is closed although writes still come in.
const ROUNDS_MAX: usize = 100;
/// How often a snapshot under way is asked to end.
const LOOK: Duration = Duration::from_millis(2);

impl<E: Env> Persist<E> {
    /// Ends the node. Returns whether it did: an error is answered, and the node goes on.
    pub(super) async fn shut_down(
        &mut self,
        ticket: Option<Ticket<E::Socket>>,
        save: Option<bool>,
        is_now: bool,
        is_forced: bool,
    ) -> bool {
        match ticket {
            Some(_) => tracing::warn!("User requested shutdown..."),
            None => tracing::warn!("A signal requested shutdown..."),
        }
        let shared = self.shared.clone();
        shared.state.is_shutting_down.store(true, Ordering::Relaxed);
        let mut tickets: Vec<Ticket<E::Socket>> = ticket.into_iter().collect();
        let is_done = self.end(&mut tickets, save, is_now, is_forced).await;
        if is_done {
            return true;
        }
        shared.state.is_shutting_down.store(false, Ordering::Relaxed);
        shared.state.set_throttle(throttle::SHUTDOWN, false);
        tracing::warn!("Errors trying to shut down the server. Check the logs for more information.");
        for ticket in tickets {
            ticket.answer(|out| out.error("ERR Errors trying to SHUTDOWN. Check logs."));
        }
        false
    }

    async fn end(
        &mut self,
        tickets: &mut Vec<Ticket<E::Socket>>,
        save: Option<bool>,
        is_now: bool,
        is_forced: bool,
    ) -> bool {
        let shared = self.shared.clone();
        shared.state.set_throttle(throttle::SHUTDOWN, true);
        if !is_now && !self.wait_for_replicas(tickets).await {
            return false;
        }
        if self.early.iter().any(|request| matches!(request, PersistRequest::ConfigChanged)) {
            self.on_config().await;
        }
        let is_first_base = self.rewriting.is_some() && !shared.persist.status().is_log_complete;
        if is_first_base {
            // The base cannot be written while a script is inside the gate, and that one has no other end.
            let is_stuck = save == Some(false) && shared.engine.scripts.control.has_unkillable();
            if !is_forced && !is_stuck {
                tracing::warn!("Writing initial AOF, can't exit");
                return false;
            }
            tracing::warn!("Writing initial AOF. Exit anyway.");
        }
        if let Some(job) = self.saving.take() {
            tracing::warn!("There is a child saving an .rdb. Killing it!");
            job.abort().await;
            shared.persist.status().is_saving = false;
        }
        if let Some(job) = self.rewriting.take() {
            tracing::warn!("There is a child rewriting the AOF. Killing it!");
            job.abort().await;
            shared.persist.status().is_rewriting = false;
        }
        if shared.engine.scripts.control.kill_all() && save == Some(false) {
            // Redis 7.0: NOSAVE ends the server in the middle of a script that has written.
            tracing::warn!("A script that has written still runs. Exit anyway.");
            self.sync_log().await;
            shared.listening.close().await;
            shared.env.exit(0);
            return true;
        }
        let turn = take_turn(&shared).await;
        let closed = self.flush_log().await;
        let is_saved = save.unwrap_or(!shared.settings().save.is_empty());
        if is_saved && !last_save(&shared, &closed, &turn, is_forced) {
            return false;
        }
        shared.listening.close().await;
        shared.env.exit(0);
        true
    }

    /// Brings the log up to what the feed holds now.
    async fn sync_log(&self) {
        let Some(log) = self.log.borrow().clone() else { return };
        let at = self.shared.feed.end().0;
        if let Err(error) = log.ask(|done| Order::Sync { at, done }).await {
            tracing::warn!("Fail to fsync the AOF file: {error}");
        }
    }

    /// Brings the log up to the feed's end and closes the gate there.
    async fn flush_log(&self) -> GateClosed<'_> {
        let shared = &self.shared;
        let Some(log) = self.log.borrow().clone() else { return shared.close_gate() };
        tracing::info!("Calling fsync() on the AOF file.");
        for _ in 0..ROUNDS_MAX {
            let at = self.shared.feed.end().0;
            if let Err(error) = log.ask(|done| Order::Sync { at, done }).await {
                tracing::warn!("Fail to fsync the AOF file: {error}");
                return shared.close_gate();
            }
            let closed = shared.close_gate();
            if self.shared.feed.end().0 == at {
                return closed;
            }
        }
        tracing::warn!("Writes do not stop: the last of them may be missing in the AOF file");
        shared.close_gate()
    }
}

/// A shutdown that may be given up.
#[derive(Default)]
pub struct ShutdownState {
    is_waiting: AtomicBool,
    /// When waiting for replicas ends, in ms of the monotonic clock; 0: nobody waits for any.
    deadline_ms: AtomicU64,
    aborted: Notify,
}

impl ShutdownState {
    /// Gives a shutdown up that waits. False: there is none, or it is too late.
    pub fn abort(&self) -> bool {
        let was_waiting = self.is_waiting.swap(false, Ordering::AcqRel);
        if was_waiting {
            self.aborted.notify_one();
        }
        was_waiting
    }
    /// How long replicas are still waited for, if they are.
    pub fn remaining_ms(&self, now: Mono) -> Option<u64> {
        match self.deadline_ms.load(Ordering::Relaxed) {
            0 => None,
            at => Some(at.saturating_sub(now.as_ms())),
        }
    }
    /// Waits for `what`; `None`: the shutdown was given up.
    pub async fn wait<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        self.is_waiting.store(true, Ordering::Release);
        let result = tokio::select! {
            biased;
            () = self.aborted.notified() => return None,
            result = what => result,
        };
        match self.is_waiting.swap(false, Ordering::AcqRel) {
            true => Some(result),
            // Given up just now.
            false => {
                self.aborted.notified().await;
                None
            }
        }
    }
}

impl<E: Env> Persist<E> {
    /// Writes wait already: gives the replicas `shutdown-timeout` to get what was written last. False: the shutdown was
    /// given up. Who asks for it meanwhile waits for the same end.
    async fn wait_for_replicas(&mut self, tickets: &mut Vec<Ticket<E::Socket>>) -> bool {
        let shared = self.shared.clone();
        let state = &shared.persist.shutdown;
        let timeout = Duration::from_secs(shared.settings().shutdown_timeout_s);
        let deadline = shared.env.now().mono + timeout;
        let lagging = || shared.replication.state().acks.lagging(shared.feed.end());
        if lagging() > 0 && !timeout.is_zero() {
            tracing::info!("Waiting for replicas before shutting down.");
            state.deadline_ms.store(deadline.as_ms().max(1), Ordering::Relaxed);
            let waiting = state.wait(async {
                while lagging() > 0 && shared.env.now().mono < deadline {
                    tokio::select! {
                        biased;
                        Some(request) = self.inbox.requests.recv(), if self.early.len() < EARLY_MAX => match request {
                            PersistRequest::ShutDown { ticket, .. } => tickets.extend(ticket),
                            request => self.early.push_back(request),
                        },
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
            });
            let is_over = waiting.await.is_some();
            state.deadline_ms.store(0, Ordering::Relaxed);
            if !is_over {
                return false;
            }
        }
        self.tell_of_replicas();
        true
    }

    fn tell_of_replicas(&self) {
        let end = self.shared.feed.end();
        let replicas = self.shared.replication.replicas();
        let is_lagging = |r: &&crate::replica::ReplicaView| !r.is_online || r.acked < end;
        for r in replicas.iter().filter(is_lagging) {
            let (behind, state) = (end.0 - r.acked.0.min(end.0), if r.is_online { "online" } else { "wait" });
            let lag_s = self.shared.env.now().mono.since(r.acked_at).as_secs();
            tracing::warn!(
                "Lagging replica {}:{} reported offset {behind} behind master, lag={lag_s}, state={state}.",
                r.ip,
                r.port
            );
        }
        if !replicas.is_empty() {
            let current = replicas.len() - replicas.iter().filter(is_lagging).count();
            tracing::info!("{current} of {} replicas are in sync when shutting down.", replicas.len());
        }
    }
}

/// Waits for the turn to make a snapshot; others that are under way are given up.
async fn take_turn<E: Env>(shared: &Shared<E>) -> SnapshotTurn<'_> {
    loop {
        shared.persist.end_snapshot(&shared.engine.keyspace);
        tokio::select! {
            biased;
            turn = shared.persist.snapshots.lock() => return turn,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn last_save<E: Env>(
    shared: &std::sync::Arc<Shared<E>>,
    closed: &GateClosed<'_>,
    turn: &SnapshotTurn<'_>,
    is_forced: bool,
) -> bool {
    tracing::info!("Saving the final RDB snapshot before exiting.");
    match save_rdb_exclusive(shared, closed, turn) {
        Ok(_) => {
            tracing::info!("DB saved on disk");
            true
        }
        Err(error) if is_forced => {
            tracing::warn!("Error trying to save the DB, exit anyway: {error}");
            true
        }
        Err(error) => {
            tracing::warn!("Error trying to save the DB, can't exit: {error}");
            false
        }
    }
}
