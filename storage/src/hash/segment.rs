//! A segment of a table: items with a byte of their hash each, in one allocation behind a thin pointer.
//!
//! `[len u16][cap u16][tags u8 x cap]`, padded to eight bytes, then `[items x cap]`. A look-up reads the line or two of the
//! tags and then the line of one item, whatever the size; with the items alone it read all their lines.
//! A `Vec` would do without `unsafe`, at three words in the directory, which then falls out of the second-level cache.

use crate::segment::prefetch;
use crate::slab::{self, class_size};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// Items of eight bytes, unordered. Holds at most 65 535.
pub struct Segment<T> {
    /// None: no room, no allocation.
    at: Option<NonNull<u8>>,
    owns: PhantomData<T>,
}

// SAFETY: a segment owns its items, as a `Vec` would.
unsafe impl<T: Send> Send for Segment<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Segment<T> {}

const HEADER: usize = 4;

impl<T> Segment<T> {
    const CHECKED: () = assert!(size_of::<T>() == 8 && align_of::<T>() <= 8);

    /// A segment with room for `cap` items.
    pub fn with_capacity(cap: usize) -> Segment<T> {
        let () = Self::CHECKED;
        if cap == 0 {
            return Segment { at: None, owns: PhantomData };
        }
        let header = [0, u16::try_from(cap).expect("fewer than 65 536 items have one hash")];
        let at = slab::allocate(bytes_of(cap));
        // SAFETY: the allocation covers header and tags, which are all initialised here; its class is a multiple of eight
        // bytes, as the size is, and aligned so.
        unsafe {
            at.write_bytes(0, items_start(cap));
            at.cast::<[u16; 2]>().write(header);
        }
        Segment { at: Some(at), owns: PhantomData }
    }

