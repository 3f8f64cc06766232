//! No insert or removal does work in proportion to its table. Whatever is copied or hashed again while a table grows or
//! shrinks goes into memory that is allocated for it, so the bytes and allocations of each operation bound its work.

// The slab counts its objects in debug builds only.
#![cfg(debug_assertions)]

use proto::Slot;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use storage::{Expiry, Keyspace};

struct Counting;

thread_local! {
    static COUNTED: Cell<Work> = const { Cell::new(Work { allocations: 0, bytes: 0 }) };
}

/// What was allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Work {
    allocations: u64,
    bytes: u64,
}

fn count(bytes: usize) {
    // A thread that is ending has no counter any more; nobody asks for it either.
    let _ = COUNTED.try_with(|c| {
        let was = c.get();
        c.set(Work { allocations: was.allocations + 1, bytes: was.bytes + bytes as u64 });
    });
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: by the caller's contract; so below.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What this thread has allocated so far, from the general allocator or the slab.
fn so_far() -> Work {
    let (general, (objects, bytes)) = (COUNTED.get(), storage::slab::taken());
    Work { allocations: general.allocations + objects, bytes: general.bytes + bytes }
}

/// Per operation: a directory node that doubles to its full 2 KiB, and two splits of a segment (four halves of
/// 448 bytes) in the same insert. The bytes of 62 keys hashed again are read, not copied: a split is two allocations.
const BYTES_MAX: u64 = 4096;
const ALLOCATIONS_MAX: u64 = 8;

/// How often each power of two of bytes was reached, and the worst operation.
#[derive(Default)]
struct Seen {
    by_bytes: [u64; 24],
    worst: Work,
}

impl Seen {
    fn measure<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let before = so_far();
        let result = operation();
        let after = so_far();
        let work =
            Work { allocations: after.allocations - before.allocations, bytes: after.bytes - before.bytes };
        self.by_bytes[work.bytes.checked_ilog2().map_or(0, |n| n as usize + 1).min(23)] += 1;
        self.worst.bytes = self.worst.bytes.max(work.bytes);
        self.worst.allocations = self.worst.allocations.max(work.allocations);
        result
    }
    fn check(&self, what: &str) {
        println!("{what}: worst {:?}, operations by log2 of bytes {:?}", self.worst, self.by_bytes);
        assert!(
            self.worst.bytes <= BYTES_MAX && self.worst.allocations <= ALLOCATIONS_MAX,
            "{what}: {:?}",
            self.worst
        );
    }
}

/// Inserts `count` keys and removes them again; `tag` puts them all into one slot, so that its table gets deep.
fn grow_and_shrink(count: u64, tag: &str) {
    let keyspace = Keyspace::new(1, [1, 2]);
    let mut buffer = [0u8; 40];
    let mut each = |seen: &mut Seen, i: u64, insert: bool| {
        let mut rest = &mut buffer[..];
        write!(rest, "{tag}{:x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).expect("the key fits");
        let left = rest.len();
        let key = &buffer[..40 - left];
        let hash = keyspace.hash(key);
        let mut guard = keyspace.lock_wait(Slot::of_key(key));
        let done = seen.measure(|| {
            let mut db = guard.db_mut(0);
            if insert { db.set_str(key, hash, b"v", Expiry::None).is_none() } else { db.delete(key, hash) }
        });
        assert!(done, "no key held a collection, and each is gone once");
    };
    // The first key of all makes the database's own arrays.
    each(&mut Seen::default(), count, true);
    let (mut inserts, mut removals) = (Seen::default(), Seen::default());
    (0..count).for_each(|i| each(&mut inserts, i, true));
    inserts.check(&format!("{count} inserts, tag '{tag}'"));
    (0..count).for_each(|i| each(&mut removals, i, false));
    removals.check(&format!("{count} removals, tag '{tag}'"));
    // It was work: some operation has split a segment, and some has merged two.
    assert!(inserts.worst.allocations >= 3 && removals.worst.allocations >= 1);
}

#[test]
fn a_slot_of_300_000_keys_grows_and_shrinks_in_small_steps() {
    grow_and_shrink(300_000, "{t}");
}

#[test]
#[ignore = "takes half a minute; .ci/run asks for it"]
fn a_slot_of_5_million_keys_grows_and_shrinks_in_small_steps() {
    grow_and_shrink(5_000_000, "{t}");
}

#[test]
#[ignore = "takes half a minute; .ci/run asks for it"]
fn five_million_keys_in_all_slots_grow_and_shrink_in_small_steps() {
    grow_and_shrink(5_000_000, "");
}
