//! One element of a big hash or set: a thin pointer to `[key length][value length][key][value]`, one allocation each.
//!
//! Lengths take one byte, or five from 255 on; a set's element has no value length. The 16 bits above the 48 of the address hold
//! hash bits, so that a look-up seldom visits an element that is not the one it wants.
//! Boxed slices would do without `unsafe`, at 16 bytes a pointer and a second allocation per field.

use super::seeded;
use super::table::{Ahead, Slot, Table};
use crate::keyspace::ElementAhead;
use crate::segment::prefetch;
use crate::slab;
use std::ptr::{self, NonNull};

/// An owned key, with a value if `PAIR`.
pub struct Element<const PAIR: bool> {
    /// Address in the low 48 bits, hash bits above.
    tagged: NonNull<u8>,
}

// SAFETY: an element owns its allocation and nothing in it is shared or thread-bound.
unsafe impl<const PAIR: bool> Send for Element<PAIR> {}
// SAFETY: through `&Element` the bytes are only read.
unsafe impl<const PAIR: bool> Sync for Element<PAIR> {}

const ADDRESS: usize = (1 << 48) - 1;
const LONG: u8 = 255;
/// Bytes of a short element, for prefetching: a choice.
const SHORT: usize = 32;
const LONG_BYTES: usize = 5;

impl<const PAIR: bool> Element<PAIR> {
    /// Copies key and value into a new allocation. A set's value must be empty.
    pub fn new(hash: u64, key: &[u8], value: &[u8]) -> Element<PAIR> {
        assert!(PAIR || value.is_empty());
        let bytes = Self::bytes_for(key.len(), value.len());
        let raw = slab::allocate(bytes).as_ptr();
        assert!(raw.addr() & !ADDRESS == 0, "addresses have 48 bits");
        // SAFETY: the allocation is `bytes` long and nobody else has it yet; the writes below fill it exactly.
        unsafe {
            let mut to = write_len(raw, key.len());
            if PAIR {
                to = write_len(to, value.len());
            }
            ptr::copy_nonoverlapping(key.as_ptr(), to, key.len());
            ptr::copy_nonoverlapping(value.as_ptr(), to.add(key.len()), value.len());
        }
        let tagged = raw.map_addr(|a| a | (hash as u16 as usize) << 48);
        Element { tagged: NonNull::new(tagged).expect("an allocation is not null") }
    }

    /// Bytes of the allocation for these lengths.
    fn bytes_for(key: usize, value: usize) -> usize {
        len_bytes(key) + key + if PAIR { len_bytes(value) + value } else { 0 }
    }

    /// Bytes this element occupies.
    pub fn heap_bytes(&self) -> usize {
        let (key, value) = self.get();
        slab::class_size(Self::bytes_for(key.len(), value.len()))
    }

    fn raw(&self) -> *mut u8 {
        self.tagged.as_ptr().map_addr(|a| a & ADDRESS)
    }

    /// Asks the CPU for the line where the element begins, and for the next if a short one would reach it.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.raw());
        prefetch(self.raw().wrapping_add(SHORT));
    }

    /// Asks the CPU for what a look-up in a table will read, one step further at each call; whether there is another.
    #[inline]
    pub fn prefetch_in(table: &Table<Self>, ahead: &mut ElementAhead<'_>) -> bool {
        if ahead.step == 0 {
            ahead.hash = seeded::hash(table.seed(), ahead.element);
        }
        match table.prefetch(ahead) {
            Ahead::Later => return true,
            Ahead::There(element) => element.prefetch(),
            Ahead::None => {}
        }
        false
    }

    /// Offset of the key and both lengths.
    fn layout(&self) -> (usize, usize, usize) {
        // SAFETY: `new` wrote the lengths at the start of the allocation, which lives as long as `self`.
        unsafe {
            let (key, key_width) = read_len(self.raw());
            if !PAIR {
                return (key_width, key, 0);
            }
            let (value, value_width) = read_len(self.raw().add(key_width));
            (key_width + value_width, key, value)
        }
    }

    /// Key and value.
    pub fn get(&self) -> (&[u8], &[u8]) {
        let (at, key, value) = self.layout();
        // SAFETY: `new` filled exactly these ranges; they live and stay unchanged as long as `&self`.
        unsafe {
            let from = self.raw().add(at);
            (std::slice::from_raw_parts(from, key), std::slice::from_raw_parts(from.add(key), value))
        }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.get().0
    }

    /// Replaces the value, in place if it is as long as the old one.
    pub fn set_value(&mut self, value: &[u8]) {
        assert!(PAIR);
        let (at, key, old) = self.layout();
        if old == value.len() {
            // SAFETY: the value's range is `old` bytes behind the key; `&mut self` is the only way to it and `value`
            // cannot overlap it, for it would borrow `self`.
            unsafe { ptr::copy_nonoverlapping(value.as_ptr(), self.raw().add(at + key), old) };
        } else {
            *self = Self::new((self.tagged.addr().get() >> 48) as u64, self.key(), value);
        }
    }
}

