//! LZF (Marc Lehmann's LibLZF format), as RDB compresses strings.
//!
//! ```text
//! 000LLLLL <L+1 bytes>               L+1 literal bytes
//! LLLooooo oooooooo                  copy L+2 bytes from o+1 bytes back, L = 1..=6
//! 111ooooo LLLLLLLL oooooooo         copy L+9 bytes from o+1 bytes back
//! ```

const LITERALS_MAX: usize = 32;
const OFFSET_MAX: usize = 1 << 13;
const MATCH_MAX: usize = 264;

/// Compresses, or returns `None` when that would not save at least four bytes. Input below 4 GiB.
pub fn compress(input: &[u8]) -> Option<Vec<u8>> {
    // The table of positions is cleared for each string, so short ones get a small one.
    match input.len() {
        0..=8 => None,
        9..=256 => compress_with::<8>(input),
        257..=4096 => compress_with::<11>(input),
        _ if input.len() < u32::MAX as usize => compress_with::<13>(input),
        _ => None,
    }
}

fn compress_with<const HASH_BITS: u32>(input: &[u8]) -> Option<Vec<u8>> {
    let limit = input.len() - 4;
    let mut out = Vec::with_capacity(input.len());
    let mut table = [0u32; 1 << 13];
    let table = &mut table[..1 << HASH_BITS];
    let (mut at, mut literals) = (0, 0);
    while at + 2 < input.len() {
        let three = u32::from_le_bytes([input[at], input[at + 1], input[at + 2], 0]);
        let hash = (three.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize;
        // Positions are stored plus one; zero is none.
        let candidate = std::mem::replace(&mut table[hash], at as u32 + 1) as usize;
        if candidate > 0 {
            let from = candidate - 1;
            if at - from <= OFFSET_MAX && input[from..from + 3] == input[at..at + 3] {
                let most = MATCH_MAX.min(input.len() - at);
                let len = (3..most).find(|&i| input[from + i] != input[at + i]).unwrap_or(most);
                put_literals(&mut out, &input[literals..at]);
                put_match(&mut out, at - from - 1, len);
                if out.len() > limit {
                    return None;
                }
                at += len;
                literals = at;
                continue;
            }
        }
        at += 1;
    }
    put_literals(&mut out, &input[literals..]);
    (out.len() <= limit).then_some(out)
}

fn put_literals(out: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunks(LITERALS_MAX) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

fn put_match(out: &mut Vec<u8>, offset: usize, len: usize) {
    let len = len - 2;
    if len < 7 {
        out.push((len << 5 | offset >> 8) as u8);
    } else {
        out.push((7 << 5 | offset >> 8) as u8);
        out.push((len - 7) as u8);
    }
    out.push(offset as u8);
}

/// Decompresses to exactly `len` bytes; `None` for anything else. Never reserves more than the input can expand to.
pub fn decompress(input: &[u8], len: usize) -> Option<Vec<u8>> {
    // The longest copy makes 264 bytes of three.
    if len > input.len().checked_mul(MATCH_MAX / 3)? {
        return None;
    }
    let mut out = Vec::with_capacity(len);
    let mut at = 0;
    while at < input.len() {
        let control = input[at] as usize;
        at += 1;
        if control < LITERALS_MAX {
            let run = input.get(at..at + control + 1)?;
            at += run.len();
            out.extend_from_slice(run);
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += *input.get(at)? as usize;
                at += 1;
            }
            let back = ((control & 31) << 8 | *input.get(at)? as usize) + 1;
            at += 1;
            let from = out.len().checked_sub(back)?;
            if out.len() + count + 2 > len {
                return None;
            }
            // The copy may overlap what it writes.
            for i in from..from + count + 2 {
                out.push(out[i]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repetition_shrinks_and_noise_is_refused() {
        let text = b"abcabcabcabcabcabcabcabcabcabc".repeat(100);
        let small = compress(&text).unwrap();
        assert!(small.len() < 60);
        assert_eq!(decompress(&small, text.len()).unwrap(), text);
        let noise: Vec<u8> = (0..100u32).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
        assert_eq!(compress(&noise), None);
        assert_eq!(decompress(&small, usize::MAX), None);
    }

    proptest! {
        #[test]
        fn round_trip(words in prop::collection::vec(prop::sample::select(vec![&b"a"[..], b"bcd", b"\0\0\0\0", b"xyzzy!", b"0123456789"]), 0..400)) {
            let text = words.concat();
            if let Some(small) = compress(&text) {
                prop_assert_eq!(decompress(&small, text.len()).unwrap(), text);
            }
        }
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0..2000usize) {
            if let Some(out) = decompress(&bytes, len) {
                prop_assert_eq!(out.len(), len);
            }
        }
    }
}
