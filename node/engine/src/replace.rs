//! All data at once: what a replica gets from its primary takes the place of what it had.
//!
//! Whoever watches a key that is there before or after sees it change. Whoever waits for one that is there afterwards
//! runs its command again.

use crate::blocking::{Presence, SlotSide};
use proto::Slot;
use storage::{GateClosed, Keyspace, SlotGuard, Table};

/// Removes all keys, and puts those of `next` in their place, which comes from [`Keyspace::beside`]. Returns what was
/// there before.
pub fn replace(
    keyspace: &Keyspace,
    next: Option<Keyspace>,
    now_ms: i64,
    closed: &GateClosed<'_>,
) -> Vec<Table> {
    let mut watched = Vec::new();
    each_side(keyspace, |guard, side| {
        let keys = side.watched_keys().into_iter();
        watched.extend(keys.map(|(db, key)| (presence(keyspace, guard, db, &key, now_ms), db, key)));
    });
    let before = keyspace.adopt(next.unwrap_or_else(|| keyspace.beside()), closed);
    for (before, db, key) in watched {
        let guard = keyspace.lock_wait(Slot::of_key(&key));
        let now = presence(keyspace, &guard, db, &key, now_ms);
        if let Some(side) = side(&guard) {
            side.mark_watchers(db, &key, before, now);
        }
    }
    wake(keyspace);
    before
}

/// Makes clients that wait for keys which are there run their commands again. After data were loaded.
pub fn wake(keyspace: &Keyspace) {
    each_side(keyspace, |guard, side| {
        for waiter in side.waiters() {
            let is_here = |key: &Vec<u8>| guard.db(waiter.db).get(key, keyspace.hash(key)).is_some();
            if waiter.keys().iter().filter(|key| Slot::of_key(key) == guard.slot()).any(is_here) {
                waiter.ask_again();
            }
        }
    });
}

fn each_side(keyspace: &Keyspace, mut each: impl FnMut(&SlotGuard<'_>, &SlotSide)) {
    for slot in Slot::all() {
        let guard = keyspace.lock_wait(slot);
        if let Some(side) = side(&guard) {
            each(&guard, side);
        }
    }
}

fn side<'a>(guard: &'a SlotGuard<'_>) -> Option<&'a SlotSide> {
    guard.state().side.as_ref().and_then(|side| side.downcast_ref::<SlotSide>())
}

fn presence(keyspace: &Keyspace, guard: &SlotGuard<'_>, db: u16, key: &[u8], now_ms: i64) -> Presence {
    match guard.db(db).get(key, keyspace.hash(key)).map(|e| e.expire_ms()) {
        None => Presence::Absent,
        Some(Some(at)) if at <= now_ms => Presence::Expired,
        Some(_) => Presence::Live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Runner;

    /// A keyspace to come that has this key.
    fn beside(r: &Runner, key: &[u8]) -> Keyspace {
        let next = r.engine.keyspace.beside();
        let value = storage::Value::str(b"v");
        next.lock_wait(Slot::of_key(key)).db_mut(0).insert(key, next.hash(key), value, None);
        next
    }

    fn is_dirty_after(watched: &str, replaced: impl FnOnce(&Runner) -> Option<Keyspace>) -> bool {
        let mut r = Runner::default();
        r.run("set here v");
        r.run(&format!("watch {watched}"));
        let keyspace = r.engine.keyspace.clone();
        let closed = keyspace.gate().close();
        drop(replace(&keyspace, replaced(&r), 0, &closed));
        drop(closed);
        r.run("multi");
        r.run("exec") == "*-1\r\n"
    }

    #[test]
    fn watchers_see_what_comes_and_goes() {
        assert!(is_dirty_after("here", |_| None));
        assert!(is_dirty_after("here", |r| Some(beside(r, b"other"))));
        assert!(is_dirty_after("here", |r| Some(beside(r, b"here"))));
        assert!(is_dirty_after("there", |r| Some(beside(r, b"there"))));
        assert!(!is_dirty_after("there", |r| Some(beside(r, b"other"))));
        assert!(!is_dirty_after("there", |_| None));
    }
}
