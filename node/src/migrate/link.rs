//! One attempt of a move, as bytes: BEGIN, the snapshot, the writes behind it; and the target's replies.

use crate::env::Env;
use crate::persist::snapshot::{SnapshotRequest, SnapshotSink, SnapshotStart, snapshot};
use crate::shared::Shared;
use bytes::Bytes;
use gossip::topology::Move;
use migration::Tag;
use proto::Slot;
use proto::resp::{Limits, Request as RespRequest, Span, Value, decode, encode_command, parse_request};
use replication::feed::{Feed, Keep, Mark, Reader, Wake};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::rdb::{Decoder, Event as RdbEvent, Format, LoadOptions, dump};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;

/// Longest silence of the target while something is unacknowledged.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes sent at a time, about.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the sending task and its owner share.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) is_copied: Cell<bool>,
    pub(super) failure: RefCell<Option<String>>,
    /// Commands sent, and replies to them.
    pub(super) sent: Cell<u64>,
    pub(super) acked: Cell<u64>,
    /// Commands before BEGIN, which are no items.
    pub(super) preamble: Cell<u64>,
    /// The feed is sent up to here.
    pub(super) position: Cell<u64>,
    pub(super) keys: Cell<u64>,
    pub(super) changed: Notify,
}

impl Progress {
    /// Items that have numbers; BEGIN is item 0.
    pub(super) fn items(&self) -> u64 {
        self.sent.get().saturating_sub(self.preamble.get())
    }
    /// Items acknowledged. The target's replies wait for its in-sync set, so that these are safe (S4).
    pub(super) fn safe(&self) -> u64 {
        self.acked.get().saturating_sub(self.preamble.get())
    }
    pub(super) fn fail(&self, reason: impl Into<String>) {
        self.failure.borrow_mut().get_or_insert(reason.into());
        self.changed.notify_one();
    }
}

/// One attempt: BEGIN, snapshot, feed.
pub(super) struct Sender<E: Env> {
    pub(super) shared: Arc<Shared<E>>,
    pub(super) mv: Move,
    pub(super) tag: Tag,
    pub(super) progress: Rc<Progress>,
}

struct FeedWake(Arc<Notify>);
impl Wake for FeedWake {
    fn wake(&self) {
        self.0.notify_one();
    }
}

