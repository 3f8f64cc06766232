//! Letter boxes: how one thread reaches a client that another thread serves.

use crate::worker::Bell;
use crossbeam::queue::SegQueue;
use engine::blocking::Mailbox;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a worker is told.
pub enum Letter<S> {
    /// A new connection: peer and own address.
    Socket(S, SocketAddr, SocketAddr),
    /// The reply of a client that waited. `written`: end of what serving it put into the feed, 0 for nothing.
    Reply { client: u64, bytes: Vec<u8>, written: u64 },
    /// What became of a command that ran on the side thread.
    Errand(Box<crate::errand::Done>),
    /// The client runs its command again.
    Retry(u64),
    /// Something that no command of the client asked for: a message of a channel.
    Push { client: u64, message: crate::message::Message },
    /// The connection ends, after what it was sent before if `is_soft`.
    Kill { client: u64, is_soft: bool },
    /// The client's wait was ended by somebody, who claimed it: it is answered with an error, or as if its time were up.
    /// `tally`: what a wait for copies answers then.
    Unblock { client: u64, is_error: bool, tally: Option<Vec<u8>> },
    /// Users have changed: whoever waits for what it may not any more is told so.
    UsersChanged,
    /// It is time for background work.
    Round,
    /// Held replies may go.
    Released,
    /// The node ends.
    Stop,
}

/// A worker's letter box. Bounded by its senders: each letter answers a command or carries a message whose receiver
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
        self.post(Letter::Reply { client: session, bytes: reply, written });
    }
    fn retry(&self, session: u64) {
        self.post(Letter::Retry(session));
    }
}
