//! The keyed hash of collection elements: 16 bytes at a time, folded by a 64 x 64 -> 128 bit multiplication.
//!
//! The key is secret to the process, so that clients cannot choose members that collide. The same seed gives the same
//! hash on every machine (bytes are read little-endian), which keeps iteration order reproducible.

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd1b5_4a32_d192_ed03;
const K2: u64 = 0x8cb9_2ba7_2f3d_8dd7;

/// The hash of `bytes` under `seed`.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = fold(seed ^ K0, K1 ^ bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        state = fold(word(&chunk[..8]) ^ K1 ^ state, word(&chunk[8..]) ^ K2 ^ seed);
    }
    let rest = chunks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    state = fold(word(low) ^ K2 ^ state, word(high) ^ K0 ^ seed);
    fold(state ^ K1, K0)
}

/// Up to eight bytes as a little-endian number.
fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(all) => u64::from_le_bytes(*all),
        None => bytes.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)),
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::hash;
    use std::collections::BTreeSet;

    #[test]
    fn seed_length_and_every_byte_count() {
        let base = hash(1, b"the quick brown fox jumps over");
        assert_ne!(base, hash(2, b"the quick brown fox jumps over"));
        assert_ne!(hash(1, b"a"), hash(1, b"a\0"));
        let mut text = *b"the quick brown fox jumps over";
        for i in 0..text.len() {
            text[i] ^= 1;
            assert_ne!(base, hash(1, &text), "byte {i}");
            text[i] ^= 1;
        }
    }

    #[test]
    fn top_and_low_bits_spread() {
        let (mut top, mut low) = (BTreeSet::new(), BTreeSet::new());
        for i in 0..4096 {
            let h = hash(7, format!("member:{i}").as_bytes());
            top.insert(h >> 48);
            low.insert(h as u16);
        }
        // 4096 draws from 65536 leave about 3971 distinct values.
        assert!(top.len() > 3900 && low.len() > 3900, "{} {}", top.len(), low.len());
    }
}
