//! Messages that many connections send: made once, and counted once for `maxmemory`, from when the first of them has to wait
//! for its client to read. What is on its way to a connection is not: it takes no time, and messages about keys that were
//! evicted would evict more.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Makes messages, and knows what those take that wait for a client.
#[derive(Clone, Default)]
pub struct Messages(Arc<AtomicUsize>);

/// A message, encoded.
#[derive(Clone)]
pub struct Message(Arc<Held>);

struct Held {
    bytes: Box<[u8]>,
    is_counted: AtomicBool,
    all: Messages,
}

impl Messages {
    pub fn make(&self, bytes: Vec<u8>) -> Message {
        let (bytes, is_counted) = (bytes.into(), AtomicBool::new(false));
        Message(Arc::new(Held { bytes, is_counted, all: self.clone() }))
    }
    pub fn held_bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Message {
    /// It waits for a client: it counts until the last connection is done with it.
    pub fn count(&self) {
        if !self.0.is_counted.swap(true, Ordering::Relaxed) {
            self.0.all.0.fetch_add(self.0.bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if *self.is_counted.get_mut() {
            self.all.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
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
        assert_eq!(messages.held_bytes(), 0, "they are on their way");
        [&one, &again, &other].iter().for_each(|message| message.count());
        drop(one);
        assert_eq!(messages.held_bytes(), 110);
        drop(again);
        assert_eq!((messages.held_bytes(), &other[..2]), (10, &[2, 2][..]));
    }
}
