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

/// Who asked for the end, and how.
pub(super) struct Asked<S> {
    tickets: Vec<Ticket<S>>,
    /// A signal asked, alone or as well.
    is_signal: bool,
    save: Option<bool>,
    is_now: bool,
    is_forced: bool,
}

impl<S> Asked<S> {
    pub(super) fn new(
        ticket: Option<Ticket<S>>,
        save: Option<bool>,
        is_now: bool,
        is_forced: bool,
    ) -> Asked<S> {
        let is_signal = ticket.is_none();
        Asked { tickets: ticket.into_iter().collect(), is_signal, save, is_now, is_forced }
    }
    /// Who asks later waits for the same end; a client's NOSAVE holds for all.
    fn join(&mut self, other: Asked<S>) {
        self.is_signal |= other.is_signal;
        if !other.is_signal && other.save == Some(false) {
            (self.save, self.is_now) = (other.save, self.is_now || other.is_now);
        }
        self.tickets.extend(other.tickets);
    }
    fn refuse(self, error: &str) {
        self.tickets.into_iter().for_each(|ticket| ticket.answer(|out| out.error(error)));
    }
}

/// What scripts mean for the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scripts {
    /// None is inside the gate.
    Over,
    /// One that has written runs on, and half of it would be saved.
    Awaited,
    /// As [`Scripts::Awaited`], and a client wants the end in its middle.
    LeftBehind,
    /// As [`Scripts::Awaited`], and nobody asks any more for whom it is awaited.
    Dropped,
}

impl<E: Env> Persist<E> {
    /// Somebody asks for the end. Returns whether the node ended: an error is answered, and the node goes on.
    pub(super) async fn shut_down(&mut self, asked: Asked<E::Socket>) -> bool {
        match asked.is_signal {
            false => tracing::warn!("User requested shutdown..."),
            true => tracing::warn!("A signal requested shutdown..."),
        }
        match &mut self.asked {
            Some(before) => before.join(asked),
            None => {
                self.shared.persist.shutdown.begin();
                self.asked = Some(asked);
            }
        }
        self.go_on_ending().await
    }

    /// Ends the node if it was asked for, unless a script stands in the way. Returns whether it did.
    ///
    /// As in Redis 7.0 a script that has written comes to its end first, whatever a signal says; who wants that in its
    /// middle says SHUTDOWN NOSAVE. Until then the node goes on as if nobody had asked.
    pub(super) async fn go_on_ending(&mut self) -> bool {
        let Some(mut asked) = self.asked.take() else { return false };
        let shared = self.shared.clone();
        let state = &shared.persist.shutdown;
        let found = self.look_at_scripts(&mut asked);
        if found == Scripts::Awaited && state.is_waiting() {
            self.asked = Some(asked);
            return false;
        }
        let is_taken_back = !state.end_waiting().await;
        if found == Scripts::Dropped {
            return false;
        }
        if !is_taken_back {
            shared.state.is_shutting_down.store(true, Ordering::Relaxed);
            shared.state.set_throttle(throttle::SHUTDOWN, true);
            let end = self.end(&mut asked, found == Scripts::LeftBehind).await;
            if end == End::Done {
                return true;
            }
            shared.state.is_shutting_down.store(false, Ordering::Relaxed);
            shared.state.set_throttle(throttle::SHUTDOWN, false);
            if end == End::Later {
                state.begin();
                self.asked = Some(asked);
                return false;
            }
        }
        tracing::warn!("Errors trying to shut down the server. Check the logs for more information.");
        asked.refuse("ERR Errors trying to SHUTDOWN. Check logs.");
        false
    }

    /// Kills the scripts that have written nothing, and says what the others mean. Clients that want to save are told
    /// BUSY when one of them counts as slow.
    fn look_at_scripts(&self, asked: &mut Asked<E::Socket>) -> Scripts {
        if !self.shared.engine.scripts.control.kill_all() {
            return Scripts::Over;
        }
        let Some(busy) = self.shared.busy_script() else { return Scripts::Awaited };
        if asked.save == Some(false) && !asked.tickets.is_empty() {
            return Scripts::LeftBehind;
        }
        let busy = busy.to_string();
        asked.tickets.drain(..).for_each(|ticket| ticket.answer(|out| out.error(&busy)));
        if asked.is_signal { Scripts::Awaited } else { Scripts::Dropped }
    }

