//! Messages that many connections send: made once, and counted once for `maxmemory`, wherever they wait.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes messages, and knows what those take that somebody has yet to send.
#[derive(Clone, Default)]
pub struct Messages(Arc<AtomicUsize>);

/// A message, encoded.
#[derive(Clone)]
pub struct Message(Arc<Held>);

struct Held {
    bytes: Box<[u8]>,
    all: Messages,
}

impl Messages {
    pub fn make(&self, bytes: Vec<u8>) -> Message {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Message(Arc::new(Held { bytes: bytes.into(), all: self.clone() }))
    }
    pub fn held_bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Deref for Message {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_once_until_the_last_is_done_with_it() {
        let messages = Messages::default();
        let (one, other) = (messages.make(vec![1; 100]), messages.make(vec![2; 10]));
        let again = one.clone();
        drop(one);
        assert_eq!(messages.held_bytes(), 110);
        drop(again);
        assert_eq!((messages.held_bytes(), &other[..2]), (10, &[2, 2][..]));
    }
}
