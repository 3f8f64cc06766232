//! The primary's side of a replica's link: +CONTINUE, or +FULLRESYNC with a snapshot, then the feed.
//!
//! The link lives in the task of the connection that sent PSYNC, on its worker's thread.
//! Invariant: nothing of a history reaches a replica after that history got another name: the turn is looked at after
//! the bytes were taken from the feed and before they are sent.

use super::payload::{Job, Payload, Piece};
use super::{Greeting, Replica, Stage, TemporaryFile, Waker, new_replid, wait};
use crate::connection::Connection;
use crate::env::Env;
use crate::shared::Shared;
use proto::resp::{Limits, Request, parse_request};
use proto::{Mono, Offset, ReplId};
use replication::feed::{Keep, Reader};
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;

/// What a client asked for that wants to be a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncRequest {
    /// PSYNC, not SYNC: the replica acknowledges and understands +FULLRESYNC.
    pub is_psync: bool,
    /// It names a history, known here or not: "?" stands for none.
    pub is_named: bool,
    /// The history it has, and what of it.
    pub has: Option<(ReplId, Offset)>,
}

/// Why a link ended.
enum End {
    Killed,
    Closed,
    TimedOut,
    OverLimit(u64),
    HistoryChanged,
    BytesGone,
    RdbSent,
    SnapshotFailed,
    /// It follows another tenure than the one in which we lead.
    OtherTenure,
    /// It has to be thrown away first, by decision.
    Diverged,
    Io(std::io::Error),
    Nonsense(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Killed => f.write_str("killed"),
            End::Closed => f.write_str("closed by the replica"),
            End::TimedOut => f.write_str("silent for too long"),
            End::OverLimit(bytes) => write!(f, "{bytes} bytes behind, above the limit"),
            End::HistoryChanged => f.write_str("the replication history changed"),
            End::BytesGone => f.write_str("what it needs is not held any more"),
            End::OtherTenure => f.write_str("it follows another tenure"),
            End::Diverged => f.write_str("its copy is not ours, and is given up first"),
            End::SnapshotFailed => f.write_str("the snapshot failed"),
            End::RdbSent => f.write_str("the RDB transfer is complete"),
            End::Io(error) => error.fmt(f),
            End::Nonsense(what) => write!(f, "it sent {what}"),
        }
    }
}

struct Link<'a, E: Env> {
    shared: &'a Arc<Shared<E>>,
    connection: &'a Rc<Connection<E>>,
    greeting: Greeting,
    request: SyncRequest,
    name: String,
    turn: u64,
    wake: Arc<Waker>,
    last_heard: Cell<Mono>,
    last_sent: Cell<Mono>,
    is_online: Cell<bool>,
    first_ack: Notify,
    /// Where its reader of the feed stands.
    position: Cell<Option<u64>>,
    /// Bytes of its snapshot that wait to be sent.
    unsent: Arc<AtomicU64>,
    soft_since: Cell<Option<Mono>>,
}

/// Looks at limits and silence.
const LOOK: Duration = Duration::from_millis(100);
/// A replica sends short commands only.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes taken from the feed at a time.
const SEND_BYTES: usize = 256 * 1024;

/// Serves a replica until its link ends. The connection's replies so far have been sent.
pub async fn serve<E: Env>(shared: &Arc<Shared<E>>, connection: &Rc<Connection<E>>, request: SyncRequest) {
    let now = shared.env.now().mono;
    let id = connection.id;
    let (greeting, ip, turn) = {
        let mut state = shared.replication.state();
        let greeting = state.greetings.get(&id).cloned().unwrap_or_default();
        let ip =
            greeting.ip.clone().unwrap_or_else(|| connection.client.peer.ip().to_canonical().to_string());
        let replica = Replica { greeting: greeting.clone(), ip: ip.clone(), stage: Stage::Waiting };
        if !shared.feed.is_backlog_on() {
            // Redis: without a backlog the offset stood still, so no earlier replica may go on from it.
            state.history.replace(new_replid(&shared.env));
            shared.feed.turn_backlog_on();
        }
        state.replicas.insert(id, replica);
        state.acks.add(id, now);
        (greeting, ip, shared.replication.turn())
    };
    let link = Link {
        name: format!("{ip}:{}", greeting.port),
        shared,
        connection,
        greeting,
        request,
        turn,
        wake: Arc::new(Waker(Notify::new())),
        last_heard: Cell::new(now),
        last_sent: Cell::new(now),
        is_online: Cell::new(false),
        first_ack: Notify::new(),
        position: Cell::new(None),
        unsent: Arc::default(),
        soft_since: Cell::new(None),
    };
    tracing::info!("Replica {} asks for synchronization", link.name);
    let end = tokio::select! {
        biased;
        end = link.listen() => end,
        Err(end) = link.send() => end,
    };
    match end {
        End::RdbSent => {
            tracing::info!("Close the connection with replica {} as RDB transfer is complete", link.name)
        }
        End::TimedOut => {
            tracing::warn!("Disconnecting timedout replica (streaming sync): {}", link.name)
        }
        end => tracing::warn!("Connection with replica {} lost: {end}", link.name),
    }
}

