//! Removing what a slot holds, as writes: of slots that moved away, and before a slot arrives anew.

use crate::Engine;
use crate::blocking::{Presence, SlotSide};
use crate::propagate::Unit;
use proto::Slot;

/// Deletes up to `keys_max` keys of a slot (database 0; clusters have no other) and replays that. Returns how many.
/// Called inside the gate; waits for the slot.
pub fn purge(engine: &Engine, slot: Slot, keys_max: usize) -> usize {
    let guard = engine.keyspace.lock_wait(slot);
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = guard.db(0).scan(cursor, &mut |entry| {
            if keys.len() < keys_max {
                keys.push(entry.key().to_vec());
            }
        });
        if cursor == 0 || keys.len() >= keys_max {
            break;
        }
    }
    if keys.is_empty() {
        return 0;
    }
    drop(guard);
    let keys: Vec<&[u8]> = keys.iter().map(|k| k.as_slice()).collect();
    delete(engine, slot, 0, &keys);
    keys.len()
}

/// Deletes keys of one slot and replays that. Called inside the gate; waits for the slot.
pub fn delete(engine: &Engine, slot: Slot, db: u16, keys: &[&[u8]]) {
    let mut guard = engine.keyspace.lock_wait(slot);
    let mut args: Vec<&[u8]> = vec![b"DEL"];
    for key in keys {
        if guard.db_mut(db).delete(key, engine.keyspace.hash(key)) {
            args.push(key);
        }
        if let Some(side) = guard.state_mut().side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
            side.mark_watchers(db, key, Presence::Live, Presence::Absent);
        }
    }
    if args.len() > 1 {
        let mut unit = Unit::default();
        unit.push(db, &args);
        engine.feed.append(Some(slot), &unit);
    }
}

/// Tells the clients that wait for keys of a slot to ask again: the slot is another's now.
pub fn wake_waiters(engine: &Engine, slot: Slot) {
    let guard = engine.keyspace.lock_wait(slot);
    if let Some(side) = guard.state().side.as_ref().and_then(|s| s.downcast_ref::<SlotSide>()) {
        side.waiters().for_each(|w| w.ask_again());
    }
}
