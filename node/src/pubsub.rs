//! Channels: who listens to what, over all workers.

use crate::clients::Client;
use crate::message::{Message, Messages};
use engine::glob;
use proto::resp::Reply;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The three name spaces of subscriptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Channel = 0,
    Pattern = 1,
    Sharded = 2,
}

/// Who receives, and the protocol that it speaks.
#[derive(Clone)]
pub struct Receiver {
    pub client: Arc<Client>,
    pub is_resp3: bool,
}

#[derive(Default)]
struct Tables {
    /// By space, name and client.
    spaces: [BTreeMap<Vec<u8>, BTreeMap<u64, Receiver>>; 3],
}

/// All subscriptions of a node.
#[derive(Default)]
pub struct PubSub {
    tables: Mutex<Tables>,
}

impl PubSub {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn subscribe(&self, space: Space, name: &[u8], receiver: Receiver) {
        let mut tables = self.lock();
        tables.spaces[space as usize].entry(name.to_vec()).or_default().insert(receiver.client.id, receiver);
    }

    pub fn unsubscribe(&self, space: Space, name: &[u8], client: u64) {
        let mut tables = self.lock();
        let table = &mut tables.spaces[space as usize];
        if let Some(receivers) = table.get_mut(name) {
            receivers.remove(&client);
            if receivers.is_empty() {
                table.remove(name);
            }
        }
    }

    /// Hands a message to everyone who listens; returns how many did. `deliver` gets the encoded message.
    pub fn publish(
        &self,
        space: Space,
        channel: &[u8],
        message: &[u8],
        messages: &Messages,
        deliver: &mut dyn FnMut(&Receiver, Message),
    ) -> usize {
        let tables = self.lock();
        let mut count = 0;
        let mut send = |receivers: &BTreeMap<u64, Receiver>, pattern: Option<&[u8]>| {
            let mut encoded: [Option<Message>; 2] = [None, None];
            for receiver in receivers.values().filter(|r| !r.client.is_killed()) {
                let bytes = encoded[receiver.is_resp3 as usize].get_or_insert_with(|| {
                    messages.make(encode(space, channel, pattern, message, receiver.is_resp3))
                });
                deliver(receiver, bytes.clone());
                count += 1;
            }
        };
        if let Some(receivers) = tables.spaces[space as usize].get(channel) {
            send(receivers, None);
        }
        if space == Space::Channel {
            for (pattern, receivers) in &tables.spaces[Space::Pattern as usize] {
                if glob::matches(pattern, channel, false) {
                    send(receivers, Some(pattern));
                }
            }
        }
        count
    }

    /// Shows each name with those who listen to it.
    pub fn for_each(&self, space: Space, mut f: impl FnMut(&[u8], &BTreeMap<u64, Receiver>)) {
        self.lock().spaces[space as usize].iter().for_each(|(name, receivers)| f(name, receivers));
    }
    /// Names with a subscriber that match a pattern.
    pub fn names(&self, space: Space, pattern: Option<&[u8]>) -> Vec<Vec<u8>> {
        let tables = self.lock();
        let names = tables.spaces[space as usize].keys();
        names.filter(|n| pattern.is_none_or(|p| glob::matches(p, n, false))).cloned().collect()
    }
    pub fn count(&self, space: Space, name: &[u8]) -> usize {
        self.lock().spaces[space as usize].get(name).map_or(0, |r| r.len())
    }
    /// Number of different names with a subscriber.
    pub fn len(&self, space: Space) -> usize {
        self.lock().spaces[space as usize].len()
    }
}

fn encode(space: Space, channel: &[u8], pattern: Option<&[u8]>, message: &[u8], is_resp3: bool) -> Vec<u8> {
    let mut out = Reply::new(is_resp3);
    match (space, pattern) {
        (_, Some(pattern)) => {
            out.push(4);
            out.bulk(b"pmessage");
            out.bulk(pattern);
        }
        (Space::Sharded, None) => {
            out.push(3);
            out.bulk(b"smessage");
        }
        _ => {
            out.push(3);
            out.bulk(b"message");
        }
    }
    out.bulk(channel);
    out.bulk(message);
    out.take()
}

/// What one connection listens to.
#[derive(Default)]
pub struct Subscriptions {
    pub spaces: [BTreeSet<Vec<u8>>; 3],
    /// Bytes that the names take, about.
    pub bytes: usize,
}

impl Subscriptions {
    /// What a name takes beside its bytes: places in two tables.
    const NAME_BYTES: usize = 128;

    /// False: it was there already.
    pub fn insert(&mut self, space: Space, name: &[u8]) -> bool {
        let is_new = self.spaces[space as usize].insert(name.to_vec());
        self.bytes += if is_new { name.len() + Self::NAME_BYTES } else { 0 };
        is_new
    }
    /// False: it was not there.
    pub fn remove(&mut self, space: Space, name: &[u8]) -> bool {
        let was_there = self.spaces[space as usize].remove(name);
        self.bytes -= if was_there { name.len() + Self::NAME_BYTES } else { 0 };
        was_there
    }
}
