//! The keyed hash of collection elements: that of keys, with a seed of each collection's own.
//!
//! The seed is secret to the process, so that clients cannot choose members that collide. The same seed gives the same
//! hash on every machine, which keeps iteration order reproducible.

use crate::keyhash::KeyHasher;

/// The hash of `bytes` under `seed`.
#[inline]
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const OTHER: u64 = 0x8cb9_2ba7_2f3d_8dd7;
    KeyHasher::new([seed, seed ^ OTHER]).hash(bytes)
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
