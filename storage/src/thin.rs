//! Collections in eight bytes without alignment, so that they stand in the entry of their key.
//!
//! [`Bytes`] is a pointer to one allocation that begins with its own length; the small forms (`Packed`, a list's
//! `Node`, `IntSet`) are safe code over it. [`Word`] holds either a small form, whose address is even, or a box of the
//! big form, whose address is stored plus one. The unsafe code of all of them is in this file.
//! Boxed slices would do without `unsafe`, at a second pointer per key and a second miss per look-up.

use crate::segment::prefetch;
use crate::slab::{self, class_size};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

/// Bytes before those of the user: the length.
const HEADER: usize = 4;

/// Initialised bytes in one allocation of the class of their number; none when empty.
#[repr(C, packed)]
pub(crate) struct Bytes(*mut u8);

// SAFETY: the allocation belongs to this value alone and nothing in it is bound to a thread.
unsafe impl Send for Bytes {}
// SAFETY: through `&Bytes` the allocation is only read.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// No bytes, no allocation.
    pub(crate) const fn new() -> Bytes {
        Bytes(ptr::null_mut())
    }

    /// `len` zeros. Panics above 4 GiB.
    pub(crate) fn zeroed(len: usize) -> Bytes {
        if len == 0 {
            return Bytes::new();
        }
        let p = Bytes::allocate(len);
        // SAFETY: the allocation has room for the header and `len` bytes.
        unsafe { p.add(HEADER).write_bytes(0, len) };
        Bytes(p)
    }

    /// A place for `len` bytes, which are not initialised, with the length written.
    fn allocate(len: usize) -> *mut u8 {
        let header = u32::try_from(len).expect("below 4 GiB");
        let p = slab::allocate(HEADER + len).as_ptr();
        // SAFETY: the allocation is larger than the header.
        unsafe { p.cast::<[u8; HEADER]>().write(header.to_ne_bytes()) };
        p
    }

    /// Number of bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let p = self.0;
        // SAFETY: an allocation begins with its length.
        if p.is_null() { 0 } else { u32::from_ne_bytes(unsafe { p.cast::<[u8; HEADER]>().read() }) as usize }
    }

    /// Bytes that the allocator has given for it.
    #[inline]
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.0.is_null() { 0 } else { class_size(HEADER + self.len()) }
    }

    /// Where the allocation begins, for prefetching; null when there is none.
    #[inline]
    pub(crate) fn start(&self) -> *const u8 {
        self.0
    }

    #[inline]
    pub(crate) fn get(&self) -> &[u8] {
        let p = self.0;
        if p.is_null() {
            return &[];
        }
        // SAFETY: `len` bytes behind the header are initialised, and change through `&mut self` only.
        unsafe { std::slice::from_raw_parts(p.add(HEADER), self.len()) }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut [u8] {
        let p = self.0;
        if p.is_null() {
            return &mut [];
        }
        // SAFETY: as in `get`, and `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(p.add(HEADER), self.len()) }
    }

    /// Makes the `old` bytes at `at` into `new` bytes of any content, moving those behind. Allocates only when the class
    /// changes.
    pub(crate) fn splice(&mut self, at: usize, old: usize, new: usize) {
        let len = self.len();
        assert!(at <= len && old <= len - at);
        let behind = len - at - old;
        let to_len = len - old + new;
        if to_len == 0 {
            *self = Bytes::new();
            return;
        }
        if len == 0 {
            *self = Bytes::zeroed(to_len);
            return;
        }
        let from = self.0;
        let is_same = class_size(HEADER + to_len) == class_size(HEADER + len);
        let to = if is_same { from } else { Bytes::allocate(to_len) };
        // SAFETY: both allocations have room for their lengths and headers; ranges may overlap where they are one. What
        // is new is written at once, so that all bytes below the length are initialised.
        unsafe {
            ptr::copy(from.add(HEADER + at + old), to.add(HEADER + at + new), behind);
            if is_same {
                to.cast::<[u8; HEADER]>().write((to_len as u32).to_ne_bytes());
            } else {
                ptr::copy_nonoverlapping(from.add(HEADER), to.add(HEADER), at);
                slab::release(NonNull::new_unchecked(from), HEADER + len);
            }
            to.add(HEADER + at).write_bytes(0, new);
        }
        self.0 = to;
    }

    /// Moves the allocation out of a span that is being emptied.
    pub(crate) fn leave_span(&mut self) {
        let Some(p) = NonNull::new(self.0) else { return };
        let size = HEADER + self.len();
        // SAFETY: allocated for this size, and this is the only pointer to it.
        unsafe {
            if slab::is_leaving(p, size) {
                self.0 = slab::relocate(p, size).as_ptr();
            }
        }
    }
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::new()
    }
}

