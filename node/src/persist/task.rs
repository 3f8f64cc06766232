//! The task that decides when to save and rewrite, and that answers those who ask for it.
//!
//! Jobs run beside it on the control thread and tell it when they are done; everything that they change here changes
//! in one place.

use super::files::Found;
use super::load::{LoadRule, load, load_rdb, note, reload_log};
use super::log::{LogEnd, Order};
use super::rewrite::{LogPlace, begin, resume, rewrite};
use super::save::{save, save_rdb_exclusive};
use super::shutdown::Asked;
use super::snapshot::SnapshotDone;
use super::{PersistInbox, PersistRequest, ReloadSource};
use crate::config::Fsync;
use crate::env::Env;
use crate::shared::{Shared, Ticket, gate};
use proto::{Mono, Slot};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often is looked whether something is due. Redis's `hz 10`.
const TICK: Duration = Duration::from_millis(100);
/// How often is looked whether a script still stands in the way of the node's end.
const END_LOOK: Duration = Duration::from_millis(2);
/// Time after a failed save or rewrite until the next one that nobody asked for. Redis's CONFIG_BGSAVE_RETRY_DELAY.
const RETRY: Duration = Duration::from_secs(5);
/// Time after which a log that has failed begins anew.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// What a job has to say.
pub(super) enum Done {
    Saved(io::Result<SnapshotDone>),
    Rewritten(io::Result<SnapshotDone>),
    LogEnded(LogEnd),
}

/// A save or a rewrite under way.
pub(super) struct Job<S> {
    task: JoinHandle<()>,
    pub(super) began: Mono,
    /// Who waits for its end.
    ticket: Option<Ticket<S>>,
    start: Rc<Start<S>>,
}

/// The begin of a save, which waits for scripts.
pub(super) struct Start<S> {
    has_come: Cell<bool>,
    /// Who waits for it.
    ticket: RefCell<Option<Ticket<S>>>,
}

impl<S> Start<S> {
    fn new(ticket: Option<Ticket<S>>) -> Rc<Start<S>> {
        Rc::new(Start { has_come: Cell::new(false), ticket: RefCell::new(ticket) })
    }
    fn come(&self) {
        self.has_come.set(true);
        self.answer(|out| out.simple("Background saving started"));
    }
    fn answer(&self, write: impl FnOnce(Reply<'_>)) {
        if let Some(ticket) = self.ticket.take() {
            ticket.answer(write);
        }
    }
}

impl<S> Job<S> {
    pub(super) async fn abort(self) {
        self.task.abort();
        // Its end must have been before anything else is done with the files.
        let _ = self.task.await;
        let given_up = |out: Reply<'_>| out.error("ERR the snapshot was given up");
        self.start.answer(given_up);
        if let Some(ticket) = self.ticket {
            ticket.answer(given_up);
        }
    }
    /// Somebody waits for a save that has not begun.
    fn is_awaited(&self) -> bool {
        !self.start.has_come.get() && (self.ticket.is_some() || self.start.ticket.borrow().is_some())
    }
}

/// See the module's head.
pub struct Persist<E: Env> {
    pub(super) shared: Arc<Shared<E>>,
    pub(super) inbox: PersistInbox<E::Socket>,
    /// What was asked while data were loaded, or the node waited for its replicas before its end.
    pub(super) early: VecDeque<PersistRequest<E::Socket>>,
    /// The end that was asked for, while a script stands in its way.
    pub(super) asked: Option<Asked<E::Socket>>,
    tell: mpsc::UnboundedSender<Done>,
    told: mpsc::UnboundedReceiver<Done>,
    pub(super) log: LogPlace,
    pub(super) saving: Option<Job<E::Socket>>,
    pub(super) rewriting: Option<Job<E::Socket>>,
    is_save_scheduled: bool,
    is_rewrite_scheduled: bool,
    save_failed_at: Option<Mono>,
    rewrite_failed_at: Option<Mono>,
    /// The log does not run although it is configured: its data are being replaced.
    is_log_held: bool,
    log_failed_at: Option<Mono>,
}

type Reply<'a> = &'a mut proto::resp::Reply;

impl<E: Env> Persist<E> {
    /// Loads what an earlier life kept, and opens the log. `Err`: the node must not start. `None`: it was told to end.
    pub async fn start(
        shared: Arc<Shared<E>>,
        mut inbox: PersistInbox<E::Socket>,
    ) -> Result<Option<Persist<E>>, String> {
        let mut early = VecDeque::new();
        let Some(found) = load_beside(&shared, &mut inbox, &mut early).await? else { return Ok(None) };
        shared.persist.status().last_save_s = shared.env.now().wall.0 / 1000;
        let (tell, told) = mpsc::unbounded_channel();
        let persist = Persist {
            shared,
            inbox,
            early,
            asked: None,
            tell,
            told,
            log: Rc::new(RefCell::new(None)),
            saving: None,
            rewriting: None,
            is_save_scheduled: false,
            is_rewrite_scheduled: false,
            save_failed_at: None,
            rewrite_failed_at: None,
            is_log_held: false,
            log_failed_at: None,
        };
        if let Some(found) = found {
            let log = resume(&persist.shared, found, persist.on_log_end()).await;
            let log = log.map_err(|error| {
                let text = format!("Can't open the append-only file: {error}");
                tracing::warn!("{text}");
                text
            })?;
            *persist.log.borrow_mut() = Some(Rc::new(log));
        }
        Ok(Some(persist))
    }

