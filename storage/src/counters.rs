//! Counts of keys, expiries and bytes, in stripes by slot, so that workers rarely share a line.

use proto::Slot;
use std::sync::atomic::{AtomicI64, Ordering};

/// Choice: enough that two workers in random slots seldom meet, few enough that DBSIZE stays a short loop.
const STRIPES: usize = 16;

#[derive(Default)]
struct DbCount {
    keys: AtomicI64,
    expires: AtomicI64,
    field_expires: AtomicI64,
}

#[repr(align(128))]
struct Stripe {
    bytes: AtomicI64,
    dbs: Box<[DbCount]>,
}

pub(crate) struct Counters {
    stripes: Box<[Stripe]>,
}

impl Counters {
    pub(crate) fn new(databases: u16) -> Counters {
        let dbs = || (0..databases).map(|_| DbCount::default()).collect();
        Counters { stripes: (0..STRIPES).map(|_| Stripe { bytes: AtomicI64::new(0), dbs: dbs() }).collect() }
    }
    #[inline]
    fn stripe(&self, slot: Slot) -> &Stripe {
        &self.stripes[slot.index() % STRIPES]
    }
    #[inline]
    pub(crate) fn add_bytes(&self, slot: Slot, delta: isize) {
        if delta != 0 {
            self.stripe(slot).bytes.fetch_add(delta as i64, Ordering::Relaxed);
        }
    }
    #[inline]
    pub(crate) fn add_keys(&self, slot: Slot, db: u16, delta: i64) {
        self.stripe(slot).dbs[db as usize].keys.fetch_add(delta, Ordering::Relaxed);
    }
    #[inline]
    pub(crate) fn add_expires(&self, slot: Slot, db: u16, delta: i64) {
        if delta != 0 {
            self.stripe(slot).dbs[db as usize].expires.fetch_add(delta, Ordering::Relaxed);
        }
    }
    #[inline]
    pub(crate) fn add_field_expires(&self, slot: Slot, db: u16, delta: i64) {
        if delta != 0 {
            self.stripe(slot).dbs[db as usize].field_expires.fetch_add(delta, Ordering::Relaxed);
        }
    }
    /// Adds what `other` counts, whose database `i` is `homes[i]` here, but for `own_bytes` of its first slot.
    pub(crate) fn take_over(&self, other: &Counters, homes: &[u16], own_bytes: u64) {
        self.add_bytes(Slot::default(), -(own_bytes as isize));
        let add = |to: &AtomicI64, from: &AtomicI64| {
            to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        for (to, from) in self.stripes.iter().zip(&other.stripes) {
            add(&to.bytes, &from.bytes);
            for (home, from) in homes.iter().zip(&from.dbs) {
                let to = &to.dbs[*home as usize];
                add(&to.keys, &from.keys);
                add(&to.expires, &from.expires);
                add(&to.field_expires, &from.field_expires);
            }
        }
    }
    // Stripes are read one after the other, so a sum may briefly be off; it is never reported below zero.
    pub(crate) fn bytes(&self) -> u64 {
        sum(self.stripes.iter().map(|s| &s.bytes))
    }
    pub(crate) fn keys(&self, db: u16) -> u64 {
        sum(self.stripes.iter().map(|s| &s.dbs[db as usize].keys))
    }
    pub(crate) fn expires(&self, db: u16) -> u64 {
        sum(self.stripes.iter().map(|s| &s.dbs[db as usize].expires))
    }
    pub(crate) fn field_expires(&self, db: u16) -> u64 {
        sum(self.stripes.iter().map(|s| &s.dbs[db as usize].field_expires))
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a AtomicI64>) -> u64 {
    counts.map(|c| c.load(Ordering::Relaxed)).sum::<i64>().max(0) as u64
}