impl<E: Env> Sender<E> {
    pub(super) async fn run(self) -> Result<(), String> {
        let (host, port) = self.target().ok_or("the target's address is not known")?;
        let is_tls = self.shared.settings().is_replication_tls;
        let connect = crate::tls::connect(&self.shared, "", &host, port, is_tls);
        let stream = match tokio::time::timeout(SILENCE, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("connecting to {host}:{port}: {error}")),
            Err(_) => return Err(format!("connecting to {host}:{port}: no answer")),
        };
        let (reader, writer) = tokio::io::split(stream);
        let replies = tokio::task::spawn_local(read_replies(reader, self.progress.clone()));
        let result = self.send(writer).await;
        replies.abort();
        result
    }

    fn target(&self) -> Option<(String, u16)> {
        let topology = self.shared.topology.load_full()?;
        let shard = topology.shard(self.mv.to)?;
        let member = topology.member(shard.primary.node)?;
        let is_tls = self.shared.settings().is_replication_tls;
        Some((member.address.ip.clone(), member.address.port_for(is_tls)))
    }

    async fn send(&self, writer: WriteHalf<E::Stream>) -> Result<(), String> {
        let mut out = Out { writer, progress: self.progress.clone(), buf: Vec::new() };
        let settings = self.shared.settings.load_full();
        if !settings.masterauth.is_empty() {
            let user = if settings.masteruser.is_empty() { "default" } else { &settings.masteruser };
            out.command(&[b"AUTH", user.as_bytes(), settings.masterauth.as_bytes()]);
            self.progress.preamble.set(1);
        }
        let Tag { id, epoch_from, epoch_to, attempt } = self.tag;
        let [id, from, to, attempt] = [id, epoch_from.0, epoch_to.0, attempt.into()].map(|n| n.to_string());
        let words = ["CLUSTER", "SYNCSLOTS", "BEGIN", &id, &from, &to, &attempt];
        out.command(&words.map(str::as_bytes));
        out.flush().await?;
        self.acknowledged(&out).await?;
        self.progress.changed.notify_one();
        let notify = Arc::new(Notify::new());
        let reader = self.copy(&mut out, notify.clone()).await?;
        self.progress.position.set(reader.position().0);
        self.progress.is_copied.set(true);
        self.progress.changed.notify_one();
        self.follow(&mut out, reader, notify).await
    }

    /// Waits until everything that was sent is acknowledged.
    async fn acknowledged(&self, out: &Out<E>) -> Result<(), String> {
        let deadline = tokio::time::sleep(SILENCE * 4);
        tokio::pin!(deadline);
        loop {
            if let Some(reason) = self.progress.failure.borrow().clone() {
                return Err(reason);
            }
            if out.progress.acked.get() == out.progress.sent.get() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = &mut deadline => return Err("the target does not answer".into()),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
    }

    async fn copy(&self, out: &mut Out<E>, notify: Arc<Notify>) -> Result<Reader, String> {
        let request = SnapshotRequest { slots: Some(self.mv.slots.clone()), ..SnapshotRequest::default() };
        let mut sink = Copy {
            feed: self.shared.feed.clone(),
            wake: Some(Arc::new(FeedWake(notify))),
            reader: None,
            decoder: Decoder::new(LoadOptions { verify_checksum: false, ..LoadOptions::default() }),
            out,
        };
        snapshot(&self.shared, &request, &mut sink).await.map_err(|e| e.to_string())?;
        sink.reader.take().ok_or_else(|| "the snapshot did not begin".into())
    }

    /// Sends the units of the moving slots for as long as the attempt lasts.
    async fn follow(&self, out: &mut Out<E>, mut reader: Reader, notify: Arc<Notify>) -> Result<(), String> {
        const MARKS: usize = 1024;
        loop {
            let marks = self.shared.feed.marks(reader.position(), MARKS);
            for mark in &marks {
                self.unit(out, mark)?;
                if out.buf.len() >= CHUNK_BYTES {
                    out.flush().await?;
                }
            }
            out.flush().await?;
            if let Some(last) = marks.last() {
                reader.advance(last.end);
                self.progress.position.set(last.end.0);
                self.progress.changed.notify_one();
            }
            if marks.len() < MARKS && !reader.wait() {
                notify.notified().await;
            }
        }
    }

    fn unit(&self, out: &mut Out<E>, mark: &Mark) -> Result<(), String> {
        let mut bytes = Vec::new();
        let is_moving = |slot: Slot| self.mv.slots.iter().any(|r| r.contains(slot));
        if mark.slot.is_some_and(|slot| !is_moving(slot)) {
            return Ok(());
        }
        let len = (mark.end.0 - mark.start.0) as usize;
        self.shared.feed.read(mark.start, len, &mut bytes).map_err(|_| "the feed has lost a write")?;
        let names = command_names(&bytes);
        if mark.slot.is_none() {
            // What concerns no slot (PING, a function) or all of them.
            let is_flush = names.iter().any(|n| n.starts_with(b"flush"));
            return if is_flush { Err("the source was flushed".into()) } else { Ok(()) };
        }
        out.progress.sent.set(out.progress.sent.get() + names.len() as u64);
        out.buf.extend_from_slice(&bytes);
        Ok(())
    }
}

/// Names of the commands of a unit, in lower case.
fn command_names(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut names, mut at, mut spans, mut partial) = (Vec::new(), 0, Vec::<Span>::new(), None);
    let limits = Limits::authenticated(usize::MAX);
    while let Ok(RespRequest::Command { end }) = parse_request(bytes, at, &limits, &mut spans, &mut partial) {
        names.push(spans.first().map(|s| s.of(bytes).to_ascii_lowercase()).unwrap_or_default());
        spans.clear();
        at = end;
    }
    names
}

