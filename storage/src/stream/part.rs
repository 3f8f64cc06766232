//! Field names and values inside a block: integers and short strings with one byte of overhead or none.
//!
//! ```text
//! 0x00..0x7F  the integer itself          0x80..0xBF  string of 0 to 63 bytes
//! 0xC0..0xDF  integer of 13 bits, 2 bytes  0xE0..0xEF  string of up to 4095 bytes, 2 bytes of head
//! 0xF0        string, length in 4 bytes    0xF1..0xF4  integer of 2, 3, 4, 8 bytes
//! ```
//! Bytes are those of this module's own writing: reading them checks nothing but the slice's bounds.

use crate::set::{IntText, parse_int};

/// A field name or a value of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl Part<'_> {
    /// Calls `f` with the bytes; an integer's are its decimal text.
    pub fn with<R>(self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Part::Int(value) => f(&IntText::new(value)),
            Part::Bytes(bytes) => f(bytes),
        }
    }

    /// The bytes in an allocation of their own.
    pub fn to_vec(self) -> Vec<u8> {
        self.with(<[u8]>::to_vec)
    }
}

/// Appends a part, as an integer if its text is the canonical text of one.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    match parse_int(bytes) {
        Some(value) => put_int(out, value),
        None => put_bytes(out, bytes),
    }
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    let le = value.to_le_bytes();
    let (tag, width) = match value {
        0..=127 => return out.push(value as u8),
        -4096..=4095 => {
            let bits = (value & 0x1FFF) as u16;
            return out.extend_from_slice(&[0xC0 | (bits >> 8) as u8, bits as u8]);
        }
        -0x8000..=0x7FFF => (0xF1, 2),
        -0x80_0000..=0x7F_FFFF => (0xF2, 3),
        -0x8000_0000..=0x7FFF_FFFF => (0xF3, 4),
        _ => (0xF4, 8),
    };
    out.push(tag);
    out.extend_from_slice(&le[..width]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        n @ 0..=63 => out.push(0x80 | n as u8),
        n @ 64..=4095 => out.extend_from_slice(&[0xE0 | (n >> 8) as u8, n as u8]),
        n => {
            let n = u32::try_from(n).expect("callers bound an entry's bytes");
            out.push(0xF0);
            out.extend_from_slice(&n.to_le_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// Reads the part at `at`, which moves behind it.
#[inline]
pub(super) fn read<'a>(bytes: &'a [u8], at: &mut usize) -> Part<'a> {
    let (head, len, is_int) = shape(bytes, *at);
    let from = *at + head;
    *at = from + len;
    let data = &bytes[from..*at];
    if !is_int {
        return Part::Bytes(data);
    }
    Part::Int(match bytes[from - head] {
        tag @ 0..=0x7F => tag as i64,
        tag @ 0xC0..=0xDF => {
            let bits = ((tag & 31) as i64) << 8 | data[0] as i64;
            (bits << 51) >> 51
        }
        _ => {
            let mut wide = [0; 8];
            wide[..len].copy_from_slice(data);
            let shift = 64 - 8 * len as u32;
            (i64::from_le_bytes(wide) << shift) >> shift
        }
    })
}

/// Moves `at` behind the part that stands there.
#[inline]
pub(super) fn skip(bytes: &[u8], at: &mut usize) {
    let (head, len, _) = shape(bytes, *at);
    *at += head + len;
}

/// Bytes of head and of data of the part at `at`, and whether it is an integer.
#[inline]
fn shape(bytes: &[u8], at: usize) -> (usize, usize, bool) {
    match bytes[at] {
        0..=0x7F => (1, 0, true),
        tag @ 0x80..=0xBF => (1, (tag & 63) as usize, false),
        0xC0..=0xDF => (1, 1, true),
        tag @ 0xE0..=0xEF => (2, ((tag & 15) as usize) << 8 | bytes[at + 1] as usize, false),
        0xF0 => {
            let len: [u8; 4] = bytes[at + 1..at + 5].try_into().expect("four bytes");
            (5, u32::from_le_bytes(len) as usize, false)
        }
        0xF1 => (1, 2, true),
        0xF2 => (1, 3, true),
        0xF3 => (1, 4, true),
        0xF4 => (1, 8, true),
        tag => unreachable!("part of kind {tag}"),
    }
}

/// Appends a number, seven bits a byte, the lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads the number at `at`, which moves behind it.
#[inline]
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= ((byte & 0x7F) as u64) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_strings_of_all_widths() {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for bits in 0..63 {
            for delta in [-1, 0, 1] {
                for sign in [1, -1] {
                    texts.push(((1i64 << bits) + delta).wrapping_mul(sign).to_string().into());
                }
            }
        }
        texts.push(i64::MIN.to_string().into());
        texts.extend([0, 1, 63, 64, 4095, 4096, 70_000].map(|n| vec![b'x'; n]));
        texts.extend(["-0", "01", "1 ", "9223372036854775808"].map(|t| t.into()));
        let mut out = Vec::new();
        texts.iter().for_each(|t| put(&mut out, t));
        let (mut at, mut skipped) = (0, 0);
        for text in &texts {
            assert_eq!(&read(&out, &mut at).to_vec(), text);
            skip(&out, &mut skipped);
            assert_eq!(at, skipped);
        }
        assert_eq!(at, out.len());
    }

    #[test]
    fn small_integers_take_one_or_two_bytes() {
        for (text, bytes) in [("0", 1), ("127", 1), ("128", 2), ("-4096", 2), ("4096", 3), ("1000000", 4)] {
            let mut out = Vec::new();
            put(&mut out, text.as_bytes());
            assert_eq!(out.len(), bytes, "{text}");
        }
    }

    #[test]
    fn numbers_of_all_widths() {
        for value in [0, 1, 127, 128, 1 << 35, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut at = 0;
            assert_eq!((varint(&out, &mut at), at), (value, out.len()));
        }
    }
}
