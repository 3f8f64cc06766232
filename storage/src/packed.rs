//! A sequence of byte strings in one allocation behind a thin pointer: small hashes and small sorted sets.
//!
//! `[count u32]`, then entries of `[length][bytes]` with 7-bit variable lengths. Walks go forward. Nothing is spare: the
//! allocation is of the class of what it holds.
//! Invariant: the bytes behind the count are exactly `count` well-formed entries.

use crate::thin::{Bytes, Small};

/// Bytes at which a packed form must give way to a big one, whatever the thresholds say: 1 GiB, as in Redis.
pub(crate) const PACKED_BYTES_MAX: usize = 1 << 30;

const HEADER: usize = 4;

/// Byte strings in a row, each addressed by its position: the byte offset of its entry.
#[derive(Default, Clone)]
#[repr(transparent)]
pub(crate) struct Packed(Bytes);

// SAFETY: transparent.
unsafe impl Small for Packed {
    fn leave_span(&mut self) {
        self.0.leave_span();
    }
    fn start(&self) -> *const u8 {
        self.0.start()
    }
}

impl Packed {
    /// Number of entries.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.get().first_chunk().map_or(0, |n| u32::from_le_bytes(*n) as usize)
    }

    /// Bytes of all entries with their lengths.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.0.len().saturating_sub(HEADER)
    }

    /// Bytes allocated.
    #[inline]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    #[inline]
    fn body(&self) -> &[u8] {
        self.0.get().get(HEADER..).unwrap_or(&[])
    }

    fn set_len(&mut self, count: usize) {
        self.0.get_mut()[..HEADER].copy_from_slice(&(count as u32).to_le_bytes());
    }

    /// All entries in order.
    #[inline]
    pub(crate) fn iter(&self) -> Iter<'_> {
        Iter { body: self.body(), at: 0 }
    }

    /// The entries from position `at` on.
    #[inline]
    pub(crate) fn iter_from(&self, at: usize) -> Iter<'_> {
        Iter { body: self.body(), at }
    }

    /// Position of entry `index`; `index == len()` is the position past the last.
    pub(crate) fn position(&self, index: usize) -> usize {
        assert!(index <= self.len());
        let mut iter = self.iter();
        for _ in 0..index {
            iter.next();
        }
        iter.at
    }

    /// Puts two entries at a position, before the one that stands there.
    pub(crate) fn insert_pair(&mut self, at: usize, first: &[u8], second: &[u8]) {
        assert!(at <= self.bytes());
        let count = self.len();
        let (one, two) = (entry_bytes(first.len()), entry_bytes(second.len()));
        let head = if count == 0 { HEADER } else { 0 };
        self.0.splice(if count == 0 { 0 } else { HEADER + at }, 0, head + one + two);
        let body = &mut self.0.get_mut()[HEADER + at..];
        write_entry(&mut body[..one], first);
        write_entry(&mut body[one..one + two], second);
        self.set_len(count + 2);
    }

    /// Removes the pair of entries at a position; both are there.
    pub(crate) fn remove_pair(&mut self, at: usize) {
        let count = self.len();
        if count <= 2 {
            *self = Packed::default();
            return;
        }
        let mut iter = self.iter_from(at);
        let both = (iter.next(), iter.next());
        assert!(both.1.is_some(), "a pair stands at the position");
        let end = iter.at;
        self.0.splice(HEADER + at, end - at, 0);
        self.set_len(count - 2);
    }

    /// Replaces the entry at a position.
    pub(crate) fn replace(&mut self, at: usize, bytes: &[u8]) {
        let mut iter = self.iter_from(at);
        let old = iter.next().map(<[u8]>::len).expect("an entry stands at the position");
        let (old_bytes, need) = (iter.at - at, entry_bytes(bytes.len()));
        if old != bytes.len() {
            self.0.splice(HEADER + at, old_bytes, need);
        }
        write_entry(&mut self.0.get_mut()[HEADER + at..HEADER + at + need], bytes);
    }
}

