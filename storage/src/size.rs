//! Allocation size classes: jemalloc's table with an 8-byte quantum (four classes per doubling above 64 bytes).
//!
//! Everything the keyspace allocates is rounded up to its class first, so that accounting is what the allocator
//! really takes, and overwriting in place is possible whenever the class stays the same.

use std::alloc::Layout;

/// Bytes an allocation of `n` bytes takes. At least 8.
#[inline]
pub const fn class_size(n: usize) -> usize {
    if n <= 8 {
        8
    } else if n <= 64 {
        (n + 7) & !7
    } else {
        let step = 1usize << ((n - 1).ilog2() - 2);
        (n + step - 1) & !(step - 1)
    }
}

/// Layout of an allocation of `n` bytes, rounded up to its class, aligned to 8.
#[inline]
pub(crate) fn class_layout(n: usize) -> Layout {
    Layout::from_size_align(class_size(n), 8).expect("an allocation below isize::MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_jemalloc() {
        let expect =
            [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640];
        let mut last = 0;
        for class in expect {
            for n in last + 1..=class {
                assert_eq!(class_size(n), class, "{n} bytes");
            }
            last = class;
        }
        assert_eq!(class_size(1048), 1280);
    }
}
