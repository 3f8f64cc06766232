//! An arena: the spans that some threads allocate in, by class, under one short lock.
//!
//! A class keeps its spans that have room in four lists by how full they are, and allocates from the fullest, so that
//! sparse spans run empty by themselves where keys come and go.

use super::Usage;
use super::class::{CLASSES, SIZES};
use super::pool;
use super::span::{CAPACITIES, SPAN_BYTES, Span};
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// Arenas at most: as many as cores up to here. Choice: beyond, threads share.
pub(super) const ARENAS_MAX: usize = 64;
/// Lists of a class, by quarters of a span's capacity.
const BUCKETS: usize = 4;
/// Looks at a held lock before the thread yields: the holder is ten instructions from the end unless it lost its core.
const SPINS: u32 = 100;
/// Looks before the thread sleeps for a moment.
const YIELDS: u32 = SPINS + 4;

#[repr(align(128))]
pub(super) struct Arena {
    is_locked: AtomicBool,
    classes: UnsafeCell<[Class; CLASSES]>,
}

struct Class {
    /// Where objects are allocated; in one of the lists.
    current: Option<Span>,
    /// Spans with room, neither full nor leaving.
    buckets: [Option<Span>; BUCKETS],
    leaving: Option<Span>,
    spans: u32,
    /// Objects handed out, those in leaving spans included.
    used: u64,
}

// SAFETY: `classes` is touched under the lock only.
unsafe impl Sync for Arena {}

impl Class {
    const NEW: Class = Class { current: None, buckets: [None; BUCKETS], leaving: None, spans: 0, used: 0 };
}

/// The list for a span with `used` of its objects handed out; `used` is below the capacity.
#[inline]
fn bucket_of(used: u16, class: usize) -> u8 {
    let quarter = CAPACITIES[class] / BUCKETS as u16 + 1;
    (used >= quarter) as u8 + (used >= 2 * quarter) as u8 + (used >= 3 * quarter) as u8
}

/// SAFETY: the arena's lock is held; `head` is the list that the span is not in yet.
unsafe fn link(head: &mut Option<Span>, span: Span) {
    // SAFETY: spans in lists are in use, and headers are guarded by the lock.
    unsafe {
        let links = span.header();
        (*links.prev, *links.next) = (None, *head);
        if let Some(next) = *head {
            *next.header().prev = Some(span);
        }
        *head = Some(span);
    }
}

/// SAFETY: the arena's lock is held; the span is in the list of `head`.
unsafe fn unlink(head: &mut Option<Span>, span: Span) {
    // SAFETY: as above.
    unsafe {
        let (prev, next) = {
            let links = span.header();
            (links.prev.take(), links.next.take())
        };
        match prev {
            Some(prev) => *prev.header().next = next,
            None => *head = next,
        }
        if let Some(next) = next {
            *next.header().prev = prev;
        }
    }
}

impl Arena {
    pub(super) const fn new() -> Arena {
        Arena { is_locked: AtomicBool::new(false), classes: UnsafeCell::new([Class::NEW; CLASSES]) }
    }

    /// Runs `f` on one class with the lock held.
    #[inline]
    fn with<R>(&self, class: usize, f: impl FnOnce(&mut Class) -> R) -> R {
        if self.is_locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
        // SAFETY: the lock is held, and `f` cannot reach the arena's classes otherwise.
        let result = f(unsafe { &mut (&mut *self.classes.get())[class] });
        self.is_locked.store(false, Ordering::Release);
        result
    }

    #[cold]
    fn wait(&self) {
        let mut spins = 0;
        loop {
            if !self.is_locked.load(Ordering::Relaxed)
                && self.is_locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            spins += 1;
            match spins {
                ..SPINS => std::hint::spin_loop(),
                SPINS..YIELDS => std::thread::yield_now(),
                // The holder's thread has a lower priority than this one.
                _ => crate::sync::rest(),
            }
        }
    }

    fn index(&self) -> u16 {
        (((&raw const *self).addr() - super::ARENAS.as_ptr().addr()) / size_of::<Arena>()) as u16
    }

    #[inline]
    pub(super) fn allocate(&self, class: usize) -> NonNull<u8> {
        loop {
            let object = self.with(class, |c| {
                let span = match c.current {
                    Some(span) => span,
                    None => c.next_span()?,
                };
                c.used += 1;
                // SAFETY: the lock is held; `current` always has room.
                Some(unsafe { c.take_from(span, class) })
            });
            match object {
                Some(object) => return object,
                None => self.add_span(class),
            }
        }
    }

    #[cold]
    fn add_span(&self, class: usize) {
        // SAFETY: fresh memory of the pool's.
        let span = unsafe { Span::begin(pool::take(), self.index(), class) };
        self.with(class, |c| {
            c.spans += 1;
            // SAFETY: the lock is held and the span is in no list.
            unsafe { link(&mut c.buckets[0], span) };
        });
    }

