//! A segment: up to 62 entries of one interval of the hash space, as one-byte tags and six-byte pointers.
//!
//! ```text
//! n u8 | class u8 | depth u8 | flags u8 | stamp u32 | tags [cap] | pointers [cap] x 6 | 2 spare
//! ```
//! Four classes (7, 16, 35, 62 entries in 64, 128, 256, 448 bytes): with more of them segments wander through the
//! allocator's classes while slots grow, and fragmentation costs more than the tighter fit saves (3.3 against 0.5
//! bytes per key). Entries are unordered; deleting moves the last one in. The low two bits of a pointer, which
//! alignment leaves free, carry two more hash bits, so that a false candidate is one in 1024 per entry.
//!
//! Invariant: a pointer's address fits 47 bits (asserted when it is stored).

use crate::entry::RawEntry;
use crate::slab;
use std::ptr::NonNull;

const CAPS: [usize; 4] = [7, 16, 35, 62];
const SIZES: [usize; 4] = [64, 128, 256, 448];
/// Entries a segment holds at most.
pub(crate) const SEGMENT_MAX: usize = CAPS[3];
const HEADER: usize = 8;
const FLAG_EXPIRES: u8 = 1;
/// Bits of an address that hold bits of the hash.
const LOW: u64 = 3;

const _: () = {
    let mut i = 0;
    while i < 4 {
        // Pointers are read eight bytes wide at six-byte stride; tags sixteen at a time, and all of those of the larger classes.
        assert!(HEADER + 7 * CAPS[i] + 2 <= SIZES[i]);
        assert!(HEADER + if i == 0 { 16 } else { 64 } <= SIZES[i]);
        i += 1;
    }
};

#[repr(C)]
struct Header {
    n: u8,
    class: u8,
    depth: u8,
    flags: u8,
    stamp: u32,
}

/// A live segment; one pointer to it (or a run of equal ones) stands in its table's directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seg(NonNull<u8>);

#[inline]
fn tag(hash: u64) -> u8 {
    hash as u8
}
#[inline]
fn low_bits(hash: u64) -> u64 {
    (hash >> 8) & LOW
}

impl Seg {
    /// An empty segment of the smallest class that holds `room` entries.
    pub(crate) fn new(room: usize, depth: u8, stamp: u32) -> Seg {
        let class = CAPS.iter().position(|&cap| cap >= room).expect("no segment holds more than SEGMENT_MAX");
        // SAFETY: the header is written before anybody reads it; the sizes are multiples of eight, so it is aligned. All
        // bytes are zeroed because the tag compare reads past the tags in use.
        unsafe {
            let p = slab::allocate(SIZES[class]);
            p.write_bytes(0, SIZES[class]);
            p.cast::<Header>().write(Header { n: 0, class: class as u8, depth, flags: 0, stamp });
            Seg(p)
        }
    }

    /// SAFETY: nobody uses the segment any more; its entries belong to somebody else or are freed.
    pub(crate) unsafe fn free(self) {
        // SAFETY: allocated with this size.
        unsafe { slab::release(self.0, self.bytes()) }
    }

