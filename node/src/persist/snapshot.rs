//! Snapshots for whoever wants one: a file, a replica, a new base of the append-only file.
//!
//! The instant is taken with the gate closed, so that it has one exact offset in the feed: whoever reads the feed from
//! there misses nothing and sees nothing twice. Then the slots are walked on the control thread, in steps of about a
//! millisecond, and the bytes of an RDB file go to a sink.
//!
//! Invariant: one snapshot at a time; others wait for their turn.
//! Invariant: at most [`QUEUE_BYTES_MAX`] and what writers add within a millisecond wait for the sink: above that
//! bound, writes wait before they take locks.

use crate::env::Env;
use crate::shared::{Shared, throttle};
use bytes::Bytes;
use engine::script::library::LibrarySet;
use engine::settings::EvictionPolicy;
use proto::{Offset, SlotRange};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fmt, io};
use storage::rdb::{Access, Format, RdbWriter};
use storage::{GateClosed, Snapshot, SnapshotOptions};

/// Bytes that may wait for a sink before writes wait. Choice: what a disk takes in a tenth of a second.
const QUEUE_BYTES_MAX: u64 = 32 << 20;
/// Bytes handed to a sink at a time, about.
const CHUNK_BYTES: usize = 256 << 10;
/// Time for one step of the walk, and the most of it: most slots have a few keys, and where others on the control thread
/// have much to do, each step waits for its turn.
const STEP: Duration = Duration::from_millis(1);
const WALKS_MAX: usize = 64;
/// How often the queue is looked at while the sink is busy.
const LOOK: Duration = Duration::from_millis(1);

/// What a snapshot shall hold.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRequest {
    /// Only these slots; `None`: all.
    pub slots: Option<Vec<SlotRange>>,
    /// A base of the append-only file, which says so in the file's head.
    pub is_log_base: bool,
    /// RDB version; `None`: `rdb-version`.
    pub version: Option<u16>,
}

/// The instant of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotStart {
    /// The feed's end at the instant. What comes after it begins with SELECT, unless a primary's stream is relayed:
    /// then database `stream_db` is selected there.
    pub offset: Offset,
    pub stream_db: Option<u16>,
    /// Changes counted up to the instant ([`Shared::dirty`]).
    pub dirty: u64,
}

/// A snapshot that was handed over whole.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotDone {
    pub start: SnapshotStart,
    pub keys: u64,
    /// Length of the RDB file.
    pub bytes: u64,
}

/// Why a snapshot ended early: its sink failed. Nothing remains of it.
#[derive(Debug)]
pub struct SnapshotError(pub io::Error);

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Takes the bytes of a snapshot.
pub trait SnapshotSink {
    /// The instant has come. The gate is closed: a reader attached to the feed here, at `start.offset`, gets exactly
    /// what comes after the snapshot. Must not enter the gate nor take slot locks.
    fn begin(&mut self, start: &SnapshotStart);
    /// The next bytes of the RDB file. The snapshot waits for it; an error ends the snapshot.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>>;
}

/// Closes the gate. A script may stay inside for long: meanwhile the control thread does its other work, such as ending
/// the script or the node.
async fn closed_gate<E: Env>(shared: &Shared<E>) -> GateClosed<'_> {
    loop {
        if let Some(closed) = shared.engine.keyspace.gate().try_close() {
            return closed;
        }
        tokio::time::sleep(GATE_PAUSE).await;
    }
}

/// Between two attempts to close the gate.
const GATE_PAUSE: Duration = Duration::from_millis(1);

/// Makes a snapshot of now, as soon as no other is under way, and hands it to `sink` to its end mark. Call it on the
/// control thread. Dropping the future ends the snapshot.
pub async fn snapshot<E: Env>(
    shared: &Arc<Shared<E>>,
    request: &SnapshotRequest,
    sink: &mut impl SnapshotSink,
) -> Result<SnapshotDone, SnapshotError> {
    let _turn = shared.persist.snapshots.lock().await;
    let (active, start) = {
        let closed = closed_gate(shared).await;
        let (active, start) = begin(shared, request, &closed);
        sink.begin(&start);
        (active, start)
    };
    let mut file = File::new(shared, *active.snapshot.format(), &active.libraries, request, &start);
    loop {
        let keys = file.keys;
        let is_last = file.fill(&active);
        if let Some(delay) = save_delay(shared, file.keys - keys) {
            let slept = async {
                tokio::time::sleep(delay).await;
                Ok(())
            };
            active.watch(slept).await.map_err(SnapshotError)?;
        }
        if file.out.len() >= CHUNK_BYTES || is_last {
            let chunk = Bytes::from(std::mem::take(&mut file.out));
            file.bytes += chunk.len() as u64;
            active.watch(sink.write(chunk)).await.map_err(SnapshotError)?;
        }
        if is_last {
            return Ok(SnapshotDone { start, keys: file.keys, bytes: file.bytes });
        }
        active.look();
        if active.snapshot.is_ended() {
            return Err(SnapshotError(ended()));
        }
        tokio::task::yield_now().await;
    }
}