impl<const PAIR: bool> Drop for Element<PAIR> {
    fn drop(&mut self) {
        crate::pace::freed(1);
        let (_, key, value) = self.layout();
        // SAFETY: `new` allocated with this very size, as the lengths never change.
        unsafe { slab::release(NonNull::new_unchecked(self.raw()), Self::bytes_for(key, value)) };
    }
}

impl<const PAIR: bool> Clone for Element<PAIR> {
    fn clone(&self) -> Self {
        let (key, value) = self.get();
        Self::new((self.tagged.addr().get() >> 48) as u64, key, value)
    }
}

impl<const PAIR: bool> Slot for Element<PAIR> {
    const TAG_SHIFT: u32 = 48;

    #[inline]
    fn tag_of(hash: u64) -> u64 {
        u64::from(hash as u16)
    }

    #[inline]
    fn word(&self) -> u64 {
        self.tagged.addr().get() as u64
    }

    fn hash(&self, seed: u64) -> u64 {
        seeded::hash(seed, self.key())
    }

    #[inline]
    fn prefetch(&self) {
        Element::prefetch(self);
    }

    fn heap_bytes(&self) -> usize {
        Element::heap_bytes(self)
    }
}

fn len_bytes(len: usize) -> usize {
    if len < LONG as usize { 1 } else { LONG_BYTES }
}

/// Writes a length and returns the place behind it.
/// SAFETY: `len_bytes(len)` bytes at `to` are writable.
unsafe fn write_len(to: *mut u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        if len < LONG as usize {
            to.write(len as u8);
            to.add(1)
        } else {
            let long = u32::try_from(len).expect("elements are below 4 GiB").to_le_bytes();
            to.write(LONG);
            ptr::copy_nonoverlapping(long.as_ptr(), to.add(1), 4);
            to.add(LONG_BYTES)
        }
    }
}

/// Reads a length and its width.
/// SAFETY: `from` was written by `write_len`.
unsafe fn read_len(from: *const u8) -> (usize, usize) {
    // SAFETY: the caller's promise; a first byte of `LONG` is followed by four more.
    unsafe {
        match from.read() {
            LONG => (u32::from_le_bytes(from.add(1).cast::<[u8; 4]>().read()) as usize, LONG_BYTES),
            short => (short as usize, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_keys_and_values_of_all_lengths() {
        for key in [0, 1, 254, 255, 256, 70_000] {
            for value in [0, 1, 254, 255, 70_000] {
                let (k, v) = (vec![b'k'; key], vec![b'v'; value]);
                let mut pair = Element::<true>::new(0xabcd, &k, &v);
                assert_eq!(pair.get(), (&k[..], &v[..]));
                assert!(pair.may_be(0xabcd) && !pair.may_be(0xabce));
                pair.set_value(b"other");
                assert_eq!(pair.get(), (&k[..], &b"other"[..]));
                pair.set_value(b"OTHER");
                assert_eq!(pair.clone().get(), (&k[..], &b"OTHER"[..]));
            }
            let k = vec![b'k'; key];
            assert_eq!(Element::<false>::new(1, &k, b"").get(), (&k[..], &b""[..]));
        }
    }
}