/// Entries of a `Packed` in order.
#[derive(Clone)]
pub(crate) struct Iter<'a> {
    body: &'a [u8],
    at: usize,
}

impl Iter<'_> {
    /// Position of the entry that `next` would yield.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Goes to a position of this sequence.
    pub(crate) fn go_to(&mut self, at: usize) {
        self.at = at;
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let first = *self.body.get(self.at)?;
        let (len, width) =
            if first < 0x80 { (first as usize, 1) } else { read_len(self.body[self.at..].iter()) };
        let from = self.at + width;
        self.at = from + len;
        Some(&self.body[from..self.at])
    }
}

/// Bytes an entry of `len` bytes occupies.
#[inline]
pub(crate) fn entry_bytes(len: usize) -> usize {
    len + len_width(len)
}

/// Bytes of the variable form of a length.
#[inline]
pub(crate) fn len_width(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

/// Writes a length into exactly [`len_width`] bytes.
#[inline]
fn write_len(to: &mut [u8], len: usize) {
    if let [only] = to {
        *only = len as u8;
        return;
    }
    let (mut left, width) = (len, to.len());
    for (i, byte) in to.iter_mut().enumerate() {
        *byte = (left & 0x7f) as u8 | if i + 1 < width { 0x80 } else { 0 };
        left >>= 7;
    }
}

/// Writes an entry into exactly [`entry_bytes`] bytes.
#[inline]
pub(crate) fn write_entry(to: &mut [u8], bytes: &[u8]) {
    let (head, body) = to.split_at_mut(len_width(bytes.len()));
    write_len(head, bytes.len());
    body.copy_from_slice(bytes);
}

/// Reads a length and its width; the bytes were written by [`write_len`].
#[inline(never)] // inlined it takes registers from the loops around it
pub(crate) fn read_len<'a>(bytes: impl Iterator<Item = &'a u8>) -> (usize, usize) {
    let (mut len, mut width) = (0, 0);
    for byte in bytes.take(5) {
        len |= ((byte & 0x7f) as usize) << (7 * width);
        width += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (len, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::class_size;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(usize, usize, usize),
        Remove(usize),
        Replace(usize, usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let size = prop_oneof![0..10usize, 120..135usize, Just(20_000usize)];
        let op = prop_oneof![
            3 => (any::<usize>(), size.clone(), size.clone()).prop_map(|(i, s, t)| Op::Insert(i, s, t)),
            1 => any::<usize>().prop_map(Op::Remove),
            2 => (any::<usize>(), size).prop_map(|(i, s)| Op::Replace(i, s)),
        ];
        prop::collection::vec(op, 1..60)
    }

    proptest! {
        #[test]
        fn behaves_as_a_vec(ops in ops()) {
            let mut packed = Packed::default();
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                let text = |size: usize| vec![n as u8; size];
                match op {
                    Op::Insert(i, s, t) => {
                        let i = i % (model.len() / 2 + 1) * 2;
                        packed.insert_pair(packed.position(i), &text(s), &text(t));
                        model.splice(i..i, [text(s), text(t)]);
                    }
                    Op::Remove(i) if !model.is_empty() => {
                        let i = i % (model.len() / 2) * 2;
                        packed.remove_pair(packed.position(i));
                        model.drain(i..i + 2);
                    }
                    Op::Replace(i, s) if !model.is_empty() => {
                        let i = i % model.len();
                        packed.replace(packed.position(i), &text(s));
                        model[i] = text(s);
                    }
                    _ => {}
                }
                prop_assert_eq!(packed.len(), model.len());
                prop_assert!(packed.iter().eq(model.iter()));
                let bytes: usize = model.iter().map(|m| entry_bytes(m.len())).sum();
                prop_assert_eq!(packed.bytes(), bytes);
                let held = if model.is_empty() { 0 } else { class_size(8 + bytes) };
                prop_assert_eq!(packed.heap_bytes(), held);
            }
        }
    }
}