impl<E: Env> Link<'_, E> {
    fn now(&self) -> Mono {
        self.shared.env.now().mono
    }
    fn set_stage(&self, stage: Stage) {
        let mut state = self.shared.replication.state();
        if let Some(replica) = state.replicas.get_mut(&self.connection.id) {
            replica.stage = stage;
        }
        let mut finished = Vec::new();
        if stage == Stage::Online {
            finished = state.acks.set_online(self.connection.id, self.now());
            self.is_online.set(true);
        }
        super::count_good(self.shared, &state.acks, self.now());
        drop(state);
        wait::answer(self.shared, finished);
        self.shared.replication.acknowledged.notify_one();
    }

    // What the replica says.

    /// Reads acknowledgements until the link has to end.
    async fn listen(&self) -> End {
        loop {
            let look = tokio::time::sleep(LOOK);
            let read = poll_fn(|cx| match self.connection.is_closed() {
                true => Poll::Ready(Err(End::Killed)),
                false => self.connection.poll_input(cx).map_err(End::Io),
            });
            let end = tokio::select! {
                biased;
                read = read => match read {
                    Ok(0) => Some(End::Closed),
                    Ok(_) => {
                        self.last_heard.set(self.now());
                        self.hear().err()
                    }
                    Err(end) => Some(end),
                },
                () = look => self.check().err(),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn hear(&self) -> Result<(), End> {
        let mut input = self.connection.input.borrow_mut();
        let limits = Limits::authenticated(INPUT_BYTES_MAX);
        let (mut at, mut spans) = (0, Vec::new());
        loop {
            spans.clear();
            let request = parse_request(&input, at, &limits, &mut spans, &mut None)
                .map_err(|error| End::Nonsense(error.0))?;
            at = match request {
                Request::Incomplete => break,
                // An empty line says that the replica lives, while it loads for instance.
                Request::Inline { end, .. } => end,
                Request::Command { end } => {
                    let word = |i: usize| spans.get(i).map_or(&b""[..], |s: &proto::resp::Span| s.of(&input));
                    if word(0).eq_ignore_ascii_case(b"replconf") && word(1).eq_ignore_ascii_case(b"ack") {
                        self.acknowledge(word(2), word(3), word(4));
                    }
                    end
                }
            };
        }
        input.drain(..at);
        if input.len() > INPUT_BYTES_MAX {
            return Err(End::Nonsense("more than any acknowledgement takes".into()));
        }
        Ok(())
    }

    fn acknowledge(&self, offset: &[u8], word: &[u8], synced: &[u8]) {
        let number = |text: &[u8]| engine::number::parse_i64(text).and_then(|n| u64::try_from(n).ok());
        let Some(offset) = number(offset) else { return };
        // Nobody has what does not exist yet.
        let offset = Offset(offset).min(self.shared.feed.end());
        if word.eq_ignore_ascii_case(b"fack")
            && let Some(synced) = number(synced)
        {
            let synced = Offset(synced).min(offset);
            self.shared.replication.state().acks.set_synced(self.connection.id, synced);
        }
        let finished =
            self.shared.replication.state().acks.acknowledge(self.connection.id, offset, self.now());
        wait::answer(self.shared, finished);
        self.shared.replication.acknowledged.notify_one();
        if self.shared.state.is_paused.load(Ordering::Relaxed) {
            self.shared.replication.round_due.notify_one();
        }
        self.first_ack.notify_one();
        self.connection.client.last_active_ms.store(self.shared.env.now().wall.0, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), End> {
        let now = self.now();
        let settings = self.shared.settings();
        // While it loads a snapshot, taking bytes is a sign of life as well.
        let alive = match self.is_online.get() {
            true => self.last_heard.get(),
            false => self.last_heard.get().max(self.last_sent.get()),
        };
        if self.request.is_psync && now.since(alive) > Duration::from_secs(settings.repl_timeout_s) {
            return Err(End::TimedOut);
        }
        if self.shared.replication.turn() != self.turn {
            return Err(End::HistoryChanged);
        }
        let lag = self.position.get().map_or(0, |p| self.shared.feed.end().0.saturating_sub(p));
        let bytes = lag + self.unsent.load(Ordering::Relaxed);
        self.connection.client.output_bytes.store(bytes as usize, Ordering::Relaxed);
        let limit = settings.output_limits[1];
        // Redis: a limit below the backlog's size would close links that cost nothing.
        let backlog = settings.backlog_bytes as u64;
        if limit.hard_bytes > 0 && bytes > limit.hard_bytes.max(backlog) {
            return Err(End::OverLimit(bytes));
        }
        if limit.soft_bytes == 0 || bytes <= limit.soft_bytes.max(backlog) {
            self.soft_since.set(None);
            return Ok(());
        }
        let since = self.soft_since.get().unwrap_or(now);
        self.soft_since.set(Some(since));
        match now.since(since) > Duration::from_secs(limit.soft_s) {
            true => Err(End::OverLimit(bytes)),
            false => Ok(()),
        }
    }

    // What the replica gets.

    async fn send(&self) -> Result<std::convert::Infallible, End> {
        if self.greeting.tenure.is_some_and(|tenure| tenure != self.shared.replication.tenure()) {
            // D12, D15: a primary that was restarted is nothing until that is decided, least of all a source of syncs.
            self.write(b"-NOMASTERLINK Can't SYNC in another tenure than the replica's\r\n").await?;
            return Err(End::OtherTenure);
        }
        let reader = match self.try_continue() {
            Some((reader, replid)) => {
                let text = match self.greeting.can_psync2 {
                    true => format!("+CONTINUE {replid}\r\n"),
                    false => "+CONTINUE\r\n".to_string(),
                };
                self.write(text.as_bytes()).await?;
                reader
            }
            None if self.is_copy_counted() => {
                self.write(b"-DIVERGED this copy ends its generation before it is synced anew\r\n").await?;
                return Err(End::Diverged);
            }
            None => self.full_sync().await?,
        };
        self.stream(reader).await
    }

    /// A reader from where the replica is, if that is in our history and still held.
    fn try_continue(&self) -> Option<(Reader, ReplId)> {
        let mut state = self.shared.replication.state();
        let Some((replid, offset)) = self.request.has else {
            // Redis 7.0: whoever asks for "?" wants a full sync; that is no failure.
            state.info.partial_err += self.request.is_named as u64;
            return None;
        };
        let reader = match state.history.covers(replid, offset) && state.has_history {
            true => self.shared.feed.attach(offset, Keep::All, self.wake.clone()).ok(),
            false => None,
        };
        let Some(reader) = reader else {
            state.info.partial_err += 1;
            tracing::info!(
                "Partial resynchronization not accepted: replica {} asked for {replid} from {}, we are {} at {}",
                self.name,
                offset.0 + 1,
                state.history.replid(),
                self.shared.feed.end()
            );
            return None;
        };
        state.info.partial_ok += 1;
        tracing::info!(
            "Partial resynchronization request from {} accepted. Sending {} bytes of backlog starting from offset {}.",
            self.name,
            self.shared.feed.end().0 - offset.0,
            offset.0 + 1
        );
        let replid = state.history.replid();
        // Until it says more, it has what it asked to go on from.
        state.acks.acknowledge(self.connection.id, offset, self.now());
        Some((reader, replid))
    }

    /// D10: a member that has a copy and cannot go on with ours says so, and gives it up in order. The control loop is told.
    fn is_copy_counted(&self) -> bool {
        let (Some((node, generation)), Some(tenure)) = (self.greeting.node, self.greeting.tenure) else {
            return false;
        };
        if self.request.has.is_none_or(|(_, offset)| offset == Offset(0)) {
            return false;
        }
        self.shared.replication.state().diverged.insert(node, (tenure, generation));
        self.shared.replication.acknowledged.notify_one();
        true
    }

    async fn full_sync(&self) -> Result<Reader, End> {
        tracing::info!("Full resync requested by replica {}", self.name);
        let (mut payload, reader, replid) = self.begin().await?;
        self.shared.replication.state().info.full_syncs += 1;
        self.position.set(Some(reader.position().0));
        if self.request.is_psync {
            self.write(format!("+FULLRESYNC {replid} {}\r\n", reader.position()).as_bytes()).await?;
        }
        self.set_stage(Stage::Snapshot);
        match self.greeting.can_eof {
            true => self.send_with_mark(&mut payload).await?,
            false => self.send_with_length(&mut payload).await?,
        }
        drop(payload);
        if self.greeting.is_rdb_only {
            return Err(End::RdbSent);
        }
        tracing::info!("Synchronization with replica {} succeeded", self.name);
        if self.greeting.can_eof && self.request.is_psync {
            // A stock replica finds the mark only while it is the last thing that came.
            self.first_ack.notified().await;
        }
        Ok(reader)
    }

    /// Waits for the snapshot; says meanwhile that we live.
    async fn begin(&self) -> Result<(Payload, Reader, ReplId), End> {
        const NEWLINE_EVERY: Duration = Duration::from_secs(1);
        let (job, mut payload) = Job::new(self.wake.clone(), self.unsent.clone());
        // Without the control thread the node is going down.
        self.shared.replication.syncs.send(job).map_err(|_| End::Killed)?;
        loop {
            tokio::select! {
                biased;
                piece = payload.next() => return match piece {
                    Some(Piece::Begin { reader, replid }) => Ok((payload, reader, replid)),
                    _ => Err(End::SnapshotFailed),
                },
                () = tokio::time::sleep(NEWLINE_EVERY) => {
                    if self.request.is_psync {
                        self.write(b"\n").await?;
                    }
                }
            }
        }
    }

    /// The next bytes of the snapshot; `None` behind its end.
    async fn piece(&self, payload: &mut Payload) -> Result<Option<bytes::Bytes>, End> {
        match payload.next().await {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => Ok(None),
            Some(Piece::Begin { .. }) | None => Err(End::SnapshotFailed),
        }
    }

    async fn send_with_mark(&self, payload: &mut Payload) -> Result<(), End> {
        let mark = new_replid(&self.shared.env).to_string();
        self.write(format!("$EOF:{mark}\r\n").as_bytes()).await?;
        if self.greeting.is_without_data {
            let mut out = Vec::new();
            let mut writer = storage::rdb::RdbWriter::new(storage::rdb::Format::default());
            writer.header(&[], &mut out);
            writer.finish(&mut out);
            self.write(&out).await?;
            return self.write(mark.as_bytes()).await;
        }
        while let Some(piece) = self.piece(payload).await? {
            self.write(&piece).await?;
            payload.sent(piece.len());
        }
        self.write(mark.as_bytes()).await
    }

    /// For those that want the length first: through a file.
    async fn send_with_length(&self, payload: &mut Payload) -> Result<(), End> {
        let env = &self.shared.env;
        let file = TemporaryFile::new(env, format!("temp-repl-{}.rdb", self.connection.id));
        let (disk, path) = (env.disk(), file.path.clone());
        let mut writer = env.blocking(move || disk.create(&path)).await.map_err(End::Io)?;
        while let Some(piece) = self.piece(payload).await? {
            let len = piece.len();
            let (back, result) = env
                .blocking(move || {
                    let result = writer.write(&piece);
                    (writer, result)
                })
                .await;
            writer = back;
            result.map_err(End::Io)?;
            payload.sent(len);
            if self.request.is_psync {
                self.write(b"\n").await?;
            }
        }
        let len = writer.len();
        drop(writer);
        self.write(format!("${len}\r\n").as_bytes()).await?;
        let mut at = 0;
        while at < len {
            let (disk, path) = (env.disk(), file.path.clone());
            let want = (len - at).min(SEND_BYTES as u64) as usize;
            let piece = env
                .blocking(move || {
                    let mut piece = vec![0; want];
                    disk.read_at(&path, at, &mut piece).map(|n| {
                        piece.truncate(n);
                        piece
                    })
                })
                .await
                .map_err(End::Io)?;
            if piece.is_empty() {
                return Err(End::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            self.write(&piece).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    async fn stream(&self, mut reader: Reader) -> Result<std::convert::Infallible, End> {
        self.position.set(Some(reader.position().0));
        self.set_stage(Stage::Online);
        loop {
            let pieces = reader.pieces(SEND_BYTES).map_err(|_| End::BytesGone)?;
            if self.shared.replication.turn() != self.turn {
                return Err(End::HistoryChanged);
            }
            if pieces.is_empty() {
                if !reader.wait() {
                    self.wake.0.notified().await;
                }
                continue;
            }
            for piece in pieces {
                self.write(&piece).await?;
                reader.advance(reader.position().plus(piece.len() as u64));
                self.position.set(Some(reader.position().0));
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), End> {
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < bytes.len() {
                match self.connection.poll_output(cx, &bytes[sent..]) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Closed)),
                    Poll::Ready(Ok(n)) => {
                        sent += n;
                        self.last_sent.set(self.now());
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Io(error))),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        let net_out = &self.shared.counters.net_out;
        net_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
