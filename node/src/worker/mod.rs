//! A worker: one thread that serves many connections and executes their commands itself.
//!
//! At each turn the worker polls the connections that were woken. They parse into its batch, and then the batch runs: the
//! memory that its commands will touch is prefetched in stages (slot, segment, pointer, entry), then they are executed in
//! order, then each connection's replies are written with one system call.
//!
//! Invariant: nothing is awaited while a slot is locked or the gate is entered.

mod batch;
mod calls;
mod input;
mod linger;
mod reply;
mod round;
mod run;
mod setting;
mod share;
mod wait;

pub use calls::Bell;
pub use linger::LastSeen;
use setting::Known;
pub use setting::Setting;

use crate::clients::Client;
use crate::connection::{Connection, Phase};
use crate::env::Env;
use crate::errand::Errands;
use crate::free::Freeing;
use crate::mail::{Letter, Mail, Note};
use crate::observe;
use crate::pubsub::Space;
use crate::shared::{Released, Shared};
use batch::Batch;
use calls::Calls;
use crossbeam::utils::CachePadded;
use engine::stats::Stats;
use engine::{Local, Session};
use linger::Linger;
use proto::Slot;
use proto::resp::Reply;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use storage::GateReader;

/// A reply that is looked at before it is sent: shorter ones are within every limit that makes sense. Redis's buffer of a
/// client that is not counted.
pub(crate) const LONG_REPLY_BYTES: usize = 16 * 1024;
/// Between two looks at whether a pause has ended.
const PAUSE_ROUND: Duration = Duration::from_millis(10);

/// What the worker executes with.
struct Core {
    local: Local,
    out: Reply,
    expire_cursor: engine::expire::Cursor,
}

/// See the module's head.
pub struct Worker<E: Env> {
    pub shared: Arc<Shared<E>>,
    pub index: usize,
    pub mail: Arc<Mail<E::Socket>>,
    pub connections: RefCell<BTreeMap<u64, Rc<Connection<E>>>>,
    places: RefCell<Places<E>>,
    calls: Arc<Calls>,
    /// Room for the places of those that are polled in this turn.
    called: RefCell<Vec<u32>>,
    /// `None` while it runs.
    batch: RefCell<Option<Box<Batch<E>>>>,
    core: RefCell<Core>,
    gate: RefCell<GateReader>,
    known: RefCell<Known<E>>,
    linger: RefCell<Linger>,
    parked: RefCell<Vec<Rc<Connection<E>>>>,
    /// When the parked ones run their commands again.
    retry: RefCell<Retry>,
    /// What came for clients that are on their way here from another worker.
    early: RefCell<Vec<(u64, Note)>>,
    /// Waiters whose wait is over and that stand beside slots yet.
    left_waiters: RefCell<Vec<(Arc<engine::blocking::Waiter>, Slot)>>,
    is_stopped: Cell<bool>,
    freeing: RefCell<Freeing>,
    /// Commands that the last batch ran.
    ran: Cell<usize>,
    stats: Arc<CachePadded<Stats>>,
    pub(crate) errands: RefCell<Errands>,
}

/// Where connections are found by who wakes them; places of those that ended are used again.
struct Places<E: Env> {
    all: Vec<Option<Rc<Connection<E>>>>,
    free: Vec<u32>,
}

/// When commands that found their slot held run again.
#[derive(Default)]
enum Retry {
    /// None did, at the last try.
    #[default]
    None,
    /// At the next turn.
    Soon,
    At(Pin<Box<tokio::time::Sleep>>),
    /// They are at it.
    Now,
}

impl<E: Env> Worker<E> {
    pub fn new(shared: Arc<Shared<E>>, index: usize) -> Rc<Worker<E>> {
        let mail = shared.mail[index].clone();
        let local = Local::new(shared.env.rand(), mail.clone());
        let gate = shared.engine.keyspace.gate().register();
        Rc::new(Worker {
            index,
            connections: RefCell::default(),
            places: RefCell::new(Places { all: Vec::new(), free: Vec::new() }),
            calls: Calls::new(mail.bell.clone()),
            called: RefCell::default(),
            batch: RefCell::new(Some(Box::default())),
            core: RefCell::new(Core { local, out: Reply::new(false), expire_cursor: Default::default() }),
            gate: RefCell::new(gate),
            known: RefCell::new(Known::new(&shared)),
            linger: RefCell::default(),
            parked: RefCell::default(),
            retry: RefCell::default(),
            early: RefCell::default(),
            left_waiters: RefCell::default(),
            is_stopped: Cell::new(false),
            freeing: RefCell::default(),
            ran: Cell::new(0),
            stats: shared.stats[index].clone(),
            errands: RefCell::default(),
            mail,
            shared,
        })
    }

