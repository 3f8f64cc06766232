//! Snapshots for full syncs. The control thread makes them; replicas that ask at about the same time share one, each
//! sending it from its own worker.
//!
//! Invariant: a replica's reader of the feed stands exactly where its snapshot was taken, since both are made with the
//! gate closed; what it reads later is what the snapshot lacks.
//! A slow replica slows its snapshot down, but not the writers: once they would have to wait, bytes are buffered for
//! it up to the replicas' output limit, and above that it is dropped.

use super::Waker;
use crate::env::Env;
use crate::persist::{SnapshotRequest, SnapshotSink, SnapshotStart, snapshot};
use crate::shared::{Shared, throttle};
use bytes::Bytes;
use proto::ReplId;
use replication::feed::{Keep, Reader};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Unsent bytes at which the snapshot waits for a replica. Choice: some times what a socket takes.
const BUFFER_BYTES: u64 = 4 << 20;
/// How often it is looked whether a replica took some.
const LOOK: Duration = Duration::from_millis(2);

/// A replica that waits for a snapshot.
pub struct Job {
    wake: Arc<Waker>,
    pieces: mpsc::UnboundedSender<Piece>,
    unsent: Arc<AtomicU64>,
}

/// Where the control thread finds replicas that wait.
pub type Inbox = mpsc::UnboundedReceiver<Job>;

/// What comes of a snapshot, in this order.
pub enum Piece {
    /// The reader stands at the snapshot's offset.
    Begin {
        reader: Reader,
        replid: ReplId,
    },
    Bytes(Bytes),
    End,
}

/// The replica's end. Dropping it says that the replica is gone.
pub struct Payload {
    pieces: mpsc::UnboundedReceiver<Piece>,
    unsent: Arc<AtomicU64>,
}

impl Job {
    /// `unsent` counts the bytes that wait to be sent.
    pub fn new(wake: Arc<Waker>, unsent: Arc<AtomicU64>) -> (Job, Payload) {
        let (sender, pieces) = mpsc::unbounded_channel();
        (Job { wake, pieces: sender, unsent: unsent.clone() }, Payload { pieces, unsent })
    }
    fn is_gone(&self) -> bool {
        self.pieces.is_closed()
    }
}

impl Payload {
    /// The next piece; `None` without [`Piece::End`] before: the snapshot failed.
    pub async fn next(&mut self) -> Option<Piece> {
        self.pieces.recv().await
    }
    /// Says that bytes were sent.
    pub fn sent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// Makes snapshots for replicas, one after the other.
pub(super) async fn run<E: Env>(shared: &Arc<Shared<E>>) {
    let inbox = shared.replication.syncs_inbox.lock().ok().and_then(|mut inbox| inbox.take());
    let mut inbox = inbox.expect("the task runs once");
    while let Some(first) = inbox.recv().await {
        let mut sink = Sink { shared, inbox: &mut inbox, jobs: vec![first] };
        match snapshot(shared, &SnapshotRequest::default(), &mut sink).await {
            Ok(done) => {
                tracing::info!("Snapshot for replicas: {} keys, {} bytes", done.keys, done.bytes);
                sink.jobs.iter().for_each(|job| drop(job.pieces.send(Piece::End)));
            }
            // Its jobs are dropped, which the links of its replicas notice.
            Err(error) => tracing::warn!("Snapshot for replicas: {error}"),
        }
    }
}

struct Sink<'a, E: Env> {
    shared: &'a Arc<Shared<E>>,
    inbox: &'a mut Inbox,
    jobs: Vec<Job>,
}

impl<E: Env> SnapshotSink for Sink<'_, E> {
    fn begin(&mut self, start: &SnapshotStart) {
        // Whoever asked while another snapshot was under way joins in.
        while let Ok(job) = self.inbox.try_recv() {
            self.jobs.push(job);
        }
        let replid = self.shared.replication.replid();
        self.jobs.retain(|job| {
            let reader = self.shared.feed.attach(start.offset, Keep::All, job.wake.clone());
            let reader = reader.expect("the feed's end is held while the gate is closed");
            job.pieces.send(Piece::Begin { reader, replid }).is_ok()
        });
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        for job in &self.jobs {
            self.wait_for(job).await;
        }
        self.jobs.retain(|job| {
            job.unsent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            job.pieces.send(Piece::Bytes(bytes.clone())).is_ok()
        });
        match self.jobs.is_empty() {
            true => Err(io::Error::other("no replica is left that wants it")),
            false => Ok(()),
        }
    }
}

impl<E: Env> Sink<'_, E> {
    /// Waits until the replica took enough, is gone, or writers would have to wait for it.
    async fn wait_for(&self, job: &Job) {
        let state = &self.shared.state;
        loop {
            let unsent = job.unsent.load(Ordering::Relaxed);
            let is_urgent = state.throttle.load(Ordering::Relaxed) & throttle::SNAPSHOT != 0;
            // The link counts what waits for it and ends when that is above the limit.
            if job.is_gone() || unsent < BUFFER_BYTES || is_urgent {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
