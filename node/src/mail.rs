//! Letter boxes: how one thread reaches a client that another thread serves.

use crate::clients::Client;
use crate::worker::Bell;
use crossbeam::queue::SegQueue;
use engine::Session;
use engine::blocking::Mailbox;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a worker is told.
pub enum Letter<S> {
    /// A new connection: peer and own address.
    Socket(S, SocketAddr, SocketAddr),
    /// A connection that another worker has served.
    Moved(Box<Moved<S>>),
    /// For one client, by its id.
    Client(u64, Note),
    /// What became of a command that ran on the side thread.
    Errand(Box<crate::errand::Done>),
    /// Users have changed: whoever waits for what it may not any more is told so.
    UsersChanged,
    /// Large values that were removed, to be freed between turns.
    Garbage(crate::free::Garbage),
    /// It is time for background work.
    Round,
    /// Held replies may go.
    Released,
    /// The node ends.
    Stop,
}

/// What a client's worker is told of it.
pub enum Note {
    /// The reply for which it waited. `written`: end of what serving it put into the feed, 0 for nothing.
    Reply { bytes: Vec<u8>, written: u64 },
    /// It runs its command again.
    Retry,
    /// Something that no command of the client asked for: a message of a channel.
    Push(crate::message::Message),
    /// The connection ends, after what it was sent before if `is_soft`.
    Kill { is_soft: bool },
    /// The client's wait was ended by somebody, who claimed it: it is answered with an error, or as if its time were up.
    /// `tally`: what a wait for copies answers then.
    Unblock { is_error: bool, tally: Option<Vec<u8>> },
}

/// A connection on its way from one worker to another: nothing of it is under way but this.
pub struct Moved<S> {
    pub client: Arc<Client>,
    pub session: Session,
    pub socket: S,
}

/// A worker's letter box. Bounded by its senders: each letter answers a command, carries what it removed or a message whose receiver
/// has an output limit.
pub struct Mail<S> {
    letters: SegQueue<Letter<S>>,
    /// Rings for each letter.
    pub bell: Arc<Bell>,
    /// A letter for a round is on its way.
    is_round_due: AtomicBool,
}

impl<S> Default for Mail<S> {
    fn default() -> Self {
        Mail { letters: SegQueue::new(), bell: Arc::default(), is_round_due: AtomicBool::new(false) }
    }
}

impl<S> Mail<S> {
    pub fn post(&self, letter: Letter<S>) {
        self.letters.push(letter);
        self.bell.ring();
    }
    /// Asks for a round of background work, unless one is asked for already.
    pub fn post_round(&self) {
        if !self.is_round_due.swap(true, Ordering::Relaxed) {
            self.post(Letter::Round);
        }
    }
    /// The round that was asked for begins.
    pub fn round_begins(&self) {
        self.is_round_due.store(false, Ordering::Relaxed);
    }
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }
    pub fn take(&self) -> Option<Letter<S>> {
        self.letters.pop()
    }
}

impl<S: Send> Mailbox for Mail<S> {
    fn deliver(&self, session: u64, reply: Vec<u8>, written: u64) {
        self.post(Letter::Client(session, Note::Reply { bytes: reply, written }));
    }
    fn retry(&self, session: u64) {
        self.post(Letter::Client(session, Note::Retry));
    }
}
