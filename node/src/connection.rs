//! One client connection: it reads and parses; the worker executes for it; it writes what the worker left.
//!
//! It is polled by its worker whenever it was woken. It hands complete commands to the worker's batch and keeps only what
//! belongs to no complete command, so that an idle connection holds no buffer. Who becomes a replica's link, or whose script
//! is debugged, gets a task of its own.
//!
//! Invariant: replies leave in the order of their commands; a held reply holds all that follow it.

use crate::clients::Client;
use crate::env::Env;
use crate::message::Message;
use crate::pubsub::Subscriptions;
use crate::shared::Released;
use crate::worker::{LastSeen, Worker};
use engine::Session;
use engine::blocking::Waiter;
use proto::limits;
use proto::resp::{Limits, Partial};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Bytes read at one wake: what a connection may do per turn, so that one pipelining client cannot starve the rest.
pub const READ_BYTES: usize = 16 * 1024;
/// The same for a connection of which a long command is on its way: nothing is executed for it, only copied.
const OWN_READ_BYTES: usize = 256 * 1024;
/// Bytes of one reply written at a time: some ten microseconds of the kernel's work.
const WRITE_BYTES: usize = 128 * 1024;
/// A command of which more than this has arrived is read into the connection's own buffer.
const OWN_BUFFER_BYTES: usize = 32 * 1024;
/// Unsent bytes at which a connection is neither served nor read any more until its client reads. Choice: twice the default soft limit of
/// subscribers in redis.conf.
pub const OUTPUT_PAUSE_BYTES: usize = 16 * 1024 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Takes commands.
    #[default]
    Ready,
    /// Its commands stand in the worker's batch.
    InBatch,
    /// Runs its command again when the worker says so: a slot is held.
    Parked,
    /// Waits for keys until its waiter's time is up.
    Blocked,
    /// Somebody else works on its reply.
    Waiting,
    /// Ends after what it has to say is sent.
    Closing,
    Closed,
}

/// A piece of output.
struct Output {
    bytes: Bytes,
    sent: usize,
    /// May leave when the feed is released up to here, in this term; 0: at once.
    until: u64,
    term: u64,
}

enum Bytes {
    Owned(Vec<u8>),
    Shared(Message),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(b) => b,
            Bytes::Shared(b) => b,
        }
    }
}

/// See the module's head.
pub struct Connection<E: Env> {
    pub id: u64,
    pub client: Arc<Client>,
    pub stream: RefCell<E::Stream>,
    pub session: RefCell<Session>,
    pub subscriptions: RefCell<Subscriptions>,
    /// Where its worker finds it.
    pub place: u32,
    pub last_seen: LastSeen,
    phase: Cell<Phase>,
    /// What it waits for, while it is blocked.
    waiter: RefCell<Option<Arc<Waiter>>>,
    /// Input that belongs to no complete command, or to commands that were put off.
    pub input: RefCell<Vec<u8>>,
    /// How far `input` was parsed.
    pub partial: RefCell<Option<Box<Partial>>>,
    /// `input` holds complete commands.
    pub has_deferred: Cell<bool>,
    /// It waits for the socket, although commands of its stand in the batch.
    is_listening: Cell<bool>,
    output: RefCell<VecDeque<Output>>,
    output_bytes: Cell<usize>,
    /// What of it others may send as well.
    shared_bytes: Cell<usize>,
    /// The last flush ended before the output did, although the socket takes more.
    is_cut: Cell<bool>,
    /// Since when the output is above the soft limit, in ms of the monotonic clock; 0: it is not.
    soft_since_ms: Cell<u64>,
    /// It waits for a pause to end, and is counted as blocked.
    pub is_postponed: Cell<bool>,
    /// What it waits for runs on the side thread.
    pub is_errand: Cell<bool>,
    /// The socket gave an error instead of its end.
    has_failed: Cell<bool>,
    /// Makes its worker poll it.
    waker: Waker,
    /// The task that has taken it over.
    apart: RefCell<Option<Waker>>,
    /// PSYNC or SYNC was sent: the connection becomes a replica's link.
    pub sync: RefCell<Option<crate::replica::SyncRequest>>,
    /// SCRIPT DEBUG was sent: the next EVAL is debugged.
    pub debug_mode: Cell<Option<crate::debugger::Mode>>,
    /// It came: the connection is the session's.
    pub debugged: RefCell<Option<Box<crate::debugger::Request>>>,
    /// What the client waited for when its connection began to end.
    pub left_waiting: RefCell<Option<Arc<Waiter>>>,
    /// Nobody counts on it any more: it is in no register.
    pub has_left: Cell<bool>,
    /// When a blocked client's time is up.
    pub deadline: RefCell<Option<Pin<Box<tokio::time::Sleep>>>>,
}