/// `rdb-key-save-delay`, for so many keys.
fn save_delay<E: Env>(shared: &Shared<E>, keys: u64) -> Option<Duration> {
    let each_us = shared.settings().save_delay_us;
    (each_us > 0 && keys > 0).then(|| Duration::from_micros(each_us.saturating_mul(keys)))
}

/// The turn to make a snapshot.
pub type SnapshotTurn<'a> = tokio::sync::MutexGuard<'a, ()>;

/// Makes a snapshot while the gate stays closed, for those who stop everything anyway.
pub fn snapshot_exclusive<E: Env>(
    shared: &Arc<Shared<E>>,
    request: &SnapshotRequest,
    closed: &GateClosed<'_>,
    _turn: &SnapshotTurn<'_>,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<SnapshotDone, SnapshotError> {
    let (active, start) = begin(shared, request, closed);
    let mut file = File::new(shared, *active.snapshot.format(), &active.libraries, request, &start);
    loop {
        let is_last = file.fill(&active);
        file.bytes += file.out.len() as u64;
        write(&file.out).map_err(SnapshotError)?;
        file.out.clear();
        if is_last {
            return Ok(SnapshotDone { start, keys: file.keys, bytes: file.bytes });
        }
    }
}

fn begin<E: Env>(
    shared: &Arc<Shared<E>>,
    request: &SnapshotRequest,
    closed: &GateClosed<'_>,
) -> (Active<E>, SnapshotStart) {
    let settings = shared.settings();
    let format = format(shared, request);
    let access = access_of(settings.engine.maxmemory_policy, shared.env.now().wall.0);
    let options = SnapshotOptions { format, slots: request.slots.clone(), access };
    let snapshot = shared
        .engine
        .keyspace
        .begin_snapshot(options, closed)
        .expect("the turn is ours: nobody else begins snapshots");
    shared.persist.set_active(Some(snapshot.clone()));
    let start = instant(shared);
    let libraries = shared.engine.scripts.libraries.set();
    (Active { shared: shared.clone(), snapshot, libraries }, start)
}

fn format<E: Env>(shared: &Shared<E>, request: &SnapshotRequest) -> Format {
    let settings = shared.settings();
    Format {
        version: request.version.unwrap_or(settings.rdb_version as u16),
        compress: settings.is_rdb_compressed,
        checksum: settings.is_rdb_checked,
    }
}

/// Now, with the gate closed.
fn instant<E: Env>(shared: &Shared<E>) -> SnapshotStart {
    shared.feed.select_again();
    let is_replica = shared.state.is_replica.load(Ordering::Relaxed);
    SnapshotStart {
        offset: shared.feed.end(),
        stream_db: is_replica.then(|| shared.state.stream_db.load(Ordering::Relaxed) as u16),
        dirty: shared.dirty(),
    }
}

/// The RDB file of a node without keys, whatever other snapshot is under way.
pub fn snapshot_empty<E: Env>(shared: &Shared<E>, _closed: &GateClosed<'_>) -> (Vec<u8>, SnapshotStart) {
    assert!(shared.engine.keyspace.is_empty(), "there are no keys to walk");
    let (start, request) = (instant(shared), SnapshotRequest::default());
    let libraries = shared.engine.scripts.libraries.set();
    let mut file = File::new(shared, format(shared, &request), &libraries, &request, &start);
    file.writer.take().expect("just made").finish(&mut file.out);
    (file.out, start)
}

