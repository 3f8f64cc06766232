//! Clients that wait: for keys, for what others do, for their time to be up.

use super::Worker;
use crate::connection::{Connection, Phase};
use crate::env::Env;
use crate::observe;
use engine::blocking::SlotSide;
use proto::Slot;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<E: Env> Worker<E> {
    pub(super) fn block(&self, connection: &Rc<Connection<E>>, waiter: Arc<engine::blocking::Waiter>) {
        self.shared.counters.blocked.fetch_add(1, Ordering::Relaxed);
        if waiter.timeout_ms > 0 {
            let sleep = tokio::time::sleep(Duration::from_millis(waiter.timeout_ms));
            *connection.deadline.borrow_mut() = Some(Box::pin(sleep));
        }
        connection.block(waiter);
    }

    /// A waiting connection's reply has come.
    pub(super) fn answer(&self, connection: &Rc<Connection<E>>, bytes: &[u8], written: u64) {
        let (phase, waiter) = (connection.phase(), connection.waiter());
        if let Some(waiter) = &waiter {
            self.shared.counters.blocked.fetch_sub(1, Ordering::Relaxed);
            if self.shared.observe.told_ticks() == 0 {
                self.tell_served(connection, waiter);
            }
        }
        *connection.deadline.borrow_mut() = None;
        let state = &self.shared.state;
        let until = if state.is_gated.load(Ordering::Acquire) { written } else { 0 };
        let released = self.released();
        let is_in_sync = self.shared.settings().durability != crate::config::Durability::Async;
        if written > 0 && is_in_sync && state.is_replica.load(Ordering::Acquire) {
            // Written by a tenure that is over: nobody knows whether it holds.
            return connection.close(false);
        }
        if written > 0 {
            connection.session.borrow_mut().written = written;
        }
        if matches!(phase, Phase::Blocked | Phase::Waiting) {
            self.postpone(connection, false);
            connection.set_phase(Phase::Ready);
        }
        self.describe(connection, 0, self.shared.env.now());
        connection.send(bytes, until, released);
        self.go_on(connection);
    }

    /// A connection that waited has its reply: it reads on, or goes on with what came meanwhile.
    pub(crate) fn go_on(&self, connection: &Rc<Connection<E>>) {
        connection.has_deferred.set(!connection.input.borrow().is_empty());
        self.count_buffers(connection);
        connection.wake();
    }

    /// A command that waited has been served: it belongs into the log of slow ones if all do.
    #[cold]
    pub(super) fn tell_served(&self, connection: &Rc<Connection<E>>, waiter: &engine::blocking::Waiter) {
        let args: Vec<&[u8]> = waiter.args().iter().map(|a| a.as_slice()).collect();
        observe::was_served(&self.shared, &connection.client, waiter.spec, &args);
    }

    /// The waiter's queues cannot be served by another: the command runs again here.
    pub(super) fn run_again(&self, connection: &Rc<Connection<E>>) {
        let Some(waiter) = connection.waiter() else { return };
        if !waiter.claim() {
            return;
        }
        self.end_wait(&waiter);
        let mut again = Vec::new();
        proto::resp::encode_command(waiter.args(), &mut again);
        again.extend_from_slice(&connection.input.borrow());
        *connection.input.borrow_mut() = again;
        *connection.deadline.borrow_mut() = None;
        connection.set_phase(Phase::Ready);
        connection.has_deferred.set(true);
        connection.wake();
    }

    /// A waiting connection's time is up.
    pub fn time_up(&self, connection: &Rc<Connection<E>>) {
        *connection.deadline.borrow_mut() = None;
        if let Some(waiter) = connection.waiter()
            && waiter.claim()
        {
            self.end_wait(&waiter);
            let reply = waiter.timeout_reply();
            self.finish_wait(connection, &reply);
        }
    }

    /// Ends a wait that was claimed for that. `tally`: what one for copies would answer.
    pub(super) fn unblock(&self, connection: &Rc<Connection<E>>, is_error: bool, tally: Option<Vec<u8>>) {
        let (spec_id, reply) = match (connection.waiter(), tally) {
            (Some(waiter), _) => {
                self.end_wait(&waiter);
                (waiter.spec().id, waiter.timeout_reply())
            }
            (None, Some(tally)) if connection.phase() == Phase::Waiting => {
                (connection.client.command.load(Ordering::Relaxed) - 1, tally)
            }
            _ => return,
        };
        self.postpone(connection, false);
        if !is_error {
            return self.finish_wait(connection, &reply);
        }
        self.stats().count_error("UNBLOCKED".into());
        self.stats().commands[spec_id].failed.add(1);
        self.finish_wait(connection, b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    }

    pub(super) fn finish_wait(&self, connection: &Rc<Connection<E>>, reply: &[u8]) {
        connection.set_phase(Phase::Ready);
        self.describe(connection, 0, self.shared.env.now());
        connection.send(reply, 0, self.released());
        self.go_on(connection);
    }

    /// Takes a waiter out of the queues beside its slots: later from one that is held, maybe by a script without end.
    pub(super) fn end_wait(&self, waiter: &Arc<engine::blocking::Waiter>) {
        waiter.claim();
        self.shared.counters.blocked.fetch_sub(1, Ordering::Relaxed);
        for slot in waiter.slots() {
            if !self.take_out(waiter, slot) {
                self.left_waiters.borrow_mut().push((waiter.clone(), slot));
            }
        }
    }

    /// False: the slot is held.
    pub(super) fn take_out(&self, waiter: &Arc<engine::blocking::Waiter>, slot: Slot) -> bool {
        let Some(mut guard) = self.shared.engine.keyspace.lock_soon(slot) else { return false };
        let state = guard.state_mut();
        if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
            side.forget(waiter);
            if side.is_empty() {
                state.side = None;
            }
        }
        true
    }
}
