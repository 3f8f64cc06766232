//! Active expiry: each worker goes round its share of the slots and removes keys whose time has come.
//!
//! A slot knows a lower bound of its next expiry, so that one with nothing due costs one look.

use crate::Turn;
use crate::keys::{FIELDS_MAX, Keys};
use crate::locks::Locks;
use proto::Slot;
use storage::Due;

/// Segments of one slot looked at under one lock: bounds the pause of a slot with very many keys.
const SEGMENTS_MAX: usize = 256;
/// Locks that one cycle takes for a slot with very many keys before it leaves the rest to the next.
const TURNS_MAX: usize = 8;

/// Where a cycle goes on: a slot of the share by its number in it, and the place in a slot that has very many keys.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cursor {
    slot: usize,
    db: u16,
    segment: u64,
}

/// Goes through the share `worker` of `workers` equal ones, beginning at `cursor`, and removes up to about `keys_max`
/// keys. Returns the cursor for the next call and how many keys were removed.
pub fn cycle(
    turn: &mut Turn,
    worker: usize,
    workers: usize,
    cursor: Cursor,
    keys_max: usize,
) -> (Cursor, usize) {
    let share = Slot::COUNT.div_ceil(workers);
    let begin = (worker * share).min(Slot::COUNT);
    let end = (begin + share).min(Slot::COUNT);
    let middle = (begin + cursor.slot).min(end);
    let (mut removed, mut at) = (0, (cursor.db, cursor.segment));
    for part in [middle..end, begin..middle] {
        let mut from = part.start;
        while let Some(slot) = next_due(turn, from).filter(|slot| slot.index() < part.end) {
            let is_resumed = slot.index() == middle;
            let (count, rest) = expire_slot(turn, slot, if is_resumed { at } else { (0, 0) });
            at = (0, 0);
            removed += count;
            from = slot.index() + 1;
            if let Some((db, segment)) = rest {
                return (Cursor { slot: slot.index() - begin, db, segment }, removed);
            }
            if removed >= keys_max {
                return (Cursor { slot: from - begin, ..Cursor::default() }, removed);
            }
        }
    }
    (Cursor::default(), removed)
}

/// The first slot from number `from` on in which some database may have an expired key.
fn next_due(turn: &Turn, from: usize) -> Option<Slot> {
    let from = Slot::new(u16::try_from(from).ok()?)?;
    let keyspace = &turn.engine.keyspace;
    let with_expiry = (0..keyspace.databases())
        .filter(|db| keyspace.expires_len(*db) > 0 || keyspace.field_expires_len(*db) > 0);
    with_expiry.filter_map(|db| keyspace.next_due(db, from, turn.now.wall.0)).min()
}

/// Removes the expired keys of a slot, from a database and place in it on. Returns their number, and where to go on if
/// the slot has too many keys for one call.
fn expire_slot(turn: &mut Turn, slot: Slot, (db, segment): (u16, u64)) -> (usize, Option<(u16, u64)>) {
    let (mut removed, mut turns, mut at) = (0, 0, segment);
    for db in db..turn.engine.keyspace.databases() {
        loop {
            let Some(part) = expire_part(turn, slot, db, at) else { return (removed, None) };
            removed += part.removed;
            if !part.has_more {
                at = part.next;
                if at == 0 {
                    break;
                }
            }
            turns += 1;
            if turns >= TURNS_MAX {
                return (removed, Some((db, at)));
            }
        }
    }
    (removed, None)
}

/// What was done under one lock.
struct Part {
    removed: usize,
    /// Where to go on; 0: nowhere.
    next: u64,
    /// A hash has further fields whose time has come: this place is to be visited again.
    has_more: bool,
}

/// `None`: the slot is held by somebody.
fn expire_part(turn: &mut Turn, slot: Slot, db: u16, segment: u64) -> Option<Part> {
    let keyspace = &*turn.engine.keyspace;
    let now_ms = turn.now.wall.0;
    let mut locks = Locks::take(keyspace, &[slot]).ok()?;
    let read = locks.guard(slot).db(db);
    if read.next_expiry() > now_ms {
        return Some(Part { removed: 0, next: 0, has_more: false });
    }
    let mut due: Vec<(Vec<u8>, Due)> = Vec::new();
    let next =
        read.collect_due(now_ms, segment, SEGMENTS_MAX, &mut |key, what| due.push((key.to_vec(), what)));
    if due.is_empty() {
        return Some(Part { removed: 0, next, has_more: false });
    }
    let mut keys = Keys::new(turn, locks, db);
    let (mut removed, mut has_more) = (0, false);
    for (key, what) in &due {
        removed += match what {
            Due::Key => {
                keys.expire(key);
                1
            }
            Due::Fields => {
                let fields = keys.expire_fields(key, &[]);
                has_more |= fields >= FIELDS_MAX;
                fields
            }
        };
    }
    if !keys.unit.is_empty() {
        turn.engine.feed.append(Some(slot), &keys.unit);
    }
    keys.give_back(turn);
    Some(Part { removed, next, has_more })
}