/// What an entry's clock means, as the file says it.
fn access_of(policy: EvictionPolicy, now_ms: i64) -> Arc<dyn Fn(u32) -> Access + Send + Sync> {
    match policy {
        EvictionPolicy::AllKeysLru | EvictionPolicy::VolatileLru => {
            Arc::new(move |clock| Access::IdleSeconds(engine::evict::idle_s(clock, now_ms) as u64))
        }
        policy if policy.is_lfu() => {
            Arc::new(move |clock| Access::Frequency(engine::evict::lfu_decayed(clock, now_ms) as u8))
        }
        _ => Arc::new(|_| Access::None),
    }
}

/// A snapshot under way. Whatever becomes of it, it ends.
struct Active<E: Env> {
    shared: Arc<Shared<E>>,
    snapshot: Arc<Snapshot>,
    /// As they were at the instant.
    libraries: Arc<LibrarySet>,
}

impl<E: Env> Active<E> {
    /// Lets writes wait, or go on.
    fn look(&self) {
        let is_behind = self.snapshot.queued_bytes() > QUEUE_BYTES_MAX;
        self.shared.state.set_throttle(throttle::SNAPSHOT, is_behind);
    }

    /// Waits for `work`, looking after the queue meanwhile.
    async fn watch<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                () = tokio::time::sleep(LOOK) => self.look(),
            }
            if self.snapshot.is_ended() {
                return Err(ended());
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the snapshot was given up")
}

impl<E: Env> Drop for Active<E> {
    fn drop(&mut self) {
        self.shared.engine.keyspace.end_snapshot(&self.snapshot);
        self.shared.persist.set_active(None);
        self.shared.state.set_throttle(throttle::SNAPSHOT, false);
    }
}

/// The RDB file as far as it is made.
struct File {
    writer: Option<RdbWriter>,
    out: Vec<u8>,
    keys: u64,
    bytes: u64,
}

impl File {
    fn new<E: Env>(
        shared: &Shared<E>,
        format: Format,
        libraries: &LibrarySet,
        request: &SnapshotRequest,
        start: &SnapshotStart,
    ) -> File {
        let mut writer = RdbWriter::new(format);
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let text = |n: u64| n.to_string().into_bytes();
        let replid = shared.replication.replid().to_string();
        let mut aux: Vec<(&[u8], Vec<u8>)> = vec![
            (b"redis-ver", crate::commands::info::REDIS_VERSION.into()),
            (b"redis-bits", text(usize::BITS as u64)),
            (b"ctime", text((shared.env.now().wall.0 / 1000).max(0) as u64)),
            (b"used-mem", text(shared.engine.keyspace.used_bytes())),
        ];
        if let Some(db) = start.stream_db {
            aux.push((b"repl-stream-db", text(db as u64)));
        }
        // Redis 7.0: without a backlog nobody follows this history, nor will go on from it.
        if request.is_log_base || shared.feed.is_backlog_on() {
            aux.push((b"repl-id", replid.into_bytes()));
            aux.push((b"repl-offset", text(start.offset.0)));
        }
        aux.push((b"aof-base", text(request.is_log_base as u64)));
        let aux: Vec<(&[u8], &[u8])> = aux.iter().map(|(n, v)| (*n, v.as_slice())).collect();
        writer.header(&aux, &mut out);
        // A part of the slots goes to a node that has libraries of its own.
        for library in libraries.libraries.values().filter(|_| request.slots.is_none()) {
            writer.function(&library.text, &mut out);
        }
        File { writer: Some(writer), out, keys: 0, bytes: 0 }
    }

    /// Adds what is there, and walks a step when nothing is. Returns whether the file is complete.
    fn fill<E: Env>(&mut self, active: &Active<E>) -> bool {
        let writer = self.writer.as_mut().expect("a complete file is not filled again");
        let snapshot = &active.snapshot;
        let is_walked = snapshot.is_walked();
        let begun = active.shared.env.now().mono;
        let mut walks = 0;
        while self.out.len() < CHUNK_BYTES {
            match snapshot.next_block() {
                Some(block) => {
                    self.keys += block.keys as u64;
                    writer.records(block.db, &block.records, &mut self.out);
                }
                None if is_walked => {
                    self.writer.take().expect("just used").finish(&mut self.out);
                    return true;
                }
                None => {
                    snapshot.walk_next(&active.shared.engine.keyspace);
                    walks += 1;
                    if walks == WALKS_MAX || active.shared.env.now().mono.since(begun) >= STEP {
                        break;
                    }
                }
            }
        }
        false
    }
}
