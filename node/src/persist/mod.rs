//! Persistence: snapshots, the append-only file, and ending in order. One task of the control thread; the disk's work
//! runs where it holds up nobody.

pub mod apply;
#[cfg(test)]
mod crash_tests;
mod files;
mod flush;
pub mod load;
mod log;
mod rewrite;
mod save;
mod shutdown;
pub mod snapshot;
mod task;
#[cfg(test)]
mod tests;

pub use apply::{Applied, Applier, ApplyError};
pub use flush::{Emptied, emptied};
pub use load::{Beside, LoadError, LoadRule, Loaded, RdbLoader};
pub use save::FileSink;
pub use shutdown::ShutdownState;
pub use snapshot::{SnapshotDone, SnapshotError, SnapshotRequest, SnapshotSink, SnapshotStart, snapshot};
pub use task::Persist;

use crate::shared::Ticket;
use proto::Mono;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::{Keyspace, Snapshot};
use tokio::sync::{mpsc, oneshot};

/// What commands ask of the persistence task.
pub enum PersistRequest<S> {
    Save(Ticket<S>),
    BackgroundSave {
        ticket: Ticket<S>,
        is_scheduled: bool,
    },
    RewriteLog(Ticket<S>),
    Reload {
        ticket: Ticket<S>,
        source: ReloadSource,
    },
    /// `save`: what the command says; `None`: as `save` is configured.
    ShutDown {
        ticket: Option<Ticket<S>>,
        save: Option<bool>,
        is_now: bool,
        is_forced: bool,
    },
    /// All databases were emptied, and an empty snapshot is to be written.
    Emptied(Emptied),
    /// All databases were emptied at this time, and were not saved.
    EmptiedUnsaved(Mono),
    /// Some directive was set.
    ConfigChanged,
    /// See [`PersistHandle::stop_log`].
    StopLog(oneshot::Sender<()>),
    /// See [`PersistHandle::start_log`].
    StartLog,
}

/// What INFO shows.
#[derive(Clone, Debug, Default)]
pub struct PersistStatus {
    pub is_saving: bool,
    pub last_save_s: i64,
    pub is_last_save_ok: bool,
    pub last_save_duration_s: i64,
    pub saves: u64,
    /// When the save under way began, in seconds of the monotonic clock.
    pub save_began_s: u64,
    pub rewrite_began_s: u64,
    pub is_rewrite_scheduled: bool,
    pub dirty_at_save: u64,
    pub loaded_keys: u64,
    pub loaded_expired: u64,
    pub is_rewriting: bool,
    pub is_last_rewrite_ok: bool,
    pub last_rewrite_duration_s: i64,
    pub rewrites: u64,
    /// The log runs and has a base: what it holds is complete.
    pub is_log_complete: bool,
    pub is_log_ok: bool,
    pub log_bytes: u64,
    pub log_base_bytes: u64,
}

/// How far loading is, for INFO. Sizes in bytes.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Wall clock, in seconds.
    pub began_s: AtomicI64,
    pub total: AtomicU64,
    pub loaded: AtomicU64,
}

impl LoadProgress {
    pub fn begin(&self, now_s: i64, total: u64) {
        self.began_s.store(now_s, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.loaded.store(0, Ordering::Relaxed);
    }
}

/// Where DEBUG reloads data from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReloadSource {
    /// The snapshot. `is_saved`: it is written first; `is_flushed`: the data go first; `may_replace`: keys that are there
    /// are no error.
    Snapshot { is_saved: bool, is_flushed: bool, may_replace: bool },
    /// The append-only file, which is brought up to date first.
    Log,
}

/// The way to the persistence task.
pub struct PersistHandle<S> {
    requests: mpsc::UnboundedSender<PersistRequest<S>>,
    status: Mutex<PersistStatus>,
    pub progress: LoadProgress,
    pub shutdown: ShutdownState,
    /// Held by the snapshot under way.
    snapshots: tokio::sync::Mutex<()>,
    active: Mutex<Option<Arc<Snapshot>>>,
}

/// What the task receives.
pub type PersistInbox<S> = mpsc::UnboundedReceiver<PersistRequest<S>>;

impl<S> PersistHandle<S> {
    pub fn new() -> (PersistHandle<S>, PersistInbox<S>) {
        let (requests, inbox) = mpsc::unbounded_channel();
        let status = PersistStatus {
            is_last_save_ok: true,
            is_last_rewrite_ok: true,
            is_log_ok: true,
            last_save_duration_s: -1,
            last_rewrite_duration_s: -1,
            ..PersistStatus::default()
        };
        (
            PersistHandle {
                requests,
                status: Mutex::new(status),
                progress: LoadProgress::default(),
                shutdown: ShutdownState::default(),
                snapshots: Default::default(),
                active: Mutex::default(),
            },
            inbox,
        )
    }
    /// A request after the task's end gets no answer: the node is going down.
    pub fn request(&self, request: PersistRequest<S>) {
        let _ = self.requests.send(request);
    }
    /// Ends the append-only log, whatever the configuration says, before the data are replaced by a primary's. What it
    /// holds is durable then, and stands until the next log is complete.
    pub async fn stop_log(&self) {
        let (done, answer) = oneshot::channel();
        self.request(PersistRequest::StopLog(done));
        // An error: the node is going down.
        let _ = answer.await;
    }
    /// Takes [`PersistHandle::stop_log`] back: if the log is configured, it begins anew with a base of the data as
    /// they are now.
    pub fn start_log(&self) {
        self.request(PersistRequest::StartLog);
    }
    /// Gives the snapshot under way up: it answers with an error.
    pub fn end_snapshot(&self, keyspace: &Keyspace) {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(active) = active {
            keyspace.end_snapshot(&active);
        }
    }
    fn set_active(&self, snapshot: Option<Arc<Snapshot>>) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
    pub fn status(&self) -> MutexGuard<'_, PersistStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
