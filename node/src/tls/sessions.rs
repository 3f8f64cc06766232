//! Sessions that clients may resume (`tls-session-caching` and its kin): a bounded table that forgets the oldest first,
//! and everything after a time.

use rustls::server::StoresServerSessions;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module's head. Nothing here has an order that shows.
pub struct Sessions {
    kept: Mutex<Kept>,
    count_max: usize,
    age_max: Duration,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<Vec<u8>, Session>,
    /// Keys by age, with the number of the session that they were put in for.
    order: VecDeque<(Vec<u8>, u64)>,
    next: u64,
}

struct Session {
    bytes: Vec<u8>,
    number: u64,
    since: Instant,
}

impl Sessions {
    /// `count_max` 0: as Redis any number; here a million.
    pub fn new(count_max: usize, age_max: Duration) -> Sessions {
        let count_max = if count_max == 0 { 1 << 20 } else { count_max };
        Sessions { kept: Mutex::default(), count_max, age_max }
    }
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn put_at(&self, key: Vec<u8>, bytes: Vec<u8>, now: Instant) {
        let mut kept = self.kept();
        let number = kept.next;
        kept.next += 1;
        kept.order.push_back((key.clone(), number));
        kept.by_key.insert(key, Session { bytes, number, since: now });
        // Places of sessions that were taken stand in the order until they are its oldest.
        while kept.order.len() > self.count_max {
            let (key, number) = kept.order.pop_front().expect("it is not empty");
            if kept.by_key.get(&key).is_some_and(|s| s.number == number) {
                kept.by_key.remove(&key);
            }
        }
    }
    fn is_fresh(&self, session: &Session, now: Instant) -> bool {
        now.saturating_duration_since(session.since) < self.age_max
    }
    fn get_at(&self, key: &[u8], now: Instant) -> Option<Vec<u8>> {
        let kept = self.kept();
        kept.by_key.get(key).filter(|s| self.is_fresh(s, now)).map(|s| s.bytes.clone())
    }
    fn take_at(&self, key: &[u8], now: Instant) -> Option<Vec<u8>> {
        let session = self.kept().by_key.remove(key)?;
        self.is_fresh(&session, now).then_some(session.bytes)
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("count", &self.kept().by_key.len()).finish()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.put_at(key, value, Instant::now());
        true
    }
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get_at(key, Instant::now())
    }
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.take_at(key, Instant::now())
    }
    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_all_go_in_time() {
        let sessions = Sessions::new(2, Duration::from_secs(300));
        let start = Instant::now();
        for key in [b"a", b"b", b"c"] {
            sessions.put_at(key.to_vec(), vec![1], start);
        }
        let has = |key: &[u8], s| sessions.get_at(key, start + Duration::from_secs(s)).is_some();
        assert_eq!([has(b"a", 0), has(b"b", 0), has(b"c", 299), has(b"c", 300)], [false, true, true, false]);
        assert!(sessions.take_at(b"c", start).is_some());
        assert!(sessions.take_at(b"c", start).is_none(), "a session is taken once");
    }
}