    pub(crate) fn expose(self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
    /// SAFETY: `address` came from [`Seg::expose`] of a live segment.
    #[inline]
    pub(crate) unsafe fn from_exposed(address: u64) -> Seg {
        // SAFETY: by contract.
        Seg(unsafe { NonNull::new_unchecked(std::ptr::with_exposed_provenance_mut(address as usize)) })
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the header is initialised; accessors hold the slot's lock, and no `&mut Header` outlives a call.
        unsafe { self.0.cast::<Header>().as_ref() }
    }
    #[inline]
    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: as above; writers hold the slot's lock exclusively.
        unsafe { self.0.cast::<Header>().as_mut() }
    }
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.header().n as usize
    }
    pub(crate) fn is_full(self) -> bool {
        self.len() == self.cap()
    }
    #[inline]
    pub(crate) fn depth(self) -> u32 {
        self.header().depth as u32
    }
    #[inline]
    pub(crate) fn stamp(self) -> u32 {
        self.header().stamp
    }
    pub(crate) fn set_stamp(mut self, stamp: u32) {
        self.header_mut().stamp = stamp;
    }
    /// Whether an entry with an expiry may be in here. Never cleared while entries move; cleared by a full look.
    pub(crate) fn may_expire(self) -> bool {
        self.header().flags & FLAG_EXPIRES != 0
    }
    pub(crate) fn set_may_expire(mut self, yes: bool) {
        let header = self.header_mut();
        header.flags = if yes { header.flags | FLAG_EXPIRES } else { header.flags & !FLAG_EXPIRES };
    }
    pub(crate) fn bytes(self) -> usize {
        SIZES[self.header().class as usize]
    }

    #[inline]
    fn tags(self) -> *mut u8 {
        // SAFETY: inside the allocation.
        unsafe { self.0.as_ptr().add(HEADER) }
    }
    #[inline]
    fn pointer_at(self, i: usize) -> *mut u8 {
        // SAFETY: inside the allocation for i < cap, checked by the callers.
        unsafe { self.tags().add(self.cap() + 6 * i) }
    }
    #[inline]
    fn cap(self) -> usize {
        // What the compiler cannot know: it is below the number of classes. So there is no check.
        CAPS[self.header().class as usize % CAPS.len()]
    }
    #[inline]
    fn word(self, i: usize) -> u64 {
        debug_assert!(i < self.len());
        // SAFETY: eight bytes at six-byte stride stay inside by the compile-time check above.
        unsafe { self.pointer_at(i).cast::<u64>().read_unaligned() & 0xFFFF_FFFF_FFFF }
    }
    fn set_word(self, i: usize, word: u64) {
        assert!(word >> 47 == 0, "an address above 47 bits");
        let bytes = word.to_le_bytes();
        // SAFETY: six bytes of slot `i`, which is below the capacity.
        unsafe { self.pointer_at(i).copy_from_nonoverlapping(bytes.as_ptr(), 6) }
    }

    #[inline]
    pub(crate) fn entry(self, i: usize) -> RawEntry {
        assert!(i < self.len());
        // SAFETY: words below `n` are addresses of live entries.
        unsafe { RawEntry::from_exposed(self.word(i) & !LOW) }
    }

    /// Position of `key`, whose hash is `hash`, and its entry.
    #[inline(always)]
    pub(crate) fn find(self, hash: u64, key: &[u8]) -> Option<(usize, RawEntry)> {
        self.candidates(hash, |entry| is_same_key(entry.key(), key))
    }
    /// The first entry whose tag bits are those of `hash` and that `is` accepts: the right key, but for one in 1024 per entry.
    #[inline]
    pub(crate) fn probe(self, hash: u64, is: impl Fn(RawEntry) -> bool) -> Option<RawEntry> {
        self.candidates(hash, is).map(|(_, entry)| entry)
    }

    #[inline(always)]
    fn candidates(self, hash: u64, mut is_it: impl FnMut(RawEntry) -> bool) -> Option<(usize, RawEntry)> {
        let (mut matches, low) = (self.matches(hash), low_bits(hash));
        while matches != 0 {
            let i = matches.trailing_zeros() as usize;
            let word = self.word(i);
            // SAFETY: as in `entry`.
            let entry = unsafe { RawEntry::from_exposed(word & !LOW) };
            if word & LOW == low && is_it(entry) {
                return Some((i, entry));
            }
            matches &= matches - 1;
        }
        None
    }

    /// Which entries have the tag of `hash`, as a bit mask.
    // All tags at once: which sixteen of them hold the one that is sought nobody can foresee, and to guess wrong costs more
    // than to look at the others.
    #[inline(always)]
    fn matches(self, hash: u64) -> u64 {
        let tag = tag(hash);
        let matches = match self.header().class {
            0 => self.match_16(0, tag) as u64,
            _ => (0..64).step_by(16).fold(0, |mask, base| mask | (self.match_16(base, tag) as u64) << base),
        };
        matches & ((1 << self.len()) - 1)
    }

    /// Which of the sixteen tags from `base` equal `tag`, as a bit mask.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn match_16(self, base: usize, tag: u8) -> u32 {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: SSE2 is part of x86_64; the load stays inside the allocation by the compile-time check above.
        unsafe {
            let tags = _mm_loadu_si128(self.tags().add(base).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8))) as u32
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    fn match_16(self, base: usize, tag: u8) -> u32 {
        // SAFETY: sixteen initialised bytes inside the allocation by the compile-time check above.
        let tags = unsafe { std::slice::from_raw_parts(self.tags().add(base), 16) };
        tags.iter().enumerate().fold(0, |mask, (i, &t)| mask | ((t == tag) as u32) << i)
    }

    /// Appends an entry; the segment must not be full.
    pub(crate) fn push(mut self, hash: u64, entry: RawEntry) {
        assert!(!self.is_full());
        let i = self.len();
        self.header_mut().n += 1;
        // SAFETY: `i` is below the capacity.
        unsafe { self.tags().add(i).write(tag(hash)) };
        self.set_word(i, entry.expose() | low_bits(hash));
        if entry.expire_ms().is_some() || entry.field_expire_ms().is_some() {
            self.set_may_expire(true);
        }
    }

    /// Stores the new place of an entry that was reallocated.
    pub(crate) fn set_entry(self, i: usize, entry: RawEntry) {
        assert!(i < self.len());
        self.set_word(i, entry.expose() | self.word(i) & LOW);
    }

    /// Takes an entry out; the last one takes its place.
    pub(crate) fn swap_remove(mut self, i: usize) -> RawEntry {
        let gone = self.entry(i);
        let last = self.len() - 1;
        if i != last {
            self.set_word(i, self.word(last));
            // SAFETY: both positions are below the capacity.
            unsafe { self.tags().add(i).write(self.tags().add(last).read()) };
        }
        self.header_mut().n -= 1;
        gone
    }

    /// Appends all entries of `other`, with their tag bits; there must be room.
    pub(crate) fn append(mut self, other: Seg) {
        let (n, m) = (self.len(), other.len());
        assert!(n + m <= self.cap());
        self.header_mut().n += m as u8;
        // SAFETY: both ranges are inside their allocations, which are distinct.
        unsafe {
            self.tags().add(n).copy_from_nonoverlapping(other.tags(), m);
            self.pointer_at(n).copy_from_nonoverlapping(other.pointer_at(0), 6 * m);
        }
        if other.may_expire() {
            self.set_may_expire(true);
        }
    }

    /// A copy in the smallest class with room for `room` entries; the original is freed.
    pub(crate) fn resized(self, room: usize) -> Seg {
        assert!(room >= self.len());
        let new = Seg::new(room, self.header().depth, self.stamp());
        new.append(self);
        // SAFETY: the caller puts the copy into the directory in place of the original.
        unsafe { self.free() };
        new
    }

    /// The segment's new place, if it stood in a span that is being emptied; the caller puts it into the directory.
    pub(crate) fn left_span(self) -> Option<Seg> {
        let size = self.bytes();
        // SAFETY: allocated with this size; the caller replaces the only pointers to it.
        unsafe { slab::is_leaving(self.0, size).then(|| Seg(slab::relocate(self.0, size))) }
    }

    /// The class below this one, as room to ask for, when the segment would be well within it.
    pub(crate) fn smaller_room(self) -> Option<usize> {
        let class = self.header().class as usize;
        // Hysteresis: five sixths, so that an insert after a shrink does not grow again at once.
        (class > 0 && self.len() <= CAPS[class - 1] * 5 / 6).then(|| CAPS[class - 1])
    }

    /// Asks the CPU for the line with the pointer that a look-up will read. Returns which entries have the tag of `hash`, as a
    /// bit mask.
    #[inline]
    pub(crate) fn prefetch_pointer(self, hash: u64) -> u64 {
        let matches = self.matches(hash);
        if matches != 0 {
            prefetch(self.pointer_at(matches.trailing_zeros() as usize));
        }
        matches
    }

    /// Asks the CPU for the entry that `hash` probably belongs to, among those that [`Seg::prefetch_pointer`] has found.
    #[inline]
    pub(crate) fn prefetch_entry(self, hash: u64, mut matches: u64) {
        while matches != 0 {
            let i = matches.trailing_zeros() as usize;
            if self.word(i) & LOW == low_bits(hash) {
                return self.entry(i).prefetch();
            }
            matches &= matches - 1;
        }
    }

    /// Asks the CPU for the head and tag lines.
    #[inline]
    pub(crate) fn prefetch(self) {
        prefetch(self.0.as_ptr());
        prefetch(self.0.as_ptr().wrapping_add(64));
    }
}

