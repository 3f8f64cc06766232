//! Snapshots into files.
//!
//! Invariant: a snapshot gets its name only when all of it is durable; until then the old one stands.

use super::snapshot::{
    SnapshotDone, SnapshotRequest, SnapshotSink, SnapshotStart, SnapshotTurn, snapshot, snapshot_exclusive,
};
use crate::env::Env;
use crate::shared::Shared;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use storage::GateClosed;
use storage::disk::{Disk, DiskFile, parent};

/// Bytes after which a growing file is synced, so that the last sync is short. Choice: a tenth of a second of a disk.
const SYNC_BYTES: usize = 32 << 20;
/// Where `dbfilename` is written before it is complete.
const TEMPORARY: &str = "temp-snapshot.rdb";

/// A file that takes a snapshot.
pub struct FileSink<'a, E: Env> {
    env: E,
    path: String,
    file: Option<Box<dyn DiskFile>>,
    unsynced: usize,
    begin: Option<Box<dyn FnOnce(&SnapshotStart) + 'a>>,
}

impl<'a, E: Env> FileSink<'a, E> {
    /// `begin` is called at the instant of the snapshot, with the gate closed.
    pub fn new(env: &E, path: &str, begin: impl FnOnce(&SnapshotStart) + 'a) -> FileSink<'a, E> {
        FileSink {
            env: env.clone(),
            path: path.to_string(),
            file: None,
            unsynced: 0,
            begin: Some(Box::new(begin)),
        }
    }

    /// Makes the file's content durable.
    pub async fn finish(self) -> io::Result<()> {
        let Some(mut file) = self.file else { return Ok(()) };
        self.env.blocking(move || file.sync()).await
    }
}

impl<E: Env> SnapshotSink for FileSink<'_, E> {
    fn begin(&mut self, start: &SnapshotStart) {
        if let Some(begin) = self.begin.take() {
            begin(start);
        }
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let (disk, path, file) = (self.env.disk(), self.path.clone(), self.file.take());
        self.unsynced += bytes.len();
        let is_due = self.unsynced >= SYNC_BYTES;
        if is_due {
            self.unsynced = 0;
        }
        let work = move || -> io::Result<Box<dyn DiskFile>> {
            let mut file = match file {
                Some(file) => file,
                None => disk.create(&path)?,
            };
            file.write(&bytes)?;
            if is_due {
                file.sync()?;
            }
            Ok(file)
        };
        self.file = Some(self.env.blocking(work).await?);
        Ok(())
    }
}

/// Writes a snapshot of now to `path`, by way of a temporary file.
/// `begin` is called at its instant.
pub async fn save<E: Env>(
    shared: &Arc<Shared<E>>,
    path: &str,
    begin: impl FnOnce(&SnapshotStart),
) -> io::Result<SnapshotDone> {
    let mut sink = FileSink::new(&shared.env, TEMPORARY, begin);
    let result = async {
        let done = snapshot(shared, &SnapshotRequest::default(), &mut sink).await.map_err(|e| e.0)?;
        sink.finish().await?;
        Ok(done)
    }
    .await;
    let (disk, path) = (shared.env.disk(), path.to_string());
    let finish = move || match result {
        Ok(done) => install(&*disk, TEMPORARY, &path).map(|()| done),
        Err(error) => {
            // What remains is of no use to anybody; it may not even be there.
            let _ = disk.remove(TEMPORARY);
            Err(error)
        }
    };
    shared.env.blocking(finish).await
}

/// As [`save`], while the gate stays closed: all in one go, on this thread. `request`: what `path` will be.
pub fn save_exclusive<E: Env>(
    shared: &Arc<Shared<E>>,
    request: &SnapshotRequest,
    temporary: &str,
    path: &str,
    closed: &GateClosed<'_>,
    turn: &SnapshotTurn<'_>,
) -> io::Result<SnapshotDone> {
    let disk = shared.env.disk();
    let mut file = disk.create(temporary)?;
    let done = snapshot_exclusive(shared, request, closed, turn, &mut |bytes| file.write(bytes));
    let done = done.map_err(|e| e.0)?;
    file.sync()?;
    drop(file);
    install(&*disk, temporary, path)?;
    Ok(done)
}

/// As [`save_exclusive`], to `dbfilename`.
pub fn save_rdb_exclusive<E: Env>(
    shared: &Arc<Shared<E>>,
    closed: &GateClosed<'_>,
    turn: &SnapshotTurn<'_>,
) -> io::Result<SnapshotDone> {
    let path = shared.settings().dbfilename.clone();
    save_exclusive(shared, &SnapshotRequest::default(), TEMPORARY, &path, closed, turn)
}

/// Puts a snapshot that was made already in the place of the old one.
pub fn save_made<E: Env>(shared: &Shared<E>, bytes: &[u8]) -> io::Result<()> {
    let (disk, path) = (shared.env.disk(), shared.settings().dbfilename.clone());
    let written = disk.create(TEMPORARY).and_then(|mut file| {
        file.write(bytes)?;
        file.sync()
    });
    written.and_then(|()| install(&*disk, TEMPORARY, &path)).inspect_err(|_| {
        // What remains is of no use to anybody; it may not even be there.
        let _ = disk.remove(TEMPORARY);
    })
}

fn install(disk: &dyn Disk, temporary: &str, path: &str) -> io::Result<()> {
    if temporary != path {
        disk.rename(temporary, path)?;
    }
    disk.sync_dir(parent(path))
}
