//! The keyed 64-bit hash of the keyspace: folded 64x64 -> 128 bit multiplication over 16-byte steps, the family of
//! wyhash and rapidhash. The 128-bit key makes collisions unpredictable to clients; it is no cryptographic hash.
//!
//! Tables use the top bits to choose a segment and the low eleven as tag, so both ends must be well mixed: the
//! last step is a full folded multiplication.

/// A keyed hash function; the same key gives the same hashes in every process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHasher {
    a: u64,
    b: u64,
}

impl KeyHasher {
    pub const fn new(seed: [u64; 2]) -> KeyHasher {
        // Odd constants keep an all-zero seed usable (tests, simulations).
        KeyHasher { a: seed[0] ^ 0x9E37_79B9_7F4A_7C15, b: seed[1] ^ 0xD1B5_4A32_D192_ED03 }
    }

    /// Hash of `bytes`.
    #[inline(always)] // of a usual key it is hardly more than a call
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let len = bytes.len();
        let mut state = self.a;
        let (x, y) = if len <= 16 {
            if len >= 8 {
                (read8(bytes, 0), read8(bytes, len - 8))
            } else if len >= 4 {
                (read4(bytes, 0), read4(bytes, len - 4))
            } else if len > 0 {
                let mixed = (bytes[0] as u64) << 16 | (bytes[len / 2] as u64) << 8 | bytes[len - 1] as u64;
                (mixed, 0)
            } else {
                (0, 0)
            }
        } else {
            let mut at = 0;
            while len - at > 16 {
                state = fold(read8(bytes, at) ^ self.b, read8(bytes, at + 8) ^ state);
                at += 16;
            }
            (read8(bytes, len - 16), read8(bytes, len - 8))
        };
        fold(self.b ^ len as u64, fold(x ^ self.b, y ^ state) ^ state)
    }
}

#[inline]
fn fold(x: u64, y: u64) -> u64 {
    let product = (x as u128).wrapping_mul(y as u128);
    product as u64 ^ (product >> 64) as u64
}
#[inline]
fn read8(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
#[inline]
fn read4(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn equal_keys_hash_equally_and_seeds_matter() {
        let (h, g) = (KeyHasher::new([1, 2]), KeyHasher::new([1, 3]));
        for len in 0..100 {
            let key = vec![7u8; len];
            assert_eq!(h.hash(&key), h.hash(&key.clone()));
            assert_ne!(h.hash(&key), g.hash(&key));
        }
    }

    #[test]
    fn both_ends_are_spread() {
        let h = KeyHasher::new([0, 0]);
        let (mut top, mut low, mut all) = ([0u32; 256], [0u32; 256], BTreeSet::new());
        for i in 0..65536u32 {
            let x = h.hash(format!("key:{i:012}").as_bytes());
            top[(x >> 56) as usize] += 1;
            low[(x & 255) as usize] += 1;
            all.insert(x);
        }
        assert_eq!(all.len(), 65536);
        // Mean 256, standard deviation 16: six of them.
        assert!(top.iter().chain(&low).all(|&n| (160..352).contains(&n)));
    }

    #[test]
    fn every_byte_counts() {
        let h = KeyHasher::new([5, 6]);
        for len in 1..80 {
            let key = vec![0u8; len];
            for at in 0..len {
                let mut other = key.clone();
                other[at] = 1;
                assert_ne!(h.hash(&key), h.hash(&other), "byte {at} of {len}");
            }
        }
    }
}
