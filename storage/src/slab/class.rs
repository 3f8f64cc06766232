//! Size classes: of the slab up to 4 KiB, of jemalloc above.
//!
//! Steps of 4 bytes up to 64, of 8 to 256, of 16 to 512, then 16 a doubling. Between 64 and 128 bytes the step is 8 so that
//! objects straddle no more cache lines than they must.

/// Largest object of the slab, in bytes.
pub const SMALL_MAX: usize = 4096;
/// Smallest object, in bytes.
const SMALL_MIN: usize = 8;

/// Number of classes of the slab.
pub(super) const CLASSES: usize = 103;

/// Bytes an allocation of `n` bytes takes. At least 8.
#[inline]
pub const fn class_size(n: usize) -> usize {
    if n <= SMALL_MIN {
        SMALL_MIN
    } else if n <= 64 {
        (n + 3) & !3
    } else if n <= 256 {
        (n + 7) & !7
    } else if n <= SMALL_MAX {
        let step = 1usize << ((n - 1).ilog2() - 4);
        (n + step - 1) & !(step - 1)
    } else {
        let step = 1usize << ((n - 1).ilog2() - 2);
        (n + step - 1) & !(step - 1)
    }
}

/// The class of an object of `n` bytes, at most [`SMALL_MAX`].
#[inline]
pub(super) const fn class_of(n: usize) -> usize {
    debug_assert!(n <= SMALL_MAX);
    if n <= SMALL_MIN {
        0
    } else if n <= 64 {
        n.div_ceil(4) - 2
    } else if n <= 256 {
        15 + n.div_ceil(8) - 9
    } else {
        // 257..=512 is the first doubling of sixteen.
        let log = (n - 1).ilog2();
        39 + ((log - 8) as usize) * 16 + ((n - 1) >> (log - 4)) - 16
    }
}

/// Sizes by class.
pub(super) const SIZES: [u16; CLASSES] = {
    let mut sizes = [0u16; CLASSES];
    let mut n = 1;
    while n <= SMALL_MAX {
        sizes[class_of(n)] = class_size(n) as u16;
        n += 1;
    }
    sizes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_sizes_agree() {
        let mut last = 0;
        for n in 1..=SMALL_MAX {
            let class = class_of(n);
            assert_eq!(SIZES[class] as usize, class_size(n), "{n} bytes");
            assert!(class_size(n) >= n && (class == last || class == last + 1));
            assert!(class_size(n).is_multiple_of(4) && class_size(n) - n <= 8.max(n / 8));
            last = class;
        }
        assert_eq!((last, class_of(1)), (CLASSES - 1, 0));
    }

    #[test]
    fn classes_above_are_those_of_jemalloc() {
        assert_eq!([4097, 5120, 5121, 20_000].map(class_size), [5120, 5120, 6144, 20_480]);
    }
}
