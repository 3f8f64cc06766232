//! Sessions of the Lua debugger.
//!
//! A client that has said SCRIPT DEBUG sends EVAL: a task of its connection is then the session's ear and mouth, and the script
//! runs on a thread of its own, since it waits for a person. Bytes go between the two over a [`Line`]. A synchronous session
//! has the gate closed from its beginning to its end, as a script that needs every key; an asynchronous one works on copies
//! (`engine::script::debug::copies`), stands in nobody's way and is inside the gate only while it copies.
//!
//! What ends scripts ends sessions: SCRIPT KILL, the node itself where it has to go on, and its end.
//!
//! Invariant: a node has at most one session.

use crate::connection::{Connection, Phase};
use crate::env::Env;
use crate::errand::Errand;
use crate::host::NodeHost;
use crate::persist::{Emptied, PersistRequest};
use crate::shared::Shared;
use crate::worker::{Setting, Worker};
use engine::script::control::Running;
use engine::script::debug::copies::{Copied, copies_of, execute_on_copies};
use engine::script::debug::{DebugClient, Debugger, Heard};
use engine::script::run::ScriptCommand;
use engine::spec::Handler;
use engine::{Args, Local, Outcome, Session, Spec, evict, execute};
use proto::Now;
use proto::resp::{Reply, Span};
use smallvec::SmallVec;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use storage::GateReader;
use tokio::sync::Notify;

/// Between two looks at whether a script that waits for its client is to end, and between attempts to begin.
const LOOK: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(1);
/// Input that waits for the script; then no more is read. More than the engine takes for one command.
const INPUT_BYTES_MAX: usize = 2 << 20;

const TAKEN: &str = "ERR Another Lua debugging session is open on this node, which has one at a time";
const IN_MULTI: &str = "ERR Lua debugging is not possible inside a transaction";
const NOT_SHA: &str = "ERR Please use EVAL instead of EVALSHA for debugging";
const NO_THREADS: &str = "ERR Lua debugging is not possible on this node, which has one thread";

/// What SCRIPT DEBUG asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// YES: on copies of the keys, while others are served.
    OnCopies,
    /// SYNC: on the keys themselves, while others wait.
    Sync,
}

/// An EVAL that is to be debugged.
pub struct Request {
    mode: Mode,
    errand: Errand,
}

/// What the session's thread answers to the EVAL.
struct Answer {
    reply: Vec<u8>,
    session: Session,
    /// End of the feed that the reply waits for, and the term in which it ran.
    until: u64,
    term: u64,
    /// Nobody may see it.
    is_void: bool,
    /// There was a session, so that the connection ends.
    was_open: bool,
    /// Has to be written before it is told.
    emptied: Option<Emptied>,
}

/// Between that task and the session's thread.
#[derive(Default)]
struct Line {
    said: Mutex<Said>,
    /// Rings when something was said.
    bell: Condvar,
    told: Mutex<Told>,
    /// Rings when something was told.
    reader: Notify,
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    is_gone: bool,
}

#[derive(Default)]
struct Told {
    bytes: Vec<u8>,
    answer: Option<Answer>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn say(&self, bytes: &[u8]) {
        lock(&self.said).bytes.extend_from_slice(bytes);
        self.bell.notify_one();
    }
    fn hang_up(&self) {
        lock(&self.said).is_gone = true;
        self.bell.notify_one();
    }
    fn is_gone(&self) -> bool {
        lock(&self.said).is_gone
    }
    fn tell(&self, bytes: &[u8]) {
        lock(&self.told).bytes.extend_from_slice(bytes);
        self.reader.notify_one();
    }
    fn answer(&self, answer: Answer) {
        lock(&self.told).answer = Some(answer);
        self.reader.notify_one();
    }
}