    /// Serves until the node stops. A batch, and a message to many, write to more sockets than tokio lets a task have in one
    /// go (128): further ones would look full, and what is for them be copied and wait.
    pub async fn run(self: Rc<Self>) {
        tokio::task::unconstrained(self.serve()).await;
    }

    async fn serve(self: Rc<Self>) {
        self.shared.env.step_forward();
        loop {
            self.turn();
            if self.is_stopped.get() {
                break;
            }
            if self.freeing.borrow_mut().go_on(self.ran.take(), &self.shared.disposal) {
                self.mail.bell.ring();
            }
            let rest = self.linger.borrow_mut().take_rest();
            if self.mail.bell.is_rung() {
                // The sockets are looked at before those that go on have their next turn.
                tokio::task::yield_now().await;
            } else if let Some(rest) = rest {
                self.stats().rests.add(1);
                self.shared.env.stall(rest);
            }
            poll_fn(|cx| self.poll_wait(cx)).await;
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        connections.iter().for_each(|c| c.close(false));
        self.poll_called();
    }

    /// All connections that are ready join the batch before it runs.
    fn turn(self: &Rc<Self>) {
        if !self.mail.is_empty() {
            self.open_letters();
            if self.is_stopped.get() {
                return;
            }
        }
        if matches!(*self.retry.borrow(), Retry::Soon) {
            self.retry_parked();
        }
        self.poll_called();
        self.run_batch();
        self.see_to_parked();
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        let is_time = match &mut *self.retry.borrow_mut() {
            Retry::At(time) => time.as_mut().poll(cx).is_ready(),
            _ => false,
        };
        if is_time {
            self.retry_parked();
        }
        self.mail.bell.poll(cx)
    }

    fn poll_called(self: &Rc<Self>) {
        let mut called = self.called.take();
        self.calls.take(&mut called);
        for &place in &called {
            let connection = self.places.borrow().all[place as usize].clone();
            if let Some(connection) = connection
                && connection.poll(self).is_ready()
            {
                self.part_with(&connection);
            }
        }
        called.clear();
        *self.called.borrow_mut() = called;
    }

    /// A connection has ended, or is more than commands and replies from now on.
    fn part_with(self: &Rc<Self>, connection: &Rc<Connection<E>>) {
        let (debugged, sync) = (connection.debugged.take(), connection.sync.take());
        if connection.is_closed() || debugged.is_none() && sync.is_none() {
            return self.forget(connection);
        }
        // Its first poll is yet to come, and looks at everything.
        connection.set_apart(Some(Waker::noop().clone()));
        let (worker, connection) = (self.clone(), connection.clone());
        tokio::task::spawn_local(async move {
            let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            connection.set_apart(Some(task));
            if let Some(request) = debugged {
                crate::debugger::serve(&worker, &connection, request).await;
                connection.set_apart(None);
                return connection.wake();
            }
            if let Some(request) = sync {
                crate::replica::serve(&worker.shared, &connection, request).await;
            }
            worker.forget(&connection);
        });
    }

    fn retry_parked(&self) {
        *self.retry.borrow_mut() = Retry::Now;
        for connection in self.parked.take() {
            if connection.phase() == Phase::Parked {
                connection.set_phase(Phase::Ready);
                connection.has_deferred.set(true);
                connection.wake();
            }
        }
    }

    /// Says when those run again whose slots were held.
    fn see_to_parked(&self) {
        let mut retry = self.retry.borrow_mut();
        let is_waiting = matches!(*retry, Retry::Soon | Retry::At(_));
        if is_waiting || self.parked.borrow().is_empty() && matches!(*retry, Retry::None) {
            return;
        }
        *retry = match *retry {
            _ if self.parked.borrow().is_empty() => Retry::None,
            // At first the slot's holder only needs the processor; a paused slot takes longer than a turn.
            Retry::None => {
                self.mail.bell.ring();
                Retry::Soon
            }
            _ if self.shared.pause.holds_writes(self.shared.env.now().mono) => {
                Retry::At(Box::pin(tokio::time::sleep(PAUSE_ROUND)))
            }
            _ => Retry::At(Box::pin(tokio::time::sleep(Duration::from_millis(1)))),
        };
    }

    /// Opens what came by now: letters that were posted before a command was sent are opened before it runs. So a client
    /// that has a reply, whatever its worker, finds the others told of what that command did.
    fn open_letters(self: &Rc<Self>) {
        while !self.is_stopped.get()
            && let Some(letter) = self.mail.take()
        {
            self.open(letter);
        }
    }

    fn open(self: &Rc<Self>, letter: Letter<E::Socket>) {
        match letter {
            Letter::Socket(socket, peer, own) => self.accept(socket, peer, own),
            Letter::Moved(moved) => self.take_in(*moved),
            Letter::Client(client, note) => match self.connection(client) {
                Some(connection) => self.heed(&connection, note),
                None => self.pass_on(client, note),
            },
            Letter::Errand(done) => self.finish_errand(*done),
            Letter::UsersChanged => self.recheck_waiting(),
            Letter::Garbage(garbage) => self.freeing.borrow_mut().take(garbage),
            Letter::Round => {
                self.mail.round_begins();
                self.round();
            }
            Letter::Released => {
                let released = self.released();
                let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
                for connection in connections.iter().filter(|c| c.output_bytes() > 0) {
                    if connection.flush(released).is_err() {
                        connection.close(false);
                    }
                    if connection.output_bytes() == 0 || connection.is_cut() {
                        connection.wake();
                    }
                }
            }
            Letter::Stop => self.is_stopped.set(true),
        }
    }

    /// Does what one is told of a client.
    fn heed(&self, connection: &Rc<Connection<E>>, note: Note) {
        match note {
            Note::Reply { bytes, written } => self.answer(connection, &bytes, written),
            Note::Retry => self.run_again(connection),
            Note::Push(message) => {
                connection.send_shared(message, self.released());
                self.count_buffers(connection);
                if connection.output_bytes() > 0 {
                    self.check_output(connection, &self.shared.settings(), self.shared.env.now());
                }
            }
            Note::Kill { is_soft } => connection.close(is_soft),
            Note::Unblock { is_error, tally } => self.unblock(connection, is_error, tally),
        }
    }

    /// The connection of a client that this worker serves.
    pub(crate) fn connection(&self, client: u64) -> Option<Rc<Connection<E>>> {
        self.connections.borrow().get(&client).cloned()
    }

    pub(crate) fn released(&self) -> Released {
        self.shared.released()
    }

    fn accept(self: &Rc<Self>, socket: E::Socket, peer: std::net::SocketAddr, own: std::net::SocketAddr) {
        let Ok(stream) = self.shared.env.adopt(socket) else {
            self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let client = self.shared.clients.add(self.index, peer, own, self.shared.env.now().wall.0);
        let mut session = Session::new(client.id);
        session.is_tls = self.shared.env.is_secure(&stream);
        self.shared.users.begin(&mut session);
        session.user().into_iter().for_each(|user| client.set_user(user));
        self.attach(client, session, stream);
    }

    /// A client's connection is this worker's from now on.
    fn attach(
        self: &Rc<Self>,
        client: Arc<Client>,
        session: Session,
        stream: E::Stream,
    ) -> Rc<Connection<E>> {
        let connection = {
            let places = &mut *self.places.borrow_mut();
            let place = places.free.pop().unwrap_or_else(|| {
                places.all.push(None);
                places.all.len() as u32 - 1
            });
            let waker = self.calls.waker(place);
            let connection = Rc::new(Connection::new(client, stream, session, place, waker));
            places.all[place as usize] = Some(connection.clone());
            connection
        };
        self.connections.borrow_mut().insert(connection.id, connection.clone());
        connection.wake();
        connection
    }

    /// Cleans up after a connection.
    pub fn forget(&self, connection: &Rc<Connection<E>>) {
        connection.set_phase(Phase::Closed);
        self.leave(connection);
        self.connections.borrow_mut().remove(&connection.id);
        self.free_place(connection.place);
        self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
    }

    fn free_place(&self, place: u32) {
        let places = &mut *self.places.borrow_mut();
        places.all[place as usize] = None;
        places.free.push(place);
    }

    /// Takes a connection out of all registers. One that says goodbye is in none when it is answered.
    fn leave(&self, connection: &Rc<Connection<E>>) {
        if connection.has_left.replace(true) {
            return;
        }
        if let Some(waiter) = connection.left_waiting.take() {
            self.end_wait(&waiter);
        }
        engine::multi::unwatch(&mut connection.session.borrow_mut(), &self.shared.engine);
        for (space, names) in [Space::Channel, Space::Pattern, Space::Sharded]
            .into_iter()
            .zip(&connection.subscriptions.borrow().spaces)
        {
            names.iter().for_each(|name| self.shared.pubsub.unsubscribe(space, name, connection.id));
        }
        self.shared.tracking.end(connection.id);
        self.postpone(connection, false);
        if connection.session.borrow().is_monitor {
            observe::end_monitoring(&self.shared, connection.id);
        }
        crate::replica::forget_client(&self.shared, connection.id);
        self.shared.clients.remove(connection.id);
    }

    /// The counters of this worker.
    #[inline]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
