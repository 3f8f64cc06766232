//! A span: 64 KiB of objects of one class behind a header of one line.

use super::class::{CLASSES, SIZES};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a span, and its alignment.
pub(super) const SPAN_BYTES: usize = 64 * 1024;
/// Bytes before the first object.
const HEADER: usize = 64;

/// A span in use. All but `is_leaving` is guarded by its arena's lock; `arena` and `class` never change while it is in
/// use, so holders of an object may read them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(NonNull<Header>);

#[repr(C)]
pub(super) struct Header {
    arena: u16,
    class: u8,
    is_leaving: AtomicBool,
    /// Objects handed out.
    pub used: u16,
    /// Place of the first free object in units of four bytes; 0: none. Each free object holds the next one's.
    free: u16,
    /// Place where objects begin that were never handed out.
    fresh: u16,
    /// Which list of its class it is in.
    pub bucket: u8,
    pub prev: Option<Span>,
    pub next: Option<Span>,
}

const _: () = assert!(size_of::<Header>() <= HEADER);
const _: () = assert!(SPAN_BYTES / 4 <= u16::MAX as usize);

/// Objects a span holds, by class.
pub(super) const CAPACITIES: [u16; CLASSES] = {
    let mut capacities = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        capacities[class] = ((SPAN_BYTES - HEADER) / SIZES[class] as usize) as u16;
        class += 1;
    }
    capacities
};

impl Span {
    /// Makes an empty span of raw memory.
    /// SAFETY: `memory` is a span's memory, aligned to [`SPAN_BYTES`], and nobody else's.
    pub(super) unsafe fn begin(memory: NonNull<u8>, arena: u16, class: usize) -> Span {
        let header = Header {
            arena,
            class: class as u8,
            is_leaving: AtomicBool::new(false),
            used: 0,
            free: 0,
            fresh: (HEADER / 4) as u16,
            bucket: 0,
            prev: None,
            next: None,
        };
        let p = memory.cast::<Header>();
        // SAFETY: by contract.
        unsafe { p.write(header) };
        Span(p)
    }

    /// The span of an object.
    /// SAFETY: `object` stands in a span in use.
    #[inline]
    pub(super) unsafe fn of(object: NonNull<u8>) -> Span {
        let p = object.as_ptr().map_addr(|a| a & !(SPAN_BYTES - 1));
        // SAFETY: by contract; a span does not begin at address zero.
        Span(unsafe { NonNull::new_unchecked(p.cast()) })
    }

    pub(super) fn memory(self) -> NonNull<u8> {
        self.0.cast()
    }
    #[inline]
    pub(super) fn arena(self) -> usize {
        // SAFETY: constant while the span is in use.
        unsafe { (*self.0.as_ptr()).arena as usize }
    }
    #[inline]
    pub(super) fn class(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0.as_ptr()).class as usize }
    }
    #[inline]
    pub(super) fn is_leaving(self) -> bool {
        // SAFETY: the header is live while the span is in use; the field is atomic.
        unsafe { (*self.0.as_ptr()).is_leaving.load(Ordering::Relaxed) }
    }
    pub(super) fn set_leaving(self, yes: bool) {
        // SAFETY: as above.
        unsafe { (*self.0.as_ptr()).is_leaving.store(yes, Ordering::Relaxed) }
    }

    /// Reads a guarded field.
    /// SAFETY: the arena's lock is held.
    #[inline]
    pub(super) unsafe fn used(self) -> u16 {
        // SAFETY: by contract.
        unsafe { (*self.0.as_ptr()).used }
    }
    /// SAFETY: the arena's lock is held, and no other reference into the header's guarded fields lives.
    #[inline]
    pub(super) unsafe fn header<'a>(self) -> Links<'a> {
        // SAFETY: by contract; the atomics and constants are not borrowed.
        unsafe {
            let p = self.0.as_ptr();
            Links { bucket: &mut (*p).bucket, prev: &mut (*p).prev, next: &mut (*p).next }
        }
    }

    /// Hands out an object.
    /// SAFETY: the arena's lock is held; the span is not full.
    #[inline]
    pub(super) unsafe fn take(self) -> NonNull<u8> {
        // SAFETY: by contract. A free object's first two bytes hold the place of the next one.
        unsafe {
            let p = self.0.as_ptr();
            let place = (*p).free;
            (*p).used += 1;
            let place = if place != 0 {
                let object = self.at(place);
                (*p).free = object.cast::<u16>().read();
                return object;
            } else {
                let place = (*p).fresh;
                (*p).fresh = place + SIZES[(*p).class as usize] / 4;
                place
            };
            self.at(place)
        }
    }

    /// Takes an object back.
    /// SAFETY: the arena's lock is held; the object is of this span and nobody's any more.
    #[inline]
    pub(super) unsafe fn give(self, object: NonNull<u8>) {
        // SAFETY: by contract; objects have at least eight bytes, aligned to four.
        unsafe {
            let p = self.0.as_ptr();
            object.cast::<u16>().write((*p).free);
            (*p).free = ((object.as_ptr().addr() & (SPAN_BYTES - 1)) / 4) as u16;
            (*p).used -= 1;
        }
    }

    /// SAFETY: `place` is inside the span.
    #[inline]
    unsafe fn at(self, place: u16) -> NonNull<u8> {
        // SAFETY: by contract.
        unsafe { self.memory().add(place as usize * 4) }
    }
}

/// A span's place in a list.
pub(super) struct Links<'a> {
    pub bucket: &'a mut u8,
    pub prev: &'a mut Option<Span>,
    pub next: &'a mut Option<Span>,
}