/// Takes an EVAL whose client wants it debugged. `None`: it runs as any other. `at`: where `raw` begins in the buffer that
/// the spans are of.
pub fn intercept<E: Env>(
    worker: &Worker<E>,
    connection: &Connection<E>,
    spec: &'static Spec,
    args: Args,
    (raw, spans, at): (&[u8], &[Span], u32),
    session: &mut Session,
    out: &mut Reply,
) -> Option<Outcome> {
    let mode = connection.debug_mode.get()?;
    let Handler::Script(ScriptCommand::Eval { is_sha, .. }) = spec.command.run else { return None };
    let is_told = session.is_authenticated() && (!session.is_subscribed() || session.is_resp3);
    if !is_told || is_sha && args[1].len() != 40 {
        return None;
    }
    if let Some(multi) = &mut session.multi {
        multi.is_aborted = true;
    }
    if session.in_multi() || is_sha {
        worker.stats().count_error("ERR".into());
        out.error(if is_sha { NOT_SHA } else { IN_MULTI });
        return Some(Outcome::Done);
    }
    let errand = Errand {
        client: connection.client.clone(),
        spec,
        raw: raw.to_vec(),
        spans: spans.iter().map(|s| Span { start: s.start - at, len: s.len }).collect(),
        session: session.lend(),
        is_postponed: false,
    };
    *connection.debugged.borrow_mut() = Some(Box::new(Request { mode, errand }));
    Some(Outcome::Later)
}

/// Serves a session until it has ended. The connection's replies so far have been sent.
pub async fn serve<E: Env>(worker: &Rc<Worker<E>>, connection: &Rc<Connection<E>>, request: Box<Request>) {
    let shared = &worker.shared;
    let line = Arc::<Line>::default();
    connection.has_deferred.set(false);
    *connection.partial.borrow_mut() = None;
    line.say(&std::mem::take(&mut *connection.input.borrow_mut()));
    begin(shared, &line, request, connection.session.borrow().lend());
    let answer = converse(worker, connection, &line).await;
    let Some(answer) = answer else {
        line.hang_up();
        return connection.close(false);
    };
    connection.session.borrow_mut().take_back(answer.session);
    let released = shared.released();
    if answer.is_void || released.term != answer.term && answer.was_open {
        return connection.close(false);
    }
    let left = std::mem::take(&mut lock(&line.said).bytes);
    if !answer.was_open && !left.is_empty() {
        *connection.input.borrow_mut() = left;
        connection.has_deferred.set(true);
    }
    connection.set_phase(if answer.was_open { Phase::Closing } else { Phase::Ready });
    worker.describe(connection, 0, shared.env.now());
    connection.send_owned(answer.reply, answer.until, released);
}

/// Begins a session in a thread of its own, or says why not.
fn begin<E: Env>(shared: &Arc<Shared<E>>, line: &Arc<Line>, request: Box<Request>, session: Session) {
    let has_threads = shared.env.has_side_threads();
    let place = if has_threads { Place::take(shared) } else { None };
    let Some(place) = place else {
        // As when a session ends: the client knows that it is not in one.
        line.tell(b"*1\r\n+<endsession>\r\n");
        let answer = refusal(shared, session, if has_threads { TAKEN } else { NO_THREADS });
        return line.answer(Answer { was_open: true, ..answer });
    };
    let line = line.clone();
    let main = move || -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { run(place, &line, *request).await })
    };
    shared.env.spawn_thread("debugger", Box::new(main));
}

/// An answer that says why there is no session.
fn refusal<E: Env>(shared: &Shared<E>, session: Session, text: &str) -> Answer {
    let mut out = Reply::new(session.is_resp3);
    out.error(text);
    let term = shared.released().term;
    Answer { reply: out.take(), session, until: 0, term, is_void: false, was_open: false, emptied: None }
}

