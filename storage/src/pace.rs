//! Freeing in pieces: who frees large values where others wait pauses after every few objects.
//!
//! The pieces are told by what frees them, since a large value is taken apart by its own `drop`. A thread that does not
//! free in pieces pays a look at a counter per object.

use std::cell::{Cell, RefCell};

thread_local! {
    /// Objects until the next pause; 0: this thread does not pause.
    static LEFT: Cell<u32> = const { Cell::new(0) };
    static PAUSE: RefCell<Option<(u32, Box<dyn FnMut()>)>> = const { RefCell::new(None) };
}

/// Runs `free`, and calls `pause` each time that it has freed `objects` (at least one) of a collection or table. Objects
/// that `pause` frees do not count, and it may leave the stack for a time: others do not notice that something is under way.
pub fn free_in_pieces(objects: u32, pause: impl FnMut(), free: impl FnOnce()) {
    assert!(objects > 0);
    let pause: Box<dyn FnMut() + '_> = Box::new(pause);
    // SAFETY: only the lifetime changes; `Over` takes the closure out before this function is left, in whichever way.
    let pause = unsafe { std::mem::transmute::<Box<dyn FnMut() + '_>, Box<dyn FnMut()>>(pause) };
    let _over = Over(PAUSE.replace(Some((objects, pause))), LEFT.replace(objects));
    free();
}

/// Restores what was before pieces began.
struct Over(Option<(u32, Box<dyn FnMut()>)>, u32);

impl Drop for Over {
    fn drop(&mut self) {
        PAUSE.set(self.0.take());
        LEFT.set(self.1);
    }
}

/// Objects were freed, or are about to be.
#[inline]
pub(crate) fn freed(objects: u32) {
    let left = LEFT.get();
    if left > 0 {
        LEFT.set(left.saturating_sub(objects));
        if left <= objects {
            pause();
        }
    }
}

#[cold]
fn pause() {
    // Taken out, and the counter is at 0: what is freed meanwhile does not count.
    let (objects, mut pause) = PAUSE.take().expect("set together with the counter");
    pause();
    PAUSE.set(Some((objects, pause)));
    LEFT.set(objects);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hash, List, Set, Thresholds, ZSet};

    /// Pauses while a value is dropped, on a thread of its own.
    fn pauses<T>(make: impl FnOnce() -> T + Send) -> u32 {
        std::thread::scope(|s| {
            let counted = s.spawn(|| {
                let value = make();
                let count = Cell::new(0);
                free_in_pieces(100, || count.set(count.get() + 1), move || drop(value));
                assert!(LEFT.get() == 0 && PAUSE.take().is_none());
                count.get()
            });
            counted.join().unwrap()
        })
    }

    #[test]
    fn large_values_are_freed_in_pieces() {
        let t = Thresholds::default();
        let member = |i: u32| format!("member:{i:06}").into_bytes();
        let set = pauses(|| {
            let mut set = Set::new();
            for i in 0..5000 {
                set.insert(&member(i), &t);
            }
            set
        });
        assert!((49..=51).contains(&set), "{set}");
        let hash = pauses(|| {
            let mut hash = Hash::new();
            for i in 0..5000 {
                hash.set(&member(i), b"value", &t);
            }
            hash
        });
        assert!((49..=51).contains(&hash), "{hash}");
        let zset = pauses(|| {
            let mut zset = ZSet::new();
            for i in 0..5000 {
                zset.insert(&member(i), i as f64, &t);
            }
            zset
        });
        assert!(zset >= 3, "{zset}");
        let list = pauses(|| {
            let mut list = List::new();
            (0..200_000).for_each(|i| list.push_back(&member(i), &t));
            list
        });
        assert!(list >= 3, "{list}");
    }

    #[test]
    fn a_thread_without_a_pace_does_not_pause() {
        freed(1000);
        assert_eq!(LEFT.get(), 0);
    }
}