    /// SAFETY: `object` stands in `span`, which is this arena's, and is nobody's any more.
    #[inline]
    pub(super) unsafe fn release(&self, span: Span, object: NonNull<u8>) {
        let class = span.class();
        // SAFETY: the lock is held inside.
        let is_empty = self.with(class, |c| unsafe { c.give_to(span, object, class) });
        if is_empty {
            // SAFETY: the span is in no list and has no object.
            unsafe { pool::give(span.memory()) };
        }
    }

    pub(super) fn add_usage(&self, usage: &mut Usage) {
        for (class, size) in SIZES.iter().enumerate() {
            let (spans, used) = self.with(class, |c| (c.spans as u64, c.used));
            usage.span_bytes += spans * SPAN_BYTES as u64;
            usage.object_bytes += used * *size as u64;
        }
    }

    /// Marks spans of every class for leaving; returns how many.
    pub(super) fn mark_leaving(&self) -> usize {
        // SAFETY: the lock is held inside.
        (0..CLASSES).map(|class| self.with(class, |c| unsafe { c.mark_leaving(class) })).sum()
    }

    /// Lists the spans again that were to leave.
    pub(super) fn take_back(&self) {
        for class in 0..CLASSES {
            // SAFETY: the lock is held inside.
            self.with(class, |c| unsafe { c.take_back(class) });
        }
    }
}

impl Class {
    /// The fullest span with room.
    fn next_span(&mut self) -> Option<Span> {
        self.current = self.buckets.iter().rev().find_map(|head| *head);
        self.current
    }

    /// SAFETY: the arena's lock is held; `span` is in a list of this class.
    #[inline]
    unsafe fn take_from(&mut self, span: Span, class: usize) -> NonNull<u8> {
        // SAFETY: by contract.
        unsafe {
            let object = span.take();
            let used = span.used();
            if used == CAPACITIES[class] {
                let bucket = *span.header().bucket as usize;
                unlink(&mut self.buckets[bucket], span);
                self.current = None;
            } else {
                self.rank(span, used, class);
            }
            object
        }
    }

    /// Puts a listed span into the list that it belongs to now.
    /// SAFETY: the arena's lock is held.
    #[inline]
    unsafe fn rank(&mut self, span: Span, used: u16, class: usize) {
        let bucket = bucket_of(used, class);
        // SAFETY: by contract.
        unsafe {
            let old = *span.header().bucket;
            if old != bucket {
                unlink(&mut self.buckets[old as usize], span);
                *span.header().bucket = bucket;
                link(&mut self.buckets[bucket as usize], span);
            }
        }
    }

    /// Returns whether the span is empty and in no list any more.
    /// SAFETY: the arena's lock is held; `object` is of `span`.
    #[inline]
    unsafe fn give_to(&mut self, span: Span, object: NonNull<u8>, class: usize) -> bool {
        // SAFETY: by contract.
        unsafe {
            let was_full = span.used() == CAPACITIES[class];
            span.give(object);
            self.used -= 1;
            let used = span.used();
            if span.is_leaving() {
                if used == 0 {
                    unlink(&mut self.leaving, span);
                    self.spans -= 1;
                }
                return used == 0;
            }
            if was_full {
                let bucket = bucket_of(used, class);
                *span.header().bucket = bucket;
                link(&mut self.buckets[bucket as usize], span);
            } else {
                self.rank(span, used, class);
            }
            if used == 0 {
                let bucket = *span.header().bucket as usize;
                unlink(&mut self.buckets[bucket], span);
                self.spans -= 1;
                if self.current == Some(span) {
                    self.current = None;
                }
            }
            used == 0
        }
    }

    /// SAFETY: the arena's lock is held.
    unsafe fn mark_leaving(&mut self, class: usize) -> usize {
        let cap = CAPACITIES[class] as u64;
        let room = self.spans as u64 * cap - self.used;
        if room < 2 * cap || room * 16 < self.spans as u64 * cap {
            return 0;
        }
        // What leaves must fit into what stays, with a sixteenth to spare.
        let (mut room, mut marked) = (room - self.spans as u64 * cap / 16, 0);
        for bucket in 0..BUCKETS {
            while let Some(span) = self.buckets[bucket] {
                // SAFETY: by contract; listed spans are in use.
                unsafe {
                    // Its own room goes, and its objects take room elsewhere: together its whole capacity.
                    if room < cap {
                        return marked;
                    }
                    room -= cap;
                    unlink(&mut self.buckets[bucket], span);
                    if self.current == Some(span) {
                        self.current = None;
                    }
                    span.set_leaving(true);
                    link(&mut self.leaving, span);
                    marked += 1;
                }
            }
        }
        marked
    }

    /// SAFETY: the arena's lock is held.
    unsafe fn take_back(&mut self, class: usize) {
        while let Some(span) = self.leaving {
            // SAFETY: by contract; spans that leave are in use and not empty.
            unsafe {
                unlink(&mut self.leaving, span);
                span.set_leaving(false);
                let used = span.used();
                if used < CAPACITIES[class] {
                    let bucket = bucket_of(used, class);
                    *span.header().bucket = bucket;
                    link(&mut self.buckets[bucket as usize], span);
                }
            }
        }
    }
}