/// Commands on their way.
struct Out<E: Env> {
    writer: WriteHalf<E::Stream>,
    progress: Rc<Progress>,
    buf: Vec<u8>,
}

impl<E: Env> Out<E> {
    fn command(&mut self, args: &[&[u8]]) {
        encode_command(args, &mut self.buf);
        self.progress.sent.set(self.progress.sent.get() + 1);
    }
    async fn flush(&mut self) -> Result<(), String> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let write = tokio::time::timeout(SILENCE * 4, self.writer.write_all(&self.buf)).await;
        self.buf.clear();
        if let Some(reason) = self.progress.failure.borrow().clone() {
            return Err(reason);
        }
        match write {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("sending: {error}")),
            Err(_) => Err("the target does not read".into()),
        }
    }
}

/// Turns a snapshot into RESTORE commands.
struct Copy<'a, E: Env> {
    feed: Arc<Feed>,
    wake: Option<Arc<dyn Wake>>,
    reader: Option<Reader>,
    decoder: Decoder,
    out: &'a mut Out<E>,
}

impl<E: Env> SnapshotSink for Copy<'_, E> {
    fn begin(&mut self, start: &SnapshotStart) {
        let wake = self.wake.take().expect("a snapshot begins once");
        let reader = self.feed.attach(start.offset, Keep::AllWithSlots, wake);
        self.reader = Some(reader.expect("the feed's end is held"));
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.decoder.push(&bytes);
        loop {
            match self.decoder.next() {
                Ok(Some(RdbEvent::Key(record))) => {
                    let payload = dump(record.value.as_ref(), &Format::default());
                    let at = record.expire_ms.unwrap_or(0).to_string();
                    self.out.command(&[
                        b"RESTORE",
                        &record.key,
                        at.as_bytes(),
                        &payload,
                        b"REPLACE",
                        b"ABSTTL",
                    ]);
                    self.out.progress.keys.set(self.out.progress.keys.get() + 1);
                    if self.out.buf.len() >= CHUNK_BYTES {
                        self.out.flush().await.map_err(io::Error::other)?;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Err(io::Error::other(format!("own snapshot: {error:?}"))),
            }
        }
        self.out.flush().await.map_err(io::Error::other)
    }
}

/// Counts what the target acknowledges; its first error ends the attempt.
async fn read_replies<S: tokio::io::AsyncRead>(mut reader: ReadHalf<S>, progress: Rc<Progress>) {
    let (mut buf, mut at) = (Vec::new(), 0);
    let mut chunk = vec![0u8; CHUNK_BYTES];
    loop {
        loop {
            match decode(&buf[at..]) {
                Ok(Some((value, used))) => {
                    at += used;
                    if let Some(error) = first_error(&value) {
                        return progress.fail(format!("the target answered: {error}"));
                    }
                    progress.acked.set(progress.acked.get() + 1);
                }
                Ok(None) => break,
                Err(error) => return progress.fail(format!("the target's answer: {}", error.0)),
            }
        }
        buf.drain(..at);
        at = 0;
        progress.changed.notify_one();
        match tokio::time::timeout(SILENCE, reader.read(&mut chunk)).await {
            Ok(Ok(0)) => return progress.fail("the target closed the connection"),
            Ok(Ok(n)) => buf.extend_from_slice(&chunk[..n]),
            Ok(Err(error)) => return progress.fail(format!("reading: {error}")),
            Err(_) if progress.sent.get() > progress.acked.get() => {
                return progress.fail("the target is silent");
            }
            Err(_) => {}
        }
    }
}

/// An error of a command, or of one in a transaction.
fn first_error(value: &Value) -> Option<&str> {
    match value {
        Value::Error(error) => Some(error),
        Value::Array(values) => values.iter().find_map(first_error),
        _ => None,
    }
}
