//! A worker: one thread that serves many connections and executes their commands itself.
//!
//! Connections parse into the worker's batch. Once all connections that were ready have done so, the batch runs: the
//! memory that its commands will touch is prefetched in stages (slot, segment, pointer, entry), then they are executed in
//! order, then each connection's replies are written with one system call.
//!
//! Invariant: nothing is awaited while a slot is locked or the gate is entered.

mod batch;
mod input;
mod reply;
mod round;
mod run;
mod setting;
mod wait;

use setting::Known;
pub use setting::Setting;

use crate::connection::{Connection, Phase};
use crate::env::Env;
use crate::errand::Errands;
use crate::mail::{Letter, Mail};
use crate::observe;
use crate::pubsub::Space;
use crate::shared::{Released, Shared};
use batch::Batch;
use crossbeam::utils::CachePadded;
use engine::stats::Stats;
use engine::{Local, Session};
use proto::Slot;
use proto::resp::Reply;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
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
    batch: RefCell<Batch<E>>,
    core: RefCell<Core>,
    gate: RefCell<GateReader>,
    known: RefCell<Known<E>>,
    parked: RefCell<Vec<Rc<Connection<E>>>>,
    /// Waiters whose wait is over and that stand beside slots yet.
    left_waiters: RefCell<Vec<(Arc<engine::blocking::Waiter>, Slot)>>,
    kick: Kick,
    is_stopped: Cell<bool>,
    stats: Arc<CachePadded<Stats>>,
    pub(crate) errands: RefCell<Errands>,
}

/// Wakes the task that runs batches, from others of its thread.
#[derive(Default)]
struct Kick {
    is_set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Kick {
    fn set(&self) {
        self.is_set.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
    async fn wait(&self) {
        std::future::poll_fn(|cx| {
            if self.is_set.take() {
                return Poll::Ready(());
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl<E: Env> Worker<E> {
    pub fn new(shared: Arc<Shared<E>>, index: usize) -> Rc<Worker<E>> {
        let mail = shared.mail[index].clone();
        let local = Local::new(shared.env.rand(), mail.clone());
        let gate = shared.engine.keyspace.gate().register();
        Rc::new(Worker {
            index,
            mail,
            connections: RefCell::default(),
            batch: RefCell::default(),
            core: RefCell::new(Core { local, out: Reply::new(false), expire_cursor: Default::default() }),
            gate: RefCell::new(gate),
            known: RefCell::new(Known::new(&shared)),
            parked: RefCell::default(),
            left_waiters: RefCell::default(),
            kick: Kick::default(),
            is_stopped: Cell::new(false),
            stats: shared.stats[index].clone(),
            errands: RefCell::default(),
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
        let runner = tokio::task::spawn_local(tokio::task::unconstrained(self.clone().run_batches()));
        while !self.is_stopped.get() {
            self.open_letters();
            if !self.is_stopped.get() {
                self.mail.wait().await;
            }
        }
        runner.abort();
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        connections.iter().for_each(|c| c.close(false));
    }

    /// Runs the batch one turn after its first command came, so that all connections that are ready join it.
    async fn run_batches(self: Rc<Self>) {
        let mut times_parked = 0u32;
        loop {
            self.kick.wait().await;
            self.run_batch();
            let parked = std::mem::take(&mut *self.parked.borrow_mut());
            if parked.is_empty() {
                times_parked = 0;
                continue;
            }
            // At first the slot's holder only needs the processor; a paused slot takes longer than a turn.
            times_parked += 1;
            match times_parked {
                1 => tokio::task::yield_now().await,
                _ if self.shared.pause.holds_writes(self.shared.env.now().mono) => {
                    tokio::time::sleep(PAUSE_ROUND).await;
                }
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
            for connection in parked {
                self.retry(&connection);
            }
        }
    }

    fn retry(&self, connection: &Rc<Connection<E>>) {
        if matches!(*connection.phase.borrow(), Phase::Parked) {
            connection.set_phase(Phase::Ready);
            connection.has_deferred.set(true);
            connection.wake();
        }
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
            Letter::Errand(done) => self.finish_errand(*done),
            Letter::Reply { client, bytes, written } => self.on(client, |c| self.answer(c, &bytes, written)),
            Letter::Retry(client) => self.on(client, |c| self.run_again(c)),
            Letter::Push { client, message } => {
                let released = self.released();
                self.on(client, |c| {
                    c.send_shared(message, released);
                    self.count_buffers(c);
                    if c.output_bytes() > 0 {
                        self.check_output(c, &self.shared.settings(), self.shared.env.now());
                    }
                });
            }
            Letter::Kill { client, is_soft } => self.on(client, |c| c.close(is_soft)),
            Letter::Unblock { client, is_error, tally } => {
                self.on(client, |c| self.unblock(c, is_error, tally));
            }
            Letter::UsersChanged => self.recheck_waiting(),
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
                    if connection.output_bytes() == 0 {
                        connection.wake();
                    }
                }
            }
            Letter::Stop => self.is_stopped.set(true),
        }
    }

    pub(crate) fn on(&self, client: u64, act: impl FnOnce(&Rc<Connection<E>>)) {
        let connection = self.connections.borrow().get(&client).cloned();
        if let Some(connection) = connection {
            act(&connection);
        }
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
        let connection = Rc::new(Connection::new(client, stream, session));
        self.connections.borrow_mut().insert(connection.id, connection.clone());
        tokio::task::spawn_local(connection.run(self.clone()));
    }

    /// Cleans up after a connection.
    pub fn forget(&self, connection: &Rc<Connection<E>>) {
        connection.set_phase(Phase::Closed);
        self.leave(connection);
        self.connections.borrow_mut().remove(&connection.id);
        self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
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