impl<E: Env> Connection<E> {
    /// `waker`: makes its worker poll it.
    pub fn new(
        client: Arc<Client>,
        stream: E::Stream,
        session: Session,
        place: u32,
        waker: Waker,
    ) -> Connection<E> {
        Connection {
            id: client.id,
            client,
            stream: RefCell::new(stream),
            session: RefCell::new(session),
            subscriptions: RefCell::default(),
            place,
            last_seen: LastSeen::default(),
            phase: Cell::default(),
            waiter: RefCell::default(),
            input: RefCell::default(),
            partial: RefCell::default(),
            has_deferred: Cell::new(false),
            is_listening: Cell::new(false),
            output: RefCell::default(),
            output_bytes: Cell::new(0),
            shared_bytes: Cell::new(0),
            is_cut: Cell::new(false),
            soft_since_ms: Cell::new(0),
            is_postponed: Cell::new(false),
            is_errand: Cell::new(false),
            has_failed: Cell::new(false),
            waker,
            apart: RefCell::new(None),
            sync: RefCell::new(None),
            debug_mode: Cell::new(None),
            debugged: RefCell::new(None),
            left_waiting: RefCell::new(None),
            has_left: Cell::new(false),
            deadline: RefCell::new(None),
        }
    }

    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }
    /// Not for [`Phase::Blocked`]: see [`Connection::block`].
    #[inline]
    pub fn set_phase(&self, phase: Phase) {
        debug_assert!(phase != Phase::Blocked);
        if self.phase.replace(phase) == Phase::Blocked {
            self.stop_waiting(phase);
        }
    }
    /// It waits for keys.
    pub fn block(&self, waiter: Arc<Waiter>) {
        self.client.set_waiter(Some(waiter.clone()));
        *self.waiter.borrow_mut() = Some(waiter);
        self.phase.set(Phase::Blocked);
    }
    fn stop_waiting(&self, phase: Phase) {
        self.client.set_waiter(None);
        let waiter = self.waiter.take();
        if matches!(phase, Phase::Closing | Phase::Closed) {
            *self.left_waiting.borrow_mut() = waiter;
        }
    }
    /// What it waits for, if it is blocked.
    pub fn waiter(&self) -> Option<Arc<Waiter>> {
        self.waiter.borrow().clone()
    }
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.phase.get() == Phase::Closed
    }
    #[inline]
    pub fn is_ready(&self) -> bool {
        matches!(self.phase.get(), Phase::Ready | Phase::InBatch)
    }
    /// Lets its worker look at it again.
    pub fn wake(&self) {
        self.waker.wake_by_ref();
    }
    /// A task has taken it over: who wakes the connection wakes that. `None`: it is the worker's again.
    pub fn set_apart(&self, task: Option<Waker>) {
        *self.apart.borrow_mut() = task;
    }
    /// Ends the connection after its replies, or at once.
    pub fn close(&self, is_soft: bool) {
        let phase = if is_soft { Phase::Closing } else { Phase::Closed };
        if !self.is_closed() {
            self.set_phase(phase);
        }
        self.wake();
    }

    /// Nothing of it is under way, and nobody sends it what it did not ask for: another worker may serve it from now on. One
    /// under TLS stays where it is.
    pub fn is_at_rest(&self) -> bool {
        let is_silent = self.phase.get() == Phase::Ready
            && self.input.borrow().is_empty()
            && self.partial.borrow().is_none()
            && !self.has_deferred.get()
            && !self.has_output();
        let is_special = self.apart.borrow().is_some()
            || self.sync.borrow().is_some()
            || self.debugged.borrow().is_some()
            || self.debug_mode.get().is_some()
            || self.is_postponed.get()
            || self.has_left.get();
        is_silent && !is_special && !self.client.is_killed() && self.session.borrow().may_move()
    }
    /// What another worker needs to serve it, if it is at rest.
    pub fn into_parts(self) -> (Arc<Client>, Session, E::Stream) {
        (self.client, self.session.into_inner(), self.stream.into_inner())
    }

    pub fn limits(&self, bulk_bytes_max: usize) -> Limits {
        match self.session.borrow().is_authenticated() {
            true => Limits::authenticated(bulk_bytes_max),
            false => Limits::unauthenticated(),
        }
    }

    /// Does what there is to do; the worker's to call when the connection was woken. `Ready`: it ends, or a task of its own
    /// takes it over.
    pub fn poll(self: &Rc<Self>, worker: &Rc<Worker<E>>) -> Poll<()> {
        if let Some(task) = &*self.apart.borrow() {
            task.wake_by_ref();
            return Poll::Pending;
        }
        let cx = &mut Context::from_waker(&self.waker);
        let mut budget = READ_BYTES;
        loop {
            if self.has_output() {
                self.flush_some(worker);
            }
            match self.phase.get() {
                Phase::Closed => return Poll::Ready(()),
                Phase::Closing if !self.has_output() => return Poll::Ready(()),
                // Its turn comes when the batch was run, or the slot is free.
                Phase::Closing | Phase::InBatch | Phase::Parked => {
                    self.is_listening.set(false);
                    return Poll::Pending;
                }
                // The socket's readiness for writing wakes it.
                Phase::Ready if self.output_bytes.get() > OUTPUT_PAUSE_BYTES => return Poll::Pending,
                Phase::Ready if self.has_deferred.get() => {
                    self.has_deferred.set(false);
                    if worker.resume(self) {
                        return Poll::Pending;
                    }
                }
                Phase::Ready if budget == 0 => {
                    // A part of a long command: others have their turn before the next part.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Phase::Ready => match self.read(cx, worker, &mut budget) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(true) => {
                        if self.listens_on(cx, worker, &mut budget) {
                            return Poll::Pending;
                        }
                    }
                    Poll::Ready(false) => self.set_phase(Phase::Closed),
                },
                Phase::Waiting if self.sync.borrow().is_some() || self.debugged.borrow().is_some() => {
                    return if self.has_output() { Poll::Pending } else { Poll::Ready(()) };
                }
                Phase::Blocked | Phase::Waiting => {
                    if self.is_time_up(cx) {
                        worker.time_up(self);
                        continue;
                    }
                    // Read on, to see the client leave; what it sends waits.
                    match self.read_aside(cx, worker) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(true) => {}
                        // Who will send no more still gets its reply, and those of the commands that wait.
                        Poll::Ready(false) if self.is_errand.get() && !self.has_failed.get() => {
                            return Poll::Pending;
                        }
                        Poll::Ready(false) => self.set_phase(Phase::Closed),
                    }
                }
            }
        }
    }

    /// Sends what may leave.
    #[cold]
    fn flush_some(&self, worker: &Worker<E>) {
        if self.flush(worker.shared.released()).is_err() {
            self.set_phase(Phase::Closed);
        }
        if self.is_cut.take() {
            // The rest is written when the others have had their turn, and the sockets were looked at.
            self.wake();
        }
    }

    /// Reads on until the socket has no more, so that it wakes this connection by itself when it has: the batch then need
    /// not do so. The end of the input is left for later: what was read before it runs first.
    fn listens_on(self: &Rc<Self>, cx: &mut Context<'_>, worker: &Rc<Worker<E>>, budget: &mut usize) -> bool {
        while *budget > 0 && self.phase.get() == Phase::InBatch && !self.has_deferred.get() {
            if E::is_drained(&self.stream.borrow(), cx) {
                self.is_listening.set(true);
                return true;
            }
            match self.read(cx, worker, budget) {
                Poll::Pending => {
                    self.is_listening.set(true);
                    return true;
                }
                Poll::Ready(true) => {}
                Poll::Ready(false) => break,
            }
        }
        false
    }

    /// There is nothing to do for it before the socket wakes it. Asked once after each batch.
    pub fn is_at_ease(&self) -> bool {
        self.is_listening.replace(false)
            && self.phase.get() == Phase::Ready
            && !self.has_deferred.get()
            && self.output_bytes.get() == 0
    }

    fn is_time_up(&self, cx: &mut Context<'_>) -> bool {
        match &mut *self.deadline.borrow_mut() {
            Some(deadline) => deadline.as_mut().poll(cx).is_ready(),
            None => false,
        }
    }

    /// Reads once and hands complete commands to the batch. `Ready(false)`: the client is gone or speaks nonsense.
    fn read(self: &Rc<Self>, cx: &mut Context<'_>, worker: &Rc<Worker<E>>, budget: &mut usize) -> Poll<bool> {
        let is_own = self.input.borrow().len() >= OWN_BUFFER_BYTES;
        let read = if is_own {
            self.read_into(cx, &mut self.input.borrow_mut(), OWN_READ_BYTES)
        } else {
            worker.with_input(|buf| {
                let start = buf.len();
                let rest = self.input.borrow();
                if !rest.is_empty() {
                    buf.extend_from_slice(&rest);
                }
                let read = self.read_into(cx, buf, READ_BYTES);
                if !matches!(read, Poll::Ready(Ok(n)) if n > 0) {
                    buf.truncate(start);
                }
                read
            })
        };
        let n = match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Poll::Ready(false),
        };
        *budget = budget.saturating_sub(n);
        let alive = match is_own {
            true => worker.parse_own(self),
            false => worker.parse_shared(self, n),
        };
        Poll::Ready(alive)
    }

    /// Reads into the connection's own buffer without looking at it.
    fn read_aside(&self, cx: &mut Context<'_>, worker: &Rc<Worker<E>>) -> Poll<bool> {
        let max = match self.session.borrow().is_authenticated() {
            true => worker.shared.settings().query_bytes_max.min(1024 * 1024),
            false => limits::QUERY_BYTES_MAX_UNAUTHENTICATED,
        };
        if self.input.borrow().len() > max {
            return Poll::Pending;
        }
        match self.read_into(cx, &mut self.input.borrow_mut(), READ_BYTES) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(n)) if n > 0 => {
                self.has_deferred.set(true);
                Poll::Ready(true)
            }
            Poll::Ready(read) => {
                self.has_failed.set(read.is_err());
                Poll::Ready(false)
            }
        }
    }

    /// Reads once into the connection's own buffer, for whoever took the connection over. 0: the peer is gone.
    pub fn poll_input(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.read_into(cx, &mut self.input.borrow_mut(), READ_BYTES)
    }
    /// Writes once, for whoever took the connection over.
    pub fn poll_output(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        E::poll_write(&mut self.stream.borrow_mut(), cx, bytes)
    }

    fn read_into(&self, cx: &mut Context<'_>, buf: &mut Vec<u8>, max: usize) -> Poll<std::io::Result<usize>> {
        E::poll_read(&mut self.stream.borrow_mut(), cx, buf, max)
    }

    /// As [`Connection::send`] for a long reply, which is neither copied nor written in one go.
    pub fn send_owned(&self, bytes: Vec<u8>, until: u64, released: Released) {
        if bytes.len() <= WRITE_BYTES {
            return self.send(&bytes, until, released);
        }
        self.queue(Bytes::Owned(bytes), until, released.term);
    }

    /// Sends `bytes` after what waits already. `until`: see [`Output`].
    pub fn send(&self, bytes: &[u8], until: u64, released: Released) {
        if bytes.is_empty() {
            return;
        }
        let mut sent = 0;
        if !self.has_output() && until <= released.end {
            match self.write(bytes) {
                Ok(n) => sent = n,
                Err(_) => return self.close(false),
            }
        }
        if sent < bytes.len() {
            self.queue(Bytes::Owned(bytes[sent..].to_vec()), until, released.term);
        }
    }

    /// As [`Connection::send`] for bytes that many connections get.
    pub fn send_shared(&self, message: Message, released: Released) {
        if !self.has_output() {
            return self.send(&message, 0, released);
        }
        message.count();
        self.shared_bytes.set(self.shared_bytes.get() + message.len());
        self.queue(Bytes::Shared(message), 0, released.term);
    }

    fn queue(&self, bytes: Bytes, until: u64, term: u64) {
        self.output_bytes.set(self.output_bytes.get() + bytes.as_slice().len());
        self.output.borrow_mut().push_back(Output { bytes, sent: 0, until, term });
    }

    /// Writes as much as the socket takes.
    fn write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut stream = self.stream.borrow_mut();
        let mut cx = Context::from_waker(&self.waker);
        let mut sent = 0;
        while sent < bytes.len() {
            match E::poll_write(&mut stream, &mut cx, &bytes[sent..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => return Err(e),
            }
        }
        Ok(sent)
    }

    /// Sends what may leave. `Err` also when something waits that never may.
    pub fn flush(&self, released: Released) -> std::io::Result<()> {
        loop {
            let mut output = self.output.borrow_mut();
            let Some(front) = output.front_mut() else { return Ok(()) };
            if front.until > 0 && front.sent == 0 && front.term != released.term {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            if front.until > released.end {
                return Ok(());
            }
            let rest = &front.bytes.as_slice()[front.sent..];
            let part = &rest[..rest.len().min(WRITE_BYTES)];
            let (n, len) = (self.write(part)?, part.len());
            front.sent += n;
            self.output_bytes.set(self.output_bytes.get() - n);
            if let Bytes::Shared(_) = front.bytes {
                self.shared_bytes.set(self.shared_bytes.get() - n);
            }
            if front.sent < front.bytes.as_slice().len() {
                self.is_cut.set(n == len);
                return Ok(());
            }
            output.pop_front();
        }
    }

    /// The last flush ended before the output did, although the socket takes more: who made it wakes the connection.
    pub fn is_cut(&self) -> bool {
        self.is_cut.get()
    }
    /// Something waits to be sent, be it empty.
    fn has_output(&self) -> bool {
        !self.output.borrow().is_empty()
    }
    pub fn output_bytes(&self) -> usize {
        self.output_bytes.get()
    }
    /// What of the unsent bytes others may send as well.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes.get()
    }

    /// Whether the client does not read what it asked for. `now_ms`: monotonic.
    pub fn is_over_limit(&self, limit: crate::config::OutputLimit, now_ms: u64) -> bool {
        let bytes = self.output_bytes.get() as u64;
        if !self.session.borrow().is_authenticated() && bytes > limits::REPLY_BYTES_MAX_UNAUTHENTICATED as u64
        {
            return true;
        }
        if limit.hard_bytes > 0 && bytes > limit.hard_bytes {
            return true;
        }
        if limit.soft_bytes == 0 || bytes <= limit.soft_bytes {
            self.soft_since_ms.set(0);
            return false;
        }
        if self.soft_since_ms.get() == 0 {
            self.soft_since_ms.set(now_ms.max(1));
        }
        now_ms.saturating_sub(self.soft_since_ms.get()) > limit.soft_s * 1000
    }
}
