//! Persistence: snapshots, the append-only file, and ending in order. One task of the control thread; the disk's work
//! runs where it holds up nobody.

pub mod apply;
pub mod snapshot;
#[cfg(test)]
mod tests;

pub use apply::{Applied, Applier, ApplyError};
pub use snapshot::{SnapshotDone, SnapshotError, SnapshotRequest, SnapshotSink, SnapshotStart, snapshot};

use crate::env::Env;
use crate::shared::{Shared, Ticket};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

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
        is_saved: bool,
        is_flushed: bool,
    },
    /// `save`: what the command says; `None`: as `save` is configured.
    ShutDown {
        ticket: Option<Ticket<S>>,
        save: Option<bool>,
        is_now: bool,
        is_forced: bool,
    },
    /// Some directive was set.
    ConfigChanged,
}

/// What INFO shows.
#[derive(Clone, Debug, Default)]
pub struct PersistStatus {
    pub is_saving: bool,
    pub last_save_s: i64,
    pub is_last_save_ok: bool,
    pub last_save_duration_s: i64,
    pub saves: u64,
    pub dirty_at_save: u64,
    pub loaded_keys: u64,
    pub loaded_expired: u64,
    pub is_rewriting: bool,
    pub is_last_rewrite_ok: bool,
    pub last_rewrite_duration_s: i64,
    pub rewrites: u64,
    pub is_log_ok: bool,
    pub log_bytes: u64,
    pub log_base_bytes: u64,
}

/// The way to the persistence task.
pub struct PersistHandle<S> {
    requests: mpsc::UnboundedSender<PersistRequest<S>>,
    garbage: mpsc::UnboundedSender<Vec<Box<dyn Any + Send>>>,
    status: Mutex<PersistStatus>,
    /// Held by the snapshot under way.
    snapshots: tokio::sync::Mutex<()>,
}

/// What the task receives.
pub struct PersistInbox<S> {
    pub requests: mpsc::UnboundedReceiver<PersistRequest<S>>,
    pub garbage: mpsc::UnboundedReceiver<Vec<Box<dyn Any + Send>>>,
}

impl<S> PersistHandle<S> {
    pub fn new() -> (PersistHandle<S>, PersistInbox<S>) {
        let (requests, requests_in) = mpsc::unbounded_channel();
        let (garbage, garbage_in) = mpsc::unbounded_channel();
        let status = PersistStatus {
            is_last_save_ok: true,
            is_last_rewrite_ok: true,
            is_log_ok: true,
            last_save_duration_s: -1,
            last_rewrite_duration_s: -1,
            ..PersistStatus::default()
        };
        (
            PersistHandle { requests, garbage, status: Mutex::new(status), snapshots: Default::default() },
            PersistInbox { requests: requests_in, garbage: garbage_in },
        )
    }
    /// A request after the task's end gets no answer: the node is going down.
    pub fn request(&self, request: PersistRequest<S>) {
        let _ = self.requests.send(request);
    }
    /// Frees values elsewhere; here if the task has ended.
    pub fn dispose(&self, garbage: Vec<Box<dyn Any + Send>>) {
        let _ = self.garbage.send(garbage);
    }
    pub fn status(&self) -> MutexGuard<'_, PersistStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads what an earlier life kept.
pub async fn load<E: Env>(shared: &Arc<Shared<E>>) -> Result<(), String> {
    let _ = shared;
    Ok(())
}

/// The task. Ends when the node is told to shut down.
pub async fn run<E: Env>(shared: Arc<Shared<E>>, mut inbox: PersistInbox<E::Socket>) {
    loop {
        tokio::select! {
            biased;
            request = inbox.requests.recv() => match request {
                None => return,
                Some(PersistRequest::ShutDown { .. }) => return shared.env.exit(0),
                Some(_) => {}
            },
            garbage = inbox.garbage.recv() => shared.env.blocking(move || drop(garbage)).await,
        }
    }
}