/// Whether two keys are equal. Those of usual lengths are compared without a call: as their first and last bytes.
#[inline]
pub fn is_same_key(a: &[u8], b: &[u8]) -> bool {
    fn ends<const N: usize>(key: &[u8]) -> Option<(&[u8; N], &[u8; N])> {
        Some((key.first_chunk()?, key.last_chunk()?))
    }
    a.len() == b.len()
        && match a.len() {
            8..=16 => ends::<8>(a) == ends::<8>(b),
            17..=32 => ends::<16>(a) == ends::<16>(b),
            _ => a == b,
        }
}

/// Asks the CPU for the line at `p`, which need not be a valid address.
#[inline]
pub(crate) fn prefetch(p: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = p;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Content;

    fn entry(i: usize) -> RawEntry {
        RawEntry::create(format!("key{i}").as_bytes(), Content::Str(b"v"), None, 0)
    }

    #[test]
    fn keys_are_the_same_when_all_their_bytes_are() {
        for len in 0..40 {
            let key: Vec<u8> = (0..len).collect();
            assert!(is_same_key(&key, &key.clone()));
            assert!(!is_same_key(&key, &[&key[..], b"x"].concat()));
            for at in 0..key.len() {
                let mut other = key.clone();
                other[at] ^= 1;
                assert!(!is_same_key(&key, &other), "byte {at} of {len}");
            }
        }
    }

    #[test]
    fn tags_and_low_bits_tell_entries_apart() {
        let mut seg = Seg::new(1, 0, 0);
        // All tags equal in the low eight bits for a third of the entries, so that candidates collide.
        let hash = |i: usize| (i as u64 % 3) | (i as u64 % 7) << 8;
        for i in 0..SEGMENT_MAX {
            if seg.is_full() {
                seg = seg.resized(i + 1);
            }
            seg.push(hash(i), entry(i));
            for j in 0..=i {
                let found = seg.find(hash(j), format!("key{j}").as_bytes());
                assert!(found == Some((j, seg.entry(j))));
            }
            assert!(seg.find(hash(i), b"other").is_none());
        }
        assert!(seg.is_full());
        while seg.len() > 0 {
            let e = seg.swap_remove(seg.len() / 2);
            // SAFETY: taken out of its only segment.
            unsafe { e.free() };
            if let Some(room) = seg.smaller_room() {
                seg = seg.resized(room);
            }
            for i in 0..seg.len() {
                let key = seg.entry(i).key();
                let n: usize = std::str::from_utf8(&key[3..]).unwrap().parse().unwrap();
                assert!(seg.find(hash(n), key) == Some((i, seg.entry(i))));
            }
        }
        assert_eq!(seg.bytes(), SIZES[0]);
        // SAFETY: empty and known to nobody else.
        unsafe { seg.free() };
    }
}