impl Clone for Bytes {
    fn clone(&self) -> Bytes {
        if self.0.is_null() {
            return Bytes::new();
        }
        let (from, len) = (self.0, self.len());
        let to = Bytes::allocate(len);
        // SAFETY: both have room for `len` bytes and are distinct.
        unsafe { ptr::copy_nonoverlapping(from.add(HEADER), to.add(HEADER), len) };
        Bytes(to)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(p) = NonNull::new(self.0) {
            // A large one leaves a page to be given back more often.
            crate::pace::freed(1 + (self.len() >> 8) as u32);
            // SAFETY: allocated for this size; the value is gone after this.
            unsafe { slab::release(p, HEADER + self.len()) };
        }
    }
}

/// A small form of a collection.
///
/// # Safety
/// `Self` is [`Bytes`], transparently: eight bytes without alignment that hold null or an even address.
pub(crate) unsafe trait Small: Default + Clone {
    /// Moves the allocation out of a span that is being emptied.
    fn leave_span(&mut self);
    /// Where the allocation begins, for prefetching.
    fn start(&self) -> *const u8;
    /// Asks the CPU for the first three lines.
    #[inline]
    fn prefetch(&self) {
        for line in 0..3 {
            prefetch(self.start().wrapping_add(64 * line));
        }
    }
}

/// A small form, or a box of the big form `B`.
#[repr(C, packed)]
pub(crate) struct Word<S: Small, B> {
    p: *mut u8,
    owns: PhantomData<(S, Box<B>)>,
}

/// What a [`Word`] holds.
pub(crate) enum View<'a, S, B> {
    Small(&'a S),
    Big(&'a B),
}

/// What a [`Word`] holds, to be changed.
pub(crate) enum ViewMut<'a, S, B> {
    Small(&'a mut S),
    Big(&'a mut B),
}

// SAFETY: a word owns an `S` or a `B`, as a plain enum of them would.
unsafe impl<S: Small + Send, B: Send> Send for Word<S, B> {}
// SAFETY: as above.
unsafe impl<S: Small + Sync, B: Sync> Sync for Word<S, B> {}

impl<S: Small, B> Word<S, B> {
    const CHECKED: () =
        assert!(size_of::<S>() == size_of::<*mut u8>() && align_of::<S>() == 1 && align_of::<B>() > 1);

    pub(crate) fn small(small: S) -> Word<S, B> {
        let () = Self::CHECKED;
        let small = ManuallyDrop::new(small);
        // SAFETY: `S` is a pointer by contract; it is owned by the word from now on.
        let p = unsafe { ptr::from_ref(&small).cast::<*mut u8>().read_unaligned() };
        debug_assert!(p.addr() & 1 == 0);
        Word { p, owns: PhantomData }
    }

    pub(crate) fn big(big: Box<B>) -> Word<S, B> {
        let () = Self::CHECKED;
        // The alignment of `B` leaves the lowest bit free.
        Word { p: Box::into_raw(big).cast::<u8>().map_addr(|a| a | 1), owns: PhantomData }
    }

    #[inline]
    pub(crate) fn is_big(&self) -> bool {
        { self.p }.addr() & 1 == 1
    }

    #[inline]
    fn big_ptr(&self) -> *mut B {
        { self.p }.map_addr(|a| a & !1).cast()
    }

    #[inline]
    pub(crate) fn view(&self) -> View<'_, S, B> {
        // SAFETY: the lowest bit says which of the two the word owns; the small form stands in the word itself.
        unsafe {
            if self.is_big() {
                View::Big(&*self.big_ptr())
            } else {
                View::Small(&*ptr::from_ref(self).cast::<S>())
            }
        }
    }

    #[inline]
    pub(crate) fn view_mut(&mut self) -> ViewMut<'_, S, B> {
        // SAFETY: as in `view`; a small form that is changed stays one by contract.
        unsafe {
            if self.is_big() {
                ViewMut::Big(&mut *self.big_ptr())
            } else {
                ViewMut::Small(&mut *ptr::from_mut(self).cast::<S>())
            }
        }
    }

    /// Moves a small form out of a span that is being emptied; a big one stays.
    pub(crate) fn leave_span(&mut self) {
        if let ViewMut::Small(small) = self.view_mut() {
            small.leave_span();
        }
    }
}

