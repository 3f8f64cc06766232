//! Consumer groups: how far a group has read, and what its consumers got but have not acknowledged.
//!
//! Invariant: every pending entry has one owner, in whose own list it is; all lists together are the group's.

use super::id::StreamId;
use super::log::Log;
use std::collections::{BTreeMap, BTreeSet};

/// A consumer group.
#[derive(Clone)]
pub struct Group {
    /// The last entry that was delivered to anybody.
    pub last_id: StreamId,
    /// Entries of the stream up to `last_id`, counted from its beginning; `None`: not known.
    pub entries_read: Option<i64>,
    pending: BTreeMap<StreamId, Pending>,
    numbers: BTreeMap<Box<[u8]>, ConsumerId>,
    consumers: Vec<Option<Consumer>>,
    free: Vec<ConsumerId>,
    name_bytes: usize,
}

/// A consumer's number in its group; used again after the consumer is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerId(u32);

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    pub owner: ConsumerId,
    /// Last delivery, in ms since 1970.
    pub delivered_ms: i64,
    /// Times it was delivered.
    pub deliveries: u64,
}

/// Who reads for a group.
#[derive(Clone)]
pub struct Consumer {
    name: Box<[u8]>,
    /// Last attempt to read or to claim, in ms since 1970.
    pub seen_ms: i64,
    /// Last time something was got, in ms since 1970; -1: never. As Redis 7.2 keeps it.
    pub active_ms: i64,
    pending: BTreeSet<StreamId>,
}

impl Consumer {
    pub fn name(&self) -> &[u8] {
        &self.name
    }
    /// Number of entries that wait for this consumer's acknowledgement.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }
    /// Ids from `from` on that wait for this consumer's acknowledgement.
    pub fn pending_from(&self, from: StreamId) -> impl Iterator<Item = StreamId> {
        self.pending.range(from..).copied()
    }
}

/// Bytes per pending entry in both lists: measured for ids that ascend.
const PENDING_BYTES: usize = 125;
/// Bytes per consumer and per group beside their names.
const CONSUMER_BYTES: usize = 160;
const GROUP_BYTES: usize = 288;

impl Group {
    pub fn new(last_id: StreamId, entries_read: Option<i64>) -> Group {
        Group {
            last_id,
            entries_read,
            pending: BTreeMap::new(),
            numbers: BTreeMap::new(),
            consumers: Vec::new(),
            free: Vec::new(),
            name_bytes: 0,
        }
    }

    /// Bytes allocated, estimated from counts.
    pub fn heap_bytes(&self) -> usize {
        GROUP_BYTES
            + self.pending.len() * PENDING_BYTES
            + self.numbers.len() * CONSUMER_BYTES
            + self.name_bytes
    }

    /// Says that an entry was delivered: the group has read up to it, if it had not before.
    // Redis 7.0: the counter goes on while nothing ahead was deleted, else it is found again where that can be.
    pub fn advance(&mut self, log: &Log, id: StreamId) {
        if id <= self.last_id {
            return;
        }
        self.entries_read = match self.entries_read {
            Some(n) if !log.has_tombstones_from(id) => Some(n.wrapping_add(1)),
            _ => log.read_counter(id),
        };
        self.last_id = id;
    }

    /// Entries that are yet to be delivered; `None`: not known.
    pub fn lag(&self, log: &Log) -> Option<i64> {
        let added = log.entries_added as i64;
        let read = match self.entries_read {
            _ if added == 0 => Some(0),
            Some(n) if !log.has_tombstones_from(self.last_id) => Some(n),
            _ => log.read_counter(self.last_id),
        };
        read.map(|n| added.wrapping_sub(n))
    }

    /// Number of consumers.
    pub fn consumers_len(&self) -> usize {
        self.numbers.len()
    }
    /// Consumers in order of their names.
    pub fn consumers(&self) -> impl Iterator<Item = &Consumer> {
        self.numbers.values().map(|id| self.by_id(*id))
    }
    pub fn find(&self, name: &[u8]) -> Option<ConsumerId> {
        self.numbers.get(name).copied()
    }
    /// Panics unless the consumer is there.
    pub fn by_id(&self, id: ConsumerId) -> &Consumer {
        self.consumers[id.0 as usize].as_ref().expect("the consumer is there")
    }
    /// Panics unless the consumer is there.
    pub fn by_id_mut(&mut self, id: ConsumerId) -> &mut Consumer {
        self.consumers[id.0 as usize].as_mut().expect("the consumer is there")
    }

