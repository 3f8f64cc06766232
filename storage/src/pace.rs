//! Freeing in pieces: a thread that frees values in the background pauses after every few hundred objects, so that it
//! never holds up for long who shares a core, or the allocator's lock, with it.
//!
//! The pieces are told by what frees them, since a large value is taken apart by its own `drop`. A thread that has set
//! no pace pays a look at a counter per object.

use std::cell::{Cell, RefCell};

thread_local! {
    /// Objects until the next pause; 0: this thread does not pause.
    static LEFT: Cell<u32> = const { Cell::new(0) };
    static PAUSE: RefCell<Option<(u32, Box<dyn FnMut()>)>> = const { RefCell::new(None) };
}

/// From now on, this thread calls `pause` each time it has freed `objects` (at least one) of a collection or table.
/// `pause` is not called by objects that it frees itself.
pub fn set_pace(objects: u32, pause: Box<dyn FnMut()>) {
    assert!(objects > 0);
    PAUSE.set(Some((objects, pause)));
    LEFT.set(objects);
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
    PAUSE.with_borrow_mut(|pace| {
        let (objects, pause) = pace.as_mut().expect("set together with the counter");
        pause();
        LEFT.set(*objects);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hash, List, Set, Thresholds, ZSet};
    use std::rc::Rc;

    /// Pauses while a value is dropped, on a thread of its own.
    fn pauses<T>(make: impl FnOnce() -> T + Send) -> u32 {
        std::thread::scope(|s| {
            let counted = s.spawn(|| {
                let value = make();
                let count = Rc::new(Cell::new(0));
                let counter = count.clone();
                set_pace(100, Box::new(move || counter.set(counter.get() + 1)));
                drop(value);
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
