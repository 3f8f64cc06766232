//! A second keyspace that is filled beside the one in use, and then takes its place at once.

use crate::db::Table;
use crate::gate::GateClosed;
use crate::keyspace::Keyspace;
use proto::Slot;

impl Keyspace {
    /// An empty keyspace whose tables [`Keyspace::adopt`] may take over: it hashes keys as this one does.
    pub fn beside(&self) -> Keyspace {
        Keyspace::with_hasher(self.databases(), self.hasher())
    }

    /// Puts the keys of `other` in the place of all keys here, at a cost that does not depend on how many there are. A
    /// snapshot under way ends. Returns what was here before. Panics unless `other` comes from [`Keyspace::beside`].
    pub fn adopt(&self, other: Keyspace, _closed: &GateClosed<'_>) -> Vec<Table> {
        assert!(
            self.databases() == other.databases() && self.hasher() == other.hasher(),
            "one hash for both"
        );
        // To it the tables that come would look like those that it began with.
        self.end_any_snapshot();
        let mut before = Vec::new();
        for slot in Slot::all() {
            let mut guard = self.lock_wait(slot);
            for db in 0..self.databases() {
                before.extend(guard.db_mut(db).take_table());
                self.take_root(&other, slot, db);
            }
        }
        let homes: Vec<u16> = (0..self.databases()).map(|db| self.place(db)).collect();
        self.counters.take_over(&other.counters, &homes, other.own_bytes());
        before
    }

    /// Moves a table over. The slot is locked, and nobody else has `other`, whose databases are in order.
    fn take_root(&self, other: &Keyspace, slot: Slot, db: u16) {
        if other.root_ref(slot, db).count == 0 {
            return;
        }
        let home = self.place(db);
        // SAFETY: the slot's lock is held, here and for `other` because it is ours alone; no reference to either root is
        // alive. The table here was taken out before.
        unsafe { std::ptr::swap(self.root_cell(slot, home).get(), other.root_cell(slot, db).get()) };
        self.set_occupied(slot, home, true);
        self.set_next_expiry(slot, home, other.next_expiry(slot, db));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SnapshotOptions;
    use crate::rdb::{Access, Format};
    use crate::value::Value;
    use std::sync::Arc;

    fn set(keyspace: &Keyspace, db: u16, key: &str, expire_ms: Option<i64>) {
        let (slot, hash) = (Slot::of_key(key.as_bytes()), keyspace.hash(key.as_bytes()));
        let value = Value::str(b"value");
        keyspace.lock_wait(slot).db_mut(db).insert(key.as_bytes(), hash, value, expire_ms);
    }
    fn has(keyspace: &Keyspace, db: u16, key: &str) -> bool {
        let (slot, hash) = (Slot::of_key(key.as_bytes()), keyspace.hash(key.as_bytes()));
        keyspace.lock_wait(slot).db(db).get(key.as_bytes(), hash).is_some()
    }

    #[test]
    fn what_was_filled_beside_takes_the_place_of_all() {
        let keyspace = Keyspace::new(3, [1, 2]);
        keyspace.swap_dbs(0, 1, &keyspace.gate().close());
        (0..1000).for_each(|i| set(&keyspace, i % 3, &format!("old:{i}"), None));
        let other = keyspace.beside();
        (0..2000).for_each(|i| set(&other, 1, &format!("new:{i}"), Some(10_000 + i)));
        set(&other, 0, "zero", None);
        let before = keyspace.adopt(other, &keyspace.gate().close());
        assert_eq!(before.iter().map(Table::len).sum::<u64>(), 1000);
        drop(before);
        assert_eq!((0..3).map(|db| keyspace.len(db)).collect::<Vec<_>>(), [1, 2000, 0]);
        assert_eq!((keyspace.expires_len(0), keyspace.expires_len(1)), (0, 2000));
        assert!((0..2000).all(|i| has(&keyspace, 1, &format!("new:{i}"))) && has(&keyspace, 0, "zero"));
        assert!(!has(&keyspace, 0, "old:0"));
        let slot = Slot::of_key(b"new:0");
        assert_eq!(keyspace.lock_wait(slot).db(1).next_expiry(), 10_000);
        assert!(keyspace.next_due(1, Slot::default(), 10_000).is_some_and(|due| due <= slot));
        assert!(keyspace.next_due(1, Slot::default(), 9_999).is_none());
        assert!(keyspace.next_occupied(0, Slot::default()).is_some_and(|s| s == Slot::of_key(b"zero")));
        // Everything that is taken out again was counted once.
        for slot in Slot::all() {
            let mut guard = keyspace.lock_wait(slot);
            (0..3).for_each(|db| guard.db_mut(db).clear());
        }
        assert_eq!((keyspace.len(0), keyspace.len(1), keyspace.expires_len(1)), (0, 0, 0));
        assert_eq!(keyspace.used_bytes(), keyspace.own_bytes());
    }

    #[test]
    fn a_snapshot_under_way_ends_and_the_next_one_has_what_came() {
        let keyspace = Keyspace::new(1, [1, 2]);
        set(&keyspace, 0, "old", None);
        let access: Arc<dyn Fn(u32) -> Access + Send + Sync> = Arc::new(|_| Access::None);
        let options = SnapshotOptions { format: Format::default(), slots: None, access };
        let first = keyspace.begin_snapshot(options.clone(), &keyspace.gate().close()).unwrap();
        let other = keyspace.beside();
        set(&other, 0, "new", None);
        drop(keyspace.adopt(other, &keyspace.gate().close()));
        assert!(first.is_ended());
        let second = keyspace.begin_snapshot(options, &keyspace.gate().close()).unwrap();
        set(&keyspace, 0, "later", None);
        let mut keys = 0;
        while !second.is_walked() || second.queued_bytes() > 0 {
            match second.next_block() {
                Some(block) => keys += block.keys,
                None => drop(second.walk_next(&keyspace)),
            }
        }
        assert_eq!(keys, 1);
    }
}
