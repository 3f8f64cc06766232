//! Errands: commands that may take long run on a thread beside the worker that serves their client, so that they make
//! nobody wait.
//!
//! Each worker has one side thread, made when it is first needed. It executes as the worker does, with an interpreter
//! and a way through the gate of its own, and sends back what the worker needs to answer. Meanwhile the connection waits
//! as for any reply that somebody else makes. The side thread steps back behind the worker where both share a core, but
//! not so far that it starves: it may hold what the worker's clients wait for.
//!
//! A hop costs more than a short script. A script that took less than a millisecond each time of late therefore runs in
//! line.
//!
//! Invariant: what holds for commands of a worker holds here: the role is looked at inside the gate, the lease after
//! the command, and a reply waits for what its unit waits for.
//! Invariant: a client has at most one errand, so that its replies keep their order and the queue is bounded.

use crate::clients::Client;
use crate::connection::{Connection, Phase};
use crate::env::Env;
use crate::host::NodeHost;
use crate::mail::Letter;
use crate::persist::{Emptied, PersistRequest};
use crate::shared::Shared;
use crate::worker::{LONG_REPLY_BYTES, Setting, Worker};
use crossbeam::queue::SegQueue;
use engine::script::LastRun;
use engine::spec::flag;
use engine::stats::Stats;
use engine::{Args, Local, Outcome, Passage, Session, Spec, Turn, evict, execute};
use proto::Slot;
use proto::resp::{Reply, Span};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use storage::GateReader;
use tokio::sync::Notify;

/// A script that takes longer makes others wait.
const SHORT_US: u64 = 1000;
/// Scripts whose times are remembered, by worker. Two that fall together forget each other's.
const SCRIPTS_MAX: usize = 256;
/// Short runs after which an unknown script counts as short; twice as many after each time that this was wrong.
const RUNS_NEEDED: u16 = 2;
const RUNS_NEEDED_MAX: u16 = 4096;
/// Between two attempts when all errands wait for slots or for the gate.
const PAUSE: Duration = Duration::from_millis(1);

/// A command on its way to the side thread.
pub struct Errand {
    pub client: Arc<Client>,
    pub spec: &'static Spec,
    /// As it stood on the wire.
    pub raw: Vec<u8>,
    /// Its arguments in `raw`.
    pub spans: Vec<Span>,
    pub session: Session,
    /// It waits for a pause to end, and its client is counted as blocked.
    pub is_postponed: bool,
}

/// What became of an errand.
pub struct Done {
    client: u64,
    spec: &'static Spec,
    script: u64,
    /// Time that it took of the processor.
    us: u64,
    last: LastRun,
    reply: Vec<u8>,
    session: Session,
    /// It looked at data.
    is_data: bool,
    /// The term in which it began.
    term: u64,
    /// The connection ends: nobody may see the reply, or nobody waits for it.
    is_void: bool,
    /// It is done; else it has to wait, and nothing was done.
    has_ended: bool,
    /// Has to be written before the client is answered.
    emptied: Option<Emptied>,
}

/// How long a script takes.
#[derive(Clone, Copy, Default)]
struct Known {
    script: u64,
    /// Short runs in a row, as far as they are counted.
    short: u16,
    needed: u16,
    /// It changes things and has a loop: should that have no end, nobody could take it from its worker.
    stays_aside: bool,
}

/// Errands that wait for the side thread. Its worker takes back those that would wait for a slow script.
#[derive(Default)]
struct Orders {
    queue: SegQueue<Box<Errand>>,
    bell: Notify,
    /// The worker has ended.
    is_closed: AtomicBool,
}

/// Where a long command runs.
pub enum Choice {
    /// On its worker; with what its time is judged by, if it is a script that is known.
    InLine(Option<u64>),
    /// On the side thread.
    Aside,
}

/// A worker's side of the errands.
#[derive(Default)]
pub struct Errands {
    side: Option<Arc<Orders>>,
    /// Sent and not come back.
    underway: usize,
    known: Vec<Known>,
}

impl Drop for Errands {
    fn drop(&mut self) {
        if let Some(side) = &self.side {
            side.is_closed.store(true, Ordering::Release);
            side.bell.notify_one();
        }
    }
}

