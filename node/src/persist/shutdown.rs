//! Ending in order: nothing that was acknowledged is missing on the disk, as far as the configuration promises.
//!
//! Invariant: the last save and the end of the process happen behind a closed gate, so that no write comes between.

use super::log::Order;
use super::save::save_rdb_exclusive;
use super::snapshot::SnapshotTurn;
use super::task::Persist;
use crate::env::Env;
use crate::shared::{Shared, Ticket, throttle};
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::GateClosed;

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
        let is_done = self.end(save, is_now, is_forced).await;
        if is_done {
            return true;
        }
        shared.state.is_shutting_down.store(false, Ordering::Relaxed);
        shared.state.set_throttle(throttle::SHUTDOWN, false);
        match ticket {
            Some(ticket) => {
                ticket.answer(|out| out.error("ERR Errors trying to SHUTDOWN. Check logs."));
            }
            None => tracing::warn!(
                "A signal was received but errors trying to shut down the server, check the logs for more information"
            ),
        }
        false
    }

    async fn end(&mut self, save: Option<bool>, is_now: bool, is_forced: bool) -> bool {
        let shared = self.shared.clone();
        let is_first_base = self.log.borrow().as_ref().is_some_and(|log| !log.is_complete.get());
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
        shared.state.set_throttle(throttle::SHUTDOWN, true);
        if !is_now {
            wait_for_replicas(&shared).await;
        }
        if shared.engine.scripts.control.kill_all() && save == Some(false) {
            // Redis 7.0: NOSAVE ends the server in the middle of a script that has written.
            tracing::warn!("A script that has written still runs. Exit anyway.");
            self.sync_log().await;
            shared.env.exit(0);
            return true;
        }
        let turn = take_turn(&shared).await;
        let closed = self.flush_log().await;
        let is_saved = save.unwrap_or(!shared.settings().save.is_empty());
        if is_saved && !last_save(&shared, &closed, &turn, is_forced) {
            return false;
        }
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

/// Writes wait already: gives the replicas `shutdown-timeout` to get what was written last.
async fn wait_for_replicas<E: Env>(shared: &Shared<E>) {
    let began = shared.env.now().mono;
    let timeout = Duration::from_secs(shared.settings().shutdown_timeout_s);
    let mut has_said = false;
    loop {
        let now = shared.env.now().mono;
        let (online, current) = {
            let state = shared.replication.state();
            (state.acks.good(now, Duration::MAX), state.acks.count(shared.feed.end()))
        };
        if current >= online {
            return;
        }
        if now.since(began) >= timeout {
            return tracing::warn!("{current} of {online} replicas are in sync when shutting down.");
        }
        if !std::mem::replace(&mut has_said, true) {
            tracing::info!("Waiting for replicas before shutting down.");
        }
        tokio::time::sleep(LOOK).await;
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