    fn on_log_end(&self) -> impl FnOnce(LogEnd) + 'static {
        let tell = self.tell.clone();
        move |end| drop(tell.send(Done::LogEnded(end)))
    }

    /// Serves until the node ends.
    pub async fn run(mut self) {
        let mut next_tick = Box::pin(tokio::time::sleep(TICK));
        loop {
            while let Some(request) = self.early.pop_front() {
                if self.on_request(request).await {
                    return;
                }
            }
            tokio::select! {
                biased;
                done = self.told.recv() => self.on_done(done.expect("a sender is kept here")),
                request = self.inbox.recv() => match request {
                    None => return,
                    Some(request) => if self.on_request(request).await {
                        return;
                    },
                },
                () = tokio::time::sleep(END_LOOK), if self.asked.is_some() => {
                    if self.go_on_ending().await {
                        return;
                    }
                }
                () = &mut next_tick => {
                    self.refuse_if_busy().await;
                    self.tick();
                    next_tick.set(tokio::time::sleep(TICK));
                }
            }
        }
    }

    /// Returns whether the node ends.
    async fn on_request(&mut self, request: PersistRequest<E::Socket>) -> bool {
        match request {
            PersistRequest::Save(ticket) => self.on_save(ticket),
            PersistRequest::BackgroundSave { ticket, is_scheduled } => {
                self.on_background_save(ticket, is_scheduled);
            }
            PersistRequest::RewriteLog(ticket) => self.on_rewrite(ticket),
            PersistRequest::Reload { ticket, source } => self.reload(ticket, source).await,
            PersistRequest::ShutDown { ticket, save, is_now, is_forced } => {
                return self.shut_down(Asked::new(ticket, save, is_now, is_forced)).await;
            }
            PersistRequest::Emptied(emptied) => self.on_emptied(emptied).await,
            PersistRequest::EmptiedUnsaved(at) => self.on_emptied_unsaved(at).await,
            PersistRequest::ConfigChanged => self.on_config().await,
            PersistRequest::StopLog(done) => {
                self.is_log_held = true;
                if let Some(job) = self.saving.take() {
                    tracing::info!(
                        "A primary's data replace ours. There is a child saving an .rdb. Killing it!"
                    );
                    job.abort().await;
                    self.shared.persist.status().is_saving = false;
                }
                self.stop_log().await;
                let _ = done.send(());
            }
            PersistRequest::StartLog => {
                self.is_log_held = false;
                self.keep_log();
            }
        }
        false
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Saved(result) => self.on_saved(result),
            Done::Rewritten(result) => self.on_rewritten(result),
            Done::LogEnded(end) => self.on_log_ended(end),
        }
    }

    /// Whatever is due without being asked for.
    fn tick(&mut self) {
        self.shared.release_if_open();
        self.keep_log();
        // Half of the data is nothing to save.
        let is_loading = self.shared.state.is_loading.load(Ordering::Relaxed);
        if self.saving.is_some() || self.rewriting.is_some() || is_loading {
            return;
        }
        if std::mem::take(&mut self.is_rewrite_scheduled) {
            self.shared.persist.status().is_rewrite_scheduled = false;
            return self.start_rewrite();
        }
        if std::mem::take(&mut self.is_save_scheduled) {
            return self.start_save(None, None);
        }
        self.save_if_due();
        if self.saving.is_none() {
            self.rewrite_if_due();
        }
    }

    fn now(&self) -> Mono {
        self.shared.env.now().mono
    }
    fn is_past(&self, at: Option<Mono>, wait: Duration) -> bool {
        at.is_none_or(|at| self.now().since(at) >= wait)
    }

    // Saving.

    fn on_save(&mut self, ticket: Ticket<E::Socket>) {
        if self.saving.is_some() {
            return ticket.answer(|out| out.error("ERR Background save already in progress"));
        }
        self.start_save(Some(ticket), None);
    }

    fn on_background_save(&mut self, ticket: Ticket<E::Socket>, is_scheduled: bool) {
        if self.saving.is_some() {
            return ticket.answer(|out| out.error("ERR Background save already in progress"));
        }
        if self.rewriting.is_some() {
            if !is_scheduled {
                return ticket.answer(|out| {
                    out.error("ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.");
                });
            }
            self.is_save_scheduled = true;
            return ticket.answer(|out| out.simple("Background saving scheduled"));
        }
        // What the client writes after the reply is not in the snapshot, unless another has to end first.
        if self.shared.persist.snapshots.try_lock().is_ok() {
            self.start_save(None, Some(ticket));
        } else {
            ticket.answer(|out| out.simple("Background saving started"));
            self.start_save(None, None);
        }
    }

    /// `ticket`: of who waits for the end; `starter`: for the begin.
    pub(super) fn start_save(
        &mut self,
        ticket: Option<Ticket<E::Socket>>,
        starter: Option<Ticket<E::Socket>>,
    ) {
        tracing::info!("Background saving started");
        let (shared, tell) = (self.shared.clone(), self.tell.clone());
        let path = shared.settings().dbfilename.clone();
        let start = Start::new(starter);
        let start_ = start.clone();
        let work = async move {
            let saved = save(&shared, &path, |_| start_.come()).await;
            let _ = tell.send(Done::Saved(saved));
        };
        self.saving = Some(Job { task: tokio::task::spawn_local(work), began: self.now(), ticket, start });
        let mut status = self.shared.persist.status();
        status.is_saving = true;
        status.save_began_s = self.now().as_ms() / 1000;
    }

    fn on_saved(&mut self, result: io::Result<SnapshotDone>) {
        let Some(job) = self.saving.take() else { return };
        let now = self.shared.env.now();
        let mut status = self.shared.persist.status();
        status.is_saving = false;
        status.is_last_save_ok = result.is_ok();
        status.last_save_duration_s = now.mono.since(job.began).as_secs() as i64;
        if let Ok(done) = &result {
            status.last_save_s = now.wall.0 / 1000;
            status.dirty_at_save = done.start.dirty;
            status.saves += 1;
        }
        drop(status);
        match &result {
            Ok(_) => tracing::info!("DB saved on disk"),
            Err(error) => tracing::warn!("Background saving error: {error}"),
        }
        self.save_failed_at = result.as_ref().err().map(|_| now.mono);
        self.judge_saves();
        if let Some(ticket) = job.ticket {
            ticket.answer(|out| match result {
                Ok(_) => out.ok(),
                Err(error) => out.error(&format!("ERR {error}")),
            });
        }
    }

    /// `stop-writes-on-bgsave-error`.
    fn judge_saves(&self) {
        let settings = self.shared.settings();
        let is_wanted = settings.stop_writes_on_save_error && !settings.save.is_empty();
        let is_failing = is_wanted && !self.shared.persist.status().is_last_save_ok;
        self.shared.state.is_save_failing.store(is_failing, Ordering::Relaxed);
    }

    fn save_if_due(&mut self) {
        if !self.is_past(self.save_failed_at, RETRY) {
            return;
        }
        let status = self.shared.persist.status().clone();
        let changes = self.shared.dirty().saturating_sub(status.dirty_at_save);
        let age_s = (self.shared.env.now().wall.0 / 1000 - status.last_save_s).max(0) as u64;
        let settings = self.shared.settings().save.clone();
        let due = settings.iter().find(|(seconds, count)| changes >= *count && age_s > *seconds);
        if let Some((seconds, count)) = due {
            tracing::info!("{count} changes in {seconds} seconds. Saving...");
            self.start_save(None, None);
        }
    }

    /// Clients are told of a slow script that a save would have to wait for, as if they had asked in its middle.
    async fn refuse_if_busy(&mut self) {
        let is_awaited = self.saving.as_ref().is_some_and(Job::is_awaited);
        let Some(busy) = self.shared.busy_script().filter(|_| is_awaited) else { return };
        let Some(job) = self.saving.take() else { return };
        self.shared.persist.status().is_saving = false;
        let busy = busy.to_string();
        job.task.abort();
        // Its end must have been before anything else is done with the files.
        let _ = job.task.await;
        job.start.answer(|out| out.error(&busy));
        job.ticket.into_iter().for_each(|ticket| ticket.answer(|out| out.error(&busy)));
    }

    // The log.

    fn on_rewrite(&mut self, ticket: Ticket<E::Socket>) {
        if self.rewriting.is_some() {
            return ticket.answer(|out| {
                out.error("ERR Background append only file rewriting already in progress");
            });
        }
        if self.saving.is_some() {
            self.is_rewrite_scheduled = true;
            self.shared.persist.status().is_rewrite_scheduled = true;
            return ticket.answer(|out| out.simple("Background append only file rewriting scheduled"));
        }
        self.start_rewrite();
        ticket.answer(|out| out.simple("Background append only file rewriting started"));
    }

    fn start_rewrite(&mut self) {
        let (shared, tell, log) = (self.shared.clone(), self.tell.clone(), self.log.borrow().clone());
        let work = async move {
            let _ = tell.send(Done::Rewritten(rewrite(&shared, log, || {}).await));
        };
        self.set_rewriting(tokio::task::spawn_local(work));
    }

    fn set_rewriting(&mut self, task: JoinHandle<()>) {
        tracing::info!("Background append only file rewriting started");
        self.rewriting = Some(Job { task, began: self.now(), ticket: None, start: Start::new(None) });
        let mut status = self.shared.persist.status();
        status.is_rewriting = true;
        status.rewrite_began_s = self.now().as_ms() / 1000;
    }

    fn on_rewritten(&mut self, result: io::Result<SnapshotDone>) {
        let Some(job) = self.rewriting.take() else { return };
        let now = self.now();
        let mut status = self.shared.persist.status();
        status.is_rewriting = false;
        status.is_last_rewrite_ok = result.is_ok();
        status.last_rewrite_duration_s = now.since(job.began).as_secs() as i64;
        status.rewrites += 1;
        drop(status);
        match &result {
            Ok(_) => tracing::info!("Background AOF rewrite finished successfully"),
            Err(error) => tracing::warn!("Background AOF rewrite terminated by error: {error}"),
        }
        self.rewrite_failed_at = result.is_err().then_some(now);
        if result.is_err() && self.log.borrow().is_none() {
            self.log_failed_at = Some(now);
        }
    }

    fn rewrite_if_due(&mut self) {
        let settings = self.shared.settings();
        let (percentage, least) = (settings.aof_rewrite_percentage, settings.aof_rewrite_min_bytes);
        drop(settings);
        let is_possible = self.log.borrow().as_ref().is_some_and(|log| log.is_complete.get());
        if percentage == 0 || !is_possible || !self.is_past(self.rewrite_failed_at, RETRY) {
            return;
        }
        let status = self.shared.persist.status().clone();
        let base = status.log_base_bytes.max(1);
        let growth = (status.log_bytes as u128 * 100 / base as u128).saturating_sub(100);
        if status.log_bytes > least && growth >= percentage as u128 {
            tracing::info!("Starting automatic rewriting of AOF on {growth}% growth");
            self.start_rewrite();
        }
    }

    /// Begins the log if it shall run and does not.
    fn keep_log(&mut self) {
        let is_wanted = self.shared.settings().appendonly && !self.is_log_held;
        let is_idle = self.log.borrow().is_none() && self.rewriting.is_none() && self.saving.is_none();
        if !is_wanted || !is_idle || !self.is_past(self.log_failed_at, LOG_RETRY) {
            return;
        }
        let (shared, tell, place) = (self.shared.clone(), self.tell.clone(), self.log.clone());
        let ended = self.on_log_end();
        let work = async move {
            let _ = tell.send(Done::Rewritten(begin(&shared, &place, ended).await));
        };
        self.set_rewriting(tokio::task::spawn_local(work));
    }

    fn on_log_ended(&mut self, end: LogEnd) {
        let LogEnd::Failed(error) = end else { return };
        tracing::error!("The append only file is given up and will begin anew: {error}");
        *self.log.borrow_mut() = None;
        self.log_failed_at = Some(self.now());
        self.shared.state.is_log_failing.store(true, Ordering::Relaxed);
        self.shared.persist.status().is_log_ok = false;
        self.shared.allow(gate::LOG, None);
    }

    /// Ends the log in order, and what works at it.
    async fn stop_log(&mut self) {
        if let Some(job) = self.rewriting.take() {
            job.abort().await;
            self.shared.persist.status().is_rewriting = false;
        }
        let log = self.log.borrow_mut().take();
        if let Some(log) = log {
            let at = self.shared.feed.end().0;
            if let Err(error) = log.ask(|done| Order::Stop { at, done }).await {
                tracing::warn!("Error syncing the append only file at its end: {error}");
            }
        }
        self.log_failed_at = None;
        self.shared.state.is_log_failing.store(false, Ordering::Relaxed);
        self.shared.persist.status().is_log_ok = true;
        self.shared.allow(gate::LOG, None);
    }

    pub(super) async fn on_config(&mut self) {
        self.judge_saves();
        let settings = self.shared.settings.load_full();
        if !settings.appendonly {
            if self.log.borrow().is_some() || self.log_failed_at.is_some() {
                self.stop_log().await;
            }
            return;
        }
        if settings.appendfsync != Fsync::Always {
            self.shared.allow(gate::LOG, None);
        }
        if let Some(log) = &*self.log.borrow() {
            log.order(Order::Look);
        }
        self.keep_log();
    }

    // DEBUG RELOAD and LOADAOF.

    async fn reload(&mut self, ticket: Ticket<E::Socket>, source: ReloadSource) {
        match source {
            ReloadSource::Snapshot { is_saved, is_flushed, may_replace } => {
                let rule = LoadRule { skips_expired: true, may_replace, is_exclusive: true };
                self.reload_snapshot(ticket, is_saved, is_flushed, rule).await;
            }
            ReloadSource::Log => self.reload_log(ticket).await,
        }
    }

    /// Clients are told that data are loaded: the log's commands pass the gate like theirs.
    async fn reload_log(&mut self, ticket: Ticket<E::Socket>) {
        let shared = self.shared.clone();
        let closed = shared.close_gate();
        shared.state.is_loading.store(true, Ordering::Relaxed);
        drop(closed);
        let log = self.log.borrow().clone();
        let synced = match log {
            Some(log) => {
                let at = shared.feed.end().0;
                log.ask(|done| Order::Sync { at, done }).await
            }
            None => Ok(()),
        };
        let loaded = match synced {
            Ok(()) => reload_log(&shared),
            Err(error) => Err(error.to_string()),
        };
        shared.state.is_loading.store(false, Ordering::Relaxed);
        match loaded {
            Ok(()) => {
                tracing::warn!("Append Only File loaded by DEBUG LOADAOF");
                ticket.answer(|out| out.ok());
            }
            Err(error) => {
                tracing::warn!("Error trying to load the AOF files: {error}");
                ticket.answer(|out| {
                    out.error("ERR Error trying to load the AOF files, check server logs");
                });
            }
        }
    }

    async fn reload_snapshot(
        &mut self,
        ticket: Ticket<E::Socket>,
        is_saved: bool,
        is_flushed: bool,
        rule: LoadRule,
    ) {
        if let Some(job) = self.saving.take() {
            job.abort().await;
            self.shared.persist.status().is_saving = false;
        }
        let shared = self.shared.clone();
        let turn = shared.persist.snapshots.lock().await;
        let closed = shared.close_gate();
        let saved = match is_saved {
            true => save_rdb_exclusive(&shared, &closed, &turn).map(Some),
            false => Ok(None),
        };
        let done = match saved {
            Ok(done) => done,
            Err(error) => {
                drop(closed);
                return ticket.answer(|out| out.error(&format!("ERR {error}")));
            }
        };
        if is_flushed {
            clear(&shared);
        }
        let loaded = load_rdb(&shared, rule);
        drop((closed, turn));
        if let Some(done) = done {
            let mut status = shared.persist.status();
            (status.dirty_at_save, status.last_save_s) = (done.start.dirty, shared.env.now().wall.0 / 1000);
        }
        match loaded {
            Ok(loaded) => {
                tracing::warn!("DB reloaded by DEBUG RELOAD");
                note(&shared, &loaded.unwrap_or_default());
                ticket.answer(|out| out.ok());
            }
            Err(error) => {
                tracing::warn!("Error trying to load the RDB dump: {error}");
                ticket.answer(|out| {
                    out.error("ERR Error trying to load the RDB dump, check server logs");
                });
            }
        }
    }
}