    async fn end(&mut self, asked: &mut Asked<E::Socket>, is_script_left: bool) -> End {
        let shared = self.shared.clone();
        if !asked.is_now && !self.wait_for_replicas(asked).await {
            return End::Failed;
        }
        if self.early.iter().any(|request| matches!(request, PersistRequest::ConfigChanged)) {
            self.on_config().await;
        }
        let is_first_base = self.rewriting.is_some() && !shared.persist.status().is_log_complete;
        if is_first_base {
            // The base cannot be written while a script is inside the gate, and that one has no other end.
            if !asked.is_forced && !is_script_left {
                tracing::warn!("Writing initial AOF, can't exit");
                return End::Failed;
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
        if is_script_left {
            // Redis 7.0: NOSAVE ends the server in the middle of a script that has written.
            tracing::warn!("A script that has written still runs. Exit anyway.");
            self.sync_log(shared.feed.end().0).await;
        } else {
            let turn = take_turn(&shared).await;
            let Some(closed) = self.close_at_end(&shared).await else { return End::Later };
            let is_saved = asked.save.unwrap_or(!shared.settings().save.is_empty());
            if is_saved && !last_save(&shared, &closed, &turn, asked.is_forced) {
                return End::Failed;
            }
        }
        shared.listening.close().await;
        shared.env.exit(0);
        End::Done
    }

    /// Makes the log durable up to here.
    async fn sync_log(&self, at: u64) {
        let Some(log) = self.log.borrow().clone() else { return };
        if let Err(error) = log.ask(|done| Order::Sync { at, done }).await {
            tracing::warn!("Fail to fsync the AOF file: {error}");
        }
    }

    /// Brings the log up to the feed's end and closes the gate there. `None`: a script has written meanwhile, which began
    /// before writes had to wait.
    async fn close_at_end<'g>(&self, shared: &'g Shared<E>) -> Option<GateClosed<'g>> {
        let has_log = self.log.borrow().is_some();
        if has_log {
            tracing::info!("Calling fsync() on the AOF file.");
        }
        let mut rounds = 0;
        loop {
            let at = shared.feed.end().0;
            self.sync_log(at).await;
            let Some(closed) = shared.engine.keyspace.gate().try_close() else {
                if shared.engine.scripts.control.kill_all() {
                    return None;
                }
                tokio::time::sleep(LOOK).await;
                continue;
            };
            rounds += 1;
            if !has_log || shared.feed.end().0 == at {
                return Some(closed);
            }
            if rounds == ROUNDS_MAX {
                tracing::warn!("Writes do not stop: the last of them may be missing in the AOF file");
                return Some(closed);
            }
        }
    }

    /// Listens for so long to who asks for the end as well.
    async fn hear(&mut self, asked: &mut Asked<E::Socket>, time: Duration) {
        tokio::select! {
            biased;
            Some(request) = self.inbox.recv(), if self.early.len() < EARLY_MAX => match request {
                PersistRequest::ShutDown { ticket, save, is_now, is_forced } => {
                    asked.join(Asked::new(ticket, save, is_now, is_forced));
                }
                request => self.early.push_back(request),
            },
            () = tokio::time::sleep(time) => {}
        }
    }
}

/// How an attempt to end went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Done,
    Failed,
    /// A script came between.
    Later,
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
    /// A shutdown waits from now on.
    fn begin(&self) {
        self.is_waiting.store(true, Ordering::Release);
    }
    fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }
    /// It waits no more. False: it was given up.
    async fn end_waiting(&self) -> bool {
        let is_wanted = self.is_waiting.swap(false, Ordering::AcqRel);
        if !is_wanted {
            self.aborted.notified().await;
        }
        is_wanted
    }
    /// Waits for `what`; `None`: the shutdown was given up.
    pub async fn wait<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        self.begin();
        let result = tokio::select! {
            biased;
            () = self.aborted.notified() => return None,
            result = what => result,
        };
        self.end_waiting().await.then_some(result)
    }
}

impl<E: Env> Persist<E> {
    /// Writes wait already: gives the replicas `shutdown-timeout` to get what was written last. False: the shutdown was
    /// given up. Who asks for it meanwhile waits for the same end.
    async fn wait_for_replicas(&mut self, asked: &mut Asked<E::Socket>) -> bool {
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
                    self.hear(asked, LOOK).await;
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
