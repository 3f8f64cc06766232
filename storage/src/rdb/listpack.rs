//! Listpacks, the packed lists inside RDB values since Redis 7.0.
//!
//! ```text
//! total u32 | count u16 | entries, each: encoding, data, length of both backwards | 0xFF
//! ```

use crate::set::{IntText, parse_int};

/// One entry of a packed encoding.
#[derive(Clone, Copy)]
pub(super) enum Item<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl Item<'_> {
    /// Calls `f` with the entry's bytes; an integer's are its decimal text.
    pub(super) fn with<R>(self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Item::Int(value) => f(&IntText::new(value)),
            Item::Bytes(bytes) => f(bytes),
        }
    }
}

const HEADER: usize = 6;
const END: u8 = 0xFF;

/// A listpack under construction.
pub(super) struct Writer {
    out: Vec<u8>,
    count: usize,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer { out: vec![0; HEADER], count: 0 }
    }
    /// Appends an entry, as an integer if its text is one.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        match parse_int(bytes) {
            Some(value) => self.push_int(value),
            None => self.push_bytes(bytes),
        }
    }
    pub(super) fn push_int(&mut self, value: i64) {
        let from = self.out.len();
        let le = value.to_le_bytes();
        match value {
            0..=127 => self.out.push(value as u8),
            -4096..=4095 => {
                let bits = (value & 0x1FFF) as u16;
                self.out.extend_from_slice(&[0xC0 | (bits >> 8) as u8, bits as u8]);
            }
            -32768..=32767 => self.tagged(0xF1, &le[..2]),
            -8_388_608..=8_388_607 => self.tagged(0xF2, &le[..3]),
            -2_147_483_648..=2_147_483_647 => self.tagged(0xF3, &le[..4]),
            _ => self.tagged(0xF4, &le),
        }
        self.end_entry(from);
    }
    fn push_bytes(&mut self, bytes: &[u8]) {
        let from = self.out.len();
        match bytes.len() {
            n @ 0..=63 => self.out.push(0x80 | n as u8),
            n @ 64..=4095 => self.out.extend_from_slice(&[0xE0 | (n >> 8) as u8, n as u8]),
            n => self.tagged(0xF0, &(n as u32).to_le_bytes()),
        }
        self.out.extend_from_slice(bytes);
        self.end_entry(from);
    }
    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        self.out.extend_from_slice(bytes);
    }
    fn end_entry(&mut self, from: usize) {
        let len = self.out.len() - from;
        let n = back_len(len);
        for i in (0..n).rev() {
            let bits = (len >> (7 * i)) as u8 & 127;
            self.out.push(if i == n - 1 { bits } else { bits | 128 });
        }
        self.count += 1;
    }
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.push(END);
        let total = self.out.len() as u32;
        self.out[..4].copy_from_slice(&total.to_le_bytes());
        // A count that does not fit is "unknown".
        let count = self.count.min(u16::MAX as usize) as u16;
        self.out[4..6].copy_from_slice(&count.to_le_bytes());
        self.out
    }
}

/// Bytes an entry's backward length takes.
fn back_len(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// Bytes a string entry of `len` bytes takes at most.
pub(super) fn entry_bytes(len: usize) -> usize {
    let head = match len {
        0..=63 => 1,
        64..=4095 => 2,
        _ => 5,
    };
    head + len + back_len(head + len)
}

/// Entries of a listpack; yields `Err` once and ends when the bytes are not one.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    seen: usize,
    count: usize,
    done: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Reader<'a>> {
        let total = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let count = u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?) as usize;
        (total == bytes.len()).then_some(Reader { bytes, at: HEADER, seen: 0, count, done: false })
    }

    /// The next entry; `Ok(None)` at the end.
    fn step(&mut self) -> Option<Option<Item<'a>>> {
        let from = self.at;
        let tag = *self.bytes.get(from)?;
        if tag == END {
            let whole =
                from + 1 == self.bytes.len() && (self.count == u16::MAX as usize || self.seen == self.count);
            return whole.then_some(None);
        }
        let data = |head: usize, len: usize| self.bytes.get(from + head..(from + head).checked_add(len)?);
        let (item, len) = match tag {
            0..=0x7F => (Item::Int(tag as i64), 1),
            0x80..=0xBF => {
                let len = (tag & 63) as usize;
                (Item::Bytes(data(1, len)?), 1 + len)
            }
            0xC0..=0xDF => {
                let bits = ((tag & 31) as i64) << 8 | data(1, 1)?[0] as i64;
                (Item::Int(if bits >= 4096 { bits - 8192 } else { bits }), 2)
            }
            0xE0..=0xEF => {
                let len = ((tag & 15) as usize) << 8 | data(1, 1)?[0] as usize;
                (Item::Bytes(data(2, len)?), 2 + len)
            }
            0xF0 => {
                let len = u32::from_le_bytes(data(1, 4)?.try_into().ok()?) as usize;
                (Item::Bytes(data(5, len)?), 5 + len)
            }
            0xF1 => (Item::Int(int(data(1, 2)?)), 3),
            0xF2 => (Item::Int(int(data(1, 3)?)), 4),
            0xF3 => (Item::Int(int(data(1, 4)?)), 5),
            0xF4 => (Item::Int(int(data(1, 8)?)), 9),
            _ => return None,
        };
        self.at = from + len + back_len(len);
        self.seen += 1;
        Some(Some(item))
    }
}

/// A little-endian signed integer of up to eight bytes.
pub(super) fn int(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let shift = 64 - 8 * bytes.len() as u32;
    (i64::from_le_bytes(wide) << shift) >> shift
}

impl<'a> Iterator for Reader<'a> {
    /// `None` inside: the bytes are not a listpack.
    type Item = Option<Item<'a>>;
    fn next(&mut self) -> Option<Option<Item<'a>>> {
        if self.done {
            return None;
        }
        match self.step() {
            Some(Some(item)) => Some(Some(item)),
            Some(None) => {
                self.done = true;
                None
            }
            None => {
                self.done = true;
                Some(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(entries: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut writer = Writer::new();
        entries.iter().for_each(|e| writer.push(e));
        let bytes = writer.finish();
        Reader::new(&bytes).unwrap().map(|item| item.unwrap().with(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn all_widths_of_integers_and_strings() {
        let mut entries: Vec<Vec<u8>> = Vec::new();
        for bits in 0..63 {
            for delta in [-1, 0, 1] {
                for sign in [1, -1] {
                    entries.push(((1i64 << bits) + delta).wrapping_mul(sign).to_string().into());
                }
            }
        }
        for len in [0, 1, 63, 64, 126, 127, 128, 4095, 4096, 16_380, 16_400, 70_000] {
            entries.push(vec![b'x'; len]);
        }
        entries.push(i64::MIN.to_string().into());
        assert_eq!(round_trip(&entries), entries);
    }

    proptest! {
        #[test]
        fn any_entries(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..60)) {
            prop_assert_eq!(round_trip(&entries), entries);
        }
        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 6..200)) {
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            prop_assert!(Reader::new(&bytes).unwrap().count() <= 200);
        }
    }
}
