//! Counts of keys, expiries and bytes, in stripes of which each belongs to a thread: it adds with a load and a store, where a
//! locked addition would wait for all that was written before.
//!
//! Invariant: none but its owner writes to a stripe, except to the first, which belongs to nobody.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Choice: more than there are cores. Threads beyond share the first.
const STRIPES: usize = 256;
const SHARED: usize = 0;

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
    databases: u16,
    /// By owner; made when it first adds.
    stripes: Box<[OnceLock<Box<Stripe>>; STRIPES]>,
}

/// The number of a thread's stripes, in all counters of the process. Given back when it ends, for the next one to go on with.
struct Own(usize);

/// Numbers that were given out, and those among them that are free again.
static NUMBERS: Mutex<(usize, Vec<usize>)> = Mutex::new((SHARED, Vec::new()));

thread_local! {
    static OWN: Own = Own::take();
}

impl Own {
    fn take() -> Own {
        let (last, free) = &mut *NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = free.pop() {
            return Own(number);
        }
        if *last + 1 == STRIPES {
            return Own(SHARED);
        }
        *last += 1;
        Own(*last)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.0 != SHARED {
            NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).1.push(self.0);
        }
    }
}

impl Counters {
    pub(crate) fn new(databases: u16) -> Counters {
        Counters { databases, stripes: Box::new([const { OnceLock::new() }; STRIPES]) }
    }

    /// Adds to a count of the calling thread's.
    #[inline]
    fn add(&self, delta: i64, count: impl FnOnce(&Stripe) -> &AtomicI64) {
        // A thread that is ending has no stripe any more.
        let own = OWN.try_with(|own| own.0).unwrap_or(SHARED);
        let count = count(self.stripes[own].get_or_init(|| self.new_stripe()));
        match own {
            SHARED => _ = count.fetch_add(delta, Ordering::Relaxed),
            _ => count.store(count.load(Ordering::Relaxed) + delta, Ordering::Relaxed),
        }
    }
    #[cold]
    fn new_stripe(&self) -> Box<Stripe> {
        let dbs = (0..self.databases).map(|_| DbCount::default()).collect();
        Box::new(Stripe { bytes: AtomicI64::new(0), dbs })
    }

    #[inline]
    pub(crate) fn add_bytes(&self, delta: isize) {
        if delta != 0 {
            self.add(delta as i64, |stripe| &stripe.bytes);
        }
    }
    #[inline]
    pub(crate) fn add_keys(&self, db: u16, delta: i64) {
        self.add(delta, |stripe| &stripe.dbs[db as usize].keys);
    }
    #[inline]
    pub(crate) fn add_expires(&self, db: u16, delta: i64) {
        if delta != 0 {
            self.add(delta, |stripe| &stripe.dbs[db as usize].expires);
        }
    }
    #[inline]
    pub(crate) fn add_field_expires(&self, db: u16, delta: i64) {
        if delta != 0 {
            self.add(delta, |stripe| &stripe.dbs[db as usize].field_expires);
        }
    }
    /// Adds what `other` counts, whose database `i` is `homes[i]` here, but for `own_bytes`.
    pub(crate) fn take_over(&self, other: &Counters, homes: &[u16], own_bytes: u64) {
        self.add_bytes(other.sum(|stripe| &stripe.bytes) as isize - own_bytes as isize);
        for (from, home) in homes.iter().enumerate() {
            self.add_keys(*home, other.sum(|stripe| &stripe.dbs[from].keys));
            self.add_expires(*home, other.sum(|stripe| &stripe.dbs[from].expires));
            self.add_field_expires(*home, other.sum(|stripe| &stripe.dbs[from].field_expires));
        }
    }

    fn sum(&self, count: impl Fn(&Stripe) -> &AtomicI64) -> i64 {
        let stripes = self.stripes.iter().filter_map(|stripe| stripe.get());
        stripes.map(|stripe| count(stripe).load(Ordering::Relaxed)).sum()
    }
    /// Stripes are read one after the other, so a sum may briefly be off; it is never reported below zero.
    fn total(&self, count: impl Fn(&Stripe) -> &AtomicI64) -> u64 {
        self.sum(count).max(0) as u64
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.total(|stripe| &stripe.bytes)
    }
    pub(crate) fn keys(&self, db: u16) -> u64 {
        self.total(|stripe| &stripe.dbs[db as usize].keys)
    }
    pub(crate) fn expires(&self, db: u16) -> u64 {
        self.total(|stripe| &stripe.dbs[db as usize].expires)
    }
    pub(crate) fn field_expires(&self, db: u16) -> u64 {
        self.total(|stripe| &stripe.dbs[db as usize].field_expires)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_whoever_counts_and_ends() {
        const THREADS: i64 = 12;
        const ROUNDS: i64 = 200;
        let counters = Counters::new(2);
        let barrier = std::sync::Barrier::new(THREADS as usize);
        // In the second round no number is left: all threads share the first stripe.
        let mut taken = Vec::new();
        for round in 0..2 {
            taken.extend((0..round * 2 * STRIPES).map(|_| Own::take()));
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (counters, barrier) = (&counters, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        for _ in 0..ROUNDS {
                            counters.add_bytes(3);
                            counters.add_keys(1, 1);
                            counters.add_expires(1, thread % 2);
                        }
                        counters.add_bytes(-(ROUNDS as isize));
                    });
                }
            });
        }
        assert_eq!(taken.last().map(|own| own.0), Some(SHARED));
        drop(taken);
        assert_ne!(Own::take().0, SHARED);
        let all = (2 * THREADS * ROUNDS) as u64;
        assert_eq!((counters.bytes(), counters.keys(0), counters.keys(1)), (2 * all, 0, all));
        assert_eq!((counters.expires(1), counters.field_expires(1)), (all / 2, 0));
        let other = Counters::new(4);
        other.add_bytes(5);
        other.take_over(&counters, &[2, 3], 4);
        assert_eq!((other.bytes(), other.keys(3), other.expires(3)), (2 * all + 1, all, all / 2));
    }
}