/// Empties all databases, and forgets all function libraries. The gate is closed.
pub(super) fn clear<E: Env>(shared: &Shared<E>) {
    shared.engine.scripts.libraries.flush();
    let keyspace = &shared.engine.keyspace;
    for slot in Slot::all() {
        let mut guard = keyspace.lock_wait(slot);
        for db in 0..keyspace.databases() {
            drop(guard.db_mut(db).take_table());
        }
    }
}

/// Requests that wait until data are loaded. Commands that ask for something are refused meanwhile, but for a few.
pub(super) const EARLY_MAX: usize = 100_000;

/// Loads on another thread and looks after requests. `None`: one of them, or a signal, ends the node; there is nothing
/// to save.
async fn load_beside<E: Env>(
    shared: &Arc<Shared<E>>,
    inbox: &mut PersistInbox<E::Socket>,
    early: &mut VecDeque<PersistRequest<E::Socket>>,
) -> Result<Option<Option<Found>>, String> {
    let theirs = shared.clone();
    let mut loading = std::pin::pin!(shared.env.blocking(move || load(&theirs)));
    loop {
        tokio::select! {
            biased;
            found = &mut loading => return found.map(Some),
            Some(request) = inbox.recv(), if early.len() < EARLY_MAX => match request {
                PersistRequest::ShutDown { ticket, .. } => {
                    match ticket {
                        Some(_) => tracing::warn!("User requested shutdown..."),
                        None => tracing::warn!("Received shutdown signal during loading, exiting now."),
                    }
                    shared.state.is_shutting_down.store(true, Ordering::Relaxed);
                    // Soon: it looks at each key. What it says is of no interest any more.
                    let _ = loading.await;
                    return Ok(None);
                }
                request => early.push_back(request),
            },
        }
    }
}
