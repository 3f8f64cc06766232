//! Streams: a log of entries in order of their ids, and the groups that read it.
//!
//! A stream may be empty: what it remembers (its last id, its groups) is worth keeping. Whoever removes the last entry does
//! not remove the key.

mod block;
mod group;
mod id;
mod log;
mod part;
#[cfg(test)]
mod tests;

pub use block::Fields;
pub use group::{Consumer, ConsumerId, Group, Pending};
pub use id::{IdText, StreamId};
pub use log::{Entry, Log, Range, RangeRev, Trim};
pub use part::Part;

use std::collections::BTreeMap;

/// Bytes that jemalloc takes for an allocation of `n` bytes: steps of 8 up to 64, then four classes a doubling.
const fn malloc_size(n: usize) -> usize {
    match n {
        0 => 0,
        1..=64 => (n + 7) & !7,
        _ => {
            let step = 1usize << ((n - 1).ilog2() - 2);
            (n + step - 1) & !(step - 1)
        }
    }
}

/// Entries and consumer groups.
#[derive(Clone, Default)]
pub struct Stream {
    pub log: Log,
    groups: BTreeMap<Box<[u8]>, Group>,
    group_bytes: usize,
}

impl Stream {
    /// An empty stream; allocates nothing.
    pub fn new() -> Stream {
        Stream::default()
    }

    /// The name OBJECT ENCODING gives.
    pub fn encoding(&self) -> &'static str {
        "stream"
    }

    /// Bytes allocated beyond the struct itself.
    pub fn heap_bytes(&self) -> usize {
        self.log.heap_bytes() + self.group_bytes
    }

    /// Number of groups.
    pub fn groups_len(&self) -> usize {
        self.groups.len()
    }
    /// Groups in order of their names.
    pub fn groups(&self) -> impl Iterator<Item = (&[u8], &Group)> {
        self.groups.iter().map(|(name, group)| (&**name, group))
    }
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Adds a group. False: the name is taken, and nothing was changed.
    pub fn add_group(&mut self, name: &[u8], group: Group) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        self.group_bytes += group.heap_bytes() + malloc_size(name.len());
        self.groups.insert(name.into(), group);
        true
    }
    /// Takes a group out.
    pub fn remove_group(&mut self, name: &[u8]) -> Option<Group> {
        let group = self.groups.remove(name)?;
        self.group_bytes -= group.heap_bytes() + malloc_size(name.len());
        Some(group)
    }
    /// Runs `f` on the log and a group; `None` where there is no such group.
    pub fn with_group<R>(&mut self, name: &[u8], f: impl FnOnce(&Log, &mut Group) -> R) -> Option<R> {
        let group = self.groups.get_mut(name)?;
        let before = group.heap_bytes();
        let result = f(&self.log, group);
        self.group_bytes = self.group_bytes + group.heap_bytes() - before;
        Some(result)
    }

    /// Whether a group has still to read the entry, or a consumer to acknowledge it.
    pub fn is_referenced(&self, id: StreamId) -> bool {
        self.groups.values().any(|group| group.last_id < id || group.pending(id).is_some())
    }
    /// Ends the wait for acknowledgements of an entry in all groups. Whether anybody waited.
    pub fn acknowledge_everywhere(&mut self, id: StreamId) -> bool {
        let mut is_any = false;
        for group in self.groups.values_mut() {
            let before = group.heap_bytes();
            is_any |= group.acknowledge(id);
            self.group_bytes = self.group_bytes + group.heap_bytes() - before;
        }
        is_any
    }
}
