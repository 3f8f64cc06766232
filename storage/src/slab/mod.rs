//! The allocator of small objects: entries, segments and elements of at most [`SMALL_MAX`] bytes.
//!
//! A general allocator gives a key of 16 bytes and a value of 64 a class of 96 bytes where 88 do, and it cannot say
//! which objects stand in the way of giving a page back. This one has classes four to 128 bytes apart and knows, for
//! any object, whether its neighbours are few: [`is_leaving`]. Whoever holds the only pointer to such an object moves
//! it with [`relocate`], and the span goes back to the kernel.
//!
//! Memory comes in spans of 64 KiB, each of one class, each in one of a few arenas. An arena has a lock that is held for
//! some ten instructions. A thread allocates in its own arena and frees wherever the object came from, so that no object
//! waits for a thread that sleeps. The arenas belong to the process as the general allocator does; they hold no state of
//! a node.
//!
//! Invariant: a span is in exactly one of: the lists of its class, `leaving`, full (in no list), or the pool.

mod arena;
mod class;
mod pool;
mod span;

pub use class::{SMALL_MAX, class_size};
pub use pool::{give_back_idle, set_supplier, supply};

use arena::{ARENAS_MAX, Arena};
use class::class_of;
use span::Span;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static ARENAS: [Arena; ARENAS_MAX] = [const { Arena::new() }; ARENAS_MAX];
static ARENAS_USED: OnceLock<usize> = OnceLock::new();
static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// Under a checker of memory accesses each object is an allocation of its own, so that the checker sees it.
const IS_CHECKED: bool = cfg!(miri) || cfg!(shoal_checked_alloc);

fn own_arena() -> &'static Arena {
    let own = OWN.with(|own| match own.get() {
        u32::MAX => {
            let count = *ARENAS_USED
                .get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from).min(ARENAS_MAX));
            let index = NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % count;
            own.set(index as u32);
            index
        }
        index => index as usize,
    });
    &ARENAS[own]
}

fn plain_layout(size: usize) -> Layout {
    Layout::from_size_align(class_size(size), 8).expect("an allocation below isize::MAX")
}

/// Memory for `size` bytes (not zero), with room for [`class_size`] of them: aligned to 4, and to 8 where that size is a
/// multiple of 8. Ends the process when there is no memory.
#[inline]
pub(crate) fn allocate(size: usize) -> NonNull<u8> {
    if size > SMALL_MAX || IS_CHECKED {
        let layout = plain_layout(size);
        // SAFETY: a class is never of size zero.
        let p = unsafe { alloc(layout) };
        return NonNull::new(p).unwrap_or_else(|| handle_alloc_error(layout));
    }
    #[cfg(debug_assertions)]
    TAKEN.with(|taken| taken.set((taken.get().0 + 1, taken.get().1 + class_size(size) as u64)));
    own_arena().allocate(class_of(size))
}

#[cfg(debug_assertions)]
thread_local! {
    static TAKEN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Objects and bytes of spans that this thread has asked for so far; those of the general allocator are not among them.
/// For tests that bound the work of an operation; nothing is counted in release builds.
#[cfg(debug_assertions)]
pub fn taken() -> (u64, u64) {
    TAKEN.get()
}

/// Frees what [`allocate`] gave for `size`, or for another size of the same class.
/// SAFETY: `p` came from `allocate` and nobody uses it any more.
#[inline]
pub(crate) unsafe fn release(p: NonNull<u8>, size: usize) {
    if size > SMALL_MAX || IS_CHECKED {
        // SAFETY: allocated with this layout, as it depends on the class alone.
        return unsafe { dealloc(p.as_ptr(), plain_layout(size)) };
    }
    // SAFETY: small objects stand in spans; the span's arena never changes while it has objects.
    unsafe {
        let span = Span::of(p);
        debug_assert_eq!(span.class(), class_of(size), "an object is freed with another size");
        ARENAS[span.arena()].release(span, p);
    }
}

/// Whether the object stands in a span that is being emptied: its owner should move it.
/// SAFETY: `p` came from [`allocate`] for `size` and is live.
#[inline]
pub(crate) unsafe fn is_leaving(p: NonNull<u8>, size: usize) -> bool {
    // SAFETY: as in `release`; the mark is atomic.
    size <= SMALL_MAX && !IS_CHECKED && unsafe { Span::of(p) }.is_leaving()
}

/// Copies the object to a denser span of the same arena and frees the old place.
/// SAFETY: `p` came from [`allocate`] for `size`; the caller owns it and uses only the result from now on.
pub(crate) unsafe fn relocate(p: NonNull<u8>, size: usize) -> NonNull<u8> {
    assert!(size <= SMALL_MAX && !IS_CHECKED);
    // SAFETY: as in `release`; the new place is as large as the class and distinct from the old one.
    unsafe {
        let arena = &ARENAS[Span::of(p).arena()];
        let to = arena.allocate(class_of(size));
        to.copy_from_nonoverlapping(p, size);
        release(p, size);
        to
    }
}

/// What the spans hold.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes of spans that hold objects.
    pub span_bytes: u64,
    /// Bytes of objects, by class.
    pub object_bytes: u64,
}

impl Usage {
    /// Whether emptying spans is worth the work: more than an eighth, and 8 MiB, of the spans is free.
    pub fn is_sparse(&self) -> bool {
        let free = self.span_bytes.saturating_sub(self.object_bytes);
        free > 8 << 20 && free > self.span_bytes / 8
    }
}

/// What all spans of the process hold.
pub fn usage() -> Usage {
    let mut usage = Usage::default();
    ARENAS.iter().for_each(|arena| arena.add_usage(&mut usage));
    usage
}

/// Marks the emptiest spans of each class for leaving, as many as the others have room for. Returns how many. Those of
/// an earlier call that were not emptied are taken back first.
pub fn begin_compaction() -> usize {
    end_compaction();
    ARENAS.iter().map(Arena::mark_leaving).sum()
}

/// Takes spans that were to leave but still hold objects back into use.
pub fn end_compaction() {
    ARENAS.iter().for_each(Arena::take_back);
}

#[cfg(test)]
pub(crate) mod tests;