    #[inline]
    fn header(&self) -> (usize, usize) {
        match self.at {
            None => (0, 0),
            // SAFETY: an allocation begins with its header.
            Some(at) => {
                let [len, cap] = unsafe { at.cast::<[u16; 2]>().read() };
                (len as usize, cap as usize)
            }
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.header().0
    }
    pub fn capacity(&self) -> usize {
        self.header().1
    }
    /// Bytes that the allocator has given for it.
    pub fn heap_bytes(&self) -> usize {
        segment_bytes(self.capacity())
    }

    /// SAFETY: the new number of items is initialised, and within the capacity.
    unsafe fn set_len(&mut self, len: usize) {
        if let Some(at) = self.at {
            // SAFETY: the header is the segment's own.
            unsafe { at.cast::<u16>().write(len as u16) };
        }
    }

    #[inline]
    fn items_ptr(&self, at: NonNull<u8>, cap: usize) -> *mut T {
        // SAFETY: items begin inside the allocation.
        unsafe { at.as_ptr().add(items_start(cap)).cast() }
    }

    #[inline]
    pub fn items(&self) -> &[T] {
        let Some(at) = self.at else { return &[] };
        let (len, cap) = self.header();
        // SAFETY: the first `len` items are initialised and change through `&mut self` only.
        unsafe { std::slice::from_raw_parts(self.items_ptr(at, cap), len) }
    }

    #[inline]
    pub fn items_mut(&mut self) -> &mut [T] {
        let Some(at) = self.at else { return &mut [] };
        let (len, cap) = self.header();
        // SAFETY: as in `items`, and `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.items_ptr(at, cap), len) }
    }

    /// Header and tags in words, all initialised.
    #[inline]
    fn words(&self) -> &[u64] {
        let Some(at) = self.at else { return &[] };
        // SAFETY: `with_capacity` initialised them; the allocation is aligned to eight bytes.
        unsafe { std::slice::from_raw_parts(at.cast().as_ptr(), items_start(self.header().1) / 8) }
    }

    fn tag_ptr(&mut self, i: usize) -> *mut u8 {
        assert!(i < self.capacity());
        let at = self.at.expect("there is a capacity");
        // SAFETY: tag `i` is inside the allocation.
        unsafe { at.as_ptr().add(HEADER + i) }
    }

    /// Number of the first item with this tag that `is` accepts. Sixteen tags are compared at a time, without branches.
    #[inline]
    pub fn position(&self, tag: u8, is: impl Fn(&T) -> bool) -> Option<usize> {
        let (items, words) = (self.items(), self.words());
        let mut skip = !0 << HEADER;
        for number in (0..words.len()).step_by(2) {
            let pair = [words[number], words.get(number + 1).copied().unwrap_or(0)];
            let mut equal = equal_bytes(pair, tag) & skip;
            skip = !0;
            while equal != 0 {
                let i = 8 * number + equal.trailing_zeros() as usize - HEADER;
                match items.get(i) {
                    Some(item) if is(item) => return Some(i),
                    Some(_) => equal &= equal - 1,
                    None => return None,
                }
            }
        }
        None
    }

    /// Adds an item. There must be room.
    pub fn push(&mut self, tag: u8, item: T) {
        let (len, cap) = self.header();
        assert!(len < cap);
        let at = self.at.expect("there is a capacity");
        // SAFETY: place `len` is inside the allocation and holds nothing yet.
        unsafe {
            self.tag_ptr(len).write(tag);
            self.items_ptr(at, cap).add(len).write(item);
            self.set_len(len + 1);
        }
    }

    /// Takes an item out; the last one takes its place.
    pub fn swap_remove(&mut self, i: usize) -> T {
        let (len, cap) = self.header();
        assert!(i < len);
        let at = self.at.expect("there is an item");
        // SAFETY: `i` and the last are below the length; the item that is read is no longer counted.
        unsafe {
            let items = self.items_ptr(at, cap);
            let last = self.tag_ptr(len - 1).read();
            self.tag_ptr(i).write(last);
            let item = items.add(i).read();
            ptr::copy(items.add(len - 1), items.add(i), 1);
            self.set_len(len - 1);
            item
        }
    }

    /// Moves all items into a segment with room for `cap`.
    pub fn resize(&mut self, cap: usize) {
        let mut to = Segment::with_capacity(cap);
        to.append(self);
        *self = to;
    }

    /// Moves all items of another segment behind the last, in order. There must be room.
    pub fn append(&mut self, other: &mut Segment<T>) {
        let ((len, cap), (more, other_cap)) = (self.header(), other.header());
        assert!(more <= cap - len);
        let (Some(to), Some(from)) = (self.at, other.at) else { return };
        // SAFETY: both ranges are inside their allocations, which are distinct; the items are counted in one place only.
        unsafe {
            self.items_ptr(to, cap).add(len).copy_from_nonoverlapping(other.items_ptr(from, other_cap), more);
            to.as_ptr().add(HEADER + len).copy_from_nonoverlapping(from.as_ptr().add(HEADER), more);
            other.set_len(0);
            self.set_len(len + more);
        }
    }

    /// Takes all items out, each with its tag, from the last to the first.
    pub fn drain(mut self) -> impl Iterator<Item = (u8, T)> {
        std::iter::from_fn(move || {
            let last = self.len().checked_sub(1)?;
            let tag = self.tag(last);
            Some((tag, self.swap_remove(last)))
        })
    }

    /// The tag of item `i`.
    fn tag(&mut self, i: usize) -> u8 {
        // SAFETY: tags are initialised up to the capacity.
        unsafe { self.tag_ptr(i).read() }
    }

    /// Asks the CPU for header and tags.
    #[inline]
    pub fn prefetch(&self) {
        if let Some(at) = self.at {
            prefetch(at.as_ptr());
            prefetch(at.as_ptr().wrapping_add(64));
        }
    }
}

impl<T> Default for Segment<T> {
    fn default() -> Segment<T> {
        Segment::with_capacity(0)
    }
}

impl<T: Clone> Clone for Segment<T> {
    fn clone(&self) -> Segment<T> {
        let mut to = Segment::with_capacity(self.capacity());
        let tags = self.words().iter().flat_map(|word| word.to_ne_bytes()).skip(HEADER);
        self.items().iter().zip(tags).for_each(|(item, tag)| to.push(tag, item.clone()));
        to
    }
}

impl<T> Drop for Segment<T> {
    fn drop(&mut self) {
        let Some(at) = self.at else { return };
        let cap = self.capacity();
        // SAFETY: the items are dropped once; the allocation was made for this capacity.
        unsafe {
            ptr::from_mut(self.items_mut()).drop_in_place();
            slab::release(at, bytes_of(cap));
        }
    }
}

fn items_start(cap: usize) -> usize {
    (HEADER + cap).next_multiple_of(8)
}

fn bytes_of(cap: usize) -> usize {
    items_start(cap) + 8 * cap
}

/// Bytes that the allocator gives for a segment with room for `cap` items.
pub fn segment_bytes(cap: usize) -> usize {
    if cap == 0 { 0 } else { class_size(bytes_of(cap)) }
}

/// Which of sixteen bytes are `byte`, as a bit mask.
#[cfg(target_arch = "x86_64")]
#[inline]
fn equal_bytes(words: [u64; 2], byte: u8) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    // SAFETY: SSE2 is part of x86_64.
    unsafe {
        let bytes = _mm_set_epi64x(words[1] as i64, words[0] as i64);
        _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))) as u32
    }
}
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn equal_bytes(words: [u64; 2], byte: u8) -> u32 {
    let bytes = words.map(u64::to_ne_bytes);
    bytes.as_flattened().iter().enumerate().fold(0, |mask, (i, &b)| mask | ((b == byte) as u32) << i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn behaves_as_a_vec(ops in prop::collection::vec((0..5u8, any::<u8>()), 1..300)) {
            let (mut segment, mut model) = (Segment::with_capacity(0), Vec::<(u8, Arc<u8>)>::new());
            for (op, n) in ops {
                let tag = n % 5;
                match op {
                    0 if !model.is_empty() => {
                        let i = n as usize % model.len();
                        prop_assert_eq!(segment.tag(i), model[i].0);
                        prop_assert_eq!(segment.swap_remove(i), model.swap_remove(i).1);
                    }
                    1 => segment.resize(model.len() + n as usize % 9),
                    2 => {
                        let copy = segment.clone();
                        segment = copy;
                    }
                    _ => {
                        if segment.len() == segment.capacity() {
                            segment.resize(segment.len() + 1 + n as usize % 5);
                        }
                        let item = Arc::new(n);
                        segment.push(tag, item.clone());
                        model.push((tag, item));
                    }
                }
                prop_assert!(segment.items().iter().eq(model.iter().map(|(_, item)| item)));
                prop_assert!(segment.capacity() >= segment.len());
                for tag in 0..6 {
                    let found = segment.position(tag, |item| **item > 100);
                    prop_assert_eq!(found, model.iter().position(|(t, item)| *t == tag && **item > 100));
                }
            }
            let items: Vec<_> = model.into_iter().map(|(_, item)| item).collect();
            prop_assert!(items.iter().all(|item| Arc::strong_count(item) == 2));
            drop(segment);
            prop_assert!(items.iter().all(|item| Arc::strong_count(item) == 1));
        }
    }
}
