//! The packed encodings of older versions: ziplist (until 6.2), zipmap (until 2.6), and intset.

use super::listpack::{Item, int};

/// Calls `each` for the entries of a ziplist; `None` when the bytes are not one.
///
/// `total u32 | tail u32 | count u16 | entries, each: length of the previous one, encoding, data | 0xFF`
pub(super) fn ziplist<'a>(bytes: &'a [u8], each: &mut dyn FnMut(Item<'a>) -> Option<()>) -> Option<()> {
    let total = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let count = u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?) as usize;
    if total != bytes.len() {
        return None;
    }
    let (mut at, mut seen) = (10, 0);
    loop {
        let previous = *bytes.get(at)?;
        if previous == 0xFF {
            return (at + 1 == bytes.len() && (count == u16::MAX as usize || count == seen)).then_some(());
        }
        at += if previous == 0xFE { 5 } else { 1 };
        let tag = *bytes.get(at)?;
        let data = |head: usize, len: usize| bytes.get(at + head..(at + head).checked_add(len)?);
        let (item, len) = match tag {
            0x00..=0x3F => (Item::Bytes(data(1, tag as usize)?), 1 + tag as usize),
            0x40..=0x7F => {
                let len = ((tag & 63) as usize) << 8 | data(1, 1)?[0] as usize;
                (Item::Bytes(data(2, len)?), 2 + len)
            }
            0x80 => {
                let len = u32::from_be_bytes(data(1, 4)?.try_into().ok()?) as usize;
                (Item::Bytes(data(5, len)?), 5 + len)
            }
            0xC0 => (Item::Int(int(data(1, 2)?)), 3),
            0xD0 => (Item::Int(int(data(1, 4)?)), 5),
            0xE0 => (Item::Int(int(data(1, 8)?)), 9),
            0xF0 => (Item::Int(int(data(1, 3)?)), 4),
            0xFE => (Item::Int(int(data(1, 1)?)), 2),
            0xF1..=0xFD => (Item::Int((tag & 15) as i64 - 1), 1),
            _ => return None,
        };
        at += len;
        seen += 1;
        each(item)?;
    }
}

/// Calls `each` for the fields of a zipmap; `None` when the bytes are not one.
///
/// `count u8 | pairs, each: length, field, length, unused u8, value, unused bytes | 0xFF`
pub(super) fn zipmap<'a>(
    bytes: &'a [u8],
    each: &mut dyn FnMut(&'a [u8], &'a [u8]) -> Option<()>,
) -> Option<()> {
    fn length(bytes: &[u8], at: &mut usize) -> Option<usize> {
        let first = *bytes.get(*at)?;
        *at += 1;
        match first {
            0..=253 => Some(first as usize),
            254 => {
                let len = u32::from_le_bytes(bytes.get(*at..*at + 4)?.try_into().ok()?) as usize;
                *at += 4;
                Some(len)
            }
            255 => None,
        }
    }
    let mut at = 1;
    while *bytes.get(at)? != 0xFF {
        let len = length(bytes, &mut at)?;
        let field = bytes.get(at..at.checked_add(len)?)?;
        at += len;
        let len = length(bytes, &mut at)?;
        let unused = *bytes.get(at)? as usize;
        at += 1;
        let value = bytes.get(at..at.checked_add(len)?)?;
        at += len + unused;
        each(field, value)?;
    }
    (at + 1 == bytes.len()).then_some(())
}

/// Calls `each` for the members of an intset; `None` when the bytes are not one.
///
/// `width u32 (2, 4 or 8) | count u32 | integers, ascending`
pub(super) fn intset(bytes: &[u8], each: &mut dyn FnMut(i64) -> Option<()>) -> Option<()> {
    let width = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let count = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    if !matches!(width, 2 | 4 | 8) || bytes.len() - 8 != count.checked_mul(width)? {
        return None;
    }
    let mut last = None;
    for chunk in bytes[8..].chunks_exact(width) {
        let value = int(chunk);
        if last.is_some_and(|last| last >= value) {
            return None;
        }
        last = Some(value);
        each(value)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ziplist_of_all_encodings() {
        // Entries: "hi", 12 (immediate), -5 (int8), 300 (int16), 2^23-1 (int24), 2^31-1 (int32), -2 (int64).
        let body: &[&[u8]] = &[
            &[0, 0x02, b'h', b'i'],
            &[4, 0xFD],
            &[2, 0xFE, 0xFB],
            &[3, 0xC0, 0x2C, 0x01],
            &[4, 0xF0, 0xFF, 0xFF, 0x7F],
            &[5, 0xD0, 0xFF, 0xFF, 0xFF, 0x7F],
            &[0xFE, 6, 0, 0, 0, 0xE0, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        ];
        let body = body.concat();
        let mut bytes = ((body.len() + 11) as u32).to_le_bytes().to_vec();
        bytes.extend([0, 0, 0, 0, 7, 0]);
        bytes.extend(&body);
        bytes.push(0xFF);
        let mut seen = Vec::new();
        let whole = ziplist(&bytes, &mut |item| {
            seen.push(item.with(|b| String::from_utf8(b.to_vec()).unwrap()));
            Some(())
        });
        assert!(whole.is_some());
        assert_eq!(seen, ["hi", "12", "-5", "300", "8388607", "2147483647", "-2"]);
    }

    #[test]
    fn a_zipmap_with_slack() {
        let bytes = [2, 1, b'a', 2, 1, b'x', b'y', 0, 0, b'c' - b'c', 0, 0xFF];
        let mut seen = Vec::new();
        // Field "a" -> "xy" with one unused byte, then the empty field -> the empty value.
        let whole = zipmap(&bytes, &mut |f, v| {
            seen.push((f.to_vec(), v.to_vec()));
            Some(())
        });
        assert!(whole.is_some());
        assert_eq!(seen, [(b"a".to_vec(), b"xy".to_vec()), (vec![], vec![])]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 10..200)) {
            let mut count = 0;
            let mut each = || { count += 1; Some(()) };
            zipmap(&bytes, &mut |_, _| each());
            intset(&bytes, &mut |_| each());
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            ziplist(&bytes, &mut |_| each());
            prop_assert!(count <= 600);
        }
    }
}
