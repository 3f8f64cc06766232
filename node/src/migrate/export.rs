//! The source's side of one move: a task that carries out what `migration::outgoing` says.

use super::record;
use crate::env::Env;
use crate::persist::snapshot::{SnapshotRequest, SnapshotSink, SnapshotStart, snapshot};
use crate::shared::{Shared, throttle};
use bytes::Bytes;
use gossip::topology::Move;
use gossip::{Command, Outcome, Refusal, Request};
use migration::outgoing::{Effect, Epochs, Event, Outgoing};
use proto::resp::{Limits, Request as RespRequest, Span, Value, decode, encode_command, parse_request};
use proto::{Mono, NodeId, Slot};
use replication::feed::{Feed, Keep, Mark, Reader, Wake};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::Ownership;
use storage::rdb::{Decoder, Event as RdbEvent, Format, LoadOptions, dump};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Longest silence of the target while something is unacknowledged.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes sent at a time, about.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of writes that may wait for the link before writes wait themselves.
const BEHIND_MAX: u64 = 32 << 20;

/// Starts the task of a move; it ends by itself after the move did.
pub fn spawn<E: Env>(
    shared: &Arc<Shared<E>>,
    mv: &Move,
    me: NodeId,
    target: NodeId,
) -> mpsc::UnboundedSender<Event> {
    let (sender, events) = mpsc::unbounded_channel();
    shared.migrations.add(record(mv, true, me, target, shared.env.now().wall.0, "connecting"));
    let export = Export {
        shared: shared.clone(),
        mv: mv.clone(),
        core: Outgoing::default(),
        link: None,
        to_self: sender.clone(),
        stopped_at: None,
    };
    tokio::task::spawn_local(export.run(events));
    sender
}

struct Export<E: Env> {
    shared: Arc<Shared<E>>,
    mv: Move,
    core: Outgoing,
    link: Option<Link>,
    to_self: mpsc::UnboundedSender<Event>,
    stopped_at: Option<Mono>,
}

/// What the sending task and its owner share.
#[derive(Default)]
struct Progress {
    is_begun: Cell<bool>,
    is_copied: Cell<bool>,
    failure: RefCell<Option<String>>,
    sent: Cell<u64>,
    acked: Cell<u64>,
    /// The feed is sent up to here.
    position: Cell<u64>,
    keys: Cell<u64>,
    changed: Notify,
}

impl Progress {
    fn fail(&self, reason: impl Into<String>) {
        self.failure.borrow_mut().get_or_insert(reason.into());
        self.changed.notify_one();
    }
}

struct Link {
    progress: Rc<Progress>,
    task: JoinHandle<()>,
    told: (bool, bool),
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: Env> Export<E> {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        while !self.core.is_ended() {
            const LOOK: Duration = Duration::from_millis(2);
            let progress = self.link.as_ref().map(|l| l.progress.clone());
            let event = tokio::select! {
                biased;
                event = events.recv() => event,
                () = async {
                    match &progress {
                        Some(progress) => progress.changed.notified().await,
                        None => std::future::pending().await,
                    }
                } => None,
                () = tokio::time::sleep(LOOK) => None,
            };
            if let Some(event) = event {
                self.step(event);
            }
            self.observe();
            self.step(Event::Tick);
            self.describe();
        }
        self.shared.state.set_throttle(throttle::MIGRATION, false);
        let owner = self.shared.topology.load().as_ref().and_then(|t| t.owner(self.mv.slots[0].first));
        let state = if owner == Some(self.mv.to) { "success" } else { "canceled" };
        let now_ms = self.shared.env.now().wall.0;
        self.shared.migrations.update(self.mv.id, true, |m| {
            m.state = state;
            m.updated_ms = now_ms;
            m.remaining_bytes = 0;
        });
        tracing::info!("Slot migration {:016x} ended: {state}", self.mv.id);
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.step(self.shared.env.now(), event, &mut effects);
        effects.into_iter().for_each(|e| self.carry_out(e));
    }

