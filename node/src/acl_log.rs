//! ACL LOG: who was denied what. Entries that are alike and close in time are one, with a count, as in Redis.

use engine::acl::{Context, Reason};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One thing that was denied, perhaps several times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: u64,
    pub count: u64,
    pub reason: Reason,
    pub context: Context,
    /// The command, key or channel.
    pub object: Vec<u8>,
    pub user: Vec<u8>,
    /// Wall clock, in ms.
    pub created_ms: i64,
    pub updated_ms: i64,
    /// The client as CLIENT LIST showed it, the last one.
    pub client: String,
}

/// See the module's head.
#[derive(Default)]
pub struct AclLog {
    state: Mutex<State>,
    counts: [AtomicU64; 4],
}

#[derive(Default)]
struct State {
    /// The newest first.
    entries: VecDeque<Entry>,
    next_id: u64,
}

impl AclLog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry, of which id, count and creation are set here. At most `max` entries are kept.
    pub fn add(&self, entry: Entry, max: usize) {
        /// Entries among which one that is alike is looked for, and for how long.
        const LOOKED_AT: usize = 10;
        const ALIKE_MS: i64 = 60_000;
        self.counts[entry.reason as usize].fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let is_alike = |e: &Entry| {
            (e.reason, e.context) == (entry.reason, entry.context)
                && (e.updated_ms - entry.updated_ms).abs() <= ALIKE_MS
                && e.object == entry.object
                && e.user == entry.user
        };
        let known = state.entries.iter().take(LOOKED_AT).position(is_alike);
        let entry = match known.and_then(|place| state.entries.remove(place)) {
            Some(known) => {
                Entry { count: known.count + 1, client: entry.client, updated_ms: entry.updated_ms, ..known }
            }
            None => {
                state.next_id += 1;
                Entry { id: state.next_id - 1, count: 1, created_ms: entry.updated_ms, ..entry }
            }
        };
        state.entries.push_front(entry);
        state.entries.truncate(max);
    }

    /// The newest entries, the newest first.
    pub fn newest(&self, count: usize) -> Vec<Entry> {
        self.lock().entries.iter().take(count).cloned().collect()
    }
    pub fn clear(&self) {
        self.lock().entries.clear();
    }
    /// How often a reason was given since the node began or CONFIG RESETSTAT.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }
    pub fn reset_counts(&self) {
        self.counts.iter().for_each(|c| c.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(object: &str, at_ms: i64) -> Entry {
        Entry {
            id: 0,
            count: 0,
            reason: Reason::Key,
            context: Context::Toplevel,
            object: object.into(),
            user: b"u".to_vec(),
            created_ms: 0,
            updated_ms: at_ms,
            client: String::new(),
        }
    }

    fn shown(log: &AclLog) -> Vec<(String, u64)> {
        let text = |e: Entry| (String::from_utf8(e.object).unwrap(), e.count);
        log.newest(10).into_iter().map(text).collect()
    }

    #[test]
    fn entries_that_are_alike_are_one() {
        let log = AclLog::default();
        for (object, at_ms) in [("a", 0), ("b", 1), ("a", 2), ("a", 70_000)] {
            log.add(entry(object, at_ms), 10);
        }
        assert_eq!(shown(&log), [("a".into(), 1), ("a".into(), 2), ("b".into(), 1)]);
        assert_eq!(log.count(Reason::Key), 4);
    }

    #[test]
    fn the_oldest_go_first() {
        let log = AclLog::default();
        ["a", "b", "c"].iter().for_each(|o| log.add(entry(o, 0), 2));
        assert_eq!(shown(&log), [("c".into(), 1), ("b".into(), 1)]);
    }
}
