//! Connections that move from worker to worker: see [`crate::crew`].
//!
//! Invariant: at any time one worker serves a connection, and the register of clients says which, or which is about to. Who
//! is told something of a client that is not there passes it on, or keeps it until the client comes.

use super::{Setting, Worker};
use crate::clients::Client;
use crate::connection::Connection;
use crate::crew::Spent;
use crate::env::Env;
use crate::mail::{Letter, Moved, Note};
use crate::shared::Shared;
use std::rc::Rc;
use std::sync::atomic::Ordering;

impl<E: Env> Worker<E> {
    /// Does this worker's part in judging how many serve, and what follows from it.
    pub(super) fn gather(&self, setting: &Setting) {
        let Shared { env, crew, .. } = &*self.shared;
        if self.shared.mail.len() == 1 {
            return; // there is nobody to share with
        }
        crew.tell(self.index, Spent { ran_us: env.busy_us(), waited_us: env.waited_us() });
        if self.index == 0 {
            crew.judge(setting.now.mono, setting.settings.workers_active);
        }
        self.share_out();
    }

    /// Hands connections to other workers: all if this one is not to serve at present, else those above its share.
    fn share_out(&self) {
        if self.above_share().is_none() {
            return;
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            let Some(to) = self.above_share() else { return };
            if connection.is_at_rest() {
                self.hand_over(connection, to);
            }
        }
    }

    /// Who should have one of this worker's connections. A small difference is left: they come and go.
    fn above_share(&self) -> Option<usize> {
        let load = |i: usize| self.shared.load[i].load(Ordering::Relaxed);
        let to = self.shared.least_loaded();
        let kept = if self.index < self.shared.crew.active() { load(to) + load(to) / 4 + 1 } else { 0 };
        (load(self.index) > kept).then_some(to)
    }

    fn hand_over(&self, connection: Rc<Connection<E>>, to: usize) {
        const KNOWN_BY: usize = 3; // by id, by place, and to our caller
        if Rc::strong_count(&connection) > KNOWN_BY {
            return;
        }
        self.connections.borrow_mut().remove(&connection.id);
        self.free_place(connection.place);
        let Some(connection) = Rc::into_inner(connection) else { unreachable!("nobody else has it") };
        let (client, session, stream) = connection.into_parts();
        match self.shared.env.release(stream) {
            Ok(socket) => {
                self.stats().moves.add(1);
                self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
                self.shared.load[to].fetch_add(1, Ordering::Relaxed);
                client.move_to(to);
                self.shared.mail[to].post(Letter::Moved(Box::new(Moved { client, session, socket })));
            }
            Err(error) => self.lose(&client, &error),
        }
    }

    /// Serves a connection that another worker has served.
    pub(super) fn take_in(self: &Rc<Self>, moved: Moved<E::Socket>) {
        let Moved { client, session, socket } = moved;
        let early: Vec<_> = self.early.borrow_mut().extract_if(.., |(id, _)| *id == client.id).collect();
        match self.shared.env.adopt(socket) {
            Ok(stream) => {
                let connection = self.attach(client, session, stream);
                if connection.client.is_killed() {
                    connection.close(false);
                }
                early.into_iter().for_each(|(_, note)| self.heed(&connection, note));
            }
            Err(error) => self.lose(&client, &error),
        }
    }

    /// The client is not here: it has moved, is about to come, or has ended.
    #[cold]
    pub(super) fn pass_on(&self, client: u64, note: Note) {
        match self.shared.clients.get(client).map(|client| client.worker()) {
            Some(worker) if worker == self.index => self.early.borrow_mut().push((client, note)),
            Some(worker) => self.shared.mail[worker].post(Letter::Client(client, note)),
            None => {}
        }
    }

    /// A connection that was on its way is gone: the system has refused it.
    #[cold]
    fn lose(&self, client: &Client, error: &std::io::Error) {
        tracing::warn!(client = client.id, peer = %client.peer, %error, "closed: it could not be moved to another worker");
        crate::replica::forget_client(&self.shared, client.id);
        self.shared.clients.remove(client.id);
        self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
    }
}