    /// A new consumer; `None` where the name is taken.
    pub fn add_consumer(&mut self, name: &[u8], now_ms: i64) -> Option<ConsumerId> {
        if self.numbers.contains_key(name) {
            return None;
        }
        let consumer =
            Consumer { name: name.into(), seen_ms: now_ms, active_ms: -1, pending: BTreeSet::new() };
        let id = self.free.pop().unwrap_or_else(|| {
            self.consumers.push(None);
            ConsumerId(u32::try_from(self.consumers.len() - 1).expect("fewer than 2^32 consumers"))
        });
        self.consumers[id.0 as usize] = Some(consumer);
        self.numbers.insert(name.into(), id);
        self.name_bytes += 2 * super::malloc_size(name.len());
        Some(id)
    }

    /// Removes a consumer and forgets what waits for its acknowledgement; returns how many entries that were.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let id = self.numbers.remove(name)?;
        let consumer = self.consumers[id.0 as usize].take().expect("a name has its consumer");
        self.free.push(id);
        self.name_bytes -= 2 * super::malloc_size(name.len());
        consumer.pending.iter().for_each(|entry| {
            self.pending.remove(entry);
        });
        Some(consumer.pending.len())
    }

    /// Number of entries that wait for an acknowledgement.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }
    pub fn pending(&self, id: StreamId) -> Option<&Pending> {
        self.pending.get(&id)
    }
    pub fn pending_mut(&mut self, id: StreamId) -> Option<&mut Pending> {
        self.pending.get_mut(&id)
    }
    pub fn first_pending(&self) -> Option<StreamId> {
        self.pending.keys().next().copied()
    }
    pub fn last_pending(&self) -> Option<StreamId> {
        self.pending.keys().next_back().copied()
    }
    /// Entries from `from` on that wait for an acknowledgement.
    pub fn pending_from(&self, from: StreamId) -> impl Iterator<Item = (StreamId, &Pending)> {
        self.pending.range(from..).map(|(id, pending)| (*id, pending))
    }

    /// Makes an entry wait for the acknowledgement of `pending.owner`, whoever had it before.
    pub fn assign(&mut self, id: StreamId, pending: Pending) {
        let before = self.pending.insert(id, pending);
        match before {
            Some(old) if old.owner == pending.owner => return,
            Some(old) => {
                self.by_id_mut(old.owner).pending.remove(&id);
            }
            None => {}
        }
        self.by_id_mut(pending.owner).pending.insert(id);
    }

    /// Ends the wait for an acknowledgement. False: nobody waited.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        let Some(pending) = self.pending.remove(&id) else { return false };
        self.by_id_mut(pending.owner).pending.remove(&id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> StreamId {
        StreamId::new(ms, 0)
    }
    fn pending(owner: ConsumerId) -> Pending {
        Pending { owner, delivered_ms: 1, deliveries: 1 }
    }

    #[test]
    fn an_entry_has_one_owner() {
        let mut group = Group::new(StreamId::MIN, None);
        let a = group.add_consumer(b"a", 0).unwrap();
        let b = group.add_consumer(b"b", 0).unwrap();
        assert_eq!(group.add_consumer(b"a", 0), None);
        group.assign(id(1), pending(a));
        group.assign(id(1), pending(b));
        group.assign(id(2), pending(b));
        assert_eq!((group.by_id(a).pending_len(), group.by_id(b).pending_len()), (0, 2));
        assert_eq!(group.pending_len(), 2);
        assert!(group.acknowledge(id(1)) && !group.acknowledge(id(1)));
        assert_eq!(group.remove_consumer(b"b"), Some(1));
        assert_eq!((group.pending_len(), group.consumers_len()), (0, 1));
    }

    #[test]
    fn bytes_come_back_with_what_is_removed() {
        let mut group = Group::new(StreamId::MIN, None);
        let empty = group.heap_bytes();
        for round in 0..3 {
            let name = format!("consumer {round}");
            let consumer = group.add_consumer(name.as_bytes(), 0).unwrap();
            (1..50).for_each(|n| group.assign(id(n), pending(consumer)));
            assert!(group.heap_bytes() > empty + 49 * 40);
            assert_eq!(group.remove_consumer(name.as_bytes()), Some(49));
            assert_eq!(group.heap_bytes(), empty);
        }
        assert_eq!(group.consumers.len(), 1);
    }
}