/// What a script is known by: its text, digest or name, under a seeded hash.
fn script_of<E: Env>(shared: &Shared<E>, spec: &Spec, args: Args) -> u64 {
    let name = args.get(1).copied().unwrap_or_default();
    // A function of the same name may be another once libraries have changed.
    let kind = (shared.engine.scripts.libraries.changes() << 16) + spec.id as u64 + 1;
    shared.engine.keyspace.hash(name) ^ kind.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Errands {
    /// Where a long command runs.
    pub fn choose<E: Env>(&self, shared: &Shared<E>, spec: &Spec, args: Args, session: &Session) -> Choice {
        // A transaction with scripts is as long as these; what is queued for one is not run.
        let is_exec = spec.has(flag::NOT_QUEUED);
        let may_leave = match &session.multi {
            Some(multi) => is_exec && multi.flags() & flag::SCRIPT != 0 && multi.may_run_aside(),
            None => !is_exec,
        };
        let is_plain = session.is_authenticated()
            && may_leave
            && !session.is_primary_link
            && session.importing.is_none()
            && (!session.is_subscribed() || session.is_resp3);
        if !shared.env.has_side_threads() || !is_plain {
            return Choice::InLine(None);
        }
        if !spec.has(flag::SCRIPT) {
            return Choice::Aside;
        }
        let script = script_of(shared, spec, args);
        let is_short = self.known.get(place(script)).is_some_and(|k| k.script == script && k.is_short());
        if is_short { Choice::InLine(Some(script)) } else { Choice::Aside }
    }

    /// Learns from a run of a script.
    pub fn judge(&mut self, script: u64, us: u64, last: LastRun) {
        if self.known.is_empty() {
            self.known.resize(SCRIPTS_MAX, Known::default());
        }
        let known = &mut self.known[place(script)];
        if known.script != script || known.needed == 0 {
            *known = Known { script, short: 0, needed: RUNS_NEEDED, stays_aside: false };
        }
        known.stays_aside |= last.has_acted && last.may_loop;
        if us < SHORT_US {
            known.short = (known.short + 1).min(known.needed);
            return;
        }
        if known.short >= known.needed {
            known.needed = (known.needed * 2).min(RUNS_NEEDED_MAX);
        }
        known.short = 0;
    }

    pub fn send<E: Env>(&mut self, shared: &Arc<Shared<E>>, worker: usize, errand: Errand) {
        let side = self.side.get_or_insert_with(|| {
            let orders = Arc::<Orders>::default();
            let (shared_, orders_) = (shared.clone(), orders.clone());
            let main = move || -> Pin<Box<dyn Future<Output = ()>>> {
                Box::pin(async move { Side::new(shared_, worker).run(orders_).await })
            };
            shared.env.spawn_thread(&format!("side-{worker}"), Box::new(main));
            orders
        });
        side.queue.push(Box::new(errand));
        side.bell.notify_one();
        self.underway += 1;
    }

    /// Takes back what the side thread has not taken up.
    fn take_back(&mut self) -> Vec<Errand> {
        let side = self.side.iter();
        let taken: Vec<_> =
            side.flat_map(|side| std::iter::from_fn(|| side.queue.pop().map(|e| *e))).collect();
        self.underway -= taken.len();
        taken
    }
}

impl Known {
    fn is_short(&self) -> bool {
        self.short >= self.needed && !self.stays_aside
    }
}

fn place(script: u64) -> usize {
    script as usize % SCRIPTS_MAX
}

/// What to do when somebody stays inside the gate, or has it closed, for long: say so if it is a slow script, else come
/// again.
pub fn gate_is_held<E: Env>(
    shared: &Shared<E>,
    turn: &mut Turn,
    session: &mut Session,
    resolved: &Result<&'static Spec, engine::Error>,
    out: &mut Reply,
) -> Outcome {
    let of_batch = std::mem::replace(&mut turn.now, shared.env.now());
    let is_refused = engine::refuse_busy(turn, session, resolved, out);
    turn.now = of_batch;
    if is_refused { Outcome::Done } else { Outcome::Busy(Slot::default()) }
}

/// Answers BUSY if a slow script runs.
fn tell_busy<E: Env>(shared: &Shared<E>, stats: &Stats, out: &mut Reply) -> bool {
    let busy = shared.busy_script();
    if let Some(error) = &busy {
        stats.count_error(error.code());
        out.error(&error.to_string());
    }
    busy.is_some()
}

/// The side thread.
struct Side<E: Env> {
    shared: Arc<Shared<E>>,
    worker: usize,
    local: Local,
    gate: GateReader,
}

impl<E: Env> Side<E> {
    fn new(shared: Arc<Shared<E>>, worker: usize) -> Side<E> {
        shared.env.step_back();
        let mailbox = shared.mail[worker].clone();
        let local = Local::new(shared.env.rand(), mailbox);
        let gate = shared.engine.keyspace.gate().register_patient();
        Side { shared, worker, local, gate }
    }

    /// Works until the worker ends.
    async fn run(mut self, orders: Arc<Orders>) {
        // Those that have to wait for a slot or for the gate.
        let mut waiting: VecDeque<Box<Errand>> = VecDeque::new();
        loop {
            let is_closed = orders.is_closed.load(Ordering::Acquire);
            if waiting.is_empty() && orders.queue.is_empty() {
                if is_closed {
                    return;
                }
                orders.bell.notified().await;
            }
            let mut has_run = false;
            for left in (0..=waiting.len()).rev() {
                let next = if left > 0 { waiting.pop_front() } else { orders.queue.pop() };
                let Some(mut errand) = next else { break };
                let done = self.attempt(&mut errand);
                self.postpone(&mut errand, done.is_none());
                match done {
                    Some(done) => {
                        has_run = true;
                        self.post(done);
                    }
                    None => waiting.push_back(errand),
                }
            }
            if !has_run && !waiting.is_empty() {
                if is_closed {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Brings the worker what it needs to answer, as soon as the disk has what the reply says.
    fn post(&self, mut done: Done) {
        let (mail, emptied) = (self.shared.mail[self.worker].clone(), done.emptied.take());
        let post = move || mail.post(Letter::Errand(Box::new(done)));
        match emptied {
            None => post(),
            Some(mut emptied) => {
                emptied.then = Some(Box::new(post));
                self.shared.persist.request(PersistRequest::Emptied(emptied));
            }
        }
    }

    /// Counts a client among those that wait while its errand is paused.
    fn postpone(&self, errand: &mut Errand, is_waiting: bool) {
        let shared = &self.shared;
        let is_paused = is_waiting && shared.pause.holds_writes(shared.env.now().mono);
        match (std::mem::replace(&mut errand.is_postponed, is_paused), is_paused) {
            (false, true) => shared.counters.blocked.fetch_add(1, Ordering::Relaxed),
            (true, false) => shared.counters.blocked.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// Runs an errand; `None`: it has to wait, and nothing was done.
    fn attempt(&mut self, errand: &mut Errand) -> Option<Done> {
        let mut session = errand.session.lend();
        errand.session.hand_over(&mut session);
        let mut done = self.attempt_as(errand, session);
        if !done.has_ended {
            done.session.hand_over(&mut errand.session);
        }
        done.has_ended.then_some(done)
    }

    fn attempt_as(&mut self, errand: &Errand, session: Session) -> Done {
        let shared = self.shared.clone();
        let args: SmallVec<[&[u8]; 8]> = errand.spans.iter().map(|s| s.of(&errand.raw)).collect();
        let mut done = Done {
            client: errand.client.id,
            spec: errand.spec,
            script: script_of(&shared, errand.spec, &args),
            us: 0,
            last: LastRun::default(),
            reply: Vec::new(),
            session,
            is_data: false,
            term: 0,
            is_void: false,
            has_ended: false,
            emptied: None,
        };
        if errand.client.is_gone.load(Ordering::Relaxed) {
            return Done { is_void: true, has_ended: true, ..done };
        }
        let begun_us = shared.env.busy_us();
        done.has_ended = Setting::with(&shared, |setting| self.run_in(setting, errand, &args, &mut done));
        done.us = shared.env.busy_us().saturating_sub(begun_us);
        done.last = self.local.scripts.last;
        done
    }

    /// False: it has to wait, and nothing was done.
    fn run_in(&mut self, setting: &Setting, errand: &Errand, args: Args, done: &mut Done) -> bool {
        let shared = &self.shared;
        let engine = &shared.engine;
        let is_lfu = setting.settings.engine.maxmemory_policy.is_lfu();
        engine.keyspace.set_clock(evict::fresh(setting.now.wall.0, is_lfu));
        self.local.ticked = (shared.env.ticks())();
        let stats: &Stats = &shared.stats[shared.mail.len() + self.worker];
        let looked_up = || stats.hits.get() + stats.misses.get();
        let looked_up_before = looked_up();
        let mut host = NodeHost {
            shared,
            client: &errand.client,
            connection: None,
            setting,
            is_exclusive: false,
            emptied: None,
        };
        let mut out = Reply::new(done.session.is_resp3);
        let resolved = Ok(errand.spec);
        let Some(inside) = self.gate.enter_soon() else {
            if !engine.keyspace.gate().is_held() {
                return false;
            }
            let mut turn = setting.turn(shared, stats, &mut self.local, &mut host, None);
            let outcome = gate_is_held(shared, &mut turn, &mut done.session, &resolved, &mut out);
            done.term = setting.term;
            done.reply = out.take();
            return matches!(outcome, Outcome::Done);
        };
        let inside = RefCell::new(inside);
        if setting.is_outdated(&shared.state) {
            return false;
        }
        let is_valid = Cell::new(true);
        let pass = || {
            inside.borrow_mut().give_way();
            let is_gone = errand.client.is_gone.load(Ordering::Relaxed);
            is_valid.set(!is_gone && !setting.is_outdated(&shared.state));
            is_valid.get()
        };
        let passage = Passage(&pass);
        let raw = Some(errand.raw.as_slice());
        let mut turn = setting.turn(shared, stats, &mut self.local, &mut host, None);
        // A script is one step: nobody closes the gate in its middle, nor does it run twice.
        turn.passage = (!errand.spec.has(flag::SCRIPT)).then_some(&passage);
        let mut outcome = execute(&mut turn, &mut done.session, &resolved, args, raw, &mut out);
        if !is_valid.get() {
            return false;
        }
        if matches!(outcome, Outcome::NeedsGate) {
            outcome = inside.borrow_mut().outside(|| {
                let Some(closed) = engine.keyspace.gate().try_close() else {
                    let mut turn = setting.turn(shared, stats, &mut self.local, &mut host, None);
                    return gate_is_held(shared, &mut turn, &mut done.session, &resolved, &mut out);
                };
                if setting.is_outdated(&shared.state) {
                    return Outcome::Busy(Slot::default());
                }
                host.is_exclusive = true;
                let mut turn = setting.turn(shared, stats, &mut self.local, &mut host, Some(&closed));
                execute(&mut turn, &mut done.session, &resolved, args, raw, &mut out)
            });
        }
        match outcome {
            Outcome::Done => {}
            Outcome::Busy(_) => return false,
            _ => unreachable!("{} answers", errand.spec.full_name),
        }
        // W12: as for a worker's commands.
        done.is_void = setting.has_lost_lease(shared);
        done.is_data = !errand.spec.has(flag::STALE)
            || looked_up() != looked_up_before
            || done.session.written != errand.session.written;
        done.emptied = host.emptied.take();
        done.term = setting.term;
        done.reply = out.take();
        stats.net_out.add(done.reply.len() as u64);
        true
    }
}

impl<E: Env> Worker<E> {
    /// Sends a command to the side thread; who would have to wait there for a slow script is told so. `at`: where `raw`
    /// begins in the buffer that the spans are of.
    pub(crate) fn send_errand(
        &self,
        connection: &Connection<E>,
        spec: &'static Spec,
        raw: &[u8],
        spans: &[Span],
        at: u32,
        session: &mut Session,
        out: &mut Reply,
    ) -> Outcome {
        if self.errands.borrow().underway > 0 && tell_busy(&self.shared, self.stats(), out) {
            return Outcome::Done;
        }
        let mut lent = session.lend();
        session.hand_over(&mut lent);
        let errand = Errand {
            client: connection.client.clone(),
            spec,
            raw: raw.to_vec(),
            spans: spans.iter().map(|s| Span { start: s.start - at, len: s.len }).collect(),
            session: lent,
            is_postponed: false,
        };
        connection.is_errand.set(true);
        self.errands.borrow_mut().send(&self.shared, self.index, errand);
        Outcome::Later
    }

    /// Tells those whose errands would wait for a slow script.
    pub(crate) fn refuse_errands(&self, setting: &Setting) {
        let slow_ms = setting.settings.engine.busy_reply_threshold_ms;
        if self.errands.borrow().underway < 2
            || !self.shared.engine.scripts.control.is_slow(setting.now.mono, slow_ms)
        {
            return;
        }
        let taken = self.errands.borrow_mut().take_back();
        for mut errand in taken {
            let mut out = Reply::new(errand.session.is_resp3);
            let resolved = Ok(errand.spec);
            let is_told = self.with_turn(setting, |turn| {
                engine::refuse_busy(turn, &mut errand.session, &resolved, &mut out)
            });
            if !is_told {
                self.errands.borrow_mut().send(&self.shared, self.index, errand);
                continue;
            }
            self.errands.borrow_mut().underway += 1;
            let done = Done {
                client: errand.client.id,
                spec: errand.spec,
                script: 0,
                us: 0,
                last: LastRun::default(),
                reply: out.take(),
                session: errand.session,
                is_data: false,
                term: setting.term,
                is_void: false,
                has_ended: true,
                emptied: None,
            };
            self.finish_errand(done);
        }
    }

    /// An errand came back.
    pub(crate) fn finish_errand(&self, mut done: Done) {
        self.errands.borrow_mut().underway -= 1;
        if done.spec.has(flag::SCRIPT) && !done.is_void && done.script != 0 {
            self.errands.borrow_mut().judge(done.script, done.us, done.last);
        }
        let Some(connection) = self.connection(done.client) else {
            // It may have entered its client anywhere after that had left.
            engine::multi::unwatch(&mut done.session, &self.shared.engine);
            self.shared.tracking.end(done.client);
            return crate::observe::end_monitoring(&self.shared, done.client);
        };
        self.bring(&connection, done);
    }

    /// Answers as the worker does after a batch.
    fn bring(&self, connection: &Rc<Connection<E>>, mut done: Done) {
        connection.is_errand.set(false);
        done.session.hand_over(&mut connection.session.borrow_mut());
        if connection.phase() != Phase::Waiting {
            return;
        }
        let has_written = connection.session.borrow().written != done.session.written;
        let written = done.session.written;
        connection.session.borrow_mut().take_back(done.session);
        let state = &self.shared.state;
        let until = if !state.is_gated.load(Ordering::Acquire) {
            0
        } else if done.is_data && state.is_read_gated.load(Ordering::Acquire) {
            self.shared.feed.end().0
        } else if has_written {
            written
        } else {
            0
        };
        let released = self.released();
        if done.is_void || released.term != done.term && (done.is_data || until > 0) {
            // Nobody knows whether what it says holds.
            return connection.close(false);
        }
        let bytes = done.reply.len();
        if bytes > LONG_REPLY_BYTES && self.is_too_long(connection, bytes, &self.shared.settings()) {
            return connection.close(false);
        }
        let now = self.shared.env.now();
        connection.set_phase(Phase::Ready);
        self.describe(connection, 0, now);
        connection.send_owned(done.reply, until, released);
        self.check_output(connection, &self.shared.settings(), now);
        self.go_on(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_short(errands: &Errands, script: u64) -> bool {
        let known = errands.known[place(script)];
        known.script == script && known.is_short()
    }

    #[test]
    fn a_script_is_short_after_some_short_runs() {
        let mut errands = Errands::default();
        errands.judge(7, 10, LastRun::default());
        assert!(!is_short(&errands, 7));
        errands.judge(7, 10, LastRun::default());
        assert!(is_short(&errands, 7));
    }

    #[test]
    fn a_script_that_was_wrongly_taken_for_short_has_to_prove_more() {
        let mut errands = Errands::default();
        (0..2).for_each(|_| errands.judge(7, 10, LastRun::default()));
        errands.judge(7, SHORT_US, LastRun::default());
        let runs = (1..).find(|_| {
            errands.judge(7, 10, LastRun::default());
            is_short(&errands, 7)
        });
        assert_eq!(runs, Some(4));
        for _ in 0..20 {
            (0..RUNS_NEEDED_MAX).for_each(|_| errands.judge(7, 10, LastRun::default()));
            assert!(is_short(&errands, 7));
            errands.judge(7, SHORT_US, LastRun::default());
        }
    }

    #[test]
    fn a_script_that_changes_things_in_a_loop_stays_aside() {
        let mut errands = Errands::default();
        (0..100).for_each(|_| errands.judge(7, 10, LastRun { has_acted: true, may_loop: true }));
        assert!(!is_short(&errands, 7));
    }

    #[test]
    fn scripts_that_share_a_place_do_not_share_what_is_known() {
        let mut errands = Errands::default();
        let other = 7 + SCRIPTS_MAX as u64;
        (0..2).for_each(|_| errands.judge(7, 10, LastRun::default()));
        errands.judge(other, 10, LastRun::default());
        assert!(!is_short(&errands, 7) && !is_short(&errands, other));
    }
}