    /// Turns what the link did into events.
    fn observe(&mut self) {
        let Some(link) = &mut self.link else { return };
        let progress = link.progress.clone();
        let (mut events, told) = (Vec::new(), link.told);
        if progress.is_begun.get() && !told.0 {
            link.told.0 = true;
            events.push(Event::Begun);
        }
        if progress.is_copied.get() && !told.1 {
            link.told.1 = true;
            events.push(Event::Copied);
        }
        if link.told.1 {
            let unsent_bytes = self.shared.feed.end().0.saturating_sub(progress.position.get());
            self.shared.state.set_throttle(throttle::MIGRATION, unsent_bytes > BEHIND_MAX);
            let unacked = progress.sent.get() - progress.acked.get();
            events.push(Event::Progress { unsent_bytes, unacked });
        }
        let failure = progress.failure.borrow().clone();
        if let Some(reason) = failure {
            tracing::warn!("Slot migration {:016x}: {reason}", self.mv.id);
            self.shared.migrations.update(self.mv.id, true, |m| m.message.clone_from(&reason));
            events = vec![Event::Failed(reason)];
        }
        events.into_iter().for_each(|e| self.step(e));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Begin(epochs) => self.begin(epochs),
            // The sending task goes on by itself after BEGIN.
            Effect::Copy => {}
            Effect::Stop => {
                self.stopped_at = Some(self.shared.env.now().mono);
                self.set_ownership(Ownership::Paused);
            }
            Effect::Serve => {
                self.set_ownership(Ownership::Serving);
                if let Some(since) = self.stopped_at.take() {
                    let paused = self.shared.env.now().mono.since(since).as_micros() as u64;
                    self.shared
                        .migrations
                        .update(self.mv.id, true, |m| m.paused_us = m.paused_us.max(paused));
                }
            }
            Effect::Commit(epochs) => {
                let request =
                    Request::MoveCommit { id: self.mv.id, epoch_from: epochs.from, epoch_to: epochs.to };
                let to_self = self.to_self.clone();
                let answer = Box::new(move |result: Result<Outcome, Refusal>| {
                    // NOQUORUM is no refusal: it may still be decided (S2).
                    if let Err(refusal) = result
                        && refusal != Refusal::NoQuorum
                    {
                        let _ = to_self.send(Event::Refused);
                    }
                });
                self.shared.control.ask(Command::Decide(request), answer);
            }
            Effect::Cancel(reason) => {
                self.shared.migrations.update(self.mv.id, true, |m| m.message = reason);
                let request = Request::MoveCancel { id: self.mv.id };
                self.shared.control.ask(Command::Decide(request), Box::new(|_| {}));
            }
            Effect::Close => self.link = None,
        }
    }

    fn begin(&mut self, epochs: Epochs) {
        let progress = Rc::new(Progress::default());
        let sender =
            Sender { shared: self.shared.clone(), mv: self.mv.clone(), epochs, progress: progress.clone() };
        let failed = progress.clone();
        let task = tokio::task::spawn_local(async move {
            if let Err(reason) = sender.run().await {
                failed.fail(reason);
            }
        });
        self.link = Some(Link { progress, task, told: (false, false) });
    }

    /// Pauses the slots, or serves them again. Once a slot's lock was held, no command is in the middle of it.
    fn set_ownership(&self, ownership: Ownership) {
        for slot in self.mv.slots.iter().flat_map(|r| r.iter()) {
            let mut guard = self.shared.engine.keyspace.lock_wait(slot);
            guard.state_mut().ownership = ownership;
        }
    }

    fn describe(&self) {
        let (state, now_ms) = (self.core.state(), self.shared.env.now().wall.0);
        let (position, keys) =
            self.link.as_ref().map_or((0, 0), |l| (l.progress.position.get(), l.progress.keys.get()));
        let end = self.shared.feed.end().0;
        self.shared.migrations.update(self.mv.id, true, |m| {
            m.state = state;
            m.updated_ms = now_ms;
            m.keys = m.keys.max(keys);
            m.remaining_bytes = if position == 0 { 0 } else { end.saturating_sub(position) };
        });
    }
}

/// One attempt: BEGIN, snapshot, feed.
struct Sender<E: Env> {
    shared: Arc<Shared<E>>,
    mv: Move,
    epochs: Epochs,
    progress: Rc<Progress>,
}

struct FeedWake(Arc<Notify>);
impl Wake for FeedWake {
    fn wake(&self) {
        self.0.notify_one();
    }
}

impl<E: Env> Sender<E> {
    async fn run(self) -> Result<(), String> {
        let (host, port) = self.target().ok_or("the target's address is not known")?;
        let connect = tokio::time::timeout(SILENCE, self.shared.env.connect(&host, port)).await;
        let stream = match connect {
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
        Some((member.address.ip.clone(), member.address.port))
    }

    async fn send(&self, writer: WriteHalf<E::Stream>) -> Result<(), String> {
        let mut out = Out { writer, progress: self.progress.clone(), buf: Vec::new() };
        let settings = self.shared.settings.load_full();
        if !settings.masterauth.is_empty() {
            let user = if settings.masteruser.is_empty() { "default" } else { &settings.masteruser };
            out.command(&[b"AUTH", user.as_bytes(), settings.masterauth.as_bytes()]);
        }
        let [id, from, to] = [self.mv.id, self.epochs.from.0, self.epochs.to.0].map(|n| n.to_string());
        out.command(&[b"CLUSTER", b"SYNCSLOTS", b"BEGIN", id.as_bytes(), from.as_bytes(), to.as_bytes()]);
        out.flush().await?;
        self.acknowledged(&out).await?;
        self.progress.is_begun.set(true);
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