/// Carries bytes both ways until the script is answered. What the client sends waits until it has read what it was told.
/// `None`: the connection has ended.
async fn converse<E: Env>(
    worker: &Rc<Worker<E>>,
    connection: &Rc<Connection<E>>,
    line: &Line,
) -> Option<Answer> {
    let (mut out, mut sent) = (Vec::new(), 0);
    let mut is_gone = false;
    loop {
        let mut told = std::pin::pin!(line.reader.notified());
        let step = poll_fn(|cx| {
            if connection.is_closed() {
                return Poll::Ready(Some(None));
            }
            // First, so that nothing is told between the look and the wait.
            let is_told = told.as_mut().poll(cx).is_ready();
            out.append(&mut lock(&line.told).bytes);
            while sent < out.len() {
                match connection.poll_output(cx, &out[sent..]) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        worker.stats().net_out.add(n as u64);
                        sent += n;
                    }
                    Poll::Ready(_) => return Poll::Ready(Some(None)),
                    Poll::Pending if is_told => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
            (out, sent) = (Vec::new(), 0);
            let mut told = lock(&line.told);
            if told.bytes.is_empty()
                && let Some(answer) = told.answer.take()
            {
                return Poll::Ready(Some(Some(answer)));
            }
            drop(told);
            while !is_gone && lock(&line.said).bytes.len() < INPUT_BYTES_MAX {
                match connection.poll_input(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        worker.stats().net_in.add(n as u64);
                        line.say(&std::mem::take(&mut *connection.input.borrow_mut()));
                    }
                    // Who will send no more still gets its reply.
                    Poll::Ready(Ok(_)) => {
                        is_gone = true;
                        line.hang_up();
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(None)),
                    Poll::Pending => break,
                }
            }
            if is_told { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        if let Some(end) = step {
            return end;
        }
    }
}

/// What has to hold for a session to go on.
#[derive(Clone, Copy)]
struct Basis {
    is_replica: bool,
    is_loading: bool,
    has_lease: bool,
    is_cluster: bool,
    slots_left: u64,
}

impl Basis {
    fn of(setting: &Setting) -> Basis {
        Basis {
            is_replica: setting.status.is_replica,
            is_loading: setting.status.is_loading,
            has_lease: setting.status.has_lease,
            is_cluster: setting.view.is_some(),
            slots_left: setting.slots_left,
        }
    }
    fn holds<E: Env>(&self, shared: &Shared<E>) -> bool {
        let status = shared.status(shared.env.now().mono);
        self.is_replica == status.is_replica
            && self.is_loading == status.is_loading
            && !(self.is_cluster && self.has_lease && !status.has_lease)
            && self.slots_left == shared.state.slots_left.load(Ordering::Relaxed)
    }
}

/// The client of a session, as its thread has it.
struct Client<E: Env> {
    shared: Arc<Shared<E>>,
    line: Arc<Line>,
    mode: Mode,
    gate: GateReader,
    basis: Rc<Cell<Option<Basis>>>,
    running: Option<Arc<Running>>,
}

impl<E: Env> Client<E> {
    /// Whether the script is to end; where it is because the node has changed, it is ended here.
    fn is_to_end(&self) -> bool {
        let holds = self.basis.get().is_none_or(|basis| basis.holds(&self.shared));
        match &self.running {
            Some(running) => {
                if !holds {
                    running.stop();
                }
                running.is_killed() || running.is_stopped()
            }
            None => !holds,
        }
    }
}

impl<E: Env> DebugClient for Client<E> {
    fn opens(&mut self) {
        match self.mode {
            Mode::Sync => tracing::warn!("Redis synchronous debugging eval session started"),
            Mode::OnCopies => tracing::warn!("Lua debugging session on copies of the keys started"),
        }
    }

    fn begins(&mut self, running: &Arc<Running>) {
        self.running = Some(running.clone());
        if self.mode == Mode::OnCopies {
            self.shared.engine.scripts.control.set_aside(Some(running.clone()));
        }
    }

    fn read(&mut self, input: &mut Vec<u8>) -> Heard {
        loop {
            if self.is_to_end() {
                return Heard::End;
            }
            let mut said = lock(&self.line.said);
            if said.bytes.is_empty() && !said.is_gone {
                let waited = self.line.bell.wait_timeout(said, LOOK);
                said = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if !said.bytes.is_empty() {
                input.append(&mut said.bytes);
                drop(said);
                // Its task may have stopped reading.
                self.line.reader.notify_one();
                return Heard::More;
            }
            if said.is_gone {
                return Heard::Gone;
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.line.is_gone() {
            self.line.tell(bytes);
        }
    }

    fn now(&mut self) -> Now {
        self.shared.env.now()
    }

    fn copy(&mut self, keys: &[&[u8]]) -> Option<Vec<Copied>> {
        let shared = self.shared.clone();
        loop {
            if self.is_to_end() {
                return None;
            }
            if let Some(_inside) = self.gate.enter_soon()
                && self.basis.get().is_none_or(|basis| basis.holds(&shared))
                && let Ok(copies) = copies_of(&shared.engine.keyspace, keys)
            {
                return Some(copies);
            }
            shared.env.stall(PAUSE);
        }
    }
}

/// The place of the node's only session.
struct Place<E: Env>(Arc<Shared<E>>);

impl<E: Env> Place<E> {
    fn take(shared: &Arc<Shared<E>>) -> Option<Place<E>> {
        let is_taken = shared.debugging.swap(true, Ordering::AcqRel);
        (!is_taken).then(|| Place(shared.clone()))
    }
}

impl<E: Env> Drop for Place<E> {
    fn drop(&mut self) {
        self.0.engine.scripts.control.set_aside(None);
        self.0.debugging.store(false, Ordering::Release);
    }
}

/// The session's thread.
async fn run<E: Env>(place: Place<E>, line: &Arc<Line>, request: Request) {
    let shared = &place.0.clone();
    let Request { mode, errand } = request;
    let basis = Rc::<Cell<Option<Basis>>>::default();
    let client = Client {
        shared: shared.clone(),
        line: line.clone(),
        mode,
        gate: shared.engine.keyspace.gate().register(),
        basis: basis.clone(),
        running: None,
    };
    let args: SmallVec<[&[u8]; 8]> = errand.spans.iter().map(|s| s.of(&errand.raw)).collect();
    let debugger = Debugger::new(Box::new(client), args[1], mode == Mode::OnCopies);
    let mut local = Local::new(shared.env.rand(), shared.mail_of(&errand.client).clone());
    local.scripts.debugger = Some(debugger.clone());
    let answer = loop {
        let attempt = Setting::with(shared, |setting| {
            basis.set(Some(Basis::of(setting)));
            attempt(shared, setting, &mut local, &errand, &args, mode)
        });
        if attempt.is_some() || line.is_gone() {
            break attempt;
        }
        if let Some(busy) = shared.busy_script() {
            break Some(refusal(shared, errand.session.lend(), &busy.to_string()));
        }
        tokio::time::sleep(PAUSE).await;
    };
    // Whoever is told of the end can begin the next one.
    drop(place);
    if let Some(mut answer) = answer {
        answer.was_open = debugger.end();
        if let Some(mut emptied) = answer.emptied.take() {
            // The disk has what the reply says. A node that ends meanwhile tells nobody.
            let (written, is_written) = tokio::sync::oneshot::channel();
            emptied.then = Some(Box::new(move || written.send(()).unwrap_or_default()));
            shared.persist.request(PersistRequest::Emptied(emptied));
            is_written.await.unwrap_or_default();
        }
        if answer.was_open {
            match mode {
                Mode::Sync => tracing::warn!("Redis synchronous debugging eval session ended"),
                Mode::OnCopies => tracing::warn!("Lua debugging session on copies of the keys ended"),
            }
        }
        line.answer(answer);
    }
}

/// Runs the script. `None`: it has to wait, and nothing was done.
fn attempt<E: Env>(
    shared: &Arc<Shared<E>>,
    setting: &Setting,
    local: &mut Local,
    errand: &Errand,
    args: Args,
    mode: Mode,
) -> Option<Answer> {
    let engine = &shared.engine;
    let mut session = errand.session.lend();
    let mut out = Reply::new(session.is_resp3);
    let mut host = NodeHost {
        shared,
        client: &errand.client,
        connection: None,
        setting,
        is_exclusive: mode == Mode::Sync,
        emptied: None,
    };
    local.ticked = (shared.env.ticks())();
    // Those of the thread before the last, which is the control thread.
    let stats = &shared.stats[shared.stats.len() - 2];
    let raw = Some(errand.raw.as_slice());
    let outcome = match mode {
        Mode::OnCopies => {
            let seed = [shared.env.rand(), shared.env.rand()];
            let mut turn = setting.turn(shared, stats, local, &mut host, None);
            execute_on_copies(&mut turn, &mut session, errand.spec, args, seed, &mut out)
        }
        Mode::Sync => {
            let closed = engine.keyspace.gate().try_close()?;
            if setting.is_outdated(&shared.state) {
                return None;
            }
            let is_lfu = setting.settings.engine.maxmemory_policy.is_lfu();
            engine.keyspace.set_clock(evict::fresh(setting.now.wall.0, is_lfu));
            let mut turn = setting.turn(shared, stats, local, &mut host, Some(&closed));
            execute(&mut turn, &mut session, &Ok(errand.spec), args, raw, &mut out)
        }
    };
    if !matches!(outcome, Outcome::Done) {
        return None;
    }
    let is_gated = mode == Mode::Sync && shared.state.is_gated.load(Ordering::Acquire);
    let until = if is_gated && shared.state.is_read_gated.load(Ordering::Acquire) {
        shared.feed.end().0
    } else if is_gated && session.written != errand.session.written {
        session.written
    } else {
        0
    };
    if mode == Mode::OnCopies {
        session.written = errand.session.written;
    }
    // W12: as for a worker's commands.
    let is_void = setting.has_lost_lease(shared);
    let emptied = host.emptied.take();
    Some(Answer { reply: out.take(), session, until, term: setting.term, is_void, was_open: false, emptied })
}
