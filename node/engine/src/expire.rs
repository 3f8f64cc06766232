//! Active expiry: each worker goes round its share of the slots and removes keys whose time has come.
//!
//! A slot knows a lower bound of its next expiry, so that one with nothing due costs one look.

use crate::Turn;
use crate::keys::{Keys, Locks};
use proto::Slot;

/// Segments of one slot looked at under one lock: bounds the pause of a slot with very many keys.
const SEGMENTS_MAX: usize = 256;

/// Looks at up to `slots_max` slots of the share `worker` of `workers`, beginning at `cursor`, and removes up to
/// `keys_max` keys. Returns the cursor for the next call and how many keys were removed.
pub fn cycle(
    turn: &mut Turn,
    worker: usize,
    workers: usize,
    mut cursor: usize,
    slots_max: usize,
    keys_max: usize,
) -> (usize, usize) {
    let mut removed = 0;
    for _ in 0..slots_max {
        let number = (cursor * workers + worker) % Slot::COUNT;
        cursor = (cursor + 1) % Slot::COUNT.div_ceil(workers);
        let slot = Slot::new(number as u16).expect("below the count");
        removed += expire_slot(turn, slot, keys_max - removed);
        if removed >= keys_max {
            break;
        }
    }
    (cursor, removed)
}

fn expire_slot(turn: &mut Turn, slot: Slot, keys_max: usize) -> usize {
    let keyspace = &*turn.engine.keyspace;
    let now_ms = turn.now.wall.0;
    let Some(guard) = keyspace.try_lock(slot) else { return 0 };
    let mut due: Vec<(u16, Vec<u8>)> = Vec::new();
    for db in 0..keyspace.databases() {
        if guard.db(db).next_expiry() <= now_ms {
            guard.db(db).collect_due(now_ms, 0, SEGMENTS_MAX, &mut |key| {
                if due.len() < keys_max {
                    due.push((db, key.to_vec()));
                }
            });
        }
    }
    drop(guard);
    if due.is_empty() {
        return 0;
    }
    let Ok(locks) = Locks::take(keyspace, &[slot]) else { return 0 };
    let mut keys = Keys::new(turn, locks, 0);
    let removed = due.len();
    for (db, key) in due {
        keys.db = db;
        // Looked at again under the lock: it may have changed since.
        keys.exists(&key);
    }
    if !keys.unit.is_empty() {
        turn.engine.feed.append(Some(slot), &keys.unit);
    }
    keys.give_back(turn);
    removed
}
