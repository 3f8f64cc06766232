//! The snapshot that a full sync sends: the state at one feed offset, as RDB, a bounded piece at a time.
//!
//! Invariant: the reader of the feed stands exactly where the snapshot was taken, since both are made with the gate
//! closed; what it reads later is what the snapshot lacks.

use super::Waker;
use crate::env::Env;
use crate::shared::Shared;
use proto::ReplId;
use replication::feed::{Keep, Reader};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::rdb::{Format, RdbWriter};
use storage::{Keyspace, Snapshot, SnapshotOptions};

/// Bytes of RDB made at a time. Choice: some milliseconds of work, some system calls' worth of sending.
const PIECE_BYTES: usize = 256 * 1024;

/// See the module's head.
pub struct Payload {
    keyspace: Arc<Keyspace>,
    snapshot: Arc<Snapshot>,
    /// `None` while a piece is being made, and at the end.
    writer: Option<RdbWriter>,
    aux: Vec<(&'static str, String)>,
    is_begun: bool,
}

/// Begins a snapshot now, and a reader of what follows. `None`: another snapshot is under way.
pub fn begin<E: Env>(shared: &Shared<E>, wake: Arc<Waker>) -> Option<(Payload, Reader, ReplId)> {
    let settings = shared.settings();
    let format =
        Format { version: settings.rdb_version as u16, compress: settings.is_rdb_compressed, checksum: true };
    let keyspace = shared.engine.keyspace.clone();
    let closed = shared.engine.keyspace.gate().close();
    let options = SnapshotOptions { format, ..SnapshotOptions::default() };
    let snapshot = keyspace.begin_snapshot(options, &closed).ok()?;
    let reader = shared.feed.attach_at_end(Keep::All, wake);
    let replid = shared.replication.replid();
    // Our own stream says SELECT next; a primary's goes on in the database it has selected.
    let db = match shared.state.is_replica.load(Ordering::Relaxed) {
        true => shared.replication.stream_db.load(Ordering::Acquire),
        false => 0,
    };
    drop(closed);
    let aux = vec![
        ("redis-ver", crate::commands::info::REDIS_VERSION.to_string()),
        ("redis-bits", usize::BITS.to_string()),
        ("ctime", (shared.env.now().wall.0 / 1000).to_string()),
        ("used-mem", keyspace.used_bytes().to_string()),
        ("repl-stream-db", db.to_string()),
        ("repl-id", replid.to_string()),
        ("repl-offset", reader.position().to_string()),
        ("aof-base", "0".to_string()),
    ];
    let writer = Some(RdbWriter::new(format));
    let payload = Payload { keyspace, snapshot, writer, aux, is_begun: false };
    Some((payload, reader, replid))
}

impl Payload {
    /// Bytes that wait for being sent because somebody changed what they belong to.
    pub fn queued_bytes(&self) -> u64 {
        self.snapshot.queued_bytes()
    }

    /// The next piece; `None` after the last. Made where it holds up nobody.
    pub async fn next<E: Env>(&mut self, env: &E) -> Option<Vec<u8>> {
        let mut writer = self.writer.take()?;
        let mut out = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        if !std::mem::replace(&mut self.is_begun, true) {
            let aux: Vec<(&[u8], &[u8])> =
                self.aux.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            writer.header(&aux, &mut out);
        }
        let (keyspace, snapshot) = (self.keyspace.clone(), self.snapshot.clone());
        let (writer, out) = env.blocking(move || fill(&keyspace, &snapshot, writer, out)).await;
        self.writer = writer;
        Some(out)
    }
}

/// Fills `out`; the writer comes back unless the file is finished.
fn fill(
    keyspace: &Keyspace,
    snapshot: &Snapshot,
    mut writer: RdbWriter,
    mut out: Vec<u8>,
) -> (Option<RdbWriter>, Vec<u8>) {
    while out.len() < PIECE_BYTES {
        // In this order: what is walked after the look may have queued a block before it.
        let is_walked = snapshot.is_walked();
        match snapshot.next_block() {
            Some(block) => writer.records(block.db, &block.records, &mut out),
            None if is_walked => {
                writer.finish(&mut out);
                return (None, out);
            }
            None if snapshot.walk_next(keyspace) => {}
            None => std::thread::yield_now(),
        }
    }
    (Some(writer), out)
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.keyspace.end_snapshot(&self.snapshot);
    }
}
