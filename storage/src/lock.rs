//! The lock of a slot: one byte, never slept on.
//!
//! Invariant: what was done under the lock is seen by whoever takes it next (release and acquire on the byte).

use crate::sync::{AtomicU8, spin_loop};
use std::sync::atomic::Ordering;

/// Looks at a held lock before giving up: about 1-2 µs, longer than any single command holds it.
const SPINS: u32 = if cfg!(loom) { 2 } else { 64 };

pub(crate) struct SlotLock(AtomicU8);

impl SlotLock {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> SlotLock {
        SlotLock(AtomicU8::new(0))
    }
    #[inline]
    pub(crate) fn try_lock(&self) -> bool {
        self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
    pub(crate) fn spin_lock(&self) -> bool {
        for _ in 0..SPINS {
            if self.0.load(Ordering::Relaxed) == 0 && self.try_lock() {
                return true;
            }
            spin_loop();
        }
        false
    }
    /// The caller holds the lock.
    #[inline]
    pub(crate) fn unlock(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    struct Guarded {
        lock: SlotLock,
        value: UnsafeCell<u32>,
    }

    // SAFETY: the cell is touched under the lock; loom fails the test where that is not so.
    unsafe impl Sync for Guarded {}

    /// Adds one if `take` gets the lock. Loom finds every access that the lock does not order.
    fn add(guarded: &Guarded, take: fn(&SlotLock) -> bool) -> u32 {
        if !take(&guarded.lock) {
            return 0;
        }
        // SAFETY: the lock is held.
        guarded.value.with_mut(|p| unsafe { *p += 1 });
        guarded.lock.unlock();
        1
    }

    #[test]
    fn loom_holders_of_a_slot_exclude_and_see_each_other() {
        loom::model(|| {
            let shared = Arc::new(Guarded { lock: SlotLock::new(), value: UnsafeCell::new(0) });
            let other = shared.clone();
            let thread = loom::thread::spawn(move || {
                add(&other, SlotLock::try_lock) + add(&other, SlotLock::spin_lock)
            });
            let mine = add(&shared, SlotLock::spin_lock) + add(&shared, SlotLock::try_lock);
            let theirs = thread.join().unwrap();
            assert!(shared.lock.try_lock());
            // SAFETY: the lock is held, and the other thread has ended.
            assert_eq!(shared.value.with(|p| unsafe { *p }), mine + theirs);
        });
    }
}
