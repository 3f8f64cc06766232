//! Rewriting the log: a snapshot becomes its new base, at the offset at which a new increment begins.
//!
//! Invariant: until the new base is in the manifest, the old one and everything after it stand.

use super::files::{Found, LogFiles};
use super::log::{self, Begin, Bell, LogEnd, LogHandle, Order};
use super::save::{FileSink, save_exclusive};
use super::snapshot::{SnapshotDone, SnapshotRequest, SnapshotStart, snapshot};
use crate::env::Env;
use crate::shared::Shared;
use replication::feed::Keep;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// The log of a node, if it runs.
pub type LogPlace = Rc<RefCell<Option<Rc<LogHandle>>>>;

fn request() -> SnapshotRequest {
    SnapshotRequest { is_log_base: true, ..SnapshotRequest::default() }
}

/// Rewrites the log; without one, makes a base for later.
pub async fn rewrite<E: Env>(
    shared: &Arc<Shared<E>>,
    log: Option<Rc<LogHandle>>,
    begin: impl FnOnce(),
) -> io::Result<SnapshotDone> {
    let mut files = find(shared).await?;
    let Some(log) = log else {
        let done = write_base(shared, &files, |_| begin()).await?;
        let disk = shared.env.disk();
        shared.env.blocking(move || files.install_base(&*disk, u64::MAX)).await?;
        return Ok(done);
    };
    let (switched, answer) = tokio::sync::oneshot::channel();
    let done = write_base(shared, &files, |start| {
        let (at, stream_db) = (start.offset.0, start.stream_db);
        log.order(Order::Switch { at, stream_db, done: switched });
        begin();
    })
    .await?;
    answer.await.unwrap_or_else(|_| Err(io::Error::other("the log has ended")))?;
    log.ask(|done| Order::InstallBase { done }).await?;
    Ok(done)
}

/// Begins a log on a node that serves: the increment at once, the base when it is written.
pub async fn begin<E: Env>(
    shared: &Arc<Shared<E>>,
    place: &LogPlace,
    ended: impl FnOnce(LogEnd) + 'static,
) -> io::Result<SnapshotDone> {
    let files = find(shared).await?;
    let done = write_base(shared, &files, |start| {
        let bell = Arc::new(Bell::default());
        let reader = shared.feed.attach_at_end(Keep::All, bell.clone());
        assert_eq!(reader.position(), start.offset, "the gate is closed");
        let fresh = Begin::Fresh { stream_db: start.stream_db };
        let handle = log::start(shared, files.clone(), reader, bell, fresh, ended);
        *place.borrow_mut() = Some(Rc::new(handle));
    })
    .await;
    let Some(log) = place.borrow().clone() else { return done };
    let result = match done {
        Ok(done) => log.ask(|done| Order::InstallBase { done }).await.map(|()| done),
        Err(error) => Err(error),
    };
    if result.is_err() {
        *place.borrow_mut() = None;
    }
    result
}

/// Goes on with the log that was loaded at start, or makes the first base. Nothing is served yet.
pub async fn resume<E: Env>(
    shared: &Arc<Shared<E>>,
    found: Found,
    ended: impl FnOnce(LogEnd) + 'static,
) -> io::Result<LogHandle> {
    let disk = shared.env.disk();
    let mut files = match found {
        Found::Set(files) => files,
        Found::Nothing(mut files) => {
            tracing::info!("Creating AOF base file on server start");
            files.create_dir(&*disk)?;
            let turn = shared.persist.snapshots.lock().await;
            let closed = shared.engine.keyspace.gate().close();
            let temporary = files.temporary_base();
            save_exclusive(shared, &request(), &temporary, &temporary, &closed, &turn)?;
            drop(closed);
            files.install_base(&*disk, u64::MAX)?;
            files
        }
    };
    if let Err(error) = files.drop_history(&*disk) {
        tracing::warn!("Error deleting replaced append only files: {error}");
    }
    let file = files.open_increment(&*disk)?;
    let bell = Arc::new(Bell::default());
    let reader = shared.feed.attach_at_end(Keep::All, bell.clone());
    Ok(log::start(shared, files, reader, bell, Begin::Continue(file), ended))
}

async fn find<E: Env>(shared: &Arc<Shared<E>>) -> io::Result<LogFiles> {
    let (disk, settings) = (shared.env.disk(), shared.settings.load_full());
    let work = move || -> io::Result<LogFiles> {
        let found = LogFiles::find(&*disk, &settings).map_err(|e| io::Error::other(e.to_string()))?;
        let files = match found {
            Found::Set(files) | Found::Nothing(files) => files,
        };
        files.create_dir(&*disk)?;
        Ok(files)
    };
    shared.env.blocking(work).await
}

/// Writes a snapshot to where a base stands before it is one. `begin` is called at its instant.
async fn write_base<E: Env>(
    shared: &Arc<Shared<E>>,
    files: &LogFiles,
    begin: impl FnOnce(&SnapshotStart),
) -> io::Result<SnapshotDone> {
    let mut sink = FileSink::new(&shared.env, &files.temporary_base(), begin);
    let result = match snapshot(shared, &request(), &mut sink).await {
        Ok(done) => sink.finish().await.map(|()| done),
        Err(error) => Err(error.0),
    };
    if result.is_err() {
        let (disk, path) = (shared.env.disk(), files.temporary_base());
        // It may not be there; either way nobody reads it.
        let _ = shared.env.blocking(move || disk.remove(&path)).await;
    }
    result
}