impl<S: Small, B> Default for Word<S, B> {
    fn default() -> Self {
        Word::small(S::default())
    }
}

impl<S: Small, B: Clone> Clone for Word<S, B> {
    fn clone(&self) -> Self {
        match self.view() {
            View::Small(small) => Word::small(small.clone()),
            View::Big(big) => Word::big(Box::new(big.clone())),
        }
    }
}

impl<S: Small, B> Drop for Word<S, B> {
    fn drop(&mut self) {
        // SAFETY: the word owns what it points to and is gone after this.
        unsafe {
            if self.is_big() {
                drop(Box::from_raw(self.big_ptr()));
            } else {
                ptr::from_mut(self).cast::<S>().drop_in_place();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[derive(Default, Clone)]
    #[repr(transparent)]
    struct Plain(Bytes);
    // SAFETY: transparent.
    unsafe impl Small for Plain {
        fn leave_span(&mut self) {
            self.0.leave_span();
        }
        fn start(&self) -> *const u8 {
            self.0.start()
        }
    }

    proptest! {
        #[test]
        fn bytes_behave_as_a_vec(ops in prop::collection::vec((any::<usize>(), 0..40usize, prop_oneof![0..60usize, Just(5000usize)]), 1..60)) {
            let (mut bytes, mut model) = (Bytes::new(), Vec::new());
            for (n, (at, old, new)) in ops.into_iter().enumerate() {
                let at = at % (model.len() + 1);
                let old = old.min(model.len() - at);
                bytes.splice(at, old, new);
                bytes.get_mut()[at..at + new].fill(n as u8);
                model.splice(at..at + old, std::iter::repeat_n(n as u8, new));
                prop_assert_eq!(bytes.get(), &model[..]);
                let expected = if model.is_empty() { 0 } else { class_size(model.len() + HEADER) };
                prop_assert_eq!(bytes.heap_bytes(), expected);
                let copy = bytes.clone();
                prop_assert_eq!(copy.get(), &model[..]);
            }
        }
    }

    #[test]
    fn a_word_owns_one_form_at_a_time_at_any_address() {
        let shared = Arc::new(7u64);
        let mut place = [0u8; 24];
        for shift in 0..16 {
            let mut word: Word<Plain, Arc<u64>> = Word::default();
            assert!(matches!(word.view(), View::Small(s) if s.0.len() == 0));
            if let ViewMut::Small(small) = word.view_mut() {
                small.0.splice(0, 0, 9);
            }
            let at = place[shift..].as_mut_ptr().cast::<Word<Plain, Arc<u64>>>();
            // SAFETY: eight bytes inside the array, without alignment; each value is read out or dropped once.
            unsafe {
                at.write(word);
                assert!(matches!((*at).view(), View::Small(s) if s.0.len() == 9));
                *at = Word::big(Box::new(shared.clone()));
                assert!((*at).is_big() && matches!((*at).view(), View::Big(b) if **b == 7));
                let copy = (*at).clone();
                assert_eq!(Arc::strong_count(&shared), 3);
                if let ViewMut::Big(big) = (*at).view_mut() {
                    *big = Arc::new(8);
                }
                assert_eq!(Arc::strong_count(&shared), 2);
                drop(copy);
                assert_eq!(Arc::strong_count(&shared), 1);
                drop(at.read());
            }
        }
    }
}
